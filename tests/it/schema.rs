//! The JSON Schema that `schema` prints says what the loader says, by the judgement of a validator that is not ours.

use std::fs;

use crate::support::{World, repository};
use boon::{Compiler, Schemas};
use calry_gitops::desired::definitions::{
    DEFINITION_SCHEMA, Pin, WORKSPACE_SCHEMA, definition_schema, load, workspace_schema,
};
use calry_gitops::model::{Catalogue, Code, Provider};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A schema's verdict on values.
struct Judge(Schemas, boon::SchemaIndex);

impl Judge {
    fn of(schema: &str) -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        let schema: Value = serde_json::from_str(schema).unwrap();
        assert_eq!(
            schema["$schema"],
            "https://json-schema.org/draft/2020-12/schema"
        );
        compiler
            .add_resource("http://schemas/it.json", schema)
            .unwrap();
        let at = compiler
            .compile("http://schemas/it.json", &mut schemas)
            .unwrap();
        Self(schemas, at)
    }

    fn takes(&self, value: &Value) -> bool {
        self.0.validate(value, self.1).is_ok()
    }
}

/// The names that the schema of these tests knows, besides those that are built in.
fn known() -> Catalogue {
    let mut known = Catalogue::built_in();
    ["A", "GUESTY", "LODGIFY"]
        .iter()
        .for_each(|provider| known.add_provider(provider));
    known.add_provider(&"A".repeat(64));
    known.add_fields("rates", ["daily", "weekly"].map(str::to_owned));
    known.add_fields("x", ["a", "é"].map(str::to_owned));
    known.add_fields(&"n".repeat(100), []);
    known
}

/// The loader's verdict on a text, in a file that is named after the provider if it has a valid one. A name that is not
/// known counts as an error, and an empty group does not.
fn loads(text: &str, value: &Value) -> bool {
    let provider = value["provider"]
        .as_str()
        .and_then(|name| Provider::parse(name).ok());
    let dir = tempfile::tempdir().unwrap();
    let stem = provider.map_or_else(|| "hostaway".to_owned(), |provider| provider.file_stem());
    fs::write(dir.path().join(format!("{stem}.yaml")), text).unwrap();
    fs::write(
        dir.path().join(DEFINITION_SCHEMA),
        SCHEMA.with(Clone::clone),
    )
    .unwrap();
    let mut loaded = load(dir.path()).unwrap();
    loaded.check();
    let unknown = |code| matches!(code, Code::UnknownProvider | Code::UnknownField);
    !loaded.has_errors() && !loaded.diagnostics.iter().any(|d| unknown(d.code))
}

thread_local!(static SCHEMA: String = definition_schema(&known()));

/// JSON is YAML, so that one text serves both.
fn both(judge: &Judge, value: &Value) -> (bool, bool) {
    let alone = without_nulls(value);
    (judge.takes(value), loads(&alone.to_string(), &alone))
}

/// The definition without the parts that are not managed although the shared definition has them: the schema does not know
/// whether there is one.
fn without_nulls(definition: &Value) -> Value {
    let mut definition = definition.clone();
    for (pointer, is_part) in [
        (
            "",
            &(|key: &str| ["icon", "hold"].contains(&key)) as &dyn Fn(&str) -> bool,
        ),
        ("/partnerKey", &|key| {
            ["headers", "queryParams"].contains(&key)
        }),
        ("/fieldsToSync", &|key| {
            ["listing", "rates", "x"].contains(&key) || key.len() == 100
        }),
    ] {
        if let Some(map) = definition
            .pointer_mut(pointer)
            .and_then(Value::as_object_mut)
        {
            map.retain(|key, value| !(value.is_null() && is_part(key)));
        }
    }
    definition
}

fn good() -> Value {
    json!({
        "provider": "HOSTAWAY",
        "icon": "https://cdn.example.com/icons/hostaway.png",
        "partnerKey": {
            "headers": {"x-api-key": "${secret:hostaway-api-key}", "authorization": "Bearer ${secret:hostaway-token}"},
            "queryParams": {"client id": "acme $5 $${x}"},
        },
        "fieldsToSync": {"listing": ["name", "type"], "rates": {"daily": true, "weekly": false}},
        "hold": {"until": "2099-12-31", "reason": "Hostaway migration, OPS-114"},
    })
}

