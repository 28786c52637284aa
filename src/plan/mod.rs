//! Compares desired and live state to a plan, and guards the plan. Everything here is pure: today's date is an
//! argument, and there is no clock, no I/O and no log.
//!
//! Never: send anything. A [`Plan`] is data; only an [`Approved`] one can be applied, and only [`Plan::approve`] makes
//! one.

mod change;
mod diff;
mod digest;
mod guard;
mod last_applied;
mod loosened;
mod origin;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    ActiveHold, DefinitionPart, Desired, DesiredValue, FingerprintContext, FingerprintKey, Hold,
    KeySection, Live, Provider, Revision, SecretName, SharedSource, Update, Workspace,
    WorkspaceHolds, ellipsize, printable,
};

pub use change::{Change, KeyChange, Mismatch, PlainValue, join_path};
pub use diff::{Context, PlanInput, RefreshedStep, plan, refresh, unverifiable, verify};
pub use digest::{Digest, InvalidDigest};
pub use guard::{
    Approved, Limits, MaxChanges, PolicyAction, Refusal, RefusedPlan, Violation, describe_hold,
    parse_hold_reason,
};
pub use last_applied::{AppliedState, LastApplied};
pub use loosened::{Loosening, PinChange, find_added_holds};
pub use origin::{BaseFile, BranchBase, Origin};

/// What would change, provider by provider, and why the rest would not.
#[derive(Clone, Debug)]
pub struct Plan {
    pub workspace: Workspace,
    /// The git revision of the files; `None` outside a checkout.
    pub revision: Option<Revision>,
    /// Sorted by provider; files whose provider is not known come last, by name.
    pub entries: Vec<PlanEntry>,
    /// `None` if not all values were available.
    pub digest: Option<Digest>,
    /// The id of the commit of the base, if changes are attributed to their origin.
    pub base: Option<String>,
    /// What this branch stops protecting, in comparison with its base.
    pub loosened: Vec<Loosening>,
    /// The hold of the workspace that is in force: its updates are [`Verdict::Held`].
    pub hold: Option<ActiveHold>,
    /// When nothing may be sent, whenever an update begins.
    pub holds: WorkspaceHolds,
    /// The hold that an approval with a reason lifted.
    pub overridden: Option<OverriddenHold>,
    /// When the snapshot was taken that the plan is made with (RFC 3339); `None` if live state is from Calry itself.
    pub snapshot: Option<String>,
    /// What the operator's policies deny or warn of.
    pub violations: Vec<Violation>,
}

/// A hold of the workspace that was lifted for one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverriddenHold {
    pub hold: ActiveHold,
    /// Why, in the words of the person who approved the plan.
    pub reason: String,
}

/// One provider's part of a plan.
#[derive(Clone, Debug)]
pub struct PlanEntry {
    /// The provider; `None` for an invalid file that has none.
    pub provider: Option<Provider>,
    /// The name of the definition file; `None` if git does not manage the provider.
    pub file: Option<String>,
    pub verdict: Verdict,
    /// Values that cannot be compared here.
    pub unresolved: Vec<UnresolvedValue>,
    /// The shared file that parts of the definition are in.
    pub shared: Option<Arc<SharedSource>>,
    /// Where each of the [changes](Self::changes) comes from, in their order; `None` without a base.
    pub origins: Option<Vec<Origin>>,
}

/// What is to be done about one provider.
#[derive(Clone, Debug)]
pub enum Verdict {
    InSync(Arc<Desired>, Arc<Live>),
    /// Live differs.
    Update(Box<Step>),
    /// Live may differ, and a hold suspends changes.
    Held {
        hold: ActiveHold,
        /// What would change without the hold.
        pending: Vec<Change>,
        /// The update that the workspace's hold suspends; `None` if the hold is the provider's own.
        step: Option<Box<Step>>,
    },
    /// The file has errors.
    Invalid,
    /// The workspace has no such provider.
    Missing,
    /// A managed part cannot be read in live state, and nothing else differs; with the reason, a sentence.
    Unreadable(String),
    /// There is no file for it.
    Unmanaged,
}

