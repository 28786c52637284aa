//! Keyed fingerprints, which compare secret values across machines.
//!
//! A fingerprint is an HMAC-SHA-256 (RFC 2104, FIPS 180-4) of a value and its position. Without the key, values cannot
//! be tried against it. The same value at two positions has two fingerprints, so that equality does not show.

use std::fmt;

use hmac::Mac as _;
use subtle::ConstantTimeEq;

use super::redaction::{Redaction, redaction};
use super::secret::hmac_sha256;
use super::{
    KeySection, Provider, Secret, character_name, hex, is_quoted, needs_escape, trim_token,
};

/// The operator's key for fingerprints: at least [`FingerprintKey::MIN_LEN`] random bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintKey(Secret);

/// Why a text cannot be a fingerprint key. The messages never repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFingerprintKey {
    /// Values could be guessed with a shorter key.
    #[error(
        "a fingerprint key has at least {} characters, and must be random: `openssl rand -hex 32` makes one",
        FingerprintKey::MIN_LEN
    )]
    Short,
    #[error(
        "the key is in quotes, and the quotes are part of the value: remove them (`docker --env-file` keeps them)"
    )]
    Quoted,
    /// If the character were lost, it would be another key.
    #[error("a fingerprint key is one line, and this one holds {}", character_name(*.0))]
    Unseen(char),
}

/// The position of a value, which is part of its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintContext {
    pub workspace: String,
    pub provider: Provider,
    pub section: KeySection,
    /// The header or parameter, in any equivalent case.
    pub name: String,
}

impl FingerprintKey {
    /// The shortest key that is accepted, in bytes: as long as the hash.
    pub const MIN_LEN: usize = 32;

    /// Checks a key, without white space around it and a byte-order mark before it.
    pub fn new(key: &Secret) -> Result<Self, InvalidFingerprintKey> {
        let key = trim_token(key.expose());
        if is_quoted(key) {
            Err(InvalidFingerprintKey::Quoted)
        } else if let Some(c) = key.chars().find(|c| needs_escape(*c)) {
            Err(InvalidFingerprintKey::Unseen(c))
        } else if key.len() < Self::MIN_LEN {
            Err(InvalidFingerprintKey::Short)
        } else {
            Ok(Self(Secret::new(key)))
        }
    }

    /// An id of the key that reveals nothing about it. Fingerprints are comparable if the ids of their keys are equal.
    #[must_use]
    pub fn id(&self) -> String {
        hex(self.mac(&["key"]).iter().take(8))
    }

    #[must_use]
    pub fn fingerprint(&self, place: &FingerprintContext, value: &Secret) -> String {
        let FingerprintContext {
            workspace,
            provider,
            section,
            name,
        } = place;
        let mac = self.mac(&[
            "value",
            workspace,
            provider.as_str(),
            section.key(),
            &section.fold(name),
            value.expose(),
        ]);
        format!("{PREFIX}{}", hex(&mac))
    }

    /// Each part is hashed with its length, so that different lists never hash the same bytes.
    fn mac(&self, parts: &[&str]) -> Vec<u8> {
        let mut mac = hmac_sha256(self.0.expose().as_bytes());
        mac.update(b"calry-gitops fingerprint 1");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().to_vec()
    }
}

/// The prefix of a fingerprint in a document.
const PREFIX: &str = "hmac-sha256:";

/// The fingerprint of an unavailable value, with what it takes to compare another value with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint {
    key: FingerprintKey,
    place: FingerprintContext,
    fingerprint: String,
}

impl Fingerprint {
    /// A fingerprint from a document; `None` if the text is not one.
    #[must_use]
    pub fn new(key: FingerprintKey, place: FingerprintContext, text: &str) -> Option<Self> {
        Self::is_one(text).then(|| Self {
            key,
            place,
            fingerprint: text.to_owned(),
        })
    }

    /// Whether a text has the form of a fingerprint.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.strip_prefix(PREFIX).is_some_and(|digits| {
            digits.len() == 64
                && digits
                    .bytes()
                    .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
        })
    }

    /// As in a document.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.fingerprint
    }

    /// Whether it is the fingerprint of this value.
    #[must_use]
    pub fn matches(&self, value: &Secret) -> bool {
        let other = self.key.fingerprint(&self.place, value);
        self.fingerprint.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)
    }
}

