//! The parts of the page: icons, times, foreign texts, masked diffs.

use std::time::Duration;

use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};

use crate::model::{Severity, ellipsize, printable};
use crate::plan::{Cause, KeyChange};
use crate::plan::{Mismatch, PlainValue};
use crate::report::plan::{ChangeItem, DiagnosticItem};
use crate::report::words::{elapsed, plural};

/// The most characters of a quoted line's three parts, each.
const QUOTED: usize = 200;
/// The most characters of a message.
pub(super) const ERROR: usize = 500;

/// Makes a foreign text safe to show: control and misleading characters become escapes, and it has at most `most`
/// characters. It is not HTML yet; maud escapes it.
pub(super) fn safe(text: &str, most: usize) -> String {
    // Cut before as well: an escape is longer than its character, and a text may be long.
    ellipsize(&printable(&ellipsize(text, most)), most)
}

/// An icon of the sprite, hidden from screen readers: a word is beside it.
pub(super) fn icon(name: &str) -> Markup {
    html! { svg.i aria-hidden="true" { use href={ "#i-" (name) } {} } }
}

/// The icons. Each state has its own shape, so that no state is shown by colour alone.
pub(super) fn sprite() -> Markup {
    PreEscaped(include_str!("icons.svg").to_owned())
}

pub(super) fn stamp(time: Timestamp) -> Markup {
    let date = time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! { time datetime=(time) { (date) } }
}

/// How long ago a time was; the script keeps it current.
pub(super) fn ago(time: Timestamp, now: Timestamp) -> Markup {
    html! { time.ago datetime=(short(time)) title=(short(time)) { (long_ago(elapsed(time, now))) } }
}

/// A time of day; the script shows the local time.
pub(super) fn clock(time: Timestamp) -> Markup {
    html! { time.clock datetime=(short(time)) { (time.strftime("%H:%M UTC").to_string()) } }
}

/// The time until then; the script counts down.
pub(super) fn until(time: Timestamp, now: Timestamp) -> Markup {
    let said = if time > now {
        format!("in {}", rough(elapsed(now, time)))
    } else {
        "now".to_owned()
    };
    html! { time.in datetime=(time) title=(short(time)) { (said) } }
}

