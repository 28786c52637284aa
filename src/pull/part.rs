//! Parts of a definition as `--fields` names them: the paths that `plan` prints, with or without `fieldsToSync.`.

use std::fmt;

use crate::model::{Desired, KeySection, Live};
use crate::plan::join_path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Icon,
    PartnerKey,
    KeySection(KeySection),
    /// A header or parameter.
    Value(KeySection, String),
    Fields,
    Group(String),
    Field(String, String),
}

/// A path that names no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a part is named as plan prints it: icon, partnerKey, partnerKey.headers, partnerKey.headers.x-api-key, listing, \
     listing.pictures; what is not a plain word is written [\"so\"]"
)]
pub struct InvalidPart;

impl Part {
    /// Parses paths, separated by commas.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidPart> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (segments, after) = segments(rest)?;
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            parts.push(Self::of(&segments)?);
            match after.strip_prefix(',') {
                Some(next) => rest = next.trim_start(),
                None => return Ok(parts),
            }
        }
    }

    fn of(segments: &[&str]) -> Result<Self, InvalidPart> {
        let section = |key: &str| {
            KeySection::BOTH
                .into_iter()
                .find(|section| section.key() == key)
                .ok_or(InvalidPart)
        };
        match segments {
            ["icon"] => Ok(Self::Icon),
            ["partnerKey"] => Ok(Self::PartnerKey),
            ["partnerKey", key] => Ok(Self::KeySection(section(key)?)),
            ["partnerKey", key, name] => Ok(Self::Value(section(key)?, (*name).to_owned())),
            [
                "partnerKey" | "headers" | "queryParams" | "provider" | "hold" | "icon",
                ..,
            ] => Err(InvalidPart),
            ["fieldsToSync"] => Ok(Self::Fields),
            ["fieldsToSync", group] | [group] => Ok(Self::Group((*group).to_owned())),
            ["fieldsToSync", group, field] | [group, field] => {
                Ok(Self::Field((*group).to_owned(), (*field).to_owned()))
            }
            _ => Err(InvalidPart),
        }
    }

    #[must_use]
    pub fn exists_in(&self, live: &Live, desired: Option<&Desired>) -> bool {
        let fields = desired.map(|desired| &desired.fields);
        match self {
            Self::Icon | Self::PartnerKey | Self::KeySection(_) | Self::Fields => true,
            Self::Value(section, name) => {
                let mut live_names = live
                    .partner_key
                    .section(*section)
                    .into_iter()
                    .flat_map(|values| values.keys());
                let mut wanted = desired
                    .and_then(|d| d.partner_key.section(*section))
                    .into_iter()
                    .flat_map(|v| v.keys());
                let same = |other: &String| section.fold(other) == section.fold(name);
                live_names.any(same) || wanted.any(same)
            }
            Self::Group(group) => {
                live.fields.contains_key(group) || fields.is_some_and(|f| f.contains_key(group))
            }
            Self::Field(group, field) => {
                live.fields
                    .get(group)
                    .is_some_and(|fields| fields.contains_key(field))
                    || fields
                        .and_then(|fields| fields.get(group))
                        .is_some_and(|on| on.contains(field))
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Icon => "icon".to_owned(),
            Self::PartnerKey => "partnerKey".to_owned(),
            Self::KeySection(section) => join_path(&["partnerKey", section.key()]),
            Self::Value(section, name) => join_path(&["partnerKey", section.key(), name]),
            Self::Fields => "fieldsToSync".to_owned(),
            Self::Group(group) => join_path(&["fieldsToSync", group]),
            Self::Field(group, field) => join_path(&["fieldsToSync", group, field]),
        })
    }
}

/// The segments of the first path of a text, and the rest of the text.
fn segments(text: &str) -> Result<(Vec<String>, &str), InvalidPart> {
    let mut segments = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let mut segment = String::new();
            let mut chars = quoted.chars();
            loop {
                match chars.next().ok_or(InvalidPart)? {
                    '\\' => segment.push(chars.next().ok_or(InvalidPart)?),
                    '"' => break,
                    c => segment.push(c),
                }
            }
            rest = chars.as_str().strip_prefix(']').ok_or(InvalidPart)?;
            segments.push(segment);
        } else {
            let end = rest.find(['.', '[', ',']).unwrap_or(rest.len());
            let (segment, after) = rest.split_at_checked(end).ok_or(InvalidPart)?;
            segments.push(segment.to_owned());
            rest = after;
        }
        if segments.last().is_none_or(String::is_empty) {
            return Err(InvalidPart);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
        } else if !rest.starts_with('[') {
            return if rest.is_empty() || rest.starts_with(',') {
                Ok((segments, rest))
            } else {
                Err(InvalidPart)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_as_plan_prints_it() {
        let part = |text: &str| Part::parse_list(text).unwrap().remove(0);
        for path in [
            "icon",
            "partnerKey",
            "partnerKey.headers",
            "partnerKey.headers.x-api-key",
            "partnerKey.queryParams[\"a.b,\\\"c\\\\\"]",
            "fieldsToSync",
            "fieldsToSync.listing",
            "fieldsToSync.listing.pictures",
            "fieldsToSync[\"a b\"].c",
        ] {
            assert_eq!(part(path).to_string(), path);
        }
        assert_eq!(
            part("listing.pictures"),
            part("fieldsToSync.listing.pictures")
        );
        assert_eq!(
            Part::parse_list("icon, listing,partnerKey[\"headers\"][\"x,y\"]")
                .unwrap()
                .len(),
            3
        );
        for wrong in [
            "",
            "icon.x",
            "partnerKey.header",
            "headers.x",
            "a..b",
            "a.b.c",
            "a[\"b",
            "icon,",
            "a[\"b\"]c",
            "hold",
        ] {
            assert_eq!(Part::parse_list(wrong), Err(InvalidPart), "{wrong}");
        }
    }
}
