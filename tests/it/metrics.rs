//! What Prometheus meets: the metrics of the real binary, read by a parser that takes nothing but what the format says.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::git_server::GitServer;
use crate::support::{Checkout, Daemon, World, live, repository, send, until};
use axum::http::{Method, StatusCode};
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};

fn file(provider: &str, fields: &str) -> String {
    format!("provider: {provider}\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// A workspace in which every one of these providers has `name` on, and `rooms` off.
fn world(providers: &[&str]) -> World {
    let definitions: Vec<Value> = providers
        .iter()
        .map(|p| live(p, &["name"], &["rooms"]))
        .collect();
    World::with(json!(definitions), Config::default())
}

/// A daemon that only files and requests wake, after its first reconciliation.
fn waiting(world: &World, args: &[&str]) -> Daemon {
    let mut daemon = world.daemon(&[&["--interval", "1h"], args].concat());
    daemon.line("reconciliation 1 ");
    daemon.address();
    daemon
}

/// Requests a reconciliation and waits for its end.
#[track_caller]
fn reconcile(daemon: &mut Daemon) {
    daemon.signal("HUP");
    daemon.line("(request)");
}

fn refusal(code: StatusCode, retry_after: Option<&str>) -> FaultKind {
    FaultKind::Status {
        code,
        message: "No.".to_owned(),
        retry_after: retry_after.map(str::to_owned),
    }
}

type Labels = BTreeMap<String, String>;

/// Every series with its value, by the name of its sample.
#[derive(Debug)]
struct Scrape(BTreeMap<(String, Labels), f64>);

impl Scrape {
    #[track_caller]
    fn of(daemon: &mut Daemon) -> Self {
        let answer = daemon.get("/metrics");
        assert_eq!(
            (answer.code, answer.header("content-type")),
            (200, Some("text/plain; version=0.0.4; charset=utf-8"))
        );
        // The body comes in chunks, as long as hexadecimal digits say.
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        let (mut text, mut rest) = (String::new(), answer.body.as_str());
        loop {
            let (length, after) = rest.split_once("\r\n").unwrap();
            let length = usize::from_str_radix(length, 16).unwrap();
            text.push_str(&after[..length]);
            rest = after[length..].strip_prefix("\r\n").unwrap();
            if length == 0 {
                return Self::parse(&text);
            }
        }
    }

    /// One family after the other, each once, with help and type before its samples, no series twice.
    #[track_caller]
    fn parse(text: &str) -> Self {
        let (mut series, mut families) = (BTreeMap::new(), BTreeSet::new());
        let mut lines = text
            .strip_suffix('\n')
            .expect("a line break at the end")
            .lines()
            .peekable();
        while let Some(line) = lines.next() {
            let (name, help) = line
                .strip_prefix("# HELP ")
                .unwrap()
                .split_once(' ')
                .unwrap();
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            assert!(help.ends_with('.') || help.ends_with(')'), "{line}");
            let kind = lines
                .next()
                .unwrap()
                .strip_prefix(&format!("# TYPE {name} "))
                .unwrap();
            let suffixes: &[&str] = match kind {
                "gauge" => &[""],
                "counter" => {
                    assert!(name.ends_with("_total"), "{name}");
                    &[""]
                }
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => panic!("{line}"),
            };
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (key, value) = sample(line);
                assert!(
                    suffixes
                        .iter()
                        .any(|suffix| key.0 == format!("{name}{suffix}")),
                    "{line} is not of {name}"
                );
                assert!(value >= 0.0, "{line}");
                assert!(series.insert(key, value).is_none(), "{line} comes twice");
            }
        }
        Self(series)
    }

    /// The value of the one series of this name that has these labels; others may come beside them.
    #[track_caller]
    fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |have: &Labels| {
            labels
                .iter()
                .all(|(label, value)| have.get(*label).is_some_and(|v| v == value))
        };
        let found: Vec<f64> = self
            .0
            .iter()
            .filter(|((n, l), _)| n == name && fits(l))
            .map(|(_, value)| *value)
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?} in {:#?}", self.0);
        found[0]
    }

    /// The sum over every series of this name with these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |have: &Labels| {
            labels
                .iter()
                .all(|(label, value)| have.get(*label).is_some_and(|v| v == value))
        };
        self.0
            .iter()
            .filter(|((n, l), _)| n == name && fits(l))
            .map(|(_, value)| value)
            .sum()
    }

    fn values(&self, label: &str) -> BTreeSet<&str> {
        self.0
            .keys()
            .filter_map(|(_, labels)| labels.get(label))
            .map(String::as_str)
            .collect()
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(|(name, _)| name.as_str()).collect()
    }
}

