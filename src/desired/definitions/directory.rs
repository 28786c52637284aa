//! Lists a directory and reads its files. Both may be hostile, and may be replaced while they are read.
//!
//! Never: write, wait for a pipe, or read outside the directory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::format::DEFINITION_SCHEMA;
use crate::desired::encrypted;
use crate::model::{LastLink, open_without_waiting, printable, read_at_most};

/// The largest definition file, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 20;
/// The largest sum of all definition files, in bytes. 10,000 files of usual size are 15 MB.
pub(crate) const MAX_TOTAL: u64 = 64 << 20;
/// The most entries of a directory.
const MAX_ENTRIES: usize = 50_000;
/// The most encrypted secrets.
pub(crate) const MAX_ENCRYPTED_FILES: usize = 1_000;
/// How often a directory is read that changes meanwhile.
pub(super) const ATTEMPTS: usize = 3;

/// How much may be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    entries: usize,
    bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            bytes: MAX_TOTAL,
        }
    }
}

const HELP_IF_MISSING: &str = "; help: name it with -d, or create it with `calry-gitops pull`";

/// A directory of definitions that cannot be used as a whole.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(
        "the definitions directory {} cannot be read: {source}{}",
        .directory.display(),
        if source.kind() == io::ErrorKind::NotFound { HELP_IF_MISSING } else { "" }
    )]
    Unreadable {
        directory: PathBuf,
        source: io::Error,
    },
    #[error("the definitions directory {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error(
        "the definitions directory {} has no definition file (*.yaml, *.yml); is it the right directory?{}",
        .directory.display(),
        describe_look_alikes(.look_alikes)
    )]
    Empty {
        directory: PathBuf,
        /// Files in it that look like definition files.
        look_alikes: Vec<String>,
    },
    #[error("the definitions directory {} has more than {MAX_ENTRIES} entries; is it the right directory?", .0.display())]
    TooManyEntries(PathBuf),
    #[error("the definitions directory {} has more than {MAX_ENCRYPTED_FILES} encrypted secrets; is it the right directory?", .0.display())]
    TooManyEncrypted(PathBuf),
    #[error("the files of the definitions directory {} are larger than {} MiB in total; is it the right directory?", .0.display(), MAX_TOTAL >> 20)]
    TooLarge(PathBuf),
    #[error("the definitions directory {} was replaced during each of {ATTEMPTS} attempts to read it", .0.display())]
    Unsettled(PathBuf),
}

/// A file that cannot be used. The messages complete "the file …".
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("does not exist any more")]
    Gone,
    #[error("is a link to a file that does not exist")]
    Dangling,
    #[error("is a link to a file outside the directory")]
    Outside,
    #[error("is not a regular file")]
    NotAFile,
    #[error("is larger than {} KiB", .0 >> 10)]
    TooLarge(u64),
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
}

#[derive(Debug)]
pub(crate) struct Listing<T> {
    /// The directory, with all links in its path resolved.
    pub(crate) directory: PathBuf,
    /// The result of each file, sorted by name.
    pub(crate) files: Vec<T>,
    /// What is left of the limits.
    pub(super) left: Limits,
}

