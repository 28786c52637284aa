//! `extends` in `workspace.yaml`: definitions that several workspaces share.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Checkout, Signer, World, live};
use calry_gitops::desired::definitions::load_texts;
use calry_gitops::model::KeySection;
use calry_gitops::sandbox::Config;
use proptest::prelude::*;
use serde_json::{Value, json};

const WORKSPACE: &str = "slug: acme-production\nextends: ../shared\n";

/// What both workspaces want of HOSTAWAY.
const HOSTAWAY: &str = "provider: HOSTAWAY
icon: https://e.com/shared.png
partnerKey:
  headers:
    x-api-key: ${secret:shared-key}
fieldsToSync:
  listing: [name, rooms]
  reservation: [guest]
";

/// A workspace with HOSTAWAY and GUESTY, whose directory extends `../shared` with a definition of HOSTAWAY.
fn world() -> World {
    let mut hostaway = live("HOSTAWAY", &["pictures"], &["name", "rooms"]);
    hostaway["fieldsToSync"]["reservation"] = json!({"guest": false});
    hostaway["icon"] = json!("https://e.com/live.png");
    let guesty = live("GUESTY", &[], &["name"]);
    let mut world = World::with(json!([hostaway, guesty]), Config::default());
    std::fs::create_dir(world.dir.path().join(".git")).unwrap();
    world.env("CALRY_SECRET_SHARED_KEY", "a-shared-key");
    world.write("workspace.yaml", WORKSPACE);
    world.write_shared("hostaway.yaml", HOSTAWAY);
    world
}

fn checkout() -> Checkout {
    let world = world();
    std::fs::remove_dir_all(world.dir.path().join(".git")).unwrap();
    Checkout::of(world)
}

fn listing(world: &World, provider: &str) -> Vec<String> {
    let live = world.live(provider);
    let fields = live["fieldsToSync"]["listing"].as_object().unwrap();
    let on = fields.iter().filter(|(_, on)| **on == json!(true));
    on.map(|(name, _)| name.clone()).collect()
}

/// The changes of a plan: each path, with the shared file that its value is in.
fn changes(plan: &Value, provider: &str) -> Vec<String> {
    let definitions = plan["definitions"].as_array().unwrap().iter();
    let entry = definitions.clone().find(|it| it["provider"] == provider);
    let changes = entry.unwrap()["changes"].as_array().unwrap().iter();
    let change = |change: &Value| {
        let path = change["path"].as_str().unwrap();
        let file = change["file"].as_str();
        assert_eq!(change["shared"] == json!(true), file.is_some());
        format!("{path} {}", file.unwrap_or("own"))
    };
    changes.map(change).collect()
}

#[test]
fn a_shared_definition_without_a_file_of_its_own_is_desired_in_the_workspace() {
    let world = world();
    let plan = world.run(&["plan", "--format", "json"]).exits(0).json();
    assert_eq!(plan["definitions"][1]["file"], "../shared/hostaway.yaml");
    assert!(
        changes(&plan, "HOSTAWAY")
            .iter()
            .all(|it| it.ends_with(" ../shared/hostaway.yaml"))
    );
    world
        .run(&["plan"])
        .exits(0)
        .says("HOSTAWAY ../shared/hostaway.yaml");
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(listing(&world, "HOSTAWAY"), ["name", "rooms"]);
    assert_eq!(world.live("HOSTAWAY")["icon"], "https://e.com/shared.png");
    world.run(&["plan", "--detailed-exitcode"]).exits(0);
}

