//! Compares desired with live state, and computes the update that follows.
//!
//! Calry's documentation has seven traps, in which a careless update destroys data:
//!
//! 1. A field that an update leaves out is switched off.
//! 2. "Specified" may mean present, or present as `true`.
//! 3. "All others" may include the fields of groups that the update does not name.
//! 4. A partial `partnerKey` may replace the whole.
//! 5. PUT may clear what it leaves out.
//! 6. There are no conditional writes, and a 200 does not show that the values were kept.
//! 7. Partner keys may be shown as masks.
//!
//! [`payload`] and [`verify`] are safe under every reading.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;

use super::change::{Change, KeyChange, Mismatch, PlainValue, join_path};
use super::{
    AppliedState, BranchBase, Cause, Digest, LastApplied, Missing, Obstacle, Payload, Plan,
    PlanEntry, RefusedPart, Step, UnresolvedValue, Verdict,
};
use crate::model::{
    ActiveHold, DefinitionPart, Desired, DesiredValue, HoldScope, KeySection, Live, LiveValue,
    PartnerKey, Provider, Revision, Secret, Update, UpdateMethod, Workspace, WorkspaceHolds,
};

#[derive(Clone, Debug)]
pub struct PlanInput {
    pub file: String,
    /// Its provider, if the file or its name has one.
    pub provider: Option<Provider>,
    /// `None` if the file has errors.
    pub desired: Option<Arc<Desired>>,
}

/// What a plan depends on, besides files and live state.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Today in UTC, for holds.
    pub today: Date,
    pub method: UpdateMethod,
    /// What was last applied.
    pub applied: &'a AppliedState,
    /// The base of this branch, if changes are to be attributed to it or not.
    pub base: Option<&'a BranchBase>,
}

/// Compares files with the live state.
#[must_use]
pub fn plan(
    workspace: Workspace,
    revision: Option<Revision>,
    files: impl IntoIterator<Item = PlanInput>,
    live: impl IntoIterator<Item = Live>,
    unreadable: &[(Provider, String)],
    context: Context<'_>,
) -> Plan {
    let files: Vec<PlanInput> = files.into_iter().collect();
    let loosened = context
        .base
        .map(|base| base.find_loosenings(&files, context.today))
        .unwrap_or_default();
    let mut live: BTreeMap<Provider, Live> =
        live.into_iter().map(|l| (l.provider.clone(), l)).collect();
    let mut managed = BTreeSet::new();
    let mut entries: Vec<PlanEntry> = Vec::new();
    for PlanInput {
        file,
        provider,
        desired,
    } in files
    {
        let mut unresolved = Vec::new();
        let mut origins = None;
        managed.extend(provider.clone());
        let verdict = match (&provider, desired) {
            (Some(provider), Some(desired)) => {
                if let Some((_, problem)) = unreadable.iter().find(|(p, _)| p == provider) {
                    Verdict::Unreadable(problem.clone())
                } else if let Some(live) = live.remove(provider) {
                    let masked = MaskedValues::LastApplied(
                        context.applied.get(provider).map(|known| &**known),
                    );
                    let compared = compare(&desired, &live, masked, context.base);
                    unresolved.clone_from(&compared.unresolved);
                    let held = desired
                        .hold
                        .as_ref()
                        .is_some_and(|hold| hold.in_force(context.today));
                    origins = context
                        .base
                        .map(|base| base.origins(&compared.changes, &desired, held, context.today));
                    verdict(desired, Arc::new(live), compared, context)
                } else {
                    Verdict::Missing
                }
            }
            _ => Verdict::Invalid,
        };
        entries.push(PlanEntry {
            provider,
            file: Some(file),
            verdict,
            unresolved,
            shared: None,
            origins,
        });
    }
    entries.extend(
        live.into_keys()
            .filter(|provider| !managed.contains(provider))
            .map(|provider| PlanEntry {
                provider: Some(provider),
                file: None,
                verdict: Verdict::Unmanaged,
                unresolved: Vec::new(),
                shared: None,
                origins: None,
            }),
    );
    entries.sort_by(|a, b| {
        (a.provider.is_none(), &a.provider, &a.file).cmp(&(
            b.provider.is_none(),
            &b.provider,
            &b.file,
        ))
    });
    let digest = entries
        .iter()
        .all(|e| e.unresolved.is_empty())
        .then(|| Digest::of(&workspace, context.method, &entries));
    let base = context.base.map(|base| base.commit.clone());
    Plan {
        workspace,
        revision,
        entries,
        digest,
        base,
        loosened,
        hold: None,
        holds: WorkspaceHolds::default(),
        overridden: None,
        snapshot: None,
        violations: Vec::new(),
    }
}

