//! The operator's configuration file, laid below the command line of `run`.
//!
//! Every flag of `run` is a key of the file, by its name in camel case, and nothing but the flag says what it takes. A
//! workspace's own key wins over flags, flags over variables, variables over the top of the file, and that over what is
//! built in. So a setting for all workspaces never loosens what one of them says for itself.
//!
//! Never: reads a key or a secret, or contacts anything.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, FromArgMatches as _, Id};
use schemars::generate::SchemaSettings;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

mod file;

use super::run::{LoopArgs, RunArgs};
use super::{Cli, Exit, Output, UsageError, options};
use crate::model::{Code, Diagnostic, closest};
use crate::ops::notifications::Target;
use crate::render::yaml::to_yaml;
use file::{
    Kind, MAX_WORKSPACE_NAME, Section, Setting, Settings, SettingsError, WORKSPACE_NAME,
    WorkspaceSection,
};

/// Flags of one call, which say nothing of how the daemon is to be: they have no key.
const OF_ONE_CALL: [&str; 8] = [
    "config",
    "print_config",
    "once",
    "color",
    "verbose",
    "quiet",
    "help",
    "version",
];

/// Flags that can only ever be about one workspace. If the file names several, a workspace without its own is an error.
const OF_ONE_WORKSPACE: [&str; 4] = ["definitions", "only", "api_key_file", "workspace"];

/// The one key that is no flag: who is notified.
const NOTIFICATIONS: &str = "notifications";

/// How long the file is waited for when it is compared.
const PATIENCE: Duration = Duration::from_secs(5);

/// The variable that holds an API key itself.
const API_KEY: &str = "CALRY_API_KEY";

/// Values that stand below the command line, by the ids of their flags.
pub(super) type Defaults = BTreeMap<Id, Vec<String>>;

/// A setting: a flag of `run`, and what it is in the file.
struct Key {
    name: String,
    arg: Arg,
    kind: Kind,
    /// Whether a workspace can say it.
    inner: bool,
}

impl Key {
    fn is_path(&self) -> bool {
        self.is(TypeId::of::<PathBuf>())
    }

    fn is(&self, kind: TypeId) -> bool {
        self.arg.get_value_parser().type_id() == kind
    }

    /// What is wrong with a value, by the judgement of the flag itself.
    fn judge(&self, text: &str) -> Result<(), (String, Option<String>)> {
        if self.kind == Kind::Flag {
            return Ok(());
        }
        let arg = Arg::new("value")
            .long("value")
            .value_parser(self.arg.get_value_parser().clone());
        let command = clap::Command::new("judge").no_binary_name(true).arg(arg);
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
            return Err((format!("`{name}` cannot be this: {why}"), None));
        }
        let meant = closest(text, valid.iter().map(String::as_str))
            .map(|meant| format!("did you mean `{meant}`?"));
        Err((format!("`{name}` is one of {}", valid.join(", ")), meant))
    }
}

/// Every setting, in the order of the help.
fn keys() -> Vec<Key> {
    let command = super::command(&Defaults::new());
    let Some(run) = command.find_subcommand("run") else {
        return Vec::new();
    };
    let inner: Vec<&Id> = run
        .get_groups()
        .filter(|group| {
            let of = [LoopArgs::group_id()]
                .into_iter()
                .chain(options::groups_of_workspaces());
            of.flatten().any(|id| id == *group.get_id())
        })
        .flat_map(clap::ArgGroup::get_args)
        .collect();
    let args = run
        .get_arguments()
        .chain(command.get_arguments().filter(|arg| arg.is_global_set()));
    args.filter(|arg| !OF_ONE_CALL.contains(&arg.get_id().as_str()))
        .filter_map(|arg| {
            let kind = match arg.get_action() {
                ArgAction::SetTrue => Kind::Flag,
                ArgAction::Append => Kind::List,
                _ => Kind::Text,
            };
            let inner = inner.contains(&arg.get_id());
            let key = Key {
                name: camel(arg.get_long()?),
                arg: arg.clone(),
                kind,
                inner,
            };
            let kind = match kind {
                Kind::Text if key.is(TypeId::of::<Duration>()) => Kind::Duration,
                Kind::Text if key.judge("1").is_ok() && key.judge("one").is_err() => Kind::Number,
                kind => kind,
            };
            Some(Key { kind, ..key })
        })
        .collect()
}

