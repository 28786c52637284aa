use futures_util::future::BoxFuture;
use reqwest::{Request, Response};

use super::super::fixtures::{self, result, workspace};
use super::*;
use crate::live::{BrokenTransport, ReadCalry as _, Transport};
use crate::model::{Live, LiveValue};

#[test]
fn the_pause_grows_with_each_failure_up_to_five_minutes() {
    let minute = Duration::from_secs(60);
    let pauses: Vec<u64> = (1..=5).map(|n| growing(minute, n).as_secs()).collect();
    assert_eq!(pauses, [60, 120, 240, 300, 300]);
    assert_eq!(growing(Duration::from_secs(900), 7).as_secs(), 900);
    assert_eq!(growing(Duration::from_secs(1), u32::MAX).as_secs(), 300);
}

/// The least and the greatest of a thousand pauses, in seconds.
fn range(pause: impl Fn() -> Duration) -> (f64, f64) {
    let pauses = (0..1000).map(|_| pause().as_secs_f64());
    pauses.fold((f64::MAX, 0.0), |(least, most), pause| {
        (pause.min(least), pause.max(most))
    })
}

#[tokio::test(start_paused = true)]
async fn pauses_use_their_whole_range_and_are_never_shorter_than_calry_asks() {
    let is = |(least, most): (f64, f64), low: f64, high: f64| {
        let edge = (high - low) / 20.0;
        assert!(
            least >= low && least < low + edge && most > high - edge && most <= high,
            "{least} to {most}"
        );
    };
    is(range(|| spread(Duration::from_secs(10))), 9.0, 11.0);
    let after = |failures, seconds| {
        range(|| Pause::after_transient(failures, Duration::from_secs(seconds)).left())
    };
    is(after(1, 0), 0.8, 1.2);
    is(after(3, 0), 3.2, 4.8);
    assert_eq!(after(1, 7), (7.0, 7.0));
    assert_eq!(after(u32::MAX, 86_400), (300.0, 300.0));
}

fn memory() -> Memory {
    Memory::new(&Arc::new(StateStore::in_process().unwrap()))
}

fn desired() -> Arc<Desired> {
    fixtures::desired("HOSTAWAY")
}

#[tokio::test]
async fn the_last_applied_state_of_one_workspace_is_not_used_for_another() {
    let in_workspace = |id: &str| Workspace {
        id: id.to_owned(),
        ..workspace()
    };
    let (mut memory, desired, second) = (memory(), desired(), Duration::from_secs(1));
    memory.learn_workspace(&Secret::new("one"), &in_workspace("a"));
    memory.applied.insert(
        desired.provider.clone(),
        Arc::new(memory.last_applied(&desired, None)),
    );
    assert!(
        memory.workspace_of(&Secret::new("two")).is_none() && memory.may_be_of_another_workspace()
    );
    memory.move_to(&in_workspace("a"), second).await;
    assert_eq!(
        memory.applied.len(),
        1,
        "a rotated key of the same workspace"
    );
    memory.move_to(&in_workspace("b"), second).await;
    assert!(memory.applied.is_empty());
}

/// Learns a result in which Calry kept the old values of these fields.
fn keeps(memory: &mut Memory, paths: &[&str]) {
    let mismatch = |path: &&str| Mismatch {
        path: (*path).to_owned(),
        sent: Some(crate::plan::PlainValue::Bool(true)),
        kept: None,
        sensitive: false,
    };
    let outcome = Outcome::NotConverged(paths.iter().map(mismatch).collect());
    let result = result("HOSTAWAY", Cause::Change, outcome);
    memory.learn_result(&result, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_carried_field_keeps_its_pause_and_a_retried_one_gets_a_longer_one() {
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

/// A managed header that Calry masks, and an icon.
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
        icon: Some("https://e.com/icon".to_owned()),
        partner_key: crate::model::PartnerKey {
            headers: Some(values),
            query_params: None,
        },
        updated_at: updated_at.to_owned(),
        ..fixtures::live("HOSTAWAY")
    }
}

/// Plans `keyed` and learns from the plan, as the daemon does.
fn planned(memory: &mut Memory, live: Live) -> Plan {
    let workspace = workspace();
    memory
        .workspace_id
        .get_or_insert_with(|| workspace.id.clone());
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

/// Learns the result of the update of a plan; `None` if it is backed off or nothing is due.
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
        desired: Arc::clone(&step.desired),
        changes: step.changes.clone(),
        sent,
        updated_at: Some(updated_at.to_owned()),
        ..result("HOSTAWAY", step.cause, outcome)
    };
    memory.learn_result(&result, Duration::from_secs(10));
    Some(sent)
}