/// Reads the input files of a directory and passes each to `each`, on all processors.
///
/// A directory that is replaced while it is read (by git-sync, or as a mounted ConfigMap) is read again.
///
/// # Errors
/// [`DirectoryError`] if the directory as a whole cannot be used. The error of a single file goes to `each`.
pub(super) fn read<T: Send>(
    directory: &Path,
    limits: Limits,
    each: impl Fn(&str, Result<Vec<u8>, FileError>) -> T + Sync,
) -> Result<Listing<T>, DirectoryError> {
    let mut attempts = 1;
    loop {
        let (listing, settled) = attempt(directory, limits, &each)?;
        match settled {
            Settled::Yes => return Ok(listing),
            // A dangling link looks like one that is being replaced, but it stays.
            Settled::FilesGone if attempts == ATTEMPTS => return Ok(listing),
            Settled::No if attempts == ATTEMPTS => {
                return Err(DirectoryError::Unsettled(directory.to_owned()));
            }
            _ => attempts += 1,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    Yes,
    FilesGone,
    No,
}

struct FileEntry {
    name: OsString,
    kind: Option<fs::FileType>,
}

struct ReadFile<T> {
    result: T,
    /// The target, if the file is a link.
    link: Option<PathBuf>,
    gone: bool,
}

fn attempt<T: Send>(
    directory: &Path,
    limits: Limits,
    each: &(impl Fn(&str, Result<Vec<u8>, FileError>) -> T + Sync),
) -> Result<(Listing<T>, Settled), DirectoryError> {
    let unreadable = |source| DirectoryError::Unreadable {
        directory: directory.to_owned(),
        source,
    };
    let root = fs::canonicalize(directory).map_err(unreadable)?;
    let (entries, count) = list(&root, directory, limits.entries)?;

    let total = AtomicU64::new(0);
    let make = |entry: &FileEntry| {
        let is_encrypted = encrypted_file(&entry.name).is_some();
        if !is_encrypted && LookAlike::of(&entry.name).is_some() {
            return ReadFile {
                result: each(&entry.name.to_string_lossy(), Ok(Vec::new())),
                link: None,
                gone: false,
            };
        }
        let link = match entry.kind {
            Some(kind) if kind.is_file() => Ok(None),
            Some(kind) if !kind.is_symlink() => Err(FileError::NotAFile),
            _ => resolve_link(&root, &entry.name).map(Some),
        };
        let (link, content) = match link {
            Ok(link) => {
                let path = link.clone().unwrap_or_else(|| root.join(&entry.name));
                (link, read_regular_file(&path, MAX_FILE))
            }
            Err(error) => (None, Err(error)),
        };
        let size = content.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let small = total.fetch_add(size, Ordering::Relaxed) + size <= limits.bytes;
        // Content beyond the limit is dropped at once; the directory is refused below.
        let content = if small {
            content
        } else {
            Err(FileError::TooLarge(MAX_TOTAL))
        };
        let gone = matches!(content, Err(FileError::Gone | FileError::Dangling));
        ReadFile {
            result: each(&entry.name.to_string_lossy(), content),
            link,
            gone,
        }
    };
    let files_read = in_parallel(&entries, make);
    let total = total.into_inner();
    if total > limits.bytes {
        return Err(DirectoryError::TooLarge(directory.to_owned()));
    }

    let moved = |(entry, file): (&FileEntry, &ReadFile<T>)| {
        file.link
            .as_ref()
            .is_some_and(|was| resolve_link(&root, &entry.name).ok().as_ref() != Some(was))
    };
    let replaced = fs::canonicalize(directory).ok().as_ref() != Some(&root);
    let settled = if replaced || entries.iter().zip(&files_read).any(moved) {
        Settled::No
    } else if files_read.iter().any(|file| file.gone) {
        Settled::FilesGone
    } else {
        Settled::Yes
    };
    Ok((
        Listing {
            directory: root,
            files: files_read.into_iter().map(|file| file.result).collect(),
            left: Limits {
                entries: limits.entries.saturating_sub(count),
                bytes: limits.bytes.saturating_sub(total),
            },
        },
        settled,
    ))
}

/// The input files of a directory and those that look like one, sorted by name, and the number of its entries.
fn list(
    root: &Path,
    named: &Path,
    limit: usize,
) -> Result<(Vec<FileEntry>, usize), DirectoryError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotADirectory => DirectoryError::NotADirectory(named.to_owned()),
        _ => DirectoryError::Unreadable {
            directory: named.to_owned(),
            source,
        },
    };
    let mut entries = Vec::new();
    let mut below = 0;
    let mut count = 0;
    for entry in fs::read_dir(root).map_err(unreadable)? {
        if count >= limit {
            return Err(DirectoryError::TooManyEntries(named.to_owned()));
        }
        count += 1;
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let kind = entry.file_type().ok();
        if is_input(&name) {
            entries.push(FileEntry { name, kind });
            continue;
        }
        if name == encrypted::DIRECTORY {
            entries.extend(list_encrypted(root, named)?);
        }
        if kind.is_some_and(|kind| kind.is_dir()) && !is_hidden(&name) {
            entries.extend(definition_below(&entry.path(), &name, &mut below));
        }
    }
    if entries
        .iter()
        .all(|entry| encrypted_file(&entry.name).is_some())
    {
        return Err(DirectoryError::Empty {
            directory: named.to_owned(),
            look_alikes: Vec::new(),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((entries, count))
}

/// The encrypted secrets of a directory, and the record of their recipients. A link is followed within the directory only.
fn list_encrypted(root: &Path, named: &Path) -> Result<Vec<FileEntry>, DirectoryError> {
    let Ok(directory) = resolve_link(root, encrypted::DIRECTORY) else {
        return Ok(Vec::new());
    };
    // What cannot be listed has no secret, and each file that refers to one says so.
    let Ok(listed) = fs::read_dir(directory) else {
        return Ok(Vec::new());
    };
    let names = listed
        .take(MAX_ENTRIES)
        .flatten()
        .map(|entry| entry.file_name());
    let names: Vec<OsString> = names
        .filter(|name| is_encrypted(name))
        .map(|name| Path::new(encrypted::DIRECTORY).join(name).into())
        .collect();
    if names.len() > MAX_ENCRYPTED_FILES {
        return Err(DirectoryError::TooManyEncrypted(named.to_owned()));
    }
    // Each is resolved like a link, because the directory may be one.
    let entry = |name| FileEntry { name, kind: None };
    Ok(names.into_iter().map(entry).collect())
}

/// Whether a name in the directory of encrypted secrets is an input.
pub(crate) fn is_encrypted(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !is_hidden(name)
        && (name == encrypted::RECORD_FILE || bytes.ends_with(encrypted::ENDING.as_bytes()))
}

/// The name of an input in the directory of encrypted secrets; `None` for any other path.
pub(crate) fn encrypted_file(path: &OsStr) -> Option<&str> {
    let name = path
        .to_str()?
        .strip_prefix(encrypted::DIRECTORY)?
        .strip_prefix('/')?;
    (!name.contains('/') && is_encrypted(OsStr::new(name))).then_some(name)
}

/// The end of the message about a directory without definition files.
fn describe_look_alikes(look_alikes: &[String]) -> String {
    let Some(first) = look_alikes.first() else {
        return String::new();
    };
    let others = match look_alikes.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!(
        " (not read: {}{others}; definition files are directly in the directory, with an extension in lower case)",
        printable(first)
    )
}

/// The first file of a subdirectory that would be an input in the directory itself. `seen` counts the entries examined.
fn definition_below(directory: &Path, name: &OsStr, seen: &mut usize) -> Option<FileEntry> {
    // A subdirectory is never read, so a failure to list it is ignored.
    let entries = fs::read_dir(directory).ok()?.flatten();
    let counts = |entry: &fs::DirEntry| is_definition(&entry.file_name());
    let found = entries
        .take(MAX_ENTRIES.saturating_sub(*seen))
        .inspect(|_| *seen += 1)
        .find(counts)?;
    Some(FileEntry {
        name: Path::new(name).join(found.file_name()).into(),
        kind: found.file_type().ok(),
    })
}

pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Whether a name is that of a definition file, or looks like one.
pub(crate) fn is_definition(name: &OsStr) -> bool {
    is_yaml(name) && !is_hidden(name)
}

/// Whether a name has the extension of a YAML file, in any case.
fn is_yaml(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes().to_ascii_lowercase();
    name.ends_with(b".yaml") || name.ends_with(b".yml")
}

/// Whether a directory entry is an input: a YAML file that is not hidden, or the schema with the known names. Of a
/// [`LookAlike`], only the name is used.
pub(crate) fn is_input(name: &OsStr) -> bool {
    is_definition(name) || name == DEFINITION_SCHEMA
}

/// Why a file that looks like a definition file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookAlike {
    /// Its extension, or the name `workspace.yaml`, is not in lower case.
    Spelling,
    /// It is in a subdirectory.
    Below,
}

impl LookAlike {
    /// `None` for a file that is read.
    pub(crate) fn of(name: &OsStr) -> Option<Self> {
        let bytes = name.as_encoded_bytes();
        let lower = bytes.to_ascii_lowercase();
        let is_pin = [&b"workspace.yaml"[..], b"workspace.yml"].contains(&lower.as_slice());
        let ends_lower = [&b".yaml"[..], b".yml", b".json"]
            .iter()
            .any(|ending| bytes.ends_with(ending));
        if bytes.contains(&b'/') {
            Some(Self::Below)
        } else if !ends_lower || is_pin && lower != bytes {
            Some(Self::Spelling)
        } else {
            None
        }
    }
}

/// The target of a link, which must be inside `root`, with all links in its path resolved. The path of `root` has no
/// links.
///
/// # Errors
/// [`FileError`]; [`FileError::Gone`] if the name does not exist.
pub(crate) fn resolve_link(root: &Path, name: impl AsRef<Path>) -> Result<PathBuf, FileError> {
    let path = root.join(name);
    let target = fs::canonicalize(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if fs::symlink_metadata(&path).is_ok() => FileError::Dangling,
        io::ErrorKind::NotFound => FileError::Gone,
        _ => FileError::Unreadable(error),
    })?;
    if target.starts_with(root) {
        Ok(target)
    } else {
        Err(FileError::Outside)
    }
}

/// The content of a regular file of at most `max` bytes. `path` has no links.
///
/// # Errors
/// [`FileError`]; [`FileError::Gone`] if the path does not exist.
pub(crate) fn read_regular_file(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Gone,
        _ => FileError::Unreadable(error),
    };
    let file = open_without_waiting(path, LastLink::Refuse).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile);
    }
    if metadata.len() > max {
        return Err(FileError::TooLarge(max));
    }
    // The file may have grown since.
    read_at_most(file, max)
        .map_err(failed)?
        .ok_or(FileError::TooLarge(max))
}

