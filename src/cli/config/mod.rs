//! The operator's configuration file, and how it combines with the command line of `run`.
//!
//! Every flag of `run` is a key of the file, by its name in camel case. A workspace's own key wins over flags, flags over
//! variables, variables over the top of the file, and the top over built-in values. So a setting for all workspaces never
//! loosens the setting of one.
//!
//! Never: read a key or a secret, or make a connection.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use clap::builder::Resettable;
use clap::{ArgMatches, FromArgMatches as _};

mod changes;
mod file;
mod key;
mod notifications;
mod print;
mod schema;
mod value;

use super::output::{Output, OutputArgs};
use super::run_args::RunArgs;
use super::usage::{UsageError, print_parse_error};
use super::{Exit, command};
use crate::model::{Code, Diagnostic, printable};
use crate::report::words::list_first;
use file::{ConfigFile, ConfigFileError, Section, WorkspaceSection};
use key::{Key, keys, kinds};
use notifications::Notifications;
use value::{EffectiveValue, ValueOrigin};

pub(super) use key::{Defaults, with_defaults};
pub(super) use schema::schema;

/// How many names a sentence lists.
const MAX_NAMED: usize = 8;

/// The variable that holds an API key itself.
const API_KEY: &str = "CALRY_API_KEY";

/// The effective configuration of `run`.
pub(super) struct Configuration {
    /// The command line with the top of the file below it.
    pub(super) args: RunArgs,
    pub(super) output: OutputArgs,
    pub(super) workspaces: Vec<WorkspaceConfig>,
    pub(super) notifications: Notifications,
    file: Option<PathBuf>,
    top: Vec<EffectiveValue>,
}

/// The effective configuration of one workspace.
pub(super) struct WorkspaceConfig {
    /// Its name, if the file names several.
    pub(super) name: Option<String>,
    pub(super) args: RunArgs,
    values: Vec<EffectiveValue>,
}

/// Why there is no configuration.
pub(super) enum ConfigError {
    File(ConfigFileError),
    Problems(Vec<Diagnostic>),
    Usage(UsageError),
    CommandLine(clap::Error),
}

