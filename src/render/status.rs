//! The status of a daemon as text for a terminal of 80 columns. It comes from the network: every text in it is foreign.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::text::{BOLD, DIM, GREEN, LABEL, RED, WIDTH, YELLOW, text_column, wrap};
use crate::model::{Severity, ellipsize, human_duration, printable, short_commit};
use crate::plan::Cause;
use crate::report::health::{Health, HealthLevel, health};
use crate::report::plan::DiagnosticItem;
use crate::report::status::{
    ChangeRecord, Mode, ProviderState, ProviderStatus, ReconciliationRecord, ReplicaRole,
    RepositoryStatus, Status, UpdateOutcome, WorkspaceStatus,
};
use crate::report::words::{counted, describe_mismatch, elapsed, name_change_items, plural};

/// The most workspaces to show in full, of several.
const MAX_IN_FULL: usize = 5;
/// The most lines of history.
const MAX_RECENT: usize = 6;
/// The most errors of files.
const MAX_ERRORS: usize = 10;
/// The most fields of a provider that did not converge.
const MAX_MISMATCHES: usize = 8;
/// The columns of a time in the history.
const AGO_WIDTH: usize = 13;

/// The status, with the headline first. Several workspaces have a line each, failing ones first, and those that are not in
/// sync follow in full. `now` is the time on the daemon's clock.
#[must_use]
pub fn text(status: &Status, now: Timestamp) -> String {
    if let [workspace] = status.workspaces.as_slice() {
        return describe_workspace(status, workspace, now);
    }
    let mut all: Vec<(Health, &WorkspaceStatus)> = status
        .workspaces
        .iter()
        .map(|workspace| (health(workspace, now), workspace))
        .collect();
    all.sort_by_key(|(health, _)| health.level);
    let good = all
        .iter()
        .filter(|(health, _)| health.level == HealthLevel::InSync)
        .count();
    let mut out = format!(
        "{BOLD}{good} of {} workspaces in sync{BOLD:#}\n\n",
        all.len()
    );
    for (health, workspace) in &all {
        let label = ellipsize(&printable(workspace.label()), 40);
        let style = style(health.level);
        let text = wrap(&health.headline, 2 + text_column(&label), LABEL + 3);
        let _ = writeln!(out, "  {label:<LABEL$} {style}{text}{style:#}");
    }
    let not_in_sync = all
        .iter()
        .filter(|(health, _)| health.level != HealthLevel::InSync);
    for (_, workspace) in not_in_sync.clone().take(MAX_IN_FULL) {
        let _ = write!(out, "\n{}", describe_workspace(status, workspace, now));
    }
    let rest = not_in_sync.count().saturating_sub(MAX_IN_FULL);
    if rest > 0 {
        let _ = writeln!(
            out,
            "\nand {rest} more that are not in sync; show one with --workspace"
        );
    }
    out
}

const fn style(level: HealthLevel) -> Style {
    match level {
        HealthLevel::Failing => RED,
        HealthLevel::OutOfSync | HealthLevel::Waiting => YELLOW,
        HealthLevel::InSync => GREEN,
    }
}

/// The lines above a status that is not current, or in its place if there is none.
#[must_use]
pub fn connection_lost(why: &str, since: Duration, stale: bool) -> String {
    let below = if stale {
        "; the last known status follows"
    } else {
        ""
    };
    let text = format!(
        "No connection to the daemon for {}: {}{below}",
        human_duration(since),
        printable(why)
    );
    format!("{RED}{}{RED:#}\n", wrap(&text, 0, 2))
}

fn describe_workspace(status: &Status, workspace: &WorkspaceStatus, now: Timestamp) -> String {
    let mut out = String::new();
    let named = workspace
        .name
        .as_deref()
        .map(|name| format!("{}: ", printable(name)))
        .unwrap_or_default();
    let _ = write!(out, "{BOLD}{named}{BOLD:#}");
    let label = named.chars().count()
        + match &workspace.workspace {
            Some(known) => {
                let (slug, name) = (
                    printable(&known.slug),
                    ellipsize(&printable(&known.name), 40),
                );
                let _ = write!(out, "{BOLD}{slug}{BOLD:#} ({name}): ");
                slug.chars().count() + name.chars().count() + 5
            }
            None => {
                let directory = ellipsize(&printable(&workspace.directory), 40);
                let _ = write!(out, "{BOLD}{directory}/{BOLD:#}: ");
                directory.chars().count() + 3
            }
        };
    let health = health(workspace, now);
    let style = style(health.level);
    let verdict = match &health.detail {
        Some(detail) => format!("{}: {detail}", health.headline),
        None => health.headline.clone(),
    };
    let _ = writeln!(
        out,
        "{style}{BOLD}{}{BOLD:#}{style:#}\n",
        wrap(&verdict, label, 2)
    );
    write_facts(&mut out, status, workspace, &health, now);

    let out_of_sync: Vec<&ProviderStatus> = workspace
        .providers
        .iter()
        .filter(|provider| {
            !matches!(
                provider.state,
                ProviderState::InSync | ProviderState::Unmanaged
            )
        })
        .collect();
    if !out_of_sync.is_empty() {
        let _ = writeln!(out, "\n{BOLD}Out of sync{BOLD:#}");
    }
    for provider in out_of_sync {
        let label = printable(
            provider
                .provider
                .as_deref()
                .or(provider.file.as_deref())
                .unwrap_or("?"),
        );
        let style = if provider.is_failing() { RED } else { YELLOW };
        let text = wrap(
            &describe_provider(provider, now),
            2 + text_column(&label),
            LABEL + 3,
        );
        let _ = writeln!(out, "  {label:<LABEL$} {style}{text}{style:#}");
    }
    write_undone(&mut out, workspace);
    write_errors(&mut out, workspace);
    write_recent(&mut out, workspace, now);
    out
}

