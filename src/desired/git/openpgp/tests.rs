use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

/// One packet of type 2 with this header before its body.
fn packet<'a>(header: &[u8], body: &'a [u8]) -> (Vec<u8>, Packet<'a>) {
    let packet = Packet {
        packet_type: 2,
        body,
    };
    ([header, body].concat(), packet)
}

#[test]
fn a_packet_has_the_length_that_its_form_states() {
    let body = vec![7; 70_000];
    let body = |length: usize| &body[..length];
    for (bytes, expected) in [
        packet(&[0x88, 0], body(0)),
        packet(&[0x88, 0xFF], body(0xFF)),
        packet(&[0x89, 1, 2], body(0x102)),
        packet(&[0x8A, 0, 1, 2, 3], body(0x1_0203)),
        packet(&[0xC2, 191], body(191)),
        packet(&[0xC2, 192, 0], body(192)),
        packet(&[0xC2, 194, 5], body(2 * 256 + 5 + 192)),
        packet(&[0xC2, 223, 0xFF], body(8383)),
        packet(&[0xC2, 0xFF, 0, 1, 2, 3], body(0x1_0203)),
    ] {
        let header = bytes.len() - expected.body.len();
        let followed = [&bytes[..], &[0xC2, 0]].concat();
        let found: Vec<_> = packets(&followed).collect();
        assert_eq!(found.len(), 2, "{:X?}", &bytes[..header]);
        assert!(found[0] == Ok(expected), "{:X?}", &bytes[..header]);
    }
    for (header, length) in [
        (&[191, 2][..], 191),
        (&[192, 0, 2], 192),
        (&[194, 5, 2], 2 * 256 + 5 + 192),
        (&[254, 0xFF, 2], 62 * 256 + 255 + 192),
        (&[0xFF, 0, 1, 2, 3, 2], 0x1_0203),
    ] {
        let area = [header, body(length - 1), &[1, 9]].concat();
        let found: Vec<_> = subpackets(&area).collect();
        assert_eq!(found.len(), 2, "{header:X?}");
        assert!(found[0] == Some((2, body(length - 1))), "{header:X?}");
        assert_eq!(found[1], Some((9, &[][..])));
    }
}

#[test]
fn a_number_has_as_many_bits_as_it_states() {
    for (bytes, number) in [
        (&[0, 0][..], Some(&[][..])),
        (&[0, 1, 1], Some(&[1])),
        (&[0, 9, 1, 0], Some(&[1, 0])),
        (&[0, 8, 1], None),
        (&[0, 9, 3, 0], None),
        (&[0, 9, 0, 1], None),
        (&[0, 8, 0], None),
        (&[0, 9, 1], None),
    ] {
        assert_eq!(Reader(bytes).number(), number, "{bytes:?}");
    }
}

#[test]
fn the_text_form_has_an_empty_line_and_at_most_a_checksum_after_its_code() {
    let read = |lines: &str| {
        read_armor(
            format!("-----BEGIN X-----\n{lines}-----END X-----\n").as_bytes(),
            "X",
        )
    };
    let block = Ok(vec![vec![0, 0, 0]]);
    assert_eq!(read("\nAAAA\n"), block);
    assert_eq!(read("Comment: a\nVersion: b\n\nAA\nAA\n=AAAA\n"), block);
    assert_eq!(
        read("AAAA\n\nAAAA\n"),
        Err("an empty line is missing after its first line")
    );
    assert_eq!(read("\nAAAA\n=AAAA\nAAAA\n"), Err("it is cut off"));
}

/// The body of a key of version 4.
fn key_body(algorithm: u8, material: &[u8]) -> Vec<u8> {
    [&[4, 0, 0, 0, 9, algorithm][..], material].concat()
}

