//! The seven traps of the API, each against a sandbox that reads each ambiguity either way.

mod support;

use calry_gitops::model::UpdateMethod;
use calry_gitops::sandbox::{AcrossGroups, Config, Mask, PartialPartnerKey, PutAbsent, Semantics, SpecifiedFields};
use serde_json::{Value, json};
use support::{World, live};

/// Every reading of the API that its documentation allows.
fn readings() -> Vec<Semantics> {
    let mut all = Vec::new();
    for fields in [SpecifiedFields::TrueMeansTrue, SpecifiedFields::PresentMeansTrue] {
        for across_groups in [AcrossGroups::Yes, AcrossGroups::No] {
            for partner_key in [PartialPartnerKey::Merges, PartialPartnerKey::Replaces] {
                for put_absent in [PutAbsent::Clears, PutAbsent::Keeps] {
                    all.push(Semantics { fields, across_groups, partner_key, put_absent, mask: Mask::Never });
                }
            }
        }
    }
    all
}

fn with_key(mut definition: Value, key: Value) -> Value {
    definition["partnerKey"] = key;
    definition
}

#[test]
fn trap_1_switching_one_field_on_switches_no_other_off() {
    let before = live("HOSTAWAY", &["name", "rooms"], &["pictures", "rating"]);
    let world = World::with(json!([before]), Config::default());
    world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, rooms, pictures]\n");
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes"]).exits(0);
        let fields = &world.live("HOSTAWAY")["fieldsToSync"]["listing"];
        assert_eq!(*fields, json!({"name": true, "rooms": true, "pictures": true, "rating": false}), "{semantics:?}");
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
        assert_eq!(sent, json!({"fieldsToSync": {"listing": {"name": true, "pictures": true}}}));
        let fields = &world.live("HOSTAWAY")["fieldsToSync"]["listing"];
        assert_eq!(*fields, json!({"name": true, "pictures": true, "rating": false}), "{semantics:?}");
    }
}

#[test]
fn trap_3_an_unmanaged_group_is_never_switched_off() {
    let mut before = live("HOSTAWAY", &["name"], &["pictures"]);
    before["fieldsToSync"]["rates"] = json!({"nightly": true, "weekly": false});
    let world = World::with(json!([before]), Config::default());
    world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n");
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes"]).exits(0);
        let fields = &world.live("HOSTAWAY")["fieldsToSync"];
        assert_eq!(fields["rates"], before["fieldsToSync"]["rates"], "{semantics:?}");
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
fn trap_5_under_put_nothing_unmanaged_is_cleared() {
    let mut before =
        with_key(live("HOSTAWAY", &["name"], &["pictures"]), json!({"headers": {"x-api-key": "kept-value"}}));
    before["icon"] = json!("https://cdn.example.com/kept.png");
    let world = World::with(json!([before]), Config { update_method: UpdateMethod::Put, ..Config::default() });
    world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n");
    for semantics in readings() {
        world.sandbox.set_definition("HOSTAWAY", before.clone());
        world.sandbox.set_semantics(semantics);
        world.run(&["apply", "--yes", "--update-method", "put"]).exits(0);
        let after = world.live("HOSTAWAY");
        assert_eq!(after["icon"], before["icon"], "{semantics:?}");
        assert_eq!(after["partnerKey"], before["partnerKey"], "{semantics:?}");
        assert_eq!(after["fieldsToSync"]["listing"]["pictures"], true);
        assert_eq!(world.updates().last().unwrap().method, "PUT");
    }
}

#[test]
fn trap_5_under_patch_only_what_differs_is_sent() {
    let mut before = with_key(live("HOSTAWAY", &["name"], &[]), json!({"headers": {"x-api-key": "kept-value"}}));
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
    let world = World::with(json!([live("HOSTAWAY", &["name"], &["pictures"])]), Config::default());
    world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, currency]\n");
    let ran = world.run(&["apply", "--yes"]).exits(1).says("not converged");
    assert!(ran.out.contains("fieldsToSync.listing.currency: sent true, Calry kept nothing"), "{}", ran.out);
    let json = world.run(&["apply", "--yes", "--format", "json"]).exits(1).json();
    let definition = &json["definitions"][0];
    assert_eq!(definition["outcome"], "notConverged");
    assert_eq!(definition["notConverged"][0]["path"], "fieldsToSync.listing.currency");
}

#[test]
fn trap_7_a_masked_value_is_never_carried_over() {
    let before = with_key(
        live("HOSTAWAY", &["name"], &[]),
        json!({"headers": {"x-api-key": "old-value"}, "queryParams": {"client_id": "kept-value"}}),
    );
    let mut world = World::with(json!([before]), Config::default());
    world.env("CALRY_SECRET_NEW", "new-value");
    world.write("hostaway.yaml", "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n");
    world.sandbox.set_semantics(Semantics { mask: Mask::Always, ..Semantics::default() });
    world.run(&["apply", "--yes"]).exits(1).says("bring partnerKey.queryParams into the file");
    assert!(world.updates().is_empty());
    assert_eq!(world.live("HOSTAWAY"), before);

    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n  queryParams: {client_id: kept-value}\n",
    );
    world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"], "new-value");
}

#[test]
fn trap_7_under_put_a_masked_partner_key_blocks_every_update_of_its_provider() {
    let before = with_key(live("HOSTAWAY", &["name"], &["pictures"]), json!({"headers": {"x-api-key": "kept-value"}}));
    let world = World::with(json!([before]), Config { update_method: UpdateMethod::Put, ..Config::default() });
    world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n");
    world.sandbox.set_semantics(Semantics { mask: Mask::Always, ..Semantics::default() });
    world.run(&["apply", "--yes", "--update-method", "put"]).exits(1).says("bring partnerKey.headers into the file");
    assert_eq!(world.live("HOSTAWAY"), before);
}

#[test]
fn trap_7_a_daemon_sends_a_masked_value_once_and_again_only_when_it_changed() {
    let before = with_key(live("HOSTAWAY", &["name"], &[]), json!({"headers": {"x-api-key": "old-value"}}));
    let mut world = World::with(json!([before]), Config::default());
    let secrets = world.dir.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("new"), "first-value\n").unwrap();
    world.env("CALRY_SECRETS_DIR", secrets.to_str().unwrap());
    world.sandbox.set_semantics(Semantics { mask: Mask::Always, ..Semantics::default() });
    world.write("hostaway.yaml", "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: '${secret:new}'}\n");
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line("HOSTAWAY updated");
    daemon.line("pass 3 ");
    assert_eq!(world.updates().len(), 1);
    std::fs::write(secrets.join("new"), "second-value\n").unwrap();
    daemon.line("HOSTAWAY updated");
    assert_eq!(world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"], "second-value");
    assert_eq!(world.updates().len(), 2);
}
