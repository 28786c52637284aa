//! The client: one request at a time to one workspace, bounded in time and size, and the errors made of its answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, Response};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::error::{Cause, Quote, Refusal, TimeLimit};
use super::pace::{NoTurn, Pace};
use super::permission::Permit;
use super::retry::{self, Attempts, Unreachable};
use super::wire::{self, ErrorBody, Problem};
use super::{
    ApiKey, Attempt, End, Error, Exchange, Listing, Observer, Operation, Permission, ReadCalry,
    WriteCalry,
};
use crate::http::{
    Current, Failure, Http, HttpUrl, Route, SetupError, beginning, bounded, retry_after,
};
use crate::model::{Live, Provider, SPANS, Scrubber, Update, UpdateMethod, Workspace};

/// The largest list of definitions, in bytes after decompression.
const MAX_LISTING: usize = 32 << 20;

/// The largest error body that is looked at, in bytes: scrubbing takes time with its length.
const MAX_ERROR: usize = 4 << 10;

impl Http {
    /// Reads a document at a URL, again and again where that makes sense. Nothing is sent that not everybody knows.
    pub(super) async fn document(
        &self,
        url: &HttpUrl,
        deadline: Instant,
        limit: usize,
    ) -> Result<Vec<u8>, Error> {
        let failed = |cause| Error::new(Operation::Snapshot, cause);
        let broken = |failure| {
            failed(Cause::Broken {
                api: url.to_string(),
                failure,
            })
        };
        let route = self
            .route(url.as_url())
            .map_err(|error| broken(Failure::of_setup(&error)))?;
        let (warned, unreachable) = (AtomicBool::new(false), Unreachable::default());
        let mut attempts = Attempts::new(deadline, &warned, &());
        loop {
            let (end, given) = TimeLimit::earliest(deadline, self.settings.request, Duration::MAX);
            let used = route.current();
            let answer = timeout_at(end, document(&used, &route, url, limit))
                .await
                .unwrap_or_else(|_| {
                    route.renew(&used);
                    Err(Cause::TimedOut { given })
                });
            match answer {
                Ok(body) => return Ok(body),
                Err(cause) => sleep(attempts.next(unreachable.judge(failed(cause)))?).await,
            }
        }
    }
}

async fn document(
    used: &Current,
    route: &Route,
    url: &HttpUrl,
    limit: usize,
) -> Result<Vec<u8>, Cause> {
    let broken = |error| Cause::Broken {
        api: url.to_string(),
        failure: route.failure(error),
    };
    let mut response = used
        .client
        .get(url.as_url().clone())
        .send()
        .await
        .map_err(broken)?;
    let status = response.status();
    if !status.is_success() {
        let retry_after = retry_after(response.headers());
        return Err(Cause::Status(Refusal {
            status: status.as_u16(),
            retry_after,
            ..Refusal::default()
        }));
    }
    bounded(&mut response, limit)
        .await
        .map_err(broken)?
        .ok_or(Cause::TooLarge { limit })
}

/// The API of one workspace, for as long as the process works on it: its connections and its pace outlast a pass.
#[derive(Clone, Debug)]
pub struct Api {
    route: Arc<Route>,
    request_timeout: Duration,
    one_shot: bool,
    url: HttpUrl,
    method: UpdateMethod,
    observer: Arc<dyn Observer>,
    permission: Arc<dyn Permission>,
    pace: Arc<Pace>,
    /// Knows every secret of the workspace that this process has met.
    scrubber: Scrubber,
}

impl Api {
    /// The API at a URL. Each workspace needs one of its own: a rate limit is a workspace's.
    ///
    /// # Errors
    /// [`SetupError`] where the URL is https and TLS cannot be set up.
    pub fn new(http: &Http, url: HttpUrl, method: UpdateMethod) -> Result<Self, SetupError> {
        let (route, request_timeout) = (http.route(&url.at("/"))?, http.settings.request);
        let (observer, permission, pace) = (Arc::new(()), Arc::new(()), Arc::default());
        let scrubber = Scrubber::default();
        Ok(Self {
            route,
            request_timeout,
            one_shot: false,
            url,
            method,
            observer,
            permission,
            pace,
            scrubber,
        })
    }

