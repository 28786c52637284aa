//! Writes Kubernetes Events about the Pod: `kubectl describe` and `kubectl get events` show changes, drift and failures.
//!
//! They hold the same events as notifications, in the form of `events.k8s.io/v1`.
//!
//! Never: delay a reconciliation, show a value of a definition, or retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Cluster, ClusterError, describe_error};
use crate::daemon::ReconciliationReport;
use crate::model::printable;
use crate::ops::notifications::{self, Event, EventKind, Subject, Thresholds};
use crate::reconcile::today;

/// The longest queue.
const LENGTH: usize = 64;

/// The time limit of the API server for one Event.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The longest note in `events.k8s.io/v1`, in bytes.
const NOTE: usize = 1024;

/// How much of the Pod's name is used, in characters: the limit of `reportingInstance`.
const NAME: usize = 128;

/// The queue of a task that writes Events.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<api::Event>,
    pod: ObjectReference,
    logged_drop: Arc<AtomicBool>,
}

pub struct EventWriter {
    events: Events,
    name: Option<String>,
    memory: Mutex<notifications::ReportedState>,
}

impl Events {
    /// Starts the task. It ends when all [`Events`] are dropped.
    ///
    /// # Errors
    /// [`ClusterError::NoPod`].
    pub fn start(cluster: &Cluster) -> Result<(Self, JoinHandle<()>), ClusterError> {
        let (Some(name), Some(uid)) = (cluster.pod.name.clone(), cluster.pod.uid.clone()) else {
            return Err(ClusterError::NoPod);
        };
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name),
            namespace: Some(cluster.namespace.clone()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let (queue, mut waiting) = mpsc::channel::<api::Event>(LENGTH);
        let to = |cluster: &Cluster| {
            Api::<api::Event>::namespaced(cluster.client.clone(), &cluster.namespace)
        };
        let (mut api, pod_of) = (to(cluster), cluster.pod.clone());
        let task = tokio::spawn(async move {
            let mut failing = false;
            while let Some(event) = waiting.recv().await {
                let params = PostParams::default();
                let sent = tokio::time::timeout(ATTEMPT, api.create(&params, &event)).await;
                if let Ok(Err(kube::Error::Api(status))) = &sent
                    && status.code == 401
                    && let Ok(cluster) = Cluster::find(pod_of.clone()).await
                {
                    api = to(&cluster);
                }
                let why = match sent {
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(describe_error(&error)),
                    Err(_) => Some("the API server did not answer in time".to_owned()),
                };
                if let Some(why) = &why
                    && !failing
                {
                    tracing::warn!(
                        "cannot write an Event: {why}; further failures are logged after the next success"
                    );
                }
                failing = why.is_some();
            }
        });
        Ok((
            Self {
                queue,
                pod,
                logged_drop: Arc::default(),
            },
            task,
        ))
    }

    /// The writer of one workspace, by its name in the configuration file.
    #[must_use]
    pub fn writer(&self, workspace: Option<&str>) -> EventWriter {
        EventWriter {
            events: self.clone(),
            name: workspace.map(str::to_owned),
            memory: Mutex::default(),
        }
    }

    pub(super) fn leads(&self, lease: &str) {
        self.push(
            "LeaderElected",
            false,
            "Elect",
            format!("this replica leads by the Lease {lease}"),
        );
    }

    pub(super) fn stands_by(&self, lease: &str) {
        let note = format!("this replica no longer leads by the Lease {lease}, and writes nothing");
        self.push("LeadershipLost", true, "Elect", note);
    }

    fn push(&self, reason: &str, warning: bool, action: &str, mut note: String) {
        if note.len() > NOTE {
            note.truncate(note.floor_char_boundary(NOTE - '…'.len_utf8()));
            note.push('…');
        }
        let pod = self.pod.name.as_deref().unwrap_or_default();
        let pod: String = pod.chars().take(NAME).collect();
        let pod = pod.trim_end_matches(['-', '.']);
        let event = api::Event {
            metadata: ObjectMeta {
                name: Some(format!("{pod}.{:016x}", fastrand::u64(..))),
                namespace: self.pod.namespace.clone(),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            note: Some(note),
            regarding: Some(self.pod.clone()),
            reporting_controller: Some("calry-gitops".to_owned()),
            reporting_instance: Some(pod.to_owned()),
            ..api::Event::default()
        };
        if self.queue.try_send(event).is_err() && !self.logged_drop.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "too many Events wait for the API server; some are dropped (logged once)"
            );
        }
    }
}

impl EventWriter {
    pub fn write(&self, report: &ReconciliationReport) {
        // Kubernetes expires Events by itself, so a failure is reported at once.
        let thresholds = Thresholds {
            failed_passes: 1,
            ..Thresholds::default()
        };
        let mut memory = self.memory.lock();
        for event in notifications::events(&mut memory, report, &thresholds, today()) {
            let (reason, warning) = reason(event.kind);
            let note = note(self.name.as_deref(), report, event);
            self.events.push(reason, warning, "Reconcile", note);
        }
    }
}

const fn reason(kind: EventKind) -> (&'static str, bool) {
    match kind {
        EventKind::Applied => ("ChangeApplied", false),
        EventKind::Drift => ("DriftFound", true),
        EventKind::Failed => ("ReconcileFailed", true),
        EventKind::Recovered => ("Recovered", false),
        EventKind::Refused => ("PlanRefused", true),
        EventKind::NotConverged => ("NotConverged", true),
        EventKind::HoldExpiring => ("HoldExpiring", false),
        EventKind::KeyExpiring => ("ApiKeyExpiring", true),
        EventKind::CatalogueChanged => ("CatalogueChanged", false),
    }
}

fn note(workspace: Option<&str>, report: &ReconciliationReport, event: Event) -> String {
    let Event {
        sentence,
        reason,
        providers,
        more,
        ..
    } = event;
    let slug = report
        .result
        .plan()
        .map(|plan| plan.workspace.slug.as_str());
    let mut note = workspace
        .or(slug)
        .map(|name| format!("{}: ", printable(name)))
        .unwrap_or_default();
    note += &sentence;
    if let Some(revision) = &report.findings.revision {
        note += &format!(" at {}", revision.short());
    }
    if let Some(reason) = reason {
        note += &format!(": {reason}");
    }
    let about = |subject: Subject| {
        let mut text = subject.provider;
        text.extend(subject.detail.map(|detail| format!(" {detail}")));
        if !subject.paths.is_empty() {
            text += &format!(" ({})", subject.paths.join(", "));
        }
        text
    };
    let mut subjects: Vec<String> = providers.into_iter().map(about).collect();
    if more > 0 {
        subjects.push(format!("and {more} more"));
    }
    if !subjects.is_empty() {
        note += &format!(": {}", subjects.join("; "));
    }
    note
}
