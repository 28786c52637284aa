//! The update loop under faults: what is sent, how often, at what moment, and what is said about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Ran, World, live};
use axum::http::{Method, StatusCode};
use calry_gitops::desired::definitions::MissingSecrets;
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::http::{ConcurrencyLimit, Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use calry_gitops::live::{
    Api, Error, KeySource, Listing, ReadCalry, Reader, WriteCalry, WriteGuard, Writer,
};
use calry_gitops::model::{
    Desired, DesiredPartnerKey, DesiredValue, Live, LiveProblems, LiveValue, PartnerKey, Provider,
    Scrubber, Secret, Template, Update, UpdateMethod, Workspace,
};
use calry_gitops::plan::{AppliedState, Approved, Context, Limits, PlanInput, plan};
use calry_gitops::reconcile;
use calry_gitops::reconcile::apply::{
    Caller, GRACE, Options, Outcome, Report, STALE, STALE_IF_CARRIED, UpdateResult, Withdrawal,
    apply,
};
use calry_gitops::sandbox::{Config, Fault, FaultKind, RequestRecord};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep};
use tokio_util::sync::CancellationToken;

/// A workspace of P00 and on, of which files want one field more than Calry has on.
fn changed(providers: usize, config: Config) -> World {
    let names: Vec<String> = (0..providers).map(|n| format!("P{n:02}")).collect();
    let world = World::with(
        names
            .iter()
            .map(|name| live(name, &["name"], &["pictures"]))
            .collect(),
        config,
    );
    for name in names {
        let text = format!("provider: {name}\nfieldsToSync:\n  listing: [name, pictures]\n");
        world.write(&format!("{}.yaml", name.to_lowercase()), &text);
    }
    world
}

fn update_fault(kind: FaultKind) -> Fault {
    Fault::once(kind).on(Method::PATCH)
}

fn status(code: u16, retry_after: Option<&str>) -> FaultKind {
    let code = StatusCode::from_u16(code).unwrap();
    FaultKind::Status {
        code,
        message: "No.".to_owned(),
        retry_after: retry_after.map(str::to_owned),
    }
}

fn run(world: &World, args: &[&str]) -> Ran {
    world.run(&[&["apply", "--yes", "--format", "json"], args].concat())
}

/// Each provider's outcome, and the sentence that goes with it.
fn outcomes(ran: &Ran) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let json = ran.json();
    let definitions = json["definitions"].as_array().unwrap().iter();
    definitions
        .map(|d| {
            (
                text(&d["provider"]),
                (text(&d["outcome"]), text(&d["error"])),
            )
        })
        .collect()
}

fn count(outcomes: &BTreeMap<String, (String, String)>, outcome: &str) -> usize {
    outcomes.values().filter(|(is, _)| is == outcome).count()
}

fn to<'a>(requests: &'a [RequestRecord], provider: &str) -> Vec<&'a RequestRecord> {
    requests
        .iter()
        .filter(|r| r.path.ends_with(&format!("/{provider}")))
        .collect()
}

