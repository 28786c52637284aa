//! The SSH signature of a commit: what it is about, and whether it is good.
//!
//! What a signature is about is the commit without the header that holds it, and nothing else of the commit is looked at:
//! tree, parents and time are read from just those bytes. It never runs a program, and never decides by a name.

use gix::objs::CommitRef;
use ring::signature::{self as alg, RsaPublicKeyComponents, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, SshSig};

use super::signers::{NAMESPACE, Signers, Standing};

/// The longest signature, in bytes of its text. One by the largest RSA key has 3 KB.
const MAX_SIGNATURE: usize = 16 << 10;

/// What keeps a revision from being trusted. The sentences complete "revision X is refused: …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The directory is in no checkout that can be read.
    #[error("the definitions are in no git checkout that can be read ({0})")]
    NoCheckout(String),
    /// An object is not what its id says, or cannot be read.
    #[error("it cannot be read ({0})")]
    Unreadable(String),
    #[error("the commit is not signed")]
    Unsigned,
    /// There is one that is none of SSH.
    #[error("the commit is signed, but not by an SSH key")]
    NotSsh,
    #[error("the signature of the commit cannot be read ({0})")]
    Malformed(&'static str),
    /// The key signed something else than a commit.
    #[error("the signature was not made for git")]
    OtherNamespace,
    #[error("the key that signed the commit is not among the allowed signers ({0})")]
    UnknownKey(String),
    /// The key was not valid when the commit was made.
    #[error("the key that signed the commit was not valid at the time of the commit ({0})")]
    KeyNotValid(String),
    /// Somebody changed the commit, or copied the signature.
    #[error(
        "the signature of the commit is forged: it is not about this commit, or not made by that key"
    )]
    Forged,
    #[error("the commit is not the one that --trusted-revision names")]
    NotPinned,
    /// The work tree is another one than the commit.
    #[error("the definition files differ from the commit, and nobody signed the difference")]
    Dirty,
}

/// A commit in the two parts that count: the signature, and what it is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    /// The commit without the signature.
    pub(super) payload: Vec<u8>,
    signature: Option<Vec<u8>>,
}

impl Signed {
    /// Takes a commit apart.
    ///
    /// # Errors
    /// [`Distrust::Malformed`] where there are several signatures.
    pub(super) fn of(commit: &[u8]) -> Result<Self, Distrust> {
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
                Some(_) if signature.is_some() => return Err(Distrust::Malformed("there are two")),
                Some(first) => signature = Some(first.to_vec()),
                // What signs the same commit by another hash is left out by newer versions of git, and not by older ones.
                None if line.starts_with(b"gpgsig") => {
                    return Err(Distrust::Malformed("there are two"));
                }
                None => payload.extend_from_slice(line),
            }
        }
        lines.for_each(|line| payload.extend_from_slice(line));
        if signature
            .as_ref()
            .is_some_and(|signature| signature.len() > MAX_SIGNATURE)
        {
            return Err(Distrust::Malformed("it is too long"));
        }
        Ok(Self { payload, signature })
    }

    /// Whether one of the signers signed it.
    ///
    /// # Errors
    /// [`Distrust`] where not.
    pub(super) fn verify(&self, signers: &Signers) -> Result<(), Distrust> {
        let text = self.signature.as_ref().ok_or(Distrust::Unsigned)?;
        if !text.starts_with(b"-----BEGIN SSH SIGNATURE-----") {
            return Err(Distrust::NotSsh);
        }
        let malformed =
            Distrust::Malformed("it is no SSH signature of the form that ssh-keygen writes");
        let signature = SshSig::from_pem(text).map_err(|_| malformed.clone())?;
        // One signature has one form. Of a token's with ECDSA, the crate reads the form and does not write it.
        let form = signature.to_pem(LineEnding::LF).unwrap_or_default();
        let is_canonical = signature.algorithm() == Algorithm::SkEcdsaSha2NistP256
            || form.trim_end().as_bytes() == text.trim_ascii_end();
        if signature.version() != SshSig::VERSION || !is_canonical {
            return Err(malformed);
        }
        if signature.namespace() != NAMESPACE {
            return Err(Distrust::OtherNamespace);
        }
        let time = CommitRef::from_bytes(&self.payload, gix::hash::Kind::Sha1)
            .ok()
            .and_then(|commit| Some(commit.committer().ok()?.time().ok()?.seconds))
            .ok_or_else(|| Distrust::Unreadable("it is no commit".to_owned()))?;
        let key = signature.public_key();
        let named = || key.fingerprint(HashAlg::Sha256).to_string();
        match signers.judge(key, time) {
            Standing::Allowed => {}
            Standing::Unknown => return Err(Distrust::UnknownKey(named())),
            Standing::OtherNamespace => return Err(Distrust::OtherNamespace),
            Standing::NotAt(_) => return Err(Distrust::KeyNotValid(named())),
        }
        let about = SshSig::signed_data(NAMESPACE, signature.hash_alg(), &self.payload)
            .map_err(|_| malformed)?;
        if is_good(key, &signature, &about) {
            Ok(())
        } else {
            Err(Distrust::Forged)
        }
    }
}

