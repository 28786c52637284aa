//! Serves the page at `/`, its assets, and the event stream that triggers a browser's refresh.
//!
//! An event stream polls the publishers ten times a second and buffers nothing: a slow reader misses events and then reads
//! the newest state. The number and the length of streams are limited; a browser without a stream polls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};
use url::form_urlencoded;

use super::{POLICY, SCRIPT, STYLE, View, content, page, tab_icon};
use crate::daemon::StatusPublisher;
use crate::daemon::publisher::now;
use crate::ops::admin::connection::Lasting;
use crate::ops::admin::{Shared, error};
use crate::report::status::find_workspace;

/// The most event streams at once, so that connections are left for other requests.
pub(in crate::ops::admin) const STREAMS: usize = 32;
/// How long a stream lasts. The browser then opens another.
const STREAM_LIFETIME: Duration = Duration::from_secs(15 * 60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The heartbeat of a quiet stream: both sides notice a lost connection.
const HEARTBEAT: Duration = Duration::from_secs(10);

pub(in crate::ops::admin) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(index))
        .route("/assets/{name}", get(asset))
        .route("/api/v1/events", get(events))
}

/// The last value of a parameter.
fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let all = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let named = all.filter(|(known, _)| known == name);
    named.last().map(|(_, value)| value.into_owned())
}

impl Shared {
    /// The publisher of the named workspace, or all publishers.
    fn about(&self, only: Option<&str>) -> Vec<Arc<StatusPublisher>> {
        let named = only.and_then(|only| {
            find_workspace(&self.publishers, only, |publisher| publisher.published())
        });
        named.map_or_else(
            || self.publishers.clone(),
            |publisher| vec![Arc::clone(publisher)],
        )
    }

    /// Identifies the current state of the publishers; a restart changes it.
    fn state(&self, publishers: &[Arc<StatusPublisher>]) -> String {
        let edition: u64 = publishers.iter().map(|publisher| publisher.edition()).sum();
        let alive = publishers
            .iter()
            .filter(|publisher| publisher.is_alive())
            .count();
        format!("{:x}-{edition:x}-{alive:x}", self.started.as_millisecond())
    }
}

/// The page; with `?part`, only its changing part.
async fn index(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let only = parameter(query.as_deref(), "workspace");
    let only = only.as_deref();
    // Read before the publishers: a state published meanwhile is then reported twice, never missed.
    let id = shared.state(&shared.about(only));
    let workspaces: Vec<_> = shared
        .publishers
        .iter()
        .map(|publisher| publisher.snapshot())
        .collect();
    let view = View {
        version: env!("CARGO_PKG_VERSION"),
        started: shared.started,
        now: now(),
        id: &id,
        workspaces: &workspaces,
        only,
    };
    let status = match view.exists() {
        true => StatusCode::OK,
        false => StatusCode::NOT_FOUND,
    };
    let html = match parameter(query.as_deref(), "part") {
        Some(_) => content(&view),
        None => page(&view),
    };
    (
        status,
        headers("text/html; charset=utf-8", "no-store"),
        html,
    )
        .into_response()
}

async fn asset(Path(name): Path<String>) -> Response {
    let icon = name.strip_suffix(".svg").and_then(tab_icon);
    match (name.as_str(), icon) {
        ("page.css", _) => (headers("text/css; charset=utf-8", "no-cache"), STYLE).into_response(),
        ("page.js", _) => (
            headers("text/javascript; charset=utf-8", "no-cache"),
            SCRIPT,
        )
            .into_response(),
        (_, Some(icon)) => (headers("image/svg+xml", "no-cache"), icon).into_response(),
        _ => error(StatusCode::NOT_FOUND, "no such asset"),
    }
}

fn headers(content: &'static str, cache: &'static str) -> [(HeaderName, HeaderValue); 8] {
    [
        (CONTENT_TYPE, content),
        (CACHE_CONTROL, cache),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
}

/// Reports that the publishers changed, not how. `Last-Event-ID` is the state that the reader knows.
async fn events(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    // Another site's page cannot read the stream, and must not take a permit.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return error(
            StatusCode::FORBIDDEN,
            "the events are for this server's own page",
        );
    }
    let Ok(permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let full = error(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many event streams; try again later",
        );
        return ([(RETRY_AFTER, "15")], full).into_response();
    };
    let known = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let publishers = shared.about(parameter(query.as_deref(), "workspace").as_deref());
    let watch = Watch {
        shared,
        publishers,
        known,
        last_sent: None,
        ends: Instant::now() + STREAM_LIFETIME,
        _permit: permit,
    };
    let body = stream::unfold(watch, |mut watch| async {
        Some((Ok::<_, Infallible>(watch.next().await?), watch))
    });
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    let mut response = (unbuffered, Sse::new(body)).into_response();
    response.extensions_mut().insert(Lasting(STREAM_LIFETIME));
    response
}

struct Watch {
    shared: Arc<Shared>,
    publishers: Vec<Arc<StatusPublisher>>,
    /// The state that the reader knows.
    known: String,
    /// When the last event was sent.
    last_sent: Option<Instant>,
    ends: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if Instant::now() >= self.ends {
                return None;
            }
            let state = self.shared.state(&self.publishers);
            if state != self.known {
                self.known.clone_from(&state);
                self.last_sent = Some(Instant::now());
                let data = json!({"id": state, "version": env!("CARGO_PKG_VERSION")}).to_string();
                return Some(Event::default().event("state").id(state).data(data));
            }
            // An event, because a comment does not reach the script, which takes silence for a lost connection.
            if self
                .last_sent
                .is_none_or(|sent| sent.elapsed() >= HEARTBEAT)
            {
                self.last_sent = Some(Instant::now());
                return Some(Event::default().event("beat").data("."));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
