//! Distinctive secrets on both sides, every command at every verbosity, and not one of them in any byte of its output.

use std::fmt::Write as _;
use std::time::Duration;

use crate::support::{World, live};
use axum::http::{Method, StatusCode};
use calry_gitops::sandbox::{Config, Fault, FaultKind, Keys, Mask, Semantics};
use serde_json::json;

/// Values that must never be printed. Each has characters that JSON, URLs and Base64 encode.
const CANARIES: [(&str, &str); 11] = [
    ("live header", "canary-live\"header\\Qx1/7+=&zz"),
    ("live parameter", "canary-live-param%41&b=c d/7"),
    ("live, unmanaged", "canary-live<unmanaged>'q'"),
    (
        "live, of a provider that is not managed",
        "canary-elsewhere&4715",
    ),
    ("variable", "canary-variable\"\\/+%20&=ä"),
    ("file", "canary-file\"\\/+%20&=ö"),
    ("literal header", "canary-literal-header-4711"),
    ("literal parameter", "canary-literal-param-4712"),
    ("second literal", "canary-second-4713"),
    ("fingerprint key", "canary-fingerprint-key-0123456789-4714"),
    ("READ key", "zepl.canaryRead.k9Jx2Qm7Zr.acme-production"),
];
const WRITE_KEY: &str = "zepl.canaryWrite.p0Lw8Vn3Tb.acme-production";
const EXPIRED_KEY: &str = "zepl.canaryOld.h5Gd1Sc6Yf.acme-production";

fn canary(name: &str) -> &'static str {
    CANARIES.iter().find(|(n, _)| *n == name).unwrap().1
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextets = bytes.chunks(3).flat_map(|chunk| {
        let n = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
        (0..=chunk.len()).map(move |at| n >> (18 - 6 * at) & 63)
    });
    sextets.map(|sextet| char::from(ALPHABET[sextet])).collect()
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into())
            }
            _ => write!(out, "%{byte:02X}").unwrap(),
        }
        out
    })
}

/// A secret in every form in which it might come out, and its recognizable beginning and end: cut to length is not masked.
fn forms(secret: &str) -> Vec<String> {
    let json = json!(secret).to_string();
    let json = json.trim_matches('"');
    let twice = json!(json).to_string();
    let debug = format!("{secret:?}");
    let start: String = secret.chars().take(14).collect();
    // All begin alike, so that one that is known masks the beginning of another.
    let end: String = secret.chars().skip("canary-".len()).collect();
    let mut forms = vec![
        secret.to_owned(),
        start,
        end,
        json.to_owned(),
        twice.trim_matches('"').to_owned(),
        debug.trim_matches('"').to_owned(),
        percent(secret),
        percent(secret).to_lowercase(),
        percent(secret).replace("%20", "+"),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect(),
    ];
    // Base64 of a text that holds it anywhere: three alignments, without the ends that neighbours mix into.
    for before in ["", "x", "xx"] {
        let whole = base64(format!("{before}{secret}").as_bytes());
        forms.push(whole[if before.is_empty() { 0 } else { 4 }..whole.len() - 2].to_owned());
        forms.push(forms.last().unwrap().replace('+', "-").replace('/', "_"));
    }
    forms
}

#[test]
fn the_search_itself_finds_every_form() {
    assert_eq!(base64(b"Basic\xff"), "QmFzaWP/");
    assert_eq!(base64(b"ab"), "YWI");
    let found = |text: &str| {
        forms("canary\"value/1234567")
            .iter()
            .any(|form| text.contains(form.as_str()))
    };
    assert!(found("x canary\\\"value/1234567") && found(&base64(b"user:canary\"value/1234567")));
    assert!(
        found("canary%22value%2F1234567") && found("canary\"value/1… (cut)") && !found("canary")
    );
}

/// What came out of a run.
struct Said(String, Vec<u8>);

#[track_caller]
fn is_silent(said: &Said) {
    let Said(what, bytes) = said;
    let text = String::from_utf8_lossy(bytes);
    let keys = [("WRITE key", WRITE_KEY), ("expired key", EXPIRED_KEY)];
    for (name, secret) in CANARIES.into_iter().chain(keys) {
        for form in forms(secret) {
            assert!(
                !text.contains(&form),
                "{what} lets the {name} out as {form:?}:\n{text}"
            );
        }
    }
    assert!(!text.contains("panicked"), "{what}:\n{text}");
}

