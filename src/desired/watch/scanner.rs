//! Scans the target of a watcher, and keeps the subscription to its file events up to date.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::encrypted;
use super::WatchCounts;
use super::dir_state::{DirState, FileStamp, Listing};
use super::inbox::{Hint, Inbox};
use super::paths::{FileFilter, WatchPaths, resolve};
use super::subscription::Subscription;
use crate::desired::definitions::SharedDirectory;

/// Files beyond this number are counted but not examined; far fewer are ever loaded.
const MAX_FILES: usize = 20_000;
/// The time between two attempts to subscribe after one failed.
const RETRY: Duration = Duration::from_secs(60);

/// Absolute paths.
#[derive(Debug)]
pub(super) enum Target {
    Definitions {
        directory: PathBuf,
        shared: Option<SharedDirectory>,
    },
    /// A file, and the visible files of a directory.
    Files {
        file: Option<PathBuf>,
        directory: Option<PathBuf>,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Definitions { directory, .. } => write!(f, "{}", directory.display()),
            Self::Files { file, directory } => {
                let all: Vec<String> = file
                    .iter()
                    .chain(directory)
                    .map(|path| path.display().to_string())
                    .collect();
                f.write_str(&all.join(" and "))
            }
        }
    }
}

pub(super) struct Scanner {
    pub(super) target: Target,
    /// Receives the hints; `None` if events are switched off.
    inbox: Option<Arc<Inbox>>,
    counts: Arc<WatchCounts>,
    subscription: Option<Subscription>,
    /// When to subscribe again after a failure.
    retry_at: Option<Instant>,
    /// Subscribe again at the next scan, even if the paths look the same.
    pub(super) resubscribe: bool,
}

impl Scanner {
    pub(super) const fn new(
        target: Target,
        inbox: Option<Arc<Inbox>>,
        counts: Arc<WatchCounts>,
    ) -> Self {
        Self {
            target,
            inbox,
            counts,
            subscription: None,
            retry_at: None,
            resubscribe: false,
        }
    }

    /// Scans the target. The subscription to the scanned paths begins before the scan.
    pub(super) fn scan(&mut self, revalidate: bool) -> Scan {
        let scan = Scan::take(&self.target, revalidate);
        let Some(inbox) = self.inbox.clone() else {
            return scan;
        };
        let is_current = self.is_subscribed_to(&scan.paths) && !self.resubscribe;
        let has_failed = self.subscription.is_none() && self.retry_at.is_some();
        let retry = self.retry_at.is_some_and(|at| at <= Instant::now());
        if (is_current || has_failed) && !retry {
            return scan;
        }
        self.resubscribe = false;
        self.subscribe(scan.paths, &inbox);
        let scan = Scan::take(&self.target, revalidate);
        if self.subscription.is_some() && !self.is_subscribed_to(&scan.paths) {
            // The path changed during the subscription.
            inbox.post(|messages| messages.hint = Some(Hint::Path));
        }
        scan
    }

    fn is_subscribed_to(&self, paths: &WatchPaths) -> bool {
        self.subscription
            .as_ref()
            .is_some_and(|subscription| subscription.paths() == paths)
    }

    /// Always subscribes from scratch: a watch outlives the directory it was set on.
    fn subscribe(&mut self, paths: WatchPaths, inbox: &Arc<Inbox>) {
        /// One warning for all watchers of the process, because they share the system's limit.
        static WARNED: AtomicBool = AtomicBool::new(false);
        self.subscription = None;
        let (subscription, error) =
            Subscription::new(paths, Arc::clone(inbox), Arc::clone(&self.counts));
        self.subscription = subscription;
        match (&error, self.retry_at) {
            (Some(error), None) if !WARNED.swap(true, Ordering::Relaxed) => tracing::warn!(
                "cannot subscribe to all file events of {}: {error}; changes are found by polling instead, a few seconds \
                 later; help: if a limit of the system is reached, raise fs.inotify.max_user_instances and \
                 fs.inotify.max_user_watches",
                self.target
            ),
            (None, Some(_)) => {
                tracing::info!("file events of {} are available again", self.target);
            }
            _ => {}
        }
        self.retry_at = error.map(|_| Instant::now() + RETRY);
    }
}

pub(super) struct Scan {
    pub(super) state: DirState,
    paths: WatchPaths,
    pub(super) duration: Duration,
}

