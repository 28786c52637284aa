//! Notices about the catalogue of a workspace: which providers, groups and fields appeared in Calry or vanished from it.
//!
//! The keys are a contract, like those of the status.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Catalogue, ellipsize, printable};
use crate::plan::join_path;

/// Names that appeared in the live state of a workspace or vanished from it, found by one reconciliation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueNotice {
    /// Its number in the workspace, from 1.
    pub number: u64,
    /// When it was found.
    pub time: Timestamp,
    /// The first names that appeared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub appeared: Vec<CatalogueName>,
    /// The first names that vanished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vanished: Vec<CatalogueName>,
    /// The number of all names that appeared or vanished.
    pub names: usize,
}

/// The name of a provider, a group or a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueName {
    /// What has this name.
    pub kind: CatalogueKind,
    /// The name; of a field with its group, as in `listing.rooms`.
    pub name: String,
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CatalogueKind {
    /// A provider.
    Provider,
    /// A group of fields, with all of its fields.
    Group,
    /// A field of a group that is older.
    Field,
}

/// The longest name in a notice, in characters.
const MAX_NAME: usize = 120;
/// How many names a notice lists in each direction.
const MAX_NAMES: usize = 20;

impl CatalogueNotice {
    /// Compares two catalogues of a workspace. `None` if they are equal.
    #[must_use]
    pub fn between(before: &Catalogue, after: &Catalogue) -> Option<Self> {
        let (mut appeared, mut vanished) = (names(after, before), names(before, after));
        let names = appeared.len() + vanished.len();
        appeared.truncate(MAX_NAMES);
        vanished.truncate(MAX_NAMES);
        (names > 0).then(|| Self {
            appeared,
            vanished,
            names,
            ..Self::default()
        })
    }

    /// `new in Calry: provider TOKEET; gone from Calry: field listing.rating`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let part = |what: &str, names: &[CatalogueName]| {
            (!names.is_empty()).then(|| {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                format!("{what} Calry: {}", names.join(", "))
            })
        };
        let listed = self.appeared.len() + self.vanished.len();
        let more = self.names.saturating_sub(listed);
        let parts = [
            part("new in", &self.appeared),
            part("gone from", &self.vanished),
            (more > 0).then(|| format!("and {more} more")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for CatalogueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), printable(&self.name))
    }
}

impl CatalogueKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Group => "group",
            Self::Field => "field",
        }
    }
}

/// The names that are in one catalogue and not in another. The fields of a group that is not in the other are not listed.
fn names(of: &Catalogue, without: &Catalogue) -> Vec<CatalogueName> {
    let name = |kind, name: &str| CatalogueName {
        kind,
        name: ellipsize(&printable(name), MAX_NAME),
    };
    let providers = of.providers();
    let mut names: Vec<CatalogueName> = providers
        .filter(|provider| !without.has_provider(provider))
        .map(|provider| name(CatalogueKind::Provider, provider))
        .collect();
    for (group, fields) in of.groups() {
        let Some(known) = without.fields(group) else {
            names.push(name(CatalogueKind::Group, &join_path(&[group])));
            continue;
        };
        let fields = fields.difference(known);
        names.extend(fields.map(|field| name(CatalogueKind::Field, &join_path(&[group, field]))));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(providers: &[&str], groups: &[(&str, &[&str])]) -> Catalogue {
        let mut catalogue = Catalogue::default();
        providers
            .iter()
            .for_each(|provider| catalogue.add_provider(provider));
        for (group, fields) in groups {
            catalogue.add_fields(group, fields.iter().map(|field| (*field).to_owned()));
        }
        catalogue
    }

    #[test]
    fn a_notice_names_what_appeared_and_what_vanished_and_no_field_of_a_new_group() {
        let before = catalogue(&["GUESTY", "TOKEET"], &[("listing", &["name", "rating"])]);
        let after = catalogue(
            &["BOOM", "GUESTY"],
            &[("listing", &["name", "video tour"]), ("rates", &["daily"])],
        );
        let notice = CatalogueNotice::between(&before, &after).unwrap();
        assert_eq!(
            notice.sentence(),
            "new in Calry: provider BOOM, field listing[\"video tour\"], group rates; gone from Calry: provider TOKEET, \
             field listing.rating"
        );
        assert_eq!(notice.names, 5);
        assert_eq!(CatalogueNotice::between(&after, &after), None);
    }

    #[test]
    fn a_notice_about_many_names_is_short_and_counts_them() {
        let fields: Vec<String> = (0..1000)
            .map(|n| format!("{}{n}", "x".repeat(500)))
            .collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let before = catalogue(&[], &[("listing", &[])]);
        let after = catalogue(&[], &[("listing", &fields)]);
        let notice = CatalogueNotice::between(&before, &after).unwrap();
        assert!(notice.sentence().len() < 4_000);
        assert!(notice.sentence().ends_with("; and 980 more"));
    }
}
