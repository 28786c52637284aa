//! The daemon, as its operator uses it: the real binary, files that change under it, signals, and a Calry
//! that has its moods.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Daemon, World, live, until};
use axum::http::{Method, StatusCode};
use calry_gitops::sandbox::{Config, Fault, FaultKind, RequestRecord};
use serde_json::{Value, json};

/// A workspace in which every one of these providers has `name` on, and `rooms` and `pictures` off.
fn world(providers: &[&str]) -> World {
    let definitions: Vec<Value> = providers
        .iter()
        .map(|p| live(p, &["name"], &["rooms", "pictures"]))
        .collect();
    World::with(json!(definitions), Config::default())
}

fn file(provider: &str, fields: &str) -> String {
    format!("provider: {provider}\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// What of HOSTAWAY is on.
fn on(world: &World) -> Vec<String> {
    let definition = world.live("HOSTAWAY");
    let fields = definition["fieldsToSync"]["listing"].as_object().unwrap();
    fields
        .iter()
        .filter(|(_, on)| **on == true)
        .map(|(field, _)| field.clone())
        .collect()
}

#[track_caller]
fn until_on(world: &World, fields: &[&str]) {
    until(&format!("{fields:?} is on"), || on(world) == fields);
}

/// A daemon that only files and requests wake, after its first reconciliation.
fn waiting(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon
}

/// Requests a reconciliation and waits for its end.
#[track_caller]
fn reconcile(daemon: &mut Daemon) -> String {
    daemon.signal("HUP");
    daemon.line("(request)")
}

fn click(world: &World, provider: &str) {
    assert!(world.sandbox.modify(
        provider,
        |live| live["fieldsToSync"]["listing"]["pictures"] = json!(true)
    ));
}

fn refusal(code: StatusCode) -> FaultKind {
    FaultKind::Status {
        code,
        message: "No.".to_owned(),
        retry_after: None,
    }
}

/// When the updates of a provider arrived.
fn attempts(world: &World, provider: &str) -> Vec<Instant> {
    world
        .updates()
        .iter()
        .filter(|r| r.path.ends_with(provider))
        .map(|r| r.at)
        .collect()
}

/// The API key in a file that the daemon reads.
fn key_file(world: &mut World) -> PathBuf {
    let path = world.dir.path().join("key");
    fs::write(&path, &world.sandbox.keys().write).unwrap();
    world.env.remove("CALRY_API_KEY");
    world.env("CALRY_API_KEY_FILE", path.to_str().unwrap());
    path
}

// What is in the directory is what runs.

#[test]
fn it_converges_at_start() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    let daemon = waiting(&world, &[]);
    assert_eq!(on(&world), ["name", "rooms"]);
    assert_eq!(daemon.count_lines("HOSTAWAY updated"), 1);
}

#[test]
fn a_file_that_is_rewritten_replaced_new_or_gone_is_acted_on() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);

    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    until_on(&world, &["name", "rooms"]);

    let new = world.definitions().join(".hostaway.yaml.swp");
    fs::write(&new, file("HOSTAWAY", "name, pictures")).unwrap();
    fs::rename(&new, world.definitions().join("hostaway.yaml")).unwrap();
    until_on(&world, &["name", "pictures"]);

    world.write("guesty.yml", &file("GUESTY", "rooms"));
    daemon.line("GUESTY updated");
    assert!(daemon.line("(files)").contains("1 updated, 1 in sync"));

    let before = world.live("HOSTAWAY");
    let updates = world.updates().len();
    fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    assert!(daemon.line("(files)").contains("1 unmanaged"));
    assert_eq!(
        (world.live("HOSTAWAY"), world.updates().len()),
        (before, updates)
    );
}

#[test]
fn a_link_that_is_flipped_on_the_way_to_the_files_is_acted_on() {
    for nested in [false, true] {
        let world = world(&["HOSTAWAY"]);
        let root = world.dir.path();
        for (commit, fields) in [("one", "name, rooms"), ("two", "name, pictures")] {
            let directory = root
                .join(commit)
                .join(if nested { "definitions" } else { "" });
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("hostaway.yaml"), file("HOSTAWAY", fields)).unwrap();
        }
        symlink("one", root.join("current")).unwrap();
        let path = if nested {
            "current/definitions"
        } else {
            "current"
        };
        let _daemon = waiting(&world, &["-d", path]);
        assert_eq!(on(&world), ["name", "rooms"]);
        symlink("two", root.join("next")).unwrap();
        fs::rename(root.join("next"), root.join("current")).unwrap();
        until_on(&world, &["name", "pictures"]);
    }
}

