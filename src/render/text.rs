//! Plans and reports as text for a terminal of 80 columns. It is styled; the caller strips the colours if they are not wanted.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::view::{
    DiffLine, Part, describe_branch, describe_loosening, describe_suspension, describe_violation,
    diff_lines, join_references, parts_by_origin,
};
use crate::model::{ellipsize, printable, short_commit};
use crate::plan::{
    Change, KeyChange, Missing, Origin, Plan, PlanEntry, PolicyAction, UnresolvedValue, Verdict,
    join_path, refusal,
};
use crate::reconcile::apply::{Outcome, Report};
use crate::report::consequences::describe_consequence;
use crate::report::words::{counted, describe_mismatch, name_changes, nonzero, others, plural};

/// The columns of a terminal.
pub(super) const WIDTH: usize = 80;
/// The columns of a provider's name.
pub(super) const LABEL: usize = 17;

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// What a reader must not miss: fields that are switched off, protections that end.
const DANGER: Style = AnsiColor::Red.on_default().bold();

#[derive(Clone, Copy, Default)]
pub struct Layout<'a> {
    /// Whether to show a unified diff of canonical YAML instead of one line for each change.
    pub diff: bool,
    /// The definitions directory, as the user named it.
    pub directory: &'a str,
    /// The command that applies the plan, if that is the next step.
    pub next: Option<&'a str>,
    /// Whether it is the plan of a restore: no digest approves it, and it says nothing about the definitions directory.
    pub restore: bool,
}

/// The plan: the changes of each provider, why other providers do not change, and a summary.
#[must_use]
pub fn plan(plan: &Plan, layout: Layout<'_>) -> String {
    let mut out = String::new();
    let workspace = &plan.workspace;
    let (slug, name) = (
        printable(&workspace.slug),
        ellipsize(&printable(&workspace.name), 40),
    );
    let _ = write!(out, "{BOLD}{slug}{BOLD:#} ({name})");
    if let Some(revision) = &plan.revision {
        let at = format!(" at {} ", printable(&revision.short()));
        let taken = [&slug, &name, &at]
            .iter()
            .map(|text| text.chars().count())
            .sum::<usize>()
            + 3;
        let subject = ellipsize(
            &printable(&revision.subject),
            WIDTH.saturating_sub(taken).max(20),
        );
        let _ = write!(out, "{at}{DIM}{subject}{DIM:#}");
    }
    out.push('\n');
    if let Some(base) = &plan.base {
        let _ = writeln!(
            out,
            "{DIM}compared with the base at {}{DIM:#}",
            printable(short_commit(base))
        );
    }
    if let Some(taken) = &plan.snapshot {
        let _ = writeln!(
            out,
            "{DIM}live state as of {}, from a snapshot{DIM:#}",
            printable(taken)
        );
    }
    if let Some(sentence) = describe_suspension(plan) {
        let _ = writeln!(
            out,
            "{YELLOW}{BOLD}{}{BOLD:#}{YELLOW:#}",
            wrap(&sentence, 0, 0)
        );
    }
    let parts = parts_by_origin(plan);
    if layout.diff && parts.iter().any(|(_, parts)| !parts.is_empty()) {
        let _ = writeln!(
            out,
            "{RED}- live in Calry{RED:#}  {GREEN}+ after apply{GREEN:#}"
        );
    }
    out.push('\n');
    let loosened = plan.loosened.iter();
    let loosened = loosened.map(|item| describe_loosening(item, printable));
    write_rows(&mut out, DANGER, "This branch stops protecting", loosened);
    for (action, style, heading) in [
        (PolicyAction::Deny, DANGER, "Denied by policy"),
        (PolicyAction::Warn, YELLOW, "Warnings of policies"),
    ] {
        let violations = plan.violations.iter().filter(|of| of.action == action);
        let violations = violations.map(|violation| describe_violation(violation, printable));
        write_rows(&mut out, style, heading, violations);
    }
    for (origin, parts) in parts {
        if let Some(origin) = origin.filter(|_| !parts.is_empty()) {
            let _ = writeln!(out, "{BOLD}{}{BOLD:#}\n", heading(origin));
        }
        parts
            .iter()
            .for_each(|part| write_provider(&mut out, part, layout.diff));
    }
    write_untouched(&mut out, plan);
    write_summary(&mut out, plan, layout);
    out
}

