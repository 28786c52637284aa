//! Keys and signatures by gpg (tests/fixtures/openpgp), by rPGP (version 6), and by a builder of packets.

use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

macro_rules! fixture {
    ($name:expr) => {
        include_bytes!(concat!("../../../../tests/fixtures/openpgp/", $name))
    };
}

const PAYLOAD: &[u8] = fixture!("payload");
const RSA: (&[u8], &[u8]) = (fixture!("rsa.asc"), fixture!("rsa.sig"));
const RSA384: (&[u8], &[u8]) = (fixture!("rsa384.asc"), fixture!("rsa384.sig"));
const ED25519: (&[u8], &[u8]) = (fixture!("ed25519.asc"), fixture!("ed25519.sig"));
const P256: (&[u8], &[u8]) = (fixture!("p256.asc"), fixture!("p256.sig"));
const P384: (&[u8], &[u8]) = (fixture!("p384.asc"), fixture!("p384.sig"));
const SUBKEY: (&[u8], &[u8]) = (fixture!("subkey.asc"), fixture!("subkey.sig"));
/// Made by rPGP: an Ed25519 key of version 6, whose subkey signs.
const V6: (&[u8], &[u8]) = (fixture!("v6.asc"), fixture!("v6.sig"));
const ALL: [(&[u8], &[u8]); 7] = [RSA, RSA384, ED25519, P256, P384, SUBKEY, V6];

fn keys(file: &[u8]) -> AllowedKeys {
    AllowedKeys::parse(file).unwrap()
}

fn verify(keys_file: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    keys(keys_file).verify(signature, PAYLOAD)
}

/// Why the file of keys is invalid.
fn problem(file: &[u8]) -> String {
    AllowedKeys::parse(file).unwrap_err().to_string()
}

