//! The keys of the configuration file: one for each flag of `run`. Only the flag defines which values a key accepts.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args as _, Command, Id};

use super::file::{KeyKinds, ValueKind};
use crate::cli::{help, options, run_args::LoopArgs};
use crate::model::closest;
use crate::plan::MaxChanges;

/// Flags that are about one call, not about the daemon: they have no key.
const CALL_FLAGS: [&str; 8] = [
    "config",
    "print_config",
    "once",
    "color",
    "verbose",
    "quiet",
    "help",
    "version",
];

/// Flags that can only be about one workspace. If the file names several, a workspace without its own value is an error.
const SINGLE_WORKSPACE_FLAGS: [&str; 4] = ["definitions", "only", "api_key_file", "workspace"];

/// The only key without a flag: the notifications to send.
pub(super) const NOTIFICATIONS: &str = "notifications";

/// Values that rank below the command line and its variables, by the ids of their flags.
pub(in crate::cli) type Defaults = BTreeMap<Id, Vec<String>>;

/// A key of the file, and the flag that it stands for.
pub(super) struct Key {
    /// The flag in camel case.
    pub(super) name: String,
    /// The flag without its dashes.
    pub(super) long: String,
    pub(super) kind: ValueKind,
    /// Whether a workspace can have a value of its own.
    pub(super) per_workspace: bool,
    pub(super) arg: Arg,
}

/// Why a value is not valid, with a suggestion.
pub(super) struct ValueError {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Key {
    pub(super) fn is_path(&self) -> bool {
        takes::<PathBuf>(&self.arg)
    }

    pub(super) fn is_single_workspace(&self) -> bool {
        SINGLE_WORKSPACE_FLAGS.contains(&self.arg.get_id().as_str())
    }

    /// Checks a value with the parser of the flag.
    pub(super) fn check(&self, text: &str) -> Result<(), ValueError> {
        if self.kind == ValueKind::Flag {
            return Ok(());
        }
        let arg = Arg::new("value")
            .long("value")
            .value_parser(self.arg.get_value_parser().clone());
        let command = Command::new("check").no_binary_name(true).arg(arg);
        let Err(error) = command.try_get_matches_from([format!("--value={text}")]) else {
            return Ok(());
        };
        let name = &self.name;
        let valid = match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) if error.kind() == ErrorKind::InvalidValue => {
                valid.as_slice()
            }
            _ => &[],
        };
        if valid.is_empty() {
            let why = error
                .source()
                .map_or_else(|| "it has no value".to_owned(), ToString::to_string);
            return Err(ValueError {
                message: format!("invalid `{name}`: {why}"),
                help: None,
            });
        }
        Err(ValueError {
            message: format!("`{name}` must be one of {}", valid.join(", ")),
            help: closest(text, valid.iter().map(String::as_str))
                .map(|meant| format!("did you mean `{meant}`?")),
        })
    }
}

pub(super) fn takes<T: 'static>(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<T>()
}

/// The least value of a flag that takes a whole number.
pub(super) fn minimum(arg: &Arg) -> Option<u8> {
    if takes::<usize>(arg) {
        Some(0)
    } else if takes::<NonZeroU8>(arg) || takes::<NonZeroU32>(arg) {
        Some(1)
    } else {
        None
    }
}

/// Every key but [`NOTIFICATIONS`], in the order of the help.
#[expect(clippy::expect_used, reason = "the command line has the command `run`")]
pub(super) fn keys() -> Vec<Arc<Key>> {
    let command = help::command();
    let run = command.find_subcommand("run").expect("the command `run`");
    let workspace_groups: Vec<Id> = LoopArgs::group_id()
        .into_iter()
        .chain(options::workspace_groups())
        .collect();
    let per_workspace: Vec<&Id> = run
        .get_groups()
        .filter(|group| workspace_groups.contains(group.get_id()))
        .flat_map(clap::ArgGroup::get_args)
        .collect();
    run.get_arguments()
        .chain(command.get_arguments().filter(|arg| arg.is_global_set()))
        .filter(|arg| !CALL_FLAGS.contains(&arg.get_id().as_str()))
        .filter_map(|arg| {
            let long = arg.get_long()?;
            Some(Arc::new(Key {
                name: camel_case(long),
                long: long.to_owned(),
                kind: match arg.get_action() {
                    ArgAction::SetTrue => ValueKind::Flag,
                    ArgAction::Append => ValueKind::List,
                    _ if takes::<Duration>(arg) => ValueKind::Duration,
                    _ if takes::<MaxChanges>(arg) => ValueKind::MaxChanges,
                    _ if minimum(arg).is_some() => ValueKind::Number,
                    _ => ValueKind::Text,
                },
                per_workspace: per_workspace.contains(&arg.get_id()),
                arg: arg.clone(),
            }))
        })
        .collect()
}

