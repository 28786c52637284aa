//! Calry's JSON, as `calry-openapi.yaml` describes it. Unknown keys are passed over; unknown providers, groups and fields
//! work.

use std::collections::{BTreeMap, BTreeSet};

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Listing, Unreadable};
use crate::model::{Live, LiveFields, PartnerKey, Provider, Secret, Update, Workspace};

#[derive(Deserialize)]
struct WireWorkspace {
    id: String,
    name: String,
    slug: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDefinition {
    id: String,
    #[serde(default)]
    name: Option<String>,
    provider: String,
    #[serde(default)]
    icon: Option<String>,
    #[serde(default)]
    partner_key: Option<WireKey>,
    #[serde(default)]
    fields_to_sync: Option<LiveFields>,
    updated_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireKey {
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    query_params: Option<BTreeMap<String, String>>,
}

/// Only as much as is needed to say whom a broken item is about.
#[derive(Deserialize)]
struct Named {
    provider: String,
}

#[derive(Deserialize)]
struct WireError {
    message: String,
}

/// The `message` of an error in the documented shape.
pub(super) fn message(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<WireError>(body).ok().map(|error| error.message)
}

pub(super) fn workspace(body: &[u8]) -> Result<Workspace, String> {
    let WireWorkspace { id, name, slug } = parse(body)?;
    Ok(Workspace { id, name, slug })
}

pub(super) fn definition(body: &[u8]) -> Result<Live, String> {
    live(parse(body)?)
}

pub(super) fn definitions(body: &[u8]) -> Result<Listing, String> {
    // Item by item, so that one that is malformed spoils only itself.
    let items: Vec<&RawValue> = parse(body)?;
    let mut listing = Listing::default();
    let mut seen = BTreeSet::new();
    let mut doubled = BTreeSet::new();
    for item in items {
        let bytes = item.get().as_bytes();
        match parse(bytes).and_then(live) {
            Ok(live) => {
                if !seen.insert(live.provider.clone()) {
                    doubled.insert(live.provider.clone());
                }
                listing.live.push(live);
            }
            Err(problem) => {
                let provider = parse::<Named>(bytes).ok().and_then(|named| Provider::parse(&named.provider).ok());
                listing
                    .unreadable
                    .push(Unreadable { provider, problem: format!("Calry's answer for it cannot be read: {problem}") });
            }
        }
    }
    listing.live.retain(|live| !doubled.contains(&live.provider));
    listing.live.sort_by(|a, b| a.provider.cmp(&b.provider));
    listing.unreadable.extend(doubled.into_iter().map(|provider| Unreadable {
        provider: Some(provider),
        problem: "Calry lists it more than once, and it is not clear which one counts".to_owned(),
    }));
    Ok(listing)
}

fn live(wire: WireDefinition) -> Result<Live, String> {
    let secrets = |half: BTreeMap<String, String>| half.into_iter().map(|(k, v)| (k, Secret::new(v))).collect();
    let key = wire
        .partner_key
        .map(|key| PartnerKey { headers: key.headers.map(secrets), query_params: key.query_params.map(secrets) });
    Ok(Live {
        id: wire.id,
        name: wire.name.unwrap_or_default(),
        provider: Provider::parse(&wire.provider)
            .map_err(|_| "its provider is not a name of the form [A-Z][A-Z0-9_]*".to_owned())?,
        icon: wire.icon,
        partner_key: key.unwrap_or_default(),
        fields: wire.fields_to_sync.unwrap_or_default(),
        updated_at: wire.updated_at,
    })
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| {
        // The parser's own words may quote a value, and a value may be a partner key.
        let what = match error.classify() {
            serde_json::error::Category::Io | serde_json::error::Category::Syntax => "it is not JSON",
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data => "a key is missing or has a value of the wrong type",
        };
        format!("{what}, line {} column {}", error.line(), error.column())
    })
}

/// The body of an update.
pub(super) struct Body<'a>(pub(super) &'a Update);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Update { icon, partner_key, fields } = self.0;
        let mut map = serializer.serialize_map(None)?;
        if let Some(icon) = icon {
            map.serialize_entry("icon", icon)?;
        }
        if let Some(key) = partner_key {
            let exposed = |half: &BTreeMap<String, Secret>| -> BTreeMap<String, String> {
                half.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
            };
            let mut halves = BTreeMap::new();
            if let Some(headers) = &key.headers {
                halves.insert("headers", exposed(headers));
            }
            if let Some(params) = &key.query_params {
                halves.insert("queryParams", exposed(params));
            }
            map.serialize_entry("partnerKey", &halves)?;
        }
        if let Some(groups) = fields {
            let on: BTreeMap<&str, BTreeMap<&str, bool>> = groups
                .iter()
                .map(|(group, on)| (group.as_str(), on.iter().map(|field| (field.as_str(), true)).collect()))
                .collect();
            map.serialize_entry("fieldsToSync", &on)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"id":"1","name":"A","provider":"NEWER","fieldsToSync":{"listing":{"name":true},"rates":{"x":false}},
        "partnerKey":{"headers":{"h":"canary"},"unknown":1},"unknown":[{}],"createdAt":"c","updatedAt":"u"}"#;

    #[test]
    fn unknown_keys_providers_and_groups_are_taken_in_stride() {
        let live = definition(ONE.as_bytes()).unwrap();
        assert_eq!(live.provider.as_str(), "NEWER");
        assert_eq!(live.fields.len(), 2);
    }

    #[test]
    fn a_malformed_item_spoils_only_itself() {
        let body = format!(
            r#"[{ONE}, {{"provider":"BAD","partnerKey":{{"headers":{{"h":["canary"]}}}}}}, 7, {{"provider":"low"}}]"#
        );
        let listing = definitions(body.as_bytes()).unwrap();
        assert_eq!(listing.live.len(), 1);
        assert_eq!(listing.unreadable.len(), 3);
        assert_eq!(listing.unreadable[0].provider.as_ref().unwrap().as_str(), "BAD");
        assert!(listing.unreadable.iter().all(|u| !u.problem.contains("canary")));
    }

    #[test]
    fn a_provider_that_is_listed_twice_is_not_guessed_at() {
        let listing = definitions(format!("[{ONE},{ONE}]").as_bytes()).unwrap();
        assert!(listing.live.is_empty());
        assert!(listing.unreadable[0].problem.contains("more than once"));
    }

    #[test]
    fn no_problem_quotes_a_value() {
        for body in
            [r#"{"id":"canary""#, r#"{"id":["canary"]}"#, r#"{"id":"1","provider":"canary","updatedAt":"u"}"#, "canary"]
        {
            let problem = definition(body.as_bytes()).unwrap_err();
            assert!(!problem.contains("canary"), "{problem}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = "[".repeat(100_000);
        assert!(definitions(deep.as_bytes()).is_err());
    }

    #[test]
    fn trap_2_only_fields_that_are_on_are_named() {
        let update = Update {
            fields: Some([("listing".to_owned(), ["name".to_owned()].into()), ("rates".to_owned(), [].into())].into()),
            ..Update::default()
        };
        let body = serde_json::to_string(&Body(&update)).unwrap();
        assert_eq!(body, r#"{"fieldsToSync":{"listing":{"name":true},"rates":{}}}"#);
    }
}