/// The reason why a known key is refused.
fn refused(result: Result<(), SignatureError>) -> String {
    match result {
        Err(SignatureError::KeyRefused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn decode(text: &[u8], label: &str) -> Vec<u8> {
    read_armor(text, label).unwrap().concat()
}

fn armor(bytes: &[u8], label: &str) -> Vec<u8> {
    use base64::Engine as _;
    let code = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!("-----BEGIN {label}-----\n\n{code}\n-----END {label}-----\n").into_bytes()
}

fn packet(packet_type: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0xC0 | packet_type, 0xFF], &length[..], body].concat()
}

fn subpacket(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
    [&[0xFF], &length[..], &[kind], body].concat()
}

/// An Ed25519 key of version 4.
pub(crate) struct Owner {
    pair: Ed25519KeyPair,
    body: Vec<u8>,
}

const CREATED: u32 = 1_000;
const SIGNED: u32 = 5_000;

impl Owner {
    pub(crate) fn new(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let body = [
            &[4][..],
            &CREATED.to_be_bytes(),
            &[22, 9, 0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01],
            &[1, 7, 0x40],
            pair.public_key().as_ref(),
        ]
        .concat();
        Self { pair, body }
    }

    fn key(&self) -> Key {
        Key::parse(&self.body).unwrap()
    }

    fn issuer(&self) -> Vec<u8> {
        let body = self.key().covered().to_vec();
        let hash = &ring::digest::SHA1_FOR_LEGACY_USE_ONLY;
        let fingerprint = ring::digest::digest(hash, &body);
        subpacket(33, &[&[4], fingerprint.as_ref()].concat())
    }

    /// The body of a signature packet that names this key as its issuer.
    fn sign(
        &self,
        kind: u8,
        time: u32,
        more: &[Vec<u8>],
        unhashed: &[u8],
        data: &[&[u8]],
    ) -> Vec<u8> {
        self.sign_as(&self.issuer(), 8, kind, time, more, unhashed, data)
    }

    #[allow(clippy::too_many_arguments)]
    fn sign_as(
        &self,
        issuer: &[u8],
        hash: u8,
        kind: u8,
        time: u32,
        more: &[Vec<u8>],
        unhashed: &[u8],
        data: &[&[u8]],
    ) -> Vec<u8> {
        let hashed = [&subpacket(2, &time.to_be_bytes()), issuer, &more.concat()].concat();
        let length = |area: &[u8]| u16::try_from(area.len()).unwrap().to_be_bytes();
        let covered = [&[4, kind, 22, hash], &length(&hashed)[..], &hashed].concat();
        let end = u32::try_from(covered.len()).unwrap().to_be_bytes();
        let message = [&data.concat(), &covered, &[4, 0xFF][..], &end].concat();
        let algorithm = match hash {
            2 => &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
            _ => &ring::digest::SHA256,
        };
        let digest = ring::digest::digest(algorithm, &message);
        let signature = self.pair.sign(digest.as_ref());
        let number = |bytes: &[u8]| {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let bytes = &bytes[zeros..];
            let bits = bytes.len() * 8 - bytes[0].leading_zeros() as usize;
            [&u16::try_from(bits).unwrap().to_be_bytes()[..], bytes].concat()
        };
        let (r, s) = signature.as_ref().split_at(32);
        [
            &covered,
            &length(unhashed)[..],
            unhashed,
            &digest.as_ref()[..2],
            &number(r),
            &number(s),
        ]
        .concat()
    }

    /// The text of a signature of a file.
    pub(crate) fn document(&self, file: &[u8], more: &[Vec<u8>], unhashed: &[u8]) -> Vec<u8> {
        let body = self.sign(kind::DOCUMENT, SIGNED, more, unhashed, &[file]);
        armor(&packet(packet_type::SIGNATURE, &body), "PGP SIGNATURE")
    }

    pub(crate) fn allowed(&self) -> AllowedKeys {
        keys(&self.plain_certificate())
    }

    /// A certification of a user ID by this key.
    fn certification(&self, time: u32, more: &[Vec<u8>]) -> Vec<u8> {
        let length = 3_u32.to_be_bytes();
        let data = [self.key().covered(), &[0xB4], &length, b"Ada"].concat();
        packet(
            packet_type::SIGNATURE,
            &self.sign(0x13, time, more, &[], &[&data]),
        )
    }

    /// A certificate whose user ID has these signatures.
    fn certificate(&self, direct: &[Vec<u8>], signatures: &[Vec<u8>]) -> Vec<u8> {
        let key = packet(packet_type::PUBLIC_KEY, &self.body);
        let user_id = packet(packet_type::USER_ID, b"Ada");
        [key, direct.concat(), user_id, signatures.concat()].concat()
    }

    fn plain_certificate(&self) -> Vec<u8> {
        self.certificate(&[], &[self.certification(CREATED, &[flags(3)])])
    }

    /// The subkey with its binding to this key.
    fn with_subkey(&self, subkey: &Self, binding: &[u8]) -> Vec<u8> {
        let own = self.certificate(&[], &[self.certification(CREATED, &[flags(1)])]);
        let key = packet(packet_type::PUBLIC_SUBKEY, &subkey.body);
        [own, key, packet(packet_type::SIGNATURE, binding)].concat()
    }
}

fn flags(flags: u8) -> Vec<u8> {
    subpacket(27, &[flags])
}

fn lifetime(seconds: u32) -> Vec<u8> {
    subpacket(9, &seconds.to_be_bytes())
}

#[test]
fn signatures_by_each_kind_of_key_count() {
    for (file, signature) in ALL {
        assert_eq!(verify(file, signature), Ok(()));
        let mut changed = PAYLOAD.to_vec();
        changed[7] ^= 1;
        assert_eq!(
            keys(file).verify(signature, &changed),
            Err(SignatureError::Forged)
        );
    }
}

#[test]
fn certificates_stand_one_after_another_as_text_or_as_packets() {
    let text = [b"# Ada's\n", RSA.0, b"\n# Bob's\n", P256.0, SUBKEY.0].concat();
    let binary: Vec<u8> = [RSA, P256, SUBKEY]
        .iter()
        .flat_map(|(file, _)| decode(file, "PGP PUBLIC KEY BLOCK"))
        .collect();
    let one_block = armor(&binary, "PGP PUBLIC KEY BLOCK");
    for file in [text, binary, one_block] {
        for signature in [RSA.1, P256.1, SUBKEY.1] {
            assert_eq!(verify(&file, signature), Ok(()));
        }
        assert!(matches!(
            verify(&file, ED25519.1),
            Err(SignatureError::UnknownKey(key)) if key.len() == 40
        ));
    }
}

#[test]
fn an_expired_key_counts_until_its_end() {
    let expired = fixture!("expired.asc");
    assert_eq!(verify(expired, fixture!("early.sig")), Ok(()));
    let late = refused(verify(expired, fixture!("expired.sig")));
    assert_eq!(late, "was expired at the time of the signature");
}

#[test]
fn a_revoked_key_counts_before_only_if_it_was_not_compromised() {
    let superseded = fixture!("superseded.asc");
    assert_eq!(verify(superseded, fixture!("superseded.sig")), Ok(()));
    let late = refused(verify(superseded, fixture!("superseded-late.sig")));
    assert_eq!(late, "was revoked at the time of the signature");
    let compromised = fixture!("compromised.asc");
    for signature in [
        &fixture!("compromised.sig")[..],
        fixture!("compromised-late.sig"),
    ] {
        assert_eq!(refused(verify(compromised, signature)), "is revoked");
    }
    let ada = Owner::new(1);
    let revoked = |reasons: &[Vec<u8>]| {
        let body = ada.sign(
            kind::KEY_REVOCATION,
            9_000,
            reasons,
            &[],
            &[ada.key().covered()],
        );
        let certification = ada.certification(CREATED, &[flags(3)]);
        let file = ada.certificate(&[packet(packet_type::SIGNATURE, &body)], &[certification]);
        verify(&file, &ada.document(PAYLOAD, &[], &[]))
    };
    assert_eq!(revoked(&[subpacket(29, &[3])]), Ok(()));
    assert_eq!(refused(revoked(&[subpacket(29, &[0])])), "is revoked");
    assert_eq!(refused(revoked(&[])), "is revoked");
    // The earliest of several decides.
    let twice = |times: [u32; 2]| {
        let revocations = times.map(|time| {
            let body = ada.sign(
                kind::KEY_REVOCATION,
                time,
                &[subpacket(29, &[3])],
                &[],
                &[ada.key().covered()],
            );
            packet(packet_type::SIGNATURE, &body)
        });
        let file = ada.certificate(&revocations, &[ada.certification(CREATED, &[flags(3)])]);
        verify(&file, &ada.document(PAYLOAD, &[], &[]))
    };
    assert_eq!(twice([9_000, SIGNED + 1]), Ok(()));
    assert_eq!(
        refused(twice([9_000, SIGNED])),
        "was revoked at the time of the signature"
    );
}

#[test]
fn a_revocation_that_cannot_be_checked_makes_the_file_invalid() {
    let (ada, mallory) = (Owner::new(1), Owner::new(2));
    let certification = ada.certification(CREATED, &[flags(3)]);
    for by in [&ada, &mallory] {
        let body = by.sign(kind::KEY_REVOCATION, 9_000, &[], &[], &[b"something else"]);
        let file = ada.certificate(
            &[packet(packet_type::SIGNATURE, &body)],
            std::slice::from_ref(&certification),
        );
        let problem = problem(&file);
        assert!(
            problem.ends_with("a revocation of one of its keys is wrong"),
            "{problem}"
        );
        assert!(problem.contains(&format!("certificate 1 ({})", ada.key().fingerprint())));
    }
}

#[test]
fn a_revocation_counts_wherever_it_stands_in_the_certificate() {
    let (ada, sub, second) = (Owner::new(1), Owner::new(2), Owner::new(3));
    let revoke = |kind, reason: u8, data: &[&[u8]]| {
        let body = ada.sign(kind, 9_000, &[subpacket(29, &[reason])], &[], data);
        packet(packet_type::SIGNATURE, &body)
    };
    let subkey = |owner: &Owner| {
        let covers = [ada.key().covered(), owner.key().covered()].concat();
        let back = owner.sign(kind::PRIMARY_KEY_BINDING, CREATED, &[], &[], &[&covers]);
        let back = subpacket(32, &back);
        let more = [flags(2)];
        let binding = ada.sign(kind::SUBKEY_BINDING, CREATED, &more, &back, &[&covers]);
        [
            packet(packet_type::PUBLIC_SUBKEY, &owner.body),
            packet(packet_type::SIGNATURE, &binding),
        ]
        .concat()
    };
    let parts = [
        packet(packet_type::PUBLIC_KEY, &ada.body),
        [
            packet(packet_type::USER_ID, b"Ada"),
            ada.certification(CREATED, &[flags(3)]),
        ]
        .concat(),
        packet(packet_type::USER_ATTRIBUTE, &[1]),
        subkey(&sub),
        subkey(&second),
    ];
    let with = |revocation: &[u8], after: usize| -> Vec<u8> {
        let parts = parts.iter().enumerate();
        parts
            .flat_map(|(at, part)| [&part[..], if at == after { revocation } else { &[] }])
            .collect::<Vec<_>>()
            .concat()
    };
    let check = |file: &[u8], by: &Owner| verify(file, &by.document(PAYLOAD, &[], &[]));
    let covers = [ada.key().covered(), sub.key().covered()].concat();
    let of_subkey = [&covers[..]];
    for after in 0..parts.len() {
        let revoked = with(
            &revoke(kind::KEY_REVOCATION, 2, &[ada.key().covered()]),
            after,
        );
        for by in [&ada, &sub, &second] {
            assert_eq!(refused(check(&revoked, by)), "is revoked", "{after}");
        }
        let revoked = with(&revoke(kind::SUBKEY_REVOCATION, 2, &of_subkey), after);
        assert_eq!(refused(check(&revoked, &sub)), "is revoked", "{after}");
        assert_eq!(check(&revoked, &ada), Ok(()), "{after}");
        assert_eq!(check(&revoked, &second), Ok(()), "{after}");
        // The strictest of several decides.
        let both = [
            revoke(kind::SUBKEY_REVOCATION, 2, &of_subkey),
            revoke(kind::SUBKEY_REVOCATION, 1, &of_subkey),
        ];
        assert_eq!(
            refused(check(&with(&both.concat(), after), &sub)),
            "is revoked"
        );
        let wrong = "a revocation of one of its keys is wrong";
        for kind in [kind::KEY_REVOCATION, kind::SUBKEY_REVOCATION] {
            let problem = problem(&with(&revoke(kind, 2, &[b"something else"]), after));
            assert!(problem.ends_with(wrong), "{after}: {problem}");
        }
        // An old form (version 3) and one without a time.
        for unreadable in [
            &[3, 5, kind::KEY_REVOCATION][..],
            &[3, 5, kind::SUBKEY_REVOCATION],
            &[4, kind::KEY_REVOCATION, 22, 8, 0, 0, 0, 0, 0, 0],
        ] {
            let unreadable = packet(packet_type::SIGNATURE, unreadable);
            let problem = problem(&with(&unreadable, after));
            assert!(problem.contains("cannot be read"), "{after}: {problem}");
        }
    }
}

#[test]
fn a_key_occurs_only_once_in_the_file() {
    let (ada, bob, sub) = (Owner::new(1), Owner::new(2), Owner::new(3));
    let file = |owner: &Owner| {
        let covers = [owner.key().covered(), sub.key().covered()].concat();
        let back = sub.sign(kind::PRIMARY_KEY_BINDING, CREATED, &[], &[], &[&covers]);
        let back = subpacket(32, &back);
        let more = [flags(2)];
        let binding = owner.sign(kind::SUBKEY_BINDING, CREATED, &more, &back, &[&covers]);
        owner.with_subkey(&sub, &binding)
    };
    let again = packet(packet_type::PUBLIC_SUBKEY, &sub.body);
    let (of_ada, of_bob) = (file(&ada), file(&bob));
    let own = packet(packet_type::PUBLIC_SUBKEY, &ada.body);
    for (bytes, number, key) in [
        ([&of_ada[..], &again].concat(), 1, &sub),
        ([&of_ada[..], &of_bob].concat(), 2, &sub),
        ([&of_ada[..], &sub.plain_certificate()].concat(), 2, &sub),
        ([&sub.plain_certificate()[..], &of_ada].concat(), 2, &sub),
        ([&of_ada[..], &own].concat(), 1, &ada),
    ] {
        let problem = problem(&bytes);
        assert!(
            problem.starts_with(&format!("certificate {number} ("))
                && problem.ends_with(&format!("duplicate key {}", key.key().fingerprint())),
            "{problem}"
        );
    }
    let twice = problem(&[&of_ada[..], &of_ada].concat());
    assert!(twice.ends_with("duplicate certificate"), "{twice}");
    let many = |count: usize| {
        let subkeys = (0..count).flat_map(|at| {
            let mut body = sub.body.clone();
            body[1..5].copy_from_slice(&u32::try_from(at).unwrap().to_be_bytes());
            packet(packet_type::PUBLIC_SUBKEY, &body)
        });
        [ada.plain_certificate(), subkeys.collect()].concat()
    };
    assert_eq!(keys(&many(MAX_SUBKEYS)).0.len(), 1);
    let problem = problem(&many(MAX_SUBKEYS + 1));
    assert!(
        problem.ends_with("it has more than 256 subkeys"),
        "{problem}"
    );
}

#[test]
fn weak_hashes_and_weak_and_unknown_keys_are_refused() {
    assert_eq!(
        verify(RSA.0, fixture!("sha1.sig")),
        Err(SignatureError::WeakHash("SHA-1"))
    );
    let ada = Owner::new(1);
    for (hash, error) in [
        (1, SignatureError::WeakHash("MD5")),
        (2, SignatureError::WeakHash("SHA-1")),
        (3, SignatureError::WeakHash("RIPEMD-160")),
        (11, SignatureError::Unsupported("the hash SHA-224")),
        (
            12,
            SignatureError::Unsupported("a hash of the family SHA-3"),
        ),
        (
            14,
            SignatureError::Unsupported("a hash of the family SHA-3"),
        ),
        (13, SignatureError::Unsupported("an unknown hash")),
    ] {
        let body = ada.sign_as(
            &ada.issuer(),
            hash,
            kind::DOCUMENT,
            SIGNED,
            &[],
            &[],
            &[PAYLOAD],
        );
        let text = armor(&packet(packet_type::SIGNATURE, &body), "PGP SIGNATURE");
        assert_eq!(verify(&ada.plain_certificate(), &text), Err(error));
    }
    for (file, why) in [
        (
            &fixture!("sha1.asc")[..],
            "its newest self-signature uses SHA-1, which is broken",
        ),
        (
            fixture!("weak.asc"),
            "its primary key is an RSA key of less than 2048 bits",
        ),
        (fixture!("dsa.asc"), "its primary key is a DSA key"),
        (
            fixture!("p521.asc"),
            "its primary key is a key on another curve",
        ),
    ] {
        let problem = problem(file);
        assert!(problem.starts_with("certificate 1 ("), "{problem}");
        assert!(problem.contains(why), "{problem}");
    }
}

#[test]
fn the_newest_self_signature_decides() {
    let ada = Owner::new(1);
    let file = |direct: &[Vec<u8>], signatures: &[(u32, &[Vec<u8>])]| {
        let signatures: Vec<_> = signatures
            .iter()
            .map(|(time, more)| ada.certification(*time, more))
            .collect();
        ada.certificate(direct, &signatures)
    };
    let direct = |more: &[Vec<u8>]| {
        packet(
            packet_type::SIGNATURE,
            &ada.sign(kind::DIRECT_KEY, CREATED, more, &[], &[ada.key().covered()]),
        )
    };
    let check = |file: Vec<u8>| verify(&file, &ada.document(PAYLOAD, &[], &[]));
    let (short, long) = (&[flags(3), lifetime(3_000)][..], &[flags(3)][..]);
    assert_eq!(check(file(&[], &[(2_000, short), (3_000, long)])), Ok(()));
    assert_eq!(check(file(&[], &[(3_000, long), (2_000, short)])), Ok(()));
    let expired = "was expired at the time of the signature";
    assert_eq!(
        refused(check(file(&[], &[(3_000, short), (2_000, long)]))),
        expired
    );
    // The life ends with its last second.
    let life = |seconds| check(file(&[], &[(CREATED, &[flags(3), lifetime(seconds)][..])]));
    assert_eq!(life(SIGNED - CREATED + 1), Ok(()));
    assert_eq!(refused(life(SIGNED - CREATED)), expired);
    assert_eq!(life(0), Ok(()));
    // A signature of the key alone and one of a user ID hold both.
    let both = file(&[direct(&[lifetime(3_000)])], &[(3_000, long)]);
    assert_eq!(refused(check(both)), expired);
    assert_eq!(check(file(&[direct(long)], &[(3_000, &[])])), Ok(()));
    let forbidden = problem(&file(&[direct(&[flags(1)])], &[(3_000, &[])]));
    assert!(forbidden.contains("no key that may sign"), "{forbidden}");
    assert!(problem(&file(&[], &[(1_000, &[flags(0x0C)])])).contains("no key that may sign"));
    let stricter = file(&[direct(&[flags(1)])], &[(3_000, long)]);
    assert!(problem(&stricter).contains("no key that may sign"));
    // A signature of a user ID that is no certification.
    let other = {
        let key = ada.key();
        let length = 3_u32.to_be_bytes();
        let data = [key.covered(), &[0xB4], &length, b"Ada"];
        let body = ada.sign(0x30, 4_000, &[lifetime(1)], &[], &data);
        packet(packet_type::SIGNATURE, &body)
    };
    let with_other = ada.certificate(&[], &[ada.certification(3_000, long), other]);
    assert_eq!(check(with_other), Ok(()));
    // Without any flags, a key of version 4 may sign.
    assert_eq!(check(file(&[], &[(CREATED, &[])])), Ok(()));
    let unsigned = problem(&ada.certificate(&[], &[]));
    assert!(
        unsigned.contains("its primary key did not sign it"),
        "{unsigned}"
    );
    let by_another = Owner::new(2).certification(CREATED, &[flags(3)]);
    assert!(problem(&ada.certificate(&[], &[by_another])).contains("did not sign it"));
    let broken = [ada.certification(2_000, long), {
        let body = ada.sign(0x13, 3_000, long, &[], &[b"another user"]);
        packet(packet_type::SIGNATURE, &body)
    }];
    assert!(
        problem(&ada.certificate(&[], &broken)).ends_with("its newest self-signature is wrong")
    );
    let expiring = file(&[], &[(CREATED, &[flags(3), subpacket(3, &[0, 0, 0, 9])])]);
    assert!(problem(&expiring).contains("expires, which is not supported"));
    let condition = file(&[], &[(CREATED, &[flags(3), subpacket(0x80 | 99, &[])])]);
    assert!(problem(&condition).contains("a condition that is not known here"));
}

#[test]
fn a_subkey_signs_only_if_both_keys_say_so() {
    let (ada, sub, other) = (Owner::new(1), Owner::new(2), Owner::new(3));
    let covers = [ada.key().covered(), sub.key().covered()].concat();
    let back = |by: &Owner, kind| by.sign(kind, CREATED, &[], &[], &[&covers]);
    let bind = |by: &Owner, more: &[Vec<u8>], back: &[u8]| {
        let back = subpacket(32, back);
        by.sign(kind::SUBKEY_BINDING, CREATED, more, &back, &[&covers])
    };
    let good_back = back(&sub, kind::PRIMARY_KEY_BINDING);
    let check = |binding: &[u8]| {
        verify(
            &ada.with_subkey(&sub, binding),
            &sub.document(PAYLOAD, &[], &[]),
        )
    };
    // Only the primary key certifies here, so a file without a usable subkey is invalid.
    let bad = |binding: &[u8]| problem(&ada.with_subkey(&sub, binding));
    assert_eq!(check(&bind(&ada, &[flags(2)], &good_back)), Ok(()));
    let none = "no key that may sign";
    assert!(bad(&bind(&ada, &[flags(0x0C)], &good_back)).contains(none));
    assert!(bad(&bind(&ada, &[], &good_back)).contains(none));
    assert!(bad(&bind(&other, &[flags(2)], &good_back)).contains(none));
    for wrong in [
        back(&other, kind::PRIMARY_KEY_BINDING),
        back(&sub, kind::SUBKEY_BINDING),
        Vec::new(),
    ] {
        assert!(bad(&bind(&ada, &[flags(2)], &wrong)).contains(none));
    }
    let as_ada = other.sign_as(
        &ada.issuer(),
        8,
        kind::SUBKEY_BINDING,
        CREATED,
        &[flags(2)],
        &subpacket(32, &good_back),
        &[&covers],
    );
    let wrong = bad(&as_ada);
    assert!(
        wrong.contains(&sub.key().fingerprint()) && wrong.ends_with("is wrong"),
        "{wrong}"
    );
    let expires = bind(&ada, &[flags(2), lifetime(3_000)], &good_back);
    assert!(refused(check(&expires)).starts_with("was expired"));
    // A revoked subkey, and a subkey of a revoked key.
    let good = ada.with_subkey(&sub, &bind(&ada, &[flags(2)], &good_back));
    let revocation = ada.sign(kind::SUBKEY_REVOCATION, 9_000, &[], &[], &[&covers]);
    let revoked = [good.clone(), packet(packet_type::SIGNATURE, &revocation)].concat();
    assert_eq!(
        refused(verify(&revoked, &sub.document(PAYLOAD, &[], &[]))),
        "is revoked"
    );
    let revocation = ada.sign(
        kind::KEY_REVOCATION,
        9_000,
        &[],
        &[],
        &[ada.key().covered()],
    );
    let at = packet(packet_type::PUBLIC_KEY, &ada.body).len();
    let (key, rest) = good.split_at(at);
    let revoked = [key, &packet(packet_type::SIGNATURE, &revocation), rest].concat();
    assert_eq!(
        refused(verify(&revoked, &sub.document(PAYLOAD, &[], &[]))),
        "is revoked"
    );
    // The primary key of this certificate may not sign.
    assert_eq!(
        refused(verify(&good, &ada.document(PAYLOAD, &[], &[]))),
        NOT_FOR_SIGNATURES
    );
}

#[test]
fn only_one_signature_of_a_file_without_conditions_counts() {
    let ada = Owner::new(1);
    let file = ada.plain_certificate();
    let check = |text: &[u8]| verify(&file, text);
    assert_eq!(check(&ada.document(PAYLOAD, &[], &[])), Ok(()));
    let malformed = |text: &[u8], why: &str| {
        let result = check(text);
        assert!(
            matches!(result, Err(SignatureError::Malformed(message)) if message.contains(why)),
            "{why}: {result:?}"
        );
    };
    assert_eq!(
        verify(RSA.0, fixture!("text.sig")),
        Err(SignatureError::Malformed("it is not a signature of a file"))
    );
    assert_eq!(
        check(&ada.document(PAYLOAD, &[subpacket(3, &[0, 0, 0, 9])], &[])),
        Err(SignatureError::Unsupported("it expires"))
    );
    assert_eq!(
        check(&ada.document(PAYLOAD, &[subpacket(0x80 | 20, &[])], &[])),
        Err(SignatureError::Unsupported(
            "a condition that is not known here"
        ))
    );
    assert_eq!(
        check(&ada.document(PAYLOAD, &[subpacket(20, &[])], &[])),
        Ok(())
    );
    // A critical preference is understood: it says nothing about this signature.
    let preference = [subpacket(0x80 | 21, &[8])];
    assert_eq!(check(&ada.document(PAYLOAD, &preference, &[])), Ok(()));
    // The time is four bytes, and only a subkey has a back signature.
    for more in [subpacket(2, &[0; 5]), subpacket(32, &[])] {
        malformed(&ada.document(PAYLOAD, &[more], &[]), "contains too much");
    }
    malformed(
        &ada.document(PAYLOAD, &[], &subpacket(32, &[])),
        "contains too much",
    );
    // An unsigned note, or an unsigned issuer that is another key.
    malformed(
        &ada.document(PAYLOAD, &[], &subpacket(20, &[])),
        "contains too much",
    );
    assert!(matches!(
        check(&ada.document(PAYLOAD, &[], &Owner::new(2).issuer())),
        Err(SignatureError::UnknownKey(_))
    ));
    let before_the_key = ada.sign(kind::DOCUMENT, CREATED - 1, &[], &[], &[PAYLOAD]);
    let before_the_key = armor(
        &packet(packet_type::SIGNATURE, &before_the_key),
        "PGP SIGNATURE",
    );
    assert!(refused(check(&before_the_key)).starts_with("did not exist"));
    let no_issuer = ada.sign_as(&[], 8, kind::DOCUMENT, SIGNED, &[], &[], &[PAYLOAD]);
    let signature = |bytes: &[u8]| armor(bytes, "PGP SIGNATURE");
    malformed(
        &signature(&packet(packet_type::SIGNATURE, &no_issuer)),
        "which key made it",
    );

    let good = decode(&ada.document(PAYLOAD, &[], &[]), "PGP SIGNATURE");
    let body = &good[6..];
    malformed(&signature(&[&good[..], &good].concat()), "not a single");
    malformed(
        &[
            ada.document(PAYLOAD, &[], &[]),
            ada.document(PAYLOAD, &[], &[]),
        ]
        .concat(),
        "several",
    );
    malformed(&signature(&packet(8, &good)), "not a single");
    malformed(&signature(&[]), "not a single");
    malformed(
        &signature(&packet(packet_type::SIGNATURE, &[3])),
        "a version other than",
    );
    // Lengths that are larger than the packet, that come in parts, and that are not stated.
    malformed(
        &signature(&[&[0xC2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], body].concat()),
        "cut off",
    );
    malformed(&signature(&[&[0xC2, 0xE1], body].concat()), "cut off");
    malformed(&signature(&[&[0x8B], body].concat()), "cut off");
    malformed(&signature(&good[..good.len() - 1]), "cut off");
    let mut huge_area = body.to_vec();
    huge_area[4] = 0xFF;
    malformed(
        &signature(&packet(packet_type::SIGNATURE, &huge_area)),
        "incomplete",
    );
}

#[test]
fn a_file_that_is_no_keyring_is_invalid_as_a_whole() {
    let private = armor(
        &packet(packet_type::SECRET_KEY, &[]),
        "PGP PRIVATE KEY BLOCK",
    );
    assert!(problem(&private).contains("private key"));
    assert!(problem(&packet(packet_type::SECRET_KEY, &[])).contains("private key"));
    let cut = &RSA.0[..RSA.0.len() / 2];
    assert!(problem(&[ED25519.0, cut].concat()).contains("cut off"));
    assert!(problem(&[ED25519.0, b"text\n"].concat()).contains("other text"));
    let ada = Owner::new(1).plain_certificate();
    let twice = problem(&[ada.clone(), ada.clone()].concat());
    assert!(
        twice.starts_with("certificate 2 (") && twice.ends_with("duplicate certificate"),
        "{twice}"
    );
    let broken = [Owner::new(2).plain_certificate(), packet(9, b"")].concat();
    let label = "PGP PUBLIC KEY BLOCK";
    for file in [
        [&ada[..], &broken].concat(),
        [ED25519.0, &armor(&broken, label)].concat(),
    ] {
        let problem = problem(&file);
        assert!(problem.starts_with("certificate 2 ("), "{problem}");
    }
    assert!(
        problem(&packet(packet_type::USER_ID, b"Ada")).contains("does not begin with a public key")
    );
    assert!(problem(&packet(9, b"")).contains("does not begin with a public key"));
    assert!(problem(&[ada.clone(), packet(9, b"")].concat()).contains("does not belong"));
    let named = |length| {
        let id = packet(packet_type::USER_ID, &vec![b'a'; length]);
        [ada.clone(), id].concat()
    };
    assert_eq!(keys(&named(MAX_USER_ID)).0.len(), 1);
    assert!(problem(&named(MAX_USER_ID + 1)).contains("2 KiB"));
    assert!(
        problem(&[ada.clone(), packet(packet_type::PUBLIC_SUBKEY, &[4; 5_000])].concat())
            .contains("4 KiB")
    );
    assert!(
        problem(&packet(packet_type::PUBLIC_KEY, &[3, 0, 0, 0, 0, 1])).contains("a version other")
    );
    assert_eq!(keys(b"# nothing\n"), AllowedKeys(Vec::new()));
    // What others add to a user ID does not count.
    let odd = packet(packet_type::SIGNATURE, &[3, 5, 0x10]);
    let photo = packet(packet_type::USER_ATTRIBUTE, &[1]);
    let trust = packet(packet_type::TRUST, &[1]);
    let with_additions = [&ada[..], &odd, &trust, &photo, &odd].concat();
    assert_eq!(
        verify(&with_additions, &Owner::new(1).document(PAYLOAD, &[], &[])),
        Ok(())
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), label in "PGP (SIGNATURE|PUBLIC KEY BLOCK)") {
        let _ = AllowedKeys::parse(&bytes);
        let _ = AllowedKeys::parse(&armor(&bytes, &label));
        let _ = keys(ED25519.0).verify(&bytes, PAYLOAD);
        let _ = keys(ED25519.0).verify(&armor(&bytes, &label), PAYLOAD);
        for packet_type in [packet_type::PUBLIC_KEY, packet_type::SIGNATURE] {
            let _ = AllowedKeys::parse(&packet(packet_type, &bytes));
            let _ = keys(ED25519.0).verify(&armor(&packet(packet_type, &bytes), "PGP SIGNATURE"), PAYLOAD);
        }
    }

    #[test]
    fn one_changed_byte_of_the_payload_or_the_signature_invalidates_it(which in 0..ALL.len(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let (file, text) = ALL[which];
        let mut payload = PAYLOAD.to_vec();
        let at_payload = at.index(payload.len());
        let same = payload[at_payload] == to;
        payload[at_payload] = to;
        prop_assert_eq!(keys(file).verify(text, &payload).is_ok(), same);

        let packets_of = decode(text, "PGP SIGNATURE");
        let mut body = packets(&packets_of).next().unwrap().unwrap().body.to_vec();
        let at = at.index(body.len());
        let same = body[at] == to;
        body[at] = to;
        let text = armor(&packet(packet_type::SIGNATURE, &body), "PGP SIGNATURE");
        prop_assert_eq!(keys(file).verify(&text, PAYLOAD).is_ok(), same, "byte {} as {}", at, to);
    }

    #[test]
    fn one_changed_byte_of_a_certificate_adds_no_key(which in 0..ALL.len(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let (file, _) = ALL[which];
        let good = keys(file);
        let mut bytes = decode(file, "PGP PUBLIC KEY BLOCK");
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(changed) = AllowedKeys::parse(&bytes) {
            for key in changed.0.iter().flat_map(Certificate::keys).filter(|key| key.barred.is_none()) {
                let is_known = good.0.iter().flat_map(Certificate::keys).any(|known| known.key == key.key);
                prop_assert!(is_known, "byte {} as {}", at, to);
            }
        }
    }
}