/// `api-key-file` as `apiKeyFile`.
fn camel(long: &str) -> String {
    let mut words = long.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        name + &letters
            .next()
            .map(|first| first.to_uppercase().to_string())
            .unwrap_or_default()
            + letters.as_str()
    })
}

/// What holds for a run.
pub(super) struct Configuration {
    /// The command line with the top of the file below it.
    pub(super) cli: Cli,
    /// One for each workspace.
    pub(super) workspaces: Vec<Configured>,
    pub(super) notifications: Notifications,
    file: Option<PathBuf>,
    top: Vec<Resolved>,
    /// Flags that a workspace's own key wins over, each with the names of those workspaces.
    overridden: Vec<(String, Vec<String>)>,
}

/// Who is notified.
#[derive(Default)]
pub(super) struct Notifications {
    pub(super) targets: Vec<Target>,
    /// The same as they are written, with absolute paths.
    documents: Vec<Value>,
    line: usize,
}

/// What holds for one workspace.
pub(super) struct Configured {
    /// Its name, where there are several.
    pub(super) name: Option<String>,
    /// The command line with the workspace's settings below it.
    pub(super) args: RunArgs,
    resolved: Vec<Resolved>,
}

/// A setting that holds, and where it came from.
struct Resolved {
    key: String,
    long: String,
    kind: Kind,
    inner: bool,
    is_path: bool,
    values: Vec<OsString>,
    from: Origin,
}

/// Where a value came from.
#[derive(Clone)]
enum Origin {
    Flag(String),
    Variable(String),
    Line(usize),
    BuiltIn,
    /// There is no value.
    Nowhere,
}

/// Why nothing holds.
pub(super) enum Trouble {
    File(SettingsError),
    Problems(Vec<Diagnostic>),
    Usage(UsageError),
    CommandLine(clap::Error),
}

impl Trouble {
    /// The first problem, in one line.
    fn sentence(&self) -> String {
        match self {
            Self::File(error) => error.to_string(),
            Self::Problems(problems) => {
                let first = problems.first();
                let line = first
                    .and_then(|problem| problem.excerpt.as_ref())
                    .map(|at| format!("line {}: ", at.line));
                let message = first
                    .map(|problem| problem.message.as_str())
                    .unwrap_or_default();
                let more = problems.len().saturating_sub(1);
                let more = if more > 0 {
                    format!(" (and {more} more)")
                } else {
                    String::new()
                };
                crate::model::printable(&format!("{}{message}{more}", line.unwrap_or_default()))
            }
            Self::Usage(error) => error.to_string(),
            Self::CommandLine(_) => "it does not fit the command line".to_owned(),
        }
    }

    /// Says it.
    pub(super) fn tell(self, output: &Output) -> Exit {
        match self {
            Self::File(error) => output.error(&error.to_string()),
            Self::Problems(problems) => output.diagnostics(&problems, "", 1),
            Self::Usage(error) => output.error(&error.to_string()),
            Self::CommandLine(error) => {
                super::print_parse_error(&error.format(&mut super::command(&Defaults::new())))
            }
        }
        Exit::Usage
    }
}

