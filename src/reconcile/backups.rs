//! Backups: before an update is sent, the definition that it replaces is saved, encrypted to public keys. The program that
//! writes a backup cannot read it.
//!
//! A backup is `DIR/WORKSPACE-ID/PROVIDER/TIME.age`, so that a person with the private key needs only `age` to read it.
//!
//! Never: overwrite or remove the newest backup of a provider, or leave a file that is not complete under the name of one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, iter};

use jiff::{SignedDuration, Timestamp, Unit};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::desired::encrypted::{
    DecryptError, EncryptedSecret, Identities, MAX_RECIPIENTS, Recipient,
};
use crate::live::{Backup, InvalidBackup, MAX_BACKUP};
use crate::machine;
use crate::model::{Provider, hex, is_left_over, read_at_most, write_temporary};

/// The most backups of a provider.
pub const MAX_BACKUPS: usize = 50;
/// The age at which a backup is removed, unless it is the newest.
pub const MAX_AGE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// The largest encrypted backup that is read, in bytes.
pub const MAX_ENCRYPTED: u64 = 12 << 20;
/// How long an update waits for its backup.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many backups are written at once. Those that a file system never ends count as well, so that they cannot take up
/// every thread.
pub const AT_ONCE: usize = 2;
/// The ending of the files.
const ENDING: &str = ".age";
/// The beginning of the names of files that are being written.
const UNFINISHED: &str = ".unfinished-";
/// After this time, an unfinished file is left over from a process that was killed.
const LEFT_OVER: Duration = Duration::from_secs(3600);
/// The most names that are read of a directory.
const MAX_NAMES: usize = 10_000;

/// Where backups are saved.
pub trait BackupStore: fmt::Debug + Send + Sync {
    /// Saves a backup durably. It may block.
    ///
    /// # Errors
    /// Why it was not saved: a sentence without a value.
    fn save(&self, backup: &Backup) -> Result<(), String>;
}

/// A store, with limits for time and number around it.
#[derive(Clone, Debug)]
pub struct Backups {
    store: Arc<dyn BackupStore>,
    permits: Arc<Semaphore>,
}

impl Backups {
    #[must_use]
    pub fn new(store: Arc<dyn BackupStore>) -> Self {
        Self {
            store,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    pub(super) async fn save(&self, backup: Backup) -> Result<(), String> {
        let saving = async {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                return Err("the store is closed".to_owned());
            };
            let store = Arc::clone(&self.store);
            let save = move || {
                let _permit = permit;
                store.save(&backup)
            };
            let saved = machine::spawn_blocking(save).await;
            // The panic message may quote a value.
            saved.unwrap_or_else(|_| Err("an internal error ended it".to_owned()))
        };
        let saved = tokio::time::timeout(PATIENCE, saving).await;
        saved.unwrap_or_else(|_| {
            Err(format!(
                "the directory of the backups did not answer within {} s",
                PATIENCE.as_secs()
            ))
        })
    }
}

/// A directory of encrypted backups.
pub struct BackupDirectory {
    path: PathBuf,
    recipients: BTreeSet<Recipient>,
    /// The hash of the definition in the newest backup of each directory, and its file.
    newest: Mutex<BTreeMap<PathBuf, (Vec<u8>, PathBuf)>>,
}

impl fmt::Debug for BackupDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupDirectory({})", self.path.display())
    }
}

/// Why there is no directory of backups. The sentences are about the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--backup-recipient must be given 1 to {MAX_RECIPIENTS} times")]
pub struct InvalidRecipients;

impl BackupDirectory {
    /// # Errors
    /// [`InvalidRecipients`].
    pub fn new(path: PathBuf, recipients: BTreeSet<Recipient>) -> Result<Self, InvalidRecipients> {
        if !(1..=MAX_RECIPIENTS).contains(&recipients.len()) {
            return Err(InvalidRecipients);
        }
        Ok(Self {
            path,
            recipients,
            newest: Mutex::default(),
        })
    }
}

impl BackupStore for BackupDirectory {
    fn save(&self, backup: &Backup) -> Result<(), String> {
        let directory = provider_directory(&self.path, &backup.workspace.id, &backup.live.provider);
        let content = backup.content_hash();
        let newest = self.newest.lock().get(&directory).cloned();
        // An update that is tried again, or that undoes the same edit again, replaces what the newest backup has.
        if let Some((saved, file)) = newest
            && saved == content
            && list_directory(&directory)
                .is_ok_and(|all| all.first().is_some_and(|newest| newest.path == file))
        {
            return Ok(());
        }
        let cannot = |why: io::Error| format!("cannot write to {}: {why}", directory.display());
        let encrypted = EncryptedSecret::encrypt(&backup.write(), &self.recipients)
            .map_err(|why| format!("it cannot be encrypted: {why}"))?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&directory).map_err(cannot)?;
        let file = write(&directory, backup.time, encrypted.bytes()).map_err(cannot)?;
        remove_old(&directory, &file, backup.time);
        self.newest.lock().insert(directory, (content, file));
        Ok(())
    }
}

