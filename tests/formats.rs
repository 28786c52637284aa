//! What a plan looks like where others show it: a comment on a pull request, annotations at a line.

#![allow(clippy::unwrap_used)]

mod support;

use calry_gitops::sandbox::{Config, Seed};
use serde_json::json;
use support::{World, live, outside_code};

fn hostile() -> Vec<&'static str> {
    vec![
        "```\n</details>",
        "<img src=x onerror=alert(1)>",
        "@everybody",
        "[x](https://evil.example)",
        "a|b",
        "\u{202e}kcab",
        "\u{1b}[31m",
    ]
}

#[test]
fn live_data_cannot_break_out_of_the_comment() {
    for text in hostile() {
        let mut definition = live("HOSTAWAY", &["name"], &["pictures"]);
        definition["icon"] = json!(text);
        definition["fieldsToSync"]["listing"][text] = json!(true);
        let world = World::with(json!([]), Config::default());
        world.sandbox.set_definition("HOSTAWAY", definition);
        world.sandbox.modify_workspace(|workspace| workspace["slug"] = json!(text));
        world.write(
            "hostaway.yaml",
            "provider: HOSTAWAY\nicon: https://e.com/x.png\nfieldsToSync:\n  listing: [name, pictures]\n",
        );
        let comment = world.run(&["plan", "--format", "markdown"]).exits(0).out;
        let shown = outside_code(&comment);
        for part in ["@every", "<img", "](http", "\u{202e}", "\u{1b}", "kcab"] {
            assert!(!shown.contains(part), "{part:?} of {text:?} got out:\n{comment}");
        }
        assert!(!comment.contains('\u{202e}') && !comment.contains('\u{1b}'), "{comment}");
        assert_eq!(shown.matches("</details>").count(), 1, "{comment}");
    }
}

#[test]
fn a_comment_on_500_providers_is_short_and_says_what_it_left_out() {
    let world = World::new(Config { seed: Seed::synthetic(500), ..Config::default() });
    for n in 0..500 {
        world.write(
            &format!("p{n:05}.yaml"),
            &format!("provider: P{n:05}\nfieldsToSync:\n  listing: [name, rooms, latitude]\n"),
        );
    }
    let comment = world.run(&["plan", "--format", "markdown"]).exits(0).out;
    assert!(comment.chars().count() <= 60_000, "{}", comment.chars().count());
    assert!(comment.contains("500 to update") && comment.contains("more diffs are left out here"), "{comment}");
    assert!(comment.contains("Plan `sha256:"), "the end is there");
    outside_code(&comment);
}

#[test]
fn annotations_stand_at_the_file_and_line() {
    let world = World::with(json!([live("HOSTAWAY", &["name"], &["pictures"])]), Config::default());
    world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n");
    world.write("guesty.yaml", "provider: GUESTY\nicn: x\n");
    let ran = world.run(&["plan", "--format", "github"]).exits(3);
    assert!(
        ran.out.contains("::error file=definitions/guesty.yaml,line=2,endLine=2,col=1,endColumn=4,title=unknown-key::"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("::notice file=definitions/hostaway.yaml,title=will change::HOSTAWAY: 1 field on\n"),
        "{}",
        ran.out
    );
    let ran = world.run(&["apply", "--yes", "--only", "HOSTAWAY", "--format", "github"]).exits(0);
    assert!(ran.out.contains("::notice title=Calry apply::1 of 1 applied"), "{}", ran.out);
    world.write("workspace.yaml", "slug: another\n");
    let ran = world.run(&["plan", "--only", "HOSTAWAY", "--format", "github"]).exits(1);
    assert!(ran.out.contains("::error title=Calry::these definitions are for the workspace another"), "{}", ran.out);
}
