//! Noticing that the definitions directory is another one than it was: a file written, renamed, new or gone, a symbolic
//! link on the way to it flipped, the directory itself gone or back. A file and a directory of the operator's are watched
//! in the same way.
//!
//! File events are hints and nothing more. What counts is the [`Fingerprint`]: names, inodes, sizes and times, taken anew
//! after each hint and, because some file systems send no events (NFS) and some events get lost, every few seconds as
//! well. It is done where blocking is allowed, one look at a time, so that a slow file system holds nothing else up.
//!
//! This module never reads what a file holds, never decides what a change means, and never fails: without events it
//! lives on looking.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot, watch};

use self::events::Ear;
use super::definitions::directory::is_input;

mod events;

/// As many links as Linux follows before it calls a path a loop.
const MAX_LINKS: usize = 40;
/// Files beyond this number are counted and not looked at; far fewer are ever loaded.
const MAX_FILES: usize = 20_000;
/// Directories that are watched; links could otherwise use up what the machine's other programs need too.
const MAX_WATCHES: usize = 64;
/// Looking takes at most this share of the time, so that ten thousand files, too, cost next to nothing.
const LOOK_SHARE: u32 = 500;
/// Of a directory that moves, looks take at most such a share.
const UNREST_SHARE: u32 = 10;
/// However long a look takes, the next one is not later than this.
const MAX_POLL: Duration = Duration::from_secs(60);
/// How often watches that could not be had are tried again.
const RETRY_WATCHES: Duration = Duration::from_secs(60);

/// How patiently to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// A directory in which nothing has happened for this long is no longer being written.
    pub quiet: Duration,
    /// How often to look without a hint. Where a look is expensive it is done less often.
    pub poll: Duration,
    /// How long to wait for writers who don't stop.
    pub patience: Duration,
    /// A file that is written for this long without a pause is not waited for any more if nothing else moves.
    pub restless: Duration,
    /// Whether to ask for file events at all.
    pub events: bool,
    /// Where what happens is counted.
    pub counts: Arc<WatchCounts>,
}

/// What a watcher counts, for whoever wants to know.
#[derive(Debug, Default)]
pub struct WatchCounts {
    events: AtomicU64,
    polls: AtomicU64,
}

impl WatchCounts {
    /// The file events that were about the definitions.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// The looks at the directory that no event asked for, and nobody else.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(250),
            poll: Duration::from_secs(2),
            patience: Duration::from_secs(30),
            restless: Duration::from_secs(2),
            events: true,
            counts: Arc::default(),
        }
    }
}

/// What the directory looked like at one moment. Two that are equal say that there is nothing new to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Arc<Sight>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    /// Nobody is left to look.
    Unwatched,
    /// There is no directory, or none that can be read.
    Nothing(io::ErrorKind),
    Directory {
        /// With every link resolved: another directory with the same files is another one.
        real: PathBuf,
        files: BTreeMap<OsString, Stamp>,
        /// How many more files there are.
        uncounted: usize,
    },
}

/// One file, its links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    File {
        inode: (u64, u64),
        size: u64,
        modified: (i64, i64),
        /// Sees what the modification time doesn't: permissions mended, times put back.
        changed: (i64, i64),
    },
    /// A directory, a pipe, anything that is not read.
    Other {
        inode: (u64, u64),
    },
    Unreadable(io::ErrorKind),
    /// Somebody is writing it. Unlike every finished state of the same file, so that its end is a change.
    Moving,
}

impl Stamp {
    fn take(path: &Path, revalidate: bool) -> Self {
        match fs::metadata(path) {
            Ok(known) if known.is_file() && revalidate => {
                // A network file system may answer from its cache for seconds; opening a file makes it ask again.
                let fresh = File::open(path).and_then(|file| file.metadata());
                Self::of(&fresh.unwrap_or(known))
            }
            Ok(known) => Self::of(&known),
            Err(error) => Self::Unreadable(error.kind()),
        }
    }

    fn of(metadata: &Metadata) -> Self {
        let inode = (metadata.dev(), metadata.ino());
        if metadata.is_file() {
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            Self::File {
                inode,
                size: metadata.size(),
                modified,
                changed,
            }
        } else {
            Self::Other { inode }
        }
    }

