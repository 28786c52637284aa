//! The signature of a commit: which bytes it covers, and whether it is valid. SSH signatures are checked here, OpenPGP
//! signatures in `allowed_keys`.
//!
//! A signature covers the commit without the header that contains the signature. Tree, parents and time are read from
//! exactly those bytes. `git verify-commit` is not used, because it runs programs that a repository configures.
//!
//! Never: run a program, or decide by a name.

use std::fmt;

use gix::objs::CommitRef;
use ring::signature::{self as alg, RsaPublicKeyComponents, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, SshSig};

use super::allowed_signers::{AllowedSigners, KeyStatus, NAMESPACE};
use super::tag::TagError;
use super::trusted_keys::TrustedKeys;

/// The longest signature, in bytes of its text. A signature by the largest RSA key has 3 KB.
pub(super) const MAX_SIGNATURE: usize = 16 << 10;

/// The object whose signature counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifiedObject {
    #[default]
    Commit,
    Tag,
}

/// Why a commit is not trusted. The sentences complete "the checked-out commit is refused: …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("the definitions are not in a readable git checkout ({0})")]
    NoCheckout(String),
    #[error("the commit cannot be read ({0})")]
    Unreadable(String),
    #[error("the {0} {1}")]
    Signature(VerifiedObject, SignatureError),
    #[error("the tag {0}")]
    Tag(TagError),
    #[error("the commit is not the one that --trusted-revision names")]
    NotPinned,
    #[error("the definition files differ from the commit, and the difference is not signed")]
    Dirty,
}

/// Why a signature does not count. The sentences complete "the commit …" and "the tag …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("is not signed")]
    Missing,
    #[error("is signed, but neither with an SSH key nor with OpenPGP")]
    OtherKind,
    #[error("is signed with an SSH key, and no SSH key is allowed (--allowed-signers)")]
    NoSigners,
    #[error("is signed with OpenPGP, and no OpenPGP key is allowed (--allowed-keys)")]
    NoKeys,
    #[error("has a signature that cannot be read ({0})")]
    Malformed(&'static str),
    #[error("has a signature that was not made for git")]
    OtherNamespace,
    #[error("is signed by a key that is not among the allowed signers ({0})")]
    UnknownSigner(String),
    #[error("is signed by a key that is not among the allowed keys ({0})")]
    UnknownKey(String),
    #[error("is signed by a key that was not valid at the time of the signature ({0})")]
    SignerNotValid(String),
    #[error("is signed by a key that {why} ({key})")]
    KeyRefused {
        key: String,
        /// Completes "a key that …".
        why: String,
    },
    #[error("has a signature with {0}, which is broken; sign it again with SHA-256 or SHA-512")]
    WeakHash(&'static str),
    #[error("has a signature that is not supported ({0})")]
    Unsupported(&'static str),
    #[error("has a forged signature: it was made for something else or by another key")]
    Forged,
}

impl fmt::Display for VerifiedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "commit",
            Self::Tag => "tag",
        })
    }
}

/// A commit, and its signature if it has one.
#[derive(Debug, PartialEq, Eq)]
pub struct SignedCommit {
    /// The commit without the signature.
    payload: Vec<u8>,
    signature: Option<Vec<u8>>,
}

impl SignedCommit {
    /// Separates a commit and its signature.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] if there are several signatures.
    pub fn parse(commit: &[u8]) -> Result<Self, TrustError> {
        let malformed =
            |why| TrustError::Signature(VerifiedObject::Commit, SignatureError::Malformed(why));
        let mut payload = Vec::with_capacity(commit.len());
        let mut signature: Option<Vec<u8>> = None;
        let mut lines = commit.split_inclusive(|byte| *byte == b'\n');
        let mut within = false;
        for line in lines.by_ref() {
            if line == b"\n" {
                payload.extend_from_slice(line);
                break;
            }
            if let (true, Some(signature), Some(more)) =
                (within, &mut signature, line.strip_prefix(b" "))
            {
                signature.extend_from_slice(more);
                continue;
            }
            let first = line.strip_prefix(b"gpgsig ");
            within = first.is_some();
            match first {
                Some(_) if signature.is_some() => {
                    return Err(malformed("there are two signatures"));
                }
                Some(first) => signature = Some(first.to_vec()),
                // A signature of the same commit by another hash: newer versions of git leave it out of the payload, older
                // versions do not.
                None if line.starts_with(b"gpgsig") => {
                    return Err(malformed("there are two signatures"));
                }
                None => payload.extend_from_slice(line),
            }
        }
        lines.for_each(|line| payload.extend_from_slice(line));
        if signature
            .as_ref()
            .is_some_and(|signature| signature.len() > MAX_SIGNATURE)
        {
            return Err(malformed("it is too long"));
        }
        Ok(Self { payload, signature })
    }

