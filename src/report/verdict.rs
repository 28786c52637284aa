//! The state of a workspace as a headline and a severity.

use jiff::Timestamp;

use super::status::{Ended, ProviderStatus, State, WorkspaceStatus};
use super::words::{between, counted};
use crate::model::{human_duration, printable, short_commit};

/// Severity, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// Somebody must act.
    Bad,
    /// Something differs, and that is all.
    Differs,
    /// Nothing is known yet.
    Waiting,
    /// In sync, but for what is on hold.
    Good,
}

/// What is said of a workspace first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How good it is.
    pub tone: Tone,
    /// Short headline without a trailing period; safe to print.
    pub headline: String,
    /// Why; printable.
    pub detail: Option<String>,
}

/// How a workspace stands. `now` is the time on the daemon's clock.
#[must_use]
pub fn standing(workspace: &WorkspaceStatus, now: Timestamp) -> Standing {
    let told = |tone, headline: String| Standing {
        tone,
        headline,
        detail: None,
    };
    let count = |state| {
        workspace
            .providers
            .iter()
            .filter(|provider| provider.state == state)
            .count()
    };
    if !workspace.alive {
        return told(
            Tone::Bad,
            "the daemon hangs: its loop does not go on; restart it".to_owned(),
        );
    }
    let Some(last) = &workspace.last_pass else {
        let length = workspace
            .pass
            .map(|pass| format!(", for {}", human_duration(between(pass.began, now))));
        return told(
            Tone::Waiting,
            format!("the first pass is under way{}", length.unwrap_or_default()),
        );
    };
    if !workspace.also.is_empty() {
        return told(Tone::Bad, super::status::also(&workspace.also));
    }
    if let Some(error) = &last.error {
        let headline = match (last.result, last.times) {
            (Ended::Refused, 1) => "the last plan was refused".to_owned(),
            (Ended::Refused, times) => format!("the last plan was refused {times} times in a row"),
            (_, 1) => "the last pass failed".to_owned(),
            (_, times) => format!("the last pass failed, {times} times in a row"),
        };
        return Standing {
            detail: Some(printable(error)),
            ..told(Tone::Bad, headline)
        };
    }
    if let Some(refused) = workspace.refused() {
        let id = |commit: &str| printable(short_commit(commit));
        let what = refused
            .commit
            .as_deref()
            .map(|commit| format!(" ({})", id(commit)))
            .unwrap_or_default();
        let force = workspace
            .revision
            .as_ref()
            .map(|revision| format!(", and {} is in force", id(&revision.commit)));
        let headline = format!(
            "what is checked out{what} is refused{}",
            force.unwrap_or_default()
        );
        return Standing {
            detail: refused.reason.as_deref().map(printable),
            ..told(Tone::Bad, headline)
        };
    }
    let parts: Vec<String> = [
        counted(count(State::Update), "provider differs", "providers differ"),
        counted(
            count(State::Invalid),
            "definition is invalid",
            "definitions are invalid",
        ),
        counted(
            count(State::Unreadable),
            "provider cannot be read in Calry's answer",
            "providers cannot be read in Calry's answer",
        ),
        counted(
            count(State::Missing),
            "provider is missing from the workspace",
            "providers are missing from the workspace",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    let trouble = workspace
        .providers
        .iter()
        .any(ProviderStatus::is_in_trouble);
    match (
        parts.is_empty(),
        counted(count(State::Held), "on hold", "on hold"),
    ) {
        (false, _) => told(
            if trouble { Tone::Bad } else { Tone::Differs },
            parts.join(", "),
        ),
        (true, Some(held)) => told(Tone::Good, format!("in sync · {held}")),
        (true, None) => told(Tone::Good, "in sync".to_owned()),
    }
}
