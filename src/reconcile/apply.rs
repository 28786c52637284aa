//! Applies an approved plan: one update per changed provider, several at once, each verified.
//!
//! A panic in one update is a failure of that update only.
//!
//! Never: write twice without a read in between, overwrite a change made since the plan, overwrite a definition that was to be
//! backed up and is not, or stop at the first failure. Its argument type admits only plans that passed the guard.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::backups::Backups;
use super::received;
use crate::http::ConcurrencyLimit;
use crate::live::{Backoff, Backup, Error, Operation, ReadCalry, WriteCalry};
use crate::machine;
use crate::model::{Desired, Live, Provider, SPANS, UpdateMethod, printable};
use crate::plan::{
    Approved, Cause, Change, Mismatch, Payload, Plan, RefreshedStep, RefusedPart, Step, refresh,
    refusal, unverifiable, verify,
};

#[derive(Clone, Debug)]
pub struct Options {
    /// It decides the concurrency and the retries.
    pub caller: Caller,
    /// PATCH or PUT, as in the plan.
    pub method: UpdateMethod,
    /// When the live state of the plan was received.
    pub fetched: Instant,
    /// The time limit of the reconciliation, retries included.
    pub deadline: Instant,
    /// Providers to skip, each with the reason.
    pub skip: BTreeMap<Provider, String>,
    /// Where definitions are saved before they are replaced; `None` if they are not.
    pub backups: Option<Backups>,
    /// After it is cancelled no update starts, and running updates have [`GRACE`] to end.
    pub stop: CancellationToken,
}

#[derive(Clone, Debug)]
pub enum Caller {
    /// A command: transient failures are retried until the deadline.
    Command {
        /// How many updates run at once; at least 1.
        concurrency: usize,
    },
    /// The daemon: each update is attempted once, and begins only if git still wants it.
    Loop {
        /// Limits all updates of the loop.
        turns: Arc<ConcurrencyLimit>,
        /// The updates that git no longer wants.
        withdrawn: watch::Receiver<Withdrawal>,
    },
}

/// The providers whose desired state has changed since the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Withdrawal {
    #[default]
    Nothing,
    These(BTreeSet<Provider>),
    /// All providers, or it is unknown which.
    All,
}

impl Withdrawal {
    fn contains(&self, provider: &Provider) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(providers) => providers.contains(provider),
            Self::All => true,
        }
    }
}

/// If the live state of the plan is older than this, the provider is read again once before the update is sent.
pub const STALE: Duration = Duration::from_secs(5);

/// The same for an update that also sends unmanaged parts: it would undo an edit of those since the read. With backups, for
/// every update: an edit since the read would be in no backup.
pub const STALE_IF_CARRIED: Duration = Duration::from_secs(1);

/// How long a running update may take after a stop.
pub const GRACE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each provider to update, sorted.
    pub results: Vec<UpdateResult>,
}

#[derive(Clone, Debug)]
pub struct UpdateResult {
    pub provider: Provider,
    pub desired: Arc<Desired>,
    pub changes: Vec<Change>,
    pub cause: Cause,
    pub outcome: Outcome,
    /// The number of update requests.
    pub sent: u32,
    /// `updatedAt` of the definition that decided the outcome.
    pub updated_at: Option<String>,
    /// After a transient failure: the pause before the next attempt that Calry asked for.
    pub transient: Option<Duration>,
    /// Pauses included.
    pub took: Duration,
}

impl UpdateResult {
    #[must_use]
    pub fn skipped(step: &Step, why: String) -> Self {
        Self::of(
            step,
            Outcome::Skipped(why),
            Trace::default(),
            Duration::ZERO,
        )
    }

