//! Publishes the status of one workspace's loop. Readers never make the loop wait.
//!
//! It also holds the heartbeat of the loop. Only the loop updates it, while it waits and during a reconciliation, but never
//! for longer than that step may take. So a loop that hangs is detected at any step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::reconciliation::{KeyFindings, ReconciliationReport, ReconciliationResult};
use super::{Leadership, LoopSettings};
use crate::machine;
use crate::model::{Provider, Revision};
use crate::plan::{Cause, Change, PlanEntry, Refusal, Summary};
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::report::links::Links;
use crate::report::plan::WorkspaceHoldItem;
use crate::report::status::{
    ApiKeyStatus, ChangeRecord, History, LastUpdate, ProviderState, ProviderStatus,
    ReconciliationOutcome, ReconciliationRecord, ReconciliationStart, RepositoryStatus, Trigger,
    Trust, WorkspaceStatus,
};

/// The time between two heartbeats of the loop.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A loop without a heartbeat for this long hangs.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest history of reconciliations, and of changes.
const MAX_HISTORY: usize = 100;

/// How many differences of one record are kept.
const MAX_CHANGES_PER_RECORD: usize = 20;

#[derive(Debug)]
pub struct StatusPublisher {
    status: watch::Sender<Arc<WorkspaceStatus>>,
    leadership: Leadership,
    /// Serialises the writers.
    publishing: Mutex<()>,
    edition: AtomicU64,
    /// The last heartbeat, in milliseconds since `born`.
    beat: AtomicU64,
    born: Instant,
}

impl StatusPublisher {
    /// `directory` is the definitions directory, as configured.
    #[must_use]
    pub fn new(settings: &LoopSettings, directory: &str) -> Self {
        let status = WorkspaceStatus {
            name: settings.slot.name().map(str::to_owned),
            directory: directory.to_owned(),
            api: settings.api.url().to_string(),
            mode: settings.mode,
            interval_seconds: settings.interval.as_secs_f64(),
            links: Some(settings.links.clone()).filter(Links::is_set),
            ..WorkspaceStatus::default()
        };
        Self::of(status, settings.leadership.clone())
    }

    fn of(status: WorkspaceStatus, leadership: Leadership) -> Self {
        let status = WorkspaceStatus {
            leadership: leadership.status(),
            alive: true,
            ..status
        };
        Self {
            leadership,
            status: watch::Sender::new(Arc::new(status)),
            publishing: Mutex::default(),
            edition: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            born: Instant::now(),
        }
    }

    /// The current status. It is only copied if the loop hangs or a term has just ended.
    #[must_use]
    pub fn snapshot(&self) -> Arc<WorkspaceStatus> {
        let (published, alive, leadership) =
            (self.published(), self.is_alive(), self.leadership.status());
        if alive && published.leadership == leadership {
            published
        } else {
            Arc::new(WorkspaceStatus {
                alive,
                leadership,
                ..WorkspaceStatus::clone(&published)
            })
        }
    }

