//! Asking for a pass, and letting a refused plan through: who may, and what he gets. Each request is one line of the log.
//!
//! Nothing that a request says chooses what is changed, or where: files and live state are read again, whoever asked.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::limit::{Peer, Proved};
use super::{Access, Host, Said, answer, error, hook, host};
use crate::daemon::{Handle, NotPending};
use crate::http::SecretFile;
use crate::model::{SharedSecret, printable};
use crate::plan::Digest;
use crate::report::status::{Trigger, meant};

/// The largest body of a request to the API, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Headers by which a proxy shows that the request comes from elsewhere; all that begin with `x-forwarded-` do as well.
const FORWARDED: [&str; 10] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "true-client-ip",
    "cf-connecting-ip",
];

/// What requests share.
pub(super) struct Asking {
    pub(super) loops: Vec<Handle>,
    pub(super) access: Access,
}

/// A request that is not carried out.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = error(self.0, &self.1);
        if self.0 == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer that says in the log what was done.
pub(super) fn done(status: StatusCode, body: Option<&Value>, said: String) -> Response {
    let mut response = body.map_or_else(|| status.into_response(), |body| answer(status, body));
    response.extensions_mut().insert(Said(said));
    response
}

pub(super) fn router(loops: Vec<Handle>, access: Access, hosts: Arc<[Host]>) -> Router {
    let asking = Arc::new(Asking { loops, access });
    Router::new()
        .route("/api/v1/reconcile", post(reconcile))
        .route("/api/v1/approve", post(approve))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&asking),
            permitted,
        ))
        .merge(hook::router())
        .layer(middleware::from_fn_with_state(hosts, host::guard))
        .layer(middleware::from_fn(audit))
        .with_state(asking)
}

/// Tells the log who asked for what, and what he got. Never what he showed.
async fn audit(request: Request, next: Next) -> Response {
    let peer = request
        .extensions()
        .get::<Peer>()
        .map(|Peer(peer)| peer.to_string())
        .unwrap_or_default();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let (status, said) = (response.status(), response.extensions().get::<Said>());
    let said = said.map(|Said(said)| printable(said)).unwrap_or_default();
    if method == Method::POST && status.is_success() {
        info!(
            peer,
            path,
            status = status.as_u16(),
            "{peer} asked at {path}: {said}"
        );
    } else if method == Method::POST {
        warn!(
            peer,
            path,
            status = status.as_u16(),
            "{peer} asked at {path} and was refused: {said}"
        );
    }
    response
}

/// Lets those ask who may.
async fn permitted(State(asking): State<Arc<Asking>>, request: Request, next: Next) -> Response {
    if host::is_cross_site(&request, &asking.access.hosts) {
        let sentence = "a web page of another site asked for this; only the daemon's own may";
        return Refused(StatusCode::FORBIDDEN, sentence.to_owned()).into_response();
    }
    // Nothing of the request is held while the file is read.
    let shown = bearer(request.headers());
    let permitted = match &asking.access.token {
        Some(file) => read(file).await.and_then(|token| match shown {
            Some(shown) if token.is(&shown) => Ok(()),
            Some(_) => Err(Refused(StatusCode::UNAUTHORIZED, "the token is not the daemon's".to_owned())),
            None => Err(Refused(
                StatusCode::UNAUTHORIZED,
                "a token is needed: the header \"Authorization: Bearer TOKEN\", with what is in --admin-token-file"
                    .to_owned(),
            )),
        }),
        None if is_from_here(&request) => Ok(()),
        None => Err(Refused(
            StatusCode::FORBIDDEN,
            "without --admin-token-file only this machine itself may ask: at its loopback address, by HTTP/1.1, and through \
             no proxy"
                .to_owned(),
        )),
    };
    match permitted {
        Ok(()) if asking.access.token.is_some() => {
            let mut response = next.run(request).await;
            response.extensions_mut().insert(Proved);
            response
        }
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// The token that a request shows, where it shows exactly one.
fn bearer(headers: &HeaderMap) -> Option<Vec<u8>> {
    let shown = single(headers, AUTHORIZATION.as_str())?;
    let (scheme, token) = shown.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().as_bytes().to_vec())
}

/// The value of a header that is there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// Whether the request comes from this machine, as far as can be seen. A proxy on it that shows nothing of itself cannot be
/// told from a local caller; nginx, as it was for long, shows itself by HTTP/1.0 or by closing each connection.
fn is_from_here(request: &Request) -> bool {
    let closes = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| {
            value
                .split(',')
                .any(|option| option.trim().eq_ignore_ascii_case("close"))
        })
    };
    request
        .extensions()
        .get::<Peer>()
        .is_some_and(|Peer(peer)| IpAddr::is_loopback(peer))
        && host::names_loopback(request)
        && request.version() >= Version::HTTP_11
        && !request.headers().get_all(CONNECTION).iter().any(closes)
        && !request.headers().keys().any(|name| {
            name.as_str().starts_with("x-forwarded-") || FORWARDED.contains(&name.as_str())
        })
}

