//! Writes what happens to a workspace into its history file, which outlives the daemon.
//!
//! Updates are written when they end, all other events after each reconciliation. The events of reconciliations are those of
//! notifications, so both report the same. Writes run in the background, one at a time: if the disk is full or hangs, events
//! wait in memory up to a limit, and the daemon goes on.
//!
//! Never: delay a reconciliation or make it fail, or write a value of a definition.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::notifications::{self, EventKind, ReportedState, Thresholds};
use crate::daemon::log::describe_update;
use crate::daemon::publisher::now;
use crate::daemon::{Approval, HistoryFile, Observer, ReconciliationReport};
use crate::machine;
use crate::model::{Workspace, ellipsize, printable};
use crate::plan::{Change, Digest, Plan, Verdict};
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::reconcile::today;
use crate::report::history::{HistoryEvent, HistoryKind, HistoryWriter, Subject};
use crate::report::json;

/// How many events wait for a disk that does not take them. The oldest ones are dropped.
const MAX_PENDING: usize = 1000;
/// How many paths of one update are kept.
const MAX_PATHS: usize = 20;
/// The longest path, the longest name and the longest sentence, in characters. With them a line stays below the limit.
const MAX_PATH: usize = 120;
const MAX_NAME: usize = 128;
const MAX_SENTENCE: usize = 600;
/// The name of the state in the file of the loop. No notification target can have it.
const STATE: &str = "(history)";

/// Writes the history of one workspace. Without a state directory it does nothing.
#[derive(Debug)]
pub struct WorkspaceHistory {
    name: Option<String>,
    writer: HistoryWriter,
    recorder: Option<Arc<Recorder>>,
    memory: Mutex<HistoryMemory>,
}

