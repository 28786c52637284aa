//! The configuration file, and several workspaces in one daemon, with a local Calry each.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{Daemon, PATIENCE, World, live, repository, until};
use boon::{Compiler, Schemas};
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

fn file(fields: &str) -> String {
    format!("provider: HOSTAWAY\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// A workspace of Calry in which HOSTAWAY has `name` on, and definitions that want these fields.
fn calry(fields: &str, config: Config) -> World {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms", "pictures"])]),
        config,
    );
    fs::write(world.dir.path().join("key"), &world.sandbox.keys().write).unwrap();
    if !fields.is_empty() {
        world.write("hostaway.yaml", &file(fields));
    }
    world
}

/// An operator's directory with a configuration file, and no variable.
fn operator(config: &str) -> World {
    let mut world = World::default();
    world.env.remove("CALRY_API_KEY");
    world.env.remove("CALRY_API_URL");
    fs::write(world.dir.path().join("calry-gitops.yaml"), config).unwrap();
    world
}

fn entry(name: &str, calry: &World, more: &str) -> String {
    let dir = calry.dir.path().display();
    format!(
        "  - name: {name}\n    definitions: {dir}/definitions\n    apiKeyFile: {dir}/key\n    apiUrl: {}\n{more}",
        calry.sandbox.url()
    )
}

const RUN: [&str; 3] = ["run", "--config", "calry-gitops.yaml"];

fn start(world: &World) -> Daemon {
    world.daemon(&RUN[1..])
}

fn on(world: &World) -> Vec<String> {
    let definition = world.live("HOSTAWAY");
    let fields = definition["fieldsToSync"]["listing"].as_object().unwrap();
    fields
        .iter()
        .filter(|(_, on)| **on == true)
        .map(|(field, _)| field.clone())
        .collect()
}

fn status(daemon: &mut Daemon) -> Value {
    daemon.get("/api/v1/status").json()
}

#[test]
fn every_problem_is_reported_at_once_at_its_position_without_a_value_that_may_be_a_secret() {
    let world = operator(
        r#"intervall: 60s
interval: 60s
interval: 2m
mode: enforse
timeout: 5x
strict: "yes"
maxChanges: many
apiKey: zepl.id.CANARY.acme
apiKeyFile: zepl.id.CANARY.acme
apiKeyFile: zepl.id.CANARY.acme
adminHost: [a, 3]
notes: [CANARY]
timeout: &x 3s
workspaces:
  - name: Acme
    listen: off
    slug: CANARY
  - definitions: b
  - CANARY
  - name: x
  - name: x
notifications:
  - {name: ops, slack: {urlFile: a}, workspaces: [xx]}
  - {name: ops, webhook: {url: "https://example.com/CANARY?token=CANARY", secretFile: a}}
  - {name: other, slack: CANARY}
  - {name: other, slack: {url: "https://hooks.slack.example/CANARY"}}
  - {name: other, github: {repository: a/b, tokenFile: a}, holdDays: CANARY}
  - {name: other}
"#,
    );
    let ran = world.run(&RUN).exits(64);
    assert!(!ran.err.contains("CANARY"), "{}", ran.err);
    insta::assert_snapshot!(ran.err);
    for broken in [
        "a: [CANARY",
        "- CANARY",
        "CANARY",
        "",
        "a: b\n---\nc: CANARY",
    ] {
        fs::write(world.dir.path().join("calry-gitops.yaml"), broken).unwrap();
        let ran = world.run(&RUN).exits(64).says("calry-gitops.yaml");
        assert!(!ran.err.contains("CANARY"), "{broken}: {}", ran.err);
    }
    world
        .run(&["run", "--config", "nowhere.yaml"])
        .exits(64)
        .says("nowhere.yaml cannot be read");
}

#[test]
fn the_allowed_keys_of_a_workspace_are_not_joined_by_those_of_all() {
    let world = operator(
        "workspaces:\n  - {name: careful, apiKeyFile: a, allowedSigners: ours}\n  - {name: plain, apiKeyFile: b}\n",
    );
    let flags = ["--print-config", "--allowed-keys=all"];
    let printed = world.run(&[&RUN[..], &flags].concat()).exits(0).out;
    let (_, workspaces) = printed.split_once("- name: careful\n").unwrap();
    let (careful, plain) = workspaces.split_once("- name: plain\n").unwrap();
    assert!(careful.contains("allowedSigners: "), "{printed}");
    assert!(careful.contains("# allowedKeys: not set"), "{printed}");
    assert!(
        plain.contains("/all # the flag --allowed-keys"),
        "{printed}"
    );
}

#[test]
fn flags_win_over_variables_over_the_file_over_what_is_built_in() {
    let mut world = operator(
        "interval: 1m\nmode: observe\nmaxChanges: 7\ndefinitions: defs\napiKeyFile: /run/key\nadminHost: [a.example, b.example]\n",
    );
    world
        .env("CALRY_MODE", "enforce")
        .env("CALRY_INTERVAL", "2m")
        .env("CALRY_UPDATE_METHOD", "");
    let args = [
        &RUN[..],
        &["--print-config", "--interval", "3m", "--strict"],
    ]
    .concat();
    let printed = world.run(&args).exits(0).out;
    let dir = world.dir.path().display();
    for line in [
        "interval: 3m # the flag --interval",
        "mode: enforce # the variable CALRY_MODE",
        "maxChanges: 7 # calry-gitops.yaml:3",
        &format!("definitions: {dir}/defs # calry-gitops.yaml:4"),
        "apiKeyFile: /run/key # calry-gitops.yaml:5",
        "adminHost: [\"a.example\",\"b.example\"] # calry-gitops.yaml:6",
        "strict: true # the flag --strict",
        "updateMethod: patch # built in",
        "listen: 127.0.0.1:0 # the variable CALRY_LISTEN",
        "# secretsDir: not set",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}\n{printed}"
        );
    }
    world.env.remove("CALRY_LISTEN");
    let printed = world.run(&args).exits(0).out;
    assert!(
        printed
            .lines()
            .any(|line| line == "listen: 127.0.0.1:8080 # built in"),
        "{printed}"
    );
    // The variable with the key itself is named, and the key is not printed.
    world.env("CALRY_API_KEY", "zepl.id.CANARY.acme");
    let printed = world.run(&args).exits(0).out;
    assert!(
        printed.contains("# apiKeyFile: the variable CALRY_API_KEY holds the key itself\n"),
        "{printed}"
    );
    assert!(!printed.contains("CANARY") && world.requests().is_empty());
}

