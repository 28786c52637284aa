//! The client: one request at a time to one workspace, bounded in time and size, and the errors made of its answers.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::io;
use std::iter::successors;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Method, Response};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::error::Cause;
use super::pace::{NoTurn, Pace};
use super::permission::Permit;
use super::wire::{self, Problem};
use super::{
    ApiKey, ApiUrl, Backoff, End, Error, Exchange, Listing, Observer, Operation, Permission, ReadCalry, SnapshotUrl,
    WriteCalry, retry,
};
use crate::model::{Live, Provider, SPANS, Scrubber, Update, UpdateMethod, Workspace, ellipsize, printable};
use crate::places::Places;

/// The largest list of definitions, in bytes after decompression.
const MAX_LISTING: usize = 32 << 20;

/// The largest error body that is looked at, in bytes. A longer one is not quoted: it cannot be cut before it is scrubbed,
/// and scrubbing takes time with its length.
const MAX_ERROR: usize = 4 << 10;

/// How many requests of the process are under way to one host, first come, first served, whichever workspace they are of.
const AT_ONCE: usize = 64;

/// How many more there may be that wait for an answer for longer than [`SLOW`].
const HANGING: usize = 192;

/// Who waits for an answer for longer lets the next one go first: a workspace that Calry does not answer holds up no other.
const SLOW: Duration = Duration::from_secs(2);

/// How many connections to one host are kept for the next request.
const IDLE: usize = 16;

/// The longest quotation of an API error's message, in characters.
const MAX_QUOTE: usize = 300;

/// Chooses ring for TLS, for the whole process. The first thing that `main` does; more calls do no harm.
pub fn install_tls() {
    // It fails only where a provider is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The time-outs of a single request; the deadline of a session bounds them all.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For a request as a whole, to the end of its answer.
    pub request: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(10) }
    }
}

/// The HTTP client cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// [`install_tls`] was not called.
    #[error("no TLS library was chosen before the first connection: this is a fault of calry-gitops, please report it")]
    NoProvider,
    /// No certificates, or another trouble with TLS.
    #[error(
        "cannot prepare TLS: {0}; https needs the CA certificates of the system (Debian's package ca-certificates), or a file of them named by SSL_CERT_FILE"
    )]
    Tls(String),
}

/// The connections of the process. Cheap to clone; workspaces share it.
#[derive(Clone, Debug)]
pub struct Http {
    /// For https: by the system's proxies and its CA certificates.
    secure: Result<Client, SetupError>,
    /// For plain http: never by a proxy, which would see the key, and without any need of certificates.
    plain: Client,
    settings: Settings,
    /// By the hosts' addresses.
    hosts: Arc<Mutex<BTreeMap<String, Arc<Places>>>>,
}

impl Http {
    /// Sets the clients up; nothing is connected yet. Missing CA certificates are an error only of an [`Api`] over https.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        // reqwest panics without a provider.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(SetupError::NoProvider);
        }
        let client = |kind: fn(ClientBuilder) -> ClientBuilder| {
            kind(Client::builder())
                .user_agent(concat!("calry-gitops/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.connect)
                .pool_max_idle_per_host(IDLE)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                // An update is sent once. Trying again is decided here, where a read can come first.
                .retry(reqwest::retry::never())
                .build()
                .map_err(|error| SetupError::Tls(root_cause(error)))
        };
        Ok(Self {
            secure: client(|c| c.https_only(true)),
            plain: client(|c| c.no_proxy().tls_certs_only([]))?,
            settings,
            hosts: Arc::default(),
        })
    }

    /// Places for requests to a host; the same for all who share these connections.
    fn places(&self, url: &ApiUrl) -> Arc<Places> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let places = hosts.entry(url.host()).or_insert_with(|| Arc::new(Places::new(AT_ONCE, HANGING, SLOW)));
        Arc::clone(places)
    }

    pub(super) fn client(&self, secure: bool) -> Result<Client, SetupError> {
        if secure { self.secure.clone() } else { Ok(self.plain.clone()) }
    }
}

impl Http {
    /// Reads a document at an address, again and again where that makes sense. Nothing is sent that not everybody knows.
    pub(super) async fn document(
        &self,
        address: &SnapshotUrl,
        deadline: Instant,
        limit: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut backoff = Backoff::default();
        loop {
            let end = deadline.min(Instant::now() + self.settings.request);
            let given = end.saturating_duration_since(Instant::now());
            let answer = timeout_at(end, self.exchange(address, limit)).await.unwrap_or(Err(Cause::TimedOut { given }));
            let error = match answer {
                Ok(body) => return Ok(body),
                Err(cause) => Error::new(Operation::Snapshot, cause),
            };
            match backoff.next(&error, deadline) {
                Some(pause) => sleep(pause).await,
                None => return Err(error.after(backoff.attempts())),
            }
        }
    }