    /// A commit whose signature does not matter.
    pub(super) const fn unsigned() -> Self {
        Self {
            payload: Vec::new(),
            signature: None,
        }
    }

    /// The bytes that the signature covers.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Checks that one of the keys signed the commit.
    ///
    /// # Errors
    /// [`TrustError::Signature`], or [`TrustError::Unreadable`] if it is not a commit.
    pub fn verify(&self, keys: &TrustedKeys) -> Result<(), TrustError> {
        let time = || {
            let commit = CommitRef::from_bytes(&self.payload, gix::hash::Kind::Sha1).ok()?;
            Some(commit.committer().ok()?.time().ok()?.seconds)
        };
        let time =
            time().ok_or_else(|| TrustError::Unreadable("it is not a valid commit".to_owned()));
        let signature = self.signature.as_deref();
        keys.verify(signature, &self.payload, time?)
            .map_err(|error| TrustError::Signature(VerifiedObject::Commit, error))
    }
}

/// Checks that one of the signers made an SSH signature of a commit or a tag of this time, in seconds since 1970.
pub(super) fn verify_ssh(
    signers: &AllowedSigners,
    text: &[u8],
    payload: &[u8],
    time: i64,
) -> Result<(), SignatureError> {
    let malformed = SignatureError::Malformed("it is not an SSH signature as ssh-keygen writes it");
    let signature = SshSig::from_pem(text).map_err(|_| malformed.clone())?;
    // Only the canonical form counts. The crate cannot write an ECDSA signature by a security token.
    let is_canonical = signature.algorithm() == Algorithm::SkEcdsaSha2NistP256
        || signature
            .to_pem(LineEnding::LF)
            .is_ok_and(|form| form.trim_end().as_bytes() == text.trim_ascii_end());
    if signature.version() != SshSig::VERSION || !is_canonical {
        return Err(malformed);
    }
    if signature.namespace() != NAMESPACE {
        return Err(SignatureError::OtherNamespace);
    }
    let key = signature.public_key();
    let fingerprint = || key.fingerprint(HashAlg::Sha256).to_string();
    match signers.status(key, time) {
        KeyStatus::Allowed => {}
        KeyStatus::Unknown => return Err(SignatureError::UnknownSigner(fingerprint())),
        KeyStatus::OtherNamespace => return Err(SignatureError::OtherNamespace),
        KeyStatus::NotValid => return Err(SignatureError::SignerNotValid(fingerprint())),
    }
    let message =
        SshSig::signed_data(NAMESPACE, signature.hash_alg(), payload).map_err(|_| malformed)?;
    if is_valid(key, &signature, &message) {
        Ok(())
    } else {
        Err(SignatureError::Forged)
    }
}

/// Whether a signature of a message was made by the key. A signature of an unknown kind is not valid.
fn is_valid(key: &KeyData, signature: &SshSig, message: &[u8]) -> bool {
    let bytes = signature.signature_bytes();
    match (key, signature.algorithm()) {
        (KeyData::Ed25519(key), Algorithm::Ed25519) => {
            UnparsedPublicKey::new(&alg::ED25519, key.as_ref())
                .verify(message, bytes)
                .is_ok()
        }
        (KeyData::Ecdsa(key), Algorithm::Ecdsa { curve }) if key.curve() == curve => {
            verify_ecdsa(curve, key.as_sec1_bytes(), message, bytes)
        }
        (KeyData::Rsa(key), Algorithm::Rsa { hash: Some(hash) }) => {
            let parameters = match hash {
                HashAlg::Sha256 => &alg::RSA_PKCS1_2048_8192_SHA256,
                HashAlg::Sha512 => &alg::RSA_PKCS1_2048_8192_SHA512,
                _ => return false,
            };
            let (Some(n), Some(e)) = (key.n.as_positive_bytes(), key.e.as_positive_bytes()) else {
                return false;
            };
            RsaPublicKeyComponents { n, e }
                .verify(parameters, message, bytes)
                .is_ok()
        }
        (KeyData::SkEd25519(key), Algorithm::SkEd25519) => {
            read_token_signature(key.application(), message, bytes).is_some_and(
                |(message, bytes)| {
                    UnparsedPublicKey::new(&alg::ED25519, key.public_key().as_ref())
                        .verify(&message, bytes)
                        .is_ok()
                },
            )
        }
        (KeyData::SkEcdsaSha2NistP256(key), Algorithm::SkEcdsaSha2NistP256) => {
            read_token_signature(key.application(), message, bytes).is_some_and(
                |(message, bytes)| {
                    verify_ecdsa(
                        EcdsaCurve::NistP256,
                        key.ec_point().as_ref(),
                        &message,
                        bytes,
                    )
                },
            )
        }
        _ => false,
    }
}

