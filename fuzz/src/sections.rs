//! Inputs of several texts, and what is safe to show.

use calry_gitops::model::{Diagnostic, FingerprintKey, Secret, Workspace, needs_escape};
use calry_gitops::render;

/// Begins the line before a text, and is followed by the text's name.
const BEGIN: &str = "=== ";

/// A value that must not be shown if it is below `partnerKey`.
pub(crate) const CANARY: &str = "canary5ecret";

/// The texts of an input with their names; what comes before the first name is called `first`.
pub(crate) fn split<'a>(input: &'a str, first: &'a str) -> Vec<(&'a str, String)> {
    let mut sections = vec![(first, String::new())];
    for line in input.split_inclusive('\n') {
        match (line.strip_prefix(BEGIN), sections.last_mut()) {
            (Some(name), _) => sections.push((name.trim_end_matches('\n'), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    if sections.len() > 1 && sections[0].1.is_empty() {
        sections.remove(0);
    }
    sections
}

pub(crate) fn workspace() -> Workspace {
    Workspace {
        id: "00000000-0000-4000-8000-000000000001".to_owned(),
        name: "Acme".to_owned(),
        slug: "acme".to_owned(),
    }
}

/// What plain text may hold: no character that a terminal or a reader obeys, and no command of a workflow.
#[track_caller]
pub(crate) fn assert_printable(text: &str) {
    let bad = text.chars().find(|c| *c != '\n' && needs_escape(*c));
    assert!(bad.is_none(), "{bad:?} in {text:?}");
    assert!(!text.contains("##["), "a command in {text:?}");
}

/// The same for a text with colours, whose escape sequences set nothing but colours.
#[track_caller]
pub(crate) fn assert_printable_with_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_digit() && c != ';');
        let after = &after[end.unwrap_or(after.len())..];
        rest = after.strip_prefix('m').unwrap_or("\u{1b}");
    }
    plain.push_str(rest);
    assert_printable(&plain);
    plain
}

/// Checks problems and every form in which they are shown; returns these forms. `text` finds a file by its name.
pub(crate) fn check_problems(
    problems: &[Diagnostic],
    text: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    for problem in problems {
        let file = text(&problem.file);
        let file = file.unwrap_or_else(|| panic!("a problem of no file: {problem:?}"));
        let Some(at) = &problem.excerpt else { continue };
        let line = lines(&file).nth(at.line - 1);
        let line = line.unwrap_or_else(|| panic!("{problem:?} is below the file"));
        assert!(
            at.column >= 1 && at.column <= line.chars().count() + 1,
            "{problem:?} is beside its line {line:?}"
        );
        assert!(at.width >= 1, "{problem:?}");
        assert!(at.text.get(at.mark.clone()).is_some(), "{problem:?}");
        assert_printable(&at.text);
    }
    if problems.is_empty() {
        return Vec::new();
    }
    let shown = render::diagnostics(problems, "definitions", 1);
    let shown = assert_printable_with_colours(&shown);
    let github = render::github::diagnostics(problems, "definitions");
    assert_annotations(&github);
    let sarif = render::sarif::diagnostics(problems, "definitions");
    let json = calry_gitops::report::plan::diagnostics(problems, 1);
    for document in [&sarif, &json] {
        assert_printable(document);
        serde_json::from_str::<serde_json::Value>(document).expect("JSON");
    }
    let read: serde_json::Value = serde_json::from_str(&sarif).expect("JSON");
    for result in read["runs"][0]["results"].as_array().expect("results") {
        let message = result["message"]["text"].as_str().expect("a message");
        assert!(!message.contains("]("), "a link in {message:?}");
        let uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/%".contains(c);
        assert!(uri.expect("a file").chars().all(is_plain), "{uri:?}");
    }
    vec![shown, github, sarif, json]
}

/// The lines of a text as YAML counts them.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let crlf = |line: &'_ str| line.strip_suffix('\r').map_or(line.len(), str::len);
    text.split('\n')
        .flat_map(move |line| line[..crlf(line)].split('\r'))
}

/// Each line is one command of a level that is meant, and its properties have no other names than those that are meant.
#[track_caller]
pub(crate) fn assert_annotations(text: &str) {
    assert_printable(text);
    for line in text.lines() {
        let command = line.strip_prefix("::").expect("a command");
        let (head, message) = command.split_once("::").expect("a message");
        let (level, properties) = head.split_once(' ').expect("properties");
        assert!(["error", "warning", "notice"].contains(&level), "{line}");
        for property in properties.split(',') {
            let (name, value) = property.split_once('=').expect("a property");
            let known = ["file", "line", "endLine", "col", "endColumn", "title"];
            assert!(known.contains(&name), "{line}");
            assert!(!value.contains(':'), "{line}");
            assert_percents(value);
        }
        assert_percents(message);
    }
}

/// Every `%` begins one of the escapes that GitHub reads.
#[track_caller]
fn assert_percents(text: &str) {
    for after in text.split('%').skip(1) {
        let known = ["25", "0D", "0A", "3A", "2C"];
        assert!(known.iter().any(|code| after.starts_with(code)), "{text}");
    }
}

/// The key of fingerprints.
pub(crate) fn fingerprint_key() -> FingerprintKey {
    let text = Secret::new("0123456789abcdef0123456789abcdef");
    FingerprintKey::new(&text).expect("a key")
}
