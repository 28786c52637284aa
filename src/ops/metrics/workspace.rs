//! What is counted of one workspace. The loop, the API and the watcher count here; a reader takes what there is and makes
//! none of them wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use parking_lot::{Mutex, MutexGuard};

use super::text::Histogram;
use crate::daemon::publisher::{LIFELESS, now};
use crate::daemon::{LoopSettings, ReconciliationReport, StatusPublisher};
use crate::desired::watch::WatchCounts;
use crate::live::{Exchange, ExchangeOutcome, Observer};
use crate::model::{Provider, Slug, UpdateMethod, ellipsize, printable};
use crate::plan::{Cause, Plan, Verdict};
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::report::status::{ProviderState, ReconciliationOutcome, Trigger, WorkspaceStatus};

/// From what a pass over few files takes to what the longest time limit allows, in seconds.
const PASS_BOUNDS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Up to what one request may take, in seconds.
const CALL_BOUNDS: [f64; 9] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const RESULTS: [ReconciliationOutcome; 5] = [
    ReconciliationOutcome::Ok,
    ReconciliationOutcome::Applied,
    ReconciliationOutcome::Incomplete,
    ReconciliationOutcome::Refused,
    ReconciliationOutcome::Failed,
];
const TRIGGERS: [Trigger; 7] = [
    Trigger::Start,
    Trigger::Interval,
    Trigger::Files,
    Trigger::Request,
    Trigger::Hook,
    Trigger::Leadership,
    Trigger::Update,
];
/// How a request can end.
pub(super) const ENDS: [&str; 10] = [
    "2xx",
    "3xx",
    "401",
    "403",
    "404",
    "429",
    "4xx",
    "5xx",
    "timeout",
    "connection",
];
/// How an update that was tried can end.
pub(super) const TRIED: [&str; 4] = ["applied", "unchanged", "notConverged", "failed"];

/// What is counted of one workspace.
#[derive(Debug)]
pub struct WorkspaceMetrics {
    /// What the operator calls it.
    name: String,
    publisher: Arc<StatusPublisher>,
    update_method: UpdateMethod,
    watched: Arc<WatchCounts>,
    calls: Mutex<Calls>,
    passes: Mutex<Arc<Passes>>,
}

/// What was asked of Calry.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    requests: [[u64; ENDS.len()]; 2],
    took: [Histogram<{ CALL_BOUNDS.len() }>; 2],
    pub(super) retries: u64,
    pub(super) waits: u64,
    pub(super) waited: Duration,
}

/// What came of passes.
#[derive(Clone, Debug)]
pub(super) struct Passes {
    /// By result and trigger.
    pub(super) ended: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) took: Histogram<{ PASS_BOUNDS.len() }>,
    pub(super) last_success: Option<Timestamp>,
    /// Those that git manages now, which bounds their number.
    pub(super) providers: BTreeMap<Provider, Counts>,
}

/// What is counted of one provider.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) drifts: u64,
    /// As in [`TRIED`].
    pub(super) updates: [u64; TRIED.len()],
    /// Whether it differs by a drift that was counted.
    drifting: bool,
}

/// Everything there is to tell of one workspace at one moment.
pub(super) struct Seen {
    pub(super) label: String,
    pub(super) alive: bool,
    pub(super) status: Arc<WorkspaceStatus>,
    pub(super) held: u64,
    pub(super) failed: u64,
    pub(super) not_converged: u64,
    /// Of change and of drift.
    pub(super) pending: [u64; 2],
    pub(super) hold_end: Option<Timestamp>,
    pub(super) calls: Calls,
    pub(super) passes: Arc<Passes>,
    pub(super) events: u64,
    pub(super) polls: u64,
    update_method: UpdateMethod,
}

impl WorkspaceMetrics {
    /// Counts for a loop that is about to start. `name` is what the operator calls the workspace: it is the label
    /// `workspace`; where that is but its directory, until the workspace itself was read.
    #[must_use]
    pub fn new(name: &str, settings: &LoopSettings, publisher: Arc<StatusPublisher>) -> Self {
        Self::of(
            name,
            settings.api.method(),
            Arc::clone(&settings.watching.counts),
            publisher,
        )
    }

    #[cfg(test)]
    pub(super) fn for_tests(name: &str, publisher: Arc<StatusPublisher>) -> Self {
        Self::of(name, UpdateMethod::Patch, Arc::default(), publisher)
    }

    fn of(
        name: &str,
        update_method: UpdateMethod,
        watched: Arc<WatchCounts>,
        publisher: Arc<StatusPublisher>,
    ) -> Self {
        let zeros = RESULTS
            .iter()
            .flat_map(|result| TRIGGERS.map(|trigger| ((result.as_str(), trigger.as_str()), 0)));
        let passes = Passes {
            ended: zeros.collect(),
            took: Histogram::new(&PASS_BOUNDS),
            last_success: None,
            providers: BTreeMap::new(),
        };
        Self {
            name: ellipsize(&printable(name), Slug::MAX_LEN),
            publisher,
            update_method,
            watched,
            calls: Mutex::new(Calls {
                requests: [[0; ENDS.len()]; 2],
                took: [const { Histogram::new(&CALL_BOUNDS) }; 2],
                retries: 0,
                waits: 0,
                waited: Duration::ZERO,
            }),
            passes: Mutex::new(Arc::new(passes)),
        }
    }

    /// Counts a pass that ended.
    pub fn passed(&self, report: &ReconciliationReport) {
        let mut passes = self.passes.lock();
        // A copy is made only where a reader has the last one.
        Arc::make_mut(&mut passes).count(report, now());
    }

