//! The seven traps of the API, each against a sandbox that reads each ambiguity either way.

use crate::support::{World, live};
use calry_gitops::model::UpdateMethod;
use calry_gitops::sandbox::{
    AcrossGroups, Config, Mask, PartialPartnerKey, PutAbsent, Semantics, SpecifiedFields,
};
use serde_json::{Value, json};

/// Every reading of the API that its documentation allows.
fn readings() -> Vec<Semantics> {
    let mut all = Vec::new();
    for fields in [
        SpecifiedFields::TrueMeansTrue,
        SpecifiedFields::PresentMeansTrue,
    ] {
        for across_groups in [AcrossGroups::Yes, AcrossGroups::No] {
            for partner_key in [PartialPartnerKey::Merges, PartialPartnerKey::Replaces] {
                for put_absent in [PutAbsent::Clears, PutAbsent::Keeps] {
                    all.push(Semantics {
                        fields,
                        across_groups,
                        partner_key,
                        put_absent,
                        mask: Mask::Never,
                    });
                }
            }
        }
    }
    all
}

/// A world whose Calry has definitions of any form.
fn world_with(definitions: &[&Value]) -> World {
    let names: Vec<_> = definitions
        .iter()
        .map(|definition| definition["provider"].as_str().unwrap())
        .collect();
    let world = World::with(
        names.iter().map(|name| live(name, &[], &[])).collect(),
        Config::default(),
    );
    for (name, definition) in names.iter().zip(definitions) {
        world.sandbox.set_definition(name, (*definition).clone());
    }
    world
}

fn with_key(mut definition: Value, key: Value) -> Value {
    definition["partnerKey"] = key;
    definition
}

#[test]
fn trap_1_switching_one_field_on_switches_no_other_off() {
    let before = live("HOSTAWAY", &["name", "rooms"], &["pictures", "rating"]);
    let world = World::with(json!([before]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, rooms, pictures]\n",
    );
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes"]).exits(0);
        let fields = &world.live("HOSTAWAY")["fieldsToSync"]["listing"];
        assert_eq!(
            *fields,
            json!({"name": true, "rooms": true, "pictures": true, "rating": false}),
            "{semantics:?}"
        );
    }
}

#[test]
fn trap_2_an_update_names_only_fields_that_are_on() {
    let before = live("HOSTAWAY", &["name", "rating"], &["pictures"]);
    let world = World::with(json!([before]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: {name: true, rating: false, pictures: true}\n",
    );
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes"]).exits(0);
        let sent = world.updates().last().unwrap().body.clone().unwrap();
        assert_eq!(
            sent,
            json!({"fieldsToSync": {"listing": {"name": true, "pictures": true}}})
        );
        let fields = &world.live("HOSTAWAY")["fieldsToSync"]["listing"];
        assert_eq!(
            *fields,
            json!({"name": true, "pictures": true, "rating": false}),
            "{semantics:?}"
        );
    }
}

#[test]
fn trap_3_an_unmanaged_group_is_never_switched_off() {
    let mut before = live("HOSTAWAY", &["name"], &["pictures"]);
    before["fieldsToSync"]["rates"] = json!({"nightly": true, "weekly": false});
    let world = World::with(json!([before]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes"]).exits(0);
        let fields = &world.live("HOSTAWAY")["fieldsToSync"];
        assert_eq!(
            fields["rates"], before["fieldsToSync"]["rates"],
            "{semantics:?}"
        );
        assert_eq!(fields["listing"]["pictures"], true);
    }
}

#[test]
fn trap_4_the_unmanaged_half_of_a_partner_key_survives() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &[]),
        json!({"headers": {"x-api-key": "old-value", "x-gone": "old-gone"}, "queryParams": {"client_id": "kept-value"}}),
    );
    let mut world = World::with(json!([before]), Config::default());
    world.env("CALRY_SECRET_NEW", "new-value");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${secret:new}\n    x-gone: ${secret:new}\n",
    );
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes"]).exits(0);
        let key = &world.live("HOSTAWAY")["partnerKey"];
        assert_eq!(
            *key,
            json!({"headers": {"x-api-key": "new-value", "x-gone": "new-value"}, "queryParams": {"client_id": "kept-value"}}),
            "{semantics:?}"
        );
    }
}

