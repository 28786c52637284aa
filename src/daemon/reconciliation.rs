//! One reconciliation of the daemon. It returns no error: failures are part of its report.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::inputs::WatchedInputs;
use super::publisher::now;
use super::trigger::{ApprovedDigest, TriggerQueue};
use super::updates::{PATIENCE, UPDATE_PENDING, outdated_updates};
use super::{BackedOff, CatalogueFindings, LoopFile, LoopSettings, Memory};
use crate::desired::definitions::{Loaded, Pin};
use crate::desired::git::{CheckoutTrust, TrustedLoadError};
use crate::live::{ApiKey, ExpiryError, KeyError, ReadCalry as _};
use crate::machine;
use crate::model::{
    Diagnostic, KeyExpiry, KeyStage, Provider, Revision, SPANS, Workspace, WorkspaceHolds,
    ellipsize, first_problems, printable,
};
use crate::plan::{
    Cause, Digest, Limits, OverriddenHold, Plan, PlanEntry, Refusal, Verdict, Violation,
    describe_hold,
};
use crate::reconcile::apply::{self, Caller, Outcome, Report, UpdateResult, Withdrawal};
use crate::reconcile::{self, Failure, Planned};
use crate::report::status::{Mode, ReconciliationOutcome, RepositoryFailure, Trigger};

/// The result of a reconciliation and everything to report about it.
#[derive(Debug)]
pub struct ReconciliationReport {
    /// Its number, from 1.
    pub number: u64,
    pub trigger: Trigger,
    /// The git host's id of the push that caused it. Untrusted text.
    pub delivery: Option<String>,
    pub took: Duration,
    pub result: ReconciliationResult,
    pub findings: Findings,
    /// Every problem of the files, as far as they could be read.
    pub problems: Vec<Diagnostic>,
    /// The time until the next one; `None` if there is none.
    pub next: Option<Duration>,
}

/// What a reconciliation found out about files and providers.
#[derive(Debug, Default)]
pub struct Findings {
    /// Whether another replica leads. This one only compared, and the leader reports.
    pub standby: bool,
    /// The problems of the files; empty if they are unchanged since the last reconciliation.
    pub new_diagnostics: Vec<Diagnostic>,
    /// What policies deny or warn of; empty if that is unchanged since the last reconciliation.
    pub new_violations: Vec<Violation>,
    /// How many files have errors.
    pub errors: usize,
    /// New differences that are not updated, each with its cause.
    pub differences: Vec<(PlanEntry, Option<Cause>)>,
    /// Providers whose updates failed or did not converge.
    pub backed_off: BTreeMap<Provider, BackedOff>,
    /// Results of updates that an earlier reconciliation began, each with its revision.
    pub late: BTreeMap<Provider, Option<String>>,
    /// Providers whose updates another writer undoes right away, with their number in a row.
    pub contested: BTreeMap<Provider, u32>,
    /// The git revision of the files, even if the reconciliation failed after reading them.
    pub revision: Option<Revision>,
    /// `None` without allowed keys, and if the check was not possible.
    pub trust: Option<CheckoutTrust>,
    pub trust_changed: bool,
    pub fetch: FetchState,
    pub key: KeyFindings,
    /// The names that appeared in Calry or vanished from it.
    pub catalogue: CatalogueFindings,
    /// The providers that have no file although `requireFiles` asks for one.
    pub without_file: Vec<Provider>,
    /// The names of other entries of the configuration with the same Calry workspace.
    pub also: Vec<String>,
    pub also_changed: bool,
    pub approval: Option<Approval>,
}

/// When the API key ends, as far as the operator wrote it down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFindings {
    /// Whether the reconciliation came so far as to read it.
    pub is_read: bool,
    pub expiry: Option<KeyExpiry>,
    /// The place of the key, as part of a sentence. Empty if the key could not be read.
    pub source: String,
    /// Why it is not known when the key ends.
    pub error: Option<String>,
    /// Whether a person must be notified now: the end has come a day closer, or the error is new.
    pub is_news: bool,
}

/// Whether the repository can be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FetchState {
    /// The last fetch succeeded, or there is no repository.
    #[default]
    Working,
    /// A short outage, or no commit is in force: then the reconciliation fails for the same reason.
    Unclear,
    /// It fails for longer. An earlier commit stays in force.
    Failing(RepositoryFailure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The plan with this digest was applied in spite of the limit.
    Used(Digest),
    /// The plan with this digest was applied although the workspace is on hold.
    Overrode(Digest, OverriddenHold),
    /// It was for this digest, and the plan has changed since.
    Forgotten(Digest),
}

