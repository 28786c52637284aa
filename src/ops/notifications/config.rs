//! Who is to be notified, as the operator writes it down, parsed into what can be used.
//!
//! It names files of secrets and never reads one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{HttpUrl, InvalidUrl, SecretFile, UrlPolicy};

/// The longest name of a target, and of a context, in bytes.
const MAX_NAME: usize = 64;

/// One that is notified. Deserialize it from an entry of the list `notifications` of the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Target {
    /// What log and metrics call it.
    pub name: String,
    /// Where and how.
    pub channel: Channel,
    /// What it wants to know of.
    pub events: BTreeSet<EventKind>,
    /// The workspaces that it wants to know of, by their names in the configuration file; empty for all.
    pub workspaces: BTreeSet<String>,
    /// When something is worth a notification.
    pub rules: Rules,
    pub(super) insecure_http: bool,
}

/// When something is worth a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many passes in a row must fail before that is told.
    pub failed_passes: u32,
    /// How many days before its end a hold is told of.
    pub hold_days: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            failed_passes: 3,
            hold_days: 3,
        }
    }
}

/// What can be told.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum EventKind {
    /// Somebody changed Calry.
    Drift,
    /// Calry took over what git wants.
    Applied,
    /// A pass, or a provider, failed several times in a row.
    Failed,
    /// What was told to have failed works again.
    Recovered,
    /// The guard refused a plan, or the checked-out commit is not trusted.
    Refused,
    /// Calry took an update and kept other values.
    NotConverged,
    /// A hold is about to end.
    HoldExpiring,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Drift,
        Self::Applied,
        Self::Failed,
        Self::Recovered,
        Self::Refused,
        Self::NotConverged,
        Self::HoldExpiring,
    ];
}

/// Where a notification goes and in which form.
#[derive(Clone, Debug)]
pub enum Channel {
    /// An incoming webhook of Slack, or of what understands the same.
    Slack {
        /// Its address.
        url: SecretFile,
    },
    /// A webhook of one's own.
    Webhook {
        /// Its address.
        url: WebhookUrl,
        /// By what the documents are signed.
        secret: Option<SecretFile>,
    },
    /// The status of the commit, at a forge.
    Commit(Forge),
}

/// Where a webhook is.
#[derive(Clone, Debug)]
pub enum WebhookUrl {
    /// No secret.
    Written(HttpUrl),
    /// A secret.
    File(SecretFile),
}

/// Where commits are shown.
#[derive(Clone, Debug)]
pub struct Forge {
    /// Whose API it is.
    pub kind: ForgeKind,
    /// The repository `owner/name`, or the project's path or number.
    pub repository: String,
    /// Who may set a status.
    pub token: SecretFile,
    /// What the status is called.
    pub context: String,
    /// Where its link leads.
    pub target_url: Option<String>,
    pub(super) api: HttpUrl,
}

/// Whose API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgeKind {
    /// GitHub, GitHub Enterprise, and what speaks alike (Gitea, Forgejo).
    GitHub,
    /// GitLab.
    GitLab,
}

impl Channel {
    /// The kind's name, in the configuration file as in metrics.
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

/// What is wrong with a target, as a sentence. It never repeats an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    #[error(
        "`name` is written in letters, digits, `-`, `_` and `.`, and has at most {MAX_NAME} characters"
    )]
    Name,
    #[error("a target has exactly one of `slack`, `webhook`, `github` and `gitlab`")]
    Channel,
    #[error("a webhook has either `url`, or `urlFile` where its address is a secret")]
    Url,
    #[error("`{0}` {1}")]
    Address(&'static str, InvalidUrl),
    #[error("`repository` is written as owner/name")]
    Repository,
    #[error("`project` is its path, such as group/name, or its number")]
    Project,
    #[error("`context` is one line of at most {MAX_NAME} characters")]
    Context,
    #[error("`events` has no meaning for {0}: the status of a commit is always kept up")]
    Events(&'static str),
    #[error("`failedPasses` is at least 1, and `holdDays` at most 365")]
    Number,
}

impl Target {
    /// Makes the files that it names relative to a directory: that of the configuration file.
    #[must_use]
    pub fn relative_to(mut self, directory: &Path) -> Self {
        let place = |file: &mut SecretFile| *file = SecretFile::new(directory.join(file.path()));
        match &mut self.channel {
            Channel::Slack { url } => place(url),
            Channel::Webhook { url, secret } => {
                if let WebhookUrl::File(url) = url {
                    place(url);
                }
                secret.iter_mut().for_each(place);
            }
            Channel::Commit(forge) => place(&mut forge.token),
        }
        self
    }

    /// Whether it wants to know of a workspace, by its name in the configuration file.
    #[must_use]
    pub fn is_about(&self, workspace: Option<&str>) -> bool {
        self.workspaces.is_empty() || workspace.is_some_and(|name| self.workspaces.contains(name))
    }
}

impl JsonSchema for Target {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Written::json_schema(generator)
    }
}

