//! Opens a repository and reads single objects.
//!
//! The repository is opened with reduced trust, whatever user owns it. No value of its configuration is used, nor any of the
//! user, the system or the environment, and no filter, hook or other program is ever run. So git's `safe.directory` is not
//! needed, which matters if git-sync has written the checkout as another user.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::discover::upwards;
use gix::sec::Trust;
use gix::{ObjectId, Repository};

use super::bounds::{
    GitFileError, check, common_directory, git_directories, read_bounded, run_limited,
};
use crate::desired::definitions::directory::{MAX_FILE, MAX_TOTAL};

/// The largest number of definition files of a commit. A directory with more is dirty.
pub(super) const MAX_FILES: usize = 20_000;
/// A commit or a tree beyond this size, in bytes, is not read.
pub(super) const MAX_OBJECT: u64 = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum GitError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Git(#[from] gix::Error),
    #[error(transparent)]
    Time(#[from] jiff::Error),
    #[error(transparent)]
    File(#[from] GitFileError),
    #[error("the repository has no work tree around the directory")]
    NoCheckout,
    #[error("the repository has no commit")]
    NoCommit,
    #[error("the repository uses SHA-256 object names, which are not supported")]
    Sha256,
    #[error("the repository keeps its references in a reftable, which is not supported")]
    Reftable,
    #[error(
        "this is a partial clone without the necessary objects ({0}); help: run git fetch --refetch --no-filter, or clone \
         without a filter"
    )]
    Partial(String),
    #[error(
        "there are more than {MAX_FILES} definition files, or they have more than {} MiB in total",
        MAX_TOTAL >> 20
    )]
    TooMuch,
    #[error("object {0} is too large to read ({1} bytes)")]
    TooLarge(ObjectId, u64),
    #[error("the content of object {0} does not match its id")]
    Replaced(ObjectId),
}

/// The features of a repository that explain why it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepositoryFormat {
    Plain,
    Sha256,
    Reftable,
    /// A clone without the objects that its checkout does not need.
    Partial,
}

