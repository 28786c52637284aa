//! What policies know of a plan. The keys are a contract: policies of operators use them.
//!
//! Never: a value below `partnerKey`. Of it, a policy sees positions, the names of secrets, and whether there is literal text.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::Serialize;

use crate::model::{Desired, FieldSet, KNOWN_PROVIDERS, KeySection, Provider};
use crate::plan::{Change, KeyChange, Origin, PlainValue, Plan, PlanEntry, join_path};

/// `provider`: a definition file, and what it would change.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProviderFacts {
    pub(super) name: String,
    pub(super) file: String,
    /// How the names of its secrets begin: `hostaway-`.
    secret_prefix: String,
    /// As in a plan's JSON.
    state: &'static str,
    icon: Option<IconFacts>,
    /// Of each managed group, the fields that are on.
    fields: BTreeMap<String, FieldSet>,
    /// Every managed header and query parameter.
    keys: Vec<KeyFacts>,
    /// The managed parts: `icon`, `partnerKey.headers`, `fieldsToSync.listing`.
    managed: Vec<String>,
    hold: Option<HoldFacts>,
    pub(super) changes: Vec<ChangeFacts>,
}

#[derive(Clone, Debug, Serialize)]
struct IconFacts {
    url: String,
    scheme: String,
    host: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyFacts {
    /// `headers` or `queryParams`.
    section: &'static str,
    name: String,
    secrets: Vec<String>,
    /// The secrets that are not named after this provider.
    foreign_secrets: Vec<String>,
    /// Whether the file has text of the value, beyond a scheme such as `Bearer`.
    literal: bool,
}

#[derive(Clone, Debug, Serialize)]
struct HoldFacts {
    /// The last day, such as `2026-12-31`.
    until: String,
    /// The days that are left, today included; 0 or less if the hold is over.
    days: i32,
    /// Empty if the file gives none.
    reason: String,
}

/// `change`: one difference between files and live state.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChangeFacts {
    provider: String,
    pub(super) path: String,
    /// `icon`, `field` or `key`.
    kind: &'static str,
    /// Empty unless `kind` is `field`, as `field` is.
    group: String,
    field: String,
    /// Empty unless `kind` is `key`, as `name` is.
    section: &'static str,
    name: String,
    /// Null for a key, or if there is no value.
    before: Option<PlainValue>,
    after: Option<PlainValue>,
    /// Whether a field that is on goes off.
    switches_off: bool,
    /// `added`, `removed`, `changed`, `masked`, `unresolved` or `encrypted`; null unless `kind` is `key`.
    change: Option<KeyChange>,
    secrets: Vec<String>,
    /// `branch` or `drift`; null without `--base`.
    origin: Option<Origin>,
}

/// `plan`: all of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanFacts<'a> {
    workspace: &'a str,
    providers: &'a [ProviderFacts],
    changes: Vec<&'a ChangeFacts>,
    /// How many providers would be changed.
    updates: usize,
}

/// The providers of a plan that have a valid file.
pub(super) fn providers<'a>(
    plan: &Plan,
    desired: impl IntoIterator<Item = &'a Desired>,
    today: Date,
) -> Vec<ProviderFacts> {
    let desired: BTreeMap<&Provider, &Desired> = desired
        .into_iter()
        .map(|desired| (&desired.provider, desired))
        .collect();
    let names = desired.keys().map(|provider| provider.as_str());
    let prefixes: BTreeSet<String> = names.chain(KNOWN_PROVIDERS).map(secret_prefix).collect();
    let of = |entry: &PlanEntry| {
        let desired = desired.get(entry.provider.as_ref()?)?;
        Some(provider(entry, desired, &prefixes, today))
    };
    plan.entries.iter().filter_map(of).collect()
}

pub(super) fn plan<'a>(plan: &'a Plan, providers: &'a [ProviderFacts]) -> PlanFacts<'a> {
    PlanFacts {
        workspace: &plan.workspace.slug,
        providers,
        changes: providers.iter().flat_map(|of| &of.changes).collect(),
        updates: plan.wanted_steps().count(),
    }
}

/// How the names of the secrets of a provider begin, as `pull` names them.
fn secret_prefix(provider: &str) -> String {
    provider.to_ascii_lowercase().replace('_', "-") + "-"
}

