//! A repository at a git server: fetches the commit that a reference names into a bare, shallow clone.
//!
//! gix has the protocol (version 2, and 0 for old servers) and the object database. Requests go through [`crate::http`]. The
//! clone has no references and no work tree: what is in force is the commit in its record, and definitions are read from
//! the tree of that commit.
//!
//! A fetch that finds nothing new costs one request. One that finds a commit costs two, and the first of a process one more.
//!
//! Never: run git or another program, use any value of a git configuration, or let a failed fetch change what is in force.

mod clone;
mod connection;
mod credentials;
mod error;
#[cfg(test)]
mod fixtures;
mod reference;
mod transport;

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gix::objs::Kind;
use gix::{ObjectId, Repository};
use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::repository::{GitError, read_object};
use crate::http::{Http, HttpTimeouts, HttpUrl, SetupError, read_certificates};
use crate::model::{Scrubber, ellipsize, hex, printable};
use clone::{CloneDirectory, Generation, Record, open_bare};
use connection::Connection;
use reference::{Target, default_branch, find_target};
use transport::{Advertisement, Exchange};

pub use clone::CloneRoot;
pub use credentials::{GitCredentials, GithubApp, default_username};
pub use error::FetchError;
pub use reference::{GitPath, GitReference};

/// The usual limit of the bytes of one fetch.
pub const MAX_FETCH: u64 = 512 << 20;
/// The usual time limit of one fetch.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// The time between two attempts to repair the clone of one commit.
const REPAIR: Duration = Duration::from_secs(600);
/// The longest quotation of a library's reason, in characters.
const MAX_QUOTE: usize = 300;

/// What is fetched, from where, and into which directory.
#[derive(Debug)]
pub struct RemoteSettings {
    pub url: HttpUrl,
    pub reference: GitReference,
    pub credentials: GitCredentials,
    /// CA certificates beside those of the system.
    pub ca_file: Option<PathBuf>,
    pub root: Arc<CloneRoot>,
    /// How many commits of the history are fetched.
    pub depth: NonZeroU32,
    /// The time limit of one fetch.
    pub timeout: Duration,
    /// The most bytes of one fetch.
    pub max_bytes: u64,
}

/// A repository at a git server, and its clone.
pub struct Remote {
    settings: RemoteSettings,
    directory: PathBuf,
    /// One fetch at a time.
    session: Mutex<Session>,
    current: Mutex<Option<Arc<FetchedCommit>>>,
    /// Why the last fetch failed.
    failure: Mutex<Option<String>>,
    damage: Mutex<Damage>,
    damaged: Notify,
}

/// Whether the clone has to be replaced.
#[derive(Default)]
struct Damage {
    is_reported: bool,
    /// The commit whose clone was replaced, and when.
    replaced_for: Option<(ObjectId, Instant)>,
}

/// What is kept between two fetches.
#[derive(Default)]
struct Session {
    clone: Option<CloneDirectory>,
    generation: Option<Generation>,
    http: Option<(Vec<u8>, Http)>,
    advertisement: Option<Advertisement>,
}

/// The commit in force.
#[derive(Debug)]
pub struct FetchedCommit {
    /// The clone.
    directory: PathBuf,
    pub(super) commit: ObjectId,
    /// The annotated tag that was asked for.
    pub(super) tag: Option<ObjectId>,
    /// The full name of the branch or tag; `None` if a commit is followed.
    pub reference: Option<String>,
    /// When it was fetched.
    pub fetched: Timestamp,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.settings.url)
            .field("reference", &self.settings.reference)
            .finish_non_exhaustive()
    }
}

impl FetchedCommit {
    /// The full id, in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        self.commit.to_string()
    }

    /// The short name of the tag that is followed.
    pub(super) fn tag_name(&self) -> Option<String> {
        let name = self.reference.as_deref()?.strip_prefix("refs/tags/")?;
        Some(name.to_owned())
    }

    /// The full id of the annotated tag, or of the commit without one.
    #[must_use]
    pub fn object_id(&self) -> String {
        self.tag.unwrap_or(self.commit).to_string()
    }

    /// Opens the clone. A clone that stays open would keep files open that are no longer there.
    pub(super) fn open(&self) -> Result<Repository, GitError> {
        Ok(open_bare(&self.directory)?)
    }
}

