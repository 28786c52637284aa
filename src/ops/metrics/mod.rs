//! The Prometheus metrics: event counters, and the published status as numbers.
//!
//! It reads the publishers and counts reconciliations and requests. It decides nothing, and no reconciliation waits for a
//! scrape. The only foreign label values are bounded ones: the name or slug and the revision of a workspace, the name of a
//! provider, and the URL and reference of a repository.
//!
//! # How many series
//!
//! The process has 8 series, each notification target 3, each workspace 110, each managed provider 5 more, and each fetched
//! repository 30. Counters start at 0, so that `rate()` sees the first increment. The series of a provider that is no longer managed,
//! and of a previous revision, disappear.
//!
//! The label `workspace` is the name in the configuration file. Without a name it is the slug, and before the first read of
//! the workspace, the definitions directory as configured.

mod process;
mod repository;
mod text;
mod workspace;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use self::text::{Kind, Page};
use self::workspace::{REQUEST_RESULTS, UPDATE_RESULTS, WorkspaceSample};
use super::notifications::Counters;
use crate::daemon::Repository;
use crate::plan::PolicyAction;
use crate::report::status::{
    Mode, ProviderState, ReconciliationOutcome, ReplicaRole, UpdateOutcome,
};

pub use workspace::WorkspaceMetrics;

pub struct Metrics {
    workspaces: Vec<Arc<WorkspaceMetrics>>,
    repositories: Vec<Arc<Repository>>,
    notifications: Option<Counters>,
    started: Option<f64>,
}

impl Metrics {
    /// The media type of [`text`](Self::text).
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// The metrics of these workspaces and of the process.
    #[must_use]
    pub fn new(workspaces: Vec<Arc<WorkspaceMetrics>>) -> Self {
        Self {
            workspaces,
            repositories: Vec::new(),
            notifications: None,
            started: process::started(),
        }
    }

    /// Adds the repositories that the daemon fetches, each once.
    #[must_use]
    pub fn with_repositories(self, repositories: Vec<Arc<Repository>>) -> Self {
        Self {
            repositories,
            ..self
        }
    }

    /// Adds the counters of notifications.
    #[must_use]
    pub fn with_notifications(self, counters: Counters) -> Self {
        Self {
            notifications: Some(counters),
            ..self
        }
    }

    /// All metrics in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = Page::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.family(
            Kind::Gauge,
            "calry_gitops_build_info",
            "The running version.",
        )
        .sample(&version, 1);
        process::write(&mut page, self.started);
        if let Some(counters) = &self.notifications {
            let help = "Notifications by result: sent, given up (failed), or dropped because too many waited.";
            let mut family = page.family(Kind::Counter, "calry_gitops_notifications_total", help);
            for target in counters.counts() {
                for (result, count) in [
                    ("sent", target.sent),
                    ("failed", target.failed),
                    ("dropped", target.dropped),
                ] {
                    family.sample(&[("target", &target.name), ("result", result)], count);
                }
            }
        }
        let samples = self.samples();
        for (kind, name, help, value) in SIMPLE_FAMILIES {
            let mut family = page.family(*kind, name, help);
            samples
                .iter()
                .for_each(|one| family.sample(&[("workspace", &one.label)], value(one)));
        }
        write_labelled(&mut page, &samples);
        repository::write(&mut page, &self.repositories);
        page.into_text()
    }

    /// One sample of each workspace. The labels are unique, whatever the configuration.
    fn samples(&self) -> Vec<WorkspaceSample> {
        let mut taken = BTreeSet::new();
        let sample = |workspace: &Arc<WorkspaceMetrics>| {
            let mut sample = workspace.sample();
            if taken.contains(&sample.label) {
                sample.label = format!("{} ({})", sample.label, workspace.name());
            }
            while !taken.insert(sample.label.clone()) {
                sample.label.push('+');
            }
            sample
        };
        self.workspaces.iter().map(sample).collect()
    }
}

/// A family with no label but the workspace: kind, name, help, value.
type SimpleFamily = (
    Kind,
    &'static str,
    &'static str,
    fn(&WorkspaceSample) -> f64,
);

