//! The command line: one file per command, and the exit codes that all of them share.
//!
//! Never: decide what changes, or show text that was not made safe to show.

mod apply;
mod candidates;
mod cluster;
mod completions;
mod config;
mod encrypt;
mod git_args;
mod help;
mod history;
mod listener;
mod log_queue;
mod man;
mod options;
mod output;
mod plan;
mod progress;
mod pull;
mod restore;
mod run;
mod run_args;
mod sandbox;
mod schema;
mod signals;
mod snapshot;
mod status;
mod status_client;
mod usage;
mod validate;

use std::io::Write as _;
use std::panic::Location;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{FromArgMatches, Parser, Subcommand};

use crate::model::Diagnostic;
use crate::reconcile::Failure;
use crate::reconcile::backups::AT_ONCE;
use config::Defaults;
use output::{Output, OutputArgs};
use run_args::RunArgs;
use usage::UsageError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// Done, or in sync.
    Done = 0,
    /// A failure of the network, authorization or an update, a refused plan, a wrong workspace.
    Failed = 1,
    /// Changes are pending (`plan --detailed-exitcode`).
    Pending = 2,
    /// The definitions are invalid, or name a provider that the workspace does not have.
    Invalid = 3,
    /// The command line, or the configuration file, is wrong.
    Usage = 64,
}

impl Exit {
    /// This exit under a condition, else `Done`.
    const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::Done }
    }

    /// The more severe of two exits.
    const fn or(self, other: Self) -> Self {
        if self.severity() >= other.severity() {
            self
        } else {
            other
        }
    }

    const fn severity(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Pending => 1,
            Self::Invalid => 2,
            Self::Failed => 3,
            Self::Usage => 4,
        }
    }
}

impl From<&Failure> for Exit {
    fn from(failure: &Failure) -> Self {
        if failure.is_invalid_definitions() {
            Self::Invalid
        } else {
            Self::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Keeps the integration definitions of a Calry workspace equal to a directory of YAML files in git.
#[derive(Parser)]
#[command(
    version,
    long_version = long_version(),
    // Of one flag given twice the last wins, so that a manifest can add to what another one renders.
    args_override_self = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Check the definition files, offline, without any key or secret
    Validate(validate::ValidateArgs),
    /// Show what would change; changes nothing
    Plan(plan::PlanArgs),
    /// Apply the definitions: plan, confirm, update, verify
    Apply(apply::ApplyArgs),
    /// Run the daemon: keep the workspace equal to the files
    Run(Box<RunArgs>),
    /// Print the live state without its secrets, to plan against without an API key
    Snapshot(snapshot::SnapshotArgs),
    /// Write definition files from the live state; changes nothing in Calry
    Pull(pull::PullArgs),
    /// Encrypt a secret in git, to the recipients of workspace.yaml
    Encrypt(encrypt::EncryptArgs),
    /// Put a definition back as it was before an update, from a backup
    Restore(Box<restore::RestoreArgs>),
    /// Show the status of a running daemon
    Status(status::StatusArgs),
    /// Print what happened to the workspaces of a daemon
    History(history::HistoryArgs),
    /// Run a local Calry, for trials, demos and tests
    Sandbox(sandbox::SandboxArgs),
    /// Print the JSON Schema of the definition files, for editors
    Schema(schema::SchemaArgs),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
    /// Print the values of an option, for completion scripts
    #[command(hide = true)]
    Candidates(candidates::CandidatesArgs),
    /// Print the manual, for packages
    #[command(hide = true)]
    Man(man::ManArgs),
}

/// The version for `--version`, with the commit if the build names it. `deploy/release/archive.sh` and the image do.
fn long_version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("CALRY_GITOPS_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("{version} ({commit})"),
        _ => version.to_owned(),
    }
}

/// The problems of the text of a configuration file, as `run --config` reports them. `name` is its path.
#[must_use]
pub fn configuration_problems(name: &str, text: String) -> Vec<Diagnostic> {
    config::problems(name, text)
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        // The caller reports it as an error of the read.
        if std::thread::current().name() == Some(crate::desired::git::GIT_THREAD) {
            return;
        }
        let fault = panic_message(info.location());
        // The log of a daemon is read by machines, which cannot parse a line of another form.
        if tracing::event_enabled!(tracing::Level::ERROR) {
            tracing::error!("{fault}");
        } else {
            let _ = writeln!(std::io::stderr(), "error: {fault}");
        }
    }));
    let none = Defaults::new();
    let parsed = command(&none)
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed.map_err(|error| error.format(&mut command(&none))) {
        Ok(cli) => cli,
        Err(mut error) => {
            usage::suggest_option(&mut error);
            usage::mask_words(&mut error);
            usage::print_parse_error(&error);
            return Exit::Usage.when(error.use_stderr()).into();
        }
    };
    let Cli { command, output } = cli;
    match command {
        Command::Validate(args) => once(&output, |output| validate::run(&args, output)),
        Command::Plan(args) => once(&output, |output| block_on(plan::run(&args, output))),
        Command::Apply(args) => once(&output, |output| block_on(apply::run(&args, output))),
        Command::Run(args) => run_daemon(&args, &output),
        Command::Snapshot(args) => once(&output, |output| block_on(snapshot::run(&args, output))),
        Command::Pull(args) => once(&output, |output| block_on(pull::run(&args, output))),
        Command::Encrypt(args) => once(&output, |output| encrypt::run(&args, output)),
        Command::Restore(args) => once(&output, |output| block_on(restore::run(&args, output))),
        Command::Status(args) => once(&output, |output| block_on(status::run(&args, output))),
        Command::History(args) => once(&output, |output| history::run(&args, output)),
        Command::Sandbox(args) => {
            let output = Output::new(&output, true);
            exit_code(block_on(sandbox::run(&args, &output)), &output)
        }
        Command::Schema(args) => once(&output, |output| block_on(schema::run(&args, output))),
        Command::Completions(args) => once(&output, |output| completions::run(&args, output)),
        Command::Candidates(args) => once(&output, |output| Ok(candidates::run(&args, output))),
        Command::Man(args) => once(&output, |output| man::run(&args, output)),
    }
}

