//! Carries approved plans out beside the loop, so that a reconciliation waits for none of its updates: what Calry does not
//! answer goes on, and its result is learned when there is one.
//!
//! Never: two updates of one provider at once, an update of what git took back before it began, a result that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::memory::CONTESTED;
use super::{Memory, log};
use crate::desired::definitions::Loaded;
use crate::http::ConcurrencyLimit;
use crate::live::{Reader, Writer};
use crate::model::{Desired, Provider, Revision};
use crate::plan::{Approved, Plan};
use crate::reconcile::apply::{self, Caller, Outcome, UpdateResult, Withdrawal};

/// An update that takes longer does not count against the concurrency any more.
const SLOW: Duration = Duration::from_secs(2);

/// A reconciliation waits for its updates for as long as one of them ends this often.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The updates of one loop.
#[derive(Debug)]
pub(super) struct Updates {
    turns: Option<Arc<ConcurrencyLimit>>,
    tasks: JoinSet<()>,
    send: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    under_way: BTreeMap<Provider, UnderWay>,
    runs: Runs,
    number: u64,
    /// Results that came after the reconciliation that began them, each with the revision that it is about.
    late: Vec<(UpdateResult, Option<String>)>,
    /// Whether the loop is to reconcile again, because of what ended.
    due: bool,
}

/// An update that has a turn or waits for one.
#[derive(Debug)]
struct UnderWay {
    run: u64,
    desired: Arc<Desired>,
    /// Whether a later reconciliation left the provider out.
    left_out: bool,
    /// Whether git wanted something else then.
    outdated: bool,
}

/// One plan that is carried out.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    approved: Approved,
}

/// What a plan that is carried out reports.
#[derive(Debug)]
pub(super) enum Message {
    /// An update ended, or did not begin.
    Ended(Arc<Run>, Box<UpdateResult>),
    /// All did.
    Over(Arc<Run>),
}

/// Each with what of it is withdrawn.
type AllRuns = BTreeMap<u64, (Arc<Run>, watch::Sender<Withdrawal>)>;

/// The plans that are carried out, and what of them is withdrawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(Arc<Mutex<AllRuns>>);

/// Reports that a run is over, also where it ends by a fault.
struct Over(Arc<Run>, mpsc::UnboundedSender<Message>);

impl Drop for Over {
    fn drop(&mut self) {
        let _ = self.1.send(Message::Over(Arc::clone(&self.0)));
    }
}

impl Default for Updates {
    fn default() -> Self {
        let (send, messages) = mpsc::unbounded_channel();
        Self {
            turns: None,
            tasks: JoinSet::new(),
            send,
            messages,
            under_way: BTreeMap::new(),
            runs: Runs::default(),
            number: 0,
            late: Vec::new(),
            due: false,
        }
    }
}

impl Runs {
    fn lock(&self) -> MutexGuard<'_, AllRuns> {
        self.0.lock()
    }

    /// Withdraws every update that has not begun: what git wants now is not known yet.
    pub(super) fn withdraw_all(&self) {
        for (_, withdrawn) in self.lock().values() {
            withdrawn.send_replace(Withdrawal::All);
        }
    }

    /// Withdraws the updates that have not begun and of which git wants something else now.
    pub(super) fn withdraw(&self, loaded: &Loaded) {
        for (run, withdrawn) in self.lock().values() {
            let now = withdraw(run.approved.plan(), loaded);
            // What was withdrawn once is planned again.
            withdrawn.send_if_modified(|known| match (&mut *known, now) {
                (_, Withdrawal::Nothing) | (Withdrawal::All, _) => false,
                (Withdrawal::These(known), Withdrawal::These(now)) => {
                    let before = known.len();
                    known.extend(now);
                    known.len() > before
                }
                (known, now) => {
                    *known = now;
                    true
                }
            });
        }
    }
}