#[test]
fn what_print_config_prints_is_a_configuration_file_with_the_same_values() {
    let mut world = operator(
        "interval: 1m\nworkspaces:\n  - {name: one, apiKeyFile: one, only: [HOSTAWAY]}\n  - {name: two, apiKeyFile: 'a # b', \
         mode: observe, timeout: 5s}\nnotifications:\n  - {name: ops, slack: {urlFile: hook}, workspaces: [two]}\n",
    );
    let values = |printed: &str| -> Vec<String> {
        let lines = printed
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        lines
            .map(|line| {
                line.rsplit_once(" # ")
                    .map_or(line, |(value, _)| value)
                    .to_owned()
            })
            .collect()
    };
    let first = world
        .run(&[&RUN[..], &["--print-config", "--concurrency", "3"]].concat())
        .exits(0)
        .out;
    assert!(
        first.contains("# calry-gitops.yaml:1\n") && first.contains("a # b"),
        "{first}"
    );
    fs::write(world.dir.path().join("printed.yaml"), &first).unwrap();
    world.env.remove("CALRY_LISTEN");
    let second = world
        .run(&["run", "--config", "printed.yaml", "--print-config"])
        .exits(0)
        .out;
    assert_eq!(values(&first), values(&second));
}

#[test]
fn print_config_shows_no_directory_beside_a_repository() {
    let world = operator(
        "gitUrl: https://git.example.com/acme/definitions.git\nworkspaces:\n  - {name: one, apiKeyFile: one}\n  \
         - {name: two, apiKeyFile: two, gitPath: two}\n",
    );
    let print = |file| {
        let ran = world.run(&["run", "--config", file, "--print-config"]);
        ran.exits(0).out
    };
    let printed = print("calry-gitops.yaml");
    let replaced = "    # definitions: gitUrl takes its place\n";
    assert_eq!(printed.matches(replaced).count(), 2, "{printed}");
    let is_directory = |line: &str| line.trim_start().starts_with("definitions:");
    assert!(!printed.lines().any(is_directory), "{printed}");
    fs::write(world.dir.path().join("printed.yaml"), &printed).unwrap();
    assert!(print("printed.yaml").contains("gitPath: two"));
}