fn verdict(
    desired: Arc<Desired>,
    live: Arc<Live>,
    compared: Comparison,
    context: Context<'_>,
) -> Verdict {
    if let Some(hold) = desired
        .hold
        .as_ref()
        .filter(|hold| hold.in_force(context.today))
    {
        return Verdict::Held {
            hold: ActiveHold::of(hold, HoldScope::Provider),
            pending: compared.changes,
            step: None,
        };
    }
    if compared.changes.is_empty() {
        return match compared.unreadable.into_iter().next() {
            Some((_, problem)) => Verdict::Unreadable(problem),
            None => Verdict::InSync(desired, live),
        };
    }
    let applied = context.applied.get(&desired.provider).cloned();
    let cause = applied.as_ref().map_or(Cause::Change, |known| {
        known.cause(&desired, &compared.changes)
    });
    let payload = payload(&desired, &live, &compared, context.method);
    Verdict::Update(Box::new(Step {
        desired,
        live,
        applied,
        changes: compared.changes,
        cause,
        payload,
    }))
}

/// A provider that was read again just before its update.
#[derive(Clone, Debug)]
pub enum RefreshedStep {
    /// The same changes are still due; carried-over parts are up to date.
    Due(Box<Step>),
    /// Live already equals desired.
    InSync,
    /// Other changes would be due than the planned ones.
    Moved,
}

/// Plans one provider again with newer live state, so that intermediate changes are not overwritten.
#[must_use]
pub fn refresh(step: &Step, live: Live, method: UpdateMethod) -> RefreshedStep {
    let compared = compare(
        &step.desired,
        &live,
        MaskedValues::LastApplied(step.applied.as_deref()),
        None,
    );
    if live.id != step.live.id {
        return RefreshedStep::Moved;
    }
    if compared.changes.is_empty() && compared.unreadable.is_empty() {
        return RefreshedStep::InSync;
    }
    if compared.changes != step.changes {
        return RefreshedStep::Moved;
    }
    let payload = payload(&step.desired, &live, &compared, method);
    RefreshedStep::Due(Box::new(Step {
        live: Arc::new(live),
        payload,
        ..step.clone()
    }))
}

/// The differences that are left in an answer: in the managed parts, except those that were refused, and in what the
/// update carried over (trap 6).
#[must_use]
pub fn verify(
    desired: &Desired,
    sent: &Update,
    refused: &[RefusedPart],
    answer: &Live,
) -> Vec<Mismatch> {
    let was_refused = |change: &Change| refused.iter().any(|refused| refused.part == change.part());
    let changes = compare(desired, answer, MaskedValues::JustSent, None)
        .changes
        .into_iter();
    let mut mismatches: Vec<Mismatch> = changes
        .filter(|change| !was_refused(change))
        .map(Change::into_mismatch)
        .collect();
    let Update {
        icon,
        partner_key,
        fields,
    } = sent;
    if desired.icon.is_none() && icon.is_some() && *icon != answer.icon {
        mismatches.push(Mismatch {
            path: "icon".to_owned(),
            sent: icon.clone().map(PlainValue::Text),
            kept: answer.icon.clone().map(PlainValue::Text),
            sensitive: false,
        });
    }
    for section in KeySection::BOTH {
        let (Some(key), None) = (partner_key, desired.partner_key.section(section)) else {
            continue;
        };
        let (sent, kept) = (
            by_canonical_name(section, key.section(section)),
            by_canonical_name(section, answer.partner_key.section(section)),
        );
        for name in sent.keys().chain(kept.keys()).collect::<BTreeSet<_>>() {
            let same = match (sent.get(name), kept.get(name)) {
                // A masked value cannot be compared with what was sent.
                (Some(sent), Some(kept)) => kept.is(sent) != Some(false),
                _ => false,
            };
            if !same {
                let path = join_path(&["partnerKey", section.key(), name]);
                mismatches.push(Mismatch {
                    path,
                    sent: None,
                    kept: None,
                    sensitive: true,
                });
            }
        }
    }
    for (group, on) in fields
        .iter()
        .flatten()
        .filter(|(group, _)| !desired.fields.contains_key(*group))
    {
        let empty = BTreeMap::new();
        let kept = answer.fields.get(group).unwrap_or(&empty);
        for field in on.iter().chain(kept.keys()).collect::<BTreeSet<_>>() {
            let (sent, kept) = (on.contains(field), kept.get(field).copied());
            if sent != kept.unwrap_or(false) {
                mismatches.push(Mismatch {
                    path: join_path(&["fieldsToSync", group, field]),
                    sent: Some(PlainValue::Bool(sent)),
                    kept: kept.map(PlainValue::Bool),
                    sensitive: false,
                });
            }
        }
    }
    mismatches
}

