//! The client: one pool of connections, one pace per workspace, bounded in time and size.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::time::Instant;

use super::error::{Error, Problem};
use super::pace::Pace;
use super::retry::retry_after;
use super::{ApiKey, ApiUrl, Backoff, Listing, ReadCalry, WriteCalry, wire};
use crate::model::{Live, Provider, Scrubber, Update, UpdateMethod, Workspace, ellipsize, printable};

const KEY_HEADER: HeaderName = HeaderName::from_static("x-calry-api-key");

/// The most bytes of the list of definitions, after decompression.
const MAX_LISTING: usize = 32 << 20;

/// The most bytes of any other answer, after decompression.
const MAX_ANSWER: usize = 1 << 20;

/// The most characters of Calry's `message` that are shown.
const MAX_MESSAGE: usize = 300;

/// Makes ring the process's TLS provider. To be called once, first thing; further calls do nothing.
pub fn install_tls() {
    // Fails where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Time limits of single requests.
#[derive(Clone, Copy, Debug)]
pub struct HttpSettings {
    /// For a connection to stand.
    pub connect_timeout: Duration,
    /// For a whole request, answer included.
    pub request_timeout: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), request_timeout: Duration::from_secs(10) }
    }
}

/// The HTTP client: connections are reused, also across workspaces.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    settings: HttpSettings,
}

/// The client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error(
    "the HTTPS client cannot be set up: {reason}; where certificates are the trouble, install the system's CA certificates \
     (Debian: ca-certificates) or name a bundle with SSL_CERT_FILE"
)]
pub struct SetupError {
    reason: String,
}

impl Http {
    /// A client for an address. Proxies come from the environment (HTTPS_PROXY, NO_PROXY) and certificates from the
    /// system; plain http uses neither, since the key must not reach a proxy in the clear.
    ///
    /// # Errors
    /// [`SetupError`], where the system has no CA certificates, for example.
    pub fn new(url: &ApiUrl, settings: HttpSettings) -> Result<Self, SetupError> {
        install_tls();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut builder = Client::builder()
            .user_agent(concat!("calry-gitops/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout);
        builder = if url.is_plain() {
            // No certificates are loaded for a connection that has none: it saves most of the start.
            builder.no_proxy().tls_certs_only([])
        } else {
            builder.https_only(true)
        };
        let client = builder.build().map_err(|error| SetupError { reason: cause(&error) })?;
        Ok(Self { client, settings })
    }
}

/// The API as one workspace uses it.
#[derive(Clone, Debug)]
pub struct Api {
    http: Http,
    url: ApiUrl,
    method: UpdateMethod,
    pace: Arc<Pace>,
}

impl Api {
    /// An API at an address.
    #[must_use]
    pub fn new(http: Http, url: ApiUrl, method: UpdateMethod) -> Self {
        Self { http, url, method, pace: Arc::default() }
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

    /// A reader for one pass. `scrubber` holds the secrets that are known already; it learns those that are seen.
    #[must_use]
    pub fn reader(&self, key: &ApiKey, deadline: Instant, mut scrubber: Scrubber) -> Reader {
        scrubber.learn(key.secret());
        Reader {
            session: Arc::new(Session {
                api: self.clone(),
                key: key.clone(),
                deadline,
                scrubber: Mutex::new(scrubber),
            }),
        }
    }

    /// A writer for the same pass as a reader.
    #[must_use]
    pub fn writer(&self, reader: &Reader) -> Writer {
        Writer { session: Arc::clone(&reader.session) }
    }
}

/// Reads, with retries. It has no way to write.
#[derive(Clone, Debug)]
pub struct Reader {
    session: Arc<Session>,
}

/// Writes, one attempt for each call.
#[derive(Clone, Debug)]
pub struct Writer {
    session: Arc<Session>,
}

#[derive(Debug)]
struct Session {
    api: Api,
    key: ApiKey,
    deadline: Instant,
    scrubber: Mutex<Scrubber>,
}

struct Ask<'a> {
    operation: &'a str,
    method: Method,
    path: String,
    limit: usize,
    body: Option<Vec<u8>>,
}

impl ReadCalry for Reader {
    async fn workspace(&self) -> Result<Workspace, Error> {
        let operation = "reading the workspace";
        self.session.get(operation, "api/v1/workspace", MAX_ANSWER, wire::workspace).await
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        let operation = "reading the live definitions";
        let listing =
            self.session.get(operation, "api/v1/integration-definition", MAX_LISTING, wire::definitions).await?;
        self.session.learn(&listing.live);
        Ok(listing)
    }

    async fn definition(&self, provider: &Provider) -> Result<Live, Error> {
        let operation = format!("reading {provider}");
        let path = format!("api/v1/integration-definition/{provider}");
        let live = self.session.get(&operation, &path, MAX_ANSWER, wire::definition).await?;
        self.session.learn([&live]);
        self.session.expect_provider(&operation, provider, live)
    }
}

impl WriteCalry for Writer {
    async fn update(&self, provider: &Provider, update: &Update) -> Result<Live, Error> {
        let session = &self.session;
        let operation = format!("updating {provider}");
        {
            let mut scrubber = session.scrubber.lock().unwrap_or_else(PoisonError::into_inner);
            update.partner_key.iter().flat_map(|key| key.values()).for_each(|secret| scrubber.learn(secret));
        }
        let ask = Ask {
            operation: &operation,
            method: match session.api.method {
                UpdateMethod::Patch => Method::PATCH,
                UpdateMethod::Put => Method::PUT,
            },
            path: format!("api/v1/integration-definition/{provider}"),
            limit: MAX_ANSWER,
            // Maps of strings and booleans always serialize.
            body: Some(serde_json::to_vec(&wire::Body(update)).unwrap_or_default()),
        };
        let live = session.once(&ask, wire::definition).await?;
        session.learn([&live]);
        session.expect_provider(&operation, provider, live)
    }
}

impl Session {
    async fn get<T>(
        &self,
        operation: &str,
        path: &str,
        limit: usize,
        parse: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, Error> {
        let ask = Ask { operation, method: Method::GET, path: path.to_owned(), limit, body: None };
        let mut backoff = Backoff::default();
        let mut attempts = 1;
        loop {
            let error = match self.once(&ask, &parse).await {
                Ok(answer) => return Ok(answer),
                Err(error) => Error { attempts, ..error },
            };
            let pause = if error.is_transient() { backoff.next(&error, self.deadline) } else { None };
            let Some(pause) = pause else { return Err(error) };
            tracing::debug!(operation, kind = error.kind(), ?pause, "{error}; trying again");
            tokio::time::sleep(pause).await;
            attempts += 1;
        }
    }

    async fn once<T>(&self, ask: &Ask<'_>, parse: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, Error> {
        let fail = |problem| Error { operation: ask.operation.to_owned(), problem, attempts: 1 };
        let place = self.api.pace.place();
        if place >= self.deadline {
            return Err(fail(Problem::Deadline));
        }
        tokio::time::sleep_until(place).await;

        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = self.api.http.settings.request_timeout.min(left);
        let started = Instant::now();
        let answered = tokio::time::timeout(limit, self.exchange(ask)).await;
        let (status, retry_after, body) = match answered {
            Err(_) if left <= limit => return Err(fail(Problem::Deadline)),
            Err(_) => return Err(fail(Problem::Timeout { after: limit })),
            Ok(Err(problem)) => return Err(fail(problem)),
            Ok(Ok(answer)) => answer,
        };
        let took = started.elapsed();
        tracing::debug!(operation = ask.operation, method = %ask.method, status = status.as_u16(), ?took, "Calry answered");
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.api.pace.slow_down(retry_after);
        } else {
            self.api.pace.ease();
        }
        if status.is_success() {
            return parse(&body).map_err(|reason| fail(Problem::Malformed { reason }));
        }
        let (message, expired) = self.message(&body);
        let source = self.key.source.clone();
        Err(fail(match status.as_u16() {
            401 => Problem::Key { source, expired, message },
            403 => Problem::Permission { source, message },
            429 => Problem::RateLimit { retry_after, message },
            300..=399 => Problem::Redirect { status: status.as_u16() },
            status => Problem::Status { status, retry_after, message },
        }))
    }

    /// One request and its whole answer.
    async fn exchange(&self, ask: &Ask<'_>) -> Result<(StatusCode, Option<Duration>, Vec<u8>), Problem> {
        let mut request = self
            .api
            .http
            .client
            .request(ask.method.clone(), self.api.url.join(&ask.path))
            .header(KEY_HEADER, self.key.header());
        if let Some(body) = &ask.body {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response: Response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, SystemTime::now()));
        // An error's body is small; of a larger one nothing is shown.
        let limit = if status.is_success() { ask.limit } else { MAX_ANSWER };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
            if body.len() + chunk.len() > limit {
                return if status.is_success() {
                    Err(Problem::TooLarge { limit })
                } else {
                    Ok((status, retry_after, Vec::new()))
                };
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, retry_after, body))
    }

