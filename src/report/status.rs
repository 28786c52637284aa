//! The status of a running daemon: the document that `GET /api/v1/status` returns and the `status` command reads.
//!
//! The keys are a contract, like those of `plan --format json`: none is ever renamed, and parts that both documents have
//! share their types. `deploy/schemas/status.schema.json` is generated from these types.

use std::ops::Deref;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

use super::catalogue::CatalogueNotice;
use super::json;
use super::links::Links;
use super::plan::{
    ChangeItem, DiagnosticItem, HoldItem, WorkspaceHoldItem, consequence, fault, hold,
};
use crate::model::{
    self, ActiveHold, Diagnostic, FetchFailure, HoldEnd, KeyExpiry, Revision, Severity, Workspace,
    printable, short_commit,
};
use crate::plan::{Cause, Mismatch, PlanEntry, Summary, Verdict, Violation};
use crate::reconcile::apply;

/// The state of a daemon and of all its workspaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "The status of a calry-gitops daemon")]
pub struct Status {
    /// The version of calry-gitops.
    pub version: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// One entry for each workspace of the daemon.
    pub workspaces: Vec<WorkspaceStatus>,
}

/// The state of one workspace after its last reconciliation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// The name in the configuration file, if that lists several workspaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The names of other entries of the configuration file that belong to the same Calry workspace. This is an error:
    /// this entry is reconciled, and the others write nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The workspace; null until it was read for the first time.
    pub workspace: Option<Workspace>,
    /// The definitions directory, as configured.
    pub directory: String,
    /// The URL of Calry's API.
    pub api: String,
    /// Whether drift is undone or only reported.
    pub mode: Mode,
    /// The time between two reconciliations without another trigger, before jitter.
    pub interval_seconds: f64,
    /// Whether this replica is the leader; absent without `--leader-election`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leadership: Option<LeadershipStatus>,
    /// Web addresses; absent without `--external-url` and `--repository-url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Links>,
    /// False if the loop of this workspace hangs.
    pub alive: bool,
    /// Whether definitions and live state were read at least once without an error.
    pub ready: bool,
    /// The repository at a git server; absent without `--git-url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryStatus>,
    /// When the API key ends; absent if the operator did not write it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyStatus>,
    /// The revision of the last plan; null outside a git checkout.
    pub revision: Option<Revision>,
    /// Whether the checked-out commit is trusted; absent if no signatures are required, and until they were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// The number of providers in each state; null until there is a plan.
    pub summary: Option<Summary>,
    /// When the providers were last compared. Older than the last reconciliation if that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Timestamp>,
    /// The reconciliation that is running.
    pub pass: Option<ReconciliationStart>,
    /// The last reconciliation that ended.
    pub last_pass: Option<ReconciliationRecord>,
    /// When the next reconciliation starts unless it is triggered earlier; null while one is running.
    pub next_pass: Option<Timestamp>,
    /// The hold of the workspace that is in force: no update is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<WorkspaceHoldItem>,
    /// Every provider, as of the last plan and its updates; in the order of the plan.
    pub providers: Vec<ProviderStatus>,
    /// What the operator's policies deny in the last plan, or warn of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// The last changes of the catalogue, oldest first: providers, groups and fields that appeared in Calry or vanished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub catalogue: Vec<CatalogueNotice>,
    /// The problems of the definition files.
    pub diagnostics: Vec<DiagnosticItem>,
    /// Earlier events, newest first.
    pub history: History,
}

/// When an API key ends, as the operator wrote it down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyStatus {
    /// Its last day, as YYYY-MM-DD: it is valid through the end of that day, UTC. Absent if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// How many days were left after the day (UTC) of the last reconciliation: 0 on the last day, negative when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i32>,
    /// Why it could not be read, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A repository at a git server that the daemon fetches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// Its URL, without credentials.
    pub url: String,
    /// The full name of the branch or tag, or the commit that is followed; until the first fetch as configured.
    pub reference: String,
    /// The full id of the last commit that was fetched; null before the first one.
    pub commit: Option<String>,
    /// When that commit was fetched.
    pub commit_fetched: Option<Timestamp>,
    /// When the server last showed which commit it has; null until then.
    pub last_success: Option<Timestamp>,
    /// When the next fetch starts unless a hook reports a push earlier.
    pub next_fetch: Option<Timestamp>,
    /// Why the last fetch failed; absent after a success. The last commit stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RepositoryFailure>,
}

