//! What can go wrong between here and Calry, as sentences for the person who must act.
//!
//! Neither the text of an error nor its `Debug` can show a secret: what the other side wrote is scrubbed when it is shown.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::http::Failure;
use crate::model::{
    Provider, Scrubber, Secret, UpdateMethod, ellipsize, human_duration, printable,
};

/// The longest quotation of what the other side wrote, in characters.
const MAX_QUOTE: usize = 300;

/// Text that the other side wrote. It is scrubbed, made printable and cut each time it is shown: by then the secrets are known
/// that were read after it.
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
        // Scrubbed first, before anything can hide a secret from the scrubber.
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

/// What was attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading the workspace.
    Workspace,
    /// Reading every definition.
    Definitions,
    /// Reading one definition.
    Definition(Provider),
    /// Changing one definition.
    Update(Provider),
    /// Fetching a snapshot, from wherever the operator keeps it.
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

/// A call to Calry that failed. Its text is one sentence: what was attempted, what happened, what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Error {
    operation: Operation,
    cause: Box<Cause>,
    attempts: u32,
}

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// An answer whose status is not a success.
    Status(Refusal),
    /// A success whose body is not JSON.
    NotJson { status: u16 },
    /// A success without a body.
    Empty { status: u16 },
    /// A success whose body is not what it should be; names positions, never values.
    Unreadable { problem: String },
    /// A body above its bound; `limit` in bytes.
    TooLarge { limit: usize },
    /// No answer in the time that was given.
    TimedOut { given: TimeLimit },
    /// No connection, or one that broke.
    Broken { api: String, failure: Failure },
    /// Not sent: the workspace is paused after a 429, a read for longer than there is time, an update for as long as it is.
    /// `asked`: Calry asked for it.
    Paused { wait: Duration, asked: bool },
    /// Not sent: whoever says when updates may be sent forbids it.
    NotPermitted { why: String },
    /// Not sent: the time was over while it waited for its turn.
    TooLate,
}

/// An answer whose status is not a success.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: Option<Quote>,
    /// Whether it has the form of Calry's errors; else something in between answered.
    pub(super) is_calrys: bool,
    /// Whether the API key has expired.
    pub(super) expired: bool,
    /// Where the API key is from.
    pub(super) key: String,
    /// How updates are sent.
    pub(super) method: UpdateMethod,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Whether no update can be sent this way: the provider is known, and the path is not found or takes another method.
    fn is_of_method(&self, operation: &Operation) -> bool {
        matches!(operation, Operation::Update(_))
            && self.is_calrys
            && matches!(self.status, 404 | 405)
    }
}

/// Which limit of time an answer did not keep, and how long that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeLimit {
    /// That of a single request.
    Request(Duration),
    /// What was left of the time for all of it.
    Deadline(Duration),
    /// The time for which this replica is sure to be the only one that writes.
    Permit(Duration),
}

impl TimeLimit {
    /// The limit that comes first, counted from now, and when it is.
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
            Self::Deadline(time) => write!(
                f,
                "within the {} that were left of --timeout",
                human_duration(*time)
            ),
            Self::Permit(time) => {
                write!(
                    f,
                    "within the {} for which this replica is sure to be the leader",
                    human_duration(*time)
                )
            }
        }
    }
}

impl Error {
    pub(super) fn new(operation: Operation, cause: Cause) -> Self {
        Self {
            operation,
            cause: Box::new(cause),
            attempts: 1,
        }
    }

    /// The workspace has no such definition, and nobody needed to be asked.
    pub(super) fn no_such_definition(provider: &Provider) -> Self {
        let refusal = Refusal {
            status: 404,
            is_calrys: true,
            ..Refusal::default()
        };
        Self::new(
            Operation::Definition(provider.clone()),
            Cause::Status(refusal),
        )
    }

    /// The same error, saying after how many attempts it was given up.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The same error, after which trying again is no use.
    pub(super) fn lasting(mut self) -> Self {
        if let Cause::Broken { failure, .. } = &mut *self.cause {
            failure.lasting = true;
        }
        self
    }

