//! Documents as JSON text that is safe to print.

use serde::Serialize;

use crate::model::printable_json;

/// A document as JSON that is safe to print.
#[must_use]
pub fn pretty(document: &impl Serialize) -> String {
    // Types of this crate always serialize.
    printable_json(&serde_json::to_string_pretty(document).unwrap_or_default())
}

/// A document as one line.
#[must_use]
pub fn line(document: &impl Serialize) -> String {
    printable_json(&serde_json::to_string(document).unwrap_or_default())
}
