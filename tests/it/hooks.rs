//! Push hooks of a daemon that fetches from a git server: what is fetched, what is ignored, and the way to the leader.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::leadership::Replicas;
use crate::support::git_server::{GitFault, GitServer, Step};
use crate::support::{Answer, Daemon, World, live, send, until};
use calry_gitops::sandbox::Config;

const SECRET: &str = "a-secret-that-is-never-guessed-0123456789";

fn file(fields: &str) -> String {
    format!("provider: HOSTAWAY\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// Commits the definitions to the branch `main`. Returns the id of the commit.
fn commit(server: &GitServer, fields: &str) -> String {
    server.commit("main", &[("definitions/hostaway.yaml", &file(fields))])
}

fn world() -> World {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &["rooms", "pictures"])]),
        Config::default(),
    );
    secret(&world);
    world
}

/// Writes the secret of the hooks. Returns its path.
fn secret(world: &World) -> String {
    let path = world.dir.path().join("hook-secret");
    std::fs::write(&path, SECRET).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The options of a daemon that fetches only after a hook.
fn options(url: &str, secret: &str) -> Vec<String> {
    [
        "--git-url",
        url,
        "--git-interval=1h",
        "--interval=1h",
        "--github-hook-secret-file",
        secret,
        "--gitlab-hook-secret-file",
        secret,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn started(world: &World, server: &GitServer, more: &[&str]) -> Daemon {
    let options = options(&server.url(), &secret(world));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut daemon = world.daemon(&[&options, more].concat());
    daemon.line("reconciliation 1 ");
    server.take_steps();
    daemon
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key)
        .unwrap()
        .chain_update(message)
        .finalize()
        .into_bytes()
        .to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn post(address: &str, path: &str, more: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{more}");
    send(
        address,
        &format!("{head}Content-Length: {length}\r\n\r\n{body}"),
    )
}

/// A push as GitHub sends it.
fn hook(address: &str, body: &str) -> Answer {
    let signature = hex(&hmac(SECRET.as_bytes(), body.as_bytes()));
    let more = format!(
        "X-GitHub-Event: push\r\nX-GitHub-Delivery: 72d3162e\r\nX-Hub-Signature-256: sha256={signature}\r\n"
    );
    post(address, "/hooks/github", &more, body)
}

fn push(reference: &str, commit: &str) -> String {
    json!({"ref": reference, "after": commit}).to_string()
}

/// The number of fetches, each of which begins with a list of the references.
fn fetches(server: &GitServer) -> usize {
    let steps = server.take_steps();
    steps.iter().filter(|step| **step == Step::List).count()
}

#[track_caller]
fn is_ignored(answer: &Answer, sentence: &str) {
    let ignored = answer.json()["ignored"].as_str().map(str::to_owned);
    assert_eq!((answer.code, ignored.as_deref()), (200, Some(sentence)));
}

#[test]
fn a_push_is_fetched_and_applied_at_once() {
    let (world, server) = (world(), GitServer::start());
    commit(&server, "name");
    let mut daemon = started(&world, &server, &[]);
    let id = commit(&server, "name, rooms");
    let answer = hook(&daemon.address(), &push("refs/heads/main", &id));
    let asked = json!({
        "asked": "fetch", "repositories": [server.url()], "workspaces": ["acme-production"], "delivery": "72d3162e",
    });
    assert_eq!((answer.code, answer.json()), (202, asked));
    daemon.line(&format!(
        "requested /hooks/github: a fetch of {} (delivery 72d3162e)",
        server.url()
    ));
    daemon.line("HOSTAWAY updated");
    until("the reconciliation has ended", || {
        daemon.status()["lastPass"]["number"] == 2
    });
    assert_eq!(daemon.status()["lastPass"]["trigger"], "hook");
    assert_eq!(daemon.status()["revision"]["commit"], id.as_str());
    // GitLab's hook, which names another reference that it moved.
    let id = commit(&server, "name");
    let more = format!("X-Gitlab-Event: Push Hook\r\nX-Gitlab-Token: {SECRET}\r\n");
    let body = json!({"ref": "refs/heads/main", "checkout_sha": id}).to_string();
    let answer = post(&daemon.address(), "/hooks/gitlab", &more, &body);
    assert_eq!(
        (answer.code, &answer.json()["delivery"]),
        (202, &Value::Null)
    );
    daemon.line("HOSTAWAY updated");
}

#[test]
fn a_push_to_another_reference_is_ignored_and_one_that_is_not_understood_is_fetched() {
    let (world, server) = (world(), GitServer::start());
    let id = commit(&server, "name");
    let mut daemon = started(&world, &server, &[]);
    let address = daemon.address();
    let of = |url: &str, reference: &str| {
        let body = json!({"ref": reference, "after": id, "repository": {"clone_url": url}});
        hook(&address, &body.to_string())
    };
    let elsewhere = "https://github.com/acme/other.git";
    is_ignored(
        &hook(&address, &push("refs/heads/topic", &id)),
        "no workspace follows refs/heads/topic",
    );
    is_ignored(
        &of("https://127.0.0.1/acme/definitions", "refs/tags/main"),
        "no workspace follows refs/tags/main",
    );
    is_ignored(
        &of(elsewhere, "refs/heads/topic"),
        "no workspace follows refs/heads/topic of github.com/acme/other",
    );
    let many: Vec<Value> = (0..5)
        .map(|n| json!({"ref": {"id": format!("refs/heads/{n}")}}))
        .collect();
    is_ignored(
        &hook(&address, &json!({"changes": many}).to_string()),
        "no workspace follows refs/heads/0, refs/heads/1, refs/heads/2 and 2 more",
    );
    daemon.line("ignored: no workspace follows refs/heads/0");
    assert_eq!(fetches(&server), 0);
    // The address may be that of a mirror, so the reference decides.
    let body = |url: &str| {
        json!({"ref": "refs/heads/main", "after": id, "repository": {"clone_url": url}}).to_string()
    };
    for body in [
        body("https://127.0.0.1/acme/definitions"),
        body(elsewhere),
        String::new(),
        "{\"ref\": 5}".to_owned(),
    ] {
        assert_eq!(hook(&address, &body).code, 202, "{body}");
        until("it is fetched", || fetches(&server) == 1);
    }
}

#[test]
fn of_several_repositories_the_one_that_the_push_names_is_fetched() {
    let (mut world, one, other) = (world(), GitServer::start(), GitServer::start());
    commit(&one, "name");
    commit(&other, "name");
    // The address has another host, because ports are not compared.
    let other_url = other.url().replace("127.0.0.1", "localhost");
    // Calry's answer does not matter.
    let api_key = world.env.remove("CALRY_API_KEY").unwrap();
    let key = |name: &str| {
        let path = world.dir.path().join(name);
        std::fs::write(&path, format!("{api_key}{name}")).unwrap();
        path
    };
    let config = json!({
        "mode": "observe", "interval": "1h", "gitInterval": "1h",
        "githubHookSecretFile": secret(&world),
        "workspaces": [
            {"name": "one", "apiKeyFile": key("one"), "gitUrl": one.url()},
            {"name": "same", "apiKeyFile": key("same"), "gitUrl": one.url()},
            {"name": "other", "apiKeyFile": key("other"), "gitUrl": other_url},
        ],
    });
    let path = world.dir.path().join("config.yaml");
    std::fs::write(&path, config.to_string()).unwrap();
    world.env("CALRY_CONFIG", path.to_str().unwrap());
    let mut daemon = world.daemon(&[]);
    let address = daemon.address();
    until("both are fetched", || {
        [&one, &other]
            .iter()
            .all(|server| !server.requests().is_empty())
    });
    until("all have reconciled", || {
        let status = daemon.get("/api/v1/status").json();
        let all = status["workspaces"].as_array().unwrap();
        all.iter().all(|workspace| !workspace["lastPass"].is_null())
    });
    one.take_steps();
    other.take_steps();
    let of = |url: &str| {
        json!({"ref": "refs/heads/main", "repository": {"git_http_url": url}}).to_string()
    };
    // A repository on a host that the push does not name may be a mirror.
    let answer = hook(&address, &of("https://LOCALHOST:8443/Acme/definitions.git"));
    assert_eq!(answer.json()["repositories"], json!([one.url(), other_url]));
    until("both are fetched", || {
        [&one, &other]
            .iter()
            .all(|server| !server.requests().is_empty())
    });
    one.take_steps();
    other.take_steps();
    let of = |url: &str, elsewhere: &str| {
        let repository = json!({"git_http_url": url, "web_url": elsewhere});
        json!({"ref": "refs/heads/main", "repository": repository}).to_string()
    };
    let answer = hook(
        &address,
        &of(
            "https://LOCALHOST:8443/acme/Definitions.git",
            "https://127.0.0.1/acme/x",
        ),
    );
    assert_eq!(answer.json()["repositories"], json!([other_url]));
    assert_eq!(answer.json()["workspaces"], json!(["other"]));
    until("it is fetched", || fetches(&other) == 1);
    let answer = hook(
        &address,
        &of(
            "ssh://git@127.0.0.1:22/acme/definitions.git",
            "https://localhost/acme/x",
        ),
    );
    assert_eq!(answer.json()["repositories"], json!([one.url()]));
    assert_eq!(answer.json()["workspaces"], json!(["one", "same"]));
    until("it is fetched", || fetches(&one) == 1);
    assert_eq!(fetches(&other), 0);
    let answer = hook(&address, "{}");
    assert_eq!(answer.json()["workspaces"], json!(["one", "same", "other"]));
    until("both are fetched", || {
        [&one, &other]
            .iter()
            .all(|server| !server.requests().is_empty())
    });
}

#[test]
fn a_burst_of_pushes_is_two_fetches() {
    let (world, server) = (world(), GitServer::start());
    commit(&server, "name");
    let mut daemon = started(&world, &server, &[]);
    let address = daemon.address();
    // The first fetch is slow.
    let pause = std::time::Duration::from_millis(10);
    server.fault(Step::List, GitFault::Drip(pause));
    let id = commit(&server, "name, rooms");
    for _ in 0..50 {
        assert_eq!(hook(&address, &push("refs/heads/main", &id)).code, 202);
    }
    daemon.line("HOSTAWAY updated");
    assert!((1..=2).contains(&fetches(&server)));
}

// Several replicas.

/// A replica that fetches.
fn replica(replicas: &mut Replicas, server: &GitServer, pod: &str) -> Daemon {
    let options = options(&server.url(), &secret(&replicas.world));
    let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
    // The tests send hooks until one has an effect.
    options.push("--admin-rate=6000");
    replicas.start(pod, &options)
}

/// The address in the Lease.
fn leader_address(replicas: &Replicas) -> Value {
    replicas.kept(|kept| {
        kept.leases["calry-gitops"]["metadata"]["annotations"]["calry-gitops/address"].clone()
    })
}

#[test]
fn a_push_that_reaches_a_standby_is_passed_on_to_the_leader_whose_address_is_in_the_lease() {
    let (mut replicas, server) = (Replicas::new(), GitServer::start());
    commit(&server, "name");
    replicas.world.env("POD_IP", "127.0.0.1");
    let mut one = replica(&mut replicas, &server, "one");
    one.line("(leadership)");
    let mut other = replica(&mut replicas, &server, "other");
    other.line("(standby: nothing is written)");
    assert_eq!(leader_address(&replicas), one.address());
    let id = commit(&server, "name, rooms");
    let answer = hook(&other.address(), &push("refs/heads/main", &id));
    assert_eq!(answer.code, 202, "{answer:?}");
    one.line("requested /hooks/github/relay: a fetch of");
    one.line("HOSTAWAY updated");
    other.line("fetched");
    assert_eq!(replicas.world.updates().len(), 1);
    // A push that reaches the leader stays there.
    other.drain();
    let id = commit(&server, "name");
    assert_eq!(
        hook(&one.address(), &push("refs/heads/main", &id)).code,
        202
    );
    one.line("HOSTAWAY updated");
    other.drain();
    assert_eq!(other.count_lines("/relay"), 0);

    // The next leader has no address, and removes that of this one.
    one.signal("TERM");
    assert_eq!(one.wait(), Some(0));
    replicas.world.env.remove("POD_IP");
    drop(other);
    let mut last = replica(&mut replicas, &server, "last");
    last.line("leads by the Lease");
    assert_eq!(leader_address(&replicas), Value::Null);
}

#[test]
fn a_new_leader_fetches_before_it_writes_and_without_the_server_it_has_its_last_commit() {
    let (mut replicas, server) = (Replicas::new(), GitServer::start());
    commit(&server, "name");
    let mut one = replica(&mut replicas, &server, "one");
    one.line("(leadership)");
    let mut other = replica(&mut replicas, &server, "other");
    other.line("(standby: nothing is written)");
    // The push reaches the leader alone.
    let id = commit(&server, "name, rooms");
    hook(&one.address(), &push("refs/heads/main", &id));
    one.line("HOSTAWAY updated");
    one.signal("TERM");
    assert_eq!(one.wait(), Some(0));
    other.line("leads by the Lease");
    other.line("(leadership)");
    assert_eq!(other.status()["revision"]["commit"], id.as_str());
    assert_eq!(replicas.world.updates().len(), 1, "nothing is reverted");

    let mut last = replica(&mut replicas, &server, "last");
    last.line("(standby: nothing is written)");
    // Neither of the next fetches is answered.
    for _ in 0..2 {
        server.fault(Step::List, GitFault::Stall(0));
    }
    other.signal("TERM");
    assert_eq!(other.wait(), Some(0));
    last.line("leads by the Lease");
    assert_eq!(last.status()["revision"]["commit"], id.as_str());
}

/// A Lease that a replica holds whose HTTP server is this.
fn held_lease(address: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": "calry-gitops", "namespace": "calry", "resourceVersion": "9000",
            "annotations": {"calry-gitops/address": address},
        },
        "spec": {
            "holderIdentity": "leader_1", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    })
}

/// Accepts a request, and returns it when `answer` is sent.
fn answer_once(listener: &TcpListener, answer: &str) -> (String, String) {
    let mut accepted = None;
    listener.set_nonblocking(true).unwrap();
    until("a request arrives", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut connection, _) = accepted.unwrap();
    connection.set_nonblocking(false).unwrap();
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let before = head.len();
        reader.read_line(&mut head).unwrap();
        if let Some(text) = head[before..]
            .to_lowercase()
            .strip_prefix("content-length: ")
        {
            length = text.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    if answer.is_empty() {
        // Until the sender gives up.
        let _ = reader.read(&mut [0]);
    }
    connection
        .write_all(
            format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .ok();
    (head, String::from_utf8(body).unwrap())
}

const UNCONFIRMED: &str = "this replica fetches, but it does not lead, and the leader did not confirm the push; send the push \
                           again, or wait for the leader's next fetch";

/// The signature of a message between replicas.
fn relay_signature(body: &str) -> String {
    let key = hmac(SECRET.as_bytes(), b"calry-gitops relay");
    hex(&hmac(&key, body.as_bytes()))
}

#[test]
fn what_is_passed_on_has_no_secret_and_a_leader_that_does_not_accept_it_is_reported() {
    let (mut replicas, server) = (Replicas::new(), GitServer::start());
    let id = commit(&server, "name");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hold = |replicas: &Replicas, address: &str| {
        let lease = held_lease(address);
        replicas.kept(|kept| kept.leases.insert("calry-gitops".to_owned(), lease));
    };
    hold(&replicas, &address);
    let mut standby = replica(&mut replicas, &server, "standby");
    standby.line("(standby: nothing is written)");
    let own = standby.address();
    let body = push("refs/heads/main", &id);
    // GitLab's request contains the secret itself.
    let more = format!(
        "X-Gitlab-Event: Push Hook\r\nX-Gitlab-Token: {SECRET}\r\nX-Gitlab-Event-UUID: 13792a34\r\n"
    );
    let (answer, (head, message)) = std::thread::scope(|scope| {
        let hooked = scope.spawn(|| post(&own, "/hooks/gitlab", &more, &body));
        let passed_on = answer_once(&listener, "202 Accepted");
        (hooked.join().unwrap(), passed_on)
    });
    assert_eq!(answer.code, 202, "{answer:?}");
    assert!(
        head.starts_with("POST /hooks/gitlab/relay HTTP/1.1\r\n"),
        "{head}"
    );
    let signature = format!(
        "x-calry-gitops-signature: {}\r\n",
        relay_signature(&message)
    );
    assert!(head.to_lowercase().contains(&signature), "{head}");
    assert!(!format!("{head}{message}").contains(SECRET));
    let message: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(message["leases"], json!(["calry/calry-gitops"]));
    assert_eq!(
        message["push"],
        json!({
            "addresses": [], "references": [{"name": "refs/heads/main", "commit": id}], "delivery": "13792a34",
        })
    );

    for (answer, why) in [
        ("403 Forbidden", "answered with 403"),
        (
            "307 Elsewhere\r\nLocation: http://127.0.0.1:9/",
            "answered with 307",
        ),
        ("", "did not answer within 2s"),
    ] {
        server.take_steps();
        let refused = std::thread::scope(|scope| {
            let hooked = scope.spawn(|| hook(&own, &body));
            answer_once(&listener, answer);
            hooked.join().unwrap()
        });
        // The host does not learn what answers at the address.
        assert_eq!(refused.json()["error"], UNCONFIRMED);
        standby.line(&format!("the leader at {address} {why}"));
        assert_eq!(
            (refused.code, refused.header("retry-after")),
            (503, Some("5"))
        );
        until("it has fetched all the same", || fetches(&server) > 0);
    }
    drop(listener);
    let refused = hook(&own, &body);
    assert_eq!(
        (refused.code, &refused.json()["error"]),
        (503, &json!(UNCONFIRMED))
    );
    standby.line("Connection refused");
    for unusable in ["evil.example:80", "127.0.0.1", "169.254.169.254:80", ""] {
        hold(&replicas, &address);
        until("the address is used", || {
            assert_eq!(hook(&own, &body).code, 503);
            standby.line("was refused: ").contains("Connection refused")
        });
        hold(&replicas, unusable);
        until("the address is not used", || {
            assert_eq!(hook(&own, &body).code, 503);
            standby
                .line("was refused: ")
                .contains("the address of the holder of the Lease calry/calry-gitops is unknown")
        });
    }
}

#[test]
fn a_message_of_another_replica_is_signed_fresh_and_for_the_leader() {
    let (world, server) = (world(), GitServer::start());
    let id = commit(&server, "name");
    let mut daemon = started(&world, &server, &[]);
    let address = daemon.address();
    let message = |seconds: i64, leases: &[&str]| {
        let time = jiff::Timestamp::now().as_second() + seconds;
        let references = json!([{"name": "refs/heads/main", "commit": id}]);
        let push = json!({"addresses": [], "references": references, "delivery": "72d3162e"});
        json!({"time": time, "leases": leases, "push": push}).to_string()
    };
    let send = |body: &str, signature: &str| {
        let more = format!("X-Calry-Gitops-Signature: {signature}\r\n");
        post(&address, "/hooks/github/relay", &more, body)
    };
    let good = message(0, &[]);
    let answer = send(&good, &relay_signature(&good));
    assert_eq!(
        (answer.code, &answer.json()["delivery"]),
        (202, &json!("72d3162e"))
    );
    until("it is fetched", || fetches(&server) == 1);
    let odd = good.replace("72d3162e", "72d3 162e");
    let answer = send(&odd, &relay_signature(&odd));
    assert_eq!(
        (answer.code, &answer.json()["delivery"]),
        (202, &Value::Null)
    );
    until("it is fetched", || fetches(&server) == 1);
    let of_hook = hex(&hmac(SECRET.as_bytes(), good.as_bytes()));
    let as_hook = format!(
        "X-GitHub-Event: push\r\nX-Hub-Signature-256: sha256={}\r\n",
        relay_signature(&good)
    );
    for refused in [
        send(&good, &of_hook),
        send(&good, &relay_signature("")),
        send(&good, ""),
        post(&address, "/hooks/github/relay", "", &good),
        post(&address, "/hooks/github", &as_hook, &good),
        send("{}", &relay_signature("{}")),
        send(&message(-400, &[]), &relay_signature(&message(-400, &[]))),
        send(&message(400, &[]), &relay_signature(&message(400, &[]))),
    ] {
        assert_eq!(refused.code, 403, "{refused:?}");
    }
    let large = "x".repeat((64 << 10) + 1);
    assert_eq!(send(&large, &relay_signature(&large)).code, 413);
    assert_eq!(post(&address, "/hooks/generic/relay", "", &good).code, 404);
    assert_eq!(fetches(&server), 0);
    let elsewhere = message(0, &["calry/calry-gitops"]);
    let answer = send(&elsewhere, &relay_signature(&elsewhere));
    assert!(
        answer.code == 503
            && answer
                .body
                .contains("does not lead by the Lease calry/calry-gitops"),
        "{answer:?}"
    );
}

#[test]
fn bodies_that_are_not_signed_take_neither_the_message_of_a_replica_nor_the_push_of_a_host() {
    const LARGEST: usize = 4 << 20;
    let (world, server) = (world(), GitServer::start());
    let id = commit(&server, "name");
    // A burst of ten requests without valid credentials.
    let mut daemon = started(&world, &server, &["--admin-rate=30"]);
    let address = daemon.address();
    let head = format!(
        "POST /hooks/github HTTP/1.1\r\nHost: {address}\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: {LARGEST}\r\n\r\n"
    );
    let unfinished: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&vec![b'x'; LARGEST - 1]).unwrap();
            stream
        })
        .collect();
    let body = push("refs/heads/main", &id);
    until("all memory is in use", || hook(&address, &body).code == 503);
    until("it is fetched all the same", || fetches(&server) > 0);
    let time = jiff::Timestamp::now().as_second();
    let push = json!({"addresses": [], "references": null, "delivery": null});
    let message = json!({"time": time, "leases": [], "push": push}).to_string();
    let more = format!(
        "X-Calry-Gitops-Signature: {}\r\n",
        relay_signature(&message)
    );
    let answer = post(&address, "/hooks/github/relay", &more, &message);
    assert_eq!(answer.code, 202, "{answer:?}");
    // The sender has the secret, so it is not limited like one without.
    for _ in 0..12 {
        let answer = hook(&address, &body);
        assert_eq!(
            (answer.code, answer.header("retry-after")),
            (503, Some("5")),
            "{answer:?}"
        );
        assert!(answer.body.contains("no memory"), "{answer:?}");
    }
    drop(unfinished);
    until("the memory is free", || hook(&address, &body).code == 202);
}