/// Writes a file that did not exist. Returns its path.
fn write(directory: &Path, time: Timestamp, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut file = write_temporary(directory, UNFINISHED, bytes)?;
    let millisecond = SignedDuration::from_millis(1);
    let times = iter::successors(Some(time), |time| time.checked_add(millisecond).ok());
    for time in times.take(100) {
        let path = directory.join(file_name(time));
        match file.persist_noclobber(&path) {
            Ok(_) => {
                // A backup counts once it would outlive a power cut.
                File::open(directory)?.sync_all()?;
                return Ok(path);
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
            Err(error) => return Err(error.error),
        }
    }
    Err(io::Error::other("other processes write backups there"))
}

/// Removes backups that are too old or too many, and what killed processes have left; never the newest one, which is what was
/// written, or later. If that fails, the next backup tries again.
fn remove_old(directory: &Path, written: &Path, now: Timestamp) {
    for (at, backup) in list_directory(directory)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let is_old = now.duration_since(backup.time) > MAX_AGE;
        if backup.path != written && (at >= MAX_BACKUPS || is_old) {
            let _ = fs::remove_file(&backup.path);
        }
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let entries = entries.take(MAX_NAMES);
    for entry in entries.filter(|entry| is_left_over(entry, UNFINISHED, LEFT_OVER)) {
        let _ = fs::remove_file(entry.path());
    }
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFile {
    /// When the definition was replaced.
    pub time: Timestamp,
    pub path: PathBuf,
}

/// A backup cannot be read. The sentences name its file and never quote it.
#[derive(Debug, thiserror::Error)]
pub enum UnusableBackup {
    #[error("the backup {path} cannot be read: {1}", path = .0.display())]
    Unreadable(PathBuf, io::Error),
    #[error("the backup {} is larger than {} MiB; is it a backup?", .0.display(), MAX_ENCRYPTED >> 20)]
    TooLarge(PathBuf),
    #[error("the backup {path} {1}", path = .0.display())]
    Encrypted(PathBuf, DecryptError),
    #[error("the backup {path} {1}", path = .0.display())]
    Invalid(PathBuf, InvalidBackup),
}

impl BackupFile {
    /// Decrypts the backup.
    ///
    /// # Errors
    /// [`UnusableBackup`].
    pub fn read(&self, identities: &Identities) -> Result<Backup, UnusableBackup> {
        let path = || self.path.clone();
        let bytes = File::open(&self.path)
            .and_then(|file| read_at_most(file, MAX_ENCRYPTED))
            .map_err(|why| UnusableBackup::Unreadable(path(), why))?
            .ok_or_else(|| UnusableBackup::TooLarge(path()))?;
        let text = EncryptedSecret::parse(bytes)
            .map_err(|_| DecryptError::Damaged)
            .and_then(|encrypted| encrypted.decrypt(identities, MAX_BACKUP))
            .map_err(|why| UnusableBackup::Encrypted(path(), why))?
            .ok_or_else(|| UnusableBackup::TooLarge(path()))?;
        Backup::parse(&text).map_err(|why| UnusableBackup::Invalid(path(), why))
    }

    /// The backups of a provider in every workspace, the newest first, each with the name of its workspace's directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list_all(directory: &Path, provider: &Provider) -> io::Result<Vec<(String, Self)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory)?.take(MAX_NAMES) {
            let entry = entry?;
            let workspace = entry.file_name().to_string_lossy().into_owned();
            let backups = list_directory(&entry.path().join(provider.as_str()));
            // A file beside the directories of workspaces has no backups.
            all.extend(
                backups
                    .unwrap_or_default()
                    .into_iter()
                    .map(|one| (workspace.clone(), one)),
            );
        }
        all.sort_by_key(|(_, backup)| Reverse(backup.time));
        Ok(all)
    }

    /// The backups of a provider, the newest first; none if there is no directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(directory: &Path, workspace: &str, provider: &Provider) -> io::Result<Vec<Self>> {
        list_directory(&provider_directory(directory, workspace, provider))
    }
}

