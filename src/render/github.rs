//! Problems and plans as workflow commands, which GitHub shows at the file and line that they are about.
//!
//! The syntax and its escapes are those of "Workflow commands for GitHub Actions": a message escapes `%`, CR and LF, a
//! property `:` and `,` as well. Without them, a file's name could begin a command of its own.

use std::fmt::Write as _;

use super::path_from_root;
use super::text::{brief, counts, mismatched, origins};
use super::view::{loosened, parts};
use crate::apply::{Outcome, Report};
use crate::model::{Diagnostic, Excerpt, Severity, ellipsize, printable};
use crate::plan::{Origin, Payload, Plan, Verdict};

/// One annotation for each problem.
#[must_use]
pub fn diagnostics(list: &[Diagnostic], directory: &str) -> String {
    let mut out = String::new();
    for diagnostic in list {
        let level = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = diagnostic.excerpt.as_ref();
        let help = diagnostic.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
        let message = format!("{}{help}", diagnostic.message);
        annotation(&mut out, level, directory, Some(&diagnostic.file), place, diagnostic.code.as_str(), &message);
    }
    out
}

/// One annotation for each provider that changes or cannot, and one for the whole.
#[must_use]
pub fn plan(plan: &Plan, directory: &str) -> String {
    let mut out = String::new();
    for item in &plan.loosened {
        let (label, sentence) = loosened(item, printable);
        annotation(
            &mut out,
            "warning",
            directory,
            item.file(),
            None,
            "no longer protected",
            &format!("{label}: {sentence}"),
        );
    }
    for (origin, part) in parts(plan).iter().flat_map(|(origin, parts)| parts.iter().map(move |part| (origin, part))) {
        let file = part.entry.file.as_deref();
        let (level, title, message) = match (&part.step.payload, origin) {
            (Payload::Masked(_), _) => {
                ("warning", "cannot be applied", part.step.payload.refusal().unwrap_or_default())
            }
            (_, Some(Origin::Drift)) => ("notice", "drift that was there before", brief(part.changes.iter().copied())),
            (_, Some(Origin::Branch)) => ("notice", "this branch changes", brief(part.changes.iter().copied())),
            (_, None) => ("notice", "will change", brief(part.changes.iter().copied())),
        };
        annotation(&mut out, level, directory, file, None, title, &format!("{}: {message}", part.entry.label()));
    }
    for entry in &plan.entries {
        let Some(file) = entry.file.as_deref() else { continue };
        let label = entry.label();
        let (level, title, message) = match &entry.verdict {
            Verdict::Held { hold, pending } if !pending.is_empty() => {
                ("notice", "held", format!("{label} is held until {} (pending: {})", hold.until, brief(pending)))
            }
            Verdict::Unreadable(problem) => ("error", "unreadable", format!("{label}: {problem}")),
            // A missing provider is among the diagnostics, at its line.
            _ => continue,
        };
        annotation(&mut out, level, directory, Some(file), None, title, &message);
    }
    let origins = if plan.base.is_some() { format!(". {}", origins(plan)) } else { String::new() };
    let digest = plan.digest.as_ref().map(|digest| format!(" ({digest})")).unwrap_or_default();
    let _ = writeln!(
        out,
        "::notice title=Calry plan::{}",
        data(&format!("{}: {}{origins}{digest}", plan.workspace.slug, counts(&plan.summary())))
    );
    out
}

/// One annotation for each update that did not succeed, and one for the whole.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for result in &report.results {
        let why = match &result.outcome {
            Outcome::Applied | Outcome::Unchanged => continue,
            Outcome::Failed(why) | Outcome::Skipped(why) => why.clone(),
            Outcome::NotConverged(mismatches) => mismatches.iter().map(mismatched).collect::<Vec<_>>().join("; "),
        };
        let _ = writeln!(
            out,
            "::error title=Calry {}::{}",
            property(result.outcome.as_str()),
            data(&format!("{}: {why}", result.provider))
        );
    }
    let done = report.results.iter().filter(|result| result.outcome.is_done()).count();
    let _ = writeln!(out, "::notice title=Calry apply::{done} of {} applied", report.results.len());
    out
}

/// One annotation that says why there is no plan, or why it was not carried out.
#[must_use]
pub fn failure(sentence: &str) -> String {
    format!("::error title=Calry::{}\n", data(sentence))
}

fn annotation(
    out: &mut String,
    level: &str,
    directory: &str,
    file: Option<&str>,
    place: Option<&Excerpt>,
    title: &str,
    message: &str,
) {
    let file = file.map(|file| format!("file={},", property(&path_from_root(directory, file)))).unwrap_or_default();
    let place = place
        .map(|e| {
            format!("line={line},endLine={line},col={},endColumn={},", e.column, e.column + e.width, line = e.line)
        })
        .unwrap_or_default();
    let _ = writeln!(out, "::{level} {file}{place}title={}::{}", property(title), data(message));
}

fn data(text: &str) -> String {
    ellipsize(&printable(text), 1000).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
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
            excerpt: Some(Excerpt { line: 4, column: 2, width: 1, text: String::new(), mark: 0..0 }),
            message: "100% wrong\r\nreally".to_owned(),
            help: None,
        };
        let out = diagnostics(&[problem], "./definitions/");
        assert_eq!(
            out,
            "::error file=definitions/a%2Cline=9%3A%3Ab\\u{a}%3A%3Aset-output name=x%3A%3Ay.yaml,line=4,endLine=4,col=2,endColumn=3,title=unknown-key\
             ::100%25 wrong\\u{d}\\u{a}really\n"
        );
    }
}
