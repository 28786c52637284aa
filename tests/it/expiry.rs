//! When the API key ends: the operator wrote it down, and everything that people see shows it in time.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::support::{Daemon, Ran, World};
use axum::http::StatusCode;
use calry_gitops::sandbox::{Fault, FaultKind};
use serde_json::Value;

fn world() -> World {
    World::of_hostaway("[name]")
}

/// A day (UTC) from now on. A test that runs at midnight may see one day less.
fn day(left: i64) -> Date {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    today.checked_add(left.days()).unwrap()
}

fn waiting(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon
}

fn metric(daemon: &mut Daemon) -> f64 {
    let name = "calry_gitops_api_key_expiry_timestamp_seconds{";
    let page = daemon.get("/metrics").body;
    let line = page.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn status(world: &World, daemon: &mut Daemon) -> Ran {
    let address = format!("http://{}", daemon.address());
    world.run(&["status", "--address", &address])
}

#[test]
fn the_last_day_of_the_key_is_in_log_status_metric_and_page() {
    let world = world();
    let last = day(10);
    let mut daemon = waiting(&world, &["--api-key-expires", &last.to_string()]);
    // Through the end of that day, UTC.
    let end = last.tomorrow().unwrap().to_zoned(TimeZone::UTC).unwrap();
    assert_eq!(metric(&mut daemon), end.timestamp().as_second() as f64);
    let key = daemon.status()["apiKey"].clone();
    assert_eq!(key["expires"], last.to_string());
    assert!(
        (9..=10).contains(&key["daysLeft"].as_i64().unwrap()),
        "{key}"
    );
    status(&world, &mut daemon)
        .exits(0)
        .says(&format!("api key   expires on {last}, in "));
    let page = daemon.get("/").body;
    assert!(page.contains(&format!("Expires on {last}, in ")), "{page}");
    assert!(page.contains("API key expires"), "{page}");
    // Once a day, not at each reconciliation.
    daemon.signal("HUP");
    daemon.line("(request)");
    let warnings = daemon.count_lines(&format!("expires on {last}, in "));
    assert_eq!(warnings, 1);
}

#[test]
fn without_a_day_nothing_is_said_and_a_fresh_key_needs_no_attention() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    assert_eq!(metric(&mut daemon), 0.0);
    assert_eq!(daemon.status()["apiKey"], Value::Null);
    assert!(!status(&world, &mut daemon).exits(0).out.contains("api key"));
    drop(daemon);
    let last = day(100);
    let mut daemon = waiting(&world, &["--api-key-expires", &last.to_string()]);
    status(&world, &mut daemon)
        .exits(0)
        .says(&format!("expires on {last}, in "));
    assert!(!daemon.get("/").body.contains("API key expires"));
    assert_eq!(daemon.count_lines("API key"), 0);
}

#[test]
fn the_file_beside_the_key_is_read_with_it_and_wins_over_the_option() {
    let mut world = world();
    let key = world.dir.path().join("api-key");
    let beside = world.dir.path().join("api-key-expires");
    std::fs::write(&key, &world.sandbox.keys().write).unwrap();
    std::fs::write(&beside, format!("{}\n", day(2))).unwrap();
    world.env("CALRY_API_KEY_FILE", key.to_str().unwrap());
    world.env("CALRY_API_KEY_EXPIRES", "2099-12-31");
    let mut daemon = waiting(&world, &[]);
    let shown = |daemon: &mut Daemon| daemon.status()["apiKey"].clone();
    assert_eq!(shown(&mut daemon)["expires"], day(2).to_string());
    let renewed = day(180).to_string();
    std::fs::write(&beside, &renewed).unwrap();
    daemon.signal("HUP");
    daemon.line("(request)");
    assert_eq!(shown(&mut daemon)["expires"], renewed);
    // What is no day is reported, not quoted, and stops nothing.
    std::fs::write(&beside, "zepl.canary.key.acme").unwrap();
    daemon.signal("HUP");
    daemon.line("does not show when the API key expires");
    daemon.line("(request)");
    let key = shown(&mut daemon);
    assert!(
        key["error"].as_str().unwrap().contains("api-key-expires"),
        "{key}"
    );
    assert_eq!(key["expires"], Value::Null);
    assert_eq!(metric(&mut daemon), 0.0);
    assert_eq!(daemon.count_lines("canary"), 0);
    // Without the file, the option counts.
    std::fs::remove_file(&beside).unwrap();
    daemon.signal("HUP");
    daemon.line("(request)");
    assert_eq!(shown(&mut daemon)["expires"], "2099-12-31");
}

#[test]
fn plan_and_apply_warn_in_the_last_fourteen_days() {
    let world = world();
    for (command, left, warned) in [
        (vec!["plan"], 16, false),
        (vec!["plan"], 14, true),
        (vec!["apply", "--yes"], 1, true),
        (vec!["plan", "-q"], 1, false),
    ] {
        let last = day(left).to_string();
        let ran = world.run(&[&command[..], &["--api-key-expires", &last]].concat());
        let ran = ran.exits(0);
        let lines = ran.err.lines().filter(|line| line.contains(&last)).count();
        assert_eq!(lines, usize::from(warned), "{command:?}: {}", ran.err);
    }
    let last = day(-1).to_string();
    world
        .run(&["plan", "--api-key-expires", &last])
        .exits(0)
        .says(&format!("expired at the end of {last} (UTC)"))
        .says("help: create a new one in the Calry console");
    // Against a snapshot no key is used.
    let snapshot = world.run(&["snapshot"]).exits(0).out;
    let file = world.dir.path().join("live.json");
    std::fs::write(&file, snapshot).unwrap();
    let file = file.to_str().unwrap();
    let ran = world.run(&["plan", "--live", file, "--api-key-expires", &last]);
    assert!(!ran.exits(0).err.contains(&last));
}

#[test]
fn a_day_that_is_no_day_is_a_wrong_command_line() {
    for bad in ["2027-02-30", "180d", "26.05.2027"] {
        world()
            .run(&["plan", "--api-key-expires", bad])
            .exits(64)
            .says("YYYY-MM-DD");
    }
}

#[test]
fn a_refused_key_whose_day_is_over_has_probably_expired() {
    let world = world();
    let last = day(-3).to_string();
    let refused = || {
        world.sandbox.inject(Fault::once(FaultKind::Status {
            code: StatusCode::UNAUTHORIZED,
            message: "Authentication failed".to_owned(),
            retry_after: None,
        }));
    };
    refused();
    let says = format!("has probably expired, because its last day was {last}");
    world
        .run(&["plan", "--api-key-expires", &last])
        .exits(1)
        .says(&says)
        .says("create a new one with the same permission in the Calry console");
    refused();
    let mut daemon = world.daemon(&["--interval", "1h", "--api-key-expires", &last]);
    daemon.line(&says);
}

#[test]
fn each_workspace_of_a_configuration_has_its_own_day() {
    let world = world();
    let dir = world.dir.path();
    std::fs::write(dir.join("key"), &world.sandbox.keys().write).unwrap();
    let mut daemon = world.configured_daemon(&format!(
        "apiUrl: {}\nworkspaces:\n  - name: eu\n    definitions: definitions\n    apiKeyFile: key\n    apiKeyExpires: 2027-05-26\n",
        world.sandbox.url()
    ));
    daemon.line("reconciliation 1 ");
    let one = daemon.status();
    assert_eq!(one["apiKey"]["expires"], "2027-05-26");
}
