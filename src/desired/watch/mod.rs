//! Watches a directory of definitions, or a file and a directory of the operator, and reports each change.
//!
//! File events are hints only. What counts is the [`DirState`]: names, inodes, sizes and times, read after each hint. Some
//! file systems (NFS) send no events, and events can be lost, so the state is also read every few seconds. Scans run where
//! blocking is allowed, one at a time, so that a slow file system delays nothing else.
//!
//! Never: read the content of a file, decide what a change means, or fail. Without events this module polls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::desired::definitions::SharedDirectory;

pub use self::dir_state::DirState;
use self::inbox::Inbox;
use self::scanner::Target;
use self::task::WatchTask;

mod dir_state;
mod inbox;
mod paths;
mod scanner;
mod subscription;
mod task;

#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// A directory has settled when nothing was written in it for this long.
    pub quiet: Duration,
    /// The time between scans without a hint. Expensive scans are less frequent.
    pub poll: Duration,
    /// The limit of the wait for a directory to settle.
    pub patience: Duration,
    /// A file that is written for this long without a pause is left out if all other files have settled.
    pub file_patience: Duration,
    /// Whether to subscribe to file events at all.
    pub events: bool,
    pub counts: Arc<WatchCounts>,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(250),
            poll: Duration::from_secs(2),
            patience: Duration::from_secs(30),
            file_patience: Duration::from_secs(2),
            events: true,
            counts: Arc::default(),
        }
    }
}

#[derive(Debug, Default)]
pub struct WatchCounts {
    events: AtomicU64,
    polls: AtomicU64,
}

impl WatchCounts {
    /// The file events that concern the definitions.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// The scans that neither an event nor a request caused.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    Event,
    Poll,
}

/// A directory in which no file is being written, or in which the wait for writers is over.
#[derive(Clone, Debug)]
pub struct SettledDir {
    /// Taken before any file is read, so that a later write is another change.
    pub state: DirState,
    pub found_by: FoundBy,
    /// The names of the files that were still being written when patience ended. They must not be acted on; the end of the
    /// writing is another change. Untrusted text.
    pub unsettled: Vec<String>,
}

/// Watches one directory of definitions until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    inbox: Arc<Inbox>,
    settled: watch::Receiver<Option<SettledDir>>,
    seen: Option<DirState>,
    shared: Option<SharedDirectory>,
}

impl Watcher {
    /// The directory may be missing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(definitions: PathBuf, options: WatchOptions) -> Self {
        let target = Target::Definitions {
            directory: absolute(definitions),
            shared: None,
        };
        Self::start(target, options)
    }

    /// Watches one file, and every visible file of a directory. Both may be missing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn of_files(
        file: Option<PathBuf>,
        directory: Option<PathBuf>,
        options: WatchOptions,
    ) -> Self {
        let target = Target::Files {
            file: file.map(absolute),
            directory: directory.map(absolute),
        };
        Self::start(target, options)
    }

    fn start(target: Target, options: WatchOptions) -> Self {
        let inbox = Arc::new(Inbox::default());
        let (publisher, settled) = watch::channel(None);
        let task = WatchTask::new(target, options, Arc::clone(&inbox), publisher);
        tokio::spawn(task.run());
        Self {
            inbox,
            settled,
            seen: None,
            shared: None,
        }
    }

    /// Also watches the shared directory that the definitions extend, as it was when they were read. If it is another one than
    /// before, that is a change: it may have changed since it was read.
    pub fn watch_shared(&mut self, shared: Option<&SharedDirectory>) {
        if self.shared.as_ref() != shared {
            self.shared = shared.cloned();
            self.inbox
                .post(|messages| messages.shared = Some(shared.cloned()));
        }
    }

    /// Waits until the directory has settled in another state than the one last [marked as seen](Self::mark_seen). Returns
    /// the same state again until it is marked. Cancel-safe.
    pub async fn changed(&mut self) -> SettledDir {
        loop {
            let settled = self.settled.borrow_and_update().clone();
            if let Some(settled) =
                settled.filter(|settled| self.seen.as_ref() != Some(&settled.state))
            {
                return settled;
            }
            if self.settled.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Scans the directory now and waits until it has settled, for a reconciliation with another reason than a change. Takes
    /// no longer than [`WatchOptions::patience`], unless the file system itself hangs. Cancel-safe.
    pub async fn settle(&mut self) -> SettledDir {
        let (request, settled) = oneshot::channel();
        // Only this caller asks, so a request that is still there was cancelled.
        self.inbox
            .post(|messages| messages.requests = vec![request]);
        settled.await.unwrap_or_else(|_| {
            tracing::error!(
                "the watch task has ended; changes are found at the next interval only"
            );
            SettledDir {
                state: DirState::unwatched(),
                found_by: FoundBy::Poll,
                unsettled: Vec::new(),
            }
        })
    }

    /// From now on only another state is a change.
    pub fn mark_seen(&mut self, state: DirState) {
        self.seen = Some(state);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.inbox.post(|messages| messages.closed = true);
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}
