//! A definition file as types: what a new file is written from, and what the JSON Schema for editors is made of.
//!
//! It says what the reader in `definition` takes, with the limits of that reader, and never reads anything itself. What a
//! schema cannot say (a key twice, a file's name, a day that no month has) stays with the reader.

use std::collections::{BTreeMap, BTreeSet};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::definition::{MAX_NAME, MAX_PARAMETER_NAME, MAX_PARAMETERS, MAX_REASON, MAX_VALUE};
use crate::model::{Desired, DesiredValue, Half, Icon, KNOWN_LISTING_FIELDS, KNOWN_PROVIDERS, Provider, Slug};

/// The file of the schema of a definition file, beside the files.
pub const DEFINITION_SCHEMA: &str = "definition.schema.json";
/// The file of the schema of `workspace.yaml`, beside it.
pub const WORKSPACE_SCHEMA: &str = "workspace.schema.json";

/// A provider's integration definition. Calry is kept as this file says; what the file leaves out stays in Calry as it is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "Integration definition", deny_unknown_fields)]
struct DefinitionForm<'a> {
    /// The provider that this file is about, in capitals. The file is named after it in lower case.
    #[schemars(regex(pattern = r"^[A-Z][A-Z0-9_]*$"), length(max = Provider::MAX_LEN), extend("examples" = KNOWN_PROVIDERS))]
    provider: &'a str,
    /// The URL of the icon, absolute, http or https. Left out, it stays in Calry as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#@]+([/?#]\S*)?$"), length(max = Icon::MAX_LEN))]
    icon: Option<&'a str>,
    /// How the workspace identifies itself to the provider. `{}` means neither headers nor query parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PartnerKeyForm")]
    partner_key: Option<PartnerKeyForm<'a>>,
    /// What Calry copies from the provider, group by group. A group that is left out stays in Calry as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "groups")]
    fields_to_sync: BTreeMap<&'a str, &'a BTreeSet<String>>,
    /// Stops all changes to this provider, until a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HoldForm")]
    hold: Option<HoldForm<'a>>,
}

/// How the workspace identifies itself to the provider. A half that is left out stays in Calry as it is; `{}` means none.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct PartnerKeyForm<'a> {
    /// HTTP headers. A header that is not named here is removed from Calry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "headers")]
    headers: Option<BTreeMap<&'a str, String>>,
    /// Query parameters. A parameter that is not named here is removed from Calry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "query_params")]
    query_params: Option<BTreeMap<&'a str, String>>,
}

/// Stops all changes to this provider, until a day.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HoldForm<'a> {
    /// The last day on which the hold is in force, UTC: YYYY-MM-DD.
    #[schemars(regex(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), extend("format" = "date"))]
    until: String,
    /// Why, for whoever finds the hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = MAX_REASON))]
    reason: Option<&'a str>,
}

/// The workspace that the definitions of this directory are for: with an API key of another one nothing is changed.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Workspace", deny_unknown_fields)]
struct WorkspaceForm<'a> {
    /// The workspace's slug, as Calry shows it.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]+$"), length(max = Slug::MAX_LEN))]
    slug: &'a str,
}

/// What names a group or field: no space, no control character.
const NAME: &str = r"^[^\s\u0000-\u001f\u007f-\u009f]+$";

fn groups(_: &mut SchemaGenerator) -> Schema {
    let name = |examples: &[&str]| json_schema!({"type": "string", "pattern": NAME, "maxLength": MAX_NAME, "examples": examples});
    let mut group = name(&["listing"]);
    // Below `fieldsToSync` their values would be taken for fields, and shown.
    group.insert("not".to_owned(), serde_json::json!({"enum": ["partnerKey", "headers", "queryParams"]}));
    json_schema!({
        "type": "object",
        "propertyNames": group,
        "additionalProperties": {
            "description": "The fields that Calry copies: a list of those that are on, or a map of `field: true` and \
                            `field: false`. A field that is not named is off; `[]` switches every field off.",
            "anyOf": [
                {"type": "array", "uniqueItems": true, "items": name(&KNOWN_LISTING_FIELDS)},
                {
                    "type": "object",
                    "propertyNames": name(&KNOWN_LISTING_FIELDS),
                    "additionalProperties": {"type": "boolean"},
                },
            ],
        },
    })
}

