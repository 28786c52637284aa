//! What is shown is escaped, neutral and small, whatever it came from.

use serde_json::{Value, json};

use super::*;
use crate::report::status::Status;

/// What would act in HTML, in an attribute, in an address, on a terminal or on the eye.
const HOSTILE: &str = "</main><script>alert(1)</script><img src=x onerror=alert(1)>\"' onclick='x' javascript:\
                       \u{202e}\u{200b}\u{1b}[2J\u{0}&amp;";

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// A workspace that has everything there is to show, with `text` wherever text is foreign.
fn workspace(text: &str, providers: usize, changes: usize) -> Value {
    let time = "2026-01-02T03:00:00Z";
    let change = |n: usize| match n * 3 / changes.max(1) {
        0 => {
            json!({"path": format!("partnerKey.headers.{text}{n}"), "before": null, "after": null, "sensitive": true,
            "change": "changed", "secrets": [text]})
        }
        1 => {
            let path = format!("fieldsToSync.listing.{text}{n}");
            json!({"path": path, "before": false, "after": true, "sensitive": false})
        }
        _ => json!({"path": "icon", "before": text, "after": text, "sensitive": false}),
    };
    let changes: Vec<Value> = (0..changes).map(change).collect();
    let kept = json!({"path": text, "sent": text, "kept": true, "sensitive": false});
    let provider = |n: usize| {
        let state = ["update", "held", "invalid", "missing", "update", "update"][n % 6];
        json!({"provider": format!("{text}{n}"), "file": format!("{text}.yaml"), "state": state, "since": time,
            "changes": changes, "cause": "drift", "hold": {"until": text, "reason": text}, "outcome": "notConverged",
            "error": text, "notConverged": if n % 6 == 4 { vec![kept.clone()] } else { Vec::new() }, "retryAt": "2026-01-02T04:00:00Z",
            "lastUpdate": {"time": time, "revision": text, "cause": "drift"}})
    };
    let problem = json!({"severity": "error", "code": text, "file": text, "line": 3, "column": 2, "message": text,
        "help": text, "excerpt": {"text": text, "from": 3, "length": 9}});
    let pass = json!({"number": 7, "trigger": "interval", "began": time, "durationSeconds": 0.5, "result": "refused",
        "error": text, "digest": text, "revision": text, "times": 3});
    let record = json!({"time": time, "provider": text, "cause": "change", "revision": text, "outcome": "failed",
        "error": text, "changes": changes, "more": 5, "times": 2});
    json!({"workspace": {"id": text, "name": text, "slug": text}, "directory": text, "api": text, "mode": "observe",
        "intervalSeconds": 60.0, "alive": true, "ready": true,
        "revision": {"commit": text, "subject": text, "author": text, "time": text, "dirty": true},
        "trust": {"trusted": false, "commit": text, "reason": text, "behind": 3},
        "repository": {"url": text, "reference": text, "commit": text, "commitFetched": time, "lastSuccess": time,
            "nextFetch": "2026-01-02T03:05:00Z",
            "failure": {"kind": "unreachable", "message": text, "since": time, "times": 9}},
        "summary": {"inSync": 0, "update": 0, "invalid": 0, "missing": 0, "held": 0, "unmanaged": 0},
        "pass": null, "lastPass": pass, "nextPass": "2026-01-02T03:05:00Z",
        "providers": (0..providers).map(provider).collect::<Vec<_>>(), "diagnostics": vec![problem; 200],
        "history": {"passes": vec![pass; 100], "changes": vec![record; 100]}})
}

fn shown(workspaces: Vec<Value>, only: Option<&str>) -> String {
    let status =
        json!({"version": "0.1.0", "started": "2026-01-01T00:00:00Z", "workspaces": workspaces});
    let status: Status = serde_json::from_value(status).unwrap();
    let workspaces: Vec<_> = status.workspaces.into_iter().map(Arc::new).collect();
    page(&View {
        version: &status.version,
        started: status.started,
        now: now(),
        id: "1",
        workspaces: &workspaces,
        only,
    })
}

#[test]
fn no_foreign_text_acts_wherever_it_stands() {
    let harmless = shown(vec![workspace("harmless", 12, 4)], None);
    let tags = |html: &str| html.matches('<').count();
    let pages = [
        (shown(vec![workspace(HOSTILE, 12, 4)], None), harmless),
        (
            shown(
                vec![workspace(HOSTILE, 1, 1), workspace(HOSTILE, 1, 1)],
                None,
            ),
            shown(
                vec![workspace("harmless", 1, 1), workspace("harmless", 1, 1)],
                None,
            ),
        ),
        (
            shown(Vec::new(), Some(HOSTILE)),
            shown(Vec::new(), Some("harmless")),
        ),
    ];
    for (hostile, harmless) in pages {
        assert!(hostile.contains("&lt;script&gt;alert(1)"), "it is shown");
        // Not one element more than a harmless text makes, and no attribute that runs anything.
        assert_eq!(tags(&hostile), tags(&harmless));
        assert!(
            !hostile.contains("<img")
                && !hostile.contains("\" onclick")
                && !hostile.contains("=javascript")
        );
        let acting: Vec<char> = hostile
            .chars()
            .filter(|c| *c != '\n' && crate::model::needs_escape(*c))
            .collect();
        assert!(acting.is_empty(), "{acting:?}");
    }
}

