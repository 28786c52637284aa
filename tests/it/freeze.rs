//! Holds of a whole workspace and freeze windows: nothing is written, everything is shown, and an emergency needs a reason.

use crate::support::{Answer, World, live, send, until};
use calry_gitops::sandbox::Config;
use serde_json::json;

const UPDATE: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n";
const HOLD: &str = "slug: acme-production\nhold: {until: 2099-12-30, reason: OPS-7}\n";
const FROZEN: &str = "slug: acme-production\nfreeze:\n\
    - {from: 2020-01-01T00:00:00Z, to: 2020-02-01T00:00:00Z, reason: over}\n\
    - from: 2026-01-01 00:00\n  to: 2099-12-31T00:00:00\n  timeZone: Europe/Berlin\n  reason: Christmas sale\n";
const REASON: &str = "outage OPS-911";

fn world(workspace: &str) -> World {
    let live = [
        live("HOSTAWAY", &["name"], &["pictures"]),
        live("GUESTY", &["name"], &["pictures"]),
    ];
    let world = World::with(json!(live), Config::default());
    world.write("hostaway.yaml", UPDATE);
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n",
    );
    world.write("workspace.yaml", workspace);
    world
}

#[track_caller]
fn digest(world: &World) -> String {
    let json = world.run(&["plan", "--format", "json"]).exits(0).json();
    json["digest"].as_str().unwrap().to_owned()
}

#[test]
fn while_the_workspace_is_on_hold_differences_are_shown_and_nothing_is_written() {
    for (workspace, by, until, reason, sentence) in [
        (
            HOLD,
            "hold",
            "2099-12-30",
            "OPS-7",
            "The workspace is on hold until 2099-12-30: OPS-7",
        ),
        (
            FROZEN,
            "freeze",
            "2099-12-30T23:00:00Z",
            "Christmas sale",
            "The workspace is frozen until 2099-12-30T23:00:00Z: Christmas sale",
        ),
    ] {
        let world = world(workspace);
        // On hold is not pending.
        let text = world.run(&["plan", "--detailed-exitcode"]).exits(0);
        text.says(sentence)
            .says("+ pictures  off -> on")
            .says("1 on hold")
            .says("--override-hold");
        let json = world.run(&["plan", "--format", "json"]).exits(0).json();
        let digest = json["digest"].as_str().unwrap();
        assert_eq!(
            json["hold"],
            json!({"by": by, "until": until, "reason": reason, "digest": digest})
        );
        let summary = (&json["summary"]["held"], &json["summary"]["update"]);
        assert_eq!(summary, (&json!(1), &json!(0)), "{json:#}");
        let hostaway = &json["definitions"][1];
        assert_eq!(hostaway["state"], "held");
        assert_eq!(
            hostaway["changes"][0]["path"],
            "fieldsToSync.listing.pictures"
        );
        assert_eq!(hostaway["hold"], json!({"until": until, "reason": reason}));
        for format in ["markdown", "github"] {
            let ran = world.run(&["plan", "--format", format]).exits(0);
            assert!(
                ran.out.contains(until) && ran.out.contains(reason) && ran.out.contains("pictures"),
                "{}",
                ran.out
            );
        }
        for format in ["text", "json", "markdown", "github"] {
            world.run(&["apply", "--yes", "--format", format]).exits(0);
        }
        world.run(&["run", "--once"]).exits(0);
        assert_eq!(world.updates().len(), 0);
    }
}

#[test]
fn a_window_that_is_over_or_not_begun_suspends_nothing() {
    for window in [
        "{from: 2020-01-01T00:00:00Z, to: 2020-02-01T00:00:00Z, reason: over}",
        "{from: 2099-01-01T00:00:00Z, to: 2099-02-01T00:00:00Z, reason: later}",
    ] {
        let world = world(&format!("slug: acme-production\nfreeze: [{window}]\n"));
        world.run(&["plan", "--detailed-exitcode"]).exits(2);
        world.run(&["apply", "--yes"]).exits(0);
        assert_eq!(world.updates().len(), 1);
    }
}