#[test]
fn trap_4_a_part_of_a_partner_key_that_is_unknown_is_not_destroyed() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &["pictures"]),
        json!({"headers": {"x-api-key": "old-value"}, "queryParams": {}, "cookies": {"sid": "kept-value"}}),
    );
    let mut world = world_with(&[&before]);
    world.env("CALRY_SECRET_NEW", "new-value");
    let file = "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n";
    world.write(
        "hostaway.yaml",
        &format!("{file}fieldsToSync:\n  listing: [name, pictures]\n"),
    );
    world
        .run(&["plan"])
        .exits(1)
        .says("partnerKey is not sent")
        .says("`partnerKey.cookies`");
    let json = world
        .run(&["apply", "--yes", "--format", "json"])
        .exits(1)
        .json();
    assert_eq!(json["definitions"][0]["outcome"], "failed");
    let error = json["definitions"][0]["error"].as_str().unwrap();
    assert!(
        error.contains("`partnerKey.cookies` is unknown") && !error.contains("kept-value"),
        "{error}"
    );
    let after = world.live("HOSTAWAY");
    assert_eq!(
        (
            &after["partnerKey"],
            &after["fieldsToSync"]["listing"]["pictures"]
        ),
        (&before["partnerKey"], &json!(true))
    );
    // Nothing is left that could be sent.
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("partnerKey is not sent");
    assert_eq!(world.updates().len(), 1);
    // A partner key that is as it should be is in sync, whatever else Calry keeps in it.
    world.env("CALRY_SECRET_NEW", "old-value");
    world.run(&["plan", "--detailed-exitcode"]).exits(0);
}

#[test]
fn trap_5_under_put_nothing_unmanaged_is_cleared() {
    let mut before = with_key(
        live("HOSTAWAY", &["name"], &["pictures"]),
        json!({"headers": {"x-api-key": "kept-value"}}),
    );
    before["icon"] = json!("https://cdn.example.com/kept.png");
    let world = World::with(
        json!([before]),
        Config {
            update_method: UpdateMethod::Put,
            ..Config::default()
        },
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world
            .run(&["apply", "--yes", "--update-method", "put"])
            .exits(0);
        let after = world.live("HOSTAWAY");
        assert_eq!(after["icon"], before["icon"], "{semantics:?}");
        assert_eq!(after["partnerKey"], before["partnerKey"], "{semantics:?}");
        assert_eq!(after["fieldsToSync"]["listing"]["pictures"], true);
        assert_eq!(world.updates().last().unwrap().method, "PUT");
    }
}

#[test]
fn trap_5_under_patch_only_what_differs_is_sent() {
    let mut before = with_key(
        live("HOSTAWAY", &["name"], &[]),
        json!({"headers": {"x-api-key": "kept-value"}}),
    );
    before["icon"] = json!("https://cdn.example.com/old.png");
    let world = World::with(json!([before]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://cdn.example.com/new.png\nfieldsToSync:\n  listing: [name]\n",
    );
    world.run(&["apply", "--yes"]).exits(0);
    let sent = world.updates().last().unwrap().body.clone().unwrap();
    assert_eq!(sent, json!({"icon": "https://cdn.example.com/new.png"}));
}

#[test]
fn trap_6_a_200_alone_is_no_success() {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["pictures"])]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, currency]\n",
    );
    let ran = world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("not converged");
    assert!(
        ran.out
            .contains("fieldsToSync.listing.currency: sent true, Calry kept nothing"),
        "{}",
        ran.out
    );
    let json = world
        .run(&["apply", "--yes", "--format", "json"])
        .exits(1)
        .json();
    let definition = &json["definitions"][0];
    assert_eq!(definition["outcome"], "notConverged");
    assert_eq!(
        definition["notConverged"][0]["path"],
        "fieldsToSync.listing.currency"
    );
}

#[test]
fn trap_7_a_masked_value_is_never_carried_over() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &[]),
        json!({"headers": {"x-api-key": "old-value"}, "queryParams": {"client_id": "kept-value"}}),
    );
    let mut world = World::with(json!([before]), Config::default());
    world.env("CALRY_SECRET_NEW", "new-value");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n",
    );
    world.sandbox.set_semantics(Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    });
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("bring partnerKey.queryParams into the file");
    assert!(world.updates().is_empty());
    assert_eq!(world.live("HOSTAWAY"), before);

    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n  queryParams: {client_id: kept-value}\n",
    );
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "new-value"
    );
}

