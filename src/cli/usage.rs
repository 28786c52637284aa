//! Errors of the command line: suggestions, and no repetition of an API key.

use std::io::Write as _;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::config::Defaults;
use super::{command, options};
use crate::model::{looks_like_a_key, printable};

/// An error of the command line that the parser cannot find.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

impl UsageError {
    /// Prints the error with the usage of the command that was called.
    pub(super) fn print(self) {
        let _ = called_command()
            .error(ErrorKind::ValueValidation, self.0)
            .print();
    }
}

fn called_command() -> clap::Command {
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

/// Suggests the option for a directory or file that was given without one, which other tools accept.
pub(super) fn suggest_option(error: &mut clap::Error) {
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return;
    };
    let path = Path::new(argument);
    let command = called_command();
    let takes = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
    let shown = printable(argument);
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

/// The key that a word of the command line is, or that it gives to an option.
fn key_in(word: &str) -> Option<&str> {
    let value = word.split_once('=').map(|(_, value)| value);
    [Some(word), value]
        .into_iter()
        .flatten()
        .find(|text| looks_like_a_key(text))
}

/// Makes the words of the command line in an error safe to show. A key is not repeated: output is logged in more places than
/// arguments, variables and configuration files are.
pub(super) fn mask_words(error: &mut clap::Error) {
    for kind in [
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
        ContextKind::InvalidValue,
    ] {
        let Some(ContextValue::String(word)) = error.get(kind) else {
            continue;
        };
        let word = match key_in(word) {
            Some(key) => word.replace(key, "***"),
            None => printable(word),
        };
        error.insert(kind, ContextValue::String(word));
    }
}

/// Prints an error of the parser, or the help. A key among the arguments is repeated nowhere, such as in a suggestion.
pub(super) fn print_parse_error(error: &clap::Error) {
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let keys: Vec<String> = arguments
        .filter_map(|argument| key_in(&argument).map(str::to_owned))
        .collect();
    // An error of printing cannot be reported either.
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

const KEY_ARGUMENT: &str = "\nDo not pass a key as an argument: other users can see it. Put it into a file and use --api-key-file or --age-identity-file,\n\
    or set the variable CALRY_API_KEY. Replace the key that was just given.\n";
