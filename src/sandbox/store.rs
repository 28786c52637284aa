//! The workspace of the sandbox and the execution of updates. Pure: the time is an argument.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::contract::{self, Update};
use crate::model::{KeySection, UpdateMethod};

/// The meaning of updates where Calry's documentation is silent or ambiguous. The defaults do the most harm to a careless
/// client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Semantics {
    /// The meaning of "specified" in "only specified fields will be set to true".
    pub fields: SpecifiedFields,
    /// Whether an update that names only some groups switches the fields of the other groups off.
    pub across_groups: AcrossGroups,
    pub partner_key: PartialPartnerKey,
    pub put_absent: PutAbsent,
    /// The keys that see partner keys masked.
    pub mask: Mask,
}

/// The fields of a group that an update switches on. The other fields of the group are switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecifiedFields {
    /// The fields that are `true` in the update.
    #[default]
    TrueMeansTrue,
    /// All fields in the update, including those that are `false`.
    PresentMeansTrue,
}

/// Whether "all others to false" includes the groups that an update does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcrossGroups {
    #[default]
    Yes,
    No,
}

/// The effect of an update with a partial `partnerKey`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartialPartnerKey {
    /// Absent sections stay, and in the given sections the absent names stay. Names are case-sensitive.
    Merges,
    /// The update replaces the whole partner key.
    #[default]
    Replaces,
}

/// The effect of a PUT on absent top-level fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutAbsent {
    /// The icon and the partner key are removed, and every field is switched off.
    #[default]
    Clears,
    /// They stay, as with PATCH.
    Keeps,
}

/// The keys that see partner keys masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    #[default]
    Never,
    ReadKeys,
    Always,
}

/// The workspace and its definitions as JSON, so that tests can make Calry answer with invalid data.
pub struct Store {
    pub workspace: Value,
    pub definitions: BTreeMap<String, Value>,
}

impl Store {
    /// Executes an update and returns the definition after it; `None` if the provider has no definition. Unknown groups and
    /// fields are silently ignored.
    pub fn update(
        &mut self,
        provider: &str,
        update: &Update,
        method: UpdateMethod,
        semantics: Semantics,
        now: Timestamp,
    ) -> Option<&Value> {
        let clears = method == UpdateMethod::Put && semantics.put_absent == PutAbsent::Clears;
        self.modify(provider, now, |definition| {
            let Some(definition) = definition.as_object_mut() else {
                return;
            };
            match update.icon() {
                Some(icon) => drop(definition.insert("icon".to_owned(), icon.clone())),
                None if clears => drop(definition.remove("icon")),
                None => {}
            }
            match update.partner_key() {
                Some(sent) => set_partner_key(definition, sent, semantics.partner_key),
                None if clears => drop(definition.remove("partnerKey")),
                None => {}
            }
            let nothing = Map::new();
            if let Some(sent) = update.fields().or(clears.then_some(&nothing)) {
                let reach = if clears {
                    AcrossGroups::Yes
                } else {
                    semantics.across_groups
                };
                set_fields(definition, sent, semantics.fields, reach);
            }
        })
    }

    /// Changes a definition in any way, as an edit in the Calry console does, and updates its `updatedAt`.
    pub fn modify(
        &mut self,
        provider: &str,
        now: Timestamp,
        change: impl FnOnce(&mut Value),
    ) -> Option<&Value> {
        let definition = self.definitions.get_mut(provider)?;
        let before = updated_at(definition);
        change(definition);
        touch(definition, before, now);
        Some(definition)
    }

    /// Adds or replaces a definition and updates its `updatedAt`.
    pub fn set(&mut self, provider: &str, mut definition: Value, now: Timestamp) {
        let before = self.definitions.get(provider).and_then(updated_at);
        touch(&mut definition, before, now);
        self.definitions.insert(provider.to_owned(), definition);
    }
}

/// Whether two definitions are equal, apart from `updatedAt`.
pub(super) fn equal_content(one: Option<&Value>, other: Option<&Value>) -> bool {
    let rest = |definition: &Value| {
        let mut definition = definition.clone();
        definition
            .as_object_mut()
            .map(|definition| definition.remove("updatedAt"));
        definition
    };
    one.map(rest) == other.map(rest)
}

