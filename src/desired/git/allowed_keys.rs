//! The file of allowed OpenPGP keys: certificates as `gpg --export` writes them, in text or binary form (RFC 9580, section 10.1).
//!
//! A certificate is a primary key with signatures that say what it may do and how long, and with subkeys. Its owner's
//! newest signature decides, for all times: an owner who renews a key renews what it signed. If there is one of the key alone
//! and one of a user ID, the stricter one decides. A revocation for another reason than "superseded" and "no longer used"
//! counts for all times, because a thief can choose the time of a signature. It counts wherever it stands in the certificate:
//! appended to the file, it follows the last user ID or subkey.
//!
//! A certificate that cannot be checked makes the whole file invalid. An expired or revoked one does not: what it signed
//! before may still count. A key occurs only once in the file, because only one of two copies may be revoked.
//!
//! Never: use a part of a certificate that its own primary key did not sign, decide by a user ID or by another's
//! certification, or read a clock.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::openpgp::{Flaw, Key, Signature, kind, packet_type, packets, read_armor};
use super::signature::SignatureError;
use crate::desired::definitions::directory::{self, FileError};

/// The largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The longest user ID, in bytes; gpg has the same limit.
const MAX_USER_ID: usize = 2 << 10;
/// The most subkeys of one certificate.
const MAX_SUBKEYS: usize = 256;
const MAY_SIGN: u8 = 0x02;
const SELF_SIGNATURE: &str = "its newest self-signature";
const REVOCATION: &str = "a revocation of one of its keys";
const NOT_FOR_SIGNATURES: &str = "is not meant for signatures";

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the allowed keys {} cannot be read: the file {why}", .file.display())]
    Unreadable {
        file: PathBuf,
        /// Completes "the file …".
        why: String,
    },
    #[error("the allowed keys {} are invalid: {problem}", .file.display())]
    Invalid { file: PathBuf, problem: KeysProblem },
    #[error("the allowed keys {} contain no key", .0.display())]
    Empty(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysProblem {
    /// The number, from 1, and the fingerprint of the certificate.
    certificate: Option<(usize, Option<String>)>,
    why: String,
}

/// The keys that may sign.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AllowedKeys(Vec<Certificate>);

#[derive(Debug, PartialEq, Eq)]
struct Certificate {
    primary: SigningKey,
    subkeys: Vec<SigningKey>,
}

#[derive(Debug, PartialEq, Eq)]
struct SigningKey {
    key: Key,
    /// Why it may not sign at all. Completes "a key that …".
    barred: Option<String>,
    /// In seconds since 1970; the second is no longer part of its life.
    expires: Option<u64>,
    revoked: Option<Revocation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Revocation {
    /// Signatures before this time count, in seconds since 1970.
    Since(u32),
    ForAllTimes,
}

/// The packets of one certificate.
struct Packets<'a> {
    primary: Key,
    parts: Vec<Part<'a>>,
}

struct Part<'a> {
    kind: PartKind<'a>,
    signatures: Vec<Signature>,
    /// Only of a key.
    revoked: Option<Revocation>,
}

enum PartKind<'a> {
    Primary,
    UserId(&'a [u8]),
    Subkey(Key),
    /// A photo, for example. Says nothing about keys.
    Attribute,
}

impl fmt::Display for KeysProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.certificate {
            Some((number, Some(fingerprint))) => {
                write!(f, "certificate {number} ({fingerprint}): ")?
            }
            Some((number, None)) => write!(f, "certificate {number}: ")?,
            None => {}
        }
        f.write_str(&self.why)
    }
}

