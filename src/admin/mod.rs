//! The daemon over HTTP: whether it is alive, whether it is ready, and its status.
//!
//! It reads status boards and nothing else: no request reaches Calry, a file or a secret, and none makes a pass wait.
//! What is asked of it is bounded in size, time and number, and it only answers for hosts that are its own, so that no
//! web page can read it through the browser of somebody near it.

mod connection;
mod host;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon::Board;
use crate::daemon::status::{LIFELESS, now};
use crate::model::spoken;
use crate::render::{json, status::Status};

pub use host::{Host, InvalidHost};

/// A server that listens. It ends when it is dropped.
pub struct Admin {
    address: SocketAddr,
    _stop: DropGuard,
}

/// What requests share.
struct Shared {
    boards: Vec<Arc<Board>>,
    started: Timestamp,
}

impl Admin {
    /// Answers on a socket for these loops, one for each workspace. `hosts` are its names beside the address itself.
    ///
    /// # Errors
    /// Where the socket has no address.
    pub fn start(listener: TcpListener, boards: Vec<Arc<Board>>, hosts: Vec<Host>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        tokio::spawn(connection::serve(listener, router(boards, hosts), stop.clone()));
        Ok(Self { address, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(boards: Vec<Arc<Board>>, hosts: Vec<Host>) -> Router {
    let shared = Arc::new(Shared { boards, started: now() });
    // A probe of Kubernetes names the pod's address, and a load balancer anything. They say nothing but yes or no.
    let probes = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    let rest = Router::new()
        .route("/api/v1/status", get(status))
        .layer(middleware::from_fn_with_state(Arc::<[Host]>::from(hosts), host::guard));
    probes.merge(rest).fallback(not_found).method_not_allowed_fallback(not_allowed).with_state(shared)
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let silence = shared.boards.iter().map(|board| board.silence()).max().unwrap_or_default();
    let told = spoken(silence);
    if silence < LIFELESS {
        probe(true, &format!("the loop is alive: its heart beat {told} ago"))
    } else {
        probe(
            false,
            &format!("the loop hangs: its heart has not beaten for {told}, though it beats while it waits, too"),
        )
    }
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    if shared.boards.iter().all(|board| board.is_ready()) {
        probe(true, "definitions and live state were read")
    } else {
        probe(
            false,
            "definitions and live state were not read without an error yet; the log and /api/v1/status say why",
        )
    }
}

fn probe(ok: bool, reason: &str) -> Response {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, &json!({"ok": ok, "reason": reason}))
}

async fn status(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let workspaces = shared.boards.iter().map(|board| board.status()).collect();
    let status = Status { version: env!("CARGO_PKG_VERSION").to_owned(), started: shared.started, workspaces };
    let body = json::pretty(&status);
    let digest: String = Sha256::digest(&body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{digest}\"");
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let fresh = known.flat_map(|list| list.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut response = if fresh { StatusCode::NOT_MODIFIED.into_response() } else { json_text(StatusCode::OK, body) };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

async fn not_found(request: Request) -> Response {
    let sentence = format!("there is nothing at {}; the status is at /api/v1/status", request.uri().path());
    error(StatusCode::NOT_FOUND, &sentence)
}

async fn not_allowed(method: Method) -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("the method {method} is not for this path; the header Allow says which is"),
    )
}

fn error(status: StatusCode, sentence: &str) -> Response {
    answer(status, &json!({"error": sentence}))
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(status, json::pretty(body))
}

fn json_text(status: StatusCode, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests;
