//! `run`: the daemon.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use super::cluster::ClusterArgs;
use super::config::{Configuration, Configured};
use super::options::{FingerprintArgs, LiveArgs, TrustArgs, duration};
use super::output::OF_WORKSPACE;
use super::{Command, Exit, Output, UsageError, apply, signals};
use crate::daemon::{
    self, ApplyListener, Handle, LoopEnd, LoopFile, LoopSettings, ReconciliationReport, Slot,
    StateStore, StatusPublisher, WorkspaceGroup,
};
use crate::desired::definitions::MissingSecrets;
use crate::desired::watch::WatchOptions;
use crate::http::{self, Http, SecretFile, install_tls};
use crate::ops::admin::{Access, Admin, Hooks, Host};
use crate::ops::kubernetes::{EventWriter, Replica};
use crate::ops::metrics::{Metrics, WorkspaceMetrics};
use crate::ops::notifications::{Notifier, WorkspaceNotifier};
use crate::report::status::{Mode, Trigger};
use crate::sandbox::Sandbox;

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pace: LoopArgs,
    /// Configuration file: values of these options, for one or several workspaces. Read once, at the start
    #[arg(
        long,
        env = "CALRY_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(super) config: Option<PathBuf>,
    /// Print the effective configuration with the source of each value, then exit; makes no connection
    #[arg(long)]
    print_config: bool,
    /// Address of the status page, metrics and health endpoints; port 0 takes a free port, off disables them
    #[arg(long, help_heading = "HTTP", env = "CALRY_LISTEN", hide_env_values = true, default_value = "127.0.0.1:8080", value_parser = listen, value_name = "ADDR|off")]
    listen: Listen,
    /// Additional Host name to accept (loopback and the listening address always are); repeatable
    #[arg(
        long,
        help_heading = "HTTP",
        env = "CALRY_ADMIN_HOST",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "NAME"
    )]
    admin_host: Vec<Host>,
    #[command(flatten)]
    asking: AskingArgs,
    /// Directory where the daemon saves what it last applied. With it, a restarted daemon still tells drift from changes
    /// and does not repeat updates that had no effect. It holds no partner keys
    #[arg(
        long,
        env = "CALRY_STATE_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    state_dir: Option<PathBuf>,
    /// Reconcile once, then exit; serves no HTTP
    #[arg(long)]
    once: bool,
    // Last: its headings hold for what follows.
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    fingerprints: FingerprintArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Who may ask for a pass over HTTP.
#[derive(Args)]
struct AskingArgs {
    /// File with the token for POST requests; without it, they are accepted from loopback only
    #[arg(
        long,
        help_heading = "HTTP",
        env = "CALRY_ADMIN_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    admin_token_file: Option<PathBuf>,
    /// Most requests per minute from one client address; probes and the files of the page are not counted
    #[arg(
        long,
        help_heading = "HTTP",
        env = "CALRY_ADMIN_RATE",
        hide_env_values = true,
        default_value = "60",
        value_name = "N"
    )]
    admin_rate: NonZeroU32,
    /// File with the secret of GitHub's webhook; enables /hooks/github, so that a push reconciles at once
    #[arg(
        long,
        help_heading = "HTTP",
        env = "CALRY_GITHUB_HOOK_SECRET_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    github_hook_secret_file: Option<PathBuf>,
    /// File with the signing token (whsec_...) or the secret token of GitLab's webhook; enables /hooks/gitlab
    #[arg(
        long,
        help_heading = "HTTP",
        env = "CALRY_GITLAB_HOOK_SECRET_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    gitlab_hook_secret_file: Option<PathBuf>,
    /// File with the secret of any other webhook, which sends X-Signature-256: sha256=HMAC; enables /hooks/generic
    #[arg(
        long,
        help_heading = "HTTP",
        env = "CALRY_GENERIC_HOOK_SECRET_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    generic_hook_secret_file: Option<PathBuf>,
}

