//! `validate`: checks the definition files offline.
//!
//! Never: open a socket, or need a key or a secret.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};
use glob::MatchOptions;

use super::options::{ProviderParser, definitions_directory, repository_path};
use super::{Exit, Output, UsageError, config};
use crate::desired::definitions::{Loaded, Loader, Purpose};
use crate::model::{Diagnostic, Provider, Severity, printable};
use crate::reconcile::{self, Failure};
use crate::render::{github, sarif};
use crate::report::links::path_from_root;
use crate::report::plan;
use crate::report::words::{counted, plural};

#[derive(Args)]
pub(super) struct ValidateArgs {
    /// How problems are printed
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "text|json|github|sarif")]
    format: Format,
    /// Directory of the definition files, or a pattern such as 'workspaces/*'. Repeatable, for several workspaces
    #[arg(
        short,
        long,
        env = "CALRY_DEFINITIONS",
        default_value = "definitions",
        value_parser = Directories::parse,
        value_hint = ValueHint::DirPath,
        value_name = "DIR",
        help_heading = "Definitions"
    )]
    definitions: Vec<Directories>,
    /// Check the definitions of each workspace that this configuration file of the daemon names
    #[arg(
        long,
        conflicts_with = "definitions",
        value_name = "FILE",
        help_heading = "Definitions"
    )]
    config: Option<PathBuf>,
    /// Only this provider, in upper or lower case; the errors of other files are ignored. Repeatable
    #[arg(long, value_parser = ProviderParser, value_name = "PROVIDER", help_heading = "Definitions")]
    only: Vec<Provider>,
    /// Treat warnings as errors
    #[arg(long, help_heading = "Definitions")]
    strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Github,
    Sarif,
}

/// Directories that one argument names.
#[derive(Clone)]
struct Directories(Vec<PathBuf>);

impl Directories {
    /// A path that exists is that path, whatever characters it has.
    fn parse(text: &str) -> Result<Self, String> {
        if !text.contains(['*', '?', '[']) || Path::new(text).exists() {
            return definitions_directory(text).map(|path| Self(vec![path]));
        }
        let options = MatchOptions {
            require_literal_leading_dot: true,
            ..MatchOptions::new()
        };
        let found = glob::glob_with(text, options).map_err(|error| error.to_string())?;
        let found = found.map(|path| path.map_err(|error| error.to_string()));
        let found: Vec<PathBuf> = found.collect::<Result<_, _>>()?;
        let found: Vec<_> = found.into_iter().filter(|path| path.is_dir()).collect();
        if found.is_empty() {
            return Err("no directory has such a name".to_owned());
        }
        Ok(Self(found))
    }

    /// The directories of a configuration file.
    fn parse_all(file: &Path, named: &[String]) -> Result<Vec<Self>, UsageError> {
        let file = printable(&file.display().to_string());
        if named.is_empty() {
            return Err(UsageError(format!(
                "{file} names no directory of definitions (`definitions`)"
            )));
        }
        let parse = |text: &String| {
            let sentence = |why| UsageError(format!("{file}: {}: {why}", printable(text)));
            Self::parse(text).map_err(sentence)
        };
        named.iter().map(parse).collect()
    }
}

/// What was found in all directories together.
#[derive(Default)]
struct Checked {
    problems: Vec<Diagnostic>,
    files: usize,
    /// A line for each directory whose definitions are valid.
    valid: String,
    /// For each directory that could not be read, why.
    failures: Vec<Failure>,
}

impl Checked {
    fn add(&mut self, loaded: Loaded, shown: &str, path: impl Fn(&str) -> String) {
        let files = loaded.files.len();
        self.files += files;
        if !loaded.has_errors() {
            let is_warning = |d: &&Diagnostic| d.severity == Severity::Warning;
            let warnings = loaded.diagnostics.iter().filter(is_warning).count();
            let warnings = plural(warnings, "warning", "warnings")
                .map_or_else(String::new, |warnings| format!(", with {warnings}"));
            let are = counted(files, "definition is", "definitions are");
            self.valid
                .push_str(&format!("{shown}: {are} valid{warnings}\n"));
        }
        let problems = loaded.diagnostics.into_iter();
        self.problems.extend(problems.map(|problem| Diagnostic {
            file: path(&problem.file),
            ..problem
        }));
    }

    fn exit(&self) -> Exit {
        let is_invalid = self.problems.iter().any(|d| d.severity == Severity::Error);
        let failures = self.failures.iter().map(Exit::from);
        failures.fold(Exit::Invalid.when(is_invalid), Exit::or)
    }
}

pub(super) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<Exit> {
    let named = match &args.config {
        None => args.definitions.clone(),
        Some(file) => match config::definitions(file) {
            Ok(named) => Directories::parse_all(file, &named)?,
            Err(error) => return Ok(error.report(output)),
        },
    };
    let mut directories: Vec<&Path> = Vec::new();
    for directory in named.iter().flat_map(|named| &named.0) {
        if !directories.contains(&directory.as_path()) {
            directories.push(directory);
        }
    }
    let root = |directory: &Path| match args.format {
        Format::Text | Format::Json => directory.display().to_string(),
        Format::Github | Format::Sarif => repository_path(directory),
    };
    // In one directory a file has its name, and otherwise its path.
    let only = match directories[..] {
        [only] => Some(only),
        _ => None,
    };
    let mut checked = Checked::default();
    for directory in directories {
        let shown = printable(&directory.display().to_string());
        match args.load(directory) {
            Ok(loaded) => checked.add(loaded, &shown, |file| match only {
                Some(_) => file.to_owned(),
                None => path_from_root(&root(directory), file),
            }),
            Err(failure) => checked.failures.push(failure),
        }
    }
    if only.is_none() {
        // A shared file has the same problem in each workspace.
        let mut seen = HashSet::new();
        checked
            .problems
            .retain(|problem| seen.insert(problem.clone()));
    }
    let Checked {
        problems, files, ..
    } = &checked;
    let shown = only.map_or_else(String::new, |only| printable(&only.display().to_string()));
    let root = only.map_or_else(String::new, root);
    output.diagnostics(problems, &shown, *files);
    let failures: Vec<String> = checked.failures.iter().map(ToString::to_string).collect();
    let failure = (!failures.is_empty()).then(|| failures.join("; "));
    match (args.format, &failure) {
        (Format::Text, _) => output.result(&checked.valid),
        (Format::Json, None) => output.result(&plan::diagnostics(problems, *files)),
        (Format::Json, Some(failure)) => output.result(&plan::failure(failure, problems)),
        // A line that is no workflow command is shown in the job's log.
        (Format::Github, _) => {
            let failure = failure.as_deref().map(github::failure).unwrap_or_default();
            let problems = github::diagnostics(problems, &root);
            output.result(&(failure + &problems + &checked.valid));
        }
        (Format::Sarif, None) => output.result(&sarif::diagnostics(problems, &root)),
        (Format::Sarif, Some(failure)) => output.result(&sarif::failure(failure)),
    }
    for failure in &failures {
        output.error(failure);
    }
    Ok(checked.exit())
}

impl ValidateArgs {
    fn load(&self, directory: &Path) -> Result<Loaded, Failure> {
        let loader = Loader {
            only: &self.only,
            today: reconcile::today(),
            purpose: Purpose::Check {
                strict: self.strict,
            },
        };
        Ok(loader.load(directory)?)
    }
}
