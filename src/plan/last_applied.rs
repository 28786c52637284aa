//! What was last applied of a provider, without any value of it: enough to tell drift from change, and to know what stands
//! behind a mask.
//!
//! It may come from another process, and be old or wrong. It decides how a difference is called, and of masks whether
//! there is one; a difference that shows is found without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Cause, Change, Digest};
use crate::model::{
    Desired, DesiredValue, Fingerprint, FingerprintContext, FingerprintKey, KeySection, Live,
    PartnerKey, Provider, Secret,
};

/// The desired state that was last applied, or found in place, of each provider.
pub type AppliedState = BTreeMap<Provider, Arc<LastApplied>>;

/// A desired state as it is remembered: what can be told of it is whether another one is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastApplied {
    /// Of all that is not below `partnerKey`.
    pub parts: Digest,
    /// The values below `partnerKey`, by their names in the form in which equal ones are the same text.
    pub partner_key: PartnerKey<Fingerprint>,
    /// Calry's `updatedAt` when it was so. `None` if an update may have been made since: then the values behind masks are
    /// unknown.
    pub updated_at: Option<String>,
    /// What Calry did not take over, by path, each with the cause that it was sent for.
    pub kept: BTreeMap<String, Cause>,
}

impl LastApplied {
    /// What to remember of a desired state. A value that is not at hand is left out, and is then never the same.
    #[must_use]
    pub fn of(
        desired: &Desired,
        key: &FingerprintKey,
        workspace: &str,
        updated_at: Option<String>,
    ) -> Self {
        let mut partner_key = PartnerKey::default();
        for section in KeySection::BOTH {
            let print = |(name, wanted): (&String, &DesiredValue)| {
                let (provider, name) = (desired.provider.clone(), section.fold(name));
                let place = FingerprintContext {
                    workspace: workspace.to_owned(),
                    provider,
                    section,
                    name: name.clone(),
                };
                let text = key.fingerprint(&place, wanted.value.as_ref()?);
                Some((name, Fingerprint::new(key.clone(), place, &text)?))
            };
            *partner_key.section_mut(section) = desired
                .partner_key
                .section(section)
                .map(|wanted| wanted.iter().filter_map(print).collect());
        }
        let parts = Digest::of_parts(desired);
        Self {
            parts,
            partner_key,
            updated_at,
            kept: BTreeMap::new(),
        }
    }

    /// Whether a desired state is the one that this was made of. A hold says when, not what.
    #[must_use]
    pub fn matches(&self, desired: &Desired) -> bool {
        let same = |section| match (
            self.partner_key.section(section),
            desired.partner_key.section(section),
        ) {
            (None, None) => true,
            (Some(known), Some(wanted)) => {
                let names: BTreeSet<String> =
                    wanted.keys().map(|name| section.fold(name)).collect();
                let is_known = |(name, wanted): (&String, &DesiredValue)| {
                    known
                        .get(&section.fold(name))
                        .zip(wanted.value.as_ref())
                        .is_some_and(|(known, value)| known.matches(value))
                };
                known.keys().eq(&names) && wanted.iter().all(is_known)
            }
            _ => false,
        };
        self.parts == Digest::of_parts(desired) && KeySection::BOTH.into_iter().all(same)
    }

    /// Whether this value is what stands behind a mask. If `updatedAt` moved since it was applied, somebody else may have
    /// changed it: it is unknown until it is sent again.
    pub(super) fn is_behind_mask(
        &self,
        live: &Live,
        section: KeySection,
        name: &str,
        value: &Secret,
    ) -> bool {
        let counts = self.updated_at.as_ref() == Some(&live.updated_at);
        let known = self
            .partner_key
            .section(section)
            .and_then(|values| values.get(&section.fold(name)));
        counts && known.is_some_and(|known| known.matches(value))
    }

    /// Why a live definition differs from a desired state. What Calry never took over was not changed by anybody since.
    pub(super) fn cause(&self, desired: &Desired, changes: &[Change]) -> Cause {
        let drifted = |change: &Change| self.kept.get(&change.path()) != Some(&Cause::Change);
        if self.matches(desired) && changes.iter().any(drifted) {
            Cause::Drift
        } else {
            Cause::Change
        }
    }
}
