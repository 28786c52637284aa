//! The pace of one workspace: after a 429, all of its requests slow down.
//!
//! Requests start in turn. A 429 closes a gate for a while and doubles the spacing between starts. Each success shortens the
//! spacing a little, so the rate settles just below Calry's limit, whatever that limit is. The spacing also shrinks with
//! time: a quiet workspace has few successes, and its next update must not wait for a limit of an hour ago. This module does
//! no I/O.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Observer;

/// The spacing after the first 429. Successes that shorten it to less than half of this remove it.
const FIRST_SPACING: Duration = Duration::from_millis(50);
const WIDEST_SPACING: Duration = Duration::from_secs(2);

/// Without a `Retry-After`, the gate stays closed for this many spacings: 250 ms at first, 10 s at most.
const GATE_SPACINGS: u32 = 5;

/// The longest time for which a `Retry-After` closes the gate: a wrong one must not stop a workspace for a day.
const LONGEST_GATE: Duration = Duration::from_secs(5 * 60);

/// The factor of each success on the spacing, which halves after 34 of them.
const DECAY: f64 = 0.98;

/// The spacing also halves each time this passes.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// The pace of one workspace, shared by all of its requests.
#[derive(Debug)]
pub(super) struct Pace {
    /// The holder starts next. tokio's mutex is fair: first come, first served.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<PaceState>,
    observer: Arc<dyn Observer>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::with_observer(Arc::new(()))
    }
}

#[derive(Debug, Default)]
struct PaceState {
    /// As it was at `spaced_at`; it has shrunk since.
    spacing: Duration,
    spaced_at: Option<Instant>,
    last_start: Option<Instant>,
    closed_until: Option<Instant>,
    /// Whether Calry asked for the pause; otherwise it is our own estimate.
    by_calry: bool,
    last_slowed: Option<Instant>,
}

impl PaceState {
    fn spacing(&self, now: Instant) -> Duration {
        let age = self
            .spaced_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let halves = age.div_duration_f64(HALF_LIFE);
        worth_keeping(self.spacing.mul_f64(0.5_f64.powf(halves)))
    }

    fn space(&mut self, now: Instant, spacing: Duration) {
        (self.spacing, self.spaced_at) = (worth_keeping(spacing), Some(now));
    }
}

fn worth_keeping(spacing: Duration) -> Duration {
    if spacing < FIRST_SPACING / 2 {
        Duration::ZERO
    } else {
        spacing
    }
}

/// Why a request could not start in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TurnError {
    /// The gate stays closed for longer than the request may wait.
    Paused {
        wait: Duration,
        /// Whether Calry asked for the pause.
        by_calry: bool,
    },
    /// The deadline passed while other requests went first.
    TooLate,
}

