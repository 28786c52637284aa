//! Calry's answers and files to a plan: it is the same every time, it is complete, and a Calry that carries out its updates
//! in the most harmful way that its contract allows has the desired state, with everything else as it was.

use std::collections::{BTreeMap, BTreeSet};

use calry_gitops::desired::definitions::{Loaded, MissingSecrets, load_texts};
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::live::{Listing, write_update};
use calry_gitops::model::{KeySection, Live, LiveValue, Update, UpdateMethod};
use calry_gitops::plan::{AppliedState, Context, Plan, PlanInput, Step, Verdict, plan, verify};
use calry_gitops::render::text;
use serde_json::{Map, Value, json};

use super::sections::{CANARY, assert_printable_with_colours, split, workspace};

pub(crate) fn live_of(answer: &[u8]) -> Listing {
    Listing::parse(answer).unwrap_or_default()
}

pub(crate) fn make(loaded: &Loaded, live: &[Live], method: UpdateMethod) -> Plan {
    let inputs = loaded.files.iter().map(|file| PlanInput {
        file: file.name.clone(),
        provider: file.provider.clone(),
        desired: file.desired.clone(),
    });
    let applied = AppliedState::new();
    let context = Context {
        today: jiff::civil::date(2026, 1, 1),
        method,
        applied: &applied,
        base: None,
    };
    plan(workspace(), None, inputs, live.to_vec(), &[], context)
}

pub(crate) fn check(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else {
        return;
    };
    let mut sections = split(input, "live");
    let answer = sections.remove(0).1;
    if let Err(why) = Listing::parse(answer.as_bytes()) {
        assert!(!why.contains(CANARY), "{why}");
    }
    let listing = live_of(answer.as_bytes());
    for unreadable in &listing.unreadable {
        // Keys of the answer may be named, values of the partner key may not.
        assert!(unreadable.problem.len() < 2000, "{unreadable}");
    }
    let files = || {
        sections
            .iter()
            .map(|(name, text)| (*name, text.as_bytes().to_vec()))
    };
    let mut loaded = load_texts(files());
    let sources = SecretSources::new(None)
        .with_variables(|name| name.ends_with("ONE").then(|| "a value of a secret".into()));
    loaded.resolve(&sources, MissingSecrets::Unavailable);

    for method in [UpdateMethod::Patch, UpdateMethod::Put] {
        let first = make(&loaded, &listing.live, method);
        check_plan(&first, &loaded, &listing.live);
        let reversed: Vec<Live> = listing.live.iter().rev().cloned().collect();
        assert_eq!(first.digest, make(&loaded, &reversed, method).digest);
        check_update(&first, &loaded, &listing, &answer, method);
    }
}

fn check_plan(plan: &Plan, loaded: &Loaded, live: &[Live]) {
    let summary = plan.summary();
    let counted = summary.in_sync
        + summary.update
        + summary.invalid
        + summary.missing
        + summary.held
        + summary.unmanaged
        + summary.unreadable;
    assert_eq!(counted, plan.entries.len());
    let mut providers = BTreeSet::new();
    for entry in &plan.entries {
        if let Some(provider) = &entry.provider {
            assert!(
                providers.insert(provider) || entry.file.is_some(),
                "{provider} twice"
            );
        }
        if let Verdict::Update(step) = &entry.verdict {
            assert!(!step.changes.is_empty());
        }
    }
    assert!(live.iter().all(|live| providers.contains(&live.provider)));
    // `Debug` shows names and masks values.
    let files = loaded.files.iter();
    let desired: Vec<_> = files
        .map(|file| (&file.name, &file.provider, &file.desired))
        .collect();
    let hidden = !format!("{desired:?} {live:?}").contains(CANARY);
    let diff = text::Layout {
        diff: true,
        ..text::Layout::default()
    };
    for layout in [text::Layout::default(), diff] {
        let shown = assert_printable_with_colours(&text::plan(plan, layout));
        assert!(!hidden || !shown.contains(CANARY), "a secret in {shown}");
    }
    let json = calry_gitops::report::plan::plan(plan, &[], None, None);
    assert!(!hidden || !json.contains(CANARY), "a secret in {json}");
}

