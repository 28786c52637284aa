//! The documents that are sent, made from events.
//!
//! Never: contain a value of a definition, only the paths of differences.

use jiff::Timestamp;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Value, json};

use super::commit::{CommitState, CommitStatus};
use super::config::{EventKind, Forge, ForgeKind};
use super::events::{Event, Subject};
use crate::daemon::ReconciliationReport;
use crate::daemon::publisher::now;
use crate::model::{Revision, Workspace, ellipsize, printable};
use crate::report::json;
use crate::report::links::Links;
use crate::report::words::plural;

/// A notification, as a webhook receives it. The keys are a contract and are never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(title = "calry-gitops notification")]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The same for each attempt to deliver it, and equal to the header webhook-id.
    pub id: String,
    /// The time of the event.
    pub time: Timestamp,
    pub event: EventKind,
    /// The event as a sentence.
    pub message: String,
    /// The workspace's name in the configuration file; null if it has none.
    pub name: Option<String>,
    /// The workspace; null before it was read for the first time.
    pub workspace: Option<Workspace>,
    /// The commit of the files; null outside a checkout, or if they could not be read.
    pub revision: Option<Revision>,
    /// The web page of the commit; absent without `--repository-url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_url: Option<String>,
    /// The status page of the workspace; absent without `--external-url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_url: Option<String>,
    /// The number of the reconciliation.
    pub pass: u64,
    /// The reason, if there is one for the whole event.
    pub reason: Option<String>,
    /// The refused plan, which `apply --approve` accepts.
    pub digest: Option<String>,
    /// The first affected providers.
    pub providers: Vec<Subject>,
    /// The number of other affected providers.
    pub more: usize,
}

impl Notification {
    /// An event of a reconciliation of `workspace`, which the configuration file calls `name`.
    pub(super) fn of(
        event: Event,
        report: &ReconciliationReport,
        name: Option<&str>,
        workspace: Option<&Workspace>,
        links: &Links,
    ) -> Self {
        let label = name.or(workspace.map(|workspace| &*workspace.slug));
        let label = ellipsize(&printable(label.unwrap_or("calry-gitops")), 128);
        let count = plural(event.providers.len() + event.more, "provider", "providers");
        let count = count.map_or_else(String::new, |count| format!(" ({count})"));
        let revision = report.findings.revision.as_ref();
        Self {
            id: format!("msg_{:032x}", fastrand::u128(..)),
            time: now(),
            event: event.kind,
            message: format!("{label}: {}{count}", event.sentence),
            name: name.map(str::to_owned),
            workspace: workspace.map(|w| Workspace {
                id: ellipsize(&printable(&w.id), 64),
                name: ellipsize(&printable(&w.name), 128),
                slug: ellipsize(&printable(&w.slug), 128),
            }),
            revision: revision.map(|r| Revision {
                subject: ellipsize(&printable(&r.subject), 200),
                author: ellipsize(&printable(&r.author), 100),
                ..r.clone()
            }),
            commit_url: revision.and_then(|revision| links.commit(&revision.commit)),
            page_url: links.page.clone(),
            pass: report.number,
            reason: event.reason,
            digest: event.digest,
            providers: event.providers,
            more: event.more,
        }
    }

    /// The document for Slack. Text from elsewhere is in code spans, so that it cannot mention, link or format, in Slack or in
    /// services that read it as Markdown.
    pub(super) fn slack(&self) -> Value {
        let mut text = format!("{} {}", icon(self.event), code(&self.message));
        if let Some(revision) = &self.revision {
            let commit = revision.short();
            text += &match &self.commit_url {
                Some(url) => format!(" at <{url}|{commit}>"),
                None => format!(" at {}", code(&commit)),
            };
        }
        if let Some(reason) = &self.reason {
            text += &format!("\n{}", code(reason));
        }
        for Subject {
            provider,
            paths,
            detail,
        } in &self.providers
        {
            let paths: Vec<String> = paths.iter().map(|path| code(path)).collect();
            let detail = detail.as_deref().map(|detail| format!(" {}", code(detail)));
            let colon = if paths.is_empty() { "" } else { ": " };
            text += &format!(
                "\n• {}{}{colon}{}",
                code(provider),
                detail.unwrap_or_default(),
                paths.join(" ")
            );
        }
        if self.more > 0 {
            text += &format!("\n… and {} more", self.more);
        }
        if let Some(url) = &self.page_url {
            text += &format!("\n<{url}|Status page>");
        }
        json!({"text": text, "unfurl_links": false, "unfurl_media": false})
    }
}

const fn icon(event: EventKind) -> &'static str {
    match event {
        EventKind::Drift => "↩",
        EventKind::Applied | EventKind::Recovered => "✅",
        EventKind::Failed | EventKind::Refused => "🛑",
        EventKind::NotConverged | EventKind::HoldExpiring | EventKind::KeyExpiring => "⚠",
        EventKind::CatalogueChanged => "ℹ",
    }
}

fn code(text: &str) -> String {
    let inner: String = printable(text)
        .chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '`' => "'".to_owned(),
            c => c.to_string(),
        })
        .collect();
    if inner.trim().is_empty() {
        "`?`".to_owned()
    } else {
        format!("`{inner}`")
    }
}

/// The path of a commit's status below the API's URL, and the document to post there.
pub(super) fn commit_status<'a>(
    forge: &'a Forge,
    status: &'a CommitStatus,
    name: Option<&str>,
) -> (Vec<&'a str>, Value) {
    let context = name.map_or_else(
        || forge.context.clone(),
        |name| format!("{}/{name}", forge.context),
    );
    let description = ellipsize(&status.description, 140);
    let state = state_name(forge.kind, status.state);
    let (path, name) = match forge.kind {
        ForgeKind::GitHub => {
            #[expect(clippy::expect_used, reason = "`Target` accepts owner/name only")]
            let (owner, repository) = forge.repository.split_once('/').expect("owner/name");
            (
                vec!["repos", owner, repository, "statuses", &status.sha],
                "context",
            )
        }
        ForgeKind::GitLab => (
            vec!["projects", &forge.repository, "statuses", &status.sha],
            "name",
        ),
    };
    let mut document = json!({"state": state, name: context, "description": description});
    if let (Some(url), Some(keys)) = (&forge.target_url, document.as_object_mut()) {
        keys.insert("target_url".to_owned(), json!(url));
    }
    (path, document)
}

const fn state_name(kind: ForgeKind, state: CommitState) -> &'static str {
    match (kind, state) {
        (_, CommitState::Pending) => "pending",
        (_, CommitState::Success) => "success",
        (ForgeKind::GitHub, CommitState::Failure) => "failure",
        (ForgeKind::GitLab, CommitState::Failure) => "failed",
    }
}

/// The JSON Schema (2020-12) of the document that a webhook receives.
#[must_use]
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    json::pretty(&generator.into_root_schema_for::<Notification>())
}
