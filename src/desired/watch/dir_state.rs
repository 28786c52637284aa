//! The state of a directory as `stat` reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{LastLink, open_without_waiting};

/// If two states are equal, there is nothing new to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirState(Arc<Content>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// The watch task has ended.
    Unwatched,
    /// The directory is missing or cannot be read.
    Unreadable(io::ErrorKind),
    Listing(Listing),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// The path without links: another directory with the same files is another state.
    pub(super) real: PathBuf,
    pub(super) files: BTreeMap<OsString, FileStamp>,
    /// The number of files beyond the limit.
    pub(super) uncounted: usize,
}

impl DirState {
    pub(super) fn new(listing: io::Result<Listing>) -> Self {
        Self(Arc::new(match listing {
            Ok(listing) => Content::Listing(listing),
            Err(error) => Content::Unreadable(error.kind()),
        }))
    }

    pub(super) fn unwatched() -> Self {
        Self(Arc::new(Content::Unwatched))
    }

    fn files(&self) -> impl Iterator<Item = (&OsString, &FileStamp)> {
        let files = match &*self.0 {
            Content::Listing(listing) => Some(&listing.files),
            Content::Unwatched | Content::Unreadable(_) => None,
        };
        files.into_iter().flatten()
    }

    /// The age of the file written last, if it is less than `limit`.
    pub(super) fn youngest_age(&self, limit: Duration) -> Option<Duration> {
        let now = SystemTime::now();
        self.files()
            .filter_map(|(_, stamp)| stamp.age(now))
            .min()
            .filter(|age| *age < limit)
    }

    /// The files of `before` that are gone.
    pub(super) fn removed_since<'a>(&self, before: &'a Self) -> impl Iterator<Item = &'a OsString> {
        let now: BTreeSet<OsString> = self.files().map(|(name, _)| name.clone()).collect();
        before
            .files()
            .map(|(name, _)| name)
            .filter(move |name| !now.contains(*name))
    }

    /// The files with another stamp than in `before`, and those written less than `limit` ago.
    pub(super) fn written_since(&self, before: &Self, limit: Duration) -> BTreeSet<OsString> {
        let now = SystemTime::now();
        let before: BTreeMap<_, _> = before.files().collect();
        self.files()
            .filter(|(name, stamp)| {
                before.get(name).is_none_or(|before| before != stamp)
                    || stamp.age(now).is_some_and(|age| age < limit)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(super) fn with_unsettled(&self, names: &BTreeSet<OsString>) -> Self {
        let mut content = (*self.0).clone();
        if let Content::Listing(Listing { files, .. }) = &mut content {
            let unsettled = names
                .iter()
                .cloned()
                .map(|name| (name, FileStamp::Unsettled));
            files.extend(unsettled);
        }
        Self(Arc::new(content))
    }
}

/// One file, its links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileStamp {
    File {
        inode: (u64, u64),
        size: u64,
        modified: (i64, i64),
        /// The change time. It changes even if the modification time does not: new permissions, a restored time.
        changed: (i64, i64),
    },
    /// A directory, a pipe, or anything else that is not read.
    Other {
        inode: (u64, u64),
    },
    Unreadable(io::ErrorKind),
    /// The file is being written. It differs from every finished state of the file, so that the end of the
    /// writing is a change.
    Unsettled,
}

impl FileStamp {
    pub(super) fn take(path: &Path, revalidate: bool) -> Self {
        match fs::metadata(path) {
            Ok(known) if known.is_file() && revalidate => {
                Self::of(&revalidated(path).unwrap_or(known))
            }
            Ok(known) => Self::of(&known),
            Err(error) => Self::Unreadable(error.kind()),
        }
    }

    fn of(metadata: &Metadata) -> Self {
        let inode = (metadata.dev(), metadata.ino());
        if metadata.is_file() {
            Self::File {
                inode,
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            }
        } else {
            Self::Other { inode }
        }
    }

    /// The time since the last write. `None` if the file's times lie in the future: such a clock is no evidence.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let Self::File {
            modified, changed, ..
        } = self
        else {
            return None;
        };
        let since = |(seconds, nanos): (i64, i64)| {
            let at = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
            now.duration_since(SystemTime::UNIX_EPOCH.checked_add(at)?)
                .ok()
        };
        since(*modified).into_iter().chain(since(*changed)).min()
    }
}