/// Returns the definition with each value of its partner key masked.
pub fn mask(definition: &Value) -> Value {
    let mut definition = definition.clone();
    let sections = definition
        .get_mut("partnerKey")
        .and_then(Value::as_object_mut);
    for section in sections.into_iter().flat_map(Map::values_mut) {
        match section.as_object_mut() {
            Some(section) => section
                .values_mut()
                .for_each(|value| *value = json!("********")),
            None => *section = json!("********"),
        }
    }
    definition
}

fn set_partner_key(
    definition: &mut Map<String, Value>,
    sent: &Map<String, Value>,
    partial: PartialPartnerKey,
) {
    let key = definition.entry("partnerKey").or_insert_with(|| json!({}));
    match (partial, key.as_object_mut()) {
        (PartialPartnerKey::Merges, Some(key)) => {
            for section in KeySection::BOTH.map(KeySection::key) {
                let Some(Value::Object(values)) = sent.get(section) else {
                    continue;
                };
                let kept = key.entry(section).or_insert_with(|| json!({}));
                if let Some(kept) = kept.as_object_mut() {
                    kept.extend(values.clone());
                }
            }
        }
        _ => *key = Value::Object(sent.clone()),
    }
}

fn set_fields(
    definition: &mut Map<String, Value>,
    sent: &Map<String, Value>,
    reading: SpecifiedFields,
    reach: AcrossGroups,
) {
    let groups = definition
        .get_mut("fieldsToSync")
        .and_then(Value::as_object_mut);
    for (group, fields) in groups.into_iter().flatten() {
        let named = sent.get(group);
        if named.is_none() && reach == AcrossGroups::No {
            continue;
        }
        for (field, on) in fields.as_object_mut().into_iter().flatten() {
            let specified = named.and_then(|group| group.get(field));
            *on = Value::Bool(match reading {
                SpecifiedFields::TrueMeansTrue => specified == Some(&Value::Bool(true)),
                SpecifiedFields::PresentMeansTrue => specified.is_some(),
            });
        }
    }
}

fn updated_at(definition: &Value) -> Option<Timestamp> {
    definition.get("updatedAt")?.as_str()?.parse().ok()
}

