//! What is sent: the documents, made of events. No value of any definition is in one, only the places where values differ.

use jiff::Timestamp;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Value, json};

use super::commit::{CommitState, CommitStatus};
use super::config::{EventKind, Forge, ForgeKind};
use super::events::{Event, Subject};
use crate::model::{Revision, Workspace, ellipsize, printable, short_commit};
use crate::report::json;

/// A notification, as a webhook gets it. The keys are a contract: none is ever renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(title = "A notification of calry-gitops")]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The same at each attempt to deliver it; the header webhook-id.
    pub id: String,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub event: EventKind,
    /// A sentence for people.
    pub message: String,
    /// What the configuration file calls the workspace; null where it has no name.
    pub name: Option<String>,
    /// The workspace; null before it was read for the first time.
    pub workspace: Option<Workspace>,
    /// The commit that the files were read from; null outside a checkout, or where they could not be read.
    pub revision: Option<Revision>,
    /// The number of the pass.
    pub pass: u64,
    /// Why, where one reason holds for all of it.
    pub reason: Option<String>,
    /// The plan that was refused; `apply --approve` lets it through.
    pub digest: Option<String>,
    /// Whom it is about: the first ones.
    pub providers: Vec<Subject>,
    /// How many more there are.
    pub more: usize,
}

impl Notification {
    /// What there is to say of an event.
    pub(super) fn of(event: Event, about: About<'_>) -> Self {
        let Event {
            kind,
            sentence,
            reason,
            digest,
            providers,
            more,
        } = event;
        let place = about.place();
        let count = providers.len() + more;
        let count = match count {
            0 => String::new(),
            1 => " (1 provider)".to_owned(),
            count => format!(" ({count} providers)"),
        };
        Self {
            id: about.id,
            time: about.time,
            event: kind,
            message: format!("{place}: {sentence}{count}"),
            name: about.name.map(str::to_owned),
            workspace: about.workspace.cloned().map(|w| Workspace {
                id: ellipsize(&printable(&w.id), 64),
                name: ellipsize(&printable(&w.name), 128),
                slug: ellipsize(&printable(&w.slug), 128),
            }),
            revision: about.revision.map(|r| Revision {
                subject: ellipsize(&printable(&r.subject), 200),
                author: ellipsize(&printable(&r.author), 100),
                ..r.clone()
            }),
            pass: about.pass,
            reason,
            digest,
            providers,
            more,
        }
    }

    /// The document for Slack. Whatever comes from elsewhere stands in code spans, in which nothing mentions, links or
    /// formats, at Slack as at those that read Markdown in its place.
    pub(super) fn slack(&self) -> Value {
        let mut text = format!("{} {}", icon(self.event), code(&self.message));
        if let Some(revision) = &self.revision {
            let dirty = if revision.dirty { "+dirty" } else { "" };
            text += &format!(
                " at {}",
                code(&format!("{}{dirty}", short_commit(&revision.commit)))
            );
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
        json!({"text": text, "unfurl_links": false, "unfurl_media": false})
    }
}

/// Where and when something happened.
pub(super) struct About<'a> {
    pub(super) id: String,
    pub(super) time: Timestamp,
    pub(super) name: Option<&'a str>,
    pub(super) workspace: Option<&'a crate::model::Workspace>,
    pub(super) revision: Option<&'a crate::model::Revision>,
    pub(super) pass: u64,
}

impl About<'_> {
    fn place(&self) -> String {
        let slug = self.workspace.map(|workspace| workspace.slug.as_str());
        self.name.or(slug).map_or_else(
            || "calry-gitops".to_owned(),
            |name| ellipsize(&printable(name), 128),
        )
    }
}

const fn icon(event: EventKind) -> &'static str {
    match event {
        EventKind::Drift => "↩",
        EventKind::Applied | EventKind::Recovered => "✅",
        EventKind::Failed | EventKind::Refused => "🛑",
        EventKind::NotConverged | EventKind::HoldExpiring => "⚠",
    }
}

/// A text in a code span.
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

/// The address of a commit's status, below that of the API, and what is posted there.
pub(super) fn commit<'a>(
    forge: &'a Forge,
    status: &'a CommitStatus,
    name: Option<&str>,
) -> (Vec<&'a str>, Value) {
    let context = name.map_or_else(
        || forge.context.clone(),
        |name| format!("{}/{name}", forge.context),
    );
    let description = ellipsize(&status.description, 140);
    let word = word(forge.kind, status.state);
    let (path, name) = match forge.kind {
        ForgeKind::GitHub => {
            let (owner, repository) = forge.repository.split_once('/').unwrap_or_default();
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
    let mut document = json!({"state": word, name: context, "description": description});
    if let (Some(url), Some(keys)) = (&forge.target_url, document.as_object_mut()) {
        keys.insert("target_url".to_owned(), json!(url));
    }
    (path, document)
}

const fn word(kind: ForgeKind, state: CommitState) -> &'static str {
    match (kind, state) {
        (_, CommitState::Pending) => "pending",
        (_, CommitState::Success) => "success",
        (ForgeKind::GitHub, CommitState::Failure) => "failure",
        (ForgeKind::GitLab, CommitState::Failure) => "failed",
    }
}

/// The JSON Schema (2020-12) of the document that a webhook gets.
#[must_use]
pub fn schema() -> String {
    let generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator();
    json::pretty(&generator.into_root_schema_for::<Notification>())
}
