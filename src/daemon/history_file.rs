//! The history file of a workspace: one line of text for each event, bounded in number and size.
//!
//! Lines are appended. A file that has grown too long is replaced as a whole by its last lines. Several processes may write
//! to it, such as a daemon and a one-shot `apply`: a lock keeps them apart. A process that is killed at any moment leaves
//! every earlier line; a line that was not written to its end is separated from the next one, and readers ignore it.
//!
//! Never: interpret a line, or hold one in memory longer than it takes to write it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::state_file::{self, file_stem, rename_damaged};
use crate::model::read_at_most;

/// The most events that are kept.
const MAX_EVENTS: usize = 1000;
/// The longest line of an event, in bytes. A longer one is not written.
const MAX_LINE: usize = 8 << 10;
/// How many lines the file may have until it is cut to [`MAX_EVENTS`].
const MAX_LINES: usize = MAX_EVENTS + MAX_EVENTS / 4;
/// The largest file in bytes.
const MAX_BYTES: usize = 2 << 20;
/// A larger file was not written by this program.
const MAX_READ: u64 = 4 << 20;
/// How often a file is opened again that another process has just replaced.
const ATTEMPTS: usize = 5;
/// The ending of the files' names.
const ENDING: &str = ".history.jsonl";

/// The history of one workspace in a state directory.
#[derive(Clone, Debug)]
pub struct HistoryFile {
    path: PathBuf,
}

impl HistoryFile {
    /// The history of the workspace with this id.
    #[must_use]
    pub fn of(directory: &Path, workspace: &str) -> Self {
        Self {
            path: directory.join(format!("{}{ENDING}", file_stem(workspace))),
        }
    }

    /// Creates a state directory, readable by this user only, unless it exists.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create_directory(directory: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
    }

    /// Every history in a state directory, sorted by its name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all(directory: &Path) -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.ends_with(ENDING)) {
                all.push(Self { path });
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines, oldest first. The end of the file may be a line that is not complete.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(&self) -> Result<Vec<String>, String> {
        let bytes = state_file::read(&self.path, MAX_READ)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let first = lines.len().saturating_sub(MAX_EVENTS);
        let last = lines.into_iter().skip(first);
        Ok(last.map(str::to_owned).collect())
    }

    /// Appends lines, which have no line break. It blocks as long as the file system does.
    ///
    /// # Errors
    /// None of the lines was written.
    pub fn append(&self, lines: &[String]) -> io::Result<()> {
        let mut new = String::new();
        for line in lines.iter().filter(|line| line.len() <= MAX_LINE) {
            new.push_str(line);
            new.push('\n');
        }
        let mut file = self.open_locked()?;
        let Some(old) = read_at_most(&mut file, MAX_READ)? else {
            let why = format!("it has more than {MAX_READ} bytes");
            rename_damaged(&self.path, &why, "the events before are lost");
            return state_file::write(&self.path, new.as_bytes());
        };
        let count = old.iter().filter(|byte| **byte == b'\n').count() + lines.len();
        if count > MAX_LINES || old.len() + new.len() > MAX_BYTES {
            return state_file::write(&self.path, last_lines(&old, &new).as_bytes());
        }
        // A process that was killed, or a full disk, may have left a part of a line.
        if !old.is_empty() && !old.ends_with(b"\n") {
            new.insert(0, '\n');
        }
        let written = file
            .write_all(new.as_bytes())
            .and_then(|()| file.sync_data());
        if written.is_err() {
            // Part of the text may be there. If this fails as well, the next line is separated from it.
            let _ = file.set_len(old.len() as u64);
        }
        written
    }

    /// Opens the file for this process alone. The lock ends when it is closed.
    fn open_locked(&self) -> io::Result<File> {
        for _ in 0..ATTEMPTS {
            // Neither follows a link nor waits for a pipe without a writer.
            let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(flags)
                .open(&self.path)?;
            let opened = file.metadata()?;
            if !opened.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            file.lock()?;
            // While this process waited, another one may have replaced the file.
            let is_current = fs::symlink_metadata(&self.path)
                .is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino()));
            if is_current {
                return Ok(file);
            }
        }
        Err(io::Error::other("other processes keep replacing it"))
    }
}

