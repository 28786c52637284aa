//! The commands: exit codes, messages, requests, and the layout of their output.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::support::{Ran, World, live, repository};
use axum::http::{Method, StatusCode};
use calry_gitops::sandbox::{Config, Fault, FaultKind, Mask, Seed, Semantics};
use serde_json::{Value, json};

const IN_SYNC: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n";
const UPDATE: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n";
const BROKEN: &str = "provider: GUESTY\nfieldsToSync:\n  listing: name\n";
/// A file with one problem, a warning.
const WARNED: &str = "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: written-out}\n";
const MISSING: &str = "provider: BOOM\nfieldsToSync:\n  listing: [name]\n";
const SECRET: &str =
    "provider: GUESTY\npartnerKey:\n  headers: {x-api-key: '${secret:guesty-key}'}\n";
const HELD: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [pictures]\nhold: {until: 2099-12-31, reason: OPS-1}\n";

/// A workspace of two providers, and one file.
fn world(hostaway: &str) -> World {
    let live = [
        live("HOSTAWAY", &["name"], &["pictures"]),
        live("GUESTY", &["name"], &["pictures"]),
    ];
    let world = World::with(json!(live), Config::default());
    world.write("hostaway.yaml", hostaway);
    world
}

/// A world with the definitions of the repository and the workspace that they are made for.
fn example() -> World {
    let world = World::default();
    for entry in std::fs::read_dir(repository().join("definitions")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, world.definitions().join(path.file_name().unwrap())).unwrap();
    }
    world
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[track_caller]
fn has_keys(value: &Value, all: &[&str]) {
    assert_eq!(keys(value), all.iter().copied().collect());
}

/// The state of each provider, in the order of the output.
fn states(ran: &Ran) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let json = ran.json();
    json["definitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (text(&d["provider"]), text(&d["state"])))
        .collect()
}

fn state(ran: &Ran, provider: &str) -> String {
    states(ran)
        .into_iter()
        .find(|(name, _)| name == provider)
        .unwrap()
        .1
}

// Exit codes

#[test]
fn the_exit_code_is_the_same_in_every_format() {
    const PLAN: &[&str] = &["plan", "--detailed-exitcode"];
    const APPLY: &[&str] = &["apply", "--yes"];
    // (files, whether the key is good, command, exit code)
    let cases: &[(&[&str], bool, &[&str], i32)] = &[
        (&[IN_SYNC], true, PLAN, 0),
        (&[IN_SYNC], true, APPLY, 0),
        (&[UPDATE], true, &["plan"], 0),
        (&[UPDATE], true, PLAN, 2),
        (&[UPDATE], true, APPLY, 0),
        (&[HELD], true, PLAN, 0),
        (&[UPDATE, BROKEN], true, PLAN, 3),
        (&[UPDATE, BROKEN], true, APPLY, 3),
        (&[UPDATE, MISSING], true, PLAN, 3),
        (&[UPDATE, MISSING], true, APPLY, 3),
        (&[IN_SYNC], false, PLAN, 1),
        (&[UPDATE, BROKEN], false, PLAN, 1),
        (&[UPDATE, BROKEN], false, APPLY, 1),
        (&[UPDATE], true, &["apply"], 1),
    ];
    for (files, key, args, code) in cases {
        for format in ["text", "json"] {
            let mut world = world(files[0]);
            if let Some(text) = files.get(1) {
                let name = if *text == BROKEN {
                    "guesty.yaml"
                } else {
                    "boom.yaml"
                };
                world.write(name, text);
            }
            if !key {
                world.env("CALRY_API_KEY", "zepl.unknown.key.acme");
            }
            let ran = world.run(&[*args, &["--format", format]].concat());
            assert_eq!(
                ran.code, *code,
                "{files:?} {key} {args:?} {format}\n{}\n{}",
                ran.out, ran.err
            );
            assert!(format == "text" || ran.json().is_object());
        }
    }
}

#[test]
fn a_known_failure_goes_before_invalid_definitions() {
    let mut before = live("HOSTAWAY", &["name"], &[]);
    before["partnerKey"] =
        json!({"headers": {"x-api-key": "old-value"}, "queryParams": {"client": "kept-value"}});
    let world = World::with(json!([before]), Config::default());
    world.sandbox.set_semantics(Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    });
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: other-value}\n",
    );
    world.write("guesty.yaml", BROKEN);
    world.run(&["plan", "--detailed-exitcode"]).exits(1);
    world.run(&["apply", "--yes"]).exits(1);
    world.run(&["run", "--once"]).exits(1);
}

#[test]
fn run_once_has_the_same_exit_codes() {
    world(UPDATE).run(&["run", "--once"]).exits(0);
    let broken = world(UPDATE);
    broken.write("guesty.yaml", BROKEN);
    broken.run(&["run", "--once"]).exits(3);
    assert_eq!(broken.updates().len(), 1, "one bad file stops no other");
    world(MISSING).run(&["run", "--once"]).exits(3);
    let failing = world(UPDATE);
    failing.write("guesty.yaml", BROKEN);
    let no = FaultKind::Status {
        code: StatusCode::BAD_REQUEST,
        message: "No.".into(),
        retry_after: None,
    };
    failing.sandbox.inject(Fault::once(no).on(Method::PATCH));
    failing.run(&["run", "--once"]).exits(1);
}

#[test]
fn validate_exits_with_0_or_3_and_with_1_where_there_is_nothing_to_validate() {
    let world = world(IN_SYNC);
    world
        .run(&["validate"])
        .exits(0)
        .says("definitions: 1 definition is valid");
    world.write("guesty.yaml", BROKEN);
    world
        .run(&["validate"])
        .exits(3)
        .says("definitions/guesty.yaml:3:");
    world
        .run(&["validate", "-d", "nowhere"])
        .exits(1)
        .says("nowhere cannot be read");
    std::fs::create_dir(world.dir.path().join("empty")).unwrap();
    for command in ["validate", "plan", "apply"] {
        world
            .run(&[command, "-d", "empty"])
            .exits(1)
            .says("is it the right directory?");
    }
    assert!(world.requests().is_empty());
}

