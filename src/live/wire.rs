//! Calry's JSON: parses answers and writes updates.
//!
//! Unknown fields are ignored. Definitions are parsed by hand, because serde's error messages quote values.
//!
//! Never: quote a value in an error; errors name positions.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Listing, Unreadable};
use crate::model::{
    FieldSet, KeySection, Live, LiveFields, LivePartnerKey, LiveProblems, LiveValue, Provider,
    Secret, Update, Workspace, ellipsize, printable,
};

/// The largest accepted number of definitions in a workspace; Calry's reference names 20 providers.
pub(super) const MAX_DEFINITIONS: usize = 20_000;

/// The largest accepted number of values in a partner key.
const MAX_VALUES: usize = 200;

/// The largest accepted definition, in bytes of JSON.
pub(super) const MAX_DEFINITION: usize = 1 << 20;

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    NotJson,
    /// JSON of the wrong shape; the text names positions, never values.
    Shape(String),
}

pub(super) fn parse_workspace(body: &[u8]) -> Result<Workspace, BodyError> {
    workspace_from(parse_object(body)?).map_err(BodyError::Shape)
}

pub(super) fn workspace_from(mut object: Map<String, Value>) -> Result<Workspace, String> {
    let mut text = |key| take_text(&mut object, key);
    Ok(Workspace {
        id: text("id")?,
        name: text("name")?,
        slug: text("slug")?,
    })
}

/// Parses the definition of one provider. `learn` gets every value below `partnerKey`, even of an unusable definition.
pub(super) fn parse_definition(
    body: &[u8],
    requested: &Provider,
    learn: impl FnMut(&Secret),
) -> Result<Live, BodyError> {
    let live = read_live(parse_object(body)?, learn)
        .map_err(|unreadable| BodyError::Shape(unreadable.problem))?;
    if live.provider == *requested {
        Ok(live)
    } else {
        Err(BodyError::Shape(
            "it belongs to another provider".to_owned(),
        ))
    }
}

pub(super) fn parse_listing(
    body: &[u8],
    mut learn: impl FnMut(&Secret),
) -> Result<Listing, BodyError> {
    let items: Items<'_> = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            BodyError::Shape(format!(
                "it is not a list of at most {MAX_DEFINITIONS} definitions"
            ))
        } else {
            BodyError::NotJson
        }
    })?;
    let mut by_provider: BTreeMap<Provider, Vec<Result<Live, String>>> = BTreeMap::new();
    let mut listing = Listing::default();
    for (at, item) in items.0.iter().enumerate() {
        let nameless = |problem| Unreadable {
            provider: None,
            problem,
        };
        let read = if item.get().len() > MAX_DEFINITION {
            let mib = MAX_DEFINITION >> 20;
            Err(nameless(format!("it is larger than {mib} MiB")))
        } else {
            serde_json::from_str(item.get())
                .map_err(|_| nameless("it is not an object".to_owned()))
                .and_then(|object| read_live(object, &mut learn))
        };
        let (provider, read) = match read {
            Ok(live) => (live.provider.clone(), Ok(live)),
            Err(Unreadable { provider, problem }) => match provider {
                Some(provider) => (provider, Err(problem)),
                None => {
                    let problem = format!("item {} of the list: {problem}", at + 1);
                    listing.unreadable.push(nameless(problem));
                    continue;
                }
            },
        };
        by_provider.entry(provider).or_default().push(read);
    }
    for (provider, mut found) in by_provider {
        let problem = match (found.len(), found.pop()) {
            (1, Some(Ok(live))) => {
                listing.live.push(live);
                continue;
            }
            (1, Some(Err(problem))) => problem,
            (times, _) => format!("it is listed {times} times"),
        };
        listing.unreadable.push(Unreadable {
            provider: Some(provider),
            problem,
        });
    }
    Ok(listing)
}

/// The body of an unsuccessful answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ErrorBody {
    /// The unscrubbed message; several are joined.
    pub(super) message: Option<String>,
    /// Whether it has the form of Calry's errors, which proxies in front of Calry do not use.
    pub(super) from_calry: bool,
}