#[test]
fn a_key_is_whole_and_of_a_kind_that_is_supported() {
    for (algorithm, kind) in [
        (2, "a key for encryption"),
        (16, "a key for encryption"),
        (17, "a DSA key"),
        (18, "a key for encryption"),
        (25, "a key for encryption"),
        (26, "a key for encryption"),
        (28, "an Ed448 key"),
        (99, "a key of an unknown kind"),
    ] {
        let key = Key::parse(&key_body(algorithm, &[1, 2, 3])).unwrap();
        assert_eq!(key.unsupported(), Some(kind));
    }
    let (good, long) = (key_body(27, &[7; 32]), key_body(27, &[7; 33]));
    assert_eq!(Key::parse(&good).unwrap().unsupported(), None);
    assert_eq!(Key::parse(&long), Err("a key cannot be read"));
    let largest = key_body(17, &[0; MAX_KEY - 6]);
    assert!(Key::parse(&largest).is_ok());
    assert_eq!(
        Key::parse(&[&largest[..], &[0]].concat()),
        Err("a key is larger than 4 KiB")
    );
    // Version 6 has no old form of Ed25519.
    let curve = [0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01];
    let material = [&[9][..], &curve, &[1, 7, 0x40], &[7; 32]].concat();
    let length = u32::try_from(material.len()).unwrap().to_be_bytes();
    let body = [&[6, 0, 0, 0, 9, 22][..], &length, &material].concat();
    assert!(Key::parse(&body).unwrap().unsupported().is_some());
    let old = Key::parse(&key_body(22, &material)).unwrap();
    assert_eq!(old.unsupported(), None);
}

/// A signature of `DATA` whose message has the parts that a key of the version signs.
fn sign(pair: &Ed25519KeyPair, version: u8, algorithm: u8, hash: u8, salt: &[u8]) -> Signature {
    let covered = vec![version, 0, algorithm, hash];
    let end = [version, 0xFF, 0, 0, 0, 4];
    let message = [salt, DATA, &covered, &end].concat();
    let digest = match hash {
        8 => digest(&digest::SHA256, &message),
        9 => digest(&digest::SHA384, &message),
        _ => digest(&digest::SHA512, &message),
    };
    Signature {
        version,
        kind: kind::DOCUMENT,
        algorithm,
        hash,
        salt: salt.to_vec(),
        covered,
        hash_start: *digest.as_ref().first_chunk().unwrap(),
        numbers: pair.sign(digest.as_ref()).as_ref().to_vec(),
        issuers: Vec::new(),
        created: 0,
        expires: false,
        key_lifetime: None,
        key_flags: None,
        revocation_reason: None,
        back_signature: None,
        flaw: None,
    }
}

const DATA: &[u8] = b"data";

#[test]
fn a_signature_fits_the_version_the_algorithm_and_the_hash_of_its_key() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let key = Key::parse(&key_body(27, pair.public_key().as_ref())).unwrap();
    let verify = |signature: Signature| key.verify(&signature, &[DATA]);
    assert_eq!(verify(sign(&pair, 4, 27, 8, &[])), Ok(()));
    assert_eq!(verify(sign(&pair, 6, 27, 8, &[7; 16])), Err(Flaw::Wrong));
    assert_eq!(verify(sign(&pair, 4, 22, 8, &[])), Err(Flaw::Wrong));
    assert_eq!(verify(sign(&pair, 4, 27, 8, &[7; 16])), Err(Flaw::Wrong));
    let mut long = sign(&pair, 4, 27, 8, &[]);
    long.numbers.push(0);
    assert_eq!(verify(long), Err(Flaw::Wrong));

    const P256: &[u8] = &[
        8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0, 3, 0x04,
    ];
    const P384: &[u8] = &[5, 0x2B, 0x81, 0x04, 0x00, 0x22, 0, 3, 0x04];
    for (curve, hash, why) in [
        (P256, 10, "a NIST P-256 key with a hash other than SHA-256"),
        (P384, 8, "a NIST P-384 key with a hash other than SHA-384"),
    ] {
        let key = Key::parse(&key_body(19, curve)).unwrap();
        let signature = sign(&pair, 4, 19, hash, &[]);
        assert_eq!(key.verify(&signature, &[DATA]), Err(Flaw::Unsupported(why)));
    }
}
