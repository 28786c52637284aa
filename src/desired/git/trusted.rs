//! Loads definitions from the newest commit that an allowed key signed.
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

use super::bounds::run_limited;
use super::committed::{CommittedDefinitions, is_dirty};
use super::remote::{FetchedCommit, GitPath, Remote};
use super::repository::{GitError, open, read_object};
use super::revision::describe_commit;
use super::signature::{SignedCommit, TrustError, VerifiedObject};
use super::tag::{SignedTag, TagError};
use super::trusted_keys::{TrustedKeyFiles, TrustedKeys, TrustedKeysError};
use crate::desired::definitions::{DirectoryError, Loaded};
use crate::model::{Revision, short_commit};

/// The number of first parents that are searched.
const MAX_PARENTS: u32 = 1_000;

/// Which commits are trusted, and the trusted commit that was in force last.
pub struct TrustPolicy {
    keys: TrustedKeyFiles,
    object: VerifiedObject,
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
    /// How many commits the one in force is older, counted along first parents; `None` if it is not among them.
    pub behind: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustedLoadError {
    #[error(transparent)]
    Keys(#[from] TrustedKeysError),
    #[error("{0}, and no other commit is known to be trusted; nothing is planned")]
    NoTrustedCommit(RefusedCheckout),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("no commit of {url} has been fetched: {failure}")]
    NotFetched { url: String, failure: String },
    #[error(
        "commit {} has no definition file (*.yaml, *.yml) in the directory {path}; help: restore it, or change --git-path",
        short_commit(.commit)
    )]
    NoDefinitions { commit: String, path: String },
    #[error("commit {} cannot be read: {failure}", short_commit(.commit))]
    Unreadable { commit: String, failure: String },
}

struct TrustedCommit {
    id: ObjectId,
    directory: PathBuf,
    /// Checked again at each load, because the allowed keys change.
    signed: SignedObject,
    revision: Revision,
    files: CommittedDefinitions,
}

/// The object whose signature counts.
#[derive(Debug)]
enum SignedObject {
    Commit(SignedCommit),
    Tag { name: String, tag: SignedTag },
}

struct TrustRules {
    keys: TrustedKeys,
    object: VerifiedObject,
    pinned: Option<CommitId>,
}

struct Checkout {
    repository: Repository,
    directory: PathBuf,
    /// The path of the directory in the checkout.
    path: PathBuf,
    head: ObjectId,
    /// The name and the id of the annotated tag that was fetched.
    tag: Option<(String, ObjectId)>,
    /// Whether the directory has files. A bare clone has none.
    has_files: bool,
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
    /// Trusts the commits that these keys signed and one pinned commit, signed or not. The files are read at each load.
    #[must_use]
    pub const fn new(keys: TrustedKeyFiles, pinned: Option<CommitId>) -> Self {
        Self {
            keys,
            object: VerifiedObject::Commit,
            pinned,
            last: Mutex::new(None),
        }
    }

    /// Requires a signature of this object. A tag is known only for a repository that is fetched.
    #[must_use]
    pub fn verifying(self, object: VerifiedObject) -> Self {
        Self { object, ..self }
    }
}

impl fmt::Debug for TrustPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustPolicy")
            .field("keys", &self.keys)
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
    let owned = directory.to_owned();
    let found = policy.find(|rules, last| {
        let read = move || Checkout::open(&owned).map(|checkout| checkout.find(&rules, last));
        run_limited(directory, read).unwrap_or_else(|error| Err(error.into()))
    })?;
    let (commit, refused) = found;
    let Some(commit) = commit else {
        return Err(DirectoryError::Empty {
            directory: directory.to_owned(),
            look_alikes: Vec::new(),
        }
        .into());
    };
    Ok(TrustedDefinitions {
        loaded: commit.load().reject_empty(directory)?,
        revision: commit.revision.clone(),
        refused,
    })
}

