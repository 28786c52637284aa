//! The memory that outlives the daemon: it is killed at a bad moment, and started again with the same state directory.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::support::{Checkout, Daemon, World, live, until};
use axum::http::{Method, StatusCode};
use calry_gitops::sandbox::{Config, Fault, FaultKind, Mask, Semantics};
use serde_json::{Value, json};

const HOSTAWAY: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n";
const NEVER: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, currency]\n";
const KEYED: &str = "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:token}'}\nfieldsToSync:\n  listing: [name]\n";
const WORKSPACE: &str = "5f0c1f7e-0000-4000-8000-000000000001";

fn world(file: &str) -> World {
    let mut world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms", "pictures"])]),
        Config::default(),
    );
    world.write("hostaway.yaml", file);
    world
        .env("CALRY_STATE_DIR", "state")
        .env("CALRY_LOG_FORMAT", "json")
        .env("CALRY_SECRET_TOKEN", "first-value");
    world
}

/// A daemon that only files and requests wake, after its first reconciliation. Dropping it is SIGKILL.
fn start(world: &World) -> Daemon {
    let mut daemon = world.daemon(&["--interval", "1h"]);
    // The state file was written before this line.
    daemon.line("reconciliation 1 ");
    daemon
}

fn reconcile(daemon: &mut Daemon) {
    daemon.signal("HUP");
    daemon.line("(request)");
}

/// What the daemon said of its updates.
fn audit(daemon: &Daemon) -> Vec<Value> {
    let lines = daemon
        .seen
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["audit"] == true).collect()
}

#[track_caller]
fn causes(daemon: &Daemon) -> Vec<String> {
    audit(daemon)
        .iter()
        .map(|line| line["cause"].as_str().unwrap().to_owned())
        .collect()
}

fn click(world: &World) {
    assert!(world.sandbox.modify(
        "HOSTAWAY",
        |live| live["fieldsToSync"]["listing"]["pictures"] = json!(true)
    ));
}

fn file(world: &World) -> PathBuf {
    world
        .dir
        .path()
        .join("state")
        .join(format!("{WORKSPACE}.json"))
}

fn masked(world: &World) {
    world.sandbox.set_semantics(Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    });
}

// Drift or change.

#[test]
fn after_a_restart_drift_is_drift_and_a_change_is_a_change() {
    let world = world(HOSTAWAY);
    drop(start(&world));
    click(&world);
    assert_eq!(causes(&start(&world)), ["drift"]);
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    assert_eq!(causes(&start(&world)), ["change"]);
    // Without the state file, drift looks like a change.
    fs::remove_file(file(&world)).unwrap();
    click(&world);
    assert_eq!(causes(&start(&world)), ["change"]);
}

#[test]
fn what_a_run_was_not_about_is_not_forgotten() {
    let definitions =
        ["GUESTY", "HOSTAWAY"].map(|provider| live(provider, &["name"], &["pictures"]));
    let mut world = World::with(json!(definitions), Config::default());
    world
        .write("hostaway.yaml", HOSTAWAY)
        .write("guesty.yaml", &HOSTAWAY.replace("HOSTAWAY", "GUESTY"));
    world
        .env("CALRY_STATE_DIR", "state")
        .env("CALRY_LOG_FORMAT", "json");
    drop(start(&world));
    world.run(&["run", "--once", "--only", "GUESTY"]).exits(0);
    click(&world);
    assert_eq!(causes(&start(&world)), ["drift"]);
    // Nor is that whose file cannot be read for a while.
    world.write("hostaway.yaml", "provider: [\n");
    drop(start(&world));
    click(&world);
    world.write("hostaway.yaml", HOSTAWAY);
    assert_eq!(causes(&start(&world)), ["drift"]);
    // A file that is gone is another thing.
    fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    drop(start(&world));
    click(&world);
    world.write("hostaway.yaml", HOSTAWAY);
    assert_eq!(causes(&start(&world)), ["change"]);
}

