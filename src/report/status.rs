//! What a running daemon says of itself, as a document: what `GET /api/v1/status` answers with, and what `status` reads.
//!
//! The keys are a contract, as those of `plan --format json` are: none is ever renamed, and the parts that both have are
//! the same types. `deploy/schemas/status.schema.json` is made of them.

use std::ops::Deref;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

use super::json;
use super::plan::{ChangeItem, Hold, Kept, Problem, fault, hold};
use crate::model::{self, Diagnostic, Revision, Severity, Workspace, printable};
use crate::plan::{Cause, PlanEntry, Summary, Verdict};
use crate::reconcile::apply;

/// The state of a daemon and of every workspace that it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "The status of a calry-gitops daemon")]
pub struct Status {
    /// The version of calry-gitops.
    pub version: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// One for each workspace that the daemon keeps.
    pub workspaces: Vec<WorkspaceStatus>,
}

/// One workspace, as its loop left it after the last pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// What the operator's configuration file calls it, where that names several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The names of other workspaces of the configuration file that are the same workspace of Calry: an error. This one
    /// goes on, and those write nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The workspace; null before it was read for the first time.
    pub workspace: Option<Workspace>,
    /// The definitions directory, as the operator wrote it.
    pub directory: String,
    /// Where Calry is.
    pub api: String,
    /// Whether drift is undone or only reported.
    pub mode: Mode,
    /// Between two quiet passes, before jitter.
    pub interval_seconds: f64,
    /// Whether this replica leads; absent where it is the only one (no `--leader-election`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leadership: Option<Leadership>,
    /// Whether the loop is alive: false where it hangs.
    pub alive: bool,
    /// Whether definitions and live state were read once without an error.
    pub ready: bool,
    /// The revision of the last plan; null outside a git checkout.
    pub revision: Option<Revision>,
    /// Whether what is checked out is trusted; absent where no signatures are asked for, and before they were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// The providers below, counted; null before there was a plan.
    pub summary: Option<Summary>,
    /// The pass that is under way.
    pub pass: Option<Begun>,
    /// The last pass that ended.
    pub last_pass: Option<Pass>,
    /// When the next pass begins if nothing asks for one earlier; null while one is under way.
    pub next_pass: Option<Timestamp>,
    /// Every provider, as the last plan and what came of it left it; sorted as in a plan.
    pub providers: Vec<ProviderStatus>,
    /// The problems of the definition files.
    pub diagnostics: Vec<Problem>,
    /// What happened before, newest first.
    pub history: History,
}

/// Whether what is checked out is trusted. Where not, the revision in force is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trust {
    /// Whether it is.
    pub trusted: bool,
    /// The full id of the commit that is refused, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Why it is refused, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which of several replicas writes to the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leadership {
    /// The Lease that decides it, as namespace/name.
    pub lease: String,
    /// Whether it is this replica.
    pub state: Lead,
    /// Who holds the Lease, as far as this replica knows; null where nobody does.
    pub holder: Option<String>,
}

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Lead {
    /// It keeps the workspace equal to git.
    Leader,
    /// It only looks, and is ready to take over.
    Standby,
}

/// Whether drift is undone or only reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// What differs is updated.
    #[default]
    Enforce,
    /// What differs is reported; nothing is written.
    Observe,
}

/// Why a pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// The daemon started.
    Start,
    /// The interval was over.
    Interval,
    /// Files changed.
    Files,
    /// Somebody asked.
    Request,
    /// A git host told of a push.
    Hook,
    /// This replica leads now.
    Leadership,
    /// An update that was not waited for ended, or one that failed is due again.
    Update,
}

/// A pass that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Begun {
    /// Its number, from 1.
    pub number: u64,
    /// Why it runs.
    pub trigger: Trigger,
    /// When it began.
    pub began: Timestamp,
}