impl Remote {
    #[must_use]
    pub fn new(settings: RemoteSettings) -> Self {
        // The name is for people, the digest makes it unique.
        let url = settings.url.to_string();
        let about = (
            &url,
            &settings.reference,
            settings.credentials.identity(),
            &settings.ca_file,
            settings.depth,
        );
        let digest = hex(&Sha256::digest(format!("{about:?}")));
        let name = url.rsplit('/').next().unwrap_or_default();
        let name: String = name
            .trim_end_matches(".git")
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            .take(40)
            .collect();
        let directory = format!("{name}-{}", digest.get(..16).unwrap_or_default());
        let root = settings.root.path();
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        Self {
            directory: root.join(directory),
            settings,
            session: Mutex::default(),
            current: Mutex::default(),
            failure: Mutex::default(),
            damage: Mutex::default(),
            damaged: Notify::new(),
        }
    }

    #[must_use]
    pub const fn url(&self) -> &HttpUrl {
        &self.settings.url
    }

    #[must_use]
    pub const fn reference(&self) -> &GitReference {
        &self.settings.reference
    }

    /// Where its clone is. Two values that fetch the same have the same directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The commit in force; `None` before the first successful fetch.
    #[must_use]
    pub fn current(&self) -> Option<Arc<FetchedCommit>> {
        self.current.lock().clone()
    }

    /// Why no commit is in force.
    pub(super) fn failure(&self) -> String {
        let failure = self.failure.lock().clone();
        failure.unwrap_or_else(|| "the first fetch has not ended yet".to_owned())
    }

    /// Reports that an object of a commit cannot be read. The next fetch makes a new clone, at most once in [`REPAIR`] for a
    /// commit, which may be unreadable itself.
    pub(super) fn report_damage(&self, commit: ObjectId) {
        let mut damage = self.damage.lock();
        let is_tried = damage
            .replaced_for
            .is_some_and(|(last, at)| last == commit && at.elapsed() < REPAIR);
        if !is_tried {
            *damage = Damage {
                is_reported: true,
                replaced_for: Some((commit, Instant::now())),
            };
            self.damaged.notify_one();
        }
    }

    /// Waits until damage of the clone is reported. Cancel-safe.
    pub async fn damaged(&self) {
        self.damaged.notified().await;
    }

    fn is_damaged(&self) -> bool {
        self.damage.lock().is_reported
    }

    /// Puts the commit of an earlier process into force, if its clone is there.
    pub fn restore(&self) {
        let mut session = self.session.lock();
        // The first fetch reports the failure.
        let _ = self.open_clone(&mut session);
    }

