//! A plan as a comment on a pull request: readable in ten seconds, with long diffs folded, and safe to post.
//!
//! Never: show foreign text outside of code spans and blocks, whose fence is longer than any run of backticks in it. There
//! it cannot mention a person, make a link, open a tag or end its table. In a sentence, only words of letters, digits and
//! harmless punctuation stand outside of them.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::github::AnnotationTarget;
use super::text::{
    count_by_kind, describe_gap, describe_not_compared, due_changes, summarize_changes,
};
use super::view::{
    DiffLine, Part, describe_branch, describe_loosening, describe_suspension, describe_violation,
    diff_lines, parts_by_origin,
};
use super::{message_with_help, path_from_root, position};
use crate::model::{Diagnostic, Excerpt, Severity, ellipsize, printable, short_commit};
use crate::plan::{Change, Origin, Plan, PlanEntry, PolicyAction, Verdict, join_path};
use crate::reconcile::apply::Report;
use crate::report::consequences::describe_consequence;
use crate::report::links::{Links, project_file};
use crate::report::words::{describe_counts, name_changes, others, plural};

/// The most characters of a comment; GitHub takes 65,536.
pub const MAX: usize = 60_000;

/// The share of rows and problems; those beyond it are only counted and named.
const MAX_TABLE: usize = 20_000;

/// The share of a list of names: of the rows of a table that are cut, of the diffs that are cut.
const MAX_NAMES: usize = 3_000;

/// The most dangers of one kind, which a reviewer reads one by one.
const MAX_DANGERS: usize = 10;

/// The most rows of a table that is not folded.
const MAX_OPEN: usize = 20;

/// The result of a plan: none yet, a report, or the reason why it was not applied.
pub type Progress<'a> = Result<Option<&'a Report>, &'a str>;

/// Where the definitions are in their repository, and the repository on the web.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub links: &'a Links,
    /// The commit that links name; `None` for the one that is checked out.
    pub commit: Option<&'a str>,
    /// Finds a part of a plan in its file.
    pub find: &'a dyn Fn(&str, AnnotationTarget<'_>) -> Option<Excerpt>,
}

impl<'a> Place<'a> {
    /// The same, with the commit of a plan. What is not committed has no page.
    fn of(self, plan: &'a Plan) -> Self {
        let revision = plan.revision.as_ref().filter(|revision| !revision.dirty);
        Self {
            commit: self.commit.or(revision.map(|r| r.commit.as_str())),
            ..self
        }
    }

    /// A text that links to a line of a file.
    fn link_line(&self, text: &str, file: &str, line: Option<usize>) -> String {
        let url = self
            .commit
            .and_then(|commit| self.links.line(commit, file, line));
        link(text, url.as_deref())
    }

    /// A short commit that links to its page.
    fn link_commit(&self, commit: &str) -> String {
        let text = code_span(short_commit(commit), 80);
        link(&text, self.links.commit(commit).as_deref())
    }

    /// The names of the files with the changes of an entry, each of which links to the first of its changes.
    fn link_file(&self, entry: &PlanEntry, changes: &[&Change]) -> String {
        let link = |file: &str, target: AnnotationTarget<'_>| {
            let line = (self.find)(file, target).map(|excerpt| excerpt.line);
            self.link_line(&code_span(file, 80), file, line)
        };
        if changes.is_empty() {
            let file = entry.file_of_hold();
            return file.map_or_else(String::new, |file| link(file, AnnotationTarget::Hold));
        }
        let links = entry.files_of(changes).into_iter().filter_map(|file| {
            let mut changes = changes.iter();
            let first = changes.find(|change| entry.file_of(change) == Some(file))?;
            Some(link(file, AnnotationTarget::Change(first)))
        });
        links.collect::<Vec<_>>().join(", ")
    }
}

