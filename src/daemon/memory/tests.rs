use super::super::fixtures::{self, result, workspace};
use super::*;
use crate::model::{Live, LiveValue};

#[test]
fn the_pause_grows_with_each_failure_up_to_five_minutes() {
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