/// The update of one provider.
#[derive(Clone, Debug)]
pub struct Step {
    pub desired: Arc<Desired>,
    /// Live state when the plan was made.
    pub live: Arc<Live>,
    /// What was last applied, if it is known: masked values are compared with it.
    pub applied: Option<Arc<LastApplied>>,
    /// What differs; never empty.
    pub changes: Vec<Change>,
    /// Whether the file changed, or the live state.
    pub cause: Cause,
    pub payload: Payload,
}

impl Step {
    /// The changes that an update would make: those in parts that can be sent.
    pub fn sendable(&self) -> impl Iterator<Item = &Change> {
        let sends = |change: &&Change| {
            self.payload.update.is_some()
                && !self
                    .payload
                    .refused
                    .iter()
                    .any(|refused| refused.part == change.part())
        };
        self.changes.iter().filter(sends)
    }
}

/// Why live and desired state differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The desired state differs from the one that was last applied.
    Change,
    /// The desired state was applied before, and Calry was changed since.
    Drift,
}

/// What an update would send, and what it cannot send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The parts that can be sent; `None` if there are none. A PUT sends all parts or nothing (trap 5).
    pub update: Option<Update>,
    /// The parts that should be sent and cannot.
    pub refused: Vec<RefusedPart>,
    /// Whether the update carries unmanaged parts as they were when Calry was read: a later change to them would be
    /// undone.
    pub carries_unmanaged: bool,
}

/// A part that an update should carry and cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPart {
    pub part: DefinitionPart,
    pub obstacle: Obstacle,
}

/// Why a part cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It has values that are missing here: secrets, or live ones that a snapshot leaves out.
    Incomplete,
    /// It has a section that git does not manage, with a value that Calry may show as a mask (trap 7).
    Masked { section: KeySection, name: String },
    /// Calry's answer holds something in it that cannot be read, which an update would destroy; names a position.
    Unreadable(String),
}

impl fmt::Display for RefusedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, obstacle } = self;
        match obstacle {
            Obstacle::Incomplete => write!(
                f,
                "{part} cannot be sent from here: some of its values are not available. Apply it where they are"
            ),
            Obstacle::Masked { section, name } => write!(
                f,
                "{part} is not sent: it would have to carry {part}.{section}, which git does not manage, and the value that \
                 Calry shows for {} may be a mask; bring {part}.{section} into the file, as ${{secret:…}} references",
                ellipsize(
                    &printable(&join_path(&[part.key(), section.key(), name])),
                    128
                )
            ),
            Obstacle::Unreadable(problem) => write!(
                f,
                "{part} is not sent, because the update would overwrite what cannot be read in Calry's answer: {problem}"
            ),
        }
    }
}

impl Payload {
    /// What cannot be sent because of live state, wherever it is applied, as a sentence.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let lasting = self
            .refused
            .iter()
            .filter(|refused| refused.obstacle != Obstacle::Incomplete);
        refusal(&lasting.cloned().collect::<Vec<_>>())
    }
}

#[must_use]
pub fn refusal(refused: &[RefusedPart]) -> Option<String> {
    let sentences: Vec<String> = refused.iter().map(ToString::to_string).collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

/// A value below `partnerKey` that could not be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnresolvedValue {
    /// Its path, such as `partnerKey.headers.x-api-key`.
    pub path: String,
    /// The secrets that it refers to.
    pub secrets: Vec<SecretName>,
    /// The side of the comparison that is not available.
    pub missing: Missing,
}

/// What a comparison lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Missing {
    /// A secret that the desired value refers to.
    Secret,
    /// The live value: the snapshot has nothing about it, or a fingerprint whose key is not available.
    Live,
}

/// The number of providers in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub in_sync: usize,
    /// Live differs.
    pub update: usize,
    /// The file has errors.
    pub invalid: usize,
    /// What the file manages cannot be read in Calry's answer.
    // Absent in the status of an older daemon.
    #[serde(default)]
    pub unreadable: usize,
    /// The workspace has no such provider.
    pub missing: usize,
    /// On hold.
    pub held: usize,
    /// There is no file.
    pub unmanaged: usize,
}