impl AllowedKeys {
    /// Reads the file. Follows links: a mounted ConfigMap consists of them.
    pub(super) fn read(path: &Path) -> Result<Self, KeysError> {
        let file = path.to_owned();
        let unreadable = |error: FileError| KeysError::Unreadable {
            file: file.clone(),
            why: error.to_string(),
        };
        let real = std::fs::canonicalize(path)
            .map_err(|error| unreadable(FileError::Unreadable(error)))?;
        let bytes = directory::read_regular_file(&real, MAX_FILE).map_err(unreadable)?;
        let keys = Self::parse(&bytes).map_err(|problem| KeysError::Invalid {
            file: file.clone(),
            problem,
        })?;
        if keys.0.is_empty() {
            Err(KeysError::Empty(file))
        } else {
            Ok(keys)
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeysProblem> {
        let of_file = |why: &str| KeysProblem {
            certificate: None,
            why: why.to_owned(),
        };
        let is_binary = bytes.first().is_some_and(|first| *first >= 0x80);
        let blocks = if is_binary {
            vec![bytes.to_vec()]
        } else if contains(bytes, b"-----BEGIN PGP PRIVATE KEY BLOCK-----") {
            return Err(of_file(PRIVATE_KEY));
        } else {
            read_armor(bytes, "PGP PUBLIC KEY BLOCK").map_err(of_file)?
        };
        let mut certificates: Vec<Certificate> = Vec::new();
        let mut known = HashMap::new();
        for block in &blocks {
            for found in split(block, certificates.len() + 1)? {
                let number = certificates.len() + 1;
                let fingerprint = found.primary.fingerprint();
                let certificate = found
                    .add_to(&mut known)
                    .and_then(|()| Certificate::check(found));
                certificates.push(certificate.map_err(|why| KeysProblem {
                    certificate: Some((number, Some(fingerprint))),
                    why,
                })?);
            }
        }
        Ok(Self(certificates))
    }

    /// Checks that one of the keys made a signature of a commit or a tag.
    pub(super) fn verify(&self, text: &[u8], payload: &[u8]) -> Result<(), SignatureError> {
        let blocks = read_armor(text, "PGP SIGNATURE").map_err(SignatureError::Malformed)?;
        let [block] = blocks.as_slice() else {
            return Err(SignatureError::Malformed("there are several signatures"));
        };
        let mut packets = packets(block);
        let signature = match (packets.next().transpose(), packets.next()) {
            (Ok(Some(packet)), None) if packet.packet_type == packet_type::SIGNATURE => {
                Signature::parse(packet.body)
            }
            (Ok(_), _) => Err("it is not a single OpenPGP signature"),
            (Err(why), _) => Err(why),
        };
        let signature = signature.map_err(SignatureError::Malformed)?;
        // Of a signature of a text, line breaks could be changed.
        if signature.kind != kind::DOCUMENT {
            return Err(SignatureError::Malformed("it is not a signature of a file"));
        }
        let issuer = signature.issuer().ok_or(SignatureError::Malformed(
            "it does not say which key made it",
        ))?;
        let mut result = Err(SignatureError::UnknownKey(issuer));
        for certificate in &self.0 {
            for key in certificate
                .keys()
                .filter(|key| key.key.is_named_by(&signature))
            {
                result = certificate.check_signature(key, &signature, payload);
                if result.is_ok() {
                    return result;
                }
            }
        }
        result
    }
}

const PRIVATE_KEY: &str =
    "it contains a private key; write the public key with gpg --export --armor";

/// Splits packets into certificates. `number` is the number of the first.
fn split(bytes: &[u8], number: usize) -> Result<Vec<Packets<'_>>, KeysProblem> {
    let mut certificates: Vec<Packets<'_>> = Vec::new();
    for packet in packets(bytes) {
        let step = packet
            .map_err(str::to_owned)
            .and_then(|packet| match packet.packet_type {
                packet_type::PUBLIC_KEY => {
                    certificates.push(Packets {
                        primary: Key::parse(packet.body)?,
                        parts: vec![Part::new(PartKind::Primary)],
                    });
                    Ok(())
                }
                packet_type::SECRET_KEY | packet_type::SECRET_SUBKEY => Err(PRIVATE_KEY.to_owned()),
                // They carry nothing that is signed.
                packet_type::MARKER | packet_type::TRUST | packet_type::PADDING => Ok(()),
                _ => certificates
                    .last_mut()
                    .ok_or_else(|| "it does not begin with a public key".to_owned())?
                    .add(packet.packet_type, packet.body),
            });
        step.map_err(|why| KeysProblem {
            certificate: Some((
                number + certificates.len().saturating_sub(1),
                certificates.last().map(|last| last.primary.fingerprint()),
            )),
            why,
        })?;
    }
    Ok(certificates)
}

impl<'a> Part<'a> {
    const fn new(kind: PartKind<'a>) -> Self {
        Self {
            kind,
            signatures: Vec::new(),
            revoked: None,
        }
    }