#[test]
fn a_file_of_the_workspace_overrides_part_by_part_and_each_change_names_its_file() {
    let mut world = world();
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: null\nfieldsToSync:\n  listing: {add: [pictures], remove: [rooms]}\n",
    );
    world.run(&["plan", "--strict"]).exits(0);
    let plan = world.run(&["plan", "--format", "json"]).exits(0).json();
    let shared = "../shared/hostaway.yaml";
    assert_eq!(
        changes(&plan, "HOSTAWAY"),
        [
            format!("partnerKey.headers.x-api-key {shared}"),
            format!("fieldsToSync.listing.name {shared}"),
            format!("fieldsToSync.reservation.guest {shared}"),
        ]
    );
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(listing(&world, "HOSTAWAY"), ["name", "pictures"]);
    assert_eq!(world.live("HOSTAWAY")["icon"], "https://e.com/live.png");

    // A group, a section and a hold that are written in full replace the shared ones, with their secrets.
    world.env.remove("CALRY_SECRET_SHARED_KEY");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://e.com/own.png\npartnerKey:\n  headers: {x-other: public}\n\
         fieldsToSync:\n  listing: [rooms]\n  reservation: null\n",
    );
    let ran = world.run(&["plan", "--format", "json"]).exits(0);
    let own = changes(&ran.json(), "HOSTAWAY");
    assert_eq!(own.len(), 6, "{own:?}");
    assert!(own.iter().all(|change| change.ends_with(" own")), "{own:?}");
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(listing(&world, "HOSTAWAY"), ["rooms"]);
    assert_eq!(
        world.live("HOSTAWAY")["fieldsToSync"]["reservation"],
        json!({"guest": true})
    );
}

#[test]
fn a_plan_names_the_files_of_changes_and_of_a_hold() {
    let world = world();
    let annotations = || world.run(&["plan", "--format", "github"]).exits(0).out;
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://e.com/own.png\n",
    );
    world
        .run(&["plan"])
        .exits(0)
        .says("HOSTAWAY hostaway.yaml, ../shared/hostaway.yaml");
    let hold = "hold: {until: 2199-01-01, reason: OPS-1}\n";
    world.write_shared("hostaway.yaml", &format!("{HOSTAWAY}{hold}"));
    let said = annotations();
    assert!(
        said.contains("notice file=shared/hostaway.yaml,line=9,"),
        "{said}"
    );
    world.write("hostaway.yaml", &format!("provider: HOSTAWAY\n{hold}"));
    let said = annotations();
    assert!(
        said.contains("notice file=definitions/hostaway.yaml,line=2,"),
        "{said}"
    );
}

#[test]
fn a_shared_hold_counts_unless_the_workspace_lifts_or_replaces_it() {
    let world = world();
    let hold = |day: &str| format!("hold: {{until: {day}, reason: shared}}\n");
    world.write_shared(
        "hostaway.yaml",
        &format!("{HOSTAWAY}{}", hold("2199-01-01")),
    );
    let state = |own: &str| {
        world.write("hostaway.yaml", &format!("provider: HOSTAWAY\n{own}"));
        let plan = world.run(&["plan", "--format", "json"]).exits(0).json();
        let entry = plan["definitions"][1].clone();
        (entry["state"].clone(), entry["hold"]["until"].clone())
    };
    let icon = "icon: https://e.com/own.png\n";
    assert_eq!(state(icon), (json!("held"), json!("2199-01-01")));
    assert_eq!(state("hold: null\n"), (json!("update"), Value::Null));
    assert_eq!(
        state(&hold("2198-01-01")),
        (json!("held"), json!("2198-01-01"))
    );
}

#[test]
fn annotations_and_links_point_at_the_file_that_the_value_is_in() {
    let world = world();
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    remove: [rooms]\n    add: [pictures]\n  reservation: []\n",
    );
    let out = world.run(&["plan", "--format", "github"]).exits(0).out;
    let place = |text: &str| {
        let line = out
            .lines()
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("{text}: {out}"));
        let fields = line.split_once(' ').unwrap().1.split(',');
        fields.take(2).collect::<Vec<_>>().join(",")
    };
    assert_eq!(place("icon"), "file=shared/hostaway.yaml,line=2");
    assert_eq!(place("listing.name"), "file=shared/hostaway.yaml,line=7");
    assert_eq!(
        place("switches off every field"),
        "file=definitions/hostaway.yaml,line=6"
    );
    let repository = "https://github.com/acme/repo";
    let comment = world.run(&[
        "plan",
        "--format",
        "markdown",
        "--repository-url",
        repository,
        "--link-commit",
        "0123456789abcdef0123456789abcdef01234567",
    ]);
    let comment = comment.exits(0).out;
    assert!(comment.contains("/shared/hostaway.yaml#L2)"), "{comment}");
}

