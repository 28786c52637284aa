//! The API over HTTP: routes, keys, errors in the documented form, and the execution of faults. `store` executes updates.

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

use super::contract::{self, Update};
use super::cuttable::Connection;
use super::faults::{FaultKind, Faults, Limiter};
use super::request_log::{RequestLog, RequestRecord};
use super::store::{self, Mask, Semantics, Store};
use super::{Keys, Permission};
use crate::model::UpdateMethod;

/// The largest accepted body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// A larger body is read up to this size, so that its sender receives the answer; then the connection ends.
const MAX_DRAINED: usize = 16 << 20;

/// The state that all requests share.
pub(super) struct ServerState {
    /// The additional workspaces, by each of their keys.
    pub(super) other_workspaces: HashMap<String, Arc<ServerState>>,
    pub(super) update_method: UpdateMethod,
    pub(super) latency: Duration,
    pub(super) limiter: Limiter,
    pub(super) state: Mutex<MutableState>,
}

/// The state that requests and tests change.
pub(super) struct MutableState {
    pub(super) keys: Keys,
    pub(super) store: Store,
    pub(super) semantics: Semantics,
    pub(super) faults: Faults,
    pub(super) log: RequestLog,
}

impl ServerState {
    pub(super) fn lock(&self) -> MutexGuard<'_, MutableState> {
        self.state.lock()
    }
}