#[test]
fn a_config_map_that_is_swapped_is_acted_on() {
    let world = world(&["HOSTAWAY"]);
    let directory = world.definitions();
    let publish = |version: &str, fields: &str| {
        fs::create_dir(directory.join(version)).unwrap();
        fs::write(
            directory.join(version).join("hostaway.yaml"),
            file("HOSTAWAY", fields),
        )
        .unwrap();
        symlink(version, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    publish("..2026_01", "name, rooms");
    symlink("..data/hostaway.yaml", directory.join("hostaway.yaml")).unwrap();
    let _daemon = waiting(&world, &[]);
    assert_eq!(on(&world), ["name", "rooms"]);
    publish("..2026_02", "name, pictures");
    fs::remove_dir_all(directory.join("..2026_01")).unwrap();
    until_on(&world, &["name", "pictures"]);
}

#[test]
fn a_directory_that_vanishes_changes_nothing_and_is_read_again_when_it_is_back() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    let mut daemon = waiting(&world, &[]);
    let before = world.live("HOSTAWAY");
    let away = world.dir.path().join("away");
    fs::rename(world.definitions(), &away).unwrap();
    assert!(daemon.line("reconciliation 2 ").contains("ERROR"));
    assert_eq!((world.live("HOSTAWAY"), world.updates().len()), (before, 1));
    fs::write(
        away.join("hostaway.yaml"),
        file("HOSTAWAY", "name, pictures"),
    )
    .unwrap();
    fs::rename(&away, world.definitions()).unwrap();
    until_on(&world, &["name", "pictures"]);
}

#[test]
fn an_api_key_on_a_hanging_file_system_fails_reconciliations_and_does_not_prevent_a_stop() {
    let mut world = World::default();
    world.write("hostaway.yaml", "provider: HOSTAWAY\n");
    world.env.remove("CALRY_API_KEY");
    world.env("CALRY_API_KEY_FILE", "key");
    // Opening it waits for a writer.
    let pipe = world.dir.path().join("key");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut daemon = world.daemon(&["--timeout", "1s", "--interval", "1s"]);
    daemon.line("reconciliation 1 (start) failed");
    daemon.line("reconciliation 2 ");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn an_empty_directory_changes_nothing() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    let mut daemon = waiting(&world, &[]);
    let before = world.live("HOSTAWAY");
    fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    assert!(daemon.line("reconciliation 2 ").contains("ERROR"));
    assert_eq!((world.live("HOSTAWAY"), world.updates().len()), (before, 1));
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, pictures"));
    until_on(&world, &["name", "pictures"]);
}

#[test]
fn a_slow_writer_causes_one_update_when_it_is_done() {
    let fields = ["name, rooms", "rooms", "pictures", "rooms, pictures"];
    // On a busy machine a writer may pause for longer than intended: then the attempt proves nothing and is repeated.
    for attempt in 0.. {
        assert!(
            attempt < 10,
            "this machine is too busy for a writer whose pauses are short"
        );
        let world = world(&["HOSTAWAY"]);
        world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
        let mut daemon = waiting(&world, &[]);
        let (mut written, mut longest) = (Instant::now(), Duration::ZERO);
        for step in 0..12 {
            if step > 0 {
                std::thread::sleep(Duration::from_millis(170));
            }
            world.write("hostaway.yaml", &file("HOSTAWAY", fields[step % 4]));
            longest = if step > 0 {
                longest.max(written.elapsed())
            } else {
                longest
            };
            written = Instant::now();
        }
        if longest > Duration::from_millis(200) {
            continue;
        }
        until_on(&world, &["pictures", "rooms"]);
        reconcile(&mut daemon);
        let updates = world.updates();
        assert_eq!(updates.len(), 1, "{updates:?}");
        assert!(updates[0].at >= written);
        return;
    }
}

#[test]
fn a_file_that_is_written_all_the_time_delays_no_other() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "name"))
        .write("guesty.yaml", &file("GUESTY", "name"));
    let mut daemon = waiting(&world, &[]);
    let guesty = world.definitions().join("guesty.yaml");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(50)).is_err() {
            fs::write(&guesty, file("GUESTY", "pictures")).unwrap();
        }
    });
    for fields in [&["name", "rooms"][..], &["rooms"], &["name", "pictures"]] {
        let begin = Instant::now();
        world.write("hostaway.yaml", &file("HOSTAWAY", &fields.join(", ")));
        until_on(&world, fields);
        assert!(
            begin.elapsed() < Duration::from_secs(8),
            "{:?}",
            begin.elapsed()
        );
        println!("{:?}", begin.elapsed());
    }
    assert!(attempts(&world, "GUESTY").is_empty(), "it is not at rest");
    stop.send(()).unwrap();
    writer.join().unwrap();
    daemon.line("GUESTY updated");
}