/// One that is notified.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
#[schemars(extend("oneOf" = [{"required": ["slack"]}, {"required": ["webhook"]}, {"required": ["github"]}, {"required": ["gitlab"]}]))]
struct Written {
    /// What log and metrics call it.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    name: String,
    /// An incoming webhook of Slack, or of what understands the same (Mattermost, Rocket.Chat).
    slack: Option<WrittenSlack>,
    /// A webhook of one's own, which gets a JSON document.
    webhook: Option<WrittenWebhook>,
    /// The status of the commit at GitHub, or at what speaks alike (Gitea, Forgejo).
    github: Option<WrittenGitHub>,
    /// The status of the commit at GitLab.
    gitlab: Option<WrittenGitLab>,
    /// What it wants to know of; everything without it.
    events: Option<Vec<EventKind>>,
    /// The workspaces that it wants to know of; all without it.
    #[serde(default)]
    workspaces: Vec<String>,
    /// How many passes in a row must fail before that is told.
    #[schemars(range(min = 1), extend("default" = 3))]
    failed_passes: Option<u32>,
    /// How many days before its end a hold is told of.
    #[schemars(range(max = 365), extend("default" = 3))]
    hold_days: Option<u32>,
    /// Send over plain http to another machine, where everybody on the way reads along.
    #[serde(default)]
    insecure_http: bool,
}

/// An incoming webhook of Slack.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct WrittenSlack {
    /// The file that holds its address, which is a secret.
    url_file: PathBuf,
}

/// A webhook of one's own.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct WrittenWebhook {
    /// Its address, where that is no secret.
    url: Option<String>,
    /// The file that holds its address, where that is a secret.
    url_file: Option<PathBuf>,
    /// The file that holds the secret by which documents are signed, as Standard Webhooks are (`whsec_…`, or any text).
    secret_file: Option<PathBuf>,
}

/// The status of a commit at GitHub.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct WrittenGitHub {
    /// The repository, as owner/name.
    repository: String,
    /// The file that holds a token that may write commit statuses.
    token_file: PathBuf,
    /// The address of the API: https://HOST/api/v3 for GitHub Enterprise.
    #[schemars(extend("default" = "https://api.github.com"))]
    api_url: Option<String>,
    /// What the status is called; the name of the workspace is appended where there are several.
    #[schemars(extend("default" = "calry-gitops"))]
    context: Option<String>,
    /// Where the link of the status leads.
    target_url: Option<String>,
}

/// The status of a commit at GitLab.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a map")]
struct WrittenGitLab {
    /// The project's path, such as group/name, or its number.
    project: String,
    /// The file that holds a token with the scope api.
    token_file: PathBuf,
    /// The address of the API.
    #[schemars(extend("default" = "https://gitlab.com/api/v4"))]
    api_url: Option<String>,
    /// What the status is called; the name of the workspace is appended where there are several.
    #[schemars(extend("default" = "calry-gitops"))]
    context: Option<String>,
    /// Where the link of the status leads.
    target_url: Option<String>,
}

impl TryFrom<Written> for Target {
    type Error = InvalidTarget;

