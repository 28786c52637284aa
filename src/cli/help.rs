//! What the help and the manual show beside the options: examples, exit codes and the variables of the network.

use std::fmt::Write as _;

use clap::builder::Styles;
use clap::{Command, CommandFactory as _};

use super::{Cli, Exit};

/// The examples of a command, or of the program as a whole: the purpose, and a command line to copy. None of a hidden
/// command.
pub(super) fn examples(command: &str) -> &'static [(&'static str, &'static str)] {
    match command {
        "calry-gitops" => &[
            (
                "Try it without an account, on a local Calry: import, then start the daemon",
                "calry-gitops pull --sandbox",
            ),
            ("", "calry-gitops run --sandbox"),
            (
                "Write the definition files of your workspace",
                "calry-gitops pull --api-key-file calry.key",
            ),
            (
                "Show what your edits would change, then change it",
                "calry-gitops plan --api-key-file calry.key",
            ),
            ("", "calry-gitops apply --api-key-file calry.key"),
        ],
        "validate" => &[
            (
                "Check the files in the directory definitions",
                "calry-gitops validate",
            ),
            (
                "Check one file, and fail on warnings as well",
                "calry-gitops validate --only HOSTAWAY --strict",
            ),
            (
                "Check all workspaces of a repository",
                "calry-gitops validate -d production -d staging",
            ),
            (
                "Show the problems in a pull request on GitHub",
                "calry-gitops validate --format github",
            ),
        ],
        "plan" => &[
            (
                "Show what apply would change",
                "calry-gitops plan --api-key-file calry.key --secrets-dir secrets",
            ),
            (
                "Save the plan, to review it and apply exactly this one",
                "calry-gitops plan --out calry.plan",
            ),
            (
                "In a pull request: this branch's changes, against a snapshot, as a comment",
                "calry-gitops plan --base origin/main --live live.json --format markdown",
            ),
            (
                "Exit with 2 if Calry and the files differ",
                "calry-gitops plan --detailed-exitcode",
            ),
        ],
        "apply" => &[
            (
                "Show the plan, ask, then apply it",
                "calry-gitops apply --api-key-file calry.key --secrets-dir secrets",
            ),
            (
                "Apply a plan that plan --out saved",
                "calry-gitops apply --plan calry.plan",
            ),
            (
                "In a script: no prompt, and no more than five providers",
                "calry-gitops apply --yes --max-changes 5",
            ),
        ],
        "run" => &[
            (
                "After pull --sandbox, without an account; the page is http://127.0.0.1:8080/",
                "calry-gitops run --sandbox",
            ),
            (
                "Report drift, and write nothing",
                "calry-gitops run --mode observe --api-key-file calry.key",
            ),
            (
                "Apply the files; more than five changed providers need an approval",
                "calry-gitops run --max-changes 5 --api-key-file calry.key",
            ),
            (
                "Fetch the definitions from git, without a checkout",
                "calry-gitops run --git-url https://git.example.com/acme/defs.git",
            ),
            (
                "Check a configuration file with several workspaces",
                "calry-gitops run --config calry.yaml --print-config",
            ),
        ],
        "snapshot" => &[
            (
                "Save the live state, for plan --live",
                "calry-gitops snapshot --api-key-file calry.key > live.json",
            ),
            (
                "With fingerprints, so that plans also compare partner keys",
                "calry-gitops snapshot --fingerprint-key-file fingerprint.key > live.json",
            ),
        ],
        "pull" => &[
            (
                "Write a file for each provider of the workspace",
                "calry-gitops pull --api-key-file calry.key",
            ),
            (
                "Show what would be written",
                "calry-gitops pull --dry-run --api-key-file calry.key",
            ),
            (
                "Keep a change that was made in Calry: one field of one provider",
                "calry-gitops pull --only HOSTAWAY --fields listing.pictures",
            ),
        ],
        "status" => &[
            (
                "Show the status of the daemon on this machine",
                "calry-gitops status",
            ),
            (
                "Follow one of several workspaces",
                "calry-gitops status --workspace acme-production --watch",
            ),
            (
                "Print the status of another machine as JSON",
                "calry-gitops status --address https://calry.example.com --format json",
            ),
        ],
        "encrypt" => &[
            (
                "Encrypt a secret; the value is asked for",
                "calry-gitops encrypt hostaway-api-key",
            ),
            (
                "Take the value from another program",
                "pass calry/hostaway | calry-gitops encrypt hostaway-api-key",
            ),
            (
                "After a change of secretRecipients in workspace.yaml",
                "calry-gitops encrypt --again --age-identity-file identity.txt",
            ),
        ],
        "restore" => &[
            (
                "Print the times of the backups of a provider",
                "calry-gitops restore HOSTAWAY --list --backup-dir backups",
            ),
            (
                "Put the definition back as it was before the last update",
                "calry-gitops restore HOSTAWAY --backup-dir backups --age-identity-file key.txt",
            ),
            (
                "Take the one of noon (the directory and the key are in variables)",
                "calry-gitops restore HOSTAWAY --at 2026-11-29T12:00:00Z",
            ),
            (
                "Put the provider on hold until Friday, so that git does not undo it",
                "calry-gitops restore HOSTAWAY --hold-until 2026-12-04 --reason OPS-114",
            ),
        ],
        "history" => &[
            (
                "Show what the daemon did and found",
                "calry-gitops history --state-dir state",
            ),
            (
                "Everything about one provider in the last week, as JSON",
                "calry-gitops history --state-dir s --provider GUESTY --since 7d --format json",
            ),
        ],
        "sandbox" => &[
            (
                "Run a local Calry; it prints its address, its keys and a first request",
                "calry-gitops sandbox",
            ),
            (
                "Slow answers, of which one in ten fails",
                "calry-gitops sandbox --latency 200ms --fail 0.1",
            ),
        ],
        "schema" => &[
            (
                "Let editors check and complete the definition files",
                "calry-gitops schema > definitions/definition.schema.json",
            ),
            (
                "The same, with the providers and fields of your workspace",
                "calry-gitops schema --from-live > definitions/definition.schema.json",
            ),
            (
                "The schema of the configuration file of run",
                "calry-gitops schema config > config.schema.json",
            ),
        ],
        "completions" => &[
            (
                "Try the completion in a running bash",
                "source <(calry-gitops completions bash)",
            ),
            (
                "Install it for fish",
                "calry-gitops completions fish > ~/.config/fish/completions/calry-gitops.fish",
            ),
        ],
        _ => &[],
    }
}

