//! A plan as a comment on a pull request: read in ten seconds, folded where it is long, and safe to post.
//!
//! Foreign text stands in code only, in spans and blocks whose fence is longer than any run of backticks in it: there it
//! cannot mention a person, make a link, open a tag or end the table that it stands in.

use std::fmt::Write as _;

use super::text::{brief, counts};
use super::view::{DiffLine, diff};
use crate::apply::Report;
use crate::model::{Diagnostic, ellipsize, printable};
use crate::plan::{Entry, Plan, Step, Verdict};

/// The most characters of a comment; GitHub takes 65,536.
pub const MAX: usize = 60_000;

/// Rows and problems beyond this share are counted and named instead.
const MAX_TABLE: usize = 20_000;

/// The plan as Markdown, of at most [`MAX`] characters; with a report, what became of it.
#[must_use]
pub fn plan(plan: &Plan, diagnostics: &[Diagnostic], report: Option<&Report>, directory: &str) -> String {
    let summary = plan.summary();
    let mut out = Page { text: String::new(), limit: MAX };
    let verdict = match (summary.update, summary.invalid + summary.missing) {
        (0, 0) => "in sync".to_owned(),
        _ => counts(&summary),
    };
    out.always(&format!("### Calry {}: {verdict}\n\n", code(&plan.workspace.slug, 128)));

    table(&mut out, plan, report);
    problems(&mut out, diagnostics, directory);

    let mut cut = Vec::new();
    for (entry, step) in plan.entries.iter().filter_map(|entry| match &entry.verdict {
        Verdict::Update(step) => Some((entry, step)),
        _ => None,
    }) {
        if !out.fits(&details(entry, step), footer(plan).chars().count() + 8_000) {
            cut.push(entry.label());
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

/// Why there is no plan, or why it was not carried out, as Markdown.
#[must_use]
pub fn failure(sentence: &str, diagnostics: &[Diagnostic], directory: &str) -> String {
    let mut out = Page { text: String::new(), limit: MAX };
    out.always(&format!("### Calry: failed\n\n{}\n\n", code(sentence, 1000)));
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

fn table(out: &mut Page, plan: &Plan, report: Option<&Report>) {
    let told = |entry: &&Entry| !matches!(entry.verdict, Verdict::InSync(_) | Verdict::Unmanaged);
    if !plan.entries.iter().any(|entry| told(&entry)) {
        return;
    }
    out.always("| provider | what changes | why |\n| --- | --- | --- |\n");
    let mut cut = Vec::new();
    for entry in plan.entries.iter().filter(told) {
        let (what, mut why) = what_and_why(entry);
        let result = report.and_then(|r| r.results.iter().find(|r| entry.provider.as_ref() == Some(&r.provider)));
        if let Some(result) = result {
            let error = result.outcome.error().map(|error| format!(": {}", code(&error, 300))).unwrap_or_default();
            why = format!("**{}**{error}", result.outcome.as_str());
        }
        let row = format!("| {} | {what} | {why} |\n", code(entry.label(), 80));
        if !out.fits(&row, MAX - MAX_TABLE) {
            cut.push(entry.label());
        }
    }
    out.always("\n");
    if !cut.is_empty() {
        out.always(&format!("And {} more: {}.\n\n", cut.len(), names(&cut, 7_000)));
    }
}

fn what_and_why(entry: &Entry) -> (String, String) {
    let file = entry.file.as_deref().map(|file| code(file, 80)).unwrap_or_default();
    match &entry.verdict {
        Verdict::Update(step) => {
            let why = step.payload.refusal().map_or_else(|| format!("{file} says so"), |refusal| code(&refusal, 300));
            (brief(&step.changes), why)
        }
        Verdict::Held { hold, pending } => {
            let reason = hold.reason.as_deref().map(|reason| format!(": {}", code(reason, 200))).unwrap_or_default();
            let what = if pending.is_empty() {
                "nothing".to_owned()
            } else {
                format!("nothing (pending: {})", brief(pending))
            };
            (what, format!("held until {}{reason}", hold.until))
        }
        Verdict::Invalid => ("nothing".to_owned(), format!("{file} has errors")),
        Verdict::Missing => ("nothing".to_owned(), format!("{file} names it, and the workspace does not have it")),
        Verdict::Unreadable(problem) => ("nothing".to_owned(), code(problem, 300)),
        Verdict::InSync(_) => ("nothing".to_owned(), "in sync".to_owned()),
        Verdict::Unmanaged => ("nothing".to_owned(), "it has no file".to_owned()),
    }
}

fn problems(out: &mut Page, diagnostics: &[Diagnostic], directory: &str) {
    let mut cut = 0;
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            crate::model::Severity::Error => "error",
            crate::model::Severity::Warning => "warning",
        };
        let place = diagnostic.excerpt.as_ref().map(|e| format!(":{}:{}", e.line, e.column)).unwrap_or_default();
        let help = diagnostic.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
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
        out.always(&format!("- and {cut} more, which `validate` tells\n"));
    }
    if !diagnostics.is_empty() {
        out.always("\n");
    }
}

fn details(entry: &Entry, step: &Step) -> String {
    let lines: Vec<String> = diff(step)
        .into_iter()
        .map(|line| match line {
            DiffLine::Hunk(header) => header,
            DiffLine::Same(text) => format!(" {text}"),
            DiffLine::Gone(text) => format!("-{text}"),
            DiffLine::New(text) => format!("+{text}"),
        })
        .collect();
    let body = lines.join("\n");
    let fence = "`".repeat(longest_run(&body).max(2) + 1);
    // A provider's name is made of capitals, digits and underscores: it may stand in HTML.
    format!(
        "<details><summary><b>{}</b> {}</summary>\n\n{fence}diff\n{body}\n{fence}\n\n</details>\n\n",
        entry.provider.as_ref().map(ToString::to_string).unwrap_or_default(),
        brief(&step.changes)
    )
}

fn footer(plan: &Plan) -> String {
    let mut out = String::new();
    match &plan.digest {
        Some(digest) => {
            let _ = writeln!(out, "Plan `{digest}`\n");
        }
        None => {
            let values: usize = plan.entries.iter().map(|e| e.unresolved.len()).sum();
            let _ = writeln!(
                out,
                "{values} values below `partnerKey` were not compared: their secrets are not at hand here, and are resolved at apply time."
            );
        }
    }
    if let Some(revision) = &plan.revision {
        let _ = writeln!(out, "Revision {} {}", code(&revision.short(), 80), code(&revision.subject, 100));
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
    let text = ellipsize(&printable(text), max).replace('|', "\\|");
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
    text.split(|c| c != '`').map(str::len).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_leave_its_span() {
        assert_eq!(code("plain", 80), "`plain`");
        assert_eq!(code("a `b` ``c", 80), "``` a `b` ``c ```");
        assert_eq!(code("a|b", 80), "`a\\|b`");
        assert_eq!(code("a\nb\u{202e}c", 80), "`a\\u{a}b\\u{202e}c`");
        assert_eq!(code("@team <script> [x](https://e.com)", 80), "`@team <script> [x](https://e.com)`");
    }
}