#[test]
fn one_invalid_file_keeps_only_its_own_provider_out_and_is_reported_once() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    world.write("guesty.yaml", "provider: GUESTY\nfieldsToSink: {}\n");
    let mut daemon = waiting(&world, &[]);
    assert_eq!(on(&world), ["name", "rooms"]);
    assert!(reconcile(&mut daemon).contains("1 invalid"));
    assert!(reconcile(&mut daemon).contains("1 invalid"));
    assert_eq!(daemon.count_lines("guesty.yaml"), 1, "{:#?}", daemon.seen);
    world.write("guesty.yaml", &file("GUESTY", "name, rooms"));
    daemon.line("GUESTY updated");
}

// Drift.

#[test]
fn drift_is_undone_within_the_interval_and_told_from_a_change() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = world.daemon(&["--interval", "1s", "--log-format", "json"]);
    daemon.line("reconciliation 1 ");
    let mut cause = |provoke: &dyn Fn()| {
        provoke();
        let line: Value = serde_json::from_str(&daemon.line("\"outcome\":\"applied\"")).unwrap();
        line["cause"].as_str().unwrap().to_owned()
    };
    let rewrite = || {
        world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    };
    assert_eq!(cause(&|| click(&world, "HOSTAWAY")), "drift");
    assert_eq!(on(&world), ["name"]);
    assert_eq!(cause(&rewrite), "change");
    assert_eq!(cause(&|| click(&world, "HOSTAWAY")), "drift");
    assert_eq!(on(&world), ["name", "rooms"]);
}

#[test]
fn observe_writes_nothing_and_reports_drift_once() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &["--mode", "observe"]);
    for _ in 0..2 {
        click(&world, "HOSTAWAY");
        let before = daemon.seen.len();
        for _ in 0..3 {
            assert!(reconcile(&mut daemon).contains("1 to update"));
        }
        let lines = daemon.seen[before..]
            .iter()
            .filter(|line| line.contains("HOSTAWAY"))
            .collect::<Vec<_>>();
        assert!(lines.len() == 1 && lines[0].contains("drift"), "{lines:#?}");
        // After a fix in the console, the next drift is news.
        world.sandbox.modify("HOSTAWAY", |live| {
            live["fieldsToSync"]["listing"]["pictures"] = json!(false)
        });
        assert!(reconcile(&mut daemon).contains("1 in sync"));
    }
    assert!(world.updates().is_empty());
}

#[test]
fn a_plan_that_is_refused_sends_nothing_and_is_told_once_a_pass() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
        .write("guesty.yaml", &file("GUESTY", "rooms"));
    let mut daemon = waiting(&world, &["--max-changes", "1"]);
    reconcile(&mut daemon);
    reconcile(&mut daemon);
    assert_eq!(
        daemon.count_lines("on the status page or with POST /api/v1/approve: sha256:"),
        3
    );
    // `apply` has no fingerprint key of the daemon, and would refuse its digest.
    assert_eq!(daemon.count_lines("apply --approve"), 0);
    assert!(
        daemon.status()["lastPass"]["error"]
            .as_str()
            .unwrap()
            .contains("POST /api/v1/approve")
    );
    assert_eq!(
        daemon.count_lines("HOSTAWAY would be updated"),
        1,
        "{:#?}",
        daemon.seen
    );
    assert!(world.updates().is_empty());
    world.write("guesty.yaml", &file("GUESTY", "name"));
    until_on(&world, &["rooms"]);
}

// One reconciliation, then exit.

#[test]
fn once_runs_one_reconciliation_and_exits_by_its_result() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    world
        .run(&["run", "--once"])
        .exits(0)
        .says("HOSTAWAY updated");
    assert_eq!(on(&world), ["rooms"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "name"))
        .write("guesty.yaml", "provider: [\n");
    world
        .run(&["run", "--once"])
        .exits(3)
        .says("HOSTAWAY updated");
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    world
        .sandbox
        .inject(Fault::once(refusal(StatusCode::BAD_REQUEST)).on(Method::PATCH));
    world
        .run(&["run", "--once"])
        .exits(1)
        .says("HOSTAWAY was not updated");
    fs::remove_dir_all(world.definitions()).unwrap();
    world.run(&["run", "--once"]).exits(1);
}

