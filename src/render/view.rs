//! Views of definitions as canonical YAML without secrets, and their diffs: values are masked by position, on the types,
//! before any text is made.

use std::collections::BTreeMap;

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::yaml::to_yaml;
use crate::model::{KeySection, Live, Provider, SecretName, printable};
use crate::plan::{
    Change, KeyChange, Loosening, Origin, PinChange, Plan, PlanEntry, PolicyAction, Step,
    Violation, describe_hold,
};
use crate::report::words::plural;

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: Option<&'a str>,
    /// By the keys of the sections.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    partner_key: BTreeMap<&'static str, BTreeMap<&'a str, String>>,
    fields_to_sync: BTreeMap<&'a str, BTreeMap<&'a str, bool>>,
}

/// A line of the diff from the live definition to the one that the update leads to, printable.
pub(super) enum DiffLine {
    /// A number of omitted lines that are the same on both sides.
    Gap(usize),
    Context(String),
    Removed(String),
    Added(String),
}

/// The changes of one provider: those of one origin, or all of them in a plan without a base.
pub(super) struct Part<'a> {
    pub(super) entry: &'a PlanEntry,
    pub(super) step: &'a Step,
    pub(super) changes: Vec<&'a Change>,
    /// Earlier drift, which is shown apart and part of both sides of the diff.
    earlier: Vec<&'a Change>,
}

/// The updates of a plan by their origin: all together in a plan without a base, else the branch's before earlier drift.
pub(super) fn parts_by_origin(plan: &Plan) -> Vec<(Option<Origin>, Vec<Part<'_>>)> {
    let part = |entry, step, origin: Option<Origin>| {
        let of = |origin| PlanEntry::changes_of(entry, origin).collect();
        let (changes, earlier) = match origin {
            None => (entry.changes().iter().collect(), Vec::new()),
            Some(Origin::Branch) => (of(Origin::Branch), of(Origin::Drift)),
            Some(Origin::Drift) => (of(Origin::Drift), Vec::new()),
        };
        Part {
            entry,
            step,
            changes,
            earlier,
        }
    };
    let of = |origin| {
        let parts = plan
            .entries
            .iter()
            .filter_map(|entry| Some(part(entry, entry.wanted_step()?, origin)));
        (
            origin,
            parts.filter(|part| !part.changes.is_empty()).collect(),
        )
    };
    match plan.base {
        None => vec![of(None)],
        Some(_) => Origin::BOTH.map(|origin| of(Some(origin))).into(),
    }
}

/// The diff of a part of an update, as canonical YAML: each changed line with two lines of context, below all of its parent
/// keys.
pub(super) fn diff_lines(part: &Part<'_>) -> Vec<DiffLine> {
    let mut view = View::of(&part.step.live);
    part.earlier
        .iter()
        .for_each(|change| view.apply(change, "(sensitive)"));
    let mut after = view.clone();
    for change in &part.changes {
        view.mark(change);
        let sensitive = match change {
            Change::Key { secrets, .. } if !secrets.is_empty() => {
                format!("(sensitive, {})", join_references(secrets))
            }
            _ => format!(
                "(sensitive, literal in {})",
                part.entry.file_of(change).unwrap_or_default()
            ),
        };
        after.apply(change, &sensitive);
    }
    let (before, after) = (to_yaml(&view), to_yaml(&after));
    let diff = TextDiff::from_lines(&before, &after);
    let all: Vec<(ChangeTag, &str)> = diff
        .iter_all_changes()
        .map(|change| (change.tag(), change.value().trim_end_matches('\n')))
        .collect();
    let mut lines = Vec::new();
    let mut left_out = 0;
    for ((tag, text), shown) in all.iter().zip(visible_lines(&all)) {
        if !shown {
            left_out += 1;
            continue;
        }
        if left_out > 0 {
            lines.push(DiffLine::Gap(std::mem::take(&mut left_out)));
        }
        let text = printable(text);
        lines.push(match tag {
            ChangeTag::Delete => DiffLine::Removed(text),
            ChangeTag::Insert => DiffLine::Added(text),
            ChangeTag::Equal => DiffLine::Context(text),
        });
    }
    lines
}

/// Which lines of a diff are visible: the changed ones, their context, and all parent keys.
fn visible_lines(lines: &[(ChangeTag, &str)]) -> Vec<bool> {
    const CONTEXT: usize = 2;
    let changed: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, (tag, _))| *tag != ChangeTag::Equal)
        .map(|(at, _)| at)
        .collect();
    let mut shown = vec![false; lines.len()];
    for at in &changed {
        shown
            .iter_mut()
            .take(at + CONTEXT + 1)
            .skip(at.saturating_sub(CONTEXT))
            .for_each(|shown| *shown = true);
    }
    let indent = |text: &str| text.len() - text.trim_start_matches(' ').len();
    // From the end, so that the parents of a parent are found by the same walk.
    let mut wanted = 0;
    for ((_, text), shown) in lines.iter().zip(&mut shown).rev() {
        let at = indent(text);
        *shown |= at < wanted;
        if *shown {
            wanted = at;
        }
    }
    shown
}

/// The hold of the workspace that is in force, or that the approval lifted, as a sentence.
pub(super) fn describe_suspension(plan: &Plan) -> Option<String> {
    let overridden = plan.overridden.as_ref().map(|overridden| {
        format!(
            "Approved although {}. The reason of the approval: {}",
            describe_hold(&overridden.hold),
            printable(&overridden.reason)
        )
    });
    let in_force = plan.hold.as_ref().map(|hold| {
        let hold = describe_hold(hold).replacen('t', "T", 1);
        format!("{hold} (workspace.yaml)")
    });
    overridden.or(in_force)
}

