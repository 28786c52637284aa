//! The bare clone on disk: an object database, the file `shallow`, and the record of the last fetch.
//!
//! Each clone is a generation, a directory of its own. The record names the generation and the commit, and is replaced at
//! once, after the objects of that commit have been checked. So a process that is killed at any moment leaves the last commit
//! in force, and what it had begun is removed by the next fetch. A generation with many packs, or one that is damaged, is
//! replaced by a new one instead of being repaired.
//!
//! Never: write outside of the directory, or remove the generation that is in force.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use gix::sec::Trust;
use gix::{ObjectId, Repository};
use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::error::FetchError;
use crate::model::read_at_most;

/// A generation with more packs than this is replaced.
const MAX_PACKS: usize = 50;
/// The same for a generation whose added packs have more bytes than this.
const MAX_ADDED: u64 = 64 << 20;
/// The largest record, in bytes.
const MAX_RECORD: u64 = 64 << 10;
const VERSION: u32 = 1;

/// The directory of a clone, locked for this process.
#[derive(Debug)]
pub(super) struct CloneDirectory {
    path: PathBuf,
    _lock: File,
}

/// Where clones are kept.
#[derive(Debug)]
pub enum CloneRoot {
    Directory(PathBuf),
    /// Removed when this is dropped.
    Temporary(TempDir),
}

impl CloneRoot {
    /// Removes a temporary directory at the end of the process.
    pub fn remove_temporary(&self) {
        if let Self::Temporary(directory) = self {
            // What cannot be removed is left to the system.
            let _ = fs::remove_dir_all(directory.path());
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }
}

/// What the last fetch found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// For people.
    url: String,
    /// The full name of the reference; `None` if a commit is followed.
    pub(super) reference: Option<String>,
    pub(super) commit: String,
    pub(super) tag: Option<String>,
    generation: u64,
    pub(super) fetched: Timestamp,
}

/// The objects of one clone.
#[derive(Debug)]
pub(super) struct Generation {
    number: u64,
    path: PathBuf,
}

impl CloneDirectory {
    /// Creates and locks the directory of a repository.
    pub(super) fn open(path: PathBuf) -> Result<Self, FetchError> {
        let storage = |source| FetchError::Storage {
            directory: path.clone(),
            source,
        };
        fs::create_dir_all(&path).map_err(storage)?;
        let lock = File::create(path.join("lock")).map_err(storage)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(FetchError::InUse(path)),
            Err(fs::TryLockError::Error(source)) => return Err(storage(source)),
        }
        Ok(Self { path, _lock: lock })
    }

    /// The last fetch, if its generation can be opened. An unreadable record is as good as none.
    pub(super) fn restore(&self) -> Option<(Record, Generation)> {
        let file = File::open(self.record_path()).ok()?;
        let bytes = read_at_most(file, MAX_RECORD).ok()??;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let path = self.generation_path(record.generation);
        let generation = Generation {
            number: record.generation,
            path,
        };
        (record.version == VERSION && open_bare(&generation.path).is_ok())
            .then_some((record, generation))
    }

    /// Starts a new, empty generation. Others than `kept` are removed first, which also makes room.
    pub(super) fn begin(&self, kept: Option<&Generation>) -> io::Result<Generation> {
        self.discard_others(kept)?;
        let number = kept.map_or(0, |kept| kept.number + 1);
        let path = self.generation_path(number);
        fs::create_dir_all(path.join("objects/pack"))?;
        fs::create_dir_all(path.join("refs"))?;
        fs::write(path.join("HEAD"), "ref: refs/heads/none\n")?;
        fs::write(
            path.join("config"),
            "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        )?;
        Ok(Generation { number, path })
    }

    /// Puts a commit of a generation into force.
    pub(super) fn commit(
        &self,
        generation: &Generation,
        url: &str,
        reference: Option<&str>,
        (commit, tag): (ObjectId, Option<ObjectId>),
    ) -> io::Result<Record> {
        let record = Record {
            version: VERSION,
            url: url.to_owned(),
            reference: reference.map(str::to_owned),
            commit: commit.to_string(),
            tag: tag.map(|tag| tag.to_string()),
            generation: generation.number,
            fetched: now(),
        };
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        serde_json::to_writer_pretty(&mut file, &record)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(self.record_path())?;
        Ok(record)
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("fetched.json")
    }

    fn generation_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number}.git"))
    }

    /// Removes every generation but one, and the temporary files of a killed process.
    pub(super) fn discard_others(&self, kept: Option<&Generation>) -> io::Result<()> {
        let kept = kept.map(|generation| generation.path.clone());
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "git") && Some(&path) != kept.as_ref() {
                fs::remove_dir_all(&path)?;
            } else if path.extension().is_none() && !path.ends_with("lock") && path.is_file() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

