//! The command line: one file per command, and the exit codes that all of them share.
//!
//! What it never does: decide what changes, or show what others did not already make fit to be shown.

mod apply;
mod candidates;
mod cluster;
mod completions;
mod config;
mod help;
mod log_queue;
mod man;
mod options;
mod output;
mod plan;
mod progress;
mod pull;
mod run;
mod sandbox;
mod schema;
mod signals;
mod snapshot;
mod status;
mod status_client;
mod validate;

use std::io::Write as _;
use std::panic::Location;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{FromArgMatches, Parser, Subcommand};

use config::Defaults;
use output::Output;

/// How a command ended. Where several hold, `Failed` goes before `Invalid` and that before `Pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// Done, or in sync.
    Done = 0,
    /// Something failed: network, authorization, an update, a refused plan, a wrong workspace.
    Failed = 1,
    /// Changes are pending (`plan --detailed-exitcode`).
    Pending = 2,
    /// The definitions are invalid, or name a provider that the workspace does not have.
    Invalid = 3,
    /// The command line, or the configuration file, is wrong.
    Usage = 64,
}

impl Exit {
    const fn of(failed: bool, invalid: bool, pending: bool) -> Self {
        match (failed, invalid, pending) {
            (true, _, _) => Self::Failed,
            (_, true, _) => Self::Invalid,
            (_, _, true) => Self::Pending,
            _ => Self::Done,
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
    // Of one flag given twice the last wins, so that a manifest can add to what another one renders.
    args_override_self = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: output::OutputArgs,
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
    Run(Box<run::RunArgs>),
    /// Print the live state without its secrets, to plan against without an API key
    Snapshot(snapshot::SnapshotArgs),
    /// Write definition files from the live state; changes nothing in Calry
    Pull(pull::PullArgs),
    /// Show the status of a running daemon
    Status(status::StatusArgs),
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

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        // It is an error of the read, and reported as such.
        if std::thread::current().name() == Some(crate::desired::git::GIT_THREAD) {
            return;
        }
        let fault = fault(info.location());
        // The log of a daemon is read by machines: a line of another form would be lost on them.
        if tracing::event_enabled!(tracing::Level::ERROR) {
            tracing::error!("{fault}");
        } else {
            let _ = writeln!(std::io::stderr(), "error: {fault}");
        }
    }));
    let nothing = Defaults::new();
    let parsed = command(&nothing)
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed.map_err(|error| error.format(&mut command(&nothing))) {
        Ok(cli) => cli,
        Err(mut error) => {
            suggest_option(&mut error);
            let usage = error.use_stderr();
            print_parse_error(&error);
            return if usage {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    let long_running = matches!(cli.command, Command::Run(_) | Command::Sandbox(_));
    if let Command::Run(args) = &cli.command {
        // The configuration file has a say in how it is logged.
        return match config::load(args.config.as_deref()) {
            Ok(configuration) => {
                let output = Output::new(&configuration.cli.output, long_running);
                let running = run::run(&configuration, &output);
                ended(
                    block_on_for(configuration.workspaces.len(), running),
                    &output,
                )
            }
            Err(trouble) => trouble.tell(&Output::new(&cli.output, long_running)).into(),
        };
    }
    let output = Output::new(&cli.output, long_running);
    let result = match cli.command {
        Command::Validate(args) => validate::run(&args, &output),
        Command::Plan(args) => block_on(plan::run(&args, &output)),
        Command::Apply(args) => block_on(apply::run(&args, &output)),
        // It was seen to above.
        Command::Run(_) => Ok(Exit::Done),
        Command::Snapshot(args) => block_on(snapshot::run(&args, &output)),
        Command::Pull(args) => block_on(pull::run(&args, &output)),
        Command::Status(args) => block_on(status::run(&args, &output)),
        Command::Sandbox(args) => block_on(sandbox::run(&args, &output)),
        Command::Schema(args) => block_on(schema::run(&args, &output)),
        Command::Completions(args) => completions::run(&args, &output),
        Command::Candidates(args) => Ok(candidates::run(&args, &output)),
        Command::Man(args) => man::run(&args, &output),
    };
    ended(result, &output)
}

/// Says why a command failed, where it did, and how the process ends.
fn ended(result: anyhow::Result<Exit>, output: &Output) -> ExitCode {
    if let Some(error) = output.lost() {
        output.error(&format!(
            "the result cannot be written to standard output: {error}"
        ));
    }
    match result {
        Ok(_) if output.lost().is_some() => Exit::Failed.into(),
        Ok(exit) => exit.into(),
        Err(error) => match error.downcast::<UsageError>() {
            Ok(usage) => {
                output.flush();
                let _ = called()
                    .error(clap::error::ErrorKind::ValueValidation, usage.0)
                    .print();
                Exit::Usage.into()
            }
            Err(error) => {
                output.error(&format!("{error:#}"));
                Exit::Failed.into()
            }
        },
    }
}

/// The command that was called, for its usage.
fn called() -> clap::Command {
    let mut command = command(&Defaults::new());
    command.build();
    let name = std::env::args_os().skip(1).find_map(|arg| {
        command
            .find_subcommand(&arg)
            .map(|c| c.get_name().to_owned())
    });
    name.and_then(|name| command.find_subcommand(&name).cloned())
        .unwrap_or(command)
}

/// Suggests the option for a directory or file that was given without one, as other tools take it.
fn suggest_option(error: &mut clap::Error) {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return;
    };
    let path = std::path::Path::new(argument);
    let command = called();
    let takes = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
    let shown = crate::model::printable(argument);
    let suggestion = match options::provider_of_file(path) {
        Some(provider) if takes("only") => format!("for one provider, use --only {provider}"),
        _ if path.is_dir() && takes("definitions") => {
            format!("to name the definitions directory, use -d {shown}")
        }
        _ => return,
    };
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![suggestion.into()]),
    );
}

