//! No name that is unknown is sent, what Calry added can be taught, and what Calry hides makes no name unknown.

use crate::support::{World, live};
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
