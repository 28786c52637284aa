//! A fair concurrency limit. Work that takes longer than `patience` no longer counts against it, up to a second limit.

use std::time::Duration;

use tokio::sync::Semaphore;

#[derive(Debug)]
pub struct ConcurrencyLimit {
    /// For work that has not run out of patience.
    active: Semaphore,
    /// For all work, including work that hangs.
    total: Semaphore,
    patience: Duration,
}

impl ConcurrencyLimit {
    /// At most `limit` at once, plus `hanging` that take longer than `patience`.
    #[must_use]
    pub fn new(limit: usize, hanging: usize, patience: Duration) -> Self {
        Self {
            active: Semaphore::new(limit),
            total: Semaphore::new(limit + hanging),
            patience,
        }
    }

    /// Runs `work` when a permit is free. Cancelling it frees the permit.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.run_unless(work, std::future::pending()).await
    }

    /// Like [`Self::run`], but if `given_up` ends before a permit is free, its output is the result and the work does not begin.
    pub async fn run_unless<T>(
        &self,
        work: impl Future<Output = T>,
        given_up: impl Future<Output = T>,
    ) -> T {
        // The semaphores are never closed, so neither result is an error.
        let turn = async { (self.total.acquire().await, self.active.acquire().await) };
        let (_total, active) = tokio::select! {
            biased;
            given_up = given_up => return given_up,
            turn = turn => turn,
        };
        tokio::pin!(work);
        match tokio::time::timeout(self.patience, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                drop(active);
                work.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join, join_all, pending};
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_and_work_runs_in_order_of_arrival() {
        let (limit, begin) = (ConcurrencyLimit::new(2, 8, SECOND * 9), Instant::now());
        let work = (0..6).map(|_| {
            limit.run(async {
                sleep(SECOND).await;
                begin.elapsed().as_secs()
            })
        });
        assert_eq!(join_all(work).await, [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn work_can_be_given_up_before_its_turn_only() {
        let (limit, begin) = (ConcurrencyLimit::new(1, 0, SECOND * 9), Instant::now());
        let work = |takes, until| {
            let work = async move {
                sleep(takes).await;
                "done"
            };
            let given_up = async move {
                sleep(until).await;
                "given up"
            };
            async {
                (
                    limit.run_unless(work, given_up).await,
                    begin.elapsed().as_secs(),
                )
            }
        };
        let all = [
            work(SECOND * 3, SECOND),
            work(SECOND, SECOND * 2),
            work(SECOND, SECOND * 4),
        ];
        assert_eq!(
            join_all(all).await,
            [("done", 3), ("given up", 2), ("done", 4)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_work_does_not_delay_other_work_up_to_a_second_limit() {
        let (limit, begin) = (ConcurrencyLimit::new(2, 3, SECOND), Instant::now());
        let hanging = join_all((0..4).map(|_| timeout(SECOND * 60, limit.run(pending::<()>()))));
        let other = async {
            sleep(SECOND / 2).await;
            limit.run(async { begin.elapsed() }).await
        };
        let (_, waited) = join(hanging, other).await;
        assert_eq!(waited, SECOND * 2, "hanging work steps aside two at a time");
        let hanging = join_all((0..5).map(|_| timeout(SECOND * 60, limit.run(pending::<()>()))));
        let (_, waited) = join(hanging, async {
            sleep(SECOND / 2).await;
            let begin = Instant::now();
            limit.run(async { begin.elapsed() }).await
        })
        .await;
        assert!(
            waited > SECOND * 50,
            "{waited:?}: hanging work is bounded, too"
        );
    }
}