    /// The same API, whose requests may each take this long.
    #[must_use]
    pub fn answering_within(self, request_timeout: Duration) -> Self {
        Self {
            request_timeout,
            ..self
        }
    }

    /// The same API, for a command that a person waits for: a host that cannot be reached is given up after a few attempts.
    #[must_use]
    pub fn for_one_command(self) -> Self {
        Self {
            one_shot: true,
            ..self
        }
    }

    /// The same API, whose requests somebody is told of.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            pace: Arc::new(Pace::observed_by(Arc::clone(&observer))),
            observer,
            ..self
        }
    }

    /// The same API, to which an update is sent only where somebody permits it.
    #[must_use]
    pub fn permitted_by(self, permission: Arc<dyn Permission>) -> Self {
        Self { permission, ..self }
    }

    /// Where it is.
    #[must_use]
    pub const fn url(&self) -> &HttpUrl {
        &self.url
    }

    /// How updates are sent.
    #[must_use]
    pub const fn method(&self) -> UpdateMethod {
        self.method
    }

    /// The scrubber of the workspace, which outlasts every session. Its sessions teach it each value below `partnerKey` that
    /// they read or send.
    #[must_use]
    pub const fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Begins a session that can read, up to a deadline.
    #[must_use]
    pub fn reader(&self, key: &ApiKey, deadline: Instant) -> Reader {
        self.scrubber.begin();
        self.scrubber.learn(&key.confidential());
        let session = Session {
            api: self.clone(),
            key: key.clone(),
            deadline,
            in_vain: Mutex::default(),
            warned: AtomicBool::new(false),
            unreachable: self.one_shot.then(Unreachable::default),
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
        let body = self
            .0
            .read(
                &Operation::Workspace,
                "/api/v1/workspace",
                wire::MAX_DEFINITION,
            )
            .await?;
        wire::workspace(&body.bytes)
            .map_err(|problem| unusable(&Operation::Workspace, &body, problem))
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        let body = self
            .0
            .read(
                &Operation::Definitions,
                "/api/v1/integration-definition",
                MAX_LISTING,
            )
            .await?;
        wire::listing(&body.bytes, |secret| self.0.api.scrubber.learn(secret))
            .map_err(|problem| unusable(&Operation::Definitions, &body, problem))
    }

    async fn definition(&self, provider: &Provider) -> Result<Live, Error> {
        let operation = Operation::Definition(provider.clone());
        let body = self
            .0
            .read(&operation, &path_of(provider), wire::MAX_DEFINITION)
            .await?;
        self.0.definition(&operation, provider, &body)
    }
}

impl WriteCalry for Writer {
    async fn update(&self, provider: &Provider, update: &Update) -> Result<Live, Error> {
        for secret in update.partner_key.iter().flat_map(|key| key.values()) {
            self.0.api.scrubber.learn(secret);
        }
        let in_vain = || self.0.in_vain.lock();
        let before = in_vain().get(provider).copied().unwrap_or_default();
        if before > 0 {
            self.0.api.observer.retried();
        }
        let operation = Operation::Update(provider.clone());
        let body = Some(wire::update(update));
        let waiting = Waiting::begin(&self.0, &operation);
        waiting.attempt(before + 1);
        let answer = self
            .0
            .once(&operation, &path_of(provider), body, wire::MAX_DEFINITION)
            .await;
        if let Err(error) = &answer
            && error.is_transient()
            && !error.is_paused()
        {
            in_vain().insert(provider.clone(), before + 1);
            // In a daemon the result of each update is a line of the log.
            if self.0.api.one_shot {
                retry::warn(
                    error,
                    self.0.deadline,
                    &self.0.warned,
                    &*self.0.api.observer,
                );
            }
        }
        self.0.definition(&operation, provider, &answer?)
    }
}

/// A provider's name needs no escaping in a URL.
fn path_of(provider: &Provider) -> String {
    format!("/api/v1/integration-definition/{provider}")
}

/// The body of an answer whose status is a success.
struct Body {
    status: u16,
    bytes: Vec<u8>,
}

fn unusable(operation: &Operation, body: &Body, problem: Problem) -> Error {
    let cause = match problem {
        Problem::NotJson if body.bytes.trim_ascii().is_empty() => Cause::Empty {
            status: body.status,
        },
        Problem::NotJson => Cause::NotJson {
            status: body.status,
        },
        Problem::Shape(problem) => Cause::Unreadable { problem },
    };
    Error::new(operation.clone(), cause)
}

