//! Live state: what Calry has, read and changed over its HTTP API.
//!
//! A [`Reader`] reads and retries; a [`Writer`] sends one update, once. They are different types, so that what only looks
//! cannot write:
//!
//! ```compile_fail,E0277
//! # use calry_gitops::{model::{Provider, Update}, remote::{Reader, WriteCalry}};
//! fn may_write(_: &impl WriteCalry) {}
//! fn looks(reader: &Reader) {
//!     may_write(reader);
//! }
//! ```
//!
//! Never: quote more of an API error than its status and its scrubbed `message`, or decide anything. What to change is for
//! `plan`, and whether a write is tried again is for `apply`, which reads first.

mod api;
mod error;
mod key;
mod observer;
mod pace;
mod permission;
mod retry;
mod snapshot;
mod wire;

use std::fmt;
use std::future::Future;

pub use api::{Api, Reader, Writer};
pub use error::{Error, Operation};
pub use key::{ApiKey, KeyError, KeySource};
pub use observer::{Attempt, End, Exchange, Observer};
pub use permission::Permission;
pub use retry::Backoff;
pub use snapshot::{InvalidSnapshot, Snapshot, SnapshotError, snapshot};

use crate::model::{Live, Provider, Update, Workspace};

/// Reading Calry. Every call is retried where that makes sense, within the deadline of its session.
pub trait ReadCalry: Send + Sync {
    /// The workspace that the API key belongs to.
    fn workspace(&self) -> impl Future<Output = Result<Workspace, Error>> + Send;

    /// Every definition of the workspace, in one request.
    fn definitions(&self) -> impl Future<Output = Result<Listing, Error>> + Send;

    /// One definition, as it is at this moment.
    fn definition(&self, provider: &Provider) -> impl Future<Output = Result<Live, Error>> + Send;
}

/// Changing Calry.
pub trait WriteCalry: Send + Sync {
    /// Sends one update, exactly once, and answers with the definition after it. Where the error
    /// [may have arrived](Error::may_have_arrived), the definition must be read before it is written again. While the
    /// workspace is paused after a 429 nothing is sent, and the error says [how long](Error::retry_after) that lasts.
    fn update(
        &self,
        provider: &Provider,
        update: &Update,
    ) -> impl Future<Output = Result<Live, Error>> + Send;
}

/// Every definition of a workspace. One that is malformed or doubled spoils only itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The definitions, sorted by provider, each provider once.
    pub live: Vec<Live>,
    /// What else the answer held.
    pub unreadable: Vec<Unreadable>,
}

/// A definition in Calry's list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Whose it is, where that can be read.
    pub provider: Option<Provider>,
    /// What is wrong with it. It names positions and never quotes a value.
    pub problem: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.provider {
            Some(provider) => write!(
                f,
                "Calry's definition of {provider} cannot be read: {}",
                self.problem
            ),
            None => write!(
                f,
                "one of Calry's definitions cannot be read: {}",
                self.problem
            ),
        }
    }
}
