//! OpenPGP packets: text form, keys, and whether a key made a signature (RFC 9580; RFC 4880 for keys of version 4).
//!
//! A commit or a tag has one signature packet, and a certificate has six kinds of packets. They are read here, and `ring`
//! does the arithmetic, because the libraries bring more than 90 crates, mostly for ciphers that a check does not need.
//!
//! The bytes of a signature do not identify it: the text around it, the form of a length and an issuer that is not signed can
//! change, and it is still valid.
//!
//! Never: allocate by a length that a packet states, read a nested packet other than the back signature of a subkey, or accept
//! MD5 or SHA-1 as the hash of a signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{self, digest};
use ring::signature::{self as alg, RsaPublicKeyComponents, UnparsedPublicKey};

use crate::model::hex;

/// The largest key packet, in bytes. An RSA key of 8192 bits has about 1 KB.
const MAX_KEY: usize = 4 << 10;

/// Packet types (RFC 9580, section 5).
pub(super) mod packet_type {
    pub(crate) const SIGNATURE: u8 = 2;
    pub(crate) const SECRET_KEY: u8 = 5;
    pub(crate) const PUBLIC_KEY: u8 = 6;
    pub(crate) const SECRET_SUBKEY: u8 = 7;
    pub(crate) const MARKER: u8 = 10;
    pub(crate) const TRUST: u8 = 12;
    pub(crate) const USER_ID: u8 = 13;
    pub(crate) const PUBLIC_SUBKEY: u8 = 14;
    pub(crate) const USER_ATTRIBUTE: u8 = 17;
    pub(crate) const PADDING: u8 = 21;
}

/// Signature types (RFC 9580, section 5.2.1).
pub(super) mod kind {
    pub(crate) const DOCUMENT: u8 = 0x00;
    pub(crate) const FIRST_CERTIFICATION: u8 = 0x10;
    pub(crate) const LAST_CERTIFICATION: u8 = 0x13;
    pub(crate) const SUBKEY_BINDING: u8 = 0x18;
    pub(crate) const PRIMARY_KEY_BINDING: u8 = 0x19;
    pub(crate) const DIRECT_KEY: u8 = 0x1F;
    pub(crate) const KEY_REVOCATION: u8 = 0x20;
    pub(crate) const SUBKEY_REVOCATION: u8 = 0x28;
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The hash is broken.
    WeakHash(&'static str),
    Unsupported(&'static str),
    /// It was made for other data or by another key.
    Wrong,
}

/// Decodes the blocks of a text (RFC 9580, section 6). Empty lines and comments (`#`) may stand between them.
pub(super) fn read_armor(text: &[u8], label: &str) -> Result<Vec<Vec<u8>>, &'static str> {
    const CUT_OFF: &str = "it is cut off";
    let text = std::str::from_utf8(text).map_err(|_| "it is not a text")?;
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line != begin {
            return Err("it contains other text than OpenPGP writes");
        }
        loop {
            match lines.next().ok_or(CUT_OFF)? {
                "" => break,
                header if header.contains(':') => {}
                _ => return Err("an empty line is missing after its first line"),
            }
        }
        let mut code = String::new();
        // The checksum is not checked, as RFC 9580 demands: the signature itself shows every change.
        let mut has_checksum = false;
        loop {
            match lines.next().ok_or(CUT_OFF)? {
                line if line == end => break,
                _ if has_checksum => return Err(CUT_OFF),
                line if line.starts_with('=') => has_checksum = true,
                line => code.push_str(line),
            }
        }
        let block = STANDARD
            .decode(code)
            .map_err(|_| "it is not valid base64")?;
        blocks.push(block);
    }
    Ok(blocks)
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) packet_type: u8,
    pub(super) body: &'a [u8],
}

/// Reads the packets of a stream (RFC 9580, section 4.2). Lengths in parts are refused: keys and signatures have none.
pub(super) fn packets(bytes: &[u8]) -> impl Iterator<Item = Result<Packet<'_>, &'static str>> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let packet = read_packet(&mut reader).ok_or("a packet is cut off or has no fixed length");
        if packet.is_err() {
            reader.0 = &[];
        }
        Some(packet)
    })
}