    /// The last published status, without a copy. Its `alive` and `leadership` may be outdated.
    #[must_use]
    pub fn published(&self) -> Arc<WorkspaceStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// Changes with each published status.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.silence() < HEARTBEAT_TIMEOUT
    }

    #[must_use]
    pub fn label(&self) -> String {
        self.status.borrow().label().to_owned()
    }

    /// Whether this replica may write to the workspace.
    #[must_use]
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Whether definitions and live state were read once without an error, and the Lease was read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.borrow().ready && self.knows_the_leader()
    }

    #[must_use]
    pub fn knows_the_leader(&self) -> bool {
        self.leadership.is_observed()
    }

    /// Whether a reconciliation has ended, successful or not.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        self.status.borrow().last_pass.is_some()
    }

    /// The time since the last heartbeat. The loop hangs after [`HEARTBEAT_TIMEOUT`].
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.born
            .elapsed()
            .saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }

    fn beat(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(age, Ordering::Relaxed);
    }

    /// Runs a step of the loop with heartbeats, but only for as long as the step may take.
    pub async fn heartbeat_during<T>(&self, at_most: Duration, step: impl Future<Output = T>) -> T {
        let end = Instant::now() + at_most;
        tokio::pin!(step);
        loop {
            self.beat();
            if Instant::now() >= end {
                return step.await;
            }
            tokio::select! {
                biased;
                done = &mut step => return done,
                () = tokio::time::sleep_until(end.min(Instant::now() + HEARTBEAT)) => {}
            }
        }
    }

    pub(super) fn publish_start(&self, number: u64, trigger: Trigger) {
        self.publish(|status| {
            status.pass = Some(ReconciliationStart {
                number,
                trigger,
                began: now(),
            });
            status.next_pass = None;
        });
    }

    pub(super) fn publish_result(&self, report: &ReconciliationReport) {
        self.publish(|status| apply_report(status, report, now()));
    }

    pub fn publish_repository(&self, repository: &RepositoryStatus) {
        self.publish(|status| status.repository = Some(repository.clone()));
    }

    pub fn publish_leadership(&self) {
        self.publish(|status| status.leadership = self.leadership.status());
    }

    fn publish(&self, change: impl FnOnce(&mut WorkspaceStatus)) {
        let _publishing = self.publishing.lock();
        // A copy is changed, so that a reader waits only for the exchange of two pointers.
        let mut status = WorkspaceStatus::clone(&self.status.borrow());
        change(&mut status);
        self.status.send_replace(Arc::new(status));
        self.edition.fetch_add(1, Ordering::Release);
    }
}

/// The current time, rounded to milliseconds.
#[must_use]
pub fn now() -> Timestamp {
    round_to_milliseconds(machine::now())
}

pub(super) fn after(now: Timestamp, pause: Duration) -> Option<Timestamp> {
    now.checked_add(pause).ok().map(round_to_milliseconds)
}

fn round_to_milliseconds(time: Timestamp) -> Timestamp {
    time.round(Unit::Millisecond).unwrap_or(time)
}

/// Pure: the time is an argument.
fn apply_report(status: &mut WorkspaceStatus, report: &ReconciliationReport, now: Timestamp) {
    status.also.clone_from(&report.findings.also);
    if let Some(trust) = &report.findings.trust {
        let refused = trust.refused();
        status.trust = Some(Trust {
            trusted: refused.is_none(),
            commit: refused.and_then(|refused| refused.commit.clone()),
            reason: refused.map(|refused| refused.reason.to_string()),
            behind: refused.and_then(|refused| refused.behind),
        });
    }
    if let Some(key) = api_key_status(&report.findings.key, now) {
        status.api_key = key;
    }
    status.diagnostics = report.problems.iter().map(Into::into).collect();
    if let Some(plan) = report.result.plan() {
        let before = std::mem::take(&mut status.providers);
        let moved = status
            .workspace
            .as_ref()
            .is_some_and(|workspace| workspace.id != plan.workspace.id);
        let before: BTreeMap<_, _> = before
            .iter()
            .filter(|_| !moved)
            .map(|one| ((one.provider.as_deref(), one.file.as_deref()), one))
            .collect();
        let results: BTreeMap<_, _> = report
            .result
            .updates()
            .iter()
            .map(|one| (&one.provider, one))
            .collect();
        let provider = |entry: &PlanEntry| {
            let key = (
                entry.provider.as_ref().map(Provider::as_str),
                entry.file.as_deref(),
            );
            let result = entry
                .provider
                .as_ref()
                .and_then(|provider| results.get(provider).copied());
            with_result(
                ProviderStatus::of(entry, &report.problems, now),
                before.get(&key).copied(),
                result,
                report,
                now,
            )
        };
        status.providers = plan.entries.iter().map(provider).collect();
        status.summary = Some(summary(status));
        status.violations.clone_from(&plan.violations);
        status.compared = Some(now);
        status
            .catalogue
            .clone_from(&report.findings.catalogue.notices);
        status.hold = WorkspaceHoldItem::of(plan);
        status.workspace = Some(plan.workspace.clone());
        status.revision = plan.revision.clone();
        status.ready = true;
    }

    let records = records(report, now);
    let pass = ReconciliationRecord {
        number: report.number,
        trigger: report.trigger,
        began: status.pass.take().map_or(now, |pass| pass.began),
        duration_seconds: report.took.as_secs_f64(),
        result: report.result.outcome(),
        error: report.result.error(),
        digest: match &report.result {
            ReconciliationResult::Refused(_, reason) => {
                reason.approvable().map(ToString::to_string)
            }
            _ => None,
        },
        max_changes: match &report.result {
            ReconciliationResult::Refused(_, Refusal::TooManyChanges { max, .. }) => Some(*max),
            _ => None,
        },
        revision: revision(report),
        times: 1,
    };
    let noisy = !(records.is_empty()
        && report.findings.differences.is_empty()
        && report.findings.new_diagnostics.is_empty());
    records
        .into_iter()
        .for_each(|record| remember_change(&mut status.history, record));
    let before = status.last_pass.take();
    status.last_pass = Some(remember_pass(
        &mut status.history,
        before.as_ref(),
        pass,
        noisy,
    ));
    status.next_pass = report.next.and_then(|pause| after(now, pause));
}

