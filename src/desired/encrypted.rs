//! Secrets that are encrypted in git, beside the definitions: `secrets/NAME.age`, in the
//! [age format](https://age-encryption.org/v1).
//!
//! They are encrypted to the recipients of `workspace.yaml`. A file shows how many recipients it has, and not who they are:
//! `encrypt` notes them in `secrets/recipients.txt`, with the hash of each file.
//!
//! Never: show a value or an identity, or decrypt a secret that nothing refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::x25519;
use sha2::{Digest as _, Sha256};

use crate::model::{Secret, SecretName, hex, read_at_most};

/// The directory of the encrypted secrets, in that of the definitions.
pub const DIRECTORY: &str = "secrets";
/// The file in it that lists the recipients of each secret.
pub const RECORD_FILE: &str = "recipients.txt";
/// The ending of the files.
pub const ENDING: &str = ".age";
/// The most recipients of a secret.
pub const MAX_RECIPIENTS: usize = 16;
/// The largest encrypted file, in bytes: a secret of 64 KiB with its recipients, in base64.
pub(crate) const MAX_ENCRYPTED: u64 = 128 << 10;
/// The largest file of identities in bytes, and the most identities in it.
const MAX_IDENTITY_FILE: u64 = 64 << 10;
const MAX_IDENTITIES: usize = 8;
/// The first line of an age file.
const INTRO: &str = "age-encryption.org/v1";
const FIRST_LINES: &str =
    "# The recipients of each secret, and the hash of its file. Written by calry-gitops encrypt.\n";

/// A public key to which secrets are encrypted: `age1…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipient(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a public key of age (age1…)")]
pub struct InvalidRecipient;

impl Recipient {
    /// Parses the public key of an X25519 identity, as `age-keygen` prints it.
    ///
    /// # Errors
    /// [`InvalidRecipient`] for anything else, also for keys of plugins and of SSH.
    pub fn parse(text: &str) -> Result<Self, InvalidRecipient> {
        let key: x25519::Recipient = text.parse().map_err(|_| InvalidRecipient)?;
        Ok(Self(key.to_string()))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An encrypted secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptedSecret {
    bytes: Vec<u8>,
    /// How many recipients it has; `None` if some are of another kind than [`Recipient`].
    recipients: Option<usize>,
}

impl fmt::Debug for EncryptedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedSecret({})", self.digest())
    }
}

/// Why a file is not an encrypted secret. The sentences complete "the file …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEncrypted {
    #[error("is not encrypted with age, or is damaged")]
    Format,
    #[error("has more than {MAX_RECIPIENTS} recipients")]
    TooMany,
}

/// Why an encrypted secret cannot be decrypted. The sentences complete "secret `name` …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    #[error("is encrypted for others: no identity of {} can decrypt it", .0.display())]
    OtherRecipients(PathBuf),
    #[error("does not decrypt: its file is damaged")]
    Damaged,
    #[error(transparent)]
    Identities(#[from] IdentityError),
}

/// Why the identities of the operator cannot be used. No message quotes the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot be decrypted, because the file of identities {file} cannot be read: {cause}")]
    Unreadable { file: String, cause: String },
    #[error(
        "cannot be decrypted, because {file} is not a file of age identities: a line must be a comment or begin with \
         AGE-SECRET-KEY-1, and there are 1 to {MAX_IDENTITIES}"
    )]
    Invalid { file: String },
}