fn sample(line: &str) -> ((String, Labels), f64) {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, mut rest) = head.split_once('{').unwrap_or((head, "}"));
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    while rest != "}" {
        let (label, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(label), "{line}");
        let (mut text, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c} in {line}"),
                }),
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
        rest = after[end + 1..]
            .strip_prefix(',')
            .unwrap_or(&after[end + 1..]);
    }
    ((name.to_owned(), labels), value.parse().unwrap())
}

#[test]
fn before_the_first_reconciliation_ends_every_series_exists_and_nothing_is_counted() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let slow = FaultKind::Delay(crate::support::PATIENCE * 2);
    world
        .sandbox
        .inject(Fault::once(slow).on(Method::GET).times(9));
    let mut daemon = world.daemon(&["--timeout", "5m", "--interval", "90s"]);
    until("a read is under way", || !world.requests().is_empty());
    let scrape = Scrape::of(&mut daemon);
    for (name, value) in [
        ("calry_gitops_alive", 1.0),
        ("calry_gitops_ready", 0.0),
        ("calry_gitops_interval_seconds", 90.0),
        ("calry_gitops_last_success_timestamp_seconds", 0.0),
        ("calry_gitops_failed_passes_in_a_row", 0.0),
        ("calry_gitops_plan_refused", 0.0),
        ("calry_gitops_api_retries_total", 0.0),
        ("calry_gitops_api_rate_limit_waits_total", 0.0),
        ("calry_gitops_api_rate_limit_wait_seconds_total", 0.0),
        ("calry_gitops_pass_duration_seconds_count", 0.0),
    ] {
        assert_eq!(
            scrape.get(name, &[("workspace", "definitions")]),
            value,
            "{name}"
        );
    }
    for (name, series) in [
        ("calry_gitops_passes_total", 5 * 8),
        ("calry_gitops_api_requests_total", 2 * 10),
        ("calry_gitops_definitions", 7),
        ("calry_gitops_pending_updates", 2),
    ] {
        let found: Vec<f64> = scrape
            .0
            .iter()
            .filter(|((n, _), _)| n == name)
            .map(|(_, value)| *value)
            .collect();
        assert_eq!(found, vec![0.0; series], "{name}");
    }
    assert!(scrape.get("calry_gitops_next_pass_timestamp_seconds", &[]) > 1e9);
    assert_eq!(
        scrape.get(
            "calry_gitops_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))]
        ),
        1.0
    );
    let process = [
        "cpu_seconds_total",
        "resident_memory_bytes",
        "open_fds",
        "max_fds",
        "start_time_seconds",
        "threads",
    ];
    for name in process {
        let value = scrape.get(&format!("process_{name}"), &[]);
        assert!(value > 0.0 || name == "cpu_seconds_total", "{name}");
    }
}

