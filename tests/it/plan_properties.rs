//! The plan's laws, over made-up states: no socket, no file, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;
use std::sync::Arc;

use calry_gitops::model::{
    DefinitionPart, Desired, DesiredPartnerKey, DesiredValue, Hold, Icon, KeySection, Live,
    LivePartnerKey, LiveProblems, LiveValue, PartnerKey, Provider, Secret, Template, Update,
    UpdateMethod, Workspace,
};
use calry_gitops::plan::{
    AppliedState, Context, Digest, Limits, MaxChanges, Missing, Obstacle, Plan, PlanInput,
    RefreshedStep, Refusal, RefusedPart, Verdict, plan, refresh, verify,
};
use calry_gitops::render::text;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d", "x-y"]).prop_map(str::to_owned)
}

fn secret() -> impl Strategy<Value = Secret> {
    prop::sample::select(vec!["one", "two", "three", ""]).prop_map(Secret::new)
}

fn icon() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["https://e.com/1", "https://e.com/2"]).prop_map(str::to_owned)
}

fn provider() -> impl Strategy<Value = Provider> {
    prop::sample::select(vec!["P1", "P2", "P3", "P4"]).prop_map(|p| Provider::parse(p).unwrap())
}

fn desired(provider: Provider) -> impl Strategy<Value = Desired> {
    let value = || {
        secret().prop_map(|secret| DesiredValue {
            template: Template::parse("${secret:s}").unwrap(),
            value: Some(secret),
        })
    };
    let section = || option::of(btree_map(name(), value(), 0..3));
    (
        option::of(icon()),
        section(),
        section(),
        btree_map(name(), btree_set(name(), 0..4), 0..3),
    )
        .prop_map(move |(icon, headers, query_params, fields)| Desired {
            provider: provider.clone(),
            icon: icon.map(|icon: String| Icon::parse(&icon).unwrap()),
            partner_key: DesiredPartnerKey {
                headers,
                query_params,
            },
            fields,
            hold: None,
        })
}

fn live(provider: Provider) -> impl Strategy<Value = Live> {
    let section = || option::of(btree_map(name(), secret(), 0..3));
    (
        option::of(icon()),
        section(),
        section(),
        btree_map(name(), btree_map(name(), any::<bool>(), 0..4), 0..3),
    )
        .prop_map(move |(icon, headers, query_params, fields)| Live {
            id: "id".to_owned(),
            name: "name".to_owned(),
            provider: provider.clone(),
            icon,
            partner_key: PartnerKey {
                headers,
                query_params,
            }
            .map(LiveValue::from),
            fields,
            updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
            problems: LiveProblems::default(),
        })
}

fn states() -> impl Strategy<Value = (Vec<Desired>, Vec<Live>)> {
    (btree_set(provider(), 1..4), btree_set(provider(), 1..4)).prop_flat_map(|(wanted, present)| {
        (
            wanted
                .into_iter()
                .map(|p| desired(p).boxed())
                .collect::<Vec<_>>(),
            present
                .into_iter()
                .map(|p| live(p).boxed())
                .collect::<Vec<_>>(),
        )
    })
}

fn workspace() -> Workspace {
    Workspace {
        id: "w".to_owned(),
        name: "W".to_owned(),
        slug: "w".to_owned(),
    }
}

fn make(desired: &[Desired], live: &[Live], method: UpdateMethod) -> Plan {
    let inputs = desired.iter().map(|d| PlanInput {
        file: format!("{}.yaml", d.provider.file_stem()),
        provider: Some(d.provider.clone()),
        desired: Some(Arc::new(d.clone())),
    });
    let applied = AppliedState::new();
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method,
        applied: &applied,
        base: None,
    };
    plan(workspace(), None, inputs, live.to_vec(), &[], context)
}