impl EncryptedSecret {
    /// Reads the header of a file, with or without armor.
    ///
    /// # Errors
    /// [`InvalidEncrypted`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, InvalidEncrypted> {
        let mut binary = Vec::new();
        ArmoredReader::new(bytes.as_slice())
            .take(MAX_ENCRYPTED)
            .read_to_end(&mut binary)
            .map_err(|_| InvalidEncrypted::Format)?;
        let (mut known, mut others) = (0, false);
        let mut lines = binary.split(|byte| *byte == b'\n');
        if lines.next() != Some(INTRO.as_bytes()) {
            return Err(InvalidEncrypted::Format);
        }
        // The header ends with the line of its MAC.
        for line in lines.by_ref().take_while(|line| !line.starts_with(b"---")) {
            let Some(stanza) = line.strip_prefix(b"-> ") else {
                continue;
            };
            let kind = stanza
                .split(|byte| *byte == b' ')
                .next()
                .unwrap_or_default();
            match kind {
                b"X25519" => known += 1,
                // A stanza without a meaning, which every reader must skip.
                kind if kind.ends_with(b"-grease") => {}
                _ => others = true,
            }
            if known > MAX_RECIPIENTS {
                return Err(InvalidEncrypted::TooMany);
            }
        }
        // The library checks the form of the whole header.
        age::Decryptor::new_buffered(binary.as_slice()).map_err(|_| InvalidEncrypted::Format)?;
        Ok(Self {
            bytes,
            recipients: (!others).then_some(known),
        })
    }

    /// Encrypts a value to all recipients, as ASCII armor.
    ///
    /// # Errors
    /// An [`io::Error`](std::io::Error) if there is no recipient or no randomness.
    pub fn encrypt(value: &Secret, recipients: &BTreeSet<Recipient>) -> std::io::Result<Self> {
        let keys = recipients.iter().map(|key| {
            let key: Result<x25519::Recipient, _> = key.0.parse();
            key.map_err(std::io::Error::other)
        });
        let keys: Vec<x25519::Recipient> = keys.collect::<Result<_, _>>()?;
        let keys = keys.iter().map(|key| key as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(keys).map_err(std::io::Error::other)?;
        let mut bytes = Vec::new();
        let armor = ArmoredWriter::wrap_output(&mut bytes, Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armor)?;
        writer.write_all(value.expose().as_bytes())?;
        writer.finish()?.finish()?;
        Ok(Self {
            bytes,
            recipients: Some(recipients.len()),
        })
    }

    /// Its bytes, at most `max`.
    ///
    /// # Errors
    /// [`DecryptError`]; `Ok(None)` if it has more than `max` bytes.
    pub(crate) fn decrypt(
        &self,
        identities: &Identities,
        max: u64,
    ) -> Result<Option<Vec<u8>>, DecryptError> {
        let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(self.bytes.as_slice()))
            .map_err(|_| DecryptError::Damaged)?;
        let keys = identities.keys.iter().map(|key| key as &dyn age::Identity);
        let reader = decryptor.decrypt(keys).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => {
                DecryptError::OtherRecipients(identities.file.clone())
            }
            _ => DecryptError::Damaged,
        })?;
        read_at_most(reader, max).map_err(|_| DecryptError::Damaged)
    }

    /// The text of its file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash of its file: another encryption of the same value has another one.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{}", hex(&Sha256::digest(&self.bytes)))
    }
}

/// The operator's private keys. Their `Debug` shows the file only.
pub struct Identities {
    file: PathBuf,
    keys: Vec<x25519::Identity>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.file.display())
    }
}

impl Identities {
    /// Reads a file as `age-keygen` writes it: a line for each identity, and comments.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        let file = || path.display().to_string();
        let read = File::open(path).and_then(|file| read_at_most(file, MAX_IDENTITY_FILE));
        let bytes = read.map_err(|error| IdentityError::Unreadable {
            file: file(),
            cause: error.to_string(),
        })?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let keys = text.and_then(|text| {
            let lines = text.lines().map(str::trim);
            let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            keys.map(|line| line.parse().ok())
                .collect::<Option<Vec<_>>>()
        });
        let keys = keys.filter(|keys| (1..=MAX_IDENTITIES).contains(&keys.len()));
        let keys = keys.ok_or_else(|| IdentityError::Invalid { file: file() })?;
        Ok(Self {
            file: path.to_owned(),
            keys,
        })
    }

    /// Their public keys.
    #[must_use]
    pub fn recipients(&self) -> Vec<Recipient> {
        let keys = self.keys.iter();
        keys.map(|key| Recipient(key.to_public().to_string()))
            .collect()
    }
}

/// Who can decrypt each secret, as far as `encrypt` wrote it down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientRecord(BTreeMap<SecretName, RecordLine>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct RecordLine {
    /// The hash of the file that this is about.
    digest: String,
    recipients: BTreeSet<Recipient>,
}

impl RecipientRecord {
    /// Parses the file. A line that is not understood says nothing about its secret.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let name = SecretName::parse(words.next()?).ok()?;
            let digest = words.next()?.to_owned();
            let recipients = words.take(MAX_RECIPIENTS).map(Recipient::parse);
            let recipients = recipients.collect::<Result<_, _>>().ok()?;
            Some((name, RecordLine { digest, recipients }))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(line).collect())
    }

    /// Notes the recipients of a secret.
    pub fn note(
        &mut self,
        name: &SecretName,
        secret: &EncryptedSecret,
        recipients: &BTreeSet<Recipient>,
    ) {
        let line = RecordLine {
            digest: secret.digest(),
            recipients: recipients.clone(),
        };
        self.0.insert(name.clone(), line);
    }

    /// Keeps only the secrets that exist.
    pub fn retain(&mut self, exists: impl Fn(&SecretName) -> bool) {
        self.0.retain(|name, _| exists(name));
    }

    /// Who can decrypt this file of a secret; `None` if that is not noted.
    #[must_use]
    pub fn of(&self, name: &SecretName, secret: &EncryptedSecret) -> Option<&BTreeSet<Recipient>> {
        let line = self.0.get(name)?;
        (line.digest == secret.digest()).then_some(&line.recipients)
    }

    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|(name, RecordLine { digest, recipients })| {
                let recipients: Vec<&str> = recipients.iter().map(|key| key.0.as_str()).collect();
                format!("{name} {digest} {}\n", recipients.join(" "))
            });
        FIRST_LINES.to_owned() + &lines.collect::<String>()
    }
}

