//! The catalogue: which providers, groups and fields are known to exist.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Live, Provider};

/// The providers that Calry's public reference names (the update call's page, and AVANTIO, BOOM, ELINA, MR_ALFRED from
/// newer pages of the same API). The list grows.
pub const KNOWN_PROVIDERS: [&str; 20] = [
    "AVANTIO",
    "BEDS24",
    "BOOKINGSYNC",
    "BOOM",
    "CIIRUS",
    "ELINA",
    "GUESTY",
    "HOSPITABLE",
    "HOSTAWAY",
    "HOSTFULLY",
    "HOSTFULLYSANDBOX",
    "HOSTHUB",
    "HOSTIFY",
    "HOST_TOOLS",
    "INTERHOME",
    "LODGIFY",
    "MR_ALFRED",
    "OWNERREZ",
    "TOKEET",
    "UPLISTING",
];

/// The fields of the group `listing` in Calry's public reference. This list grows too.
pub const KNOWN_LISTING_FIELDS: [&str; 26] = [
    "address",
    "amenities",
    "bathroomCount",
    "bedroomCount",
    "checkIn",
    "checkOut",
    "contact",
    "currency",
    "description",
    "internalName",
    "latitude",
    "listingDetails",
    "longitude",
    "maxOccupancy",
    "maximumNights",
    "minimumNights",
    "name",
    "parentPropertyID",
    "pictures",
    "providerID",
    "rating",
    "rooms",
    "startPrice",
    "thumbnailUrl",
    "timeZone",
    "type",
];

/// The known names: providers, and the fields of each group.
///
/// Groups and fields are not kept by provider: a file may name what a definition of another provider has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Catalogue {
    providers: BTreeSet<String>,
    groups: BTreeMap<String, BTreeSet<String>>,
}

impl Catalogue {
    /// The names in Calry's public reference.
    #[must_use]
    pub fn built_in() -> Self {
        let fields = KNOWN_LISTING_FIELDS.map(str::to_owned);
        Self {
            providers: KNOWN_PROVIDERS.map(str::to_owned).into(),
            groups: [("listing".to_owned(), fields.into())].into(),
        }
    }

    pub fn add_provider(&mut self, name: &str) {
        self.providers.insert(name.to_owned());
    }

    pub fn add_fields(&mut self, group: &str, fields: impl IntoIterator<Item = String>) {
        self.groups
            .entry(group.to_owned())
            .or_default()
            .extend(fields);
    }

    pub fn extend(&mut self, other: &Self) {
        self.providers.extend(other.providers.iter().cloned());
        other
            .groups
            .iter()
            .for_each(|(group, fields)| self.add_fields(group, fields.iter().cloned()));
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.providers.len()
            + self.groups.len()
            + self.groups.values().map(BTreeSet::len).sum::<usize>()
    }

    /// The bytes of all names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let fields = self.groups.values().flatten();
        let names = self.providers.iter().chain(self.groups.keys());
        names.chain(fields).map(String::len).sum()
    }

    #[must_use]
    pub fn has_provider(&self, name: &str) -> bool {
        self.providers.contains(name)
    }

    /// The known providers, sorted.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().map(String::as_str)
    }

    /// The known groups, sorted.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.groups
            .iter()
            .map(|(group, fields)| (group.as_str(), fields))
    }

    /// The known fields of a group; `None` if the group is not known.
    #[must_use]
    pub fn fields(&self, group: &str) -> Option<&BTreeSet<String>> {
        self.groups.get(group)
    }
}

/// The names in the live definitions of a workspace, and which definitions cannot be read.
///
/// A name that is missing here is unknown only if no unreadable part can have it: Calry's failure is never reported as
/// the file's.
#[derive(Clone, Debug, Default)]
pub struct LiveNames {
    readable: Catalogue,
    /// Providers whose definitions cannot be read, with the groups concerned; `None` for all groups.
    unreadable: BTreeMap<Provider, Option<BTreeSet<String>>>,
    /// Whether there is a definition whose provider cannot be read either.
    nameless: bool,
}

