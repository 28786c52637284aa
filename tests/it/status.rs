//! `status`: a user and a script fetch the status of a daemon, or of another server at its address.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::support::{Daemon, Ran, World, repository, until};
use axum::http::{Method, StatusCode};
use calry_gitops::render::status::text;
use calry_gitops::report::status::{Status, schema};
use calry_gitops::sandbox::{Fault, FaultKind};
use serde_json::{Value, json};

fn world() -> World {
    World::of_hostaway("[name]")
}

/// A daemon after its first reconciliation, which only files and requests trigger again.
fn waiting(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon
}

/// Runs `status` with an address.
fn ask(world: &World, address: &str, args: &[&str]) -> Ran {
    world.run(&[&["status", "--address", &format!("http://{address}")], args].concat())
}

#[test]
fn the_committed_schema_is_that_of_the_types() {
    let path = repository().join("deploy/schemas/status.schema.json");
    let schema = schema();
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == schema,
        "write it with UPDATE_SCHEMAS=1 cargo test --test it status::"
    );
}

#[test]
fn the_exit_code_shows_a_failure() {
    let world = world();
    let mut daemon = waiting(&world, &["--mode", "observe"]);
    let address = daemon.address();
    ask(&world, &address, &[])
        .exits(0)
        .says("acme-production (Acme): in sync");

    // An observed difference, and one on hold, are no failure.
    let file = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n";
    world.write("hostaway.yaml", file);
    daemon.line("(files)");
    ask(&world, &address, &[])
        .exits(0)
        .says("1 provider out of sync")
        .says("listing.name off, listing.rooms on");
    world.write(
        "hostaway.yaml",
        &format!("{file}hold: {{until: 2099-12-31, reason: OPS-1}}\n"),
    );
    daemon.line("(files)");
    ask(&world, &address, &[])
        .exits(0)
        .says("in sync · 1 on hold")
        .says("on hold until 2099-12-31: OPS-1");

    world.write("guesty.yaml", "provider: [\n");
    daemon.line("(files)");
    ask(&world, &address, &["--format", "json"]).exits(1);
    ask(&world, &address, &[])
        .exits(1)
        .says("1 invalid definition")
        .says("guesty.yaml:1:");

    world.sandbox.inject(Fault::once(FaultKind::Status {
        code: StatusCode::UNAUTHORIZED,
        message: "No.".to_owned(),
        retry_after: None,
    }));
    daemon.signal("HUP");
    daemon.line("(request)");
    ask(&world, &address, &[])
        .exits(1)
        .says("the last reconciliation failed: cannot read");
    drop(daemon);
    ask(&world, &address, &[])
        .exits(1)
        .says("is it running")
        .says("--listen");
}

#[test]
fn an_update_that_failed_is_a_failure() {
    let world = world();
    let kind = FaultKind::Status {
        code: StatusCode::BAD_REQUEST,
        message: "No.".to_owned(),
        retry_after: None,
    };
    world.sandbox.inject(Fault::once(kind).on(Method::PATCH));
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    ask(&world, &address, &[])
        .exits(1)
        .says("1 provider out of sync")
        .says("Calry refused the update (400, \"No.\")");
    daemon.signal("HUP");
    daemon.line("(request)");
    ask(&world, &address, &[])
        .exits(0)
        .says("HOSTAWAY updated: listing.name off, listing.rooms on");
}

#[test]
fn json_is_what_the_daemon_answers_with() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    let shown = ask(&world, &daemon.address(), &["--format", "json"]).exits(0);
    assert_eq!(shown.json(), daemon.get("/api/v1/status").json());
}

#[test]
fn one_workspace_of_several_can_be_asked_for() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    ask(&world, &address, &["--workspace", "acme-production"])
        .exits(0)
        .says("acme-production (Acme): in sync");
    ask(&world, &address, &["--workspace", "acme-staging"])
        .exits(1)
        .says("the daemon has no workspace `acme-staging`");
}

#[test]
fn of_several_workspaces_failing_ones_are_shown_first_and_in_full() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    let mut status: Status = serde_json::from_value(daemon.get("/api/v1/status").json()).unwrap();
    let named = |slug: &str, alive| {
        let mut one = status.workspaces[0].clone();
        one.workspace.as_mut().unwrap().slug = slug.to_owned();
        one.alive = alive;
        one
    };
    let all = [named("well", true)]
        .into_iter()
        .chain((0..9).map(|n| named(&format!("hangs-{n}"), false)))
        .collect();
    status.workspaces = all;
    let shown = anstream::adapter::strip_str(&text(&status, jiff::Timestamp::now())).to_string();
    assert!(
        shown.starts_with("1 of 10 workspaces in sync\n\n  hangs-0           the daemon hangs"),
        "{shown}"
    );
    assert!(
        shown.find("hangs-8").unwrap() < shown.find("  well              in sync").unwrap(),
        "{shown}"
    );
    assert_eq!(
        shown.matches("(Acme): the daemon hangs").count(),
        5,
        "{shown}"
    );
    assert!(
        !shown.contains("well (Acme)") && shown.contains("and 4 more that are not in sync"),
        "{shown}"
    );
}

