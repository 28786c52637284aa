//! Several replicas and a stand-in for the API server that keeps one Lease and takes Events. What needs a real one is in
//! tests/cluster.sh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::support::{Daemon, World, get, live, send, until};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) leases: BTreeMap<String, Value>,
    /// Who held the Lease in turn.
    holders: Vec<String>,
    events: Vec<Value>,
    version: u64,
    /// The status of every answer.
    out_of_order: Option<u16>,
    /// What is written is written, and never answered.
    mute: bool,
}

type Server = Arc<Mutex<Kept>>;

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let write = request.method() != Method::GET;
    let answer = carry_out(&server, request).await;
    if write && server.lock().unwrap().mute {
        std::future::pending::<()>().await;
    }
    answer
}

async fn carry_out(server: &Server, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20)
        .await
        .unwrap();
    let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut kept = server.lock().unwrap();
    let status = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
        (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
    };
    if let Some(code) = kept.out_of_order {
        return status(code, "it is out of order");
    }
    kept.version += 1;
    let version = kept.version.to_string();
    match path.rsplit_once("/namespaces/calry/").unwrap() {
        ("/apis/events.k8s.io/v1", "events") => {
            kept.events.push(body.clone());
            (StatusCode::CREATED, Json(body)).into_response()
        }
        ("/apis/coordination.k8s.io/v1", lease) => {
            let name = lease
                .strip_prefix("leases")
                .unwrap()
                .trim_start_matches('/')
                .to_owned();
            match method {
                Method::GET => kept
                    .leases
                    .get(&name)
                    .map_or_else(|| status(404, "NotFound"), |l| Json(l).into_response()),
                Method::POST => {
                    let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                    if kept.leases.contains_key(&name) {
                        return status(409, "AlreadyExists");
                    }
                    body["metadata"]["resourceVersion"] = json!(version);
                    kept.leases.insert(name, body.clone());
                    (StatusCode::CREATED, Json(body)).into_response()
                }
                _ if !kept.leases.contains_key(&name) => status(404, "NotFound"),
                _ if kept.leases[&name]["metadata"]["resourceVersion"]
                    != body["metadata"]["resourceVersion"] =>
                {
                    status(409, "Conflict")
                }
                _ => {
                    body["metadata"]["resourceVersion"] = json!(version);
                    let holder = body["spec"]["holderIdentity"].as_str().unwrap().to_owned();
                    if kept.holders.last() != Some(&holder) {
                        kept.holders.push(holder);
                    }
                    kept.leases.insert(name, body.clone());
                    Json(body).into_response()
                }
            }
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) struct Replicas {
    pub(crate) world: World,
    server: Server,
    _runtime: Runtime,
}

impl Replicas {
    pub(crate) fn new() -> Self {
        let mut world = World::with(
            json!([live("HOSTAWAY", &["name"], &["rooms"])]),
            Config::default(),
        );
        world.write("hostaway.yaml", &file("name"));
        let (runtime, server) = (Runtime::new().unwrap(), Server::default());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&server));
        runtime.spawn(async move { axum::serve(listener, router).await });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": url}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "calry"}}],
            "users": [{"name": "it", "user": {"token": "hunter2"}}],
        });
        let path = world.dir.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        world.env("KUBECONFIG", path.to_str().unwrap());
        Self {
            world,
            server,
            _runtime: runtime,
        }
    }

    pub(crate) fn start(&mut self, pod: &str, more: &[&str]) -> Daemon {
        self.world.env("POD_NAME", pod).env("POD_UID", "1234");
        let args = [
            "--leader-election",
            "--kubernetes-events",
            "--interval=1h",
            "--lease-duration=2s",
            "--lease-renew-deadline=1s",
            "--lease-retry-period=200ms",
        ];
        self.world.daemon(&[&args, more].concat())
    }

    pub(crate) fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.server.lock().unwrap())
    }
}

fn file(fields: &str) -> String {
    format!("provider: HOSTAWAY\nfieldsToSync:\n  listing: [{fields}]\n")
}

fn post(daemon: &mut Daemon, path: &str) -> crate::support::Answer {
    let address = daemon.address();
    send(
        &address,
        &format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"),
    )
}

