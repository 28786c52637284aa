//! HTTP for all callers: clients with TLS and proxies, one URL type with policies, bounded bodies, secret files.
//!
//! Never: follow a redirect, send a key unencrypted to another machine or through a proxy, or read an unbounded answer.

mod client;
mod concurrency_limit;
mod retry_after;
mod secret_file;
mod url;

pub(crate) use client::{
    ActiveClient, BoundedBody, RequestFailure, Route, read_beginning, read_bounded,
    read_certificates,
};
pub use client::{Http, HttpTimeouts, SetupError, install_tls};
pub use concurrency_limit::ConcurrencyLimit;
pub(crate) use retry_after::{date, retry_after};
pub use secret_file::{SecretFile, UnusableSecret};
pub use url::{HttpUrl, InvalidUrl, UrlPolicy};
