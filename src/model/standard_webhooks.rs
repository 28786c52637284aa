//! Signatures of [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md):
//! made for notifications, checked for hooks.
//!
//! This is not the crate `standardwebhooks`, which takes whole bodies and keys in base64 only: a hook is checked while its
//! body arrives, and any text can sign a notification.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::secret::{Secret, hmac_sha256};

/// The prefix of signing keys. The rest is base64.
const KEY_PREFIX: &str = "whsec_";

/// The shortest accepted key of a sender, in bytes, as in the specification.
const MIN_KEY_LEN: usize = 24;

/// The prefix of the only version of signatures with shared keys.
const SIGNATURE_PREFIX: &str = "v1,";

/// The number of signatures that are checked in one header; more than one occurs while a key is rotated.
const MAX_SIGNATURES: usize = 8;

/// Whether a secret has the form of a signing key, whose text is never sent.
pub(super) fn is_key(secret: &Secret) -> bool {
    secret.expose().starts_with(KEY_PREFIX)
}

/// The bytes of a sender's signing key; `None` if it is not base64 or too short.
pub(super) fn sender_key(secret: &Secret) -> Option<Vec<u8>> {
    let encoded = secret.expose().strip_prefix(KEY_PREFIX)?;
    let key = STANDARD.decode(encoded).ok()?;
    (key.len() >= MIN_KEY_LEN).then_some(key)
}

/// The authentication code of a message whose body is yet to follow.
pub(super) fn begin_message(key: &[u8], id: &str, timestamp: &str) -> Hmac<Sha256> {
    let mut mac = hmac_sha256(key);
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac
}

/// The value of `webhook-signature` for a message. A secret without the prefix `whsec_` is the key itself.
///
/// # Errors
/// Why the secret is not a key, as part of a sentence.
pub fn sign_webhook(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    body: &[u8],
) -> Result<String, &'static str> {
    let key = match secret.expose().strip_prefix(KEY_PREFIX) {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| "the secret is not base64 after whsec_")?,
        None => secret.expose().as_bytes().to_vec(),
    };
    let mut mac = begin_message(&key, id, timestamp);
    mac.update(body);
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    Ok(format!("{SIGNATURE_PREFIX}{signature}"))
}

/// The signatures in a header `webhook-signature`.
#[must_use]
pub fn parse_webhook_signatures(header: &str) -> Vec<Vec<u8>> {
    header
        .split(' ')
        .take(MAX_SIGNATURES)
        .filter_map(|signature| {
            STANDARD
                .decode(signature.strip_prefix(SIGNATURE_PREFIX)?)
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::SharedSecret;
    use super::*;

    /// The example of the specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: &str = "1614265330";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_example_of_the_specification_is_signed_and_accepted() {
        let secret = Secret::new(SECRET);
        assert_eq!(
            sign_webhook(&secret, ID, TIMESTAMP, BODY).as_deref(),
            Ok(SIGNATURE)
        );
        let accepts = |body: &[u8], header: &str| {
            let mut check = SharedSecret::new(&secret)
                .unwrap()
                .check_webhook(ID, TIMESTAMP)
                .unwrap();
            check.update(body);
            check.is_one_of(&parse_webhook_signatures(header))
        };
        assert!(accepts(BODY, SIGNATURE));
        assert!(accepts(BODY, &format!("v1a,AAAA v1,AAAA {SIGNATURE}")));
        assert!(!accepts(b"{}", SIGNATURE));
    }

    #[test]
    fn a_secret_that_is_not_base64_after_its_prefix_is_refused() {
        assert!(sign_webhook(&Secret::new("whsec_?"), "a", "1", b"").is_err());
    }
}
