//! Values that must never be shown, and the names by which files refer to them.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// A value that must not be shown. It has no `Display`, its `Debug` is masked, its memory is wiped, and it is compared in
/// constant time.
#[derive(Clone)]
pub struct Secret(Arc<SecretString>);

impl Secret {
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(SecretString::from(value.into())))
    }

    /// The value itself, for the two places that need it: the request that sends it and the comparison that masks it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Whether a text is an API key of Calry or a private key of age, given in place of something that may be shown.
#[must_use]
pub fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim_start();
    ["zepl.", "AGE-SECRET-KEY-"].iter().any(|prefix| {
        text.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose()
            .as_bytes()
            .ct_eq(other.expose().as_bytes())
            .into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[expect(clippy::expect_used, reason = "HMAC accepts keys of any length")]
pub(super) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC accepts keys of any length")
}

/// The name by which a definition file refers to a secret: `[a-z0-9]([-.a-z0-9]*[a-z0-9])?`, as a Kubernetes Secret's keys
/// are written, at most [`SecretName::MAX_LEN`] bytes. It cannot name a path: it has no slash and no leading dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SecretName(Arc<str>);

/// A text that cannot be the name of a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the name of a secret must consist of lower-case letters, digits, `-` and `.`, begin and end with a letter or digit, and have at most {} characters",
    SecretName::MAX_LEN
)]
pub struct InvalidSecretName;

impl SecretName {
    /// The longest name that is accepted, in bytes (the limit of a key of a Kubernetes Secret).
    pub const MAX_LEN: usize = 253;

    pub fn parse(name: &str) -> Result<Self, InvalidSecretName> {
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let valid = name.len() <= Self::MAX_LEN
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes
                .iter()
                .all(|b| alphanumeric(b) || matches!(b, b'-' | b'.'));
        if valid {
            Ok(Self(name.into()))
        } else {
            Err(InvalidSecretName)
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The environment variable that may hold the value: `CALRY_SECRET_` and the name in upper case, `-` and `.` as `_`.
    #[must_use]
    pub fn variable(&self) -> String {
        let name: String = self
            .0
            .chars()
            .map(|c| {
                if matches!(c, '-' | '.') {
                    '_'
                } else {
                    c.to_ascii_uppercase()
                }
            })
            .collect();
        format!("CALRY_SECRET_{name}")
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_in_debug() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }

    #[test]
    fn a_secret_name_cannot_be_a_path() {
        for bad in ["", "../x", ".hidden", "a/b", "A", "a_b", "-a", "a.", "a\0b"] {
            assert_eq!(SecretName::parse(bad), Err(InvalidSecretName), "{bad:?}");
        }
        assert_eq!(
            SecretName::parse("a.b-c").map(|n| n.variable()),
            Ok("CALRY_SECRET_A_B_C".to_owned())
        );
    }
}
