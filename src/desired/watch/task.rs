//! The watch task: decides when to scan, and when a directory has settled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::dir_state::DirState;
use super::inbox::{Hint, Inbox};
use super::scanner::{Scanner, Target};
use super::{FoundBy, SettledDir, WatchOptions};

/// Scans take at most this share of the time (one part in N), so that even ten thousand files cost next to nothing.
const SCAN_SHARE: u32 = 500;
/// The share while the directory is settling.
const SETTLING_SHARE: u32 = 10;
/// The longest time between scans, whatever a scan costs.
const MAX_POLL: Duration = Duration::from_secs(60);

pub(super) struct WatchTask {
    scanner: Scanner,
    options: WatchOptions,
    inbox: Arc<Inbox>,
    publisher: watch::Sender<Option<SettledDir>>,
    requests: Vec<oneshot::Sender<SettledDir>>,
    last_state: Option<DirState>,
    /// The end of the last scan, plus a pause in proportion to its cost.
    last_scan: Instant,
    next_poll: Instant,
    settling: Option<Settling>,
    /// The files written less than `quiet` ago.
    busy_files: BTreeMap<OsString, BusyFile>,
}

#[derive(Clone, Copy)]
struct BusyFile {
    since: Instant,
    last_write: Instant,
}

/// The directory has changed and not settled yet.
#[derive(Clone, Copy)]
struct Settling {
    since: Instant,
    last_write: Instant,
    found_by: FoundBy,
}

impl Settling {
    const fn begin(now: Instant, found_by: FoundBy) -> Self {
        Self {
            since: now,
            last_write: now,
            found_by,
        }
    }

    /// The time of the last write, from a scan at `now`: whether it found a change, and the age of the youngest file.
    fn last_write(&self, now: Instant, changed: bool, youngest: Option<Duration>) -> Instant {
        match (youngest, self.found_by) {
            (Some(age), _) => now.checked_sub(age).unwrap_or(now).max(self.last_write),
            // Without events, and with a file server whose clock may be wrong, only two equal scans prove that nothing is
            // being written.
            (None, FoundBy::Poll) if changed => now,
            (None, _) => self.last_write,
        }
    }
}

impl WatchTask {
    pub(super) fn new(
        target: Target,
        options: WatchOptions,
        inbox: Arc<Inbox>,
        publisher: watch::Sender<Option<SettledDir>>,
    ) -> Self {
        let events = options.events.then(|| Arc::clone(&inbox));
        let now = Instant::now();
        Self {
            scanner: Scanner::new(target, events, Arc::clone(&options.counts)),
            options,
            inbox,
            publisher,
            requests: Vec::new(),
            last_state: None,
            last_scan: now,
            next_poll: now,
            settling: None,
            busy_files: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let deadline = match self.settling {
                None => self.next_poll,
                // A file that is written all the time must not keep the others from being scanned.
                Some(settling) => (settling.last_write.min(self.last_scan) + self.options.quiet)
                    .min(settling.since + self.options.patience),
            };
            let messages = self.inbox.wait(deadline).await;
            if messages.closed {
                return;
            }
            let now = Instant::now();
            let requested = !messages.requests.is_empty() && self.settling.is_none();
            self.requests.extend(messages.requests);
            if let Some(hint) = messages.hint {
                if hint == Hint::Path {
                    self.scanner.resubscribe();
                }
                if self.settling.is_none() {
                    self.last_scan = now;
                }
                self.settling = Some(Settling {
                    since: self.settling.map_or(now, |settling| settling.since),
                    ..Settling::begin(now, FoundBy::Event)
                });
            }
            if self.settling.is_none() && !requested && now >= deadline {
                self.options.counts.polls.fetch_add(1, Ordering::Relaxed);
            }
            if now >= deadline || requested {
                let scan = tokio::task::spawn_blocking(move || {
                    self.scan(now);
                    self
                });
                // An error means that the scan panicked, or that the runtime is shutting down.
                let Ok(task) = scan.await else { return };
                self = task;
            }
        }
    }

