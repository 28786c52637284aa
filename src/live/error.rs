//! Errors of calls to Calry, as sentences for the operator.
//!
//! Never: show a secret, in the text of an error or in its `Debug`. Text from the server is scrubbed when it is displayed.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::http::RequestFailure;
use crate::model::{
    KeyExpiry, Provider, Scrubber, Secret, UpdateMethod, ellipsize, human_duration, printable,
};

/// The longest quotation of the server's text, in characters.
const MAX_QUOTE: usize = 300;

/// Text from the server. It is scrubbed, made printable and cut each time it is displayed, because secrets may become known
/// after it was received.
#[derive(Clone)]
pub(super) struct Quote {
    text: Secret,
    scrubber: Scrubber,
}

impl Quote {
    pub(super) fn new(text: String, scrubber: Scrubber) -> Self {
        Self {
            text: Secret::new(text),
            scrubber,
        }
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Scrub first: the other steps could change a secret so that the scrubber misses it.
        f.write_str(&ellipsize(
            &printable(&self.scrubber.scrub(self.text.expose())),
            MAX_QUOTE,
        ))
    }
}

impl fmt::Debug for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Workspace,
    Definitions,
    Definition(Provider),
    Update(Provider),
    Snapshot,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace => f.write_str("read the workspace"),
            Self::Definitions => f.write_str("read the definitions"),
            Self::Definition(provider) => write!(f, "read {provider}"),
            Self::Update(provider) => write!(f, "update {provider}"),
            Self::Snapshot => f.write_str("fetch the snapshot"),
        }
    }
}

/// A failed call to Calry. Its text is one sentence: the operation, the error, the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Error {
    operation: Operation,
    cause: Box<ErrorCause>,
    attempts: u32,
}

#[derive(Clone, Debug)]
pub(super) enum ErrorCause {
    Status(ErrorResponse),
    /// A successful answer whose body is not JSON.
    NotJson {
        status: u16,
    },
    /// A successful answer without a body.
    Empty {
        status: u16,
    },
    /// A successful answer whose body has the wrong form. `problem` names positions, never values.
    Unreadable {
        problem: String,
    },
    /// A body larger than `limit` bytes.
    TooLarge {
        limit: usize,
    },
    TimedOut {
        limit: TimeLimit,
    },
    /// No connection, or a broken one.
    Broken {
        api: String,
        failure: RequestFailure,
    },
    /// Not sent: the workspace is paused after a 429. A read fails only if the pause is longer than the time left, an update
    /// always. `by_calry`: Calry asked for the pause.
    Paused {
        wait: Duration,
        by_calry: bool,
    },
    /// Not sent: the [`WriteGuard`](super::WriteGuard) does not allow it.
    NotPermitted {
        reason: String,
    },
    /// Not sent: the time was over while the request waited for its turn.
    TooLate,
}

/// An answer whose status is not a success.
#[derive(Clone, Debug, Default)]
pub(super) struct ErrorResponse {
    pub(super) status: u16,
    pub(super) message: Option<Quote>,
    /// Whether the body has the form of Calry's errors. Otherwise a server in between answered.
    pub(super) from_calry: bool,
    pub(super) key_expired: bool,
    /// When the key ended, as the operator wrote it down, if that is over.
    pub(super) key_ended: Option<KeyExpiry>,
    pub(super) key_source: String,
    pub(super) update_method: UpdateMethod,
    pub(super) retry_after: Option<Duration>,
}

impl ErrorResponse {
    /// Whether the key has expired, as a part of a sentence: by Calry's answer, or else by the date that the operator wrote
    /// down.
    fn has_expired(&self) -> Option<String> {
        if self.key_expired {
            return Some("has expired".to_owned());
        }
        let end = self.key_ended?;
        Some(format!(
            "has probably expired, because its last day was {end}"
        ))
    }
}

/// The time limit that an answer exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeLimit {
    /// The limit of a single request.
    Request(Duration),
    /// The time left until the session's deadline.
    Deadline(Duration),
    /// The time for which this replica is certain to be the only writer.
    Permit(Duration),
}