#[test]
fn the_foot_links_to_the_pages_of_this_version() {
    let page = shown(vec![workspace("a", 1, 1)], None);
    let (_, foot) = page.split_once("<footer").unwrap();
    for file in ["docs/daemon.md", "docs/troubleshooting.md", "CHANGELOG.md"] {
        let address = project_file(file);
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        assert!(
            std::path::Path::new(&format!("{root}{file}")).exists(),
            "{file}"
        );
        assert!(foot.contains(&format!("href=\"{address}\"")), "{foot}");
    }
    assert!(
        foot.contains(&format!("href=\"{PROJECT}/issues\"")),
        "{foot}"
    );
}

#[test]
fn a_page_of_twenty_providers_in_the_worst_of_states_is_small() {
    let long = "x".repeat(30);
    let page = shown(vec![workspace(&long, 20, 40)], None);
    assert!(page.len() < 100_000, "{}", page.len());
    // What is cut is counted.
    assert!(page.contains("and 32 more") && page.contains("and 188 more"));
}

#[test]
fn a_card_that_did_not_converge_shows_what_calry_kept_and_nothing_else() {
    let mut one = workspace("p", 5, 3);
    one["providers"] = json!([one["providers"][4]]);
    one["history"] = json!({"passes": [], "changes": []});
    one["lastPass"]["error"] = Value::Null;
    one["trust"] = Value::Null;
    one["repository"] = Value::Null;
    let page = shown(vec![one], None);
    assert!(page.contains("<title>1 provider not converged"), "{page}");
    assert!(page.contains("Git wants") && page.contains("1 field kept by Calry"));
    assert!(!page.contains("class=\"diff\""));
}

