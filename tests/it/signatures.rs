//! Which commits are applied, by the real binary and by the library, in repositories created without git. tests/signatures.sh
//! tests the same with commits by git and ssh-keygen.

use crate::support::git_server::GitServer;
use crate::support::{Checkout, PATIENCE, Signer, World, live, until};
use calry_gitops::desired::git::{
    CommitId, TrustError, TrustPolicy, TrustedDefinitions, TrustedKeyFiles, TrustedLoadError,
    load_trusted,
};
use calry_gitops::sandbox::Config;
use gix::ObjectId;
use serde_json::json;

/// A checkout with one commit, which is not signed.
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

    fn load(&self, policy: &TrustPolicy) -> Result<TrustedDefinitions, TrustedLoadError> {
        load_trusted(&self.world.definitions(), policy)
    }

    /// The id of the commit in force.
    fn in_force(&self, policy: &TrustPolicy) -> String {
        self.load(policy).unwrap().revision.commit
    }

    /// How many commits it is older than the checkout.
    fn behind(&self, policy: &TrustPolicy) -> Option<u32> {
        self.load(policy).unwrap().refused.unwrap().behind
    }
}

fn policy(checkout: &Checkout, signers: &[&Signer]) -> TrustPolicy {
    let keys = TrustedKeyFiles {
        signers: Some(checkout.allow(signers).into()),
        keys: None,
    };
    TrustPolicy::new(keys, None)
}