// Keys and secrets.

#[test]
fn a_reconciliation_without_changes_is_one_request_and_a_rotated_key_reads_the_workspace() {
    let mut world = world(&["HOSTAWAY"]);
    let key = key_file(&mut world);
    world
        .write("workspace.yaml", "slug: acme-production\n")
        .write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let asked = |world: &World, daemon: &mut Daemon| {
        let before = world.requests().len();
        let line = reconcile(daemon);
        let paths = world.requests()[before..]
            .iter()
            .map(|r| r.path.rsplit('/').next().unwrap().to_owned())
            .collect();
        (line, paths)
    };
    let (_, paths): (_, Vec<_>) = asked(&world, &mut daemon);
    assert_eq!(paths, ["integration-definition"]);

    fs::write(&key, format!("{}\n", world.sandbox.keys().read)).unwrap();
    let (_, mut paths): (_, Vec<_>) = asked(&world, &mut daemon);
    paths.sort();
    assert_eq!(paths, ["integration-definition", "workspace"]);
    assert_eq!(asked(&world, &mut daemon).1, ["integration-definition"]);

    // A key of another workspace.
    world
        .sandbox
        .modify_workspace(|workspace| workspace["slug"] = json!("acme-staging"));
    fs::write(&key, &world.sandbox.keys().write).unwrap();
    click(&world, "HOSTAWAY");
    let (line, _): (_, Vec<_>) = asked(&world, &mut daemon);
    assert!(
        line.contains("ERROR") && line.contains("acme-production") && line.contains("acme-staging"),
        "{line}"
    );
    assert!(world.updates().is_empty());
    world
        .sandbox
        .modify_workspace(|workspace| workspace["slug"] = json!("acme-production"));
    daemon.signal("HUP");
    daemon.line("HOSTAWAY drifted");
}

#[test]
fn a_hanging_key_file_ends_the_reconciliation_and_delays_nothing_else() {
    let mut world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    let key = world.dir.path().join("key");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&key)
            .status()
            .unwrap()
            .success()
    );
    world.env("CALRY_API_KEY_FILE", key.to_str().unwrap());
    let mut daemon = world.daemon(&["--interval", "1s", "--timeout", "1s"]);
    daemon.line("reconciliation 1 (start) failed after 1");
    daemon.line("reconciliation 2 (interval) failed after 1");
    let pipe = world.dir.path().join("pipe");
    std::fs::rename(&key, &pipe).unwrap();
    std::fs::write(&key, &world.sandbox.keys().write).unwrap();
    std::fs::write(&pipe, "what hung goes on").unwrap();
    until_on(&world, &["rooms"]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_rotated_secret_is_applied_without_a_restart_and_never_shown() {
    let world = world(&["HOSTAWAY"]);
    let secrets = world.dir.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("token"), "first-value\n").unwrap();
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-token: '${secret:token}'}\n",
    );
    let mut daemon = world.daemon(&[
        "--interval",
        "1s",
        "-v",
        "-v",
        "--secrets-dir",
        secrets.to_str().unwrap(),
    ]);
    daemon.line("HOSTAWAY updated");
    fs::write(secrets.join("token"), "second-value\n").unwrap();
    daemon.line("HOSTAWAY updated");
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-token"],
        "second-value"
    );
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(
        (
            daemon.count_lines("first-value"),
            daemon.count_lines("second-value")
        ),
        (0, 0)
    );
}

// Trouble stays small.

#[test]
fn a_provider_that_fails_pauses_longer_each_time_and_slows_no_other() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world.sandbox.inject(
        Fault::once(refusal(StatusCode::BAD_REQUEST))
            .on(Method::PATCH)
            .at("/GUESTY")
            .times(99),
    );
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "name"))
        .write("guesty.yaml", &file("GUESTY", "rooms"));
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line("reconciliation 1 ");
    while attempts(&world, "GUESTY").len() < 3 {
        click(&world, "HOSTAWAY");
        daemon.line("HOSTAWAY drifted");
    }
    let tried = attempts(&world, "GUESTY");
    assert!(
        tried[1] - tried[0] >= Duration::from_secs(1)
            && tried[2] - tried[1] >= Duration::from_secs(2)
    );
    // The other one was put back while it paused.
    assert!(
        attempts(&world, "HOSTAWAY")
            .iter()
            .any(|at| (tried[1]..tried[2]).contains(at))
    );
    // The file is changed: at once.
    world.write("guesty.yaml", &file("GUESTY", "pictures"));
    daemon.line("(files)");
    assert_eq!(attempts(&world, "GUESTY").len(), 4);
}

