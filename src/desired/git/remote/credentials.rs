//! The credentials for a git server: a token, or a GitHub App. Files are read again at each fetch.
//!
//! A GitHub App signs a short-lived JSON Web Token with its private key and exchanges it for a token of one installation
//! ("Authenticating as a GitHub App installation" in GitHub's documentation). The token is limited to reading content.
//!
//! Never: show a token or a key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::error::FetchError;
use crate::http::{Http, HttpUrl, SecretFile, UrlPolicy, read_bounded, retry_after};
use crate::model::{Scrubber, Secret, read_at_most};

/// The largest private key, in bytes.
const MAX_KEY: u64 = 64 << 10;
/// The largest answer with a token, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// The life of a JSON Web Token, in seconds. GitHub allows ten minutes.
const TOKEN_LIFE: i64 = 540;
/// A token is renewed this long before it expires.
const EARLY: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub enum GitCredentials {
    None,
    Token { username: String, file: SecretFile },
    GithubApp(GithubApp),
}

/// The installation of a GitHub App.
#[derive(Debug)]
pub struct GithubApp {
    id: String,
    installation: String,
    key: PathBuf,
    api: HttpUrl,
    token: Mutex<Option<InstallationToken>>,
}

#[derive(Clone, Debug)]
struct InstallationToken {
    token: Secret,
    expires: Timestamp,
}

/// The answer of GitHub.
#[derive(Deserialize)]
struct Created {
    token: String,
    expires_at: Timestamp,
}

/// The user name that a git host expects beside a token.
#[must_use]
pub fn default_username(url: &HttpUrl) -> &'static str {
    let host = url.as_url().host_str().unwrap_or_default();
    let is = |name: &str| host.split('.').any(|label| label == name);
    if is("github") || is("ghe") {
        "x-access-token"
    } else if is("gitlab") {
        "oauth2"
    } else if is("bitbucket") {
        "x-token-auth"
    } else {
        "git"
    }
}

impl GitCredentials {
    /// The value of the header `Authorization`, before `deadline`. The scrubber learns what is sent.
    pub(super) async fn authorization(
        &self,
        http: &Http,
        scrubber: &Scrubber,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, FetchError> {
        let (username, token) = match self {
            Self::None => return Ok(None),
            Self::Token { username, file } => (username.as_str(), file.read()?),
            Self::GithubApp(app) => ("x-access-token", app.token(http, scrubber, deadline).await?),
        };
        let pair = STANDARD.encode(format!("{username}:{}", token.expose()));
        scrubber.learn(&token);
        scrubber.learn(&Secret::new(pair.clone()));
        Ok(Some(sensitive(&format!("Basic {pair}"))?))
    }

    /// What distinguishes two credentials. It contains no secret.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Token { username, file } => format!("{username} {}", file.path().display()),
            Self::GithubApp(app) => {
                format!("{} {} {}", app.id, app.installation, app.key.display())
            }
        }
    }

    /// What a user renews if the server refuses the credentials.
    pub(super) fn describe(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Token { file, .. } => Some(format!("the token in {}", file.path().display())),
            Self::GithubApp(app) => Some(format!(
                "the installation {} of the GitHub App {}",
                app.installation, app.id
            )),
        }
    }

    /// Forgets a token that the server refused. Returns whether the next one may be another one.
    pub(super) fn forget(&self) -> bool {
        match self {
            Self::None | Self::Token { .. } => false,
            Self::GithubApp(app) => app.token.lock().take().is_some(),
        }
    }
}

