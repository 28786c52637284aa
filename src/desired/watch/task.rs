//! The watch task: decides when to scan, and when a directory has settled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::dir_state::DirState;
use super::inbox::{Hint, Inbox, Messages};
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
            let deadline = self.deadline();
            let messages = self.inbox.wait(deadline).await;
            if messages.closed {
                return;
            }
            let now = Instant::now();
            if self.receive(messages, now, deadline) {
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

    /// The time of the next scan if no message comes before.
    fn deadline(&self) -> Instant {
        match self.settling {
            None => self.next_poll,
            // A file that is written all the time must not keep the others from being scanned.
            Some(settling) => (settling.last_write.min(self.last_scan) + self.options.quiet)
                .min(settling.since + self.options.patience),
        }
    }

    /// Takes messages over. Returns whether to scan now.
    fn receive(&mut self, messages: Messages, now: Instant, deadline: Instant) -> bool {
        let requested = !messages.requests.is_empty() && self.settling.is_none();
        self.requests.extend(messages.requests);
        let mut hint = messages.hint;
        if let (Some(new), Target::Definitions { shared, .. }) =
            (messages.shared, &mut self.scanner.target)
        {
            *shared = new;
            hint = Some(Hint::Path);
        }
        if let Some(hint) = hint {
            if hint == Hint::Path {
                self.scanner.resubscribe = true;
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
        now >= deadline || requested
    }

    fn scan(&mut self, now: Instant) {
        let scan = self.scanner.scan(self.must_revalidate());
        self.judge(scan.state, scan.duration, now);
    }

    /// Without an event, only the file system's own answer shows that nothing is being written.
    fn must_revalidate(&self) -> bool {
        !self.requests.is_empty()
            || self
                .settling
                .is_some_and(|settling| settling.found_by == FoundBy::Poll)
    }

    /// Publishes the state of a scan at `now` if the directory has settled.
    fn judge(&mut self, state: DirState, duration: Duration, now: Instant) {
        let quiet = self.options.quiet;
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
    use std::fs;

    use super::super::dir_state::{FileStamp, Listing};
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

    const QUIET: Duration = Duration::from_secs(10);
    const POLL: Duration = Duration::from_secs(2);
    const MOMENT: Duration = Duration::from_millis(1);
    const FILE_PATIENCE: Duration = Duration::from_secs(30);

    /// A watch task whose scans are made up, at times that are made up. It has seen `files`.
    struct Scans {
        task: WatchTask,
        settled: watch::Receiver<Option<SettledDir>>,
        start: Instant,
    }

    impl Scans {
        fn with(target: Target, options: WatchOptions, files: &[(&str, u64)]) -> Self {
            let (publisher, settled) = watch::channel(None);
            let mut task = WatchTask::new(target, options, Arc::default(), publisher);
            task.last_state = Some(state(files));
            Self {
                task,
                settled,
                start: Instant::now(),
            }
        }

        fn of(files: &[(&str, u64)]) -> Self {
            let target = Target::Files {
                file: None,
                directory: None,
            };
            let options = WatchOptions {
                quiet: QUIET,
                poll: POLL,
                patience: 100 * QUIET,
                file_patience: FILE_PATIENCE,
                events: false,
                counts: Arc::default(),
            };
            Self::with(target, options, files)
        }

        fn judge(&mut self, at: Duration, files: &[(&str, u64)]) {
            let now = self.start + at;
            self.task.judge(state(files), Duration::ZERO, now);
        }

        /// The unsettled files of what was published since the last call.
        fn published(&mut self) -> Option<Vec<String>> {
            let is_new = self.settled.has_changed().unwrap();
            let settled = self.settled.borrow_and_update().clone();
            is_new.then(|| settled.unwrap().unsettled)
        }

        fn request(&mut self) -> oneshot::Receiver<SettledDir> {
            let (request, answer) = oneshot::channel();
            self.task.requests.push(request);
            answer
        }

        fn hint(&mut self, hint: Hint, at: Duration) -> bool {
            let messages = Messages {
                hint: Some(hint),
                ..Messages::default()
            };
            let deadline = self.task.deadline();
            self.task.receive(messages, self.start + at, deadline)
        }
    }

    /// Files with their sizes, written so long ago that only a scan shows a change.
    fn state(files: &[(&str, u64)]) -> DirState {
        let stamp = |size| FileStamp::File {
            inode: (0, 0),
            size,
            modified: (0, 0),
            changed: (0, 0),
        };
        let files = files
            .iter()
            .map(|(name, size)| (OsString::from(name), stamp(*size)));
        DirState::new(Ok(Listing {
            files: files.collect(),
            ..Listing::default()
        }))
    }

    #[test]
    fn a_change_is_published_once_when_two_scans_that_far_apart_are_equal() {
        let mut scans = Scans::of(&[("a", 1)]);
        scans.judge(Duration::ZERO, &[("a", 1)]);
        assert_eq!(scans.published(), None);
        scans.judge(POLL, &[("a", 2)]);
        scans.judge(POLL + MOMENT, &[("a", 3)]);
        scans.judge(POLL + QUIET, &[("a", 3)]);
        assert_eq!(scans.published(), None);
        scans.judge(POLL + MOMENT + QUIET, &[("a", 3)]);
        assert_eq!(scans.published(), Some(Vec::new()));
        scans.judge(POLL + 2 * QUIET, &[("a", 3)]);
        assert_eq!(scans.published(), None);
    }

    #[test]
    fn a_request_is_answered_at_once_if_nothing_is_written() {
        let mut scans = Scans::of(&[("a", 1)]);
        let mut answer = scans.request();
        assert!(scans.task.must_revalidate());
        scans.judge(Duration::ZERO, &[("a", 1)]);
        assert_eq!(answer.try_recv().unwrap().state, state(&[("a", 1)]));
        assert!(!scans.task.must_revalidate());
    }

    #[test]
    fn a_request_during_a_change_is_answered_when_the_directory_has_settled() {
        let mut scans = Scans::of(&[("a", 1)]);
        let mut answer = scans.request();
        scans.judge(Duration::ZERO, &[("a", 2)]);
        assert!(answer.try_recv().is_err());
        scans.judge(QUIET, &[("a", 2)]);
        assert_eq!(answer.try_recv().unwrap().state, state(&[("a", 2)]));
    }

    #[test]
    fn a_change_without_an_event_is_compared_with_the_file_systems_own_answer() {
        let mut scans = Scans::of(&[("a", 1)]);
        scans.judge(Duration::ZERO, &[("a", 2)]);
        assert!(scans.task.must_revalidate());
        scans.judge(QUIET, &[("a", 2)]);
        assert!(!scans.task.must_revalidate());
        scans.hint(Hint::File, QUIET);
        assert!(!scans.task.must_revalidate());
    }

    #[test]
    fn a_file_that_is_written_without_end_is_left_out_after_its_patience() {
        let mut scans = Scans::of(&[("endless", 0), ("other", 1)]);
        let (step, mut size) = (Duration::from_secs(3), 0);
        let mut at = Duration::ZERO;
        // Pauses shorter than `quiet` do not end the writing.
        while at < FILE_PATIENCE {
            size += u64::from(at.as_secs().is_multiple_of(9));
            scans.judge(at, &[("endless", size), ("other", 1)]);
            assert_eq!(scans.published(), None, "{at:?}");
            at += step;
        }
        let endless = Some(vec!["endless".to_owned()]);
        scans.judge(FILE_PATIENCE, &[("endless", 99), ("other", 1)]);
        assert_eq!(scans.published(), endless);
        // The same news again only for a request.
        scans.judge(FILE_PATIENCE + MOMENT, &[("endless", 100), ("other", 1)]);
        assert_eq!(scans.published(), None);
        let mut answer = scans.request();
        scans.judge(FILE_PATIENCE + step, &[("endless", 101), ("other", 1)]);
        assert_eq!(Some(answer.try_recv().unwrap().unsettled), endless);
        // When the writing ends, that is another change.
        scans.published();
        scans.judge(
            FILE_PATIENCE + step + QUIET,
            &[("endless", 101), ("other", 1)],
        );
        assert_eq!(scans.published(), Some(Vec::new()));
        assert!(scans.task.busy_files.is_empty());
    }

    #[test]
    fn no_file_is_left_out_while_another_has_just_been_written_or_removed() {
        let mut scans = Scans::of(&[("endless", 0), ("gone", 1), ("late", 1)]);
        let late = FILE_PATIENCE - MOMENT;
        for seconds in 0..30 {
            let files = [("endless", seconds + 1), ("gone", 1), ("late", 1)];
            scans.judge(Duration::from_secs(seconds), &files);
        }
        scans.judge(late, &[("endless", 100), ("late", 2)]);
        let mut size = 100;
        let mut until = |scans: &mut Scans, at| {
            size += 1;
            scans.judge(at, &[("endless", size), ("late", 2)]);
            scans.published()
        };
        assert_eq!(until(&mut scans, FILE_PATIENCE), None);
        let busy: Vec<_> = scans.task.busy_files.keys().collect();
        assert_eq!(busy, ["endless", "gone", "late"]);
        assert_eq!(until(&mut scans, late + QUIET - MOMENT), None);
        let endless = Some(vec!["endless".to_owned()]);
        assert_eq!(until(&mut scans, late + QUIET), endless);
    }

    #[test]
    fn when_patience_ends_the_files_still_written_are_named_and_no_request_waits_for_them_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "").unwrap();
        let options = WatchOptions {
            quiet: MOMENT,
            poll: POLL,
            patience: 10 * MOMENT,
            file_patience: 100 * MOMENT,
            events: false,
            counts: Arc::default(),
        };
        let target = Target::Definitions {
            directory: dir.path().to_owned(),
            shared: None,
        };
        let mut scans = Scans::with(target, options, &[("a.yaml", 1)]);
        for moment in 0..10 {
            scans.judge(moment * MOMENT, &[("a.yaml", 2 + u64::from(moment))]);
            assert_eq!(scans.published(), None);
        }
        let unsettled = vec!["a.yaml".to_owned()];
        scans.judge(10 * MOMENT, &[("a.yaml", 20)]);
        assert_eq!(scans.published().as_ref(), Some(&unsettled));

        let mut answer = scans.request();
        scans.start = Instant::now();
        scans.judge(Duration::ZERO, &[("a.yaml", 21)]);
        assert_eq!(answer.try_recv().unwrap().unsettled, unsettled);
    }

    #[test]
    fn expensive_scans_are_less_frequent_up_to_a_limit() {
        for (scan, pause) in [
            (Duration::from_micros(1), POLL),
            (Duration::from_millis(10), Duration::from_secs(5)),
            (Duration::from_secs(1), MAX_POLL),
        ] {
            let mut scans = Scans::of(&[]);
            let before = Instant::now();
            scans.task.judge(state(&[]), scan, before);
            let after = Instant::now();
            let task = &scans.task;
            assert!((before + pause..=after + pause).contains(&task.next_poll));
            assert!((before + scan * 10..=after + scan * 10).contains(&task.last_scan));
            assert_eq!(task.deadline(), task.next_poll);
        }
    }

    #[test]
    fn a_hint_is_followed_by_a_scan_after_a_pause_and_hints_prolong_it_up_to_patience() {
        let mut scans = Scans::of(&[]);
        let counts = Arc::clone(&scans.task.options.counts);
        scans.task.next_poll = scans.start + 1000 * QUIET;
        assert!(!scans.hint(Hint::File, POLL));
        assert_eq!(scans.task.deadline(), scans.start + POLL + QUIET);
        assert!(!scans.task.scanner.resubscribe);
        assert!(!scans.hint(Hint::Path, 2 * POLL));
        // The watched directory may be another one by now.
        assert!(scans.task.scanner.resubscribe);
        let settling = scans.task.settling.unwrap();
        assert_eq!(settling.since, scans.start + POLL);
        assert_eq!(settling.last_write, scans.start + 2 * POLL);
        assert_eq!(settling.found_by, FoundBy::Event);
        // Scans go on, whatever is written.
        assert_eq!(scans.task.deadline(), scans.start + POLL + QUIET);
        scans.task.last_scan = scans.start + 3 * POLL;
        assert_eq!(scans.task.deadline(), scans.start + 2 * POLL + QUIET);
        assert!(scans.hint(Hint::File, 2 * POLL + QUIET));
        scans.task.last_scan = scans.start + 1000 * QUIET;
        scans.hint(Hint::File, 1000 * QUIET);
        assert_eq!(scans.task.deadline(), scans.start + POLL + 100 * QUIET);
        assert_eq!(counts.polls(), 0);
    }

    #[test]
    fn only_scans_that_nothing_else_causes_count_as_polls() {
        let mut scans = Scans::of(&[]);
        let counts = Arc::clone(&scans.task.options.counts);
        let (now, later) = (scans.start, scans.start + POLL);
        let request = || Messages {
            requests: vec![oneshot::channel().0],
            ..Messages::default()
        };
        // A request is a reason to scan at once.
        assert!(scans.task.receive(request(), now, later));
        assert!(scans.task.receive(request(), later, later));
        assert!(!scans.task.receive(Messages::default(), now, later));
        assert_eq!(counts.polls(), 0);
        assert!(scans.task.receive(Messages::default(), later, later));
        assert_eq!(counts.polls(), 1);
        // A scan that ends a change is no poll, and a request waits for it.
        scans.task.settling = Some(Settling::begin(now, FoundBy::Poll));
        assert!(!scans.task.receive(request(), now, later));
        assert!(scans.task.receive(Messages::default(), later, later));
        assert_eq!(counts.polls(), 1);
        assert_eq!(scans.task.requests.len(), 3);
    }
}