    /// How long ago it was written to. `None` where its times lie in the future: such a clock says nothing.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let Self::File {
            modified, changed, ..
        } = self
        else {
            return None;
        };
        let since = |(seconds, nanos): (i64, i64)| {
            let at = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
            now.duration_since(SystemTime::UNIX_EPOCH.checked_add(at)?)
                .ok()
        };
        since(*modified).into_iter().chain(since(*changed)).min()
    }
}

impl Fingerprint {
    fn files(&self) -> impl Iterator<Item = (&OsString, &Stamp)> {
        let files = match &*self.0 {
            Sight::Directory { files, .. } => Some(files),
            Sight::Unwatched | Sight::Nothing(_) => None,
        };
        files.into_iter().flatten()
    }

    /// The age of the file written last, where that is less than `limit`.
    fn youngest(&self, limit: Duration) -> Option<Duration> {
        let now = SystemTime::now();
        self.files()
            .filter_map(|(_, stamp)| stamp.age(now))
            .min()
            .filter(|age| *age < limit)
    }

    /// The files that were there in `before` and are not any more.
    fn gone<'a>(&self, before: &'a Self) -> impl Iterator<Item = &'a OsString> {
        let now: BTreeSet<OsString> = self.files().map(|(name, _)| name.clone()).collect();
        before
            .files()
            .map(|(name, _)| name)
            .filter(move |name| !now.contains(*name))
    }

    /// The files that have another stamp than in `before`, or were written less than `limit` ago.
    fn moving(&self, before: &Self, limit: Duration) -> BTreeSet<OsString> {
        let now = SystemTime::now();
        let before: BTreeMap<_, _> = before.files().collect();
        self.files()
            .filter(|(name, stamp)| {
                before.get(name).is_none_or(|before| before != stamp)
                    || stamp.age(now).is_some_and(|age| age < limit)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn with_moving(&self, names: &BTreeSet<OsString>) -> Self {
        let mut sight = (*self.0).clone();
        if let Sight::Directory { files, .. } = &mut sight {
            files.extend(names.iter().map(|name| (name.clone(), Stamp::Moving)));
        }
        Self(Arc::new(sight))
    }
}

/// What made a change known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// A file event.
    Event,
    /// Looking without one.
    Poll,
}

/// The directory at a moment at which nobody was writing, or at which waiting for it was given up.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What it looked like. Taken before anything is read, so that what is written meanwhile is another change.
    pub fingerprint: Fingerprint,
    /// What made it known.
    pub by: FoundBy,
    /// The names of the files that somebody was still writing when patience ended: not to be acted on. When they are
    /// finished, that is a change. Foreign text.
    pub unsettled: Vec<String>,
}

/// Watches one definitions directory until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    mailbox: Arc<Mailbox>,
    settled: watch::Receiver<Option<Settled>>,
    seen: Option<Fingerprint>,
}

