//! What the API and the hooks share: the loops, refusals, answers and secrets.

use axum::http::header::{HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::hook::Receiver;
use super::{Access, Said, answer, error};
use crate::daemon::Handle;
use crate::http::SecretFile;
use crate::model::SharedSecret;
use crate::report::status::Trigger;

pub(super) struct Shared {
    pub(super) loops: Vec<Handle>,
    pub(super) access: Access,
    pub(super) receiver: Receiver,
}

/// The refusal of a request: the status and the reason.
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

/// An answer to an accepted request. `said` is for the log.
pub(super) fn accept(status: StatusCode, body: Option<&Value>, said: String) -> Response {
    let mut response = body.map_or_else(|| status.into_response(), |body| answer(status, body));
    response.extensions_mut().insert(Said(said));
    response
}

/// The value of a header that occurs exactly once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

/// Reads a secret file. Each request reads it again, so a rotated secret is used at once.
pub(super) async fn read_secret(file: &SecretFile) -> Result<SharedSecret, Refused> {
    let file = file.clone();
    // The file system may hang.
    let why = match tokio::task::spawn_blocking(move || file.shared()).await {
        Ok(Ok(secret)) => return Ok(secret),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "reading it panicked".to_owned(),
    };
    tracing::error!("{why}; requests that need this secret are refused until it can be read");
    let sentence = "the daemon cannot read the secret for this request; see its log";
    Err(Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        sentence.to_owned(),
    ))
}

pub(super) fn trigger(loops: &[&Handle], cause: Trigger) -> Response {
    for one in loops {
        one.request(cause);
    }
    let labels: Vec<String> = loops.iter().map(|one| one.publisher().label()).collect();
    let of = match labels.as_slice() {
        [one] => format!(" of {one}"),
        all => format!(" of {} workspaces", all.len()),
    };
    accept(
        StatusCode::ACCEPTED,
        Some(&json!({"asked": "reconcile", "workspaces": labels})),
        format!("a reconciliation{of}"),
    )
}
