//! A pull request is hostile input. Each test is a line of the page `threat_model` in the crate's documentation.

use std::cell::RefCell;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::documents::{code_spans, rows, tests_of};
use crate::support::git_server::GitServer;
use crate::support::openpgp::with_signature;
use crate::support::{Checkout, Ran, Signer, World, live, outside_code, repository};
use age::secrecy::ExposeSecret as _;
use calry_gitops::desired::encrypted::{EncryptedSecret, Recipient};
use calry_gitops::model::Secret;
use calry_gitops::sandbox::Config;
use serde_json::json;

const CANARY: &str = "canary-4711-of-the-operator";

fn world() -> World {
    let mut hostaway = live("HOSTAWAY", &["name"], &["rooms"]);
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": "live-value-4712"}});
    let world = World::with(json!([hostaway]), Config::default());
    world.write("hostaway.yaml", "provider: HOSTAWAY\n");
    world
}

/// The commands that run on a pull request, in every format, and those that may run after the merge.
fn everything(world: &World) -> Vec<Ran> {
    let mut all = vec![
        world.run(&["validate"]),
        world.run(&["plan", "--secrets-unavailable"]),
    ];
    all.extend(
        ["text", "json", "markdown", "github"]
            .map(|format| world.run(&["plan", "-vv", "--format", format])),
    );
    all.push(world.run(&["apply", "--yes"]));
    all.push(world.run(&["run", "--once"]));
    all
}

#[track_caller]
fn shows_no_canary(all: &[Ran]) {
    for ran in all {
        assert!(
            !format!("{}{}", ran.out, ran.err).contains(CANARY),
            "--- out\n{}\n--- err\n{}",
            ran.out,
            ran.err
        );
    }
}

#[test]
fn every_line_of_the_page_has_its_test_and_every_test_its_line() {
    let page = std::fs::read_to_string(repository().join("src/threat_model.md")).unwrap();
    let rows: Vec<String> = rows(&page)
        .iter()
        .flat_map(|cells| code_spans(cells.last().unwrap()))
        .map(str::to_owned)
        .collect();
    let mut tests = tests_of(&repository().join("tests/it/threats.rs"));
    tests.retain(|test| test.starts_with("it_"));
    assert_eq!(rows, tests);
    assert!(rows.len() >= 10);
}

#[test]
fn it_cannot_choose_where_the_api_key_is_sent() {
    let attacker = TcpListener::bind("127.0.0.1:0").unwrap();
    attacker.set_nonblocking(true).unwrap();
    let url = format!("http://{}", attacker.local_addr().unwrap());
    let files = [
        format!("provider: HOSTAWAY\nicon: {url}/i.png\n"),
        format!("provider: HOSTAWAY\napiUrl: {url}\n"),
        format!(
            "provider: HOSTAWAY\napi-url: {url}\napi_url: {url}\nCALRY_API_URL: {url}\nurl: {url}\n"
        ),
        format!(
            "provider: HOSTAWAY\npartnerKey:\n  headers:\n    host: {}\n    location: {url}\n",
            &url[7..]
        ),
    ];
    for file in files {
        let world = world();
        world.write("hostaway.yaml", &file);
        everything(&world);
        world
            .write("hostaway.yaml", "provider: HOSTAWAY\n")
            .write("workspace.yaml", &format!("slug: a\napiUrl: {url}\n"));
        everything(&world);
        assert!(!world.requests().is_empty(), "Calry itself was asked");
    }
    assert!(
        attacker.accept().is_err(),
        "no one connects to an address that a file names"
    );
}

#[test]
fn it_cannot_choose_which_variables_are_read() {
    for value in [
        "${env:OPERATOR}",
        "${OPERATOR}",
        "$OPERATOR",
        "${secret:operator}",
        "${secret:OPERATOR}",
        "${secret:x.}",
    ] {
        let mut world = world();
        world
            .env("OPERATOR", CANARY)
            .env("SECRET_OPERATOR", CANARY)
            .env("CALRY_OPERATOR", CANARY);
        world.write(
            "hostaway.yaml",
            &format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    a: '{value}'\n"),
        );
        shows_no_canary(&everything(&world));
        assert!(
            !world.live("HOSTAWAY").to_string().contains(CANARY),
            "{value}"
        );
    }
}