/// Reads a secret, anew for each request.
pub(super) async fn read(file: &SecretFile) -> Result<SharedSecret, Refused> {
    let file = file.clone();
    // It may be on a file system that hangs.
    let why = match tokio::task::spawn_blocking(move || file.shared()).await {
        Ok(Ok(secret)) => return Ok(secret),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "reading it ended by a fault".to_owned(),
    };
    tracing::error!("{why}; nobody is let in by it until it can be read");
    let sentence = "the daemon cannot read the secret that this is held against; its log says why";
    Err(Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        sentence.to_owned(),
    ))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reconcile {
    workspace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    digest: String,
    workspace: Option<String>,
}

async fn reconcile(
    State(asking): State<Arc<Asking>>,
    request: Request,
) -> Result<Response, Refused> {
    let named = queried(request.uri().query().unwrap_or_default())?;
    let Reconcile { workspace } = body(request).await?.unwrap_or_default();
    let chosen = asking.chosen(workspace.or(named).as_deref())?;
    Ok(asked(
        &leading(chosen)?,
        Trigger::Request,
        "reconcile",
        "a pass",
    ))
}

async fn approve(State(asking): State<Arc<Asking>>, request: Request) -> Result<Response, Refused> {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let wanted = "the body is {\"digest\": \"sha256:…\"}, and names the plan that is let through";
    let Approve { digest, workspace } =
        body(request).await?.ok_or_else(|| bad(wanted.to_owned()))?;
    let digest = Digest::parse(&digest).map_err(|error| bad(error.to_string()))?;
    let chosen = leading(asking.chosen(workspace.as_deref())?)?;
    let mut why = NotPending::Nothing;
    for one in chosen {
        match one.approve(&digest) {
            Ok(()) => {
                let body = json!({"asked": "approve", "digest": digest.to_string(), "workspaces": [one.publisher().label()]});
                return Ok(done(
                    StatusCode::ACCEPTED,
                    Some(&body),
                    format!("the plan {digest} is let through"),
                ));
            }
            Err(another @ NotPending::Another(_)) => why = another,
            Err(NotPending::Nothing) => {}
        }
    }
    Err(Refused(StatusCode::CONFLICT, why.to_string()))
}

/// Those of the loops that lead: a standby carries nothing out.
fn leading(loops: Vec<&Handle>) -> Result<Vec<&Handle>, Refused> {
    let mut holder = None;
    let (elsewhere, here): (Vec<&Handle>, Vec<&Handle>) = loops.into_iter().partition(|one| {
        let led = one
            .publisher()
            .snapshot()
            .led_elsewhere()
            .map(|holder| holder.map(printable));
        led.map(|by| holder = by).is_some()
    });
    if here.is_empty() && !elsewhere.is_empty() {
        let leader = holder.map_or_else(
            || "and nobody is known to lead: ask again".to_owned(),
            |by| format!("and {by} leads: ask that one"),
        );
        return Err(Refused(
            StatusCode::CONFLICT,
            format!("this replica stands by, {leader}"),
        ));
    }
    Ok(here)
}

/// Asks these loops for a pass.
pub(super) fn asked(loops: &[&Handle], trigger: Trigger, word: &str, what: &str) -> Response {
    for one in loops {
        one.ask(trigger);
    }
    let labels: Vec<String> = loops.iter().map(|one| one.publisher().label()).collect();
    let of = match labels.as_slice() {
        [one] => format!(" of {one}"),
        all => format!(" of {} workspaces", all.len()),
    };
    done(
        StatusCode::ACCEPTED,
        Some(&json!({"asked": word, "workspaces": labels})),
        format!("{what}{of}"),
    )
}

impl Asking {
    /// The loop of this workspace, or all of them.
    fn chosen(&self, workspace: Option<&str>) -> Result<Vec<&Handle>, Refused> {
        let Some(workspace) = workspace else {
            return Ok(self.loops.iter().collect());
        };
        match meant(&self.loops, workspace, |one| one.publisher().published()) {
            Some(one) => Ok(vec![one]),
            None => Err(Refused(
                StatusCode::NOT_FOUND,
                "the daemon keeps no workspace of this name; /api/v1/status lists those that it keeps".to_owned(),
            )),
        }
    }
}

/// The workspace that a query names.
fn queried(query: &str) -> Result<Option<String>, Refused> {
    let mut workspace = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "workspace" || workspace.is_some() {
            return Err(Refused(
                StatusCode::BAD_REQUEST,
                "the one parameter is workspace=NAME".to_owned(),
            ));
        }
        workspace = Some(value.into_owned());
    }
    Ok(workspace)
}

/// The body of a request; `None` where there is none.
async fn body<T: DeserializeOwned>(request: Request) -> Result<Option<T>, Refused> {
    let (head, body) = request.into_parts();
    let kind = head
        .headers
        .get(CONTENT_TYPE)
        .map(|kind| kind.to_str().unwrap_or_default());
    let is_json = kind.map(|kind| {
        kind.split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
        let sentence = format!(
            "the body is larger than {} KiB, or ended too early",
            MAX_BODY >> 10
        );
        Refused(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    })?;
    match (is_json, bytes.is_empty()) {
        // What a form of a web page could send is not taken, whatever it is.
        (Some(false), _) | (None, false) => {
            let sentence = "a body is JSON, and says so: content-type: application/json";
            Err(Refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                sentence.to_owned(),
            ))
        }
        (_, true) => Ok(None),
        (Some(true), false) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Refused(
                StatusCode::BAD_REQUEST,
                format!("the body is not what is taken here: {error}"),
            )
        }),
    }
}