/// Whether a signature is about this, and made by the key. What is not known is not good.
fn is_good(key: &KeyData, signature: &SshSig, about: &[u8]) -> bool {
    let made = signature.signature_bytes();
    match (key, signature.algorithm()) {
        (KeyData::Ed25519(key), Algorithm::Ed25519) => {
            UnparsedPublicKey::new(&alg::ED25519, key.as_ref())
                .verify(about, made)
                .is_ok()
        }
        (KeyData::Ecdsa(key), Algorithm::Ecdsa { curve }) if key.curve() == curve => {
            ecdsa(curve, key.as_sec1_bytes(), about, made)
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
                .verify(parameters, about, made)
                .is_ok()
        }
        (KeyData::SkEd25519(key), Algorithm::SkEd25519) => token(key.application(), about, made)
            .is_some_and(|(about, made)| {
                UnparsedPublicKey::new(&alg::ED25519, key.public_key().as_ref())
                    .verify(&about, made)
                    .is_ok()
            }),
        (KeyData::SkEcdsaSha2NistP256(key), Algorithm::SkEcdsaSha2NistP256) => {
            token(key.application(), about, made).is_some_and(|(about, made)| {
                ecdsa(EcdsaCurve::NistP256, key.ec_point().as_ref(), &about, made)
            })
        }
        _ => false,
    }
}

/// What a security token signed in place of `about`, and its signature. `None` where nobody touched it.
fn token<'a>(application: &str, about: &[u8], made: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
    const TOUCHED: u8 = 1;
    let (made, trailer) = made.split_at_checked(made.len().checked_sub(5)?)?;
    if trailer.first()? & TOUCHED == 0 {
        return None;
    }
    Some((
        [
            &*Sha256::digest(application),
            trailer,
            &*Sha256::digest(about),
        ]
        .concat(),
        made,
    ))
}

