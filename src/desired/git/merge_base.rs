//! The definitions at the merge base of the checked-out branch and another revision.

use std::fs;
use std::path::Path;

use gix::Repository;

use super::bounds::{check, run_limited};
use super::committed::CommittedDefinitions;
use super::repository::{GitError, RepositoryFormat, open, read_object, reference_names};
use super::revision::MAX_TEXT;
use crate::desired::definitions::Loaded;
use crate::model::{closest, ellipsize, printable};

#[derive(Debug)]
pub struct MergeBase {
    /// The commit's id, in hexadecimal digits.
    pub commit: String,
    /// The definition files of the commit. None of their problems counts: an unusable file wants nothing.
    pub loaded: Loaded,
}

#[derive(Debug, thiserror::Error)]
pub enum MergeBaseError {
    #[error("--base needs the definitions in a git checkout with a commit: {0}")]
    NoCheckout(String),
    #[error("--base compares with the merge base and takes one revision: use {1} instead of {0}")]
    Range(String, String),
    #[error("--base takes a branch, a tag or a commit id, not {0}")]
    Syntax(String),
    #[error("--base: this clone has no revision {0}; did you mean {1}?")]
    Misspelled(String, String),
    #[error(
        "--base: this clone has no commit {0}; help: fetch it first (a job that checks out a single commit needs its \
         history: fetch-depth: 0)"
    )]
    Unknown(String),
    #[error(
        "--base: {0} and the checked-out commit have no common ancestor in this clone; help: fetch the history of both \
         (fetch-depth: 0)"
    )]
    Unrelated(String),
    #[error("--base: the definitions of commit {0} cannot be read: {1}")]
    Unreadable(String, String),
}

/// Reads the definition files at the merge base of the checked-out commit and `reference`. If the directory did not exist
/// then, there are no files. Links are not followed. May block.
pub fn read_merge_base(directory: &Path, reference: &str) -> Result<MergeBase, MergeBaseError> {
    let (owned, name) = (directory.to_owned(), reference.to_owned());
    run_limited(directory, move || read(&owned, &name))
        .unwrap_or_else(|error| Err(MergeBaseError::NoCheckout(error.to_string())))
}

fn read(directory: &Path, reference: &str) -> Result<MergeBase, MergeBaseError> {
    let format = RepositoryFormat::of(directory);
    let no_checkout =
        |error: GitError| MergeBaseError::NoCheckout(format.explain(error).to_string());
    let shown = ellipsize(&printable(reference), MAX_TEXT);
    let directory = fs::canonicalize(directory).map_err(|error| no_checkout(error.into()))?;
    check(&directory, Some(reference)).map_err(|error| no_checkout(error.into()))?;
    let (repository, path) = open(&directory).map_err(no_checkout)?;
    let head = repository
        .head_id()
        .map_err(|error| no_checkout(error.into()))?;
    let tip = repository
        .rev_parse_single(format!("{reference}^{{commit}}").as_str())
        .map_err(|error| {
            explain_unknown(&repository, reference, &shown, format.explain(error.into()))
        })?;
    let commit = match repository
        .merge_base(head, tip)
        .map_err(|error| format.explain(error.into()))
    {
        Ok(Some(id)) => id.detach(),
        Err(error @ GitError::Partial(_)) => {
            return Err(MergeBaseError::Unreadable(shown, error.to_string()));
        }
        Ok(None) | Err(_) => return Err(MergeBaseError::Unrelated(shown)),
    };
    let files = || {
        let commit = read_object(&repository, commit)?.try_into_commit()?;
        CommittedDefinitions::read(&repository, commit.tree_id()?.detach(), &path)
    };
    let files = files().map_err(|error| {
        MergeBaseError::Unreadable(commit.to_string(), format.explain(error).to_string())
    })?;
    Ok(MergeBase {
        commit: commit.to_string(),
        loaded: files.load(directory),
    })
}

/// Why a revision was not found.
fn explain_unknown(
    repository: &Repository,
    reference: &str,
    shown: &str,
    error: GitError,
) -> MergeBaseError {
    const MAX_NAMES: usize = 10_000;
    let shown = shown.to_owned();
    if let Some((first, second)) = reference
        .split_once("...")
        .or_else(|| reference.split_once(".."))
    {
        let one = if first.is_empty() || first == "HEAD" {
            second
        } else {
            first
        };
        return MergeBaseError::Range(shown, ellipsize(&printable(one), MAX_TEXT));
    }
    if reference.contains(['@', ':', '{', '*', '?', '[', '\\', ' ']) {
        return MergeBaseError::Syntax(shown);
    }
    let name = reference.split(['~', '^']).next().unwrap_or(reference);
    if repository.find_reference(name).is_ok() {
        return match error {
            GitError::Partial(_) => MergeBaseError::Unreadable(shown, error.to_string()),
            _ => MergeBaseError::Unknown(shown),
        };
    }
    let names = reference_names(repository, MAX_NAMES);
    match closest(name, names.iter().map(String::as_str)) {
        Some(meant) => MergeBaseError::Misspelled(shown, ellipsize(&printable(meant), MAX_TEXT)),
        None => MergeBaseError::Unknown(shown),
    }
}