#[test]
fn one_replica_writes_and_the_other_stands_by_ready_and_takes_over_when_the_first_one_ends() {
    let mut replicas = Replicas::new();
    let mut one = replicas.start("one", &[]);
    one.line("created the Lease calry/calry-gitops");
    one.line("leads by the Lease calry/calry-gitops");
    one.line("(leadership)");
    let mut other = replicas.start("other", &[]);
    other.line("this replica is a standby: one_");
    other.line("(standby: nothing is written)");

    assert_eq!(get(&other.address(), "/readyz", "").code, 200);
    let holder = replicas.kept(|kept| kept.holders.last().cloned()).unwrap();
    let leadership =
        |state: &str| json!({"lease": "calry/calry-gitops", "state": state, "holder": holder});
    assert_eq!(one.status()["leadership"], leadership("leader"));
    assert_eq!(other.status()["leadership"], leadership("standby"));
    assert!(
        one.get("/metrics")
            .body
            .contains("\ncalry_gitops_leader{workspace=\"acme-production\"} 1\n")
    );
    assert!(
        other
            .get("/metrics")
            .body
            .contains("\ncalry_gitops_leader{workspace=\"acme-production\"} 0\n")
    );
    for path in [
        "/api/v1/reconcile",
        "/api/v1/reconcile?workspace=acme-production",
    ] {
        let refused = post(&mut other, path);
        assert_eq!(refused.code, 409, "{refused:?}");
        assert!(
            refused.body.contains(&format!("{holder} leads")),
            "{refused:?}"
        );
    }
    assert_eq!(post(&mut one, "/api/v1/reconcile").code, 202);

    // Both see the change, and one of them writes.
    replicas.world.write("hostaway.yaml", &file("name, rooms"));
    one.line("HOSTAWAY updated");
    other.line("(files)");
    assert_eq!(replicas.world.updates().len(), 1);

    one.signal("TERM");
    assert_eq!(one.wait(), Some(0));
    other.line("leads by the Lease");
    let holders = replicas.kept(|kept| kept.holders.clone());
    assert_eq!(holders.len(), 3);
    assert!(
        holders[0].starts_with("one_") && holders[1].is_empty() && holders[2].starts_with("other_"),
        "{holders:?}"
    );
    replicas.world.write("hostaway.yaml", &file("name"));
    other.line("HOSTAWAY updated");
    assert_eq!(replicas.world.updates().len(), 2);
}

#[test]
fn a_lease_is_not_released_while_an_update_without_an_answer_may_be_under_way() {
    let mut replicas = Replicas::new();
    let mut one = replicas.start("one", &[]);
    one.line("(leadership)");
    replicas
        .world
        .sandbox
        .inject(Fault::once(FaultKind::DropAfter).on(Method::PATCH));
    replicas.world.write("hostaway.yaml", &file("name, rooms"));
    one.line("HOSTAWAY updated");
    one.signal("TERM");
    one.line(
        "the Lease calry/calry-gitops was not released and expires by itself: an update was given up that may still be under way",
    );
    assert_eq!(one.wait(), Some(0));
    assert!(replicas.kept(|kept| kept.holders.last().unwrap().starts_with("one_")));
}

#[test]
fn a_lease_that_was_taken_without_an_answer_is_released_at_the_end() {
    let mut replicas = Replicas::new();
    let mut one = replicas.start("one", &[]);
    one.line("created the Lease");
    replicas.kept(|kept| kept.mute = true);
    until("it is taken", || {
        replicas.kept(|kept| kept.holders.len() == 1)
    });
    replicas.kept(|kept| kept.mute = false);
    one.signal("TERM");
    one.line("the Lease calry/calry-gitops is released");
    assert_eq!(one.wait(), Some(0));
}

#[test]
fn a_replica_that_cannot_read_hands_its_lease_to_one_that_can() {
    let mut replicas = Replicas::new();
    let mut one = replicas.start("one", &["--definitions=elsewhere"]);
    one.line("(start) failed");
    let mut other = replicas.start("other", &[]);
    other.line("leads by the Lease");
    other.line("(leadership)");
    let (here, elsewhere) = (
        replicas.world.definitions(),
        replicas.world.dir.path().join("elsewhere"),
    );
    let aside = here.with_file_name("aside");
    std::fs::rename(&here, &aside).unwrap();
    other.line("(files) failed");
    until("the other has failed three times", || {
        assert_eq!(post(&mut other, "/api/v1/reconcile").code, 202);
        other.status()["lastPass"]["times"].as_u64() >= Some(3)
    });
    assert_eq!(
        replicas.kept(|kept| kept.holders.len()),
        1,
        "no other replica can lead with it"
    );
    std::fs::rename(&aside, &elsewhere).unwrap();
    one.line("leads by the Lease");
    other.line("no longer leads by the Lease calry/calry-gitops");
}

