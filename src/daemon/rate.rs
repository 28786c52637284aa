//! The least pause between two reconciliations: a few follow upon each other at once, a storm of triggers does not.
//!
//! It only computes pauses; it does not wait.

use std::time::Duration;

use tokio::time::Instant;

/// So many may begin at once.
const BURST: u32 = 5;

/// After that, one in this time.
const PERIOD: Duration = Duration::from_secs(1);

/// When reconciliations may begin.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When the whole burst is available again; `None` before the first one.
    full: Option<Instant>,
}

impl Rate {
    /// How long until the next one may begin.
    pub(super) fn wait(&self) -> Duration {
        let Some(full) = self.full else {
            return Duration::ZERO;
        };
        full.saturating_duration_since(Instant::now())
            .saturating_sub(PERIOD * (BURST - 1))
    }

    /// One begins.
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
            "what was not used is not more than a burst"
        );
    }
}
