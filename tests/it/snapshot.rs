//! Planning without an API key, against a snapshot without secrets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use crate::support::{Ran, World, live};
use calry_gitops::sandbox::{Config, Mask, Semantics};
use serde_json::{Value, json};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "fedcba9876543210fedcba9876543210";
const SECRETS: [&str; 3] = ["live-api-key", "live-token", "live-client"];

/// HOSTAWAY with both sections of a partner key, of which git manages the headers; GUESTY in sync.
fn world() -> World {
    let mut hostaway = live("HOSTAWAY", &["name"], &["rooms"]);
    hostaway["partnerKey"] = json!({
        "headers": {"x-api-key": SECRETS[0], "authorization": SECRETS[1]},
        "queryParams": {"client_id": SECRETS[2]},
    });
    let mut world = World::with(
        json!([hostaway, live("GUESTY", &["name"], &[])]),
        Config::default(),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n",
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    X-Api-Key: ${secret:key}\n    authorization: ${secret:token}\n",
    );
    world
        .env("CALRY_SECRET_KEY", "another-api-key")
        .env("CALRY_SECRET_TOKEN", SECRETS[1]);
    world
}

/// Takes a snapshot and then removes the API key and URL.
fn taken(world: &mut World, key: Option<&str>) -> Ran {
    if let Some(key) = key {
        world.env("CALRY_FINGERPRINT_KEY", key);
    }
    let ran = world.run(&["snapshot"]).exits(0);
    std::fs::write(world.dir.path().join("snapshot.json"), &ran.out).unwrap();
    world.env.remove("CALRY_API_KEY");
    world.env.remove("CALRY_FINGERPRINT_KEY");
    ran
}

fn plan(world: &World, args: &[&str]) -> Ran {
    let mut all = vec!["plan", "--live", "snapshot.json"];
    all.extend(args);
    world.run(&all)
}

fn changes(ran: &Ran) -> Vec<String> {
    let json = ran.json();
    let all = json["definitions"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|d| d["changes"].as_array().unwrap());
    all.map(|change| format!("{} {}", change["path"].as_str().unwrap(), change["change"]))
        .collect()
}

#[test]
fn a_snapshot_contains_fingerprints_or_nothing_and_never_a_value() {
    let mut world = world();
    let with = world
        .run(&["snapshot"])
        .exits(0)
        .says("without a fingerprint key");
    assert_eq!(
        with.json()["definitions"][1]["partnerKey"]["headers"]["x-api-key"],
        Value::Null
    );
    assert_eq!(with.json()["fingerprintKey"], Value::Null);
    let ran = taken(&mut world, Some(KEY));
    let snapshot = ran.json();
    let fingerprint = snapshot["definitions"][1]["partnerKey"]["headers"]["x-api-key"]
        .as_str()
        .unwrap();
    assert!(
        fingerprint.starts_with("hmac-sha256:") && fingerprint.len() == 76,
        "{fingerprint}"
    );
    assert_eq!(snapshot["workspace"]["slug"], "acme-production");
    for shown in [&with, &ran] {
        let all = format!("{}{}", shown.out, shown.err);
        assert!(
            SECRETS
                .iter()
                .chain([&KEY])
                .all(|secret| !all.contains(*secret)),
            "{all}"
        );
    }
}

#[test]
fn with_the_fingerprint_key_the_plan_equals_the_one_against_calry() {
    let mut world = world();
    let online = world.run(&["plan", "--format", "json"]).exits(0).json();
    taken(&mut world, Some(KEY));
    let asked = world.requests().len();
    world.env("CALRY_FINGERPRINT_KEY", KEY);
    let ran = plan(&world, &["--format", "json"]).exits(0);
    let mut offline = ran.json();
    assert!(offline["snapshot"]["takenAt"].is_string());
    offline.as_object_mut().unwrap().remove("snapshot");
    // Values that an update would have to carry over do not matter for the comparison.
    offline["definitions"][1]
        .as_object_mut()
        .unwrap()
        .remove("error");
    assert_eq!(offline, online, "the digest included");
    assert_eq!(changes(&ran), ["partnerKey.headers.X-Api-Key \"changed\""]);
    let text = plan(&world, &[])
        .exits(0)
        .says("live state as of")
        .says("(sensitive) -> ${secret:key}");
    assert!(
        SECRETS
            .iter()
            .chain([&"another-api-key"])
            .all(|secret| !text.out.contains(secret)),
        "{}",
        text.out
    );
    assert_eq!(world.requests().len(), asked, "no request to Calry");
}

