//! Plans and reports as a person reads them on a terminal of 80 columns. Styled; who prints it strips the colours.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::view::{DiffLine, Part, branch, diff, loosened, parts, references};
use crate::apply::{Outcome, Report};
use crate::model::{ellipsize, printable, short_commit};
use crate::plan::{Change, Entry, Mismatch, Missing, Origin, Payload, Plan, Summary, Unresolved, Value, Verdict};

/// The columns of a terminal.
pub(super) const WIDTH: usize = 80;
/// The columns of a provider's name, where others stand below it.
pub(super) const LABEL: usize = 17;

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

/// The plan: a diff for each provider that changes, why the others do not, and a summary line.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let workspace = &plan.workspace;
    let (slug, name) = (printable(&workspace.slug), ellipsize(&printable(&workspace.name), 40));
    let _ = write!(out, "{BOLD}{slug}{BOLD:#} ({name})");
    if let Some(revision) = &plan.revision {
        let at = format!(" at {} ", revision.short());
        let taken = [&slug, &name, &at].iter().map(|text| text.chars().count()).sum::<usize>() + 3;
        let subject = ellipsize(&printable(&revision.subject), WIDTH.saturating_sub(taken).max(20));
        let _ = write!(out, "{at}{DIM}{subject}{DIM:#}");
    }
    out.push('\n');
    if let Some(base) = &plan.base {
        let _ = writeln!(out, "{DIM}this branch began at {}{DIM:#}", short_commit(base));
    }
    if let Some(taken) = &plan.snapshot {
        let _ = writeln!(out, "{DIM}live state as of {}, from a snapshot{DIM:#}", printable(taken));
    }
    out.push('\n');
    if !plan.loosened.is_empty() {
        let _ = writeln!(out, "{RED}{BOLD}This branch stops protecting{BOLD:#}{RED:#}");
        for item in &plan.loosened {
            let (label, sentence) = loosened(item, printable);
            let _ = writeln!(out, "  {label:<LABEL$} {}", wrapped(&sentence, 2 + column(label), LABEL + 3));
        }
        out.push('\n');
    }
    for (origin, parts) in parts(plan) {
        if let Some(origin) = origin.filter(|_| !parts.is_empty()) {
            let _ = writeln!(out, "{BOLD}{}{BOLD:#}\n", heading(origin));
        }
        parts.iter().for_each(|part| changes(&mut out, part));
    }
    let untouched: Vec<(String, String)> = plan.entries.iter().filter_map(untouched).collect();
    if !untouched.is_empty() {
        let _ = writeln!(out, "{BOLD}Not touched{BOLD:#}");
        for (label, why) in untouched {
            let _ = writeln!(out, "  {label:<LABEL$} {}", wrapped(&why, 2 + column(&label), LABEL + 3));
        }
        out.push('\n');
    }
    let summary = plan.summary();
    let style = if summary.update > 0 { YELLOW } else { GREEN };
    let _ = writeln!(out, "{style}{BOLD}Plan: {}.{BOLD:#}{style:#}", counts(&summary));
    if plan.base.is_some() {
        let _ = writeln!(out, "{}", origins(plan));
    }
    match (&plan.digest, summary.update) {
        (Some(digest), 1..) => {
            let _ = writeln!(out, "{DIM}{digest}{DIM:#}");
        }
        (None, _) => {
            let _ = writeln!(out, "{}", wrapped(&not_compared(plan), 0, 0));
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

/// How changes of one origin are called.
fn heading(origin: Origin) -> &'static str {
    match origin {
        Origin::Branch => "This branch changes",
        Origin::Drift => "Drift that was there before",
    }
}

/// Whose changes a plan with a base has: `This branch changes 1 provider; 2 had drifted before.`
pub(super) fn origins(plan: &Plan) -> String {
    let branch = branch(plan).replacen('t', "T", 1);
    match plan.entries.iter().filter(|entry| entry.is_due_to(Origin::Drift)).count() {
        0 => format!("{branch}; none had drifted before."),
        n => format!("{branch}; {n} had drifted before."),
    }
}

/// What could not be compared, and why.
pub(super) fn not_compared(plan: &Plan) -> String {
    let count = |missing| plan.entries.iter().flat_map(|e| &e.unresolved).filter(|u| u.missing == missing).count();
    let values = |n: usize| if n == 1 { "1 value".to_owned() } else { format!("{n} values") };
    let mut parts = Vec::new();
    for (missing, why) in [
        (Missing::Secret, "their secrets are not at hand here, and are resolved at apply time"),
        (Missing::Live, "the snapshot has no fingerprint of them whose key is at hand here"),
    ] {
        if count(missing) > 0 {
            parts.push(format!("{} below partnerKey: {why}", values(count(missing))));
        }
    }
    format!("Not compared: {}.", parts.join("; "))
}

fn changes(out: &mut String, part: &Part<'_>) {
    let Part { entry, step, .. } = part;
    let file = entry.file.as_deref().unwrap_or_default();
    let brief = brief(part.changes.iter().copied());
    let _ = writeln!(out, "{BOLD}{}{BOLD:#}  {DIM}{}{DIM:#}  {brief}", entry.label(), printable(file));
    for line in diff(part) {
        let _ = match line {
            DiffLine::Hunk(header) => writeln!(out, "  {CYAN}{header}{CYAN:#}"),
            DiffLine::Same(text) => writeln!(out, "   {text}"),
            DiffLine::Gone(text) => writeln!(out, "  {RED}-{text}{RED:#}"),
            DiffLine::New(text) => writeln!(out, "  {GREEN}+{text}{GREEN:#}"),
        };
    }
    if let Some(hold) = entry.ended_hold() {
        let _ = writeln!(out, "  {YELLOW}its hold until {} is over{YELLOW:#}", hold.until);
    }
    for unresolved in &entry.unresolved {
        let told = format!("{}: {}", printable(&unresolved.path), later(unresolved));
        let _ = writeln!(out, "  {DIM}{}{DIM:#}", wrapped(&told, 2, 4));
    }
    if !matches!(step.payload, Payload::Incomplete)
        && let Some(why) = step.payload.refusal()
    {
        let _ = writeln!(out, "  {RED}{}{RED:#}", wrapped(&why, 2, 4));
    }
    out.push('\n');
}

/// Why a value was not compared.
fn later(unresolved: &Unresolved) -> String {
    match unresolved.missing {
        Missing::Secret => format!("{} will be resolved at apply time", references(&unresolved.secrets)),
        Missing::Live => "the snapshot does not tell whether it differs".to_owned(),
    }
}

/// The provider, or the file, and why it stays as it is.
fn untouched(entry: &Entry) -> Option<(String, String)> {
    let file = entry.file.as_deref().map(printable).unwrap_or_default();
    let why = match &entry.verdict {
        Verdict::Update(_) => return None,
        Verdict::InSync(..) if entry.unresolved.is_empty() => return None,
        Verdict::InSync(..) => {
            let paths: Vec<String> = entry.unresolved.iter().map(|u| printable(&u.path)).collect();
            format!("in sync, but for what cannot be compared here: {}", paths.join(", "))
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
    Some((printable(entry.label()), why))
}

/// The changes of one provider in few words: `icon, 1 partner key value, 3 fields on, 1 field off`.
#[must_use]
pub fn brief<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    let changes: Vec<&Change> = changes.into_iter().collect();
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
pub fn named<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    const MOST: usize = 8;
    let changes: Vec<&Change> = changes.into_iter().collect();
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
        let label = result.provider.as_str();
        let _ = write!(out, "{label:<LABEL$} {style}{word}{style:#}");
        let at = column(label) + word.len() + 2;
        match &result.outcome {
            Outcome::Applied => {
                let _ = writeln!(out, "  {DIM}{}{DIM:#}", wrapped(&named(&result.changes), at, LABEL + 1));
            }
            Outcome::Unchanged => {
                let _ = writeln!(out, "  {DIM}it was as desired already{DIM:#}");
            }
            Outcome::Failed(why) | Outcome::Skipped(why) => {
                let _ = writeln!(out, ": {}", wrapped(why, at, LABEL + 1));
            }
            Outcome::NotConverged(mismatches) => {
                let _ = writeln!(out, ": Calry took the update, but its answer differs:");
                for mismatch in mismatches {
                    let _ = writeln!(out, "  {}", wrapped(&mismatched(mismatch), 2, 4));
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

/// Where the text after a label begins.
pub(super) fn column(label: &str) -> usize {
    label.chars().count().max(LABEL) + 1
}

/// A text whose first line begins at column `at`, and every other one at column `indent`. A word that is longer than a line
/// stays whole, so that it can be copied.
pub(super) fn wrapped(text: &str, at: usize, indent: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = at;
    for word in text.split(' ') {
        let width = word.chars().count();
        if !out.is_empty() {
            if column + 1 + width > WIDTH {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += width;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_goes_on_under_its_beginning() {
        let text = wrapped(&"0123456789 ".repeat(9), 20, 20);
        assert!(text.lines().all(|line| line.trim_start().len() <= 60));
        assert_eq!(text.lines().nth(1).unwrap(), format!("{}{}", " ".repeat(20), "0123456789 ".repeat(4)));
        assert_eq!(wrapped("short", 20, 20), "short");
        assert_eq!(wrapped(&"x".repeat(99), 20, 20), "x".repeat(99));
    }
}