/// A live value below `partnerKey`, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveValue {
    Value(Secret),
    /// Calry shows only a mask (trap 7 of the API).
    Mask,
    /// Calry shows this text, which is the value, or may be partly a mask.
    MaybeMask(Secret),
    Fingerprint(Fingerprint),
    /// The snapshot has nothing about it, or nothing that can be compared here.
    Withheld,
}

impl LiveValue {
    /// Whether it is this value; `None` if that is unknown.
    #[must_use]
    pub fn is(&self, value: &Secret) -> Option<bool> {
        match self {
            Self::Value(live) => Some(live == value),
            Self::Fingerprint(fingerprint) => Some(fingerprint.matches(value)),
            Self::MaybeMask(shown) => (shown == value).then_some(true),
            Self::Mask | Self::Withheld => None,
        }
    }
}

impl From<Secret> for LiveValue {
    /// A value as Calry returned it.
    fn from(value: Secret) -> Self {
        match redaction(value.expose()) {
            Some(Redaction::Whole) => Self::Mask,
            Some(Redaction::Part) => Self::MaybeMask(value),
            None => Self::Value(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> FingerprintKey {
        FingerprintKey::new(&Secret::new(text)).unwrap()
    }

    fn place(section: KeySection, name: &str) -> FingerprintContext {
        let provider = Provider::parse("HOSTAWAY").unwrap();
        FingerprintContext {
            workspace: "w".to_owned(),
            provider,
            section,
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_value_is_known_by_its_fingerprint_and_by_nothing_else() {
        let (key, place) = (
            key(&"k".repeat(32)),
            place(KeySection::Headers, "x-api-key"),
        );
        let text = key.fingerprint(&place, &Secret::new("hunter2"));
        let fingerprint = Fingerprint::new(key, place, &text).unwrap();
        assert!(
            fingerprint.matches(&Secret::new("hunter2"))
                && !fingerprint.matches(&Secret::new("hunter3"))
        );
        assert!(!format!("{:?}", LiveValue::Fingerprint(fingerprint)).contains("hunter2"));
    }

    #[test]
    fn the_same_value_at_another_place_or_under_another_key_has_another_fingerprint() {
        let value = Secret::new("hunter2");
        let one = key(&"k".repeat(32));
        let of = |place: FingerprintContext| one.fingerprint(&place, &value);
        let here = of(place(KeySection::Headers, "x-api-key"));
        assert_eq!(
            here,
            of(place(KeySection::Headers, "X-API-Key")),
            "a header's name has no case"
        );
        assert_ne!(here, of(place(KeySection::Headers, "x-api-token")));
        assert_ne!(here, of(place(KeySection::QueryParams, "x-api-key")));
        assert_ne!(
            here,
            of(FingerprintContext {
                workspace: "v".to_owned(),
                ..place(KeySection::Headers, "x-api-key")
            })
        );
        let other = key(&"l".repeat(32));
        assert_ne!(
            here,
            other.fingerprint(&place(KeySection::Headers, "x-api-key"), &value)
        );
        assert_ne!(one.id(), other.id());
    }

    #[test]
    fn a_key_that_could_be_guessed_is_refused() {
        assert_eq!(
            FingerprintKey::new(&Secret::new("x".repeat(31))),
            Err(InvalidFingerprintKey::Short)
        );
        let whole = "x".repeat(32);
        assert_eq!(key(&format!("\u{feff}{whole}\r\n")), key(&whole));
        for (text, error) in [
            (format!("\"{whole}\""), InvalidFingerprintKey::Quoted),
            (
                format!("{whole}\n{whole}"),
                InvalidFingerprintKey::Unseen('\n'),
            ),
            (
                format!("x\u{200b}{whole}"),
                InvalidFingerprintKey::Unseen('\u{200b}'),
            ),
        ] {
            assert_eq!(FingerprintKey::new(&Secret::new(text)), Err(error));
            assert!(!error.to_string().contains("xx"));
        }
    }

    #[test]
    fn only_a_fingerprint_is_read_as_one() {
        for text in [
            "",
            "hmac-sha256:",
            "hmac-sha256:00",
            &format!("hmac-sha256:{}", "G".repeat(64)),
        ] {
            assert_eq!(
                Fingerprint::new(key(&"k".repeat(32)), place(KeySection::Headers, "a"), text),
                None,
                "{text}"
            );
        }
    }
}