#[test]
fn drift_is_counted_once_if_it_is_undone_and_once_if_it_stays() {
    for (mode, applied) in [("enforce", 2.0), ("observe", 0.0)] {
        let world = world(&["HOSTAWAY", "GUESTY", "TOKEET"]);
        world
            .write("hostaway.yaml", &file("HOSTAWAY", "name"))
            .write("guesty.yaml", &file("GUESTY", "name"));
        let mut daemon = waiting(&world, &["--mode", mode]);
        let before = Scrape::of(&mut daemon);
        assert_eq!(
            before.values("workspace"),
            BTreeSet::from(["acme-production"])
        );
        // What git does not manage has no series.
        assert_eq!(
            before.values("provider"),
            BTreeSet::from(["GUESTY", "HOSTAWAY"])
        );
        assert_eq!(before.sum("calry_gitops_drift_found_total", &[]), 0.0);
        let drift = || {
            assert!(world.sandbox.modify(
                "HOSTAWAY",
                |live| live["fieldsToSync"]["listing"]["rooms"] = json!(true)
            ));
        };
        drift();
        reconcile(&mut daemon);
        reconcile(&mut daemon);
        let scrape = Scrape::of(&mut daemon);
        assert_eq!(
            scrape.get(
                "calry_gitops_drift_found_total",
                &[("provider", "HOSTAWAY")]
            ),
            1.0,
            "{mode}"
        );
        assert_eq!(
            scrape.get("calry_gitops_drift_found_total", &[("provider", "GUESTY")]),
            0.0
        );
        let pending = scrape.get("calry_gitops_pending_updates", &[("cause", "drift")]);
        assert_eq!(pending, if mode == "observe" { 1.0 } else { 0.0 });
        if mode == "observe" {
            assert!(world.sandbox.modify(
                "HOSTAWAY",
                |live| live["fieldsToSync"]["listing"]["rooms"] = json!(false)
            ));
            reconcile(&mut daemon);
        }
        drift();
        reconcile(&mut daemon);
        let scrape = Scrape::of(&mut daemon);
        assert_eq!(
            scrape.get(
                "calry_gitops_drift_found_total",
                &[("provider", "HOSTAWAY")]
            ),
            2.0,
            "{mode}"
        );
        let updates = scrape.get(
            "calry_gitops_updates_total",
            &[("provider", "HOSTAWAY"), ("result", "applied")],
        );
        assert_eq!(updates, applied, "{mode}");
        assert_eq!(scrape.sum("calry_gitops_updates_total", &[]), applied);
        let patches = scrape.get(
            "calry_gitops_api_requests_total",
            &[("method", "PATCH"), ("status", "2xx")],
        );
        assert_eq!(patches, applied);
        let reads = scrape.get(
            "calry_gitops_api_requests_total",
            &[("method", "GET"), ("status", "2xx")],
        );
        assert_eq!(
            reads,
            world
                .requests()
                .iter()
                .filter(|request| request.method == "GET")
                .count() as f64
        );
        assert_eq!(
            scrape.get(
                "calry_gitops_api_request_duration_seconds_count",
                &[("method", "GET")]
            ),
            reads
        );
        assert_eq!(
            scrape.sum(
                "calry_gitops_passes_total",
                &[("trigger", "start"), ("result", "ok")]
            ),
            1.0
        );
        let passes = scrape.get("calry_gitops_pass_duration_seconds_count", &[]);
        assert_eq!(scrape.sum("calry_gitops_passes_total", &[]), passes);
        assert_eq!(
            scrape.get(
                "calry_gitops_workspace_info",
                &[("mode", mode), ("directory", "definitions")]
            ),
            1.0
        );
    }
}

#[test]
fn providers_are_counted_by_what_is_the_matter_with_them() {
    let world = world(&["AVANTIO", "BEDS24", "GUESTY", "LODGIFY", "SMOOBU", "TOKEET"]);
    let refused = Fault::once(refusal(StatusCode::BAD_REQUEST, None))
        .on(Method::PATCH)
        .at("/GUESTY")
        .times(99);
    world.sandbox.inject(refused);
    world
        .write("avantio.yaml", &file("AVANTIO", "name"))
        .write(
            "beds24.yaml",
            &format!(
                "{}hold: {{until: 2099-12-30, reason: OPS-1}}\n",
                file("BEDS24", "rooms")
            ),
        )
        .write("guesty.yaml", &file("GUESTY", "rooms"))
        .write("lodgify.yaml", "provider: LODGIFY\nicon: 5\n")
        .write("smoobu.yaml", &file("SMOOBU", "name, currency"))
        .write("nobody.yaml", "provider: NOBODY\n");
    let mut daemon = waiting(&world, &[]);
    let scrape = Scrape::of(&mut daemon);
    for (state, count) in [
        ("inSync", 1.0),
        ("update", 2.0),
        ("invalid", 1.0),
        ("missing", 1.0),
        ("held", 1.0),
        ("unmanaged", 1.0),
    ] {
        assert_eq!(
            scrape.get("calry_gitops_definitions", &[("state", state)]),
            count,
            "{state}"
        );
    }
    assert_eq!(scrape.get("calry_gitops_held_providers", &[]), 1.0);
    assert_eq!(
        scrape.get("calry_gitops_hold_end_timestamp_seconds", &[]),
        4_102_358_400.0,
        "2099-12-31T00:00:00Z"
    );
    assert_eq!(scrape.get("calry_gitops_failed_providers", &[]), 1.0);
    assert_eq!(scrape.get("calry_gitops_not_converged_providers", &[]), 1.0);
    assert_eq!(
        scrape.get(
            "calry_gitops_updates_total",
            &[("provider", "GUESTY"), ("result", "failed")]
        ),
        1.0
    );
    assert_eq!(
        scrape.get(
            "calry_gitops_updates_total",
            &[("provider", "SMOOBU"), ("result", "notConverged")]
        ),
        1.0
    );
    assert_eq!(
        scrape.get(
            "calry_gitops_api_requests_total",
            &[("method", "PATCH"), ("status", "4xx")]
        ),
        1.0
    );
    assert_eq!(
        scrape.get(
            "calry_gitops_passes_total",
            &[("result", "incomplete"), ("trigger", "start")]
        ),
        1.0
    );
    assert!(scrape.get("calry_gitops_last_success_timestamp_seconds", &[]) > 1e9);
    // A reconciliation during its back-off is no attempt.
    reconcile(&mut daemon);
    let scrape = Scrape::of(&mut daemon);
    assert_eq!(
        scrape.get(
            "calry_gitops_updates_total",
            &[("provider", "SMOOBU"), ("result", "notConverged")]
        ),
        1.0
    );
    assert_eq!(scrape.get("calry_gitops_not_converged_providers", &[]), 1.0);
}