/// What Calry makes of an update, in the reading that does most harm.
fn carry_out(live: &Live, update: &Update, method: UpdateMethod) -> Live {
    let mut after = live.clone();
    let put = method == UpdateMethod::Put;
    if put || update.icon.is_some() {
        after.icon.clone_from(&update.icon);
    }
    if put || update.partner_key.is_some() {
        after.partner_key = update
            .partner_key
            .clone()
            .unwrap_or_default()
            .map(LiveValue::from);
    }
    if put || update.fields.is_some() {
        let sent = update.fields.clone().unwrap_or_default();
        after
            .fields
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(|on| *on = false);
        for (group, on) in sent {
            after
                .fields
                .entry(group)
                .or_default()
                .extend(on.into_iter().map(|field| (field, true)));
        }
    }
    after
}

fn unmanaged_part(
    desired: &Desired,
    live: &Live,
) -> (
    Option<String>,
    LivePartnerKey,
    BTreeMap<String, Vec<String>>,
) {
    let mut key = live.partner_key.clone();
    for section in KeySection::BOTH {
        if desired.partner_key.section(section).is_some() {
            *key.section_mut(section) = None;
        }
    }
    let on = |fields: &BTreeMap<String, bool>| {
        fields
            .iter()
            .filter(|(_, on)| **on)
            .map(|(f, _)| f.clone())
            .collect()
    };
    let groups = live
        .fields
        .iter()
        .filter(|(g, _)| !desired.fields.contains_key(*g))
        .map(|(g, f)| (g.clone(), on(f)));
    (
        live.icon.clone().filter(|_| desired.icon.is_none()),
        key,
        groups.collect(),
    )
}

fn method() -> impl Strategy<Value = UpdateMethod> {
    prop::sample::select(vec![UpdateMethod::Patch, UpdateMethod::Put])
}

fn without_case_twins(live: &Live) -> bool {
    live.partner_key.headers.iter().flatten().count()
        == live
            .partner_key
            .headers
            .iter()
            .flatten()
            .map(|(n, _)| n.to_lowercase())
            .collect::<std::collections::BTreeSet<_>>()
            .len()
}

