//! What of a pass is worth a notification, and once only. Everything here is pure: today is an argument, and there is no
//! clock, no I/O and no log.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::config::{EventKind, Rules};
use crate::daemon::{ReconciliationReport, ReconciliationResult};
use crate::desired::git::CheckoutTrust;
use crate::model::{Desired, ellipsize, hex, printable};
use crate::plan::{Cause, Change, Plan, PlanEntry, Verdict};
use crate::reconcile::apply::{Outcome, UpdateResult};

/// How many providers one notification lists; the rest is counted.
pub const LISTED: usize = 10;

/// How many paths are listed of one provider.
const PATHS: usize = 8;

/// The longest path and the longest reason that are told, in characters.
const MAX_PATH: usize = 120;
const MAX_REASON: usize = 300;

/// Something that happened in one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The sentence, without providers and revision.
    pub sentence: String,
    /// Why, where one reason holds for all of it.
    pub reason: Option<String>,
    /// The plan that was refused.
    pub digest: Option<String>,
    /// Whom it is about: the first ones.
    pub providers: Vec<Subject>,
    /// How many more there are.
    pub more: usize,
}

/// Whom an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Subject {
    /// The provider; the name of the file where nobody knows whose it is.
    pub provider: String,
    /// Where it differs: the first places. There are no values.
    pub paths: Vec<String>,
    /// What there is to say of it, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What was reported to one target about one workspace. It outlives the process in the file of the loop, and holds no value
/// of a definition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Passes that failed as a whole, in a row.
    passes: Trouble,
    /// Providers that are in trouble, by their label.
    troubled: BTreeMap<String, Trouble>,
    /// The plan that was reported as refused last; none after a pass that was not.
    refused: Option<String>,
    /// The sentence of the last report about a checkout that is not trusted.
    untrusted: Option<String>,
    /// Drift that stands, by its provider.
    drifted: BTreeMap<String, Drift>,
    /// Where Calry kept other values, by its provider.
    not_converged: BTreeMap<String, Mismatched>,
    /// Holds that were reported, by their provider.
    holds: BTreeMap<String, Date>,
}

/// The name of a set of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Drift(String);