impl AskingArgs {
    /// What they amount to. A secret that cannot be read now is told now, and not when somebody asks.
    fn access(&self, hosts: &[Host]) -> anyhow::Result<Access> {
        let secret = |path: &Option<PathBuf>| {
            let file = path.as_ref().map(SecretFile::new);
            file.map(|file| file.shared().map(|_| file)).transpose()
        };
        Ok(Access {
            hosts: hosts.to_vec(),
            token: secret(&self.admin_token_file)?,
            hooks: Hooks {
                github: secret(&self.github_hook_secret_file)?,
                gitlab: secret(&self.gitlab_hook_secret_file)?,
                generic: secret(&self.generic_hook_secret_file)?,
            },
            rate: self.admin_rate,
        })
    }
}

/// How a loop goes about its work. Each workspace can have its own.
#[derive(Args)]
pub(super) struct LoopArgs {
    /// How often to check for drift; a changed file is applied at once
    #[arg(long, env = "CALRY_INTERVAL", hide_env_values = true, default_value = "60s", value_parser = interval, value_name = "TIME")]
    interval: Duration,
    /// enforce applies the files and undoes drift; observe reports differences and writes nothing
    #[arg(long, env = "CALRY_MODE", hide_env_values = true, value_enum, default_value_t = ModeArg::Enforce, hide_possible_values = true, value_name = "enforce|observe")]
    mode: ModeArg,
    /// Refuse a plan that would change more providers than this
    #[arg(
        long,
        env = "CALRY_MAX_CHANGES",
        hide_env_values = true,
        value_name = "N"
    )]
    max_changes: Option<usize>,
    /// How many updates may run at the same time
    #[arg(long, env = "CALRY_CONCURRENCY", hide_env_values = true, default_value_t = 8, value_parser = apply::concurrency, value_name = "N")]
    concurrency: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    Enforce,
    Observe,
}

#[derive(Clone, Copy)]
enum Listen {
    Off,
    On(SocketAddr),
}

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        _ => text.parse().map(Listen::On).map_err(|_| {
            "an address is written as 127.0.0.1:8080, or [::]:8080 for every interface; off is none".to_owned()
        }),
    }
}

/// The admin server's socket. The default address may be taken by another program; one that was asked for may not.
async fn open(listen: Listen, is_asked_for: bool) -> anyhow::Result<Option<TcpListener>> {
    let address = match listen {
        Listen::Off => return Ok(None),
        Listen::On(address) => address,
    };
    match bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if !is_asked_for => {
            tracing::warn!(
                %address,
                "cannot listen on {address}: {error}; the daemon goes on without status and health over HTTP: choose an \
                 address with --listen, or off"
            );
            Ok(None)
        }
        Err(error) => bail!(
            "cannot listen on {address}: {error}; choose another address with --listen, or off"
        ),
    }
}

/// A socket at an address. `[::]` is every interface of IPv6 and of IPv4, whatever the system's default is, and of IPv4
/// alone if the kernel has no IPv6.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            Err(error) if address.ip().is_unspecified() && is_without_ipv6(&error) => {
                return bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
            }
            socket => socket?,
        },
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval < Duration::from_secs(1) => {
            Err("an interval is at least 1s".to_owned())
        }
        interval => Ok(interval),
    }
}

/// What the workspaces share.
struct Shared {
    http: Http,
    state: Arc<StateStore>,
    notifier: Notifier,
    cluster: Replica,
}

/// One workspace, ready to be kept.
struct Ready {
    settings: LoopSettings,
    handle: Handle,
    metrics: Arc<WorkspaceMetrics>,
    workspace_notifier: Arc<WorkspaceNotifier>,
    events: Option<EventWriter>,
    /// The definitions directory as the operator wrote it.
    shown: String,
    /// What the log calls the workspace.
    span: Span,
    /// It lives as long as the daemon.
    sandbox: Option<Sandbox>,
}

impl Ready {
    fn log(&self, report: &ReconciliationReport) {
        daemon::log::reconciliation(report, self.settings.mode, &self.shown);
    }

    /// Tells everybody of a pass.
    fn tell(&self, report: &ReconciliationReport) {
        self.metrics.count_reconciliation(report);
        self.log(report);
        // Who leads tells the world.
        if !report.findings.standby {
            self.workspace_notifier.notify_result(report);
            self.events.iter().for_each(|events| events.pass(report));
        }
    }
}

