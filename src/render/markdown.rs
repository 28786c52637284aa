//! A plan as a comment on a pull request: read in ten seconds, folded where it is long, and safe to post.
//!
//! Foreign text stands in code only, in spans and blocks whose fence is longer than any run of backticks in it: there it
//! cannot mention a person, make a link, open a tag or end the table that it stands in.

use std::fmt::Write as _;

use super::text::{brief, due, gap, not_compared, total};
use super::view::{DiffLine, Part, branch, diff, loosened, parts};
use crate::model::{Diagnostic, ellipsize, printable, short_commit};
use crate::plan::{Change, Origin, Plan, PlanEntry, Verdict, join_path};
use crate::reconcile::apply::Report;
use crate::report::words::{describe_counts, name_changes};

/// The most characters of a comment; GitHub takes 65,536.
pub const MAX: usize = 60_000;

/// Rows and problems beyond this share are counted and named instead.
const MAX_TABLE: usize = 20_000;

/// The plan as Markdown, of at most [`MAX`] characters; with a report, what became of it.
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
    out.always(&format!(
        "### Calry {}: {}\n\n",
        code(&plan.workspace.slug, 128),
        verdict(plan, report)
    ));
    let numbers = in_numbers(due(plan));
    if report.is_none() && !numbers.is_empty() {
        out.always(&format!(
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
        out.always(&format!(
            "{}; {drifted} had drifted before.\n\n",
            describe_counts(&plan.summary())
        ));
    }

    if !plan.loosened.is_empty() {
        out.always("**This branch stops protecting:**\n\n");
        let mut cut = 0;
        for item in &plan.loosened {
            let (label, sentence) = loosened(item, |text| code(text, 80));
            if !out.fits(
                &format!("- {}: {sentence}\n", code(label, 80)),
                MAX - MAX_TABLE / 2,
            ) {
                cut += 1;
            }
        }
        if cut > 0 {
            out.always(&format!("- and {cut} more\n"));
        }
        out.always("\n");
    }
    let parts = parts(plan);
    table(&mut out, plan, &parts, report);
    problems(&mut out, diagnostics, directory);

    let mut cut = Vec::new();
    for (origin, part) in each(&parts) {
        if !out.fits(&details(origin, part), footer(plan).chars().count() + 8_000) {
            cut.push(part.entry.label());
        }
    }
    if !cut.is_empty() {
        out.always(&format!(
            "{} more diffs are left out here, to keep this comment readable: {}.\n\n",
            cut.len(),
            names(&cut, 7_000)
        ));
    }
    out.always(&footer(plan));
    out.text
}

fn each<'a, 'p>(
    parts: &'a [(Option<Origin>, Vec<Part<'p>>)],
) -> impl Iterator<Item = (Option<Origin>, &'a Part<'p>)> + use<'a, 'p> {
    parts
        .iter()
        .flat_map(|(origin, parts)| parts.iter().map(|part| (*origin, part)))
}

/// What a reviewer reads first.
fn verdict(plan: &Plan, report: Option<&Report>) -> String {
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
        (Some(_), _, 0) => branch(plan),
        (Some(_), _, _) => format!("{}; {}", describe_counts(&summary), branch(plan)),
        (None, 0, 0) => "in sync".to_owned(),
        (None, _, _) => describe_counts(&summary),
    }
}

/// Why there is no plan, or why it was not carried out, as Markdown.
#[must_use]
pub fn failure(sentence: &str, diagnostics: &[Diagnostic], directory: &str) -> String {
    let mut out = Page {
        text: String::new(),
        limit: MAX,
    };
    out.always(&format!(
        "### Calry: failed\n\n{}\n\n",
        code(sentence, 1000)
    ));
    problems(&mut out, diagnostics, directory);
    out.text
}

/// Text that grows only as far as it may.
struct Page {
    text: String,
    limit: usize,
}

impl Page {
    fn always(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a text where it leaves `reserve` characters free; says whether it did.
    fn fits(&mut self, text: &str, reserve: usize) -> bool {
        let fits = self.text.chars().count() + text.chars().count() + reserve <= self.limit;
        if fits {
            self.text.push_str(text);
        }
        fits
    }
}

fn table(
    out: &mut Page,
    plan: &Plan,
    parts: &[(Option<Origin>, Vec<Part<'_>>)],
    report: Option<&Report>,
) {
    let updates = each(parts).map(|(origin, part)| {
        let file = code(part.entry.file.as_deref().unwrap_or_default(), 80);
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
                    .map(|error| format!(": {}", code(&error, 300)))
                    .unwrap_or_default();
                format!("**{}**{error}", result.outcome.as_str())
            }
            (None, Some(obstacle), _) => code(&obstacle, 300),
            (None, _, Some(Origin::Branch)) => format!("**this branch**: {file}"),
            (None, _, Some(Origin::Drift)) => format!("earlier drift: {file}"),
            (None, _, None) => format!("{file} says so"),
        };
        let over = part
            .entry
            .ended_hold()
            .map(|hold| format!("; its hold ended on {}", hold.until));
        let why = why + &over.unwrap_or_default();
        (part.entry.label(), in_short(&part.changes), why)
    });
    let others = plan
        .entries
        .iter()
        .filter_map(|entry| untouched(entry).map(|(what, why)| (entry.label(), what, why)));
    let rows: Vec<(&str, String, String)> = updates.chain(others).collect();
    if rows.is_empty() {
        return;
    }
    out.always("| provider | what changes | why |\n| --- | --- | --- |\n");
    let mut cut = Vec::new();
    for (label, what, why) in rows {
        if !out.fits(
            &format!("| {} | {what} | {why} |\n", code(label, 80)),
            MAX - MAX_TABLE,
        ) {
            cut.push(label);
        }
    }
    out.always("\n");
    if !cut.is_empty() {
        out.always(&format!(
            "And {} more: {}.\n\n",
            cut.len(),
            names(&cut, 7_000)
        ));
    }
}

/// Few changes by name, many by number. What is switched off is bold.
fn in_short(changes: &[&Change]) -> String {
    if changes.len() > 3 {
        return in_numbers(changes.iter().copied());
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
                code(&join_path(&[group, field]), 80),
                if *after { "on" } else { "**OFF**" }
            )
        }
        Change::Icon { .. } | Change::Key { .. } => code(&name_changes([*change]), 80),
    });
    named.collect::<Vec<_>>().join(", ")
}

