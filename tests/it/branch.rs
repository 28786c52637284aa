//! Changes of this branch and earlier drift, in repositories created without git.

use crate::support::{Checkout, Ran, World, live};
use calry_gitops::sandbox::Config;
use serde_json::{Value, json};

const HOSTAWAY: &str = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n";
const GUESTY: &str = "provider: GUESTY\nicon: https://cdn.example.com/guesty.png\n";

/// A branch of a repository whose `main` differs from Calry in one part of HOSTAWAY and one of GUESTY.
fn pull_request() -> Checkout {
    Checkout::of(world())
}

fn world() -> World {
    let world = World::with(
        json!([
            live("HOSTAWAY", &["name"], &["rooms", "pictures"]),
            live("GUESTY", &["name"], &["rooms"]),
            live("LODGIFY", &["name"], &["rooms"]),
        ]),
        Config::default(),
    );
    world
        .write("hostaway.yaml", HOSTAWAY)
        .write("guesty.yaml", GUESTY);
    world.write(
        "lodgify.yaml",
        "provider: LODGIFY\nfieldsToSync:\n  listing: [name]\n",
    );
    world
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
        let mut origins = Vec::new();
        for definition in plan["definitions"].as_array().unwrap() {
            for change in definition["changes"].as_array().unwrap() {
                let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
                origins.push(format!(
                    "{} {} {}",
                    text(&definition["provider"]),
                    text(&change["path"]),
                    text(&change["origin"])
                ));
            }
        }
        origins
    }
}

#[test]
fn branches_and_tags_are_offered_to_a_shell_for_completion() {
    let checkout = pull_request();
    let heads = checkout.world.dir.path().join(".git/refs");
    std::fs::create_dir_all(heads.join("tags")).unwrap();
    std::fs::write(heads.join("tags/v1"), checkout.main.to_string()).unwrap();
    let offered = checkout.world.run(&["candidates", "base"]).exits(0).out;
    assert!(
        ["main\n", "v1\n"].iter().all(|name| offered.contains(name)),
        "{offered}"
    );
}

#[test]
fn annotations_are_in_the_order_of_their_severity() {
    let checkout = pull_request();
    let hold = |until: &str| format!("hold: {{until: {until}, reason: OPS-1}}\n");
    checkout
        .world
        .write("guesty.yaml", "provider: GUESTY\nicn: x\n");
    checkout.world.write(
        "hostaway.yaml",
        &format!("{HOSTAWAY}{}", hold("2099-12-31")),
    );
    let lodgify = "provider: LODGIFY\nfieldsToSync:\n  listing: [rooms]\n";
    checkout.branch("lodgify.yaml", &format!("{lodgify}{}", hold("2020-01-01")));
    let github = checkout.plan(&["--format", "github"]).exits(3).out;
    let titles = github.lines().map(|line| {
        let (level, rest) = line.split_once(' ').unwrap();
        format!(
            "{level} {}",
            rest.split_once("title=")
                .unwrap()
                .1
                .split_once("::")
                .unwrap()
                .0
        )
    });
    let order = [
        "::notice Calry plan",
        "::error unknown-key",
        "::warning no longer protected",
        "::warning this branch switches off",
        "::notice this branch changes",
        "::warning hold-over",
        "::notice on hold",
    ];
    assert_eq!(titles.collect::<Vec<_>>(), order, "{github}");
}

#[test]
fn changes_that_the_base_has_too_are_drift_and_the_rest_are_the_branchs() {
    let checkout = pull_request();
    checkout.branch(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures, rooms]\n",
    );
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