    /// The same error without what the other side wrote.
    pub(super) fn unquoted(&self) -> Self {
        let mut error = self.clone();
        if let Cause::Status(refusal) = &mut *error.cause {
            refusal.message = None;
        }
        error
    }

    /// What was attempted.
    #[must_use]
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// The status of the answer, where there was one that is not a success.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &*self.cause {
            Cause::Status(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// Whether the same call may succeed a little later: a status that says so, a time-out, a broken connection.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &*self.cause {
            // Above 504 those of the networks in front of many APIs: the origin is down, out of reach or slow.
            Cause::Status(refusal) => {
                matches!(refusal.status, 408 | 425 | 429 | 502..=504 | 520..=524 | 530)
            }
            Cause::TimedOut { .. } | Cause::Paused { .. } | Cause::TooLate => true,
            Cause::Broken { failure, .. } => !failure.lasting,
            Cause::NotJson { .. }
            | Cause::Empty { .. }
            | Cause::Unreadable { .. }
            | Cause::TooLarge { .. }
            | Cause::NotPermitted { .. } => false,
        }
    }

    /// Whether Calry may have acted on the request although this call failed. A write that may have arrived must be
    /// followed by a read, not by the same write.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        match &*self.cause {
            Cause::Status(refusal) => refusal.status >= 500 || matches!(refusal.status, 408 | 425),
            Cause::Broken { failure, .. } => failure.sent,
            Cause::Paused { .. } | Cause::NotPermitted { .. } | Cause::TooLate => false,
            Cause::TimedOut { .. } => true,
            Cause::NotJson { .. }
            | Cause::Empty { .. }
            | Cause::Unreadable { .. }
            | Cause::TooLarge { .. } => true,
        }
    }

    /// Whether the answer is a success in a form that shows nothing of the definition. After an update the definition must be
    /// read to know whether the update arrived.
    #[must_use]
    pub fn is_unusable_answer(&self) -> bool {
        matches!(
            *self.cause,
            Cause::NotJson { .. }
                | Cause::Empty { .. }
                | Cause::Unreadable { .. }
                | Cause::TooLarge { .. }
        )
    }

    /// How long Calry asked to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &*self.cause {
            Cause::Status(refusal) => refusal.retry_after,
            Cause::Paused { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Whether the host is not known, or nothing listens there.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(&*self.cause, Cause::Broken { failure, .. } if failure.unreachable)
    }

    /// Whether the time for all of it was over before this attempt was.
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(
            *self.cause,
            Cause::TimedOut {
                given: TimeLimit::Deadline(_)
            } | Cause::TooLate
        )
    }

    /// Whether nothing was sent because the workspace is paused for [so long](Self::retry_after).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(*self.cause, Cause::Paused { .. })
    }

    /// Whether nothing was sent because [`Permission`](super::Permission) was not given.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(*self.cause, Cause::NotPermitted { .. })
    }

    /// Whether no other call with this key can succeed: the key is wrong or has expired.
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
            Cause::Status(refusal) => self.status_reason(refusal),
            Cause::NotJson { status } => {
                format!(
                    "the answer ({status}) is not JSON, so it does not come from Calry: check the API URL and what stands between"
                )
            }
            Cause::Empty { status } => format!("the answer ({status}) is empty"),
            Cause::Unreadable { problem } => {
                format!("Calry's answer is not what its reference says: {problem}")
            }
            Cause::TooLarge { limit } => {
                let address = if matches!(self.operation, Operation::Snapshot) {
                    "address"
                } else {
                    "API URL"
                };
                format!(
                    "the answer is larger than {} MiB and was not read to its end: check the {address}",
                    limit >> 20
                )
            }
            Cause::TimedOut { given } => {
                let who = if matches!(self.operation, Operation::Snapshot) {
                    "its address"
                } else {
                    "Calry"
                };
                format!("{who} did not answer {given}")
            }
            Cause::Broken { api, failure } if failure.sent => {
                format!(
                    "the connection to {api}{} broke: {}",
                    failure.through(),
                    failure.reason
                )
            }
            Cause::Broken { api, failure } => {
                format!(
                    "no connection to {api}{}: {}",
                    failure.through(),
                    failure.reason
                )
            }
            Cause::Paused { wait, asked: true } => format!(
                "nothing was sent, as Calry asked to wait another {}, which is longer than the time left",
                human_duration(*wait)
            ),
            Cause::Paused { wait, asked: false } => format!(
                "nothing was sent, as the rate limit is reached and requests are paused for another {}, which is longer than the time left",
                human_duration(*wait)
            ),
            Cause::NotPermitted { why } => format!("nothing was sent: {why}"),
            Cause::TooLate => {
                "nothing was sent, as the time for it (--timeout) was over first".to_owned()
            }
        }
    }

    fn status_reason(&self, refusal: &Refusal) -> String {
        let Refusal {
            status,
            message,
            is_calrys,
            expired,
            key,
            method,
            retry_after,
        } = refusal;
        let said = match message {
            Some(message) => format!("{status}, \"{message}\""),
            None => status.to_string(),
        };
        let who = if *is_calrys { "Calry" } else { "it" };
        let wait = retry_after.map_or_else(String::new, |wait| {
            format!("; {who} asks to wait {}", human_duration(wait))
        });
        let (sent, other) = match method {
            UpdateMethod::Patch => ("PATCH", "put"),
            UpdateMethod::Put => ("PUT", "patch"),
        };
        match (*status, &self.operation) {
            (300..=399, Operation::Snapshot) => {
                format!(
                    "its address answers with a redirect ({status}), which is not followed: give the final address"
                )
            }
            (_, Operation::Snapshot) => format!("its address answers with {said}{wait}"),
            (300..=399, _) => format!(
                "the API URL answers with a redirect ({status}), which is never followed, as the API key would go along: give the address that it leads to as --api-url"
            ),
            (407, _) if !is_calrys => format!(
                "a proxy in between demands a user and a password ({said}); they stand in its URL, as in HTTPS_PROXY=http://user:password@host:port"
            ),
            (_, _) if !is_calrys => {
                let key = if matches!(status, 401 | 403) {
                    "; it says nothing of the API key"
                } else {
                    ""
                };
                format!(
                    "the answer ({said}) is not in the form of Calry's errors, so it comes from a gateway or proxy in between, or from another service{key}: check the API URL and what stands between{wait}"
                )
            }
            (401, _) if *expired => format!(
                "the API key from {key} has expired ({said}): make a new one in Calry and put it there (keys live 180 days unless told otherwise, the initial setup key 24 hours)"
            ),
            (401, _) => format!(
                "Calry does not know the API key from {key} ({said}): check that it is complete and was not revoked"
            ),
            (403, Operation::Update(_)) => {
                format!(
                    "the API key from {key} has no WRITE permission ({said}): use a key that was made with WRITE"
                )
            }
            (403, _) => format!(
                "the API key from {key} may not read this ({said}): use a key with READ or WRITE"
            ),
            (_, Operation::Update(_)) if refusal.is_of_method(&self.operation) => format!(
                "Calry lists this provider and takes no update of it by {sent} ({said}): try --update-method {other}"
            ),
            (404, Operation::Definition(_)) => {
                format!("the workspace has no definition for this provider ({said})")
            }
            (404, _) => format!("nothing is at this address ({said}): check the API URL"),
            (429, _) => format!("Calry's rate limit is reached ({said}){wait}"),
            (408 | 425 | 500..=599, _) => format!("Calry is in trouble ({said}){wait}"),
            (400..=499, Operation::Update(_)) => format!("Calry refused the update ({said})"),
            _ => format!("Calry's answer was unexpected ({said})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, expired: bool, operation: Operation) -> Error {
        let message = Some(Quote::new("No.".to_owned(), Scrubber::default()));
        let key = "the file /run/key".to_owned();
        let refusal = Refusal {
            status,
            is_calrys: true,
            message,
            expired,
            key,
            ..Refusal::default()
        };
        Error::new(operation, Cause::Status(refusal))
    }

    fn update() -> Operation {
        Operation::Update(Provider::parse("HOSTAWAY").unwrap())
    }

    #[test]
    fn each_trouble_with_the_key_has_a_sentence_of_its_own() {
        insta::assert_snapshot!(
            [
                super::super::KeySource::Variable(None).read().unwrap_err().to_string(),
                status(401, false, Operation::Workspace).to_string(),
                status(401, true, Operation::Workspace).to_string(),
                status(403, false, update()).to_string(),
            ]
            .join("\n"),
            @r#"
        there is no API key: name its file with --api-key-file, or set the variable CALRY_API_KEY
        cannot read the workspace: Calry does not know the API key from the file /run/key (401, "No."): check that it is complete and was not revoked
        cannot read the workspace: the API key from the file /run/key has expired (401, "No."): make a new one in Calry and put it there (keys live 180 days unless told otherwise, the initial setup key 24 hours)
        cannot update HOSTAWAY: the API key from the file /run/key has no WRITE permission (403, "No."): use a key that was made with WRITE
        "#
        );
    }

    #[test]
    fn an_update_that_finds_no_route_suggests_the_other_method() {
        for (method, other) in [(UpdateMethod::Patch, "put"), (UpdateMethod::Put, "patch")] {
            for status in [404, 405] {
                let refusal = Refusal {
                    status,
                    is_calrys: true,
                    method,
                    ..Refusal::default()
                };
                let said = Error::new(update(), Cause::Status(refusal)).to_string();
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
    fn an_answer_that_is_not_calrys_is_named_as_such_whatever_its_status() {
        for status in [400, 401, 403, 404, 405, 407, 429, 500, 503, 520] {
            for operation in [Operation::Workspace, update()] {
                let key = "the file /run/key".to_owned();
                let refusal = Refusal {
                    status,
                    key,
                    expired: true,
                    ..Refusal::default()
                };
                let said = Error::new(operation, Cause::Status(refusal)).to_string();
                assert!(said.contains("in between"), "{said}");
                for wrong in [
                    "/run/key",
                    "Calry is",
                    "Calry does",
                    "Calry refused",
                    "WRITE",
                    "--update-method",
                ] {
                    assert!(!said.contains(wrong), "{wrong}: {said}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_that_comes_first_is_the_one_that_is_named() {
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
        assert_eq!(
            limit(4, 30, 99),
            "within the 4s that were left of --timeout"
        );
        assert!(limit(60, 30, 7).contains("within the 7s for which this replica"));
    }

    #[test]
    fn what_is_transient_and_what_may_have_arrived_are_different_questions() {
        let verdict = |cause| {
            let error = Error::new(update(), cause);
            (error.is_transient(), error.may_have_arrived())
        };
        let broken = |sent| {
            let (lasting, unreachable, proxy, reason) = (false, false, None, String::new());
            Cause::Broken {
                api: String::new(),
                failure: Failure {
                    sent,
                    lasting,
                    unreachable,
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
        for refused in [301, 400, 401, 403, 404, 422] {
            assert_eq!(by_status(refused), (false, false), "{refused}");
        }
        assert_eq!(
            verdict(Cause::TimedOut {
                given: TimeLimit::Request(Duration::ZERO)
            }),
            (true, true)
        );
        assert_eq!(verdict(broken(true)), (true, true));
        assert_eq!(verdict(broken(false)), (true, false));
        assert_eq!(
            verdict(Cause::Paused {
                wait: Duration::ZERO,
                asked: true
            }),
            (true, false)
        );
        // It answered with success: it arrived, whatever the answer says.
        assert_eq!(verdict(Cause::NotJson { status: 200 }), (false, true));
    }
}