/// A failed fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryFailure {
    /// Its kind.
    pub kind: FetchFailure,
    /// The reason and what to do, as a sentence.
    pub message: String,
    /// When the first fetch in a row failed, for whatever reason.
    pub since: Timestamp,
    /// How many fetches in a row failed.
    pub times: u64,
    /// When the server accepts the next request, if it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Timestamp>,
}

/// Whether the checked-out commit is trusted. If not, another revision is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trust {
    /// False if the commit is refused.
    pub trusted: bool,
    /// The full id of the refused commit, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Why it is refused, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many commits the revision in force is older than the refused commit, counted along first parents; absent if it
    /// is not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u32>,
}

/// The leader among several replicas: the only one that writes to the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeadershipStatus {
    /// The Lease of the election, as namespace/name.
    pub lease: String,
    /// The role of this replica.
    pub state: ReplicaRole,
    /// The holder of the Lease, as far as this replica knows; null if there is none.
    pub holder: Option<String>,
}

/// The role of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaRole {
    /// It writes to the workspace.
    Leader,
    /// It only reads, and is ready to take over.
    Standby,
}

/// Whether drift is undone or only reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Differences are updated.
    #[default]
    Enforce,
    /// Differences are reported; nothing is written.
    Observe,
}

/// Why a reconciliation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// The daemon started.
    Start,
    /// The interval ended.
    Interval,
    /// Files changed.
    Files,
    /// A fetch found a new commit.
    Commit,
    /// A user requested it.
    Request,
    /// A git host reported a push.
    Hook,
    /// This replica became the leader.
    Leadership,
    /// An update in the background ended, or a failed one is due again.
    Update,
}

/// A reconciliation that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReconciliationStart {
    /// Its number, from 1.
    pub number: u64,
    /// Why it runs.
    pub trigger: Trigger,
    /// When it started.
    pub began: Timestamp,
}

/// A reconciliation that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReconciliationRecord {
    /// Its number, from 1.
    pub number: u64,
    /// Why it ran.
    pub trigger: Trigger,
    /// When it started.
    pub began: Timestamp,
    /// How long it took.
    pub duration_seconds: f64,
    /// How it ended.
    pub result: ReconciliationOutcome,
    /// Why it failed or was refused, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The digest of the refused plan, which can be approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The limit that the refused plan exceeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_changes: Option<usize>,
    /// The abbreviated commit of its plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many reconciliations in a row failed or were refused like this one; otherwise 1.
    pub times: u64,
}

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReconciliationOutcome {
    /// There was nothing to update, or it only observed.
    Ok,
    /// Every update was made.
    Applied,
    /// Not every update was made.
    Incomplete,
    /// The guard refused the plan; nothing was changed.
    Refused,
    /// It failed as a whole; nothing was changed.
    Failed,
}

/// A provider, or a file whose provider is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// The provider; null for an invalid file without one.
    pub provider: Option<String>,
    /// The definition file; null if git does not manage the provider.
    pub file: Option<String>,
    /// How the live state compares with git.
    pub state: ProviderState,
    /// When it entered that state, as far as this process knows.
    pub since: Timestamp,
    /// The differences.
    pub changes: Vec<ChangeItem>,
    /// What it means for listings that the update switches fields off, as a phrase; present if it switches off a field
    /// that Calry documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consequence: Option<String>,
    /// Whether git or Calry was changed; present if an update is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The hold that suspends changes to it: its own, or that of the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldItem>,
    /// How many days of the hold are left after today (UTC): 0 on its last day. Present if it ends soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_days_left: Option<i32>,
    /// The expired hold: because of it, the differences are due or were applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_hold: Option<HoldItem>,
    /// How the last attempt to update it ended, if it still differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<UpdateOutcome>,
    /// Why it is not in sync, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The fields for which Calry kept another value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_converged: Vec<Mismatch>,
    /// The earliest time of the next attempt, unless its file changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// The last update that this process made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update: Option<LastUpdate>,
    /// How many updates in a row another writer undid right away; present from 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<u32>,
}

/// How the live state compares with git; as in `plan --format json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProviderState {
    /// Live equals git.
    InSync,
    /// Live differs.
    Update,
    /// The file suspends changes.
    Held,
    /// The file has errors.
    Invalid,
    /// A part that git manages cannot be read in Calry's answer.
    Unreadable,
    /// The workspace does not have this provider.
    Missing,
    /// There is no file.
    Unmanaged,
}

/// How an update ended; as in `apply --format json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UpdateOutcome {
    /// Calry confirmed it.
    Applied,
    /// Live equalled git already.
    Unchanged,
    /// Calry took it and kept other values.
    NotConverged,
    /// It was not made, or the result is unknown.
    Failed,
    /// It was not tried.
    Skipped,
}