#[derive(Debug)]
pub enum ReconciliationResult {
    /// Nothing was changed.
    Failed(Failure),
    /// The guard refused the plan. Nothing was changed.
    Refused(Box<Plan>, Refusal),
    Observed(Plan),
    Applied(Plan, Report),
}

impl ReconciliationResult {
    #[must_use]
    pub const fn plan(&self) -> Option<&Plan> {
        match self {
            Self::Failed(_) => None,
            Self::Refused(plan, _) => Some(plan),
            Self::Observed(plan) | Self::Applied(plan, _) => Some(plan),
        }
    }

    /// The results of the updates that were due, and of those of earlier reconciliations that ended since. If a provider has
    /// two, the later one comes last.
    #[must_use]
    pub fn updates(&self) -> &[UpdateResult] {
        match self {
            Self::Applied(_, report) => &report.results,
            Self::Failed(_) | Self::Refused(..) | Self::Observed(_) => &[],
        }
    }

    #[must_use]
    pub fn outcome(&self) -> ReconciliationOutcome {
        match self {
            Self::Failed(_) => ReconciliationOutcome::Failed,
            Self::Refused(..) => ReconciliationOutcome::Refused,
            Self::Observed(_) => ReconciliationOutcome::Ok,
            Self::Applied(_, report) if report.results.is_empty() => ReconciliationOutcome::Ok,
            Self::Applied(_, report) if latest(&report.results).all(|r| r.outcome.is_done()) => {
                ReconciliationOutcome::Applied
            }
            Self::Applied(..) => ReconciliationOutcome::Incomplete,
        }
    }

    /// Why nothing was changed, if it failed or was refused.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Failed(failure) => Some(failure.to_string()),
            Self::Refused(_, refusal) => Some(refusal.of_daemon()),
            Self::Observed(_) | Self::Applied(..) => None,
        }
    }
}

/// The last result of each provider.
fn latest(results: &[UpdateResult]) -> impl Iterator<Item = &UpdateResult> {
    results
        .chunk_by(|one, next| one.provider == next.provider)
        .filter_map(<[UpdateResult]>::last)
}

/// Waits for a change, for ever if nothing is watched.
async fn changed(inputs: &mut Option<&mut WatchedInputs>) {
    match inputs {
        Some(inputs) => inputs.changed().await,
        None => std::future::pending().await,
    }
}

/// Runs one reconciliation. A loop watches `inputs` for changes meanwhile. Without a loop it reads the files as they are,
/// retries transient failures, and waits for all of its updates.
pub(super) async fn reconcile(
    settings: &LoopSettings,
    memory: &mut Memory,
    triggers: &TriggerQueue,
    trigger: Trigger,
    inputs: Option<&mut WatchedInputs>,
    stop: &CancellationToken,
) -> ReconciliationReport {
    let started = Instant::now();
    memory.passes += 1;
    memory.update_listener.clone_from(&settings.update_listener);
    // A replica that becomes the leader now has not fetched as one yet. Another reconciliation follows.
    let stands_by = inputs.as_ref().is_some_and(|inputs| inputs.stands_by);
    let mut findings = Findings {
        standby: stands_by || !settings.leadership.leads(),
        fetch: fetch_state(settings),
        ..Findings::default()
    };
    let span = tracing::info_span!(
        target: SPANS,
        "pass",
        number = memory.passes,
        trigger = trigger.as_str(),
        result = Empty,
        revision = Empty,
        otel.status_code = Empty,
    );
    settings.loop_file.read().await;
    let attempt = attempt(
        settings,
        memory,
        triggers,
        trigger,
        &mut findings,
        inputs,
        stop,
    );
    let attempt = attempt.instrument(span.clone());
    // The panic message may quote a value; the panic hook has logged its place. The memory has the result of each finished
    // update, and running updates go on.
    let attempt = AssertUnwindSafe(attempt)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            memory.doubt_all();
            Err(Failure::Internal("the cause is logged above".to_owned()))
        });
    memory.save().await;
    settings.loop_file.save().await;
    let result = attempt.unwrap_or_else(ReconciliationResult::Failed);
    span.record("result", result.outcome().as_str());
    let revision = findings.revision.as_ref();
    span.record(
        "revision",
        revision.map(|revision| revision.commit.as_str()),
    );
    if matches!(
        result.outcome(),
        ReconciliationOutcome::Failed
            | ReconciliationOutcome::Refused
            | ReconciliationOutcome::Incomplete
    ) {
        span.record("otel.status_code", "ERROR");
    }
    ReconciliationReport {
        number: memory.passes,
        trigger,
        delivery: None,
        took: started.elapsed(),
        result,
        findings: Findings {
            backed_off: memory.backed_off(),
            contested: memory.contested(),
            also: memory.also.clone(),
            ..findings
        },
        problems: memory.problems.clone(),
        next: None,
    }
}