#[test]
fn a_problem_of_a_shared_file_names_it_and_concerns_its_provider_only() {
    let world = world();
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n",
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://e.com/own.png\n",
    );
    world.write_shared(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicons: x\nfieldsToSync:\n  listing: [romms]\n",
    );
    let ran = world.run(&["validate"]).exits(3);
    assert!(
        ran.err.contains("definitions/../shared/hostaway.yaml:2:1"),
        "{}",
        ran.err
    );
    let json = world.run(&["validate", "--format", "json"]).exits(3).json();
    assert_eq!(json["diagnostics"][0]["file"], "../shared/hostaway.yaml");
    let out = world.run(&["validate", "--format", "github"]).exits(3).out;
    assert!(out.contains("file=shared/hostaway.yaml,line=4,"), "{out}");
    let plan = world.run(&["plan", "--format", "json"]).exits(3).json();
    assert_eq!(plan["definitions"][0]["state"], "update");
    assert_eq!(plan["definitions"][1]["state"], "invalid");
    assert_eq!(
        plan["definitions"][1]["error"],
        "the file has 2 errors; see diagnostics"
    );

    // Names are checked in each file.
    world.write_shared(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [romms]\n",
    );
    world
        .run(&["plan"])
        .exits(3)
        .says("../shared/hostaway.yaml:3:13");
    // What the workspace replaces does not count.
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n",
    );
    world.run(&["plan"]).exits(0);
}

