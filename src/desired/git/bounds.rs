//! Bounds for reading a repository: the files of a `.git` are checked before they are opened, and a read has a time limit.
//!
//! gix opens every file that it finds: it waits for a pipe, reads a device to its end and panics at some sizes. The check
//! covers the files that gix reads whole or always opens. The time limit covers the others, and files that change after the
//! check. A panic is an error of the read.
//!
//! Never: leave more than one stuck thread for a directory, except from reads that began at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::desired::definitions::directory::read_regular_file;

/// The name of the threads that read repositories.
pub const GIT_THREAD: &str = "git-read";

/// The time limit of one read.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The largest `packed-refs`, in bytes: several million references.
const MAX_PACKED_REFS: u64 = 256 << 20;
/// The largest file that contains a short list, in bytes.
const MAX_LIST: u64 = 16 << 20;
/// The largest file that contains one path or one reference, in bytes.
const MAX_LINE: u64 = 64 << 10;
/// A repository with more loose references or more packs is not read.
const MAX_ENTRIES: usize = 100_000;
/// The longest chain of symbolic references.
const MAX_DEPTH: usize = 5;
/// The largest number of alternate object directories.
const MAX_ALTERNATES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum GitFileError {
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} is larger than {} KiB", .0.display(), .1 >> 10)]
    TooLarge(PathBuf, u64),
    #[error("{} contains more than {MAX_ENTRIES} files", .0.display())]
    TooMany(PathBuf),
    #[error("reading the repository takes longer than {} s", .0.as_secs_f32())]
    TooSlow(Duration),
    #[error("reading the repository failed because of a bug in this program")]
    Panic,
    #[error("cannot start a thread: {0}")]
    NoThread(std::io::Error),
}

/// Runs a read of the repository around a directory in its own thread, with a time limit.
///
/// # Errors
/// [`GitFileError`] if the read takes too long or panics, or if an earlier one is stuck.
pub(super) fn run_limited<T: Send + 'static>(
    directory: &Path,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GitFileError> {
    run_limited_to(TIME_LIMIT, directory, read)
}

fn run_limited_to<T: Send + 'static>(
    limit: Duration,
    directory: &Path,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GitFileError> {
    if stuck_reads().contains(directory) {
        return Err(GitFileError::TooSlow(limit));
    }
    let (sender, receiver) = sync_channel(1);
    let key = directory.to_owned();
    let run = move || {
        let result = catch_unwind(AssertUnwindSafe(read)).map_err(|_| GitFileError::Panic);
        let mut stuck = stuck_reads();
        // The receiver is gone if and only if this read counts as stuck.
        if sender.send(result).is_err() {
            stuck.end(&key);
        }
    };
    thread::Builder::new()
        .name(GIT_THREAD.to_owned())
        .spawn(run)
        .map_err(GitFileError::NoThread)?;
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => Err(GitFileError::Panic),
        Err(RecvTimeoutError::Timeout) => {
            let mut stuck = stuck_reads();
            if let Ok(result) = receiver.try_recv() {
                return result;
            }
            stuck.begin(directory);
            drop(receiver);
            Err(GitFileError::TooSlow(limit))
        }
    }
}

/// The number of reads of each directory that exceeded their limit and are still running.
struct StuckReads(BTreeMap<PathBuf, usize>);

fn stuck_reads() -> MutexGuard<'static, StuckReads> {
    static STUCK: Mutex<StuckReads> = Mutex::new(StuckReads(BTreeMap::new()));
    STUCK.lock()
}

impl StuckReads {
    fn contains(&self, directory: &Path) -> bool {
        self.0.contains_key(directory)
    }

    fn begin(&mut self, directory: &Path) {
        *self.0.entry(directory.to_owned()).or_default() += 1;
    }

    fn end(&mut self, directory: &Path) {
        if let Some(count) = self.0.get_mut(directory) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(directory);
            }
        }
    }
}

