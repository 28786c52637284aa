//! What is told to Prometheus: counters of what happened, and the status publishers as numbers.
//!
//! It reads publishers, and is told of passes and requests; it decides nothing, and no pass waits for a reader of it. Nothing
//! foreign is a label's value but what is bounded: of a workspace its name or slug and its revision, of a provider its name.
//!
//! # How many series
//!
//! 8 of the process, 3 of each target of notifications, 109 of a workspace, and 5 more of each provider that git manages there. Those that count exist from
//! the start, with 0, so that `rate()` sees the first one that is counted. Series of a provider that git no longer manages,
//! and of the revision before, go away.
//!
//! The label `workspace` is the name in the configuration file. Without one it is the slug, and until the workspace was read
//! for the first time the definitions directory, as it was written.

mod process;
mod text;
mod workspace;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use self::text::{Kind, Page};
use self::workspace::{ENDS, Seen, TRIED};
use super::notifications::{Counters, Counts};
use crate::plan::Summary;
use crate::report::status::{Mode, ReconciliationOutcome, ReplicaRole};

pub use workspace::WorkspaceMetrics;

/// The metrics of a process.
pub struct Metrics {
    workspaces: Vec<Arc<WorkspaceMetrics>>,
    notified: Option<Counters>,
    started: Option<f64>,
}

impl Metrics {
    /// The media type of [`text`](Self::text).
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// The metrics of a process that keeps these workspaces.
    #[must_use]
    pub fn new(workspaces: Vec<Arc<WorkspaceMetrics>>) -> Self {
        Self {
            workspaces,
            notified: None,
            started: process::started(),
        }
    }

    /// The same, which tell of notifications, too.
    #[must_use]
    pub fn notifying(self, notified: Counters) -> Self {
        Self {
            notified: Some(notified),
            ..self
        }
    }

    /// Everything there is, in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = Page::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.family(
            Kind::Gauge,
            "calry_gitops_build_info",
            "The version that runs.",
        )
        .sample(&version, 1);
        process::write(&mut page, self.started);
        if let Some(notified) = &self.notified {
            let help =
                "What became of notifications: given up (failed), or dropped for newer ones.";
            let mut family = page.family(Kind::Counter, "calry_gitops_notifications_total", help);
            for Counts {
                name,
                sent,
                failed,
                dropped,
                ..
            } in notified.counts()
            {
                for (result, count) in [("sent", sent), ("failed", failed), ("dropped", dropped)] {
                    family.sample(&[("target", &name), ("result", result)], count);
                }
            }
        }
        let seen = self.look();
        for (kind, name, help, value) in PLAIN {
            let mut family = page.family(*kind, name, help);
            seen.iter()
                .for_each(|one| family.sample(&[("workspace", &one.label)], value(one)));
        }
        labelled(&mut page, &seen);
        page.into_text()
    }

    /// Every workspace, each with a label of its own, however they are configured.
    fn look(&self) -> Vec<Seen> {
        let mut taken = BTreeSet::new();
        let look = |workspace: &Arc<WorkspaceMetrics>| {
            let mut seen = workspace.look();
            if taken.contains(&seen.label) {
                seen.label = format!("{} ({})", seen.label, workspace.name());
            }
            while !taken.insert(seen.label.clone()) {
                seen.label.push('+');
            }
            seen
        };
        self.workspaces.iter().map(look).collect()
    }
}

/// Families whose one label is the workspace: kind, name, help, value.
type Plain = (Kind, &'static str, &'static str, fn(&Seen) -> f64);

