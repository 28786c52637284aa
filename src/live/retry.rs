//! When to try again: exponential back-off with full jitter, `Retry-After` honoured, within a deadline.
//!
//! It computes pauses and warns of the first failed attempt; it neither sleeps nor sends.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Error, Observer};
use crate::model::human_duration;

const BASE: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(10);

/// The pauses between the attempts of one call.
#[derive(Debug)]
pub struct Backoff {
    series: ExponentialBackoff,
    attempts: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        let series = ExponentialBuilder::new()
            .with_min_delay(BASE)
            .with_max_delay(CAP)
            .without_max_times()
            .build();
        Self {
            series,
            attempts: 0,
        }
    }
}

impl Backoff {
    /// How long to wait after an attempt that failed; `None` where trying again is no use, or where the wait would not
    /// end before the deadline.
    pub fn next(&mut self, error: &Error, deadline: Instant) -> Option<Duration> {
        self.attempts += 1;
        if !error.is_transient() {
            return None;
        }
        // Full jitter: uniform in [0, delay]. backon's own jitter only ever adds to the delay. A pause of the workspace was
        // no attempt, and who goes first after it is settled there.
        let pause = if error.is_paused() {
            Duration::ZERO
        } else {
            self.series.next()?.mul_f64(fastrand::f64())
        };
        let pause = pause.max(error.retry_after().unwrap_or_default());
        (pause < deadline.saturating_duration_since(Instant::now())).then_some(pause)
    }

    /// The attempts that failed so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// The attempts of one read.
pub(super) struct Attempts<'a> {
    backoff: Backoff,
    deadline: Instant,
    before: Option<Error>,
    warned: &'a AtomicBool,
    observer: &'a dyn Observer,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        deadline: Instant,
        warned: &'a AtomicBool,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            backoff: Backoff::default(),
            deadline,
            before: None,
            warned,
            observer,
        }
    }

    /// How many attempts failed so far.
    pub(super) fn failed(&self) -> u32 {
        self.backoff.attempts()
    }

    /// How long to wait after an attempt that failed.
    ///
    /// # Errors
    /// There is no further attempt. The error is the most telling one: that the time was over while the last attempt was
    /// under way says less than why the one before it failed.
    pub(super) fn next(&mut self, error: Error) -> Result<Duration, Error> {
        if let Some(pause) = self.backoff.next(&error, self.deadline) {
            // What Calry says may quote a value that an answer under way has yet to make known.
            let shown = error.unquoted();
            tracing::debug!(error = %shown, ?pause, "trying again");
            warn(&shown, self.deadline, self.warned, self.observer);
            if !error.is_cut_off() {
                self.before = Some(error);
            }
            return Ok(pause);
        }
        let telling = self
            .before
            .take()
            .filter(|_| error.is_cut_off())
            .unwrap_or(error);
        Err(telling.after(self.backoff.attempts()))
    }
}

/// Warns that an attempt failed and that there will be others, once for each flag.
pub(super) fn warn(error: &Error, deadline: Instant, warned: &AtomicBool, observer: &dyn Observer) {
    if !warned.swap(true, Relaxed) {
        observer.speaks();
        let left = deadline.saturating_duration_since(Instant::now());
        tracing::warn!("{error}; trying again for up to {}", human_duration(left));
    }
}

/// For how long a host has been out of reach.
#[derive(Debug, Default)]
pub(super) struct Unreachable(Mutex<Option<(Instant, u32)>>);

impl Unreachable {
    /// A host that is still out of reach after this time and so many attempts is taken for wrong.
    const PATIENCE: Duration = Duration::from_secs(3);
    const ATTEMPTS: u32 = 3;

    /// The host answered, whatever it said.
    pub(super) fn reached(&self) {
        *self.0.lock() = None;
    }

    /// The error of an attempt; after a few that did not reach the host, it is one that lasts.
    pub(super) fn judge(&self, error: Error) -> Error {
        if !error.is_unreachable() {
            self.reached();
            return error;
        }
        let now = Instant::now();
        let mut since = self.0.lock();
        let (first, attempts) = since.get_or_insert((now, 0));
        *attempts += 1;
        if *attempts >= Self::ATTEMPTS && now.duration_since(*first) >= Self::PATIENCE {
            error.lasting()
        } else {
            error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::error::{Cause, Refusal, TimeLimit};
    use super::*;

    fn answered(status: u16, retry_after: Option<Duration>) -> Error {
        let refusal = Refusal {
            status,
            is_calrys: true,
            retry_after,
            ..Refusal::default()
        };
        Error::new(Operation::Workspace, Cause::Status(refusal))
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_cap_and_use_the_whole_range() {
        let far = Instant::now() + Duration::from_secs(1_000_000);
        let (mut lowest, mut highest) = ([CAP; 10], [Duration::ZERO; 10]);
        for _ in 0..500 {
            let mut backoff = Backoff::default();
            for (low, high) in lowest.iter_mut().zip(&mut highest) {
                let pause = backoff.next(&answered(503, None), far).unwrap();
                *low = pause.min(*low);
                *high = pause.max(*high);
            }
        }
        for (n, (low, high)) in lowest.iter().zip(&highest).enumerate() {
            let delay = CAP.min(BASE * 2u32.pow(u32::try_from(n).unwrap()));
            assert!(
                *low < delay / 4 && *high > delay * 3 / 4 && *high <= delay,
                "{n}: {low:?} to {high:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calrys_own_wish_is_the_shortest_pause() {
        let wish = Duration::from_secs(20);
        let pause = Backoff::default().next(&answered(429, Some(wish)), Instant::now() + wish * 2);
        assert_eq!(pause, Some(wish));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_the_deadline_ends_it_at_once() {
        let wish = Duration::from_secs(20);
        assert_eq!(
            Backoff::default().next(&answered(429, Some(wish)), Instant::now() + wish),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_change_is_not_tried_again() {
        for status in [301, 400, 401, 403, 404, 405, 409, 422, 500] {
            let mut backoff = Backoff::default();
            assert_eq!(
                backoff.next(&answered(status, None), Instant::now() + CAP),
                None,
                "{status}"
            );
            assert_eq!(backoff.attempts(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_the_most_telling_one_and_counts_every_attempt() {
        let cut_off = || {
            Error::new(
                Operation::Workspace,
                Cause::TimedOut {
                    given: TimeLimit::Deadline(BASE),
                },
            )
        };
        let warned = AtomicBool::new(false);
        let mut attempts = Attempts::new(Instant::now() + CAP, &warned, &());
        attempts.next(answered(503, None)).unwrap();
        tokio::time::advance(CAP).await;
        let error = attempts.next(cut_off()).unwrap_err();
        assert_eq!(error.status(), Some(503));
        assert!(
            error.to_string().ends_with("(given up after 2 attempts)"),
            "{error}"
        );
        let mut attempts = Attempts::new(Instant::now(), &warned, &());
        assert!(
            attempts
                .next(cut_off())
                .unwrap_err()
                .to_string()
                .contains("--timeout")
        );
    }
}