#[tokio::test(start_paused = true)]
async fn a_masked_value_is_sent_once_if_another_writer_changed_updated_at() {
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
async fn an_api_that_changes_updated_at_by_itself_is_updated_less_and_less_often() {
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
fn a_pause_from_the_state_file_is_at_most_as_long_as_a_new_one() {
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

#[tokio::test(start_paused = true)]
async fn the_next_reconciliation_comes_later_after_failures_and_while_a_leader_does_not_act() {
    let mut memory = memory();
    let mut next = |result: ReconciliationResult, standby: bool| {
        let mut report = fixtures::report(result);
        report.findings.standby = standby;
        let (pause, trigger) = memory.next_pause(Duration::from_secs(60), &report);
        assert_eq!(trigger, Trigger::Interval);
        pause
    };
    let is = |pause: Duration, seconds: u64| {
        let expected = Duration::from_secs(seconds);
        assert!(
            pause.abs_diff(expected) <= expected / 10,
            "{pause:?} {seconds}"
        );
    };
    let observed = |plan: &Plan| ReconciliationResult::Observed(plan.clone());
    for seconds in [60, 120, 240, 300] {
        let pause = next(ReconciliationResult::Failed(Failure::Stopped), false);
        is(pause, seconds);
        assert!(pause <= LONGEST_PAUSE);
    }
    let differs = planned(&mut self::memory(), masked("0"));
    let in_sync = fixtures::plan(Vec::new());
    is(next(observed(&differs), false), 60);
    for seconds in [5, 10, 20, 40, 60, 60] {
        is(next(observed(&differs), true), seconds);
    }
    is(next(observed(&in_sync), true), 60);
    is(next(observed(&differs), true), 5);
}

#[tokio::test(start_paused = true)]
async fn a_failed_update_is_retried_before_the_interval_and_is_brief_at_first() {
    let (mut memory, minute) = (memory(), Duration::from_secs(60));
    let failed = UpdateResult {
        transient: Some(Duration::from_secs(30)),
        ..result(
            "HOSTAWAY",
            Cause::Change,
            Outcome::Failed("gone".to_owned()),
        )
    };
    let brief = |memory: &Memory| memory.back_off_of(&failed.provider).map(|off| off.brief);
    for _ in 0..MAX_BRIEF_FAILURES {
        memory.learn_result(&failed, minute);
        assert_eq!(brief(&memory), Some(true));
    }
    memory.learn_result(&failed, minute);
    assert_eq!(brief(&memory), Some(false));
    let plan = || fixtures::plan(Vec::new());
    let applied = ReconciliationResult::Applied(plan(), crate::reconcile::apply::Report::default());
    let (pause, trigger) = memory.next_pause(minute * 5, &fixtures::report(applied));
    assert_eq!(trigger, Trigger::Update);
    assert!(
        pause >= Duration::from_secs(25) && pause < minute,
        "{pause:?}"
    );
    let applied = ReconciliationResult::Applied(plan(), crate::reconcile::apply::Report::default());
    let (pause, trigger) = memory.next_pause(minute / 6, &fixtures::report(applied));
    assert_eq!(trigger, Trigger::Interval);
    assert!(pause <= minute / 5, "{pause:?}");
    // Nothing was retried, so nothing is due.
    let observed = fixtures::report(ReconciliationResult::Observed(plan()));
    assert_eq!(
        memory.next_pause(minute * 5, &observed).1,
        Trigger::Interval
    );
    let lasting = result("HOSTAWAY", Cause::Change, Outcome::Failed("no".to_owned()));
    let mut memory = self::memory();
    memory.learn_result(&lasting, minute);
    assert_eq!(brief(&memory), Some(false));
    // The time is rounded up.
    let plan = planned(&mut memory, masked("0"));
    let mut memory = self::memory();
    assert_eq!(
        carried_out(&mut memory, &plan, Outcome::Failed("no".to_owned()), "-"),
        Some(1)
    );
    tokio::time::advance(Duration::from_millis(1)).await;
    let skipped: Vec<String> = memory
        .backed_off_steps(&plan, false)
        .into_values()
        .collect();
    assert_eq!(
        skipped,
        ["next attempt in 10s or when its file changes: no"]
    );
    assert!(memory.backed_off_steps(&plan, true).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_update_counts_as_undone_if_drift_follows_within_two_intervals() {
    let (mut memory, ten) = (memory(), Duration::from_secs(10));
    let mut times = Vec::new();
    for (seconds, cause) in [
        (0, Cause::Change),
        (19, Cause::Drift),
        (19, Cause::Drift),
        (20, Cause::Drift),
        (1, Cause::Drift),
        (1, Cause::Change),
        (1, Cause::Drift),
        (1, Cause::Drift),
    ] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        memory.learn_result(&result("HOSTAWAY", cause, Outcome::Applied), ten);
        times.push(memory.contested_times(&desired().provider).unwrap());
    }
    assert_eq!(times, [0, 1, 2, 0, 1, 0, 1, 2]);
    assert!(memory.contested().is_empty());
    memory.learn_result(&result("HOSTAWAY", Cause::Drift, Outcome::Applied), ten);
    assert_eq!(
        memory.contested(),
        BTreeMap::from([(desired().provider.clone(), CONTESTED)])
    );
    // In sync for most of an interval: it was not undone.
    let plan = fixtures::plan(vec![fixtures::entry(
        "HOSTAWAY",
        Verdict::InSync(desired(), Arc::new(fixtures::live("HOSTAWAY"))),
    )]);
    tokio::time::advance(Duration::from_secs(8)).await;
    memory.learn_plan(&plan, &[], ten);
    assert_eq!(memory.contested().len(), 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    memory.learn_plan(&plan, &[], ten);
    assert!(memory.contested().is_empty());
}

#[tokio::test]
async fn a_provider_is_forgotten_only_if_git_is_known_not_to_manage_it() {
    let stays = |entries: Vec<(&str, Verdict)>, only: &[&str]| {
        let mut memory = memory();
        for provider in ["HOSTAWAY", "GUESTY"] {
            let result = result(provider, Cause::Change, Outcome::Applied);
            memory.learn_result(&result, Duration::from_secs(60));
        }
        let entries = entries.into_iter().map(|(p, v)| fixtures::entry(p, v));
        let plan = fixtures::plan(entries.collect());
        let only: Vec<Provider> = only.iter().map(|p| Provider::parse(p).unwrap()).collect();
        memory.learn_plan(&plan, &only, Duration::from_secs(60));
        memory.applied.contains_key(&desired().provider)
    };
    let guesty = || ("GUESTY", Verdict::Missing);
    assert!(stays(vec![guesty(), ("HOSTAWAY", Verdict::Invalid)], &[]));
    assert!(!stays(vec![guesty()], &[]));
    assert!(!stays(
        vec![guesty(), ("HOSTAWAY", Verdict::Unmanaged)],
        &[]
    ));
    // A file without a name of a provider, and a plan that does not cover it.
    assert!(stays(vec![guesty(), ("", Verdict::Invalid)], &[]));
    assert!(stays(vec![guesty()], &["GUESTY"]));
    assert!(!stays(vec![guesty()], &["GUESTY", "HOSTAWAY"]));
}

#[tokio::test]
async fn what_git_changed_is_left_to_the_leader_and_drift_is_not() {
    let mut memory = memory();
    let plan = planned(&mut memory, masked("0"));
    carried_out(&mut memory, &plan, Outcome::Applied, "1");
    let mut edited = masked("1");
    edited.icon = None;
    let plan = planned(&mut memory, edited.clone());
    memory.leave_to_leader(&plan);
    assert!(memory.applied.contains_key(&keyed().provider));
    let other = memory.last_applied(&desired(), None);
    memory
        .applied
        .insert(keyed().provider.clone(), Arc::new(other));
    let plan = planned(&mut memory, edited);
    memory.leave_to_leader(&plan);
    assert!(memory.applied.is_empty());
}

#[tokio::test]
async fn a_masked_value_is_in_doubt_only_after_a_request_that_may_have_changed_it() {
    for (sent, masks, known) in [(0, true, true), (1, true, false), (1, false, true)] {
        let mut memory = memory();
        let plan = planned(&mut memory, masked("0"));
        carried_out(&mut memory, &plan, Outcome::Applied, "1");
        let mut failed = result("HOSTAWAY", Cause::Drift, Outcome::Failed(String::new()));
        failed.sent = sent;
        if masks {
            failed.changes = plan.entries[0].changes().to_vec();
        }
        memory.learn_result(&failed, Duration::from_secs(10));
        let updated_at = &memory.applied[&keyed().provider].updated_at;
        assert_eq!(updated_at.is_some(), known, "{sent} {masks}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_masked_value_waits_only_from_the_second_repeat_on() {
    let mut memory = memory();
    let mut sent = Vec::new();
    for (live, own) in [("0", "1"), ("2", "3"), ("4", "5")] {
        let plan = planned(&mut memory, masked(live));
        sent.push(carried_out(&mut memory, &plan, Outcome::Applied, own).is_some());
    }
    assert_eq!(sent, [true, true, false]);
}

#[tokio::test]
async fn the_workspace_of_a_key_is_known_until_the_key_changes() {
    let mut memory = memory();
    let (key, other) = (Secret::new("one"), Secret::new("two"));
    assert!(memory.workspace_of(&key).is_none() && !memory.may_be_of_another_workspace());
    memory.learn_workspace(&key, &workspace());
    assert_eq!(memory.workspace_of(&key), Some(workspace()));
    assert!(!memory.may_be_of_another_workspace());
    let another = Workspace {
        id: "b".to_owned(),
        ..workspace()
    };
    assert!(memory.is_about(&workspace()) && !memory.is_about(&another));
    let failed = Outcome::Failed("no".to_owned());
    let failed = result("HOSTAWAY", Cause::Change, failed);
    memory.learn_result(&failed, Duration::from_secs(10));
    assert_eq!(memory.backed_off().len(), 1);
    assert!(memory.workspace_of(&other).is_none());
    assert!(memory.may_be_of_another_workspace() && memory.backed_off().is_empty());
}

#[tokio::test]
async fn the_last_applied_state_is_the_one_found_in_sync_or_sent() {
    let (mut memory, ten) = (memory(), Duration::from_secs(10));
    let partial = |sent| {
        let refused = crate::plan::RefusedPart {
            part: DefinitionPart::Icon,
            obstacle: crate::plan::Obstacle::Incomplete,
        };
        let outcome = Outcome::Partial(vec![refused]);
        UpdateResult {
            sent,
            ..result("HOSTAWAY", Cause::Change, outcome)
        }
    };
    memory.learn_result(&partial(0), ten);
    assert!(memory.applied.is_empty());
    memory.learn_result(&partial(1), ten);
    assert_eq!(memory.applied[&desired().provider].updated_at, None);
    for updated_at in ["0", "1"] {
        let live = Live {
            updated_at: updated_at.to_owned(),
            ..fixtures::live("HOSTAWAY")
        };
        let in_sync = Verdict::InSync(desired(), Arc::new(live));
        let plan = fixtures::plan(vec![fixtures::entry("HOSTAWAY", in_sync)]);
        memory.learn_plan(&plan, &[], ten);
        let known = &memory.applied[&desired().provider];
        assert_eq!(known.updated_at.as_deref(), Some(updated_at));
    }
}

#[tokio::test]
async fn the_state_file_is_written_if_it_changed_and_no_write_hangs() {
    use std::os::unix::fs::MetadataExt as _;
    let directory = tempfile::tempdir().unwrap();
    let state = Arc::new(StateStore::open(directory.path(), None).unwrap());
    let mut memory = Memory::new(&state);
    memory.learn_workspace(&Secret::new("key"), &workspace());
    let path = state.file(&workspace().id).unwrap();
    memory.file.writing = Some(tokio::spawn(std::future::pending()));
    memory.save().await;
    assert!(!path.exists());
    let ended = tokio::spawn(async { Ok(()) });
    while !ended.is_finished() {
        tokio::task::yield_now().await;
    }
    memory.file.writing = Some(ended);
    keeps(&mut memory, &["a"]);
    let known = memory.applied.get_mut(&desired().provider).unwrap();
    Arc::make_mut(known).updated_at = Some("1".to_owned());
    memory.save().await;
    let inode = || std::fs::metadata(&path).unwrap().ino();
    let first = inode();
    memory.save().await;
    assert_eq!(inode(), first);

    let mut restarted = Memory::new(&state);
    restarted
        .move_to(&workspace(), Duration::from_secs(10))
        .await;
    assert_eq!(restarted.applied, memory.applied);
    assert!(restarted.back_off_of(&desired().provider).is_some());
    restarted.save().await;
    let second = inode();
    restarted.doubt_all();
    assert_eq!(restarted.applied[&desired().provider].updated_at, None);
    restarted.save().await;
    assert_ne!(inode(), second);
}

/// Answers each request with 503 and asks for a pause of this many seconds.
#[derive(Debug)]
struct Busy(u64);

impl Transport for Busy {
    fn send(&self, _: Request) -> BoxFuture<'_, Result<Response, BrokenTransport>> {
        let answer = axum::http::Response::builder()
            .status(503)
            .header("retry-after", self.0)
            .body("")
            .unwrap();
        Box::pin(std::future::ready(Ok(answer.into())))
    }
}

#[tokio::test(start_paused = true)]
async fn no_reconciliation_begins_before_calry_allows_it_but_after_five_minutes_at_most() {
    for (asked, least) in [(1, 9), (200, 200), (10_000, 300)] {
        let api = fixtures::api(Arc::new(Busy(asked)));
        let reader = api.reader(&fixtures::key(), Instant::now() + Duration::from_millis(1));
        let error = Box::new(reader.workspace().await.unwrap_err());
        let failed = ReconciliationResult::Failed(Failure::Remote(*error));
        let report = fixtures::report(failed);
        let (pause, _) = memory().next_pause(Duration::from_secs(10), &report);
        let least = Duration::from_secs(least);
        assert!(
            pause >= least && pause <= least.mul_f64(1.3),
            "{asked}: {pause:?}"
        );
    }
}
