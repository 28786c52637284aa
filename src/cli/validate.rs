//! `validate`: the files, offline. It opens no socket and needs no key and no secret.

use clap::Args;

use super::options::FileArgs;
use super::{Exit, Output};
use crate::model::{Catalogue, Severity};
use crate::pass::Failure;
use crate::repo;

#[derive(Args)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    files: FileArgs,
}

pub(super) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<Exit> {
    let FileArgs { definitions, only, strict } = &args.files;
    let shown = definitions.display().to_string();
    let mut loaded = match repo::load(definitions) {
        Ok(loaded) => loaded,
        Err(error) => {
            output.error(&error.to_string());
            return Ok(Exit::Failed);
        }
    };
    if !only.is_empty() {
        if let Some(provider) = loaded.first_without_file(only) {
            output.error(&Failure::NoFile(provider.clone()).to_string());
            return Ok(Exit::Invalid);
        }
        loaded.keep_only(only);
    }
    loaded.check(&Catalogue::Reference);
    if *strict {
        loaded.deny_warnings();
    }
    let files = loaded.files.len();
    output.diagnostics(&loaded.diagnostics, &shown, files);
    if loaded.has_errors() {
        return Ok(Exit::Invalid);
    }
    let warnings = loaded.diagnostics.iter().filter(|d| d.severity == Severity::Warning).count();
    let noun = if files == 1 { "definition is" } else { "definitions are" };
    let warned = match warnings {
        0 => String::new(),
        1 => ", with 1 warning".to_owned(),
        n => format!(", with {n} warnings"),
    };
    output.result(&format!("{shown}: {files} {noun} valid{warned}\n"));
    Ok(Exit::Done)
}
