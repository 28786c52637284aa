//! Plans and reports as JSON. The keys are a contract: scripts rely on them, and none is ever renamed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::consequences::describe_consequence;
use super::json;
use crate::model::{
    self, Diagnostic, Excerpt, Revision, Severity, Workspace, first_problems, printable,
};
use crate::plan::{
    Change, KeyChange, Loosening, Mismatch, Missing, Origin, PlainValue, Plan, PlanEntry, Summary,
    Verdict, Violation, refusal,
};
use crate::reconcile::apply::{Outcome, Report};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a Workspace,
    revision: Option<&'a Revision>,
    summary: Summary,
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<Value>,
    /// Where the live state comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Value>,
    /// The hold of the workspace that is in force: its updates are `held`.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<WorkspaceHoldItem>,
    /// The hold of the workspace that the approval lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    overridden_hold: Option<OverriddenHoldItem>,
    definitions: Vec<Definition<'a>>,
    /// Present with a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    loosened: Option<Vec<LoosenedItem<'a>>>,
    /// What the operator's policies deny, or warn of.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    violations: &'a [Violation],
    diagnostics: Vec<DiagnosticItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// A protection that this branch removes.
#[derive(Serialize)]
struct LoosenedItem<'a> {
    /// Null for workspace.yaml.
    provider: Option<&'a str>,
    what: &'static str,
    path: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    provider: Option<&'a str>,
    file: Option<&'a str>,
    state: &'static str,
    changes: Vec<ChangeItem>,
    /// What it means for listings that the update switches fields off.
    #[serde(skip_serializing_if = "Option::is_none")]
    consequence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<HoldItem>,
    /// The hold that is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_hold: Option<HoldItem>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unresolved: Vec<Unresolved<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    not_converged: &'a [Mismatch],
}

#[derive(Serialize)]
struct Unresolved<'a> {
    path: &'a str,
    secrets: Vec<&'a str>,
    /// What is not available: `secret`, or `live`, which a snapshot does not contain.
    missing: Missing,
}

/// A hold, which suspends changes to a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldItem {
    /// The last day, UTC; of a freeze window its end, RFC 3339.
    pub until: String,
    /// The reason.
    pub reason: Option<String>,
}

/// The hold of a workspace, which suspends all updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceHoldItem {
    /// The key of workspace.yaml: `hold` or `freeze`.
    pub by: String,
    /// The last day, UTC, of a hold; the end of a freeze window, RFC 3339.
    pub until: String,
    /// The reason.
    pub reason: Option<String>,
    /// The digest of the suspended plan, which can be approved with a reason; null if no update is due.
    pub digest: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OverriddenHoldItem {
    by: &'static str,
    until: String,
    reason: Option<String>,
    approval_reason: String,
}

/// One difference between git and Calry. Of a value below partnerKey it contains only the position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeItem {
    /// The position, such as `fieldsToSync.listing.pictures`.
    pub path: String,
    /// The live value; null if there is none or it is sensitive.
    pub before: Option<PlainValue>,
    /// The desired value; null if it is sensitive.
    pub after: Option<PlainValue>,
    /// True if the values are withheld.
    pub sensitive: bool,
    /// Whether it is a change of this branch; present with a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What happens to a withheld value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<KeyChange>,
    /// The secrets that a withheld value refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The file that has the desired value, if it is a shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// True if the file is shared with other workspaces.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_false(value: &bool) -> bool {
    !value
}

/// A problem of a definition file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiagnosticItem {
    /// Whether the file can still be used.
    pub severity: Severity,
    /// Its kind, such as `unknown-key`.
    pub code: String,
    /// The file's name in the definitions directory.
    pub file: String,
    /// From 1; null if the problem concerns the whole file.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
    /// The line, or its part around the position, with masked secrets; absent if the problem concerns the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<ExcerptItem>,
}

/// A quoted line and the marked part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExcerptItem {
    /// The text.
    pub text: String,
    /// The start of the marked part, in characters, from 0.
    pub from: usize,
    /// The length of the marked part in characters; 0 at the end of a line.
    pub length: usize,
}

