//! One difference between two definitions, as data that can be shown: it never has a value below `partnerKey`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{DefinitionPart, KeySection, SecretName};

/// A difference at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Icon {
        /// Live.
        before: Option<String>,
        /// Desired.
        after: Option<String>,
    },
    /// A field of a group; `None` if the live definition does not have it.
    Field {
        group: String,
        field: String,
        /// Live.
        before: Option<bool>,
        /// Desired.
        after: bool,
    },
    /// A value below `partnerKey`.
    Key {
        section: KeySection,
        name: String,
        change: KeyChange,
        /// The secrets that the desired value refers to; none for a literal value.
        secrets: Vec<SecretName>,
    },
}

/// How a sensitive value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeyChange {
    /// Live has no such name.
    Added,
    /// Git has no such name.
    Removed,
    /// The value differs.
    Changed,
    /// Calry shows a mask, and the masked value is unknown or differs from the one last applied.
    Masked,
    /// This branch wrote another value, and the live one is unknown here.
    Unresolved,
    /// This branch encrypted another value, which cannot be decrypted here.
    Encrypted,
}

/// A value that may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PlainValue {
    /// On or off.
    Bool(bool),
    /// Text.
    Text(String),
}

/// A field for which Calry kept another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mismatch {
    /// The position.
    pub path: String,
    /// The sent value; null if it is sensitive.
    pub sent: Option<PlainValue>,
    /// The kept value; null if there is none or it is sensitive.
    pub kept: Option<PlainValue>,
    /// True if the values are withheld.
    pub sensitive: bool,
}

impl Change {
    /// The path, such as `fieldsToSync.listing.pictures`.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Icon { .. } => "icon".to_owned(),
            Self::Field { group, field, .. } => join_path(&["fieldsToSync", group, field]),
            Self::Key { section, name, .. } => join_path(&["partnerKey", section.key(), name]),
        }
    }

    #[must_use]
    pub fn before(&self) -> Option<PlainValue> {
        match self {
            Self::Icon { before, .. } => before.clone().map(PlainValue::Text),
            Self::Field { before, .. } => before.map(PlainValue::Bool),
            Self::Key { .. } => None,
        }
    }

    #[must_use]
    pub fn after(&self) -> Option<PlainValue> {
        match self {
            Self::Icon { after, .. } => after.clone().map(PlainValue::Text),
            Self::Field { after, .. } => Some(PlainValue::Bool(*after)),
            Self::Key { .. } => None,
        }
    }

    #[must_use]
    pub const fn part(&self) -> DefinitionPart {
        match self {
            Self::Icon { .. } => DefinitionPart::Icon,
            Self::Field { .. } => DefinitionPart::FieldsToSync,
            Self::Key { .. } => DefinitionPart::PartnerKey,
        }
    }

    /// Whether it is due only because Calry shows a mask.
    #[must_use]
    pub const fn is_masked(&self) -> bool {
        matches!(
            self,
            Self::Key {
                change: KeyChange::Masked,
                ..
            }
        )
    }

    /// Whether its values are withheld.
    #[must_use]
    pub const fn sensitive(&self) -> bool {
        matches!(self, Self::Key { .. })
    }

    /// The same difference, if an update should have removed it.
    #[must_use]
    pub fn into_mismatch(self) -> Mismatch {
        Mismatch {
            path: self.path(),
            sent: self.after(),
            kept: self.before(),
            sensitive: self.sensitive(),
        }
    }
}

/// Joins the segments of a path with dots. A segment that is not a plain word is quoted, so that every path is
/// unambiguous.
#[must_use]
pub fn join_path(segments: &[&str]) -> String {
    let mut path = String::new();
    for segment in segments {
        let plain = !segment.is_empty()
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if plain {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(segment);
        } else {
            path.push_str("[\"");
            path.push_str(&segment.replace('\\', "\\\\").replace('"', "\\\""));
            path.push_str("\"]");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_unambiguous() {
        assert_eq!(
            join_path(&["partnerKey", "headers", "x-api-key"]),
            "partnerKey.headers.x-api-key"
        );
        assert_eq!(
            join_path(&["partnerKey", "queryParams", "a.b\"c"]),
            "partnerKey.queryParams[\"a.b\\\"c\"]"
        );
    }
}