impl Scan {
    fn take(target: &Target, revalidate: bool) -> Self {
        let begun = Instant::now();
        let mut paths = WatchPaths::default();
        let listing = match target {
            Target::Definitions { directory, shared } => {
                let listing = list_definitions(directory, revalidate, &mut paths);
                listing.map(|mut listing| {
                    if let Some(shared) = shared {
                        add_shared(&mut listing, shared, revalidate, &mut paths);
                    }
                    listing
                })
            }
            Target::Files { file, directory } => Ok(list_files(
                file.as_deref(),
                directory.as_deref(),
                revalidate,
                &mut paths,
            )),
        };
        Self {
            state: DirState::new(listing),
            paths,
            duration: begun.elapsed(),
        }
    }
}

/// Adds the files of the shared directory, with its path in front of their names.
fn add_shared(
    listing: &mut Listing,
    shared: &SharedDirectory,
    revalidate: bool,
    paths: &mut WatchPaths,
) {
    let path = shared.path.to_string();
    match list(
        &shared.directory,
        FileFilter::Definitions,
        revalidate,
        paths,
    ) {
        Ok(found) => {
            add_below(listing, Path::new(&path), found);
        }
        Err(error) => {
            let stamp = FileStamp::Unreadable(error.kind());
            listing.files.insert(path.into(), stamp);
        }
    }
}

/// Adds the files of another directory, with its path in front of their names.
fn add_below(listing: &mut Listing, path: &Path, found: Listing) {
    let files = found.files.into_iter();
    let files = files.map(|(name, stamp)| (path.join(name).into(), stamp));
    listing.files.extend(files);
    listing.uncounted += found.uncounted;
}

/// A file, and the files of a directory. A missing file or directory is part of the state.
fn list_files(
    file: Option<&Path>,
    directory: Option<&Path>,
    revalidate: bool,
    paths: &mut WatchPaths,
) -> Listing {
    let file = file.map(|file| {
        // The existing part of a path is watched even if the path leads nowhere.
        let _ = resolve(Path::new("/"), file, |directory, name| {
            paths.add(directory, name)
        });
        (file.into(), FileStamp::take(file, revalidate))
    });
    let mut listing = Listing::default();
    if let Some(directory) = directory {
        match list(directory, FileFilter::Visible, revalidate, paths) {
            Ok(listed) => listing = listed,
            Err(error) => {
                let stamp = FileStamp::Unreadable(error.kind());
                listing.files.insert(directory.into(), stamp);
            }
        }
    }
    listing.files.extend(file);
    listing
}

/// Definition files, and the encrypted secrets beside them.
fn list_definitions(
    directory: &Path,
    revalidate: bool,
    paths: &mut WatchPaths,
) -> io::Result<Listing> {
    let mut listing = list(directory, FileFilter::Definitions, revalidate, paths)?;
    // That it appears is a change.
    paths.add(&listing.real, encrypted::DIRECTORY.as_ref());
    let below = listing.real.join(encrypted::DIRECTORY);
    // As the loader: a link is followed within the directory only.
    let is_inside = fs::canonicalize(&below).is_ok_and(|real| real.starts_with(&listing.real));
    if is_inside && let Ok(secrets) = list(&below, FileFilter::Encrypted, revalidate, paths) {
        add_below(&mut listing, Path::new(encrypted::DIRECTORY), secrets);
    }
    Ok(listing)
}

