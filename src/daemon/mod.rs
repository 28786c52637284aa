//! The pass, for ever: when it runs, what it remembers from one time to the next, and what it says about it.
//!
//! What it never does: end because a pass failed. A pass is infallible here; what went wrong is in its [`PassReport`].

pub mod log;
mod memory;
mod pass;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pass::{Failure, Source};
use crate::remote::{Api, KeySource};
use crate::repo::{WatchOptions, Watcher};

pub use memory::Memory;
pub use pass::{PassReport, PassResult, Told, Trigger};

/// Whether drift is undone or only reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What differs is updated.
    #[default]
    Enforce,
    /// What differs is reported; nothing is written.
    Observe,
}

/// Everything that one workspace's loop needs.
pub struct Settings {
    /// Files, secrets, strictness.
    pub source: Arc<Source>,
    /// Where the API key is; read anew at each pass.
    pub key: KeySource,
    /// The API of this workspace.
    pub api: Api,
    /// Between two passes of a quiet daemon, before jitter.
    pub interval: Duration,
    /// Enforce or observe.
    pub mode: Mode,
    /// The most providers that one plan may change.
    pub max_changes: Option<usize>,
    /// The most updates under way at once.
    pub concurrency: usize,
    /// A whole pass, retries included.
    pub timeout: Duration,
}

/// The longest pause after passes that failed, where the interval is not longer itself.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Runs passes until `stop` is cancelled. `requests` asks for a pass out of turn; one that comes during a pass makes one
/// more pass after it. `report` is told of each pass.
pub async fn run(
    settings: &Settings,
    mut requests: mpsc::Receiver<Trigger>,
    stop: CancellationToken,
    mut report: impl FnMut(&PassReport),
) {
    let mut memory = Memory::default();
    let mut watcher = Watcher::new(settings.source.definitions.clone(), WatchOptions::default());
    let mut trigger = Trigger::Start;
    loop {
        // A file that is still being written is not acted on, whoever asked for the pass.
        let settled = tokio::select! {
            () = stop.cancelled() => return,
            settled = watcher.settle() => settled,
        };
        watcher.seen(settled.fingerprint);
        // The pass that begins now is the one that was asked for.
        if let Ok(asked) = requests.try_recv() {
            trigger = asked;
        }
        let passed = pass::pass(settings, &mut memory, trigger, &settled.unsettled, &stop).await;
        if matches!(passed.result, PassResult::Failed(Failure::Stopped)) {
            return;
        }
        let pause = memory.pause(settings.interval, &passed);
        let next = (!stop.is_cancelled()).then_some(pause);
        report(&PassReport { next, ..passed });
        let wake = Instant::now() + pause;
        trigger = tokio::select! {
            // Cancel-safe: waiting for a token, a point in time, a channel. `changed` keeps what it saw in the watcher.
            () = stop.cancelled() => return,
            // Drift is looked for, and a failed pass is tried again.
            () = tokio::time::sleep_until(wake) => Trigger::Interval,
            // What is in git is what runs, at once.
            _ = watcher.changed() => Trigger::Files,
            // Somebody asked. The channel never closes before the loop ends: its sender may have gone, then nobody asks.
            Some(trigger) = requests.recv() => trigger,
        };
    }
}

/// Runs one pass and says how it went.
pub async fn once(settings: &Settings, stop: &CancellationToken) -> PassReport {
    pass::pass(settings, &mut Memory::default(), Trigger::Start, &[], stop).await
}
