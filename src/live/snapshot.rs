//! The live state as a document that stands for Calry where nobody has an API key, such as a pull request from a fork.
//!
//! It holds no value below `partnerKey`: a keyed fingerprint of it where the operator gave a key, otherwise nothing. Reading
//! one is safe in the same way: a document that has values there is refused, and nothing in it is taken for a secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::wire::{self, Problem};
use super::{Error, Listing, ReadCalry, Unreadable};
use crate::http::{Http, HttpUrl};
use crate::model::{
    DefinitionPart, Fingerprint, FingerprintContext, FingerprintKey, KeySection, Live,
    LivePartnerKey, LiveProblems, LiveValue, Provider, Workspace, ellipsize, printable,
};

/// What every snapshot says of itself.
const KIND: &str = "calry-gitops snapshot";
/// The form that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The largest snapshot that is read, in bytes.
pub(super) const MAX_SNAPSHOT: usize = 32 << 20;
/// The longest problem that is read, in characters.
const MAX_PROBLEM: usize = 300;
/// What stands in place of a value that Calry itself shows as a mask.
const MASKED: &str = "masked";

/// The live state of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken: RFC 3339, UTC.
    pub taken_at: String,
    workspace: Workspace,
    listing: Listing,
}

/// A document that is no snapshot. It never repeats the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSnapshot {
    #[error("the snapshot {0} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("the snapshot {name} is larger than {} MiB; is it one?", MAX_SNAPSHOT >> 20)]
    TooLarge {
        /// As the operator called it.
        name: String,
    },
    #[error("{0} is no snapshot of calry-gitops: {1}; `calry-gitops snapshot` makes one")]
    Form(String, String),
    #[error(
        "the snapshot {0} has version {1}, and this calry-gitops reads version {VERSION}: use the same release for both"
    )]
    Version(String, String),
}

/// There is no snapshot to plan against.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Remote(#[from] Error),
    #[error(transparent)]
    Invalid(#[from] InvalidSnapshot),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    kind: &'static str,
    version: u64,
    taken_at: &'a str,
    workspace: BTreeMap<&'static str, &'a str>,
    /// The name of the key that the fingerprints were made with.
    fingerprint_key: Option<String>,
    definitions: Vec<Definition<'a>>,
    unreadable: Vec<Spoilt<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    provider: &'a str,
    id: &'a str,
    name: &'a str,
    icon: Option<&'a str>,
    partner_key: BTreeMap<&'static str, BTreeMap<&'a str, Option<String>>>,
    fields_to_sync: &'a crate::model::LiveFields,
    updated_at: &'a str,
    #[serde(skip_serializing_if = "Problems::is_none")]
    problems: Problems,
}

/// What of a definition could not be read when the snapshot was taken.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Problems {
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partner_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_section: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_params: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields_to_sync: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, String>,
}

