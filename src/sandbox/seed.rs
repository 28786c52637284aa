//! What a sandbox holds when it starts: the embedded example workspace, a file, or any number of made-up providers. The
//! secrets in it are made for trying.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::contract;
use crate::model::{KNOWN_LISTING_FIELDS, Slug, printable};

/// The largest seed file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A workspace and its integration definitions, as the API would answer with them.
#[derive(Clone)]
pub struct Seed {
    pub(super) workspace: Value,
    pub(super) slug: Slug,
    pub(super) definitions: BTreeMap<String, Value>,
}

/// Why a file or a text cannot be a seed. It never repeats a value.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSeed {
    #[error("cannot read the seed: {0}")]
    Unreadable(#[from] io::Error),
    #[error("the seed is larger than {} MiB", MAX_FILE >> 20)]
    TooLarge,
    /// The text is not JSON; its place is told.
    #[error("the seed is not JSON (line {line}, column {column})")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The JSON is not a seed at all.
    #[error(
        "a seed is a JSON object of the form {{\"workspace\": {{…}}, \"definitions\": [{{…}}, …]}} and no other key"
    )]
    Form,
    #[error("the seed's workspace is not as the API would answer with it: {}", .0.join("; "))]
    Workspace(Vec<String>),
    #[error("the seed's definition number {number}{provider} is not as the API would answer with it: {}", .problems.join("; "))]
    Definition {
        /// From 1.
        number: usize,
        /// The provider in parentheses, where it has one.
        provider: String,
        /// What is wrong.
        problems: Vec<String>,
    },
    #[error("the seed has two definitions of {0}; a workspace has one for each provider")]
    Duplicate(String),
}

