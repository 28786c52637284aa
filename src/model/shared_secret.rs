//! Shared secrets: bearer tokens and HMAC keys that authenticate callers.

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::secret::{Secret, hmac_sha256};
use super::{is_quoted, standard_webhooks, trim_token};

/// A token or a signing key: one random line of at least [`SharedSecret::MIN_LEN`] characters. Every comparison with it takes
/// constant time.
#[derive(Clone, Debug)]
pub struct SharedSecret(Secret);

/// A text cannot be a shared secret. The error never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSharedSecret {
    #[error(
        "a secret must be one random line of {} to {} printable ASCII characters without spaces: create one with `openssl rand -hex 32`",
        SharedSecret::MIN_LEN,
        SharedSecret::MAX_LEN
    )]
    Form,
    #[error(
        "the secret is in quotes, which count as part of the value: remove them (`docker --env-file` keeps quotes)"
    )]
    Quoted,
}

/// The check of a message's signature (HMAC-SHA-256), while the message arrives.
pub struct SignatureCheck(Hmac<Sha256>);

impl SharedSecret {
    /// The shortest accepted secret, in bytes.
    pub const MIN_LEN: usize = 32;
    /// The longest accepted secret, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Accepts a secret. Surrounding white space and a byte order mark are dropped.
    pub fn new(secret: &Secret) -> Result<Self, InvalidSharedSecret> {
        let text = trim_token(secret.expose());
        let secret = Self(Secret::new(text));
        let valid = (Self::MIN_LEN..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if is_quoted(text) {
            Err(InvalidSharedSecret::Quoted)
        } else if valid
            && (!secret.is_webhook_key() || standard_webhooks::sender_key(&secret.0).is_some())
        {
            Ok(secret)
        } else {
            Err(InvalidSharedSecret::Form)
        }
    }

    /// Whether `presented` equals the secret.
    #[must_use]
    pub fn is(&self, presented: &[u8]) -> bool {
        // Hashed, so that the time does not depend on the length either.
        Sha256::digest(self.0.expose())
            .ct_eq(&Sha256::digest(presented))
            .into()
    }

    /// Whether this is a signing key of Standard Webhooks, which callers never send.
    #[must_use]
    pub fn is_webhook_key(&self) -> bool {
        standard_webhooks::is_key(&self.0)
    }

    /// Starts to check a message that is signed with the text itself.
    #[must_use]
    pub fn check_signature(&self) -> SignatureCheck {
        SignatureCheck(hmac_sha256(self.0.expose().as_bytes()))
    }

    /// Starts to sign or to check a message for another purpose than a hook. The key is derived, so that a signature for one
    /// purpose is valid for no other.
    #[must_use]
    pub fn check_signature_for(&self, purpose: &str) -> SignatureCheck {
        let mut key = hmac_sha256(self.0.expose().as_bytes());
        key.update(purpose.as_bytes());
        SignatureCheck(hmac_sha256(&key.finalize().into_bytes()))
    }

    /// Starts to check a message of Standard Webhooks, whose body follows; `None` if this is not a key for it.
    #[must_use]
    pub fn check_webhook(&self, id: &str, timestamp: &str) -> Option<SignatureCheck> {
        let key = standard_webhooks::sender_key(&self.0)?;
        Some(SignatureCheck(standard_webhooks::begin_message(
            &key, id, timestamp,
        )))
    }
}

impl SignatureCheck {
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The signature of the message.
    #[must_use]
    pub fn sign(self) -> Vec<u8> {
        self.0.finalize().into_bytes().to_vec()
    }

    /// Whether one of `signatures` is the message's signature.
    #[must_use]
    pub fn is_one_of(self, signatures: &[Vec<u8>]) -> bool {
        signatures
            .iter()
            .any(|signature| self.0.clone().verify_slice(signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Result<SharedSecret, InvalidSharedSecret> {
        SharedSecret::new(&Secret::new(text))
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn a_short_secret_or_one_that_cannot_be_a_header_is_refused() {
        for bad in [
            "",
            &"x".repeat(31),
            &"x".repeat(1025),
            &"two words".repeat(9),
            &"ü".repeat(40),
            &"a\n".repeat(40),
        ] {
            assert!(secret(bad).is_err(), "{bad:?}");
        }
        assert!(
            secret(&format!("whsec_{}", "!".repeat(40))).is_err(),
            "a signing key that is not base64"
        );
        assert!(
            secret(&format!("\u{feff} {}\n", "x".repeat(32)))
                .unwrap()
                .is("x".repeat(32).as_bytes())
        );
        assert_eq!(
            secret(&format!("'{}'", "x".repeat(32))).unwrap_err(),
            InvalidSharedSecret::Quoted
        );
    }

    #[test]
    fn only_the_whole_secret_matches() {
        let one = secret(&"x".repeat(32)).unwrap();
        for presented in ["", &"x".repeat(31), &"x".repeat(33), &"X".repeat(32)] {
            assert!(!one.is(presented.as_bytes()), "{presented}");
        }
    }

    #[test]
    fn a_signature_is_valid_for_its_purpose_only() {
        let one = secret(&"x".repeat(32)).unwrap();
        let starts = [
            one.check_signature(),
            one.check_signature_for("one"),
            one.check_signature_for("another"),
        ];
        let signed = |start: &SignatureCheck| {
            let mut start = SignatureCheck(start.0.clone());
            start.update(b"message");
            start
        };
        for (n, check) in starts.iter().enumerate() {
            let signature = [signed(check).sign()];
            let valid = starts
                .each_ref()
                .map(|other| signed(other).is_one_of(&signature));
            assert_eq!(valid, [0, 1, 2].map(|other| other == n));
        }
    }

    #[test]
    fn a_signature_matches_the_example_of_rfc_4231() {
        // RFC 4231, test case 6: a key that is longer than a block. Its bytes are not text, so the check is made directly.
        let mut check = SignatureCheck(hmac_sha256(&[0xaa; 131]));
        check.update(b"Test Using Larger Than Block-Size Key ");
        check.update(b"- Hash Key First");
        let right = unhex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
        assert!(check.is_one_of(&[vec![0; 32], right.clone()]));
        let mut check = SignatureCheck(hmac_sha256(&[0xaa; 131]));
        check.update(b"something else");
        assert!(!check.is_one_of(&[right]));
    }
}