fn read_packet<'a>(reader: &mut Reader<'a>) -> Option<Packet<'a>> {
    let first = reader.byte()?;
    let (packet_type, length) = match first {
        0xC0.. => (first & 0x3F, reader.length()?),
        0x80.. => {
            let length = match first & 0x03 {
                0 => reader.byte()?.into(),
                1 => reader.u16()?.into(),
                2 => reader.u32()?,
                _ => return None,
            };
            (first >> 2 & 0x0F, length)
        }
        _ => return None,
    };
    let body = reader.take(length)?;
    Some(Packet { packet_type, body })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: u32) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A length of a packet in the current format. `None` if it is one of several.
    fn length(&mut self) -> Option<u32> {
        match self.byte()? {
            short @ 0..192 => Some(short.into()),
            high @ 192..224 => Some(((u32::from(high) - 192) << 8) + u32::from(self.byte()?) + 192),
            224..255 => None,
            255 => self.u32(),
        }
    }

    /// A length of a subpacket: two bytes reach further than in a packet.
    fn subpacket_length(&mut self) -> Option<u32> {
        match self.byte()? {
            short @ 0..192 => Some(short.into()),
            high @ 192..255 => Some(((u32::from(high) - 192) << 8) + u32::from(self.byte()?) + 192),
            255 => self.u32(),
        }
    }

    /// A number after its length in bits, without leading zeros (RFC 9580, section 3.2).
    fn number(&mut self) -> Option<&'a [u8]> {
        let bits = u32::from(self.u16()?);
        let number = self.take(bits.div_ceil(8))?;
        (bits_of(number) == bits).then_some(number)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The bits of a number without the leading zeros of its first byte.
fn bits_of(number: &[u8]) -> u32 {
    let length = u32::try_from(number.len()).unwrap_or(u32::MAX);
    number
        .first()
        .map_or(0, |first| length.saturating_mul(8) - first.leading_zeros())
}

/// The number in exactly `length` bytes.
fn pad(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(number.len())?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(number);
    Some(padded)
}

/// A public key (RFC 9580, section 5.5.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    version: u8,
    /// In seconds since 1970.
    pub(super) created: u32,
    algorithm: u8,
    material: Material,
    /// The key as signatures and the fingerprint cover it.
    covered: Vec<u8>,
    fingerprint: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// The name of the kind, as in "a DSA key".
    Unsupported(&'static str),
}

mod algorithm {
    pub(super) const RSA: u8 = 1;
    pub(super) const RSA_ENCRYPT: u8 = 2;
    pub(super) const RSA_SIGN: u8 = 3;
    pub(super) const ELGAMAL: u8 = 16;
    pub(super) const DSA: u8 = 17;
    pub(super) const ECDH: u8 = 18;
    pub(super) const ECDSA: u8 = 19;
    pub(super) const EDDSA_LEGACY: u8 = 22;
    pub(super) const X25519: u8 = 25;
    pub(super) const X448: u8 = 26;
    pub(super) const ED25519: u8 = 27;
    pub(super) const ED448: u8 = 28;
}

/// The algorithm by its first number: RSA has another one for keys that only sign.
const fn for_signatures(algorithm: u8) -> u8 {
    match algorithm {
        algorithm::RSA_SIGN => algorithm::RSA,
        other => other,
    }
}

