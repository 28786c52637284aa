//! Loads definitions from the newest commit that an allowed signer signed.
//!
//! Files are read from the commit's tree, and each object is checked against its id. The files in the directory are not
//! read, because they are not signed. If the checked-out commit is not trusted, a trusted commit stays in force: the last
//! one, unless there is a newer one among the first parents of the checked-out commit. A process that has just started
//! knows only the latter.
//!
//! Limit: a signature does not prove that the commit is the latest. Anyone who can push can check out an older trusted commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use gix::objs::CommitRef;
use gix::{ObjectId, Repository};
use parking_lot::Mutex;

use super::allowed_signers::{AllowedSigners, SignersError};
use super::bounds::run_limited;
use super::committed::{CommittedFile, is_dirty, read_committed};
use super::repository::{GitError, open, read_object};
use super::revision::describe_commit;
use super::signature::{SignedCommit, TrustError};
use crate::desired::definitions::directory::in_parallel;
use crate::desired::definitions::{DirectoryError, Loaded};
use crate::model::{Revision, short_commit};

/// The number of first parents that are searched.
const MAX_PARENTS: usize = 1_000;

/// Which commits are trusted, and the trusted commit that was in force last.
pub struct TrustPolicy {
    signers: Option<PathBuf>,
    pinned: Option<CommitId>,
    last: Mutex<Option<Arc<TrustedCommit>>>,
}

/// The full id of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitId(ObjectId);

#[derive(Debug)]
pub struct TrustedDefinitions {
    pub loaded: Loaded,
    pub revision: Revision,
    /// The checkout, if the definitions are those of another commit or the files differ.
    pub refused: Option<RefusedCheckout>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckoutTrust {
    Trusted,
    Refused(RefusedCheckout),
}

/// A checkout that is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCheckout {
    /// The id of the commit, in hexadecimal digits; `None` without a readable checkout.
    pub commit: Option<String>,
    pub reason: TrustError,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustedLoadError {
    #[error(transparent)]
    Signers(#[from] SignersError),
    #[error(
        "{0}, and none of the {MAX_PARENTS} commits before it is known to be trusted; nothing is planned"
    )]
    NoTrustedCommit(RefusedCheckout),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

struct TrustedCommit {
    id: ObjectId,
    directory: PathBuf,
    /// Checked again at each load, because the allowed signers change.
    signed: SignedCommit,
    revision: Revision,
    files: Vec<CommittedFile>,
}

struct TrustRules {
    signers: Option<AllowedSigners>,
    pinned: Option<CommitId>,
}

struct Checkout {
    repository: Repository,
    directory: PathBuf,
    /// The path of the directory in the checkout.
    path: PathBuf,
    head: ObjectId,
}

impl CommitId {
    /// # Errors
    /// A sentence if it is not the full id: another commit could begin with the same digits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let id = ObjectId::from_hex(text.as_bytes())
            .ok()
            .filter(|_| text.len() == 40);
        id.map(Self)
            .ok_or_else(|| "use the full commit id of 40 hexadecimal digits".to_owned())
    }
}

impl TrustPolicy {
    /// Trusts the commits of these signers and one pinned commit, signed or not. The file of signers is read at each load.
    #[must_use]
    pub const fn new(signers: Option<PathBuf>, pinned: Option<CommitId>) -> Self {
        Self {
            signers,
            pinned,
            last: Mutex::new(None),
        }
    }
}

impl fmt::Debug for TrustPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustPolicy")
            .field("signers", &self.signers)
            .field("pinned", &self.pinned)
            .finish_non_exhaustive()
    }
}

impl CheckoutTrust {
    #[must_use]
    pub const fn refused(&self) -> Option<&RefusedCheckout> {
        match self {
            Self::Trusted => None,
            Self::Refused(refused) => Some(refused),
        }
    }
}

impl fmt::Display for RefusedCheckout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.commit {
            Some(id) => write!(f, "the checked-out commit ({})", short_commit(id))?,
            None => write!(f, "the checkout")?,
        }
        write!(f, " is refused: {}", self.reason)
    }
}

