//! The state files: one small file for each workspace, in a directory that several workspaces may share.
//!
//! A file that cannot be used is renamed, and its content is lost; a directory that cannot be written is logged once.
//!
//! Never: hold a value below `partnerKey`, or stop a reconciliation.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{
    Fingerprint, FingerprintContext, FingerprintKey, KeySection, LastLink, PartnerKey, Provider,
    Secret, hex, is_left_over, open_without_waiting, read_at_most, write_temporary,
};
use crate::plan::{Cause, Digest, LastApplied, Mismatch, PlainValue};

/// A file of another version is renamed and not used.
const VERSION: u32 = 1;
/// The largest file in bytes: about ten thousand providers.
const MAX: u64 = 16 << 20;
/// The largest fingerprint key in bytes.
const MAX_KEY: u64 = 4096;
/// The prefix of files that are being written.
const UNFINISHED: &str = ".state-";
/// An unfinished file of this age has no writer any more: it was killed.
const STALE: Duration = Duration::from_secs(600);
/// How long the daemon waits for the directory. A file system that takes longer hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const KEY_FILE: &str = "fingerprint.key";

/// The fingerprint key and the state directory.
#[derive(Clone, Debug)]
pub struct StateStore {
    key: FingerprintKey,
    directory: Option<PathBuf>,
    /// The text of `key` if it was made by this process and no file holds it yet.
    unsaved_key: Option<Secret>,
    /// Whether the directory could be used. If not, each write tries again.
    usable: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot generate a fingerprint key, because the system has no random numbers: {0}")]
pub struct NoRandomness(getrandom::Error);

pub(super) struct Remembered {
    pub(super) last_applied: LastApplied,
    pub(super) kept: Vec<RememberedField>,
}

/// A field that did not converge. The forms of its parts are those of the file, so that no other document can change them.
#[derive(Serialize, Deserialize)]
pub(super) struct RememberedField {
    #[serde(flatten, with = "StoredMismatch")]
    pub(super) mismatch: Mismatch,
    #[serde(with = "StoredCause")]
    pub(super) cause: Cause,
    pub(super) failures: u32,
    pub(super) until: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Mismatch")]
struct StoredMismatch {
    path: String,
    sent: Option<PlainValue>,
    kept: Option<PlainValue>,
    sensitive: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Cause", rename_all = "camelCase")]
enum StoredCause {
    Change,
    Drift,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    version: u32,
    workspace: String,
    /// The id of the key of the fingerprints.
    fingerprint_key: String,
    providers: BTreeMap<String, Item>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    parts: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query_params: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    not_converged: Vec<RememberedField>,
}

impl StateStore {
    /// Without a state directory.
    pub fn in_process() -> Result<Self, NoRandomness> {
        let usable = Arc::new(AtomicBool::new(true));
        Ok(Self {
            key: new_key()?.0,
            directory: None,
            unsaved_key: None,
            usable,
        })
    }

    /// With a state directory. If the operator sets no key, one is stored in the directory. An unusable directory is logged,
    /// not an error; each write tries it again.
    pub fn open(directory: &Path, key: Option<FingerprintKey>) -> Result<Self, NoRandomness> {
        let (new, new_text) = new_key()?;
        let (found, key) = match (create(directory), key) {
            (Ok(()), None) => match generated_key(directory, &new, &new_text) {
                Ok(key) => (Ok(()), Some(key)),
                Err(error) => (Err(error), None),
            },
            (made, key) => (made, key),
        };
        let usable = Arc::new(AtomicBool::new(found.is_ok()));
        if let Err(error) = found {
            tracing::warn!(
                "the state directory {} cannot be used: {error}; {LOST_AT_END}",
                directory.display()
            );
        }
        let directory = Some(directory.to_owned());
        let unsaved_key = key.is_none().then_some(new_text);
        Ok(Self {
            key: key.unwrap_or(new),
            directory,
            unsaved_key,
            usable,
        })
    }

    /// Whether the directory could be used when it was last tried. True without a directory.
    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// Writes a file atomically, readable by this user only. If the directory could not be used before, it is created first.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(directory) = self.directory.as_ref().filter(|_| !self.is_usable()) {
            create(directory)?;
            if let Some(key) = &self.unsaved_key {
                save_key(directory, key)?;
            }
            self.usable.store(true, Ordering::Relaxed);
        }
        write(path, bytes)
    }

    pub(super) const fn key(&self) -> &FingerprintKey {
        &self.key
    }

    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The state file of a workspace; `None` without a state directory.
    pub(super) fn file(&self, workspace: &str) -> Option<PathBuf> {
        let name = file_stem(workspace);
        let directory = self.directory.as_ref();
        directory.map(|directory| directory.join(format!("{name}.json")))
    }

