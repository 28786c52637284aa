//! The daemon over HTTP, as a probe, a script and an attacker meet it.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::support::{Daemon, World, get, live, send, until};
use axum::http::{Method, StatusCode};
use boon::{Compiler, Schemas};
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

fn file(provider: &str, fields: &str) -> String {
    format!("provider: {provider}\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// A workspace in which every one of these providers has `name` on, and `rooms` and `pictures` off.
fn world(providers: &[&str]) -> World {
    let definitions: Vec<Value> = providers
        .iter()
        .map(|p| live(p, &["name"], &["rooms", "pictures"]))
        .collect();
    World::with(json!(definitions), Config::default())
}

/// A daemon that only files and requests wake, after its first reconciliation.
fn waiting(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon
}

/// Requests a reconciliation and waits for its end.
#[track_caller]
fn reconcile(daemon: &mut Daemon) {
    daemon.signal("HUP");
    daemon.line("(request)");
}

fn refusal(code: StatusCode) -> FaultKind {
    FaultKind::Status {
        code,
        message: "No.".to_owned(),
        retry_after: None,
    }
}

#[track_caller]
fn provider<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["providers"].as_array().unwrap();
    all.iter()
        .find(|p| p["provider"] == name)
        .unwrap_or_else(|| panic!("no {name}: {status:#}"))
}

/// Checks an answer against the committed schema.
fn check_schema(document: &Value) -> Result<(), String> {
    let schema = std::fs::read_to_string(
        crate::support::repository().join("deploy/schemas/status.schema.json"),
    )
    .unwrap();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.enable_format_assertions();
    compiler
        .add_resource(
            "http://schemas/it.json",
            serde_json::from_str(&schema).unwrap(),
        )
        .unwrap();
    let schema = compiler
        .compile("http://schemas/it.json", &mut schemas)
        .unwrap();
    schemas
        .validate(document, schema)
        .map_err(|error| format!("{error:#}"))
}

#[track_caller]
fn is_valid(document: &Value) {
    check_schema(document).unwrap_or_else(|fault| panic!("{fault}\n{document:#}"));
}

// Probes.

#[test]
fn it_is_alive_from_the_beginning_and_ready_once_everything_was_read() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let read = || Fault::once(refusal(StatusCode::UNAUTHORIZED)).on(Method::GET);
    world.sandbox.inject(read().times(2));
    let mut daemon = waiting(&world, &[]);
    let healthy = daemon.get("/healthz");
    assert_eq!((healthy.code, &healthy.json()["ok"]), (200, &json!(true)));
    let not_ready = daemon.get("/readyz");
    assert_eq!(
        (not_ready.code, &not_ready.json()["ok"]),
        (503, &json!(false))
    );
    assert!(
        not_ready.json()["reason"]
            .as_str()
            .unwrap()
            .contains("have not been read without an error yet")
    );
    reconcile(&mut daemon);
    assert_eq!(daemon.get("/readyz").code, 200);
    // Once is enough: a Calry that is down is no reason to take the daemon away.
    world.sandbox.inject(read().times(2));
    reconcile(&mut daemon);
    assert_eq!(daemon.status()["lastPass"]["result"], "failed");
    assert_eq!(
        (daemon.get("/healthz").code, daemon.get("/readyz").code),
        (200, 200)
    );
}

#[test]
fn an_invalid_file_does_not_make_it_unready() {
    let world = world(&["HOSTAWAY"]);
    world
        .write("hostaway.yaml", "provider: [\n")
        .write("guesty.yaml", &file("GUESTY", "name"));
    let mut daemon = waiting(&world, &[]);
    assert_eq!(daemon.get("/readyz").code, 200);
}

#[test]
fn during_a_reconciliation_it_reports_that_and_is_alive() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let slow = FaultKind::Delay(crate::support::PATIENCE * 2);
    world
        .sandbox
        .inject(Fault::once(slow).on(Method::GET).times(9));
    let mut daemon = world.daemon(&["--timeout", "5m"]);
    until("a read is under way", || !world.requests().is_empty());
    let status = daemon.status();
    assert_eq!(
        (&status["pass"]["number"], &status["pass"]["trigger"]),
        (&json!(1), &json!("start"))
    );
    assert_eq!(
        (&status["lastPass"], &status["workspace"], &status["alive"]),
        (&Value::Null, &Value::Null, &json!(true))
    );
    assert_eq!(
        (daemon.get("/healthz").code, daemon.get("/readyz").code),
        (200, 503)
    );
    is_valid(&daemon.get("/api/v1/status").json());
}

