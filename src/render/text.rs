//! Plans and reports as a person reads them on a terminal of 80 columns. Styled; who prints it strips the colours.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use similar::TextDiff;

use super::view::{before_and_after, references};
use crate::apply::{Outcome, Report};
use crate::model::{ellipsize, printable};
use crate::plan::{Change, Entry, Mismatch, Payload, Plan, Step, Summary, Value, Verdict};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// The plan: a diff for each provider that changes, why the others do not, and a summary line.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let workspace = &plan.workspace;
    let _ =
        write!(out, "{BOLD}{}{BOLD:#} ({})", printable(&workspace.slug), ellipsize(&printable(&workspace.name), 40));
    if let Some(revision) = &plan.revision {
        let subject = ellipsize(&printable(&revision.subject), 40);
        let _ = write!(out, " at {} {DIM}{subject}{DIM:#}", revision.short());
    }
    out.push_str("\n\n");
    for entry in &plan.entries {
        if let Verdict::Update(step) = &entry.verdict {
            changes(&mut out, entry, step);
        }
    }
    let untouched: Vec<String> = plan.entries.iter().filter_map(untouched).collect();
    if !untouched.is_empty() {
        let _ = writeln!(out, "{BOLD}Not touched{BOLD:#}");
        for line in untouched {
            let _ = writeln!(out, "  {line}");
        }
        out.push('\n');
    }
    let summary = plan.summary();
    let style = if summary.update > 0 { YELLOW } else { GREEN };
    let _ = writeln!(out, "{style}{BOLD}Plan: {}.{BOLD:#}{style:#}", counts(&summary));
    match (&plan.digest, summary.update) {
        (Some(digest), 1..) => {
            let _ = writeln!(out, "{DIM}{digest}{DIM:#}");
        }
        (None, _) => {
            let values: usize = plan.entries.iter().map(|e| e.unresolved.len()).sum();
            let _ = writeln!(out, "{values} values below partnerKey were not compared: their secrets are not at hand.");
        }
        _ => {}
    }
    out
}

/// The counts of a plan, as words: `12 to update, 7 in sync, 1 held`.
#[must_use]
pub fn counts(summary: &Summary) -> String {
    // Destructured in full, so that a new state does not compile until it is told.
    let Summary { in_sync, update, invalid, missing, held, unmanaged } = *summary;
    let mut parts = vec![format!("{update} to update"), format!("{in_sync} in sync")];
    for (count, word) in [(held, "held"), (invalid, "invalid"), (missing, "missing"), (unmanaged, "unmanaged")] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    parts.join(", ")
}

fn changes(out: &mut String, entry: &Entry, step: &Step) {
    let file = entry.file.as_deref().unwrap_or_default();
    let _ = writeln!(out, "{BOLD}{}{BOLD:#}  {DIM}{}{DIM:#}  {}", entry.label(), printable(file), brief(&step.changes));
    let (before, after) = before_and_after(step);
    let diff = TextDiff::from_lines(&before, &after);
    for hunk in diff.unified_diff().context_radius(2).iter_hunks() {
        let _ = writeln!(out, "  {CYAN}{}{CYAN:#}", hunk.header());
        for change in hunk.iter_changes() {
            let style = match change.tag() {
                similar::ChangeTag::Delete => RED,
                similar::ChangeTag::Insert => GREEN,
                similar::ChangeTag::Equal => Style::new(),
            };
            let line = printable(change.value().trim_end_matches('\n'));
            let _ = writeln!(out, "  {style}{}{line}{style:#}", change.tag());
        }
    }
    for unresolved in &entry.unresolved {
        let _ = writeln!(
            out,
            "  {DIM}{}: {} will be resolved at apply time{DIM:#}",
            printable(&unresolved.path),
            references(&unresolved.secrets)
        );
    }
    if !matches!(step.payload, Payload::SecretsUnavailable)
        && let Some(why) = step.payload.refusal()
    {
        let _ = writeln!(out, "  {RED}{why}{RED:#}");
    }
    out.push('\n');
}

fn untouched(entry: &Entry) -> Option<String> {
    let file = entry.file.as_deref().map(printable).unwrap_or_default();
    let why = match &entry.verdict {
        Verdict::Update(_) => return None,
        Verdict::InSync(_) if entry.unresolved.is_empty() => return None,
        Verdict::InSync(_) => {
            let paths: Vec<String> = entry.unresolved.iter().map(|u| printable(&u.path)).collect();
            format!("in sync, but for what is resolved at apply time: {}", paths.join(", "))
        }
        Verdict::Held { hold, pending } => {
            let reason = hold.reason.as_deref().map_or_else(|| "no reason given".to_owned(), printable);
            let pending = match pending.len() {
                0 => "nothing pending".to_owned(),
                _ => format!("pending: {}", brief(pending)),
            };
            format!("held until {}: {reason} ({pending})", hold.until)
        }
        Verdict::Invalid => format!("invalid: {file} has errors"),
        Verdict::Missing => format!("missing: {file} names it, and the workspace does not have it"),
        Verdict::Unreadable(problem) => {
            format!("unreadable: Calry's definition cannot be read: {}", printable(problem))
        }
        Verdict::Unmanaged => "unmanaged: it has no file".to_owned(),
    };
    let label = printable(entry.label());
    Some(format!("{label:<17} {why}"))
}