#[test]
fn a_directory_that_could_not_be_used_at_the_start_is_used_as_soon_as_it_can_be() {
    let world = world(KEYED);
    masked(&world);
    let state = world.dir.path().join("state");
    fs::write(&state, "a file in the way").unwrap();
    let mut daemon = start(&world);
    assert_eq!(
        daemon.count_lines("cannot be used"),
        1,
        "{:#?}",
        daemon.seen
    );
    fs::remove_file(&state).unwrap();
    reconcile(&mut daemon);
    assert_eq!(
        daemon.count_lines("can be written again"),
        1,
        "{:#?}",
        daemon.seen
    );
    drop(daemon);
    // The fingerprints are known by the key that was saved with them: the masked value is not sent again.
    let daemon = start(&world);
    assert_eq!(audit(&daemon), Vec::<Value>::new());
    assert_eq!(daemon.count_lines("another fingerprint key"), 0);
}

#[test]
fn what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not() {
    let world = world(HOSTAWAY);
    drop(start(&world));
    let [old, new] =
        [".state-old", ".state-new"].map(|name| world.dir.path().join("state").join(name));
    fs::write(&old, "{").unwrap();
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
    fs::write(&new, "{").unwrap();
    drop(start(&world));
    assert_eq!((old.exists(), new.exists()), (false, true));
}

#[test]
fn a_secret_that_was_rotated_between_is_a_change_and_one_that_was_not_leaves_drift_drift() {
    for own_key in [true, false] {
        let mut world = world(KEYED);
        if !own_key {
            world.env("CALRY_FINGERPRINT_KEY", &"k".repeat(40));
        }
        drop(start(&world));
        click(&world);
        assert_eq!(causes(&start(&world)), ["drift"]);
        world.env("CALRY_SECRET_TOKEN", "second-value");
        assert_eq!(causes(&start(&world)), ["change"]);
        assert_eq!(
            world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
            "second-value"
        );
        assert_eq!(
            world.dir.path().join("state/fingerprint.key").exists(),
            own_key
        );
        // Under another key its fingerprints say nothing.
        world.env("CALRY_FINGERPRINT_KEY", &"l".repeat(40));
        click(&world);
        assert_eq!(causes(&start(&world)), ["change"]);
    }
}

#[test]
fn a_memory_of_another_workspace_says_nothing() {
    let mut world = world(HOSTAWAY);
    drop(start(&world));
    // The operator means the other ones.
    world.env("CALRY_WORKSPACE", "acme-production");
    world
        .sandbox
        .modify_workspace(|workspace| workspace["id"] = json!("../../of another/form"));
    click(&world);
    assert_eq!(causes(&start(&world)), ["change"]);
    // Each has its file, as the loop has, and none is outside of the directory.
    let names = fs::read_dir(world.dir.path().join("state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        names
            .filter(|name| name.to_string_lossy().ends_with(".json"))
            .count(),
        3
    );
    fs::copy(file(&world), file(&world).with_extension("copy")).unwrap();
    world
        .sandbox
        .modify_workspace(|workspace| workspace["id"] = json!(WORKSPACE.replace('1', "2")));
    fs::rename(
        file(&world).with_extension("copy"),
        file(&world).with_file_name(format!("{}.json", WORKSPACE.replace('1', "2"))),
    )
    .unwrap();
    click(&world);
    let daemon = start(&world);
    assert_eq!(
        (
            causes(&daemon),
            daemon.count_lines("it belongs to another workspace")
        ),
        (vec!["change".to_owned()], 1)
    );
}

// Masks.

#[test]
fn a_masked_value_is_not_sent_again_after_a_restart_unless_it_may_be_another() {
    let mut world = world(KEYED);
    masked(&world);
    drop(start(&world));
    assert_eq!(world.updates().len(), 1);
    let stale = fs::read(file(&world)).unwrap();
    drop(start(&world));
    assert_eq!(world.updates().len(), 1, "the masked value is known");

    world.env("CALRY_SECRET_TOKEN", "second-value");
    drop(start(&world));
    assert_eq!(world.updates().len(), 2, "it was rotated");

    // A file from before that: its last applied state is not the live one.
    fs::write(file(&world), stale).unwrap();
    world.env("CALRY_SECRET_TOKEN", "first-value");
    drop(start(&world));
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "first-value"
    );

    // A click while no daemon runs.
    world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"]["headers"]["x-api-key"] = json!("a click")
    });
    drop(start(&world));
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "first-value"
    );
    let before = world.updates().len();
    drop(start(&world));
    assert_eq!(world.updates().len(), before);
}

