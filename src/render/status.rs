//! The status of a daemon as a person reads it on a terminal of 80 columns. It came over the wire: every text in it is
//! foreign.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;

use super::text::{BOLD, DIM, GREEN, LABEL, RED, WIDTH, YELLOW, column, wrapped};
use crate::model::{Severity, ellipsize, human_duration, printable};
use crate::plan::Cause;
use crate::report::health::{Health, HealthLevel, health};
use crate::report::plan::{ChangeItem, DiagnosticItem, PlainValue};
use crate::report::status::{
    ChangeRecord, LeadershipStatus, Mode, ProviderState, ProviderStatus, ReconciliationRecord,
    ReplicaRole, Status, UpdateOutcome, WorkspaceStatus,
};
use crate::report::words::{describe_mismatch, elapsed};

/// Of several workspaces, how many that are not well are shown in full.
const IN_FULL: usize = 5;
/// How much of the history is shown.
const RECENT: usize = 6;
/// How many problems of files are shown.
const PROBLEMS: usize = 10;
/// How many fields that did not converge are shown of a provider.
const MISMATCHES: usize = 8;
/// The columns of how long ago something was.
const AGO: usize = 13;

/// The status, the verdict first. Of several workspaces a line each, trouble on top, and then those that are not well. `now`
/// is the time on the daemon's clock.
#[must_use]
pub fn text(status: &Status, now: Timestamp) -> String {
    if let [workspace] = status.workspaces.as_slice() {
        return one(status, workspace, now);
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
    for (
        Health {
            level, headline, ..
        },
        workspace,
    ) in &all
    {
        let (label, style) = (ellipsize(&printable(workspace.label()), 40), style(*level));
        let told = wrapped(headline, 2 + column(&label), LABEL + 3);
        let _ = writeln!(out, "  {label:<LABEL$} {style}{told}{style:#}");
    }
    let unwell = all
        .iter()
        .filter(|(health, _)| health.level != HealthLevel::InSync);
    for (_, workspace) in unwell.clone().take(IN_FULL) {
        let _ = write!(out, "\n{}", one(status, workspace, now));
    }
    let rest = unwell.count().saturating_sub(IN_FULL);
    if rest > 0 {
        let _ = writeln!(
            out,
            "\nand {rest} more that are not well; --workspace shows one of them"
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

/// What stands above a status that is not fresh, or in its place where there is none.
#[must_use]
pub fn connection_lost(why: &str, since: Duration, stale: bool) -> String {
    let below = if stale {
        "; what follows is what the daemon said last"
    } else {
        ""
    };
    let told = format!(
        "No contact for {}: {}{below}",
        human_duration(since),
        printable(why)
    );
    format!("{RED}{}{RED:#}\n", wrapped(&told, 0, 2))
}

fn one(status: &Status, workspace: &WorkspaceStatus, now: Timestamp) -> String {
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
    let Health {
        level,
        headline,
        detail,
    } = health(workspace, now);
    let style = style(level);
    let verdict = detail.map_or(headline.clone(), |detail| format!("{headline}: {detail}"));
    let _ = writeln!(
        out,
        "{style}{BOLD}{}{BOLD:#}{style:#}\n",
        wrapped(&verdict, label, 2)
    );
    facts(&mut out, status, workspace, now);

    let noisy: Vec<&ProviderStatus> = workspace
        .providers
        .iter()
        .filter(|provider| {
            !matches!(
                provider.state,
                ProviderState::InSync | ProviderState::Unmanaged
            )
        })
        .collect();
    if !noisy.is_empty() {
        let _ = writeln!(out, "\n{BOLD}Out of sync{BOLD:#}");
    }
    for provider in noisy {
        let label = printable(
            provider
                .provider
                .as_deref()
                .or(provider.file.as_deref())
                .unwrap_or("?"),
        );
        let style = if provider.is_failing() { RED } else { YELLOW };
        let told = wrapped(&state(provider, now), 2 + column(&label), LABEL + 3);
        let _ = writeln!(out, "  {label:<LABEL$} {style}{told}{style:#}");
    }
    undone(&mut out, workspace);
    problems(&mut out, workspace);
    recent(&mut out, workspace, now);
    out
}

fn facts(out: &mut String, status: &Status, workspace: &WorkspaceStatus, now: Timestamp) {
    let mut fact = |name: &str, text: &str| {
        let _ = writeln!(out, "  {name:<9} {}", wrapped(text, 12, 12));
    };
    if let Some(revision) = &workspace.revision {
        let commit: String = printable(&revision.commit).chars().take(10).collect();
        let dirty = if revision.dirty { "+dirty" } else { "" };
        let room = WIDTH.saturating_sub(13 + commit.chars().count() + dirty.len());
        fact(
            "revision",
            &format!(
                "{commit}{dirty} {}",
                ellipsize(&printable(&revision.subject), room)
            ),
        );
        let author = ellipsize(&printable(&revision.author), 40);
        let made = revision
            .time
            .parse()
            .map(|time| format!(", {} ago", human_duration(elapsed(time, now))))
            .unwrap_or_default();
        fact("", &format!("by {author}{made}"));
    }
    if let Some(trust) = &workspace.trust {
        let commit: String = trust
            .commit
            .as_deref()
            .map(printable)
            .unwrap_or_default()
            .chars()
            .take(10)
            .collect();
        let reason = trust.reason.as_deref().map(printable).unwrap_or_default();
        let refused = format!("{commit} refused: {reason}");
        fact(
            "signature",
            if trust.trusted {
                "trusted"
            } else {
                refused.trim_start()
            },
        );
    }
    if let Some(ReconciliationRecord {
        number,
        trigger,
        began,
        duration_seconds,
        ..
    }) = &workspace.last_pass
    {
        let took =
            human_duration(Duration::try_from_secs_f64(*duration_seconds).unwrap_or_default());
        fact(
            "last pass",
            &format!(
                "{number} ({}), {} ago, took {took}",
                trigger.as_str(),
                human_duration(elapsed(*began, now))
            ),
        );
    }
    match (workspace.pass, workspace.next_pass) {
        (Some(pass), _) => {
            let since = human_duration(elapsed(pass.began, now));
            fact(
                "next pass",
                &format!(
                    "{} ({}), under way for {since}",
                    pass.number,
                    pass.trigger.as_str()
                ),
            );
        }
        (None, Some(next)) if next > now => fact(
            "next pass",
            &format!("in {}", human_duration(elapsed(now, next))),
        ),
        (None, Some(_)) => fact("next pass", "now"),
        (None, None) => {}
    }
    let mode = match workspace.mode {
        Mode::Enforce => "enforces",
        Mode::Observe => "observes, and writes nothing",
    };
    if let Some(LeadershipStatus {
        lease,
        state,
        holder,
    }) = &workspace.leadership
    {
        let (lease, holder) = (printable(lease), holder.as_deref().map(printable));
        let told = match (state, holder) {
            (ReplicaRole::Leader, _) => format!("this replica, by the Lease {lease}"),
            (ReplicaRole::Standby, Some(holder)) => {
                format!("{holder} holds the Lease {lease}; this replica stands by")
            }
            (ReplicaRole::Standby, None) => {
                format!("nobody is known to hold the Lease {lease}; this replica stands by")
            }
        };
        fact("leader", &told);
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

/// How a provider stands that is not quiet.
fn state(provider: &ProviderStatus, now: Timestamp) -> String {
    let since = human_duration(elapsed(provider.since, now));
    let cause = match provider.cause {
        Some(Cause::Drift) => " by drift",
        _ => "",
    };
    let mut told = match (provider.state, provider.outcome) {
        (ProviderState::Update, Some(UpdateOutcome::Failed)) => {
            format!("failed, and differs{cause} for {since}")
        }
        (ProviderState::Update, Some(UpdateOutcome::NotConverged)) => {
            format!("not converged for {since}")
        }
        (ProviderState::Update, Some(_)) => format!("waits, and differs{cause} for {since}"),
        (ProviderState::Update, None) => format!("differs{cause} for {since}"),
        (ProviderState::Held, _) => match &provider.hold {
            Some(hold) => {
                let reason = hold
                    .reason
                    .as_deref()
                    .map_or_else(|| "no reason given".to_owned(), printable);
                let left = match provider.hold_days_left {
                    Some(0) => " (its last day)".to_owned(),
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
        let _ = write!(told, "; {}", name_changes(&provider.changes, 0));
    }
    if let Some(hold) = &provider.ended_hold {
        let _ = write!(told, "; its hold until {} is over", printable(&hold.until));
    }
    if provider.not_converged.is_empty()
        && let Some(error) = &provider.error
    {
        let _ = write!(told, "; {}", printable(error));
    }
    for field in provider.not_converged.iter().take(MISMATCHES) {
        let _ = write!(told, "; {}", describe_mismatch(&field.clone().into()));
    }
    let more = provider.not_converged.len().saturating_sub(MISMATCHES);
    if more > 0 {
        let _ = write!(told, "; and {more} more");
    }
    if let Some(retry) = provider.retry_at {
        let left = if retry > now {
            format!("in {}", human_duration(elapsed(now, retry)))
        } else {
            "now".to_owned()
        };
        let _ = write!(told, "; tried again {left}, or when its file changes");
    }
    told
}

/// The providers whose updates another writer undoes.
fn undone(out: &mut String, workspace: &WorkspaceStatus) {
    for provider in &workspace.providers {
        if let (Some(name), Some(times)) = (&provider.provider, provider.undone) {
            let name = printable(name);
            let told = format!(
                "{name}: another writer undid each of the last {times} updates; is a second calry-gitops running?"
            );
            let _ = writeln!(out, "  {RED}{}{RED:#}", wrapped(&told, 2, 4));
        }
    }
}

fn problems(out: &mut String, workspace: &WorkspaceStatus) {
    let errors: Vec<&DiagnosticItem> = workspace
        .diagnostics
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    if errors.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{BOLD}Errors in the files{BOLD:#}");
    for DiagnosticItem {
        file,
        line,
        column,
        message,
        ..
    } in errors.iter().take(PROBLEMS)
    {
        let place = line
            .zip(*column)
            .map(|(line, column)| format!(":{line}:{column}"))
            .unwrap_or_default();
        let told = format!("{}{place}: {}", printable(file), printable(message));
        let _ = writeln!(out, "  {RED}{}{RED:#}", wrapped(&told, 2, 4));
    }
    if errors.len() > PROBLEMS {
        let _ = writeln!(out, "  and {} more", errors.len() - PROBLEMS);
    }
}

fn recent(out: &mut String, workspace: &WorkspaceStatus, now: Timestamp) {
    let wrong = workspace
        .history
        .passes
        .iter()
        .filter_map(|pass| Some((pass.began, failed(pass)?)));
    let changes = workspace
        .history
        .changes
        .iter()
        .map(|record| (record.time, happened(record)));
    let mut lines: Vec<(Timestamp, String)> = wrong.chain(changes).collect();
    lines.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{BOLD}Recent{BOLD:#}");
    }
    for (time, what) in lines.iter().take(RECENT) {
        let ago = format!("{} ago", human_duration(elapsed(*time, now)));
        let _ = writeln!(
            out,
            "  {DIM}{ago:<AGO$}{DIM:#} {}",
            wrapped(what, AGO + 3, AGO + 3)
        );
    }
}

fn failed(pass: &ReconciliationRecord) -> Option<String> {
    let error = printable(pass.error.as_deref()?);
    Some(format!(
        "pass {} ({}) went wrong{}: {error}",
        pass.number,
        pass.trigger.as_str(),
        times(pass.times)
    ))
}

fn happened(record: &ChangeRecord) -> String {
    let ChangeRecord {
        cause,
        outcome,
        changes,
        more,
        error,
        ..
    } = record;
    let provider = printable(&record.provider);
    let what = name_changes(changes, *more);
    let done = match (outcome, cause) {
        (None, Cause::Change) => "would be updated",
        (None, Cause::Drift) => "has drifted",
        (Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged), Cause::Change) => "updated",
        (Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged), Cause::Drift) => {
            "drifted, and was put back"
        }
        (Some(UpdateOutcome::NotConverged), Cause::Change) => "did not converge",
        (Some(UpdateOutcome::NotConverged), Cause::Drift) => "drifted, and did not converge",
        (Some(UpdateOutcome::Failed | UpdateOutcome::Skipped), Cause::Change) => "was not updated",
        (Some(UpdateOutcome::Failed | UpdateOutcome::Skipped), Cause::Drift) => {
            "drifted, and was not put back"
        }
    };
    let error = error
        .as_deref()
        .map(|error| format!("; {}", printable(error)))
        .unwrap_or_default();
    format!("{provider} {done}{}: {what}{error}", times(record.times))
}

fn times(times: u64) -> String {
    if times > 1 {
        format!(", {times} times")
    } else {
        String::new()
    }
}

/// Changes by name, at most eight of them: `listing.pictures on, icon, headers.x-api-key`.
fn name_changes(changes: &[ChangeItem], more: usize) -> String {
    const MOST: usize = 8;
    let mut parts: Vec<String> = changes
        .iter()
        .take(MOST)
        .map(|change| {
            let path = printable(&change.path);
            let path = path
                .strip_prefix("fieldsToSync.")
                .or(path.strip_prefix("partnerKey."))
                .unwrap_or(&path);
            match change.after {
                Some(PlainValue::Bool(on)) => format!("{path} {}", if on { "on" } else { "off" }),
                _ => path.to_owned(),
            }
        })
        .collect();
    let rest = changes.len().saturating_sub(MOST).saturating_add(more);
    if rest > 0 {
        parts.push(format!("and {rest} more"));
    }
    parts.join(", ")
}
