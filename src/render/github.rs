//! Problems and plans as workflow commands, which GitHub shows as annotations of a file and line.
//!
//! The syntax and its escapes are those of "Workflow commands for GitHub Actions": a message escapes `%`, CR and LF, a
//! property `:` and `,` as well. Without them, a file's name could begin a command of its own.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::text::{describe_origins, summarize_changes};
use super::view::{describe_loosening, describe_suspension, describe_violation, parts_by_origin};
use super::{message_with_help, path_from_root};
use crate::model::{Diagnostic, Excerpt, Severity, ellipsize, first_problems, printable};
use crate::plan::{Change, Loosening, Origin, Plan, PlanEntry, PolicyAction, Verdict, refusal};
use crate::reconcile::apply::{Outcome, Report};
use crate::report::consequences::describe_consequence;
use crate::report::words::{describe_counts, describe_mismatch, name_changes};

/// What an annotation of a plan is about.
#[derive(Clone, Copy)]
pub enum AnnotationTarget<'a> {
    File,
    Hold,
    /// The key that makes a change.
    Change(&'a Change),
}

/// The level of an annotation. GitHub shows the first ten of each level of a step; all are in its log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnnotationLevel {
    Error,
    Warning,
    Notice,
}

/// One annotation for each problem, the errors first.
#[must_use]
pub fn diagnostics(list: &[Diagnostic], directory: &str) -> String {
    let mut out = Annotations {
        text: String::new(),
        directory,
    };
    out.problems(list, Severity::Error);
    out.problems(list, Severity::Warning);
    out.text
}

/// One annotation for the plan, then one for each problem, each protection that this branch ends, and each line of a file that
/// changes something. `place` finds a target in its file.
#[must_use]
pub fn plan(
    plan: &Plan,
    diagnostics: &[Diagnostic],
    directory: &str,
    place: impl Fn(&str, AnnotationTarget<'_>) -> Option<Excerpt>,
) -> String {
    let mut out = Annotations {
        text: String::new(),
        directory,
    };
    let origins = if plan.base.is_some() {
        format!(". {}", describe_origins(plan))
    } else {
        String::new()
    };
    let digest = plan
        .digest
        .as_ref()
        .map(|digest| format!(" ({digest})"))
        .unwrap_or_default();
    let summary = format!(
        "{}: {}{origins}{digest}",
        plan.workspace.slug,
        describe_counts(&plan.summary())
    );
    out.add(AnnotationLevel::Notice, None, None, "Calry plan", &summary);

    if let Some(sentence) = describe_suspension(plan) {
        let file = Some(Loosening::PIN_FILE);
        out.add(AnnotationLevel::Notice, file, None, "on hold", &sentence);
    }

    out.problems(diagnostics, Severity::Error);
    for entry in &plan.entries {
        // A missing provider is among the problems already, with its line.
        let (Some(file), Verdict::Unreadable(problem)) = (entry.file.as_deref(), &entry.verdict)
        else {
            continue;
        };
        let place = place(file, AnnotationTarget::File);
        out.add(
            AnnotationLevel::Error,
            Some(file),
            place,
            "unreadable",
            &format!("{}: {problem}", entry.label()),
        );
    }
    for violation in &plan.violations {
        let entry = plan
            .entries
            .iter()
            .find(|entry| entry.provider.is_some() && violation.file == entry.file);
        let changes = entry.into_iter().flat_map(PlanEntry::changes);
        let target = changes
            .filter(|change| Some(change.path()) == violation.path)
            .map(AnnotationTarget::Change)
            .next();
        let file = match (entry, target) {
            (Some(entry), Some(AnnotationTarget::Change(change))) => entry.file_of(change),
            _ => violation.file.as_deref(),
        };
        let place = file.and_then(|file| place(file, target.unwrap_or(AnnotationTarget::File)));
        let (level, title) = match violation.action {
            PolicyAction::Deny => (AnnotationLevel::Error, "denied by policy"),
            PolicyAction::Warn => (AnnotationLevel::Warning, "policy"),
        };
        let (label, sentence) = describe_violation(violation, printable);
        out.add(level, file, place, title, &format!("{label}: {sentence}"));
    }
    for item in &plan.loosened {
        let target = if matches!(item, Loosening::Hold { .. }) {
            AnnotationTarget::Hold
        } else {
            AnnotationTarget::File
        };
        let place = item.file().and_then(|file| place(file, target));
        let (label, sentence) = describe_loosening(item, printable);
        out.add(
            AnnotationLevel::Warning,
            item.file(),
            place,
            "no longer protected",
            &format!("{label}: {sentence}"),
        );
    }
    let mut changes = changes(plan, &place);
    changes.sort_by_key(|change| change.level != AnnotationLevel::Warning);
    for change in changes {
        let (level, file) = (change.level, Some(change.file));
        out.add(level, file, change.place, change.title, &change.message);
    }
    out.problems(diagnostics, Severity::Warning);
    for entry in &plan.entries {
        let (
            Some(file),
            Verdict::Held {
                hold,
                pending,
                step: None,
            },
        ) = (entry.file_of_hold(), &entry.verdict)
        else {
            continue;
        };
        if !pending.is_empty() {
            let message = format!(
                "{} is on hold until {} (pending: {})",
                entry.label(),
                hold.until,
                summarize_changes(pending)
            );
            out.add(
                AnnotationLevel::Notice,
                Some(file),
                place(file, AnnotationTarget::Hold),
                "on hold",
                &message,
            );
        }
    }
    out.text
}

struct Annotation<'a> {
    level: AnnotationLevel,
    file: &'a str,
    place: Option<Excerpt>,
    title: &'static str,
    message: String,
}

