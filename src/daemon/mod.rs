//! Runs reconciliations in a loop: when they run, what is remembered between them, and what is reported.
//!
//! Never: end because a reconciliation failed. It returns no error here; failures are in its [`ReconciliationReport`].

mod inputs;
mod leadership;
pub mod log;
mod loop_file;
mod memory;
pub mod publisher;
mod rate;
mod reconciliation;
mod state_file;
mod trigger;
mod updates;
mod workspace_group;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::desired::watch::WatchOptions;
use crate::live::{Api, KeySource};
use crate::model::human_duration;
use crate::plan::Plan;
use crate::reconcile::{Failure, Source, apply};

use inputs::WatchedInputs;
pub use leadership::{Leadership, Moment, Term};
pub use loop_file::{LoopFile, Observer};
pub use memory::{BackedOff, Memory};
pub use publisher::StatusPublisher;
use rate::Rate;
use reconciliation::RunMode;
pub use reconciliation::{Approval, Findings, ReconciliationReport, ReconciliationResult};
pub use state_file::{NoRandomness, State};
use trigger::TriggerQueue;
pub use trigger::{Handle, NotPending};
pub use workspace_group::{Slot, WorkspaceGroup};

pub use crate::report::status::{Mode, Trigger};

/// Everything that one workspace's loop needs.
pub struct Settings {
    /// Files, secrets, strictness.
    pub source: Arc<Source>,
    /// Where the API key is; read again for each reconciliation.
    pub key: KeySource,
    /// The API of this workspace.
    pub api: Api,
    /// Between two reconciliations without another trigger, before jitter.
    pub interval: Duration,
    /// Enforce or observe.
    pub mode: Mode,
    /// The most providers that one plan may change.
    pub max_changes: Option<usize>,
    /// The most updates under way at once.
    pub concurrency: usize,
    /// A whole pass, retries included.
    pub timeout: Duration,
    /// How patiently the definitions are watched.
    pub watching: WatchOptions,
    /// Who is told of a plan that is about to be carried out.
    pub applying: Applying,
    /// Where the memory is kept; several workspaces may share it.
    pub state: Arc<State>,
    /// What this loop remembers beside the workspace.
    pub loop_file: Arc<LoopFile>,
    /// Its place among the loops of the process.
    pub slot: Slot,
    /// Whether this replica may write; the API asks the same one before each update.
    pub leadership: Leadership,
}

/// Who is told of a plan that is about to be carried out: in the middle of the pass, so it must neither wait nor fail.
#[derive(Default)]
pub struct Applying(Option<Box<Hears>>);

type Hears = dyn Fn(&Plan) + Send + Sync;

impl Applying {
    /// Tells this one.
    pub fn to(told: impl Fn(&Plan) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(told)))
    }

    fn tell(&self, plan: &Plan) {
        if let Some(told) = &self.0 {
            told(plan);
        }
    }
}

/// How many directories are looked at in a second where no file event calls for it, at most.
const LOOKS_PER_SECOND: u32 = 50;

/// The longest pause after passes that failed, where the interval is not longer itself.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Why a loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// It was asked to.
    Stopped,
    /// The API key belongs to another workspace than before. A loop that is one of several goes on without writing.
    WorkspaceMoved,
}

/// Runs passes until `stop` is cancelled. By its handle the loop is asked for a pass out of turn; a request that comes during
/// a pass makes one more pass after it. The publisher shows each pass, and that the loop is alive; `report` is told of each pass.
/// Updates that Calry does not answer go on beside the passes; after a stop they have [`apply::GRACE`] to end.
///
/// If the loop itself panics, the panic is logged and the loop restarts after one interval.
pub async fn run(
    settings: &Settings,
    handle: &Handle,
    stop: CancellationToken,
    mut report: impl FnMut(&ReconciliationReport),
) -> LoopEnd {
    let mut memory = Memory::new(&settings.state);
    loop {
        let passes = passes(settings, handle, &stop, &mut memory, &mut report);
        if let Ok(end) = AssertUnwindSafe(passes).catch_unwind().await {
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
            () = stop.cancelled() => return LoopEnd::Stopped,
            () = handle.publisher().heartbeat_during(pause, tokio::time::sleep(pause)) => {}
        }
    }
}

