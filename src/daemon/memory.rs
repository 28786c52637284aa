//! What the daemon remembers between reconciliations: the last applied state, back-offs, and failures in a row. With a state
//! directory, the last applied state and fields that did not converge survive a restart.
//!
//! Never: keep a value below `partnerKey`, or decide whether a visible difference exists.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::LONGEST_PAUSE;
use super::publisher::now;
use super::reconciliation::{ReconciliationReport, ReconciliationResult};
use super::state_file::{LOST_AT_END, Remembered, RememberedField, StateStore};
use super::updates::Updates;
use crate::desired::git::CheckoutTrust;
use crate::model::{DefinitionPart, Desired, Diagnostic, Provider, Secret, Workspace};
use crate::plan::{
    AppliedState, Cause, Change, LastApplied, Mismatch, Plan, Step, Verdict, refusal,
};
use crate::reconcile::Failure;
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::report::status::Trigger;

/// How long to wait for the state file. A file system that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// After how long a standby looks again at what the leader has yet to put right, at first.
const SOON: Duration = Duration::from_secs(5);

/// After how long a provider is tried again whose first attempt failed for a reason that may pass.
const AGAIN: Duration = Duration::from_secs(1);

/// The shortest pause between a reconciliation and a retry.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// So many attempts in a row may fail for such a reason before that is worth a person's attention: half a minute of them.
const BRIEF: u32 = 5;

/// This many updates undone in a row point to another program, not to a person's edits.
pub(super) const CONTESTED: u32 = 3;

/// What one workspace's loop remembers.
#[derive(Debug)]
pub struct Memory {
    state: Arc<StateStore>,
    /// The desired state last applied, or found in place.
    pub(super) applied: AppliedState,
    /// Providers whose last update failed.
    failing: BTreeMap<Provider, Failing>,
    /// The updates that are under way, or were and are not reported yet.
    pub(super) updates: Updates,
    /// The updates of this process that Calry took.
    own: BTreeMap<Provider, Own>,
    /// What Calry took and did not keep, by path. The desired state that it is about is the one last applied.
    kept: BTreeMap<Provider, BTreeMap<String, Kept>>,
    /// Providers whose masked values were sent by one update after the other.
    resent: BTreeMap<Provider, Resent>,
    /// The workspace of the API key that was used last.
    known: Option<(Secret, Workspace)>,
    /// The id of the workspace that everything else here is about.
    home: Option<String>,
    /// Passes that failed as a whole, in a row.
    failures: u32,
    /// Passes of a standby that found something that the leader has yet to put right, in a row.
    behind: u32,
    /// How many passes there were.
    pub(super) passes: u64,
    /// What was last said of each provider that differs and is not changed, so that a quiet pass says nothing.
    pub(super) reported: BTreeMap<Provider, Vec<Change>>,
    /// The problems that were last said.
    pub(super) problems: Vec<Diagnostic>,
    pub(super) trust: Option<CheckoutTrust>,
    /// Reading the definitions that was begun and given up, and hangs as far as anybody knows.
    pub(super) reading: Option<JoinHandle<()>>,
    /// The names of the other workspaces of the configuration that are the same one of Calry.
    pub(super) also: Vec<String>,
    file: SavedState,
    /// Makes the next pass end by a fault.
    #[cfg(test)]
    pub(super) faulty: bool,
}

/// Sync state of the state file.
#[derive(Debug)]
struct SavedState {
    /// The digest of what it holds, as far as this process knows.
    written: Option<[u8; 32]>,
    /// A write that was not waited for.
    writing: Option<JoinHandle<std::io::Result<()>>>,
    /// Whether it was said that it cannot be written.
    told: bool,
}

impl SavedState {
    /// Nothing is written yet. That the directory cannot be used was logged when it was opened.
    fn of(state: &StateStore) -> Self {
        Self {
            written: None,
            writing: None,
            told: !state.is_usable(),
        }
    }
}

/// A growing pause.
#[derive(Clone, Copy, Debug)]
struct Pause {
    failures: u32,
    until: Instant,
    /// The same on the clock, for the next process.
    until_on_clock: Timestamp,
}

#[derive(Debug)]
struct Failing {
    desired: LastApplied,
    pause: Pause,
    why: String,
    kind: FailureKind,
}

/// Why an update failed, as far as that decides when the provider is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// It fails again until something changes.
    Lasting,
    /// It may pass by itself; not before this much time, if Calry asked for that.
    Transient(Duration),
    /// Parts of it cannot be sent, and nothing else failed: what can be sent does not wait.
    Partial,
}

/// An update of this process that Calry took.
#[derive(Clone, Copy, Debug)]
struct Own {
    at: Instant,
    /// How many in a row, this one included, undid what had undone the one before right away.
    contested: u32,
}