/// Changes by number: `2 fields on, **1 field OFF**`.
fn in_numbers<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    let kinds = total(changes)
        .into_iter()
        .map(|(words, off)| if off { format!("**{words}**") } else { words });
    kinds.collect::<Vec<_>>().join(", ")
}

/// What is pending of a provider that is not updated, and why it is not, where that is worth a reviewer's time.
fn untouched(entry: &PlanEntry) -> Option<(String, String)> {
    let file = entry
        .file
        .as_deref()
        .map(|file| code(file, 80))
        .unwrap_or_default();
    let why = match &entry.verdict {
        Verdict::Update(_) | Verdict::InSync(..) | Verdict::Unmanaged => return None,
        Verdict::Held { hold, pending } => {
            let reason = hold
                .reason
                .as_deref()
                .map(|reason| format!(": {}", code(reason, 200)))
                .unwrap_or_default();
            let what = if pending.is_empty() {
                "nothing".to_owned()
            } else {
                format!("nothing (pending: {})", brief(pending))
            };
            return Some((what, format!("on hold until {}{reason}", hold.until)));
        }
        Verdict::Invalid => format!("{file} has errors"),
        Verdict::Missing => format!("{file} names it, and the workspace does not have it"),
        Verdict::Unreadable(problem) => code(problem, 300),
    };
    Some(("nothing".to_owned(), why))
}

fn problems(out: &mut Page, diagnostics: &[Diagnostic], directory: &str) {
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
            code(&format!("{directory}/{}{place}", diagnostic.file), 200),
            code(&format!("{}{help}", diagnostic.message), 400)
        );
        if !out.fits(&line, MAX - MAX_TABLE - 10_000) {
            cut += 1;
        }
    }
    if cut > 0 {
        out.always(&format!("- and {cut} more, which `validate` lists\n"));
    }
    if !diagnostics.is_empty() {
        out.always("\n");
    }
}

fn details(origin: Option<Origin>, part: &Part<'_>) -> String {
    let lines: Vec<String> = diff(part)
        .into_iter()
        .map(|line| match line {
            DiffLine::Gap(lines) => format!(" {}", gap(lines)),
            DiffLine::Same(text) => format!(" {text}"),
            DiffLine::Gone(text) => format!("-{text}"),
            DiffLine::New(text) => format!("+{text}"),
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
        brief(part.changes.iter().copied())
    )
}

fn footer(plan: &Plan) -> String {
    let mut out = String::new();
    match &plan.digest {
        Some(digest) => {
            let _ = writeln!(out, "Plan `{digest}`  ");
        }
        None => {
            let _ = writeln!(out, "{}  ", not_compared(plan));
        }
    }
    if let Some(revision) = &plan.revision {
        let _ = writeln!(
            out,
            "Revision {} {}  ",
            code(&revision.short(), 80),
            code(&revision.subject, 100)
        );
    }
    if let Some(base) = &plan.base {
        let _ = writeln!(
            out,
            "This branch began at {}  ",
            code(short_commit(base), 80)
        );
    }
    if let Some(taken) = &plan.snapshot {
        let _ = writeln!(
            out,
            "Live state as of {}, from a snapshot  ",
            code(taken, 80)
        );
    }
    out
}

fn names(labels: &[&str], max: usize) -> String {
    let mut out = String::new();
    for (at, label) in labels.iter().enumerate() {
        let next = format!("{}{}", if at == 0 { "" } else { ", " }, code(label, 80));
        if out.len() + next.len() > max {
            let _ = write!(out, " and {} more", labels.len() - at);
            break;
        }
        out.push_str(&next);
    }
    out
}

/// Foreign text as a code span that it cannot leave, also in a table.
fn code(text: &str, max: usize) -> String {
    // An escaped pipe ends a cell all the same where a backslash stands before it.
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
        assert_eq!(code("plain", 80), "`plain`");
        assert_eq!(code("a `b` ``c", 80), "``` a `b` ``c ```");
        assert_eq!(code("a\\|b", 80), "`a\\\\u{7c}b`");
        assert_eq!(code("a\nb\u{202e}c", 80), "`a\\u{a}b\\u{202e}c`");
        assert_eq!(
            code("@team <script> [x](https://e.com)", 80),
            "`@team <script> [x](https://e.com)`"
        );
    }
}