/// What of a plan git does not want any more.
pub(super) fn withdraw(plan: &Plan, loaded: &Loaded) -> Withdrawal {
    let files = loaded.files.iter().filter_map(|file| file.desired.as_ref());
    let wanted: BTreeMap<&Provider, &Desired> = files
        .map(|desired| (&desired.provider, &**desired))
        .collect();
    let other = |desired: &Desired| wanted.get(&desired.provider) != Some(&desired);
    let changed = plan
        .steps()
        .filter(|step| other(&step.desired))
        .map(|step| step.desired.provider.clone());
    let changed: BTreeSet<Provider> = changed.collect();
    if changed.is_empty() {
        Withdrawal::Nothing
    } else {
        Withdrawal::These(changed)
    }
}

impl Updates {
    /// The plans that are carried out now.
    pub(super) fn runs(&self) -> Runs {
        self.runs.clone()
    }

    /// Begins to carry a plan out. Returns its number.
    pub(super) fn start(
        &mut self,
        approved: Approved,
        (reader, writer): (Reader, Writer),
        options: impl FnOnce(Caller) -> apply::Options,
        concurrency: usize,
        withdrawn: Withdrawal,
    ) -> u64 {
        self.number += 1;
        // Twice as many may be slow, which bounds what a Calry that answers slowly has to do at once.
        let turns = self.turns.get_or_insert_with(|| {
            Arc::new(ConcurrencyLimit::new(concurrency, 2 * concurrency, SLOW))
        });
        let (withdraw, withdrawn) = watch::channel(withdrawn);
        let options = options(Caller::Loop {
            turns: Arc::clone(turns),
            withdrawn,
        });
        let run = Arc::new(Run {
            number: self.number,
            approved,
        });
        for step in run
            .approved
            .plan()
            .steps()
            .filter(|step| !options.skip.contains_key(&step.desired.provider))
        {
            let under_way = UnderWay {
                run: run.number,
                desired: Arc::clone(&step.desired),
                left_out: false,
                outdated: false,
            };
            self.under_way
                .insert(step.desired.provider.clone(), under_way);
        }
        self.runs
            .lock()
            .insert(run.number, (Arc::clone(&run), withdraw));
        let send = self.send.clone();
        let carry_out = async move {
            let over = Over(run, send);
            let Over(run, send) = &over;
            apply::apply(
                &run.approved,
                &reader,
                &writer,
                &options,
                |result: &UpdateResult| {
                    let _ = send.send(Message::Ended(Arc::clone(run), Box::new(result.clone())));
                },
            )
            .await;
        };
        // What has ended is let go of.
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(carry_out.in_current_span());
        self.number
    }

    /// The providers of a plan that an earlier one is updating, each with the reason why it is not updated now.
    pub(super) fn busy(&mut self, plan: &Plan) -> BTreeMap<Provider, String> {
        let mut busy = BTreeMap::new();
        for step in plan.steps() {
            if let Some(under_way) = self.under_way.get_mut(&step.desired.provider) {
                under_way.left_out = true;
                under_way.outdated |= under_way.desired != step.desired;
                busy.insert(step.desired.provider.clone(), UNDER_WAY.to_owned());
            }
        }
        busy
    }

    /// Whether an update of this provider has a turn or waits for one.
    pub(super) fn is_busy(&self, provider: &Provider) -> bool {
        self.under_way.contains_key(provider)
    }

    /// What a plan that is carried out reports next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Message {
        match self.messages.recv().await {
            Some(message) => message,
            // It cannot be: this end holds a sender, too.
            None => std::future::pending().await,
        }
    }

    /// Takes the results that no report has shown.
    pub(super) fn take_late(&mut self) -> Vec<(UpdateResult, Option<String>)> {
        std::mem::take(&mut self.late)
    }

    /// Whether the loop is to reconcile again; asked once.
    pub(super) fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.due)
    }
}

/// Why a provider is not updated while an update of it is under way.
pub(super) const UNDER_WAY: &str =
    "its update is under way: it waits for its turn, or Calry has not answered yet";

