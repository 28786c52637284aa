//! Asking a running daemon for its status. No API key ever goes there, and its answer is foreign text.

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

/// The longest quotation of what the other side says, in characters.
const MAX_QUOTE: usize = 300;

/// A daemon that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    route: Arc<Route>,
    url: HttpUrl,
    timeout: Duration,
}

/// What a daemon says.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The time on its clock, to the second, where it says.
    pub(super) time: Option<SystemTime>,
    /// Its status, as it came; `None` where that is the same as before.
    pub(super) body: Option<Vec<u8>>,
}

/// Why there is no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot ask the daemon at {url}: {reason}")]
pub(super) struct AskError {
    url: String,
    reason: String,
}

impl Daemon {
    /// The daemon at an address; each question may take this long.
    ///
    /// # Errors
    /// [`SetupError`] where the address is https and TLS cannot be set up.
    pub(super) fn new(http: &Http, url: HttpUrl, timeout: Duration) -> Result<Self, SetupError> {
        Ok(Self {
            route: http.route(url.as_url())?,
            url,
            timeout,
        })
    }

    /// Asks once. `known` is the tag of the status that is known already, and becomes that of the new one.
    ///
    /// # Errors
    /// [`AskError`], whose text is fit to be shown.
    pub(super) async fn status(&self, known: &mut Option<HeaderValue>) -> Result<Answer, AskError> {
        let late = || {
            Err(format!(
                "it did not answer within {}",
                human_duration(self.timeout)
            ))
        };
        let used = self.route.active_client();
        let asked = tokio::time::timeout(self.timeout, self.ask(&used.client, known))
            .await
            .unwrap_or_else(|_| {
                self.route.replace_client(&used);
                late()
            });
        asked.map_err(|reason| AskError {
            url: printable(&self.url.to_string()),
            reason,
        })
    }

    async fn ask(
        &self,
        client: &Client,
        known: &mut Option<HeaderValue>,
    ) -> Result<Answer, String> {
        let broken = |error: reqwest::Error| {
            let failure = self.route.failure(error);
            if failure.sent {
                failure.to_string()
            } else {
                format!("{failure}; is it running, and is --address where it listens (--listen)?")
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
        // Others at this address may have used up what is let in; the daemon says when there is more.
        while let Some(wait) = pause(&response).filter(|wait| Instant::now() + *wait < patience) {
            sleep(wait).await;
            response = send().await.map_err(broken)?;
        }
        let status = response.status();
        let date = response
            .headers()
            .get(DATE)
            .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if status == StatusCode::NOT_MODIFIED {
            return Ok(Answer {
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
            let said = serde_json::from_slice::<Value>(&body).ok();
            let said = said
                .as_ref()
                .and_then(|said| said.get("error")?.as_str())
                .map(quote);
            return Err(match said {
                Some(said) => format!("{}, {said}", status.as_u16()),
                None => {
                    format!(
                        "it answers with {}, so this is no calry-gitops daemon: check --address",
                        status.as_u16()
                    )
                }
            });
        }
        *known = tag;
        Ok(Answer {
            time: date,
            body: Some(body),
        })
    }
}

/// How long somebody who comes too often is told to wait.
fn pause(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .filter(|_| response.status() == StatusCode::TOO_MANY_REQUESTS)?;
    Some(Duration::from_secs(seconds.to_str().ok()?.parse().ok()?))
}

fn quote(text: &str) -> String {
    ellipsize(&printable(text), MAX_QUOTE)
}
