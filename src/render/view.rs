//! A definition as canonical YAML in which nothing secret stands: masking is by position, on the types, before any text
//! is made.

use std::collections::BTreeMap;

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use crate::model::{Desired, Half, Live, SecretName, printable};
use crate::plan::{Change, KeyChange, Step};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partner_key: Option<KeyView>,
    fields_to_sync: BTreeMap<&'a str, BTreeMap<&'a str, bool>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_params: Option<BTreeMap<String, String>>,
}

/// A line of the diff from the live definition to the one that the update leads to, printable.
pub(super) enum DiffLine {
    /// Where a part of the diff stands.
    Hunk(String),
    /// The same on both sides.
    Same(String),
    /// Live only.
    Gone(String),
    /// Desired only.
    New(String),
}

/// The diff of both as canonical YAML, with two lines of context.
pub(super) fn diff(step: &Step) -> Vec<DiffLine> {
    let (before, after) = (yaml(&before(step)), yaml(&after(step)));
    let diff = TextDiff::from_lines(&before, &after);
    let mut lines = Vec::new();
    for hunk in diff.unified_diff().context_radius(2).iter_hunks() {
        lines.push(DiffLine::Hunk(hunk.header().to_string()));
        lines.extend(hunk.iter_changes().map(|change| {
            let text = printable(change.value().trim_end_matches('\n'));
            match change.tag() {
                ChangeTag::Delete => DiffLine::Gone(text),
                ChangeTag::Insert => DiffLine::New(text),
                ChangeTag::Equal => DiffLine::Same(text),
            }
        }));
    }
    lines
}

/// How a list of references reads: `${secret:a}, ${secret:b}`.
pub(super) fn references(secrets: &[SecretName]) -> String {
    secrets.iter().map(|name| format!("${{secret:{name}}}")).collect::<Vec<_>>().join(", ")
}

fn before(step: &Step) -> View<'_> {
    let live: &Live = &step.live;
    let key = half_by_half(|half| {
        let values = live.partner_key.half(half)?;
        let shown = values.keys().map(|name| {
            let text = match change_of(step, half, name) {
                None => "(sensitive)",
                Some((KeyChange::Masked, _)) => "(sensitive, masked by Calry)",
                Some(_) => "(sensitive, live)",
            };
            (name.clone(), text.to_owned())
        });
        Some(shown.collect())
    });
    View {
        provider: live.provider.as_str(),
        icon: live.icon.as_deref(),
        partner_key: key,
        fields_to_sync: live_fields(live),
    }
}

fn after(step: &Step) -> View<'_> {
    let (desired, live): (&Desired, &Live) = (&step.desired, &step.live);
    let key = half_by_half(|half| {
        let now = live.partner_key.half(half);
        let Some(wanted) = desired.partner_key.half(half) else {
            return now.map(|values| values.keys().map(|name| (name.clone(), "(sensitive)".to_owned())).collect());
        };
        // What is absent and what is empty are the same; the view does not make a difference of it.
        if wanted.is_empty() && now.is_none() {
            return None;
        }
        let shown = wanted.keys().map(|name| match change_of(step, half, name) {
            Some((_, [])) => (name.clone(), "(sensitive, as the file says)".to_owned()),
            Some((_, secrets)) => (name.clone(), format!("(sensitive, {})", references(secrets))),
            None => {
                let spelled = now.into_iter().flatten().map(|(name, _)| name).find(|n| half.fold(n) == half.fold(name));
                (spelled.unwrap_or(name).clone(), "(sensitive)".to_owned())
            }
        });
        Some(shown.collect())
    });
    let mut fields = live_fields(live);
    for (group, on) in &desired.fields {
        let group = fields.entry(group).or_default();
        group.values_mut().for_each(|value| *value = false);
        group.extend(on.iter().map(|field| (field.as_str(), true)));
    }
    fields.retain(|group, fields| !fields.is_empty() || live.fields.contains_key(*group));
    View {
        provider: desired.provider.as_str(),
        icon: desired.icon.as_ref().map(|icon| icon.as_str()).or(live.icon.as_deref()),
        partner_key: key,
        fields_to_sync: fields,
    }
}

fn half_by_half(show: impl Fn(Half) -> Option<BTreeMap<String, String>>) -> Option<KeyView> {
    let view = KeyView { headers: show(Half::Headers), query_params: show(Half::QueryParams) };
    (view.headers.is_some() || view.query_params.is_some()).then_some(view)
}

fn change_of<'a>(step: &'a Step, half: Half, name: &str) -> Option<(KeyChange, &'a [SecretName])> {
    step.changes.iter().find_map(|change| match change {
        Change::Key { half: h, name: n, change, secrets } if *h == half && half.fold(n) == half.fold(name) => {
            Some((*change, secrets.as_slice()))
        }
        _ => None,
    })
}

fn live_fields(live: &Live) -> BTreeMap<&str, BTreeMap<&str, bool>> {
    live.fields
        .iter()
        .map(|(group, fields)| (group.as_str(), fields.iter().map(|(field, on)| (field.as_str(), *on)).collect()))
        .collect()
}

fn yaml(view: &View<'_>) -> String {
    // Maps of strings and booleans always serialize.
    serde_yaml::to_string(view).unwrap_or_default()
}