// The status.

/// Every state and every outcome at once.
fn everything() -> World {
    let names = [
        "AVANTIO", "BEDS24", "GUESTY", "HOSTAWAY", "LODGIFY", "SMOOBU", "TOKEET",
    ];
    let world = world(&names);
    let fails = |provider: &str| {
        Fault::once(refusal(StatusCode::BAD_REQUEST))
            .on(Method::PATCH)
            .at(provider)
            .times(99)
    };
    world.sandbox.inject(fails("/GUESTY"));
    world
        .write("avantio.yaml", &file("AVANTIO", "name"))
        .write("beds24.yaml", &format!("{}hold: {{until: 2099-12-31, reason: OPS-1}}\n", file("BEDS24", "rooms")))
        .write("guesty.yaml", &file("GUESTY", "rooms"))
        .write(
            "hostaway.yaml",
            "provider: HOSTAWAY\npartnerKey:\n  headers: {x-new: public}\nfieldsToSync:\n  listing: [rooms]\n",
        )
        .write("lodgify.yaml", "provider: LODGIFY\nicon: 5\n")
        .write("smoobu.yaml", &file("SMOOBU", "name, currency"))
        .write("nobody.yaml", "provider: NOBODY\n");
    world
}

#[test]
fn the_status_tells_every_provider_its_state_and_what_came_of_it() {
    let world = everything();
    let mut daemon = waiting(&world, &[]);
    let document = daemon.get("/api/v1/status").json();
    is_valid(&document);
    for (path, wrong) in [
        ("/started", json!("today")),
        ("/workspaces/0/providers/0/state", json!("fine")),
    ] {
        let mut document = document.clone();
        *document.pointer_mut(path).unwrap() = wrong;
        assert!(check_schema(&document).is_err(), "{path}");
    }
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    let status = &document["workspaces"][0];
    assert_eq!(status["workspace"]["slug"], "acme-production");
    assert_eq!(
        (&status["mode"], &status["intervalSeconds"]),
        (&json!("enforce"), &json!(3600.0))
    );
    assert_eq!(status["revision"], Value::Null);
    assert_eq!(
        status["summary"],
        json!({"inSync": 2, "update": 2, "invalid": 1, "unreadable": 0, "missing": 1, "held": 1, "unmanaged": 1})
    );
    let last = &status["lastPass"];
    assert_eq!(
        (&last["number"], &last["trigger"], &last["result"]),
        (&json!(1), &json!("start"), &json!("incomplete"))
    );
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time(&status["nextPass"]) > time(&last["began"]));

    for (name, state, outcome) in [
        ("AVANTIO", "inSync", None),
        ("BEDS24", "held", None),
        ("GUESTY", "update", Some("failed")),
        ("HOSTAWAY", "inSync", None),
        ("LODGIFY", "invalid", None),
        ("NOBODY", "missing", None),
        ("SMOOBU", "update", Some("notConverged")),
        ("TOKEET", "unmanaged", None),
    ] {
        let one = provider(status, name);
        assert_eq!(
            (&one["state"], one["outcome"].as_str()),
            (&json!(state), outcome),
            "{one:#}"
        );
        time(&one["since"]);
    }
    let held = provider(status, "BEDS24");
    assert_eq!(
        held["hold"],
        json!({"until": "2099-12-31", "reason": "OPS-1"})
    );
    assert_eq!(held["changes"].as_array().unwrap().len(), 2);
    let failed = provider(status, "GUESTY");
    assert!(
        failed["error"]
            .as_str()
            .unwrap()
            .contains("Calry refused the update"),
        "{failed:#}"
    );
    assert!(time(&failed["retryAt"]) > time(&failed["since"]));
    assert_eq!(
        (&failed["cause"], &failed["file"]),
        (&json!("change"), &json!("guesty.yaml"))
    );
    let kept = &provider(status, "SMOOBU")["notConverged"];
    assert_eq!(kept[0]["path"], "fieldsToSync.listing.currency");
    let updated = provider(status, "HOSTAWAY");
    assert_eq!(updated["lastUpdate"]["cause"], "change");
    assert_eq!(
        status["diagnostics"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|p| p["severity"] == "error")
            .count(),
        2
    );

    let changes = status["history"]["changes"].as_array().unwrap();
    let record = |name: &str| {
        changes
            .iter()
            .find(|record| record["provider"] == name)
            .unwrap()
    };
    assert_eq!(record("HOSTAWAY")["outcome"], "applied");
    let paths: Vec<&str> = record("HOSTAWAY")["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "partnerKey.headers.x-new",
            "fieldsToSync.listing.name",
            "fieldsToSync.listing.rooms"
        ]
    );
    assert_eq!(
        record("HOSTAWAY")["changes"][0],
        json!({"path": "partnerKey.headers.x-new", "before": null, "after": null, "sensitive": true, "change": "added"})
    );
    assert_eq!(
        (
            changes.len(),
            status["history"]["passes"].as_array().unwrap().len()
        ),
        (3, 1)
    );
}