/// The changes of a plan, one annotation for each line of a file: a warning if fields are switched off, else a notice. With a
/// base, only those of the branch.
fn changes<'a>(
    plan: &'a Plan,
    place: &dyn Fn(&str, AnnotationTarget<'_>) -> Option<Excerpt>,
) -> Vec<Annotation<'a>> {
    let mut all = Vec::new();
    for (origin, part) in parts_by_origin(plan)
        .into_iter()
        .flat_map(|(origin, parts)| parts.into_iter().map(move |p| (origin, p)))
    {
        let Some(file) = part.entry.file.as_deref() else {
            continue;
        };
        let label = part.entry.label();
        let over = part
            .entry
            .ended_hold()
            .map(|hold| format!(" (its hold ended on {})", hold.until))
            .unwrap_or_default();
        if let Some(obstacle) = part.step.payload.obstacle() {
            let message = format!("{label}: {obstacle}");
            let (level, place) = (
                AnnotationLevel::Warning,
                place(file, AnnotationTarget::File),
            );
            all.push(Annotation {
                level,
                file,
                place,
                title: "cannot be applied",
                message,
            });
            if part.step.sendable().next().is_none() {
                continue;
            }
        }
        // A reviewer decides on the changes of the branch; the first annotation counts the rest.
        if origin == Some(Origin::Drift) {
            continue;
        }
        let is_off = |change: &Change| matches!(change, Change::Field { after: false, .. });
        type Line<'a> = (bool, &'a str, Option<Excerpt>, Vec<&'a Change>);
        let mut lines: Vec<Line<'_>> = Vec::new();
        for change in part.changes {
            let file = part.entry.file_of(change).unwrap_or(file);
            let (off, place) = (
                is_off(change),
                place(file, AnnotationTarget::Change(change)),
            );
            let line = place.as_ref().map(|place| place.line);
            match lines.iter_mut().find(|(o, of, at, _)| {
                *o == off && *of == file && at.as_ref().map(|at| at.line) == line
            }) {
                Some((.., changes)) => changes.push(change),
                None => lines.push((off, file, place, vec![change])),
            }
        }
        for (off, file, place, changes) in lines {
            let (level, title) = match (origin, off) {
                (Some(_), true) => (AnnotationLevel::Warning, "this branch switches off"),
                (Some(_), false) => (AnnotationLevel::Notice, "this branch changes"),
                (None, true) => (AnnotationLevel::Warning, "will be switched off"),
                (None, false) => (AnnotationLevel::Notice, "will change"),
            };
            let consequence = describe_consequence(changes.iter().copied());
            let consequence = consequence.map(|consequence| format!("; {consequence}"));
            all.push(Annotation {
                level,
                file,
                place,
                title,
                message: format!(
                    "{label}: {}{}{over}",
                    name_changes(changes),
                    consequence.unwrap_or_default()
                ),
            });
        }
    }
    all
}