#[test]
fn a_flag_about_one_workspace_is_refused_if_one_of_several_has_no_value_of_its_own() {
    const SEVERAL: [(&str, &str); 4] = [
        ("--definitions", "definitions"),
        ("--api-key-file", "apiKeyFile"),
        ("--only", "only"),
        ("--workspace", "workspace"),
    ];
    for (flag, key) in SEVERAL {
        let operator = |one: &str, two: &str| {
            operator(&format!(
                "workspaces:\n  - {{name: one{one}}}\n  - {{name: two{two}}}\n"
            ))
        };
        let own = format!(", apiKeyFile: a, {key}: HOSTAWAY")
            .replace("apiKeyFile: a, apiKeyFile", "apiKeyFile");
        let other = own
            .replace(": a,", ": b,")
            .replace("apiKeyFile: HOSTAWAY", "apiKeyFile: c");
        let args = [&RUN[..], &[flag, "GUESTY", "--print-config"]].concat();
        let ran = operator(
            &own,
            ", apiKeyFile: b".trim_matches(|_| key == "apiKeyFile"),
        )
        .run(&args)
        .exits(64);
        ran.says(&format!("{flag} is about one workspace"))
            .says(&format!("`two` has no `{key}` of its own"));
        // If each has its own value, the flag applies to none of them.
        let printed = operator(&own, &other).run(&args).exits(0).out;
        assert!(!printed.contains("GUESTY"), "{printed}");
    }
    let mut world = operator("workspaces:\n  - {name: one, apiKeyFile: a}\n  - {name: two}\n");
    let ran = world
        .env("CALRY_API_KEY", "zepl.CANARY")
        .run(&RUN)
        .exits(64);
    assert!(!ran.err.contains("CANARY"));
    ran.says("the key in the variable CALRY_API_KEY is about one workspace");
    world.env.remove("CALRY_API_KEY");
    let ran = world.env("CALRY_DEFINITIONS", "x").run(&RUN).exits(64);
    ran.says("the variable CALRY_DEFINITIONS is about one workspace");
}

#[test]
fn a_workspaces_own_value_wins_over_the_value_for_all() {
    let mut world = operator(
        "mode: enforce\nmaxChanges: 50\ntimeout: 7s\nworkspaces:\n  - {name: careful, apiKeyFile: a, mode: observe, maxChanges: 2, \
         strict: false, interval: 5m, secretsDir: own, allowedSigners: ours, workspace: acme}\n  - {name: plain, apiKeyFile: b}\n",
    );
    world
        .env("CALRY_UPDATE_METHOD", "put")
        .env("CALRY_MAX_CHANGES", "70")
        .env("CALRY_SECRETS_DIR", "env");
    let flags = [
        "--mode=enforce",
        "--interval=60s",
        "--strict",
        "--secrets-dir=all",
        "--allowed-signers=others",
    ];
    let printed = world
        .run(&[&RUN[..], &["--print-config"], &flags].concat())
        .exits(0)
        .out;
    let dir = world.dir.path().display();
    let (_, workspaces) = printed.split_once("- name: careful\n").unwrap();
    let (careful, plain) = workspaces.split_once("- name: plain\n").unwrap();
    let has = |section: &str, line: &str| {
        assert!(
            section.lines().any(|one| one.trim() == line),
            "{line}\n{printed}"
        )
    };
    for line in [
        "mode: observe",
        "maxChanges: 2",
        "strict: false",
        "interval: 5m",
        "workspace: acme",
    ] {
        has(careful, &format!("{line} # calry-gitops.yaml:5"));
    }
    has(
        careful,
        &format!("secretsDir: {dir}/own # calry-gitops.yaml:5"),
    );
    has(
        careful,
        &format!("allowedSigners: {dir}/ours # calry-gitops.yaml:5"),
    );
    has(
        careful,
        "updateMethod: put # the variable CALRY_UPDATE_METHOD",
    );
    for line in [
        "mode: enforce # the flag --mode",
        "maxChanges: 70 # the variable CALRY_MAX_CHANGES",
        "strict: true # the flag --strict",
        "interval: 60s # the flag --interval",
        &format!("secretsDir: {dir}/all # the flag --secrets-dir"),
        "timeout: 7s # calry-gitops.yaml:3",
    ] {
        has(plain, line);
    }
}

