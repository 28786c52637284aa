//! The kinds of failures of a fetch from a git server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why the repository could not be fetched.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum FetchFailure {
    /// The server cannot be reached.
    Unreachable,
    /// The certificate of the server is not accepted.
    Tls,
    /// The server did not answer in time.
    TimedOut,
    /// Credentials are missing, wrong, expired or not sufficient.
    Credentials,
    /// There is no such repository, or the credentials may not read it.
    NotFound,
    /// The server limits the rate of requests.
    RateLimited,
    /// The server redirects to another host.
    Redirected,
    /// The server failed.
    Server,
    /// The answer is not a valid one of git.
    InvalidAnswer,
    /// The branch, tag or commit does not exist or is not unique, or the default branch moved.
    Reference,
    /// The repository is too large.
    TooLarge,
    /// The clone on disk cannot be used.
    Storage,
    /// A bug in this program.
    Internal,
}

impl FetchFailure {
    /// Every kind, for metrics.
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::Tls,
        Self::TimedOut,
        Self::Credentials,
        Self::NotFound,
        Self::RateLimited,
        Self::Redirected,
        Self::Server,
        Self::InvalidAnswer,
        Self::Reference,
        Self::TooLarge,
        Self::Storage,
        Self::Internal,
    ];

    /// The value of a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::TimedOut => "timed_out",
            Self::Credentials => "credentials",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::Redirected => "redirected",
            Self::Server => "server",
            Self::InvalidAnswer => "invalid_answer",
            Self::Reference => "reference",
            Self::TooLarge => "too_large",
            Self::Storage => "storage",
            Self::Internal => "internal",
        }
    }
}