/// Reads the file, where there is one, and lays it below the command line.
///
/// # Errors
/// Every problem of the file at once, or what the command line and the file cannot both mean.
pub(super) fn load(file: Option<&Path>) -> Result<Configuration, Trouble> {
    let keys = keys();
    let mut kinds: BTreeMap<_, _> = keys
        .iter()
        .map(|key| (key.name.clone(), (key.kind, key.inner)))
        .collect();
    kinds.insert(NOTIFICATIONS.to_owned(), (Kind::Documents, false));
    let mut settings = file
        .map(|file| Settings::read(file, &kinds))
        .transpose()
        .map_err(Trouble::File)?;
    let mut top = Section::new();
    let mut sections = Vec::new();
    let mut several = false;
    let mut notifications = Notifications::default();
    if let Some(settings) = &mut settings {
        (top, several) = (
            std::mem::take(&mut settings.top),
            settings.workspaces.is_some(),
        );
        sections = settings.workspaces.take().unwrap_or_default();
        let all = std::iter::once(&top).chain(sections.iter().map(|workspace| &workspace.settings));
        for (name, setting) in all.flatten() {
            let Some(key) = keys.iter().find(|key| key.name == *name) else {
                continue;
            };
            for text in &setting.texts {
                if let Err((message, help)) = key.judge(text) {
                    settings.problem(Code::InvalidValue, setting.place, message, help);
                }
            }
        }
        let directory = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let mut all: Vec<&mut Section> = vec![&mut top];
        all.extend(sections.iter_mut().map(|workspace| &mut workspace.settings));
        for (name, setting) in all.into_iter().flatten() {
            if keys.iter().any(|key| key.name == *name && key.is_path()) {
                for text in &mut setting.texts {
                    *text = directory.join(&*text).display().to_string();
                }
            }
        }
        if let Some(setting) = top.remove(NOTIFICATIONS) {
            let names: Vec<&str> = sections
                .iter()
                .map(|workspace| workspace.name.as_str())
                .collect();
            notifications = Notifications::of(setting, directory, &names, settings);
        }
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(Trouble::Problems(problems));
        }
    }
    let variable = std::env::var_os(API_KEY).is_some_and(|key| !key.is_empty());
    if variable && !several {
        // A variable wins over the file.
        top.remove("apiKeyFile");
    }

    let (cli, matches) = parse(&keys, &top)?;
    let top_resolved: Vec<Resolved> = keys
        .iter()
        .map(|key| resolve(key, &matches, &top))
        .collect();
    let mut workspaces = Vec::new();
    let mut overridden: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if several {
        one_for_each(
            &keys,
            &top_resolved,
            &sections,
            variable && !matches.get_flag("sandbox"),
        )?;
        for WorkspaceSection { name, settings, .. } in &sections {
            let own = |key: &Key| {
                settings
                    .get(&key.name)
                    .map(|setting| Resolved::of(key, setting))
            };
            let resolved: Vec<Resolved> = keys
                .iter()
                .map(|key| own(key).unwrap_or_else(|| resolve(key, &matches, &top)))
                .collect();
            for (general, own) in top_resolved.iter().zip(&resolved) {
                if let Origin::Flag(flag) = &general.from
                    && general.values != own.values
                {
                    overridden
                        .entry(flag.clone())
                        .or_default()
                        .push(name.clone());
                }
            }
            let args = of_resolved(&resolved)?;
            workspaces.push(Configured {
                name: Some(name.clone()),
                args,
                resolved,
            });
        }
    } else {
        let args = RunArgs::from_arg_matches(&matches).map_err(Trouble::CommandLine)?;
        let resolved = keys
            .iter()
            .map(|key| resolve(key, &matches, &top))
            .collect();
        workspaces.push(Configured {
            name: None,
            args,
            resolved,
        });
    }
    if let Some(settings) = settings.as_mut().filter(|_| several) {
        let mut seen: BTreeMap<(String, String), &str> = BTreeMap::new();
        for (configured, section) in workspaces.iter().zip(&sections) {
            let value = |key: &str| configured.value(key);
            let sandbox = value("sandbox").as_deref() == Some("true");
            let help = || Some("give each workspace an `apiKeyFile` of its own".to_owned());
            match value("apiKeyFile") {
                _ if sandbox => {}
                None => {
                    let message = format!("the workspace `{}` has no API key", section.name);
                    settings.problem(Code::MissingKey, section.place, message, help());
                }
                Some(file) => {
                    let key = (value("apiUrl").unwrap_or_default(), file);
                    if let Some(first) = seen.insert(key, &section.name) {
                        let message = format!(
                            "the workspace `{}` has the API key of `{first}`, and would fight it over one workspace of Calry",
                            section.name
                        );
                        settings.problem(Code::InvalidValue, section.place, message, help());
                    }
                }
            }
        }
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(Trouble::Problems(problems));
        }
    }
    let (file, overridden) = (file.map(Path::to_owned), overridden.into_iter().collect());
    Ok(Configuration {
        cli,
        workspaces,
        notifications,
        file,
        top: top_resolved,
        overridden,
    })
}

