//! The notifications of the configuration file.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;

use super::file::ConfigFile;
use super::key::NOTIFICATIONS;
use crate::model::{Code, closest, ellipsize, printable};
use crate::ops::notifications::Target;

#[derive(Default)]
pub(in crate::cli) struct Notifications {
    pub(in crate::cli) targets: Vec<Target>,
    /// The targets as the file has them, with absolute paths.
    pub(super) documents: Vec<Value>,
    /// The line of the key, from 1.
    pub(super) line: usize,
}

impl Notifications {
    /// Takes the targets out of the file, and adds their problems to it.
    pub(super) fn take(file: &mut ConfigFile, directory: &Path) -> Self {
        let Some(value) = file.top.remove(NOTIFICATIONS) else {
            return Self::default();
        };
        let workspaces: Vec<String> = file
            .workspaces
            .iter()
            .flatten()
            .map(|workspace| workspace.name.clone())
            .collect();
        let mut all = Self {
            line: value.line,
            ..Self::default()
        };
        for (mut document, at) in value.documents {
            let mut problem =
                |message, help| file.add_problem(Code::InvalidValue, at, message, help);
            let target = match Target::deserialize(&document) {
                Ok(target) => target,
                Err(error) => {
                    problem(without_values(error.to_string(), &document), None);
                    continue;
                }
            };
            if all.targets.iter().any(|other| other.name == target.name) {
                problem(
                    format!("there are two notifications named `{}`", target.name),
                    None,
                );
            }
            for name in &target.workspaces {
                if !workspaces.contains(name) {
                    let shown = ellipsize(&printable(name), 100);
                    let help = closest(name, workspaces.iter().map(String::as_str))
                        .map(|meant| format!("did you mean `{meant}`?"));
                    problem(format!("there is no workspace `{shown}`"), help);
                }
            }
            make_paths_absolute(&mut document, directory);
            all.targets.push(target.relative_to(directory));
            all.documents.push(document);
        }
        all
    }
}

/// A sentence about a document, without the texts of the document: one of them may be a secret that was written in place
/// of the path of its file.
fn without_values(mut sentence: String, document: &Value) -> String {
    match document {
        Value::String(text) if !text.is_empty() => {
            for quote in ["\"", "`"] {
                sentence = sentence.replace(&format!("{quote}{text}{quote}"), "this");
            }
            sentence
        }
        Value::Array(items) => items.iter().fold(sentence, without_values),
        Value::Object(entries) => entries.values().fold(sentence, without_values),
        _ => sentence,
    }
}

/// Makes the paths of a document absolute: the values of keys such as `urlFile`.
fn make_paths_absolute(document: &mut Value, directory: &Path) {
    let Some(entries) = document.as_object_mut() else {
        return;
    };
    for (key, value) in entries {
        match value {
            Value::String(path) if key.ends_with("File") => {
                let joined = directory.join(&*path);
                *path = std::path::absolute(&joined)
                    .unwrap_or(joined)
                    .display()
                    .to_string();
            }
            other => make_paths_absolute(other, directory),
        }
    }
}
