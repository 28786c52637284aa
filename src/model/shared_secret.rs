//! Secrets that somebody else knows, too, and shows or signs with, so that what he asks for is known to be his.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::{Secret, is_quoted, trim_token};

/// A token or a signing key: one line of at least [`SharedSecret::MIN_LEN`] characters that nobody can guess. Everything that
/// is held against it is compared in constant time.
#[derive(Clone, Debug)]
pub struct SharedSecret(Secret);

/// A text that cannot be a shared secret. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSharedSecret {
    /// It could be guessed, or cannot be a header's value.
    #[error(
        "a secret is one line of {} to {} printable ASCII characters without spaces, and must be random: `openssl rand -hex 32` \
     makes one",
        SharedSecret::MIN_LEN,
        SharedSecret::MAX_LEN
    )]
    Form,
    #[error(
        "the secret is in quotes, and the quotes are part of the value: remove them (`docker --env-file` keeps them)"
    )]
    Quoted,
}

/// A signature that is being held against a message, piece by piece.
pub struct SignatureCheck(Hmac<Sha256>);

/// How the signing keys of [Standard Webhooks](https://www.standardwebhooks.com) begin; the rest is base64.
const STANDARD_PREFIX: &str = "whsec_";

impl SharedSecret {
    /// The shortest one that is taken, in bytes.
    pub const MIN_LEN: usize = 32;
    /// The longest one that is taken, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Takes a secret; white space around it is dropped, and a byte order mark before it.
    ///
    /// # Errors
    /// [`InvalidSharedSecret`].
    pub fn new(secret: &Secret) -> Result<Self, InvalidSharedSecret> {
        let text = trim_token(secret.expose());
        let taken = Self(Secret::new(text));
        let valid = (Self::MIN_LEN..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if is_quoted(text) {
            Err(InvalidSharedSecret::Quoted)
        } else if valid && (!taken.is_standard() || taken.standard_key().is_some()) {
            Ok(taken)
        } else {
            Err(InvalidSharedSecret::Form)
        }
    }

    /// Whether this is what was shown.
    #[must_use]
    pub fn is(&self, shown: &[u8]) -> bool {
        // Hashed, so that not even its length shows in the time that this takes.
        Sha256::digest(self.0.expose())
            .ct_eq(&Sha256::digest(shown))
            .into()
    }

    /// Whether it is a signing key of Standard Webhooks, which is never shown.
    #[must_use]
    pub fn is_standard(&self) -> bool {
        self.0.expose().starts_with(STANDARD_PREFIX)
    }

    /// Begins to sign a message (HMAC-SHA-256) with the text itself.
    #[must_use]
    pub fn check_signature(&self) -> Option<SignatureCheck> {
        SignatureCheck::new(self.0.expose().as_bytes())
    }

    /// Begins to sign a message as Standard Webhooks does; `None` where this is no key for it.
    #[must_use]
    pub fn check_standard_signature(&self) -> Option<SignatureCheck> {
        SignatureCheck::new(&self.standard_key()?)
    }

    fn standard_key(&self) -> Option<Vec<u8>> {
        let key = STANDARD
            .decode(self.0.expose().strip_prefix(STANDARD_PREFIX)?)
            .ok()?;
        (key.len() >= 24).then_some(key)
    }
}

impl SignatureCheck {
    fn new(key: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(key).ok().map(Self)
    }

    /// The message goes on.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Whether one of these is the message's signature.
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
    fn what_could_be_guessed_or_is_no_header_is_no_secret() {
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
            "a signing key that is no base64"
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
    fn only_the_whole_secret_is_it() {
        let one = secret(&"x".repeat(32)).unwrap();
        for shown in ["", &"x".repeat(31), &"x".repeat(33), &"X".repeat(32)] {
            assert!(!one.is(shown.as_bytes()), "{shown}");
        }
    }

    #[test]
    fn a_signature_is_that_of_the_standards_examples() {
        // RFC 4231, test case 6: a key that is longer than a block. Its bytes are no text, so the parts are tried alone.
        let mut signing = SignatureCheck::new(&[0xaa; 131]).unwrap();
        signing.update(b"Test Using Larger Than Block-Size Key ");
        signing.update(b"- Hash Key First");
        let right = unhex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
        assert!(signing.is_one_of(&[vec![0; 32], right.clone()]));
        let mut signing = SignatureCheck::new(&[0xaa; 131]).unwrap();
        signing.update(b"something else");
        assert!(!signing.is_one_of(&[right]));
        // The example of the Standard Webhooks specification.
        let key = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut signing = key.check_standard_signature().unwrap();
        signing.update(b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}");
        let right = STANDARD
            .decode("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
            .unwrap();
        assert!(signing.is_one_of(&[right]));
    }
}