#[test]
fn validate_reports_the_same_with_the_same_exit_code_in_every_format() {
    let world = world(WARNED);
    world.write("guesty.yaml", BROKEN);
    for (args, code, problems) in [
        (&["--only", "HOSTAWAY"][..], 0, 1),
        (&["--only", "HOSTAWAY", "--strict"], 3, 1),
        (&[], 3, 2),
        (&["--only", "LODGIFY"], 3, 0),
        (&["-d", "nowhere"], 1, 0),
    ] {
        let run = |format| {
            world
                .run(&[&["validate", "--format", format][..], args].concat())
                .exits(code)
        };
        let text = run("text");
        let [json, github, sarif] = ["json", "github", "sarif"].map(run);
        for other in [&json, &github, &sarif] {
            assert_eq!(other.err, text.err, "{args:?}");
        }
        assert_eq!(
            json.json()["diagnostics"].as_array().unwrap().len(),
            problems
        );
        let log = &sarif.json()["runs"][0];
        assert_eq!(log["results"].as_array().unwrap().len(), problems);
        let failed = problems == 0;
        assert_eq!(log["invocations"][0]["executionSuccessful"], !failed);
        assert_eq!(json.json().get("error").is_some(), failed);
        let commands = github
            .out
            .lines()
            .filter(|line| line.starts_with("::"))
            .count();
        assert_eq!(commands, problems + usize::from(failed), "{}", github.out);
    }
    let plan = world
        .run(&["plan", "--only", "HOSTAWAY", "--format", "json"])
        .json();
    let validate = world
        .run(&["validate", "--only", "HOSTAWAY", "--format", "json"])
        .json();
    has_keys(&validate, &["diagnostics", "summary"]);
    assert_eq!(validate["diagnostics"], plan["diagnostics"]);
    assert_eq!(
        validate["summary"],
        json!({"files": 1, "errors": 0, "warnings": 1})
    );
}

#[test]
fn forges_are_given_paths_from_the_root_of_the_repository_wherever_the_command_runs() {
    let mut world = world(IN_SYNC);
    world.write("guesty.yaml", BROKEN);
    let root = world.dir.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("sub")).unwrap();
    std::os::unix::fs::symlink("definitions", root.join("link")).unwrap();
    let absolute = root.join("definitions").display().to_string();
    let checks = |world: &World, directory: &str, definitions: &str| {
        let run = |args: &[&str]| {
            let args = [args, &["-d", definitions]].concat();
            Ran::of(
                world
                    .command(&args)
                    .current_dir(root.join(directory))
                    .output()
                    .unwrap(),
            )
            .exits(3)
        };
        let log = run(&["validate", "--format", "sarif"]).json();
        let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(
            place["artifactLocation"]["uri"], "definitions/guesty.yaml",
            "{directory} {definitions}"
        );
        assert_eq!(
            place["region"],
            json!({"startLine": 3, "startColumn": 12, "endColumn": 16})
        );
        for command in ["validate", "plan"] {
            let out = run(&[command, "--format", "github"]).out;
            assert!(
                out.contains("::error file=definitions/guesty.yaml,line=3,"),
                "{directory} {definitions}\n{out}"
            );
        }
        let out = run(&["plan", "--format", "markdown"]).out;
        assert!(
            out.contains("`definitions/guesty.yaml:3:12`"),
            "{directory} {definitions}\n{out}"
        );
    };
    let forms = [
        (".", "definitions"),
        (".", "./definitions/"),
        (".", "definitions//"),
        (".", "sub/../definitions"),
        (".", "link"),
        (".", &absolute),
        ("definitions", "."),
        ("sub", "../definitions"),
        ("sub", &absolute),
    ];
    // Without a repository, paths start at the workspace of the job, or else at the working directory.
    forms
        .iter()
        .filter(|(directory, _)| *directory == ".")
        .for_each(|(cwd, form)| checks(&world, cwd, form));
    world.env("GITHUB_WORKSPACE", root.to_str().unwrap());
    forms
        .iter()
        .for_each(|(cwd, form)| checks(&world, cwd, form));
    world.env.remove("GITHUB_WORKSPACE");
    // A checkout with a worktree's `.git` file is one as well.
    std::fs::write(root.join(".git"), "gitdir: /nowhere\n").unwrap();
    forms
        .iter()
        .for_each(|(cwd, form)| checks(&world, cwd, form));
}

#[test]
fn one_plan_is_written_in_several_formats_and_asked_for_once() {
    let mut world = world(UPDATE);
    let also = [
        "plan",
        "--detailed-exitcode",
        "--also",
        "markdown=plan.md",
        "--also",
        "json=plan.json",
        "--also",
        "text=p",
    ];
    let read = |world: &World, name| std::fs::read_to_string(world.dir.path().join(name)).unwrap();
    let ran = world.run(&also).exits(2);
    assert_eq!(world.requests().len(), 2);
    assert_eq!(read(&world, "p"), ran.out);
    assert!(read(&world, "plan.md").starts_with("### ⚠️ Calry `acme-production`: 1 to update"));
    let plan: Value = serde_json::from_str(&read(&world, "plan.json")).unwrap();
    assert_eq!(plan["summary"]["update"], 1);
    world
        .env("CALRY_API_KEY", "zepl.unknown.key.acme")
        .run(&also)
        .exits(1);
    for name in ["p", "plan.md", "plan.json"] {
        assert!(
            read(&world, name).contains("does not know the API key"),
            "{name}"
        );
    }
    world
        .run(&["plan", "--also", "json=nowhere/plan.json"])
        .exits(1)
        .says("nowhere/plan.json, which --also names");
    for wrong in ["json", "json=", "xml=x", "=x"] {
        world
            .run(&["plan", "--also", wrong])
            .exits(64)
            .says("must be FORMAT=FILE, such as markdown=plan.md");
    }
}

// Generated from the definitions of the command line

