//! The operator's policies: what they deny, how that is shown, and that nothing gets around them.

use std::path::PathBuf;

use calry_gitops::sandbox::Config;
use serde_json::{Value, json};

use crate::support::{Daemon, Ran, World, live, outside_code, send};

/// One managed provider, whose file is in sync.
fn world() -> World {
    let world = World::with(
        json!([
            live("HOSTAWAY", &["name", "rooms"], &["pictures"]),
            live("GUESTY", &["name"], &[]),
        ]),
        Config::default(),
    );
    world.write("hostaway.yaml", &hostaway("[name, rooms]", ""));
    world
}

fn hostaway(fields: &str, rest: &str) -> String {
    format!("provider: HOSTAWAY\nfieldsToSync: {{listing: {fields}}}\n{rest}")
}

fn policies(world: &World, text: &str) -> String {
    let path = world.dir.path().join("policies.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A policy that allows no field to go off.
fn no_field_off(more: &str) -> String {
    format!(
        "policies:\n  - name: no-field-off\n    each: change\n    expression: '!change.switchesOff'\n    \
         message: no field goes off\n{more}"
    )
}

fn plan(world: &World, policies: &str, more: &[&str]) -> Ran {
    let mut args = vec!["plan", "--policies", policies];
    args.extend(more);
    world.run(&args)
}

#[track_caller]
fn post(daemon: &mut Daemon, path: &str, body: &str) {
    let address = daemon.address();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = send(&address, &request);
    assert_eq!(answer.code, 202, "{answer:?}");
}

/// The names of the violated policies.
fn violated(ran: &Ran) -> Vec<String> {
    let names = ran.json()["violations"].as_array().cloned();
    let name = |violation: Value| violation["policy"].as_str().unwrap().to_owned();
    names.unwrap_or_default().into_iter().map(name).collect()
}

#[test]
fn the_ready_made_policies_deny_what_each_is_about() {
    let mut world = world();
    world.env("CALRY_SECRET_GUESTY_TOKEN", "a value");
    world.env("CALRY_SECRET_HOSTAWAY_TOKEN", "another value");
    let ready_made = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/policies/calry-gitops.policies.yaml");
    let ready_made = ready_made.to_str().unwrap();
    let day = |days: i64| {
        let today = jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date();
        today.saturating_add(jiff::Span::new().days(days))
    };
    let hold = |days, reason: &str| format!("hold: {{until: {}, reason: '{reason}'}}\n", day(days));
    let header = |value: &str| format!("partnerKey: {{headers: {{authorization: '{value}'}}}}\n");
    let on = "[name, rooms]";
    let icon = |url: &str| format!("icon: {url}\n");
    for (fields, rest, expected) in [
        (on, String::new(), None),
        ("[name, pictures]", String::new(), None),
        ("[rooms]", String::new(), Some("fields-that-stay-on")),
        (on, hold(29, "a move, OPS-114"), None),
        (
            on,
            hold(31, "a move, OPS-114"),
            Some("short-holds-with-a-ticket"),
        ),
        (on, hold(9, "a move"), Some("short-holds-with-a-ticket")),
        (on, icon("https://cdn.example.com/a.png"), None),
        (
            on,
            icon("http://cdn.example.com/a.png"),
            Some("icons-from-our-hosts"),
        ),
        (
            on,
            icon("https://cdn.example.com.evil.example/a"),
            Some("icons-from-our-hosts"),
        ),
        (on, header("Bearer ${secret:hostaway-token}"), None),
        (
            on,
            header("Bearer ${secret:guesty-token}"),
            Some("only-own-secrets"),
        ),
        (
            on,
            header("Bearer 0123456789"),
            Some("no-literal-partner-keys"),
        ),
    ] {
        world.write("hostaway.yaml", &hostaway(fields, &rest));
        let ran = plan(&world, ready_made, &["--format", "json"]);
        let names: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(violated(&ran), names, "{fields} {rest}: {}", ran.err);
        ran.exits(i32::from(expected.is_some()));
    }
}

#[test]
fn a_plan_that_switches_many_fields_off_needs_an_approval() {
    let names: Vec<String> = (0..12).map(|n| format!("f{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::with(json!([live("HOSTAWAY", &names, &[])]), Config::default());
    world.write("hostaway.yaml", &hostaway("[f0]", ""));
    let ready_made = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/policies/calry-gitops.policies.yaml"
    );
    let ran = plan(&world, ready_made, &["--format", "json"]).exits(1);
    assert_eq!(violated(&ran), ["few-fields-off"]);
    let digest = ran.json()["digest"].as_str().unwrap().to_owned();
    let apply = |more: &[&str]| {
        let mut args = vec!["apply", "--yes", "--policies", ready_made];
        args.extend(more);
        world.run(&args)
    };
    apply(&[]).exits(1).says("11 fields go off").says(&digest);
    assert!(world.updates().is_empty());
    apply(&["--approve", &digest]).exits(0);
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn a_denied_plan_is_shown_in_every_format_and_applied_by_no_option() {
    let world = world();
    world.write("hostaway.yaml", &hostaway("[name]", ""));
    let file = policies(&world, &no_field_off(""));
    let text = plan(&world, &file, &[]).exits(1);
    assert!(!text.out.contains("Next: "), "{}", text.out);
    text.says("Denied by policy")
        .says("fieldsToSync.listing.rooms: no field goes off (no-field-off)")
        .says("plan refused by policy: no-field-off");
    plan(&world, &file, &["--format", "markdown"])
        .exits(1)
        .says("❌")
        .says("denied by policy")
        .says("no field goes off");
    let annotations = plan(&world, &file, &["--format", "github"]).exits(1);
    assert!(
        annotations
            .out
            .contains("::error file=definitions/hostaway.yaml,line=2"),
        "{}",
        annotations.out
    );
    let json = plan(&world, &file, &["--format", "json"]).exits(1).json();
    assert_eq!(
        json["violations"][0],
        json!({"policy": "no-field-off", "action": "deny", "liftedByApproval": false, "provider": "HOSTAWAY",
            "file": "hostaway.yaml", "path": "fieldsToSync.listing.rooms", "message": "no field goes off"})
    );
    let digest = json["digest"].as_str().unwrap();
    let saved = world.dir.path().join("plan.json");
    let saved = saved.to_str().unwrap();
    plan(&world, &file, &["--out", saved]).exits(1);
    for more in [&[][..], &["--approve", digest], &["--max-changes", "none"]] {
        let mut args = vec!["apply", "--yes", "--policies", &file];
        args.extend(more);
        world.run(&args).exits(1).says("no-field-off");
    }
    world
        .run(&["apply", "--plan", saved, "--policies", &file])
        .exits(1);
    world
        .run(&["run", "--once", "--policies", &file])
        .exits(1)
        .says("no-field-off");
    assert!(world.updates().is_empty());
}

#[test]
fn a_policy_that_does_not_work_denies_and_says_what_is_wrong() {
    let world = world();
    world.write("hostaway.yaml", &hostaway("[name, rooms, pictures]", ""));
    let one = |each: &str, expression: &str, more: &str| {
        format!(
            "policies:\n  - name: one\n    each: {each}\n    expression: {expression:?}\n    message: no\n{more}"
        )
    };
    let nested = "plan.providers.all(a, ['0'].all(b, [1,2,3,4,5,6,7,8,9].all(c, true)))";
    let loops = |text: &str| {
        let list = format!("[{}]", vec!["0"; 90].join(","));
        text.replace("LIST", &list)
    };
    let slow = loops("LIST.all(a, LIST.all(b, LIST.all(c, LIST.all(d, LIST.all(e, true)))))");
    for (text, why) in [
        ("", "the file is empty"),
        ("policies: 1", "must be a list"),
        ("rules: []", "`rules` is not a key"),
        ("policies:\n  - name: one\n", "has no `expression`"),
        (&one("provider", "1 +", ""), "is not a CEL expression"),
        (
            &one("provider", "provder.name == ''", ""),
            "did you mean `provider`?",
        ),
        (
            &one("plan", "provider.name == ''", ""),
            "unknown variable `provider`",
        ),
        (
            &one("provider", "provider.nam == ''", ""),
            "No such key: nam",
        ),
        (&one("provider", "'yes'", ""), "not true or false"),
        (
            &one("provider", "provider.nam == ''", "    action: warn\n"),
            "cannot be evaluated",
        ),
        (
            &one("provider", "false", "    action: block\n"),
            "must be `deny` or `warn`",
        ),
        (
            &one("provider", "true", "    when: provider.nam == ''\n"),
            "`when`",
        ),
        (&one("plan", &slow, ""), "take too long"),
        (
            &format!("{}  - name: one\n", one("plan", nested, "")),
            "has no `each`",
        ),
    ] {
        let file = policies(&world, text);
        plan(&world, &file, &[])
            .exits(1)
            .says("plan refused by policy")
            .says(why);
        world.run(&["apply", "--yes", "--policies", &file]).exits(1);
    }
    let missing = world.dir.path().join("missing.yaml");
    let missing = missing.to_str().unwrap();
    plan(&world, missing, &[]).exits(1).says("cannot be read");
    world
        .run(&["apply", "--yes", "--policies", missing])
        .exits(1);
    assert!(world.updates().is_empty());
    let file = policies(&world, &one("plan", nested, ""));
    world.run(&["apply", "--yes", "--policies", &file]).exits(0);
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn loops_over_the_providers_of_a_workspace_are_bounded_by_what_they_copy() {
    let fields: Vec<String> = (0..30).map(|n| format!("field{n}")).collect();
    let names: Vec<&str> = fields.iter().map(String::as_str).collect();
    let provider = |n| format!("PROVIDER_{n}");
    let lives = (0..22).map(|n| live(&provider(n), &names, &[]));
    let world = World::with(lives.collect(), Config::default());
    for n in 0..22 {
        let text = format!(
            "provider: {}\nfieldsToSync: {{listing: [{}]}}\n",
            provider(n),
            names.join(", ")
        );
        world.write(&format!("provider_{n}.yaml"), &text);
    }
    let nested = |depth| {
        let open: String = (0..depth)
            .map(|n| format!("plan.providers.all(p{n}, "))
            .collect();
        let expression = format!("{open}true{}", ")".repeat(depth));
        format!(
            "policies:\n  - name: one\n    each: plan\n    expression: {expression}\n    message: no\n"
        )
    };
    plan(&world, &policies(&world, &nested(2)), &[]).exits(0);
    plan(&world, &policies(&world, &nested(4)), &[])
        .exits(1)
        .says("take too long to evaluate for this plan")
        .says("nest fewer loops");
}

#[test]
fn a_warning_is_shown_and_stops_nothing() {
    let world = world();
    world.write("hostaway.yaml", &hostaway("[name]", ""));
    let file = policies(&world, &no_field_off("    action: warn\n"));
    plan(&world, &file, &[])
        .exits(0)
        .says("Warnings of policies");
    plan(&world, &file, &["--format", "markdown"])
        .exits(0)
        .says("⚠️ `HOSTAWAY`");
    let annotations = plan(&world, &file, &["--format", "github"]).exits(0);
    assert!(
        annotations.out.contains("title=policy"),
        "{}",
        annotations.out
    );
    world.run(&["apply", "--yes", "--policies", &file]).exits(0);
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn the_daemon_refuses_a_denied_plan_until_the_policy_or_the_file_allows_it() {
    let world = world();
    world.write("hostaway.yaml", &hostaway("[name]", ""));
    let file = policies(&world, &no_field_off(""));
    let mut daemon = world.daemon(&["--interval", "1h", "--policies", &file]);
    daemon.line("denied by policy: no-field-off");
    daemon.line("plan refused by policy");
    let status = daemon.status();
    assert_eq!(status["lastPass"]["result"], "refused");
    assert_eq!(status["violations"][0]["policy"], "no-field-off");
    // No approval lifts it, so none is offered.
    assert_eq!(status["lastPass"]["digest"], Value::Null);
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("calry_gitops_policy_denials{workspace=\"acme-production\"} 1"));
    let page = daemon.get("/").body;
    assert!(page.contains("no field goes off") && !page.contains("data-approve"));
    assert!(world.updates().is_empty());

    // The file is read at each reconciliation.
    policies(&world, &no_field_off("    liftedByApproval: true\n"));
    post(&mut daemon, "/api/v1/reconcile", "{}");
    daemon.line("POST /api/v1/approve: sha256:");
    let digest = daemon.status()["lastPass"]["digest"].clone();
    post(
        &mut daemon,
        "/api/v1/approve",
        &json!({ "digest": digest }).to_string(),
    );
    daemon.line("HOSTAWAY updated");
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn what_a_file_contributes_to_a_message_is_masked_and_escaped() {
    let mut world = world();
    world.env("CALRY_SECRET_HOSTAWAY_TOKEN", "canary-of-a-secret");
    let until = "2099-12-31";
    world.write(
        "hostaway.yaml",
        &hostaway(
            "[name, rooms]",
            &format!(
                "partnerKey: {{headers: {{x-a: '${{secret:hostaway-token}}', x-b: canary-of-a-literal}}}}\n\
                 hold: {{until: {until}, reason: \"x\\n::warning::y `z` \\e[31m <b>\"}}\n"
            ),
        ),
    );
    let file = policies(
        &world,
        "policies:\n  - name: all\n    each: provider\n    expression: 'false'\n    messageExpression: >-\n      \
         provider.hold.reason + ' ' + provider.keys.map(key, key.name).join_or_fail\n",
    );
    // An error of an expression is no way out for a value either.
    for format in ["text", "json", "markdown", "github"] {
        let ran = plan(&world, &file, &["--format", format]).exits(1);
        assert!(!ran.out.contains("canary") && !ran.err.contains("canary"));
    }
    let file = policies(
        &world,
        "policies:\n  - name: all\n    each: provider\n    expression: 'false'\n    messageExpression: provider.hold.reason\n",
    );
    for format in ["text", "json", "markdown", "github"] {
        let ran = plan(&world, &file, &["--format", format]).exits(1);
        assert!(
            !ran.out.contains('\u{1b}') && !ran.out.contains("\n::warning::"),
            "{}",
            ran.out
        );
        if format == "markdown" {
            let outside = outside_code(&ran.out);
            assert!(!outside.contains(['<', '>']), "{}", ran.out);
        }
    }
}
