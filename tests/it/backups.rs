//! Backups: what an update replaces is saved before it is sent, only the owner of a private key can read it, and `restore` puts
//! it back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::{Ran, World, live, until};
use age::secrecy::ExposeSecret as _;
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

/// What [`world`] has after an update, with the private key in a file.
fn updated() -> (World, Value) {
    let (mut world, identity) = world();
    write_identity(&world, &identity);
    world.env("CALRY_AGE_IDENTITY_FILE", "identity.txt");
    let before = world.live("HOSTAWAY");
    apply(&world).exits(0);
    assert_ne!(world.live("HOSTAWAY")["icon"], before["icon"]);
    (world, before)
}

fn write_identity(world: &World, identity: &Identity) {
    let text = identity.to_string();
    fs::write(world.dir.path().join("identity.txt"), text.expose_secret()).unwrap();
}

#[track_caller]
fn is_as(live: &Value, before: &Value) {
    for part in ["icon", "partnerKey", "fieldsToSync"] {
        assert_eq!(live[part], before[part], "{part}");
    }
}

#[test]
fn restore_puts_back_what_an_update_replaced_and_shows_no_value() {
    let (world, before) = updated();
    let guesty = world.live("GUESTY");
    let updates = world.updates().len();
    let ran = world.run(&["restore", "hostaway", "--yes"]).exits(0);
    for value in [OLD_KEY, "new-partner-key-4712"] {
        assert!(!format!("{}{}", ran.out, ran.err).contains(value));
    }
    let ran = ran
        .says("partnerKey.headers.x-api-key")
        .says("https://e.com/old.png")
        .says("Git will undo this: the next reconciliation applies definitions/hostaway.yaml");
    drop(ran);
    is_as(&world.live("HOSTAWAY"), &before);
    assert_eq!(world.live("GUESTY"), guesty);
    assert_eq!(world.updates().len(), updates + 1);
    // What the restore replaced is saved as well: a second one takes the first one back.
    assert_eq!(files(&world, "HOSTAWAY").len(), 2);
    world.run(&["restore", "HOSTAWAY", "--yes"]).exits(0);
    assert_eq!(world.live("HOSTAWAY")["icon"], "https://e.com/new.png");
}

#[test]
fn restore_takes_the_backup_of_a_time_and_lists_all_of_them() {
    let (world, before) = updated();
    world.write(
        "hostaway.yaml",
        &HOSTAWAY.replace("e.com/new", "e.com/newer"),
    );
    apply(&world).exits(0);
    let listed = world.run(&["restore", "HOSTAWAY", "--list"]).exits(0);
    let times: Vec<&str> = listed
        .out
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        times.len() == 2 && times[0] > times[1] && listed.out.contains(WORKSPACE),
        "{}",
        listed.out
    );
    world
        .run(&[
            "restore",
            "HOSTAWAY",
            "--at",
            "2020-01-01T00:00:00Z",
            "--yes",
        ])
        .exits(1)
        .says("HOSTAWAY has no backup of 2020-01-01T00:00:00Z or before");
    world
        .run(&["restore", "HOSTAWAY", "--at", times[1], "--yes"])
        .exits(0);
    is_as(&world.live("HOSTAWAY"), &before);
    world
        .run(&["restore", "HOSTAWAY", "--at", times[1], "--yes"])
        .exits(0)
        .says("HOSTAWAY is as the backup has it; nothing was changed");
    // The sentence has the time as `--at` takes it, and a time without a fraction is the whole second.
    let listed = world.run(&["restore", "HOSTAWAY", "--list"]).exits(0).out;
    let newest = listed.split_whitespace().next().unwrap();
    let second = format!("{}Z", newest.split('.').next().unwrap());
    for time in [newest, &second] {
        world
            .run(&["restore", "HOSTAWAY", "--at", time])
            .says(&format!("the backup of {newest}"));
    }
    for time in ["2026-11-30", "yesterday"] {
        world
            .run(&["restore", "HOSTAWAY", "--at", time])
            .exits(64)
            .says("such as 2026-11-29T06:01:23Z");
    }
    world
        .run(&["restore", "NOBODY", "--list"])
        .exits(0)
        .says("there is no backup of NOBODY");
}

