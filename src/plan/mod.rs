//! Desired and live state to a plan, and the plan past the guard. Everything here is pure: today's date is an argument,
//! and there is no clock, no I/O and no log.
//!
//! What it never does: send anything. A [`Plan`] is data; only an [`Approved`] one can be applied, and only
//! [`Plan::approve`] makes one.

mod applied;
mod change;
mod diff;
mod digest;
mod guard;
mod loosened;
mod origin;

use std::sync::Arc;

use crate::model::{
    Desired, DesiredValue, FingerprintKey, Half, Hold, Live, Place, Provider, Revision, SecretName, Update, Workspace,
};

pub use applied::{Applied, Imprint};
pub use change::{Change, KeyChange, Mismatch, Value, dotted};
pub use diff::{Context, Input, Refreshed, plan, refresh, verify};
pub use digest::{Digest, InvalidDigest};
pub use guard::{Approved, Limits, Refusal, Refused};
pub use loosened::{Loosened, PinChange};
pub use origin::{Base, BaseFile, Origin};

/// What would change, provider by provider, and why the rest would not.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workspace it is for.
    pub workspace: Workspace,
    /// The git revision of the files; `None` outside a checkout.
    pub revision: Option<Revision>,
    /// Sorted by provider; files whose provider is not known come last, by name.
    pub entries: Vec<Entry>,
    /// The plan's name; `None` where not all values were at hand.
    pub digest: Option<Digest>,
    /// The id of the commit that this branch began with, where changes are told apart by their origin.
    pub base: Option<String>,
    /// What this branch stops protecting, in comparison with its base.
    pub loosened: Vec<Loosened>,
    /// When the snapshot was taken that stands for the live state (RFC 3339); `None` where Calry itself was asked.
    pub snapshot: Option<String>,
}

/// One provider's part of a plan.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The provider; `None` for an invalid file that does not say.
    pub provider: Option<Provider>,
    /// The definition file's name; `None` where git does not manage the provider.
    pub file: Option<String>,
    /// What is to be done, or why nothing is.
    pub verdict: Verdict,
    /// Values that cannot be compared here.
    pub unresolved: Vec<Unresolved>,
    /// Where each of the [changes](Self::changes) comes from, in their order; `None` without a base.
    pub origins: Option<Vec<Origin>>,
}

/// What is to be done about one provider.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Live is as desired.
    InSync(Arc<Desired>, Arc<Live>),
    /// Live differs.
    Update(Box<Step>),
    /// Live may differ, and the file says not to touch it.
    Held {
        /// Until when, and why.
        hold: Hold,
        /// What would change without the hold.
        pending: Vec<Change>,
    },
    /// The file has errors.
    Invalid,
    /// The workspace has no such provider.
    Missing,
    /// Calry's answer for this provider cannot be read; the sentence says why.
    Unreadable(String),
    /// There is no file: git does not manage it.
    Unmanaged,
}

/// The update of one provider.
#[derive(Clone, Debug)]
pub struct Step {
    /// What git wants.
    pub desired: Arc<Desired>,
    /// What Calry had when the plan was made.
    pub live: Arc<Live>,
    /// What was applied before, where that is remembered: what a masked value is compared with.
    pub applied: Option<Arc<Imprint>>,
    /// What differs; never empty.
    pub changes: Vec<Change>,
    /// Whether the file changed, or the live state.
    pub cause: Cause,
    /// What would be sent.
    pub payload: Payload,
}

/// Why live and desired differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The desired state is not the one that was last applied.
    Change,
    /// The desired state was applied before, and somebody changed the live one since.
    Drift,
}

/// What an update would send.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A complete update.
    Ready(Update),
    /// It would carry values that are not at hand here: secrets, or live ones of which a snapshot tells nothing.
    Incomplete,
    /// It would have to carry a half that Calry shows as a mask only (trap 7).
    Masked(Half),
}

impl Payload {
    /// Why it cannot be sent, as a sentence.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Ready(_) => None,
            Self::Incomplete => {
                Some("values that it would carry are not at hand here; it can be applied where they are".to_owned())
            }
            Self::Masked(half) => Some(format!(
                "nothing is sent: the update would have to carry partnerKey.{half}, which git does not manage and whose \
                 values Calry shows as masks; bring partnerKey.{half} into the file, as ${{secret:…}} references"
            )),
        }
    }
}