/// Updates in a row that sent values which Calry masks, since `updatedAt` had moved after each.
///
/// Such a move says that somebody else may have changed them. An API that moves `updatedAt` by itself looks the same, and
/// would be updated at each interval for ever: so after the second update in a row each pause is twice as long as the one
/// before, up to the longest.
#[derive(Debug)]
struct Resent {
    times: u32,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Kept {
    mismatch: Mismatch,
    cause: Cause,
    pause: Pause,
}

/// A provider whose update did not do.
#[derive(Debug)]
pub struct BackedOff {
    /// How long until it is tried again, unless something else about it changes.
    pub left: Duration,
    /// How the last attempt ended.
    pub outcome: Outcome,
    /// Whether it failed for a reason that may pass by itself, and has not done so for long.
    pub brief: bool,
}

impl Pause {
    fn after(failures: u32, interval: Duration) -> Self {
        Self::of(failures, growing(interval, failures))
    }

    /// After a failure that may pass by itself; `at_least` is what Calry asked for. Not all providers at the same moment.
    fn soon(failures: u32, at_least: Duration) -> Self {
        let pause = growing(AGAIN, failures).mul_f64(0.8 + 0.4 * fastrand::f64());
        Self::of(failures, pause.max(at_least).min(LONGEST_PAUSE))
    }

    fn of(failures: u32, pause: Duration) -> Self {
        let until_on_clock = now().checked_add(pause).unwrap_or(Timestamp::MAX);
        Self {
            failures,
            until: Instant::now() + pause,
            until_on_clock,
        }
    }

