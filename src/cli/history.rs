//! `history`: prints the events of workspaces from a state directory, also while a daemon runs.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::options::ProviderParser;
use super::{Exit, Output};
use crate::daemon::HistoryFile;
use crate::model::{Provider, ellipsize, printable};
use crate::render;
use crate::report::history::{HistoryDocument, HistoryEvent};
use crate::report::json;
use crate::report::words::{counted, list_first};

/// How many names of workspaces an error lists.
const MAX_NAMES: usize = 10;

#[derive(Args)]
pub(super) struct HistoryArgs {
    /// State directory of the daemon
    #[arg(long, env = "CALRY_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// Only this workspace, by its name in the configuration file or its slug
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// Only events about this provider, in upper or lower case. Repeatable
    #[arg(long, value_parser = ProviderParser, value_name = "PROVIDER")]
    provider: Vec<Provider>,
    /// Only events since then: a duration such as 24h or 7days, a day (UTC) or a time (RFC 3339)
    #[arg(long, value_parser = Since::parse, value_name = "TIME")]
    since: Option<Since>,
    /// How the events are printed, oldest first
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "text|json")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The begin of the shown events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Since(Timestamp);

impl Since {
    fn parse(text: &str) -> Result<Self, String> {
        Self::before(text, Timestamp::now())
            .ok_or_else(|| "must be a duration such as 24h, a day such as 2026-11-28, or a time such as 2026-11-28T09:30:00Z".to_owned())
    }

    fn before(text: &str, now: Timestamp) -> Option<Self> {
        if let Ok(duration) = humantime::parse_duration(text) {
            return now.checked_sub(duration).ok().map(Self);
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Some(Self(time));
        }
        let is_day = text.len() == 10 && text.bytes().all(|b| b == b'-' || b.is_ascii_digit());
        let day: Date = is_day.then(|| text.parse().ok()).flatten()?;
        let begin = day.to_zoned(TimeZone::UTC).ok()?;
        Some(Self(begin.timestamp()))
    }
}

pub(super) fn run(args: &HistoryArgs, output: &Output) -> anyhow::Result<Exit> {
    let directory = &args.state_dir;
    let files = HistoryFile::all(directory).map_err(|error| {
        anyhow!(
            "cannot read the state directory {}: {error}; help: name the directory of the daemon's --state-dir",
            directory.display()
        )
    })?;
    let (mut events, mut failed): (Vec<HistoryEvent>, bool) = (Vec::new(), false);
    for file in files {
        let lines = match file.read() {
            Ok(lines) => lines,
            Err(why) => {
                output.error(&format!(
                    "the history {} cannot be used: {why}",
                    file.path().display()
                ));
                failed = true;
                continue;
            }
        };
        let parsed = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        let before = events.len();
        events.extend(parsed);
        // The last line may be one that is being written, or that a killed process left.
        let unread = lines.len() - (events.len() - before);
        if unread > 1 {
            let lines = counted(unread, "line", "lines");
            tracing::warn!(
                "{lines} of the history {} cannot be read; help: use the version of calry-gitops that wrote it",
                file.path().display()
            );
        }
    }
    if let Some(workspace) = &args.workspace {
        let mut known: Vec<String> = events
            .iter()
            .map(|event| printable(event.label()))
            .collect();
        known.sort_unstable();
        known.dedup();
        events.retain(|event| event.is_of(workspace));
        if events.is_empty() && !known.is_empty() {
            bail!(
                "there is no history of the workspace `{}`; it has {}",
                printable(workspace),
                ellipsize(&list_first(&known, MAX_NAMES), 400)
            );
        }
    }
    if !args.provider.is_empty() {
        events.retain(|event| args.provider.iter().any(|one| event.is_about(one.as_str())));
    }
    if let Some(Since(begin)) = args.since {
        events.retain(|event| event.time >= begin);
    }
    // An approval is written after the updates that it allowed, with its own time.
    events.sort_by_key(|event| event.time);
    match args.format {
        Format::Json => output.result(&json::pretty(&HistoryDocument { events })),
        Format::Text if events.is_empty() => output.note("No events.\n"),
        Format::Text => output.result(&render::history::text(&events)),
    }
    Ok(Exit::Failed.when(failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_is_a_duration_a_day_or_a_time() {
        let now: Timestamp = "2026-11-29T02:00:00Z".parse().unwrap();
        for (text, begin) in [
            ("2h", Some("2026-11-29T00:00:00Z")),
            ("90days", Some("2026-08-31T02:00:00Z")),
            ("2026-11-28", Some("2026-11-28T00:00:00Z")),
            ("2026-11-28T10:00:00+02:00", Some("2026-11-28T08:00:00Z")),
            ("yesterday", None),
            ("2026-11-31", None),
            ("28.11.2026", None),
            ("", None),
        ] {
            let parsed = Since::before(text, now).map(|Since(begin)| begin.to_string());
            assert_eq!(parsed.as_deref(), begin, "{text}");
        }
    }
}
