//! The editor of `pull`: a file takes over a live definition, is valid then, keeps its comments, and a second pull changes
//! nothing. No value of Calry gets into a file.

use std::collections::BTreeMap;

use calry_gitops::desired::definitions::{Loaded, MissingSecrets, load_texts};
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::model::{KeySection, Live, LiveNames, LiveValue};
use calry_gitops::pull::{FileState, Pull, Scope, SecretNames, prepare};

use super::plan::live_of;
use super::sections::{CANARY, assert_printable_with_colours, split, workspace};

/// The comments that must be kept.
const KEPT: &str = "# keep";

fn sources(secrets: &BTreeMap<String, String>) -> SecretSources {
    let secrets = secrets.clone();
    SecretSources::new(None).with_variables(move |name| secrets.get(name).map(Into::into))
}

fn load(name: &str, text: &str, secrets: &BTreeMap<String, String>) -> Loaded {
    let mut loaded = load_texts([(name, text.as_bytes().to_vec())]);
    loaded.resolve(&sources(secrets), MissingSecrets::Unavailable);
    loaded
}

fn pull(loaded: &Loaded, live: &Live, secrets: &BTreeMap<String, String>) -> Pull {
    let known = loaded.names_for_schema(&LiveNames::of([live], &[], false));
    let scope = Scope {
        parts: &[],
        only: &[],
        known: &known,
    };
    let live = std::slice::from_ref(live);
    let names = SecretNames::of(loaded);
    prepare(loaded, &workspace(), live, scope, names, &sources(secrets))
}

pub(crate) fn check(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else {
        return;
    };
    let sections = split(input, "live");
    let answer = &sections[0].1;
    let text = sections.get(1).map_or("", |(_, text)| text);
    let mut secrets = BTreeMap::from([("CALRY_SECRET_ONE".to_owned(), "first".to_owned())]);
    for live in live_of(answer.as_bytes()).live.iter().take(2) {
        let name = format!("{}.yaml", live.provider.file_stem());
        let loaded = load(&name, text, &secrets);
        if loaded.has_errors() && !text.is_empty() {
            continue;
        }
        if text.is_empty() {
            check_pull(&name, text, load_texts([]), live, &mut secrets);
        } else if loaded.files[0].provider.as_ref() == Some(&live.provider) {
            check_pull(&name, text, loaded, live, &mut secrets);
        }
    }
}

fn check_pull(
    name: &str,
    before: &str,
    loaded: Loaded,
    live: &Live,
    secrets: &mut BTreeMap<String, String>,
) {
    let first = pull(&loaded, live, secrets);
    assert_printable_with_colours(&calry_gitops::render::pull::pull(&first, false));
    let Some(file) = first.files.iter().find(|file| file.name == name) else {
        return;
    };
    // A form that cannot be edited costs an edit, and never a definition.
    let after = match (&file.state, file.text()) {
        (FileState::Created | FileState::Updated(_), Some(after)) => after,
        (_, None) => return,
        (state, Some(_)) => panic!("{state:?} and a text"),
    };
    let mut checked = load(name, after, secrets);
    assert!(!checked.has_errors(), "{:#?}\n{after}", checked.diagnostics);
    if before.is_empty() {
        // What pull writes passes `validate --strict`, with the names of its schema.
        let schema = first
            .files
            .iter()
            .find(|file| file.name == "definition.schema.json");
        let schema = schema.and_then(|file| file.text()).expect("a schema");
        checked = load_texts([
            (name, after.into()),
            ("definition.schema.json", schema.into()),
        ]);
        checked.check();
        checked.deny_warnings();
        assert!(!checked.has_errors(), "{:#?}\n{after}", checked.diagnostics);
    }
    for comment in before.lines().filter(|line| line.starts_with(KEPT)) {
        let is_kept = after.lines().any(|line| line == comment);
        assert!(is_kept, "{comment:?} is gone from\n{after}");
    }
    let is_value = |value: &LiveValue| match value {
        LiveValue::Value(secret) => secret.expose().contains(CANARY),
        _ => false,
    };
    // `Debug` shows names and masks values.
    let elsewhere = format!("{live:?}").contains(CANARY) || before.contains(CANARY);
    if live.partner_key.values().any(is_value) && !elsewhere {
        assert!(!after.contains(CANARY), "a value of Calry in\n{after}");
    }

    // The secrets that the pull asks for, as in Calry.
    for (secret, needed) in &first.secrets {
        for (_, path) in &needed.uses {
            for section in KeySection::BOTH {
                let prefix = format!("partnerKey.{}.", section.key());
                let Some(wanted) = path.strip_prefix(&prefix) else {
                    continue;
                };
                let values = live.partner_key.section(section).into_iter().flatten();
                for (name, value) in values {
                    let is_it = section.fold(name) == section.fold(wanted);
                    if let (true, LiveValue::Value(value)) = (is_it, value) {
                        secrets.insert(secret.variable(), value.expose().to_owned());
                    }
                }
            }
        }
    }
    let second = pull(&load(name, after, secrets), live, secrets);
    let state = second.files.iter().find(|file| file.name == name);
    let state = state.map(|file| &file.state);
    // A value that no secret can have stays as it is.
    let is_settled = matches!(state, Some(FileState::Unchanged));
    assert!(is_settled, "{state:?} after\n{before}\n--- and\n{after}");
}
