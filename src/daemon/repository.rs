//! Fetches a repository for all of its workspaces: at its interval, after a push, and again after a failure.
//!
//! Requests during a fetch count as one and cause another fetch. A push whose commit the server does not show yet is
//! looked for again for a few seconds, because hosts announce a push before all of their servers have it.
//!
//! Never: run two fetches of one repository at once, ask before the time that a server has set, or change anything but
//! the clone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;

use super::pause::{growing, spread};
use super::publisher::{after, now};
use crate::desired::git::{FetchError, FetchedCommit, Remote};
use crate::model::{FetchFailure, SPANS, human_duration, short_commit};
use crate::report::status::{RepositoryFailure, RepositoryStatus};

/// The pauses between the fetches that look for an announced commit.
const ANNOUNCED: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
    Duration::from_millis(2000),
];

/// The first pause after a failed fetch. It doubles with each failure, up to [`super::LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A push that a hook reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// The full id of the commit that the reference names now, if it is known.
    pub commit: Option<String>,
    /// The host's id of the delivery. Untrusted text.
    pub delivery: Option<String>,
}

/// A repository and the task that fetches it. Its workspaces share it.
#[derive(Debug)]
pub struct Repository {
    remote: Arc<Remote>,
    /// The shortest interval of its workspaces.
    interval: Mutex<Duration>,
    state: watch::Sender<Arc<RepositoryState>>,
    pushed: Mutex<Option<Push>>,
    notify: Notify,
    /// How many fetches were waited for.
    awaited: AtomicU64,
}

/// The state after the last fetch.
#[derive(Clone, Debug, Default)]
pub struct RepositoryState {
    pub status: RepositoryStatus,
    /// The commit in force.
    pub commit: Option<Arc<FetchedCommit>>,
    /// The push by which that commit was found, if a hook reported it.
    pub push: Option<Push>,
    /// Whether a fetch has ended.
    pub is_tried: bool,
    /// How many fetches were waited for when the last one began.
    served: u64,
    pub counters: FetchCounters,
    /// The kinds of failures since the last success. Each is logged once, also if they alternate.
    logged: BTreeSet<FetchFailure>,
}

/// Numbers since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct FetchCounters {
    pub succeeded: u64,
    pub failed: BTreeMap<FetchFailure, u64>,
    /// The time that all fetches took.
    pub duration: Duration,
}

impl Repository {
    #[must_use]
    pub fn new(remote: Arc<Remote>, interval: Duration) -> Self {
        let status = RepositoryStatus {
            url: remote.url().to_string(),
            reference: remote.reference().to_string(),
            ..RepositoryStatus::default()
        };
        let state = RepositoryState {
            status,
            ..RepositoryState::default()
        };
        Self {
            remote,
            interval: Mutex::new(interval),
            state: watch::Sender::new(Arc::new(state)),
            pushed: Mutex::default(),
            notify: Notify::new(),
            awaited: AtomicU64::default(),
        }
    }

    #[must_use]
    pub const fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    #[must_use]
    pub fn state(&self) -> Arc<RepositoryState> {
        Arc::clone(&self.state.borrow())
    }

    #[must_use]
    pub fn interval(&self) -> Duration {
        *self.interval.lock()
    }

    /// Adds a workspace whose commits are asked for so often.
    pub fn share(&self, interval: Duration) {
        let mut shortest = self.interval.lock();
        *shortest = interval.min(*shortest);
    }