#[test]
fn the_command_prints_what_is_committed_beside_the_example_files() {
    let world = World::default();
    for (args, name) in [
        (&["schema"][..], DEFINITION_SCHEMA),
        (&["schema", "definition"], DEFINITION_SCHEMA),
        (&["schema", "workspace"], WORKSPACE_SCHEMA),
    ] {
        let committed = fs::read_to_string(repository().join("definitions").join(name)).unwrap();
        assert_eq!(
            world.run(args).exits(0).out,
            committed,
            "write it again: calry-gitops schema > definitions/{name}"
        );
    }
    world.run(&["schema", "other"]).exits(64);
}

#[test]
fn the_example_files_name_their_schema_and_fit_it() {
    let (definition, workspace) = (
        Judge::of(&definition_schema(&known())),
        Judge::of(&workspace_schema()),
    );
    for entry in fs::read_dir(repository().join("definitions")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().unwrap() != "yaml" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let (judge, schema) = match path.file_name().unwrap().to_str().unwrap() {
            "workspace.yaml" => (&workspace, WORKSPACE_SCHEMA),
            _ => (&definition, DEFINITION_SCHEMA),
        };
        assert_eq!(
            text.lines().next().unwrap(),
            format!("# yaml-language-server: $schema={schema}")
        );
        assert!(
            judge.takes(&serde_yaml::from_str(&text).unwrap()),
            "{}",
            path.display()
        );
    }
}

#[test]
fn everything_that_a_person_can_write_has_a_description() {
    fn walk(path: &str, schema: &Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            assert!(
                property["description"]
                    .as_str()
                    .is_some_and(|text| text.ends_with('.')),
                "{path}"
            );
            walk(&path, property);
        }
        if let Some(values) = schema["additionalProperties"].as_object() {
            assert!(values.contains_key("description"), "{path}/*");
        }
    }
    for schema in [definition_schema(&known()), workspace_schema()] {
        walk("", &serde_json::from_str(&schema).unwrap());
    }
}

