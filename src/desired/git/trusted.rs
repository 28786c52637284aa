//! Definitions as a commit has them that somebody signed whose signature counts.
//!
//! They are read from the commit's tree, and each object on the way there is held against its id: what stands in the
//! directory beside it was signed by nobody. Where the commit that is checked out is not trusted, the last good one stays in
//! force: the one that was in force before, unless there is a newer one among the first parents of what is checked out. A
//! process that has just started knows none but those.
//!
//! A signature has no place in time but the one that its maker gave it: who can push can check out an older trusted commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use gix::objs::CommitRef;
use gix::{ObjectId, Repository};
use parking_lot::{Mutex, MutexGuard};

use super::files::limited;
use super::revision::{Committed, Trouble, files_of, is_dirty, object, open, told};
use super::signature::{Distrust, Signed};
use super::signers::{Signers, SignersError};
use crate::desired::definitions::directory::in_parallel;
use crate::desired::definitions::{DirectoryError, Loaded};
use crate::model::{Revision, short_commit};

/// How many first parents are looked at.
const MAX_PARENTS: usize = 1_000;

/// Whose definitions count, and which ones were in force last.
pub struct Trust {
    signers: Option<PathBuf>,
    pinned: Option<CommitId>,
    last: Mutex<Option<Arc<Good>>>,
}

/// The full id of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitId(ObjectId);

/// Definitions that are trusted.
#[derive(Debug)]
pub struct Trusted {
    /// The files of the commit.
    pub loaded: Loaded,
    /// The commit.
    pub revision: Revision,
    /// What is checked out, where that is something else.
    pub refused: Option<Refused>,
}

/// What is checked out, and not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The id of the commit, in hexadecimal digits; `None` where there is none.
    pub commit: Option<String>,
    /// Why.
    pub reason: Distrust,
}

/// Nothing can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Signers(#[from] SignersError),
    /// What is checked out is not trusted, nor is anything before it.
    #[error(
        "{0}, and no trusted revision is known that could stay in force (of the {MAX_PARENTS} commits before it); nothing \
         is planned"
    )]
    Nothing(Refused),
    /// It is trusted, and there are no definitions.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// A commit that is trusted, and its files.
struct Good {
    id: ObjectId,
    directory: PathBuf,
    /// What is judged again, as signers come and go.
    signed: Signed,
    revision: Revision,
    files: Vec<Committed>,
}

struct Rules {
    signers: Option<Signers>,
    pinned: Option<CommitId>,
}

struct Checkout {
    repository: Repository,
    directory: PathBuf,
    /// The directory within the checkout.
    path: PathBuf,
    head: ObjectId,
}

impl CommitId {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence, where it is not the whole id: another commit could begin like this one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let id = ObjectId::from_hex(text.as_bytes())
            .ok()
            .filter(|_| text.len() == 40);
        id.map(Self)
            .ok_or_else(|| "a commit is named by its full id, 40 hexadecimal digits".to_owned())
    }
}

impl Trust {
    /// Trusts what is signed by one of these signers, and one commit whoever made it. Without signers, that one alone. The
    /// file of signers is read anew each time.
    #[must_use]
    pub const fn new(signers: Option<PathBuf>, pinned: Option<CommitId>) -> Self {
        Self {
            signers,
            pinned,
            last: Mutex::new(None),
        }
    }

    /// It is locked for a moment, and never during a read.
    fn last(&self) -> MutexGuard<'_, Option<Arc<Good>>> {
        self.last.lock()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("signers", &self.signers)
            .field("pinned", &self.pinned)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self
            .commit
            .as_deref()
            .map(|id| format!(" ({})", short_commit(id)))
            .unwrap_or_default();
        write!(f, "what is checked out{commit} is refused: {}", self.reason)
    }
}