/// Reads the command line with the top of the file below it.
fn parse(keys: &[Key], top: &Section) -> Result<(Cli, ArgMatches), Trouble> {
    let below = |key: &Key| top.get(&key.name);
    let defaults: Defaults = keys
        .iter()
        .filter_map(|key| Some((key.arg.get_id().clone(), below(key)?.texts.clone())))
        .collect();
    let mut matches = super::command(&defaults)
        .try_get_matches()
        .map_err(Trouble::CommandLine)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Trouble::CommandLine)?;
    let (_, run) = matches.remove_subcommand().unwrap_or_default();
    Ok((cli, run))
}

/// What settings mean that were resolved already: nothing but these counts, no variable included.
fn of_resolved(resolved: &[Resolved]) -> Result<RunArgs, Trouble> {
    fn without_variables(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| arg.env(Resettable::Reset))
            .mut_subcommands(without_variables)
    }
    let given = resolved
        .iter()
        .filter(|one| !matches!(one.from, Origin::BuiltIn | Origin::Nowhere));
    let arguments = given.flat_map(Resolved::arguments);
    let command = without_variables(super::command(&Defaults::new()));
    let program = ["calry-gitops", "run"].map(OsString::from);
    let mut matches = command
        .try_get_matches_from(program.into_iter().chain(arguments))
        .map_err(Trouble::CommandLine)?;
    let (_, run) = matches.remove_subcommand().unwrap_or_default();
    RunArgs::from_arg_matches(&run).map_err(Trouble::CommandLine)
}