#[test]
fn connection_failures_and_attempts_are_counted() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    let on = |method, kind| world.sandbox.inject(Fault::once(kind).on(method));
    on(Method::GET, refusal(StatusCode::SERVICE_UNAVAILABLE, None));
    on(Method::GET, FaultKind::DropBefore);
    on(
        Method::PATCH,
        refusal(StatusCode::TOO_MANY_REQUESTS, Some("1")),
    );
    let mut daemon = waiting(&world, &[]);
    // The update failed once, and is attempted again by another reconciliation.
    daemon.line("reconciliation 2 (update)");
    let scrape = Scrape::of(&mut daemon);
    let requests = |method, status| {
        scrape.get(
            "calry_gitops_api_requests_total",
            &[("method", method), ("status", status)],
        )
    };
    assert_eq!(
        (requests("GET", "5xx"), requests("GET", "connection")),
        (1.0, 1.0)
    );
    assert_eq!(
        (requests("PATCH", "429"), requests("PATCH", "2xx")),
        (1.0, 1.0)
    );
    assert_eq!(scrape.get("calry_gitops_api_retries_total", &[]), 2.0);
    assert!(scrape.get("calry_gitops_api_rate_limit_waits_total", &[]) >= 1.0);
    let waited = scrape.get("calry_gitops_api_rate_limit_wait_seconds_total", &[]);
    assert!((1.0..2.0).contains(&waited), "{waited}");

    world.sandbox.inject(
        Fault::once(refusal(StatusCode::UNAUTHORIZED, None))
            .on(Method::GET)
            .times(2),
    );
    let before = scrape.get("calry_gitops_last_success_timestamp_seconds", &[]);
    for failed in 1..=2 {
        reconcile(&mut daemon);
        let scrape = Scrape::of(&mut daemon);
        assert_eq!(
            scrape.get("calry_gitops_failed_passes_in_a_row", &[]),
            f64::from(failed)
        );
        assert_eq!(
            scrape.get("calry_gitops_last_success_timestamp_seconds", &[]),
            before
        );
        assert_eq!(
            scrape.sum("calry_gitops_api_requests_total", &[("status", "401")]),
            f64::from(failed)
        );
    }
    reconcile(&mut daemon);
    let scrape = Scrape::of(&mut daemon);
    assert_eq!(scrape.get("calry_gitops_failed_passes_in_a_row", &[]), 0.0);
    assert!(scrape.get("calry_gitops_last_success_timestamp_seconds", &[]) > before);
}

#[test]
fn a_refused_plan_is_pending_until_it_is_not_refused() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "rooms"))
        .write("guesty.yaml", &file("GUESTY", "rooms"));
    let mut daemon = waiting(&world, &["--max-changes", "1"]);
    let scrape = Scrape::of(&mut daemon);
    assert_eq!(scrape.get("calry_gitops_plan_refused", &[]), 1.0);
    assert_eq!(
        scrape.get("calry_gitops_last_success_timestamp_seconds", &[]),
        0.0
    );
    world.write("guesty.yaml", &file("GUESTY", "name"));
    daemon.line("(files)");
    let scrape = Scrape::of(&mut daemon);
    assert_eq!(scrape.get("calry_gitops_plan_refused", &[]), 0.0);
    assert_eq!(
        scrape.get(
            "calry_gitops_passes_total",
            &[("result", "applied"), ("trigger", "files")]
        ),
        1.0
    );
    assert!(
        scrape.get("calry_gitops_watcher_events_total", &[])
            + scrape.get("calry_gitops_watcher_polls_total", &[])
            > 0.0
    );
}

