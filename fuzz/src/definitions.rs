//! Files to definitions and problems: every problem is inside its file, nothing that is shown can control a terminal, and
//! no value below `partnerKey` is quoted.

use calry_gitops::desired::definitions::{Loader, MissingSecrets, Purpose, load_texts};
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::model::Severity;

use super::sections::{CANARY, check_problems, split};

pub(crate) fn check(input: &[u8]) {
    // A file may have any bytes, but only text has sections.
    let lossy = String::from_utf8_lossy(input);
    let mut sections = match std::str::from_utf8(input) {
        Ok(text) => split(text, "guesty.yaml"),
        Err(_) => vec![("guesty.yaml", lossy.clone().into_owned())],
    };
    sections.sort();
    sections.dedup_by(|a, b| a.0 == b.0);
    let bytes = |text: &str| match lossy == text {
        true => input.to_vec(),
        false => text.as_bytes().to_vec(),
    };
    let files = || sections.iter().map(|(name, text)| (*name, bytes(text)));
    let sources = SecretSources::new(None)
        .with_variables(|name| name.ends_with("ONE").then(|| "a value of a secret".into()));
    let today = jiff::civil::date(2026, 1, 1);
    let purposes = [
        Purpose::Check { strict: true },
        Purpose::Plan {
            secrets: &sources,
            missing: MissingSecrets::Error,
        },
    ];
    for purpose in purposes {
        let loader = Loader {
            only: &[],
            today,
            purpose,
        };
        let loaded = loader
            .finish(load_texts(files()))
            .expect("no file is required");
        let errors = || {
            let all = loaded.diagnostics.iter();
            all.filter(|problem| problem.severity == Severity::Error)
        };
        for file in &loaded.files {
            // A definition may be that of two files.
            let of_file = errors().any(|error| error.file == file.name);
            let of_shared = errors().any(|error| error.file.starts_with("../"));
            let has_error = file.desired.is_none();
            assert!(has_error || !of_file, "{}", file.name);
            assert!(!has_error || of_file || of_shared, "{}", file.name);
        }
        let text_of = |name: &str| {
            let (_, text) = sections.iter().find(|(other, _)| *other == name)?;
            Some(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
        };
        let shown = check_problems(&loaded.diagnostics, text_of);
        // The name of a file is shown.
        let is_hidden =
            |(name, text): &(&str, String)| !name.contains(CANARY) && hides_canary(text);
        if sections.iter().all(is_hidden) {
            for text in shown {
                assert!(!text.contains(CANARY), "a value below partnerKey in {text}");
            }
        }
    }
}

/// Whether each canary of a text is in a block below `partnerKey`, which a person would take for a secret.
fn hides_canary(text: &str) -> bool {
    let mut below = false;
    for line in text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        let is_indented = line.starts_with(' ') || line.is_empty();
        below = line == "partnerKey:" || below && is_indented;
        // A name is shown, a value is not.
        let is_value = || line.find(CANARY) > line.find(": ") && line.contains(": ");
        if line.contains(CANARY) && !(below && is_indented && is_value()) {
            return false;
        }
    }
    true
}
