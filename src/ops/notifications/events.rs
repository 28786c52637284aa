//! Decides which results of a reconciliation are reported, each once. Pure: no clock, no I/O and no log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::config::{EventKind, Thresholds};
use crate::daemon::{CatalogueFindings, FetchState, ReconciliationReport, ReconciliationResult};
use crate::desired::git::CheckoutTrust;
use crate::model::{Desired, HoldEnd, KeyStage, Provider, ellipsize, hex, printable};
use crate::plan::{Cause, Change, Plan, PlanEntry, Verdict};
use crate::reconcile::Failure;
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::report::catalogue::CatalogueKind;
pub use crate::report::history::Subject;

/// The number of providers that one notification lists; the others are counted.
pub const MAX_PROVIDERS: usize = 10;

/// The number of paths that are listed for one provider.
const MAX_PATHS: usize = 8;

/// The longest path and the longest reason in a notification, in characters.
const MAX_PATH: usize = 120;
const MAX_REASON: usize = 300;

/// An event of one reconciliation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// The sentence, without providers and revision.
    pub sentence: String,
    /// The reason, if there is one for the whole event.
    pub reason: Option<String>,
    /// The plan that was refused.
    pub digest: Option<String>,
    /// The first affected providers.
    pub providers: Vec<Subject>,
    /// The number of other affected providers.
    pub more: usize,
}

/// The state that was reported to one target about one workspace. The state file keeps it across restarts. It contains no
/// value of a definition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedState {
    /// Consecutive failed reconciliations.
    passes: FailureStreak,
    /// Failing providers, by their label.
    #[serde(rename = "troubled")]
    failing: BTreeMap<String, FailureStreak>,
    /// The last refused plan that was reported; `None` after a plan that was not refused.
    refused: Option<String>,
    /// The sentence of the last report about an untrusted checkout.
    untrusted: Option<String>,
    /// Whether it was reported that git cannot be fetched.
    not_fetched: bool,
    /// The digests of drift that was not reverted, by provider.
    drifted: BTreeMap<String, String>,
    /// Updates after which Calry kept other values, by provider.
    not_converged: BTreeMap<String, ReportedMismatch>,
    /// Reported holds, by provider.
    holds: BTreeMap<String, Date>,
    /// The last day of the API key that was reported, and how urgent it was then.
    key: Option<(String, KeyReport)>,
    /// The number of the last notice about the catalogue that was reported; `None` before the first reading.
    catalogue: Option<u64>,
    /// Providers that have no file although one is required.
    without_file: BTreeSet<String>,
}

