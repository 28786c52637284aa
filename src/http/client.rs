//! Connections: one set of HTTP clients for all callers, the proxy in between, and why a connection failed, in a sentence.
//!
//! A connection that did not answer in time is not used again: over HTTP/2 a time-out ends the request alone, and every
//! later one would be sent into the same silence. Never: repeat the user or password of a proxy.

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
use reqwest::{Client, ClientBuilder, Response};
use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use url::Url;

use super::concurrency_limit::ConcurrencyLimit;
use crate::model::{ellipsize, printable};

/// How many requests of the process are under way to one host, first come, first served, whichever workspace they are of.
const AT_ONCE: usize = 64;

/// How many more there may be that wait for an answer for longer than [`SLOW`].
const HANGING: usize = 192;

/// Who waits for an answer for longer lets the next one go first: a workspace that Calry does not answer holds up no other.
const SLOW: Duration = Duration::from_secs(2);

/// How many connections to one host are kept for the next request.
const IDLE: usize = 16;

/// The largest file of CA certificates that is looked at, in bytes.
const MAX_CERTIFICATES: u64 = 16 << 20;

/// The longest quotation of a library's reason, in characters.
const MAX_QUOTE: usize = 300;

/// The variable that names a file of CA certificates.
const CERT_FILE: &str = "SSL_CERT_FILE";

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
    /// An HTTP/2 connection that is silent for this long, idle or not, is asked for a sign of life, and is closed if there
    /// is none within half of this time.
    pub keep_alive: Duration,
}

impl Default for Settings {
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
    #[error(
        "no TLS library was chosen before the first connection: this is a fault of calry-gitops, please report it"
    )]
    NoProvider,
    #[error(
        "cannot prepare TLS: {0}; https needs the CA certificates of the system (Debian's package ca-certificates), or PEM \
         files of them named by the variables SSL_CERT_FILE and SSL_CERT_DIR"
    )]
    Tls(String),
    /// The file of CA certificates cannot be used, and would be passed over.
    #[error("cannot prepare TLS: the variable {CERT_FILE} names {file}, which {problem}")]
    Certificates {
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The connections of the process. Cheap to clone; workspaces share it.
#[derive(Clone, Debug)]
pub struct Http {
    /// For https: by the system's proxies and its CA certificates.
    secure: Result<Client, SetupError>,
    /// For plain http: never by a proxy, which would see the key, and without any need of certificates.
    plain: Client,
    pub(crate) settings: Settings,
    /// By the hosts' addresses.
    routes: Arc<Mutex<BTreeMap<String, Arc<Route>>>>,
}

impl Http {
    /// Sets the clients up; nothing is connected yet. Missing CA certificates are an error only of an [`Api`](crate::live::Api)
    /// over https.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        // reqwest panics without a provider.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(SetupError::NoProvider);
        }
        let secure = check_certificates(std::env::var_os(CERT_FILE).as_deref().map(Path::new));
        Ok(Self {
            secure: secure.and_then(|()| client(&settings, true)),
            plain: client(&settings, false)?,
            settings,
            routes: Arc::default(),
        })
    }

    /// The way to the host of an address; the same for all who share these connections.
    ///
    /// # Errors
    /// [`SetupError`] where the address is https and TLS cannot be set up.
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
            .or_insert_with(|| {
                Arc::new(Route {
                    limit: ConcurrencyLimit::new(AT_ONCE, HANGING, SLOW),
                    secure,
                    settings: self.settings,
                    proxy: Proxy::of(url),
                    current: Mutex::new(Current { client, number: 0 }),
                })
            });
        Ok(Arc::clone(route))
    }
}

