//! HTTP clients for all callers, with proxies, and the reasons of failed connections as sentences.
//!
//! A connection that did not answer in time is not used again: over HTTP/2, a time-out ends the request only, and later
//! requests would use the same dead connection.
//!
//! Never: show the user or password of a proxy.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Read as _};
use std::iter::successors;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use reqwest::{Certificate, Client, Response};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::concurrency_limit::ConcurrencyLimit;
use crate::model::{ellipsize, printable, read_at_most};

/// The number of concurrent requests of the process to one host, first come, first served, for all workspaces together.
const MAX_REQUESTS: usize = 64;

/// The additional number of requests that may wait longer than [`SLOW`] for an answer.
const MAX_SLOW_REQUESTS: usize = 192;

/// A request that waits longer than this no longer counts, so that one unanswered workspace does not delay the others.
const SLOW: Duration = Duration::from_secs(2);

/// A body of this size, in bytes, needs no share of the memory for large ones. A list of a hundred providers is smaller.
const SMALL_BODY: usize = 128 << 10;

/// The number of larger bodies that are read at once, for all hosts together. Without this limit, many workspaces behind a
/// gateway that answers without end would take all memory.
const MAX_LARGE_BODIES: usize = 2;

/// The number of idle connections kept for each host.
const MAX_IDLE: usize = 16;

/// The largest file of CA certificates that is read, in bytes.
const MAX_CERTIFICATES: u64 = 16 << 20;

/// The longest quotation of a library's reason, in characters.
const MAX_QUOTE: usize = 300;

const CERT_FILE: &str = "SSL_CERT_FILE";

/// Installs ring as the TLS provider of the process. `main` calls it first; further calls have no effect.
pub fn install_tls() {
    // An error only means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The time-outs of a single request. The deadline of a session limits the sum of its requests.
#[derive(Clone, Copy, Debug)]
pub struct HttpTimeouts {
    /// For connecting, including TLS.
    pub connect: Duration,
    /// For a whole request, to the end of its answer.
    pub request: Duration,
    /// An HTTP/2 connection that is silent for this long, idle or not, gets a ping. It is closed if no answer arrives within
    /// half of this time.
    pub keep_alive: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
        }
    }
}

/// The HTTP client cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("no TLS provider is installed: this is a bug in calry-gitops, please report it")]
    NoProvider,
    #[error(
        "cannot set up TLS: {0}; https needs the CA certificates of the system (package ca-certificates on Debian) or PEM \
         files named by the variables SSL_CERT_FILE and SSL_CERT_DIR"
    )]
    Tls(String),
    /// The TLS library would silently ignore the file.
    #[error("cannot set up TLS: the variable {CERT_FILE} names {file}, which {problem}")]
    Certificates { file: String, problem: String },
    #[error("cannot set up TLS: the file of CA certificates {file} {problem}")]
    CertificateFile { file: String, problem: String },
}

/// The HTTP clients and connections of the process. Cheap to clone and shared by all workspaces.
#[derive(Clone, Debug)]
pub struct Http {
    /// For https: uses the system's proxies and CA certificates.
    secure: Result<Client, SetupError>,
    /// For plain http: never uses a proxy, which would see the key, and needs no certificates.
    plain: Client,
    certificates: Arc<[Certificate]>,
    pub(crate) timeouts: HttpTimeouts,
    large_bodies: Arc<Semaphore>,
    /// Keyed by origin.
    routes: Arc<Mutex<BTreeMap<String, Arc<Route>>>>,
}

impl Http {
    /// Sets up the clients; nothing is connected yet. Missing CA certificates are an error of https routes only.
    pub fn new(timeouts: HttpTimeouts) -> Result<Self, SetupError> {
        Self::trusting(timeouts, &[])
    }

