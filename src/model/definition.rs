//! Integration definitions: desired, live, and the update from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{DesiredPartnerKey, KeySection, LivePartnerKey, PartnerKey, Provider};

/// The fields of one group that are on. A field not named is off.
pub type FieldSet = BTreeSet<String>;

/// Whether a field is synced, by group and field: every field that Calry knows, including those that are off.
pub type LiveFields = BTreeMap<String, BTreeMap<String, bool>>;

/// The desired state of one provider. A part that is absent is not managed, and stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub provider: Provider,
    /// The icon, if it is managed.
    pub icon: Option<Icon>,
    /// The managed sections of the partner key.
    pub partner_key: DesiredPartnerKey,
    /// The managed groups, each with the fields that are on.
    pub fields: BTreeMap<String, FieldSet>,
    pub hold: Option<Hold>,
}

/// An absolute http or https URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Icon(String);

/// Why a text cannot be an icon. The messages complete "the icon …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIcon {
    #[error("has more than {} characters", Icon::MAX_LEN)]
    TooLong,
    #[error("contains white space or a control character")]
    Blank,
    #[error("must begin with `https://` or `http://`")]
    Scheme,
    #[error("contains a user or a password")]
    Credentials,
    #[error("is not a valid URL")]
    NoUrl,
}

impl Icon {
    /// The longest URL that is accepted, in bytes.
    pub const MAX_LEN: usize = 2048;

    /// Parses an icon's URL. The text is kept as it is: Calry gets exactly what git has.
    pub fn parse(text: &str) -> Result<Self, InvalidIcon> {
        if text.len() > Self::MAX_LEN {
            return Err(InvalidIcon::TooLong);
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(InvalidIcon::Blank);
        }
        // The URL standard reads `https:host` and `https:\\host` as absolute; a person would not.
        let begins = |p: &&str| {
            text.get(..p.len())
                .is_some_and(|t| t.eq_ignore_ascii_case(p))
        };
        if !["http://", "https://"].iter().any(begins) {
            return Err(InvalidIcon::Scheme);
        }
        let url = url::Url::parse(text)
            .ok()
            .filter(url::Url::has_host)
            .ok_or(InvalidIcon::NoUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidIcon::Credentials);
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Icon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Suspends all changes to a provider until a date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// In force to the end of this day, UTC.
    pub until: Date,
    pub reason: Option<String>,
}

impl Hold {
    /// From this many days before its last day on, a hold is reported as about to end.
    pub const NEAR: i32 = 3;

    /// How many days are left after `today` (UTC): 0 on the last day, negative when it is over.
    #[must_use]
    pub fn days_left(&self, today: Date) -> i32 {
        Self::days_until(self.until, today)
    }

    /// How many days are left until a last day.
    #[must_use]
    pub fn days_until(last: Date, today: Date) -> i32 {
        // Without a larger unit the difference is in days.
        today.until(last).map_or(0, |span| span.get_days())
    }

    /// Whether the hold is in force on a day (UTC).
    #[must_use]
    pub fn in_force(&self, today: Date) -> bool {
        today <= self.until
    }
}

/// One integration definition as Calry returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Calry's id, a UUID.
    pub id: String,
    /// A name for people, such as "Hostaway Integration".
    pub name: String,
    pub provider: Provider,
    /// The icon's URL.
    pub icon: Option<String>,
    pub partner_key: LivePartnerKey,
    /// Every group with every field.
    pub fields: LiveFields,
    /// RFC 3339, with milliseconds; moves with every update. Empty if Calry shows none.
    pub updated_at: String,
    pub problems: LiveProblems,
}

/// The top-level parts of a definition that an update can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DefinitionPart {
    Icon,
    PartnerKey,
    FieldsToSync,
}

impl DefinitionPart {
    /// All parts, in the order of a definition.
    pub const ALL: [Self; 3] = [Self::Icon, Self::PartnerKey, Self::FieldsToSync];

    /// The key in a definition.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Icon => "icon",
            Self::PartnerKey => "partnerKey",
            Self::FieldsToSync => "fieldsToSync",
        }
    }
}