#[test]
fn one_call_validates_several_workspaces_and_shows_a_problem_of_a_shared_file_once() {
    let world = world();
    let files = [
        ("workspace.yaml", "slug: acme-staging\nextends: ../shared\n"),
        ("hostaway.yaml", "provider: HOSTAWAY\nicon: null\n"),
    ];
    let staging = world.dir.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    for (name, text) in files {
        std::fs::write(staging.join(name), text).unwrap();
    }
    let both = &["validate", "-d", "definitions", "-d", "staging"][..];
    let ran = world.run(both).exits(0);
    let valid: Vec<&str> = ran.out.lines().collect();
    assert!(
        valid[0].starts_with("definitions: 1 definition is valid"),
        "{valid:?}"
    );
    assert!(
        valid[1].starts_with("staging: 1 definition is valid"),
        "{valid:?}"
    );

    world.write_shared(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicons: x\nfieldsToSync:\n  listing: [name]\n",
    );
    std::fs::write(staging.join("guesty.yaml"), "provider: GUESTY\nicon: 1\n").unwrap();
    let places = |json: &Value| -> Vec<String> {
        let all = json["diagnostics"].as_array().unwrap();
        let files = all.iter().map(|it| it["file"].as_str().unwrap().to_owned());
        files.collect()
    };
    let ran = world.run(&[both, &["--format", "json"]].concat()).exits(3);
    assert_eq!(
        places(&ran.json()),
        ["shared/hostaway.yaml", "staging/guesty.yaml"]
    );
    let ran = world
        .run(&[both, &["--format", "github"]].concat())
        .exits(3);
    for place in [
        "file=shared/hostaway.yaml,line=2,",
        "file=staging/guesty.yaml,line=2,",
    ] {
        assert_eq!(ran.out.matches(place).count(), 1, "{}", ran.out);
    }
    let log = world
        .run(&[both, &["--format", "sarif"]].concat())
        .exits(3)
        .json();
    assert_eq!(log["runs"][0]["results"].as_array().unwrap().len(), 2);
    // The valid one is not hidden by the others, nor is a directory that is missing.
    world.write_shared("hostaway.yaml", HOSTAWAY);
    let ran = world.run(&[both, &["-d", "nowhere"]].concat()).exits(1);
    assert!(
        ran.out.starts_with("definitions: 1 definition"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("staging/guesty.yaml:2"), "{}", ran.err);
    assert!(ran.err.contains("directory nowhere"), "{}", ran.err);

    // A pattern names directories, in their order, each once; a hidden one is not among them.
    std::fs::write(staging.join("guesty.yaml"), "provider: GUESTY\n").unwrap();
    let ran = world
        .run(&["validate", "-d", "s*", "-d", "staging"])
        .exits(0);
    let valid: Vec<&str> = ran.out.lines().collect();
    assert_eq!(valid.len(), 2);
    assert!(
        valid[0].starts_with("shared: 1 definition is valid"),
        "{valid:?}"
    );
    assert!(
        valid[1].starts_with("staging: 2 definitions are valid"),
        "{valid:?}"
    );
    let ran = world.run(&["validate", "-d", "*/nowhere"]).exits(64);
    assert!(
        ran.err.contains("no directory has such a name"),
        "{}",
        ran.err
    );
}

#[test]
fn a_shared_directory_that_cannot_be_used_stops_every_plan_at_its_line() {
    let world = world();
    let root = world.dir.path();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("hostaway.yaml"), HOSTAWAY).unwrap();
    symlink(outside.path(), root.join("linked")).unwrap();
    for directory in ["empty", "second", "definitions/below", ".hidden"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::write(
        root.join("second/workspace.yaml"),
        "slug: a\nextends: ../shared\n",
    )
    .unwrap();
    std::fs::write(root.join("second/hostaway.yaml"), HOSTAWAY).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    symlink(".hidden", root.join("covered")).unwrap();
    for (path, problem) in [
        (
            "../missing",
            "the shared directory `../missing` does not exist",
        ),
        ("../empty", "has no definition file"),
        ("../file", "is not a directory"),
        ("../linked", "is outside of the repository"),
        ("../../outside", "is outside of the repository"),
        ("../covered", "is outside of the repository"),
        (
            "../definitions/below",
            "is the definitions directory itself, or a part of it",
        ),
        (
            "../definitions",
            "is the definitions directory itself, or a part of it",
        ),
        (
            "../second",
            "a shared directory has no workspace of its own",
        ),
        ("/etc", "`extends` must be a path that begins with `../`"),
        ("shared", "`extends` must be a path that begins with `../`"),
        ("../.git", "`extends` must be a path that begins with `../`"),
        (
            "../shared/../../x",
            "`extends` must be a path that begins with `../`",
        ),
        ("..", "`extends` must be a path that begins with `../`"),
        ("[]", "`extends` must be a string"),
    ] {
        world.write(
            "workspace.yaml",
            &format!("slug: acme-production\nextends: {path}\n"),
        );
        let ran = world.run(&["validate"]).exits(3).says(problem);
        let place = if path == "../second" {
            "../second/workspace.yaml"
        } else {
            "workspace.yaml:2:"
        };
        assert!(ran.err.contains(place), "{path}: {}", ran.err);
        world.run(&["plan"]).exits(3).says("nothing is planned");
        world.run(&["apply", "--yes"]).exits(3);
    }
    assert_eq!(world.updates().len(), 0);

    world.write("workspace.yaml", WORKSPACE);
    std::fs::remove_dir(root.join(".git")).unwrap();
    world.run(&["plan"]).exits(3).says("in no git checkout");
}

#[test]
fn overrides_without_a_shared_definition_are_errors_at_their_line() {
    let world = world();
    let guesty = "provider: GUESTY\nicon: null\nfieldsToSync:\n  listing: {add: [name]}\n";
    world.write("guesty.yaml", guesty);
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  calendar: {add: [name]}\n  listing: {add: [name], remove: [name]}\n",
    );
    let problems = |ran: crate::support::Ran| -> Vec<String> {
        let json = ran.exits(3).json();
        let problem = |it: &Value| {
            format!(
                "{} {} {}",
                it["file"].as_str().unwrap(),
                it["line"],
                it["code"].as_str().unwrap()
            )
        };
        json["diagnostics"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|it| it["severity"] == "error")
            .map(problem)
            .collect()
    };
    let json = ["validate", "--format", "json"];
    assert_eq!(
        problems(world.run(&json)),
        [
            "guesty.yaml 2 wrong-type",
            "guesty.yaml 4 invalid-value",
            "hostaway.yaml 4 invalid-value"
        ]
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  calendar: {add: [name]}\n",
    );
    assert!(problems(world.run(&json)).contains(&"hostaway.yaml 3 invalid-value".to_owned()));
    world.write("hostaway.yaml", "provider: HOSTAWAY\n");
    world
        .run(&["validate"])
        .exits(3)
        .says("the file changes nothing of `../shared/hostaway.yaml`");
    // A key without a value may be a half-written one.
    world.write("hostaway.yaml", "provider: HOSTAWAY\nicon:\n");
    assert!(problems(world.run(&json)).contains(&"hostaway.yaml 2 wrong-type".to_owned()));

    // Without `extends`, and in a shared file, both forms are errors.
    world.write("workspace.yaml", "slug: acme-production\n");
    world.write("hostaway.yaml", "provider: HOSTAWAY\nhold: null\n");
    assert_eq!(
        problems(world.run(&json)),
        [
            "guesty.yaml 2 wrong-type",
            "guesty.yaml 4 invalid-value",
            "hostaway.yaml 2 wrong-type"
        ]
    );
    std::fs::remove_file(world.definitions().join("guesty.yaml")).unwrap();
    std::fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    world.write("workspace.yaml", WORKSPACE);
    world.write_shared("hostaway.yaml", "provider: HOSTAWAY\n");
    world.write_shared("guesty.yaml", guesty);
    assert_eq!(
        problems(world.run(&json)),
        [
            "../shared/guesty.yaml 2 wrong-type",
            "../shared/guesty.yaml 4 invalid-value"
        ]
    );
}

