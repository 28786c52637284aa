//! Being told of every request, as it ends: for whoever counts them. This room does not know who that is.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Operation;

/// Is told what happens between here and Calry. It is told in the middle of the work: it must neither wait nor fail.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request ended.
    fn requested(&self, request: &Exchange);
    /// A request that is about to be sent was sent before in vain.
    fn retried(&self);
    /// The workspace is held back for so long, because Calry's rate limit was reached. Pauses do not overlap.
    fn held_back(&self, pause: Duration);
    /// An attempt begins.
    fn waits(&self, _: &Attempt<'_>) {}
    /// What was waited for is over, whether it succeeded or not.
    fn waited(&self, _: &Operation) {}
    /// A line of the log follows at once.
    fn speaks(&self) {}
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What is attempted.
    pub operation: &'a Operation,
    /// Which attempt it is, from 1.
    pub number: u32,
    /// When no further one begins.
    pub deadline: Instant,
}

/// A request that was sent, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Whether it is an update; else it is a read.
    pub update: bool,
    /// How it ended.
    pub end: End,
    /// From its turn to the end of the answer.
    pub took: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer of this status.
    Status(u16),
    /// Without an answer in time.
    TimedOut,
    /// There was no connection, or it broke.
    Broken,
}

/// Nobody.
impl Observer for () {
    fn requested(&self, _: &Exchange) {}
    fn retried(&self) {}
    fn held_back(&self, _: Duration) {}
}
