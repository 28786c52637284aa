//! Reads the operator's configuration file: the keys it has, as texts with their positions.
//!
//! It knows the form of the file, and of each key only its kind: what a text means, and which value is effective in the
//! end, is decided by its caller, which knows the command line. Like a definition, the file is bounded and all of its
//! problems are reported at once.
//!
//! Never: quote the value of a key that it does not know, which may be a secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::Value as Json;

use crate::desired::definitions::mask::WORKSPACES;
use crate::desired::definitions::reader::{Entry, Reader};
use crate::desired::definitions::source::{Collector, Source};
use crate::desired::definitions::yaml::{Node, Span, Value};
use crate::model::{Code, Diagnostic, read_at_most};

/// The largest configuration file, in bytes.
const MAX_FILE: u64 = 8 << 20;
/// The most values it may hold: a workspace takes about twenty.
const MAX_NODES: usize = 200_000;
/// The most workspaces of one daemon.
const MAX_WORKSPACES: usize = 5000;
/// The longest name of a workspace, in characters: it is part of file names.
pub(super) const MAX_WORKSPACE_NAME: usize = 63;
pub(super) const WORKSPACE_NAME: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    Text,
    /// A duration with its unit, such as `60s`.
    Duration,
    /// A whole number that is not negative.
    Number,
    /// A number of providers, or a share of them such as `30%`.
    MaxChanges,
    /// `true` or `false`.
    Flag,
    /// A list of texts, or a single one.
    List,
    /// A list of maps, whose keys the caller knows.
    Documents,
}

/// The keys of the top of the file, each with its kind and whether a workspace can have it as well.
pub(super) type KeyKinds = BTreeMap<String, (ValueKind, bool)>;

/// A position in the file, to show a problem at.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilePosition(Span);

#[derive(Clone, Debug)]
pub(super) struct FileValue {
    /// The texts; only a [`ValueKind::List`] can have several.
    pub texts: Vec<String>,
    /// The maps of [`ValueKind::Documents`].
    pub documents: Vec<(Json, FilePosition)>,
    pub at: FilePosition,
    /// The line of its key, from 1.
    pub line: usize,
}

/// Values by their keys.
pub(super) type Section = BTreeMap<String, FileValue>;

#[derive(Debug)]
pub(super) struct WorkspaceSection {
    /// Its name, which no other workspace has.
    pub name: String,
    pub at: FilePosition,
    pub values: Section,
}

/// The operator's configuration file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    source: Source,
    problems: Vec<Diagnostic>,
    /// The values for the daemon, and for each workspace without its own value.
    pub top: Section,
    /// The workspaces; `None` if the file names none, so that the top is about one workspace.
    pub workspaces: Option<Vec<WorkspaceSection>>,
}

/// Why the file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ConfigFileError {
    #[error("the configuration file {0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    #[error("the configuration file {0} is larger than {mib} MiB; is it the right one?", mib = MAX_FILE >> 20)]
    TooLarge(String),
    #[error("the configuration file {0} is not UTF-8")]
    NotText(String),
}