#[test]
fn trap_7_a_value_that_is_masked_in_part_is_never_carried_over_and_holds_nothing_else_back() {
    let mut world = World::with(
        json!([live("HOSTAWAY", &["name"], &["pictures"])]),
        Config::default(),
    );
    world.env("CALRY_SECRET_NEW", "new-value");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    for shown in [
        "sk-********1234",
        "xxxx1234",
        "[REDACTED]",
        "<hidden>",
        "●●●●",
        "…",
        "***redacted***",
    ] {
        let before = with_key(
            live("HOSTAWAY", &["name"], &["pictures"]),
            json!({"headers": {"x-api-key": "old-value"}, "queryParams": {"client_secret": shown}}),
        );
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        let ran = world
            .run(&["apply", "--yes"])
            .exits(1)
            .says("bring partnerKey.queryParams into the file");
        assert!(
            shown == "…" || !(ran.out.contains(shown) || ran.err.contains(shown)),
            "{ran:?}"
        );
        let sent = world.updates().last().unwrap().body.clone().unwrap();
        assert_eq!(
            sent,
            json!({"fieldsToSync": {"listing": {"name": true, "pictures": true}}}),
            "{shown}"
        );
        let after = world.live("HOSTAWAY");
        assert_eq!(
            (
                &after["partnerKey"],
                &after["fieldsToSync"]["listing"]["pictures"]
            ),
            (&before["partnerKey"], &json!(true))
        );
    }
    world
        .run(&["plan"])
        .exits(1)
        .says("partnerKey.queryParams.client_secret may be a mask");
}

#[test]
fn trap_7_a_value_that_looks_like_a_mask_can_be_applied() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &[]),
        json!({"headers": {"x-api-key": "old-value"}}),
    );
    let mut world = World::with(json!([before]), Config::default());
    world.env("CALRY_SECRET_NEW", "abcXXXdef");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n",
    );
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "abcXXXdef"
    );
    world.run(&["plan", "--detailed-exitcode"]).exits(0);
    // Another value of that kind is unknown, and is sent.
    world.env("CALRY_SECRET_NEW", "abcXXXghi");
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "abcXXXghi"
    );
}

#[test]
fn trap_7_under_put_a_masked_partner_key_blocks_every_update_of_its_provider() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &["pictures"]),
        json!({"headers": {"x-api-key": "kept-value"}}),
    );
    let world = World::with(
        json!([before]),
        Config {
            update_method: UpdateMethod::Put,
            ..Config::default()
        },
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    world.sandbox.set_semantics(Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    });
    world
        .run(&["apply", "--yes", "--update-method", "put"])
        .exits(1)
        .says("bring partnerKey.headers into the file");
    assert_eq!(world.live("HOSTAWAY"), before);
}

#[test]
fn trap_7_a_daemon_sends_a_masked_value_once_and_again_only_when_it_changed() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &[]),
        json!({"headers": {"x-api-key": "old-value"}}),
    );
    let mut world = World::with(json!([before]), Config::default());
    let secrets = world.dir.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("new"), "first-value\n").unwrap();
    world.env("CALRY_SECRETS_DIR", secrets.to_str().unwrap());
    world.sandbox.set_semantics(Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    });
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n",
    );
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line("HOSTAWAY updated");
    daemon.line("reconciliation 3 ");
    assert_eq!(world.updates().len(), 1);
    std::fs::write(secrets.join("new"), "second-value\n").unwrap();
    daemon.line("HOSTAWAY updated");
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "second-value"
    );
    assert_eq!(world.updates().len(), 2);
    // A click changes the masked value.
    world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"]["headers"]["x-api-key"] = json!("a click")
    });
    daemon.line("HOSTAWAY drifted; drift undone");
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "second-value"
    );
    daemon.line("1 in sync");
    daemon.line("1 in sync");
    assert_eq!(world.updates().len(), 3);
}

fn answers_with(value: Value) -> Value {
    let mut definition = live("HOSTAWAY", &["name"], &["pictures"]);
    definition["partnerKey"] = json!({"headers": {"x-api-key": "old-value"}});
    definition["fieldsToSync"]["reservation"] = value;
    definition
}