/// The encrypted secrets beside the definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptedSecrets {
    /// The secrets by name; `None` for a file that cannot be used, which is reported.
    pub files: BTreeMap<SecretName, Option<EncryptedSecret>>,
    pub record: RecipientRecord,
}

impl EncryptedSecrets {
    /// Why a secret is not encrypted to exactly these recipients, as far as that can be seen without an identity: a sentence
    /// that completes "secret `name` …".
    pub(crate) fn recipient_problem(
        &self,
        name: &SecretName,
        wanted: &BTreeSet<Recipient>,
    ) -> Option<String> {
        let secret = self.files.get(name)?.as_ref()?;
        let short = |key: &Recipient| key.0.chars().take(12).collect::<String>() + "…";
        let named = |keys: BTreeSet<&Recipient>| {
            let keys: Vec<String> = keys.into_iter().map(short).collect();
            keys.join(", ")
        };
        if let Some(noted) = self.record.of(name, secret) {
            let lacks: BTreeSet<_> = wanted.difference(noted).collect();
            let has: BTreeSet<_> = noted.difference(wanted).collect();
            return match (lacks.is_empty(), has.is_empty()) {
                (true, true) => None,
                (false, true) => Some(format!("is not encrypted to {}", named(lacks))),
                (true, false) => Some(format!("is still encrypted to {}", named(has))),
                (false, false) => Some(format!(
                    "is still encrypted to {}, and not yet to {}",
                    named(has),
                    named(lacks)
                )),
            };
        }
        let count = secret.recipients.filter(|count| *count != wanted.len())?;
        Some(format!(
            "is encrypted to {count} recipients, and workspace.yaml has {}",
            wanted.len()
        ))
    }

    /// The names of the secrets whose files differ from those of `before`.
    pub(crate) fn changed_since(&self, before: &Self) -> BTreeSet<SecretName> {
        let names = self.files.keys().chain(before.files.keys());
        let differs = |name: &&SecretName| self.files.get(*name) != before.files.get(*name);
        names.filter(differs).cloned().collect()
    }
}