impl ConfigFile {
    /// Reads the file. What is wrong with its content is among its [problems](Self::problems).
    pub(super) fn read(path: &Path, keys: &KeyKinds) -> Result<Self, ConfigFileError> {
        let name = path.display().to_string();
        let bytes = File::open(path)
            .and_then(|file| read_at_most(file, MAX_FILE))
            .map_err(|error| ConfigFileError::Unreadable(name.clone(), error))?
            .ok_or_else(|| ConfigFileError::TooLarge(name.clone()))?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigFileError::NotText(name.clone()))?;
        Ok(Self::of(
            &name,
            text.strip_prefix('\u{feff}')
                .map(str::to_owned)
                .unwrap_or(text),
            keys,
        ))
    }

    pub(super) fn of(name: &str, text: String, keys: &KeyKinds) -> Self {
        let source = Source::new(name, text);
        let shown = |key: &str| key == "name" || keys.contains_key(key);
        let (top, workspaces, problems) = match source.parse_settings(MAX_NODES, &shown) {
            Err(problem) => {
                let mut problems = Collector::new(&source, 0);
                problems.syntax(&problem);
                (Section::new(), None, problems.finish().diagnostics)
            }
            Ok(tree) => {
                let mut sections = SectionReader {
                    source: &source,
                    reader: Reader::new(&source, &tree),
                    keys,
                };
                let entries = sections.reader.root(
                    &tree,
                    "a configuration",
                    "write one `key: value` in each line",
                );
                let (top, workspaces) = sections.top(entries.unwrap_or_default());
                (
                    top,
                    workspaces,
                    sections.reader.problems.finish().diagnostics,
                )
            }
        };
        Self {
            source,
            problems,
            top,
            workspaces,
        }
    }

    pub(super) fn add_problem(
        &mut self,
        code: Code,
        at: FilePosition,
        message: String,
        help: Option<String>,
    ) {
        let mut problems = Collector::new(&self.source, self.problems.len());
        problems.error(code, Some(at.0), message).help_with(|| help);
        self.problems.extend(problems.finish().diagnostics);
    }

    /// Every problem, sorted by line.
    #[must_use]
    pub(super) fn problems(&self) -> Vec<Diagnostic> {
        let mut problems = self.problems.clone();
        problems.sort_by_key(|problem| {
            problem
                .excerpt
                .as_ref()
                .map_or((usize::MAX, 0), |at| (at.line, at.column))
        });
        problems
    }
}

struct SectionReader<'s> {
    source: &'s Source,
    reader: Reader<'s>,
    keys: &'s KeyKinds,
}

