//! A public document at a URL, such as a snapshot, read with the same retries as Calry.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::error::{ErrorCause, ErrorResponse, TimeLimit};
use super::retry::{Attempts, UnreachableHost};
use super::{Error, Operation};
use crate::http::{ActiveClient, Http, HttpUrl, RequestFailure, Route, read_bounded, retry_after};

/// Reads the document at `url`, of at most `max_size` bytes. The request carries no credentials.
pub(super) async fn fetch_document(
    http: &Http,
    url: &HttpUrl,
    deadline: Instant,
    max_size: usize,
) -> Result<Vec<u8>, Error> {
    let error = |cause| Error::new(Operation::Snapshot, cause);
    let route = http.route(url.as_url()).map_err(|setup| {
        error(ErrorCause::Broken {
            api: url.to_string(),
            failure: RequestFailure::from_setup(&setup),
        })
    })?;
    let (warned, unreachable) = (AtomicBool::new(false), UnreachableHost::default());
    let mut attempts = Attempts::new(deadline, &warned, &());
    loop {
        let (end, limit) = TimeLimit::earliest(deadline, http.timeouts.request, Duration::MAX);
        let used = route.active_client();
        let answer = timeout_at(end, fetch_once(&used, &route, url, max_size))
            .await
            .unwrap_or_else(|_| {
                route.replace_client(&used);
                Err(ErrorCause::TimedOut { limit })
            });
        match unreachable.check(answer.map_err(error)) {
            Ok(body) => return Ok(body),
            Err(error) => sleep(attempts.next(error)?).await,
        }
    }
}

async fn fetch_once(
    used: &ActiveClient,
    route: &Route,
    url: &HttpUrl,
    max_size: usize,
) -> Result<Vec<u8>, ErrorCause> {
    let broken = |error| ErrorCause::Broken {
        api: url.to_string(),
        failure: route.failure(error),
    };
    let request = used.client.get(url.as_url().clone());
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status();
    if !status.is_success() {
        return Err(ErrorCause::Status(ErrorResponse {
            status: status.as_u16(),
            retry_after: retry_after(response.headers()),
            ..ErrorResponse::default()
        }));
    }
    read_bounded(&mut response, max_size)
        .await
        .map_err(broken)?
        .ok_or(ErrorCause::TooLarge { limit: max_size })
}