#[test]
fn a_wrong_address_is_a_wrong_command_line() {
    let world = world();
    for address in [
        "127.0.0.1:8080",
        "http://user:secret@localhost",
        "ftp://x",
        "http://x/?y",
    ] {
        let ran = world.run(&["status", "--address", address]).exits(64);
        assert!(!ran.err.contains("secret"), "{}", ran.err);
    }
}

// Other servers at the address

/// Answers one request with these bytes, and returns the request.
fn impostor(answer: Vec<u8>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, asked) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        let _ = tell.send(String::from_utf8_lossy(&request[..length]).into_owned());
        let _ = stream.write_all(&answer);
        // Keeps the connection until the client closes it.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    (address, asked)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLocation: http://127.0.0.1:1/\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn any_answer_is_bounded_and_reported_in_a_sentence() {
    let world = world();
    for (bytes, sentence) in [
        (
            answer("200 OK", "<html>"),
            "cannot read the daemon's answer",
        ),
        (answer("200 OK", "{}"), "cannot read the daemon's answer"),
        (
            answer("200 OK", &"[".repeat(100_000)),
            "cannot read the daemon's answer",
        ),
        (
            answer("200 OK", &" ".repeat(9 << 20)),
            "its answer is larger than 8 MiB",
        ),
        (answer("302 Found", ""), "status code 302"),
        (
            answer("404 Not Found", "nginx"),
            "this is not a calry-gitops daemon",
        ),
        (
            answer(
                "421 Misdirected Request",
                r#"{"error": "no \u001b[31m host"}"#,
            ),
            "421, no \\u{1b}[31m host",
        ),
        (
            b"SSH-2.0-OpenSSH\r\n".to_vec(),
            "cannot get the status of the daemon at",
        ),
        (Vec::new(), "it did not answer within 300ms"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec(),
            "it did not answer within 300ms",
        ),
    ] {
        let (address, asked) = impostor(bytes);
        let started = Instant::now();
        let patience = if sentence.contains("300ms") {
            "300ms"
        } else {
            "20s"
        };
        let ran = ask(&world, &address, &["--timeout", patience])
            .exits(1)
            .says(sentence);
        assert!(ran.out.is_empty() && !ran.err.contains('\u{1b}'), "{ran:?}");
        assert!(started.elapsed() < Duration::from_secs(15));
        let request = asked.recv().unwrap();
        assert!(
            !request.to_lowercase().contains("key") && !request.contains("zepl"),
            "{request}"
        );
    }
}

fn timestamp(text: &str) -> Value {
    json!(format!("2026-11-24T{text}Z"))
}

/// A status with one text in all places.
fn foreign(text: &str) -> Value {
    let change = json!({"path": text, "before": text, "after": text, "sensitive": false});
    json!({"version": text, "started": timestamp("00:00:00"), "workspaces": [{
        "workspace": {"id": text, "name": text, "slug": text}, "directory": text, "api": text, "mode": "enforce",
        "intervalSeconds": -1e300, "alive": true, "ready": true, "digest": text,
        "revision": {"commit": text, "subject": text, "author": text, "time": text, "dirty": true},
        "summary": null, "pass": null, "nextPass": timestamp("23:59:59"),
        "trust": {"trusted": false, "commit": text, "reason": text, "behind": 2},
        "repository": {"url": text, "reference": text, "commit": text, "commitFetched": timestamp("01:00:00"),
            "lastSuccess": null, "nextFetch": null,
            "failure": {"kind": "server", "message": text, "since": timestamp("01:00:00"), "times": 1}},
        "lastPass": {"number": 1, "trigger": "files", "began": timestamp("01:00:00"), "durationSeconds": 1e300,
            "result": "failed", "error": text, "times": 2},
        "providers": [{"provider": text, "file": text, "state": "held", "since": timestamp("02:00:00"), "changes": [change],
            "hold": {"until": text, "reason": text}, "error": text, "retryAt": timestamp("03:00:00"), "outcome": "failed"}],
        "diagnostics": [{"severity": "error", "code": text, "file": text, "line": 1, "column": 2, "message": text, "help": text}],
        "history": {"passes": [], "changes": [{"time": timestamp("04:00:00"), "provider": text, "cause": "drift",
            "outcome": "failed", "error": text, "changes": [change], "more": 1, "times": 3}]},
    }]})
}