/// Refuses what can only be about one workspace and would be about several.
fn one_for_each(
    keys: &[Key],
    top: &[Resolved],
    sections: &[WorkspaceSection],
    api_key: bool,
) -> Result<(), Trouble> {
    let without = |key: &str| {
        sections
            .iter()
            .find(|section| !section.settings.contains_key(key))
    };
    let refused = |what: &str, key: &str, workspace: &str| {
        Err(Trouble::Usage(UsageError(format!(
            "{what} is about one workspace, and the configuration file names several, of which `{workspace}` has no `{key}` \
             of its own: leave it out, and write `{key}` for each of them"
        ))))
    };
    for (key, resolved) in keys.iter().zip(top) {
        let what = match &resolved.from {
            Origin::Flag(flag) => flag.clone(),
            Origin::Variable(name) => format!("the variable {name}"),
            Origin::Line(_) | Origin::BuiltIn | Origin::Nowhere => continue,
        };
        let of_one = OF_ONE_WORKSPACE.contains(&key.arg.get_id().as_str());
        if let Some(workspace) = without(&key.name).filter(|_| of_one) {
            return refused(&what, &key.name, &workspace.name);
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

fn resolve(key: &Key, matches: &ArgMatches, top: &Section) -> Resolved {
    let id = key.arg.get_id().as_str();
    let values = match key.kind {
        Kind::Flag => vec![matches.get_flag(id).to_string().into()],
        _ => matches
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(ToOwned::to_owned)
            .collect(),
    };
    let from = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => {
            Origin::Flag(format!("--{}", key.arg.get_long().unwrap_or_default()))
        }
        Some(ValueSource::EnvVariable) => Origin::Variable(
            key.arg
                .get_env()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        ),
        Some(_) => top
            .get(&key.name)
            .map_or(Origin::BuiltIn, |setting| Origin::Line(setting.line)),
        None => Origin::Nowhere,
    };
    Resolved {
        values,
        from,
        ..Resolved::nothing(key)
    }
}

impl Notifications {
    /// Reads the entries, and says of each what is wrong with it.
    fn of(
        setting: Setting,
        directory: &Path,
        workspaces: &[&str],
        settings: &mut Settings,
    ) -> Self {
        let mut read = Self {
            line: setting.line,
            ..Self::default()
        };
        for (mut document, place) in setting.documents {
            let target = match Target::deserialize(&document) {
                Ok(target) => target,
                Err(error) => {
                    settings.problem(
                        Code::InvalidValue,
                        place,
                        without_values(error.to_string(), &document),
                        None,
                    );
                    continue;
                }
            };
            if read.targets.iter().any(|other| other.name == target.name) {
                let message = format!("there are two notifications named `{}`", target.name);
                settings.problem(Code::InvalidValue, place, message, None);
            }
            for name in target
                .workspaces
                .iter()
                .filter(|name| !workspaces.contains(&name.as_str()))
            {
                let message = format!(
                    "`workspaces` names `{}`, and there is no such workspace",
                    short(name)
                );
                let meant = closest(name, workspaces.iter().copied())
                    .map(|meant| format!("did you mean `{meant}`?"));
                settings.problem(Code::InvalidValue, place, message, meant);
            }
            make_absolute(&mut document, directory);
            read.targets.push(target.relative_to(directory));
            read.documents.push(document);
        }
        read
    }
}

/// A sentence about a document, without the texts that the document holds: where a secret belongs into a file, somebody may
/// have written it out.
fn without_values(mut sentence: String, document: &Value) -> String {
    match document {
        Value::String(text) if !text.is_empty() => {
            for (open, close) in [("\"", "\""), ("`", "`")] {
                sentence = sentence.replace(&format!("{open}{text}{close}"), "this");
            }
            sentence
        }
        Value::Array(items) => items.iter().fold(sentence, without_values),
        Value::Object(entries) => entries.values().fold(sentence, without_values),
        _ => sentence,
    }
}

/// Makes the paths of a document absolute: the values of keys such as `urlFile`.
fn make_absolute(document: &mut Value, directory: &Path) {
    let Some(entries) = document.as_object_mut() else {
        return;
    };
    for (key, value) in entries {
        match value {
            Value::String(path) if key.ends_with("File") => {
                let place = directory.join(&*path);
                *path = std::path::absolute(&place)
                    .unwrap_or(place)
                    .display()
                    .to_string();
            }
            other => make_absolute(other, directory),
        }
    }
}

fn short(text: &str) -> String {
    crate::model::ellipsize(&crate::model::printable(text), 100)
}

impl Configured {
    fn value(&self, key: &str) -> Option<String> {
        let resolved = self.resolved.iter().find(|resolved| resolved.key == key)?;
        resolved.values.first().map(|value| resolved.shown(value))
    }
}

impl Configuration {
    /// Whether an operator set this, in any way.
    pub(super) fn is_set(&self, key: &str) -> bool {
        let set = |one: &Resolved| {
            one.key == key && !matches!(one.from, Origin::BuiltIn | Origin::Nowhere)
        };
        self.top.iter().any(set)
    }

    fn is_for_several(&self) -> bool {
        self.workspaces
            .iter()
            .any(|workspace| workspace.name.is_some())
    }

    /// A sentence for each flag that does not hold for every workspace.
    pub(super) fn overridden(&self) -> impl Iterator<Item = String> {
        self.overridden.iter().map(|(flag, names)| {
            format!(
                "{flag} does not hold for {}: the configuration file says otherwise there",
                listed(names)
            )
        })
    }

    /// Logs what the configuration file says otherwise than at the start, if it does.
    pub(super) async fn report_changes(&self) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let shown = file.display().to_string();
        // It may be on a file system that hangs.
        let reading = tokio::task::spawn_blocking(move || load(Some(&file)));
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(Ok(fresh))) => {
                let differences = self.differences(&fresh);
                if !differences.is_empty() {
                    let changed = listed(&differences);
                    tracing::warn!(
                        changed,
                        "the configuration file {shown} has changed since the start: {changed}; restart the daemon to use it"
                    );
                }
            }
            Ok(Ok(Err(trouble))) => tracing::warn!(
                "the configuration file {shown} cannot be used any more: {}; until a restart the daemon keeps the \
                 configuration that it started with",
                trouble.sentence()
            ),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("the configuration file {shown} cannot be read in time")
            }
        }
    }

    /// The settings that another configuration has with other values, such as `interval` or `mode of staging`.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let changed =
            |ours: &[Resolved], theirs: &[Resolved], inner: Option<bool>| -> Vec<String> {
                let pairs = ours
                    .iter()
                    .zip(theirs)
                    .filter(|(one, _)| inner.is_none_or(|inner| one.inner == inner));
                pairs
                    .filter(|(one, other)| one.values != other.values)
                    .map(|(one, _)| one.key.clone())
                    .collect()
            };
        let several = self.is_for_several() || other.is_for_several();
        let mut differences = changed(&self.top, &other.top, several.then_some(false));
        let workspaces = |configuration: &'_ Self| -> BTreeMap<String, usize> {
            let named = configuration.workspaces.iter().enumerate();
            named
                .filter_map(|(at, workspace)| Some((workspace.name.clone()?, at)))
                .collect()
        };
        let (ours, theirs) = (workspaces(self), workspaces(other));
        for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
            differences.push(format!("the new workspace {name}"));
        }
        for (name, at) in &ours {
            let ours = self.workspaces.get(*at);
            let theirs = theirs.get(name).and_then(|at| other.workspaces.get(*at));
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    let keys = changed(&ours.resolved, &theirs.resolved, Some(true));
                    differences.extend(keys.into_iter().map(|key| format!("{key} of {name}")));
                }
                _ => differences.push(format!("the removed workspace {name}")),
            }
        }
        if self.notifications.documents != other.notifications.documents {
            differences.push(NOTIFICATIONS.to_owned());
        }
        differences
    }

    /// What holds, as a configuration file with where each value came from. Of a secret it knows the file at most.
    pub(super) fn print(&self) -> String {
        let mut out = String::from(
            "# The effective configuration of `calry-gitops run`, with the source of each value.\n",
        );
        let file = self.file.as_ref().map(|file| file.display().to_string());
        let several = self.is_for_several();
        let own = if several {
            "A workspace's own key wins over flags, flags"
        } else {
            "Flags win"
        };
        let _ = writeln!(
            out,
            "# {own} over variables, variables over {}.\n",
            file.as_ref().map_or_else(
                || "what is built in; there is no configuration file".to_owned(),
                |file| format!(
                    "{}{file}, and that over what is built in",
                    if several { "the top of " } else { "" }
                )
            )
        );
        let file = file.unwrap_or_default();
        for resolved in self
            .top
            .iter()
            .filter(|resolved| !(several && resolved.inner))
        {
            out.push_str(&resolved.line("", &file));
        }
        if !self.notifications.documents.is_empty() {
            let _ = writeln!(
                out,
                "{NOTIFICATIONS}: # {}",
                short(&format!("{file}:{}", self.notifications.line))
            );
            for document in &self.notifications.documents {
                // JSON is YAML, too.
                let _ = writeln!(out, "  - {document}");
            }
        }
        if several {
            out.push_str("workspaces:\n");
        }
        for workspace in self
            .workspaces
            .iter()
            .filter(|workspace| workspace.name.is_some())
        {
            let _ = writeln!(
                out,
                "  - name: {}",
                scalar(workspace.name.as_deref().unwrap_or_default())
            );
            for resolved in workspace.resolved.iter().filter(|resolved| resolved.inner) {
                out.push_str(&resolved.line("    ", &file));
            }
        }
        out
    }
}