#[test]
fn without_the_api_server_no_replica_writes_until_it_is_back() {
    let mut replicas = Replicas::new();
    let mut one = replicas.start("one", &[]);
    one.line("(leadership)");
    replicas.kept(|kept| kept.out_of_order = Some(503));
    one.line("cannot read or renew the Lease calry/calry-gitops: it is out of order (503); this replica leads for");
    one.line("no longer leads by the Lease calry/calry-gitops; it writes nothing");
    replicas.world.write("hostaway.yaml", &file("name, rooms"));
    let line = one.line("(standby: nothing is written): 1 to update");
    // A standby checks soon whether the leader has fixed it, not after the interval of an hour.
    let next = line.rsplit_once("next in ").unwrap().1;
    assert!(
        next.starts_with(['4', '5']) && next.ends_with('s') && !next.contains('m'),
        "{line}"
    );
    assert_eq!(one.status()["leadership"]["state"], "standby");
    assert_eq!(replicas.world.updates().len(), 0);
    replicas.kept(|kept| kept.out_of_order = None);
    one.line("leads by the Lease");
    one.line("HOSTAWAY updated");
    assert_eq!(replicas.world.updates().len(), 1);
}

#[test]
fn only_the_leader_writes_events_of_a_change_a_drift_and_a_failure_on_the_pod() {
    let mut replicas = Replicas::new();
    let mut one = replicas.start("one", &[]);
    one.line("(leadership)");
    let mut other = replicas.start("other", &[]);
    other.line("this replica is a standby: one_");
    replicas.world.write("hostaway.yaml", &file("name, rooms"));
    one.line("HOSTAWAY updated");
    one.line("(files)");
    replicas.world.sandbox.modify("HOSTAWAY", |live| {
        live["icon"] = json!("https://x.example/drift.png")
    });
    replicas.world.write(
        "hostaway.yaml",
        &format!("icon: https://x.example/a.png\n{}", file("name, rooms")),
    );
    one.line("HOSTAWAY updated");
    one.line("(files)");
    replicas.world.sandbox.modify("HOSTAWAY", |live| {
        live["icon"] = json!("https://x.example/drift.png")
    });
    assert_eq!(post(&mut one, "/api/v1/reconcile").code, 202);
    one.line("HOSTAWAY drifted; drift undone");
    one.line("(request)");
    std::fs::remove_file(replicas.world.definitions().join("hostaway.yaml")).unwrap();
    one.line("(files) failed");
    other.line("(files) failed");
    let events = || replicas.kept(|kept| kept.events.clone());
    until("all Events are written", || events().len() == 5);
    let reasons: Vec<Value> = events()
        .iter()
        .map(|event| event["reason"].clone())
        .collect();
    assert_eq!(
        reasons,
        [
            "LeaderElected",
            "ChangeApplied",
            "ChangeApplied",
            "DriftFound",
            "ReconcileFailed"
        ]
    );
    for event in events() {
        let regarding = json!({"apiVersion": "v1", "kind": "Pod", "name": "one", "namespace": "calry", "uid": "1234"});
        assert_eq!(event["regarding"], regarding);
        assert!(
            event["metadata"]["name"]
                .as_str()
                .unwrap()
                .starts_with("one.")
        );
    }
    let note = "acme-production: drift was found: HOSTAWAY undone (icon)";
    assert_eq!(
        (&events()[3]["note"], &events()[3]["type"]),
        (&json!(note), &json!("Warning"))
    );
}

