//! What the daemon remembers between reconciliations: the last applied state, back-offs, and failures in a row. With a state
//! directory, the last applied state and fields that did not converge survive a restart.
//!
//! Never: keep a value below `partnerKey`, or decide whether a visible difference exists.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::UpdateListener;
use super::pause::{LONGEST_PAUSE, growing, spread};
use super::publisher::now;
use super::reconciliation::{
    KeyFindings, ReconciliationReport, ReconciliationResult, WorkspaceRules,
};
use super::state_file::{LOST_AT_END, PATIENCE, Remembered, RememberedField, StateStore};
use super::updates::Updates;
use crate::desired::git::CheckoutTrust;
use crate::live::{ApiKey, ExpiryError, KeyError};
use crate::machine;
use crate::model::{
    DefinitionPart, Desired, Diagnostic, KeyExpiry, KeyStage, Provider, Secret, Workspace,
};
use crate::plan::{
    AppliedState, Cause, Change, LastApplied, Mismatch, Plan, Step, Verdict, Violation, refusal,
};
use crate::reconcile::Failure;
use crate::reconcile::apply::{Outcome, UpdateResult};
use crate::report::status::Trigger;

/// The first pause of a standby that found differences which the leader has not undone yet.
const STANDBY_PAUSE: Duration = Duration::from_secs(5);

/// The pause after the first transient failure of a provider.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The shortest pause between a reconciliation and a retry.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// How many transient failures in a row are brief: half a minute of them. After that a person should know.
const MAX_BRIEF_FAILURES: u32 = 5;

/// This many updates undone in a row point to another program, not to a person's edits.
pub(super) const CONTESTED: u32 = 3;

#[derive(Debug)]
pub struct Memory {
    state: Arc<StateStore>,
    /// The desired state last applied, or found in place.
    pub(super) applied: AppliedState,
    /// Providers whose last update failed.
    failing: BTreeMap<Provider, FailedUpdate>,
    /// Running updates, and finished ones that were not reported yet.
    pub(super) updates: Updates,
    pub(super) update_listener: Option<UpdateListener>,
    /// The updates of this process that Calry confirmed.
    own: BTreeMap<Provider, OwnUpdate>,
    /// Fields for which Calry kept other values, by path. They belong to the last applied state.
    kept: BTreeMap<Provider, BTreeMap<String, UnconvergedField>>,
    /// Providers whose masked values were sent by each of the last updates.
    resent: BTreeMap<Provider, RepeatedSends>,
    /// The workspace of the API key that was used last.
    known: Option<(Secret, Workspace)>,
    /// The id of the workspace that the rest belongs to.
    workspace_id: Option<String>,
    /// How many reconciliations have failed in a row.
    failures: u32,
    /// How many reconciliations of a standby in a row found differences that the leader has not undone.
    behind: u32,
    pub(super) passes: u64,
    /// The reported differences that are not updated, so that they are reported once.
    pub(super) reported: BTreeMap<Provider, Vec<Change>>,
    /// The reported problems of the files.
    pub(super) problems: Vec<Diagnostic>,
    /// The reported violations of policies.
    pub(super) violations: Vec<Violation>,
    pub(super) trust: Option<CheckoutTrust>,
    /// What was reported about the end of the API key: its days left if they are few, or why it is unknown.
    key_news: Option<Result<(KeyExpiry, i32), ExpiryError>>,
    /// A read of the definitions that was given up and may still hang.
    pub(super) reading: Option<JoinHandle<()>>,
    /// What `workspace.yaml` said when it was last read.
    pub(super) rules: Option<WorkspaceRules>,
    /// The names of other entries of the configuration with the same Calry workspace.
    pub(super) also: Vec<String>,
    file: SavedState,
    /// Makes the next reconciliation panic.
    #[cfg(test)]
    pub(super) faulty: bool,
}

/// Sync state of the state file.
#[derive(Debug)]
struct SavedState {
    /// The digest of its content, as far as this process knows.
    written: Option<[u8; 32]>,
    /// A write that hangs.
    writing: Option<JoinHandle<std::io::Result<()>>>,
    error_logged: bool,
}

