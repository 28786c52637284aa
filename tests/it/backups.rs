//! Backups: what an update replaces is saved before it is sent, and only the owner of a private key can read it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::{Ran, World, live, until};
use age::x25519::Identity;
use calry_gitops::sandbox::Config;
use serde_json::{Value, json};

const WORKSPACE: &str = "5f0c1f7e-0000-4000-8000-000000000001";
const OLD_KEY: &str = "old-partner-key-4711";
const GUESTY: &str = "provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n";
const HOSTAWAY: &str = "provider: HOSTAWAY\nicon: https://e.com/new.png\npartnerKey:\n  headers:\n    x-api-key: \
                        ${secret:hostaway}\nfieldsToSync:\n  listing: [rooms]\n";

/// A workspace whose files change two providers, with backups to the owner of a private key.
fn world() -> (World, Identity) {
    let mut hostaway = live("HOSTAWAY", &["name", "pictures"], &["rooms"]);
    hostaway["icon"] = json!("https://e.com/old.png");
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": OLD_KEY}});
    let guesty = live("GUESTY", &["name"], &["rooms"]);
    let mut world = World::with(json!([guesty, hostaway]), Config::default());
    world
        .write("guesty.yaml", GUESTY)
        .write("hostaway.yaml", HOSTAWAY);
    let identity = Identity::generate();
    world
        .env("CALRY_SECRET_HOSTAWAY", "new-partner-key-4712")
        .env("CALRY_BACKUP_DIR", "backups")
        .env("CALRY_BACKUP_RECIPIENT", &identity.to_public().to_string());
    (world, identity)
}