#[test]
fn a_comment_links_to_lines_of_the_commit() {
    let checkout = pull_request();
    checkout.branch(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures, rooms]\n",
    );
    checkout.branch("a)b|`c.yaml", "provider: LODGIFY\n");
    let head = checkout.repository.head_id().unwrap().to_string();
    let web = "https://github.com/acme/definitions";
    let comment = |more: &[&str]| {
        let args = ["--format", "markdown", "--repository-url"];
        checkout.plan(&[&args, more].concat())
    };
    let line = |commit: &str| {
        format!("[`hostaway.yaml`]({web}/blob/{commit}/definitions/hostaway.yaml#L3)")
    };
    let shown = comment(&[web]).exits(3).out;
    assert!(shown.contains(&line(&head)), "{shown}");
    let base = format!(
        "merge base [`{}`]({web}/commit/{})",
        &checkout.main.to_string()[..10],
        checkout.main
    );
    assert!(shown.contains(&base), "{shown}");
    let own = format!("revision [`{}`]({web}/commit/{head}) `", &head[..10]);
    assert!(shown.contains(&own), "{shown}");
    let hostile = format!("]({web}/blob/{head}/definitions/a%29b%7C%60c.yaml#L1): ");
    assert!(shown.contains(&hostile), "{shown}");

    // A merge of another commit is checked out.
    let other = "c".repeat(40);
    let shown = comment(&[web, "--link-commit", &other]).exits(3).out;
    assert!(
        shown.contains(&line(&other)) && !shown.contains(&head[..10]),
        "{shown}"
    );
    assert!(
        shown.contains(&format!("commit [`cccccccccc`]({web}/commit/{other})")),
        "{shown}"
    );
    let gitlab = comment(&["gitlab+https://git.example.com/acme/defs"])
        .exits(3)
        .out;
    let at =
        format!("https://git.example.com/acme/defs/-/blob/{head}/definitions/hostaway.yaml#L3");
    assert!(gitlab.contains(&at), "{gitlab}");

    // What is not committed has no page.
    checkout
        .world
        .write("guesty.yaml", &format!("# edited\n{GUESTY}"));
    let shown = comment(&[web]).exits(3).out;
    assert!(!shown.contains("/blob/"), "{shown}");

    checkout.plan(&["--link-commit", &other]).exits(64);
    comment(&["acme/definitions"])
        .exits(64)
        .says("--repository-url");
    let failed = [web, "--link-commit", &other, "--workspace", "another"];
    let failed = comment(&failed).exits(1).out;
    assert!(
        failed.ends_with(&format!("\nCommit [`cccccccccc`]({web}/commit/{other})\n")),
        "{failed}"
    );
}

#[test]
fn many_changes_do_not_hide_what_is_no_longer_protected() {
    let names: Vec<String> = (0..30).map(|n| format!("P{n}")).collect();
    let definitions = names.iter().map(|name| live(name, &["name", "rooms"], &[]));
    let world = World::with(definitions.collect(), Config::default());
    let write = |world: &World, fields: &str| {
        for name in &names {
            let file = format!("{}.yaml", name.to_lowercase());
            let text = format!("provider: {name}\nfieldsToSync:\n  listing: [{fields}]\n");
            world.write(&file, &text);
        }
    };
    write(&world, "name, rooms");
    world.write("workspace.yaml", "slug: acme-production\n");
    let checkout = Checkout::of(world);
    write(&checkout.world, "name");
    std::fs::remove_file(checkout.world.definitions().join("workspace.yaml")).unwrap();
    let comment = checkout.plan(&["--format", "markdown"]).exits(0).out;
    let (dangers, rest) = comment.split_once("\n\n**30 fields OFF**").unwrap();
    assert_eq!(
        dangers.matches("switches **1 field OFF**").count(),
        10,
        "{comment}"
    );
    assert!(
        dangers.contains("- ⚠️ 20 more providers switch fields **OFF**"),
        "{comment}"
    );
    assert!(dangers.contains("`workspace.yaml`"), "{comment}");
    assert!(
        rest.contains("<details><summary>Table of 30 providers</summary>\n\n| provider |"),
        "{comment}"
    );
    assert_eq!(
        comment.matches("<details>").count(),
        comment.matches("</details>").count()
    );
}

#[test]
fn a_comment_is_about_the_branch() {
    let held = |name: &str| format!("{name}hold: {{until: 2099-12-31, reason: OPS-1}}\n");
    let world = world();
    world.write("guesty.yaml", &held(GUESTY));
    let checkout = Checkout::of(world);
    checkout.branch("notes.yaml.txt", "nothing");
    let comment = || checkout.plan(&["--format", "markdown"]).out;
    // A hold that was there before is only counted.
    let shown = comment();
    assert!(
        shown.contains("1 on hold") && !shown.contains("`GUESTY`"),
        "{shown}"
    );
    // A change that the hold suspends is shown.
    let changed = held(GUESTY).replace("icon: ", "icon: https://other.example.com/");
    checkout.branch("guesty.yaml", &changed);
    let shown = comment();
    assert!(
        shown.contains("| `GUESTY` | nothing (pending: icon) |"),
        "{shown}"
    );
    // What a file with errors would change is not known.
    checkout.branch("hostaway.yaml", "provider: HOSTAWAY\nicn: x\n");
    let shown = comment();
    assert!(
        shown.starts_with("### ❌ Calry `acme-production`: 1 file has errors\n"),
        "{shown}"
    );
}

