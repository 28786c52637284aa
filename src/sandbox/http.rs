//! The API over HTTP: routes, keys, errors in the documented shape, and the faults carried out. What an update does is for
//! the store to say.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};

use super::connection::Connection;
use super::contract::{self, Update};
use super::faults::{FaultKind, Faults, Limiter};
use super::log::{Log, RequestRecord};
use super::store::{self, Mask, Semantics, Store};
use super::{Keys, Permission};
use crate::model::UpdateMethod;

/// The largest body that is taken, in bytes.
const MAX_BODY: usize = 1 << 20;

/// A larger body is read to here, so that its sender gets to see the answer; then the connection ends.
const MAX_DRAINED: usize = 16 << 20;

/// Everything that requests share.
pub(super) struct Shared {
    /// More workspaces, by each of their keys.
    pub(super) others: HashMap<String, Arc<Shared>>,
    pub(super) update_method: UpdateMethod,
    pub(super) latency: Duration,
    pub(super) limiter: Limiter,
    pub(super) state: Mutex<Mutable>,
}

/// What requests and tests change.
pub(super) struct Mutable {
    pub(super) keys: Keys,
    pub(super) store: Store,
    pub(super) semantics: Semantics,
    pub(super) faults: Faults,
    pub(super) log: Log,
}

impl Shared {
    /// The state, also after a test's closure panicked while it held the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Mutable> {
        self.state.lock()
    }
}

/// Answers a request, whatever it is.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let shared = api_key(&head.headers)
        .and_then(|key| shared.others.get(key))
        .map_or(shared.clone(), Arc::clone);
    let path = head.uri.path().to_owned();
    let number = {
        let mut state = shared.lock();
        let permission = state.keys.permission(api_key(&head.headers)).ok();
        state.log.begin(RequestRecord {
            method: head.method.clone(),
            path: path.clone(),
            permission,
            body: None,
            changed: None,
            status: None,
            at: Instant::now(),
            finished: None,
        })
    };
    let call = Call {
        number,
        method: head.method,
        path,
        headers: head.headers,
        body: read(body).await,
    };
    if let (Ok(bytes), Some(record)) = (&call.body, shared.lock().log.get_mut(number)) {
        record.body = serde_json::from_slice(bytes).ok();
    }
    // A task of its own: a client that gives up does not take back what it asked for.
    let task = tokio::spawn(async move {
        let response = carry_out(&shared, &connection, &call).await;
        if let Some(record) = shared.lock().log.get_mut(number) {
            record.status = (!connection.is_cut()).then(|| response.status());
            record.finished = Some(Instant::now());
        }
        response
    });
    task.await.unwrap_or_else(|_| {
        Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "", "Internal error").into()
    })
}

/// A request, read in full.
struct Call {
    number: usize,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Result<Vec<u8>, &'static str>,
}

async fn read(body: Body) -> Result<Vec<u8>, &'static str> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| "The body ended too early")?;
        length = length.saturating_add(chunk.len());
        if length <= MAX_BODY {
            bytes.extend_from_slice(&chunk);
        } else if length > MAX_DRAINED {
            break;
        }
    }
    if length > MAX_BODY {
        Err("The body is larger than 1 MiB")
    } else {
        Ok(bytes)
    }
}

