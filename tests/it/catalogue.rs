//! No name that is unknown is sent, what Calry added can be taught, and what Calry hides makes no name unknown.

use crate::support::{Daemon, World, live, until};
use calry_gitops::sandbox::Config;
use serde_json::{Value, json};

fn state(json: &Value, provider: &str) -> Value {
    json["definitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["provider"] == provider)
        .unwrap()["state"]
        .clone()
}

/// A world of two providers, of which GUESTY has a change that is due.
fn world(hostaway: &str) -> World {
    let live = [
        live("HOSTAWAY", &["name", "rooms"], &["pictures"]),
        live("GUESTY", &["name"], &["pictures"]),
    ];
    let world = World::with(json!(live), Config::default());
    world.write(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\nfieldsToSync: {hostaway}\n"),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    world
}

#[test]
fn a_misspelled_or_unheard_of_name_is_never_sent_and_stops_no_other_provider() {
    for (groups, name) in [
        ("{listing: [name, romms]}", "`romms`"),
        ("{listing: {name: true, unheardOf: true}}", "`unheardOf`"),
        ("{reservation: [name]}", "`reservation`"),
    ] {
        let world = world(groups);
        let before = world.live("HOSTAWAY");
        let plan = world
            .run(&["plan", "--format", "json"])
            .exits(3)
            .says("error[unknown-field]")
            .says(name)
            .json();
        assert_eq!(
            (state(&plan, "HOSTAWAY"), state(&plan, "GUESTY")),
            (json!("invalid"), json!("update"))
        );
        world.run(&["apply", "--yes"]).exits(3);
        assert_eq!(world.updates().len(), 0);
        world.run(&["run", "--once"]).exits(3);
        assert_eq!(world.updates().len(), 1);
        assert_eq!(
            world.live("GUESTY")["fieldsToSync"]["listing"]["pictures"],
            true
        );
        assert_eq!(world.live("HOSTAWAY"), before);
    }
}

#[test]
fn what_calry_added_is_learned_by_pull_and_schema_and_passes_the_strictest_check() {
    let mut newcomer = live("NEWCOMER", &["name", "petFee"], &["no"]);
    newcomer["fieldsToSync"]["reservation"] = json!({"price": true, "guest": false});
    newcomer["fieldsToSync"]["later"] = json!({"daily": false});
    let world = World::with(
        json!([newcomer, live("GUESTY", &[], &["name"])]),
        Config::default(),
    );
    world.run(&["pull"]).exits(0);
    world.run(&["validate", "--strict"]).exits(0);
    world
        .run(&["plan", "--strict", "--detailed-exitcode"])
        .exits(0);

    // A colleague's checkout without the names, and the way that the message shows.
    let schema = world.definitions().join("definition.schema.json");
    std::fs::remove_file(&schema).unwrap();
    world
        .run(&["validate"])
        .exits(0)
        .says("warning[unknown-provider]")
        .says("schema --from-live");
    world.run(&["validate", "--strict"]).exits(3);
    std::fs::write(&schema, world.run(&["schema", "--from-live"]).exits(0).out).unwrap();
    world.run(&["validate", "--strict"]).exits(0);
    // With --only, the schema loses no name.
    world.run(&["pull", "--only", "GUESTY"]).exits(0);
    world.run(&["validate", "--strict"]).exits(0);
    world.run(&["schema", "workspace", "--from-live"]).exits(64);
}

#[test]
fn a_definition_that_cannot_be_read_is_reported_as_that_and_never_as_an_unknown_name() {
    let broken = live("HOSTAWAY", &["name"], &[]);
    let world = World::with(
        json!([broken.clone(), live("GUESTY", &["name"], &["pictures"])]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n  reservation: [price]\n",
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    let mut unreadable = broken;
    unreadable["fieldsToSync"]["reservation"] = json!({"price": "yes"});
    world.sandbox.set_definition("HOSTAWAY", unreadable);
    for args in [
        &["apply", "--yes", "--strict"][..],
        &["plan", "--strict"],
        &["run", "--once", "--strict"],
    ] {
        let ran = world.run(args).says("price");
        assert!(
            ran.code != 3 && !ran.err.contains("unknown-field"),
            "{args:?}: {}",
            ran.err
        );
    }
    assert_eq!(
        world.live("GUESTY")["fieldsToSync"]["listing"]["pictures"],
        true
    );
    world.run(&["schema", "--from-live"]).exits(1).says("price");
}

#[test]
fn under_strict_a_pin_in_capitals_keeps_everything_from_being_written() {
    let world = World::with(
        json!([live("GUESTY", &["name"], &["pictures"])]),
        Config::default(),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    world.write("Workspace.yaml", "slug: another\n");
    for args in [
        &["apply", "--yes", "--strict"][..],
        &["run", "--once", "--strict"],
    ] {
        world.run(args).exits(3);
        assert_eq!(
            world.live("GUESTY")["fieldsToSync"]["listing"]["pictures"],
            false,
            "{args:?}"
        );
    }
}

// What appears in Calry, or vanishes

fn of_guesty(workspace: &str) -> World {
    let world = World::with(
        json!([
            live("GUESTY", &["name"], &["rooms"]),
            live("TOKEET", &[], &["name"])
        ]),
        Config::default(),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n",
    );
    world.write(
        "workspace.yaml",
        &format!("slug: acme-production\n{workspace}"),
    );
    world
}

fn daemon(world: &World) -> Daemon {
    let mut daemon = world.daemon(&["--interval", "1h", "--state-dir", "state"]);
    daemon.line("reconciliation 1 ");
    daemon
}

fn reconcile(daemon: &mut Daemon) {
    daemon.signal("HUP");
    daemon.line("(request)");
}

fn metric(daemon: &mut Daemon, name: &str) -> f64 {
    let page = daemon.get("/metrics").body;
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn what_appears_in_calry_or_vanishes_is_reported_once() {
    let world = of_guesty("");
    let mut running = daemon(&world);
    assert_eq!(running.status()["catalogue"], Value::Null);
    world
        .sandbox
        .set_definition("BOOM", live("BOOM", &["name"], &["videoTour"]));
    world.sandbox.remove_definition("TOKEET");
    world.sandbox.modify("GUESTY", |live| {
        live["fieldsToSync"]["rates"] = json!({"daily": false});
    });
    let sentence = "new in Calry: provider BOOM, field listing.videoTour, group rates; \
                    gone from Calry: provider TOKEET";
    running.signal("HUP");
    running.line(sentence);
    running.line("(request)");
    reconcile(&mut running);
    assert_eq!(running.count_lines("new in Calry"), 1);
    let notices = running.status()["catalogue"].clone();
    assert_eq!(notices.as_array().unwrap().len(), 1);
    assert_eq!(
        notices[0]["appeared"][0],
        json!({"kind": "provider", "name": "BOOM"})
    );
    let changes = "calry_gitops_catalogue_changes_total";
    assert_eq!(metric(&mut running, changes), 4.0);
    assert!(
        running
            .get("/")
            .body
            .contains("New in Calry: provider BOOM")
    );
    let address = format!("http://{}", running.address());
    world
        .run(&["status", "--address", &address])
        .exits(0)
        .says("catalogue");
    let reported = || {
        let ran = world.run(&["history", "--state-dir", "state", "--format", "json"]);
        let events = ran.exits(0).json()["events"].as_array().unwrap().clone();
        let news = events.iter();
        news.filter(|event| event["event"] == "catalogueChanged")
            .count()
    };
    until("it is in the history", || reported() == 1);

    // After a restart it is known, and what changed meanwhile is not missed.
    drop(running);
    world.sandbox.remove_definition("BOOM");
    let mut restarted = world.daemon(&["--interval", "1h", "--state-dir", "state"]);
    restarted.line("gone from Calry: provider BOOM, field listing.videoTour");
    restarted.line("reconciliation 1 ");
    assert_eq!(restarted.count_lines("new in Calry"), 0);
    until("both are in the history", || reported() == 2);
}

#[test]
fn with_require_files_a_provider_without_a_file_is_an_error_that_stops_no_other() {
    let world = of_guesty("requireFiles: true\n");
    let help = "run `calry-gitops pull --only TOKEET`, or add it to `unmanaged`";
    let plan = world
        .run(&["plan", "--format", "json"])
        .exits(3)
        .says("error[no-file]: TOKEET is in Calry and has no file")
        .says(help)
        .says("workspace.yaml:2:1")
        .json();
    assert_eq!(state(&plan, "GUESTY"), "inSync");
    world.run(&["plan", "--only", "GUESTY"]).exits(0);
    world.run(&["validate"]).exits(0);

    world.sandbox.modify("GUESTY", |live| {
        live["fieldsToSync"]["listing"]["name"] = json!(false);
    });
    let mut daemon = daemon(&world);
    assert_eq!(
        world.live("GUESTY")["fieldsToSync"]["listing"]["name"],
        true
    );
    let without = "calry_gitops_providers_without_file";
    assert_eq!(metric(&mut daemon, without), 1.0);
    assert_eq!(daemon.count_lines("TOKEET is in Calry and has no file"), 1);
    assert_eq!(daemon.status()["diagnostics"][0]["code"], "no-file");
    until("it is in the history", || {
        let ran = world.run(&["history", "--state-dir", "state"]);
        ran.exits(0).out.contains("TOKEET")
    });

    world.write(
        "workspace.yaml",
        "slug: acme-production\nrequireFiles: true\nunmanaged: [TOKEET]\n",
    );
    reconcile(&mut daemon);
    assert_eq!(metric(&mut daemon, without), 0.0);
    world.run(&["plan"]).exits(0);
    // The advice ends the error, and is not repeated while it is followed.
    world.write(
        "workspace.yaml",
        "slug: acme-production\nrequireFiles: true\n",
    );
    world
        .run(&["pull", "--only", "TOKEET"])
        .exits(0)
        .does_not_say("no-file");
    world.run(&["plan"]).exits(0);
}

#[test]
fn what_is_unmanaged_and_has_a_file_is_a_contradiction() {
    let world = of_guesty("unmanaged: [GUESTY, TOKEET]\n");
    world
        .run(&["validate"])
        .exits(3)
        .says("error[invalid-value]: `unmanaged` lists GUESTY, but GUESTY has a file")
        .says("remove GUESTY from `unmanaged`, or remove its file")
        .says("1 error in 1 file")
        .does_not_say("TOKEET has");
    for (bad, says) in [
        ("unmanaged: GUESTY", "`unmanaged` must be a list"),
        ("unmanaged: [guesty]", "error[invalid-value]"),
        ("unmanaged: [TOKEET, BOOM, TOKEET]", "error[duplicate-key]"),
        (
            "requireFiles: 'yes'",
            "`requireFiles` must be `true` or `false`, not a string",
        ),
        (
            "requireFiles: 1",
            "`requireFiles` must be `true` or `false`, not a number\n",
        ),
        (
            "requireFiles: True",
            "`requireFiles` must be `true` or `false`, not a boolean in another spelling",
        ),
    ] {
        of_guesty(&format!("{bad}\n"))
            .run(&["validate"])
            .exits(3)
            .says(says);
    }
}