    /// What the operator calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What there is now.
    pub(super) fn look(&self) -> Seen {
        let status = self.publisher.snapshot();
        let known = status
            .workspace
            .as_ref()
            .filter(|workspace| Slug::parse(&workspace.slug).is_ok());
        // Series of a workspace that has a name stay what they are, whatever is found behind its key.
        let slug = known
            .filter(|_| status.name.is_none())
            .map(|workspace| workspace.slug.clone());
        let mut seen = Seen {
            label: slug.unwrap_or_else(|| self.name.clone()),
            alive: self.publisher.silence() < LIFELESS,
            held: 0,
            failed: 0,
            not_converged: 0,
            pending: [0; 2],
            hold_end: None,
            calls: self.calls().clone(),
            passes: Arc::clone(&self.passes.lock()),
            events: self.watched.events(),
            polls: self.watched.polls(),
            update_method: self.update_method,
            status: Arc::clone(&status),
        };
        for provider in &status.providers {
            use crate::plan::Cause;
            use crate::report::status::UpdateOutcome;
            seen.held += u64::from(provider.state == ProviderState::Held);
            seen.failed += u64::from(provider.outcome == Some(UpdateOutcome::Failed));
            seen.not_converged += u64::from(provider.outcome == Some(UpdateOutcome::NotConverged));
            let [change, drift] = &mut seen.pending;
            match provider.cause {
                Some(Cause::Change) => *change += 1,
                Some(Cause::Drift) => *drift += 1,
                None => {}
            }
            let end = provider.hold.as_ref().and_then(|hold| end_of(&hold.until));
            seen.hold_end = seen.hold_end.into_iter().chain(end).min();
        }
        seen
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock()
    }
}

impl Observer for WorkspaceMetrics {
    fn on_request(&self, request: &Exchange) {
        let end = match request.outcome {
            ExchangeOutcome::Status(200..=299) => "2xx",
            ExchangeOutcome::Status(300..=399) => "3xx",
            ExchangeOutcome::Status(401) => "401",
            ExchangeOutcome::Status(403) => "403",
            ExchangeOutcome::Status(404) => "404",
            ExchangeOutcome::Status(429) => "429",
            ExchangeOutcome::Status(400..=499) => "4xx",
            ExchangeOutcome::Status(_) => "5xx",
            ExchangeOutcome::TimedOut => "timeout",
            ExchangeOutcome::Broken => "connection",
        };
        let mut calls = self.calls();
        let Calls {
            requests: [reads, updates],
            took: [read, update],
            ..
        } = &mut *calls;
        let (counts, took) = if request.update {
            (updates, update)
        } else {
            (reads, read)
        };
        if let Some((_, count)) = ENDS.iter().zip(counts).find(|(name, _)| **name == end) {
            *count += 1;
        }
        took.observe(request.took.as_secs_f64());
    }

    fn on_retry(&self) {
        self.calls().retries += 1;
    }

    fn on_pause(&self, pause: Duration) {
        let mut calls = self.calls();
        calls.waits += 1;
        calls.waited += pause;
    }
}

impl Passes {
    fn count(&mut self, report: &ReconciliationReport, now: Timestamp) {
        let ended = report.result.outcome();
        *self
            .ended
            .entry((ended.as_str(), report.trigger.as_str()))
            .or_default() += 1;
        self.took.observe(report.took.as_secs_f64());
        if !matches!(
            ended,
            ReconciliationOutcome::Failed | ReconciliationOutcome::Refused
        ) {
            self.last_success = Some(now);
        }
        if let Some(plan) = report.result.plan() {
            self.count_providers(plan, report);
        }
    }

    fn count_providers(&mut self, plan: &Plan, report: &ReconciliationReport) {
        let mut before = std::mem::take(&mut self.providers);
        for entry in &plan.entries {
            let Some(provider) = entry
                .provider
                .as_ref()
                .filter(|_| !matches!(entry.verdict, Verdict::Unmanaged))
            else {
                continue;
            };
            let counts = self
                .providers
                .entry(provider.clone())
                .or_insert_with(|| before.remove(provider).unwrap_or_default());
            // What a standby sees, the leader counts.
            let drifted = !report.findings.standby
                && matches!(&entry.verdict, Verdict::Update(step) if step.cause == Cause::Drift);
            // One that stays, because it is only observed or cannot be undone, is one drift.
            counts.drifts += u64::from(drifted && !counts.drifting);
            counts.drifting = drifted;
        }
        for UpdateResult {
            provider, outcome, ..
        } in report.result.updates()
        {
            let Some(counts) = self.providers.get_mut(provider) else {
                continue;
            };
            let tried = TRIED
                .iter()
                .zip(&mut counts.updates)
                .find(|(name, _)| **name == outcome.as_str());
            if let Some((_, count)) = tried {
                *count += 1;
            }
            counts.drifting &= !matches!(outcome, Outcome::Applied | Outcome::Unchanged);
        }
    }
}

impl Seen {
    /// What was asked of Calry, by method: how often requests ended how, as in [`ENDS`], and how long they took.
    pub(super) fn by_method(
        &self,
    ) -> [(
        &'static str,
        &[u64; ENDS.len()],
        &Histogram<{ CALL_BOUNDS.len() }>,
    ); 2] {
        let Calls {
            requests: [reads, updates],
            took: [read, update],
            ..
        } = &self.calls;
        [
            ("GET", reads, read),
            (self.update_method.as_str(), updates, update),
        ]
    }
}

/// The moment at which a hold ends.
fn end_of(until: &str) -> Option<Timestamp> {
    let day = until.parse::<Date>().ok()?.tomorrow().ok()?;
    day.to_zoned(TimeZone::UTC).ok().map(|end| end.timestamp())
}