    /// Changes with each fetch.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RepositoryState>> {
        self.state.subscribe()
    }

    /// Whether a push to a reference, by its full name, can change the commit.
    #[must_use]
    pub fn is_moved_by(&self, pushed: &str) -> bool {
        let commit = self.state.borrow().commit.clone();
        let known = commit.as_ref().and_then(|it| it.reference.as_deref());
        self.remote.reference().is_moved_by(pushed, known)
    }

    /// Requests a fetch. If one is running, another one follows.
    pub fn request(&self, push: Push) {
        *self.pushed.lock() = Some(push);
        self.notify.notify_one();
    }

    /// Waits until a fetch that began after this call has ended, successful or not, for `at_most`.
    pub async fn refresh(&self, at_most: Duration) {
        let number = self.awaited.fetch_add(1, Ordering::SeqCst) + 1;
        self.notify.notify_one();
        let mut state = self.subscribe();
        let _ = timeout(at_most, state.wait_for(|state| state.served >= number)).await;
    }

    /// Fetches until `stop` is cancelled.
    pub async fn run(&self, stop: &CancellationToken) {
        self.restore().await;
        let mut failures = 0_u32;
        let mut announced = Announced::default();
        loop {
            if let Some(push) = self.pushed.lock().take() {
                announced = Announced::new(push, self.commit_id());
            }
            let pause = match self.fetch(announced.push.as_ref(), stop).await {
                Ok(()) => {
                    failures = 0;
                    announced
                        .next_pause(self.commit_id())
                        .unwrap_or_else(|| spread(self.interval()))
                }
                Err(asked) => {
                    failures = failures.saturating_add(1);
                    spread(growing(FIRST_PAUSE, failures)).max(asked.unwrap_or_default())
                }
            };
            // A hook must not break a rate limit.
            let earliest = match failures {
                0 => Duration::ZERO,
                _ => pause.min(FIRST_PAUSE).max(self.asked_pause()),
            };
            self.publish(|state| {
                state.status.next_fetch = after(now(), pause);
            });
            let began = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.notify.notified() => {}
                () = self.remote.damaged() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(began + earliest) => {}
            }
        }
    }

    /// Fetches once, for a command.
    pub async fn run_once(&self, stop: &CancellationToken) {
        self.restore().await;
        // A failure is in the state, and in the result of each reconciliation.
        let _ = self.fetch(None, stop).await;
    }

    /// Puts the commit of an earlier process into force.
    async fn restore(&self) {
        let remote = Arc::clone(&self.remote);
        if tokio::task::spawn_blocking(move || remote.restore())
            .await
            .is_ok()
        {
            self.publish(|state| learn_commit(state, self.remote.current(), None));
        }
    }

    fn commit_id(&self) -> Option<String> {
        let state = self.state.borrow();
        state.commit.as_ref().map(|commit| commit.id())
    }

    /// The pause that the server asked for after the last fetch.
    fn asked_pause(&self) -> Duration {
        let state = self.state.borrow();
        let failure = state.status.failure.as_ref();
        let until = failure.and_then(|failure| failure.retry_after);
        until.map_or(Duration::ZERO, |until| {
            Duration::try_from(Timestamp::now().until(until).unwrap_or_default())
                .unwrap_or_default()
        })
    }

    /// # Errors
    /// The pause that the server asks for, after a failure.
    async fn fetch(
        &self,
        push: Option<&Push>,
        stop: &CancellationToken,
    ) -> Result<(), Option<Duration>> {
        let (remote, runtime, stop) = (Arc::clone(&self.remote), Runtime::current(), stop.clone());
        let span = tracing::info_span!(
            target: SPANS,
            "fetch",
            repository = %self.remote.url(),
            reference = %self.remote.reference(),
            result = Empty,
            commit = Empty,
            otel.status_code = Empty,
        );
        let awaited = self.awaited.load(Ordering::SeqCst);
        let began = Instant::now();
        let fetching = tokio::task::spawn_blocking(move || remote.fetch(&runtime, &stop));
        // The message of a panic may quote a secret; the panic hook has logged its place.
        let fetched = fetching.await.unwrap_or(Err(FetchError::Internal));
        let took = began.elapsed();
        if matches!(fetched, Err(FetchError::Stopped)) {
            return Err(None);
        }
        span.record("result", result_of(&fetched));
        if fetched.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        let state = self.state();
        let url = &state.status.url;
        match &fetched {
            Ok(None) => {}
            Ok(Some(commit)) => {
                span.record("commit", commit.id());
                let (id, name) = (commit.id(), commit.reference.as_deref().unwrap_or("commit"));
                let delivery = push.and_then(|push| push.delivery.as_deref());
                tracing::info!(
                    repository = url,
                    commit = id,
                    delivery,
                    "fetched {} ({name}) of {url} in {}",
                    short_commit(&id),
                    human_duration(took)
                );
            }
            Err(error) => {
                if !state.logged.contains(&error.kind()) {
                    let kind = error.kind().as_str();
                    tracing::error!(
                        repository = url,
                        kind,
                        "cannot fetch {url}: {error}; {}",
                        in_force(&state)
                    );
                }
            }
        }
        if fetched.is_ok() && state.status.failure.is_some() {
            tracing::info!(repository = url, "{url} can be fetched again");
        }
        self.publish(|state| {
            state.is_tried = true;
            state.served = awaited;
            state.counters.duration += took;
            match &fetched {
                Ok(commit) => {
                    state.counters.succeeded += 1;
                    state.logged.clear();
                    state.status.failure = None;
                    state.status.last_success = Some(now());
                    if commit.is_some() {
                        learn_commit(state, commit.clone(), push.cloned());
                    } else if state.commit.is_none() {
                        // The clone of an earlier process could not be opened before.
                        learn_commit(state, self.remote.current(), None);
                    }
                }
                Err(error) => {
                    *state.counters.failed.entry(error.kind()).or_default() += 1;
                    state.logged.insert(error.kind());
                    state.status.failure = Some(failure(error, state.status.failure.as_ref()));
                }
            }
        });
        fetched.map(drop).map_err(|error| error.retry_after())
    }

    fn publish(&self, change: impl FnOnce(&mut RepositoryState)) {
        self.state.send_modify(|state| change(Arc::make_mut(state)));
    }
}

