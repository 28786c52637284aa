//! Git: which commit the definitions come from, what another commit held, and whether a commit is signed by an allowed signer.
//!
//! Never: run git, write to a repository, or contact a remote.

mod files;
mod revision;
mod signature;
mod signers;
mod trusted;

pub use files::GIT_THREAD;
pub use revision::{BaseError, MergeBase, base, path_in_checkout, references, revision};
pub use signature::Distrust;
pub use signers::SignersError;
pub use trusted::{CommitId, Refused, Trust, TrustError, Trusted, trusted};