#[test]
fn schema_and_loader_agree_on_what_is_wrong() {
    let judge = Judge::of(&definition_schema(&known()));
    assert_eq!(both(&judge, &good()), (true, true));
    let name = |length: usize| "n".repeat(length);
    let headers = |count: usize| {
        (0..count)
            .map(|n| (format!("h{n}"), json!("x")))
            .collect::<serde_json::Map<_, _>>()
    };
    for (pointer, key, value, fits) in [
        ("", "provider", json!("Hostaway"), false),
        ("", "provider", json!("A".repeat(64)), true),
        ("", "provider", json!("A".repeat(65)), false),
        ("", "provider", json!(null), false),
        ("", "icon", json!("ftp://x/y"), false),
        ("", "icon", json!("HTTPS://x?y"), true),
        ("", "icon", json!("https://u:p@x/"), false),
        ("", "icon", json!("https://x/@y"), true),
        ("", "icon", json!("https://x/ y"), false),
        ("", "icon", json!("//cdn/x"), false),
        ("", "icon", json!(format!("https://x/{}", name(2038))), true),
        (
            "",
            "icon",
            json!(format!("https://x/{}", name(2039))),
            false,
        ),
        ("", "icon", json!(null), true),
        ("", "partnerkey", json!({}), false),
        ("", "partnerKey", json!({}), true),
        ("", "partnerKey", json!([]), false),
        ("/partnerKey", "cookies", json!({}), false),
        ("/partnerKey", "headers", json!(headers(100)), true),
        ("/partnerKey", "headers", json!(headers(101)), false),
        ("/partnerKey/headers", "a b", json!("x"), false),
        ("/partnerKey/headers", "!#$%&'*+-.^_`|~", json!("x"), true),
        ("/partnerKey/headers", &name(256), json!("x"), true),
        ("/partnerKey/headers", &name(257), json!("x"), false),
        ("/partnerKey/headers", "", json!("x"), false),
        ("/partnerKey/headers", "x", json!("a\nb"), false),
        ("/partnerKey/headers", "x", json!(2), false),
        ("/partnerKey/headers", "x", json!(""), true),
        ("/partnerKey/queryParams", "", json!("x"), false),
        ("/partnerKey/queryParams", "x", json!("a b $"), true),
        ("/partnerKey/queryParams", "x", json!("a\nb $"), false),
        ("/partnerKey/queryParams", "x", json!(" a"), false),
        ("/partnerKey/queryParams", "x", json!("a "), false),
        ("/partnerKey/queryParams", "x", json!("\u{a0}"), false),
        ("/partnerKey/queryParams", "x", json!("a\u{2028}b"), false),
        ("/partnerKey/queryParams", "x", json!("${env:HOME}"), false),
        (
            "/partnerKey/queryParams",
            "x",
            json!("$${env:HOME} $$"),
            true,
        ),
        (
            "/partnerKey/queryParams",
            "x",
            json!("$$$${ ${secret:a}${secret:b-c.d}$"),
            true,
        ),
        ("/partnerKey/queryParams", "x", json!("${secret:A}"), false),
        ("/partnerKey/queryParams", "x", json!("${secret:-a}"), false),
        ("/partnerKey/queryParams", "x", json!("${secret:a"), false),
        ("/partnerKey/queryParams", "x", json!("${secret:}"), false),
        (
            "/partnerKey/queryParams",
            "x",
            json!(format!("${{secret:{}}}", name(253))),
            true,
        ),
        (
            "/partnerKey/queryParams",
            "x",
            json!(format!("${{secret:{}}}", name(254))),
            false,
        ),
        ("/partnerKey/queryParams", "x", json!(name(16 << 10)), true),
        (
            "/partnerKey/queryParams",
            "x",
            json!(name((16 << 10) + 1)),
            false,
        ),
        ("", "fieldsToSync", json!({}), true),
        ("", "fieldsToSync", json!(["listing"]), false),
        ("/fieldsToSync", "headers", json!([]), false),
        ("/fieldsToSync", "bad name", json!([]), false),
        ("/fieldsToSync", &name(100), json!([]), true),
        ("/fieldsToSync", &name(101), json!([]), false),
        ("/fieldsToSync", "x", json!(null), true),
        ("/partnerKey", "headers", json!(null), true),
        ("", "partnerKey", json!(null), false),
        ("", "hold", json!(null), true),
        ("/fieldsToSync", "x", json!("name"), false),
        ("/fieldsToSync", "x", json!(["a", "a"]), false),
        ("/fieldsToSync", "x", json!(["b"]), false),
        ("/fieldsToSync", "x", json!({"b": true}), false),
        ("/fieldsToSync", "x", json!({"a": true, "é": false}), true),
        ("/fieldsToSync", "y", json!([]), false),
        ("", "provider", json!("NEWCOMER"), false),
        ("/fieldsToSync", "x", json!(["a b"]), false),
        ("/fieldsToSync", "x", json!([true]), false),
        ("/fieldsToSync", "x", json!({"a": "yes"}), false),
        ("/fieldsToSync", "x", json!({"": true}), false),
        ("", "hold", json!({"reason": "why"}), false),
        ("", "hold", json!({"until": "2099-12-31"}), true),
        ("/hold", "until", json!("31.12.2099"), false),
        ("/hold", "until", json!(20991231), false),
        ("/hold", "reason", json!(name(500)), true),
        ("/hold", "reason", json!(name(501)), false),
        ("/hold", "since", json!("2099-12-31"), false),
    ] {
        let mut definition = good();
        definition.pointer_mut(pointer).unwrap()[key] = value;
        let shown = definition.to_string().chars().take(400).collect::<String>();
        assert_eq!(
            both(&judge, &definition),
            (fits, fits),
            "(schema, loader) of {pointer}/{key}: {shown}"
        );
    }
    for not_a_map in [json!(null), json!([]), json!("x")] {
        assert_eq!(both(&judge, &not_a_map), (false, false));
    }
    let mut nameless = good();
    nameless.as_object_mut().unwrap().remove("provider");
    assert_eq!(both(&judge, &nameless), (false, false));
}