    async fn exchange(&self, address: &SnapshotUrl, limit: usize) -> Result<Vec<u8>, Cause> {
        let broken = |error: reqwest::Error| Cause::Broken {
            sent: !error.is_connect(),
            lasting: is_distrust(&error),
            api: address.to_string(),
            reason: ellipsize(&printable(&root_cause(error)), MAX_QUOTE),
        };
        let setup = |error: &SetupError| Cause::Broken {
            sent: false,
            lasting: true,
            api: address.to_string(),
            reason: error.to_string(),
        };
        let client = match address.url().scheme() {
            "https" => self.secure.as_ref().map_err(setup)?,
            _ => &self.plain,
        };
        let mut response = client.get(address.url().clone()).send().await.map_err(broken)?;
        let status = response.status();
        if !status.is_success() {
            let (key, retry_after) = (String::new(), None);
            return Err(Cause::Status { status: status.as_u16(), message: None, expired: false, key, retry_after });
        }
        bounded(&mut response, limit).await.map_err(broken)?.ok_or(Cause::TooLarge { limit })
    }
}

/// The API of one workspace, for as long as the process works on it: its connections and its pace outlast a pass.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    settings: Settings,
    url: ApiUrl,
    method: UpdateMethod,
    observer: Arc<dyn Observer>,
    permission: Arc<dyn Permission>,
    pace: Arc<Pace>,
    places: Arc<Places>,
}

impl Api {
    /// The API at a URL. Each workspace needs one of its own: a rate limit is a workspace's.
    ///
    /// # Errors
    /// [`SetupError`] where the URL is https and TLS cannot be set up.
    pub fn new(http: &Http, url: ApiUrl, method: UpdateMethod) -> Result<Self, SetupError> {
        let (client, places) = (http.client(url.is_secure())?, http.places(&url));
        let (observer, permission, pace) = (Arc::new(()), Arc::new(()), Arc::default());
        Ok(Self { client, settings: http.settings, url, method, observer, permission, pace, places })
    }

    /// The same API, whose requests somebody is told of.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { pace: Arc::new(Pace::observed_by(Arc::clone(&observer))), observer, ..self }
    }

    /// The same API, to which an update is sent only where somebody permits it.
    #[must_use]
    pub fn permitted_by(self, permission: Arc<dyn Permission>) -> Self {
        Self { permission, ..self }
    }

    /// Where it is.
    #[must_use]
    pub const fn url(&self) -> &ApiUrl {
        &self.url
    }

    /// How updates are sent.
    #[must_use]
    pub const fn method(&self) -> UpdateMethod {
        self.method
    }

    /// Begins a session that can read, up to a deadline. The scrubber may know secrets already; it learns the key and
    /// every value below `partnerKey` that passes by.
    #[must_use]
    pub fn reader(&self, key: &ApiKey, deadline: Instant, mut scrubber: Scrubber) -> Reader {
        scrubber.learn(key.secret());
        let session = Session {
            api: self.clone(),
            key: key.clone(),
            deadline,
            scrubber: Mutex::new(scrubber),
            in_vain: Mutex::default(),
        };
        Reader(Arc::new(session))
    }

    /// Adds the right to write to a session.
    #[must_use]
    pub fn writer(&self, reader: &Reader) -> Writer {
        Writer(Arc::clone(&reader.0))
    }
}

/// A session that reads. It has no way to write.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Session>);

/// A session that writes.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Session>);

impl ReadCalry for Reader {
    async fn workspace(&self) -> Result<Workspace, Error> {
        let body = self.0.read(&Operation::Workspace, "/api/v1/workspace", wire::MAX_DEFINITION).await?;
        wire::workspace(&body).map_err(|problem| unusable(&Operation::Workspace, problem))
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        let body = self.0.read(&Operation::Definitions, "/api/v1/integration-definition", MAX_LISTING).await?;
        let mut scrubber = self.0.scrubber();
        wire::listing(&body, |secret| scrubber.learn(secret))
            .map_err(|problem| unusable(&Operation::Definitions, problem))
    }

    async fn definition(&self, provider: &Provider) -> Result<Live, Error> {
        let operation = Operation::Definition(provider.clone());
        let body = self.0.read(&operation, &path_of(provider), wire::MAX_DEFINITION).await?;
        self.0.definition(&operation, provider, &body)
    }
}