fn write_facts(
    out: &mut String,
    status: &Status,
    workspace: &WorkspaceStatus,
    health: &Health,
    now: Timestamp,
) {
    let mut fact = |name: &str, text: &str| {
        let _ = writeln!(out, "  {name:<9} {}", wrap(text, 12, 12));
    };
    if let Some(revision) = &workspace.revision {
        let commit = printable(&revision.short());
        let room = WIDTH.saturating_sub(13 + commit.chars().count());
        let subject = ellipsize(&printable(&revision.subject), room);
        fact("revision", &format!("{commit} {subject}"));
        let author = ellipsize(&printable(&revision.author), 40);
        let made = revision
            .time
            .parse()
            .map(|time| format!(", {} ago", human_duration(elapsed(time, now))))
            .unwrap_or_default();
        fact("", &format!("by {author}{made}"));
    }
    if let Some(repository) = &workspace.repository {
        let (of, state) = describe_repository(repository, health, now);
        fact("git", &of);
        state.iter().for_each(|sentence| fact("", sentence));
    }
    if let Some(trust) = &workspace.trust {
        let commit = trust.commit.as_deref().map(short_commit).map(printable);
        let commit = commit.unwrap_or_default();
        let reason = trust.reason.as_deref().map(printable).unwrap_or_default();
        let behind = trust
            .behind
            .and_then(|behind| plural(behind as usize, "commit", "commits"))
            .map(|commits| format!("; the revision is {commits} behind"))
            .unwrap_or_default();
        let refused = format!("{commit} refused: {reason}{behind}");
        fact(
            "signature",
            if trust.trusted {
                "trusted"
            } else {
                refused.trim_start()
            },
        );
    }
    if let Some(key) = &workspace.api_key {
        let today = now.to_zoned(TimeZone::UTC).date();
        match (key.expiry(), &key.error) {
            (Some(expiry), _) => fact("api key", &expiry.describe(today)),
            (None, Some(error)) => fact("api key", &printable(error)),
            (None, None) => {}
        }
    }
    for (at, notice) in workspace.catalogue.iter().rev().take(3).enumerate() {
        let label = if at == 0 { "catalogue" } else { "" };
        let age = human_duration(elapsed(notice.time, now));
        fact(
            label,
            &format!("{}, {age} ago", printable(&notice.sentence())),
        );
    }
    if let Some(last) = &workspace.last_pass {
        let took = Duration::try_from_secs_f64(last.duration_seconds).unwrap_or_default();
        fact(
            "last run",
            &format!(
                "{} ({}), {} ago, took {}",
                last.number,
                last.trigger.as_str(),
                human_duration(elapsed(last.began, now)),
                human_duration(took)
            ),
        );
    }
    if let Some(hold) = &workspace.hold {
        let reason = hold.reason.as_deref();
        let reason = reason.map_or_else(|| "no reason given".to_owned(), printable);
        let text = format!(
            "until {}: {reason}; nothing is written",
            printable(&hold.until)
        );
        fact("on hold", &text);
        if let Some(digest) = &hold.digest {
            let digest = printable(digest);
            fact(
                "",
                &format!("the updates wait as {digest}; an approval needs a reason"),
            );
        }
    }
    match (workspace.pass, workspace.next_pass) {
        (Some(pass), _) => {
            let since = human_duration(elapsed(pass.began, now));
            fact(
                "next run",
                &format!(
                    "{} ({}), running for {since}",
                    pass.number,
                    pass.trigger.as_str()
                ),
            );
        }
        (None, Some(next)) if next > now => fact(
            "next run",
            &format!("in {}", human_duration(elapsed(now, next))),
        ),
        (None, Some(_)) => fact("next run", "now"),
        (None, None) => {}
    }
    let mode = match workspace.mode {
        Mode::Enforce => "enforces",
        Mode::Observe => "observes, and writes nothing",
    };
    if let Some(leadership) = &workspace.leadership {
        let lease = printable(&leadership.lease);
        let holder = leadership.holder.as_deref().map(printable);
        let text = match (leadership.state, holder) {
            (ReplicaRole::Leader, _) => format!("this replica, by the Lease {lease}"),
            (ReplicaRole::Standby, Some(holder)) => {
                format!("{holder} holds the Lease {lease}; this replica is a standby")
            }
            (ReplicaRole::Standby, None) => {
                format!("no known holder of the Lease {lease}; this replica is a standby")
            }
        };
        fact("leader", &text);
    }
    let interval =
        human_duration(Duration::try_from_secs_f64(workspace.interval_seconds).unwrap_or_default());
    let (version, started) = (
        printable(&status.version),
        human_duration(elapsed(status.started, now)),
    );
    fact(
        "daemon",
        &format!("calry-gitops {version}, {mode}, every {interval}; up for {started}"),
    );
}

