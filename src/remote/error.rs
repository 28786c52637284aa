//! What can go wrong between here and Calry, as sentences for the person who must act.
//!
//! What an error holds is already scrubbed, printable and cut: neither its text nor its `Debug` can show a secret.

use std::fmt;
use std::time::Duration;

use crate::model::{Provider, spoken};

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
    Status { status: u16, message: Option<String>, expired: bool, key: String, retry_after: Option<Duration> },
    /// A success whose body is not JSON.
    NotJson { status: u16 },
    /// A success whose body is not what it should be; names positions, never values.
    Unreadable { problem: String },
    /// A body above its bound; `limit` in bytes.
    TooLarge { limit: usize },
    /// No answer in the time that was given.
    TimedOut { given: Duration },
    /// No connection, or one that broke. `sent`: the request may have got through. `lasting`: trying again is no use.
    Broken { reason: String, api: String, sent: bool, lasting: bool },
    /// Not sent: the workspace is paused after a 429, a read for longer than there is time, an update for as long as it is.
    Paused { wait: Duration },
    /// Not sent: whoever says when updates may be sent forbids it.
    NotPermitted { why: String },
    /// Not sent: the time was over while it waited for its turn.
    TooLate,
}

impl Error {
    pub(super) fn new(operation: Operation, cause: Cause) -> Self {
        Self { operation, cause: Box::new(cause), attempts: 1 }
    }

    /// The workspace has no such definition, and nobody needed to be asked.
    pub(super) fn no_such_definition(provider: &Provider) -> Self {
        let (status, key) = (404, String::new());
        let cause = Cause::Status { status, message: None, expired: false, key, retry_after: None };
        Self::new(Operation::Definition(provider.clone()), cause)
    }

    /// The same error, saying after how many attempts it was given up.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// What was attempted.
    #[must_use]
    pub fn operation(&self) -> &Operation {
        &self.operation
    }

    /// The status of the answer, where there was one that is not a success.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match *self.cause {
            Cause::Status { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether the same call may succeed a little later: 429, 502 to 504, a time-out, a broken connection.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match *self.cause {
            Cause::Status { status, .. } => matches!(status, 429 | 502..=504),
            Cause::TimedOut { .. } | Cause::Paused { .. } | Cause::TooLate => true,
            Cause::Broken { lasting, .. } => !lasting,
            Cause::NotJson { .. } | Cause::Unreadable { .. } | Cause::TooLarge { .. } | Cause::NotPermitted { .. } => {
                false
            }
        }
    }

