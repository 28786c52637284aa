//! The git commit that the definitions directory stands at, and whether its files are those of the commit.
//!
//! Whoever can write to the directory can write a `.git` next to it, so a repository is hostile input. It is opened with
//! reduced trust, whoever owns it: no value of its configuration is used, nor any of the user, the system or the
//! environment, and no filter, hook or other program is ever run. That makes git's `safe.directory` needless as well,
//! which matters where git-sync has written the checkout as another user.
//!
//! This module never writes. [`revision`] never walks the history and never fails: a directory without a readable
//! repository has no revision. [`base`] walks it as far as the commit where two branches parted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use gix::discover::upwards;
use gix::objs::{CommitRef, Kind};
use gix::sec::Trust;
use gix::{ObjectId, Repository};
use parking_lot::{Mutex, MutexGuard};

use super::files::{GitFileError, check, check_references, limited};
use crate::desired::definitions::Loaded;
use crate::desired::definitions::directory::{
    FileError, MAX_FILE, MAX_TOTAL, is_definition, is_hidden, is_input,
};
use crate::desired::definitions::load::{FileContent, read_file};
use crate::model::{Diagnostic, Revision, closest, ellipsize, printable};

/// The longest subject and the longest name of an author, in characters.
const MAX_TEXT: usize = 200;
/// A commit or a tree beyond this size, in bytes, is not read.
const MAX_OBJECT: u64 = 8 << 20;
/// Definition files beyond this number are not compared: the directory counts as differing.
const MAX_FILES: usize = 20_000;

/// The commit checked out at a directory, or at the nearest of its parents that is a checkout. `None` where there is none
/// before the file system ends (a mounted volume does not belong to the repository around it), where nothing has been
/// committed, and where the repository cannot be read, which is a warning.
///
/// The nearest repository counts, even where it does not know the directory: a directory that git ignores is dirty, not
/// part of some repository further up. Content is compared byte by byte with the commit, not with the index, and line ends
/// are content; the subject and the author are foreign text. Reads files, so it may block.
#[must_use]
pub fn revision(directory: &Path) -> Option<Revision> {
    let owned = directory.to_owned();
    let read = move || match read(&owned) {
        Err(Trouble::NoCommit) => Err(Trouble::NoCommit),
        result => result.map_err(|trouble| Format::of(&owned).explain(trouble)),
    };
    match limited(directory, read).unwrap_or_else(|error| Err(error.into())) {
        Ok(revision) => {
            forget_warning(directory);
            Some(revision)
        }
        Err(trouble)
            if matches!(trouble, Trouble::NoCommit) || path_in_checkout(directory).is_none() =>
        {
            tracing::debug!(
                "no git revision is known of {}: {trouble}",
                directory.display()
            );
            None
        }
        Err(trouble) => {
            let sentence = trouble.to_string();
            if is_news(directory, &sentence) {
                tracing::warn!(
                    "the git revision of {} cannot be read: {sentence}",
                    directory.display()
                );
            }
            None
        }
    }
}

/// Whether the last warning of a directory was another one. It is remembered.
fn is_news(directory: &Path, sentence: &str) -> bool {
    warned()
        .insert(directory.to_owned(), sentence.to_owned())
        .is_none_or(|last| last != sentence)
}

fn forget_warning(directory: &Path) {
    warned().remove(directory);
}

/// The last warning of each directory whose revision cannot be read: a daemon reads it at each reconciliation, and warns once.
fn warned() -> MutexGuard<'static, BTreeMap<PathBuf, String>> {
    /// As many directories as are remembered.
    const MOST: usize = 1000;
    static WARNED: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let mut warned = WARNED.lock();
    if warned.len() >= MOST {
        warned.clear();
    }
    warned
}

/// A form of repository that explains why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Nothing special.
    Plain,
    /// Objects are named by SHA-256.
    Sha256,
    /// References are in a reftable.
    Reftable,
    /// Objects that are not needed for the checkout were left out.
    Partial,
}

impl Format {
    /// Reads it from the configuration of the repository around a directory. It explains an error and decides nothing else.
    fn of(directory: &Path) -> Self {
        let Some(git) = git_directory(directory) else {
            return Self::Plain;
        };
        let Some(config) = read_bounded(&git.join("config")) else {
            return Self::Plain;
        };
        let config = String::from_utf8_lossy(&config).to_lowercase();
        let has = |key: &str, value: &str| {
            config
                .lines()
                .filter_map(|line| line.split_once('='))
                .any(|(k, v)| k.trim() == key && v.trim().starts_with(value))
        };
        if has("objectformat", "sha256") {
            Self::Sha256
        } else if has("refstorage", "reftable") {
            Self::Reftable
        } else if has("promisor", "true") || has("partialclone", "") {
            Self::Partial
        } else {
            Self::Plain
        }
    }