impl WriteCalry for Writer {
    async fn update(&self, provider: &Provider, update: &Update) -> Result<Live, Error> {
        for secret in update.partner_key.iter().flat_map(|key| key.values()) {
            self.0.scrubber().learn(secret);
        }
        let in_vain = || self.0.in_vain.lock().unwrap_or_else(PoisonError::into_inner);
        if in_vain().contains(provider) {
            self.0.api.observer.retried();
        }
        let operation = Operation::Update(provider.clone());
        let body = Some(wire::update(update));
        let answer = self.0.once(&operation, &path_of(provider), body, wire::MAX_DEFINITION).await;
        if answer.as_ref().is_err_and(|error| error.is_transient() && !error.is_pause()) {
            in_vain().insert(provider.clone());
        }
        self.0.definition(&operation, provider, &answer?)
    }
}

/// A provider's name needs no escaping in a URL.
fn path_of(provider: &Provider) -> String {
    format!("/api/v1/integration-definition/{provider}")
}

fn unusable(operation: &Operation, problem: Problem) -> Error {
    let cause = match problem {
        Problem::NotJson => Cause::NotJson { status: 200 },
        Problem::Shape(problem) => Cause::Unreadable { problem },
    };
    Error::new(operation.clone(), cause)
}

#[derive(Debug)]
struct Session {
    api: Api,
    key: ApiKey,
    deadline: Instant,
    scrubber: Mutex<Scrubber>,
    /// Whose updates were sent in vain.
    in_vain: Mutex<BTreeSet<Provider>>,
}

impl Session {
    /// Reads, again and again where that makes sense.
    async fn read(&self, operation: &Operation, path: &str, limit: usize) -> Result<Vec<u8>, Error> {
        let mut backoff = Backoff::default();
        loop {
            let error = match self.once(operation, path, None, limit).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            match backoff.next(&error, self.deadline) {
                Some(pause) => {
                    tracing::debug!(%error, ?pause, "trying again");
                    sleep(pause).await;
                    self.api.observer.retried();
                }
                None => return Err(error.after(backoff.attempts())),
            }
        }
    }

    /// One attempt, in its turn. With a body it is an update, without one it is a read.
    async fn once(
        &self,
        operation: &Operation,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<u8>, Error> {
        let failed = |cause| Error::new(operation.clone(), cause);
        let pace = &self.api.pace;
        // An update does not wait out a pause in here: what it carries grows old meanwhile, and a stop could not reach it.
        let turn = match &body {
            None => pace.start(self.deadline).await,
            Some(_) => pace.start_unless_paused(self.deadline).await,
        };
        turn.map_err(|e| match e {
            NoTurn::Paused(wait) => failed(Cause::Paused { wait }),
            NoTurn::TooLate => failed(Cause::TooLate),
        })?;
        let update = body.is_some();
        let span = self.span(operation, update);
        // The time for an answer begins when the request does.
        let mut started = None;
        let exchange = async {
            // The last thing before it is sent: waiting for a turn may have taken long.
            let permit = update.then(|| Permit::ask(&self.api.permission)).transpose();
            let permit = permit.map_err(|why| Cause::NotPermitted { why })?;
            let now = Instant::now();
            started = Some(now);
            let at_most = permit.as_ref().map_or(Duration::MAX, |permit| permit.at_most);
            let end = self.deadline.min(now + self.api.settings.request.min(at_most));
            let given = end.saturating_duration_since(now);
            let answer = timeout_at(end, self.exchange(path, body, limit)).await;
            let answer = answer.unwrap_or(Err(Cause::TimedOut { given }));
            if !matches!(answer, Err(Cause::TimedOut { .. } | Cause::Broken { sent: true, .. })) {
                permit.into_iter().for_each(Permit::over);
            }
            answer
        };
        let exchange = self.api.places.within(exchange.instrument(span.clone()));
        let answer = timeout_at(self.deadline, exchange).await;
        let answer = match answer {
            Ok(Err(cause @ Cause::NotPermitted { .. })) => return Err(failed(cause)),
            answer => answer,
        };
        let started = started.ok_or_else(|| failed(Cause::TooLate))?;
        let answer = answer.unwrap_or(Err(Cause::TimedOut { given: started.elapsed() }));
        match &answer {
            Ok(_) => span.record("http.response.status_code", 200),
            Err(Cause::Status { status, .. }) => span.record("http.response.status_code", *status),
            Err(_) => &span,
        };
        if answer.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.api.observer.requested(&Exchange { update, end: ended(&answer), took: started.elapsed() });
        tracing::debug!(%operation, took = ?started.elapsed(), ok = answer.is_ok(), "asked Calry");
        match &answer {
            Ok(_) => pace.speed_up(),
            Err(Cause::Status { status: 429, retry_after, .. }) => pace.slow_down(started, *retry_after),
            Err(_) => {}
        }
        answer.map_err(failed)
    }

    /// What is traced of a request: its method and its route.
    fn span(&self, operation: &Operation, update: bool) -> Span {
        let method = method(update.then_some(self.api.method));
        let route = match operation {
            Operation::Workspace => "/api/v1/workspace",
            Operation::Definitions => "/api/v1/integration-definition",
            Operation::Definition(_) | Operation::Update(_) => "/api/v1/integration-definition/{provider}",
            Operation::Snapshot => "",
        };
        tracing::info_span!(
            target: SPANS,
            "request",
            otel.name = format!("{method} {route}"),
            otel.kind = "client",
            otel.status_code = Empty,
            http.request.method = method.as_str(),
            http.route = route,
            http.response.status_code = Empty,
        )
    }

    async fn exchange(&self, path: &str, body: Option<Vec<u8>>, limit: usize) -> Result<Vec<u8>, Cause> {
        let method = method(body.is_some().then_some(self.api.method));
        let broken = |error| self.broken(error);
        // A key is printable ASCII, so it is always a header value.
        let mut key = HeaderValue::from_str(self.key.secret().expose()).unwrap_or(HeaderValue::from_static(""));
        key.set_sensitive(true);
        let mut request = self
            .api
            .client
            .request(method, self.api.url.at(path))
            .header("x-calry-api-key", key)
            .header(ACCEPT, "application/json");
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        match bounded(&mut response, limit).await {
            Ok(Some(body)) => Ok(body),
            Ok(None) => Err(Cause::TooLarge { limit }),
            Err(error) => Err(broken(error)),
        }
    }

    /// What an answer that is not a success says. A body that cannot be read to its end takes nothing from the status.
    async fn refusal(&self, mut response: Response) -> Cause {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| retry::retry_after(value.to_str().ok()?, SystemTime::now()));
        let body = bounded(&mut response, MAX_ERROR).await.ok().flatten();
        let message = body.and_then(|body| wire::message(&body));
        Cause::Status {
            status,
            expired: message.as_ref().is_some_and(|m| m.to_lowercase().contains("expire")),
            message: message.map(|message| self.quote(&message)),
            key: self.key.source().to_owned(),
            retry_after,
        }
    }