/// How urgent a reported key was. The later one is the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum KeyReport {
    Near,
    Soon,
    Over,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ReportedMismatch {
    paths: Vec<String>,
    /// The desired state. It is unknown after a restart and then assumed to be the same.
    #[serde(skip)]
    wanted: Option<Arc<Desired>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct FailureStreak {
    passes: u32,
    reported: bool,
}

impl FailureStreak {
    /// Counts a failure. Returns whether it is to be reported now.
    fn record(&mut self, thresholds: &Thresholds) -> bool {
        self.passes = self.passes.saturating_add(1);
        let report = !self.reported && self.passes >= thresholds.failed_passes;
        self.reported |= report;
        report
    }
}

/// The events of a reconciliation that were not reported yet. Updates `memory`.
pub fn events(
    memory: &mut ReportedState,
    report: &ReconciliationReport,
    thresholds: &Thresholds,
    today: Date,
) -> Vec<Event> {
    if let ReconciliationResult::Failed(Failure::Stopped) = report.result {
        return Vec::new();
    }
    let key = key_event(memory, report, thresholds, today);
    let mut events: Vec<Event> = fetch_event(memory, report).into_iter().chain(key).collect();
    match &report.result {
        ReconciliationResult::Failed(failure) => {
            // Nothing new is known about the providers.
            if memory.passes.record(thresholds) {
                let passes = memory.passes.passes;
                let sentence = match passes {
                    1 => "the reconciliation failed".to_owned(),
                    _ => format!("{passes} consecutive reconciliations failed"),
                };
                events.push(Event {
                    reason: Some(reason(&failure.to_string())),
                    ..event(EventKind::Failed, sentence, Vec::new())
                });
            }
            return events;
        }
        ReconciliationResult::Refused(plan, refusal) => {
            // The refusal of another plan, or for another reason, has another text.
            let why = report.result.error().unwrap_or_default();
            if memory.refused.as_ref() != Some(&why) {
                let due = plan
                    .steps()
                    .map(|step| subject(step.desired.provider.as_str(), &step.changes, None));
                let sentence = "the plan was refused; nothing was changed";
                events.push(Event {
                    reason: Some(reason(&why)),
                    digest: refusal.approvable().map(ToString::to_string),
                    ..event(EventKind::Refused, sentence, due.collect())
                });
            }
            memory.refused = Some(why);
        }
        ReconciliationResult::Observed(_) | ReconciliationResult::Applied(..) => {}
    }
    let Some(plan) = report.result.plan() else {
        return events;
    };
    let updates = report.result.updates();
    let mut recovered = Vec::new();
    let refused = matches!(report.result, ReconciliationResult::Refused(..));
    let mut workspace_recovered = std::mem::take(&mut memory.passes).reported
        || (!refused && memory.refused.take().is_some());
    match &report.findings.trust {
        Some(CheckoutTrust::Refused(untrusted)) => {
            let why = reason(&untrusted.to_string());
            if memory.untrusted.as_ref() != Some(&why) {
                let sentence = "the checked-out commit is not trusted; the last trusted revision stays in force";
                events.push(Event {
                    reason: Some(why.clone()),
                    ..event(EventKind::Refused, sentence, Vec::new())
                });
            }
            memory.untrusted = Some(why);
        }
        _ => workspace_recovered |= memory.untrusted.take().is_some(),
    }

    let mut push = |kind, sentence, subjects: Vec<Subject>| {
        if !subjects.is_empty() {
            events.push(event(kind, sentence, subjects));
        }
    };
    let drifted = drift(memory, plan, report);
    push(EventKind::Drift, "drift was found", drifted);
    let applied = updates
        .iter()
        .filter(|one| one.cause == Cause::Change && one.outcome == Outcome::Applied);
    let applied = applied
        .map(|one| subject(one.provider.as_str(), &one.changes, None))
        .collect();
    push(EventKind::Applied, "changes from git were applied", applied);
    let kept = not_converged(memory, plan, updates, &mut recovered);
    let sentence = "Calry accepted the update but kept other values";
    push(EventKind::NotConverged, sentence, kept);
    let without_file = without_file(memory, report, &mut recovered);
    push(EventKind::Failed, "providers have no file", without_file);
    let failed = failing_providers(memory, report, plan, thresholds, &mut recovered);
    push(EventKind::Failed, "out of sync despite retries", failed);
    let ending = holds(memory, plan, thresholds, today);
    push(EventKind::HoldExpiring, "holds end soon", ending);
    events.extend(catalogue_events(memory, report));
    if workspace_recovered || !recovered.is_empty() {
        let sentence = match workspace_recovered {
            true => "reconciliation recovered",
            false => "recovered",
        };
        recovered.sort_by(|a: &Subject, b| a.provider.cmp(&b.provider));
        recovered.dedup();
        events.push(event(EventKind::Recovered, sentence, recovered));
    }
    events
}

/// The begin or the end of a lasting failure of fetches. It does not depend on the result of the reconciliation.
fn fetch_event(memory: &mut ReportedState, report: &ReconciliationReport) -> Option<Event> {
    match &report.findings.fetch {
        FetchState::Failing(failure) if !memory.not_fetched => {
            memory.not_fetched = true;
            let sentence = "git cannot be fetched; the last commit stays in force";
            Some(Event {
                reason: Some(reason(&failure.message)),
                ..event(EventKind::Failed, sentence, Vec::new())
            })
        }
        FetchState::Working if memory.not_fetched => {
            memory.not_fetched = false;
            let sentence = "git can be fetched again";
            Some(event(EventKind::Recovered, sentence, Vec::new()))
        }
        FetchState::Working | FetchState::Unclear | FetchState::Failing(_) => None,
    }
}

/// The API key ends soon: reported by the threshold, again shortly before, and when it is over. It does not depend on the result
/// of the reconciliation.
fn key_event(
    memory: &mut ReportedState,
    report: &ReconciliationReport,
    thresholds: &Thresholds,
    today: Date,
) -> Option<Event> {
    let key = &report.findings.key;
    let Some(expiry) = key.expiry else {
        // A key whose end cannot be read may be the one that was reported.
        if key.is_read && key.error.is_none() {
            memory.key = None;
        }
        return None;
    };
    let days = i64::from(expiry.days_left(today));
    let stage = match expiry.stage(today) {
        KeyStage::Over => KeyReport::Over,
        _ if days > i64::from(thresholds.key_days) => {
            memory.key = None;
            return None;
        }
        KeyStage::Soon => KeyReport::Soon,
        KeyStage::Near | KeyStage::Fresh => KeyReport::Near,
    };
    let before = memory.key.replace((expiry.to_string(), stage));
    let known = before.is_some_and(|(day, known)| day == expiry.to_string() && known >= stage);
    (!known).then(|| Event {
        reason: Some(reason(KEY_REASON)),
        ..event(
            EventKind::KeyExpiring,
            format!("the API key {}", expiry.describe(today)),
            Vec::new(),
        )
    })
}

/// The notices about the catalogue that were not reported. None of those before the first report.
fn catalogue_events(memory: &mut ReportedState, report: &ReconciliationReport) -> Vec<Event> {
    let CatalogueFindings { notices, is_news } = &report.findings.catalogue;
    let last = notices.last().map_or(0, |notice| notice.number);
    let before = match memory.catalogue {
        // Another workspace counts from one again.
        Some(before) if before <= last => before,
        _ => last - u64::from(*is_news),
    };
    memory.catalogue = Some(last);
    let new = notices.iter().filter(|notice| notice.number > before);
    new.map(|notice| {
        let new_providers = notice.appeared.iter();
        let subjects = new_providers
            .filter(|name| name.kind == CatalogueKind::Provider)
            .map(|name| subject(&name.name, &[], None));
        event(
            EventKind::CatalogueChanged,
            reason(&notice.sentence()),
            subjects.collect(),
        )
    })
    .collect()
}

/// Providers without a file that were not reported.
fn without_file(
    memory: &mut ReportedState,
    report: &ReconciliationReport,
    recovered: &mut Vec<Subject>,
) -> Vec<Subject> {
    let detail = "workspace.yaml requires one, or an entry in `unmanaged`";
    let providers = report.findings.without_file.iter();
    let now: BTreeSet<String> = providers.map(ToString::to_string).collect();
    let before = std::mem::replace(&mut memory.without_file, now);
    let over = before.difference(&memory.without_file);
    recovered.extend(over.map(|provider| subject(provider, &[], None)));
    let new = memory.without_file.difference(&before);
    new.map(|provider| subject(provider, &[], Some(detail)))
        .collect()
}

/// What to do about a key that ends.
const KEY_REASON: &str = "create a new one in the Calry console, and replace the key and its day; without a valid key nothing \
     is compared or updated";

fn event(kind: EventKind, sentence: impl Into<String>, mut subjects: Vec<Subject>) -> Event {
    let more = subjects.len().saturating_sub(MAX_PROVIDERS);
    subjects.truncate(MAX_PROVIDERS);
    Event {
        kind,
        sentence: sentence.into(),
        reason: None,
        digest: None,
        providers: subjects,
        more,
    }
}

fn subject(label: &str, changes: &[Change], detail: Option<&str>) -> Subject {
    Subject {
        provider: ellipsize(&printable(label), MAX_PATH),
        paths: changes
            .iter()
            .take(MAX_PATHS)
            .map(|change| path(&change.path()))
            .collect(),
        detail: detail.map(str::to_owned),
    }
}

fn path(path: &str) -> String {
    ellipsize(&printable(path), MAX_PATH)
}

fn reason(sentence: &str) -> String {
    ellipsize(&printable(sentence), MAX_REASON)
}

fn last_outcome<'a>(report: &'a ReconciliationReport, provider: &Provider) -> Option<&'a Outcome> {
    let mut updates = report.result.updates().iter();
    Some(
        &updates
            .rfind(|result| result.provider == *provider)?
            .outcome,
    )
}

