//! The client of the API, against small servers that each misbehave in one way.

use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use calry_gitops::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use calry_gitops::live::{
    Api, ApiKey, Error, KeySource, ReadCalry, Reader, Snapshot, SnapshotError, WriteCalry, Writer,
};
use calry_gitops::model::{PartnerKey, Provider, Secret, Update, UpdateMethod};
use calry_gitops::ops::notifications::{Credentials, post_document};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const KEY: &str = "zepl.id.R4nd0m/K3y.acme";
const WORKSPACE: &str = r#"{"id":"1","name":"Acme","slug":"acme-production"}"#;
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/cert.pem");
const PRIVATE_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/key.pem");

/// A Calry that answers with a closure and counts the requests.
struct Fake {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Fake {
    /// `answer` gets the number of the request, from 1.
    async fn answering(
        answer: impl Fn(usize, Request) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let (connections, requests) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (connected, requested) = (Arc::clone(&connections), Arc::clone(&requests));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(move |_| {
            connected.fetch_add(1, SeqCst);
        });
        let handler = move |request: Request| {
            let answer = answer(requested.fetch_add(1, SeqCst) + 1, request);
            async { answer }
        };
        tokio::spawn(
            async move { axum::serve(listener, axum::Router::new().fallback(handler)).await },
        );
        Self {
            url,
            connections,
            requests,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

/// A TCP server: `serve` gets each connection, numbered from 1.
async fn raw<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    address
}

/// Reads a request's head and returns it.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn http_of(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn key() -> ApiKey {
    KeySource::Variable(Some(Secret::new(KEY))).read().unwrap()
}

fn hostaway() -> Provider {
    Provider::parse("HOSTAWAY").unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn api(url: &str) -> Api {
    install_tls();
    let http = Http::new(HttpTimeouts {
        connect: secs(1),
        request: Duration::from_millis(500),
        ..HttpTimeouts::default()
    })
    .unwrap();
    Api::new(
        &http,
        HttpUrl::parse(url, UrlPolicy::api(false)).unwrap(),
        UpdateMethod::Patch,
    )
    .unwrap()
}

fn session(api: &Api, time: Duration) -> (Reader, Writer) {
    let reader = api.reader(&key(), tokio::time::Instant::now() + time);
    let writer = api.writer(&reader);
    (reader, writer)
}

fn reader(url: &str, time: Duration) -> Reader {
    session(&api(url), time).0
}

fn writer(url: &str) -> Writer {
    session(&api(url), secs(5)).1
}

fn refusal(status: u16, message: &str) -> Response {
    let body = json!({"timestamp": "", "path": "/secret-path", "message": message, "details": ["secret-detail"]});
    answer(status, body.to_string())
}

fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}

fn definition(partner_key: &Value) -> String {
    json!({"id": "1", "name": "n", "provider": "HOSTAWAY", "partnerKey": partner_key,
        "fieldsToSync": {"listing": {"name": true}}, "updatedAt": "2026-01-01T00:00:00.000Z"})
    .to_string()
}

async fn update_of(url: &str) -> Error {
    writer(url)
        .update(&hostaway(), &Update::default())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn requests_match_the_api_reference() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = Arc::clone(&seen);
    let fake = Fake::answering(move |_, request| {
        let header = |name| {
            request
                .headers()
                .get(name)
                .map(|v| v.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        let line = format!("{} {}", request.method(), request.uri());
        see.lock().unwrap().push([
            line,
            header("x-calry-api-key"),
            header("user-agent"),
            header("accept-encoding"),
        ]);
        answer(
            200,
            if request.uri().path().ends_with("HOSTAWAY") {
                definition(&Value::Null)
            } else {
                "[]".into()
            },
        )
    })
    .await;
    let api = api(&format!("{}/prefix/", fake.url));
    let (reader, writer) = session(&api, secs(5));
    assert!(reader.definitions().await.unwrap().live.is_empty());
    assert_eq!(
        reader.definition(&hostaway()).await.unwrap().provider,
        hostaway()
    );
    writer
        .update(&hostaway(), &Update::default())
        .await
        .unwrap();
    let put = Api::new(
        &Http::new(HttpTimeouts::default()).unwrap(),
        HttpUrl::parse(&fake.url, UrlPolicy::api(false)).unwrap(),
        UpdateMethod::Put,
    );
    session(&put.unwrap(), secs(5))
        .1
        .update(&hostaway(), &Update::default())
        .await
        .unwrap();

    let seen = seen.lock().unwrap();
    let lines: Vec<_> = seen.iter().map(|[line, ..]| line.as_str()).collect();
    let path = "/prefix/api/v1/integration-definition";
    let want = [
        format!("GET {path}"),
        format!("GET {path}/HOSTAWAY"),
        format!("PATCH {path}/HOSTAWAY"),
    ];
    assert_eq!(lines[..3], want);
    assert_eq!(lines[3], "PUT /api/v1/integration-definition/HOSTAWAY");
    let agent = concat!("calry-gitops/", env!("CARGO_PKG_VERSION"));
    assert!(
        seen.iter()
            .all(|[_, k, a, e]| k == KEY && a == agent && e == "gzip"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let target = Fake::answering(|_, _| answer(200, WORKSPACE)).await;
    let to = format!("{}/elsewhere", target.url);
    let fake = Fake::answering(move |n, _| {
        let status = [301, 302, 303, 307, 308][(n - 1) % 5];
        Response::builder()
            .status(status)
            .header("location", &to)
            .body(Body::empty())
            .unwrap()
    })
    .await;
    for _ in 0..5 {
        let error = reader(&fake.url, secs(5)).workspace().await.unwrap_err();
        assert!(
            error.to_string().contains("redirect") && error.to_string().contains("--api-url"),
            "{error}"
        );
    }
    assert_eq!((fake.requests(), target.requests()), (5, 0));
}

#[tokio::test]
async fn an_answer_is_bounded_before_and_after_decompression() {
    let bomb = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 64 << 20]).unwrap();
        gzip.finish().unwrap()
    };
    let gzipped = move || {
        Response::builder()
            .header("content-encoding", "gzip")
            .body(Body::from(bomb.clone()))
            .unwrap()
    };
    let fake = Fake::answering(move |_, request| match request.uri().path() {
        "/api/v1/workspace" => answer(200, vec![b' '; (1 << 20) + 1]),
        _ => gzipped(),
    })
    .await;
    install_tls();
    // Decompression is slow without optimization, and only the size is tested.
    let http = Http::new(HttpTimeouts {
        request: secs(30),
        ..HttpTimeouts::default()
    })
    .unwrap();
    let api = Api::new(
        &http,
        HttpUrl::parse(&fake.url, UrlPolicy::api(false)).unwrap(),
        UpdateMethod::Patch,
    )
    .unwrap();
    let reader = session(&api, secs(30)).0;
    let said = |error: Error| error.to_string();
    assert!(said(reader.workspace().await.unwrap_err()).contains("larger than 1 MiB"));
    assert!(said(reader.definition(&hostaway()).await.unwrap_err()).contains("larger than 1 MiB"));
    assert!(said(reader.definitions().await.unwrap_err()).contains("larger than 32 MiB"));
    assert_eq!(
        fake.requests(),
        3,
        "what is too large is not asked for again"
    );
}

#[tokio::test]
async fn a_gzipped_answer_is_read() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(WORKSPACE.as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    let fake = Fake::answering(move |_, _| {
        Response::builder()
            .header("content-encoding", "gzip")
            .body(Body::from(body.clone()))
            .unwrap()
    })
    .await;
    assert_eq!(
        reader(&fake.url, secs(5)).workspace().await.unwrap().slug,
        "acme-production"
    );
}

#[tokio::test]
async fn waiting_for_a_body_ends_with_the_request_timeout() {
    let address = raw(|_, mut stream| async move {
        head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
            .await
            .unwrap();
        std::future::pending().await
    })
    .await;
    let error = update_of(&format!("http://{address}")).await;
    assert_eq!(
        error.to_string(),
        "cannot update HOSTAWAY: Calry did not answer within 500ms (--request-timeout)"
    );
    assert!(error.is_transient() && error.may_have_arrived());
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_does_not_start() {
    let in_an_hour = httpdate::fmt_http_date(SystemTime::now() + secs(3600));
    for (asked, said) in [
        ("3600".to_owned(), "asks to wait 1h"),
        (in_an_hour, "asks to wait 59m 5"),
    ] {
        let fake = Fake::answering(move |_, _| {
            ([("retry-after", &asked)], refusal(429, "slow")).into_response()
        })
        .await;
        let begin = Instant::now();
        let error = reader(&fake.url, secs(60)).workspace().await.unwrap_err();
        assert!(begin.elapsed() < secs(5) && fake.requests() == 1);
        assert_eq!(error.status(), Some(429));
        assert!(
            error.to_string().contains(said) || error.to_string().contains("asks to wait 1h"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_429_pauses_its_workspace_and_no_other() {
    let fake = Fake::answering(|n, _| match n {
        1 => ([("retry-after", "3600")], refusal(429, "slow")).into_response(),
        _ => answer(200, WORKSPACE),
    })
    .await;
    let (ours, other) = (api(&fake.url), api(&fake.url));
    session(&ours, secs(5)).0.workspace().await.unwrap_err();
    let error = session(&ours, secs(5))
        .1
        .update(&hostaway(), &Update::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot update HOSTAWAY: nothing was sent: Calry asked to wait another 5m, which is longer than the time left"
    );
    assert!(!error.may_have_arrived());
    session(&other, secs(5)).0.workspace().await.unwrap();
    assert_eq!(fake.requests(), 2);
}

#[tokio::test]
async fn permanent_errors_are_not_retried() {
    for status in [400, 401, 403, 404, 500] {
        let fake = Fake::answering(move |_, _| refusal(status, "No.")).await;
        let error = reader(&fake.url, secs(5))
            .definition(&hostaway())
            .await
            .unwrap_err();
        assert_eq!((error.status(), fake.requests()), (Some(status), 1));
        assert_eq!(error.is_fatal_for_workspace(), status == 401);
        assert!(
            error.to_string().contains(&format!("({status}, \"No.\")")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_read_is_retried_after_a_transient_error() {
    for status in [408, 425, 429, 502, 503, 504, 520, 524, 530] {
        let fake = Fake::answering(move |n, _| {
            if n < 3 {
                refusal(status, "")
            } else {
                answer(200, WORKSPACE)
            }
        })
        .await;
        reader(&fake.url, secs(10)).workspace().await.unwrap();
        assert_eq!(fake.requests(), 3, "{status}");
    }
}

#[tokio::test]
async fn a_read_is_retried_after_a_broken_connection() {
    let address = raw(|number, mut stream| async move {
        head(&mut stream).await;
        match number {
            1 => {}
            2 => stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
                .await
                .unwrap(),
            _ => stream
                .write_all(http_of(WORKSPACE).as_bytes())
                .await
                .unwrap(),
        }
    })
    .await;
    reader(&format!("http://{address}"), secs(10))
        .workspace()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_deadline_ends_the_retries_and_the_error_counts_them() {
    let fake = Fake::answering(|_, _| refusal(503, "down")).await;
    let begin = Instant::now();
    let error = reader(&fake.url, secs(2)).workspace().await.unwrap_err();
    assert!(begin.elapsed() < secs(3));
    let n = fake.requests();
    assert!(n > 1, "nothing was tried again");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot read the workspace: Calry failed (503, \"down\") (given up after {n} attempts)"
        )
    );
}

#[tokio::test]
async fn an_update_is_sent_once_whatever_the_answer() {
    for (status, transient, arrived) in [
        (400, false, false),
        (408, true, true),
        (429, true, false),
        (500, false, true),
        (503, true, true),
        (522, true, true),
    ] {
        let fake = Fake::answering(move |_, _| refusal(status, "")).await;
        let error = update_of(&fake.url).await;
        assert_eq!(
            (error.is_transient(), error.may_have_arrived()),
            (transient, arrived),
            "{error}"
        );
        assert_eq!(fake.requests(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_update_whose_connection_breaks_is_sent_once_and_may_have_arrived() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = raw(move |_, mut stream| {
        count.fetch_add(1, SeqCst);
        async move { drop(head(&mut stream).await) }
    })
    .await;
    let error = update_of(&format!("http://{address}")).await;
    assert!(error.may_have_arrived() && error.is_transient());
    assert!(error.to_string().starts_with(&format!(
        "cannot update HOSTAWAY: the connection to http://{address} broke: "
    )));
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_is_never_taken_for_a_complete_one() {
    let definition = r#"{"id":"7","provider":"HOSTAWAY","fieldsToSync":{"listing":{"name":true}}}"#;
    let (list, half) = (format!("[{definition}]"), definition.len() / 2);
    let framed = |body: &str| {
        let (one, two) = body.split_at(half);
        let (n, m) = (one.len(), two.len());
        [
            http_of(body),
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{n:x}\r\n{one}\r\n{m:x}\r\n{two}\r\n0\r\n\r\n"
            ),
            // Only the end of the connection ends this one.
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}"),
        ]
    };
    for text in framed(&list).into_iter().chain(framed(definition)) {
        let at = Arc::new(AtomicUsize::new(0));
        let (whole, cut) = (text.clone(), Arc::clone(&at));
        let address = raw(move |_, mut stream| {
            let text = whole[..cut.load(SeqCst)].to_owned();
            async move {
                head(&mut stream).await;
                let _ = stream.write_all(text.as_bytes()).await;
                // With unread data, closing it could lose what was sent.
                let _ = stream.shutdown().await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        });
        let api = api(&format!("http://{}", address.await));
        for cut in 0..text.len() {
            at.store(cut, SeqCst);
            let (reader, writer) = session(&api, Duration::from_millis(50));
            assert!(reader.definitions().await.is_err(), "{:?}", &text[..cut]);
            let error = writer.update(&hostaway(), &Update::default()).await;
            let error = error.unwrap_err();
            assert!(
                error.may_have_arrived() || error.is_not_sent(),
                "{:?}: {error}",
                &text[..cut]
            );
        }
        at.store(text.len(), SeqCst);
        let (reader, writer) = session(&api, secs(5));
        let is_list = reader.definitions().await.is_ok();
        let is_definition = writer.update(&hostaway(), &Update::default()).await.is_ok();
        assert!(is_list != is_definition, "{text:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_means_that_nothing_arrived() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = update_of(&format!("http://{free}")).await;
    assert!(error.is_transient() && !error.may_have_arrived());
    let said = error.to_string();
    assert!(
        said.starts_with(&format!(
            "cannot update HOSTAWAY: no connection to http://{free}: Connection refused"
        )),
        "{said}"
    );
}

#[tokio::test]
async fn an_answer_without_a_definition_of_the_provider_is_refused() {
    for body in [
        "",
        "<html>secret-page",
        "[]",
        "{}",
        &definition(&Value::Null).replace("HOSTAWAY", "GUESTY"),
    ] {
        let body = body.to_owned();
        let fake = Fake::answering(move |_, _| answer(200, body.clone())).await;
        let error = update_of(&fake.url).await;
        assert!(error.may_have_arrived() && !error.is_transient(), "{error}");
        assert!(!error.to_string().contains("secret-page"));
    }
}

#[tokio::test]
async fn only_status_and_message_of_an_error_are_shown() {
    let fake = Fake::answering(|n, _| match n {
        1 => refusal(400, "bad \u{1b}[31mthing\u{202e}"),
        2 => answer(400, "<html>secret-page"),
        3 => refusal(400, &"x".repeat(1000)),
        _ => refusal(400, &"y".repeat(10_000)),
    })
    .await;
    let mut said = Vec::new();
    for _ in 0..4 {
        said.push(update_of(&fake.url).await.to_string());
    }
    let refused = |what: &str| format!("cannot update HOSTAWAY: Calry refused the update ({what})");
    assert_eq!(said[0], refused(r#"400, "bad \u{1b}[31mthing\u{202e}""#));
    assert!(
        said[1].contains("(400) is not in the form of Calry's errors")
            && !said[1].contains("secret"),
        "{}",
        said[1]
    );
    assert_eq!(said[2], refused(&format!("400, \"{}…\"", "x".repeat(299))));
    assert_eq!(said[3], refused("400"));
}

#[tokio::test]
async fn an_expired_key_and_a_wrong_one_have_different_errors() {
    let fake = Fake::answering(|n, _| {
        refusal(
            401,
            if n == 1 {
                "API key EXPIRED"
            } else {
                "Authentication failed"
            },
        )
    })
    .await;
    let reader = reader(&fake.url, secs(5));
    assert!(
        reader
            .workspace()
            .await
            .unwrap_err()
            .to_string()
            .contains("has expired")
    );
    assert!(
        reader
            .workspace()
            .await
            .unwrap_err()
            .to_string()
            .contains("does not know the API key")
    );
}

#[tokio::test]
async fn a_gateway_in_front_of_calry_is_not_mistaken_for_it() {
    let page = format!("<html>{}</html>", "x".repeat(100_000));
    for (status, body) in [
        (401, page.clone()),
        (403, "error code: 1020".to_owned()),
        (404, page),
        (401, r#"{"message": "No"}"#.into()),
    ] {
        let body_of = body.clone();
        let fake = Fake::answering(move |_, _| answer(status, body_of.clone())).await;
        let said = update_of(&fake.url).await.to_string();
        assert!(
            said.contains("gateway or proxy in between") && !said.contains("--update-method"),
            "{said}"
        );
        assert!(
            !said.contains("CALRY_API_KEY") && !said.contains("WRITE"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn all_messages_of_one_error_are_shown() {
    let body = json!({"statusCode": 400, "message": ["icon must be a URL", "name is unknown"], "error": "Bad Request"});
    let fake = Fake::answering(move |_, _| answer(400, body.to_string())).await;
    let said = update_of(&fake.url).await.to_string();
    assert!(
        said.contains(r#"(400, "icon must be a URL; name is unknown")"#),
        "{said}"
    );
}

#[tokio::test]
async fn a_missing_route_suggests_the_other_method() {
    let fake = Fake::answering(|_, _| {
        refusal(404, "Cannot PATCH /api/v1/integration-definition/HOSTAWAY")
    })
    .await;
    let said = update_of(&fake.url).await.to_string();
    assert!(said.ends_with("try --update-method put"), "{said}");
}

#[tokio::test]
async fn a_wrong_clock_of_the_server_does_not_change_the_wait() {
    let in_a_year = SystemTime::now() + secs(365 * 86_400);
    let (date, until) = (
        httpdate::fmt_http_date(in_a_year),
        httpdate::fmt_http_date(in_a_year + secs(2)),
    );
    let fake = Fake::answering(move |n, _| match n {
        1 => (
            [("retry-after", &until), ("date", &date)],
            refusal(503, "soon"),
        )
            .into_response(),
        _ => answer(200, WORKSPACE),
    })
    .await;
    let begin = Instant::now();
    reader(&fake.url, secs(10)).workspace().await.unwrap();
    assert!(
        begin.elapsed() >= secs(2) && begin.elapsed() < secs(8),
        "{:?}",
        begin.elapsed()
    );
}

const LIVE: &str = "l1ve \"quoted\"/val&ue";
const SENT: &str = "s3nt+\\token=é";

fn echoes() -> Vec<String> {
    let percent = |s: &str| url::form_urlencoded::byte_serialize(s.as_bytes()).collect::<String>();
    let escaped = |s: &str| json!(s).to_string();
    [LIVE, SENT, KEY]
        .iter()
        .flat_map(|s| {
            [
                (*s).to_owned(),
                percent(s),
                percent(s).replace('+', "%20"),
                escaped(s),
            ]
        })
        .collect()
}

#[tokio::test]
async fn no_echo_of_a_known_secret_is_shown() {
    let fake = Fake::answering(|_, request| match request.method().as_str() {
        "GET" => answer(
            200,
            format!("[{}]", definition(&json!({"headers": {"a": LIVE}}))),
        ),
        _ => refusal(400, &format!("you sent {}", echoes().join(" | "))),
    })
    .await;
    let (reader, writer) = session(&api(&fake.url), secs(5));
    reader.definitions().await.unwrap();
    let value = [("b".to_owned(), Secret::new(SENT))].into();
    let partner_key = Some(PartnerKey {
        headers: None,
        query_params: Some(value),
    });
    let error = writer
        .update(
            &hostaway(),
            &Update {
                partner_key,
                ..Update::default()
            },
        )
        .await
        .unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        for part in [
            "l1ve",
            "quoted",
            "val",
            "s3nt",
            "token",
            "R4nd0m",
            "K3y",
            "secret-path",
            "secret-detail",
        ] {
            assert!(!text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("you sent ***"), "{text}");
    }
}

#[tokio::test]
async fn no_log_at_any_level_contains_a_secret() {
    // `tracing` caches its filters for the whole process, so other tests could hide log lines.
    if std::env::var_os("TEST_ALONE").is_none() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let name = test_name("no_log_at_any_level_contains_a_secret");
        alone.args(["--exact", &name]).env("TEST_ALONE", "1");
        let output = tokio::task::spawn_blocking(move || alone.output().unwrap())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
        return;
    }
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = Fake::answering(|n, _| match n {
        2 => refusal(503, &format!("{KEY} {LIVE}")),
        _ => answer(
            200,
            format!("[{}]", definition(&json!({"headers": {"a": LIVE}}))),
        ),
    })
    .await;
    let reader = reader(&fake.url, secs(5));
    for _ in 0..2 {
        reader.definitions().await.unwrap();
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("trying again") && log.contains("request to Calry"),
        "{log}"
    );
    assert!(!log.contains("R4nd0m") && !log.contains("l1ve"), "{log}");
}

#[tokio::test]
async fn fifty_requests_share_one_connection() {
    let fake = Fake::answering(|n, _| {
        if n % 10 == 0 {
            refusal(404, "")
        } else {
            answer(200, WORKSPACE)
        }
    })
    .await;
    let reader = reader(&fake.url, secs(10));
    for _ in 0..50 {
        let _ = reader.workspace().await;
    }
    assert_eq!((fake.requests(), fake.connections.load(SeqCst)), (50, 1));
}

/// The full name of a test of this module in the test binary.
fn test_name(function: &str) -> String {
    let (_binary, module) = module_path!().split_once("::").unwrap();
    format!("{module}::{function}")
}

/// Runs [`child`] in its own process with these variables, and returns its outcome.
async fn in_a_child(url: &str, variables: &[(&str, &str)]) -> String {
    in_the_child("child", url, variables).await
}

async fn in_the_child(name: &str, url: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &test_name(name), "--ignored", "--nocapture"]);
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("TEST_URL", url).envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.split("OUTCOME ")
        .nth(1)
        .and_then(|s| s.lines().next())
        .unwrap_or(&said)
        .to_owned()
}

#[tokio::test]
#[ignore = "other tests run it in a process of its own"]
async fn child() {
    if std::env::var_os("TEST_WITHOUT_TLS").is_none() {
        install_tls();
        install_tls();
    }
    let url = HttpUrl::parse(&std::env::var("TEST_URL").unwrap(), UrlPolicy::api(false)).unwrap();
    let api = Http::new(HttpTimeouts::default())
        .and_then(|http| Api::new(&http, url, UpdateMethod::Patch));
    let outcome = match api {
        Err(error) => error.to_string(),
        Ok(api) => match session(&api, secs(5)).0.workspace().await {
            Ok(workspace) => workspace.slug,
            Err(error) => error.to_string(),
        },
    };
    println!("OUTCOME {outcome}");
}

/// How the server behaves on its first connection, after the first answer there.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The network accepts everything and delivers nothing.
    Swallowed,
    /// The server answers pings, but no request.
    Unanswered,
}

/// A Calry over TLS and HTTP/2 whose first connection dies without a close.
async fn over_http_2(then: Then) -> String {
    install_tls();
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_file(PRIVATE_KEY).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec!["h2".into()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let dead = Arc::new(tokio::sync::Notify::new());
    let (to_be_dead, all) = (Arc::clone(&dead), AtomicUsize::new(0));
    let all = Arc::new(all);
    let server = raw(move |connection, stream| {
        let (acceptor, dead, all) = (acceptor.clone(), Arc::clone(&to_be_dead), Arc::clone(&all));
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = hyper::service::service_fn(move |_| {
                let (dead, number) = (Arc::clone(&dead), all.fetch_add(1, SeqCst));
                async move {
                    if number == 0 && then == Then::Swallowed {
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            dead.notify_one();
                        });
                    }
                    if connection == 1 && number > 0 && then == Then::Unanswered {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, std::convert::Infallible>(answer(200, WORKSPACE))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    raw(move |number, mut client| {
        let (server, dead) = (server.clone(), Arc::clone(&dead));
        async move {
            let mut server = TcpStream::connect(server).await.unwrap();
            let relayed = copy_bidirectional(&mut client, &mut server);
            if number > 1 {
                let _ = relayed.await;
                return;
            }
            tokio::select! {
                _ = relayed => {}
                // Both sides stay open, and the kernel acknowledges what they send.
                () = dead.notified() => std::future::pending().await,
            }
        }
    })
    .await
}

/// Sends one request, waits, and counts the requests until the next answer.
#[tokio::test]
#[ignore = "other tests run it in a process of its own"]
async fn child_that_asks_again() {
    install_tls();
    let url = std::env::var("TEST_URL").unwrap();
    let caller = std::env::var("TEST_CALLER").unwrap();
    let millis = |name| Duration::from_millis(std::env::var(name).unwrap().parse().unwrap());
    let request = millis("TEST_REQUEST");
    let http = Http::new(HttpTimeouts {
        request,
        keep_alive: millis("TEST_KEEP_ALIVE"),
        ..HttpTimeouts::default()
    })
    .unwrap();
    let api = Api::new(
        &http,
        HttpUrl::parse(&url, UrlPolicy::api(false)).unwrap(),
        UpdateMethod::Patch,
    )
    .unwrap();
    let ask = async || -> Result<(), String> {
        match caller.as_str() {
            "api" => session(&api, secs(20))
                .0
                .workspace()
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            "webhook" => {
                let address = HttpUrl::parse(&url, UrlPolicy::webhook(false)).unwrap();
                post_document(
                    &http,
                    &address,
                    &Credentials::None,
                    "application/json",
                    b"{}".to_vec(),
                    request,
                )
                .await
                .map(drop)
            }
            _ => {
                let address = HttpUrl::parse(&url, UrlPolicy::SNAPSHOT).unwrap();
                let deadline = tokio::time::Instant::now() + secs(20);
                match Snapshot::fetch(&http, &address, deadline, None).await {
                    // It is not a snapshot, but it arrived.
                    Ok(_) | Err(SnapshotError::Invalid(_)) => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    };
    ask().await.unwrap();
    tokio::time::sleep(secs(2)).await;
    for attempt in 1..=4 {
        if ask().await.is_ok() {
            println!("OUTCOME {attempt}");
            return;
        }
    }
    println!("OUTCOME never");
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_not_used_again() {
    for caller in ["api", "webhook", "snapshot"] {
        let calry = over_http_2(Then::Swallowed).await;
        let variables = [
            ("SSL_CERT_FILE", CERTIFICATE),
            ("TEST_CALLER", caller),
            ("TEST_REQUEST", "3000"),
            ("TEST_KEEP_ALIVE", "300"),
        ];
        let begin = Instant::now();
        let said = in_the_child(
            "child_that_asks_again",
            &format!("https://{calry}"),
            &variables,
        )
        .await;
        // No request timed out.
        assert!(
            said == "1" && begin.elapsed() < secs(5),
            "{caller}: {said} after {:?}",
            begin.elapsed()
        );
    }
}

#[tokio::test]
async fn a_connection_on_which_a_request_timed_out_is_not_used_again() {
    // Webhooks are sent once. Reads retry by themselves.
    for (caller, attempts) in [("api", "1"), ("webhook", "2"), ("snapshot", "1")] {
        let calry = over_http_2(Then::Unanswered).await;
        let variables = [
            ("SSL_CERT_FILE", CERTIFICATE),
            ("TEST_CALLER", caller),
            ("TEST_REQUEST", "1000"),
            ("TEST_KEEP_ALIVE", "3600000"),
        ];
        let said = in_the_child(
            "child_that_asks_again",
            &format!("https://{calry}"),
            &variables,
        )
        .await;
        assert_eq!(said, attempts, "{caller}");
    }
}

/// A Calry over TLS that offers `protocol` only. Each entry of the log is the negotiated protocol and the request.
async fn over_tls(protocol: &'static str, log: Arc<Mutex<Vec<String>>>) -> String {
    install_tls();
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_file(PRIVATE_KEY).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.into()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    raw(move |_, stream| {
        let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let agreed = stream
                .get_ref()
                .1
                .alpn_protocol()
                .map(|p| String::from_utf8_lossy(p).into_owned());
            let head = head(&mut stream).await;
            log.lock().unwrap().push(format!("{agreed:?} {head}"));
            let _ = stream.write_all(http_of(WORKSPACE).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

/// A proxy that connects every CONNECT to one address and records the heads of the requests.
async fn proxy(to: String, log: Arc<Mutex<Vec<String>>>) -> String {
    raw(move |_, mut stream| {
        let (to, log) = (to.clone(), Arc::clone(&log));
        async move {
            let asked = head(&mut stream).await;
            log.lock().unwrap().push(asked);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut calry = TcpStream::connect(to).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut calry).await;
        }
    })
    .await
}

#[tokio::test]
async fn https_goes_through_the_proxy_of_the_environment_and_hides_the_key_from_it() {
    let (seen, asked) = <(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>)>::default();
    let calry = over_tls("http/1.1", Arc::clone(&seen)).await;
    let port = calry.rsplit(':').next().unwrap().to_owned();
    let proxy = format!(
        "http://user:hunter2@{}",
        proxy(calry, Arc::clone(&asked)).await
    );
    let trusted = ("SSL_CERT_FILE", CERTIFICATE);

    // Only the proxy knows this name.
    let said = in_a_child("https://calry.test", &[trusted, ("HTTPS_PROXY", &proxy)]).await;
    assert_eq!(said, "acme-production");
    let head = asked.lock().unwrap().concat();
    assert!(
        head.starts_with("CONNECT calry.test:443 ") && head.contains("proxy-authorization: Basic "),
        "{head}"
    );
    assert!(!head.contains("R4nd0m"), "{head}");
    assert!(seen.lock().unwrap()[0].contains(KEY));

    let direct = [trusted, ("HTTPS_PROXY", &proxy), ("NO_PROXY", "localhost")];
    assert_eq!(
        in_a_child(&format!("https://localhost:{port}"), &direct).await,
        "acme-production"
    );
    assert_eq!(asked.lock().unwrap().len(), 1, "NO_PROXY was not heeded");
}

#[tokio::test]
async fn an_unreachable_proxy_is_named_without_its_password() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = format!("http://user:hunter2@{free}");
    let said = in_a_child(
        "https://calry.test",
        &[("SSL_CERT_FILE", CERTIFICATE), ("HTTPS_PROXY", &proxy)],
    )
    .await;
    let through = format!(
        "no connection to https://calry.test through the proxy http://{free} (HTTPS_PROXY or ALL_PROXY)"
    );
    assert!(
        said.contains(&format!("{through}: Connection refused")),
        "{said}"
    );
    assert!(!said.contains("hunter2"));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_not_retried() {
    for (status, why) in [
        (407, "requires a user and a password"),
        (403, "refuses the connection"),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let proxy = raw(move |_, mut stream| {
            count.fetch_add(1, SeqCst);
            async move {
                head(&mut stream).await;
                let _ = stream
                    .write_all(
                        format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n").as_bytes(),
                    )
                    .await;
            }
        })
        .await;
        let variable = format!("http://user:hunter2@{proxy}");
        let said = in_a_child(
            "https://calry.test",
            &[("SSL_CERT_FILE", CERTIFICATE), ("HTTPS_PROXY", &variable)],
        )
        .await;
        assert!(
            said.contains(&format!("http://{proxy}")) && said.contains(why),
            "{said}"
        );
        assert_eq!(
            (asked.load(SeqCst), said.contains("hunter2")),
            (1, false),
            "{said}"
        );
    }
}

#[tokio::test]
async fn an_unsupported_kind_of_proxy_fails_at_once() {
    let variables = [
        ("SSL_CERT_FILE", CERTIFICATE),
        ("ALL_PROXY", "socks5://user:hunter2@127.0.0.1:1080"),
    ];
    let said = in_a_child("https://calry.test", &variables).await;
    assert!(
        said.contains("the proxy socks5://127.0.0.1:1080") && said.contains("is not supported"),
        "{said}"
    );
    assert!(
        !said.contains("attempts") && !said.contains("hunter2"),
        "{said}"
    );
}

#[tokio::test]
async fn https_to_a_port_of_plain_http_is_reported() {
    let fake = Fake::answering(|_, _| answer(200, WORKSPACE)).await;
    let said = in_a_child(
        &fake.url.replace("http:", "https:"),
        &[("SSL_CERT_FILE", CERTIFICATE)],
    )
    .await;
    assert!(
        said.contains("does not use TLS") && !said.contains("attempts"),
        "{said}"
    );
}

#[tokio::test]
async fn plain_http_uses_no_proxy() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let fake = Fake::answering(|_, _| answer(200, WORKSPACE)).await;
    let proxy = format!(
        "http://{}",
        proxy(fake.url.replace("http://", ""), Arc::clone(&asked)).await
    );
    let variables = [
        ("HTTP_PROXY", proxy.as_str()),
        ("HTTPS_PROXY", &proxy),
        ("ALL_PROXY", &proxy),
        ("http_proxy", &proxy),
    ];
    assert_eq!(in_a_child(&fake.url, &variables).await, "acme-production");
    assert_eq!((asked.lock().unwrap().len(), fake.requests()), (0, 1));
}

#[tokio::test]
async fn http_2_is_used_if_the_server_offers_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let calry = over_tls("h2", Arc::clone(&seen)).await;
    in_a_child(
        &format!("https://{calry}"),
        &[("SSL_CERT_FILE", CERTIFICATE)],
    )
    .await;
    let seen = seen.lock().unwrap();
    assert!(
        seen[0].starts_with("Some(\"h2\") PRI * HTTP/2.0"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn an_untrusted_certificate_fails_at_once() {
    let calry = over_tls("http/1.1", Arc::default()).await;
    let api = api(&format!("https://{calry}"));
    let begin = Instant::now();
    let error = session(&api, secs(60)).0.workspace().await.unwrap_err();
    assert!(
        begin.elapsed() < secs(5) && !error.is_transient() && !error.may_have_arrived(),
        "{error}"
    );
    assert!(
        error.to_string().contains("its certificate ")
            && error.to_string().contains("SSL_CERT_FILE"),
        "{error}"
    );
}

#[tokio::test]
async fn without_ca_certificates_https_is_refused_and_plain_http_works() {
    let none = [("SSL_CERT_DIR", "/nowhere/dir")];
    let said = in_a_child("https://calry.test", &none).await;
    assert!(
        said.starts_with("cannot set up TLS: ") && said.contains("ca-certificates"),
        "{said}"
    );
    let said = in_a_child("https://calry.test", &[("SSL_CERT_FILE", "/nowhere/file")]).await;
    assert!(
        said.contains("SSL_CERT_FILE names the file /nowhere/file, which cannot be read"),
        "{said}"
    );
    let fake = Fake::answering(|_, _| answer(200, WORKSPACE)).await;
    assert_eq!(in_a_child(&fake.url, &none).await, "acme-production");
}

#[tokio::test]
async fn without_a_tls_provider_there_is_an_error_and_no_panic() {
    let said = in_a_child("https://calry.test", &[("TEST_WITHOUT_TLS", "1")]).await;
    assert!(said.starts_with("no TLS provider is installed"), "{said}");
}