/// A pass that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pass {
    /// Its number, from 1.
    pub number: u64,
    /// Why it ran.
    pub trigger: Trigger,
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub duration_seconds: f64,
    /// What came of it.
    pub result: Ended,
    /// Why it failed or was refused, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The plan that was refused; approving it lets it through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The commit that it was about, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many passes in a row ended like this one, where they did not go well; else 1.
    pub times: u64,
}

/// What came of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// There was nothing to do, or only to look.
    Ok,
    /// Every update was made.
    Applied,
    /// Not every update was made.
    Incomplete,
    /// The guard refused the plan, and nothing was changed.
    Refused,
    /// It failed as a whole, and nothing was changed.
    Failed,
}

/// A provider, or a file that does not say whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderStatus {
    /// The provider; null for an invalid file that does not say.
    pub provider: Option<String>,
    /// The definition file; null where git does not manage the provider.
    pub file: Option<String>,
    /// How live and git stand to each other.
    pub state: State,
    /// When it entered that state, as far as this process knows.
    pub since: Timestamp,
    /// What differs.
    pub changes: Vec<ChangeItem>,
    /// Whether git or Calry was changed; there where an update is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Until when it is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// How many days are left of the hold after this one, UTC: 0 on its last day. There where it ends soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_days_left: Option<i32>,
    /// The hold that is over: what differs, or was changed, is due because of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_hold: Option<Hold>,
    /// How the last attempt to update it ended, where it still differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it is not as git wants it, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What Calry did not take over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_converged: Vec<Kept>,
    /// When it is tried again at the earliest, unless its file changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// The last update that this process made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update: Option<LastUpdate>,
    /// How many updates in a row another writer undid right after they were made; present from 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<u32>,
}

/// How live and git stand to each other; as in `plan --format json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Live is as git wants it.
    InSync,
    /// Live differs.
    Update,
    /// The file says not to touch it.
    Held,
    /// The file has errors.
    Invalid,
    /// What the file manages cannot be read in Calry's answer.
    Unreadable,
    /// The workspace has no such provider.
    Missing,
    /// There is no file.
    Unmanaged,
}

/// How an update ended; as in `apply --format json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Calry confirmed it.
    Applied,
    /// It was as desired already.
    Unchanged,
    /// Calry took it and kept other values.
    NotConverged,
    /// It was not made, or nobody knows.
    Failed,
    /// It was not tried.
    Skipped,
}

/// An update that Calry confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastUpdate {
    /// When.
    pub time: Timestamp,
    /// The commit that it came from, in short; null outside a git checkout.
    pub revision: Option<String>,
    /// Why it was due.
    pub cause: Cause,
}

/// What happened, newest first, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Passes that did or found something. Those that failed in a row are one.
    pub passes: Vec<Pass>,
    /// Differences that were found, and what came of them.
    pub changes: Vec<Record>,
}

/// A difference that was found, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// When.
    pub time: Timestamp,
    /// The provider.
    pub provider: String,
    /// Who changed something.
    pub cause: Cause,
    /// The commit that git was at, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How the update ended; absent where none was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What went wrong, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What differed: the first ones.
    pub changes: Vec<ChangeItem>,
    /// How many more there were.
    pub more: usize,
    /// How many attempts in a row ended like this, where they did not go well; else 1.
    pub times: u64,
}

impl Status {
    /// Whether something is not as it should be: a loop that hangs, several replicas of which none leads, a pass that failed or was refused, a revision that
    /// is not trusted, an update that failed, a file that cannot be used. What is held, or only observed, is as it should be.
    #[must_use]
    pub fn is_in_trouble(&self) -> bool {
        self.workspaces.iter().any(|workspace| {
            let ended = workspace.last_pass.as_ref().map(|pass| pass.result);
            !workspace.alive
                || !workspace.also.is_empty()
                || workspace.led_elsewhere() == Some(None)
                || workspace.refused().is_some()
                || matches!(ended, Some(Ended::Failed | Ended::Refused))
                || workspace
                    .diagnostics
                    .iter()
                    .any(|problem| problem.severity == Severity::Error)
                || workspace
                    .providers
                    .iter()
                    .any(ProviderStatus::is_in_trouble)
        })
    }
}