#[test]
fn a_workspace_that_is_only_observed_is_not_written_to_whatever_the_flags_say() {
    let [observed, kept] = [
        calry("rooms", Config::default()),
        calry("rooms", Config::default()),
    ];
    let world = operator(&format!(
        "workspaces:\n{}{}",
        entry("observed", &observed, "    mode: observe\n"),
        entry("kept", &kept, "")
    ));
    let ran = world
        .run(&[&RUN[..], &["--once", "--mode=enforce", "--mode", "enforce"]].concat())
        .exits(0);
    assert_eq!(
        (on(&observed), on(&kept)),
        (vec!["name".to_owned()], vec!["rooms".to_owned()])
    );
    assert!(observed.updates().is_empty());
    ran.says("--mode does not apply to observed");
}

#[test]
fn of_one_flag_given_twice_the_last_wins_and_what_is_repeatable_adds_up() {
    let mut world = operator("");
    world.env("CALRY_API_KEY", "zepl.x");
    let twice = [
        "--mode=enforce",
        "--mode=observe",
        "--interval",
        "1h",
        "--interval=2s",
        "--strict",
        "--strict",
    ];
    let only = [
        "--only",
        "GUESTY",
        "--only=HOSTAWAY",
        "--log-format=json",
        "--log-format=text",
        "--listen=off",
    ];
    let printed = world
        .run(
            &[
                &["run", "--print-config", "--listen=[::1]:1"],
                &twice[..],
                &only,
            ]
            .concat(),
        )
        .exits(0)
        .out;
    for line in [
        "mode: observe",
        "interval: 2s",
        "strict: true",
        "only: [\"GUESTY\",\"HOSTAWAY\"]",
        "logFormat: text",
    ] {
        assert!(
            printed.lines().any(|one| one.starts_with(line)),
            "{line}\n{printed}"
        );
    }
    assert!(
        printed
            .lines()
            .any(|one| one.starts_with("listen: ") && one.contains("off")),
        "{printed}"
    );
}

#[test]
fn several_workspaces_need_keys_of_their_own() {
    let world = operator(
        "apiKeyFile: one\nworkspaces:\n  - name: a\n  - name: b\n  - {name: c, apiUrl: 'https://other.example'}\n",
    );
    let ran = world
        .run(&RUN)
        .exits(64)
        .says("calry-gitops.yaml:4:5")
        .says("`b` has the API key of `a`");
    assert!(
        ran.err.contains("1 error in 1 file"),
        "another API has keys of its own: {}",
        ran.err
    );
    operator("workspaces:\n  - name: a\n")
        .run(&RUN)
        .exits(64)
        .says("the workspace `a` has no API key");
}

#[test]
fn paths_are_relative_to_the_file_and_a_single_workspace_needs_no_list() {
    let calry = calry("rooms", Config::default());
    let config = format!(
        "definitions: definitions\napiKeyFile: key\napiUrl: {}\nlogFormat: json\n",
        calry.sandbox.url()
    );
    fs::write(calry.dir.path().join("config.yaml"), config).unwrap();
    let elsewhere = operator("");
    let path = calry.dir.path().join("config.yaml").display().to_string();
    let ran = elsewhere
        .run(&["run", "--once", "--config", &path])
        .exits(0);
    assert!(
        ran.err
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{}",
        ran.err
    );
    assert_eq!(on(&calry), ["rooms"]);
}

