//! Why a fetch failed, as sentences for the operator.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::http::UnusableSecret;
use crate::model::{FetchFailure, Scrubber, human_duration};

/// A failed fetch. The last fetched commit stays in force. The sentences name no credential.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "the git server cannot be reached: {0}; help: check --git-url, the proxy and the network policy"
    )]
    Unreachable(String),
    #[error("TLS to the git server fails: {0}")]
    Tls(String),
    #[error(
        "the git server is not trusted: {0}; help: name its CA with --git-ca-file. A CA certificate cannot be that of the \
         server itself"
    )]
    Untrusted(&'static str),
    #[error(
        "the git server did not answer in time: {0}; help: see whether it is slow, and check the proxy and the network"
    )]
    TimedOut(String),
    #[error(
        "the git server asks for credentials ({0}); help: check --git-url, because some hosts answer so if there is no such \
         repository, and give the daemon a token that may read it (--git-token-file) or a GitHub App"
    )]
    NoCredentials(u16),
    #[error(
        "the git server refuses the credentials (401): {0} is wrong, expired, revoked or for another user name; help: replace \
         it, which needs no restart, or set --git-username to the name that it belongs to"
    )]
    Unauthorized(String),
    #[error(
        "the git server forbids access (403) to {0}; help: allow it to read the content of this repository, also by \
         the rules of its organization about single sign-on and addresses"
    )]
    Forbidden(String),
    #[error(
        "the git server has no such repository, or these credentials may not read it (404); help: check --git-url and the \
         credentials"
    )]
    NotFound,
    #[error(
        "the git server limits the rate of requests and asks for a pause of {}; help: use a push hook and a longer \
         --git-interval, or credentials that nothing else uses",
        human_duration(*.0)
    )]
    RateLimited(Duration),
    #[error(
        "the git server redirects to {0}, which is not followed because the credentials are for this host only; help: set \
         --git-url to the new address"
    )]
    Redirected(String),
    #[error("the git server failed with status {status}; help: see its status page or its log")]
    Server {
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error(
        "the answer is not that of a git server ({0}); help: check --git-url, and whether a login page or a proxy answers in \
         place of the server"
    )]
    NotGit(String),
    #[error("the repository has no commit yet; help: push the definitions")]
    Empty,
    #[error("the repository has no branch or tag {name}; help: {help}", name = .0, help = help_for_missing(.0))]
    ReferenceMissing(String),
    #[error("{0} is a branch and a tag; help: set --git-ref to refs/heads/{0} or refs/tags/{0}")]
    Ambiguous(String),
    #[error(
        "the default branch of the repository is now {now} and was {before}; help: set --git-ref to the branch that you want"
    )]
    DefaultBranchMoved { before: String, now: String },
    #[error(
        "the git server has no commit {0}, or gives only the commits of branches and tags; help: check --git-ref"
    )]
    CommitMissing(String),
    #[error(
        "{0} is not a commit; help: set --git-ref to a branch, a commit or the tag of a commit"
    )]
    NotACommit(String),
    #[error(
        "the repository uses SHA-256 object names, which are not supported; help: use a repository with SHA-1 names"
    )]
    Sha256,
    #[error(
        "the git server sends more than {} MiB; help: keep the definitions in a repository without large files",
        .0 >> 20
    )]
    TooLarge(u64),
    #[error(
        "an object of the repository needs more than {} MiB; help: keep the definitions in a repository without large files",
        .0 >> 20
    )]
    LargeObject(u64),
    #[error(
        "the answer of the git server is invalid: {0}; help: if this lasts, look for a proxy that changes it, and see the log \
         of the server"
    )]
    Invalid(String),
    #[error(
        "the clone in {} cannot be used: {source}; help: check the permissions and the free space of --git-dir",
        .directory.display()
    )]
    Storage {
        directory: PathBuf,
        source: io::Error,
    },
    #[error(
        "another process uses the clone in {}; help: give each daemon its own --git-dir",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(transparent)]
    Secret(#[from] UnusableSecret),
    #[error("{0}")]
    Credentials(String),
    #[error("the daemon is being stopped")]
    Stopped,
    #[error(
        "the fetch failed because of a bug in this program; help: report it with the log line before this one"
    )]
    Internal,
}