impl Problems {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&LiveProblems> for Problems {
    fn from(problems: &LiveProblems) -> Self {
        // Destructured in full, so that a new kind of problem does not compile until a snapshot has it.
        let LiveProblems {
            icon,
            partner_key,
            unknown_section,
            sections,
            fields,
            groups,
        } = problems;
        Self {
            icon: icon.clone(),
            partner_key: partner_key.clone(),
            unknown_section: unknown_section.clone(),
            headers: sections.get(&KeySection::Headers).cloned(),
            query_params: sections.get(&KeySection::QueryParams).cloned(),
            fields_to_sync: fields.clone(),
            groups: groups.clone(),
        }
    }
}

impl From<Problems> for LiveProblems {
    fn from(problems: Problems) -> Self {
        let Problems {
            icon,
            partner_key,
            unknown_section,
            headers,
            query_params,
            fields_to_sync,
            groups,
        } = problems;
        let shown = |text: String| ellipsize(&printable(&text), MAX_PROBLEM);
        let sections = [
            (KeySection::Headers, headers),
            (KeySection::QueryParams, query_params),
        ];
        Self {
            icon: icon.map(shown),
            partner_key: partner_key.map(shown),
            unknown_section: unknown_section.map(shown),
            sections: sections
                .into_iter()
                .filter_map(|(section, text)| Some((section, shown(text?))))
                .collect(),
            fields: fields_to_sync.map(shown),
            groups: groups
                .into_iter()
                .map(|(group, text)| (group, shown(text)))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct Spoilt<'a> {
    provider: Option<&'a str>,
    problem: &'a str,
}

/// Writes the live state as a snapshot, fit for a terminal.
#[must_use]
pub fn snapshot(
    workspace: &Workspace,
    listing: &Listing,
    key: Option<&FingerprintKey>,
    taken_at: &str,
) -> String {
    let document = Document {
        kind: KIND,
        version: VERSION,
        taken_at,
        workspace: BTreeMap::from([
            ("id", workspace.id.as_str()),
            ("name", workspace.name.as_str()),
            ("slug", workspace.slug.as_str()),
        ]),
        fingerprint_key: key.map(FingerprintKey::id),
        definitions: listing
            .live
            .iter()
            .map(|live| definition(workspace, live, key))
            .collect(),
        unreadable: listing
            .unreadable
            .iter()
            .map(|u| Spoilt {
                provider: u.provider.as_ref().map(Provider::as_str),
                problem: &u.problem,
            })
            .collect(),
    };
    // Maps with text keys cannot fail to serialize.
    crate::model::printable_json(&serde_json::to_string_pretty(&document).unwrap_or_default())
}

fn definition<'a>(
    workspace: &Workspace,
    live: &'a Live,
    key: Option<&FingerprintKey>,
) -> Definition<'a> {
    // Destructured in full, so that a new part does not compile until somebody has thought about what of it may be shown.
    let Live {
        id,
        name,
        provider,
        icon,
        partner_key,
        fields,
        updated_at,
        problems,
    } = live;
    let shown = |section, name: &str, value: &LiveValue| match value {
        LiveValue::Value(secret) => {
            let place = place(workspace, provider, section, name);
            key.map(|key| key.fingerprint(&place, secret))
        }
        LiveValue::Mask | LiveValue::MaybeMask(_) => Some(MASKED.to_owned()),
        LiveValue::Fingerprint(_) | LiveValue::Withheld => None,
    };
    let section = |section| {
        let values = LivePartnerKey::section(partner_key, section)?;
        let shown = values
            .iter()
            .map(|(name, value)| (name.as_str(), shown(section, name, value)));
        Some((section.key(), shown.collect()))
    };
    Definition {
        provider: provider.as_str(),
        id,
        name,
        icon: icon.as_deref(),
        partner_key: KeySection::BOTH.into_iter().filter_map(section).collect(),
        fields_to_sync: fields,
        updated_at,
        problems: problems.into(),
    }
}

fn place(
    workspace: &Workspace,
    provider: &Provider,
    section: KeySection,
    name: &str,
) -> FingerprintContext {
    FingerprintContext {
        workspace: workspace.id.clone(),
        provider: provider.clone(),
        section,
        name: name.to_owned(),
    }
}

impl Snapshot {
    /// Reads the snapshot in a file.
    ///
    /// # Errors
    /// [`InvalidSnapshot`].
    pub fn open(path: &Path, key: Option<&FingerprintKey>) -> Result<Self, InvalidSnapshot> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SNAPSHOT as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| InvalidSnapshot::Unreadable(name.clone(), error.to_string()))?;
        Self::read(&name, &bytes, key)
    }

    /// Fetches the snapshot at a URL. No API key is sent, and no redirect is followed.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn fetch(
        http: &Http,
        url: &HttpUrl,
        deadline: Instant,
        key: Option<&FingerprintKey>,
    ) -> Result<Self, SnapshotError> {
        let body = http.document(url, deadline, MAX_SNAPSHOT).await?;
        Ok(Self::read(&url.to_string(), &body, key)?)
    }

    /// Reads a snapshot. `name` is how the operator called it. Fingerprints count where `key` is the one that made them.
    ///
    /// # Errors
    /// [`InvalidSnapshot`].
    pub fn read(
        name: &str,
        bytes: &[u8],
        key: Option<&FingerprintKey>,
    ) -> Result<Self, InvalidSnapshot> {
        if bytes.len() > MAX_SNAPSHOT {
            return Err(InvalidSnapshot::TooLarge {
                name: name.to_owned(),
            });
        }
        let form = |problem: String| InvalidSnapshot::Form(name.to_owned(), problem);
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let mut document = wire::object(bytes).map_err(|problem| match problem {
            Problem::NotJson => form("it is not JSON".to_owned()),
            Problem::Shape(problem) => form(problem),
        })?;
        if wire::text(&mut document, "kind").ok().as_deref() != Some(KIND) {
            return Err(form(format!("it does not say `\"kind\": \"{KIND}\"`")));
        }
        match document.remove("version") {
            Some(Value::Number(version)) if version.as_u64() == Some(VERSION) => {}
            Some(Value::Number(version)) => {
                return Err(InvalidSnapshot::Version(
                    name.to_owned(),
                    ellipsize(&version.to_string(), 20),
                ));
            }
            _ => return Err(form("`version` is no number".to_owned())),
        }
        let taken_at = wire::text(&mut document, "takenAt").map_err(form)?;
        if taken_at.parse::<jiff::Timestamp>().is_err() {
            return Err(form("`takenAt` is no time".to_owned()));
        }
        let Some(Value::Object(workspace)) = document.remove("workspace") else {
            return Err(form("`workspace` is no object".to_owned()));
        };
        let workspace = wire::workspace_of(workspace)
            .map_err(|problem| form(format!("`workspace`: {problem}")))?;
        let made_with = document.remove("fingerprintKey");
        let key = key.filter(|key| made_with.as_ref().and_then(Value::as_str) == Some(&key.id()));
        let listing = listing(&workspace, &mut document, key).map_err(form)?;
        Ok(Self {
            taken_at,
            workspace,
            listing,
        })
    }
}