/// The message that a security token signed in place of `message`, and its signature. `None` if the token was not touched.
fn read_token_signature<'a>(
    application: &str,
    message: &[u8],
    signature: &'a [u8],
) -> Option<(Vec<u8>, &'a [u8])> {
    const TOUCHED: u8 = 1;
    let (signature, trailer) = signature.split_at_checked(signature.len().checked_sub(5)?)?;
    if trailer.first()? & TOUCHED == 0 {
        return None;
    }
    Some((
        [
            &*Sha256::digest(application),
            trailer,
            &*Sha256::digest(message),
        ]
        .concat(),
        signature,
    ))
}

/// Verifies an ECDSA signature. In SSH, each of its two numbers follows its own length. In `ring`, both have a fixed length.
fn verify_ecdsa(curve: EcdsaCurve, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (algorithm, length): (&dyn alg::VerificationAlgorithm, usize) = match curve {
        EcdsaCurve::NistP256 => (&alg::ECDSA_P256_SHA256_FIXED, 32),
        EcdsaCurve::NistP384 => (&alg::ECDSA_P384_SHA384_FIXED, 48),
        EcdsaCurve::NistP521 => return false,
    };
    let mut fixed = Vec::with_capacity(2 * length);
    let mut rest = signature;
    for _ in 0..2 {
        let Some((number, after)) = read_number(rest) else {
            return false;
        };
        let Some(zeros) = length.checked_sub(number.len()) else {
            return false;
        };
        fixed.extend(std::iter::repeat_n(0, zeros));
        fixed.extend_from_slice(number);
        rest = after;
    }
    rest.is_empty()
        && UnparsedPublicKey::new(algorithm, point)
            .verify(message, &fixed)
            .is_ok()
}