    /// Loads the state of a workspace. It blocks as long as the file system does.
    pub(super) fn load(&self, workspace: &str) -> BTreeMap<Provider, Remembered> {
        let Some(path) = self.file(workspace).filter(|_| self.is_usable()) else {
            return BTreeMap::new();
        };
        let read = match read(&path, MAX) {
            Ok(None) => return BTreeMap::new(),
            Ok(Some(bytes)) => self.parse(workspace, &bytes),
            Err(why) => Err(why),
        };
        read.unwrap_or_else(|why| {
            rename_damaged(
                &path,
                &why,
                "until a provider was in sync once, drift cannot be distinguished from changes; masked values are sent once more, and \
                 fields that did not converge are tried again",
            );
            BTreeMap::new()
        })
    }

    /// Parses the text of a state file and writes it again, without a directory.
    ///
    /// # Errors
    /// Why it cannot be used. The sentence quotes nothing of it.
    pub fn rewrite(&self, workspace: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (mut states, mut fields) = (Vec::new(), Vec::new());
        for (provider, remembered) in self.parse(workspace, bytes)? {
            states.push((provider, remembered.last_applied));
            fields.push(remembered.kept);
        }
        let items = states.iter().zip(fields);
        Ok(self.document(
            workspace,
            items.map(|((provider, last), kept)| (provider, last, kept)),
        ))
    }

    fn parse(
        &self,
        workspace: &str,
        bytes: &[u8],
    ) -> Result<BTreeMap<Provider, Remembered>, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        // The parser's error may quote the text.
        let foreign = || "it was not written by calry-gitops".to_owned();
        let Version { version } = serde_json::from_slice(bytes).map_err(|_| foreign())?;
        if version != u64::from(VERSION) {
            return Err(format!(
                "it is of version {version}, and this program reads version {VERSION}"
            ));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|_| foreign())?;
        if document.workspace != workspace {
            return Err("it belongs to another workspace".to_owned());
        }
        let same_key = document.fingerprint_key == self.key.id();
        if !same_key {
            tracing::warn!(
                "the state was written with another fingerprint key; the state of providers with a partnerKey is lost"
            );
        }
        let usable = |(_, item): &(String, Item)| {
            same_key || (item.headers.is_none() && item.query_params.is_none())
        };
        let providers = document
            .providers
            .into_iter()
            .filter(usable)
            .map(|(provider, item)| {
                let provider = Provider::parse(&provider).ok()?;
                let remembered = self.restore(workspace, &provider, item)?;
                Some((provider, remembered))
            });
        providers.collect::<Option<_>>().ok_or_else(foreign)
    }

    /// `None` if it is malformed.
    fn restore(&self, workspace: &str, provider: &Provider, item: Item) -> Option<Remembered> {
        let Item {
            parts,
            headers,
            query_params,
            updated_at,
            not_converged,
        } = item;
        let values = |section: KeySection, values: Option<BTreeMap<String, String>>| {
            let print = |(name, text): (String, String)| {
                let (workspace, provider) = (workspace.to_owned(), provider.clone());
                let place = FingerprintContext {
                    workspace,
                    provider,
                    section,
                    name: name.clone(),
                };
                Some((name, Fingerprint::new(self.key.clone(), place, &text)?))
            };
            match values {
                None => Some(None),
                Some(values) => values
                    .into_iter()
                    .map(print)
                    .collect::<Option<BTreeMap<_, _>>>()
                    .map(Some),
            }
        };
        let partner_key = PartnerKey {
            headers: values(KeySection::Headers, headers)?,
            query_params: values(KeySection::QueryParams, query_params)?,
        };
        let kept = not_converged
            .iter()
            .map(|field| (field.mismatch.path.clone(), field.cause))
            .collect();
        let parts = Digest::parse(&parts).ok()?;
        let last_applied = LastApplied {
            parts,
            partner_key,
            updated_at,
            kept,
        };
        Some(Remembered {
            last_applied,
            kept: not_converged,
        })
    }