impl Key {
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        if body.len() > MAX_KEY {
            return Err("a key is larger than 4 KiB");
        }
        let mut reader = Reader(body);
        let (prefix, hash) = match reader.byte() {
            Some(4) => {
                let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
                let prefix = [&[0x99], &length.to_be_bytes()[..]].concat();
                (prefix, &digest::SHA1_FOR_LEGACY_USE_ONLY)
            }
            Some(6) => {
                let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
                let prefix = [&[0x9B], &length.to_be_bytes()[..]].concat();
                (prefix, &digest::SHA256)
            }
            _ => return Err("a key has a version other than 4 and 6"),
        };
        let version = body.first().copied().unwrap_or_default();
        let covered = [&prefix, body].concat();
        let fingerprint = digest(hash, &covered).as_ref().to_vec();
        let mut parts = || {
            let created = reader.u32()?;
            let algorithm = reader.byte()?;
            let is_whole = version == 4 || {
                let length = reader.u32()?;
                usize::try_from(length).ok()? == reader.0.len()
            };
            let material = Material::read(version, algorithm, &mut reader)?;
            is_whole.then_some((created, algorithm, material))
        };
        let (created, algorithm, material) = parts().ok_or("a key cannot be read")?;
        Ok(Self {
            version,
            created,
            algorithm: for_signatures(algorithm),
            material,
            covered,
            fingerprint,
        })
    }

    /// In hexadecimal digits, as gpg shows it.
    pub(super) fn fingerprint(&self) -> String {
        hex(&self.fingerprint).to_ascii_uppercase()
    }

    fn id(&self) -> Option<&[u8]> {
        match self.version {
            4 => self.fingerprint.last_chunk::<8>().map(<[u8; 8]>::as_slice),
            _ => self.fingerprint.first_chunk::<8>().map(<[u8; 8]>::as_slice),
        }
    }

    pub(super) const fn version(&self) -> u8 {
        self.version
    }

    /// The key as a signature about a key covers it.
    pub(super) fn covered(&self) -> &[u8] {
        &self.covered
    }

    /// The name of the kind if signatures by the key are not supported.
    pub(super) const fn unsupported(&self) -> Option<&'static str> {
        match self.material {
            Material::Unsupported(name) => Some(name),
            _ => None,
        }
    }

    /// Whether the signature says that this key made it. A signature that says nothing is by no key.
    pub(super) fn is_named_by(&self, signature: &Signature) -> bool {
        let issuers = &signature.issuers;
        !issuers.is_empty()
            && issuers.iter().all(|issuer| match issuer {
                Issuer::Fingerprint(version, fingerprint) => {
                    (*version, fingerprint) == (self.version, &self.fingerprint)
                }
                Issuer::KeyId(id) => self.id() == Some(id),
            })
    }

    /// Checks that the key made the signature of the data.
    pub(super) fn verify(&self, signature: &Signature, data: &[&[u8]]) -> Result<(), Flaw> {
        let (hash, salt) = match signature.hash {
            8 => (&digest::SHA256, 16),
            9 => (&digest::SHA384, 24),
            10 => (&digest::SHA512, 32),
            1 => return Err(Flaw::WeakHash("MD5")),
            2 => return Err(Flaw::WeakHash("SHA-1")),
            3 => return Err(Flaw::WeakHash("RIPEMD-160")),
            11 => return Err(Flaw::Unsupported("the hash SHA-224")),
            12 | 14 => return Err(Flaw::Unsupported("a hash of the family SHA-3")),
            _ => return Err(Flaw::Unsupported("an unknown hash")),
        };
        let has_salt = signature.salt.len() == if signature.version == 6 { salt } else { 0 };
        if signature.version != self.version || signature.algorithm != self.algorithm || !has_salt {
            return Err(Flaw::Wrong);
        }
        if let Some(flaw) = signature.flaw {
            return Err(flaw);
        }
        // RFC 9580, section 5.2.4.
        let length = u32::try_from(signature.covered.len()).map_err(|_| Flaw::Wrong)?;
        let message = [
            &signature.salt,
            &data.concat(),
            &signature.covered,
            &[signature.version, 0xFF][..],
            &length.to_be_bytes(),
        ]
        .concat();
        let digest = digest(hash, &message);
        if !digest.as_ref().starts_with(&signature.hash_start) {
            return Err(Flaw::Wrong);
        }
        let mut numbers = Reader(&signature.numbers);
        let is_valid = match &self.material {
            Material::Rsa { n, e } => {
                let parameters = match signature.hash {
                    8 => &alg::RSA_PKCS1_2048_8192_SHA256,
                    9 => &alg::RSA_PKCS1_2048_8192_SHA384,
                    _ => &alg::RSA_PKCS1_2048_8192_SHA512,
                };
                let number = numbers.number().and_then(|number| pad(number, n.len()));
                number.is_some_and(|number| {
                    let key = RsaPublicKeyComponents { n, e };
                    key.verify(parameters, &message, &number).is_ok()
                })
            }
            Material::P256(_) if signature.hash != 8 => {
                return Err(Flaw::Unsupported(
                    "a NIST P-256 key with a hash other than SHA-256",
                ));
            }
            Material::P384(_) if signature.hash != 9 => {
                return Err(Flaw::Unsupported(
                    "a NIST P-384 key with a hash other than SHA-384",
                ));
            }
            Material::P256(point) => numbers.pair(32).is_some_and(|pair| {
                let key = UnparsedPublicKey::new(&alg::ECDSA_P256_SHA256_FIXED, point);
                key.verify(&message, &pair).is_ok()
            }),
            Material::P384(point) => numbers.pair(48).is_some_and(|pair| {
                let key = UnparsedPublicKey::new(&alg::ECDSA_P384_SHA384_FIXED, point);
                key.verify(&message, &pair).is_ok()
            }),
            Material::Ed25519(key) => {
                let pair = match self.algorithm {
                    algorithm::ED25519 => numbers.take(64).map(<[u8]>::to_vec),
                    _ => numbers.pair(32),
                };
                pair.is_some_and(|pair| {
                    let key = UnparsedPublicKey::new(&alg::ED25519, key);
                    key.verify(digest.as_ref(), &pair).is_ok()
                })
            }
            Material::Unsupported(name) => return Err(Flaw::Unsupported(name)),
        };
        (is_valid && numbers.end().is_some())
            .then_some(())
            .ok_or(Flaw::Wrong)
    }
}

