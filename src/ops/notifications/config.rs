//! The targets of notifications, parsed from the configuration file. It names secret files and never reads them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{HttpUrl, InvalidUrl, SecretFile, UrlPolicy};

/// The longest name of a target or a context, in bytes.
const MAX_NAME: usize = 64;

// Deserialize it from an entry of the list `notifications` in the configuration file.
/// A target of notifications.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "TargetConfig")]
#[schemars(with = "TargetConfig")]
pub struct Target {
    /// Its name in log and metrics.
    pub name: String,
    pub channel: Channel,
    /// `None` for all.
    pub events: Option<Vec<EventKind>>,
    /// Names of workspaces in the configuration file; empty for all.
    pub workspaces: BTreeSet<String>,
    pub thresholds: Thresholds,
    pub(super) insecure_http: bool,
}

/// When failures and holds are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The number of consecutive failed reconciliations before a report.
    pub failed_passes: u32,
    /// The number of days before its end when a hold is reported.
    pub hold_days: u32,
    /// The number of days before its end when an API key is reported.
    pub key_days: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            failed_passes: 3,
            hold_days: 3,
            key_days: 14,
        }
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// Calry was changed outside of git.
    Drift,
    /// Changes from git were applied.
    Applied,
    /// A reconciliation or a provider failed several times in a row.
    Failed,
    /// A reported failure is over.
    Recovered,
    /// A plan was refused, or the checked-out commit is not trusted.
    Refused,
    /// Calry accepted an update but kept other values.
    NotConverged,
    /// A hold ends soon.
    HoldExpiring,
    /// The API key ends soon, or has ended.
    KeyExpiring,
    /// A provider, group or field appeared in Calry or vanished from it.
    CatalogueChanged,
}

#[derive(Clone, Debug)]
pub enum Channel {
    /// An incoming webhook of Slack or a compatible service.
    Slack { url: SecretFile },
    /// A webhook that receives JSON documents.
    Webhook {
        url: WebhookUrl,
        /// The key that signs the documents.
        secret: Option<SecretFile>,
    },
    /// The status of the commit at a git host.
    Commit(Forge),
}

#[derive(Clone, Debug)]
pub enum WebhookUrl {
    Public(HttpUrl),
    Secret(SecretFile),
}

/// A repository at a git host.
#[derive(Clone, Debug)]
pub struct Forge {
    pub kind: ForgeKind,
    /// The repository `owner/name`, or the project's path or number.
    pub repository: String,
    /// A token that may set commit statuses.
    pub token: SecretFile,
    /// The name of the status.
    pub context: String,
    /// The link of the status.
    pub target_url: Option<String>,
    pub(super) api: HttpUrl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgeKind {
    /// GitHub, GitHub Enterprise, and compatible hosts (Gitea, Forgejo).
    GitHub,
    GitLab,
}

impl Channel {
    /// The name of the kind in the configuration file and in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Slack { .. } => "slack",
            Self::Webhook { .. } => "webhook",
            Self::Commit(Forge {
                kind: ForgeKind::GitHub,
                ..
            }) => "github",
            Self::Commit(Forge {
                kind: ForgeKind::GitLab,
                ..
            }) => "gitlab",
        }
    }
}