#[test]
fn it_cannot_choose_which_files_are_read() {
    let mut world = world();
    let outside = world.dir.path().join("outside.yaml");
    std::fs::write(
        &outside,
        format!("provider: HOSTAWAY\nicon: https://e.com/{CANARY}\n"),
    )
    .unwrap();
    std::fs::create_dir(world.dir.path().join("secrets")).unwrap();
    std::fs::write(world.dir.path().join("key"), CANARY).unwrap();
    symlink("../key", world.dir.path().join("secrets/linked")).unwrap();
    world.env("CALRY_SECRETS_DIR", "secrets");
    for name in ["../key", "..", "/etc/passwd", "linked", "%2e%2e/key", "key"] {
        world.write(
            "hostaway.yaml",
            &format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    a: '${{secret:{name}}}'\n"),
        );
        shows_no_canary(&everything(&world));
        assert!(
            !world.live("HOSTAWAY").to_string().contains(CANARY),
            "{name}"
        );
    }
    std::fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    symlink(&outside, world.definitions().join("hostaway.yaml")).unwrap();
    let all = everything(&world);
    shows_no_canary(&all);
    assert!(
        all[0]
            .err
            .contains("is a link to a file outside the directory"),
        "{}",
        all[0].err
    );
}

#[test]
fn it_cannot_read_more_than_its_repository_by_extends() {
    let world = world();
    let root = world.dir.path();
    let outside = tempfile::tempdir().unwrap();
    let canary = format!("provider: HOSTAWAY\nicon: https://e.com/{CANARY}\n");
    for directory in [
        outside.path().to_owned(),
        root.join("secrets"),
        root.join(".git"),
    ] {
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hostaway.yaml"), &canary).unwrap();
    }
    let outside = outside.path().to_str().unwrap();
    let up = "../".repeat(root.components().count() + 1);
    symlink(outside, root.join("linked")).unwrap();
    symlink(".git", root.join("inside")).unwrap();
    // A directory of the repository, whose file is a link out of it.
    std::fs::create_dir(root.join("shared")).unwrap();
    symlink(
        "../secrets/hostaway.yaml",
        root.join("shared/hostaway.yaml"),
    )
    .unwrap();
    for path in [
        outside,
        &format!("{up}{}", outside.trim_start_matches('/')),
        "../linked",
        "../inside",
        "../.git",
        "../shared/../.git",
        "../shared",
    ] {
        world.write(
            "workspace.yaml",
            &format!("slug: acme-production\nextends: {path}\n"),
        );
        let all = everything(&world);
        shows_no_canary(&all);
        assert_eq!(all[0].code, 3, "{path}: {}", all[0].err);
        assert!(
            !world.live("HOSTAWAY").to_string().contains(CANARY),
            "{path}"
        );
    }
    // Without a checkout there is no limit, so nothing is read.
    std::fs::rename(root.join(".git"), root.join("git")).unwrap();
    world.write(
        "workspace.yaml",
        "slug: acme-production\nextends: ../secrets\n",
    );
    let all = everything(&world);
    shows_no_canary(&all);
    assert!(all[0].err.contains("in no git checkout"), "{}", all[0].err);
}