/// Four providers: one that drifted, one that changes by a literal, one that is in sync and one that is not managed.
fn world() -> World {
    let [header, parameter, unmanaged] =
        ["live header", "live parameter", "live, unmanaged"].map(canary);
    let with = |name: &str, key: serde_json::Value| {
        let mut definition = live(name, &["name"], &["pictures"]);
        definition["partnerKey"] = key;
        definition
    };
    let definitions = json!([
        with(
            "HOSTAWAY",
            json!({"headers": {"x-api-key": header, "x-gone": unmanaged}, "queryParams": {"id": parameter}})
        ),
        with(
            "GUESTY",
            json!({"headers": {"x-api-key": canary("file")}, "queryParams": {"token": parameter}})
        ),
        with(
            "LODGIFY",
            json!({"headers": {"x-api-key": canary("literal header")}})
        ),
        with(
            "STAYBRIDGE",
            json!({"headers": {"x-api-key": canary("live, of a provider that is not managed")}})
        ),
    ]);
    let keys = Keys {
        read: canary("READ key").into(),
        write: WRITE_KEY.into(),
        expired: EXPIRED_KEY.into(),
    };
    let mut world = World::with(
        definitions,
        Config {
            keys: Some(keys),
            ..Config::default()
        },
    );
    let secrets = world.dir.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("from-file"), format!("{}\n", canary("file"))).unwrap();
    world.env("CALRY_SECRETS_DIR", secrets.to_str().unwrap());
    world.env("CALRY_SECRET_FROM_VARIABLE", canary("variable"));
    world.env("CALRY_FINGERPRINT_KEY", canary("fingerprint key"));
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: Bearer ${secret:from-file}\n    x-new: ${secret:from-file}\n\
         fieldsToSync:\n  listing: [name, pictures]\n",
    );
    let [parameter, second] = ["literal parameter", "second literal"].map(canary);
    world.write(
        "guesty.yaml",
        &format!("provider: GUESTY\npartnerKey:\n  queryParams:\n    token: {parameter}\n    password: {second}\n    v: ${{secret:from-variable}}\n"),
    );
    world.write(
        "lodgify.yaml",
        &format!(
            "provider: LODGIFY\npartnerKey:\n  headers:\n    x-api-key: {}\n",
            canary("literal header")
        ),
    );
    world
}

fn run(world: &World, args: &[&str]) -> Said {
    let output = world.command(args).output().unwrap();
    Said(
        format!("{args:?}"),
        [output.stdout, b"\n".to_vec(), output.stderr].concat(),
    )
}

const LOUD: [&[&str]; 4] = [&[], &["-vv"], &["-vv", "--log-format", "json"], &["-q"]];

/// Runs every command at every verbosity, each in a new world.
fn every_command(change: impl Fn(&mut World)) -> Vec<Said> {
    let commands: [&[&str]; 14] = [
        &["validate"],
        &["validate", "--strict"],
        &["plan"],
        &["plan", "--format", "json"],
        &["plan", "--secrets-unavailable", "--format", "json"],
        &["plan", "--format", "markdown"],
        &["plan", "--format", "github"],
        &["snapshot"],
        &["apply", "--yes"],
        &["apply", "--yes", "--format", "json"],
        &["run", "--once"],
        &["pull"],
        &["pull", "--fields", "partnerKey,icon,listing"],
        &["schema"],
    ];
    let mut said = Vec::new();
    for command in commands {
        for loud in LOUD {
            let mut world = world();
            change(&mut world);
            said.push(run(&world, &[command, loud].concat()));
        }
    }
    said
}

#[test]
fn no_command_lets_a_secret_out() {
    let all = every_command(|_| {});
    all.iter().for_each(is_silent);
    let text: String = all
        .iter()
        .map(|said| String::from_utf8_lossy(&said.1).into_owned())
        .collect();
    assert!(
        text.contains("HOSTAWAY updated")
            && text.contains("Apply: ")
            && text.contains("partnerKey.queryParams.token")
    );
}

#[test]
fn an_error_that_repeats_body_and_key_is_scrubbed() {
    let said = every_command(|world| {
        world.sandbox.inject(
            Fault::once(FaultKind::EchoBodyInError)
                .on(Method::PATCH)
                .times(9),
        );
    });
    said.iter().for_each(is_silent);
    assert!(
        said.iter()
            .any(|said| String::from_utf8_lossy(&said.1).contains("Cannot process")),
        "it was echoed at all"
    );
    every_command(|world| {
        world
            .sandbox
            .inject(Fault::once(FaultKind::EchoBodyInError).times(9))
    })
    .iter()
    .for_each(is_silent);
}