/// A target is invalid. The error is a sentence and never quotes a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error("`name` must consist of at most {MAX_NAME} letters, digits, `-`, `_` and `.`")]
    Name,
    #[error("a target must have exactly one of `slack`, `webhook`, `github` and `gitlab`")]
    Channel,
    #[error("a webhook must have either `url` or, for a secret URL, `urlFile`")]
    NoUrl,
    #[error("`{0}` {1}")]
    InvalidUrl(&'static str, InvalidUrl),
    #[error("`repository` must be owner/name")]
    Repository,
    #[error("`project` must be a path, such as group/name, or a number")]
    Project,
    #[error("`context` must be one line of at most {MAX_NAME} characters")]
    Context,
    #[error("`events` is not allowed for {0}: every commit gets its status")]
    Events(&'static str),
    #[error("`failedPasses` must be at least 1, and `holdDays` and `keyDays` at most 365")]
    Number,
}

impl Target {
    /// Resolves relative paths of its files against the directory of the configuration file.
    #[must_use]
    pub fn relative_to(mut self, directory: &Path) -> Self {
        let resolve = |file: &mut SecretFile| *file = SecretFile::new(directory.join(file.path()));
        match &mut self.channel {
            Channel::Slack { url } => resolve(url),
            Channel::Webhook { url, secret } => {
                if let WebhookUrl::Secret(url) = url {
                    resolve(url);
                }
                secret.iter_mut().for_each(resolve);
            }
            Channel::Commit(forge) => resolve(&mut forge.token),
        }
        self
    }

    /// Links a commit's status to the status page, unless the target has a link of its own.
    pub fn link_to(&mut self, page: &str) {
        if let Channel::Commit(forge) = &mut self.channel {
            forge.target_url.get_or_insert_with(|| page.to_owned());
        }
    }

    /// Whether the target gets events of a workspace, by its name in the configuration file.
    #[must_use]
    pub fn is_about(&self, workspace: Option<&str>) -> bool {
        self.workspaces.is_empty() || workspace.is_some_and(|name| self.workspaces.contains(name))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
#[schemars(extend("oneOf" = [{"required": ["slack"]}, {"required": ["webhook"]}, {"required": ["github"]}, {"required": ["gitlab"]}]))]
struct TargetConfig {
    /// Its name in log and metrics.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    name: String,
    /// An incoming webhook of Slack or a compatible service (Mattermost, Rocket.Chat).
    slack: Option<SlackConfig>,
    /// A webhook that receives a JSON document.
    webhook: Option<WebhookConfig>,
    /// The status of the commit at GitHub or a compatible host (Gitea, Forgejo).
    github: Option<GitHubConfig>,
    /// The status of the commit at GitLab.
    gitlab: Option<GitLabConfig>,
    /// The events to send; all by default.
    events: Option<Vec<EventKind>>,
    /// The workspaces to send events of; all by default.
    #[serde(default)]
    workspaces: Vec<String>,
    /// Report a failure after this number of consecutive failed reconciliations.
    #[schemars(range(min = 1), extend("default" = 3))]
    failed_passes: Option<u32>,
    /// Report a hold this number of days before its end.
    #[schemars(range(max = 365), extend("default" = 3))]
    hold_days: Option<u32>,
    /// Report an API key this number of days before its end, if its end is known. It is reported again 3 days before, and
    /// when it has ended.
    #[schemars(range(max = 365), extend("default" = 14))]
    key_days: Option<u32>,
    /// Allow plain http to another machine, which can be read in transit.
    #[serde(default)]
    insecure_http: bool,
}

/// An incoming webhook of Slack.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct SlackConfig {
    /// The file with the webhook's URL, which is a secret.
    url_file: PathBuf,
}

/// A webhook that receives a JSON document.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct WebhookConfig {
    /// The URL, if it is not a secret.
    url: Option<String>,
    /// The file with the URL, if it is a secret.
    url_file: Option<PathBuf>,
    /// The file with the secret that signs the documents, as in Standard Webhooks (`whsec_…`, or any text).
    secret_file: Option<PathBuf>,
}

/// The status of a commit at GitHub.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct GitHubConfig {
    /// The repository, as owner/name.
    repository: String,
    /// The file with a token that may write commit statuses.
    token_file: PathBuf,
    /// The URL of the API: https://HOST/api/v3 for GitHub Enterprise.
    #[schemars(extend("default" = "https://api.github.com"))]
    api_url: Option<String>,
    /// The name of the status. With several workspaces, the name of the workspace is appended.
    #[schemars(extend("default" = "calry-gitops"))]
    context: Option<String>,
    /// The target of the status's link; the status page at `externalUrl` by default.
    target_url: Option<String>,
}