/// Checks the files that a read of the checked-out commit needs, in all repositories around a directory; with a reference,
/// those that a look-up of any reference needs. The path of the directory must not contain links.
///
/// # Errors
/// [`GitFileError`] for the first file that cannot be read safely.
pub(super) fn check(directory: &Path, reference: Option<&str>) -> Result<(), GitFileError> {
    git_directories(directory).try_for_each(|git| check_git(&git?, reference))
}

/// The git directories of a directory and its parents.
pub(super) fn git_directories(
    directory: &Path,
) -> impl Iterator<Item = Result<PathBuf, GitFileError>> {
    let found = directory.ancestors().map(|parent| parent.join(".git"));
    found
        .filter(|git| fs::symlink_metadata(git).is_ok())
        .map(|git| {
            if git.is_dir() {
                return Ok(git);
            }
            Ok(read_path(&git)?.unwrap_or(git))
        })
}

/// The directory that a git directory shares with its worktrees.
pub(super) fn common_directory(git: &Path) -> Result<PathBuf, GitFileError> {
    Ok(read_path(&git.join("commondir"))?.unwrap_or_else(|| git.to_owned()))
}

/// Reads and resolves the path in a file, if the file exists.
fn read_path(file: &Path) -> Result<Option<PathBuf>, GitFileError> {
    let Some(text) = read_line(file)? else {
        return Ok(None);
    };
    Ok(file
        .parent()
        .map(|parent| parent.join(text.strip_prefix("gitdir:").unwrap_or(&text).trim())))
}

/// Reads a small file, if it exists.
fn read_line(file: &Path) -> Result<Option<String>, GitFileError> {
    check_file(file, MAX_LINE)?;
    let bytes = read_bounded(file, MAX_LINE);
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Reads a regular file of at most `max` bytes. Follows links.
pub(super) fn read_bounded(file: &Path, max: u64) -> Option<Vec<u8>> {
    read_regular_file(&fs::canonicalize(file).ok()?, max).ok()
}

/// Accepts a regular file of at most `max` bytes, and a missing file.
fn check_file(path: &Path, max: u64) -> Result<(), GitFileError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(GitFileError::NotAFile(path.to_owned())),
        Ok(metadata) if metadata.len() > max => Err(GitFileError::TooLarge(path.to_owned(), max)),
        Ok(_) => Ok(()),
        // A link that leads nowhere, or in a circle.
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            Err(GitFileError::NotAFile(path.to_owned()))
        }
        Err(_) => Ok(()),
    }
}

fn check_git(git: &Path, reference: Option<&str>) -> Result<(), GitFileError> {
    let common = common_directory(git)?;
    for git in [git, &common] {
        for (name, max) in [
            ("commondir", MAX_LINE),
            ("gitdir", MAX_LINE),
            ("HEAD", MAX_LINE),
            ("config", MAX_LIST),
            ("config.worktree", MAX_LIST),
            ("packed-refs", MAX_PACKED_REFS),
            ("shallow", MAX_LIST),
            // The index is mapped, not read.
            ("index", u64::MAX),
        ] {
            check_file(&git.join(name), max)?;
        }
    }
    match reference {
        None => check_chain(git, &common, "HEAD")?,
        Some(reference) => {
            for git in [git, &common] {
                for name in [
                    "FETCH_HEAD",
                    "ORIG_HEAD",
                    "MERGE_HEAD",
                    "CHERRY_PICK_HEAD",
                    "REVERT_HEAD",
                    "BISECT_HEAD",
                ] {
                    check_file(&git.join(name), MAX_LIST)?;
                }
                let name = reference
                    .split(['~', '^', '@', ':', '{'])
                    .next()
                    .unwrap_or(reference);
                if git
                    .join(name)
                    .symlink_metadata()
                    .is_ok_and(|metadata| !metadata.is_dir())
                {
                    check_file(&git.join(name), MAX_LIST)?;
                }
                let mut seen = 0;
                check_below(&git.join("refs"), &mut seen, MAX_LINE, 64)?;
                check_below(&git.join("reftable"), &mut seen, u64::MAX, 1)?;
            }
        }
    }
    let mut left = MAX_ALTERNATES;
    check_objects(&common.join("objects"), &mut left)
}

