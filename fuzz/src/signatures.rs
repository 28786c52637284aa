//! Signatures: whatever is done to an object, it is accepted only if its owner signed exactly these bytes.

use calry_gitops::desired::git::{SignedCommit, SignedTag, TrustedKeys};
use gix::ObjectId;

use super::sections::assert_printable;

/// The public keys whose private keys signed what is in the corpus. Those no longer exist.
const SIGNERS: &[u8] = include_bytes!("../keys/allowed_signers");
const KEYS: &[u8] = include_bytes!("../keys/allowed_keys.asc");
/// The only commit that they signed, and the only tags.
const COMMIT: &[u8] = include_bytes!("../keys/commit");
const TAGS: [(&str, &[u8]); 2] = [
    ("v1", include_bytes!("../keys/tag-v1")),
    ("v2", include_bytes!("../keys/tag-v2")),
];
const TAGGED: &str = "cc056dd7017d53c6ab4ea14e78cea6d94a401acc";

pub(crate) fn check(input: &[u8]) {
    let keys = TrustedKeys::parse(Some(SIGNERS), Some(KEYS)).expect("the keys");
    match SignedCommit::parse(input).and_then(|commit| commit.verify(&keys).map(|()| commit)) {
        Ok(commit) => assert_eq!(commit.payload(), COMMIT, "a forged commit is accepted"),
        Err(error) => assert_printable(&error.to_string()),
    }
    let tagged = ObjectId::from_hex(TAGGED.as_bytes()).expect("an id");
    for (name, payload) in TAGS {
        let tag = SignedTag::parse(input);
        match tag.and_then(|tag| tag.verify(name, tagged, &keys).map(|()| tag)) {
            Ok(tag) => assert_eq!(tag.payload(), payload, "a forged tag is accepted"),
            Err(error) => assert_printable(&error.to_string()),
        }
    }

    // Files of keys. Nothing of them is quoted: by mistake, one may hold a private key.
    let other_commit = [COMMIT, b"more"].concat();
    for parsed in [
        TrustedKeys::parse(Some(input), None),
        TrustedKeys::parse(None, Some(input)),
    ] {
        match parsed {
            Ok(keys) => {
                let unsigned = SignedCommit::parse(&other_commit).expect("a commit");
                assert!(unsigned.verify(&keys).is_err());
            }
            Err(why) => {
                assert_printable(&why);
                assert!(why.len() < 600, "{why}");
            }
        }
    }
}
