//! Watches the inputs of a loop: the definitions, and the operator's API key and secrets.
//!
//! Never: wait for the operator's files to settle before a reconciliation. They are read as they are, and a change causes
//! another reconciliation.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::timeout;

use super::LoopSettings;
use super::repository::{Push, RepositoryState};
use crate::desired::definitions::{MemoryDirectory, SharedDirectory};
use crate::desired::git::FetchedCommit;
use crate::desired::watch::{WatchOptions, Watcher};
use crate::live::KeySource;
use crate::reconcile::DefinitionsSource;
use crate::report::status::Trigger;

/// Without file events, the operator's files are scanned this many times less often than the definitions.
const POLL_FACTOR: u32 = 5;

/// The first reconciliation waits this long for the first scan of the operator's files.
const FIRST_SCAN: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum WatchedDefinitions {
    Files(Watcher),
    Commits(WatchedCommits),
    Memory(watch::Receiver<Arc<MemoryDirectory>>),
}

/// The commits of a repository.
#[derive(Debug)]
struct WatchedCommits {
    repository: watch::Receiver<Arc<RepositoryState>>,
    /// The object that the reference named, because a tag can be signed again without another commit, and when it was
    /// fetched, because a damaged clone is replaced.
    seen: Option<(String, Timestamp)>,
}

fn identity(commit: &FetchedCommit) -> (String, Timestamp) {
    (commit.object_id(), commit.fetched)
}

impl WatchedCommits {
    /// Waits until a fetch has ended, successful or not.
    async fn tried(&mut self) {
        // The sender lives as long as the loop.
        let _ = self.repository.wait_for(|state| state.is_tried).await;
        self.see();
    }

    fn see(&mut self) -> Option<Push> {
        let state = self.repository.borrow_and_update();
        self.seen = state.commit.as_deref().map(identity);
        state.push.clone()
    }

    /// Waits until another commit is in force, and returns the push by which it was found.
    async fn changed(&mut self) -> Option<Push> {
        let Self { repository, seen } = self;
        let is_new = |state: &Arc<RepositoryState>| state.commit.as_deref().map(identity) != *seen;
        if repository.wait_for(is_new).await.is_err() {
            return std::future::pending().await;
        }
        self.see()
    }
}

#[derive(Debug)]
pub(super) struct WatchedInputs {
    definitions: WatchedDefinitions,
    operator: Option<Watcher>,
    /// The files that were being written at the last scan; `None` if the scan hangs.
    unsettled: Option<Vec<String>>,
    /// Whether the definitions have settled just now. False after time has passed since their last scan.
    pub(super) fresh: bool,
    /// Whether an input changed after the last reconciliation began.
    pub(super) pending: bool,
    /// Whether this replica did not lead when the definitions were refreshed last.
    pub(super) stands_by: bool,
    /// Whether the last change was one of the operator's files.
    operator_changed: bool,
    /// The push that caused the change, if a hook reported it.
    pub(super) push: Option<Push>,
}

impl WatchedInputs {
    pub(super) async fn watch(settings: &LoopSettings, watch_options: WatchOptions) -> Self {
        let key = match &settings.key {
            KeySource::File(path) => Some(path.clone()),
            KeySource::Variable(_) => None,
        };
        let secrets = settings.source.secrets.directory().map(ToOwned::to_owned);
        let options = WatchOptions {
            poll: watch_options.poll * POLL_FACTOR,
            counts: Arc::default(),
            ..watch_options.clone()
        };
        let in_memory = matches!(settings.source.definitions, DefinitionsSource::Memory(_));
        let mut operator = (!in_memory && (key.is_some() || secrets.is_some()))
            .then(|| Watcher::of_files(key, secrets, options));
        let definitions = match (&settings.source.definitions, &settings.repository) {
            (DefinitionsSource::Directory(directory), _) => {
                WatchedDefinitions::Files(Watcher::new(directory.clone(), watch_options))
            }
            (DefinitionsSource::Memory(definitions), _) => {
                WatchedDefinitions::Memory(definitions.watch())
            }
            (DefinitionsSource::Git { .. }, repository) => {
                let closed = || watch::channel(Arc::default()).1;
                WatchedDefinitions::Commits(WatchedCommits {
                    repository: repository.as_ref().map_or_else(closed, |it| it.subscribe()),
                    seen: None,
                })
            }
        };
        if let Some(operator) = &mut operator
            && let Ok(settled) = timeout(FIRST_SCAN, operator.settle()).await
        {
            operator.mark_seen(settled.state);
        }
        Self {
            definitions,
            operator,
            unsettled: None,
            fresh: false,
            pending: false,
            stands_by: false,
            operator_changed: false,
            push: None,
        }
    }

    /// Waits until the definitions have settled, for a reconciliation that reads them next.
    pub(super) async fn settle(&mut self, at_most: Duration) {
        self.pending = false;
        if std::mem::take(&mut self.fresh) {
            return;
        }
        self.unsettled = match &mut self.definitions {
            WatchedDefinitions::Files(files) => match timeout(at_most, files.settle()).await {
                Ok(settled) => {
                    files.mark_seen(settled.state);
                    Some(settled.unsettled)
                }
                Err(_) => None,
            },
            WatchedDefinitions::Commits(commits) => {
                // Without a commit, reading the definitions fails with the reason.
                let _ = timeout(at_most, commits.tried()).await;
                Some(Vec::new())
            }
            WatchedDefinitions::Memory(files) => Some(files.borrow_and_update().unsettled.clone()),
        };
    }

    /// Waits until an input changes. Cancel-safe; returns once for each change.
    pub(super) async fn changed(&mut self) {
        let Self {
            definitions,
            operator,
            ..
        } = self;
        let of_operator = async {
            match operator {
                Some(operator) => operator.changed().await,
                None => std::future::pending().await,
            }
        };
        let of_definitions = async {
            match definitions {
                WatchedDefinitions::Files(files) => {
                    let settled = files.changed().await;
                    files.mark_seen(settled.state);
                    (settled.unsettled, None)
                }
                WatchedDefinitions::Commits(commits) => (Vec::new(), commits.changed().await),
                WatchedDefinitions::Memory(files) => {
                    if files.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    (files.borrow_and_update().unsettled.clone(), None)
                }
            }
        };
        tokio::select! {
            biased;
            (unsettled, push) = of_definitions => {
                (self.unsettled, self.fresh) = (Some(unsettled), true);
                self.push = push.or(self.push.take());
                self.operator_changed = false;
            }
            settled = of_operator => {
                operator.iter_mut().for_each(|operator| operator.mark_seen(settled.state.clone()));
                self.operator_changed = true;
            }
        }
        self.pending = true;
    }

    /// The trigger of the change.
    pub(super) fn trigger(&self) -> Trigger {
        match (&self.push, &self.definitions) {
            (Some(_), _) => Trigger::Hook,
            (None, WatchedDefinitions::Files(_) | WatchedDefinitions::Memory(_)) => Trigger::Files,
            (None, WatchedDefinitions::Commits(_)) if self.operator_changed => Trigger::Files,
            (None, WatchedDefinitions::Commits(_)) => Trigger::Commit,
        }
    }

    /// Watches the shared directory that the definitions were read with.
    pub(super) fn watch_shared(&mut self, shared: Option<&SharedDirectory>) {
        if let WatchedDefinitions::Files(files) = &mut self.definitions {
            files.watch_shared(shared);
        }
    }

    pub(super) fn unsettled(&self) -> Option<&[String]> {
        self.unsettled.as_deref()
    }
}
