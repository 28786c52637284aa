//! Fetches the status of a running daemon. Its answer is foreign text.
//!
//! Never: send an API key.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, ETAG, HeaderValue, IF_NONE_MATCH, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::http::{Http, HttpUrl, Route, SetupError, read_bounded};
use crate::model::{ellipsize, human_duration, printable};

/// The largest status, in bytes.
const MAX_STATUS: usize = 8 << 20;

/// The longest quotation of an answer, in characters.
const MAX_QUOTE: usize = 300;

#[derive(Clone, Debug)]
pub(super) struct StatusClient {
    route: Arc<Route>,
    url: HttpUrl,
    timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct StatusAnswer {
    /// The time on the daemon's clock, to the second, if the answer has it.
    pub(super) time: Option<SystemTime>,
    /// The status; `None` if it has not changed.
    pub(super) body: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot get the status of the daemon at {url}: {reason}")]
pub(super) struct StatusError {
    url: String,
    reason: String,
}

impl StatusClient {
    /// # Errors
    /// [`SetupError`] if the address is https and TLS cannot be set up.
    pub(super) fn new(http: &Http, url: HttpUrl, timeout: Duration) -> Result<Self, SetupError> {
        Ok(Self {
            route: http.route(url.as_url())?,
            url,
            timeout,
        })
    }

    /// Fetches the status. `known` is the tag of the last status, and becomes that of the new one.
    ///
    /// # Errors
    /// [`StatusError`], whose text is safe to print.
    pub(super) async fn status(
        &self,
        known: &mut Option<HeaderValue>,
    ) -> Result<StatusAnswer, StatusError> {
        let used = self.route.active_client();
        let answer = tokio::time::timeout(self.timeout, self.fetch(&used.client, known))
            .await
            .unwrap_or_else(|_| {
                self.route.replace_client(&used);
                let timeout = human_duration(self.timeout);
                Err(format!("it did not answer within {timeout}"))
            });
        answer.map_err(|reason| StatusError {
            url: printable(&self.url.to_string()),
            reason,
        })
    }

    async fn fetch(
        &self,
        client: &Client,
        known: &mut Option<HeaderValue>,
    ) -> Result<StatusAnswer, String> {
        let broken = |error: reqwest::Error| {
            let failure = self.route.failure(error);
            if failure.sent {
                failure.to_string()
            } else {
                format!("{failure}; is it running, and is --address the address of its --listen?")
            }
        };
        let send = || {
            let request = client.get(self.url.at("/api/v1/status"));
            match known.as_ref() {
                Some(tag) => request.header(IF_NONE_MATCH, tag).send(),
                None => request.send(),
            }
        };
        let patience = Instant::now() + self.timeout * 3 / 4;
        let mut response = send().await.map_err(broken)?;
        // Other clients of this address may have used up the rate limit; the answer has the time to wait.
        while let Some(wait) =
            retry_after(&response).filter(|wait| Instant::now() + *wait < patience)
        {
            sleep(wait).await;
            response = send().await.map_err(broken)?;
        }
        let status = response.status();
        let date = response
            .headers()
            .get(DATE)
            .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if status == StatusCode::NOT_MODIFIED {
            return Ok(StatusAnswer {
                time: date,
                body: None,
            });
        }
        let tag = response.headers().get(ETAG).cloned();
        let body = read_bounded(&mut response, MAX_STATUS)
            .await
            .map_err(broken)?;
        let body =
            body.ok_or_else(|| format!("its answer is larger than {} MiB", MAX_STATUS >> 20))?;
        if status != StatusCode::OK {
            let document = serde_json::from_slice::<Value>(&body).ok();
            let error = document
                .as_ref()
                .and_then(|document| document.get("error")?.as_str())
                .map(quote);
            return Err(match error {
                Some(error) => format!("{}, {error}", status.as_u16()),
                None => {
                    format!(
                        "status code {}, so this is not a calry-gitops daemon: check --address",
                        status.as_u16()
                    )
                }
            });
        }
        *known = tag;
        Ok(StatusAnswer {
            time: date,
            body: Some(body),
        })
    }
}

/// The time to wait, if the answer refuses a request above the rate limit.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS)?;
    Some(Duration::from_secs(seconds.to_str().ok()?.parse().ok()?))
}

fn quote(text: &str) -> String {
    ellipsize(&printable(text), MAX_QUOTE)
}
