//! Retries: exponential back-off with full jitter that honours `Retry-After` and a deadline.
//!
//! This module computes pauses and logs a warning after the first failed attempt. It neither sleeps nor sends.

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
    /// The pause after a failed attempt; `None` if the error is permanent, or if the pause would not end before the deadline.
    pub fn next(&mut self, error: &Error, deadline: Instant) -> Option<Duration> {
        self.attempts += 1;
        if !error.is_transient() {
            return None;
        }
        // Full jitter: uniform in [0, delay]. backon's own jitter only adds to the delay. A paused workspace made no attempt,
        // and `Pace` decides the order after its pause.
        let pause = if error.is_paused() {
            Duration::ZERO
        } else {
            self.series.next()?.mul_f64(fastrand::f64())
        };
        let pause = pause.max(error.retry_after().unwrap_or_default());
        (pause < deadline.saturating_duration_since(Instant::now())).then_some(pause)
    }

    /// The number of failed attempts so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// The attempts of one read, with the error to report if all fail.
pub(super) struct Attempts<'a> {
    backoff: Backoff,
    deadline: Instant,
    informative: Option<Error>,
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
            informative: None,
            warned,
            observer,
        }
    }

    pub(super) fn failed(&self) -> u32 {
        self.backoff.attempts()
    }

    /// The pause after a failed attempt.
    ///
    /// # Errors
    /// The most informative error, if there is no further attempt: an attempt that the deadline cut off says less than why
    /// the attempt before it failed.
    pub(super) fn next(&mut self, error: Error) -> Result<Duration, Error> {
        if let Some(pause) = self.backoff.next(&error, self.deadline) {
            // Calry's text may quote a value that only becomes known from an answer still under way.
            let shown = error.without_quote();
            tracing::debug!(error = %shown, ?pause, "trying again");
            warn(&shown, self.deadline, self.warned, self.observer);
            if !error.is_deadline() {
                self.informative = Some(error);
            }
            return Ok(pause);
        }
        let informative = self
            .informative
            .take()
            .filter(|_| error.is_deadline())
            .unwrap_or(error);
        Err(informative.with_attempts(self.backoff.attempts()))
    }
}

/// Logs, once for each flag, that an attempt failed and others follow.
pub(super) fn warn(error: &Error, deadline: Instant, warned: &AtomicBool, observer: &dyn Observer) {
    if !warned.swap(true, Relaxed) {
        observer.before_log_line();
        let left = deadline.saturating_duration_since(Instant::now());
        tracing::warn!("{error}; trying again for up to {}", human_duration(left));
    }
}

/// Detects a host that stays unreachable: since when, and in how many attempts.
#[derive(Debug, Default)]
pub(super) struct UnreachableHost(Mutex<Option<(Instant, u32)>>);

impl UnreachableHost {
    /// A host that is unreachable for this time and number of attempts is assumed to be wrong.
    const PATIENCE: Duration = Duration::from_secs(3);
    const ATTEMPTS: u32 = 3;

    /// Marks the error of an attempt as permanent if the host stays unreachable. Any answer, successful or not, shows that it
    /// is reachable.
    pub(super) fn check<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let mut since = self.0.lock();
        let error = match answer {
            Err(error) if error.is_unreachable() => error,
            answer => {
                *since = None;
                return answer;
            }
        };
        let now = Instant::now();
        let (first, attempts) = since.get_or_insert((now, 0));
        *attempts += 1;
        if *attempts >= Self::ATTEMPTS && now.duration_since(*first) >= Self::PATIENCE {
            Err(error.into_permanent())
        } else {
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::error::{ErrorCause, ErrorResponse, TimeLimit};
    use super::*;
    use crate::http::RequestFailure;

    fn answered(status: u16, retry_after: Option<Duration>) -> Error {
        let response = ErrorResponse {
            status,
            from_calry: true,
            retry_after,
            ..ErrorResponse::default()
        };
        Error::new(Operation::Workspace, ErrorCause::Status(response))
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
    async fn the_pause_is_at_least_the_one_that_calry_asks_for() {
        let wish = Duration::from_secs(20);
        let pause = Backoff::default().next(&answered(429, Some(wish)), Instant::now() + wish * 2);
        assert_eq!(pause, Some(wish));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_deadline_ends_the_retries_at_once() {
        let wish = Duration::from_secs(20);
        assert_eq!(
            Backoff::default().next(&answered(429, Some(wish)), Instant::now() + wish),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_is_the_most_telling_one_and_counts_every_attempt() {
        let cut_off = || {
            Error::new(
                Operation::Workspace,
                ErrorCause::TimedOut {
                    limit: TimeLimit::Deadline(BASE),
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

    #[tokio::test(start_paused = true)]
    async fn a_host_is_wrong_after_three_attempts_in_three_seconds_without_an_answer() {
        let host = UnreachableHost::default();
        let given_up = |unreachable| {
            let failure = RequestFailure {
                sent: false,
                permanent: false,
                unreachable,
                tls: false,
                untrusted: None,
                proxy: None,
                reason: String::new(),
            };
            let api = String::new();
            let error = Error::new(Operation::Workspace, ErrorCause::Broken { api, failure });
            !host.check::<()>(Err(error)).unwrap_err().is_transient()
        };
        for _ in 0..5 {
            assert!(!given_up(true));
        }
        tokio::time::advance(UnreachableHost::PATIENCE).await;
        assert!(given_up(true));
        // Any other failure comes from the host.
        assert!(!given_up(false));
        assert!(!given_up(true));
        tokio::time::advance(UnreachableHost::PATIENCE).await;
        assert!(!given_up(true));
        assert!(given_up(true));
        // So does an answer.
        host.check(Ok(())).unwrap();
        assert!(!given_up(true));
    }
}