#[test]
fn a_backed_off_provider_keeps_its_reason_and_the_history_shows_only_changes() {
    let world = everything();
    let mut daemon = waiting(&world, &[]);
    let before = daemon.status();
    reconcile(&mut daemon);
    let after = daemon.status();
    // SMOOBU is not tried again on request; GUESTY is.
    let smoobu = (provider(&before, "SMOOBU"), provider(&after, "SMOOBU"));
    for key in ["outcome", "error", "notConverged", "since", "state"] {
        assert_eq!(smoobu.0[key], smoobu.1[key], "{key}");
    }
    let guesty = &after["history"]["changes"][0];
    assert_eq!(
        (&guesty["provider"], &guesty["times"]),
        (&json!("GUESTY"), &json!(2))
    );

    for name in ["guesty.yaml", "smoobu.yaml", "lodgify.yaml", "nobody.yaml"] {
        std::fs::remove_file(world.definitions().join(name)).unwrap();
    }
    daemon.line("(files)");
    until("all of them are gone", || {
        daemon.status()["diagnostics"] == json!([])
    });
    let quiet = daemon.status();
    reconcile(&mut daemon);
    let again = daemon.status();
    assert_eq!(again["history"], quiet["history"]);
    assert_eq!(
        (&again["lastPass"]["trigger"], &again["lastPass"]["result"]),
        (&json!("request"), &json!("ok"))
    );
}

#[test]
fn drift_is_told_apart_from_change() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &["--mode", "observe"]);
    assert!(world.sandbox.modify(
        "HOSTAWAY",
        |live| live["fieldsToSync"]["listing"]["pictures"] = json!(true)
    ));
    reconcile(&mut daemon);
    let status = daemon.status();
    let one = provider(&status, "HOSTAWAY");
    assert_eq!(
        (&one["state"], &one["cause"], &one["outcome"]),
        (&json!("update"), &json!("drift"), &Value::Null)
    );
    assert_eq!(
        one["changes"],
        json!([{"path": "fieldsToSync.listing.pictures", "before": true, "after": false, "sensitive": false}])
    );
    let record = &status["history"]["changes"][0];
    assert_eq!(
        (&record["cause"], &record["outcome"]),
        (&json!("drift"), &Value::Null)
    );
}

#[test]
fn a_plan_that_is_refused_is_told_with_its_digest() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
        .write("guesty.yaml", &file("GUESTY", "rooms"));
    let mut daemon = waiting(&world, &["--max-changes", "1"]);
    let last = daemon.status()["lastPass"].clone();
    assert_eq!(last["result"], "refused");
    assert!(
        last["error"]
            .as_str()
            .unwrap()
            .contains(last["digest"].as_str().unwrap()),
        "{last:#}"
    );
    is_valid(&daemon.get("/api/v1/status").json());
}

#[test]
fn who_knows_the_status_is_told_that_it_is_the_same() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    let first = get(&address, "/api/v1/status", "");
    let tag = first.header("etag").unwrap();
    let again = get(
        &address,
        "/api/v1/status",
        &format!("If-None-Match: \"x\", {tag}\r\n"),
    );
    assert_eq!((again.code, again.body.as_str()), (304, ""));
    reconcile(&mut daemon);
    assert_eq!(
        get(
            &address,
            "/api/v1/status",
            &format!("If-None-Match: {tag}\r\n")
        )
        .code,
        200
    );
}

// The server.