/// When the API key ends; `None` if the reconciliation did not come so far as to read it.
fn api_key_status(key: &KeyFindings, now: Timestamp) -> Option<Option<ApiKeyStatus>> {
    if !key.is_read {
        return None;
    }
    let today = now.to_zoned(TimeZone::UTC).date();
    let is_known = key.expiry.is_some() || key.error.is_some();
    Some(is_known.then(|| ApiKeyStatus {
        expires: key.expiry.map(|expiry| expiry.to_string()),
        days_left: key.expiry.map(|expiry| expiry.days_left(today)),
        error: key.error.clone(),
    }))
}

fn revision(report: &ReconciliationReport) -> Option<String> {
    report
        .result
        .plan()
        .and_then(|plan| plan.revision.as_ref())
        .map(Revision::short)
}

/// The revision of the last update of a provider.
fn revision_of(report: &ReconciliationReport, provider: &Provider) -> Option<String> {
    report
        .findings
        .late
        .get(provider)
        .map_or_else(|| revision(report), Clone::clone)
}

/// Adds the result of the update and the earlier status to the planned status of a provider.
fn with_result(
    mut provider: ProviderStatus,
    before: Option<&ProviderStatus>,
    result: Option<&UpdateResult>,
    report: &ReconciliationReport,
    now: Timestamp,
) -> ProviderStatus {
    provider.last_update = before.and_then(|before| before.last_update.clone());
    if let Some(UpdateResult {
        provider: name,
        outcome,
        cause,
        ..
    }) = result
    {
        let backed_off = report
            .findings
            .backed_off
            .get(name)
            .filter(|it| !it.left.is_zero());
        provider.retry_at = backed_off.and_then(|it| after(now, it.left));
        // The cause of the back-off says more than the skip.
        let cause_of_state = match (outcome, backed_off) {
            (Outcome::Skipped(_), Some(it)) => &it.outcome,
            _ => outcome,
        };
        provider.outcome = Some(cause_of_state.into());
        provider.error = cause_of_state.error();
        match cause_of_state {
            Outcome::Applied | Outcome::Unchanged => {
                provider.state = ProviderState::InSync;
                provider.changes.clear();
                provider.consequence = None;
                provider.cause = None;
                provider.outcome = None;
            }
            Outcome::NotConverged(mismatches) => provider.not_converged.clone_from(mismatches),
            Outcome::Partial(_) | Outcome::Failed(_) | Outcome::Skipped(_) => {}
        }
        if matches!(outcome, Outcome::Applied) {
            let revision = revision_of(report, name);
            provider.last_update = Some(LastUpdate {
                time: now,
                revision,
                cause: *cause,
            });
        }
    }
    let contested = report.findings.contested.iter();
    provider.undone = contested
        .filter(|(name, _)| provider.provider.as_deref() == Some(name.as_str()))
        .map(|(_, times)| *times)
        .next();
    if let Some(before) = before.filter(|before| before.state == provider.state) {
        provider.since = before.since;
    }
    provider
}