/// The plan as Markdown of at most [`MAX`] characters: the verdict, what is dangerous, the counts, a table, the diffs.
#[must_use]
pub fn plan(
    plan: &Plan,
    diagnostics: &[Diagnostic],
    progress: Progress<'_>,
    place: Place<'_>,
) -> String {
    let place = place.of(plan);
    let mut out = Page::default();
    out.push(&format!(
        "### {} Calry {}: {}\n\n",
        icon(plan, diagnostics, progress),
        code_span(&plan.workspace.slug, 128),
        headline(plan, progress)
    ));
    if let Err(sentence) = progress {
        out.push(&format!("**Why**: {}\n\n", prose(sentence, 1000)));
    }
    if let Some(sentence) = describe_suspension(plan) {
        out.push(&format!("⏸️ {}\n\n", prose(&sentence, 1200)));
    }
    write_dangers(&mut out, plan, diagnostics, progress, &place);
    out.push(&counts(plan, progress));
    let report = progress.ok().flatten();
    let mut cut = Vec::new();
    for (origin, parts) in parts_by_origin(plan) {
        // Drift is not what a reviewer of a branch decides on: it is folded as a whole.
        let drift = origin == Some(Origin::Drift);
        let mut rows: Vec<Row<'_>> = parts
            .iter()
            .map(|part| Row::of(part, report, &place))
            .collect();
        if drift {
            let Some(count) = plural(rows.len(), "provider", "providers") else {
                continue;
            };
            out.push(&format!(
                "<details><summary>Earlier drift, not from this branch: {count}</summary>\n\n"
            ));
        } else {
            let held = plan.entries.iter();
            rows.extend(held.filter_map(|entry| Row::of_hold(entry, &place)));
        }
        rows.sort_by_key(|row| !row.failed);
        write_table(&mut out, &rows, report.is_some());
        let reserve = footer(plan, &place).chars().count() + 8_000;
        for part in &parts {
            if !out.push_if_fits(&details(part), reserve) {
                cut.push(part.entry.label());
            }
        }
        if drift {
            out.push("</details>\n\n");
        }
    }
    if !cut.is_empty() {
        out.push(&format!(
            "{} more diffs are omitted to keep this comment readable: {}.\n\n",
            cut.len(),
            join_names(&cut, MAX_NAMES)
        ));
    }
    out.push(&footer(plan, &place));
    out.text
}

