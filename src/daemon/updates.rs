//! Carries out approved plans in the background, so that no reconciliation waits for an update that Calry does not answer.
//! Such an update goes on, and a later reconciliation gets its result.
//!
//! Never: run two updates of one provider at once, begin an update that git no longer wants, or lose a result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::memory::CONTESTED;
use super::{Memory, log};
use crate::desired::definitions::Loaded;
use crate::http::ConcurrencyLimit;
use crate::live::{Reader, Writer};
use crate::machine;
use crate::model::{Desired, Provider, Revision};
use crate::plan::{Approved, Plan, Step};
use crate::reconcile::apply::{self, Caller, Outcome, UpdateResult, Withdrawal};

/// An update that takes longer no longer counts against the concurrency.
const SLOW: Duration = Duration::from_secs(2);

/// A reconciliation stops waiting if none of its updates ends within this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Updates {
    turns: Option<Arc<ConcurrencyLimit>>,
    tasks: JoinSet<()>,
    send: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    pending: BTreeMap<Provider, PendingUpdate>,
    runs: Runs,
    number: u64,
    /// Results that came after the reconciliation of their update, each with its revision.
    pub(super) late: Vec<(UpdateResult, Option<String>)>,
    /// Whether a finished update requires another reconciliation.
    pub(super) due: bool,
}

/// An update that is running or waits for its turn.
#[derive(Debug)]
struct PendingUpdate {
    run: u64,
    desired: Arc<Desired>,
    /// Whether a later reconciliation skipped the provider because of it.
    skipped: bool,
    /// Whether git had changed by then.
    outdated: bool,
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    approved: Approved,
}

#[derive(Debug)]
pub(super) enum Message {
    /// An update ended, or did not begin.
    Updated(Arc<Run>, Box<UpdateResult>),
    /// All updates of the run ended.
    RunEnded(Arc<Run>),
}

/// Each run with its withdrawn updates.
type AllRuns = BTreeMap<u64, (Arc<Run>, watch::Sender<Withdrawal>)>;

/// The running plans and their withdrawn updates.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(Arc<Mutex<AllRuns>>);

/// Reports the end of a run when it is dropped, also after a panic.
struct RunGuard(Arc<Run>, mpsc::UnboundedSender<Message>);

impl Drop for RunGuard {
    fn drop(&mut self) {
        let _ = self.1.send(Message::RunEnded(Arc::clone(&self.0)));
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
            pending: BTreeMap::new(),
            runs: Runs::default(),
            number: 0,
            late: Vec::new(),
            due: false,
        }
    }
}

impl Runs {
    /// Withdraws every update that has not begun, because the desired state is unknown.
    pub(super) fn withdraw_all(&self) {
        for (_, withdrawn) in self.0.lock().values() {
            withdrawn.send_replace(Withdrawal::All);
        }
    }

