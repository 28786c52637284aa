//! Posting a document to another service than Calry: a webhook, or a forge that shows the status of a commit.
//!
//! An address may be a secret itself, as a Slack webhook's is: nothing in here ever repeats one, nor what the other side
//! answers with, which may repeat a token.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
};
use sha2::Sha256;

use crate::http::{Http, HttpUrl, read_bounded, retry_after};
use crate::model::{Secret, human_duration};

/// How long a rate limit is waited for that does not say how long it lasts: what GitHub asks for.
const UNSAID_WAIT: Duration = Duration::from_secs(60);

/// How much of an answer is looked at, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// By what the other side knows that it is us.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The address says it all.
    None,
    /// `Authorization: Bearer`, as GitHub wants it.
    Bearer(Secret),
    /// `PRIVATE-TOKEN`, as GitLab wants it.
    PrivateToken(Secret),
    /// The headers of Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`, the HMAC-SHA-256 of
    /// `id.timestamp.body`. A secret that begins with `whsec_` goes on in Base64; any other one is the key as it is.
    Signature {
        /// The key.
        secret: Secret,
        /// The same at each attempt to deliver the same thing.
        id: String,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// How long the other side asks to be left alone.
    pub retry_after: Option<Duration>,
    /// The beginning of its body; empty where it is too long. It may repeat secrets: it is for comparing, not for showing.
    pub body: Vec<u8>,
}

impl Reply {
    /// Whether it says that too many requests were sent, and not that this one is wrong. GitHub does so by 403, too.
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
        // The other side counts by its own clock.
        let now = header(DATE.as_str())
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .unwrap_or(now);
        let asked = retry_after(headers);
        let limited = matches!(status, 403 | 429);
        // GitHub's primary limit: no request is left until a time, in seconds since 1970.
        let is_used_up = limited && header("x-ratelimit-remaining") == Some("0");
        let reset = || {
            let reset = Duration::from_secs(header("x-ratelimit-reset")?.parse().ok()?);
            Some(
                reset.saturating_sub(
                    now.duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap_or_default(),
                ),
            )
        };
        // Its secondary limit may say so in the text alone, and then asks for a minute.
        let is_said = || {
            limited
                && String::from_utf8_lossy(&body)
                    .to_ascii_lowercase()
                    .contains("rate limit")
        };
        let retry_after = match asked {
            Some(wish) => Some(wish),
            None if is_used_up => Some(reset().unwrap_or(UNSAID_WAIT)),
            None => is_said().then_some(UNSAID_WAIT),
        };
        Self {
            status,
            retry_after,
            body,
        }
    }
}

impl Http {
    /// Posts a JSON document, once, within `patience`. Redirects are not followed.
    ///
    /// # Errors
    /// Why there is no answer, as a part of a sentence that is fit to be shown.
    pub async fn post(
        &self,
        url: &HttpUrl,
        proof: &Proof,
        accept: &'static str,
        document: Vec<u8>,
        patience: Duration,
    ) -> Result<Reply, String> {
        let route = self
            .route(url.as_url())
            .map_err(|error| error.to_string())?;
        let used = route.active_client();
        let mut request = used
            .client
            .post(url.as_url().clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, HeaderValue::from_static(accept));
        for (name, value) in proof.headers(&document, SystemTime::now())? {
            request = request.header(name, value);
        }
        let exchange = async {
            let broken = |error| route.failure(error).to_string();
            let mut response = request.body(document).send().await.map_err(broken)?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            // What cannot be read of the body takes nothing from the status.
            let body = read_bounded(&mut response, MAX_ANSWER)
                .await
                .ok()
                .flatten()
                .unwrap_or_default();
            Ok(Reply::of(status, &headers, body, SystemTime::now()))
        };
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or_else(|_| {
                route.replace_client(&used);
                Err(format!("no answer within {}", human_duration(patience)))
            })
    }
}

impl Proof {
    fn headers(
        &self,
        document: &[u8],
        now: SystemTime,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let header = |name: &'static str,
                      value: &str,
                      sensitive|
         -> Result<(HeaderName, HeaderValue), String> {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| format!("{name} cannot be sent"))?;
            value.set_sensitive(sensitive);
            Ok((HeaderName::from_static(name), value))
        };
        match self {
            Self::None => Ok(Vec::new()),
            Self::Bearer(token) => {
                let (_, value) = header("bearer", &format!("Bearer {}", token.expose()), true)?;
                Ok(vec![(AUTHORIZATION, value)])
            }
            Self::PrivateToken(token) => Ok(vec![header("private-token", token.expose(), true)?]),
            Self::Signature { secret, id } => {
                let seconds = now
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs()
                    .to_string();
                let signature = signature(secret, id, &seconds, document)?;
                Ok(vec![
                    header("webhook-id", id, false)?,
                    header("webhook-timestamp", &seconds, false)?,
                    header("webhook-signature", &signature, false)?,
                ])
            }
        }
    }
}

fn signature(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    document: &[u8],
) -> Result<String, String> {
    let key = match secret.expose().strip_prefix("whsec_") {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| "the secret goes on after whsec_, but not in Base64")?,
        None => secret.expose().as_bytes().to_vec(),
    };
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&key).map_err(|_| "the secret cannot be a key of HMAC")?;
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", document] {
        mac.update(part);
    }
    Ok(format!(
        "v1,{}",
        STANDARD.encode(mac.finalize().into_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // The example of the specification.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = signature(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signed.as_deref(),
            Ok("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
        assert!(signature(&Secret::new("whsec_?"), "a", "1", b"").is_err());
    }

    #[test]
    fn a_rate_limit_is_known_from_a_refusal_and_says_until_when() {
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
                reply.retry_after.map(|wish| wish.as_secs()),
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
        // An hour off: the time of the answer counts.
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
