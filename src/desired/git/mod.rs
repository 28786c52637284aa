//! Git: the commit of the definitions, the definitions of another commit, and whether a commit is signed by an allowed key.
//!
//! A repository is hostile input, because anyone who can write to the directory can write a `.git` next to it. So `gix` reads
//! it with bounds, and the git command, which runs programs that a repository configures, is not used.
//!
//! Never: run git, write to a repository other than the clone of [`Remote`], or use a credential for another host.

mod allowed_keys;
mod allowed_signers;
mod bounds;
mod committed;
mod merge_base;
mod openpgp;
mod remote;
mod repository;
mod revision;
mod signature;
mod tag;
mod trusted;
mod trusted_keys;

pub use allowed_keys::{KeysError, KeysProblem};
pub use allowed_signers::SignersError;
pub use bounds::GIT_THREAD;
pub use merge_base::{MergeBase, MergeBaseError, read_merge_base};
pub use remote::{
    CloneRoot, FETCH_TIMEOUT, FetchError, FetchedCommit, GitCredentials, GitPath, GitReference,
    GithubApp, MAX_FETCH, Remote, RemoteSettings, default_username,
};
pub use repository::{list_references, path_in_checkout};
pub use revision::{read_revision, read_shared_revision};
pub use signature::{SignatureError, SignedCommit, TrustError, VerifiedObject};
pub use tag::{SignedTag, TagError};
pub use trusted::{
    CheckoutTrust, CommitId, RefusedCheckout, TrustPolicy, TrustedDefinitions, TrustedLoadError,
    load_fetched, load_trusted,
};
pub use trusted_keys::{TrustedKeyFiles, TrustedKeys, TrustedKeysError};