fn fetch_state(settings: &LoopSettings) -> FetchState {
    let Some(state) = settings.repository.as_ref().map(|it| it.state()) else {
        return FetchState::Working;
    };
    match &state.status.failure {
        None if state.is_tried => FetchState::Working,
        Some(failure) if state.commit.is_some() && failure.is_lasting(now()) => {
            FetchState::Failing(failure.clone())
        }
        None | Some(_) => FetchState::Unclear,
    }
}

async fn attempt(
    settings: &LoopSettings,
    memory: &mut Memory,
    triggers: &TriggerQueue,
    trigger: Trigger,
    findings: &mut Findings,
    mut inputs: Option<&mut WatchedInputs>,
    stop: &CancellationToken,
) -> Result<ReconciliationResult, Failure> {
    let deadline = Instant::now() + settings.timeout;
    // Updates that end from here on may be missing from the live state.
    memory.catch_up(settings.interval);
    // The file system may hang; the loop must not.
    let loading = tokio::select! {
        biased;
        loaded = tokio::time::timeout_at(deadline, load(settings, memory)) => loaded,
        () = stop.cancelled() => return Err(Failure::Stopped),
    };
    let (loaded, key, expiry) = loading.map_err(|_| {
        Failure::Internal(
            "reading the definitions and the API key took longer than the timeout of the reconciliation"
                .to_owned(),
        )
    })??;
    let today = reconcile::today();
    findings.key = memory.learn_key_expiry(&key, expiry, today);
    let ended = findings
        .key
        .expiry
        .filter(|expiry| expiry.stage(today) == KeyStage::Over);
    let key = key.map(|key| key.ended(ended));
    let signed = settings.source.trust.is_some();
    let trust = match &loaded {
        Ok(desired) => signed.then(|| {
            let refused = desired.refused.clone();
            refused.map_or(CheckoutTrust::Trusted, CheckoutTrust::Refused)
        }),
        Err(Failure::Trust(TrustedLoadError::NoTrustedCommit(refused))) => {
            Some(CheckoutTrust::Refused(refused.clone()))
        }
        Err(_) => None,
    };
    if trust.is_some() {
        let before = memory.trust.take();
        findings.trust_changed =
            trust != before && (before.is_some() || trust != Some(CheckoutTrust::Trusted));
        memory.trust.clone_from(&trust);
    }
    findings.trust = trust;
    let mut desired = loaded?;
    if let Some(inputs) = &mut inputs {
        inputs.watch_shared(desired.loaded.shared.as_ref());
        // If scanning hangs, it is unknown which files are being written.
        let unsettled = inputs
            .unsettled()
            .ok_or_else(|| Failure::Internal("scanning the definitions timed out".to_owned()))?;
        if !signed {
            desired.loaded.exclude(unsettled);
        }
    }
    let runs = memory.updates.runs();
    let rules = WorkspaceRules::of(&desired.loaded);
    if memory.rules.as_ref().is_some_and(|before| *before != rules) {
        // They were approved under other holds.
        runs.withdraw_all();
    }
    memory.rules = Some(rules);
    runs.withdraw(&desired.loaded);
    findings.revision.clone_from(&desired.revision);
    #[cfg(test)]
    assert!(!memory.faulty, "hunter2");
    let report_problems = |memory: &mut Memory, findings: &mut Findings, loaded: &Loaded| {
        let invalid = loaded.files.iter().filter(|file| file.desired.is_none());
        findings.errors = invalid.count();
        let listed = first_problems(loaded.diagnostics.iter());
        if !memory.problems.iter().eq(listed.iter().map(Cow::as_ref)) {
            memory.problems = listed.into_iter().map(Cow::into_owned).collect();
            findings.new_diagnostics.clone_from(&memory.problems);
        }
    };

    let key = match key {
        Ok(key) => key,
        Err(error) => {
            report_problems(memory, findings, &desired.loaded);
            return Err(error.into());
        }
    };
    let known = memory.workspace_of(key.secret());
    let reader = settings.api.reader(&key, deadline);
    let planning = async {
        let known = match known {
            None if memory.may_be_of_another_workspace() => {
                let workspace = reader.workspace().await?;
                let pins = settings.source.pins(&desired.loaded.pin);
                pins.allow(&workspace)?;
                if !pins.is_pinned() {
                    check_same_workspace(&settings.loop_file, &workspace)?;
                }
                memory.move_to(&workspace, settings.interval).await;
                Some(workspace)
            }
            known => known,
        };
        reconcile::plan_workspace(
            &settings.source,
            &mut desired,
            &reader,
            known,
            settings.api.method(),
            &memory.applied,
        )
        .await
    };
    // Boxed, so that dropping it ends its borrows.
    let mut planning = Box::pin(planning);
    let planned = loop {
        // Reading can be cancelled at any time, and its retries may outlast the grace period of a stop.
        tokio::select! {
            biased;
            planned = &mut planning => break planned,
            () = stop.cancelled() => return Err(Failure::Stopped),
            // Until the files are read again, earlier plans may be outdated.
            () = changed(&mut inputs) => runs.withdraw_all(),
        }
    };
    drop(planning);
    report_problems(memory, findings, &desired.loaded);
    let Planned {
        mut plan,
        fetched,
        names,
        without_file,
    } = planned?;
    plan.seal(settings.state.key());
    let claim = settings
        .slot
        .claim_workspace(&settings.api.url().to_string(), &plan.workspace.id);
    let before = std::mem::take(&mut memory.also);
    memory.also = claim?;
    findings.also_changed = !memory.also.is_empty() && memory.also != before;
    memory.learn_workspace(key.secret(), &plan.workspace);
    settings.loop_file.learn_workspace(&plan.workspace);
    findings.without_file = without_file;
    findings.catalogue =
        settings
            .loop_file
            .learn_catalogue(&plan.workspace, &names, findings.standby);
    memory.learn_plan(&plan, &settings.source.only, settings.interval);
    if memory.violations != plan.violations {
        memory.violations.clone_from(&plan.violations);
        findings.new_violations.clone_from(&plan.violations);
    }

    if findings.standby {
        memory.leave_to_leader(&plan);
        return Ok(ReconciliationResult::Observed(plan));
    }
    if settings.mode == Mode::Observe {
        report_differences(memory, findings, &plan, true);
        return Ok(ReconciliationResult::Observed(plan));
    }
    let approval = triggers.take_approval();
    if let Some(ApprovedDigest {
        digest,
        reason: Some(reason),
    }) = &approval
    {
        plan.override_hold(digest, reason);
    }
    // Without a reason, an approval lifts no hold that began meanwhile.
    let approve = approval
        .as_ref()
        .map(|approval| &approval.digest)
        .filter(|approved| plan.digest.as_ref() == Some(approved) && plan.suspended() == 0)
        .cloned();
    findings.approval = approval.map(|approval| match (&plan.overridden, &approve) {
        (Some(overridden), _) => Approval::Overrode(approval.digest, overridden.clone()),
        (None, Some(_)) => Approval::Used(approval.digest),
        (None, None) => Approval::Forgotten(approval.digest),
    });
    let limits = Limits {
        max_changes: settings.max_changes,
        approve,
    };
    let approved = match plan.approve(&limits) {
        Ok(approved) => {
            let plan = approved.plan();
            match (&plan.hold, &plan.digest) {
                (Some(hold), Some(digest)) if plan.suspended() > 0 => {
                    triggers.set_on_hold(digest.clone(), describe_hold(hold));
                }
                _ => triggers.set_refused(None),
            }
            approved
        }
        Err(refused) => {
            triggers.set_refused(refused.reason.approvable().cloned());
            report_differences(memory, findings, &refused.plan, true);
            return Ok(ReconciliationResult::Refused(refused.plan, refused.reason));
        }
    };
    report_differences(memory, findings, approved.plan(), false);
    if let Some(listener) = &settings.apply_listener {
        listener(approved.plan());
    }
    let rules = WorkspaceRules::of(&desired.loaded);
    let withdrawn = match inputs.as_deref().filter(|inputs| inputs.pending) {
        None => Withdrawal::Nothing,
        watched => withdraw_outdated(settings, memory, watched, approved.plan(), &rules).await,
    };
    let mut skip = memory.backed_off_steps(approved.plan(), trigger == Trigger::Request);
    skip.extend(memory.updates.busy(approved.plan()));
    // Updates that end from here on belong to the next report: this plan may not include them.
    let late = std::mem::take(&mut memory.updates.late);
    let ended = memory.catch_up(settings.interval);
    let just_ended = |provider| (provider, JUST_ENDED.to_owned());
    skip.extend(ended.into_iter().map(just_ended));
    let (concurrency, once) = (settings.concurrency, inputs.is_none());
    let options = |caller| apply::Options {
        caller: if once {
            Caller::Command { concurrency }
        } else {
            caller
        },
        method: settings.api.method(),
        fetched,
        deadline,
        skip,
        backups: settings.backups.clone(),
        stop: stop.clone(),
    };
    let writer = reconcile::writer(&settings.api, &reader, &approved);
    let plan = approved.plan().clone();
    let own = memory
        .updates
        .start(approved, (reader, writer), options, concurrency, withdrawn);
    let results = wait_for_updates(settings, memory, inputs, own, (&plan, &rules), stop).await;
    let report = merge_results(&plan, results, late, findings);
    Ok(ReconciliationResult::Applied(plan, report))
}