fn client(settings: &Settings, secure: bool) -> Result<Client, SetupError> {
    let of_kind = |builder: ClientBuilder| match secure {
        true => builder.https_only(true),
        false => builder.no_proxy().tls_certs_only([]),
    };
    of_kind(Client::builder())
        .user_agent(concat!("calry-gitops/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect)
        .http2_keep_alive_interval(settings.keep_alive)
        .http2_keep_alive_timeout(settings.keep_alive / 2)
        .http2_keep_alive_while_idle(true)
        .pool_max_idle_per_host(IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // An update is sent once. Trying again is decided here, where a read can come first.
        .retry(reqwest::retry::never())
        .build()
        .map_err(|error| SetupError::Tls(root_cause(&error.without_url())))
}

/// Refuses a file of CA certificates that the TLS library would pass over without a word.
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
    // How every certificate in DER form begins: a sequence with a length of two bytes.
    let der = bytes.starts_with(&[0x30, 0x82]);
    failed(match der {
        true => "holds a certificate in DER form: convert it with `openssl x509 -inform der -outform pem`".to_owned(),
        false => "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned(),
    })
}

/// The way to one host.
#[derive(Debug)]
pub(crate) struct Route {
    /// Of a host, how many requests may be under way to it.
    pub(crate) limit: ConcurrencyLimit,
    secure: bool,
    settings: Settings,
    proxy: Option<Proxy>,
    current: Mutex<Current>,
}

/// The client that the next request is sent by.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) client: Client,
    number: u64,
}

impl Route {
    pub(crate) fn current(&self) -> Current {
        self.current.lock().clone()
    }

    /// The client did not answer in time: its connections are not used again.
    pub(crate) fn renew(&self, used: &Current) {
        let mut current = self.current.lock();
        // Several requests that waited on one connection replace it once.
        if current.number == used.number
            && let Ok(client) = client(&self.settings, self.secure)
        {
            *current = Current {
                client,
                number: used.number + 1,
            };
        }
    }

    /// Why a request by this route had no answer.
    pub(crate) fn failure(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let proxy = self.proxy.as_ref();
        let tls = tls_error(&error);
        let tunnel = causes(&error)
            .map(ToString::to_string)
            .find(|text| text.starts_with("tunnel error: "));
        let refused_by_proxy = match tunnel.as_deref() {
            Some("tunnel error: proxy authorization required") => Some(
                "the proxy demands a user and a password (407), which stand in its URL: http://user:password@host:port",
            ),
            Some("tunnel error: unsuccessful") => Some(
                "the proxy refuses the connection: let it through there, or name the host in NO_PROXY",
            ),
            _ => None,
        };
        let unsupported = proxy.filter(|proxy| !proxy.is_supported());
        let reason = match (&tls, refused_by_proxy, unsupported) {
            (_, _, Some(_)) => {
                "this kind of proxy is not supported; one for http (http://host:port) is, or name the host in NO_PROXY"
                    .to_owned()
            }
            (_, Some(reason), None) => reason.to_owned(),
            (Some(tls), None, None) => tls_reason(tls),
            (None, None, None) if error.is_timeout() && error.is_connect() => "the connection timed out".to_owned(),
            (None, None, None) if error.is_timeout() => "it timed out".to_owned(),
            (None, None, None) => root_cause(&error),
        };
        let lasting =
            refused_by_proxy.is_some() || unsupported.is_some() || tls.is_some_and(is_distrust);
        Failure {
            sent: !error.is_connect(),
            lasting,
            unreachable: error.is_connect()
                && (error.is_dns() || causes(&error).any(is_unreachable)),
            proxy: proxy.map(ToString::to_string),
            reason,
        }
    }
}

/// Why a request had no answer. Its text is a part of a sentence, without the address.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The request may have got through.
    pub(crate) sent: bool,
    /// Trying again is no use.
    pub(crate) lasting: bool,
    /// The host is not known, or nothing listens there.
    pub(crate) unreachable: bool,
    /// What was in between.
    pub(crate) proxy: Option<String>,
    pub(crate) reason: String,
}

impl Failure {
    /// The way to a host could not even be set up.
    pub(crate) fn of_setup(error: &SetupError) -> Self {
        Self {
            sent: false,
            lasting: true,
            unreachable: false,
            proxy: None,
            reason: error.to_string(),
        }
    }

    /// The proxy that was in between, as words that follow an address.
    pub(crate) fn through(&self) -> String {
        self.proxy
            .as_ref()
            .map(|proxy| format!(" through {proxy}"))
            .unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(proxy) = &self.proxy {
            write!(f, "through {proxy}: ")?;
        }
        f.write_str(&ellipsize(&printable(&self.reason), MAX_QUOTE))
    }
}