/// Why an answer cannot show whether an update took effect: a part that was sent cannot be read in it.
#[must_use]
pub fn unverifiable<'a>(sent: &Update, answer: &'a Live) -> Option<&'a str> {
    let Update {
        icon,
        partner_key,
        fields,
    } = sent;
    let was_sent = |part: &DefinitionPart| match part {
        DefinitionPart::Icon => icon.is_some(),
        DefinitionPart::PartnerKey => partner_key.is_some(),
        DefinitionPart::FieldsToSync => fields.is_some(),
    };
    DefinitionPart::ALL
        .into_iter()
        .filter(was_sent)
        .find_map(|part| answer.problems.part(part))
}

/// The values of a section by their canonical names.
fn by_canonical_name<V>(
    section: KeySection,
    values: Option<&BTreeMap<String, V>>,
) -> BTreeMap<String, &V> {
    values
        .into_iter()
        .flatten()
        .map(|(name, value)| (section.fold(name), value))
        .collect()
}

/// What is known about the values that Calry masks.
#[derive(Clone, Copy)]
enum MaskedValues<'a> {
    LastApplied(Option<&'a LastApplied>),
    JustSent,
}

struct Comparison {
    changes: Vec<Change>,
    unresolved: Vec<UnresolvedValue>,
    /// Managed parts that cannot be read in live state, each with the problem.
    unreadable: Vec<(DefinitionPart, String)>,
}

/// Every difference in the managed parts, in the order of a definition.
fn compare(
    desired: &Desired,
    live: &Live,
    masked: MaskedValues<'_>,
    base: Option<&BranchBase>,
) -> Comparison {
    // Destructured in full, so that a new managed part does not compile until it is compared.
    let Desired {
        provider: _,
        icon,
        partner_key,
        fields,
        hold: _,
    } = desired;
    let mut changes = Vec::new();
    let mut unresolved = Vec::new();
    let mut unreadable = Vec::new();
    if let Some(icon) = icon {
        if let Some(problem) = &live.problems.icon {
            unreadable.push((DefinitionPart::Icon, problem.clone()));
        } else if live.icon.as_deref() != Some(icon.as_str()) {
            changes.push(Change::Icon {
                before: live.icon.clone(),
                after: Some(icon.as_str().to_owned()),
            });
        }
    }
    for section in KeySection::BOTH {
        if let Some(wanted) = partner_key.section(section) {
            if let Some(problem) = live.problems.section(section) {
                unreadable.push((DefinitionPart::PartnerKey, problem.to_owned()));
                continue;
            }
            let is_behind_mask = |name: &str, value: &Secret| match masked {
                MaskedValues::LastApplied(known) => {
                    known.is_some_and(|known| known.is_behind_mask(live, section, name, value))
                }
                MaskedValues::JustSent => true,
            };
            let uncompared = |name: &str, value: &DesiredValue| {
                let base = base?;
                if base.rewrites(section, name, desired) {
                    Some(KeyChange::Unresolved)
                } else {
                    base.changes_secret(value.references())
                        .then_some(KeyChange::Encrypted)
                }
            };
            let live = live.partner_key.section(section);
            compare_section(
                section,
                wanted,
                live,
                is_behind_mask,
                uncompared,
                &mut changes,
                &mut unresolved,
            );
        }
    }
    for (group, on) in fields {
        if let Some(problem) = live.problems.group(group) {
            unreadable.push((DefinitionPart::FieldsToSync, problem.to_owned()));
            continue;
        }
        let now = live.fields.get(group);
        let known = now
            .into_iter()
            .flatten()
            .map(|(field, before)| (field, Some(*before), on.contains(field)));
        let fresh = on
            .iter()
            .filter(|field| !now.is_some_and(|now| now.contains_key(*field)))
            .map(|f| (f, None, true));
        let mut differing: Vec<_> = known
            .chain(fresh)
            .filter(|(_, before, after)| before.unwrap_or(false) != *after)
            .collect();
        differing.sort_unstable();
        changes.extend(
            differing
                .into_iter()
                .map(|(field, before, after)| Change::Field {
                    group: group.clone(),
                    field: field.clone(),
                    before,
                    after,
                }),
        );
    }
    Comparison {
        changes,
        unresolved,
        unreadable,
    }
}