/// How long a reconciliation waits for its updates after the files changed.
const CHANGE_GRACE: Duration = Duration::from_millis(250);

/// How long reading the files may take before the updates that have not begun are withdrawn.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);

/// Why a provider is skipped if its last update may have ended after the plan was made.
const JUST_ENDED: &str = "its last update has just ended; it is planned again";

/// Waits for the updates of a plan. In a loop it stops waiting when they make no progress or the files change; the rest ends
/// in the background.
async fn wait_for_updates(
    settings: &LoopSettings,
    memory: &mut Memory,
    mut inputs: Option<&mut WatchedInputs>,
    own: u64,
    (plan, rules): (&Plan, &WorkspaceRules),
    stop: &CancellationToken,
) -> Vec<UpdateResult> {
    let mut results = Vec::new();
    let mut until = Instant::now() + PATIENCE;
    let mut outdated = false;
    loop {
        let stopping = stop.is_cancelled();
        let looped = inputs.is_some() && !stopping;
        tokio::select! {
            biased;
            message = memory.updates.next() => {
                if memory.learn_own_message(message, settings.interval, own, &mut results) {
                    return results;
                }
                if !outdated {
                    until = Instant::now() + PATIENCE;
                }
            }
            () = tokio::time::sleep_until(until), if looped => return results,
            () = changed(&mut inputs), if looped => {
                let runs = memory.updates.runs();
                if withdraw_outdated(settings, memory, inputs.as_deref(), plan, rules).await == Withdrawal::All {
                    runs.withdraw_all();
                }
                (outdated, until) = (true, until.min(Instant::now() + CHANGE_GRACE));
            }
            () = stop.cancelled(), if !stopping => {}
        }
    }
}