#[test]
fn what_a_schema_cannot_say_is_left_to_the_loader() {
    let judge = Judge::of(&definition_schema(&known()));
    let guesty = |key: &str, value: Value| json!({"provider": "GUESTY", key: value});
    let icon = |url: &str| guesty("icon", json!(url));
    let long = "ä".repeat(9_000);
    for (why, text, as_others_read_it) in [
        (
            "a key twice",
            "icon: https://x/1\nicon: https://x/2",
            icon("https://x/2"),
        ),
        ("the name of the file", "", json!({"provider": "LODGIFY"})),
        ("an anchor", "icon: &x https://x/1", icon("https://x/1")),
        ("a tag", "icon: !!str https://x/1", icon("https://x/1")),
        (
            "a second document",
            "---\nprovider: GUESTY",
            json!({"provider": "GUESTY"}),
        ),
        (
            "a header's name in two cases",
            "partnerKey: {headers: {x-a: b, X-A: c}}",
            guesty("partnerKey", json!({"headers": {"x-a": "b", "X-A": "c"}})),
        ),
        (
            "a day that is none",
            "hold: {until: 2099-02-30, reason: x}",
            guesty("hold", json!({"until": "2099-02-30", "reason": "x"})),
        ),
        (
            "a host that is none",
            "icon: 'https://[x/'",
            icon("https://[x/"),
        ),
        (
            "the spelling of a boolean",
            "fieldsToSync: {listing: {name: True}}",
            guesty("fieldsToSync", json!({"listing": {"name": true}})),
        ),
        (
            "a length in bytes",
            &format!("partnerKey: {{queryParams: {{a: {long}}}}}"),
            guesty("partnerKey", json!({"queryParams": {"a": long}})),
        ),
    ] {
        let provider = as_others_read_it["provider"].as_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("guesty.yaml"),
            format!("provider: {provider}\n{text}\n"),
        )
        .unwrap();
        assert!(
            load(dir.path()).unwrap().has_errors(),
            "to the loader, {why} is no error"
        );
        assert!(judge.takes(&as_others_read_it), "the schema knows of {why}");
    }
}

#[test]
fn a_workspace_is_judged_alike() {
    let judge = Judge::of(&workspace_schema());
    for (value, fits) in [
        (json!({"slug": "acme-production_2.x"}), true),
        (json!({"slug": "a".repeat(128)}), true),
        (json!({"slug": "a".repeat(129)}), false),
        (json!({"slug": ""}), false),
        (json!({"slug": "a b"}), false),
        (json!({"slug": 7}), false),
        (json!({}), false),
        (json!({"slug": "a", "name": "b"}), false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("guesty.yaml"), "provider: GUESTY\n").unwrap();
        fs::write(dir.path().join("workspace.yaml"), value.to_string()).unwrap();
        let loaded = load(dir.path()).unwrap();
        assert_eq!(
            (judge.takes(&value), matches!(loaded.pin, Pin::Slug(_))),
            (fits, fits),
            "{value}"
        );
    }
}

/// A value that replaces another one.
fn value() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec![
        "",
        "name",
        "a b",
        "HOSTAWAY",
        "https://x/",
        "https://",
        "http://x",
        "2099-12-31",
        "2099",
        "${secret:a}",
        "${x}",
        "$${x}",
        "$",
        "true",
        "a\tb",
        "é",
        "x-y",
    ]);
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (0..9_i32).prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "provider",
        "icon",
        "partnerKey",
        "headers",
        "queryParams",
        "fieldsToSync",
        "listing",
        "hold",
        "until",
        "reason",
        "x",
        "a b",
        "",
        "é",
    ])
    .prop_map(str::to_owned)
}

/// Changes the node that a number leads to: another value, an entry more, an entry less.
fn mutate(node: &mut Value, way: &[usize], key: &str, value: &Value) {
    let children = match node {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    match (way, node) {
        ([first, rest @ ..], Value::Object(map)) if children > 0 => {
            mutate(
                map.values_mut().nth(first % children).unwrap(),
                rest,
                key,
                value,
            );
        }
        ([first, rest @ ..], Value::Array(list)) if children > 0 => {
            mutate(&mut list[first % children], rest, key, value)
        }
        (_, Value::Object(map)) if value.is_null() => _ = map.remove(key),
        (_, Value::Object(map)) => _ = map.insert(key.to_owned(), value.clone()),
        (_, Value::Array(list)) => list.push(value.clone()),
        (_, node) => *node = value.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn schema_and_loader_agree_however_a_definition_is_changed(
        changes in prop::collection::vec((prop::collection::vec(any::<usize>(), 0..4), key(), value()), 0..3),
    ) {
        thread_local!(static JUDGE: Judge = Judge::of(&definition_schema(&known())));
        let mut definition = good();
        for (way, key, value) in &changes {
            mutate(&mut definition, way, key, value);
        }
        let (schema, loader) = JUDGE.with(|judge| both(judge, &definition));
        prop_assert_eq!(schema, loader, "(schema, loader) of {}", definition);
    }
}
