//! Reads a file of policies. Every problem is reported at once, with its line.

use std::collections::BTreeSet;
use std::fs::File;

use super::expression::BoundedExpression;
use super::{Message, Policies, Policy, PolicyFile, Scope};
use crate::desired::definitions::reader::{Entry, Reader};
use crate::desired::definitions::source::{Collector, Source};
use crate::desired::definitions::yaml::{Span, Tree, Value};
use crate::model::{Code, Diagnostic, read_at_most};
use crate::plan::PolicyAction;

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most values it may hold.
const MAX_NODES: usize = 10_000;
/// The most policies of a file.
const MAX_POLICIES: usize = 100;
/// The longest name, in characters.
const MAX_NAME: usize = 63;
const KEYS: [&str; 8] = [
    "name",
    "each",
    "when",
    "expression",
    "message",
    "messageExpression",
    "action",
    "liftedByApproval",
];

impl PolicyFile {
    /// Reads the file. If that fails, or one policy has an error, every plan is denied.
    #[must_use]
    pub fn read(&self) -> Policies {
        let name = self.0.display().to_string();
        let text = File::open(&self.0)
            .and_then(|file| read_at_most(file, MAX_FILE))
            .map_err(|error| format!("it cannot be read: {error}"))
            .and_then(|bytes| {
                bytes.ok_or_else(|| format!("it is larger than {} KiB", MAX_FILE >> 10))
            })
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
        match text {
            Ok(text) => Policies::parse(&name, text),
            Err(problem) => Policies {
                problems: vec![problem],
                name,
                ..Policies::default()
            },
        }
    }
}

impl Policies {
    /// Reads the text of a file. `name` names it in messages.
    #[must_use]
    pub fn parse(name: &str, text: String) -> Self {
        let source = Source::new(name, text);
        let (policies, problems) = match source.parse_settings(MAX_NODES, &|_| true) {
            Err(problem) => {
                let mut problems = Collector::new(&source, 0);
                problems.syntax(&problem);
                (Vec::new(), problems.finish().diagnostics)
            }
            Ok(tree) => {
                let mut reader = PolicyReader(Reader::new(&source, &tree));
                let policies = reader.policies(&tree);
                (policies, reader.0.problems.finish().diagnostics)
            }
        };
        let problems = problems.iter().map(sentence).collect();
        Self {
            policies,
            problems,
            name: name.to_owned(),
        }
    }
}

fn sentence(problem: &Diagnostic) -> String {
    let at = problem.excerpt.as_ref();
    let at = at.map(|at| format!("line {}, column {}: ", at.line, at.column));
    let help = problem.help.as_ref().map(|help| format!("; {help}"));
    format!(
        "{}{}{}",
        at.unwrap_or_default(),
        problem.message,
        help.unwrap_or_default()
    )
}

struct PolicyReader<'s>(Reader<'s>);

