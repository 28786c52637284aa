//! Time-outs and the heartbeat, on a clock that jumps.

use std::time::Duration;

use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::daemon::publisher::for_tests;
use crate::http::{HttpTimeouts, install_tls};

fn access() -> Access {
    Access {
        hosts: Vec::new(),
        token: None,
        hooks: Hooks::default(),
        rate: NonZeroU32::MAX,
    }
}

fn http() -> Http {
    install_tls();
    Http::new(HttpTimeouts::default()).unwrap()
}

async fn ask(router: &Router, path: &str) -> Response {
    let request = Request::builder().uri(path).header("host", "localhost");
    let request = request.body(Body::empty()).unwrap();
    let service = TowerToHyperService::new(router.clone());
    service.call(request).await.unwrap()
}

async fn code(router: &Router, path: &str) -> u16 {
    ask(router, path).await.status().as_u16()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_waits_long_is_alive_and_one_that_hangs_is_not() {
    let handle = Handle::new(for_tests());
    let publisher = Arc::clone(handle.publisher());
    let router = router(vec![handle], Metrics::new(Vec::new()), access(), http());
    let step = |at_most, step| {
        let publisher = Arc::clone(&publisher);
        tokio::spawn(async move { publisher.heartbeat_during(at_most, step).await })
    };
    // An hour of waiting, and a reconciliation that takes its whole time limit.
    for length in [seconds(3600), seconds(79)] {
        let waiting = step(length, tokio::time::sleep(length));
        for _ in 0..9 {
            tokio::time::sleep(length / 10).await;
            assert_eq!(code(&router, "/healthz").await, 200);
        }
        waiting.await.unwrap();
    }
    // A step that never ends.
    let hanging = step(seconds(80), tokio::time::sleep(Duration::MAX));
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(
        (code(&router, "/healthz").await, publisher.snapshot().alive),
        (200, true)
    );
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(
        (code(&router, "/healthz").await, publisher.snapshot().alive),
        (503, false)
    );
    // A loop that is gone.
    hanging.abort();
    publisher.heartbeat_during(seconds(1), async {}).await;
    assert_eq!(code(&router, "/healthz").await, 200);
    tokio::time::sleep(seconds(31)).await;
    assert_eq!(code(&router, "/healthz").await, 503);
}

#[tokio::test(start_paused = true)]
async fn one_loop_of_several_that_hangs_is_told() {
    let handles = vec![Handle::new(for_tests()), Handle::new(for_tests())];
    let alive = Arc::clone(handles[0].publisher());
    let router = router(handles, Metrics::new(Vec::new()), access(), http());
    alive
        .heartbeat_during(seconds(40), tokio::time::sleep(seconds(40)))
        .await;
    let answer = ask(&router, "/healthz").await.into_body();
    let body = axum::body::to_bytes(answer, 4096).await.unwrap();
    assert!(
        String::from_utf8_lossy(&body).contains("the loop of 1 of 2 workspaces hangs"),
        "{body:?}"
    );
}

/// A server, and how to reach it.
async fn server() -> (Admin, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin::start(
        listener,
        vec![Handle::new(for_tests())],
        Metrics::new(Vec::new()),
        access(),
        http(),
    )
    .unwrap();
    let address = admin.address();
    (admin, address)
}

/// Serves a router by itself.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(connection::serve(
        listener,
        router,
        CancellationToken::new(),
    ));
    address
}

/// A new connection on which these bytes were sent.
async fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream
}

fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A request whose body never comes.
fn unfinished(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
}

/// A probe is answered soon.
async fn assert_probe_is_answered(address: SocketAddr) {
    let began = Instant::now();
    let (_, said) = ends(&mut send(address, get_request("/healthz")).await).await;
    assert!(
        said.starts_with("HTTP/1.1 200") && began.elapsed() < seconds(2),
        "{:?}: {said}",
        began.elapsed()
    );
}