/// The document of `plan` and, with a report, of `apply`. `error` is the reason of an early end, such as a refusal.
#[must_use]
pub fn plan(
    plan: &Plan,
    diagnostics: &[Diagnostic],
    report: Option<&Report>,
    error: Option<&str>,
) -> String {
    let document = Document {
        workspace: &plan.workspace,
        revision: plan.revision.as_ref(),
        summary: plan.summary(),
        digest: plan.digest.as_ref().map(ToString::to_string),
        base: plan.base.as_ref().map(|commit| json!({ "commit": commit })),
        snapshot: plan
            .snapshot
            .as_ref()
            .map(|taken_at| json!({ "takenAt": taken_at })),
        hold: WorkspaceHoldItem::of(plan),
        overridden_hold: plan
            .overridden
            .as_ref()
            .map(|overridden| OverriddenHoldItem {
                by: overridden.hold.scope.as_str(),
                until: overridden.hold.until.to_string(),
                reason: overridden.hold.reason.clone(),
                approval_reason: overridden.reason.clone(),
            }),
        definitions: plan
            .entries
            .iter()
            .map(|entry| definition(entry, diagnostics, report))
            .collect(),
        loosened: plan
            .base
            .is_some()
            .then(|| plan.loosened.iter().map(loosened).collect()),
        violations: &plan.violations,
        diagnostics: problems(diagnostics),
        error,
    };
    json::pretty(&document)
}

/// The document of `validate`.
#[must_use]
pub fn diagnostics(diagnostics: &[Diagnostic], files: usize) -> String {
    let problems = problems(diagnostics);
    let of = |severity| {
        diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    };
    let summary = json!({
        "files": files, "errors": of(Severity::Error), "warnings": of(Severity::Warning)
    });
    json::pretty(&json!({ "summary": summary, "diagnostics": problems }))
}

/// The document of a failure without a plan.
#[must_use]
pub fn failure(error: &str, diagnostics: &[Diagnostic]) -> String {
    let problems = problems(diagnostics);
    json::pretty(&json!({ "error": error, "diagnostics": problems }))
}

/// The first problems; the last item counts the rest.
fn problems(diagnostics: &[Diagnostic]) -> Vec<DiagnosticItem> {
    first_problems(diagnostics.iter())
        .iter()
        .map(|diagnostic| DiagnosticItem::from(diagnostic.as_ref()))
        .collect()
}

fn definition<'a>(
    entry: &'a PlanEntry,
    diagnostics: &[Diagnostic],
    report: Option<&'a Report>,
) -> Definition<'a> {
    let result = report.and_then(|report| {
        report
            .results
            .iter()
            .find(|r| entry.provider.as_ref() == Some(&r.provider))
    });
    let outcome = report.map(|_| match (result, &entry.verdict) {
        (Some(result), _) => result.outcome.as_str(),
        (None, Verdict::InSync(..)) => "unchanged",
        (None, _) => "skipped",
    });
    let not_converged = match result.map(|r| &r.outcome) {
        Some(Outcome::NotConverged(mismatches)) => mismatches.as_slice(),
        _ => &[],
    };
    let error = result
        .and_then(|r| r.outcome.error())
        .or_else(|| match &entry.verdict {
            Verdict::Update(step) if report.is_none() => refusal(&step.payload.refused),
            _ => fault(entry, diagnostics),
        });
    Definition {
        provider: entry.provider.as_ref().map(|p| p.as_str()),
        file: entry.file.as_deref(),
        state: entry.verdict.state(),
        changes: changes(entry),
        consequence: consequence(entry),
        hold: hold(entry),
        ended_hold: entry.ended_hold().map(HoldItem::from),
        unresolved: entry
            .unresolved
            .iter()
            .map(|u| Unresolved {
                path: &u.path,
                secrets: u.secrets.iter().map(|s| s.as_str()).collect(),
                missing: u.missing,
            })
            .collect(),
        outcome,
        error,
        not_converged,
    }
}

/// The differences of one provider with their origins.
fn changes(entry: &PlanEntry) -> Vec<ChangeItem> {
    let origins = entry
        .origins
        .iter()
        .flatten()
        .copied()
        .map(Some)
        .chain(std::iter::repeat(None));
    entry
        .changes()
        .iter()
        .zip(origins)
        .map(|(change, origin)| {
            let file = entry.shared_file(change);
            ChangeItem {
                origin,
                shared: file.is_some(),
                file: file.map(str::to_owned),
                ..change.into()
            }
        })
        .collect()
}