pub(super) fn parse_error(body: &[u8]) -> ErrorBody {
    let body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let message = match body.get("message") {
        Some(Value::String(message)) => Some(message.clone()),
        Some(Value::Array(all)) => Some(
            all.iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join("; "),
        ),
        _ => None,
    };
    let from_calry = message.is_some()
        && ["timestamp", "path", "details", "statusCode"]
            .iter()
            .any(|k| body.contains_key(*k));
    ErrorBody {
        message: message.filter(|message| !message.is_empty()),
        from_calry,
    }
}

/// Parses the beginning of a longer body. It cannot be scrubbed reliably, so its message is not used.
pub(super) fn parse_cut_error(beginning: Vec<u8>) -> ErrorBody {
    let beginning = beginning.trim_ascii_start();
    ErrorBody {
        message: None,
        from_calry: beginning.is_empty() || beginning.starts_with(b"{"),
    }
}

/// Writes the body of an update: the enabled fields of every group, each as `true`, and no others (traps 1 and 2).
#[must_use]
pub fn write_update<'a>(update: &'a Update) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        icon: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        partner_key: Option<BTreeMap<&'static str, BTreeMap<&'a str, &'a str>>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fields_to_sync: Option<BTreeMap<&'a str, BTreeMap<&'a str, bool>>>,
    }
    let values_of = |values: &'a BTreeMap<String, Secret>| {
        values
            .iter()
            .map(|(k, v)| (k.as_str(), v.expose()))
            .collect()
    };
    let on = |fields: &'a FieldSet| fields.iter().map(|field| (field.as_str(), true)).collect();
    let body = Body {
        icon: update.icon.as_deref(),
        partner_key: update.partner_key.as_ref().map(|key| {
            KeySection::BOTH
                .iter()
                .filter_map(|section| Some((section.key(), values_of(key.section(*section)?))))
                .collect()
        }),
        fields_to_sync: update
            .fields
            .as_ref()
            .map(|groups| groups.iter().map(|(g, f)| (g.as_str(), on(f))).collect()),
    };
    #[expect(
        clippy::expect_used,
        reason = "the body is made of maps with string keys"
    )]
    serde_json::to_vec(&body).expect("maps with string keys serialize")
}

/// The unparsed items of a list: an invalid item does not affect the others, and none is parsed before its size is known.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX_DEFINITIONS {
                        return Err(serde::de::Error::custom("too long"));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(List).map(Items)
    }
}

pub(super) fn parse_object(body: &[u8]) -> Result<Map<String, Value>, BodyError> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            BodyError::Shape("it is not an object".to_owned())
        } else {
            BodyError::NotJson
        }
    })
}

fn read_live(
    mut object: Map<String, Value>,
    learn: impl FnMut(&Secret),
) -> Result<Live, Unreadable> {
    let bounded = learn_values(object.get("partnerKey").unwrap_or(&Value::Null), learn);
    let value = |_: &Provider, _: KeySection, _: &str, value| match value {
        Value::String(text) => Ok(LiveValue::from(Secret::new(text))),
        // It may stand for a hidden value.
        Value::Null => Ok(LiveValue::Mask),
        _ => Err("is not a string"),
    };
    read_definition(&mut object, value).map(|live| match bounded {
        Ok(()) => live,
        Err(problem) => Live {
            partner_key: LivePartnerKey::default(),
            problems: LiveProblems {
                partner_key: Some(problem),
                ..live.problems
            },
            ..live
        },
    })
}

/// Parses one definition; `value` parses the values below `partnerKey`. An invalid value makes only its part of the
/// definition unreadable, but an invalid provider or id the whole definition.
pub(super) fn read_definition(
    object: &mut Map<String, Value>,
    value: impl Fn(&Provider, KeySection, &str, Value) -> Result<LiveValue, &'static str>,
) -> Result<Live, Unreadable> {
    let partner_key = object.remove("partnerKey").unwrap_or_default();
    let provider = take_text(object, "provider")
        .and_then(|name| Provider::parse(&name).map_err(|e| format!("`provider` is invalid: {e}")))
        .map_err(|problem| Unreadable {
            provider: None,
            problem,
        })?;
    let read = || {
        let mut problems = LiveProblems::default();
        let icon = take_optional_text(object, "icon").unwrap_or_else(|problem| {
            problems.icon = Some(problem);
            None
        });
        let partner_key = read_partner_key(
            partner_key,
            |section, name, json| value(&provider, section, name, json),
            &mut problems,
        );
        Ok(Live {
            id: take_text(object, "id")?,
            name: take_optional_text(object, "name")?.unwrap_or_default(),
            provider: provider.clone(),
            icon,
            partner_key,
            fields: read_fields(object.remove("fieldsToSync"), &mut problems),
            updated_at: take_optional_text(object, "updatedAt")?.unwrap_or_default(),
            problems,
        })
    };
    read().map_err(|problem| Unreadable {
        provider: Some(provider.clone()),
        problem,
    })
}