    fn of(step: &Step, outcome: Outcome, trace: Trace, took: Duration) -> Self {
        Self {
            provider: step.desired.provider.clone(),
            desired: Arc::clone(&step.desired),
            changes: step.changes.clone(),
            cause: step.cause,
            outcome,
            sent: trace.sent,
            updated_at: trace.updated_at,
            transient: trace.transient,
            took,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Calry answered with the desired definition.
    Applied,
    /// It was in sync already when it was read again.
    Unchanged,
    /// Calry accepted the update, and its answer still differs.
    NotConverged(Vec<Mismatch>),
    /// All other parts are in sync; these parts cannot be sent.
    Partial(Vec<RefusedPart>),
    /// It was not updated, or the result is unknown, as the sentence says.
    Failed(String),
    /// It was not tried, for this reason.
    Skipped(String),
}

impl Outcome {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::NotConverged(_) => "notConverged",
            Self::Partial(_) | Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Whether the provider is in sync now.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Applied | Self::Unchanged)
    }

    /// Why the provider is not in sync, as a sentence.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Applied | Self::Unchanged => None,
            Self::Failed(why) | Self::Skipped(why) => Some(why.clone()),
            Self::Partial(refused) => refusal(refused),
            Self::NotConverged(mismatches) => Some(describe_mismatches(mismatches)),
        }
    }
}

/// Applies an approved plan. `progress` gets each result as soon as it is available.
pub async fn apply<R: ReadCalry, W: WriteCalry>(
    approved: &Approved,
    reader: &R,
    writer: &W,
    options: &Options,
    progress: impl Fn(&UpdateResult),
) -> Report {
    let run = Run {
        plan: approved.plan(),
        reader,
        writer,
        options,
        halted: Mutex::new(None),
    };
    // Collected, because a lazy iterator over this closure is not `Send`. None of them begins before its turn.
    let updates: Vec<_> = approved
        .plan()
        .steps()
        .map(|step| run.in_turn(step))
        .collect();
    let at_once = match options.caller {
        Caller::Command { concurrency } => concurrency.max(1),
        // Each waits for its own turn.
        Caller::Loop { .. } => usize::MAX,
    };
    let mut results: Vec<UpdateResult> = stream::iter(updates)
        .buffer_unordered(at_once)
        .inspect(&progress)
        .collect()
        .await;
    results.sort_by(|a, b| a.provider.cmp(&b.provider));
    Report { results }
}

#[derive(Default)]
struct Trace {
    sent: u32,
    updated_at: Option<String>,
    transient: Option<Duration>,
}

/// Why an update did not begin.
const STOPPED: &str = "stopped before the update was sent";
const WITHDRAWN: &str =
    "nothing was sent: the files have changed since the plan, and it is made again";

struct Run<'a, R, W> {
    plan: &'a Plan,
    reader: &'a R,
    writer: &'a W,
    options: &'a Options,
    /// Why no further update is sent, for example because the API key is not accepted.
    halted: Mutex<Option<String>>,
}

