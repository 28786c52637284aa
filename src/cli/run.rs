//! `run`: the daemon. Prepares each workspace of the configuration and runs its loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::config::{Configuration, WorkspaceConfig};
use super::git_args::Repositories;
use super::output::WORKSPACE_SPAN;
use super::{Exit, Output, UsageError, listener, signals};
use crate::daemon::{
    self, Handle, LoopEnd, LoopFile, LoopSettings, Observer, ReconciliationReport, Repository,
    Slot, StateStore, StatusPublisher, UpdateListener, WorkspaceGroup,
};
use crate::desired::definitions::MissingSecrets;
use crate::desired::watch::WatchOptions;
use crate::http::{self, Http, HttpUrl, install_tls};
use crate::ops::admin::Admin;
use crate::ops::history::WorkspaceHistory;
use crate::ops::kubernetes::{EventWriter, Replica};
use crate::ops::metrics::{Metrics, WorkspaceMetrics};
use crate::ops::notifications::{Notifier, WorkspaceNotifier};
use crate::plan::MaxChanges;
use crate::reconcile::DefinitionsSource;
use crate::report::history::HistoryWriter;
use crate::report::links::{Links, RepositoryUrl, page_url};
use crate::report::status::{Mode, Trigger};
use crate::sandbox::Sandbox;

/// How long the end of the process waits for a running fetch.
const FETCH_GRACE: Duration = Duration::from_secs(1);

/// What the workspaces share.
struct Shared {
    http: Http,
    state: Arc<StateStore>,
    notifier: Notifier,
    cluster: Replica,
    external_url: Option<HttpUrl>,
    state_dir: Option<PathBuf>,
}

/// One workspace, prepared for its loop.
struct PreparedWorkspace {
    settings: LoopSettings,
    handle: Handle,
    metrics: Arc<WorkspaceMetrics>,
    workspace_notifier: Arc<WorkspaceNotifier>,
    history: Arc<WorkspaceHistory>,
    events: Option<EventWriter>,
    /// The definitions directory as the operator wrote it.
    shown: String,
    /// Names the workspace in the log.
    span: Span,
    /// Runs until this is dropped.
    sandbox: Option<Sandbox>,
}

impl PreparedWorkspace {
    fn log(&self, report: &ReconciliationReport) {
        daemon::log::reconciliation(report, self.settings.mode, &self.shown);
    }

    /// Reports a reconciliation to metrics, log, history, notifications and Events.
    fn publish(&self, report: &ReconciliationReport) {
        self.metrics.count_reconciliation(report);
        self.log(report);
        self.history.record(report);
        // Only the leader sends notifications and Events.
        if !report.findings.standby {
            self.workspace_notifier.notify_result(report);
            self.events.iter().for_each(|events| events.write(report));
        }
    }
}