impl SectionReader<'_> {
    fn top(&mut self, entries: Vec<Entry<'_>>) -> (Section, Option<Vec<WorkspaceSection>>) {
        let mut known: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        known.push(WORKSPACES);
        let mut workspaces = None;
        let mut top = Section::new();
        for entry in &entries {
            match self.keys.get(entry.name) {
                _ if entry.name == WORKSPACES => workspaces = Some(self.workspaces(entry)),
                Some((kind, _)) => self.value(*kind, entry, &mut top),
                None => self.reader.unknown_key(entry, "a configuration", &known),
            }
        }
        (top, workspaces)
    }

    fn workspaces(&mut self, entry: &Entry<'_>) -> Vec<WorkspaceSection> {
        let help = "write `- name: NAME` below it, with the keys of that workspace";
        let items = match &entry.value.value {
            Value::List(items) => items,
            _ => {
                self.reader.wrong_type(
                    "`workspaces`",
                    entry.at,
                    entry.value,
                    "a list of workspaces",
                    Some(help),
                );
                return Vec::new();
            }
        };
        if items.is_empty() || items.len() > MAX_WORKSPACES {
            let message = format!(
                "`workspaces` has {} entries; it takes 1 to {MAX_WORKSPACES}",
                items.len()
            );
            self.reader
                .error(Code::InvalidValue, entry.at, message)
                .help(help);
            return Vec::new();
        }
        let mut names = BTreeMap::new();
        items
            .iter()
            .filter_map(|item| self.workspace(entry.at, item, &mut names))
            .collect()
    }

    fn workspace(
        &mut self,
        list: Span,
        item: &Node<'_>,
        names: &mut BTreeMap<String, Span>,
    ) -> Option<WorkspaceSection> {
        let entries =
            self.reader
                .entries("a workspace", list, item, Some("begin with `name: NAME`"))?;
        let known: Vec<&str> = self
            .keys
            .iter()
            .filter(|(_, (_, inner))| *inner)
            .map(|(key, _)| key.as_str())
            .collect();
        let known_or_name: Vec<&str> = known.iter().copied().chain(["name"]).collect();
        let mut values = Section::new();
        let (mut name, mut named) = (None, false);
        for entry in &entries {
            match self.keys.get(entry.name) {
                _ if entry.name == "name" => {
                    named = true;
                    name = self.name(entry, names);
                }
                Some((kind, true)) => self.value(*kind, entry, &mut values),
                Some((_, false)) => {
                    let message = format!(
                        "`{}` is a key of the whole daemon, not of a workspace",
                        entry.name
                    );
                    self.reader
                        .error(Code::UnknownKey, entry.at, message)
                        .help("write it at the top of the file");
                }
                None => self
                    .reader
                    .unknown_key(entry, "a workspace", &known_or_name),
            }
        }
        let at = entries.first().map_or(item.span, |entry| entry.at);
        if !named {
            let message = "the workspace has no name";
            self.reader
                .error(Code::MissingKey, at, message)
                .help("add `name: NAME`, which log, status and metrics show");
        }
        Some(WorkspaceSection {
            name: name?,
            at: FilePosition(at),
            values,
        })
    }

    fn name(&mut self, entry: &Entry<'_>, names: &mut BTreeMap<String, Span>) -> Option<String> {
        let name = self.reader.text("`name`", entry, None)?;
        let at = entry.value.span;
        if !is_workspace_name(name) {
            let message = format!(
                "a workspace name has 1 to {MAX_WORKSPACE_NAME} characters of `a` to `z`, `0` to `9` and `-`, and no `-` at either end"
            );
            self.reader.error(Code::InvalidValue, at, message);
            return None;
        }
        if let Some(first) = names.get(name) {
            self.reader
                .duplicate(&format!("a workspace `{name}`"), at, *first);
            return None;
        }
        names.insert(name.to_owned(), at);
        Some(name.to_owned())
    }

    fn value(&mut self, kind: ValueKind, entry: &Entry<'_>, into: &mut Section) {
        let what = format!("`{}`", entry.name);
        let leave = Some("to use the default, remove the line");
        let mut documents = Vec::new();
        let texts = match (kind, &entry.value.value) {
            (ValueKind::Documents, Value::List(items))
                if items.iter().all(|item| matches!(item.value, Value::Map(_))) =>
            {
                for item in items {
                    let document = self.json(&format!("an entry of {what}"), entry.at, item);
                    let at = match &item.value {
                        Value::Map(entries) => {
                            entries.first().map_or(item.span, |(key, _)| key.span)
                        }
                        _ => item.span,
                    };
                    documents.extend(document.map(|document| (document, FilePosition(at))));
                }
                Vec::new()
            }
            (
                ValueKind::Text | ValueKind::List | ValueKind::Duration | ValueKind::MaxChanges,
                Value::Text(text),
            ) => vec![text.clone().into_owned()],
            (ValueKind::Number | ValueKind::MaxChanges, Value::Number)
                if self
                    .written(entry.value)
                    .bytes()
                    .all(|byte| byte.is_ascii_digit()) =>
            {
                vec![self.written(entry.value).to_owned()]
            }
            (ValueKind::Flag, Value::Bool(set)) => vec![set.to_string()],
            (ValueKind::List, Value::List(items)) => {
                for item in items.iter().filter(|item| item.text().is_none()) {
                    self.reader.wrong_type(
                        &format!("an entry of {what}"),
                        entry.at,
                        item,
                        "a string",
                        Some("put it in quotes"),
                    );
                }
                items
                    .iter()
                    .filter_map(|item| item.text().map(str::to_owned))
                    .collect()
            }
            (kind, _) => {
                let (wanted, help) = match kind {
                    ValueKind::Text => {
                        self.reader.text(&what, entry, leave);
                        return;
                    }
                    ValueKind::Documents => ("a list of maps", leave),
                    ValueKind::Duration => ("a duration", Some("add its unit, such as `60s`")),
                    ValueKind::MaxChanges => ("a number, a share such as `30%`, or `none`", leave),
                    ValueKind::Number => ("a whole number", leave),
                    ValueKind::Flag => ("`true` or `false`", leave),
                    ValueKind::List => ("a list of strings", leave),
                };
                return self
                    .reader
                    .wrong_type(&what, entry.at, entry.value, wanted, help);
            }
        };
        // An empty value is shown at its key.
        let at = if entry.value.span.is_empty() {
            entry.at
        } else {
            entry.value.span
        };
        let line = self.source.line(entry.at.start());
        into.insert(
            entry.name.to_owned(),
            FileValue {
                texts,
                documents,
                at: FilePosition(at),
                line,
            },
        );
    }

    /// A node as JSON; `None` if it has no such form, which is added as a problem.
    fn json(&mut self, what: &str, key: Span, node: &Node<'_>) -> Option<Json> {
        match &node.value {
            Value::Null => Some(Json::Null),
            Value::Bool(set) => Some(Json::Bool(*set)),
            Value::Text(text) => Some(Json::String(text.clone().into_owned())),
            Value::SpelledBool | Value::Number => {
                let number = serde_json::from_str(self.written(node)).ok();
                if number.is_none() {
                    self.reader.wrong_type(
                        what,
                        key,
                        node,
                        "a text or a whole number",
                        Some("put it in quotes"),
                    );
                }
                number
            }
            Value::List(items) => items
                .iter()
                .map(|item| self.json(what, key, item))
                .collect(),
            Value::Map(_) => {
                let entries = self.reader.entries(what, key, node, None)?;
                let json = |entry: &Entry<'_>| {
                    let what = format!("`{}`", entry.name);
                    Some((
                        entry.name.to_owned(),
                        self.json(&what, entry.at, entry.value)?,
                    ))
                };
                entries.iter().map(json).collect()
            }
            Value::Refused => None,
        }
    }

    fn written(&self, node: &Node<'_>) -> &str {
        node.span.of(self.source.text())
    }
}