fn short(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn long_ago(length: Duration) -> String {
    if length < Duration::from_secs(5) {
        "just now".to_owned()
    } else {
        format!("{} ago", rough(length))
    }
}

/// A duration in its largest unit; `page.js` formats it the same way.
fn rough(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

pub(super) fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    rest.next()
        .map(|first| first.to_uppercase().chain(rest).collect())
        .unwrap_or_default()
}

/// A message of at most `most` characters: a longer one ends after a whole clause.
pub(super) fn clauses(text: &str, most: usize) -> String {
    let text = safe(text, ERROR);
    if text.chars().count() <= most {
        return text;
    }
    let start: String = text.chars().take(most).collect();
    let end = [". ", "; "]
        .iter()
        .filter_map(|mark| start.rfind(mark))
        .max()
        .filter(|end| *end >= most / 3);
    match end.and_then(|end| start.get(..end)) {
        Some(whole) => format!("{whole}."),
        None => text,
    }
}

/// A sentence whose options, such as `--max-changes`, are not broken at a hyphen.
pub(super) fn sentence(text: &str) -> Markup {
    html! {
        @for (at, word) in text.split(' ').enumerate() {
            @if at > 0 { " " }
            @if word.starts_with("--") { span.flag { (word) } } @else { (word) }
        }
    }
}

/// Counts of changes, in which fields that are switched off stand out.
pub(super) fn stress_off(counts: &str) -> Markup {
    html! {
        @for (at, count) in counts.split(", ").enumerate() {
            @if at > 0 { ", " }
            @if count.ends_with(" off") { b.off { (count) } } @else { (count) }
        }
    }
}

/// Changes by kind: `2 fields on, 1 off, icon`.
pub(super) fn count_changes<'a>(changes: impl IntoIterator<Item = &'a ChangeItem>) -> String {
    let [mut on, mut off, mut icons, mut secrets] = [0_usize; 4];
    for change in changes {
        match change.after {
            _ if change.sensitive => secrets += 1,
            Some(PlainValue::Bool(true)) => on += 1,
            Some(PlainValue::Bool(false)) => off += 1,
            _ if change.path == "icon" => icons += 1,
            _ => off += 1,
        }
    }
    let off = if on > 0 {
        plural(off, "off", "off")
    } else {
        plural(off, "field off", "fields off")
    };
    let icons = match icons {
        1 => Some("icon".to_owned()),
        icons => plural(icons, "icon", "icons"),
    };
    [
        plural(on, "field on", "fields on"),
        off,
        plural(secrets, "partner-key value", "partner-key values"),
        icons,
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(", ")
}

/// A button that copies a text. The script shows it.
pub(super) fn copy(text: &str, what: &str) -> Markup {
    html! {
        button.copy type="button" data-copy=(text) hidden {
            (icon("copy")) span.word { "Copy" } span.unseen { " " (what) }
        }
    }
}

/// The cause of a change, as a badge.
pub(super) fn cause(cause: Cause) -> Markup {
    match cause {
        Cause::Change => html! { span.badge.change { (icon("change")) "change in git" } },
        Cause::Drift => html! { span.badge.drift { (icon("drift")) "drift" } },
    }
}

/// A YAML diff from live to git, without secrets. It shows at most `most` differences; `more` others are not in
/// `changes` and are only counted.
pub(super) fn diff(changes: &[ChangeItem], most: usize, more: usize) -> Markup {
    let mut above: (&str, &str) = ("", "");
    let rest = changes.len().saturating_sub(most) + more;
    html! {
        pre.diff tabindex="0" role="group" aria-label="Differences, live to git" {
            @for change in changes.iter().take(most) {
                @let (group, field) = split_path(&change.path);
                @if group.0 != above.0 && !group.0.is_empty() { span { (safe(group.0, 60)) ":" } }
                @if group != above && !group.1.is_empty() { span { "  " (safe(group.1, 60)) ":" } }
                @let indent = if group.1.is_empty() { "" } else { "    " };
                @let (before, after) = sides(change);
                @if let Some(before) = before { del { "- " (indent) (safe(field, 100)) ": " (before) } }
                @if let Some(after) = after { ins { "+ " (indent) (safe(field, 100)) ": " (after) } }
                @let () = above = group;
            }
            @if rest > 0 { span.more { "  and " (rest) " more" } }
        }
    }
}

/// A path's two groups and its field: `fieldsToSync`, `listing` and `pictures`.
fn split_path(path: &str) -> ((&str, &str), &str) {
    let (outer, rest) = segment(path);
    let (inner, name) = segment(rest);
    match (rest, name) {
        ("", _) => (("", ""), outer),
        (_, "") => ((outer, ""), inner),
        _ => ((outer, inner), segment(name).0),
    }
}

/// A path's first segment and the rest of it. A segment that is not a plain word is quoted: `["a.b"]`.
fn segment(path: &str) -> (&str, &str) {
    if let Some(quoted) = path.strip_prefix("[\"") {
        let mut escaped = false;
        let end = quoted.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (name, rest) = quoted.split_at(end.map_or(quoted.len(), |(at, _)| at));
        return (name, rest.trim_start_matches("\"]").trim_start_matches('.'));
    }
    let (name, rest) = path.split_at(path.find(['.', '[']).unwrap_or(path.len()));
    (name, rest.trim_start_matches('.'))
}

/// The live value and the desired one, masked by position.
fn sides(change: &ChangeItem) -> (Option<String>, Option<String>) {
    if !change.sensitive {
        let field = matches!(
            (&change.before, &change.after),
            (Some(PlainValue::Bool(_)), _) | (_, Some(PlainValue::Bool(_)))
        );
        // A missing icon or field shows no side.
        let side = |value: &Option<PlainValue>| value.as_ref().map(shown);
        let (before, after) = (side(&change.before), side(&change.after));
        return if field || after.is_some() {
            (before, after)
        } else {
            (before, Some("none".to_owned()))
        };
    }
    let git = if change.secrets.is_empty() {
        "(sensitive, literal in the file)".to_owned()
    } else {
        let named: Vec<String> = change
            .secrets
            .iter()
            .map(|name| format!("${{secret:{name}}}"))
            .collect();
        format!("(sensitive, {})", safe(&named.join(", "), 200))
    };
    let live = |text: &str| Some(text.to_owned());
    match change.change {
        Some(KeyChange::Added) => (None, Some(git)),
        Some(KeyChange::Removed) => (live("(sensitive, live)"), None),
        Some(KeyChange::Masked) => (live("(sensitive, masked by Calry)"), Some(git)),
        Some(KeyChange::Changed | KeyChange::Unresolved | KeyChange::Encrypted) | None => {
            (live("(sensitive, live)"), Some(git))
        }
    }
}

fn shown(value: &PlainValue) -> String {
    match value {
        PlainValue::Bool(on) => on.to_string(),
        PlainValue::Text(text) => safe(text, 200),
    }
}

/// The fields for which Calry kept other values.
pub(super) fn mismatch_table(fields: &[Mismatch], most: usize) -> Markup {
    let text = |value: &Option<PlainValue>, sensitive| match value {
        _ if sensitive => "(sensitive)".to_owned(),
        None => "nothing".to_owned(),
        Some(value) => shown(value),
    };
    html! {
        div.scroll tabindex="0" role="group" aria-label="What Calry kept" {
            table.kept {
                caption { "What Calry kept against what git wants" }
                thead { tr { th scope="col" { "Field" } th scope="col" { "Git wants" } th scope="col" { "Calry kept" } } }
                tbody {
                    @for Mismatch { path, sent, kept, sensitive } in fields.iter().take(most) {
                        tr {
                            th scope="row" { (safe(path, 160)) }
                            td { (text(sent, *sensitive)) }
                            td {
                                @if *sensitive { "another value (sensitive)" } @else { (text(kept, false)) }
                            }
                        }
                    }
                }
            }
        }
        @if fields.len() > most { p.more { "and " (fields.len() - most) " more" } }
    }
}

/// A problem of a file, with its line.
pub(super) fn problem(problem: &DiagnosticItem, directory: &str) -> Markup {
    let error = problem.severity == Severity::Error;
    let place = problem
        .line
        .zip(problem.column)
        .map(|(line, column)| format!(":{line}:{column}"))
        .unwrap_or_default();
    html! {
        li.problem {
            p {
                span.badge.bad[error].differs[!error] {
                    @if error { (icon("bad")) "error" } @else { (icon("differs")) "warning" }
                }
                " " strong { (safe(&problem.message, 400)) }
            }
            p.place {
                code { (safe(directory, 80)) "/" (safe(&problem.file, 120)) (place) } " · " (safe(&problem.code, 40))
            }
            @if let (Some(quote), Some(line)) = (&problem.excerpt, problem.line) {
                @let part = |from, length| quote.text.chars().skip(from).take(length).collect::<String>();
                @let part = |from, length| safe(&part(from, length), QUOTED);
                @let end = quote.from.saturating_add(quote.length);
                pre.excerpt tabindex="0" role="group" aria-label={ "Line " (line) } {
                    span.line { (line) } " "
                    (part(0, quote.from)) mark { (part(quote.from, quote.length)) } (part(end, QUOTED))
                }
            }
            @if let Some(help) = &problem.help { p.help { (capitalised(&safe(help, 300))) } }
        }
    }
}

/// A filter for the list below it. The script shows it: it does nothing without.
pub(super) fn filter(label: &str) -> Markup {
    html! {
        search.filter hidden {
            label {
                span.unseen { (label) }
                input type="search" placeholder=(label) autocomplete="off" spellcheck="false";
            }
            span.found role="status" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_was_written() {
        use crate::plan::join_path;
        for (group, name) in [
            ("listing", "pictures"),
            ("a.b", "c\"]d"),
            ("x\\", "\"y"),
            ("[", "é"),
        ] {
            let path = join_path(&["fieldsToSync", group, name]);
            let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            assert_eq!(
                split_path(&path),
                (("fieldsToSync", &*quoted(group)), &*quoted(name)),
                "{path}"
            );
        }
        assert_eq!(split_path("icon"), (("", ""), "icon"));
        assert_eq!(split_path("a.b"), (("a", ""), "b"));
        assert_eq!(split_path("[\"never"), (("", ""), "never"));
    }

    #[test]
    fn a_long_message_ends_after_a_whole_clause() {
        let refused = "plan refused: it changes 5 providers; --max-changes allows 2. Approve it with: apply --approve";
        let shown = "plan refused: it changes 5 providers; --max-changes allows 2.";
        assert_eq!(clauses(refused, 85), shown);
        assert_eq!(clauses(refused, 200), refused);
        let one = "x".repeat(90);
        assert_eq!(clauses(&one, 40), one, "without an end it is not cut");
    }

    #[test]
    fn times_are_shown_in_their_largest_unit() {
        let said = |seconds| long_ago(Duration::from_secs(seconds));
        let all = [0, 5, 59, 60, 3599, 3600, 172_799, 172_800].map(said);
        assert_eq!(
            all.join(", "),
            "just now, 5s ago, 59s ago, 1m ago, 59m ago, 1h ago, 47h ago, 2d ago"
        );
    }
}