    /// As [`Self::new`]; https also trusts these CA certificates.
    pub(crate) fn trusting(
        timeouts: HttpTimeouts,
        certificates: &[Certificate],
    ) -> Result<Self, SetupError> {
        // reqwest panics without a provider.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(SetupError::NoProvider);
        }
        let secure = check_certificates(std::env::var_os(CERT_FILE).as_deref().map(Path::new));
        Ok(Self {
            secure: secure.and_then(|()| client(&timeouts, true, certificates)),
            plain: client(&timeouts, false, &[])?,
            certificates: certificates.into(),
            timeouts,
            large_bodies: Arc::new(Semaphore::new(MAX_LARGE_BODIES)),
            routes: Arc::default(),
        })
    }

    /// The route to the host of `url`, shared by all clones of this value.
    ///
    /// # Errors
    /// [`SetupError`] if `url` is https and TLS cannot be set up.
    pub(crate) fn route(&self, url: &Url) -> Result<Arc<Route>, SetupError> {
        let secure = url.scheme() == "https";
        let client = if secure {
            self.secure.clone()?
        } else {
            self.plain.clone()
        };
        let mut routes = self.routes.lock();
        let route = routes
            .entry(url.origin().ascii_serialization())
            .or_insert_with(|| Arc::new(self.new_route(client, secure, Proxy::of(url))));
        Ok(Arc::clone(route))
    }

    /// A route that leads nowhere and is not shared.
    pub(crate) fn simulated_route(&self) -> Arc<Route> {
        Arc::new(self.new_route(self.plain.clone(), false, None))
    }

    fn new_route(&self, client: Client, secure: bool, proxy: Option<Proxy>) -> Route {
        Route {
            limit: ConcurrencyLimit::new(MAX_REQUESTS, MAX_SLOW_REQUESTS, SLOW),
            secure,
            certificates: Arc::clone(&self.certificates),
            timeouts: self.timeouts,
            large_bodies: Arc::clone(&self.large_bodies),
            proxy,
            current: Mutex::new(ActiveClient { client, number: 0 }),
        }
    }
}

