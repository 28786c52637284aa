//! Telling others what happened: chats, webhooks, and the forge that shows whether Calry has a commit.
//!
//! A [`WorkspaceNotifier`] is told of each pass of its workspace, finds out what of it is news for each target, and puts that into the
//! target's queue. One task per target sends what is in there.
//!
//! What it never does: make a pass wait, or fail one. No document holds a value of a definition, and no log line holds an
//! address or a token; whoever is notified gets one message per pass and kind of event, whatever the number of providers.
//! What was delivered outlives the process in the file of the loop, if there is one: after a restart it is not repeated, and
//! its end is reported. What was not delivered is reported again.

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
use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::daemon::publisher::now;
use crate::daemon::{Observer, ReconciliationReport};
use crate::http::Http;
use crate::model::Workspace;
use crate::plan::Plan;
use crate::reconcile::today;

pub use commit::{CommitState, CommitStatus, CommitTracker};
pub use config::{Channel, EventKind, Forge, ForgeKind, InvalidTarget, Rules, Target, WebhookUrl};
pub use events::{Event, LISTED, Memory, Subject, events};
pub use message::{Notification, schema};
pub use post::{Proof, Reply};

use message::About;
use queue::{Job, Queue};

/// How long what waits in the queues may take at the end.
pub const DRAIN: Duration = Duration::from_secs(3);

/// The queues of all targets, and the tasks that empty them. They end when this is dropped.
pub struct Notifier {
    queues: Vec<Arc<Queue>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Tells what became of the notifications so far, for as long as anybody wants to know.
#[derive(Clone)]
pub struct Counters(Vec<Arc<Queue>>);

impl Counters {
    /// What became of the notifications so far, target by target.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let counts = |queue: &Arc<Queue>| Counts {
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

/// What became of the notifications for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The target's name.
    pub name: String,
    /// `slack`, `webhook`, `github` or `gitlab`.
    pub kind: &'static str,
    /// Delivered.
    pub sent: u64,
    /// Given up.
    pub failed: u64,
    /// Dropped, because too many waited.
    pub dropped: u64,
    pub waiting: usize,
}

impl Notifier {
    /// Starts a task for each target. It is called within a runtime.
    #[must_use]
    pub fn start(targets: Vec<Target>, http: &Http) -> Self {
        let stop = CancellationToken::new();
        let queue = |target| Arc::new(Queue::new(target, http.clone(), stop.clone()));
        let queues: Vec<Arc<Queue>> = targets.into_iter().map(queue).collect();
        let mut tasks = JoinSet::new();
        for queue in &queues {
            let queue = Arc::clone(queue);
            tasks.spawn(async move { queue.work().await });
        }
        Self {
            queues,
            stop,
            tasks,
        }
    }

    /// Who tells of one workspace, by its name in the configuration file.
    #[must_use]
    pub fn for_workspace(&self, workspace: Option<&str>) -> WorkspaceNotifier {
        let about = self
            .queues
            .iter()
            .filter(|queue| queue.target.is_about(workspace));
        WorkspaceNotifier {
            name: workspace.map(str::to_owned),
            targets: about
                .map(|queue| (Arc::clone(queue), Mutex::default()))
                .collect(),
            workspace: Mutex::default(),
        }
    }

    /// Who tells what became of the notifications.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters(self.queues.clone())
    }

    /// Sends what waits, for [`DRAIN`] at most; nothing is tried twice.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            let waiting: usize = self.queues.iter().map(|queue| queue.waiting()).sum();
            tracing::warn!(waiting, "not every notification got through before the end");
        }
    }
}

/// Tells of one workspace.
pub struct WorkspaceNotifier {
    name: Option<String>,
    targets: Vec<(Arc<Queue>, Mutex<Known>)>,
    /// As it was read last.
    workspace: Mutex<Option<Workspace>>,
}

/// What one target knows of one workspace.
#[derive(Default)]
struct Known {
    memory: Memory,
    /// The memory as it was when everything in it had been delivered.
    delivered: Memory,
    commit: CommitTracker,
}

impl Observer for WorkspaceNotifier {
    fn restore(&self, known: &Map<String, Value>) {
        for (queue, target) in &self.targets {
            let saved = known.get(&queue.target.name).cloned();
            // What another version wrote is reported again.
            if let Some(memory) =
                saved.and_then(|saved| serde_json::from_value::<Memory>(saved).ok())
            {
                let mut target = target.lock();
                target.delivered = memory.clone();
                target.memory = memory;
            }
        }
    }

    fn known(&self) -> Map<String, Value> {
        // A commit's status is posted again after a restart: that changes nothing, and makes up for one that was lost.
        let targets = self
            .targets
            .iter()
            .filter(|(queue, _)| !matches!(queue.target.channel, Channel::Commit(_)));
        let known = |(queue, known): &(Arc<Queue>, Mutex<Known>)| {
            let mut known = known.lock();
            if queue.is_settled() {
                known.delivered = known.memory.clone();
            }
            Some((
                queue.target.name.clone(),
                serde_json::to_value(&known.delivered).ok()?,
            ))
        };
        targets.filter_map(known).collect()
    }
}

impl WorkspaceNotifier {
    /// A plan is about to be carried out.
    pub fn applying(&self, plan: &Plan) {
        for (queue, known) in &self.targets {
            if let Channel::Commit(_) = queue.target.channel {
                let news = known.lock().commit.applying(plan);
                news.into_iter()
                    .for_each(|status| queue.push(Job::Commit(status, self.name.clone())));
            }
        }
    }

    /// A pass is over.
    pub fn pass(&self, report: &ReconciliationReport) {
        let mut workspace = self.workspace.lock();
        if let Some(plan) = report.result.plan() {
            *workspace = Some(plan.workspace.clone());
        }
        for (queue, known) in &self.targets {
            let mut known = known.lock();
            let Target {
                channel,
                rules,
                events: wanted,
                ..
            } = &queue.target;
            if let Channel::Commit(_) = channel {
                for sha in queue.take_lost(self.name.as_deref()) {
                    known.commit.forget(&sha);
                }
                let news = known.commit.ended(report, rules);
                news.into_iter()
                    .for_each(|status| queue.push(Job::Commit(status, self.name.clone())));
                continue;
            }
            for event in events(&mut known.memory, report, rules, today()) {
                if !wanted.contains(&event.kind) {
                    continue;
                }
                let about = About {
                    id: format!("msg_{:032x}", fastrand::u128(..)),
                    time: now(),
                    name: self.name.as_deref(),
                    workspace: workspace.as_ref(),
                    revision: report.findings.revision.as_ref(),
                    pass: report.number,
                };
                queue.push(Job::Message(Box::new(Notification::of(event, about))));
            }
        }
    }
}