#[test]
fn every_shell_gets_a_script_that_names_every_command() {
    let world = world(IN_SYNC);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = world.run(&["completions", shell]).exits(0).out;
        for part in ["validate", "plan", "apply", "sandbox", "detailed-exitcode"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
    world.run(&["completions", "csh"]).exits(64);
    for shell in ["bash", "zsh", "fish"] {
        let script = world.run(&["completions", shell]).out;
        for option in ["candidates base", "candidates only"] {
            assert!(script.contains(option), "{shell}: {option}");
        }
    }
    world.write("smoobu.yaml", "provider: SMOOBU\n");
    let only = world.run(&["candidates", "only"]).exits(0);
    assert!(
        ["HOSTAWAY\n", "SMOOBU\n"]
            .iter()
            .all(|name| only.out.contains(name)),
        "{}",
        only.out
    );
    let base = world
        .run(&["candidates", "base", "plan", "-d", "nowhere"])
        .exits(0);
    assert_eq!((base.out.as_str(), base.err.as_str()), ("", ""));
    let power = world.run(&["completions", "powershell"]).out;
    assert!(
        power.contains("Register-ArgumentCompleter -Native -CommandName 'calry-gitops'"),
        "{power}"
    );
}

#[test]
fn the_manual_has_a_page_for_each_command_that_help_shows() {
    let mut world = world(IN_SYNC);
    world
        .env("SOURCE_DATE_EPOCH", "1767225600")
        .run(&["man", "--dir", "man"])
        .exits(0);
    let read =
        |name: &str| std::fs::read_to_string(world.dir.path().join("man").join(name)).unwrap();
    let main = world.run(&["man"]).exits(0).out;
    assert_eq!(read("calry-gitops.1"), main);
    for part in [
        "2026-01-01",
        "CALRY_API_KEY",
        "CALRY_SECRET_NAME",
        "\\fB64\\fR",
        "workspace.yaml",
        "calry\\-gitops\\-plan(1)",
        "SH EXAMPLES",
        "calry\\-gitops run \\-\\-sandbox",
        "SH \"SEE ALSO\"",
    ] {
        assert!(main.contains(part), "{part} is not in\n{main}");
    }
    assert!(!main.contains("gitops\\-man"), "it is for packages");
    let validate = read("calry-gitops-validate.1");
    assert!(
        validate.contains("CALRY_DEFINITIONS") && !validate.contains("CALRY_API_KEY"),
        "{validate}"
    );
    let status = read("calry-gitops-status.1");
    assert!(
        status.contains("no answer from the daemon") && !status.contains("definitions/"),
        "{status}"
    );
    world
        .env("SOURCE_DATE_EPOCH", "today")
        .run(&["man"])
        .exits(64)
        .says("SOURCE_DATE_EPOCH must be a time");
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    let mut world = world(IN_SYNC);
    for args in [
        &[][..],
        &["pln"],
        &["plan", "--nonsense"],
        &["plan", "--format", "xml"],
        &["plan", "--only", "host-away"],
        &["plan", "--out", "-"],
        &["plan", "--also", "json=-"],
        &["plan", "--timeout", "5"],
        &["plan", "-v", "-q"],
        &["plan", "--api-url", "ftp://x"],
        &["apply", "--approve", "sha256:12"],
        &["apply", "--detailed-exitcode"],
        &["apply", "--concurrency", "0"],
        &["run", "--interval", "10ms"],
        &["sandbox", "--fail", "2"],
        &["pull", "--fields", "icon.x"],
        &["validate", "--api-key-file", "x"],
    ] {
        let ran = world.run(args).exits(64);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{args:?}");
    }
    world.run(&["--help"]).exits(0);
    world.run(&["plan", "--help"]).exits(0);
    world
        .run(&["--version"])
        .exits(0)
        .says(env!("CARGO_PKG_VERSION"));
    world
        .env("CALRY_TIMEOUT", "soon")
        .run(&["plan"])
        .exits(64)
        .says("must be a duration such as 90s");
    assert!(world.requests().is_empty());
}

#[test]
fn an_option_of_other_tools_is_answered_with_a_suggestion() {
    let world = world(IN_SYNC);
    world.run(&["validate", "--only", "hostaway"]).exits(0);
    world.run(&["plan", "--only", "Hostaway"]).exits(0);
    world
        .run(&["validate", "--only", "hostway"])
        .exits(3)
        .says("no definition file for HOSTWAY")
        .says("mean HOSTAWAY?");
    world
        .run(&["plan", "--only", "hostaway.yaml"])
        .exits(64)
        .says("did you mean HOSTAWAY?");
    world
        .run(&["validate", "definitions"])
        .exits(64)
        .says("-d definitions")
        .says("Usage: calry-gitops validate");
    for path in ["definitions/hostaway.yaml", "hostaway.yml"] {
        world
            .run(&["plan", path])
            .exits(64)
            .says("--only HOSTAWAY")
            .says("Usage: calry-gitops plan");
    }
    world
        .run(&["plan", "-d", "definitions/hostaway.yaml"])
        .exits(64)
        .says("-d definitions --only HOSTAWAY");
    world
        .run(&["plan", "--api-url", "ftp://x"])
        .exits(64)
        .says("Usage: calry-gitops plan");
    world
        .run(&["-q", "apply", "--api-url", "ftp://x"])
        .exits(64)
        .says("Usage: calry-gitops apply");
    world.run(&["plan", "-d", "nowhere"]).exits(1);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_snapshot_or_a_saved_plan() {
    let world = world(UPDATE);
    let path = |name: &str| world.dir.path().join(name);
    let mark =
        |name: &str, text: String| std::fs::write(path(name), format!("\u{feff}{text}")).unwrap();
    mark("live.json", world.run(&["snapshot"]).exits(0).out);
    world
        .run(&["plan", "--live", "live.json", "--detailed-exitcode"])
        .exits(2);
    world.run(&["plan", "--out", "plan.json"]).exits(0);
    mark(
        "plan.json",
        std::fs::read_to_string(path("plan.json")).unwrap(),
    );
    world.run(&["apply", "--plan", "plan.json"]).exits(0);
    assert_eq!(world.updates().len(), 1);
}

// Keys

#[test]
fn each_error_of_the_key_names_the_next_step() {
    let mut world = world(UPDATE);
    let keys = world.sandbox.keys();
    world.env.remove("CALRY_API_KEY");
    world.write("boom.yaml", "provider: BOOM\nicons: x\n");
    world
        .run(&["plan"])
        .exits(1)
        .says("definitions/boom.yaml:2:1")
        .says("no API key");
    std::fs::remove_file(world.definitions().join("boom.yaml")).unwrap();
    world
        .run(&["plan"])
        .exits(1)
        .says("no API key: name its file with --api-key-file, or set the variable");
    world
        .env("CALRY_API_KEY", "zepl.wrong.key.acme")
        .run(&["plan"])
        .exits(1);
    world
        .run(&["plan"])
        .says("does not know the API key from the variable CALRY_API_KEY")
        .says("not revoked");
    world.env("CALRY_API_KEY", &keys.expired);
    world
        .run(&["plan"])
        .exits(1)
        .says("CALRY_API_KEY has expired")
        .says("a new one with the same permission in the Calry console");
    world
        .env("CALRY_API_KEY", &keys.read)
        .run(&["plan"])
        .exits(0);
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("has no WRITE permission")
        .says("has no WRITE permission");
    assert_eq!(
        world.live("HOSTAWAY")["fieldsToSync"]["listing"]["pictures"],
        false
    );
}

#[test]
fn a_key_in_a_file_goes_before_the_variable_and_is_named_by_its_file() {
    let mut world = world(UPDATE);
    let (good, file) = (
        world.sandbox.keys().write.clone(),
        world.dir.path().join("key"),
    );
    let name = file.to_str().unwrap();
    std::fs::write(&file, format!("{good}\n")).unwrap();
    world.env("CALRY_API_KEY", "zepl.wrong.key.acme");
    world.run(&["plan", "--api-key-file", name]).exits(0);
    world
        .env("CALRY_API_KEY", &good)
        .env("CALRY_API_KEY_FILE", name);
    std::fs::write(&file, "zepl.wrong.key.acme").unwrap();
    world
        .run(&["plan"])
        .exits(1)
        .says(&format!("the API key from the file {name}"));
    std::fs::write(&file, "\n").unwrap();
    world.run(&["plan"]).exits(1).says("is empty");
    std::fs::remove_file(&file).unwrap();
    world
        .run(&["plan"])
        .exits(1)
        .says(&format!("cannot read the API key from the file {name}"));
}

#[test]
fn a_key_is_never_an_argument_and_one_that_was_given_is_not_repeated() {
    let world = world(UPDATE);
    let key = world.sandbox.keys().write.clone();
    for args in [
        vec!["plan".to_owned(), format!("--api-key={key}")],
        vec!["plan".to_owned(), "--api-key".to_owned(), key.clone()],
        vec!["plan".to_owned(), key.clone()],
        vec!["plan".to_owned(), "--only".to_owned(), key.clone()],
        vec![key.clone()],
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = world
            .run(&args)
            .exits(64)
            .says("Do not pass a key as an argument");
        assert!(!ran.err.contains(&key), "{}", ran.err);
    }
}

#[test]
fn a_key_in_place_of_a_path_or_a_public_key_is_refused_and_not_repeated() {
    let secret = "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQS3AUA";
    let key = "zepl.real.secret.acme";
    for (option, variable, name, value) in [
        (
            "--backup-recipient",
            "CALRY_BACKUP_RECIPIENT",
            "backupRecipient",
            secret,
        ),
        (
            "--age-identity-file",
            "CALRY_AGE_IDENTITY_FILE",
            "ageIdentityFile",
            secret,
        ),
        ("--api-key-file", "CALRY_API_KEY_FILE", "apiKeyFile", key),
    ] {
        let mut world = world(IN_SYNC);
        let refused = |ran: Ran| {
            let ran = ran.exits(64).says("key");
            let end = &value[value.len() - 8..];
            assert!(
                !format!("{}{}", ran.out, ran.err).contains(end),
                "{}",
                ran.err
            );
        };
        refused(world.run(&["apply", option, value]));
        std::fs::write(
            world.dir.path().join("c.yaml"),
            format!("{name}: {value}\n"),
        )
        .unwrap();
        refused(world.run(&["run", "--config", "c.yaml", "--print-config"]));
        refused(world.env(variable, value).run(&["apply"]));
    }
}

// Requests

#[test]
fn plan_sends_two_requests_for_any_number_of_providers_and_never_writes() {
    for providers in [1, 300] {
        let world = World::new(Config {
            seed: Seed::synthetic(providers),
            ..Config::default()
        });
        for n in 0..providers {
            let provider = format!("P{n:05}");
            let text = format!("provider: {provider}\nfieldsToSync:\n  listing: [name]\n");
            world.write(&format!("{}.yaml", provider.to_lowercase()), &text);
        }
        world.run(&["plan", "--detailed-exitcode", "-q"]).exits(2);
        let asked = world.requests();
        assert_eq!(asked.len(), 2);
        assert!(asked.iter().all(|request| request.method == Method::GET));
    }
}

#[test]
fn validate_opens_no_socket_and_needs_no_key_and_no_secret() {
    let mut world = world(UPDATE);
    world.write("guesty.yaml", SECRET);
    world.env.remove("CALRY_API_KEY");
    world.run(&["validate"]).exits(0);
    assert!(world.requests().is_empty());
}

#[test]
fn apply_without_yes_and_without_a_terminal_refuses_and_sends_nothing() {
    let world = world(UPDATE);
    world
        .run(&["apply"])
        .exits(1)
        .says("cannot ask for confirmation: there is no terminal")
        .says("apply it with --yes");
    assert!(world.updates().is_empty());
    world
        .write("hostaway.yaml", IN_SYNC)
        .run(&["apply"])
        .exits(0);
}

#[test]
fn apply_with_an_invalid_file_changes_nothing_and_plan_shows_the_rest() {
    let world = world(UPDATE);
    world.write("guesty.yaml", BROKEN);
    let plan = world
        .run(&["plan", "--format", "json"])
        .exits(3)
        .says("definitions/guesty.yaml:3:12");
    assert_eq!(
        (state(&plan, "HOSTAWAY"), state(&plan, "GUESTY")),
        ("update".to_owned(), "invalid".to_owned())
    );
    world
        .run(&["apply", "--yes"])
        .exits(3)
        .says("nothing was changed; fix them");
    assert!(world.updates().is_empty());
}

#[test]
fn a_provider_that_the_workspace_does_not_have_is_an_error_at_its_line() {
    let world = world(UPDATE);
    world.write("boom.yaml", MISSING);
    let plan = world
        .run(&["plan", "--format", "json"])
        .exits(3)
        .says("definitions/boom.yaml:1:11");
    assert_eq!(state(&plan, "BOOM"), "missing");
    world.run(&["apply", "--yes"]).exits(3);
    assert!(world.updates().is_empty());
}

#[test]
fn only_counts_the_errors_of_the_files_that_it_names() {
    let world = world(UPDATE);
    world
        .write("guesty.yaml", BROKEN)
        .write("boom.yaml", MISSING);
    let plan = world
        .run(&["plan", "--only", "HOSTAWAY", "--format", "json"])
        .exits(0);
    assert_eq!(states(&plan).len(), 1, "{}", plan.out);
    assert!(plan.err.is_empty(), "{}", plan.err);
    world.run(&["validate", "--only", "HOSTAWAY"]).exits(0);
    world
        .run(&["plan", "--only", "HOSTAWAY", "--only", "GUESTY"])
        .exits(3);
    world
        .run(&["plan", "--only", "LODGIFY"])
        .exits(3)
        .says("no definition file for LODGIFY")
        .says("lodgify.yaml");
    world
        .run(&["plan", "--only", "HOSTWAY"])
        .exits(3)
        .says("did you mean HOSTAWAY?");
    world
        .run(&["apply", "--yes", "--only", "HOSTAWAY"])
        .exits(0);
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn strict_makes_a_warning_an_error() {
    let world = world(WARNED);
    for command in ["validate", "plan"] {
        world
            .run(&[command])
            .exits(0)
            .says("warning[plain-credential]");
        world
            .run(&[command, "--strict"])
            .exits(3)
            .says("error[plain-credential]");
    }
    world.run(&["apply", "--yes", "--strict"]).exits(3);
    world.run(&["run", "--once", "--strict"]).exits(3);
    assert!(world.updates().is_empty());
}

// The workspace

#[test]
fn a_key_of_another_workspace_than_the_pinned_one_plans_and_writes_nothing() {
    let world = world(UPDATE);
    world.write("workspace.yaml", "slug: acme-staging\n");
    for args in [&["plan"][..], &["apply", "--yes"], &["run", "--once"]] {
        world
            .run(args)
            .exits(1)
            .says("are for the workspace acme-staging")
            .says("acme-production");
    }
    let ran = world.run(&["plan", "--format", "json"]).exits(1);
    has_keys(&ran.json(), &["error", "diagnostics"]);
    assert!(world.updates().is_empty());
    world
        .write("workspace.yaml", "slug: acme-production\n")
        .run(&["apply", "--yes"])
        .exits(0);
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn an_invalid_workspace_file_stops_everything_and_is_shown_at_its_line() {
    let world = world(UPDATE);
    for text in [
        "slug: [a]\n",
        "slug: acme-production\nslugg: x\n",
        "",
        "slug: 'x\n",
    ] {
        world.write("workspace.yaml", text);
        for args in [
            &["validate"][..],
            &["plan"],
            &["apply", "--yes"],
            &["plan", "--only", "HOSTAWAY"],
            &["run", "--once"],
        ] {
            world.run(args).exits(3).says("definitions/workspace.yaml");
        }
    }
    assert!(world.requests().is_empty());
}

// Secrets

#[test]
fn a_missing_secret_is_an_error_of_its_file_that_names_where_to_put_it() {
    let mut world = world(UPDATE);
    world.write("guesty.yaml", SECRET);
    let ran = world
        .run(&["plan", "--format", "json"])
        .exits(3)
        .says("definitions/guesty.yaml:3:");
    let ran = ran.says("CALRY_SECRET_GUESTY_KEY").says("--secrets-dir");
    assert_eq!(
        (state(&ran, "HOSTAWAY"), state(&ran, "GUESTY")),
        ("update".to_owned(), "invalid".to_owned())
    );
    world
        .env("CALRY_SECRET_GUESTY_KEY", "a-value")
        .run(&["plan"])
        .exits(0);
}

#[test]
fn without_secrets_everything_else_is_compared_and_there_is_no_digest() {
    let world = world(UPDATE);
    world.write(
        "guesty.yaml",
        &format!("{SECRET}fieldsToSync:\n  listing: [name, pictures]\n"),
    );
    let text = world.run(&["plan", "--secrets-unavailable"]).exits(0);
    let text =
        text.says("partnerKey.headers.x-api-key: ${secret:guesty-key} is resolved at apply time");
    assert!(
        text.out.contains("+ pictures  off -> on") && !text.out.contains("sha256:"),
        "{}",
        text.out
    );
    let json = world
        .run(&[
            "plan",
            "--secrets-unavailable",
            "--detailed-exitcode",
            "--format",
            "json",
        ])
        .exits(2)
        .json();
    assert_eq!(json["digest"], Value::Null);
    assert_eq!(json["summary"]["update"], 2);
    let guesty = json["definitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["provider"] == "GUESTY")
        .unwrap()
        .clone();
    let unresolved = json!([{"path": "partnerKey.headers.x-api-key", "secrets": ["guesty-key"], "missing": "secret"}]);
    assert_eq!(guesty["unresolved"], unresolved);
    let paths: Vec<&Value> = guesty["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| &change["path"])
        .collect();
    assert_eq!(
        paths,
        [
            "partnerKey.headers.x-api-key",
            "fieldsToSync.listing.pictures"
        ],
        "an added key is known"
    );
    // It is unknown whether an existing live value differs.
    let mut live = world.live("GUESTY");
    live["partnerKey"] = json!({"headers": {"x-api-key": "old-value"}});
    world.sandbox.set_definition("GUESTY", live);
    let json = world
        .run(&["plan", "--secrets-unavailable", "--format", "json"])
        .exits(0)
        .json();
    assert_eq!(json["digest"], Value::Null);
    assert!(
        json["definitions"]
            .as_array()
            .unwrap()
            .iter()
            .all(|d| !d["changes"].to_string().contains("partnerKey"))
    );
    world.run(&["apply", "--secrets-unavailable"]).exits(64);
}

// The guard

#[test]
fn too_many_changes_are_refused_and_an_approved_digest_allows_exactly_that_plan() {
    let world = world(UPDATE);
    world.write("guesty.yaml", &UPDATE.replace("HOSTAWAY", "GUESTY"));
    let digest = world.run(&["plan", "--format", "json"]).json()["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let refused = world
        .run(&["apply", "--yes", "--max-changes", "1"])
        .exits(1);
    refused
        .says("it changes 2 providers; --max-changes allows 1")
        .says(&format!("apply --approve {digest}"));
    world
        .run(&["run", "--once", "--max-changes", "1"])
        .exits(1)
        .says(&digest);
    let other = format!("sha256:{}", "0".repeat(64));
    for limit in [&[][..], &["--max-changes", "1"]] {
        let args = [&["apply", "--yes", "--approve", &other], limit].concat();
        world
            .run(&args)
            .exits(1)
            .says(&format!("{other} was approved, and this plan is {digest}"));
    }
    assert!(world.updates().is_empty());
    // The live state changes: this is another plan.
    world.sandbox.set_definition("GUESTY", {
        let mut changed = world.live("GUESTY");
        changed["updatedAt"] = json!("2026-02-02T00:00:00.000Z");
        changed
    });
    let approve = ["apply", "--yes", "--max-changes", "1", "--approve"];
    world
        .run(&[&approve[..], &[&digest]].concat())
        .exits(1)
        .says("Review the new plan");
    assert!(world.updates().is_empty());
    let digest = world.run(&["plan", "--format", "json"]).json()["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    world.run(&[&approve[..], &[&digest]].concat()).exits(0);
    assert_eq!(world.updates().len(), 2);
}

// JSON

#[test]
fn the_keys_of_a_plan_in_json_are_those_of_the_contract() {
    let mut world = world(UPDATE);
    let mut guesty = world.live("GUESTY");
    guesty["partnerKey"] = json!({"headers": {"x-api-key": "old-value"}});
    world.sandbox.set_definition("GUESTY", guesty);
    world
        .env("CALRY_SECRET_GUESTY_KEY", "new-value")
        .write("guesty.yaml", SECRET);
    world
        .write("boom.yaml", MISSING)
        .write("elina.yaml", "provider: 7\n");
    let plan = world.run(&["plan", "--format", "json"]).exits(3).json();
    has_keys(
        &plan,
        &[
            "workspace",
            "revision",
            "summary",
            "digest",
            "definitions",
            "diagnostics",
        ],
    );
    has_keys(&plan["workspace"], &["id", "name", "slug"]);
    assert_eq!(plan["revision"], Value::Null);
    assert_eq!(
        plan["summary"],
        json!({"inSync": 0, "update": 2, "invalid": 1, "unreadable": 0, "missing": 1, "held": 0, "unmanaged": 0})
    );
    assert!(plan["digest"].as_str().unwrap().starts_with("sha256:"));
    let of = |provider: &str| {
        plan["definitions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|d| d["provider"] == provider)
            .unwrap()
            .clone()
    };
    has_keys(&of("HOSTAWAY"), &["provider", "file", "state", "changes"]);
    assert_eq!(of("HOSTAWAY")["file"], "hostaway.yaml");
    let pictures = json!({"path": "fieldsToSync.listing.pictures", "before": false, "after": true, "sensitive": false});
    assert_eq!(of("HOSTAWAY")["changes"], json!([pictures]));
    let key = json!({"path": "partnerKey.headers.x-api-key", "before": null, "after": null, "sensitive": true,
        "change": "changed", "secrets": ["guesty-key"]});
    assert_eq!(of("GUESTY")["changes"], json!([key]));
    assert_eq!(
        (&of("BOOM")["state"], &of("ELINA")["state"]),
        (&json!("missing"), &json!("invalid"))
    );
    has_keys(
        &plan["diagnostics"][0],
        &[
            "severity", "code", "file", "line", "column", "message", "help", "excerpt",
        ],
    );
}

#[test]
fn every_state_has_its_name_in_json() {
    let world = example();
    let ran = world
        .run(&["plan", "--format", "json", "--secrets-unavailable"])
        .exits(0);
    let seen: BTreeSet<String> = states(&ran).into_iter().map(|(_, state)| state).collect();
    assert_eq!(
        seen,
        ["held", "inSync", "unmanaged", "update"]
            .map(str::to_owned)
            .into()
    );
    let held = ran.json()["definitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["state"] == "held")
        .unwrap()
        .clone();
    assert_eq!(
        held["hold"],
        json!({"until": "2099-12-31", "reason": "OwnerRez account migration, OPS-114"})
    );
    assert!(
        !held["changes"].as_array().unwrap().is_empty(),
        "what is held back is shown"
    );
}

/// A world in which an apply has each outcome.
fn outcomes() -> World {
    let names = ["BOOM", "ELINA", "GUESTY", "HOSTAWAY", "LODGIFY"];
    let world = World::with(
        json!(names.map(|name| live(name, &["name"], &["pictures"]))),
        Config::default(),
    );
    world.write("boom.yaml", &IN_SYNC.replace("HOSTAWAY", "BOOM"));
    world.write("elina.yaml", &UPDATE.replace("HOSTAWAY", "ELINA"));
    world.write("guesty.yaml", &UPDATE.replace("HOSTAWAY", "GUESTY"));
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world.write("lodgify.yaml", &HELD.replace("HOSTAWAY", "LODGIFY"));
    let no = FaultKind::Status {
        code: StatusCode::BAD_REQUEST,
        message: "The icon is too large.".into(),
        retry_after: None,
    };
    world
        .sandbox
        .inject(Fault::once(no).on(Method::PATCH).at("/GUESTY"));
    world
}

#[test]
fn every_outcome_has_its_name_in_json() {
    let json = outcomes()
        .run(&["apply", "--yes", "--format", "json"])
        .exits(1)
        .json();
    let of = |provider: &str| {
        json["definitions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|d| d["provider"] == provider)
            .unwrap()
            .clone()
    };
    let named =
        ["BOOM", "ELINA", "GUESTY", "HOSTAWAY", "LODGIFY"].map(|name| of(name)["outcome"].clone());
    assert_eq!(
        named,
        ["unchanged", "applied", "failed", "notConverged", "skipped"].map(|name| json!(name))
    );
    assert!(
        of("GUESTY")["error"]
            .as_str()
            .unwrap()
            .contains("The icon is too large.")
    );
    assert_eq!(of("ELINA").get("error"), None);
    let kept = json!([{"path": "fieldsToSync.listing.rooms", "sent": true, "kept": null, "sensitive": false}]);
    assert_eq!(of("HOSTAWAY")["notConverged"], kept);
}

// The sandbox in the process

#[test]
fn the_built_in_sandbox_serves_the_repositorys_own_definitions_and_ignores_real_keys() {
    let mut world = example();
    world.env("CALRY_API_KEY_FILE", "/nowhere/key");
    world
        .run(&["plan", "--sandbox"])
        .exits(0)
        .says("Plan: 12 providers to update, 7 in sync, 1 on hold, 2 unmanaged.");
    world
        .run(&["plan", "--sandbox", "--detailed-exitcode"])
        .exits(2);
    world
        .run(&["apply", "--sandbox", "--yes"])
        .exits(0)
        .says("Apply: 12 of 12 applied.");
    world
        .run(&["run", "--once", "--sandbox"])
        .exits(0)
        .says("12 updated, 7 in sync, 1 on hold, 2 unmanaged");
    world.write("workspace.yaml", "slug: another-one\n");
    world
        .run(&["plan", "--sandbox"])
        .exits(0)
        .says("another-one (");
    assert!(
        world.requests().is_empty(),
        "the address in the environment is ignored"
    );
}

#[test]
fn a_trial_of_the_daemon_without_files_ends_with_the_command_that_writes_them() {
    let world = World::default();
    std::fs::remove_dir(world.definitions()).unwrap();
    world
        .run(&["run", "--sandbox"])
        .exits(1)
        .says("does not exist; help: create it with `calry-gitops pull --sandbox`");
    world
        .run(&["plan"])
        .exits(1)
        .says("help: name it with -d, or create it with `calry-gitops pull`");
    world.run(&["pull", "--sandbox"]).exits(0);
    world
        .run(&["run", "--sandbox", "--once"])
        .exits(0)
        .says("22 in sync");
}

// Streams

#[test]
fn a_closed_pipe_causes_no_panic() {
    let world = example();
    for args in [
        &["plan", "--sandbox"][..],
        &["plan", "--sandbox", "--format", "json"],
        &["apply", "--sandbox", "--yes"],
        &["run", "--sandbox", "--once"],
        &["validate"],
        &["--help"],
    ] {
        let (gone, out) = std::io::pipe().unwrap();
        drop(gone);
        let ran = world.command(args).stdout(out).output().unwrap();
        let err = String::from_utf8(ran.stderr).unwrap();
        assert!(
            ran.status.code() == Some(0) && !err.contains("panicked"),
            "{args:?} {:?}\n{err}",
            ran.status
        );

        let (gone, err) = std::io::pipe().unwrap();
        drop(gone);
        let ran = world
            .command(args)
            .stderr(err)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(ran.code(), Some(0), "{args:?}, without standard error");
    }
}

#[test]
fn a_result_that_was_not_written_is_a_failure() {
    let world = example();
    for args in [
        &["snapshot"][..],
        &["plan", "--detailed-exitcode"],
        &["validate"],
        &["schema"],
        &["completions", "bash"],
    ] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let ran = Ran::of(world.command(args).stdout(full).output().unwrap());
        ran.exits(1)
            .says("the result cannot be written to standard output");
    }
}

#[test]
fn results_go_to_standard_output_and_everything_else_to_standard_error() {
    let world = world(UPDATE);
    world.write("guesty.yaml", BROKEN);
    let ran = world.run(&["plan", "--format", "json"]);
    assert!(ran.json().is_object() && ran.err.contains("error[wrong-type]"));
    let quiet = world.run(&["plan", "-q", "--only", "HOSTAWAY"]).exits(0);
    assert!(quiet.err.is_empty() && quiet.out.contains("Plan: 1 provider to update, 0 in sync"));
    let plain = world.run(&["plan"]);
    assert!(!plain.out.contains('\u{1b}') && !plain.err.contains('\u{1b}'));
    let coloured = world.run(&["plan", "--color", "always"]);
    assert!(coloured.out.contains('\u{1b}') && coloured.err.contains('\u{1b}'));
}

// Layout

/// The text, with fixed values in place of those that differ from run to run.
fn settled(text: &str) -> String {
    let word = |word: &str| {
        let digest = word
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64);
        if digest {
            "sha256:…".to_owned()
        } else {
            word.to_owned()
        }
    };
    text.lines()
        .map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

/// Every line fits a terminal, except those with a single word that is too long.
#[track_caller]
fn fits(text: &str, columns: usize) {
    for line in text.lines().filter(|line| !line.contains("sha256:")) {
        let words = line.trim_start();
        let breakable = !line.starts_with("  +") && !line.starts_with("  -") && words.contains(' ');
        assert!(line.chars().count() <= columns || !breakable, "{line}");
    }
}

#[test]
fn a_plan_reads_well_on_80_columns() {
    let world = example();
    let hold = "hold:\n  until: 2099-12-31\n  reason: \"The account manager of Lodgify moves all of our properties to \
                another contract in March, see OPS-2231 and the thread in the channel\"\n";
    let lodgify = std::fs::read_to_string(world.definitions().join("lodgify.yaml")).unwrap();
    world.write("lodgify.yaml", &format!("{lodgify}{hold}"));
    world.write("boom.yaml", &MISSING.replace("BOOM", "NEW_ONE"));
    world.write("elina.yaml", &BROKEN.replace("GUESTY", "ELINA"));
    let plan = world.run(&["plan", "--sandbox"]).exits(3);
    fits(&plan.out, 80);
    insta::assert_snapshot!("plan", settled(&plan.out));
    let blind = world
        .run(&["plan", "--sandbox", "--secrets-unavailable"])
        .exits(3);
    fits(&blind.out, 80);
    insta::assert_snapshot!("plan_without_secrets", settled(&blind.out));
}

#[test]
fn a_diff_has_the_parent_keys_of_every_change_and_no_line_numbers_of_a_file_that_does_not_exist() {
    let world = example();
    for command in [
        &["plan", "--sandbox", "--diff"][..],
        &["apply", "--sandbox", "--diff", "--yes"],
    ] {
        let text = world.run(command).exits(0).out;
        assert!(!text.contains("@@"), "{text}");
        let (_, hospitable) = text.split_once("~ HOSPITABLE").unwrap();
        let (hospitable, _) = hospitable.split_once("\n\n").unwrap();
        let all = |prefix: &str| {
            hospitable
                .lines()
                .filter(|line| line.starts_with(prefix))
                .count()
        };
        assert_eq!(
            (
                all("    -    contact: true"),
                all("    +    contact: false")
            ),
            (1, 1),
            "{text}"
        );
        assert_eq!(
            (all("     fieldsToSync:"), all("       listing:")),
            (1, 1),
            "{text}"
        );
    }
    let markdown = world
        .run(&["plan", "--sandbox", "--format", "markdown"])
        .exits(0)
        .out;
    assert!(!markdown.contains("@@"), "{markdown}");
    for block in markdown
        .split("```diff\n")
        .skip(1)
        .filter_map(|block| block.split("\n```").next())
    {
        let top = block
            .lines()
            .find(|line| !line.trim_start_matches([' ', '+', '-']).starts_with('#'))
            .unwrap();
        assert!(
            !top.get(1..).unwrap().starts_with(' '),
            "a block begins with a top key:\n{block}"
        );
    }
}

#[test]
fn a_field_that_is_switched_off_is_marked_and_counted() {
    let world = world("provider: HOSTAWAY\nfieldsToSync:\n  listing: [pictures]\n");
    let text = world.run(&["plan", "--color", "always"]).exits(0).out;
    assert!(
        text.contains("\u{1b}[1m\u{1b}[31m- name      on  -> OFF\u{1b}[0m"),
        "{text:?}"
    );
    let text = world
        .run(&["plan"])
        .exits(0)
        .says("+ pictures  off -> on")
        .says("- name on -> OFF");
    text.says("Changes: 1 field on, 1 field OFF.")
        .says("Digest: sha256:")
        .says("Next: calry-gitops apply");
    let markdown = world.run(&["plan", "--format", "markdown"]).exits(0);
    markdown
        .says("1 field on, **1 field OFF**")
        .says("`listing.name` **OFF**, `listing.pictures` on");
}

#[test]
fn what_switched_off_fields_mean_for_listings_is_shown_in_every_format() {
    let fields = ["name", "pictures", "rating", "carbonFootprint"];
    let mut hostaway = live("HOSTAWAY", &fields, &["rooms"]);
    hostaway["fieldsToSync"]["stay"] = json!({"pictures": true});
    let mut guesty = live("GUESTY", &["carbonFootprint"], &["rooms"]);
    guesty["fieldsToSync"]["stay"] = json!({"rating": true});
    let world = World::with(json!([guesty, hostaway]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    // What is not documented has no words.
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [rooms]\n  stay: []\n",
    );
    let line = "listings get no photos or rating";
    for flags in [
        &["plan"] as &[&str],
        &["plan", "--diff"],
        &["plan", "--format", "markdown"],
        &["plan", "--format", "github"],
        &["plan", "--format", "json"],
    ] {
        let ran = world.run(flags).exits(0);
        assert_eq!(ran.out.matches(line).count(), 1, "{}", ran.out);
        assert_eq!(ran.out.matches("listings get").count(), 1, "{}", ran.out);
    }
    let json = world.run(&["plan", "--format", "json"]).exits(0).json();
    let definitions = json["definitions"].as_array().unwrap();
    let of = |provider: &str| {
        let mut all = definitions.iter();
        &all.find(|one| one["provider"] == provider).unwrap()["consequence"]
    };
    assert_eq!((of("HOSTAWAY"), of("GUESTY")), (&json!(line), &json!(null)));

    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nhold: {until: 2099-12-31, reason: OPS-1}\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    let held = world.run(&["plan"]).exits(0);
    assert!(!held.out.contains("listings get"), "{}", held.out);
}

#[test]
fn the_next_step_is_the_command_that_applies_what_was_shown() {
    let world = world(UPDATE);
    assert!(
        world
            .run(&["plan"])
            .exits(0)
            .out
            .ends_with("Next: calry-gitops apply\n")
    );
    world
        .run(&["plan", "--only", "HOSTAWAY"])
        .exits(0)
        .says("Next: calry-gitops apply, with the same options");
    world
        .run(&["plan", "--out", "p.json"])
        .exits(0)
        .says("Next: calry-gitops apply --plan p.json");
    for args in [
        &["plan", "--secrets-unavailable", "--format", "json"][..],
        &["apply", "--yes"],
        &["plan"],
    ] {
        assert!(!world.run(args).exits(0).out.contains("Next:"), "{args:?}");
    }
}

#[test]
fn a_plan_without_changes_is_one_line() {
    let world = world(IN_SYNC);
    let ran = world.run(&["plan", "-d", "./definitions/"]).exits(0);
    assert!(
        ran.out.ends_with(
            "No changes. acme-production matches ./definitions/ (1 provider; 1 unmanaged).\n"
        ),
        "{}",
        ran.out
    );
    world.write("guesty.yaml", &HELD.replace("HOSTAWAY", "GUESTY"));
    world
        .run(&["plan"])
        .exits(0)
        .says("No changes. acme-production matches definitions/ (1 provider; 1 on hold).");
    world.write("boom.yaml", MISSING);
    assert!(!world.run(&["plan"]).exits(3).out.contains("No changes"));
}

#[test]
fn many_missing_secrets_are_one_problem_and_a_missing_key_goes_before_them() {
    let mut world = world(
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-a: ${secret:one}\n    x-b: ${secret:two}\n",
    );
    world.write("guesty.yaml", SECRET);
    let ran = world.run(&["plan"]).exits(3);
    assert_eq!(
        ran.err.matches("error[missing-secret]").count(),
        1,
        "{}",
        ran.err
    );
    for row in [
        "guesty.yaml:3:",
        "hostaway.yaml:4:10  secret `one` not found",
        "hostaway.yaml:5:10  secret `two` not found",
    ] {
        assert!(ran.err.contains(row), "{row} is not in\n{}", ran.err);
    }
    ran.says("3 secret references not available")
        .says("--secrets-dir")
        .says("--secrets-unavailable");
    // A directory that is not there is named once, and its secrets are then not available.
    let absent = world.dir.path().join("absent").display().to_string();
    let ran = world.run(&["plan", "--secrets-dir", &absent]).exits(3);
    let reason = format!("not available: the secrets directory {absent} cannot be read");
    assert_eq!(ran.err.matches(&absent).count(), 1, "{}", ran.err);
    ran.says(&reason).says("guesty.yaml:3:");
    world
        .run(&["plan", "--secrets-unavailable", "--secrets-dir", &absent])
        .exits(0)
        .says("${secret:one} is resolved at apply time");
    // The formats for machines have each of them at its own position.
    let json = world.run(&["plan", "--format", "json"]).exits(3).json();
    assert_eq!(json["diagnostics"].as_array().unwrap().len(), 3);
    world.env.remove("CALRY_API_KEY");
    let ran = world.run(&["plan"]).exits(1).says("no API key");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn a_report_reads_well_on_80_columns() {
    let ran = outcomes().run(&["apply", "--yes"]).exits(1);
    fits(&ran.out, 80);
    insta::assert_snapshot!("apply", settled(&ran.out));
}

#[test]
fn errors_point_into_the_files() {
    let world = world(
        "provider: HOSTAWAY\nicon: cdn.example.com/x.png\nfieldsToSync:\n  listing: [name, pictuers]\n",
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\npartnerkey:\n  headers:\n    x-api-key: hunter2hunter2\n",
    );
    world.write(
        "boom.yaml",
        "provider: BOOM\npartnerKey:\n  headers:\n    x-api-key: ${env:HOME}\n    x-token: abcdefghijkl\n",
    );
    world.write(
        "elina.yaml",
        "provider: ELINA\npartnerKey: {headers: {x: 'y}}\n",
    );
    world.write(
        "lodgify.yaml",
        "fieldsToSync:\n  listing: [name]\nhold: {until: soon}\n",
    );
    insta::assert_snapshot!("validate", world.run(&["validate"]).exits(3).err);
}

#[test]
fn help_reads_well_on_80_and_on_100_columns() {
    let world = world(IN_SYNC);
    for command in [
        "",
        "validate",
        "plan",
        "apply",
        "run",
        "status",
        "pull",
        "sandbox",
        "schema",
        "completions",
    ] {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|arg| !arg.is_empty())
            .collect();
        for columns in [80, 100] {
            let ran = world
                .command(&args)
                .env("COLUMNS", columns.to_string())
                .output()
                .unwrap();
            let help = String::from_utf8(ran.stdout).unwrap();
            assert!(
                help.lines().all(|line| line.chars().count() <= columns),
                "{command} {columns}\n{help}"
            );
            if columns == 100 {
                insta::assert_snapshot!(
                    format!("help_{}", if command.is_empty() { "all" } else { command }),
                    help
                );
            }
        }
    }
}

#[test]
fn a_sandbox_on_a_used_port_is_an_error() {
    let world = world(IN_SYNC);
    let address = world.sandbox.url().replace("http://", "");
    world
        .run(&["sandbox", "--listen", &address])
        .exits(1)
        .says("choose another address");
    world
        .run(&["sandbox", "--seed", "nowhere.json"])
        .exits(1)
        .says("cannot read the seed");
}

// Waiting.

#[test]
fn a_port_that_nothing_listens_on_is_given_up_after_a_few_attempts() {
    let mut world = World::default();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    world.env("CALRY_API_URL", &format!("http://{free}"));
    world.write("hostaway.yaml", "provider: HOSTAWAY\n");
    let began = std::time::Instant::now();
    let ran = world
        .run(&["plan"])
        .exits(1)
        .says("Connection refused (os error 111) (given up after");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    // Both reads fail, and one line announces the retry.
    assert_eq!(
        ran.err.matches("trying again for up to").count(),
        1,
        "{}",
        ran.err
    );
    assert!(
        ran.err.lines().next().unwrap().contains("WARN"),
        "{}",
        ran.err
    );
    world.run(&["plan", "--quiet"]).exits(1);
}

#[test]
fn a_first_attempt_that_fails_is_a_warning_and_debugging_shows_every_fact() {
    let world = World::default();
    world.write("hostaway.yaml", "provider: HOSTAWAY\n");
    let fault = FaultKind::Status {
        code: StatusCode::SERVICE_UNAVAILABLE,
        message: "down".into(),
        retry_after: None,
    };
    for args in [&["plan"][..], &["plan", "-vv"]] {
        world
            .sandbox
            .inject(Fault::once(fault.clone()).on(Method::GET));
        let ran = world.run(args).exits(0);
        assert_eq!(ran.err.matches("WARN").count(), 1, "{}", ran.err);
        assert!(
            ran.err.contains("(503); trying again for up to"),
            "{}",
            ran.err
        );
        let facts = [
            format!("address={}", world.sandbox.url()),
            "pause=".to_owned(),
            "error=cannot".to_owned(),
        ];
        assert_eq!(
            facts.iter().filter(|fact| ran.err.contains(*fact)).count(),
            (args.len() - 1) * 3,
            "{}",
            ran.err
        );
    }
}