#[test]
fn series_of_what_is_gone_go_away() {
    let world = world(&["HOSTAWAY", "GUESTY"]);
    world
        .write("hostaway.yaml", &file("HOSTAWAY", "name"))
        .write("guesty.yaml", &file("GUESTY", "name"));
    let checkout = Checkout::of(world);
    let mut daemon = waiting(&checkout.world, &[]);
    let first = checkout.main.to_string();
    assert_eq!(
        Scrape::of(&mut daemon).values("revision"),
        BTreeSet::from([first.as_str()])
    );
    std::fs::remove_file(checkout.world.definitions().join("guesty.yaml")).unwrap();
    let second = checkout
        .commit("refs/heads/main", &[checkout.main])
        .to_string();
    daemon.line("(files)");
    reconcile(&mut daemon);
    let scrape = Scrape::of(&mut daemon);
    assert_eq!(scrape.values("revision"), BTreeSet::from([second.as_str()]));
    assert_eq!(scrape.values("provider"), BTreeSet::from(["HOSTAWAY"]));
    assert_eq!(scrape.get("calry_gitops_revision_info", &[]), 1.0);
}

#[test]
fn nothing_secret_and_nothing_that_only_a_host_of_ours_may_read_is_told() {
    const SECRET: &str = "s3cr3t-c4n4ry-value";
    let mut world = world(&["HOSTAWAY"]);
    world.env("CALRY_SECRET_HOSTAWAY", SECRET);
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: \"${secret:hostaway}\"}\nfieldsToSync:\n  listing: [name]\n",
    );
    let mut daemon = waiting(&world, &[]);
    world
        .sandbox
        .inject(Fault::once(FaultKind::EchoBodyInError).on(Method::PATCH));
    assert!(world.sandbox.modify(
        "HOSTAWAY",
        |live| live["partnerKey"]["headers"]["x-api-key"] = json!("t4mp3r3d-v4lu3")
    ));
    reconcile(&mut daemon);
    let body = daemon.get("/metrics").body;
    for secret in [SECRET, "t4mp3r3d-v4lu3", "x-api-key", "zepl."] {
        assert!(!body.contains(secret), "{secret}");
    }
    let address = daemon.address();
    let foreign = send(
        &address,
        "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    );
    assert!(
        foreign.code == 421 && !foreign.body.contains("HOSTAWAY"),
        "{foreign:?}"
    );
}