/// An update that Calry confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastUpdate {
    /// When it ended.
    pub time: Timestamp,
    /// The abbreviated commit that it applied; null outside a git checkout.
    pub revision: Option<String>,
    /// Why it was due.
    pub cause: Cause,
}

/// The latest events, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Reconciliations that changed or found something. Failures in a row are one entry.
    pub passes: Vec<ReconciliationRecord>,
    /// Differences, and how their updates ended.
    pub changes: Vec<ChangeRecord>,
}

/// A difference, and how its update ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeRecord {
    /// When it was found.
    pub time: Timestamp,
    /// The provider.
    pub provider: String,
    /// Whether git or Calry was changed.
    pub cause: Cause,
    /// The abbreviated commit of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How the update ended; absent if none was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<UpdateOutcome>,
    /// Why it failed, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first differences.
    pub changes: Vec<ChangeItem>,
    /// The number of further differences.
    pub more: usize,
    /// How many attempts in a row failed like this one; otherwise 1.
    pub times: u64,
}

/// How long fetches may fail before it counts. A restart or a short outage of a git server, and most rate limits, are over
/// by then, and about seven attempts have been made.
const SHORT_OUTAGE: SignedDuration = SignedDuration::from_mins(2);

impl Status {
    /// Whether a workspace needs attention: a loop hangs, no replica leads, a reconciliation failed or was refused, git
    /// cannot be fetched, a commit is not trusted, an update failed, or a file cannot be used. Holds and observed drift do
    /// not count. `now` is the time on the daemon's clock.
    #[must_use]
    pub fn is_failing(&self, now: Timestamp) -> bool {
        self.workspaces.iter().any(|workspace| {
            let ended = workspace.last_pass.as_ref().map(|pass| pass.result);
            !workspace.alive
                || !workspace.also.is_empty()
                || workspace
                    .standby()
                    .is_some_and(|standby| standby.holder.is_none())
                || workspace.refused_commit().is_some()
                || workspace.lasting_fetch_failure(now).is_some()
                || matches!(
                    ended,
                    Some(ReconciliationOutcome::Failed | ReconciliationOutcome::Refused)
                )
                || workspace
                    .diagnostics
                    .iter()
                    .any(|problem| problem.severity == Severity::Error)
                || workspace.providers.iter().any(ProviderStatus::is_failing)
        })
    }
}

impl WorkspaceStatus {
    /// The name of the configuration file; otherwise Calry's slug; otherwise, until that was read, the directory.
    #[must_use]
    pub fn label(&self) -> &str {
        let slug = || self.workspace.as_ref().map(|known| known.slug.as_str());
        self.name
            .as_deref()
            .or_else(slug)
            .unwrap_or(&self.directory)
    }

    /// The leadership, if this replica is a standby.
    #[must_use]
    pub fn standby(&self) -> Option<&LeadershipStatus> {
        self.leadership
            .as_ref()
            .filter(|leadership| leadership.state == ReplicaRole::Standby)
    }

    fn has_slug(&self, slug: &str) -> bool {
        self.workspace
            .as_ref()
            .is_some_and(|known| known.slug == slug)
    }

    /// The checked-out commit, if it is not trusted.
    #[must_use]
    pub fn refused_commit(&self) -> Option<&Trust> {
        self.trust.as_ref().filter(|trust| !trust.trusted)
    }

    /// Why the repository cannot be fetched, if that is no short outage. `now` is the time on the daemon's clock.
    #[must_use]
    pub fn lasting_fetch_failure(&self, now: Timestamp) -> Option<&RepositoryFailure> {
        let failure = self.repository.as_ref()?.failure.as_ref()?;
        failure.is_lasting(now).then_some(failure)
    }

    #[must_use]
    pub fn count(&self, state: ProviderState) -> usize {
        self.providers
            .iter()
            .filter(|provider| provider.state == state)
            .count()
    }
}

impl ApiKeyStatus {
    /// The last day of the key. The text may come from a daemon of another version.
    #[must_use]
    pub fn expiry(&self) -> Option<KeyExpiry> {
        self.expires.as_ref()?.parse().ok()
    }
}