/// The differences that a reconciliation found, and the results of its updates.
fn records(report: &ReconciliationReport, now: Timestamp) -> Vec<ChangeRecord> {
    let record = |provider: &Provider,
                  cause: Cause,
                  outcome: Option<&Outcome>,
                  changes: &[Change]| ChangeRecord {
        time: now,
        provider: provider.to_string(),
        cause,
        revision: revision_of(report, provider),
        outcome: outcome.map(Into::into),
        error: outcome.and_then(Outcome::error),
        changes: changes
            .iter()
            .take(MAX_CHANGES_PER_RECORD)
            .map(Into::into)
            .collect(),
        more: changes.len().saturating_sub(MAX_CHANGES_PER_RECORD),
        times: 1,
    };
    let found = report
        .findings
        .differences
        .iter()
        .filter_map(|(entry, cause)| {
            let provider = entry.provider.as_ref()?;
            cause.map(|cause| record(provider, cause, None, entry.changes()))
        });
    let tried = report
        .result
        .updates()
        .iter()
        .filter(|r| !matches!(r.outcome, Outcome::Skipped(_) | Outcome::Unchanged));
    found
        .chain(tried.map(|r| record(&r.provider, r.cause, Some(&r.outcome), &r.changes)))
        .collect()
}

/// Adds a change. Repeated failures are one entry, so that they do not displace the others.
fn remember_change(history: &mut History, record: ChangeRecord) {
    let changes = &mut history.changes;
    let last = changes
        .iter()
        .position(|last| last.provider == record.provider);
    let again = last.filter(|at| {
        let same = |last: &ChangeRecord| {
            (last.outcome, last.cause, &last.changes)
                == (record.outcome, record.cause, &record.changes)
        };
        record.error.is_some() && changes.get(*at).is_some_and(same)
    });
    let times = again.map_or(0, |at| changes.remove(at).times) + 1;
    changes.insert(0, ChangeRecord { times, ..record });
    changes.truncate(MAX_HISTORY);
}

/// Adds a reconciliation unless it was quiet, and counts failures of one kind in a row.
fn remember_pass(
    history: &mut History,
    before: Option<&ReconciliationRecord>,
    pass: ReconciliationRecord,
    noisy: bool,
) -> ReconciliationRecord {
    let has_failed = |pass: &ReconciliationRecord| {
        matches!(
            pass.result,
            ReconciliationOutcome::Failed | ReconciliationOutcome::Refused
        )
    };
    let recovered = before.is_some_and(has_failed);
    let again = before.filter(|before| has_failed(&pass) && before.result == pass.result);
    let pass = ReconciliationRecord {
        times: again.map_or(0, |before| before.times) + 1,
        ..pass
    };
    if noisy || has_failed(&pass) || recovered {
        if again.is_some() && !history.passes.is_empty() {
            history.passes.remove(0);
        }
        history.passes.insert(0, pass.clone());
        history.passes.truncate(MAX_HISTORY);
    }
    pass
}

fn summary(status: &WorkspaceStatus) -> Summary {
    Summary {
        in_sync: status.count(ProviderState::InSync),
        update: status.count(ProviderState::Update),
        invalid: status.count(ProviderState::Invalid),
        unreadable: status.count(ProviderState::Unreadable),
        missing: status.count(ProviderState::Missing),
        held: status.count(ProviderState::Held),
        unmanaged: status.count(ProviderState::Unmanaged),
    }
}

