//! Workspace pins: of the operator, of the files, and in the memory of a daemon.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Daemon, Ran, World, live, until};
use axum::http::Method;
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

const ROOMS: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n";
const OTHER_ID: &str = "5f0c1f7e-0000-4000-8000-000000000002";

fn world() -> World {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms", "pictures"])]),
        Config::default(),
    );
    world.write("hostaway.yaml", ROOMS);
    world
}

/// Makes the API key belong to another workspace.
fn move_to(world: &World, id: &str, slug: &str) {
    let (id, slug) = (json!(id), json!(slug));
    world.sandbox.modify_workspace(|workspace| {
        workspace["id"] = id.clone();
        workspace["slug"] = slug.clone();
    });
}

fn listing(world: &World) -> Value {
    world.live("HOSTAWAY")["fieldsToSync"]["listing"].clone()
}

#[test]
fn the_operators_pin_holds_for_every_command_that_asks_calry() {
    let mut world = world();
    let snapshot = world.run(&["snapshot"]).exits(0).out;
    fs::write(world.dir.path().join("snapshot.json"), snapshot).unwrap();
    let commands: [&[&str]; 8] = [
        &["plan"],
        &["plan", "--format", "json"],
        &["plan", "--live", "snapshot.json"],
        &["apply", "--yes"],
        &["run", "--once"],
        &["run", "--once", "--mode", "observe"],
        &["pull"],
        &["snapshot"],
    ];
    let before = listing(&world);
    for args in commands {
        let ran = world
            .run(&[args, &["--workspace", "acme-staging"]].concat())
            .exits(1);
        assert!(
            !ran.out.contains("\"definitions\""),
            "{args:?}: {}",
            ran.out
        );
        ran.says("only the workspace acme-staging is allowed (--workspace)")
            .says("belongs to acme-production");
    }
    world.env("CALRY_WORKSPACE", "acme-staging");
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("only the workspace acme-staging is allowed");
    assert_eq!((listing(&world), world.updates().len()), (before, 0));
    assert_eq!(
        fs::read_to_string(world.definitions().join("hostaway.yaml")).unwrap(),
        ROOMS,
        "pull wrote nothing"
    );
    assert!(!world.definitions().join("workspace.yaml").exists());
    // The last flag wins over the variable.
    world
        .run(&[
            "apply",
            "--yes",
            "--workspace",
            "acme-staging",
            "--workspace",
            "acme-production",
        ])
        .exits(0);
    assert_eq!(world.updates().len(), 1);
    world.run(&["plan", "--workspace", "not a slug"]).exits(64);
}

#[test]
fn both_pins_must_allow_the_workspace() {
    let world = world();
    world.write("workspace.yaml", "slug: acme-production\n");
    world
        .run(&["plan", "--workspace", "acme-production"])
        .exits(0);
    let before = world.requests().len();
    let ran = world.run(&["plan", "--workspace", "acme-staging"]).exits(1);
    ran.says("for the workspace acme-production (workspace.yaml), and only acme-staging is allowed (--workspace)");
    assert_eq!(
        world.requests().len(),
        before,
        "no workspace can be the right one"
    );
    // Only the operator's pin is right.
    world.write("workspace.yaml", "slug: acme-staging\n");
    world
        .run(&["apply", "--yes", "--workspace", "acme-production"])
        .exits(1);
    // A pin in a pull request does not count.
    fs::remove_file(world.definitions().join("workspace.yaml")).unwrap();
    world
        .run(&["apply", "--yes", "--workspace", "acme-staging"])
        .exits(1);
    assert!(world.updates().is_empty());
}

