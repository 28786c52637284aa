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
mod credentials;
mod error;
mod transport;

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gix::objs::Kind;
use gix::progress::Discard;
use gix::{ObjectId, Repository};
use gix_protocol::fetch::negotiate::{Action, Round, one_round};
use gix_protocol::fetch::{Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::transport::client::blocking_io::http::Transport;
use gix_protocol::transport::{Protocol, Service};
use gix_protocol::{Handshake, LsRefsCommand};
use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::repository::{GitError, read_object};
use crate::http::{Http, HttpTimeouts, HttpUrl, SetupError, read_certificates};
use crate::model::{ellipsize, hex, printable};
use clone::{CloneDirectory, Generation, Record, open_bare};
use transport::{Advertisement, Client, Exchange};

pub use clone::CloneRoot;
pub use credentials::{GitCredentials, GithubApp, default_username};
pub use error::FetchError;

/// The usual limit of the bytes of one fetch.
pub const MAX_FETCH: u64 = 512 << 20;
/// The largest object of a pack, in bytes; decoding takes that much memory.
const MAX_OBJECT: usize = 256 << 20;
/// The usual time limit of one fetch.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest quotation of a library's reason, in characters.
const MAX_QUOTE: usize = 300;

/// Which commit of a repository is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitReference {
    /// The default branch, which must stay the same.
    Default,
    /// A branch or a tag, as a short or a full name.
    Name(String),
    Commit(ObjectId),
}

/// The path of the definitions directory in a repository: relative, without `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitPath(PathBuf);

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
    /// The commit whose clone was replaced. A commit that is itself unreadable does not cause another clone.
    replaced_for: Option<ObjectId>,
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

/// The object that a reference names at the server.
struct Target {
    reference: Option<String>,
    commit: ObjectId,
    tag: Option<ObjectId>,
}

impl GitReference {
    /// # Errors
    /// A sentence if it is neither a name of a reference nor the full id of a commit.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() == 40
            && let Ok(id) = ObjectId::from_hex(text.as_bytes())
        {
            return Ok(Self::Commit(id));
        }
        match gix::validate::reference::name_partial(text.into()) {
            Ok(_) if text.len() <= 250 => Ok(Self::Name(text.to_owned())),
            Ok(_) | Err(_) => {
                Err("must be a branch, a tag or the full id of a commit, such as main".to_owned())
            }
        }
    }

    /// The reference as a tag; `None` if it is something else.
    #[must_use]
    pub fn of_tag(self) -> Option<Self> {
        match self {
            Self::Name(name) if !name.starts_with("refs/") => {
                Some(Self::Name(format!("refs/tags/{name}")))
            }
            Self::Name(name) if name.starts_with("refs/tags/") => Some(Self::Name(name)),
            Self::Name(_) | Self::Default | Self::Commit(_) => None,
        }
    }

    /// The full names that it may mean.
    fn candidates(&self) -> Vec<String> {
        match self {
            Self::Name(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Name(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
            Self::Default | Self::Commit(_) => Vec::new(),
        }
    }

    /// Whether a push to a reference, by its full name, concerns this one. `known` is the name that was found last.
    #[must_use]
    pub fn is_moved_by(&self, pushed: &str, known: Option<&str>) -> bool {
        match self {
            // Before the first fetch the default branch is unknown.
            Self::Default => known.is_none_or(|known| known == pushed),
            Self::Name(_) => self.candidates().iter().any(|name| name == pushed),
            Self::Commit(_) => false,
        }
    }
}

impl fmt::Display for GitReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default branch"),
            Self::Name(name) => f.write_str(name),
            Self::Commit(id) => id.fmt(f),
        }
    }
}