#[test]
fn restore_shows_the_difference_and_changes_nothing_without_a_yes() {
    let (world, _) = updated();
    let updates = world.updates().len();
    world
        .run(&["restore", "HOSTAWAY"])
        .exits(1)
        .says("https://e.com/old.png")
        .says("there is no terminal; nothing was changed");
    assert_eq!(world.updates().len(), updates);
}

#[test]
fn restore_puts_the_provider_on_hold_so_that_git_does_not_undo_it() {
    let (world, before) = updated();
    let hold = ["--hold-until", "2099-12-31", "--reason", "OPS-114: no"];
    let restore = || {
        let mut args = vec!["restore", "HOSTAWAY", "--yes"];
        args.extend(hold);
        world.run(&args)
    };
    restore().exits(0).says(
        "hostaway.yaml now puts HOSTAWAY on hold until 2099-12-31. Until you commit and push it",
    );
    let text = fs::read_to_string(world.definitions().join("hostaway.yaml")).unwrap();
    assert_eq!(
        text,
        format!("{HOSTAWAY}hold:\n  until: \"2099-12-31\"\n  reason: \"OPS-114: no\"\n")
    );
    apply(&world).exits(0);
    is_as(&world.live("HOSTAWAY"), &before);
    let updates = world.updates().len();
    restore()
        .exits(1)
        .says("puts HOSTAWAY on hold until 2099-12-31 already");
    assert_eq!(world.updates().len(), updates);
    // A hold is what suspends git, so a person can restore.
    world
        .run(&["restore", "HOSTAWAY", "--yes"])
        .exits(0)
        .says("puts HOSTAWAY on hold until 2099-12-31, so git does not undo this until then");
}

#[test]
fn restore_keeps_the_guard_rails() {
    let (world, before) = updated();
    let updates = world.updates().len();
    let restore = ["restore", "HOSTAWAY", "--yes"];
    world.write("workspace.yaml", "slug: acme-staging\n");
    world.run(&restore).exits(1);
    world.write(
        "workspace.yaml",
        "slug: acme-production\nhold: {until: 2099-12-31, reason: freeze}\n",
    );
    world
        .run(&restore)
        .exits(1)
        .says("the workspace is on hold")
        .says("restore with --override-hold")
        .does_not_say("apply --approve");
    fs::write(
        world.dir.path().join("policies.yaml"),
        "policies:\n  - name: no-key\n    each: change\n    expression: \"!change.path.startsWith('partnerKey')\"\n    \
         message: keys stay\n",
    )
    .unwrap();
    let overridden = [&restore[..], &["--override-hold", "incident 7"]].concat();
    let denied = [&overridden[..], &["--policies", "policies.yaml"]].concat();
    world.run(&denied).exits(1).says("keys stay");
    assert_eq!(world.updates().len(), updates);
    world.run(&overridden).exits(0).says("incident 7");
    is_as(&world.live("HOSTAWAY"), &before);
}

