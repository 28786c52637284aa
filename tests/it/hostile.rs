//! Hostile files, through the binary: each is an error that affects no other file.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Checkout, Ran, Signer, World, live};
use calry_gitops::sandbox::Config;
use serde_json::json;

/// The largest peak memory of the process, in KiB: far above what it needs, far below what a bomb would take.
const MAX_MEMORY: u64 = 256 << 10;

/// A world with one valid file. `GUESTY` is the other provider of the workspace.
fn world() -> World {
    let live = [
        live("HOSTAWAY", &["name"], &["pictures"]),
        live("GUESTY", &["name"], &["pictures"]),
    ];
    let world = World::with(json!(live), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    world
}

/// The hostile file is an error, and the valid file is planned.
#[track_caller]
fn assert_isolated_error(world: &World, message: &str) -> Ran {
    world
        .run(&["validate"])
        .exits(3)
        .says("definitions/guesty.yaml")
        .says(message);
    let plan = world
        .run(&["plan", "--format", "json"])
        .exits(3)
        .says(message);
    let json = plan.json();
    let state = |provider: &str| {
        json["definitions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|d| d["provider"] == provider)
            .unwrap()["state"]
            .clone()
    };
    assert_eq!(
        (state("HOSTAWAY"), state("GUESTY")),
        (json!("update"), json!("invalid"))
    );
    assert_eq!(
        json["diagnostics"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["file"] != "guesty.yaml")
            .count(),
        0
    );
    world.run(&["apply", "--yes"]).exits(3);
    assert!(world.updates().is_empty());
    plan
}

#[track_caller]
fn assert_isolated_error_of(text: impl AsRef<[u8]>, message: &str) -> Ran {
    let world = world();
    std::fs::write(world.definitions().join("guesty.yaml"), text).unwrap();
    assert_isolated_error(&world, message)
}

#[test]
fn an_alias_bomb_is_refused_and_not_expanded() {
    assert_isolated_error_of(alias_bomb(), "alias");
}

fn alias_bomb() -> String {
    let mut bomb = "provider: GUESTY\na: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in ('b'..='z').zip('a'..) {
        bomb.push_str(&format!(
            "{name}: &{name} [{}]\n",
            vec![format!("*{of}"); 9].join(", ")
        ));
    }
    bomb
}

#[test]
fn twenty_thousand_nested_brackets_do_not_overflow_the_stack() {
    for text in [
        "[".repeat(20_000),
        "{a: ".repeat(20_000),
        "- ".repeat(20_000),
    ] {
        assert_isolated_error_of(
            format!("provider: GUESTY\nfieldsToSync:\n  {text}"),
            "error[syntax]",
        );
    }
    assert_isolated_error_of(
        format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)),
        "error[syntax]",
    );
}