    fn broken(&self, error: reqwest::Error) -> Cause {
        Cause::Broken {
            sent: !error.is_connect(),
            lasting: is_distrust(&error),
            api: self.api.url.to_string(),
            reason: if error.is_timeout() { "it timed out".to_owned() } else { self.quote(&root_cause(error)) },
        }
    }

    fn definition(&self, operation: &Operation, provider: &Provider, body: &[u8]) -> Result<Live, Error> {
        let mut scrubber = self.scrubber();
        wire::definition(body, provider, |secret| scrubber.learn(secret))
            .map_err(|problem| unusable(operation, problem))
    }

    /// Somebody else's text, fit to be shown: scrubbed before anything can hide a secret from the scrubber.
    fn quote(&self, text: &str) -> String {
        ellipsize(&printable(&self.scrubber().scrub(text)), MAX_QUOTE)
    }

    fn scrubber(&self) -> MutexGuard<'_, Scrubber> {
        self.scrubber.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(answer: &Result<Vec<u8>, Cause>) -> End {
    match *answer {
        Err(Cause::Status { status, .. } | Cause::NotJson { status }) => End::Status(status),
        Err(Cause::TimedOut { .. }) => End::TimedOut,
        Err(Cause::Broken { .. } | Cause::Paused { .. } | Cause::NotPermitted { .. } | Cause::TooLate) => End::Broken,
        Ok(_) | Err(Cause::Unreadable { .. } | Cause::TooLarge { .. }) => End::Status(200),
    }
}

/// The HTTP method of an update, or of a read.
fn method(update: Option<UpdateMethod>) -> Method {
    match update {
        None => Method::GET,
        Some(UpdateMethod::Patch) => Method::PATCH,
        Some(UpdateMethod::Put) => Method::PUT,
    }
}

/// The body after decompression; `None` where it is larger than `limit`, and then the rest is not read.
pub(super) async fn bounded(response: &mut Response, limit: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The innermost reason, such as "Connection refused". The outer ones say less, and reqwest's repeats the URL.
pub(super) fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    causes(&error).last().unwrap_or(&error).to_string()
}

/// Whether TLS failed for a reason that a second attempt will meet again, such as a certificate that is not trusted.
fn is_distrust(error: &reqwest::Error) -> bool {
    use rustls::Error as Tls;
    causes(error).any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(Tls::InvalidCertificate(_) | Tls::InvalidMessage(_) | Tls::PeerIncompatible(_))
        )
    })
}

/// What lies below an error, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    fn below<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        // An io::Error passes over the error that it wraps: its source is that one's source.
        match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    }
    successors(error.source(), |cause| below(*cause))
}