impl Reader<'_> {
    /// Two numbers, each in exactly `length` bytes.
    fn pair(&mut self, length: usize) -> Option<Vec<u8>> {
        let first = pad(self.number()?, length)?;
        Some([first, pad(self.number()?, length)?].concat())
    }
}

impl Material {
    /// Reads the key after its algorithm. What follows a key of an unsupported kind is not read.
    fn read(version: u8, algorithm: u8, reader: &mut Reader<'_>) -> Option<Self> {
        const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
        const P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
        const ED25519: &[u8] = &[0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01];
        let material = match algorithm {
            algorithm::RSA | algorithm::RSA_SIGN => {
                let (n, e) = (reader.number()?, reader.number()?);
                match bits_of(n) {
                    0..2048 => Self::Unsupported("an RSA key of less than 2048 bits"),
                    2048..=8192 => Self::Rsa {
                        n: n.to_vec(),
                        e: e.to_vec(),
                    },
                    _ => Self::Unsupported("an RSA key of more than 8192 bits"),
                }
            }
            algorithm::ECDSA | algorithm::EDDSA_LEGACY => {
                let length = reader.byte()?.into();
                let curve = reader.take(length)?;
                let point = reader.number()?;
                match (algorithm, curve) {
                    (algorithm::ECDSA, P256) => Self::P256(point.to_vec()),
                    (algorithm::ECDSA, P384) => Self::P384(point.to_vec()),
                    (algorithm::EDDSA_LEGACY, ED25519) if version == 4 => {
                        Self::Ed25519(point.strip_prefix(&[0x40])?.to_vec())
                    }
                    _ => Self::Unsupported(
                        "a key on another curve than NIST P-256, NIST P-384 and Ed25519",
                    ),
                }
            }
            algorithm::ED25519 => Self::Ed25519(reader.take(32)?.to_vec()),
            unsupported => {
                reader.0 = &[];
                Self::Unsupported(match unsupported {
                    algorithm::DSA => "a DSA key",
                    algorithm::ED448 => "an Ed448 key",
                    algorithm::RSA_ENCRYPT
                    | algorithm::ELGAMAL
                    | algorithm::ECDH
                    | algorithm::X25519
                    | algorithm::X448 => "a key for encryption",
                    _ => "a key of an unknown kind",
                })
            }
        };
        reader.end().map(|()| material)
    }
}

/// Who made a signature, by the signature itself.
#[derive(Debug, PartialEq, Eq)]
enum Issuer {
    Fingerprint(u8, Vec<u8>),
    KeyId(Vec<u8>),
}

/// A signature packet (RFC 9580, section 5.2.3).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signature {
    version: u8,
    pub(super) kind: u8,
    algorithm: u8,
    hash: u8,
    salt: Vec<u8>,
    /// The part of the packet that is signed.
    covered: Vec<u8>,
    /// The first two bytes of the digest.
    hash_start: [u8; 2],
    numbers: Vec<u8>,
    issuers: Vec<Issuer>,
    /// In seconds since 1970.
    pub(super) created: u32,
    /// Whether the signature itself expires.
    pub(super) expires: bool,
    /// For how many seconds the key is valid after its creation; `None` without an end.
    pub(super) key_lifetime: Option<u32>,
    pub(super) key_flags: Option<u8>,
    pub(super) revocation_reason: Option<u8>,
    /// The signature by which a subkey confirms its primary key, as the body of a packet.
    pub(super) back_signature: Option<Vec<u8>>,
    /// A demand of the signature that is not supported.
    flaw: Option<Flaw>,
}