#[test]
fn what_did_not_converge_is_left_alone_for_a_growing_while_and_tried_at_once_when_it_changes() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, currency"));
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line("reconciliation 6 ");
    let tried = attempts(&world, "HOSTAWAY");
    assert!((2..=3).contains(&tried.len()), "{tried:?}");
    for (pause, pair) in (0..).zip(tried.windows(2)) {
        assert!(
            pair[1] - pair[0] >= Duration::from_secs(1 << pause),
            "{tried:?}"
        );
    }
    assert_eq!(daemon.count_lines("kept other values"), tried.len());
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    daemon.line("(files)");
    assert_eq!(on(&world), ["name", "rooms"]);
}

#[test]
fn a_failed_reconciliation_waits_longer_each_time_and_a_new_file_is_tried_at_once() {
    let world = world(&["HOSTAWAY"]);
    let at = |code, times| {
        Fault::once(refusal(code))
            .on(Method::GET)
            .at("/integration-definition")
            .times(times)
    };
    world.sandbox.inject(at(StatusCode::UNAUTHORIZED, 1));
    world
        .sandbox
        .inject(at(StatusCode::INTERNAL_SERVER_ERROR, 4));
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line("reconciliation 4 ");
    let reads: Vec<Instant> = world
        .requests()
        .iter()
        .filter(|r| r.path.ends_with("/integration-definition"))
        .map(|r| r.at)
        .collect();
    assert_eq!(reads.len(), 4);
    for (pause, pair) in (0..).zip(reads.windows(2)) {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(900 << pause),
            "{reads:?}"
        );
    }
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    assert!(daemon.line("reconciliation 5 ").contains("(files)"));
    // A request, too, is tried at once, and success puts the interval back.
    reconcile(&mut daemon);
    assert_eq!(on(&world), ["name", "rooms"]);
    daemon.line("(interval)");
}

// What goes on beside the loop.

/// How long it takes until a change of GUESTY's file is in force.
fn in_force_after(world: &World) -> Duration {
    let changed = Instant::now();
    world.write("guesty.yaml", &file("GUESTY", "name, rooms"));
    until("GUESTY's change is in force", || {
        world.live("GUESTY")["fieldsToSync"]["listing"]["rooms"] == true
    });
    changed.elapsed()
}

/// Whether two updates of a provider were ever in flight at the same time.
fn overlap(world: &World, provider: &str) -> bool {
    let of: Vec<_> = world
        .updates()
        .into_iter()
        .filter(|r| r.path.ends_with(provider))
        .collect();
    of.windows(2)
        .any(|pair| pair[0].finished.is_none_or(|end| end > pair[1].at))
}

#[test]
fn a_provider_that_hangs_or_is_refused_for_a_while_delays_no_other() {
    let unavailable = |code| FaultKind::Status {
        code,
        message: "No.".to_owned(),
        retry_after: None,
    };
    let kinds = [
        FaultKind::Delay(Duration::from_secs(60)),
        unavailable(StatusCode::SERVICE_UNAVAILABLE),
        unavailable(StatusCode::TOO_MANY_REQUESTS),
    ];
    for kind in kinds {
        let world = world(&["HOSTAWAY", "GUESTY"]);
        world
            .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
            .write("guesty.yaml", &file("GUESTY", "name"));
        world.sandbox.inject(
            Fault::once(kind.clone())
                .on(Method::PATCH)
                .at("/HOSTAWAY")
                .times(99),
        );
        let mut daemon = world.daemon(&["--interval", "1h", "--concurrency", "1"]);
        until("HOSTAWAY's update was sent", || !world.updates().is_empty());
        let took = in_force_after(&world);
        assert!(took < Duration::from_secs(8), "{kind:?}: {took:?}");
        assert!(
            !overlap(&world, "HOSTAWAY"),
            "{kind:?}: {:?}",
            world.updates()
        );
        println!(
            "{kind:?}: {took:?}, {} attempts",
            attempts(&world, "HOSTAWAY").len()
        );
        daemon.drain();
    }
}