/// What each key of the file takes, [`NOTIFICATIONS`] included.
pub(super) fn kinds(keys: &[Arc<Key>]) -> KeyKinds {
    let notifications = (NOTIFICATIONS.to_owned(), (ValueKind::Documents, false));
    keys.iter()
        .map(|key| (key.name.clone(), (key.kind, key.per_workspace)))
        .chain([notifications])
        .collect()
}

/// `api-key-file` as `apiKeyFile`.
fn camel_case(long: &str) -> String {
    let mut name = String::with_capacity(long.len());
    let mut starts_word = false;
    for letter in long.chars() {
        if letter == '-' {
            starts_word = true;
        } else if std::mem::take(&mut starts_word) {
            name.extend(letter.to_uppercase());
        } else {
            name.push(letter);
        }
    }
    name
}

/// The command line with these values below every flag's variable.
pub(in crate::cli) fn with_defaults(command: Command, defaults: &Defaults) -> Command {
    if defaults.is_empty() {
        return command;
    }
    let set = |arg: Arg| match defaults.get(arg.get_id()) {
        Some(values) => arg.default_values(values.clone()),
        None => arg,
    };
    command
        .mut_args(set)
        .mut_subcommand("run", |run| run.mut_args(set))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn flags() -> Vec<Arg> {
        let mut command = help::command();
        command.build();
        let run = command.find_subcommand("run").unwrap();
        run.get_arguments().cloned().collect()
    }

    #[test]
    fn every_flag_of_run_is_a_key_and_every_key_a_flag() {
        let flags: BTreeSet<String> = flags()
            .iter()
            .filter(|arg| !CALL_FLAGS.contains(&arg.get_id().as_str()))
            .map(|arg| camel_case(arg.get_long().unwrap()))
            .collect();
        let schema: Value = serde_json::from_str(&super::super::schema()).unwrap();
        let keys = schema["properties"].as_object().unwrap().keys().cloned();
        assert_eq!(
            keys.filter(|key| !["workspaces", NOTIFICATIONS].contains(&key.as_str()))
                .collect::<BTreeSet<_>>(),
            flags
        );
        assert!(flags.len() > 15, "{flags:?}");
    }

    #[test]
    fn a_flag_without_a_key_or_for_one_workspace_exists() {
        let flags = flags();
        let flags: Vec<&str> = flags.iter().map(|arg| arg.get_id().as_str()).collect();
        for id in CALL_FLAGS
            .iter()
            .chain(&SINGLE_WORKSPACE_FLAGS)
            .filter(|id| **id != "version")
        {
            assert!(flags.contains(id), "{id}");
        }
    }

    #[test]
    fn a_workspace_can_have_its_own_source_and_pace_and_nothing_of_the_daemon() {
        let keys = keys();
        let own: Vec<&str> = keys
            .iter()
            .filter(|key| key.per_workspace)
            .map(|key| key.name.as_str())
            .collect();
        for key in [
            "definitions",
            "apiKeyFile",
            "secretsDir",
            "apiUrl",
            "updateMethod",
            "interval",
            "mode",
            "strict",
            "backupDir",
            "backupRecipient",
        ] {
            assert!(own.contains(&key), "{key}");
        }
        for key in ["listen", "adminHost", "logFormat"] {
            assert!(!own.contains(&key), "{key}");
        }
    }

    /// The types of numbers are listed: this finds a flag whose type is missing.
    #[test]
    fn a_flag_that_accepts_numbers_only_is_a_number_with_its_minimum() {
        for key in keys() {
            let accepts = |text: &str| key.check(text).is_ok();
            if matches!(key.kind, ValueKind::Text | ValueKind::Number) {
                let is_number = key.kind == ValueKind::Number;
                assert_eq!(accepts("1") && !accepts("one"), is_number, "{}", key.name);
                assert_eq!(
                    minimum(&key.arg),
                    is_number.then(|| u8::from(!accepts("0"))),
                    "{}",
                    key.name
                );
            }
        }
    }
}
