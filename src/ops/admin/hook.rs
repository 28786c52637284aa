//! Hooks: a git host tells of a push, so that a pass runs at once. A hook is known by a secret of its own.
//!
//! A body is hashed as it comes, and neither kept nor read: nothing that it says chooses anything.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;

use super::ask::{Asking, Refused, asked, done, read, single};
use super::limit::Proved;
use crate::daemon::Handle;
use crate::daemon::publisher::now;
use crate::http::SecretFile;
use crate::model::{SharedSecret, Signing};
use crate::report::status::Trigger;

/// The largest body, in bytes: a push of some thousand commits. A larger one is found by the interval.
const MAX_BODY: usize = 4 << 20;

/// A larger body is read to here, so that its sender gets to see the answer.
const MAX_DRAINED: usize = 32 << 20;

/// How old, or new, a signature with a time may be, in seconds.
const AGE: u64 = 300;

/// The secrets of the hooks that are open.
#[derive(Debug, Default)]
pub struct Hooks {
    /// `/hooks/github`: the hook's secret.
    pub github: Option<SecretFile>,
    /// `/hooks/gitlab`: the hook's signing token (`whsec_…`), or its secret token.
    pub gitlab: Option<SecretFile>,
    /// `/hooks/generic`: what the body is signed with.
    pub generic: Option<SecretFile>,
}

/// Who tells.
#[derive(Clone, Copy)]
enum Teller {
    Github,
    Gitlab,
    Generic,
}

/// What he tells of.
enum Event {
    Push,
    Ping,
    Other,
}

/// What shows that a request is from whom it seems to be.
enum Proof {
    /// It showed the secret itself.
    Shown,
    /// One of these must be the signature of the body, and what goes before it.
    Signed(Signing, Vec<Vec<u8>>),
}

pub(super) fn router() -> Router<Arc<Asking>> {
    let hook = |teller| post(move |state, request| hear(teller, state, request));
    Router::new()
        .route("/hooks/github", hook(Teller::Github))
        .route("/hooks/gitlab", hook(Teller::Gitlab))
        .route("/hooks/generic", hook(Teller::Generic))
}

async fn hear(
    teller: Teller,
    State(asking): State<Arc<Asking>>,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let Hooks {
        github,
        gitlab,
        generic,
    } = &asking.access.hooks;
    let (file, flag) = match teller {
        Teller::Github => (github, "--github-hook-secret-file"),
        Teller::Gitlab => (gitlab, "--gitlab-hook-secret-file"),
        Teller::Generic => (generic, "--generic-hook-secret-file"),
    };
    let Some(file) = file else {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            format!("this hook is closed; {flag} opens it"),
        ));
    };
    let secret = read(file).await?;
    let proof = proof(teller, &secret, &head.headers);
    if !holds(proof, body).await? {
        let sentence = format!(
            "it is not signed with the secret of {flag}, or too long ago by this machine's clock"
        );
        return Err(Refused(StatusCode::FORBIDDEN, sentence));
    }
    let mut response = match event(teller, &head.headers) {
        // A standby looks, too: git hosts give up on who refuses them.
        Event::Push => asked(
            &asking.loops.iter().collect::<Vec<&Handle>>(),
            Trigger::Hook,
            "reconcile",
            "a pass",
        ),
        Event::Ping => done(
            StatusCode::NO_CONTENT,
            None,
            "nothing but whether it is there".to_owned(),
        ),
        Event::Other => done(
            StatusCode::NO_CONTENT,
            None,
            "nothing: this is no push".to_owned(),
        ),
    };
    response.extensions_mut().insert(Proved);
    Ok(response)
}

fn event(teller: Teller, headers: &HeaderMap) -> Event {
    match teller {
        Teller::Generic => Event::Push,
        Teller::Github => match single(headers, "x-github-event") {
            Some("push") => Event::Push,
            Some("ping") => Event::Ping,
            _ => Event::Other,
        },
        Teller::Gitlab => match single(headers, "x-gitlab-event") {
            Some("Push Hook" | "Tag Push Hook") => Event::Push,
            _ => Event::Other,
        },
    }
}

fn proof(teller: Teller, secret: &SharedSecret, headers: &HeaderMap) -> Option<Proof> {
    let of_body = |name| {
        let signature = unhex(single(headers, name)?.strip_prefix("sha256=")?)?;
        Some(Proof::Signed(secret.sign()?, vec![signature]))
    };
    match teller {
        Teller::Github => of_body("x-hub-signature-256"),
        Teller::Generic => of_body("x-signature-256"),
        // A hook that has a signing token is not believed without a signature.
        Teller::Gitlab if secret.is_standard() => standard(secret, headers),
        Teller::Gitlab => secret
            .is(single(headers, "x-gitlab-token")?.as_bytes())
            .then_some(Proof::Shown),
    }
}

/// The signature of Standard Webhooks: of the message's id, its time and its body.
fn standard(secret: &SharedSecret, headers: &HeaderMap) -> Option<Proof> {
    let (id, time) = (
        single(headers, "webhook-id")?,
        single(headers, "webhook-timestamp")?,
    );
    if now().as_second().abs_diff(time.parse().ok()?) > AGE {
        return None;
    }
    let signatures = single(headers, "webhook-signature")?.split(' ').take(8);
    let signatures = signatures
        .filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok())
        .collect();
    let mut signing = secret.sign_standard()?;
    signing.update(format!("{id}.{time}.").as_bytes());
    Some(Proof::Signed(signing, signatures))
}

/// Whether a proof holds for a body. The body is read in any case, so that its sender gets to see the answer.
async fn holds(mut proof: Option<Proof>, body: Body) -> Result<bool, Refused> {
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
    let digits = text
        .bytes()
        .map(|digit| char::from(digit).to_digit(16))
        .collect::<Option<Vec<u32>>>()?;
    let pairs = digits.chunks_exact(2);
    let whole = pairs.remainder().is_empty();
    whole.then(|| {
        pairs
            .filter_map(|pair| {
                u8::try_from(pair.iter().fold(0, |byte, digit| byte << 4 | digit)).ok()
            })
            .collect()
    })
}