#[test]
fn a_key_that_is_exchanged_between_plan_and_apply_writes_nothing_to_the_other_workspace() {
    let mut world = world();
    let key = world.dir.path().join("key");
    fs::write(&key, &world.sandbox.keys().write).unwrap();
    world
        .env("CALRY_API_KEY_FILE", key.to_str().unwrap())
        .env
        .remove("CALRY_API_KEY");
    let delay = FaultKind::Delay(Duration::from_secs(2));
    world.sandbox.inject(
        Fault::once(delay)
            .on(Method::GET)
            .at("/integration-definition"),
    );
    let child = world
        .command(&["apply", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("both parts of the live state are asked for", || {
        world.requests().len() == 2
    });
    fs::write(&key, &world.sandbox.keys().read).unwrap();
    // The plan was made for the first workspace.
    std::thread::sleep(Duration::from_millis(500));
    move_to(&world, OTHER_ID, "acme-staging");
    let ran = Ran::of(child.wait_with_output().unwrap()).exits(1);
    assert!(world.updates().is_empty());
    ran.says("belongs to the workspace acme-staging, not to acme-production");
}

fn start(world: &World, args: &[&str]) -> Daemon {
    world.daemon(&[&["--interval", "1h"], args].concat())
}

#[test]
fn a_daemon_whose_key_now_belongs_to_another_workspace_stops_and_writes_nothing() {
    let mut world = world();
    world.env("CALRY_STATE_DIR", "state");
    let mut daemon = start(&world, &[]);
    daemon.line("reconciliation 1 ");
    assert_eq!(world.updates().len(), 1);
    // While it runs.
    move_to(&world, OTHER_ID, "acme-staging");
    world.sandbox.modify("HOSTAWAY", |live| {
        live["fieldsToSync"]["listing"]["pictures"] = json!(true)
    });
    let key = world.dir.path().join("key");
    fs::write(&key, &world.sandbox.keys().write).unwrap();
    drop(daemon);
    let mut daemon = start(&world, &[]);
    assert_eq!(daemon.wait(), Some(1));
    let said = daemon
        .seen
        .iter()
        .find(|line| line.contains("until now it belonged to acme-production"))
        .unwrap();
    assert!(
        said.contains("--workspace acme-staging") && said.contains("state/loop-"),
        "{said}"
    );
    world
        .run(&["run", "--once"])
        .exits(1)
        .says("until now it belonged to acme-production");
    assert_eq!(world.updates().len(), 1);

    // The operator confirms the move once.
    world
        .run(&["run", "--once", "--workspace", "acme-staging"])
        .exits(0);
    assert_eq!(world.updates().len(), 2);
    world.run(&["run", "--once"]).exits(0);
    // So does removing the file.
    move_to(&world, &OTHER_ID.replace('2', "3"), "acme-staging");
    let ran = world.run(&["run", "--once"]).exits(1);
    let ran = ran
        .says("belongs to the workspace acme-staging (id")
        .says(OTHER_ID);
    let file = ran
        .err
        .split("or remove ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .split(".json")
        .next()
        .unwrap();
    fs::remove_file(world.dir.path().join(format!("{file}.json"))).unwrap();
    world.run(&["run", "--once"]).exits(0);
    // So does a pin in the files, which are then for this workspace.
    move_to(&world, OTHER_ID, "acme-third");
    world.run(&["run", "--once"]).exits(1);
    world.write("workspace.yaml", "slug: acme-third\n");
    world.run(&["run", "--once"]).exits(0);
}

#[test]
fn a_key_that_is_exchanged_while_the_daemon_runs_changes_nothing_in_the_other_workspace() {
    for state in [true, false] {
        let mut world = world();
        let key = world.dir.path().join("key");
        fs::write(&key, &world.sandbox.keys().write).unwrap();
        world
            .env("CALRY_API_KEY_FILE", key.to_str().unwrap())
            .env
            .remove("CALRY_API_KEY");
        if state {
            world.env("CALRY_STATE_DIR", "state");
        }
        let mut daemon = start(&world, &[]);
        daemon.line("reconciliation 1 ");
        move_to(&world, OTHER_ID, "acme-staging");
        world.sandbox.modify("HOSTAWAY", |live| {
            live["fieldsToSync"]["listing"]["pictures"] = json!(true)
        });
        // Another key, so that the workspace is read again; a READ key is enough.
        fs::write(&key, &world.sandbox.keys().read).unwrap();
        daemon.signal("HUP");
        let line = daemon.line("until now it belonged to acme-production");
        assert_eq!(world.updates().len(), 1);
        if state {
            assert_eq!(daemon.wait(), Some(1));
        } else {
            // A restart would lose its memory, so it keeps running and continues when the key is right again.
            assert!(line.contains("restart the daemon"), "{line}");
            move_to(
                &world,
                "5f0c1f7e-0000-4000-8000-000000000001",
                "acme-production",
            );
            fs::write(&key, &world.sandbox.keys().write).unwrap();
            daemon.signal("HUP");
            until("drift is undone", || world.updates().len() == 2);
            daemon.signal("TERM");
            assert_eq!(daemon.wait(), Some(0));
        }
    }
}

#[test]
fn one_of_several_workspaces_that_moved_is_left_alone_and_the_others_go_on() {
    let (moved, other, mut operator) = (world(), world(), World::default());
    let entry = |name: &str, calry: &World| {
        let dir = calry.dir.path().display();
        fs::write(calry.dir.path().join("key"), &calry.sandbox.keys().write).unwrap();
        format!(
            "  - {{name: {name}, definitions: {dir}/definitions, apiKeyFile: {dir}/key, apiUrl: '{}'}}\n",
            calry.sandbox.url()
        )
    };
    let config = format!(
        "interval: 1s\nstateDir: state\nworkspaces:\n{}{}",
        entry("moved", &moved),
        entry("other", &other)
    );
    fs::write(operator.dir.path().join("config.yaml"), config).unwrap();
    operator.env.remove("CALRY_API_KEY");
    operator.env.remove("CALRY_API_URL");
    operator
        .run(&["run", "--once", "--config", "config.yaml"])
        .exits(0);
    move_to(&moved, OTHER_ID, "acme-staging");
    for calry in [&moved, &other] {
        calry.sandbox.modify("HOSTAWAY", |live| {
            live["fieldsToSync"]["listing"]["pictures"] = json!(true)
        });
    }
    operator
        .run(&["run", "--once", "--config", "config.yaml"])
        .exits(1);
    other.write("hostaway.yaml", &ROOMS.replace("rooms", "name"));
    let mut daemon = operator.daemon(&["--config", "config.yaml"]);
    daemon.line("moved: reconciliation 2 ");
    until("the other one is kept", || listing(&other)["name"] == true);
    assert_eq!(moved.updates().len(), 1);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}