/// Sets `updatedAt` to now, but at least a millisecond after its previous value.
fn touch(definition: &mut Value, before: Option<Timestamp>, now: Timestamp) {
    let next = before.map_or(i64::MIN, |before| before.as_millisecond().saturating_add(1));
    let moved = Timestamp::from_millisecond(now.as_millisecond().max(next)).unwrap_or(now);
    if let Some(definition) = definition.as_object_mut() {
        definition.insert("updatedAt".to_owned(), json!(contract::format_time(moved)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const MERGES: Semantics = Semantics {
        fields: SpecifiedFields::PresentMeansTrue,
        across_groups: AcrossGroups::No,
        partner_key: PartialPartnerKey::Merges,
        put_absent: PutAbsent::Keeps,
        mask: Mask::Never,
    };

    fn definition() -> Value {
        json!({
            "provider": "HOSTAWAY",
            "icon": "https://example.com/a.png",
            "partnerKey": {"headers": {"a": "1", "b": "2"}, "queryParams": {"q": "3"}},
            "fieldsToSync": {"listing": {"name": true, "type": false, "rooms": true}, "rates": {"base": true}},
            "updatedAt": "2026-01-02T03:04:05.678Z"
        })
    }

    fn store() -> Store {
        Store {
            workspace: json!({}),
            definitions: BTreeMap::from([("HOSTAWAY".to_owned(), definition())]),
        }
    }

    fn after(method: UpdateMethod, semantics: Semantics, update: Value) -> Value {
        let mut store = store();
        let update = Update::parse(update).unwrap();
        store
            .update("HOSTAWAY", &update, method, semantics, NOW)
            .unwrap()
            .clone()
    }

    fn patched(semantics: Semantics, update: Value) -> Value {
        after(UpdateMethod::Patch, semantics, update)
    }

    /// Fields left out are switched off under both readings, and a field that is named as false by one of them. Groups left out
    /// are switched off or kept by the reach. Unknown groups and fields are silently ignored.
    #[test]
    fn an_update_of_fields_switches_others_off_by_the_reading_and_the_reach() {
        let listing =
            |[name, kind, rooms]: [bool; 3]| json!({"name": name, "type": kind, "rooms": rooms});
        for (sent, by_default, merging) in [
            (
                json!({"listing": {"type": true}}),
                [false, true, false],
                [false, true, false],
            ),
            (
                json!({"listing": {"name": false}}),
                [false; 3],
                [true, false, false],
            ),
            (
                json!({"listing": {"nope": true}, "other": {"x": true}}),
                [false; 3],
                [false; 3],
            ),
        ] {
            let update = json!({ "fieldsToSync": sent });
            for (semantics, on, rates) in [
                (Semantics::default(), by_default, false),
                (MERGES, merging, true),
            ] {
                let fields = json!({"listing": listing(on), "rates": {"base": rates}});
                assert_eq!(patched(semantics, update.clone())["fieldsToSync"], fields);
            }
        }
    }

    #[test]
    fn a_partial_partner_key_replaces_or_merges() {
        let update = json!({"partnerKey": {"headers": {"b": "9"}}});
        let replaced = json!({"headers": {"b": "9"}});
        let merged = json!({"headers": {"a": "1", "b": "9"}, "queryParams": {"q": "3"}});
        assert_eq!(
            patched(Semantics::default(), update.clone())["partnerKey"],
            replaced
        );
        assert_eq!(patched(MERGES, update)["partnerKey"], merged);
    }

    #[test]
    fn a_put_clears_or_keeps_what_it_leaves_out() {
        let cleared = after(UpdateMethod::Put, Semantics::default(), json!({}));
        assert_eq!(
            (cleared.get("icon"), cleared.get("partnerKey")),
            (None, None)
        );
        assert_eq!(cleared["fieldsToSync"]["listing"]["name"], false);
        assert_eq!(cleared["fieldsToSync"]["rates"]["base"], false);
        let kept = after(UpdateMethod::Put, MERGES, json!({}));
        for key in ["icon", "partnerKey", "fieldsToSync"] {
            assert_eq!(kept[key], definition()[key], "{key}");
        }
    }

    #[test]
    fn a_patch_keeps_what_it_leaves_out_under_every_semantics() {
        for semantics in [Semantics::default(), MERGES] {
            let patched = patched(semantics, json!({"icon": "https://example.com/b.png"}));
            assert_eq!(patched["icon"], "https://example.com/b.png");
            assert_eq!(patched["partnerKey"], definition()["partnerKey"]);
            assert_eq!(patched["fieldsToSync"], definition()["fieldsToSync"]);
        }
    }

    #[test]
    fn updated_at_moves_at_every_update_even_if_the_clock_does_not() {
        let mut store = store();
        let edited = |store: &mut Store, now| {
            store.modify("HOSTAWAY", now, |_| ()).unwrap()["updatedAt"].clone()
        };
        assert_eq!(edited(&mut store, NOW), "2026-01-02T03:04:05.679Z");
        assert_eq!(edited(&mut store, NOW), "2026-01-02T03:04:05.680Z");
        store.set("HOSTAWAY", json!({}), NOW);
        let set = &store.definitions["HOSTAWAY"]["updatedAt"];
        assert_eq!(set, "2026-01-02T03:04:05.681Z");
        let later = "2030-01-01T00:00:00.9999Z".parse().unwrap();
        assert_eq!(edited(&mut store, later), "2030-01-01T00:00:00.999Z");
    }

    #[test]
    fn a_mask_covers_every_value_and_nothing_else() {
        let mut expected = definition();
        expected["partnerKey"] = json!({"headers": {"a": "********", "b": "********"}, "queryParams": {"q": "********"}});
        assert_eq!(mask(&definition()), expected);
    }

    #[test]
    fn an_unknown_provider_has_nothing_to_update() {
        let (update, method) = (Update::parse(json!({})).unwrap(), UpdateMethod::Patch);
        let updated = store()
            .update("X", &update, method, Semantics::default(), NOW)
            .cloned();
        assert_eq!(updated, None);
    }
}
