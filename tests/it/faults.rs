//! The fault matrix of `docs/faults.md`: the page is held to the code and to the tests, and the faults that no other module is
//! about are shown here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::Method;

use crate::support::documents::{code_spans, files, is_script, rows, tests};
use crate::support::{World, live, repository, until};
use calry_gitops::model::FetchFailure;
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The variants of an enum, from its text.
fn variants(path: &str, name: &str) -> BTreeSet<String> {
    let text = read(path);
    let (_, body) = text.split_once(&format!("enum {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    names
        .map(|line| {
            let end = line.find(|c: char| !c.is_alphanumeric()).unwrap();
            format!("{name}::{}", &line[..end])
        })
        .collect()
}

/// Whether the status of a workspace has a field, such as `lastPass.error` or `providers.state`.
fn is_status_field(schema: &Value, path: &str) -> bool {
    let mut at = &schema["$defs"]["WorkspaceStatus"];
    for key in path.split('.') {
        let field = &at["properties"][key];
        let targets = [
            &field["$ref"],
            &field["items"]["$ref"],
            &field["anyOf"][0]["$ref"],
        ];
        if field.is_null() {
            return false;
        }
        at = match targets.iter().find_map(|target| target.as_str()) {
            Some(target) => &schema["$defs"][target.trim_start_matches("#/$defs/")],
            None => &Value::Null,
        };
    }
    true
}

/// The alerts of a text.
fn alerts(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| word.len() > 12 && word.starts_with("CalryGitops"))
        .collect()
}

#[test]
fn every_row_of_the_matrix_names_what_exists_and_no_fault_is_missing() {
    let page = read("docs/faults.md");
    let rows = rows(&page);
    let (matrix, names): (Vec<_>, Vec<_>) = rows.into_iter().partition(|cells| cells.len() == 4);
    assert!(matrix.len() >= 70, "{}", matrix.len());

    let tests = tests();
    let metrics: String = files(&repository().join("src/ops/metrics"), "rs")
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let schema: Value = serde_json::from_str(&read("deploy/schemas/status.schema.json")).unwrap();
    let rules = read("deploy/monitoring/calry-gitops.rules.yaml");
    let rules: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let sources = files(&repository().join("src"), "rs");
    // A sentence may go on in the next line of the source.
    let flat = |text: String| {
        let lines = text.split("\\\n").map(str::trim_start);
        lines.collect::<Vec<_>>().concat()
    };
    let said: Vec<String> = sources
        .iter()
        .map(|file| flat(fs::read_to_string(file).unwrap()))
        .collect();

    let mut wrong = Vec::new();
    for cells in &matrix {
        let &[fault, happens, shown, shows] = cells.as_slice() else {
            unreachable!()
        };
        let mut missing = |what: &str, name: &str| wrong.push(format!("{fault}: {what} {name}"));
        if happens.is_empty() || shown.is_empty() {
            missing("no sentence", "");
        }
        let named = code_spans(shows);
        if named.is_empty() {
            missing("no test", "");
        }
        for test in named {
            let exists = if test.starts_with("tests/") {
                is_script(test)
            } else {
                tests.contains(test)
            };
            if !exists {
                missing("no such test", test);
            }
        }
        for name in code_spans(shown) {
            let metric = name.split('{').next().unwrap();
            let exists = if metric.starts_with("calry_gitops_") {
                metrics.contains(&format!("\"{metric}\""))
            } else if name.starts_with("CalryGitops") {
                rules.contains(name)
            } else {
                is_status_field(&schema, name)
            };
            if !exists {
                missing("nothing exports", name);
            }
        }
        let words: String = shown.split('`').step_by(2).collect();
        for sentence in words.split('"').skip(1).step_by(2) {
            if !said.iter().any(|source| source.contains(sentence)) {
                missing("nothing logs", sentence);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The other direction: every alert, every kind of a failed fetch, every fault of the sandbox, and every cause of an error.
    let unnamed: Vec<_> = rules.difference(&alerts(&page)).copied().collect();
    assert!(unnamed.is_empty(), "no row names {unnamed:?}");
    for kind in FetchFailure::ALL {
        let series = format!("calry_gitops_git_failing{{reason=\"{}\"}}", kind.as_str());
        assert!(page.contains(&series), "no row names {series}");
    }
    let faults: BTreeSet<&str> = matrix.iter().map(|cells| cells[0]).collect();
    let mut listed = BTreeSet::new();
    for cells in &names {
        let &[name, fault] = cells.as_slice() else {
            panic!("a row of the matrix has four cells: {cells:?}")
        };
        assert!(faults.contains(fault), "no row is about {fault:?}");
        listed.insert(name.trim_matches('`').to_owned());
    }
    let mut known = variants("src/sandbox/faults.rs", "FaultKind");
    known.extend(variants("src/live/error.rs", "ErrorCause"));
    assert_eq!(listed, known);
}

/// HOSTAWAY, with `name` on in git and in Calry.
fn world() -> World {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms", "pictures"])]),
        Config::default(),
    );
    world.write("hostaway.yaml", &file("name"));
    world
}

fn file(fields: &str) -> String {
    format!("provider: HOSTAWAY\nfieldsToSync:\n  listing: [{fields}]\n")
}

fn is_on(world: &World, field: &str) -> bool {
    world.live("HOSTAWAY")["fieldsToSync"]["listing"][field] == true
}

/// A click in the console.
fn click(world: &World, field: &str) {
    assert!(world.sandbox.modify("HOSTAWAY", |live| {
        live["fieldsToSync"]["listing"][field] = json!(true);
    }));
}

#[test]
fn an_unknown_host_is_named_and_given_up() {
    let mut world = world();
    // No certificate of this machine is needed.
    let certificate = repository().join("tests/fixtures/tls/cert.pem");
    world.env("SSL_CERT_FILE", certificate.to_str().unwrap());
    let began = Instant::now();
    world
        .run(&["plan", "--api-url", "https://calry.invalid"])
        .exits(1)
        .says("no connection to https://calry.invalid")
        .says("(given up after");
    assert!(began.elapsed() < Duration::from_secs(45));
}

#[test]
fn a_key_file_that_is_emptied_and_half_written_costs_reconciliations_and_no_more() {
    let mut world = world();
    let (path, key) = (world.dir.path().join("key"), world.sandbox.keys().write);
    fs::write(&path, &key).unwrap();
    world.env.remove("CALRY_API_KEY");
    world.env("CALRY_API_KEY_FILE", "key");
    let mut daemon = world.daemon(&["--interval", "1h"]);
    daemon.line("1 in sync");
    click(&world, "rooms");
    for (text, why) in [
        ("", "the file key is empty"),
        (&key[..key.len() / 2], "Calry does not know the API key"),
    ] {
        fs::write(&path, text).unwrap();
        let line = daemon.line(why);
        assert!(line.contains("(files) failed"), "{line}");
        assert!(!line.contains(&key[..key.len() / 2]), "{line}");
    }
    assert!(world.updates().is_empty());
    fs::write(&path, &key).unwrap();
    daemon.line("drift undone");
}

#[test]
fn a_process_that_was_frozen_reads_again_before_an_update() {
    let world = world();
    assert!(world.sandbox.modify("HOSTAWAY", |live| {
        live["fieldsToSync"]["rates"] = json!({"daily": true});
    }));
    let mut daemon = world.daemon(&["--interval", "1h"]);
    daemon.line("1 in sync");
    // The update of `listing` carries `rates`, which git does not manage.
    let reads = world.requests().len();
    world.sandbox.inject(
        Fault::once(FaultKind::Delay(Duration::from_millis(300)))
            .on(Method::GET)
            .at("/integration-definition"),
    );
    world.write("hostaway.yaml", &file("name, rooms"));
    until("Calry is asked", || world.requests().len() > reads);
    daemon.signal("STOP");
    let frozen = Instant::now();
    until("it has answered", || {
        let answered = world.requests()[reads].finished.is_some();
        answered && frozen.elapsed() > Duration::from_millis(1100)
    });
    assert!(world.sandbox.modify("HOSTAWAY", |live| {
        live["fieldsToSync"]["rates"] = json!({"daily": false});
    }));
    daemon.signal("CONT");
    until("the file is applied", || is_on(&world, "rooms"));
    assert_eq!(
        world.live("HOSTAWAY")["fieldsToSync"]["rates"],
        json!({"daily": false}),
        "the click was made after the answer and is lost"
    );
}

#[test]
fn without_free_file_descriptors_nothing_is_changed_and_it_recovers() {
    let world = world();
    let mut daemon = world.daemon(&["--interval", "1s"]);
    daemon.line("1 in sync");
    let pid = daemon.pid().to_string();
    let limit = |soft: &str| {
        let nofile = format!("--nofile={soft}:");
        let mut command = Command::new("prlimit");
        assert!(
            command
                .args(["--pid", &pid, &nofile])
                .status()
                .unwrap()
                .success()
        );
    };
    limit("3");
    click(&world, "pictures");
    world.write("hostaway.yaml", &file("name, rooms"));
    for _ in 0..2 {
        let line = daemon.line("failed after");
        assert!(line.contains("Too many open files"), "{line}");
    }
    assert!(world.updates().is_empty());
    limit("1024");
    until("it is in sync again", || {
        is_on(&world, "rooms") && !is_on(&world, "pictures")
    });
    assert_eq!(daemon.get("/healthz").code, 200);
}

/// A Calry that sends most of a list of 32 MiB to each request, and then nothing more.
fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = |mut stream: TcpStream| -> std::io::Result<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            if head.starts_with("get /api/v1/workspace ") {
                let (_, key) = head.split_once("x-calry-api-key: zepl.id.random.").unwrap();
                let name = key.lines().next().unwrap();
                let body = json!({"id": name, "name": name, "slug": name}).to_string();
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
                )?;
            } else {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n["
                )?;
                let part = vec![b' '; 1 << 20];
                (0..31).try_for_each(|_| stream.write_all(&part))?;
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    url
}

#[test]
fn large_answers_at_once_take_a_bounded_memory() {
    const COUNT: usize = 8;
    let mut world = World::default();
    world.env("CALRY_API_URL", &endless());
    let mut config = "interval: 1s\nrequestTimeout: 3s\ntimeout: 4s\nworkspaces:\n".to_owned();
    for n in 0..COUNT {
        config += &format!("  - {{name: w{n}, definitions: definitions, apiKeyFile: key-{n}}}\n");
        fs::write(
            world.dir.path().join(format!("key-{n}")),
            format!("zepl.id.random.{n}"),
        )
        .unwrap();
    }
    fs::write(world.dir.path().join("calry-gitops.yaml"), config).unwrap();
    world.write("hostaway.yaml", &file("name"));
    let mut daemon = world.daemon(&["--config", "calry-gitops.yaml"]);
    for _ in 0..COUNT {
        daemon.line("reconciliation 1 (start) failed");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(peak < 128 << 10, "{peak} KiB");
}
