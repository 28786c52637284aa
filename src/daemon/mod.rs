//! Runs reconciliations in a loop: when they run, what is remembered between them, and what is reported.
//!
//! Never: end because a reconciliation failed. It returns no error here; failures are in its [`ReconciliationReport`].

mod catalogue_memory;
#[cfg(test)]
pub(crate) mod fixtures;
mod history_file;
mod inputs;
mod leadership;
pub mod log;
mod loop_file;
mod memory;
mod pause;
pub mod publisher;
mod rate;
mod reconciliation;
pub mod repository;
mod state_file;
mod trigger;
mod updates;
mod workspace_group;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::desired::watch::WatchOptions;
use crate::live::{Api, ExpirySource, KeySource};
use crate::model::human_duration;
use crate::plan::{MaxChanges, Plan};
use crate::reconcile::apply::UpdateResult;
use crate::reconcile::backups::Backups;
use crate::reconcile::{Failure, Source, apply};
use crate::report::links::Links;

pub use catalogue_memory::CatalogueFindings;
pub use history_file::HistoryFile;
use inputs::WatchedInputs;
pub use leadership::{Leadership, Moment, Term};
pub use loop_file::{LoopFile, Observer};
pub use memory::{BackedOff, Memory};
pub use pause::LONGEST_PAUSE;
pub use publisher::StatusPublisher;
use rate::Rate;
pub use reconciliation::{
    Approval, Faults, FetchState, Findings, KeyFindings, ReconciliationReport, ReconciliationResult,
};
pub use repository::{Push, Repository};
pub use state_file::{NoRandomness, StateStore};
use trigger::TriggerQueue;
pub use trigger::{Handle, NotPending};
pub use workspace_group::{Slot, WorkspaceGroup};

pub use crate::report::status::{Mode, Trigger};

pub struct LoopSettings {
    pub source: Arc<Source>,
    /// What fetches the source, if that is a repository at a git server.
    pub repository: Option<Arc<Repository>>,
    pub links: Links,
    /// The API key is read again for each reconciliation.
    pub key: KeySource,
    /// When the key ends is read again with it.
    pub key_expiry: ExpirySource,
    pub api: Api,
    /// The time between two reconciliations without another trigger, before jitter.
    pub interval: Duration,
    pub mode: Mode,
    /// The most providers that one plan may change.
    pub max_changes: MaxChanges,
    pub concurrency: usize,
    /// The time limit of a reconciliation, retries included.
    pub timeout: Duration,
    /// Where definitions are saved before they are replaced.
    pub backups: Option<Backups>,
    pub watch_options: WatchOptions,
    pub apply_listener: Option<ApplyListener>,
    pub update_listener: Option<UpdateListener>,
    /// Several workspaces may share it.
    pub state: Arc<StateStore>,
    pub loop_file: Arc<LoopFile>,
    pub slot: Slot,
    /// Whether this replica may write. The API checks the same value before each update.
    pub leadership: Leadership,
}

/// Called in the middle of a reconciliation with the plan that is about to be applied. It must neither block nor fail.
pub type ApplyListener = Box<dyn Fn(&Plan) + Send + Sync>;

/// Called with a plan and the result of one of its updates, as soon as that ends. It must neither block nor fail.
#[derive(Clone)]
pub struct UpdateListener(Arc<OnUpdate>);

type OnUpdate = dyn Fn(&Plan, &UpdateResult) + Send + Sync;

impl UpdateListener {
    pub fn new(listener: impl Fn(&Plan, &UpdateResult) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    fn call(&self, plan: &Plan, result: &UpdateResult) {
        (self.0)(plan, result);
    }
}

impl fmt::Debug for UpdateListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpdateListener")
    }
}

/// How many directories are scanned per second without a file event, at most.
const SCANS_PER_SECOND: u32 = 50;

/// How long a new leader, or a user's request, waits for a fetch before the commit that is there is used.
const REFRESH: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopEnd {
    Stopped,
    /// The API key belongs to another workspace than before. With several workspaces, the loop continues without writing.
    WorkspaceMoved,
}

/// Reconciles until `stop` is cancelled. A request by the handle starts a reconciliation at once; a request during one
/// starts another one after it. The publisher shows each reconciliation and that the loop is alive; `report` gets each
/// report. Updates that Calry does not answer continue in the background; after a stop they have [`apply::GRACE`] to end.
///
/// If the loop itself panics, the panic is logged and the loop restarts after one interval.
pub async fn run(
    settings: &LoopSettings,
    handle: &Handle,
    stop: CancellationToken,
    mut report: impl FnMut(&ReconciliationReport),
) -> LoopEnd {
    let mut memory = Memory::new(&settings.state);
    loop {
        let reconciling =
            reconcile_until_stopped(settings, handle, &stop, &mut memory, &mut report);
        if let Ok(end) = AssertUnwindSafe(reconciling).catch_unwind().await {
            let finishing = Box::pin(memory.finish_updates(settings.interval));
            handle
                .publisher()
                .heartbeat_during(apply::GRACE * 2, finishing)
                .await;
            return end;
        }
        let pause = settings.interval;
        tracing::error!(
            "internal error in the loop, logged above; it restarts in {}",
            human_duration(pause)
        );
        tokio::select! {
            biased;
            () = stop.cancelled() => return LoopEnd::Stopped,
            () = handle.publisher().heartbeat_during(pause, tokio::time::sleep(pause)) => {}
        }
    }
}

