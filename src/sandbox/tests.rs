//! Tests of the sandbox over HTTP.

use std::time::Instant;

use axum::http::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const ONE: &str = "/api/v1/integration-definition/HOSTAWAY";
const ALL: &str = "/api/v1/integration-definition";
const WORKSPACE: &str = "/api/v1/workspace";

/// The whole answer on a connection.
struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let value = |line: &'_ str| {
            line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name)
        };
        self.head
            .lines()
            .find(|line| value(line))
            .map(|line| line[name.len() + 1..].trim())
    }
}

async fn sandbox() -> Sandbox {
    Sandbox::start(Config::default()).await.unwrap()
}

async fn connect(sandbox: &Sandbox, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sandbox.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Sends raw bytes and reads the answer; `None` if the connection ended without one.
async fn raw(sandbox: &Sandbox, request: &str) -> Option<Answered> {
    let mut stream = connect(sandbox, request).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    Some(Answered {
        status: head[9..12].parse().unwrap(),
        head,
        body: bytes[end + 4..].to_vec(),
    })
}

fn request(method: &str, path: &str, key: &str, body: Option<&str>) -> String {
    let kind = body.map_or("", |_| "content-type: application/json\r\n");
    let body = body.unwrap_or_default();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-calry-api-key: {key}\r\n{kind}\
         content-length: {length}\r\n\r\n{body}"
    )
}

async fn get(sandbox: &Sandbox, path: &str) -> Answered {
    let request = request("GET", path, &sandbox.keys().read, None);
    raw(sandbox, &request).await.unwrap()
}

fn patch_request(sandbox: &Sandbox, body: &Value) -> String {
    request("PATCH", ONE, &sandbox.keys().write, Some(&body.to_string()))
}

async fn patch(sandbox: &Sandbox, body: &Value) -> Answered {
    raw(sandbox, &patch_request(sandbox, body)).await.unwrap()
}

fn icon(url: &str) -> Value {
    json!({ "icon": url })
}

#[tokio::test]
async fn reads_return_the_stored_state() {
    let sandbox = sandbox().await;
    assert_eq!(
        get(&sandbox, WORKSPACE).await.json()["slug"],
        "acme-production"
    );
    let all = get(&sandbox, ALL).await.json();
    assert_eq!(all.as_array().unwrap().len(), 22);
    assert_eq!(
        get(&sandbox, ONE).await.json(),
        sandbox.definition("HOSTAWAY").unwrap()
    );
    let escaped = get(&sandbox, &ONE.replace("AWAY", "%41WAY")).await;
    assert_eq!(escaped.json()["provider"], "HOSTAWAY");
}

#[tokio::test]
async fn an_update_is_answered_with_the_definition_after_it() {
    let sandbox = sandbox().await;
    let before = sandbox.definition("HOSTAWAY").unwrap();
    let answer = patch(&sandbox, &icon("urn:new")).await;
    assert_eq!(
        (answer.status, answer.json()["icon"].as_str()),
        (200, Some("urn:new"))
    );
    assert_eq!(answer.json(), sandbox.definition("HOSTAWAY").unwrap());
    assert_ne!(answer.json()["updatedAt"], before["updatedAt"]);
}