impl SavedState {
    /// An unusable directory was logged when it was opened.
    fn of(state: &StateStore) -> Self {
        Self {
            written: None,
            writing: None,
            error_logged: !state.is_usable(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    failures: u32,
    until: Instant,
    /// The same by the wall clock, for the next process.
    until_on_clock: Timestamp,
}

#[derive(Debug)]
struct FailedUpdate {
    desired: LastApplied,
    pause: Pause,
    why: String,
    kind: FailureKind,
}

/// How an update failed: it decides the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// It will fail again until something changes.
    Lasting,
    /// It may succeed later, but not before this pause, which Calry asked for.
    Transient(Duration),
    /// Some parts cannot be sent; the others do not wait for them.
    Partial,
}

#[derive(Clone, Copy, Debug)]
struct OwnUpdate {
    at: Instant,
    /// How many updates in a row, this one included, followed another writer that undid the one before right away.
    contested: u32,
}

/// Updates in a row that sent masked values, because `updatedAt` had changed after each.
///
/// A changed `updatedAt` means that another writer may have changed them. An API that changes `updatedAt` by itself looks
/// the same and would be updated at each interval for ever. So from the second update in a row on, each pause is twice as
/// long as the one before, up to the longest pause.
#[derive(Debug)]
struct RepeatedSends {
    times: u32,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct UnconvergedField {
    mismatch: Mismatch,
    cause: Cause,
    pause: Pause,
}

/// A provider whose update failed or did not converge.
#[derive(Debug)]
pub struct BackedOff {
    /// The time until the next attempt, unless something else about it changes.
    pub left: Duration,
    pub outcome: Outcome,
    /// Whether its failures are transient and few.
    pub brief: bool,
}

impl Pause {
    fn after(failures: u32, interval: Duration) -> Self {
        Self::of(failures, growing(interval, failures))
    }

    /// The pause after a transient failure, with jitter; Calry asked for `at_least`.
    fn after_transient(failures: u32, at_least: Duration) -> Self {
        let pause = growing(RETRY_PAUSE, failures).mul_f64(0.8 + 0.4 * fastrand::f64());
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

    /// A pause of an earlier process. Whatever the file says, it is at most as long as one that begins now.
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
    #[must_use]
    pub fn new(state: &Arc<StateStore>) -> Self {
        Self {
            trust: None,
            key_news: None,
            reading: None,
            rules: None,
            also: Vec::new(),
            state: Arc::clone(state),
            applied: AppliedState::new(),
            failing: BTreeMap::new(),
            updates: Updates::default(),
            update_listener: None,
            own: BTreeMap::new(),
            kept: BTreeMap::new(),
            resent: BTreeMap::new(),
            known: None,
            workspace_id: None,
            failures: 0,
            behind: 0,
            passes: 0,
            reported: BTreeMap::new(),
            problems: Vec::new(),
            violations: Vec::new(),
            file: SavedState::of(state),
            #[cfg(test)]
            faulty: false,
        }
    }

    /// Finds out what to report about the end of the key: each day once, if few are left.
    pub(super) fn learn_key_expiry(
        &mut self,
        key: &Result<ApiKey, KeyError>,
        expiry: Result<Option<KeyExpiry>, ExpiryError>,
        today: Date,
    ) -> KeyFindings {
        let news = match &expiry {
            Ok(Some(expiry)) if expiry.stage(today) != KeyStage::Fresh => {
                Some(Ok((*expiry, expiry.days_left(today))))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error.clone())),
        };
        let is_news = news.is_some() && news != self.key_news;
        self.key_news = news;
        let source = key.as_ref().map(|key| key.source().to_owned());
        KeyFindings {
            is_read: true,
            source: source.unwrap_or_default(),
            error: expiry.as_ref().err().map(ToString::to_string),
            expiry: expiry.ok().flatten(),
            is_news,
        }
    }

    /// The workspace of this key, if it is known. A new key clears it and ends the back-off of all providers.
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

    /// Whether the memory may belong to another workspace than the key, or must still be loaded. Then the workspace of the
    /// key must be read before anything is compared with the last applied state.
    pub(super) fn may_be_of_another_workspace(&self) -> bool {
        self.known.is_none() && (self.workspace_id.is_some() || self.state.directory().is_some())
    }

    /// Clears the memory if it belongs to another workspace, and loads the state file of this one. It is not checked yet
    /// whether the definitions are for it.
    pub(super) async fn move_to(&mut self, workspace: &Workspace, interval: Duration) {
        if self.workspace_id.as_ref() == Some(&workspace.id) {
            return;
        }
        // The last applied state belongs to one workspace.
        self.applied.clear();
        self.failing.clear();
        self.own.clear();
        self.kept.clear();
        self.resent.clear();
        self.file = SavedState::of(&self.state);
        if self.state.directory().is_some() {
            let (state, id) = (Arc::clone(&self.state), workspace.id.clone());
            let loading = machine::spawn_blocking(move || state.load(&id));
            match tokio::time::timeout(PATIENCE, loading).await {
                Ok(Ok(remembered)) => self.restore(remembered, interval),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!("timed out reading the state file; starting without it")
                }
            }
        }
        self.workspace_id = Some(workspace.id.clone());
    }

    fn restore(&mut self, remembered: BTreeMap<Provider, Remembered>, interval: Duration) {
        if !remembered.is_empty() {
            tracing::info!(
                providers = remembered.len(),
                "loaded the last applied state of {} providers",
                remembered.len()
            );
        }
        for (provider, Remembered { last_applied, kept }) in remembered {
            let kept: BTreeMap<String, UnconvergedField> = kept
                .into_iter()
                .map(|field| {
                    let kept = UnconvergedField {
                        mismatch: field.mismatch,
                        cause: field.cause,
                        pause: Pause::resumed(field.failures, field.until, interval),
                    };
                    (kept.mismatch.path.clone(), kept)
                })
                .collect();
            if !kept.is_empty() {
                self.kept.insert(provider.clone(), kept);
            }
            self.applied.insert(provider, Arc::new(last_applied));
        }
    }

    /// Remembers the workspace of a key. The definitions must be for it.
    pub(super) fn learn_workspace(&mut self, key: &Secret, workspace: &Workspace) {
        self.workspace_id
            .get_or_insert_with(|| workspace.id.clone());
        self.known = Some((key.clone(), workspace.clone()));
    }

    fn last_applied(&self, desired: &Desired, updated_at: Option<String>) -> LastApplied {
        LastApplied::of(
            desired,
            self.state.key(),
            self.workspace_id.as_deref().unwrap_or_default(),
            updated_at,
        )
    }

    /// The providers of a plan that are skipped now, each with the reason.
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
                    let left: Option<Vec<Duration>> = step.sendable().map(left).collect();
                    let why = kept.and_then(|kept| not_converged(kept).error());
                    (
                        left?.into_iter().min()?,
                        why.unwrap_or_else(|| UPDATED_AT_CHANGES.to_owned()),
                    )
                }
            };
            let pause = humantime::format_duration(Duration::from_secs(left.as_secs() + 1));
            (!left.is_zero())
                .then(|| format!("next attempt in {pause} or when its file changes: {why}"))
        };
        steps
            .into_iter()
            .filter_map(|(provider, step)| Some((provider.clone(), why(step)?)))
            .collect()
    }

    /// A provider whose update failed or did not converge.
    pub(super) fn back_off_of(&self, provider: &Provider) -> Option<BackedOff> {
        if let Some(FailedUpdate {
            pause, why, kind, ..
        }) = self.failing.get(provider)
        {
            return Some(BackedOff {
                left: pause.left(),
                outcome: Outcome::Failed(why.clone()),
                brief: matches!(kind, FailureKind::Transient(_))
                    && pause.failures <= MAX_BRIEF_FAILURES,
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

    pub(super) fn backed_off(&self) -> BTreeMap<Provider, BackedOff> {
        let providers = self.failing.keys().chain(self.kept.keys());
        providers
            .filter_map(|provider| Some((provider.clone(), self.back_off_of(provider)?)))
            .collect()
    }

    /// Learns which providers are in sync, and forgets those that git no longer manages. If `only` is not empty, the plan does
    /// not cover the others.
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
                // It was not undone within the time in which drift is found.
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

    /// Forgets the last applied state of providers that git changed: the leader is about to apply the change, and this replica
    /// knows the result only when it finds them in sync.
    pub(super) fn leave_to_leader(&mut self, plan: &Plan) {
        for step in plan.steps().filter(|step| step.cause == Cause::Change) {
            self.applied.remove(&step.desired.provider);
            self.kept.remove(&step.desired.provider);
        }
    }

    /// Learns from the result of an update.
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
                .insert(provider.clone(), RepeatedSends { times, pause });
        }
        match outcome {
            Outcome::Applied | Outcome::Unchanged => {
                let last_applied = self.last_applied(desired, updated_at.clone());
                self.applied
                    .insert(provider.clone(), Arc::new(last_applied));
                self.failing.remove(provider);
                self.kept.remove(provider);
                if *outcome == Outcome::Applied {
                    // Two intervals: a reconciliation takes time, and its start has jitter.
                    let undone = |own: &&OwnUpdate| {
                        *cause == Cause::Drift && own.at.elapsed() < interval * 2
                    };
                    let contested = self
                        .own
                        .get(provider)
                        .filter(undone)
                        .map_or(0, |own| own.contested + 1);
                    self.own.insert(
                        provider.clone(),
                        OwnUpdate {
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
                let why = refusal(refused).unwrap_or_default();
                self.learn_failure(desired, why, FailureKind::Partial, interval);
                let was_refused = |part| refused.iter().any(|refused| refused.part == part);
                // If the partner key was not sent, the one applied before is still live.
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
                        // Another field caused the update, which only carried this one along. It does not count as an attempt.
                        Some(kept) if !kept.pause.left().is_zero() => (kept.cause, kept.pause),
                        Some(kept) => {
                            let failures = kept.pause.failures.saturating_add(1);
                            (kept.cause, Pause::after(failures, interval))
                        }
                        None => (*cause, Pause::after(1, interval)),
                    };
                    let kept = UnconvergedField {
                        mismatch: mismatch.clone(),
                        cause,
                        pause,
                    };
                    (mismatch.path.clone(), kept)
                };
                let kept: BTreeMap<String, UnconvergedField> =
                    mismatches.iter().map(field).collect();
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
        let before = self.failing.get(&desired.provider);
        let failures = before.map_or(1, |failing| failing.pause.failures.saturating_add(1));
        let pause = match kind {
            FailureKind::Transient(at_least) => Pause::after_transient(failures, at_least),
            FailureKind::Lasting | FailureKind::Partial => Pause::after(failures, interval),
        };
        let failed = FailedUpdate {
            desired: self.last_applied(desired, None),
            pause,
            why,
            kind,
        };
        self.failing.insert(desired.provider.clone(), failed);
    }

    /// Treats all masked values as unknown: after a panic the outcome of an update may be missing.
    pub(super) fn doubt_all(&mut self) {
        self.applied
            .values_mut()
            .for_each(|known| Arc::make_mut(known).updated_at = None);
    }

    pub(super) fn is_about(&self, workspace: &Workspace) -> bool {
        self.workspace_id.as_ref() == Some(&workspace.id)
    }

    /// How many updates of a provider in a row another writer undid right away.
    pub(super) fn contested_times(&self, provider: &Provider) -> Option<u32> {
        self.own.get(provider).map(|own| own.contested)
    }

    /// The providers whose updates another writer undoes right away, with how many in a row.
    pub(super) fn contested(&self) -> BTreeMap<Provider, u32> {
        self.own
            .iter()
            .filter(|(_, own)| own.contested >= CONTESTED)
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
        let Some(workspace) = &self.workspace_id else {
            return;
        };
        let Some(path) = self.state.file(workspace) else {
            return;
        };
        let field = |kept: &UnconvergedField| RememberedField {
            mismatch: kept.mismatch.clone(),
            cause: kept.cause,
            failures: kept.pause.failures,
            until: kept.pause.until_on_clock,
        };
        let fields = |provider| {
            let kept = self.kept.get(provider).into_iter();
            kept.flat_map(BTreeMap::values).map(field).collect()
        };
        let providers = self
            .applied
            .iter()
            .map(|(provider, last_applied)| (provider, &**last_applied, fields(provider)));
        let document = self.state.document(workspace, providers);
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
        let mut writing = machine::spawn_blocking(move || state.write(&path, &document));
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
            Some(error) if !self.file.error_logged => {
                tracing::warn!("cannot write the state file {shown}: {error}; {LOST_AT_END}");
                self.file.error_logged = true;
            }
            None if self.file.error_logged => {
                tracing::info!("the state file {shown} can be written again");
                self.file.error_logged = false;
            }
            _ => {}
        }
    }

    /// The pause after a reconciliation and the trigger of the next one: the interval with jitter, growing after failures,
    /// unless a provider is retried earlier. A standby that found differences checks soon, and then less and less often,
    /// whether the leader has undone them.
    pub(super) fn next_pause(
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
            (0, behind) => growing(STANDBY_PAUSE, behind).min(interval),
            (failures, _) => growing(interval, failures),
        };
        let spread = spread(pause);
        let pause = if self.failures == 0 {
            spread
        } else {
            spread.min(LONGEST_PAUSE.max(interval))
        };
        let pause = match &report.result {
            // Never earlier than Calry's Retry-After.
            ReconciliationResult::Failed(Failure::Remote(error)) => {
                pause.max(error.retry_after().unwrap_or_default().min(LONGEST_PAUSE))
            }
            _ => pause,
        };
        // A plan that was not applied has not retried any provider.
        let tried = matches!(report.result, ReconciliationResult::Applied(..));
        let due = self
            .failing
            .iter()
            .filter(|(provider, _)| tried && !self.updates.is_busy(provider))
            .map(|(_, failing)| failing.pause.left().max(SHORTEST_PAUSE));
        match due.min() {
            Some(due) if due < pause => (due, Trigger::Update),
            _ => (pause, Trigger::Interval),
        }
    }
}

/// Why masked values are not sent again for a while.
const UPDATED_AT_CHANGES: &str = "Calry masks these values, and updatedAt changes after each update; so they are sent less and less often";

fn not_converged(kept: &BTreeMap<String, UnconvergedField>) -> Outcome {
    Outcome::NotConverged(kept.values().map(|field| field.mismatch.clone()).collect())
}

#[cfg(test)]
mod tests;