#[test]
fn an_emergency_needs_the_digest_and_a_reason() {
    for workspace in [HOLD, FROZEN] {
        let world = world(workspace);
        let digest = digest(&world);
        world
            .run(&["apply", "--yes", "--approve", &digest])
            .exits(1)
            .says("--override-hold");
        world
            .run(&["apply", "--yes", "--override-hold", REASON])
            .exits(64);
        for wrong in ["", " ", "two\nlines"] {
            let args = [
                "apply",
                "--yes",
                "--approve",
                &digest,
                "--override-hold",
                wrong,
            ];
            world.run(&args).exits(64);
        }
        let other = format!("sha256:{}", "0".repeat(64));
        let args = [
            "apply",
            "--yes",
            "--approve",
            &other,
            "--override-hold",
            REASON,
        ];
        world.run(&args).exits(1);
        assert_eq!(world.updates().len(), 0);

        let args = [
            "apply",
            "--yes",
            "--approve",
            &digest,
            "--override-hold",
            REASON,
        ];
        let args = [&args as &[&str], &["--format", "json"]].concat();
        let ran = world.run(&args).exits(0);
        let json = ran.json();
        assert_eq!(json["overriddenHold"]["approvalReason"], REASON, "{json:#}");
        assert!(
            ran.err
                .contains("was approved and is applied although the workspace is")
                && ran.err.contains(REASON),
            "{}",
            ran.err
        );
        assert_eq!(world.updates().len(), 1);
        assert_eq!(
            world.live("HOSTAWAY")["fieldsToSync"]["listing"]["pictures"],
            true
        );
    }
}

#[test]
fn a_digest_is_the_same_before_and_during_a_window() {
    let world = world("slug: acme-production\n");
    let before = digest(&world);
    world.write("workspace.yaml", FROZEN);
    assert_eq!(digest(&world), before);
}