    /// The newest signature of these kinds by the primary key, by its own statement.
    fn newest(&self, primary: &Key, is_kind: impl Fn(u8) -> bool) -> Option<&Signature> {
        self.signatures
            .iter()
            .filter(|signature| is_kind(signature.kind) && primary.is_named_by(signature))
            .max_by_key(|signature| signature.created)
    }
}

impl<'a> Packets<'a> {
    fn add(&mut self, packet_type: u8, body: &'a [u8]) -> Result<(), String> {
        let part = match packet_type {
            packet_type::SIGNATURE => {
                let part = self.parts.last_mut().ok_or("a signature has no key")?;
                match (Signature::parse(body), &part.kind) {
                    (Ok(signature), _) => part.signatures.push(signature),
                    // Others may certify a user ID in any way.
                    (Err(_), PartKind::UserId(_) | PartKind::Attribute)
                        if !may_be_revocation(body) => {}
                    (Err(why), _) => {
                        return Err(format!("a signature of a key cannot be read ({why})"));
                    }
                }
                return Ok(());
            }
            packet_type::USER_ID if body.len() > MAX_USER_ID => {
                return Err("a user ID is longer than 2 KiB".to_owned());
            }
            packet_type::USER_ID => PartKind::UserId(body),
            packet_type::USER_ATTRIBUTE => PartKind::Attribute,
            packet_type::PUBLIC_SUBKEY => PartKind::Subkey(Key::parse(body)?),
            _ => return Err("it contains a packet that does not belong into it".to_owned()),
        };
        self.parts.push(Part::new(part));
        Ok(())
    }

    fn subkeys(&self) -> impl Iterator<Item = &Key> {
        self.parts.iter().filter_map(|part| match &part.kind {
            PartKind::Subkey(key) => Some(key),
            PartKind::Primary | PartKind::UserId(_) | PartKind::Attribute => None,
        })
    }

