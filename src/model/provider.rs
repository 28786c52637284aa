//! The key of a definition: which property-management system it is about.

use std::fmt;
use std::sync::Arc;

/// A property-management provider, such as `HOSTAWAY`: `[A-Z][A-Z0-9_]*`, at most [`Provider::MAX_LEN`] bytes.
///
/// Calry adds providers, so any name of this form is accepted; live state shows whether the workspace has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Provider(Arc<str>);

/// A name that cannot be a provider.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a provider must consist of capital letters, digits and underscores, begin with a letter and have at most {} characters",
    Provider::MAX_LEN
)]
pub struct InvalidProvider;

impl Provider {
    /// The longest name that is accepted, in bytes.
    pub const MAX_LEN: usize = 64;

    pub fn parse(name: &str) -> Result<Self, InvalidProvider> {
        let mut bytes = name.bytes();
        let valid = name.len() <= Self::MAX_LEN
            && bytes.next().is_some_and(|first| first.is_ascii_uppercase())
            && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if valid {
            Ok(Self(name.into()))
        } else {
            Err(InvalidProvider)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its definition file without the extension: the provider in lower case.
    #[must_use]
    pub fn file_stem(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