async fn prepare_workspace(
    workspace: &WorkspaceConfig,
    slot: Slot,
    shared: &Shared,
    repositories: &mut Repositories,
) -> anyhow::Result<PreparedWorkspace> {
    let (workspace_loop, source) = (&workspace.args.workspace_loop, &workspace.args.source);
    let trust = workspace.args.git.verifying(source.trust.trust())?;
    let fetched = workspace.args.git.repository(
        repositories,
        source.live.insecure_http(),
        trust.is_some(),
        shared.state_dir.as_deref(),
    )?;
    if fetched.is_none() {
        source.live.check_trial()?;
    }
    let mut setup = source
        .live
        .set_up_on(shared.http.clone(), MissingSecrets::Error)
        .await?;
    setup.source.trust = trust;
    setup.source.policies = source.policies.file();
    let repository = fetched.map(|(repository, path)| {
        setup.shown = path.to_string();
        setup.source.definitions = DefinitionsSource::Git {
            remote: Arc::clone(repository.remote()),
            path,
        };
        repository
    });
    let span = workspace.name.as_deref().map_or_else(Span::none, |name| {
        tracing::error_span!(WORKSPACE_SPAN, workspace = name)
    });
    let external_url = shared.external_url.as_ref().map(HttpUrl::to_string);
    let links = Links {
        page: external_url.map(|url| page_url(&url, slot.name())),
        repository: workspace_loop.repository_url()?.or_else(|| {
            let url = repository.as_ref()?.remote().url().to_string();
            RepositoryUrl::parse(url.trim_end_matches(".git")).ok()
        }),
        directory: setup.repository_path(),
    };
    let notifier = shared.notifier.for_workspace(slot.name(), links.clone());
    let workspace_notifier = Arc::new(notifier);
    let applying = Arc::clone(&workspace_notifier);
    let api = match &setup.sandbox {
        // Its address changes with each start.
        Some(_) => "the sandbox".to_owned(),
        None => setup.api.url().to_string(),
    };
    let history = Arc::new(WorkspaceHistory::new(
        shared.state_dir.as_deref(),
        slot.name(),
        HistoryWriter::Daemon,
    ));
    let recording = Arc::clone(&history);
    let observers: Vec<Arc<dyn Observer>> = vec![
        Arc::clone(&workspace_notifier) as _,
        Arc::clone(&history) as _,
    ];
    let loop_file = LoopFile::new(
        &shared.state,
        slot.name(),
        &setup.source.definitions,
        &api,
        Arc::new(observers),
    );
    let mut settings = LoopSettings {
        source: setup.source.into(),
        repository: repository.clone(),
        links,
        key: setup.key,
        key_expiry: setup.key_expiry,
        api: setup.api,
        interval: workspace_loop.interval,
        mode: workspace_loop.mode(),
        max_changes: match (&setup.sandbox, workspace_loop.max_changes) {
            // The first plan of a sandbox changes most providers, and that does no harm.
            (Some(_), MaxChanges::Share(_)) => MaxChanges::Unlimited,
            (_, max_changes) => max_changes,
        },
        concurrency: workspace_loop.concurrency.get().into(),
        timeout: setup.timeout,
        backups: workspace.args.backups.open()?,
        watch_options: WatchOptions::default(),
        apply_listener: Some(Box::new(move |plan| applying.notify_start(plan))),
        update_listener: Some(UpdateListener::new(move |plan, result| {
            recording.record_update(plan, result);
        })),
        state: Arc::clone(&shared.state),
        loop_file: Arc::new(loop_file),
        leadership: shared.cluster.leadership(slot.name()),
        slot,
    };
    let events = shared.cluster.events(settings.slot.name());
    let shown = setup.shown;
    let handle = Handle::new(StatusPublisher::new(&settings, &shown)).with_repository(repository);
    let name = settings.slot.name().unwrap_or(&shown).to_owned();
    let metrics = Arc::new(WorkspaceMetrics::new(
        &name,
        &settings,
        Arc::clone(handle.publisher()),
    ));
    let write_guard = Arc::new(settings.leadership.clone());
    if workspace.args.once {
        settings.api = settings.api.for_one_command();
    }
    settings.api = settings
        .api
        .with_observer(Arc::clone(&metrics) as _)
        .with_write_guard(write_guard);
    Ok(PreparedWorkspace {
        settings,
        handle,
        metrics,
        workspace_notifier,
        history,
        events,
        shown,
        span,
        sandbox: setup.sandbox,
    })
}

async fn prepare_workspaces(
    configuration: &Configuration,
    shared: &Shared,
    repositories: &mut Repositories,
) -> anyhow::Result<Vec<PreparedWorkspace>> {
    let names = configuration
        .workspaces
        .iter()
        .map(|workspace| workspace.name.clone())
        .collect();
    let mut all = Vec::new();
    for (workspace, slot) in configuration
        .workspaces
        .iter()
        .zip(WorkspaceGroup::slots(names))
    {
        let prepared = prepare_workspace(workspace, slot, shared, repositories).await;
        all.push(
            prepared.map_err(|error| match (&workspace.name, error.downcast()) {
                (Some(name), Ok(UsageError(why))) => {
                    UsageError(format!("workspace {name}: {why}")).into()
                }
                (None, Ok(usage)) => usage.into(),
                (Some(name), Err(error)) => error.context(format!("workspace {name}")),
                (None, Err(error)) => error,
            })?,
        );
    }
    Ok(all)
}

