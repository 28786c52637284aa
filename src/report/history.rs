//! The events of a workspace that survive the daemon: the lines of the history file and the document of `history`.
//!
//! The keys are a contract, like those of the status.
//!
//! Never: hold a value of a definition, only the places of differences.

use jiff::Timestamp;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

use super::json;
use super::status::UpdateOutcome;
use crate::plan::Cause;

/// Events of one or several workspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "The history of calry-gitops")]
pub struct HistoryDocument {
    /// The events, oldest first.
    pub events: Vec<HistoryEvent>,
}

/// Something that happened to a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEvent {
    /// When it happened.
    pub time: Timestamp,
    /// The slug of the workspace in Calry.
    pub workspace: String,
    /// The name of the workspace in the configuration file; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happened.
    pub event: HistoryKind,
    /// What wrote the event.
    pub by: HistoryWriter,
    /// The event as a sentence.
    pub message: String,
    /// The reason, if there is one for the whole event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether git or Calry was changed; present for an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// How it ended; present for an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<UpdateOutcome>,
    /// The full id of the commit; absent outside a git checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The digest of the plan that was carried out, approved or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The first affected providers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<Subject>,
    /// The number of other affected providers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    /// How many updates in a row ended like this one; absent for the first. Only the 2nd, 4th, 8th and so on is an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
}

/// A provider that an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The provider; the name of the file if its provider is unknown.
    pub provider: String,
    /// The first paths that differ, without values.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Details as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HistoryKind {
    /// A request was sent to change a provider. Each is an event, whatever its outcome.
    Update,
    /// Calry was changed outside of git, and this was not undone at once.
    Drift,
    /// A reconciliation or a provider began to fail.
    Failed,
    /// A failure is over.
    Recovered,
    /// A plan was refused, or the checked-out commit is not trusted.
    Refused,
    /// A plan was approved by its digest.
    Approved,
    /// A hold suspends changes to a provider.
    Held,
    /// A hold is over, or was removed.
    Released,
    /// The API key ends soon, or has ended.
    KeyExpiring,
    /// A provider, group or field appeared in Calry or vanished from it.
    CatalogueChanged,
}

/// What wrote an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HistoryWriter {
    /// The daemon.
    Daemon,
    /// A one-shot `apply`.
    Apply,
}

impl HistoryEvent {
    /// The name of the configuration file, otherwise Calry's slug.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.workspace)
    }

    /// Whether it is about a workspace, by its name in the configuration file or its slug.
    #[must_use]
    pub fn is_of(&self, workspace: &str) -> bool {
        self.name.as_deref() == Some(workspace) || self.workspace == workspace
    }

    /// Whether it is about a provider.
    #[must_use]
    pub fn is_about(&self, provider: &str) -> bool {
        self.providers.iter().any(|one| one.provider == provider)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The JSON Schema (2020-12) of [`HistoryDocument`].
#[must_use]
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    json::pretty(&generator.into_root_schema_for::<HistoryDocument>())
}