    /// The file of a workspace as text. Equal states have equal texts.
    pub(super) fn document<'a>(
        &self,
        workspace: &str,
        providers: impl Iterator<Item = (&'a Provider, &'a LastApplied, Vec<RememberedField>)>,
    ) -> Vec<u8> {
        let item = |(provider, last_applied, not_converged): (&Provider, &LastApplied, _)| {
            let LastApplied {
                parts,
                partner_key,
                updated_at,
                kept: _,
            } = last_applied;
            let values = |section| {
                let values: &BTreeMap<String, Fingerprint> = partner_key.section(section)?;
                Some(
                    values
                        .iter()
                        .map(|(name, print)| (name.clone(), print.as_str().to_owned()))
                        .collect(),
                )
            };
            let item = Item {
                parts: parts.to_string(),
                headers: values(KeySection::Headers),
                query_params: values(KeySection::QueryParams),
                updated_at: updated_at.clone(),
                not_converged,
            };
            (provider.to_string(), item)
        };
        let document = Document {
            version: VERSION,
            workspace: workspace.to_owned(),
            fingerprint_key: self.key.id(),
            providers: providers.map(item).collect(),
        };
        #[expect(clippy::expect_used, reason = "maps of strings always serialize")]
        let mut text = serde_json::to_vec_pretty(&document).expect("a document");
        text.push(b'\n');
        text
    }
}

/// The consequence of an unusable directory.
pub(super) const LOST_AT_END: &str = "the daemon continues, but a restart now loses the last applied state and the fields that \
     did not converge";

/// The begin of the name of a workspace's files.
pub(super) fn file_stem(workspace: &str) -> String {
    // An id is foreign text: only a plain one becomes a file name.
    let plain = (1..=64).contains(&workspace.len())
        && workspace
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    if plain {
        workspace.to_owned()
    } else {
        format!("sha256-{}", hex(&Sha256::digest(workspace)))
    }
}

/// The content of a regular file; `None` if there is none.
pub(super) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, String> {
    let file = match open_without_waiting(path, LastLink::Refuse) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    match read_at_most(file, max) {
        Ok(None) => Err(format!("it has more than {max} bytes")),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!("it cannot be read: {error}")),
    }
}

/// Renames an unusable file, so that it can be examined. Only the last one is kept.
pub(super) fn rename_damaged(path: &Path, why: &str, lost: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    let done = match fs::rename(path, &aside) {
        Ok(()) => "it was renamed to *.damaged".to_owned(),
        Err(error) => format!("it cannot be renamed: {error}"),
    };
    tracing::warn!(
        "the state file {} cannot be used: {why}; {done}. Consequence: {lost}",
        path.display()
    );
}

/// Creates the directory and removes unfinished files of killed processes.
fn create(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    remove_unfinished(directory);
    Ok(())
}

/// Stores the key of this process in the directory. Another key there is renamed: its files are about to be written with
/// this one.
fn save_key(directory: &Path, key: &Secret) -> io::Result<()> {
    let path = directory.join(KEY_FILE);
    let text = format!("{}\n", key.expose());
    match read(&path, MAX_KEY) {
        Ok(Some(bytes)) if bytes == text.as_bytes() => return Ok(()),
        Ok(None) => {}
        Ok(Some(_)) => rename_damaged(
            &path,
            "it holds another key than this process uses",
            LOST_KEY,
        ),
        Err(why) => rename_damaged(&path, &why, LOST_KEY),
    }
    write(&path, text.as_bytes())
}

/// The consequence of another fingerprint key.
const LOST_KEY: &str = "the state of providers with a partnerKey is lost";

/// Writes a file atomically, readable by this user only.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    write_temporary(directory, UNFINISHED, bytes)?.persist(path)?;
    // Makes the rename durable. If that fails, the file exists all the same.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// Removes unfinished files of killed processes, but not those that another daemon may be writing.
fn remove_unfinished(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| is_left_over(entry, UNFINISHED, STALE)) {
        // A remaining file does no harm.
        let _ = fs::remove_file(entry.path());
    }
}