const SIMPLE_FAMILIES: &[SimpleFamily] = &[
    (
        Kind::Gauge,
        "calry_gitops_alive",
        "Whether the loop is alive (1) or hangs (0).",
        |one| f64::from(u8::from(one.status.alive)),
    ),
    (
        Kind::Gauge,
        "calry_gitops_ready",
        "Whether definitions and live state were read at least once without an error.",
        |one| f64::from(u8::from(one.status.ready)),
    ),
    (
        Kind::Gauge,
        "calry_gitops_interval_seconds",
        "The configured time between two reconciliations, before jitter.",
        |one| one.status.interval_seconds,
    ),
    (
        Kind::Gauge,
        "calry_gitops_last_success_timestamp_seconds",
        "When the last successful reconciliation ended (neither failed nor refused); 0 before the first.",
        |one| unix_seconds(one.reconciliations.last_success),
    ),
    (
        Kind::Gauge,
        "calry_gitops_next_pass_timestamp_seconds",
        "When the next reconciliation starts unless it is triggered earlier; while one is running, its start.",
        |one| {
            unix_seconds(
                one.status
                    .pass
                    .map(|pass| pass.began)
                    .or(one.status.next_pass),
            )
        },
    ),
    (
        Kind::Gauge,
        "calry_gitops_failed_passes_in_a_row",
        "How many reconciliations have failed in a row.",
        |one| consecutive(one, ReconciliationOutcome::Failed),
    ),
    (
        Kind::Gauge,
        "calry_gitops_plan_refused",
        "Whether the last plan was refused: it exceeds the limit and waits for approval, or a policy denies it.",
        |one| consecutive(one, ReconciliationOutcome::Refused).min(1.0),
    ),
    (
        Kind::Gauge,
        "calry_gitops_policy_denials",
        "What the operator's policies deny in the last plan.",
        |one| one.violations(PolicyAction::Deny),
    ),
    (
        Kind::Gauge,
        "calry_gitops_policy_warnings",
        "What the operator's policies warn of in the last plan.",
        |one| one.violations(PolicyAction::Warn),
    ),
    (
        Kind::Gauge,
        "calry_gitops_held_providers",
        "Providers on hold.",
        |one| one.status.count(ProviderState::Held) as f64,
    ),
    (
        Kind::Gauge,
        "calry_gitops_hold_end_timestamp_seconds",
        "When the next hold ends; 0 if there is none.",
        |one| unix_seconds(one.hold_end),
    ),
    (
        Kind::Gauge,
        "calry_gitops_api_key_expiry_timestamp_seconds",
        "When the API key ends, as the operator wrote it down; 0 if that is unknown.",
        |one| {
            let key = one.status.api_key.as_ref();
            unix_seconds(key.and_then(|key| key.expiry()?.end()))
        },
    ),
    (
        Kind::Gauge,
        "calry_gitops_providers_without_file",
        "Providers of the workspace without a file, although workspace.yaml requires one.",
        |one| one.without_file() as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_catalogue_changes_total",
        "Providers, groups and fields that appeared in Calry or vanished from it.",
        |one| one.reconciliations.catalogue_changes as f64,
    ),
    (
        Kind::Gauge,
        "calry_gitops_failed_providers",
        "Providers whose last update failed.",
        |one| one.count(UpdateOutcome::Failed),
    ),
    (
        Kind::Gauge,
        "calry_gitops_not_converged_providers",
        "Providers for which Calry took the last update and kept other values.",
        |one| one.count(UpdateOutcome::NotConverged),
    ),
    (
        Kind::Counter,
        "calry_gitops_api_retries_total",
        "Requests to Calry that were sent again after a failed attempt.",
        |one| one.requests.retries as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_api_rate_limit_waits_total",
        "How often requests waited because of Calry's rate limit.",
        |one| one.requests.waits as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_api_rate_limit_wait_seconds_total",
        "How long requests waited because of Calry's rate limit.",
        |one| one.requests.waited.as_secs_f64(),
    ),
    (
        Kind::Counter,
        "calry_gitops_watcher_events_total",
        "File events in the definitions directory.",
        |one| one.events as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_watcher_polls_total",
        "Scans of the definitions directory without a file event.",
        |one| one.polls as f64,
    ),
];

