//! Plans and reports as JSON. The keys are a contract: scripts rely on them, and none is ever renamed.

use serde::Serialize;

use crate::apply::{Outcome, Report};
use crate::model::{Diagnostic, Severity, acts, printable};
use crate::plan::{Change, Entry, KeyChange, Mismatch, Plan, Value, Verdict};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: Workspace<'a>,
    revision: Option<Revision<'a>>,
    summary: Summary,
    digest: Option<String>,
    definitions: Vec<Definition<'a>>,
    diagnostics: Vec<Problem<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Workspace<'a> {
    id: &'a str,
    name: &'a str,
    slug: &'a str,
}

#[derive(Serialize)]
struct Revision<'a> {
    commit: &'a str,
    subject: &'a str,
    author: &'a str,
    time: &'a str,
    dirty: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    in_sync: usize,
    update: usize,
    invalid: usize,
    missing: usize,
    held: usize,
    unmanaged: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    provider: Option<&'a str>,
    file: Option<&'a str>,
    state: &'static str,
    changes: Vec<ChangeItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<Hold<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unresolved: Vec<Unresolved<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_converged: Vec<Kept<'a>>,
}

#[derive(Serialize)]
struct Hold<'a> {
    until: String,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Unresolved<'a> {
    path: &'a str,
    secrets: Vec<&'a str>,
}

#[derive(Serialize)]
struct ChangeItem {
    path: String,
    before: serde_json::Value,
    after: serde_json::Value,
    sensitive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<String>,
}

#[derive(Serialize)]
struct Kept<'a> {
    path: &'a str,
    sent: serde_json::Value,
    kept: serde_json::Value,
    sensitive: bool,
}

#[derive(Serialize)]
struct Problem<'a> {
    severity: &'static str,
    code: &'static str,
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
    help: Option<&'a str>,
}

/// The document of `plan` and, with a report, of `apply`. `error` is why the pass did not go on: a refusal, for example.
#[must_use]
pub fn plan(plan: &Plan, diagnostics: &[Diagnostic], report: Option<&Report>, error: Option<&str>) -> String {
    let summary = plan.summary();
    let document = Document {
        workspace: Workspace { id: &plan.workspace.id, name: &plan.workspace.name, slug: &plan.workspace.slug },
        revision: plan.revision.as_ref().map(|r| Revision {
            commit: &r.commit,
            subject: &r.subject,
            author: &r.author,
            time: &r.time,
            dirty: r.dirty,
        }),
        summary: Summary {
            in_sync: summary.in_sync,
            update: summary.update,
            invalid: summary.invalid,
            missing: summary.missing,
            held: summary.held,
            unmanaged: summary.unmanaged,
        },
        digest: plan.digest.as_ref().map(ToString::to_string),
        definitions: plan.entries.iter().map(|entry| definition(entry, diagnostics, report)).collect(),
        diagnostics: diagnostics.iter().map(problem).collect(),
        error,
    };
    escaped(&serde_json::to_string_pretty(&document).unwrap_or_default())
}

/// The document of a pass that failed before there was a plan.
#[must_use]
pub fn failure(error: &str, diagnostics: &[Diagnostic]) -> String {
    let problems: Vec<Problem<'_>> = diagnostics.iter().map(problem).collect();
    let document = serde_json::json!({ "error": error, "diagnostics": problems });
    escaped(&format!("{document:#}"))
}

/// The same document, fit for a terminal: what could act on it is written as an escape, which every
/// reader of JSON takes for the character itself. serde_json does so below U+0020 only.
fn escaped(document: &str) -> String {
    let mut text = String::with_capacity(document.len() + 1);
    for c in document.chars() {
        if c != '\n' && acts(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

fn problem(diagnostic: &Diagnostic) -> Problem<'_> {
    let Diagnostic { severity, code, file, excerpt, message, help } = diagnostic;
    Problem {
        severity: match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        code: code.as_str(),
        file,
        line: excerpt.as_ref().map(|e| e.line),
        column: excerpt.as_ref().map(|e| e.column),
        message,
        help: help.as_deref(),
    }
}

fn definition<'a>(entry: &'a Entry, diagnostics: &[Diagnostic], report: Option<&'a Report>) -> Definition<'a> {
    let result = report.and_then(|report| report.results.iter().find(|r| entry.provider.as_ref() == Some(&r.provider)));
    let outcome = report.map(|_| match (result, &entry.verdict) {
        (Some(result), _) => result.outcome.as_str(),
        (None, Verdict::InSync(_)) => "unchanged",
        (None, _) => "skipped",
    });
    let not_converged = match result.map(|r| &r.outcome) {
        Some(Outcome::NotConverged(mismatches)) => mismatches.iter().map(kept).collect(),
        _ => Vec::new(),
    };
    let error = result.and_then(|r| r.outcome.error()).or_else(|| match &entry.verdict {
        Verdict::Update(step) if report.is_none() => step.payload.refusal(),
        Verdict::Unreadable(problem) => Some(format!("Calry's definition cannot be read: {}", printable(problem))),
        Verdict::Missing => Some("the workspace does not have this provider".to_owned()),
        Verdict::Invalid => {
            let errors = diagnostics
                .iter()
                .filter(|d| d.severity == Severity::Error && Some(d.file.as_str()) == entry.file.as_deref())
                .count();
            Some(format!("the file has {errors} {}; see diagnostics", if errors == 1 { "error" } else { "errors" }))
        }
        _ => None,
    });
    Definition {
        provider: entry.provider.as_ref().map(|p| p.as_str()),
        file: entry.file.as_deref(),
        state: entry.verdict.state(),
        changes: entry.changes().iter().map(change).collect(),
        hold: match &entry.verdict {
            Verdict::Held { hold, .. } => Some(Hold { until: hold.until.to_string(), reason: hold.reason.as_deref() }),
            _ => None,
        },
        unresolved: entry
            .unresolved
            .iter()
            .map(|u| Unresolved { path: &u.path, secrets: u.secrets.iter().map(|s| s.as_str()).collect() })
            .collect(),
        outcome,
        error,
        not_converged,
    }
}

fn change(change: &Change) -> ChangeItem {
    let (kind, secrets) = match change {
        Change::Key { change, secrets, .. } => {
            let kind = match change {
                KeyChange::Added => "added",
                KeyChange::Removed => "removed",
                KeyChange::Changed => "changed",
                KeyChange::Masked => "masked",
            };
            (Some(kind), secrets.iter().map(ToString::to_string).collect())
        }
        Change::Icon { .. } | Change::Field { .. } => (None, Vec::new()),
    };
    ChangeItem {
        path: change.path(),
        before: value(&change.before()),
        after: value(&change.after()),
        sensitive: change.sensitive(),
        change: kind,
        secrets,
    }
}

fn kept(mismatch: &Mismatch) -> Kept<'_> {
    Kept {
        path: &mismatch.path,
        sent: value(&mismatch.sent),
        kept: value(&mismatch.kept),
        sensitive: mismatch.sensitive,
    }
}

fn value(value: &Value) -> serde_json::Value {
    match value {
        Value::None => serde_json::Value::Null,
        Value::Bool(on) => (*on).into(),
        Value::Text(text) => text.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_act_on_a_terminal_is_escaped_and_means_the_same() {
        let hostile = "a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{e0041}ü\n";
        let text = failure(hostile, &[]);
        assert!(text.chars().all(|c| c == '\n' || !acts(c)), "{text:?}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["error"], hostile);
    }
}
