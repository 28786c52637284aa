//! The API that requests a reconciliation or approves a refused plan. Each request writes one log line.
//!
//! Never: let a request choose what is changed, or where. The daemon reads files and live state again.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::{info, warn};

use super::hook::Receiver;
use super::limit::{Peer, Proved};
use super::request::{Refused, Shared, accept, read_secret, single, trigger};
use super::{Access, Host, Said, hook, host};
use crate::daemon::{Handle, NotPending};
use crate::http::Http;
use crate::model::printable;
use crate::plan::{Digest, parse_hold_reason};
use crate::report::status::{Trigger, find_workspace};

/// The largest body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Headers that a proxy adds; all that begin with `x-forwarded-` count as well.
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

pub(super) fn router(loops: Vec<Handle>, access: Access, http: Http, hosts: Arc<[Host]>) -> Router {
    let shared = Arc::new(Shared {
        loops,
        access,
        receiver: Receiver::new(http),
    });
    Router::new()
        .route("/api/v1/reconcile", post(reconcile))
        .route("/api/v1/approve", post(approve))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            authorise,
        ))
        .merge(hook::router())
        .layer(middleware::from_fn_with_state(hosts, host::guard))
        .layer(middleware::from_fn(audit))
        .with_state(shared)
}

/// Audit-logs peer, path and status; never credentials.
async fn audit(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let peer = peer.map(|Peer(peer)| peer.to_string()).unwrap_or_default();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let (code, said) = (response.status(), response.extensions().get::<Said>());
    let said = said.map(|Said(said)| printable(said)).unwrap_or_default();
    let status = code.as_u16();
    if method == Method::POST && code.is_success() {
        info!(peer, path, status, "{peer} requested {path}: {said}");
    } else if method == Method::POST {
        warn!(
            peer,
            path, status, "{peer} requested {path} and was refused: {said}"
        );
    }
    response
}

/// Authorises a request: by the token or, without a token file, from loopback only.
async fn authorise(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if host::is_cross_site(&request, &shared.access.hosts) {
        let sentence = "requests from web pages of other sites are refused";
        return Refused(StatusCode::FORBIDDEN, sentence.to_owned()).into_response();
    }
    // The request is not kept in memory while the file is read.
    let shown = bearer(request.headers());
    let permitted = match &shared.access.token {
        Some(file) => read_secret(file).await.and_then(|token| match shown {
            Some(shown) if token.is(&shown) => Ok(()),
            Some(_) => Err(Refused(StatusCode::UNAUTHORIZED, "wrong token".to_owned())),
            None => Err(Refused(
                StatusCode::UNAUTHORIZED,
                "a token is required: send \"Authorization: Bearer TOKEN\" with the content of --admin-token-file"
                    .to_owned(),
            )),
        }),
        None if is_from_here(&request) => Ok(()),
        None => Err(Refused(
            StatusCode::FORBIDDEN,
            "without --admin-token-file, requests are accepted from loopback only: by HTTP/1.1 and without a proxy"
                .to_owned(),
        )),
    };
    if let Err(refused) = permitted {
        return refused.into_response();
    }
    let mut response = next.run(request).await;
    if shared.access.token.is_some() {
        response.extensions_mut().insert(Proved);
    }
    response
}

/// The bearer token of a request, if it has exactly one.
fn bearer(headers: &HeaderMap) -> Option<Vec<u8>> {
    let shown = single(headers, AUTHORIZATION.as_str())?;
    let (scheme, token) = shown.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().as_bytes().to_vec())
}

/// Whether the request seems to come from this machine. A local proxy that adds no header looks like a local caller;
/// older nginx is recognised by HTTP/1.0 or by closing each connection.
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reconcile {
    workspace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    digest: String,
    /// Why the plan is applied although the workspace is on hold.
    reason: Option<String>,
    workspace: Option<String>,
}

async fn reconcile(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    let named = query_workspace(request.uri().query().unwrap_or_default())?;
    let Reconcile { workspace } = body(request).await?.unwrap_or_default();
    let chosen = shared.select(workspace.or(named).as_deref())?;
    Ok(trigger(&leaders_of(chosen)?, Trigger::Request))
}

async fn approve(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Refused> {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let wanted = "the body must name the plan: {\"digest\": \"sha256:…\"}";
    let Approve {
        digest,
        reason,
        workspace,
    } = body(request).await?.ok_or_else(|| bad(wanted.to_owned()))?;
    let reason = reason.map(|text| parse_hold_reason(&text)).transpose();
    let reason = reason.map_err(|why| bad(why.to_owned()))?;
    let digest = Digest::parse(&digest).map_err(|error| bad(error.to_string()))?;
    let chosen = leaders_of(shared.select(workspace.as_deref())?)?;
    let mut why = NotPending::Nothing;
    for one in chosen {
        match one.approve(&digest, reason.as_deref()) {
            Ok(()) => {
                let body = json!({"asked": "approve", "digest": digest.to_string(), "workspaces": [one.publisher().label()]});
                return Ok(accept(
                    StatusCode::ACCEPTED,
                    Some(&body),
                    match &reason {
                        Some(reason) => format!("the plan {digest} is approved: {reason}"),
                        None => format!("the plan {digest} is approved"),
                    },
                ));
            }
            Err(other @ (NotPending::Another(_) | NotPending::NeedsReason(_))) => why = other,
            Err(NotPending::Nothing) => {}
        }
    }
    Err(Refused(StatusCode::CONFLICT, why.to_string()))
}

/// Keeps the loops that lead: a standby applies nothing.
fn leaders_of(loops: Vec<&Handle>) -> Result<Vec<&Handle>, Refused> {
    let mut holder = None;
    let (elsewhere, here): (Vec<&Handle>, Vec<&Handle>) = loops.into_iter().partition(|one| {
        let status = one.publisher().snapshot();
        let standby = status.standby();
        if let Some(standby) = standby {
            holder = standby.holder.as_deref().map(printable);
        }
        standby.is_some()
    });
    if here.is_empty() && !elsewhere.is_empty() {
        let leader = holder.map_or_else(
            || "and the leader is unknown: try again".to_owned(),
            |by| format!("and {by} leads: send the request there"),
        );
        return Err(Refused(
            StatusCode::CONFLICT,
            format!("this replica is a standby, {leader}"),
        ));
    }
    Ok(here)
}

impl Shared {
    /// The loop of this workspace, or all loops.
    fn select(&self, workspace: Option<&str>) -> Result<Vec<&Handle>, Refused> {
        let Some(workspace) = workspace else {
            return Ok(self.loops.iter().collect());
        };
        let found = find_workspace(&self.loops, workspace, |one| one.publisher().published());
        let unknown = "the daemon has no workspace of this name; /api/v1/status lists them";
        found
            .map(|one| vec![one])
            .ok_or_else(|| Refused(StatusCode::NOT_FOUND, unknown.to_owned()))
    }
}

fn query_workspace(query: &str) -> Result<Option<String>, Refused> {
    let mut workspace = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "workspace" || workspace.is_some() {
            return Err(Refused(
                StatusCode::BAD_REQUEST,
                "the only parameter is workspace=NAME".to_owned(),
            ));
        }
        workspace = Some(value.into_owned());
    }
    Ok(workspace)
}

/// The JSON body of a request; `None` if it is empty.
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
        // A form of a web page can send other types: they are refused.
        (Some(false), _) | (None, false) => {
            let sentence = "the body must be JSON, with content-type: application/json";
            Err(Refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                sentence.to_owned(),
            ))
        }
        (_, true) => Ok(None),
        (Some(true), false) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("invalid body: {error}"))),
    }
}