    /// Adds the keys to the known ones: their fingerprints, and whether they are primary keys.
    fn add_to(&self, known: &mut HashMap<String, bool>) -> Result<(), String> {
        if self.subkeys().count() > MAX_SUBKEYS {
            return Err(format!("it has more than {MAX_SUBKEYS} subkeys"));
        }
        let subkeys = self.subkeys().map(|key| (key, false));
        for (key, is_primary) in std::iter::once((&self.primary, true)).chain(subkeys) {
            let fingerprint = key.fingerprint();
            match known.insert(fingerprint.clone(), is_primary) {
                Some(true) if is_primary => return Err("duplicate certificate".to_owned()),
                Some(_) => return Err(format!("duplicate key {fingerprint}")),
                None => {}
            }
        }
        Ok(())
    }
}

impl Certificate {
    /// Keeps what the primary key itself signed. An error is a sentence.
    fn check(packets: Packets<'_>) -> Result<Self, String> {
        let Packets { primary, mut parts } = packets;
        if let Some(kind) = primary.unsupported() {
            return Err(format!(
                "its primary key is {kind}, which is not supported; use Ed25519, NIST P-256, NIST P-384 or RSA of 2048 bits and more"
            ));
        }
        revoke(&primary, &mut parts)?;
        let mut revoked = None;
        let mut direct = None;
        let mut certification: Option<(&Signature, &[u8])> = None;
        for part in &parts {
            match part.kind {
                PartKind::Primary => {
                    revoked = part.revoked;
                    direct = part.newest(&primary, |kind| kind == kind::DIRECT_KEY);
                }
                PartKind::UserId(id) => {
                    let of_this = part.newest(&primary, is_certification);
                    certification = certification
                        .into_iter()
                        .chain(of_this.map(|signature| (signature, id)))
                        .max_by_key(|(signature, _)| signature.created);
                }
                PartKind::Subkey(_) | PartKind::Attribute => {}
            }
        }
        if let Some(direct) = direct {
            confirm(&primary, direct, &[primary.covered()], SELF_SIGNATURE)?;
        }
        if let Some((certification, id)) = certification {
            let length = u32::try_from(id.len()).unwrap_or(u32::MAX).to_be_bytes();
            let data = [primary.covered(), &[0xB4], &length, id];
            confirm(&primary, certification, &data, SELF_SIGNATURE)?;
        }
        // Both hold: one of them often says nothing.
        let own = || {
            let certification = certification.map(|(signature, _)| signature);
            direct.into_iter().chain(certification)
        };
        if own().next().is_none() {
            return Err("its primary key did not sign it; export it with its user ID".to_owned());
        }
        let expires = own().filter_map(|own| expiry(&primary, own)).min();
        let may_sign = own()
            .filter_map(|own| own.key_flags)
            .map(|flags| flags & MAY_SIGN != 0)
            .reduce(|one, other| one && other)
            // Keys from before 2004 have no flags.
            .unwrap_or(primary.version() == 4);
        let subkeys = parts
            .into_iter()
            .filter_map(|part| SigningKey::subkey(&primary, part).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let certificate = Self {
            primary: SigningKey {
                key: primary,
                barred: (!may_sign).then(|| NOT_FOR_SIGNATURES.to_owned()),
                expires,
                revoked,
            },
            subkeys,
        };
        if certificate.keys().all(|key| key.barred.is_some()) {
            return Err("it has no key that may sign and is supported".to_owned());
        }
        Ok(certificate)
    }

    fn keys(&self) -> impl Iterator<Item = &SigningKey> {
        std::iter::once(&self.primary).chain(&self.subkeys)
    }

    /// Checks a signature that names this key of the certificate.
    fn check_signature(
        &self,
        key: &SigningKey,
        signature: &Signature,
        payload: &[u8],
    ) -> Result<(), SignatureError> {
        let refused = |why: &str| SignatureError::KeyRefused {
            key: key.key.fingerprint(),
            why: why.to_owned(),
        };
        if signature.expires {
            return Err(SignatureError::Unsupported("it expires"));
        }
        if let Some(why) = &key.barred {
            return Err(refused(why));
        }
        self.primary
            .valid_at(signature.created)
            .and_then(|()| key.valid_at(signature.created))
            .map_err(refused)?;
        key.key
            .verify(signature, &[payload])
            .map_err(|flaw| match flaw {
                Flaw::WeakHash(hash) => SignatureError::WeakHash(hash),
                Flaw::Unsupported(what) => SignatureError::Unsupported(what),
                Flaw::Wrong => SignatureError::Forged,
            })
    }
}

impl SigningKey {
    /// A subkey, as far as the primary key signed it. `None` for other parts of a certificate and for a key that it did not sign.
    fn subkey(primary: &Key, part: Part<'_>) -> Result<Option<Self>, String> {
        let PartKind::Subkey(key) = &part.kind else {
            return Ok(None);
        };
        let data = [primary.covered(), key.covered()];
        let Some(binding) = part.newest(primary, |kind| kind == kind::SUBKEY_BINDING) else {
            return Ok(None);
        };
        let name = format!("the newest signature of its subkey {}", key.fingerprint());
        confirm(primary, binding, &data, &name)?;
        let barred = if binding.key_flags.is_none_or(|flags| flags & MAY_SIGN == 0) {
            Some(NOT_FOR_SIGNATURES.to_owned())
        } else if let Some(kind) = key.unsupported() {
            Some(format!("is not supported: {kind}"))
        } else if !has_back_signature(key, binding, &data) {
            Some("did not confirm that it belongs to its primary key".to_owned())
        } else {
            None
        };
        let expires = expiry(key, binding);
        let revoked = part.revoked;
        let PartKind::Subkey(key) = part.kind else {
            return Ok(None);
        };
        Ok(Some(Self {
            key,
            barred,
            expires,
            revoked,
        }))
    }