impl Watcher {
    /// Starts watching. The directory need not be there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(definitions: PathBuf, options: WatchOptions) -> Self {
        Self::start(Watched::Definitions(absolute(definitions)), options)
    }

    /// Starts watching one file, and every visible file of a directory. Neither need be there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn of_files(
        file: Option<PathBuf>,
        directory: Option<PathBuf>,
        options: WatchOptions,
    ) -> Self {
        let watched = Watched::Files {
            file: file.map(absolute),
            directory: directory.map(absolute),
        };
        Self::start(watched, options)
    }

    fn start(watched: Watched, options: WatchOptions) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let (publish, settled) = watch::channel(None);
        let lookout = Lookout::new(watched, options, Arc::clone(&mailbox), publish);
        tokio::spawn(lookout.run());
        Self {
            mailbox,
            settled,
            seen: None,
        }
    }

    /// Waits until the directory is another one than was last [`seen`](Self::seen), and nobody is writing any more.
    /// Before anything was seen, that is as soon as it has been looked at. Goes on answering the same until told what was
    /// seen. Cancelling it loses nothing.
    pub async fn changed(&mut self) -> Settled {
        loop {
            let settled = self.settled.borrow_and_update().clone();
            if let Some(settled) =
                settled.filter(|settled| self.seen.as_ref() != Some(&settled.fingerprint))
            {
                return settled;
            }
            if self.settled.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Looks at the directory now, and waits until nobody is writing; for a pass that has another reason than a change.
    /// Takes no longer than [`WatchOptions::patience`], unless the file system itself hangs. Cancelling it loses nothing.
    pub async fn settle(&mut self) -> Settled {
        let (answer, settled) = oneshot::channel();
        self.mailbox.post(|mail| {
            mail.asked.retain(|asked| !asked.is_closed());
            mail.asked.push(answer);
        });
        settled.await.unwrap_or_else(|_| {
            tracing::error!("nobody watches the definitions any more: changes are found when the interval is over");
            Settled { fingerprint: Fingerprint(Arc::new(Sight::Unwatched)), by: FoundBy::Poll, unsettled: Vec::new() }
        })
    }

    /// Says what was read: from now on, only another fingerprint is a change.
    pub fn seen(&mut self, fingerprint: Fingerprint) {
        self.seen = Some(fingerprint);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.mailbox.post(|mail| mail.closed = true);
    }
}

/// What reaches the one who looks. Hints coalesce, so a storm of events takes no memory.
#[derive(Debug, Default)]
struct Mailbox {
    mail: Mutex<Mail>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Mail {
    hint: Option<Hint>,
    asked: Vec<oneshot::Sender<Settled>>,
    closed: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hint {
    /// A file in the directory.
    File,
    /// A directory or link on the way: what is watched may be gone, even where its successor looks the same, because
    /// inode numbers are used again.
    Way,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock()
    }

    fn post(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut self.lock());
        self.bell.notify_one();
    }

    /// Everything that has come, as soon as there is something, or at `until`.
    async fn wait(&self, until: Instant) -> Mail {
        loop {
            {
                let mut mail = self.lock();
                if mail.hint.is_some()
                    || !mail.asked.is_empty()
                    || mail.closed
                    || until <= Instant::now()
                {
                    return std::mem::take(&mut mail);
                }
            }
            // It rings for one who waits, or else for the next who does.
            let _ = tokio::time::timeout_at(until.into(), self.bell.notified()).await;
        }
    }
}

/// The one who looks.
struct Lookout {
    eyes: Eyes,
    options: WatchOptions,
    mailbox: Arc<Mailbox>,
    publish: watch::Sender<Option<Settled>>,
    asked: Vec<oneshot::Sender<Settled>>,
    last: Option<Fingerprint>,
    looked: Instant,
    next_poll: Instant,
    unrest: Option<Unrest>,
    /// The files that move, or did so less than `quiet` ago.
    motion: BTreeMap<OsString, Motion>,
}

/// A file that is being written.
#[derive(Clone, Copy)]
struct Motion {
    since: Instant,
    last: Instant,
}

/// Something is going on.
#[derive(Clone, Copy)]
struct Unrest {
    since: Instant,
    moved: Instant,
    by: FoundBy,
}

impl Unrest {
    /// When somebody last wrote, as far as a look at `now` can tell that found something moved and a file this young.
    fn last_write(&self, now: Instant, moved: bool, young: Option<Duration>) -> Instant {
        match (young, self.by) {
            (Some(age), _) => now.checked_sub(age).unwrap_or(now).max(self.moved),
            // Without events, and with a clock on the other side that may be wrong, only two equal looks prove rest.
            (None, FoundBy::Poll) if moved => now,
            (None, _) => self.moved,
        }
    }
}

impl Lookout {
    fn new(
        watched: Watched,
        options: WatchOptions,
        mailbox: Arc<Mailbox>,
        publish: watch::Sender<Option<Settled>>,
    ) -> Self {
        let eyes = Eyes {
            watched,
            mailbox: options.events.then(|| Arc::clone(&mailbox)),
            counts: Arc::clone(&options.counts),
            watches: None,
            retry: None,
            rearm: false,
        };
        let (now, motion) = (Instant::now(), BTreeMap::new());
        let (asked, last, unrest) = (Vec::new(), None, None);
        Self {
            eyes,
            options,
            mailbox,
            publish,
            asked,
            last,
            looked: now,
            next_poll: now,
            unrest,
            motion,
        }
    }

    async fn run(mut self) {
        loop {
            let deadline = match self.unrest {
                None => self.next_poll,
                // A file that never stops must not keep the others from being looked at.
                Some(Unrest { since, moved, .. }) => {
                    (moved.min(self.looked) + self.options.quiet).min(since + self.options.patience)
                }
            };
            let mail = self.mailbox.wait(deadline).await;
            if mail.closed {
                return;
            }
            let now = Instant::now();
            let asked_in_peace = !mail.asked.is_empty() && self.unrest.is_none();
            self.asked.extend(mail.asked);
            if let Some(hint) = mail.hint {
                self.eyes.rearm |= hint == Hint::Way;
                if self.unrest.is_none() {
                    self.looked = now;
                }
                let since = self.unrest.map_or(now, |unrest| unrest.since);
                self.unrest = Some(Unrest {
                    since,
                    moved: now,
                    by: FoundBy::Event,
                });
            }
            if self.unrest.is_none() && !asked_in_peace && now >= deadline {
                self.options.counts.polls.fetch_add(1, Ordering::Relaxed);
            }
            if now >= deadline || asked_in_peace {
                let looking = tokio::task::spawn_blocking(move || {
                    self.look(now);
                    self
                });
                // It ends where looking panicked, or the runtime does.
                let Ok(looked) = looking.await else { return };
                self = looked;
            }
        }
    }

    /// Looks, and says so if the directory has come to rest.
    fn look(&mut self, now: Instant) {
        let Self { options, .. } = self;
        let (quiet, patience) = (options.quiet, options.patience);
        // Without an event there is only the file system's word that nobody writes.
        let doubtful =
            !self.asked.is_empty() || self.unrest.is_some_and(|unrest| unrest.by == FoundBy::Poll);
        let look = self.eyes.look(doubtful);
        self.next_poll = Instant::now() + options.poll.max((look.cost * LOOK_SHARE).min(MAX_POLL));
        self.looked = Instant::now() + look.cost * UNREST_SHARE;
        let moved = self.last.as_ref() != Some(&look.fingerprint);
        let young = look.fingerprint.youngest(quiet);
        self.note_motion(&look.fingerprint, now);
        self.last = Some(look.fingerprint.clone());

        let Some(unrest) = self.unrest else {
            if moved || young.is_some() {
                self.unrest = Some(Unrest {
                    since: now,
                    moved: now,
                    by: FoundBy::Poll,
                });
            } else if !self.asked.is_empty() {
                self.say(Settled {
                    fingerprint: look.fingerprint,
                    by: FoundBy::Poll,
                    unsettled: Vec::new(),
                });
            }
            return;
        };
        let last_write = unrest.last_write(now, moved, young);
        if last_write + quiet <= now {
            self.unrest = None;
            self.motion.clear();
            self.say(Settled {
                fingerprint: look.fingerprint,
                by: unrest.by,
                unsettled: Vec::new(),
            });
        } else if unrest.since + patience <= now {
            self.lose_patience(&look.fingerprint, unrest.by);
        } else {
            self.unrest = Some(Unrest {
                moved: last_write,
                ..unrest
            });
            let restless = |motion: &Motion| motion.since + self.options.restless <= now;
            if !self.motion.is_empty() && self.motion.values().all(restless) {
                let moving = self.motion.keys().cloned().collect();
                self.say_but_for(&moving, look.fingerprint, unrest.by);
            }
        }
    }

    /// Takes over which files move at a look.
    fn note_motion(&mut self, fingerprint: &Fingerprint, now: Instant) {
        let quiet = self.options.quiet;
        let before = self.last.as_ref().unwrap_or(fingerprint);
        let mut moving = fingerprint.moving(before, quiet);
        moving.extend(fingerprint.gone(before).cloned());
        self.motion
            .retain(|name, motion| moving.contains(name) || motion.last + quiet > now);
        for name in moving {
            self.motion
                .entry(name)
                .or_insert(Motion {
                    since: now,
                    last: now,
                })
                .last = now;
        }
    }

    /// Says what there is but for the files that are moving; nothing where that was said and nobody asks.
    fn say_but_for(&mut self, moving: &BTreeSet<OsString>, fingerprint: Fingerprint, by: FoundBy) {
        let fingerprint = fingerprint.with_moving(moving);
        let known = self
            .publish
            .borrow()
            .as_ref()
            .is_some_and(|settled| settled.fingerprint == fingerprint);
        if !known || !self.asked.is_empty() {
            let unsettled = moving
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            self.say(Settled {
                fingerprint,
                by,
                unsettled,
            });
        }
    }

    /// Says what there is but for the files that are still moving, and goes on waiting for those.
    fn lose_patience(&mut self, before: &Fingerprint, by: FoundBy) {
        std::thread::sleep(self.options.quiet);
        let fingerprint = self.eyes.look(true).fingerprint;
        let moving = fingerprint.moving(before, self.options.quiet);
        let now = Instant::now();
        self.last = Some(fingerprint.clone());
        self.unrest = Some(Unrest {
            since: now,
            moved: now,
            by,
        });
        // Whoever asks next need not wait for these again.
        let since = now.checked_sub(self.options.restless).unwrap_or(now);
        self.motion = moving
            .iter()
            .map(|name| (name.clone(), Motion { since, last: now }))
            .collect();
        self.say_but_for(&moving, fingerprint, by);
    }

    fn say(&mut self, settled: Settled) {
        // First: whoever gets an answer and has seen it must not find an older state here.
        self.publish.send_replace(Some(settled.clone()));
        for asked in self.asked.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = asked.send(settled.clone());
        }
    }
}

