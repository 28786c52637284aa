//! Problems as SARIF 2.1.0, which code scanning shows beside the code and tracks from run to run.
//!
//! Never: show a line of a file. A result has the problem and its position.

use std::collections::HashMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{message_with_help, path_from_root};
use crate::model::{Code, Diagnostic, Excerpt, Severity, first_problems, hex, printable};
use crate::report::json;

/// The problems of a directory, by its path from the root of the repository.
#[must_use]
pub fn diagnostics(list: &[Diagnostic], directory: &str) -> String {
    let mut alike: HashMap<[u8; 32], usize> = HashMap::new();
    let listed = first_problems(list.iter());
    let results = listed.iter().map(|diagnostic| {
        // Without the line number: a line that is inserted above does not make it another problem.
        let (code, file) = (diagnostic.code, &diagnostic.file);
        let excerpt = diagnostic.excerpt.as_ref();
        let text = excerpt.map_or("", |excerpt| excerpt.text.as_str());
        let hash: [u8; 32] = Sha256::digest(json!([file, code.as_str(), text]).to_string()).into();
        let nth = alike.entry(hash).and_modify(|nth| *nth += 1).or_insert(1);
        let digits = hex(hash.iter().take(8));
        let region = match excerpt {
            Some(Excerpt {
                line,
                column,
                width,
                ..
            }) => {
                json!({"startLine": line, "startColumn": column, "endColumn": column + width})
            }
            None => json!({"startLine": 1}),
        };
        let location = json!({
            "artifactLocation": {"uri": uri(&path_from_root(directory, file))},
            "region": region,
        });
        json!({
            "ruleId": code.as_str(),
            "ruleIndex": code as usize,
            "level": match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            "message": {"text": plain(&message_with_help(diagnostic))},
            "locations": [{"physicalLocation": location}],
            // The name is our own: GitHub's upload makes `primaryLocationLineHash`, and refuses one of other tools.
            "partialFingerprints": {"diagnostic/v1": format!("{digits}:{nth}")},
        })
    });
    log(&json!({"executionSuccessful": true}), results.collect())
}

/// Why nothing was checked.
#[must_use]
pub fn failure(sentence: &str) -> String {
    let notification = json!({"level": "error", "message": {"text": plain(sentence)}});
    let invocation = json!({
        "executionSuccessful": false,
        "toolExecutionNotifications": [notification],
    });
    log(&invocation, Vec::new())
}

fn log(invocation: &Value, results: Vec<Value>) -> String {
    let rules = Code::ALL.map(|code| {
        let (what, help) = rule(code);
        json!({
            "id": code.as_str(),
            "shortDescription": {"text": what},
            "fullDescription": {"text": what},
            "help": {"text": help},
        })
    });
    let driver = json!({
        "name": env!("CARGO_PKG_NAME"),
        "semanticVersion": env!("CARGO_PKG_VERSION"),
        "rules": rules,
    });
    json::pretty(&json!({
        "version": "2.1.0",
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "runs": [{
            "tool": {"driver": driver},
            "invocations": [invocation],
            "results": results,
            "columnKind": "unicodeCodePoints",
        }],
    }))
}

/// The text of a message. In SARIF, `[text](target)` is a link, which a definition file must not be able to make.
fn plain(text: &str) -> String {
    printable(text).replace("](", "] (")
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

/// The description of a kind of problem, and its remedy.
const fn rule(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::Unreadable => (
            "The file cannot be read.",
            "A definition file is a regular file within the directory, in UTF-8, of at most 1 MiB.",
        ),
        Code::Syntax => (
            "The file is not YAML, or uses a feature that this format does not have.",
            "Write one YAML document without aliases, anchors, merge keys, tags or deep nesting.",
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
            "The message names the expected type. Put a text that looks like a number or a boolean into quotes.",
        ),
        Code::InvalidValue => (
            "The value is not allowed here.",
            "The message names the allowed values.",
        ),
        Code::FileName => (
            "The file is not named after its provider.",
            "Name the file after its provider in lower case: HOSTAWAY is in hostaway.yaml.",
        ),
        Code::DuplicateProvider => (
            "Two files are about the same provider, or the same workspace.",
            "Each provider has one file: remove the others, or correct their provider.",
        ),
        Code::MissingSecret => (
            "A secret that the file refers to is not available.",
            "Put it into the secrets directory or into its variable, or correct the name in the reference.",
        ),
        Code::UnknownProvider => (
            "The provider is not known, or the workspace does not have it.",
            "Correct the name. If Calry has it, calry-gitops schema --from-live prints a schema with it.",
        ),
        Code::UnknownField => (
            "The group or field is not known.",
            "Correct the name. If Calry has it, calry-gitops schema --from-live prints a schema with it.",
        ),
        Code::PlainCredential => (
            "A value looks like a credential and is written out.",
            "Write ${secret:NAME} instead, keep the value in a secret store, and replace it: the old one stays in git's \
             history.",
        ),
        Code::Empty => (
            "The group, or the partner key, is empty.",
            "Empty means none, and switches everything off. To keep the values of Calry, remove the key.",
        ),
        Code::AllOff => (
            "Every field of the group is off.",
            "Leave the group out to keep it as it is in Calry.",
        ),
        Code::Hold => (
            "The hold gives no reason.",
            "Write a reason, so that others know why changes are suspended.",
        ),
        Code::HoldOver => (
            "The hold is over.",
            "Remove it, or set a later date: it has no effect any more.",
        ),
        Code::NoFile => (
            "A provider of the workspace has no file, and workspace.yaml requires one.",
            "Run calry-gitops pull --only PROVIDER, or name the provider in unmanaged.",
        ),
        Code::Recipients => (
            "The secret is not encrypted to exactly the recipients of workspace.yaml.",
            "Run calry-gitops encrypt --again with an identity that can decrypt it.",
        ),
        Code::TooMany => (
            "The file has more problems than are shown.",
            "Fix those that are shown, and check the file again.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_index_of_a_code_is_that_of_its_rule() {
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
        }
    }

    #[test]
    fn a_fingerprint_survives_lines_above_it_and_distinguishes_equal_problems() {
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