#[test]
fn it_cannot_choose_which_command_runs() {
    let mut world = world();
    let marker = world.dir.path().join("ran");
    let trap = format!("#!/bin/sh\necho \"$0\" >>{}\n", marker.display());
    let bin = world.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["git", "sh", "less", "ssh", "gpg", "trap"] {
        std::fs::write(bin.join(name), &trap).unwrap();
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    world.env("PATH", bin.to_str().unwrap());
    gix::init(world.dir.path()).unwrap();
    let program = bin.join("trap");
    let program = program.display();
    let config = format!(
        "[core]\nfsmonitor = {program}\nhooksPath = {}\nsshCommand = {program}\npager = {program}\n[filter \"x\"]\nclean = {program}\n\
         process = {program}\n[diff \"x\"]\ntextconv = {program}\n[gpg]\nprogram = {program}\n[include]\npath = /dev/zero\n",
        bin.display()
    );
    std::fs::write(world.dir.path().join(".git/config"), config).unwrap();
    std::fs::write(
        world.dir.path().join(".gitattributes"),
        "* filter=x diff=x\n",
    )
    .unwrap();
    for text in [
        "provider: HOSTAWAY\nicon: !!python/object/apply:os.system [trap]\n",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    a: $(trap)\n    b: '`trap`'\n    c: ${exec:trap}\n",
        "provider: HOSTAWAY\nhold:\n  until: 2020-01-01\n  reason: $(trap)\n",
    ] {
        world.write("hostaway.yaml", text);
        everything(&world);
        world.run(&["plan", "--base", "HEAD"]);
        world.run(&["plan", "--base", "--upload-pack=trap"]);
    }
    assert!(
        !marker.exists(),
        "{}",
        std::fs::read_to_string(marker).unwrap_or_default()
    );
}

#[test]
fn it_cannot_put_a_secret_where_it_can_be_seen() {
    let mut world = world();
    world.env("CALRY_SECRET_OPERATOR", CANARY);
    let reference = "${secret:operator}";
    for file in [
        format!("icon: 'https://e.com/{reference}'\n"),
        format!("fieldsToSync:\n  listing: ['{reference}']\n"),
        format!("fieldsToSync:\n  '{reference}': [name]\n"),
        format!("hold:\n  until: 2099-01-01\n  reason: '{reference}'\n"),
        format!("partnerKey:\n  headers:\n    '{reference}': x\n"),
        format!("partnerKey:\n  queryParams:\n    '{reference}': x\n"),
        format!(
            "partnerKey:\n  headers:\n    a: 'x{reference}'\n    b: '{reference}{reference}'\n"
        ),
        format!("'{reference}': x\n"),
    ] {
        world.write("hostaway.yaml", &format!("provider: HOSTAWAY\n{file}"));
        shows_no_canary(&everything(&world));
    }
}

#[test]
fn it_cannot_have_anything_written_by_being_looked_at() {
    let world = world();
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: []\npartnerKey: {}\n",
    );
    world.run(&["validate"]);
    assert!(world.requests().is_empty());
    for args in [
        &["plan"][..],
        &["plan", "--out", "p"],
        &["plan", "--secrets-unavailable", "--format", "json"],
        &["snapshot"],
    ] {
        world.run(args);
    }
    assert!(
        world
            .requests()
            .iter()
            .all(|request| request.method == "GET")
            && !world.requests().is_empty()
    );
}

#[test]
fn it_cannot_loosen_what_the_operator_limits() {
    let world = world();
    for extra in [
        "maxChanges: 99",
        "max-changes: 99",
        "force: true",
        "strict: false",
        "mode: enforce",
        "approve: all",
    ] {
        world.write(
            "hostaway.yaml",
            &format!("provider: HOSTAWAY\nicon: https://e.com/i\n{extra}\n"),
        );
        world
            .run(&["apply", "--yes", "--max-changes", "0"])
            .exits(3);
        world.write(
            "hostaway.yaml",
            "provider: HOSTAWAY\nicon: https://e.com/i\n",
        );
        world.write(
            "workspace.yaml",
            &format!("slug: acme-production\n{extra}\n"),
        );
        world
            .run(&["apply", "--yes", "--max-changes", "0"])
            .exits(3);
        std::fs::remove_file(world.definitions().join("workspace.yaml")).unwrap();
        world
            .run(&["apply", "--yes", "--max-changes", "0"])
            .exits(1)
            .says("plan refused");
    }
    world.write("workspace.yaml", "slug: acme-staging\n");
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("nothing is planned");
    // Nor does its pin replace the operator's.
    world.write("workspace.yaml", "slug: acme-production\n");
    world
        .run(&["apply", "--yes", "--workspace", "acme-staging"])
        .exits(1)
        .says("nothing is planned");
    assert!(world.updates().is_empty());
}

#[test]
fn it_cannot_hide_that_the_api_key_ends() {
    let mut near = world();
    near.env("CALRY_API_KEY_EXPIRES", "2020-01-31");
    let says = "the API key from the variable CALRY_API_KEY expired at the end of 2020-01-31";
    near.write("api-key-expires", "2099-12-31")
        .write("CALRY_API_KEY-expires", "2099-12-31");
    near.run(&["plan"]).exits(0).says(says);
    for (file, text) in [
        (
            "hostaway.yaml",
            "provider: HOSTAWAY\napiKeyExpires: 2099-12-31\n",
        ),
        (
            "workspace.yaml",
            "slug: acme-production\napiKeyExpires: 2099-12-31\n",
        ),
    ] {
        let world = world();
        world.write(file, text);
        world
            .run(&["plan"])
            .exits(3)
            .says("`apiKeyExpires` is not a key of");
    }
}