fn compare_section(
    section: KeySection,
    wanted: &BTreeMap<String, DesiredValue>,
    live: Option<&BTreeMap<String, LiveValue>>,
    is_behind_mask: impl Fn(&str, &Secret) -> bool,
    uncompared: impl Fn(&str, &DesiredValue) -> Option<KeyChange>,
    changes: &mut Vec<Change>,
    unresolved: &mut Vec<UnresolvedValue>,
) {
    let mut rest: BTreeMap<String, Vec<(&String, &LiveValue)>> = BTreeMap::new();
    for (name, value) in live.into_iter().flatten() {
        rest.entry(section.fold(name))
            .or_default()
            .push((name, value));
    }
    for (name, value) in wanted {
        let secrets: Vec<_> = value.references().cloned().collect();
        let now = rest.remove(&section.fold(name)).unwrap_or_default();
        let missing = match (&value.value, now.as_slice()) {
            // An added value needs no comparison, but without its secret it cannot be sent.
            (None, _) => Some(Missing::Secret),
            (Some(_), [(_, LiveValue::Withheld)]) => Some(Missing::Live),
            _ => None,
        };
        if let Some(missing) = missing {
            let path = join_path(&["partnerKey", section.key(), name]);
            unresolved.push(UnresolvedValue {
                path,
                secrets: secrets.clone(),
                missing,
            });
        }
        let change = match (now.as_slice(), &value.value) {
            ([], _) => Some(KeyChange::Added),
            (_, None) | ([(_, LiveValue::Withheld)], _) => uncompared(name, value),
            ([(_, now @ (LiveValue::Mask | LiveValue::MaybeMask(_)))], Some(wanted)) => {
                (now.is(wanted) != Some(true) && !is_behind_mask(name, wanted))
                    .then_some(KeyChange::Masked)
            }
            ([(_, now)], Some(wanted)) => {
                (now.is(wanted) == Some(false)).then_some(KeyChange::Changed)
            }
            // The same header in two spellings: only a whole partner key makes it one again.
            (_, Some(_)) => Some(KeyChange::Changed),
        };
        if let Some(change) = change {
            changes.push(Change::Key {
                section,
                name: name.clone(),
                change,
                secrets,
            });
        }
    }
    for (name, _) in rest.into_values().flatten() {
        changes.push(Change::Key {
            section,
            name: name.clone(),
            change: KeyChange::Removed,
            secrets: Vec::new(),
        });
    }
}

/// The update from live to desired, part by part.
///
/// - Traps 1 and 2: of a group that is sent, exactly the fields that are to be on are named, each as `true`.
/// - Trap 3: a `fieldsToSync` that is sent names every group of the live definition, the unmanaged ones as they are.
/// - Trap 4: a `partnerKey` that is sent has both sections, the unmanaged one as it is.
/// - Trap 5: under PUT all three top-level fields are sent, or none.
/// - Trap 7: a value that may be a mask is never carried over.
///
/// A part in which something cannot be read is not sent: the update might destroy it.
fn payload(desired: &Desired, live: &Live, compared: &Comparison, method: UpdateMethod) -> Payload {
    let put = method == UpdateMethod::Put;
    let is_due = |part| {
        compared.changes.iter().any(|change| change.part() == part)
            || compared.unreadable.iter().any(|(p, _)| *p == part)
    };
    let (mut update, mut refused, mut carries_unmanaged) = (Update::default(), Vec::new(), false);
    for part in DefinitionPart::ALL
        .into_iter()
        .filter(|part| put || is_due(*part))
    {
        let unreadable = live
            .problems
            .part(part)
            .map(|problem| Obstacle::Unreadable(problem.to_owned()));
        let filled = match (unreadable, part) {
            (Some(obstacle), _) => Err(obstacle),
            (None, DefinitionPart::Icon) => {
                update.icon = desired
                    .icon
                    .as_ref()
                    .map(|icon| icon.as_str().to_owned())
                    .or_else(|| live.icon.clone());
                Ok(desired.icon.is_none())
            }
            (None, DefinitionPart::PartnerKey) => partner_key(desired, live).map(|key| {
                // Neither git nor Calry has one.
                update.partner_key = (key != PartnerKey::default()).then_some(key);
                KeySection::BOTH
                    .into_iter()
                    .any(|section| desired.partner_key.section(section).is_none())
            }),
            (None, DefinitionPart::FieldsToSync) => {
                update.fields = Some(groups(desired, live));
                Ok(live
                    .fields
                    .keys()
                    .any(|group| !desired.fields.contains_key(group)))
            }
        };
        match filled {
            Ok(carries) => carries_unmanaged |= carries,
            Err(obstacle) => refused.push(RefusedPart { part, obstacle }),
        }
    }
    let nothing = update == Update::default() || (put && !refused.is_empty());
    Payload {
        update: (!nothing).then_some(update),
        refused,
        carries_unmanaged,
    }
}

