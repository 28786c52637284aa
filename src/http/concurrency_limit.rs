//! A number of places for work that many want to do at once: first come, first served, and what hangs gives its place to
//! the next, so that it holds nobody up.

use std::time::Duration;

use tokio::sync::Semaphore;

#[derive(Debug)]
pub struct Places {
    /// For work that goes on.
    brisk: Semaphore,
    /// For all work, that which hangs included.
    all: Semaphore,
    patience: Duration,
}

impl Places {
    /// So many places, and `hanging` more for work that takes longer than `patience`.
    #[must_use]
    pub fn new(places: usize, hanging: usize, patience: Duration) -> Self {
        Self {
            brisk: Semaphore::new(places),
            all: Semaphore::new(places + hanging),
            patience,
        }
    }

    /// Does a work when its turn has come. Cancelling it frees its place.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        self.within_unless(work, std::future::pending()).await
    }

    /// The same, unless `given_up` ends before the turn comes: then its output is the result, and the work does not begin.
    pub async fn within_unless<T>(
        &self,
        work: impl Future<Output = T>,
        given_up: impl Future<Output = T>,
    ) -> T {
        // Neither is ever closed, so both are places.
        let turn = async { (self.all.acquire().await, self.brisk.acquire().await) };
        let (_place, brisk) = tokio::select! {
            biased;
            given_up = given_up => return given_up,
            turn = turn => turn,
        };
        tokio::pin!(work);
        match tokio::time::timeout(self.patience, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                drop(brisk);
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
    async fn no_more_than_so_many_work_at_once_and_who_came_first_is_first() {
        let (places, begin) = (Places::new(2, 8, SECOND * 9), Instant::now());
        let work = (0..6).map(|_| {
            places.within(async {
                sleep(SECOND).await;
                begin.elapsed().as_secs()
            })
        });
        assert_eq!(join_all(work).await, [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_given_up_before_its_turn_and_never_after() {
        let (places, begin) = (Places::new(1, 0, SECOND * 9), Instant::now());
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
                    places.within_unless(work, given_up).await,
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
    async fn what_hangs_holds_nobody_up_until_too_much_of_it_does() {
        let (places, begin) = (Places::new(2, 3, SECOND), Instant::now());
        let hanging =
            join_all((0..4).map(|_| timeout(SECOND * 60, places.within(pending::<()>()))));
        let other = async {
            sleep(SECOND / 2).await;
            places.within(async { begin.elapsed() }).await
        };
        let (_, waited) = join(hanging, other).await;
        assert_eq!(waited, SECOND * 2, "two by two they step aside");
        let hanging =
            join_all((0..5).map(|_| timeout(SECOND * 60, places.within(pending::<()>()))));
        let (_, waited) = join(hanging, async {
            sleep(SECOND / 2).await;
            let begin = Instant::now();
            places.within(async { begin.elapsed() }).await
        })
        .await;
        assert!(
            waited > SECOND * 50,
            "{waited:?}: what hangs is bounded, too"
        );
    }
}