/// The first few of many names.
fn listed(names: &[String]) -> String {
    const NAMED: usize = 8;
    let more = names.len().saturating_sub(NAMED);
    let first = names
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        format!("{first} and {more} more")
    } else {
        first
    }
}

impl Resolved {
    fn nothing(key: &Key) -> Self {
        Self {
            key: key.name.clone(),
            long: key.arg.get_long().unwrap_or_default().to_owned(),
            kind: key.kind,
            inner: key.inner,
            is_path: key.is_path(),
            values: Vec::new(),
            from: Origin::Nowhere,
        }
    }

    /// A workspace's own setting.
    fn of(key: &Key, setting: &Setting) -> Self {
        let values = setting.texts.iter().map(OsString::from).collect();
        Self {
            values,
            from: Origin::Line(setting.line),
            ..Self::nothing(key)
        }
    }

    /// The same on the command line.
    fn arguments(&self) -> Vec<OsString> {
        let flag = format!("--{}", self.long);
        match self.kind {
            Kind::Flag if self.values.iter().any(|value| value == "true") => vec![flag.into()],
            Kind::Flag => Vec::new(),
            Kind::Text | Kind::Duration | Kind::Number | Kind::List | Kind::Documents => {
                let argument = |value: &OsString| {
                    let mut argument = OsString::from(format!("{flag}="));
                    argument.push(value);
                    argument
                };
                self.values.iter().map(argument).collect()
            }
        }
    }

