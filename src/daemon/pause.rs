//! The lengths of pauses: growing after failures, and spread so that many daemons do not ask at the same moment.

use std::time::Duration;

/// The longest pause after failures, unless the interval is longer.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The interval, doubled with each failure after the first, up to five minutes, or the interval if that is longer.
pub(super) fn growing(interval: Duration, failures: u32) -> Duration {
    let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    interval
        .saturating_mul(factor)
        .min(LONGEST_PAUSE.max(interval))
}

/// A pause that differs by up to a tenth.
pub(super) fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + 0.2 * fastrand::f64())
}
