//! Values that no channel may show, and the scrubbing of texts that others wrote.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// A value that must not be shown. It has no `Display`, its `Debug` is masked, its memory is wiped, and it is compared in
/// constant time.
#[derive(Clone)]
pub struct Secret(Arc<SecretString>);

impl Secret {
    /// Takes a value into custody.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(SecretString::from(value.into())))
    }

    /// The value itself, for the two places that need it: the request that sends it and the comparison that masks it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether Calry answered with mask characters in place of the value (trap 7 of the API): then the value is unknown.
    #[must_use]
    pub fn is_mask(&self) -> bool {
        let value = self.expose();
        !value.is_empty() && value.chars().all(|c| matches!(c, '*' | '•'))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
    }
}

impl Eq for Secret {}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The name by which a definition file refers to a secret: `[a-z0-9]([-.a-z0-9]*[a-z0-9])?`, as a Kubernetes Secret's keys
/// are written, at most [`SecretName::MAX_LEN`] bytes. It cannot name a path: it has no slash and no leading dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SecretName(Arc<str>);

/// A text that cannot be the name of a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the name of a secret is written in lower-case letters, digits, `-` and `.`, begins and ends with a letter or digit, and has at most {} characters",
    SecretName::MAX_LEN
)]
pub struct InvalidSecretName;

impl SecretName {
    /// The longest name that is taken, in bytes (the limit of a Kubernetes Secret's key).
    pub const MAX_LEN: usize = 253;

    /// Parses a secret's name.
    ///
    /// # Errors
    /// [`InvalidSecretName`] where the name has another form.
    pub fn parse(name: &str) -> Result<Self, InvalidSecretName> {
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let valid = name.len() <= Self::MAX_LEN
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'-' | b'.'));
        if valid { Ok(Self(name.into())) } else { Err(InvalidSecretName) }
    }

    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The environment variable that may hold the value: `CALRY_SECRET_` and the name in upper case, `-` and `.` as `_`.
    #[must_use]
    pub fn variable(&self) -> String {
        let name: String =
            self.0.chars().map(|c| if matches!(c, '-' | '.') { '_' } else { c.to_ascii_uppercase() }).collect();
        format!("CALRY_SECRET_{name}")
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Removes known secrets from a text that somebody else wrote, such as the message of an API error.
///
/// Masking by position is how this project keeps secrets in; scrubbing is only for texts whose positions it cannot know.
#[derive(Clone, Default)]
pub struct Scrubber {
    // A set: an API decides how many there are, so learning one more must not look at all the others.
    secrets: HashSet<Secret>,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrubber({} secrets)", self.secrets.len())
    }
}

impl Scrubber {
    /// A secret of fewer bytes than this cannot be cut out of a text without leaving its outline behind: the whole text is
    /// withheld.
    const SHORT: usize = 4;

    /// Makes one more secret known.
    pub fn learn(&mut self, secret: &Secret) {
        if !secret.expose().is_empty() {
            self.secrets.insert(secret.clone());
        }
    }

    /// The text without any known secret, in the forms in which an API may echo one: as it is, in another case, escaped
    /// as in JSON, or percent-encoded as in a URL.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let mut needles: Vec<String> = Vec::new();
        for secret in &self.secrets {
            let value = secret.expose();
            let json: String = value.chars().flat_map(char::escape_default).collect();
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let url = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
            let form = url.replace("%20", "+");
            let unreserved = url.replace("%2D", "-").replace("%2E", ".").replace("%5F", "_").replace("%7E", "~");
            for form in [value.to_owned(), json, quoted, url, form, unreserved] {
                needles.push(form.to_lowercase());
            }
        }
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();

        let lower = text.to_lowercase();
        if needles.iter().any(|n| n.len() < Self::SHORT && lower.contains(n.as_str())) {
            return "(withheld: it repeats a secret)".to_owned();
        }
        // Case folding may change lengths; a text for which it does is withheld rather than cut at the wrong place.
        if lower.len() != text.len() {
            let repeats = needles.iter().any(|n| lower.contains(n.as_str()));
            return if repeats { "(withheld: it repeats a secret)".to_owned() } else { text.to_owned() };
        }
        let mut hidden = vec![false; text.len()];
        for needle in &needles {
            let mut from = 0;
            while let Some(at) = lower.get(from..).and_then(|rest| rest.find(needle.as_str())) {
                let start = from + at;
                let end = start + needle.len();
                if let Some(range) = hidden.get_mut(start..end) {
                    range.fill(true);
                }
                // Overlapping occurrences count: the next search begins one character further on.
                from = start + lower.get(start..).and_then(|s| s.chars().next()).map_or(1, char::len_utf8);
            }
        }
        let mut out = String::with_capacity(text.len());
        let mut masking = false;
        for (at, c) in text.char_indices() {
            match hidden.get(at) {
                Some(true) if !masking => {
                    out.push_str("***");
                    masking = true;
                }
                Some(true) => {}
                _ => {
                    out.push(c);
                    masking = false;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubber(secrets: &[&str]) -> Scrubber {
        let mut s = Scrubber::default();
        for secret in secrets {
            s.learn(&Secret::new(*secret));
        }
        s
    }

    #[test]
    fn a_secret_is_masked_in_every_form_an_api_may_echo() {
        let s = scrubber(&["Bearer a b/\"c"]);
        for echo in
            ["Bearer a b/\"c", "BEARER A B/\"C", "Bearer%20a%20b%2F%22c", "Bearer+a+b%2F%22c", "Bearer a b/\\\"c"]
        {
            assert_eq!(s.scrub(&format!("bad value {echo}!")), "bad value ***!", "{echo}");
        }
    }

    #[test]
    fn overlapping_secrets_leave_no_rest() {
        assert_eq!(scrubber(&["abcdef", "defghi"]).scrub("x abcdefghi y"), "x *** y");
    }

    #[test]
    fn a_text_that_holds_a_short_secret_is_withheld_whole() {
        assert_eq!(scrubber(&["a"]).scrub("a cat"), "(withheld: it repeats a secret)");
        assert_eq!(scrubber(&["zz"]).scrub("a cat"), "a cat");
    }

    #[test]
    fn a_secret_shows_nothing_in_debug() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }

    #[test]
    fn only_mask_characters_make_a_mask() {
        assert!(Secret::new("****").is_mask() && Secret::new("••••").is_mask());
        assert!(!Secret::new("").is_mask() && !Secret::new("abcd****").is_mask());
    }

    #[test]
    fn a_secret_name_cannot_be_a_path() {
        for bad in ["", "../x", ".hidden", "a/b", "A", "a_b", "-a", "a.", "a\0b"] {
            assert_eq!(SecretName::parse(bad), Err(InvalidSecretName), "{bad:?}");
        }
        assert_eq!(SecretName::parse("a.b-c").map(|n| n.variable()), Ok("CALRY_SECRET_A_B_C".to_owned()));
    }
}
