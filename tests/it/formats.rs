//! Plans for other programs: the comment on a pull request, and annotations of lines.

use crate::support::{Checkout, World, live, outside_code};
use calry_gitops::sandbox::{Config, Seed};
use serde_json::json;

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
        world
            .sandbox
            .modify_workspace(|workspace| workspace["slug"] = json!(text));
        world.write(
            "hostaway.yaml",
            "provider: HOSTAWAY\nicon: https://e.com/x.png\nfieldsToSync:\n  listing: [name, pictures]\n",
        );
        let comment = world.run(&["plan", "--format", "markdown"]).exits(0).out;
        let shown = outside_code(&comment);
        for part in ["@every", "<img", "](http", "\u{202e}", "\u{1b}", "kcab"] {
            assert!(
                !shown.contains(part),
                "{part:?} of {text:?} got out:\n{comment}"
            );
        }
        assert!(
            !comment.contains('\u{202e}') && !comment.contains('\u{1b}'),
            "{comment}"
        );
        assert_eq!(shown.matches("</details>").count(), 1, "{comment}");
    }
}

#[test]
fn annotations_of_a_plan_stand_at_the_key_that_changes_the_gravest_first() {
    let mut hostaway = live("HOSTAWAY", &["a", "b", "c"], &["d", "e"]);
    hostaway["partnerKey"] = json!({"headers": {"x-a": "one", "x-gone": "two"}});
    let world = World::with(
        json!([hostaway, live("GUESTY", &["name"], &[])]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    - d\n    - e\n    - c\npartnerKey:\n  headers:\n    x-b: y\n    X-A: z\n\
         icon: https://e.com/x.png\n",
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: {name: false, currency: true}\n",
    );
    let ran = world.run(&["plan", "--format", "github"]);
    let lines: Vec<&str> = ran
        .out
        .lines()
        .map(|line| line.split_once(" (sha256:").map_or(line, |(line, _)| line))
        .collect();
    let rest = |line: &str| {
        let (level, rest) = line.split_once(' ').unwrap();
        let place: Vec<&str> = rest
            .split(',')
            .filter(|p| p.starts_with("line=") || p.starts_with("col="))
            .collect();
        format!(
            "{level} {} {}",
            place.join(" "),
            rest.split_once("title=").unwrap().1
        )
    };
    let off = [
        "::warning line=3 col=13 will be switched off::GUESTY: listing.name off; listings get no name",
        "::warning line=3 col=3 will be switched off::HOSTAWAY: listing.a off, listing.b off",
    ];
    let notices = [
        "::notice line=11 col=1 will change::HOSTAWAY: icon",
        "::notice line=9 col=5 will change::HOSTAWAY: headers.x-b",
        "::notice line=10 col=5 will change::HOSTAWAY: headers.X-A",
        "::notice line=8 col=3 will change::HOSTAWAY: headers.x-gone",
        "::notice line=4 col=7 will change::HOSTAWAY: listing.d on",
        "::notice line=5 col=7 will change::HOSTAWAY: listing.e on",
    ];
    assert!(
        lines[0].starts_with("::notice title=Calry plan::acme-production: "),
        "{}",
        ran.out
    );
    let found: Vec<String> = lines.iter().skip(1).map(|line| rest(line)).collect();
    let at = |wanted: &str| {
        found
            .iter()
            .position(|line| line == wanted)
            .unwrap_or_else(|| panic!("{wanted}\n{}", ran.out))
    };
    let (off, notices) = (off.map(at), notices.map(at));
    assert!(off.iter().max() < notices.iter().min(), "{}", ran.out);
    let problems = |level: &str| {
        found
            .iter()
            .position(|line| line.starts_with(level) && line.contains("unknown-field"))
    };
    assert!(
        problems("::error").is_none_or(|at| at < off[0])
            && problems("::warning").is_none_or(|at| at > off[1])
    );
}

#[test]
fn a_comment_begins_with_the_verdict_and_what_is_dangerous() {
    let world = World::with(
        json!([
            live("HOSTAWAY", &["name", "rooms"], &["pictures"]),
            live("GUESTY", &["name"], &["rooms"]),
            live("BEDS24", &["name"], &[])
        ]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync:\n  listing: [name, rooms]\n",
    );
    world.write(
        "beds24.yaml",
        "provider: BEDS24\nfieldsToSync:\n  listing: [name]\n",
    );
    let checkout = Checkout::of(world);
    let comment = |exit| {
        let plan = ["plan", "--base", "main", "--format", "markdown"];
        checkout.world.run(&plan).exits(exit).out
    };
    checkout.branch(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures, rooms]\n",
    );
    let good = comment(0);
    assert!(
        good.starts_with(
            "### ✅ Calry `acme-production`: this branch changes 1 provider\n\n1 field on"
        ),
        "{good}"
    );
    // Drift is folded, and follows the diffs of the branch.
    let (branch, drift) = good
        .split_once("<details><summary>Earlier drift, not from this branch: 1 provider</summary>")
        .unwrap();
    assert!(
        !branch.contains("GUESTY") && branch.contains("<b>HOSTAWAY</b>"),
        "{good}"
    );
    assert!(drift.contains("<b>GUESTY</b>"), "{good}");

    checkout.branch(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n",
    );
    let off = comment(0);
    let danger =
        "\n\n- ⚠️ `HOSTAWAY`: switches **1 field OFF**: `listing.rooms`; listings get no rooms\n";
    assert!(off.starts_with("### ⚠️ ") && off.contains(danger), "{off}");
    assert!(off.find(danger) < off.find("| provider |"), "{off}");

    checkout.branch("beds24.yaml", "provider: BEDS24\nicn: x\n");
    let wrong = comment(3);
    assert!(
        wrong.starts_with("### ❌ Calry `acme-production`: 1 file has errors; this branch"),
        "{wrong}"
    );
    assert!(
        wrong.contains("\n\n- ❌ `definitions/beds24.yaml:2:1`: `icn` is "),
        "{wrong}"
    );
    assert_eq!(wrong.matches("### ").count(), 1, "{wrong}");
}

#[test]
fn a_failed_or_refused_plan_says_why_and_what_to_do() {
    let mut world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms"])]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    let refused = [
        "apply",
        "--yes",
        "--max-changes",
        "0",
        "--format",
        "markdown",
    ];
    let refused = world.run(&refused).exits(1).out;
    let why = "### ❌ Calry `acme-production`: not applied\n\n**Why**: plan refused: it changes 1 provider";
    assert!(refused.starts_with(why), "{refused}");
    assert!(
        refused.contains("| `HOSTAWAY` |") && refused.contains("```diff"),
        "the plan, to review it:\n{refused}"
    );
    let applied = world
        .run(&["apply", "--yes", "--format", "markdown"])
        .exits(0)
        .out;
    assert!(
        applied.starts_with("### ✅ Calry `acme-production`: 1 of 1 applied\n"),
        "{applied}"
    );
    world.env("CALRY_API_KEY", "zepl.unknown.key.acme");
    let failed = world.run(&["plan", "--format", "markdown"]).exits(1).out;
    assert!(
        failed
            .starts_with("### ❌ Calry: there is no plan for `definitions`\n\n**Why**: cannot read the workspace: "),
        "{failed}"
    );
    assert!(failed.contains("**What to do**: "), "{failed}");
}