impl PolicyReader<'_> {
    fn policies(&mut self, tree: &Tree<'_>) -> Vec<Policy> {
        let help = "begin with `policies:` and a list of policies";
        let entries = self.0.root(tree, "the file", help).unwrap_or_default();
        let mut policies = Vec::new();
        if !entries.iter().any(|entry| entry.name == "policies") && !entries.is_empty() {
            let problems = &mut self.0.problems;
            let message = "the file has no `policies`";
            problems.error(Code::MissingKey, None, message).help(help);
        }
        for entry in &entries {
            if entry.name != "policies" {
                self.0.unknown_key(entry, "the file", &["policies"]);
                continue;
            }
            let Value::List(items) = &entry.value.value else {
                self.0
                    .wrong_type("`policies`", entry.at, entry.value, "a list", Some(help));
                continue;
            };
            if items.len() > MAX_POLICIES {
                let message = format!("there are more than {MAX_POLICIES} policies");
                self.0.error(Code::InvalidValue, entry.at, message);
            }
            let mut names = BTreeSet::new();
            for item in items.iter().take(MAX_POLICIES) {
                let Some(entries) = self.0.entries("a policy", item.span, item, None) else {
                    continue;
                };
                if let Some(policy) = self.policy(item.span, &entries) {
                    if !names.insert(policy.name.clone()) {
                        let message = "another policy has this name";
                        self.0.error(Code::DuplicateKey, item.span, message);
                    }
                    policies.push(policy);
                }
            }
        }
        policies
    }

    fn policy(&mut self, at: Span, entries: &[Entry<'_>]) -> Option<Policy> {
        for entry in entries.iter().filter(|entry| !KEYS.contains(&entry.name)) {
            self.0.unknown_key(entry, "a policy", &KEYS);
        }
        let find = |name: &str| entries.iter().find(|entry| entry.name == name);
        let missing = |reader: &mut Self, what: &str| {
            let message = format!("the policy has no `{what}`");
            reader.0.error(Code::MissingKey, at, message);
        };
        let name = match find("name") {
            Some(entry) => self.name(entry),
            None => {
                missing(self, "name");
                None
            }
        };
        let scope = match find("each") {
            Some(entry) => self.one_of(entry, &Scope::ALL),
            None => {
                missing(self, "each");
                None
            }
        };
        // Names are checked once it is known which ones there are.
        let variables = scope.map_or(&["change", "provider", "plan", "today"][..], |scope| {
            scope.variables()
        });
        let when = find("when").map(|entry| self.expression(entry, variables));
        let expression = match find("expression") {
            Some(entry) => self.expression(entry, variables),
            None => {
                missing(self, "expression");
                None
            }
        };
        let message = match (find("message"), find("messageExpression")) {
            (Some(entry), None) => self
                .0
                .text("`message`", entry, None)
                .map(|text| Message::Text(text.to_owned())),
            (None, Some(entry)) => self.expression(entry, variables).map(Message::Expression),
            (Some(_), Some(entry)) => {
                let message = "the policy has a `message` as well";
                self.0
                    .error(Code::InvalidValue, entry.at, message)
                    .help("remove one of them");
                None
            }
            (None, None) => {
                missing(self, "message");
                None
            }
        };
        let actions = [("deny", PolicyAction::Deny), ("warn", PolicyAction::Warn)];
        let action = find("action").map_or(Some(PolicyAction::Deny), |entry| {
            self.one_of(entry, &actions)
        });
        let lifted_by_approval = match find("liftedByApproval") {
            None => Some(false),
            Some(entry) => {
                if let Value::Bool(value) = entry.value.value {
                    Some(value)
                } else {
                    self.0.wrong_type(
                        "`liftedByApproval`",
                        entry.at,
                        entry.value,
                        "true or false",
                        None,
                    );
                    None
                }
            }
        };
        let when = match when {
            None => None,
            Some(compiled) => Some(compiled?),
        };
        Some(Policy {
            name: name?,
            scope: scope?,
            when,
            expression: expression?,
            message: message?,
            action: action?,
            lifted_by_approval: lifted_by_approval?,
        })
    }

    fn name(&mut self, entry: &Entry<'_>) -> Option<String> {
        let text = self.0.text("`name`", entry, None)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_name = !text.is_empty()
            && text.len() <= MAX_NAME
            && text.chars().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !is_name {
            let message = format!(
                "a name has at most {MAX_NAME} lower-case letters, digits and hyphens inside"
            );
            self.0.error(Code::InvalidValue, entry.value.span, message);
        }
        is_name.then(|| text.to_owned())
    }

    fn one_of<T: Copy>(&mut self, entry: &Entry<'_>, allowed: &[(&str, T)]) -> Option<T> {
        let what = format!("`{}`", entry.name);
        let text = self.0.text(&what, entry, None)?;
        let found = allowed.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<String> = allowed
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            let message = format!("{what} must be {}", names.join(" or "));
            self.0.error(Code::InvalidValue, entry.value.span, message);
        }
        found.map(|(_, value)| *value)
    }

    fn expression(&mut self, entry: &Entry<'_>, variables: &[&str]) -> Option<BoundedExpression> {
        let what = format!("`{}`", entry.name);
        let text = self.0.text(&what, entry, Some("put it in quotes"))?;
        let compiled = BoundedExpression::compile(text, variables);
        compiled
            .map_err(|problem| {
                let message = format!("{what} is not a CEL expression for this policy: {problem}");
                self.0.error(Code::InvalidValue, entry.value.span, message);
            })
            .ok()
    }
}