/// ❌ if something is wrong, ⚠️ if something needs a second look, else ✅.
fn icon(plan: &Plan, diagnostics: &[Diagnostic], progress: Progress<'_>) -> &'static str {
    let summary = plan.summary();
    let failed = match progress {
        Ok(Some(report)) => report.results.iter().any(|r| !r.outcome.is_done()),
        Ok(None) => plan.steps().any(|step| step.payload.obstacle().is_some()),
        Err(_) => true,
    };
    let wrong = summary.invalid + summary.missing + summary.unreadable > 0
        || diagnostics.iter().any(|d| d.severity == Severity::Error);
    if failed || wrong || plan.denied(false).is_some() && matches!(progress, Ok(None)) {
        return "❌";
    }
    // Without a base, every difference is one between git and Calry, not a change to be merged.
    let differs = plan.base.is_none() && summary.update > 0 && matches!(progress, Ok(None));
    let off = matches!(progress, Ok(None)) && due_changes(plan).any(switches_off);
    if off || differs || !plan.loosened.is_empty() || !plan.violations.is_empty() {
        "⚠️"
    } else {
        "✅"
    }
}

fn switches_off(change: &Change) -> bool {
    matches!(change, Change::Field { after: false, .. })
}

/// The verdict, which a reviewer reads first.
fn headline(plan: &Plan, progress: Progress<'_>) -> String {
    match progress {
        Err(_) => return "not applied".to_owned(),
        Ok(Some(report)) if !report.results.is_empty() => {
            let results = report.results.iter();
            let done = results.filter(|result| result.outcome.is_done()).count();
            return format!("{done} of {} applied", report.results.len());
        }
        Ok(_) => {}
    }
    let summary = plan.summary();
    let verdict = match (&plan.base, summary.update) {
        (Some(_), _) => describe_branch(plan),
        (None, 0) if summary.invalid + summary.missing + summary.unreadable == 0 => {
            "in sync".to_owned()
        }
        (None, _) => describe_counts(&summary),
    };
    let errors = [
        plural(summary.invalid, "file has errors", "files have errors"),
        plural(
            summary.missing,
            "provider is not in the workspace",
            "providers are not in the workspace",
        ),
        plural(
            summary.unreadable,
            "provider cannot be read",
            "providers cannot be read",
        ),
    ];
    let mut errors: Vec<String> = errors.into_iter().flatten().collect();
    let denied = plan.denied(false).map(|_| "denied by policy".to_owned());
    errors.extend(denied.clone());
    let due = plan.entries.iter().any(|e| e.is_due_to(Origin::Branch));
    if errors.is_empty() || plan.base.is_none() {
        // Without a base, the verdict counts the other errors.
        [denied, Some(verdict)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ")
    } else if due || !plan.loosened.is_empty() {
        format!("{}; {verdict}", errors.join(", "))
    } else {
        // What the files with errors would change is not known.
        errors.join(", ")
    }
}

/// What a reviewer must not overlook: errors, fields that are switched off, protection that is lost, then warnings.
fn write_dangers(
    out: &mut Page,
    plan: &Plan,
    diagnostics: &[Diagnostic],
    progress: Progress<'_>,
    place: &Place<'_>,
) {
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|error| format!("❌ {}", problem(error, place)));
    let lost = plan
        .entries
        .iter()
        .filter_map(|entry| fault(entry, diagnostics))
        .map(|(label, why)| format!("❌ {}: {why}", code_span(label, 80)));
    let loosened = plan.loosened.iter().map(|item| {
        let (label, sentence) = describe_loosening(item, |text| code_span(text, 80));
        format!("⚠️ {}: {sentence}", code_span(label, 80))
    });
    let violations = |action: PolicyAction, icon: &'static str| {
        let violations = plan.violations.iter().filter(move |of| of.action == action);
        let lines = violations.map(move |violation| {
            let (label, sentence) = describe_violation(violation, str::to_owned);
            format!("{icon} {}: {}", code_span(label, 80), prose(&sentence, 700))
        });
        at_most(lines, move |more| {
            format!("{icon} {more} more violations of policies; the log lists them")
        })
    };
    let parts = parts_by_origin(plan);
    let due = parts.iter().take(1).flat_map(|(_, parts)| parts);
    let off = due
        .filter(|_| matches!(progress, Ok(None)))
        .filter_map(|part| {
            let fields: Vec<&Change> = part
                .changes
                .iter()
                .copied()
                .filter(|c| switches_off(c))
                .collect();
            let count = plural(fields.len(), "field", "fields")?;
            let consequence = describe_consequence(fields.iter().copied());
            let consequence = consequence.map(|consequence| format!("; {consequence}"));
            Some(format!(
                "⚠️ {}: switches **{count} OFF**: {}{}",
                code_span(part.entry.label(), 80),
                name_fields(&fields),
                consequence.unwrap_or_default()
            ))
        });
    let warnings = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Warning)
        .map(|warning| format!("⚠️ {}", problem(warning, place)));
    // A long list of one kind must not hide the next kind.
    let off = at_most(off, |more| {
        format!("⚠️ {more} more providers switch fields **OFF**; the table counts them")
    });
    let loosened = at_most(loosened, |more| {
        format!("⚠️ {more} more places are no longer protected; the log lists them")
    });
    let warnings = at_most(warnings, |more| {
        format!("⚠️ {more} more warnings; the log lists them")
    });
    out.push_list(
        errors
            .chain(lost)
            .chain(violations(PolicyAction::Deny, "❌"))
            .chain(off)
            .chain(loosened)
            .chain(violations(PolicyAction::Warn, "⚠️"))
            .chain(warnings),
        MAX - MAX_TABLE / 2,
    );
}

/// The first items of a list; the last one counts the rest.
fn at_most(
    items: impl Iterator<Item = String>,
    rest: impl Fn(usize) -> String,
) -> impl Iterator<Item = String> {
    let mut items: Vec<String> = items.collect();
    // One item is not worth a count of it.
    if items.len() > MAX_DANGERS + 1 {
        let more = items.len() - MAX_DANGERS;
        items.truncate(MAX_DANGERS);
        items.push(rest(more));
    }
    items.into_iter()
}

/// At most eight fields by name.
fn name_fields(changes: &[&Change]) -> String {
    const MOST: usize = 8;
    let names = changes.iter().take(MOST).filter_map(|change| match change {
        Change::Field { group, field, .. } => Some(code_span(&join_path(&[group, field]), 80)),
        Change::Icon { .. } | Change::Key { .. } => None,
    });
    let names = names.collect::<Vec<_>>().join(", ");
    match changes.len().checked_sub(MOST) {
        None | Some(0) => names,
        Some(more) => format!("{names} and {more} more"),
    }
}

/// Why a provider cannot be updated, if no diagnostic reports it.
fn fault<'a>(entry: &'a PlanEntry, diagnostics: &[Diagnostic]) -> Option<(&'a str, String)> {
    let file = entry.file.as_deref().unwrap_or_default();
    let why = match &entry.verdict {
        Verdict::Invalid if diagnostics.iter().any(|d| d.file == file) => return None,
        Verdict::Invalid => format!("{} has errors", code_span(file, 80)),
        Verdict::Missing => format!(
            "{} names it, and the workspace does not have it",
            code_span(file, 80)
        ),
        Verdict::Unreadable(problem) => code_span(problem, 300),
        Verdict::Update(_) | Verdict::InSync(..) | Verdict::Held { .. } | Verdict::Unmanaged => {
            return None;
        }
    };
    Some((entry.label(), why))
}

