//! What reading the contract line by line brought up.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Daemon, World, live};
use calry_gitops::model::{
    Desired, DesiredPartnerKey, DesiredValue, FingerprintKey, Icon, Live, LiveProblems, LiveValue,
    PartnerKey, Provider, Secret, Template, Update, UpdateMethod, Workspace,
};
use calry_gitops::plan::{
    AppliedState, Context, LastApplied, PlanInput, RefreshedStep, Verdict, plan, refresh, verify,
};
use serde_json::json;

fn world() -> World {
    World::of_hostaway("[name, rooms]")
}

#[test]
fn a_variable_that_is_set_to_nothing_counts_as_unset() {
    let mut world = world();
    for name in [
        "CALRY_API_KEY_FILE",
        "CALRY_SECRETS_DIR",
        "CALRY_TIMEOUT",
        "CALRY_UPDATE_METHOD",
        "CALRY_DEFINITIONS",
    ] {
        world.env(name, "");
    }
    world.run(&["plan"]).exits(0);
    world.env("CALRY_API_KEY", "");
    world.run(&["plan"]).exits(1).says("no API key");
}

#[test]
fn a_pin_that_is_invalid_is_an_invalid_definition_to_every_command() {
    let world = world();
    world.write("workspace.yaml", "slug: two words\n");
    for command in [
        &["validate"][..],
        &["plan"],
        &["apply", "--yes"],
        &["run", "--once"],
        &["plan", "--only", "HOSTAWAY"],
    ] {
        world.run(command).exits(3);
    }
    assert!(world.requests().is_empty());
}

#[test]
fn problems_of_the_files_are_told_without_an_api_key_too() {
    let mut world = world();
    world.write("guesty.yaml", "provider: GUESTY\nicno: x\n");
    world.env.remove("CALRY_API_KEY");
    world
        .run(&["plan"])
        .exits(1)
        .says("no API key")
        .says("did you mean `icon`?");
}

#[test]
fn a_plan_that_adds_a_value_whose_secret_is_not_at_hand_has_no_digest() {
    let world = world();
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-new: ${secret:new}\n",
    );
    let plan = world
        .run(&["plan", "--secrets-unavailable", "--format", "json"])
        .exits(0)
        .json();
    assert!(plan["digest"].is_null(), "{plan:#}");
    assert_eq!(
        plan["definitions"][0]["unresolved"][0]["path"],
        "partnerKey.headers.x-new"
    );
}

#[test]
fn a_signal_ends_at_once_what_waits_for_a_calry_that_does_not_answer() {
    let mut world = world();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    world.env(
        "CALRY_API_URL",
        &format!("http://{}", silent.local_addr().unwrap()),
    );
    for (command, signal, code) in [(&["run"][..], "TERM", 0), (&["apply", "--yes"], "INT", 1)] {
        let mut running = Daemon::start(world.command(command));
        let _asked = [silent.accept().unwrap(), silent.accept().unwrap()];
        let stopped = Instant::now();
        running.signal(signal);
        assert_eq!(
            running.wait(),
            Some(code),
            "{command:?}: {:?}",
            running.seen
        );
        // One request alone may take ten seconds, and is tried again for a minute.
        assert!(
            stopped.elapsed() < Duration::from_secs(5),
            "{command:?}: {:?}",
            stopped.elapsed()
        );
    }
}

#[test]
fn a_refused_plan_says_once_what_differs() {
    let world = world();
    let mut daemon = world.daemon(&["--max-changes", "0", "--interval", "1s"]);
    daemon.line("reconciliation 3 ");
    let said = daemon
        .seen
        .iter()
        .filter(|line| line.contains("HOSTAWAY would be updated"))
        .count();
    assert_eq!(said, 1, "{}", daemon.seen.join("\n"));
}

#[test]
fn a_file_name_cannot_act_on_the_terminal_of_a_reader_of_the_log() {
    let world = world();
    world.write("\u{1b}[2J\u{202e}.yaml", "provider: GUESTY\n");
    let ran = world
        .run(&["run", "--once"])
        .exits(3)
        .says("\\u{1b}[2J\\u{202e}.yaml");
    assert!(
        !ran.err.contains("\u{1b}[2J") && !ran.err.contains('\u{202e}'),
        "{:?}",
        ran.err
    );
}