/// Loads the definitions of the commit that was fetched, or, with a policy, of the last trusted one. May block.
pub fn load_fetched(
    remote: &Remote,
    path: &GitPath,
    policy: Option<&TrustPolicy>,
) -> Result<TrustedDefinitions, TrustedLoadError> {
    let fetched = remote
        .current()
        .ok_or_else(|| TrustedLoadError::NotFetched {
            url: remote.url().to_string(),
            failure: remote.failure(),
        })?;
    let checkout = Checkout::of_fetched(&fetched, path);
    let unreadable = |error: GitError| {
        remote.report_damage(fetched.commit);
        TrustedLoadError::Unreadable {
            commit: fetched.id(),
            failure: error.to_string(),
        }
    };
    let (commit, refused) = match policy {
        Some(policy) => {
            let found = policy.find(|rules, last| Ok(checkout?.find(&rules, last)));
            let refused = match &found {
                Ok((_, refused)) => refused.as_ref(),
                Err(TrustedLoadError::NoTrustedCommit(refused)) => Some(refused),
                Err(_) => None,
            };
            if let Some(TrustError::Unreadable(_) | TrustError::NoCheckout(_)) =
                refused.map(|refused| &refused.reason)
            {
                remote.report_damage(fetched.commit);
            }
            found?
        }
        None => {
            let commit = checkout.and_then(|checkout| checkout.read_unsigned());
            (Some(Arc::new(commit.map_err(unreadable)?)), None)
        }
    };
    let no_definitions = |commit: String| TrustedLoadError::NoDefinitions {
        commit,
        path: path.to_string(),
    };
    let Some(commit) = commit else {
        return Err(no_definitions(fetched.id()));
    };
    let loaded = commit.load().reject_empty(path.as_path());
    Ok(TrustedDefinitions {
        loaded: loaded.map_err(|_| no_definitions(commit.id.to_string()))?,
        revision: commit.revision.clone(),
        refused,
    })
}

type Found = (Option<Arc<TrustedCommit>>, Option<RefusedCheckout>);

impl TrustPolicy {
    /// Finds the trusted commit in force, and the checkout if it is refused. The commit is missing only if nothing is refused.
    fn find(
        &self,
        find: impl FnOnce(TrustRules, Option<Arc<TrustedCommit>>) -> Result<Found, GitError>,
    ) -> Result<Found, TrustedLoadError> {
        let rules = TrustRules {
            keys: self.keys.read()?,
            object: self.object,
            pinned: self.pinned,
        };
        // If a key is removed from its file, its commits lose trust. The lock is never held during a read.
        let last = self
            .last
            .lock()
            .clone()
            .filter(|commit| rules.check(commit.id, &commit.signed).is_ok());
        let (commit, refused) = find(rules, last.clone()).unwrap_or_else(|error| {
            let refused = RefusedCheckout {
                commit: None,
                reason: TrustError::NoCheckout(error.to_string()),
                behind: None,
            };
            (last, Some(refused))
        });
        self.last.lock().clone_from(&commit);
        match (commit, refused) {
            (None, Some(refused)) => Err(TrustedLoadError::NoTrustedCommit(refused)),
            found => Ok(found),
        }
    }
}

impl TrustedCommit {
    fn load(&self) -> Loaded {
        self.files.load(self.directory.clone())
    }
}

