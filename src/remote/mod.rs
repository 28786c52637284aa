//! HTTP to live state: reading a workspace's definitions, and updating one.
//!
//! What it never does: compare, decide, or write twice. A [`Reader`] has no way to write:
//!
//! ```compile_fail,E0599
//! # use calry_gitops::{model::{Provider, Update}, remote::Reader};
//! async fn plan(reader: &Reader, provider: &Provider) {
//!     let _ = reader.update(provider, &Update::default()).await;
//! }
//! ```
//!
//! A [`Writer`] makes exactly one attempt for each call: whether an update is sent again is for `apply` to decide, after
//! it has read what became of the first.

mod api;
mod error;
mod key;
mod pace;
mod retry;
mod url;
mod wire;

use std::future::Future;

use crate::model::{Live, Provider, Update, Workspace};

pub use api::{Api, Http, HttpSettings, Reader, SetupError, Writer, install_tls};
pub use error::Error;
pub use key::{ApiKey, KeyError, KeySource};
pub use retry::Backoff;
pub use url::{ApiUrl, InvalidUrl};

/// Reads. Retries what is worth retrying, within the pass's deadline.
pub trait ReadCalry: Send + Sync {
    /// The workspace that the key belongs to.
    fn workspace(&self) -> impl Future<Output = Result<Workspace, Error>> + Send;

    /// Every integration definition of the workspace.
    fn definitions(&self) -> impl Future<Output = Result<Listing, Error>> + Send;

    /// One of them.
    fn definition(&self, provider: &Provider) -> impl Future<Output = Result<Live, Error>> + Send;
}

/// Writes.
pub trait WriteCalry: Send + Sync {
    /// Sends one update, once, and returns the definition that Calry answers with.
    fn update(&self, provider: &Provider, update: &Update) -> impl Future<Output = Result<Live, Error>> + Send;
}

/// The live definitions.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those that could be read, sorted by provider.
    pub live: Vec<Live>,
    /// Those that could not: each spoils only itself.
    pub unreadable: Vec<Unreadable>,
}

/// A definition in an answer that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The provider, where the item says it.
    pub provider: Option<Provider>,
    /// Why, as a sentence without any value.
    pub problem: String,
}