/// The proxy of the environment by which a host is reached. User and password are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proxy {
    scheme: String,
    authority: String,
}

impl Proxy {
    /// The same as reqwest finds, which does not say so.
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

/// The body after decompression; `None` where it is larger than `limit`, and then the rest is not read.
pub(crate) async fn bounded(
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

/// A body that an error may have: all of it, or its beginning where it is longer than `limit` or breaks off.
pub(crate) async fn beginning(response: &mut Response, limit: usize) -> Result<Vec<u8>, Vec<u8>> {
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

/// The innermost reason, such as "Connection refused". The outer ones say less.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// What lies below an error, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    fn below<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        // An io::Error passes over the error that it wraps: its source is that one's source.
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

/// Whether TLS failed for a reason that a second attempt will meet again, such as a certificate that is not trusted.
fn is_distrust(error: &rustls::Error) -> bool {
    use rustls::Error as Tls;
    matches!(
        error,
        Tls::InvalidCertificate(_) | Tls::InvalidMessage(_) | Tls::PeerIncompatible(_)
    )
}

/// Why TLS failed, for a person who does not know the library.
fn tls_reason(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    let trusted = match std::env::var_os(CERT_FILE) {
        Some(file) => format!(
            "; {CERT_FILE} names the CA certificates that are trusted, {}, and its issuer is not among them",
            printable(&file.to_string_lossy())
        ),
        None => format!(
            "; where that is right (a company's own CA, a proxy that reads along), name a PEM file of the CA certificates \
             to trust in {CERT_FILE}, or a directory in SSL_CERT_DIR"
        ),
    };
    match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!("its certificate is issued by a CA that is not trusted here{trusted}")
        }
        Tls::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => format!(
            "its certificate expired on {} (by the clock of this machine it is {})",
            date(*not_after),
            date(*time)
        ),
        Tls::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => format!(
            "its certificate is not valid before {} (by the clock of this machine it is {})",
            date(*not_before),
            date(*time)
        ),
        Tls::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => format!(
            "its certificate is not for {}, but for {}: check the address",
            expected.to_str(),
            presented.join(", ")
        ),
        // The library has no variant of its own for it.
        Tls::InvalidCertificate(CertificateError::Other(other))
            if format!("{other:?}").contains("CaUsedAsEndEntity") =>
        {
            format!("its certificate is self-signed{trusted}")
        }
        Tls::InvalidMessage(_) => {
            "what answers there does not use TLS: is this the port of plain http, or of another service?".to_owned()
        }
        other => other.to_string(),
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
    fn a_file_of_certificates_that_would_be_passed_over_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let said = || check_certificates(Some(&path)).map_err(|error| error.to_string());
        assert!(
            said().unwrap_err().contains("cannot be read: No such file"),
            "{:?}",
            said()
        );
        let der = CertificateDer::from_pem_slice(PEM.as_bytes()).unwrap();
        for (content, problem) in [
            (&b""[..], "holds no certificate in PEM form"),
            (b"hello", "holds no certificate"),
            (&der, "DER form"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(said().unwrap_err().contains(problem), "{:?}", said());
        }
        std::fs::write(&path, format!("# ours\n{PEM}")).unwrap();
        assert_eq!((said(), check_certificates(None)), (Ok(()), Ok(())));
        assert!(
            check_certificates(Some(Path::new("")))
                .unwrap_err()
                .to_string()
                .contains("names no file")
        );
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
            "its certificate expired on 2022-01-08 (by the clock of this machine it is 2024-10-04)"
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
    fn a_client_is_replaced_once_by_all_who_waited_on_it() {
        install_tls();
        let http = Http::new(Settings::default()).unwrap();
        let route = http
            .route(&Url::parse("http://127.0.0.1:9/x").unwrap())
            .unwrap();
        assert!(Arc::ptr_eq(
            &route,
            &http
                .route(&Url::parse("http://127.0.0.1:9/y").unwrap())
                .unwrap()
        ));
        let used = route.current();
        route.renew(&used);
        route.renew(&used);
        assert_eq!(route.current().number, 1);
    }
}