/// The last complete lines of a file and new ones, within both limits.
fn last_lines(old: &[u8], new: &str) -> String {
    // What follows the last line break is a part of a line.
    let complete = old.iter().rposition(|byte| *byte == b'\n');
    let complete = complete.and_then(|end| old.get(..=end)).unwrap_or_default();
    let old = String::from_utf8_lossy(complete);
    let mut left = MAX_BYTES * 3 / 4;
    let kept: Vec<&str> = new
        .lines()
        .rev()
        .chain(old.lines().rev())
        .filter(|line| !line.is_empty())
        .take(MAX_EVENTS)
        .take_while(|line| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 1);
            fits
        })
        .collect();
    kept.iter().rev().fold(String::new(), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn lines(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
        numbers.into_iter().map(|n| format!("event {n}")).collect()
    }

    #[test]
    fn the_last_events_are_kept_and_the_file_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let file = HistoryFile::of(&state, "a");
        assert!(file.append(&lines([0])).is_err());
        HistoryFile::create_directory(&state).unwrap();
        for number in 0..3000 {
            file.append(&lines([number])).unwrap();
        }
        let kept = file.read().unwrap();
        assert_eq!(kept, lines(2000..3000));
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.lines().count() <= MAX_LINES);
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn long_events_are_bounded_in_bytes_and_one_that_is_too_long_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = HistoryFile::of(directory.path(), "a");
        let long = |number: usize| format!("{number:08}{}", "x".repeat(MAX_LINE - 8));
        for number in 0..600 {
            file.append(&[long(number), "y".repeat(MAX_LINE + 1)])
                .unwrap();
            assert!(fs::metadata(file.path()).unwrap().len() <= MAX_BYTES as u64);
        }
        let kept = file.read().unwrap();
        assert!(kept.len() > 100);
        assert_eq!(kept.last(), Some(&long(599)));
    }

    #[test]
    fn a_part_of_a_line_costs_that_line_only_wherever_it_was_cut() {
        let whole = "event 1\nevent 2\n";
        for cut in 0..whole.len() {
            let directory = tempfile::tempdir().unwrap();
            let file = HistoryFile::of(directory.path(), "a");
            fs::write(file.path(), &whole[..cut]).unwrap();
            file.append(&lines([3])).unwrap();
            let kept = file.read().unwrap();
            assert_eq!(kept.last(), Some(&"event 3".to_owned()), "{cut}");
            assert_eq!(kept.contains(&"event 1".to_owned()), cut >= 7, "{cut}");
        }
    }

    #[test]
    fn processes_that_write_at_once_lose_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let write = |from: usize| {
            let file = HistoryFile::of(directory.path(), "a");
            (from..from + 300).for_each(|number| file.append(&lines([number])).unwrap());
        };
        std::thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || write(1000 + writer * 1000));
            }
        });
        // 1,200 lines are fewer than those that start a replacement, so all are there.
        let text = fs::read_to_string(HistoryFile::of(directory.path(), "a").path()).unwrap();
        let seen: std::collections::BTreeSet<&str> = text.lines().collect();
        assert_eq!(seen.len(), 1200);
        // One more process makes the file be replaced while others wait for it.
        std::thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || write(10_000 + writer * 1000));
            }
        });
        let kept = HistoryFile::of(directory.path(), "a").read().unwrap();
        let last = kept.iter().filter(|line| line.len() == "event 10000".len());
        assert_eq!(last.count(), MAX_EVENTS);
    }

    #[test]
    fn only_a_regular_file_is_written_and_another_workspace_has_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = HistoryFile::of(directory.path(), "../../etc/passwd");
        assert_eq!(file.path().parent(), Some(directory.path()));
        let target = directory.path().join("target");
        fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, file.path()).unwrap();
        assert!(file.append(&lines([1])).is_err() && file.read().is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
        let other = HistoryFile::of(directory.path(), "0a");
        other.append(&lines([1])).unwrap();
        let all = HistoryFile::all(directory.path()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(other.read(), Ok(lines([1])));
        // A file that cannot be one of ours is put aside.
        fs::write(other.path(), "x".repeat(5 << 20)).unwrap();
        other.append(&lines([2])).unwrap();
        assert_eq!(other.read(), Ok(lines([2])));
    }
}
