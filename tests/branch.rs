//! Whose change is it: this branch's, or drift that was there before? Repositories are made here, without git.

#![allow(clippy::unwrap_used)]

mod support;

use calry_gitops::sandbox::Config;
use serde_json::{Value, json};
use support::{Checkout, Ran, World, live};

const HOSTAWAY: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n";
const GUESTY: &str = "provider: GUESTY\nicon: https://cdn.example.com/guesty.png\n";

/// A branch of a repository where HOSTAWAY and GUESTY want one thing each on `main` that Calry does not have.
fn pull_request() -> Checkout {
    let world = World::with(
        json!([
            live("HOSTAWAY", &["name"], &["rooms", "pictures"]),
            live("GUESTY", &["name"], &["rooms"]),
            live("LODGIFY", &["name"], &["rooms"]),
        ]),
        Config::default(),
    );
    world.write("hostaway.yaml", HOSTAWAY).write("guesty.yaml", GUESTY);
    world.write("lodgify.yaml", "provider: LODGIFY\nfieldsToSync:\n  listing: [name]\n");
    Checkout::of(world)
}

trait Plans {
    fn plan(&self, args: &[&str]) -> Ran;
    /// `PROVIDER path origin`, of every change.
    fn origins(&self, args: &[&str]) -> Vec<String>;
}

impl Plans for Checkout {
    fn plan(&self, args: &[&str]) -> Ran {
        let mut all = vec!["plan", "--base", "main"];
        all.extend(args);
        self.world.run(&all)
    }

    fn origins(&self, args: &[&str]) -> Vec<String> {
        let mut all = vec!["--format", "json"];
        all.extend(args);
        let plan = self.plan(&all).json();
        assert_eq!(plan["base"]["commit"], self.main.to_string());
        let mut said = Vec::new();
        for definition in plan["definitions"].as_array().unwrap() {
            for change in definition["changes"].as_array().unwrap() {
                let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
                said.push(format!(
                    "{} {} {}",
                    text(&definition["provider"]),
                    text(&change["path"]),
                    text(&change["origin"])
                ));
            }
        }
        said
    }
}

#[test]
fn what_the_base_wanted_already_is_drift_and_the_rest_is_the_branchs() {
    let checkout = pull_request();
    checkout.branch("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures, rooms]\n");
    assert_eq!(
        checkout.origins(&[]),
        [
            "GUESTY icon drift",
            "HOSTAWAY fieldsToSync.listing.pictures drift",
            "HOSTAWAY fieldsToSync.listing.rooms branch",
        ]
    );
    let text = checkout.plan(&[]).exits(0);
    insta::assert_snapshot!("branch_text", redacted(&checkout, &text.out));
    let markdown = checkout.plan(&["--format", "markdown"]).exits(0);
    insta::assert_snapshot!("branch_markdown", redacted(&checkout, &markdown.out));
    let github = checkout.plan(&["--format", "github"]).exits(0);
    insta::assert_snapshot!("branch_github", redacted(&checkout, &github.out));
}

/// Commits and digests hold times, which differ from run to run.
fn redacted(checkout: &Checkout, text: &str) -> String {
    let head = checkout.repository.head_id().unwrap().to_string();
    let main = checkout.main.to_string();
    let text = text.replace(&head[..10], "HEAD").replace(&main[..10], "MAIN");
    let Some((before, digest)) = text.split_once("sha256:") else { return text };
    format!("{before}sha256:DIGEST{}", &digest[64..])
}

#[test]
fn pending_speaks_of_the_branchs_changes_and_of_drift_where_that_is_asked() {
    let checkout = pull_request();
    // A branch that touches nothing: what is due was due before.
    checkout.branch("notes.yaml.txt", "nothing");
    checkout
        .plan(&["--detailed-exitcode"])
        .exits(0)
        .says("This branch changes nothing in Calry; 2 had drifted before.");
    checkout.plan(&["--detailed-exitcode", "--fail-on-drift"]).exits(2);
    checkout.world.run(&["plan", "--detailed-exitcode"]).exits(2);
    // Asking for one half of it is a mistake that nobody would notice.
    checkout.plan(&["--fail-on-drift"]).exits(64);
    checkout.world.run(&["plan", "--fail-on-drift", "--detailed-exitcode"]).exits(64);

    checkout.branch("lodgify.yaml", "provider: LODGIFY\nfieldsToSync:\n  listing: [name, rooms]\n");
    checkout.plan(&["--detailed-exitcode"]).exits(2);
    checkout.plan(&["--detailed-exitcode", "--only", "GUESTY"]).exits(0);
    checkout.plan(&["--detailed-exitcode", "--fail-on-drift", "--only", "GUESTY"]).exits(2);
}

#[test]
fn a_branch_that_adopts_drift_has_nothing_pending() {
    let checkout = pull_request();
    checkout.branch("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n");
    assert_eq!(checkout.origins(&[]), ["GUESTY icon drift"]);
}

#[test]
fn the_base_is_where_the_branch_began_and_not_where_main_is_now() {
    let checkout = pull_request();
    checkout.branch("lodgify.yaml", "provider: LODGIFY\nfieldsToSync:\n  listing: [name, rooms]\n");
    // Meanwhile main wants the same of LODGIFY; the change is the branch's all the same.
    checkout.commit("refs/heads/main", &[checkout.main]);
    assert!(checkout.origins(&[]).contains(&"LODGIFY fieldsToSync.listing.rooms branch".to_owned()));
}

