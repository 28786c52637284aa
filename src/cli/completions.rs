//! `completions`: prints the completion script of a shell, made from the definitions of the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Exit, Output};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell
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
    output.result(&with_candidates(args.shell, &String::from_utf8(script)?));
    Ok(Exit::Done)
}

/// Makes `--base` and `--only` offer the output of `candidates`. The stable part of the generator supports only values that
/// are known when the script is generated.
fn with_candidates(shell: Shell, script: &str) -> String {
    let mut out = String::with_capacity(script.len() + 2048);
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        match (shell, line.trim()) {
            (Shell::Bash, case @ ("--base)" | "--only)")) => {
                let option = case.trim_start_matches('-').trim_end_matches(')');
                out.push_str(&format!(
                    "{line}\n                    COMPREPLY=($(compgen -W \"$(calry-gitops candidates {option} \
                     \"${{COMP_WORDS[@]}}\" 2>/dev/null)\" -- \"${{cur}}\"))\n"
                ));
                // Skips the generated lines up to their `return`.
                for skipped in lines.by_ref() {
                    if skipped.trim() == "return 0" {
                        out.push_str(&format!("{skipped}\n"));
                        break;
                    }
                }
                continue;
            }
            (Shell::Zsh, text) if text.contains("--base=[") || text.contains("--only=[") => {
                let option = if text.contains("--base=[") {
                    "base"
                } else {
                    "only"
                };
                if let Some(at) = line.rfind(']') {
                    let (head, _) = line.split_at(at + 1);
                    let name = if option == "base" {
                        "REVISION"
                    } else {
                        "PROVIDER"
                    };
                    out.push_str(&format!(
                        "{head}:{name}:{{compadd -- ${{(f)\"$(calry-gitops candidates {option} $words 2>/dev/null)\"}}}}' \\\n"
                    ));
                    continue;
                }
            }
            _ => {}
        }
        out.push_str(line);
        out.push('\n');
    }
    if shell == Shell::Fish {
        let main = Cli::command();
        let takes = |command: &clap::Command, option: &str| {
            command
                .get_arguments()
                .any(|arg| arg.get_long() == Some(option))
        };
        for option in ["base", "only"] {
            for command in main
                .get_subcommands()
                .filter(|command| takes(command, option))
            {
                let command = command.get_name();
                out.push_str(&format!(
                    "complete -c calry-gitops -n \"__fish_calry_gitops_using_subcommand {command}\" -l {option} -r -f \
                     -a '(calry-gitops candidates {option} (commandline -opc) 2>/dev/null)'\n"
                ));
            }
        }
    }
    out
}