#[test]
fn it_cannot_write_while_the_workspace_is_on_hold() {
    let slug = "slug: acme-production\n";
    let window = "freeze:\n- {from: 2020-01-01T00:00:00Z, to: 2099-12-31T00:00:00Z, reason: r}\n";
    let change = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n";
    for (workspace, file) in [
        (format!("{slug}{window}"), change.to_owned()),
        (
            format!(
                "{slug}{window}- {{from: 2020-01-01T00:00:00Z, to: 2020-01-02T00:00:00Z, reason: r}}\n"
            ),
            change.to_owned(),
        ),
        // There are no keys for an approval or for another time.
        (
            format!("{slug}{window}overrideHold: OPS-1\n"),
            change.to_owned(),
        ),
        (
            format!("{slug}{window}now: 2100-01-01T00:00:00Z\n"),
            change.to_owned(),
        ),
        (
            format!("{slug}freeze: [{{from: 1, to: 2}}]\n"),
            change.to_owned(),
        ),
        (
            format!("{slug}{window}"),
            format!("{change}hold: {{until: 2020-01-01, reason: over}}\n"),
        ),
    ] {
        let world = world();
        world
            .write("hostaway.yaml", &file)
            .write("workspace.yaml", &workspace);
        everything(&world);
        assert_eq!(world.updates().len(), 0, "{workspace}{file}");
        // What a reviewer sees in the diff: the window is gone.
        world.write("workspace.yaml", slug);
        everything(&world);
        assert_eq!(world.updates().len(), 1, "{workspace}{file}");
    }
}

#[test]
fn it_cannot_get_past_a_policy() {
    let world = world();
    let policies = world.dir.path().join("policies.yaml");
    let rule = "policies:\n  - name: hosts\n    each: provider\n    when: provider.icon != null\n    \
                expression: provider.icon.host == 'cdn.example.com'\n    message: another host\n";
    std::fs::write(&policies, rule).unwrap();
    let policies = policies.to_str().unwrap();
    for icon in [
        "https://evil.example/cdn.example.com",
        "https://cdn.example.com.evil.example/",
        "https://evil.example/#@cdn.example.com",
        "https://evil.example\\@cdn.example.com",
        "https://evil.example/' || 'cdn.example.com' == 'cdn.example.com",
        "https://cdn.example.com%2eevil.example/",
    ] {
        world.write(
            "hostaway.yaml",
            &format!(
                "provider: HOSTAWAY\nicon: \"{}\"\n",
                icon.replace('\\', "\\\\")
            ),
        );
        // Neither a file of the directory nor its names are policies.
        world.write("policies.yaml", "policies: []\n");
        let ran = world.run(&["apply", "--yes", "--policies", policies]);
        assert!([1, 3].contains(&ran.code), "{icon}: {}", ran.out);
        std::fs::remove_file(world.definitions().join("policies.yaml")).unwrap();
        let ran = world.run(&["apply", "--yes", "--policies", policies]);
        assert!([1, 3].contains(&ran.code), "{icon}: {}", ran.out);
    }
    assert!(world.updates().is_empty());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://cdn.example.com/a.png\n",
    );
    world
        .run(&["apply", "--yes", "--policies", policies])
        .exits(0);
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn it_cannot_change_what_the_history_shows() {
    let mut world = world();
    world
        .env("CALRY_STATE_DIR", "state")
        .env("CALRY_SECRET_TOKEN", CANARY);
    // Texts with line breaks and escapes would be lines of their own, or act on the terminal.
    let forged = r#"\n{\"time\": \"2026-01-01T00:00:00Z\"}\e[2J"#;
    let name = "5f0c1f7e-0000-4000-8000-000000000001.history.jsonl";
    world.write(name, "{}\n").write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  queryParams: {id: '${secret:token}'}\n",
    );
    world.run(&["run", "--once"]).exits(0);
    let held = format!("provider: HOSTAWAY\nhold: {{until: 2099-12-31, reason: \"x{forged}\"}}\n");
    world.write("hostaway.yaml", &held);
    world.run(&["run", "--once"]).exits(0);
    let invalid = format!("provider: \"{forged}\"\nicon: https://e.com/\n");
    world.write("guesty.yaml", &invalid);
    world.run(&["run", "--once"]);
    let shown = [
        world.run(&["history"]).exits(0),
        world.run(&["history", "--format", "json"]).exits(0),
    ];
    shows_no_canary(&shown);
    assert!(!shown[0].out.contains('\u{1b}'), "{}", shown[0].out);
    let events = shown[1].json()["events"].as_array().unwrap().clone();
    let kinds: Vec<&str> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(kinds, ["update", "held", "failed"], "{events:?}");
    let file = world.dir.path().join("state").join(name);
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.lines().count(), events.len(), "{text}");
    assert!(!text.contains(CANARY) && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn it_cannot_tie_up_the_machine() {
    let world = world();
    let bomb: String = (1..60)
        .map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1))
        .collect();
    let long = "x".repeat(900_000);
    for text in [
        format!("provider: HOSTAWAY\na0: &a0 [x]\n{bomb}"),
        format!(
            "provider: HOSTAWAY\nicon: {}{}\n",
            "[".repeat(100_000),
            "]".repeat(100_000)
        ),
        format!("provider: HOSTAWAY\nicon: \"{long}\"\n"),
        format!("provider: HOSTAWAY\n{}", "k: v\n".repeat(150_000)),
        format!(
            "provider: HOSTAWAY\nfieldsToSync:\n  listing: [{}]\n",
            "a, ".repeat(300_000)
        ),
        "#".repeat((1 << 20) + 1),
    ] {
        world.write("hostaway.yaml", &text);
        let began = Instant::now();
        world.run(&["validate"]).exits(3);
        world.run(&["plan"]).exits(3);
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "a bound is missing: {} bytes",
            text.len()
        );
    }
    std::fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    pipe(&world.definitions().join("hostaway.yaml"));
    world
        .run(&["validate"])
        .exits(3)
        .says("is not a regular file");
}