async fn ready(workspace: &Configured, slot: Slot, shared: &Shared) -> anyhow::Result<Ready> {
    let RunArgs {
        pace, live, trust, ..
    } = &workspace.args;
    let mut setup = live
        .set_up_on(shared.http.clone(), MissingSecrets::Error)
        .await?;
    setup.source.trust = trust.trust();
    let span = workspace.name.as_deref().map_or_else(Span::none, |name| {
        tracing::error_span!(OF_WORKSPACE, workspace = name)
    });
    let workspace_notifier = Arc::new(shared.notifier.for_workspace(slot.name()));
    let applying = Arc::clone(&workspace_notifier);
    let api = match &setup.sandbox {
        // Its address is another one at each start.
        Some(_) => "the sandbox".to_owned(),
        None => setup.api.url().to_string(),
    };
    let definitions = &setup.source.definitions;
    let loop_file = LoopFile::new(
        &shared.state,
        slot.name(),
        definitions,
        &api,
        Arc::clone(&workspace_notifier) as _,
    );
    let mut settings = LoopSettings {
        source: setup.source.into(),
        key: setup.key,
        api: setup.api,
        interval: pace.interval,
        mode: match pace.mode {
            ModeArg::Enforce => Mode::Enforce,
            ModeArg::Observe => Mode::Observe,
        },
        max_changes: pace.max_changes,
        concurrency: pace.concurrency,
        timeout: setup.timeout,
        watching: WatchOptions::default(),
        apply_listener: ApplyListener::new(move |plan| applying.notify_start(plan)),
        state: Arc::clone(&shared.state),
        loop_file: Arc::new(loop_file),
        leadership: shared.cluster.leadership(slot.name()),
        slot,
    };
    let events = shared.cluster.events(settings.slot.name());
    let shown = setup.shown;
    let handle = Handle::new(StatusPublisher::new(&settings, &shown));
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
    Ok(Ready {
        settings,
        handle,
        metrics,
        workspace_notifier,
        events,
        shown,
        span,
        sandbox: setup.sandbox,
    })
}

/// Every workspace, ready to be kept.
async fn all_ready(configuration: &Configuration, shared: &Shared) -> anyhow::Result<Vec<Ready>> {
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
        all.push(ready(workspace, slot, shared).await.map_err(|error| {
            match (&workspace.name, error.downcast()) {
                (Some(name), Ok(UsageError(why))) => {
                    UsageError(format!("workspace {name}: {why}")).into()
                }
                (None, Ok(usage)) => usage.into(),
                (Some(name), Err(error)) => error.context(format!("workspace {name}")),
                (None, Err(error)) => error,
            }
        })?);
    }
    Ok(all)
}

/// What a person needs to try the sandboxes of the workspaces.
fn banner(all: &[Ready]) -> String {
    match all {
        [
            Ready {
                sandbox: Some(sandbox),
                shown,
                ..
            },
        ] => format!(
            "{}\nOr change a file in {shown}/ and save it. What happens is told below; Ctrl-C ends it.\n\n",
            sandbox.banner()
        ),
        _ => {
            let line = |ready: &Ready| {
                let (sandbox, name) = (ready.sandbox.as_ref()?, ready.settings.slot.name()?);
                Some(format!(
                    "A Calry for {name} listens on {}; its WRITE key is {}\n",
                    sandbox.url(),
                    sandbox.keys().write
                ))
            };
            all.iter().filter_map(line).collect()
        }
    }
}

/// What is about to happen, in a sentence.
fn greeting(all: &[Ready]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match all {
        [
            Ready {
                settings, shown, ..
            },
        ] => {
            let (api, every) = (
                settings.api.url(),
                humantime::format_duration(settings.interval),
            );
            match settings.mode {
                Mode::Enforce => format!(
                    "calry-gitops {version} keeps {api} equal to {shown}/, looking every {every}"
                ),
                Mode::Observe => format!(
                    "calry-gitops {version} compares {api} with {shown}/, looking every {every}; it only observes, and writes \
                     nothing"
                ),
            }
        }
        all => {
            let observed = all
                .iter()
                .filter(|ready| ready.settings.mode == Mode::Observe)
                .count();
            let observed = if observed == 0 {
                String::new()
            } else {
                format!(", {observed} of them only observed")
            };
            format!(
                "calry-gitops {version} keeps {} workspaces{observed}",
                all.len()
            )
        }
    }
}

