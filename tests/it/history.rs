//! The history that survives the daemon, and the audit lines of a one-shot `apply`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::support::{Daemon, Ran, World, live, repository, until};
use axum::http::StatusCode;
use calry_gitops::report::history::schema;
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

const WORKSPACE: &str = "5f0c1f7e-0000-4000-8000-000000000001";
const NAME: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n";
const ROOMS: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n";

fn world() -> World {
    let mut world = World::with(
        json!([
            live("GUESTY", &["name"], &["rooms"]),
            live("HOSTAWAY", &["name"], &["rooms", "pictures"]),
        ]),
        Config::default(),
    );
    world.write("hostaway.yaml", NAME);
    world.env("CALRY_STATE_DIR", "state");
    world
}

/// A daemon that only files and requests wake, after its first reconciliation. Dropping it is SIGKILL.
fn start(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon
}

fn reconcile(daemon: &mut Daemon) {
    daemon.signal("HUP");
    daemon.line("(request)");
}

fn click(world: &World) {
    assert!(world.sandbox.modify("HOSTAWAY", |live| {
        live["fieldsToSync"]["listing"]["pictures"] = json!(true);
    }));
}

fn refuse_once(world: &World) {
    world.sandbox.inject(Fault::once(FaultKind::Status {
        code: StatusCode::UNAUTHORIZED,
        message: "No.".to_owned(),
        retry_after: None,
    }));
}

fn file(world: &World) -> PathBuf {
    let name = format!("{WORKSPACE}.history.jsonl");
    world.dir.path().join("state").join(name)
}

fn history(world: &World, args: &[&str]) -> Ran {
    world.run(&[&["history"], args].concat())
}

fn events(world: &World, args: &[&str]) -> Vec<Value> {
    let ran = history(world, &[&["--format", "json"], args].concat()).exits(0);
    ran.json()["events"].as_array().unwrap().clone()
}

/// The kind of each event, oldest first.
fn kinds(world: &World) -> Vec<String> {
    let kind = |event: &Value| event["event"].as_str().unwrap().to_owned();
    events(world, &[]).iter().map(kind).collect()
}

/// Waits until the events have been written, which is after the line of the log.
#[track_caller]
fn has(world: &World, expected: &[&str]) {
    until(&format!("{expected:?} are written"), || {
        file(world).exists() && kinds(world) == expected
    });
}

/// Waits for a line that may have come in before another one.
#[track_caller]
fn logs(daemon: &mut Daemon, text: &str) {
    if daemon.count_lines(text) == 0 {
        daemon.line(text);
    }
}

/// Waits until the state that prevents repetitions is saved.
#[track_caller]
fn saved(world: &World, holds: impl Fn(&Value) -> bool) {
    until("the state is saved", || {
        let state = fs::read_dir(world.dir.path().join("state")).unwrap();
        let mut paths = state.map(|entry| entry.unwrap().path());
        let file = paths.find(|path| path.to_str().unwrap().contains("/loop-"));
        let text = file.map(|path| fs::read(path).unwrap()).unwrap_or_default();
        serde_json::from_slice::<Value>(&text)
            .is_ok_and(|state| holds(&state["notified"]["(history)"]))
    });
}

#[test]
fn the_committed_schema_is_that_of_the_types() {
    let path = repository().join("deploy/schemas/history.schema.json");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::write(&path, schema()).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let fits = committed == schema();
    assert!(
        fits,
        "write it with UPDATE_SCHEMAS=1 cargo test --test it history::"
    );
}

#[test]
fn what_happened_is_shown_after_the_daemon_was_killed_and_nothing_is_repeated() {
    let world = world();
    let mut daemon = start(&world, &[]);
    click(&world);
    reconcile(&mut daemon);
    has(&world, &["update"]);
    refuse_once(&world);
    reconcile(&mut daemon);
    has(&world, &["update", "failed"]);
    saved(&world, |state| {
        state["reported"]["passes"]["reported"] == true
    });
    // While the failure lasts, the daemon is killed; its end is an event of the next one.
    drop(daemon);
    world.write(
        "hostaway.yaml",
        &format!("{ROOMS}hold: {{until: 2099-12-31, reason: OPS-1}}\n"),
    );
    let daemon = start(&world, &[]);
    has(&world, &["update", "failed", "recovered", "held"]);
    saved(&world, |state| state["held"]["HOSTAWAY"][0] == "2099-12-31");
    drop(daemon);
    drop(start(&world, &[]));
    has(&world, &["update", "failed", "recovered", "held"]);
    world.write("hostaway.yaml", ROOMS);
    let mut daemon = start(&world, &[]);
    has(
        &world,
        &[
            "update",
            "failed",
            "recovered",
            "held",
            "update",
            "released",
        ],
    );

    let all = events(&world, &[]);
    let undone = &all[0];
    assert_eq!(
        undone["message"],
        "HOSTAWAY drifted; drift undone: listing.pictures off"
    );
    assert_eq!(
        (&undone["cause"], &undone["outcome"]),
        (&json!("drift"), &json!("applied"))
    );
    assert_eq!(undone["workspace"], "acme-production");
    let paths = json!([{"provider": "HOSTAWAY", "paths": ["fieldsToSync.listing.pictures"]}]);
    assert_eq!(undone["providers"], paths);
    assert!(undone["digest"].as_str().unwrap().starts_with("sha256:"));
    assert!(
        all[1]["reason"].as_str().unwrap().contains("401"),
        "{}",
        all[1]
    );
    assert_eq!(all[3]["reason"], "OPS-1");
    let text = history(&world, &[]).exits(0);
    let text = text
        .says("acme-production")
        .says("HOSTAWAY drifted; drift undone: listing.pictures off")
        .says("HOSTAWAY is on hold until 2099-12-31")
        .says("(UTC)");
    assert_eq!(text.err, "");
    // The history is read while the daemon runs, and the daemon does not notice.
    reconcile(&mut daemon);
}

