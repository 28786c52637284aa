//! The HTTP server of the daemon: health, readiness, status, metrics, the status page, and the API that requests a
//! reconciliation.
//!
//! Requests are bounded in size, time and number. The server answers only for its own hosts, so that no other web page can
//! read it through a user's browser.
//!
//! Never: let a request reach Calry or a definition file, or make a reconciliation wait.

mod connection;
mod hook;
mod host;
mod limit;
mod page;
mod push;
mod relay;
mod request;
mod trigger;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use futures_util::stream;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::metrics::Metrics;
use crate::daemon::publisher::{HEARTBEAT_TIMEOUT, now};
use crate::daemon::{Handle, StatusPublisher};
use crate::http::{Http, SecretFile};
use crate::model::{hex, human_duration};
use crate::report::json;
use crate::report::status::Status;

pub use hook::Hooks;
pub use host::{Host, InvalidHost};
pub use push::{PushEvent, PushedReference};

/// Which requests are accepted, and how often.
#[derive(Debug)]
pub struct Access {
    /// Host names to accept beside loopback and the listening address.
    pub hosts: Vec<Host>,
    /// The admin token; without one, only requests from loopback are accepted.
    pub token: Option<SecretFile>,
    pub hooks: Hooks,
    /// The rate limit, in requests per minute and sender.
    pub rate: NonZeroU32,
}

/// A listening server. Dropping it stops it.
pub struct Admin {
    address: SocketAddr,
    _stop: DropGuard,
}

struct Shared {
    publishers: Vec<Arc<StatusPublisher>>,
    started: Timestamp,
    metrics: Metrics,
    scrapes: Arc<Semaphore>,
    /// The permits for event streams.
    streams: Arc<Semaphore>,
}

/// How many metrics answers may be sent at once: each can be megabytes, and a slow reader keeps it in memory.
const SCRAPES: usize = 4;
/// The size of the parts in which they are sent, in bytes.
const PART: usize = 64 << 10;

impl Admin {
    /// Starts the server for these loops, one per workspace. `http` reaches the other replicas.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn start(
        listener: TcpListener,
        loops: Vec<Handle>,
        metrics: Metrics,
        mut access: Access,
        http: Http,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        if address.ip().is_unspecified() {
            // The log shows this address, so users open it.
            access.hosts.push(Host::Ip(address.ip()));
        }
        let stop = CancellationToken::new();
        tokio::spawn(connection::serve(
            listener,
            router(loops, metrics, access, http),
            stop.clone(),
        ));
        Ok(Self {
            address,
            _stop: stop.drop_guard(),
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(loops: Vec<Handle>, metrics: Metrics, access: Access, http: Http) -> Router {
    let publishers = loops.iter().map(|one| Arc::clone(one.publisher()));
    let shared = Arc::new(Shared {
        publishers: publishers.collect(),
        started: now(),
        metrics,
        scrapes: Arc::new(Semaphore::new(SCRAPES)),
        streams: Arc::new(Semaphore::new(page::routes::STREAMS)),
    });
    let limit = Arc::new(limit::Limits::new(access.rate));
    let hosts: Arc<[Host]> = access.hosts.clone().into();
    // Probes name any host: Kubernetes the pod's address, load balancers their own. They answer only yes or no.
    let probes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    let rest = Router::new()
        .route("/api/v1/status", get(status))
        // Prometheus sends the address that it scrapes as the host.
        .route("/metrics", get(scrape))
        .merge(page::routes::routes())
        .layer(middleware::from_fn_with_state(
            Arc::clone(&hosts),
            host::guard,
        ));
    probes
        .merge(rest)
        .with_state(shared)
        .merge(trigger::router(loops, access, http, hosts))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(limit, limit::guard))
}

/// Whether a path is that of a probe. Probes are always answered.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let silences: Vec<Duration> = shared
        .publishers
        .iter()
        .map(|publisher| publisher.silence())
        .collect();
    let hanging = silences
        .iter()
        .filter(|silence| **silence >= HEARTBEAT_TIMEOUT);
    let of = of(hanging.clone().count(), &shared);
    let silence = human_duration(silences.iter().copied().max().unwrap_or_default());
    match hanging.count() {
        0 => probe(
            true,
            &format!("the loop is alive: last heartbeat {silence} ago"),
        ),
        _ => probe(
            false,
            &format!("the loop{of} hangs: no heartbeat for {silence}"),
        ),
    }
}

/// How many of the workspaces are affected. A probe does not name them, because it answers anyone.
fn of(count: usize, shared: &Shared) -> String {
    match shared.publishers.len() {
        1 => String::new(),
        all => format!(" of {count} of {all} workspaces"),
    }
}

/// Ready when every workspace finished a first reconciliation, at least one succeeded, and the lease holder is known. One failing
/// workspace is reported by status and alerts, and does not make the page of all others unavailable.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let count = |is: fn(&StatusPublisher) -> bool| {
        shared
            .publishers
            .iter()
            .filter(|publisher| !is(publisher))
            .count()
    };
    let untried = count(StatusPublisher::is_tried);
    let unread = count(StatusPublisher::is_ready);
    if untried == 0 && unread < shared.publishers.len() {
        let rest = match unread {
            0 => String::new(),
            _ => format!(", except those{}", of(unread, &shared)),
        };
        return probe(true, &format!("definitions and live state were read{rest}"));
    }
    let unknown = count(StatusPublisher::knows_the_leader);
    let why = if unknown > 0 {
        let of = of(unknown, &shared);
        format!("the leader is unknown: the Lease{of} has not been read yet; see the log")
    } else {
        let of = of(if untried > 0 { untried } else { unread }, &shared);
        format!(
            "definitions and live state{of} have not been read without an error yet; see the log and /api/v1/status"
        )
    };
    probe(false, &why)
}

