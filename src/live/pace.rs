//! The pace of one workspace: a 429 slows every request down, not only the one that got it.
//!
//! Requests start in turn. A 429 shuts a gate for a while and doubles the spacing between starts; each success shortens it
//! a little, so the rate settles just below what Calry allows, whatever that is. It knows no socket, only time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Observer;

/// The spacing after the first 429; below it, after successes, there is none.
const FIRST_SPACING: Duration = Duration::from_millis(50);
const WIDEST_SPACING: Duration = Duration::from_secs(2);

/// Without a `Retry-After`, the gate stays shut for this many spacings: 250 ms at first, 10 s at most.
const GATE_SPACINGS: u32 = 5;

/// A `Retry-After` shuts the gate for no longer than this: a mistaken one must not stop a workspace for a day.
const LONGEST_GATE: Duration = Duration::from_secs(5 * 60);

/// What each success leaves of the spacing: half is left after 34.
const DECAY: f64 = 0.98;

/// The pace of one workspace, shared by all of its requests.
#[derive(Debug)]
pub(super) struct Pace {
    /// Who holds it is next to start. tokio's mutex is fair: first come, first served.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    observer: Arc<dyn Observer>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::observed_by(Arc::new(()))
    }
}

#[derive(Debug, Default)]
struct State {
    spacing: Duration,
    last_start: Option<Instant>,
    shut_until: Option<Instant>,
    /// Whether the gate is shut because Calry asked for it, and not by our own judgement.
    asked: bool,
    last_slowed: Option<Instant>,
}

/// A request could not start in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// The gate stays shut for longer than the request may wait.
    Paused {
        /// For how long.
        wait: Duration,
        /// Whether Calry asked for it.
        asked: bool,
    },
    /// The deadline came while others went first.
    TooLate,
}

