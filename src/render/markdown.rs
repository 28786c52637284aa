//! A plan as a comment on a pull request: readable in ten seconds, with long diffs folded, and safe to post.
//!
//! Never: shows foreign text outside of code spans and blocks, whose fence is longer than any run of backticks in it. There
//! it cannot mention a person, make a link, open a tag or end its table.

use std::fmt::Write as _;

use super::text::{
    count_by_kind, describe_gap, describe_not_compared, due_changes, summarize_changes,
};
use super::view::{
    DiffLine, Part, describe_branch, describe_loosening, diff_lines, parts_by_origin,
};
use crate::model::{Diagnostic, ellipsize, printable, short_commit};
use crate::plan::{Change, Origin, Plan, PlanEntry, Verdict, join_path};
use crate::reconcile::apply::Report;
use crate::report::words::{describe_counts, name_changes};

/// The most characters of a comment; GitHub takes 65,536.
pub const MAX: usize = 60_000;

/// The share of rows and problems; those beyond it are only counted and named.
const MAX_TABLE: usize = 20_000;

/// The plan as Markdown of at most [`MAX`] characters, with the results of an apply if there is a report.
#[must_use]
pub fn plan(
    plan: &Plan,
    diagnostics: &[Diagnostic],
    report: Option<&Report>,
    directory: &str,
) -> String {
    let mut out = Page {
        text: String::new(),
        limit: MAX,
    };
    out.push(&format!(
        "### Calry {}: {}\n\n",
        code_span(&plan.workspace.slug, 128),
        headline(plan, report)
    ));
    let numbers = count_changes(due_changes(plan));
    if report.is_none() && !numbers.is_empty() {
        out.push(&format!(
            "{}{numbers}.\n\n",
            if plan.base.is_some() {
                "This branch: "
            } else {
                ""
            }
        ));
    }
    if plan.base.is_some() {
        let drifted = plan
            .entries
            .iter()
            .filter(|entry| entry.is_due_to(Origin::Drift))
            .count();
        out.push(&format!(
            "{}; {drifted} had drifted before.\n\n",
            describe_counts(&plan.summary())
        ));
    }

    if !plan.loosened.is_empty() {
        out.push("**This branch stops protecting:**\n\n");
        let mut cut = 0;
        for item in &plan.loosened {
            let (label, sentence) = describe_loosening(item, |text| code_span(text, 80));
            if !out.push_if_fits(
                &format!("- {}: {sentence}\n", code_span(label, 80)),
                MAX - MAX_TABLE / 2,
            ) {
                cut += 1;
            }
        }
        if cut > 0 {
            out.push(&format!("- and {cut} more\n"));
        }
        out.push("\n");
    }
    let parts = parts_by_origin(plan);
    write_table(&mut out, plan, &parts, report);
    write_problems(&mut out, diagnostics, directory);

    let mut cut = Vec::new();
    for (origin, part) in each_part(&parts) {
        if !out.push_if_fits(&details(origin, part), footer(plan).chars().count() + 8_000) {
            cut.push(part.entry.label());
        }
    }
    if !cut.is_empty() {
        out.push(&format!(
            "{} more diffs are omitted to keep this comment readable: {}.\n\n",
            cut.len(),
            join_names(&cut, 7_000)
        ));
    }
    out.push(&footer(plan));
    out.text
}

fn each_part<'a, 'p>(
    parts: &'a [(Option<Origin>, Vec<Part<'p>>)],
) -> impl Iterator<Item = (Option<Origin>, &'a Part<'p>)> + use<'a, 'p> {
    parts
        .iter()
        .flat_map(|(origin, parts)| parts.iter().map(|part| (*origin, part)))
}

/// The heading, which a reviewer reads first.
fn headline(plan: &Plan, report: Option<&Report>) -> String {
    if let Some(report) = report.filter(|report| !report.results.is_empty()) {
        let done = report
            .results
            .iter()
            .filter(|result| result.outcome.is_done())
            .count();
        return format!("{done} of {} applied", report.results.len());
    }
    let summary = plan.summary();
    match (
        &plan.base,
        summary.update,
        summary.invalid + summary.missing,
    ) {
        (Some(_), _, 0) => describe_branch(plan),
        (Some(_), _, _) => format!("{}; {}", describe_counts(&summary), describe_branch(plan)),
        (None, 0, 0) => "in sync".to_owned(),
        (None, _, _) => describe_counts(&summary),
    }
}