/// The methods of the requests for one provider, such as `PATCH GET`.
fn methods(world: &World, provider: &str) -> String {
    to(&world.requests(), provider)
        .iter()
        .map(|r| r.method.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_as_wanted(world: &World, provider: &str) -> bool {
    world.live(provider)["fieldsToSync"]["listing"] == json!({"name": true, "pictures": true})
}

#[test]
fn an_update_whose_answer_was_lost_is_read_back_and_not_sent_twice() {
    for kind in [FaultKind::DropAfter, FaultKind::TruncateBody] {
        let world = changed(1, Config::default());
        world.sandbox.inject(update_fault(kind.clone()));
        let ran = run(&world, &[]).exits(0);
        assert_eq!(outcomes(&ran)["P00"].0, "applied", "{kind:?}");
        assert_eq!(methods(&world, "P00"), "PATCH GET", "{kind:?}");
    }
}

#[test]
fn an_update_that_did_not_arrive_is_sent_again_and_an_unknown_one_only_after_a_read() {
    let cases = [
        (FaultKind::DropBefore, "PATCH GET PATCH"),
        (status(502, None), "PATCH GET PATCH"),
        (status(503, Some("0")), "PATCH GET PATCH"),
        (status(504, None), "PATCH GET PATCH"),
        (status(429, Some("0")), "PATCH PATCH"),
    ];
    for (kind, expected) in cases {
        let world = changed(1, Config::default());
        world.sandbox.inject(update_fault(kind.clone()));
        run(&world, &[]).exits(0);
        assert_eq!(methods(&world, "P00"), expected, "{kind:?}");
        assert!(is_as_wanted(&world, "P00"));
    }
}

#[test]
fn an_update_that_arrived_without_an_answer_and_was_kept_in_part_is_not_converged_and_not_sent_twice()
 {
    let world = changed(1, Config::default());
    world.write(
        "p00.yaml",
        "provider: P00\nfieldsToSync:\n  listing: [name, pictures, currency]\n",
    );
    world.sandbox.inject(update_fault(FaultKind::DropAfter));
    let ran = run(&world, &[]).exits(1);
    let (outcome, error) = &outcomes(&ran)["P00"];
    assert_eq!(outcome, "notConverged");
    assert!(
        error.contains("fieldsToSync.listing.currency") && !error.contains("pictures"),
        "{error}"
    );
    assert_eq!(methods(&world, "P00"), "PATCH GET");
}

#[test]
fn what_calry_refuses_is_not_tried_again_and_stops_no_other() {
    for code in [307, 400, 404, 405, 409, 422, 500] {
        let world = changed(3, Config::default());
        world
            .sandbox
            .inject(update_fault(status(code, None)).at("/P01").times(9));
        let ran = run(&world, &[]).exits(1);
        let outcomes = outcomes(&ran);
        assert_eq!(count(&outcomes, "applied"), 2, "{code}: {outcomes:?}");
        let (outcome, error) = &outcomes["P01"];
        assert_eq!(outcome, "failed");
        assert!(
            error.contains("cannot update P01") && error.contains(&code.to_string()),
            "{error}"
        );
        assert_eq!(error.contains("may have arrived"), code == 500, "{error}");
        assert_eq!(methods(&world, "P01"), "PATCH", "{code}");
        assert!(is_as_wanted(&world, "P00") && is_as_wanted(&world, "P02"));
    }
}

#[test]
fn an_answer_that_is_no_definition_is_a_failure_that_says_so_and_stops_no_other() {
    for kind in [
        FaultKind::Garbage,
        FaultKind::HugeBody(64 << 20),
        FaultKind::Redirect("/elsewhere".to_owned()),
    ] {
        let world = changed(3, Config::default());
        world.sandbox.inject(update_fault(kind.clone()).at("/P01"));
        let ran = run(&world, &[]).exits(1);
        let outcomes = outcomes(&ran);
        assert_eq!(count(&outcomes, "applied"), 2, "{kind:?}");
        assert!(
            outcomes["P01"].1.contains("check the API URL")
                || outcomes["P01"].1.contains("--api-url")
        );
        assert!(!world.requests().iter().any(|r| r.path == "/elsewhere"));
    }
}

#[test]
fn an_update_whose_answer_shows_nothing_is_read_back_and_judged_by_that() {
    for (code, body) in [
        (204, ""),
        (200, ""),
        (202, "{}"),
        (200, r#"{"success":true}"#),
        (200, "<html>"),
        (201, "[1]"),
    ] {
        let (code, body) = (StatusCode::from_u16(code).unwrap(), body.to_owned());
        let world = changed(1, Config::default());
        world.sandbox.inject(update_fault(FaultKind::Answer {
            code,
            body: body.clone(),
        }));
        let ran = run(&world, &[]).exits(0);
        assert_eq!(outcomes(&ran)["P00"].0, "applied", "{code} {body}");
        assert_eq!(methods(&world, "P00"), "PATCH GET");
        assert!(is_as_wanted(&world, "P00"));

        // It did not converge if Calry kept a part, and failed if it could not be read.
        world.write(
            "p00.yaml",
            "provider: P00\nfieldsToSync:\n  listing: [name, type]\n",
        );
        world.sandbox.inject(update_fault(FaultKind::Answer {
            code,
            body: body.clone(),
        }));
        assert_eq!(
            outcomes(&run(&world, &[]).exits(1))["P00"].0,
            "notConverged",
            "{code} {body}"
        );
        world
            .sandbox
            .inject(update_fault(FaultKind::Answer { code, body }));
        world
            .sandbox
            .inject(Fault::once(status(400, None)).on(Method::GET).at("/P00"));
        let outcomes = outcomes(&run(&world, &[]).exits(1));
        assert!(
            outcomes["P00"].0 == "failed" && outcomes["P00"].1.contains("may have arrived"),
            "{outcomes:?}"
        );
    }
}

#[test]
fn an_update_that_was_answered_and_did_not_arrive_is_failed_with_the_status_that_came() {
    for code in [204, 202] {
        let world = changed(1, Config::default());
        world.sandbox.inject(update_fault(status(code, None)));
        let (outcome, error) = &outcomes(&run(&world, &[]).exits(1))["P00"];
        assert_eq!(outcome, "failed");
        assert!(
            error.contains("not in it") && (code != 204 || error.contains("(204) is empty")),
            "{error}"
        );
        assert_eq!(methods(&world, "P00"), "PATCH GET");
    }
}

#[test]
fn an_answer_about_another_definition_is_no_success() {
    let answer = |change: &dyn Fn(&mut Value)| {
        let mut definition = live("P00", &["name", "pictures"], &[]);
        change(&mut definition);
        update_fault(FaultKind::Answer {
            code: StatusCode::OK,
            body: definition.to_string(),
        })
    };
    let world = changed(1, Config::default());
    world.sandbox.inject(answer(&|live| {
        live["id"] = json!("5f0c1f7e-0000-4000-8000-00000000beef")
    }));
    let (outcome, error) = &outcomes(&run(&world, &[]).exits(1))["P00"];
    assert!(
        outcome == "failed" && error.contains("another id"),
        "{error}"
    );

    let world = changed(1, Config::default());
    world
        .sandbox
        .inject(answer(&|live| live["provider"] = json!("P99")));
    assert_eq!(
        outcomes(&run(&world, &[]).exits(0))["P00"].0,
        "applied",
        "it was read back"
    );
    assert_eq!(methods(&world, "P00"), "PATCH GET");

    // What was sent cannot be seen in it.
    let world = changed(1, Config::default());
    world
        .sandbox
        .inject(answer(&|live| live["fieldsToSync"] = Value::Null));
    assert_eq!(
        outcomes(&run(&world, &[]).exits(0))["P00"].0,
        "applied",
        "it was read back"
    );
    assert_eq!(methods(&world, "P00"), "PATCH GET");
}

/// The outcome of an update that was lost with a 503, and all requests, if the definition was edited just before.
fn lost_after(edit: impl FnOnce(&mut Value)) -> (Outcome, String) {
    let world = changed(1, Config::default());
    let text = "provider: P00\nicon: https://e.com/1\nfieldsToSync:\n  listing: [name, pictures]\n";
    world.write("p00.yaml", text);
    let report = Runtime::new().unwrap().block_on(async {
        let request = Duration::from_secs(10);
        let (reader, writer, approved, options) = planned(&world, request).await;
        world.sandbox.modify("P00", edit);
        world.sandbox.inject(update_fault(status(503, None)));
        apply(&approved, &reader, &writer, &options, |_| {}).await
    });
    (outcome(&report, "P00"), methods(&world, "P00"))
}

#[test]
fn an_edit_is_not_mistaken_for_a_part_of_an_update_that_was_lost() {
    // Nothing of the update is there: it is sent again.
    let unmanaged = lost_after(|live| live["partnerKey"] = json!({"headers": {"x": "y"}}));
    assert_eq!(unmanaged, (Outcome::Applied, "PATCH GET PATCH".to_owned()));
    // The update is there, by another hand that switched a managed field off as well.
    let (outcome, methods) = lost_after(|live| {
        live["icon"] = json!("https://e.com/1");
        live["fieldsToSync"]["listing"]["pictures"] = json!(true);
        live["fieldsToSync"]["listing"]["name"] = json!(false);
    });
    assert!(matches!(outcome, Outcome::Skipped(_)), "{outcome:?}");
    assert_eq!(methods, "PATCH GET");
}

#[test]
fn what_calry_kept_and_what_could_not_be_sent_are_both_reported_as_one_failure() {
    let world = changed(1, Config::default());
    let mut strange = live("P00", &["name"], &["pictures"]);
    strange["partnerKey"] = json!({"headers": {"x-key": "old"}, "cookies": {"sid": "kept"}});
    world.sandbox.set_definition("P00", strange.clone());
    world.write(
        "p00.yaml",
        "provider: P00\npartnerKey:\n  headers: {}\nfieldsToSync:\n  listing: [name, type]\n",
    );
    let (outcome, error) = &outcomes(&run(&world, &[]).exits(1))["P00"];
    assert_eq!(outcome, "failed");
    assert!(
        error.contains("fieldsToSync.listing.type") && error.contains("`partnerKey.cookies`"),
        "{error}"
    );
    assert!(
        !error.contains("partnerKey.headers.x-key"),
        "it was not sent: {error}"
    );
    assert_eq!(world.live("P00")["partnerKey"], strange["partnerKey"]);
}

#[test]
fn the_report_names_each_provider_that_failed_with_its_reason() {
    let world = changed(4, Config::default());
    world
        .sandbox
        .inject(update_fault(status(400, None)).at("/P01"));
    world
        .sandbox
        .inject(update_fault(status(404, None)).at("/P03"));
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("cannot update P01: Calry refused the update (400, \"No.\")")
        .says("cannot update P03: ")
        .says("--update-method");
}

#[test]
fn a_key_that_is_refused_stops_the_updates_that_were_not_sent_yet() {
    for code in [401, 403] {
        let world = changed(20, Config::default());
        world
            .sandbox
            .inject(update_fault(status(code, None)).times(99));
        let outcomes = outcomes(&run(&world, &["--concurrency", "2"]).exits(1));
        assert!(
            world.updates().len() <= 2,
            "{code}: {} updates",
            world.updates().len()
        );
        assert_eq!(count(&outcomes, "failed"), world.updates().len());
        assert_eq!(count(&outcomes, "skipped"), 20 - world.updates().len());
        let (_, why) = &outcomes["P19"];
        assert!(
            why.contains("not tried") && why.contains("API key") && why.contains(&code.to_string()),
            "{why}"
        );
    }
}

#[test]
fn a_key_that_may_only_read_is_told_so_once_and_changes_nothing() {
    let mut world = changed(5, Config::default());
    world.env("CALRY_API_KEY", &world.sandbox.keys().read.clone());
    run(&world, &["--concurrency", "1"])
        .exits(1)
        .says("no WRITE permission");
    assert_eq!(world.updates().len(), 1);
}

#[test]
fn a_key_that_is_refused_while_an_update_is_read_back_stops_the_others_too() {
    let world = changed(5, Config::default());
    world
        .sandbox
        .inject(update_fault(FaultKind::DropBefore).at("/P00"));
    world
        .sandbox
        .inject(Fault::once(status(401, None)).on(Method::GET).at("/P00"));
    let outcomes = outcomes(&run(&world, &["--concurrency", "1"]).exits(1));
    assert!(
        outcomes["P00"].1.contains("may have arrived"),
        "{outcomes:?}"
    );
    assert_eq!((world.updates().len(), count(&outcomes, "skipped")), (1, 4));
}

/// A workspace that limits the first update, when the second is in flight already; the second ends when the
/// limit is known.
fn limited(providers: usize, retry_after: &str) -> World {
    let world = changed(
        providers,
        Config {
            latency: Duration::from_millis(50),
            ..Config::default()
        },
    );
    world
        .sandbox
        .inject(update_fault(status(429, Some(retry_after))).at("/P00"));
    world
        .sandbox
        .inject(update_fault(FaultKind::Delay(Duration::from_millis(300))).at("/P01"));
    world
}

#[test]
fn a_rate_limit_that_one_update_meets_slows_all_of_them() {
    let world = limited(6, "1");
    run(&world, &["--concurrency", "2"]).exits(0);
    let updates = world.updates();
    let limited = updates
        .iter()
        .find(|u| u.status == Some(StatusCode::TOO_MANY_REQUESTS))
        .unwrap();
    let later: Vec<_> = updates
        .iter()
        .filter(|u| !u.path.ends_with("/P01") && u.at > limited.at)
        .collect();
    assert_eq!(later.len(), 5, "{updates:?}");
    for update in later {
        assert!(
            update.at - limited.at >= Duration::from_secs(1),
            "{:?} {update:?}",
            update.at - limited.at
        );
    }
    assert!((0..6).all(|n| is_as_wanted(&world, &format!("P{n:02}"))));
}

/// The most requests in flight at one moment.
fn at_once(requests: &[RequestRecord]) -> usize {
    let under_way = |at| {
        requests
            .iter()
            .filter(|r| r.at <= at && r.finished.is_none_or(|end| end > at))
            .count()
    };
    requests.iter().map(|r| under_way(r.at)).max().unwrap_or(0)
}

#[test]
fn as_many_updates_as_allowed_are_under_way_at_once_and_no_more() {
    for allowed in [1, 3] {
        let world = changed(
            12,
            Config {
                latency: Duration::from_millis(60),
                ..Config::default()
            },
        );
        run(&world, &["--concurrency", &allowed.to_string()]).exits(0);
        assert_eq!(at_once(&world.updates()), allowed);
    }
}

#[test]
fn a_definition_of_calrys_that_cannot_be_read_spoils_only_its_provider() {
    let world = changed(3, Config::default());
    let broken = json!({"provider": "P01", "fieldsToSync": {}});
    world.sandbox.set_definition("P01", broken.clone());
    let ran = run(&world, &[]).exits(1);
    let json = ran.json();
    assert_eq!(json["definitions"][1]["state"], "unreadable");
    assert!(
        json["definitions"][1]["error"]
            .as_str()
            .unwrap()
            .contains("definition cannot be read"),
        "{json}"
    );
    assert!(is_as_wanted(&world, "P00") && is_as_wanted(&world, "P02"));
    assert_eq!(world.live("P01")["fieldsToSync"], broken["fieldsToSync"]);
    assert_eq!(methods(&world, "P01"), "");
    world
        .run(&["apply", "--yes"])
        .exits(1)
        .says("P01")
        .says("definition cannot be read");
}

#[test]
fn when_the_time_is_over_the_rest_fails_in_a_sentence_and_what_is_unknown_is_called_so() {
    let world = changed(
        8,
        Config {
            latency: Duration::from_millis(300),
            ..Config::default()
        },
    );
    let outcomes = outcomes(&run(&world, &["--concurrency", "1", "--timeout", "1s"]).exits(1));
    assert!(
        count(&outcomes, "applied") < 4 && outcomes["P07"].1.contains("--timeout"),
        "{outcomes:?}"
    );
    let cut = outcomes
        .values()
        .filter(|(_, why)| why.contains("did not answer within"))
        .collect::<Vec<_>>();
    assert!(
        cut.iter().all(|(_, why)| why.contains("may have arrived")),
        "{cut:?}"
    );
    assert_eq!(
        count(&outcomes, "applied") + cut.len(),
        world.updates().len()
    );
}

#[test]
fn under_random_faults_and_a_rate_limit_every_provider_ends_as_wanted_and_no_other_is_touched() {
    let config = Config {
        fail: "0.3".parse().unwrap(),
        rate_limit: "60/s".parse().ok(),
        latency: Duration::from_millis(5),
        random_seed: 7,
        ..Config::default()
    };
    let world = changed(50, config);
    let unmanaged: Vec<(String, Value)> = (40..50)
        .map(|n| format!("P{n}"))
        .map(|name| (name.clone(), world.live(&name)))
        .collect();
    for (name, _) in &unmanaged {
        std::fs::remove_file(
            world
                .definitions()
                .join(format!("{}.yaml", name.to_lowercase())),
        )
        .unwrap();
    }
    let outcomes = outcomes(&run(&world, &["--timeout", "60s"]).exits(0));
    assert_eq!(count(&outcomes, "applied"), 40, "{outcomes:?}");
    let requests = world.requests();
    for n in 0..40 {
        let name = format!("P{n:02}");
        assert!(is_as_wanted(&world, &name), "{name}");
        let own: Vec<_> = to(&requests, &name).into_iter().cloned().collect();
        assert_eq!(at_once(&own), 1, "{own:?}");
        // No update follows one that may have arrived, without a read in between.
        let unsure = |r: &RequestRecord| {
            r.method == Method::PATCH && r.status != Some(StatusCode::TOO_MANY_REQUESTS)
        };
        assert!(
            !own.windows(2)
                .any(|pair| unsure(&pair[0]) && pair[1].method == Method::PATCH),
            "{own:?}"
        );
    }
    for (name, before) in unmanaged {
        assert_eq!(world.live(&name), before);
        assert_eq!(methods(&world, &name), "");
    }
    assert!(at_once(&world.updates()) <= 8);
}

// The tests below drive the loop itself, because a command does not control the exact moments.

/// Plans a world through the real client.
async fn planned(world: &World, request: Duration) -> (Reader, Writer, Approved, Options) {
    planned_with(world, request, Arc::new(())).await
}

async fn planned_with(
    world: &World,
    request: Duration,
    guard: Arc<dyn WriteGuard>,
) -> (Reader, Writer, Approved, Options) {
    install_tls();
    let http = Http::new(HttpTimeouts {
        request,
        ..HttpTimeouts::default()
    })
    .unwrap();
    let api = Api::new(
        &http,
        HttpUrl::parse(&world.sandbox.url(), UrlPolicy::api(false)).unwrap(),
        UpdateMethod::Patch,
    )
    .unwrap()
    .with_write_guard(guard);
    let key = KeySource::Variable(Some(Secret::new(world.sandbox.keys().write.clone())))
        .read()
        .unwrap();
    let options = options();
    let reader = api.reader(&key, options.deadline);
    let source = source(world.definitions());
    let mut desired = reconcile::load(&source, api.scrubber()).unwrap();
    let look = reconcile::plan_workspace(
        &source,
        &mut desired,
        &reader,
        None,
        api.method(),
        &AppliedState::new(),
    )
    .await
    .unwrap();
    let writer = api.writer(&reader);
    (
        reader,
        writer,
        look.plan.approve(&Limits::default()).unwrap(),
        options,
    )
}

fn source(definitions: std::path::PathBuf) -> reconcile::Source {
    reconcile::Source {
        definitions: calry_gitops::reconcile::DefinitionsSource::Directory(definitions),
        secrets: SecretSources::new(None),
        missing: MissingSecrets::Error,
        strict: false,
        only: Vec::new(),
        base: None,
        trust: None,
        workspace: None,
        policies: None,
    }
}

fn options() -> Options {
    Options {
        caller: Caller::Command { concurrency: 8 },
        method: UpdateMethod::Patch,
        fetched: Instant::now(),
        deadline: Instant::now() + Duration::from_secs(60),
        skip: BTreeMap::new(),
        backups: None,
        stop: CancellationToken::new(),
    }
}

fn outcome(report: &Report, provider: &str) -> Outcome {
    report
        .results
        .iter()
        .find(|r| r.provider.as_str() == provider)
        .unwrap()
        .outcome
        .clone()
}

#[test]
fn an_update_that_the_write_guard_refuses_is_not_sent_and_stops_the_others() {
    #[derive(Debug)]
    struct Refuses;
    impl WriteGuard for Refuses {
        fn begin(&self) -> Result<Duration, String> {
            Err("this replica is not the leader".to_owned())
        }
        fn end(&self, _: bool) {}
    }
    let world = changed(3, Config::default());
    let report = Runtime::new().unwrap().block_on(async {
        let request = Duration::from_secs(5);
        let (reader, writer, approved, options) =
            planned_with(&world, request, Arc::new(Refuses)).await;
        apply(&approved, &reader, &writer, &options, |_| {}).await
    });
    assert_eq!(report.results.len(), 3);
    for result in &report.results {
        let is_skipped =
            matches!(&result.outcome, Outcome::Skipped(why) if why.contains("not the leader"));
        assert!(is_skipped, "{:?}", result.outcome);
        assert_eq!(result.sent, 0, "{}", result.provider);
    }
    assert!(world.updates().is_empty());
}

#[test]
fn after_a_time_out_an_update_that_arrived_counts_as_applied_and_is_not_sent_twice() {
    let world = changed(1, Config::default());
    world
        .sandbox
        .inject(update_fault(FaultKind::Delay(Duration::from_secs(2))));
    let report = Runtime::new().unwrap().block_on(async {
        let (reader, writer, approved, options) = planned(&world, Duration::from_millis(500)).await;
        apply(&approved, &reader, &writer, &options, |_| {}).await
    });
    assert_eq!(outcome(&report, "P00"), Outcome::Applied);
    assert_eq!(methods(&world, "P00"), "PATCH GET");
}

#[test]
fn what_waits_at_a_rate_limit_is_not_sent_after_a_stop() {
    let world = limited(4, "5");
    let (report, took) = Runtime::new().unwrap().block_on(async {
        let (reader, writer, approved, mut options) =
            planned(&world, Duration::from_secs(10)).await;
        options.caller = Caller::Command { concurrency: 2 };
        let (stop, begin) = (options.stop.clone(), Instant::now());
        // P02 reaches the gate when P01 is done.
        let report = apply(&approved, &reader, &writer, &options, |done| {
            if done.provider.as_str() == "P01" {
                let stop = stop.clone();
                tokio::spawn(async move {
                    sleep(Duration::from_millis(100)).await;
                    stop.cancel();
                });
            }
        })
        .await;
        (report, begin.elapsed())
    });
    assert_eq!(outcome(&report, "P01"), Outcome::Applied);
    for waiting in ["P00", "P02", "P03"] {
        assert!(
            matches!(outcome(&report, waiting), Outcome::Skipped(why) if why.contains("stopped")),
            "{report:?}"
        );
    }
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(world.updates().len(), 2);
}

#[test]
fn a_plan_that_grows_old_at_a_rate_limit_is_read_again() {
    let world = limited(4, "2");
    let report = Runtime::new().unwrap().block_on(async {
        let (reader, writer, approved, mut options) =
            planned(&world, Duration::from_secs(10)).await;
        options.caller = Caller::Command { concurrency: 2 };
        options.fetched = Instant::now() - (STALE - Duration::from_millis(1500));
        apply(&approved, &reader, &writer, &options, |_| {}).await
    });
    assert!(
        report.results.iter().all(|r| r.outcome == Outcome::Applied),
        "{report:?}"
    );
    assert_eq!(methods(&world, "P00"), "PATCH GET PATCH");
    assert_eq!(methods(&world, "P02"), "GET PATCH");
}

/// A Calry in memory: each update takes its time, and everything that is asked is taken down.
struct Fake {
    live: Mutex<BTreeMap<Provider, Live>>,
    /// How long an update takes, and how long a read.
    takes: Duration,
    reads: Duration,
    asked: Mutex<Vec<String>>,
    sent: Mutex<Vec<Update>>,
}

impl Fake {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn click(&self, change: impl Fn(&mut Live)) {
        for live in self.live.lock().unwrap().values_mut() {
            change(live);
            live.updated_at = "2026-02-02T00:00:00.000Z".to_owned();
        }
    }
}

impl ReadCalry for Fake {
    async fn workspace(&self) -> Result<Workspace, Error> {
        unreachable!("the update loop has no business there")
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        unreachable!("the update loop has no business there")
    }

    async fn definition(&self, provider: &Provider) -> Result<Live, Error> {
        self.asked.lock().unwrap().push(format!("read {provider}"));
        sleep(self.reads).await;
        Ok(self.live.lock().unwrap()[provider].clone())
    }
}

impl WriteCalry for Fake {
    async fn update(&self, provider: &Provider, update: &Update) -> Result<Live, Error> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("update {provider}"));
        self.sent.lock().unwrap().push(update.clone());
        sleep(self.takes).await;
        let mut all = self.live.lock().unwrap();
        let live = all.get_mut(provider).unwrap();
        if let Some(key) = update.partner_key.clone() {
            live.partner_key = key.map(LiveValue::from);
        }
        for (group, on) in update.fields.iter().flatten() {
            live.fields
                .get_mut(group)
                .unwrap()
                .iter_mut()
                .for_each(|(field, is)| *is = on.contains(field));
        }
        Ok(live.clone())
    }
}

/// A writer that breaks at one provider.
struct Faulty<'a>(&'a Fake);