    fn broken(&self, error: &reqwest::Error) -> Problem {
        let reason = ellipsize(&printable(&self.scrub(&cause(error))), MAX_MESSAGE);
        if error.is_connect() {
            Problem::Connect { reason }
        } else if error.is_timeout() {
            Problem::Timeout { after: self.api.http.settings.connect_timeout }
        } else {
            Problem::Broken { reason }
        }
    }

    fn scrub(&self, text: &str) -> String {
        self.scrubber.lock().unwrap_or_else(PoisonError::into_inner).scrub(text)
    }

    /// Calry's `message`, fit to be shown, and whether it speaks of an expired key.
    fn message(&self, body: &[u8]) -> (String, bool) {
        let message = wire::message(body).unwrap_or_default();
        let expired = message.to_ascii_lowercase().contains("expire");
        // Scrubbed before it is cut: half a secret is not found any more.
        (ellipsize(&printable(&self.scrub(&message)), MAX_MESSAGE), expired)
    }

    fn learn<'a>(&self, live: impl IntoIterator<Item = &'a Live>) {
        let mut scrubber = self.scrubber.lock().unwrap_or_else(PoisonError::into_inner);
        live.into_iter().flat_map(|live| live.partner_key.values()).for_each(|secret| scrubber.learn(secret));
    }

    fn expect_provider(&self, operation: &str, provider: &Provider, live: Live) -> Result<Live, Error> {
        if live.provider == *provider {
            return Ok(live);
        }
        let problem = Problem::Malformed { reason: "it is about another provider".to_owned() };
        Err(Error { operation: operation.to_owned(), problem, attempts: 1 })
    }
}

/// The innermost cause: what a person can act on. The outer ones repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, error as &dyn StdError) {
        "the request could not be sent".to_owned()
    } else {
        cause.to_string()
    }
}