    /// A pause that another process began. Whatever its file says, it is no longer than one that begins now.
    fn resumed(failures: u32, until_on_clock: Timestamp, interval: Duration) -> Self {
        let left = Duration::try_from(until_on_clock.duration_since(now())).unwrap_or_default();
        let most = growing(interval, failures);
        if left > most {
            Self::after(failures, interval)
        } else {
            Self {
                failures,
                until: Instant::now() + left,
                until_on_clock,
            }
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Memory {
    /// A memory of nothing.
    #[must_use]
    pub fn new(state: &Arc<StateStore>) -> Self {
        Self {
            trust: None,
            reading: None,
            also: Vec::new(),
            state: Arc::clone(state),
            applied: AppliedState::new(),
            failing: BTreeMap::new(),
            updates: Updates::default(),
            own: BTreeMap::new(),
            kept: BTreeMap::new(),
            resent: BTreeMap::new(),
            known: None,
            home: None,
            failures: 0,
            behind: 0,
            passes: 0,
            reported: BTreeMap::new(),
            problems: Vec::new(),
            file: SavedState::of(state),
            #[cfg(test)]
            faulty: false,
        }
    }

    /// The workspace, where this key was asked before. Another key clears what is known and lets everybody try again.
    pub(super) fn workspace_of(&mut self, key: &Secret) -> Option<Workspace> {
        match &self.known {
            Some((known, workspace)) if known == key => Some(workspace.clone()),
            Some(_) => {
                self.known = None;
                self.failing.clear();
                None
            }
            None => None,
        }
    }

    /// Whether what is remembered may be about another workspace than the key, or is yet to be read: then whose the key is
    /// is to be asked before anything is compared with what was applied.
    pub(super) fn may_be_elsewhere(&self) -> bool {
        self.known.is_none() && (self.home.is_some() || self.state.outlives())
    }

    /// Takes over which workspace the rest is about, and what another process remembered of it. Whether the definitions are
    /// for it is not known yet.
    pub(super) async fn move_to(&mut self, workspace: &Workspace, interval: Duration) {
        if self.home.as_ref() == Some(&workspace.id) {
            return;
        }
        // The last applied state of one workspace says nothing about another.
        self.applied.clear();
        self.failing.clear();
        self.own.clear();
        self.kept.clear();
        self.resent.clear();
        self.file = SavedState::of(&self.state);
        if self.state.outlives() {
            let (state, id) = (Arc::clone(&self.state), workspace.id.clone());
            let loading = tokio::task::spawn_blocking(move || state.load(&id));
            match tokio::time::timeout(PATIENCE, loading).await {
                Ok(Ok(remembered)) => self.take_up(remembered, interval),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!("timed out reading the state file; starting without it")
                }
            }
        }
        self.home = Some(workspace.id.clone());
    }

    fn take_up(&mut self, remembered: BTreeMap<Provider, Remembered>, interval: Duration) {
        if !remembered.is_empty() {
            tracing::info!(
                providers = remembered.len(),
                "remembers what was applied to {} of the providers",
                remembered.len()
            );
        }
        for (provider, Remembered { last_applied, kept }) in remembered {
            let kept: BTreeMap<String, Kept> = kept
                .into_iter()
                .map(|field| {
                    let (cause, pause) = (
                        field.cause(),
                        Pause::resumed(field.failures, field.until, interval),
                    );
                    let mismatch = field.into_mismatch();
                    (
                        mismatch.path.clone(),
                        Kept {
                            mismatch,
                            cause,
                            pause,
                        },
                    )
                })
                .collect();
            if !kept.is_empty() {
                self.kept.insert(provider.clone(), kept);
            }
            self.applied.insert(provider, Arc::new(last_applied));
        }
    }

    /// Takes over the workspace of a key, after the definitions were found to be for it.
    pub(super) fn learn_workspace(&mut self, key: &Secret, workspace: &Workspace) {
        self.home.get_or_insert_with(|| workspace.id.clone());
        self.known = Some((key.clone(), workspace.clone()));
    }

    fn last_applied(&self, desired: &Desired, updated_at: Option<String>) -> LastApplied {
        LastApplied::of(
            desired,
            self.state.key(),
            self.home.as_deref().unwrap_or_default(),
            updated_at,
        )
    }

    /// The providers of a plan that are not to be tried now, each with the reason.
    ///
    /// A failed provider is skipped until its back-off expires or a user requests a reconciliation. One that did not converge
    /// is skipped only if nothing else about it changed: any other field is updated at once, and carries the backed-off
    /// fields along, because an update sends the whole set. A new desired state is tried at once.
    pub(super) fn backed_off_steps(
        &mut self,
        plan: &Plan,
        asked: bool,
    ) -> BTreeMap<Provider, String> {
        let steps: BTreeMap<&Provider, &Step> = plan
            .steps()
            .map(|step| (&step.desired.provider, step))
            .collect();
        self.failing.retain(|provider, failing| {
            !asked
                && steps
                    .get(provider)
                    .is_some_and(|step| failing.desired.matches(&step.desired))
        });
        let applied = &self.applied;
        self.kept.retain(|provider, _| {
            let same = |step: &&Step| {
                applied
                    .get(provider)
                    .is_some_and(|known| known.matches(&step.desired))
            };
            steps.get(provider).is_none_or(same)
        });
        let why = |step: &Step| {
            let provider = &step.desired.provider;
            let (left, why) = match self.failing.get(provider) {
                Some(failing)
                    if failing.kind != FailureKind::Partial || step.sendable().next().is_none() =>
                {
                    (failing.pause.left(), failing.why.clone())
                }
                _ => {
                    let kept = self.kept.get(provider);
                    let resent = self
                        .resent
                        .get(provider)
                        .and_then(|resent| resent.pause.as_ref());
                    let left =
                        |change: &Change| match kept.and_then(|kept| kept.get(&change.path())) {
                            Some(field) => Some(field.pause.left()),
                            None => resent.filter(|_| change.is_masked()).map(Pause::left),
                        };
                    let left = step
                        .sendable()
                        .map(left)
                        .collect::<Option<Vec<_>>>()?
                        .into_iter()
                        .min()?;
                    (
                        left,
                        kept.map_or_else(
                            || MOVES.to_owned(),
                            |kept| not_converged(kept).error().unwrap_or_default(),
                        ),
                    )
                }
            };
            let told = humantime::format_duration(Duration::from_secs(left.as_secs() + 1));
            (!left.is_zero())
                .then(|| format!("tried again in {told} or when its file changes: {why}"))
        };
        steps
            .into_iter()
            .filter_map(|(provider, step)| Some((provider.clone(), why(step)?)))
            .collect()
    }

    /// A provider whose update did not do.
    pub(super) fn back_off_of(&self, provider: &Provider) -> Option<BackedOff> {
        if let Some(Failing {
            pause, why, kind, ..
        }) = self.failing.get(provider)
        {
            let brief = matches!(kind, FailureKind::Transient(_)) && pause.failures <= BRIEF;
            return Some(BackedOff {
                left: pause.left(),
                outcome: Outcome::Failed(why.clone()),
                brief,
            });
        }
        let kept = self.kept.get(provider)?;
        let left = kept.values().map(|field| field.pause.left()).min()?;
        Some(BackedOff {
            left,
            outcome: not_converged(kept),
            brief: false,
        })
    }

    /// All of them.
    pub(super) fn backed_off(&self) -> BTreeMap<Provider, BackedOff> {
        let providers = self.failing.keys().chain(self.kept.keys());
        providers
            .filter_map(|provider| Some((provider.clone(), self.back_off_of(provider)?)))
            .collect()
    }

    /// Takes over what a plan found in place, and forgets what git no longer manages. Of providers other than `only` the plan
    /// says nothing, where there are any.
    pub(super) fn learn_plan(&mut self, plan: &Plan, only: &[Provider], interval: Duration) {
        let managed: Vec<&Provider> = plan
            .entries
            .iter()
            .filter(|entry| !matches!(entry.verdict, Verdict::Unmanaged))
            .filter_map(|entry| entry.provider.as_ref())
            .collect();
        // A file that cannot be read at all may belong to any provider.
        let nameless = plan.entries.iter().any(|entry| entry.provider.is_none());
        let stays = |provider: &Provider| {
            nameless
                || managed.binary_search(&provider).is_ok()
                || !(only.is_empty() || only.contains(provider))
        };
        self.applied.retain(|provider, _| stays(provider));
        self.kept.retain(|provider, _| stays(provider));
        self.own.retain(|provider, _| stays(provider));
        self.resent.retain(|provider, _| stays(provider));
        for entry in &plan.entries {
            if let (Verdict::InSync(..) | Verdict::Update(_), Some(provider)) =
                (&entry.verdict, &entry.provider)
                && !entry.changes().iter().any(Change::is_masked)
            {
                self.resent.remove(provider);
            }
            if let Verdict::InSync(desired, live) = &entry.verdict {
                let last_applied = self.last_applied(desired, Some(live.updated_at.clone()));
                self.kept.remove(&desired.provider);
                // It lasted for as long as drift takes to be found.
                if self
                    .own
                    .get(&desired.provider)
                    .is_some_and(|own| own.at.elapsed() > interval.mul_f64(0.8))
                {
                    self.own.remove(&desired.provider);
                }
                match self.applied.entry(desired.provider.clone()) {
                    MapEntry::Occupied(entry) if **entry.get() == last_applied => {}
                    entry => drop(entry.insert_entry(Arc::new(last_applied))),
                }
            }
        }
    }

    /// Forgets what was applied where git wants something else now: another replica is about to apply that, and whether it
    /// did is not known here before live is found so.
    pub(super) fn leave_to_another(&mut self, plan: &Plan) {
        for step in plan.steps().filter(|step| step.cause == Cause::Change) {
            self.applied.remove(&step.desired.provider);
            self.kept.remove(&step.desired.provider);
        }
    }

    /// Takes over how an update ended.
    pub(super) fn learn_result(&mut self, result: &UpdateResult, interval: Duration) {
        let UpdateResult {
            provider,
            desired,
            changes,
            cause,
            outcome,
            updated_at,
            transient,
            ..
        } = result;
        if result.sent > 0
            && !matches!(outcome, Outcome::Failed(_) | Outcome::Skipped(_))
            && changes.iter().any(Change::is_masked)
        {
            let times = self
                .resent
                .get(provider)
                .map_or(0, |resent| resent.times)
                .saturating_add(1);
            let pause = (times > 1).then(|| Pause::after(times - 1, interval));
            self.resent
                .insert(provider.clone(), Resent { times, pause });
        }
        match outcome {
            Outcome::Applied | Outcome::Unchanged => {
                let last_applied = self.last_applied(desired, updated_at.clone());
                self.applied
                    .insert(provider.clone(), Arc::new(last_applied));
                self.failing.remove(provider);
                self.kept.remove(provider);
                if *outcome == Outcome::Applied {
                    // Two intervals: a reconciliation takes its time, and its beginning is spread.
                    let undone =
                        |own: &&Own| *cause == Cause::Drift && own.at.elapsed() < interval * 2;
                    let contested = self
                        .own
                        .get(provider)
                        .filter(undone)
                        .map_or(0, |own| own.contested + 1);
                    self.own.insert(
                        provider.clone(),
                        Own {
                            at: Instant::now(),
                            contested,
                        },
                    );
                }
            }
            Outcome::Skipped(_) => {}
            Outcome::Failed(why) => {
                let kind = transient.map_or(FailureKind::Lasting, FailureKind::Transient);
                self.learn_failure(desired, why.clone(), kind, interval);
                // The update may have arrived, so the masked values are unknown.
                if result.sent > 0 && changes.iter().any(Change::sensitive) {
                    self.doubt(provider);
                }
            }
            Outcome::Partial(refused) => {
                self.learn_failure(
                    desired,
                    refusal(refused).unwrap_or_default(),
                    FailureKind::Partial,
                    interval,
                );
                let was_refused = |part| refused.iter().any(|refused| refused.part == part);
                // A partner key that was not sent is still the one that was applied before.
                if result.sent > 0 && !was_refused(DefinitionPart::PartnerKey) {
                    self.kept.remove(provider);
                    let mut last_applied = self.last_applied(desired, updated_at.clone());
                    let refused = changes.iter().filter(|change| was_refused(change.part()));
                    last_applied.kept = refused.map(|change| (change.path(), *cause)).collect();
                    self.applied
                        .insert(provider.clone(), Arc::new(last_applied));
                }
            }
            Outcome::NotConverged(mismatches) => {
                self.failing.remove(provider);
                let mut before = self.kept.remove(provider).unwrap_or_default();
                let field = |mismatch: &Mismatch| {
                    let (cause, pause) = match before.remove(&mismatch.path) {
                        // Another field caused the update, which carried this one along: that is no new attempt.
                        Some(Kept { cause, pause, .. }) if !pause.left().is_zero() => {
                            (cause, pause)
                        }
                        Some(Kept { cause, pause, .. }) => (
                            cause,
                            Pause::after(pause.failures.saturating_add(1), interval),
                        ),
                        None => (*cause, Pause::after(1, interval)),
                    };
                    (
                        mismatch.path.clone(),
                        Kept {
                            mismatch: mismatch.clone(),
                            cause,
                            pause,
                        },
                    )
                };
                let kept: BTreeMap<String, Kept> = mismatches.iter().map(field).collect();
                let mut last_applied = self.last_applied(desired, updated_at.clone());
                last_applied.kept = kept
                    .iter()
                    .map(|(path, field)| (path.clone(), field.cause))
                    .collect();
                self.applied
                    .insert(provider.clone(), Arc::new(last_applied));
                self.kept.insert(provider.clone(), kept);
            }
        }
    }

    fn learn_failure(
        &mut self,
        desired: &Desired,
        why: String,
        kind: FailureKind,
        interval: Duration,
    ) {
        let before = self
            .failing
            .get(&desired.provider)
            .map_or(0, |failing| failing.pause.failures);
        let failures = before.saturating_add(1);
        let pause = match kind {
            FailureKind::Transient(at_least) => Pause::soon(failures, at_least),
            FailureKind::Lasting | FailureKind::Partial => Pause::after(failures, interval),
        };
        let last_applied = self.last_applied(desired, None);
        self.failing.insert(
            desired.provider.clone(),
            Failing {
                desired: last_applied,
                pause,
                why,
                kind,
            },
        );
    }

    /// Treats all masked values as unknown: after a panic the outcome of an update may be missing.
    pub(super) fn doubt_all(&mut self) {
        self.applied
            .values_mut()
            .for_each(|known| Arc::make_mut(known).updated_at = None);
    }

    /// Whether all this is about a workspace.
    pub(super) fn is_about(&self, workspace: &Workspace) -> bool {
        self.home.as_ref() == Some(&workspace.id)
    }

    /// How many updates of a provider in a row another writer undid right away.
    pub(super) fn contested_times(&self, provider: &Provider) -> Option<u32> {
        self.own.get(provider).map(|own| own.contested)
    }

    /// The providers whose updates another writer undoes right away, with how many in a row.
    pub(super) fn contested(&self) -> BTreeMap<Provider, u32> {
        let contested = self
            .own
            .iter()
            .filter(|(_, own)| own.contested >= CONTESTED);
        contested
            .map(|(provider, own)| (provider.clone(), own.contested))
            .collect()
    }

    /// Treats the masked values of a provider as unknown.
    pub(super) fn doubt(&mut self, provider: &Provider) {
        if let Some(known) = self.applied.get_mut(provider) {
            Arc::make_mut(known).updated_at = None;
        }
    }

    /// Saves the state file if it changed. Write errors are logged once and never fail a reconciliation.
    pub(super) async fn save(&mut self) {
        let Some(home) = &self.home else { return };
        let Some(path) = self.state.file(home) else {
            return;
        };
        let fields = |provider| {
            let fields = self.kept.get(provider).into_iter().flatten();
            let field = |(
                _,
                Kept {
                    mismatch,
                    cause,
                    pause,
                },
            ): (&String, &Kept)| {
                RememberedField::new(mismatch, *cause, pause.failures, pause.until_on_clock)
            };
            fields.map(field).collect()
        };
        let providers = self
            .applied
            .iter()
            .map(|(provider, last_applied)| (provider, &**last_applied, fields(provider)));
        let document = self.state.document(home, providers);
        let digest: [u8; 32] = Sha256::digest(&document).into();
        if self.file.written == Some(digest)
            || self
                .file
                .writing
                .as_ref()
                .is_some_and(|write| !write.is_finished())
        {
            return;
        }
        let shown = path.display().to_string();
        let state = Arc::clone(&self.state);
        let mut writing = tokio::task::spawn_blocking(move || state.write(&path, &document));
        let error = match tokio::time::timeout(PATIENCE, &mut writing).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(_)) => Some("the write panicked".to_owned()),
            Err(_) => {
                self.file.writing = Some(writing);
                Some("the file system does not answer".to_owned())
            }
        };
        self.file.written = error.is_none().then_some(digest);
        match error {
            Some(error) if !self.file.told => {
                tracing::warn!(
                    "cannot write the state file {shown}: {error}; {LOST_AT_END}, until it can be written"
                );
                self.file.told = true;
            }
            None if self.file.told => {
                tracing::info!("the state file {shown} can be written again");
                self.file.told = false;
            }
            _ => {}
        }
    }

