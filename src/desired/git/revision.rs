//! The commit that is checked out at the definitions directory, and whether its files differ from that commit.
//!
//! Never: walk the history, or fail. A directory without a readable repository has no revision.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::objs::CommitRef;
use parking_lot::{Mutex, MutexGuard};

use super::bounds::run_limited;
use super::committed::is_dirty;
use super::repository::{GitError, RepositoryFormat, open, path_in_checkout, read_object};
use crate::model::{Revision, ellipsize};

/// The longest subject and the longest name of an author, in characters.
pub(super) const MAX_TEXT: usize = 200;

/// Reads the commit that is checked out at a directory, or at the nearest of its parents that is a checkout. `None` if
/// there is none on the same file system (a mounted volume does not belong to the repository around it), if nothing has
/// been committed, and if the repository cannot be read, which is a warning.
///
/// The nearest repository counts, even if it does not know the directory: a directory that git ignores is dirty, not part
/// of a repository further up. The subject and the author are untrusted text. May block.
#[must_use]
pub fn read_revision(directory: &Path) -> Option<Revision> {
    read_shared_revision(directory, None)
}

/// The same for a directory and the shared directory that it extends, which is in the same checkout.
#[must_use]
pub fn read_shared_revision(directory: &Path, shared: Option<&Path>) -> Option<Revision> {
    let owned = directory.to_owned();
    let shared = shared.map(ToOwned::to_owned);
    let read = move || match read_head(&owned, shared.as_deref()) {
        Err(GitError::NoCommit) => Err(GitError::NoCommit),
        result => result.map_err(|error| RepositoryFormat::of(&owned).explain(error)),
    };
    match run_limited(directory, read).unwrap_or_else(|error| Err(error.into())) {
        Ok(revision) => {
            warnings().remove(directory);
            Some(revision)
        }
        Err(error)
            if matches!(error, GitError::NoCommit) || path_in_checkout(directory).is_none() =>
        {
            tracing::debug!("{} has no git revision: {error}", directory.display());
            None
        }
        Err(error) => {
            let error = error.to_string();
            if is_new_warning(directory, &error) {
                tracing::warn!(
                    "the git revision of {} cannot be read: {error}",
                    directory.display()
                );
            }
            None
        }
    }
}

fn read_head(directory: &Path, shared: Option<&Path>) -> Result<Revision, GitError> {
    let directory = fs::canonicalize(directory)?;
    let (repository, path) = open(&directory)?;
    if repository.head()?.is_unborn() {
        return Err(GitError::NoCommit);
    }
    let id = repository.head_id()?.detach();
    let commit = read_object(&repository, id)?.try_into_commit()?;
    let commit = commit.decode()?;
    let root = directory.ancestors().nth(path.iter().count());
    let shared = shared.and_then(|shared| shared.strip_prefix(root?).ok());
    let dirty = is_dirty(&repository, commit.tree(), &directory, &path, shared)?;
    Ok(Revision {
        dirty,
        ..describe_commit(id, &commit)?
    })
}

/// The revision of a clean checkout of a commit.
pub(super) fn describe_commit(id: ObjectId, commit: &CommitRef<'_>) -> Result<Revision, GitError> {
    let time = jiff::Timestamp::from_second(commit.committer()?.time()?.seconds)?;
    Ok(Revision {
        commit: id.to_string(),
        subject: ellipsize(&commit.message().summary().to_string(), MAX_TEXT),
        author: ellipsize(&commit.author()?.name.to_string(), MAX_TEXT),
        time: time.to_string(),
        dirty: false,
    })
}

/// Remembers the warning. Returns whether the last warning about the directory was another one.
fn is_new_warning(directory: &Path, warning: &str) -> bool {
    warnings()
        .insert(directory.to_owned(), warning.to_owned())
        .is_none_or(|last| last != warning)
}

/// The last warning about each directory. A daemon reads the revision at each reconciliation, and warns once.
fn warnings() -> MutexGuard<'static, BTreeMap<PathBuf, String>> {
    const MAX_DIRECTORIES: usize = 1000;
    static WARNINGS: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let mut warnings = WARNINGS.lock();
    if warnings.len() >= MAX_DIRECTORIES {
        warnings.clear();
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_revision_is_a_warning_once_for_each_reason_and_again_after_a_success() {
        let directory = Path::new("/a-revision-that-cannot-be-read");
        assert!(is_new_warning(directory, "one"));
        assert!(!is_new_warning(directory, "one"));
        assert!(is_new_warning(directory, "two"));
        assert!(is_new_warning(directory, "one"));
        warnings().remove(directory);
        assert!(is_new_warning(directory, "one"));
        assert!(!is_new_warning(directory, "one"));
    }
}