/// The changes and the providers by number, in one line.
fn counts(plan: &Plan, progress: Progress<'_>) -> String {
    let numbers = count_changes(due_changes(plan));
    let mut parts = Vec::new();
    if !numbers.is_empty() && !matches!(progress, Ok(Some(_))) {
        parts.push(numbers);
    }
    if plan.base.is_some() {
        let drifted = plan
            .entries
            .iter()
            .filter(|entry| entry.is_due_to(Origin::Drift))
            .count();
        parts.push(others(&plan.summary()).join(", "));
        parts.push(format!("{drifted} had drifted before"));
    }
    if parts.is_empty() {
        String::new()
    } else {
        format!("{}\n\n", parts.join(" · "))
    }
}

/// Why there is no plan, as Markdown, and what to do.
#[must_use]
pub fn failure(sentence: &str, diagnostics: &[Diagnostic], place: Place<'_>) -> String {
    let mut out = Page::default();
    let (why, help) = sentence
        .split_once("; help: ")
        .map_or((sentence, None), |(why, help)| (why, Some(help)));
    out.push(&format!(
        "### ❌ Calry: there is no plan for {}\n\n**Why**: {}\n\n",
        code_span(&place.links.directory, 200),
        prose(why, 1000)
    ));
    let errors = diagnostics.iter().any(|d| d.severity == Severity::Error);
    out.push_list(
        diagnostics.iter().map(|diagnostic| {
            let icon = match diagnostic.severity {
                Severity::Error => "❌",
                Severity::Warning => "⚠️",
            };
            format!("{icon} {}", problem(diagnostic, &place))
        }),
        MAX - MAX_TABLE,
    );
    let remedy = match help {
        _ if errors => "Correct the files; each error names its line".to_owned(),
        Some(help) => prose(help, 1000),
        None => "Fix the problem above".to_owned(),
    };
    out.push(&format!(
        "**What to do**: {remedy}. Then run this again; nothing was changed. [Troubleshooting]({})\n",
        project_file("docs/troubleshooting.md"),
    ));
    if let Some(commit) = place.commit {
        out.push(&format!("\nCommit {}\n", place.link_commit(commit)));
    }
    out.text
}

/// Text of at most [`MAX`] characters.
#[derive(Default)]
struct Page {
    text: String,
    /// The number of characters. A large plan adds tens of thousands of texts, so they are counted once.
    length: usize,
}

impl Page {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.length += text.chars().count();
    }

    /// Adds a text if it leaves `reserve` characters free; returns whether it did.
    fn push_if_fits(&mut self, text: &str, reserve: usize) -> bool {
        let fits = self.length + text.chars().count() + reserve <= MAX;
        if fits {
            self.push(text);
        }
        fits
    }

    /// Adds a list, of which it counts the items that do not leave `reserve` characters free.
    fn push_list(&mut self, items: impl Iterator<Item = String>, reserve: usize) {
        let before = self.length;
        let mut cut = 0;
        for item in items {
            if !self.push_if_fits(&format!("- {item}\n"), reserve) {
                cut += 1;
            }
        }
        if cut > 0 {
            self.push(&format!("- and {cut} more\n"));
        }
        if self.length > before {
            self.push("\n");
        }
    }
}

/// A row of the table, in Markdown but for the label.
struct Row<'a> {
    label: &'a str,
    changes: String,
    file: String,
    result: Option<String>,
    failed: bool,
}

impl<'a> Row<'a> {
    fn of(part: &Part<'a>, report: Option<&Report>, place: &Place<'_>) -> Self {
        let entry = part.entry;
        let mut file = place.link_file(entry, &part.changes);
        if let Some(hold) = entry.ended_hold() {
            let _ = write!(file, "; its hold ended on {}", hold.until);
        }
        if let Some(obstacle) = part.step.payload.obstacle() {
            let _ = write!(file, ", ❌ {}", code_span(&obstacle, 300));
        }
        let mut results = report.into_iter().flat_map(|report| &report.results);
        let result = results.find(|result| entry.provider.as_ref() == Some(&result.provider));
        let failed = result.is_some_and(|result| !result.outcome.is_done());
        let result = result.map(|result| {
            let error = result.outcome.error();
            let error = error.map(|error| format!(": {}", code_span(&error, 300)));
            format!(
                "**{}**{}",
                result.outcome.as_str(),
                error.unwrap_or_default()
            )
        });
        Self {
            label: entry.label(),
            changes: summarize(&part.changes),
            file,
            result,
            failed,
        }
    }