/// Why there is no plan, or why it was not applied, as Markdown.
#[must_use]
pub fn failure(sentence: &str, diagnostics: &[Diagnostic], directory: &str) -> String {
    let mut out = Page {
        text: String::new(),
        limit: MAX,
    };
    out.push(&format!(
        "### Calry: failed\n\n{}\n\n",
        code_span(sentence, 1000)
    ));
    write_problems(&mut out, diagnostics, directory);
    out.text
}

/// Text with a limit.
struct Page {
    text: String,
    limit: usize,
}

impl Page {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a text if it leaves `reserve` characters free; returns whether it did.
    fn push_if_fits(&mut self, text: &str, reserve: usize) -> bool {
        let fits = self.text.chars().count() + text.chars().count() + reserve <= self.limit;
        if fits {
            self.text.push_str(text);
        }
        fits
    }
}

fn write_table(
    out: &mut Page,
    plan: &Plan,
    parts: &[(Option<Origin>, Vec<Part<'_>>)],
    report: Option<&Report>,
) {
    let updates = each_part(parts).map(|(origin, part)| {
        let file = code_span(part.entry.file.as_deref().unwrap_or_default(), 80);
        let result = report.and_then(|r| {
            r.results
                .iter()
                .find(|r| part.entry.provider.as_ref() == Some(&r.provider))
        });
        let why = match (result, part.step.payload.obstacle(), origin) {
            (Some(result), _, _) => {
                let error = result
                    .outcome
                    .error()
                    .map(|error| format!(": {}", code_span(&error, 300)))
                    .unwrap_or_default();
                format!("**{}**{error}", result.outcome.as_str())
            }
            (None, Some(obstacle), _) => code_span(&obstacle, 300),
            (None, _, Some(Origin::Branch)) => format!("**this branch**: {file}"),
            (None, _, Some(Origin::Drift)) => format!("earlier drift: {file}"),
            (None, _, None) => file,
        };
        let over = part
            .entry
            .ended_hold()
            .map(|hold| format!("; its hold ended on {}", hold.until));
        let why = why + &over.unwrap_or_default();
        (part.entry.label(), summarize(&part.changes), why)
    });
    let others = plan
        .entries
        .iter()
        .filter_map(|entry| explain_untouched(entry).map(|(what, why)| (entry.label(), what, why)));
    let rows: Vec<(&str, String, String)> = updates.chain(others).collect();
    if rows.is_empty() {
        return;
    }
    out.push("| provider | what changes | why |\n| --- | --- | --- |\n");
    let mut cut = Vec::new();
    for (label, what, why) in rows {
        if !out.push_if_fits(
            &format!("| {} | {what} | {why} |\n", code_span(label, 80)),
            MAX - MAX_TABLE,
        ) {
            cut.push(label);
        }
    }
    out.push("\n");
    if !cut.is_empty() {
        out.push(&format!(
            "And {} more: {}.\n\n",
            cut.len(),
            join_names(&cut, 7_000)
        ));
    }
}

/// Few changes by name, many by number. Fields that are switched off are bold.
fn summarize(changes: &[&Change]) -> String {
    if changes.len() > 3 {
        return count_changes(changes.iter().copied());
    }
    let named = changes.iter().map(|change| match change {
        Change::Field {
            group,
            field,
            after,
            ..
        } => {
            format!(
                "{} {}",
                code_span(&join_path(&[group, field]), 80),
                if *after { "on" } else { "**OFF**" }
            )
        }
        Change::Icon { .. } | Change::Key { .. } => code_span(&name_changes([*change]), 80),
    });
    named.collect::<Vec<_>>().join(", ")
}

/// Changes by number: `2 fields on, **1 field OFF**`.
fn count_changes<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    let kinds = count_by_kind(changes)
        .into_iter()
        .map(|(words, off)| if off { format!("**{words}**") } else { words });
    kinds.collect::<Vec<_>>().join(", ")
}

/// The pending changes of a provider that is not updated, and why it is not, if a reviewer needs to know.
fn explain_untouched(entry: &PlanEntry) -> Option<(String, String)> {
    let file = entry
        .file
        .as_deref()
        .map(|file| code_span(file, 80))
        .unwrap_or_default();
    let why = match &entry.verdict {
        Verdict::Update(_) | Verdict::InSync(..) | Verdict::Unmanaged => return None,
        Verdict::Held { hold, pending } => {
            let reason = hold
                .reason
                .as_deref()
                .map(|reason| format!(": {}", code_span(reason, 200)))
                .unwrap_or_default();
            let what = if pending.is_empty() {
                "nothing".to_owned()
            } else {
                format!("nothing (pending: {})", summarize_changes(pending))
            };
            return Some((what, format!("on hold until {}{reason}", hold.until)));
        }
        Verdict::Invalid => format!("{file} has errors"),
        Verdict::Missing => format!("{file} names it, and the workspace does not have it"),
        Verdict::Unreadable(problem) => code_span(problem, 300),
    };
    Some(("nothing".to_owned(), why))
}

fn write_problems(out: &mut Page, diagnostics: &[Diagnostic], directory: &str) {
    let mut cut = 0;
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            crate::model::Severity::Error => "error",
            crate::model::Severity::Warning => "warning",
        };
        let place = diagnostic
            .excerpt
            .as_ref()
            .map(|e| format!(":{}:{}", e.line, e.column))
            .unwrap_or_default();
        let help = diagnostic
            .help
            .as_deref()
            .map(|help| format!(" ({help})"))
            .unwrap_or_default();
        let line = format!(
            "- **{severity}** {} {}\n",
            code_span(&format!("{directory}/{}{place}", diagnostic.file), 200),
            code_span(&format!("{}{help}", diagnostic.message), 400)
        );
        if !out.push_if_fits(&line, MAX - MAX_TABLE - 10_000) {
            cut += 1;
        }
    }
    if cut > 0 {
        out.push(&format!("- and {cut} more; `validate` lists all\n"));
    }
    if !diagnostics.is_empty() {
        out.push("\n");
    }
}