#[test]
fn an_approval_states_what_it_does_and_fields_that_are_switched_off_stand_out() {
    let mut one = workspace("a", 1, 3);
    one["providers"][0]["notConverged"] = json!([]);
    one["providers"][0]["changes"][1] = json!({"path": "fieldsToSync.listing.a", "before": true, "after": false,
        "sensitive": false});
    let page = shown(vec![one], None);
    for fact in [
        r#"[&quot;Workspace&quot;,&quot;a&quot;]"#,
        r#"[&quot;Commit&quot;,&quot;a “a”&quot;]"#,
        r#"[&quot;Updates&quot;,&quot;1 provider&quot;]"#,
        r#"[&quot;Switches off&quot;,&quot;1 field&quot;,&quot;bad&quot;]"#,
    ] {
        assert!(page.contains(fact), "{fact}");
    }
    assert!(page.contains(r#"<b class="off">1 field off</b>, 1 partner-key value, icon"#));
}

#[test]
fn many_cards_are_closed_and_count_their_changes() {
    let open = |providers: usize| {
        let mut all = workspace("p", 1, 3);
        let mut one = all["providers"][0].clone();
        one["outcome"] = Value::Null;
        let named = (0..providers).map(|n| {
            one["provider"] = json!(format!("P{n}"));
            one.clone()
        });
        all["providers"] = named.collect::<Vec<_>>().into();
        let page = shown(vec![all], None);
        assert!(page.contains("<span>1 field on, 1 partner-key value, icon</span>"));
        page.matches("<details class=\"card differs\" open").count()
    };
    assert_eq!((open(3), open(4)), (3, 0));
}

#[test]
fn the_changes_of_one_reconciliation_are_one_entry() {
    let mut one = workspace("p", 0, 0);
    let mut record = one["history"]["changes"][0].clone();
    record["changes"] = json!([]);
    record["outcome"] = json!("applied");
    record["error"] = Value::Null;
    let mut records = vec![record.clone(); 3];
    record["time"] = json!("2026-01-02T02:00:00Z");
    records.push(record);
    one["history"]["changes"] = records.into();
    let page = shown(vec![one], None);
    assert!(page.contains("<strong>Reconciliation 7</strong>: 3 updated"));
    assert_eq!(page.matches("<details class=\"group\"").count(), 1);
}

#[test]
fn after_a_failure_the_page_shows_when_the_providers_were_read() {
    let mut one = workspace("p", 1, 1);
    one["compared"] = json!("2026-01-02T02:58:00Z");
    let good = shown(vec![one.clone()], None);
    assert!(!good.contains("as of"), "the refused plan is of now");
    one["lastPass"]["result"] = json!("failed");
    let failed = shown(vec![one], None);
    assert!(failed.contains(">02:58 UTC</time></strong>, ") && failed.contains("6m ago</time>"));
    assert!(failed.contains("<ul class=\"tiles old\""));
}

#[test]
fn a_repository_that_cannot_be_fetched_is_explained() {
    let mut one = workspace("p", 0, 0);
    one["lastPass"]["result"] = json!("ok");
    one["lastPass"]["error"] = Value::Null;
    one["trust"] = json!({"trusted": true});
    one["repository"]["reference"] = json!("refs/heads/main");
    let failing = shown(vec![one.clone()], None);
    assert!(
        failing.contains("<h1>Git cannot be fetched; p stays in force</h1>"),
        "{failing}"
    );
    assert!(failing.contains("New commits do not reach Calry. Fix the problem above."));
    assert!(failing.contains("drift is still reported."));
    assert!(failing.contains("<code>main</code> of <code>p</code>"));
    // A short outage is in the facts only.
    one["repository"]["failure"]["since"] = json!("2026-01-02T03:03:00Z");
    let short = shown(vec![one.clone()], None);
    assert!(short.contains("<h1>In sync</h1>") && short.contains("failed</span> since "));
    assert!(!short.contains("What to do"));
    one["repository"]["failure"] = Value::Null;
    let well = shown(vec![one], None);
    assert!(well.contains("<dt>Last fetch</dt><dd><span class=\"badge good\">"));
}

#[test]
fn the_first_fetch_is_shown_while_it_runs() {
    let mut one = workspace("p", 0, 0);
    one["lastPass"] = Value::Null;
    for key in ["commit", "lastSuccess", "failure"] {
        one["repository"][key] = Value::Null;
    }
    let page = shown(vec![one], None);
    assert!(page.contains("<h1>The first fetch from git is running</h1>"));
}

#[test]
fn the_overview_counts_the_providers_and_shows_the_mode() {
    let mut one = workspace("one", 6, 1);
    let first = "Calry did not answer: the connection was refused. ".repeat(4);
    one["lastPass"]["error"] = json!(format!("{first}{}", "x".repeat(300)));
    one["lastPass"]["result"] = json!("failed");
    let page = shown(vec![one.clone(), one], None);
    assert!(page.contains("observe</span>") && page.contains("Reconcile all"));
    assert!(
        page.contains("the connection was refused.</small>"),
        "a whole sentence"
    );
    assert!(
        page.contains("<td class=\"wide number some\">3</td>"),
        "out of sync"
    );
    assert!(
        page.contains("<td class=\"wide number some\">1</td>"),
        "on hold"
    );
}

#[test]
fn a_page_is_bounded_whatever_the_length_of_its_texts() {
    let page = shown(vec![workspace(&"\u{202e}".repeat(5_000), 20, 40)], None);
    assert!(page.len() < 400_000, "{}", page.len());
}

#[test]
fn trouble_is_on_top_and_a_workspace_has_a_page_of_its_own() {
    let mut well = workspace("a", 0, 0);
    well["lastPass"]["error"] = Value::Null;
    well["trust"] = json!({"trusted": true});
    well["repository"]["failure"] = Value::Null;
    well["workspace"]["slug"] = json!("well & good");
    let ill = workspace("ill", 1, 1);
    let all = shown(vec![well.clone(), ill.clone()], None);
    let (first, second) = (
        all.find("/?workspace=ill").unwrap(),
        all.find("/?workspace=well+%26+good").unwrap(),
    );
    assert!(first < second);
    assert!(all.contains("<h1>1 workspace is failing</h1>"));
    let one = shown(vec![well, ill], Some("well & good"));
    assert!(one.contains("data-workspace=\"well &amp; good\"") && one.contains("<h1>In sync</h1>"));
}

#[test]
fn what_a_page_asks_for_is_for_its_workspace_alone_whatever_is_known_of_it() {
    let [mut first, mut second, mut unread] = [(); 3].map(|()| workspace("acme", 0, 0));
    unread["workspace"] = Value::Null;
    for (one, name) in [
        (&mut first, "first"),
        (&mut second, "second"),
        (&mut unread, "unread"),
    ] {
        one["name"] = json!(name);
    }
    for name in ["first", "second", "unread"] {
        let page = shown(
            vec![first.clone(), second.clone(), unread.clone()],
            Some(name),
        );
        assert!(
            page.contains(&format!("data-workspace=\"{name}\"")),
            "{name}"
        );
    }
    assert!(
        shown(vec![first, second, unread], None).contains("data-workspace=\"\""),
        "all of them"
    );
}