/// What it means for listings that an update switches fields off.
pub(crate) fn consequence(entry: &PlanEntry) -> Option<String> {
    let step = entry.wanted_step()?;
    describe_consequence(&step.changes)
}

/// Why a provider cannot be updated at all.
pub(crate) fn fault(entry: &PlanEntry, diagnostics: &[Diagnostic]) -> Option<String> {
    match &entry.verdict {
        Verdict::Unreadable(problem) => Some(format!(
            "Calry's definition cannot be read: {}",
            printable(problem)
        )),
        Verdict::Missing => Some("the workspace does not have this provider".to_owned()),
        Verdict::Invalid => {
            let errors = diagnostics
                .iter()
                .filter(|d| {
                    let shared = entry.shared.as_deref().map(|shared| shared.file.as_str());
                    let file = Some(d.file.as_str());
                    d.severity == Severity::Error
                        && (file == entry.file.as_deref() || file == shared)
                })
                .count();
            // A list that was cut need not have those of every file.
            Some(match errors {
                0 => "the file has errors that are not listed".to_owned(),
                1 => "the file has 1 error; see diagnostics".to_owned(),
                _ => format!("the file has {errors} errors; see diagnostics"),
            })
        }
        _ => None,
    }
}

pub(crate) fn hold(entry: &PlanEntry) -> Option<HoldItem> {
    match &entry.verdict {
        Verdict::Held { hold, .. } => Some(hold.into()),
        _ => None,
    }
}

impl WorkspaceHoldItem {
    /// The hold of the workspace that is in force.
    #[must_use]
    pub fn of(plan: &Plan) -> Option<Self> {
        let hold = plan.hold.as_ref()?;
        let digest = plan.digest.as_ref().filter(|_| plan.suspended() > 0);
        Some(Self {
            by: hold.scope.as_str().to_owned(),
            until: hold.until.to_string(),
            reason: hold.reason.clone(),
            digest: digest.map(ToString::to_string),
        })
    }
}

impl From<&model::ActiveHold> for HoldItem {
    fn from(hold: &model::ActiveHold) -> Self {
        Self {
            until: hold.until.to_string(),
            reason: hold.reason.clone(),
        }
    }
}

impl From<&model::Hold> for HoldItem {
    fn from(hold: &model::Hold) -> Self {
        Self {
            until: hold.until.to_string(),
            reason: hold.reason.clone(),
        }
    }
}

fn loosened(item: &Loosening) -> LoosenedItem<'_> {
    LoosenedItem {
        provider: item.provider().map(|p| p.as_str()),
        what: item.what(),
        path: item.path(),
    }
}

impl From<&Diagnostic> for DiagnosticItem {
    fn from(diagnostic: &Diagnostic) -> Self {
        let excerpt = &diagnostic.excerpt;
        Self {
            severity: diagnostic.severity,
            code: diagnostic.code.as_str().to_owned(),
            file: diagnostic.file.clone(),
            line: excerpt.as_ref().map(|e| e.line),
            column: excerpt.as_ref().map(|e| e.column),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
            excerpt: excerpt.as_ref().map(ExcerptItem::from),
        }
    }
}

impl From<&Excerpt> for ExcerptItem {
    fn from(Excerpt { text, mark, .. }: &Excerpt) -> Self {
        let characters = |range| text.get(range).map_or(0, |part: &str| part.chars().count());
        Self {
            text: text.clone(),
            from: characters(0..mark.start),
            length: characters(mark.clone()),
        }
    }
}

impl From<&Change> for ChangeItem {
    fn from(change: &Change) -> Self {
        let (kind, secrets) = match change {
            Change::Key {
                change, secrets, ..
            } => (
                Some(*change),
                secrets.iter().map(ToString::to_string).collect(),
            ),
            Change::Icon { .. } | Change::Field { .. } => (None, Vec::new()),
        };
        Self {
            path: change.path(),
            before: change.before(),
            after: change.after(),
            sensitive: change.sensitive(),
            origin: None,
            change: kind,
            secrets,
            file: None,
            shared: false,
        }
    }
}
