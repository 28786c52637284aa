//! Webhooks of git hosts: a push requests a reconciliation at once. Each hook has its own secret.
//!
//! Never: keep or parse a body. The body is only hashed, so its content chooses nothing.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use futures_util::StreamExt as _;

use super::limit::Proved;
use super::request::{Refused, Shared, accept, read_secret, single, trigger};
use crate::daemon::publisher::now;
use crate::http::SecretFile;
use crate::model::{SharedSecret, SignatureCheck, parse_webhook_signatures};
use crate::report::status::Trigger;

/// The largest body, in bytes: a push of several thousand commits. The interval finds a larger one.
const MAX_BODY: usize = 4 << 20;

/// A larger body is read up to this size, so that its sender receives the answer.
const MAX_DRAINED: usize = 32 << 20;

/// How far the time of a signature may differ from the clock, in seconds.
const AGE: u64 = 300;

/// The secrets of the enabled hooks.
#[derive(Debug, Default)]
pub struct Hooks {
    /// `/hooks/github`: the hook's secret.
    pub github: Option<SecretFile>,
    /// `/hooks/gitlab`: the hook's signing token (`whsec_…`), or its secret token.
    pub gitlab: Option<SecretFile>,
    /// `/hooks/generic`: what the body is signed with.
    pub generic: Option<SecretFile>,
}

#[derive(Clone, Copy)]
enum Sender {
    Github,
    Gitlab,
    Generic,
}

/// The credential of a request.
enum Proof {
    /// The request contains the secret itself, and it is right.
    Shown,
    /// One of these must be the signature of the body and its prefix.
    Signed(SignatureCheck, Vec<Vec<u8>>),
}

pub(super) fn router() -> Router<Arc<Shared>> {
    let hook = |sender| post(move |state, request| receive(sender, state, request));
    Router::new()
        .route("/hooks/github", hook(Sender::Github))
        .route("/hooks/gitlab", hook(Sender::Gitlab))
        .route("/hooks/generic", hook(Sender::Generic))
}

async fn receive(
    sender: Sender,
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let Hooks {
        github,
        gitlab,
        generic,
    } = &shared.access.hooks;
    let (file, flag) = match sender {
        Sender::Github => (github, "--github-hook-secret-file"),
        Sender::Gitlab => (gitlab, "--gitlab-hook-secret-file"),
        Sender::Generic => (generic, "--generic-hook-secret-file"),
    };
    let Some(file) = file else {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            format!("this hook is disabled; enable it with {flag}"),
        ));
    };
    let secret = read_secret(file).await?;
    let proof = proof(sender, &secret, &head.headers);
    if !verify(proof, body).await? {
        let sentence = format!(
            "the signature does not match the secret of {flag}, or its time differs too much from this machine's clock"
        );
        return Err(Refused(StatusCode::FORBIDDEN, sentence));
    }
    let mut response = match not_a_push(sender, &head.headers) {
        // A standby accepts as well: git hosts disable hooks that are refused.
        None => trigger(&shared.loops.iter().collect::<Vec<_>>(), Trigger::Hook),
        Some(what) => accept(StatusCode::NO_CONTENT, None, what.to_owned()),
    };
    response.extensions_mut().insert(Proved);
    Ok(response)
}

/// What the event is; `None` for a push.
fn not_a_push(sender: Sender, headers: &HeaderMap) -> Option<&'static str> {
    let event = match sender {
        Sender::Github => single(headers, "x-github-event"),
        Sender::Gitlab => single(headers, "x-gitlab-event"),
        Sender::Generic => return None,
    };
    match (sender, event) {
        (Sender::Github, Some("push")) => None,
        (Sender::Github, Some("ping")) => Some("a ping"),
        (Sender::Gitlab, Some("Push Hook" | "Tag Push Hook")) => None,
        _ => Some("ignored: not a push"),
    }
}

fn proof(sender: Sender, secret: &SharedSecret, headers: &HeaderMap) -> Option<Proof> {
    let of_body = |name| {
        let signature = unhex(single(headers, name)?.strip_prefix("sha256=")?)?;
        Some(Proof::Signed(secret.check_signature(), vec![signature]))
    };
    match sender {
        Sender::Github => of_body("x-hub-signature-256"),
        Sender::Generic => of_body("x-signature-256"),
        // A hook with a signing token needs a signature.
        Sender::Gitlab if secret.is_webhook_key() => standard_webhook(secret, headers),
        Sender::Gitlab => secret
            .is(single(headers, "x-gitlab-token")?.as_bytes())
            .then_some(Proof::Shown),
    }
}

/// The signature of Standard Webhooks covers the message's id, its time and its body.
fn standard_webhook(secret: &SharedSecret, headers: &HeaderMap) -> Option<Proof> {
    let (id, time) = (
        single(headers, "webhook-id")?,
        single(headers, "webhook-timestamp")?,
    );
    if now().as_second().abs_diff(time.parse().ok()?) > AGE {
        return None;
    }
    let signatures = parse_webhook_signatures(single(headers, "webhook-signature")?);
    Some(Proof::Signed(secret.check_webhook(id, time)?, signatures))
}

/// Whether the credential is valid for the body. The body is always read, so that its sender receives the answer.
async fn verify(mut proof: Option<Proof>, body: Body) -> Result<bool, Refused> {
    let mut chunks = body.into_data_stream();
    let mut length = 0_usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Refused(
                StatusCode::BAD_REQUEST,
                "the body ended too early".to_owned(),
            )
        })?;
        length = length.saturating_add(chunk.len());
        if length > MAX_DRAINED {
            break;
        }
        if let Some(Proof::Signed(signing, _)) = &mut proof
            && length <= MAX_BODY
        {
            signing.update(&chunk);
        }
    }
    if length > MAX_BODY {
        let sentence = format!("the body is larger than {} MiB", MAX_BODY >> 20);
        return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, sentence));
    }
    Ok(match proof {
        None => false,
        Some(Proof::Shown) => true,
        Some(Proof::Signed(signing, signatures)) => signing.is_one_of(&signatures),
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: char| u8::try_from(c.to_digit(16)?).ok();
    let digits: Vec<u8> = text.chars().map(digit).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks();
    let bytes = pairs.iter().map(|[high, low]| high << 4 | low);
    rest.is_empty().then(|| bytes.collect())
}