/// The changes of one provider in few words: `3 fields on, 1 off, icon, header x-api-key`.
#[must_use]
pub fn brief(changes: &[Change]) -> String {
    let on = changes.iter().filter(|c| matches!(c, Change::Field { after: true, .. })).count();
    let off = changes.iter().filter(|c| matches!(c, Change::Field { after: false, .. })).count();
    let mut parts = Vec::new();
    if changes.iter().any(|c| matches!(c, Change::Icon { .. })) {
        parts.push("icon".to_owned());
    }
    let keys = changes.iter().filter(|c| c.sensitive()).count();
    for (count, one, many) in [
        (keys, "partner key value", "partner key values"),
        (on, "field on", "fields on"),
        (off, "field off", "fields off"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {}", if count == 1 { one } else { many }));
        }
    }
    parts.join(", ")
}

/// The changes of one provider by name, at most eight of them: `pictures on, rating off, icon, headers.x-api-key`.
#[must_use]
pub fn named(changes: &[Change]) -> String {
    const MOST: usize = 8;
    let mut parts: Vec<String> = changes
        .iter()
        .take(MOST)
        .map(|change| {
            let path = printable(&change.path());
            let path = path.strip_prefix("fieldsToSync.").or(path.strip_prefix("partnerKey.")).unwrap_or(&path);
            match change {
                Change::Field { after, .. } => format!("{path} {}", if *after { "on" } else { "off" }),
                Change::Icon { .. } | Change::Key { .. } => path.to_owned(),
            }
        })
        .collect();
    if changes.len() > MOST {
        parts.push(format!("and {} more", changes.len() - MOST));
    }
    parts.join(", ")
}

/// What an apply did, provider by provider, and a summary line.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for result in &report.results {
        let style = match result.outcome {
            Outcome::Applied | Outcome::Unchanged => GREEN,
            Outcome::Skipped(_) => YELLOW,
            Outcome::Failed(_) | Outcome::NotConverged(_) => RED,
        };
        let word = match result.outcome {
            Outcome::NotConverged(_) => "not converged",
            ref other => other.as_str(),
        };
        let _ = write!(out, "{:<17} {style}{word}{style:#}", result.provider);
        match &result.outcome {
            Outcome::Applied => {
                let _ = writeln!(out, "  {DIM}{}{DIM:#}", named(&result.changes));
            }
            Outcome::Unchanged => {
                let _ = writeln!(out, "  {DIM}it was as desired already{DIM:#}");
            }
            Outcome::Failed(why) | Outcome::Skipped(why) => {
                let _ = writeln!(out, ": {why}");
            }
            Outcome::NotConverged(mismatches) => {
                let _ = writeln!(out, ": Calry took the update, but its answer differs in");
                for mismatch in mismatches {
                    let _ = writeln!(out, "  {}", mismatched(mismatch));
                }
            }
        }
    }
    let count = |wanted: &str| report.results.iter().filter(|r| r.outcome.as_str() == wanted).count();
    let mut parts = vec![format!("{} of {} applied", count("applied"), report.results.len())];
    for (state, words) in [
        ("unchanged", "already as desired"),
        ("notConverged", "not converged"),
        ("failed", "failed"),
        ("skipped", "skipped"),
    ] {
        if count(state) > 0 {
            parts.push(format!("{} {words}", count(state)));
        }
    }
    let style = if report.results.iter().all(|r| r.outcome.is_done()) { GREEN } else { RED };
    let _ = writeln!(out, "{style}{BOLD}Apply: {}.{BOLD:#}{style:#}", parts.join(", "));
    out
}

/// One field that did not converge: `listing.pool: sent true, Calry kept nothing`.
#[must_use]
pub fn mismatched(mismatch: &Mismatch) -> String {
    let path = printable(&mismatch.path);
    if mismatch.sensitive {
        return format!("{path}: Calry kept another value than was sent (both are sensitive)");
    }
    let show = |value: &Value| match value {
        Value::None => "nothing".to_owned(),
        Value::Bool(on) => on.to_string(),
        Value::Text(text) => printable(text),
    };
    format!("{path}: sent {}, Calry kept {}", show(&mismatch.sent), show(&mismatch.kept))
}