impl<R: ReadCalry, W: WriteCalry> Run<'_, R, W> {
    /// Updates a provider in its turn, or skips it.
    async fn in_turn(&self, step: &Step) -> UpdateResult {
        let provider = &step.desired.provider;
        let skipped = |why: &str| UpdateResult::skipped(step, why.to_owned());
        if let Some(reason) = self.options.skip.get(provider) {
            return skipped(reason);
        }
        let Caller::Loop { turns, .. } = &self.options.caller else {
            return self.finish(step).await;
        };
        let given_up = async {
            tokio::select! {
                biased;
                () = self.wait_until_withdrawn(provider) => skipped(WITHDRAWN),
                () = self.options.stop.cancelled() => skipped(STOPPED),
            }
        };
        turns.run_unless(self.finish(step), given_up).await
    }

    async fn wait_until_withdrawn(&self, provider: &Provider) {
        if let Caller::Loop { withdrawn, .. } = &self.options.caller
            && withdrawn
                .clone()
                .wait_for(|withdrawn| withdrawn.contains(provider))
                .await
                .is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    async fn finish(&self, step: &Step) -> UpdateResult {
        let started = Instant::now();
        let provider = step.desired.provider.as_str();
        let span = tracing::info_span!(target: SPANS, "update", provider, outcome = Empty, otel.status_code = Empty);
        let mut trace = Trace::default();
        // A panic leaves only the trace behind, which is correct at any moment.
        let updating =
            AssertUnwindSafe(self.update(step, &mut trace).instrument(span.clone())).catch_unwind();
        let outcome = tokio::select! {
            biased;
            // The panic message may quote a value.
            outcome = updating => outcome.unwrap_or_else(|_| Outcome::Failed(
                "an internal error ended the update (its cause is in the log); the request may have arrived".to_owned()
            )),
            // This drops a running request. It may arrive; the next reconciliation reads before it writes.
            () = self.grace_is_over() => Outcome::Failed(
                "stopped during the update; the request may have arrived".to_owned()
            ),
        };
        span.record("outcome", outcome.as_str());
        if matches!(
            outcome,
            Outcome::Failed(_) | Outcome::Partial(_) | Outcome::NotConverged(_)
        ) {
            span.record("otel.status_code", "ERROR");
        }
        UpdateResult::of(step, outcome, trace, started.elapsed())
    }

    async fn grace_is_over(&self) {
        self.options.stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    }

    async fn update(&self, step: &Step, trace: &mut Trace) -> Outcome {
        let provider = &step.desired.provider;
        let mut step = step.clone();
        let mut fetched = self.options.fetched;
        let mut backoff = Backoff::default();
        // The error of an update that was sent and may have arrived.
        let mut doubt: Option<Error> = None;
        // Age alone never causes two reads in a row.
        let mut reread = false;
        let mut backed_up: Option<Arc<Live>> = None;
        loop {
            let Some(payload) = &step.payload.update else {
                return Outcome::Partial(step.payload.refused);
            };
            if let Some(reason) = self.must_not_start(provider) {
                return unknown_or_skipped(doubt.as_ref(), reason);
            }
            let patience = if step.payload.carries_unmanaged || self.options.backups.is_some() {
                STALE_IF_CARRIED
            } else {
                STALE
            };
            if fetched.elapsed() > patience && !reread {
                let (answer, at) = received(self.reader.definition(provider)).await;
                match answer {
                    Err(error) => return self.failed(&error, trace),
                    Ok(live) => {
                        // However long the answer took, there is no newer one, unless the process was stopped meanwhile.
                        (fetched, reread) = (at, at.elapsed() <= patience);
                        trace.updated_at = Some(live.updated_at.clone());
                        match self.replan(&step, live) {
                            Ok(fresh) => step = *fresh,
                            Err(outcome) => return outcome,
                        }
                    }
                }
                continue;
            }
            reread = false;
            if let Some(backups) = &self.options.backups
                && backed_up.as_ref() != Some(&step.live)
            {
                if let Err(why) = backups.save(self.backup(&step.live)).await {
                    return not_backed_up(doubt.as_ref(), &why);
                }
                backed_up = Some(Arc::clone(&step.live));
                // Meanwhile the definition may have become old, or the update unwanted.
                continue;
            }
            // Counted before the call: after a panic in it, the update may have arrived.
            trace.sent += 1;
            let answer = self.writer.update(provider, payload).await;
            if answer.as_ref().is_err_and(Error::is_not_sent) {
                trace.sent -= 1;
            }
            let error = match answer {
                Ok(answer) => match unverifiable(payload, &answer) {
                    None => {
                        trace.updated_at = Some(answer.updated_at.clone());
                        return judge(&step, &answer);
                    }
                    Some(problem) => {
                        let why = format!(
                            "the answer to the update of {provider} cannot be read: {problem}"
                        );
                        return self.read_back(&step, &why, trace).await;
                    }
                },
                Err(error) if error.is_not_permitted() => {
                    return unknown_or_skipped(doubt.as_ref(), self.halt(error.to_string()));
                }
                Err(error) if error.is_unusable_answer() => {
                    return self.read_back(&step, &error.to_string(), trace).await;
                }
                Err(error) => error,
            };
            let Some(pause) = self.pause(&error, &mut backoff) else {
                return self.failed(&error, trace);
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.options.stop.cancelled() => {}
                () = self.wait_until_withdrawn(provider) => {}
            }
            if error.may_have_arrived() {
                // Written again only after it was read: the update may have arrived.
                let (answer, at) = received(self.reader.definition(provider)).await;
                match answer {
                    Err(second) => return self.unknown(&error.to_string(), &second),
                    Ok(live) => {
                        (fetched, reread) = (at, at.elapsed() <= patience);
                        trace.updated_at = Some(live.updated_at.clone());
                        if let Some(outcome) = outcome_by_reading(&step, &live) {
                            return outcome;
                        }
                        match self.replan(&step, live) {
                            Ok(fresh) => step = *fresh,
                            Err(outcome) => return outcome,
                        }
                    }
                }
                if matches!(self.options.caller, Caller::Loop { .. }) {
                    trace.failed(&error);
                    return Outcome::Failed(error.to_string());
                }
                doubt = Some(error);
            }
        }
    }

    fn backup(&self, live: &Live) -> Backup {
        Backup {
            time: machine::now(),
            workspace: self.plan.workspace.clone(),
            commit: self
                .plan
                .revision
                .as_ref()
                .map(|revision| revision.commit.clone()),
            digest: self.plan.digest.as_ref().map(ToString::to_string),
            live: live.clone(),
        }
    }

    /// The pause after a failed attempt, before the provider is read and the update is sent again. In a loop it is only read
    /// again, once, to find out whether the update arrived.
    fn pause(&self, error: &Error, backoff: &mut Backoff) -> Option<Duration> {
        match &self.options.caller {
            Caller::Loop { .. } if !error.is_transient() => None,
            // Nothing was sent, so it does not count as an attempt.
            Caller::Loop { .. } if !error.is_paused() => (error.may_have_arrived()
                && error.retry_after().is_none())
            .then_some(Duration::ZERO),
            _ => backoff.next(error, self.options.deadline),
        }
    }

    /// Reads the definition after an update with an unusable answer, and decides the outcome by it.
    async fn read_back(&self, step: &Step, why: &str, trace: &mut Trace) -> Outcome {
        match self.reader.definition(&step.desired.provider).await {
            Err(second) => self.unknown(why, &second),
            Ok(live) => {
                trace.updated_at = Some(live.updated_at.clone());
                let arrived = outcome_by_reading(step, &live);
                arrived.unwrap_or_else(|| match self.replan(step, live) {
                    // `updatedAt` is unchanged, and the definition is in sync all the same.
                    Err(Outcome::Unchanged) => Outcome::Applied,
                    _ => Outcome::Failed(format!(
                        "{why}; the definition was read again, and the update is not in it"
                    )),
                })
            }
        }
    }

    /// The outcome of an update that may have arrived, if the definition cannot be read.
    fn unknown(&self, why: &str, second: &Error) -> Outcome {
        self.halt_if_all_are_affected(second);
        Outcome::Failed(format!(
            "{why}; the update may have arrived, and the definition could not be read to find out: {second}"
        ))
    }

    fn must_not_start(&self, provider: &Provider) -> Option<String> {
        if self.options.stop.is_cancelled() {
            return Some(STOPPED.to_owned());
        }
        if let Caller::Loop { withdrawn, .. } = &self.options.caller
            && withdrawn.borrow().contains(provider)
        {
            return Some(WITHDRAWN.to_owned());
        }
        self.halted.lock().clone()
    }

    fn failed(&self, error: &Error, trace: &mut Trace) -> Outcome {
        trace.failed(error);
        self.halt_if_all_are_affected(error);
        Outcome::Failed(match error.operation() {
            Operation::Update(_) if error.may_have_arrived() => {
                format!("{error}; the update may have arrived: plan again to see")
            }
            _ => error.to_string(),
        })
    }

    fn halt_if_all_are_affected(&self, error: &Error) {
        // 403: the key may not write to any provider.
        if error.is_fatal_for_workspace() || error.status() == Some(403) {
            self.halt(format!(
                "not tried, because another update failed for a reason that affects all: {error}"
            ));
        }
    }

    /// Stops all further updates. Returns the first reason.
    fn halt(&self, why: String) -> String {
        let mut halted = self.halted.lock();
        halted.get_or_insert(why).clone()
    }

    fn replan(&self, step: &Step, live: Live) -> Result<Box<Step>, Outcome> {
        match refresh(step, live, self.options.method) {
            RefreshedStep::Due(fresh) => Ok(fresh),
            RefreshedStep::InSync => Err(Outcome::Unchanged),
            RefreshedStep::Moved => Err(Outcome::Skipped(
                "nothing was sent: the live definition has changed since the plan, and now other changes are due; plan again"
                    .to_owned(),
            )),
        }
    }
}