#[test]
fn without_the_right_key_values_cannot_be_compared_and_there_is_no_digest() {
    let mut world = world();
    taken(&mut world, Some(KEY));
    for key in [None, Some(OTHER_KEY)] {
        if let Some(key) = key {
            world.env("CALRY_FINGERPRINT_KEY", key);
        }
        let ran = plan(&world, &["--format", "json", "--detailed-exitcode"]).exits(0);
        assert_eq!(changes(&ran), Vec::<String>::new());
        assert_eq!(ran.json()["digest"], Value::Null);
        assert_eq!(
            ran.json()["definitions"][1]["unresolved"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        let said = "Not compared: 2 values below partnerKey";
        plan(&world, &[]).exits(0).says(said);
    }
    // An added or removed header is detected without a key.
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-new: written-out\n",
    );
    let ran = plan(&world, &["--format", "json", "--detailed-exitcode"]).exits(2);
    let mut seen = changes(&ran);
    seen.sort();
    assert_eq!(
        seen,
        [
            "partnerKey.headers.authorization \"removed\"",
            "partnerKey.headers.x-api-key \"removed\"",
            "partnerKey.headers.x-new \"added\""
        ]
    );
}

#[test]
fn without_secrets_and_without_a_key_everything_else_is_compared() {
    let mut world = world();
    taken(&mut world, None);
    world
        .env
        .retain(|name, _| !name.starts_with("CALRY_SECRET"));
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: []\n",
    );
    let ran = plan(
        &world,
        &[
            "--secrets-unavailable",
            "--detailed-exitcode",
            "--format",
            "json",
        ],
    )
    .exits(2);
    assert_eq!(changes(&ran), ["fieldsToSync.listing.name null"]);
    plan(&world, &[]).exits(3).says("secret `key` not found");
}

#[test]
fn a_value_that_calry_masks_is_masked_in_a_snapshot() {
    let hostaway = world().live("HOSTAWAY");
    let semantics = Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    };
    let mut world = World::with(
        json!([hostaway]),
        Config {
            semantics,
            ..Config::default()
        },
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: written-out\n",
    );
    let ran = taken(&mut world, Some(KEY));
    assert_eq!(
        ran.json()["definitions"][0]["partnerKey"]["headers"]["x-api-key"],
        "masked"
    );
    world.env("CALRY_FINGERPRINT_KEY", KEY);
    let ran = plan(&world, &["--format", "json"]).exits(1);
    assert!(changes(&ran).contains(&"partnerKey.headers.x-api-key \"masked\"".to_owned()));
}

#[test]
fn a_snapshot_of_another_workspace_is_refused() {
    let mut world = world();
    world.write("workspace.yaml", "slug: acme-production\n");
    taken(&mut world, None);
    world.write("workspace.yaml", "slug: acme-staging\n");
    plan(&world, &[])
        .exits(1)
        .says("these definitions are for the workspace acme-staging");
}

#[test]
fn no_snapshot_is_taken_of_a_wrong_workspace() {
    let world = world();
    world.write("workspace.yaml", "slug: acme-staging\n");
    let ran = world.run(&["snapshot"]).exits(1).says("acme-staging");
    assert_eq!(ran.out, "");
}

#[test]
fn a_document_that_is_not_a_snapshot_is_refused_and_not_quoted() {
    let mut world = world();
    let good: Value = taken(&mut world, Some(KEY)).json();
    let hostaway = 1;
    let tampered = |change: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        change(&mut document);
        document.to_string()
    };
    let cases = [
        ("[]".to_owned(), "it is not an object"),
        ("{".to_owned(), "it is not JSON"),
        ("{}".to_owned(), "it lacks `\"kind\""),
        (tampered(&|d| d["version"] = json!(2)), "has version 2"),
        (
            tampered(&|d| d["takenAt"] = json!("CANARY")),
            "`takenAt` is not a time",
        ),
        // A value in the place of a fingerprint is neither accepted nor shown.
        (
            tampered(&|d| {
                d["definitions"][hostaway]["partnerKey"]["headers"]["x-api-key"] = json!("CANARY")
            }),
            "is not a fingerprint",
        ),
        (
            tampered(&|d| d["definitions"][hostaway]["fieldsToSync"]["listing"] = json!("CANARY")),
            "HOSTAWAY",
        ),
        (
            tampered(&|d| d["definitions"][0]["provider"] = json!("HOSTAWAY")),
            "duplicate provider HOSTAWAY",
        ),
        (
            tampered(&|d| d["unreadable"] = json!("CANARY")),
            "`unreadable` is not a list",
        ),
        ("[".repeat(100_000), "it is not an object"),
    ];
    for (text, said) in cases {
        std::fs::write(world.dir.path().join("snapshot.json"), &text).unwrap();
        let ran = plan(&world, &[]).exits(1).says(said);
        assert!(
            !format!("{}{}", ran.out, ran.err).contains("CANARY"),
            "{}",
            ran.err
        );
    }
    std::fs::write(
        world.dir.path().join("snapshot.json"),
        vec![b' '; (32 << 20) + 1],
    )
    .unwrap();
    plan(&world, &[]).exits(1).says("is larger than 32 MiB");
    std::fs::remove_file(world.dir.path().join("snapshot.json")).unwrap();
    plan(&world, &[])
        .exits(1)
        .says("the snapshot snapshot.json cannot be read");
    plan(&world, &["--sandbox"]).exits(64);
}