impl RepositoryStatus {
    /// The reference for people: `main`, `tag v1.2`, or an abbreviated commit.
    #[must_use]
    pub fn short_reference(&self) -> String {
        let reference = self.reference.as_str();
        let is_commit = reference.len() == 40 && reference.bytes().all(|b| b.is_ascii_hexdigit());
        if is_commit {
            short_commit(reference).to_owned()
        } else if let Some(branch) = reference.strip_prefix("refs/heads/") {
            printable(branch)
        } else if let Some(tag) = reference.strip_prefix("refs/tags/") {
            format!("tag {}", printable(tag))
        } else {
            printable(reference)
        }
    }
}

impl RepositoryFailure {
    /// Whether it is longer than a short outage. `now` is the time on the daemon's clock.
    #[must_use]
    pub fn is_lasting(&self, now: Timestamp) -> bool {
        now.duration_since(self.since) >= SHORT_OUTAGE
    }
}

/// Finds the workspace with this name, or, if none has it, with this slug.
pub fn find_workspace<'a, T, S>(
    all: &'a [T],
    name: &str,
    status: impl Fn(&'a T) -> S,
) -> Option<&'a T>
where
    S: Deref<Target = WorkspaceStatus>,
{
    let by_name = all.iter().find(|one| status(one).label() == name);
    by_name.or_else(|| all.iter().find(|one| status(one).has_slug(name)))
}

impl ProviderStatus {
    /// The state of a provider in a plan, before any update.
    #[must_use]
    pub fn of(entry: &PlanEntry, problems: &[Diagnostic], now: Timestamp) -> Self {
        Self {
            provider: entry.provider.as_ref().map(ToString::to_string),
            file: entry.file.clone(),
            state: (&entry.verdict).into(),
            since: now,
            changes: entry.changes().iter().map(ChangeItem::from).collect(),
            consequence: consequence(entry),
            cause: match &entry.verdict {
                Verdict::Update(step) => Some(step.cause),
                _ => None,
            },
            hold: hold(entry),
            hold_days_left: match &entry.verdict {
                Verdict::Held {
                    hold:
                        ActiveHold {
                            until: HoldEnd::Day(until),
                            ..
                        },
                    ..
                } => {
                    let today = now.to_zoned(TimeZone::UTC).date();
                    let left = model::Hold::days_until(*until, today).max(0);
                    (left <= model::Hold::NEAR).then_some(left)
                }
                _ => None,
            },
            ended_hold: entry.ended_hold().map(HoldItem::from),
            outcome: None,
            error: fault(entry, problems),
            not_converged: Vec::new(),
            retry_at: None,
            last_update: None,
            undone: None,
        }
    }

    /// Whether it is out of sync and an update failed or is impossible.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        matches!(
            self.outcome,
            Some(UpdateOutcome::Failed | UpdateOutcome::NotConverged)
        ) || matches!(
            self.state,
            ProviderState::Invalid | ProviderState::Unreadable | ProviderState::Missing
        )
    }
}

impl From<&Verdict> for ProviderState {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::InSync(..) => Self::InSync,
            Verdict::Update(_) => Self::Update,
            Verdict::Held { .. } => Self::Held,
            Verdict::Invalid => Self::Invalid,
            Verdict::Unreadable(_) => Self::Unreadable,
            Verdict::Missing => Self::Missing,
            Verdict::Unmanaged => Self::Unmanaged,
        }
    }
}

impl From<&apply::Outcome> for UpdateOutcome {
    fn from(outcome: &apply::Outcome) -> Self {
        match outcome {
            apply::Outcome::Applied => Self::Applied,
            apply::Outcome::Unchanged => Self::Unchanged,
            apply::Outcome::NotConverged(_) => Self::NotConverged,
            apply::Outcome::Failed(_) | apply::Outcome::Partial(_) => Self::Failed,
            apply::Outcome::Skipped(_) => Self::Skipped,
        }
    }
}

impl ReconciliationOutcome {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Applied => "applied",
            Self::Incomplete => "incomplete",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Trigger {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interval => "interval",
            Self::Files => "files",
            Self::Commit => "commit",
            Self::Request => "request",
            Self::Hook => "hook",
            Self::Leadership => "leadership",
            Self::Update => "update",
        }
    }
}

/// The error of a workspace whose API key is also in other entries of the configuration.
#[must_use]
pub fn shared_key_error(others: &[String]) -> String {
    let names = others
        .iter()
        .map(|name| format!("`{}`", printable(name)))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "the API key of {names} belongs to this workspace as well: this entry is reconciled, and {names} writes nothing; \
         give each entry its own API key, or remove one"
    )
}

/// The JSON Schema (2020-12) of [`Status`].
#[must_use]
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    json::pretty(&generator.into_root_schema_for::<Status>())
}
