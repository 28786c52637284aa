//! A signed tag: an annotated tag of a commit whose message ends with a signature.
//!
//! The signature covers everything before it. What the tag names is read from exactly those bytes.
//!
//! Never: follow a tag of a tag, or accept a tag under another name than the one that is signed.

use gix::ObjectId;
use gix::objs::{Kind, TagRef};

use super::signature::{MAX_SIGNATURE, SignatureError, TrustError, VerifiedObject};
use super::trusted_keys::{OPENPGP_SIGNATURE, SSH_SIGNATURE, TrustedKeys};
use crate::model::printable;

/// The largest tag, in bytes.
const MAX_TAG: usize = 1 << 20;

/// Why a tag does not count. The sentences complete "the tag …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    #[error("cannot be read ({0})")]
    Malformed(&'static str),
    #[error("is not an annotated one, and only such a tag can be signed")]
    NotAnnotated,
    #[error("names an object other than a commit")]
    NotOfACommit,
    #[error("was signed under another name ({0})")]
    OtherName(String),
    #[error("was signed for another commit ({0})")]
    OtherCommit(String),
}

/// An annotated tag, and its signature if it has one.
#[derive(Debug, PartialEq, Eq)]
pub struct SignedTag {
    /// The tag without the signature.
    payload: Vec<u8>,
    signature: Option<Vec<u8>>,
    name: String,
    target: ObjectId,
    /// The time of the tagger, in seconds since 1970.
    time: i64,
}

impl SignedTag {
    /// Separates a tag and its signature, as git does: the signature begins with the last line that begins one.
    ///
    /// # Errors
    /// [`TrustError::Tag`] if it is not an annotated tag of a commit.
    pub fn parse(tag: &[u8]) -> Result<Self, TrustError> {
        let malformed = |why| TrustError::Tag(TagError::Malformed(why));
        if tag.len() > MAX_TAG {
            return Err(malformed("it is larger than 1 MiB"));
        }
        let mut at = 0;
        let mut end = None;
        for line in tag.split_inclusive(|byte| *byte == b'\n') {
            // git also knows X.509 and an old form of OpenPGP.
            if [
                SSH_SIGNATURE,
                OPENPGP_SIGNATURE,
                b"-----BEGIN PGP MESSAGE-----",
                b"-----BEGIN SIGNED MESSAGE-----",
            ]
            .iter()
            .any(|first| line.starts_with(first))
            {
                end = Some(at);
            }
            at += line.len();
        }
        let (payload, signature) = tag.split_at(end.unwrap_or(tag.len()));
        if signature.len() > MAX_SIGNATURE {
            return Err(TrustError::Signature(
                VerifiedObject::Tag,
                SignatureError::Malformed("it is too long"),
            ));
        }
        let fields = ["object ", "type ", "tag ", "tagger "];
        let header = payload.split(|byte| *byte == b'\n');
        let has_each_field_once = header
            .clone()
            .take(fields.len())
            .zip(fields)
            .all(|(line, field)| line.starts_with(field.as_bytes()));
        if !has_each_field_once || header.clone().nth(fields.len()) != Some(b"") {
            return Err(malformed("it has other fields than git writes"));
        }
        let parsed = TagRef::from_bytes(payload, gix::hash::Kind::Sha1)
            .map_err(|_| malformed("it is not an annotated tag"))?;
        if parsed.target_kind != Kind::Commit {
            return Err(TrustError::Tag(TagError::NotOfACommit));
        }
        let tagger = parsed.tagger().ok().flatten();
        let time = tagger.and_then(|tagger| Some(tagger.time().ok()?.seconds));
        Ok(Self {
            name: String::from_utf8(parsed.name.to_vec())
                .map_err(|_| malformed("its name is not UTF-8"))?,
            target: parsed.target(),
            time: time.ok_or_else(|| malformed("it has no time"))?,
            payload: payload.to_vec(),
            signature: (!signature.is_empty()).then(|| signature.to_vec()),
        })
    }

