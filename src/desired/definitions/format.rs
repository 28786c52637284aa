//! The form of a definition file: writes new files, and generates the JSON Schema for editors.
//!
//! The schema accepts what the reader in `definition` accepts, with the same limits. What a schema cannot express (a
//! duplicate key, the file's name, an impossible date) is left to the reader. The schema rejects every name that is not
//! known, because editors have no weaker mark; `super::catalogue` reads the names back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::definition::{
    DELTA_KEYS, MAX_PARAMETER_NAME, MAX_PARAMETERS, MAX_REASON, MAX_VALUE, is_field_name,
    is_group_name,
};
use super::edit::NewNode;
use super::shared::MAX_PATH;
use super::workspace::MAX_UNMANAGED;
use crate::desired::encrypted::MAX_RECIPIENTS;
use crate::model::{
    Catalogue, Desired, DesiredValue, Icon, KeySection, Provider, Slug, WorkspaceHolds,
};

/// The file of the schema of a definition file, beside the files.
pub const DEFINITION_SCHEMA: &str = "definition.schema.json";
/// The file of the schema of `workspace.yaml`, beside it.
pub const WORKSPACE_SCHEMA: &str = "workspace.schema.json";

/// The known groups with their fields. Editors complete `properties` and `enum`, but not `examples`.
fn groups(known: &Catalogue) -> Json {
    let group = |(name, fields): (&str, &BTreeSet<String>)| {
        let fields: Vec<&str> = fields
            .iter()
            .map(String::as_str)
            .filter(|name| is_field_name(name))
            .collect();
        let by_field: BTreeMap<&str, Json> = fields
            .iter()
            .map(|name| (*name, json!({"type": "boolean"})))
            .collect();
        let list = json!({"type": "array", "uniqueItems": true, "items": {"type": "string", "enum": fields}});
        let schema = json!({
            "description": "The fields that Calry copies: a list of those that are on, or a map of `field: true` and \
                            `field: false`. A field that is not named is off; `[]` switches every field off.",
            "anyOf": [
                list,
                {"type": "object", "properties": by_field, "additionalProperties": false},
                {
                    "description": "Fields that are added to the shared group, and fields that are removed from it.",
                    "type": "object",
                    "properties": DELTA_KEYS.map(|key| (key, list.clone())).into_iter().collect::<BTreeMap<_, _>>(),
                    "minProperties": 1,
                    "additionalProperties": false,
                },
                {"description": NOT_MANAGED, "type": "null"},
            ],
        });
        (name.to_owned(), schema)
    };
    known
        .groups()
        .filter(|(name, _)| is_group_name(name))
        .map(group)
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// What `null` means for a part.
const NOT_MANAGED: &str = "Not managed in this workspace, although the shared definition has it.";

/// The schema of a section of a partner key.
fn section_schema(section: KeySection) -> Json {
    // Control characters and line breaks, which no value contains.
    let never = r"\u0000-\u001f\u007f-\u009f\u2028\u2029";
    // Any text in which `${` begins a reference, or is written `$${`.
    let reference = r"\$\{secret:[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\}";
    let value = format!(r"^([^${never}]|\$+[^${{{never}]|\$\$+\{{|{reference})*\$*$");
    let (description, what, name) = match section {
        KeySection::Headers => (
            "HTTP headers. A header that is not named here is removed from Calry.",
            "header",
            r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        ),
        KeySection::QueryParams => (
            "Query parameters. A parameter that is not named here is removed from Calry.",
            "query parameter",
            r"^[^\u0000-\u001f\u007f-\u009f]+$",
        ),
    };
    json!({
        "description": description,
        "type": ["object", "null"],
        "maxProperties": MAX_PARAMETERS,
        "propertyNames": {"type": "string", "pattern": name, "maxLength": MAX_PARAMETER_NAME},
        "additionalProperties": {
            "description": format!(
                "The value of the {what}. `${{secret:NAME}}` stands for a secret, which is never written here, and `$${{` \
                 for a literal `${{`."
            ),
            "type": "string",
            "pattern": value,
            // No space at either end, and not only spaces.
            "not": {"pattern": r"^ | $|^\s+$"},
            "maxLength": MAX_VALUE,
        },
    })
}

/// The dialect of the schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The JSON Schema (2020-12) of a definition file with the known names.
#[must_use]
pub fn definition_schema(known: &Catalogue) -> String {
    let provider = json!({
        "description": "The provider that this file is about, in capitals. The file is named after it in lower case.",
        "type": "string",
        "enum": known.providers().collect::<Json>(),
    });
    let icon = json!({
        "description": "The absolute http or https URL of the icon. If it is left out, the icon is not changed in Calry.",
        "type": ["string", "null"],
        "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#@]+([/?#]\S*)?$",
        "maxLength": Icon::MAX_LEN,
    });
    let sections =
        KeySection::BOTH.map(|section| (section.key().to_owned(), section_schema(section)));
    let partner_key = json!({
        "description": "How the workspace identifies itself to the provider. `{}` removes all headers and query \
                        parameters; a section that is left out is not changed in Calry.",
        "type": "object",
        "properties": serde_json::Map::from_iter(sections),
        "additionalProperties": false,
    });
    let fields_to_sync = json!({
        "description": "The fields that Calry copies from the provider, by group. A group that is left out is not changed in Calry.",
        "type": "object",
        "properties": groups(known),
        "additionalProperties": false,
    });
    let hold = hold_schema("this provider", json!(["object", "null"]));
    text(&json!({
        "$schema": DIALECT,
        "title": "Integration definition",
        "description": "The integration definition of one provider. calry-gitops keeps Calry equal to this file. What the file \
                        leaves out is not changed in Calry.",
        "type": "object",
        "properties": {
            "provider": provider,
            "icon": icon,
            "partnerKey": partner_key,
            "fieldsToSync": fields_to_sync,
            "hold": hold,
        },
        "required": ["provider"],
        "additionalProperties": false,
    }))
}

fn hold_schema(what: &str, kind: Json) -> Json {
    let until = json!({
        "description": "The last day on which the hold is in force, UTC: YYYY-MM-DD.",
        "type": "string",
        "format": "date",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    });
    let reason = json!({
        "description": "The reason for the hold, for other readers of the file.",
        "type": "string",
        "maxLength": MAX_REASON,
    });
    json!({
        "description": format!("Suspends all changes to {what} until a date."),
        "type": kind,
        "properties": {"until": until, "reason": reason},
        "required": ["until"],
        "additionalProperties": false,
    })
}

/// The JSON Schema (2020-12) of `workspace.yaml`.
#[must_use]
pub fn workspace_schema() -> String {
    let slug = json!({
        "description": "The workspace's slug, as Calry shows it.",
        "type": "string",
        "pattern": "^[A-Za-z0-9._-]+$",
        "maxLength": Slug::MAX_LEN,
    });
    let extends = json!({
        "description": "The path of a directory of definitions that several workspaces share, such as ../shared. A file of this \
                        directory overrides the shared definition of its provider part by part.",
        "type": "string",
        "pattern": r"^(\.\./)+[^./][^/]*(/[^./][^/]*)*/?$",
        "maxLength": MAX_PATH,
    });
    let time = |what: &str| {
        json!({
            "description": format!("{what}, in RFC 3339 (2026-12-20T18:00:00Z), or a local time (2026-12-20T18:00:00) of timeZone."),
            "type": "string",
            "pattern": r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:?\d{2})?$",
        })
    };
    let freeze = json!({
        "description": "Windows in which nothing is written to the workspace.",
        "type": "array",
        "maxItems": WorkspaceHolds::MAX_WINDOWS,
        "items": {
            "type": "object",
            "properties": {
                "from": time("When it begins"),
                "to": time("When it ends"),
                "timeZone": {
                    "description": "The IANA name of the time zone of local times, such as Europe/Berlin.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 64,
                },
                "reason": {"description": "The reason.", "type": "string", "maxLength": MAX_REASON},
            },
            "required": ["from", "to"],
            "additionalProperties": false,
        },
    });
    let unmanaged = json!({
        "description": "The providers that have no file on purpose.",
        "type": "array",
        "maxItems": MAX_UNMANAGED,
        "uniqueItems": true,
        "items": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$", "maxLength": Provider::MAX_LEN},
    });
    text(&json!({
        "$schema": DIALECT,
        "title": "Workspace",
        "description": "The workspace that the definitions of this directory are for. With an API key of another workspace, nothing \
                        is changed.",
        "type": "object",
        "properties": {
            "slug": slug,
            "extends": extends,
            "hold": hold_schema("all providers", json!("object")),
            "freeze": freeze,
            "unmanaged": unmanaged,
            "secretRecipients": {
                "description": "The public keys to which the secrets in `secrets` are encrypted, in the form of age.",
                "type": "array",
                "maxItems": MAX_RECIPIENTS,
                "items": {"type": "string", "pattern": "^age1[02-9ac-hj-np-z]{58}$"},
            },
            "requireFiles": {
                "description": "Whether every provider of the workspace needs a file, except those of `unmanaged`.",
                "type": "boolean",
            },
        },
        "required": ["slug"],
        "additionalProperties": false,
    }))
}