/// One annotation for each update that did not succeed, and one for the apply.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for result in &report.results {
        let why = match &result.outcome {
            Outcome::Applied | Outcome::Unchanged => continue,
            Outcome::Failed(why) | Outcome::Skipped(why) => why.clone(),
            Outcome::Partial(refused) => refusal(refused).unwrap_or_default(),
            Outcome::NotConverged(mismatches) => mismatches
                .iter()
                .map(describe_mismatch)
                .collect::<Vec<_>>()
                .join("; "),
        };
        let _ = writeln!(
            out,
            "::error title=Calry {}::{}",
            property(result.outcome.as_str()),
            data(&format!("{}: {why}", result.provider))
        );
    }
    let done = report
        .results
        .iter()
        .filter(|result| result.outcome.is_done())
        .count();
    let _ = writeln!(
        out,
        "::notice title=Calry apply::{done} of {} applied",
        report.results.len()
    );
    out
}

/// One annotation with the reason why there is no plan, or why it was not applied.
#[must_use]
pub fn failure(sentence: &str) -> String {
    format!("::error title=Calry::{}\n", data(sentence))
}

/// Annotations of files in one directory, by its path from the root of the repository.
struct Annotations<'a> {
    text: String,
    directory: &'a str,
}

impl Annotations<'_> {
    fn problems(&mut self, list: &[Diagnostic], severity: Severity) {
        let level = match severity {
            Severity::Error => AnnotationLevel::Error,
            Severity::Warning => AnnotationLevel::Warning,
        };
        let listed = first_problems(list.iter());
        let of = listed
            .iter()
            .map(Cow::as_ref)
            .filter(|d| d.severity == severity);
        for problem in of {
            self.add(
                level,
                Some(&problem.file),
                problem.excerpt.clone(),
                problem.code.as_str(),
                &message_with_help(problem),
            );
        }
    }

    fn add(
        &mut self,
        level: AnnotationLevel,
        file: Option<&str>,
        place: Option<Excerpt>,
        title: &str,
        message: &str,
    ) {
        let level = match level {
            AnnotationLevel::Error => "error",
            AnnotationLevel::Warning => "warning",
            AnnotationLevel::Notice => "notice",
        };
        let file =
            file.map(|file| format!("file={},", property(&path_from_root(self.directory, file))));
        let place = place.map(|at| {
            let (line, column, end) = (at.line, at.column, at.column + at.width);
            format!("line={line},endLine={line},col={column},endColumn={end},")
        });
        let (file, place) = (file.unwrap_or_default(), place.unwrap_or_default());
        let _ = writeln!(
            self.text,
            "::{level} {file}{place}title={}::{}",
            property(title),
            data(message)
        );
    }
}

fn data(text: &str) -> String {
    ellipsize(&printable(text), 1000)
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Code;

    #[test]
    fn a_file_name_cannot_begin_a_command_of_its_own() {
        let problem = Diagnostic {
            severity: Severity::Error,
            code: Code::UnknownKey,
            file: "a,line=9::b\n::set-output name=x::y.yaml".to_owned(),
            excerpt: Some(Excerpt {
                line: 4,
                column: 2,
                width: 1,
                text: String::new(),
                mark: 0..0,
            }),
            message: "100% wrong\r\nreally".to_owned(),
            help: None,
        };
        let out = diagnostics(&[problem], "definitions");
        assert_eq!(
            out,
            "::error file=definitions/a%2Cline=9%3A%3Ab\\u{a}%3A%3Aset-output name=x%3A%3Ay.yaml,line=4,endLine=4,col=2,endColumn=3,title=unknown-key\
             ::100%25 wrong\\u{d}\\u{a}really\n"
        );
    }
}
