//! Secrets that are encrypted beside the definitions.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

use age::secrecy::ExposeSecret as _;
use age::x25519;

use crate::support::{Checkout, Ran, World, live};
use calry_gitops::sandbox::Config;
use serde_json::{Value, json};

const VALUE: &str = "canary-of-the-operator-4711";

struct Identity {
    file: PathBuf,
    recipient: String,
}

fn identity(world: &World, name: &str) -> Identity {
    let key = x25519::Identity::generate();
    let file = world.dir.path().join(name);
    fs::write(&file, key.to_string().expose_secret()).unwrap();
    Identity {
        recipient: key.to_public().to_string(),
        file,
    }
}

impl Identity {
    fn args<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let option = ["--age-identity-file", self.file.to_str().unwrap()];
        [command, &option].concat()
    }
}

fn world() -> World {
    let mut hostaway = live("HOSTAWAY", &["name"], &["rooms"]);
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": "before"}});
    let world = World::with(json!([hostaway]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${secret:hostaway-key}\n",
    );
    world
}

fn recipients(world: &World, all: &[&Identity]) {
    let all: Vec<&str> = all.iter().map(|one| one.recipient.as_str()).collect();
    let text = format!(
        "slug: acme-production\nsecretRecipients: [{}]\n",
        all.join(", ")
    );
    world.write("workspace.yaml", &text);
}

fn encrypt(world: &World, name: &str, value: &str) -> Ran {
    let mut command = world.command(&["encrypt", name]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(value.as_bytes())
        .unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

fn file(world: &World, name: &str) -> PathBuf {
    world.definitions().join("secrets").join(name)
}

fn live_key(world: &World) -> Value {
    world.live("HOSTAWAY")["partnerKey"]["headers"]["x-api-key"].clone()
}

#[test]
fn what_is_encrypted_for_the_daemon_is_applied_and_never_shown() {
    let world = world();
    let [daemon, person, other] = ["daemon", "person", "other"].map(|name| identity(&world, name));
    recipients(&world, &[&daemon, &person]);
    encrypt(&world, "hostaway-key", &format!("{VALUE}\n"))
        .exits(0)
        .says("secrets/hostaway-key.age created, encrypted to 2 recipients");
    let text = fs::read_to_string(file(&world, "hostaway-key.age")).unwrap();
    assert!(
        text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"),
        "{text}"
    );
    world.run(&["validate", "--strict"]).exits(0);

    // Another identity, and none.
    for ran in [
        world
            .run(&other.args(&["apply", "--yes"]))
            .says("is encrypted for others"),
        world
            .run(&["apply", "--yes"])
            .says("there is no identity to decrypt it"),
    ] {
        ran.exits(3);
    }
    assert_eq!(live_key(&world), "before");
    for command in [
        vec!["apply", "--yes"],
        vec!["plan", "-vv"],
        vec!["run", "--once"],
    ] {
        let ran = world.run(&person.args(&command)).exits(0);
        assert!(
            !format!("{}{}", ran.out, ran.err).contains(VALUE),
            "{command:?}"
        );
    }
    assert_eq!(live_key(&world), VALUE);
}

#[test]
fn a_running_daemon_applies_a_secret_that_is_encrypted_again() {
    let world = world();
    let own = identity(&world, "own");
    recipients(&world, &[&own]);
    encrypt(&world, "hostaway-key", "first").exits(0);
    let mut daemon = world.daemon(&own.args(&["--interval", "1h"]));
    daemon.line("reconciliation 1 ");
    assert_eq!(live_key(&world), "first");
    encrypt(&world, "hostaway-key", "second").exits(0);
    daemon.line("(files)");
    assert_eq!(live_key(&world), "second");
}

#[test]
fn a_secret_of_the_operator_goes_before_an_encrypted_one() {
    let mut world = world();
    let own = identity(&world, "own");
    recipients(&world, &[&own]);
    encrypt(&world, "hostaway-key", "encrypted").exits(0);
    world.env("CALRY_SECRET_HOSTAWAY_KEY", "variable");
    world.run(&own.args(&["apply", "--yes"])).exits(0);
    assert_eq!(live_key(&world), "variable");
}

#[test]
fn without_an_identity_a_plan_shows_by_the_file_which_encrypted_value_a_branch_changed() {
    let world = world();
    let own = identity(&world, "own");
    recipients(&world, &[&own]);
    encrypt(&world, "hostaway-key", "first").exits(0);
    let checkout = Checkout::of(world);
    checkout.branch("notes.txt", "");
    let plan = |args: &[&str]| {
        let args = [&["plan", "--base", "main", "--format", "json"], args].concat();
        checkout.world.run(&args).exits(0).json()["definitions"][0].clone()
    };
    let same = plan(&[]);
    assert_eq!(same["state"], "inSync");
    assert_eq!(same["unresolved"][0]["secrets"], json!(["hostaway-key"]));
    encrypt(&checkout.world, "hostaway-key", VALUE).exits(0);
    let changed = plan(&[]);
    let change = &changed["changes"][0];
    assert_eq!(
        (&change["change"], &change["origin"]),
        (&json!("encrypted"), &json!("branch"))
    );
    let text = checkout.world.run(&["plan", "--base", "main"]).exits(0);
    let text = text.says("encrypted value changed, not compared");
    assert!(!text.out.contains(VALUE));
    // With the identity it is compared.
    let option = ["--age-identity-file", own.file.to_str().unwrap()];
    assert_eq!(plan(&option)["changes"][0]["change"], "changed");
}

#[test]
fn other_recipients_are_noticed_and_everything_is_encrypted_again_to_exactly_them() {
    let world = world();
    let [old, new, both] = ["old", "new", "both"].map(|name| identity(&world, name));
    recipients(&world, &[&old, &both]);
    encrypt(&world, "hostaway-key", VALUE).exits(0);
    encrypt(&world, "guesty-key", "another").exits(0);
    recipients(&world, &[&new, &both]);
    let ran = world.run(&["validate"]).exits(0);
    let ran = ran
        .says("warning[recipients]")
        .says("is still encrypted to age1");
    assert_eq!(
        ran.err.matches("and not yet to age1").count(),
        2,
        "{}",
        ran.err
    );
    // A person must see who can decrypt the secrets afterwards.
    let again = ["encrypt", "--again"];
    world
        .run(&both.args(&again))
        .exits(1)
        .says(&format!("{}  (new)", new.recipient))
        .says("nothing was written");
    world
        .run(&new.args(&["encrypt", "--again", "--yes"]))
        .exits(1)
        .says("is encrypted for others");
    world
        .run(&both.args(&["encrypt", "--again", "--yes"]))
        .exits(0)
        .says("2 secrets encrypted to 2 recipients");
    world.run(&["validate", "--strict"]).exits(0);
    world.run(&both.args(&again)).exits(0);
    world.run(&old.args(&["apply", "--yes"])).exits(3);
    world.run(&new.args(&["apply", "--yes"])).exits(0);
    assert_eq!(live_key(&world), VALUE);
}

#[test]
fn a_value_that_no_secret_can_have_is_not_encrypted() {
    let world = world();
    let own = identity(&world, "own");
    world.write("workspace.yaml", "slug: acme-production\n");
    encrypt(&world, "hostaway-key", VALUE)
        .exits(1)
        .says("age-keygen");
    recipients(&world, &[&own]);
    for (value, says) in [
        ("", "is empty"),
        ("a\nb", "contains a line break"),
        ("a ", "ends with a space"),
        (&"x".repeat(70_000), "is larger than 64 KiB"),
    ] {
        encrypt(&world, "hostaway-key", value).exits(1).says(says);
    }
    assert!(!file(&world, "hostaway-key.age").exists());
    encrypt(&world, "../key", VALUE).exits(64);
    let bad = "slug: acme-production\nsecretRecipients: [ssh-ed25519, 1]\n";
    world.write("workspace.yaml", bad);
    world
        .run(&["validate"])
        .exits(3)
        .says("is not a public key of age");
}

#[test]
fn nothing_is_encrypted_if_one_file_of_it_is_a_link() {
    let world = world();
    let [own, other] = ["own", "other"].map(|name| identity(&world, name));
    recipients(&world, &[&own]);
    encrypt(&world, "hostaway-key", VALUE).exits(0);
    let before = fs::read(file(&world, "hostaway-key.age")).unwrap();
    let record = world.dir.path().join("record");
    fs::rename(file(&world, "recipients.txt"), &record).unwrap();
    symlink(&record, file(&world, "recipients.txt")).unwrap();
    let unchanged = |ran: Ran| {
        let ran = ran
            .exits(1)
            .says("secrets/recipients.txt is a symbolic link");
        ran.says("nothing was written").says("a copy of its target");
        let after = fs::read(file(&world, "hostaway-key.age")).unwrap();
        assert!(after == before);
    };
    unchanged(encrypt(&world, "hostaway-key", "new"));
    recipients(&world, &[&own, &other]);
    unchanged(world.run(&own.args(&["encrypt", "--again", "--yes"])));
    // What the help says works.
    fs::remove_file(file(&world, "recipients.txt")).unwrap();
    fs::copy(&record, file(&world, "recipients.txt")).unwrap();
    encrypt(&world, "hostaway-key", "new")
        .exits(0)
        .says("replaced");
}

#[test]
fn a_link_in_place_of_a_secret_is_removed_before_it_is_encrypted_again() {
    let world = world();
    let own = identity(&world, "own");
    recipients(&world, &[&own]);
    fs::create_dir(file(&world, "")).unwrap();
    symlink("/nowhere", file(&world, "hostaway-key.age")).unwrap();
    world
        .run(&["validate"])
        .exits(3)
        .says("remove it, then write it again: `calry-gitops encrypt hostaway-key`");
    let ran = encrypt(&world, "hostaway-key", VALUE).exits(1);
    let ran = ran.says("help: remove the link, then run the command again");
    assert!(!ran.err.contains("edit its target"), "{}", ran.err);
    assert!(!file(&world, "recipients.txt").exists());
    fs::remove_file(file(&world, "hostaway-key.age")).unwrap();
    encrypt(&world, "hostaway-key", VALUE)
        .exits(0)
        .says("created");
}

#[test]
fn without_a_workspace_file_encrypt_names_the_workspaces_of_a_shared_directory() {
    let world = world();
    encrypt(&world, "hostaway-key", VALUE)
        .exits(1)
        .says("has no workspace.yaml")
        .says("in each workspace that extends it");
    assert!(!file(&world, "").exists());
}

#[test]
fn a_damaged_file_is_an_error_of_its_own_and_of_who_refers_to_it() {
    let world = world();
    let own = identity(&world, "own");
    recipients(&world, &[&own]);
    fs::create_dir(file(&world, "")).unwrap();
    fs::write(file(&world, "hostaway-key.age"), VALUE).unwrap();
    fs::write(file(&world, "Not A Secret.age"), VALUE).unwrap();
    let ran = world.run(&own.args(&["plan"])).exits(3);
    let ran = ran
        .says("secrets/hostaway-key.age")
        .says("is not encrypted with age, or is damaged")
        .says("secret `hostaway-key` not found")
        .says("its name is not that of a secret");
    assert!(!ran.err.contains(VALUE), "{}", ran.err);
    fs::write(&own.file, "hunter2").unwrap();
    encrypt(&world, "hostaway-key", VALUE).exits(0);
    let ran = world.run(&own.args(&["plan"])).exits(3);
    let ran = ran.says("is not a file of age identities");
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
}

#[test]
fn pull_names_encrypt_for_what_is_missing_and_takes_an_encrypted_secret_for_present() {
    let world = world();
    let own = identity(&world, "own");
    recipients(&world, &[&own]);
    world
        .run(&["pull"])
        .exits(0)
        .says("hostaway-key")
        .says("calry-gitops encrypt NAME");
    encrypt(&world, "hostaway-key", "before").exits(0);
    let ran = world.run(&["pull"]).exits(0);
    assert!(!ran.out.contains("hostaway-key"), "{}", ran.out);
    // With another value in Calry, and an identity.
    encrypt(&world, "hostaway-key", "another").exits(0);
    world
        .run(&own.args(&["pull"]))
        .exits(0)
        .says("Secrets with another value in Calry");
}