fn sensitive(value: &str) -> Result<HeaderValue, FetchError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| FetchError::Credentials("the credentials cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl GithubApp {
    /// The API is that of the repository's host: `api.github.com`, `api.` before a host of `ghe.com` (data residency), or
    /// `/api/v3` of GitHub Enterprise Server.
    pub fn new(
        repository: &HttpUrl,
        id: String,
        installation: String,
        key: PathBuf,
    ) -> Result<Self, String> {
        let mut api = repository.as_url().clone();
        let host = api.host_str().unwrap_or_default().to_owned();
        if host == "github.com" || host.ends_with(".ghe.com") {
            api.set_host(Some(&format!("api.{host}")))
                .map_err(|error| error.to_string())?;
            api.set_path("/");
        } else {
            api.set_path("/api/v3");
        }
        Ok(Self {
            id,
            installation,
            key,
            api: HttpUrl::parse(api.as_str(), UrlPolicy::api(true))
                .map_err(|error| error.to_string())?,
            token: Mutex::default(),
        })
    }

    async fn token(
        &self,
        http: &Http,
        scrubber: &Scrubber,
        deadline: Instant,
    ) -> Result<Secret, FetchError> {
        let now = Timestamp::now();
        let known = self.token.lock().clone();
        if let Some(known) = known
            && now
                .checked_add(EARLY)
                .is_ok_and(|soon| soon < known.expires)
        {
            return Ok(known.token);
        }
        let signed = sign_token(&self.id, &self.key, now)?;
        scrubber.learn(&Secret::new(signed.clone()));
        let asking = self.ask(http, &signed);
        let token = timeout_at(deadline, asking)
            .await
            .map_err(|_| FetchError::TimedOut("the API of GitHub is silent".to_owned()))??;
        *self.token.lock() = Some(token.clone());
        Ok(token.token)
    }

    async fn ask(&self, http: &Http, signed: &str) -> Result<InstallationToken, FetchError> {
        let url = self
            .api
            .below(&["app", "installations", &self.installation, "access_tokens"]);
        let unreachable = |error: String| {
            FetchError::Unreachable(format!("the API of GitHub at {}: {error}", self.api))
        };
        let route = http
            .route(url.as_url())
            .map_err(|error| unreachable(error.to_string()))?;
        let body = json!({"permissions": {"contents": "read"}}).to_string();
        let mut response = route
            .active_client()
            .client
            .post(url.as_url().clone())
            .header(AUTHORIZATION, sensitive(&format!("Bearer {signed}"))?)
            .header(ACCEPT, "application/vnd.github+json")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .map_err(|error| unreachable(route.failure(error).to_string()))?;
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers()));
        let refused = |why: &str| {
            Err(FetchError::Credentials(format!(
                "the GitHub App {}: {why}",
                self.id
            )))
        };
        match (status, wait) {
            (201, _) => {}
            (429, wait) => {
                return Err(FetchError::RateLimited(
                    wait.unwrap_or(Duration::from_secs(60)),
                ));
            }
            (403, Some(wait)) => return Err(FetchError::RateLimited(wait)),
            (401, _) => {
                return refused(
                    "GitHub refuses its signature (401); help: check the app id, the private key and the clock of this machine",
                );
            }
            (404, _) => {
                return refused(
                    "it has no such installation (404); help: check --git-github-installation-id",
                );
            }
            (403 | 422, _) => {
                return refused(
                    "it may not read the content of repositories; help: give it the permission Contents: Read-only",
                );
            }
            (500.., retry_after) => {
                return Err(FetchError::Server {
                    status,
                    retry_after,
                });
            }
            _ => return refused(&format!("GitHub answers with status {status}")),
        }
        let body = read_bounded(&mut response, MAX_ANSWER)
            .await
            .map_err(|error| unreachable(route.failure(error).to_string()))?;
        let created = body.and_then(|body| serde_json::from_slice::<Created>(&body).ok());
        let created = created.ok_or_else(|| {
            FetchError::Credentials("the API of GitHub answers without a usable token".to_owned())
        })?;
        Ok(InstallationToken {
            token: Secret::new(created.token),
            expires: created.expires_at,
        })
    }
}

/// A JSON Web Token (RFC 7519, RS256) of an app. It is valid a minute earlier, for clocks that differ.
fn sign_token(app: &str, key: &Path, now: Timestamp) -> Result<String, FetchError> {
    let failed = |why: &str| {
        FetchError::Credentials(format!(
            "the private key in {} {why}; help: use the PEM file that GitHub made for the app",
            key.display()
        ))
    };
    let pem = std::fs::File::open(key)
        .and_then(|file| read_at_most(file, MAX_KEY))
        .map_err(|error| failed(&format!("cannot be read: {error}")))?
        .ok_or_else(|| failed("is too large"))?;
    let pair = match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        Ok(_) | Err(_) => return Err(failed("is not an RSA key in PEM form")),
    };
    let pair = pair.map_err(|_| failed("is not a valid RSA key"))?;
    let now = now.as_second();
    let claims = json!({"iat": now - 60, "exp": now + TOKEN_LIFE, "iss": app}).to_string();
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        text.as_bytes(),
        &mut signature,
    )
    .map_err(|_| failed("cannot sign"))?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_and_the_user_name_are_those_of_the_host() {
        for (url, api, username) in [
            (
                "https://github.com/a/b.git",
                "https://api.github.com",
                "x-access-token",
            ),
            (
                "https://acme.ghe.com/a/b.git",
                "https://api.acme.ghe.com",
                "x-access-token",
            ),
            (
                "https://git.acme.test/a/b",
                "https://git.acme.test/api/v3",
                "git",
            ),
            (
                "https://gitlab.com/a/b.git",
                "https://gitlab.com/api/v3",
                "oauth2",
            ),
            (
                "https://bitbucket.org/a/b",
                "https://bitbucket.org/api/v3",
                "x-token-auth",
            ),
            (
                "https://notgithub.com/a/b",
                "https://notgithub.com/api/v3",
                "git",
            ),
        ] {
            let url = HttpUrl::parse(url, UrlPolicy::api(false)).unwrap();
            let app = GithubApp::new(&url, "1".to_owned(), "2".to_owned(), PathBuf::new());
            assert_eq!(app.unwrap().api.to_string(), api);
            assert_eq!(default_username(&url), username, "{url}");
        }
    }
}
