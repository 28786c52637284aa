//! `schema`: the JSON Schema of a definition file, for editors. It reads nothing.

use clap::{Args, ValueEnum};

use super::{Exit, Output};
use crate::repo;

#[derive(Args)]
pub(super) struct SchemaArgs {
    /// Of which file: a definition file, or workspace.yaml
    #[arg(value_enum, default_value_t = File::Definition, hide_possible_values = true, value_name = "definition|workspace")]
    file: File,
}

#[derive(Clone, Copy, ValueEnum)]
enum File {
    Definition,
    Workspace,
}

pub(super) fn run(args: &SchemaArgs, output: &Output) -> Exit {
    output.result(&match args.file {
        File::Definition => repo::definition_schema(),
        File::Workspace => repo::workspace_schema(),
    });
    Exit::Done
}
