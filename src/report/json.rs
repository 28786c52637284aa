//! Documents as JSON text that is safe to print.

use serde::Serialize;

use crate::model::printable_json;

/// A document as JSON that is safe to print.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "the documents of this crate always serialize"
)]
pub fn pretty(document: &impl Serialize) -> String {
    printable_json(&serde_json::to_string_pretty(document).expect("a document"))
}

/// A document as one line.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "the documents of this crate always serialize"
)]
pub fn line(document: &impl Serialize) -> String {
    printable_json(&serde_json::to_string(document).expect("a document"))
}
