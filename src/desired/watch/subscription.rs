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

/// For tests in which no lost event of another test may arrive.
#[cfg(test)]
pub(super) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use notify::event::{Flag, ModifyKind};
    use notify::{ErrorKind, EventKind};

    use super::super::inbox::Hint;
    use super::super::paths::FileFilter;
    use super::*;

    struct Subscribed {
        inbox: Arc<Inbox>,
        counts: Arc<WatchCounts>,
        subscription: Subscription,
    }

    impl Subscribed {
        fn to(directory: &Path) -> Self {
            let mut paths = WatchPaths::default();
            paths.add_all(directory, FileFilter::Definitions);
            let (inbox, counts) = (Arc::<Inbox>::default(), Arc::<WatchCounts>::default());
            let (subscription, error) =
                Subscription::new(paths, Arc::clone(&inbox), Arc::clone(&counts));
            assert!(error.is_none(), "{error:?}");
            Self {
                inbox,
                counts,
                subscription: subscription.unwrap(),
            }
        }

        async fn hint(&self) -> Option<Hint> {
            self.inbox.wait(Instant::now()).await.hint
        }
    }

    #[tokio::test]
    async fn an_event_reaches_the_subscribers_of_its_directory_and_lost_events_reach_all() {
        let _alone = ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        for directory in [&one, &other] {
            std::fs::create_dir(directory).unwrap();
        }
        let (first, second) = (Subscribed::to(&one), Subscribed::to(&other));
        let event = Event::new(EventKind::Modify(ModifyKind::Any)).add_path(one.join("a.yaml"));
        dispatch(Ok(event));
        assert_eq!(first.hint().await, Some(Hint::File));
        assert_eq!(second.hint().await, None);
        assert_eq!(first.counts.events(), 1);
        assert_eq!(second.counts.events(), 0);

        dispatch(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        for subscribed in [&first, &second] {
            assert_eq!(subscribed.hint().await, Some(Hint::Path));
        }
        dispatch(Err(notify::Error::generic("unknown")));
        for subscribed in [&first, &second] {
            assert_eq!(subscribed.hint().await, Some(Hint::Path));
        }
    }

    #[test]
    fn a_directory_is_watched_until_its_last_subscription_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (Subscribed::to(dir.path()), Subscribed::to(dir.path()));
        drop(first);
        let rest: Vec<_> = SUBSCRIBERS.read().get(dir.path()).unwrap().clone();
        assert!(matches!(&rest[..], [one] if Arc::ptr_eq(one, &second.subscription.0)));
        drop(second);
        assert!(!SUBSCRIBERS.read().contains_key(dir.path()));
        let again = |notifier: &mut Option<RecommendedWatcher>| {
            let notifier = notifier.as_mut().unwrap();
            notifier.unwatch(dir.path()).unwrap_err().kind
        };
        assert!(matches!(
            again(&mut NOTIFIER.lock()),
            ErrorKind::WatchNotFound
        ));
    }

    #[test]
    fn only_a_path_that_does_not_exist_is_no_failure_of_a_subscription() {
        let io = |kind: io::ErrorKind| notify::Error::io(kind.into());
        assert!(is_gone(&notify::Error::path_not_found()));
        assert!(is_gone(&io(io::ErrorKind::NotFound)));
        assert!(is_gone(&io(io::ErrorKind::NotADirectory)));
        assert!(!is_gone(&io(io::ErrorKind::PermissionDenied)));
        assert!(!is_gone(&notify::Error::new(ErrorKind::MaxFilesWatch)));
    }
}
