//! What snapshots and backups have in common: the first keys of the document, and a definition in it.
//!
//! Such a document comes from a file or a server, and any program may have written it.
//!
//! Never: accept a part that cannot be read, or a text that is not safe to print.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Unreadable;
use super::wire::{self, BodyError};
use crate::model::{
    DefinitionPart, KeySection, Live, LiveFields, LiveProblems, LiveValue, Provider, Workspace,
    ellipsize, printable,
};

/// The longest problem that is read, in characters.
pub(super) const MAX_PROBLEM: usize = 300;

/// Why a document cannot be used. The texts never quote it.
#[derive(Debug)]
pub(super) enum InvalidDocument {
    Form(String),
    /// It has this version.
    Version(String),
}

/// Parses a document of one kind and version.
pub(super) fn parse(
    bytes: &[u8],
    kind: &str,
    version: u64,
) -> Result<Map<String, Value>, InvalidDocument> {
    let form = InvalidDocument::Form;
    let mut document = wire::parse_object(bytes).map_err(|problem| match problem {
        BodyError::NotJson => form("it is not JSON".to_owned()),
        BodyError::Shape(problem) => form(problem),
    })?;
    if wire::take_text(&mut document, "kind").ok().as_deref() != Some(kind) {
        return Err(form(format!("it lacks `\"kind\": \"{kind}\"`")));
    }
    match document.remove("version") {
        Some(Value::Number(found)) if found.as_u64() == Some(version) => Ok(document),
        Some(Value::Number(found)) => {
            Err(InvalidDocument::Version(ellipsize(&found.to_string(), 20)))
        }
        _ => Err(form("`version` is not a number".to_owned())),
    }
}

pub(super) fn take_workspace(document: &mut Map<String, Value>) -> Result<Workspace, String> {
    let Some(Value::Object(workspace)) = document.remove("workspace") else {
        return Err("`workspace` is not an object".to_owned());
    };
    wire::workspace_from(workspace).map_err(|problem| format!("`workspace`: {problem}"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SavedDefinition<'a> {
    provider: &'a str,
    id: &'a str,
    name: &'a str,
    icon: Option<&'a str>,
    partner_key: BTreeMap<&'static str, BTreeMap<&'a str, Option<Cow<'a, str>>>>,
    fields_to_sync: &'a LiveFields,
    pub(super) updated_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<&'a LiveProblems>,
}

impl<'a> SavedDefinition<'a> {
    /// `shown` decides what is written of a value below `partnerKey`.
    pub(super) fn new(
        live: &'a Live,
        shown: impl Fn(KeySection, &str, &'a LiveValue) -> Option<Cow<'a, str>>,
    ) -> Self {
        // Destructured in full: a new part does not compile until it is decided how much of it may be written.
        let Live {
            id,
            name,
            provider,
            icon,
            partner_key,
            fields,
            updated_at,
            problems,
        } = live;
        let section = |section: KeySection| {
            let values = partner_key.section(section)?.iter();
            let shown = values.map(|(name, value)| (name.as_str(), shown(section, name, value)));
            Some((section.key(), shown.collect()))
        };
        Self {
            provider: provider.as_str(),
            id,
            name,
            icon: icon.as_deref(),
            partner_key: KeySection::BOTH.into_iter().filter_map(section).collect(),
            fields_to_sync: fields,
            updated_at,
            problems: (*problems != LiveProblems::default()).then_some(problems),
        }
    }
}

/// Parses one definition; `value` parses the values below `partnerKey`.
pub(super) fn read_definition(
    object: &mut Map<String, Value>,
    value: impl Fn(&Provider, KeySection, &str, Value) -> Result<LiveValue, &'static str>,
) -> Result<Live, Unreadable> {
    let mut problems = object
        .remove("problems")
        .unwrap_or_else(|| Value::Object(Map::new()));
    let mut live = wire::read_definition(object, value)?;
    let unreadable = |problem: &str| Unreadable {
        provider: Some(live.provider.clone()),
        problem: problem.to_owned(),
    };
    // Calry's answers may have unreadable parts, these documents may not: a value in a wrong place must not go unnoticed.
    let mut parts = DefinitionPart::ALL.into_iter();
    if let Some(problem) = parts.find_map(|part| live.problems.part(part)) {
        return Err(unreadable(problem));
    }
    make_printable(&mut problems);
    live.problems = serde_json::from_value(problems)
        .map_err(|_| unreadable("`problems` has the wrong form"))?;
    Ok(live)
}

/// Makes every text of a map of problems safe to print.
fn make_printable(problems: &mut Value) {
    match problems {
        Value::String(text) => *text = ellipsize(&printable(text), MAX_PROBLEM),
        Value::Object(problems) => problems.values_mut().for_each(make_printable),
        _ => {}
    }
}