#[test]
fn only_what_is_asked_for_is_shown() {
    let world = world();
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    world.write("hostaway.yaml", ROOMS);
    drop(start(&world, &[]));
    has(&world, &["update", "update"]);
    assert_eq!(events(&world, &["--provider", "guesty"]).len(), 1);
    assert_eq!(
        events(&world, &["--provider", "guesty", "--provider", "HOSTAWAY"]).len(),
        2
    );
    assert_eq!(events(&world, &["--since", "1h"]).len(), 2);
    assert_eq!(events(&world, &["--since", "2099-01-01"]).len(), 0);
    assert_eq!(events(&world, &["--workspace", "acme-production"]).len(), 2);
    history(&world, &["--since", "2099-01-01"])
        .exits(0)
        .says("No events.");
    history(&world, &["--workspace", "beta"])
        .exits(1)
        .says("no history of the workspace `beta`; it has acme-production");
    history(&world, &["--since", "yesterday"])
        .exits(64)
        .says("must be a duration");
    history(&world, &["--state-dir", "nowhere"])
        .exits(1)
        .says("help: name the directory of the daemon's --state-dir");
}

#[test]
fn a_refused_plan_and_its_approval_are_events() {
    let world = world();
    world.write("hostaway.yaml", ROOMS);
    let mut daemon = start(&world, &["--max-changes", "0"]);
    has(&world, &["refused"]);
    let digest = events(&world, &[])[0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({"digest": digest}).to_string();
    let address = daemon.address();
    let answer = crate::support::send(
        &address,
        &format!(
            "POST /api/v1/approve HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    assert_eq!(answer.code, 202, "{}", answer.body);
    daemon.line("HOSTAWAY updated");
    has(&world, &["refused", "approved", "update", "recovered"]);
    for event in &events(&world, &[])[..3] {
        assert_eq!(event["digest"], digest, "{event}");
    }
}

#[test]
fn drift_that_is_only_observed_is_one_event() {
    let world = world();
    // What was in sync once, and then differs, has drifted.
    drop(start(&world, &[]));
    click(&world);
    let mut daemon = start(&world, &["--mode", "observe"]);
    reconcile(&mut daemon);
    has(&world, &["drift"]);
}

#[test]
fn an_update_that_fails_again_and_again_is_few_events() {
    let world = world();
    world.write("hostaway.yaml", ROOMS);
    let no = FaultKind::Status {
        code: StatusCode::BAD_REQUEST,
        message: "No.".to_owned(),
        retry_after: None,
    };
    world
        .sandbox
        .inject(Fault::once(no.clone()).on(axum::http::Method::PATCH));
    let mut daemon = start(&world, &[]);
    for _ in 0..4 {
        world
            .sandbox
            .inject(Fault::once(no.clone()).on(axum::http::Method::PATCH));
        reconcile(&mut daemon);
    }
    // The 1st, the 2nd and the 4th of five; that the provider fails is another event.
    has(&world, &["update", "failed", "update", "update"]);
    let times: Vec<Value> = events(&world, &[])
        .iter()
        .map(|event| event["times"].clone())
        .collect();
    assert_eq!(times, [Value::Null, Value::Null, json!(2), json!(4)]);
    reconcile(&mut daemon);
    has(
        &world,
        &[
            "update",
            "failed",
            "update",
            "update",
            "update",
            "recovered",
        ],
    );
}

#[test]
fn no_value_of_a_partner_key_is_in_the_history() {
    let mut world = world();
    assert!(world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"] = json!({"headers": {"x-api-key": "canary-live"}});
    }));
    world.env("CALRY_SECRET_TOKEN", "canary-secret");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:token}'}\n",
    );
    drop(start(&world, &[]));
    has(&world, &["update"]);
    assert_eq!(
        events(&world, &[])[0]["providers"][0]["paths"],
        json!(["partnerKey.headers.x-api-key"])
    );
    for file in fs::read_dir(world.dir.path().join("state")).unwrap() {
        let path = file.unwrap().path();
        assert!(
            !fs::read_to_string(&path).unwrap().contains("canary"),
            "{path:?}"
        );
    }
}