    /// How long to wait after a pass, and what it is that comes then: the interval with jitter, and growing after passes that
    /// failed as a whole, unless a provider is to be tried again before that. A standby that saw something differ looks soon
    /// whether the leader has put it right, and less and less often.
    pub(super) fn pause(
        &mut self,
        interval: Duration,
        report: &ReconciliationReport,
    ) -> (Duration, Trigger) {
        if matches!(report.result, ReconciliationResult::Failed(_)) {
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        let differs = report
            .result
            .plan()
            .is_some_and(|plan| plan.steps().next().is_some());
        self.behind = if report.findings.standby && differs {
            self.behind.saturating_add(1)
        } else {
            0
        };
        let pause = match (self.failures, self.behind) {
            (0, 0) => interval,
            (0, behind) => growing(SOON, behind).min(interval),
            (failures, _) => growing(interval, failures),
        };
        // Jitter of 10 %, so that many daemons do not send requests at the same moment.
        let spread = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
        let pause = if self.failures == 0 {
            spread
        } else {
            spread.min(LONGEST_PAUSE.max(interval))
        };
        // Never earlier than Calry's Retry-After.
        let pause = pause.max(asked_to_wait(report).min(LONGEST_PAUSE));
        // A plan that was not carried out left those out that are to be tried again, too.
        let tried = matches!(report.result, ReconciliationResult::Applied(..));
        let due = self
            .failing
            .iter()
            .filter(|(provider, _)| tried && !self.updates.is_busy(provider));
        match due
            .map(|(_, failing)| failing.pause.left().max(SHORTEST_PAUSE))
            .min()
        {
            Some(due) if due < pause => (due, Trigger::Update),
            _ => (pause, Trigger::Interval),
        }
    }
}

/// How long Calry asked to wait, by the error that a pass failed of.
fn asked_to_wait(report: &ReconciliationReport) -> Duration {
    match &report.result {
        ReconciliationResult::Failed(Failure::Remote(error)) => {
            error.retry_after().unwrap_or_default()
        }
        _ => Duration::ZERO,
    }
}

/// Why values that Calry masks are not sent again for a while.
const MOVES: &str = "Calry masks these values, and updatedAt moves after each update, so that they are sent less and less often";

fn not_converged(kept: &BTreeMap<String, Kept>) -> Outcome {
    Outcome::NotConverged(kept.values().map(|field| field.mismatch.clone()).collect())
}

/// The interval, doubled with each failure but the first, to at most five minutes (or the interval, where that is longer).
fn growing(interval: Duration, failures: u32) -> Duration {
    let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(16));
    interval
        .saturating_mul(factor)
        .min(LONGEST_PAUSE.max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Live, LiveProblems, LiveValue};

