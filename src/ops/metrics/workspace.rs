//! The counters of one workspace. The loop, the API client and the watcher count here; a scrape makes none of them wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::text::Histogram;
use crate::daemon::publisher::now;
use crate::daemon::{LoopSettings, ReconciliationReport, StatusPublisher};
use crate::desired::watch::WatchCounts;
use crate::live::{Exchange, ExchangeOutcome, Observer};
use crate::model::{Code, Provider, Slug, UpdateMethod, ellipsize, printable};
use crate::plan::{Cause, Plan, PolicyAction, Verdict};
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::report::status::{ReconciliationOutcome, Trigger, UpdateOutcome, WorkspaceStatus};

/// In seconds: from a reconciliation of few files to the longest time limit.
const RECONCILIATION_BOUNDS: [f64; 11] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// In seconds, up to the time limit of a request.
const REQUEST_BOUNDS: [f64; 9] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const RESULTS: [ReconciliationOutcome; 5] = [
    ReconciliationOutcome::Ok,
    ReconciliationOutcome::Applied,
    ReconciliationOutcome::Incomplete,
    ReconciliationOutcome::Refused,
    ReconciliationOutcome::Failed,
];
const TRIGGERS: [Trigger; 8] = [
    Trigger::Start,
    Trigger::Interval,
    Trigger::Files,
    Trigger::Commit,
    Trigger::Request,
    Trigger::Hook,
    Trigger::Leadership,
    Trigger::Update,
];
pub(super) const REQUEST_RESULTS: [&str; 10] = [
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
pub(super) const UPDATE_RESULTS: [&str; 4] = ["applied", "unchanged", "notConverged", "failed"];

#[derive(Debug)]
pub struct WorkspaceMetrics {
    /// The configured name, or the directory.
    name: String,
    publisher: Arc<StatusPublisher>,
    update_method: UpdateMethod,
    watched: Arc<WatchCounts>,
    requests: Mutex<RequestCounts>,
    reconciliations: Mutex<Arc<ReconciliationCounts>>,
}

#[derive(Clone, Debug)]
pub(super) struct RequestCounts {
    ended: [[u64; REQUEST_RESULTS.len()]; 2],
    took: [Histogram<{ REQUEST_BOUNDS.len() }>; 2],
    pub(super) retries: u64,
    pub(super) waits: u64,
    pub(super) waited: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct ReconciliationCounts {
    /// By result and trigger.
    pub(super) by_result: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) took: Histogram<{ RECONCILIATION_BOUNDS.len() }>,
    pub(super) last_success: Option<Timestamp>,
    /// How many names appeared in Calry or vanished from it.
    pub(super) catalogue_changes: u64,
    /// Only those that git manages now, which bounds their number.
    pub(super) providers: BTreeMap<Provider, ProviderCounts>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProviderCounts {
    pub(super) drifts: u64,
    /// In the order of [`UPDATE_RESULTS`].
    pub(super) updates: [u64; UPDATE_RESULTS.len()],
    /// Whether its present drift was counted.
    drifting: bool,
}

/// All values of one workspace at one moment.
pub(super) struct WorkspaceSample {
    pub(super) label: String,
    pub(super) status: Arc<WorkspaceStatus>,
    /// By cause: change, drift.
    pub(super) pending: [u64; 2],
    pub(super) hold_end: Option<Timestamp>,
    pub(super) requests: RequestCounts,
    pub(super) reconciliations: Arc<ReconciliationCounts>,
    pub(super) events: u64,
    pub(super) polls: u64,
    update_method: UpdateMethod,
}

impl WorkspaceMetrics {
    /// `name` is the configured name of the workspace and its label `workspace`. Without one it is the directory, until the
    /// slug was read.
    #[must_use]
    pub fn new(name: &str, settings: &LoopSettings, publisher: Arc<StatusPublisher>) -> Self {
        Self::of(
            name,
            settings.api.method(),
            Arc::clone(&settings.watch_options.counts),
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
        let reconciliations = ReconciliationCounts {
            by_result: zeros.collect(),
            took: Histogram::new(&RECONCILIATION_BOUNDS),
            last_success: None,
            catalogue_changes: 0,
            providers: BTreeMap::new(),
        };
        Self {
            name: ellipsize(&printable(name), Slug::MAX_LEN),
            publisher,
            update_method,
            watched,
            requests: Mutex::new(RequestCounts {
                ended: [[0; REQUEST_RESULTS.len()]; 2],
                took: [const { Histogram::new(&REQUEST_BOUNDS) }; 2],
                retries: 0,
                waits: 0,
                waited: Duration::ZERO,
            }),
            reconciliations: Mutex::new(Arc::new(reconciliations)),
        }
    }

    pub fn count_reconciliation(&self, report: &ReconciliationReport) {
        let mut reconciliations = self.reconciliations.lock();
        // Copies only if a reader holds the last one.
        Arc::make_mut(&mut reconciliations).count(report, now());
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn sample(&self) -> WorkspaceSample {
        let status = self.publisher.snapshot();
        let known = status
            .workspace
            .as_ref()
            .filter(|workspace| Slug::parse(&workspace.slug).is_ok());
        // The label of a named workspace does not depend on its key.
        let slug = known
            .filter(|_| status.name.is_none())
            .map(|workspace| workspace.slug.clone());
        let mut sample = WorkspaceSample {
            label: slug.unwrap_or_else(|| self.name.clone()),
            pending: [0; 2],
            hold_end: None,
            requests: self.requests.lock().clone(),
            reconciliations: Arc::clone(&self.reconciliations.lock()),
            events: self.watched.events(),
            polls: self.watched.polls(),
            update_method: self.update_method,
            status: Arc::clone(&status),
        };
        for provider in &status.providers {
            let [change, drift] = &mut sample.pending;
            match provider.cause {
                Some(Cause::Change) => *change += 1,
                Some(Cause::Drift) => *drift += 1,
                None => {}
            }
            let end = provider.hold.as_ref().and_then(|hold| end_of(&hold.until));
            sample.hold_end = sample.hold_end.into_iter().chain(end).min();
        }
        sample
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
        let mut requests = self.requests.lock();
        let RequestCounts {
            ended: [reads, updates],
            took: [read, update],
            ..
        } = &mut *requests;
        let (counts, took) = match request.update {
            true => (updates, update),
            false => (reads, read),
        };
        let mut counts = REQUEST_RESULTS.iter().zip(counts);
        if let Some((_, count)) = counts.find(|(name, _)| **name == end) {
            *count += 1;
        }
        took.observe(request.took.as_secs_f64());
    }

    fn on_retry(&self) {
        self.requests.lock().retries += 1;
    }

    fn on_pause(&self, pause: Duration) {
        let mut requests = self.requests.lock();
        requests.waits += 1;
        requests.waited += pause;
    }
}

impl ReconciliationCounts {
    fn count(&mut self, report: &ReconciliationReport, now: Timestamp) {
        let ended = report.result.outcome();
        *self
            .by_result
            .entry((ended.as_str(), report.trigger.as_str()))
            .or_default() += 1;
        self.took.observe(report.took.as_secs_f64());
        if !matches!(
            ended,
            ReconciliationOutcome::Failed | ReconciliationOutcome::Refused
        ) {
            self.last_success = Some(now);
        }
        let catalogue = &report.findings.catalogue;
        let news = catalogue.notices.last().filter(|_| catalogue.is_news);
        self.catalogue_changes += news.map_or(0, |notice| notice.names as u64);
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
            // Drift that a standby sees is counted by the leader.
            let drifted = !report.findings.standby
                && matches!(&entry.verdict, Verdict::Update(step) if step.cause == Cause::Drift);
            // Drift that stays, because it is only observed or cannot be undone, counts once.
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
            let tried = UPDATE_RESULTS
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

impl WorkspaceSample {
    pub(super) fn violations(&self, action: PolicyAction) -> f64 {
        let violations = self.status.violations.iter();
        violations.filter(|one| one.action == action).count() as f64
    }

    /// The number of providers that have no file although one is required.
    pub(super) fn without_file(&self) -> usize {
        let problems = self.status.diagnostics.iter();
        problems
            .filter(|problem| problem.code == Code::NoFile.as_str())
            .count()
    }

    /// The number of providers whose last update ended like this.
    pub(super) fn count(&self, ended: UpdateOutcome) -> f64 {
        let providers = self.status.providers.iter();
        providers.filter(|one| one.outcome == Some(ended)).count() as f64
    }

    /// The requests to Calry by method: their number by [`REQUEST_RESULTS`], and their durations.
    pub(super) fn by_method(
        &self,
    ) -> [(
        &'static str,
        &[u64; REQUEST_RESULTS.len()],
        &Histogram<{ REQUEST_BOUNDS.len() }>,
    ); 2] {
        let RequestCounts {
            ended: [reads, updates],
            took: [read, update],
            ..
        } = &self.requests;
        [
            ("GET", reads, read),
            (self.update_method.as_str(), updates, update),
        ]
    }
}

/// The moment at which a hold ends.
fn end_of(until: &str) -> Option<Timestamp> {
    // A freeze window ends with a moment, and is meant to end.
    let day = until
        .parse::<Date>()
        .ok()
        .filter(|day| day.to_string() == until)?;
    let day = day.tomorrow().ok()?;
    day.to_zoned(TimeZone::UTC).ok().map(|end| end.timestamp())
}
