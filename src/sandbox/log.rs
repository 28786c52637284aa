//! What was asked of a sandbox, so that tests can claim what was sent and when. It is bounded, and its `Debug` masks what
//! stands below `partnerKey`: a sandbox may be sent real secrets.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use serde_json::Value;

use super::{Permission, store};

/// The number of requests that are remembered; older ones are forgotten.
pub(super) const MAX_RECORDS: usize = 100_000;

/// One request that reached the sandbox.
#[derive(Clone)]
pub struct RequestRecord {
    /// The method.
    pub method: Method,
    /// The path as it was sent, without the query.
    pub path: String,
    /// The permission of the key that came with it; `None` where that key is refused, or there is none.
    pub permission: Option<Permission>,
    /// The body, where it is JSON; never masked.
    pub body: Option<Value>,
    /// Of an update that was carried out: whether the definition held another value after it, its `updatedAt` aside.
    pub changed: Option<bool>,
    /// The status of the answer; `None` where there is none yet, or never was one because the connection was cut.
    pub status: Option<StatusCode>,
    /// When the request arrived.
    pub at: Instant,
    /// When the answer, or the cut, was ready.
    pub finished: Option<Instant>,
}

impl fmt::Debug for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            path,
            permission,
            body,
            changed: _,
            status,
            at: _,
            finished,
        } = self;
        let status = match (status, finished) {
            (Some(status), _) => status.as_str(),
            (None, Some(_)) => "cut",
            (None, None) => "under way",
        };
        write!(f, "{method} {path} ({permission:?}) -> {status}")?;
        body.as_ref()
            .map_or(Ok(()), |body| write!(f, " {}", store::masked(body)))
    }
}

/// The last requests, each under a number of its own.
#[derive(Default)]
pub(super) struct Log {
    records: VecDeque<RequestRecord>,
    forgotten: usize,
}

impl Log {
    /// Takes a request down and answers with its number.
    pub(super) fn begin(&mut self, record: RequestRecord) -> usize {
        if self.records.len() >= MAX_RECORDS {
            self.records.pop_front();
            self.forgotten += 1;
        }
        self.records.push_back(record);
        self.forgotten + self.records.len() - 1
    }

    /// The record of a number; `None` where it is forgotten.
    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut RequestRecord> {
        self.records.get_mut(number.checked_sub(self.forgotten)?)
    }

    pub(super) fn records(&self) -> Vec<RequestRecord> {
        self.records.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(path: &str) -> RequestRecord {
        RequestRecord {
            method: Method::PATCH,
            path: path.to_owned(),
            permission: Some(Permission::Write),
            body: Some(json!({"partnerKey": {"headers": {"a": "hunter2"}}})),
            changed: None,
            status: None,
            at: Instant::now(),
            finished: None,
        }
    }

    #[test]
    fn the_log_forgets_its_oldest_and_finds_the_rest() {
        let mut log = Log::default();
        for n in 0..=MAX_RECORDS {
            assert_eq!(log.begin(record(&n.to_string())), n);
        }
        assert!(log.get_mut(0).is_none());
        assert_eq!(
            log.get_mut(MAX_RECORDS).unwrap().path,
            MAX_RECORDS.to_string()
        );
        assert_eq!(log.records().len(), MAX_RECORDS);
    }

    #[test]
    fn a_record_shows_no_partner_key_in_debug() {
        let shown = format!("{:?}", record("/x"));
        assert!(
            shown.contains("under way") && shown.contains("********") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