fn once(args: &OutputArgs, run: impl FnOnce(&Output) -> anyhow::Result<Exit>) -> ExitCode {
    let output = Output::new(args, false);
    exit_code(run(&output), &output)
}

fn run_daemon(args: &RunArgs, output: &OutputArgs) -> ExitCode {
    match config::load(args.config.as_deref()) {
        Ok(configuration) => {
            let output = Output::new(&configuration.output, true);
            let running = run::run(&configuration, &output);
            let result = block_on_workspaces(configuration.workspaces.len(), running);
            exit_code(result, &output)
        }
        Err(error) => error.report(&Output::new(output, true)).into(),
    }
}

/// Whether a person answers a question with "yes". Blocks until a line was read.
fn read_yes() -> std::io::Result<bool> {
    Ok(read_answer()?.eq_ignore_ascii_case("yes"))
}

/// A line of standard input. It may block.
fn read_answer() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Prints why a command failed, if it did, and returns the exit code of the process.
fn exit_code(result: anyhow::Result<Exit>, output: &Output) -> ExitCode {
    if let Some(error) = output.write_error() {
        output.error(&format!(
            "the result cannot be written to standard output: {error}"
        ));
    }
    match result {
        Ok(_) if output.write_error().is_some() => Exit::Failed.into(),
        Ok(exit) => exit.into(),
        Err(error) => match error.downcast::<UsageError>() {
            Ok(usage) => {
                output.flush();
                usage.print();
                Exit::Usage.into()
            }
            Err(error) => {
                output.error(&format!("{error:#}"));
                Exit::Failed.into()
            }
        },
    }
}

/// The command line, with values below its flags and variables. A variable that is empty counts as unset: manifests set
/// optional variables to nothing.
fn command(defaults: &Defaults) -> clap::Command {
    fn without_empty_variables(command: clap::Command) -> clap::Command {
        let empty = |arg: &clap::Arg| {
            arg.get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.is_empty())
        };
        command
            .mut_args(|arg| {
                if empty(&arg) {
                    arg.env(Resettable::Reset)
                } else {
                    arg
                }
            })
            .mut_subcommands(without_empty_variables)
    }
    without_empty_variables(config::with_defaults(help::command(), defaults))
}

/// The message of a panic: its place alone. Its own message may quote a secret.
fn panic_message(location: Option<&Location<'_>>) -> String {
    let at = location.map(|at| format!(" at {at}")).unwrap_or_default();
    format!("internal error of calry-gitops{at}; please report it")
}

fn block_on(future: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    block_on_workspaces(1, future)
}

/// Runs a command for a number of workspaces.
fn block_on_workspaces(
    workspaces: usize,
    future: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    // Even if watching, reading and the backups of every workspace hang, a thread is free for other work.
    let blocking = workspaces * (2 + AT_ONCE) + 64;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime
        .worker_threads(2)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // A prompt without an answer, or a file system that hangs, must not keep the process.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_flag_of_any_command_is_refused_for_being_given_twice() {
        fn check(command: &clap::Command, parents: &[&str]) -> usize {
            let path: Vec<&str> = parents
                .iter()
                .copied()
                .chain([command.get_name()])
                .collect();
            let below: usize = command
                .get_subcommands()
                .map(|command| check(command, &path))
                .sum();
            let flags = command.get_opts().chain(
                command
                    .get_arguments()
                    .filter(|arg| !arg.get_action().takes_values()),
            );
            let flags: Vec<&clap::Arg> = flags
                .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
                .collect();
            for arg in &flags {
                let long = arg.get_long().unwrap();
                let flag = if arg.get_action().takes_values() {
                    format!("--{long}=1")
                } else {
                    format!("--{long}")
                };
                let any = clap::builder::StringValueParser::new;
                let command = super::command(&Defaults::new());
                let command = command.mut_subcommands(|command| {
                    command.mut_args(|arg| {
                        if arg.get_action().takes_values() {
                            arg.value_parser(any())
                        } else {
                            arg
                        }
                    })
                });
                let given = path
                    .iter()
                    .map(|name| (*name).to_owned())
                    .chain([flag.clone(), flag.clone()]);
                let refused = command
                    .try_get_matches_from(given)
                    .err()
                    .map(|error| error.kind());
                assert_ne!(
                    refused,
                    Some(clap::error::ErrorKind::ArgumentConflict),
                    "{path:?} {flag}"
                );
            }
            flags.len() + below
        }
        let mut command = super::command(&Defaults::new());
        command.build();
        assert!(check(&command, &[]) > 50);
    }

    #[test]
    fn a_panic_is_reported_by_its_place_alone() {
        let here = Location::caller();
        assert_eq!(
            panic_message(Some(here)),
            format!("internal error of calry-gitops at {here}; please report it")
        );
    }

    #[test]
    fn of_several_exit_codes_1_goes_before_3_and_3_before_2() {
        let all = [Exit::Done, Exit::Pending, Exit::Invalid, Exit::Failed];
        for (at, exit) in all.into_iter().enumerate() {
            for other in all.into_iter().take(at + 1) {
                assert_eq!((exit.or(other), other.or(exit)), (exit, exit));
            }
        }
        assert_eq!(Exit::Failed.when(false), Exit::Done);
    }
}