/// Answers a call, or does to it what the faults say.
async fn carry_out(shared: &Shared, connection: &Connection, call: &Call) -> Response {
    if !shared.latency.is_zero() {
        tokio::time::sleep(shared.latency).await;
    }
    if let Some(seconds) = shared.limiter.seconds_to_wait() {
        let refused = Answer::error(
            StatusCode::TOO_MANY_REQUESTS,
            &call.path,
            "Too many requests",
        );
        return refused.with(RETRY_AFTER, &seconds.to_string()).into();
    }
    let fault = shared.lock().faults.befall(&call.method, &call.path);
    let Some(fault) = fault else {
        return respond(shared, call).into();
    };
    match fault {
        FaultKind::Status {
            code,
            message,
            retry_after,
        } => {
            let refused = Answer::error(code, &call.path, &message);
            match retry_after {
                Some(retry_after) => refused.with(RETRY_AFTER, &retry_after).into(),
                None => refused.into(),
            }
        }
        FaultKind::Delay(delay) => {
            let answer = respond(shared, call);
            tokio::time::sleep(delay).await;
            answer.into()
        }
        FaultKind::DropBefore => {
            connection.cut();
            Response::default()
        }
        FaultKind::DropAfter => {
            let answer = respond(shared, call);
            connection.cut();
            answer.into()
        }
        FaultKind::TruncateBody => truncated(respond(shared, call)),
        FaultKind::Answer { code, body } => {
            respond(shared, call);
            Answer {
                status: code,
                ..Answer::ok(body.into_bytes())
            }
            .into()
        }
        FaultKind::Garbage => Answer::ok(b"\xff\xfe{\"id\": <html>\0".to_vec()).into(),
        FaultKind::Redirect(location) => {
            Answer::error(StatusCode::TEMPORARY_REDIRECT, &call.path, "Moved")
                .with(LOCATION, &location)
                .into()
        }
        FaultKind::HugeBody(length) => with_body(Answer::ok(Vec::new()), huge(length)),
        FaultKind::EchoBodyInError => {
            let key = api_key(&call.headers).unwrap_or_default();
            let body = String::from_utf8_lossy(call.body.as_deref().unwrap_or_default());
            let message = format!("Cannot process {body} with key {key}");
            Answer::error(StatusCode::BAD_REQUEST, &call.path, &message).into()
        }
    }
}

/// Answers a call as Calry would. What a gateway looks at comes first: the path, the method, the key.
fn respond(shared: &Shared, call: &Call) -> Answer {
    let error = |status, message: &str| Answer::error(status, &call.path, message);
    let Some(route) = Route::of(&call.path) else {
        return error(
            StatusCode::NOT_FOUND,
            &format!("Cannot {} this path", call.method),
        );
    };
    let allowed = route.methods(shared.update_method);
    if !allowed.contains(&call.method) {
        let message = format!("Method {} is not allowed", call.method);
        let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
        return error(StatusCode::METHOD_NOT_ALLOWED, &message).with(ALLOW, &allowed.join(", "));
    }
    let mut state = shared.lock();
    let permission = match state.keys.permission(api_key(&call.headers)) {
        Ok(permission) => permission,
        Err(message) => return error(StatusCode::UNAUTHORIZED, message),
    };
    let masks = match state.semantics.mask {
        Mask::Never => false,
        Mask::ReadKeys => permission == Permission::Read,
        Mask::Always => true,
    };
    let found = match route {
        Route::Workspace => return Answer::json(state.store.workspace()),
        Route::Definitions => {
            return Answer::json(
                &state
                    .store
                    .definitions()
                    .values()
                    .map(|one| shown(one, masks))
                    .collect::<Vec<_>>(),
            );
        }
        Route::Definition(provider) if call.method == Method::GET => {
            state.store.definitions().get(&provider)
        }
        Route::Definition(provider) => {
            if permission == Permission::Read {
                return error(
                    StatusCode::FORBIDDEN,
                    "The API key's permission is READ; an update needs WRITE",
                );
            }
            let update = match update_of(call) {
                Ok(update) => update,
                Err((message, details)) => {
                    return Answer::detailed_error(
                        StatusCode::BAD_REQUEST,
                        &call.path,
                        message,
                        &details,
                    );
                }
            };
            let method = if call.method == Method::PUT {
                UpdateMethod::Put
            } else {
                UpdateMethod::Patch
            };
            let Mutable {
                store,
                semantics,
                log,
                ..
            } = &mut *state;
            let before = store.definitions().get(&provider).cloned();
            let after = store.update(&provider, &update, method, *semantics, Timestamp::now());
            if let Some(record) = log.get_mut(call.number) {
                record.changed = Some(!store::same(before.as_ref(), after));
            }
            after
        }
    };
    match found {
        Some(definition) => Answer::json(&shown(definition, masks)),
        None => error(
            StatusCode::NOT_FOUND,
            "The workspace has no integration definition for this provider",
        ),
    }
}

fn shown(definition: &Value, masks: bool) -> Cow<'_, Value> {
    if masks {
        Cow::Owned(store::masked(definition))
    } else {
        Cow::Borrowed(definition)
    }
}