async fn reconcile_until_stopped(
    settings: &LoopSettings,
    handle: &Handle,
    stop: &CancellationToken,
    memory: &mut Memory,
    report: &mut impl FnMut(&ReconciliationReport),
) -> LoopEnd {
    let (publisher, triggers) = (handle.publisher(), handle.triggers());
    let mut watch_options = settings.watch_options.clone();
    let settling = watch_options.patience * 2;
    let slot = &settings.slot;
    watch_options.poll = watch_options
        .poll
        .max(Duration::from_secs(1) * slot.count() / SCANS_PER_SECOND);
    let mut trigger = Trigger::Start;
    let delay = slot.delay(settings.interval);
    if !delay.is_zero() {
        // Start-up is staggered; a request ends the wait.
        tokio::select! {
            biased;
            () = stop.cancelled() => return LoopEnd::Stopped,
            () = publisher.heartbeat_during(delay, tokio::time::sleep(delay)) => {}
            by = triggers.next() => trigger = by,
        }
    }
    let mut inputs = publisher
        .heartbeat_during(
            settling,
            Box::pin(WatchedInputs::watch(settings, watch_options)),
        )
        .await;
    let mut rate = Rate::default();
    let mut led = settings.leadership.lease().is_none();
    loop {
        let wait = rate.wait();
        if !wait.is_zero() {
            inputs.fresh = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => return LoopEnd::Stopped,
                () = publisher.heartbeat_during(wait, tokio::time::sleep(wait)) => {}
            }
        }
        rate.begin();
        // A user who asks for a reconciliation expects the latest commit; one who approves has seen the plan.
        let asked = trigger == Trigger::Request && !triggers.has_approval();
        let leads = settings.leadership.leads();
        // A Lease that was lost and won again during one pause is noticed by the trigger.
        if leads
            && (!led || trigger == Trigger::Leadership || asked)
            && let Some(repository) = &settings.repository
        {
            // The leader before may have applied a later commit, which this one must not undo.
            inputs.fresh = false;
            let refreshing = repository.refresh(REFRESH);
            tokio::select! {
                biased;
                () = stop.cancelled() => return LoopEnd::Stopped,
                () = publisher.heartbeat_during(REFRESH, refreshing) => {}
            }
        }
        led = leads;
        inputs.stands_by = !leads;
        // A file that is still being written is not used, whatever the trigger.
        tokio::select! {
            biased;
            () = stop.cancelled() => return LoopEnd::Stopped,
            () = publisher.heartbeat_during(settling, inputs.settle(settling)) => {}
        }
        // The reconciliation that starts now serves the pending request.
        if let Some(asked) = triggers.take()
            && trigger != Trigger::Request
        {
            trigger = asked;
        }
        let push = triggers.take_push().or(inputs.push.take());
        publisher.publish_start(memory.passes + 1, trigger);
        // Boxed, because its state is large and a waiting loop does not need it.
        let reconciling = Box::pin(reconciliation::reconcile(
            settings,
            memory,
            triggers,
            trigger,
            Some(&mut inputs),
            stop,
        ));
        let ended = publisher
            .heartbeat_during(settings.timeout + apply::GRACE, reconciling)
            .await;
        if matches!(ended.result, ReconciliationResult::Failed(Failure::Stopped)) {
            return LoopEnd::Stopped;
        }
        let interval = if memory.passes == 1 {
            slot.first_pause(settings.interval)
        } else {
            settings.interval
        };
        let (pause, then) = memory.next_pause(interval, &ended);
        let due = if inputs.pending {
            Some(inputs.trigger())
        } else if std::mem::take(&mut memory.updates.due) {
            Some(Trigger::Update)
        } else {
            None
        };
        let next = if due.is_some() { rate.wait() } else { pause };
        let ended = ReconciliationReport {
            next: (!stop.is_cancelled()).then_some(next),
            delivery: push.and_then(|push| push.delivery),
            ..ended
        };
        publisher.publish_result(&ended);
        report(&ended);
        settings.loop_file.save().await;
        // With several workspaces the others continue, and this loop reports the failure at each attempt.
        if matches!(
            ended.result,
            ReconciliationResult::Failed(Failure::Moved { file: Some(_), .. })
        ) && slot.count() == 1
        {
            return LoopEnd::WorkspaceMoved;
        }
        // The report holds the whole live state, which a waiting loop does not need.
        drop(ended);
        if let Some(due) = due {
            trigger = due;
            continue;
        }
        trigger = tokio::select! {
            biased;
            // All branches are cancel-safe. `changed` keeps its state in the watcher.
            () = stop.cancelled() => return LoopEnd::Stopped,
            // Finds drift and retries failures.
            () = publisher.heartbeat_during(pause, tokio::time::sleep(pause)) => then,
            // A change of the files is applied at once.
            () = inputs.changed() => inputs.trigger(),
            // An update in the background ended.
            () = memory.updates_ended(settings.interval) => Trigger::Update,
            trigger = triggers.next() => trigger,
        };
    }
}

pub async fn once(settings: &LoopSettings, stop: &CancellationToken) -> ReconciliationReport {
    step(settings, &mut Memory::new(&settings.state), stop).await
}

/// Runs one reconciliation with the memory of earlier ones.
pub async fn step(
    settings: &LoopSettings,
    memory: &mut Memory,
    stop: &CancellationToken,
) -> ReconciliationReport {
    reconciliation::reconcile(
        settings,
        memory,
        &TriggerQueue::default(),
        Trigger::Start,
        None,
        stop,
    )
    .await
}
