//! Whose commits are applied, by the real binary and the library, in repositories made here without git. tests/signatures.sh
//! asks the same of commits that git and ssh-keygen made.

use crate::support::{Checkout, PATIENCE, Signer, World, live, until};
use calry_gitops::desired::git::{CommitId, Distrust, Trust, TrustError, Trusted, trusted};
use calry_gitops::sandbox::Config;
use gix::ObjectId;
use serde_json::json;

/// A checkout whose one commit, by nobody, switches Hostaway's pictures on; what comes after it says `icon`.
fn checkout() -> Checkout {
    let world = World::with(
        json!([live("HOSTAWAY", &[], &["pictures"])]),
        Config::default(),
    );
    world.write("hostaway.yaml", &file("0"));
    Checkout::of(world)
}

fn file(icon: &str) -> String {
    format!("provider: HOSTAWAY\nicon: {}\n", url(icon))
}

fn url(icon: &str) -> String {
    format!("https://cdn.example.com/{icon}.png")
}

fn icon(checkout: &Checkout) -> String {
    checkout.world.live("HOSTAWAY")["icon"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn ada() -> Signer {
    Signer::new(1)
}

fn mallory() -> Signer {
    Signer::new(2)
}

impl Checkout {
    fn next(&self, icon: &str, by: Option<&Signer>, parent: ObjectId) -> ObjectId {
        self.world.write("hostaway.yaml", &file(icon));
        match by {
            Some(by) => self.signed(by, &[parent]),
            None => self.commit("refs/heads/main", &[parent]),
        }
    }

    fn find(&self, trust: &Trust) -> Result<Trusted, TrustError> {
        trusted(&self.world.definitions(), trust)
    }

    /// The commit in force.
    fn in_force(&self, trust: &Trust) -> String {
        self.find(trust).unwrap().revision.commit
    }
}

fn trust(checkout: &Checkout, signers: &[&Signer]) -> Trust {
    Trust::new(Some(checkout.allow(signers).into()), None)
}

#[test]
fn what_is_not_signed_is_refused_and_the_last_trusted_revision_stays_in_force_with_drift_put_back()
{
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let mut daemon = checkout
        .world
        .daemon(&["--interval", "1s", "--allowed-signers", &signers]);
    daemon.line("HOSTAWAY updated: icon");
    daemon.line("reconciliation 1 (start)");
    assert_eq!(daemon.status()["trust"], json!({"trusted": true}));
    assert!(
        daemon
            .get("/metrics")
            .body
            .contains("calry_gitops_revision_trusted{workspace=\"acme-production\"} 1\n")
    );

    let two = checkout.next("2", Some(&mallory()), one);
    let short = |id: ObjectId| id.to_string()[..10].to_owned();
    let said = daemon.line(
        "is refused: the key that signed the commit is not among the allowed signers (SHA256:",
    );
    assert!(
        said.contains(&short(two))
            && said.ends_with(&format!("; revision {} stays in force", short(one))),
        "{said}"
    );
    until("the status tells", || {
        daemon.status()["trust"]["commit"] == two.to_string()
    });
    let status = daemon.status();
    assert_eq!(
        (&status["trust"]["trusted"], &status["revision"]["commit"]),
        (&json!(false), &json!(one.to_string()))
    );
    assert!(
        daemon
            .get("/metrics")
            .body
            .contains("calry_gitops_revision_trusted{workspace=\"acme-production\"} 0\n")
    );
    let address = format!("http://{}", daemon.address());
    let told = checkout
        .world
        .run(&["status", "--address", &address])
        .exits(1);
    let headline = format!(
        "commit {} refused; {} stays in force",
        short(two),
        short(one)
    );
    told.says(&headline);
    assert!(daemon.get("/").body.contains("refused; "));

    let mut clicked = checkout.world.live("HOSTAWAY");
    clicked["icon"] = url("somebody").into();
    checkout.world.sandbox.set_definition("HOSTAWAY", clicked);
    daemon.line("HOSTAWAY drifted, and was put back: icon");
    assert_eq!(icon(&checkout), url("1"));

    checkout.next("3", Some(&ada()), two);
    daemon.line("the checked-out commit is trusted again");
    until("the signed one is applied", || icon(&checkout) == url("3"));
    assert!(
        !checkout
            .world
            .updates()
            .iter()
            .any(|update| format!("{update:?}").contains("/2.png"))
    );
    daemon.drain();
    let refused = daemon
        .seen
        .iter()
        .filter(|line| line.contains("not among the allowed signers"));
    assert_eq!(refused.count(), 1, "{:#?} in {PATIENCE:?}", daemon.seen);
}

#[test]
fn a_process_that_starts_finds_the_last_trusted_revision_among_the_commits_before_or_does_nothing()
{
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let once = || {
        checkout
            .world
            .run(&["run", "--once", "--allowed-signers", &signers])
    };
    once()
        .exits(1)
        .says("the commit is not signed, and no trusted revision is known");
    assert!(checkout.world.requests().is_empty());

    let one = checkout.next("1", Some(&ada()), checkout.main);
    let two = checkout.next("2", None, one);
    checkout.next("3", None, two);
    once()
        .exits(1)
        .says("is refused: the commit is not signed; revision");
    assert_eq!(icon(&checkout), url("1"));
}

#[test]
fn plan_and_apply_mean_what_is_checked_out_or_nothing() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    checkout.next("2", None, one);
    for command in [&["plan"][..], &["apply", "--yes"]] {
        let args = [command, &["--allowed-signers", &signers]].concat();
        checkout
            .world
            .run(&args)
            .exits(1)
            .says("the commit is not signed; nothing is planned: check out a commit that");
    }
    assert!(checkout.world.requests().is_empty());
    checkout.world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(icon(&checkout), url("2"));
}

#[test]
fn what_is_in_the_directory_and_in_no_commit_is_not_applied() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    checkout.next("1", Some(&ada()), checkout.main);
    checkout.world.write("hostaway.yaml", &file("2"));
    let once = checkout
        .world
        .run(&["run", "--once", "--allowed-signers", &signers]);
    once.exits(1).says(
        "the definition files differ from the commit, and nobody signed the difference; revision",
    );
    assert_eq!(icon(&checkout), url("1"));
}

