//! Backups: a definition with its values, as it was before an update replaced it, as a document.
//!
//! Never: leave this module as a text that is not a [`Secret`], or quote a value in an error.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::saved::{self, InvalidDocument, SavedDefinition};
use super::wire;
use crate::model::{
    KeySection, Live, LiveValue, Provider, Secret, Workspace, ellipsize, printable,
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
    definition: SavedDefinition<'a>,
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
        Secret::new(to_json(&document))
    }

    /// Parses a document.
    ///
    /// # Errors
    /// [`InvalidBackup`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidBackup> {
        let form = InvalidBackup::Form;
        let mut document = saved::parse(bytes, KIND, VERSION).map_err(|invalid| match invalid {
            InvalidDocument::Form(problem) => form(problem),
            InvalidDocument::Version(version) => InvalidBackup::Version(version),
        })?;
        let time = wire::take_text(&mut document, "time").map_err(form)?;
        let time = time
            .parse()
            .map_err(|_| form("`time` is not a time".to_owned()))?;
        let workspace = saved::take_workspace(&mut document).map_err(form)?;
        let Some(Value::Object(mut definition)) = document.remove("definition") else {
            return Err(form("`definition` is not an object".to_owned()));
        };
        let live = saved::read_definition(&mut definition, as_shown)
            .map_err(|unreadable| form(format!("`definition`: {}", unreadable.problem)))?;
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
        let mut definition = write_definition(&self.live);
        definition.updated_at = "";
        Sha256::digest(to_json(&definition)).to_vec()
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

fn write_definition(live: &Live) -> SavedDefinition<'_> {
    // `null` for a value of which Calry shows nothing.
    SavedDefinition::new(live, |_, _, value| match value {
        LiveValue::Value(shown) | LiveValue::MaybeMask(shown) => Some(Cow::from(shown.expose())),
        LiveValue::Mask | LiveValue::Fingerprint(_) | LiveValue::Withheld => None,
    })
}

fn to_json(document: &impl Serialize) -> String {
    #[expect(
        clippy::expect_used,
        reason = "the document is made of maps with string keys"
    )]
    serde_json::to_string(document).expect("maps with string keys serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_backup_says_of_a_part_that_could_not_be_read_is_made_safe_to_print() {
        let document = serde_json::json!({
            "kind": KIND, "version": VERSION, "time": "2026-11-29T06:01:23Z",
            "workspace": {"id": "1", "name": "A", "slug": "a"},
            "definition": {
                "provider": "HOSTAWAY", "id": "1", "fieldsToSync": {},
                "problems": {"icon": "a\u{1b}[31mb"},
            },
        });
        let read = Backup::parse(document.to_string().as_bytes()).unwrap();
        let icon = read.live.problems.icon.unwrap();
        assert!(icon.starts_with('a') && !icon.contains('\u{1b}'), "{icon}");
    }
}