/// Writes the families with more labels.
fn write_labelled(page: &mut Page, samples: &[WorkspaceSample]) {
    let mut family = page.family(
        Kind::Gauge,
        "calry_gitops_workspace_info",
        "The definitions directory, and whether drift is undone (enforce) or only reported (observe).",
    );
    for one in samples {
        let mode = match one.status.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        };
        let directory = crate::model::printable(&one.status.directory);
        family.sample(
            &[
                ("workspace", &one.label),
                ("directory", &directory),
                ("mode", mode),
            ],
            1,
        );
    }
    let help = "The git revision of the last plan; dirty if the files differ from it. Absent outside a git checkout.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_revision_info", help);
    for one in samples {
        if let Some(revision) = &one.status.revision {
            let dirty = if revision.dirty { "true" } else { "false" };
            family.sample(
                &[
                    ("workspace", &one.label),
                    ("revision", &revision.commit),
                    ("dirty", dirty),
                ],
                1,
            );
        }
    }
    let help = "Whether the checked-out commit is trusted (1) or refused (0). Absent without allowed keys.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_revision_trusted", help);
    for one in samples {
        if let Some(trust) = &one.status.trust {
            family.sample(&[("workspace", &one.label)], u8::from(trust.trusted));
        }
    }
    let help =
        "Whether this replica is the leader (1) or a standby (0). Absent without leader election.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_leader", help);
    for one in samples {
        if let Some(leadership) = &one.status.leadership {
            let leads = leadership.state == ReplicaRole::Leader;
            family.sample(&[("workspace", &one.label)], u8::from(leads));
        }
    }
    let help = "Reconciliations by result and trigger.";
    let mut family = page.family(Kind::Counter, "calry_gitops_passes_total", help);
    for one in samples {
        for ((result, trigger), count) in &one.reconciliations.by_result {
            family.sample(
                &[
                    ("workspace", &one.label),
                    ("result", result),
                    ("trigger", trigger),
                ],
                count,
            );
        }
    }
    let mut family = page.family(
        Kind::Histogram,
        "calry_gitops_pass_duration_seconds",
        "The duration of reconciliations.",
    );
    samples
        .iter()
        .for_each(|one| family.histogram(&[("workspace", &one.label)], &one.reconciliations.took));
    let help = "Providers by state after the last plan.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_definitions", help);
    for one in samples {
        for (name, state) in [
            ("inSync", ProviderState::InSync),
            ("update", ProviderState::Update),
            ("invalid", ProviderState::Invalid),
            ("unreadable", ProviderState::Unreadable),
            ("missing", ProviderState::Missing),
            ("held", ProviderState::Held),
            ("unmanaged", ProviderState::Unmanaged),
        ] {
            let labels = [("workspace", &*one.label), ("state", name)];
            family.sample(&labels, one.status.count(state));
        }
    }
    let help = "Providers that are out of sync and not on hold, by whether git (change) or Calry (drift) was changed.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_pending_updates", help);
    for one in samples {
        for (cause, count) in ["change", "drift"].into_iter().zip(one.pending) {
            family.sample(&[("workspace", &one.label), ("cause", cause)], count);
        }
    }
    let help = "Drift that was found. Drift that stays counts once.";
    let mut family = page.family(Kind::Counter, "calry_gitops_drift_found_total", help);
    for one in samples {
        for (provider, counts) in &one.reconciliations.providers {
            let labels = [("workspace", &*one.label), ("provider", provider.as_str())];
            family.sample(&labels, counts.drifts);
        }
    }
    let help = "Attempted updates by result.";
    let mut family = page.family(Kind::Counter, "calry_gitops_updates_total", help);
    for one in samples {
        for (provider, counts) in &one.reconciliations.providers {
            for (result, count) in UPDATE_RESULTS.iter().zip(counts.updates) {
                let labels = [
                    ("workspace", &*one.label),
                    ("provider", provider.as_str()),
                    ("result", result),
                ];
                family.sample(&labels, count);
            }
        }
    }
    let help =
        "Requests to Calry by method and status: the status of the answer, timeout or connection.";
    let mut family = page.family(Kind::Counter, "calry_gitops_api_requests_total", help);
    for one in samples {
        for (method, counts, _) in one.by_method() {
            for (status, count) in REQUEST_RESULTS.iter().zip(counts) {
                let labels = [
                    ("workspace", &*one.label),
                    ("method", method),
                    ("status", status),
                ];
                family.sample(&labels, count);
            }
        }
    }
    let help = "The duration of requests to Calry, failed ones included.";
    let mut family = page.family(
        Kind::Histogram,
        "calry_gitops_api_request_duration_seconds",
        help,
    );
    for one in samples {
        for (method, _, took) in one.by_method() {
            family.histogram(&[("workspace", &one.label), ("method", method)], took);
        }
    }
}

fn unix_seconds(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, |time| time.as_duration().as_secs_f64())
}

/// How many reconciliations in a row have ended like this, up to the last one.
fn consecutive(one: &WorkspaceSample, ended: ReconciliationOutcome) -> f64 {
    one.status
        .last_pass
        .as_ref()
        .filter(|pass| pass.result == ended)
        .map_or(0.0, |pass| pass.times as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::publisher::for_tests;

    #[test]
    fn workspaces_of_one_name_keep_series_apart() {
        let one = |name| Arc::new(WorkspaceMetrics::for_tests(name, Arc::new(for_tests())));
        let metrics = Metrics::new(vec![one("a"), one("a"), one("a"), one("b")]);
        let labels: Vec<String> = metrics
            .samples()
            .into_iter()
            .map(|sample| sample.label)
            .collect();
        assert_eq!(labels, ["a", "a (a)", "a (a)+", "b"]);
        let text = metrics.text();
        let series: Vec<&str> = text
            .lines()
            .filter_map(|line| Some(line.rsplit_once(' ')?.0))
            .collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
    }
}