#[test]
fn a_history_that_cannot_be_written_stops_nothing_and_is_written_later() {
    let world = world();
    fs::create_dir_all(file(&world)).unwrap();
    world.write("hostaway.yaml", ROOMS);
    let mut daemon = start(&world, &[]);
    logs(&mut daemon, "cannot write the history");
    click(&world);
    reconcile(&mut daemon);
    reconcile(&mut daemon);
    assert_eq!(world.updates().len(), 2);
    assert_eq!(daemon.count_lines("cannot write the history"), 1);
    history(&world, &[])
        .exits(1)
        .says("cannot be used: it is not a regular file");
    fs::remove_dir(file(&world)).unwrap();
    reconcile(&mut daemon);
    logs(&mut daemon, "is written again");
    has(&world, &["update", "update"]);
}

#[test]
fn a_line_that_was_not_written_to_its_end_is_ignored() {
    let world = world();
    world.write("hostaway.yaml", ROOMS);
    drop(start(&world, &[]));
    has(&world, &["update"]);
    let text = fs::read_to_string(file(&world)).unwrap();
    fs::write(file(&world), format!("{text}{}", &text[..text.len() / 2])).unwrap();
    assert_eq!(history(&world, &[]).exits(0).err, "");
    world.write("hostaway.yaml", NAME);
    drop(start(&world, &[]));
    has(&world, &["update", "update"]);
}

#[test]
fn each_workspace_of_a_daemon_has_its_own_history() {
    let config = Config {
        copies: 1,
        ..Config::default()
    };
    let world = World::with(json!([live("HOSTAWAY", &["name"], &["rooms"])]), config);
    world.write("hostaway.yaml", ROOMS);
    let dir = world.dir.path();
    fs::write(dir.join("key"), &world.sandbox.keys().write).unwrap();
    let config = format!(
        "apiUrl: {}\nstateDir: state\nworkspaces:\n  - name: eu\n    definitions: definitions\n    apiKeyFile: key\n",
        world.sandbox.url()
    );
    let mut daemon = world.configured_daemon(&config);
    daemon.line("reconciliation 1 ");
    until("the event is written", || file(&world).exists());
    let asked = |args: &[&str]| {
        let args = [&["--state-dir", "state"], args].concat();
        until("the event is complete", || {
            !events(&world, &args).is_empty()
        });
        events(&world, &args)
    };
    assert_eq!(asked(&["--workspace", "eu"])[0]["name"], "eu");
    assert_eq!(asked(&["--workspace", "acme-production"]).len(), 1);
    history(&world, &["--state-dir", "state"])
        .exits(0)
        .says("eu (acme-production)");
}

/// The audit lines of a run, as JSON.
fn audit(text: &str) -> Vec<Value> {
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["audit"] == true).collect()
}

#[test]
fn apply_writes_the_audit_line_and_the_event_of_a_daemon() {
    let mut one_shot = world();
    one_shot.env("CALRY_LOG_FORMAT", "json");
    one_shot.write("hostaway.yaml", ROOMS);
    let ran = one_shot.run(&["apply", "--yes"]).exits(0);
    let applied = audit(&ran.err);
    let mut other = world();
    other.env("CALRY_LOG_FORMAT", "json");
    other.write("hostaway.yaml", ROOMS);
    let daemon = start(&other, &[]);
    let of_daemon = audit(&daemon.seen.join("\n"));
    let keys = |lines: &[Value]| -> BTreeSet<String> {
        lines
            .iter()
            .flat_map(|line| line.as_object().unwrap().keys().cloned())
            .collect()
    };
    assert_eq!((applied.len(), of_daemon.len()), (1, 1), "{}", ran.err);
    assert_eq!(keys(&applied), keys(&of_daemon));
    for key in [
        "message", "provider", "paths", "outcome", "sent", "slug", "cause", "level",
    ] {
        assert_eq!(applied[0][key], of_daemon[0][key], "{key}");
    }
    has(&other, &["update"]);
    let (mut event, mut same) = (
        events(&one_shot, &[])[0].clone(),
        events(&other, &[])[0].clone(),
    );
    assert_eq!(
        (&event["by"], &same["by"]),
        (&json!("apply"), &json!("daemon"))
    );
    for own in ["by", "time", "digest"] {
        event[own] = Value::Null;
        same[own] = Value::Null;
    }
    assert_eq!(event, same);
    history(&one_shot, &[]).exits(0).says("by apply");

    // A plan that was approved by its digest.
    one_shot.write("hostaway.yaml", NAME);
    let plan = one_shot.run(&["plan", "--format", "json"]).exits(0).json();
    let digest = plan["digest"].as_str().unwrap();
    one_shot
        .run(&["apply", "--yes", "--max-changes", "0", "--approve", digest])
        .exits(0);
    assert_eq!(kinds(&one_shot), ["update", "approved", "update"]);
    // Without a state directory there is no history, and a quiet run has no audit line.
    one_shot.env("CALRY_STATE_DIR", "");
    one_shot.write("hostaway.yaml", ROOMS);
    assert_eq!(one_shot.run(&["apply", "--yes", "-q"]).exits(0).err, "");
    assert_eq!(
        fs::read_to_string(file(&one_shot)).unwrap().lines().count(),
        3
    );
    history(&one_shot, &[]).exits(64).says("--state-dir");
}
