//! Subscriptions to file events. All watchers of the process share one notifier: a system has few inotify instances (often
//! 128 for a user) and many watches.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::{Mutex, RwLock};

use super::WatchCounts;
use super::inbox::Inbox;
use super::paths::WatchPaths;

/// Created when it is first needed. Its lock also guards changes of `SUBSCRIBERS`.
static NOTIFIER: Mutex<Option<RecommendedWatcher>> = Mutex::new(None);

/// The subscribers by watched directory. The notifier's own thread reads them and must not wait for `NOTIFIER`.
static SUBSCRIBERS: LazyLock<RwLock<HashMap<PathBuf, Vec<Arc<Subscriber>>>>> =
    LazyLock::new(RwLock::default);

struct Subscriber {
    paths: WatchPaths,
    inbox: Arc<Inbox>,
    counts: Arc<WatchCounts>,
}

/// Receives the file events of some paths until it is dropped.
pub(super) struct Subscription(Arc<Subscriber>);

impl Subscription {
    /// Returns `None` if no events are available, and an error if not all are.
    pub(super) fn new(
        paths: WatchPaths,
        inbox: Arc<Inbox>,
        counts: Arc<WatchCounts>,
    ) -> (Option<Self>, Option<notify::Error>) {
        let mut notifier = NOTIFIER.lock();
        let notifier = match notifier
            .take()
            .map_or_else(|| notify::recommended_watcher(dispatch), Ok)
        {
            Ok(created) => notifier.insert(created),
            Err(error) => return (None, Some(error)),
        };
        let subscriber = Arc::new(Subscriber {
            paths,
            inbox,
            counts,
        });
        {
            let mut subscribers = SUBSCRIBERS.write();
            for directory in subscriber.paths.directories() {
                subscribers
                    .entry(directory.clone())
                    .or_default()
                    .push(Arc::clone(&subscriber));
            }
        }
        // Even if another subscriber already watches a directory of that name: it may be another directory by now.
        let failures = subscriber
            .paths
            .directories()
            .filter_map(|directory| notifier.watch(directory, RecursiveMode::NonRecursive).err());
        // The scan that follows finds a directory that is gone by now.
        let error = failures.filter(|error| !is_gone(error)).last();
        (Some(Self(subscriber)), error)
    }

    pub(super) fn paths(&self) -> &WatchPaths {
        &self.0.paths
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut notifier = NOTIFIER.lock();
        let mut unused = Vec::new();
        {
            let mut subscribers = SUBSCRIBERS.write();
            for directory in self.0.paths.directories() {
                if let Some(others) = subscribers.get_mut(directory) {
                    others.retain(|other| !Arc::ptr_eq(other, &self.0));
                    if others.is_empty() {
                        subscribers.remove(directory);
                        unused.push(directory);
                    }
                }
            }
        }
        for directory in unused {
            if let Some(notifier) = notifier.as_mut() {
                // It may be gone already.
                let _ = notifier.unwatch(directory);
            }
        }
    }
}

/// Sends an event to the subscribers that it concerns.
fn dispatch(event: notify::Result<Event>) {
    let subscribers = SUBSCRIBERS.read();
    let send = |subscriber: &Arc<Subscriber>| {
        if let Some(hint) = subscriber.paths.hint(&event) {
            subscriber.counts.events.fetch_add(1, Ordering::Relaxed);
            subscriber
                .inbox
                .post(|messages| messages.hint = messages.hint.max(Some(hint)));
        }
    };
    match &event {
        Ok(event) if !event.need_rescan() => {
            let directories = event
                .paths
                .iter()
                .flat_map(|path| [Some(path.as_path()), path.parent()])
                .flatten();
            directories
                .filter_map(|directory: &Path| subscribers.get(directory))
                .flatten()
                .for_each(send);
        }
        // Events were lost, and they may concern every subscriber.
        _ => subscribers.values().flatten().for_each(send),
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
        _ => false,
    }
}
