//! Git: the commit of the definitions, the definitions of another commit, and whether a commit is signed by an allowed signer.
//!
//! A repository is hostile input, because anyone who can write to the directory can write a `.git` next to it. So `gix` reads
//! it with bounds, and the git command, which runs programs that a repository configures, is not used.
//!
//! Never: run git, write to a repository other than the clone of [`Remote`], or use a credential for another host.

mod allowed_signers;
mod bounds;
mod committed;
mod merge_base;
mod remote;
mod repository;
mod revision;
mod signature;
mod trusted;

pub use allowed_signers::SignersError;
pub use bounds::GIT_THREAD;
pub use merge_base::{MergeBase, MergeBaseError, read_merge_base};
pub use remote::{
    CloneRoot, FETCH_TIMEOUT, FetchError, FetchedCommit, GitCredentials, GitPath, GitReference,
    GithubApp, Remote, RemoteSettings, default_username,
};
pub use repository::{list_references, path_in_checkout};
pub use revision::read_revision;
pub use signature::TrustError;
pub use trusted::{
    CheckoutTrust, CommitId, RefusedCheckout, TrustPolicy, TrustedDefinitions, TrustedLoadError,
    load_fetched, load_trusted,
};