    /// Fetches the reference. Returns the commit if it is another one than before. Blocks up to the time limit
    /// while it waits for the server, or until `stop` is cancelled. Must not be called on a thread that runs tasks.
    ///
    /// # Errors
    /// [`FetchError`]; the commit in force stays.
    pub fn fetch(
        &self,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<FetchedCommit>>, FetchError> {
        let fetched = self.try_fetch(runtime, stop);
        *self.failure.lock() = fetched.as_ref().err().map(ToString::to_string);
        fetched
    }

    fn try_fetch(
        &self,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<FetchedCommit>>, FetchError> {
        let mut session = self.session.lock();
        self.open_clone(&mut session)?;
        let deadline = Instant::now() + self.settings.timeout;
        let was_damaged = self.is_damaged();
        let fetched = match self.attempt(&mut session, runtime, stop, deadline) {
            Err(FetchError::Unauthorized(_)) if self.settings.credentials.forget() => {
                self.attempt(&mut session, runtime, stop, deadline)
            }
            // The server may have been replaced by another version.
            Err(FetchError::NotGit(_) | FetchError::Invalid(_) | FetchError::NotFound)
                if session.advertisement.take().is_some() =>
            {
                self.attempt(&mut session, runtime, stop, deadline)
            }
            // The update was too large to be added to the clone.
            Err(FetchError::TooLarge(_) | FetchError::LargeObject(_))
                if !was_damaged && self.is_damaged() =>
            {
                self.attempt(&mut session, runtime, stop, deadline)
            }
            other => other,
        }?;
        if let Some(fetched) = &fetched {
            *self.current.lock() = Some(Arc::clone(fetched));
        }
        Ok(fetched)
    }

    /// Opens the clone, once, and restores the commit of the last process.
    fn open_clone(&self, session: &mut Session) -> Result<(), FetchError> {
        if session.clone.is_some() {
            return Ok(());
        }
        let clone = CloneDirectory::open(self.directory.clone())?;
        if let Some((record, generation)) = clone.restore()
            && let Some(commit) = restored(&record, &generation)
        {
            *self.current.lock() = Some(Arc::new(commit));
            session.generation = Some(generation);
        }
        session.clone = Some(clone);
        Ok(())
    }

    fn attempt(
        &self,
        session: &mut Session,
        runtime: &Handle,
        stop: &CancellationToken,
        deadline: Instant,
    ) -> Result<Option<Arc<FetchedCommit>>, FetchError> {
        let scrubber = Scrubber::default();
        self.exchange(session, runtime, stop, deadline, &scrubber)
            .map_err(|error| error.scrubbed(&scrubber))
    }

    fn exchange(
        &self,
        session: &mut Session,
        runtime: &Handle,
        stop: &CancellationToken,
        deadline: Instant,
        scrubber: &Scrubber,
    ) -> Result<Option<Arc<FetchedCommit>>, FetchError> {
        let current = self.current();
        let is_damaged = self.is_damaged();
        if let (GitReference::Commit(id), Some(current), false) =
            (&self.settings.reference, &current, is_damaged)
            && current.commit == *id
        {
            return Ok(None);
        }
        let settings = &self.settings;
        let http = self.http(session)?;
        let authorization = settings
            .credentials
            .authorization(&http, scrubber, deadline);
        let route = http
            .route(settings.url.as_url())
            .map_err(|error| FetchError::Tls(error.to_string()))?;
        let exchange = Arc::new(Exchange {
            runtime: runtime.clone(),
            stop: stop.clone(),
            route,
            authorization: runtime.block_on(authorization)?,
            credential: settings.credentials.describe(),
            deadline,
            max: settings.max_bytes,
            budget: Mutex::default(),
            interrupt: Arc::default(),
            advertisement: Mutex::new(session.advertisement.take()),
            failure: Mutex::default(),
        });
        let _interrupter = exchange.interrupt_in_time();
        let mut connection = Connection::open(&settings.url, Arc::clone(&exchange))?;
        session.advertisement = exchange.advertisement.lock().clone();
        let target = self.target(&mut connection, current.as_deref())?;
        if let Some(current) = &current
            && !is_damaged
            && (current.commit, current.tag) == (target.commit, target.tag)
            && current.reference == target.reference
        {
            return Ok(None);
        }
        let fetched = self.receive(session, &mut connection, &target, current.as_deref())?;
        self.damage.lock().is_reported = false;
        Ok(Some(Arc::new(fetched)))
    }

    /// The clients of this repository. The file of CA certificates is read again, and new ones make new clients.
    fn http(&self, session: &mut Session) -> Result<Http, FetchError> {
        let tls = |error: SetupError| FetchError::Tls(error.to_string());
        let (bytes, certificates) = match &self.settings.ca_file {
            Some(file) => read_certificates(file).map_err(tls)?,
            None => (Vec::new(), Vec::new()),
        };
        match &session.http {
            Some((known, http)) if *known == bytes => Ok(http.clone()),
            _ => {
                let http = Http::trusting(HttpTimeouts::default(), &certificates).map_err(tls)?;
                session.http = Some((bytes, http.clone()));
                Ok(http)
            }
        }
    }

    /// Asks the server for the object that the reference names.
    fn target(
        &self,
        connection: &mut Connection,
        current: Option<&FetchedCommit>,
    ) -> Result<Target, FetchError> {
        let reference = &self.settings.reference;
        if let GitReference::Commit(commit) = reference {
            return Ok(Target {
                reference: None,
                commit: *commit,
                tag: None,
            });
        }
        let refs = connection.list(&reference.candidates())?;
        match reference {
            GitReference::Default => {
                default_branch(&refs, current.and_then(|it| it.reference.as_deref()))
            }
            GitReference::Name(_) | GitReference::Commit(_) => find_target(&refs, reference),
        }
    }

    /// Receives the objects of a commit, into the clone or, if it is damaged or has many packs, into a new one.
    fn receive(
        &self,
        session: &mut Session,
        connection: &mut Connection,
        target: &Target,
        current: Option<&FetchedCommit>,
    ) -> Result<FetchedCommit, FetchError> {
        let storage = |source: io::Error| FetchError::Storage {
            directory: self.directory.clone(),
            source,
        };
        let Session {
            clone, generation, ..
        } = session;
        let Some(clone) = clone else {
            return Err(FetchError::Internal);
        };
        let depth = self.settings.depth;
        let record = |generation: &Generation| {
            clone.commit(
                generation,
                &self.settings.url.to_string(),
                target.reference.as_deref(),
                (target.commit, target.tag),
            )
        };
        let usable = generation
            .as_ref()
            .filter(|generation| generation.is_small() && !self.is_damaged());
        if let (Some(generation), Some(current)) = (usable, current) {
            generation.remove_leftovers().map_err(storage)?;
            let received = connection.receive(generation, target, Some(current.commit), depth);
            match received.and_then(|()| check(generation, target)) {
                Ok(()) => {
                    let record = record(generation).map_err(storage)?;
                    return Ok(commit_of(generation, target, &record));
                }
                Err(error) => {
                    // The clone may be the cause: the next attempt makes a new one, with a new connection.
                    if matches!(
                        error,
                        FetchError::Storage { .. }
                            | FetchError::Invalid(_)
                            | FetchError::TooLarge(_)
                            | FetchError::LargeObject(_)
                    ) {
                        self.damage.lock().is_reported = true;
                    }
                    generation.remove_leftovers().map_err(storage)?;
                    return Err(error);
                }
            }
        }
        let new = clone.begin(generation.as_ref()).map_err(storage)?;
        let received = connection
            .receive(&new, target, None, depth)
            .and_then(|()| check(&new, target))
            .and_then(|()| record(&new).map_err(storage));
        match received {
            Ok(record) => {
                let fetched = commit_of(&new, target, &record);
                *generation = Some(new);
                Ok(fetched)
            }
            Err(error) => {
                // If it cannot be removed now, the next fetch does.
                let _ = clone.discard_others(generation.as_ref());
                Err(error)
            }
        }
    }
}

fn commit_of(generation: &Generation, target: &Target, record: &Record) -> FetchedCommit {
    FetchedCommit {
        directory: generation.path().to_owned(),
        commit: target.commit,
        tag: target.tag,
        reference: target.reference.clone(),
        fetched: record.fetched,
    }
}

/// The commit of an earlier process, if its objects are whole.
fn restored(record: &Record, generation: &Generation) -> Option<FetchedCommit> {
    let id = |text: &str| ObjectId::from_hex(text.as_bytes()).ok();
    let target = Target {
        reference: record.reference.clone(),
        commit: id(&record.commit)?,
        tag: match &record.tag {
            Some(tag) => Some(id(tag)?),
            None => None,
        },
    };
    check(generation, &target).ok()?;
    Some(commit_of(generation, &target, record))
}

/// Checks that a generation holds the commit, its tree and the tag.
fn check(generation: &Generation, target: &Target) -> Result<(), FetchError> {
    let invalid = |error: String| FetchError::Invalid(quote(&error));
    let repository = open_bare(generation.path()).map_err(|error| invalid(error.to_string()))?;
    let read = |id| read_object(&repository, id).map_err(|error| invalid(error.to_string()));
    if let Some(tag) = target.tag {
        let tag = read(tag)?;
        let names = tag.try_to_tag_ref().ok().map(|tag| tag.target());
        if names != Some(target.commit) {
            return Err(FetchError::NotACommit(format!("the tag {}", tag.id)));
        }
    }
    let commit = read(target.commit)?;
    if commit.kind != Kind::Commit {
        return Err(FetchError::NotACommit(target.commit.to_string()));
    }
    let tree = commit
        .try_into_commit()
        .and_then(|commit| Ok(commit.tree_id()?.detach()))
        .map_err(|error| invalid(error.to_string()))?;
    read(tree)?;
    Ok(())
}

fn quote(text: &str) -> String {
    ellipsize(&printable(text), MAX_QUOTE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::http::{SecretFile, UrlPolicy};

    fn remote(credentials: GitCredentials) -> Remote {
        Remote::new(RemoteSettings {
            url: HttpUrl::parse("https://git.example/a.git", UrlPolicy::api(false)).unwrap(),
            reference: GitReference::Default,
            credentials,
            ca_file: None,
            root: Arc::new(CloneRoot::Directory("/clones".into())),
            depth: NonZeroU32::MIN,
            timeout: FETCH_TIMEOUT,
            max_bytes: MAX_FETCH,
        })
    }

    fn token(username: &str, file: &str) -> GitCredentials {
        GitCredentials::Token {
            username: username.to_owned(),
            file: SecretFile::new(Path::new(file)),
        }
    }

    #[test]
    fn each_credential_has_its_own_clone() {
        let mut directories: Vec<_> = [
            GitCredentials::None,
            token("a", "/one"),
            token("a", "/two"),
            token("b", "/one"),
        ]
        .map(|credentials| remote(credentials).directory)
        .into();
        directories.sort();
        directories.dedup();
        assert_eq!(directories.len(), 4, "{directories:?}");
        assert_eq!(
            remote(token("a", "/one")).directory,
            remote(token("a", "/one")).directory
        );
    }

    #[test]
    fn clients_are_made_again_only_for_other_certificates() {
        crate::http::install_tls();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let write = |comment: &str| {
            let text = format!(
                "{comment}\n{}",
                include_str!("../../../../tests/fixtures/tls/cert.pem")
            );
            std::fs::write(&file, text).unwrap();
        };
        let mut remote = remote(GitCredentials::None);
        remote.settings.ca_file = Some(file.clone());
        let mut session = Session::default();
        let mut route = || {
            let http = remote.http(&mut session).unwrap();
            http.route(remote.settings.url.as_url()).unwrap()
        };
        write("# one");
        let first = route();
        assert!(Arc::ptr_eq(&first, &route()));
        write("# two");
        assert!(!Arc::ptr_eq(&first, &route()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_clone_is_replaced_once_in_ten_minutes_for_one_commit() {
        let remote = remote(GitCredentials::None);
        let [one, two] = [[1; 20], [2; 20]].map(ObjectId::from);
        let reported = |commit| {
            remote.damage.lock().is_reported = false;
            remote.report_damage(commit);
            remote.is_damaged()
        };
        assert!(reported(one));
        remote.damaged().await;
        assert!(!reported(one));
        assert!(reported(two));
        advance(REPAIR - Duration::from_millis(1)).await;
        assert!(!reported(two));
        advance(Duration::from_millis(1)).await;
        assert!(reported(two));
    }

    #[test]
    fn the_object_of_a_tag_is_the_tag() {
        let [commit, tag] = [[1; 20], [2; 20]].map(ObjectId::from);
        let mut fetched = FetchedCommit {
            directory: PathBuf::new(),
            commit,
            tag: None,
            reference: None,
            fetched: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(fetched.object_id(), "01".repeat(20));
        fetched.tag = Some(tag);
        assert_eq!(fetched.object_id(), "02".repeat(20));
    }
}
