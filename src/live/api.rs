//! The client of one workspace: sends requests, bounded in time and size, and turns bad answers into errors.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, Request, Response};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::error::{ErrorCause, ErrorResponse, Quote, TimeLimit};
use super::pace::{Pace, TurnError};
use super::retry::{self, Attempts, UnreachableHost};
use super::wire::{self, BodyError};
use super::write_guard::WritePermit;
use super::{
    ApiKey, Attempt, Error, Exchange, ExchangeOutcome, Listing, Observer, Operation, ReadCalry,
    WriteCalry, WriteGuard,
};
use crate::http::{
    BoundedBody, Http, HttpUrl, RequestFailure, Route, SetupError, read_beginning, retry_after,
};
use crate::model::{Live, Provider, SPANS, Scrubber, Update, UpdateMethod, Workspace};

/// The largest list of definitions, in bytes after decompression.
const MAX_LISTING: usize = 32 << 20;

/// The largest error body that is read, in bytes: the time to scrub it grows with its length.
const MAX_ERROR: usize = 4 << 10;

/// Carries requests instead of the network: for simulated histories.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends a request and returns the beginning of its answer, whose body may still break off.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, BrokenTransport>>;
}

/// A simulated connection that broke before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenTransport {
    /// The request may have arrived.
    pub sent: bool,
}

/// The API of one workspace. Its connections and its pace outlast a reconciliation.
#[derive(Clone, Debug)]
pub struct Api {
    route: Arc<Route>,
    request_timeout: Duration,
    one_shot: bool,
    url: HttpUrl,
    method: UpdateMethod,
    observer: Arc<dyn Observer>,
    write_guard: Arc<dyn WriteGuard>,
    pace: Arc<Pace>,
    transport: Option<Arc<dyn Transport>>,
    /// Holds every secret of the workspace that this process has seen.
    scrubber: Scrubber,
}

impl Api {
    /// The API at a URL. Each workspace needs its own, because Calry limits the rate of each workspace.
    ///
    /// # Errors
    /// [`SetupError`] if the URL is https and TLS cannot be set up.
    pub fn new(http: &Http, url: HttpUrl, method: UpdateMethod) -> Result<Self, SetupError> {
        let (route, request_timeout) = (http.route(&url.at("/"))?, http.timeouts.request);
        let (observer, write_guard, pace) = (Arc::new(()), Arc::new(()), Arc::default());
        let scrubber = Scrubber::default();
        Ok(Self {
            route,
            request_timeout,
            one_shot: false,
            url,
            method,
            observer,
            write_guard,
            pace,
            transport: None,
            scrubber,
        })
    }

    /// The same API, whose requests are carried by `transport`. Its connections are shared with no other one.
    #[must_use]
    pub fn simulated(mut self, http: &Http, transport: Arc<dyn Transport>) -> Self {
        self.route = http.simulated_route();
        self.transport = Some(transport);
        self
    }

    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self {
            request_timeout,
            ..self
        }
    }

    /// The same API for a command that a user waits for: an unreachable host is given up after a few attempts.
    #[must_use]
    pub fn for_one_command(self) -> Self {
        Self {
            one_shot: true,
            ..self
        }
    }

    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            pace: Arc::new(Pace::with_observer(Arc::clone(&observer))),
            observer,
            ..self
        }
    }

    /// The same API, which sends an update only if `write_guard` allows it.
    #[must_use]
    pub fn with_write_guard(self, write_guard: Arc<dyn WriteGuard>) -> Self {
        Self {
            write_guard,
            ..self
        }
    }

    #[must_use]
    pub const fn url(&self) -> &HttpUrl {
        &self.url
    }

    #[must_use]
    pub const fn method(&self) -> UpdateMethod {
        self.method
    }

    /// The scrubber of the workspace, which outlasts every session. Sessions add each value below `partnerKey` that they read
    /// or send.
    #[must_use]
    pub const fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Starts a session that can read until `deadline`.
    #[must_use]
    pub fn reader(&self, key: &ApiKey, deadline: Instant) -> Reader {
        self.scrubber.begin();
        self.scrubber.learn(&key.confidential());
        let session = Session {
            api: self.clone(),
            key: key.clone(),
            deadline,
            failed_attempts: Mutex::default(),
            warned: AtomicBool::new(false),
            unreachable: self.one_shot.then(UnreachableHost::default),
        };
        Reader(Arc::new(session))
    }

    /// Adds write access to a session.
    #[must_use]
    pub fn writer(&self, reader: &Reader) -> Writer {
        Writer {
            session: Arc::clone(&reader.0),
            guard: Arc::clone(&self.write_guard),
        }
    }
}