const PLAIN: &[Plain] = &[
    (
        Kind::Gauge,
        "calry_gitops_alive",
        "Whether the loop is alive: 0 where it hangs.",
        |one| f64::from(u8::from(one.alive)),
    ),
    (
        Kind::Gauge,
        "calry_gitops_ready",
        "Whether definitions and live state were read once without an error.",
        |one| f64::from(u8::from(one.status.ready)),
    ),
    (
        Kind::Gauge,
        "calry_gitops_interval_seconds",
        "The time between two quiet passes, before jitter.",
        |one| one.status.interval_seconds,
    ),
    (
        Kind::Gauge,
        "calry_gitops_last_success_timestamp_seconds",
        "When the last pass ended that did not fail as a whole and was not refused; 0 before the first.",
        |one| seconds(one.passes.last_success),
    ),
    (
        Kind::Gauge,
        "calry_gitops_next_pass_timestamp_seconds",
        "When the next pass begins if nothing asks for one earlier; while one is under way, when that began.",
        |one| {
            seconds(
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
        "How many passes up to now failed as a whole, without one in between that did not.",
        |one| in_a_row(one, ReconciliationOutcome::Failed),
    ),
    (
        Kind::Gauge,
        "calry_gitops_plan_refused",
        "Whether the last plan would have changed too much, was refused, and waits for approval.",
        |one| in_a_row(one, ReconciliationOutcome::Refused).min(1.0),
    ),
    (
        Kind::Gauge,
        "calry_gitops_held_providers",
        "Providers whose file says not to touch them.",
        |one| one.held as f64,
    ),
    (
        Kind::Gauge,
        "calry_gitops_hold_end_timestamp_seconds",
        "When the hold ends that ends first; 0 where there is none.",
        |one| seconds(one.hold_end),
    ),
    (
        Kind::Gauge,
        "calry_gitops_failed_providers",
        "Providers whose last update failed.",
        |one| one.failed as f64,
    ),
    (
        Kind::Gauge,
        "calry_gitops_not_converged_providers",
        "Providers for which Calry took the last update and kept other values.",
        |one| one.not_converged as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_api_retries_total",
        "Requests to Calry that were sent again.",
        |one| one.calls.retries as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_api_rate_limit_waits_total",
        "How often requests were held back after Calry's rate limit was reached.",
        |one| one.calls.waits as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_api_rate_limit_wait_seconds_total",
        "For how long requests were held back after Calry's rate limit was reached.",
        |one| one.calls.waited.as_secs_f64(),
    ),
    (
        Kind::Counter,
        "calry_gitops_watcher_events_total",
        "File events that were about the definitions.",
        |one| one.events as f64,
    ),
    (
        Kind::Counter,
        "calry_gitops_watcher_polls_total",
        "Looks at the definitions that no event asked for, as some file systems send none.",
        |one| one.polls as f64,
    ),
];

/// The families with more labels than the workspace.
fn labelled(page: &mut Page, seen: &[Seen]) {
    let mut family = page.family(
        Kind::Gauge,
        "calry_gitops_workspace_info",
        "Where the definitions are, and whether drift is undone (enforce) or only reported (observe).",
    );
    for one in seen {
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
    let help = "The git revision of the last plan; dirty where the files differ from it. Absent outside a git checkout.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_revision_info", help);
    for one in seen {
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
    let help = "Whether the checked-out commit is trusted (1) or refused (0). Absent without allowed signers.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_revision_trusted", help);
    for one in seen {
        if let Some(trust) = &one.status.trust {
            family.sample(&[("workspace", &one.label)], u8::from(trust.trusted));
        }
    }
    let help = "Whether this replica leads (1) or stands by (0). Absent where it is the only one.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_leader", help);
    for one in seen {
        if let Some(leadership) = &one.status.leadership {
            family.sample(
                &[("workspace", &one.label)],
                u8::from(leadership.state == ReplicaRole::Leader),
            );
        }
    }
    let help = "Passes that ended, by what came of them and why they ran.";
    let mut family = page.family(Kind::Counter, "calry_gitops_passes_total", help);
    for one in seen {
        for ((result, trigger), count) in &one.passes.ended {
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
        "How long passes took.",
    );
    seen.iter()
        .for_each(|one| family.histogram(&[("workspace", &one.label)], &one.passes.took));
    let help = "Providers by how live and git stood to each other after the last plan.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_definitions", help);
    for one in seen {
        let Summary {
            in_sync,
            update,
            invalid,
            unreadable,
            missing,
            held,
            unmanaged,
        } = one.status.summary.unwrap_or_default();
        for (state, count) in [
            ("inSync", in_sync),
            ("update", update),
            ("invalid", invalid),
            ("unreadable", unreadable),
            ("missing", missing),
            ("held", held),
            ("unmanaged", unmanaged),
        ] {
            family.sample(&[("workspace", &one.label), ("state", state)], count);
        }
    }
    let help = "Providers that differ and are not on hold, by whether git or Calry was changed.";
    let mut family = page.family(Kind::Gauge, "calry_gitops_pending_updates", help);
    for one in seen {
        for (cause, count) in ["change", "drift"].into_iter().zip(one.pending) {
            family.sample(&[("workspace", &one.label), ("cause", cause)], count);
        }
    }
    let help = "Differences that somebody made in Calry. One that stays counts once.";
    let mut family = page.family(Kind::Counter, "calry_gitops_drift_found_total", help);
    for one in seen {
        for (provider, counts) in &one.passes.providers {
            family.sample(
                &[("workspace", &one.label), ("provider", provider.as_str())],
                counts.drifts,
            );
        }
    }
    let help = "Updates that were tried, by how they ended.";
    let mut family = page.family(Kind::Counter, "calry_gitops_updates_total", help);
    for one in seen {
        for (provider, counts) in &one.passes.providers {
            for (result, count) in TRIED.iter().zip(counts.updates) {
                let labels = [
                    ("workspace", &*one.label),
                    ("provider", provider.as_str()),
                    ("result", result),
                ];
                family.sample(&labels, count);
            }
        }
    }
    let help = "Requests to Calry, by method and by the status of the answer, or what kept it from coming.";
    let mut family = page.family(Kind::Counter, "calry_gitops_api_requests_total", help);
    for one in seen {
        for (method, counts, _) in one.by_method() {
            for (status, count) in ENDS.iter().zip(counts) {
                family.sample(
                    &[
                        ("workspace", &one.label),
                        ("method", method),
                        ("status", status),
                    ],
                    count,
                );
            }
        }
    }
    let help = "How long requests to Calry took, however they ended.";
    let mut family = page.family(
        Kind::Histogram,
        "calry_gitops_api_request_duration_seconds",
        help,
    );
    for one in seen {
        for (method, _, took) in one.by_method() {
            family.histogram(&[("workspace", &one.label), ("method", method)], took);
        }
    }
}

fn seconds(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, |time| time.as_duration().as_secs_f64())
}

/// How many passes in a row ended so, up to the last one.
fn in_a_row(one: &Seen, ended: ReconciliationOutcome) -> f64 {
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
        let labels: Vec<String> = metrics.look().into_iter().map(|seen| seen.label).collect();
        assert_eq!(labels, ["a", "a (a)", "a (a)+", "b"]);
        let text = metrics.text();
        let series: Vec<&str> = text
            .lines()
            .filter_map(|line| Some(line.rsplit_once(' ')?.0))
            .collect();
        assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
    }
}