#[test]
fn a_masked_value_is_unknown_after_an_update_without_an_answer() {
    let mut world = world(KEYED);
    masked(&world);
    let secrets = world.dir.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("token"), "first-value").unwrap();
    world.env("CALRY_SECRETS_DIR", "secrets");
    let mut daemon = start(&world);
    // Calry refuses it, and has it all the same.
    let kind = FaultKind::Status {
        code: StatusCode::BAD_REQUEST,
        message: "No.".to_owned(),
        retry_after: None,
    };
    world.sandbox.inject(Fault::once(kind).on(Method::PATCH));
    fs::write(secrets.join("token"), "second-value").unwrap();
    reconcile(&mut daemon);
    world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"]["headers"]["x-api-key"] = json!("second-value")
    });
    fs::write(secrets.join("token"), "first-value").unwrap();
    reconcile(&mut daemon);
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "first-value"
    );
}

// What does not converge.

#[test]
fn a_field_that_did_not_converge_is_not_tried_again_at_every_restart() {
    let world = world(NEVER);
    drop(start(&world));
    let mut daemon = start(&world);
    assert_eq!(world.updates().len(), 1);
    let status = daemon.status();
    let hostaway = &status["providers"][0];
    assert_eq!(
        (&hostaway["outcome"], &hostaway["cause"]),
        (&json!("notConverged"), &json!("change")),
        "{hostaway:#}"
    );
    let kept = json!([{"path": "fieldsToSync.listing.currency", "sent": true, "kept": null, "sensitive": false}]);
    assert_eq!(hostaway["notConverged"], kept);
    assert!(hostaway["retryAt"].is_string());
    let address = format!("http://{}", daemon.address());
    world
        .run(&["status", "--address", &address])
        .exits(1)
        .says("currency: sent true, Calry kept nothing");
    // A new desired state is tried at once.
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    daemon.line("(files)");
    assert_eq!(daemon.status()["providers"][0].get("notConverged"), None);
}

#[test]
fn another_field_of_a_provider_that_does_not_converge_is_put_back_at_once() {
    let world = world(NEVER);
    let mut daemon = start(&world);
    reconcile(&mut daemon);
    assert_eq!(world.updates().len(), 1);
    click(&world);
    reconcile(&mut daemon);
    assert_eq!(world.updates().len(), 2);
    assert_eq!(
        world.live("HOSTAWAY")["fieldsToSync"]["listing"]["pictures"],
        false
    );
    assert_eq!(causes(&daemon), ["change", "drift"]);
    // What was carried along is left alone as before.
    reconcile(&mut daemon);
    assert_eq!(world.updates().len(), 2);
}

// The file.