#[test]
fn a_change_of_a_shared_file_is_a_change_of_the_branch_and_what_it_drops_is_loosened() {
    let checkout = checkout();
    let world = &checkout.world;
    world.write_shared("hostaway.yaml", &HOSTAWAY.replace("[guest]", "[]"));
    std::fs::write(
        world.dir.path().join(".git/HEAD"),
        "ref: refs/heads/topic\n",
    )
    .unwrap();
    checkout.commit("refs/heads/topic", &[checkout.main]);
    let plan = || {
        world
            .run(&["plan", "--base", "main", "--format", "json"])
            .exits(0)
            .json()
    };
    let origins = |plan: &Value| -> Vec<String> {
        let changes = plan["definitions"][1]["changes"].as_array().unwrap().iter();
        changes
            .map(|it| {
                format!(
                    "{} {}",
                    it["path"].as_str().unwrap(),
                    it["origin"].as_str().unwrap()
                )
            })
            .collect()
    };
    let now = plan();
    assert_eq!(now["revision"]["dirty"], false);
    assert!(origins(&now).contains(&"icon drift".to_owned()), "{now}");
    world.write_shared("hostaway.yaml", &HOSTAWAY.replace("shared.png", "new.png"));
    let now = plan();
    assert_eq!(now["revision"]["dirty"], true);
    assert!(origins(&now).contains(&"icon branch".to_owned()), "{now}");
    assert_eq!(now["loosened"], json!([]));

    // A part of the shared file, a part in this workspace, and all of it.
    world.write_shared(
        "hostaway.yaml",
        &HOSTAWAY.replace("icon: https://e.com/shared.png\n", ""),
    );
    assert_eq!(
        plan()["loosened"],
        json!([{"provider": "HOSTAWAY", "what": "part", "path": "icon"}])
    );
    world.write_shared("hostaway.yaml", HOSTAWAY);
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: null\n",
    );
    assert_eq!(
        plan()["loosened"],
        json!([{"provider": "HOSTAWAY", "what": "part", "path": "partnerKey.headers"}])
    );
    std::fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    world.write("guesty.yaml", "provider: GUESTY\n");
    world.write("workspace.yaml", "slug: acme-production\n");
    assert_eq!(
        plan()["loosened"],
        json!([{"provider": "HOSTAWAY", "what": "file", "path": "../shared/hostaway.yaml"}])
    );
}