fn list_directory(directory: &Path) -> io::Result<Vec<BackupFile>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for entry in entries.take(MAX_NAMES) {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(time) = name.and_then(time_of) {
            all.push(BackupFile { time, path });
        }
    }
    all.sort_by_key(|backup| Reverse(backup.time));
    Ok(all)
}

fn provider_directory(directory: &Path, workspace: &str, provider: &Provider) -> PathBuf {
    directory
        .join(directory_of_workspace(workspace))
        .join(provider.as_str())
}

/// The name of a workspace's directory: its id, or a hash of an id that is no name of a file.
fn directory_of_workspace(id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=64).contains(&id.len()) && id.bytes().all(is_plain) {
        id.to_owned()
    } else {
        format!("sha256.{}", hex(&Sha256::digest(id.as_bytes())))
    }
}

/// A name that sorts by time, and that every file system takes: RFC 3339 with `-` instead of `:`.
fn file_name(time: Timestamp) -> String {
    let time = time.round(Unit::Millisecond).unwrap_or(time);
    format!("{}{ENDING}", format!("{time:.3}").replace(':', "-"))
}

fn time_of(name: &str) -> Option<Timestamp> {
    let (date, time) = name.strip_suffix(ENDING)?.split_once('T')?;
    format!("{date}T{}", time.replace('-', ":")).parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::model::{Live, LiveProblems, LiveValue, PartnerKey, Secret, Workspace};

    fn recipient() -> (age::x25519::Identity, Recipient) {
        let identity = age::x25519::Identity::generate();
        let recipient = Recipient::parse(&identity.to_public().to_string()).unwrap();
        (identity, recipient)
    }

    fn store(directory: &Path) -> (BackupDirectory, age::x25519::Identity) {
        let (identity, recipient) = recipient();
        let recipients = BTreeSet::from([recipient]);
        (
            BackupDirectory::new(directory.to_owned(), recipients).unwrap(),
            identity,
        )
    }

    fn backup(time: &str, icon: &str) -> Backup {
        let headers = BTreeMap::from([
            (
                "x-api-key".to_owned(),
                LiveValue::from(Secret::new("hunter2")),
            ),
            ("masked".to_owned(), LiveValue::Mask),
        ]);
        Backup {
            time: time.parse().unwrap(),
            workspace: Workspace {
                id: "w-1".to_owned(),
                name: "Acme".to_owned(),
                slug: "acme".to_owned(),
            },
            commit: Some("c0ffee".to_owned()),
            digest: None,
            live: Live {
                id: "1".to_owned(),
                name: "Hostaway".to_owned(),
                provider: Provider::parse("HOSTAWAY").unwrap(),
                icon: Some(icon.to_owned()),
                partner_key: PartnerKey {
                    headers: Some(headers),
                    query_params: None,
                },
                fields: BTreeMap::from([(
                    "listing".to_owned(),
                    BTreeMap::from([("name".to_owned(), true), ("type".to_owned(), false)]),
                )]),
                updated_at: time.to_owned(),
                problems: LiveProblems {
                    query_params: Some("no".to_owned()),
                    ..LiveProblems::default()
                },
            },
        }
    }

    fn files(directory: &Path) -> Vec<String> {
        let list = BackupFile::list(directory, "w-1", &Provider::parse("HOSTAWAY").unwrap());
        let list = list.unwrap().into_iter();
        list.map(|one| one.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn without_a_directory_there_are_no_backups_and_what_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(files(directory.path()).is_empty());
        fs::write(directory.path().join("w-1"), "").unwrap();
        let provider = Provider::parse("HOSTAWAY").unwrap();
        assert!(BackupFile::list(directory.path(), "w-1", &provider).is_err());
    }

    #[test]
    fn a_backup_is_read_only_with_the_private_key_and_has_the_whole_definition() {
        let directory = tempfile::tempdir().unwrap();
        let (store, identity) = store(directory.path());
        let backup = backup("2026-11-29T06:01:23.123Z", "https://e.com/a");
        store.save(&backup).unwrap();
        let path = directory
            .path()
            .join("w-1/HOSTAWAY/2026-11-29T06-01-23.123Z.age");
        let bytes = fs::read(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let of_directory = fs::metadata(directory.path().join("w-1")).unwrap();
        assert_eq!(of_directory.permissions().mode() & 0o777, 0o700);
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"));
        let text = age::decrypt(&identity, &bytes).unwrap();
        assert_eq!(Backup::parse(&text).unwrap(), backup);
        assert!(age::decrypt(&recipient().0, &bytes).is_err());
    }

    #[test]
    fn the_newest_backups_are_kept_and_the_last_one_whatever_its_age() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = store(directory.path());
        for minute in 0..=MAX_BACKUPS + 3 {
            let time = format!("2026-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60);
            store
                .save(&backup(&time, &format!("https://e.com/{minute}")))
                .unwrap();
        }
        let all = files(directory.path());
        assert_eq!(all.len(), MAX_BACKUPS);
        assert_eq!(all[0], "2026-01-01T00-53-00.000Z.age");
        // The last one is kept for exactly ninety days, and then only the new one; a clock that is behind removes neither it
        // nor the newest.
        store
            .save(&backup("2026-04-01T00:53:00Z", "https://e.com/later"))
            .unwrap();
        assert_eq!(files(directory.path()).len(), 2);
        store
            .save(&backup("2026-07-01T00:00:00Z", "https://e.com/new"))
            .unwrap();
        assert_eq!(files(directory.path()), ["2026-07-01T00-00-00.000Z.age"]);
        store
            .save(&backup("2020-01-01T00:00:00Z", "https://e.com/behind"))
            .unwrap();
        assert_eq!(
            files(directory.path()),
            [
                "2026-07-01T00-00-00.000Z.age",
                "2020-01-01T00-00-00.000Z.age"
            ]
        );
    }

    #[test]
    fn two_backups_of_one_moment_are_two_files_and_the_same_definition_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = store(directory.path());
        for (icon, number) in [("a", 1), ("b", 2), ("b", 2), ("a", 3)] {
            let icon = format!("https://e.com/{icon}");
            store
                .save(&backup("2026-01-01T00:00:00.999Z", &icon))
                .unwrap();
            assert_eq!(files(directory.path()).len(), number, "{icon}");
        }
        // A backup that was removed is written again.
        fs::remove_dir_all(directory.path().join("w-1")).unwrap();
        store
            .save(&backup("2026-01-01T00:00:00.999Z", "https://e.com/a"))
            .unwrap();
        assert_eq!(files(directory.path()), ["2026-01-01T00-00-00.999Z.age"]);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("w-1"), "a file").unwrap();
        let (store, _) = store(directory.path());
        let why = store
            .save(&backup("2026-01-01T00:00:00Z", "https://e.com/a"))
            .unwrap_err();
        assert!(
            why.starts_with("cannot write to") && why.contains("w-1/HOSTAWAY"),
            "{why}"
        );
    }

    #[test]
    fn the_id_of_a_workspace_cannot_lead_out_of_the_directory() {
        assert_eq!(directory_of_workspace("ab-1_C"), "ab-1_C");
        for id in ["", "..", ".", "../a", "a/b", "a\0", "ä", &"a".repeat(65)] {
            let name = directory_of_workspace(id);
            assert!(name.starts_with("sha256.") && !name.contains('/'), "{id}");
        }
    }

    #[test]
    fn a_name_has_the_time_and_other_names_are_no_backups() {
        let time: Timestamp = "2026-11-29T06:01:23.123Z".parse().unwrap();
        assert_eq!(time_of(&file_name(time)), Some(time));
        for name in [
            "a.age",
            "2026-11-29T06-01-23.123Z",
            ".unfinished-x",
            "2026-11-29.age",
        ] {
            assert_eq!(time_of(name), None, "{name}");
        }
    }

    /// Never returns before it is released.
    #[derive(Debug)]
    struct Hanging(Mutex<std::sync::mpsc::Receiver<()>>);

    impl BackupStore for Hanging {
        fn save(&self, _: &Backup) -> Result<(), String> {
            let _ = self.0.lock().recv();
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_hangs_fails_the_backup_and_takes_up_few_threads() {
        let (release, hang) = std::sync::mpsc::channel();
        let backups = Backups::new(Arc::new(Hanging(Mutex::new(hang))));
        let all = (0..AT_ONCE + 3).map(|_| {
            let backups = backups.clone();
            let one = backup("2026-01-01T00:00:00Z", "https://e.com/a");
            tokio::spawn(async move { backups.save(one).await })
        });
        let all: Vec<_> = all.collect();
        // A paused clock does not advance by itself while a thread is blocked.
        while backups.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(PATIENCE + Duration::from_millis(1)).await;
        for saved in all {
            let saved = saved.await.unwrap();
            assert!(saved.is_err_and(|why| why.contains("did not answer within 10 s")));
        }
        assert_eq!(backups.permits.available_permits(), 0);
        drop(release);
    }
}