/// What `workspace.yaml` says: a change of it withdraws every update that has not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkspaceRules {
    pin: Pin,
    holds: WorkspaceHolds,
}

impl WorkspaceRules {
    fn of(loaded: &Loaded) -> Self {
        Self {
            pin: loaded.pin.clone(),
            holds: loaded.holds.clone(),
        }
    }
}

/// The updates of a plan that changed files have made outdated. Those of earlier plans are withdrawn as well.
async fn withdraw_outdated(
    settings: &LoopSettings,
    memory: &mut Memory,
    inputs: Option<&WatchedInputs>,
    plan: &Plan,
    rules: &WorkspaceRules,
) -> Withdrawal {
    let read = tokio::time::timeout(RELOAD_LIMIT, load(settings, memory)).await;
    let (Ok(Ok((Ok(mut desired), ..))), Some(unsettled)) =
        (read, inputs.and_then(WatchedInputs::unsettled))
    else {
        return Withdrawal::All;
    };
    if WorkspaceRules::of(&desired.loaded) != *rules {
        memory.updates.runs().withdraw_all();
        return Withdrawal::All;
    }
    if settings.source.trust.is_none() {
        desired.loaded.exclude(unsettled);
    }
    memory.updates.runs().withdraw(&desired.loaded);
    outdated_updates(plan, &desired.loaded)
}

