//! Notifications: the real loop against a sandbox, and fake receivers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Checkout, World, live};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use calry_gitops::daemon::{self, LoopFile, ReconciliationReport, StateStore, WorkspaceGroup};
use calry_gitops::desired::definitions::MissingSecrets;
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use calry_gitops::live::{Api, KeySource};
use calry_gitops::model::{Secret, UpdateMethod};
use calry_gitops::ops::notifications::{Notifier, Target, WorkspaceNotifier};
use calry_gitops::plan::MaxChanges;
use calry_gitops::reconcile::{DefinitionsSource, Source};
use calry_gitops::report::links::Links;
use calry_gitops::report::status::Mode;
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const CANARY: &str = "canary-token-4711";
const LIVE: &str = "canary-live-value-4712";

/// A received request.
#[derive(Clone, Debug)]
struct Posted {
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Posted {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A receiver of notifications that answers with a closure.
#[derive(Clone)]
struct StandIn {
    url: String,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl StandIn {
    async fn answering(answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static) -> Self {
        let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, number) = (Arc::clone(&posted), Arc::new(AtomicUsize::new(0)));
        let handler = move |request: Request| {
            let (answer, seen, number) = (answer.clone(), Arc::clone(&seen), Arc::clone(&number));
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                seen.lock().unwrap().push(Posted {
                    path: head.uri.to_string(),
                    headers: head.headers,
                    body,
                });
                answer(number.fetch_add(1, SeqCst) + 1)
            }
        };
        tokio::spawn(
            async move { axum::serve(listener, axum::Router::new().fallback(handler)).await },
        );
        Self { url, posted }
    }

    async fn new() -> Self {
        Self::answering(|_| StatusCode::OK.into_response()).await
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }

    /// Waits for `count` requests.
    async fn wait(&self, count: usize) -> Vec<Posted> {
        let deadline = Instant::now() + crate::support::PATIENCE;
        while self.posted().len() < count {
            assert!(Instant::now() < deadline, "only {:#?} came", self.posted());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.posted()
    }

    fn events(&self) -> Vec<String> {
        self.posted()
            .iter()
            .map(|posted| posted.json()["event"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// The log of this process, including libraries.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn http() -> Http {
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target("calry_gitops", tracing::Level::TRACE);
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(|| Log);
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    install_tls();
    Http::new(HttpTimeouts::default()).unwrap()
}

fn target(value: Value) -> Target {
    serde_json::from_value(value).unwrap()
}

fn secret(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn hook(stand_in: &StandIn, more: Value) -> Target {
    let mut all = json!({"name": "hook", "webhook": {"url": format!("{}/hook", stand_in.url)}, "failedPasses": 2});
    all.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    target(all)
}

/// A workspace in which each provider has `name` on and a secret.
fn world(providers: &[&str]) -> World {
    let definition = |provider: &&str| {
        let mut definition = live(provider, &["name"], &["rooms", "pictures"]);
        definition["partnerKey"] = json!({"headers": {"x-api-key": LIVE}});
        definition
    };
    World::with(
        providers.iter().map(definition).collect(),
        Config::default(),
    )
}

fn file(provider: &str, fields: &str) -> String {
    format!("provider: {provider}\nfieldsToSync:\n  listing: [{fields}]\n")
}

/// One workspace's loop, stepped by hand.
struct Loop {
    settings: daemon::LoopSettings,
    workspace_notifier: Arc<WorkspaceNotifier>,
    memory: daemon::Memory,
}

impl Loop {
    fn of(
        world: &World,
        directory: &Path,
        notifier: &Notifier,
        mode: Mode,
        max_changes: MaxChanges,
    ) -> Self {
        let workspace_notifier = Arc::new(notifier.for_workspace(None, Links::default()));
        let listener = Arc::clone(&workspace_notifier);
        let api = HttpUrl::parse(&world.sandbox.url(), UrlPolicy::api(false)).unwrap();
        let settings = daemon::LoopSettings {
            repository: None,
            links: Default::default(),
            source: Arc::new(Source {
                definitions: DefinitionsSource::Directory(directory.to_owned()),
                secrets: SecretSources::new(None),
                missing: MissingSecrets::Error,
                strict: false,
                only: Vec::new(),
                base: None,
                trust: None,
                workspace: None,
                policies: None,
            }),
            key: KeySource::Variable(Some(Secret::new(world.sandbox.keys().write.clone()))),
            key_expiry: Default::default(),
            api: Api::new(&http(), api, UpdateMethod::Patch).unwrap(),
            interval: Duration::from_secs(1),
            mode,
            max_changes,
            concurrency: 8,
            timeout: Duration::from_secs(5),
            backups: None,
            watch_options: calry_gitops::desired::watch::WatchOptions::default(),
            apply_listener: Some(Box::new(move |plan| listener.notify_start(plan))),
            update_listener: None,
            state: Arc::new(StateStore::in_process().unwrap()),
            loop_file: Arc::default(),
            slot: WorkspaceGroup::slots(vec![None]).remove(0),
            leadership: daemon::Leadership::default(),
        };
        let memory = daemon::Memory::new(&settings.state);
        Self {
            settings,
            workspace_notifier,
            memory,
        }
    }

    /// A loop of a new process that reads the persisted state.
    fn restarted(world: &World, notifier: &Notifier) -> Self {
        let mut this = Self::new(world, notifier);
        let state = StateStore::open(&world.dir.path().join("state"), None).unwrap();
        let (source, api) = (
            DefinitionsSource::Directory(world.definitions()),
            world.sandbox.url(),
        );
        let observer = Arc::clone(&this.workspace_notifier);
        this.settings.loop_file = Arc::new(LoopFile::new(&state, None, &source, &api, observer));
        this.settings.state = Arc::new(state);
        this.memory = daemon::Memory::new(&this.settings.state);
        this
    }

    fn new(world: &World, notifier: &Notifier) -> Self {
        Self::of(
            world,
            &world.definitions(),
            notifier,
            Mode::Enforce,
            MaxChanges::Unlimited,
        )
    }

    async fn pass(&mut self) -> ReconciliationReport {
        let report =
            daemon::step(&self.settings, &mut self.memory, &CancellationToken::new()).await;
        self.workspace_notifier.notify_result(&report);
        report
    }
}

fn click(world: &World, provider: &str) {
    assert!(world.sandbox.modify(
        provider,
        |live| live["fieldsToSync"]["listing"]["pictures"] = json!(true)
    ));
}

fn multi(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn each_event_is_reported_once_with_its_path_and_without_a_value() {
    let world = world(&["HOSTAWAY"]);
    multi(async {
        let stand_in = StandIn::new().await;
        let notifier = Notifier::start(vec![hook(&stand_in, json!({}))], &http());
        let mut daemon = Loop::new(&world, &notifier);
        world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
        daemon.pass().await;
        daemon.pass().await;
        click(&world, "HOSTAWAY");
        daemon.pass().await;
        daemon.pass().await;
        // Once after two failures and once after the recovery.
        std::fs::rename(world.definitions(), world.dir.path().join("gone")).unwrap();
        for _ in 0..4 {
            daemon.pass().await;
        }
        std::fs::rename(world.dir.path().join("gone"), world.definitions()).unwrap();
        daemon.pass().await;
        world.write("hostaway.yaml", "provider: HOSTAWAY\nicon: [\n");
        for _ in 0..4 {
            daemon.pass().await;
        }
        world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
        daemon.pass().await;
        stand_in.wait(6).await;
        assert_eq!(
            stand_in.events(),
            [
                "applied",
                "drift",
                "failed",
                "recovered",
                "failed",
                "recovered"
            ]
        );
        let drift = stand_in.posted()[1].json();
        assert_eq!(
            drift["providers"][0]["paths"],
            json!(["fieldsToSync.listing.pictures"])
        );
        assert_eq!(
            (
                &drift["providers"][0]["detail"],
                &drift["workspace"]["slug"]
            ),
            (&json!("undone"), &json!("acme-production"))
        );
        assert!(
            stand_in
                .posted()
                .iter()
                .all(|posted| !posted.body.contains(LIVE))
        );
        // A delivery is counted after its answer.
        let counters = notifier.counters();
        notifier.stop().await;
        let counts = counters.counts().remove(0);
        assert_eq!(
            (counts.kind, counts.sent, counts.failed, counts.dropped),
            ("webhook", 6, 0, 0)
        );
    });
}

#[test]
fn a_lot_of_drift_is_one_message_with_a_count() {
    let names: Vec<String> = (0..30).map(|n| format!("PROVIDER_{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = world(&names);
    multi(async {
        let stand_in = StandIn::new().await;
        let slack = secret(&world, "slack", &format!("{}/{CANARY}\n", stand_in.url));
        let slack = json!({"name": "chat", "slack": {"urlFile": slack}, "events": ["drift"]});
        let notifier = Notifier::start(vec![target(slack)], &http());
        let mut daemon = Loop::new(&world, &notifier);
        for name in &names {
            world.write(
                &format!("{}.yaml", name.to_lowercase()),
                &file(name, "name"),
            );
        }
        daemon.pass().await;
        names.iter().for_each(|name| click(&world, name));
        daemon.pass().await;
        daemon.pass().await;
        let posted = stand_in.wait(1).await;
        notifier.stop().await;
        assert_eq!(
            (
                posted.len(),
                stand_in.posted().len(),
                posted[0].path.as_str()
            ),
            (1, 1, "/canary-token-4711")
        );
        let text = posted[0].json()["text"].as_str().unwrap().to_owned();
        assert!(
            text.contains("(30 providers)")
                && text.contains("`PROVIDER_09`")
                && text.ends_with("and 20 more"),
            "{text}"
        );
        assert!(
            !text.contains("PROVIDER_10") && !text.contains(LIVE),
            "{text}"
        );
    });
}

#[test]
fn a_refused_plan_is_reported_once_per_digest_and_a_hold_once_before_its_end() {
    let world = world(&["HOSTAWAY", "GUESTY", "LODGIFY"]);
    multi(async {
        let stand_in = StandIn::new().await;
        let notifier = Notifier::start(
            vec![hook(
                &stand_in,
                json!({"events": ["refused", "holdExpiring"]}),
            )],
            &http(),
        );
        let mut daemon = Loop::of(
            &world,
            &world.definitions(),
            &notifier,
            Mode::Enforce,
            MaxChanges::Count(1),
        );
        for name in ["HOSTAWAY", "GUESTY"] {
            world.write(
                &format!("{}.yaml", name.to_lowercase()),
                &file(name, "rooms"),
            );
        }
        daemon.pass().await;
        daemon.pass().await;
        world.write("guesty.yaml", &file("GUESTY", "pictures"));
        daemon.pass().await;
        let until = calry_gitops::reconcile::today().tomorrow().unwrap();
        let hold = format!("hold:\n  until: {until}\n  reason: <!channel> `x`\n");
        world.write("lodgify.yaml", &(file("LODGIFY", "rooms") + &hold));
        daemon.pass().await;
        daemon.pass().await;
        stand_in.wait(3).await;
        notifier.stop().await;
        let mut events = stand_in.events();
        events.sort();
        let digests: std::collections::BTreeSet<String> = stand_in
            .posted()
            .iter()
            .map(|p| p.json()["digest"].to_string())
            .collect();
        assert_eq!(
            events
                .iter()
                .filter(|event| *event == "holdExpiring")
                .count(),
            1
        );
        // Each refused plan has another digest.
        assert_eq!(digests.len(), events.len(), "{events:?}");
    });
}

#[test]
fn live_data_cannot_mention_link_or_format_in_a_chat() {
    let world = world(&["HOSTAWAY"]);
    multi(async {
        let stand_in = StandIn::new().await;
        let slack = secret(&world, "slack", &stand_in.url);
        let slack = json!({"name": "chat", "slack": {"urlFile": slack}, "failedPasses": 1});
        let notifier = Notifier::start(vec![target(slack)], &http());
        let mut daemon = Loop::new(&world, &notifier);
        let message = "<!channel> `@here` <https://evil|x> *b* &\n@all";
        let fault = FaultKind::Status {
            code: StatusCode::BAD_REQUEST,
            message: message.to_owned(),
            retry_after: None,
        };
        world
            .sandbox
            .inject(Fault::once(fault).on(axum::http::Method::PATCH));
        world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
        daemon.pass().await;
        let text = stand_in.wait(1).await[0].json()["text"]
            .as_str()
            .unwrap()
            .to_owned();
        notifier.stop().await;
        assert!(
            text.contains("@here") && text.contains("&lt;!channel&gt;"),
            "{text}"
        );
        let outside = crate::support::outside_code(&text);
        for hostile in ["@", "http", "<", "*b*"] {
            assert!(
                !outside.contains(hostile),
                "{hostile} is outside of code in {text}"
            );
        }
        assert!(!text.contains('<'), "{text}");
    });
}

#[test]
fn a_document_is_signed_with_the_current_secret_of_the_file() {
    let world = world(&["HOSTAWAY"]);
    multi(async {
        let stand_in = StandIn::new().await;
        let key = secret(&world, "key", "whsec_Y2FuYXJ5LW9uZQ==");
        let webhook = json!({"webhook": {"url": stand_in.url, "secretFile": key}});
        let notifier = Notifier::start(vec![hook(&stand_in, webhook)], &http());
        let mut daemon = Loop::new(&world, &notifier);
        for (count, (fields, written, raw)) in [
            ("name, rooms", "whsec_Y2FuYXJ5LW9uZQ==", "canary-one"),
            ("name", "canary-two", "canary-two"),
        ]
        .iter()
        .enumerate()
        {
            std::fs::write(&key, written).unwrap();
            world.write("hostaway.yaml", &file("HOSTAWAY", fields));
            daemon.pass().await;
            let posted = stand_in.wait(count + 1).await.pop().unwrap();
            let header = |name: &str| posted.headers[name].to_str().unwrap();
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(raw.as_bytes()).unwrap();
            mac.update(
                format!(
                    "{}.{}.{}",
                    header("webhook-id"),
                    header("webhook-timestamp"),
                    posted.body
                )
                .as_bytes(),
            );
            let expected =
                base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
            assert_eq!(header("webhook-signature"), format!("v1,{expected}"));
            assert_eq!(posted.json()["id"], header("webhook-id"));
            let sent = format!("{posted:?}");
            assert!(
                !sent.contains(raw) && !sent.contains(written) && !sent.contains(LIVE),
                "{sent}"
            );
        }
        notifier.stop().await;
    });
}

#[test]
fn webhook_documents_match_the_committed_schema() {
    let path = crate::support::repository().join("deploy/schemas/notification.schema.json");
    let schema = calry_gitops::ops::notifications::schema();
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(&path, &schema).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), schema);
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler
        .add_resource(
            "http://schemas/it.json",
            serde_json::from_str(&schema).unwrap(),
        )
        .unwrap();
    let schema = compiler
        .compile("http://schemas/it.json", &mut schemas)
        .unwrap();
    let world = world(&["HOSTAWAY"]);
    multi(async {
        let stand_in = StandIn::new().await;
        let notifier = Notifier::start(vec![hook(&stand_in, json!({}))], &http());
        let mut daemon = Loop::new(&world, &notifier);
        daemon.settings.max_changes = MaxChanges::Count(0);
        world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
        daemon.pass().await;
        daemon.settings.max_changes = MaxChanges::Unlimited;
        daemon.pass().await;
        for posted in stand_in.wait(3).await {
            schemas
                .validate(&posted.json(), schema)
                .unwrap_or_else(|error| panic!("{error:#}\n{}", posted.body));
        }
        notifier.stop().await;
    });
}

#[test]
fn after_a_restart_nothing_is_repeated_and_the_end_of_a_failure_is_reported() {
    let world = world(&["HOSTAWAY", "GUESTY", "LODGIFY"]);
    let until = calry_gitops::reconcile::today().tomorrow().unwrap();
    let hold = format!("hold:\n  until: {until}\n  reason: OPS-1\n");
    world.write("lodgify.yaml", &(file("LODGIFY", "rooms") + &hold));
    world.write("hostaway.yaml", "provider: HOSTAWAY\nicon: [\n");
    multi(async {
        let stand_in = StandIn::new().await;
        let events = json!({"failedPasses": 1});
        // A process that reconciles this many times, delivers its notifications and ends.
        let process = async |passes: usize| {
            let before = stand_in.posted().len();
            let notifier = Notifier::start(vec![hook(&stand_in, events.clone())], &http());
            let mut daemon = Loop::restarted(&world, &notifier);
            for _ in 0..passes {
                daemon.pass().await;
            }
            notifier.stop().await;
            daemon.settings.loop_file.save().await;
            let mut said = stand_in.events().split_off(before);
            said.sort();
            said
        };
        assert_eq!(process(1).await, ["failed", "holdExpiring"]);
        assert_eq!(process(2).await, [""; 0]);
        // The failure continues with another reason, which is not reported again.
        world.write("hostaway.yaml", "provider: HOSTAWAY\nfieldsToSync: [\n");
        assert_eq!(process(1).await, [""; 0]);
        world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
        assert_eq!(process(1).await, ["recovered"]);
        assert_eq!(process(1).await, [""; 0]);
        // The same holds for a failed reconciliation.
        std::fs::rename(world.definitions(), world.dir.path().join("gone")).unwrap();
        assert_eq!(process(1).await, ["failed"]);
        assert_eq!(process(1).await, [""; 0]);
        std::fs::rename(world.dir.path().join("gone"), world.definitions()).unwrap();
        assert_eq!(process(1).await, ["recovered"]);

        // A new target gets everything.
        let late = StandIn::new().await;
        let targets = vec![
            hook(&stand_in, events.clone()),
            hook(&late, json!({"name": "late", "failedPasses": 1})),
        ];
        let before = stand_in.posted().len();
        let notifier = Notifier::start(targets, &http());
        Loop::restarted(&world, &notifier).pass().await;
        notifier.stop().await;
        assert_eq!(
            (late.events(), stand_in.posted().len()),
            (vec!["holdExpiring".to_owned()], before)
        );
    });
    // No value of a definition is saved.
    for entry in std::fs::read_dir(world.dir.path().join("state")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains(LIVE) && !text.contains("OPS-1"), "{text}");
    }
}

#[test]
fn undelivered_events_are_reported_again_after_a_restart() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", "provider: HOSTAWAY\nicon: [\n");
    multi(async {
        let busy = StandIn::answering(|_| {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "60")]).into_response()
        })
        .await;
        let notifier = Notifier::start(vec![hook(&busy, json!({"failedPasses": 1}))], &http());
        let mut daemon = Loop::restarted(&world, &notifier);
        daemon.pass().await;
        busy.wait(1).await;
        // The process is killed.
        daemon.settings.loop_file.save().await;
        drop(notifier);
        let stand_in = StandIn::new().await;
        let notifier = Notifier::start(vec![hook(&stand_in, json!({"failedPasses": 1}))], &http());
        Loop::restarted(&world, &notifier).pass().await;
        notifier.stop().await;
        assert_eq!(stand_in.events(), ["failed"]);
    });
}

#[test]
fn a_status_is_sent_after_the_rate_limit_of_github() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let checkout = Checkout::of(world);
    let world = &checkout.world;
    multi(async {
        let limited = StandIn::answering(|number| {
            let reset = jiff::Timestamp::now().as_second() + 2;
            match number {
                1 => {
                    let headers = [
                        ("x-ratelimit-remaining", "0".to_owned()),
                        ("x-ratelimit-reset", reset.to_string()),
                    ];
                    (StatusCode::FORBIDDEN, headers).into_response()
                }
                _ => StatusCode::CREATED.into_response(),
            }
        })
        .await;
        let mut targets = forges(world, &limited);
        targets.truncate(1);
        let notifier = Notifier::start(targets, &http());
        let counters = notifier.counters();
        let mut daemon = Loop::new(world, &notifier);
        let began = Instant::now();
        daemon.pass().await;
        daemon.pass().await;
        limited.wait(2).await;
        assert!(
            began.elapsed() >= Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        notifier.stop().await;
        let counts = counters.counts().remove(0);
        assert_eq!((counts.sent, counts.failed), (1, 0));
        let states: Vec<(String, String)> = statuses(&limited, "/api/v3");
        let success = (checkout.main.to_string(), "success".to_owned());
        assert_eq!(states, [success.clone(), success]);
    });
}

fn forges(world: &World, stand_in: &StandIn) -> Vec<Target> {
    let token = secret(world, "token", CANARY);
    let github = json!({"repository": "acme/calry", "tokenFile": token, "apiUrl": format!("{}/api/v3", stand_in.url),
        "targetUrl": "https://ops.example.com"});
    let gitlab = json!({"project": "acme/ops/calry", "tokenFile": token, "apiUrl": format!("{}/api/v4", stand_in.url)});
    vec![
        target(json!({"name": "gh", "github": github})),
        target(json!({"name": "gl", "gitlab": gitlab})),
    ]
}

/// The statuses that a git host received.
fn statuses(stand_in: &StandIn, forge: &str) -> Vec<(String, String)> {
    let posted = stand_in
        .posted()
        .into_iter()
        .filter(|posted| posted.path.starts_with(forge));
    posted
        .map(|posted| {
            let sha = posted.path.rsplit('/').next().unwrap().to_owned();
            (sha, posted.json()["state"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn a_commit_gets_success_when_calry_has_it_and_failure_if_it_cannot() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "name"));
    let checkout = Checkout::of(world);
    let world = &checkout.world;
    multi(async {
        let stand_in = StandIn::new().await;
        let notifier = Notifier::start(forges(world, &stand_in), &http());
        let mut daemon = Loop::new(world, &notifier);
        let ends = async |count: usize, state: &str, of: &str| {
            let deadline = Instant::now() + crate::support::PATIENCE;
            loop {
                let last = statuses(&stand_in, "/api/v3").last().cloned();
                if last == Some((of.to_owned(), state.to_owned())) {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{count}: {state} of {of} did not come: {:?}",
                    statuses(&stand_in, "/api/v3")
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        daemon.pass().await;
        ends(1, "success", &checkout.main.to_string()).await;

        // Files that differ from their commit do not change its status.
        world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
        daemon.pass().await;
        let second = checkout.commit("refs/heads/main", &[checkout.main]);
        daemon.pass().await;
        ends(2, "success", &second.to_string()).await;
        // Reverted drift does not change the status of the commit.
        let before = stand_in.posted().len();
        click(world, "HOSTAWAY");
        daemon.pass().await;

        world.write("hostaway.yaml", "provider: HOSTAWAY\nicon: [\n");
        let third = checkout.commit("refs/heads/main", &[second]);
        daemon.pass().await;
        ends(3, "failure", &third.to_string()).await;
        stand_in.wait(before + 2).await;

        world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
        let fourth = checkout.commit("refs/heads/main", &[third]);
        world.sandbox.inject(
            Fault::once(FaultKind::Status {
                code: StatusCode::BAD_REQUEST,
                message: "No message-4713".to_owned(),
                retry_after: None,
            })
            .on(axum::http::Method::PATCH),
        );
        daemon.pass().await;
        ends(4, "failure", &fourth.to_string()).await;
        notifier.stop().await;

        let of = |forge: &str, sha: &str| -> Vec<String> {
            statuses(&stand_in, forge)
                .into_iter()
                .filter(|(of, _)| of == sha)
                .map(|(_, state)| state)
                .collect()
        };
        // A pending status may have been replaced before it was sent.
        assert!(
            matches!(of("/api/v3", &fourth.to_string()).as_slice(), [f] | [_, f] if f == "failure")
        );
        assert_eq!(of("/api/v4", &third.to_string()), ["failed"]);
        assert_eq!(
            of("/api/v3", &second.to_string())
                .iter()
                .filter(|state| *state == "success")
                .count(),
            1
        );
        let all = stand_in.posted();
        let github = all
            .iter()
            .find(|posted| posted.path.starts_with("/api/v3"))
            .unwrap();
        assert_eq!(
            github.path,
            format!("/api/v3/repos/acme/calry/statuses/{}", checkout.main)
        );
        assert_eq!(github.headers["authorization"], format!("Bearer {CANARY}"));
        assert_eq!(
            (&github.json()["context"], &github.json()["target_url"]),
            (&json!("calry-gitops"), &json!("https://ops.example.com"))
        );
        let gitlab = all
            .iter()
            .find(|posted| posted.path.starts_with("/api/v4"))
            .unwrap();
        assert_eq!(
            gitlab.path,
            format!(
                "/api/v4/projects/acme%2Fops%2Fcalry/statuses/{}",
                checkout.main
            )
        );
        assert_eq!(
            (&gitlab.headers["private-token"], &gitlab.json()["name"]),
            (&CANARY.parse().unwrap(), &json!("calry-gitops"))
        );
        assert!(
            all.iter()
                .all(|posted| !posted.body.contains("canary") && !posted.body.contains("4713"))
        );
    });
}

#[test]
fn failed_deliveries_are_retried_and_do_not_delay_reconciliations() {
    let world = world(&["HOSTAWAY"]);
    multi(async {
        let busy = StandIn::answering(|number| match number {
            1 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            2 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response(),
            _ => StatusCode::NO_CONTENT.into_response(),
        })
        .await;
        let gone = StandIn::answering(|_| {
            (StatusCode::FOUND, [("location", "/elsewhere")]).into_response()
        })
        .await;
        // One accepts connections and never answers, one closes them.
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let resetting = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = |address: std::net::SocketAddr| json!({"url": format!("http://{address}/")});
        let targets = vec![
            hook(&busy, json!({})),
            hook(&gone, json!({"name": "gone"})),
            target(json!({"name": "hanging", "webhook": at(hanging.local_addr().unwrap())})),
            target(json!({"name": "resetting", "webhook": at(resetting.local_addr().unwrap())})),
        ];
        let resets = tokio::spawn(async move {
            loop {
                drop(resetting.accept().await);
            }
        });
        let notifier = Notifier::start(targets, &http());
        let mut daemon = Loop::new(&world, &notifier);
        let began = Instant::now();
        world.write("hostaway.yaml", &file("HOSTAWAY", "name, rooms"));
        for _ in 0..5 {
            click(&world, "HOSTAWAY");
            daemon.pass().await;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "the passes took {:?}",
            began.elapsed()
        );
        let posted = busy.wait(4).await;
        // The same notification until it was delivered.
        let ids: Vec<&str> = posted
            .iter()
            .map(|posted| {
                posted
                    .headers
                    .get("webhook-id")
                    .map_or("", |id| id.to_str().unwrap())
            })
            .collect();
        assert_eq!(ids.len(), posted.len());
        assert_eq!(posted[0].body, posted[1].body);
        assert_eq!(posted[1].body, posted[2].body);
        assert_ne!(posted[2].body, posted[3].body);
        assert!(
            began.elapsed() >= Duration::from_secs(2),
            "Retry-After was not honoured"
        );
        let redirected = gone.wait(5).await;
        assert!(
            redirected.iter().all(|posted| posted.path == "/hook"),
            "a redirect was followed"
        );
        let stopping = Instant::now();
        let counters = notifier.counters();
        notifier.stop().await;
        let counts = counters.counts();
        assert!(
            stopping.elapsed() < Duration::from_secs(8),
            "{:?}",
            stopping.elapsed()
        );
        resets.abort();
        let of = |name: &str| counts.iter().find(|counts| counts.name == name).unwrap();
        assert_eq!(
            (
                of("gone").failed,
                of("gone").sent,
                of("hanging").sent,
                of("resetting").sent
            ),
            (5, 0, 0, 0)
        );
    });
}

#[test]
fn no_log_line_contains_a_url_or_a_token() {
    let world = world(&["HOSTAWAY"]);
    world.write("hostaway.yaml", &file("HOSTAWAY", "rooms"));
    let checkout = Checkout::of(world);
    let world = &checkout.world;
    multi(async {
        let echo = |code: StatusCode| {
            move |_: usize| (code, format!("no {CANARY} {LIVE}")).into_response()
        };
        let denying = StandIn::answering(echo(StatusCode::UNAUTHORIZED)).await;
        let moved = StandIn::answering(|_| {
            (StatusCode::FOUND, [("location", format!("/{CANARY}"))]).into_response()
        })
        .await;
        let mut targets = forges(world, &denying);
        let place = |url: &str| json!({"urlFile": secret(world, url.rsplit(':').next().unwrap(), &format!("{url}/{CANARY}"))});
        targets.push(target(json!({"name": "moved", "slack": place(&moved.url)})));
        targets.push(target(
            json!({"name": "denied", "webhook": place(&denying.url)}),
        ));
        targets.push(target(
            json!({"name": "refused", "slack": place("http://127.0.0.1:9")}),
        ));
        targets.push(target(
            json!({"name": "clear", "slack": place("http://192.0.2.1:80")}),
        ));
        targets.push(target(
            json!({"name": "nowhere", "webhook": {"url": "http://127.0.0.1:9", "secretFile": "/nowhere"}}),
        ));
        let notifier = Notifier::start(targets, &http());
        let mut daemon = Loop::new(world, &notifier);
        daemon.pass().await;
        denying.wait(3).await;
        moved.wait(1).await;
        notifier.stop().await;
        let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
        for name in ["clear", "nowhere"] {
            assert!(
                log.contains(&format!("cannot notify {name} until this is fixed: ")),
                "{name}:\n{log}"
            );
        }
        for name in ["gh", "gl", "moved", "denied", "refused", "clear", "nowhere"] {
            assert!(
                log.contains(&format!("notification to {name} failed: ")),
                "nothing of {name} in:\n{log}"
            );
        }
        for canary in [CANARY, LIVE, "canary"] {
            assert!(!log.contains(canary), "{log}");
        }
    });
}