#[test]
fn an_update_in_the_background_is_reported_at_its_end_and_ended_by_a_stop() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
        .write("guesty.yaml", &file("GUESTY", "name"));
    // Requests are carried out at once, and answered late.
    world.sandbox.inject(
        Fault::once(FaultKind::Delay(Duration::from_secs(6)))
            .on(Method::PATCH)
            .at("/HOSTAWAY"),
    );
    let mut daemon = world.daemon(&["--interval", "1h"]);
    assert!(daemon.line("reconciliation 1 ").contains("1 waiting"));
    let provider = |status: &Value| status["providers"][1].clone();
    let waiting = provider(&daemon.status());
    assert_eq!(
        (&waiting["provider"], &waiting["outcome"]),
        (&json!("HOSTAWAY"), &json!("skipped")),
        "{waiting}"
    );
    daemon.line("HOSTAWAY updated");
    assert!(
        daemon
            .line("reconciliation 2 (update)")
            .contains("1 updated")
    );
    let done = provider(&daemon.status());
    assert_eq!(
        (&done["state"], &done["lastUpdate"]["cause"]),
        (&json!("inSync"), &json!("change")),
        "{done}"
    );
    assert_eq!(attempts(&world, "HOSTAWAY").len(), 1);

    world.sandbox.inject(
        Fault::once(FaultKind::Delay(Duration::from_secs(6)))
            .on(Method::PATCH)
            .at("/HOSTAWAY"),
    );
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    assert!(daemon.line("(files)").contains("1 waiting"));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(
        daemon.count_lines("HOSTAWAY updated"),
        2,
        "{:#?}",
        daemon.seen
    );
}

#[test]
fn a_provider_that_fails_for_a_moment_is_tried_again_soon_and_less_and_less_often() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    let fault = Fault::once(refusal(StatusCode::SERVICE_UNAVAILABLE))
        .on(Method::PATCH)
        .times(3);
    world.sandbox.inject(fault);
    let daemon = world.daemon(&["--interval", "1h"]);
    until_on(&world, &["rooms"]);
    let tried = attempts(&world, "HOSTAWAY");
    assert_eq!(tried.len(), 4);
    for (pair, pause) in tried.windows(2).zip([800, 1600, 3200]) {
        assert!(
            pair[1] - pair[0] >= Duration::from_millis(pause),
            "{tried:?}"
        );
    }
    drop(daemon);
}