/// Lets the process have as many open files as it may: many workspaces with as many APIs need more than the usual 1,024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is refused, the usual number is enough for all but the largest configurations.
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
    // What the command line says of the daemon as a whole, with the top of the configuration file below it.
    let Command::Run(args) = &configuration.cli.command else {
        return Ok(Exit::Done);
    };
    if args.print_config {
        for workspace in &configuration.workspaces {
            workspace.args.live.api_url()?;
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
    let shared = Shared {
        cluster: tokio::select! {
            cluster = args.cluster.set_up(args.once) => cluster?,
            () = stop.cancelled() => {
                // A daemon that is stopped has done what it was asked for; a reconciliation that did not run has not.
                if args.once {
                    bail!("stopped before anything was reconciled; nothing was changed");
                }
                return Ok(Exit::Done);
            }
        },
        notifier: Notifier::start(configuration.notifications.targets.clone(), &http),
        http,
        state: Arc::new(match &args.state_dir {
            Some(directory) => StateStore::open(directory, args.fingerprints.key()?)?,
            None => StateStore::in_process()?,
        }),
    };
    let all = all_ready(configuration, &shared).await?;
    let Shared {
        cluster, notifier, ..
    } = shared;
    output.result(&banner(&all));
    if args.once {
        let passes = all.iter().map(|ready| {
            let pass = async {
                let report = daemon::once(&ready.settings, &stop).await;
                ready.log(&report);
                report.faults()
            };
            pass.instrument(ready.span.clone())
        });
        let faults = futures_util::future::join_all(passes).await;
        let any = |kind: fn(&(bool, bool)) -> bool| faults.iter().any(kind);
        return Ok(Exit::of(
            any(|(failed, _)| *failed),
            any(|(_, invalid)| *invalid),
            false,
        ));
    }
    let handles: Vec<_> = all.iter().map(|ready| ready.handle.clone()).collect();
    let metrics = Metrics::new(all.iter().map(|ready| Arc::clone(&ready.metrics)).collect());
    let metrics = metrics.notifying(notifier.counters());
    let access = args.asking.access(&args.admin_host)?;
    let listener = open(args.listen, configuration.is_set("listen")).await?;
    let asked = handles.clone();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{}", greeting(&all));
    // It ends when this function does.
    let _admin = match listener {
        Some(listener) => {
            let admin = Admin::start(listener, handles, metrics, access)?;
            let address = admin.address();
            tracing::info!(%address, "status and health at http://{address}/ for a browser, /api/v1/status, /metrics, /healthz, /readyz");
            Some(admin)
        }
        None => None,
    };
    let keeping = cluster.start(
        all.iter()
            .map(|ready| (ready.settings.slot.name(), &ready.handle)),
    );
    let loop_files: Vec<_> = all
        .iter()
        .map(|ready| Arc::clone(&ready.settings.loop_file))
        .collect();
    let mut loops = JoinSet::new();
    for ready in all {
        let (span, stop) = (ready.span.clone(), stop.clone());
        let keeping = async move {
            daemon::run(&ready.settings, &ready.handle, stop, |report| {
                ready.tell(report)
            })
            .await
        };
        loops.spawn(keeping.instrument(span));
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
            asked.iter().for_each(|one| one.request(Trigger::Request));
            configuration.report_changes().await;
        }
        std::future::pending().await
    };
    let moved = tokio::select! {
        moved = ended => moved,
        never = hangups => never,
    };
    // No update is under way any more: whoever stands by may begin.
    keeping.stop().await;
    notifier.stop().await;
    // What was delivered at the end need not be repeated after a restart.
    futures_util::future::join_all(loop_files.iter().map(|file| file.save())).await;
    tracing::info!("stopped");
    Ok(Exit::of(moved, false, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_interface_is_one_of_ipv4_as_well_whatever_the_kernels_default() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        if listener.local_addr().unwrap().is_ipv6() {
            assert!(!rustix::net::sockopt::ipv6_v6only(&listener).unwrap());
        }
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
    }
}
