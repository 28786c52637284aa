//! Events of the history as text for a terminal of 80 columns, grouped by workspace and day. Texts of other programs are made
//! printable.

use std::fmt::Write as _;

use anstyle::Style;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::text::{BOLD, DIM, GREEN, RED, YELLOW, wrap};
use crate::model::{printable, short_commit};
use crate::report::history::{HistoryEvent, HistoryKind, HistoryWriter};
use crate::report::status::UpdateOutcome;

/// The columns before the sentence of an event.
const INDENT: usize = 12;

/// The events of one or several workspaces, which are sorted by their time. All times are UTC.
#[must_use]
pub fn text(events: &[HistoryEvent]) -> String {
    let mut labels: Vec<&str> = Vec::new();
    for event in events {
        if !labels.contains(&event.label()) {
            labels.push(event.label());
        }
    }
    labels.sort_unstable();
    let mut out = String::new();
    for label in labels {
        let of_workspace: Vec<&HistoryEvent> = events
            .iter()
            .filter(|event| event.label() == label)
            .collect();
        if !out.is_empty() {
            out.push('\n');
        }
        let slug = of_workspace.last().map(|event| event.workspace.as_str());
        let slug = slug.filter(|slug| *slug != label);
        let slug = slug.map_or_else(String::new, |slug| format!(" ({})", printable(slug)));
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}{slug}", printable(label));
        let day = |event: &HistoryEvent| -> Date { event.time.to_zoned(TimeZone::UTC).date() };
        for events in of_workspace.chunk_by(|one, next| day(one) == day(next)) {
            if let Some(first) = events.first() {
                let _ = writeln!(out, "\n  {BOLD}{} (UTC){BOLD:#}", day(first));
            }
            events.iter().for_each(|event| write_event(&mut out, event));
        }
    }
    out
}

fn write_event(out: &mut String, event: &HistoryEvent) {
    let time = event
        .time
        .to_zoned(TimeZone::UTC)
        .strftime("%H:%M:%S")
        .to_string();
    let style = style(event);
    let mut sentence = printable(&event.message);
    if let Some(times) = event.times {
        let _ = write!(sentence, ", {times} times in a row");
    }
    if event.event != HistoryKind::Update {
        let providers: Vec<String> = event.providers.iter().map(describe_subject).collect();
        let more = (event.more > 0).then(|| format!("and {} more", event.more));
        let subjects: Vec<String> = providers.into_iter().chain(more).collect();
        let is_named = matches!(event.event, HistoryKind::Held | HistoryKind::Released);
        if !subjects.is_empty() && !is_named {
            let _ = write!(sentence, ": {}", subjects.join("; "));
        }
    }
    let _ = writeln!(
        out,
        "  {DIM}{time}{DIM:#}  {style}{}{style:#}",
        wrap(&sentence, INDENT, INDENT)
    );
    let mut detail = |text: &str| {
        let text = wrap(text, INDENT, INDENT);
        let _ = writeln!(out, "{:INDENT$}{DIM}{text}{DIM:#}", "");
    };
    if let Some(reason) = &event.reason {
        detail(&printable(reason));
    }
    let commit = event
        .commit
        .as_deref()
        .map(|commit| printable(short_commit(commit)));
    let digest = event
        .digest
        .as_deref()
        .filter(|_| event.event != HistoryKind::Update);
    let by = (event.by == HistoryWriter::Apply).then(|| "by apply".to_owned());
    let commit = commit.map(|commit| format!("commit {commit}"));
    let facts: Vec<String> = by
        .into_iter()
        .chain(commit)
        .chain(digest.map(printable))
        .collect();
    if !facts.is_empty() {
        detail(&facts.join(", "));
    }
}

fn describe_subject(subject: &crate::report::history::Subject) -> String {
    let mut text = printable(&subject.provider);
    if let Some(detail) = &subject.detail {
        let _ = write!(text, " {}", printable(detail));
    }
    if !subject.paths.is_empty() {
        let paths: Vec<String> = subject.paths.iter().map(|path| printable(path)).collect();
        let _ = write!(text, " ({})", paths.join(", "));
    }
    text
}

const fn style(event: &HistoryEvent) -> Style {
    match (event.event, event.outcome) {
        (HistoryKind::Update, Some(UpdateOutcome::Applied | UpdateOutcome::Unchanged))
        | (HistoryKind::Recovered, _) => GREEN,
        (HistoryKind::Update | HistoryKind::Failed | HistoryKind::Refused, _) => RED,
        (HistoryKind::Drift | HistoryKind::KeyExpiring, _) => YELLOW,
        (
            HistoryKind::Approved
            | HistoryKind::Held
            | HistoryKind::Released
            | HistoryKind::CatalogueChanged,
            _,
        ) => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(time: &str, event: &str, more: Value) -> HistoryEvent {
        let mut all = json!({"time": time, "workspace": "acme", "event": event, "by": "daemon", "message": "m"});
        let more = more.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn events_are_grouped_by_workspace_and_day() {
        let updated = json!({"message": "HOSTAWAY updated: listing.name on", "outcome": "applied", "cause": "change",
            "commit": "0123456789abcdef", "digest": "sha256:a", "providers": [{"provider": "HOSTAWAY"}]});
        let failed = json!({"message": "the reconciliation failed", "reason": "no answer\u{7}"});
        let drift = json!({"message": "drift was found", "name": "eu", "more": 3,
            "providers": [{"provider": "GUESTY", "paths": ["icon"], "detail": "not undone"}]});
        let approved = json!({"message": "the plan was approved with --approve", "digest": "sha256:b", "by": "apply"});
        let all = [
            event("2026-11-28T23:59:59Z", "update", updated.clone()),
            event("2026-11-29T00:00:00Z", "failed", failed),
            event("2026-11-29T01:00:00Z", "drift", drift),
            event("2026-11-29T02:00:00Z", "approved", approved),
            event(
                "2026-11-29T03:00:00Z",
                "update",
                json!({"message": "GUESTY was not updated: no", "outcome": "failed", "times": 4}),
            ),
        ];
        let plain = anstream::adapter::strip_str(&text(&all)).to_string();
        let expected = "\
acme

  2026-11-28 (UTC)
  23:59:59  HOSTAWAY updated: listing.name on
            commit 0123456789

  2026-11-29 (UTC)
  00:00:00  the reconciliation failed
            no answer\\u{7}
  02:00:00  the plan was approved with --approve
            by apply, sha256:b
  03:00:00  GUESTY was not updated: no, 4 times in a row

eu (acme)

  2026-11-29 (UTC)
  01:00:00  drift was found: GUESTY not undone (icon); and 3 more
";
        assert_eq!(plain, expected);
    }
}