#[test]
fn the_emergency_exit_is_one_commit_wide() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let one = checkout.next("1", None, checkout.main).to_string();
    let apply = |args: &[&str]| checkout.world.run(&[&["apply", "--yes"], args].concat());
    for short in [&one[..39], &one[..10], "main", ""] {
        apply(&["--trusted-revision", short])
            .exits(64)
            .says("a commit is named by its full id");
    }
    apply(&["--trusted-revision", &one, "--allowed-signers", &signers]).exits(0);
    assert_eq!(icon(&checkout), url("1"));
    apply(&["--trusted-revision", &one]).exits(0);
    checkout.next("2", None, checkout.main);
    apply(&["--trusted-revision", &one, "--allowed-signers", &signers])
        .exits(1)
        .says("the commit is not signed");
    apply(&["--trusted-revision", &one])
        .exits(1)
        .says("not the one that --trusted-revision names");
}

#[test]
fn a_list_of_signers_that_cannot_be_used_trusts_nobody() {
    let checkout = checkout();
    let signers = checkout.allow(&[]);
    checkout.next("1", Some(&ada()), checkout.main);
    let plan = || {
        checkout
            .world
            .run(&["plan", "--allowed-signers", &signers])
            .exits(1)
    };
    plan().says("hold no key");
    std::fs::write(&signers, format!("\na cert-authority {}\n", ada().public())).unwrap();
    plan().says("are invalid in line 2: cert-authority is not supported");
    std::fs::remove_file(&signers).unwrap();
    plan().says("cannot be read");
}