impl GitPath {
    /// # Errors
    /// A sentence if it is not a path within a repository.
    pub fn parse(text: &str) -> Result<Self, String> {
        use std::path::Component;
        let mut path = PathBuf::new();
        for part in Path::new(text).components() {
            match part {
                Component::Normal(name) => path.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(
                        "must be a directory in the repository, such as definitions".to_owned()
                    );
                }
            }
        }
        Ok(Self(path))
    }

    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for GitPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_os_str().is_empty() {
            true => f.write_str("."),
            false => self.0.display().fmt(f),
        }
    }
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
            settings.credentials.describe(),
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
        Self {
            directory: settings.root.path().join(directory),
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

    /// Reports that an object of a commit cannot be read. The next fetch makes a new clone, once for each commit.
    pub(super) fn report_damage(&self, commit: ObjectId) {
        let mut damage = self.damage.lock();
        if damage.replaced_for != Some(commit) {
            *damage = Damage {
                is_reported: true,
                replaced_for: Some(commit),
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
        if let Err(error) = self.open_clone(&mut session) {
            tracing::warn!("{error}");
        }
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
        let authorization = settings.credentials.authorization(&http, deadline);
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
            left: Mutex::new(settings.max_bytes),
            max: settings.max_bytes,
            advertisement: Mutex::new(session.advertisement.take()),
            failure: Mutex::default(),
        });
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
        let candidates = reference.candidates();
        let refs = connection.list(&candidates)?;
        if matches!(reference, GitReference::Default) {
            return default_branch(&refs, current.and_then(|it| it.reference.as_deref()));
        }
        let found: Vec<Target> = refs
            .iter()
            .filter_map(|found| target_of(found, &candidates))
            .collect();
        match <[Target; 1]>::try_from(found) {
            Ok([target]) => Ok(target),
            Err(found) if found.is_empty() => {
                let is_empty = refs.iter().all(|found| matches!(found, Ref::Unborn { .. }));
                Err(match is_empty {
                    true => FetchError::Empty,
                    false => FetchError::ReferenceMissing(printable(&reference.to_string())),
                })
            }
            Err(_) => Err(FetchError::Ambiguous(printable(&reference.to_string()))),
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
                    if matches!(error, FetchError::Storage { .. } | FetchError::Invalid(_)) {
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

/// The default branch, which must be the one that is known.
fn default_branch(refs: &[Ref], known: Option<&str>) -> Result<Target, FetchError> {
    let head = refs.iter().find(|found| name_of(found) == "HEAD");
    let short = |name: &str| quote(name.strip_prefix("refs/heads/").unwrap_or(name));
    let (name, commit) = match head {
        None | Some(Ref::Unborn { .. }) => {
            return Err(match known {
                Some(known) => FetchError::ReferenceMissing(short(known)),
                None => FetchError::Empty,
            });
        }
        Some(Ref::Symbolic { target, object, .. }) => (target.to_string(), *object),
        Some(Ref::Direct { object, .. } | Ref::Peeled { object, .. }) => {
            ("HEAD".to_owned(), *object)
        }
    };
    match known {
        Some(known) if known != name => Err(FetchError::DefaultBranchMoved {
            before: short(known),
            now: short(&name),
        }),
        _ => Ok(Target {
            reference: Some(name),
            commit,
            tag: None,
        }),
    }
}

fn name_of(found: &Ref) -> String {
    found.unpack().0.to_string()
}

/// The object of a reference, if it is one of those asked for.
fn target_of(found: &Ref, candidates: &[String]) -> Option<Target> {
    let (name, id, peeled) = found.unpack();
    let name = name.to_string();
    let id = id.filter(|_| candidates.contains(&name))?.to_owned();
    let (commit, tag) = match peeled {
        Some(peeled) => (peeled.to_owned(), Some(id)),
        None => (id, None),
    };
    Some(Target {
        reference: Some(name),
        commit,
        tag,
    })
}

/// A conversation with a server.
struct Connection {
    exchange: Arc<Exchange>,
    transport: Transport<Client>,
    handshake: Handshake,
}

impl Connection {
    fn open(url: &HttpUrl, exchange: Arc<Exchange>) -> Result<Self, FetchError> {
        let parsed = gix::url::parse(url.as_url().as_str())
            .map_err(|error| FetchError::NotGit(quote(&error.to_string())))?;
        let client = Client::new(Arc::clone(&exchange));
        let mut transport = Transport::new_http(client, parsed, Protocol::V2, false);
        let never = |_| Ok(None);
        let handshake = gix_protocol::handshake(
            &mut transport,
            Service::UploadPack,
            never,
            Vec::new(),
            &mut Discard,
        );
        let handshake = handshake.map_err(|error| failure(&exchange, &error))?;
        let format = handshake.capabilities.capability("object-format");
        if format.is_some_and(|format| format.value().is_some_and(|name| name != "sha1")) {
            return Err(FetchError::Sha256);
        }
        Ok(Self {
            exchange,
            transport,
            handshake,
        })
    }

    /// The references with these names and `HEAD`, and perhaps others.
    fn list(&mut self, names: &[String]) -> Result<Vec<Ref>, FetchError> {
        // Version 0 has listed all of them already.
        if let Some(refs) = self.handshake.refs.take() {
            return Ok(refs);
        }
        let mut prefixes = RefPrefixes::new();
        prefixes.extend(names.iter().map(|name| name.as_str().into()));
        prefixes.extend(["HEAD".into()]);
        let command =
            LsRefsCommand::new(Some(prefixes), &self.handshake.capabilities, user_agent());
        command
            .invoke_blocking(&mut self.transport, &mut Discard, false)
            .map_err(|error| failure(&self.exchange, &error))
    }

    /// Receives the pack of a commit into a generation. `have` is a commit that it holds already.
    fn receive(
        &mut self,
        generation: &Generation,
        target: &Target,
        have: Option<ObjectId>,
        depth: NonZeroU32,
    ) -> Result<(), FetchError> {
        let invalid = |error: gix::Error| FetchError::Invalid(quote(&error.to_string()));
        let repository = open_bare(generation.path()).map_err(invalid)?;
        let mut want = Want {
            id: target.tag.unwrap_or(target.commit),
            have: have.filter(|have| repository.find_header(*have).is_ok()),
        };
        let objects = repository.objects.clone();
        let packs = generation.packs();
        let options = gix_pack::bundle::write::Options {
            thread_limit: Some(1),
            alloc_limit_bytes: Some(MAX_OBJECT),
            ..Default::default()
        };
        let fetched = gix_protocol::fetch(
            &mut want,
            |pack, progress, interrupt| {
                let written = gix_pack::Bundle::write_to_directory(
                    pack,
                    Some(&packs),
                    progress,
                    interrupt,
                    Some(Box::new(objects)),
                    gix::hash::Kind::Sha1,
                    options,
                )?;
                // The mark is for a git that cleans up, which is never used here.
                if let Some(mark) = written.keep_path {
                    std::fs::remove_file(mark).map_err(gix::Error::from_error)?;
                }
                Ok(true)
            },
            Discard,
            &AtomicBool::new(false),
            Context {
                handshake: &mut self.handshake,
                transport: &mut self.transport,
                user_agent: user_agent(),
                trace_packetlines: false,
            },
            Options {
                shallow_file: generation.shallow_file(),
                shallow: &Shallow::DepthAtRemote(depth),
                tags: Tags::None,
                reject_shallow_remote: false,
            },
        );
        fetched.map(drop).map_err(|error| {
            // What failed on this side is an error of the file system.
            let own = error.iter_errors().find_map(|cause| {
                let cause = cause.downcast_ref::<io::Error>()?;
                matches!(
                    cause.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::PermissionDenied
                )
                .then(|| io::Error::from(cause.kind()))
            });
            match own {
                Some(source) => FetchError::Storage {
                    directory: packs.clone(),
                    source,
                },
                None => match failure(&self.exchange, &error) {
                    // What every implementation of git answers to an unknown commit.
                    FetchError::Invalid(text) if text.contains("not our ref") => {
                        FetchError::CommitMissing(target.commit.to_string())
                    }
                    failure => failure,
                },
            }
        })
    }
}

/// The cause of a failed request, or else what the protocol code says.
fn failure(exchange: &Exchange, error: &gix::Error) -> FetchError {
    let failed = exchange.failure.lock().take();
    failed.unwrap_or_else(|| {
        let causes: Vec<String> = error.iter_errors().map(ToString::to_string).collect();
        FetchError::Invalid(quote(&causes.join(": ")))
    })
}

fn user_agent() -> (&'static str, Option<String>) {
    let agent = concat!("git/calry-gitops-", env!("CARGO_PKG_VERSION"));
    ("agent", Some(agent.to_owned()))
}

/// Wants one object, and has at most one commit: nothing is negotiated.
struct Want {
    id: ObjectId,
    have: Option<ObjectId>,
}

impl Negotiate for Want {
    fn mark_complete_and_common_ref(&mut self) -> Result<Action, gix::Error> {
        Ok(Action::MustNegotiate {
            remote_ref_target_known: vec![false],
        })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _known: &[bool]) -> bool {
        arguments.want(self.id);
        true
    }

    fn one_round(
        &mut self,
        _state: &mut one_round::State,
        arguments: &mut Arguments,
        _previous: Option<&Response>,
    ) -> Result<(Round, bool), gix::Error> {
        if let Some(have) = self.have {
            arguments.have(have);
        }
        let round = Round {
            haves_sent: usize::from(self.have.is_some()),
            in_vain: 0,
            haves_to_send: 0,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}