#[derive(Debug)]
struct Session {
    api: Api,
    key: ApiKey,
    deadline: Instant,
    /// Whose updates were sent in vain, and how often.
    in_vain: Mutex<BTreeMap<Provider, u32>>,
    /// Whether the log says already that something is tried again.
    warned: AtomicBool,
    /// Since when the host cannot be reached, where that ends the session.
    unreachable: Option<Unreachable>,
}

impl Session {
    /// Reads, again and again where that makes sense.
    async fn read(&self, operation: &Operation, path: &str, limit: usize) -> Result<Body, Error> {
        let mut attempts = Attempts::new(self.deadline, &self.warned, &*self.api.observer);
        let waiting = Waiting::begin(self, operation);
        loop {
            waiting.attempt(attempts.failed() + 1);
            let error = match self.once(operation, path, None, limit).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            sleep(attempts.next(error)?).await;
            self.api.observer.retried();
        }
    }

    /// One attempt, in its turn. With a body it is an update, without one it is a read.
    async fn once(
        &self,
        operation: &Operation,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Body, Error> {
        let failed = |cause| Error::new(operation.clone(), cause);
        let pace = &self.api.pace;
        // An update does not wait out a pause in here: what it carries grows old meanwhile, and a stop could not reach it.
        let turn = match &body {
            None => pace.start(self.deadline).await,
            Some(_) => pace.start_unless_paused(self.deadline).await,
        };
        turn.map_err(|e| match e {
            NoTurn::Paused { wait, asked } => failed(Cause::Paused { wait, asked }),
            NoTurn::TooLate => failed(Cause::TooLate),
        })?;
        let update = body.is_some();
        let span = self.span(operation, update);
        // The time for an answer begins when the request does.
        let mut started = None;
        let mut used = None;
        let exchange = async {
            // The last thing before it is sent: waiting for a turn may have taken long.
            let permit = update
                .then(|| Permit::ask(&self.api.permission))
                .transpose();
            let permit = permit.map_err(|why| Cause::NotPermitted { why })?;
            let now = Instant::now();
            started = Some(now);
            let at_most = permit
                .as_ref()
                .map_or(Duration::MAX, |permit| permit.at_most);
            let (end, given) =
                TimeLimit::earliest(self.deadline, self.api.request_timeout, at_most);
            let client = &used.insert(self.api.route.current()).client;
            let answer = timeout_at(end, self.exchange(client, path, body, limit)).await;
            let answer = answer.unwrap_or(Err(Cause::TimedOut { given }));
            let may_come = match &answer {
                Err(Cause::TimedOut { .. }) => true,
                Err(Cause::Broken { failure, .. }) => failure.sent,
                _ => false,
            };
            if !may_come {
                permit.into_iter().for_each(Permit::over);
            }
            answer
        };
        let exchange = self.api.route.limit.run(exchange.instrument(span.clone()));
        let answer = timeout_at(self.deadline, exchange).await;
        let answer = match answer {
            Ok(Err(cause @ Cause::NotPermitted { .. })) => return Err(failed(cause)),
            answer => answer,
        };
        let started = started.ok_or_else(|| failed(Cause::TooLate))?;
        let answer = answer.unwrap_or(Err(Cause::TimedOut {
            given: TimeLimit::Deadline(started.elapsed()),
        }));
        if let (Err(Cause::TimedOut { .. }), Some(used)) = (&answer, &used) {
            self.api.route.renew(used);
        }
        match &answer {
            Ok(body) => span.record("http.response.status_code", body.status),
            Err(Cause::Status(refusal)) => span.record("http.response.status_code", refusal.status),
            Err(_) => &span,
        };
        if answer.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.api.observer.requested(&Exchange {
            update,
            end: ended(&answer),
            took: started.elapsed(),
        });
        match &answer {
            Ok(_) => pace.speed_up(),
            Err(Cause::Status(Refusal {
                status: 429,
                retry_after,
                ..
            })) => pace.slow_down(started, *retry_after),
            // What befalls one provider says nothing of the others.
            Err(Cause::Status(Refusal {
                retry_after: Some(wait),
                ..
            })) if matches!(operation, Operation::Workspace | Operation::Definitions) => {
                pace.pause(*wait);
            }
            Err(_) => {}
        }
        let answer = answer.map_err(failed);
        let error = answer.as_ref().err().map(tracing::field::display);
        tracing::debug!(%operation, address = %self.api.url, took = ?started.elapsed(), error, "asked Calry");
        match &self.unreachable {
            Some(unreachable) if answer.is_ok() => unreachable.reached(),
            Some(unreachable) => return answer.map_err(|error| unreachable.judge(error)),
            None => {}
        }
        answer
    }

    /// What is traced of a request: its method and its route.
    fn span(&self, operation: &Operation, update: bool) -> Span {
        let method = method(update.then_some(self.api.method));
        let route = match operation {
            Operation::Workspace => "/api/v1/workspace",
            Operation::Definitions => "/api/v1/integration-definition",
            Operation::Definition(_) | Operation::Update(_) => {
                "/api/v1/integration-definition/{provider}"
            }
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

    async fn exchange(
        &self,
        client: &Client,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Body, Cause> {
        let method = method(body.is_some().then_some(self.api.method));
        let broken = |error| self.broken(error);
        // A key is printable ASCII, so it is always a header value.
        let mut key = HeaderValue::from_str(self.key.secret().expose())
            .unwrap_or(HeaderValue::from_static(""));
        key.set_sensitive(true);
        let request = client.request(method, self.api.url.at(path));
        let mut request = request
            .header("x-calry-api-key", key)
            .header(ACCEPT, "application/json");
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let status = response.status().as_u16();
        match bounded(&mut response, limit).await {
            Ok(Some(bytes)) => Ok(Body { status, bytes }),
            Ok(None) => Err(Cause::TooLarge { limit }),
            Err(error) => Err(broken(error)),
        }
    }

    /// What an answer that is not a success says. A body that cannot be read to its end takes nothing from the status.
    async fn refusal(&self, mut response: Response) -> Cause {
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = beginning(&mut response, MAX_ERROR).await;
        let ErrorBody { message, is_calrys } =
            body.map_or_else(wire::cut_error, |whole| wire::error(&whole));
        Cause::Status(Refusal {
            status,
            is_calrys,
            expired: message
                .as_ref()
                .is_some_and(|m| m.to_lowercase().contains("expire")),
            message: message.map(|message| self.quote(message)),
            key: self.key.source().to_owned(),
            method: self.api.method,
            retry_after,
        })
    }

    fn broken(&self, error: reqwest::Error) -> Cause {
        let mut failure = self.api.route.failure(error);
        failure.reason = self.quote(failure.reason).to_string();
        Cause::Broken {
            api: self.api.url.to_string(),
            failure,
        }
    }

    fn definition(
        &self,
        operation: &Operation,
        provider: &Provider,
        body: &Body,
    ) -> Result<Live, Error> {
        wire::definition(&body.bytes, provider, |secret| {
            self.api.scrubber.learn(secret)
        })
        .map_err(|problem| unusable(operation, body, problem))
    }

    fn quote(&self, text: String) -> Quote {
        Quote::new(text, self.api.scrubber.clone())
    }
}

/// The observer learns what is waited for, and that it is over, however that comes.
struct Waiting<'a> {
    session: &'a Session,
    operation: &'a Operation,
}

impl<'a> Waiting<'a> {
    fn begin(session: &'a Session, operation: &'a Operation) -> Self {
        Self { session, operation }
    }

    fn attempt(&self, number: u32) {
        let Self { session, operation } = self;
        session.api.observer.waits(&Attempt {
            operation,
            number,
            deadline: session.deadline,
        });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.session.api.observer.waited(self.operation);
    }
}

fn ended(answer: &Result<Body, Cause>) -> End {
    match *answer {
        Ok(Body { status, .. })
        | Err(
            Cause::Status(Refusal { status, .. })
            | Cause::NotJson { status }
            | Cause::Empty { status },
        ) => End::Status(status),
        Err(Cause::TimedOut { .. }) => End::TimedOut,
        Err(
            Cause::Broken { .. }
            | Cause::Paused { .. }
            | Cause::NotPermitted { .. }
            | Cause::TooLate,
        ) => End::Broken,
        Err(Cause::Unreadable { .. } | Cause::TooLarge { .. }) => End::Status(200),
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