/// A section of labels with a sentence each; nothing if there is none.
fn write_rows<L: AsRef<str>>(
    out: &mut String,
    style: Style,
    heading: &str,
    rows: impl IntoIterator<Item = (L, String)>,
) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "{style}{heading}{style:#}");
    for (label, sentence) in rows {
        let label = label.as_ref();
        let _ = writeln!(
            out,
            "  {label:<LABEL$} {}",
            wrap(&sentence, 2 + text_column(label), LABEL + 3)
        );
    }
    out.push('\n');
}

/// The counts of the plan, then its digest and the next command.
fn write_summary(out: &mut String, plan: &Plan, layout: Layout<'_>) {
    let counts = plan.summary();
    let in_order = counts.update + counts.invalid + counts.unreadable + counts.missing == 0
        && plan.suspended() == 0;
    if in_order && layout.restore {
        return;
    }
    if in_order {
        let (slug, directory) = (
            printable(&plan.workspace.slug),
            printable(layout.directory.trim_end_matches('/')),
        );
        let managed = counted(counts.in_sync, "provider", "providers");
        let others = others(&counts).split_off(1).join(", ");
        let others = if others.is_empty() {
            others
        } else {
            format!("; {others}")
        };
        let extent = if plan.digest.is_some() {
            ""
        } else {
            " as far as values were compared"
        };
        let sentence = format!("{slug} matches {directory}/{extent} ({managed}{others}).");
        let _ = writeln!(
            out,
            "{GREEN}{BOLD}No changes.{BOLD:#}{GREEN:#} {}",
            wrap(&sentence, 12, 0)
        );
    } else {
        let updates = counted(counts.update, "provider", "providers");
        let others = others(&counts).join(", ");
        let _ = writeln!(
            out,
            "{YELLOW}{BOLD}Plan: {updates} to update{BOLD:#}{YELLOW:#}, {others}."
        );
        let changes = count_by_kind(due_changes(plan)).into_iter();
        let changes: Vec<String> = changes
            .map(|(words, off)| {
                if off {
                    format!("{DANGER}{words}{DANGER:#}")
                } else {
                    words
                }
            })
            .collect();
        if !changes.is_empty() {
            let whose = if plan.base.is_some() {
                "Changes of this branch"
            } else {
                "Changes"
            };
            let _ = writeln!(out, "{whose}: {}.", changes.join(", "));
        }
    }
    if plan.base.is_some() {
        let _ = writeln!(out, "{}", wrap(&describe_origins(plan), 0, 0));
    }
    match &plan.digest {
        Some(_) if layout.restore => {}
        Some(digest) if plan.suspended() > 0 => {
            let _ = writeln!(out, "Digest: {digest}");
            let emergency = "Nothing is written. In an emergency: calry-gitops apply --approve DIGEST --override-hold REASON";
            let _ = writeln!(out, "{}", wrap(emergency, 0, 0));
        }
        Some(digest) if counts.update > 0 => {
            let _ = writeln!(out, "Digest: {digest}");
            if let Some(next) = layout.next {
                let _ = writeln!(out, "Nothing was changed. Next: {next}");
            }
        }
        Some(_) => {}
        None => {
            let _ = writeln!(out, "{}", wrap(&describe_not_compared(plan), 0, 0));
        }
    }
}

/// The changes that are due: with a base, only those of the branch.
pub(super) fn due_changes(plan: &Plan) -> impl Iterator<Item = &Change> {
    parts_by_origin(plan)
        .into_iter()
        .take(1)
        .flat_map(|(_, parts)| parts)
        .flat_map(|part| part.changes)
}

/// Changes by kind, as words, each with whether fields are switched off: `4 fields on`, `5 fields OFF`, `2 icons`.
pub(super) fn count_by_kind<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
) -> Vec<(String, bool)> {
    let counts = Counts::of(changes);
    let kinds = [
        (plural(counts.on, "field on", "fields on"), false),
        (plural(counts.off, "field OFF", "fields OFF"), true),
        (plural(counts.keys, KEY_VALUE, KEY_VALUES), false),
        (plural(counts.icons, "icon", "icons"), false),
    ];
    let kinds = kinds.into_iter();
    kinds
        .filter_map(|(words, off)| Some((words?, off)))
        .collect()
}

const KEY_VALUE: &str = "partner key value";
const KEY_VALUES: &str = "partner key values";

/// Changes by kind.
#[derive(Default)]
struct Counts {
    on: usize,
    off: usize,
    keys: usize,
    icons: usize,
}