impl WorkspaceStatus {
    /// What it is called: by the operator, else by Calry, else, before that was read, by its directory.
    #[must_use]
    pub fn label(&self) -> &str {
        let slug = || self.workspace.as_ref().map(|known| known.slug.as_str());
        self.name
            .as_deref()
            .or_else(slug)
            .unwrap_or(&self.directory)
    }

    /// Who leads, where this replica stands by; nobody knows whom to ask where that is `None`.
    #[must_use]
    pub fn led_elsewhere(&self) -> Option<Option<&str>> {
        let Leadership { state, holder, .. } = self.leadership.as_ref()?;
        (*state == Lead::Standby).then_some(holder.as_deref())
    }

    fn has_slug(&self, slug: &str) -> bool {
        self.workspace
            .as_ref()
            .is_some_and(|known| known.slug == slug)
    }

    /// What is checked out and not trusted.
    #[must_use]
    pub fn refused(&self) -> Option<&Trust> {
        self.trust.as_ref().filter(|trust| !trust.trusted)
    }
}

/// Which of these somebody means who says this: a name, or a slug where none has that name.
pub fn meant<'a, T, S>(all: &'a [T], said: &str, status: impl Fn(&'a T) -> S) -> Option<&'a T>
where
    S: Deref<Target = WorkspaceStatus>,
{
    let named = all.iter().find(|one| status(one).label() == said);
    named.or_else(|| all.iter().find(|one| status(one).has_slug(said)))
}

impl ProviderStatus {
    /// What a plan says of a provider, before anything is tried.
    #[must_use]
    pub fn of(entry: &PlanEntry, problems: &[Diagnostic], now: Timestamp) -> Self {
        Self {
            provider: entry.provider.as_ref().map(ToString::to_string),
            file: entry.file.clone(),
            state: (&entry.verdict).into(),
            since: now,
            changes: entry.changes().iter().map(ChangeItem::from).collect(),
            cause: match &entry.verdict {
                Verdict::Update(step) => Some(step.cause),
                _ => None,
            },
            hold: hold(entry),
            hold_days_left: match &entry.verdict {
                Verdict::Held { hold, .. } => {
                    let left = hold.days_left(now.to_zoned(TimeZone::UTC).date()).max(0);
                    (left <= model::Hold::NEAR).then_some(left)
                }
                _ => None,
            },
            ended_hold: entry.ended_hold().map(Hold::from),
            outcome: None,
            error: fault(entry, problems),
            not_converged: Vec::new(),
            retry_at: None,
            last_update: None,
            undone: None,
        }
    }

    /// Whether it is not as git wants it, and trying did not or cannot help.
    #[must_use]
    pub const fn is_in_trouble(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Failed | Outcome::NotConverged))
            || matches!(
                self.state,
                State::Invalid | State::Unreadable | State::Missing
            )
    }
}

impl From<&Verdict> for State {
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

impl From<&apply::Outcome> for Outcome {
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

impl Ended {
    /// The word in every output.
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
    /// The word in every output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interval => "interval",
            Self::Files => "files",
            Self::Request => "request",
            Self::Hook => "hook",
            Self::Leadership => "leadership",
            Self::Update => "update",
        }
    }
}

/// What is wrong where other workspaces of the configuration are the same workspace of Calry as this one.
#[must_use]
pub fn also(others: &[String]) -> String {
    let names = others
        .iter()
        .map(|name| format!("`{}`", printable(name)))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "the API key of {names} belongs to this workspace, too: this one goes on, and {names} writes nothing; give each an \
         API key of its own, or take one of them out"
    )
}

/// The JSON Schema (2020-12) of the document.
#[must_use]
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    json::pretty(&generator.into_root_schema_for::<Status>())
}