/// Loads the trusted definitions of a directory in a git checkout. May block.
pub fn load_trusted(
    directory: &Path,
    policy: &TrustPolicy,
) -> Result<TrustedDefinitions, TrustedLoadError> {
    let signers = policy
        .signers
        .as_deref()
        .map(AllowedSigners::read)
        .transpose()?;
    let rules = TrustRules {
        signers,
        pinned: policy.pinned,
    };
    // If a key is removed from the file, its commits lose trust. The lock is never held during a read.
    let last = policy
        .last
        .lock()
        .clone()
        .filter(|commit| rules.check(commit.id, &commit.signed).is_ok());
    let (owned, previous) = (directory.to_owned(), last.clone());
    let read = move || Checkout::open(&owned).map(|checkout| checkout.find(&rules, previous));
    let (commit, refused) =
        match run_limited(directory, read).unwrap_or_else(|error| Err(error.into())) {
            Ok(found) => found,
            Err(error) => {
                let refused = RefusedCheckout {
                    commit: None,
                    reason: TrustError::NoCheckout(error.to_string()),
                };
                (last, Some(refused))
            }
        };
    policy.last.lock().clone_from(&commit);
    let commit = match (commit, &refused) {
        (Some(commit), _) => commit,
        (None, Some(refused)) => return Err(TrustedLoadError::NoTrustedCommit(refused.clone())),
        (None, None) => {
            return Err(DirectoryError::Empty {
                directory: directory.to_owned(),
                look_alikes: Vec::new(),
            }
            .into());
        }
    };
    let loaded = Loaded::from_files(
        commit.directory.clone(),
        in_parallel(&commit.files, CommittedFile::read),
    )
    .reject_empty(directory)?;
    Ok(TrustedDefinitions {
        loaded,
        revision: commit.revision.clone(),
        refused,
    })
}

impl TrustRules {
    fn check(&self, id: ObjectId, signed: &SignedCommit) -> Result<(), TrustError> {
        match &self.signers {
            _ if self.pinned == Some(CommitId(id)) => Ok(()),
            Some(signers) => signed.verify(signers),
            None => Err(TrustError::NotPinned),
        }
    }
}

impl Checkout {
    fn open(directory: &Path) -> Result<Self, GitError> {
        let directory = fs::canonicalize(directory)?;
        let (repository, path) = open(&directory)?;
        let head = repository.head_id()?.detach();
        Ok(Self {
            repository,
            directory,
            path,
            head,
        })
    }

    /// Returns the trusted commit in force, and the checkout if it is refused. `last` was in force before.
    fn find(
        &self,
        rules: &TrustRules,
        last: Option<Arc<TrustedCommit>>,
    ) -> (Option<Arc<TrustedCommit>>, Option<RefusedCheckout>) {
        let (commit, reason) = match self.read(self.head, rules) {
            Ok((commit, tree)) => {
                let dirty = is_dirty(&self.repository, tree, &self.directory, &self.path);
                let reason = (!matches!(dirty, Ok(false))).then_some(TrustError::Dirty);
                (Some(Arc::new(commit)), reason)
            }
            Err(reason) => (self.last_trusted(rules, last), Some(reason)),
        };
        let refused = reason.map(|reason| RefusedCheckout {
            commit: Some(self.head.to_string()),
            reason,
        });
        (commit, refused)
    }

    /// The nearest trusted commit among the first parents if it is newer than `last`, otherwise `last`.
    fn last_trusted(
        &self,
        rules: &TrustRules,
        last: Option<Arc<TrustedCommit>>,
    ) -> Option<Arc<TrustedCommit>> {
        let mut found = None;
        let mut at = self.parent(self.head);
        for _ in 0..MAX_PARENTS {
            let Some(id) = at else { break };
            if last.as_ref().is_some_and(|last| last.id == id) {
                return found.or(last);
            }
            if found.is_none() {
                found = self
                    .read(id, rules)
                    .ok()
                    .map(|(commit, _)| Arc::new(commit));
            }
            if found.is_some() && last.is_none() {
                break;
            }
            at = self.parent(id);
        }
        last.or(found)
    }

    /// Checks and reads a commit. Also returns the id of its tree.
    fn read(
        &self,
        id: ObjectId,
        rules: &TrustRules,
    ) -> Result<(TrustedCommit, ObjectId), TrustError> {
        let unreadable = |error: GitError| TrustError::Unreadable(error.to_string());
        let commit = read_object(&self.repository, id).map_err(unreadable)?;
        let signed = SignedCommit::parse(&commit.data)?;
        rules.check(id, &signed)?;
        let read = || {
            let commit = CommitRef::from_bytes(&signed.payload, id.kind())?;
            let (tree, revision) = (commit.tree(), describe_commit(id, &commit)?);
            let files = read_committed(&self.repository, tree, &self.path)?;
            Ok((tree, revision, files))
        };
        let (tree, revision, files) = read().map_err(unreadable)?;
        let commit = TrustedCommit {
            id,
            directory: self.directory.clone(),
            signed,
            revision,
            files,
        };
        Ok((commit, tree))
    }

    fn parent(&self, id: ObjectId) -> Option<ObjectId> {
        let commit = read_object(&self.repository, id).ok()?;
        CommitRef::from_bytes(&commit.data, id.kind())
            .ok()?
            .parents()
            .next()
    }
}