impl LiveNames {
    /// Collects the names in definitions. `unreadable` are the providers whose definitions cannot be read; `nameless`
    /// says that the provider of one cannot be read either.
    #[must_use]
    pub fn of<'a>(
        live: impl IntoIterator<Item = &'a Live>,
        unreadable: impl IntoIterator<Item = &'a Provider>,
        nameless: bool,
    ) -> Self {
        let unreadable = unreadable
            .into_iter()
            .map(|provider| (provider.clone(), None))
            .collect();
        let mut names = Self {
            readable: Catalogue::default(),
            unreadable,
            nameless,
        };
        names
            .unreadable
            .keys()
            .for_each(|provider| names.readable.add_provider(provider.as_str()));
        for live in live {
            names.readable.add_provider(live.provider.as_str());
            for (group, fields) in &live.fields {
                names.readable.add_fields(group, fields.keys().cloned());
            }
            for group in live.problems.groups.keys() {
                names.add_unreadable_group(&live.provider, group);
            }
            if live.problems.fields.is_some() {
                names.unreadable.insert(live.provider.clone(), None);
            }
        }
        names
    }

    /// Marks a group as unreadable in a definition that is otherwise readable.
    pub fn add_unreadable_group(&mut self, provider: &Provider, group: &str) {
        let groups = self
            .unreadable
            .entry(provider.clone())
            .or_insert_with(|| Some(BTreeSet::new()));
        groups
            .iter_mut()
            .for_each(|groups| _ = groups.insert(group.to_owned()));
    }

    #[must_use]
    pub const fn readable(&self) -> &Catalogue {
        &self.readable
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.unreadable.is_empty() && !self.nameless
    }

    /// Whether there is a definition whose provider cannot be read.
    #[must_use]
    pub const fn has_nameless(&self) -> bool {
        self.nameless
    }

    #[must_use]
    pub fn may_have(&self, provider: &Provider) -> bool {
        self.nameless || self.readable.has_provider(provider.as_str())
    }

    /// Whether a group of a provider's own definition cannot be read.
    #[must_use]
    pub fn is_unreadable(&self, provider: &Provider, group: &str) -> bool {
        let unlisted = self.nameless && !self.readable.has_provider(provider.as_str());
        unlisted
            || self
                .unreadable
                .get(provider)
                .is_some_and(|groups| covers(groups.as_ref(), group))
    }

    /// Whether a group cannot be read in some definition, so that it may have any name.
    #[must_use]
    pub fn may_show_more(&self, group: &str) -> bool {
        self.nameless
            || self
                .unreadable
                .values()
                .any(|groups| covers(groups.as_ref(), group))
    }
}

fn covers(groups: Option<&BTreeSet<String>>, group: &str) -> bool {
    groups.is_none_or(|groups| groups.contains(group))
}

/// The candidate that `word` is probably a misspelling of, for a "did you mean".
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The comparison takes time and memory proportional to the product of both lengths, and the word may be hostile.
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(folded.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_the_word_that_was_meant() {
        assert_eq!(
            closest("fieldToSync", ["provider", "fieldsToSync"]),
            Some("fieldsToSync")
        );
        assert_eq!(closest("HOSTWAY", KNOWN_PROVIDERS), Some("HOSTAWAY"));
        assert_eq!(closest("pictrues", KNOWN_LISTING_FIELDS), Some("pictures"));
        assert_eq!(closest("zzz", KNOWN_PROVIDERS), None);
        assert_eq!(closest(&"x".repeat(1_000_000), KNOWN_PROVIDERS), None);
    }

    #[test]
    fn the_lists_are_sorted_and_without_doubles() {
        assert!(KNOWN_PROVIDERS.is_sorted_by(|a, b| a < b));
        assert!(KNOWN_LISTING_FIELDS.is_sorted_by(|a, b| a < b));
    }
}