impl Trace {
    fn failed(&mut self, error: &Error) {
        self.transient = error
            .is_transient()
            .then(|| error.retry_after().unwrap_or_default());
    }
}

/// The outcome of an update that is not tried, or not again.
fn unknown_or_skipped(doubt: Option<&Error>, reason: String) -> Outcome {
    match doubt {
        Some(error) => Outcome::Failed(format!(
            "{error}; the update may have arrived, and was not tried again: {reason}"
        )),
        None => Outcome::Skipped(reason),
    }
}

/// The outcome of an update whose definition could not be backed up.
fn not_backed_up(doubt: Option<&Error>, why: &str) -> Outcome {
    Outcome::Failed(match doubt {
        Some(error) => format!(
            "{error}; the update may have arrived, and was not tried again, because the definition could not be backed up: {why}"
        ),
        None => format!(
            "nothing was sent, because the definition that the update replaces could not be backed up: {why}"
        ),
    })
}

/// The outcome of an update without an answer, if the definition that was read afterwards shows that it arrived: `updatedAt`
/// has changed, and fewer fields differ than before, all of them among the planned changes.
fn outcome_by_reading(step: &Step, live: &Live) -> Option<Outcome> {
    if live.updated_at == step.live.updated_at {
        return None;
    }
    let outcome = judge(step, live);
    let partly = |mismatches: &[Mismatch]| {
        let due: BTreeSet<String> = step.sendable().map(Change::path).collect();
        mismatches.len() < due.len()
            && mismatches
                .iter()
                .all(|mismatch| due.contains(&mismatch.path))
    };
    match &outcome {
        Outcome::NotConverged(mismatches) if !partly(mismatches) => None,
        _ => Some(outcome),
    }
}