#[test]
fn foreign_text_does_not_act_on_the_terminal() {
    let world = world();
    for format in ["text", "json"] {
        let body = foreign("a\u{1b}[2J\u{9b}31m\u{202e}b\r\n\u{7}").to_string();
        let (address, _asked) = impostor(answer("200 OK", &body));
        let ran = ask(&world, &address, &["--format", format]).exits(1);
        assert!(
            ran.out.contains("[2J")
                && ran
                    .out
                    .chars()
                    .all(|c| c == '\n' || !calry_gitops::model::needs_escape(c)),
            "{}",
            ran.out
        );
        assert!(ran.err.is_empty(), "{}", ran.err);
    }
}

#[test]
fn the_status_reads_well_on_80_columns() {
    let change = |path: &str, after: Value| json!({"path": path, "before": null, "after": after, "sensitive": false});
    let provider = |name: &str, state: &str, more: Value| {
        let mut one = json!({"provider": name, "file": null, "state": state, "since": timestamp("11:30:00"), "changes": []});
        one.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        one
    };
    let failed = "cannot update GUESTY: Calry refused the update (400, \"No such icon.\")";
    let two = json!([
        change("icon", json!("x")),
        change("fieldsToSync.listing.pictures", json!(true))
    ]);
    let record = |time: &str, name: &str, cause: &str, more: Value| {
        let mut one = json!({"time": timestamp(time), "provider": name, "cause": cause, "changes": two, "more": 0, "times": 1});
        one.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        one
    };
    let pass = json!({"number": 7, "trigger": "interval", "began": timestamp("11:59:30"), "durationSeconds": 0.0071,
        "result": "incomplete", "times": 1});
    let status = json!({"version": "0.1.0", "started": timestamp("10:00:00"), "workspaces": [{
        "workspace": {"id": "1", "name": "Acme Travel", "slug": "acme-production"}, "directory": "definitions",
        "api": "https://zepl.calry.app", "mode": "enforce", "intervalSeconds": 60.0, "alive": true, "ready": true,
        "revision": {"commit": "3f2a1b9c4d5e6f", "subject": "Add pictures to every provider that can show them, as agreed with the partners",
            "author": "A", "time": "", "dirty": true},
        "summary": null, "pass": null, "nextPass": timestamp("12:00:31"), "lastPass": pass,
        "providers": [
            provider("AVANTIO", "inSync", json!({})),
            provider("BEDS24", "held", json!({"changes": two, "hold": {"until": "2099-12-31", "reason": "OwnerRez account migration, OPS-114"}})),
            provider("GUESTY", "update", json!({"changes": two, "cause": "drift", "outcome": "failed", "error": failed,
                "retryAt": timestamp("12:01:00")})),
            provider("LODGIFY", "invalid", json!({"error": "the file has 1 error; see diagnostics"})),
            provider("NOBODY", "missing", json!({"error": "the workspace does not have this provider"})),
            provider("SMOOBU", "update", json!({"changes": two, "cause": "change", "outcome": "notConverged",
                "error": "Calry took the update, but kept other values in: icon"})),
            provider("TOKEET", "unmanaged", json!({})),
        ],
        "diagnostics": [{"severity": "error", "code": "wrong-type", "file": "lodgify.yaml", "line": 2, "column": 7,
            "message": "`icon` is a text, and this is a number", "help": null}],
        "history": {
            "passes": [pass, {"number": 5, "trigger": "interval", "began": timestamp("11:00:00"), "durationSeconds": 5,
                "result": "failed", "error": "cannot read the workspace: Calry did not answer within 10s", "times": 12}],
            "changes": [
                record("11:59:30", "GUESTY", "drift", json!({"outcome": "failed", "error": failed, "times": 4})),
                record("11:40:00", "HOSTAWAY", "drift", json!({"outcome": "applied"})),
                record("10:30:00", "HOSTAWAY", "change", json!({"outcome": "applied", "more": 20})),
            ]},
    }]});
    let now = "2026-11-24T12:00:00Z".parse().unwrap();
    let plain = |status: &Value| {
        let status: Status = serde_json::from_value(status.clone()).unwrap();
        anstream::adapter::strip_str(&text(&status, now)).to_string()
    };
    let all = plain(&status);
    assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
    insta::assert_snapshot!("status", all);

    let verdict = |change: &dyn Fn(&mut Value)| {
        let mut status = status.clone();
        change(&mut status["workspaces"][0]);
        plain(&status).split("\n\n").next().unwrap().to_owned()
    };
    let verdicts = [
        verdict(&|one| one["alive"] = json!(false)),
        verdict(&|one| {
            one["lastPass"] = Value::Null;
            one["workspace"] = Value::Null;
            one["pass"] = json!({"number": 1, "trigger": "start", "began": timestamp("11:59:58")});
        }),
        verdict(&|one| {
            one["lastPass"]["error"] =
                json!("cannot read the workspace: Calry did not answer within 10s")
        }),
        verdict(&|one| {
            one["lastPass"]["error"] =
                json!("the plan would change 12 providers, and --max-changes is 5");
            one["lastPass"]["result"] = json!("refused");
            one["lastPass"]["times"] = json!(3);
        }),
        verdict(&|one| one["providers"] = json!([])),
    ];
    insta::assert_snapshot!("status_verdicts", verdicts.join("\n"));

    let fetched = |change: &dyn Fn(&mut Value)| {
        let mut status = status.clone();
        let one = &mut status["workspaces"][0];
        one["providers"] = json!([]);
        one["repository"] = json!({"url": "https://git.example.com/acme/definitions.git", "reference": "refs/heads/main",
            "commit": "3f2a1b9c4d5e6f", "commitFetched": timestamp("11:30:00"), "lastSuccess": timestamp("11:59:40"),
            "nextFetch": timestamp("12:00:40")});
        change(one);
        let text = plain(&status);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        text.split("\n\nRecent").next().unwrap().to_owned()
    };
    let failure = json!({"kind": "unreachable", "since": timestamp("11:50:00"), "times": 12,
        "message": "the git server cannot be reached: the connection was refused"});
    let not_fetched = [
        fetched(&|_| {}),
        fetched(&|one| {
            one["repository"]["reference"] = json!("refs/tags/v1.2");
            one["repository"]["failure"] = failure.clone();
        }),
        fetched(&|one| {
            one["lastPass"]["result"] = json!("failed");
            one["lastPass"]["error"] = json!("no commit of it has been fetched");
            one["revision"] = Value::Null;
            one["repository"]["commit"] = Value::Null;
            one["repository"]["lastSuccess"] = Value::Null;
            one["repository"]["failure"] = failure.clone();
        }),
        fetched(&|one| {
            one["trust"] = json!({"trusted": false, "commit": "9a8b7c6d5e4f", "reason": "the commit is not signed", "behind": 2});
        }),
    ];
    insta::assert_snapshot!("status_repository", not_fetched.join("\n\n"));
}