#[test]
fn a_provider_that_may_hide_in_an_unreadable_item_is_not_called_missing() {
    let world = world();
    let mut other = live("HOSTAWAY", &["name"], &[]);
    other["provider"] = json!("hostaway");
    world.sandbox.set_definition("HOSTAWAY", other);
    let said = "`provider` is invalid";
    let plan = world.run(&["plan", "--format", "json"]).exits(1).json();
    assert_eq!(plan["definitions"][0]["state"], "unreadable", "{plan:#}");
    world.run(&["plan"]).exits(1).says(said);
    world.run(&["run", "--once"]).exits(1).says(said);
}

fn hostaway() -> Provider {
    Provider::parse("HOSTAWAY").unwrap()
}

fn wanted(icon: &str) -> Desired {
    let value = DesiredValue {
        template: Template::parse("${secret:s}").unwrap(),
        value: Some(Secret::new("value")),
    };
    Desired {
        provider: hostaway(),
        icon: Some(Icon::parse(icon).unwrap()),
        partner_key: DesiredPartnerKey {
            headers: Some([("x-key".to_owned(), value)].into()),
            query_params: None,
        },
        fields: [].into(),
        hold: None,
    }
}

fn key(header: &str, value: &str) -> PartnerKey {
    PartnerKey {
        headers: Some([(header.to_owned(), Secret::new(value))].into()),
        query_params: None,
    }
}

fn found(header: &str, value: &str) -> Live {
    Live {
        id: "id".to_owned(),
        name: "name".to_owned(),
        provider: hostaway(),
        icon: None,
        partner_key: key(header, value).map(LiveValue::from),
        fields: [].into(),
        updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
        problems: LiveProblems::default(),
    }
}

#[test]
fn trap_7_what_was_applied_still_counts_when_a_provider_is_read_again() {
    let key = FingerprintKey::new(&Secret::new("k".repeat(32))).unwrap();
    let last_applied = LastApplied::of(
        &wanted("https://e.com/old"),
        &key,
        "w",
        Some("2026-01-01T00:00:00.000Z".to_owned()),
    );
    let applied = AppliedState::from([(hostaway(), Arc::new(last_applied))]);
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method: UpdateMethod::Patch,
        applied: &applied,
        base: None,
    };
    let file = PlanInput {
        file: "hostaway.yaml".to_owned(),
        provider: Some(hostaway()),
        desired: Some(Arc::new(wanted("https://e.com/new"))),
    };
    let workspace = Workspace {
        id: "w".to_owned(),
        name: "W".to_owned(),
        slug: "w".to_owned(),
    };
    let masked = found("x-key", "****");
    let plan = plan(workspace, None, [file], [masked.clone()], &[], context);
    let Verdict::Update(step) = &plan.entries[0].verdict else {
        panic!("{plan:?}")
    };
    assert_eq!(step.changes.len(), 1, "only the icon differs");
    assert!(matches!(
        refresh(step, masked, UpdateMethod::Patch),
        RefreshedStep::Due(_)
    ));
}

#[test]
fn a_carried_over_header_is_the_same_in_another_case() {
    let desired = Desired {
        partner_key: DesiredPartnerKey::default(),
        icon: None,
        ..wanted("https://e.com/")
    };
    let sent = Update {
        partner_key: Some(key("X-Key", "value")),
        ..Update::default()
    };
    assert_eq!(verify(&desired, &sent, &[], &found("x-key", "value")), []);
    assert_eq!(
        verify(&desired, &sent, &[], &found("x-key", "other")).len(),
        1
    );
}

#[test]
fn an_icon_that_an_update_carried_over_is_verified() {
    let desired = Desired {
        icon: None,
        ..wanted("https://e.com/")
    };
    let sent = Update {
        icon: Some("https://e.com/kept".to_owned()),
        ..Update::default()
    };
    let answer = |icon: Option<&str>| Live {
        icon: icon.map(str::to_owned),
        ..found("x-key", "value")
    };
    assert_eq!(
        verify(&desired, &sent, &[], &answer(Some("https://e.com/kept"))),
        []
    );
    for lost in [None, Some("https://e.com/other")] {
        let mismatches = verify(&desired, &sent, &[], &answer(lost));
        assert_eq!(
            mismatches
                .iter()
                .map(|m| m.path.as_str())
                .collect::<Vec<_>>(),
            ["icon"],
            "{lost:?}"
        );
    }
    assert_eq!(
        verify(
            &desired,
            &Update::default(),
            &[],
            &answer(Some("https://e.com/other"))
        ),
        [],
        "it was not sent"
    );
}