proptest! {
    #[test]
    fn applying_a_plan_gives_the_desired_state_and_leaves_the_rest((wanted, live) in states(), method in method()) {
        let first = make(&wanted, &live, method);
        let mut after = live.clone();
        for step in first.steps() {
            let update = step.payload.update.as_ref().expect("every secret is available");
            let place = after.iter_mut().find(|l| l.provider == step.desired.provider).unwrap();
            let answer = carry_out(place, update, method);
            prop_assert_eq!(unmanaged_part(&step.desired, place), unmanaged_part(&step.desired, &answer));
            prop_assert!(verify(&step.desired, update, &step.payload.refused, &answer).is_empty());
            *place = answer;
        }
        let second = make(&wanted, &after, method);
        prop_assert_eq!(second.steps().count(), 0, "a second plan is empty");
        for (old, new) in live.iter().zip(&after) {
            if !wanted.iter().any(|d| d.provider == old.provider) {
                prop_assert_eq!(old, new, "what git does not manage is what it was");
            }
        }
    }

    #[test]
    fn a_patch_sends_the_parts_that_differ_and_can_be_read_and_a_put_all_or_nothing((wanted, mut live) in states(), broken in option::of(0usize..3)) {
        for live in &mut live {
            let problem = || Some("not as documented".to_owned());
            match broken {
                Some(0) => live.problems.icon = problem(),
                Some(1) => live.problems.partner_key = problem(),
                Some(2) => live.problems.fields = problem(),
                _ => {}
            }
        }
        for step in make(&wanted, &live, UpdateMethod::Patch).steps() {
            let update = step.payload.update.clone().unwrap_or_default();
            let sent = [update.icon.is_some(), update.partner_key.is_some(), update.fields.is_some()];
            for (part, sent) in DefinitionPart::ALL.into_iter().zip(sent) {
                let differs = step.changes.iter().any(|change| change.part() == part);
                prop_assert_eq!(sent, differs && step.live.problems.part(part).is_none(), "{:?}", part);
                prop_assert_eq!(step.sendable().any(|change| change.part() == part), sent, "{:?}", part);
            }
        }
        for step in make(&wanted, &live, UpdateMethod::Put).steps() {
            let (sent, refused) = (step.payload.update.is_some(), !step.payload.refused.is_empty());
            prop_assert_ne!(sent, refused, "a PUT sends all parts or nothing");
            prop_assert_eq!(step.sendable().count(), if sent { step.changes.len() } else { 0 });
        }
    }

    #[test]
    fn the_order_of_files_and_of_answers_is_irrelevant((wanted, live) in states(), method in method()) {
        let forth = make(&wanted, &live, method);
        let (wanted, live): (Vec<_>, Vec<_>) = (wanted.into_iter().rev().collect(), live.into_iter().rev().collect());
        let back = make(&wanted, &live, method);
        prop_assert_eq!(format!("{forth:?}"), format!("{back:?}"));
    }

    #[test]
    fn every_provider_is_in_one_entry_and_in_one_count((wanted, live) in states()) {
        let plan = make(&wanted, &live, UpdateMethod::Patch);
        let names: std::collections::BTreeSet<_> = wanted.iter().map(|d| &d.provider).chain(live.iter().map(|l| &l.provider)).collect();
        prop_assert_eq!(plan.entries.len(), names.len());
        let s = plan.summary();
        prop_assert_eq!(s.in_sync + s.update + s.invalid + s.missing + s.held + s.unmanaged, names.len());
        prop_assert!(plan.entries.is_sorted_by(|a, b| a.provider < b.provider));
    }

    #[test]
    fn a_plan_above_the_limit_is_refused_and_its_digest_lets_it_through((wanted, live) in states(), max in 0usize..3) {
        let plan = make(&wanted, &live, UpdateMethod::Patch);
        let changes = plan.steps().count();
        let digest = plan.digest.clone().unwrap();
        let limits = Limits { max_changes: MaxChanges::Count(max), approve: None };
        let refused = plan.clone().approve(&limits);
        prop_assert_eq!(refused.is_err(), changes > max);
        let limits = Limits { approve: Some(digest), ..limits };
        prop_assert!(plan.clone().approve(&limits).is_ok());
        let other = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let limits = Limits { approve: Some(other), ..limits };
        let wrong = plan.approve(&limits).unwrap_err();
        let is_wrong = matches!(wrong.reason, Refusal::NotTheApprovedPlan { .. });
        prop_assert!(is_wrong);
    }

    #[test]
    fn nothing_secret_is_in_what_a_plan_shows((wanted, mut live) in states(), canary in "canary[0-9]{8}") {
        let mut wanted = wanted;
        for desired in &mut wanted {
            for section in KeySection::BOTH {
                for value in desired.partner_key.section_mut(section).iter_mut().flatten().map(|(_, v)| v) {
                    *value = DesiredValue { template: Template::parse(&canary).unwrap(), value: Some(Secret::new(canary.clone())) };
                }
            }
        }
        for live in &mut live {
            for section in KeySection::BOTH {
                for value in live.partner_key.section_mut(section).iter_mut().flatten().map(|(_, v)| v) {
                    *value = LiveValue::Value(Secret::new(format!("live-{canary}")));
                }
            }
        }
        prop_assume!(live.iter().all(without_case_twins));
        let plan = make(&wanted, &live, UpdateMethod::Patch);
        let json = calry_gitops::report::plan::plan(&plan, &[], None, None);
        let diff = text::Layout { diff: true, ..text::Layout::default() };
        for shown in [text::plan(&plan, text::Layout::default()), text::plan(&plan, diff), json, format!("{plan:?}")] {
            prop_assert!(!shown.contains(&canary), "{}", shown);
        }
    }

    #[test]
    fn a_digest_knows_the_live_state_and_no_secret((wanted, live) in states(), pick in vec(any::<bool>(), 4)) {
        let plan = make(&wanted, &live, UpdateMethod::Patch);
        prop_assume!(plan.steps().count() > 0);
        let mut moved = live.clone();
        let first = plan.steps().next().unwrap().desired.provider.clone();
        moved.iter_mut().find(|l| l.provider == first).unwrap().updated_at = "2027".to_owned();
        prop_assert_ne!(plan.digest.clone(), make(&wanted, &moved, UpdateMethod::Patch).digest);
        // Another secret that differs from the live one just as much gives the same digest.
        let mut other = wanted.clone();
        for (desired, _) in other.iter_mut().zip(pick) {
            for section in KeySection::BOTH {
                for value in desired.partner_key.section_mut(section).iter_mut().flatten().map(|(_, v)| v) {
                    value.value = Some(Secret::new("quite another"));
                }
            }
        }
        let again = make(&other, &live, UpdateMethod::Patch);
        let paths = |p: &Plan| p.entries.iter().flat_map(|e| e.changes().iter().map(|c| c.path())).collect::<Vec<_>>();
        if paths(&plan) == paths(&again) {
            prop_assert_eq!(plan.digest, again.digest);
        }
    }
}

