//! Snapshots: the live state as a document, for planning without an API key, such as in a pull request from a fork.
//!
//! Never: hold a value below `partnerKey`. With a fingerprint key, a snapshot holds keyed fingerprints in its place, without
//! one nothing. A document that has values there is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::document::fetch_document;
use super::saved::{self, InvalidDocument, MAX_PROBLEM, SavedDefinition};
use super::wire;
use super::{Error, Listing, ReadCalry, Unreadable};
use crate::http::{Http, HttpUrl};
use crate::model::{
    Fingerprint, FingerprintContext, FingerprintKey, KeySection, Live, LiveValue, Provider,
    Workspace, ellipsize, printable, read_at_most,
};

/// The value of `kind` in every snapshot.
const KIND: &str = "calry-gitops snapshot";
/// The only version that is written and read.
const VERSION: u64 = 1;
/// The largest snapshot that is read, in bytes.
pub(super) const MAX_SNAPSHOT: usize = 32 << 20;
/// Replaces a value that Calry itself shows as a mask.
const MASKED: &str = "masked";

/// The live state of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// RFC 3339, UTC.
    pub taken_at: String,
    workspace: Workspace,
    listing: Listing,
}

/// A document is not a usable snapshot. The error never quotes the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSnapshot {
    #[error("the snapshot {0} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("the snapshot {name} is larger than {} MiB; is it a snapshot?", MAX_SNAPSHOT >> 20)]
    TooLarge { name: String },
    #[error("{0} is not a calry-gitops snapshot: {1}; create one with `calry-gitops snapshot`")]
    Form(String, String),
    #[error(
        "the snapshot {0} has version {1}, and this calry-gitops reads version {VERSION}: use the same release for both"
    )]
    Version(String, String),
}

/// No usable snapshot is available.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Fetch(#[from] Error),
    #[error(transparent)]
    Invalid(#[from] InvalidSnapshot),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    kind: &'static str,
    version: u64,
    taken_at: &'a str,
    workspace: &'a Workspace,
    /// The name of the key that made the fingerprints.
    fingerprint_key: Option<String>,
    definitions: Vec<SavedDefinition<'a>>,
    unreadable: Vec<UnreadableEntry<'a>>,
}

#[derive(Serialize)]
struct UnreadableEntry<'a> {
    provider: Option<&'a str>,
    problem: &'a str,
}

/// Writes the live state as a snapshot that is safe to print.
#[must_use]
pub fn write_snapshot(
    workspace: &Workspace,
    listing: &Listing,
    key: Option<&FingerprintKey>,
    taken_at: &str,
) -> String {
    let document = Document {
        kind: KIND,
        version: VERSION,
        taken_at,
        workspace,
        fingerprint_key: key.map(FingerprintKey::id),
        definitions: listing
            .live
            .iter()
            .map(|live| write_definition(workspace, live, key))
            .collect(),
        unreadable: listing
            .unreadable
            .iter()
            .map(|u| UnreadableEntry {
                provider: u.provider.as_ref().map(Provider::as_str),
                problem: &u.problem,
            })
            .collect(),
    };
    #[expect(
        clippy::expect_used,
        reason = "the document is made of maps with string keys"
    )]
    let json = serde_json::to_string_pretty(&document).expect("maps with string keys serialize");
    crate::model::printable_json(&json)
}

fn write_definition<'a>(
    workspace: &Workspace,
    live: &'a Live,
    key: Option<&FingerprintKey>,
) -> SavedDefinition<'a> {
    SavedDefinition::new(live, |section, name, value| match value {
        LiveValue::Value(secret) => {
            let place = place(workspace, &live.provider, section, name);
            key.map(|key| Cow::from(key.fingerprint(&place, secret)))
        }
        LiveValue::Mask | LiveValue::MaybeMask(_) => Some(Cow::from(MASKED)),
        LiveValue::Fingerprint(_) | LiveValue::Withheld => None,
    })
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
    pub fn open(path: &Path, key: Option<&FingerprintKey>) -> Result<Self, InvalidSnapshot> {
        let name = path.display().to_string();
        let bytes = File::open(path)
            .and_then(|file| read_at_most(file, MAX_SNAPSHOT as u64))
            .map_err(|error| InvalidSnapshot::Unreadable(name.clone(), error.to_string()))?;
        let too_large = || InvalidSnapshot::TooLarge { name: name.clone() };
        Self::read(&name, &bytes.ok_or_else(too_large)?, key)
    }

    /// Fetches the snapshot at a URL. No API key is sent, and no redirect is followed.
    pub async fn fetch(
        http: &Http,
        url: &HttpUrl,
        deadline: Instant,
        key: Option<&FingerprintKey>,
    ) -> Result<Self, SnapshotError> {
        let body = fetch_document(http, url, deadline, MAX_SNAPSHOT).await?;
        Ok(Self::read(&url.to_string(), &body, key)?)
    }

    /// Parses a snapshot. `name` is its path or URL, for errors. Fingerprints are used if `key` is the key that made them.
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
        let mut document = saved::parse(bytes, KIND, VERSION).map_err(|invalid| match invalid {
            InvalidDocument::Form(problem) => form(problem),
            InvalidDocument::Version(version) => InvalidSnapshot::Version(name.to_owned(), version),
        })?;
        let taken_at = wire::take_text(&mut document, "takenAt").map_err(form)?;
        if taken_at.parse::<jiff::Timestamp>().is_err() {
            return Err(form("`takenAt` is not a time".to_owned()));
        }
        let workspace = saved::take_workspace(&mut document).map_err(form)?;
        let made_with = document.remove("fingerprintKey");
        let key = key.filter(|key| made_with.as_ref().and_then(Value::as_str) == Some(&key.id()));
        let listing = read_listing(&workspace, &mut document, key).map_err(form)?;
        Ok(Self {
            taken_at,
            workspace,
            listing,
        })
    }
}

