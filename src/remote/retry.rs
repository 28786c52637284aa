//! When something is tried again: exponential backoff with full jitter, within a deadline, honouring `Retry-After`.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::Error;

/// The pauses between attempts at one thing.
#[derive(Debug)]
pub struct Backoff {
    series: ExponentialBackoff,
}

impl Default for Backoff {
    fn default() -> Self {
        let series = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(Duration::from_secs(10))
            .without_max_times()
            .build();
        Self { series }
    }
}

impl Backoff {
    /// How long to wait before the next attempt; `None` where it would come after the deadline.
    ///
    /// Full jitter: anything from nothing to the series' delay, so that clients that failed together do not return
    /// together. What the server asked for is a lower bound.
    pub fn next(&mut self, error: &Error, deadline: Instant) -> Option<Duration> {
        let delay = self.series.next().unwrap_or(Duration::from_secs(10)).mul_f64(fastrand::f64());
        let pause = delay.max(error.retry_after().unwrap_or_default());
        (Instant::now() + pause < deadline).then_some(pause)
    }
}

/// Reads `Retry-After`: seconds, or an HTTP date (RFC 9110, section 10.2.3). At most a day is believed.
pub(super) fn retry_after(header: &str, now: std::time::SystemTime) -> Option<Duration> {
    let header = header.trim();
    let pause = if header.bytes().all(|b| b.is_ascii_digit()) && !header.is_empty() {
        Duration::from_secs(header.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(Duration::from_secs(86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = httpdate::parse_http_date("Mon, 23 Nov 2026 10:00:00 GMT").unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Mon, 23 Nov 2026 10:00:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Mon, 23 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999999999999999", now), Some(Duration::from_secs(86_400)));
        for bad in ["", "soon", "-1", "1.5"] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
    }
}
