//! An approved plan and a writer to a report: one update per changed provider, several at once, each verified.
//!
//! A panic in one update is a failure of that update only.
//!
//! Never: write twice without a read in between, overwrite a change made since the plan, or stop at the first failure. Its
//! argument type admits only plans that passed the guard.

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

use crate::http::ConcurrencyLimit;
use crate::live::{Backoff, Error, Operation, ReadCalry, WriteCalry};
use crate::model::{Desired, Live, Provider, SPANS, UpdateMethod, printable};
use crate::plan::{
    Approved, Cause, Change, Mismatch, Payload, RefreshedStep, RefusedPart, Step, refresh, refusal,
    unverifiable, verify,
};

/// How an update is sent.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many updates are under way at once, and what follows a failed attempt.
    pub caller: Caller,
    /// PATCH or PUT; what the plan was made for.
    pub method: UpdateMethod,
    /// When the answer with the live state of the plan arrived.
    pub fetched: Instant,
    /// When the pass is over, retries included.
    pub deadline: Instant,
    /// Providers that are not to be tried in this pass, each with the reason.
    pub skip: BTreeMap<Provider, String>,
    /// No update starts after this was cancelled; those under way have [`GRACE`] to end.
    pub stop: CancellationToken,
}

/// Who waits for the updates.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A command that does nothing else: an attempt that failed for a reason that may pass is repeated until the deadline.
    Command {
        /// How many updates may be under way at once; at least 1.
        concurrency: usize,
    },
    /// A loop that comes back: each update is attempted once, and begins only while git still wants it.
    Loop {
        /// The turns of all updates of the loop.
        turns: Arc<ConcurrencyLimit>,
        /// What git does not want any more.
        withdrawn: watch::Receiver<Withdrawal>,
    },
}

/// The providers of which git wants something else than the plan says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Withdrawal {
    /// None.
    #[default]
    Nothing,
    These(BTreeSet<Provider>),
    /// All, or it is not known which.
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

/// If the live state that an update was planned with is older than this, the provider is read again, once, before the update
/// is sent.
pub const STALE: Duration = Duration::from_secs(5);

/// The same for an update that carries what git does not manage: an edit of that since the read would be undone.
pub const STALE_IF_CARRIED: Duration = Duration::from_secs(1);

/// How long an update that is under way may take to end after a stop.
pub const GRACE: Duration = Duration::from_secs(20);

/// What happened, provider by provider, sorted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each provider that the plan would change.
    pub results: Vec<UpdateResult>,
}

/// What happened to one provider.
#[derive(Clone, Debug)]
pub struct UpdateResult {
    pub provider: Provider,
    /// What git wants of it.
    pub desired: Arc<Desired>,
    /// What was to change.
    pub changes: Vec<Change>,
    /// Why it was to change.
    pub cause: Cause,
    /// How it ended.
    pub outcome: Outcome,
    /// How many update requests were sent for it.
    pub sent: u32,
    /// Calry's `updatedAt` in the definition by which the outcome was judged; `None` where there was none.
    pub updated_at: Option<String>,
    /// Of a failure that may pass by itself: how long Calry asked to wait before the next attempt, at least.
    pub transient: Option<Duration>,
    /// How long it took, waiting included.
    pub took: Duration,
}

impl UpdateResult {
    /// Of a step that was not tried.
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

/// How one update ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Calry answered with the definition that was wanted.
    Applied,
    /// It was as desired already when it was read again.
    Unchanged,
    /// Calry took the update, and its answer still differs.
    NotConverged(Vec<Mismatch>),
    /// Every part that can be sent is as desired; these parts cannot be sent.
    Partial(Vec<RefusedPart>),
    /// It was not updated, or nobody knows; the sentence says which.
    Failed(String),
    /// It was not tried; the sentence says why.
    Skipped(String),
}

impl Outcome {
    /// The name in every output.
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