    /// Withdraws the updates that have not begun and that git no longer wants.
    pub(super) fn withdraw(&self, loaded: &Loaded) {
        for (run, withdrawn) in self.0.lock().values() {
            let now = outdated_updates(run.approved.plan(), loaded);
            // A withdrawn update stays withdrawn: it is planned again.
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

/// The updates of a plan that git no longer wants.
pub(super) fn outdated_updates(plan: &Plan, loaded: &Loaded) -> Withdrawal {
    let files = loaded.files.iter().filter_map(|file| file.desired.as_ref());
    let wanted: BTreeMap<&Provider, &Arc<Desired>> =
        files.map(|desired| (&desired.provider, desired)).collect();
    let changed: BTreeSet<Provider> = plan
        .steps()
        .map(|step| &step.desired)
        .filter(|desired| wanted.get(&desired.provider) != Some(desired))
        .map(|desired| desired.provider.clone())
        .collect();
    if changed.is_empty() {
        Withdrawal::Nothing
    } else {
        Withdrawal::These(changed)
    }
}

impl Updates {
    pub(super) fn runs(&self) -> Runs {
        self.runs.clone()
    }

    /// Starts to carry out a plan. Returns the number of the run.
    pub(super) fn start(
        &mut self,
        approved: Approved,
        (reader, writer): (Reader, Writer),
        options: impl FnOnce(Caller) -> apply::Options,
        concurrency: usize,
        withdrawn: Withdrawal,
    ) -> u64 {
        self.number += 1;
        // Up to twice as many may be slow, which bounds the load on a slow Calry.
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
        let skipped = |step: &&Step| options.skip.contains_key(&step.desired.provider);
        for step in run.approved.plan().steps().filter(|step| !skipped(step)) {
            let pending = PendingUpdate {
                run: run.number,
                desired: Arc::clone(&step.desired),
                skipped: false,
                outdated: false,
            };
            self.pending.insert(step.desired.provider.clone(), pending);
        }
        self.runs
            .0
            .lock()
            .insert(run.number, (Arc::clone(&run), withdraw));
        let send = self.send.clone();
        let carry_out = async move {
            let guard = RunGuard(run, send);
            let RunGuard(run, send) = &guard;
            apply::apply(
                &run.approved,
                &reader,
                &writer,
                &options,
                |result: &UpdateResult| {
                    let _ = send.send(Message::Updated(Arc::clone(run), Box::new(result.clone())));
                },
            )
            .await;
        };
        // Frees the finished tasks.
        while self.tasks.try_join_next().is_some() {}
        self.tasks
            .spawn(machine::inherit(carry_out.in_current_span()));
        self.number
    }

    /// The providers of a plan with an unfinished update of an earlier one, each with the reason to skip it.
    pub(super) fn busy(&mut self, plan: &Plan) -> BTreeMap<Provider, String> {
        let mut busy = BTreeMap::new();
        for step in plan.steps() {
            if let Some(pending) = self.pending.get_mut(&step.desired.provider) {
                pending.skipped = true;
                pending.outdated |= pending.desired != step.desired;
                busy.insert(step.desired.provider.clone(), UPDATE_PENDING.to_owned());
            }
        }
        busy
    }

    /// Whether an update of this provider is running or waits for its turn.
    pub(super) fn is_busy(&self, provider: &Provider) -> bool {
        self.pending.contains_key(provider)
    }

    /// The next message of a running plan. Cancel-safe.
    pub(super) async fn next(&mut self) -> Message {
        match self.messages.recv().await {
            Some(message) => message,
            // Impossible: `self` holds a sender as well.
            None => std::future::pending().await,
        }
    }
}

/// Why a provider with an unfinished update is skipped.
pub(super) const UPDATE_PENDING: &str = "its update is running or waits for its turn";

impl Memory {
    /// Learns from a message of a running plan. Returns its result, if it has one.
    fn learn_message(
        &mut self,
        message: Message,
        interval: Duration,
    ) -> Option<(Arc<Run>, UpdateResult)> {
        match message {
            Message::Updated(run, result) => {
                if self
                    .updates
                    .pending
                    .get(&result.provider)
                    .is_some_and(|one| one.run == run.number)
                {
                    let ended = self.updates.pending.remove(&result.provider);
                    let not_tried = matches!(result.outcome, Outcome::Skipped(_));
                    self.updates.due |=
                        ended.is_some_and(|one| one.outdated || (one.skipped && not_tried));
                }
                // The last applied state belongs to one workspace.
                if self.is_about(&run.approved.plan().workspace) {
                    self.learn_result(&result, interval);
                }
                log::update(
                    run.approved.plan(),
                    &result,
                    self.back_off_of(&result.provider),
                );
                if let Some(listener) = &self.update_listener {
                    listener.call(run.approved.plan(), &result);
                }
                if result.outcome == Outcome::Applied
                    && let Some(times @ CONTESTED) = self.contested_times(&result.provider)
                {
                    log::contested(&result.provider, times);
                }
                Some((run, *result))
            }
            Message::RunEnded(run) => {
                self.updates.runs.0.lock().remove(&run.number);
                let lost: Vec<Provider> = self
                    .updates
                    .pending
                    .extract_if(.., |_, one| one.run == run.number)
                    .map(|(p, _)| p)
                    .collect();
                // The run panicked: its requests may have arrived.
                lost.iter().for_each(|provider| self.doubt(provider));
                self.updates.due |= !lost.is_empty();
                None
            }
        }
    }

    /// Learns from a message of a plan whose reconciliation is over.
    fn learn_late_message(&mut self, message: Message, interval: Duration) {
        let over = matches!(message, Message::RunEnded(_));
        if let Some((run, result)) = self.learn_message(message, interval)
            // An update that did not begin is planned again and not reported.
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

    /// Learns from a message during the reconciliation of the run `own`, whose results go to `results`. Returns whether that
    /// run has ended.
    pub(super) fn learn_own_message(
        &mut self,
        message: Message,
        interval: Duration,
        own: u64,
        results: &mut Vec<UpdateResult>,
    ) -> bool {
        let (Message::Updated(run, _) | Message::RunEnded(run)) = &message;
        if run.number != own {
            self.learn_late_message(message, interval);
            return false;
        }
        let over = matches!(message, Message::RunEnded(_));
        results.extend(
            self.learn_message(message, interval)
                .map(|(_, result)| result),
        );
        over
    }

    /// Learns from all messages of earlier plans. Returns the providers for which a request was sent.
    pub(super) fn catch_up(&mut self, interval: Duration) -> BTreeSet<Provider> {
        let mut sent = BTreeSet::new();
        while let Ok(message) = self.updates.messages.try_recv() {
            if let Message::Updated(_, result) = &message
                && result.sent > 0
            {
                sent.insert(result.provider.clone());
            }
            self.learn_late_message(message, interval);
        }
        sent
    }

    /// Learns from messages of earlier plans until another reconciliation is required. Cancel-safe.
    pub(super) async fn updates_ended(&mut self, interval: Duration) {
        while !std::mem::take(&mut self.updates.due) {
            let message = self.updates.next().await;
            self.learn_late_message(message, interval);
        }
    }

    /// Waits for the running updates at the end of the loop and learns their results.
    pub(super) async fn finish_updates(&mut self, interval: Duration) {
        self.updates.runs.withdraw_all();
        while !self.updates.runs.0.lock().is_empty() {
            let message = self.updates.next().await;
            self.learn_late_message(message, interval);
        }
        self.save().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use reqwest::{Request, Response};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::daemon::fixtures;
    use crate::daemon::state_file::StateStore;
    use crate::desired::definitions;
    use crate::live::{BrokenTransport, Transport};
    use crate::model::{Secret, UpdateMethod, Workspace};
    use crate::plan::{AppliedState, Cause, Context, Limits, PlanInput, plan};

    const SECOND: Duration = Duration::from_secs(1);

    fn provider(name: &str) -> Provider {
        Provider::parse(name).unwrap()
    }

    /// Files that set the icon of each of these providers.
    fn loaded(providers: &[&str], icon: &str) -> Loaded {
        let directory = tempfile::tempdir().unwrap();
        for provider in providers {
            let file = format!("{}.yaml", provider.to_lowercase());
            let text = format!("provider: {provider}\nicon: https://e.com/{icon}\n");
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        definitions::load_or_empty(directory.path()).unwrap()
    }

    /// A run that updates each of these providers.
    fn run(number: u64, providers: &[&str], icon: &str) -> Arc<Run> {
        let files = loaded(providers, icon).files.into_iter();
        let inputs = files.map(|file| PlanInput {
            file: file.name,
            provider: file.provider,
            desired: file.desired,
        });
        let live: Vec<_> = providers.iter().map(|name| fixtures::live(name)).collect();
        let context = Context {
            today: jiff::civil::date(2026, 1, 1),
            method: UpdateMethod::Patch,
            applied: &AppliedState::new(),
            base: None,
        };
        let plan = plan(fixtures::workspace(), None, inputs, live, &[], context);
        let approved = plan.approve(&Limits::default()).unwrap();
        assert_eq!(approved.plan().steps().count(), providers.len());
        Arc::new(Run { number, approved })
    }

    /// A daemon's memory in the workspace of the runs, with an unfinished update of each of these providers.
    fn memory(run: &Arc<Run>, providers: &[&str]) -> Memory {
        let mut memory = Memory::new(&Arc::new(StateStore::in_process().unwrap()));
        memory.learn_workspace(&Secret::new("key"), &fixtures::workspace());
        for step in run.approved.plan().steps() {
            let pending = PendingUpdate {
                run: run.number,
                desired: Arc::clone(&step.desired),
                skipped: false,
                outdated: false,
            };
            if providers.contains(&step.desired.provider.as_str()) {
                let provider = step.desired.provider.clone();
                memory.updates.pending.insert(provider, pending);
            }
        }
        memory
    }

    fn updated(run: &Arc<Run>, provider: &str, outcome: Outcome) -> Message {
        let result = fixtures::result(provider, Cause::Change, outcome);
        Message::Updated(Arc::clone(run), Box::new(result))
    }

    fn skipped() -> Outcome {
        Outcome::Skipped(String::new())
    }

    #[test]
    fn a_handle_that_was_taken_before_a_run_began_withdraws_it() {
        let run = run(1, &["A"], "new");
        let memory = memory(&run, &["A"]);
        let runs = memory.updates.runs();
        let (send, withdrawn) = watch::channel(Withdrawal::Nothing);
        memory.updates.runs.0.lock().insert(1, (run, send));
        runs.withdraw_all();
        assert_eq!(*withdrawn.borrow(), Withdrawal::All);
    }

    #[test]
    fn what_git_no_longer_wants_stays_withdrawn_and_each_withdrawal_wakes_what_waits_once() {
        let runs = Runs::default();
        let (send, mut withdrawn) = watch::channel(Withdrawal::Nothing);
        let run = run(1, &["A", "B"], "new");
        runs.0.lock().insert(1, (run, send));
        let these =
            |names: &[&str]| Withdrawal::These(names.iter().map(|name| provider(name)).collect());
        for (wanted, wakes, known) in [
            (["A", "B"].as_slice(), false, Withdrawal::Nothing),
            (&["A"], true, these(&["B"])),
            (&["A"], false, these(&["B"])),
            (&["A", "B"], false, these(&["B"])),
            (&[], true, these(&["A", "B"])),
        ] {
            runs.withdraw(&loaded(wanted, "new"));
            assert_eq!(withdrawn.has_changed().unwrap(), wakes, "{wanted:?}");
            assert_eq!(*withdrawn.borrow_and_update(), known, "{wanted:?}");
        }
        runs.withdraw_all();
        assert_eq!(*withdrawn.borrow_and_update(), Withdrawal::All);
        runs.withdraw(&loaded(&["A"], "new"));
        assert_eq!(*withdrawn.borrow_and_update(), Withdrawal::All);
    }

    #[test]
    fn a_provider_with_an_unfinished_update_is_skipped_and_remembers_that_git_has_changed() {
        let run = run(1, &["A", "B"], "new");
        let mut memory = memory(&run, &["A"]);
        let busy = BTreeMap::from([(provider("A"), UPDATE_PENDING.to_owned())]);
        for (icon, outdated) in [("new", false), ("newer", true), ("new", true)] {
            let next = self::run(2, &["A", "B"], icon);
            assert_eq!(memory.updates.busy(next.approved.plan()), busy);
            let pending = &memory.updates.pending[&provider("A")];
            assert_eq!((pending.skipped, pending.outdated), (true, outdated));
        }
    }

    #[test]
    fn after_an_update_its_provider_is_due_if_git_has_changed_or_a_skipped_update_was_not_tried() {
        for (was_skipped, was_outdated, outcome, due) in [
            (false, false, Outcome::Applied, false),
            (true, false, Outcome::Applied, false),
            (true, true, Outcome::Applied, true),
            (false, false, skipped(), false),
            (true, false, skipped(), true),
        ] {
            let run = run(1, &["A"], "new");
            let mut memory = memory(&run, &["A"]);
            let pending = memory.updates.pending.get_mut(&provider("A")).unwrap();
            (pending.skipped, pending.outdated) = (was_skipped, was_outdated);
            // A message of another run is not about the unfinished update.
            let other = self::run(2, &["A"], "new");
            memory.learn_late_message(updated(&other, "A", skipped()), SECOND);
            assert!(memory.updates.is_busy(&provider("A")) && !memory.updates.due);
            memory.learn_late_message(updated(&run, "A", outcome.clone()), SECOND);
            assert!(!memory.updates.is_busy(&provider("A")));
            assert_eq!(memory.updates.due, due, "{was_skipped} {outcome:?}");
        }
    }

    #[test]
    fn the_last_late_result_of_each_provider_is_reported_after_its_run() {
        let run = run(1, &["A", "B"], "new");
        let mut memory = memory(&run, &[]);
        memory.learn_late_message(Message::RunEnded(Arc::clone(&run)), SECOND);
        assert!(!memory.updates.due, "nothing to report");
        let failed = Outcome::Failed("no".to_owned());
        for (provider, outcome) in [
            ("A", failed),
            ("B", Outcome::Applied),
            ("A", Outcome::Unchanged),
            ("B", skipped()),
        ] {
            memory.learn_late_message(updated(&run, provider, outcome), SECOND);
        }
        let late = memory.updates.late.iter();
        let late: Vec<_> = late
            .map(|(result, _)| (result.provider.as_str(), &result.outcome))
            .collect();
        assert_eq!(late, [("B", &Outcome::Applied), ("A", &Outcome::Unchanged)]);
        assert!(!memory.updates.due);
        memory.learn_late_message(Message::RunEnded(run), SECOND);
        assert!(memory.updates.due);
    }

    #[test]
    fn a_run_that_ends_without_all_of_its_results_leaves_masked_values_in_doubt() {
        let run = run(2, &["A"], "new");
        let mut memory = memory(&run, &["A"]);
        let applied = UpdateResult {
            updated_at: Some("1".to_owned()),
            ..fixtures::result("A", Cause::Change, Outcome::Applied)
        };
        memory.learn_result(&applied, SECOND);
        let known = |memory: &Memory| memory.applied[&provider("A")].updated_at.is_some();
        let other = self::run(1, &["A"], "new");
        memory.learn_late_message(Message::RunEnded(other), SECOND);
        assert!(known(&memory) && memory.updates.is_busy(&provider("A")) && !memory.updates.due);
        memory.learn_late_message(Message::RunEnded(run), SECOND);
        assert!(!known(&memory) && !memory.updates.is_busy(&provider("A")) && memory.updates.due);
    }

    #[test]
    fn a_result_of_another_workspace_is_not_what_was_applied_in_this_one() {
        for (id, learned) in [("a", true), ("b", false)] {
            let run = run(1, &["A"], "new");
            let mut memory = Memory::new(&Arc::new(StateStore::in_process().unwrap()));
            let workspace = Workspace {
                id: id.to_owned(),
                ..fixtures::workspace()
            };
            memory.learn_workspace(&Secret::new("key"), &workspace);
            memory.learn_late_message(updated(&run, "A", Outcome::Applied), SECOND);
            assert_eq!(memory.applied.contains_key(&provider("A")), learned, "{id}");
        }
    }

    #[test]
    fn only_results_of_its_own_run_are_those_of_a_reconciliation() {
        let (earlier, own) = (run(1, &["A"], "new"), run(2, &["B"], "new"));
        let (mut memory, mut results) = (memory(&own, &[]), Vec::new());
        let messages = [
            (updated(&earlier, "A", Outcome::Applied), false),
            (Message::RunEnded(earlier), false),
            (updated(&own, "B", Outcome::Applied), false),
            (Message::RunEnded(own), true),
        ];
        for (message, ended) in messages {
            let shown = format!("{message:?}");
            let over = memory.learn_own_message(message, SECOND, 2, &mut results);
            assert_eq!(over, ended, "{shown}");
        }
        let of = |result: &UpdateResult| result.provider.to_string();
        assert_eq!(results.iter().map(of).collect::<Vec<_>>(), ["B"]);
        let late = memory.updates.late.iter().map(|(result, _)| of(result));
        assert_eq!(late.collect::<Vec<_>>(), ["A"]);
    }

    #[test]
    fn a_plan_leaves_out_providers_for_which_an_earlier_one_sent_a_request_meanwhile() {
        let run = run(1, &["A", "B"], "new");
        let mut memory = memory(&run, &["A", "B"]);
        let not_sent = UpdateResult {
            sent: 0,
            ..fixtures::result("B", Cause::Change, skipped())
        };
        for message in [
            updated(&run, "A", Outcome::Applied),
            Message::Updated(Arc::clone(&run), Box::new(not_sent)),
        ] {
            memory.updates.send.send(message).unwrap();
        }
        assert_eq!(memory.catch_up(SECOND), BTreeSet::from([provider("A")]));
        assert!(memory.updates.pending.is_empty());
    }

    /// Sends no request on: the sender of each waits until it is released, and its connection breaks then.
    #[derive(Debug)]
    struct Unanswered {
        sent: Mutex<Vec<String>>,
        released: watch::Sender<bool>,
    }

    impl Transport for Unanswered {
        fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, BrokenTransport>> {
            let provider = request.url().path().rsplit('/').next().unwrap();
            self.sent.lock().push(provider.to_owned());
            let mut released = self.released.subscribe();
            Box::pin(async move {
                released.wait_for(|released| *released).await.unwrap();
                Err(BrokenTransport { sent: false })
            })
        }
    }

    /// Starts the updates of these providers, of which `skip` is skipped. Returns the number of the run.
    fn start(
        updates: &mut Updates,
        transport: &Arc<Unanswered>,
        (providers, skip): (&[&str], &str),
        concurrency: usize,
    ) -> u64 {
        let api = fixtures::api(Arc::clone(transport) as _).with_request_timeout(SECOND * 600);
        let deadline = Instant::now() + SECOND * 600;
        let reader = api.reader(&fixtures::key(), deadline);
        let writer = api.writer(&reader);
        let skip = BTreeMap::from([(provider(skip), UPDATE_PENDING.to_owned())]);
        let options = |caller| apply::Options {
            caller,
            method: UpdateMethod::Patch,
            fetched: Instant::now() + SECOND * 600,
            deadline,
            skip,
            backups: None,
            stop: CancellationToken::new(),
        };
        let approved = Arc::into_inner(run(0, providers, "new")).unwrap().approved;
        updates.start(
            approved,
            (reader, writer),
            options,
            concurrency,
            Withdrawal::Nothing,
        )
    }

    fn unanswered() -> Arc<Unanswered> {
        Arc::new(Unanswered {
            sent: Mutex::default(),
            released: watch::Sender::new(false),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn twice_as_many_updates_as_the_concurrency_may_be_slow_beside_it() {
        let (mut updates, transport) = (Updates::default(), unanswered());
        let providers: Vec<String> = ('A'..='L').map(String::from).collect();
        let providers: Vec<&str> = providers.iter().map(String::as_str).collect();
        start(&mut updates, &transport, (&providers, "Z"), 3);
        for (seconds, sent) in [(1, 3), (2, 6), (2, 9), (60, 9)] {
            tokio::time::sleep(SECOND * seconds).await;
            assert_eq!(transport.sent.lock().len(), sent, "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_the_updates_that_have_begun_are_waited_for_and_no_other_begins() {
        let (first, transport) = (run(1, &["A", "B", "C", "D"], "new"), unanswered());
        let mut memory = memory(&first, &[]);
        let updates = &mut memory.updates;
        assert_eq!(start(updates, &transport, (&["A", "B", "C"], "C"), 1), 1);
        let busy = ["A", "B", "C"].map(|name| updates.is_busy(&provider(name)));
        assert_eq!(busy, [true, true, false], "a skipped one has no update");
        tokio::time::sleep(SECOND).await;
        // The limit holds for all runs together.
        assert_eq!(start(updates, &transport, (&["D"], "Z"), 5), 2);
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(*transport.sent.lock(), ["A"]);
        let release = async {
            tokio::time::sleep(SECOND).await;
            transport.released.send_replace(true);
        };
        futures_util::future::join(memory.finish_updates(SECOND), release).await;
        assert_eq!(*transport.sent.lock(), ["A"]);
        assert!(memory.updates.pending.is_empty() && memory.updates.runs.0.lock().is_empty());
        let late = memory.updates.late.iter();
        let late: Vec<_> = late.map(|(result, _)| result.provider.as_str()).collect();
        assert_eq!(late, ["A"]);
    }

    #[tokio::test]
    async fn another_reconciliation_is_required_once_after_the_results_of_a_run() {
        let run = run(1, &["A"], "new");
        let mut memory = memory(&run, &["A"]);
        memory
            .updates
            .send
            .send(updated(&run, "A", Outcome::Applied))
            .unwrap();
        assert_eq!(memory.updates_ended(SECOND).now_or_never(), None);
        assert!(!memory.updates.is_busy(&provider("A")));
        memory.updates.send.send(Message::RunEnded(run)).unwrap();
        assert_eq!(memory.updates_ended(SECOND).now_or_never(), Some(()));
        assert_eq!(memory.updates_ended(SECOND).now_or_never(), None);
    }
}