    #[test]
    fn a_failing_pass_waits_longer_each_time_and_five_minutes_at_most() {
        let minute = Duration::from_secs(60);
        let pauses: Vec<u64> = (1..=5).map(|n| growing(minute, n).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 300, 300]);
        assert_eq!(growing(Duration::from_secs(900), 7).as_secs(), 900);
        assert_eq!(growing(Duration::from_secs(1), u32::MAX).as_secs(), 300);
    }

    fn memory() -> Memory {
        Memory::new(&Arc::new(StateStore::in_process().unwrap()))
    }

    fn desired() -> Arc<Desired> {
        Arc::new(Desired {
            provider: Provider::parse("HOSTAWAY").unwrap(),
            icon: None,
            partner_key: crate::model::DesiredPartnerKey::default(),
            fields: BTreeMap::new(),
            hold: None,
        })
    }

    #[tokio::test]
    async fn what_was_applied_to_one_workspace_is_not_taken_for_applied_to_another() {
        let workspace = |id: &str| Workspace {
            id: id.to_owned(),
            name: String::new(),
            slug: String::new(),
        };
        let (mut memory, desired, second) = (memory(), desired(), Duration::from_secs(1));
        memory.learn_workspace(&Secret::new("one"), &workspace("a"));
        memory.applied.insert(
            desired.provider.clone(),
            Arc::new(memory.last_applied(&desired, None)),
        );
        assert!(memory.workspace_of(&Secret::new("two")).is_none() && memory.may_be_elsewhere());
        memory.move_to(&workspace("a"), second).await;
        assert_eq!(
            memory.applied.len(),
            1,
            "a rotated key of the same workspace"
        );
        memory.move_to(&workspace("b"), second).await;
        assert!(memory.applied.is_empty());
    }