impl TimeLimit {
    /// The limit that ends first, and its end.
    pub(super) fn earliest(
        deadline: Instant,
        request: Duration,
        permit: Duration,
    ) -> (Instant, Self) {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left <= request.min(permit) {
            (deadline, Self::Deadline(left))
        } else if request <= permit {
            (now + request, Self::Request(request))
        } else {
            (now + permit, Self::Permit(permit))
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(time) => {
                write!(f, "within {} (--request-timeout)", human_duration(*time))
            }
            Self::Deadline(time) => {
                write!(
                    f,
                    "within the remaining {} of --timeout",
                    human_duration(*time)
                )
            }
            Self::Permit(time) => {
                write!(
                    f,
                    "within the {} for which this replica is certain to be the leader",
                    human_duration(*time)
                )
            }
        }
    }
}

impl Error {
    pub(super) fn new(operation: Operation, cause: ErrorCause) -> Self {
        Self {
            operation,
            cause: Box::new(cause),
            attempts: 1,
        }
    }

    /// The workspace has no such definition.
    pub(super) fn not_found(provider: &Provider) -> Self {
        let response = ErrorResponse {
            status: 404,
            from_calry: true,
            ..ErrorResponse::default()
        };
        Self::new(
            Operation::Definition(provider.clone()),
            ErrorCause::Status(response),
        )
    }

    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The same error, marked as not worth another attempt.
    pub(super) fn into_permanent(mut self) -> Self {
        if let ErrorCause::Broken { failure, .. } = &mut *self.cause {
            failure.permanent = true;
        }
        self
    }

    /// The same error without the server's text.
    pub(super) fn without_quote(&self) -> Self {
        let mut error = self.clone();
        if let ErrorCause::Status(response) = &mut *error.cause {
            response.message = None;
        }
        error
    }