/// What is watched; absolute.
#[derive(Debug)]
enum Watched {
    /// A directory of definitions.
    Definitions(PathBuf),
    /// A file, and the visible files of a directory.
    Files {
        file: Option<PathBuf>,
        directory: Option<PathBuf>,
    },
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Definitions(directory) => write!(f, "{}", directory.display()),
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

/// What looks at the file system.
struct Eyes {
    watched: Watched,
    /// Where hints go; `None` where no events are wanted.
    mailbox: Option<Arc<Mailbox>>,
    counts: Arc<WatchCounts>,
    watches: Option<Ear>,
    /// When to try again to watch what could not be watched.
    retry: Option<Instant>,
    rearm: bool,
}

struct Look {
    fingerprint: Fingerprint,
    trail: Trail,
    cost: Duration,
}

impl Eyes {
    /// Looks, and sees to it that what was looked at is watched from before the look.
    fn look(&mut self, revalidate: bool) -> Look {
        let look = Look::take(&self.watched, revalidate);
        let Some(mailbox) = self.mailbox.clone() else {
            return look;
        };
        let watched = self
            .watches
            .as_ref()
            .is_some_and(|watches| *watches.trail() == look.trail);
        let retry = self.retry.is_some_and(|retry| retry <= Instant::now());
        if (watched && !self.rearm && !retry)
            || (self.watches.is_none() && self.retry.is_some() && !retry)
        {
            return look;
        }
        self.rearm = false;
        self.arm(look.trail, &mailbox);
        let look = Look::take(&self.watched, revalidate);
        if self
            .watches
            .as_ref()
            .is_some_and(|watches| *watches.trail() != look.trail)
        {
            // The way there changed while it was being watched.
            mailbox.post(|mail| mail.hint = Some(Hint::Way));
        }
        look
    }