#[track_caller]
fn approve(address: &str, body: &str) -> Answer {
    send(
        address,
        &format!(
            "POST /api/v1/approve HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

#[test]
fn a_daemon_reports_drift_and_writes_only_what_is_approved_with_a_reason() {
    let world = world(FROZEN);
    let mut daemon = world.daemon(&["--interval", "1h"]);
    daemon.line("HOSTAWAY is on hold until 2099-12-30T23:00:00Z (Christmas sale); it differs in: listing.pictures on");
    daemon.line("reconciliation 1 ");
    let address = daemon.address();
    let status = daemon.status();
    assert_eq!(status["summary"]["held"], 1, "{status:#}");
    assert_eq!(status["lastPass"]["result"], "ok");
    let hold = &status["hold"];
    assert_eq!(
        (&hold["by"], &hold["reason"]),
        (&json!("freeze"), &json!("Christmas sale"))
    );
    let digest = hold["digest"].as_str().unwrap().to_owned();
    let page = daemon.get("/").body;
    assert!(
        page.contains("The workspace is on hold")
            && page.contains("2099-12-30T23:00:00Z")
            && page.contains(&digest),
        "{page}"
    );
    let printed = world.run(&["status", "--address", &format!("http://{address}")]);
    printed.exits(0).says("Christmas sale; nothing is written");

    let bare = approve(&address, &json!({"digest": digest}).to_string());
    assert_eq!(bare.code, 409, "{bare:?}");
    let error = bare.json()["error"].to_string();
    assert!(
        error.contains("reason") && error.contains("Christmas sale"),
        "{error}"
    );
    let empty = approve(
        &address,
        &json!({"digest": digest, "reason": " "}).to_string(),
    );
    assert_eq!(empty.code, 400, "{empty:?}");
    assert_eq!(world.updates().len(), 0);

    let accepted = approve(
        &address,
        &json!({"digest": digest, "reason": REASON}).to_string(),
    );
    assert_eq!(accepted.code, 202, "{accepted:?}");
    let line = daemon.line("was approved and is applied although the workspace is frozen");
    assert!(line.contains(REASON), "{line}");
    assert_eq!(world.updates().len(), 1);

    // The approval is used up.
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [pictures]\n",
    );
    daemon.line("GUESTY is on hold until");
    assert_eq!(world.updates().len(), 1);
    // A commit that removes the window ends it at once.
    world.write("workspace.yaml", "slug: acme-production\n");
    daemon.line("GUESTY updated");
    until("the end of the hold", || {
        daemon.status().get("hold").is_none()
    });
}

#[test]
fn every_problem_of_a_window_is_an_error_at_its_line() {
    let window = |text: &str| format!("slug: acme-production\nfreeze:\n- {{{text}, reason: r}}\n");
    let good = "2026-12-20T18:00:00Z";
    let many = format!(
        "slug: acme-production\nfreeze:\n{}",
        format!("- {{from: {good}, to: 2026-12-21T00:00:00Z, reason: r}}\n").repeat(101)
    );
    for (text, sentence) in [
        (
            window(&format!("from: {good}, to: {good}")),
            "`to` must be later than `from`",
        ),
        (
            window(&format!("from: {good}")),
            "the freeze window has no `to`",
        ),
        (
            window(&format!("to: {good}")),
            "the freeze window has no `from`",
        ),
        (
            window("from: 2026-12-20, to: 2026-12-21"),
            "`from` must be a date and a time",
        ),
        (
            window(&format!("from: yesterday, to: {good}")),
            "`from` must be a date and a time",
        ),
        (
            window(&format!(
                "from: \"2026-12-20T18:00:00+01:00[Europe/Berlin]\", to: {good}"
            )),
            "`from` must be a date and a time",
        ),
        (
            window("from: 2026-12-20T18:00:00, to: 2026-12-21T18:00:00, timeZone: Europe/Berlim"),
            "unknown time zone",
        ),
        (
            window(
                "from: 2026-12-20T18:00:00, to: 2026-12-21T18:00:00, timeZone: ../../etc/passwd",
            ),
            "unknown time zone",
        ),
        (
            window(&format!(
                "from: {good}, to: 2026-12-21T18:00:00, timeZone: UTC"
            )),
            "`from` has an offset, and the window has a `timeZone`",
        ),
        (
            window("from: 2026-12-20T18:00:00, to: 2026-12-21T18:00:00"),
            "`from` has no offset, and the window has no `timeZone`",
        ),
        (
            window(&format!("from: {good}, to: 2026-12-21T00:00:00Z, until: 1")),
            "is not a key of a freeze window",
        ),
        (many, "`freeze` has more than 100 windows"),
        (
            "slug: acme-production\nfreeze: {from: 1}\n".to_owned(),
            "`freeze` must be a list, not a map",
        ),
        (
            "slug: acme-production\nfreeze: [soon]\n".to_owned(),
            "a freeze window must be a map",
        ),
        (
            "slug: acme-production\nhold: {until: soon, reason: r}\n".to_owned(),
            "`until` must be a date",
        ),
        (
            "slug: acme-production\nhold: {from: 1, until: 2099-12-31, reason: r}\n".to_owned(),
            "is not a key of `hold`",
        ),
        (
            window(&format!("from: {good}, to: 2026-12-21T00:00:00Z"))
                .replace("reason: r", &format!("reason: {}", "x".repeat(501))),
            "the reason has more than 500 characters",
        ),
    ] {
        let world = world(&text);
        world.run(&["validate"]).exits(3).says(sentence);
        // Nobody knows when the workspace is on hold: nothing is planned.
        world.run(&["apply", "--yes"]).exits(3);
        assert_eq!(world.updates().len(), 0, "{text}");
    }
    let world = world("");
    for reason in ["", ", reason: ' '"] {
        let window = format!("{{from: 2020-01-01T00:00:00Z, to: 2020-01-02T00:00:00Z{reason}}}");
        let text = format!("slug: acme-production\nfreeze: [{window}]\n");
        world.write("workspace.yaml", &text);
        world
            .run(&["validate"])
            .exits(0)
            .says("the freeze window has no reason");
        world.run(&["validate", "--strict"]).exits(3);
    }
    world.write(
        "workspace.yaml",
        "slug: acme-production\nhold: {until: 2020-01-01, reason: r}\n",
    );
    world
        .run(&["validate"])
        .exits(0)
        .says("the hold is over: its last day was 2020-01-01");
}
