//! `run`: the daemon.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::options::{FingerprintArgs, LiveArgs, duration};
use super::{Exit, Output, apply, signals};
use crate::admin::{Access, Admin, Hooks, Host, SecretFile};
use crate::daemon::{self, Applying, Board, Handle, Mode, PassReport, Settings, State, Trigger};
use crate::metrics::{Metrics, WorkspaceMetrics};
use crate::notifications::Notifier;
use crate::repo::{MissingSecrets, WatchOptions};

#[derive(Args)]
pub(super) struct RunArgs {
    /// How often drift is looked for; a file that changes is acted on at once
    #[arg(long, env = "CALRY_INTERVAL", hide_env_values = true, default_value = "60s", value_parser = interval, value_name = "TIME")]
    interval: Duration,
    /// enforce undoes drift; observe reports it and writes nothing
    #[arg(long, env = "CALRY_MODE", hide_env_values = true, value_enum, default_value_t = ModeArg::Enforce, hide_possible_values = true, value_name = "enforce|observe")]
    mode: ModeArg,
    /// Refuse a plan that would change more providers than this
    #[arg(long, env = "CALRY_MAX_CHANGES", hide_env_values = true, value_name = "N")]
    max_changes: Option<usize>,
    /// How many updates may be under way at once
    #[arg(long, env = "CALRY_CONCURRENCY", hide_env_values = true, default_value_t = 8, value_parser = apply::concurrency, value_name = "N")]
    concurrency: usize,
    /// Where status, metrics and health are told over HTTP; port 0 takes a free one, off none [default: 127.0.0.1:8080]
    #[arg(long, env = "CALRY_LISTEN", hide_env_values = true, value_parser = listen, value_name = "ADDR|off")]
    listen: Option<Listen>,
    /// A host to answer for beside this machine and the address itself; repeatable
    #[arg(long, env = "CALRY_ADMIN_HOST", hide_env_values = true, value_delimiter = ',', value_name = "NAME")]
    admin_host: Vec<Host>,
    #[command(flatten)]
    asking: AskingArgs,
    /// The directory in which the daemon remembers what it applied, so that after a restart it still tells drift from a
    /// change, sends no masked value twice, and leaves alone what did not converge. No partner key is in it
    #[arg(long, env = "CALRY_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Run one pass and end; nothing is told over HTTP
    #[arg(long)]
    once: bool,
    // Last: its headings hold for what follows.
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    fingerprints: FingerprintArgs,
}

/// Who may ask for a pass over HTTP.
#[derive(Args)]
struct AskingArgs {
    /// The file of the token that asking for a pass over HTTP takes; without it, only this machine itself may ask
    #[arg(long, env = "CALRY_ADMIN_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// How many HTTP requests a minute are let in from one address, probes aside
    #[arg(long, env = "CALRY_ADMIN_RATE", hide_env_values = true, default_value = "60", value_name = "N")]
    admin_rate: NonZeroU32,
    /// The file of the secret of GitHub's webhook; opens /hooks/github, by which a push reconciles at once
    #[arg(long, env = "CALRY_GITHUB_HOOK_SECRET_FILE", hide_env_values = true, value_name = "FILE")]
    github_hook_secret_file: Option<PathBuf>,
    /// The file of the signing token (whsec_...) or the secret token of GitLab's webhook; opens /hooks/gitlab
    #[arg(long, env = "CALRY_GITLAB_HOOK_SECRET_FILE", hide_env_values = true, value_name = "FILE")]
    gitlab_hook_secret_file: Option<PathBuf>,
    /// The file of the secret of any other hook, which sends X-Signature-256: sha256=HMAC; opens /hooks/generic
    #[arg(long, env = "CALRY_GENERIC_HOOK_SECRET_FILE", hide_env_values = true, value_name = "FILE")]
    generic_hook_secret_file: Option<PathBuf>,
}

impl AskingArgs {
    /// What they amount to. A secret that cannot be read now is told now, and not when somebody asks.
    fn access(&self, hosts: &[Host]) -> anyhow::Result<Access> {
        let secret = |path: &Option<PathBuf>| {
            let file = path.as_ref().map(SecretFile::new);
            file.map(|file| file.read().map(|_| file)).transpose()
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
            "an address is written as 127.0.0.1:8080, or 0.0.0.0:8080 for every interface; off is none".to_owned()
        }),
    }
}

