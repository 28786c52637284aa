//! The git commit that definitions were read from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The git commit that the definitions were read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revision {
    /// The commit's id, in hexadecimal digits.
    pub commit: String,
    /// The first line of its message.
    pub subject: String,
    /// The author's name.
    pub author: String,
    /// When it was committed: RFC 3339, UTC.
    pub time: String,
    /// Whether the definition files differ from what the commit holds.
    pub dirty: bool,
}

impl Revision {
    /// The abbreviated commit, marked if the files differ from it.
    #[must_use]
    pub fn short(&self) -> String {
        let commit = short_commit(&self.commit);
        if self.dirty {
            format!("{commit}+dirty")
        } else {
            commit.to_owned()
        }
    }
}

#[must_use]
pub fn short_commit(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}