    /// Whether Calry may have acted on the request although this call failed. A write that may have arrived must be
    /// followed by a read, not by the same write.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        match *self.cause {
            Cause::Status { status, .. } => status >= 500,
            Cause::Broken { sent, .. } => sent,
            Cause::Paused { .. } | Cause::NotPermitted { .. } | Cause::TooLate => false,
            Cause::NotJson { .. } | Cause::Unreadable { .. } | Cause::TooLarge { .. } | Cause::TimedOut { .. } => true,
        }
    }

    /// How long Calry asked to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match *self.cause {
            Cause::Status { retry_after, .. } => retry_after,
            Cause::Paused { wait } => Some(wait),
            _ => None,
        }
    }

    /// Whether nothing was sent because the workspace is paused for [so long](Self::retry_after).
    pub(super) fn is_pause(&self) -> bool {
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

    /// Whether the workspace has no such definition.
    #[must_use]
    pub fn is_missing_provider(&self) -> bool {
        self.status() == Some(404) && matches!(self.operation, Operation::Definition(_) | Operation::Update(_))
    }

    fn sentence(&self) -> String {
        let attempts =
            if self.attempts > 1 { format!(" (given up after {} attempts)", self.attempts) } else { String::new() };
        format!("cannot {}: {}{attempts}", self.operation, self.reason())
    }

    fn reason(&self) -> String {
        match &*self.cause {
            Cause::Status { status, message, expired, key, retry_after } => {
                let said = match message {
                    Some(message) => format!("{status}, \"{message}\""),
                    None => status.to_string(),
                };
                self.status_reason(*status, &said, *expired, key, *retry_after)
            }
            Cause::NotJson { status } => {
                format!(
                    "the answer ({status}) is not JSON, so it does not come from Calry: check the API URL and what stands between"
                )
            }
            Cause::Unreadable { problem } => format!("Calry's answer is not what its reference says: {problem}"),
            Cause::TooLarge { limit } => {
                let address = if matches!(self.operation, Operation::Snapshot) { "address" } else { "API URL" };
                format!(
                    "the answer is larger than {} MiB and was not read to its end: check the {address}",
                    limit >> 20
                )
            }
            Cause::TimedOut { given } => {
                let who = if matches!(self.operation, Operation::Snapshot) { "its address" } else { "Calry" };
                format!("{who} did not answer within {}", spoken(*given))
            }
            Cause::Broken { reason, api, sent: false, .. } => format!("no connection to {api}: {reason}"),
            Cause::Broken { reason, api, sent: true, .. } => format!("the connection to {api} broke: {reason}"),
            Cause::Paused { wait } => format!(
                "nothing was sent, as the rate limit is reached and Calry asked to wait another {}, which is longer than the time left",
                spoken(*wait)
            ),
            Cause::NotPermitted { why } => format!("nothing was sent: {why}"),
            Cause::TooLate => "nothing was sent, as the time for it (--timeout) was over first".to_owned(),
        }
    }

    fn status_reason(&self, status: u16, said: &str, expired: bool, key: &str, wait: Option<Duration>) -> String {
        let wait = wait.map_or_else(String::new, |w| format!("; Calry asks to wait {}", spoken(w)));
        match (status, &self.operation) {
            (300..=399, Operation::Snapshot) => {
                format!("its address answers with a redirect ({status}), which is not followed: give the final address")
            }
            (_, Operation::Snapshot) => format!("its address answers with {said}{wait}"),
            (300..=399, _) => format!(
                "the API URL answers with a redirect ({status}), which is never followed, as the API key would go along: give the address that it leads to as --api-url"
            ),
            (401, _) if expired => format!(
                "the API key from {key} has expired ({said}): make a new one in Calry and put it there (keys live 180 days unless told otherwise, the initial setup key 24 hours)"
            ),
            (401, _) => format!(
                "Calry does not know the API key from {key} ({said}): check that it is complete and was not revoked"
            ),
            (403, Operation::Update(_)) => {
                format!("the API key from {key} has no WRITE permission ({said}): use a key that was made with WRITE")
            }
            (403, _) => format!("the API key from {key} may not read this ({said}): use a key with READ or WRITE"),
            (404, Operation::Definition(_) | Operation::Update(_)) => {
                format!("the workspace has no definition for this provider ({said})")
            }
            (404, _) => format!("nothing is at this address ({said}): check the API URL"),
            (405, Operation::Update(_)) => {
                format!("Calry does not take updates by this method ({said}): try the other --update-method")
            }
            (400..=499, Operation::Update(_)) if status != 429 => format!("Calry refused the update ({said})"),
            (429, _) => format!("Calry's rate limit is reached ({said}){wait}"),
            (500..=599, _) => format!("Calry is in trouble ({said}){wait}"),
            _ => format!("Calry's answer was unexpected ({said})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, expired: bool, operation: Operation) -> Error {
        let key = "the file /run/key".to_owned();
        Error::new(operation, Cause::Status { status, message: Some("No.".into()), expired, key, retry_after: None })
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
    fn what_is_transient_and_what_may_have_arrived_are_different_questions() {
        let verdict = |cause| {
            let error = Error::new(update(), cause);
            (error.is_transient(), error.may_have_arrived())
        };
        let broken = |sent| Cause::Broken { reason: String::new(), api: String::new(), sent, lasting: false };
        let by_status = |code| {
            let error = status(code, false, update());
            (error.is_transient(), error.may_have_arrived())
        };
        assert_eq!(by_status(429), (true, false));
        assert_eq!(by_status(503), (true, true));
        assert_eq!(by_status(500), (false, true));
        for refused in [301, 400, 401, 403, 404, 422] {
            assert_eq!(by_status(refused), (false, false), "{refused}");
        }
        assert_eq!(verdict(Cause::TimedOut { given: Duration::ZERO }), (true, true));
        assert_eq!(verdict(broken(true)), (true, true));
        assert_eq!(verdict(broken(false)), (true, false));
        assert_eq!(verdict(Cause::Paused { wait: Duration::ZERO }), (true, false));
        // It answered with success: it arrived, whatever the answer says.
        assert_eq!(verdict(Cause::NotJson { status: 200 }), (false, true));
    }
}