/// A session that can only read.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Session>);

/// A session that can write.
#[derive(Clone, Debug)]
pub struct Writer {
    session: Arc<Session>,
    /// It is asked right before each update.
    guard: Arc<dyn WriteGuard>,
}

impl Writer {
    /// The same writer, with another guard around its own.
    #[must_use]
    pub fn guarded(self, wrap: impl FnOnce(Arc<dyn WriteGuard>) -> Arc<dyn WriteGuard>) -> Self {
        Self {
            guard: wrap(self.guard),
            ..self
        }
    }
}

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
        wire::parse_workspace(body.bytes())
            .map_err(|problem| body_error(&Operation::Workspace, &body, problem))
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
        wire::parse_listing(body.bytes(), |secret| self.0.api.scrubber.learn(secret))
            .map_err(|problem| body_error(&Operation::Definitions, &body, problem))
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
        let session = &*self.session;
        for secret in update.partner_key.iter().flat_map(|key| key.values()) {
            session.api.scrubber.learn(secret);
        }
        let failed_attempts = || session.failed_attempts.lock();
        let before = failed_attempts().get(provider).copied().unwrap_or_default();
        if before > 0 {
            session.api.observer.on_retry();
        }
        let operation = Operation::Update(provider.clone());
        let body = Some(wire::write_update(update));
        let operation = &operation;
        let waiting = ObservedCall { session, operation };
        waiting.attempt(before + 1);
        let body = body.map(|body| (body, &self.guard));
        let answer = session
            .attempt(operation, &path_of(provider), body, wire::MAX_DEFINITION)
            .await;
        if let Err(error) = &answer
            && error.is_transient()
            && !error.is_paused()
        {
            failed_attempts().insert(provider.clone(), before + 1);
            // A daemon logs the result of each update itself.
            if session.api.one_shot {
                retry::warn(
                    error,
                    session.deadline,
                    &session.warned,
                    &*session.api.observer,
                );
            }
        }
        session.definition(operation, provider, &answer?)
    }
}

/// The characters of a provider's name need no escaping in a URL.
fn path_of(provider: &Provider) -> String {
    format!("/api/v1/integration-definition/{provider}")
}

/// The body of a successful answer.
struct Body {
    status: u16,
    body: BoundedBody,
}

impl Body {
    fn bytes(&self) -> &[u8] {
        &self.body.bytes
    }
}

fn body_error(operation: &Operation, body: &Body, problem: BodyError) -> Error {
    let cause = match problem {
        BodyError::NotJson if body.bytes().trim_ascii().is_empty() => ErrorCause::Empty {
            status: body.status,
        },
        BodyError::NotJson => ErrorCause::NotJson {
            status: body.status,
        },
        BodyError::Shape(problem) => ErrorCause::Unreadable { problem },
    };
    Error::new(operation.clone(), cause)
}

#[derive(Debug)]
struct Session {
    api: Api,
    key: ApiKey,
    deadline: Instant,
    failed_attempts: Mutex<BTreeMap<Provider, u32>>,
    /// Whether a retry was logged already.
    warned: AtomicBool,
    /// Set if an unreachable host ends the session.
    unreachable: Option<UnreachableHost>,
}

impl Session {
    /// Reads, with retries.
    async fn read(&self, operation: &Operation, path: &str, limit: usize) -> Result<Body, Error> {
        let mut attempts = Attempts::new(self.deadline, &self.warned, &*self.api.observer);
        let session = self;
        let waiting = ObservedCall { session, operation };
        loop {
            waiting.attempt(attempts.failed() + 1);
            let error = match self.attempt(operation, path, None, limit).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            sleep(attempts.next(error)?).await;
            self.api.observer.on_retry();
        }
    }