    /// The cause of an error that the form of the repository has.
    fn explain(self, trouble: Trouble) -> Trouble {
        match (self, trouble) {
            (Self::Sha256, _) => Trouble::Sha256,
            (Self::Reftable, _) => Trouble::Reftable,
            (Self::Partial, Trouble::Git(error)) => Trouble::Partial(error.to_string()),
            (Self::Partial | Self::Plain, trouble) => trouble,
        }
    }
}

/// Where the repository around a directory keeps its configuration.
fn git_directory(directory: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(directory).ok()?;
    let git = directory
        .ancestors()
        .map(|parent| parent.join(".git"))
        .find(|git| fs::symlink_metadata(git).is_ok())?;
    let target = |file: &Path| {
        let text = String::from_utf8(read_bounded(file)?).ok()?;
        Some(
            file.parent()?
                .join(text.trim_end().trim_start_matches("gitdir: ")),
        )
    };
    let git = if git.is_dir() { git } else { target(&git)? };
    // A worktree has its own directory, and the configuration of the repository.
    Some(target(&git.join("commondir")).unwrap_or(git))
}

/// The path of a directory from the root of the checkout that it is in: the nearest parent with a `.git`. `None` where it is
/// in none, or cannot be found. Nothing of the repository is read.
#[must_use]
pub fn path_in_checkout(directory: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(directory).ok()?;
    let root = directory
        .ancestors()
        .find(|parent| fs::symlink_metadata(parent.join(".git")).is_ok())?;
    directory.strip_prefix(root).ok().map(Path::to_owned)
}

/// The definitions as they were where this branch left another one.
#[derive(Debug)]
pub struct MergeBase {
    /// The commit's id, in hexadecimal digits.
    pub commit: String,
    /// Its definition files. None of their problems counts: a file that cannot be used wants nothing.
    pub loaded: Loaded,
}

/// The definitions as they were cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("--base needs the definitions in a git checkout with a commit: {0}")]
    NoCheckout(String),
    #[error("--base takes one revision and compares with the merge base: name {1} instead of {0}")]
    Range(String, String),
    /// Something that no branch, tag or commit is named by.
    #[error("--base takes a branch, a tag or a commit id, and {0} is none of these")]
    Form(String),
    #[error("--base: this clone has no revision {0}; did you mean {1}?")]
    Misspelt(String, String),
    #[error(
        "--base: this clone has no commit {0}; fetch it first (a job that checks out a single commit needs its history: \
         fetch-depth: 0)"
    )]
    Unknown(String),
    #[error(
        "--base: {0} and the checked-out commit have no common ancestor in this clone; fetch the history of both \
         (fetch-depth: 0)"
    )]
    Unrelated(String),
    /// The commit is there, and its files cannot be read.
    #[error("--base: the definitions of commit {0} cannot be read: {1}")]
    Unreadable(String, String),
}

/// Reads the definition files as they were at the commit where the checked-out branch left `reference`: the merge base of
/// both. A directory that was not there then has no files; a file that was a link is not followed. May block.
///
/// # Errors
/// [`BaseError`].
pub fn base(directory: &Path, reference: &str) -> Result<MergeBase, BaseError> {
    let (owned, name) = (directory.to_owned(), reference.to_owned());
    let read = move || read_base(&owned, &name);
    limited(directory, read).unwrap_or_else(|error| Err(BaseError::NoCheckout(error.to_string())))
}