impl RepositoryFormat {
    /// Reads the configuration of the repository around a directory. It explains an error and decides nothing else.
    pub(super) fn of(directory: &Path) -> Self {
        let config = || {
            let directory = fs::canonicalize(directory).ok()?;
            let git = git_directories(&directory).next()?.ok()?;
            let config = common_directory(&git).ok()?.join("config");
            let text = read_bounded(&config, MAX_FILE)?;
            Some(String::from_utf8_lossy(&text).to_lowercase())
        };
        let Some(config) = config() else {
            return Self::Plain;
        };
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

    /// Replaces an error by its cause, if the format is the cause.
    pub(super) fn explain(self, error: GitError) -> GitError {
        match (self, error) {
            (Self::Sha256, _) => GitError::Sha256,
            (Self::Reftable, _) => GitError::Reftable,
            (Self::Partial, GitError::Git(error)) => GitError::Partial(error.to_string()),
            (Self::Partial | Self::Plain, error) => error,
        }
    }
}

/// The path of a directory from the root of its checkout, which is the nearest parent with a `.git`. Nothing of the
/// repository is read.
#[must_use]
pub fn path_in_checkout(directory: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(directory).ok()?;
    let root = directory
        .ancestors()
        .find(|parent| fs::symlink_metadata(parent.join(".git")).is_ok())?;
    directory.strip_prefix(root).ok().map(Path::to_owned)
}

/// The short names of branches and tags, at most `max`; empty if they cannot be read.
#[must_use]
pub fn list_references(directory: &Path, max: usize) -> Vec<String> {
    let Ok(directory) = fs::canonicalize(directory) else {
        return Vec::new();
    };
    let owned = directory.clone();
    let read = move || {
        check(&owned, Some("HEAD")).ok()?;
        let (repository, _) = open(&owned).ok()?;
        Some(reference_names(&repository, max))
    };
    let names = run_limited(&directory, read);
    names.ok().flatten().unwrap_or_default()
}

pub(super) fn reference_names(repository: &Repository, max: usize) -> Vec<String> {
    let names = || {
        let platform = repository.references().ok()?;
        let all = platform.all().ok()?.filter_map(Result::ok).take(max);
        let names = all.map(|reference| reference.name().shorten().to_string());
        Some(names.collect())
    };
    names().unwrap_or_default()
}

/// Opens the repository around a directory, whose path has no links. Also returns the path of the directory from the root of
/// the checkout, which is the directory of its `.git`, whatever the repository itself claims.
pub(super) fn open(directory: &Path) -> Result<(Repository, PathBuf), GitError> {
    check(directory, None)?;
    // By default, no other file system is searched.
    let search = upwards::Options {
        dot_git_only: true,
        ..upwards::Options::default()
    };
    let (found, _) = gix::discover::upwards_opts(directory, search)?;
    let (git_directory, root) = found.into_repository_and_work_tree_directories();
    let root = fs::canonicalize(root.ok_or(GitError::NoCheckout)?)?;
    let path = directory
        .strip_prefix(root)
        .map_err(|_| GitError::NoCheckout)?;
    let options = gix::open::Options::isolated()
        .with(Trust::Reduced)
        .filter_config_section(|_| false)
        .open_path_as_is(true);
    let repository = options.open(git_directory)?.to_thread_local();
    Ok((repository, path.to_owned()))
}

/// Reads an object and checks its size and its id: anyone who can write to the repository can store another object in its
/// place, or have it replaced.
pub(super) fn read_object(
    repository: &Repository,
    id: ObjectId,
) -> Result<gix::Object<'_>, GitError> {
    let size = repository.find_header(id)?.size();
    if size > MAX_OBJECT {
        return Err(GitError::TooLarge(id, size));
    }
    let object = repository.find_object(id)?;
    if gix::objs::compute_hash(id.kind(), object.kind, &object.data)? != id {
        return Err(GitError::Replaced(id));
    }
    Ok(object)
}

/// The tree at a path below another tree.
pub(super) fn tree_at(
    repository: &Repository,
    root: ObjectId,
    path: &Path,
) -> Result<Option<ObjectId>, GitError> {
    let mut at = root;
    for name in path {
        let tree = read_object(repository, at)?.try_into_tree()?;
        match tree.find_entry(name.as_bytes()) {
            Some(entry) if entry.mode().is_tree() => at = entry.object_id(),
            _ => return Ok(None),
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_a_repository_is_that_of_its_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let of = |config: &str| {
            fs::create_dir_all(directory.path().join(".git")).unwrap();
            fs::write(directory.path().join(".git/config"), config).unwrap();
            RepositoryFormat::of(directory.path())
        };
        assert_eq!(
            RepositoryFormat::of(directory.path()),
            RepositoryFormat::Plain
        );
        for (config, format) in [
            ("[core]\n\tbare = false\n", RepositoryFormat::Plain),
            (
                "[extensions]\n\tobjectFormat = sha1\n",
                RepositoryFormat::Plain,
            ),
            (
                "[extensions]\n\tobjectFormat = SHA256\n",
                RepositoryFormat::Sha256,
            ),
            (
                "[extensions]\n\trefStorage = reftable\n",
                RepositoryFormat::Reftable,
            ),
            (
                "[extensions]\n\tpartialClone = origin\n",
                RepositoryFormat::Partial,
            ),
            (
                "[remote \"a\"]\n\tpromisor = true\n",
                RepositoryFormat::Partial,
            ),
            (
                "[remote \"a\"]\n\tpromisor = false\n",
                RepositoryFormat::Plain,
            ),
            (
                "[remote \"sha256\"]\n\turl = sha256\n",
                RepositoryFormat::Plain,
            ),
        ] {
            assert_eq!(of(config), format, "{config}");
        }
    }
}