    /// Watches the places of a trail and nothing else. Always begins anew: a watch outlives the directory it was set on.
    fn arm(&mut self, trail: Trail, mailbox: &Arc<Mailbox>) {
        self.watches = None;
        let (ear, trouble) = Ear::listen(trail, Arc::clone(mailbox), Arc::clone(&self.counts));
        self.watches = ear;
        match (&trouble, self.retry) {
            // One for all who watch: it is the same system's limit.
            (Some(error), None) if !WARNED.swap(true, Ordering::Relaxed) => tracing::warn!(
                "some file events of {} cannot be had, so that changes are found a little later, by looking: {error}. \
                 Where this is a limit of the system, raise fs.inotify.max_user_instances and \
                 fs.inotify.max_user_watches",
                self.watched
            ),
            (None, Some(_)) => tracing::info!("file events of {} can be had again", self.watched),
            _ => {}
        }
        self.retry = trouble.map(|_| Instant::now() + RETRY_WATCHES);
    }
}

/// Whether it was said that file events cannot be had.
static WARNED: AtomicBool = AtomicBool::new(false);

impl Look {
    fn take(watched: &Watched, revalidate: bool) -> Self {
        let begun = Instant::now();
        let mut trail = Trail::default();
        let sight = match watched {
            Watched::Definitions(directory) => {
                let listed = Self::list(directory, Listed::Definitions, revalidate, &mut trail);
                listed.unwrap_or_else(|error| Sight::Nothing(error.kind()))
            }
            Watched::Files { file, directory } => Self::files(
                file.as_deref(),
                directory.as_deref(),
                revalidate,
                &mut trail,
            ),
        };
        Self {
            fingerprint: Fingerprint(Arc::new(sight)),
            trail,
            cost: begun.elapsed(),
        }
    }