fn client(
    timeouts: &HttpTimeouts,
    secure: bool,
    certificates: &[Certificate],
) -> Result<Client, SetupError> {
    let builder = match secure {
        true => Client::builder()
            .https_only(true)
            .tls_certs_merge(certificates.iter().cloned()),
        false => Client::builder().no_proxy().tls_certs_only([]),
    };
    builder
        .user_agent(concat!("calry-gitops/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeouts.connect)
        .http2_keep_alive_interval(timeouts.keep_alive)
        .http2_keep_alive_timeout(timeouts.keep_alive / 2)
        .http2_keep_alive_while_idle(true)
        .pool_max_idle_per_host(MAX_IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // An update is sent once. The callers decide about retries, because they can read first.
        .retry(reqwest::retry::never())
        .build()
        .map_err(|error| SetupError::Tls(root_cause(&error.without_url())))
}

/// Refuses a file of CA certificates that the TLS library would silently ignore.
fn check_certificates(file: Option<&Path>) -> Result<(), SetupError> {
    let Some(file) = file else { return Ok(()) };
    let failed = |problem: String| {
        let file = match file.as_os_str().is_empty() {
            true => "no file".to_owned(),
            false => format!("the file {}", printable(&file.display().to_string())),
        };
        Err(SetupError::Certificates { file, problem })
    };
    let mut bytes = Vec::new();
    if let Err(error) =
        std::fs::File::open(file).and_then(|f| f.take(MAX_CERTIFICATES).read_to_end(&mut bytes))
    {
        return failed(format!("cannot be read: {error}"));
    }
    if CertificateDer::pem_slice_iter(&bytes).any(|certificate| certificate.is_ok()) {
        return Ok(());
    }
    // Every certificate in DER form starts with a sequence whose length takes two bytes.
    let der = bytes.starts_with(&[0x30, 0x82]);
    failed(match der {
        true => "is a DER certificate: convert it with `openssl x509 -inform der -outform pem`"
            .to_owned(),
        false => "contains no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned(),
    })
}

/// Reads a file of CA certificates (PEM), and returns its bytes as well.
///
/// # Errors
/// [`SetupError::Certificates`] if it cannot be read or holds no certificate.
pub(crate) fn read_certificates(file: &Path) -> Result<(Vec<u8>, Vec<Certificate>), SetupError> {
    let failed = |problem: String| SetupError::CertificateFile {
        file: printable(&file.display().to_string()),
        problem,
    };
    let bytes = std::fs::File::open(file)
        .and_then(|file| read_at_most(file, MAX_CERTIFICATES))
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    let bytes = bytes.ok_or_else(|| failed("is too large".to_owned()))?;
    let certificates: Vec<_> = Certificate::from_pem_bundle(&bytes)
        .map_err(|error| failed(format!("is not a PEM file: {}", root_cause(&error))))?;
    if certificates.is_empty() {
        return Err(failed(
            "contains no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned(),
        ));
    }
    Ok((bytes, certificates))
}

/// The route to one host: its limit, its proxy and its client.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) limit: ConcurrencyLimit,
    secure: bool,
    certificates: Arc<[Certificate]>,
    timeouts: HttpTimeouts,
    large_bodies: Arc<Semaphore>,
    proxy: Option<Proxy>,
    current: Mutex<ActiveClient>,
}

/// The client for the next request to a host.
#[derive(Clone, Debug)]
pub(crate) struct ActiveClient {
    pub(crate) client: Client,
    number: u64,
}

/// A body, with its share of the memory for large ones.
#[derive(Debug)]
pub(crate) struct BoundedBody {
    pub(crate) bytes: Vec<u8>,
    /// Returned when the body is dropped.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Route {
    /// Reads the decompressed body, as [`read_bounded`] does. Few large bodies are in memory at once; the others wait, within the
    /// time limit of their request.
    pub(crate) async fn read_body(
        &self,
        response: &mut Response,
        limit: usize,
    ) -> reqwest::Result<Option<BoundedBody>> {
        let (mut bytes, mut memory) = (Vec::new(), None);
        while let Some(chunk) = response.chunk().await? {
            let length = bytes.len() + chunk.len();
            if length > limit {
                return Ok(None);
            }
            if length > SMALL_BODY && memory.is_none() {
                // The semaphore is never closed.
                memory = Arc::clone(&self.large_bodies).acquire_owned().await.ok();
                // At once, because growing by and by leaves pieces in the heap. Pages that are not used take no memory.
                bytes.reserve_exact(limit.saturating_sub(bytes.len()));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(BoundedBody {
            bytes,
            _memory: memory,
        }))
    }

    pub(crate) fn active_client(&self) -> ActiveClient {
        self.current.lock().clone()
    }

    /// Replaces a client that got no answer in time, so that its connections are not used again.
    pub(crate) fn replace_client(&self, used: &ActiveClient) {
        let mut current = self.current.lock();
        // Several requests may time out on the same client, which is replaced only once.
        if current.number == used.number
            && let Ok(client) = client(&self.timeouts, self.secure, &self.certificates)
        {
            *current = ActiveClient {
                client,
                number: used.number + 1,
            };
        }
    }

    /// Explains why a request on this route got no answer.
    pub(crate) fn failure(&self, error: reqwest::Error) -> RequestFailure {
        let error = error.without_url();
        let proxy = self.proxy.as_ref();
        let tls = tls_error(&error);
        let tunnel = causes(&error)
            .map(ToString::to_string)
            .find(|text| text.starts_with("tunnel error: "));
        let refused_by_proxy = match tunnel.as_deref() {
            Some("tunnel error: proxy authorization required") => Some(
                "the proxy requires a user and a password (407): put them in its URL, http://user:password@host:port",
            ),
            Some("tunnel error: unsuccessful") => Some(
                "the proxy refuses the connection: allow the host there, or add it to NO_PROXY",
            ),
            _ => None,
        };
        let unsupported = proxy.filter(|proxy| !proxy.is_supported());
        let reason = match (&tls, refused_by_proxy, unsupported) {
            (_, _, Some(_)) => {
                "this kind of proxy is not supported: use an http proxy (http://host:port), or add the host to NO_PROXY"
                    .to_owned()
            }
            (_, Some(reason), None) => reason.to_owned(),
            (Some(tls), None, None) => tls_reason(tls),
            (None, None, None) if error.is_timeout() && error.is_connect() => "the connection timed out".to_owned(),
            (None, None, None) if error.is_timeout() => "it timed out".to_owned(),
            (None, None, None) => root_cause(&error),
        };
        let permanent = refused_by_proxy.is_some()
            || unsupported.is_some()
            || tls.is_some_and(is_permanent_tls_error);
        RequestFailure {
            sent: !error.is_connect(),
            permanent,
            unreachable: error.is_connect()
                && (error.is_dns() || causes(&error).any(is_unreachable)),
            tls: tls.is_some(),
            untrusted: tls.as_ref().and_then(|tls| untrusted(tls)),
            proxy: proxy.map(ToString::to_string),
            reason,
        }
    }
}

/// Why a request got no answer. Its text is a part of a sentence, without the URL.
#[derive(Clone, Debug)]
pub(crate) struct RequestFailure {
    /// The request may have arrived.
    pub(crate) sent: bool,
    /// Another attempt would fail in the same way.
    pub(crate) permanent: bool,
    /// The host is unknown, or nothing listens there.
    pub(crate) unreachable: bool,
    /// TLS failed.
    pub(crate) tls: bool,
    /// The certificate is not trusted, and why, in words that name no setting.
    pub(crate) untrusted: Option<&'static str>,
    pub(crate) proxy: Option<String>,
    pub(crate) reason: String,
}

impl RequestFailure {
    pub(crate) fn from_setup(error: &SetupError) -> Self {
        Self {
            sent: false,
            permanent: true,
            unreachable: false,
            tls: true,
            untrusted: None,
            proxy: None,
            reason: error.to_string(),
        }
    }

    pub(crate) fn simulated(sent: bool, reason: String) -> Self {
        Self {
            sent,
            permanent: false,
            unreachable: false,
            tls: false,
            untrusted: None,
            proxy: None,
            reason,
        }
    }

    /// The proxy in between, as words that follow a URL.
    pub(crate) fn through(&self) -> String {
        self.proxy
            .as_ref()
            .map(|proxy| format!(" through {proxy}"))
            .unwrap_or_default()
    }
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(proxy) = &self.proxy {
            write!(f, "through {proxy}: ")?;
        }
        f.write_str(&ellipsize(&printable(&self.reason), MAX_QUOTE))
    }
}

/// The proxy from the environment for a host, without its user and password.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proxy {
    scheme: String,
    authority: String,
}

impl Proxy {
    /// Finds the same proxy as reqwest, which does not expose it.
    fn of(url: &Url) -> Option<Self> {
        // Plain http never goes through a proxy.
        if url.scheme() != "https" {
            return None;
        }
        let found = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
        let uri = found.uri();
        let port = uri
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let scheme = uri.scheme_str().unwrap_or("http").to_owned();
        Some(Self {
            scheme,
            authority: format!("{}{port}", uri.host().unwrap_or_default()),
        })
    }

    fn is_supported(&self) -> bool {
        matches!(self.scheme.as_str(), "http" | "https")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, authority } = self;
        write!(
            f,
            "the proxy {scheme}://{} (HTTPS_PROXY or ALL_PROXY)",
            ellipsize(&printable(authority), 200)
        )
    }
}