/// The generated key of the directory. If there is none, stores the new one.
fn generated_key(
    directory: &Path,
    new: &FingerprintKey,
    new_text: &Secret,
) -> io::Result<FingerprintKey> {
    let path = directory.join(KEY_FILE);
    let existing = || match read(&path, MAX_KEY) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8(bytes).ok();
            let key = text.and_then(|text| FingerprintKey::new(&Secret::new(text)).ok());
            key.map(Some)
                .ok_or_else(|| "it does not hold a key".to_owned())
        }
        Ok(None) => Ok(None),
        Err(why) => Err(why),
    };
    match existing() {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => {}
        Err(why) => rename_damaged(&path, &why, LOST_KEY),
    }
    let text = format!("{}\n", new_text.expose());
    let made = write_temporary(directory, UNFINISHED, text.as_bytes())
        .and_then(|file| file.persist_noclobber(&path).map_err(|error| error.error));
    match made {
        Ok(_) => Ok(new.clone()),
        // Another daemon was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            existing().ok().flatten().ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// A random key, and its text.
fn new_key() -> Result<(FingerprintKey, Secret), NoRandomness> {
    let mut bytes = [0; FingerprintKey::MIN_LEN];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    let text = Secret::new(hex(&bytes));
    let key = FingerprintKey::new(&text).map_err(|_| NoRandomness(getrandom::Error::UNEXPECTED))?;
    Ok((key, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_workspace_is_a_file_name_only_if_it_is_plain() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateStore::open(directory.path(), None).unwrap();
        let name = |workspace: &str| {
            let path = state.file(workspace).unwrap();
            let name = path.strip_prefix(directory.path()).unwrap();
            name.to_str().unwrap().to_owned()
        };
        let plain = ["0a-f9".to_owned(), "a".repeat(64)];
        for workspace in &plain {
            assert_eq!(name(workspace), format!("{workspace}.json"));
        }
        let hostile = [
            "".to_owned(),
            "../a".to_owned(),
            "g".to_owned(),
            "a".repeat(65),
        ];
        for workspace in &hostile {
            let digest = hex(&Sha256::digest(workspace));
            assert_eq!(name(workspace), format!("sha256-{digest}.json"));
        }
        assert_eq!(StateStore::in_process().unwrap().file("a"), None);
    }

    #[test]
    fn only_a_regular_file_of_limited_size_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "12345678").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert_eq!(read(&path("file"), 8), Ok(Some(b"12345678".to_vec())));
        assert_eq!(read(&path("none"), 8), Ok(None));
        for (name, max, expected) in [
            ("file", 7, "it has more than 7 bytes"),
            ("link", 8, "it cannot be read: "),
            ("pipe", 8, "it is not a regular file"),
            ("", 8, "it is not a regular file"),
        ] {
            let why = read(&path(name), max).unwrap_err();
            assert!(why.starts_with(expected), "{name}: {why}");
        }
    }

    #[test]
    fn daemons_that_start_at_once_in_one_directory_use_one_key() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(4);
            let open = || {
                start.wait();
                let state = StateStore::open(directory.path(), None).unwrap();
                assert!(state.is_usable());
                state.key().id()
            };
            let ids: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
                let daemons: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                let ids = daemons.into_iter().map(|daemon| daemon.join().unwrap());
                ids.collect()
            });
            assert_eq!(ids.len(), 1);
        }
    }

    #[test]
    fn a_key_that_could_not_be_saved_replaces_another_one_as_soon_as_it_can_be() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let in_state = |name: &str| directory.join(name);
        let (key, damaged) = (in_state(KEY_FILE), in_state("fingerprint.key.damaged"));
        fs::write(&directory, "in the way").unwrap();
        let state = StateStore::open(&directory, None).unwrap();
        assert!(state.write(&in_state("a.json"), b"{}").is_err() && !state.is_usable());
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(&key, "another-key".repeat(8)).unwrap();
        state.write(&in_state("a.json"), b"{}").unwrap();
        assert!(state.is_usable() && damaged.exists());
        assert_eq!(fs::read(in_state("a.json")).unwrap(), b"{}");
        let same = |state: &StateStore| {
            let opened = StateStore::open(&directory, None).unwrap();
            opened.key().id() == state.key().id()
        };
        assert!(same(&state));
        // Its own key is left alone.
        fs::remove_file(&damaged).unwrap();
        state.usable.store(false, Ordering::Relaxed);
        state.write(&in_state("a.json"), b"{}").unwrap();
        assert!(same(&state) && !damaged.exists());
    }

    #[test]
    fn a_file_of_another_fingerprint_key_counts_for_providers_without_a_partner_key_only() {
        let state = StateStore::in_process().unwrap();
        let text = |key: &str| {
            let parts = format!("sha256:{}", "a".repeat(64));
            let document = serde_json::json!({
                "version": VERSION,
                "workspace": "w",
                "fingerprintKey": key,
                "providers": {
                    "A": {"parts": parts, "updatedAt": "1"},
                    "B": {"parts": parts, "headers": {}},
                    "C": {"parts": parts, "queryParams": {}},
                    "D": {"parts": parts, "headers": {}, "queryParams": {}},
                },
            });
            document.to_string()
        };
        let known = |key: &str| {
            let rewritten = state.rewrite("w", text(key).as_bytes()).unwrap();
            // A file is written in one form only.
            assert_eq!(state.rewrite("w", &rewritten).unwrap(), rewritten);
            let document: serde_json::Value = serde_json::from_slice(&rewritten).unwrap();
            let providers = document["providers"].as_object().unwrap();
            providers.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(known(&state.key().id()), ["A", "B", "C", "D"]);
        assert_eq!(known("of another key"), ["A"]);
        let wrong = text("").replace("sha256:", "");
        assert!(state.rewrite("w", wrong.as_bytes()).is_err());
        assert!(state.rewrite("another", text("").as_bytes()).is_err());
    }
}
