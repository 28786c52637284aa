//! `status`: shows the status of a running daemon. Its answer is foreign text.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use serde::Deserialize as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::duration;
use super::status_client::StatusClient;
use super::{Exit, Output, UsageError, signals};
use crate::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use crate::model::{ellipsize, printable};
use crate::render;
use crate::report::json;
use crate::report::status::{self, Status, WorkspaceStatus};

/// The interval of --watch: together with an open page, it stays below the daemon's rate limit.
const WATCH_INTERVAL: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(super) struct StatusArgs {
    /// Address of the daemon
    #[arg(
        long,
        env = "CALRY_ADMIN_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    address: String,
    /// How the status is printed; json is the daemon's own answer
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "text|json")]
    format: Format,
    /// Only this workspace, by its name in the configuration file or its slug
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// Keep running and show every change, until Ctrl-C; with json, one line each
    #[arg(long)]
    watch: bool,
    /// How long to wait for the daemon's answer
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) async fn run(args: &StatusArgs, output: &Output) -> anyhow::Result<Exit> {
    let url = HttpUrl::parse(&args.address, UrlPolicy::DAEMON).map_err(|error| {
        UsageError(format!(
            "--address {error}; it is the address that the daemon has in --listen"
        ))
    })?;
    install_tls();
    let http = Http::new(HttpTimeouts {
        connect: args.timeout,
        request: args.timeout,
        ..HttpTimeouts::default()
    })?;
    let client = StatusClient::new(&http, url, args.timeout)?;
    let mut follower = StatusFollower {
        client,
        only: args.workspace.clone(),
        tag: None,
        known: None,
        clock: None,
    };
    if args.watch {
        let stop = signals::stop_token()?;
        return Ok(watch(&mut follower, args.format, output, &stop).await);
    }
    follower.fetch().await?;
    if let Some(known) = &follower.known {
        output.result(&match args.format {
            Format::Text => render::status::text(&known.status, follower.now()),
            Format::Json => json::pretty(&known.document),
        });
    }
    Ok(follower.exit())
}

/// A daemon, and its last answer.
struct StatusFollower {
    client: StatusClient,
    /// The only workspace to show.
    only: Option<String>,
    tag: Option<HeaderValue>,
    known: Option<KnownStatus>,
    /// The daemon's clock, and when it was read.
    clock: Option<(Timestamp, Instant)>,
}

struct KnownStatus {
    /// The answer unchanged: a newer daemon may have more keys than this version knows.
    document: serde_json::Value,
    status: Status,
}

impl KnownStatus {
    fn keep_only(&mut self, only: &str) -> anyhow::Result<()> {
        let workspaces = &self.status.workspaces;
        let one = status::find_workspace(workspaces, only, |one| one);
        let is_meant =
            |workspace: &WorkspaceStatus| one.is_some_and(|one| std::ptr::eq(one, workspace));
        let meant: Vec<bool> = workspaces.iter().map(is_meant).collect();
        if !meant.contains(&true) {
            let names = workspaces.iter().map(WorkspaceStatus::label);
            let names = names.map(printable).collect::<Vec<_>>().join(", ");
            bail!(
                "the daemon has no workspace `{}`; it has {}",
                printable(only),
                ellipsize(&names, 400)
            );
        }
        let mut kept = meant.iter();
        self.status
            .workspaces
            .retain(|_| kept.next() == Some(&true));
        if let Some(list) = self
            .document
            .get_mut("workspaces")
            .and_then(serde_json::Value::as_array_mut)
        {
            let mut kept = meant.iter();
            list.retain(|_| kept.next() == Some(&true));
        }
        Ok(())
    }
}

impl StatusFollower {
    /// Fetches the status; returns whether it differs from the last one.
    async fn fetch(&mut self) -> anyhow::Result<bool> {
        let answer = self.client.status(&mut self.tag).await?;
        self.clock = answer
            .time
            .and_then(|time| Timestamp::try_from(time).ok())
            .map(|time| (time, Instant::now()));
        let Some(body) = answer.body else {
            return Ok(false);
        };
        let known = serde_json::from_slice(&body).and_then(|document: serde_json::Value| {
            Ok(KnownStatus {
                status: Status::deserialize(&document)?,
                document,
            })
        });
        match known {
            Ok(mut known) => {
                if let Some(only) = &self.only {
                    known.keep_only(only)?;
                }
                self.known = Some(known);
            }
            Err(error) => {
                // The next answer must come whole.
                self.tag = None;
                bail!(
                    "calry-gitops {} cannot read the daemon's answer ({}): check --address, and use the daemon's version",
                    env!("CARGO_PKG_VERSION"),
                    ellipsize(&printable(&error.to_string()), 200)
                );
            }
        }
        Ok(true)
    }

    /// The time on the daemon's clock; on this machine's clock, if the answer has no time.
    fn now(&self) -> Timestamp {
        let now = self
            .clock
            .and_then(|(time, read)| time.checked_add(read.elapsed()).ok());
        now.unwrap_or_else(Timestamp::now)
    }

    fn exit(&self) -> Exit {
        let failing = self
            .known
            .as_ref()
            .is_none_or(|known| known.status.is_failing(self.now()));
        Exit::Failed.when(failing)
    }
}

/// Follows a daemon until it is stopped, through restarts of the daemon.
async fn watch(
    follower: &mut StatusFollower,
    format: Format,
    output: &Output,
    stop: &CancellationToken,
) -> Exit {
    let drawing = format == Format::Text && std::io::stdout().is_terminal();
    let mut drawn = String::new();
    let mut lost: Option<Instant> = None;
    loop {
        let fetched = tokio::select! {
            fetched = follower.fetch() => fetched,
            () = stop.cancelled() => break,
        };
        let (is_new, why) = match fetched {
            Ok(is_new) => (is_new, None),
            Err(why) => (false, Some(format!("{why:#}"))),
        };
        if drawing {
            let mut text = String::new();
            if let Some(why) = &why {
                let since = lost.unwrap_or_else(Instant::now);
                text =
                    render::status::connection_lost(why, since.elapsed(), follower.known.is_some());
                text.push('\n');
            }
            if let Some(known) = &follower.known {
                text.push_str(&render::status::text(&known.status, follower.now()));
            }
            if text != drawn {
                output.draw(&text);
                drawn = text;
            }
        } else {
            match (&why, lost) {
                (Some(why), None) => output.error(&format!("no connection to the daemon: {why}")),
                (None, Some(_)) => output.note("connected again\n"),
                _ => {}
            }
            if let Some(known) = follower.known.as_ref().filter(|_| is_new) {
                output.result(&match format {
                    Format::Text => render::status::text(&known.status, follower.now()) + "\n",
                    Format::Json => json::line(&known.document),
                });
            }
        }
        lost = why.map(|_| lost.unwrap_or_else(Instant::now));
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            () = stop.cancelled() => break,
        }
    }
    match lost {
        Some(_) => Exit::Failed,
        None => follower.exit(),
    }
}