/// Reads the decompressed body. `None` if it is larger than `limit`; the rest is not read then.
pub(crate) async fn read_bounded(
    response: &mut Response,
    limit: usize,
) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// Reads the body of an error: `Ok` with the whole body, or `Err` with its beginning if it exceeds `limit` or breaks off.
pub(crate) async fn read_beginning(
    response: &mut Response,
    limit: usize,
) -> Result<Vec<u8>, Vec<u8>> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) => {
                body.extend(chunk.iter().take(limit - body.len()));
                return Err(body);
            }
            Err(_) => return Err(body),
        }
    }
}

/// The innermost cause, such as "Connection refused". The outer ones say less.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// The causes of an error, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    fn below<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        // `io::Error::source` skips the error that it wraps and returns the source of that error.
        match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        }
    }
    successors(error.source(), |cause| below(*cause))
}

fn is_unreachable(cause: &(dyn StdError + 'static)) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(
        kind,
        Some(ConnectionRefused | HostUnreachable | NetworkUnreachable)
    )
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Whether TLS would fail again in the same way, such as for an untrusted certificate.
fn is_permanent_tls_error(error: &rustls::Error) -> bool {
    use rustls::Error as Tls;
    matches!(
        error,
        Tls::InvalidCertificate(_) | Tls::InvalidMessage(_) | Tls::PeerIncompatible(_)
    )
}

/// Explains a TLS error without the terms of the library.
fn tls_reason(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    let trusted = match std::env::var_os(CERT_FILE) {
        Some(file) => format!(
            "; the issuer is not among the CA certificates in {}, named by {CERT_FILE}",
            printable(&file.to_string_lossy())
        ),
        None => format!(
            "; if that is expected (a private CA, an inspecting proxy), set {CERT_FILE} to a PEM file of the CA certificates \
             to trust, or SSL_CERT_DIR to a directory"
        ),
    };
    if let Some(why) = untrusted(error) {
        return format!("{why}{trusted}");
    }
    match error {
        Tls::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => format!(
            "its certificate expired on {} (the clock of this machine shows {})",
            date(*not_after),
            date(*time)
        ),
        Tls::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            format!(
                "its certificate is not valid before {} (the clock of this machine shows {})",
                date(*not_before),
                date(*time)
            )
        }
        Tls::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected,
            presented,
        }) => format!(
            "its certificate is not for {}, but for {}: check the URL",
            expected.to_str(),
            presented.join(", ")
        ),
        Tls::InvalidMessage(_) => {
            "the server does not use TLS: is this the port of plain http or of another service?"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Why a certificate is not trusted.
fn untrusted(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    match error {
        CertificateError::UnknownIssuer => Some("its certificate is issued by an untrusted CA"),
        // The library has no variant for this.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            Some("its certificate is self-signed")
        }
        _ => None,
    }
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(
        || "an unknown day".to_owned(),
        |time| time.strftime("%Y-%m-%d").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = include_str!("../../tests/fixtures/tls/cert.pem");

    #[test]
    fn a_file_of_certificates_that_would_be_ignored_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let check = |path: &Path| check_certificates(Some(path)).map_err(|error| error.to_string());
        let assert_refused = |path: &Path, problem: &str| {
            let refused = check(path).unwrap_err();
            assert!(refused.contains(problem), "{refused}");
        };
        assert_refused(&path, "cannot be read: No such file");
        let der = CertificateDer::from_pem_slice(PEM.as_bytes()).unwrap();
        for (content, problem) in [
            (&b""[..], "contains no PEM certificate"),
            (b"hello", "contains no PEM certificate"),
            (&der, "is a DER certificate"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_refused(&path, problem);
        }
        std::fs::write(&path, format!("# ours\n{PEM}")).unwrap();
        assert_eq!((check(&path), check_certificates(None)), (Ok(()), Ok(())));
        assert_refused(Path::new(""), "names no file");
    }

    #[test]
    fn a_certificate_that_is_refused_is_explained() {
        use CertificateError as Certificate;
        let said = |error| tls_reason(&rustls::Error::InvalidCertificate(error));
        let day = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400));
        assert!(said(Certificate::UnknownIssuer).contains(CERT_FILE));
        let expired = said(Certificate::ExpiredContext {
            time: day(20_000),
            not_after: day(19_000),
        });
        assert_eq!(
            expired,
            "its certificate expired on 2022-01-08 (the clock of this machine shows 2024-10-04)"
        );
        let early = said(Certificate::NotValidYetContext {
            time: day(1),
            not_before: day(19_000),
        });
        assert!(
            early.contains("not valid before 2022-01-08") && early.contains("1970-01-02"),
            "{early}"
        );
        let expected = rustls::pki_types::ServerName::try_from("calry.test").unwrap();
        let presented = vec!["a.example".to_owned(), "b.example".to_owned()];
        let other = said(Certificate::NotValidForNameContext {
            expected,
            presented,
        });
        assert!(
            other.contains("not for calry.test, but for a.example, b.example"),
            "{other}"
        );
    }

    #[test]
    fn requests_that_time_out_on_one_client_replace_it_once() {
        install_tls();
        let http = Http::new(HttpTimeouts::default()).unwrap();
        let to = |url: &str| http.route(&Url::parse(url).unwrap()).unwrap();
        let route = to("http://127.0.0.1:9/x");
        assert!(Arc::ptr_eq(&route, &to("http://127.0.0.1:9/y")));
        let used = route.active_client();
        route.replace_client(&used);
        route.replace_client(&used);
        assert_eq!(route.active_client().number, 1);
    }
}