/// Every exit code of the commands but `status`.
pub(super) const EXITS: &[(Exit, &str)] = &[
    (Exit::Done, "done, or in sync"),
    (
        Exit::Failed,
        "something failed: network, authorization, an update, a refused plan",
    ),
    (
        Exit::Pending,
        "changes are pending (only plan --detailed-exitcode)",
    ),
    (
        Exit::Invalid,
        "the definitions are invalid, or name an unknown provider",
    ),
    (
        Exit::Usage,
        "the command line, or the configuration file of run, is wrong",
    ),
];

const STATUS_EXITS: &[(Exit, &str)] = &[
    (
        Exit::Done,
        "in sync, or what differs is on hold, only observed or being applied",
    ),
    (
        Exit::Failed,
        "no answer from the daemon, its last reconciliation failed or was refused,\n      \
         git could not be fetched for two minutes, an update failed or did not\n      \
         converge, or a definition is invalid or not known to the workspace",
    ),
    (Exit::Usage, "the command line is wrong"),
];

/// The exit codes of a command, with their meanings.
pub(super) fn exits(command: &str) -> &'static [(Exit, &'static str)] {
    if command == "status" {
        STATUS_EXITS
    } else {
        EXITS
    }
}

/// The environment variables of the network. No option sets them.
pub(super) const NETWORK: [(&str, &str); 4] = [
    (
        "HTTPS_PROXY, ALL_PROXY",
        "the proxy for https, as http://user:password@host:port",
    ),
    (
        "NO_PROXY",
        "hosts, domains and networks that are reached without it",
    ),
    (
        "SSL_CERT_FILE",
        "a PEM file of the CA certificates to trust, in place of the system's",
    ),
    ("SSL_CERT_DIR", "directories of such files"),
];