    fn shown(&self, value: &OsString) -> String {
        let absolute = if self.is_path {
            std::path::absolute(value).ok()
        } else {
            None
        };
        absolute.map_or_else(
            || value.to_string_lossy().into_owned(),
            |path| path.display().to_string(),
        )
    }

    fn line(&self, indentation: &str, file: &str) -> String {
        let key = &self.key;
        let values: Vec<String> = self.values.iter().map(|value| self.shown(value)).collect();
        let value = match self.kind {
            Kind::List | Kind::Documents => serde_json::to_string(&values).unwrap_or_default(),
            Kind::Text | Kind::Duration => values
                .first()
                .map(|value| scalar(value))
                .unwrap_or_default(),
            Kind::Number | Kind::Flag => values.first().cloned().unwrap_or_default(),
        };
        let from = match &self.from {
            Origin::Flag(flag) => format!("the flag {flag}"),
            Origin::Variable(name) => format!("the variable {name}"),
            Origin::Line(line) => format!("{file}:{line}"),
            Origin::BuiltIn => "built in".to_owned(),
            Origin::Nowhere
                if key == "apiKeyFile"
                    && std::env::var_os(API_KEY).is_some_and(|key| !key.is_empty()) =>
            {
                return format!(
                    "{indentation}# {key}: the variable {API_KEY} holds the key itself\n"
                );
            }
            Origin::Nowhere => return format!("{indentation}# {key}: not set\n"),
        };
        format!(
            "{indentation}{key}: {value} # {}\n",
            crate::model::printable(&from)
        )
    }
}

/// A text as YAML, in one line.
fn scalar(text: &str) -> String {
    let yaml = to_yaml(text);
    let yaml = yaml.trim_end();
    // JSON is YAML, and breaks no line.
    if yaml.contains('\n') {
        serde_json::to_string(text).unwrap_or_default()
    } else {
        yaml.to_owned()
    }
}

/// The JSON Schema (2020-12) of the file, made of the flags.
pub(super) fn schema() -> String {
    let keys = keys();
    let of = |inner: bool| -> Map<String, Value> {
        keys.iter()
            .filter(|key| key.inner || !inner)
            .map(|key| (key.name.clone(), key.schema()))
            .collect()
    };
    let mut workspace = of(true);
    let name = json!({
        "type": "string", "pattern": WORKSPACE_NAME, "maxLength": MAX_WORKSPACE_NAME,
        "description": "What log, status and metrics call it.",
    });
    workspace.insert("name".to_owned(), name);
    let mut top = of(false);
    let workspaces = json!({
        "type": "array", "minItems": 1,
        "description": "Several workspaces, kept side by side and apart from each other. What stands at the top of the file \
                        holds for each that does not say otherwise. Without it, the top is the one workspace.",
        "items": {"type": "object", "properties": workspace, "required": ["name"], "additionalProperties": false},
    });
    top.insert("workspaces".to_owned(), workspaces);
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let notifications = json!({
        "type": "array",
        "description": "Who is told what happened. Secrets stand in files, and are read anew each time.",
        "items": settings.into_generator().into_root_schema_for::<Target>(),
    });
    top.insert(NOTIFICATIONS.to_owned(), notifications);
    crate::report::json::pretty(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of calry-gitops run",
        "description": "Every key but two is a flag of `calry-gitops run`. A workspace's own key wins over flags, flags over \
                        variables, variables over the top of this file. Relative paths are relative to the directory of this file.",
        "type": "object",
        "properties": top,
        "additionalProperties": false,
    }))
}

