//! The bounded log of the requests to a sandbox, for assertions in tests.
//!
//! Never: show values below `partnerKey` in `Debug`, because a sandbox may receive real secrets.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use serde_json::Value;

use super::{Permission, store};

/// The number of requests that are kept.
pub(super) const MAX_RECORDS: usize = 100_000;

#[derive(Clone)]
pub struct RequestRecord {
    pub method: Method,
    /// The raw path, without the query.
    pub path: String,
    /// The permission of the request's key; `None` if the key is missing or refused.
    pub permission: Option<Permission>,
    /// The unmasked body, if it is JSON.
    pub body: Option<Value>,
    /// For an executed update: whether it changed the definition, apart from `updatedAt`.
    pub changed: Option<bool>,
    /// `None` before the answer, or if the connection was cut.
    pub status: Option<StatusCode>,
    /// When the request arrived.
    pub at: Instant,
    /// When the request was answered or cut.
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
            .map_or(Ok(()), |body| write!(f, " {}", store::mask(body)))
    }
}

/// The last requests, each with a number.
#[derive(Default)]
pub(super) struct RequestLog {
    records: VecDeque<RequestRecord>,
    dropped: usize,
}

impl RequestLog {
    /// Adds a request and returns its number.
    pub(super) fn begin(&mut self, record: RequestRecord) -> usize {
        if self.records.len() >= MAX_RECORDS {
            self.records.pop_front();
            self.dropped += 1;
        }
        self.records.push_back(record);
        self.dropped + self.records.len() - 1
    }

    /// The record with a number; `None` if it was dropped.
    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut RequestRecord> {
        self.records.get_mut(number.checked_sub(self.dropped)?)
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
    fn the_log_drops_its_oldest_records_and_finds_the_others() {
        let mut log = RequestLog::default();
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
