//! What was last applied to a provider, without its values: enough to tell drift from change, and to compare masked
//! values.
//!
//! It may come from another process, and be old or wrong. It is used only to label a difference (drift or change) and
//! to compare masked values; a visible difference is found without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Cause, Change, Digest};
use crate::model::{
    Desired, DesiredValue, Fingerprint, FingerprintContext, FingerprintKey, KeySection, Live,
    PartnerKey, Provider, Secret,
};

/// The desired state that was last applied, or found in place, of each provider.
pub type AppliedState = BTreeMap<Provider, Arc<LastApplied>>;

/// A remembered desired state, which can only be compared with another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastApplied {
    /// The digest of everything that is not below `partnerKey`.
    pub parts: Digest,
    /// The values below `partnerKey`, by their canonical names.
    pub partner_key: PartnerKey<Fingerprint>,
    /// Calry's `updatedAt` at that time; `None` if an update may have been made since, so that masked values are
    /// unknown.
    pub updated_at: Option<String>,
    /// What did not converge, by path, each with the cause for which it was sent.
    pub kept: BTreeMap<String, Cause>,
}

impl LastApplied {
    /// What to remember of a desired state. A value that is not available is left out, and then never compares as
    /// equal.
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

    /// Whether this was made of the given desired state. Holds do not matter.
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

    /// Whether this value is the masked one. If `updatedAt` has changed since it was applied, another writer may have
    /// changed the value: it is unknown until it is sent again.
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

    /// Why live and desired state differ. A field that never converged is not drift.
    pub(super) fn cause(&self, desired: &Desired, changes: &[Change]) -> Cause {
        let drifted = |change: &Change| self.kept.get(&change.path()) != Some(&Cause::Change);
        if self.matches(desired) && changes.iter().any(drifted) {
            Cause::Drift
        } else {
            Cause::Change
        }
    }
}