    /// Scans, and publishes the state if the directory has settled.
    fn scan(&mut self, now: Instant) {
        let quiet = self.options.quiet;
        // Without an event, only the file system's own answer shows that nothing is being written.
        let revalidate = !self.requests.is_empty()
            || self
                .settling
                .is_some_and(|settling| settling.found_by == FoundBy::Poll);
        let scan = self.scanner.scan(revalidate);
        let (state, duration) = (scan.state, scan.duration);
        let pause = (duration * SCAN_SHARE).min(MAX_POLL);
        self.next_poll = Instant::now() + self.options.poll.max(pause);
        self.last_scan = Instant::now() + duration * SETTLING_SHARE;
        let changed = self.last_state.as_ref() != Some(&state);
        let youngest = state.youngest_age(quiet);
        self.track_writes(&state, now);
        self.last_state = Some(state.clone());

        let Some(settling) = self.settling else {
            if changed || youngest.is_some() {
                self.settling = Some(Settling::begin(now, FoundBy::Poll));
            } else if !self.requests.is_empty() {
                self.publish(state, FoundBy::Poll, Vec::new());
            }
            return;
        };
        let last_write = settling.last_write(now, changed, youngest);
        if last_write + quiet <= now {
            self.settling = None;
            self.busy_files.clear();
            self.publish(state, settling.found_by, Vec::new());
        } else if settling.since + self.options.patience <= now {
            self.stop_waiting(&state, settling.found_by);
        } else {
            self.settling = Some(Settling {
                last_write,
                ..settling
            });
            let file_patience = self.options.file_patience;
            let endless = |file: &BusyFile| file.since + file_patience <= now;
            if !self.busy_files.is_empty() && self.busy_files.values().all(endless) {
                let busy = self.busy_files.keys().cloned().collect();
                self.publish_without(&busy, &state, settling.found_by);
            }
        }
    }

    /// Updates the busy files from a scan.
    fn track_writes(&mut self, state: &DirState, now: Instant) {
        let quiet = self.options.quiet;
        let before = self.last_state.as_ref().unwrap_or(state);
        let mut written = state.written_since(before, quiet);
        written.extend(state.removed_since(before).cloned());
        self.busy_files
            .retain(|name, file| written.contains(name) || file.last_write + quiet > now);
        for name in written {
            let first = BusyFile {
                since: now,
                last_write: now,
            };
            self.busy_files.entry(name).or_insert(first).last_write = now;
        }
    }

    /// Publishes the state without the files that are still being written, and goes on waiting for those.
    fn stop_waiting(&mut self, before: &DirState, found_by: FoundBy) {
        std::thread::sleep(self.options.quiet);
        let state = self.scanner.scan(true).state;
        let busy = state.written_since(before, self.options.quiet);
        let now = Instant::now();
        self.last_state = Some(state.clone());
        self.settling = Some(Settling::begin(now, found_by));
        // The next request need not wait for these files again.
        let since = now.checked_sub(self.options.file_patience).unwrap_or(now);
        let file = BusyFile {
            since,
            last_write: now,
        };
        self.busy_files = busy.iter().map(|name| (name.clone(), file)).collect();
        self.publish_without(&busy, &state, found_by);
    }

    /// Publishes the state without the busy files, unless it is already published and no request waits for it.
    fn publish_without(&mut self, busy: &BTreeSet<OsString>, state: &DirState, found_by: FoundBy) {
        let state = state.with_unsettled(busy);
        let published = self
            .publisher
            .borrow()
            .as_ref()
            .is_some_and(|settled| settled.state == state);
        if !published || !self.requests.is_empty() {
            let unsettled = busy
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            self.publish(state, found_by, unsettled);
        }
    }

    fn publish(&mut self, state: DirState, found_by: FoundBy, unsettled: Vec<String>) {
        let settled = SettledDir {
            state,
            found_by,
            unsettled,
        };
        // Published before requests are answered: a caller that has its answer must not find an older state here.
        self.publisher.send_replace(Some(settled.clone()));
        for request in self.requests.drain(..) {
            // The caller may have stopped waiting.
            let _ = request.send(settled.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGO: Duration = Duration::from_millis(100);

    fn settling(now: Instant, found_by: FoundBy) -> Settling {
        Settling {
            since: now - 3 * AGO,
            last_write: now - 2 * AGO,
            found_by,
        }
    }

    #[test]
    fn without_events_only_two_equal_scans_prove_that_nothing_is_written() {
        let now = Instant::now();
        let by_poll = settling(now, FoundBy::Poll);
        assert_eq!(by_poll.last_write(now, true, None), now);
        assert_eq!(by_poll.last_write(now, false, None), now - 2 * AGO);
        let by_event = settling(now, FoundBy::Event);
        assert_eq!(by_event.last_write(now, true, None), now - 2 * AGO);
    }

    #[test]
    fn the_age_of_a_file_can_only_prolong_the_wait() {
        let now = Instant::now();
        let settling = settling(now, FoundBy::Event);
        assert_eq!(settling.last_write(now, true, Some(AGO)), now - AGO);
        assert_eq!(settling.last_write(now, true, Some(3 * AGO)), now - 2 * AGO);
    }
}