#[test]
fn a_missing_provider_an_invalid_file_and_an_unmanaged_provider_are_told_apart() {
    let p = |n: &str| Provider::parse(n).unwrap();
    let d = |n: &str| Desired {
        provider: p(n),
        icon: None,
        partner_key: DesiredPartnerKey::default(),
        fields: BTreeMap::new(),
        hold: None,
    };
    let plan = make(&[d("GONE")], &[], UpdateMethod::Patch);
    assert!(matches!(plan.entries[0].verdict, Verdict::Missing));
}

#[test]
fn a_put_sends_no_partner_key_if_neither_side_has_one() {
    let provider = Provider::parse("P1").unwrap();
    let desired = Desired {
        provider: provider.clone(),
        icon: Some(Icon::parse("https://e.com/1").unwrap()),
        partner_key: DesiredPartnerKey::default(),
        fields: BTreeMap::new(),
        hold: None,
    };
    let live = Live {
        id: "id".to_owned(),
        name: "name".to_owned(),
        provider,
        icon: None,
        partner_key: LivePartnerKey::default(),
        fields: BTreeMap::new(),
        updated_at: String::new(),
        problems: LiveProblems::default(),
    };
    let plan = make(&[desired], &[live], UpdateMethod::Put);
    let update = plan.steps().next().unwrap().payload.update.clone().unwrap();
    assert_eq!(update.icon.as_deref(), Some("https://e.com/1"));
    assert!(update.partner_key.is_none());
}

/// A definition that manages every kind of part, and a live one that differs in each.
fn differing() -> (Desired, Live) {
    let provider = Provider::parse("P1").unwrap();
    let desired = Desired {
        provider: provider.clone(),
        icon: Some(Icon::parse("https://e.com/1").unwrap()),
        partner_key: DesiredPartnerKey {
            headers: Some(BTreeMap::from([(
                "x-key".to_owned(),
                referring("${secret:s}"),
            )])),
            query_params: None,
        },
        fields: BTreeMap::from([("g".to_owned(), names(&["a"]))]),
        hold: None,
    };
    let live = Live {
        id: "id".to_owned(),
        name: "name".to_owned(),
        provider,
        icon: Some("https://e.com/2".to_owned()),
        partner_key: LivePartnerKey::default(),
        fields: BTreeMap::from([("g".to_owned(), BTreeMap::new())]),
        updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
        problems: LiveProblems::default(),
    };
    (desired, live)
}

