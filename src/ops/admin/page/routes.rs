//! The page at `/`, what it is made of, and the events that tell a browser when to ask for a newer one.
//!
//! An event stream only looks at the publishers, a few times a second, and keeps nothing for its reader: what a slow one
//! misses is lost to it, and what it then reads is the newest. Streams are few, end by themselves, and whoever finds no
//! place asks now and then.

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

use super::{POLICY, SCRIPT, STYLE, View, content, page, tab_icon};
use crate::daemon::StatusPublisher;
use crate::daemon::publisher::now;
use crate::ops::admin::connection::Lasting;
use crate::ops::admin::{Shared, error};
use crate::report::status::meant;

/// The most event streams at once. They leave room among the connections for everything else.
pub(in crate::ops::admin) const STREAMS: usize = 32;
/// How long a stream lasts. A browser then begins another one.
const LASTS: Duration = Duration::from_secs(15 * 60);
/// Between two looks at the publishers.
const LOOK: Duration = Duration::from_millis(250);
/// A stream that has nothing to say says so this often, so that both sides know of each other.
const BEAT: Duration = Duration::from_secs(10);

pub(in crate::ops::admin) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(index))
        .route("/assets/{name}", get(asset))
        .route("/api/v1/events", get(events))
}

/// What a request asks for.
struct Asked {
    /// One workspace, by its name.
    only: Option<String>,
    /// Only what changes of the page.
    part: bool,
}

impl Asked {
    fn read(query: Option<&str>) -> Self {
        let mut asked = Self {
            only: None,
            part: false,
        };
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "workspace" => asked.only = Some(value.into_owned()),
                "part" => asked.part = true,
                _ => {}
            }
        }
        asked
    }
}

impl Shared {
    /// The publishers that a page is about: that of one workspace, or all.
    fn about(&self, only: Option<&str>) -> Vec<Arc<StatusPublisher>> {
        let named =
            only.and_then(|only| meant(&self.publishers, only, |publisher| publisher.published()));
        named.map_or_else(
            || self.publishers.clone(),
            |publisher| vec![Arc::clone(publisher)],
        )
    }

    /// A name for what publishers say now. It is another one after a restart.
    fn state(&self, publishers: &[Arc<StatusPublisher>]) -> String {
        let edition: u64 = publishers.iter().map(|publisher| publisher.edition()).sum();
        let alive = publishers
            .iter()
            .filter(|publisher| publisher.is_alive())
            .count();
        format!("{:x}-{edition:x}-{alive:x}", self.started.as_millisecond())
    }
}

/// The page; with `?part`, only what changes of it.
async fn index(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let Asked { only, part } = Asked::read(query.as_deref());
    let only = only.as_deref();
    // Before the publishers are read: what is published meanwhile is told of once more rather than never.
    let id = shared.state(&shared.about(only));
    let workspaces: Vec<_> = shared
        .publishers
        .iter()
        .map(|publisher| publisher.snapshot())
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let view = View {
        version,
        started: shared.started,
        now: now(),
        id: &id,
        workspaces: &workspaces,
        only,
    };
    let status = if view.exists() {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    };
    let html = if part { content(&view) } else { page(&view) };
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
        _ => error(StatusCode::NOT_FOUND, "there is no such asset"),
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

/// Tells that the publishers say something new, not what. `Last-Event-ID` is what the reader knows.
async fn events(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    // Another site's page cannot read the stream, and shall not take its place either.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"same-origin" | b"none")) {
        return error(
            StatusCode::FORBIDDEN,
            "the events are for this server's own page",
        );
    }
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let full = error(
            StatusCode::SERVICE_UNAVAILABLE,
            "every place for an event stream is taken; ask again later",
        );
        return ([(RETRY_AFTER, "15")], full).into_response();
    };
    let known = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let publishers = shared.about(Asked::read(query.as_deref()).only.as_deref());
    let watch = Watch {
        shared,
        publishers,
        known,
        spoke: None,
        ends: Instant::now() + LASTS,
        _place: place,
    };
    let body = stream::unfold(watch, |mut watch| async {
        Some((Ok::<_, Infallible>(watch.next().await?), watch))
    });
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    let mut response = (unbuffered, Sse::new(body)).into_response();
    response.extensions_mut().insert(Lasting(LASTS));
    response
}

/// A stream of events.
struct Watch {
    shared: Arc<Shared>,
    publishers: Vec<Arc<StatusPublisher>>,
    /// The state that the reader knows.
    known: String,
    /// When something was said; at first, nothing was.
    spoke: Option<Instant>,
    ends: Instant,
    _place: OwnedSemaphorePermit,
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
                self.spoke = Some(Instant::now());
                let data = json!({"id": state, "version": env!("CARGO_PKG_VERSION")}).to_string();
                return Some(Event::default().event("state").id(state).data(data));
            }
            // A comment would not reach the script, which takes silence for lost contact.
            if self.spoke.is_none_or(|spoke| spoke.elapsed() >= BEAT) {
                self.spoke = Some(Instant::now());
                return Some(Event::default().event("beat").data("."));
            }
            sleep(LOOK).await;
        }
    }
}
