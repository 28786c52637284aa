//! Its speed in three figures: a reconciliation of many files, an apply against the least time that its round trips take, and
//! the metrics of many providers and of many workspaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calry_gitops::daemon::{
    Findings, LoopSettings, ReconciliationReport, ReconciliationResult, StateStore,
    StatusPublisher, WorkspaceGroup,
};
use calry_gitops::desired::definitions::MissingSecrets;
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::desired::watch::WatchOptions;
use calry_gitops::http::{self, Http, HttpUrl, UrlPolicy, install_tls};
use calry_gitops::live::{Api, Error, KeySource, Listing, ReadCalry};
use calry_gitops::model::{
    KNOWN_LISTING_FIELDS, Live, LiveProblems, LiveValue, PartnerKey, Provider, Scrubber, Secret,
    SecretName, UpdateMethod, Workspace,
};
use calry_gitops::ops::metrics::{Metrics, WorkspaceMetrics};
use calry_gitops::plan::{AppliedState, Context, Plan, PlanEntry, PlanInput, Verdict, plan};
use calry_gitops::reconcile::{self, DefinitionsSource, Source};
use calry_gitops::report::status::{Mode, Trigger};
use calry_gitops::sandbox::{Config, Seed};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::World;
use tokio::runtime::Runtime;

/// How long Calry takes for an answer.
const LATENCY: Duration = Duration::from_millis(50);

/// The default number of updates in flight.
const CONCURRENCY: usize = 8;

/// Writes files of 40 lines, each of which wants the first `on` fields.
fn write(directory: &Path, files: usize, on: usize) {
    std::fs::create_dir_all(directory).unwrap();
    for n in 0..files {
        let mut text = format!(
            "# One\n# Two\n# Three\n# Four\n# Five\nprovider: P{n:05}\nicon: https://cdn.example.com/icons/{n}.png\n\
             partnerKey:\n  headers:\n    x-api-key: ${{secret:p{n}}}\n  queryParams:\n    client_id: acme-travel\n\
             fieldsToSync:\n  listing:\n"
        );
        for (at, field) in KNOWN_LISTING_FIELDS.iter().enumerate() {
            text.push_str(&format!("    {field}: {}\n", at < on));
        }
        assert_eq!(text.lines().count(), 40);
        std::fs::write(directory.join(format!("p{n:05}.yaml")), text).unwrap();
    }
}

/// A Calry in memory, of which every provider differs from its file in six fields.
struct InMemory(Vec<Live>);

impl InMemory {
    fn new(providers: usize) -> Self {
        let live = |n| Live {
            id: format!("00000000-0000-4000-8000-{n:012x}"),
            name: format!("P{n:05} Integration"),
            provider: Provider::parse(&format!("P{n:05}")).unwrap(),
            icon: Some(format!("https://cdn.example.com/icons/{n}.png")),
            partner_key: PartnerKey {
                headers: Some(
                    [("x-api-key".to_owned(), Secret::new(format!("sandbox-p{n}")))].into(),
                ),
                query_params: Some([("client_id".to_owned(), Secret::new("acme-travel"))].into()),
            }
            .map(LiveValue::from),
            fields: [(
                "listing".to_owned(),
                KNOWN_LISTING_FIELDS
                    .iter()
                    .map(|f| ((*f).to_owned(), true))
                    .collect(),
            )]
            .into(),
            updated_at: "2026-01-01T00:00:00.000Z".to_owned(),
            problems: LiveProblems::default(),
        };
        Self((0..providers).map(live).collect())
    }
}

fn workspace() -> Workspace {
    Workspace {
        id: "1".to_owned(),
        name: "Acme".to_owned(),
        slug: "acme".to_owned(),
    }
}

impl ReadCalry for InMemory {
    async fn workspace(&self) -> Result<Workspace, Error> {
        Ok(workspace())
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        Ok(Listing {
            live: self.0.clone(),
            unreadable: Vec::new(),
        })
    }

    async fn definition(&self, _: &Provider) -> Result<Live, Error> {
        unreachable!("a plan reads the list")
    }
}

fn source(definitions: &Path) -> Source {
    Source {
        definitions: DefinitionsSource::Directory(definitions.to_owned()),
        secrets: SecretSources::new(None),
        missing: MissingSecrets::Placeholder,
        strict: false,
        only: Vec::new(),
        base: None,
        trust: None,
        workspace: None,
        policies: None,
    }
}