fn referring(template: &str) -> DesiredValue {
    DesiredValue {
        template: Template::parse(template).unwrap(),
        value: Some(Secret::new("value")),
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn hold(day: i8) -> Hold {
    Hold {
        until: jiff::civil::date(2026, 2, day),
        reason: None,
    }
}

#[test]
fn a_digest_covers_all_that_a_review_sees_and_an_update_sends() {
    type Variation = fn(&mut Desired, &mut Live);
    fn headers(desired: &mut Desired, name: &str, template: &str) {
        desired.partner_key.headers =
            Some(BTreeMap::from([(name.to_owned(), referring(template))]));
    }
    fn in_sync(desired: &mut Desired, live: &mut Live, group: &str, fields: &[&str]) {
        desired.fields = BTreeMap::from([(group.to_owned(), names(fields))]);
        let on = fields.iter().map(|field| ((*field).to_owned(), true));
        live.fields = BTreeMap::from([(group.to_owned(), on.collect())]);
    }
    let variations: [Variation; 20] = [
        |_, _| {},
        |_, live| "another".clone_into(&mut live.id),
        |_, live| "later".clone_into(&mut live.updated_at),
        |_, live| live.icon = Some("https://e.com/3".to_owned()),
        |_, live| live.icon = None,
        |desired, _| desired.icon = Some(Icon::parse("https://e.com/3").unwrap()),
        |desired, _| desired.icon = None,
        |_, live| {
            live.partner_key.headers = Some(BTreeMap::from([("x-key".to_owned(), LiveValue::Mask)]))
        },
        |_, live| {
            let value = LiveValue::Value(Secret::new("other"));
            live.partner_key.headers = Some(BTreeMap::from([("x-key".to_owned(), value)]));
        },
        |desired, _| headers(desired, "x-other", "${secret:s}"),
        |desired, _| headers(desired, "x-key", "${secret:other}"),
        |desired, _| headers(desired, "x-key", "Bearer ${secret:s}"),
        |desired, live| {
            // Only the values that come along differ.
            headers(desired, "x-key", "${secret:other}");
            live.partner_key.headers = Some(BTreeMap::from([(
                "x-key".to_owned(),
                LiveValue::Value(Secret::new("value")),
            )]));
        },
        |_, live| {
            drop(
                live.fields
                    .insert("g".to_owned(), BTreeMap::from([("a".to_owned(), false)])),
            )
        },
        |_, live| {
            drop(
                live.fields
                    .insert("g".to_owned(), BTreeMap::from([("b".to_owned(), true)])),
            )
        },
        // The groups that an update carries along are in it, too, and no two of them are the same text.
        |desired, live| in_sync(desired, live, "g", &["a"]),
        |desired, live| in_sync(desired, live, "g", &[]),
        |desired, live| in_sync(desired, live, "ga", &[]),
        |desired, _| desired.hold = Some(hold(1)),
        |desired, _| desired.hold = Some(hold(2)),
    ];
    let mut digests = BTreeMap::new();
    for (index, vary) in variations.into_iter().enumerate() {
        let (mut desired, mut live) = differing();
        vary(&mut desired, &mut live);
        for method in [UpdateMethod::Patch, UpdateMethod::Put] {
            let plan = make(&[desired.clone()], &[live.clone()], method);
            let digest = plan.digest.unwrap().to_string();
            if let Some(other) = digests.insert(digest, (index, method)) {
                panic!("{:?} has the digest of {other:?}", (index, method));
            }
        }
    }
}

#[test]
fn a_value_that_is_not_available_here_is_reported_and_the_plan_has_no_digest() {
    let unresolved = |vary: fn(&mut Desired, &mut Live)| {
        let (mut desired, mut live) = differing();
        vary(&mut desired, &mut live);
        let plan = make(&[desired], &[live], UpdateMethod::Patch);
        assert_eq!(plan.digest, None);
        let refused = plan.steps().flat_map(|step| &step.payload.refused);
        let refused: Vec<_> = refused.map(|refused| refused.obstacle.clone()).collect();
        let unresolved = &plan.entries[0].unresolved;
        assert_eq!(unresolved.len(), 1);
        assert_eq!(unresolved[0].path, "partnerKey.headers.x-key");
        assert_eq!(unresolved[0].secrets[0].to_string(), "s");
        (unresolved[0].missing, refused)
    };
    fn no_secret(desired: &mut Desired) {
        let headers = desired.partner_key.headers.as_mut().unwrap();
        headers.get_mut("x-key").unwrap().value = None;
    }
    fn withheld(live: &mut Live) {
        let values = BTreeMap::from([("x-key".to_owned(), LiveValue::Withheld)]);
        live.partner_key.headers = Some(values);
    }
    assert_eq!(
        unresolved(|desired, _| no_secret(desired)),
        (Missing::Secret, vec![Obstacle::Incomplete])
    );
    assert_eq!(
        unresolved(|_, live| withheld(live)),
        (Missing::Live, vec![])
    );
    let both = unresolved(|desired, live| {
        no_secret(desired);
        withheld(live);
    });
    assert_eq!(both, (Missing::Secret, vec![]));
}

#[test]
fn only_the_provider_that_cannot_be_read_is_unreadable() {
    let (first, live) = differing();
    let other = Provider::parse("P2").unwrap();
    let second = Desired {
        provider: other.clone(),
        ..first.clone()
    };
    let inputs = [first, second].map(|desired| PlanInput {
        file: String::new(),
        provider: Some(desired.provider.clone()),
        desired: Some(Arc::new(desired)),
    });
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method: UpdateMethod::Patch,
        applied: &AppliedState::new(),
        base: None,
    };
    let unreadable = [(other, "no id".to_owned())];
    let plan = plan(workspace(), None, inputs, [live], &unreadable, context);
    let states: Vec<_> = plan.entries.iter().map(|e| e.verdict.state()).collect();
    assert_eq!(states, ["update", "unreadable"]);
}

#[test]
fn a_step_that_is_read_again_is_about_the_newer_state_or_is_not_due() {
    let (desired, live) = differing();
    let plan = make(from_ref(&desired), from_ref(&live), UpdateMethod::Patch);
    let step = plan.steps().next().unwrap();
    let again = |vary: fn(&mut Live)| {
        let mut live = live.clone();
        "later".clone_into(&mut live.updated_at);
        vary(&mut live);
        refresh(step, live, UpdateMethod::Patch)
    };
    let RefreshedStep::Due(fresh) = again(|live| {
        live.fields
            .insert("h".to_owned(), BTreeMap::from([("x".to_owned(), true)]));
    }) else {
        panic!("the same changes are due");
    };
    assert_eq!(fresh.live.updated_at, "later");
    let fields = fresh.payload.update.unwrap().fields.unwrap();
    assert_eq!(fields["h"], names(&["x"]));
    let moved: [fn(&mut Live); 2] = [
        |live| "another".clone_into(&mut live.id),
        |live| live.icon = Some("https://e.com/3".to_owned()),
    ];
    for vary in moved {
        assert!(matches!(again(vary), RefreshedStep::Moved));
    }
    let in_sync = |live: &mut Live| {
        live.icon = Some("https://e.com/1".to_owned());
        live.fields = BTreeMap::from([("g".to_owned(), BTreeMap::from([("a".to_owned(), true)]))]);
        let value = LiveValue::Value(Secret::new("value"));
        live.partner_key.headers = Some(BTreeMap::from([("x-key".to_owned(), value)]));
    };
    assert!(matches!(again(in_sync), RefreshedStep::InSync));
}

#[test]
fn an_answer_is_compared_in_every_part_but_the_refused_ones() {
    let (desired, live) = differing();
    let plan = make(from_ref(&desired), from_ref(&live), UpdateMethod::Patch);
    let step = plan.steps().next().unwrap();
    let update = step.payload.update.clone().unwrap();
    let differing = |refused: &[DefinitionPart], answer: &Live| {
        let refused: Vec<RefusedPart> = refused
            .iter()
            .map(|part| RefusedPart {
                part: *part,
                obstacle: Obstacle::Incomplete,
            })
            .collect();
        let mismatches = verify(&desired, &update, &refused, answer);
        mismatches.into_iter().map(|m| m.path).collect::<Vec<_>>()
    };
    let (icon, key, field) = ("icon", "partnerKey.headers.x-key", "fieldsToSync.g.a");
    assert_eq!(differing(&[], &live), [icon, key, field]);
    assert_eq!(differing(&[DefinitionPart::Icon], &live), [key, field]);
    assert_eq!(
        differing(
            &[DefinitionPart::PartnerKey, DefinitionPart::FieldsToSync],
            &live
        ),
        [icon]
    );
}
