//! Reads the known names out of `definition.schema.json`: the enums and properties that [`super::format`] writes there.
//!
//! It reads nothing else of the schema and resolves no reference: a hostile schema can only add names. The reader of
//! files bounds the size of the schema, serde_json its depth, and this module the number and form of the names.
//!
//! Never: accept a part of a schema. One that cannot be read in full adds no name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::definition::{is_field_name, is_group_name};
use crate::model::{Catalogue, Provider};

/// The most names that a schema may add.
const MAX_NAMES: usize = 50_000;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Root {
    properties: Keys,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Keys {
    provider: Enum,
    fields_to_sync: Groups,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Enum {
    r#enum: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    properties: BTreeMap<String, Group>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Group {
    any_of: Vec<Form>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Form {
    items: Enum,
    properties: BTreeMap<String, Value>,
}

impl Form {
    /// The fields that the form names. The lists of a group that changes a shared one are no fields.
    fn fields(self) -> impl Iterator<Item = String> {
        let is_list = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "array");
        let properties = self.properties.into_iter();
        let fields = properties.filter(move |(_, schema)| !is_list(schema));
        self.items
            .r#enum
            .into_iter()
            .chain(fields.map(|(name, _)| name))
    }
}

/// The names in a schema. The error completes "the schema …".
pub(super) fn names_in(schema: &[u8]) -> Result<Catalogue, String> {
    let schema = schema.strip_prefix("\u{feff}".as_bytes()).unwrap_or(schema);
    // The message of serde_json quotes the file; line and column do not.
    let Root { properties } = serde_json::from_slice(schema).map_err(|error| {
        format!(
            "is not a schema of definition files (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    let mut names = Catalogue::default();
    properties
        .provider
        .r#enum
        .iter()
        .filter(|name| Provider::parse(name).is_ok())
        .for_each(|p| names.add_provider(p));
    for (group, Group { any_of }) in properties.fields_to_sync.properties {
        if !is_group_name(&group) {
            continue;
        }
        let fields = any_of.into_iter().flat_map(Form::fields);
        names.add_fields(&group, fields.filter(|field| is_field_name(field)));
    }
    if names.count() > MAX_NAMES {
        Err(format!("has more than {MAX_NAMES} names"))
    } else {
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::definition_schema;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut names = Catalogue::built_in();
        names.add_provider("PROVIDER_0000");
        names.add_fields(
            "reservation",
            ["no", "~", "é\"'#", "$ref"].map(str::to_owned),
        );
        names.add_fields("empty", []);
        assert_eq!(
            names_in(definition_schema(&names).as_bytes()).unwrap(),
            names
        );
    }

    #[test]
    fn a_schema_adds_names_and_nothing_that_a_file_cannot_say() {
        let schema = r#"{"$ref": "file:///etc/passwd", "x": [[{}]], "properties": {
            "provider": {"enum": ["NEW", "not one"]},
            "fieldsToSync": {"properties": {"headers": {"anyOf": [{"items": {"enum": ["a"]}}]}, "a b": {}, "g": {"anyOf": [
                {"properties": {"f": {"$ref": "x"}, "": {}}}]}}}}}"#;
        let mut names = Catalogue::default();
        names.add_provider("NEW");
        names.add_fields("g", ["f".to_owned()]);
        assert_eq!(names_in(schema.as_bytes()).unwrap(), names);
        assert_eq!(names_in(b"{}").unwrap(), Catalogue::default());
    }

    #[test]
    fn a_schema_that_cannot_be_read_in_full_adds_nothing_and_is_not_quoted() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let providers = |count: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("P{n}")).collect();
            serde_json::json!({"properties": {"provider": {"enum": names}}}).to_string()
        };
        let many = providers(MAX_NAMES + 1);
        assert!(names_in(providers(MAX_NAMES).as_bytes()).is_ok());
        for bad in [
            "",
            "7",
            "CANARY",
            r#"{"properties": {"provider": {"enum": ["A", 1]}}}"#,
            r#"{"properties": {"provider": "CANARY"}}"#,
            r#"{"properties": null}"#,
            r#"{"x": "#,
            &deep,
            &many,
        ] {
            let error = names_in(bad.as_bytes()).unwrap_err();
            assert!(!error.contains("CANARY"), "{error}");
        }
    }
}