    /// Makes one attempt, in turn. With a body it is an update, without one a read.
    async fn attempt(
        &self,
        operation: &Operation,
        path: &str,
        body: Option<(Vec<u8>, &Arc<dyn WriteGuard>)>,
        limit: usize,
    ) -> Result<Body, Error> {
        let failed = |cause| Error::new(operation.clone(), cause);
        let pace = &self.api.pace;
        // An update does not wait for the end of a pause: its content would grow old, and a stop could not interrupt it.
        let turn = match &body {
            None => pace.start(self.deadline).await,
            Some(_) => pace.start_unless_paused(self.deadline).await,
        };
        turn.map_err(|e| match e {
            TurnError::Paused { wait, by_calry } => failed(ErrorCause::Paused { wait, by_calry }),
            TurnError::TooLate => failed(ErrorCause::TooLate),
        })?;
        let (body, guard) = body.unzip();
        let update = body.is_some();
        let span = self.span(operation, update);
        // The time for an answer starts with the request.
        let mut started = None;
        let mut used = None;
        let exchange = async {
            // Ask the guard last, because waiting for a turn may have taken long.
            let permit = guard.map(WritePermit::request).transpose();
            let permit = permit.map_err(|reason| ErrorCause::NotPermitted { reason })?;
            let now = Instant::now();
            started = Some(now);
            let at_most = permit
                .as_ref()
                .map_or(Duration::MAX, |permit| permit.at_most);
            let (end, time_limit) =
                TimeLimit::earliest(self.deadline, self.api.request_timeout, at_most);
            let client = &used.insert(self.api.route.active_client()).client;
            let answer = timeout_at(end, self.exchange(client, path, body, limit)).await;
            let answer = answer.unwrap_or(Err(ErrorCause::TimedOut { limit: time_limit }));
            let may_still_arrive = match &answer {
                Err(ErrorCause::TimedOut { .. }) => true,
                Err(ErrorCause::Broken { failure, .. }) => failure.sent,
                _ => false,
            };
            if !may_still_arrive {
                permit.into_iter().for_each(WritePermit::finish);
            }
            answer
        };
        let exchange = self.api.route.limit.run(exchange.instrument(span.clone()));
        let answer = timeout_at(self.deadline, exchange).await;
        let answer = match answer {
            Ok(Err(cause @ ErrorCause::NotPermitted { .. })) => return Err(failed(cause)),
            answer => answer,
        };
        let started = started.ok_or_else(|| failed(ErrorCause::TooLate))?;
        let answer = answer.unwrap_or(Err(ErrorCause::TimedOut {
            limit: TimeLimit::Deadline(started.elapsed()),
        }));
        if let (Err(ErrorCause::TimedOut { .. }), Some(used)) = (&answer, &used) {
            self.api.route.replace_client(used);
        }
        match &answer {
            Ok(body) => span.record("http.response.status_code", body.status),
            Err(ErrorCause::Status(response)) => {
                span.record("http.response.status_code", response.status)
            }
            Err(_) => &span,
        };
        if answer.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.api.observer.on_request(&Exchange {
            update,
            outcome: exchange_outcome(&answer),
            took: started.elapsed(),
        });
        match &answer {
            Ok(_) => pace.speed_up(),
            Err(ErrorCause::Status(ErrorResponse {
                status: 429,
                retry_after,
                ..
            })) => pace.slow_down(started, *retry_after),
            // Only answers about the whole workspace pause it.
            Err(ErrorCause::Status(ErrorResponse {
                retry_after: Some(wait),
                ..
            })) if matches!(operation, Operation::Workspace | Operation::Definitions) => {
                pace.pause(*wait);
            }
            Err(_) => {}
        }
        let answer = answer.map_err(failed);
        let error = answer.as_ref().err().map(tracing::field::display);
        tracing::debug!(%operation, address = %self.api.url, took = ?started.elapsed(), error, "request to Calry");
        match &self.unreachable {
            Some(unreachable) => unreachable.check(answer),
            None => answer,
        }
    }