impl Signature {
    pub(super) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let version = body.first().copied().unwrap_or_default();
        if version != 4 && version != 6 {
            return Err("it has a version other than 4 and 6");
        }
        Self::read(version, body).ok_or("it is incomplete or contains too much")
    }

    fn read(version: u8, body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let [_, kind, algorithm, hash] = *reader.take(4)?.first_chunk()?;
        let area = |reader: &mut Reader<'_>| match version {
            4 => Some(u32::from(reader.u16()?)),
            _ => reader.u32(),
        };
        let length = area(&mut reader)?;
        let hashed = reader.take(length)?;
        let covered = body.get(..body.len() - reader.0.len())?.to_vec();
        let length = area(&mut reader)?;
        let unhashed = reader.take(length)?;
        let hash_start = *reader.take(2)?.first_chunk()?;
        let salt = match version {
            4 => &[],
            _ => {
                let length = reader.byte()?.into();
                reader.take(length)?
            }
        };
        let mut signature = Self {
            version,
            kind,
            algorithm: for_signatures(algorithm),
            hash,
            salt: salt.to_vec(),
            covered,
            hash_start,
            numbers: reader.0.to_vec(),
            issuers: Vec::new(),
            created: 0,
            expires: false,
            key_lifetime: None,
            key_flags: None,
            revocation_reason: None,
            back_signature: None,
            flaw: None,
        };
        let mut has_time = false;
        for subpacket in subpackets(hashed) {
            let (first, body) = subpacket?;
            has_time |= first & 0x7F == 2;
            signature.read_hashed(first, body)?;
        }
        for subpacket in subpackets(unhashed) {
            let (first, body) = subpacket?;
            signature.read_unhashed(first, body)?;
        }
        has_time.then_some(signature)
    }

    /// Reads a signed subpacket (RFC 9580, section 5.2.3.7).
    fn read_hashed(&mut self, first: u8, body: &[u8]) -> Option<()> {
        let mut reader = Reader(body);
        match first & 0x7F {
            2 => self.created = reader.u32()?,
            3 => self.expires = reader.u32()? != 0,
            9 => self.key_lifetime = Some(reader.u32()?).filter(|seconds| *seconds != 0),
            // Only the first byte has flags that matter.
            27 => {
                self.key_flags = Some(reader.byte().unwrap_or_default());
                return Some(());
            }
            // A sentence may follow.
            29 => {
                self.revocation_reason = Some(reader.byte()?);
                return Some(());
            }
            16 | 32 | 33 => return self.read_issuer_or_back_signature(first, body),
            // They say nothing about a signature of a commit, or about which key may sign one.
            4 | 7 | 11 | 21..=26 | 28 | 30 | 34 | 39 => return Some(()),
            // The highest bit marks a critical subpacket: it must be understood.
            _ if first & 0x80 != 0 => {
                self.flaw = Some(Flaw::Unsupported("a condition that is not known here"));
                return Some(());
            }
            _ => return Some(()),
        }
        reader.end()
    }

    /// Reads a subpacket that is not signed: only one that a check confirms.
    fn read_unhashed(&mut self, first: u8, body: &[u8]) -> Option<()> {
        match first {
            16 | 32 | 33 => self.read_issuer_or_back_signature(first, body),
            // Documents are signed with the issuer alone. gpg and others add data to the certificates of others.
            _ => (self.kind != kind::DOCUMENT).then_some(()),
        }
    }

    fn read_issuer_or_back_signature(&mut self, first: u8, body: &[u8]) -> Option<()> {
        match first & 0x7F {
            16 => self.issuers.push(Issuer::KeyId(body.to_vec())),
            33 => {
                let (version, fingerprint) = body.split_first()?;
                let issuer = Issuer::Fingerprint(*version, fingerprint.to_vec());
                self.issuers.push(issuer);
            }
            _ if self.kind == kind::SUBKEY_BINDING => {
                self.back_signature = Some(body.to_vec());
            }
            _ => return None,
        }
        Some(())
    }

    /// The key that made it, by the signature itself.
    pub(super) fn issuer(&self) -> Option<String> {
        let by_fingerprint = self.issuers.iter().find_map(|issuer| match issuer {
            Issuer::Fingerprint(_, fingerprint) => Some(fingerprint),
            Issuer::KeyId(_) => None,
        });
        let issuer = by_fingerprint.or_else(|| match self.issuers.first()? {
            Issuer::Fingerprint(_, bytes) | Issuer::KeyId(bytes) => Some(bytes),
        })?;
        Some(hex(issuer.iter().take(32)).to_ascii_uppercase())
    }
}

/// The type, with the bit for a condition, and the content of each subpacket. `None` if one is cut off.
fn subpackets(area: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let mut reader = Reader(area);
    std::iter::from_fn(move || {
        if reader.0.is_empty() {
            return None;
        }
        let length = reader.subpacket_length();
        let subpacket = length
            .and_then(|length| reader.take(length))
            .and_then(<[u8]>::split_first)
            .map(|(first, body)| (*first, body));
        if subpacket.is_none() {
            reader.0 = &[];
        }
        Some(subpacket)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
