//! The way back from a backup: the desired state that makes a definition what it was. Everything here is pure.
//!
//! Never: guess. What a backup does not have, or Calry no longer shows, stays as it is and is named.

use std::collections::BTreeMap;

use crate::desired::definitions::is_parameter_name;
use crate::desired::secrets::check_possible;
use crate::model::{
    DefinitionPart, Desired, DesiredPartnerKey, DesiredValue, FieldSet, Icon, KeySection, Live,
    LiveFields, LiveValue, Template, ellipsize, printable,
};
use crate::plan::Change;

/// What a backup can put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restorable {
    pub desired: Desired,
    /// What stays as it is, and why: sentences without values.
    pub left: Vec<String>,
}

impl Restorable {
    /// Compares the definition of a backup with the live one of the same provider.
    #[must_use]
    pub fn new(saved: &Live, live: &Live) -> Self {
        let mut left = Vec::new();
        let problems = DefinitionPart::ALL
            .into_iter()
            .filter_map(|part| saved.problems.part(part).map(|problem| (part, problem)));
        for (part, problem) in problems {
            left.push(format!(
                "{part}: it could not be read when the backup was made: {problem}"
            ));
        }
        let desired = Desired {
            provider: saved.provider.clone(),
            icon: icon(saved, live, &mut left),
            partner_key: partner_key(saved, live, &mut left),
            fields: fields(&saved.fields, &live.fields, &mut left),
            hold: None,
        };
        Self { desired, left }
    }
}

/// Whether a desired state manages the part of a change.
#[must_use]
pub fn is_managed(change: &Change, desired: &Desired) -> bool {
    match change {
        Change::Icon { .. } => desired.icon.is_some(),
        Change::Field { group, .. } => desired.fields.contains_key(group),
        Change::Key { section, .. } => desired.partner_key.section(*section).is_some(),
    }
}

fn icon(saved: &Live, live: &Live, left: &mut Vec<String>) -> Option<Icon> {
    if saved.problems.icon.is_some() {
        return None;
    }
    let Some(text) = &saved.icon else {
        if live.icon.is_some() {
            left.push("icon: there was none, and an update cannot remove one".to_owned());
        }
        return None;
    };
    // What is the same needs no update, whatever its form.
    let icon = Icon::parse(text).ok();
    if icon.is_none() && live.icon.as_ref() != Some(text) {
        left.push("icon: the one in the backup is not a URL that can be sent".to_owned());
    }
    icon
}

fn partner_key(saved: &Live, live: &Live, left: &mut Vec<String>) -> DesiredPartnerKey {
    let mut desired = DesiredPartnerKey::default();
    // If Calry shows neither section, it may hide both.
    let shows_any = KeySection::BOTH
        .into_iter()
        .any(|section| saved.partner_key.section(section).is_some());
    for section in KeySection::BOTH {
        if saved.problems.section(section).is_some() {
            continue;
        }
        let Some(values) = saved.partner_key.section(section) else {
            let is_used = live
                .partner_key
                .section(section)
                .is_some_and(|values| !values.is_empty());
            if is_used && shows_any {
                *desired.section_mut(section) = Some(BTreeMap::new());
            } else if is_used {
                left.push(format!("partnerKey.{section}: the backup has none"));
            }
            continue;
        };
        let resolved = values.iter().map(|(name, value)| {
            let shown = || ellipsize(&printable(name), 80);
            let LiveValue::Value(value) = value else {
                return Err(format!(
                    "the backup has a mask in the place of {}, because Calry did not show its value",
                    shown()
                ));
            };
            // Whoever has the public key can make a backup: it may not set what a file may not.
            if !is_parameter_name(section, name) {
                return Err(format!("{} cannot be a name", shown()));
            }
            if let Err(problem) = check_possible(value) {
                return Err(format!("the value of {} {problem}", shown()));
            }
            let desired = DesiredValue {
                template: Template::literal(value.clone()),
                value: Some(value.clone()),
            };
            Ok((name.clone(), desired))
        });
        match resolved.collect::<Result<BTreeMap<_, _>, String>>() {
            Ok(values) => *desired.section_mut(section) = Some(values),
            Err(why) => left.push(format!("partnerKey.{section}: {why}")),
        }
    }
    desired
}