const MANAGED: &str = "provider: HOSTAWAY\nicon: https://cdn.example.com/new.png\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n";

#[test]
fn a_group_that_cannot_be_read_keeps_only_the_fields_from_being_updated() {
    for strange in [json!({"price": "yes"}), json!("hunter2"), json!([1])] {
        let before = answers_with(strange);
        let mut world = world_with(&[&before, &live("GUESTY", &["name"], &["pictures"])]);
        world.env("CALRY_SECRET_NEW", "new-value");
        world.write(
            "hostaway.yaml",
            &format!("{MANAGED}fieldsToSync:\n  listing: [name, pictures]\n"),
        );
        world.write(
            "guesty.yaml",
            "provider: GUESTY\nfieldsToSync:\n  listing: [name, pictures]\n",
        );
        let ran = world
            .run(&["apply", "--yes", "--strict"])
            .exits(1)
            .says("`fieldsToSync.reservation");
        assert!(!ran.out.contains("hunter2"), "{}", ran.out);
        let after = world.live("HOSTAWAY");
        assert_eq!(after["fieldsToSync"], before["fieldsToSync"]);
        assert_eq!(after["icon"], "https://cdn.example.com/new.png");
        assert_eq!(after["partnerKey"]["headers"]["x-api-key"], "new-value");
        assert_eq!(
            world.live("GUESTY")["fieldsToSync"]["listing"]["pictures"],
            true
        );
        // Where no managed field differs, nothing is due.
        world.write(
            "hostaway.yaml",
            &format!("{MANAGED}fieldsToSync:\n  listing: [name]\n"),
        );
        world
            .run(&["plan", "--strict", "--detailed-exitcode"])
            .exits(0);
    }
}

#[test]
fn a_managed_part_that_cannot_be_read_is_neither_in_sync_nor_the_files_fault() {
    let unreadable = |change: &dyn Fn(&mut Value)| {
        let mut before = answers_with(json!({"price": true}));
        change(&mut before);
        before
    };
    let cases = [
        unreadable(&|live| live["fieldsToSync"]["listing"]["type"] = json!("yes")),
        unreadable(&|live| live["fieldsToSync"] = Value::Null),
        unreadable(&|live| live["partnerKey"]["headers"]["x-api-key"] = json!(12_345_678)),
        unreadable(&|live| live["partnerKey"] = json!(["hunter2"])),
        unreadable(&|live| live["icon"] = json!(12_345_678)),
    ];
    for before in cases {
        let mut world = world_with(&[&before]);
        world.env("CALRY_SECRET_NEW", "old-value");
        let icon = before["icon"]
            .is_null()
            .then(|| MANAGED.replace("icon: https://cdn.example.com/new.png\n", ""));
        world.write(
            "hostaway.yaml",
            &format!(
                "{}fieldsToSync:\n  listing: [name]\n",
                icon.as_deref().unwrap_or(MANAGED)
            ),
        );
        let json = world.run(&["plan", "--format", "json"]).exits(1).json();
        assert_eq!(json["definitions"][0]["state"], "unreadable", "{json:#}");
        assert_eq!(
            (&json["summary"]["unreadable"], &json["summary"]["invalid"]),
            (&json!(1), &json!(0))
        );
        let shown = json.to_string();
        assert!(
            !shown.contains("hunter2") && !shown.contains("12345678"),
            "{shown}"
        );
        world.run(&["apply", "--yes"]).exits(1);
        assert!(world.updates().is_empty());
        assert_eq!(
            world.live("HOSTAWAY")["fieldsToSync"],
            before["fieldsToSync"]
        );
    }
}

#[test]
fn a_null_field_is_absent() {
    let mut before = live("HOSTAWAY", &["name"], &["pictures"]);
    before["fieldsToSync"]["listing"]["later"] = Value::Null;
    before["fieldsToSync"]["rates"] = Value::Null;
    before["icon"] = Value::Null;
    let world = world_with(&[&before]);
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    world.run(&["apply", "--yes", "--strict"]).exits(0);
    assert_eq!(
        world.live("HOSTAWAY")["fieldsToSync"]["listing"]["pictures"],
        true
    );
}