#[test]
fn a_comment_on_500_providers_is_short_and_names_what_it_omits() {
    let world = World::new(Config {
        seed: Seed::synthetic(500),
        ..Config::default()
    });
    for n in 0..500 {
        world.write(
            &format!("p{n:05}.yaml"),
            &format!("provider: P{n:05}\nfieldsToSync:\n  listing: [name, rooms, latitude]\n"),
        );
    }
    let comment = world.run(&["plan", "--format", "markdown"]).exits(0).out;
    assert!(
        comment.chars().count() <= 60_000,
        "{}",
        comment.chars().count()
    );
    assert!(
        comment.contains("500 to update") && comment.contains("more diffs are omitted"),
        "{comment}"
    );
    assert!(comment.contains("Plan `sha256:"), "the end is there");
    outside_code(&comment);
}

#[test]
fn annotations_stand_at_the_file_and_line() {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["pictures"])]),
        Config::default(),
    );
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, pictures]\n",
    );
    world.write("guesty.yaml", "provider: GUESTY\nicn: x\n");
    let ran = world.run(&["plan", "--format", "github"]).exits(3);
    assert!(
        ran.out.contains("::error file=definitions/guesty.yaml,line=2,endLine=2,col=1,endColumn=4,title=unknown-key::"),
        "{}",
        ran.out
    );
    let change =
        "file=definitions/hostaway.yaml,line=3,endLine=3,col=19,endColumn=27,title=will change";
    assert!(
        ran.out.contains(&format!(
            "::notice {change}::HOSTAWAY: listing.pictures on\n"
        )),
        "{}",
        ran.out
    );
    let ran = world
        .run(&["apply", "--yes", "--only", "HOSTAWAY", "--format", "github"])
        .exits(0);
    assert!(
        ran.out
            .contains("::notice title=Calry apply::1 of 1 applied"),
        "{}",
        ran.out
    );
    world.write("workspace.yaml", "slug: another\n");
    let ran = world
        .run(&["plan", "--only", "HOSTAWAY", "--format", "github"])
        .exits(1);
    assert!(
        ran.out
            .contains("::error title=Calry::these definitions are for the workspace another"),
        "{}",
        ran.out
    );
}
