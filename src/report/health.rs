//! The state of a workspace as a headline and a level.

use jiff::Timestamp;

use super::status::{
    ProviderState, ProviderStatus, ReconciliationOutcome, ReconciliationRecord, Trust,
    UpdateOutcome, WorkspaceStatus, shared_key_error,
};
use super::words::{counted, elapsed, plural};
use crate::model::{human_duration, printable, short_commit};

/// Most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthLevel {
    /// A person must act.
    Failing,
    OutOfSync,
    /// Nothing is known yet.
    Waiting,
    /// In sync, except for providers on hold.
    InSync,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub level: HealthLevel,
    /// Short, without a trailing period; safe to print.
    pub headline: String,
    /// The reason; safe to print.
    pub detail: Option<String>,
}

impl Health {
    const fn new(level: HealthLevel, headline: String, detail: Option<String>) -> Self {
        Self {
            level,
            headline,
            detail,
        }
    }
}

/// The health of a workspace. `now` is the time on the daemon's clock.
#[must_use]
pub fn health(workspace: &WorkspaceStatus, now: Timestamp) -> Health {
    let failing = |headline: String, detail| Health::new(HealthLevel::Failing, headline, detail);
    if !workspace.alive {
        return failing("the daemon hangs; restart it".to_owned(), None);
    }
    let Some(last) = &workspace.last_pass else {
        let since = workspace
            .pass
            .map(|pass| format!(", for {}", human_duration(elapsed(pass.began, now))))
            .unwrap_or_default();
        let headline = format!("the first reconciliation is running{since}");
        return Health::new(HealthLevel::Waiting, headline, None);
    };
    if !workspace.also.is_empty() {
        return failing(shared_key_error(&workspace.also), None);
    }
    if let Some(error) = &last.error {
        return failing(describe_failure(workspace, last), Some(printable(error)));
    }
    if let Some(refused) = workspace.refused_commit() {
        let reason = refused.reason.as_deref().map(printable);
        return failing(describe_refused_commit(workspace, refused), reason);
    }
    let providers = workspace.providers.iter();
    let kept = providers
        .filter(|one| {
            one.state == ProviderState::Update && one.outcome == Some(UpdateOutcome::NotConverged)
        })
        .count();
    let count = |state| workspace.count(state);
    let parts = [
        (kept, "provider not converged", "providers not converged"),
        (
            count(ProviderState::Update).saturating_sub(kept),
            "provider out of sync",
            "providers out of sync",
        ),
        (
            count(ProviderState::Invalid),
            "invalid definition",
            "invalid definitions",
        ),
        (
            count(ProviderState::Unreadable),
            "provider unreadable in Calry's answer",
            "providers unreadable in Calry's answer",
        ),
        (
            count(ProviderState::Missing),
            "provider missing from the workspace",
            "providers missing from the workspace",
        ),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter_map(|(count, one, many)| plural(count, one, many))
        .collect();
    if parts.is_empty() {
        let held = plural(workspace.count(ProviderState::Held), "on hold", "on hold")
            .map(|held| format!(" · {held}"))
            .unwrap_or_default();
        return Health::new(HealthLevel::InSync, format!("in sync{held}"), None);
    }
    let level = if workspace.providers.iter().any(ProviderStatus::is_failing) {
        HealthLevel::Failing
    } else {
        HealthLevel::OutOfSync
    };
    Health::new(level, parts.join(", "), None)
}

fn describe_failure(workspace: &WorkspaceStatus, last: &ReconciliationRecord) -> String {
    match (last.result, last.max_changes, last.times) {
        (ReconciliationOutcome::Refused, Some(limit), _) => {
            let updates = workspace.count(ProviderState::Update);
            let providers = counted(updates, "provider", "providers");
            format!("waiting for approval: {providers} to update (limit {limit})")
        }
        (ReconciliationOutcome::Refused, None, _) => "plan refused".to_owned(),
        (_, _, 1) => "the last reconciliation failed".to_owned(),
        (_, _, times) => format!("the last {times} reconciliations failed"),
    }
}

fn describe_refused_commit(workspace: &WorkspaceStatus, refused: &Trust) -> String {
    let short = |commit: &str| printable(short_commit(commit));
    let commit = refused
        .commit
        .as_deref()
        .map_or_else(String::new, |commit| format!(" {}", short(commit)));
    let in_force = workspace
        .revision
        .as_ref()
        .map_or_else(String::new, |revision| {
            format!("; {} stays in force", short(&revision.commit))
        });
    format!("commit{commit} refused{in_force}")
}