/// An update succeeds only if Calry answers with the desired definition.
fn judge(step: &Step, answer: &Live) -> Outcome {
    let Payload {
        update, refused, ..
    } = &step.payload;
    let Some(update) = update else {
        return Outcome::Partial(refused.clone());
    };
    if answer.id != step.live.id {
        return Outcome::Failed(
            "Calry answered with a definition of another id; whether the right one was updated is unknown. Check both, and \
             plan again"
                .to_owned(),
        );
    }
    if let Some(problem) = unverifiable(update, answer) {
        return Outcome::Failed(format!(
            "Calry took the update, and its result cannot be read: {problem}"
        ));
    }
    let mismatches = verify(&step.desired, update, refused, answer);
    match (mismatches.as_slice(), refusal(refused)) {
        ([], None) => Outcome::Applied,
        ([], Some(_)) => Outcome::Partial(refused.clone()),
        (_, None) => Outcome::NotConverged(mismatches),
        (_, Some(refusal)) => {
            Outcome::Failed(format!("{}; {refusal}", describe_mismatches(&mismatches)))
        }
    }
}

fn describe_mismatches(mismatches: &[Mismatch]) -> String {
    let paths: Vec<String> = mismatches.iter().map(|m| printable(&m.path)).collect();
    format!(
        "Calry took the update, but kept other values in: {}",
        paths.join(", ")
    )
}