#[test]
fn an_unsigned_commit_is_refused_and_the_last_trusted_one_stays_in_force() {
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
    let line = daemon.line(
        "is refused: the commit is signed by a key that is not among the allowed signers (SHA256:",
    );
    assert!(
        line.contains(&short(two))
            && line.ends_with(&format!("; revision {} stays in force", short(one))),
        "{line}"
    );
    until("the status shows the commit", || {
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
    let status = checkout
        .world
        .run(&["status", "--address", &address])
        .exits(1);
    let headline = format!(
        "commit {} refused; {} stays in force, 1 commit behind",
        short(two),
        short(one)
    );
    status.says(&headline);
    assert!(daemon.get("/").body.contains("refused; "));

    let mut edited = checkout.world.live("HOSTAWAY");
    edited["icon"] = url("edited").into();
    checkout.world.sandbox.set_definition("HOSTAWAY", edited);
    daemon.line("HOSTAWAY drifted; drift undone: icon");
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
fn a_process_that_starts_finds_the_last_trusted_commit_or_does_nothing() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let once = || {
        checkout
            .world
            .run(&["run", "--once", "--allowed-signers", &signers])
    };
    once()
        .exits(1)
        .says("the commit is not signed, and no other commit is known");
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
fn plan_and_apply_use_the_checked_out_commit_or_fail() {
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
            .says("the commit is not signed; nothing is planned; help: check out");
    }
    assert!(checkout.world.requests().is_empty());
    checkout.world.run(&["apply", "--yes"]).exits(0);
    assert_eq!(icon(&checkout), url("2"));
}

#[test]
fn an_uncommitted_change_is_not_applied() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    checkout.next("1", Some(&ada()), checkout.main);
    checkout.world.write("hostaway.yaml", &file("2"));
    let once = checkout
        .world
        .run(&["run", "--once", "--allowed-signers", &signers]);
    once.exits(1).says(
        "the definition files differ from the commit, and the difference is not signed; revision",
    );
    assert_eq!(icon(&checkout), url("1"));
}

#[test]
fn a_trusted_revision_is_one_commit() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let one = checkout.next("1", None, checkout.main).to_string();
    let apply = |args: &[&str]| checkout.world.run(&[&["apply", "--yes"], args].concat());
    for short in [&one[..39], &one[..10], "main", ""] {
        apply(&["--trusted-revision", short])
            .exits(64)
            .says("full commit id");
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
fn an_unusable_list_of_signers_trusts_no_commit() {
    let checkout = checkout();
    let signers = checkout.allow(&[]);
    checkout.next("1", Some(&ada()), checkout.main);
    let plan = || {
        checkout
            .world
            .run(&["plan", "--allowed-signers", &signers])
            .exits(1)
    };
    plan().says("contain no key");
    std::fs::write(&signers, format!("\na cert-authority {}\n", ada().public())).unwrap();
    plan().says("is invalid: cert-authority is not supported");
    std::fs::remove_file(&signers).unwrap();
    plan().says("cannot be read");
}

#[test]
fn rewritten_history_does_not_replace_the_commit_in_force() {
    let checkout = checkout();
    let policy = policy(&checkout, &[&ada()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let two = checkout.next("2", Some(&ada()), one);
    assert_eq!(checkout.in_force(&policy), two.to_string());
    checkout.next("3", None, one);
    assert_eq!(checkout.in_force(&policy), two.to_string());
    assert_eq!(checkout.behind(&policy), None, "it is not an ancestor");
    // The commit in force stays without the repository, too.
    std::fs::remove_dir_all(checkout.world.dir.path().join(".git")).unwrap();
    let kept = checkout.load(&policy).unwrap();
    assert_eq!(kept.revision.commit, two.to_string());
    assert!(matches!(
        kept.refused.unwrap().reason,
        TrustError::NoCheckout(_)
    ));
    assert_eq!(kept.loaded.files.len(), 1);
}

#[test]
fn a_newer_trusted_commit_below_an_untrusted_one_comes_into_force() {
    let checkout = checkout();
    let policy = policy(&checkout, &[&ada()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    assert_eq!(checkout.in_force(&policy), one.to_string());
    let two = checkout.next("2", Some(&ada()), one);
    let three = checkout.next("3", None, two);
    assert_eq!(checkout.in_force(&policy), two.to_string());
    assert_eq!(checkout.behind(&policy), Some(1));
    checkout.next("4", None, three);
    assert_eq!(checkout.behind(&policy), Some(2));
    let started = self::policy(&checkout, &[&ada()]);
    assert_eq!(checkout.behind(&started), Some(2), "a new process");
}

#[test]
fn commits_of_a_removed_key_lose_trust() {
    let checkout = checkout();
    let policy = policy(&checkout, &[&ada(), &mallory()]);
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let two = checkout.next("2", Some(&mallory()), one);
    assert_eq!(checkout.in_force(&policy), two.to_string());
    checkout.allow(&[&ada()]);
    assert_eq!(checkout.in_force(&policy), one.to_string());
    checkout.allow(&[&Signer::new(3)]);
    assert!(matches!(
        checkout.load(&policy),
        Err(TrustedLoadError::NoTrustedCommit(_))
    ));
}

#[test]
fn a_replaced_object_in_the_repository_is_refused() {
    let checkout = checkout();
    let policy = policy(&checkout, &[&ada()]);
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
    let Err(TrustedLoadError::NoTrustedCommit(refused)) = checkout.load(&policy) else {
        panic!("it is trusted")
    };
    assert!(
        refused.to_string().contains("does not match its id"),
        "{refused}"
    );
}

#[test]
fn the_search_for_a_trusted_commit_has_a_limit() {
    let checkout = checkout();
    let after_a_start = || checkout.load(&policy(&checkout, &[&ada()]));
    let mut at = checkout.next("1", Some(&ada()), checkout.main);
    for _ in 0..1_000 {
        at = checkout.commit("refs/heads/main", &[at]);
    }
    assert!(after_a_start().is_ok());
    checkout.commit("refs/heads/main", &[at]);
    assert!(matches!(
        after_a_start(),
        Err(TrustedLoadError::NoTrustedCommit(_))
    ));
    let id = CommitId::parse(&at.to_string()).unwrap();
    assert_eq!(
        checkout.in_force(&TrustPolicy::new(TrustedKeyFiles::default(), Some(id))),
        at.to_string()
    );
}

#[test]
fn a_commit_has_warnings_about_files_that_are_not_read() {
    let checkout = checkout();
    std::fs::create_dir(checkout.world.definitions().join("eu")).unwrap();
    checkout
        .world
        .write("eu/lodgify.yaml", "provider: LODGIFY\n");
    checkout.world.write("TOKEET.YAML", "provider: TOKEET\n");
    let one = checkout.next("1", Some(&ada()), checkout.main);
    let loaded = checkout.load(&policy(&checkout, &[&ada()])).unwrap().loaded;
    let named: Vec<&str> = loaded
        .diagnostics
        .iter()
        .map(|found| found.file.as_str())
        .collect();
    assert_eq!(named, ["TOKEET.YAML", "eu/lodgify.yaml"]);
    // Without a definition, the commit is an empty directory, and the error names the other files.
    std::fs::remove_file(checkout.world.definitions().join("hostaway.yaml")).unwrap();
    checkout.signed(&ada(), &[one]);
    let error = checkout
        .load(&policy(&checkout, &[&ada()]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("TOKEET.YAML and 1 more"), "{error}");
}

#[test]
fn a_signature_by_a_key_of_either_file_counts() {
    let checkout = checkout();
    let signers = checkout.allow(&[&ada()]);
    let keys = checkout.allow_openpgp(&[&mallory()]);
    let apply = |args: &[&str]| checkout.world.run(&[&["apply", "--yes"], args].concat());
    let both = ["--allowed-signers", &signers, "--allowed-keys", &keys];
    let one = checkout.next("1", Some(&ada()), checkout.main);
    apply(&both).exits(0);
    apply(&both[2..]).exits(1).says(
        "the commit is signed with an SSH key, and no SSH key is allowed (--allowed-signers)",
    );
    checkout.world.write("hostaway.yaml", &file("2"));
    let two = checkout.signed_with_openpgp(&mallory(), &[one]);
    apply(&both).exits(0);
    assert_eq!(icon(&checkout), url("2"));
    apply(&both[..2])
        .exits(1)
        .says("the commit is signed with OpenPGP, and no OpenPGP key is allowed (--allowed-keys)");
    // A key is of one kind: Ada's counts for SSH only.
    checkout.world.write("hostaway.yaml", &file("3"));
    checkout.signed_with_openpgp(&ada(), &[two]);
    apply(&both)
        .exits(1)
        .says("the commit is signed by a key that is not among the allowed keys (");
    assert_eq!(icon(&checkout), url("2"));
    // The file is read at each load.
    checkout.allow_openpgp(&[&ada(), &mallory()]);
    apply(&both).exits(0);
    assert_eq!(icon(&checkout), url("3"));
}

#[test]
fn an_unusable_file_of_openpgp_keys_trusts_no_commit() {
    let checkout = checkout();
    let keys = checkout.allow_openpgp(&[]);
    checkout.signed_with_openpgp(&ada(), &[checkout.main]);
    let plan = || {
        checkout
            .world
            .run(&["plan", "--allowed-keys", &keys])
            .exits(1)
    };
    plan().says("contain no key");
    checkout.allow_openpgp(&[&ada(), &ada()]);
    plan()
        .says("are invalid: certificate 2 (")
        .says("duplicate certificate");
    std::fs::write(&keys, "-----BEGIN PGP PRIVATE KEY BLOCK-----\n").unwrap();
    plan().says("are invalid: it contains a private key");
    std::fs::write(&keys, vec![b'#'; (1 << 20) + 1]).unwrap();
    plan().says("is larger than 1024 KiB");
    std::fs::remove_file(&keys).unwrap();
    plan().says("cannot be read");
}

#[test]
fn a_signed_tag_brings_its_commit_into_force_and_no_other_tag_does() {
    let server = GitServer::start();
    let checkout = checkout();
    let keys = checkout.allow_openpgp(&[&ada()]);
    let commit = |icon: &str| {
        let text = file(icon);
        server.commit("main", &[("definitions/hostaway.yaml", text.as_str())])
    };
    let tag = |own: &str, by: &Signer| {
        server.signed_tag("stable", own, "main", |text| by.openpgp_signature(text));
    };
    let one = commit("1");
    tag("stable", &ada());
    let mut daemon = checkout.world.daemon(&[
        "--git-url",
        &server.url(),
        "--git-ref",
        "stable",
        "--git-interval",
        "1s",
        "--verify",
        "tag",
        "--allowed-keys",
        &keys,
    ]);
    daemon.line("HOSTAWAY updated: icon");
    assert_eq!(icon(&checkout), url("1"));
    let mut is_refused = |reason: &str| {
        let line = daemon.line(reason);
        let stays = format!("; revision {} stays in force", &one[..10]);
        assert!(line.ends_with(&stays), "{line}");
        assert_eq!(icon(&checkout), url("1"));
    };
    // A branch of the tag's name changes nothing, and neither do other tags.
    server.set("refs/heads/stable", Some(&commit("2")));
    server.tag("stable", "stable", "main", None);
    is_refused("is refused: the tag is not signed");
    tag("stable", &mallory());
    is_refused("is refused: the tag is signed by a key that is not among the allowed keys (");
    tag("beta", &ada());
    is_refused("is refused: the tag was signed under another name (beta)");
    let light = commit("3");
    server.set("refs/tags/stable", Some(&light));
    is_refused("is refused: the tag is not an annotated one");
    tag("stable", &ada());
    daemon.line("the checked-out commit is trusted again");
    until("the commit of the tag is applied", || {
        icon(&checkout) == url("3")
    });
}