fn fields(
    saved: &LiveFields,
    live: &LiveFields,
    left: &mut Vec<String>,
) -> BTreeMap<String, FieldSet> {
    let shown = |name: &str| ellipsize(&printable(name), 80);
    let mut desired = BTreeMap::new();
    for (group, fields) in saved {
        let Some(known) = live.get(group) else {
            left.push(format!(
                "fieldsToSync.{}: Calry no longer shows it",
                shown(group)
            ));
            continue;
        };
        let mut on = FieldSet::new();
        for (field, was_on) in fields {
            match (known.contains_key(field), was_on) {
                (true, true) => _ = on.insert(field.clone()),
                (false, true) => left.push(format!(
                    "fieldsToSync.{}.{}: Calry no longer shows it",
                    shown(group),
                    shown(field)
                )),
                (_, false) => {}
            }
        }
        // A field that came later is not in the backup.
        let later = known
            .iter()
            .filter(|(field, _)| !fields.contains_key(*field));
        on.extend(
            later
                .filter(|(_, is_on)| **is_on)
                .map(|(field, _)| field.clone()),
        );
        desired.insert(group.clone(), on);
    }
    desired
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LiveProblems, PartnerKey, Provider, Secret};

    fn live(icon: Option<&str>, fields: &[(&str, &[(&str, bool)])]) -> Live {
        let group = |(name, fields): &(&str, &[(&str, bool)])| {
            let fields = fields.iter().map(|(field, on)| ((*field).to_owned(), *on));
            ((*name).to_owned(), fields.collect())
        };
        Live {
            id: "1".to_owned(),
            name: String::new(),
            provider: Provider::parse("HOSTAWAY").unwrap(),
            icon: icon.map(str::to_owned),
            partner_key: PartnerKey::default(),
            fields: fields.iter().map(group).collect(),
            updated_at: String::new(),
            problems: LiveProblems::default(),
        }
    }

    fn section(values: &[(&str, &str)]) -> Option<BTreeMap<String, LiveValue>> {
        let values = values.iter();
        let value = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), LiveValue::from(Secret::new(*value)))
        };
        Some(values.map(value).collect())
    }

    #[test]
    fn the_fields_become_what_they_were_and_later_ones_stay() {
        let saved = live(
            None,
            &[
                ("listing", &[("a", true), ("b", false), ("gone", true)]),
                ("old", &[]),
            ],
        );
        let now = live(
            None,
            &[(
                "listing",
                &[("a", false), ("b", true), ("c", true), ("d", false)],
            )],
        );
        let restorable = Restorable::new(&saved, &now);
        let listing = &restorable.desired.fields["listing"];
        assert_eq!(listing.iter().collect::<Vec<_>>(), ["a", "c"]);
        assert!(!restorable.desired.fields.contains_key("old"));
        assert_eq!(
            restorable.left,
            [
                "fieldsToSync.listing.gone: Calry no longer shows it",
                "fieldsToSync.old: Calry no longer shows it"
            ]
        );
    }

    #[test]
    fn a_section_with_a_mask_stays_as_it_is_and_no_value_is_shown() {
        let (mut saved, now) = (live(Some("https://e.com/a"), &[]), live(None, &[]));
        saved.partner_key.headers = section(&[("a", "hunter2"), ("b", "********")]);
        saved.partner_key.query_params = section(&[("id", "a${b}")]);
        let restorable = Restorable::new(&saved, &now);
        let desired = &restorable.desired;
        assert_eq!(
            desired.icon.as_ref().map(Icon::as_str),
            Some("https://e.com/a")
        );
        assert_eq!(desired.partner_key.headers, None);
        let value = &desired.partner_key.query_params.as_ref().unwrap()["id"];
        assert_eq!(value.value, Some(Secret::new("a${b}")));
        assert_eq!(value.references().count(), 0);
        assert!(
            restorable.left.len() == 1 && restorable.left[0].contains("in the place of b"),
            "{:?}",
            restorable.left
        );
    }

    #[test]
    fn an_icon_that_cannot_be_sent_is_left_unless_it_is_the_same() {
        let saved = live(Some("ftp://e.com/a"), &[]);
        for (now, left) in [(saved.icon.as_deref(), 0), (Some("https://e.com/b"), 1)] {
            let restorable = Restorable::new(&saved, &live(now, &[]));
            assert_eq!(restorable.desired.icon, None);
            assert_eq!(restorable.left.len(), left, "{:?}", restorable.left);
        }
    }

    #[test]
    fn a_forged_backup_sets_nothing_that_a_file_may_not() {
        let now = live(None, &[]);
        for (name, value, why) in [
            ("x y", "hunter2", "x y cannot be a name"),
            ("", "hunter2", " cannot be a name"),
            ("a", "x\r\nHost: y", "the value of a contains a line break"),
        ] {
            let mut saved = live(None, &[]);
            saved.partner_key.headers = section(&[(name, value)]);
            let Restorable { desired, left } = Restorable::new(&saved, &now);
            assert_eq!(desired.partner_key.headers, None);
            assert!(
                left.len() == 1 && left[0].contains(why) && !left[0].contains(value),
                "{left:?}"
            );
        }
    }

    #[test]
    fn a_section_that_was_not_there_is_emptied_only_if_calry_showed_partner_keys() {
        let (mut saved, mut now) = (live(None, &[]), live(Some("https://e.com/a"), &[]));
        now.partner_key.headers = section(&[("a", "hunter2")]);
        let left = Restorable::new(&saved, &now);
        assert_eq!(left.desired.partner_key.headers, None);
        assert_eq!(
            left.left,
            [
                "icon: there was none, and an update cannot remove one",
                "partnerKey.headers: the backup has none"
            ]
        );
        saved.partner_key.query_params = section(&[]);
        let emptied = Restorable::new(&saved, &now).desired.partner_key.headers;
        assert_eq!(emptied, Some(BTreeMap::new()));
    }

    #[test]
    fn what_could_not_be_read_stays_as_it_is() {
        let mut saved = live(None, &[]);
        saved.problems.headers = Some("`partnerKey.headers` is not an object".to_owned());
        saved.problems.icon = Some("`icon` is not a string".to_owned());
        let restorable = Restorable::new(&saved, &live(Some("https://e.com/a"), &[]));
        assert_eq!(restorable.left.len(), 2);
        assert_eq!(restorable.desired.icon, None);
    }
}