/// An error that quotes values which the request did not hold.
fn quoting(code: StatusCode, names: &[&str]) -> Fault {
    let quoted: Vec<_> = names.iter().map(|name| canary(name)).collect();
    let message = format!("it must not differ from {}", quoted.join(" or "));
    Fault::once(FaultKind::Status {
        code,
        message,
        retry_after: None,
    })
}

/// The error is shown, without what it quotes.
#[track_caller]
fn is_scrubbed(said: &Said) {
    is_silent(said);
    let text = String::from_utf8_lossy(&said.1);
    assert!(text.contains("must not differ from"), "{}:\n{text}", said.0);
}

#[test]
fn an_error_that_quotes_a_live_value_is_scrubbed_by_every_command_that_writes() {
    let quoting = || {
        quoting(
            StatusCode::BAD_REQUEST,
            &[
                "live header",
                "live, unmanaged",
                "live, of a provider that is not managed",
            ],
        )
        .on(Method::PATCH)
        .times(9)
    };
    let apply = ["apply", "--yes", "--format"];
    let formats =
        ["text", "json", "markdown", "github"].map(|format| [&apply[..], &[format]].concat());
    for args in formats
        .into_iter()
        .chain([vec!["run", "--once"], vec!["apply", "--plan", "the.plan"]])
    {
        let world = world();
        is_silent(&run(&world, &["plan", "--out", "the.plan"]));
        world.sandbox.inject(quoting());
        let said = run(&world, &args);
        is_scrubbed(&said);
    }
}

#[test]
fn an_error_is_scrubbed_of_what_was_read_at_the_same_time() {
    for args in [
        &["plan"][..],
        &["plan", "-vv"],
        &["snapshot"],
        &["pull"],
        &["run", "--once"],
    ] {
        let world = world();
        world
            .sandbox
            .inject(quoting(StatusCode::BAD_REQUEST, &["live, unmanaged"]).at("/workspace"));
        // The error is there first.
        world.sandbox.inject(
            Fault::once(FaultKind::Delay(Duration::from_millis(300))).at("/integration-definition"),
        );
        let said = run(&world, args);
        is_scrubbed(&said);
    }
}

#[test]
fn a_daemon_remembers_what_it_read_and_what_was_replaced_since() {
    let world = world();
    let mut daemon = world.daemon(&["--interval", "1s", "-vv"]);
    crate::support::until("the daemon updates", || world.updates().len() >= 2);
    crate::support::until("it has read the result", || world.requests().len() > 8);
    // The first value is gone, and no later reconciliation sees the second one.
    let fault = quoting(
        StatusCode::INTERNAL_SERVER_ERROR,
        &["live header", "live, unmanaged"],
    );
    world
        .sandbox
        .inject(fault.at("/integration-definition").times(2));
    daemon.line("must not differ from");
    let address = daemon.address();
    is_silent(&Said(
        "the status".to_owned(),
        crate::support::get(&address, "/api/v1/status", "")
            .body
            .into_bytes(),
    ));
    is_silent(&Said(
        "the page".to_owned(),
        crate::support::get(&address, "/", "").body.into_bytes(),
    ));
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
    is_silent(&Said("run".to_owned(), daemon.seen.join("\n").into_bytes()));
}

#[test]
fn masked_answers_and_keys_without_permission_let_nothing_out() {
    let masked = |world: &mut World| {
        world.sandbox.set_semantics(Semantics {
            mask: Mask::Always,
            ..Semantics::default()
        })
    };
    every_command(masked).iter().for_each(is_silent);
    for key in [
        canary("READ key"),
        EXPIRED_KEY,
        "zepl.canaryWrite.p0Lw8Vn3Tb.acme production",
    ] {
        every_command(|world| {
            world.env("CALRY_API_KEY", key);
        })
        .iter()
        .for_each(is_silent);
    }
}