fn text(schema: &Json) -> String {
    format!("{schema:#}\n")
}

/// A new definition file without a hold. Values below `partnerKey` are references or empty, as `pull` makes them:
/// literal values are not repeated.
pub(super) fn definition(desired: &Desired) -> String {
    let mut entries = vec![(
        "provider",
        NewNode::Text(desired.provider.as_str().to_owned()),
    )];
    entries.extend(
        desired
            .icon
            .as_ref()
            .map(|icon| ("icon", NewNode::Text(icon.as_str().to_owned()))),
    );
    let section = |section: KeySection| {
        Some((
            section.key(),
            NewNode::Map(references(desired.partner_key.section(section)?)),
        ))
    };
    let partner_key: Vec<_> = KeySection::BOTH.into_iter().filter_map(section).collect();
    entries.extend((!partner_key.is_empty()).then_some(("partnerKey", NewNode::Map(partner_key))));
    let groups = desired.fields.iter();
    let groups: Vec<_> = groups
        .map(|(group, on)| {
            (
                group.as_str(),
                NewNode::List(on.iter().map(String::as_str).collect()),
            )
        })
        .collect();
    entries.extend((!groups.is_empty()).then_some(("fieldsToSync", NewNode::Map(groups))));
    yaml(DEFINITION_SCHEMA, &entries)
}

fn references(values: &BTreeMap<String, DesiredValue>) -> Vec<(&str, NewNode<'_>)> {
    let text = |value: &DesiredValue| {
        value
            .references()
            .next()
            .map(|name| format!("${{secret:{name}}}"))
    };
    values
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                NewNode::Text(text(value).unwrap_or_default()),
            )
        })
        .collect()
}

pub(super) fn workspace(slug: &Slug) -> String {
    yaml(
        WORKSPACE_SCHEMA,
        &[("slug", NewNode::Text(slug.as_str().to_owned()))],
    )
}

/// Writes every string so that YAML 1.1 parsers read the same string.
fn yaml(schema: &str, entries: &[(&str, NewNode<'_>)]) -> String {
    let mut lines = vec![format!("# yaml-language-server: $schema={schema}")];
    entries
        .iter()
        .for_each(|(key, new)| new.lines(key, 0, 2, &mut lines));
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::definition::KEYS;
    use super::*;

    #[test]
    fn the_schema_has_the_keys_that_the_reader_knows() {
        let schema: serde_json::Value =
            serde_json::from_str(&definition_schema(&Catalogue::built_in())).unwrap();
        let keys: BTreeSet<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(keys, KEYS.into_iter().collect());
    }
}