/// Reads a positive number, without its leading zero. Returns the bytes after it, too.
fn read_number(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (number, rest) =
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((number.strip_prefix(&[0]).unwrap_or(number), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
    use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, SkEd25519};
    use ssh_key::{PublicKey, Signature};

    use super::*;

    const COMMIT: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor Ada <ada@x> 1790000000 +0000\n\
                          committer Ada <ada@x> 1790000000 +0000\n\nWords\n";

    fn ada() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
    }

    fn public(key: &Ed25519KeyPair) -> Ed25519PublicKey {
        Ed25519PublicKey(key.public_key().as_ref().try_into().unwrap())
    }

    fn allow(options: &str, key: &KeyData) -> TrustedKeys {
        let key = PublicKey::from(key.clone()).to_openssh().unwrap();
        let line = format!("ada@x {options} {key}\n");
        TrustedKeys {
            signers: Some(AllowedSigners::parse(line.as_bytes()).unwrap()),
            keys: None,
        }
    }

    fn refused(error: SignatureError) -> TrustError {
        TrustError::Signature(VerifiedObject::Commit, error)
    }

    /// The text of a signature in a namespace. `sign` signs the message.
    fn text(
        key: &KeyData,
        kind: Algorithm,
        namespace: &str,
        sign: impl Fn(&[u8]) -> Vec<u8>,
    ) -> String {
        let message = SshSig::signed_data(namespace, HashAlg::Sha512, COMMIT.as_bytes()).unwrap();
        let signed = Signature::new(kind, sign(&message)).unwrap();
        SshSig::new(key.clone(), namespace, HashAlg::Sha512, signed)
            .unwrap()
            .to_pem(LineEnding::LF)
            .unwrap()
    }

    fn by_ada(namespace: &str) -> String {
        let key = KeyData::Ed25519(public(&ada()));
        text(&key, Algorithm::Ed25519, namespace, |message| {
            ada().sign(message).as_ref().to_vec()
        })
    }

    /// The text form of the bytes of a signature.
    fn armored(bytes: &[u8]) -> String {
        let code = STANDARD.encode(bytes);
        let lines: Vec<_> = code
            .as_bytes()
            .chunks(70)
            .map(String::from_utf8_lossy)
            .collect();
        let lines = lines.join("\n");
        format!("-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n")
    }

    fn header(text: &str) -> String {
        format!("gpgsig {}\n", text.trim_end().replace('\n', "\n "))
    }

    /// The commit with these headers after its own.
    fn with(headers: &str) -> String {
        COMMIT.replace("\n\nWords", &format!("\n{headers}\nWords"))
    }

    fn verify(commit: &str) -> Result<(), TrustError> {
        SignedCommit::parse(commit.as_bytes())?
            .verify(&allow("", &KeyData::Ed25519(public(&ada()))))
    }

    #[test]
    fn a_signature_covers_the_commit_without_the_signature() {
        let signed = SignedCommit::parse(with(&header(&by_ada("git"))).as_bytes()).unwrap();
        assert_eq!(signed.payload, COMMIT.as_bytes());
        assert_eq!(verify(&with(&header(&by_ada("git")))), Ok(()));
        assert_eq!(verify(COMMIT), Err(refused(SignatureError::Missing)));
        for changed in [
            ("Words", "Wörter"),
            ("4b825dc6", "4b825dc7"),
            ("author Ada", "author Bob"),
        ] {
            let commit = with(&header(&by_ada("git"))).replace(changed.0, changed.1);
            assert_eq!(
                verify(&commit),
                Err(refused(SignatureError::Forged)),
                "{changed:?}"
            );
        }
    }

    #[test]
    fn a_signature_outside_its_header_does_not_count() {
        let signature = header(&by_ada("git"));
        let in_the_message = COMMIT.replace("Words", &format!("Words\n\n{signature}"));
        assert_eq!(
            verify(&in_the_message),
            Err(refused(SignatureError::Missing))
        );
        // A merged tag that was signed is quoted in its own header.
        let nested = format!(
            "mergetag object 4b82\n {}\n",
            signature.trim_end().replace('\n', "\n ")
        );
        assert_eq!(
            verify(&with(&nested)),
            Err(refused(SignatureError::Missing))
        );
        assert_eq!(
            verify(&with(&format!("{nested}{signature}"))),
            Err(refused(SignatureError::Forged))
        );
    }

    #[test]
    fn only_a_single_ssh_signature_for_git_counts() {
        let good = by_ada("git");
        let malformed = |commit: &str, why: &str| {
            let result = verify(commit);
            assert!(
                matches!(result, Err(TrustError::Signature(_, SignatureError::Malformed(message))) if message.contains(why)),
                "{result:?}"
            );
        };
        let twice = header(&good).repeat(2);
        malformed(&with(&twice), "two");
        let by_other_hash = format!("{}gpgsig-sha256 {}", header(&good), &header(&good)[7..]);
        malformed(&with(&by_other_hash), "two");
        let giant = header(&good.replace(
            "-----END",
            &format!("{}\n-----END", "A".repeat(MAX_SIGNATURE)),
        ));
        malformed(&with(&giant), "too long");
        let longest = format!("gpgsig {}\n", "A".repeat(MAX_SIGNATURE - 1));
        assert!(SignedCommit::parse(with(&longest).as_bytes()).is_ok());
        assert_eq!(
            verify(&with(&header(&by_ada("file")))),
            Err(refused(SignatureError::OtherNamespace))
        );
        let pgp = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----\n";
        assert_eq!(verify(&with(pgp)), Err(refused(SignatureError::NoKeys)));
        assert_eq!(
            verify(&with("gpgsig \n")),
            Err(refused(SignatureError::OtherKind))
        );
        for broken in [
            good.replace("\nU1NIU0lH", "\nU1NIU0lI"),
            good.replace("-----END", "AAAA\n-----END"),
            good[..90].to_owned(),
            good.replace('\n', "\r\n"),
        ] {
            malformed(&with(&header(&broken)), "not an SSH signature");
        }
        assert!(verify(&with(&header(&format!("{good}{good}")))).is_err());
    }

    #[test]
    fn a_signature_with_sha_1_does_not_count() {
        let text = by_ada("git");
        let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut bytes = STANDARD.decode(lines).unwrap();
        let at = bytes.windows(6).position(|six| six == b"sha512").unwrap();
        bytes.splice(at - 1..at + 6, [4].into_iter().chain(*b"sha1"));
        let weak = armored(&bytes);
        assert!(matches!(
            verify(&with(&header(&weak))),
            Err(TrustError::Signature(_, SignatureError::Malformed(_)))
        ));
        // As the kind of a signature, `ssh-rsa` means RSA with SHA-1.
        assert!(Signature::new(Algorithm::Rsa { hash: None }, vec![1; 256]).is_err());
    }

    #[test]
    fn a_key_counts_by_its_line_at_the_time_of_the_commit() {
        let signed = SignedCommit::parse(with(&header(&by_ada("git"))).as_bytes()).unwrap();
        let key = KeyData::Ed25519(public(&ada()));
        let verify = |options| signed.verify(&allow(options, &key));
        assert_eq!(
            verify("valid-after=\"20260921\",valid-before=\"20260922\""),
            Ok(())
        );
        assert!(matches!(
            verify("valid-before=\"20260921\""),
            Err(TrustError::Signature(_, SignatureError::SignerNotValid(_)))
        ));
        assert!(matches!(
            verify("valid-after=\"20260922\""),
            Err(TrustError::Signature(_, SignatureError::SignerNotValid(_)))
        ));
        assert_eq!(
            verify("namespaces=\"file\""),
            Err(refused(SignatureError::OtherNamespace))
        );
        let other = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
        let unknown = signed.verify(&allow("", &KeyData::Ed25519(public(&other))));
        assert!(
            matches!(unknown, Err(TrustError::Signature(_, SignatureError::UnknownSigner(key))) if key.starts_with("SHA256:"))
        );
    }

    #[test]
    fn elliptic_curves_count_with_numbers_of_any_length() {
        let random = SystemRandom::new();
        for (algorithm, curve) in [
            (&alg::ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaCurve::NistP256),
            (&alg::ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaCurve::NistP384),
        ] {
            let pair = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, pair.as_ref(), &random).unwrap();
            let key = KeyData::Ecdsa(
                EcdsaPublicKey::from_sec1_bytes(pair.public_key().as_ref()).unwrap(),
            );
            let number = |bytes: &[u8]| {
                let bytes: Vec<u8> = bytes
                    .iter()
                    .copied()
                    .skip_while(|byte| *byte == 0)
                    .collect();
                let zero = usize::from(bytes.first().is_some_and(|byte| *byte > 127));
                let length = u32::try_from(bytes.len() + zero).unwrap().to_be_bytes();
                [&length[..], &vec![0; zero], &bytes].concat()
            };
            // Some of the numbers begin with a zero.
            for _ in 0..300 {
                let signature = text(&key, Algorithm::Ecdsa { curve }, "git", |message| {
                    let signed = pair.sign(&random, message).unwrap();
                    let (r, s) = signed.as_ref().split_at(signed.as_ref().len() / 2);
                    [number(r), number(s)].concat()
                });
                let signed = SignedCommit::parse(with(&header(&signature)).as_bytes()).unwrap();
                assert_eq!(signed.verify(&allow("", &key)), Ok(()));
                let changed = SignedCommit {
                    payload: b"tree"
                        .iter()
                        .chain(&signed.payload[4..])
                        .copied()
                        .collect(),
                    ..signed
                };
                let other = SignedCommit {
                    payload: changed.payload[..changed.payload.len() - 1].to_vec(),
                    ..changed
                };
                assert_eq!(
                    other.verify(&allow("", &key)),
                    Err(refused(SignatureError::Forged))
                );
            }
        }
    }

    #[test]
    fn rsa_counts_with_sha_2() {
        macro_rules! fixture {
            ($name:expr) => {
                include_bytes!(concat!("../../../tests/fixtures/ssh/", $name))
            };
        }
        let public = std::str::from_utf8(fixture!("rsa.pub")).unwrap();
        let key = PublicKey::from_openssh(public).unwrap().key_data().clone();
        for (hash, bytes) in [
            (HashAlg::Sha256, fixture!("rsa-sha2-256.sig")),
            (HashAlg::Sha512, fixture!("rsa-sha2-512.sig")),
        ] {
            let kind = Algorithm::Rsa { hash: Some(hash) };
            let commit = with(&header(&text(&key, kind, "git", |_| bytes.to_vec())));
            let verify = |commit: &str| {
                SignedCommit::parse(commit.as_bytes())
                    .unwrap()
                    .verify(&allow("", &key))
            };
            assert_eq!(verify(&commit), Ok(()));
            let forged = commit.replace("Words", "words");
            assert_eq!(verify(&forged), Err(refused(SignatureError::Forged)));
        }
    }

    #[test]
    fn a_token_with_an_elliptic_curve_counts_only_if_it_was_touched() {
        const KIND: &[u8] = b"sk-ecdsa-sha2-nistp256@openssh.com";
        let string = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            [&length[..], bytes].concat()
        };
        let random = SystemRandom::new();
        let algorithm = &alg::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pair.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let public = [KIND, b"nistp256", point, b"ssh:"].map(string).concat();
        let key = PublicKey::from_bytes(&public).unwrap().key_data().clone();
        let verify = |flags: u8| {
            let message = SshSig::signed_data("git", HashAlg::Sha512, COMMIT.as_bytes()).unwrap();
            let trailer = [flags, 0, 0, 0, 7];
            let signed = [
                &*Sha256::digest("ssh:"),
                &trailer,
                &*Sha256::digest(message),
            ]
            .concat();
            // Neither number needs a zero in front of it or has one.
            let numbers = loop {
                let signed = pair.sign(&random, &signed).unwrap();
                let numbers = signed.as_ref().split_at(32);
                if [numbers.0, numbers.1].map(|number| (1..128).contains(&number[0])) == [true; 2] {
                    break [string(numbers.0), string(numbers.1)].concat();
                }
            };
            let signature = [string(KIND), string(&numbers), trailer.to_vec()].concat();
            let parts = [&public, &b"git"[..], b"", b"sha512", &signature].map(string);
            let text = armored(&[b"SSHSIG", &[0, 0, 0, 1][..], &parts.concat()].concat());
            SignedCommit::parse(with(&header(&text)).as_bytes())
                .unwrap()
                .verify(&allow("", &key))
        };
        assert_eq!(verify(1), Ok(()));
        assert_eq!(verify(0), Err(refused(SignatureError::Forged)));
    }

    #[test]
    fn a_token_counts_only_if_it_was_touched() {
        let key = KeyData::SkEd25519(SkEd25519::new(public(&ada()), "ssh:"));
        let verify = |flags: u8| {
            let signature = text(&key, Algorithm::SkEd25519, "git", |message| {
                let trailer = [flags, 0, 0, 0, 7];
                let signed = [
                    &*Sha256::digest("ssh:"),
                    &trailer,
                    &*Sha256::digest(message),
                ]
                .concat();
                [ada().sign(&signed).as_ref(), &trailer].concat()
            });
            SignedCommit::parse(with(&header(&signature)).as_bytes())
                .unwrap()
                .verify(&allow("", &key))
        };
        assert_eq!(verify(1), Ok(()));
        assert_eq!(verify(5), Ok(()));
        assert_eq!(verify(0), Err(refused(SignatureError::Forged)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = SignedCommit::parse(&bytes).map(|signed| signed.verify(&allow("", &KeyData::Ed25519(public(&ada())))));
        }

        #[test]
        fn one_changed_byte_invalidates_a_signed_commit(at in 0..1_000_usize, to in proptest::num::u8::ANY) {
            let mut commit = with(&header(&by_ada("git"))).into_bytes();
            let at = at % commit.len();
            let same = commit[at] == to;
            commit[at] = to;
            let result = SignedCommit::parse(&commit).and_then(|s| s.verify(&allow("", &KeyData::Ed25519(public(&ada())))));
            proptest::prop_assert_eq!(result.is_ok(), same, "byte {} as {}", at, to);
        }
    }
}