pub(super) async fn answer(
    State(shared): State<Arc<ServerState>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let shared = api_key(&head.headers)
        .and_then(|key| shared.other_workspaces.get(key))
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
    let request = ReceivedRequest {
        number,
        method: head.method,
        path,
        headers: head.headers,
        body: read_body(body).await,
    };
    if let (Ok(bytes), Some(record)) = (&request.body, shared.lock().log.get_mut(number)) {
        record.body = serde_json::from_slice(bytes).ok();
    }
    // In its own task, because the request is executed even if the client gives up.
    let task = tokio::spawn(async move {
        let response = handle(&shared, &connection, &request).await;
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
struct ReceivedRequest {
    number: usize,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Result<Vec<u8>, &'static str>,
}

async fn read_body(body: Body) -> Result<Vec<u8>, &'static str> {
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

/// Answers a request or executes its fault.
async fn handle(
    shared: &ServerState,
    connection: &Connection,
    request: &ReceivedRequest,
) -> Response {
    if !shared.latency.is_zero() {
        tokio::time::sleep(shared.latency).await;
    }
    if let Some(seconds) = shared.limiter.seconds_to_wait() {
        let refused = Answer::error(
            StatusCode::TOO_MANY_REQUESTS,
            &request.path,
            "Too many requests",
        );
        return refused.with(RETRY_AFTER, &seconds.to_string()).into();
    }
    let fault = shared
        .lock()
        .faults
        .next_fault(&request.method, &request.path);
    let Some(fault) = fault else {
        return respond(shared, request).into();
    };
    match fault {
        FaultKind::Status {
            code,
            message,
            retry_after,
        } => {
            let refused = Answer::error(code, &request.path, &message);
            match retry_after {
                Some(retry_after) => refused.with(RETRY_AFTER, &retry_after).into(),
                None => refused.into(),
            }
        }
        FaultKind::Delay(delay) => {
            let answer = respond(shared, request);
            tokio::time::sleep(delay).await;
            answer.into()
        }
        FaultKind::DropBefore => {
            connection.cut();
            Response::default()
        }
        FaultKind::DropAfter => {
            let answer = respond(shared, request);
            connection.cut();
            answer.into()
        }
        FaultKind::TruncateBody => truncated_response(respond(shared, request)),
        FaultKind::Answer { code, body } => {
            respond(shared, request);
            Answer {
                status: code,
                ..Answer::ok(body.into_bytes())
            }
            .into()
        }
        FaultKind::Garbage => Answer::ok(b"\xff\xfe{\"id\": <html>\0".to_vec()).into(),
        FaultKind::Redirect(location) => {
            Answer::error(StatusCode::TEMPORARY_REDIRECT, &request.path, "Moved")
                .with(LOCATION, &location)
                .into()
        }
        FaultKind::HugeBody(length) => with_body(Answer::ok(Vec::new()), huge_body(length)),
        FaultKind::EchoBodyInError => {
            let key = api_key(&request.headers).unwrap_or_default();
            let body = String::from_utf8_lossy(request.body.as_deref().unwrap_or_default());
            let message = format!("Cannot process {body} with key {key}");
            Answer::error(StatusCode::BAD_REQUEST, &request.path, &message).into()
        }
    }
}

/// Answers a request as Calry does. The checks of a gateway come first: path, method, key.
fn respond(shared: &ServerState, request: &ReceivedRequest) -> Answer {
    let error = |status, message: &str| Answer::error(status, &request.path, message);
    let Some(route) = Route::of(&request.path) else {
        return error(
            StatusCode::NOT_FOUND,
            &format!("Cannot {} this path", request.method),
        );
    };
    let allowed = route.methods(shared.update_method);
    if !allowed.contains(&request.method) {
        let message = format!("Method {} is not allowed", request.method);
        let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
        return error(StatusCode::METHOD_NOT_ALLOWED, &message).with(ALLOW, &allowed.join(", "));
    }
    let mut state = shared.lock();
    let permission = match state.keys.permission(api_key(&request.headers)) {
        Ok(permission) => permission,
        Err(message) => return error(StatusCode::UNAUTHORIZED, message),
    };
    let masks = match state.semantics.mask {
        Mask::Never => false,
        Mask::ReadKeys => permission == Permission::Read,
        Mask::Always => true,
    };
    let found = match route {
        Route::Workspace => return Answer::json(&state.store.workspace),
        Route::Definitions => {
            return Answer::json(
                &state
                    .store
                    .definitions
                    .values()
                    .map(|one| mask_if(one, masks))
                    .collect::<Vec<_>>(),
            );
        }
        Route::Definition(provider) if request.method == Method::GET => {
            state.store.definitions.get(&provider)
        }
        Route::Definition(provider) => {
            if permission == Permission::Read {
                return error(
                    StatusCode::FORBIDDEN,
                    "The API key's permission is READ; an update needs WRITE",
                );
            }
            let update = match parse_update(request) {
                Ok(update) => update,
                Err((message, details)) => {
                    return Answer::detailed_error(
                        StatusCode::BAD_REQUEST,
                        &request.path,
                        message,
                        &details,
                    );
                }
            };
            let method = if request.method == Method::PUT {
                UpdateMethod::Put
            } else {
                UpdateMethod::Patch
            };
            let MutableState {
                store,
                semantics,
                log,
                ..
            } = &mut *state;
            let before = store.definitions.get(&provider).cloned();
            let after = store.update(&provider, &update, method, *semantics, Timestamp::now());
            if let Some(record) = log.get_mut(request.number) {
                record.changed = Some(!store::equal_content(before.as_ref(), after));
            }
            after
        }
    };
    match found {
        Some(definition) => Answer::json(&mask_if(definition, masks)),
        None => error(
            StatusCode::NOT_FOUND,
            "The workspace has no integration definition for this provider",
        ),
    }
}

fn mask_if(definition: &Value, masks: bool) -> Cow<'_, Value> {
    if masks {
        Cow::Owned(store::mask(definition))
    } else {
        Cow::Borrowed(definition)
    }
}

fn parse_update(request: &ReceivedRequest) -> Result<Update, (&'static str, Vec<String>)> {
    let bytes = request
        .body
        .as_deref()
        .map_err(|message| (*message, Vec::new()))?;
    if bytes.is_empty() {
        return Err(("An update needs a body", Vec::new()));
    }
    let media_type = request
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

/// An answer with a complete body.
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
        #[expect(
            clippy::expect_used,
            reason = "JSON values and lists of them serialize"
        )]
        Self::ok(serde_json::to_vec(value).expect("JSON values serialize"))
    }

    fn error(status: StatusCode, path: &str, message: &str) -> Self {
        Self::detailed_error(status, path, message, &[])
    }

    fn detailed_error(status: StatusCode, path: &str, message: &str, details: &[String]) -> Self {
        let timestamp = contract::format_time(Timestamp::now());
        let body =
            json!({"timestamp": timestamp, "path": path, "message": message, "details": details});
        Self {
            status,
            ..Self::json(&body)
        }
    }

    /// Adds a header, unless HTTP cannot carry its value.
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

/// An answer with its full `Content-Length`, of which only the first half is sent.
fn truncated_response(mut answer: Answer) -> Response {
    let length = answer.body.len();
    answer.body.truncate(length / 2);
    let half = Bytes::from(std::mem::take(&mut answer.body));
    let end = async {
        // The first half must be sent before the stream's error ends the connection.
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

/// A JSON string of `length` bytes, generated while it is sent.
fn huge_body(length: u64) -> Body {
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
