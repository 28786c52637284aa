//! `completions`: what a shell completes, made from the same definitions as the command line itself.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Exit, Output};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// Whose script; `source <(calry-gitops completions bash)` tries it in a running bash
    #[arg(
        value_enum,
        hide_possible_values = true,
        value_name = "bash|zsh|fish|powershell|elvish"
    )]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, output: &Output) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        env!("CARGO_PKG_NAME"),
        &mut script,
    );
    output.result(&String::from_utf8(script)?);
    Ok(Exit::Done)
}