    /// The span of a request, with its method and route.
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
    ) -> Result<Body, ErrorCause> {
        let method = method(body.is_some().then_some(self.api.method));
        let broken = |error| self.broken(self.api.route.failure(error));
        #[expect(
            clippy::expect_used,
            reason = "`KeySource::read` accepts visible ASCII only"
        )]
        let mut key = HeaderValue::from_str(self.key.secret().expose()).expect("visible ASCII");
        key.set_sensitive(true);
        let mut request = Request::new(method, self.api.url.at(path));
        let headers = request.headers_mut();
        headers.insert("x-calry-api-key", key);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(body) = body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.into());
        }
        let mut response = match &self.api.transport {
            None => client.execute(request).await.map_err(broken)?,
            Some(transport) => transport.send(request).await.map_err(|error| {
                let reason = "the connection broke".to_owned();
                self.broken(RequestFailure::simulated(error.sent, reason))
            })?,
        };
        if !response.status().is_success() {
            return Err(self.error_response(response).await);
        }
        let status = response.status().as_u16();
        match self.api.route.read_body(&mut response, limit).await {
            Ok(Some(body)) => Ok(Body { status, body }),
            Ok(None) => Err(ErrorCause::TooLarge { limit }),
            Err(error) => Err(broken(error)),
        }
    }

    /// Reads an unsuccessful answer. A body that cannot be read to the end still leaves the status.
    async fn error_response(&self, mut response: Response) -> ErrorCause {
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let body = read_beginning(&mut response, MAX_ERROR).await;
        let body = body.map_or_else(wire::parse_cut_error, |whole| wire::parse_error(&whole));
        ErrorCause::Status(ErrorResponse {
            status,
            from_calry: body.from_calry,
            key_expired: body
                .message
                .as_ref()
                .is_some_and(|m| m.to_lowercase().contains("expire")),
            message: body.message.map(|message| self.quote(message)),
            key_source: self.key.source().to_owned(),
            key_ended: self.key.end(),
            update_method: self.api.method,
            retry_after,
        })
    }

    fn broken(&self, mut failure: RequestFailure) -> ErrorCause {
        failure.reason = self.quote(failure.reason).to_string();
        ErrorCause::Broken {
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
        wire::parse_definition(body.bytes(), provider, |secret| {
            self.api.scrubber.learn(secret)
        })
        .map_err(|problem| body_error(operation, body, problem))
    }

    fn quote(&self, text: String) -> Quote {
        Quote::new(text, self.api.scrubber.clone())
    }
}

/// A call whose attempts and end are reported to the observer, also if the call is cancelled.
struct ObservedCall<'a> {
    session: &'a Session,
    operation: &'a Operation,
}

impl ObservedCall<'_> {
    fn attempt(&self, number: u32) {
        let Self { session, operation } = self;
        session.api.observer.on_attempt(&Attempt {
            operation,
            number,
            deadline: session.deadline,
        });
    }
}

impl Drop for ObservedCall<'_> {
    fn drop(&mut self) {
        self.session.api.observer.on_finish(self.operation);
    }
}

