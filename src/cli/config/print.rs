//! `--print-config`: the effective configuration as a configuration file, with the source of each value.
//!
//! Never: print a secret. It knows the files of secrets only.

use std::fmt::Write as _;

use serde_json::json;

use super::file::ValueKind;
use super::key::NOTIFICATIONS;
use super::value::{EffectiveValue, ValueOrigin};
use super::{API_KEY, Configuration, is_api_key_in_variable};
use crate::model::{ellipsize, printable};
use crate::render::yaml::to_yaml;

impl Configuration {
    pub(in crate::cli) fn print(&self) -> String {
        let mut out = String::from(
            "# The effective configuration of `calry-gitops run`, with the source of each value.\n",
        );
        let file = self.file.as_ref().map(|file| file.display().to_string());
        let several = self.has_named_workspaces();
        let first = if several {
            "A workspace's own key wins over flags, flags"
        } else {
            "Flags win"
        };
        let last = match &file {
            None => "built-in values; there is no configuration file".to_owned(),
            Some(file) if several => format!("the top of {file}, and the top over built-in values"),
            Some(file) => format!("{file}, and the file over built-in values"),
        };
        let _ = writeln!(out, "# {first} over variables, variables over {last}.\n");
        let file = file.unwrap_or_default();
        let of_daemon = |value: &&EffectiveValue| !(several && value.key.per_workspace);
        out.push_str(&lines(&self.top, of_daemon, "", &file));
        if !self.notifications.documents.is_empty() {
            let source = format!("{file}:{}", self.notifications.line);
            let source = ellipsize(&printable(&source), 100);
            let _ = writeln!(out, "{NOTIFICATIONS}: # {source}");
            for document in &self.notifications.documents {
                // JSON is YAML as well.
                let _ = writeln!(out, "  - {document}");
            }
        }
        if several {
            out.push_str("workspaces:\n");
        }
        for workspace in &self.workspaces {
            let Some(name) = &workspace.name else {
                continue;
            };
            let _ = writeln!(out, "  - name: {}", scalar(name));
            let of_workspace = |value: &&EffectiveValue| value.key.per_workspace;
            out.push_str(&lines(&workspace.values, of_workspace, "    ", &file));
        }
        out
    }
}

fn lines(
    values: &[EffectiveValue],
    is_shown: impl Fn(&&EffectiveValue) -> bool,
    indentation: &str,
    file: &str,
) -> String {
    let is_fetched = values
        .iter()
        .any(|value| value.key.name == "gitUrl" && value.origin != ValueOrigin::Unset);
    let is_replaced = |value: &EffectiveValue| {
        is_fetched && value.key.name == "definitions" && value.origin == ValueOrigin::BuiltIn
    };
    values
        .iter()
        .filter(is_shown)
        .map(|value| match is_replaced(value) {
            // A file with both is refused.
            true => format!("{indentation}# definitions: gitUrl takes its place\n"),
            false => line(value, indentation, file),
        })
        .collect()
}

fn line(value: &EffectiveValue, indentation: &str, file: &str) -> String {
    let key = &value.key.name;
    let texts = value.texts();
    let source = match value.origin {
        ValueOrigin::Flag => format!("the flag {}", value.flag()),
        ValueOrigin::Variable => value.variable(),
        ValueOrigin::Line(line) => format!("{file}:{line}"),
        ValueOrigin::BuiltIn => "built in".to_owned(),
        ValueOrigin::Unset if key == "apiKeyFile" && is_api_key_in_variable() => {
            return format!("{indentation}# {key}: the variable {API_KEY} holds the key itself\n");
        }
        ValueOrigin::Unset => return format!("{indentation}# {key}: not set\n"),
    };
    let text = texts.first().map_or("", String::as_str);
    let yaml = match value.key.kind {
        ValueKind::List | ValueKind::Documents => json!(texts).to_string(),
        ValueKind::Text | ValueKind::Duration => scalar(text),
        ValueKind::Number | ValueKind::MaxChanges | ValueKind::Flag => text.to_owned(),
    };
    format!("{indentation}{key}: {yaml} # {}\n", printable(&source))
}

/// A text as YAML, in one line.
fn scalar(text: &str) -> String {
    let yaml = to_yaml(text);
    let yaml = yaml.trim_end();
    // JSON is YAML, and breaks no line.
    if yaml.contains('\n') {
        json!(text).to_string()
    } else {
        yaml.to_owned()
    }
}