#[test]
fn a_file_over_one_mebibyte_is_refused_and_a_file_of_one_mebibyte_is_read() {
    let fill = |size: usize| {
        let text = "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n#";
        format!("{text}{}", "x".repeat(size - text.len()))
    };
    let ran = assert_isolated_error_of(fill((1 << 20) + 1), "the file is larger than 1024 KiB");
    assert!(!ran.err.contains("xxx"));
    let world = world();
    world
        .write("guesty.yaml", &fill(1 << 20))
        .run(&["plan"])
        .exits(0);
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let world = world();
    // Far larger than memory, but sparse.
    std::fs::File::create(world.definitions().join("guesty.yaml"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert_isolated_error(&world, "the file is larger than 1024 KiB");
}

#[test]
fn invalid_utf_8_is_an_error_at_its_position() {
    let ran = assert_isolated_error_of(b"provider: GUESTY\nicon: \xff\xfe\n", "not UTF-8");
    ran.says("definitions/guesty.yaml:2:7");
    assert_isolated_error_of(b"\xff\xfep\0r\0o\0", "not UTF-8");
}

#[test]
fn unsupported_yaml_is_refused() {
    for (text, message) in [
        ("provider: GUESTY\n---\nprovider: LODGIFY\n", "document"),
        ("provider: !!str GUESTY\n", "tag"),
        ("provider: !ruby/object:Gem GUESTY\n", "tag"),
        ("provider: &x GUESTY\nicon: *x\n", "alias"),
        (
            "provider: GUESTY\nicon: https://a.example/x.png\nicon: https://b.example/x.png\n",
            "duplicate-key",
        ),
        (
            "provider: GUESTY\nfieldsToSync:\n  listing: [name]\n  listing: [rooms]\n",
            "duplicate-key",
        ),
        ("provider: GUESTY\nprovider: HOSTAWAY\n", "duplicate-key"),
        ("%YAML 1.1\n---\nprovider: GUESTY\n", "error[syntax]"),
        ("provider: GUESTY\n? [a]\n: b\n", "guesty.yaml:2"),
        ("provider: GUESTY\n\tx: y\n", "error[syntax]"),
        ("provider: GUESTY\0\n", "control character"),
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- GUESTY\n", "error[wrong-type]"),
    ] {
        assert_isolated_error_of(text, message);
    }
}

#[test]
fn links_and_special_files_are_refused() {
    type Make = fn(&Path);
    let cases: [(Make, &str); 5] = [
        (
            |path| std::fs::create_dir(path).unwrap(),
            "not a regular file",
        ),
        (
            |path| symlink("nowhere.yaml", path).unwrap(),
            "a link to a file that does not exist",
        ),
        (|path| symlink("guesty.yaml", path).unwrap(), "the file"),
        (
            |path| symlink("../outside.yaml", path).unwrap(),
            "a link to a file outside the directory",
        ),
        (
            |path| symlink("/dev/zero", path).unwrap(),
            "a link to a file outside the directory",
        ),
    ];
    for (make, message) in cases {
        let world = world();
        let outside = world.dir.path().join("outside.yaml");
        std::fs::write(
            outside,
            "provider: GUESTY\nicon: https://outside.example/canary.png\n",
        )
        .unwrap();
        make(&world.definitions().join("guesty.yaml"));
        let ran = assert_isolated_error(&world, message);
        assert!(!ran.out.contains("canary") && !ran.err.contains("canary"));
    }
}

#[test]
fn two_files_for_one_provider_are_both_refused() {
    let world = world();
    for name in ["guesty.yaml", "guesty.yml"] {
        world.write(name, "provider: GUESTY\n");
    }
    let ran = world
        .run(&["plan"])
        .exits(3)
        .says("definitions/guesty.yaml:1:11")
        .says("definitions/guesty.yml:1:11");
    assert!(
        ran.out
            .contains("Plan: 1 provider to update, 0 in sync, 2 invalid."),
        "{}",
        ran.out
    );
}

#[test]
fn similar_warnings_are_counted_after_the_first_20() {
    let world = world();
    let fields: Vec<String> = (0..60).map(|n| format!("unheard_of_{n}")).collect();
    world.write(
        "guesty.yaml",
        &format!(
            "provider: GUESTY\nfieldsToSync:\n  listing: [name, {}]\n",
            fields.join(", ")
        ),
    );
    let ran = world
        .run(&["validate"])
        .exits(0)
        .says("and 40 more warnings of this kind: warning[unknown-field]");
    assert_eq!(
        ran.err.matches("warning[unknown-field]: ").count(),
        20,
        "{}",
        ran.err
    );
    assert!(ran.err.ends_with("60 warnings in 2 files\n"));
}

#[test]
fn a_flood_of_errors_in_one_file_ends_after_100() {
    let keys: String = (0..5_000).map(|n| format!("key{n}: x\n")).collect();
    let ran = assert_isolated_error_of(
        format!("provider: GUESTY\n{keys}"),
        "more than 100 problems",
    );
    assert_eq!(ran.err.matches("error[unknown-key]").count(), 100);
}

#[test]
fn a_flood_of_errors_over_many_files_is_listed_up_to_1000_and_the_rest_is_counted_in_every_format()
{
    let world = world();
    let keys: String = (0..100).map(|n| format!("key{n}: x\n")).collect();
    for n in 0..30 {
        world.write(&format!("f{n:02}.yaml"), &format!("provider: P{n}\n{keys}"));
    }
    // Warnings are dropped in favour of errors.
    let fields: Vec<_> = (0..50).map(|n| format!("zzqx{n}jjvv")).collect();
    world.write(
        "guesty.yaml",
        &format!(
            "provider: GUESTY\nfieldsToSync:\n  listing: [{}]\n",
            fields.join(", ")
        ),
    );

    let ran = world
        .run(&["validate"])
        .exits(3)
        .says(" more problems are not listed");
    assert_eq!(
        ran.err
            .lines()
            .filter(|line| line.starts_with("error["))
            .count(),
        1_001
    );
    assert!(!ran.err.contains("warning["));
    let json = world.run(&["validate", "--format", "json"]).exits(3).json();
    let summary = &json["summary"];
    let (errors, warnings) = (
        summary["errors"].as_u64().unwrap(),
        summary["warnings"].as_u64().unwrap(),
    );
    assert!(errors >= 3_000 && warnings >= 50, "{summary}");
    assert!(
        ran.err.ends_with(&format!(
            "{errors} errors, {warnings} warnings in 32 files\n"
        )),
        "{summary}"
    );
    let listed = json["diagnostics"].as_array().unwrap();
    assert_eq!(listed.len(), 1_001);
    assert_eq!(listed[1_000]["code"], "too-many");
    let rest = format!("{} more problems are not listed", errors + warnings - 1_000);
    assert!(
        listed[1_000]["message"]
            .as_str()
            .unwrap()
            .starts_with(&rest),
        "{}",
        listed[1_000]
    );
    assert!(listed.iter().all(|problem| problem["severity"] == "error"));

    let github = world.run(&["validate", "--format", "github"]).exits(3);
    assert_eq!(github.out.matches("::error ").count(), 1_001);
    assert_eq!(github.out.matches("::warning ").count(), 0);
    let sarif = world
        .run(&["validate", "--format", "sarif"])
        .exits(3)
        .json();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 1_001);
    let plan = world.run(&["plan", "--format", "json"]).exits(3).json();
    assert_eq!(plan["diagnostics"].as_array().unwrap().len(), 1_001);
    let last = plan["definitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["file"] == "f29.yaml")
        .unwrap();
    assert!(
        last["error"]
            .as_str()
            .unwrap()
            .starts_with("the file has 10"),
        "{last}"
    );

    // Problems that are not listed count, too.
    world
        .run(&["validate", "--only", "P29"])
        .exits(3)
        .says("definitions/f29.yaml");
    world.run(&["validate", "--only", "GUESTY"]).exits(0);
    world
        .run(&["validate", "--only", "GUESTY", "--strict"])
        .exits(3);
    assert_eq!(world.run(&["validate"]).exits(3).err, ran.err);
}

#[test]
fn text_of_a_file_cannot_control_the_terminal() {
    let text = "provider: GUESTY\nfieldsToSync:\n  listing: [\"\\e[2Jname\", \"\\u202ename\"]\nhold: {until: \"\\e]0;x\\a\", reason: x}\n";
    let ran = assert_isolated_error_of(text, "guesty.yaml");
    assert!(
        [&ran.out, &ran.err]
            .iter()
            .all(|t| !t.contains(['\u{1b}', '\u{7}', '\u{202e}'])),
        "{}",
        ran.err
    );
}

/// Creates a hostile file at a path.
type Make = fn(&Path);

const HOSTILE: [(&str, Make); 5] = [
    ("pipe", |path| {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(path)
                .status()
                .unwrap()
                .success()
        )
    }),
    ("device", |path| symlink("/dev/zero", path).unwrap()),
    ("directory", |path| std::fs::create_dir(path).unwrap()),
    ("socket", |path| {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap())
    }),
    ("loop", |path| {
        symlink(path.file_name().unwrap(), path).unwrap()
    }),
];