#[test]
fn a_foreign_host_is_refused_wherever_it_is_named() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(
        &world,
        &[
            "--admin-host",
            "Status.Example.com",
            "--admin-host",
            "10.1.2.3",
        ],
    );
    let address = daemon.address();
    let port = address.split_once(':').unwrap().1;
    let at = |path: &str, hosts: &[&str]| {
        let hosts: String = hosts
            .iter()
            .map(|host| format!("Host: {host}\r\n"))
            .collect();
        send(&address, &format!("GET {path} HTTP/1.1\r\n{hosts}\r\n"))
    };
    for ours in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:8080",
        "status.example.com",
        "10.1.2.3:80",
    ] {
        assert_eq!(at("/api/v1/status", &[ours]).code, 200, "{ours}");
    }
    for foreign in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.1.2.4",
        "0.0.0.0",
        "localhost@evil.example",
        "evil.example@localhost",
        "",
        " ",
        "localhost, evil.example",
    ] {
        let answer = at("/api/v1/status", &[foreign]);
        assert!(
            [421, 400].contains(&answer.code) && !answer.body.contains("workspaces"),
            "{foreign}: {answer:?}"
        );
        // Probes come with the address of a pod.
        assert_eq!(at("/healthz", &["10.99.0.1:8080"]).code, 200);
    }
    assert_eq!(
        at("/api/v1/status", &["localhost", "evil.example"]).code,
        421
    );
    assert_eq!(at("/api/v1/status", &[]).code, 421);
    assert_eq!(
        at(
            &format!("http://evil.example:{port}/api/v1/status"),
            &["localhost"]
        )
        .code,
        421
    );
    let answer = at("/api/v1/status", &["evil.example"]).json();
    assert!(
        answer["error"].as_str().unwrap().contains("--admin-host"),
        "{answer}"
    );
}

#[test]
fn a_daemon_on_every_interface_answers_at_the_address_that_its_log_names() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    for every in ["0.0.0.0", "[::]"] {
        let mut daemon = waiting(&world, &["--listen", &format!("{every}:0")]);
        let address = daemon.address();
        assert!(address.starts_with(&format!("{every}:")), "{address}");
        assert_eq!(daemon.get("/api/v1/status").code, 200);
        let rebound = send(
            &address,
            "GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        );
        assert_eq!(rebound.code, 421);
        // An IPv6 socket accepts IPv4 as well, and such a client is just as local.
        let port = address.rsplit(':').next().unwrap();
        let local = format!("127.0.0.1:{port}");
        assert_eq!(get(&local, "/healthz", "").code, 200);
        let asked =
            "POST /api/v1/reconcile HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(send(&local, asked).code, 202);
    }
}

// The page.

#[test]
fn the_page_is_told_to_the_browser_with_everything_forbidden_that_it_does_not_need() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let page = daemon.get("/");
    assert_eq!(
        (page.code, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; ")
            && !policy.contains("unsafe")
            && !policy.contains("http")
    );
    assert!(
        policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"),
        "{policy}"
    );
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert!(page.body.contains("<h1>In sync</h1>"));
    // Whatever it loads is here, and nothing is written into it that a policy would have to allow.
    let mut addresses: Vec<&str> = page
        .body
        .split("src=\"")
        .chain(page.body.split("href=\""))
        .collect();
    addresses.retain(|rest| rest.starts_with("assets/"));
    assert_eq!(addresses.len(), 3);
    for rest in addresses {
        assert_eq!(
            daemon
                .get(&format!("/{}", rest.split('"').next().unwrap()))
                .code,
            200
        );
    }
    // Below the path of a proxy, an absolute one would lead elsewhere.
    let script = daemon.get("/assets/page.js").body;
    for absolute in ["src=\"/", "href=\"/", "\"/api/", "\"/assets/", "`/"] {
        assert!(
            !page.body.contains(absolute) && !script.contains(absolute),
            "{absolute}"
        );
    }
    assert!(
        !page.body.contains("style=")
            && !page.body.contains(" onclick")
            && !page.body.contains("<script>")
    );
    // A part of it is what is exchanged; a workspace may be named.
    let part = daemon.get("/?part&workspace=acme-production");
    assert!(part.code == 200 && part.body.starts_with("<main ") && part.body.ends_with("</main>"));
    let none = daemon.get("/?workspace=%3Cscript%3E");
    assert!(
        none.code == 404 && none.body.contains("&lt;script&gt;"),
        "{none:?}"
    );
}

/// Reads the next event: its kind and its id.
fn event(stream: &mut impl BufRead) -> (String, Option<String>) {
    let (mut kind, mut id) = (None, None);
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream ended");
        match line.trim_end().split_once(": ") {
            Some(("event", name)) => kind = Some(name.to_owned()),
            Some(("id", name)) => id = Some(name.to_owned()),
            _ if line.trim_end().is_empty() && kind.is_some() => return (kind.unwrap(), id),
            _ => {}
        }
    }
}

fn events(address: &str, more: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    write!(
        stream,
        "GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n{more}\r\n"
    )
    .unwrap();
    BufReader::new(stream)
}

