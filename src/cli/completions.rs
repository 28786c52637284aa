//! `completions`: prints the completion script of a shell, made from the definitions of the command line.

use clap::{Args, ValueHint};
use clap_complete::Shell;

use super::{Exit, Output, help};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "bash|zsh|fish|powershell|elvish")]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, output: &Output) -> anyhow::Result<Exit> {
    let mut command = help::command().mut_subcommands(|command| {
        command.mut_args(
            |arg| match arg.get_long().map(|option| candidates(args.shell, option)) {
                Some(Some(values)) => arg.value_parser([values]).value_hint(ValueHint::Unknown),
                _ => arg,
            },
        )
    });
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut command,
        env!("CARGO_PKG_NAME"),
        &mut script,
    );
    output.result(&String::from_utf8(script)?);
    Ok(Exit::Done)
}

/// The values of `--base` and `--only` as an expression that prints them: the stable part of the generator knows only fixed
/// values, and these shells evaluate them.
fn candidates(shell: Shell, option: &str) -> Option<String> {
    if !matches!(option, "base" | "only") {
        return None;
    }
    let print = format!("calry-gitops candidates {option}");
    match shell {
        Shell::Bash => Some(format!("$({print} \"${{COMP_WORDS[@]}}\" 2>/dev/null)")),
        Shell::Zsh => Some(format!("${{(f)\"$({print} $words 2>/dev/null)\"}}")),
        Shell::Fish => Some(format!("({print} (commandline -opc) 2>/dev/null)")),
        _ => None,
    }
}