impl Drift {
    fn of(changes: &[Change]) -> Self {
        // No change shows a value below `partnerKey`.
        let digest = Sha256::digest(format!("{changes:?}"));
        Self(hex(&digest))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mismatched {
    paths: Vec<String>,
    /// What was wanted. After a restart that is not known, and taken to be the same.
    #[serde(skip)]
    wanted: Option<Arc<Desired>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Trouble {
    passes: u32,
    #[serde(rename = "reported")]
    told: bool,
}

impl Trouble {
    /// One more; whether it is now the time to tell.
    fn again(&mut self, rules: &Rules) -> bool {
        self.passes = self.passes.saturating_add(1);
        let tell = !self.told && self.passes >= rules.failed_passes;
        self.told |= tell;
        tell
    }
}

/// What a pass means to whoever was told what the memory holds.
pub fn events(
    memory: &mut Memory,
    report: &ReconciliationReport,
    rules: &Rules,
    today: Date,
) -> Vec<Event> {
    let mut events = Vec::new();
    match &report.result {
        ReconciliationResult::Failed(crate::reconcile::Failure::Stopped) => return events,
        ReconciliationResult::Failed(failure) => {
            // Of the providers nobody knows anything new.
            if memory.passes.again(rules) {
                let passes = memory.passes.passes;
                let times = if passes == 1 {
                    "a pass".to_owned()
                } else {
                    format!("{passes} passes in a row")
                };
                events.push(Event {
                    reason: Some(reason(&failure.to_string())),
                    ..event(EventKind::Failed, times + " failed")
                });
            }
            return events;
        }
        ReconciliationResult::Refused(plan, _) => {
            let digest = plan
                .digest
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            if memory.refused.as_ref() != Some(&digest) {
                let due = plan
                    .steps()
                    .map(|step| subject(step.desired.provider.as_str(), &step.changes, None));
                let refused = event(
                    EventKind::Refused,
                    "the plan was refused, and nothing was changed".to_owned(),
                );
                events.push(Event {
                    reason: report.result.error().map(|why| reason(&why)),
                    digest: Some(digest.clone()).filter(|digest| !digest.is_empty()),
                    ..about(refused, due.collect())
                });
            }
            memory.refused = Some(digest);
        }
        ReconciliationResult::Observed(_) | ReconciliationResult::Applied(..) => {}
    }
    let Some(plan) = report.result.plan() else {
        return events;
    };
    let updates = report.result.updates();
    let mut recovered = Vec::new();
    let refused = matches!(report.result, ReconciliationResult::Refused(..));
    let mut again =
        std::mem::take(&mut memory.passes).told || (!refused && memory.refused.take().is_some());
    match &report.findings.trust {
        Some(CheckoutTrust::Refused(untrusted)) => {
            let why = reason(&untrusted.to_string());
            if memory.untrusted.as_ref() != Some(&why) {
                let sentence = "the checked-out commit is not trusted; the last trusted revision stays in force";
                events.push(Event {
                    reason: Some(why.clone()),
                    ..event(EventKind::Refused, sentence.to_owned())
                });
            }
            memory.untrusted = Some(why);
        }
        _ => again |= memory.untrusted.take().is_some(),
    }

    push(
        &mut events,
        EventKind::Drift,
        "drift was found",
        drift(memory, plan, updates, report),
    );
    let applied = updates
        .iter()
        .filter(|one| one.cause == Cause::Change && one.outcome == Outcome::Applied);
    let applied = applied
        .map(|one| subject(one.provider.as_str(), &one.changes, None))
        .collect();
    push(
        &mut events,
        EventKind::Applied,
        "Calry took over what git wants",
        applied,
    );
    let kept = not_converged(memory, plan, updates, &mut recovered);
    push(
        &mut events,
        EventKind::NotConverged,
        "Calry took the update and kept other values",
        kept,
    );
    let failed = troubles(memory, report, plan, rules, &mut recovered);
    push(
        &mut events,
        EventKind::Failed,
        "not as git wants it, and trying did not help",
        failed,
    );
    push(
        &mut events,
        EventKind::HoldExpiring,
        "holds are about to end",
        holds(memory, plan, rules, today),
    );
    if again || !recovered.is_empty() {
        let sentence = if again {
            "passes go through again"
        } else {
            "works again"
        };
        recovered.sort_by(|a: &Subject, b| a.provider.cmp(&b.provider));
        recovered.dedup();
        events.push(about(
            event(EventKind::Recovered, sentence.to_owned()),
            recovered,
        ));
    }
    events
}

fn event(kind: EventKind, sentence: String) -> Event {
    Event {
        kind,
        sentence,
        reason: None,
        digest: None,
        providers: Vec::new(),
        more: 0,
    }
}

fn about(event: Event, mut subjects: Vec<Subject>) -> Event {
    let more = subjects.len().saturating_sub(LISTED);
    subjects.truncate(LISTED);
    Event {
        providers: subjects,
        more,
        ..event
    }
}

fn push(events: &mut Vec<Event>, kind: EventKind, sentence: &str, subjects: Vec<Subject>) {
    if !subjects.is_empty() {
        events.push(about(event(kind, sentence.to_owned()), subjects));
    }
}

fn subject(label: &str, changes: &[Change], detail: Option<&str>) -> Subject {
    Subject {
        provider: ellipsize(&printable(label), MAX_PATH),
        paths: changes
            .iter()
            .take(PATHS)
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

/// Drift that is news: put back at once, or standing and not told yet in this form.
fn drift(
    memory: &mut Memory,
    plan: &Plan,
    updates: &[UpdateResult],
    report: &ReconciliationReport,
) -> Vec<Subject> {
    let mut news = Vec::new();
    let mut standing = BTreeMap::new();
    for step in plan.steps().filter(|step| step.cause == Cause::Drift) {
        let provider = &step.desired.provider;
        let drift = Drift::of(&step.changes);
        let known = memory.drifted.get(provider.as_str()) == Some(&drift);
        let result = updates
            .iter()
            .rfind(|result| result.provider == *provider)
            .map(|result| &result.outcome);
        let detail = match result {
            Some(Outcome::Applied) if report.findings.contested.contains_key(provider) => {
                "put back; another writer undoes each update (a second calry-gitops?)"
            }
            Some(Outcome::Applied) => "put back",
            Some(Outcome::Unchanged) => continue,
            Some(_) => "not put back yet",
            None => "not put back",
        };
        if !known {
            news.push(subject(provider.as_str(), &step.changes, Some(detail)));
        }
        if !result.is_some_and(Outcome::is_done) {
            standing.insert(provider.to_string(), drift);
        }
    }
    memory.drifted = standing;
    news
}

/// Where Calry kept other values than were sent: once for what is wanted.
fn not_converged(
    memory: &mut Memory,
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
    let mut news = Vec::new();
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
            let paths = kept.iter().take(PATHS).cloned().collect();
            news.push(Subject {
                paths,
                ..subject(result.provider.as_str(), &[], None)
            });
        }
        let wanted = Some(Arc::clone(&result.desired));
        memory.not_converged.insert(
            result.provider.to_string(),
            Mismatched {
                paths: kept,
                wanted,
            },
        );
    }
    news
}

/// Providers that have failed for long enough to tell, and those that were told and work again.
fn troubles(
    memory: &mut Memory,
    report: &ReconciliationReport,
    plan: &Plan,
    rules: &Rules,
    recovered: &mut Vec<Subject>,
) -> Vec<Subject> {
    let mut news = Vec::new();
    let mut now = BTreeMap::new();
    for entry in &plan.entries {
        let label = entry.label();
        let before = memory.troubled.get(label).copied();
        let Some(why) = trouble(entry, report, before.is_some()) else {
            continue;
        };
        let mut trouble = before.unwrap_or_default();
        if trouble.again(rules) {
            news.push(subject(label, &[], Some(&reason(&why))));
        }
        now.insert(label.to_owned(), trouble);
    }
    let before = std::mem::replace(&mut memory.troubled, now);
    let over = before
        .iter()
        .filter(|(label, trouble)| trouble.told && !memory.troubled.contains_key(*label));
    recovered.extend(over.map(|(label, _)| subject(label, &[], None)));
    news
}

/// Why a provider is in trouble. One that is backed off after a failure still is.
fn trouble(entry: &PlanEntry, report: &ReconciliationReport, before: bool) -> Option<String> {
    match &entry.verdict {
        Verdict::Invalid => Some("its file has errors".to_owned()),
        Verdict::Missing => Some("the workspace has no such provider".to_owned()),
        Verdict::Unreadable(problem) => Some(format!(
            "Calry's definition of it cannot be read: {problem}"
        )),
        Verdict::Update(step) => {
            let result = report
                .result
                .updates()
                .iter()
                .rfind(|result| result.provider == step.desired.provider);
            let brief = report
                .findings
                .backed_off
                .get(&step.desired.provider)
                .is_some_and(|rest| rest.brief);
            match result.map(|result| &result.outcome) {
                // It is tried again in a moment.
                _ if brief => None,
                Some(outcome @ (Outcome::Failed(_) | Outcome::Partial(_))) => outcome.error(),
                Some(Outcome::Skipped(why)) if before => Some(why.clone()),
                None if before => Some("it was not tried again".to_owned()),
                _ => None,
            }
        }
        Verdict::InSync(..) | Verdict::Held { .. } | Verdict::Unmanaged => None,
    }
}

/// Holds that are about to end, each once.
fn holds(memory: &mut Memory, plan: &Plan, rules: &Rules, today: Date) -> Vec<Subject> {
    let mut news = Vec::new();
    let mut told = BTreeMap::new();
    for entry in &plan.entries {
        let (Verdict::Held { hold, pending }, Some(provider)) = (&entry.verdict, &entry.provider)
        else {
            continue;
        };
        let left = today
            .until(hold.until)
            .map_or(i32::MAX, |span| span.get_days());
        if left > i32::try_from(rules.hold_days).unwrap_or(i32::MAX) {
            continue;
        }
        if memory.holds.get(provider.as_str()) != Some(&hold.until) {
            let why = hold
                .reason
                .as_deref()
                .map(|why| format!(" ({})", ellipsize(&printable(why), 120)));
            let detail = format!("on hold until {}{}", hold.until, why.unwrap_or_default());
            news.push(subject(provider.as_str(), pending, Some(&detail)));
        }
        told.insert(provider.to_string(), hold.until);
    }
    memory.holds = told;
    news
}