    #[must_use]
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// The status of an unsuccessful answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &*self.cause {
            ErrorCause::Status(response) => Some(response.status),
            _ => None,
        }
    }

    /// Whether the same call may soon succeed: after a temporary status, a time-out or a broken connection.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &*self.cause {
            // 520 and above are used by content delivery networks: the origin is down, unreachable or slow.
            ErrorCause::Status(response) => {
                matches!(response.status, 408 | 425 | 429 | 502..=504 | 520..=524 | 530)
            }
            ErrorCause::TimedOut { .. } | ErrorCause::Paused { .. } | ErrorCause::TooLate => true,
            ErrorCause::Broken { failure, .. } => !failure.permanent,
            ErrorCause::NotJson { .. }
            | ErrorCause::Empty { .. }
            | ErrorCause::Unreadable { .. }
            | ErrorCause::TooLarge { .. }
            | ErrorCause::NotPermitted { .. } => false,
        }
    }

    /// Whether Calry may have carried out the request although the call failed. Such a write must be followed by a read, not
    /// by the same write.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        match &*self.cause {
            ErrorCause::Status(response) => {
                response.status >= 500 || matches!(response.status, 408 | 425)
            }
            ErrorCause::Broken { failure, .. } => failure.sent,
            ErrorCause::Paused { .. } | ErrorCause::NotPermitted { .. } | ErrorCause::TooLate => {
                false
            }
            ErrorCause::TimedOut { .. }
            | ErrorCause::NotJson { .. }
            | ErrorCause::Empty { .. }
            | ErrorCause::Unreadable { .. }
            | ErrorCause::TooLarge { .. } => true,
        }
    }

    /// Whether the answer is successful but does not contain the definition. After an update, read the definition to find out
    /// whether the update arrived.
    #[must_use]
    pub fn is_unusable_answer(&self) -> bool {
        matches!(
            *self.cause,
            ErrorCause::NotJson { .. }
                | ErrorCause::Empty { .. }
                | ErrorCause::Unreadable { .. }
                | ErrorCause::TooLarge { .. }
        )
    }

    /// How long to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &*self.cause {
            ErrorCause::Status(response) => response.retry_after,
            ErrorCause::Paused { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Whether the host is unknown or nothing listens there.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(&*self.cause, ErrorCause::Broken { failure, .. } if failure.unreachable)
    }

    /// Whether the session's deadline ended this attempt.
    pub(super) fn is_deadline(&self) -> bool {
        matches!(
            *self.cause,
            ErrorCause::TimedOut {
                limit: TimeLimit::Deadline(_)
            } | ErrorCause::TooLate
        )
    }

    /// Whether nothing was sent because the workspace is paused for [this long](Self::retry_after).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(*self.cause, ErrorCause::Paused { .. })
    }

    /// Whether the call ended before a request was made.
    #[must_use]
    pub fn is_not_sent(&self) -> bool {
        matches!(
            *self.cause,
            ErrorCause::Paused { .. } | ErrorCause::NotPermitted { .. } | ErrorCause::TooLate
        )
    }

    /// Whether nothing was sent because the [`WriteGuard`](super::WriteGuard) did not allow it.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(*self.cause, ErrorCause::NotPermitted { .. })
    }

    /// Whether every call with this key fails: it is wrong or has expired.
    #[must_use]
    pub fn is_fatal_for_workspace(&self) -> bool {
        self.status() == Some(401)
    }

    fn sentence(&self) -> String {
        let attempts = if self.attempts > 1 {
            format!(" (given up after {} attempts)", self.attempts)
        } else {
            String::new()
        };
        format!("cannot {}: {}{attempts}", self.operation, self.reason())
    }

    fn reason(&self) -> String {
        match &*self.cause {
            ErrorCause::Status(response) => self.status_reason(response),
            ErrorCause::NotJson { status } => {
                format!(
                    "the answer ({status}) is not JSON, so it does not come from Calry: check the API URL and the proxy"
                )
            }
            ErrorCause::Empty { status } => format!("the answer ({status}) is empty"),
            ErrorCause::Unreadable { problem } => {
                format!("Calry's answer does not match its API reference: {problem}")
            }
            ErrorCause::TooLarge { limit } => {
                let url = if matches!(self.operation, Operation::Snapshot) {
                    "URL"
                } else {
                    "API URL"
                };
                format!(
                    "the answer is larger than {} MiB and was not read to the end: check the {url}",
                    limit >> 20
                )
            }
            ErrorCause::TimedOut { limit } => {
                let server = if matches!(self.operation, Operation::Snapshot) {
                    "the server"
                } else {
                    "Calry"
                };
                format!("{server} did not answer {limit}")
            }
            ErrorCause::Broken { api, failure } if failure.sent => {
                format!(
                    "the connection to {api}{} broke: {}",
                    failure.through(),
                    failure.reason
                )
            }
            ErrorCause::Broken { api, failure } => {
                format!(
                    "no connection to {api}{}: {}",
                    failure.through(),
                    failure.reason
                )
            }
            ErrorCause::Paused {
                wait,
                by_calry: true,
            } => format!(
                "nothing was sent: Calry asked to wait another {}, which is longer than the time left",
                human_duration(*wait)
            ),
            ErrorCause::Paused {
                wait,
                by_calry: false,
            } => format!(
                "nothing was sent: the rate limit is reached and requests are paused for another {}, which is longer than the time left",
                human_duration(*wait)
            ),
            ErrorCause::NotPermitted { reason } => format!("nothing was sent: {reason}"),
            ErrorCause::TooLate => {
                "nothing was sent: the time limit (--timeout) ended first".to_owned()
            }
        }
    }

    fn status_reason(&self, response: &ErrorResponse) -> String {
        let (status, key_source) = (response.status, &response.key_source);
        let answer = match &response.message {
            Some(message) => format!("{status}, \"{message}\""),
            None => status.to_string(),
        };
        let server = if response.from_calry { "Calry" } else { "it" };
        let wait = response.retry_after.map_or_else(String::new, |wait| {
            format!("; {server} asks to wait {}", human_duration(wait))
        });
        let (sent, other) = match response.update_method {
            UpdateMethod::Patch => ("PATCH", "put"),
            UpdateMethod::Put => ("PUT", "patch"),
        };
        match (status, &self.operation) {
            (300..=399, Operation::Snapshot) => {
                format!(
                    "the server answers with a redirect ({status}), which is not followed: use the final URL"
                )
            }
            (_, Operation::Snapshot) => format!("the server answers {answer}{wait}"),
            (300..=399, _) => format!(
                "the API URL answers with a redirect ({status}), which is not followed, because the target would receive the API key: set --api-url to the target"
            ),
            (407, _) if !response.from_calry => format!(
                "a proxy in between requires a user and a password ({answer}): put them in its URL, such as HTTPS_PROXY=http://user:password@host:port"
            ),
            (_, _) if !response.from_calry => {
                let hint = if matches!(status, 401 | 403) {
                    "; the API key itself may be valid"
                } else {
                    ""
                };
                format!(
                    "the answer ({answer}) is not in the form of Calry's errors, so it comes from a gateway or proxy in between, or from another service{hint}: check the API URL and the proxy{wait}"
                )
            }
            (401, _) => match response.has_expired() {
                Some(has_expired) => format!(
                    "the API key from {key_source} {has_expired} ({answer}): create a new one with the same permission in the Calry console and save it there (keys are valid for 180 days by default, the initial setup key for 24 hours)"
                ),
                None => format!(
                    "Calry does not know the API key from {key_source} ({answer}): check that it is complete and not revoked"
                ),
            },
            (403, Operation::Update(_)) => {
                format!(
                    "the API key from {key_source} has no WRITE permission ({answer}): use a key with WRITE permission"
                )
            }
            (403, _) => format!(
                "the API key from {key_source} has no READ permission ({answer}): use a key with READ or WRITE permission"
            ),
            // The provider exists, but the path or the method does not.
            (404 | 405, Operation::Update(_)) => format!(
                "Calry lists this provider but does not accept updates by {sent} ({answer}): try --update-method {other}"
            ),
            (404, Operation::Definition(_)) => {
                format!("the workspace has no definition for this provider ({answer})")
            }
            (404, _) => format!("not found ({answer}): check the API URL"),
            (429, _) => format!("Calry's rate limit is reached ({answer}){wait}"),
            (408 | 425 | 500..=599, _) => format!("Calry failed ({answer}){wait}"),
            (400..=499, Operation::Update(_)) => format!("Calry refused the update ({answer})"),
            _ => format!("unexpected answer from Calry ({answer})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, expired: bool, operation: Operation) -> Error {
        let message = Some(Quote::new("No.".to_owned(), Scrubber::default()));
        let key = "the file /run/key".to_owned();
        let response = ErrorResponse {
            status,
            from_calry: true,
            message,
            key_expired: expired,
            key_source: key,
            ..ErrorResponse::default()
        };
        Error::new(operation, ErrorCause::Status(response))
    }

    #[test]
    fn a_refused_key_whose_day_is_over_has_probably_expired() {
        let refused = |key_expired| {
            let response = ErrorResponse {
                status: 401,
                from_calry: true,
                key_expired,
                key_ended: "2026-11-20".parse().ok(),
                key_source: "the file /run/key".to_owned(),
                ..ErrorResponse::default()
            };
            Error::new(Operation::Workspace, ErrorCause::Status(response)).to_string()
        };
        let probably =
            "has probably expired, because its last day was 2026-11-20 (401): create a new one";
        assert!(refused(false).contains(probably), "{}", refused(false));
        assert!(refused(true).contains("has expired (401): create a new one"));
    }

    #[test]
    fn a_connection_that_broke_after_the_request_is_another_error_than_none_at_all() {
        for (sent, sentence) in [
            (
                true,
                "the connection to https://api.example.com broke: no route",
            ),
            (false, "no connection to https://api.example.com: no route"),
        ] {
            let failure = RequestFailure::simulated(sent, "no route".to_owned());
            let api = "https://api.example.com".to_owned();
            let error = Error::new(Operation::Workspace, ErrorCause::Broken { api, failure });
            assert!(error.to_string().contains(sentence), "{error}");
        }
    }

    fn update() -> Operation {
        Operation::Update(Provider::parse("HOSTAWAY").unwrap())
    }

    #[test]
    fn each_error_of_the_key_has_its_own_sentence() {
        insta::assert_snapshot!(
            [
                super::super::KeySource::Variable(None).read().unwrap_err().to_string(),
                status(401, false, Operation::Workspace).to_string(),
                status(401, true, Operation::Workspace).to_string(),
                status(403, false, update()).to_string(),
            ]
            .join("\n"),
            @r#"
        no API key: name its file with --api-key-file, or set the variable CALRY_API_KEY
        cannot read the workspace: Calry does not know the API key from the file /run/key (401, "No."): check that it is complete and not revoked
        cannot read the workspace: the API key from the file /run/key has expired (401, "No."): create a new one with the same permission in the Calry console and save it there (keys are valid for 180 days by default, the initial setup key for 24 hours)
        cannot update HOSTAWAY: the API key from the file /run/key has no WRITE permission (403, "No."): use a key with WRITE permission
        "#
        );
    }

    #[test]
    fn an_update_that_finds_no_route_suggests_the_other_method() {
        for (method, other) in [(UpdateMethod::Patch, "put"), (UpdateMethod::Put, "patch")] {
            for status in [404, 405] {
                let response = ErrorResponse {
                    status,
                    from_calry: true,
                    update_method: method,
                    ..ErrorResponse::default()
                };
                let said = Error::new(update(), ErrorCause::Status(response)).to_string();
                assert!(
                    said.ends_with(&format!("try --update-method {other}")),
                    "{said}"
                );
            }
        }
        let read = status(
            404,
            false,
            Operation::Definition(Provider::parse("HOSTAWAY").unwrap()),
        );
        assert!(
            read.to_string()
                .contains("has no definition for this provider")
        );
    }

    #[test]
    fn an_answer_that_is_not_from_calry_is_reported_as_such_whatever_its_status() {
        for status in [400, 401, 403, 404, 405, 407, 429, 500, 503, 520] {
            for operation in [Operation::Workspace, update()] {
                let key = "the file /run/key".to_owned();
                let response = ErrorResponse {
                    status,
                    key_source: key,
                    key_expired: true,
                    ..ErrorResponse::default()
                };
                let said = Error::new(operation, ErrorCause::Status(response)).to_string();
                assert!(said.contains("in between"), "{said}");
                // Only the answer of a proxy that requires a user says so.
                assert_eq!(said.contains("HTTPS_PROXY"), status == 407, "{said}");
                for wrong in [
                    "/run/key",
                    "Calry failed",
                    "Calry does",
                    "Calry refused",
                    "WRITE",
                    "--update-method",
                ] {
                    assert!(!said.contains(wrong), "{wrong}: {said}");
                }
            }
        }
        // Of an answer in the form of Calry's errors, no proxy is to blame.
        let said = status(407, false, update()).to_string();
        assert!(!said.contains("HTTPS_PROXY"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_that_ends_first_is_named() {
        let limit = |left, request, permit| {
            let seconds = Duration::from_secs;
            let (end, limit) = TimeLimit::earliest(
                Instant::now() + seconds(left),
                seconds(request),
                seconds(permit),
            );
            assert_eq!(end, Instant::now() + seconds(left.min(request).min(permit)));
            limit.to_string()
        };
        assert_eq!(limit(60, 30, 99), "within 30s (--request-timeout)");
        assert_eq!(limit(4, 30, 99), "within the remaining 4s of --timeout");
        assert!(limit(60, 30, 7).contains("within the 7s for which this replica"));
        // The limit that another attempt would not help against goes first.
        assert!(limit(30, 30, 30).contains("--timeout"));
        assert!(limit(60, 30, 30).contains("--request-timeout"));
    }

    #[test]
    fn being_transient_and_having_possibly_arrived_are_different_questions() {
        let verdict = |cause| {
            let error = Error::new(update(), cause);
            (error.is_transient(), error.may_have_arrived())
        };
        let broken = |sent| {
            let (permanent, unreachable, proxy, reason) = (false, false, None, String::new());
            ErrorCause::Broken {
                api: String::new(),
                failure: RequestFailure {
                    sent,
                    permanent,
                    unreachable,
                    tls: false,
                    untrusted: None,
                    proxy,
                    reason,
                },
            }
        };
        let by_status = |code| {
            let error = status(code, false, update());
            (error.is_transient(), error.may_have_arrived())
        };
        assert_eq!(by_status(429), (true, false));
        for passing in [408, 425, 502, 503, 504, 520, 522, 524, 530] {
            assert_eq!(by_status(passing), (true, true), "{passing}");
        }
        assert_eq!(by_status(500), (false, true));
        for refused in [301, 400, 401, 403, 404, 405, 409, 422] {
            assert_eq!(by_status(refused), (false, false), "{refused}");
        }
        assert_eq!(
            verdict(ErrorCause::TimedOut {
                limit: TimeLimit::Request(Duration::ZERO)
            }),
            (true, true)
        );
        assert_eq!(verdict(broken(true)), (true, true));
        assert_eq!(verdict(broken(false)), (true, false));
        assert_eq!(
            verdict(ErrorCause::Paused {
                wait: Duration::ZERO,
                by_calry: true
            }),
            (true, false)
        );
        // A success status means that the update arrived, whatever the body says.
        assert_eq!(verdict(ErrorCause::NotJson { status: 200 }), (false, true));
    }

    #[test]
    fn a_failure_shows_whether_a_request_was_sent_and_which_one_may_follow() {
        let seconds = Duration::from_secs;
        let by_calry = true;
        let timed_out = |limit| ErrorCause::TimedOut { limit };
        let problem = "no id".to_owned();
        let reason = "this replica is not the leader".to_owned();
        for (cause, expected) in [
            (
                ErrorCause::Paused {
                    wait: seconds(7),
                    by_calry,
                },
                "not sent, paused, wait 7s",
            ),
            (
                ErrorCause::NotPermitted { reason },
                "not sent, not permitted",
            ),
            (ErrorCause::TooLate, "not sent, deadline"),
            (timed_out(TimeLimit::Deadline(seconds(1))), "deadline"),
            (timed_out(TimeLimit::Request(seconds(1))), ""),
            (ErrorCause::NotJson { status: 200 }, "unusable"),
            (ErrorCause::Empty { status: 204 }, "unusable"),
            (ErrorCause::Unreadable { problem }, "unusable"),
            (ErrorCause::TooLarge { limit: 1 }, "unusable"),
            (*status(401, false, update()).cause, "fatal"),
            (*status(403, false, update()).cause, ""),
        ] {
            let error = Error::new(update(), cause);
            let wait = error
                .retry_after()
                .map(|wait| format!("wait {}", human_duration(wait)));
            let properties = [
                (error.is_not_sent(), "not sent"),
                (error.is_paused(), "paused"),
                (error.is_not_permitted(), "not permitted"),
                (error.is_deadline(), "deadline"),
                (error.is_unusable_answer(), "unusable"),
                (error.is_fatal_for_workspace(), "fatal"),
                (wait.is_some(), wait.as_deref().unwrap_or_default()),
            ];
            let shown = properties.iter().filter(|(holds, _)| *holds);
            let shown: Vec<&str> = shown.map(|(_, name)| *name).collect();
            assert_eq!(shown.join(", "), expected, "{error}");
        }
    }

    #[test]
    fn each_status_has_its_own_sentence() {
        let read = || Operation::Definitions;
        let one = || Operation::Definition(Provider::parse("HOSTAWAY").unwrap());
        let sentences = [
            status(302, false, Operation::Snapshot),
            status(503, false, Operation::Snapshot),
            status(302, false, read()),
            status(403, false, read()),
            status(404, false, read()),
            status(404, false, one()),
            status(405, false, one()),
            status(429, false, update()),
            status(408, false, update()),
            status(500, false, update()),
            status(422, false, update()),
            status(422, false, read()),
        ];
        insta::assert_snapshot!(
            sentences.map(|error| error.to_string()).join("\n"),
            @r#"
        cannot fetch the snapshot: the server answers with a redirect (302), which is not followed: use the final URL
        cannot fetch the snapshot: the server answers 503, "No."
        cannot read the definitions: the API URL answers with a redirect (302), which is not followed, because the target would receive the API key: set --api-url to the target
        cannot read the definitions: the API key from the file /run/key has no READ permission (403, "No."): use a key with READ or WRITE permission
        cannot read the definitions: not found (404, "No."): check the API URL
        cannot read HOSTAWAY: the workspace has no definition for this provider (404, "No.")
        cannot read HOSTAWAY: unexpected answer from Calry (405, "No.")
        cannot update HOSTAWAY: Calry's rate limit is reached (429, "No.")
        cannot update HOSTAWAY: Calry failed (408, "No.")
        cannot update HOSTAWAY: Calry failed (500, "No.")
        cannot update HOSTAWAY: Calry refused the update (422, "No.")
        cannot read the definitions: unexpected answer from Calry (422, "No.")
        "#
        );
    }

    #[test]
    fn a_quotation_shows_no_secret_that_became_known_later() {
        let scrubber = Scrubber::default();
        let quote = Quote::new("no such key: hunter2-hunter2".to_owned(), scrubber.clone());
        scrubber.learn(&Secret::new("hunter2-hunter2"));
        for shown in [quote.to_string(), format!("{quote:?}")] {
            assert!(
                shown.contains("no such key: ") && !shown.contains("hunter2"),
                "{shown}"
            );
        }
    }
}