impl Seed {
    /// The example workspace: the providers of `definitions/`, some of them drifted, and two that no file manages.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "the text is embedded, and a test reads it"
    )]
    pub fn builtin() -> Self {
        Self::parse(include_bytes!("seed.json")).expect("the embedded seed is valid")
    }

    /// The same definitions in another workspace: number `copy`, with an id and a slug of its own.
    pub(super) fn copy(&self, copy: usize) -> Self {
        let slug =
            Slug::parse(&format!("{}-{copy}", self.slug)).unwrap_or_else(|_| self.slug.clone());
        let mut seed = self.clone().with_slug(slug);
        if let Some(workspace) = seed.workspace.as_object_mut() {
            workspace.insert(
                "id".to_owned(),
                format!("00000000-0000-4000-8000-{copy:012x}").into(),
            );
        }
        seed
    }

    /// Reads a seed file.
    ///
    /// # Errors
    /// [`InvalidSeed`] where the file cannot be read or is not a seed.
    pub fn read(file: &Path) -> Result<Self, InvalidSeed> {
        let mut text = Vec::new();
        std::fs::File::open(file)?
            .take(MAX_FILE + 1)
            .read_to_end(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            return Err(InvalidSeed::TooLarge);
        }
        Self::parse(&text)
    }

    /// Reads a seed: `{"workspace": {…}, "definitions": [{…}, …]}`.
    ///
    /// # Errors
    /// [`InvalidSeed`] where the text is not a seed.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidSeed> {
        let seed: Value = serde_json::from_slice(json).map_err(|error| InvalidSeed::Syntax {
            line: error.line(),
            column: error.column(),
        })?;
        let Value::Object(mut seed) = seed else {
            return Err(InvalidSeed::Form);
        };
        let (workspace, definitions) = (seed.remove("workspace"), seed.remove("definitions"));
        let (Some(workspace), Some(Value::Array(list)), true) =
            (workspace, definitions, seed.is_empty())
        else {
            return Err(InvalidSeed::Form);
        };
        let problems = contract::workspace_problems(&workspace);
        let slug = workspace
            .get("slug")
            .and_then(Value::as_str)
            .and_then(|slug| Slug::parse(slug).ok());
        let Some(slug) = slug.filter(|_| problems.is_empty()) else {
            return Err(InvalidSeed::Workspace(problems));
        };

        let mut definitions = BTreeMap::new();
        for (at, definition) in list.into_iter().enumerate() {
            let problems = contract::definition_problems(&definition);
            let provider = definition
                .get("provider")
                .and_then(Value::as_str)
                .map(str::to_owned);
            match provider {
                Some(provider) if problems.is_empty() => {
                    if definitions.insert(provider.clone(), definition).is_some() {
                        return Err(InvalidSeed::Duplicate(provider));
                    }
                }
                provider => {
                    let provider = provider
                        .map(|name| format!(" ({})", printable(&name)))
                        .unwrap_or_default();
                    return Err(InvalidSeed::Definition {
                        number: at + 1,
                        provider,
                        problems,
                    });
                }
            }
        }
        Ok(Self {
            workspace,
            slug,
            definitions,
        })
    }

    /// A workspace of so many made-up providers, `P00000` and on, each with all fields on.
    #[must_use]
    pub fn synthetic(providers: usize) -> Self {
        let listing: Map<String, Value> = KNOWN_LISTING_FIELDS
            .iter()
            .map(|field| ((*field).to_owned(), Value::Bool(true)))
            .collect();
        let definition = |n: usize| {
            let provider = format!("P{n:05}");
            let definition = json!({
                "id": format!("00000000-0000-4000-8000-{n:012x}"),
                "name": format!("{provider} Integration"),
                "provider": provider,
                "icon": format!("https://cdn.example.com/icons/{n}.png"),
                "partnerKey": {"headers": {"x-api-key": format!("sandbox-{n}")}},
                "fieldsToSync": {"listing": listing},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "updatedAt": "2026-01-01T00:00:00.000Z",
            });
            (provider, definition)
        };
        Self {
            definitions: (0..providers).map(definition).collect(),
            ..Self::builtin()
        }
    }

    /// Every provider's headers and query parameters with their values, which are made for trying.
    #[must_use]
    pub fn partner_keys(&self) -> Vec<(&str, &str, &str)> {
        let mut keys = Vec::new();
        for (provider, definition) in &self.definitions {
            let sections = definition
                .get("partnerKey")
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(Map::values);
            for (name, value) in sections.filter_map(Value::as_object).flatten() {
                keys.extend(
                    value
                        .as_str()
                        .map(|value| (provider.as_str(), name.as_str(), value)),
                );
            }
        }
        keys
    }

    /// The same seed for a workspace with another slug.
    #[must_use]
    pub fn with_slug(mut self, slug: Slug) -> Self {
        if let Some(workspace) = self.workspace.as_object_mut() {
            workspace.insert("slug".to_owned(), json!(slug.as_str()));
        }
        Self { slug, ..self }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Seed({}, {} definitions)",
            self.slug,
            self.definitions.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KNOWN_PROVIDERS;

    #[test]
    fn the_embedded_seed_shows_every_known_provider_with_every_field_and_two_that_no_file_manages()
    {
        let seed = Seed::builtin();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("definitions");
        let managed = |provider: &str| {
            files
                .join(format!("{}.yaml", provider.to_lowercase()))
                .is_file()
        };
        assert_eq!(seed.slug.as_str(), "acme-production");
        assert!(
            KNOWN_PROVIDERS
                .iter()
                .all(|provider| managed(provider) && seed.definitions.contains_key(*provider))
        );
        assert_eq!(
            seed.definitions
                .keys()
                .filter(|provider| !managed(provider))
                .count(),
            2
        );
        for (provider, definition) in &seed.definitions {
            let listing = definition["fieldsToSync"]["listing"].as_object().unwrap();
            assert!(
                KNOWN_LISTING_FIELDS
                    .iter()
                    .all(|field| listing.contains_key(*field)),
                "{provider}"
            );
        }
    }

    #[test]
    fn made_up_seeds_are_as_valid_as_written_ones() {
        let seed = Seed::synthetic(3).with_slug(Slug::parse("other").unwrap());
        let json = json!({"workspace": seed.workspace, "definitions": seed.definitions.values().collect::<Vec<_>>()});
        let again = Seed::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(format!("{again:?}"), "Seed(other, 3 definitions)");
        assert!(again.definitions.contains_key("P00002"));
    }

    #[test]
    fn a_seed_is_refused_in_a_sentence_that_repeats_no_value() {
        let good = json!({"workspace": Seed::builtin().workspace, "definitions": []});
        let with = |key: &str, value: Value| {
            let mut seed = good.clone();
            seed[key] = value;
            Seed::parse(seed.to_string().as_bytes())
                .unwrap_err()
                .to_string()
        };
        let definition = Seed::synthetic(1).definitions["P00000"].clone();
        let mut broken = definition.clone();
        broken["partnerKey"]["headers"]["x-api-key"] = json!(["hunter2"]);

        assert_eq!(
            Seed::parse(b"{\n  x").unwrap_err().to_string(),
            "the seed is not JSON (line 2, column 3)"
        );
        assert!(
            Seed::parse(b"[]")
                .unwrap_err()
                .to_string()
                .starts_with("a seed is a JSON object of the form {")
        );
        assert!(with("extra", json!(1)).starts_with("a seed is a JSON object of the form {"));
        assert!(with("workspace", json!({})).contains("the workspace lacks `slug`"));
        assert_eq!(
            with("definitions", json!([definition, broken])),
            "the seed's definition number 2 (P00000) is not as the API would answer with it: \
             partnerKey.headers.x-api-key must be a text"
        );
        assert!(
            with("definitions", json!([definition, definition]))
                .contains("two definitions of P00000")
        );
        assert!(
            Seed::read(Path::new("/nowhere"))
                .unwrap_err()
                .to_string()
                .starts_with("cannot read the seed: ")
        );
    }
}