    /// Takes over that Calry kept these fields as they were.
    fn keeps(memory: &mut Memory, paths: &[&str]) {
        let mismatch = |path: &&str| Mismatch {
            path: (*path).to_owned(),
            sent: crate::plan::Value::Bool(true),
            kept: crate::plan::Value::None,
            sensitive: false,
        };
        let result = UpdateResult {
            provider: Provider::parse("HOSTAWAY").unwrap(),
            desired: desired(),
            changes: Vec::new(),
            cause: Cause::Change,
            outcome: Outcome::NotConverged(paths.iter().map(mismatch).collect()),
            sent: 1,
            updated_at: None,
            transient: None,
            took: Duration::ZERO,
        };
        memory.learn_result(&result, Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_field_that_is_carried_along_keeps_its_pause_and_one_that_is_tried_again_has_a_longer_one()
     {
        let mut memory = memory();
        let left = |memory: &Memory| -> Vec<(String, u64)> {
            let fields = memory.kept.values().flatten();
            fields
                .map(|(path, field)| (path.clone(), field.pause.left().as_secs()))
                .collect()
        };
        let is = |fields: &[(&str, u64)]| {
            fields
                .iter()
                .map(|(f, s)| ((*f).to_owned(), *s))
                .collect::<Vec<_>>()
        };
        keeps(&mut memory, &["a"]);
        tokio::time::advance(Duration::from_secs(4)).await;
        keeps(&mut memory, &["a", "b"]);
        assert_eq!(left(&memory), is(&[("a", 6), ("b", 10)]));
        tokio::time::advance(Duration::from_secs(7)).await;
        keeps(&mut memory, &["a", "b"]);
        assert_eq!(left(&memory), is(&[("a", 20), ("b", 3)]));
        keeps(&mut memory, &["b"]);
        assert_eq!(left(&memory), is(&[("b", 3)]));
    }

    /// A header that git manages and Calry masks, and an icon.
    fn keyed() -> Arc<Desired> {
        let template = crate::model::Template::parse("value").unwrap();
        let value = crate::model::DesiredValue {
            template,
            value: Some(Secret::new("value")),
        };
        let mut desired = Arc::unwrap_or_clone(desired());
        desired.partner_key.headers = Some(BTreeMap::from([("x-key".to_owned(), value)]));
        desired.icon = Some(crate::model::Icon::parse("https://e.com/icon").unwrap());
        Arc::new(desired)
    }

    fn masked(updated_at: &str) -> Live {
        let values = BTreeMap::from([("x-key".to_owned(), LiveValue::Mask)]);
        Live {
            id: "id".to_owned(),
            name: String::new(),
            provider: desired().provider.clone(),
            icon: Some("https://e.com/icon".to_owned()),
            partner_key: crate::model::PartnerKey {
                headers: Some(values),
                query_params: None,
            },
            fields: BTreeMap::new(),
            updated_at: updated_at.to_owned(),
            problems: LiveProblems::default(),
        }
    }

    /// Plans `keyed` as the daemon does, and learns of it what it does.
    fn planned(memory: &mut Memory, live: Live) -> Plan {
        let workspace = Workspace {
            id: "w".to_owned(),
            name: String::new(),
            slug: String::new(),
        };
        memory.home.get_or_insert_with(|| workspace.id.clone());
        let (desired, today) = (keyed(), jiff::civil::date(2026, 1, 1));
        let file = crate::plan::PlanInput {
            file: "hostaway.yaml".to_owned(),
            provider: Some(desired.provider.clone()),
            desired: Some(desired),
        };
        let method = crate::model::UpdateMethod::Patch;
        let context = crate::plan::Context {
            today,
            method,
            applied: &memory.applied,
            base: None,
        };
        let plan = crate::plan::plan(workspace, None, [file], [live], &[], context);
        memory.learn_plan(&plan, &[], Duration::from_secs(60));
        plan
    }

    /// Takes over how the update of a plan ended; `None` if it is backed off or nothing is due.
    fn carried_out(
        memory: &mut Memory,
        plan: &Plan,
        outcome: Outcome,
        updated_at: &str,
    ) -> Option<u32> {
        let skip = memory.backed_off_steps(plan, false);
        let step = plan
            .steps()
            .next()
            .filter(|step| !skip.contains_key(&step.desired.provider))?;
        let sent = u32::from(step.payload.update.is_some());
        let result = UpdateResult {
            transient: None,
            provider: step.desired.provider.clone(),
            desired: Arc::clone(&step.desired),
            changes: step.changes.clone(),
            cause: step.cause,
            outcome,
            sent,
            updated_at: Some(updated_at.to_owned()),
            took: Duration::ZERO,
        };
        memory.learn_result(&result, Duration::from_secs(10));
        Some(sent)
    }

    #[tokio::test(start_paused = true)]
    async fn a_masked_value_is_sent_once_if_updated_at_was_moved_by_somebody_else() {
        let mut memory = memory();
        let mut sent = Vec::new();
        for (live, own) in [
            ("0", "1"),
            ("1", "-"),
            ("1", "-"),
            ("2", "3"),
            ("3", "-"),
            ("4", "5"),
            ("5", "-"),
        ] {
            let plan = planned(&mut memory, masked(live));
            sent.push(carried_out(&mut memory, &plan, Outcome::Applied, own).is_some());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(sent, [true, false, false, true, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_moves_updated_at_by_itself_is_updated_less_and_less_often() {
        let mut memory = memory();
        let mut sent = Vec::new();
        for n in 0..100 {
            let plan = planned(&mut memory, masked(&format!("read {n}")));
            if carried_out(&mut memory, &plan, Outcome::Applied, &format!("own {n}")).is_some() {
                sent.push(n);
            }
            tokio::time::advance(Duration::from_millis(10_001)).await;
        }
        assert_eq!(sent, [0, 1, 2, 4, 8, 16, 32, 62, 92]);
        // A change of git does not wait for that; one read without a move ends it.
        let mut live = masked("moved");
        live.icon = None;
        let plan = planned(&mut memory, live);
        assert!(carried_out(&mut memory, &plan, Outcome::Applied, "stands").is_some());
        let plan = planned(&mut memory, masked("stands"));
        assert!(carried_out(&mut memory, &plan, Outcome::Applied, "-").is_none());
        let plan = planned(&mut memory, masked("moved again"));
        assert!(carried_out(&mut memory, &plan, Outcome::Applied, "-").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn parts_that_cannot_be_sent_rest_and_hold_no_other_part_back() {
        let mut memory = memory();
        let strange = |icon: Option<&str>| {
            let mut live = masked("0");
            live.icon = icon.map(str::to_owned);
            live.problems.unknown_section = Some("`partnerKey.cookies` is unknown".to_owned());
            live
        };
        let partial =
            |plan: &Plan| Outcome::Partial(plan.steps().next().unwrap().payload.refused.clone());
        // The icon is sent, the partner key is not.
        let plan = planned(&mut memory, strange(None));
        let outcome = partial(&plan);
        assert_eq!(carried_out(&mut memory, &plan, outcome, "1"), Some(1));
        assert!(
            !memory.applied.contains_key(&keyed().provider),
            "the partner key was not applied"
        );
        // Now nothing can be sent, and it is backed off.
        let plan = planned(&mut memory, strange(Some("https://e.com/icon")));
        assert_eq!(carried_out(&mut memory, &plan, partial(&plan), "1"), None);
        assert!(
            matches!(memory.back_off_of(&keyed().provider), Some(BackedOff { outcome: Outcome::Failed(why), .. }) if why.contains("cookies"))
        );
        // What can be sent does not rest.
        let plan = planned(&mut memory, strange(Some("https://e.com/a-click")));
        assert_eq!(
            carried_out(&mut memory, &plan, partial(&plan), "2"),
            Some(1)
        );
        // It is tried again after a while, which sends nothing, and at once when nothing is in the way any more.
        tokio::time::advance(Duration::from_secs(21)).await;
        let plan = planned(&mut memory, strange(Some("https://e.com/icon")));
        assert_eq!(
            carried_out(&mut memory, &plan, partial(&plan), "2"),
            Some(0)
        );
        let plan = planned(&mut memory, masked("3"));
        assert_eq!(
            carried_out(&mut memory, &plan, Outcome::Applied, "4"),
            Some(1)
        );
        assert!(memory.back_off_of(&keyed().provider).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_partner_key_that_was_sent_beside_a_part_that_cannot_be_is_not_sent_again() {
        let mut memory = memory();
        let strange = |updated_at| {
            let mut live = masked(updated_at);
            live.problems.icon = Some("`icon` is not a text".to_owned());
            live
        };
        let plan = planned(&mut memory, strange("0"));
        let refused = plan.steps().next().unwrap().payload.refused.clone();
        assert_eq!(
            refused
                .iter()
                .map(|refused| refused.part)
                .collect::<Vec<_>>(),
            [DefinitionPart::Icon]
        );
        assert_eq!(
            carried_out(&mut memory, &plan, Outcome::Partial(refused), "1"),
            Some(1)
        );
        let plan = planned(&mut memory, strange("1"));
        assert!(
            matches!(plan.entries[0].verdict, Verdict::Unreadable(_)),
            "{plan:?}"
        );
    }

    #[test]
    fn a_pause_that_a_file_tells_of_is_no_longer_than_one_that_begins_now() {
        let interval = Duration::from_secs(60);
        let left = |failures, until| {
            Pause::resumed(failures, until, interval)
                .left()
                .as_secs_f64()
                .round()
        };
        assert_eq!(left(1, Timestamp::MAX), 60.0);
        assert_eq!(left(u32::MAX, Timestamp::MAX), 300.0);
        assert_eq!(left(9, Timestamp::MIN), 0.0);
        assert_eq!(left(9, now() + Duration::from_secs(100)), 100.0);
    }
}
