//! What the README shows is what the binary prints.

#![allow(clippy::unwrap_used)]

mod support;

use calry_gitops::sandbox::Config;
use serde_json::json;
use support::{Checkout, World, live, repository};

/// A pull request that switches two fields of HOSTAWAY on and gives it another key, while somebody has clicked in GUESTY.
fn pull_request() -> Checkout {
    let mut hostaway = live(
        "HOSTAWAY",
        &["address", "name", "rooms"],
        &["amenities", "pictures"],
    );
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": "the old one"}});
    let mut world = World::with(
        json!([hostaway, live("GUESTY", &["name"], &["contact", "rooms"])]),
        Config::default(),
    );
    let key = "partnerKey:\n  headers:\n    x-api-key: ${secret:hostaway-api-key}\n";
    world.write(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\n{key}fieldsToSync:\n  listing: [address, name, rooms]\n"),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world
        .env("CALRY_SECRET_HOSTAWAY_API_KEY", "the old one")
        .env("CALRY_SECRET_HOSTAWAY_API_KEY_2", "the new one");
    let checkout = Checkout::of(world);
    let key = key.replace("api-key}", "api-key-2}");
    let fields = "fieldsToSync:\n  listing: [address, amenities, name, pictures, rooms]\n";
    checkout.branch(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\n{key}{fields}"),
    );
    checkout
}

#[test]
fn the_comment_in_the_readme_is_the_one_that_is_printed() {
    let checkout = pull_request();
    let printed = checkout
        .world
        .run(&["plan", "--base", "main", "--format", "markdown"])
        .exits(0)
        .out;
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, shown) = readme
        .split_once("<!-- what `plan --format markdown` prints -->\n\n")
        .unwrap();
    let (shown, _) = shown.split_once("\n<!-- and no more -->").unwrap();
    assert_eq!(shown, printed, "put into the README:\n{printed}");
}
