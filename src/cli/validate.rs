//! `validate`: checks the definition files offline.
//!
//! Never: open a socket, or need a key or a secret.

use clap::{Args, ValueEnum};

use super::options::{FileArgs, repository_path};
use super::{Exit, Output};
use crate::desired::definitions::{Loaded, Loader, Purpose};
use crate::model::{Severity, printable};
use crate::reconcile::{self, Failure};
use crate::render::{github, sarif};
use crate::report::plan;
use crate::report::words::{counted, plural};

#[derive(Args)]
pub(super) struct ValidateArgs {
    /// How problems are printed
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "text|json|github|sarif")]
    format: Format,
    // Last, because its help heading also applies to every argument after it.
    #[command(flatten)]
    files: FileArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Github,
    Sarif,
}

pub(super) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<Exit> {
    let definitions = &args.files.definitions;
    let shown = printable(&definitions.display().to_string());
    let loaded = match load(&args.files) {
        Ok(loaded) => loaded,
        Err(failure) => {
            let sentence = failure.to_string();
            match args.format {
                Format::Text => {}
                Format::Json => output.result(&plan::failure(&sentence, &[])),
                Format::Github => output.result(&github::failure(&sentence)),
                Format::Sarif => output.result(&sarif::failure(&sentence)),
            }
            output.error(&sentence);
            return Ok(Exit::from(&failure));
        }
    };
    let (problems, files) = (&loaded.diagnostics, loaded.files.len());
    output.diagnostics(problems, &shown, files);
    let are = counted(files, "definition is", "definitions are");
    let warnings = problems.iter().filter(|d| d.severity == Severity::Warning);
    let warnings = plural(warnings.count(), "warning", "warnings")
        .map_or_else(String::new, |warnings| format!(", with {warnings}"));
    let valid = if loaded.has_errors() {
        String::new()
    } else {
        format!("{shown}: {are} valid{warnings}\n")
    };
    match args.format {
        Format::Text => output.result(&valid),
        Format::Json => output.result(&plan::diagnostics(problems, files)),
        // A line that is no workflow command is shown in the job's log.
        Format::Github => {
            output.result(&(github::diagnostics(problems, &repository_path(definitions)) + &valid))
        }
        Format::Sarif => {
            output.result(&sarif::diagnostics(problems, &repository_path(definitions)))
        }
    }
    Ok(Exit::Invalid.when(loaded.has_errors()))
}

fn load(
    FileArgs {
        definitions,
        only,
        strict,
    }: &FileArgs,
) -> Result<Loaded, Failure> {
    let loader = Loader {
        only,
        today: reconcile::today(),
        purpose: Purpose::Check { strict: *strict },
    };
    Ok(loader.load(definitions)?)
}