async fn passes(
    settings: &Settings,
    handle: &Handle,
    stop: &CancellationToken,
    memory: &mut Memory,
    report: &mut impl FnMut(&ReconciliationReport),
) -> LoopEnd {
    let (publisher, triggers) = (handle.publisher(), handle.triggers());
    let mut watching = settings.watching.clone();
    let settling = watching.patience * 2;
    let slot = &settings.slot;
    watching.poll = watching
        .poll
        .max(Duration::from_secs(1) * slot.count() / LOOKS_PER_SECOND);
    let mut trigger = Trigger::Start;
    let delay = slot.delay(settings.interval);
    if !delay.is_zero() {
        // Start-up is staggered; a request ends the wait.
        tokio::select! {
            () = stop.cancelled() => return LoopEnd::Stopped,
            () = publisher.heartbeat_during(delay, tokio::time::sleep(delay)) => {}
            by = triggers.next() => trigger = by,
        }
    }
    let mut inputs = publisher
        .heartbeat_during(settling, Box::pin(WatchedInputs::watch(settings, watching)))
        .await;
    let mut rate = Rate::default();
    loop {
        let wait = rate.wait();
        if !wait.is_zero() {
            inputs.stale();
            tokio::select! {
                () = stop.cancelled() => return LoopEnd::Stopped,
                () = publisher.heartbeat_during(wait, tokio::time::sleep(wait)) => {}
            }
        }
        rate.begin();
        // A file that is still being written is not used, whatever the trigger.
        tokio::select! {
            () = stop.cancelled() => return LoopEnd::Stopped,
            () = publisher.heartbeat_during(settling, inputs.settle(settling)) => {}
        }
        // The reconciliation that starts now serves the pending request.
        if let Some(asked) = triggers.take()
            && trigger != Trigger::Request
        {
            trigger = asked;
        }
        publisher.publish_start(memory.passes + 1, trigger);
        // Boxed, because its state is large and a waiting loop does not need it.
        let passing = Box::pin(reconciliation::reconcile(
            settings,
            memory,
            triggers,
            trigger,
            RunMode::Loop(&mut inputs),
            stop,
        ));
        let passed = publisher
            .heartbeat_during(settings.timeout + apply::GRACE, passing)
            .await;
        if matches!(
            passed.result,
            ReconciliationResult::Failed(Failure::Stopped)
        ) {
            return LoopEnd::Stopped;
        }
        let interval = if memory.passes == 1 {
            slot.first_pause(settings.interval)
        } else {
            settings.interval
        };
        let (pause, then) = memory.pause(interval, &passed);
        let due = if inputs.is_pending() {
            Some(Trigger::Files)
        } else if memory.updates.take_due() {
            Some(Trigger::Update)
        } else {
            None
        };
        let next = if due.is_some() { rate.wait() } else { pause };
        let passed = ReconciliationReport {
            next: (!stop.is_cancelled()).then_some(next),
            ..passed
        };
        publisher.publish_result(&passed);
        report(&passed);
        settings.loop_file.save().await;
        // With several workspaces the others continue, and this loop reports the failure at each attempt.
        if matches!(
            passed.result,
            ReconciliationResult::Failed(Failure::Moved { file: Some(_), .. })
        ) && slot.count() == 1
        {
            return LoopEnd::WorkspaceMoved;
        }
        // It holds the whole live state, which a waiting loop does not need.
        drop(passed);
        if let Some(due) = due {
            trigger = due;
            continue;
        }
        trigger = tokio::select! {
            // Cancel-safe: waiting for a token, a point in time, a note, a message. `changed` keeps what it saw in the watcher.
            () = stop.cancelled() => return LoopEnd::Stopped,
            // Looks for drift and retries failures.
            () = publisher.heartbeat_during(pause, tokio::time::sleep(pause)) => then,
            // A change of the files is applied at once.
            () = inputs.changed() => Trigger::Files,
            // An update in the background ended.
            () = memory.updates_ended(settings.interval) => Trigger::Update,
            trigger = triggers.next() => trigger,
        };
    }
}

/// Runs one reconciliation.
pub async fn once(settings: &Settings, stop: &CancellationToken) -> ReconciliationReport {
    step(settings, &mut Memory::new(&settings.state), stop).await
}

/// Runs one reconciliation with the memory of earlier ones.
pub async fn step(
    settings: &Settings,
    memory: &mut Memory,
    stop: &CancellationToken,
) -> ReconciliationReport {
    reconciliation::reconcile(
        settings,
        memory,
        &TriggerQueue::default(),
        Trigger::Start,
        RunMode::Once,
        stop,
    )
    .await
}