/// Checks a reference and the references that it points to.
fn check_chain(git: &Path, common: &Path, name: &str) -> Result<(), GitFileError> {
    let mut name = name.to_owned();
    for _ in 0..MAX_DEPTH {
        let mut next = None;
        for git in [git, common] {
            let file = git.join(&name);
            // If a branch is in packed-refs, its name may be a directory of other branches.
            if !file.is_dir() {
                next = next.or(read_line(&file)?);
            }
        }
        match next.as_deref().and_then(|text| text.strip_prefix("ref:")) {
            Some(target) => target.trim().clone_into(&mut name),
            None => break,
        }
    }
    Ok(())
}

/// Checks every file below a directory, down to a depth.
fn check_below(
    directory: &Path,
    seen: &mut usize,
    max: u64,
    depth: usize,
) -> Result<(), GitFileError> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        *seen += 1;
        if *seen > MAX_ENTRIES {
            return Err(GitFileError::TooMany(directory.to_owned()));
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match depth.checked_sub(1) {
                Some(depth) => check_below(&path, seen, max, depth)?,
                None => return Err(GitFileError::TooMany(directory.to_owned())),
            }
        } else {
            check_file(&path, max)?;
        }
    }
    Ok(())
}

/// Checks an object directory and its alternates, at most `left` of them. Packs and graphs are mapped, not read.
fn check_objects(objects: &Path, left: &mut usize) -> Result<(), GitFileError> {
    let info = objects.join("info");
    check_file(&info.join("commit-graph"), u64::MAX)?;
    check_file(&info.join("commit-graphs/commit-graph-chain"), MAX_LIST)?;
    check_below(&info.join("commit-graphs"), &mut 0, u64::MAX, 1)?;
    check_below(&objects.join("pack"), &mut 0, u64::MAX, 1)?;
    let Some(alternates) = read_line(&info.join("alternates"))? else {
        return Ok(());
    };
    let lines = alternates
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| GitFileError::TooMany(info.clone()))?;
        check_objects(&objects.join(line), left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_read_ends_at_its_limit_and_blocks_other_reads_of_its_directory() {
        let directory = Path::new("/a-read-that-is-stuck");
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let short = Duration::from_millis(1);
        let read = run_limited_to(short, directory, move || wait.recv());
        assert!(matches!(read, Err(GitFileError::TooSlow(_))));
        let ran = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let second = std::sync::Arc::clone(&ran);
        let read = run_limited_to(TIME_LIMIT, directory, move || {
            second.store(true, std::sync::atomic::Ordering::Relaxed)
        });
        assert!(matches!(read, Err(GitFileError::TooSlow(_))));
        assert!(!ran.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(
            run_limited_to(TIME_LIMIT, Path::new("/another"), || 1).unwrap(),
            1
        );

        release.send(()).unwrap();
        while stuck_reads().contains(directory) {
            thread::yield_now();
        }
        assert_eq!(run_limited_to(TIME_LIMIT, directory, || 2).unwrap(), 2);
    }

    #[test]
    fn a_panic_is_an_error_of_the_read() {
        let directory = Path::new("/a-read-that-panics");
        let read = run_limited_to(TIME_LIMIT, directory, || {
            std::panic::panic_any("on purpose")
        });
        assert!(matches!(read, Err::<(), _>(GitFileError::Panic)));
        assert_eq!(run_limited_to(TIME_LIMIT, directory, || 1).unwrap(), 1);
    }

    #[test]
    fn a_directory_is_blocked_until_its_last_stuck_read_ends() {
        let (directory, mut stuck) = (Path::new("/a"), StuckReads(BTreeMap::new()));
        stuck.begin(directory);
        stuck.begin(directory);
        stuck.end(directory);
        assert!(stuck.contains(directory));
        stuck.end(directory);
        assert!(!stuck.contains(directory));
    }

    /// A directory with a repository that has these files.
    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let head = [(".git/HEAD", "ref: refs/heads/main\n")];
        for (name, text) in head.iter().chain(files) {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn a_file_of_a_repository_is_a_regular_one_of_limited_size() {
        for (name, max) in [
            ("HEAD", MAX_LINE),
            ("gitdir", MAX_LINE),
            ("config", MAX_LIST),
            ("packed-refs", MAX_PACKED_REFS),
            ("refs/heads/main", MAX_LINE),
            ("objects/info/alternates", MAX_LINE),
            ("objects/info/commit-graphs/commit-graph-chain", MAX_LIST),
        ] {
            let directory = repository(&[]);
            let path = directory.path().join(".git").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let set = |size| {
                let file = fs::File::options().create(true).append(true).open(&path);
                file.unwrap().set_len(size).unwrap();
                check(directory.path(), None)
            };
            assert!(set(max).is_ok(), "{name}");
            assert!(
                matches!(set(max + 1), Err(GitFileError::TooLarge(..))),
                "{name}"
            );
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("nowhere", &path).unwrap();
            let dangling = check(directory.path(), None);
            assert!(matches!(dangling, Err(GitFileError::NotAFile(_))), "{name}");
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            // The branch may be in packed-refs, and its name a directory of other branches.
            let is_branch = name == "refs/heads/main";
            assert_eq!(check(directory.path(), None).is_ok(), is_branch, "{name}");
        }
    }

    #[test]
    fn a_look_up_of_any_reference_checks_every_file_below_the_references() {
        let directory = repository(&[(".git/refs/tags/a", "")]);
        let tag = directory.path().join(".git/refs/tags/a");
        let file = fs::File::options().append(true).open(tag).unwrap();
        file.set_len(MAX_LINE + 1).unwrap();
        assert!(check(directory.path(), None).is_ok());
        assert!(check(directory.path(), Some("main")).is_err());

        let two = repository(&[("a/b", ""), ("c", "")]);
        let below = |seen: usize, depth| check_below(two.path(), &mut { seen }, 0, depth).is_ok();
        // `.git`, `.git/HEAD`, `a`, `a/b` and `c`; one of them has content.
        fs::write(two.path().join(".git/HEAD"), "").unwrap();
        assert!(below(MAX_ENTRIES - 5, 1));
        assert!(!below(MAX_ENTRIES - 4, 1));
        assert!(!below(0, 0));
    }

    #[test]
    fn a_worktree_leads_to_the_directory_that_it_shares() {
        let directory = repository(&[
            ("work/.git", "gitdir: ../.git/worktrees/work\n"),
            (".git/worktrees/work/commondir", "../..\n"),
            (".git/worktrees/work/HEAD", "ref: refs/heads/work\n"),
            (".git/refs/heads/work", &"a".repeat(70_000)),
        ]);
        let work = directory.path().join("work");
        let git = git_directories(&work).next().unwrap().unwrap();
        assert_eq!(git, work.join("../.git/worktrees/work"));
        assert_eq!(common_directory(&git).unwrap(), git.join("../.."));
        assert!(check(directory.path(), None).is_ok());
        assert!(matches!(
            check(&work, None),
            Err(GitFileError::TooLarge(..))
        ));
    }

    #[test]
    fn alternates_are_followed_up_to_a_number() {
        let directory = repository(&[
            ("one/info/alternates", "# a\n\n../two\n"),
            ("circle/info/alternates", ".\n"),
        ]);
        let mut left = 2;
        let check =
            |name: &str, left: &mut usize| check_objects(&directory.path().join(name), left);
        assert!(check("one", &mut left).is_ok());
        assert_eq!(left, 1);
        assert!(matches!(
            check("circle", &mut left),
            Err(GitFileError::TooMany(_))
        ));
        fs::create_dir_all(directory.path().join("two/info/alternates")).unwrap();
        assert!(check("one", &mut 2).is_err());
    }
}