impl Pace {
    /// A pace that reports its pauses to `observer`.
    pub(super) fn with_observer(observer: Arc<dyn Observer>) -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            observer,
        }
    }

    /// Waits for the turn of a request and returns its start time.
    pub(super) async fn start(&self, deadline: Instant) -> Result<Instant, TurnError> {
        self.turn(deadline, deadline).await
    }

    /// Like [`start`](Self::start), but without waiting at a closed gate.
    pub(super) async fn start_unless_paused(
        &self,
        deadline: Instant,
    ) -> Result<Instant, TurnError> {
        self.turn(deadline, Instant::now()).await
    }

    /// Waits until `deadline` for other requests, and at a closed gate only if it opens before `patience`.
    async fn turn(&self, deadline: Instant, patience: Instant) -> Result<Instant, TurnError> {
        self.check_gate(patience)?;
        // timeout_at polls its future once even after the deadline, which would start a request that nothing waits for.
        if Instant::now() >= deadline {
            return Err(TurnError::TooLate);
        }
        timeout_at(deadline, async {
            let _turn = self.turn.lock().await;
            // The gate may have been closed during a wait, so check it again.
            loop {
                self.check_gate(patience)?;
                let now = Instant::now();
                let ready = {
                    let mut state = self.state.lock();
                    let spaced = state.last_start.map(|last| last + state.spacing(now));
                    let ready = spaced.max(state.closed_until).unwrap_or(now);
                    if ready <= now {
                        state.last_start = Some(now);
                        return Ok(now);
                    }
                    // The pause at the gate was reported when it was closed.
                    self.report_pause(
                        ready.saturating_duration_since(state.closed_until.unwrap_or(now).max(now)),
                    );
                    ready
                };
                sleep_until(ready).await;
            }
        })
        .await
        .unwrap_or(Err(TurnError::TooLate))
    }

    /// A request that started at `started` was answered with 429.
    pub(super) fn slow_down(&self, started: Instant, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        // Several requests in flight can hit the same limit. Only the first one doubles the spacing.
        if state.last_slowed.is_none_or(|at| started > at) {
            let wider = (state.spacing(now) * 2).clamp(FIRST_SPACING, WIDEST_SPACING);
            state.space(now, wider);
            state.last_slowed = Some(now);
        }
        let pause = retry_after
            .unwrap_or(state.spacing * GATE_SPACINGS)
            .min(LONGEST_GATE);
        let until = state.closed_until.unwrap_or(now).max(now);
        self.report_pause((now + pause).saturating_duration_since(until));
        if now + pause >= until {
            state.by_calry = retry_after.is_some();
        }
        state.closed_until = Some(until.max(now + pause));
        // A pause is no time in which the limit recovers.
        state.spaced_at = state.closed_until;
        tracing::debug!(spacing = ?state.spacing, pause = ?pause, "slowing down: Calry's rate limit is reached");
    }

    /// Calry asked for a pause for another reason than the rate limit. Nothing starts before its end.
    pub(super) fn pause(&self, retry_after: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let end = now + retry_after.min(LONGEST_GATE);
        if state.closed_until.is_none_or(|until| until <= end) {
            (state.closed_until, state.by_calry) = (Some(end), true);
        }
    }

    /// A request succeeded.
    pub(super) fn speed_up(&self) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let spacing = state.spacing(now).mul_f64(DECAY);
        state.space(now, spacing);
    }

    fn report_pause(&self, pause: Duration) {
        if !pause.is_zero() {
            self.observer.on_pause(pause);
        }
    }

    fn check_gate(&self, patience: Instant) -> Result<(), TurnError> {
        let (now, state) = (Instant::now(), self.state.lock());
        match state.closed_until {
            Some(until) if until >= patience && until > now => Err(TurnError::Paused {
                wait: until.saturating_duration_since(now),
                by_calry: state.by_calry,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn paused(wait: Duration) -> Result<Instant, TurnError> {
        let by_calry = true;
        Err(TurnError::Paused { wait, by_calry })
    }

    fn later(seconds: u32) -> Instant {
        Instant::now() + SECOND * seconds
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_without_a_429() {
        let (pace, begin) = (Pace::default(), Instant::now());
        for _ in 0..1000 {
            pace.start(later(60)).await.unwrap();
            pace.speed_up();
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_429_delays_every_request() {
        let (pace, begin) = (Pace::default(), Instant::now());
        pace.slow_down(begin, Some(SECOND * 3));
        let starts = stream::iter(0..3)
            .map(|_| pace.start(later(60)))
            .buffered(3)
            .map(|at| at.unwrap() - begin);
        let starts: Vec<_> = starts.collect().await;
        assert!(
            starts[0] >= SECOND * 3 && starts[0] < SECOND * 3 + FIRST_SPACING,
            "{starts:?}"
        );
        assert!(
            starts[1] - starts[0] >= FIRST_SPACING && starts[2] - starts[1] >= FIRST_SPACING,
            "{starts:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_workspace_forgets_a_limit_that_a_busy_one_remembers() {
        let pace = Pace::default();
        for _ in 0..8 {
            pace.slow_down(Instant::now(), Some(SECOND));
            tokio::time::sleep(SECOND).await;
        }
        let two_take = async || {
            let begin = Instant::now();
            for _ in 0..2 {
                pace.start(later(60)).await.unwrap();
            }
            begin.elapsed()
        };
        assert!(two_take().await > SECOND);
        tokio::time::sleep(SECOND * 600).await;
        assert_eq!(two_take().await, Duration::ZERO);
    }

    #[derive(Debug, Default)]
    struct Pauses(Mutex<Vec<Duration>>);

    impl Observer for Pauses {
        fn on_pause(&self, pause: Duration) {
            self.0.lock().push(pause);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_reported_pauses_add_up_to_the_time_that_passes() {
        let reported = Arc::new(Pauses::default());
        let (pace, begin) = (
            Pace::with_observer(Arc::clone(&reported) as _),
            Instant::now(),
        );
        // A burst of 429s, of which the last one asks for a second more.
        for wait in [3, 3, 1, 4] {
            pace.slow_down(begin, Some(SECOND * wait));
        }
        let starts = stream::iter(0..3)
            .map(|_| pace.start(later(60)))
            .buffered(3)
            .map(|at| at.unwrap() - begin);
        let starts: Vec<_> = starts.collect().await;
        let pauses = reported.0.lock();
        assert_eq!(pauses[..2], [SECOND * 3, SECOND], "{pauses:?}");
        let sum: Duration = pauses.iter().sum();
        assert!(
            starts[2].abs_diff(sum) < Duration::from_millis(10),
            "{pauses:?} {starts:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_429s_of_one_burst_count_once() {
        let pace = Pace::default();
        let started = Instant::now();
        for _ in 0..8 {
            pace.slow_down(started, None);
        }
        assert_eq!(pace.state.lock().spacing, FIRST_SPACING);
    }

    #[tokio::test(start_paused = true)]
    async fn successes_shorten_the_spacing_a_little_and_then_remove_it() {
        let pace = Pace::default();
        pace.slow_down(Instant::now(), None);
        let spacings = (0..40).map(|_| {
            pace.speed_up();
            pace.state.lock().spacing
        });
        let spacings: Vec<Duration> = spacings.collect();
        assert_eq!(spacings[0], FIRST_SPACING.mul_f64(DECAY));
        assert_eq!(spacings.iter().position(Duration::is_zero), Some(34));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_opens_after_the_deadline_fails_at_once_with_the_wait_which_is_never_a_day()
    {
        for (asked, wait) in [(SECOND * 90, SECOND * 90), (SECOND * 86_400, LONGEST_GATE)] {
            let (pace, begin) = (Pace::default(), Instant::now());
            pace.slow_down(begin, Some(asked));
            assert_eq!(pace.start(later(60)).await, paused(wait));
            assert_eq!(begin.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_our_own_is_not_attributed_to_calry() {
        let (pace, begin) = (Pace::default(), Instant::now());
        let by_calry = async || match pace.start_unless_paused(later(60)).await {
            Err(TurnError::Paused { by_calry, .. }) => Some(by_calry),
            _ => None,
        };
        pace.slow_down(begin, None);
        assert_eq!(by_calry().await, Some(false));
        sleep_until(begin + Duration::from_millis(249)).await;
        assert_eq!(by_calry().await, Some(false));
        sleep_until(begin + Duration::from_millis(251)).await;
        assert_eq!(by_calry().await, None);
        pace.slow_down(begin, Some(SECOND * 3));
        assert_eq!(by_calry().await, Some(true));
        // A shorter pause of our own changes nothing.
        pace.slow_down(begin, None);
        assert_eq!(by_calry().await, Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_kept_and_does_not_slow_later_requests() {
        let (pace, begin) = (Pace::default(), Instant::now());
        pace.pause(SECOND * 90);
        pace.pause(SECOND * 30);
        assert_eq!(pace.start(later(60)).await, paused(SECOND * 90));
        for _ in 0..2 {
            pace.start(later(100)).await.unwrap();
            assert_eq!(begin.elapsed().as_secs(), 90);
        }
        pace.pause(SECOND * 86_400);
        assert_eq!(pace.start(later(60)).await, paused(LONGEST_GATE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_may_not_wait_gets_the_time_until_the_gate_opens() {
        let pace = Pace::default();
        pace.slow_down(Instant::now(), Some(SECOND * 3));
        assert_eq!(
            pace.start_unless_paused(later(60)).await,
            paused(SECOND * 3)
        );
        sleep_until(later(3)).await;
        assert!(pace.start_unless_paused(later(60)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_leave_the_queue_at_their_deadline() {
        let pace = Pace::default();
        pace.slow_down(Instant::now(), None);
        let late: Vec<_> = stream::iter(0..100)
            .map(|_| pace.start(later(1)))
            .buffered(100)
            .collect()
            .await;
        assert!(late.iter().any(Result::is_ok));
        assert_eq!(late.last(), Some(&Err(TurnError::TooLate)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_starts_after_the_deadline() {
        assert_eq!(
            Pace::default().start(Instant::now()).await,
            Err(TurnError::TooLate)
        );
    }

    /// Two hundred updates, eight in flight, each answered after 20 ms, against a limit of ten per second: counted per
    /// second with `Retry-After`, or as a bucket without it.
    async fn two_hundred_updates(retry_after: bool) -> (Duration, usize) {
        let (pace, begin) = (Pace::default(), Instant::now());
        let (refused, window) = (std::cell::Cell::new(0), std::cell::Cell::new((0.0, 10.0)));
        let allows = || {
            let now = begin.elapsed().as_secs_f64();
            let (at, tokens) = window.get();
            let tokens = match retry_after {
                true if now.floor() > at => 10.0,
                true => tokens,
                false => f64::min(10.0, tokens + (now - at) * 10.0),
            };
            let allowed = tokens >= 1.0;
            window.set((
                if retry_after { now.floor() } else { now },
                if allowed { tokens - 1.0 } else { tokens },
            ));
            allowed
        };
        let one = |_| async {
            loop {
                let started = pace.start(later(600)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
                let allowed = allows();
                tokio::time::sleep(Duration::from_millis(10)).await;
                if allowed {
                    return pace.speed_up();
                }
                refused.set(refused.get() + 1);
                pace.slow_down(started, retry_after.then_some(SECOND));
            }
        };
        stream::iter(0..200)
            .map(one)
            .buffer_unordered(8)
            .collect::<Vec<_>>()
            .await;
        (begin.elapsed(), refused.get())
    }

    #[tokio::test(start_paused = true)]
    async fn two_hundred_updates_settle_below_the_limit_with_few_429s() {
        for retry_after in [true, false] {
            let (took, refused) = two_hundred_updates(retry_after).await;
            println!("Retry-After {retry_after}: {took:?}, {refused} refused");
            // Ten per second is 19 s at best.
            assert!(
                took < SECOND * 45 && refused < 30,
                "Retry-After {retry_after}: {took:?}, {refused} refused"
            );
        }
    }
}
