//! When nothing may be written to a workspace: its hold and its freeze windows.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::Hold;

/// A time in which nothing is written to a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeWindow {
    pub from: Timestamp,
    /// The first moment after the window.
    pub to: Timestamp,
    pub reason: Option<String>,
}

/// The hold and the freeze windows of `workspace.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceHolds {
    pub hold: Option<Hold>,
    pub freeze: Vec<FreezeWindow>,
}

/// When a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// At the end of this day, UTC.
    Day(Date),
    Moment(Timestamp),
}

/// What is on hold, and by which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldScope {
    /// A provider, by `hold` in its file.
    Provider,
    /// The workspace, by `hold` in `workspace.yaml`.
    Workspace,
    /// The workspace, by a window of `freeze` in `workspace.yaml`.
    Freeze,
}

/// A hold that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveHold {
    pub scope: HoldScope,
    pub until: HoldEnd,
    pub reason: Option<String>,
}

/// Whether a moment is in a half-open interval.
fn contains(from: Timestamp, to: Timestamp, now: Timestamp) -> bool {
    from <= now && now < to
}

impl WorkspaceHolds {
    /// The most freeze windows of a workspace.
    pub const MAX_WINDOWS: usize = 100;

    /// The hold in force at a moment; of several, the one that ends last.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> Option<ActiveHold> {
        let today = now.to_zoned(TimeZone::UTC).date();
        let hold = self.hold.iter().filter(|hold| hold.in_force(today));
        let hold = hold.map(|hold| ActiveHold::of(hold, HoldScope::Workspace));
        let windows = self.freeze.iter();
        let windows = windows.filter(|window| contains(window.from, window.to, now));
        let windows = windows.map(|window| ActiveHold {
            scope: HoldScope::Freeze,
            until: HoldEnd::Moment(window.to),
            reason: window.reason.clone(),
        });
        hold.chain(windows).max_by_key(|hold| hold.until.moment())
    }

    /// The intervals in which nothing is written, and that are not over.
    fn intervals(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let hold = self.hold.iter();
        let hold = hold.map(|hold| (Timestamp::MIN, HoldEnd::Day(hold.until).moment()));
        let windows = self.freeze.iter().map(|window| (window.from, window.to));
        hold.chain(windows).filter(|(_, to)| *to > now).collect()
    }

    /// Whether nothing is written in all of an interval, as far as it is not over.
    fn covers(&self, from: Timestamp, to: Timestamp, now: Timestamp) -> bool {
        let mut intervals = self.intervals(now);
        intervals.sort_unstable();
        let mut covered = from.max(now);
        for (begin, end) in intervals {
            if begin <= covered {
                covered = covered.max(end);
            }
        }
        to <= covered
    }

    /// Whether the hold suspends writes for longer than `before` did.
    #[must_use]
    pub fn adds_hold(&self, before: &Self, now: Timestamp) -> bool {
        self.hold.as_ref().is_some_and(|hold| {
            let to = HoldEnd::Day(hold.until).moment();
            to > now && !before.covers(now, to, now)
        })
    }

    /// The windows, by their place in the list, that suspend writes when `before` did not.
    pub fn added_windows<'a>(
        &'a self,
        before: &'a Self,
        now: Timestamp,
    ) -> impl Iterator<Item = (usize, &'a FreezeWindow)> {
        let windows = self.freeze.iter().enumerate();
        windows.filter(move |(_, window)| {
            window.to > now && !before.covers(window.from, window.to, now)
        })
    }
}

impl ActiveHold {
    #[must_use]
    pub fn of(hold: &Hold, scope: HoldScope) -> Self {
        Self {
            scope,
            until: HoldEnd::Day(hold.until),
            reason: hold.reason.clone(),
        }
    }
}

impl HoldScope {
    /// The name in every output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider | Self::Workspace => "hold",
            Self::Freeze => "freeze",
        }
    }
}

impl HoldEnd {
    /// The first moment after the hold.
    #[must_use]
    pub fn moment(self) -> Timestamp {
        match self {
            Self::Moment(moment) => moment,
            Self::Day(day) => day
                .checked_add(1.day())
                .and_then(|next| next.to_zoned(TimeZone::UTC))
                .map_or(Timestamp::MAX, |next| next.timestamp()),
        }
    }
}

