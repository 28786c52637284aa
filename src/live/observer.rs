//! The interface by which metrics and progress displays follow the requests to Calry.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Operation;

/// Receives the events of the requests to Calry, as they happen. No method may block or fail.
pub trait Observer: fmt::Debug + Send + Sync {
    fn on_request(&self, _: &Exchange) {}
    /// A request is about to be sent again after a failed attempt.
    fn on_retry(&self) {}
    /// The workspace pauses for this long because Calry's rate limit is reached. Pauses do not overlap.
    fn on_pause(&self, _: Duration) {}
    fn on_attempt(&self, _: &Attempt<'_>) {}
    /// The operation ended, successfully or not.
    fn on_finish(&self, _: &Operation) {}
    /// A log line follows at once.
    fn before_log_line(&self) {}
}

#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub operation: &'a Operation,
    /// Counted from 1.
    pub number: u32,
    /// When no further attempt begins.
    pub deadline: Instant,
}

/// A request that was sent, and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Whether the request is an update; otherwise it is a read.
    pub update: bool,
    pub outcome: ExchangeOutcome,
    /// From its turn to the end of the answer.
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeOutcome {
    Status(u16),
    /// No answer in time.
    TimedOut,
    /// No connection, or a broken one.
    Broken,
}

/// Ignores everything.
impl Observer for () {}
