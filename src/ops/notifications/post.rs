//! Posts documents to webhooks and to git hosts.
//!
//! Never: show a URL, which may be a secret as with Slack, or the body of an answer, which may repeat a token.

use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::http::{Http, HttpUrl, date, read_bounded, retry_after};
use crate::model::{Secret, human_duration, sign_webhook};

/// The pause after a rate limit without a duration, as GitHub's documentation asks for.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 10;

#[derive(Clone, Debug)]
pub enum Credentials {
    /// The URL itself is the credential, or none is needed.
    None,
    /// `Authorization: Bearer`, for GitHub.
    Bearer(Secret),
    /// `PRIVATE-TOKEN`, for GitLab.
    PrivateToken(Secret),
    /// The headers of Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`.
    Signature {
        secret: Secret,
        /// The same for each attempt to deliver one notification.
        id: String,
    },
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// The pause that the server asks for.
    pub retry_after: Option<Duration>,
    /// Empty if it is too long. It may repeat secrets, so it may be compared but not shown.
    pub body: Vec<u8>,
}

impl Reply {
    /// Whether the request exceeded a rate limit. GitHub reports that with 403 as well.
    #[must_use]
    pub const fn is_rate_limited(&self) -> bool {
        matches!(self.status, 403 | 429) && self.retry_after.is_some()
    }

    fn of(status: u16, headers: &HeaderMap, body: Vec<u8>, now: SystemTime) -> Self {
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::trim)
        };
        // The reset time is in terms of the server's clock.
        let now = date(headers).unwrap_or(now);
        let limited = matches!(status, 403 | 429);
        // GitHub's primary limit: no request is left until `x-ratelimit-reset`, in seconds since 1970.
        let is_used_up = limited && header("x-ratelimit-remaining") == Some("0");
        let reset = || {
            let reset = Duration::from_secs(header("x-ratelimit-reset")?.parse().ok()?);
            let now = now.duration_since(SystemTime::UNIX_EPOCH);
            Some(reset.saturating_sub(now.unwrap_or_default()))
        };
        // GitHub's secondary limit may be mentioned in the body only.
        let is_in_body = || {
            limited
                && String::from_utf8_lossy(&body)
                    .to_ascii_lowercase()
                    .contains("rate limit")
        };
        let retry_after = match retry_after(headers) {
            Some(wait) => Some(wait),
            None if is_used_up => Some(reset().unwrap_or(DEFAULT_WAIT)),
            None => is_in_body().then_some(DEFAULT_WAIT),
        };
        Self {
            status,
            retry_after,
            body,
        }
    }
}

/// Posts a JSON document, once, within `timeout`. Redirects are not followed.
///
/// # Errors
/// Why there is no answer, as a part of a sentence that is safe to print.
pub async fn post_document(
    http: &Http,
    url: &HttpUrl,
    credentials: &Credentials,
    accept: &'static str,
    document: Vec<u8>,
    timeout: Duration,
) -> Result<Reply, String> {
    let route = http
        .route(url.as_url())
        .map_err(|error| error.to_string())?;
    let used = route.active_client();
    let mut request = used
        .client
        .post(url.as_url().clone())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, HeaderValue::from_static(accept));
    for (name, value) in credentials.headers(&document, SystemTime::now())? {
        request = request.header(name, value);
    }
    let exchange = async {
        let broken = |error| route.failure(error).to_string();
        let mut response = request.body(document).send().await.map_err(broken)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // The status counts even if the body cannot be read.
        let body = read_bounded(&mut response, MAX_ANSWER)
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        Ok(Reply::of(status, &headers, body, SystemTime::now()))
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| {
            route.replace_client(&used);
            Err(format!("no answer within {}", human_duration(timeout)))
        })
}

impl Credentials {
    fn headers(
        &self,
        document: &[u8],
        now: SystemTime,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let header = |name: HeaderName, value: &str, sensitive| {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| format!("{name} cannot be sent"))?;
            value.set_sensitive(sensitive);
            Ok::<_, String>((name, value))
        };
        let named = HeaderName::from_static;
        match self {
            Self::None => Ok(Vec::new()),
            Self::Bearer(token) => {
                let value = format!("Bearer {}", token.expose());
                Ok(vec![header(AUTHORIZATION, &value, true)?])
            }
            Self::PrivateToken(token) => {
                Ok(vec![header(named("private-token"), token.expose(), true)?])
            }
            Self::Signature { secret, id } => {
                let timestamp = now
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_err(|_| "the clock of this machine is before 1970")?
                    .as_secs()
                    .to_string();
                let signature = sign_webhook(secret, id, &timestamp, document)?;
                Ok(vec![
                    header(named("webhook-id"), id, false)?,
                    header(named("webhook-timestamp"), &timestamp, false)?,
                    header(named("webhook-signature"), &signature, false)?,
                ])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_is_distinguished_from_other_refusals_with_its_pause() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let reply = |status: u16, headers: &[(&'static str, &str)], body: &str| {
            let header = |(name, value): &(&'static str, &str)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            };
            let reply = Reply::of(
                status,
                &headers.iter().map(header).collect(),
                body.into(),
                now,
            );
            (
                reply.is_rate_limited(),
                reply.retry_after.map(|wait| wait.as_secs()),
            )
        };
        let (none, reset) = (
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1000090"),
        );
        assert_eq!(reply(403, &[none, reset], ""), (true, Some(90)));
        assert_eq!(reply(429, &[none, reset], ""), (true, Some(90)));
        assert_eq!(
            reply(403, &[none, reset, ("retry-after", "7")], ""),
            (true, Some(7))
        );
        assert_eq!(reply(403, &[none], ""), (true, Some(60)));
        assert_eq!(
            reply(403, &[none, ("x-ratelimit-reset", "999")], ""),
            (true, Some(0))
        );
        // Our clock is an hour off: the time of the answer counts.
        let date = ("date", "Mon, 12 Jan 1970 14:46:50 GMT");
        assert_eq!(
            reply(403, &[none, ("x-ratelimit-reset", "1003690"), date], ""),
            (true, Some(80))
        );
        assert_eq!(
            reply(403, &[], "You have exceeded a secondary rate limit."),
            (true, Some(60))
        );
        assert_eq!(
            reply(
                403,
                &[("x-ratelimit-remaining", "4999"), reset],
                "Resource not accessible"
            ),
            (false, None)
        );
        assert_eq!(reply(403, &[], ""), (false, None));
        assert_eq!(reply(401, &[none, reset], ""), (false, None));
        assert_eq!(reply(201, &[none, reset], ""), (false, None));
    }
}