fn exchange_outcome(answer: &Result<Body, ErrorCause>) -> ExchangeOutcome {
    match *answer {
        Ok(Body { status, .. })
        | Err(
            ErrorCause::Status(ErrorResponse { status, .. })
            | ErrorCause::NotJson { status }
            | ErrorCause::Empty { status },
        ) => ExchangeOutcome::Status(status),
        Err(ErrorCause::TimedOut { .. }) => ExchangeOutcome::TimedOut,
        Err(
            ErrorCause::Broken { .. }
            | ErrorCause::Paused { .. }
            | ErrorCause::NotPermitted { .. }
            | ErrorCause::TooLate,
        ) => ExchangeOutcome::Broken,
        Err(ErrorCause::Unreadable { .. } | ErrorCause::TooLarge { .. }) => {
            ExchangeOutcome::Status(200)
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HttpTimeouts, UrlPolicy, install_tls};
    use crate::live::KeySource;
    use crate::model::Secret;

    /// What happens to the requests of a session.
    #[derive(Debug)]
    enum Calry {
        /// Answers so many requests with 503 and asks for a pause, and the others with an empty object.
        FailsFirst(Mutex<u32>),
        Limits,
        Refuses(&'static str),
        IsSilent,
        Breaks {
            sent: bool,
        },
    }

    impl Calry {
        fn failing(times: u32) -> Self {
            Self::FailsFirst(Mutex::new(times))
        }
    }

    impl Transport for Calry {
        fn send(&self, _: Request) -> BoxFuture<'_, Result<Response, BrokenTransport>> {
            let (status, body) = match self {
                Self::FailsFirst(left) => {
                    let mut left = left.lock();
                    let status = if *left > 0 { 503 } else { 200 };
                    *left = left.saturating_sub(1);
                    (status, "{}".to_owned())
                }
                Self::Limits => (429, "{}".to_owned()),
                Self::Refuses(why) => {
                    let body = serde_json::json!({"statusCode": 400, "message": why});
                    (400, body.to_string())
                }
                Self::IsSilent => return Box::pin(std::future::pending()),
                Self::Breaks { sent } => {
                    let broken = BrokenTransport { sent: *sent };
                    return Box::pin(std::future::ready(Err(broken)));
                }
            };
            let answer = axum::http::Response::builder()
                .status(status)
                .header("retry-after", 60)
                .body(body)
                .unwrap();
            Box::pin(std::future::ready(Ok(answer.into())))
        }
    }

    #[derive(Debug, Default)]
    struct Events(Mutex<Vec<String>>);

    impl Events {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock())
        }
    }

    impl Observer for Events {
        fn on_retry(&self) {
            self.0.lock().push("retry".to_owned());
        }

        fn on_pause(&self, pause: Duration) {
            self.0.lock().push(format!("pause of {pause:?}"));
        }

        fn on_attempt(&self, attempt: &Attempt<'_>) {
            self.0.lock().push(format!("attempt {}", attempt.number));
        }

        fn on_finish(&self, _: &Operation) {
            self.0.lock().push("end".to_owned());
        }
    }

    impl WriteGuard for Events {
        fn begin(&self) -> Result<Duration, String> {
            self.0.lock().push("begin".to_owned());
            Ok(Duration::MAX)
        }

        fn end(&self, finished: bool) {
            self.0.lock().push(format!("finished: {finished}"));
        }
    }

    #[derive(Debug)]
    struct Refuses;

    impl WriteGuard for Refuses {
        fn begin(&self) -> Result<Duration, String> {
            Err("on hold".to_owned())
        }

        fn end(&self, _: bool) {}
    }

    fn session(api: impl FnOnce(Api) -> Api, calry: Calry) -> (Reader, Writer) {
        install_tls();
        let http = Http::new(HttpTimeouts::default()).unwrap();
        let url = HttpUrl::parse("http://127.0.0.1:9", UrlPolicy::api(false)).unwrap();
        let plain = Api::new(&http, url, UpdateMethod::Patch).unwrap();
        let api = api(plain.simulated(&http, Arc::new(calry)));
        let key = KeySource::Variable(Some(Secret::new("key")));
        let reader = api.reader(
            &key.read().unwrap(),
            Instant::now() + Duration::from_secs(3600),
        );
        let writer = api.writer(&reader);
        (reader, writer)
    }

    async fn update(writer: &Writer) -> Error {
        let provider = Provider::parse("HOSTAWAY").unwrap();
        let answer = writer.update(&provider, &Update::default()).await;
        answer.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn an_observer_learns_of_each_attempt_with_its_number_and_of_the_end() {
        let events = Arc::new(Events::default());
        let observed = |calry| {
            let observer = Arc::<Events>::clone(&events);
            session(|api| api.with_observer(observer), calry)
        };
        let (reader, _) = observed(Calry::failing(2));
        let _ = reader.workspace().await;
        let read = [
            "attempt 1",
            "retry",
            "attempt 2",
            "retry",
            "attempt 3",
            "end",
        ];
        assert_eq!(events.take(), read);
        // A caller sends an update again by itself. The pause of one provider's update is not that of the workspace.
        let (_, writer) = observed(Calry::failing(9));
        update(&writer).await;
        assert_eq!(events.take(), ["attempt 1", "end"]);
        for attempt in ["attempt 2", "attempt 3"] {
            update(&writer).await;
            assert_eq!(events.take(), ["retry", attempt, "end"]);
        }
        // The limit of the workspace delays all requests.
        let (_, writer) = observed(Calry::Limits);
        update(&writer).await;
        let limited = events.take();
        assert!(
            limited.iter().any(|event| event == "pause of 60s"),
            "{limited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_shows_no_secret_that_the_scrubber_of_its_api_has_learned() {
        let quoted = Calry::Refuses("the value hunter2-hunter2 is too old");
        let known = |api: Api| {
            api.scrubber().learn(&Secret::new("hunter2-hunter2"));
            api
        };
        let (_, writer) = session(known, quoted);
        let error = update(&writer).await.to_string();
        assert!(
            error.contains("is too old") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_without_an_answer_is_not_finished_for_its_guard() {
        for (calry, end) in [
            (Calry::failing(1), "finished: true"),
            (Calry::IsSilent, "finished: false"),
            (Calry::Breaks { sent: true }, "finished: false"),
            (Calry::Breaks { sent: false }, "finished: true"),
        ] {
            let events = Arc::new(Events::default());
            let guard = Arc::<Events>::clone(&events);
            let (_, writer) = session(|api| api.with_write_guard(guard), calry);
            assert!(!update(&writer).await.is_not_permitted());
            assert_eq!(events.take(), ["begin", end]);
            let refusing = writer.guarded(|_| Arc::new(Refuses));
            assert!(update(&refusing).await.is_not_permitted());
            assert_eq!(events.take(), Vec::<String>::new());
        }
    }
}
