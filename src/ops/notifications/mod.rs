//! Notifications to chats, webhooks and git hosts, which show whether Calry has a commit.
//!
//! A [`WorkspaceNotifier`] gets the report of each reconciliation of its workspace, finds the new events for each target, and
//! puts them into the target's queue. One task for each target sends the queue. A target gets one message for each
//! reconciliation and kind of event, whatever the number of providers.
//!
//! The state file keeps the delivered events. After a restart they are not repeated, and their end is reported. Undelivered
//! events are reported again.
//!
//! Never: delay a reconciliation or make it fail, send a value of a definition, or log a URL or a token.

mod commit;
mod config;
mod events;
mod message;
mod post;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize as _;
use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::daemon::{Observer, ReconciliationReport};
use crate::http::Http;
use crate::model::Workspace;
use crate::plan::Plan;
use crate::reconcile::today;
use crate::report::links::Links;

pub use commit::{CommitState, CommitStatus, CommitTracker};
pub use config::{
    Channel, EventKind, Forge, ForgeKind, InvalidTarget, Target, Thresholds, WebhookUrl,
};
pub use events::{Event, MAX_PROVIDERS, ReportedState, Subject, events};
pub use message::{Notification, schema};
pub use post::{Credentials, Reply, post_document};

use queue::{Job, Queue};

/// How long sending the rest of the queues may take at shutdown.
pub const DRAIN: Duration = Duration::from_secs(3);

/// The queues of all targets and the tasks that send them. The tasks end when this is dropped.
pub struct Notifier {
    queues: Vec<Arc<Queue>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Access to the counters of all targets. It outlives the [`Notifier`].
#[derive(Clone)]
pub struct Counters(Vec<Arc<Queue>>);

impl Counters {
    #[must_use]
    pub fn counts(&self) -> Vec<TargetCounts> {
        let counts = |queue: &Arc<Queue>| TargetCounts {
            name: queue.target.name.clone(),
            kind: queue.target.channel.as_str(),
            sent: queue.sent.load(Relaxed),
            failed: queue.failed.load(Relaxed),
            dropped: queue.dropped.load(Relaxed),
            waiting: queue.waiting(),
        };
        self.0.iter().map(counts).collect()
    }
}

/// The notifications of one target so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCounts {
    pub name: String,
    /// `slack`, `webhook`, `github` or `gitlab`.
    pub kind: &'static str,
    pub sent: u64,
    /// Given up.
    pub failed: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    pub waiting: usize,
}

impl Notifier {
    /// Starts a task for each target, in the current runtime.
    #[must_use]
    pub fn start(targets: Vec<Target>, http: &Http) -> Self {
        let stop = CancellationToken::new();
        let queue = |target| Arc::new(Queue::new(target, http.clone(), stop.clone()));
        let queues: Vec<Arc<Queue>> = targets.into_iter().map(queue).collect();
        let mut tasks = JoinSet::new();
        for queue in &queues {
            let queue = Arc::clone(queue);
            tasks.spawn(async move { queue.run().await });
        }
        Self {
            queues,
            stop,
            tasks,
        }
    }

    /// The notifier of one workspace, by its name in the configuration file.
    #[must_use]
    pub fn for_workspace(&self, workspace: Option<&str>, links: Links) -> WorkspaceNotifier {
        WorkspaceNotifier {
            name: workspace.map(str::to_owned),
            links,
            targets: self
                .queues
                .iter()
                .filter(|queue| queue.target.is_about(workspace))
                .map(|queue| (Arc::clone(queue), Mutex::default()))
                .collect(),
            workspace: Mutex::default(),
        }
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters(self.queues.clone())
    }

    /// Sends the rest of the queues without retries, for at most [`DRAIN`].
    pub async fn stop(mut self) {
        self.stop.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            let waiting: usize = self.queues.iter().map(|queue| queue.waiting()).sum();
            tracing::warn!(
                waiting,
                "some notifications were not sent before the shutdown"
            );
        }
    }
}

pub struct WorkspaceNotifier {
    name: Option<String>,
    links: Links,
    targets: Vec<(Arc<Queue>, Mutex<TargetState>)>,
    /// As last read.
    workspace: Mutex<Option<Workspace>>,
}

/// What was reported to one target about one workspace.
#[derive(Default)]
struct TargetState {
    reported: ReportedState,
    /// The reported state when the queue was last empty, so that all of it was delivered.
    delivered: ReportedState,
    commit: CommitTracker,
}

impl Observer for WorkspaceNotifier {
    fn restore(&self, known: &Map<String, Value>) {
        for (queue, target) in &self.targets {
            // State from an incompatible version is dropped, so its events are reported again.
            if let Some(saved) = known.get(&queue.target.name)
                && let Ok(reported) = ReportedState::deserialize(saved)
            {
                let mut target = target.lock();
                target.delivered = reported.clone();
                target.reported = reported;
            }
        }
    }

    fn state(&self) -> Map<String, Value> {
        // Commit statuses are posted again after a restart, which is harmless and replaces a lost one.
        let targets = self
            .targets
            .iter()
            .filter(|(queue, _)| !matches!(queue.target.channel, Channel::Commit(_)));
        let known = |(queue, known): &(Arc<Queue>, Mutex<TargetState>)| {
            let mut known = known.lock();
            if queue.is_drained() {
                known.delivered = known.reported.clone();
            }
            let delivered = serde_json::to_value(&known.delivered).ok()?;
            Some((queue.target.name.clone(), delivered))
        };
        targets.filter_map(known).collect()
    }
}

impl WorkspaceNotifier {
    /// A plan is about to be applied.
    pub fn notify_start(&self, plan: &Plan) {
        for (queue, known) in &self.targets {
            if let Channel::Commit(_) = queue.target.channel {
                let status = known.lock().commit.start(plan);
                status
                    .into_iter()
                    .for_each(|status| queue.push(Job::Commit(status, self.name.clone())));
            }
        }
    }

    pub fn notify_result(&self, report: &ReconciliationReport) {
        let mut workspace = self.workspace.lock();
        if let Some(plan) = report.result.plan() {
            *workspace = Some(plan.workspace.clone());
        }
        for (queue, known) in &self.targets {
            let mut known = known.lock();
            let Target {
                channel,
                thresholds,
                events: wanted,
                ..
            } = &queue.target;
            if let Channel::Commit(_) = channel {
                for sha in queue.take_lost(self.name.as_deref()) {
                    known.commit.forget(&sha);
                }
                let status = known.commit.finish(report, thresholds);
                status
                    .into_iter()
                    .for_each(|status| queue.push(Job::Commit(status, self.name.clone())));
                continue;
            }
            for event in events(&mut known.reported, report, thresholds, today()) {
                if wanted
                    .as_ref()
                    .is_some_and(|wanted| !wanted.contains(&event.kind))
                {
                    continue;
                }
                let (name, workspace) = (self.name.as_deref(), workspace.as_ref());
                let message = Notification::of(event, report, name, workspace, &self.links);
                queue.push(Job::Message(Box::new(message)));
            }
        }
    }
}
