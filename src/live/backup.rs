//! Backups: a definition with its values, as it was before an update replaced it, as a document.
//!
//! Never: leave this module as a text that is not a [`Secret`], or quote a value in an error.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::wire::{self, BodyError};
use crate::model::{
    DefinitionPart, KeySection, Live, LiveFields, LiveProblems, LiveValue, Provider, Secret,
    Workspace, ellipsize, printable,
};

/// The value of `kind` in every backup.
const KIND: &str = "calry-gitops backup";
/// The only version that is written and read.
const VERSION: u64 = 1;
/// The largest backup that is read, in bytes: the largest definition, with every character escaped.
pub const MAX_BACKUP: u64 = 8 << 20;
/// The longest text about where it comes from, in characters.
const MAX_ORIGIN: usize = 200;

/// A definition as it was before an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// When it was made, which is right before the update.
    pub time: Timestamp,
    pub workspace: Workspace,
    /// The commit that the update came from.
    pub commit: Option<String>,
    /// The digest of its plan.
    pub digest: Option<String>,
    pub live: Live,
}

/// A document is not a usable backup. The sentences complete "the backup … ", and never quote the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackup {
    #[error("is not a calry-gitops backup: {0}")]
    Form(String),
    #[error("has version {0}, and this calry-gitops reads version {VERSION}: use a newer release")]
    Version(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    kind: &'static str,
    version: u64,
    time: String,
    workspace: &'a Workspace,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    definition: Definition<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    id: &'a str,
    name: &'a str,
    provider: &'a str,
    icon: Option<&'a str>,
    /// `null` for a value of which Calry shows nothing.
    partner_key: BTreeMap<&'static str, BTreeMap<&'a str, Option<&'a str>>>,
    fields_to_sync: &'a LiveFields,
    updated_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<&'a LiveProblems>,
}

impl Backup {
    /// The document: JSON with the values below `partnerKey`.
    #[must_use]
    pub fn write(&self) -> Secret {
        let document = Document {
            kind: KIND,
            version: VERSION,
            time: self.time.to_string(),
            workspace: &self.workspace,
            commit: self.commit.as_deref(),
            digest: self.digest.as_deref(),
            definition: write_definition(&self.live),
        };
        #[expect(
            clippy::expect_used,
            reason = "the document is made of maps with string keys"
        )]
        let json = serde_json::to_string(&document).expect("maps with string keys serialize");
        Secret::new(json)
    }

    /// Parses a document.
    ///
    /// # Errors
    /// [`InvalidBackup`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidBackup> {
        let form = InvalidBackup::Form;
        let mut document = wire::parse_object(bytes).map_err(|problem| match problem {
            BodyError::NotJson => form("it is not JSON".to_owned()),
            BodyError::Shape(problem) => form(problem),
        })?;
        if wire::take_text(&mut document, "kind").ok().as_deref() != Some(KIND) {
            return Err(form(format!("it lacks `\"kind\": \"{KIND}\"`")));
        }
        match document.remove("version") {
            Some(Value::Number(version)) if version.as_u64() == Some(VERSION) => {}
            Some(Value::Number(version)) => {
                return Err(InvalidBackup::Version(ellipsize(&version.to_string(), 20)));
            }
            _ => return Err(form("`version` is not a number".to_owned())),
        }
        let time = wire::take_text(&mut document, "time").map_err(form)?;
        let time = time
            .parse()
            .map_err(|_| form("`time` is not a time".to_owned()))?;
        let Some(Value::Object(workspace)) = document.remove("workspace") else {
            return Err(form("`workspace` is not an object".to_owned()));
        };
        let workspace = wire::workspace_from(workspace)
            .map_err(|problem| form(format!("`workspace`: {problem}")))?;
        let Some(Value::Object(mut definition)) = document.remove("definition") else {
            return Err(form("`definition` is not an object".to_owned()));
        };
        let problems = definition.remove("problems");
        let mut live = wire::read_definition(&mut definition, as_shown)
            .map_err(|unreadable| form(format!("`definition`: {}", unreadable.problem)))?;
        if let Some(problem) = DefinitionPart::ALL
            .into_iter()
            .find_map(|part| live.problems.part(part))
        {
            return Err(form(format!("`definition`: {problem}")));
        }
        // What could not be read then is not in the document.
        if let Some(problems) = problems {
            live.problems = serde_json::from_value(problems)
                .map_err(|_| form("`problems` has the wrong form".to_owned()))?;
        }
        let mut origin = |key| {
            let text = wire::take_text(&mut document, key).ok();
            text.map(|text| ellipsize(&printable(&text), MAX_ORIGIN))
        };
        Ok(Self {
            time,
            workspace,
            commit: origin("commit"),
            digest: origin("digest"),
            live,
        })
    }

    /// The hash of the definition alone, which is the same for equal definitions, whenever they were updated.
    #[must_use]
    pub fn content_hash(&self) -> Vec<u8> {
        let definition = Definition {
            updated_at: "",
            ..write_definition(&self.live)
        };
        #[expect(
            clippy::expect_used,
            reason = "the document is made of maps with string keys"
        )]
        let json = serde_json::to_string(&definition).expect("maps with string keys serialize");
        Sha256::digest(json).to_vec()
    }
}

/// A value as Calry showed it.
fn as_shown(_: &Provider, _: KeySection, _: &str, value: Value) -> Result<LiveValue, &'static str> {
    match value {
        Value::String(text) => Ok(LiveValue::from(Secret::new(text))),
        Value::Null => Ok(LiveValue::Mask),
        _ => Err("is not a string"),
    }
}

fn write_definition(live: &Live) -> Definition<'_> {
    // Destructured in full: a new part does not compile until it is in the backup.
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
        let values = partner_key.section(section)?;
        let shown = values.iter().map(|(name, value)| {
            let value = match value {
                LiveValue::Value(shown) | LiveValue::MaybeMask(shown) => Some(shown.expose()),
                LiveValue::Mask | LiveValue::Fingerprint(_) | LiveValue::Withheld => None,
            };
            (name.as_str(), value)
        });
        Some((section.key(), shown.collect()))
    };
    Definition {
        id,
        name,
        provider: provider.as_str(),
        icon: icon.as_deref(),
        partner_key: KeySection::BOTH.into_iter().filter_map(section).collect(),
        fields_to_sync: fields,
        updated_at,
        problems: (*problems != LiveProblems::default()).then_some(problems),
    }
}