#[test]
fn a_provider_costs_five_series_and_a_workspace_about_a_hundred() {
    let names: Vec<String> = (0..20).map(|n| format!("PROVIDER_{n}")).collect();
    let world = world(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut daemon = waiting(&world, &[]);
    let none = Scrape::of(&mut daemon).0.len();
    for name in &names {
        world.write(
            &format!("{}.yaml", name.to_lowercase()),
            &file(name, "name"),
        );
    }
    until("all are managed", || {
        Scrape::of(&mut daemon).values("provider").len() == 20
    });
    assert_eq!(Scrape::of(&mut daemon).0.len() - none, 20 * 5);
    assert!(none <= 8 + 130, "{none}");
}

/// The flags of a daemon whose notification target does not exist.
fn notifying(world: &World) -> [&'static str; 2] {
    let text = format!(
        "notifications:\n  - name: ops\n    webhook: {{url: '{}/nowhere'}}\n",
        world.sandbox.url()
    );
    std::fs::write(world.dir.path().join("calry-gitops.yaml"), text).unwrap();
    ["--config", "calry-gitops.yaml"]
}

#[test]
fn what_becomes_of_notifications_is_counted_from_zero() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let mut daemon = waiting(&world, &notifying(&world));
    let counted = |daemon: &mut Daemon| {
        let scrape = Scrape::of(daemon);
        ["sent", "failed", "dropped"].map(|result| {
            scrape.get(
                "calry_gitops_notifications_total",
                &[("target", "ops"), ("result", result)],
            ) as u64
        })
    };
    assert_eq!(counted(&mut daemon), [0, 0, 0]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    until("it was given up", || counted(&mut daemon) == [0, 1, 0]);
}

#[test]
fn fetches_of_a_repository_are_counted_by_result() {
    let (server, world) = (GitServer::start(), world(&["HOSTAWAY"]));
    let file = file("HOSTAWAY", "name");
    let id = server.commit("main", &[("definitions/hostaway.yaml", &file)]);
    let url = server.url();
    let mut daemon = world.daemon(&["--git-url", &url, "--git-interval", "1s"]);
    daemon.line("reconciliation 1 ");
    let labels = |label, value| {
        [
            ("repository", url.as_str()),
            ("reference", "HEAD"),
            (label, value),
        ]
    };
    let scrape = Scrape::of(&mut daemon);
    let name = "calry_gitops_git_fetches_total";
    assert!(scrape.get(name, &labels("result", "success")) >= 1.0);
    assert_eq!(scrape.get(name, &labels("result", "reference")), 0.0);
    assert_eq!(scrape.sum("calry_gitops_git_failing", &[]), 0.0);
    assert_eq!(scrape.get("calry_gitops_git_interval_seconds", &[]), 1.0);
    let time = scrape.get("calry_gitops_git_last_success_timestamp_seconds", &[]);
    assert!(time > 1.7e9);
    server.set("refs/heads/main", None);
    daemon.line("cannot fetch");
    until("the failure is a series", || {
        let scrape = Scrape::of(&mut daemon);
        scrape.get("calry_gitops_git_failing", &labels("reason", "reference")) == 1.0
            && scrape.sum("calry_gitops_git_failing", &[]) == 1.0
            && scrape.get(name, &labels("result", "reference")) >= 1.0
    });
    server.set("refs/heads/main", Some(&id));
    daemon.line("can be fetched again");
    until("it is over", || {
        Scrape::of(&mut daemon).sum("calry_gitops_git_failing", &[]) == 0.0
    });
    let scrape = Scrape::of(&mut daemon);
    assert!(scrape.get("calry_gitops_git_fetch_seconds_total", &[]) > 0.0);
}

/// Every name of a metric of ours, or of a process, that a text speaks of.
fn spoken_of(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("calry_gitops_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn rules_and_dashboard_speak_of_nothing_that_is_not_exported() {
    let checkout = {
        let mut world = world(&["HOSTAWAY"]);
        world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
        // An API server that is not there.
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:9"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "users": [{"name": "it", "user": {}}],
        });
        let path = world.dir.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        world.env("KUBECONFIG", path.to_str().unwrap());
        Checkout::of(world)
    };
    let main = checkout.main.to_string();
    let args = [
        notifying(&checkout.world).as_slice(),
        &["--trusted-revision", &main, "--leader-election"],
    ]
    .concat();
    let mut daemon = waiting(&checkout.world, &args);
    let scrape = Scrape::of(&mut daemon);
    assert_eq!(scrape.get("calry_gitops_revision_trusted", &[]), 1.0);
    assert_eq!(scrape.get("calry_gitops_leader", &[]), 0.0);
    // A repository in place of a directory has further metrics.
    let mut fetching = checkout
        .world
        .daemon(&["--git-url", "http://127.0.0.1:9/defs.git"]);
    fetching.line("reconciliation 1 ");
    let fetching = Scrape::of(&mut fetching);
    let exported: BTreeSet<&str> = scrape.names().union(&fetching.names()).copied().collect();
    for name in ["calry-gitops.rules.yaml", "calry-gitops.dashboard.json"] {
        let text =
            std::fs::read_to_string(repository().join("deploy/monitoring").join(name)).unwrap();
        let spoken_of = spoken_of(&text);
        assert!(spoken_of.len() > 10, "{name}: {spoken_of:?}");
        let unknown: Vec<_> = spoken_of.difference(&exported).copied().collect();
        assert!(unknown.is_empty(), "{name} speaks of {unknown:?}");
    }
}

#[test]
fn the_dashboard_lets_data_source_and_workspace_be_chosen_in_every_panel() {
    let text =
        std::fs::read_to_string(repository().join("deploy/monitoring/calry-gitops.dashboard.json"))
            .unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let variables: Vec<_> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["name"])
        .collect();
    assert_eq!(variables, ["datasource", "workspace"]);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel:#}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let expression = target["expr"].as_str().unwrap();
            let of_a_workspace = expression.contains("workspace=~\"$workspace\"");
            let of_the_process =
                expression.contains("process_") || expression.contains("build_info");
            // A repository may belong to several workspaces.
            let of_a_repository = expression.contains("calry_gitops_git_");
            assert!(
                of_a_workspace || of_the_process || of_a_repository,
                "{expression}"
            );
        }
    }
}