pub(super) fn take_text(object: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match object.remove(key) {
        Some(Value::String(text)) => Ok(text),
        None => Err(format!("`{key}` is absent")),
        Some(_) => Err(format!("`{key}` is not a string")),
    }
}

/// A string, which may be absent or `null`.
fn take_optional_text(
    object: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<String>, String> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{key}` is not a string")),
    }
}

/// Passes every value below `partnerKey` to `learn`, whatever its shape. The number of values is limited, because each one
/// makes scrubbing slower.
fn learn_values(partner_key: &Value, mut learn: impl FnMut(&Secret)) -> Result<(), String> {
    let mut below = vec![partner_key];
    let mut learned = 0;
    while let Some(value) = below.pop() {
        let secret = match value {
            Value::Object(values) => {
                below.extend(values.values());
                continue;
            }
            Value::Array(values) => {
                below.extend(values);
                continue;
            }
            Value::String(text) => Secret::new(text.as_str()),
            Value::Number(number) => Secret::new(number.to_string()),
            Value::Null | Value::Bool(_) => continue,
        };
        if learned == MAX_VALUES {
            return Err(format!("`partnerKey` has more than {MAX_VALUES} values"));
        }
        learn(&secret);
        learned += 1;
    }
    Ok(())
}

fn read_partner_key(
    value: Value,
    read: impl Fn(KeySection, &str, Value) -> Result<LiveValue, &'static str>,
    problems: &mut LiveProblems,
) -> LivePartnerKey {
    let mut key = LivePartnerKey::default();
    let mut sections = match value {
        Value::Null => return key,
        Value::Object(sections) => sections,
        _ => {
            problems.partner_key = Some("`partnerKey` is not an object".to_owned());
            return key;
        }
    };
    for section in KeySection::BOTH {
        let secret = |(name, value): (String, Value)| match read(section, &name, value) {
            Ok(value) => Ok((name, value)),
            Err(problem) => Err(format!(
                "`partnerKey.{section}.{}` {problem}",
                quote_name(&name)
            )),
        };
        let values = match sections.remove(section.key()) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(values)) => values.into_iter().map(secret).collect::<Result<_, _>>(),
            Some(_) => Err(format!("`partnerKey.{section}` is not an object")),
        };
        match values {
            Ok(values) => *key.section_mut(section) = Some(values),
            Err(problem) => match section {
                KeySection::Headers => problems.headers = Some(problem),
                KeySection::QueryParams => problems.query_params = Some(problem),
            },
        }
    }
    let unknown = sections.iter().find(|(_, value)| !value.is_null());
    problems.unknown_section = unknown.map(|(name, _)| {
        format!(
            "`partnerKey.{}` is unknown to this version of calry-gitops",
            quote_name(name)
        )
    });
    key
}

fn read_fields(value: Option<Value>, problems: &mut LiveProblems) -> LiveFields {
    let groups = match value {
        Some(Value::Object(groups)) => groups,
        // It is more likely that Calry omits the fields than that it has none.
        None | Some(Value::Null) => {
            problems.fields = Some("`fieldsToSync` is absent".to_owned());
            return LiveFields::new();
        }
        Some(_) => {
            problems.fields = Some("`fieldsToSync` is not an object".to_owned());
            return LiveFields::new();
        }
    };
    let mut read = LiveFields::new();
    for (group, value) in groups {
        let field = |(field, value): (String, Value)| match value {
            Value::Null => None,
            Value::Bool(on) => Some(Ok((field, on))),
            _ => Some(Err(format!(
                "`fieldsToSync.{}.{}` is neither true nor false",
                quote_name(&group),
                quote_name(&field)
            ))),
        };
        let fields = match value {
            Value::Null => continue,
            Value::Object(fields) => fields
                .into_iter()
                .filter_map(field)
                .collect::<Result<_, _>>(),
            _ => Err(format!(
                "`fieldsToSync.{}` is not an object",
                quote_name(&group)
            )),
        };
        match fields {
            Ok(fields) => drop(read.insert(group, fields)),
            Err(problem) => drop(problems.groups.insert(group, problem)),
        }
    }
    read
}

/// Makes a name from an answer safe to print in a sentence.
fn quote_name(name: &str) -> String {
    ellipsize(&printable(name), 80)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::PartnerKey;

    fn item(provider: &str) -> Value {
        json!({
            "id": "1", "name": "n", "provider": provider, "updatedAt": "2026-01-01T00:00:00.000Z", "new": [1],
            "fieldsToSync": {"listing": {"name": true, "type": false}, "later": {}},
        })
    }

    fn list(items: &[Value]) -> Listing {
        parse_listing(json!(items).to_string().as_bytes(), |_| ()).unwrap()
    }

    fn with(path: &str, value: Value) -> Value {
        let mut item = item("HOSTAWAY");
        item[path] = value;
        item
    }

    #[test]
    fn unknown_providers_and_fields_are_accepted() {
        let live = &list(&[item("BRAND_NEW")]).live[0];
        assert_eq!(live.provider.as_str(), "BRAND_NEW");
        assert_eq!(live.fields.keys().collect::<Vec<_>>(), ["later", "listing"]);
    }

    #[test]
    fn null_is_absent() {
        let mut item = with("partnerKey", json!({"headers": null, "queryParams": {}}));
        item["icon"] = Value::Null;
        let live = &list(&[item, self::item("ELINA"), {
            let mut item = self::item("GUESTY");
            item["partnerKey"] = Value::Null;
            item
        }])
        .live;
        assert_eq!(live.len(), 3);
        assert_eq!(live[2].icon, None);
        assert_eq!(
            live[2].partner_key,
            LivePartnerKey {
                headers: None,
                query_params: Some(BTreeMap::new())
            }
        );
        assert!(
            live[..2]
                .iter()
                .all(|l| l.partner_key == LivePartnerKey::default())
        );
    }

    #[test]
    fn a_null_field_or_group_is_absent_and_a_null_value_is_unknown() {
        let mut item = with(
            "fieldsToSync",
            json!({"listing": {"name": true, "new": null}, "later": null}),
        );
        item["partnerKey"] = json!({"headers": {"a": null}, "later": null});
        item["updatedAt"] = Value::Null;
        item["name"] = Value::Null;
        let live = &list(&[item]).live[0];
        assert_eq!(
            live.fields,
            LiveFields::from([("listing".into(), BTreeMap::from([("name".into(), true)]))])
        );
        assert_eq!(
            live.partner_key.headers,
            Some(BTreeMap::from([("a".into(), LiveValue::Mask)]))
        );
        assert_eq!((live.updated_at.as_str(), live.name.as_str()), ("", ""));
        assert_eq!(live.problems, LiveProblems::default());
    }

    #[test]
    fn an_unreadable_part_does_not_affect_the_others_and_shows_no_value() {
        use crate::model::DefinitionPart::{FieldsToSync, Icon, PartnerKey};
        let key = json!({"headers": {"a": "1"}, "queryParams": {"b": "2"}});
        let changed = |path: &str, value: Value| {
            let mut key = key.clone();
            key[path] = value;
            with("partnerKey", key)
        };
        let many = json!({"headers": {}, "other": vec!["hunter2"; MAX_VALUES + 1]});
        let values: BTreeMap<String, &str> = (0..=MAX_VALUES)
            .map(|n| (n.to_string(), "hunter2"))
            .collect();
        let cases = [
            (
                changed("headers", json!({"x-api-key": 12_345_678})),
                PartnerKey,
                1,
            ),
            (changed("queryParams", json!(["hunter2"])), PartnerKey, 1),
            (changed("cookies", json!({"sid": "hunter2"})), PartnerKey, 2),
            (with("partnerKey", json!("hunter2")), PartnerKey, 0),
            (with("partnerKey", many), PartnerKey, 0),
            (
                with("partnerKey", json!({"headers": values})),
                PartnerKey,
                0,
            ),
            (
                with("fieldsToSync", json!({"listing": {"name": "hunter2"}})),
                FieldsToSync,
                0,
            ),
            (
                with("fieldsToSync", json!({"listing": "hunter2"})),
                FieldsToSync,
                0,
            ),
            (with("fieldsToSync", Value::Null), FieldsToSync, 0),
            (with("fieldsToSync", json!(["hunter2"])), FieldsToSync, 0),
            (with("icon", json!(["hunter2"])), Icon, 0),
        ];
        for (item, part, sections) in cases {
            let listing = list(&[self::item("GUESTY"), item, self::item("ELINA")]);
            assert_eq!((listing.live.len(), listing.unreadable.len()), (3, 0));
            let live = listing
                .live
                .iter()
                .find(|live| live.provider.as_str() == "HOSTAWAY")
                .unwrap();
            for other in crate::model::DefinitionPart::ALL {
                assert_eq!(
                    live.problems.part(other).is_some(),
                    other == part,
                    "{:?}",
                    live.problems
                );
            }
            let read = KeySection::BOTH
                .into_iter()
                .filter(|section| live.partner_key.section(*section).is_some())
                .count();
            assert_eq!(read, sections, "{:?}", live.problems);
            let shown = format!("{:?}", live.problems);
            assert!(
                !shown.contains("hunter2") && !shown.contains("12345678"),
                "{shown}"
            );
        }
    }

    #[test]
    fn an_unreadable_group_does_not_affect_the_others() {
        let live = &list(&[with(
            "fieldsToSync",
            json!({"a": {"x": 1}, "b": {"y": true}, "c": [1]}),
        )])
        .live[0];
        assert_eq!(live.fields.keys().collect::<Vec<_>>(), ["b"]);
        let problem = |group| live.problems.group(group);
        assert!(
            problem("a").is_some_and(|problem| problem.contains("fieldsToSync.a.x"))
                && problem("c").is_some()
        );
        assert_eq!(problem("b"), None);
    }

    #[test]
    fn a_malformed_definition_does_not_affect_the_others() {
        for broken in [
            with("updatedAt", json!(12_345_678)),
            with("id", Value::Null),
            with("name", json!(["hunter2"])),
        ] {
            let listing = list(&[item("GUESTY"), broken, item("ELINA")]);
            let live: Vec<_> = listing.live.iter().map(|l| l.provider.as_str()).collect();
            assert_eq!(live, ["ELINA", "GUESTY"]);
            assert_eq!(listing.unreadable.len(), 1);
            let unreadable = &listing.unreadable[0];
            assert_eq!(
                unreadable.provider.as_ref().map(Provider::as_str),
                Some("HOSTAWAY")
            );
            assert!(
                !unreadable.problem.contains("hunter2") && !unreadable.problem.contains("12345678")
            );
        }
    }

    #[test]
    fn an_item_without_a_provider_is_named_by_its_position() {
        let listing = list(&[item("GUESTY"), item("hunter2"), json!("hunter2"), json!({})]);
        assert_eq!(listing.live.len(), 1);
        let said: Vec<_> = listing.unreadable.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3);
        assert!(
            said[0].contains("item 2 of the list") && !said.concat().contains("hunter2"),
            "{said:?}"
        );
    }

    #[test]
    fn neither_definition_of_a_duplicate_provider_is_used() {
        let listing = list(&[
            item("GUESTY"),
            item("HOSTAWAY"),
            with("icon", json!(1)),
            item("GUESTY"),
        ]);
        assert!(listing.live.is_empty());
        let said: Vec<_> = listing.unreadable.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            ["GUESTY", "HOSTAWAY"]
                .map(|p| format!("Calry's definition of {p} cannot be read: it is listed 2 times"))
        );
    }

    #[test]
    fn an_answer_that_is_not_a_list_is_refused_as_a_whole() {
        assert_eq!(parse_listing(b"<html>", |_| ()), Err(BodyError::NotJson));
        assert_eq!(parse_listing(b"[{}", |_| ()), Err(BodyError::NotJson));
        assert_eq!(parse_listing(b"\xff", |_| ()), Err(BodyError::NotJson));
        assert!(matches!(
            parse_listing(br#"{"a": 1}"#, |_| ()),
            Err(BodyError::Shape(_))
        ));
        let many = format!("[{}0]", "0,".repeat(MAX_DEFINITIONS));
        assert!(matches!(
            parse_listing(many.as_bytes(), |_| ()),
            Err(BodyError::Shape(_))
        ));
    }

    #[test]
    fn a_nested_or_oversized_item_does_not_affect_the_others() {
        let (deep, long) = (
            "[".repeat(100_000) + &"]".repeat(100_000),
            "x".repeat(MAX_DEFINITION),
        );
        let body = format!(
            r#"[{deep}, {{"partnerKey": {deep}}}, "{long}", {}]"#,
            item("GUESTY")
        );
        let listing = parse_listing(body.as_bytes(), |_| ()).unwrap();
        assert_eq!((listing.live.len(), listing.unreadable.len()), (1, 3));
    }

    #[test]
    fn the_largest_definition_is_read_and_a_larger_one_is_named() {
        let of = |len: usize| {
            let empty = with("icon", json!("")).to_string().len();
            let item = with("icon", json!("x".repeat(len - empty)));
            assert_eq!(item.to_string().len(), len);
            list(&[item])
        };
        assert_eq!(of(MAX_DEFINITION).live.len(), 1);
        assert_eq!(
            of(MAX_DEFINITION + 1).unreadable[0].problem,
            "item 1 of the list: it is larger than 1 MiB"
        );
    }

    #[test]
    fn every_value_below_partner_key_is_learned_even_of_an_unusable_definition() {
        let mut learned = Vec::new();
        let mut broken = with(
            "partnerKey",
            json!({"headers": {"a": "s1"}, "other": [{"b": "s2"}, 33_333], "c": true}),
        );
        broken["provider"] = Value::Null;
        parse_listing(json!([broken]).to_string().as_bytes(), |s| {
            learned.push(s.expose().to_owned())
        })
        .unwrap();
        learned.sort();
        assert_eq!(learned, ["33333", "s1", "s2"]);
    }

    #[test]
    fn an_update_names_only_enabled_fields_and_sends_only_the_given_parts() {
        let body = |u: &Update| serde_json::from_slice::<Value>(&super::write_update(u)).unwrap();
        assert_eq!(body(&Update::default()), json!({}));
        let update = Update {
            icon: Some("https://x/".into()),
            partner_key: Some(PartnerKey {
                headers: Some(BTreeMap::from([("a".to_owned(), Secret::new("b\"c"))])),
                query_params: None,
            }),
            fields: Some(BTreeMap::from([
                (
                    "listing".to_owned(),
                    FieldSet::from(["name".to_owned(), "type".to_owned()]),
                ),
                ("none".to_owned(), FieldSet::new()),
            ])),
        };
        assert_eq!(
            body(&update),
            json!({
                "icon": "https://x/",
                "partnerKey": {"headers": {"a": "b\"c"}},
                "fieldsToSync": {"listing": {"name": true, "type": true}, "none": {}},
            })
        );
    }

    #[test]
    fn the_form_of_an_error_shows_whose_it_is_and_several_messages_are_joined() {
        let read = |body: &str| parse_error(body.as_bytes());
        let calrys = |message: &str| ErrorBody {
            message: Some(message.to_owned()),
            from_calry: true,
        };
        assert_eq!(
            read(r#"{"message": "No.", "path": "/x", "details": [1]}"#),
            calrys("No.")
        );
        assert_eq!(
            read(r#"{"statusCode": 400, "message": ["a", "b", 3], "error": "x"}"#),
            calrys("a; b")
        );
        // An answer of some gateways.
        let gateways = ErrorBody {
            message: Some("Forbidden".to_owned()),
            from_calry: false,
        };
        assert_eq!(read(r#"{"message": "Forbidden"}"#), gateways);
        for other in [
            "<html>",
            "\"text\"",
            r#"{"message": {"a": 1}, "path": "/x"}"#,
            r#"{"error": "x"}"#,
            "",
        ] {
            assert_eq!(
                read(other),
                ErrorBody {
                    message: None,
                    from_calry: false
                },
                "{other}"
            );
        }
        assert!(
            !parse_cut_error(b"<html>".to_vec()).from_calry
                && parse_cut_error(b"\n{\"message".to_vec()).from_calry
        );
    }
}
