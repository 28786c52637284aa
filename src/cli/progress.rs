//! What a person at a terminal sees of a command that waits: after a second without a line, what it waits for, which attempt
//! it is, and the time left.
//!
//! Never: draw while something else is printed. It disappears when nothing is waited for, and before a line of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use crate::live::{Attempt, Exchange, Observer, Operation};
use crate::model::human_duration;

/// For how long nothing was printed.
const SILENCE: Duration = Duration::from_secs(1);

/// Between two drawings.
const TICK: Duration = Duration::from_millis(200);

/// The line, for as long as this lives.
#[derive(Debug)]
pub(super) struct Progress {
    state: Arc<Mutex<State>>,
    drawing: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// What is waited for, by its words: which attempt it is, and when the last one ends.
    under_way: BTreeMap<String, (u32, Instant)>,
    /// Of how many updates how many are done.
    updates: Option<(usize, usize)>,
    silent_since: Instant,
    /// It is there while the line is.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Draws where a person watches; else it only keeps count.
    pub(super) fn new(watched: bool) -> Self {
        let (under_way, silent_since) = (BTreeMap::new(), Instant::now());
        let state = Arc::new(Mutex::new(State {
            under_way,
            updates: None,
            silent_since,
            bar: None,
        }));
        let drawing = watched.then(|| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let mut ticks = interval(TICK);
                loop {
                    ticks.tick().await;
                    state.lock().draw();
                }
            })
        });
        Self { state, drawing }
    }

    /// So many of so many updates are done.
    pub(super) fn updated(&self, done: usize, all: usize) {
        self.state.lock().updates = Some((done, all));
    }

    /// Something is waited for that no request of the API is.
    pub(super) fn begin(&self, operation: &Operation, number: u32, deadline: Instant) {
        let mut state = self.state.lock();
        if state.under_way.is_empty() {
            state.silent_since = Instant::now();
        }
        state
            .under_way
            .insert(operation.to_string(), (number, deadline));
    }

    /// It is over.
    pub(super) fn end(&self, operation: &Operation) {
        let mut state = self.state.lock();
        state.under_way.remove(&operation.to_string());
        if state.under_way.is_empty() {
            state.clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.drawing.iter().for_each(JoinHandle::abort);
        self.state.lock().clear();
    }
}

impl Observer for Progress {
    fn on_request(&self, _: &Exchange) {}
    fn on_retry(&self) {}
    fn on_pause(&self, _: Duration) {}

    fn on_attempt(&self, attempt: &Attempt<'_>) {
        self.begin(attempt.operation, attempt.number, attempt.deadline);
    }

    fn on_finish(&self, operation: &Operation) {
        self.end(operation);
    }

    fn before_log_line(&self) {
        self.state.lock().clear();
    }
}

impl State {
    fn clear(&mut self) {
        self.silent_since = Instant::now();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn draw(&mut self) {
        let Some(line) = self.line(Instant::now()) else {
            return;
        };
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(line);
        bar.tick();
    }

    /// What there is to see now.
    fn line(&self, now: Instant) -> Option<String> {
        // What began first is not known; the one with the most attempts is what it hangs on.
        let (what, (attempt, deadline)) = self
            .under_way
            .iter()
            .max_by_key(|(_, (attempt, _))| *attempt)?;
        if now.duration_since(self.silent_since) < SILENCE {
            return None;
        }
        let more = match self.under_way.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let left = Duration::from_secs(deadline.saturating_duration_since(now).as_secs());
        let done = self
            .updates
            .map(|(done, all)| format!(", {done} of {all} updated"))
            .unwrap_or_default();
        Some(format!(
            "waiting to {what}{more}: attempt {attempt}, {} left{done}",
            human_duration(left)
        ))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::model::Provider;

    #[tokio::test(start_paused = true)]
    async fn it_shows_a_line_after_a_second_of_silence_until_every_call_has_ended() {
        let progress = Progress::new(false);
        let line = || progress.state.lock().line(Instant::now());
        let deadline = Instant::now() + Duration::from_secs(60);
        let attempt = |number| {
            progress.on_attempt(&Attempt {
                operation: &Operation::Workspace,
                number,
                deadline,
            })
        };
        attempt(1);
        advance(Duration::from_millis(900)).await;
        assert_eq!(line(), None);
        advance(Duration::from_millis(100)).await;
        assert_eq!(
            line().as_deref(),
            Some("waiting to read the workspace: attempt 1, 59s left")
        );
        progress.before_log_line();
        attempt(2);
        assert_eq!(line(), None);
        advance(SILENCE).await;
        let update = Operation::Update(Provider::parse("HOSTAWAY").unwrap());
        progress.on_attempt(&Attempt {
            operation: &update,
            number: 1,
            deadline,
        });
        progress.updated(1, 3);
        assert_eq!(
            line().as_deref(),
            Some("waiting to read the workspace and 1 more: attempt 2, 58s left, 1 of 3 updated")
        );
        progress.on_finish(&Operation::Workspace);
        progress.on_finish(&update);
        assert_eq!(line(), None);
    }
}