    /// Whether the provider is now as git wants it.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Applied | Self::Unchanged)
    }

    /// What went wrong, as a sentence.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Applied | Self::Unchanged => None,
            Self::Failed(why) | Self::Skipped(why) => Some(why.clone()),
            Self::Partial(refused) => refusal(refused),
            Self::NotConverged(mismatches) => Some(kept_others(mismatches)),
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
        reader,
        writer,
        options,
        halted: Mutex::new(None),
    };
    // Collected, though none of them begins before its turn: a closure that makes them on the way cannot go to another thread.
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

/// What an update did on its way.
#[derive(Default)]
struct Trace {
    sent: u32,
    updated_at: Option<String>,
    transient: Option<Duration>,
}

/// Why an update did not begin.
const STOPPED: &str = "stopped before the update was sent";
const WITHDRAWN: &str =
    "nothing was sent: the files changed after the plan was made, so that it is made again";

struct Run<'a, R, W> {
    reader: &'a R,
    writer: &'a W,
    options: &'a Options,
    /// Why no further update is sent: the key is not accepted, for example, and would not be for the others.
    halted: Mutex<Option<String>>,
}

impl<R: ReadCalry, W: WriteCalry> Run<'_, R, W> {
    /// Updates a provider in its turn, or says why it did not come to that.
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
                () = self.withdrawn(provider) => skipped(WITHDRAWN),
                () = self.options.stop.cancelled() => skipped(STOPPED),
            }
        };
        turns.run_unless(self.finish(step), given_up).await
    }

    /// Waits until git wants something else of a provider.
    async fn withdrawn(&self, provider: &Provider) {
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
        // What a fault left behind is the trace alone, and that is true at any moment.
        let updating =
            AssertUnwindSafe(self.update(step, &mut trace).instrument(span.clone())).catch_unwind();
        let outcome = tokio::select! {
            // What the panic says may quote what it was about.
            outcome = updating => outcome.unwrap_or_else(|_| Outcome::Failed(
                "the update ended by a fault of calry-gitops; it may have arrived".to_owned()
            )),
            // What is dropped here is a request under way: it may arrive, and the next pass reads before it writes.
            () = self.grace_is_over() => Outcome::Failed(
                "stopped while the update was under way; it may have arrived".to_owned()
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
        // An update that was sent, and may have arrived.
        let mut doubt: Option<Error> = None;
        // Age alone never causes two reads in a row.
        let mut reread = false;
        loop {
            let Some(payload) = &step.payload.update else {
                return Outcome::Partial(step.payload.refused);
            };
            if let Some(reason) = self.must_not_start(provider) {
                return given_up(doubt.as_ref(), reason);
            }
            let patience = if step.payload.carries_unmanaged {
                STALE_IF_CARRIED
            } else {
                STALE
            };
            if fetched.elapsed() > patience && !reread {
                match self.reader.definition(provider).await {
                    Err(error) => return self.failed(&error, trace),
                    Ok(live) => {
                        // However long the answer took, it is as new as one can be.
                        (fetched, reread) = (Instant::now(), true);
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
                    return given_up(doubt.as_ref(), self.halt(error.to_string()));
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
                () = tokio::time::sleep(pause) => {}
                () = self.options.stop.cancelled() => {}
                () = self.withdrawn(provider) => {}
            }
            if error.may_have_arrived() {
                // Written again only after it was read: the update may have arrived.
                match self.reader.definition(provider).await {
                    Err(second) => return self.unknown(&error.to_string(), &second),
                    Ok(live) => {
                        (fetched, reread) = (Instant::now(), true);
                        trace.updated_at = Some(live.updated_at.clone());
                        if let Some(outcome) = arrived(&step, &live) {
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

    /// How long to wait after an attempt that failed, before the provider is read and the update is sent again. In a loop
    /// only the first: what may have arrived is read once, so that it can be judged.
    fn pause(&self, error: &Error, backoff: &mut Backoff) -> Option<Duration> {
        match &self.options.caller {
            Caller::Loop { .. } if !error.is_transient() => None,
            // Nothing was sent: that was no attempt.
            Caller::Loop { .. } if !error.is_paused() => (error.may_have_arrived()
                && error.retry_after().is_none())
            .then_some(Duration::ZERO),
            _ => backoff.next(error, self.options.deadline),
        }
    }

    /// Reads the definition after an update that Calry took with an answer that shows nothing of it, and judges by that.
    async fn read_back(&self, step: &Step, why: &str, trace: &mut Trace) -> Outcome {
        match self.reader.definition(&step.desired.provider).await {
            Err(second) => self.unknown(why, &second),
            Ok(live) => {
                trace.updated_at = Some(live.updated_at.clone());
                let arrived = arrived(step, &live);
                arrived.unwrap_or_else(|| match self.replan(step, live) {
                    // It did not move, and is as wanted all the same.
                    Err(Outcome::Unchanged) => Outcome::Applied,
                    _ => Outcome::Failed(format!(
                        "{why}; the definition was read again, and the update is not in it"
                    )),
                })
            }
        }
    }

    /// What became of an update that may have arrived, where the definition cannot be read.
    fn unknown(&self, why: &str, second: &Error) -> Outcome {
        self.halt_where_all_are_concerned(second);
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
        self.halt_where_all_are_concerned(error);
        Outcome::Failed(match error.operation() {
            Operation::Update(_) if error.may_have_arrived() => {
                format!("{error}; the update may have arrived: plan again to see")
            }
            _ => error.to_string(),
        })
    }

    fn halt_where_all_are_concerned(&self, error: &Error) {
        // 403: the key may not write, which is the same for every provider.
        if error.is_fatal_for_workspace() || error.status() == Some(403) {
            self.halt(format!(
                "not tried, because another update failed for a reason that concerns all: {error}"
            ));
        }
    }

    /// No further update is sent; answers with the first reason for that.
    fn halt(&self, why: String) -> String {
        let mut halted = self.halted.lock();
        halted.get_or_insert(why).clone()
    }

    fn replan(&self, step: &Step, live: Live) -> Result<Box<Step>, Outcome> {
        match refresh(step, live, self.options.method) {
            RefreshedStep::Due(fresh) => Ok(fresh),
            RefreshedStep::InSync => Err(Outcome::Unchanged),
            RefreshedStep::Moved => Err(Outcome::Skipped(
                "nothing was sent: the live definition changed after the plan was made, so that other changes are due now; \
                 plan again"
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

/// What became of an update that is not tried, or not again.
fn given_up(doubt: Option<&Error>, reason: String) -> Outcome {
    match doubt {
        Some(error) => Outcome::Failed(format!(
            "{error}; the update may have arrived, and was not tried again: {reason}"
        )),
        None => Outcome::Skipped(reason),
    }
}

/// What became of an update without an answer, where the definition that was read since shows that it arrived: it moved,
/// and less is missing than before, in nothing else than what was to change.
fn arrived(step: &Step, live: &Live) -> Option<Outcome> {
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

/// Success means verified: an update counts when the definition that Calry answers with is the one wanted.
fn judge(step: &Step, answer: &Live) -> Outcome {
    let Payload {
        update, refused, ..
    } = &step.payload;
    let Some(update) = update else {
        return Outcome::Partial(refused.clone());
    };
    if answer.id != step.live.id {
        return Outcome::Failed(
            "Calry answered with a definition of another id than the one that was to be updated; whether that one was \
             updated is unknown: look at both, and plan again"
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
        (_, Some(refusal)) => Outcome::Failed(format!("{}; {refusal}", kept_others(&mismatches))),
    }
}

fn kept_others(mismatches: &[Mismatch]) -> String {
    let paths: Vec<String> = mismatches.iter().map(|m| printable(&m.path)).collect();
    format!(
        "Calry took the update, but kept other values in: {}",
        paths.join(", ")
    )
}