    /// A file, and the files of a directory. What is not there is part of how it looks.
    fn files(
        file: Option<&Path>,
        directory: Option<&Path>,
        revalidate: bool,
        trail: &mut Trail,
    ) -> Sight {
        let mut all = BTreeMap::new();
        if let Some(file) = file {
            // What leads nowhere is named as far as it goes.
            let _ = follow(Path::new("/"), file, |directory, name| {
                trail.add(directory, name)
            });
            all.insert(file.into(), Stamp::take(file, revalidate));
        }
        let (mut real, mut uncounted) = (PathBuf::new(), 0);
        match directory.map(|directory| {
            (
                directory,
                Self::list(directory, Listed::Visible, revalidate, trail),
            )
        }) {
            Some((
                _,
                Ok(Sight::Directory {
                    real: at,
                    files,
                    uncounted: more,
                }),
            )) => {
                (real, uncounted) = (at, more);
                all.extend(files);
            }
            Some((directory, Err(error))) => {
                all.insert(directory.into(), Stamp::Unreadable(error.kind()));
            }
            Some((_, Ok(_))) | None => {}
        }
        Sight::Directory {
            real,
            files: all,
            uncounted,
        }
    }

    fn list(
        directory: &Path,
        listed: Listed,
        revalidate: bool,
        trail: &mut Trail,
    ) -> io::Result<Sight> {
        let real = follow(Path::new("/"), directory, |directory, name| {
            trail.add(directory, name)
        })?;
        let entries = fs::read_dir(&real)?;
        trail.add_listed(&real, listed);
        let mut files = BTreeMap::new();
        let mut uncounted = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if !listed.holds(&name) {
                continue;
            }
            if files.len() == MAX_FILES {
                uncounted += 1;
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                // A ConfigMap's files are links through its link `..data`. Where a link leads out of the directory it is
                // not watched: a pull request has no say in that.
                let _ = follow(&real, Path::new(&name), |directory, name| {
                    if directory.starts_with(&real) {
                        trail.add(directory, name);
                    }
                });
            }
            let stamp = Stamp::take(&entry.path(), revalidate);
            files.insert(name, stamp);
        }
        Ok(Sight::Directory {
            real,
            files,
            uncounted,
        })
    }
}

/// Resolves a path, beginning at a directory that is free of links, and names every place whose change would make it
/// lead elsewhere: each link, what is missing, and the end. A place is a directory, free of links, and a name in it.
fn follow(from: &Path, path: &Path, mut place: impl FnMut(&Path, &OsStr)) -> io::Result<PathBuf> {
    let mut at = from.to_owned();
    let mut ahead = Vec::new();
    push_steps(&mut ahead, path);
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        let name = match step {
            Step::Root => {
                at = PathBuf::from("/");
                continue;
            }
            Step::Up => {
                at.pop();
                continue;
            }
            Step::Into(name) => name,
        };
        let next = at.join(&name);
        let is_link = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata.is_symlink(),
            Err(error) => {
                place(&at, &name);
                return Err(error);
            }
        };
        if is_link || ahead.is_empty() {
            place(&at, &name);
        }
        if is_link {
            links += 1;
            if links > MAX_LINKS {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            push_steps(&mut ahead, &fs::read_link(&next)?);
        } else {
            at = next;
        }
    }
    Ok(at)
}

enum Step {
    Root,
    Up,
    Into(OsString),
}