#[test]
fn files_that_are_broken_around_a_partner_key_are_quoted_without_it() {
    let secret = canary("literal header");
    for text in [
        format!("provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: '{secret}\n"),
        format!(
            "provider: GUESTY\npartnerKey:\n  headers:\n   x-api-key: {secret}\n  bad: indent\n x: y\n"
        ),
        format!("provider: GUESTY\npartnerKey: {{headers: {{x-api-key: {secret}}}\n"),
        format!("provider: GUESTY\npartnerKey: {secret}\n"),
        format!("provider: GUESTY\npartnerKey:\n  - {secret}\n"),
        format!("provider: GUESTY\npartnerkey:\n  headers:\n    x-api-key: {secret}\n"),
        format!("provider: GUESTY\npartnerKey:\n  header:\n    x-api-key: {secret}\n"),
        format!("provider: GUESTY\nheaders:\n  x-api-key: {secret}\n"),
        format!("provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: ${{{secret}}}\n"),
        format!(
            "provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: ${{secret:{secret}_X}}\n"
        ),
        format!(
            "provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: |\n      {secret}\n      more\n"
        ),
        format!("provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: !!binary {secret}\n"),
        format!(
            "provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: &{secret} x\n    y: *{secret}\n"
        ),
        format!(
            "provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: [{secret}]\n    x-api-key: {secret}\n"
        ),
        format!("provider: GUESTY\npartnerKey:\n  headers:\n    {secret} {secret}: x\n"),
        format!("provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key {secret}\n"),
        format!("provider: GUESTY\nicon: {secret}\0\npartnerKey: {secret}\n"),
        format!(
            "provider: GUESTY\npartnerKey:\n  headers:\n    x-api-key: {secret}\n---\nx: {secret}\n"
        ),
        format!("{secret}\n"),
    ] {
        let world = world();
        world.write("guesty.yaml", &text);
        for args in [
            &["validate"][..],
            &["plan", "-vv"],
            &["plan", "--format", "json"],
            &["run", "--once", "-vv"],
        ] {
            let mut said = run(&world, args);
            said.0.push_str(&format!(" with\n{text}"));
            is_silent(&said);
            let seen = String::from_utf8_lossy(&said.1).contains("guesty.yaml");
            assert!(
                seen,
                "{} says nothing of the file\n{}",
                said.0,
                String::from_utf8_lossy(&said.1)
            );
        }
    }
}

#[test]
fn a_daemon_that_undoes_drift_and_is_refused_lets_nothing_out() {
    for loud in &LOUD[1..3] {
        let world = world();
        let args = [&["--interval", "1s"], *loud].concat();
        let mut daemon = world.daemon(&args);
        let address = daemon.address();
        let url = format!("http://{address}");
        let status = || {
            let served = crate::support::get(&address, "/api/v1/status", "");
            is_silent(&Said(
                "the status".to_owned(),
                served.body.clone().into_bytes(),
            ));
            is_silent(&Said(
                "the page".to_owned(),
                crate::support::get(&address, "/", "").body.into_bytes(),
            ));
            is_silent(&run(&world, &["status", "--address", &url]));
            is_silent(&run(
                &world,
                &["status", "--address", &url, "--format", "json"],
            ));
            served.body
        };
        let updates =
            |n: usize| crate::support::until("the daemon updates", || world.updates().len() >= n);
        updates(2);
        for (kind, reply) in [
            (FaultKind::EchoBodyInError, 3),
            (FaultKind::Garbage, 4),
            (FaultKind::TruncateBody, 5),
        ] {
            world.sandbox.inject(Fault::once(kind).on(Method::PATCH));
            let mut drifted = world.live("LODGIFY");
            drifted["partnerKey"]["headers"]["x-api-key"] = canary("live header").into();
            world.sandbox.set_definition("LODGIFY", drifted);
            updates(reply);
            status();
        }
        world.write(
            "lodgify.yaml",
            &format!(
                "provider: LODGIFY\npartnerKey: '{}\n",
                canary("second literal")
            ),
        );
        crate::support::until("the change is read", || world.requests().len() > 12);
        crate::support::until("the status reports the file", || {
            status().contains("lodgify.yaml")
        });
        let body = status();
        for part in [
            "partnerKey.headers.x-api-key",
            "\"sensitive\": true",
            "failed",
        ] {
            assert!(body.contains(part), "{part} is not in {body}");
        }
        for path in ["/healthz", "/readyz"] {
            is_silent(&Said(
                path.to_owned(),
                crate::support::get(&address, path, "").body.into_bytes(),
            ));
        }
        daemon.signal("TERM");
        assert_eq!(daemon.wait(), Some(0));
        is_silent(&Said(
            format!("run {args:?}"),
            daemon.seen.join("\n").into_bytes(),
        ));
    }
}
