//! What can go wrong between this program and Calry, as sentences for the person who must act.

use std::fmt;
use std::time::Duration;

/// A request that did not bring what was asked for.
///
/// Its text holds no secret: of an answer only the status and the scrubbed `message` are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What was attempted, such as "reading the workspace".
    pub(super) operation: String,
    pub(super) problem: Problem,
    /// How often it was tried.
    pub(super) attempts: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// 401. Says where the key came from, and whether Calry calls it expired.
    Key { source: String, expired: bool, message: String },
    /// 403.
    Permission { source: String, message: String },
    /// 429.
    RateLimit { retry_after: Option<Duration>, message: String },
    /// 3xx.
    Redirect { status: u16 },
    /// Any other status that is not a success.
    Status { status: u16, retry_after: Option<Duration>, message: String },
    /// No answer in time.
    Timeout { after: Duration },
    /// No connection.
    Connect { reason: String },
    /// The connection broke, before or in the middle of the answer.
    Broken { reason: String },
    /// More bytes than any answer of this kind has.
    TooLarge { limit: usize },
    /// Not the JSON that the contract promises.
    Malformed { reason: String },
    /// The pass has no time left.
    Deadline,
}

impl Error {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match &self.problem {
            Problem::RateLimit { .. } | Problem::Timeout { .. } | Problem::Connect { .. } | Problem::Broken { .. } => {
                true
            }
            Problem::Status { status, .. } => matches!(status, 502..=504),
            Problem::Key { .. }
            | Problem::Permission { .. }
            | Problem::Redirect { .. }
            | Problem::TooLarge { .. }
            | Problem::Malformed { .. }
            | Problem::Deadline => false,
        }
    }

    /// Whether an update that ended so may have reached Calry all the same.
    #[must_use]
    pub const fn may_have_arrived(&self) -> bool {
        match &self.problem {
            Problem::Timeout { .. } | Problem::Broken { .. } | Problem::TooLarge { .. } | Problem::Malformed { .. } => {
                true
            }
            Problem::Status { status, .. } => *status >= 500,
            Problem::Key { .. }
            | Problem::Permission { .. }
            | Problem::RateLimit { .. }
            | Problem::Redirect { .. }
            | Problem::Connect { .. }
            | Problem::Deadline => false,
        }
    }

    /// Whether every other request of this workspace would fail alike.
    #[must_use]
    pub const fn is_fatal_for_workspace(&self) -> bool {
        matches!(self.problem, Problem::Key { .. } | Problem::Permission { .. } | Problem::Deadline)
    }

    /// How long Calry asked to wait.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match &self.problem {
            Problem::RateLimit { retry_after, .. } | Problem::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A word for what went wrong, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match &self.problem {
            Problem::Key { .. } => "key",
            Problem::Permission { .. } => "permission",
            Problem::RateLimit { .. } => "rate-limit",
            Problem::Redirect { .. } => "redirect",
            Problem::Status { .. } => "status",
            Problem::Timeout { .. } => "timeout",
            Problem::Connect { .. } => "connect",
            Problem::Broken { .. } => "broken",
            Problem::TooLarge { .. } => "too-large",
            Problem::Malformed { .. } => "malformed",
            Problem::Deadline => "deadline",
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.operation)?;
        if self.attempts > 1 {
            write!(f, " after {} attempts", self.attempts)?;
        }
        f.write_str(": ")?;
        let quoted = |message: &str| if message.is_empty() { String::new() } else { format!(", \"{message}\"") };
        match &self.problem {
            Problem::Key { source, expired: true, message } => write!(
                f,
                "the API key from {source} has expired (401{}); create a new one in Calry and put it there: a key lives \
                 180 days unless told otherwise, the first setup key 24 hours",
                quoted(message)
            ),
            Problem::Key { source, expired: false, message } => write!(
                f,
                "Calry does not accept the API key from {source} (401{}); check that it is whole, belongs to this \
                 environment and was not revoked",
                quoted(message)
            ),
            Problem::Permission { source, message } => write!(
                f,
                "the API key from {source} may not do that (403{}); updates need a key with the permission WRITE, and a \
                 key with READ is enough for plan and observe",
                quoted(message)
            ),
            Problem::RateLimit { retry_after, message } => {
                write!(f, "Calry's rate limit is reached (429{})", quoted(message))?;
                match retry_after {
                    Some(pause) => write!(
                        f,
                        "; it asked to wait {}, which is longer than this pass may take (--timeout)",
                        humantime::format_duration(Duration::from_secs(pause.as_secs()))
                    ),
                    None => f.write_str("; try again later, or allow the pass more time (--timeout)"),
                }
            }
            Problem::Redirect { status } => write!(
                f,
                "the answer is a redirect ({status}), which is not followed because the API key would travel with it; \
                 check --api-url"
            ),
            Problem::Status { status: 404, message, .. } => {
                write!(f, "Calry does not know it (404{}); check --api-url", quoted(message))
            }
            Problem::Status { status, message, .. } => write!(f, "Calry answered {status}{}", quoted(message)),
            Problem::Timeout { after } => {
                write!(f, "there was no answer within {}", humantime::format_duration(round(*after)))
            }
            Problem::Connect { reason } => {
                write!(f, "no connection: {reason}; check --api-url, the network and HTTPS_PROXY")
            }
            Problem::Broken { reason } => write!(f, "the connection broke: {reason}"),
            Problem::TooLarge { limit } => {
                write!(f, "the answer is larger than {limit} bytes; check that --api-url is Calry's")
            }
            Problem::Malformed { reason } => {
                write!(f, "the answer is not what Calry's contract promises ({reason}); check --api-url")
            }
            Problem::Deadline => f.write_str("the time for the whole pass is over (--timeout)"),
        }
    }
}

/// Whole milliseconds: what a person reads.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