/// What was written, so that nothing is repeated after a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HistoryMemory {
    workspace: Option<KnownWorkspace>,
    reported: ReportedState,
    /// The holds in force, by provider: until when, and why.
    held: BTreeMap<String, (String, Option<String>)>,
    /// The last update of each provider that did not succeed, with how many in a row ended like it.
    #[serde(skip)]
    failing: BTreeMap<String, (Vec<Change>, Outcome, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownWorkspace {
    id: String,
    slug: String,
}

impl WorkspaceHistory {
    /// How long the end of a process waits for events that are being written.
    pub const GRACE: Duration = Duration::from_secs(2);

    /// The history of the workspace that the configuration file calls `name`.
    #[must_use]
    pub fn new(directory: Option<&Path>, name: Option<&str>, writer: HistoryWriter) -> Self {
        Self {
            name: name.map(|name| ellipsize(&printable(name), MAX_NAME)),
            writer,
            recorder: directory
                .map(|directory| Arc::new(Recorder::new(directory.to_owned(), writer))),
            memory: Mutex::default(),
        }
    }

    /// An update ended. Only what was sent is an event.
    pub fn record_update(&self, plan: &Plan, result: &UpdateResult) {
        if self.recorder.is_none() || result.sent == 0 {
            return;
        }
        let mut memory = self.memory.lock();
        memory.learn(&plan.workspace);
        let times = memory.count(result);
        // Failures in a row are an event each time their number doubles: the history stays about what changed.
        if !times.is_power_of_two() {
            return;
        }
        let outcome = &result.outcome;
        let paths: Vec<String> = result.changes.iter().map(Change::path).collect();
        let subject = Subject {
            provider: result.provider.to_string(),
            paths: paths
                .iter()
                .take(MAX_PATHS)
                .map(|path| short(path, MAX_PATH))
                .collect(),
            detail: None,
        };
        let event = HistoryEvent {
            cause: Some(result.cause),
            outcome: Some(outcome.into()),
            commit: plan
                .revision
                .as_ref()
                .map(|revision| revision.commit.clone()),
            digest: plan.digest.as_ref().map(Digest::to_string),
            providers: vec![subject],
            times: (times > 1).then_some(times),
            ..self.event(HistoryKind::Update, describe_update(result), now())
        };
        self.push(&memory, vec![event]);
    }

    /// A plan was approved by its digest in a one-shot command.
    pub fn record_approval(&self, plan: &Plan, how: &str) {
        if self.recorder.is_none() {
            return;
        }
        let mut memory = self.memory.lock();
        memory.learn(&plan.workspace);
        let event = HistoryEvent {
            commit: plan
                .revision
                .as_ref()
                .map(|revision| revision.commit.clone()),
            digest: plan.digest.as_ref().map(Digest::to_string),
            ..self.event(
                HistoryKind::Approved,
                format!("the plan was approved with {how}"),
                now(),
            )
        };
        self.push(&memory, vec![event]);
    }

    /// A reconciliation ended. Only the leader writes.
    pub fn record(&self, report: &ReconciliationReport) {
        if self.recorder.is_none() || report.findings.standby {
            return;
        }
        let mut memory = self.memory.lock();
        if let Some(plan) = report.result.plan() {
            memory.learn(&plan.workspace);
        }
        let mut events = Vec::new();
        let began = now().checked_sub(report.took).unwrap_or_else(|_| now());
        match &report.findings.approval {
            Some(Approval::Used(digest)) => events.push(HistoryEvent {
                digest: Some(digest.to_string()),
                // Before its updates, which were written when they ended.
                ..self.event(
                    HistoryKind::Approved,
                    "the plan was approved and is applied",
                    began,
                )
            }),
            Some(Approval::Overrode(digest, overridden)) => events.push(HistoryEvent {
                digest: Some(digest.to_string()),
                reason: Some(short(&overridden.reason, MAX_SENTENCE)),
                ..self.event(
                    HistoryKind::Approved,
                    "the plan was approved in spite of a hold and is applied",
                    began,
                )
            }),
            Some(Approval::Forgotten(digest)) => events.push(HistoryEvent {
                digest: Some(digest.to_string()),
                ..self.event(
                    HistoryKind::Refused,
                    "the approval is void: files or live state have changed since",
                    began,
                )
            }),
            None => {}
        }
        events.extend(self.reported(&mut memory, report));
        if let Some(plan) = report.result.plan() {
            events.extend(self.holds(&mut memory, plan));
        }
        let commit = report.findings.revision.as_ref();
        for event in &mut events {
            event.commit = commit.map(|revision| revision.commit.clone());
        }
        self.push(&memory, events);
    }

    /// The events of notifications that are not written as updates.
    fn reported(
        &self,
        memory: &mut HistoryMemory,
        report: &ReconciliationReport,
    ) -> Vec<HistoryEvent> {
        // The history is about single failures, too.
        let thresholds = Thresholds {
            failed_passes: 1,
            ..Thresholds::default()
        };
        let found = notifications::events(&mut memory.reported, report, &thresholds, today());
        let mut events = Vec::new();
        for mut event in found {
            let kind = match event.kind {
                EventKind::Drift => HistoryKind::Drift,
                EventKind::Failed => HistoryKind::Failed,
                EventKind::Recovered => HistoryKind::Recovered,
                EventKind::Refused => HistoryKind::Refused,
                EventKind::KeyExpiring => HistoryKind::KeyExpiring,
                EventKind::CatalogueChanged => HistoryKind::CatalogueChanged,
                // Each is an update, or a hold that was written when it began.
                EventKind::Applied | EventKind::NotConverged | EventKind::HoldExpiring => continue,
            };
            if kind == HistoryKind::Drift {
                let is_updated = |subject: &Subject| {
                    let mut updates = report.result.updates().iter();
                    updates.any(|one| one.sent > 0 && one.provider.as_str() == subject.provider)
                };
                event.providers.retain(|subject| !is_updated(subject));
                if event.providers.is_empty() && event.more == 0 {
                    continue;
                }
            }
            events.push(HistoryEvent {
                reason: event.reason,
                digest: event.digest,
                providers: event.providers,
                more: event.more,
                ..self.event(kind, event.sentence, now())
            });
        }
        events
    }

    /// Holds that began or ended.
    fn holds(&self, memory: &mut HistoryMemory, plan: &Plan) -> Vec<HistoryEvent> {
        let mut held = BTreeMap::new();
        for entry in &plan.entries {
            if let (Verdict::Held { hold, .. }, Some(provider)) = (&entry.verdict, &entry.provider)
            {
                let reason = hold
                    .reason
                    .as_deref()
                    .map(|reason| short(reason, MAX_SENTENCE));
                held.insert(provider.to_string(), (hold.until.to_string(), reason));
            }
        }
        let before = std::mem::replace(&mut memory.held, held);
        let about = |provider: &str| {
            vec![Subject {
                provider: short(provider, MAX_PATH),
                ..Subject::default()
            }]
        };
        let mut events = Vec::new();
        for (provider, hold) in &memory.held {
            if before.get(provider) != Some(hold) {
                let (until, reason) = hold;
                events.push(HistoryEvent {
                    reason: reason.clone(),
                    providers: about(provider),
                    ..self.event(
                        HistoryKind::Held,
                        format!("{provider} is on hold until {until}"),
                        now(),
                    )
                });
            }
        }
        for provider in before
            .keys()
            .filter(|provider| !memory.held.contains_key(*provider))
        {
            events.push(HistoryEvent {
                providers: about(provider),
                ..self.event(
                    HistoryKind::Released,
                    format!("{provider} is no longer on hold"),
                    now(),
                )
            });
        }
        events
    }

    fn event(
        &self,
        event: HistoryKind,
        message: impl Into<String>,
        time: Timestamp,
    ) -> HistoryEvent {
        HistoryEvent {
            time,
            workspace: String::new(),
            name: self.name.clone(),
            event,
            by: self.writer,
            message: short(&message.into(), MAX_SENTENCE),
            reason: None,
            cause: None,
            outcome: None,
            commit: None,
            digest: None,
            providers: Vec::new(),
            more: 0,
            times: None,
        }
    }

    fn push(&self, memory: &HistoryMemory, events: Vec<HistoryEvent>) {
        if let Some(recorder) = &self.recorder {
            recorder.push(memory.workspace.as_ref(), events);
        }
    }

    /// Waits until everything is written, or cannot be, but not longer than this.
    pub async fn settle(&self, at_most: Duration) {
        if let Some(recorder) = &self.recorder {
            let mut writing = recorder.writing.subscribe();
            // The sender outlives this call.
            let _ = tokio::time::timeout(at_most, writing.wait_for(|writing| !writing)).await;
        }
    }
}

impl Observer for WorkspaceHistory {
    fn restore(&self, known: &Map<String, Value>) {
        // State from an incompatible version is dropped, so its events are written again.
        if let Some(saved) = known.get(STATE)
            && let Ok(saved) = HistoryMemory::deserialize(saved)
        {
            *self.memory.lock() = saved;
        }
    }

    fn state(&self) -> Map<String, Value> {
        if self.recorder.is_none() {
            return Map::new();
        }
        let saved = serde_json::to_value(&*self.memory.lock()).ok();
        saved
            .into_iter()
            .map(|saved| (STATE.to_owned(), saved))
            .collect()
    }
}

impl HistoryMemory {
    fn learn(&mut self, workspace: &Workspace) {
        let known = KnownWorkspace {
            id: workspace.id.clone(),
            slug: workspace.slug.clone(),
        };
        if self.workspace.as_ref() != Some(&known) {
            // Of another workspace nothing was written yet.
            let is_other = self
                .workspace
                .as_ref()
                .is_some_and(|before| before.id != known.id);
            if is_other {
                *self = Self::default();
            }
            self.workspace = Some(known);
        }
    }

    /// How many updates of this provider in a row ended like this one, which is 1 for every success.
    fn count(&mut self, result: &UpdateResult) -> u64 {
        let provider = result.provider.as_str();
        if result.outcome.is_done() {
            self.failing.remove(provider);
            return 1;
        }
        let before = self.failing.get(provider);
        let again = before.filter(|(changes, outcome, _)| {
            (changes, outcome) == (&result.changes, &result.outcome)
        });
        let times = again.map_or(0, |(.., times)| *times).saturating_add(1);
        let entry = (result.changes.clone(), result.outcome.clone(), times);
        self.failing.insert(provider.to_owned(), entry);
        times
    }
}

/// Writes events in the background, one batch at a time.
#[derive(Debug)]
struct Recorder {
    directory: PathBuf,
    writer: HistoryWriter,
    queue: Mutex<RecorderQueue>,
    /// Whether a thread writes.
    writing: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct RecorderQueue {
    /// The events that are not written yet, each with the id of its workspace if that is known.
    pending: VecDeque<(Option<String>, HistoryEvent)>,
    error_logged: bool,
}

impl Recorder {
    fn new(directory: PathBuf, writer: HistoryWriter) -> Self {
        Self {
            directory,
            writer,
            queue: Mutex::default(),
            writing: watch::Sender::new(false),
        }
    }

    fn push(self: &Arc<Self>, workspace: Option<&KnownWorkspace>, events: Vec<HistoryEvent>) {
        let mut queue = self.queue.lock();
        let id = workspace.map(|known| known.id.clone());
        let slug = workspace.map_or_else(String::new, |known| short(&known.slug, MAX_NAME));
        if let Some(id) = &id {
            // What happened before the workspace was read belongs to it.
            for (before, event) in queue
                .pending
                .iter_mut()
                .filter(|(before, _)| before.is_none())
            {
                *before = Some(id.clone());
                event.workspace.clone_from(&slug);
            }
        }
        queue.pending.extend(events.into_iter().map(|mut event| {
            event.workspace.clone_from(&slug);
            (id.clone(), event)
        }));
        let excess = queue.pending.len().saturating_sub(MAX_PENDING);
        queue.pending.drain(..excess);
        let is_due = queue.pending.front().is_some_and(|(id, _)| id.is_some());
        if is_due && !self.writing.send_replace(true) {
            let recorder = Arc::clone(self);
            drop(machine::spawn_blocking(move || recorder.write()));
        }
    }

    /// Writes until nothing is left, or the disk takes nothing.
    fn write(&self) {
        loop {
            let (id, batch) = {
                let mut queue = self.queue.lock();
                let Some((Some(id), _)) = queue.pending.front() else {
                    self.writing.send_replace(false);
                    return;
                };
                let id = id.clone();
                let is_same = |(of, _): &&(Option<String>, HistoryEvent)| of.as_ref() == Some(&id);
                let count = queue.pending.iter().take_while(is_same).count();
                let batch: Vec<_> = queue.pending.drain(..count).collect();
                (id, batch)
            };
            let file = HistoryFile::of(&self.directory, &id);
            let lines = batch
                .iter()
                .map(|(_, event)| json::line(event).trim_end().to_owned());
            let written = file.append(&lines.collect::<Vec<_>>());
            let mut queue = self.queue.lock();
            match written {
                Ok(()) => {
                    if std::mem::take(&mut queue.error_logged) {
                        tracing::info!("the history {} is written again", file.path().display());
                    }
                }
                Err(error) => {
                    for event in batch.into_iter().rev() {
                        queue.pending.push_front(event);
                    }
                    // A daemon without a usable directory has logged that already.
                    let is_known = self.writer == HistoryWriter::Daemon && !self.directory.is_dir();
                    if !is_known && !std::mem::replace(&mut queue.error_logged, true) {
                        tracing::warn!(
                            "cannot write the history {}: {error}; the daemon continues, and events wait in memory",
                            file.path().display()
                        );
                    }
                    self.writing.send_replace(false);
                    return;
                }
            }
        }
    }
}

fn short(text: &str, max: usize) -> String {
    ellipsize(&printable(text), max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::ReconciliationResult;
    use crate::daemon::fixtures::{entry, plan, report};
    use crate::model::{ActiveHold, HoldEnd, HoldScope};
    use crate::reconcile::Failure;

    fn held() -> ReconciliationReport {
        let hold = ActiveHold {
            scope: HoldScope::Provider,
            until: HoldEnd::Day(jiff::civil::date(2099, 12, 31)),
            reason: None,
        };
        let pending = Vec::new();
        let entries = vec![entry(
            "HOSTAWAY",
            Verdict::Held {
                hold,
                pending,
                step: None,
            },
        )];
        report(ReconciliationResult::Observed(plan(entries)))
    }

    fn failed() -> ReconciliationReport {
        report(ReconciliationResult::Failed(Failure::Pin))
    }

    async fn written(history: &WorkspaceHistory, directory: &Path) -> Vec<String> {
        history.settle(Duration::from_secs(60)).await;
        let lines = HistoryFile::of(directory, "a").read().unwrap();
        let events = lines
            .iter()
            .map(|line| serde_json::from_str::<HistoryEvent>(line).unwrap());
        events
            .map(|event| format!("{} {}", event.workspace, event.message))
            .collect()
    }

    #[tokio::test]
    async fn only_the_leader_writes() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = HistoryWriter::Daemon;
        let history = WorkspaceHistory::new(Some(directory.path()), None, daemon);
        let mut standby = held();
        standby.findings.standby = true;
        history.record(&standby);
        assert_eq!(written(&history, directory.path()).await, [""; 0]);
        history.record(&held());
        let on_hold = "acme HOSTAWAY is on hold until 2099-12-31";
        assert_eq!(written(&history, directory.path()).await, [on_hold]);
    }

    #[tokio::test]
    async fn what_happened_before_the_workspace_was_read_is_written_when_it_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = HistoryWriter::Daemon;
        let history = WorkspaceHistory::new(Some(directory.path()), None, daemon);
        history.record(&failed());
        assert_eq!(written(&history, directory.path()).await, [""; 0]);
        history.record(&held());
        let expected = [
            "acme the reconciliation failed",
            "acme reconciliation recovered",
            "acme HOSTAWAY is on hold until 2099-12-31",
        ];
        assert_eq!(written(&history, directory.path()).await, expected);
        // After a restart the workspace is known at once.
        let state = history.state();
        let history = WorkspaceHistory::new(Some(directory.path()), None, daemon);
        history.restore(&state);
        history.record(&held());
        history.record(&failed());
        assert_eq!(written(&history, directory.path()).await.len(), 4);
    }

    #[test]
    fn events_that_cannot_be_written_are_bounded() {
        let history = WorkspaceHistory::new(Some(Path::new("unused")), None, HistoryWriter::Daemon);
        for number in 0..2 * MAX_PENDING {
            let event = history.event(HistoryKind::Failed, number.to_string(), now());
            history.push(&history.memory.lock(), vec![event]);
        }
        let queue = history.recorder.as_ref().unwrap().queue.lock();
        assert_eq!(queue.pending.len(), MAX_PENDING);
        assert_eq!(queue.pending.back().unwrap().1.message, "1999");
    }

    #[tokio::test]
    async fn without_a_state_directory_nothing_is_kept() {
        let history = WorkspaceHistory::new(None, None, HistoryWriter::Daemon);
        history.record(&held());
        assert!(history.state().is_empty());
        history.settle(Duration::from_secs(60)).await;
    }
}