/// A pipe without a writer: reading it would wait for ever.
fn pipe(path: &Path) {
    assert!(
        std::process::Command::new("mkfifo")
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn it_cannot_act_on_what_shows_it() {
    let hostile = "##[set-output name=digest]x \\e[2J\\u202e``` </details> <img src=x> @everybody [x](https://evil.example) | ::error::x";
    let world = world();
    world.write(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\nhold:\n  until: 2099-01-01\n  reason: \"{hostile}\"\nicon: \"{hostile}\"\n"),
    );
    let file = "a\u{1b}[31m::warning::\u{202e}`@team`.yaml";
    world.write(file, "provider: [\n");
    world.write(
        "b.yaml",
        "provider: B\nhold:\n  until: '#'#[set-output name=digest]x\nicon: '##[add-mask]y'\n##[x]: ##[y]\n",
    );
    for ran in everything(&world) {
        let all = format!("{}{}", ran.out, ran.err);
        assert!(
            !all.contains(['\u{1b}', '\u{202e}']) && !all.contains("##["),
            "{all}"
        );
        assert!(
            !all.lines()
                .any(|line| line.starts_with("::error::x") || line.starts_with("::warning::")),
            "{all}"
        );
    }
    world.write(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\nhold:\n  until: 2099-01-01\n  reason: \"{hostile}\"\n"),
    );
    let comment = world.run(&["plan", "--format", "markdown"]).out;
    assert!(comment.contains("on hold until 2099-01-01"), "{comment}");
    let outside = outside_code(&comment);
    for acting in ["@everybody", "<img", "evil.example", "@team"] {
        assert!(!outside.contains(acting), "{acting} acts in\n{comment}");
    }
}

#[test]
fn it_cannot_confirm_a_guess_from_a_fork() {
    let mut world = world();
    world.env("CALRY_FINGERPRINT_KEY", "0123456789abcdef0123456789abcdef");
    let snapshot = world.run(&["snapshot"]).exits(0).out;
    std::fs::write(world.dir.path().join("snapshot.json"), snapshot).unwrap();
    world.env.clear();
    let guess = |value: &str| {
        world.write(
            "hostaway.yaml",
            &format!("provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: {value}\n"),
        );
        let ran = world
            .run(&[
                "plan",
                "--live",
                "snapshot.json",
                "--secrets-unavailable",
                "--format",
                "json",
            ])
            .exits(0);
        ran.json()["definitions"].clone()
    };
    assert_eq!(guess("live-value-4712"), guess("something-else"));
}