impl WriteCalry for Faulty<'_> {
    async fn update(&self, provider: &Provider, update: &Update) -> Result<Live, Error> {
        assert_ne!(provider.as_str(), "P01", "hunter2");
        self.0.update(provider, update).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_one_update_is_its_failure_alone_and_repeats_nothing() {
    let (fake, approved) = faked(3, Duration::from_secs(1));
    let report = apply(&approved, &fake, &Faulty(&fake), &options(), |_| {}).await;
    assert!(
        matches!(outcome(&report, "P01"), Outcome::Failed(why) if why.contains("an internal error"))
    );
    assert_eq!(report.results[1].sent, 1, "it may have arrived");
    assert_eq!(
        (outcome(&report, "P00"), outcome(&report, "P02")),
        (Outcome::Applied, Outcome::Applied)
    );
    assert!(!format!("{report:?}").contains("hunter2"));
}

/// A writer whose updates arrive and are answered with an error.
struct Unanswered<'a>(&'a Fake, Error);

impl WriteCalry for Unanswered<'_> {
    async fn update(&self, provider: &Provider, update: &Update) -> Result<Live, Error> {
        self.0.update(provider, update).await?;
        Err(self.1.clone())
    }
}

#[test]
fn an_update_without_a_readable_answer_counts_even_if_no_time_of_change_moved() {
    let world = changed(1, Config::default());
    world.sandbox.inject(update_fault(FaultKind::Garbage));
    let (fake, approved) = faked(1, Duration::ZERO);
    let report = Runtime::new().unwrap().block_on(async {
        let (_, writer, planned, _) = planned(&world, Duration::from_secs(10)).await;
        let step = planned.plan().steps().next().unwrap();
        let update = step.payload.update.clone().unwrap();
        let answer = writer.update(&step.desired.provider, &update).await;
        let writer = Unanswered(&fake, answer.unwrap_err());
        apply(&approved, &fake, &writer, &options(), |_| {}).await
    });
    assert_eq!(outcome(&report, "P00"), Outcome::Applied);
    assert_eq!(fake.asked(), ["update P00", "read P00"]);
}