#[test]
fn several_workspaces_are_spread_over_the_replicas_and_taken_over_and_spread_again() {
    let mut replicas = Replicas::new();
    let names = ["acme", "globex", "initech", "hooli", "umbrella", "tyrell"];
    let dir = replicas.world.dir.path().to_owned();
    let mut text = "workspaces:\n".to_owned();
    let mut worlds = Vec::new();
    for (n, name) in names.into_iter().enumerate() {
        let seed = json!({"workspace": {"id": format!("5f0c1f7e-0000-4000-8000-{n:012}"), "name": name, "slug": name, "defaultCurrency": "EUR",
            "createdAt": "2026-01-01T00:00:00.000Z", "updatedAt": "2026-01-01T00:00:00.000Z"},
            "definitions": [live("HOSTAWAY", &["name"], &["rooms"])]});
        let seed = calry_gitops::sandbox::Seed::parse(seed.to_string().as_bytes()).unwrap();
        let world = World::new(Config {
            seed,
            ..Config::default()
        });
        std::fs::create_dir(dir.join(name)).unwrap();
        std::fs::write(dir.join(name).join("hostaway.yaml"), file("rooms")).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), &world.sandbox.keys().write).unwrap();
        text += &format!(
            "  - name: {name}\n    definitions: {name}\n    apiUrl: {}\n    apiKeyFile: {name}.key\n",
            world.sandbox.url()
        );
        worlds.push(world);
    }
    std::fs::write(dir.join("calry-gitops.yaml"), text).unwrap();
    replicas.world.env.remove("CALRY_API_URL");
    replicas.world.env.remove("CALRY_API_KEY");
    let more = ["--shards=3", "--config=calry-gitops.yaml"];
    let leading = |daemon: &mut Daemon| {
        let status = daemon.get("/api/v1/status").json();
        let all = status["workspaces"].as_array().unwrap();
        let leases = all
            .iter()
            .filter(|one| one["leadership"]["state"] == "leader");
        leases
            .map(|one| one["leadership"]["lease"].as_str().unwrap().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let held = |replicas: &Replicas, pod: &str| {
        replicas.kept(|kept| {
            let holders = kept
                .leases
                .values()
                .filter_map(|lease| lease["spec"]["holderIdentity"].as_str());
            holders.filter(|holder| holder.starts_with(pod)).count()
        })
    };
    let mut one = replicas.start("one_", &more);
    until("the first one has all", || held(&replicas, "one_") == 3);
    let mut other = replicas.start("other", &more);
    until("they are spread", || {
        (held(&replicas, "one_"), held(&replicas, "other")) == (2, 1)
    });
    for world in &worlds {
        until("each workspace is kept", || world.updates().len() == 1);
    }
    until("no workspace has two leaders", || {
        let (here, there) = (leading(&mut one), leading(&mut other));
        here.is_disjoint(&there) && !here.is_empty() && !there.is_empty()
    });
    drop(other);
    until("one takes all over", || held(&replicas, "one_") == 3);
    let _other = replicas.start("other", &more);
    until("they are spread again", || {
        (held(&replicas, "one_"), held(&replicas, "other")) == (2, 1)
    });
    one.signal("TERM");
    assert_eq!(one.wait(), Some(0));
    until("all are handed over", || held(&replicas, "other") == 3);
    // Nothing was written twice.
    assert!(worlds.iter().all(|world| world.updates().len() == 1));
}

#[test]
fn who_may_not_use_leases_is_told_what_it_needs_and_writes_nothing() {
    let mut replicas = Replicas::new();
    replicas.kept(|kept| kept.out_of_order = Some(403));
    let mut one = replicas.start("one", &[]);
    let line = one.line("cannot read or renew the Lease");
    assert!(
        line.contains(
            "its service account needs `create` on leases, and `get` and `update` on this one"
        ),
        "{line}"
    );
    one.line("(standby: nothing is written)");
    let unready = one.get("/readyz");
    assert!(
        unready.code == 503 && unready.body.contains("the Lease has not been read yet"),
        "{unready:?}"
    );
    let address = format!("http://{}", one.address());
    let status = replicas.world.run(&["status", "--address", &address]);
    status
        .exits(1)
        .says("no known holder of the Lease calry/calry-gitops; this replica is a standby");
    one.signal("TERM");
    assert_eq!(one.wait(), Some(0));
    assert!(!one.seen.join("").contains("hunter2"));
    assert_eq!(replicas.world.updates().len(), 0);
}

#[test]
fn flags_of_an_election_that_make_no_sense_together_are_refused() {
    let replicas = Replicas::new();
    for (args, why) in [
        (
            &["--leader-election", "--once"][..],
            "without --leader-election",
        ),
        (&["--shards=2"], "needs --leader-election"),
        (
            &["--leader-election", "--lease-duration=10s"],
            "1s longer than --lease-renew-deadline",
        ),
        (
            &["--leader-election", "--lease-retry-period=6s"],
            "at most half of --lease-renew-deadline",
        ),
        (
            &["--leader-election", "--shards=65"],
            "a number from 1 to 64",
        ),
        (
            &["--leader-election", "--lease-name=Calry"],
            "must consist of lower-case letters",
        ),
    ] {
        let ran = replicas.world.run(&[&["run"], args].concat());
        ran.exits(64).says(why);
    }
}

#[test]
fn an_election_without_a_cluster_is_an_error_that_says_what_is_missing() {
    let mut replicas = Replicas::new();
    replicas.world.env("KUBECONFIG", "/nowhere/kubeconfig");
    let ran = replicas.world.run(&["run", "--leader-election"]);
    ran.exits(1)
        .says("cannot find an API server")
        .says("set KUBECONFIG");
    let replicas = Replicas::new();
    let ran = replicas.world.run(&["run", "--kubernetes-events"]);
    ran.exits(1)
        .says("set POD_NAME, POD_NAMESPACE and POD_UID by the downward API");
}
