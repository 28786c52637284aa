//! Posting a document to another service than Calry: a webhook, or a forge that shows the status of a commit.
//!
//! An address may be a secret itself, as a Slack webhook's is: nothing in here ever repeats one, nor what the other side
//! answers with, which may repeat a token.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue,
};
use sha2::Sha256;
use url::Url;

use super::client::bounded;
use super::url::is_loopback;
use super::{Http, retry};
use crate::model::{InvalidSharedSecret, Secret, SharedSecret, is_quoted, spoken, trimmed};

/// The longest secret in a file, in bytes, surrounding white space included.
const MAX_SECRET: usize = 4096;

/// How long a rate limit is waited for that does not say how long it lasts: what GitHub asks for.
const UNSAID_WAIT: Duration = Duration::from_secs(60);

/// How much of an answer is looked at, in bytes.
const MAX_ANSWER: usize = 16 << 10;

/// A file that holds one line of text that nobody may see. It is read anew each time, so that rotation needs no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile(PathBuf);

/// A file holds no usable secret, or an address that cannot be used. It never repeats what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSecret {
    /// The file cannot be read.
    #[error("cannot read the file {}: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        cause: String,
    },
    /// Something else than one line.
    #[error("the file {} must hold one line of printable ASCII, of at most {MAX_SECRET} bytes", .0.display())]
    Form(PathBuf),
    /// The line stands in quotes.
    #[error("what the file {} holds is in quotes, and the quotes are part of the value: remove them", .0.display())]
    Quoted(PathBuf),
    /// The line is no secret that nobody can guess.
    #[error("the file {} holds no secret: {cause}", .file.display())]
    Guessable {
        /// The file.
        file: PathBuf,
        /// What a secret is.
        cause: InvalidSharedSecret,
    },
    /// The line is no address.
    #[error("the file {} holds no usable address: {why}", .file.display())]
    Address {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: InvalidAddress,
    },
}

impl SecretFile {
    /// Names the file; nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it. It may hang where the file system does.
    ///
    /// # Errors
    /// [`UnusableSecret`].
    pub fn read(&self) -> Result<Secret, UnusableSecret> {
        let mut bytes = Vec::new();
        File::open(&self.0)
            .and_then(|file| file.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| UnusableSecret::Unreadable {
                file: self.0.clone(),
                cause: error.to_string(),
            })?;
        let line = std::str::from_utf8(&bytes).map(trimmed).unwrap_or_default();
        if line.is_empty()
            || bytes.len() > MAX_SECRET
            || !line.bytes().all(|b| matches!(b, b' '..=b'~'))
        {
            Err(UnusableSecret::Form(self.0.clone()))
        } else if is_quoted(line) {
            Err(UnusableSecret::Quoted(self.0.clone()))
        } else {
            Ok(Secret::new(line))
        }
    }

    /// Reads it as a secret that others show, or sign with.
    ///
    /// # Errors
    /// [`UnusableSecret`].
    pub fn shared(&self) -> Result<SharedSecret, UnusableSecret> {
        let secret = SharedSecret::new(&self.read()?);
        secret.map_err(|cause| UnusableSecret::Guessable {
            file: self.0.clone(),
            cause,
        })
    }

    /// Reads it as an address.
    ///
    /// # Errors
    /// [`UnusableSecret`].
    pub fn address(&self, insecure_http: bool) -> Result<Address, UnusableSecret> {
        let address = Address::parse(self.read()?.expose(), insecure_http);
        address.map_err(|why| UnusableSecret::Address {
            file: self.0.clone(),
            why,
        })
    }
}

/// Where something is posted to. It has no `Display` and its `Debug` is masked: a path or a query may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

/// A text that cannot be an address. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Not an absolute http or https URL.
    #[error(
        "an address is an absolute URL such as https://hooks.example.com/x, without user and password"
    )]
    Form,
    /// Plain http to another machine.
    #[error(
        "it is plain http, where everybody on the way reads along: use https, or allow it with insecureHttp: true"
    )]
    Clear,
}

