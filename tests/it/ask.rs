//! Requests for a reconciliation over HTTP, by a user, the page, a git host and an attacker.

use std::io::Write as _;
use std::net::TcpStream;

use crate::support::{Answer, Daemon, World, get, live, send, until};
use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use hmac::{Hmac, Mac as _};
use serde_json::json;
use sha2::Sha256;

const TOKEN: &str = "a-token-that-is-never-guessed-0123456789";

fn world() -> World {
    let providers = ["GUESTY", "HOSTAWAY"].map(|p| live(p, &["name"], &["rooms", "pictures"]));
    let world = World::with(json!(providers), Config::default());
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    world
}

fn file(provider: &str, fields: &str) -> String {
    format!("provider: {provider}\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// A daemon that only files and requests wake, after its first reconciliation.
fn waiting(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon
}

/// Writes a secret, and names its file.
fn secret(world: &World, name: &str, text: &str) -> String {
    let path = world.dir.path().join(name);
    std::fs::write(&path, format!("{text}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Posts; more headers end in a line break each. Without a Host among them it is the address.
#[track_caller]
fn post(address: &str, path: &str, more: &str, body: &str) -> Answer {
    let host = if more.lines().any(|line| line.starts_with("Host:")) {
        String::new()
    } else {
        format!("Host: {address}\r\n")
    };
    send(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\n{host}{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

const JSON: &str = "Content-Type: application/json\r\n";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[track_caller]
fn passes(daemon: &mut Daemon) -> u64 {
    daemon.status()["lastPass"]["number"].as_u64().unwrap()
}

#[track_caller]
fn is_refused(answer: &Answer, code: u16, sentence: &str) {
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(
        answer.code == code && error.contains(sentence),
        "{code} {sentence}: {answer:?}"
    );
}

// Who may ask.

#[test]
fn who_is_on_this_machine_asks_without_a_token_and_gets_one_more_pass() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    for (path, more, body) in [
        ("/api/v1/reconcile", "", ""),
        ("/api/v1/reconcile", JSON, "{}"),
        ("/api/v1/reconcile?workspace=acme-production", "", ""),
        (
            "/api/v1/reconcile",
            JSON,
            "{\"workspace\": \"acme-production\"}",
        ),
        // The daemon's own page.
        (
            "/api/v1/reconcile",
            &format!("Origin: http://{address}\r\nSec-Fetch-Site: same-origin\r\n{JSON}"),
            "{}",
        ),
    ] {
        let before = passes(&mut daemon);
        let answer = post(&address, path, more, body);
        assert_eq!(
            (answer.code, answer.json()),
            (
                202,
                json!({"asked": "reconcile", "workspaces": ["acme-production"]})
            )
        );
        daemon.line("(request)");
        until("the pass is over", || passes(&mut daemon) > before);
        assert_eq!(passes(&mut daemon), before + 1);
    }
    assert!(daemon.seen.iter().any(|line| {
        line.contains("127.0.0.1 requested /api/v1/reconcile: a reconciliation of acme-production")
    }));
}

#[test]
fn requests_during_a_reconciliation_start_one_more_after_it() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    let slow = FaultKind::Delay(std::time::Duration::from_secs(1));
    world.sandbox.inject(Fault::once(slow).on(Method::GET));
    let reads = world.requests().len();
    post(&address, "/api/v1/reconcile", "", "");
    until("its read is under way", || world.requests().len() > reads);
    for _ in 0..5 {
        assert_eq!(post(&address, "/api/v1/reconcile", "", "").code, 202);
    }
    daemon.line("reconciliation 2 (request)");
    daemon.line("reconciliation 3 (request)");
    // The next one is this one's, and no other's.
    post(&address, "/api/v1/reconcile", "", "");
    daemon.line("reconciliation 4 (request)");
    assert_eq!(passes(&mut daemon), 4);
}

#[test]
fn without_a_token_no_request_counts_through_a_proxy_or_for_another_name() {
    let world = world();
    let mut daemon = waiting(&world, &["--admin-host", "status.example.com"]);
    let address = daemon.address();
    for more in [
        "X-Forwarded-For: 10.0.0.1\r\n",
        "X-Forwarded-Host: status.example.com\r\n",
        "X-Forwarded-Proto: https\r\n",
        "Forwarded: for=10.0.0.1\r\n",
        "X-Real-IP: 10.0.0.1\r\n",
        "Via: 1.1 proxy\r\n",
        "Host: status.example.com\r\n",
        // nginx that forwards everything and adds nothing.
        "Connection: close\r\n",
    ] {
        for path in ["/api/v1/reconcile", "/api/v1/approve"] {
            is_refused(
                &post(&address, path, more, ""),
                403,
                "accepted from loopback only",
            );
        }
    }
    let old =
        format!("POST /api/v1/reconcile HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    is_refused(&send(&address, &old), 403, "accepted from loopback only");
    assert_eq!(passes(&mut daemon), 1);
}

#[test]
fn with_a_token_it_alone_counts_and_a_new_one_at_once() {
    let world = world();
    let path = secret(&world, "token", TOKEN);
    let mut daemon = waiting(
        &world,
        &[
            "--admin-token-file",
            &path,
            "--admin-host",
            "status.example.com",
        ],
    );
    let address = daemon.address();
    let ask = |more: &str| post(&address, "/api/v1/reconcile", more, "");
    for more in [
        String::new(),
        bearer(""),
        bearer(&TOKEN[1..]),
        bearer(&format!("{TOKEN}x")),
        bearer(&TOKEN.to_uppercase()),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("{}{}", bearer("x"), bearer(TOKEN)),
    ] {
        let answer = ask(&more);
        assert_eq!(
            (answer.code, answer.header("www-authenticate")),
            (401, Some("Bearer")),
            "{more}"
        );
    }
    assert_eq!(post(&address, "/api/v1/approve", JSON, "{}").code, 401);
    assert_eq!(passes(&mut daemon), 1);
    let proxied = format!(
        "Host: status.example.com\r\nX-Forwarded-For: 10.0.0.1\r\n{}",
        bearer(TOKEN)
    );
    assert_eq!(ask(&proxied).code, 202);
    daemon.line("reconciliation 2 (request)");

    let new = TOKEN.replace('a', "b");
    secret(&world, "token", &new);
    assert_eq!(
        (ask(&bearer(TOKEN)).code, ask(&bearer(&new)).code),
        (401, 202)
    );
    secret(&world, "token", "short");
    let answer = ask(&bearer("short"));
    is_refused(&answer, 503, "see its log");
    daemon.line("32 to 1024 printable");
    daemon.signal("TERM");
    daemon.wait();
    let log = daemon.seen.join("\n");
    assert!(!log.contains(TOKEN) && !log.contains(&new), "{log}");
    assert!(log.contains("and was refused: wrong token"), "{log}");
}

#[test]
fn a_secret_that_cannot_be_used_is_told_at_the_start() {
    let world = world();
    for (flag, text) in [
        ("--admin-token-file", "short"),
        (
            "--gitlab-hook-secret-file",
            "whsec_notbase64!notbase64!notbase64!",
        ),
    ] {
        let path = secret(&world, "secret", text);
        let ran = world
            .run(&["run", flag, &path])
            .exits(1)
            .says("openssl rand -hex 32");
        assert!(!ran.err.contains(text), "{}", ran.err);
    }
    world
        .run(&["run", "--generic-hook-secret-file", "/nowhere/secret"])
        .exits(1)
        .says("/nowhere/secret: No such file");
}

// Web pages.

#[test]
fn a_page_of_another_site_gets_nowhere() {
    let world = world();
    let path = secret(&world, "token", TOKEN);
    let open = waiting(&world, &["--admin-host", "status.example.com"]);
    let closed = waiting(
        &world,
        &[
            "--admin-host",
            "status.example.com",
            "--admin-token-file",
            &path,
        ],
    );
    for (mut daemon, token) in [(open, String::new()), (closed, bearer(TOKEN))] {
        let address = daemon.address();
        let port = address.split_once(':').unwrap().1;
        for more in [
            "Origin: https://evil.example\r\n".to_owned(),
            "Origin: null\r\n".to_owned(),
            // Another service of the same machine.
            "Origin: http://127.0.0.1:3000\r\n".to_owned(),
            format!("Origin: http://localhost:{port}\r\n"),
            "Origin: https://status.example.com:3000\r\n".to_owned(),
            "Sec-Fetch-Site: cross-site\r\n".to_owned(),
            "Sec-Fetch-Site: same-site\r\n".to_owned(),
            format!("Origin: http://{address}\r\nSec-Fetch-Site: cross-site\r\n"),
        ] {
            for path in ["/api/v1/reconcile", "/api/v1/approve"] {
                let answer = post(&address, path, &format!("{more}{token}{JSON}"), "{}");
                is_refused(&answer, 403, "other sites");
                assert!(
                    !answer.head.to_lowercase().contains("access-control"),
                    "{answer:?}"
                );
            }
        }
        // What a form can send.
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        ] {
            for body in ["", "{}"] {
                let answer = post(
                    &address,
                    "/api/v1/reconcile",
                    &format!("Content-Type: {kind}\r\n{token}"),
                    body,
                );
                is_refused(&answer, 415, "content-type: application/json");
            }
        }
        is_refused(
            &post(&address, "/api/v1/reconcile", &token, "{}"),
            415,
            "content-type: application/json",
        );
        // DNS rebinding: the browser takes the page for ours, and names its host.
        let rebound = format!(
            "Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\nSec-Fetch-Site: same-origin\r\n"
        );
        for path in ["/api/v1/reconcile", "/api/v1/approve", "/hooks/github"] {
            let answer = post(&address, path, &format!("{rebound}{token}{JSON}"), "{}");
            is_refused(&answer, 421, "--admin-host");
        }
        let asks = "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
        let preflight = send(
            &address,
            &format!("OPTIONS /api/v1/reconcile HTTP/1.1\r\nHost: {address}\r\n{asks}\r\n"),
        );
        assert!(
            preflight.code == 405 && !preflight.head.to_lowercase().contains("access-control"),
            "{preflight:?}"
        );
        assert_eq!(passes(&mut daemon), 1);
    }
}

#[test]
fn the_page_behind_a_proxy_asks_with_the_token() {
    let world = world();
    let path = secret(&world, "token", TOKEN);
    let mut daemon = waiting(
        &world,
        &[
            "--admin-host",
            "status.example.com",
            "--admin-token-file",
            &path,
        ],
    );
    let address = daemon.address();
    let same = "Sec-Fetch-Site: same-origin\r\n";
    for more in [
        "Host: status.example.com\r\nOrigin: https://status.example.com\r\n".to_owned(),
        "Host: status.example.com:8443\r\nOrigin: https://status.example.com:8443\r\n".to_owned(),
        // A proxy that sends a host of its own.
        "Origin: https://status.example.com\r\n".to_owned(),
    ] {
        let answer = post(
            &address,
            "/api/v1/reconcile",
            &format!("{more}{same}{JSON}{}", bearer(TOKEN)),
            "{}",
        );
        assert_eq!(answer.code, 202, "{more}");
        daemon.line("(request)");
    }
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let world = world();
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    for (path, body, code, sentence) in [
        (
            "/api/v1/reconcile?workspace=other",
            "",
            404,
            "no workspace of this name",
        ),
        (
            "/api/v1/reconcile?worskpace=acme-production",
            "",
            400,
            "the only parameter is workspace",
        ),
        (
            "/api/v1/reconcile",
            "{\"mode\": \"force\"}",
            400,
            "unknown field",
        ),
        ("/api/v1/reconcile", "[", 400, "invalid body"),
        ("/api/v1/approve", "", 400, "must name the plan"),
        (
            "/api/v1/approve",
            "{\"digest\": \"latest\"}",
            400,
            "a digest must be",
        ),
        ("/api/v1/reconcile", &"x".repeat(100_000), 413, "64 KiB"),
    ] {
        is_refused(&post(&address, path, JSON, body), code, sentence);
    }
    for path in ["/api/v1/reconcile", "/api/v1/approve", "/hooks/github"] {
        assert_eq!(get(&address, path, "").code, 405);
    }
    assert_eq!(passes(&mut daemon), 1);
}

// Approval.

/// Two providers that differ, with a limit of one change.
fn refused(world: &World) -> (Daemon, String) {
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
        .write("guesty.yaml", &file("GUESTY", "rooms"));
    let mut daemon = waiting(world, &["--max-changes", "1"]);
    let digest = pending(&mut daemon);
    (daemon, digest)
}

#[track_caller]
fn pending(daemon: &mut Daemon) -> String {
    daemon.status()["lastPass"]["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn approve(daemon: &mut Daemon, digest: &str) -> Answer {
    post(
        &daemon.address(),
        "/api/v1/approve",
        JSON,
        &json!({"digest": digest}).to_string(),
    )
}

#[test]
fn exactly_the_plan_that_was_approved_is_let_through_and_once() {
    let world = world();
    let (mut daemon, digest) = refused(&world);
    let other = format!("sha256:{}", "0".repeat(64));
    is_refused(&approve(&mut daemon, &other), 409, &digest);
    assert_eq!((passes(&mut daemon), world.updates().len()), (1, 0));
    let answer = approve(&mut daemon, &digest);
    let asked = json!({"asked": "approve", "digest": digest, "workspaces": ["acme-production"]});
    assert_eq!((answer.code, answer.json()), (202, asked));
    daemon.line("was approved and is applied");
    daemon.line("reconciliation 2 (request)");
    assert_eq!(world.updates().len(), 2);
    is_refused(&approve(&mut daemon, &digest), 409, "no refused plan");

    // The limit holds for the next plan.
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "name"))
        .write("guesty.yaml", &file("GUESTY", "name"));
    daemon.line("plan refused");
    until("the refusal is published", || {
        daemon.status()["lastPass"]["result"] == "refused"
    });
    assert_ne!(pending(&mut daemon), digest);
    is_refused(
        &approve(&mut daemon, &digest),
        409,
        "files or live state have changed",
    );
    assert_eq!(world.updates().len(), 2);
}

#[test]
fn an_approval_covers_what_a_file_writes_out() {
    let world = world();
    let writes = |value: &str| {
        let text = format!("provider: GUESTY\npartnerKey:\n  headers:\n    x-client: {value}\n");
        world.write("guesty.yaml", &text);
    };
    writes("the-reviewed-value");
    let mut daemon = waiting(&world, &["--max-changes", "0"]);
    let digest = pending(&mut daemon);
    writes("another-value");
    until("the change is read", || pending(&mut daemon) != digest);
    is_refused(
        &approve(&mut daemon, &digest),
        409,
        "files or live state have changed",
    );
    assert!(world.updates().is_empty());
    let digest = pending(&mut daemon);
    assert_eq!(approve(&mut daemon, &digest).code, 202);
    daemon.line("was approved and is applied");
    until("it is applied", || !world.updates().is_empty());
    assert_eq!(
        world.live("GUESTY")["partnerKey"]["headers"]["x-client"],
        "another-value"
    );
}

#[test]
fn an_approval_is_forgotten_when_the_plan_is_another() {
    let world = world();
    let (mut daemon, digest) = refused(&world);
    // A click in the console after the plan was read, and before it is made again.
    assert!(world.sandbox.modify(
        "GUESTY",
        |live| live["fieldsToSync"]["listing"]["pictures"] = json!(true)
    ));
    assert_eq!(approve(&mut daemon, &digest).code, 202);
    daemon.line("is void: files or live state have changed since");
    daemon.line("reconciliation 2 (request): plan refused");
    assert!(world.updates().is_empty());
    // Neither does it come back with the plan.
    assert!(world.sandbox.modify(
        "GUESTY",
        |live| live["fieldsToSync"]["listing"]["pictures"] = json!(false)
    ));
    post(&daemon.address(), "/api/v1/reconcile", "", "");
    daemon.line("reconciliation 3 (request): plan refused");
    assert!(world.updates().is_empty());
}

#[test]
fn an_approval_outlives_a_reconciliation_without_a_plan() {
    let world = world();
    let (mut daemon, digest) = refused(&world);
    let kind = FaultKind::Status {
        code: axum::http::StatusCode::UNAUTHORIZED,
        message: "No.".to_owned(),
        retry_after: None,
    };
    world.sandbox.inject(Fault::once(kind).on(Method::GET));
    assert_eq!(approve(&mut daemon, &digest).code, 202);
    daemon.line("reconciliation 2 (request) failed");
    post(&daemon.address(), "/api/v1/reconcile", "", "");
    daemon.line("reconciliation 3 (request)");
    assert_eq!(world.updates().len(), 2);
}

// Hooks.

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key)
        .unwrap()
        .chain_update(message)
        .finalize()
        .into_bytes()
        .to_vec()
}

fn hex(key: &str, body: &str) -> String {
    hmac(key.as_bytes(), body.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A push whose commit asks for what it likes.
const PUSH: &str =
    r#"{"ref": "refs/heads/main", "repository": {"url": "https://evil.example/x.git"}}"#;

#[test]
fn a_push_that_github_signed_reconciles_at_once() {
    let world = world();
    let path = secret(&world, "github", TOKEN);
    let mut daemon = waiting(
        &world,
        &[
            "--github-hook-secret-file",
            &path,
            "--admin-host",
            "hooks.example.com",
        ],
    );
    let address = daemon.address();
    let hook = |event: &str, signature: &str, body: &str| {
        let more =
            format!("Host: hooks.example.com\r\n{JSON}X-GitHub-Event: {event}\r\n{signature}");
        post(&address, "/hooks/github", &more, body)
    };
    let right = format!("X-Hub-Signature-256: sha256={}\r\n", hex(TOKEN, PUSH));
    for (signature, body) in [
        (String::new(), PUSH),
        (right.clone(), "{}"),
        (right.replace("sha256=", "sha1="), PUSH),
        (right.replace("sha256=", ""), PUSH),
        (
            format!(
                "X-Hub-Signature-256: sha256={}\r\n",
                hex("another key", PUSH)
            ),
            PUSH,
        ),
        (
            format!(
                "X-Hub-Signature-256: sha256={}\r\n",
                &hex(TOKEN, PUSH)[..62]
            ),
            PUSH,
        ),
        ("X-Hub-Signature-256: sha256=\r\n".to_owned(), PUSH),
        (format!("{right}{right}"), PUSH),
    ] {
        is_refused(
            &hook("push", &signature, body),
            403,
            "does not match the secret",
        );
    }
    for (event, reason) in [
        ("ping", "a ping, "),
        ("issues", "not a push"),
        ("", "not a push"),
    ] {
        let answer = hook(event, &right, PUSH);
        let ignored = answer.json()["ignored"].as_str().unwrap().to_owned();
        assert!(
            answer.code == 200 && ignored.starts_with(reason),
            "{event}: {answer:?}"
        );
    }
    assert_eq!(passes(&mut daemon), 1);
    let answer = hook(
        "push",
        &format!("{right}X-GitHub-Delivery: 72d3162e\r\n"),
        PUSH,
    );
    let asked =
        json!({"asked": "reconcile", "workspaces": ["acme-production"], "delivery": "72d3162e"});
    assert_eq!((answer.code, answer.json()), (202, asked));
    daemon.line("a reconciliation of acme-production (delivery 72d3162e)");
    daemon.line("reconciliation 2 (hook, delivery 72d3162e)");
    assert_eq!(daemon.status()["lastPass"]["trigger"], "hook");
    assert!(!daemon.seen.iter().any(|line| line.contains("evil.example")));
    // One hook's secret opens no other.
    for closed in ["gitlab", "generic"] {
        let answer = post(&address, &format!("/hooks/{closed}"), &right, PUSH);
        is_refused(
            &answer,
            404,
            &format!("enable it with --{closed}-hook-secret-file"),
        );
    }
}

#[test]
fn a_push_of_gitlab_is_known_by_its_token_or_by_its_signature() {
    let world = world();
    let path = secret(&world, "gitlab", TOKEN);
    let mut daemon = waiting(&world, &["--gitlab-hook-secret-file", &path]);
    let address = daemon.address();
    let hook = |event: &str, more: &str, body: &str| {
        post(
            &address,
            "/hooks/gitlab",
            &format!("{JSON}X-Gitlab-Event: {event}\r\n{more}"),
            body,
        )
    };
    let token = format!("X-Gitlab-Token: {TOKEN}\r\n");
    for more in ["", "X-Gitlab-Token: \r\n", "X-Gitlab-Token: x\r\n"] {
        is_refused(
            &hook("Push Hook", more, PUSH),
            403,
            "does not match the secret",
        );
    }
    assert_eq!(hook("Issue Hook", &token, PUSH).code, 200);
    assert_eq!(hook("Push Hook", &token, PUSH).code, 202);
    daemon.line("reconciliation 2 (hook)");

    // GitLab's signing tokens, as in the Standard Webhooks specification: base64 of 32 bytes.
    let signing = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let key = b"0123456789abcdef0123456789abcdef";
    secret(&world, "gitlab", signing);
    let now = jiff::Timestamp::now().as_second();
    let signed = |key: &[u8], time: i64, body: &str| {
        let signature = hmac(key, format!("msg_1.{time}.{body}").as_bytes());
        format!(
            "webhook-id: msg_1\r\nwebhook-timestamp: {time}\r\nwebhook-signature: v1,AAAA v1,{}\r\n",
            STANDARD.encode(signature)
        )
    };
    for more in [
        token,
        format!("X-Gitlab-Token: {signing}\r\n"),
        signed(key, now - 400, PUSH),
        signed(key, now + 400, PUSH),
        signed(key, now, "{}"),
        signed(signing.as_bytes(), now, PUSH),
        signed(key, now, PUSH).replace("v1,", "v2,"),
        signed(key, now, PUSH).replace("msg_1", "msg_2"),
    ] {
        is_refused(
            &hook("Push Hook", &more, PUSH),
            403,
            "differs too much from this machine's clock",
        );
    }
    assert_eq!(hook("Push Hook", &signed(key, now, PUSH), PUSH).code, 202);
    daemon.line("reconciliation 3 (hook, delivery msg_1)");
}

#[test]
fn a_push_of_gitea_forgejo_or_bitbucket_is_known_by_its_own_header_at_both_endpoints() {
    let world = world();
    let path = secret(&world, "secret", TOKEN);
    let mut daemon = waiting(
        &world,
        &[
            "--github-hook-secret-file",
            &path,
            "--generic-hook-secret-file",
            &path,
        ],
    );
    let address = daemon.address();
    let (right, wrong) = (hex(TOKEN, PUSH), hex("another key", PUSH));
    let events = [
        ("X-Gitea-Event: push", "X-Gitea-Event: issues"),
        ("X-Forgejo-Event: push", "X-Forgejo-Event: issues"),
        ("X-Event-Key: repo:push", "X-Event-Key: repo:fork"),
        (
            "X-Event-Key: repo:refs_changed",
            "X-Event-Key: diagnostics:ping",
        ),
    ];
    let signatures = [
        "X-Gitea-Signature: ",
        "X-Forgejo-Signature: ",
        "X-Hub-Signature: sha256=",
    ];
    for endpoint in ["/hooks/github", "/hooks/generic"] {
        let hook = |event: &str, more: &str| {
            let more = format!("{event}\r\n{more}");
            post(&address, endpoint, &more, PUSH)
        };
        for header in signatures {
            let signed = format!("{header}{right}\r\n");
            for (push, other) in events {
                assert_eq!(hook(push, &signed).code, 202, "{endpoint} {push} {header}");
                assert_eq!(hook(other, &signed).code, 200, "{endpoint} {other}");
            }
            for more in [
                format!("{header}{wrong}\r\n"),
                format!("{header}\r\n"),
                format!("{signed}{signed}"),
                format!("X-Hub-Signature: sha1={right}\r\n"),
                format!("X-Hub-Signature: {right}\r\n"),
                format!("X-Gitea-Signature: sha256={right}\r\n"),
            ] {
                let answer = hook(events[0].0, &more);
                is_refused(&answer, 403, "does not match the secret");
            }
        }
    }
}

#[test]
fn any_other_hook_signs_its_body_and_a_body_is_bounded() {
    let world = world();
    let path = secret(&world, "generic", TOKEN);
    let mut daemon = waiting(&world, &["--generic-hook-secret-file", &path]);
    let address = daemon.address();
    let signed = |body: &str| format!("X-Signature-256: sha256={}\r\n", hex(TOKEN, body));
    assert_eq!(post(&address, "/hooks/generic", &signed(""), "").code, 202);
    daemon.line("reconciliation 2 (hook)");
    let large = "x".repeat(3 << 20);
    assert_eq!(
        post(&address, "/hooks/generic", &signed(&large), &large).code,
        202
    );
    daemon.line("reconciliation 3 (hook)");
    let larger = "x".repeat((4 << 20) + 1);
    is_refused(
        &post(&address, "/hooks/generic", &signed(&larger), &larger),
        413,
        "larger than 4 MiB",
    );
    is_refused(
        &post(&address, "/hooks/generic", &signed(""), "x"),
        403,
        "does not match the secret",
    );
    // A body that ends too early is none.
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = format!(
        "POST /hooks/generic HTTP/1.1\r\nHost: {address}\r\n{}Content-Length: 9\r\n\r\nx",
        signed("x")
    );
    stream.write_all(head.as_bytes()).unwrap();
    drop(stream);
    assert_eq!(passes(&mut daemon), 3);
}

// How often.

#[test]
fn sixty_requests_a_minute_are_let_in_and_every_probe() {
    let mut world = world();
    world.env("CALRY_ADMIN_RATE", "");
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    let mut let_in = 0;
    let turned_away = loop {
        // What is not there, and what is refused, counts too.
        let answer = match let_in % 3 {
            0 => get(&address, "/api/v1/status", ""),
            1 => get(&address, "/nothing", ""),
            _ => post(&address, "/api/v1/reconcile", "Origin: null\r\n", ""),
        };
        if answer.code == 429 {
            break answer;
        }
        let_in += 1;
        assert!(let_in < 200);
    };
    // A third at once, and some more on a slow machine.
    assert!((20..=60).contains(&let_in), "{let_in}");
    is_refused(&turned_away, 429, "60 per minute and address");
    assert!(
        turned_away
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    for _ in 0..70 {
        assert_eq!(
            (
                get(&address, "/healthz", "").code,
                get(&address, "/readyz", "").code
            ),
            (200, 200)
        );
    }
    // A page that was served can load its assets, and requests for assets alone have no advantage.
    let assets = ["/assets/page.css", "/assets/page.js", "/assets/good.svg"];
    let codes: Vec<u16> = (0..190)
        .map(|n| get(&address, assets[n % 3], "").code)
        .collect();
    assert!(
        codes[..60].iter().all(|code| *code == 200) && codes.contains(&429),
        "{codes:?}"
    );
}

#[test]
fn status_waits_if_others_used_up_the_connections() {
    let mut world = world();
    world.env("CALRY_ADMIN_RATE", "");
    let mut daemon = waiting(&world, &[]);
    let address = daemon.address();
    while get(&address, "/api/v1/status", "").code == 200 {}
    world
        .run(&["status", "--address", &format!("http://{address}")])
        .exits(0);
}

#[test]
fn what_proves_its_sender_is_not_counted_with_strangers_of_its_address() {
    let mut world = world();
    // A stranger gets a place back after 10 s, so that a slow machine makes no difference.
    world.env("CALRY_ADMIN_RATE", "9");
    let (token, hook) = (
        secret(&world, "token", TOKEN),
        secret(&world, "hook", TOKEN),
    );
    let mut daemon = waiting(
        &world,
        &[
            "--admin-token-file",
            &token,
            "--github-hook-secret-file",
            &hook,
        ],
    );
    let address = daemon.address();
    let signature = |body: &str, key: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let hex: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("X-Hub-Signature-256: sha256={hex}\r\n")
    };
    let event = |event: &str, key: &str| {
        let more = format!("X-GitHub-Event: {event}\r\n{}", signature("{}", key));
        post(&address, "/hooks/github", &more, "{}").code
    };
    let ask = |token: &str| post(&address, "/api/v1/reconcile", &bearer(token), "").code;
    // Strangers behind the same address: an ingress, say.
    let fill = || while get(&address, "/nothing", "").code != 429 {};
    fill();
    let signed: Vec<u16> = (0..15).map(|_| event("issues", TOKEN)).collect();
    assert!(signed.iter().all(|code| *code == 200), "{signed:?}");
    assert!((event("push", TOKEN), ask(TOKEN)) == (202, 202));
    // A request without a valid proof counts as one of them.
    fill();
    assert_eq!(
        (
            event("push", "another-secret-that-is-never-guessed"),
            ask("another-token")
        ),
        (429, 429)
    );
    assert_eq!(get(&address, "/nothing", "").code, 429);
    // And what may be tried has its bound, too.
    let mut tried = (0..60).map(|_| event("push", "another-secret-that-is-never-guessed"));
    assert!(tried.all(|code| code == 429));
    // A place may come back at any moment, but not three.
    assert!((0..3).any(|_| event("push", TOKEN) == 429));
}