#[test]
fn the_shared_directory_of_a_signed_commit_counts_and_no_link_in_it() {
    let checkout = checkout();
    let world = &checkout.world;
    let ada = Signer::new(1);
    let signers = checkout.allow(&[&ada]);
    let signed = checkout.signed(&ada, &[checkout.main]);
    let apply = ["apply", "--yes", "--allowed-signers", &signers];
    world.run(&apply).exits(0);
    assert_eq!(listing(world, "HOSTAWAY"), ["name", "rooms"]);

    // A change that is not committed.
    world.write_shared(
        "hostaway.yaml",
        &HOSTAWAY.replace("[name, rooms]", "[name]"),
    );
    world.run(&apply).exits(1).says("nothing is planned");
    let signed = checkout.signed(&ada, &[signed]);
    world.run(&apply).exits(0);
    assert_eq!(listing(world, "HOSTAWAY"), ["name"]);

    // A link in the commit, even to a directory of the repository.
    let shared = world.dir.path().join("shared");
    std::fs::rename(&shared, world.definitions().join("real")).unwrap();
    symlink("definitions/real", &shared).unwrap();
    world.write(
        "workspace.yaml",
        "slug: acme-production\nextends: ../shared/x\n",
    );
    checkout.signed(&ada, &[signed]);
    world.run(&apply).exits(3).says("does not exist");
}

#[test]
fn the_daemon_reconciles_when_a_shared_file_changes() {
    let world = world();
    let mut daemon = world.daemon(&["--interval", "1h"]);
    daemon.line("HOSTAWAY updated");
    world.write_shared(
        "hostaway.yaml",
        &HOSTAWAY.replace("[name, rooms]", "[pictures]"),
    );
    daemon.line("HOSTAWAY updated");
    assert_eq!(listing(&world, "HOSTAWAY"), ["pictures"]);
    // A new file, in the directory that replaced it.
    let shared = world.dir.path().join("shared");
    std::fs::rename(&shared, world.dir.path().join("before")).unwrap();
    world.write_shared(
        "hostaway.yaml",
        &HOSTAWAY.replace("[name, rooms]", "[pictures]"),
    );
    world.write_shared(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n",
    );
    daemon.line("GUESTY updated");
    assert_eq!(listing(&world, "GUESTY"), ["name"]);
}

#[test]
fn limits_count_both_directories_together() {
    let world = world();
    let fill = |directory: &Path, count: usize| {
        for n in 0..count {
            let file = std::fs::File::create(directory.join(format!("p{n}.yaml"))).unwrap();
            file.set_len(1 << 20).unwrap();
        }
    };
    fill(&world.definitions(), 40);
    fill(&world.dir.path().join("shared"), 24);
    world
        .run(&["validate"])
        .exits(3)
        .says("has too many or too large files");
}

#[test]
fn a_pull_writes_into_the_file_of_the_workspace_and_never_into_the_shared_directory() {
    let world = world();
    let shared = world.dir.path().join("shared/hostaway.yaml");
    let before = "provider: HOSTAWAY\nicon: https://e.com/shared.png\npartnerKey:\n  headers: {x-api-key: '${secret:shared-key}'}\n\
                  fieldsToSync:\n  listing: [rooms]\n";
    world.write_shared("hostaway.yaml", before);
    world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"] = json!({"headers": {"x-api-key": "a-shared-key", "x-new": "new"}});
    });
    let own = world.definitions().join("hostaway.yaml");
    let pull = || world.run(&["pull", "--only", "HOSTAWAY"]).exits(0);
    pull().says("hostaway.yaml created");
    let text = std::fs::read_to_string(&own).unwrap();
    assert!(
        text.contains("x-api-key: ${secret:shared-key}") && text.contains("- pictures"),
        "{text}"
    );
    assert_eq!(std::fs::read_to_string(&shared).unwrap(), before);
    let plan = world
        .run(&["plan", "--format", "json", "--secrets-unavailable"])
        .exits(0)
        .json();
    assert_eq!(plan["definitions"][1]["changes"], json!([]), "{plan}");

    // Of a file that changes the shared group, comments stay. Nothing is written for what is equal.
    world.write(
        "hostaway.yaml",
        "# Staging\nprovider: HOSTAWAY\npartnerKey:\n  headers: null\nfieldsToSync:\n  listing: {add: [name]}\n",
    );
    world
        .sandbox
        .modify("HOSTAWAY", |live| live["icon"] = Value::Null);
    pull().says("hostaway.yaml updated");
    let text = std::fs::read_to_string(&own).unwrap();
    assert!(
        text.starts_with("# Staging\nprovider: HOSTAWAY\n") && text.contains("icon: null\n"),
        "{text}"
    );
    assert!(!text.contains("add"), "{text}");
    world.run(&["plan", "--detailed-exitcode"]).exits(0);
    pull().says("There is nothing to write.");

    // A value in plain text is not copied.
    std::fs::remove_file(&own).unwrap();
    world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"]["headers"]["x-api-key"] = json!("public");
    });
    world.write_shared(
        "hostaway.yaml",
        &before.replace("'${secret:shared-key}'", "public"),
    );
    let ran = world.run(&["pull", "--only", "HOSTAWAY"]).exits(1);
    ran.says("cannot be edited in place");
    assert!(!own.exists());
}