/// Files on disk to a plan, with Calry in memory; and the comparison alone.
fn look(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("files");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5));
    for files in [1_000, 10_000] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files, 20);
        let source = source(dir.path());
        let calry = InMemory::new(files);
        let applied = AppliedState::new();
        let once = || {
            let mut desired = reconcile::load(&source, &Scrubber::default()).unwrap();
            let looked = reconcile::plan_workspace(
                &source,
                &mut desired,
                &calry,
                None,
                UpdateMethod::Patch,
                &applied,
            );
            let looked = runtime.block_on(looked).unwrap();
            assert_eq!(looked.plan.steps().count(), files);
            (desired, looked)
        };
        group.throughput(Throughput::Elements(files as u64));
        group.bench_function(BenchmarkId::new("load, check, plan", files), |b| {
            b.iter_with_large_drop(once)
        });

        let (desired, _) = once();
        let inputs: Vec<PlanInput> = desired
            .loaded
            .files
            .iter()
            .map(|f| PlanInput {
                file: f.name.clone(),
                provider: f.provider.clone(),
                desired: f.desired.clone(),
            })
            .collect();
        let context = Context {
            today: calry_gitops::reconcile::today(),
            method: UpdateMethod::Patch,
            applied: &applied,
            base: None,
        };
        group.bench_function(BenchmarkId::new("diff", files), |b| {
            b.iter_batched(
                || (inputs.clone(), calry.0.clone()),
                |(inputs, live)| plan(workspace(), None, inputs, live, &[], context),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// The binary, from its start to its end, against a Calry that takes 50 ms for each answer. The floor counts the two reads
/// one after the other and the updates eight at a time; the reads may run at the same time, so that it can be beaten.
fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(1));
    for providers in [16, 200] {
        let seed = Seed::synthetic(providers);
        let mut world = World::new(Config {
            seed,
            latency: LATENCY,
            ..Config::default()
        });
        for n in 0..providers {
            let name = SecretName::parse(&format!("p{n}")).unwrap();
            world.env(&name.variable(), "for-trying");
        }
        // Each run changes every provider, from one of these to the other and back.
        let directories = [20, 21].map(|on| world.dir.path().join(format!("on-{on}")));
        directories
            .iter()
            .zip([20, 21])
            .for_each(|(directory, on)| write(directory, providers, on));
        let mut turn = directories.iter().cycle();
        let mut runs = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(providers), |b| {
            b.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let directory = turn.next().unwrap().to_str().unwrap();
                    let before = world.updates().len();
                    let begin = Instant::now();
                    world
                        .run(&["apply", "--yes", "--quiet", "-d", directory])
                        .exits(0);
                    let took = begin.elapsed();
                    assert_eq!(world.updates().len() - before, providers);
                    runs.push(took);
                    total += took;
                }
                total
            });
        });
        let trips = 2 + providers.div_ceil(CONCURRENCY);
        let floor = LATENCY * u32::try_from(trips).unwrap();
        runs.sort();
        if let (Some(best), Some(median)) = (runs.first(), runs.get(runs.len() / 2)) {
            let ratio = median.as_secs_f64() / floor.as_secs_f64();
            println!(
                "apply of {providers}: median {} ms, best {} ms; {trips} round trips take {} ms; the median is {ratio:.2} of that",
                median.as_millis(),
                best.as_millis(),
                floor.as_millis()
            );
        }
    }
    group.finish();
}

/// A workspace after a reconciliation of that many providers.
fn counted(name: &str, providers: usize) -> Arc<WorkspaceMetrics> {
    install_tls();
    let http = Http::new(http::HttpTimeouts::default()).unwrap();
    let url = HttpUrl::parse("http://127.0.0.1:1", UrlPolicy::api(false)).unwrap();
    let settings = LoopSettings {
        repository: None,
        links: Default::default(),
        source: Arc::new(source(Path::new("definitions"))),
        key: KeySource::Variable(None),
        key_expiry: Default::default(),
        api: Api::new(&http, url, UpdateMethod::Patch).unwrap(),
        interval: Duration::from_secs(60),
        mode: Mode::Observe,
        max_changes: calry_gitops::plan::MaxChanges::Unlimited,
        concurrency: CONCURRENCY,
        timeout: Duration::from_secs(60),
        backups: None,
        watch_options: WatchOptions::default(),
        apply_listener: None,
        update_listener: None,
        state: Arc::new(StateStore::in_process().unwrap()),
        loop_file: Arc::default(),
        slot: WorkspaceGroup::slots(vec![None]).remove(0),
        leadership: calry_gitops::daemon::Leadership::default(),
    };
    let metrics = WorkspaceMetrics::new(
        name,
        &settings,
        Arc::new(StatusPublisher::new(&settings, name)),
    );
    let entry = |n| PlanEntry {
        provider: Provider::parse(&format!("P{n:05}")).ok(),
        file: None,
        verdict: Verdict::Missing,
        unresolved: Vec::new(),
        shared: None,
        origins: None,
    };
    let entries = (0..providers).map(entry).collect();
    let plan = Plan {
        workspace: workspace(),
        revision: None,
        entries,
        digest: None,
        base: None,
        loosened: Vec::new(),
        hold: None,
        holds: Default::default(),
        overridden: None,
        snapshot: None,
        violations: Vec::new(),
    };
    metrics.count_reconciliation(&ReconciliationReport {
        delivery: None,
        number: 1,
        trigger: Trigger::Start,
        took: Duration::ZERO,
        result: ReconciliationResult::Observed(plan),
        findings: Findings::default(),
        problems: Vec::new(),
        next: None,
    });
    Arc::new(metrics)
}

/// The text of the metrics, and its samples.
fn scrape(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    for (workspaces, providers) in [(1, 20), (1, 4_000), (1_000, 20)] {
        let metrics = Metrics::new(
            (0..workspaces)
                .map(|n| counted(&format!("acme-{n}"), providers))
                .collect(),
        );
        let text = metrics.text();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!(
            "{workspaces} workspaces of {providers} providers: {series} series, {} kB",
            text.len() / 1000
        );
        group.bench_function(format!("{workspaces} x {providers}"), |b| {
            b.iter(|| metrics.text())
        });
    }
    group.finish();
}

criterion_group!(benches, look, apply, scrape);
criterion_main!(benches);