fn read_listing(
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
        _ => Err(format!("`{name}` is not a list")),
    };
    let value = |provider: &Provider, section: KeySection, name: &str, value| match value {
        Value::Null => Ok(LiveValue::Withheld),
        Value::String(text) if text == MASKED => Ok(LiveValue::Mask),
        Value::String(text) => {
            // Checked without the key as well: a value in this place must not go unnoticed.
            if !Fingerprint::is_one(&text) {
                return Err("is not a fingerprint");
            }
            let place = place(workspace, provider, section, name);
            let fingerprint = key.and_then(|key| Fingerprint::new(key.clone(), place, &text));
            Ok(fingerprint.map_or(LiveValue::Withheld, LiveValue::Fingerprint))
        }
        _ => Err("is not a fingerprint"),
    };
    let mut live: BTreeMap<Provider, Live> = BTreeMap::new();
    for item in list(document, "definitions")? {
        let Value::Object(mut object) = item else {
            return Err("a definition is not an object".to_owned());
        };
        let read =
            saved::read_definition(&mut object, value).map_err(|unreadable| {
                match unreadable.provider {
                    Some(provider) => format!("{provider}: {}", unreadable.problem),
                    None => unreadable.problem,
                }
            })?;
        let provider = read.provider.clone();
        if live.insert(provider.clone(), read).is_some() {
            return Err(format!("duplicate provider {provider}"));
        }
    }
    let mut unreadable = Vec::new();
    for item in list(document, "unreadable")? {
        let Value::Object(mut object) = item else {
            return Err("an unreadable definition is not an object".to_owned());
        };
        let provider = match object.remove("provider") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => {
                Some(Provider::parse(&name).map_err(|error| error.to_string())?)
            }
            Some(_) => {
                return Err("the provider of an unreadable definition is not a string".to_owned());
            }
        };
        let problem = ellipsize(
            &printable(&wire::take_text(&mut object, "problem")?),
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
        live.cloned().ok_or_else(|| Error::not_found(provider))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::http::{HttpTimeouts, UrlPolicy};

    #[test]
    fn the_problems_in_a_snapshot_are_made_safe_to_print_and_are_short() {
        let long = "x".repeat(10 * MAX_PROBLEM);
        let document = json!({
            "kind": KIND, "version": VERSION, "takenAt": "2026-01-01T00:00:00Z",
            "workspace": {"id": "1", "name": "A", "slug": "a"},
            "definitions": [{
                "provider": "HOSTAWAY", "id": "1", "fieldsToSync": {},
                "problems": {"icon": "a\u{1b}[31mb", "groups": {"g": long}},
            }],
            "unreadable": [],
        });
        let read = Snapshot::read("s", document.to_string().as_bytes(), None).unwrap();
        let problems = &read.listing.live[0].problems;
        let (icon, group) = (problems.icon.as_ref(), problems.groups.get("g"));
        assert!(icon.is_some_and(|text| text.starts_with('a') && !text.contains('\u{1b}')));
        assert!(group.is_some_and(|text| text.chars().count() <= MAX_PROBLEM + 1));
    }

    /// A snapshot with these definitions.
    fn with(definitions: &[Value]) -> Result<Snapshot, InvalidSnapshot> {
        let document = json!({
            "kind": KIND, "version": VERSION, "takenAt": "2026-01-01T00:00:00Z",
            "workspace": {"id": "1", "name": "A", "slug": "a"},
            "definitions": definitions, "unreadable": [],
        });
        Snapshot::read("s", document.to_string().as_bytes(), None)
    }

    #[test]
    fn the_size_of_a_snapshot_and_the_number_of_its_definitions_are_limited() {
        let is_too_large = |size| {
            let read = Snapshot::read("s", &vec![b'x'; size], None);
            matches!(read, Err(InvalidSnapshot::TooLarge { .. }))
        };
        assert!(!is_too_large(MAX_SNAPSHOT) && is_too_large(MAX_SNAPSHOT + 1));
        for (count, expected) in [(0, false), (1, true)] {
            let error = with(&vec![Value::Null; wire::MAX_DEFINITIONS + count]).unwrap_err();
            assert_eq!(
                error.to_string().contains("has more than"),
                expected,
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_definition_is_found_by_its_provider() {
        let one =
            |provider: &str, id: &str| json!({"provider": provider, "id": id, "fieldsToSync": {}});
        let read = with(&[one("A", "1"), one("B", "2")]).unwrap();
        let id = async |provider: &str| {
            let found = read.definition(&Provider::parse(provider).unwrap()).await;
            found.map(|live| live.id).map_err(|error| error.to_string())
        };
        assert_eq!(id("B").await, Ok("2".to_owned()));
        assert_eq!(
            id("C").await.unwrap_err(),
            "cannot read C: the workspace has no definition for this provider (404)"
        );
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_pause_beyond_the_deadline_is_asked_once() {
        crate::http::install_tls();
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/snapshot.json", server.local_addr().unwrap());
        let url = HttpUrl::parse(&url, UrlPolicy::api(false)).unwrap();
        let answer = async {
            let (mut connection, _) = server.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(connection.read(&mut request).await.unwrap() > 0);
            let answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";
            connection.write_all(answer).await.unwrap();
        };
        let http = Http::new(HttpTimeouts::default()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let fetched = Snapshot::fetch(&http, &url, deadline, None);
        let (fetched, ()) = futures_util::future::join(fetched, answer).await;
        let Err(SnapshotError::Fetch(error)) = fetched else {
            panic!("{fetched:?}");
        };
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    }
}