#[test]
fn the_workspaces_of_the_daemons_configuration_file_are_validated_in_one_call() {
    let world = world();
    let staging = world.dir.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(
        staging.join("guesty.yaml"),
        "provider: GUESTY\nicon: null\n",
    )
    .unwrap();
    let validate = |config: &str| {
        std::fs::create_dir_all(world.dir.path().join("deploy")).unwrap();
        std::fs::write(world.dir.path().join("deploy/calry.yaml"), config).unwrap();
        world.run(&["validate", "--config", "deploy/calry.yaml"])
    };
    let keys = |definitions: &str| format!("apiKeyFile: key\n    definitions: {definitions}");
    let ran = validate(&format!(
        "workspaces:\n  - name: one\n    {}\n  - name: two\n    {}\n",
        keys("../definitions"),
        keys("../stag*")
    ))
    .exits(3);
    assert!(
        ran.out.starts_with("deploy/../definitions: 1 definition"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("staging/guesty.yaml:2"), "{}", ran.err);
    // The top of the file holds for a workspace without its own.
    validate("definitions: ../definitions\n").exits(0);
    for (config, why) in [
        ("interval: 1m\n", "names no directory of definitions"),
        ("definitions: ../no*\n", "no directory has such a name"),
        ("definition: x\n", "definition"),
    ] {
        let ran = validate(config).exits(64);
        assert!(ran.err.contains(why), "{}", ran.err);
    }
}

#[test]
fn a_pull_names_the_parts_that_another_workspace_has_as_well() {
    let world = world();
    let staging = world.dir.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    let write = |name: &str, text: &str| std::fs::write(staging.join(name), text).unwrap();
    write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: []\n",
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n",
    );
    let pull = || world.run(&["pull", "--only", "GUESTY"]).exits(0).out;
    // The live state has no field on, so that the files are equal from now on. Staging does not extend the directory.
    world.sandbox.modify("GUESTY", |live| {
        live["fieldsToSync"]["listing"]["name"] = json!(false);
    });
    write("workspace.yaml", "slug: acme-staging\n");
    assert!(!pull().contains("Equal in another workspace"));
    write("workspace.yaml", "slug: acme-staging\nextends: ../shared\n");
    let out = pull();
    assert!(
        out.contains("Equal in another workspace\n  guesty.yaml: listing\n    ../staging\n"),
        "{out}"
    );
    // What is in the shared directory is not to be moved, nor what differs.
    write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    assert!(!pull().contains("Equal in another workspace"));
}

/// What a file says of a part.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Nothing,
    Null,
    Value,
    /// For a group only.
    Delta,
}

