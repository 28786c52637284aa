//! When an API key ends, as the operator wrote it down: Calry does not show it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// The last day of an API key. The key is valid through the end of that day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExpiry {
    last_day: Date,
}

/// A text is not a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the last day of the key as YYYY-MM-DD, such as 2027-05-26")]
pub struct InvalidKeyExpiry;

/// How urgent a new key is. The later stage is the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyStage {
    Fresh,
    /// At most [`KeyExpiry::NEAR`] days are left.
    Near,
    /// At most [`KeyExpiry::SOON`] days are left.
    Soon,
    /// The last day is over.
    Over,
}

impl KeyExpiry {
    /// From this many days before its last day on, a key is reported as about to end.
    pub const NEAR: i32 = 14;
    /// From this many days before its last day on, a new key is urgent.
    pub const SOON: i32 = 3;

    #[must_use]
    pub const fn new(last_day: Date) -> Self {
        Self { last_day }
    }

    /// How many days are left after `today` (UTC): 0 on the last day, negative when it is over.
    #[must_use]
    pub fn days_left(self, today: Date) -> i32 {
        // Without a larger unit the difference is in days.
        today.until(self.last_day).map_or(0, |span| span.get_days())
    }

    #[must_use]
    pub fn stage(self, today: Date) -> KeyStage {
        match self.days_left(today) {
            ..=-1 => KeyStage::Over,
            0..=Self::SOON => KeyStage::Soon,
            left if left <= Self::NEAR => KeyStage::Near,
            _ => KeyStage::Fresh,
        }
    }

    /// The moment at which the key ends.
    #[must_use]
    pub fn end(self) -> Option<Timestamp> {
        let day = self.last_day.tomorrow().ok()?;
        day.to_zoned(TimeZone::UTC).ok().map(|end| end.timestamp())
    }

    /// The rest of a sentence about the key: `expires on 2027-05-26, in 12 days`.
    #[must_use]
    pub fn describe(self, today: Date) -> String {
        match self.days_left(today) {
            ..=-1 => format!("expired at the end of {self} (UTC)"),
            0 => format!("expires today, at the end of {self} (UTC)"),
            1 => format!("expires on {self}, in 1 day"),
            left => format!("expires on {self}, in {left} days"),
        }
    }
}

impl FromStr for KeyExpiry {
    type Err = InvalidKeyExpiry;

    /// Parses a day in the form `YYYY-MM-DD`, and in no other.
    fn from_str(text: &str) -> Result<Self, InvalidKeyExpiry> {
        let form = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        let day = (text.len() == 10 && text.bytes().enumerate().all(form))
            .then(|| text.parse().ok())
            .flatten();
        day.map(Self::new).ok_or(InvalidKeyExpiry)
    }
}

impl fmt::Display for KeyExpiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.last_day.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_key_is_valid_through_the_end_of_its_last_day() {
        let key: KeyExpiry = "2027-05-26".parse().unwrap();
        assert_eq!(key.end().unwrap().to_string(), "2027-05-27T00:00:00Z");
        let seen: Vec<(i32, KeyStage)> = [
            date(2027, 5, 11),
            date(2027, 5, 12),
            date(2027, 5, 22),
            date(2027, 5, 23),
            date(2027, 5, 26),
            date(2027, 5, 27),
        ]
        .map(|today| (key.days_left(today), key.stage(today)))
        .to_vec();
        assert_eq!(
            seen,
            [
                (15, KeyStage::Fresh),
                (14, KeyStage::Near),
                (4, KeyStage::Near),
                (3, KeyStage::Soon),
                (0, KeyStage::Soon),
                (-1, KeyStage::Over)
            ]
        );
    }

    #[test]
    fn only_a_day_that_exists_is_accepted() {
        for bad in [
            "",
            "2027-5-26",
            "2027-02-29",
            "26.05.2027",
            "20270526",
            "2027-05-26T00:00:00Z",
            "180d",
            "+027-05-26",
            "soon",
        ] {
            assert_eq!(bad.parse::<KeyExpiry>(), Err(InvalidKeyExpiry), "{bad}");
        }
    }

    #[test]
    fn the_time_left_is_part_of_a_sentence() {
        let key: KeyExpiry = "2027-05-26".parse().unwrap();
        let days = [
            date(2027, 5, 12),
            date(2027, 5, 25),
            date(2027, 5, 26),
            date(2027, 6, 1),
        ];
        assert_eq!(
            days.map(|today| key.describe(today)),
            [
                "expires on 2027-05-26, in 14 days",
                "expires on 2027-05-26, in 1 day",
                "expires today, at the end of 2027-05-26 (UTC)",
                "expired at the end of 2027-05-26 (UTC)",
            ]
        );
    }
}
