//! What is known of providers and fields: from Calry's documentation when offline, from the live state when online.

use std::collections::{BTreeMap, BTreeSet};

use super::{Live, Provider};

/// The providers that Calry's public reference names (the update call's page, and AVANTIO, BOOM, ELINA, MR_ALFRED from
/// newer pages of the same API). The list grows; an unknown name is a warning, never an error.
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

/// The providers and fields that a definition can name without a warning.
#[derive(Clone, Debug)]
pub enum Catalogue {
    /// What the public reference names: for looking at files offline.
    Reference,
    /// What the workspace has, group by group for each provider.
    Workspace(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>),
}

impl Catalogue {
    /// The catalogue that a live state shows. Of a provider whose definition cannot be read only the name is known.
    #[must_use]
    pub fn of<'a>(
        live: impl IntoIterator<Item = &'a Live>,
        unreadable: impl IntoIterator<Item = &'a Provider>,
    ) -> Self {
        let groups = |live: &Live| {
            live.fields.iter().map(|(group, fields)| (group.clone(), fields.keys().cloned().collect())).collect()
        };
        let mut providers: BTreeMap<_, _> =
            unreadable.into_iter().map(|p| (p.as_str().to_owned(), BTreeMap::new())).collect();
        providers.extend(live.into_iter().map(|l| (l.provider.as_str().to_owned(), groups(l))));
        Self::Workspace(providers)
    }

    /// The known providers, sorted.
    #[must_use]
    pub fn providers(&self) -> Vec<&str> {
        match self {
            Self::Reference => KNOWN_PROVIDERS.to_vec(),
            Self::Workspace(providers) => providers.keys().map(String::as_str).collect(),
        }
    }

    /// The known groups of a provider, sorted; `None` where the provider itself is not known.
    #[must_use]
    pub fn groups(&self, provider: &str) -> Option<Vec<&str>> {
        match self {
            Self::Reference => Some(vec!["listing"]),
            Self::Workspace(providers) => {
                providers.get(provider).map(|groups| groups.keys().map(String::as_str).collect())
            }
        }
    }

    /// The known fields of a provider's group, sorted; `None` where nothing is known of the group.
    #[must_use]
    pub fn fields(&self, provider: &str, group: &str) -> Option<Vec<&str>> {
        match self {
            Self::Reference => (group == "listing").then(|| KNOWN_LISTING_FIELDS.to_vec()),
            Self::Workspace(providers) => {
                providers.get(provider)?.get(group).map(|fields| fields.iter().map(String::as_str).collect())
            }
        }
    }
}

/// The candidate that somebody who wrote `word` probably meant, for a "did you mean".
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The comparison takes time and memory with the product of both lengths, and words come from strangers.
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(folded.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_the_word_that_was_meant() {
        assert_eq!(closest("fieldToSync", ["provider", "fieldsToSync"]), Some("fieldsToSync"));
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