fn push_steps(ahead: &mut Vec<Step>, path: &Path) {
    ahead.extend(
        path.components()
            .rev()
            .filter_map(|component| match component {
                Component::RootDir => Some(Step::Root),
                Component::ParentDir => Some(Step::Up),
                Component::Normal(name) => Some(Step::Into(name.to_owned())),
                Component::CurDir | Component::Prefix(_) => None,
            }),
    );
}

/// The directories to watch, free of links, and what matters in each. Only ever directories: a watch on a file or
/// through a link fires once, and then never again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Trail(BTreeMap<PathBuf, Place>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    /// Device and inode.
    identity: Option<(u64, u64)>,
    names: BTreeSet<OsString>,
    /// The files that matter whatever their names.
    listed: Option<Listed>,
}

/// Which files of a directory count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Definitions,
    /// Those that are not hidden.
    Visible,
}

impl Listed {
    fn holds(self, name: &OsStr) -> bool {
        match self {
            Self::Definitions => is_input(name),
            Self::Visible => !name.as_encoded_bytes().starts_with(b"."),
        }
    }
}

impl Place {
    fn lists(&self, name: &OsStr) -> bool {
        self.listed.is_some_and(|listed| listed.holds(name))
    }
}

impl Trail {
    fn add(&mut self, directory: &Path, name: &OsStr) {
        if let Some(place) = self.place(directory)
            && !place.lists(name)
        {
            place.names.insert(name.to_owned());
        }
    }

    fn add_listed(&mut self, directory: &Path, listed: Listed) {
        if let Some(place) = self.place(directory) {
            place.listed = Some(listed);
        }
    }

    fn place(&mut self, directory: &Path) -> Option<&mut Place> {
        if !self.0.contains_key(directory) {
            if self.0.len() == MAX_WATCHES {
                return None;
            }
            let identity = fs::metadata(directory)
                .ok()
                .map(|known| (known.dev(), known.ino()));
            self.0.insert(
                directory.to_owned(),
                Place {
                    identity,
                    ..Place::default()
                },
            );
        }
        self.0.get_mut(directory)
    }

    /// What an event has to say, if anything. Reading causes events too; those would make us hear ourselves.
    fn hint(&self, event: &notify::Result<Event>) -> Option<Hint> {
        let Ok(event) = event else {
            return Some(Hint::Way);
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) => return None,
            _ if event.need_rescan() => return Some(Hint::Way),
            _ => {}
        }
        event
            .paths
            .iter()
            .filter_map(|path| self.matters(path))
            .max()
    }

    fn matters(&self, path: &Path) -> Option<Hint> {
        if self.0.contains_key(path) {
            return Some(Hint::Way);
        }
        let (place, name) = (self.0.get(path.parent()?)?, path.file_name()?);
        if place.names.contains(name) {
            Some(Hint::Way)
        } else {
            place.lists(name).then_some(Hint::File)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGO: Duration = Duration::from_millis(100);

    #[test]
    fn without_events_only_two_equal_looks_prove_rest() {
        let now = Instant::now();
        let unrest = |by| Unrest {
            since: now - 3 * AGO,
            moved: now - 2 * AGO,
            by,
        };
        assert_eq!(unrest(FoundBy::Poll).last_write(now, true, None), now);
        assert_eq!(
            unrest(FoundBy::Poll).last_write(now, false, None),
            now - 2 * AGO
        );
        assert_eq!(
            unrest(FoundBy::Event).last_write(now, true, None),
            now - 2 * AGO
        );
    }

    #[test]
    fn a_files_age_can_only_prolong_the_wait() {
        let now = Instant::now();
        let unrest = Unrest {
            since: now - 3 * AGO,
            moved: now - 2 * AGO,
            by: FoundBy::Event,
        };
        assert_eq!(unrest.last_write(now, true, Some(AGO)), now - AGO);
        assert_eq!(unrest.last_write(now, true, Some(3 * AGO)), now - 2 * AGO);
    }

    #[test]
    fn a_time_in_the_future_is_no_age() {
        let stamp = |changed| Stamp::File {
            inode: (0, 0),
            size: 0,
            modified: (i64::MAX, 0),
            changed,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(stamp((1001, 0)).age(now), None);
        assert_eq!(stamp((999, 0)).age(now), Some(Duration::from_secs(1)));
        assert_eq!(stamp((-1, 0)).age(now), None);
    }
}