    /// Whether the key was valid at a time, in seconds since 1970. An error completes "a key that …".
    fn valid_at(&self, time: u32) -> Result<(), &'static str> {
        if let Some(Revocation::ForAllTimes) = self.revoked {
            Err("is revoked")
        } else if matches!(self.revoked, Some(Revocation::Since(since)) if time >= since) {
            Err("was revoked at the time of the signature")
        } else if time < self.key.created {
            Err("did not exist at the time of the signature")
        } else if self
            .expires
            .is_some_and(|expires| u64::from(time) >= expires)
        {
            Err("was expired at the time of the signature")
        } else {
            Ok(())
        }
    }
}

/// Checks a signature in a certificate.
fn confirm(primary: &Key, signature: &Signature, data: &[&[u8]], name: &str) -> Result<(), String> {
    if signature.expires {
        return Err(format!("{name} expires, which is not supported"));
    }
    primary
        .verify(signature, data)
        .map_err(|flaw| match flaw {
            Flaw::WeakHash(hash) => format!(
                "{name} uses {hash}, which is broken; renew it with gpg --quick-set-expire, and export the key again"
            ),
            Flaw::Unsupported(what) => format!("{name} uses {what}, which is not supported"),
            Flaw::Wrong => format!("{name} is wrong"),
        })
}

/// Applies each revocation to its key. One that the primary key did not make is an error, because it may still be the owner's:
/// damaged, or made by another key.
fn revoke(primary: &Key, parts: &mut [Part<'_>]) -> Result<(), String> {
    let revocations: Vec<Signature> = parts
        .iter_mut()
        .flat_map(|part| {
            part.signatures
                .extract_if(.., |signature| is_revocation(signature.kind))
        })
        .collect();
    let mut keys: Vec<_> = parts
        .iter_mut()
        .filter(|part| matches!(part.kind, PartKind::Primary | PartKind::Subkey(_)))
        .collect();
    for revocation in &revocations {
        let mut result = Err(format!("{REVOCATION} is wrong"));
        for part in &mut keys {
            let subkey: &[u8] = match (&part.kind, revocation.kind) {
                (PartKind::Primary, kind::KEY_REVOCATION) => &[],
                (PartKind::Subkey(key), kind::SUBKEY_REVOCATION) => key.covered(),
                _ => continue,
            };
            let data = [primary.covered(), subkey];
            result = confirm(primary, revocation, &data, REVOCATION);
            if result.is_ok() {
                let this = Revocation::by(revocation);
                part.revoked = Some(part.revoked.map_or(this, |other| this.or_stricter(other)));
                break;
            }
        }
        result?;
    }
    Ok(())
}

impl Revocation {
    const fn by(signature: &Signature) -> Self {
        const SUPERSEDED: u8 = 1;
        const NO_LONGER_USED: u8 = 3;
        match signature.revocation_reason {
            Some(SUPERSEDED | NO_LONGER_USED) => Self::Since(signature.created),
            _ => Self::ForAllTimes,
        }
    }

    fn or_stricter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Since(one), Self::Since(other)) => Self::Since(one.min(other)),
            _ => Self::ForAllTimes,
        }
    }
}

const fn is_revocation(kind: u8) -> bool {
    matches!(kind, kind::KEY_REVOCATION | kind::SUBKEY_REVOCATION)
}

/// Whether an unreadable signature may be a revocation. Its kind is the second byte, in version 3 the third.
fn may_be_revocation(body: &[u8]) -> bool {
    body.iter().skip(1).take(2).any(|kind| is_revocation(*kind))
}

fn has_back_signature(key: &Key, binding: &Signature, data: &[&[u8]]) -> bool {
    let back = binding.back_signature.as_deref().map(Signature::parse);
    matches!(back, Some(Ok(back)) if back.kind == kind::PRIMARY_KEY_BINDING && !back.expires && key.verify(&back, data).is_ok())
}

fn expiry(key: &Key, signature: &Signature) -> Option<u64> {
    let lifetime = signature.key_lifetime?;
    Some(u64::from(key.created) + u64::from(lifetime))
}

const fn is_certification(kind: u8) -> bool {
    matches!(kind, kind::FIRST_CERTIFICATION..=kind::LAST_CERTIFICATION)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