/// The admin server's socket. An address that was asked for must be had; the default one need not.
async fn open(listen: Option<Listen>) -> anyhow::Result<Option<TcpListener>> {
    let address = match listen {
        Some(Listen::Off) => return Ok(None),
        Some(Listen::On(address)) => address,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if listen.is_none() => {
            tracing::warn!(
                %address,
                "cannot listen on {address}: {error}; the daemon goes on without status and health over HTTP: choose an \
                 address with --listen, or off"
            );
            Ok(None)
        }
        Err(error) => bail!("cannot listen on {address}: {error}; choose another address with --listen, or off"),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval < Duration::from_secs(1) => Err("an interval is at least 1s".to_owned()),
        interval => Ok(interval),
    }
}

pub(super) async fn run(args: &RunArgs, output: &Output) -> anyhow::Result<Exit> {
    let stop = signals::stop_token()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let setup = args.live.set_up(MissingSecrets::Error).await?;
    let shown = setup.shown.clone();
    let mode = match args.mode {
        ModeArg::Enforce => Mode::Enforce,
        ModeArg::Observe => Mode::Observe,
    };
    if let Some(sandbox) = &setup.sandbox {
        output.result(&sandbox.banner());
        output.result(&format!(
            "\nOr change a file in {shown}/ and save it. What happens is told below; Ctrl-C ends it.\n\n"
        ));
    }
    // Who is notified is for the configuration file to say.
    let notifier = Notifier::start(Vec::new(), &setup.http);
    let teller = Arc::new(notifier.teller(None));
    let applying = Arc::clone(&teller);
    let mut settings = Settings {
        source: setup.source.into(),
        key: setup.key,
        api: setup.api,
        interval: args.interval,
        mode,
        max_changes: args.max_changes,
        concurrency: args.concurrency,
        timeout: setup.timeout,
        watching: WatchOptions::default(),
        applying: Applying::to(move |plan| applying.applying(plan)),
        state: Arc::new(match &args.state_dir {
            Some(directory) => State::open(directory, args.fingerprints.key()?)?,
            None => State::in_process()?,
        }),
    };
    let log = |report: &PassReport| daemon::log::pass(report, mode, &shown);
    if args.once {
        let report = daemon::once(&settings, &stop).await;
        log(&report);
        let (failed, invalid) = report.faults();
        return Ok(Exit::of(failed, invalid, false));
    }
    let handle = Handle::new(Board::new(&settings, &shown));
    let metrics = Arc::new(WorkspaceMetrics::new(&shown, &settings, Arc::clone(handle.board())));
    settings.api = settings.api.observed_by(Arc::clone(&metrics) as _);
    let access = args.asking.access(&args.admin_host)?;
    let listener = open(args.listen).await?;
    let asked = handle.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            asked.ask(Trigger::Request);
        }
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "calry-gitops {} {} {} {} {shown}/, looking every {}{}",
        env!("CARGO_PKG_VERSION"),
        if mode == Mode::Observe { "compares" } else { "keeps" },
        settings.api.url(),
        if mode == Mode::Observe { "with" } else { "equal to" },
        humantime::format_duration(args.interval),
        if mode == Mode::Observe { "; it only observes, and writes nothing" } else { "" }
    );
    // It ends when this function does.
    let _admin = match listener {
        Some(listener) => {
            let admin = Admin::start(listener, vec![handle.clone()], Metrics::new(vec![Arc::clone(&metrics)]), access)?;
            let address = admin.address();
            tracing::info!(%address, "status and health at http://{address}/api/v1/status, /metrics, /healthz, /readyz");
            Some(admin)
        }
        None => None,
    };
    let report = |report: &PassReport| {
        metrics.passed(report);
        log(report);
        teller.pass(report);
    };
    daemon::run(&settings, &handle, stop, report).await;
    notifier.stop().await;
    tracing::info!("stopped");
    Ok(Exit::Done)
}