/// Carries out every update and plans again.
fn check_update(
    first: &Plan,
    loaded: &Loaded,
    listing: &Listing,
    answer: &str,
    method: UpdateMethod,
) {
    // What Calry answered, as far as it was read.
    let Ok(items) = serde_json::from_str::<Vec<Value>>(answer) else {
        return;
    };
    let by_provider = |item: &Value| {
        let provider = item.get("provider")?.as_str()?.to_owned();
        Some((provider, item.clone()))
    };
    let items: BTreeMap<String, Value> = items.iter().filter_map(by_provider).collect();
    for step in first.steps() {
        let Some(update) = &step.payload.update else {
            continue;
        };
        let provider = step.desired.provider.as_str();
        let mut item = items[provider].clone();
        carry_out(&mut item, update, method);
        let answer = serde_json::to_vec(&json!([item])).expect("JSON");
        let after = live_of(&answer);
        let [after] = after.live.as_slice() else {
            panic!("the definition cannot be read after {update:?}: {after:?}");
        };
        check_untouched(step, after);
        if !step.payload.refused.is_empty() {
            continue;
        }
        let mismatches = verify(&step.desired, update, &[], after);
        assert!(mismatches.is_empty(), "{mismatches:?} after {update:?}");
        let others = listing
            .live
            .iter()
            .filter(|live| live.provider != after.provider);
        let all: Vec<Live> = others.cloned().chain([after.clone()]).collect();
        let second = make(loaded, &all, method);
        let due = second
            .steps()
            .find(|second| second.desired.provider == after.provider);
        if let Some(due) = due {
            // A value that looks like a mask is sent whenever nothing is known of it.
            let is_masked = due.changes.iter().all(|change| change.is_masked());
            assert!(is_masked, "{:?} after {update:?}", due.changes);
        }
    }
}

/// What Calry makes of an update, in the reading of its contract that destroys most: a part that is sent replaces the old
/// one, a field that is not named is off, and a PUT clears what it leaves out.
fn carry_out(item: &mut Value, update: &Update, method: UpdateMethod) {
    let Value::Object(item) = item else { return };
    let sent: Value = serde_json::from_slice(&write_update(update)).expect("JSON");
    for part in ["icon", "partnerKey", "fieldsToSync"] {
        match (sent.get(part), method) {
            (Some(sent), _) if part == "fieldsToSync" => switch(item, sent),
            (Some(sent), _) => drop(item.insert(part.to_owned(), sent.clone())),
            (None, UpdateMethod::Put) if part == "fieldsToSync" => switch(item, &json!({})),
            (None, UpdateMethod::Put) => drop(item.remove(part)),
            (None, UpdateMethod::Patch) => {}
        }
    }
}

/// Switches on the fields that are sent, and all others off.
fn switch(item: &mut Map<String, Value>, sent: &Value) {
    let groups = item.entry("fieldsToSync").or_insert_with(|| json!({}));
    if groups.is_null() {
        *groups = json!({});
    }
    let Value::Object(groups) = groups else {
        return;
    };
    for group in groups.values_mut() {
        for (_, on) in group.as_object_mut().into_iter().flatten() {
            *on = json!(false);
        }
    }
    for (group, fields) in sent.as_object().into_iter().flatten() {
        let group = groups.entry(group.clone()).or_insert_with(|| json!({}));
        if group.is_null() {
            *group = json!({});
        }
        if let (Some(group), Some(fields)) = (group.as_object_mut(), fields.as_object()) {
            group.extend(fields.clone());
        }
    }
}

/// What the file does not manage is as it was.
fn check_untouched(step: &Step, after: &Live) {
    let (desired, before) = (&step.desired, &step.live);
    if desired.icon.is_none() {
        assert_eq!(before.icon, after.icon, "the icon");
    }
    for section in KeySection::BOTH {
        if desired.partner_key.section(section).is_some() {
            continue;
        }
        let values = |live: &Live| -> BTreeMap<String, String> {
            let values = live.partner_key.section(section).into_iter().flatten();
            values
                .map(|(name, value)| (name.clone(), exposed(value)))
                .collect()
        };
        assert_eq!(values(before), values(after), "{section:?}");
    }
    let on = |live: &Live| -> BTreeSet<(String, String)> {
        let groups = live.fields.iter();
        groups
            .filter(|(group, _)| !desired.fields.contains_key(*group))
            .flat_map(|(group, fields)| {
                let on = fields.iter().filter(|(_, on)| **on);
                on.map(|(field, _)| (group.clone(), field.clone()))
            })
            .collect()
    };
    assert_eq!(on(before), on(after), "fields of other groups");
}

fn exposed(value: &LiveValue) -> String {
    match value {
        LiveValue::Value(secret) | LiveValue::MaybeMask(secret) => secret.expose().to_owned(),
        LiveValue::Mask | LiveValue::Fingerprint(_) | LiveValue::Withheld => format!("{value:?}"),
    }
}