/// The value of a metric's label and of a span's attribute.
fn result_of<T>(fetched: &Result<T, FetchError>) -> &'static str {
    match fetched {
        Ok(_) => "success",
        Err(error) => error.kind().as_str(),
    }
}

fn in_force(state: &RepositoryState) -> String {
    match &state.commit {
        Some(commit) => format!("commit {} stays in force", short_commit(&commit.id())),
        None => "nothing is planned".to_owned(),
    }
}

fn learn_commit(
    state: &mut RepositoryState,
    commit: Option<Arc<FetchedCommit>>,
    push: Option<Push>,
) {
    let Some(commit) = commit else { return };
    if let Some(reference) = &commit.reference {
        state.status.reference.clone_from(reference);
    }
    state.status.commit = Some(commit.id());
    state.status.commit_fetched = Some(commit.fetched);
    state.push = push;
    state.commit = Some(commit);
}

fn failure(error: &FetchError, before: Option<&RepositoryFailure>) -> RepositoryFailure {
    let now = now();
    RepositoryFailure {
        kind: error.kind(),
        message: error.to_string(),
        since: before.map_or(now, |before| before.since),
        times: before.map_or(0, |before| before.times) + 1,
        retry_after: error.retry_after().and_then(|wait| after(now, wait)),
    }
}

/// A push that is being looked for.
#[derive(Debug, Default)]
struct Announced {
    push: Option<Push>,
    /// The commit in force when the hook arrived.
    before: Option<String>,
    attempts: usize,
}

impl Announced {
    const fn new(push: Push, before: Option<String>) -> Self {
        Self {
            push: Some(push),
            before,
            attempts: 0,
        }
    }

    /// The pause until the next look for the announced commit. There is none once the reference has moved, because later
    /// pushes may have followed.
    fn next_pause(&mut self, current: Option<String>) -> Option<Duration> {
        let wanted = self.push.as_ref().and_then(|push| push.commit.as_ref());
        let is_missing =
            wanted.is_some_and(|wanted| current.as_ref() != Some(wanted) && current == self.before);
        let pause = ANNOUNCED.get(self.attempts).filter(|_| is_missing);
        self.attempts += 1;
        if pause.is_none() {
            self.push = None;
        }
        pause.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_commit_is_looked_for_until_the_reference_moves_or_some_seconds_have_passed() {
        let push = |commit: Option<&str>| Push {
            commit: commit.map(str::to_owned),
            delivery: None,
        };
        let id = |text: &str| Some(text.to_owned());
        let mut announced = Announced::new(push(Some("b")), id("a"));
        assert_eq!(announced.next_pause(id("a")), Some(ANNOUNCED[0]));
        assert_eq!(announced.next_pause(id("a")), Some(ANNOUNCED[1]));
        assert_eq!(announced.next_pause(id("b")), None);
        let mut announced = Announced::new(push(Some("b")), id("a"));
        assert_eq!(announced.next_pause(id("c")), None, "a later push");
        let mut announced = Announced::new(push(None), id("a"));
        assert_eq!(announced.next_pause(id("a")), None, "an unknown commit");
        let mut announced = Announced::new(push(Some("b")), id("a"));
        let pauses = std::iter::from_fn(|| announced.next_pause(id("a")));
        assert_eq!(pauses.count(), ANNOUNCED.len());
        assert_eq!(announced.push, None);
    }
}
