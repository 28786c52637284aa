//! What git wants, as data: the text of each file, and what Calry must then hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

pub(crate) const FIELDS: [&str; 6] = ["address", "amenities", "name", "pictures", "rooms", "type"];
pub(crate) const RATES: [&str; 2] = ["daily", "weekly"];

/// A value below `partnerKey`, as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyValue {
    Literal(u32),
    Secret(String),
}

pub(crate) type Section = BTreeMap<&'static str, KeyValue>;

/// A definition file. What is `None` is unmanaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSpec {
    pub(crate) provider: &'static str,
    pub(crate) icon: Option<u32>,
    pub(crate) headers: Option<Section>,
    pub(crate) query: Option<Section>,
    pub(crate) listing: Option<BTreeSet<&'static str>>,
    pub(crate) rates: Option<BTreeSet<&'static str>>,
    pub(crate) hold: Option<&'static str>,
    pub(crate) mistake: Option<Mistake>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    UnknownField,
    UnknownGroup,
    UnknownKey,
    MissingSecret,
    NoYaml,
    Empty,
    CutOff,
}

impl Mistake {
    pub(crate) const ALL: [Self; 7] = [
        Self::UnknownField,
        Self::UnknownGroup,
        Self::UnknownKey,
        Self::MissingSecret,
        Self::NoYaml,
        Self::Empty,
        Self::CutOff,
    ];
}

/// The names that only a mistake writes. None may ever be sent.
pub(crate) const TYPOS: [&str; 4] = ["picturs-typo", "zzqtypo", "qqtypos", "icn"];

pub(crate) fn icon(number: u32) -> String {
    format!("https://cdn.example.com/{number}.png")
}

pub(crate) fn literal(number: u32) -> String {
    format!("canary-literal-{number}")
}

/// The secrets at one moment.
pub(crate) type Secrets = BTreeMap<String, String>;

impl FileSpec {
    pub(crate) fn name(&self) -> String {
        format!("{}.yaml", self.provider.to_lowercase())
    }

    /// Whether updates may follow from it.
    pub(crate) fn is_valid(&self) -> bool {
        self.mistake.is_none()
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("provider: {}\n", self.provider);
        if let Some(number) = self.icon {
            let key = if self.mistake == Some(Mistake::UnknownKey) {
                "icn"
            } else {
                "icon"
            };
            text += &format!("{key}: {}\n", icon(number));
        }
        let section = |name: &str, section: &Option<Section>| match section {
            None => String::new(),
            Some(values) if values.is_empty() => format!("  {name}: {{}}\n"),
            Some(values) => {
                let line = |(key, value): (&&str, &KeyValue)| {
                    let value = match value {
                        KeyValue::Literal(number) => literal(*number),
                        KeyValue::Secret(_) if self.mistake == Some(Mistake::MissingSecret) => {
                            "${secret:no-such-secret}".to_owned()
                        }
                        KeyValue::Secret(name) => format!("Bearer ${{secret:{name}}}"),
                    };
                    format!("    {key}: {value}\n")
                };
                format!("  {name}:\n{}", values.iter().map(line).collect::<String>())
            }
        };
        if self.headers.is_some() || self.query.is_some() {
            text += "partnerKey:\n";
            text += &section("headers", &self.headers);
            text += &section("queryParams", &self.query);
        }
        let group = |name: &str, on: &Option<BTreeSet<&str>>| {
            on.as_ref().map_or_else(String::new, |on| {
                format!(
                    "  {name}: [{}]\n",
                    on.iter().copied().collect::<Vec<_>>().join(", ")
                )
            })
        };
        let (mut listing, mut groups) = (self.listing.clone(), String::new());
        match self.mistake {
            Some(Mistake::UnknownField) => drop(listing.get_or_insert_default().insert("zzqtypo")),
            Some(Mistake::UnknownGroup) => groups += "  qqtypos: [name]\n",
            _ => {}
        }
        groups += &group("listing", &listing);
        groups += &group("rates", &self.rates);
        if !groups.is_empty() {
            text += &format!("fieldsToSync:\n{groups}");
        }
        if let Some(until) = self.hold {
            text += &format!("hold:\n  until: {until}\n  reason: a migration\n");
        }
        match self.mistake {
            Some(Mistake::NoYaml) => format!("{text}: : [\n"),
            Some(Mistake::Empty) => String::new(),
            Some(Mistake::CutOff) => {
                let cut = text.rfind(": ").unwrap_or(text.len() / 2);
                format!("{}: [", &text[..cut])
            }
            // A file without an icon has no key to misspell.
            Some(Mistake::UnknownKey) if self.icon.is_none() => format!("{text}icn: x\n"),
            Some(Mistake::MissingSecret) if !self.has_secret() => {
                format!("{text}zzqtypo: 1\n")
            }
            _ => text,
        }
    }