#[test]
fn the_files_hold_no_secret_are_private_and_are_not_written_without_changes() {
    let world = world(KEYED);
    let mut daemon = start(&world);
    let inode = || fs::metadata(file(&world)).unwrap().ino();
    let first = inode();
    for _ in 0..2 {
        reconcile(&mut daemon);
        assert_eq!(inode(), first);
    }
    click(&world);
    reconcile(&mut daemon);
    assert_ne!(inode(), first);
    until("the history is written", || {
        let name = format!("{WORKSPACE}.history.jsonl");
        world.dir.path().join("state").join(name).exists()
    });
    let entries: Vec<_> = fs::read_dir(world.dir.path().join("state"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(entries.len(), 4, "{entries:?}");
    for entry in entries {
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(
            !fs::read_to_string(entry.path())
                .unwrap()
                .contains("first-value")
        );
    }
}

type Harm = fn(&str) -> String;

#[test]
fn a_file_that_cannot_be_used_is_put_aside_and_costs_nothing_but_the_memory() {
    let cases: [(Harm, Option<&str>); 5] = [
        (str::to_owned, None),
        (
            |text| text.replace("\"version\": 1", "\"version\": 2"),
            Some("it is of version 2"),
        ),
        (
            |text| text[..text.len() / 2].to_owned(),
            Some("it was not written by calry-gitops"),
        ),
        (
            |text| text.replace("sha256:", "sha257:"),
            Some("it was not written by calry-gitops"),
        ),
        (
            |text| format!("{text}{}", " ".repeat(17 << 20)),
            Some("it has more than"),
        ),
    ];
    for (harm, why) in cases {
        let world = world(HOSTAWAY);
        drop(start(&world));
        let text = harm(&fs::read_to_string(file(&world)).unwrap());
        fs::write(file(&world), &text).unwrap();
        click(&world);
        let daemon = start(&world);
        assert_eq!(
            world.live("HOSTAWAY")["fieldsToSync"]["listing"]["pictures"],
            false
        );
        let aside = world
            .dir
            .path()
            .join(format!("state/{WORKSPACE}.json.damaged"));
        match why {
            None => assert_eq!(
                (causes(&daemon), aside.exists()),
                (vec!["drift".to_owned()], false)
            ),
            Some(why) => {
                assert_eq!(
                    (causes(&daemon), daemon.count_lines(why)),
                    (vec!["change".to_owned()], 1),
                    "{:#?}",
                    daemon.seen
                );
                assert!(fs::read_to_string(aside).unwrap() == text);
                // The new one is good again.
                drop(daemon);
                click(&world);
                assert_eq!(causes(&start(&world)), ["drift"]);
            }
        }
    }
}

#[test]
fn a_forged_pause_ends_with_the_interval() {
    let world = world(NEVER);
    drop(start(&world));
    let mut document: Value = serde_json::from_slice(&fs::read(file(&world)).unwrap()).unwrap();
    document["providers"]["HOSTAWAY"]["notConverged"][0]["until"] = json!("9000-01-01T00:00:00Z");
    fs::write(file(&world), document.to_string()).unwrap();
    let _daemon = world.daemon(&["--interval", "1s"]);
    until("it is tried again", || world.updates().len() == 2);
}

#[test]
fn a_directory_that_cannot_be_written_is_told_of_once_and_stops_nothing() {
    let world = world(HOSTAWAY);
    let mut daemon = start(&world);
    let directory = world.dir.path().join("state");
    fs::rename(&directory, world.dir.path().join("away")).unwrap();
    for _ in 0..3 {
        click(&world);
        reconcile(&mut daemon);
        assert_eq!(
            world.live("HOSTAWAY")["fieldsToSync"]["listing"]["pictures"],
            false
        );
    }
    assert_eq!(daemon.count_lines("cannot write the state file"), 1);
    fs::create_dir(&directory).unwrap();
    reconcile(&mut daemon);
    assert_eq!(daemon.count_lines("can be written again"), 1);
    drop(daemon);

    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "in the way").unwrap();
    click(&world);
    let mut daemon = start(&world);
    reconcile(&mut daemon);
    assert_eq!(
        (daemon.count_lines("WARN"), causes(&daemon)),
        (1, vec!["change".to_owned()]),
        "{:#?}",
        daemon.seen
    );
}

// The audit line.

#[test]
fn every_write_has_its_audit_line() {
    let definitions: Vec<Value> = ["BOOM", "GUESTY", "HOSTAWAY"]
        .map(|p| live(p, &["name"], &["rooms"]))
        .into();
    let mut world = World::with(json!(definitions), Config::default());
    world
        .env("CALRY_LOG_FORMAT", "json")
        .env("CALRY_SECRET_TOKEN", "first-value");
    world
        .write("hostaway.yaml", KEYED)
        .write("guesty.yaml", &NEVER.replace("HOSTAWAY", "GUESTY"));
    world.write(
        "boom.yaml",
        "provider: BOOM\nfieldsToSync:\n  listing: [rooms]\n",
    );
    let kind = FaultKind::Status {
        code: StatusCode::BAD_REQUEST,
        message: "No.".to_owned(),
        retry_after: None,
    };
    world
        .sandbox
        .inject(Fault::once(kind).on(Method::PATCH).at("/BOOM"));
    let checkout = Checkout::of(world);
    let mut daemon = start(&checkout.world);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let mut lines = audit(&daemon);
    lines.sort_by_key(|line| line["provider"].to_string());
    let commit = checkout.main.to_string();
    let facts = |line: &Value| {
        assert!(line["duration_seconds"].is_f64(), "{line}");
        let fields = [
            "slug", "provider", "cause", "outcome", "paths", "commit", "revision", "sent",
        ];
        fields.map(|field| line[field].clone())
    };
    let is = |provider: &str, outcome: &str, paths: &str| {
        [
            json!("acme-production"),
            json!(provider),
            json!("change"),
            json!(outcome),
            json!(paths),
            json!(commit),
            json!(commit[..10]),
            json!(1),
        ]
    };
    let expected = [
        is(
            "BOOM",
            "failed",
            "fieldsToSync.listing.name fieldsToSync.listing.rooms",
        ),
        is("GUESTY", "notConverged", "fieldsToSync.listing.currency"),
        is("HOSTAWAY", "applied", "partnerKey.headers.x-api-key"),
    ];
    assert_eq!(lines.iter().map(facts).collect::<Vec<_>>(), expected);
    assert_eq!(daemon.count_lines("first-value"), 0);
}

#[test]
fn a_pause_in_the_state_file_is_not_believed_beyond_the_longest_of_this_process() {
    let world = world(NEVER);
    drop(start(&world));
    let text = fs::read_to_string(file(&world)).unwrap();
    let mut state: Value = serde_json::from_str(&text).unwrap();
    state["providers"]["HOSTAWAY"]["notConverged"][0]["until"] = json!("2099-12-31T00:00:00Z");
    fs::write(file(&world), state.to_string()).unwrap();
    let mut daemon = start(&world);
    assert_eq!(
        daemon.count_lines("loaded the last applied state of 1 providers"),
        1
    );
    let retry_at = daemon.status()["providers"][0]["retryAt"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(retry_at.as_str() < "2099", "{retry_at}");
}

// Holds.

#[test]
fn a_hold_that_is_over_resumes_and_says_so_even_under_strict() {
    let held = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\nhold: {until: 2020-01-01, reason: OPS-1}\n";
    let mut world = world(held);
    world.env.remove("CALRY_LOG_FORMAT");
    world
        .run(&["validate", "--strict"])
        .exits(0)
        .says("warning[hold-over]: the hold is over: its last day was 2020-01-01");
    for format in ["text", "markdown", "github"] {
        world
            .run(&["plan", "--format", format])
            .exits(0)
            .says("its hold ended on 2020-01-01");
    }
    let json = world.run(&["plan", "--format", "json"]).exits(0).json();
    assert_eq!(
        json["definitions"][0]["endedHold"],
        json!({"until": "2020-01-01", "reason": "OPS-1"})
    );
    let mut observer = world.daemon(&["--mode", "observe"]);
    observer.line("HOSTAWAY would be updated (its hold until 2020-01-01 is over): ");
    let address = format!("http://{}", observer.address());
    world
        .run(&["status", "--address", &address])
        .exits(0)
        .says("its hold until 2020-01-01 is over");
    drop(observer);
    let mut daemon = world.daemon(&["--strict"]);
    daemon.line("hostaway.yaml:4:1: the hold is over");
    assert_eq!(
        daemon.count_lines("HOSTAWAY updated (its hold until 2020-01-01 is over): "),
        1,
        "{:#?}",
        daemon.seen
    );
    drop(daemon);
    let json = world.run(&["plan", "--format", "json"]).exits(0).json();
    let of = &json["definitions"][0];
    assert_eq!(
        (&of["state"], &of["endedHold"]["until"]),
        (&json!("inSync"), &json!("2020-01-01"))
    );
}

#[test]
fn a_hold_that_ends_soon_is_told_in_the_status() {
    let today = calry_gitops::reconcile::today();
    for (days, soon) in [(2, true), (30, false)] {
        let until = today.checked_add(jiff::Span::new().days(days)).unwrap();
        let world = world(&format!(
            "{HOSTAWAY}hold: {{until: {until}, reason: OPS-1}}\n"
        ));
        let mut daemon = start(&world);
        let status = daemon.status();
        let left = &status["providers"][0]["holdDaysLeft"];
        // The day may have changed since.
        assert_eq!(
            left.as_i64().is_some_and(|left| (1..=2).contains(&left)),
            soon,
            "{left}"
        );
        assert_eq!(status["providers"][0]["hold"]["until"], until.to_string());
    }
}