/// The backups of a provider, oldest first.
fn files(world: &World, provider: &str) -> Vec<PathBuf> {
    let directory = world
        .dir
        .path()
        .join("backups")
        .join(WORKSPACE)
        .join(provider);
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The only backup of a provider, decrypted.
#[track_caller]
fn backup(world: &World, provider: &str, identity: &Identity) -> Value {
    let files = files(world, provider);
    assert_eq!(files.len(), 1, "{files:?}");
    let text = age::decrypt(identity, &fs::read(&files[0]).unwrap()).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn apply(world: &World) -> Ran {
    world.run(&["apply", "--yes"])
}

#[test]
fn what_an_update_replaces_is_saved_before_and_only_the_private_key_reads_it() {
    let (world, identity) = world();
    let before = world.live("HOSTAWAY");
    let ran = apply(&world).exits(0);
    assert!(!format!("{}{}", ran.out, ran.err).contains(OLD_KEY));
    let saved = backup(&world, "HOSTAWAY", &identity);
    for part in ["id", "icon", "partnerKey", "fieldsToSync", "updatedAt"] {
        assert_eq!(saved["definition"][part], before[part], "{part}");
    }
    assert_eq!(saved["workspace"]["slug"], "acme-production");
    assert!(saved["digest"].as_str().unwrap().starts_with("sha256:"));
    let file = &files(&world, "HOSTAWAY")[0];
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let bytes = fs::read(file).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains(OLD_KEY));
    assert!(age::decrypt(&Identity::generate(), &bytes).is_err());
    // What is in sync is neither sent nor saved.
    apply(&world).exits(0);
    assert_eq!(files(&world, "HOSTAWAY").len(), 1);
}

#[test]
fn each_definition_is_saved_before_its_update_is_sent() {
    let (world, identity) = world();
    apply(&world).exits(0);
    let saved = backup(&world, "GUESTY", &identity);
    let sent = world
        .updates()
        .into_iter()
        .find(|update| update.path.contains("GUESTY"));
    assert!(sent.is_some());
    // The new values are in no backup, so it was made before.
    assert_eq!(
        saved["definition"]["fieldsToSync"]["listing"]["rooms"],
        false
    );
}

#[test]
fn an_update_whose_backup_fails_is_not_sent_and_the_others_go_on() {
    let (world, identity) = world();
    let of_workspace = world.dir.path().join("backups").join(WORKSPACE);
    fs::create_dir_all(&of_workspace).unwrap();
    let blocked = of_workspace.join("GUESTY");
    fs::write(&blocked, "a file in its way").unwrap();
    let ran = apply(&world).exits(1);
    ran.says("nothing was sent, because the definition that the update replaces could not be backed up: cannot write to");
    let sent = world.updates();
    assert!(sent.iter().all(|update| update.path.contains("HOSTAWAY")) && sent.len() == 1);
    backup(&world, "HOSTAWAY", &identity);
    fs::remove_file(blocked).unwrap();
    apply(&world).exits(0);
    backup(&world, "GUESTY", &identity);
}

#[test]
fn a_daemon_saves_the_drift_that_it_undoes() {
    let (world, identity) = world();
    apply(&world).exits(0);
    fs::remove_dir_all(world.dir.path().join("backups")).unwrap();
    let mut daemon = world.daemon(&["--interval", "1h"]);
    daemon.line("reconciliation 1 ");
    assert!(world.sandbox.modify("HOSTAWAY", |live| {
        live["partnerKey"] = json!({"headers": {"x-api-key": "of-an-emergency-4713"}});
    }));
    daemon.signal("HUP");
    daemon.line("(request)");
    until("the drift is undone", || {
        world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"] == "new-partner-key-4712"
    });
    let saved = backup(&world, "HOSTAWAY", &identity);
    let value = &saved["definition"]["partnerKey"]["headers"]["x-api-key"];
    assert_eq!(value, "of-an-emergency-4713");
    daemon.drain();
    assert!(!daemon.seen.concat().contains("of-an-emergency"));
}

#[test]
fn one_option_without_the_other_is_a_wrong_command_line() {
    let identity = Identity::generate().to_public().to_string();
    for (variable, value, says) in [
        (
            "CALRY_BACKUP_DIR",
            "backups",
            "--backup-dir needs --backup-recipient",
        ),
        (
            "CALRY_BACKUP_RECIPIENT",
            &*identity,
            "--backup-recipient needs --backup-dir",
        ),
    ] {
        let mut world = World::of_hostaway("[rooms]");
        world.env(variable, value);
        for args in [
            &["apply", "--yes"][..],
            &["run", "--once"],
            &["run", "--print-config"],
        ] {
            world.run(args).exits(64).says(says);
        }
        assert!(world.updates().is_empty());
    }
    let world = World::of_hostaway("[rooms]");
    let args = [
        "apply",
        "--yes",
        "--backup-dir",
        "b",
        "--backup-recipient",
        "age1nothing",
    ];
    world
        .run(&args)
        .exits(64)
        .says("is not a public key of age");
}

#[test]
fn each_workspace_of_a_configuration_file_has_its_own_backups() {
    let world = World::of_hostaway("[rooms]");
    let identity = Identity::generate();
    let text = format!(
        "apiUrl: {}\nworkspaces:\n  - name: acme\n    definitions: definitions\n    apiKeyFile: key\n    backupDir: of-acme\n    \
         backupRecipient: [{}]\n",
        world.sandbox.url(),
        identity.to_public()
    );
    fs::write(world.dir.path().join("key"), &world.sandbox.keys().write).unwrap();
    let mut daemon = world.configured_daemon(&text);
    daemon.line("reconciliation 1 ");
    until("a backup is written", || {
        world
            .dir
            .path()
            .join("of-acme")
            .join(WORKSPACE)
            .join("HOSTAWAY")
            .exists()
    });
}

#[test]
fn a_daemon_reports_an_update_without_a_backup_as_failed_and_tries_it_again() {
    let (world, identity) = world();
    let of_workspace = world.dir.path().join("backups").join(WORKSPACE);
    fs::create_dir_all(&of_workspace).unwrap();
    let blocked = of_workspace.join("GUESTY");
    fs::write(&blocked, "a file in its way").unwrap();
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line(
        "GUESTY was not updated: nothing was sent, because the definition that the update replaces",
    );
    let mut error = String::new();
    until("the status has the failure", || {
        let status = daemon.status();
        let mut providers = status["providers"].as_array().unwrap().iter();
        let failed =
            providers.find(|one| one["provider"] == "GUESTY" && one["outcome"] == "failed");
        error = failed.map_or_else(String::new, |failed| failed["error"].to_string());
        failed.is_some()
    });
    assert!(error.contains("could not be backed up: cannot write to"));
    until("the metrics have the failure", || {
        let metrics = daemon.get("/metrics").body;
        let shows = |name: &str, labels: &[&str]| {
            let mut lines = metrics.lines().filter(|line| line.starts_with(name));
            lines.any(|line| {
                labels.iter().all(|label| line.contains(label)) && !line.ends_with(" 0")
            })
        };
        let labels = ["provider=\"GUESTY\"", "result=\"failed\""];
        shows("calry_gitops_updates_total", &labels) && shows("calry_gitops_failed_providers", &[])
    });
    fs::remove_file(blocked).unwrap();
    daemon.line("GUESTY updated");
    backup(&world, "GUESTY", &identity);
    assert_eq!(
        world.live("GUESTY")["fieldsToSync"]["listing"]["rooms"],
        true
    );
}