#[test]
fn it_cannot_run_what_is_not_signed() {
    let checkout = Checkout::of(world());
    let signers = checkout.allow(&[&Signer::new(1)]);
    let ran = |refused: &str| {
        for command in [&["plan"][..], &["apply", "--yes"], &["run", "--once"]] {
            checkout
                .world
                .run(&[command, &["--allowed-signers", &signers]].concat())
                .exits(1)
                .says(refused);
        }
        assert!(checkout.world.requests().is_empty());
    };
    let pushed = "provider: HOSTAWAY\nicon: https://attacker.example/i.png\n";
    checkout.world.write("hostaway.yaml", pushed);
    checkout.commit("refs/heads/main", &[]);
    ran("the commit is not signed");
    // A list of the branch's own, and a key of the attacker's.
    checkout.world.write(
        "allowed_signers",
        &format!("ada@x {}\n", Signer::new(2).public()),
    );
    let signed = checkout.signed(&Signer::new(2), &[]);
    ran("not among the allowed signers");
    // An allowed signer's signature, under another commit.
    let other = checkout
        .repository
        .find_object(signed)
        .unwrap()
        .detach()
        .data;
    let good = Signer::new(1).sign(b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\n");
    let good = String::from_utf8(good).unwrap();
    let header = good
        .split_once("\ngpgsig ")
        .unwrap()
        .1
        .split_once("\n\n")
        .unwrap()
        .0
        .to_owned();
    let (head, rest) = std::str::from_utf8(&other)
        .unwrap()
        .split_once("gpgsig ")
        .unwrap();
    let message = rest.split_once("\n\n").unwrap().1;
    checkout.raw_commit(format!("{head}gpgsig {header}\n\n{message}").as_bytes());
    ran("has a forged signature");
}

#[test]
fn it_cannot_use_a_signature_that_no_longer_counts() {
    let checkout = Checkout::of(world());
    let fixtures = repository().join("tests/fixtures/openpgp");
    let read = |name: &str| std::fs::read_to_string(fixtures.join(name)).unwrap();
    let payload = read("payload");
    for (key, signature, refused) in [
        (
            "expired.asc",
            "expired.sig",
            "was expired at the time of the signature",
        ),
        ("compromised.asc", "compromised.sig", "is revoked"),
        (
            "superseded.asc",
            "superseded-late.sig",
            "was revoked at the time",
        ),
        ("rsa.asc", "sha1.sig", "SHA-1, which is broken"),
        ("ed25519.asc", "rsa.sig", "not among the allowed keys"),
    ] {
        checkout.raw_commit(&with_signature(payload.as_bytes(), &read(signature)));
        let keys = fixtures.join(key).display().to_string();
        for command in [&["plan"][..], &["apply", "--yes"], &["run", "--once"]] {
            checkout
                .world
                .run(&[command, &["--allowed-keys", &keys]].concat())
                .exits(1)
                .says(refused);
        }
    }
    assert!(checkout.world.requests().is_empty());
}

#[test]
fn it_cannot_give_a_signed_tag_to_another_name_or_commit() {
    let server = GitServer::start();
    let checkout = Checkout::of(world());
    let ada = Signer::new(1);
    let keys = checkout.allow_openpgp(&[&ada]);
    let commit = |text: &str| {
        server.commit("main", &[("definitions/hostaway.yaml", text)]);
    };
    let url = server.url();
    let once = |refused: &str| {
        let git = ["--git-url", &url, "--git-ref", "v2", "--verify", "tag"];
        checkout
            .world
            .run(&[&["run", "--once", "--allowed-keys", &keys], &git[..]].concat())
            .exits(1)
            .says(refused);
    };
    commit("provider: HOSTAWAY\n");
    let tag =
        |own: &str, sign: &dyn Fn(&[u8]) -> String| server.signed_tag("v2", own, "main", sign);
    tag("v1", &|text| ada.openpgp_signature(text));
    once("the tag was signed under another name (v1)");
    let signature = RefCell::new(String::new());
    tag("v2", &|text| {
        signature.replace(ada.openpgp_signature(text));
        signature.borrow().clone()
    });
    commit("provider: HOSTAWAY\nicon: https://attacker.example/i.png\n");
    tag("v2", &|_| signature.borrow().clone());
    once("the tag has a forged signature");
    tag("v2", &|_| String::new());
    once("the tag is not signed");
    assert!(checkout.world.updates().is_empty());
}

#[test]
fn it_cannot_read_an_encrypted_secret_or_add_itself_to_its_recipients() {
    let world = world();
    let [operator, attacker] = [(), ()].map(|()| age::x25519::Identity::generate());
    let [own, added] = [&operator, &attacker].map(|key| key.to_public().to_string());
    let value = Secret::new(CANARY);
    let recipient = Recipient::parse(&own).unwrap();
    let encrypted = EncryptedSecret::encrypt(&value, &[recipient].into()).unwrap();
    let secrets = world.definitions().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("hostaway-key.age"), encrypted.bytes()).unwrap();
    let file = |text: &str| world.dir.path().join(text).display().to_string();
    let identity = file("identity.txt");
    std::fs::write(&identity, operator.to_string().expose_secret()).unwrap();
    world.write(
        "workspace.yaml",
        &format!("slug: acme-production\nsecretRecipients: [{own}, {added}]\n"),
    );
    // Elsewhere than below partnerKey, a reference is text.
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nicon: https://x.example/${secret:hostaway-key}\npartnerKey:\n  headers:\n    \
         x-api-key: ${secret:hostaway-key}\n",
    );
    let again = ["encrypt", "--again", "--age-identity-file", &identity];
    let asked = world.run(&again).exits(1).says(&format!("{added}  (new)"));
    shows_no_canary(&[asked]);
    shows_no_canary(&everything(&world));
    let with = ["plan", "-vv", "--age-identity-file", &identity];
    shows_no_canary(&[world.run(&with)]);
    let unchanged = std::fs::read(secrets.join("hostaway-key.age")).unwrap();
    assert_eq!(unchanged, encrypted.bytes());
}