fn update_of(call: &Call) -> Result<Update, (&'static str, Vec<String>)> {
    let bytes = call
        .body
        .as_deref()
        .map_err(|message| (*message, Vec::new()))?;
    if bytes.is_empty() {
        return Err(("An update needs a body", Vec::new()));
    }
    let media_type = call
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err((
            "The content type of an update must be application/json",
            Vec::new(),
        ));
    }
    let body = serde_json::from_slice(bytes).map_err(|error| {
        (
            "The body is not JSON",
            vec![format!("line {}, column {}", error.line(), error.column())],
        )
    })?;
    Update::parse(body).map_err(|problems| ("The body is not an update", problems))
}

fn api_key(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-calry-api-key")?.to_str().ok()
}

enum Route {
    Workspace,
    Definitions,
    Definition(String),
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/api/v1/")? {
            "workspace" => Some(Self::Workspace),
            "integration-definition" => Some(Self::Definitions),
            one => {
                let provider = one.strip_prefix("integration-definition/")?;
                let provider = percent_decode_str(provider)
                    .decode_utf8_lossy()
                    .into_owned();
                (!provider.is_empty() && !provider.contains('/'))
                    .then_some(Self::Definition(provider))
            }
        }
    }

    fn methods(&self, update_method: UpdateMethod) -> &'static [Method] {
        match (self, update_method) {
            (Self::Workspace | Self::Definitions, _) => &[Method::GET],
            (Self::Definition(_), UpdateMethod::Patch) => &[Method::GET, Method::PATCH],
            (Self::Definition(_), UpdateMethod::Put) => &[Method::GET, Method::PATCH, Method::PUT],
        }
    }
}

/// An answer whose body is at hand.
struct Answer {
    status: StatusCode,
    header: Option<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

impl Answer {
    fn ok(body: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            header: None,
            body,
        }
    }

    fn json(value: &impl Serialize) -> Self {
        // JSON values and lists of them cannot fail to be written.
        Self::ok(serde_json::to_vec(value).unwrap_or_default())
    }

    /// An error in the one shape that the API has for all of them.
    fn error(status: StatusCode, path: &str, message: &str) -> Self {
        Self::detailed_error(status, path, message, &[])
    }

    fn detailed_error(status: StatusCode, path: &str, message: &str, details: &[String]) -> Self {
        let timestamp = contract::time(Timestamp::now());
        let body =
            json!({"timestamp": timestamp, "path": path, "message": message, "details": details});
        Self {
            status,
            ..Self::json(&body)
        }
    }

    /// The answer with a header; a value that HTTP cannot carry is left out.
    fn with(self, name: HeaderName, value: &str) -> Self {
        Self {
            header: HeaderValue::from_str(value).ok().map(|value| (name, value)),
            ..self
        }
    }
}

impl From<Answer> for Response {
    fn from(mut answer: Answer) -> Self {
        let body = std::mem::take(&mut answer.body);
        with_body(answer, Body::from(body))
    }
}

fn with_body(answer: Answer, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().extend(answer.header);
    response
}

/// The answer, its length announced, of which only the first half is sent.
fn truncated(mut answer: Answer) -> Response {
    let length = answer.body.len();
    answer.body.truncate(length / 2);
    let half = Bytes::from(std::mem::take(&mut answer.body));
    let end = async {
        // Lets the first half leave before the stream's error ends the connection.
        tokio::task::yield_now().await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted))
    };
    let body = stream::once(async { Ok(half) }).chain(stream::once(end));
    let mut response = with_body(answer, Body::from_stream(body));
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// A JSON text of so many bytes, made while it is sent.
fn huge(length: u64) -> Body {
    const CHUNK: u64 = 64 << 10;
    let chunks = stream::unfold(0, move |sent| async move {
        let size = (length - sent).min(CHUNK);
        let mut chunk = vec![b'x'; usize::try_from(size).ok()?];
        if sent == 0 {
            *chunk.first_mut()? = b'"';
        }
        if sent + size == length {
            *chunk.last_mut()? = b'"';
        }
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), sent + size))
    });
    Body::from_stream(chunks)
}