/// The same in short, for the help of each command that connects to Calry.
const NETWORK_IN_SHORT: [(&str, &str); 2] = [
    (
        "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        "the proxy, and the hosts that are reached without it",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "the CA certificates to trust, in place of the system's",
    ),
];

pub(super) fn connects(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|arg| arg.get_long() == Some("api-url"))
}

/// The command line with everything that its help shows.
pub(super) fn command() -> Command {
    // The help of an option names its values, and a variable may hold a secret.
    let main = Cli::command()
        .hide_possible_values(true)
        .mut_args(|arg| arg.hide_env_values(true));
    let after = section("Exit codes", &by_number(EXITS)) + "\n" + &section("Environment", &NETWORK);
    with_examples(main)
        .after_help(after)
        .mut_subcommands(|command| {
            let command = with_examples(command).mut_args(|arg| arg.hide_env_values(true));
            if command.get_name() == "status" {
                command.after_help(section("Exit codes", &by_number(STATUS_EXITS)))
            } else if connects(&command) {
                command.after_help(section("Environment", &NETWORK_IN_SHORT))
            } else {
                command
            }
        })
}

/// Shows the examples first: after the usage, before the options.
fn with_examples(command: Command) -> Command {
    let examples = examples(command.get_name());
    if examples.is_empty() {
        return command;
    }
    let header = *Styles::styled().get_header();
    let mut text = format!("{header}Examples:{header:#}\n");
    for (purpose, line) in examples {
        if !purpose.is_empty() {
            let _ = writeln!(text, "  # {purpose}");
        }
        let _ = writeln!(text, "  {line}");
    }
    command.help_template(format!(
        "{{before-help}}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}\n{{all-args}}{{after-help}}"
    ))
}

fn by_number(exits: &[(Exit, &'static str)]) -> Vec<(String, &'static str)> {
    exits
        .iter()
        .map(|(exit, meaning)| ((*exit as u8).to_string(), *meaning))
        .collect()
}

/// Terms with their meanings, below a heading.
fn section(heading: &str, rows: &[(impl AsRef<str>, &str)]) -> String {
    let header = *Styles::styled().get_header();
    let width = rows.iter().map(|(term, _)| term.as_ref().len()).max();
    let width = width.unwrap_or(0);
    rows.iter().fold(
        format!("{header}{heading}:{header:#}\n"),
        |text, (term, meaning)| format!("{text}  {:<width$}  {meaning}\n", term.as_ref()),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn every_command_has_examples_that_its_command_line_accepts() {
        let mut main = command();
        main.build();
        let visible = main
            .get_subcommands()
            .filter(|command| !command.is_hide_set() && command.get_name() != "help");
        for command in std::iter::once(&main).chain(visible) {
            let examples = examples(command.get_name());
            assert!(
                (2..=5).contains(&examples.len()),
                "{}: {} examples",
                command.get_name(),
                examples.len()
            );
            for (purpose, line) in examples {
                assert!(
                    line.len() <= 78 && purpose.len() <= 76,
                    "{line} is too long"
                );
                let (_, called) = line.split_once("calry-gitops").unwrap();
                let (called, _) = called.split_once(['>', ')']).unwrap_or((called, ""));
                let parsed = Cli::try_parse_from(
                    std::iter::once("calry-gitops").chain(called.split_whitespace()),
                );
                if let Err(error) = parsed {
                    panic!("{line}: {error}");
                }
                let called = called.split_whitespace().next();
                assert!(
                    command.get_name() == "calry-gitops" || called == Some(command.get_name()),
                    "{line} is not an example of {}",
                    command.get_name()
                );
            }
        }
    }
}