    fn has_secret(&self) -> bool {
        let sections = self.headers.iter().chain(&self.query);
        sections
            .flat_map(BTreeMap::values)
            .any(|value| matches!(value, KeyValue::Secret(_)))
    }

    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &String> {
        let sections = self.headers.iter().chain(&self.query);
        sections
            .flat_map(BTreeMap::values)
            .filter_map(|value| match value {
                KeyValue::Secret(name) => Some(name),
                KeyValue::Literal(_) => None,
            })
    }

    fn section(section: &Section, secrets: &Secrets) -> Value {
        let value = |value: &KeyValue| match value {
            KeyValue::Literal(number) => literal(*number),
            KeyValue::Secret(name) => {
                format!("Bearer {}", secrets.get(name).map_or("", String::as_str))
            }
        };
        section
            .iter()
            .map(|(key, one)| ((*key).to_owned(), json!(value(one))))
            .collect()
    }

    /// The managed parts, each with what Calry must hold: by JSON pointer.
    pub(crate) fn wanted(&self, secrets: &Secrets) -> Vec<(&'static str, Value)> {
        let mut wanted = Vec::new();
        wanted.extend(self.icon.map(|number| ("/icon", json!(icon(number)))));
        let sections = [
            ("/partnerKey/headers", &self.headers),
            ("/partnerKey/queryParams", &self.query),
        ];
        wanted.extend(
            sections
                .into_iter()
                .filter_map(|(at, section)| Some((at, Self::section(section.as_ref()?, secrets)))),
        );
        let groups = [
            ("/fieldsToSync/listing", &self.listing),
            ("/fieldsToSync/rates", &self.rates),
        ];
        wanted.extend(
            groups
                .into_iter()
                .filter_map(|(at, on)| Some((at, json!(on.as_ref()?)))),
        );
        wanted
    }
}

/// The parts of a definition that an update can change.
pub(crate) const PARTS: [&str; 5] = [
    "/icon",
    "/partnerKey/headers",
    "/partnerKey/queryParams",
    "/fieldsToSync/listing",
    "/fieldsToSync/rates",
];

/// A part of a live definition in the form of [`FileSpec::wanted`]: of a group, the fields that are on. An absent section
/// holds nothing.
pub(crate) fn part(live: &Value, at: &str) -> Value {
    let value = live.pointer(at).cloned().unwrap_or(Value::Null);
    match value {
        Value::Object(fields) if at.starts_with("/fieldsToSync") => fields
            .into_iter()
            .filter(|(_, on)| *on == json!(true))
            .map(|(name, _)| name)
            .collect(),
        Value::Null if at.starts_with("/fieldsToSync") => json!([]),
        Value::Null if at.starts_with("/partnerKey") => json!({}),
        value => value,
    }
}

impl fmt::Display for FileSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text().trim_end().replace('\n', " / "))
    }
}

impl FileSpec {
    /// The same file with one thing less.
    pub(crate) fn drop_part(&mut self, number: usize) {
        match number {
            0 => self.icon = None,
            1 => self.headers = None,
            2 => self.query = None,
            3 => self.listing = None,
            4 => self.rates = None,
            5 => self.hold = None,
            _ => self.mistake = None,
        }
    }
}

/// The names of all secrets that a file may name.
pub(crate) fn all_secrets() -> Vec<String> {
    let of = |provider: &str| [0, 1].map(|number| format!("{}-{number}", provider.to_lowercase()));
    crate::history::PROVIDERS.into_iter().flat_map(of).collect()
}