/// How to try the sandboxes of the workspaces.
fn sandbox_banner(all: &[PreparedWorkspace]) -> String {
    match all {
        [
            PreparedWorkspace {
                sandbox: Some(sandbox),
                settings,
                shown,
                ..
            },
        ] => {
            let edit = match &settings.repository {
                Some(_) => "push a commit".to_owned(),
                None => format!("edit and save a file in {shown}/"),
            };
            format!(
                "{}\nOr {edit}. Results appear below; stop with Ctrl-C.\n\n",
                sandbox.banner()
            )
        }
        _ => {
            let line = |workspace: &PreparedWorkspace| {
                let sandbox = workspace.sandbox.as_ref()?;
                let name = workspace.settings.slot.name()?;
                Some(format!(
                    "Local Calry sandbox for {name}: {} (WRITE key {})\n",
                    sandbox.url(),
                    sandbox.keys().write
                ))
            };
            all.iter().filter_map(line).collect()
        }
    }
}

/// What the daemon does, in a sentence.
fn greeting(all: &[PreparedWorkspace]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match all {
        [
            PreparedWorkspace {
                settings, shown, ..
            },
        ] => {
            let (api, interval) = (
                settings.api.url(),
                humantime::format_duration(settings.interval),
            );
            let of = match &settings.repository {
                Some(repository) => {
                    let remote = repository.remote();
                    format!(" of {} ({})", remote.url(), remote.reference())
                }
                None => String::new(),
            };
            match settings.mode {
                Mode::Enforce => format!(
                    "calry-gitops {version} keeps {api} equal to {shown}/{of}, checking every {interval}"
                ),
                Mode::Observe => format!(
                    "calry-gitops {version} compares {api} with {shown}/{of} every {interval}; it observes, and writes nothing"
                ),
            }
        }
        all => {
            let observed = all
                .iter()
                .filter(|workspace| workspace.settings.mode == Mode::Observe)
                .count();
            let observed = if observed == 0 {
                String::new()
            } else {
                format!(" ({observed} of them only observed)")
            };
            format!(
                "calry-gitops {version} keeps {} workspaces{observed}",
                all.len()
            )
        }
    }
}