fn section(name: &str, value: &str) -> BTreeMap<String, Secret> {
    BTreeMap::from([(name.to_owned(), Secret::new(value))])
}

fn live_half(name: &str, value: &str) -> BTreeMap<String, LiveValue> {
    BTreeMap::from([(name.to_owned(), LiveValue::Value(Secret::new(value)))])
}

/// That many providers; of each, git wants another header value and the field `pictures`; query parameters and the
/// group `rates` are unmanaged.
fn faked(providers: usize, takes: Duration) -> (Fake, Approved) {
    faked_with(providers, takes, false)
}

/// The same; `whole`: git manages everything that the update sends.
fn faked_with(providers: usize, takes: Duration, whole: bool) -> (Fake, Approved) {
    let provider = |n| Provider::parse(&format!("P{n:02}")).unwrap();
    let text = str::to_owned;
    let live = |n| Live {
        id: "id".to_owned(),
        name: "name".to_owned(),
        provider: provider(n),
        icon: None,
        partner_key: PartnerKey {
            headers: Some(section("x", "old")),
            query_params: Some(section("q", "kept")),
        }
        .map(LiveValue::from),
        fields: BTreeMap::from([
            (
                text("listing"),
                BTreeMap::from([(text("name"), true), (text("pictures"), false)]),
            ),
            (
                text("rates"),
                BTreeMap::from([(text("nightly"), true), (text("weekly"), false)]),
            ),
        ]),
        updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
        problems: LiveProblems::default(),
    };
    let value = DesiredValue {
        template: Template::parse("${secret:s}").unwrap(),
        value: Some(Secret::new("new")),
    };
    let kept = DesiredValue {
        template: Template::parse("kept").unwrap(),
        value: Some(Secret::new("kept")),
    };
    let desired = |n| Desired {
        provider: provider(n),
        icon: None,
        partner_key: DesiredPartnerKey {
            headers: Some(BTreeMap::from([(text("x"), value.clone())])),
            query_params: whole.then(|| BTreeMap::from([(text("q"), kept.clone())])),
        },
        fields: [(text("listing"), [text("name"), text("pictures")].into())]
            .into_iter()
            .chain(whole.then(|| (text("rates"), [text("nightly")].into())))
            .collect(),
        hold: None,
    };
    let files = (0..providers).map(|n| PlanInput {
        file: format!("p{n:02}.yaml"),
        provider: Some(provider(n)),
        desired: Some(Arc::new(desired(n))),
    });
    let workspace = Workspace {
        id: text("1"),
        name: text("Acme"),
        slug: text("acme"),
    };
    let applied = AppliedState::new();
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method: UpdateMethod::Patch,
        applied: &applied,
        base: None,
    };
    let plan = plan(
        workspace,
        None,
        files,
        (0..providers).map(live),
        &[],
        context,
    );
    let fake = Fake {
        live: Mutex::new((0..providers).map(|n| (provider(n), live(n))).collect()),
        takes,
        reads: Duration::ZERO,
        asked: Mutex::default(),
        sent: Mutex::default(),
    };
    (fake, plan.approve(&Limits::default()).unwrap())
}