impl Counts {
    fn of<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        let mut counts = Self::default();
        for change in changes {
            *match change {
                Change::Field { after: true, .. } => &mut counts.on,
                Change::Field { after: false, .. } => &mut counts.off,
                Change::Key { .. } => &mut counts.keys,
                Change::Icon { .. } => &mut counts.icons,
            } += 1;
        }
        counts
    }
}

fn heading(origin: Origin) -> &'static str {
    match origin {
        Origin::Branch => "This branch changes",
        Origin::Drift => "Earlier drift",
    }
}

/// The changes of a plan with a base by their origin: `This branch changes 1 provider; 2 had drifted before.`
pub(super) fn describe_origins(plan: &Plan) -> String {
    let branch = describe_branch(plan).replacen('t', "T", 1);
    match plan
        .entries
        .iter()
        .filter(|entry| entry.is_due_to(Origin::Drift))
        .count()
    {
        0 => format!("{branch}; none had drifted before."),
        n => format!("{branch}; {n} had drifted before."),
    }
}

pub(super) fn describe_not_compared(plan: &Plan) -> String {
    let values = |missing, why| {
        let unresolved = plan.entries.iter().flat_map(|entry| &entry.unresolved);
        let count = unresolved.filter(|u| u.missing == missing).count();
        let values = plural(count, "value", "values")?;
        Some(format!("{values} below partnerKey ({why})"))
    };
    let parts = [
        values(Missing::Secret, "their secrets are not available here"),
        values(
            Missing::Live,
            "the snapshot has no fingerprint of them whose key is available here",
        ),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("Not compared: {}.", parts.join("; "))
}

fn write_provider(out: &mut String, part: &Part<'_>, as_diff: bool) {
    let Part { entry, step, .. } = part;
    let file = printable(&entry.files_of(&part.changes).join(", "));
    let _ = writeln!(
        out,
        "{YELLOW}~{YELLOW:#} {BOLD}{}{BOLD:#}  {DIM}{file}{DIM:#}",
        entry.label()
    );
    if as_diff {
        for line in diff_lines(part) {
            let _ = match line {
                DiffLine::Gap(lines) => writeln!(out, "    {DIM}{}{DIM:#}", describe_gap(lines)),
                DiffLine::Context(text) => writeln!(out, "     {text}"),
                DiffLine::Removed(text) => writeln!(out, "    {RED}-{text}{RED:#}"),
                DiffLine::Added(text) => writeln!(out, "    {GREEN}+{text}{GREEN:#}"),
            };
        }
    } else {
        write_changes(out, part);
    }
    if let Some(consequence) = describe_consequence(part.changes.iter().copied()) {
        let _ = writeln!(out, "    {RED}{}{RED:#}", wrap(&consequence, 4, 6));
    }
    if let Some(hold) = entry.ended_hold() {
        let _ = writeln!(
            out,
            "    {YELLOW}its hold ended on {}{YELLOW:#}",
            hold.until
        );
    }
    for unresolved in &entry.unresolved {
        let sentence = format!(
            "{}: {}",
            printable(&unresolved.path),
            describe_unresolved(unresolved)
        );
        let _ = writeln!(out, "    {DIM}{}{DIM:#}", wrap(&sentence, 4, 6));
    }
    if let Some(why) = step.payload.obstacle() {
        let _ = writeln!(out, "    {RED}{}{RED:#}", wrap(&printable(&why), 4, 6));
    }
    out.push('\n');
}

/// The line in place of unchanged lines.
pub(super) fn describe_gap(lines: usize) -> String {
    format!("# {}", counted(lines, "unchanged line", "unchanged lines"))
}

/// A line for each change, the fields below their group.
fn write_changes(out: &mut String, part: &Part<'_>) {
    let width = |names: &mut dyn Iterator<Item = String>| {
        names.map(|name| name.chars().count()).max().unwrap_or(0)
    };
    let paths = width(
        &mut part
            .changes
            .iter()
            .filter(|c| !matches!(c, Change::Field { .. }))
            .map(|c| printable(&c.path())),
    );
    let mut heading = None;
    for change in &part.changes {
        let path = printable(&change.path());
        match change {
            Change::Icon { before, after } => {
                let shown = |url: &Option<String>| {
                    url.as_deref()
                        .map_or_else(|| "(none)".to_owned(), printable)
                };
                let values = format!("{} -> {}", shown(before), shown(after));
                let _ = writeln!(
                    out,
                    "    {path:<paths$}  {}",
                    wrap(&values, 6 + paths, 6 + paths)
                );
            }
            Change::Key {
                change, secrets, ..
            } => {
                let before = match change {
                    KeyChange::Added => "(none)",
                    KeyChange::Removed | KeyChange::Changed => "(sensitive)",
                    KeyChange::Masked => "(masked by Calry)",
                    KeyChange::Unresolved => "(not compared)",
                    KeyChange::Encrypted => "(encrypted value changed, not compared)",
                };
                let style = if *change == KeyChange::Removed {
                    RED
                } else {
                    Style::new()
                };
                let after = match (change, secrets.is_empty()) {
                    (KeyChange::Removed, _) => "removed".to_owned(),
                    (_, false) => join_references(secrets),
                    (_, true) => "(sensitive, literal)".to_owned(),
                };
                let values = wrap(&format!("{before} -> {after}"), 6 + paths, 6 + paths);
                let _ = writeln!(out, "    {style}{path:<paths$}  {values}{style:#}");
            }
            Change::Field {
                group,
                field,
                before,
                after,
            } => {
                if heading != Some(group) {
                    let _ = writeln!(
                        out,
                        "    {}",
                        printable(&join_path(&["fieldsToSync", group]))
                    );
                    heading = Some(group);
                }
                let fields = width(&mut part.changes.iter().filter_map(|change| match change {
                    Change::Field {
                        group: of, field, ..
                    } if of == group => Some(printable(field)),
                    _ => None,
                }));
                let before = match before {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => "(none)",
                };
                let (sign, style, after) = if *after {
                    ('+', GREEN, "on")
                } else {
                    ('-', DANGER, "OFF")
                };
                let _ = writeln!(
                    out,
                    "      {style}{sign} {:<fields$}  {before:<3} -> {after}{style:#}",
                    printable(field)
                );
            }
        }
    }
}

fn describe_unresolved(unresolved: &UnresolvedValue) -> String {
    match unresolved.missing {
        Missing::Secret => format!(
            "{} is resolved at apply time",
            join_references(&unresolved.secrets)
        ),
        Missing::Live => "the snapshot does not show whether it differs".to_owned(),
    }
}

/// The providers that do not change, and why; those in sync are only counted.
fn write_untouched(out: &mut String, plan: &Plan) {
    let rows = plan
        .entries
        .iter()
        .filter_map(|entry| Some((printable(entry.label()), explain_untouched(entry)?)));
    let of = |chosen: fn(&PlanEntry) -> bool| {
        let labels: Vec<&str> = plan
            .entries
            .iter()
            .filter(|entry| chosen(entry))
            .map(PlanEntry::label)
            .collect();
        (!labels.is_empty()).then(|| join_labels(&labels))
    };
    let unresolved =
        of(|entry| matches!(entry.verdict, Verdict::InSync(..)) && !entry.unresolved.is_empty());
    let unmanaged = of(|entry| matches!(entry.verdict, Verdict::Unmanaged));
    let unresolved = unresolved.map(|labels| {
        (
            "in sync".to_owned(),
            format!("{labels} (except for values that are not compared)"),
        )
    });
    let unmanaged = unmanaged.map(|labels| ("unmanaged".to_owned(), format!("{labels} (no file)")));
    write_rows(
        out,
        BOLD,
        "Not changed",
        rows.chain(unresolved).chain(unmanaged),
    );
}

/// The first labels, in one line.
fn join_labels(labels: &[&str]) -> String {
    const MAX_LISTED: usize = 30;
    let mut text = labels
        .iter()
        .take(MAX_LISTED)
        .map(|label| printable(label))
        .collect::<Vec<_>>()
        .join(", ");
    if labels.len() > MAX_LISTED {
        let _ = write!(text, " and {} more", labels.len() - MAX_LISTED);
    }
    text
}

/// Why a provider, or a file, does not change, if that needs a line of its own.
fn explain_untouched(entry: &PlanEntry) -> Option<String> {
    let file = entry.file.as_deref().map(printable).unwrap_or_default();
    Some(match &entry.verdict {
        Verdict::Update(_)
        | Verdict::InSync(..)
        | Verdict::Unmanaged
        | Verdict::Held { step: Some(_), .. } => return None,
        Verdict::Held { hold, pending, .. } => {
            let reason = hold
                .reason
                .as_deref()
                .map_or_else(|| "no reason given".to_owned(), printable);
            let pending = match pending.len() {
                0 => "nothing pending".to_owned(),
                _ => format!("pending: {}", summarize_changes(pending)),
            };
            format!("on hold until {}: {reason} ({pending})", hold.until)
        }
        Verdict::Invalid => format!("invalid: {file} has errors"),
        Verdict::Missing => format!("missing: {file} names it, and the workspace does not have it"),
        Verdict::Unreadable(problem) => {
            format!(
                "unreadable: Calry's definition cannot be read: {}",
                printable(problem)
            )
        }
    })
}

/// A short summary of changes: `icon, 1 partner key value, 3 fields on, 1 field off`.
#[must_use]
pub fn summarize_changes<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    let counts = Counts::of(changes);
    let parts = [
        (counts.icons > 0).then(|| "icon".to_owned()),
        plural(counts.keys, KEY_VALUE, KEY_VALUES),
        plural(counts.on, "field on", "fields on"),
        plural(counts.off, "field off", "fields off"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

/// The result of an apply for each provider, and a summary line.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for result in &report.results {
        let style = match result.outcome {
            Outcome::Applied | Outcome::Unchanged => GREEN,
            Outcome::Skipped(_) => YELLOW,
            Outcome::Failed(_) | Outcome::Partial(_) | Outcome::NotConverged(_) => RED,
        };
        let word = match result.outcome {
            Outcome::NotConverged(_) => "not converged",
            ref other => other.as_str(),
        };
        let label = result.provider.as_str();
        let _ = write!(out, "{label:<LABEL$} {style}{word}{style:#}");
        let at = text_column(label) + word.len() + 2;
        match &result.outcome {
            Outcome::Applied => {
                let _ = writeln!(
                    out,
                    "  {DIM}{}{DIM:#}",
                    wrap(&name_changes(&result.changes), at, LABEL + 1)
                );
            }
            Outcome::Unchanged => {
                let _ = writeln!(out, "  {DIM}it was already in sync{DIM:#}");
            }
            Outcome::Failed(why) | Outcome::Skipped(why) => {
                let _ = writeln!(out, ": {}", wrap(&printable(why), at, LABEL + 1));
            }
            Outcome::Partial(refused) => {
                let why = printable(&refusal(refused).unwrap_or_default());
                let _ = writeln!(out, ": {}", wrap(&why, at, LABEL + 1));
            }
            Outcome::NotConverged(mismatches) => {
                let _ = writeln!(out, ": Calry took the update, but its answer differs:");
                for mismatch in mismatches {
                    let _ = writeln!(out, "  {}", wrap(&describe_mismatch(mismatch), 2, 4));
                }
            }
        }
    }
    let count = |wanted: &str| {
        report
            .results
            .iter()
            .filter(|r| r.outcome.as_str() == wanted)
            .count()
    };
    let mut parts = vec![format!(
        "{} of {} applied",
        count("applied"),
        report.results.len()
    )];
    parts.extend(nonzero([
        (count("unchanged"), "already in sync"),
        (count("notConverged"), "not converged"),
        (count("failed"), "failed"),
        (count("skipped"), "skipped"),
    ]));
    let style = if report.results.iter().all(|r| r.outcome.is_done()) {
        GREEN
    } else {
        RED
    };
    let _ = writeln!(
        out,
        "{style}{BOLD}Apply: {}.{BOLD:#}{style:#}",
        parts.join(", ")
    );
    out
}

/// The column at which the text after a label begins.
pub(super) fn text_column(label: &str) -> usize {
    label.chars().count().max(LABEL) + 1
}

/// Wraps a text whose first line begins at column `at`, and every other line at column `indent`. A word that is longer than
/// a line stays whole, so that it can be copied.
pub(super) fn wrap(text: &str, at: usize, indent: usize) -> String {
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
    fn a_long_sentence_continues_under_its_beginning() {
        let text = wrap(&"0123456789 ".repeat(9), 20, 20);
        assert!(text.lines().all(|line| line.trim_start().len() <= 60));
        assert_eq!(
            text.lines().nth(1).unwrap(),
            format!("{}{}", " ".repeat(20), "0123456789 ".repeat(4))
        );
        assert_eq!(wrap("short", 20, 20), "short");
        assert_eq!(wrap(&"x".repeat(99), 20, 20), "x".repeat(99));
    }
}