/// The provider or file that a branch stops protecting, and how it does. `quote` quotes foreign text in the sentence.
pub(super) fn describe_loosening(
    item: &Loosening,
    quote: impl Fn(&str) -> String,
) -> (&str, String) {
    let label = item
        .provider()
        .map_or(Loosening::PIN_FILE, Provider::as_str);
    let sentence = match item {
        Loosening::File { file, .. } => {
            format!(
                "{} is removed: no longer managed, Calry keeps its values",
                quote(file)
            )
        }
        Loosening::Part { path, .. } => format!("{} is no longer managed", quote(path)),
        Loosening::Hold {
            until,
            before: None,
            ..
        } => format!("put on hold until {until}"),
        Loosening::Hold {
            until,
            before: Some(before),
            ..
        } => format!("hold extended from {before} to {until}"),
        Loosening::WorkspaceHold {
            until,
            before: None,
        } => format!("the workspace is put on hold until {until}"),
        Loosening::WorkspaceHold {
            until,
            before: Some(before),
        } => format!("the hold of the workspace is extended from {before} to {until}"),
        Loosening::Freeze { from, to, .. } => {
            format!("nothing is written to the workspace from {from} to {to}")
        }
        Loosening::Pin(PinChange {
            before,
            after: None,
        }) => {
            format!(
                "the pin to the workspace {} is removed",
                quote(before.as_str())
            )
        }
        Loosening::Pin(PinChange {
            before,
            after: Some(after),
        }) => {
            format!(
                "the pin changes from {} to {}",
                quote(before.as_str()),
                quote(after.as_str())
            )
        }
    };
    (label, sentence)
}

/// What a policy does not allow: the provider or `policy`, and a sentence. `quote` quotes foreign text in it.
pub(super) fn describe_violation(
    violation: &Violation,
    quote: impl Fn(&str) -> String,
) -> (&str, String) {
    let label = violation.provider.as_deref().unwrap_or("policy");
    let path = violation.path.as_deref();
    let path = path.map(|path| format!("{}: ", quote(path)));
    let lifted = if violation.action == PolicyAction::Deny && violation.lifted_by_approval {
        "; an approval lifts it"
    } else {
        ""
    };
    let (message, policy) = (&violation.message, &violation.policy);
    let sentence = format!("{}{message} ({policy}{lifted})", path.unwrap_or_default());
    (label, sentence)
}

/// The effect of a branch on Calry and on the protection by git: `this branch changes nothing and loosens protection in 2
/// places`.
pub(super) fn describe_branch(plan: &Plan) -> String {
    let entries = plan.entries.iter();
    let due = entries.filter(|entry| entry.is_due_to(Origin::Branch));
    let changes = plural(due.count(), "provider", "providers");
    let changes = changes.as_deref().unwrap_or("nothing in Calry");
    match plural(plan.loosened.len(), "place", "places") {
        None => format!("this branch changes {changes}"),
        Some(places) => {
            format!("this branch changes {changes} and loosens protection in {places}")
        }
    }
}

/// A list of references: `${secret:a}, ${secret:b}`.
pub(super) fn join_references(secrets: &[SecretName]) -> String {
    secrets
        .iter()
        .map(|name| format!("${{secret:{name}}}"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl<'a> View<'a> {
    fn of(live: &'a Live) -> Self {
        let section = |section: KeySection| {
            let names = live.partner_key.section(section)?.keys();
            let values = names.map(|name| (name.as_str(), "(sensitive)".to_owned()));
            Some((section.key(), values.collect()))
        };
        let fields = live.fields.iter().map(|(group, fields)| {
            (
                group.as_str(),
                fields
                    .iter()
                    .map(|(field, on)| (field.as_str(), *on))
                    .collect(),
            )
        });
        Self {
            provider: live.provider.as_str(),
            icon: live.icon.as_deref(),
            partner_key: KeySection::BOTH.into_iter().filter_map(section).collect(),
            fields_to_sync: fields.collect(),
        }
    }

    /// Marks the value that a change is about.
    fn mark(&mut self, change: &Change) {
        let Change::Key {
            section,
            name,
            change,
            ..
        } = change
        else {
            return;
        };
        let shown = match change {
            KeyChange::Masked => "(sensitive, masked by Calry)",
            KeyChange::Added
            | KeyChange::Removed
            | KeyChange::Changed
            | KeyChange::Unresolved
            | KeyChange::Encrypted => "(sensitive, live)",
        };
        for (spelled, value) in self
            .partner_key
            .get_mut(section.key())
            .into_iter()
            .flatten()
        {
            if section.fold(spelled) == section.fold(name) {
                shown.clone_into(value);
            }
        }
    }

    /// Applies a change; a value below `partnerKey` is then shown as `sensitive`.
    fn apply(&mut self, change: &'a Change, sensitive: &str) {
        match change {
            Change::Icon { after, .. } => self.icon = after.as_deref(),
            Change::Field {
                group,
                field,
                after,
                ..
            } => {
                self.fields_to_sync
                    .entry(group)
                    .or_default()
                    .insert(field, *after);
            }
            Change::Key {
                section,
                name,
                change,
                ..
            } => {
                let values = self.partner_key.entry(section.key()).or_default();
                // If live has a header twice, in different case, one remains.
                values.retain(|spelled, _| section.fold(spelled) != section.fold(name));
                if *change != KeyChange::Removed {
                    values.insert(name, sensitive.to_owned());
                }
            }
        }
    }
}
