//! How a workspace identifies itself to a provider: headers and query parameters, whose values are secrets.

use std::collections::BTreeMap;
use std::fmt;

use super::{LiveValue, Secret, SecretName, Template};

/// One of the two sections of a partner key, each of which is managed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySection {
    /// HTTP headers; their names are case-insensitive (RFC 9110, section 5.1).
    Headers,
    /// Query parameters; their names are case-sensitive.
    QueryParams,
}

impl KeySection {
    /// Both sections, in the order of a definition.
    pub const BOTH: [Self; 2] = [Self::Headers, Self::QueryParams];

    /// The key under `partnerKey`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Headers => "headers",
            Self::QueryParams => "queryParams",
        }
    }

    /// A name in its canonical form: equal names of a section have the same one.
    #[must_use]
    pub fn fold(self, name: &str) -> String {
        match self {
            Self::Headers => name.to_ascii_lowercase(),
            Self::QueryParams => name.to_owned(),
        }
    }
}

impl fmt::Display for KeySection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// A partner key with its values; by default as an update sends it. An absent section is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartnerKey<V = Secret> {
    pub headers: Option<BTreeMap<String, V>>,
    pub query_params: Option<BTreeMap<String, V>>,
}

impl<V> Default for PartnerKey<V> {
    fn default() -> Self {
        Self {
            headers: None,
            query_params: None,
        }
    }
}

impl<V> PartnerKey<V> {
    #[must_use]
    pub fn section(&self, section: KeySection) -> Option<&BTreeMap<String, V>> {
        match section {
            KeySection::Headers => self.headers.as_ref(),
            KeySection::QueryParams => self.query_params.as_ref(),
        }
    }

    pub fn section_mut(&mut self, section: KeySection) -> &mut Option<BTreeMap<String, V>> {
        match section {
            KeySection::Headers => &mut self.headers,
            KeySection::QueryParams => &mut self.query_params,
        }
    }

    /// The same key with other values.
    #[must_use]
    pub fn map<W>(self, mut value: impl FnMut(V) -> W) -> PartnerKey<W> {
        let mut section = |values: Option<BTreeMap<String, V>>| {
            Some(
                values?
                    .into_iter()
                    .map(|(name, v)| (name, value(v)))
                    .collect::<BTreeMap<_, _>>(),
            )
        };
        PartnerKey {
            headers: section(self.headers),
            query_params: section(self.query_params),
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.headers
            .iter()
            .chain(&self.query_params)
            .flat_map(BTreeMap::values)
    }
}

/// A value that git wants below `partnerKey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredValue {
    /// The value as the file has it.
    pub template: Template,
    /// The value with its secrets; `None` if they are not available, and are resolved where the plan is applied.
    pub value: Option<Secret>,
}

impl DesiredValue {
    /// The secrets that it refers to; none for a literal value.
    pub fn references(&self) -> impl Iterator<Item = &SecretName> {
        self.template.references()
    }
}

/// The managed sections of a partner key; an absent section stays as it is.
pub type DesiredPartnerKey = PartnerKey<DesiredValue>;

/// A partner key as Calry or a snapshot shows it.
pub type LivePartnerKey = PartnerKey<LiveValue>;

/// A text that cannot be the name of a header. The message never repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header name is a token of RFC 9110: letters, digits and !#$%&'*+-.^_`|~")]
pub struct InvalidHeaderName;

/// Checks a header's name: a token of RFC 9110, section 5.6.2.
pub fn check_header_name(name: &str) -> Result<(), InvalidHeaderName> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.is_empty() && name.bytes().all(token) {
        Ok(())
    } else {
        Err(InvalidHeaderName)
    }
}