/// Whether a text fits [`WORKSPACE_NAME`].
fn is_workspace_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_WORKSPACE_NAME).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_read_with_their_positions_and_only_their_keys_are_shown() {
        let keys = BTreeMap::from([("notifications".to_owned(), (ValueKind::Documents, false))]);
        let of = |text: &str| ConfigFile::of("c.yaml", text.to_owned(), &keys);
        let mut read = of(
            "notifications:\n  - name: ops\n    slack: {urlFile: CANARY}\n    holdDays: 3\n  - {a: [b, true]}\n",
        );
        assert!(read.problems().is_empty(), "{:?}", read.problems());
        let documents = read.top["notifications"].documents.clone();
        let values: Vec<&Json> = documents.iter().map(|(value, _)| value).collect();
        let slack = json!({"name": "ops", "slack": {"urlFile": "CANARY"}, "holdDays": 3});
        assert_eq!(values, [&slack, &json!({"a": ["b", true]})]);
        read.add_problem(Code::InvalidValue, documents[1].1, "no".to_owned(), None);
        read.add_problem(Code::InvalidValue, documents[0].1, "no".to_owned(), None);
        let shown: Vec<(usize, usize, String)> = read
            .problems()
            .into_iter()
            .filter_map(|p| p.excerpt)
            .map(|e| (e.line, e.column, e.text))
            .collect();
        assert_eq!(
            shown,
            [
                (2, 5, "  - name: ***".to_owned()),
                (5, 6, "  - {a: ***".to_owned())
            ]
        );

        let twice = of("notifications: [{a: CANARY, a: CANARY}, {b: 1.x}, {c: .inf}]").problems();
        assert_eq!(
            twice.iter().map(|p| p.code).collect::<Vec<_>>(),
            [Code::DuplicateKey, Code::WrongType]
        );
        assert!(!format!("{twice:?}").contains("CANARY"));
        assert_eq!(
            of("notifications: {a: b}").problems()[0].code,
            Code::WrongType
        );
    }
}