const GIT_FILES: [&str; 7] = [
    "HEAD",
    "config",
    "commondir",
    "packed-refs",
    "shallow",
    "refs/heads/main",
    "objects/info/alternates",
];

/// Every command ends by itself, without a panic. Commands that need the repository fail, others warn.
#[track_caller]
fn assert_unreadable_repository(checkout: &Checkout, case: &str) {
    let world = &checkout.world;
    let plan = world.run(&["plan"]).exits(0);
    assert!(
        plan.err.contains("the git revision of") && plan.err.contains("cannot be read"),
        "{case}: {}",
        plan.err
    );
    let base = world.run(&["plan", "--base", "HEAD~1"]).exits(1);
    assert!(base.err.contains("--base"), "{case}: {}", base.err);
    let signers = checkout.allow(&[&Signer::new(1)]);
    let once = world
        .run(&["run", "--once", "--allowed-signers", &signers])
        .exits(1);
    assert!(once.err.contains("is refused"), "{case}: {}", once.err);
    assert!(world.updates().is_empty(), "{case}");
    for ran in [plan, base, once] {
        assert!(
            ran.err.contains("is not a regular file") || ran.err.contains("is larger than"),
            "{case}: {}",
            ran.err
        );
    }
}

#[test]
fn special_files_in_a_repository_are_not_opened() {
    for file in GIT_FILES {
        for (kind, make) in HOSTILE {
            // If other branches have a longer name, a branch is a directory.
            if (file, kind) == ("refs/heads/main", "directory") {
                continue;
            }
            let checkout = Checkout::of(world());
            let path = checkout.world.dir.path().join(".git").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = std::fs::remove_file(&path);
            make(&path);
            assert_unreadable_repository(&checkout, &format!("{file}, {kind}"));
        }
    }
}

#[test]
fn a_repository_without_end_is_not_read_to_its_end() {
    for file in GIT_FILES {
        let checkout = Checkout::of(world());
        let path = checkout.world.dir.path().join(".git").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Far larger than memory, but sparse.
        std::fs::File::create(path)
            .unwrap()
            .set_len(1 << 38)
            .unwrap();
        assert_unreadable_repository(&checkout, file);
    }
}

/// With a daemon, because its peak can be read while it runs.
#[test]
#[cfg(target_os = "linux")]
fn hostile_files_take_little_memory() {
    let world = world();
    world
        .write("guesty.yaml", &alias_bomb())
        .write("elina.yaml", &"[".repeat(1 << 20))
        .write("boom.yaml", &"- a\n".repeat(1 << 18));
    std::fs::File::create(world.definitions().join("lodgify.yaml"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let mut daemon = world.daemon(&[]);
    daemon.line("HOSTAWAY updated");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MAX_MEMORY, "{peak} KiB");
}