fn details(origin: Option<Origin>, part: &Part<'_>) -> String {
    let lines: Vec<String> = diff_lines(part)
        .into_iter()
        .map(|line| match line {
            DiffLine::Gap(lines) => format!(" {}", describe_gap(lines)),
            DiffLine::Context(text) => format!(" {text}"),
            DiffLine::Removed(text) => format!("-{text}"),
            DiffLine::Added(text) => format!("+{text}"),
        })
        .collect();
    let body = lines.join("\n");
    let fence = "`".repeat(longest_run(&body).max(2) + 1);
    let origin = if origin == Some(Origin::Drift) {
        " (earlier drift)"
    } else {
        ""
    };
    // A provider's name is made of capitals, digits and underscores: it may stand in HTML.
    format!(
        "<details><summary><b>{}</b> {}{origin}</summary>\n\n{fence}diff\n{body}\n{fence}\n\n</details>\n\n",
        part.entry
            .provider
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        summarize_changes(part.changes.iter().copied())
    )
}

fn footer(plan: &Plan) -> String {
    let mut out = String::new();
    match &plan.digest {
        Some(digest) => {
            let _ = writeln!(out, "Plan `{digest}`  ");
        }
        None => {
            let _ = writeln!(out, "{}  ", describe_not_compared(plan));
        }
    }
    if let Some(revision) = &plan.revision {
        let _ = writeln!(
            out,
            "Revision {} {}  ",
            code_span(&revision.short(), 80),
            code_span(&revision.subject, 100)
        );
    }
    if let Some(base) = &plan.base {
        let _ = writeln!(out, "Merge base {}  ", code_span(short_commit(base), 80));
    }
    if let Some(taken) = &plan.snapshot {
        let _ = writeln!(
            out,
            "Live state as of {}, from a snapshot  ",
            code_span(taken, 80)
        );
    }
    out
}

fn join_names(labels: &[&str], max: usize) -> String {
    let mut out = String::new();
    for (at, label) in labels.iter().enumerate() {
        let next = format!(
            "{}{}",
            if at == 0 { "" } else { ", " },
            code_span(label, 80)
        );
        if out.len() + next.len() > max {
            let _ = write!(out, " and {} more", labels.len() - at);
            break;
        }
        out.push_str(&next);
    }
    out
}

/// Foreign text as a code span that it cannot leave, even in a table.
fn code_span(text: &str, max: usize) -> String {
    // A pipe that is escaped with a backslash still ends a cell after another backslash.
    let text = ellipsize(&printable(text), max).replace('|', "\\u{7c}");
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    // A span may not begin or end with a backtick, and one space on each side is not shown.
    if text.contains('`') || text.starts_with(' ') {
        format!("{fence} {text} {fence}")
    } else {
        format!("{fence}{text}{fence}")
    }
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`')
        .map(str::len)
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_leave_its_span() {
        assert_eq!(code_span("plain", 80), "`plain`");
        assert_eq!(code_span("a `b` ``c", 80), "``` a `b` ``c ```");
        assert_eq!(code_span("a\\|b", 80), "`a\\\\u{7c}b`");
        assert_eq!(code_span("a\nb\u{202e}c", 80), "`a\\u{a}b\\u{202e}c`");
        assert_eq!(
            code_span("@team <script> [x](https://e.com)", 80),
            "`@team <script> [x](https://e.com)`"
        );
    }
}