/// Merges the results of a plan's updates with those of earlier plans that ended since.
fn merge_results(
    plan: &Plan,
    mut results: Vec<UpdateResult>,
    late: Vec<(UpdateResult, Option<String>)>,
    findings: &mut Findings,
) -> Report {
    let reported: BTreeSet<Provider> = results
        .iter()
        .map(|result| result.provider.clone())
        .collect();
    let left = plan
        .steps()
        .filter(|step| !reported.contains(&step.desired.provider));
    results.extend(left.map(|step| UpdateResult::skipped(step, UPDATE_PENDING.to_owned())));
    let of_late: BTreeSet<&Provider> = late.iter().map(|(result, _)| &result.provider).collect();
    results.retain(|new| {
        !(of_late.contains(&new.provider) && matches!(new.outcome, Outcome::Skipped(_)))
    });
    let tried: BTreeSet<Provider> = results
        .iter()
        .map(|result| result.provider.clone())
        .collect();
    let mut all = Vec::new();
    for (result, revision) in late {
        if !tried.contains(&result.provider) {
            findings.late.insert(result.provider.clone(), revision);
        }
        all.push(result);
    }
    all.extend(results);
    all.sort_by(|a, b| a.provider.cmp(&b.provider));
    Report { results: all }
}

/// Checks that the workspace is the one reconciled before. Only the API key identifies it, and a key that was exchanged by
/// mistake must not write these definitions to another workspace.
fn check_same_workspace(loop_file: &LoopFile, workspace: &Workspace) -> Result<(), Failure> {
    let Some(before) = loop_file
        .workspace()
        .filter(|before| before.id != workspace.id)
    else {
        return Ok(());
    };
    let short = |text: &str| ellipsize(&printable(text), 128);
    let name = |slug: &str, id: &str| match before.slug == workspace.slug {
        true => format!("{} (id {})", short(slug), short(id)),
        false => short(slug),
    };
    Err(Failure::Moved {
        before: name(&before.slug, &before.id),
        found: name(&workspace.slug, &workspace.id),
        slug: short(&workspace.slug),
        file: loop_file.path().map(|path| path.display().to_string()),
    })
}

type Inputs = (
    Result<reconcile::Desired, Failure>,
    Result<ApiKey, KeyError>,
    Result<Option<KeyExpiry>, ExpiryError>,
);

/// Reads the definitions, the API key and its end within the read limit. A read of an earlier reconciliation that hangs
/// is waited for first, so that a hanging file system blocks one thread of a workspace, not one more each time.
async fn load(settings: &LoopSettings, memory: &mut Memory) -> Result<Inputs, Failure> {
    if let Some(before) = &mut memory.reading {
        let _ = before.await;
        memory.reading = None;
    }
    let (source, key) = (Arc::clone(&settings.source), settings.key.clone());
    let expiry = settings.key_expiry.clone();
    let scrubber = settings.api.scrubber().clone();
    let reading = async {
        let (send, loaded) = oneshot::channel();
        memory.reading = Some(machine::spawn_blocking(move || {
            let loaded = reconcile::load(&source, &scrubber);
            drop(send.send((loaded, key.read(), expiry.read())))
        }));
        loaded.await
    };
    let loaded = settings.slot.read_limit().run(reading).await;
    memory.reading = None;
    // The panic message may quote a value.
    loaded.map_err(|_| Failure::Internal("reading the definitions panicked".to_owned()))
}

/// Reports new differences that are not updated: held and unreadable providers, and with `updates` pending updates as well.
/// Called once per reconciliation: it forgets all other differences.
fn report_differences(memory: &mut Memory, findings: &mut Findings, plan: &Plan, updates: bool) {
    let mut reported = BTreeMap::new();
    for entry in &plan.entries {
        let cause = match &entry.verdict {
            Verdict::Update(step) if updates => Some(step.cause),
            Verdict::Held { pending, .. } if !pending.is_empty() => None,
            Verdict::Unreadable(_) => None,
            _ => continue,
        };
        let Some(provider) = entry.provider.clone() else {
            continue;
        };
        if memory.reported.get(&provider).map(Vec::as_slice) != Some(entry.changes()) {
            findings.differences.push((entry.clone(), cause));
        }
        reported.insert(provider, entry.changes().to_vec());
    }
    memory.reported = reported;
}

/// What the exit code of `run --once` depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub failed: bool,
    pub invalid_definitions: bool,
}