    /// The row of a provider on hold; with a base, only if the hold suspends a change of this branch.
    fn of_hold(entry: &'a PlanEntry, place: &Place<'_>) -> Option<Self> {
        let Verdict::Held {
            hold,
            pending,
            step: None,
        } = &entry.verdict
        else {
            return None;
        };
        if entry.origins.is_some() && entry.changes_of(Origin::Branch).next().is_none() {
            return None;
        }
        let mut file = place.link_file(entry, &[]);
        let _ = write!(file, ", on hold until {}", hold.until);
        if let Some(reason) = &hold.reason {
            let _ = write!(file, ": {}", code_span(reason, 200));
        }
        let changes = if pending.is_empty() {
            "nothing".to_owned()
        } else {
            format!("nothing (pending: {})", summarize_changes(pending))
        };
        Some(Self {
            label: entry.label(),
            changes,
            file,
            result: None,
            failed: false,
        })
    }
}

fn write_table(out: &mut Page, rows: &[Row<'_>], with_results: bool) {
    if rows.is_empty() {
        return;
    }
    let (heading, line) = if with_results {
        (" result |", " --- |")
    } else {
        ("", "")
    };
    let folded = rows.len() > MAX_OPEN;
    if folded {
        out.push(&format!(
            "<details><summary>Table of {} providers</summary>\n\n",
            rows.len()
        ));
    }
    out.push(&format!(
        "| provider | changes | file |{heading}\n| --- | --- | --- |{line}\n"
    ));
    let mut cut = Vec::new();
    for row in rows {
        let result = match &row.result {
            _ if !with_results => String::new(),
            Some(result) => format!(" {result} |"),
            None => "  |".to_owned(),
        };
        let line = format!(
            "| {} | {} | {} |{result}\n",
            code_span(row.label, 80),
            row.changes,
            row.file
        );
        if !out.push_if_fits(&line, MAX - MAX_TABLE) {
            cut.push(row.label);
        }
    }
    out.push("\n");
    if !cut.is_empty() {
        out.push(&format!(
            "And {} more: {}.\n\n",
            cut.len(),
            join_names(&cut, MAX_NAMES)
        ));
    }
    if folded {
        out.push("</details>\n\n");
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

/// A problem of a file: its place, and what is wrong.
fn problem(diagnostic: &Diagnostic, place: &Place<'_>) -> String {
    let path = path_from_root(&place.links.directory, &diagnostic.file);
    format!(
        "{}: {}",
        place.link_line(
            &code_span(&format!("{path}{}", position(diagnostic)), 200),
            &diagnostic.file,
            diagnostic.excerpt.as_ref().map(|e| e.line)
        ),
        prose(&message_with_help(diagnostic), 400)
    )
}

fn details(part: &Part<'_>) -> String {
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
    // A provider's name is made of capitals, digits and underscores: it may stand in HTML.
    format!(
        "<details><summary><b>{}</b> {}</summary>\n\n{fence}diff\n{body}\n{fence}\n\n</details>\n\n",
        part.entry
            .provider
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        summarize_changes(part.changes.iter().copied())
    )
}

/// The last line: digest, revision, merge base and snapshot.
fn footer(plan: &Plan, place: &Place<'_>) -> String {
    let mut parts = vec![match &plan.digest {
        Some(digest) => format!("Plan `{digest}`"),
        None => describe_not_compared(plan).trim_end_matches('.').to_owned(),
    }];
    match (&plan.revision, place.commit) {
        // The checkout is a merge of this commit, with a subject that says nothing.
        (Some(revision), Some(commit)) if revision.commit != commit => {
            parts.push(format!("commit {}", place.link_commit(commit)));
        }
        (Some(revision), _) => {
            let short = code_span(&revision.short(), 80);
            parts.push(format!(
                "revision {} {}",
                link(&short, place.links.commit(&revision.commit).as_deref()),
                code_span(&revision.subject, 100)
            ));
        }
        (None, Some(commit)) => parts.push(format!("commit {}", place.link_commit(commit))),
        (None, None) => {}
    }
    if let Some(base) = &plan.base {
        parts.push(format!("merge base {}", place.link_commit(base)));
    }
    if let Some(taken) = &plan.snapshot {
        parts.push(format!(
            "live state as of {}, from a snapshot",
            code_span(taken, 80)
        ));
    }
    format!("{}\n", parts.join(" · "))
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

/// A sentence in which names may be quoted by backticks. Each word that Markdown could take for more than a word becomes a
/// code span.
fn prose(text: &str, max: usize) -> String {
    let text = ellipsize(&printable(text), max);
    let quoted: Vec<&str> = text.split('`').collect();
    if quoted.len().is_multiple_of(2) {
        return code_span(&text, max);
    }
    let mut out = String::new();
    for (at, part) in quoted.into_iter().enumerate() {
        if at % 2 == 1 {
            out.push_str(&code_span(part, max));
        } else {
            push_words(&mut out, part);
        }
    }
    out
}

/// Adds words that are not quoted. Neighbours that are not plain share a span.
fn push_words(out: &mut String, text: &str) {
    let mut code: Option<String> = None;
    let close = |out: &mut String, code: &mut Option<String>| {
        if let Some(code) = code.take() {
            out.push_str(&code_span(&code, usize::MAX));
        }
    };
    for (at, word) in text.split(' ').enumerate() {
        let inner = word.trim_start_matches(['(', '"']);
        let (before, _) = word.split_at(word.len() - inner.len());
        let inner = inner.trim_end_matches([',', '.', ';', ':', ')', '?', '"']);
        let after = word[before.len()..].strip_prefix(inner).unwrap_or_default();
        let plain = is_plain(inner);
        match &mut code {
            Some(code) if !plain && before.is_empty() => {
                code.push(' ');
                code.push_str(inner);
            }
            _ => {
                close(out, &mut code);
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(before);
                if plain {
                    out.push_str(inner);
                } else {
                    code = Some(inner.to_owned());
                }
            }
        }
        if !after.is_empty() {
            close(out, &mut code);
            out.push_str(after);
        }
    }
    close(out, &mut code);
}

/// Whether a word means nothing in Markdown: no mark-up, no address, no mention, no reference to an issue.
fn is_plain(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    word.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b",.;'\"()?=%+-".contains(&b))
        // The dot after it may be outside of the word.
        && !lower.contains("www")
        && !lower.contains("gh-")
}

/// A text, in Markdown, that links to an address.
fn link(text: &str, url: Option<&str>) -> String {
    // The rest of what a URL may hold could end the link or a cell of a table.
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'/')
        .remove(b':')
        .remove(b'?')
        .remove(b'#')
        .remove(b'&')
        .remove(b'=')
        .remove(b'+')
        .remove(b'%')
        .remove(b'@')
        .remove(b',');
    match url {
        Some(url) => format!("[{text}]({})", utf8_percent_encode(url, KEPT)),
        None => text.to_owned(),
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
    fn a_sentence_has_words_and_what_could_be_more_is_in_spans() {
        for (text, shown) in [
            (
                "`icn` is not a key (did you mean `icon`?)",
                "`icn` is not a key (did you mean `icon`?)",
            ),
            (
                "no connection to http://127.0.0.1:9: refused (os error 111)",
                "no connection to `http://127.0.0.1:9`: refused (os error 111)",
            ),
            (
                "the variable CALRY_API_KEY (401, \"no k*** o***\")",
                "the variable `CALRY_API_KEY` (401, \"no `k*** o***`\")",
            ),
            (
                "a|b @team #1 <b> *x* [x](y) !x \u{202e}",
                "`a\\u{7c}b @team #1 <b> *x* [x](y`) `!x \\u{202e}`",
            ),
            (
                "www.e.com GH-1 a@b.c :smile: é",
                "`www.e.com GH-1 a@b.c :smile`: `é`",
            ),
            ("see www. (www.)", "see `www`. (`www`.)"),
            ("one ` @team", "`` one ` @team ``"),
            ("`a``@team`", "`a``@team`"),
        ] {
            assert_eq!(prose(text, 200), shown);
        }
    }

    #[test]
    fn an_address_cannot_leave_its_link() {
        assert_eq!(
            link("`a`", Some("https://e.com/a)b|c`d<e>f[g]h\\i j\"k#L1")),
            "[`a`](https://e.com/a%29b%7Cc%60d%3Ce%3Ef%5Bg%5Dh%5Ci%20j%22k#L1)"
        );
        assert_eq!(link("`a`", None), "`a`");
    }

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
