//! Reads maps with a fixed set of keys, and collects their problems: of definitions, and of the configuration file.
//!
//! Never: repeat a value in a message, or a key that is not a valid name.

use std::collections::HashMap;

use super::mask::is_name;
use super::source::{Collector, NewDiagnostic, Source};
use super::yaml::{Node, Span, Tree, Value};
use crate::model::{Code, closest};

/// YAML's merge key, with which other parsers copy the entries of another map.
pub(super) const MERGE_KEY: &str = "<<";

/// A key and its value.
pub(crate) struct Entry<'n> {
    pub(crate) name: &'n str,
    pub(crate) at: Span,
    pub(crate) value: &'n Node<'n>,
}

/// The name in backquotes, or `this` and the noun if messages may not repeat it.
pub(crate) fn quote_name(name: &str, noun: &str) -> String {
    if is_name(name) {
        format!("`{name}`")
    } else {
        format!("this {noun}")
    }
}

/// The key of a definition below which another key belongs.
fn parent_key(key: &str) -> Option<&'static str> {
    match key {
        "headers" | "queryParams" => Some("partnerKey"),
        "listing" => Some("fieldsToSync"),
        "until" | "reason" => Some("hold"),
        _ => None,
    }
}

fn did_you_mean(name: &str, candidates: &[&str]) -> Option<String> {
    closest(name, candidates.iter().copied()).map(|meant| format!("did you mean `{meant}`?"))
}

fn kind_of(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null | Value::Refused => "nothing",
        Value::Bool(_) => "a boolean",
        Value::SpelledBool => "a boolean in another spelling",
        Value::Number => "a number",
        Value::Text(_) => "a string",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

/// Reads maps with a fixed set of keys, and collects their problems.
pub(crate) struct Reader<'s> {
    pub(super) source: &'s Source,
    pub(crate) problems: Collector<'s>,
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s Source, tree: &Tree<'_>) -> Self {
        let mut problems = Collector::new(source, 0);
        for problem in &tree.problems {
            problems.syntax(problem);
        }
        Self { source, problems }
    }

    pub(crate) fn error(
        &mut self,
        code: Code,
        at: Span,
        message: impl Into<String>,
    ) -> NewDiagnostic<'_> {
        self.problems.error(code, Some(at), message)
    }

    pub(super) fn warning(
        &mut self,
        code: Code,
        at: Span,
        message: impl Into<String>,
    ) -> NewDiagnostic<'_> {
        self.problems.warning(code, Some(at), message)
    }

    /// Reports a value of the wrong type.
    pub(crate) fn wrong_type(
        &mut self,
        what: &str,
        key: Span,
        node: &Node<'_>,
        wanted: &str,
        help: Option<&str>,
    ) {
        // A value without a span of its own is shown by its key.
        let at = if node.span.is_empty() { key } else { node.span };
        let message = match &node.value {
            Value::Null => format!("{what} must be {wanted}, and has no value"),
            value => format!("{what} must be {wanted}, not {}", kind_of(value)),
        };
        let joined = wanted == "a map" && self.is_joined(node);
        let help = if joined {
            Some("write a space after the `:`, as in `key: value`")
        } else {
            help
        };
        if !matches!(node.value, Value::Refused) {
            self.error(Code::WrongType, at, message)
                .help_with(|| help.map(str::to_owned));
        }
    }

    /// Whether a string is a key and a value without the space between them.
    fn is_joined(&self, node: &Node<'_>) -> bool {
        let text = node.span.of(self.source.text());
        let parts = text
            .split_once(':')
            .filter(|(key, _)| node.text().is_some() && is_name(key));
        parts.is_some_and(|(_, value)| !value.is_empty() && !value.starts_with([' ', '\t', '/']))
    }

    /// The entries of a map; of duplicate keys, the first. `what` names the map in messages, `key` is the span of its
    /// own key.
    pub(crate) fn entries<'n>(
        &mut self,
        what: &str,
        key: Span,
        node: &'n Node<'n>,
        help: Option<&str>,
    ) -> Option<Vec<Entry<'n>>> {
        let Value::Map(map) = &node.value else {
            self.wrong_type(what, key, node, "a map", help);
            return None;
        };
        let mut entries: Vec<Entry<'n>> = Vec::with_capacity(map.len());
        let mut seen = HashMap::with_capacity(map.len());
        for (key, value) in map {
            let Some(name) = key.text() else {
                if !matches!(key.value, Value::Refused) {
                    self.error(
                        Code::WrongType,
                        key.span,
                        format!("a key must be a string, not {}", kind_of(&key.value)),
                    )
                    .help_with(|| key.is_scalar().then(|| "put it in quotes".to_owned()));
                }
                continue;
            };
            if name == MERGE_KEY {
                self.error(Code::Syntax, key.span, "merge keys are not supported")
                    .help("write out the entries");
            } else if let Some(first) = seen.insert(name, key.span) {
                self.duplicate(&quote_name(name, "key"), key.span, first);
                seen.insert(name, first);
            } else {
                entries.push(Entry {
                    name,
                    at: key.span,
                    value,
                });
            }
        }
        Some(entries)
    }

    pub(crate) fn duplicate(&mut self, what: &str, at: Span, first: Span) {
        let source = self.source;
        self.error(Code::DuplicateKey, at, format!("duplicate {what}"))
            .help(format!(
                "it is already in line {}: remove one of them",
                source.line(first.start())
            ));
    }

    pub(crate) fn unknown_key(&mut self, entry: &Entry<'_>, whose: &str, known: &[&str]) {
        let message = format!("{} is not a key of {whose}", quote_name(entry.name, "key"));
        let list = || {
            known
                .iter()
                .map(|key| format!("`{key}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.error(Code::UnknownKey, entry.at, message)
            .help_with(|| {
                let parent = parent_key(entry.name).filter(|parent| known.contains(parent));
                parent
                    .map(|parent| format!("put it below `{parent}`, indented"))
                    .or_else(|| did_you_mean(entry.name, known))
                    .or_else(|| Some(format!("the keys are {}", list())))
            });
    }

    pub(crate) fn text<'n>(
        &mut self,
        what: &str,
        entry: &Entry<'n>,
        help: Option<&str>,
    ) -> Option<&'n str> {
        let text = entry.value.text();
        if text.is_none() {
            let quote = matches!(
                entry.value.value,
                Value::Bool(_) | Value::SpelledBool | Value::Number
            )
            .then_some("put it in quotes");
            let help = match what {
                // A number or boolean is wrong in quotes as well.
                "`icon`" => Some(
                    "write the URL of an image, or remove the line to leave it as it is in Calry",
                ),
                "`provider`" => Some("write the name of one provider, such as `HOSTAWAY`"),
                _ => quote.or(help),
            };
            self.wrong_type(what, entry.at, entry.value, "a string", help);
        }
        text
    }

    /// The entries at the top level of the document. `what` names the document in messages.
    pub(crate) fn root<'n>(
        &mut self,
        tree: &'n Tree<'n>,
        what: &str,
        help: &str,
    ) -> Option<Vec<Entry<'n>>> {
        match &tree.root {
            Some(root) if !matches!(root.value, Value::Null) => {
                self.entries(what, Span::default(), root, Some(help))
            }
            _ => {
                self.problems
                    .error(Code::MissingKey, None, "the file is empty")
                    .help(help);
                None
            }
        }
    }
}