impl Address {
    /// Parses an address. Plain http is for this machine alone, unless `insecure_http` lets it through.
    ///
    /// # Errors
    /// [`InvalidAddress`].
    pub fn parse(text: &str, insecure_http: bool) -> Result<Self, InvalidAddress> {
        let url = Url::parse(text.trim()).map_err(|_| InvalidAddress::Form)?;
        let (Some(host), "http" | "https") = (url.host(), url.scheme()) else {
            return Err(InvalidAddress::Form);
        };
        if !url.username().is_empty() || url.password().is_some() {
            Err(InvalidAddress::Form)
        } else if url.scheme() == "http" && !is_loopback(&host) && !insecure_http {
            Err(InvalidAddress::Clear)
        } else {
            Ok(Self(url))
        }
    }

    /// The address below this one; each segment is escaped, slashes in it included.
    #[must_use]
    pub fn below(&self, segments: &[&str]) -> Self {
        let mut url = self.0.clone();
        // A URL with a host has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        Self(url)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(***)")
    }
}

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
    /// The status.
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
        let asked = retry::wish(headers);
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
        address: &Address,
        proof: &Proof,
        accept: &'static str,
        document: Vec<u8>,
        patience: Duration,
    ) -> Result<Reply, String> {
        let route = self.route(&address.0).map_err(|error| error.to_string())?;
        let used = route.current();
        let mut request = used
            .client
            .post(address.0.clone())
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
            let body = bounded(&mut response, MAX_ANSWER)
                .await
                .ok()
                .flatten()
                .unwrap_or_default();
            Ok(Reply::of(status, &headers, body, SystemTime::now()))
        };
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or_else(|_| {
                route.renew(&used);
                Err(format!("no answer within {}", spoken(patience)))
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

    #[test]
    fn an_address_shows_nothing_and_plain_http_is_for_this_machine_alone() {
        let address = Address::parse("https://hooks.example.com/canary", false).unwrap();
        assert_eq!(format!("{address:?}"), "Address(***)");
        assert_eq!(
            Address::parse("http://hooks.example.com", false),
            Err(InvalidAddress::Clear)
        );
        assert!(Address::parse("http://hooks.example.com", true).is_ok());
        assert!(Address::parse("http://127.0.0.1:1/x", false).is_ok());
        for bad in ["", "hooks.example.com", "ftp://x", "https://u:canary@x"] {
            let error = Address::parse(bad, true).unwrap_err();
            assert!(
                error == InvalidAddress::Form && !error.to_string().contains("canary"),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_below_an_address_stays_below_it() {
        let base = Address::parse("https://git.example.com/api/v4/", false).unwrap();
        let below = base.below(&["projects", "a/b c", "x"]);
        assert_eq!(
            below.0.as_str(),
            "https://git.example.com/api/v4/projects/a%2Fb%20c/x"
        );
    }

    #[test]
    fn a_secret_is_one_line_and_no_error_repeats_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = SecretFile::new(dir.path().join("token"));
        assert!(matches!(
            file.read(),
            Err(UnusableSecret::Unreadable { .. })
        ));
        for bad in [
            " \n",
            "canary\ncanary",
            "canäry",
            &"canary".repeat(MAX_SECRET),
        ] {
            std::fs::write(file.path(), bad).unwrap();
            assert_eq!(
                file.read(),
                Err(UnusableSecret::Form(file.path().to_owned()))
            );
        }
        std::fs::write(file.path(), "http://far/canary").unwrap();
        assert!(
            !file
                .address(false)
                .unwrap_err()
                .to_string()
                .contains("canary")
        );
        std::fs::write(file.path(), "\"canary\"\n").unwrap();
        assert_eq!(
            file.read(),
            Err(UnusableSecret::Quoted(file.path().to_owned()))
        );
        std::fs::write(file.path(), "\u{feff}canary\n").unwrap();
        assert_eq!(file.read().unwrap().expose(), "canary");
    }
}