/// The first digits of a commit's id are no reference.
fn help_for_missing(name: &str) -> &'static str {
    match (7..40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => "give all 40 digits of a commit, or a branch or tag",
        false => "restore it, or change --git-ref",
    }
}

impl FetchError {
    /// What kind of failure it is, for status, metrics and alerts.
    #[must_use]
    pub const fn kind(&self) -> FetchFailure {
        match self {
            Self::Unreachable(_) => FetchFailure::Unreachable,
            Self::Tls(_) | Self::Untrusted(_) => FetchFailure::Tls,
            Self::TimedOut(_) => FetchFailure::TimedOut,
            Self::NoCredentials(_)
            | Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::Secret(_)
            | Self::Credentials(_) => FetchFailure::Credentials,
            Self::NotFound => FetchFailure::NotFound,
            Self::RateLimited(_) => FetchFailure::RateLimited,
            Self::Redirected(_) => FetchFailure::Redirected,
            Self::Server { .. } => FetchFailure::Server,
            Self::NotGit(_) | Self::Invalid(_) | Self::Sha256 => FetchFailure::InvalidAnswer,
            Self::Empty
            | Self::ReferenceMissing(_)
            | Self::Ambiguous(_)
            | Self::DefaultBranchMoved { .. }
            | Self::CommitMissing(_)
            | Self::NotACommit(_) => FetchFailure::Reference,
            Self::TooLarge(_) | Self::LargeObject(_) => FetchFailure::TooLarge,
            Self::Storage { .. } | Self::InUse(_) => FetchFailure::Storage,
            Self::Stopped | Self::Internal => FetchFailure::Internal,
        }
    }

    /// Masks the secrets that a server may have repeated.
    pub(super) fn scrubbed(self, scrubber: &Scrubber) -> Self {
        let scrub = |text: String| scrubber.scrub(&text);
        match self {
            Self::Unreachable(text) => Self::Unreachable(scrub(text)),
            Self::Tls(text) => Self::Tls(scrub(text)),
            Self::TimedOut(text) => Self::TimedOut(scrub(text)),
            Self::Redirected(text) => Self::Redirected(scrub(text)),
            Self::NotGit(text) => Self::NotGit(scrub(text)),
            Self::Invalid(text) => Self::Invalid(scrub(text)),
            Self::Credentials(text) => Self::Credentials(scrub(text)),
            Self::DefaultBranchMoved { before, now } => Self::DefaultBranchMoved {
                before: scrub(before),
                now: scrub(now),
            },
            other => other,
        }
    }

    /// The pause that the server asks for.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(wait) => Some(*wait),
            Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_that_of_the_limit_or_of_the_failing_server() {
        let pause = Some(Duration::from_secs(7));
        let server = |retry_after| FetchError::Server {
            status: 503,
            retry_after,
        };
        let limited = FetchError::RateLimited(Duration::from_secs(7));
        assert_eq!(limited.retry_after(), pause);
        assert_eq!(server(pause).retry_after(), pause);
        assert_eq!(server(None).retry_after(), None);
        assert_eq!(FetchError::NotFound.retry_after(), None);
    }

    #[test]
    fn the_first_digits_of_a_commit_are_no_reference() {
        for (name, is_short) in [
            ("0badcafe", true),
            ("0badca", false),
            ("release", false),
            ("bad", false),
        ] {
            let text = FetchError::ReferenceMissing(name.to_owned()).to_string();
            assert_eq!(
                text.contains("all 40 digits of a commit"),
                is_short,
                "{text}"
            );
            assert_eq!(text.contains("change --git-ref"), !is_short, "{text}");
        }
    }
}
