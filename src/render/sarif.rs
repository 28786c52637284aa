//! Problems as SARIF 2.1.0, which code scanning shows beside the code and remembers from run to run.
//!
//! What it never does: show a line of a file. A result says what is wrong and where; whoever may read the file can look.

use std::collections::HashMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::path_from_root;
use crate::model::{Code, Diagnostic, Severity, first_problems, hex, printable};
use crate::report::json;

#[derive(Serialize)]
struct Log<'a> {
    version: &'static str,
    #[serde(rename = "$schema")]
    schema: &'static str,
    runs: [Run<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    tool: Tool,
    invocations: [Invocation; 1],
    results: Vec<ResultItem<'a>>,
    column_kind: &'static str,
}

#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Driver {
    name: &'static str,
    semantic_version: &'static str,
    rules: Vec<Rule>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: &'static str,
    short_description: Message,
    full_description: Message,
    help: Message,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_execution_notifications: Vec<Notification>,
}

#[derive(Serialize)]
struct Notification {
    level: &'static str,
    message: Message,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultItem<'a> {
    rule_id: &'a str,
    rule_index: usize,
    level: &'static str,
    message: Message,
    locations: [Location; 1],
    partial_fingerprints: Fingerprints,
}

#[derive(Serialize)]
struct Message {
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    physical_location: PhysicalLocation,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
    region: Region,
}

#[derive(Serialize)]
struct ArtifactLocation {
    uri: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_column: Option<usize>,
}

/// The name is our own: `primaryLocationLineHash` is made by GitHub's upload, which complains of one that it did not make.
#[derive(Serialize)]
struct Fingerprints {
    #[serde(rename = "diagnostic/v1")]
    diagnostic: String,
}

/// The problems of a directory, which is given by its path from the root of the repository.
#[must_use]
pub fn diagnostics(list: &[Diagnostic], directory: &str) -> String {
    let mut alike: HashMap<[u8; 32], usize> = HashMap::new();
    let listed = first_problems(list.iter());
    let results = listed.iter().map(|diagnostic| {
        let Diagnostic {
            severity,
            code,
            file,
            excerpt,
            message,
            help,
        } = diagnostic.as_ref();
        // Without the line's number: what is inserted above a problem does not make it another one.
        let text = excerpt.as_ref().map_or("", |excerpt| excerpt.text.as_str());
        let hash: [u8; 32] =
            Sha256::digest(serde_json::json!([file, code.as_str(), text]).to_string()).into();
        let nth = alike.entry(hash).and_modify(|nth| *nth += 1).or_insert(1);
        let digits = hex(hash.iter().take(8));
        let help = help
            .as_deref()
            .map(|help| format!(" ({help})"))
            .unwrap_or_default();
        ResultItem {
            rule_id: code.as_str(),
            rule_index: *code as usize,
            level: match severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: plain(&format!("{message}{help}")),
            locations: [Location {
                physical_location: PhysicalLocation {
                    artifact_location: ArtifactLocation {
                        uri: uri(&path_from_root(directory, file)),
                    },
                    region: Region {
                        start_line: excerpt.as_ref().map_or(1, |excerpt| excerpt.line),
                        start_column: excerpt.as_ref().map(|excerpt| excerpt.column),
                        end_column: excerpt
                            .as_ref()
                            .map(|excerpt| excerpt.column + excerpt.width),
                    },
                },
            }],
            partial_fingerprints: Fingerprints {
                diagnostic: format!("{digits}:{nth}"),
            },
        }
    });
    log(
        Invocation {
            execution_successful: true,
            tool_execution_notifications: Vec::new(),
        },
        results.collect(),
    )
}

/// Why nothing was checked.
#[must_use]
pub fn failure(sentence: &str) -> String {
    let notification = Notification {
        level: "error",
        message: plain(sentence),
    };
    log(
        Invocation {
            execution_successful: false,
            tool_execution_notifications: vec![notification],
        },
        Vec::new(),
    )
}

fn log(invocation: Invocation, results: Vec<ResultItem<'_>>) -> String {
    let rules = Code::ALL.into_iter().map(|code| {
        let (what, help) = rule(code);
        let text = |text: &str| Message {
            text: text.to_owned(),
        };
        Rule {
            id: code.as_str(),
            short_description: text(what),
            full_description: text(what),
            help: text(help),
        }
    });
    let log = Log {
        version: "2.1.0",
        schema: "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        runs: [Run {
            tool: Tool {
                driver: Driver {
                    name: env!("CARGO_PKG_NAME"),
                    semantic_version: env!("CARGO_PKG_VERSION"),
                    rules: rules.collect(),
                },
            },
            invocations: [invocation],
            results,
            column_kind: "unicodeCodePoints",
        }],
    };
    json::pretty(&log)
}

/// A message; in SARIF, `[text](target)` is a link, and a definition file must not be able to make one.
fn plain(text: &str) -> Message {
    Message {
        text: printable(text).replace("](", "] ("),
    }
}

/// A path as a URI reference.
fn uri(path: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'/');
    let scheme = if path.starts_with('/') { "file://" } else { "" };
    format!("{scheme}{}", utf8_percent_encode(path, KEPT))
}