impl Generation {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    pub(super) fn shallow_file(&self) -> PathBuf {
        self.path.join("shallow")
    }

    /// Whether another pack may be added. The largest pack does not count: it is that of the whole clone.
    pub(super) fn is_small(&self) -> bool {
        let Ok(entries) = fs::read_dir(self.packs()) else {
            return false;
        };
        let sizes: Vec<u64> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "pack"))
            .map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
            .collect();
        let added = sizes.iter().sum::<u64>() - sizes.iter().max().unwrap_or(&0);
        sizes.len() < MAX_PACKS && added < MAX_ADDED
    }

    /// Removes what a fetch that was cut off has left: temporary files, marks, locks, and a pack without its index.
    pub(super) fn remove_leftovers(&self) -> io::Result<()> {
        let lock = self.shallow_file().with_extension("lock");
        if lock.exists() {
            fs::remove_file(lock)?;
        }
        for entry in fs::read_dir(self.packs())? {
            let path = entry?.path();
            let is_whole = match path.extension().and_then(|end| end.to_str()) {
                Some("pack") => path.with_extension("idx").exists(),
                Some("idx") => path.with_extension("pack").exists(),
                _ => false,
            };
            if !is_whole {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// The current time, rounded to milliseconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}

/// Opens a generation. No value of any configuration is used.
pub(super) fn open_bare(path: &Path) -> Result<Repository, gix::Error> {
    let options = gix::open::Options::isolated()
        .with(Trust::Reduced)
        .filter_config_section(|_| false)
        .open_path_as_is(true);
    Ok(options.open(path)?.to_thread_local())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use gix::hash::Kind;

    use super::*;

    fn write(path: &Path, bytes: u64) {
        File::create(path).unwrap().set_len(bytes).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn opened(directory: &Path) -> (CloneDirectory, Generation) {
        let clone = CloneDirectory::open(directory.to_owned()).unwrap();
        let generation = clone.begin(None).unwrap();
        (clone, generation)
    }

    #[test]
    fn a_generation_takes_packs_up_to_a_number_and_a_size_beside_the_largest() {
        let dir = tempfile::tempdir().unwrap();
        let (_clone, generation) = opened(dir.path());
        write(&generation.packs().join("a.pack"), 9 * MAX_ADDED);
        write(&generation.packs().join("a.idx"), 9 * MAX_ADDED);
        assert!(generation.is_small());
        let added = generation.packs().join("b.pack");
        for (bytes, is_small) in [(MAX_ADDED - 1, true), (MAX_ADDED, false), (1, true)] {
            write(&added, bytes);
            assert_eq!(generation.is_small(), is_small, "{bytes}");
        }
        for n in 2..MAX_PACKS {
            assert!(generation.is_small(), "{n}");
            write(&generation.packs().join(format!("{n}.pack")), 0);
        }
        assert!(!generation.is_small());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (clone, generation) = opened(dir.path());
        for name in [
            "a.pack",
            "a.idx",
            "no-index.pack",
            "no-pack.idx",
            "a.keep",
            ".tmp",
        ] {
            write(&generation.packs().join(name), 0);
        }
        generation.remove_leftovers().unwrap();
        assert_eq!(names(&generation.packs()), ["a.idx", "a.pack"]);

        for directory in ["7.git", "other"] {
            fs::create_dir(dir.path().join(directory)).unwrap();
        }
        for file in ["fetched.json", ".tmp1234"] {
            write(&dir.path().join(file), 0);
        }
        clone.discard_others(Some(&generation)).unwrap();
        assert_eq!(
            names(dir.path()),
            ["0.git", "fetched.json", "lock", "other"]
        );
    }

    #[test]
    fn a_record_counts_if_its_version_is_known_and_its_generation_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (clone, generation) = opened(dir.path());
        let commit = ObjectId::null(Kind::Sha1);
        let mut record = clone
            .commit(&generation, "https://a.example", None, (commit, None))
            .unwrap();
        let age = Timestamp::now().duration_since(record.fetched);
        assert!(age.as_secs().abs() < 60, "{age:?}");
        assert_eq!(clone.restore().unwrap().0, record);
        let path = generation.path().to_owned();
        let hidden = dir.path().join("hidden");
        fs::rename(&path, &hidden).unwrap();
        assert!(clone.restore().is_none());
        fs::rename(&hidden, &path).unwrap();
        record.version += 1;
        fs::write(clone.record_path(), serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(clone.restore().is_none());
    }
}