impl ReconciliationReport {
    #[must_use]
    pub fn faults(&self) -> Faults {
        let invalid_files = self.findings.errors > 0;
        let refused = matches!(self.findings.trust, Some(CheckoutTrust::Refused(_)));
        match &self.result {
            ReconciliationResult::Failed(failure) => Faults {
                failed: !failure.is_invalid_definitions(),
                invalid_definitions: true,
            },
            ReconciliationResult::Refused(..) => Faults {
                failed: true,
                invalid_definitions: invalid_files,
            },
            ReconciliationResult::Observed(plan) | ReconciliationResult::Applied(plan, _) => {
                let incomplete =
                    latest(self.result.updates()).any(|result| !result.outcome.is_done());
                let mut verdicts = plan.entries.iter().map(|entry| &entry.verdict);
                let unreadable = verdicts
                    .clone()
                    .any(|v| matches!(v, Verdict::Unreadable(_)));
                let missing = verdicts.any(|v| matches!(v, Verdict::Missing));
                Faults {
                    failed: refused || incomplete || unreadable,
                    invalid_definitions: invalid_files || missing,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{self, Handle, Leadership, StateStore, StatusPublisher, WorkspaceGroup};
    use crate::desired::definitions::MissingSecrets;
    use crate::desired::secrets::SecretSources;
    use crate::http::{self, Http, HttpUrl, UrlPolicy};
    use crate::live::{Api, KeySource};
    use crate::model::{Secret, UpdateMethod};

    /// Without a key no request is sent.
    fn settings(definitions: &std::path::Path) -> LoopSettings {
        http::install_tls();
        let http = Http::new(http::HttpTimeouts::default()).unwrap();
        LoopSettings {
            links: Default::default(),
            repository: None,
            source: Arc::new(reconcile::Source {
                definitions: reconcile::DefinitionsSource::Directory(definitions.to_owned()),
                secrets: SecretSources::new(None),
                missing: MissingSecrets::Error,
                strict: false,
                only: Vec::new(),
                base: None,
                trust: None,
                workspace: None,
                policies: None,
            }),
            key: KeySource::Variable(None::<Secret>),
            key_expiry: Default::default(),
            api: Api::new(
                &http,
                HttpUrl::parse("http://127.0.0.1:9", UrlPolicy::api(false)).unwrap(),
                UpdateMethod::Patch,
            )
            .unwrap(),
            interval: Duration::from_secs(60),
            mode: Mode::Enforce,
            max_changes: crate::plan::MaxChanges::Unlimited,
            concurrency: 1,
            timeout: Duration::from_secs(60),
            backups: None,
            watch_options: crate::desired::watch::WatchOptions::default(),
            apply_listener: None,
            update_listener: None,
            state: Arc::new(StateStore::in_process().unwrap()),
            loop_file: Arc::default(),
            slot: WorkspaceGroup::slots(vec![None]).remove(0),
            leadership: Leadership::default(),
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_reconciliation_but_not_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("hostaway.yaml"),
            "provider: HOSTAWAY\n",
        )
        .unwrap();
        let settings = settings(directory.path());
        let mut memory = Memory::new(&settings.state);
        memory.faulty = true;
        let stop = CancellationToken::new();
        let report = daemon::step(&settings, &mut memory, &stop).await;
        assert!(
            matches!(
                report.result,
                ReconciliationResult::Failed(Failure::Internal(_))
            ),
            "{report:?}"
        );
        assert!(!format!("{report:?}").contains("hunter2"));
        memory.faulty = false;
        let report = daemon::step(&settings, &mut memory, &stop).await;
        assert!(
            matches!(report.result, ReconciliationResult::Failed(Failure::Key(_)))
                && report.number == 2,
            "{report:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_outside_of_a_reconciliation_costs_only_a_pause() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let handle = Handle::new(StatusPublisher::new(&settings, "definitions"));
        let (stop, mut numbers) = (CancellationToken::new(), Vec::new());
        daemon::run(&settings, &handle, stop.clone(), |report| {
            numbers.push(report.number);
            assert!(numbers.len() > 2, "hunter2");
            stop.cancel();
        })
        .await;
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn a_waiting_loop_is_small() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let handle = Handle::new(StatusPublisher::new(&settings, "definitions"));
        let waiting = daemon::run(&settings, &handle, CancellationToken::new(), |_| {});
        let bytes = std::mem::size_of_val(&waiting);
        assert!(bytes < 8 << 10, "{bytes}");
    }
}
