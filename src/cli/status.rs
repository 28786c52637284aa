//! `status`: asks a running daemon. What it answers with is foreign text.

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
use super::status_client::Daemon;
use super::{Exit, Output, UsageError, signals};
use crate::http::{Http, HttpTimeouts, HttpUrl, UrlPolicy, install_tls};
use crate::model::{ellipsize, printable};
use crate::render;
use crate::report::json;
use crate::report::status::{self, Status, WorkspaceStatus};

/// Between two questions of --watch: with an open page beside it no more than a daemon lets in.
const BETWEEN: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(super) struct StatusArgs {
    /// Address of the daemon
    #[arg(
        long,
        env = "CALRY_ADMIN_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    address: String,
    /// How the status is printed; json is the daemon's own answer
    #[arg(long, value_enum, default_value_t = Format::Text, hide_possible_values = true, value_name = "text|json")]
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
            "--address {error}; it is where the daemon listens (--listen)"
        ))
    })?;
    install_tls();
    let http = Http::new(HttpTimeouts {
        connect: args.timeout,
        request: args.timeout,
        ..HttpTimeouts::default()
    })?;
    let daemon = Daemon::new(&http, url, args.timeout)?;
    let mut asked = Asked {
        daemon,
        only: args.workspace.clone(),
        tag: None,
        known: None,
        clock: None,
    };
    if args.watch {
        let stop = signals::stop_token()?;
        return Ok(watch(&mut asked, args.format, output, &stop).await);
    }
    asked.ask().await?;
    if let Some(known) = &asked.known {
        output.result(&match args.format {
            Format::Text => render::status::text(&known.status, asked.now()),
            Format::Json => json::pretty(&known.document),
        });
    }
    Ok(asked.exit())
}

/// A daemon, and what it said last.
struct Asked {
    daemon: Daemon,
    /// The only workspace that counts.
    only: Option<String>,
    tag: Option<HeaderValue>,
    known: Option<Known>,
    /// The daemon's clock, and when it was read.
    clock: Option<(Timestamp, Instant)>,
}

struct Known {
    /// As it came: a newer daemon may say more than this version knows of.
    document: serde_json::Value,
    status: Status,
}

impl Known {
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
                "the daemon keeps no workspace `{}`; it keeps {}",
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

impl Asked {
    /// Asks once; whether the answer is another one than before.
    async fn ask(&mut self) -> anyhow::Result<bool> {
        let answer = self.daemon.status(&mut self.tag).await?;
        self.clock = answer
            .time
            .and_then(|time| Timestamp::try_from(time).ok())
            .map(|time| (time, Instant::now()));
        let Some(body) = answer.body else {
            return Ok(false);
        };
        let known = serde_json::from_slice(&body).and_then(|document: serde_json::Value| {
            Ok(Known {
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
                // What cannot be read is not known.
                self.tag = None;
                bail!(
                    "what the daemon answers with is no status that calry-gitops {} can read ({}): check --address, and use \
                     the daemon's version",
                    env!("CARGO_PKG_VERSION"),
                    ellipsize(&printable(&error.to_string()), 200)
                );
            }
        }
        Ok(true)
    }

    /// The time on the daemon's clock; on this one, where it does not say.
    fn now(&self) -> Timestamp {
        let now = self
            .clock
            .and_then(|(time, read)| time.checked_add(read.elapsed()).ok());
        now.unwrap_or_else(Timestamp::now)
    }

    fn exit(&self) -> Exit {
        let trouble = self
            .known
            .as_ref()
            .is_none_or(|known| known.status.is_failing());
        Exit::of(trouble, false, false)
    }
}

/// Follows a daemon until told to stop, through its restarts.
async fn watch(
    asked: &mut Asked,
    format: Format,
    output: &Output,
    stop: &CancellationToken,
) -> Exit {
    let drawing = format == Format::Text && std::io::stdout().is_terminal();
    let mut drawn = String::new();
    let mut lost: Option<Instant> = None;
    loop {
        let told = tokio::select! {
            told = asked.ask() => told,
            () = stop.cancelled() => break,
        };
        let (news, why) = match told {
            Ok(news) => (news, None),
            Err(why) => (false, Some(format!("{why:#}"))),
        };
        if drawing {
            let mut text = String::new();
            if let Some(why) = &why {
                let since = lost.unwrap_or_else(Instant::now);
                text = render::status::no_contact(why, since.elapsed(), asked.known.is_some());
                text.push('\n');
            }
            if let Some(known) = &asked.known {
                text.push_str(&render::status::text(&known.status, asked.now()));
            }
            if text != drawn {
                output.draw(&text);
                drawn = text;
            }
        } else {
            match (&why, lost) {
                (Some(why), None) => output.error(&format!("no contact: {why}")),
                (None, Some(_)) => output.note("in contact again\n"),
                _ => {}
            }
            if let Some(known) = asked.known.as_ref().filter(|_| news) {
                output.result(&match format {
                    Format::Text => render::status::text(&known.status, asked.now()) + "\n",
                    Format::Json => json::line(&known.document),
                });
            }
        }
        lost = why.map(|_| lost.unwrap_or_else(Instant::now));
        tokio::select! {
            () = tokio::time::sleep(BETWEEN) => {}
            () = stop.cancelled() => break,
        }
    }
    match lost {
        Some(_) => Exit::Failed,
        None => asked.exit(),
    }
}