#[test]
fn a_new_file_a_new_group_and_the_end_of_a_hold_are_the_branchs() {
    let checkout = pull_request();
    checkout.branch("guesty.yaml", &format!("{GUESTY}fieldsToSync:\n  listing: [rooms]\n"));
    let origins = checkout.origins(&["--only", "GUESTY"]);
    assert_eq!(
        origins,
        ["GUESTY icon drift", "GUESTY fieldsToSync.listing.name branch", "GUESTY fieldsToSync.listing.rooms branch"]
    );

    let mut checkout = pull_request();
    let hold = "hold:\n  until: 2099-12-31\n  reason: a migration\n";
    checkout.world.write("hostaway.yaml", &format!("{HOSTAWAY}{hold}"));
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    checkout.branch("hostaway.yaml", HOSTAWAY);
    assert_eq!(checkout.origins(&["--only", "HOSTAWAY"]), ["HOSTAWAY fieldsToSync.listing.pictures branch"]);
    // What is held is told apart, too, and is not pending.
    checkout.branch("hostaway.yaml", &format!("{HOSTAWAY}{hold}"));
    assert_eq!(checkout.origins(&["--only", "HOSTAWAY"]), ["HOSTAWAY fieldsToSync.listing.pictures drift"]);
    checkout.plan(&["--detailed-exitcode", "--fail-on-drift", "--only", "HOSTAWAY"]).exits(0);

    std::fs::remove_file(checkout.world.definitions().join("lodgify.yaml")).unwrap();
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    checkout.branch("lodgify.yaml", "provider: LODGIFY\nfieldsToSync:\n  listing: [rooms]\n");
    assert!(
        checkout.origins(&[]).iter().filter(|line| line.starts_with("LODGIFY")).all(|line| line.ends_with("branch"))
    );
}

#[test]
fn a_removed_file_is_told_and_changes_nothing() {
    let checkout = pull_request();
    std::fs::remove_file(checkout.world.definitions().join("lodgify.yaml")).unwrap();
    checkout.branch("guesty.yaml", GUESTY);
    let said = "this branch removes lodgify.yaml, and Calry keeps what it has";
    checkout.plan(&["--detailed-exitcode"]).exits(0).says(said);
    checkout.plan(&["--format", "markdown"]).exits(0).says("**this branch** removes `lodgify.yaml`");
    let json = checkout.plan(&["--format", "json"]).exits(0).json();
    let lodgify = json["definitions"].as_array().unwrap().iter().find(|d| d["provider"] == "LODGIFY").unwrap().clone();
    assert_eq!((lodgify["state"].as_str(), lodgify["released"].as_str()), (Some("unmanaged"), Some("lodgify.yaml")));
}

#[test]
fn another_reference_is_the_branchs_change_even_where_no_secret_is_at_hand() {
    let mut checkout = pull_request();
    let key = |name: &str| format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${{secret:{name}}}\n");
    checkout.world.write("hostaway.yaml", &key("old"));
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    let mut live = checkout.world.live("HOSTAWAY");
    live["partnerKey"] = json!({"headers": {"x-api-key": "a-live-value"}});
    checkout.world.sandbox.set_definition("HOSTAWAY", live);

    let unavailable = ["--secrets-unavailable", "--only", "HOSTAWAY"];
    checkout.branch("hostaway.yaml", &key("old"));
    assert!(checkout.origins(&unavailable).is_empty(), "nobody can say whether an unchanged reference has drifted");
    checkout.branch("hostaway.yaml", &key("new"));
    assert_eq!(checkout.origins(&unavailable), ["HOSTAWAY partnerKey.headers.x-api-key branch"]);
    let ran = checkout.plan(&["--secrets-unavailable", "--detailed-exitcode", "--only", "HOSTAWAY"]).exits(2);
    let ran = ran.says("${secret:new}");
    assert!(!ran.out.contains("a-live-value"));

    // With secrets at hand, the same reference to another value is drift, and another reference the branch's change.
    checkout.world.env("CALRY_SECRET_OLD", "another").env("CALRY_SECRET_NEW", "a-third");
    assert_eq!(checkout.origins(&["--only", "HOSTAWAY"]), ["HOSTAWAY partnerKey.headers.x-api-key branch"]);
    checkout.branch("hostaway.yaml", &key("old"));
    assert_eq!(checkout.origins(&["--only", "HOSTAWAY"]), ["HOSTAWAY partnerKey.headers.x-api-key drift"]);
}

#[test]
fn a_base_that_cannot_be_read_is_an_error_that_says_what_to_fetch() {
    let checkout = pull_request();
    checkout.world.run(&["plan", "--base", "origin/nowhere"]).exits(1).says("fetch-depth: 0");
    checkout.world.run(&["plan", "--base", "--format"]).exits(64);
    checkout.commit("refs/heads/orphan", &[]);
    checkout.world.run(&["plan", "--base", "orphan"]).exits(1).says("no common ancestor");
    let world = World::with(json!([live("HOSTAWAY", &["name"], &[])]), Config::default());
    world.write("hostaway.yaml", HOSTAWAY);
    world.run(&["plan", "--base", "main"]).exits(1).says("--base needs the definitions in a git checkout");
}

#[test]
fn a_base_whose_files_are_broken_or_huge_wants_nothing() {
    let mut checkout = pull_request();
    checkout.world.write("hostaway.yaml", "provider: [").write("guesty.yaml", &"#".repeat((1 << 20) + 1));
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    checkout.branch("guesty.yaml", GUESTY).branch("hostaway.yaml", HOSTAWAY);
    assert!(checkout.origins(&[]).iter().all(|line| line.ends_with("branch")));
}
