//! Limits the rate of reconciliations: a short burst is allowed, a storm of triggers is not.
//!
//! It only computes pauses and does not wait.

use std::time::Duration;

use tokio::time::Instant;

/// How many may begin at once.
const BURST: u32 = 5;

/// After a burst, one may begin in each period.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When the whole burst is available again; `None` before the first one.
    full: Option<Instant>,
}

impl Rate {
    /// The time until the next one may begin.
    pub(super) fn wait(&self) -> Duration {
        let Some(full) = self.full else {
            return Duration::ZERO;
        };
        full.saturating_duration_since(Instant::now())
            .saturating_sub(PERIOD * (BURST - 1))
    }

    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        self.full = Some(self.full.unwrap_or(now).max(now) + PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_begin_at_once_and_a_storm_of_them_one_in_a_second() {
        let (mut rate, begin) = (Rate::default(), Instant::now());
        let mut began = Vec::new();
        for _ in 0..8 {
            tokio::time::sleep(rate.wait()).await;
            rate.begin();
            began.push(begin.elapsed().as_secs());
        }
        assert_eq!(began, [0, 0, 0, 0, 0, 1, 2, 3]);
        tokio::time::advance(PERIOD * BURST).await;
        assert_eq!(rate.wait(), Duration::ZERO);
        for _ in 0..BURST {
            rate.begin();
        }
        assert_eq!(
            rate.wait(),
            PERIOD,
            "unused periods do not add up to more than a burst"
        );
    }
}
