//! Plan files: exactly the reviewed plan is applied, or none.

use crate::support::{Ran, World, live};
use calry_gitops::sandbox::Config;
use serde_json::json;

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn world() -> World {
    let mut hostaway = live("HOSTAWAY", &["name"], &["rooms", "pictures"]);
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": "live-value"}});
    let mut world = World::with(
        json!([hostaway, live("GUESTY", &["name"], &["rooms"])]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${secret:key}\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world.env("CALRY_SECRET_KEY", "wanted-value");
    world
}

fn save(world: &World, args: &[&str]) -> String {
    let mut all = vec!["plan", "--out", "the.plan"];
    all.extend(args);
    world.run(&all).exits(0);
    std::fs::read_to_string(world.dir.path().join("the.plan")).unwrap()
}

fn apply(world: &World) -> Ran {
    world.run(&["apply", "--plan", "the.plan"])
}

#[track_caller]
fn is_refused(world: &World, said: &str) {
    let before = world.updates().len();
    apply(world)
        .exits(1)
        .says("plan the.plan refused, because something has changed since:")
        .says(said);
    assert_eq!(world.updates().len(), before);
}

#[test]
fn a_plan_that_still_holds_is_applied_without_asking_and_no_second_time() {
    let world = world();
    save(&world, &[]);
    apply(&world).exits(0).says("Apply: 2 of 2 applied");
    assert_eq!(world.updates().len(), 2);
    is_refused(&world, "HOSTAWAY: it was update, and is now inSync");
}

#[test]
fn a_plan_holds_no_secret() {
    let mut world = world();
    world.env("CALRY_FINGERPRINT_KEY", KEY);
    let saved = save(&world, &[]);
    assert!(saved.contains("hmac-sha256:"));
    for secret in [
        "live-value",
        "wanted-value",
        KEY,
        &world.sandbox.keys().write,
    ] {
        assert!(!saved.contains(secret), "{saved}");
    }
}

#[test]
fn a_change_of_the_files_since_is_refused_with_the_difference() {
    let world = world();
    save(&world, &[]);
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nicon: https://e.com/i.png\nfieldsToSync:\n  listing: [name]\n",
    );
    is_refused(
        &world,
        "GUESTY: would also change icon, and would no longer change fieldsToSync.listing.rooms",
    );
    std::fs::remove_file(world.definitions().join("guesty.yaml")).unwrap();
    is_refused(
        &world,
        "GUESTY: it was update, and no file manages it any more",
    );
}

#[test]
fn a_change_of_the_live_state_since_is_refused_with_the_difference() {
    let world = world();
    save(&world, &[]);
    let mut guesty = world.live("GUESTY");
    guesty["updatedAt"] = json!("2026-02-02T00:00:00.000Z");
    world.sandbox.set_definition("GUESTY", guesty.clone());
    is_refused(
        &world,
        "GUESTY: the same fields would change, but its file or Calry's definition has changed since",
    );
    guesty["fieldsToSync"]["listing"]["rooms"] = json!(true);
    world.sandbox.set_definition("GUESTY", guesty);
    is_refused(&world, "GUESTY: it was update, and is now inSync");
}

#[test]
fn another_workspace_or_another_method_is_refused() {
    let world = world();
    save(&world, &[]);
    let plan = world
        .run(&["apply", "--plan", "the.plan", "--update-method", "put"])
        .exits(1);
    plan.says("it is for --update-method patch, and this run uses put");
    world.sandbox.modify_workspace(|workspace| {
        workspace["id"] = json!("5f0c1f7e-0000-4000-8000-000000000002")
    });
    is_refused(&world, "it is for the workspace acme-production");
}

#[test]
fn a_plan_for_some_providers_is_applied_to_those() {
    let world = world();
    save(&world, &["--only", "GUESTY"]);
    apply(&world).exits(0).says("Apply: 1 of 1 applied");
    assert_eq!(
        world.updates()[0].path,
        "/api/v1/integration-definition/GUESTY"
    );
    world
        .run(&["apply", "--plan", "the.plan", "--only", "HOSTAWAY"])
        .exits(64);
}

#[test]
fn a_reviewed_plan_is_not_stopped_by_the_limit_that_made_it_reviewed() {
    let world = world();
    save(&world, &[]);
    world
        .run(&["apply", "--plan", "the.plan", "--max-changes", "1"])
        .exits(0)
        .says("2 of 2 applied");
}

#[test]
fn a_replaced_secret_is_noticed_with_a_fingerprint_key() {
    let mut world = world();
    world.env("CALRY_FINGERPRINT_KEY", KEY);
    save(&world, &[]);
    world.env("CALRY_SECRET_KEY", "rotated-value");
    is_refused(
        &world,
        "HOSTAWAY: the values of partnerKey.headers.x-api-key would differ",
    );
    // A check that cannot be made is an error, not skipped.
    world.env.remove("CALRY_FINGERPRINT_KEY");
    apply(&world).exits(1).says("their key is not available");
    world.env("CALRY_FINGERPRINT_KEY", &KEY.replace('0', "1"));
    apply(&world).exits(1).says("their key is not available");
    world
        .env("CALRY_FINGERPRINT_KEY", KEY)
        .env("CALRY_SECRET_KEY", "wanted-value");
    apply(&world).exits(0);
}

/// The file of HOSTAWAY, with a literal value.
fn writes_out(world: &World, value: &str) {
    let text = format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: {value}\n");
    world.write("hostaway.yaml", &text);
}

#[test]
fn a_written_out_value_that_was_replaced_since_is_noticed() {
    let mut world = world();
    world.env("CALRY_FINGERPRINT_KEY", KEY);
    writes_out(&world, "reviewed-value");
    let saved = save(&world, &[]);
    assert!(!saved.contains("reviewed-value"), "{saved}");
    writes_out(&world, "other-value");
    is_refused(
        &world,
        "HOSTAWAY: the values of partnerKey.headers.x-api-key would differ",
    );
    writes_out(&world, "reviewed-value");
    apply(&world).exits(0);
}

#[test]
fn a_literal_value_is_not_saved_if_a_later_change_would_not_be_noticed() {
    let world = world();
    save(&world, &[]);
    writes_out(&world, "other-value");
    is_refused(
        &world,
        "the file of HOSTAWAY has the literal value partnerKey.headers.x-api-key",
    );
    let refused = world.run(&["plan", "--out", "new.plan"]).exits(1);
    refused.says(
        "new.plan is not written: the file of HOSTAWAY has the literal value partnerKey.headers.x-api-key",
    );
    assert!(!world.dir.path().join("new.plan").exists());
    // The value of Calry is no change; another value is one.
    writes_out(&world, "live-value");
    save(&world, &[]);
    writes_out(&world, "other-value");
    apply(&world).exits(1);
    assert!(world.updates().is_empty());
}

#[test]
fn the_text_around_a_reference_that_was_replaced_since_is_noticed() {
    let mut world = world();
    world.env("CALRY_SECRET_KEY", "wanted-value");
    writes_out(&world, "Bearer ${secret:key}");
    save(&world, &[]);
    writes_out(&world, "Token ${secret:key}");
    is_refused(
        &world,
        "HOSTAWAY: the same fields would change, but its file or Calry's definition has changed since",
    );
    // A value without a known scheme may be a secret, which a plan without a fingerprint key cannot compare.
    writes_out(&world, "acme-${secret:key}");
    world
        .run(&["plan", "--out", "new.plan"])
        .exits(1)
        .says("literal value partnerKey.headers.x-api-key");
}

#[test]
fn what_could_not_be_applied_is_not_written() {
    let mut world = world();
    let out = world.dir.path().join("the.plan");
    world.write("lodgify.yaml", "provider: LODGIFY\nicons: x\n");
    world
        .run(&["plan", "--out", "the.plan"])
        .exits(3)
        .says("the.plan is not written: the definitions are invalid");
    std::fs::remove_file(world.definitions().join("lodgify.yaml")).unwrap();
    let snapshot = world.run(&["snapshot"]).exits(0).out;
    std::fs::write(world.dir.path().join("snapshot.json"), snapshot).unwrap();
    world
        .run(&["plan", "--live", "snapshot.json", "--out", "the.plan"])
        .exits(1)
        .says("not all values were available");
    world
        .run(&["plan", "--secrets-unavailable", "--out", "the.plan"])
        .exits(64);
    assert!(!out.exists());
    // With the key, a plan against a snapshot is the same plan.
    world.env("CALRY_FINGERPRINT_KEY", KEY);
    let snapshot = world.run(&["snapshot"]).exits(0).out;
    std::fs::write(world.dir.path().join("snapshot.json"), snapshot).unwrap();
    world
        .run(&["plan", "--live", "snapshot.json", "--out", "the.plan"])
        .exits(0);
    apply(&world).exits(0).says("2 of 2 applied");
    world
        .run(&["plan", "--out", "no/such/directory/the.plan"])
        .exits(1)
        .says("no/such/directory/the.plan cannot be written");
}

#[test]
fn a_file_that_is_no_plan_is_refused_and_not_repeated() {
    let world = world();
    let good = save(&world, &[]);
    for text in [
        "zepl.CANARY.key.x",
        "\"CANARY\"",
        "{\"kind\": \"CANARY\"}",
        &good.replace("calry-gitops plan", "CANARY"),
        &good.replace("\"version\": 1", "\"version\": 2"),
        &good.replacen("sha256:", "CANARY", 1),
        &good.replace("\"only\": []", "\"only\": [\"a CANARY\"]"),
        &good.replacen("\"update\"", "\"CANARY\": \"CANARY\", \"x\"", 1),
    ] {
        world.write("../the.plan", text);
        let ran = apply(&world).exits(1);
        assert!(
            !format!("{}{}", ran.out, ran.err).contains("CANARY"),
            "{}",
            ran.err
        );
    }
    assert!(world.updates().is_empty());
    world
        .run(&["apply", "--plan", "nowhere"])
        .exits(1)
        .says("the plan nowhere cannot be read");
}

#[test]
fn an_approved_digest_covers_what_a_file_writes_out_or_is_refused() {
    let mut world = world();
    std::fs::remove_file(world.definitions().join("guesty.yaml")).unwrap();
    let writes = |world: &World, value: &str| {
        let text = format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: {value}\n");
        world.write("hostaway.yaml", &text);
    };
    let digest = |world: &World| {
        world.run(&["plan", "--format", "json"]).json()["digest"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let approve = |world: &World, digest: &str| {
        world.run(&["apply", "--yes", "--max-changes", "0", "--approve", digest])
    };
    writes(&world, "the-reviewed-value");
    let open = digest(&world);
    let refused = approve(&world, &open).exits(1);
    refused
        .says("literal value partnerKey.headers.x-api-key")
        .says("--fingerprint-key-file");
    writes(&world, "another-value");
    assert_eq!(
        digest(&world),
        open,
        "without a key the value cannot be guessed from it"
    );

    world.env("CALRY_FINGERPRINT_KEY", KEY);
    let another = digest(&world);
    writes(&world, "the-reviewed-value");
    let reviewed = digest(&world);
    assert!(reviewed != another && reviewed != open);
    approve(&world, &another)
        .exits(1)
        .says("was approved, and this plan is");
    assert!(world.updates().is_empty());
    approve(&world, &reviewed).exits(0);
    assert_eq!(
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"],
        "the-reviewed-value"
    );
}