#[test]
fn workspaces_are_reconciled_independently_and_a_failure_of_one_does_not_affect_the_others() {
    let [good, other] = [
        calry("rooms", Config::default()),
        calry("pictures", Config::default()),
    ];
    let silent = calry(
        "rooms",
        Config {
            latency: Duration::from_secs(3600),
            ..Config::default()
        },
    );
    let empty = calry("", Config::default());
    let world = operator(&format!(
        "interval: 1h\nworkspaces:\n{}{}{}{}",
        entry("silent", &silent, ""),
        entry("empty", &empty, ""),
        entry("good", &good, ""),
        entry("other", &other, "    mode: observe\n"),
    ));
    let mut daemon = start(&world);
    daemon.line("INFO calry-gitops 0.1.0 keeps 4 workspaces (1 of them only observed)");
    until("the good one is kept", || on(&good) == ["rooms"]);
    // So is the next change, while the silent one waits for its answer.
    good.write("hostaway.yaml", &file("pictures"));
    until("it is kept again", || on(&good) == ["pictures"]);
    daemon.line("empty: reconciliation 1 (start) failed");
    daemon.line("other: HOSTAWAY would be updated");
    assert_eq!(on(&other), ["name"], "it is only observed");

    let document = status(&mut daemon);
    let of = |key: &str| -> Vec<Value> {
        document["workspaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one[key].clone())
            .collect()
    };
    assert_eq!(of("name"), ["silent", "empty", "good", "other"]);
    assert_eq!(of("ready"), [false, false, true, true]);
    assert_eq!(of("mode"), ["enforce", "enforce", "enforce", "observe"]);
    assert!(of("alive").iter().all(|alive| *alive == true));
    assert_eq!(daemon.get("/healthz").code, 200);
    let ready = daemon.get("/readyz");
    assert!(
        ready.code == 503
            && ready
                .body
                .contains("of 1 of 4 workspaces have not been read"),
        "{}",
        ready.body
    );
    // The series of a workspace are named after it, not after its slug: all of these have one slug.
    for name in ["silent", "empty", "good", "other"] {
        assert!(
            daemon
                .get("/metrics")
                .body
                .contains(&format!("calry_gitops_ready{{workspace=\"{name}\"}}")),
            "{name}"
        );
    }

    let address = format!("http://{}", daemon.address());
    let ask = |args: &[&str]| world.run(&[&["status", "--address", &address], args].concat());
    ask(&["--workspace", "good"])
        .exits(0)
        .says("good: acme-production (Acme): in sync");
    ask(&["--workspace", "empty"])
        .exits(1)
        .says("has no definition file");
    ask(&["--workspace", "unknown"])
        .exits(1)
        .says("no workspace `unknown`")
        .says("silent, empty, good, other");
    ask(&[])
        .exits(1)
        .says("1 of 4 workspaces in sync")
        .says("other: acme-production (Acme): 1 provider out of sync");
    let json = ask(&["--workspace", "good", "--format", "json"]).json();
    assert_eq!(json["workspaces"].as_array().unwrap().len(), 1);

    // SIGHUP reconciles all of them.
    daemon.signal("HUP");
    until("all but the silent one are reconciled", || {
        let document = status(&mut daemon);
        (1..4).all(|at| document["workspaces"][at]["lastPass"]["trigger"] == "request")
    });
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_workspace_does_not_wait_for_a_slower_one() {
    let [quick, slow] = [
        calry("rooms", Config::default()),
        calry("rooms", Config::default()),
    ];
    slow.sandbox
        .inject(Fault::once(FaultKind::Delay(Duration::from_secs(1))).times(9));
    let world = operator(&format!(
        "workspaces:\n{}{}",
        entry("slow", &slow, "    interval: 1h\n"),
        entry("quick", &quick, "    interval: 1s\n")
    ));
    let mut daemon = start(&world);
    daemon.line("quick: reconciliation 3 (interval)");
    assert!(
        daemon
            .seen
            .iter()
            .all(|line| !line.contains("slow: reconciliation 2")),
        "{:#?}",
        daemon.seen
    );
}

#[test]
fn two_workspaces_that_are_the_same_one_of_calry_are_reported_in_both_and_the_second_writes_nothing()
 {
    let calry = calry("rooms", Config::default());
    let dir = calry.dir.path();
    fs::create_dir(dir.join("second")).unwrap();
    fs::write(dir.join("second/hostaway.yaml"), file("pictures")).unwrap();
    fs::copy(dir.join("key"), dir.join("copy")).unwrap();
    let second = entry("second", &calry, "")
        .replace("/definitions\n", "/second\n")
        .replace("/key\n", "/copy\n");
    let world = operator(&format!(
        "interval: 1s\nworkspaces:\n{}{second}",
        entry("first", &calry, "")
    ));
    let mut daemon = start(&world);
    daemon.line("first: the API key of `second` belongs to this workspace as well");
    until("both know of it", || {
        let document = status(&mut daemon);
        let last = &document["workspaces"][1]["lastPass"];
        document["workspaces"][0]["also"] == json!(["second"])
            && last["error"]
                .as_str()
                .is_some_and(|e| e.contains("`first`"))
    });
    until("passes go on", || {
        status(&mut daemon)["workspaces"][0]["lastPass"]["number"]
            .as_u64()
            .unwrap()
            > 4
    });
    assert_eq!(
        (on(&calry), calry.updates().len()),
        (vec!["rooms".to_owned()], 1)
    );
    // The failure of the second does not make the page of both unready.
    let ready = daemon.get("/readyz");
    assert!(
        ready.code == 200 && ready.body.contains("except those of 1 of 2 workspaces"),
        "{}",
        ready.body
    );
    let address = format!("http://{}", daemon.address());
    let warnings = daemon
        .seen
        .iter()
        .filter(|line| line.contains("belongs to this workspace as well"))
        .count();
    assert_eq!(warnings, 1, "once is enough: {:#?}", daemon.seen);
    world
        .run(&["status", "--address", &address, "--workspace", "first"])
        .exits(1)
        .says("its own API key");
}

#[test]
fn a_name_goes_before_the_slug_of_another_workspace() {
    let [first, second] = [
        calry("rooms", Config::default()),
        calry("pictures", Config::default()),
    ];
    let world = operator(&format!(
        "interval: 1h\nworkspaces:\n{}{}",
        entry("first", &first, ""),
        entry("acme-production", &second, "")
    ));
    let mut daemon = start(&world);
    until("both are kept", || {
        on(&first) == ["rooms"] && on(&second) == ["pictures"]
    });
    let address = format!("http://{}", daemon.address());
    let page = daemon.get("/?workspace=acme-production").body;
    assert!(page.contains("· acme-production</title>"), "{page}");
    let args = [
        "status",
        "--address",
        &address,
        "--workspace",
        "acme-production",
        "--format",
        "json",
    ];
    let status = world.run(&args).json();
    assert_eq!(
        (&status["workspaces"][0]["name"], &status["workspaces"][1]),
        (&json!("acme-production"), &Value::Null)
    );
}

#[test]
fn json_lines_carry_the_workspace() {
    let calry = calry("rooms", Config::default());
    let world = operator(&format!(
        "logFormat: json\nworkspaces:\n{}",
        entry("acme", &calry, "")
    ));
    let ran = world.run(&[&RUN[..], &["--once"]].concat()).exits(0);
    let lines: Vec<Value> = ran
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines.iter().any(|line| line["provider"] == "HOSTAWAY"),
        "{}",
        ran.err
    );
    assert!(
        lines.iter().all(|line| line["workspace"] == "acme"),
        "{}",
        ran.err
    );
}

#[test]
fn each_workspace_can_have_a_sandbox() {
    let world = operator(
        "sandbox: true\nworkspaces:\n  - {name: one, definitions: one}\n  - {name: two, definitions: two}\n",
    );
    for name in ["one", "two"] {
        fs::create_dir(world.dir.path().join(name)).unwrap();
        fs::write(
            world.dir.path().join(name).join("hostaway.yaml"),
            file("rooms"),
        )
        .unwrap();
    }
    let ran = world.run(&[&RUN[..], &["--once"]].concat());
    ran.exits(0)
        .says("sandbox for one: http://")
        .says("sandbox for two: http://")
        .says("two: HOSTAWAY updated");
}

#[test]
fn the_committed_schema_is_that_of_the_flags_and_accepts_what_the_reader_accepts() {
    let world = operator("");
    let schema = world.run(&["schema", "config"]).exits(0).out;
    let path = repository().join("deploy/schemas/config.schema.json");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::write(&path, &schema).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == schema,
        "write it with UPDATE_SCHEMAS=1 cargo test --test it config::"
    );

    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler
        .add_resource(
            "http://schemas/it.json",
            serde_json::from_str(&schema).unwrap(),
        )
        .unwrap();
    let at = compiler
        .compile("http://schemas/it.json", &mut schemas)
        .unwrap();
    let key = json!("k");
    for (good, config) in [
        (
            true,
            json!({"apiKeyFile": "k", "interval": "90s", "mode": "observe", "maxChanges": 3, "strict": true}),
        ),
        (
            true,
            json!({"adminHost": ["a", "b"], "listen": "off", "logFormat": "json"}),
        ),
        (true, json!({"adminHost": "a"})),
        (
            true,
            json!({"interval": "5m", "workspaces": [{"name": "a-1", "apiKeyFile": key, "timeout": "5s"}]}),
        ),
        (false, json!({"intervall": "90s"})),
        (false, json!({"interval": 90})),
        (false, json!({"mode": "watch"})),
        (true, json!({"maxChanges": "30%"})),
        (true, json!({"maxChanges": "none"})),
        (false, json!({"maxChanges": "101%"})),
        (false, json!({"maxChanges": "many"})),
        (false, json!({"maxChanges": -1})),
        (false, json!({"strict": "true"})),
        (false, json!({"adminHost": [1]})),
        (false, json!({"workspaces": []})),
        (false, json!({"workspaces": [{"apiKeyFile": key}]})),
        (
            false,
            json!({"workspaces": [{"name": "A", "apiKeyFile": key}]}),
        ),
        (
            false,
            json!({"workspaces": [{"name": "a", "apiKeyFile": key, "listen": "off"}]}),
        ),
        (
            true,
            json!({"notifications": [{"name": "ops", "slack": {"urlFile": "a"}, "events": ["drift"]}]}),
        ),
        (
            false,
            json!({"notifications": [{"name": "ops", "slack": {"urlFile": "a"}, "webhook": {"urlFile": "a"}}]}),
        ),
        (
            false,
            json!({"notifications": [{"name": "ops", "slack": {"urlFile": "a"}, "events": ["drifted"]}]}),
        ),
        (false, json!({"notifications": {"name": "ops"}})),
        (false, json!([])),
    ] {
        assert_eq!(
            schemas.validate(&config, at).is_ok(),
            good,
            "the schema of {config}"
        );
        fs::write(
            world.dir.path().join("calry-gitops.yaml"),
            config.to_string(),
        )
        .unwrap();
        let ran = world.run(&[&RUN[..], &["--print-config"]].concat());
        assert_eq!(ran.code == 0, good, "the reader of {config}: {}", ran.err);
    }
}