/// A file with the icon, both sections, two groups and a hold, or the part of them that it says something of.
fn text_of(said: [Said; 6], from: &str, until: &str, fields: &str) -> String {
    let part = |said: Said, name: &str, value: &str| match said {
        Said::Nothing => String::new(),
        Said::Null => format!("{name}: null\n"),
        Said::Value => format!("{name}: {value}\n"),
        Said::Delta => format!("{name}: {{add: [{from}], remove: [rooms, nothing]}}\n"),
    };
    let below = |name: &str, parts: String| match parts.is_empty() {
        true => parts,
        false => format!("{name}:\n  {}\n", parts.trim_end().replace('\n', "\n  ")),
    };
    let [icon, headers, query, one, two, hold] = said;
    let values = format!("{{x-{from}: public}}");
    let key = part(headers, "headers", &values) + &part(query, "queryParams", &values);
    let groups = part(one, "listing", fields) + &part(two, "reservation", fields);
    [
        "provider: HOSTAWAY\n".to_owned(),
        part(icon, "icon", &format!("https://e.com/{from}.png")),
        below("partnerKey", key),
        below("fieldsToSync", groups),
        part(hold, "hold", &format!("{{until: {until}}}")),
    ]
    .concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The effect of every combination of what the two files say.
    #[test]
    fn each_part_is_what_the_own_file_says_of_it_or_else_the_shared_one(
        own in prop::array::uniform6(0..4_u8),
        shared in prop::array::uniform6(any::<bool>()),
    ) {
        let shared = shared.map(|is| if is { Said::Value } else { Said::Nothing });
        let mut said = own.map(|n| [Said::Nothing, Said::Null, Said::Value, Said::Delta][usize::from(n)]);
        for (n, said) in said.iter_mut().enumerate() {
            // There must be something to change, and only groups can be changed.
            let has_delta = matches!(n, 3 | 4) && shared[n] == Said::Value;
            if *said == Said::Delta && !has_delta {
                *said = Said::Value;
            }
        }
        if said == [Said::Nothing; 6] {
            said[0] = Said::Value;
        }
        let files = [
            ("workspace.yaml", WORKSPACE.to_owned()),
            ("hostaway.yaml", text_of(said, "own", "2099-01-01", "[own]")),
            ("../shared/hostaway.yaml", text_of(shared, "shared", "2099-02-02", "[shared, rooms]")),
        ];
        let loaded = load_texts(files.iter().map(|(name, text)| (*name, text.clone().into_bytes())));
        let is_valid = !loaded.has_errors();
        // A `null` without a shared part says nothing that a missing part does not: it may be refused.
        prop_assert!(is_valid || said.contains(&Said::Null), "{:?}\n{files:?}", loaded.diagnostics);
        prop_assume!(is_valid);
        let file = &loaded.files[0];
        let desired = file.desired.as_ref().unwrap();
        let source = file.shared.as_deref().cloned().unwrap_or_default();
        let groups = |name: &str| {
            let fields = desired.fields.get(name)?;
            Some(fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let section = |section: KeySection| {
            let values = desired.partner_key.section(section)?;
            Some(values.keys().cloned().collect::<Vec<_>>().join(" "))
        };
        let found = [
            desired.icon.as_ref().map(|icon| icon.as_str().to_owned()),
            section(KeySection::Headers),
            section(KeySection::QueryParams),
            groups("listing"),
            groups("reservation"),
            desired.hold.as_ref().map(|hold| hold.until.to_string()),
        ];
        let is_shared = [
            source.icon,
            source.sections.contains(&KeySection::Headers),
            source.sections.contains(&KeySection::QueryParams),
            source.groups.contains_key("listing"),
            source.groups.contains_key("reservation"),
            source.hold,
        ];
        let own = ["https://e.com/own.png", "x-own", "x-own", "own", "own", "2099-01-01"];
        let other = ["https://e.com/shared.png", "x-shared", "x-shared", "rooms shared", "rooms shared", "2099-02-02"];
        for n in 0..6 {
            let expected = match said[n] {
                Said::Nothing => (shared[n] == Said::Value).then_some(other[n]),
                Said::Null => None,
                Said::Value => Some(own[n]),
                Said::Delta => Some("own shared"),
            };
            prop_assert_eq!(found[n].as_deref(), expected, "part {}\n{:?}", n, files);
            let takes = matches!(said[n], Said::Nothing | Said::Delta) && shared[n] == Said::Value;
            prop_assert_eq!(is_shared[n], takes, "part {}\n{:?}", n, files);
        }
    }
}