/// What a kind of problem is, and what to do about it.
const fn rule(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Unreadable => (
            "The file cannot be read.",
            "A definition file is a regular file within the directory, in UTF-8, of at most 1 MiB.",
        ),
        Code::Syntax => (
            "The file is not YAML, or uses what this format leaves out.",
            "Write one YAML document without aliases, anchors, merge keys and tags, and not deeply nested.",
        ),
        Code::UnknownKey => (
            "The format does not have this key.",
            "The keys are provider, icon, partnerKey (headers, queryParams), fieldsToSync and hold (until, reason); of \
             workspace.yaml, slug.",
        ),
        Code::DuplicateKey => (
            "The key, or the field, is duplicated.",
            "Remove one of the two.",
        ),
        Code::MissingKey => (
            "A required key is missing.",
            "A definition needs provider, a hold needs until, and workspace.yaml needs slug.",
        ),
        Code::WrongType => (
            "The value is of the wrong type.",
            "The message says which type is expected; a text that reads like a number or a boolean is put into quotes.",
        ),
        Code::InvalidValue => (
            "The value is not allowed here.",
            "The message says what is allowed.",
        ),
        Code::FileName => (
            "The file is not named after its provider.",
            "Name the file after its provider in lower case: HOSTAWAY is in hostaway.yaml.",
        ),
        Code::DuplicateProvider => (
            "Two files are about the same provider, or the same workspace.",
            "One provider has one file: remove the others, or mend their provider.",
        ),
        Code::MissingSecret => (
            "A secret that the file refers to is not available.",
            "Put it into the secrets directory or into its variable, or mend the name in the reference.",
        ),
        Code::UnknownProvider => (
            "The provider is not known, or the workspace does not have it.",
            "Correct the name. If Calry has it, calry-gitops schema --from-live prints a schema that knows it.",
        ),
        Code::UnknownField => (
            "The group or field is not known.",
            "Correct the name. If Calry has it, calry-gitops schema --from-live prints a schema that knows it.",
        ),
        Code::PlainCredential => (
            "A value looks like a credential and is written out.",
            "Write ${secret:NAME} instead, keep the value where secrets are kept, and replace it: git remembers what it \
             was.",
        ),
        Code::Empty => (
            "The group, or the partner key, has nothing in it.",
            "Empty means none, and switches off what is on; leave the key out where that is not meant.",
        ),
        Code::AllOff => (
            "Every field of the group is off.",
            "Leave the group out to keep it as it is in Calry.",
        ),
        Code::Hold => (
            "The hold gives no reason.",
            "Write a reason, so that others know what they wait for.",
        ),
        Code::HoldOver => (
            "The hold is over.",
            "Remove it, or set another day: it holds nothing back any more.",
        ),
        Code::TooMany => (
            "The file has more problems than are told.",
            "Mend those that are told, and check the file again.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Excerpt;

    fn problem(line: usize, message: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code: Code::UnknownKey,
            file: "a.yaml".to_owned(),
            excerpt: Some(Excerpt {
                line,
                column: 3,
                width: 4,
                text: "  hots: x".to_owned(),
                mark: 2..6,
            }),
            message: message.to_owned(),
            help: Some("did you mean `host`?".to_owned()),
        }
    }

    fn results(list: &[Diagnostic], directory: &str) -> Vec<serde_json::Value> {
        let log: serde_json::Value = serde_json::from_str(&diagnostics(list, directory)).unwrap();
        log["runs"][0]["results"].as_array().unwrap().clone()
    }

    #[test]
    fn every_code_has_the_rule_that_its_index_says() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
        }
    }

    #[test]
    fn a_fingerprint_survives_lines_above_it_and_tells_alike_problems_apart() {
        let print =
            |result: &serde_json::Value| result["partialFingerprints"]["diagnostic/v1"].clone();
        let (before, after) = (
            results(&[problem(3, "x"), problem(9, "x")], "d"),
            results(&[problem(7, "x")], "d"),
        );
        assert_eq!(print(&before[0]), print(&after[0]));
        assert_ne!(print(&before[0]), print(&before[1]));
        assert!(print(&before[1]).as_str().unwrap().ends_with(":2"));
    }

    #[test]
    fn a_path_is_percent_encoded_and_relative_to_the_root() {
        let uri = |directory| {
            results(&[problem(1, "x")], directory)[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
                .clone()
        };
        assert_eq!(uri("defs"), "defs/a.yaml");
        assert_eq!(uri(""), "a.yaml");
        assert_eq!(uri("a b#ü?%:/x"), "a%20b%23%C3%BC%3F%25%3A/x/a.yaml");
        assert_eq!(uri("/a b"), "file:///a%20b/a.yaml");
    }

    #[test]
    fn a_message_holds_no_link_and_nothing_that_acts() {
        let text = results(
            &[problem(1, "see [here](https://evil.example)\u{1b}[2J")],
            "d",
        )[0]["message"]["text"]
            .clone();
        assert_eq!(
            text,
            "see [here] (https://evil.example)\\u{1b}[2J (did you mean `host`?)"
        );
    }

    #[test]
    fn a_failure_is_a_run_that_did_not_succeed() {
        let log: serde_json::Value =
            serde_json::from_str(&failure("there is no directory")).unwrap();
        let invocation = &log["runs"][0]["invocations"][0];
        assert_eq!(invocation["executionSuccessful"], false);
        assert_eq!(
            invocation["toolExecutionNotifications"][0]["message"]["text"],
            "there is no directory"
        );
    }
}
