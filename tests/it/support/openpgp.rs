//! OpenPGP keys and signatures, as few packets as possible (RFC 9580): an Ed25519 key of version 4 with one user ID.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gix::ObjectId;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::signature::KeyPair as _;

use super::{Checkout, Signer};

const CREATED: u32 = 1_700_000_000;
const SIGNED: u32 = 1_790_000_000;

fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0xC0 | tag, 0xFF], &length[..], body].concat()
}

fn armor(label: &str, packets: &[u8]) -> String {
    let code = STANDARD.encode(packets);
    format!("-----BEGIN PGP {label}-----\n\n{code}\n-----END PGP {label}-----\n")
}

/// A number after its length in bits.
fn number(bytes: &[u8]) -> Vec<u8> {
    let bytes: Vec<u8> = bytes
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect();
    let bits = bytes.len() * 8 - bytes[0].leading_zeros() as usize;
    [&u16::try_from(bits).unwrap().to_be_bytes()[..], &bytes].concat()
}

impl Signer {
    fn openpgp_key(&self) -> Vec<u8> {
        let curve = [9, 0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01];
        let point = [&[0x40], self.0.public_key().as_ref()].concat();
        [
            &[4],
            &CREATED.to_be_bytes()[..],
            &[22],
            &curve,
            &number(&point),
        ]
        .concat()
    }

    fn openpgp_packet(&self, kind: u8, time: u32, data: &[u8]) -> Vec<u8> {
        let fingerprint = digest(&SHA1_FOR_LEGACY_USE_ONLY, &covered(&self.openpgp_key()));
        let subpackets = [
            &[5, 2],
            &time.to_be_bytes()[..],
            &[22, 33, 4],
            fingerprint.as_ref(),
            &[2, 27, 3],
        ]
        .concat();
        let length = u16::try_from(subpackets.len()).unwrap().to_be_bytes();
        let head = [&[4, kind, 22, 8], &length[..], &subpackets].concat();
        let end = u32::try_from(head.len()).unwrap().to_be_bytes();
        let digest = digest(&SHA256, &[data, &head, &[4, 0xFF], &end].concat());
        let signature = self.0.sign(digest.as_ref());
        let (r, s) = signature.as_ref().split_at(32);
        let body = [
            &head,
            &[0, 0][..],
            &digest.as_ref()[..2],
            &number(r),
            &number(s),
        ]
        .concat();
        packet(2, &body)
    }

    pub(crate) fn openpgp_certificate(&self) -> String {
        let key = self.openpgp_key();
        let data = [&covered(&key)[..], &[0xB4, 0, 0, 0, 3], b"Ada"].concat();
        let certification = self.openpgp_packet(0x13, CREATED, &data);
        let packets = [packet(6, &key), packet(13, b"Ada"), certification].concat();
        armor("PUBLIC KEY BLOCK", &packets)
    }

    /// A signature of a file, as `gpg --armor --detach-sign` writes it.
    pub(crate) fn openpgp_signature(&self, file: &[u8]) -> String {
        armor("SIGNATURE", &self.openpgp_packet(0, SIGNED, file))
    }
}

/// The key as a signature covers it.
fn covered(key: &[u8]) -> Vec<u8> {
    let length = u16::try_from(key.len()).unwrap().to_be_bytes();
    [&[0x99], &length[..], key].concat()
}

impl Checkout {
    /// Writes the file of allowed OpenPGP keys. Returns its path.
    pub(crate) fn allow_openpgp(&self, signers: &[&Signer]) -> String {
        let path = self.world.dir.path().join("allowed_keys.asc");
        let keys: Vec<_> = signers
            .iter()
            .map(|one| one.openpgp_certificate())
            .collect();
        std::fs::write(&path, keys.concat()).unwrap();
        path.display().to_string()
    }

    /// Commits the definitions of the directory to the branch `main`, with an OpenPGP signature.
    pub(crate) fn signed_with_openpgp(&self, key: &Signer, parents: &[ObjectId]) -> ObjectId {
        let commit = self.commit("refs/heads/main", parents);
        let raw = self.repository.find_object(commit).unwrap().detach().data;
        self.raw_commit(&with_signature(&raw, &key.openpgp_signature(&raw)))
    }
}

/// The commit with a signature in its header, as git writes it.
pub(crate) fn with_signature(commit: &[u8], signature: &str) -> Vec<u8> {
    let header = format!("gpgsig {}\n", signature.trim_end().replace('\n', "\n "));
    let end = commit.windows(2).position(|two| two == b"\n\n").unwrap() + 1;
    [&commit[..end], header.as_bytes(), &commit[end..]].concat()
}