/// Commits and digests depend on times, which differ between runs.
fn redacted(checkout: &Checkout, text: &str) -> String {
    let head = checkout.repository.head_id().unwrap().to_string();
    let main = checkout.main.to_string();
    let text = text
        .replace(&head[..10], "HEAD")
        .replace(&main[..10], "MAIN");
    let Some((before, digest)) = text.split_once("sha256:") else {
        return text;
    };
    format!("{before}sha256:DIGEST{}", &digest[64..])
}

#[test]
fn pending_is_about_the_branchs_changes_and_on_request_about_drift() {
    let checkout = pull_request();
    // A branch without changes: what is pending was pending before.
    checkout.branch("notes.yaml.txt", "nothing");
    checkout
        .plan(&["--detailed-exitcode"])
        .exits(0)
        .says("This branch changes nothing in Calry; 2 had drifted before.");
    checkout
        .plan(&["--detailed-exitcode", "--fail-on-drift"])
        .exits(2);
    checkout
        .world
        .run(&["plan", "--detailed-exitcode"])
        .exits(2);
    // One option without the other is a mistake that would go unnoticed.
    checkout.plan(&["--fail-on-drift"]).exits(64);
    checkout
        .world
        .run(&["plan", "--fail-on-drift", "--detailed-exitcode"])
        .exits(64);

    checkout.branch(
        "lodgify.yaml",
        "provider: LODGIFY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    checkout.plan(&["--detailed-exitcode"]).exits(2);
    checkout
        .plan(&["--detailed-exitcode", "--only", "GUESTY"])
        .exits(0);
    checkout
        .plan(&["--detailed-exitcode", "--fail-on-drift", "--only", "GUESTY"])
        .exits(2);
}

#[test]
fn a_branch_that_adopts_drift_has_nothing_pending() {
    let checkout = pull_request();
    checkout.branch(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n",
    );
    assert_eq!(checkout.origins(&[]), ["GUESTY icon drift"]);
}

#[test]
fn the_base_is_the_merge_base_and_not_the_tip_of_main() {
    let checkout = pull_request();
    checkout.branch(
        "lodgify.yaml",
        "provider: LODGIFY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    // Now main has the same change of LODGIFY, but it is still the branch's change.
    checkout.commit("refs/heads/main", &[checkout.main]);
    assert!(
        checkout
            .origins(&[])
            .contains(&"LODGIFY fieldsToSync.listing.rooms branch".to_owned())
    );
}

#[test]
fn a_new_file_a_new_group_and_the_end_of_a_hold_are_the_branchs() {
    let checkout = pull_request();
    checkout.branch(
        "guesty.yaml",
        &format!("{GUESTY}fieldsToSync:\n  listing: [rooms]\n"),
    );
    let origins = checkout.origins(&["--only", "GUESTY"]);
    assert_eq!(
        origins,
        [
            "GUESTY icon drift",
            "GUESTY fieldsToSync.listing.name branch",
            "GUESTY fieldsToSync.listing.rooms branch"
        ]
    );

    let mut checkout = pull_request();
    let hold = "hold:\n  until: 2099-12-31\n  reason: a migration\n";
    checkout
        .world
        .write("hostaway.yaml", &format!("{HOSTAWAY}{hold}"));
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    checkout.branch("hostaway.yaml", HOSTAWAY);
    assert_eq!(
        checkout.origins(&["--only", "HOSTAWAY"]),
        ["HOSTAWAY fieldsToSync.listing.pictures branch"]
    );
    // A change on hold has an origin, too, and is not pending.
    checkout.branch("hostaway.yaml", &format!("{HOSTAWAY}{hold}"));
    assert_eq!(
        checkout.origins(&["--only", "HOSTAWAY"]),
        ["HOSTAWAY fieldsToSync.listing.pictures drift"]
    );
    checkout
        .plan(&[
            "--detailed-exitcode",
            "--fail-on-drift",
            "--only",
            "HOSTAWAY",
        ])
        .exits(0);

    std::fs::remove_file(checkout.world.definitions().join("lodgify.yaml")).unwrap();
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    checkout.branch(
        "lodgify.yaml",
        "provider: LODGIFY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    assert!(
        checkout
            .origins(&[])
            .iter()
            .filter(|line| line.starts_with("LODGIFY"))
            .all(|line| line.ends_with("branch"))
    );
}

/// A branch of a repository in which everything is in sync, pinned and managed.
fn protected() -> Checkout {
    let mut hostaway = live("HOSTAWAY", &["name"], &["rooms"]);
    hostaway["icon"] = json!("https://cdn.example.com/a.png");
    hostaway["partnerKey"] =
        json!({"headers": {"x-tenant": "acme"}, "queryParams": {"client": "acme"}});
    let world = World::with(
        json!([hostaway, live("LODGIFY", &["name"], &[])]),
        Config::default(),
    );
    world
        .write("hostaway.yaml", PROTECTED)
        .write("lodgify.yaml", LODGIFY);
    world.write("workspace.yaml", "slug: acme-production\n");
    Checkout::of(world)
}

const PROTECTED: &str = "provider: HOSTAWAY\nicon: https://cdn.example.com/a.png\npartnerKey:\n  headers: {x-tenant: acme}\n  \
    queryParams: {client: acme}\nfieldsToSync:\n  listing: [name]\n";
const LODGIFY: &str = "provider: LODGIFY\nfieldsToSync:\n  listing: [name]\n";
const HOLD: &str = "hold: {until: 2099-12-31, reason: OPS-1}\n";

#[test]
fn loosened_protection_is_shown_in_every_format_and_can_be_pending() {
    let without = |part: &str| PROTECTED.replace(part, "");
    let item = |provider: Value, what: &str, path: &str| json!({"provider": provider, "what": what, "path": path});
    let hostaway = |part: &str| item(json!("HOSTAWAY"), "part", part);
    // (file, new text, loosened protection, annotation)
    let cases = [
        (
            "lodgify.yaml",
            None,
            vec![item(json!("LODGIFY"), "file", "lodgify.yaml")],
            "::warning title=no longer protected::LODGIFY: lodgify.yaml is removed",
        ),
        (
            "workspace.yaml",
            None,
            vec![item(Value::Null, "pin", "workspace.yaml")],
            "::warning title=no longer protected::workspace.yaml: the pin to the workspace acme-production is removed",
        ),
        (
            "lodgify.yaml",
            Some(format!("{LODGIFY}{HOLD}")),
            vec![item(json!("LODGIFY"), "hold", "hold")],
            "::warning file=definitions/lodgify.yaml,line=4,endLine=4,col=1,endColumn=5,title=no longer protected::LODGIFY: put on hold until 2099-12-31",
        ),
        (
            "hostaway.yaml",
            Some(without("icon: https://cdn.example.com/a.png\n")),
            vec![hostaway("icon")],
            "::warning file=definitions/hostaway.yaml,line=1,endLine=1,col=11,endColumn=19,title=no longer protected::HOSTAWAY: icon is no longer managed",
        ),
        (
            "hostaway.yaml",
            Some(without("fieldsToSync:\n  listing: [name]\n")),
            vec![hostaway("fieldsToSync.listing")],
            "::warning file=definitions/hostaway.yaml,line=1,endLine=1,col=11,endColumn=19,title=no longer protected::HOSTAWAY: fieldsToSync.listing",
        ),
        (
            "hostaway.yaml",
            Some(without("  headers: {x-tenant: acme}\n")),
            vec![hostaway("partnerKey.headers")],
            "::warning file=definitions/hostaway.yaml,line=1,endLine=1,col=11,endColumn=19,title=no longer protected::HOSTAWAY: partnerKey.headers",
        ),
        (
            "hostaway.yaml",
            Some(without(
                "partnerKey:\n  headers: {x-tenant: acme}\n  queryParams: {client: acme}\n",
            )),
            vec![
                hostaway("partnerKey.headers"),
                hostaway("partnerKey.queryParams"),
            ],
            "::warning file=definitions/hostaway.yaml,line=1,endLine=1,col=11,endColumn=19,title=no longer protected::HOSTAWAY: partnerKey.queryParams",
        ),
    ];
    let workspace = |text: &str| Some(format!("slug: acme-production\n{text}"));
    let of_workspace = [
        (
            "workspace.yaml",
            workspace(HOLD),
            vec![item(Value::Null, "hold", "hold")],
            "::warning file=definitions/workspace.yaml,title=no longer protected::workspace.yaml: the workspace is put on hold until 2099-12-31",
        ),
        (
            "workspace.yaml",
            workspace(
                "freeze:\n- {from: 2020-01-01T00:00:00Z, to: 2020-01-02T00:00:00Z, reason: over}\n\
                 - {from: 2098-01-01T00:00:00Z, to: 2098-01-02T00:00:00Z, reason: OPS-1}\n",
            ),
            vec![item(Value::Null, "freeze", "freeze[1]")],
            "::warning file=definitions/workspace.yaml,title=no longer protected::workspace.yaml: nothing is written to the workspace from \
             2098-01-01T00:00:00Z to 2098-01-02T00:00:00Z",
        ),
    ];
    for (file, text, loosened, annotation) in cases.into_iter().chain(of_workspace) {
        let checkout = protected();
        match text {
            Some(text) => _ = checkout.branch(file, &text),
            None => {
                std::fs::remove_file(checkout.world.definitions().join(file)).unwrap();
                checkout.branch("notes.txt", "");
            }
        }
        let json = checkout
            .plan(&["--format", "json", "--detailed-exitcode"])
            .exits(0)
            .json();
        assert_eq!(json["loosened"], json!(loosened));
        let count = if loosened.len() == 1 {
            "1 place".to_owned()
        } else {
            format!("{} places", loosened.len())
        };
        let headline =
            format!("this branch changes nothing in Calry and loosens protection in {count}");
        checkout
            .plan(&[])
            .exits(0)
            .says("This branch stops protecting")
            .says(&headline[1..]);
        let comment = checkout.plan(&["--format", "markdown"]).exits(0).out;
        assert!(
            comment.lines().next().unwrap().ends_with(&headline),
            "{comment}"
        );
        assert_eq!(
            comment
                .lines()
                .filter(|line| line.starts_with("- "))
                .count(),
            loosened.len(),
            "{comment}"
        );
        let github = checkout.plan(&["--format", "github"]).exits(0).out;
        assert!(
            github.lines().any(|line| line.starts_with(annotation)),
            "{annotation}\n{github}"
        );
        checkout
            .plan(&["--detailed-exitcode", "--fail-on-loosened"])
            .exits(2);
    }
    // One option without the other is a mistake that would go unnoticed.
    let checkout = protected();
    checkout.plan(&["--fail-on-loosened"]).exits(64);
    checkout
        .world
        .run(&["plan", "--fail-on-loosened", "--detailed-exitcode"])
        .exits(64);
}

#[test]
fn a_hold_that_gets_longer_loosens_and_one_that_ends_sooner_or_is_over_does_not() {
    for (before, after, loosened) in [
        ("2099-12-30", Some("2099-12-31"), 1),
        ("2099-12-31", Some("2099-12-31"), 0),
        ("2099-12-31", Some("2099-12-30"), 0),
        ("2099-12-31", None, 0),
        ("2020-01-01", Some("2099-12-31"), 1),
        ("2020-01-01", Some("2020-01-02"), 0),
    ] {
        let mut checkout = protected();
        let hold = |until: &str| format!("{LODGIFY}hold: {{until: {until}, reason: OPS-1}}\n");
        checkout.world.write("lodgify.yaml", &hold(before));
        checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
        checkout.branch(
            "lodgify.yaml",
            &after.map_or_else(|| LODGIFY.to_owned(), hold),
        );
        let json = checkout.plan(&["--format", "json"]).exits(0).json();
        assert_eq!(
            json["loosened"].as_array().unwrap().len(),
            loosened,
            "{before} {after:?}"
        );
    }
}

#[test]
fn parts_that_are_still_protected_are_not_loosened() {
    let checkout = protected();
    // The file is renamed, and a group is empty: all parts are still managed.
    std::fs::rename(
        checkout.world.definitions().join("lodgify.yaml"),
        checkout.world.definitions().join("lodgify.yml"),
    )
    .unwrap();
    checkout.branch("hostaway.yaml", &PROTECTED.replace("[name]", "[]"));
    checkout.branch(
        "guesty.yaml",
        &format!("{}{HOLD}", LODGIFY.replace("LODGIFY", "GUESTY")),
    );
    let json = checkout.plan(&["--format", "json"]).json();
    assert_eq!(json["loosened"], json!([]));
    // Unknown without a base.
    let json = checkout.world.run(&["plan", "--format", "json"]).json();
    assert_eq!(json.get("loosened"), None);
    // A pin to another workspace stops the plan, and an invalid file is an error.
    checkout.branch("workspace.yaml", "slug: acme-staging\n");
    checkout.plan(&[]).exits(1).says("acme-staging");
    let checkout = protected();
    checkout.branch("hostaway.yaml", "provider: HOSTAWAY\nicn: x\n");
    assert_eq!(
        checkout.plan(&["--format", "json"]).exits(3).json()["loosened"],
        json!([])
    );
    // With --only, other providers do not count; the pin always does.
    let checkout = protected();
    std::fs::remove_file(checkout.world.definitions().join("workspace.yaml")).unwrap();
    checkout.branch("hostaway.yaml", "provider: HOSTAWAY\n");
    let json = checkout
        .plan(&["--format", "json", "--only", "LODGIFY"])
        .exits(0)
        .json();
    assert_eq!(
        json["loosened"],
        json!([{"provider": null, "what": "pin", "path": "workspace.yaml"}])
    );
}

#[test]
fn another_reference_is_the_branchs_change_even_without_secrets() {
    let mut checkout = pull_request();
    let key = |name: &str| {
        format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${{secret:{name}}}\n")
    };
    checkout.world.write("hostaway.yaml", &key("old"));
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    let mut live = checkout.world.live("HOSTAWAY");
    live["partnerKey"] = json!({"headers": {"x-api-key": "a-live-value"}});
    checkout.world.sandbox.set_definition("HOSTAWAY", live);

    let unavailable = ["--secrets-unavailable", "--only", "HOSTAWAY"];
    checkout.branch("hostaway.yaml", &key("old"));
    assert!(
        checkout.origins(&unavailable).is_empty(),
        "without secrets, drift of an unchanged reference is unknown"
    );
    checkout.branch("hostaway.yaml", &key("new"));
    assert_eq!(
        checkout.origins(&unavailable),
        ["HOSTAWAY partnerKey.headers.x-api-key branch"]
    );
    let ran = checkout
        .plan(&[
            "--secrets-unavailable",
            "--detailed-exitcode",
            "--only",
            "HOSTAWAY",
        ])
        .exits(2);
    let ran = ran.says("${secret:new}");
    assert!(!ran.out.contains("a-live-value"));

    // With secrets, another value is drift, and another reference is the branch's change.
    checkout
        .world
        .env("CALRY_SECRET_OLD", "another")
        .env("CALRY_SECRET_NEW", "a-third");
    assert_eq!(
        checkout.origins(&["--only", "HOSTAWAY"]),
        ["HOSTAWAY partnerKey.headers.x-api-key branch"]
    );
    checkout.branch("hostaway.yaml", &key("old"));
    assert_eq!(
        checkout.origins(&["--only", "HOSTAWAY"]),
        ["HOSTAWAY partnerKey.headers.x-api-key drift"]
    );
}

#[test]
fn an_unreadable_base_is_an_error_that_names_what_to_fetch() {
    let checkout = pull_request();
    checkout
        .world
        .run(&["plan", "--base", "origin/nowhere"])
        .exits(1)
        .says("fetch-depth: 0");
    checkout
        .world
        .run(&["plan", "--base", "--format"])
        .exits(64);
    checkout.commit("refs/heads/orphan", &[]);
    checkout
        .world
        .run(&["plan", "--base", "orphan"])
        .exits(1)
        .says("no common ancestor");
    let world = World::with(json!([live("HOSTAWAY", &["name"], &[])]), Config::default());
    world.write("hostaway.yaml", HOSTAWAY);
    world
        .run(&["plan", "--base", "main"])
        .exits(1)
        .says("in a git checkout");
}

#[test]
fn a_misspelled_base_and_an_invalid_base_have_their_own_errors() {
    let checkout = pull_request();
    checkout.commit("refs/tags/before", &[]);
    for (base, sentence) in [
        ("mian", "did you mean main?"),
        ("main...HEAD", "use main instead of main...HEAD"),
        ("..main", "use main instead of ..main"),
        ("@{u}", "not @{u}"),
        (":/text", "not :/text"),
        (
            "0123456789abcdef0123456789abcdef01234567",
            "this clone has no commit 0123456789abcdef",
        ),
    ] {
        checkout
            .world
            .run(&["plan", "--base", base])
            .exits(1)
            .says(sentence);
    }
}

#[test]
fn an_unsupported_repository_is_named_and_a_plan_without_a_base_works() {
    for (config, sentence) in [
        (
            "[extensions]\n\tobjectFormat = sha256\n",
            "SHA-256 object names",
        ),
        (
            "[extensions]\n\trefStorage = reftable\n",
            "references in a reftable",
        ),
    ] {
        let checkout = pull_request();
        let git = checkout.world.dir.path().join(".git");
        std::fs::write(
            git.join("config"),
            format!("[core]\n\trepositoryformatversion = 1\n{config}"),
        )
        .unwrap();
        if config.contains("reftable") {
            std::fs::write(git.join("HEAD"), "ref: refs/heads/.invalid\n").unwrap();
        }
        checkout.plan(&[]).exits(1).says(sentence);
        let ran = checkout
            .world
            .run(&["plan", "--format", "json"])
            .exits(0)
            .says(sentence);
        assert_eq!(
            (
                ran.json()["revision"].clone(),
                ran.err.matches(sentence).count()
            ),
            (Value::Null, 1),
            "{}",
            ran.err
        );
        let mut daemon = checkout.world.daemon(&["--interval", "1s", "-v"]);
        for pass in ["reconciliation 1 ", "reconciliation 2 "] {
            daemon.line(pass);
        }
        daemon.drain();
        assert_eq!(
            daemon
                .seen
                .iter()
                .filter(|line| line.contains(sentence))
                .count(),
            1,
            "{:?}",
            daemon.seen
        );
    }
    // Without a repository, or without a commit, there is no warning.
    let world = World::with(
        json!([live("HOSTAWAY", &["name", "pictures"], &[])]),
        Config::default(),
    );
    world.write("hostaway.yaml", HOSTAWAY);
    assert_eq!(world.run(&["plan"]).exits(0).err, "");
    let checkout = pull_request();
    std::fs::write(
        checkout.world.dir.path().join(".git/HEAD"),
        "ref: refs/heads/unborn\n",
    )
    .unwrap();
    assert_eq!(checkout.world.run(&["plan"]).exits(0).err, "");
}

#[test]
fn the_error_for_a_partial_clone_names_what_to_fetch() {
    let checkout = pull_request();
    checkout.branch("hostaway.yaml", "provider: HOSTAWAY\n");
    let git = checkout.world.dir.path().join(".git");
    let missing = checkout
        .repository
        .write_blob(HOSTAWAY)
        .unwrap()
        .to_string();
    std::fs::remove_file(git.join("objects").join(&missing[..2]).join(&missing[2..])).unwrap();
    let ran = checkout.plan(&[]).exits(1);
    assert!(!ran.err.contains("partial clone"), "{}", ran.err);
    let config = "[remote \"origin\"]\n\tpromisor = true\n\tpartialclonefilter = blob:none\n";
    std::fs::write(git.join("config"), config).unwrap();
    checkout
        .plan(&[])
        .exits(1)
        .says("this is a partial clone")
        .says("--no-filter");
    // Without the tree of the base, as in a treeless clone.
    let missing = checkout
        .repository
        .find_commit(checkout.main)
        .unwrap()
        .tree_id()
        .unwrap()
        .to_string();
    std::fs::remove_file(git.join("objects").join(&missing[..2]).join(&missing[2..])).unwrap();
    checkout.plan(&[]).exits(1).says("this is a partial clone");
    // Without the commit of the base.
    std::fs::write(git.join("refs/heads/gone"), "1".repeat(40)).unwrap();
    checkout
        .world
        .run(&["plan", "--base", "gone"])
        .exits(1)
        .says("this is a partial clone");
}

#[test]
fn a_base_with_invalid_or_huge_files_wants_nothing() {
    let mut checkout = pull_request();
    checkout
        .world
        .write("hostaway.yaml", "provider: [")
        .write("guesty.yaml", &"#".repeat((1 << 20) + 1));
    checkout.main = checkout.commit("refs/heads/main", &[checkout.main]);
    checkout
        .branch("guesty.yaml", GUESTY)
        .branch("hostaway.yaml", HOSTAWAY);
    assert!(
        checkout
            .origins(&[])
            .iter()
            .all(|line| line.ends_with("branch"))
    );
}
