//! `schema`: the JSON Schema of a definition file, or another file that people write, for editors. It reads nothing.

use clap::{Args, ValueEnum};

use super::{Exit, Output, config};
use crate::repo;

#[derive(Args)]
pub(super) struct SchemaArgs {
    /// Of which file: a definition file, workspace.yaml, or the configuration file of run
    #[arg(value_enum, default_value_t = File::Definition, hide_possible_values = true, value_name = "definition|workspace|config")]
    file: File,
}

#[derive(Clone, Copy, ValueEnum)]
enum File {
    Definition,
    Workspace,
    Config,
}

pub(super) fn run(args: &SchemaArgs, output: &Output) -> Exit {
    output.result(&match args.file {
        File::Definition => repo::definition_schema(),
        File::Workspace => repo::workspace_schema(),
        File::Config => config::schema(),
    });
    Exit::Done
}