/// Whether a secret is named after a provider. `host-tools-key` is one of HOST_TOOLS, and not of HOST.
fn is_own(secret: &str, prefix: &str, prefixes: &BTreeSet<String>) -> bool {
    let is_closer = |other: &&String| other.len() > prefix.len() && secret.starts_with(*other);
    secret.starts_with(prefix) && !prefixes.iter().any(|other| is_closer(&other))
}

fn provider(
    entry: &PlanEntry,
    desired: &Desired,
    prefixes: &BTreeSet<String>,
    today: Date,
) -> ProviderFacts {
    // Destructured in full, so that a new managed part does not compile until policies know it.
    let Desired {
        provider,
        icon,
        partner_key,
        fields,
        hold,
    } = desired;
    let prefix = secret_prefix(provider.as_str());
    let key = |section: KeySection| {
        let values = partner_key.section(section).into_iter().flatten();
        values.map(move |(name, value)| (section, name, value))
    };
    let keys = KeySection::BOTH.into_iter().flat_map(key);
    let keys = keys.map(|(section, name, value)| {
        let secrets: Vec<String> = value.references().map(ToString::to_string).collect();
        let foreign = |secret: &&String| !is_own(secret, &prefix, prefixes);
        KeyFacts {
            section: section.key(),
            name: name.clone(),
            foreign_secrets: secrets.iter().filter(foreign).cloned().collect(),
            secrets,
            literal: value.template.writes_out(),
        }
    });
    let keys = keys.collect();
    let sections = KeySection::BOTH.into_iter();
    let sections = sections.filter(|section| partner_key.section(*section).is_some());
    let managed = icon.iter().map(|_| "icon".to_owned());
    let managed = managed
        .chain(sections.map(|section| join_path(&["partnerKey", section.key()])))
        .chain(
            fields
                .keys()
                .map(|group| join_path(&["fieldsToSync", group])),
        );
    let origins = entry.origins.iter().flatten().copied().map(Some);
    // What a provider's own hold keeps from being sent is denied when the hold ends.
    let changes = entry.wanted_step().map_or(&[][..], |_| entry.changes());
    let changes = changes.iter().zip(origins.chain(std::iter::repeat(None)));
    ProviderFacts {
        name: provider.to_string(),
        file: entry.file.clone().unwrap_or_default(),
        secret_prefix: prefix,
        state: entry.verdict.state(),
        icon: icon.as_ref().and_then(|icon| {
            let url = url::Url::parse(icon.as_str()).ok()?;
            Some(IconFacts {
                url: icon.as_str().to_owned(),
                scheme: url.scheme().to_owned(),
                host: url.host_str()?.to_owned(),
            })
        }),
        fields: fields.clone(),
        keys,
        managed: managed.collect(),
        hold: hold.as_ref().map(|hold| HoldFacts {
            until: hold.until.to_string(),
            days: hold.days_left(today).saturating_add(1),
            reason: hold.reason.clone().unwrap_or_default(),
        }),
        changes: changes
            .map(|(change, origin)| self::change(provider, change, origin))
            .collect(),
    }
}

fn change(provider: &Provider, change: &Change, origin: Option<Origin>) -> ChangeFacts {
    let mut facts = ChangeFacts {
        provider: provider.to_string(),
        path: change.path(),
        kind: "icon",
        group: String::new(),
        field: String::new(),
        section: "",
        name: String::new(),
        before: change.before(),
        after: change.after(),
        switches_off: false,
        change: None,
        secrets: Vec::new(),
        origin,
    };
    match change {
        Change::Icon { .. } => {}
        Change::Field {
            group,
            field,
            before,
            after,
        } => {
            facts.kind = "field";
            facts.group.clone_from(group);
            facts.field.clone_from(field);
            facts.switches_off = *before == Some(true) && !after;
        }
        Change::Key {
            section,
            name,
            change,
            secrets,
        } => {
            facts.kind = "key";
            facts.section = section.key();
            facts.name.clone_from(name);
            facts.change = Some(*change);
            facts.secrets = secrets.iter().map(ToString::to_string).collect();
        }
    }
    facts
}
