//! The import table in the documentation of `src/lib.rs`, checked against the code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

type Module = Vec<String>;

/// Each module of the table with the modules that it may import; `None` if that is every module.
struct Table(BTreeMap<Module, Option<Vec<Module>>>);

impl Table {
    fn parse(documentation: &str) -> Self {
        let rows = documentation
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"));
        let names = |cell: &str| -> Vec<Module> {
            cell.split('`').skip(1).step_by(2).map(module).collect()
        };
        let row = |row: &str| {
            let (modules, imports) = row.split_once(" | ").expect("two columns");
            let imports = (!imports.starts_with("everything")).then(|| names(imports));
            names(&format!("`{modules}"))
                .into_iter()
                .map(|name| (name, imports.clone()))
                .collect::<Vec<_>>()
        };
        Self(rows.flat_map(row).collect())
    }

    /// The row of a module: its own, or that of the nearest module around it.
    fn row(&self, module: &[String]) -> Option<&Module> {
        (1..=module.len())
            .rev()
            .find_map(|length| Some(self.0.get_key_value(&module[..length])?.0))
    }

    fn allows(&self, importer: &Module, imported: &[String]) -> bool {
        let row = self.row(imported);
        row == Some(importer)
            || match &self.0[importer] {
                None => true,
                Some(allowed) => {
                    row.is_some_and(|row| allowed.iter().any(|name| row.starts_with(name)))
                }
            }
    }
}

/// The paths that a file names, from the root of the crate.
struct Imports {
    module: Module,
    found: Vec<Module>,
}

impl Imports {
    fn of(module: Module, text: &str) -> Vec<Module> {
        let mut imports = Self {
            module,
            found: Vec::new(),
        };
        imports.visit_file(&syn::parse_file(text).expect("Rust"));
        imports.found
    }

    fn add(&mut self, path: &[String]) {
        let (mut from, mut rest) = match path.split_first() {
            Some((first, rest)) if first == "crate" => (Vec::new(), rest),
            Some((first, rest)) if first == "self" => (self.module.clone(), rest),
            Some((first, _)) if first == "super" => (self.module.clone(), path),
            _ => return,
        };
        while rest.first().is_some_and(|name| name == "super") {
            from.pop();
            rest = &rest[1..];
        }
        self.found
            .push(from.into_iter().chain(rest.iter().cloned()).collect());
    }

    fn add_tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        let with = |name: &syn::Ident| {
            prefix
                .iter()
                .cloned()
                .chain([name.to_string()])
                .collect::<Vec<_>>()
        };
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(prefix),
            syn::UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|item| self.add_tree(item, prefix)),
        }
    }

    /// The arguments of a macro are tokens to the parser.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Module = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.add(&std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.add(&std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add(&path);
    }
}

impl Visit<'_> for Imports {
    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.add_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.add(
            &path
                .segments
                .iter()
                .map(|segment| segment.ident.to_string())
                .collect::<Vec<_>>(),
        );
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &syn::Macro) {
        self.add_tokens(item.tokens.clone());
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }
}

fn module(path: &str) -> Module {
    path.split("::").map(str::to_owned).collect()
}