/// The metadata of an open file. A network file system may answer from its cache for seconds. Opening a file makes it ask
/// the server.
fn revalidated(path: &Path) -> io::Result<Metadata> {
    open_without_waiting(path, LastLink::Follow)?.metadata()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_future_is_no_age() {
        let stamp = |changed| FileStamp::File {
            inode: (0, 0),
            size: 0,
            modified: (i64::MAX, 0),
            changed,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(stamp((1001, 0)).age(now), None);
        assert_eq!(stamp((999, 0)).age(now), Some(Duration::from_secs(1)));
        assert_eq!(stamp((-1, 0)).age(now), None);
    }

    fn written(seconds_ago: i64, size: u64) -> FileStamp {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap().as_secs()).unwrap();
        FileStamp::File {
            inode: (0, 0),
            size,
            modified: (now - seconds_ago, 0),
            changed: (now - seconds_ago, 0),
        }
    }

    fn state<const N: usize>(files: [(&str, FileStamp); N]) -> DirState {
        DirState::new(Ok(Listing {
            files: files.map(|(name, stamp)| (name.into(), stamp)).into(),
            ..Listing::default()
        }))
    }

    #[test]
    fn files_are_being_written_if_they_changed_or_are_young() {
        const LIMIT: Duration = Duration::from_secs(1000);
        let same = written(5000, 1);
        let before = state([
            ("same", same.clone()),
            ("larger", written(5000, 1)),
            ("young", written(500, 1)),
            ("gone", same.clone()),
        ]);
        let now = state([
            ("same", same),
            ("larger", written(5000, 2)),
            ("young", written(500, 1)),
            ("new", written(5000, 1)),
        ]);
        let found = now.written_since(&before, LIMIT);
        assert_eq!(found, ["larger", "new", "young"].map(OsString::from).into());
        let gone: Vec<_> = now.removed_since(&before).collect();
        assert_eq!(gone, ["gone"]);
        let age = now.youngest_age(LIMIT).unwrap().as_secs();
        assert!((500..600).contains(&age), "{age}");
        assert_eq!(now.youngest_age(Duration::from_secs(100)), None);
    }

    fn pipe() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yaml");
        let mkfifo = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(mkfifo.unwrap().success());
        (dir, pipe)
    }

    #[test]
    fn a_pipe_that_takes_the_place_of_a_file_delays_no_scan() {
        let (_dir, pipe) = pipe();
        // As after the file was found to be a regular one. Otherwise this would wait for a writer without end.
        let metadata = revalidated(&pipe).unwrap();
        assert!(matches!(FileStamp::of(&metadata), FileStamp::Other { .. }));
    }

    /// The names of the files that are opened by `act`.
    #[cfg(target_os = "linux")]
    fn opened(directory: &Path, act: impl FnOnce()) -> BTreeSet<OsString> {
        use notify::event::{AccessKind, EventKind};
        use notify::{RecursiveMode, Watcher as _};

        let (sender, events) = std::sync::mpsc::channel();
        let mut notifier = notify::recommended_watcher(sender).unwrap();
        notifier
            .watch(directory, RecursiveMode::NonRecursive)
            .unwrap();
        act();
        fs::write(directory.join("end"), "").unwrap();
        let names = events
            .iter()
            .map(Result::unwrap)
            .filter(|event| matches!(event.kind, EventKind::Access(AccessKind::Open(_))))
            .flat_map(|event| event.paths)
            .filter_map(|path| path.file_name().map(ToOwned::to_owned))
            .take_while(|name| name != "end");
        names.collect()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_are_opened_to_revalidate_them_and_pipes_never() {
        let (dir, pipe) = pipe();
        let file = dir.path().join("a.yaml");
        fs::write(&file, "").unwrap();
        let take = |revalidate| {
            opened(dir.path(), || {
                assert!(matches!(
                    FileStamp::take(&pipe, revalidate),
                    FileStamp::Other { .. }
                ));
                assert!(matches!(
                    FileStamp::take(&file, revalidate),
                    FileStamp::File { .. }
                ));
            })
        };
        assert_eq!(take(true), [OsString::from("a.yaml")].into());
        assert_eq!(take(false), BTreeSet::new());
    }
}