/// The same for the two numbers that an ECDSA signature is made of: here each has its length before it, there all of one
/// length follow each other.
fn ecdsa(curve: EcdsaCurve, point: &[u8], about: &[u8], made: &[u8]) -> bool {
    let (algorithm, length): (&dyn alg::VerificationAlgorithm, usize) = match curve {
        EcdsaCurve::NistP256 => (&alg::ECDSA_P256_SHA256_FIXED, 32),
        EcdsaCurve::NistP384 => (&alg::ECDSA_P384_SHA384_FIXED, 48),
        EcdsaCurve::NistP521 => return false,
    };
    let mut fixed = Vec::with_capacity(2 * length);
    let mut rest = made;
    for _ in 0..2 {
        let Some((number, after)) = mpint(rest) else {
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
            .verify(about, &fixed)
            .is_ok()
}

/// A positive number without the zeros before it, and what comes after it.
fn mpint(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (number, rest) =
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((number.strip_prefix(&[0]).unwrap_or(number), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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

    fn allowing(options: &str, key: &KeyData) -> Signers {
        let key = PublicKey::from(key.clone()).to_openssh().unwrap();
        Signers::parse(format!("ada@x {options} {key}\n").as_bytes()).unwrap()
    }

    /// The text of a signature in a namespace, of what `sign` makes of what is signed.
    fn text(
        key: &KeyData,
        kind: Algorithm,
        namespace: &str,
        sign: impl Fn(&[u8]) -> Vec<u8>,
    ) -> String {
        let about = SshSig::signed_data(namespace, HashAlg::Sha512, COMMIT.as_bytes()).unwrap();
        let made = Signature::new(kind, sign(&about)).unwrap();
        SshSig::new(key.clone(), namespace, HashAlg::Sha512, made)
            .unwrap()
            .to_pem(LineEnding::LF)
            .unwrap()
    }

    fn by_ada(namespace: &str) -> String {
        let key = KeyData::Ed25519(public(&ada()));
        text(&key, Algorithm::Ed25519, namespace, |about| {
            ada().sign(about).as_ref().to_vec()
        })
    }

    fn header(text: &str) -> String {
        format!("gpgsig {}\n", text.trim_end().replace('\n', "\n "))
    }

    /// The commit with these headers after its own.
    fn with(headers: &str) -> String {
        COMMIT.replace("\n\nWords", &format!("\n{headers}\nWords"))
    }

    fn judge(commit: &str) -> Result<(), Distrust> {
        Signed::of(commit.as_bytes())?.verify(&allowing("", &KeyData::Ed25519(public(&ada()))))
    }

    #[test]
    fn a_signature_is_about_the_commit_without_it() {
        let signed = Signed::of(with(&header(&by_ada("git"))).as_bytes()).unwrap();
        assert_eq!(signed.payload, COMMIT.as_bytes());
        assert_eq!(judge(&with(&header(&by_ada("git")))), Ok(()));
        assert_eq!(judge(COMMIT), Err(Distrust::Unsigned));
        for changed in [
            ("Words", "Wörter"),
            ("4b825dc6", "4b825dc7"),
            ("author Ada", "author Bob"),
        ] {
            let commit = with(&header(&by_ada("git"))).replace(changed.0, changed.1);
            assert_eq!(judge(&commit), Err(Distrust::Forged), "{changed:?}");
        }
    }

    #[test]
    fn a_signature_that_only_looks_like_a_header_is_none() {
        let signature = header(&by_ada("git"));
        let in_the_message = COMMIT.replace("Words", &format!("Words\n\n{signature}"));
        assert_eq!(judge(&in_the_message), Err(Distrust::Unsigned));
        // A merged tag that was signed is quoted in a header of its own.
        let nested = format!(
            "mergetag object 4b82\n {}\n",
            signature.trim_end().replace('\n', "\n ")
        );
        assert_eq!(judge(&with(&nested)), Err(Distrust::Unsigned));
        assert_eq!(
            judge(&with(&format!("{nested}{signature}"))),
            Err(Distrust::Forged)
        );
    }

    #[test]
    fn what_is_no_single_signature_by_ssh_for_git_is_refused() {
        let good = by_ada("git");
        let malformed = |commit: &str, why: &str| {
            let judged = judge(commit);
            assert!(
                matches!(judged, Err(Distrust::Malformed(told)) if told.contains(why)),
                "{judged:?}"
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
        assert_eq!(
            judge(&with(&header(&by_ada("file")))),
            Err(Distrust::OtherNamespace)
        );
        let pgp = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----\n";
        assert_eq!(judge(&with(pgp)), Err(Distrust::NotSsh));
        assert_eq!(judge(&with("gpgsig \n")), Err(Distrust::NotSsh));
        for broken in [
            good.replace("\nU1NIU0lH", "\nU1NIU0lI"),
            good.replace("-----END", "AAAA\n-----END"),
            good[..90].to_owned(),
        ] {
            malformed(&with(&header(&broken)), "no SSH signature");
        }
        assert!(judge(&with(&header(&format!("{good}{good}")))).is_err());
    }

    #[test]
    fn a_hash_that_can_be_forged_is_no_signature() {
        use base64::Engine as _;
        let code = base64::engine::general_purpose::STANDARD;
        let text = by_ada("git");
        let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut bytes = code.decode(lines).unwrap();
        let at = bytes.windows(6).position(|six| six == b"sha512").unwrap();
        bytes.splice(at - 1..at + 6, [4].into_iter().chain(*b"sha1"));
        let weak = code
            .encode(bytes)
            .as_bytes()
            .chunks(70)
            .map(String::from_utf8_lossy)
            .collect::<Vec<_>>()
            .join("\n");
        let weak = format!("-----BEGIN SSH SIGNATURE-----\n{weak}\n-----END SSH SIGNATURE-----\n");
        assert!(matches!(
            judge(&with(&header(&weak))),
            Err(Distrust::Malformed(_))
        ));
        // RSA with SHA-1 is what `ssh-rsa` stands for as the kind of a signature.
        assert!(Signature::new(Algorithm::Rsa { hash: None }, vec![1; 256]).is_err());
    }

    #[test]
    fn a_key_counts_by_its_line_at_the_time_of_the_commit() {
        let signed = Signed::of(with(&header(&by_ada("git"))).as_bytes()).unwrap();
        let key = KeyData::Ed25519(public(&ada()));
        let judge = |options| signed.verify(&allowing(options, &key));
        assert_eq!(
            judge("valid-after=\"20260921\",valid-before=\"20260922\""),
            Ok(())
        );
        assert!(matches!(
            judge("valid-before=\"20260921\""),
            Err(Distrust::KeyNotValid(_))
        ));
        assert!(matches!(
            judge("valid-after=\"20260922\""),
            Err(Distrust::KeyNotValid(_))
        ));
        assert_eq!(judge("namespaces=\"file\""), Err(Distrust::OtherNamespace));
        let other = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
        let unknown = signed.verify(&allowing("", &KeyData::Ed25519(public(&other))));
        assert!(matches!(unknown, Err(Distrust::UnknownKey(key)) if key.starts_with("SHA256:")));
    }

    #[test]
    fn elliptic_curves_count_whatever_the_length_of_their_numbers() {
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
            // Now and then a number begins with a zero.
            for _ in 0..300 {
                let signature = text(&key, Algorithm::Ecdsa { curve }, "git", |about| {
                    let made = pair.sign(&random, about).unwrap();
                    let (r, s) = made.as_ref().split_at(made.as_ref().len() / 2);
                    [number(r), number(s)].concat()
                });
                let signed = Signed::of(with(&header(&signature)).as_bytes()).unwrap();
                assert_eq!(signed.verify(&allowing("", &key)), Ok(()));
                let changed = Signed {
                    payload: b"tree"
                        .iter()
                        .chain(&signed.payload[4..])
                        .copied()
                        .collect(),
                    ..signed
                };
                let other = Signed {
                    payload: changed.payload[..changed.payload.len() - 1].to_vec(),
                    ..changed
                };
                assert_eq!(other.verify(&allowing("", &key)), Err(Distrust::Forged));
            }
        }
    }

    #[test]
    fn a_token_counts_only_where_somebody_touched_it() {
        let key = KeyData::SkEd25519(SkEd25519::new(public(&ada()), "ssh:"));
        let judge = |flags: u8| {
            let signature = text(&key, Algorithm::SkEd25519, "git", |about| {
                let trailer = [flags, 0, 0, 0, 7];
                let signed = [&*Sha256::digest("ssh:"), &trailer, &*Sha256::digest(about)].concat();
                [ada().sign(&signed).as_ref(), &trailer].concat()
            });
            Signed::of(with(&header(&signature)).as_bytes())
                .unwrap()
                .verify(&allowing("", &key))
        };
        assert_eq!(judge(1), Ok(()));
        assert_eq!(judge(5), Ok(()));
        assert_eq!(judge(0), Err(Distrust::Forged));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_strange_to_be_taken_apart(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = Signed::of(&bytes).map(|signed| signed.verify(&allowing("", &KeyData::Ed25519(public(&ada())))));
        }

        #[test]
        fn one_changed_byte_of_a_signed_commit_is_enough(at in 0..1_000_usize, to in proptest::num::u8::ANY) {
            let mut commit = with(&header(&by_ada("git"))).into_bytes();
            let at = at % commit.len();
            let same = commit[at] == to;
            commit[at] = to;
            let judged = Signed::of(&commit).and_then(|s| s.verify(&allowing("", &KeyData::Ed25519(public(&ada())))));
            proptest::prop_assert_eq!(judged.is_ok(), same, "byte {} as {}", at, to);
        }
    }
}