/// Maps `items` with `f` on all processors, in order.
pub(crate) fn in_parallel<I: Sync, T: Send>(items: &[I], f: impl Fn(&I) -> T + Sync) -> Vec<T> {
    /// Fewer items than this are not worth a thread.
    const SMALL: usize = 64;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let chunk = items.len().div_ceil(processors).max(SMALL);
    if items.len() <= chunk {
        return items.iter().map(f).collect();
    }
    let f = &f;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(chunk)
            .map(|chunk| scope.spawn(move || chunk.iter().map(f).collect::<Vec<T>>()))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<T>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A directory as Kubernetes mounts a ConfigMap, with two generations.
    fn config_map() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for generation in ["..1", "..2"] {
            fs::create_dir(dir.path().join(generation)).unwrap();
            for name in ["a.yaml", "b.yaml"] {
                fs::write(dir.path().join(generation).join(name), generation).unwrap();
            }
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        for name in ["a.yaml", "b.yaml"] {
            symlink(Path::new("..data").join(name), dir.path().join(name)).unwrap();
        }
        dir
    }

    #[test]
    fn what_vanished_after_it_was_listed_is_gone_not_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let missing = resolve_link(dir.path(), "missing.yaml");
        assert!(matches!(missing, Err(FileError::Gone)));
        let missing = read_regular_file(&dir.path().join("missing.yaml"), 1);
        assert!(matches!(missing, Err(FileError::Gone)));
    }

    #[test]
    fn secrets_are_listed_up_to_their_number_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join(encrypted::DIRECTORY);
        fs::create_dir(&below).unwrap();
        for name in ["notes.txt", ".hidden.age"] {
            File::create(below.join(name)).unwrap();
        }
        for n in 0..MAX_ENCRYPTED_FILES {
            File::create(below.join(format!("{n}.age"))).unwrap();
        }
        let listed = || list_encrypted(dir.path(), dir.path()).map(|files| files.len());
        assert_eq!(listed().unwrap(), MAX_ENCRYPTED_FILES);
        File::create(below.join(encrypted::RECORD_FILE)).unwrap();
        assert!(matches!(listed(), Err(DirectoryError::TooManyEncrypted(_))));
        let name = |path: &'static str| encrypted_file(OsStr::new(path));
        assert_eq!(name("secrets/a.age"), Some("a.age"));
        for other in ["secrets/a.txt", "secrets/a/b.age", "a.age", "secretsa.age"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    fn flip(dir: &Path, to: &str) {
        symlink(to, dir.join("..tmp")).unwrap();
        fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
    }

    fn text(content: Result<Vec<u8>, FileError>) -> String {
        content.map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8(bytes).unwrap(),
        )
    }

    #[test]
    fn a_config_map_that_is_swapped_while_it_is_read_is_never_read_in_part() {
        let dir = config_map();
        let seen = AtomicUsize::new(0);
        let listing = read(dir.path(), Limits::default(), |_, content| {
            if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                flip(dir.path(), "..2");
                fs::remove_dir_all(dir.path().join("..1")).unwrap();
            }
            text(content)
        });
        assert_eq!(listing.unwrap().files, ["..2", "..2"]);
    }

    /// Two checkouts, and a link to the first of them.
    fn checkouts() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for commit in ["one", "two"] {
            fs::create_dir(dir.path().join(commit)).unwrap();
            fs::write(dir.path().join(commit).join("a.yaml"), commit).unwrap();
        }
        symlink("one", dir.path().join("current")).unwrap();
        let current = dir.path().join("current");
        (dir, current)
    }

    fn check_out(current: &Path, commit: &str) {
        let next = current.with_file_name("next");
        symlink(commit, &next).unwrap();
        fs::rename(next, current).unwrap();
    }

    #[test]
    fn a_checkout_whose_link_is_replaced_while_it_is_read_is_read_again() {
        let (_dir, current) = checkouts();
        let listing = read(&current, Limits::default(), |_, content| {
            check_out(&current, "two");
            text(content)
        });
        assert_eq!(listing.unwrap().files, ["two"]);
    }

    #[test]
    fn a_directory_that_never_settles_is_an_error() {
        let (_dir, current) = checkouts();
        let listing = read(&current, Limits::default(), |_, content| {
            check_out(&current, if text(content) == "one" { "two" } else { "one" });
        });
        assert!(matches!(listing, Err(DirectoryError::Unsettled(_))));
    }

    #[test]
    fn a_file_that_stays_missing_is_reported_after_the_last_attempt() {
        let dir = tempfile::tempdir().unwrap();
        symlink("nowhere", dir.path().join("a.yaml")).unwrap();
        let seen = AtomicUsize::new(0);
        let listing = read(dir.path(), Limits::default(), |_, content| {
            seen.fetch_add(1, Ordering::Relaxed);
            text(content)
        });
        assert_eq!(
            listing.unwrap().files,
            ["is a link to a file that does not exist"]
        );
        assert_eq!(seen.into_inner(), ATTEMPTS);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        // Opening a socket is an error of its own.
        let _socket = UnixListener::bind(dir.path().join("a.yaml")).unwrap();
        let listing = read(dir.path(), Limits::default(), |_, content| text(content));
        assert_eq!(listing.unwrap().files, [FileError::NotAFile.to_string()]);
    }

    #[test]
    fn entries_up_to_the_limit_are_listed_whatever_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yaml", "notes.txt"] {
            File::create(dir.path().join(name)).unwrap();
        }
        let listed = |entries| {
            let limits = Limits {
                entries,
                ..Limits::default()
            };
            read(dir.path(), limits, |_, _| ()).map(|listing| listing.left.entries)
        };
        assert_eq!(listed(4).unwrap(), 1);
        assert_eq!(listed(3).unwrap(), 0);
        assert!(matches!(listed(2), Err(DirectoryError::TooManyEntries(_))));
    }

    #[test]
    fn files_of_the_largest_total_size_are_read_and_one_byte_more_refuses_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, size| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_len(size).unwrap();
        };
        for n in 0..MAX_TOTAL / MAX_FILE {
            write(&format!("{n}.yaml"), MAX_FILE);
        }
        let size = |_: &str, content: Result<Vec<u8>, FileError>| content.unwrap().len() as u64;
        let listing = read(dir.path(), Limits::default(), size).unwrap();
        assert_eq!(listing.files.iter().sum::<u64>(), MAX_TOTAL);
        write("more.yaml", 1);
        let refused = read(dir.path(), Limits::default(), |_, _| ());
        assert!(matches!(refused, Err(DirectoryError::TooLarge(_))));
    }

    #[test]
    fn the_entries_of_all_subdirectories_together_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        let mut seen = 0;
        let below = |seen: &mut usize| definition_below(dir.path(), OsStr::new("sub"), seen);
        assert!(below(&mut seen).is_none());
        assert_eq!(seen, 1);
        fs::rename(dir.path().join("notes.txt"), dir.path().join("a.yaml")).unwrap();
        assert!(below(&mut seen).is_some());
        seen = MAX_ENTRIES;
        assert!(below(&mut seen).is_none());
    }

    #[test]
    fn many_files_keep_their_order() {
        let items: Vec<usize> = (0..1_000).collect();
        assert_eq!(
            in_parallel(&items, |n| n * 2),
            items.iter().map(|n| n * 2).collect::<Vec<_>>()
        );
    }
}