fn read_base(directory: &Path, reference: &str) -> Result<MergeBase, BaseError> {
    let format = Format::of(directory);
    let no_checkout = |trouble: Trouble| BaseError::NoCheckout(format.explain(trouble).to_string());
    let shown = ellipsize(&printable(reference), MAX_TEXT);
    let directory = fs::canonicalize(directory).map_err(|error| no_checkout(error.into()))?;
    check_references(&directory, reference).map_err(|error| no_checkout(error.into()))?;
    let (repository, root) = open(&directory).map_err(no_checkout)?;
    let path = directory
        .strip_prefix(&root)
        .map_err(|_| no_checkout(Trouble::NoCheckout))?;
    let head = repository
        .head_id()
        .map_err(|error| no_checkout(error.into()))?;
    let tip = repository
        .rev_parse_single(format!("{reference}^{{commit}}").as_str())
        .map_err(|error| unknown(&repository, reference, &shown, format.explain(error.into())))?;
    let commit = match repository
        .merge_base(head, tip)
        .map_err(|error| format.explain(error.into()))
    {
        Ok(Some(id)) => id.detach(),
        Err(Trouble::Partial(why)) => {
            return Err(BaseError::Unreadable(
                shown,
                Trouble::Partial(why).to_string(),
            ));
        }
        Ok(None) | Err(_) => return Err(BaseError::Unrelated(shown)),
    };
    let files = || {
        files_of(
            &repository,
            object(&repository, commit)?
                .try_into_commit()?
                .tree_id()?
                .detach(),
            path,
        )
    };
    let files = files().map_err(|trouble| {
        BaseError::Unreadable(commit.to_string(), format.explain(trouble).to_string())
    })?;
    Ok(MergeBase {
        commit: commit.to_string(),
        loaded: Loaded::from_files(directory, files.iter().map(Committed::read)),
    })
}

/// Why a revision was not found.
fn unknown(repository: &Repository, reference: &str, shown: &str, trouble: Trouble) -> BaseError {
    /// As many names are compared.
    const MOST: usize = 10_000;
    if let Some((first, second)) = reference
        .split_once("...")
        .or_else(|| reference.split_once(".."))
    {
        let one = if first.is_empty() || first == "HEAD" {
            second
        } else {
            first
        };
        return BaseError::Range(shown.to_owned(), ellipsize(&printable(one), MAX_TEXT));
    }
    if reference.contains(['@', ':', '{', '*', '?', '[', '\\', ' ']) {
        return BaseError::Form(shown.to_owned());
    }
    let name = reference.split(['~', '^']).next().unwrap_or(reference);
    let there = repository.find_reference(name).is_ok();
    if let (true, Trouble::Partial(_)) = (there, &trouble) {
        return BaseError::Unreadable(shown.to_owned(), trouble.to_string());
    }
    let names = || {
        let platform = repository.references().ok()?;
        let all = platform.all().ok()?.take(MOST).filter_map(Result::ok);
        Some(
            all.map(|reference| reference.name().shorten().to_string())
                .collect::<Vec<_>>(),
        )
    };
    let names = if there {
        Vec::new()
    } else {
        names().unwrap_or_default()
    };
    match closest(name, names.iter().map(String::as_str)) {
        Some(meant) => {
            BaseError::Misspelt(shown.to_owned(), ellipsize(&printable(meant), MAX_TEXT))
        }
        None => BaseError::Unknown(shown.to_owned()),
    }
}

/// The short names of branches and tags, at most `max`; none if they cannot be read.
#[must_use]
pub fn references(directory: &Path, max: usize) -> Vec<String> {
    let Ok(directory) = fs::canonicalize(directory) else {
        return Vec::new();
    };
    let owned = directory.clone();
    let read = move || {
        check_references(&owned, "HEAD").ok()?;
        let (repository, _) = open(&owned).ok()?;
        let platform = repository.references().ok()?;
        let all = platform.all().ok()?.filter_map(Result::ok).take(max);
        let names = all.map(|reference| reference.name().shorten().to_string());
        Some(names.collect::<Vec<_>>())
    };
    limited(&directory, read).ok().flatten().unwrap_or_default()
}

/// A definition file as a commit has it.
pub(super) struct Committed {
    name: String,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    Link,
    TooLarge,
}

impl Committed {
    pub(super) fn read(&self) -> (FileContent, Vec<Diagnostic>) {
        let content = match &self.content {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::Link => Err(FileError::NotAFile),
            Content::TooLarge => Err(FileError::TooLarge(MAX_FILE)),
        };
        read_file(&self.name, content)
    }
}