impl TrustRules {
    fn check(&self, id: ObjectId, signed: &SignedObject) -> Result<(), TrustError> {
        if self.pinned == Some(CommitId(id)) {
            return Ok(());
        }
        if self.keys.is_empty() {
            return Err(TrustError::NotPinned);
        }
        match signed {
            SignedObject::Commit(commit) => commit.verify(&self.keys),
            SignedObject::Tag { name, tag } => tag.verify(name, id, &self.keys),
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
            tag: None,
            has_files: true,
        })
    }

    fn of_fetched(commit: &FetchedCommit, path: &GitPath) -> Result<Self, GitError> {
        Ok(Self {
            repository: commit.open()?,
            directory: path.as_path().to_owned(),
            path: path.as_path().to_owned(),
            head: commit.commit,
            tag: commit.tag_name().zip(commit.tag),
            has_files: false,
        })
    }

    /// Returns the trusted commit in force, and the checkout if it is refused. `last` was in force before.
    fn find(
        &self,
        rules: &TrustRules,
        last: Option<Arc<TrustedCommit>>,
    ) -> (Option<Arc<TrustedCommit>>, Option<RefusedCheckout>) {
        let (commit, reason, behind) = match self.read(self.head, rules) {
            Ok((commit, tree)) => {
                let shared = commit.files.shared_path();
                let is_clean = !self.has_files
                    || matches!(
                        is_dirty(&self.repository, tree, &self.directory, &self.path, shared),
                        Ok(false)
                    );
                let reason = (!is_clean).then_some(TrustError::Dirty);
                (Some(Arc::new(commit)), reason, None)
            }
            Err(reason) => {
                let (commit, behind) = self.last_trusted(rules, last);
                (commit, Some(reason), behind)
            }
        };
        let refused = reason.map(|reason| RefusedCheckout {
            commit: Some(self.head.to_string()),
            reason,
            behind,
        });
        (commit, refused)
    }

    /// The nearest trusted commit among the first parents if it is newer than `last`, otherwise `last`. Also returns how
    /// many commits it is older than the head, if it is among its first parents.
    fn last_trusted(
        &self,
        rules: &TrustRules,
        last: Option<Arc<TrustedCommit>>,
    ) -> (Option<Arc<TrustedCommit>>, Option<u32>) {
        if rules.object == VerifiedObject::Tag {
            // No tag of the commits before it is known.
            return (last, None);
        }
        let mut found = None;
        let mut at = self.parent(self.head);
        for distance in 1..=MAX_PARENTS {
            let Some(id) = at else { break };
            if last.as_ref().is_some_and(|last| last.id == id) {
                return found.or(last.map(|last| (last, distance))).unzip();
            }
            if found.is_none() {
                found = self
                    .read(id, rules)
                    .ok()
                    .map(|(commit, _)| (Arc::new(commit), distance));
            }
            if found.is_some() && last.is_none() {
                break;
            }
            at = self.parent(id);
        }
        match last {
            // It is not among the first parents.
            Some(last) => (Some(last), None),
            None => found.unzip(),
        }
    }

    /// Checks and reads a commit. Also returns the id of its tree.
    fn read(
        &self,
        id: ObjectId,
        rules: &TrustRules,
    ) -> Result<(TrustedCommit, ObjectId), TrustError> {
        let unreadable = |error: GitError| TrustError::Unreadable(error.to_string());
        let read = |id| read_object(&self.repository, id).map_err(unreadable);
        let commit = read(id)?;
        let is_pinned = rules.pinned == Some(CommitId(id));
        let (signed, payload) = match (rules.object, &self.tag) {
            (VerifiedObject::Tag, Some((name, tag))) if !is_pinned => {
                let tag = SignedTag::parse(&read(*tag)?.data)?;
                let name = name.clone();
                (SignedObject::Tag { name, tag }, commit.data.clone())
            }
            (VerifiedObject::Tag, None) if !is_pinned => {
                return Err(TrustError::Tag(TagError::NotAnnotated));
            }
            _ => {
                let signed = SignedCommit::parse(&commit.data)?;
                let payload = signed.payload().to_vec();
                (SignedObject::Commit(signed), payload)
            }
        };
        rules.check(id, &signed)?;
        self.read_files(id, &payload, signed).map_err(unreadable)
    }

    /// Reads the checked-out commit without a check of its signature.
    fn read_unsigned(&self) -> Result<TrustedCommit, GitError> {
        let commit = read_object(&self.repository, self.head)?;
        let unsigned = SignedObject::Commit(SignedCommit::unsigned());
        Ok(self.read_files(self.head, &commit.data, unsigned)?.0)
    }

    /// Reads the files of a commit from the bytes of it that count.
    fn read_files(
        &self,
        id: ObjectId,
        payload: &[u8],
        signed: SignedObject,
    ) -> Result<(TrustedCommit, ObjectId), GitError> {
        let commit = CommitRef::from_bytes(payload, id.kind())?;
        let (tree, revision) = (commit.tree(), describe_commit(id, &commit)?);
        let files = CommittedDefinitions::read(&self.repository, tree, &self.path)?;
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
