//! The documentation shows what the binary prints.

use std::fmt::Write as _;
use std::process::Command;

use crate::support::{Checkout, World, live, repository};
use calry_gitops::model::Code;
use calry_gitops::sandbox::Config;
use serde_json::json;

/// A pull request that switches two fields of HOSTAWAY on and gives it another key, while GUESTY has drifted.
fn pull_request() -> Checkout {
    let mut hostaway = live(
        "HOSTAWAY",
        &["address", "name", "rooms"],
        &["amenities", "pictures"],
    );
    hostaway["partnerKey"] = json!({"headers": {"x-api-key": "the old one"}});
    let mut world = World::with(
        json!([hostaway, live("GUESTY", &["name"], &["contact", "rooms"])]),
        Config::default(),
    );
    let key = "partnerKey:\n  headers:\n    x-api-key: ${secret:hostaway-api-key}\n";
    world.write(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\n{key}fieldsToSync:\n  listing: [address, name, rooms]\n"),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world
        .env("CALRY_SECRET_HOSTAWAY_API_KEY", "the old one")
        .env("CALRY_SECRET_HOSTAWAY_API_KEY_2", "the new one");
    let checkout = Checkout::of(world);
    let key = key.replace("api-key}", "api-key-2}");
    let fields = "fieldsToSync:\n  listing: [address, amenities, name, pictures]\n";
    checkout.branch(
        "hostaway.yaml",
        &format!("provider: HOSTAWAY\n{key}{fields}"),
    );
    checkout
}

#[test]
fn the_comment_in_the_documentation_is_the_one_that_plan_prints() {
    let checkout = pull_request();
    let printed = checkout
        .world
        .run(&["plan", "--base", "main", "--format", "markdown"])
        .exits(0)
        .out;
    let path = repository().join("docs/pull-requests.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let begin = "<!-- what `plan --format markdown` prints -->\n\n";
    let end = "\n<!-- and no more -->";
    let (before, rest) = page.split_once(begin).unwrap();
    let (shown, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, [before, begin, &printed, end, after].concat()).unwrap();
    } else {
        assert_eq!(shown, printed, "UPDATE_DOCS=1 writes it");
    }
}

/// The command reference, from the help of every command.
fn commands() -> String {
    let help = |command: Option<&str>| {
        let out = Command::new(env!("CARGO_BIN_EXE_calry-gitops"))
            .args(command)
            .arg("--help")
            .env_clear()
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        assert!(out.status.success(), "{command:?}: {out:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let main = help(None);
    let (_, list) = main.split_once("Commands:\n").unwrap();
    let names = list
        .lines()
        .take_while(|line| !line.is_empty())
        // The continuation of a description is indented further.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help");
    let mut page = format!(
        "# Commands\n\n\
         <!-- Generated from the help: UPDATE_DOCS=1 cargo test --test it reference:: -->\n\n\
         Results go to standard output, everything else to standard error. Examples are in the pages about\n\
         [definitions](definition-format.md), [pull requests](pull-requests.md) and [the daemon](daemon.md).\n\n\
         ```text\n{main}\n```\n"
    );
    for name in names {
        write!(page, "\n## {name}\n\n```text\n{}\n```\n", help(Some(name))).unwrap();
    }
    page
}

#[test]
fn the_command_reference_is_the_help_of_every_command() {
    let path = repository().join("docs/commands.md");
    let expected = commands();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/commands.md is out of date: UPDATE_DOCS=1 cargo test --test it reference::"
    );
}

#[test]
fn every_problem_code_has_a_remedy() {
    let page = std::fs::read_to_string(repository().join("docs/troubleshooting.md")).unwrap();
    let (_, table) = page.split_once("## Problem codes").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let listed: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(code, _)| code)
        .collect();
    assert_eq!(listed, Code::ALL.map(Code::as_str));
}

#[test]
fn every_path_in_the_architecture_exists() {
    let page = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let paths: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.contains('/') && !code.contains([' ', '*']))
        .collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let roots = ["src", ""];
        assert!(
            roots
                .iter()
                .any(|root| repository().join(root).join(path).exists()),
            "{path} does not exist"
        );
    }
}