#[test]
fn restore_changes_nothing_without_a_usable_backup() {
    let (world, _) = updated();
    let updates = world.updates().len();
    let restore = ["restore", "HOSTAWAY", "--yes"];
    let file = files(&world, "HOSTAWAY").remove(0);
    let of_other = world
        .dir
        .path()
        .join("backups")
        .join(WORKSPACE)
        .join("VRBO");
    fs::create_dir(&of_other).unwrap();
    fs::copy(&file, of_other.join(file.file_name().unwrap())).unwrap();
    world
        .run(&["restore", "VRBO", "--yes"])
        .exits(1)
        .says("the workspace acme-production has no VRBO");
    let ran = world.run(&["restore", "VRBO", "-d", "nowhere"]).exits(1);
    assert_eq!(ran.err.matches("(os error 2)").count(), 1, "{}", ran.err);
    let guesty = files(&world, "GUESTY").remove(0);
    let good = fs::read(&file).unwrap();
    fs::copy(&guesty, &file).unwrap();
    world
        .run(&restore)
        .exits(1)
        .says("the backup is of another workspace or provider");
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    world.run(&restore).exits(1).says("its file is damaged");
    fs::write(&file, good).unwrap();
    write_identity(&world, &Identity::generate());
    world
        .run(&restore)
        .exits(1)
        .says("is encrypted for others: no identity of identity.txt can decrypt it");
    fs::remove_file(&file).unwrap();
    world
        .run(&restore)
        .exits(1)
        .says("there is no backup of HOSTAWAY of the workspace acme-production in backups");
    assert_eq!(world.updates().len(), updates);
}

#[test]
fn restore_names_what_it_leaves_and_who_else_manages_nothing() {
    let mut hostaway = live("HOSTAWAY", &["name"], &["rooms"]);
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": OLD_KEY}});
    let mut world = World::with(json!([hostaway]), Config::default());
    world.write("hostaway.yaml", HOSTAWAY);
    let identity = Identity::generate();
    write_identity(&world, &identity);
    world
        .env("CALRY_SECRET_HOSTAWAY", "new-partner-key-4712")
        .env("CALRY_BACKUP_DIR", "backups")
        .env("CALRY_BACKUP_RECIPIENT", &identity.to_public().to_string())
        .env("CALRY_AGE_IDENTITY_FILE", "identity.txt");
    apply(&world).exits(0);
    // Only the icon is managed now, and a restore cannot remove it.
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://e.com/new.png\n",
    );
    world
        .run(&["restore", "HOSTAWAY", "--yes"])
        .exits(1)
        .says("Not restored: icon: there was none, and an update cannot remove one")
        .says("No file manages these parts of HOSTAWAY, so git does not undo this");
    let first = files(&world, "HOSTAWAY").remove(0);
    let time = first.file_stem().unwrap().to_str().unwrap();
    let (day, hour) = time.split_once('T').unwrap();
    let at = format!("{day}T{}", hour.replace('-', ":"));
    world
        .run(&["restore", "HOSTAWAY", "--yes", "--at", &at])
        .exits(1)
        .says("the rest of HOSTAWAY is as the backup has it")
        .does_not_say("matches");
    let live = world.live("HOSTAWAY");
    assert_eq!(live["partnerKey"]["headers"]["x-api-key"], OLD_KEY);
    assert_eq!(live["fieldsToSync"]["listing"]["name"], true);
    // A provider without a file can be restored as well, whatever other files say.
    fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    world.write("guesty.yaml", "provider: GUESTY\nnothing: known\n");
    world
        .run(&["restore", "HOSTAWAY", "--yes"])
        .exits(0)
        .says("No file manages these parts of HOSTAWAY");
}

#[test]
fn restore_needs_a_directory_a_private_key_and_one_provider() {
    let (mut world, _) = updated();
    for (args, says) in [
        (&["--only", "GUESTY"][..], "remove --only"),
        (
            &["--hold-until", "2020-01-01", "--reason", "a"],
            "must not be in the past",
        ),
        (&["--hold-until", "2099-01-01"], "--reason"),
    ] {
        let args = [&["restore", "HOSTAWAY", "--yes"], args].concat();
        world.run(&args).exits(64).says(says);
    }
    world.env("CALRY_AGE_IDENTITY_FILE", "");
    let restore = ["restore", "HOSTAWAY", "--yes"];
    world.run(&restore).exits(64).says("--age-identity-file");
    world.env("CALRY_BACKUP_DIR", "");
    world.run(&restore).exits(64).says("--backup-dir");
}