/// The address and the reference of a repository, and what is known about its fetches, a line each.
fn describe_repository(
    repository: &RepositoryStatus,
    health: &Health,
    now: Timestamp,
) -> (String, Vec<String>) {
    let ago = |time| format!("{} ago", human_duration(elapsed(time, now)));
    let url = ellipsize(&printable(&repository.url), 200);
    let of = format!("{} of {url}", repository.short_reference());
    let mut state = Vec::new();
    if let (Some(commit), Some(time)) = (&repository.commit, repository.commit_fetched) {
        let commit = printable(short_commit(commit));
        let current = match repository.last_success {
            Some(last) => format!("last successful fetch {}", ago(last)),
            None => "not fetched again since the start".to_owned(),
        };
        state.push(format!("{commit} fetched {}; {current}", ago(time)));
    }
    if let Some(failure) = &repository.failure {
        let (since, next) = (
            human_duration(elapsed(failure.since, now)),
            repository.next_fetch,
        );
        let attempts = counted(
            usize::try_from(failure.times).unwrap_or(usize::MAX),
            "attempt",
            "attempts",
        );
        let next = match next {
            Some(next) if next > now => {
                format!("; next attempt in {}", human_duration(elapsed(now, next)))
            }
            Some(_) => "; next attempt now".to_owned(),
            None => String::new(),
        };
        let message = printable(&failure.message);
        let reason = match &health.detail {
            Some(shown) if *shown == message => String::new(),
            Some(_) | None => format!(": {message}"),
        };
        state.push(format!("failing for {since} ({attempts}){reason}{next}"));
    }
    (of, state)
}

/// The state of a provider that is not in sync.
fn describe_provider(provider: &ProviderStatus, now: Timestamp) -> String {
    let since = human_duration(elapsed(provider.since, now));
    let cause = match provider.cause {
        Some(Cause::Drift) => " (drift)",
        _ => "",
    };
    let mut text = match (provider.state, provider.outcome) {
        (ProviderState::Update, Some(UpdateOutcome::Failed)) => {
            format!("update failed; out of sync for {since}{cause}")
        }
        (ProviderState::Update, Some(UpdateOutcome::NotConverged)) => {
            format!("not converged for {since}")
        }
        (ProviderState::Update, Some(_)) => format!("waiting; out of sync for {since}{cause}"),
        (ProviderState::Update, None) => format!("out of sync for {since}{cause}"),
        (ProviderState::Held, _) => match &provider.hold {
            Some(hold) => {
                let reason = hold
                    .reason
                    .as_deref()
                    .map_or_else(|| "no reason given".to_owned(), printable);
                let left = match provider.hold_days_left {
                    Some(0) => " (last day)".to_owned(),
                    Some(1) => " (1 day left)".to_owned(),
                    Some(days) => format!(" ({days} days left)"),
                    None => String::new(),
                };
                format!("on hold until {}{left}: {reason}", printable(&hold.until))
            }
            None => "on hold".to_owned(),
        },
        (ProviderState::Invalid, _) => format!("invalid for {since}"),
        (ProviderState::Unreadable, _) => format!("unreadable in Calry's answer for {since}"),
        (ProviderState::Missing, _) => format!("missing for {since}"),
        (ProviderState::InSync | ProviderState::Unmanaged, _) => String::new(),
    };
    if !provider.changes.is_empty() {
        let _ = write!(text, "; {}", name_change_items(&provider.changes, 0));
    }
    if let Some(consequence) = &provider.consequence {
        let _ = write!(text, "; {}", printable(consequence));
    }
    if let Some(hold) = &provider.ended_hold {
        let _ = write!(text, "; its hold until {} is over", printable(&hold.until));
    }
    if provider.not_converged.is_empty()
        && let Some(error) = &provider.error
    {
        let _ = write!(text, "; {}", printable(error));
    }
    for field in provider.not_converged.iter().take(MAX_MISMATCHES) {
        let _ = write!(text, "; {}", describe_mismatch(field));
    }
    let more = provider.not_converged.len().saturating_sub(MAX_MISMATCHES);
    if more > 0 {
        let _ = write!(text, "; and {more} more");
    }
    if let Some(retry) = provider.retry_at {
        let left = if retry > now {
            format!("in {}", human_duration(elapsed(now, retry)))
        } else {
            "now".to_owned()
        };
        let _ = write!(text, "; next attempt {left}, or when its file changes");
    }
    text
}

