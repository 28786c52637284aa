//! Live state: reads and updates a Calry workspace over its HTTP API.
//!
//! A [`Reader`] reads and retries; a [`Writer`] sends one update, once. They are different types, so that code
//! that only reads cannot write:
//!
//! ```compile_fail,E0277
//! # use calry_gitops::{model::{Provider, Update}, live::{Reader, WriteCalry}};
//! fn needs_writer(_: &impl WriteCalry) {}
//! fn reads(reader: &Reader) {
//!     needs_writer(reader);
//! }
//! ```
//!
//! Never: quote more of an API error than its status and its scrubbed `message`, or decide anything. `plan` decides what to
//! change, and `reconcile` whether to repeat a write, after a read.

mod api;
mod backup;
mod document;
mod error;
mod key;
mod observer;
mod pace;
mod retry;
mod saved;
mod snapshot;
mod wire;
mod write_guard;

use std::fmt;
use std::future::Future;

pub use api::{Api, BrokenTransport, Reader, Transport, Writer};
pub use backup::{Backup, InvalidBackup, MAX_BACKUP};
pub use error::{Error, Operation};
pub use key::{ApiKey, ExpiryError, ExpirySource, KeyError, KeySource};
pub use observer::{Attempt, Exchange, ExchangeOutcome, Observer};
pub use retry::Backoff;
pub use snapshot::{InvalidSnapshot, Snapshot, SnapshotError, write_snapshot};
pub use wire::write_update;
pub use write_guard::WriteGuard;

use crate::model::{Live, Provider, Update, Workspace};

/// Reads Calry. Each call is retried after transient errors, within the deadline of its session.
pub trait ReadCalry: Send + Sync {
    /// The workspace that the API key belongs to.
    fn workspace(&self) -> impl Future<Output = Result<Workspace, Error>> + Send;

    /// All definitions of the workspace, in one request.
    fn definitions(&self) -> impl Future<Output = Result<Listing, Error>> + Send;

    /// One definition, read again.
    fn definition(&self, provider: &Provider) -> impl Future<Output = Result<Live, Error>> + Send;
}

pub trait WriteCalry: Send + Sync {
    /// Sends one update, exactly once, and returns the definition after it. If the update
    /// [may have arrived](Error::may_have_arrived) despite an error, read the definition before writing it again. While the
    /// workspace is paused after a 429, nothing is sent and the error holds [the wait](Error::retry_after).
    fn update(
        &self,
        provider: &Provider,
        update: &Update,
    ) -> impl Future<Output = Result<Live, Error>> + Send;
}

/// All definitions of a workspace. A malformed or duplicate definition does not affect the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The definitions, sorted by provider, each provider once.
    pub live: Vec<Live>,
    pub unreadable: Vec<Unreadable>,
}

impl Listing {
    /// Parses Calry's list of definitions.
    ///
    /// # Errors
    /// Why it is not a list. The sentence names positions and never quotes a value.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        wire::parse_listing(body, |_| {}).map_err(|error| match error {
            wire::BodyError::NotJson => "it is not JSON".to_owned(),
            wire::BodyError::Shape(problem) => problem,
        })
    }
}

/// A definition in Calry's list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// `None` if the provider itself cannot be read.
    pub provider: Option<Provider>,
    /// Names positions and never quotes a value.
    pub problem: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.provider {
            Some(provider) => write!(f, "Calry's definition of {provider}")?,
            None => f.write_str("one of Calry's definitions")?,
        }
        write!(f, " cannot be read: {}", self.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_anything_else_says_why_it_is_none() {
        let one = r#"[{"id": "1", "name": "A", "provider": "HOSTAWAY", "fieldsToSync": {}}]"#;
        let read = Listing::parse(one.as_bytes()).unwrap();
        assert_eq!(read.live[0].provider.as_str(), "HOSTAWAY");
        assert_eq!(Listing::parse(b"["), Err("it is not JSON".to_owned()));
        let why = Listing::parse(b"{}").unwrap_err();
        assert!(why.starts_with("it is not a list of at most "), "{why}");
    }
}