/// An address that stays the same while daemons start and stop, and the number of requests that found no daemon.
struct Door {
    address: String,
    leads_to: Arc<Mutex<Option<String>>>,
    in_vain: Arc<AtomicUsize>,
}

impl Door {
    fn to(daemon: &mut Daemon) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Self {
            address: listener.local_addr().unwrap().to_string(),
            leads_to: Arc::new(Mutex::new(Some(daemon.address()))),
            in_vain: Arc::default(),
        };
        let (leads_to, in_vain) = (Arc::clone(&door.leads_to), Arc::clone(&door.in_vain));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map(Result::unwrap) {
                let Some(address) = leads_to.lock().unwrap().clone() else {
                    in_vain.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let mut behind = TcpStream::connect(address).unwrap();
                behind.write_all(&request[..length]).unwrap();
                std::io::copy(&mut behind, &mut stream).unwrap();
            }
        });
        door
    }
}

#[test]
fn watching_continues_through_a_restart_and_ends_on_ctrl_c() {
    let world = world();
    let mut first = waiting(&world, &["--mode", "observe"]);
    let door = Door::to(&mut first);
    let url = format!("http://{}", door.address);
    let watch = |format| {
        Daemon::start(world.command(&["status", "--address", &url, "--watch", "--format", format]))
    };
    let (mut text, mut json) = (watch("text"), watch("json"));
    text.line("in sync");
    json.line("\"result\":\"ok\"");
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n",
    );
    text.line("1 provider out of sync");
    let line: Value = serde_json::from_str(&json.line("\"update\":1")).unwrap();
    assert!(line["workspaces"].is_array());

    *door.leads_to.lock().unwrap() = None;
    drop(first);
    text.line("no connection to the daemon: ");
    until("both have asked in vain more than once", || {
        door.in_vain.load(Ordering::Relaxed) > 4
    });
    let mut second = waiting(&world, &[]);
    *door.leads_to.lock().unwrap() = Some(second.address());
    text.line(", enforces, every");
    json.line("\"mode\":\"enforce\"");
    for watching in [&mut text, &mut json] {
        watching.signal("INT");
        assert_eq!(watching.wait(), Some(0));
    }
    // An unchanged status is not printed again; a lost and a new connection are printed once.
    for once in ["1 provider out of sync", "no connection", "connected again"] {
        let shown = text.seen.iter().filter(|line| line.contains(once)).count();
        assert_eq!(shown, 1, "{once}: {:#?}", text.seen);
    }
}