impl fmt::Display for HoldEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => day.fmt(f),
            Self::Moment(moment) => moment.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn window(from: &str, to: &str) -> FreezeWindow {
        FreezeWindow {
            from: at(from),
            to: at(to),
            reason: Some(from.to_owned()),
        }
    }

    fn holds(until: Option<&str>, freeze: Vec<FreezeWindow>) -> WorkspaceHolds {
        let hold = until.map(|until| Hold {
            until: until.parse().unwrap(),
            reason: None,
        });
        WorkspaceHolds { hold, freeze }
    }

    #[test]
    fn a_window_begins_at_its_first_moment_and_has_ended_at_its_last() {
        let holds = holds(
            None,
            vec![window("2026-12-20T08:00:00Z", "2026-12-20T09:00:00Z")],
        );
        for (now, held) in [
            ("2026-12-20T07:59:59.999Z", false),
            ("2026-12-20T08:00:00Z", true),
            ("2026-12-20T08:59:59.999Z", true),
            ("2026-12-20T09:00:00Z", false),
        ] {
            assert_eq!(holds.in_force(at(now)).is_some(), held, "{now}");
        }
    }

    #[test]
    fn of_several_holds_the_one_that_ends_last_counts() {
        let freeze = vec![
            window("2026-12-20T00:00:00Z", "2026-12-21T06:00:00Z"),
            window("2026-12-19T00:00:00Z", "2026-12-20T23:00:00Z"),
        ];
        let with_hold = holds(Some("2026-12-20"), freeze.clone());
        let now = at("2026-12-20T12:00:00Z");
        let active = with_hold.in_force(now).unwrap();
        assert_eq!(active.scope, HoldScope::Freeze);
        assert_eq!(active.until.to_string(), "2026-12-21T06:00:00Z");
        let active = holds(Some("2026-12-21"), freeze).in_force(now).unwrap();
        assert_eq!(active.scope, HoldScope::Workspace);
        assert_eq!(active.until.to_string(), "2026-12-21");
        assert_eq!(active.until.moment(), at("2026-12-22T00:00:00Z"));
        let forever = holds(Some("9999-12-31"), Vec::new());
        assert!(forever.in_force(now).unwrap().until.moment() > now);
    }

    #[test]
    fn only_what_no_earlier_hold_covers_is_added() {
        let now = at("2026-12-01T00:00:00Z");
        let before = holds(
            Some("2026-12-02"),
            vec![
                window("2026-12-10T00:00:00Z", "2026-12-12T00:00:00Z"),
                window("2026-12-12T00:00:00Z", "2026-12-14T00:00:00Z"),
            ],
        );
        for (from, to, added) in [
            // In a window, in two that adjoin, in the hold, over.
            ("2026-12-10T00:00:00Z", "2026-12-11T00:00:00Z", false),
            ("2026-12-11T00:00:00Z", "2026-12-14T00:00:00Z", false),
            ("2026-12-01T00:00:00Z", "2026-12-03T00:00:00Z", false),
            ("2026-11-01T00:00:00Z", "2026-11-30T00:00:00Z", false),
            // Earlier, longer, elsewhere.
            ("2026-12-09T23:59:59Z", "2026-12-11T00:00:00Z", true),
            ("2026-12-10T00:00:00Z", "2026-12-14T00:00:01Z", true),
            ("2026-12-20T00:00:00Z", "2026-12-21T00:00:00Z", true),
        ] {
            let after = holds(None, vec![window(from, to)]);
            let found: Vec<usize> = after
                .added_windows(&before, now)
                .map(|(at, _)| at)
                .collect();
            assert_eq!(!found.is_empty(), added, "{from} {to}");
        }
        for (until, added) in [
            ("2026-11-30", false),
            ("2026-12-01", false),
            ("2026-12-02", false),
            ("2026-12-03", true),
        ] {
            let after = holds(Some(until), Vec::new());
            assert_eq!(after.adds_hold(&before, now), added, "{until}");
        }
    }
}
