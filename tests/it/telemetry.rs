//! Traces: the real daemon and a fake OpenTelemetry collector.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::support::git_server::GitServer;
use crate::support::{World, live};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use calry_gitops::sandbox::{Config, Fault, FaultKind};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;

const LIVE: &str = "canary-live-value-4712";
const TOKEN: &str = "canary-header-4713";

/// A path, headers and a body.
type Got = (String, HeaderMap, Vec<u8>);

/// A collector that records its requests.
struct Collector {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let got: Arc<Mutex<Vec<_>>> = Arc::default();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keeps = Arc::clone(&got);
        let handler = move |request: Request| {
            let keeps = Arc::clone(&keeps);
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
                keeps
                    .lock()
                    .unwrap()
                    .push((head.uri.path().to_owned(), head.headers, body));
                StatusCode::OK
            }
        };
        runtime.spawn(
            async move { axum::serve(listener, axum::Router::new().fallback(handler)).await },
        );
        Self {
            url,
            got,
            _runtime: runtime,
        }
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let got = self.got.lock().unwrap();
        got.iter()
            .map(|(_, _, body)| ExportTraceServiceRequest::decode(body.as_slice()).unwrap())
            .collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self
            .requests()
            .into_iter()
            .flat_map(|request| request.resource_spans);
        resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }
}

fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|value| value.value.as_ref())
    {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    of.iter()
        .map(|pair| (pair.key.clone(), text(pair)))
        .collect()
}

fn world() -> World {
    let mut definition = live("HOSTAWAY", &["name"], &["rooms"]);
    definition["partnerKey"] = json!({"headers": {"x-api-key": LIVE}});
    let world = World::with(json!([definition]), Config::default());
    world.write(
        "hostaway.yaml",
        "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: canary-literal-4711\nfieldsToSync:\n  listing: [rooms]\n",
    );
    world
}

#[test]
fn reconciliations_requests_and_updates_are_spans_without_values() {
    let collector = Collector::start();
    let mut world = world();
    world.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    world.env("OTEL_EXPORTER_OTLP_HEADERS", &format!("x-token={TOKEN}"));
    let refused = FaultKind::Status {
        code: StatusCode::SERVICE_UNAVAILABLE,
        message: "later".into(),
        retry_after: None,
    };
    world.sandbox.inject(Fault::once(refused).on(Method::PATCH));
    let ran = world.run(&["run", "--once", "-vv"]).exits(0);
    assert!(
        !ran.err.contains(TOKEN) && !ran.err.contains("update{") && !ran.err.contains("pass{"),
        "{}",
        ran.err
    );

    let (path, headers, _) = collector.got.lock().unwrap().first().cloned().unwrap();
    assert_eq!(
        (path.as_str(), &headers["x-token"]),
        ("/v1/traces", &TOKEN.parse().unwrap())
    );
    let resource = collector.requests()[0].resource_spans[0]
        .resource
        .clone()
        .unwrap();
    assert_eq!(
        attributes(&resource.attributes)["service.name"],
        "calry-gitops"
    );

    let spans = collector.spans();
    let named = |name: &str| {
        spans
            .iter()
            .filter(|span| span.name == name)
            .collect::<Vec<_>>()
    };
    let [pass] = named("pass")[..] else {
        panic!("{spans:#?}")
    };
    let of_pass = attributes(&pass.attributes);
    assert_eq!(
        (of_pass["trigger"].as_str(), of_pass["result"].as_str()),
        ("start", "applied")
    );
    assert!(pass.parent_span_id.is_empty());
    let [update] = named("update")[..] else {
        panic!("{spans:#?}")
    };
    assert_eq!(attributes(&update.attributes)["outcome"], "applied");
    assert_eq!(update.parent_span_id, pass.span_id);
    for read in [
        "GET /api/v1/workspace",
        "GET /api/v1/integration-definition",
    ] {
        let [read] = named(read)[..] else {
            panic!("{spans:#?}")
        };
        assert_eq!(
            (
                &read.parent_span_id,
                attributes(&read.attributes)["http.response.status_code"].as_str()
            ),
            (&pass.span_id, "200")
        );
    }
    let updates = named("PATCH /api/v1/integration-definition/{provider}");
    let mut codes: Vec<String> = updates
        .iter()
        .map(|span| attributes(&span.attributes)["http.response.status_code"].clone())
        .collect();
    codes.sort();
    assert_eq!(codes, ["200", "503"]);
    assert!(
        updates
            .iter()
            .all(|span| span.parent_span_id == update.span_id)
    );
    for (_, _, body) in collector.got.lock().unwrap().iter() {
        assert!(
            !String::from_utf8_lossy(body).contains("canary"),
            "a value was traced"
        );
    }
}

#[test]
fn a_fetch_is_a_span_with_its_result() {
    let collector = Collector::start();
    let mut world = world();
    world.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    let server = GitServer::start();
    let file = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [rooms]\n";
    let id = server.commit("main", &[("definitions/hostaway.yaml", file)]);
    let url = server.url();
    let run =
        |reference: &str| world.run(&["run", "--once", "--git-url", &url, "--git-ref", reference]);
    run("main").exits(0);
    run("none").exits(1);
    let fetches: Vec<_> = collector
        .spans()
        .iter()
        .filter(|span| span.name == "fetch")
        .map(|span| {
            (
                attributes(&span.attributes),
                span.status.clone().unwrap_or_default().code,
            )
        })
        .collect();
    let [(good, ok), (bad, error)] = fetches.as_slice() else {
        panic!("{fetches:#?}")
    };
    assert_eq!(
        (&good["repository"], &good["reference"]),
        (&url, &"main".to_owned())
    );
    assert_eq!(
        (&good["result"], &good["commit"]),
        (&"success".to_owned(), &id)
    );
    assert_eq!((bad["result"].as_str(), *ok, *error), ("reference", 0, 2));
}

#[test]
fn an_unreachable_collector_is_reported_once_and_disturbs_nothing() {
    let mut world = world();
    world.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9/canary");
    let ran = world.run(&["run", "--once"]).exits(0);
    assert_eq!(
        ran.err
            .matches("cannot send traces to the OpenTelemetry collector")
            .count(),
        1,
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("HOSTAWAY updated") && !ran.err.contains("canary"),
        "{}",
        ran.err
    );
}

#[test]
fn nothing_is_traced_without_the_variable() {
    let collector = Collector::start();
    let mut world = world();
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
    ] {
        world.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
        world.env(name, value);
        world.run(&["run", "--once"]).exits(0);
        world.env.remove(name);
    }
    assert!(collector.got.lock().unwrap().is_empty());
}
