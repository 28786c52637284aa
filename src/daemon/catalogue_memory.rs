//! Remembers which providers, groups and fields a workspace has in Calry, and notices what appears or vanishes.
//!
//! Never: take a name for vanished that a part which cannot be read may have.

use serde::{Deserialize, Serialize};

use super::publisher::now;
use crate::model::{Catalogue, LiveNames};
use crate::report::catalogue::CatalogueNotice;

/// How many notices are kept.
const MAX_NOTICES: usize = 10;
/// The most names of a workspace, and their bytes, that are remembered. Of more nothing is noticed.
const MAX_NAMES: usize = 5_000;
const MAX_BYTES: usize = 256 << 10;

/// What is known about one workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CatalogueMemory {
    /// The id of the workspace.
    workspace: String,
    names: Catalogue,
    /// The last notices, oldest first.
    notices: Vec<CatalogueNotice>,
}

/// The notices of a workspace as of one reconciliation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueFindings {
    /// The last notices, oldest first.
    pub notices: Vec<CatalogueNotice>,
    /// Whether this reconciliation found the last one.
    pub is_news: bool,
}

impl CatalogueMemory {
    /// Learns the names that Calry shows. The names of a workspace that is seen for the first time are no news, and neither is
    /// anything to a standby (`quiet`), whose leader reports.
    pub(super) fn learn(
        &mut self,
        workspace: &str,
        live: &LiveNames,
        quiet: bool,
    ) -> CatalogueFindings {
        let mut names = live.readable().clone();
        let is_known = self.workspace == workspace;
        if !is_known {
            *self = Self {
                workspace: workspace.to_owned(),
                ..Self::default()
            };
        } else {
            names.extend(&hidden(&self.names, live));
        }
        let mut is_news = false;
        if names.count() <= MAX_NAMES && names.bytes() <= MAX_BYTES {
            if is_known && !quiet {
                is_news = self.notice(&names);
            }
            self.names = names;
        }
        CatalogueFindings {
            notices: self.notices.clone(),
            is_news,
        }
    }

    fn notice(&mut self, names: &Catalogue) -> bool {
        let Some(found) = CatalogueNotice::between(&self.names, names) else {
            return false;
        };
        let last = self.notices.last().map_or(0, |notice| notice.number);
        self.notices.push(CatalogueNotice {
            number: last + 1,
            time: now(),
            ..found
        });
        let excess = self.notices.len().saturating_sub(MAX_NOTICES);
        self.notices.drain(..excess);
        true
    }
}

/// The names that were there before, and that a part which cannot be read may still have.
fn hidden(before: &Catalogue, live: &LiveNames) -> Catalogue {
    let mut hidden = Catalogue::default();
    // A definition without a readable provider may be that of any provider.
    if live.has_nameless() {
        before
            .providers()
            .for_each(|provider| hidden.add_provider(provider));
    }
    for (group, fields) in before.groups() {
        if live.may_show_more(group) {
            hidden.add_fields(group, fields.iter().cloned());
        }
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fixtures;
    use crate::model::Live;

    fn live(provider: &str, fields: &[&str]) -> Live {
        let fields = fields.iter().map(|field| ((*field).to_owned(), true));
        Live {
            fields: [("listing".to_owned(), fields.collect())].into(),
            ..fixtures::live(provider)
        }
    }

    fn names(live: &[Live]) -> LiveNames {
        LiveNames::of(live, [], false)
    }

    /// What is said after each reading.
    fn said(memory: &mut CatalogueMemory, names: &LiveNames) -> Option<String> {
        let found = memory.learn("1", names, false);
        let last = found.notices.last().map(CatalogueNotice::sentence);
        last.filter(|_| found.is_news)
    }

    #[test]
    fn what_appears_or_vanishes_is_noticed_once_and_the_first_names_are_no_news() {
        let mut memory = CatalogueMemory::default();
        let old = names(&[live("GUESTY", &["name", "rooms"])]);
        let new = names(&[live("GUESTY", &["name"]), live("TOKEET", &["name"])]);
        assert_eq!(said(&mut memory, &old), None);
        assert_eq!(said(&mut memory, &old), None);
        let expected = "new in Calry: provider TOKEET; gone from Calry: field listing.rooms";
        assert_eq!(said(&mut memory, &new).as_deref(), Some(expected));
        assert_eq!(said(&mut memory, &new), None);
        assert_eq!(memory.notices.len(), 1);
        // Another workspace has its own names.
        assert!(!memory.learn("2", &old, false).is_news);
        assert_eq!(memory.notices, []);
    }

    #[test]
    fn what_may_be_in_an_unreadable_part_has_not_vanished() {
        let (guesty, tokeet) = (live("GUESTY", &["name"]), live("TOKEET", &["rooms"]));
        let all = names(&[guesty.clone(), tokeet.clone()]);
        let mut memory = CatalogueMemory::default();
        said(&mut memory, &all);
        // TOKEET cannot be read: its field may still be there.
        let unreadable = LiveNames::of([&guesty], [&tokeet.provider], false);
        assert_eq!(said(&mut memory, &unreadable), None);
        // The provider of one definition cannot be read: it may be TOKEET.
        let nameless = LiveNames::of([&guesty], [], true);
        assert_eq!(said(&mut memory, &nameless), None);
        assert_eq!(said(&mut memory, &all), None);
        let gone = "gone from Calry: provider TOKEET, field listing.rooms";
        assert_eq!(said(&mut memory, &names(&[guesty])).as_deref(), Some(gone));
    }

    #[test]
    fn a_standby_learns_and_says_nothing() {
        let mut memory = CatalogueMemory::default();
        let (old, new) = (names(&[live("GUESTY", &[])]), names(&[live("TOKEET", &[])]));
        assert_eq!(said(&mut memory, &old), None);
        assert!(!memory.learn("1", &new, true).is_news);
        assert_eq!(said(&mut memory, &new), None);
    }

    #[test]
    fn neither_many_names_nor_many_notices_are_kept() {
        let mut memory = CatalogueMemory::default();
        let small = names(&[live("GUESTY", &["name"])]);
        said(&mut memory, &small);
        let fields: Vec<String> = (0..MAX_NAMES).map(|n| n.to_string()).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let long = "x".repeat(MAX_BYTES);
        for large in [live("GUESTY", &fields), live("GUESTY", &[&long])] {
            assert_eq!(said(&mut memory, &names(&[large])), None);
        }
        assert_eq!(said(&mut memory, &small), None);
        for n in 0..50 {
            let field = n.to_string();
            assert!(said(&mut memory, &names(&[live("GUESTY", &[&field])])).is_some());
        }
        let numbers: Vec<u64> = memory.notices.iter().map(|notice| notice.number).collect();
        assert_eq!(numbers, (41..=50).collect::<Vec<_>>());
    }
}