/// The definition files of a commit's tree, in the directory at a path in it.
pub(super) fn files_of(
    repository: &Repository,
    tree: ObjectId,
    path: &Path,
) -> Result<Vec<Committed>, Trouble> {
    let Some(tree) = tree_at(repository, tree, path)? else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    let mut total = 0;
    for (name, entry) in committed_files(repository, tree)? {
        let size = repository.find_header(entry.id)?.size();
        let content = if entry.link {
            Content::Link
        } else if size > MAX_FILE {
            Content::TooLarge
        } else {
            total += size;
            Content::Bytes(object(repository, entry.id)?.detach().data)
        };
        if files.len() == MAX_FILES || total > MAX_TOTAL {
            return Err(Trouble::TooMuch);
        }
        // A name that is not UTF-8 is shown so, as in a directory.
        files.push(Committed {
            name: name.to_string_lossy().into_owned(),
            content,
        });
    }
    // Only their names are looked at.
    let below = files_below(repository, tree)?
        .into_iter()
        .map(|name| Committed {
            name,
            content: Content::Link,
        });
    files.extend(below.take(MAX_FILES));
    Ok(files)
}

/// The first YAML file of each directory of a tree, which would be a definition one level up: as in a directory on disk.
fn files_below(repository: &Repository, tree: ObjectId) -> Result<Vec<String>, Trouble> {
    let (mut names, mut directories) = (Vec::new(), 0);
    for entry in object(repository, tree)?.try_into_tree()?.iter() {
        let entry = entry?;
        let name = OsString::from_vec(entry.filename().to_vec());
        if !entry.mode().is_tree() || is_hidden(&name) {
            continue;
        }
        directories += 1;
        if directories > MAX_FILES {
            break;
        }
        let below = object(repository, entry.object_id())?.try_into_tree()?;
        let files = below.iter().take(MAX_FILES).filter_map(Result::ok);
        let mut files = files
            .filter(|file| file.mode().is_blob_or_symlink())
            .map(|file| OsString::from_vec(file.filename().to_vec()));
        if let Some(file) = files.find(|name| is_definition(name)) {
            names.push(Path::new(&name).join(file).to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Git(#[from] gix::Error),
    #[error(transparent)]
    Time(#[from] jiff::Error),
    #[error(transparent)]
    File(#[from] GitFileError),
    #[error("the repository has no checkout around the directory")]
    NoCheckout,
    #[error("nothing was committed yet")]
    NoCommit,
    #[error("the repository names its objects by SHA-256, which this version does not read")]
    Sha256,
    #[error("the repository keeps its references in a reftable, which this version does not read")]
    Reftable,
    #[error(
        "this is a partial clone, and it lacks an object ({0}); fetch all of them: git fetch --refetch --no-filter, or clone \
         without a filter"
    )]
    Partial(String),
    #[error("there are more than {MAX_FILES} definition files, or they amount to more than {} MiB", MAX_TOTAL >> 20)]
    TooMuch,
    #[error("object {0} has {1} bytes, which is too much to read")]
    TooLarge(ObjectId, u64),
    #[error("what is stored as object {0} is another one")]
    Replaced(ObjectId),
}

fn read(directory: &Path) -> Result<Revision, Trouble> {
    let directory = fs::canonicalize(directory)?;
    let (repository, root) = open(&directory)?;
    let path = directory
        .strip_prefix(&root)
        .map_err(|_| Trouble::NoCheckout)?;

    if repository.head()?.is_unborn() {
        return Err(Trouble::NoCommit);
    }
    let id = repository.head_id()?.detach();
    let commit = object(&repository, id)?.try_into_commit()?;
    let commit = commit.decode()?;
    let dirty = is_dirty(&repository, commit.tree(), &directory, path)?;
    Ok(Revision {
        dirty,
        ..told(id, &commit)?
    })
}

/// What is told of a commit whose files are those of the directory.
pub(super) fn told(id: ObjectId, commit: &CommitRef<'_>) -> Result<Revision, Trouble> {
    let time = jiff::Timestamp::from_second(commit.committer()?.time()?.seconds)?;
    Ok(Revision {
        commit: id.to_string(),
        subject: ellipsize(&commit.message().summary().to_string(), MAX_TEXT),
        author: ellipsize(&commit.author()?.name.to_string(), MAX_TEXT),
        time: time.to_string(),
        dirty: false,
    })
}

/// Whether the definition files of a directory are others than those of a commit's tree, at a path in it.
pub(super) fn is_dirty(
    repository: &Repository,
    tree: ObjectId,
    directory: &Path,
    path: &Path,
) -> Result<bool, Trouble> {
    let committed = match tree_at(repository, tree, path)? {
        Some(tree) => committed_files(repository, tree)?,
        None => BTreeMap::new(),
    };
    differ(directory, &committed, repository.object_hash())
}

/// The repository around a directory, and the root of its checkout: where its `.git` lies, whatever it says itself.
pub(super) fn open(directory: &Path) -> Result<(Repository, PathBuf), Trouble> {
    check(directory)?;
    let search = upwards::Options {
        trust: upwards::TrustPolicy::Assume(Trust::Reduced),
        dot_git_only: true,
        cross_fs: false,
        ..upwards::Options::default()
    };
    let (found, trust) = gix::discover::upwards_opts(directory, search)?;
    let (git_directory, root) = found.into_repository_and_work_tree_directories();
    let root = fs::canonicalize(root.ok_or(Trouble::NoCheckout)?)?;
    let options = gix::open::Options::isolated()
        .with(trust)
        .filter_config_section(|_| false)
        .open_path_as_is(true);
    Ok((options.open(git_directory)?.to_thread_local(), root))
}

/// An object that is not too large and is what its id says: whoever can write to a repository can store another one in
/// its place, or have it replaced.
pub(super) fn object(repository: &Repository, id: ObjectId) -> Result<gix::Object<'_>, Trouble> {
    let size = repository.find_header(id)?.size();
    if size > MAX_OBJECT {
        return Err(Trouble::TooLarge(id, size));
    }
    let object = repository.find_object(id)?;
    if gix::objs::compute_hash(id.kind(), object.kind, &object.data)? != id {
        return Err(Trouble::Replaced(id));
    }
    Ok(object)
}

/// The tree at a path below another one, where there is one.
fn tree_at(
    repository: &Repository,
    root: ObjectId,
    path: &Path,
) -> Result<Option<ObjectId>, Trouble> {
    let mut at = root;
    for name in path {
        let tree = object(repository, at)?.try_into_tree()?;
        match tree.find_entry(name.as_bytes()) {
            Some(entry) if entry.mode().is_tree() => at = entry.object_id(),
            _ => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// What git says of a file: what it is, and the id of its content.
#[derive(Debug, PartialEq, Eq)]
struct TreeFile {
    link: bool,
    id: ObjectId,
}

fn committed_files(
    repository: &Repository,
    tree: ObjectId,
) -> Result<BTreeMap<OsString, TreeFile>, Trouble> {
    let tree = object(repository, tree)?.try_into_tree()?;
    let mut files = BTreeMap::new();
    for entry in tree.iter() {
        let entry = entry?;
        let name = OsString::from_vec(entry.filename().to_vec());
        if entry.mode().is_blob_or_symlink() && is_input(&name) {
            files.insert(
                name,
                TreeFile {
                    link: entry.mode().is_link(),
                    id: entry.object_id(),
                },
            );
        }
    }
    Ok(files)
}

/// Whether the definition files of a directory are others than the committed ones.
fn differ(
    directory: &Path,
    committed: &BTreeMap<OsString, TreeFile>,
    hash: gix::hash::Kind,
) -> Result<bool, Trouble> {
    let mut same = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        if !is_input(&name) || kind.is_dir() {
            continue;
        }
        let Some(expected) = committed.get(&name).filter(|_| same < MAX_FILES) else {
            return Ok(true);
        };
        let content = if kind.is_symlink() {
            fs::read_link(entry.path())
                .ok()
                .map(|target| target.into_os_string().into_vec())
        } else if kind.is_file() {
            read_bounded(&entry.path())
        } else {
            None
        };
        let Some(content) = content else {
            return Ok(true);
        };
        let id = gix::objs::compute_hash(hash, Kind::Blob, &content)?;
        if *expected
            != (TreeFile {
                link: kind.is_symlink(),
                id,
            })
        {
            return Ok(true);
        }
        same += 1;
    }
    Ok(same != committed.len())
}

fn read_bounded(file: &Path) -> Option<Vec<u8>> {
    // What never ends, or blocks, is no regular file.
    if !fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let mut content = Vec::new();
    let length = File::open(file)
        .ok()?
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .ok()?;
    u64::try_from(length)
        .is_ok_and(|length| length <= MAX_FILE)
        .then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_revision_is_a_warning_once_for_each_reason_and_again_after_a_success() {
        let directory = Path::new("/a-revision-that-cannot-be-read");
        assert!(is_news(directory, "one"));
        assert!(!is_news(directory, "one"));
        assert!(is_news(directory, "two"));
        assert!(is_news(directory, "one"));
        forget_warning(directory);
        assert!(is_news(directory, "one"));
        assert!(!is_news(directory, "one"));
    }
}