/// The time until the server ends the connection, and its answer.
async fn ends(stream: &mut TcpStream) -> (Duration, String) {
    let started = Instant::now();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    (
        started.elapsed(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_his_request_is_cut_off() {
    let (_admin, address) = server().await;
    for begun in ["", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let (took, said) = ends(&mut send(address, begun).await).await;
        assert!(took >= seconds(4) && took <= seconds(6), "{took:?}");
        assert!(!said.contains("200"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_his_answer_is_cut_off() {
    const LENGTH: usize = 64 << 20;
    let address = serve(Router::new().route("/", get(|| async { "x".repeat(LENGTH) }))).await;
    let mut stream = send(address, get_request("/")).await;
    stream.readable().await.unwrap();
    tokio::time::sleep(seconds(11)).await;
    let (_, said) = ends(&mut stream).await;
    assert!(
        said.starts_with("HTTP/1.1 200") && said.len() < LENGTH,
        "{}",
        said.len()
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_outlives_other_answers_and_ends_by_itself() {
    let (_admin, address) = server().await;
    let (took, said) = ends(&mut send(address, get_request("/api/v1/events")).await).await;
    assert!(
        took >= seconds(15 * 60) && took <= seconds(15 * 60 + 5),
        "{took:?}"
    );
    assert!(
        said.ends_with("0\r\n\r\n"),
        "the last chunk is complete: {said}"
    );
    let count = |event: &str| said.matches(&format!("event: {event}\n")).count();
    // The state at first, and that no heart beats.
    assert_eq!(count("state"), 2, "{said}");
    assert!((85..=90).contains(&count("beat")), "{}", count("beat"));
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_is_not_read_is_cut_off() {
    const MORE_THAN_IS_BUFFERED: usize = 64 << 20;
    let endless = || async {
        let body = stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 64 << 10]));
        let mut answer = Body::from_stream(body).into_response();
        answer
            .extensions_mut()
            .insert(connection::Lasting(seconds(3600)));
        answer
    };
    let address = serve(Router::new().route("/", get(endless))).await;
    let mut stream = send(address, get_request("/")).await;
    stream.readable().await.unwrap();
    tokio::time::sleep(seconds(25)).await;
    let mut said = Vec::new();
    let _ = (&mut stream)
        .take(MORE_THAN_IS_BUFFERED as u64)
        .read_to_end(&mut said)
        .await;
    assert!(
        !said.is_empty() && said.len() < MORE_THAN_IS_BUFFERED,
        "{}",
        said.len()
    );
}

#[tokio::test]
async fn event_streams_are_few_and_leave_room_for_everything_else() {
    let (_admin, address) = server().await;
    let listen = async || {
        let mut stream = send(address, get_request("/api/v1/events")).await;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        (String::from_utf8_lossy(&start).into_owned(), stream)
    };
    let mut streams = Vec::new();
    for _ in 0..page::routes::STREAMS {
        let (start, stream) = listen().await;
        assert_eq!(start, "HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(listen().await.0, "HTTP/1.1 503");
    assert_probe_is_answered(address).await;
    // A client that disconnects frees its connection.
    streams.pop();
    let freed = async { while listen().await.0 != "HTTP/1.1 200" {} };
    tokio::time::timeout(seconds(10), freed).await.unwrap();
}

#[tokio::test]
async fn connections_that_ask_for_nothing_keep_no_probe_out() {
    let (_admin, address) = server().await;
    let mut idle = Vec::new();
    for n in 0..connection::MAX_REQUESTS * 3 {
        // Some say nothing, and some never end what they say.
        let begun = ["", "GET /healthz HTTP/1.1\r\nHost:"][n % 2];
        idle.push(send(address, begun).await);
    }
    assert_probe_is_answered(address).await;
    // The first connection was closed to make room.
    assert_eq!(ends(&mut idle[0]).await.1, "");
}

#[tokio::test]
async fn who_has_asked_is_not_cut_off_and_the_next_one_waits_for_a_place() {
    let open = Arc::new(Semaphore::new(0));
    let (doors, reached) = (Arc::clone(&open), Arc::new(Semaphore::new(0)));
    let counted = Arc::clone(&reached);
    let slow = move || async move {
        counted.add_permits(1);
        doors.acquire().await.unwrap().forget();
        "done"
    };
    let router = Router::new()
        .route("/slow", get(slow))
        .route("/", get(|| async { "quick" }));
    let address = serve(router).await;
    let mut asked = Vec::new();
    for _ in 0..connection::MAX_REQUESTS {
        asked.push(send(address, get_request("/slow")).await);
    }
    let all = u32::try_from(connection::MAX_REQUESTS).unwrap();
    reached.acquire_many(all).await.unwrap().forget();
    let mut next = send(address, get_request("/")).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), next.readable())
            .await
            .is_err(),
        "no connection is free"
    );
    open.add_permits(1);
    assert!(ends(&mut next).await.1.ends_with("quick"));
    open.add_permits(connection::MAX_REQUESTS);
    for mut one in asked {
        assert!(ends(&mut one).await.1.ends_with("done"));
    }
}

#[tokio::test]
async fn answers_with_metrics_that_are_not_read_are_counted_and_the_next_one_waits() {
    let router = router(Vec::new(), Metrics::new(Vec::new()), access(), http());
    let scrape = || ask(&router, "/metrics");
    let mut unread = Vec::new();
    for _ in 0..SCRAPES {
        unread.push(scrape().await);
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(100), scrape())
            .await
            .is_err()
    );
    unread.pop();
    assert_eq!(scrape().await.status(), 200);
}

#[tokio::test]
async fn headers_are_bounded() {
    let (_admin, address) = server().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    // It need not be read to its end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 431");
}

#[tokio::test]
async fn bodies_that_do_not_come_keep_no_probe_out() {
    let (_admin, address) = server().await;
    let mut waiting = Vec::new();
    for n in 0..connection::MAX_REQUESTS * 3 {
        // Hooks are disabled here and answer at once; a reconcile request reads its body.
        let path = ["/api/v1/reconcile", "/hooks/github"][n % 2];
        waiting.push(send(address, unfinished(path)).await);
    }
    for _ in 0..3 {
        assert_probe_is_answered(address).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_has_the_shortest_patience() {
    let (_admin, address) = server().await;
    let request = unfinished("/api/v1/reconcile");
    let (took, said) = ends(&mut send(address, request).await).await;
    assert!(
        took >= seconds(3) && took <= seconds(5) && said.starts_with("HTTP/1.1 4"),
        "{took:?}: {said}"
    );
}

#[tokio::test]
async fn probes_are_answered_while_every_turn_is_taken() {
    let reached = Arc::new(Semaphore::new(0));
    let counted = Arc::clone(&reached);
    let hangs = move || async move {
        counted.add_permits(1);
        std::future::pending::<()>().await
    };
    let router = Router::new()
        .route("/hangs", get(hangs))
        .route("/healthz", get(|| async { "alive" }));
    let address = serve(router).await;
    let mut all = Vec::new();
    // As many as there are turns, and more than there are connections beyond them.
    for _ in 0..connection::MAX_REQUESTS * 2 {
        all.push(send(address, get_request("/hangs")).await);
    }
    reached
        .acquire_many(u32::try_from(connection::MAX_REQUESTS).unwrap())
        .await
        .unwrap()
        .forget();
    let mut probe = send(address, get_request("/healthz")).await;
    let said = tokio::time::timeout(seconds(5), ends(&mut probe))
        .await
        .unwrap()
        .1;
    assert!(said.ends_with("alive"), "{said}");
}