/// Both sections of a partner key: the managed ones from git, the others as they are.
fn partner_key(desired: &Desired, live: &Live) -> Result<PartnerKey, Obstacle> {
    let mut key = PartnerKey::default();
    for section in KeySection::BOTH {
        let values: Option<Result<BTreeMap<_, _>, _>> = match desired.partner_key.section(section) {
            Some(wanted) => Some(
                wanted
                    .iter()
                    .map(|(name, value)| {
                        Ok((
                            name.clone(),
                            value.value.clone().ok_or(Obstacle::Incomplete)?,
                        ))
                    })
                    .collect(),
            ),
            None => live.partner_key.section(section).map(|values| {
                values
                    .iter()
                    .map(|(name, value)| carry_over(section, name, value))
                    .collect()
            }),
        };
        *key.section_mut(section) = values.transpose()?;
    }
    Ok(key)
}

/// A value of a section that is sent as it is.
fn carry_over(
    section: KeySection,
    name: &str,
    value: &LiveValue,
) -> Result<(String, Secret), Obstacle> {
    match value {
        LiveValue::Value(secret) => Ok((name.to_owned(), secret.clone())),
        LiveValue::Mask | LiveValue::MaybeMask(_) => Err(Obstacle::Masked {
            section,
            name: name.to_owned(),
        }),
        LiveValue::Fingerprint(_) | LiveValue::Withheld => Err(Obstacle::Incomplete),
    }
}

/// Of every group the fields that are to be on: the managed ones from git, the others as they are.
fn groups(desired: &Desired, live: &Live) -> BTreeMap<String, BTreeSet<String>> {
    let on = |fields: &BTreeMap<String, bool>| {
        fields
            .iter()
            .filter(|(_, on)| **on)
            .map(|(f, _)| f.clone())
            .collect()
    };
    let mut groups: BTreeMap<_, _> = live
        .fields
        .iter()
        .map(|(group, fields)| (group.clone(), on(fields)))
        .collect();
    groups.extend(desired.fields.clone());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LivePartnerKey, LiveProblems};

    #[test]
    fn an_answer_shows_the_result_of_an_update_unless_a_part_that_was_sent_cannot_be_read_in_it() {
        let answer = |problems| Live {
            id: "1".to_owned(),
            name: String::new(),
            provider: Provider::parse("HOSTAWAY").unwrap(),
            icon: None,
            partner_key: LivePartnerKey::default(),
            fields: BTreeMap::new(),
            updated_at: String::new(),
            problems,
        };
        let why = || Some("it is a number".to_owned());
        let icon = LiveProblems {
            icon: why(),
            ..LiveProblems::default()
        };
        let partner_key = LiveProblems {
            headers: why(),
            ..LiveProblems::default()
        };
        let fields = LiveProblems {
            fields: why(),
            ..LiveProblems::default()
        };
        let sent = [
            Update {
                icon: Some("https://example.com/icon.png".to_owned()),
                ..Update::default()
            },
            Update {
                partner_key: Some(PartnerKey::default()),
                ..Update::default()
            },
            Update {
                fields: Some(BTreeMap::new()),
                ..Update::default()
            },
        ];
        for (i, problems) in [icon, partner_key, fields].into_iter().enumerate() {
            let answer = answer(problems);
            for (j, sent) in sent.iter().enumerate() {
                let expected = (i == j).then_some("it is a number");
                assert_eq!(unverifiable(sent, &answer), expected, "{i} {j}");
            }
        }
    }
}