/// A publisher without a loop.
#[cfg(test)]
pub(crate) fn for_tests() -> StatusPublisher {
    StatusPublisher::of(WorkspaceStatus::default(), Leadership::default())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::plan::Verdict;
    use crate::reconcile::Failure;
    use crate::report::status::UpdateOutcome;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(number: u64, result: ReconciliationResult) -> ReconciliationReport {
        ReconciliationReport {
            number,
            ..fixtures::report(result)
        }
    }

    fn looked(verdict: Verdict) -> ReconciliationResult {
        ReconciliationResult::Observed(fixtures::plan(vec![fixtures::entry("HOSTAWAY", verdict)]))
    }

    #[test]
    fn reconciliations_without_changes_leave_no_trace_and_failures_in_a_row_are_one_entry() {
        let mut status = WorkspaceStatus::default();
        let quiet = || looked(Verdict::Unmanaged);
        let failed = || ReconciliationResult::Failed(Failure::Pin);
        for number in 1..=3 {
            apply_report(&mut status, &report(number, quiet()), at(1));
        }
        assert!(status.history.passes.is_empty() && status.ready);
        for number in 4..=500 {
            apply_report(&mut status, &report(number, failed()), at(2));
        }
        let seen = |status: &WorkspaceStatus| -> Vec<(u64, ReconciliationOutcome, u64)> {
            status
                .history
                .passes
                .iter()
                .map(|pass| (pass.number, pass.result, pass.times))
                .collect()
        };
        assert_eq!(seen(&status), [(500, ReconciliationOutcome::Failed, 497)]);
        // What was known stays known, and the end of the trouble is worth an entry.
        assert_eq!(status.providers.len(), 1);
        apply_report(&mut status, &report(501, quiet()), at(3));
        apply_report(&mut status, &report(502, quiet()), at(4));
        apply_report(&mut status, &report(503, failed()), at(5));
        assert_eq!(
            seen(&status),
            [
                (503, ReconciliationOutcome::Failed, 1),
                (501, ReconciliationOutcome::Ok, 1),
                (500, ReconciliationOutcome::Failed, 497)
            ]
        );
    }

    #[test]
    fn a_provider_remembers_since_when_it_is_in_its_state() {
        let mut status = WorkspaceStatus::default();
        let mut since = |second, verdict| {
            apply_report(&mut status, &report(1, looked(verdict)), at(second));
            status
                .providers
                .first()
                .map(|provider| provider.since.as_second())
                .unwrap()
        };
        assert_eq!(since(1, Verdict::Unmanaged), 1);
        assert_eq!(since(2, Verdict::Unmanaged), 1);
        assert_eq!(since(3, Verdict::Missing), 3);
        assert_eq!(since(4, Verdict::Missing), 3);
        assert_eq!(since(5, Verdict::Unmanaged), 5);
    }

    #[test]
    fn the_history_is_bounded_and_what_fails_again_and_again_is_one_entry() {
        let record = |provider: &str, outcome, error: Option<&str>| ChangeRecord {
            time: at(0),
            provider: provider.to_owned(),
            cause: crate::plan::Cause::Drift,
            revision: None,
            outcome: Some(outcome),
            error: error.map(str::to_owned),
            changes: Vec::new(),
            more: 0,
            times: 1,
        };
        let mut history = History::default();
        for _ in 0..500 {
            remember_change(&mut history, record("A", UpdateOutcome::Failed, Some("no")));
            remember_change(&mut history, record("B", UpdateOutcome::Failed, Some("no")));
        }
        let times: Vec<u64> = history.changes.iter().map(|record| record.times).collect();
        assert_eq!(times, [500, 500]);
        for _ in 0..500 {
            remember_change(&mut history, record("A", UpdateOutcome::Applied, None));
        }
        assert_eq!(history.changes.len(), MAX_HISTORY);
        assert!(history.changes.iter().all(|record| record.times == 1));
    }
}
