//! HTTP for every caller: one set of clients with TLS and proxies, one URL type with policies, bounded bodies, secret files.
//!
//! Never: follow a redirect, send a key in the clear to another machine or through a proxy, read an answer without a bound.

mod client;
mod concurrency_limit;
mod retry_after;
mod secret_file;
mod url;

pub(crate) use client::{Current, Failure, Route, beginning, bounded};
pub use client::{Http, Settings, SetupError, install_tls};
pub use concurrency_limit::ConcurrencyLimit;
pub(crate) use retry_after::retry_after;
pub use secret_file::{SecretFile, UnusableSecret};
pub use url::{HttpUrl, InvalidUrl, UrlPolicy};