#[tokio::test]
async fn every_refusal_has_the_documented_shape() {
    let sandbox = sandbox().await;
    let Keys {
        read,
        write,
        expired,
    } = sandbox.keys();
    let get = |path: &str, key: &str| request("GET", path, key, None);
    let patch = |path: &str, key: &str, body: &str| request("PATCH", path, key, Some(body));
    let update = r#"{"icon":"urn:x"}"#;
    let unknown = format!("{ALL}/NOPE");
    let too_large = format!(r#"{{"icon":"urn:{}"}}"#, "x".repeat(1 << 20));
    for (status, message, requests) in [
        (
            401,
            "Authentication failed",
            vec![
                get(ALL, &read).replace("x-calry-api-key", "x"),
                get(ALL, "zepl.x"),
                get(ALL, "\u{e9}"),
            ],
        ),
        (401, "expired", vec![get(ALL, &expired)]),
        (403, "READ", vec![patch(ONE, &read, update)]),
        (
            404,
            "no integration definition",
            vec![get(&unknown, &read), patch(&unknown, &write, update)],
        ),
        (
            404,
            "Cannot GET this path",
            vec![
                get("/api/v2/workspace", &read),
                get(&format!("{ALL}/"), &read),
                get(&format!("{ONE}/x"), &read),
            ],
        ),
        (
            405,
            "Method BREW is not allowed",
            vec![request("BREW", ONE, &write, None)],
        ),
        (
            405,
            "Method PUT is not allowed",
            vec![request("PUT", ONE, &write, Some(update))],
        ),
        (
            400,
            "not JSON",
            vec![
                patch(ONE, &write, "{"),
                patch(ONE, &write, &"[".repeat(100_000)),
                patch(ONE, &write, "\u{0}"),
            ],
        ),
        (
            400,
            "not an update",
            vec![patch(ONE, &write, r#"{"name":"x"}"#)],
        ),
        (
            400,
            "needs a body",
            vec![request("PATCH", ONE, &write, None)],
        ),
        (
            400,
            "content type",
            vec![patch(ONE, &write, update).replace("application/json", "text/plain")],
        ),
        (
            400,
            "larger than 1 MiB",
            vec![patch(ONE, &write, &too_large)],
        ),
    ] {
        for request in requests {
            let answer = raw(&sandbox, &request).await.unwrap();
            let (method, path) = request.split_once(' ').unwrap();
            let what = format!("{method}: {}", answer.message());
            assert_eq!(answer.status, status, "{what}");
            assert!(answer.message().contains(message), "{what}");
            let kind = answer.header("content-type");
            assert_eq!(kind, Some("application/json"), "{what}");
            let error = answer.json();
            assert_eq!(error.as_object().unwrap().len(), 4, "{what}");
            assert_eq!(error["path"], path.split(' ').next().unwrap(), "{what}");
            assert!(error["details"].is_array(), "{what}");
            assert!(
                error["timestamp"].as_str().unwrap().ends_with('Z'),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn a_refused_method_gets_the_allowed_ones() {
    let sandbox = sandbox().await;
    for (path, allowed) in [(ONE, "GET, PATCH"), (ALL, "GET"), (WORKSPACE, "GET")] {
        for method in ["POST", "PUT", "DELETE", "TRACE", "OPTIONS", "HEAD"] {
            let request = request(method, path, "", None);
            let answer = raw(&sandbox, &request).await.unwrap();
            let refused = (answer.status, answer.header("allow"));
            assert_eq!(refused, (405, Some(allowed)), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn put_works_beside_patch_if_configured() {
    let config = Config {
        update_method: UpdateMethod::Put,
        ..Config::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    let put = request("PUT", ONE, &sandbox.keys().write, Some("{}"));
    assert_eq!(
        patch(&sandbox, &icon("urn:x")).await.json()["icon"],
        "urn:x"
    );
    assert_eq!(raw(&sandbox, &put).await.unwrap().json().get("icon"), None);
    let refused = raw(&sandbox, &request("POST", ONE, "", None))
        .await
        .unwrap();
    assert_eq!(refused.header("allow"), Some("GET, PATCH, PUT"));
}

#[tokio::test]
async fn masks_hide_partner_keys_from_the_configured_keys() {
    let sandbox = sandbox().await;
    for (mask, read_sees, write_sees) in [
        (Mask::Never, true, true),
        (Mask::ReadKeys, false, true),
        (Mask::Always, false, false),
    ] {
        sandbox.set_semantics(Semantics {
            mask,
            ..sandbox.semantics()
        });
        let sees = |answer: Value| answer.to_string().contains("sandbox-hostaway-token");
        let all = get(&sandbox, ALL).await.json();
        assert_eq!(sees(all), read_sees, "{mask:?}");
        let updated = patch(&sandbox, &json!({})).await.json();
        assert_eq!(sees(updated), write_sees, "{mask:?}");
        assert!(sees(sandbox.definition("HOSTAWAY").unwrap()));
    }
}

#[tokio::test]
async fn a_status_fault_is_answered_and_nothing_is_executed() {
    let sandbox = sandbox().await;
    let before = sandbox.definition("HOSTAWAY");
    let kind = FaultKind::Status {
        code: StatusCode::TOO_MANY_REQUESTS,
        message: "slow down".to_owned(),
        retry_after: Some("7".to_owned()),
    };
    sandbox.inject(Fault::once(kind).on(Method::PATCH).at("/HOSTAWAY"));
    assert_eq!(get(&sandbox, ONE).await.status, 200);
    let answer = patch(&sandbox, &icon("urn:x")).await;
    assert_eq!((answer.status, &*answer.message()), (429, "slow down"));
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(sandbox.definition("HOSTAWAY"), before);
    assert_eq!(patch(&sandbox, &icon("urn:x")).await.status, 200);
}

#[tokio::test]
async fn a_cut_connection_leaves_no_answer_and_only_one_kind_leaves_the_update() {
    let sandbox = sandbox().await;
    for (kind, carried_out) in [(FaultKind::DropBefore, false), (FaultKind::DropAfter, true)] {
        sandbox.inject(Fault::once(kind.clone()));
        let request = patch_request(&sandbox, &icon("urn:x"));
        assert!(raw(&sandbox, &request).await.is_none(), "{kind:?}");
        assert_eq!(
            sandbox.definition("HOSTAWAY").unwrap()["icon"] == "urn:x",
            carried_out,
            "{kind:?}"
        );
    }
    let cut = &sandbox.requests()[0];
    assert!(cut.status.is_none() && cut.finished.is_some());
}

#[tokio::test]
async fn a_truncated_answer_has_the_length_of_the_whole_one() {
    let sandbox = sandbox().await;
    sandbox.inject(Fault::once(FaultKind::TruncateBody));
    let answer = patch(&sandbox, &icon("urn:x")).await;
    let announced: usize = answer.header("content-length").unwrap().parse().unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, announced / 2));
    assert_eq!(sandbox.definition("HOSTAWAY").unwrap()["icon"], "urn:x");
}

#[tokio::test]
async fn the_other_faults_do_what_their_names_say() {
    let sandbox = sandbox().await;
    sandbox.inject(Fault::once(FaultKind::Garbage));
    let garbage = get(&sandbox, ONE).await;
    assert!(garbage.status == 200 && String::from_utf8(garbage.body).is_err());

    let body = "{}".to_owned();
    sandbox.inject(Fault::once(FaultKind::Answer {
        code: StatusCode::ACCEPTED,
        body,
    }));
    let answer = patch(&sandbox, &icon("urn:y")).await;
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (202, b"{}".as_slice())
    );
    assert_eq!(sandbox.definition("HOSTAWAY").unwrap()["icon"], "urn:y");

    sandbox.inject(Fault::once(FaultKind::Redirect(
        "https://evil.example/".to_owned(),
    )));
    let redirect = get(&sandbox, ONE).await;
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (307, Some("https://evil.example/"))
    );

    sandbox.inject(Fault::once(FaultKind::HugeBody(3_000_000)));
    let huge = get(&sandbox, ONE).await;
    assert!(
        huge.status == 200
            && huge.header("content-length").is_none()
            && huge.body.len() >= 3_000_000
    );

    sandbox.inject(Fault::once(FaultKind::EchoBodyInError));
    let echo = patch(&sandbox, &icon("urn:hunter2")).await;
    assert_eq!(echo.status, 400);
    assert!(
        echo.message().contains("urn:hunter2") && echo.message().contains(&sandbox.keys().write)
    );
}

#[tokio::test]
async fn a_delayed_update_is_made_at_once_even_if_its_client_gives_up() {
    let sandbox = sandbox().await;
    sandbox.inject(Fault::once(FaultKind::Delay(Duration::from_secs(3600))));
    let client = connect(&sandbox, &patch_request(&sandbox, &icon("urn:x"))).await;
    while sandbox.definition("HOSTAWAY").unwrap()["icon"] != "urn:x" {
        tokio::task::yield_now().await;
    }
    drop(client);
    let record = &sandbox.requests()[0];
    assert!(record.finished.is_none() && record.status.is_none());
}

#[tokio::test]
async fn the_log_has_each_request_with_its_permission_and_result() {
    let sandbox = sandbox().await;
    let start = Instant::now();
    get(&sandbox, &format!("{WORKSPACE}?x=1")).await;
    patch(&sandbox, &icon("urn:x")).await;
    let expired = request("GET", ALL, &sandbox.keys().expired, None);
    raw(&sandbox, &expired).await.unwrap();
    let log: Vec<_> = sandbox
        .requests()
        .into_iter()
        .map(|r| (r.method, r.path, r.permission, r.body, r.status))
        .collect();
    let entry = |method, path: &str, permission, body, status| {
        let status = StatusCode::from_u16(status).ok();
        (method, path.to_owned(), permission, body, status)
    };
    let (read, write) = (Some(Permission::Read), Some(Permission::Write));
    assert_eq!(
        log,
        [
            entry(Method::GET, WORKSPACE, read, None, 200),
            entry(Method::PATCH, ONE, write, Some(icon("urn:x")), 200),
            entry(Method::GET, ALL, None, None, 401),
        ]
    );
    assert!(
        sandbox
            .requests()
            .iter()
            .all(|r| r.at >= start && r.finished.is_some_and(|finished| finished >= r.at))
    );
}

#[tokio::test]
async fn the_rate_limit_answers_429_with_whole_seconds() {
    let config = Config {
        rate_limit: "1/s".parse().ok(),
        ..Config::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    assert_eq!(get(&sandbox, WORKSPACE).await.status, 200);
    let mut answer = get(&sandbox, WORKSPACE).await;
    // On a busy machine a second may pass between two requests; not between a hundred.
    for _ in 0..100 {
        if answer.status == 429 {
            break;
        }
        answer = get(&sandbox, WORKSPACE).await;
    }
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("1"))
    );
}

#[tokio::test]
async fn a_certain_failure_lets_no_answer_through() {
    let config = Config {
        fail: "1".parse().unwrap(),
        ..Config::default()
    };
    let sandbox = Sandbox::start(config).await.unwrap();
    for _ in 0..20 {
        let request = request("GET", WORKSPACE, &sandbox.keys().read, None);
        let status = raw(&sandbox, &request).await.map(|answer| answer.status);
        assert!(matches!(status, None | Some(502..=504)), "{status:?}");
    }
}

#[tokio::test]
async fn an_edit_updates_updated_at() {
    let sandbox = sandbox().await;
    let before = sandbox.definition("HOSTAWAY").unwrap();
    assert!(sandbox.modify("HOSTAWAY", |definition| definition["icon"] = json!("urn:x")));
    let after = sandbox.definition("HOSTAWAY").unwrap();
    assert!(after["icon"] == "urn:x" && after["updatedAt"].as_str() > before["updatedAt"].as_str());
    assert!(!sandbox.modify("NOPE", |_| ()));
    sandbox.set_definition("NEW", json!({}));
    assert!(sandbox.remove_definition("NEW").is_some() && sandbox.definition("NEW").is_none());
    sandbox.modify_workspace(|workspace| workspace["slug"] = json!("other"));
    assert_eq!(get(&sandbox, WORKSPACE).await.json()["slug"], "other");
}

#[tokio::test]
async fn a_sandbox_that_is_shut_down_cuts_its_connections_and_frees_its_address() {
    let sandbox = sandbox().await;
    let address = sandbox.address;
    sandbox.inject(Fault::once(FaultKind::Delay(Duration::from_secs(3600))));
    let mut waiting = connect(&sandbox, &request("GET", ALL, "", None)).await;
    let mut idle = connect(&sandbox, "").await;
    while sandbox.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    sandbox.shutdown().await;
    let mut rest = Vec::new();
    for stream in [&mut waiting, &mut idle] {
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert!(rest.is_empty());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn other_machines_can_reach_it_only_if_configured() {
    let everywhere = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..Config::default()
    };
    let refused = Sandbox::start(everywhere.clone()).await.err().unwrap();
    let refused = refused.to_string();
    assert!(refused.contains("choose a loopback address"), "{refused}");
    let allowed = Config {
        allow_remote: true,
        ..everywhere
    };
    let sandbox = Sandbox::start(allowed).await.unwrap();
    assert!(sandbox.url().starts_with("http://127.0.0.1:"));
}

#[tokio::test]
async fn an_address_in_use_is_reported_as_a_sentence() {
    let sandbox = sandbox().await;
    let config = Config {
        listen: sandbox.address,
        ..Config::default()
    };
    let again = Sandbox::start(config).await.err().unwrap().to_string();
    let expected = format!("the sandbox cannot listen on {}: ", sandbox.address);
    assert!(again.starts_with(&expected), "{again}");
}

#[tokio::test]
async fn the_banner_fits_a_terminal_and_its_command_causes_drift() {
    let sandbox = sandbox().await;
    let banner = sandbox.banner();
    assert!(
        banner.lines().all(|line| line.chars().count() <= 100),
        "{banner}"
    );
    let Keys {
        read,
        write,
        expired,
    } = sandbox.keys();
    assert!(
        [read, write, expired, sandbox.url()]
            .iter()
            .all(|needle| banner.contains(needle))
    );

    let body = banner
        .split("-d '")
        .nth(1)
        .and_then(|rest| rest.split('\'').next())
        .unwrap();
    assert!(banner.contains(&format!("curl -X PATCH {}{ONE} \\\n", sandbox.url())));
    let before = sandbox.definition("HOSTAWAY").unwrap();
    let after = patch(&sandbox, &serde_json::from_str(body).unwrap())
        .await
        .json();
    assert_ne!(after["icon"], before["icon"]);
    assert_eq!(after["fieldsToSync"], before["fieldsToSync"]);
}

#[test]
fn the_options_of_the_command_line_are_parsed() {
    assert_eq!("present".parse(), Ok(SpecifiedFields::PresentMeansTrue));
    assert_eq!("no".parse(), Ok(AcrossGroups::No));
    assert_eq!("merge".parse(), Ok(PartialPartnerKey::Merges));
    assert_eq!("keep".parse(), Ok(PutAbsent::Keeps));
    assert_eq!("read".parse(), Ok(Mask::ReadKeys));
    assert_eq!(
        "x".parse::<Mask>().unwrap_err().to_string(),
        "must be one of `never`, `read`, `always`"
    );
}

#[test]
fn keys_have_the_form_of_calrys_keys_and_are_masked_in_debug() {
    let keys = Keys::of(&Slug::parse("acme-production").unwrap());
    assert_eq!(
        keys.write,
        "zepl.sandbox-write.not-a-secret.acme-production"
    );
    assert_eq!(format!("{keys:?}"), "Keys(***)");
}