    fn try_from(written: Written) -> Result<Self, InvalidTarget> {
        let name = &written.name;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(InvalidTarget::Name);
        }
        let insecure = written.insecure_http;
        let channel = match (
            written.slack,
            written.webhook,
            written.github,
            written.gitlab,
        ) {
            (Some(slack), None, None, None) => Channel::Slack {
                url: SecretFile::new(slack.url_file),
            },
            (None, Some(webhook), None, None) => Channel::Webhook {
                url: match (webhook.url, webhook.url_file) {
                    (Some(url), None) => WebhookUrl::Written(address("url", &url, insecure)?),
                    (None, Some(file)) => WebhookUrl::File(SecretFile::new(file)),
                    _ => return Err(InvalidTarget::Url),
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
                    context: context(github.context)?,
                    target_url: github.target_url.map(link).transpose()?,
                    api: address("apiUrl", api, insecure)?,
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
                    context: context(gitlab.context)?,
                    target_url: gitlab.target_url.map(link).transpose()?,
                    api: address("apiUrl", api, insecure)?,
                })
            }
            _ => return Err(InvalidTarget::Channel),
        };
        if written.events.is_some() && matches!(channel, Channel::Commit(_)) {
            return Err(InvalidTarget::Events(channel.as_str()));
        }
        let Rules {
            failed_passes,
            hold_days,
        } = Rules::default();
        let rules = Rules {
            failed_passes: written.failed_passes.unwrap_or(failed_passes),
            hold_days: written.hold_days.unwrap_or(hold_days),
        };
        if rules.failed_passes == 0 || rules.hold_days > 365 {
            return Err(InvalidTarget::Number);
        }
        Ok(Self {
            channel,
            events: written
                .events
                .unwrap_or_else(|| EventKind::ALL.to_vec())
                .into_iter()
                .collect(),
            workspaces: written.workspaces.into_iter().collect(),
            rules,
            insecure_http: insecure,
            name: written.name,
        })
    }
}

/// A part of a path that leads nowhere else.
fn is_segment(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=128).contains(&part.len()) && part.bytes().all(plain) && part != "." && part != ".."
}

fn address(key: &'static str, text: &str, insecure_http: bool) -> Result<HttpUrl, InvalidTarget> {
    HttpUrl::parse(text, UrlPolicy::webhook(insecure_http))
        .map_err(|error| InvalidTarget::Address(key, error))
}

/// A link is followed by people, and nothing is sent there: plain http will do.
fn link(text: String) -> Result<String, InvalidTarget> {
    address("targetUrl", &text, true).map(|_| text)
}

fn context(written: Option<String>) -> Result<String, InvalidTarget> {
    let context = written.unwrap_or_else(|| "calry-gitops".to_owned());
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
    fn each_kind_of_target_parses_with_what_is_usual() {
        let slack = parse(json!({"name": "ops", "slack": {"urlFile": "slack"}})).unwrap();
        assert!(slack.events.len() == 7 && slack.rules == Rules::default() && slack.is_about(None));
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
    fn what_cannot_be_meant_is_refused_without_repeating_an_address() {
        let github = |more: Value| {
            let mut all = json!({"repository": "a/b", "tokenFile": "t"});
            all.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            json!({"name": "x", "github": all})
        };
        for (target, why) in [
            (json!({"name": "x"}), "exactly one"),
            (
                json!({"name": "x", "slack": {"urlFile": "a"}, "webhook": {"url": "https://x"}}),
                "exactly one",
            ),
            (
                json!({"name": "x", "slack": {"url": "https://canary"}}),
                "unknown field",
            ),
            (
                json!({"name": "x y", "slack": {"urlFile": "a"}}),
                "`name` is written",
            ),
            (json!({"name": "x", "webhook": {}}), "either `url`"),
            (
                json!({"name": "x", "webhook": {"url": "http://canary/"}}),
                "plain http",
            ),
            (
                json!({"name": "x", "slack": {"urlFile": "a"}, "failedPasses": 0}),
                "at least 1",
            ),
            (
                json!({"name": "x", "slack": {"urlFile": "a"}, "events": ["drfit"]}),
                "unknown variant",
            ),
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
        assert!(parse(commit).unwrap_err().contains("always kept up"));
    }
}
