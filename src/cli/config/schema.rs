//! The JSON Schema (2020-12) of the configuration file, made from the flags.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::file::{MAX_WORKSPACE_NAME, ValueKind, WORKSPACE_NAME};
use super::key::{Key, NOTIFICATIONS, keys, minimum, takes};
use crate::model::KeyExpiry;
use crate::ops::notifications::Target;
use crate::plan::MaxChanges;
use crate::report::json;

pub(in crate::cli) fn schema() -> String {
    let keys = keys();
    let properties = |of_workspace: bool| -> Map<String, Value> {
        keys.iter()
            .filter(|key| key.per_workspace || !of_workspace)
            .map(|key| (key.name.clone(), property(key)))
            .collect()
    };
    let mut workspace = properties(true);
    let name = json!({
        "type": "string", "pattern": WORKSPACE_NAME, "maxLength": MAX_WORKSPACE_NAME,
        "description": "The name of the workspace in log, status and metrics.",
    });
    workspace.insert("name".to_owned(), name);
    let mut top = properties(false);
    let workspaces = json!({
        "type": "array", "minItems": 1,
        "description": "Several workspaces, reconciled independently of each other. Values at the top of the \
                        file apply to every workspace that has no value of its own. Without this key, the file \
                        describes one workspace.",
        "items": {"type": "object", "properties": workspace, "required": ["name"], "additionalProperties": false},
    });
    top.insert("workspaces".to_owned(), workspaces);
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let notifications = json!({
        "type": "array",
        "description": "The notifications to send. Secrets are in files, which are read again each time.",
        "items": settings.into_generator().into_root_schema_for::<Target>(),
    });
    top.insert(NOTIFICATIONS.to_owned(), notifications);
    json::pretty(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of calry-gitops run",
        "description": "Every key except workspaces and notifications is a flag of `calry-gitops run`. A workspace's own key \
                        wins over flags, flags over variables, variables over the top of this file. Relative paths are \
                        relative to the directory of this file.",
        "type": "object",
        "properties": top,
        "additionalProperties": false,
    }))
}

fn property(key: &Key) -> Value {
    let mut text = Map::from_iter([("type".to_owned(), json!("string"))]);
    let possible = key.arg.get_possible_values();
    if !possible.is_empty() && key.kind == ValueKind::Text {
        let names = possible.iter().map(clap::builder::PossibleValue::get_name);
        text.insert("enum".to_owned(), names.collect());
    } else if key.kind == ValueKind::Duration {
        text.insert("examples".to_owned(), json!(["90s", "5m"]));
    }
    if takes::<KeyExpiry>(&key.arg) {
        text.insert("format".to_owned(), json!("date"));
    }
    let mut schema = match key.kind {
        ValueKind::Text | ValueKind::Duration => Value::Object(text),
        ValueKind::Number => json!({"type": "integer", "minimum": minimum(&key.arg)}),
        ValueKind::MaxChanges => {
            json!({"type": ["integer", "string"], "minimum": 0, "pattern": MaxChanges::PATTERN})
        }
        ValueKind::Flag => json!({"type": "boolean"}),
        ValueKind::List => json!({"anyOf": [{"type": "array", "items": text}, text]}),
        ValueKind::Documents => json!({"type": "array", "items": {"type": "object"}}),
    };
    if let (Some(schema), Some(help)) = (schema.as_object_mut(), key.arg.get_help()) {
        schema.insert("description".to_owned(), json!(format!("{help}.")));
        let default = key.arg.get_default_values().first().filter(|_| {
            matches!(
                key.kind,
                ValueKind::Text | ValueKind::Duration | ValueKind::MaxChanges
            )
        });
        if let Some(default) = default {
            schema.insert("default".to_owned(), json!(default.to_string_lossy()));
        }
    }
    schema
}