    /// The bytes that the signature covers.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Checks that one of the keys signed the tag, under this name and for this commit.
    ///
    /// # Errors
    /// [`TrustError::Tag`] or [`TrustError::Signature`].
    pub fn verify(
        &self,
        name: &str,
        commit: ObjectId,
        keys: &TrustedKeys,
    ) -> Result<(), TrustError> {
        if self.name != name {
            return Err(TrustError::Tag(TagError::OtherName(printable(&self.name))));
        }
        if self.target != commit {
            return Err(TrustError::Tag(TagError::OtherCommit(
                self.target.to_string(),
            )));
        }
        keys.verify(self.signature.as_deref(), &self.payload, self.time)
            .map_err(|error| TrustError::Signature(VerifiedObject::Tag, error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::allowed_keys::tests::Owner;
    use super::*;

    const COMMIT: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    const TAG: &str = "object 4b825dc642cb6eb9a060e54bf8d69288fbee4904\ntype commit\ntag v1\n\
                       tagger Ada <ada@x> 1790000000 +0000\n\nWords\n";

    fn ada() -> Owner {
        Owner::new(1)
    }

    fn signed(payload: &str) -> Vec<u8> {
        [
            payload.as_bytes(),
            &ada().document(payload.as_bytes(), &[], &[]),
        ]
        .concat()
    }

    fn verify(tag: &[u8]) -> Result<(), TrustError> {
        let keys = TrustedKeys {
            signers: None,
            keys: Some(ada().allowed()),
        };
        let commit = ObjectId::from_hex(COMMIT.as_bytes()).unwrap();
        SignedTag::parse(tag)?.verify("v1", commit, &keys)
    }

    #[test]
    fn a_signed_tag_counts_under_its_name_and_for_its_commit() {
        assert_eq!(verify(&signed(TAG)), Ok(()));
        let parsed = SignedTag::parse(&signed(TAG)).unwrap();
        assert_eq!(parsed.payload(), TAG.as_bytes());
        let of = |error| Err(TrustError::Signature(VerifiedObject::Tag, error));
        assert_eq!(verify(TAG.as_bytes()), of(SignatureError::Missing));
        let changed = [
            TAG.replace("Words", "words").as_bytes(),
            &signed(TAG)[TAG.len()..],
        ]
        .concat();
        assert_eq!(verify(&changed), of(SignatureError::Forged));
        let after = [&signed(TAG)[..], b"more\n"].concat();
        assert!(matches!(
            verify(&after),
            Err(TrustError::Signature(_, SignatureError::Malformed(_)))
        ));
        // The last signature counts, and covers the one before it.
        let quoted = String::from_utf8(signed(TAG)).unwrap();
        assert_eq!(verify(&signed(&quoted)), Ok(()));
        let renamed = signed(&TAG.replace("tag v1", "tag v0"));
        assert_eq!(
            verify(&renamed),
            Err(TrustError::Tag(TagError::OtherName("v0".to_owned())))
        );
        let other = "5b825dc642cb6eb9a060e54bf8d69288fbee4904";
        assert_eq!(
            verify(&signed(&TAG.replace(COMMIT, other))),
            Err(TrustError::Tag(TagError::OtherCommit(other.to_owned())))
        );
    }

    #[test]
    fn only_a_tag_of_a_commit_in_the_form_of_git_counts() {
        for kind in ["tag", "tree", "blob"] {
            let tag = signed(&TAG.replace("type commit", &format!("type {kind}")));
            assert_eq!(verify(&tag), Err(TrustError::Tag(TagError::NotOfACommit)));
        }
        for (from, to) in [
            ("object ", "object 4b"),
            ("type commit\n", ""),
            ("tag v1\n", "tag v1\ntag v1\n"),
            ("tag v1\n", "tag v0\ntag v1\n"),
            ("tagger Ada <ada@x> 1790000000 +0000\n", ""),
            ("tagger Ada", "gpgsig-sha256 Ada"),
            ("+0000\n", "+0000\ngpgsig-sha256 text\n"),
            (
                "+0000\n",
                "+0000\nobject 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n",
            ),
            ("1790000000 +0000", "soon"),
        ] {
            let changed = TAG.replacen(from, to, 1);
            let why = match to {
                "soon" => "it has no time",
                _ if from == "object " => "it is not an annotated tag",
                _ => "it has other fields than git writes",
            };
            assert_eq!(
                verify(&signed(&changed)),
                Err(TrustError::Tag(TagError::Malformed(why))),
                "{changed}"
            );
        }
        let mut long = format!("{TAG}{}", "a".repeat(MAX_TAG - TAG.len()));
        assert!(SignedTag::parse(long.as_bytes()).is_ok());
        long.push('a');
        assert!(SignedTag::parse(long.as_bytes()).is_err());
        let first = "-----BEGIN PGP SIGNATURE-----\n";
        let mut long = format!("{TAG}{first}{}", "a".repeat(MAX_SIGNATURE - first.len()));
        assert!(SignedTag::parse(long.as_bytes()).is_ok());
        long.push('a');
        assert!(matches!(
            SignedTag::parse(long.as_bytes()),
            Err(TrustError::Signature(_, SignatureError::Malformed(_)))
        ));
        for form in ["PGP MESSAGE", "SIGNED MESSAGE"] {
            let tag = format!("{TAG}-----BEGIN {form}-----\n");
            assert_eq!(
                verify(tag.as_bytes()),
                Err(TrustError::Signature(
                    VerifiedObject::Tag,
                    SignatureError::OtherKind
                ))
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = verify(&bytes);
            let _ = verify(&[TAG.as_bytes(), &bytes].concat());
        }

        #[test]
        fn one_changed_byte_invalidates_what_is_signed(at in 0..TAG.len(), to in proptest::num::u8::ANY) {
            let mut tag = signed(TAG);
            let same = tag[at] == to;
            tag[at] = to;
            proptest::prop_assert_eq!(verify(&tag).is_ok(), same);
        }
    }
}