/// The fields that an update wanted to be on.
fn wanted(update: &RequestRecord) -> Vec<String> {
    let body = update.body.as_ref().unwrap();
    body["fieldsToSync"]["listing"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

#[test]
fn a_first_plan_that_changes_most_of_the_workspace_waits_for_an_approval() {
    let names: Vec<String> = (0..8).map(|n| format!("P{n}")).collect();
    let world = world(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        world.write(
            &format!("{}.yaml", name.to_lowercase()),
            &file(name, "pictures"),
        );
    }
    world
        .run(&["run", "--once"])
        .exits(1)
        .says("it changes 8 providers; --max-changes allows 5 (30%)");
    assert!(world.updates().is_empty());
    world
        .run(&["run", "--once", "--max-changes", "100%"])
        .exits(0);
    assert_eq!(world.updates().len(), 8);
}

#[test]
fn what_git_takes_back_during_a_large_plan_is_not_sent_any_more() {
    let names: Vec<String> = (0..60).map(|n| format!("P{n:02}")).collect();
    let definitions: Vec<Value> = names
        .iter()
        .map(|p| live(p, &["name"], &["rooms", "pictures"]))
        .collect();
    let world = World::with(
        json!(definitions),
        Config {
            latency: Duration::from_secs(1),
            ..Config::default()
        },
    );
    let write = |fields: &str, until: usize| {
        for name in names.iter().take(until) {
            world.write(
                &format!("{}.yaml", name.to_lowercase()),
                &file(name, fields),
            );
        }
    };
    write("name, pictures", 60);
    let mut daemon = world.daemon(&["--interval", "1h", "--max-changes", "none"]);
    until("the plan is under way", || world.updates().len() > 8);
    // All but the last ten are taken back; the first of them is held, the second gone.
    write("name", 50);
    world.write(
        "p00.yaml",
        "provider: P00\nfieldsToSync: {listing: [name, pictures]}\nhold: {until: 2099-12-31}\n",
    );
    fs::remove_file(world.definitions().join("p01.yaml")).unwrap();
    let reverted = Instant::now();
    until("it is as git wants it", || {
        (2..60).all(|n| world.live(&names[n])["fieldsToSync"]["listing"]["pictures"] == (n >= 50))
    });
    daemon.drain();
    let wrong: Vec<Duration> = world
        .updates()
        .iter()
        .filter(|update| !(50..60).any(|n| update.path.ends_with(&names[n])))
        .filter(|update| wanted(update).contains(&"pictures".to_owned()))
        .filter_map(|update| update.at.checked_duration_since(reverted))
        .filter(|after| *after > Duration::from_millis(1500))
        .collect();
    assert!(
        wrong.is_empty(),
        "sent so long after they were taken back: {wrong:?}"
    );
    let back = names
        .iter()
        .take(50)
        .filter(|name| attempts(&world, name).len() > 1)
        .count();
    println!("{back} were sent before it was taken back, and put back");
    assert!(names.iter().all(|name| !overlap(&world, name)));
}

#[test]
fn a_file_that_is_another_one_all_the_time_keeps_no_other_from_being_applied() {
    let names: Vec<String> = (0..24).map(|n| format!("P{n:02}")).collect();
    let definitions: Vec<Value> = names
        .iter()
        .map(|p| live(p, &["name"], &["rooms", "pictures"]))
        .collect();
    let world = World::with(
        json!(definitions),
        Config {
            latency: Duration::from_millis(400),
            ..Config::default()
        },
    );
    for name in &names {
        world.write(
            &format!("{}.yaml", name.to_lowercase()),
            &file(name, "name, pictures"),
        );
    }
    let mut daemon = world.daemon(&[
        "--interval",
        "1h",
        "--concurrency",
        "4",
        "--max-changes",
        "none",
    ]);
    let done =
        || (1..24).all(|n| world.live(&names[n])["fieldsToSync"]["listing"]["pictures"] == true);
    let (begin, mut times) = (Instant::now(), 0);
    while !done() {
        assert!(
            begin.elapsed() < crate::support::PATIENCE,
            "starved: {} updates",
            world.updates().len()
        );
        world.write(
            "p00.yaml",
            &file("P00", ["name", "rooms", "pictures"][times % 3]),
        );
        times += 1;
        std::thread::sleep(Duration::from_millis(400));
    }
    println!("{times} times, {:?}", begin.elapsed());
    daemon.drain();
}

// Triggers.

#[test]
fn a_storm_of_requests_is_a_few_passes() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        daemon.signal("HUP");
    }
    std::thread::sleep(Duration::from_millis(1500));
    daemon.drain();
    let (passes, most) = (
        daemon.count_lines("(request)"),
        begin.elapsed().as_secs() as usize + 6,
    );
    assert!((3..=most).contains(&passes), "{passes} passes");
}

#[test]
fn a_key_and_a_secret_that_are_replaced_are_used_at_once() {
    let mut world = world(&["HOSTAWAY"]);
    let key = key_file(&mut world);
    let secrets = world.dir.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("token"), "first-value\n").unwrap();
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-token: '${secret:token}'}\n",
    );
    let good = fs::read(&key).unwrap();
    fs::write(&key, "zepl.an.expired.key\n").unwrap();
    let mut daemon = world.daemon(&[
        "--interval",
        "1h",
        "--secrets-dir",
        secrets.to_str().unwrap(),
    ]);
    daemon.line("reconciliation 1 (start) failed");
    fs::write(&key, good).unwrap();
    daemon.line("HOSTAWAY updated");
    assert!(daemon.line("reconciliation 2 ").contains("(files)"));
    fs::write(secrets.join("token"), "second-value\n").unwrap();
    daemon.line("HOSTAWAY updated");
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-token"],
        "second-value"
    );
}

#[test]
fn retry_after_outlasts_the_reconciliation_that_received_it() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let kind = FaultKind::Status {
        code: StatusCode::SERVICE_UNAVAILABLE,
        message: "No.".to_owned(),
        retry_after: Some("5".to_owned()),
    };
    world.sandbox.inject(
        Fault::once(kind)
            .on(Method::GET)
            .at("/integration-definition"),
    );
    let mut daemon = world.daemon(&["--interval", "1s", "--timeout", "2s"]);
    daemon.line("reconciliation 1 (start) failed");
    reconcile(&mut daemon);
    daemon.line("1 in sync");
    let reads: Vec<Instant> = world
        .requests()
        .iter()
        .filter(|r| r.path.ends_with("/integration-definition"))
        .map(|r| r.at)
        .collect();
    assert!(
        reads[1] - reads[0] >= Duration::from_millis(4900),
        "{:?}",
        reads[1] - reads[0]
    );
}