/// New drift: reverted at once, or standing and not yet reported in this form.
fn drift(memory: &mut ReportedState, plan: &Plan, report: &ReconciliationReport) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut standing = BTreeMap::new();
    for step in plan.steps().filter(|step| step.cause == Cause::Drift) {
        let provider = &step.desired.provider;
        // The `Debug` of a change shows no value below `partnerKey`.
        let drift = hex(&Sha256::digest(format!("{:?}", step.changes)));
        let known = memory.drifted.get(provider.as_str()) == Some(&drift);
        let result = last_outcome(report, provider);
        let detail = match result {
            Some(Outcome::Applied) if report.findings.contested.contains_key(provider) => {
                "undone; another writer reverts each update (a second calry-gitops?)"
            }
            Some(Outcome::Applied) => "undone",
            Some(Outcome::Unchanged) => continue,
            Some(_) => "not undone yet",
            None => "not undone",
        };
        if !known {
            subjects.push(subject(provider.as_str(), &step.changes, Some(detail)));
        }
        if !result.is_some_and(Outcome::is_done) {
            standing.insert(provider.to_string(), drift);
        }
    }
    memory.drifted = standing;
    subjects
}

/// Updates after which Calry kept other values, once for each desired state.
fn not_converged(
    memory: &mut ReportedState,
    plan: &Plan,
    updates: &[UpdateResult],
    recovered: &mut Vec<Subject>,
) -> Vec<Subject> {
    memory.not_converged.retain(|provider, _| {
        let due = plan
            .steps()
            .any(|step| step.desired.provider.as_str() == provider);
        let done = updates
            .iter()
            .any(|one| one.provider.as_str() == provider && one.outcome.is_done());
        if !due || done {
            recovered.push(subject(provider, &[], None));
        }
        due && !done
    });
    let mut subjects = Vec::new();
    for result in updates {
        let Outcome::NotConverged(mismatches) = &result.outcome else {
            continue;
        };
        let kept: Vec<String> = mismatches
            .iter()
            .map(|mismatch| path(&mismatch.path))
            .collect();
        let known = memory
            .not_converged
            .get(result.provider.as_str())
            .is_some_and(|known| {
                known.paths == kept
                    && known
                        .wanted
                        .as_ref()
                        .is_none_or(|wanted| *wanted == result.desired)
            });
        if !known {
            let paths = kept.iter().take(MAX_PATHS).cloned().collect();
            subjects.push(Subject {
                paths,
                ..subject(result.provider.as_str(), &[], None)
            });
        }
        let reported = ReportedMismatch {
            paths: kept,
            wanted: Some(Arc::clone(&result.desired)),
        };
        let provider = result.provider.to_string();
        memory.not_converged.insert(provider, reported);
    }
    subjects
}

