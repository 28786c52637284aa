//! How fast one workspace asks: at full speed, until Calry says that it is too much.
//!
//! A 429 concerns everybody, not only the request that got it: the gate closes for all, and afterwards requests start one
//! after another, at a distance that grows with each further 429 and shrinks with each success.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The pace of one workspace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// No request starts before this.
    next: Option<Instant>,
    /// The distance between two starts; zero at full speed.
    distance: Duration,
    /// When the distance last grew: the answers to requests that were under way together count once.
    grown: Option<Instant>,
}

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

impl Pace {
    /// When a request may start, which takes the place.
    pub(super) fn place(&self) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.next.map_or(now, |next| next.max(now));
        state.next = Some(start + state.distance);
        start
    }

    /// Calry said 429.
    pub(super) fn slow_down(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.grown.is_none_or(|grown| now.duration_since(grown) >= state.distance.max(FIRST)) {
            state.distance = (state.distance * 2).clamp(FIRST, LONGEST);
            state.grown = Some(now);
        }
        let gate = now + retry_after.unwrap_or(state.distance).min(Duration::from_secs(300));
        state.next = Some(state.next.map_or(gate, |next| next.max(gate)));
    }

    /// Calry answered.
    pub(super) fn ease(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.distance = state.distance.mul_f64(0.95);
        if state.distance < Duration::from_millis(5) {
            state.distance = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_429_slows_every_request_down_and_success_brings_the_speed_back() {
        let pace = Pace::default();
        let now = Instant::now();
        assert_eq!((pace.place(), pace.place()), (now, now), "full speed");
        pace.slow_down(Some(Duration::from_secs(2)));
        assert_eq!(pace.place(), now + Duration::from_secs(2), "the gate is closed for everybody");
        assert_eq!(pace.place(), now + Duration::from_secs(2) + FIRST, "one after another");
        (0..100).for_each(|_| pace.ease());
        tokio::time::advance(Duration::from_secs(3)).await;
        let now = Instant::now();
        assert_eq!((pace.place(), pace.place()), (now, now), "full speed again");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_requests_that_were_under_way_together_count_once() {
        let pace = Pace::default();
        (0..8).for_each(|_| pace.slow_down(None));
        assert_eq!(pace.state.lock().unwrap().distance, FIRST);
        tokio::time::advance(Duration::from_millis(60)).await;
        pace.slow_down(None);
        assert_eq!(pace.state.lock().unwrap().distance, FIRST * 2);
    }
}