impl Key {
    fn schema(&self) -> Value {
        let possible = self.arg.get_possible_values();
        let mut text = Map::from_iter([("type".to_owned(), json!("string"))]);
        if !possible.is_empty() && self.kind == Kind::Text {
            let names: Vec<&str> = possible
                .iter()
                .map(clap::builder::PossibleValue::get_name)
                .collect();
            text.insert("enum".to_owned(), json!(names));
        } else if self.kind == Kind::Duration {
            text.insert("examples".to_owned(), json!(["90s", "5m"]));
        }
        let mut schema = match self.kind {
            Kind::Text | Kind::Duration => Value::Object(text),
            Kind::Number => {
                json!({"type": "integer", "minimum": usize::from(self.judge("0").is_err())})
            }
            Kind::Flag => json!({"type": "boolean"}),
            Kind::List => json!({"anyOf": [{"type": "array", "items": text}, text]}),
            Kind::Documents => json!({"type": "array", "items": {"type": "object"}}),
        };
        if let (Some(schema), Some(help)) = (schema.as_object_mut(), self.arg.get_help()) {
            schema.insert("description".to_owned(), json!(format!("{help}.")));
            let default = self
                .arg
                .get_default_values()
                .first()
                .filter(|_| matches!(self.kind, Kind::Text | Kind::Duration));
            if let Some(default) = default {
                schema.insert("default".to_owned(), json!(default.to_string_lossy()));
            }
        }
        schema
    }
}

/// The command with these values below every flag's variable.
pub(super) fn below(command: clap::Command, defaults: &Defaults) -> clap::Command {
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

    use super::*;

    #[test]
    fn every_flag_of_run_is_a_key_and_every_key_a_flag() {
        let mut command = super::super::command(&Defaults::new());
        command.build();
        let run = command.find_subcommand("run").unwrap();
        let flags: BTreeSet<String> = run
            .get_arguments()
            .filter(|arg| !OF_ONE_CALL.contains(&arg.get_id().as_str()))
            .map(|arg| camel(arg.get_long().unwrap()))
            .collect();
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        let keys = schema["properties"].as_object().unwrap().keys().cloned();
        assert_eq!(
            keys.filter(|key| !["workspaces", NOTIFICATIONS].contains(&key.as_str()))
                .collect::<BTreeSet<_>>(),
            flags
        );
        assert!(flags.len() > 15, "{flags:?}");
    }

    #[test]
    fn what_is_left_out_of_the_file_or_bound_to_one_workspace_is_still_a_flag() {
        let mut command = super::super::command(&Defaults::new());
        command.build();
        let run = command.find_subcommand("run").unwrap();
        let flags: Vec<&str> = run
            .get_arguments()
            .map(|arg| arg.get_id().as_str())
            .collect();
        for id in OF_ONE_CALL
            .iter()
            .chain(&OF_ONE_WORKSPACE)
            .filter(|id| **id != "version")
        {
            assert!(flags.contains(id), "{id}");
        }
        let inner: Vec<String> = keys()
            .into_iter()
            .filter(|key| key.inner)
            .map(|key| key.name)
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
        ] {
            assert!(inner.iter().any(|inner| inner == key), "{key}");
        }
        assert!(
            !inner
                .iter()
                .any(|key| ["listen", "adminHost", "logFormat"].contains(&key.as_str())),
            "{inner:?}"
        );
    }
}