/// Reads the trusted definitions of a directory in a git checkout. May block.
///
/// # Errors
/// [`TrustError`] where there are none.
pub fn trusted(directory: &Path, trust: &Trust) -> Result<Trusted, TrustError> {
    let signers = trust.signers.as_deref().map(Signers::read).transpose()?;
    let rules = Rules {
        signers,
        pinned: trust.pinned,
    };
    // A key that was taken off the list takes with it what it signed.
    let before = trust
        .last()
        .clone()
        .filter(|good| rules.judge(good.id, &good.signed).is_ok());
    let (owned, kept) = (directory.to_owned(), before.clone());
    let read = move || Checkout::open(&owned).map(|checkout| checkout.find(&rules, kept));
    let (good, refused) = match limited(directory, read).unwrap_or_else(|error| Err(error.into())) {
        Ok(found) => found,
        Err(trouble) => (
            before,
            Some(Refused {
                commit: None,
                reason: Distrust::NoCheckout(trouble.to_string()),
            }),
        ),
    };
    trust.last().clone_from(&good);
    let good = match (good, refused.clone()) {
        (Some(good), _) => good,
        (None, Some(refused)) => return Err(TrustError::Nothing(refused)),
        (None, None) => {
            return Err(DirectoryError::Empty {
                directory: directory.to_owned(),
                look_alikes: Vec::new(),
            }
            .into());
        }
    };
    let loaded = Loaded::from_files(
        good.directory.clone(),
        in_parallel(&good.files, Committed::read),
    )
    .reject_empty(directory)?;
    Ok(Trusted {
        loaded,
        revision: good.revision.clone(),
        refused,
    })
}

impl Rules {
    fn judge(&self, id: ObjectId, signed: &Signed) -> Result<(), Distrust> {
        match &self.signers {
            _ if self.pinned == Some(CommitId(id)) => Ok(()),
            Some(signers) => signed.verify(signers),
            None => Err(Distrust::NotPinned),
        }
    }
}

impl Checkout {
    fn open(directory: &Path) -> Result<Self, Trouble> {
        let directory = fs::canonicalize(directory)?;
        let (repository, root) = open(&directory)?;
        let path = directory
            .strip_prefix(&root)
            .map_err(|_| Trouble::NoCheckout)?
            .to_owned();
        let head = repository.head_id()?.detach();
        Ok(Self {
            repository,
            directory,
            path,
            head,
        })
    }

    /// What is in force, and what is refused. `before` was in force before.
    fn find(
        &self,
        rules: &Rules,
        before: Option<Arc<Good>>,
    ) -> (Option<Arc<Good>>, Option<Refused>) {
        let refused = |reason| {
            Some(Refused {
                commit: Some(self.head.to_string()),
                reason,
            })
        };
        match self.good(self.head, rules) {
            Ok((good, tree)) => {
                let clean = matches!(
                    is_dirty(&self.repository, tree, &self.directory, &self.path),
                    Ok(false)
                );
                (
                    Some(Arc::new(good)),
                    if clean {
                        None
                    } else {
                        refused(Distrust::Dirty)
                    },
                )
            }
            Err(reason) => (self.last_good(rules, before), refused(reason)),
        }
    }

    /// The nearest good commit among the first parents, where it is newer than the one before or there was none.
    fn last_good(&self, rules: &Rules, before: Option<Arc<Good>>) -> Option<Arc<Good>> {
        let mut found = None;
        let mut at = self.parent(self.head);
        for _ in 0..MAX_PARENTS {
            let Some(id) = at else { break };
            if before.as_ref().is_some_and(|before| before.id == id) {
                return found.or(before);
            }
            if found.is_none() {
                found = self.good(id, rules).ok().map(|(good, _)| Arc::new(good));
            }
            if found.is_some() && before.is_none() {
                break;
            }
            at = self.parent(id);
        }
        before.or(found)
    }

    /// A commit with its files, and the id of its tree.
    fn good(&self, id: ObjectId, rules: &Rules) -> Result<(Good, ObjectId), Distrust> {
        let unreadable = |trouble: Trouble| Distrust::Unreadable(trouble.to_string());
        let commit = object(&self.repository, id).map_err(unreadable)?;
        let signed = Signed::of(&commit.data)?;
        rules.judge(id, &signed)?;
        let read = || {
            let commit = CommitRef::from_bytes(&signed.payload, id.kind())?;
            let (tree, revision) = (commit.tree(), told(id, &commit)?);
            Ok((
                tree,
                revision,
                files_of(&self.repository, tree, &self.path)?,
            ))
        };
        let (tree, revision, files) = read().map_err(unreadable)?;
        Ok((
            Good {
                id,
                directory: self.directory.clone(),
                signed,
                revision,
                files,
            },
            tree,
        ))
    }

    fn parent(&self, id: ObjectId) -> Option<ObjectId> {
        let commit = object(&self.repository, id).ok()?;
        CommitRef::from_bytes(&commit.data, id.kind())
            .ok()?
            .parents()
            .next()
    }
}