#[test]
fn an_unmanaged_field_that_calry_switched_on_or_off_is_a_mismatch() {
    let desired = Desired {
        partner_key: DesiredPartnerKey::default(),
        icon: None,
        ..wanted("https://e.com/")
    };
    let fields =
        std::collections::BTreeMap::from([("rates".to_owned(), ["nightly".to_owned()].into())]);
    let sent = Update {
        fields: Some(fields),
        ..Update::default()
    };
    let answer = |on: &[(&str, bool)]| {
        let fields = on
            .iter()
            .map(|(field, on)| ((*field).to_owned(), *on))
            .collect();
        Live {
            fields: [("rates".to_owned(), fields)].into(),
            ..found("x-key", "value")
        }
    };
    let paths = |live: &Live| {
        verify(&desired, &sent, &[], live)
            .into_iter()
            .map(|m| m.path)
            .collect::<Vec<_>>()
    };
    assert!(paths(&answer(&[("nightly", true), ("weekly", false)])).is_empty());
    assert_eq!(
        paths(&answer(&[("nightly", true), ("weekly", true)])),
        ["fieldsToSync.rates.weekly"]
    );
    assert_eq!(
        paths(&answer(&[("nightly", false)])),
        ["fieldsToSync.rates.nightly"]
    );
    assert_eq!(paths(&answer(&[])), ["fieldsToSync.rates.nightly"]);
    assert_eq!(
        paths(&Live {
            fields: [].into(),
            ..answer(&[])
        }),
        ["fieldsToSync.rates.nightly"]
    );
}

#[test]
fn a_carried_over_value_that_the_answer_masks_counts_as_the_same_and_one_that_is_gone_does_not() {
    let desired = Desired {
        partner_key: DesiredPartnerKey::default(),
        icon: None,
        ..wanted("https://e.com/")
    };
    let sent = Update {
        partner_key: Some(key("x-key", "value")),
        ..Update::default()
    };
    for mask in ["****", "va***", "[hidden]"] {
        assert_eq!(
            verify(&desired, &sent, &[], &found("x-key", mask)),
            [],
            "{mask}"
        );
    }
    let gone = Live {
        partner_key: PartnerKey::default(),
        ..found("x-key", "value")
    };
    assert_eq!(verify(&desired, &sent, &[], &gone).len(), 1);
    let mut more = found("x-key", "****");
    more.partner_key
        .headers
        .as_mut()
        .unwrap()
        .insert("x-new".to_owned(), LiveValue::Mask);
    assert_eq!(verify(&desired, &sent, &[], &more).len(), 1);
}

#[test]
fn an_update_carries_what_git_does_not_manage_only_in_the_parts_that_it_sends() {
    let carries = |desired: &Desired, method: UpdateMethod| {
        let applied = AppliedState::new();
        let context = Context {
            today: jiff::civil::date(2026, 1, 1),
            method,
            applied: &applied,
            base: None,
        };
        let desired = Some(Arc::new(desired.clone()));
        let file = PlanInput {
            file: "hostaway.yaml".to_owned(),
            provider: Some(hostaway()),
            desired,
        };
        let workspace = Workspace {
            id: "w".to_owned(),
            name: "W".to_owned(),
            slug: "w".to_owned(),
        };
        let mut live = found("x-key", "value");
        live.fields
            .insert("listing".to_owned(), [("name".to_owned(), false)].into());
        let plan = plan(workspace, None, [file], [live], &[], context);
        plan.steps().next().unwrap().payload.carries_unmanaged
    };
    let (patch, put) = (UpdateMethod::Patch, UpdateMethod::Put);
    // The icon alone is due, and the query parameters are not managed.
    let icon = wanted("https://e.com/new");
    assert!(!carries(&icon, patch) && carries(&icon, put));
    // Everything is managed.
    let mut whole = icon.clone();
    whole.partner_key.query_params = Some([].into());
    whole
        .fields
        .insert("listing".to_owned(), ["name".to_owned()].into());
    assert!(!carries(&whole, patch) && !carries(&whole, put));
    // Everything but the icon; a PUT without it might clear one that was set meanwhile.
    whole.icon = None;
    assert!(!carries(&whole, patch) && carries(&whole, put));
    // A section that Calry does not have yet may appear meanwhile.
    let mut headers = icon.clone();
    headers.partner_key.headers = Some([].into());
    assert!(carries(&headers, patch));
}