fn probe(ok: bool, reason: &str) -> Response {
    let status = match ok {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, &json!({"ok": ok, "reason": reason}))
}

async fn status(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let workspaces = shared
        .publishers
        .iter()
        .map(|publisher| Arc::unwrap_or_clone(publisher.snapshot()))
        .collect();
    let status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: shared.started,
        workspaces,
    };
    let body = json::pretty(&status);
    let digest: [u8; 32] = Sha256::digest(&body).into();
    let tag = format!("\"{}\"", hex(digest.iter().take(16)));
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let fresh = known
        .flat_map(|list| list.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = if fresh {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json_text(StatusCode::OK, body)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(permit) = Arc::clone(&shared.scrapes).acquire_owned().await else {
        return Response::default();
    };
    // With a thousand workspaces it would block this thread.
    let Ok(text) = tokio::task::spawn_blocking(move || shared.metrics.text()).await else {
        return error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "writing the metrics panicked",
        );
    };
    let mut rest = Bytes::from(text);
    let parts = stream::iter(std::iter::from_fn(move || {
        // Released when the last part is sent or the reader is gone.
        let _permit = &permit;
        (!rest.is_empty()).then(|| Ok::<_, Infallible>(rest.split_to(PART.min(rest.len()))))
    }));
    (headers(Metrics::CONTENT_TYPE), Body::from_stream(parts)).into_response()
}

async fn not_found(request: Request) -> Response {
    let sentence = format!(
        "not found: {}; the status is at / and /api/v1/status, metrics are at /metrics",
        request.uri().path()
    );
    error(StatusCode::NOT_FOUND, &sentence)
}

async fn not_allowed(method: Method) -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("the method {method} is not allowed here; see the header Allow"),
    )
}

/// The message of an answer, for the log.
#[derive(Clone)]
struct Said(String);

fn error(status: StatusCode, sentence: &str) -> Response {
    let mut response = answer(status, &json!({"error": sentence}));
    response.extensions_mut().insert(Said(sentence.to_owned()));
    response
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, json::pretty(body))
}

fn json_text(status: StatusCode, body: String) -> Response {
    (status, headers("application/json"), body).into_response()
}

const fn headers(content: &'static str) -> [(HeaderName, &'static str); 3] {
    [
        (CONTENT_TYPE, content),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ]
}

#[cfg(test)]
mod tests;
