//! What it means for listings that fields are switched off: one short line for a provider, `listings get no photos or rating`.
//!
//! The words are data, in `consequences.csv`: one row for each documented field of the group `listing`. A field that is not
//! documented has no words, because the project does not know what it contains.
//!
//! Never: claim more than that Calry no longer syncs a field. What listings already have may stay.

use crate::model::KNOWN_LISTING_FIELDS;
use crate::plan::Change;

const TABLE: &str = include_str!("consequences.csv");

/// The group whose fields are documented.
const GROUP: &str = "listing";

/// The most fields by name. A line stays short.
const MOST: usize = 6;

/// What the changes of one provider mean for listings; `None` if they switch off no documented field.
#[must_use]
pub fn describe_consequence<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Option<String> {
    let all: Vec<&str> = changes
        .into_iter()
        .filter_map(|change| match change {
            Change::Field {
                group,
                field,
                after: false,
                ..
            } if group == GROUP => words(field),
            Change::Field { .. } | Change::Icon { .. } | Change::Key { .. } => None,
        })
        .collect();
    let mut named: Vec<String> = all
        .iter()
        .take(MOST)
        .map(|&words| words.to_owned())
        .collect();
    match all.len().saturating_sub(MOST) {
        0 => {}
        // One field is not worth a count of it.
        1 => named.extend(all.last().map(|&words| words.to_owned())),
        more => named.push(format!("{more} more")),
    }
    let last = named.pop()?;
    Some(if named.is_empty() {
        format!("listings get no {last}")
    } else {
        format!("listings get no {} or {last}", named.join(", "))
    })
}

/// The words of a documented field.
fn words(field: &str) -> Option<&'static str> {
    KNOWN_LISTING_FIELDS
        .contains(&field)
        .then(|| rows().find(|(name, _)| *name == field))
        .flatten()
        .map(|(_, words)| words)
}

/// The rows below the heading.
fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.lines().skip(1).filter_map(|row| row.split_once(','))
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    fn off(fields: &[&str]) -> Vec<Change> {
        fields
            .iter()
            .map(|field| field_of(GROUP, field, false))
            .collect()
    }

    fn field_of(group: &str, field: &str, after: bool) -> Change {
        Change::Field {
            group: group.to_owned(),
            field: field.to_owned(),
            before: Some(!after),
            after,
        }
    }

    #[test]
    fn the_table_has_exactly_the_documented_fields() {
        let fields: Vec<&str> = rows().map(|(field, _)| field).collect();
        assert_eq!(fields, KNOWN_LISTING_FIELDS);
        assert_eq!(TABLE.lines().count(), KNOWN_LISTING_FIELDS.len() + 1);
        for (field, words) in rows() {
            let plain = |c: char| c.is_ascii_alphabetic() || " '-".contains(c);
            assert!(!words.is_empty() && words.len() <= 24, "{field}: short");
            assert!(
                words.chars().all(plain),
                "{field}: {words} needs no escape in any format"
            );
        }
    }

    #[test]
    fn fields_are_joined_to_one_short_line() {
        let line = |fields: &[&str]| describe_consequence(&off(fields));
        assert_eq!(line(&["pictures"]).unwrap(), "listings get no photos");
        assert_eq!(
            line(&["pictures", "rating", "rooms"]).unwrap(),
            "listings get no photos, rating or rooms"
        );
        assert_eq!(
            line(&KNOWN_LISTING_FIELDS[..7]).unwrap(),
            "listings get no address, amenities, number of bathrooms, number of bedrooms, check-in, check-out or contact"
        );
        assert_eq!(
            line(&KNOWN_LISTING_FIELDS).unwrap(),
            "listings get no address, amenities, number of bathrooms, number of bedrooms, check-in, check-out or 20 more"
        );
    }

    #[test]
    fn unknown_fields_other_groups_and_fields_that_are_switched_on_have_no_words() {
        let changes = [
            field_of(GROUP, "carbonFootprint", false),
            field_of("reservation", "name", false),
            field_of(GROUP, "name", true),
            Change::Icon {
                before: None,
                after: None,
            },
        ];
        assert_eq!(describe_consequence(&changes), None);
        let mixed = changes.iter().chain(iter::once(&changes[0]));
        let more = off(&["rooms"]);
        assert_eq!(
            describe_consequence(mixed.chain(&more)).unwrap(),
            "listings get no rooms"
        );
    }
}