/// The secret that a file of [`DIRECTORY`] has; `None` if its name is not that of a secret.
pub(crate) fn secret_of_file(file_name: &str) -> Option<SecretName> {
    SecretName::parse(file_name.strip_suffix(ENDING)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> (x25519::Identity, Recipient) {
        let identity = x25519::Identity::generate();
        let recipient = Recipient::parse(&identity.to_public().to_string()).unwrap();
        (identity, recipient)
    }

    fn identities(keys: Vec<x25519::Identity>) -> Identities {
        let file = PathBuf::from("keys.txt");
        Identities { file, keys }
    }

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).unwrap()
    }

    #[test]
    fn each_recipient_can_decrypt_a_secret_and_no_other_key() {
        let [(a, for_a), (b, for_b), (c, _)] = [identity(), identity(), identity()];
        let recipients = BTreeSet::from([for_a, for_b]);
        let secret = EncryptedSecret::encrypt(&Secret::new("hunter2"), &recipients).unwrap();
        let read = EncryptedSecret::parse(secret.bytes().to_vec()).unwrap();
        assert_eq!((read.recipients, &read), (Some(2), &secret));
        for key in [a, b] {
            let found = read.decrypt(&identities(vec![key]), 100).unwrap();
            assert_eq!(found.as_deref(), Some(&b"hunter2"[..]));
        }
        assert!(matches!(
            read.decrypt(&identities(vec![c]), 100),
            Err(DecryptError::OtherRecipients(_))
        ));
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(EncryptedSecret::encrypt(&Secret::new("a"), &BTreeSet::new()).is_err());
    }

    #[test]
    fn a_file_that_is_cut_changed_or_foreign_is_refused() {
        let (key, recipient) = identity();
        let secret =
            EncryptedSecret::encrypt(&Secret::new("hunter2"), &BTreeSet::from([recipient]));
        let bytes = secret.unwrap().bytes().to_vec();
        let keys = identities(vec![key]);
        for length in 0..bytes.len() - 1 {
            let cut = bytes.get(..length).unwrap().to_vec();
            let usable =
                EncryptedSecret::parse(cut).is_ok_and(|secret| secret.decrypt(&keys, 100).is_ok());
            assert!(!usable, "{length}");
        }
        for text in [
            "",
            "hunter2",
            "age-encryption.org/v1\n",
            "age-encryption.org/v2\n--- x\n",
        ] {
            let parsed = EncryptedSecret::parse(text.as_bytes().to_vec());
            assert_eq!(parsed, Err(InvalidEncrypted::Format), "{text}");
        }
    }

    #[test]
    fn recipients_are_counted_up_to_a_limit_unless_some_are_of_another_kind() {
        let count = |kinds: &[(&str, usize)]| {
            let stanza = |kind| format!("-> {kind} a\nAAAA\n");
            let stanzas = kinds
                .iter()
                .map(|(kind, count)| stanza(kind).repeat(*count));
            let (stanzas, mac): (String, _) = (stanzas.collect(), "A".repeat(43));
            let text = format!("{INTRO}\n{stanzas}--- {mac}\n0123456789abcdef");
            EncryptedSecret::parse(text.into_bytes()).map(|secret| secret.recipients)
        };
        let most = ("X25519", MAX_RECIPIENTS);
        assert_eq!(count(&[most]), Ok(Some(MAX_RECIPIENTS)));
        assert_eq!(count(&[most, ("any-grease", 1)]), Ok(Some(MAX_RECIPIENTS)));
        assert_eq!(count(&[most, ("ssh-ed25519", 1)]), Ok(None));
        let more = ("X25519", MAX_RECIPIENTS + 1);
        assert_eq!(count(&[more]), Err(InvalidEncrypted::TooMany));
    }

    #[test]
    fn what_decrypts_to_more_than_the_limit_is_not_read() {
        let (key, recipient) = identity();
        let long = Secret::new("x".repeat(101));
        let secret = EncryptedSecret::encrypt(&long, &BTreeSet::from([recipient])).unwrap();
        assert_eq!(secret.decrypt(&identities(vec![key]), 100), Ok(None));
    }

    #[test]
    fn a_record_says_who_can_decrypt_a_file_and_nothing_about_another_file() {
        let [(_, a), (_, b)] = [identity(), identity()];
        let both = BTreeSet::from([a.clone(), b.clone()]);
        let one = BTreeSet::from([a]);
        let encrypt = |to: &BTreeSet<Recipient>| {
            EncryptedSecret::encrypt(&Secret::new("hunter2"), to).unwrap()
        };
        let (first, second) = (encrypt(&one), encrypt(&one));
        let mut record = RecipientRecord::default();
        record.note(&name("key"), &first, &one);
        let mut secrets = EncryptedSecrets {
            files: [(name("key"), Some(first))].into(),
            record: RecipientRecord::parse(&record.text()),
        };
        let problem = |secrets: &EncryptedSecrets, to| secrets.recipient_problem(&name("key"), to);
        assert_eq!(secrets.record, record);
        record.note(&name("other"), &second, &one);
        record.retain(|kept| *kept == name("key"));
        assert_eq!(secrets.record, record);
        assert_eq!(problem(&secrets, &one), None);
        assert!(
            problem(&secrets, &both)
                .unwrap()
                .starts_with("is not encrypted to age1")
        );
        let other = BTreeSet::from([b]);
        let sentence = problem(&secrets, &other).unwrap();
        assert!(sentence.contains(", and not yet to age1"), "{sentence}");
        // Without a note, the number is what a file shows.
        secrets.files.insert(name("key"), Some(second));
        assert_eq!(problem(&secrets, &other), None);
        assert_eq!(
            problem(&secrets, &both).as_deref(),
            Some("is encrypted to 1 recipients, and workspace.yaml has 2")
        );
    }

    #[test]
    fn a_file_of_identities_is_what_age_keygen_writes_and_nothing_else() {
        use age::secrecy::ExposeSecret as _;
        let (key, recipient) = identity();
        let text = key.to_string().expose_secret().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.txt");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Identities::read(&path)
        };
        let written = format!("# created: 2026-11-29\n# public key: age1\n{text}\n");
        assert_eq!(read(&written).unwrap().recipients(), [recipient]);
        let many = format!("{text}\n").repeat(MAX_IDENTITIES + 1);
        for bad in ["", "# nothing\n", "hunter2\n", &many] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("is not a file of age identities"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let missing = Identities::read(&dir.path().join("missing"));
        assert!(matches!(missing, Err(IdentityError::Unreadable { .. })));
    }
}
