//! `run`: the daemon.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::options::{LiveArgs, duration};
use super::{Exit, Output, apply, signals};
use crate::daemon::{self, Mode, PassReport, Settings, Trigger};
use crate::repo::MissingSecrets;

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
    /// Run one pass and end
    #[arg(long)]
    once: bool,
    // Last: its headings hold for what follows.
    #[command(flatten)]
    live: LiveArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    Enforce,
    Observe,
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
    let settings = Settings {
        source: setup.source.into(),
        key: setup.key,
        api: setup.api,
        interval: args.interval,
        mode,
        max_changes: args.max_changes,
        concurrency: args.concurrency,
        timeout: setup.timeout,
    };
    let log = |report: &PassReport| daemon::log::pass(report, mode, &shown);
    if args.once {
        let report = daemon::once(&settings, &stop).await;
        log(&report);
        let (failed, invalid) = report.faults();
        return Ok(Exit::of(failed, invalid, false));
    }
    let (ask, requests) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // A request that waits already is as good as two.
            let _ = ask.try_send(Trigger::Request);
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
    daemon::run(&settings, requests, stop, log).await;
    tracing::info!("stopped");
    Ok(Exit::Done)
}