#[test]
fn an_event_announces_a_change_only_to_clients_that_do_not_have_it() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    let mut stream = events(&address, "");
    let (kind, first) = event(&mut stream);
    assert_eq!(kind, "state");
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    daemon.line("(files)");
    let (kind, second) = event(&mut stream);
    assert!(
        kind == "state" && second.is_some() && second != first,
        "{second:?}"
    );
    until("the page has the newest id", || {
        let newest = event(&mut events(&address, "")).1.unwrap();
        daemon
            .get("/")
            .body
            .contains(&format!("data-id=\"{newest}\""))
    });
    let newest = event(&mut events(&address, "")).1.unwrap();
    assert_eq!(
        event(&mut events(
            &address,
            &format!("Last-Event-ID: {newest}\r\n")
        ))
        .0,
        "beat"
    );
    assert_eq!(
        event(&mut events(&address, "Last-Event-ID: another\r\n")).0,
        "state"
    );
}

#[test]
fn another_sites_page_gets_neither_the_page_nor_a_stream() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    for path in ["/", "/assets/page.js", "/api/v1/events"] {
        let rebound = send(
            &address,
            &format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        );
        assert_eq!(rebound.code, 421, "{path}");
    }
    for site in ["cross-site", "same-site"] {
        assert_eq!(
            get(
                &address,
                "/api/v1/events",
                &format!("Sec-Fetch-Site: {site}\r\n")
            )
            .code,
            403
        );
    }
}

#[test]
fn what_is_not_there_and_what_is_not_allowed_is_said_in_json() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    for path in [
        "/assets/x",
        "/api/v1",
        "/api/v1/status/",
        "/healthz/x",
        "/%1b",
    ] {
        let answer = daemon.get(path);
        assert_eq!(
            (answer.code, answer.json()["error"].is_string()),
            (404, true),
            "{path}"
        );
    }
    let address = daemon.address();
    for (method, path) in [
        ("POST", "/api/v1/status"),
        ("DELETE", "/healthz"),
        ("PUT", "/readyz"),
    ] {
        let answer = send(
            &address,
            &format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"),
        );
        assert_eq!(
            (answer.code, answer.json()["error"].is_string()),
            (405, true),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    }
    let head = send(
        &address,
        &format!("HEAD /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n"),
    );
    assert_eq!((head.code, head.body.as_str()), (200, ""));
}

#[test]
fn clients_that_never_finish_delay_no_reconciliation() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream
                .write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n")
                .unwrap();
            stream
        })
        .collect();
    world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
    daemon.line("HOSTAWAY updated");
    daemon.line("(files)");
    drop(slow);
    assert_eq!(daemon.get("/healthz").code, 200);
}

#[test]
fn an_address_that_was_asked_for_must_be_had_and_the_default_one_need_not() {
    let mut world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    world
        .run(&["run", "--listen", &taken])
        .exits(1)
        .says("choose another address with --listen");
    world.env("CALRY_LISTEN", &taken);
    world
        .run(&["run"])
        .exits(1)
        .says(&format!("cannot listen on {taken}"));
    assert!(world.requests().is_empty());
    // A single reconciliation serves nothing over HTTP.
    world.run(&["run", "--once"]).exits(0);

    // The default port is taken, by this listener or by another.
    let _default = TcpListener::bind("127.0.0.1:8080");
    world.env("CALRY_LISTEN", "");
    let mut daemon = waiting(&world, &[]);
    assert!(
        daemon
            .seen
            .iter()
            .any(|line| line.contains("WARN") && line.contains("cannot listen on 127.0.0.1:8080"))
    );
    reconcile(&mut daemon);

    let off = waiting(&world, &["--listen", "off"]);
    assert!(
        !off.seen
            .iter()
            .any(|line| line.contains("listen") || line.contains("healthz")),
        "{:#?}",
        off.seen
    );
}

#[test]
fn a_wrong_listen_or_host_is_a_wrong_command_line() {
    let world = world(&[]);
    for args in [
        ["--listen", "8080"],
        ["--listen", "no"],
        ["--admin-host", "http://x"],
        ["--admin-host", "x:80"],
    ] {
        world.run(&[&["run"], &args[..]].concat()).exits(64);
    }
}

#[test]
fn a_body_that_was_not_asked_for_is_not_waited_for() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    // Announced, and never sent.
    let body = "Content-Length: 1000000000000\r\n";
    for (method, path, code) in [
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("POST", "/api/v1/status", 405),
    ] {
        let answer = send(
            &address,
            &format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{body}\r\n"),
        );
        assert_eq!(answer.code, code, "{method} {path}");
    }
}