fn headers(_: &mut SchemaGenerator) -> Schema {
    half(Half::Headers, r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", r"\u0000-\u001f\u007f-\u009f")
}

fn query_params(_: &mut SchemaGenerator) -> Schema {
    half(Half::QueryParams, r"^[^\u0000-\u001f\u007f-\u009f]+$", "")
}

/// One half of a partner key: `name` is what its names look like, `never` the characters that no value holds.
fn half(half: Half, name: &str, never: &str) -> Schema {
    // Any text in which `${` begins a reference, or is written `$${`.
    let reference = r"\$\{secret:[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\}";
    let value = format!(r"^([^${never}]|\$+[^${{{never}]|\$\$+\{{|{reference})*\$*$");
    let what = if half == Half::Headers { "header" } else { "query parameter" };
    json_schema!({
        "type": "object",
        "maxProperties": MAX_PARAMETERS,
        "propertyNames": {"type": "string", "pattern": name, "maxLength": MAX_PARAMETER_NAME},
        "additionalProperties": {
            "description": format!(
                "The value of the {what}. `${{secret:NAME}}` stands for a secret, which is never written here, and `$${{` \
                 for a literal `${{`."
            ),
            "type": "string",
            "pattern": value,
            "maxLength": MAX_VALUE,
        },
    })
}

/// The JSON Schema (2020-12) of a definition file.
#[must_use]
pub fn definition_schema() -> String {
    schema::<DefinitionForm<'_>>()
}

/// The JSON Schema (2020-12) of `workspace.yaml`.
#[must_use]
pub fn workspace_schema() -> String {
    schema::<WorkspaceForm<'_>>()
}

fn schema<T: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    // A schema is JSON already.
    format!("{:#}\n", schema.as_value())
}

/// A new definition file. Values below `partnerKey` are references or empty, as `pull` makes them: what is written out is
/// not repeated.
pub(super) fn definition(desired: &Desired) -> String {
    let [headers, query_params] = Half::BOTH.map(|half| desired.partner_key.half(half).map(references));
    let form = DefinitionForm {
        provider: desired.provider.as_str(),
        icon: desired.icon.as_ref().map(Icon::as_str),
        partner_key: (headers.is_some() || query_params.is_some()).then_some(PartnerKeyForm { headers, query_params }),
        fields_to_sync: desired.fields.iter().map(|(group, on)| (group.as_str(), on)).collect(),
        hold: desired
            .hold
            .as_ref()
            .map(|hold| HoldForm { until: hold.until.to_string(), reason: hold.reason.as_deref() }),
    };
    yaml(DEFINITION_SCHEMA, &form)
}

fn references(values: &BTreeMap<String, DesiredValue>) -> BTreeMap<&str, String> {
    let text = |value: &DesiredValue| value.references().next().map(|name| format!("${{secret:{name}}}"));
    values.iter().map(|(name, value)| (name.as_str(), text(value).unwrap_or_default())).collect()
}

/// A new `workspace.yaml`.
pub(super) fn workspace(slug: &Slug) -> String {
    yaml(WORKSPACE_SCHEMA, &WorkspaceForm { slug: slug.as_str() })
}

fn yaml(schema: &str, form: &impl Serialize) -> String {
    // Maps of strings always serialize.
    format!("# yaml-language-server: $schema={schema}\n{}", serde_yaml::to_string(form).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::definition::KEYS;
    use super::*;

    #[test]
    fn the_schema_has_the_keys_that_the_reader_knows() {
        let schema: serde_json::Value = serde_json::from_str(&definition_schema()).unwrap();
        let keys: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, KEYS.into_iter().collect());
    }
}