impl Pace {
    /// A pace that tells when it holds somebody back.
    pub(super) fn observed_by(observer: Arc<dyn Observer>) -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            observer,
        }
    }

    /// Waits for this request's turn and returns when it started.
    pub(super) async fn start(&self, deadline: Instant) -> Result<Instant, NoTurn> {
        self.turn(deadline, deadline).await
    }

    /// The same, but without waiting where the gate is shut.
    pub(super) async fn start_unless_paused(&self, deadline: Instant) -> Result<Instant, NoTurn> {
        self.turn(deadline, Instant::now()).await
    }

    /// Waits until `deadline` for others to go first, and at a gate only where it opens before `patience` ends.
    async fn turn(&self, deadline: Instant, patience: Instant) -> Result<Instant, NoTurn> {
        self.check_gate(patience)?;
        // A time limit that is over already still lets what is ready go first: it would send, and not wait for the answer.
        if Instant::now() >= deadline {
            return Err(NoTurn::TooLate);
        }
        timeout_at(deadline, async {
            let _turn = self.turn.lock().await;
            // Looked at again after each wait: the gate may have been shut meanwhile.
            loop {
                self.check_gate(patience)?;
                let now = Instant::now();
                let ready = {
                    let mut state = self.state();
                    let spaced = state.last_start.map(|last| last + state.spacing);
                    let ready = spaced.max(state.shut_until).unwrap_or(now);
                    if ready <= now {
                        state.last_start = Some(now);
                        return Ok(now);
                    }
                    // The gate's time was told of when it was shut.
                    self.tell(
                        ready.saturating_duration_since(state.shut_until.unwrap_or(now).max(now)),
                    );
                    ready
                };
                sleep_until(ready).await;
            }
        })
        .await
        .unwrap_or(Err(NoTurn::TooLate))
    }

    /// A request that started then was answered with 429.
    pub(super) fn slow_down(&self, started: Instant, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        // Several requests in flight hit the same limit: only the first of them doubles the spacing.
        if state.last_slowed.is_none_or(|at| started > at) {
            state.spacing = (state.spacing * 2).clamp(FIRST_SPACING, WIDEST_SPACING);
            state.last_slowed = Some(now);
        }
        let shut = retry_after
            .unwrap_or(state.spacing * GATE_SPACINGS)
            .min(LONGEST_GATE);
        let until = state.shut_until.unwrap_or(now).max(now);
        self.tell((now + shut).saturating_duration_since(until));
        if now + shut >= until {
            state.asked = retry_after.is_some();
        }
        state.shut_until = Some(until.max(now + shut));
        tracing::debug!(spacing = ?state.spacing, shut = ?shut, "Calry's rate limit is reached: slowing this workspace down");
    }

    /// Calry asked for a pause for another reason than the rate: nothing starts before it is over.
    pub(super) fn pause(&self, retry_after: Duration) {
        let now = Instant::now();
        let mut state = self.state();
        let wish = now + retry_after.min(LONGEST_GATE);
        if state.shut_until.is_none_or(|until| until <= wish) {
            (state.shut_until, state.asked) = (Some(wish), true);
        }
    }

    /// A request was served.
    pub(super) fn speed_up(&self) {
        let mut state = self.state();
        let spacing = state.spacing.mul_f64(DECAY);
        state.spacing = if spacing < FIRST_SPACING / 2 {
            Duration::ZERO
        } else {
            spacing
        };
    }

    fn tell(&self, pause: Duration) {
        if !pause.is_zero() {
            self.observer.held_back(pause);
        }
    }

    fn check_gate(&self, patience: Instant) -> Result<(), NoTurn> {
        let (now, state) = (Instant::now(), self.state());
        match state.shut_until {
            Some(until) if until >= patience && until > now => Err(NoTurn::Paused {
                wait: until.saturating_duration_since(now),
                asked: state.asked,
            }),
            _ => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn later(seconds: u32) -> Instant {
        Instant::now() + SECOND * seconds
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_while_nothing_is_refused() {
        let (pace, begin) = (Pace::default(), Instant::now());
        for _ in 0..1000 {
            pace.start(later(60)).await.unwrap();
            pace.speed_up();
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_holds_every_request_back() {
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

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<Duration>>);

    impl Observer for Told {
        fn requested(&self, _: &super::super::Exchange) {}
        fn retried(&self) {}
        fn held_back(&self, pause: Duration) {
            self.0.lock().push(pause);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_of_pauses_is_the_time_that_passes_in_them() {
        let told = Arc::new(Told::default());
        let (pace, begin) = (Pace::observed_by(Arc::clone(&told) as _), Instant::now());
        // A burst of refusals, the last of which asks for a second more.
        for wish in [3, 3, 1, 4] {
            pace.slow_down(begin, Some(SECOND * wish));
        }
        let starts = stream::iter(0..3)
            .map(|_| pace.start(later(60)))
            .buffered(3)
            .map(|at| at.unwrap() - begin);
        let starts: Vec<_> = starts.collect().await;
        let pauses = told.0.lock();
        assert_eq!(pauses[..2], [SECOND * 3, SECOND], "{pauses:?}");
        let sum: Duration = pauses.iter().sum();
        assert!(
            starts[2].abs_diff(sum) < Duration::from_millis(10),
            "{pauses:?} {starts:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_one_burst_count_once() {
        let pace = Pace::default();
        let started = Instant::now();
        for _ in 0..8 {
            pace.slow_down(started, None);
        }
        assert_eq!(pace.state().spacing, FIRST_SPACING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_beyond_the_deadline_fails_at_once_and_says_how_long() {
        let (pace, begin) = (Pace::default(), Instant::now());
        pace.slow_down(begin, Some(SECOND * 90));
        assert_eq!(
            pace.start(later(60)).await,
            Err(NoTurn::Paused {
                wait: SECOND * 90,
                asked: true
            })
        );
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_calry_did_not_ask_for_is_not_its_wish() {
        let (pace, begin) = (Pace::default(), Instant::now());
        let asked = async || match pace.start_unless_paused(later(60)).await {
            Err(NoTurn::Paused { asked, .. }) => Some(asked),
            _ => None,
        };
        pace.slow_down(begin, None);
        assert_eq!(asked().await, Some(false));
        pace.slow_down(begin, Some(SECOND * 3));
        assert_eq!(asked().await, Some(true));
        // A shorter pause of our own changes nothing.
        pace.slow_down(begin, None);
        assert_eq!(asked().await, Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_kept_and_slows_nothing_after_it() {
        let (pace, begin) = (Pace::default(), Instant::now());
        pace.pause(SECOND * 90);
        pace.pause(SECOND * 30);
        assert_eq!(
            pace.start(later(60)).await,
            Err(NoTurn::Paused {
                wait: SECOND * 90,
                asked: true
            })
        );
        for _ in 0..2 {
            pace.start(later(100)).await.unwrap();
            assert_eq!(begin.elapsed().as_secs(), 90);
        }
        pace.pause(SECOND * 86_400);
        assert_eq!(
            pace.start(later(60)).await,
            Err(NoTurn::Paused {
                wait: LONGEST_GATE,
                asked: true
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_wait_at_the_gate_learns_when_it_opens() {
        let pace = Pace::default();
        pace.slow_down(Instant::now(), Some(SECOND * 3));
        assert_eq!(
            pace.start_unless_paused(later(60)).await,
            Err(NoTurn::Paused {
                wait: SECOND * 3,
                asked: true
            })
        );
        sleep_until(later(3)).await;
        assert!(pace.start_unless_paused(later(60)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_mistaken_wait_does_not_stop_a_workspace_for_a_day() {
        let pace = Pace::default();
        pace.slow_down(Instant::now(), Some(SECOND * 86_400));
        assert_eq!(
            pace.start(later(60)).await,
            Err(NoTurn::Paused {
                wait: LONGEST_GATE,
                asked: true
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_outlasts_the_deadline_is_left() {
        let pace = Pace::default();
        pace.slow_down(Instant::now(), None);
        let late: Vec<_> = stream::iter(0..100)
            .map(|_| pace.start(later(1)))
            .buffered(100)
            .collect()
            .await;
        assert!(late.iter().any(Result::is_ok));
        assert_eq!(late.last(), Some(&Err(NoTurn::TooLate)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_starts_after_the_deadline() {
        assert_eq!(
            Pace::default().start(Instant::now()).await,
            Err(NoTurn::TooLate)
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
    async fn two_hundred_updates_settle_below_the_limit_without_a_storm() {
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
