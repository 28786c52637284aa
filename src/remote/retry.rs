//! When to try again: exponential back-off with full jitter, `Retry-After` honoured, within a deadline.
//!
//! It only computes pauses; it neither sleeps nor sends.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::Error;

const BASE: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(10);

/// The longest wait that a `Retry-After` is read as; what asks for more is not believed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The pauses between the attempts of one call.
#[derive(Debug)]
pub struct Backoff {
    series: ExponentialBackoff,
    attempts: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        let series = ExponentialBuilder::new().with_min_delay(BASE).with_max_delay(CAP).without_max_times().build();
        Self { series, attempts: 0 }
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
        let pause = if error.is_pause() { Duration::ZERO } else { self.series.next()?.mul_f64(fastrand::f64()) };
        let pause = pause.max(error.retry_after().unwrap_or_default());
        (pause < deadline.saturating_duration_since(Instant::now())).then_some(pause)
    }

    /// The attempts that failed so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// Reads a `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3). A date that has passed is no wait.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().map_or(LONGEST_WAIT, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::Operation;
    use super::super::error::Cause;
    use super::*;

    fn answered(status: u16, retry_after: Option<Duration>) -> Error {
        Error::new(
            Operation::Workspace,
            Cause::Status { status, message: None, expired: false, key: String::new(), retry_after },
        )
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
            assert!(*low < delay / 4 && *high > delay * 3 / 4 && *high <= delay, "{n}: {low:?} to {high:?}");
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
        assert_eq!(Backoff::default().next(&answered(429, Some(wish)), Instant::now() + wish), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_change_is_not_tried_again() {
        for status in [301, 400, 401, 403, 404, 405, 409, 422, 500] {
            let mut backoff = Backoff::default();
            assert_eq!(backoff.next(&answered(status, None), Instant::now() + CAP), None, "{status}");
            assert_eq!(backoff.attempts(), 1);
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value| retry_after(value, now);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(read("Sunday, 06-Nov-94 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999999999999999"), Some(LONGEST_WAIT));
        for nonsense in ["", "soon", "-5", "1.5", "7 seconds"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
