//! Phrases that several outputs share: counts, changes and durations.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;

use super::plan::ChangeItem;
use crate::model::{KeyExpiry, printable};
use crate::plan::{Change, Mismatch, PlainValue, Summary};

/// The warning about an API key that ends soon or has ended. `source` is its place as part of a sentence.
#[must_use]
pub fn key_warning(source: &str, expiry: KeyExpiry, today: Date) -> String {
    let (from, help) = match source {
        "" => (String::new(), ""),
        source => (format!(" from {source}"), KEY_HELP),
    };
    format!("the API key{from} {}{help}", expiry.describe(today))
}

const KEY_HELP: &str = "; help: create a new one in the Calry console and save it there, and update the date on which it expires";

/// The first `max` items, and how many more there are.
#[must_use]
pub fn list_first(items: &[String], max: usize) -> String {
    let first: Vec<&str> = items.iter().take(max).map(String::as_str).collect();
    match items.len().saturating_sub(max) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The counts of a plan, as words: `12 to update, 7 in sync, 1 on hold`.
#[must_use]
pub fn describe_counts(summary: &Summary) -> String {
    format!(
        "{} to update, {}",
        summary.update,
        others(summary).join(", ")
    )
}

/// How many providers are not updated, by state: those in sync first.
pub(crate) fn others(summary: &Summary) -> Vec<String> {
    // Destructured in full, so that a new state does not compile until it is shown.
    let Summary {
        in_sync,
        update: _,
        invalid,
        unreadable,
        missing,
        held,
        unmanaged,
    } = *summary;
    let others = [
        (held, "on hold"),
        (invalid, "invalid"),
        (unreadable, "unreadable"),
        (missing, "missing"),
        (unmanaged, "unmanaged"),
    ];
    let mut words = vec![format!("{in_sync} in sync")];
    words.extend(nonzero(others));
    words
}

/// The counts that are not zero, each with its word.
pub(crate) fn nonzero<const N: usize>(counts: [(usize, &str); N]) -> impl Iterator<Item = String> {
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    counts.map(|(count, word)| format!("{count} {word}"))
}

/// The changes of one provider by name, at most eight of them: `pictures on, rating off, icon, headers.x-api-key`.
#[must_use]
pub fn name_changes<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    let items: Vec<ChangeItem> = changes.into_iter().map(ChangeItem::from).collect();
    name_change_items(&items, 0)
}

/// The same of the items of a document, which leaves out `more` of them.
pub(crate) fn name_change_items(changes: &[ChangeItem], more: usize) -> String {
    const MOST: usize = 8;
    let mut parts: Vec<String> = changes
        .iter()
        .take(MOST)
        .map(|change| {
            let path = printable(&change.path);
            let path = path
                .strip_prefix("fieldsToSync.")
                .or(path.strip_prefix("partnerKey."))
                .unwrap_or(&path);
            match change.after {
                Some(PlainValue::Bool(on)) => format!("{path} {}", if on { "on" } else { "off" }),
                _ => path.to_owned(),
            }
        })
        .collect();
    let rest = changes.len().saturating_sub(MOST).saturating_add(more);
    if rest > 0 {
        parts.push(format!("and {rest} more"));
    }
    parts.join(", ")
}

/// One field that did not converge: `listing.pool: sent true, Calry kept nothing`.
#[must_use]
pub fn describe_mismatch(mismatch: &Mismatch) -> String {
    let path = printable(&mismatch.path);
    if mismatch.sensitive {
        return format!("{path}: Calry kept another value than was sent (both are sensitive)");
    }
    let show = |value: &Option<PlainValue>| match value {
        None => "nothing".to_owned(),
        Some(PlainValue::Bool(on)) => on.to_string(),
        Some(PlainValue::Text(text)) => printable(text),
    };
    format!(
        "{path}: sent {}, Calry kept {}",
        show(&mismatch.sent),
        show(&mismatch.kept)
    )
}

/// A count with its noun.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A count with its noun; `None` if it is zero.
pub(crate) fn plural(count: usize, one: &str, many: &str) -> Option<String> {
    (count > 0).then(|| counted(count, one, many))
}

/// The time between two timestamps; zero if the clocks disagree.
pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    to.duration_since(from).try_into().unwrap_or_default()
}