/// Providers that failed often enough to be reported. Adds reported providers that no longer fail to `recovered`.
fn failing_providers(
    memory: &mut ReportedState,
    report: &ReconciliationReport,
    plan: &Plan,
    thresholds: &Thresholds,
    recovered: &mut Vec<Subject>,
) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut now = BTreeMap::new();
    for entry in &plan.entries {
        let label = entry.label();
        let before = memory.failing.get(label).copied();
        let Some(why) = failure_reason(entry, report, before.is_some()) else {
            continue;
        };
        let mut streak = before.unwrap_or_default();
        if streak.record(thresholds) {
            subjects.push(subject(label, &[], Some(&reason(&why))));
        }
        now.insert(label.to_owned(), streak);
    }
    let before = std::mem::replace(&mut memory.failing, now);
    let over = before
        .iter()
        .filter(|(label, streak)| streak.reported && !memory.failing.contains_key(*label));
    recovered.extend(over.map(|(label, _)| subject(label, &[], None)));
    subjects
}

/// Why a provider fails. A provider that is backed off after a failure still does.
fn failure_reason(
    entry: &PlanEntry,
    report: &ReconciliationReport,
    before: bool,
) -> Option<String> {
    match &entry.verdict {
        Verdict::Invalid => Some("its file has errors".to_owned()),
        Verdict::Missing => Some("the workspace has no such provider".to_owned()),
        Verdict::Unreadable(problem) => Some(format!(
            "Calry's definition of it cannot be read: {problem}"
        )),
        Verdict::Update(step) => {
            let result = last_outcome(report, &step.desired.provider);
            let brief = report
                .findings
                .backed_off
                .get(&step.desired.provider)
                .is_some_and(|rest| rest.brief);
            match result {
                // It is retried in a moment.
                _ if brief => None,
                Some(outcome @ (Outcome::Failed(_) | Outcome::Partial(_))) => outcome.error(),
                Some(Outcome::Skipped(why)) if before => Some(why.clone()),
                None if before => Some("it was not retried".to_owned()),
                _ => None,
            }
        }
        Verdict::InSync(..) | Verdict::Held { .. } | Verdict::Unmanaged => None,
    }
}

/// Holds that end soon, each once.
fn holds(
    memory: &mut ReportedState,
    plan: &Plan,
    thresholds: &Thresholds,
    today: Date,
) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut reported = BTreeMap::new();
    for entry in &plan.entries {
        let (
            Verdict::Held {
                hold,
                pending,
                step: None,
            },
            Some(provider),
        ) = (&entry.verdict, &entry.provider)
        else {
            continue;
        };
        // A provider's own hold ends with a day.
        let HoldEnd::Day(until) = hold.until else {
            continue;
        };
        let left = today.until(until).map_or(i32::MAX, |span| span.get_days());
        if left > i32::try_from(thresholds.hold_days).unwrap_or(i32::MAX) {
            continue;
        }
        if memory.holds.get(provider.as_str()) != Some(&until) {
            let why = hold
                .reason
                .as_deref()
                .map(|why| format!(" ({})", ellipsize(&printable(why), 120)));
            let detail = format!("on hold until {}{}", hold.until, why.unwrap_or_default());
            subjects.push(subject(provider.as_str(), pending, Some(&detail)));
        }
        reported.insert(provider.to_string(), until);
    }
    memory.holds = reported;
    subjects
}