/// Applies the plan for one provider at that age; meanwhile there is a click in the console.
async fn applied_late(age: Duration, click: impl Fn(&mut Live)) -> (Fake, Outcome) {
    let (fake, approved) = faked(1, Duration::ZERO);
    let outcome = apply_late(&fake, &approved, age, click).await;
    (fake, outcome)
}

async fn apply_late(
    fake: &Fake,
    approved: &Approved,
    age: Duration,
    click: impl Fn(&mut Live),
) -> Outcome {
    let options = options();
    fake.click(click);
    advance(age).await;
    let report = apply(approved, fake, fake, &options, |_| {}).await;
    outcome(&report, "P00")
}

const OLD: Duration = Duration::from_secs(6);

#[tokio::test(start_paused = true)]
async fn a_plan_is_read_again_only_if_it_is_old_and_sooner_if_it_carries_unmanaged_parts() {
    let later = Duration::from_millis(1);
    for (whole, limit) in [(true, STALE), (false, STALE_IF_CARRIED)] {
        for (age, expected) in [
            (limit, vec!["update P00"]),
            (limit + later, vec!["read P00", "update P00"]),
        ] {
            let (fake, approved) = faked_with(1, Duration::ZERO, whole);
            assert_eq!(
                apply_late(&fake, &approved, age, |_| {}).await,
                Outcome::Applied
            );
            assert_eq!(fake.asked(), expected, "{whole}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_what_git_does_not_manage_in_the_seconds_before_an_update_is_kept() {
    let (fake, outcome) = applied_late(Duration::from_millis(1400), |live| {
        live.fields
            .get_mut("rates")
            .unwrap()
            .insert("weekly".to_owned(), true);
    })
    .await;
    assert_eq!(outcome, Outcome::Applied);
    assert!(fake.sent.lock().unwrap()[0].fields.as_ref().unwrap()["rates"].contains("weekly"));
}

#[tokio::test(start_paused = true)]
async fn however_slow_calry_is_an_update_is_sent_after_exactly_one_more_read() {
    for seconds in [4, 8, 29] {
        for whole in [true, false] {
            let takes = Duration::from_secs(seconds);
            let (fake, approved) = faked_with(3, takes, whole);
            let fake = Fake {
                reads: takes,
                ..fake
            };
            let options = Options {
                caller: Caller::Command { concurrency: 1 },
                ..options()
            };
            advance(OLD).await;
            let report = apply(&approved, &fake, &fake, &options, |_| {}).await;
            assert!(
                report
                    .results
                    .iter()
                    .all(|r| r.outcome == Outcome::Applied && r.sent == 1),
                "{report:?}"
            );
            let each = ["P00", "P01", "P02"]
                .iter()
                .flat_map(|p| [format!("read {p}"), format!("update {p}")]);
            assert_eq!(fake.asked(), each.collect::<Vec<_>>());
        }
    }
}

/// A Calry whose answers take so long, each.
struct Slow {
    workspace: Duration,
    definitions: Duration,
}

impl ReadCalry for Slow {
    async fn workspace(&self) -> Result<Workspace, Error> {
        sleep(self.workspace).await;
        Ok(Workspace {
            id: "1".to_owned(),
            name: "Acme".to_owned(),
            slug: "acme".to_owned(),
        })
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        sleep(self.definitions).await;
        Ok(Listing::default())
    }

    async fn definition(&self, _: &Provider) -> Result<Live, Error> {
        unreachable!("a plan does not read single definitions")
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_plan_counts_from_the_answer_with_the_definitions() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("p00.yaml"), "provider: P00\n").unwrap();
    let source = source(directory.path().to_owned());
    for (workspace, definitions, age) in [(0, 8, 0), (3, 8, 0), (10, 8, 2)] {
        let mut desired = reconcile::load(&source, &Scrubber::default()).unwrap();
        let (workspace, definitions) = (
            Duration::from_secs(workspace),
            Duration::from_secs(definitions),
        );
        let slow = Slow {
            workspace,
            definitions,
        };
        let method = UpdateMethod::Patch;
        let look = reconcile::plan_workspace(
            &source,
            &mut desired,
            &slow,
            None,
            method,
            &AppliedState::new(),
        )
        .await
        .unwrap();
        assert_eq!(look.fetched.elapsed().as_secs(), age);
    }
}

#[tokio::test(start_paused = true)]
async fn what_became_unreadable_since_the_plan_is_not_taken_for_unchanged() {
    let (fake, outcome) = applied_late(OLD, |live| {
        live.partner_key.headers = Some(live_half("x", "new"));
        live.fields.clear();
        live.problems.fields = Some("`fieldsToSync` is absent".to_owned());
    })
    .await;
    assert!(matches!(outcome, Outcome::Skipped(why) if why.contains("plan again")));
    assert_eq!(fake.asked(), ["read P00"]);
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_was_replaced_since_the_plan_is_left_alone() {
    let (fake, outcome) = applied_late(OLD, |live| live.id = "another".to_owned()).await;
    assert!(matches!(outcome, Outcome::Skipped(why) if why.contains("plan again")));
    assert_eq!(fake.asked(), ["read P00"]);
}

#[tokio::test(start_paused = true)]
async fn what_git_does_not_manage_and_changed_meanwhile_is_carried_over_as_it_is_now() {
    let (fake, outcome) = applied_late(OLD, |live| {
        live.partner_key.query_params = Some(live_half("q", "clicked"));
        live.fields
            .get_mut("rates")
            .unwrap()
            .insert("weekly".to_owned(), true);
    })
    .await;
    assert_eq!(outcome, Outcome::Applied);
    let sent = fake.sent.lock().unwrap()[0].clone();
    assert_eq!(
        sent.partner_key.unwrap().query_params,
        Some(section("q", "clicked"))
    );
    assert!(sent.fields.unwrap()["rates"].contains("weekly"));
}

#[tokio::test(start_paused = true)]
async fn what_git_manages_and_a_person_changed_meanwhile_is_not_overwritten() {
    let (fake, outcome) = applied_late(OLD, |live| {
        live.fields
            .get_mut("listing")
            .unwrap()
            .insert("name".to_owned(), false);
    })
    .await;
    assert!(matches!(outcome, Outcome::Skipped(why) if why.contains("plan again")));
    assert_eq!(fake.asked(), ["read P00"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_as_desired_by_now_is_left_alone() {
    let (fake, outcome) = applied_late(OLD, |live| {
        live.partner_key.headers = Some(live_half("x", "new"));
        live.fields
            .get_mut("listing")
            .unwrap()
            .insert("pictures".to_owned(), true);
    })
    .await;
    assert_eq!(
        (fake.asked(), outcome),
        (vec!["read P00".to_owned()], Outcome::Unchanged)
    );
}

/// Options of a loop with that many turns, and the sender that withdraws updates.
fn in_a_loop(turns: usize) -> (Options, watch::Sender<Withdrawal>) {
    let (withdraw, withdrawn) = watch::channel(Withdrawal::Nothing);
    let turns = Arc::new(ConcurrencyLimit::new(turns, turns, Duration::from_secs(2)));
    (
        Options {
            caller: Caller::Loop { turns, withdrawn },
            ..options()
        },
        withdraw,
    )
}

#[test]
fn in_a_loop_an_update_is_attempted_once_and_judged_by_what_is_there() {
    let cases = [
        (status(503, None), "PATCH GET", "failed", Some(0)),
        (status(503, Some("7")), "PATCH", "failed", Some(7)),
        (status(429, Some("7")), "PATCH", "failed", Some(7)),
        (status(400, None), "PATCH", "failed", None),
        (status(500, None), "PATCH", "failed", None),
        (FaultKind::DropBefore, "PATCH GET", "failed", Some(0)),
        (FaultKind::DropAfter, "PATCH GET", "applied", None),
    ];
    for (kind, expected, ends, wait) in cases {
        let world = changed(1, Config::default());
        world.sandbox.inject(update_fault(kind.clone()).times(9));
        let report = Runtime::new().unwrap().block_on(async {
            let (reader, writer, approved, _) = planned(&world, Duration::from_secs(10)).await;
            apply(&approved, &reader, &writer, &in_a_loop(8).0, |_| {}).await
        });
        let result = &report.results[0];
        assert_eq!(
            (result.outcome.as_str(), methods(&world, "P00").as_str()),
            (ends, expected),
            "{kind:?}"
        );
        assert_eq!(result.transient, wait.map(Duration::from_secs), "{kind:?}");
    }
}

#[test]
fn in_a_loop_an_update_that_a_rate_limit_held_back_is_sent_after_it() {
    let world = limited(3, "1");
    let report = Runtime::new().unwrap().block_on(async {
        let (reader, writer, approved, _) = planned(&world, Duration::from_secs(10)).await;
        apply(&approved, &reader, &writer, &in_a_loop(1).0, |_| {}).await
    });
    assert_eq!(outcome(&report, "P00").as_str(), "failed");
    assert_eq!(outcome(&report, "P01"), Outcome::Applied);
    assert_eq!(outcome(&report, "P02"), Outcome::Applied);
    assert!(report.results.iter().all(|result| result.sent == 1));
}

#[tokio::test(start_paused = true)]
async fn what_git_takes_back_before_its_turn_is_not_sent_and_the_others_are() {
    let (fake, approved) = faked(4, Duration::from_secs(1));
    let (options, withdraw) = in_a_loop(1);
    let begin = Instant::now();
    let news = async {
        sleep(Duration::from_millis(500)).await;
        let these = ["P00", "P02"].map(|provider| Provider::parse(provider).unwrap());
        withdraw.send_replace(Withdrawal::These(these.into()));
    };
    let ended = Mutex::new(BTreeMap::new());
    let note = |result: &UpdateResult| {
        ended
            .lock()
            .unwrap()
            .insert(result.provider.to_string(), begin.elapsed());
    };
    let (report, ()) = tokio::join!(apply(&approved, &fake, &fake, &options, note), news);
    // What was sent already is not dropped.
    assert_eq!(
        fake.asked(),
        ["update P00", "update P01", "read P03", "update P03"]
    );
    assert!(
        matches!(outcome(&report, "P02"), Outcome::Skipped(why) if why.contains("the files have changed"))
    );
    assert_eq!(outcome(&report, "P00"), Outcome::Applied);
    assert!(
        ended.lock().unwrap()["P02"] < Duration::from_secs(1),
        "it waits for no turn to be skipped"
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_that_hangs_gives_its_turn_to_the_next() {
    let (fake, approved) = faked(3, Duration::from_secs(5));
    let (options, _withdraw) = in_a_loop(1);
    let begin = Instant::now();
    let report = apply(&approved, &fake, &fake, &options, |_| {}).await;
    assert!(
        report
            .results
            .iter()
            .all(|result| result.outcome == Outcome::Applied),
        "{report:?}"
    );
    // At 0, 2 and, as only one more may be slow, 5 seconds.
    assert_eq!(begin.elapsed().as_secs(), 10);
}

/// Applies three providers, one after the other, and stops after a second.
async fn stopped_after_a_second(takes: Duration) -> (Fake, Report, Duration) {
    let (fake, approved) = faked(3, takes);
    let options = Options {
        caller: Caller::Command { concurrency: 1 },
        ..options()
    };
    let begin = Instant::now();
    let stop = async {
        sleep(Duration::from_secs(1)).await;
        options.stop.cancel();
    };
    let (report, ()) = tokio::join!(apply(&approved, &fake, &fake, &options, |_| {}), stop);
    (fake, report, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_the_update_under_way_ends_and_no_other_starts() {
    let (fake, report, took) = stopped_after_a_second(Duration::from_secs(3)).await;
    assert_eq!(outcome(&report, "P00"), Outcome::Applied);
    for provider in ["P01", "P02"] {
        assert!(
            matches!(outcome(&report, provider), Outcome::Skipped(why) if why.contains("stopped before"))
        );
    }
    assert_eq!(
        (fake.asked(), took),
        (vec!["update P00".to_owned()], Duration::from_secs(3))
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_that_does_not_end_after_a_stop_is_given_up_and_called_unknown() {
    let (fake, report, took) = stopped_after_a_second(Duration::from_secs(50)).await;
    assert!(
        matches!(outcome(&report, "P00"), Outcome::Failed(why) if why.contains("may have arrived"))
    );
    assert_eq!(fake.asked().len(), 1);
    assert!(
        took >= GRACE && took <= GRACE + Duration::from_millis(1100),
        "{took:?}"
    );
}