fn listing(
    workspace: &Workspace,
    document: &mut Map<String, Value>,
    key: Option<&FingerprintKey>,
) -> Result<Listing, String> {
    let list = |document: &mut Map<String, Value>, name: &str| match document.remove(name) {
        Some(Value::Array(items)) if items.len() <= wire::MAX_DEFINITIONS => Ok(items),
        Some(Value::Array(_)) => Err(format!(
            "`{name}` has more than {} items",
            wire::MAX_DEFINITIONS
        )),
        _ => Err(format!("`{name}` is no list")),
    };
    let value = |provider: &Provider, section: KeySection, name: &str, value| match value {
        Value::Null => Ok(LiveValue::Withheld),
        Value::String(text) if text == MASKED => Ok(LiveValue::Mask),
        Value::String(text) => {
            // Whether it is one is looked at without the key, too: a value in its place must not go unnoticed.
            if !Fingerprint::is_one(&text) {
                return Err("is no fingerprint");
            }
            let place = place(workspace, provider, section, name);
            let fingerprint = key.and_then(|key| Fingerprint::new(key.clone(), place, &text));
            Ok(fingerprint.map_or(LiveValue::Withheld, LiveValue::Fingerprint))
        }
        _ => Err("is no fingerprint"),
    };
    let mut live: BTreeMap<Provider, Live> = BTreeMap::new();
    for item in list(document, "definitions")? {
        let Value::Object(mut object) = item else {
            return Err("a definition is no object".to_owned());
        };
        let noted = object
            .remove("problems")
            .unwrap_or_else(|| Value::Object(Map::new()));
        let mut read =
            wire::live_with(&mut object, value).map_err(|unreadable| {
                match unreadable.provider {
                    Some(provider) => format!("{provider}: {}", unreadable.problem),
                    None => unreadable.problem,
                }
            })?;
        let provider = read.provider.clone();
        // Calry's answers have parts of other forms, a snapshot has not: a value in a wrong place must not go unnoticed.
        if let Some(problem) = DefinitionPart::ALL
            .into_iter()
            .find_map(|part| read.problems.part(part))
        {
            return Err(format!("{provider}: {problem}"));
        }
        let noted: Problems = serde_json::from_value(noted)
            .map_err(|_| format!("{provider}: `problems` has another form"))?;
        read.problems = noted.into();
        if live.insert(provider.clone(), read).is_some() {
            return Err(format!("{provider} is in it twice"));
        }
    }
    let mut unreadable = Vec::new();
    for item in list(document, "unreadable")? {
        let Value::Object(mut object) = item else {
            return Err("an unreadable definition is no object".to_owned());
        };
        let provider = match object.remove("provider") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => {
                Some(Provider::parse(&name).map_err(|error| error.to_string())?)
            }
            Some(_) => return Err("the provider of an unreadable definition is no text".to_owned()),
        };
        let problem = ellipsize(
            &printable(&wire::text(&mut object, "problem")?),
            MAX_PROBLEM,
        );
        unreadable.push(Unreadable { provider, problem });
    }
    Ok(Listing {
        live: live.into_values().collect(),
        unreadable,
    })
}

impl ReadCalry for Snapshot {
    async fn workspace(&self) -> Result<Workspace, Error> {
        Ok(self.workspace.clone())
    }

    async fn definitions(&self) -> Result<Listing, Error> {
        Ok(self.listing.clone())
    }

    async fn definition(&self, provider: &Provider) -> Result<Live, Error> {
        let live = self
            .listing
            .live
            .iter()
            .find(|live| live.provider == *provider);
        live.cloned()
            .ok_or_else(|| Error::no_such_definition(provider))
    }
}