impl ConfigError {
    /// The first problem, in one line.
    fn summary(&self) -> String {
        match self {
            Self::File(error) => error.to_string(),
            Self::Problems(problems) => {
                let (first, more) = match problems.split_first() {
                    Some((first, more)) => (first, more.len()),
                    None => return "it is not valid".to_owned(),
                };
                let line = match &first.excerpt {
                    Some(excerpt) => format!("line {}: ", excerpt.line),
                    None => String::new(),
                };
                let more = match more {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                printable(&format!("{line}{}{more}", first.message))
            }
            Self::Usage(error) => error.to_string(),
            Self::CommandLine(_) => "it does not fit the command line".to_owned(),
        }
    }

    pub(super) fn report(self, output: &Output) -> Exit {
        match self {
            Self::File(error) => output.error(&error.to_string()),
            Self::Problems(problems) => output.diagnostics(&problems, "", 1),
            Self::Usage(error) => output.error(&error.to_string()),
            Self::CommandLine(error) => {
                print_parse_error(&error.format(&mut command(&Defaults::new())));
            }
        }
        Exit::Usage
    }
}

/// Reads the file, if there is one, and combines it with the command line.
///
/// # Errors
/// Every problem of the file at once, or a contradiction of the command line and the file.
pub(super) fn load(path: Option<&Path>) -> Result<Configuration, ConfigError> {
    let keys = keys();
    let (mut file, notifications) = match path {
        Some(path) => {
            let (file, notifications) = read(path, &keys)?;
            (Some(file), notifications)
        }
        None => (None, Notifications::default()),
    };
    let mut top = match &mut file {
        Some(file) => std::mem::take(&mut file.top),
        None => Section::new(),
    };
    let sections = file.as_mut().and_then(|file| file.workspaces.take());
    if sections.is_none() && is_api_key_in_variable() {
        // A variable wins over the file.
        top.remove("apiKeyFile");
    }

    let defaults = keys
        .iter()
        .filter_map(|key| Some((key.arg.get_id().clone(), top.get(&key.name)?.texts.clone())))
        .collect();
    let matches = run_matches(command(&defaults), std::env::args_os())?;
    let args = RunArgs::from_arg_matches(&matches).map_err(ConfigError::CommandLine)?;
    let output = OutputArgs::from_arg_matches(&matches).map_err(ConfigError::CommandLine)?;
    let top: Vec<EffectiveValue> = keys
        .iter()
        .map(|key| EffectiveValue::of_command_line(key, &matches, &top))
        .collect();
    let workspaces = match &sections {
        None => vec![WorkspaceConfig {
            name: None,
            args: RunArgs::from_arg_matches(&matches).map_err(ConfigError::CommandLine)?,
            values: top.clone(),
        }],
        Some(sections) => {
            let needs_key = is_api_key_in_variable() && !matches.get_flag("sandbox");
            check_single_workspace_flags(&top, sections, needs_key)?;
            sections
                .iter()
                .map(|section| WorkspaceConfig::of_section(section, &top))
                .collect::<Result<_, _>>()?
        }
    };
    if let (Some(file), Some(sections)) = (&mut file, &sections) {
        check_api_keys(file, sections, &workspaces);
        refuse_problems(file)?;
    }
    Ok(Configuration {
        args,
        output,
        workspaces,
        notifications,
        file: path.map(Path::to_owned),
        top,
    })
}

/// The definitions directory of each workspace that the file names, which may be a pattern, relative to the directory of the
/// file. A workspace with a git repository has none.
///
/// # Errors
/// Every problem of the file at once.
pub(super) fn definitions(path: &Path) -> Result<Vec<String>, ConfigError> {
    let (file, _) = read(path, &keys())?;
    let sections: Vec<&Section> = match &file.workspaces {
        Some(workspaces) => workspaces
            .iter()
            .map(|workspace| &workspace.values)
            .collect(),
        None => vec![&file.top],
    };
    let find = |section: &Section, key: &str| {
        let value = section.get(key).or_else(|| file.top.get(key));
        value.and_then(|value| value.texts.first()).cloned()
    };
    let sections = sections.into_iter();
    Ok(sections
        .filter(|section| find(section, "gitUrl").is_none())
        .filter_map(|section| find(section, "definitions"))
        .collect())
}

/// Reads a file without problems, and takes its notifications.
fn read(path: &Path, keys: &[Arc<Key>]) -> Result<(ConfigFile, Notifications), ConfigError> {
    let mut file = ConfigFile::read(path, &kinds(keys)).map_err(ConfigError::File)?;
    let notifications = check(&mut file, keys, path.parent().unwrap_or(Path::new("")));
    refuse_problems(&file)?;
    Ok((file, notifications))
}

/// The problems of a configuration file that a command line cannot change. `name` is its path.
pub(super) fn problems(name: &str, text: String) -> Vec<Diagnostic> {
    static KEYS: LazyLock<Vec<Arc<Key>>> = LazyLock::new(keys);
    let mut file = ConfigFile::of(name, text, &kinds(&KEYS));
    check(&mut file, &KEYS, Path::new(""));
    file.problems()
}

/// Checks the file by itself, and takes its notifications. `directory` is that of the file.
fn check(file: &mut ConfigFile, keys: &[Arc<Key>], directory: &Path) -> Notifications {
    check_values(file, keys);
    resolve_paths(file, keys, directory);
    Notifications::take(file, directory)
}

fn is_api_key_in_variable() -> bool {
    std::env::var_os(API_KEY).is_some_and(|key| !key.is_empty())
}

/// Adds a problem for each value that its flag does not accept.
fn check_values(file: &mut ConfigFile, keys: &[Arc<Key>]) {
    let sections = file.workspaces.iter().flatten();
    let sections = std::iter::once(&file.top).chain(sections.map(|workspace| &workspace.values));
    let mut errors = Vec::new();
    for (name, value) in sections.flatten() {
        if let Some(key) = keys.iter().find(|key| key.name == *name) {
            let invalid = value.texts.iter().filter_map(|text| key.check(text).err());
            errors.extend(invalid.map(|error| (value.at, error)));
        }
    }
    for (at, error) in errors {
        file.add_problem(Code::InvalidValue, at, error.message, error.help);
    }
}

/// Makes paths relative to the directory of the file.
fn resolve_paths(file: &mut ConfigFile, keys: &[Arc<Key>], directory: &Path) {
    let sections = file.workspaces.iter_mut().flatten();
    let sections =
        std::iter::once(&mut file.top).chain(sections.map(|workspace| &mut workspace.values));
    for (name, value) in sections.flatten() {
        if keys.iter().any(|key| key.name == *name && key.is_path()) {
            for text in &mut value.texts {
                *text = directory.join(&*text).display().to_string();
            }
        }
    }
}

fn refuse_problems(file: &ConfigFile) -> Result<(), ConfigError> {
    let problems = file.problems();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::Problems(problems))
    }
}