#[test]
fn a_weak_fingerprint_key_is_refused() {
    let mut world = world();
    world.env("CALRY_FINGERPRINT_KEY", "short-key");
    let ran = world
        .run(&["snapshot"])
        .exits(1)
        .says("CALRY_FINGERPRINT_KEY is not a fingerprint key")
        .says("openssl rand");
    assert!(!ran.err.contains("short-key"));
    world
        .run(&["snapshot", "--fingerprint-key-file", "nowhere"])
        .exits(1)
        .says("the file nowhere");
}

/// Answers one request with a status, headers and a body, and returns the request.
fn serve(answer: String) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!(
        "http://{}/snapshot.json?signature=CANARY",
        listener.local_addr().unwrap()
    );
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 16 << 10];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (address, asked)
}

#[test]
fn a_snapshot_is_fetched_without_the_api_key_and_without_redirects() {
    let mut world = world();
    let body = taken(&mut world, Some(KEY)).out;
    world.env("CALRY_API_KEY", "zepl.real.key.CANARY");
    let (address, asked) = serve(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    world
        .run(&["plan", "--live", &address])
        .exits(0)
        .says("live state as of");
    let asked = asked.join().unwrap();
    assert!(
        asked.starts_with("GET /snapshot.json?signature=CANARY ") && !asked.contains("zepl."),
        "{asked}"
    );

    let (address, asked) = serve(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
    );
    let ran = world
        .run(&["plan", "--live", &address])
        .exits(1)
        .says("redirect (302), which is not followed");
    assert!(
        !ran.err.contains("CANARY"),
        "a signature is not shown: {}",
        ran.err
    );
    asked.join().unwrap();

    for refused in [
        "http://example.com/s.json",
        "https://user:CANARY@example.com/s",
        "ftp://example.com/s",
        "http://",
    ] {
        world
            .run(&["plan", "--live", refused])
            .exits(64)
            .says("the URL of a snapshot must");
    }
}

#[test]
fn unreadable_parts_of_a_snapshot_are_not_compared() {
    let mut world = world();
    let mut strange = world.live("HOSTAWAY");
    strange["partnerKey"]["headers"]["x-api-key"] = json!(12_345_678);
    strange["fieldsToSync"]["listing"] = json!({"name": "hunter2"});
    strange["icon"] = json!(["hunter2"]);
    world.sandbox.set_definition("HOSTAWAY", strange);
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://cdn.example.com/new.png\npartnerKey:\n  headers: {}\n  queryParams: {}\n\
         fieldsToSync:\n  listing: [name]\n",
    );
    let ran = taken(&mut world, None);
    assert!(
        !ran.out.contains("12345678") && !ran.out.contains("hunter2"),
        "{}",
        ran.out
    );
    let json = plan(&world, &["--format", "json"]).exits(1).json();
    let definitions = json["definitions"].as_array().unwrap();
    let hostaway = definitions
        .iter()
        .find(|definition| definition["provider"] == "HOSTAWAY")
        .unwrap();
    let changes = hostaway["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap());
    assert_eq!(
        changes.collect::<Vec<_>>(),
        ["partnerKey.queryParams.client_id"]
    );
    let error = hostaway["error"].as_str().unwrap();
    for part in [
        "`icon`",
        "`partnerKey.headers.x-api-key`",
        "`fieldsToSync.listing.name`",
    ] {
        assert!(error.contains(part), "{error}");
    }
}