#[test]
fn rewritten_history_does_not_take_back_what_was_in_force() {
    let checkout = checkout();
    let trust = trust(&checkout, &[&ada()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let two = checkout.next("2", Some(&ada()), one);
    assert_eq!(checkout.in_force(&trust), two.to_string());
    checkout.next("3", None, one);
    assert_eq!(checkout.in_force(&trust), two.to_string());
    // Nothing of the repository is needed for that.
    std::fs::remove_dir_all(checkout.world.dir.path().join(".git")).unwrap();
    let kept = checkout.find(&trust).unwrap();
    assert_eq!(kept.revision.commit, two.to_string());
    assert!(matches!(
        kept.refused.unwrap().reason,
        Distrust::NoCheckout(_)
    ));
    assert_eq!(kept.loaded.files.len(), 1);
}

#[test]
fn a_newer_trusted_commit_below_one_that_is_not_comes_into_force() {
    let checkout = checkout();
    let trust = trust(&checkout, &[&ada()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    assert_eq!(checkout.in_force(&trust), one.to_string());
    let two = checkout.next("2", Some(&ada()), one);
    checkout.next("3", None, two);
    assert_eq!(checkout.in_force(&trust), two.to_string());
}

#[test]
fn a_key_that_is_taken_off_the_list_takes_with_it_what_it_signed() {
    let checkout = checkout();
    let trust = trust(&checkout, &[&ada(), &mallory()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let two = checkout.next("2", Some(&mallory()), one);
    assert_eq!(checkout.in_force(&trust), two.to_string());
    checkout.allow(&[&ada()]);
    assert_eq!(checkout.in_force(&trust), one.to_string());
    checkout.allow(&[&Signer::new(3)]);
    assert!(matches!(checkout.find(&trust), Err(TrustError::Nothing(_))));
}

#[test]
fn an_object_that_was_exchanged_in_the_repository_is_refused() {
    let checkout = checkout();
    let trust = trust(&checkout, &[&ada()]);
    checkout.next("1", Some(&ada()), checkout.main);
    let good = checkout
        .repository
        .write_blob(file("1"))
        .unwrap()
        .to_string();
    let other = checkout
        .repository
        .write_blob(file("2"))
        .unwrap()
        .to_string();
    let objects = checkout.world.dir.path().join(".git/objects");
    let at = |id: &str| objects.join(&id[..2]).join(&id[2..]);
    std::fs::rename(at(&other), at(&good)).unwrap();
    let Err(TrustError::Nothing(refused)) = checkout.find(&trust) else {
        panic!("it is trusted")
    };
    assert!(refused.to_string().contains("is another one"), "{refused}");
}

#[test]
fn a_walk_back_ends() {
    let checkout = checkout();
    let after_a_start = || checkout.find(&trust(&checkout, &[&ada()]));
    let mut at = checkout.next("1", Some(&ada()), checkout.main);
    for _ in 0..1_000 {
        at = checkout.commit("refs/heads/main", &[at]);
    }
    assert!(after_a_start().is_ok());
    checkout.commit("refs/heads/main", &[at]);
    assert!(matches!(after_a_start(), Err(TrustError::Nothing(_))));
    let id = CommitId::parse(&at.to_string()).unwrap();
    assert_eq!(
        checkout.in_force(&Trust::new(None, Some(id))),
        at.to_string()
    );
}

#[test]
fn a_commit_names_the_files_that_look_meant_and_are_not_read() {
    let checkout = checkout();
    std::fs::create_dir(checkout.world.definitions().join("eu")).unwrap();
    checkout
        .world
        .write("eu/lodgify.yaml", "provider: LODGIFY\n");
    checkout.world.write("TOKEET.YAML", "provider: TOKEET\n");
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let loaded = checkout.find(&trust(&checkout, &[&ada()])).unwrap().loaded;
    let named: Vec<&str> = loaded
        .diagnostics
        .iter()
        .map(|found| found.file.as_str())
        .collect();
    assert_eq!(named, ["TOKEET.YAML", "eu/lodgify.yaml"]);
    // Without any file that is read, the commit is an empty directory, which says why.
    std::fs::remove_file(checkout.world.definitions().join("hostaway.yaml")).unwrap();
    checkout.signed(&ada(), &[one]);
    let error = checkout
        .find(&trust(&checkout, &[&ada()]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("TOKEET.YAML and 1 more"), "{error}");
}