/// Starts the task of a repository, and publishes its state for each of its workspaces.
fn fetch_in_background(
    repository: &Arc<Repository>,
    all: &[PreparedWorkspace],
    stop: &CancellationToken,
    fetching: &mut JoinSet<()>,
) {
    let is_of = |workspace: &&PreparedWorkspace| {
        let own = workspace.settings.repository.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, repository))
    };
    let publishers: Vec<_> = all
        .iter()
        .filter(is_of)
        .map(|workspace| Arc::clone(workspace.handle.publisher()))
        .collect();
    let mut states = repository.subscribe();
    tokio::spawn(async move {
        loop {
            let status = states.borrow_and_update().status.clone();
            for publisher in &publishers {
                publisher.publish_repository(&status);
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    });
    let (repository, stop) = (Arc::clone(repository), stop.clone());
    fetching.spawn(async move { repository.run(&stop).await });
}

/// Raises the limit of open files to the maximum: many workspaces with as many APIs need more than the usual 1,024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If that is refused, the usual limit is enough for all but the largest configurations.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

pub(super) async fn run(configuration: &Configuration, output: &Output) -> anyhow::Result<Exit> {
    // First of all: a signal that arrives before its handler kills the process.
    let stop = signals::stop_token()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let args = &configuration.args;
    let external_url = args.http.external_url()?;
    if args.print_config {
        for workspace in &configuration.workspaces {
            workspace.args.source.live.api_url()?;
            workspace.args.workspace_loop.repository_url()?;
            workspace.args.backups.open()?;
        }
        output.result(&configuration.print());
        return Ok(Exit::Done);
    }
    for sentence in configuration.overridden() {
        tracing::warn!("{sentence}");
    }
    raise_open_files();
    install_tls();
    let http = Http::new(http::HttpTimeouts::default())?;
    let mut targets = configuration.notifications.targets.clone();
    if let Some(url) = &external_url {
        for target in &mut targets {
            target.link_to(&page_url(&url.to_string(), None));
        }
    }
    let shared = Shared {
        cluster: tokio::select! {
            cluster = args.cluster.set_up(args.once) => cluster?,
            () = stop.cancelled() => {
                // A daemon that is stopped has done its work; a reconciliation that did not run has not.
                if args.once {
                    bail!("stopped before anything was reconciled; nothing was changed");
                }
                return Ok(Exit::Done);
            }
        },
        notifier: Notifier::start(targets, &http),
        http,
        external_url,
        state_dir: args.state_dir.clone(),
        state: Arc::new(match &args.state_dir {
            Some(directory) => StateStore::open(directory, args.source.fingerprints.key()?)?,
            None => StateStore::in_process()?,
        }),
    };
    let mut repositories = Repositories::default();
    let all = prepare_workspaces(configuration, &shared, &mut repositories).await?;
    let Shared {
        cluster,
        notifier,
        http,
        ..
    } = shared;
    output.result(&sandbox_banner(&all));
    if args.once {
        let fetches = repositories.all().map(|one| one.run_once(&stop));
        futures_util::future::join_all(fetches).await;
        let reconciliations = all.iter().map(|workspace| {
            let reconciliation = async {
                let report = daemon::once(&workspace.settings, &stop).await;
                workspace.log(&report);
                workspace.history.record(&report);
                workspace.settings.loop_file.save().await;
                workspace.history.settle(WorkspaceHistory::GRACE).await;
                let faults = report.faults();
                Exit::Failed
                    .when(faults.failed)
                    .or(Exit::Invalid.when(faults.invalid_definitions))
            };
            reconciliation.instrument(workspace.span.clone())
        });
        let exits = futures_util::future::join_all(reconciliations).await;
        let is_outdated = |one: &Arc<Repository>| one.state().status.failure.is_some();
        // The commit in force may not be the latest.
        let fetched = Exit::Failed.when(repositories.all().any(is_outdated));
        return Ok(exits.into_iter().fold(fetched, Exit::or));
    }
    let handles: Vec<_> = all.iter().map(|one| one.handle.clone()).collect();
    let metrics = Metrics::new(all.iter().map(|one| Arc::clone(&one.metrics)).collect());
    let metrics = metrics
        .with_repositories(repositories.all().map(Arc::clone).collect())
        .with_notifications(notifier.counters());
    let access = args.http.access()?;
    let listener = listener::open(args.http.listen, configuration.is_set("listen"))?;
    let triggered = handles.clone();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{}", greeting(&all));
    // The server runs until this is dropped.
    let admin = match listener {
        Some(listener) => {
            let admin = Admin::start(listener, handles, metrics, access, http)?;
            let address = admin.address();
            tracing::info!(%address, "listening on http://{address}/ (status page; also /api/v1/status, /metrics, /healthz, /readyz)");
            Some(admin)
        }
        None => None,
    };
    let election = cluster.start(
        all.iter()
            .map(|one| (one.settings.slot.name(), &one.handle)),
        admin.as_ref().map(Admin::address),
    );
    let loop_files: Vec<_> = all
        .iter()
        .map(|one| Arc::clone(&one.settings.loop_file))
        .collect();
    let histories: Vec<_> = all.iter().map(|one| Arc::clone(&one.history)).collect();
    let mut fetching = JoinSet::new();
    for repository in repositories.all() {
        fetch_in_background(repository, &all, &stop, &mut fetching);
    }
    let mut loops = JoinSet::new();
    for workspace in all {
        let (span, stop) = (workspace.span.clone(), stop.clone());
        let running = async move {
            daemon::run(&workspace.settings, &workspace.handle, stop, |report| {
                workspace.publish(report)
            })
            .await
        };
        loops.spawn(running.instrument(span));
    }
    let ended = async {
        let mut moved = false;
        while let Some(end) = loops.join_next().await {
            moved |= matches!(end, Ok(LoopEnd::WorkspaceMoved));
        }
        moved
    };
    let hangups = async {
        while hangup.recv().await.is_some() {
            triggered
                .iter()
                .for_each(|handle| handle.request(Trigger::Request));
            configuration.report_changes().await;
        }
        std::future::pending().await
    };
    let moved = tokio::select! {
        moved = ended => moved,
        never = hangups => never,
    };
    // No update is in progress any more: a standby may take over.
    election.stop().await;
    notifier.stop().await;
    // Notifications that were delivered at the end are not repeated after a restart.
    futures_util::future::join_all(loop_files.iter().map(|file| file.save())).await;
    let settling = histories
        .iter()
        .map(|one| one.settle(WorkspaceHistory::GRACE));
    futures_util::future::join_all(settling).await;
    stop.cancel();
    // A fetch writes into the clone until it has noticed the stop.
    let _ = tokio::time::timeout(FETCH_GRACE, fetching.join_all()).await;
    tracing::info!("stopped");
    Ok(Exit::Failed.when(moved))
}
