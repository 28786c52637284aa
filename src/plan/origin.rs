//! Attributes changes to this branch, or to an earlier state.
//!
//! A change was due before the branch if the base already wanted the same value. Otherwise it belongs to the branch,
//! also if the base had the provider on hold or did not manage it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;

use super::{Change, Loosening, PinChange, PlanEntry, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Desired, KeySection, Provider, SecretName};

/// Where a change comes from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// This branch.
    Branch,
    /// It was pending before: Calry was changed, or an earlier change was not applied.
    Drift,
}

impl Origin {
    /// Both, in the order of the output.
    pub const BOTH: [Self; 2] = [Self::Branch, Self::Drift];
}

/// The definitions at the commit where this branch began.
#[derive(Clone, Debug, Default)]
pub struct BranchBase {
    /// The commit's id, in hexadecimal digits.
    pub commit: String,
    pub desired: BTreeMap<Provider, BaseFile>,
    /// The workspace pin, if this branch removed or changed it.
    pub pin: Option<PinChange>,
    /// What this branch adds to the hold and the freeze windows of the workspace.
    pub holds: Vec<Loosening>,
    /// The encrypted secrets whose files this branch added, changed or removed.
    pub changed_secrets: BTreeSet<SecretName>,
}

#[derive(Clone, Debug)]
pub struct BaseFile {
    pub file: String,
    /// `None` if it had an error.
    pub desired: Option<Arc<Desired>>,
}

impl BranchBase {
    /// The origin of each change of a provider. `held`: whether the provider is on hold now.
    pub(super) fn origins(
        &self,
        changes: &[Change],
        desired: &Desired,
        held: bool,
        today: Date,
    ) -> Vec<Origin> {
        let base = self
            .desired
            .get(&desired.provider)
            .and_then(|base| base.desired.as_deref());
        // A branch that ends a hold causes all changes of the provider.
        let base = base
            .filter(|base| held || !base.hold.as_ref().is_some_and(|hold| hold.in_force(today)));
        let origin = |change| match base {
            Some(base) if self.wanted_before(change, base, desired) => Origin::Drift,
            _ => Origin::Branch,
        };
        changes.iter().map(origin).collect()
    }

    /// Whether this branch wrote another value below `partnerKey` than the base had there.
    pub(super) fn rewrites(&self, section: KeySection, name: &str, desired: &Desired) -> bool {
        let base = self
            .desired
            .get(&desired.provider)
            .and_then(|base| base.desired.as_deref());
        base.is_none_or(|base| !same_value(section, name, base, desired))
    }

    /// Whether this branch changed one of these encrypted secrets.
    pub(super) fn changes_secret<'a>(
        &self,
        names: impl IntoIterator<Item = &'a SecretName>,
    ) -> bool {
        let mut names = names.into_iter();
        names.any(|name| self.changed_secrets.contains(name))
    }

    fn wanted_before(&self, change: &Change, base: &Desired, desired: &Desired) -> bool {
        match change {
            Change::Icon { .. } => base.icon == desired.icon,
            Change::Field {
                group,
                field,
                after,
                ..
            } => base
                .fields
                .get(group)
                .is_some_and(|on| on.contains(field) == *after),
            Change::Key {
                section,
                name,
                secrets,
                ..
            } => same_value(*section, name, base, desired) && !self.changes_secret(secrets),
        }
    }
}

/// Whether both manage the section and have the same value in it, or neither has one.
fn same_value(section: KeySection, name: &str, base: &Desired, desired: &Desired) -> bool {
    let value = |of: &Desired| {
        let values = of.partner_key.section(section)?;
        let same = values
            .iter()
            .find(|(other, _)| section.fold(other) == section.fold(name));
        Some(same.map(|(_, value)| value.template.clone()))
    };
    let before = value(base);
    before.is_some() && before == value(desired)
}

impl PlanEntry {
    /// The changes of one origin. Without a base there is none of either.
    pub fn changes_of(&self, origin: Origin) -> impl Iterator<Item = &Change> {
        let origins = self.origins.iter().flatten();
        self.changes()
            .iter()
            .zip(origins)
            .filter(move |(_, of)| **of == origin)
            .map(|(change, _)| change)
    }

    /// Whether an update is due for a change of this origin.
    #[must_use]
    pub fn is_due_to(&self, origin: Origin) -> bool {
        matches!(self.verdict, Verdict::Update(_)) && self.changes_of(origin).next().is_some()
    }
}