#[test]
fn two_instances_that_undo_each_other_are_called_so() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let other = world.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("hostaway.yaml"), file("HOSTAWAY", "rooms")).unwrap();
    let mut one = world.daemon(&["--interval", "1s"]);
    one.line("reconciliation 1 ");
    let _two = world.daemon(&["--interval", "1s", "-d", other.to_str().unwrap()]);
    one.line("another writer has undone the last 3 updates of HOSTAWAY");
    until("the status says so", || {
        one.status()["providers"][0]["undone"].as_u64() >= Some(3)
    });
}

// Signals.

#[test]
fn sighup_starts_a_reconciliation_and_requests_during_one_start_one_more() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let reading = Fault::once(FaultKind::Delay(Duration::from_secs(1))).on(Method::GET);
    world.sandbox.inject(reading);
    let before = world.requests().len();
    daemon.signal("HUP");
    until("a pass is under way", || world.requests().len() > before);
    for _ in 0..3 {
        daemon.signal("HUP");
    }
    assert!(daemon.line("reconciliation 2 ").contains("(request)"));
    assert!(daemon.line("reconciliation 3 ").contains("(request)"));
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    assert!(daemon.line("(files)").contains("reconciliation 4 "));
}

/// A daemon with three updates to make, one at a time, the first of which takes this long.
fn updating(slow: Duration) -> (World, Daemon) {
    let world = world(&["BOOM", "GUESTY", "HOSTAWAY"]);
    for provider in ["BOOM", "GUESTY", "HOSTAWAY"] {
        world.write(
            &format!("{}.yaml", provider.to_lowercase()),
            &file(provider, "rooms"),
        );
    }
    world
        .sandbox
        .inject(Fault::once(FaultKind::Delay(slow)).on(Method::PATCH));
    let daemon = world.daemon(&["--concurrency", "1"]);
    until("an update is under way", || !world.updates().is_empty());
    (world, daemon)
}

#[test]
fn sigterm_lets_the_update_under_way_end_and_starts_no_other() {
    let (world, mut daemon) = updating(Duration::from_secs(1));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(world.updates().len(), 1);
    assert_eq!(daemon.count_lines("BOOM updated"), 1, "{:#?}", daemon.seen);
    assert_eq!(
        daemon.count_lines(": 1 updated, 2 waiting"),
        1,
        "{:#?}",
        daemon.seen
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let (_world, mut daemon) = updating(Duration::from_secs(60));
    daemon.signal("TERM");
    daemon.line("a second signal stops at once");
    daemon.signal("INT");
    assert_eq!(daemon.wait(), Some(1));
}

#[test]
fn sigterm_does_not_wait_for_a_calry_that_does_not_answer() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    world.sandbox.inject(
        Fault::once(FaultKind::Delay(Duration::from_secs(60)))
            .on(Method::GET)
            .times(9),
    );
    let mut daemon = world.daemon(&["--timeout", "5m"]);
    until("a read is under way", || !world.requests().is_empty());
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert!(world.updates().is_empty());
}

// The log.

#[test]
fn a_json_log_is_one_object_a_line_with_the_facts_as_fields() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
        .write("guesty.yaml", "provider: [\n");
    let mut daemon = waiting(&world, &["--log-format", "json", "-v"]);
    fs::remove_dir_all(world.definitions()).unwrap();
    daemon.line("reconciliation 2 ");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    let lines: Vec<Value> = daemon
        .seen
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(
        lines.iter().all(|l| l["timestamp"].is_string()
            && l["level"].is_string()
            && l["message"].is_string())
    );
    let find = |field: &str, value: Value| {
        lines
            .iter()
            .find(|l| l[field] == value)
            .unwrap_or_else(|| panic!("no {field} {value}: {lines:#?}"))
    };
    let update = find("provider", json!("HOSTAWAY"));
    assert_eq!(
        (&update["outcome"], &update["cause"]),
        (&json!("applied"), &json!("change"))
    );
    assert!(
        update["paths"]
            .as_str()
            .unwrap()
            .contains("fieldsToSync.listing.rooms")
    );
    let problem = find("file", json!("guesty.yaml"));
    assert_eq!(
        (&problem["level"], &problem["line"]),
        (&json!("ERROR"), &json!(1)),
        "{problem}"
    );
    let first = find("pass", json!(1));
    assert_eq!(
        (&first["trigger"], &first["result"]),
        (&json!("start"), &json!("applied"))
    );
    assert!(first["duration_seconds"].is_f64() && first["invalid"] == 1);
    assert_eq!(find("pass", json!(2))["result"], "failed");
}
