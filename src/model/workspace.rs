//! The workspace that an API key belongs to.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The workspace that the API key belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Workspace {
    /// A UUID.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// The short name that workspace.yaml pins.
    pub slug: String,
}

/// A workspace's short name as a file pins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slug(String);

/// A text that cannot be a slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a slug must consist of letters, digits, `-`, `_` and `.`, and have at most {} characters",
    Slug::MAX_LEN
)]
pub struct InvalidSlug;

impl Slug {
    /// The longest slug that is accepted, in bytes.
    pub const MAX_LEN: usize = 128;

    pub fn parse(text: &str) -> Result<Self, InvalidSlug> {
        let valid = (1..=Self::MAX_LEN).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSlug)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