/// A value below `partnerKey` that could not be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Its path, such as `partnerKey.headers.x-api-key`.
    pub path: String,
    /// The secrets that it refers to.
    pub secrets: Vec<SecretName>,
    /// Which side of the comparison is not at hand.
    pub missing: Missing,
}

/// What a comparison lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A secret that the desired value refers to.
    Secret,
    /// The live value: the snapshot holds nothing of it, or a fingerprint whose key is not at hand.
    Live,
}

/// How many providers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Live is as desired.
    pub in_sync: usize,
    /// An update is pending.
    pub update: usize,
    /// The file has errors, or Calry's answer for it cannot be read.
    pub invalid: usize,
    /// The workspace has no such provider.
    pub missing: usize,
    /// Held.
    pub held: usize,
    /// Not managed.
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
            Self::Invalid | Self::Unreadable(_) => "invalid",
            Self::Missing => "missing",
            Self::Unmanaged => "unmanaged",
        }
    }
}

impl Entry {
    /// What differs, whether or not it will be changed.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match &self.verdict {
            Verdict::Update(step) => &step.changes,
            Verdict::Held { pending, .. } => pending,
            _ => &[],
        }
    }

    /// The hold of its file, where its last day has passed: what differs now is due because of that.
    #[must_use]
    pub fn ended_hold(&self) -> Option<&Hold> {
        match &self.verdict {
            Verdict::Update(step) => step.desired.hold.as_ref(),
            Verdict::InSync(desired, _) => desired.hold.as_ref(),
            _ => None,
        }
    }

    /// The provider's name, or the file's where the provider is not known.
    #[must_use]
    pub fn label(&self) -> &str {
        self.provider.as_ref().map(Provider::as_str).or(self.file.as_deref()).unwrap_or("?")
    }
}

impl Plan {
    /// The updates, sorted by provider.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.entries.iter().filter_map(|entry| match &entry.verdict {
            Verdict::Update(step) => Some(&**step),
            _ => None,
        })
    }

    /// Every value that would be set and that a file writes out, in whole or around a reference.
    fn written_out(&self) -> impl Iterator<Item = (&Step, Half, &str, &Change, &DesiredValue)> {
        self.steps().flat_map(|step| step.changes.iter().map(move |change| (step, change))).filter_map(
            |(step, change)| {
                let Change::Key { half, name, .. } = change else { return None };
                let value = step.desired.partner_key.half(*half)?.get(name)?;
                value.template.writes_out().then_some((step, *half, name.as_str(), change, value))
            },
        )
    }

    /// The provider and the path of a value that a file writes out and that the plan would set. A digest that is not
    /// [sealed](Self::seal) does not cover it, for it could be guessed from it.
    #[must_use]
    pub fn first_written_out(&self) -> Option<(&Provider, String)> {
        self.written_out().next().map(|(step, _, _, change, _)| (&step.desired.provider, change.path()))
    }

    /// Lets the digest cover what files write out, by fingerprints that this key makes. A plan that sets no such value keeps
    /// its digest.
    pub fn seal(&mut self, key: &FingerprintKey) {
        let fingerprint = |(step, half, name, change, value): (&Step, Half, &str, &Change, &DesiredValue)| {
            let (workspace, provider) = (self.workspace.id.clone(), step.desired.provider.clone());
            let place = Place { workspace, provider, half, name: name.to_owned() };
            let path = dotted(&[step.desired.provider.as_str(), &change.path()]);
            (path, key.fingerprint(&place, &value.template.written()))
        };
        let fingerprints: Vec<(String, String)> = self.written_out().map(fingerprint).collect();
        if let Some(digest) = self.digest.as_ref().filter(|_| !fingerprints.is_empty()) {
            self.digest = Some(digest.sealed(&fingerprints));
        }
    }

    /// The states, counted.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for entry in &self.entries {
            *match entry.verdict {
                Verdict::InSync(..) => &mut summary.in_sync,
                Verdict::Update(_) => &mut summary.update,
                Verdict::Held { .. } => &mut summary.held,
                Verdict::Invalid | Verdict::Unreadable(_) => &mut summary.invalid,
                Verdict::Missing => &mut summary.missing,
                Verdict::Unmanaged => &mut summary.unmanaged,
            } += 1;
        }
        summary
    }
}
