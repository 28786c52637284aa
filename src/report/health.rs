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
    let repository = workspace.repository.as_ref();
    let not_fetched = repository.filter(|repository| repository.commit.is_none());
    if let Some(failure) = not_fetched.and_then(|repository| repository.failure.as_ref()) {
        let headline = "git cannot be fetched; nothing is in force yet".to_owned();
        return failing(headline, Some(printable(&failure.message)));
    }
    let Some(last) = &workspace.last_pass else {
        if not_fetched.is_some() {
            let headline = "the first fetch from git is running".to_owned();
            return Health::new(HealthLevel::Waiting, headline, None);
        }
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
    if let Some(failure) = workspace.lasting_fetch_failure(now) {
        let in_force = describe_commit_in_force(workspace);
        let headline = format!("git cannot be fetched{in_force}");
        return failing(headline, Some(printable(&failure.message)));
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
        (ReconciliationOutcome::Refused, None, _) if last.digest.is_some() => {
            "waiting for approval: plan denied by policy".to_owned()
        }
        (ReconciliationOutcome::Refused, None, _) if !workspace.violations.is_empty() => {
            "plan denied by policy".to_owned()
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
    let in_force = describe_commit_in_force(workspace);
    let behind = refused
        .behind
        .and_then(|behind| plural(behind as usize, "commit", "commits"))
        .map_or_else(String::new, |commits| format!(", {commits} behind"));
    format!("commit{commit} refused{in_force}{behind}")
}

/// `; 3f2a1b9c4d stays in force`, if there was a plan.
fn describe_commit_in_force(workspace: &WorkspaceStatus) -> String {
    let revision = workspace.revision.as_ref();
    revision.map_or_else(String::new, |revision| {
        let commit = printable(short_commit(&revision.commit));
        format!("; {commit} stays in force")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-02T03:04:00Z";

    fn workspace(change: impl FnOnce(&mut Value)) -> WorkspaceStatus {
        let time = "2026-01-02T03:03:30Z";
        let mut one = json!({"workspace": null, "directory": "definitions", "api": "a", "mode": "enforce",
            "intervalSeconds": 60.0, "alive": true, "ready": true, "summary": null, "pass": null, "nextPass": null,
            "revision": {"commit": "b".repeat(40), "subject": "s", "author": "a", "time": time, "dirty": false},
            "lastPass": {"number": 1, "trigger": "start", "began": time, "durationSeconds": 1.0, "result": "ok", "times": 1},
            "repository": {"url": "https://git.example.com/acme/defs.git", "reference": "refs/heads/main",
                "commit": "c".repeat(40), "commitFetched": time, "lastSuccess": time, "nextFetch": time},
            "providers": [], "diagnostics": [], "history": {"passes": [], "changes": []}});
        change(&mut one);
        serde_json::from_value(one).unwrap()
    }

    fn failing_since(since: &str) -> Value {
        json!({"kind": "notFound", "message": "there is none", "since": since, "times": 9})
    }

    fn judge(workspace: &WorkspaceStatus) -> (HealthLevel, String, Option<String>) {
        let health = health(workspace, NOW.parse().unwrap());
        (health.level, health.headline, health.detail)
    }

    #[test]
    fn a_lasting_failure_of_fetches_needs_a_person_and_a_short_one_does_not() {
        let after = |since: &str| {
            let failure = failing_since(since);
            judge(&workspace(|one| one["repository"]["failure"] = failure))
        };
        let in_sync = (HealthLevel::InSync, "in sync".to_owned(), None);
        assert_eq!(after("2026-01-02T03:02:01Z"), in_sync);
        let headline = "git cannot be fetched; bbbbbbbbbb stays in force".to_owned();
        let detail = Some("there is none".to_owned());
        let failing = (HealthLevel::Failing, headline, detail);
        assert_eq!(after("2026-01-02T03:02:00Z"), failing);
    }

    #[test]
    fn before_the_first_commit_its_fetch_is_the_headline() {
        let first = |failure: Option<Value>| {
            judge(&workspace(|one| {
                one["lastPass"] = Value::Null;
                one["repository"]["commit"] = Value::Null;
                one["repository"]["failure"] = failure.unwrap_or_default();
            }))
        };
        let running = "the first fetch from git is running".to_owned();
        assert_eq!(first(None), (HealthLevel::Waiting, running, None));
        let headline = "git cannot be fetched; nothing is in force yet".to_owned();
        let detail = Some("there is none".to_owned());
        let failing = (HealthLevel::Failing, headline, detail);
        assert_eq!(first(Some(failing_since(NOW))), failing);
    }

    #[test]
    fn a_refused_commit_shows_how_far_the_one_in_force_is_behind() {
        let refused = |behind: Value| {
            let commit = "c".repeat(40);
            judge(&workspace(|one| {
                one["trust"] = json!({"trusted": false, "commit": commit, "behind": behind});
            }))
            .1
        };
        let headline = "commit cccccccccc refused; bbbbbbbbbb stays in force";
        assert_eq!(refused(Value::Null), headline);
        assert_eq!(refused(json!(1)), format!("{headline}, 1 commit behind"));
        assert_eq!(refused(json!(3)), format!("{headline}, 3 commits behind"));
    }

    #[test]
    fn references_are_short() {
        for (full, short) in [
            ("refs/heads/feature/a", "feature/a"),
            ("refs/tags/v1.2", "tag v1.2"),
            ("3f2a1b9c4d5e6f3f2a1b9c4d5e6f3f2a1b9c4d5e", "3f2a1b9c4d"),
            ("the default branch", "the default branch"),
            ("refs/heads/\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            let status = workspace(|one| one["repository"]["reference"] = json!(full));
            let repository = status.repository.unwrap();
            assert_eq!(repository.short_reference(), short);
        }
    }
}
