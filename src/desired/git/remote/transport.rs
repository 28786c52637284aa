//! The HTTP of gix's git protocol, by the clients of this program: TLS, proxies, time limits and refusals are the same as
//! for every other connection.
//!
//! The protocol code blocks, so each request runs on the runtime while its thread waits. The capabilities that a server
//! advertised once are remembered and answered from memory (git-protocol-v2: they do not depend on the repository's
//! references), so that asking for references costs one request.
//!
//! Never: follow a redirect to another origin, or send more than one credential, which is for that origin.

use std::any::Any;
use std::io::{self, BufRead, Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gix_protocol::transport::client::blocking_io::http::{
    GetResponse, Http as GitHttp, PostBodyDataKind, PostResponse,
};
use parking_lot::Mutex;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use reqwest::{Response, StatusCode};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::error::FetchError;
use crate::http::{ActiveClient, Route, retry_after};
use crate::model::{ellipsize, human_duration, printable};

/// The suffix of the first request of a fetch.
const ADVERTISEMENT: &str = "/info/refs?service=git-upload-pack";
/// The longest list of references and capabilities, in bytes: several ten thousand references of an old server.
const MAX_ADVERTISEMENT: u64 = 16 << 20;
/// The largest request, in bytes.
const MAX_REQUEST: usize = 1 << 20;
/// The longest wait for the next part of an answer.
const MAX_SILENCE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 3;

/// The answer to the first request of a fetch.
#[derive(Clone, Debug)]
pub(super) struct Advertisement {
    /// The address of the repository after redirects.
    base: String,
    body: Vec<u8>,
}

impl Advertisement {
    /// Whether it may be used again: with protocol version 2, it holds no references.
    fn is_lasting(&self) -> bool {
        self.body
            .windows(b"version 2".len())
            .take(200)
            .any(|text| text == b"version 2")
    }
}

/// The requests of one fetch.
pub(super) struct Exchange {
    pub(super) runtime: Handle,
    pub(super) stop: CancellationToken,
    pub(super) route: Arc<Route>,
    pub(super) authorization: Option<HeaderValue>,
    /// What a user renews if the credential is refused.
    pub(super) credential: Option<String>,
    pub(super) deadline: Instant,
    /// How many bytes a fetch may receive.
    pub(super) max: u64,
    pub(super) budget: Mutex<Budget>,
    /// Set at the deadline and by `stop`: it ends work that does not wait for the server.
    pub(super) interrupt: Arc<AtomicBool>,
    pub(super) advertisement: Mutex<Option<Advertisement>>,
    /// The first failure. gix's own error would only say that a request failed.
    pub(super) failure: Mutex<Option<FetchError>>,
}

/// The bytes that a part of a fetch may receive.
#[derive(Default)]
pub(super) struct Budget {
    allowed: u64,
    left: u64,
}

/// Ends when it is dropped.
pub(super) struct Interrupter(JoinHandle<()>);

impl Drop for Interrupter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Exchange {
    /// Limits the answers from here on, within the limit of the fetch.
    pub(super) fn allow(&self, bytes: u64) {
        let allowed = bytes.min(self.max);
        *self.budget.lock() = Budget {
            allowed,
            left: allowed,
        };
    }

    /// Sets the interrupt at the deadline, or when the fetch is stopped.
    pub(super) fn interrupt_in_time(&self) -> Interrupter {
        let (interrupt, stop) = (Arc::clone(&self.interrupt), self.stop.clone());
        let deadline = self.deadline;
        Interrupter(self.runtime.spawn(async move {
            stop.run_until_cancelled(sleep_until(deadline)).await;
            interrupt.store(true, Ordering::Relaxed);
        }))
    }

    /// Why the interrupt is set, if it is.
    pub(super) fn ended(&self) -> Option<FetchError> {
        self.interrupt.load(Ordering::Relaxed).then(|| {
            if self.stop.is_cancelled() {
                FetchError::Stopped
            } else {
                FetchError::TimedOut("the time limit of the fetch is over".to_owned())
            }
        })
    }

    fn fail(&self, error: FetchError) -> io::Error {
        let text = error.to_string();
        self.failure.lock().get_or_insert(error);
        io::Error::other(text)
    }

    /// Sends a request and waits for the status and the headers of the answer.
    fn send(
        &self,
        url: &str,
        headers: &HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Response, FetchError> {
        let url = Url::parse(url).map_err(|error| FetchError::NotGit(error.to_string()))?;
        let used = self.route.active_client();
        let client = &used.client;
        let mut request = match body {
            Some(body) => client.post(url).body(body),
            None => client.get(url),
        };
        request = request.headers(headers.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let sending = self.route.limit.run(request.send());
        let response = self.wait(&used, sending)?;
        self.check(response)
    }

    /// Waits for a step of an exchange.
    fn wait<T>(
        &self,
        used: &ActiveClient,
        step: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, FetchError> {
        let end = self.deadline.min(Instant::now() + MAX_SILENCE);
        // The clock needs the runtime.
        let step = async { timeout_at(end, step).await };
        let ended = self.runtime.block_on(self.stop.run_until_cancelled(step));
        match ended {
            None => Err(FetchError::Stopped),
            Some(Ok(Ok(value))) => Ok(value),
            Some(Ok(Err(error))) => {
                let failure = self.route.failure(error);
                let text = failure.to_string();
                Err(if let Some(why) = failure.untrusted {
                    FetchError::Untrusted(why)
                } else if failure.tls {
                    FetchError::Tls(text)
                } else if failure.sent {
                    FetchError::TimedOut(text)
                } else {
                    FetchError::Unreachable(text)
                })
            }
            Some(Err(_)) => {
                self.route.replace_client(used);
                let silence = human_duration(MAX_SILENCE);
                Err(FetchError::TimedOut(format!(
                    "no data for {silence}, or the time limit is over"
                )))
            }
        }
    }

    fn check(&self, response: Response) -> Result<Response, FetchError> {
        let status = response.status();
        let wait = retry_after(response.headers());
        Err(match (status, wait) {
            _ if status.is_success() || status.is_redirection() => return Ok(response),
            (StatusCode::TOO_MANY_REQUESTS, wait) => {
                FetchError::RateLimited(wait.unwrap_or(Duration::from_secs(60)))
            }
            // GitHub reports its limits so.
            (StatusCode::FORBIDDEN, Some(wait)) => FetchError::RateLimited(wait),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                match (&self.credential, status) {
                    (None, status) => FetchError::NoCredentials(status.as_u16()),
                    (Some(credential), StatusCode::FORBIDDEN) => {
                        FetchError::Forbidden(credential.clone())
                    }
                    (Some(credential), _) => FetchError::Unauthorized(credential.clone()),
                }
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => FetchError::NotFound,
            (status, wait) if status.is_server_error() => FetchError::Server {
                status: status.as_u16(),
                retry_after: wait,
            },
            (status, _) => FetchError::NotGit(format!("status {}", status.as_u16())),
        })
    }

    /// Reads the advertisement, through redirects within the same origin.
    fn advertise(&self, url: &str, headers: &HeaderMap) -> Result<Advertisement, FetchError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut response = self.send(&url, headers, None)?;
            if response.status().is_redirection() {
                url = redirect(&response)?;
                continue;
            }
            let used = self.route.active_client();
            let mut body = Vec::new();
            while let Some(chunk) = self.wait(&used, response.chunk())? {
                if (body.len() + chunk.len()) as u64 > MAX_ADVERTISEMENT.min(self.max) {
                    return Err(FetchError::TooLarge(MAX_ADVERTISEMENT.min(self.max)));
                }
                body.extend_from_slice(&chunk);
            }
            check_type(response.headers(), "advertisement")?;
            let base = url.strip_suffix(ADVERTISEMENT).unwrap_or(&url).to_owned();
            return Ok(Advertisement { base, body });
        }
        Err(FetchError::NotGit(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }
}

/// Where a redirect of the advertisement leads.
fn redirect(response: &Response) -> Result<String, FetchError> {
    let from = response.url();
    let to = response
        .headers()
        .get(LOCATION)
        .and_then(|to| to.to_str().ok())
        .and_then(|to| from.join(to).ok())
        .ok_or_else(|| FetchError::NotGit("a redirect without an address".to_owned()))?;
    let shown = |url: &Url| {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // An address with a password is not shown. It has a host, so it can have none.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let text = url
            .as_str()
            .strip_suffix("/info/refs")
            .unwrap_or(url.as_str());
        ellipsize(&printable(text), 300)
    };
    // A user or password in the address would be sent beside the own credentials.
    let has_credentials = !to.username().is_empty() || to.password().is_some();
    if has_credentials || to.origin() != from.origin() {
        return Err(FetchError::Redirected(shown(&to)));
    }
    if !to.as_str().ends_with(ADVERTISEMENT) {
        return Err(FetchError::NotGit(format!("a redirect to {}", shown(&to))));
    }
    Ok(to.into())
}

fn check_type(headers: &HeaderMap, kind: &str) -> Result<(), FetchError> {
    let found = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("no content type");
    if found == format!("application/x-git-upload-pack-{kind}") {
        return Ok(());
    }
    Err(FetchError::NotGit(ellipsize(&printable(found), 100)))
}

/// The headers that the protocol asks for, with the name of this program.
fn header_map(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<HeaderMap, FetchError> {
    let invalid = || FetchError::Invalid("a header cannot be sent".to_owned());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.as_ref().split_once(':').ok_or_else(invalid)?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| invalid())?;
        headers.insert(name, value);
    }
    // Some hosts recognise git by the beginning.
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("git/calry-gitops-", env!("CARGO_PKG_VERSION"))),
    );
    Ok(headers)
}

/// The HTTP client of gix's transport.
pub(super) struct Client {
    exchange: Arc<Exchange>,
    base: Option<String>,
}

impl Client {
    pub(super) const fn new(exchange: Arc<Exchange>) -> Self {
        Self {
            exchange,
            base: None,
        }
    }
}

/// The line by which gix recognises an answer; its content type was checked before.
fn header_lines(kind: &str) -> Cursor<Vec<u8>> {
    Cursor::new(format!("content-type: application/x-git-upload-pack-{kind}\n").into_bytes())
}

impl GitHttp for Client {
    type Headers = Headers;
    type ResponseBody = Body;
    type PostBody = RequestBody;

    fn get(
        &mut self,
        url: &str,
        _base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<GetResponse<Headers, Body>, gix::Error> {
        let exchange = &self.exchange;
        let known = exchange.advertisement.lock().clone();
        let advertisement = match known {
            Some(known) => known,
            None => {
                let read =
                    header_map(headers).and_then(|headers| exchange.advertise(url, &headers));
                let read = read.map_err(|error| gix::Error::from_error(exchange.fail(error)))?;
                if read.is_lasting() {
                    *exchange.advertisement.lock() = Some(read.clone());
                }
                read
            }
        };
        self.base = Some(advertisement.base);
        Ok(GetResponse {
            headers: Headers::Lines(header_lines("advertisement")),
            body: Body::Bytes(Cursor::new(advertisement.body)),
        })
    }

    fn post(
        &mut self,
        url: &str,
        _base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> Result<PostResponse<Headers, Body, RequestBody>, gix::Error> {
        let headers = header_map(headers)
            .map_err(|error| gix::Error::from_error(self.exchange.fail(error)))?;
        let post = Arc::new(Mutex::new(Post {
            exchange: Arc::clone(&self.exchange),
            url: url.to_owned(),
            headers,
            request: Vec::new(),
            answer: None,
        }));
        Ok(PostResponse {
            post_body: RequestBody(Arc::clone(&post)),
            headers: Headers::Pending(Arc::clone(&post)),
            body: Body::Answer {
                post,
                part: Cursor::default(),
            },
        })
    }

    fn configure(&mut self, _config: &dyn Any) -> Result<(), gix::Error> {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.base.clone()
    }
}

/// A request that is sent when its answer is read first.
pub(super) struct Post {
    exchange: Arc<Exchange>,
    url: String,
    headers: HeaderMap,
    request: Vec<u8>,
    answer: Option<(ActiveClient, Response)>,
}

impl Post {
    fn answer(&mut self) -> io::Result<(&Arc<Exchange>, &mut (ActiveClient, Response))> {
        let Self {
            exchange,
            url,
            headers,
            request,
            answer,
        } = self;
        let answer = match answer {
            Some(answer) => answer,
            None => {
                let used = exchange.route.active_client();
                let sent = exchange
                    .send(url, headers, Some(std::mem::take(request)))
                    .and_then(|response| {
                        // Only the first request may be redirected, as in git.
                        if response.status().is_redirection() {
                            return Err(FetchError::NotGit("a redirect".to_owned()));
                        }
                        check_type(response.headers(), "result").map(|()| response)
                    });
                answer.insert((used, sent.map_err(|error| exchange.fail(error))?))
            }
        };
        Ok((exchange, answer))
    }

    fn next_part(&mut self) -> io::Result<Vec<u8>> {
        let (exchange, (used, response)) = self.answer()?;
        let part = loop {
            let part = exchange.wait(used, response.chunk());
            match part.map_err(|error| exchange.fail(error))? {
                // An empty part would be the end.
                Some(part) if part.is_empty() => {}
                part => break part.unwrap_or_default(),
            }
        };
        let mut budget = exchange.budget.lock();
        match budget.left.checked_sub(part.len() as u64) {
            Some(rest) => budget.left = rest,
            None => return Err(exchange.fail(FetchError::TooLarge(budget.allowed))),
        }
        Ok(part.to_vec())
    }
}

/// Collects a request.
pub(super) struct RequestBody(Arc<Mutex<Post>>);

impl Write for RequestBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let request = &mut self.0.lock().request;
        if request.len() + bytes.len() > MAX_REQUEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The headers of an answer, as lines.
pub(super) enum Headers {
    Lines(Cursor<Vec<u8>>),
    Pending(Arc<Mutex<Post>>),
}

impl BufRead for Headers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Self::Pending(post) = self {
            post.lock().answer()?;
            *self = Self::Lines(header_lines("result"));
        }
        match self {
            Self::Lines(lines) => lines.fill_buf(),
            Self::Pending(_) => Ok(&[]),
        }
    }

    fn consume(&mut self, amount: usize) {
        if let Self::Lines(lines) = self {
            lines.consume(amount);
        }
    }
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

/// The body of an answer.
pub(super) enum Body {
    Bytes(Cursor<Vec<u8>>),
    Answer {
        post: Arc<Mutex<Post>>,
        part: Cursor<Vec<u8>>,
    },
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Bytes(bytes) => bytes.fill_buf(),
            Self::Answer { post, part } => {
                if part.fill_buf()?.is_empty() {
                    *part = Cursor::new(post.lock().next_part()?);
                }
                part.fill_buf()
            }
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Bytes(bytes) | Self::Answer { part: bytes, .. } => bytes.consume(amount),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

fn read_buffered(from: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let read = from.fill_buf()?.read(buffer)?;
    from.consume(read);
    Ok(read)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reqwest::ResponseBuilderExt as _;

    use super::super::fixtures::{answer, serve};
    use super::*;
    use crate::http::{Http, HttpTimeouts, install_tls};

    #[test]
    fn a_redirect_stays_within_the_origin_and_brings_no_credentials() {
        let redirected = |to: &str| {
            let from = format!("https://git.example/a{ADVERTISEMENT}");
            let response = axum::http::Response::builder()
                .url(Url::parse(&from).unwrap())
                .header(LOCATION, to)
                .body("")
                .unwrap();
            redirect(&Response::from(response))
        };
        let to = format!("/b{ADVERTISEMENT}");
        let found = redirected(&to).unwrap();
        assert_eq!(found, format!("https://git.example{to}"));
        for origin in [
            "http://git.example",
            "https://git.example:8443",
            "https://other.example",
            "https://user@git.example",
            "https://:SECRET@git.example",
        ] {
            let refused = redirected(&format!("{origin}{to}")).unwrap_err();
            assert!(matches!(refused, FetchError::Redirected(_)), "{origin}");
            assert!(!refused.to_string().contains("SECRET"));
        }
        assert!(matches!(redirected("/b"), Err(FetchError::NotGit(_))));
    }

    fn exchange(runtime: Handle, credential: Option<&str>) -> Exchange {
        install_tls();
        let http = Http::new(HttpTimeouts::default()).unwrap();
        let url = Url::parse("http://127.0.0.1:9").unwrap();
        Exchange {
            runtime,
            stop: CancellationToken::new(),
            route: http.route(&url).unwrap(),
            authorization: Some(HeaderValue::from_static("Basic abc")),
            credential: credential.map(str::to_owned),
            deadline: Instant::now() + MAX_SILENCE,
            max: 1 << 20,
            budget: Mutex::default(),
            interrupt: Arc::default(),
            advertisement: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    #[tokio::test]
    async fn each_refusal_of_a_server_has_its_error() {
        let checked = |status: u16, wait: Option<u32>, credential| {
            let mut response = axum::http::Response::builder().status(status);
            if let Some(wait) = wait {
                response = response.header("retry-after", wait);
            }
            let response = Response::from(response.body("").unwrap());
            let checked = exchange(Handle::current(), credential).check(response);
            checked.map_or_else(|e| format!("{e:?}"), |answer| answer.status().to_string())
        };
        let own = Some("the token");
        for (status, wait, credential, expected) in [
            (200, None, own, "200 OK"),
            (302, None, own, "302 Found"),
            (429, Some(7), own, "RateLimited(7s)"),
            (429, None, own, "RateLimited(60s)"),
            (403, Some(7), own, "RateLimited(7s)"),
            (403, None, own, "Forbidden(\"the token\")"),
            (401, Some(7), own, "Unauthorized(\"the token\")"),
            (401, None, None, "NoCredentials(401)"),
            (403, None, None, "NoCredentials(403)"),
            (404, Some(7), own, "NotFound"),
            (410, None, own, "NotFound"),
            (
                503,
                Some(7),
                own,
                "Server { status: 503, retry_after: Some(7s) }",
            ),
            (500, None, own, "Server { status: 500, retry_after: None }"),
            (418, Some(7), own, "NotGit(\"status 418\")"),
        ] {
            assert_eq!(checked(status, wait, credential), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_interrupted_at_the_deadline_or_by_a_stop_as_long_as_it_lasts() {
        let ended = |exchange: &Exchange| exchange.ended().map(|error| error.to_string());
        let stopped = exchange(Handle::current(), None);
        let interrupter = stopped.interrupt_in_time();
        tokio::task::yield_now().await;
        assert_eq!(ended(&stopped), None);
        stopped.stop.cancel();
        tokio::task::yield_now().await;
        assert_eq!(ended(&stopped), Some(FetchError::Stopped.to_string()));
        drop(interrupter);

        let (late, over) = (
            exchange(Handle::current(), None),
            exchange(Handle::current(), None),
        );
        let interrupter = late.interrupt_in_time();
        drop(over.interrupt_in_time());
        tokio::time::sleep(MAX_SILENCE + Duration::from_millis(1)).await;
        let text = ended(&late).unwrap();
        assert!(
            text.contains("the time limit of the fetch is over"),
            "{text}"
        );
        assert_eq!(ended(&over), None);
        drop(interrupter);
    }

    /// An answer in parts.
    fn chunked(kind: &str, parts: &[&str]) -> String {
        let mut text = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\
             content-type: application/x-git-upload-pack-{kind}\r\n\r\n"
        );
        for part in parts {
            text += &format!("{:x}\r\n{part}\r\n", part.len());
        }
        text + "0\r\n\r\n"
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Runtime::new().unwrap()
    }

    fn read(mut from: impl Read) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_list_of_capabilities_is_asked_for_once_and_one_of_references_each_time() {
        let runtime = runtime();
        for (version, asked_again) in [("version 2", false), ("version 1", true)] {
            let advertised = chunked("advertisement", &["000e", version, " and more"]);
            let (url, serving) = serve(vec![
                answer(302, &format!("location: /b{ADVERTISEMENT}\r\n"), ""),
                advertised,
            ]);
            let exchange = Arc::new(exchange(runtime.handle().clone(), None));
            let mut client = Client::new(Arc::clone(&exchange));
            assert_eq!(client.redirected_base_url(), None);
            let mut get = || {
                let headers = ["git-protocol: version=2"];
                let got = client
                    .get(&format!("{url}{ADVERTISEMENT}"), &url, headers)
                    .ok()?;
                Some((
                    read(got.headers),
                    read(got.body),
                    client.redirected_base_url(),
                ))
            };
            let first = get().unwrap();
            assert_eq!(
                first.0,
                "content-type: application/x-git-upload-pack-advertisement\n"
            );
            assert_eq!(first.1, format!("000e{version} and more"));
            assert_eq!(first.2, Some(url.replace("/a", "/b")));
            for asked in serving.join().unwrap() {
                for header in [
                    "git-protocol: version=2\r\n",
                    "authorization: Basic abc\r\n",
                    concat!(
                        "user-agent: git/calry-gitops-",
                        env!("CARGO_PKG_VERSION"),
                        "\r\n"
                    ),
                ] {
                    assert!(asked.contains(header), "{asked}");
                }
            }
            // The server is gone.
            assert_eq!(get().is_none(), asked_again, "{version}");
            assert_eq!(exchange.failure.lock().is_some(), asked_again);
        }
    }

    #[test]
    fn an_advertisement_has_at_most_the_bytes_that_are_allowed() {
        let runtime = runtime();
        for (parts, expected) in [
            (["123456", "7890"], Ok("1234567890")),
            (["123456", "78901"], Err("TooLarge(10)")),
        ] {
            let (url, serving) = serve(vec![chunked("advertisement", &parts)]);
            let exchange = Exchange {
                max: 10,
                ..exchange(runtime.handle().clone(), None)
            };
            let read = exchange.advertise(&url, &HeaderMap::new());
            let read = read.map(|read| String::from_utf8(read.body).unwrap());
            assert_eq!(
                read.as_deref().map_err(|e| format!("{e:?}")),
                expected.map_err(str::to_owned)
            );
            serving.join().unwrap();
        }
        let (url, serving) = serve(vec![chunked("result", &["page"])]);
        let exchange = exchange(runtime.handle().clone(), None);
        let refused = exchange.advertise(&url, &HeaderMap::new()).unwrap_err();
        assert!(
            refused.to_string().contains("upload-pack-result"),
            "{refused}"
        );
        serving.join().unwrap();
    }

    #[test]
    fn an_answer_has_at_most_the_bytes_that_are_allowed_and_its_request_is_sent_when_it_is_read() {
        let runtime = runtime();
        for (allowed, expected) in [(10, Ok("1234567890")), (9, Err("TooLarge(9)"))] {
            let (url, serving) = serve(vec![chunked("result", &["123456", "7890"])]);
            let exchange = Arc::new(exchange(runtime.handle().clone(), None));
            exchange.allow(allowed);
            let mut client = Client::new(Arc::clone(&exchange));
            let headers = ["content-type: application/x-git-upload-pack-request"];
            let mut post = client
                .post(&url, &url, headers, PostBodyDataKind::Unbounded)
                .unwrap();
            post.post_body.write_all(b"want ").unwrap();
            post.post_body.write_all(b"all.").unwrap();
            let lines = read(post.headers);
            assert_eq!(
                lines,
                "content-type: application/x-git-upload-pack-result\n"
            );
            let mut text = String::new();
            let read = post.body.read_to_string(&mut text).map(|_| text.as_str());
            let failure = || format!("{:?}", exchange.failure.lock().as_ref().unwrap());
            assert_eq!(read.map_err(|_| failure()), expected.map_err(str::to_owned));
            let asked = serving.join().unwrap().remove(0);
            assert!(asked.starts_with("POST /a "), "{asked}");
            assert!(asked.ends_with("\r\n\r\nwant all."), "{asked}");
        }
    }

    #[test]
    fn a_request_has_a_largest_size() {
        let runtime = runtime();
        let mut client = Client::new(Arc::new(exchange(runtime.handle().clone(), None)));
        let none: [&str; 0] = [];
        let post = client.post("http://127.0.0.1:9", "", none, PostBodyDataKind::Unbounded);
        let mut body = post.unwrap().post_body;
        let half = vec![0; MAX_REQUEST / 2];
        assert_eq!(body.write(&half).unwrap(), half.len());
        assert_eq!(body.write(&half).unwrap(), half.len());
        assert_eq!(
            body.write(b"1").unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        assert_eq!(client.configure(&()).ok(), Some(()));
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_an_error() {
        for bad in ["no colon", "two words: a", "name: a\u{1}b"] {
            assert!(
                matches!(header_map([bad]), Err(FetchError::Invalid(_))),
                "{bad}"
            );
        }
    }
}