/// Prints what the parser says, help included. An API key that somebody gave as an argument is not repeated: what is
/// printed goes to more logs than arguments do.
fn print_parse_error(error: &clap::Error) {
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let keys: Vec<String> = arguments
        .filter_map(|argument| {
            let value = argument
                .split_once('=')
                .map_or(argument.as_str(), |(_, value)| value);
            value.starts_with(KEY_PREFIX).then(|| value.to_owned())
        })
        .collect();
    // Nothing is left to do where this cannot be printed.
    if keys.is_empty() {
        let _ = error.print();
        return;
    }
    let text = keys
        .iter()
        .fold(error.render().ansi().to_string(), |text, key| {
            text.replace(key, "***")
        });
    let _ = anstream::AutoStream::auto(std::io::stderr()).write_all(text.as_bytes());
    let _ = std::io::stderr().write_all(KEY_ARGUMENT.as_bytes());
}

/// How Calry's API keys begin.
const KEY_PREFIX: &str = "zepl.";
const KEY_ARGUMENT: &str = "\nAn API key is never an argument, which other users see: put it into a file and name that with \
    --api-key-file,\nor set the variable CALRY_API_KEY. Consider the key that was just given as known to others.\n";

/// The command line, with values below its flags and variables. A variable that is set to nothing counts as unset, as a
/// manifest leaves it where a value is optional.
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
    without_empty_variables(config::below(help::command(), defaults))
}

/// What is said of a panic. Its own message may quote the text that it was about, and that may be a secret.
fn fault(location: Option<&Location<'_>>) -> String {
    let at = location.map(|at| format!(" at {at}")).unwrap_or_default();
    format!("a fault of calry-gitops{at}; please report it")
}

/// A command line that is wrong in a way that the parser does not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

fn block_on(future: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    block_on_for(1, future)
}

/// Runs a command that is about so many workspaces.
fn block_on_for(
    workspaces: usize,
    future: impl Future<Output = anyhow::Result<Exit>>,
) -> anyhow::Result<Exit> {
    // Where each of them is looked at and read, and all of that hangs, there is still a thread for the next one.
    let blocking = workspaces * 2 + 64;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime
        .worker_threads(2)
        .max_blocking_threads(blocking)
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // A prompt that nobody answered, or a file system that hangs, must not keep the process.
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
    fn a_panic_is_told_by_its_place_alone() {
        let here = Location::caller();
        assert_eq!(
            fault(Some(here)),
            format!("a fault of calry-gitops at {here}; please report it")
        );
    }

    #[test]
    fn where_several_exit_codes_hold_1_goes_before_3_and_3_before_2() {
        assert_eq!(Exit::of(true, true, true), Exit::Failed);
        assert_eq!(Exit::of(false, true, true), Exit::Invalid);
        assert_eq!(Exit::of(false, false, true), Exit::Pending);
        assert_eq!(Exit::of(false, false, false), Exit::Done);
    }
}