impl fmt::Display for DefinitionPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// The parts of a live definition that cannot be read, or that this version does not know. They are absent from the
/// other fields of the definition. The texts name positions and never quote a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveProblems {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// The partner key as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner_key: Option<String>,
    /// A part of the partner key that this version does not know. The known sections can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_section: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_params: Option<String>,
    /// `fieldsToSync` as a whole.
    #[serde(rename = "fieldsToSync", skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, String>,
}

impl LiveProblems {
    /// Why the values of a section are unknown.
    #[must_use]
    pub fn section(&self, section: KeySection) -> Option<&str> {
        let of_section = match section {
            KeySection::Headers => &self.headers,
            KeySection::QueryParams => &self.query_params,
        };
        self.partner_key.as_deref().or(of_section.as_deref())
    }

    /// Why the fields of a group, and their names, are unknown.
    #[must_use]
    pub fn group(&self, group: &str) -> Option<&str> {
        self.fields
            .as_ref()
            .or_else(|| self.groups.get(group))
            .map(String::as_str)
    }

    /// Why a part cannot be updated: an update replaces it as a whole, and would destroy what cannot be read.
    #[must_use]
    pub fn part(&self, part: DefinitionPart) -> Option<&str> {
        let problem = match part {
            DefinitionPart::Icon => self.icon.as_ref(),
            DefinitionPart::PartnerKey => self
                .partner_key
                .as_ref()
                .or(self.unknown_section.as_ref())
                .or(self.headers.as_ref())
                .or(self.query_params.as_ref()),
            DefinitionPart::FieldsToSync => {
                self.fields.as_ref().or_else(|| self.groups.values().next())
            }
        };
        problem.map(String::as_str)
    }

    /// Why a value that should be there may be missing; `None` if everything that this version knows was read.
    #[must_use]
    pub fn first_problem(&self) -> Option<&str> {
        let section = || {
            KeySection::BOTH
                .into_iter()
                .find_map(|section| self.section(section))
        };
        self.icon
            .as_deref()
            .or_else(section)
            .or_else(|| self.part(DefinitionPart::FieldsToSync))
    }
}

/// The body of an update. `None` is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub icon: Option<String>,
    /// The whole partner key: an update that touches it carries both sections in full (trap 4).
    pub partner_key: Option<PartnerKey>,
    /// Of every group, the fields that are on; each is sent as `true` and no other is named (traps 1-3).
    pub fields: Option<BTreeMap<String, FieldSet>>,
}

/// The HTTP method of an update. Calry's pages do not name it; every other update of the API is PATCH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateMethod {
    /// Absent top-level fields stay as they are.
    #[default]
    Patch,
    /// Absent top-level fields may be cleared: an update carries all three (trap 5).
    Put,
}

impl UpdateMethod {
    /// As HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "PATCH",
            Self::Put => "PUT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_icon_is_an_absolute_web_address() {
        for good in [
            "https://cdn.example.com/a.png",
            "http://x/",
            "HTTPS://x/y?z",
        ] {
            assert!(Icon::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidIcon::Scheme),
            ("a.png", InvalidIcon::Scheme),
            ("//cdn/x", InvalidIcon::Scheme),
            ("ftp://x/y", InvalidIcon::Scheme),
            ("https:x", InvalidIcon::Scheme),
            ("https://", InvalidIcon::NoUrl),
            ("javascript:alert(1)", InvalidIcon::Scheme),
            ("https://u:p@x/", InvalidIcon::Credentials),
            ("https://x/ y", InvalidIcon::Blank),
            ("https://x/y ", InvalidIcon::Blank),
        ] {
            assert_eq!(Icon::parse(bad), Err(why), "{bad}");
        }
        assert_eq!(
            Icon::parse(&format!("https://x/{}", "y".repeat(2048))),
            Err(InvalidIcon::TooLong)
        );
    }

    #[test]
    fn a_hold_lasts_until_the_end_of_its_last_day() {
        let hold = Hold {
            until: jiff::civil::date(2026, 3, 1),
            reason: None,
        };
        assert!(hold.in_force(jiff::civil::date(2026, 3, 1)));
        assert!(!hold.in_force(jiff::civil::date(2026, 3, 2)));
        let left = |month, day| hold.days_left(jiff::civil::date(2026, month, day));
        assert_eq!(
            (left(3, 1), left(2, 27), left(3, 2), left(1, 1)),
            (0, 2, -1, 59)
        );
    }
}