/// Parses a command line of `run`.
#[expect(
    clippy::expect_used,
    reason = "the parser requires a subcommand, and main has found that it is `run`"
)]
fn run_matches(
    command: clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<ArgMatches, ConfigError> {
    let mut matches = command
        .try_get_matches_from(arguments)
        .map_err(ConfigError::CommandLine)?;
    let (_, run) = matches.remove_subcommand().expect("a subcommand");
    Ok(run)
}

/// Refuses a flag or variable that can only be about one workspace and would be about several.
fn check_single_workspace_flags(
    top: &[EffectiveValue],
    sections: &[WorkspaceSection],
    api_key: bool,
) -> Result<(), ConfigError> {
    let without = |key: &str| {
        sections
            .iter()
            .find(|section| !section.values.contains_key(key))
    };
    let refused = |what: &str, key: &str, workspace: &str| {
        Err(ConfigError::Usage(UsageError(format!(
            "{what} is about one workspace, but the configuration file names several, and `{workspace}` has no `{key}` of \
             its own: remove it, and write `{key}` for each workspace"
        ))))
    };
    for value in top.iter().filter(|value| value.key.is_single_workspace()) {
        let what = match value.origin {
            ValueOrigin::Flag => value.flag(),
            ValueOrigin::Variable => value.variable(),
            ValueOrigin::Line(_) | ValueOrigin::BuiltIn | ValueOrigin::Unset => continue,
        };
        if let Some(workspace) = without(&value.key.name) {
            return refused(&what, &value.key.name, &workspace.name);
        }
    }
    match without("apiKeyFile").filter(|_| api_key) {
        Some(workspace) => refused(
            &format!("the key in the variable {API_KEY}"),
            "apiKeyFile",
            &workspace.name,
        ),
        None => Ok(()),
    }
}

/// Adds a problem for each workspace that has no API key, or the key of another one.
fn check_api_keys(
    file: &mut ConfigFile,
    sections: &[WorkspaceSection],
    workspaces: &[WorkspaceConfig],
) {
    let mut seen: BTreeMap<(Option<String>, String), &str> = BTreeMap::new();
    for (workspace, section) in workspaces.iter().zip(sections) {
        if workspace.value("sandbox").as_deref() == Some("true") {
            continue;
        }
        let help = || Some("give each workspace an `apiKeyFile` of its own".to_owned());
        let name = &section.name;
        let Some(key) = workspace.value("apiKeyFile") else {
            let message = format!("the workspace `{name}` has no API key");
            file.add_problem(Code::MissingKey, section.at, message, help());
            continue;
        };
        if let Some(first) = seen.insert((workspace.value("apiUrl"), key), name) {
            let message = format!(
                "the workspace `{name}` has the API key of `{first}`: both would write to one workspace of Calry"
            );
            file.add_problem(Code::InvalidValue, section.at, message, help());
        }
    }
}

impl WorkspaceConfig {
    /// A workspace's own values, and the top for the others.
    fn of_section(section: &WorkspaceSection, top: &[EffectiveValue]) -> Result<Self, ConfigError> {
        // A key of either file counts, so another file of the top would loosen the workspace's own.
        let trusted = ["allowedSigners", "allowedKeys"];
        let has_trusted = trusted.iter().any(|key| section.values.contains_key(*key));
        let value = |top: &EffectiveValue| match section.values.get(&top.key.name) {
            Some(own) => EffectiveValue::of_workspace(&top.key, own),
            None if has_trusted && trusted.contains(&top.key.name.as_str()) => {
                EffectiveValue::unset(&top.key)
            }
            None => top.clone(),
        };
        let values: Vec<EffectiveValue> = top.iter().map(value).collect();
        Ok(Self {
            name: Some(section.name.clone()),
            args: parse_values(&values)?,
            values,
        })
    }

    fn value(&self, key: &str) -> Option<String> {
        let value = self.values.iter().find(|value| value.key.name == key)?;
        value.texts().into_iter().next()
    }
}

/// Parses values that are effective already: no variable and no default of the file counts again.
fn parse_values(values: &[EffectiveValue]) -> Result<RunArgs, ConfigError> {
    fn without_variables(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| arg.env(Resettable::Reset))
            .mut_subcommands(without_variables)
    }
    let set = values.iter().filter(|value| value.is_set());
    let arguments = set.flat_map(EffectiveValue::arguments);
    let program = ["calry-gitops", "run"].map(OsString::from);
    let matches = run_matches(
        without_variables(command(&Defaults::new())),
        program.into_iter().chain(arguments),
    )?;
    RunArgs::from_arg_matches(&matches).map_err(ConfigError::CommandLine)
}

impl Configuration {
    /// Whether the operator set a key, in any way.
    pub(super) fn is_set(&self, key: &str) -> bool {
        let value = self.top.iter().find(|value| value.key.name == key);
        value.is_some_and(EffectiveValue::is_set)
    }

    fn has_named_workspaces(&self) -> bool {
        self.workspaces
            .iter()
            .any(|workspace| workspace.name.is_some())
    }

    /// A sentence for each flag that some workspace overrides.
    pub(super) fn overridden(&self) -> impl Iterator<Item = String> {
        let flags = self.top.iter().enumerate();
        let flags = flags.filter(|(_, value)| value.origin == ValueOrigin::Flag);
        flags.filter_map(|(at, general)| {
            let differs = |workspace: &&WorkspaceConfig| {
                let own = workspace.values.get(at);
                own.is_some_and(|own| own.values != general.values)
            };
            let overriding = self.workspaces.iter().filter(differs);
            let names: Vec<String> = overriding.filter_map(|w| w.name.clone()).collect();
            (!names.is_empty()).then(|| {
                format!(
                    "{} does not apply to {}: the configuration file has another value there",
                    general.flag(),
                    list_first(&names, MAX_NAMED)
                )
            })
        })
    }
}