impl Memory {
    /// Takes over what a plan that is carried out reports. Returns the result where there is one.
    fn take_over(
        &mut self,
        message: Message,
        interval: Duration,
    ) -> Option<(Arc<Run>, UpdateResult)> {
        match message {
            Message::Ended(run, result) => {
                if self
                    .updates
                    .under_way
                    .get(&result.provider)
                    .is_some_and(|one| one.run == run.number)
                {
                    let ended = self.updates.under_way.remove(&result.provider);
                    let skipped = matches!(result.outcome, Outcome::Skipped(_));
                    self.updates.due |=
                        ended.is_some_and(|one| one.outdated || (one.left_out && skipped));
                }
                // What was applied to one workspace says nothing of another.
                if self.is_about(&run.approved.plan().workspace) {
                    self.learn_result(&result, interval);
                }
                log::update(
                    run.approved.plan(),
                    &result,
                    self.back_off_of(&result.provider),
                );
                if result.outcome == Outcome::Applied
                    && let Some(times @ CONTESTED) = self.contested_times(&result.provider)
                {
                    log::contested(&result.provider, times);
                }
                Some((run, *result))
            }
            Message::Over(run) => {
                self.updates.runs.lock().remove(&run.number);
                let lost: Vec<Provider> = self
                    .updates
                    .under_way
                    .extract_if(.., |_, one| one.run == run.number)
                    .map(|(p, _)| p)
                    .collect();
                // It ended by a fault: what it sent may have arrived.
                lost.iter().for_each(|provider| self.doubt(provider));
                self.updates.due |= !lost.is_empty();
                None
            }
        }
    }

    /// Takes over a report of a plan whose reconciliation is over.
    fn take_over_late(&mut self, message: Message, interval: Duration) {
        let over = matches!(message, Message::Over(_));
        if let Some((run, result)) = self.take_over(message, interval)
            // What did not begin is planned again; there is nothing to report.
            && !matches!(result.outcome, Outcome::Skipped(_))
        {
            let revision = run.approved.plan().revision.as_ref().map(Revision::short);
            self.updates
                .late
                .retain(|(known, _)| known.provider != result.provider);
            self.updates.late.push((result, revision));
        }
        self.updates.due |= over && !self.updates.late.is_empty();
    }

    /// Takes over what the plans that are carried out report, in the reconciliation that began one of them: its results go
    /// to `results`. Returns whether it is over.
    pub(super) fn take_over_own(
        &mut self,
        message: Message,
        interval: Duration,
        own: u64,
        results: &mut Vec<UpdateResult>,
    ) -> bool {
        let (Message::Ended(run, _) | Message::Over(run)) = &message;
        if run.number != own {
            self.take_over_late(message, interval);
            return false;
        }
        let over = matches!(message, Message::Over(_));
        results.extend(self.take_over(message, interval).map(|(_, result)| result));
        over
    }

    /// Takes over what earlier plans report by now. Returns the providers to which something was sent.
    pub(super) fn catch_up(&mut self, interval: Duration) -> BTreeSet<Provider> {
        let mut sent = BTreeSet::new();
        while let Ok(message) = self.updates.messages.try_recv() {
            if let Message::Ended(_, result) = &message
                && result.sent > 0
            {
                sent.insert(result.provider.clone());
            }
            self.take_over_late(message, interval);
        }
        sent
    }

    /// Takes over what earlier plans report, until the loop is to reconcile again. Cancel-safe.
    pub(super) async fn updates_ended(&mut self, interval: Duration) {
        while !self.updates.take_due() {
            let message = self.updates.next().await;
            self.take_over_late(message, interval);
        }
    }

    /// Waits for the updates under way when the loop is over, and takes over how they ended.
    pub(super) async fn finish_updates(&mut self, interval: Duration) {
        self.updates.runs.withdraw_all();
        while !self.updates.runs.lock().is_empty() {
            let message = self.updates.next().await;
            self.take_over_late(message, interval);
        }
        self.save().await;
    }
}
