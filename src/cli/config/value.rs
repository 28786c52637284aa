//! An effective value of a key, and where it came from.

use std::ffi::OsString;
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::file::{FileValue, Section, ValueKind};
use super::key::Key;

#[derive(Clone)]
pub(super) struct EffectiveValue {
    pub(super) key: Arc<Key>,
    pub(super) values: Vec<OsString>,
    pub(super) origin: ValueOrigin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueOrigin {
    Flag,
    Variable,
    /// The line of the configuration file, from 1.
    Line(usize),
    BuiltIn,
    /// There is no value.
    Unset,
}

impl EffectiveValue {
    /// The value of the command line, with the top of the file below it.
    pub(super) fn of_command_line(key: &Arc<Key>, matches: &ArgMatches, top: &Section) -> Self {
        let id = key.arg.get_id().as_str();
        let values = match key.kind {
            ValueKind::Flag => vec![matches.get_flag(id).to_string().into()],
            _ => matches
                .get_raw(id)
                .into_iter()
                .flatten()
                .map(ToOwned::to_owned)
                .collect(),
        };
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => ValueOrigin::Flag,
            Some(ValueSource::EnvVariable) => ValueOrigin::Variable,
            Some(_) => top
                .get(&key.name)
                .map_or(ValueOrigin::BuiltIn, |value| ValueOrigin::Line(value.line)),
            None => ValueOrigin::Unset,
        };
        Self {
            key: Arc::clone(key),
            values,
            origin,
        }
    }

    /// The value that a workspace has of its own.
    pub(super) fn of_workspace(key: &Arc<Key>, value: &FileValue) -> Self {
        Self {
            key: Arc::clone(key),
            values: value.texts.iter().map(OsString::from).collect(),
            origin: ValueOrigin::Line(value.line),
        }
    }

    /// A value that a workspace does not have.
    pub(super) fn unset(key: &Arc<Key>) -> Self {
        Self {
            key: Arc::clone(key),
            values: Vec::new(),
            origin: ValueOrigin::Unset,
        }
    }

    /// Whether the operator set it, in any way.
    pub(super) fn is_set(&self) -> bool {
        !matches!(self.origin, ValueOrigin::BuiltIn | ValueOrigin::Unset)
    }

    pub(super) fn flag(&self) -> String {
        format!("--{}", self.key.long)
    }

    pub(super) fn variable(&self) -> String {
        let name = self.key.arg.get_env().map(|name| name.to_string_lossy());
        format!("the variable {}", name.unwrap_or_default())
    }

    /// The same value on a command line.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let flag = self.flag();
        let argument = |value: &OsString| match self.key.kind {
            ValueKind::Flag => (value == "true").then(|| flag.clone().into()),
            _ => {
                let mut argument = OsString::from(format!("{flag}="));
                argument.push(value);
                Some(argument)
            }
        };
        self.values.iter().filter_map(argument).collect()
    }

    /// The values as texts, paths made absolute.
    pub(super) fn texts(&self) -> Vec<String> {
        let is_path = self.key.is_path();
        let text = |value: &OsString| match std::path::absolute(value) {
            Ok(path) if is_path => path.display().to_string(),
            _ => value.to_string_lossy().into_owned(),
        };
        self.values.iter().map(text).collect()
    }
}
