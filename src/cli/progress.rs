//! The progress line of a command that waits: after a second without output it shows the operation, the attempt and the time
//! left.
//!
//! Never: draw while something else is printed. It disappears at the end of the operation, and before a line of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use crate::live::{Attempt, Observer, Operation};
use crate::model::human_duration;

/// The time without output before the line appears.
const SILENCE: Duration = Duration::from_secs(1);

/// The interval of drawing.
const TICK: Duration = Duration::from_millis(200);

/// The progress line; it disappears when this is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    state: Arc<Mutex<ProgressState>>,
    drawing: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct ProgressState {
    /// Each operation in progress, with its attempt and the end of the last attempt.
    in_progress: BTreeMap<String, (u32, Instant)>,
    /// The number of completed updates, and of all.
    updates: Option<(usize, usize)>,
    silent_since: Instant,
    /// It exists while the line is visible.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Draws if a user watches; else it only counts.
    pub(super) fn new(watched: bool) -> Self {
        let (in_progress, silent_since) = (BTreeMap::new(), Instant::now());
        let state = Arc::new(Mutex::new(ProgressState {
            in_progress,
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

    pub(super) fn updated(&self, done: usize, all: usize) {
        self.state.lock().updates = Some((done, all));
    }

    /// An operation begins.
    pub(super) fn begin(&self, operation: &Operation, number: u32, deadline: Instant) {
        let mut state = self.state.lock();
        if state.in_progress.is_empty() {
            state.silent_since = Instant::now();
        }
        state
            .in_progress
            .insert(operation.to_string(), (number, deadline));
    }

    pub(super) fn end(&self, operation: &Operation) {
        let mut state = self.state.lock();
        state.in_progress.remove(&operation.to_string());
        if state.in_progress.is_empty() {
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

impl ProgressState {
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

    /// The line, if it is visible now.
    fn line(&self, now: Instant) -> Option<String> {
        // The operation with the most attempts is the one that delays the others.
        let (what, (attempt, deadline)) = self
            .in_progress
            .iter()
            .max_by_key(|(_, (attempt, _))| *attempt)?;
        if now.duration_since(self.silent_since) < SILENCE {
            return None;
        }
        let more = match self.in_progress.len() - 1 {
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
    async fn it_is_visible_after_a_second_without_output_and_while_an_operation_is_in_progress() {
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
