//! The initial state of a sandbox: the embedded example workspace, a file, or synthetic providers.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::contract;
use crate::model::{KNOWN_LISTING_FIELDS, Slug, printable, read_at_most};

/// The largest seed file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A workspace and its integration definitions, in the form of the API's answers.
#[derive(Clone)]
pub struct Seed {
    pub(super) workspace: Value,
    pub(super) slug: Slug,
    pub(super) definitions: BTreeMap<String, Value>,
}

/// A seed is invalid. The error never quotes a value.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSeed {
    #[error("cannot read the seed: {0}")]
    Unreadable(#[from] io::Error),
    #[error("the seed is larger than {} MiB", MAX_FILE >> 20)]
    TooLarge,
    /// Lines and columns count from 1.
    #[error("the seed is not JSON (line {line}, column {column})")]
    Syntax { line: usize, column: usize },
    #[error(
        "the seed must be a JSON object of the form {{\"workspace\": {{…}}, \"definitions\": [{{…}}, …]}} and no other key"
    )]
    Form,
    #[error("the seed's workspace is invalid: {}", .0.join("; "))]
    Workspace(Vec<String>),
    #[error("definition {number} of the seed{provider} is invalid: {}", .problems.join("; "))]
    Definition {
        /// Counted from 1.
        number: usize,
        /// The provider in parentheses, or empty.
        provider: String,
        problems: Vec<String>,
    },
    #[error("the seed has two definitions of {0}; a workspace has one for each provider")]
    Duplicate(String),
}

impl Seed {
    /// The example workspace: the providers of `definitions/`, some of them with drift, and two unmanaged ones.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "the text is embedded, and a test reads it"
    )]
    pub fn builtin() -> Self {
        Self::parse(include_bytes!("seed.json")).expect("the embedded seed is valid")
    }

    /// The same definitions in workspace number `copy`, which has its own id and slug.
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

    pub fn read(file: &Path) -> Result<Self, InvalidSeed> {
        let text = read_at_most(std::fs::File::open(file)?, MAX_FILE)?;
        Self::parse(&text.ok_or(InvalidSeed::TooLarge)?)
    }

    /// Parses a seed: `{"workspace": {…}, "definitions": [{…}, …]}`.
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

    /// A workspace of synthetic providers, `P00000` and so on, with all fields on.
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

    /// The provider, name and value of every header and query parameter.
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
    fn the_embedded_seed_has_every_known_provider_with_every_field_and_two_unmanaged_ones() {
        let seed = Seed::builtin();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("definitions");
        let managed = |provider: &str| {
            let file = format!("{}.yaml", provider.to_lowercase());
            files.join(file).is_file()
        };
        assert_eq!(seed.slug.as_str(), "acme-production");
        for provider in KNOWN_PROVIDERS {
            assert!(managed(provider), "{provider}");
            assert!(seed.definitions.contains_key(provider), "{provider}");
        }
        let unmanaged = seed.definitions.keys().filter(|name| !managed(name));
        assert_eq!(unmanaged.count(), 2);
        for (provider, definition) in &seed.definitions {
            let listing = &definition["fieldsToSync"]["listing"];
            for field in KNOWN_LISTING_FIELDS {
                assert!(listing[field].is_boolean(), "{provider} {field}");
            }
        }
    }

    #[test]
    fn synthetic_seeds_are_valid() {
        let seed = Seed::synthetic(3).with_slug(Slug::parse("other").unwrap());
        let json = json!({"workspace": seed.workspace, "definitions": seed.definitions.values().collect::<Vec<_>>()});
        let again = Seed::parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(format!("{again:?}"), "Seed(other, 3 definitions)");
        assert!(again.definitions.contains_key("P00002"));
    }

    #[test]
    fn an_invalid_seed_is_refused_without_quoting_a_value() {
        let refused = |json: &[u8]| Seed::parse(json).unwrap_err().to_string();
        let with = |key: &str, value: Value| {
            let mut seed = json!({"workspace": Seed::builtin().workspace, "definitions": []});
            seed[key] = value;
            refused(seed.to_string().as_bytes())
        };
        let definition = Seed::synthetic(1).definitions["P00000"].clone();
        let mut broken = definition.clone();
        broken["partnerKey"]["headers"]["x-api-key"] = json!(["hunter2"]);

        let syntax = "the seed is not JSON (line 2, column 3)";
        assert_eq!(refused(b"{\n  x"), syntax);
        for other in [refused(b"[]"), with("extra", json!(1))] {
            assert!(other.starts_with("the seed must be a JSON object of the form {"));
        }
        assert!(with("workspace", json!({})).contains("the workspace lacks `slug`"));
        assert_eq!(
            with("definitions", json!([definition, broken])),
            "definition 2 of the seed (P00000) is invalid: \
             partnerKey.headers.x-api-key must be a string"
        );
        let twice = with("definitions", json!([definition, definition]));
        assert!(twice.contains("two definitions of P00000"));
        let unreadable = Seed::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(unreadable.starts_with("cannot read the seed: "));
    }
}