/// The status of a commit at GitLab.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct GitLabConfig {
    /// The path of the project, such as group/name, or its number.
    project: String,
    /// The file with a token that has the scope api.
    token_file: PathBuf,
    /// The URL of the API.
    #[schemars(extend("default" = "https://gitlab.com/api/v4"))]
    api_url: Option<String>,
    /// The name of the status. With several workspaces, the name of the workspace is appended.
    #[schemars(extend("default" = "calry-gitops"))]
    context: Option<String>,
    /// The target of the status's link; the status page at `externalUrl` by default.
    target_url: Option<String>,
}

impl TryFrom<TargetConfig> for Target {
    type Error = InvalidTarget;

    fn try_from(config: TargetConfig) -> Result<Self, InvalidTarget> {
        let name = &config.name;
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(is_plain) {
            return Err(InvalidTarget::Name);
        }
        let insecure = config.insecure_http;
        let channel = match (config.slack, config.webhook, config.github, config.gitlab) {
            (Some(slack), None, None, None) => Channel::Slack {
                url: SecretFile::new(slack.url_file),
            },
            (None, Some(webhook), None, None) => Channel::Webhook {
                url: match (webhook.url, webhook.url_file) {
                    (Some(url), None) => WebhookUrl::Public(parse_url("url", &url, insecure)?),
                    (None, Some(file)) => WebhookUrl::Secret(SecretFile::new(file)),
                    _ => return Err(InvalidTarget::NoUrl),
                },
                secret: webhook.secret_file.map(SecretFile::new),
            },
            (None, None, Some(github), None) => {
                let parts: Vec<&str> = github.repository.split('/').collect();
                if !matches!(parts.as_slice(), [owner, name] if is_segment(owner) && is_segment(name))
                {
                    return Err(InvalidTarget::Repository);
                }
                let api = github
                    .api_url
                    .as_deref()
                    .unwrap_or("https://api.github.com");
                Channel::Commit(Forge {
                    kind: ForgeKind::GitHub,
                    repository: github.repository.clone(),
                    token: SecretFile::new(github.token_file),
                    context: parse_context(github.context)?,
                    target_url: github.target_url.map(parse_link).transpose()?,
                    api: parse_url("apiUrl", api, insecure)?,
                })
            }
            (None, None, None, Some(gitlab)) => {
                if !gitlab.project.split('/').all(is_segment) {
                    return Err(InvalidTarget::Project);
                }
                let api = gitlab
                    .api_url
                    .as_deref()
                    .unwrap_or("https://gitlab.com/api/v4");
                Channel::Commit(Forge {
                    kind: ForgeKind::GitLab,
                    repository: gitlab.project,
                    token: SecretFile::new(gitlab.token_file),
                    context: parse_context(gitlab.context)?,
                    target_url: gitlab.target_url.map(parse_link).transpose()?,
                    api: parse_url("apiUrl", api, insecure)?,
                })
            }
            _ => return Err(InvalidTarget::Channel),
        };
        if config.events.is_some() && matches!(channel, Channel::Commit(_)) {
            return Err(InvalidTarget::Events(channel.as_str()));
        }
        let default = Thresholds::default();
        let thresholds = Thresholds {
            failed_passes: config.failed_passes.unwrap_or(default.failed_passes),
            hold_days: config.hold_days.unwrap_or(default.hold_days),
            key_days: config.key_days.unwrap_or(default.key_days),
        };
        if thresholds.failed_passes == 0 || thresholds.hold_days.max(thresholds.key_days) > 365 {
            return Err(InvalidTarget::Number);
        }
        Ok(Self {
            channel,
            events: config.events,
            workspaces: config.workspaces.into_iter().collect(),
            thresholds,
            insecure_http: insecure,
            name: config.name,
        })
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Whether `part` is a plain segment of a path.
fn is_segment(part: &str) -> bool {
    (1..=128).contains(&part.len()) && part.bytes().all(is_plain) && part != "." && part != ".."
}

fn parse_url(key: &'static str, text: &str, insecure_http: bool) -> Result<HttpUrl, InvalidTarget> {
    HttpUrl::parse(text, UrlPolicy::webhook(insecure_http))
        .map_err(|error| InvalidTarget::InvalidUrl(key, error))
}

/// Plain http is allowed, because nothing is sent to a link.
fn parse_link(text: String) -> Result<String, InvalidTarget> {
    parse_url("targetUrl", &text, true).map(|_| text)
}

fn parse_context(config: Option<String>) -> Result<String, InvalidTarget> {
    let context = config.unwrap_or_else(|| "calry-gitops".to_owned());
    let fits =
        (1..=MAX_NAME).contains(&context.len()) && !context.chars().any(crate::model::needs_escape);
    if fits {
        Ok(context)
    } else {
        Err(InvalidTarget::Context)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: Value) -> Result<Target, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_of_target_parses_with_defaults() {
        let slack = parse(json!({"name": "ops", "slack": {"urlFile": "slack"}})).unwrap();
        assert_eq!(
            (&slack.events, slack.thresholds),
            (&None, Thresholds::default())
        );
        assert!(slack.is_about(None));
        let hook = json!({"name": "hook", "webhook": {"url": "https://x/y", "secretFile": "/k"}, "events": ["drift"],
            "workspaces": ["eu"], "failedPasses": 1, "holdDays": 0});
        let hook = parse(hook).unwrap();
        assert!(hook.is_about(Some("eu")) && !hook.is_about(Some("us")) && !hook.is_about(None));
        let github = parse(
            json!({"name": "gh", "github": {"repository": "acme/calry", "tokenFile": "token"}}),
        )
        .unwrap();
        let Channel::Commit(forge) = github.relative_to(Path::new("/etc/calry")).channel else {
            panic!()
        };
        assert_eq!(
            (forge.token.path(), forge.context.as_str()),
            (Path::new("/etc/calry/token"), "calry-gitops")
        );
        let gitlab = json!({"name": "gl", "gitlab": {"project": "a/b/c", "tokenFile": "t", "apiUrl": "https://git.x/api/v4"}});
        assert_eq!(parse(gitlab).unwrap().channel.as_str(), "gitlab");
    }

    #[test]
    fn an_invalid_target_is_refused_without_quoting_a_url() {
        let github = |more: Value| {
            let mut all = json!({"repository": "a/b", "tokenFile": "t"});
            all.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            json!({"name": "x", "github": all})
        };
        let slack = |key: &str, value: Value| {
            let mut target = json!({"name": "x", "slack": {"urlFile": "a"}});
            target[key] = value;
            target
        };
        let webhook = |webhook: Value| json!({"name": "x", "webhook": webhook});
        for (target, why) in [
            (json!({"name": "x"}), "exactly one"),
            (slack("webhook", json!({"url": "https://x"})), "exactly one"),
            (
                slack("slack", json!({"url": "https://canary"})),
                "unknown field",
            ),
            (slack("name", json!("x y")), "`name` must"),
            (webhook(json!({})), "either `url`"),
            (webhook(json!({"url": "http://canary/"})), "plain http"),
            (slack("failedPasses", json!(0)), "at least 1"),
            (slack("events", json!(["drfit"])), "unknown variant"),
            (github(json!({"repository": "a/../b"})), "owner/name"),
            (github(json!({"apiUrl": "http://canary"})), "plain http"),
            (github(json!({"context": "a\nb"})), "`context`"),
            (
                github(json!({"targetUrl": "javascript:canary"})),
                "`targetUrl`",
            ),
            (
                json!({"name": "x", "gitlab": {"project": "../x", "tokenFile": "t"}}),
                "`project`",
            ),
        ] {
            let error = parse(target.clone()).unwrap_err();
            assert!(
                error.contains(why) && !error.contains("canary"),
                "{target}: {error}"
            );
        }
        let mut commit = github(json!({}));
        commit["events"] = json!(["drift"]);
        let error = parse(commit).unwrap_err();
        assert!(error.contains("`events` is not allowed"), "{error}");
    }
}