/// `src/plan/diff.rs` is `plan::diff`, and `src/plan/mod.rs` is `plan`.
fn module_of(file: &Path) -> Module {
    let path = file.with_extension("");
    let mut module: Module = path
        .iter()
        .skip(1)
        .map(|part| part.to_str().expect("UTF-8").to_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

fn rust_files(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What a file imports although the table does not allow it, and the number of its imports.
fn violations(table: &Table, file: &Path, text: &str) -> (Vec<String>, usize) {
    let module = module_of(file);
    // A module without a row, such as a folder of modules, may import nothing.
    let row = table.row(&module);
    let imports = Imports::of(module.clone(), text);
    let is_allowed = |imported: &Module| row.is_some_and(|row| table.allows(row, imported));
    let forbidden = imports
        .iter()
        .filter(|imported| table.row(imported).is_some() && !is_allowed(imported));
    let forbidden = forbidden.map(|imported| {
        format!(
            "{}: `{}` must not import `{}`",
            file.display(),
            module.join("::"),
            imported.join("::")
        )
    });
    (forbidden.collect(), imports.len())
}

/// The permissions of the table that no file uses.
fn needless(table: &Table, files: &[(PathBuf, String)]) -> Vec<String> {
    let mut unused: Vec<(&Module, &Module)> = table
        .0
        .iter()
        .flat_map(|(row, allowed)| allowed.iter().flatten().map(move |name| (row, name)))
        .collect();
    for (file, text) in files {
        let module = module_of(file);
        let imports = Imports::of(module.clone(), text);
        let used: Vec<&Module> = imports.iter().filter_map(|path| table.row(path)).collect();
        unused.retain(|(row, name)| {
            table.row(&module) != Some(row) || !used.iter().any(|used| used.starts_with(name))
        });
    }
    let named = |(row, name): (&Module, &Module)| {
        format!("`{}` imports no `{}`", row.join("::"), name.join("::"))
    };
    unused.into_iter().map(named).collect()
}

fn table() -> Table {
    Table::parse(&std::fs::read_to_string("src/lib.rs").unwrap())
}

#[test]
fn every_import_is_in_the_table() {
    let table = table();
    assert!(table.0.len() >= 13, "the table was not found");
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    files.retain(|file| {
        !["src/lib.rs", "src/main.rs"]
            .iter()
            .any(|root| file == Path::new(root))
    });
    let texts: Vec<_> = files
        .iter()
        .map(|file| (file.clone(), std::fs::read_to_string(file).unwrap()))
        .collect();
    let checked = texts
        .iter()
        .map(|(file, text)| violations(&table, file, text));
    let (wrong, counts): (Vec<_>, Vec<_>) = checked.unzip();
    assert!(
        counts.iter().sum::<usize>() > 1000,
        "too few imports were found"
    );
    assert!(wrong.iter().all(Vec::is_empty), "{:#?}", wrong.concat());
    assert_eq!(needless(&table, &texts), [""; 0]);
    for module in table.0.keys() {
        let has_file = files.iter().any(|file| module_of(file).starts_with(module));
        assert!(
            has_file,
            "`{}` is in the table and has no file",
            module.join("::")
        );
    }
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    let table = table();
    let count = |file: &str, text: &str| violations(&table, Path::new(file), text).0.len();
    for text in [
        "use crate::cli;",
        "use crate::cli::Output;",
        "use crate::{model::Provider, cli::{self, Output as Printer}};",
        "use crate::{model::{Provider, Secret}, ops::{admin::*}};",
        "use super::super::daemon::Handle;",
        "fn f() { crate::daemon::log::record(); }",
        "fn f() -> crate::render::Layout { todo!() }",
        "fn f() { assert_eq!(crate::daemon::MAX, vec![1]); }",
        "mod tests { use super::super::super::daemon::Handle; }",
        "pub(in crate::cli) struct Visible;",
        "impl crate::daemon::Observer for X {}",
        "use self::super::super::daemon::Handle;",
    ] {
        assert!(count("src/plan/diff.rs", text) >= 1, "{text}");
    }
    for text in [
        "use crate::model::Provider;",
        "use super::{Change, digest::Digest};",
        "mod tests { use super::*; use super::super::Change; }",
        "use std::{fmt, cli::x};",
        "fn f() { let cli = daemon::x(); println!(\"crate::cli {cli}\"); }",
        "/// See [`crate::cli`].\nstruct Documented;",
    ] {
        assert_eq!(count("src/plan/diff.rs", text), 0, "{text}");
    }
    assert_eq!(
        count("src/daemon/mod.rs", "use crate::ops::kubernetes::Lease;"),
        1
    );
    assert_eq!(
        count("src/cli/run.rs", "use crate::ops::kubernetes::Lease;"),
        0
    );
}

#[test]
fn only_one_module_knows_the_yaml_reader_and_only_the_model_exposes_secrets_to_few() {
    let mut files = Vec::new();
    rust_files(Path::new("src"), &mut files);
    let naming = |word: &str| -> Vec<String> {
        files
            .iter()
            .filter(|f| std::fs::read_to_string(f).unwrap().contains(word))
            .map(|f| f.display().to_string())
            .collect()
    };
    assert_eq!(
        naming("serde_saphyr::"),
        ["src/desired/definitions/yaml.rs"]
    );
    for file in naming(".expose()") {
        // The state file module writes the fingerprint key that this program generated.
        let may = [
            "src/model/",
            "src/http/",
            "src/live/",
            "src/desired/",
            "src/ops/notifications/post.rs",
            "src/daemon/state_file.rs",
        ];
        assert!(
            may.iter().any(|module| file.starts_with(module)),
            "{file} exposes secrets"
        );
    }
}
