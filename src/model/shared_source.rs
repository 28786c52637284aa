//! The parts of a definition that a workspace takes from a shared file.

use std::collections::{BTreeMap, BTreeSet};

use super::KeySection;

/// A shared file, and which parts of a provider's definition are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedSource {
    /// Its name, from the definitions directory: `../shared/hostaway.yaml`.
    pub file: String,
    pub icon: bool,
    pub sections: BTreeSet<KeySection>,
    /// The groups, each with the fields that the workspace's own file adds to it or removes from it.
    pub groups: BTreeMap<String, BTreeSet<String>>,
    pub hold: bool,
}

impl SharedSource {
    /// Whether the value of a field is in the shared file.
    #[must_use]
    pub fn has_field(&self, group: &str, field: &str) -> bool {
        let own = self.groups.get(group);
        own.is_some_and(|own| !own.contains(field))
    }
}
