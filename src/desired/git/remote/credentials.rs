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
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::super::fixtures::{answer, serve};
    use super::*;
    use crate::http::{HttpTimeouts, install_tls};

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

    fn app(api: &str) -> GithubApp {
        install_tls();
        GithubApp {
            id: "12".to_owned(),
            installation: "34".to_owned(),
            key: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/github/app.pem"),
            api: HttpUrl::parse(api, UrlPolicy::api(false)).unwrap(),
            token: Mutex::default(),
        }
    }

    fn http() -> Http {
        install_tls();
        Http::new(HttpTimeouts::default()).unwrap()
    }

    #[tokio::test]
    async fn each_refusal_of_github_has_its_error() {
        for (status, wait, expected) in [
            (200, "", "status 200"),
            (401, "", "check the app id, the private key and the clock"),
            (403, "", "the permission Contents: Read-only"),
            (403, "7", "asks for a pause of 7s"),
            (404, "", "check --git-github-installation-id"),
            (422, "", "the permission Contents: Read-only"),
            (429, "", "asks for a pause of 1m"),
            (429, "7", "asks for a pause of 7s"),
            (502, "", "failed with status 502"),
            (201, "", "without a usable token"),
        ] {
            let wait = match wait {
                "" => String::new(),
                seconds => format!("retry-after: {seconds}\r\n"),
            };
            let (url, serving) = serve(vec![answer(status, &wait, "{}")]);
            let refused = app(&url).ask(&http(), "a.b.c").await.unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
            let asked = serving.join().unwrap().remove(0);
            assert!(
                asked.starts_with("POST /a/app/installations/34/access_tokens HTTP/1.1\r\n"),
                "{asked}"
            );
            assert!(asked.contains("authorization: Bearer a.b.c\r\n"), "{asked}");
            let rights = r#"{"permissions":{"contents":"read"}}"#;
            assert!(asked.ends_with(rights), "{asked}");
        }
    }

    /// Whether a request has a token that the app signed now.
    fn is_signed(asked: &str) -> bool {
        let token = asked
            .lines()
            .find_map(|line| line.strip_prefix("authorization: Bearer "))
            .unwrap();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let (_, claims) = text.split_once('.').unwrap();
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&decode(claims)).unwrap();
        let now = Timestamp::now().as_second();
        let seconds = |name: &str| claims[name].as_i64().unwrap() - now;
        let pem = std::fs::read(app("http://127.0.0.1:9").key).unwrap();
        let pair = match PrivateKeyDer::from_pem_slice(&pem).unwrap() {
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            key => RsaKeyPair::from_pkcs8(key.secret_der()),
        };
        let public =
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.unwrap().public().clone());
        claims["iss"] == "12"
            && (-90..=-60).contains(&seconds("iat"))
            && (TOKEN_LIFE - 30..=TOKEN_LIFE).contains(&seconds("exp"))
            && public.verify(text.as_bytes(), &decode(signature)).is_ok()
    }

    #[tokio::test]
    async fn a_token_of_github_is_used_until_it_soon_expires_or_is_refused() {
        let created = |token: &str, left: Duration| {
            let expires = Timestamp::now().checked_add(left).unwrap();
            let body = json!({"token": token, "expires_at": expires}).to_string();
            answer(201, "", &body)
        };
        let (soon, later) = (EARLY - Duration::from_secs(1), EARLY * 2);
        let (url, serving) = serve(vec![
            created("one", soon),
            created("two", later),
            created("three", later),
        ]);
        let credentials = GitCredentials::GithubApp(app(&url));
        let description = "the installation 34 of the GitHub App 12";
        assert_eq!(credentials.describe().as_deref(), Some(description));
        assert!(!credentials.forget());
        let (http, scrubber) = (http(), Scrubber::default());
        for (token, forgotten) in [
            ("one", false),
            ("two", false),
            ("two", true),
            ("three", false),
        ] {
            let deadline = Instant::now() + EARLY;
            let header = credentials.authorization(&http, &scrubber, deadline).await;
            let header = header.unwrap().unwrap();
            assert!(header.is_sensitive());
            let pair = STANDARD.encode(format!("x-access-token:{token}"));
            assert_eq!(header.to_str().unwrap(), format!("Basic {pair}"));
            assert!(!scrubber.scrub(&pair).contains(&pair));
            if forgotten {
                assert!(credentials.forget());
            }
        }
        let asked = serving.join().unwrap();
        assert!(asked.iter().all(|asked| is_signed(asked)), "{asked:?}");
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_named_by_its_file_and_never_forgotten() {
        let none = GitCredentials::None;
        let deadline = Instant::now() + EARLY;
        let (http, scrubber) = (http(), Scrubber::default());
        let sent = none.authorization(&http, &scrubber, deadline).await;
        assert_eq!((sent.unwrap(), none.describe()), (None, None));
        let file = GitCredentials::Token {
            username: "git".to_owned(),
            file: SecretFile::new(Path::new("/run/token")),
        };
        assert_eq!(file.describe().as_deref(), Some("the token in /run/token"));
        assert!(!none.forget() && !file.forget());
    }
}