impl Verdict {
    /// The state's name in every output.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self {
            Self::InSync(..) => "inSync",
            Self::Update(_) => "update",
            Self::Held { .. } => "held",
            Self::Invalid => "invalid",
            Self::Unreadable(_) => "unreadable",
            Self::Missing => "missing",
            Self::Unmanaged => "unmanaged",
        }
    }
}

impl Plan {
    /// The same plan, with the shared files of its providers.
    #[must_use]
    pub fn with_shared(mut self, shared: &BTreeMap<Provider, Arc<SharedSource>>) -> Self {
        for entry in &mut self.entries {
            let source = entry.provider.as_ref().and_then(|it| shared.get(it));
            entry.shared = source.filter(|_| entry.file.is_some()).cloned();
        }
        self
    }
}

impl PlanEntry {
    /// The shared file that has the desired value of a change; `None` if the workspace's own file has it.
    #[must_use]
    pub fn shared_file(&self, change: &Change) -> Option<&str> {
        let shared = self.shared.as_deref()?;
        let is_shared = match change {
            Change::Icon { .. } => shared.icon,
            Change::Field { group, field, .. } => shared.has_field(group, field),
            Change::Key { section, .. } => shared.sections.contains(section),
        };
        is_shared.then_some(shared.file.as_str())
    }

    /// The file that has the desired value of a change.
    #[must_use]
    pub fn file_of(&self, change: &Change) -> Option<&str> {
        self.shared_file(change).or(self.file.as_deref())
    }

    /// The file that has the hold.
    #[must_use]
    pub fn file_of_hold(&self) -> Option<&str> {
        let shared = self.shared.as_deref().filter(|shared| shared.hold);
        shared
            .map(|shared| shared.file.as_str())
            .or(self.file.as_deref())
    }

    /// The files that have the desired values of changes, the workspace's own first.
    pub fn files_of<'a>(&'a self, changes: &[&Change]) -> Vec<&'a str> {
        let own = self.file.as_deref();
        let shared = changes.iter().find_map(|change| self.shared_file(change));
        let is_own = shared.is_none() || changes.iter().any(|it| self.shared_file(it).is_none());
        let mut files: Vec<&str> = own.filter(|_| is_own).into_iter().collect();
        files.extend(shared.filter(|shared| !files.contains(shared)));
        files
    }

    /// What differs, whether or not it will be changed.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match &self.verdict {
            Verdict::Update(step) => &step.changes,
            Verdict::Held { pending, .. } => pending,
            _ => &[],
        }
    }

    /// The update that is due, or that the workspace's hold suspends.
    #[must_use]
    pub fn wanted_step(&self) -> Option<&Step> {
        match &self.verdict {
            Verdict::Update(step) => Some(step),
            Verdict::Held { step, .. } => step.as_deref(),
            _ => None,
        }
    }

    /// The hold of its file, if its last day has passed: that is why the difference is due.
    #[must_use]
    pub fn ended_hold(&self) -> Option<&Hold> {
        match &self.verdict {
            Verdict::Update(step) => step.desired.hold.as_ref(),
            Verdict::InSync(desired, _) => desired.hold.as_ref(),
            _ => None,
        }
    }

    /// The name of the provider, or of the file if the provider is not known.
    #[must_use]
    pub fn label(&self) -> &str {
        self.provider
            .as_ref()
            .map(Provider::as_str)
            .or(self.file.as_deref())
            .unwrap_or("?")
    }
}

/// A literal value below `partnerKey` that a plan would set.
struct LiteralValue<'a> {
    step: &'a Step,
    section: KeySection,
    name: &'a str,
    change: &'a Change,
    value: &'a DesiredValue,
}

