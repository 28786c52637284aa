//! File events for every watcher of the process, by one notifier: of inotify's instances a system has few, often 128 for
//! a user, and of its watches many.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::{Mutex, RwLock};

use super::{Mailbox, Trail, WatchCounts};

/// The notifier, once it is needed. Whoever holds it may change what is watched, and who listens.
static NOTIFIER: Mutex<Option<RecommendedWatcher>> = Mutex::new(None);

/// Who listens, by the directories that he watches. The notifier's own thread reads it, and must not wait for the notifier.
static LISTENERS: LazyLock<RwLock<HashMap<PathBuf, Vec<Arc<Listener>>>>> =
    LazyLock::new(RwLock::default);

struct Listener {
    trail: Trail,
    mailbox: Arc<Mailbox>,
    counts: Arc<WatchCounts>,
}

/// Hears the file events of a trail until it is dropped.
pub(super) struct Ear(Arc<Listener>);

impl Ear {
    /// Begins to listen, with what kept it from hearing everything; `None` where nothing can be heard.
    pub(super) fn listen(
        trail: Trail,
        mailbox: Arc<Mailbox>,
        counts: Arc<WatchCounts>,
    ) -> (Option<Self>, Option<notify::Error>) {
        let mut notifier = NOTIFIER.lock();
        let notifier = match notifier
            .take()
            .map_or_else(|| notify::recommended_watcher(tell), Ok)
        {
            Ok(made) => notifier.insert(made),
            Err(error) => return (None, Some(error)),
        };
        let listener = Arc::new(Listener {
            trail,
            mailbox,
            counts,
        });
        {
            let mut listeners = LISTENERS.write();
            for place in listener.trail.0.keys() {
                listeners
                    .entry(place.clone())
                    .or_default()
                    .push(Arc::clone(&listener));
            }
        }
        // Anew, whoever watches a directory of that name already: it may be another one by now.
        let failed = listener
            .trail
            .0
            .keys()
            .filter_map(|place| notifier.watch(place, RecursiveMode::NonRecursive).err());
        // A place that is gone by now is found out by the look that follows.
        let trouble = failed.filter(|error| !is_gone(error)).last();
        (Some(Self(listener)), trouble)
    }

    pub(super) fn trail(&self) -> &Trail {
        &self.0.trail
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut notifier = NOTIFIER.lock();
        let mut unheard = Vec::new();
        {
            let mut listeners = LISTENERS.write();
            for place in self.0.trail.0.keys() {
                if let Some(others) = listeners.get_mut(place) {
                    others.retain(|other| !Arc::ptr_eq(other, &self.0));
                    if others.is_empty() {
                        listeners.remove(place);
                        unheard.push(place);
                    }
                }
            }
        }
        for place in unheard {
            if let Some(notifier) = notifier.as_mut() {
                // It may be gone already.
                let _ = notifier.unwatch(place);
            }
        }
    }
}

/// Tells an event to whom it may concern.
fn tell(event: notify::Result<Event>) {
    let listeners = LISTENERS.read();
    let tell = |listener: &Arc<Listener>| {
        if let Some(hint) = listener.trail.hint(&event) {
            listener.counts.events.fetch_add(1, Ordering::Relaxed);
            listener
                .mailbox
                .post(|mail| mail.hint = mail.hint.max(Some(hint)));
        }
    };
    match &event {
        // Events were lost, and nobody knows whose.
        Err(_) => listeners.values().flatten().for_each(tell),
        Ok(event) if event.need_rescan() => listeners.values().flatten().for_each(tell),
        Ok(event) => {
            let places = event
                .paths
                .iter()
                .flat_map(|path| [Some(path.as_path()), path.parent()])
                .flatten();
            places
                .filter_map(|place: &Path| listeners.get(place))
                .flatten()
                .for_each(tell);
        }
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