/// The providers whose updates another writer undoes.
fn write_undone(out: &mut String, workspace: &WorkspaceStatus) {
    for provider in &workspace.providers {
        if let (Some(name), Some(times)) = (&provider.provider, provider.undone) {
            let name = printable(name);
            let text = format!(
                "{name}: another writer undid each of the last {times} updates; is a second calry-gitops running?"
            );
            let _ = writeln!(out, "  {RED}{}{RED:#}", wrap(&text, 2, 4));
        }
    }
}

fn write_errors(out: &mut String, workspace: &WorkspaceStatus) {
    let errors: Vec<&DiagnosticItem> = workspace
        .diagnostics
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    if errors.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{BOLD}Errors in the files{BOLD:#}");
    for error in errors.iter().take(MAX_ERRORS) {
        let place = error
            .line
            .zip(error.column)
            .map(|(line, column)| format!(":{line}:{column}"))
            .unwrap_or_default();
        let (file, message) = (printable(&error.file), printable(&error.message));
        let text = format!("{file}{place}: {message}");
        let _ = writeln!(out, "  {RED}{}{RED:#}", wrap(&text, 2, 4));
    }
    if errors.len() > MAX_ERRORS {
        let _ = writeln!(out, "  and {} more", errors.len() - MAX_ERRORS);
    }
}

fn write_recent(out: &mut String, workspace: &WorkspaceStatus, now: Timestamp) {
    let wrong = workspace
        .history
        .passes
        .iter()
        .filter_map(|pass| Some((pass.began, describe_failure(pass)?)));
    let changes = workspace
        .history
        .changes
        .iter()
        .map(|record| (record.time, describe_change(record)));
    let mut lines: Vec<(Timestamp, String)> = wrong.chain(changes).collect();
    lines.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{BOLD}Recent{BOLD:#}");
    }
    for (time, what) in lines.iter().take(MAX_RECENT) {
        let ago = format!("{} ago", human_duration(elapsed(*time, now)));
        let _ = writeln!(
            out,
            "  {DIM}{ago:<AGO_WIDTH$}{DIM:#} {}",
            wrap(what, AGO_WIDTH + 3, AGO_WIDTH + 3)
        );
    }
}

fn describe_failure(pass: &ReconciliationRecord) -> Option<String> {
    let error = printable(pass.error.as_deref()?);
    Some(format!(
        "reconciliation {} ({}) failed{}: {error}",
        pass.number,
        pass.trigger.as_str(),
        describe_repetition(pass.times)
    ))
}

fn describe_change(record: &ChangeRecord) -> String {
    let provider = printable(&record.provider);
    let what = name_change_items(&record.changes, record.more);
    let done = match (record.outcome, record.cause) {
        (None, Cause::Change) => "would be updated",
        (None, Cause::Drift) => "has drifted",
        (Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged), Cause::Change) => "updated",
        (Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged), Cause::Drift) => {
            "drifted; drift undone"
        }
        (Some(UpdateOutcome::NotConverged), Cause::Change) => "did not converge",
        (Some(UpdateOutcome::NotConverged), Cause::Drift) => "drifted, and did not converge",
        (Some(UpdateOutcome::Failed | UpdateOutcome::Skipped), Cause::Change) => "was not updated",
        (Some(UpdateOutcome::Failed | UpdateOutcome::Skipped), Cause::Drift) => {
            "drifted; drift not undone"
        }
    };
    let error = record
        .error
        .as_deref()
        .map(|error| format!("; {}", printable(error)))
        .unwrap_or_default();
    format!(
        "{provider} {done}{}: {what}{error}",
        describe_repetition(record.times)
    )
}

fn describe_repetition(times: u64) -> String {
    if times > 1 {
        format!(", {times} times")
    } else {
        String::new()
    }
}