impl Plan {
    /// The updates, sorted by provider.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.verdict {
                Verdict::Update(step) => Some(&**step),
                _ => None,
            })
    }

    /// The updates, those that the workspace's hold suspends among them.
    pub fn wanted_steps(&self) -> impl Iterator<Item = &Step> {
        self.entries.iter().filter_map(PlanEntry::wanted_step)
    }

    /// How many updates the workspace's hold suspends.
    #[must_use]
    pub fn suspended(&self) -> usize {
        self.wanted_steps().count() - self.steps().count()
    }

    /// Suspends all updates if a hold of the workspace is in force. The digest stays: it names the updates.
    #[must_use]
    pub fn suspend(mut self, holds: WorkspaceHolds, now: Timestamp) -> Self {
        self.hold = holds.in_force(now);
        self.holds = holds;
        if let Some(hold) = &self.hold {
            for entry in &mut self.entries {
                entry.verdict = match std::mem::replace(&mut entry.verdict, Verdict::Unmanaged) {
                    Verdict::Update(step) => Verdict::Held {
                        hold: hold.clone(),
                        pending: step.changes.clone(),
                        step: Some(step),
                    },
                    other => other,
                };
            }
        }
        self
    }

    /// Lifts the hold of the workspace for exactly the plan with this digest. Returns whether it did.
    pub fn override_hold(&mut self, digest: &Digest, reason: &str) -> bool {
        if self.digest.as_ref() != Some(digest) {
            return false;
        }
        let Some(hold) = self.hold.take() else {
            return false;
        };
        for entry in &mut self.entries {
            entry.verdict = match std::mem::replace(&mut entry.verdict, Verdict::Unmanaged) {
                Verdict::Held {
                    step: Some(step), ..
                } => Verdict::Update(step),
                other => other,
            };
        }
        self.holds = WorkspaceHolds::default();
        self.overridden = Some(OverriddenHold {
            hold,
            reason: reason.to_owned(),
        });
        true
    }

    /// Every literal value that would be set, alone or around a reference.
    fn literal_values(&self) -> impl Iterator<Item = LiteralValue<'_>> {
        self.wanted_steps()
            .flat_map(|step| step.changes.iter().map(move |change| (step, change)))
            .filter_map(|(step, change)| {
                let Change::Key { section, name, .. } = change else {
                    return None;
                };
                let value = step.desired.partner_key.section(*section)?.get(name)?;
                value.template.writes_out().then_some(LiteralValue {
                    step,
                    section: *section,
                    name,
                    change,
                    value,
                })
            })
    }

    /// The provider and the path of the first literal value that the plan would set. A digest covers it only if it is
    /// [sealed](Self::seal): otherwise the value could be guessed from the digest.
    #[must_use]
    pub fn first_literal_value(&self) -> Option<(&Provider, String)> {
        self.literal_values()
            .next()
            .map(|literal| (&literal.step.desired.provider, literal.change.path()))
    }

    /// Lets the digest cover literal values, by fingerprints made with this key. A plan that sets no such value keeps
    /// its digest.
    pub fn seal(&mut self, key: &FingerprintKey) {
        let fingerprint = |literal: LiteralValue<'_>| {
            let provider = &literal.step.desired.provider;
            let context = FingerprintContext {
                workspace: self.workspace.id.clone(),
                provider: provider.clone(),
                section: literal.section,
                name: literal.name.to_owned(),
            };
            let path = join_path(&[provider.as_str(), &literal.change.path()]);
            let source = literal.value.template.to_source();
            (path, key.fingerprint(&context, &source))
        };
        let fingerprints: Vec<(String, String)> = self.literal_values().map(fingerprint).collect();
        if let Some(digest) = self.digest.as_ref().filter(|_| !fingerprints.is_empty()) {
            self.digest = Some(digest.seal(&fingerprints));
        }
    }

    /// The number of providers in each state.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for entry in &self.entries {
            *match entry.verdict {
                Verdict::InSync(..) => &mut summary.in_sync,
                Verdict::Update(_) => &mut summary.update,
                Verdict::Held { .. } => &mut summary.held,
                Verdict::Invalid => &mut summary.invalid,
                Verdict::Unreadable(_) => &mut summary.unreadable,
                Verdict::Missing => &mut summary.missing,
                Verdict::Unmanaged => &mut summary.unmanaged,
            } += 1;
        }
        summary
    }
}