#[test]
fn it_cannot_remove_a_file_unnoticed_if_every_provider_needs_one() {
    let world = world();
    world.write(
        "workspace.yaml",
        "slug: acme-production\nrequireFiles: true\n",
    );
    world.run(&["plan", "--secrets-unavailable"]).exits(0);
    std::fs::remove_file(world.definitions().join("hostaway.yaml")).unwrap();
    world.write("guesty.yaml", "provider: GUESTY\n");
    for format in ["text", "json", "markdown", "github"] {
        let ran = world.run(&["plan", "--format", format]).exits(3);
        let shown = format!("{}{}", ran.out, ran.err);
        assert!(
            shown.contains("HOSTAWAY is in Calry and has no file"),
            "{shown}"
        );
    }
    world.run(&["apply", "--yes"]).exits(3);
    assert_eq!(world.updates().len(), 0);
}

#[test]
fn it_cannot_overwrite_what_is_not_backed_up() {
    let mut world = world();
    let identity = age::x25519::Identity::generate();
    world
        .env("CALRY_BACKUP_DIR", "backups")
        .env("CALRY_BACKUP_RECIPIENT", &identity.to_public().to_string())
        .env("CALRY_SECRET_NEW", CANARY);
    let overwrite = "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${secret:new}\n";
    let attacker = age::x25519::Identity::generate().to_public();
    for more in [
        "backupDir: /dev/null\n".to_owned(),
        format!("backupRecipient: {attacker}\n"),
        "backups: false\n".to_owned(),
    ] {
        world.write("hostaway.yaml", &format!("{overwrite}{more}"));
        world.run(&["apply", "--yes"]).exits(3);
        world.write("hostaway.yaml", overwrite);
        world.write("workspace.yaml", &format!("slug: acme-production\n{more}"));
        world.run(&["apply", "--yes"]).exits(3);
        std::fs::remove_file(world.definitions().join("workspace.yaml")).unwrap();
    }
    assert!(world.updates().is_empty());
    world.write("hostaway.yaml", overwrite);
    shows_no_canary(&[world.run(&["apply", "--yes"]).exits(0)]);
    let directory = world
        .dir
        .path()
        .join("backups/5f0c1f7e-0000-4000-8000-000000000001/HOSTAWAY");
    let backups: Vec<_> = std::fs::read_dir(directory).unwrap().collect();
    assert_eq!(backups.len(), 1);
    let bytes = std::fs::read(backups[0].as_ref().unwrap().path()).unwrap();
    let text = age::decrypt(&identity, &bytes).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("live-value-4712"));
}