fn list(
    directory: &Path,
    filter: FileFilter,
    revalidate: bool,
    paths: &mut WatchPaths,
) -> io::Result<Listing> {
    let real = resolve(Path::new("/"), directory, |directory, name| {
        paths.add(directory, name)
    })?;
    let entries = fs::read_dir(&real)?;
    paths.add_all(&real, filter);
    let (mut files, mut uncounted) = (BTreeMap::new(), 0);
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if !filter.matches(&name) {
            continue;
        }
        if files.len() == MAX_FILES {
            uncounted += 1;
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            // A ConfigMap's files are links through its link `..data`. A link that leads out of the directory is not
            // watched there: a pull request must not choose the watched directories.
            let _ = resolve(&real, Path::new(&name), |directory, name| {
                if directory.starts_with(&real) {
                    paths.add(directory, name);
                }
            });
        }
        let stamp = FileStamp::take(&entry.path(), revalidate);
        files.insert(name, stamp);
    }
    Ok(Listing {
        real,
        files,
        uncounted,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_files_of_another_directory_are_counted_with_its_own() {
        let listing = |uncounted| Listing {
            uncounted,
            ..Listing::default()
        };
        let mut all = listing(2);
        add_below(&mut all, Path::new("secrets"), listing(3));
        assert_eq!(all.uncounted, 5);
    }

    #[test]
    fn a_link_chooses_no_directory_outside_to_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let [definitions, outside] = ["definitions", "outside"].map(|name| root.join(name));
        let inside = definitions.join("..data");
        for directory in [&definitions, &outside, &inside] {
            fs::create_dir(directory).unwrap();
        }
        for directory in [&outside, &inside] {
            fs::write(directory.join("a.yaml"), "").unwrap();
        }
        symlink("../outside/a.yaml", definitions.join("a.yaml")).unwrap();
        symlink("..data/a.yaml", definitions.join("b.yaml")).unwrap();
        fs::write(definitions.join("notes.txt"), "").unwrap();

        let mut paths = WatchPaths::default();
        let listing = list(&definitions, FileFilter::Definitions, false, &mut paths).unwrap();
        assert_eq!(listing.real, definitions);
        let names: Vec<_> = listing.files.keys().collect();
        assert_eq!(names, ["a.yaml", "b.yaml"]);
        let watched: Vec<_> = paths.directories().collect();
        assert!(watched.contains(&&inside), "{watched:?}");
        assert!(!watched.contains(&&outside), "{watched:?}");
    }

    #[test]
    fn files_beyond_the_limit_are_counted_only() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MAX_FILES + 2 {
            fs::File::create(dir.path().join(format!("{number}.yaml"))).unwrap();
        }
        let mut paths = WatchPaths::default();
        let listing = list(dir.path(), FileFilter::Definitions, false, &mut paths).unwrap();
        assert_eq!(listing.files.len(), MAX_FILES);
        assert_eq!(listing.uncounted, 2);
    }

    /// Whether a scan subscribes, which ends the memory of a failure.
    fn subscribes(scanner: &mut Scanner) -> bool {
        let later = Instant::now() + RETRY;
        scanner.retry_at = Some(later);
        scanner.scan(false);
        scanner.retry_at != Some(later)
    }

    #[tokio::test]
    async fn a_scan_subscribes_once_and_again_when_the_path_has_changed() {
        let _alone = super::super::subscription::ALONE.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let definitions = dir.path().join("definitions");
        fs::create_dir(&definitions).unwrap();
        let target = || Target::Definitions {
            directory: definitions.clone(),
            shared: None,
        };
        let inbox = Arc::new(Inbox::default());
        let mut scanner = Scanner::new(target(), Some(Arc::clone(&inbox)), Arc::default());
        scanner.scan(false);
        assert!(scanner.subscription.is_some() && scanner.retry_at.is_none());
        assert_eq!(inbox.wait(Instant::now()).await.hint, None);

        assert!(!subscribes(&mut scanner));
        scanner.resubscribe = true;
        assert!(subscribes(&mut scanner));
        assert!(!subscribes(&mut scanner));
        fs::rename(&definitions, dir.path().join("before")).unwrap();
        fs::create_dir(&definitions).unwrap();
        assert!(subscribes(&mut scanner));

        let mut without_events = Scanner::new(target(), None, Arc::default());
        without_events.scan(false);
        assert!(without_events.subscription.is_none());
    }

    #[test]
    fn a_failed_subscription_is_tried_again_after_a_while_and_only_the_first_is_a_warning() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(log.reopen().unwrap()))
            .finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let lines = |text: &str| fs::read_to_string(&log).unwrap().matches(text).count();

        let dir = tempfile::tempdir().unwrap();
        let inbox = Arc::new(Inbox::default());
        let too_long = || {
            let mut paths = WatchPaths::default();
            paths.add(&Path::new("/").join("x".repeat(5000)), "a".as_ref());
            paths
        };
        let fails = |target: Target| {
            let mut scanner = Scanner::new(target, Some(Arc::clone(&inbox)), Arc::default());
            let before = Instant::now();
            scanner.subscribe(too_long(), &inbox);
            let retry_at = scanner.retry_at.unwrap();
            assert!((before + RETRY..=Instant::now() + RETRY).contains(&retry_at));
            scanner
        };
        let _other = fails(Target::Files {
            file: Some("/key".into()),
            directory: Some("/secrets".into()),
        });
        assert_eq!(lines("cannot subscribe"), 1);
        assert_eq!(lines("file events of /key and /secrets: "), 1);
        let mut scanner = fails(Target::Definitions {
            directory: dir.path().to_owned(),
            shared: None,
        });
        assert_eq!(lines("cannot subscribe"), 1);

        scanner.subscription = None;
        scanner.scan(false);
        assert!(scanner.subscription.is_none());
        assert_eq!(lines("are available again"), 0);
        scanner.retry_at = Some(Instant::now());
        scanner.scan(false);
        assert!(scanner.subscription.is_some() && scanner.retry_at.is_none());
        assert_eq!(lines("are available again"), 1);
        scanner.retry_at = Some(Instant::now());
        scanner.scan(false);
        assert_eq!(scanner.retry_at, None);
    }
}