#[test]
fn the_example_names_its_schema_and_is_valid() {
    let example = repository().join("deploy/config/calry-gitops.yaml");
    let text = fs::read_to_string(&example).unwrap();
    let schema = text
        .lines()
        .next()
        .unwrap()
        .strip_prefix("# yaml-language-server: $schema=")
        .unwrap();
    assert!(
        example
            .parent()
            .unwrap()
            .join(schema)
            .canonicalize()
            .unwrap()
            .ends_with("deploy/schemas/config.schema.json")
    );
    let world = operator("");
    let printed = world
        .run(&[
            "run",
            "--print-config",
            "--config",
            &example.display().to_string(),
        ])
        .exits(0)
        .out;
    assert_eq!(printed.matches("\n  - name: ").count(), 2, "{printed}");
}

#[test]
fn a_target_is_notified_of_events_in_the_workspaces_that_it_names() {
    let (one, two) = (
        calry("name, rooms", Config::default()),
        calry("name, pictures", Config::default()),
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let world = operator(&format!(
        "workspaces:\n{}{}notifications:\n  - {{name: ops, webhook: {{url: {url}, secretFile: secret}}, workspaces: [two]}}\n",
        entry("one", &one, ""),
        entry("two", &two, "")
    ));
    fs::write(
        world.dir.path().join("secret"),
        "a-secret-that-is-long-enough-to-sign",
    )
    .unwrap();
    let mut daemon = start(&world);
    // Without a deadline, the test would wait for ever if no request arrives.
    let (send, accepted) = mpsc::channel();
    std::thread::spawn(move || send.send(listener.accept().unwrap().0));
    let mut stream = accepted.recv_timeout(PATIENCE).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let head: Vec<String> = reader
        .by_ref()
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .collect();
    let header = |name: &str| {
        let header = head
            .iter()
            .find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        header
            .unwrap_or_else(|| panic!("{name}: {head:?}"))
            .split_once(": ")
            .unwrap()
            .1
            .to_owned()
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    stream
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .unwrap();
    assert!(header("webhook-signature").starts_with("v1,"));
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&event["event"], &event["providers"][0]["provider"]),
        (&json!("applied"), &json!("HOSTAWAY")),
        "{event}"
    );
    assert_eq!(event["name"], json!("two"), "{event}");
    until("both are kept", || {
        on(&one) == ["name", "rooms"] && on(&two) == ["name", "pictures"]
    });
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_file_that_changed_since_the_start_is_named_at_sighup_with_what_differs() {
    let calry = calry("rooms", Config::default());
    let config = |more: &str| {
        format!(
            "interval: 1h\nworkspaces:\n{}{more}",
            entry("acme", &calry, "")
        )
    };
    let world = operator(&config(""));
    let mut daemon = start(&world);
    until("it is kept", || on(&calry) == ["rooms"]);
    let mut hangup = |config: &str, line: &str| {
        fs::write(world.dir.path().join("calry-gitops.yaml"), config).unwrap();
        daemon.signal("HUP");
        daemon.line(line)
    };
    let observed =
        config("    mode: observe\n  - {name: new, apiKeyFile: a}\n").replace("1h", "2h");
    let said = hangup(&observed, "has changed since the start");
    assert!(
        said.contains("WARN") && said.contains("restart the daemon to use it"),
        "{said}"
    );
    for change in ["the new workspace new", "mode of acme", "interval of acme"] {
        assert!(said.contains(change), "{change}: {said}");
    }
    let said = hangup(
        &observed.replace("observe", "obsserve"),
        "is no longer valid",
    );
    assert!(
        said.contains("line 7: `mode` must be one of enforce, observe"),
        "{said}"
    );
    let gone = hangup("", "is no longer valid");
    assert!(
        gone.contains("continues with the configuration of its start"),
        "{gone}"
    );
    // Back to the first content, nothing is reported.
    let before = daemon.seen.len();
    fs::write(world.dir.path().join("calry-gitops.yaml"), config("")).unwrap();
    daemon.signal("HUP");
    daemon.line("(request)");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    assert!(
        daemon.seen[before..]
            .iter()
            .all(|line| !line.contains("WARN")),
        "{:#?}",
        daemon.seen
    );
}

/// More directories than the inotify instances of a user, often 128, in a process with at most 256 open files.
#[test]
fn many_workspaces_are_watched_with_few_files_and_threads() {
    let calry = calry(
        "",
        Config {
            copies: 199,
            ..Config::default()
        },
    );
    let mut config = format!(
        "interval: 1h\napiUrl: {}\nworkspaces:\n",
        calry.sandbox.url()
    );
    for n in 0..200 {
        let dir = calry.dir.path().join(format!("w{n}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("hostaway.yaml"), file("name")).unwrap();
        let slug = if n == 0 {
            String::new()
        } else {
            format!("-{n}")
        };
        fs::write(
            dir.join("key"),
            format!("zepl.sandbox-write.not-a-secret.acme-production{slug}"),
        )
        .unwrap();
        config.push_str(&format!(
            "  - {{name: w{n}, definitions: w{n}, apiKeyFile: w{n}/key}}\n"
        ));
    }
    let path = calry.dir.path().join("many.yaml");
    fs::write(&path, config).unwrap();
    let world = operator("");
    let mut limited = std::process::Command::new("sh");
    limited.args([
        "-c",
        "ulimit -n 256; exec \"$0\" run --config \"$1\"",
        env!("CARGO_BIN_EXE_calry-gitops"),
    ]);
    limited
        .arg(&path)
        .env_clear()
        .env("CALRY_LISTEN", "127.0.0.1:0")
        .env("CALRY_ADMIN_RATE", "100000")
        .env("PATH", std::env::var_os("PATH").unwrap());
    let mut daemon = Daemon::start(limited);
    daemon.line("keeps 200 workspaces");
    until("each had a pass", || {
        let document = status(&mut daemon);
        document["workspaces"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["ready"] == true)
    });
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .count();
    assert!(threads < 64, "{threads} threads");
    for n in [0, 77, 199] {
        fs::write(
            calry.dir.path().join(format!("w{n}/hostaway.yaml")),
            file("rooms"),
        )
        .unwrap();
        daemon.line(&format!("w{n}: HOSTAWAY updated"));
    }
    assert!(
        daemon.seen.iter().all(|line| !line.contains("file events")),
        "{:#?}",
        daemon.seen
    );
    assert!(world.requests().is_empty() && on(&calry) == ["rooms"]);
}
