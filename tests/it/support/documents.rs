//! Documents that name tests: their tables, and the tests that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::repository;

/// The rows of all tables of a page, without heads and lines, as cells.
pub(crate) fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: &str| line.starts_with("| ---");
    let mut rows = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let head = lines.get(at + 1).is_some_and(|next| is_rule(next));
        if !head && !is_rule(line) {
            let cells = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |"));
            rows.extend(cells.map(|cells| cells.split(" | ").collect()));
        }
    }
    rows
}

/// The code spans of a text.
pub(crate) fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Every file below a directory with this extension.
pub(crate) fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The names of the tests of a file, in their order.
pub(crate) fn tests_of(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name = line.strip_prefix("async ").unwrap_or(line);
        if let Some(name) = name.strip_prefix("fn ")
            && std::mem::take(&mut is_test)
        {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
            names.push(name[..end.unwrap()].to_owned());
        }
    }
    names
}

/// Every test as `module::name`: `threats::it_…` of this binary, `live::pace::…` of the crate.
pub(crate) fn tests() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for root in ["tests/it", "src"].map(|root| repository().join(root)) {
        for file in files(&root, "rs") {
            let path = file.strip_prefix(&root).unwrap().with_extension("");
            let module = path.to_str().unwrap().replace('/', "::");
            let module = module.strip_suffix("::mod").unwrap_or(&module);
            // The tests of `a.rs` may be in `a/tests.rs`.
            let module = module.strip_suffix("::tests").unwrap_or(module);
            let names = tests_of(&file);
            all.extend(names.into_iter().map(|name| format!("{module}::{name}")));
        }
    }
    all
}

/// Whether a script has a case: `tests/push.sh`, or `tests/git-sync.sh::the words of its case`. The words may be in a file of the
/// directory of its name.
pub(crate) fn is_script(name: &str) -> bool {
    let (script, case) = name.split_once("::").unwrap_or((name, ""));
    let script = repository().join(script);
    let directory = script.with_extension("");
    let mut texts = vec![script.clone()];
    if directory.is_dir() {
        texts.extend(["py", "sh"].iter().flat_map(|it| files(&directory, it)));
    }
    script.is_file()
        && texts
            .iter()
            .any(|text| std::fs::read_to_string(text).unwrap().contains(case))
}
