//! What `pull` writes, what it leaves alone, and what it never does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::{Ran, World, live, repository};
use calry_gitops::desired::definitions::load;
use calry_gitops::desired::secrets::SecretSources;
use calry_gitops::model::{Catalogue, Live, LiveProblems, PartnerKey, Provider, Workspace};
use calry_gitops::pull::{FileState, Scope, SecretNames, prepare};
use calry_gitops::sandbox::{Config, Mask, Seed, Semantics};
use serde_json::{Value, json};

fn with_key(provider: &str, key: Value) -> Value {
    let mut definition = live(provider, &["name"], &["pictures"]);
    definition["partnerKey"] = key;
    definition
}

/// A workspace of one provider, and its file if there is a text for it.
fn world(definition: Value, text: &str) -> World {
    let world = World::with(json!([definition]), Config::default());
    if !text.is_empty() {
        world.write("hostaway.yaml", text);
    }
    world
}

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.definitions().join(name)).unwrap()
}

/// Every file of the directory but the schemas, with what it holds.
fn files(world: &World) -> BTreeMap<String, String> {
    let names = fs::read_dir(world.definitions())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| !name.ends_with(".json"))
        .map(|name| (name.clone(), read(world, &name)))
        .collect()
}

/// Makes the secrets that a pull asked for, as an operator who knows the live values.
fn make_secrets(world: &mut World, ran: &Ran) {
    let lines: Vec<Vec<&str>> = ran
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for pair in lines.windows(2) {
        let ([_, variable], [provider, path]) = (pair[0].as_slice(), pair[1].as_slice()) else {
            continue;
        };
        if let (true, Some(path)) = (
            variable.starts_with("CALRY_SECRET_"),
            path.strip_prefix("partnerKey."),
        ) {
            let (section, name) = path.split_once('.').unwrap();
            let value = world.live(provider)["partnerKey"][section][name]
                .as_str()
                .unwrap()
                .to_owned();
            world.env(variable, &value);
        }
    }
}

// From nothing

#[test]
fn a_workspace_that_is_pulled_is_in_sync_once_its_secrets_are_made() {
    let mut world = World::default();
    fs::remove_dir(world.definitions()).unwrap();
    let pulled = world.run(&["pull"]).exits(0).says("Pull: 25 created.");
    assert!(world.updates().is_empty());
    make_secrets(&mut world, &pulled);
    world
        .run(&["plan", "--detailed-exitcode"])
        .exits(0)
        .says("No changes. acme-production matches definitions/ (22 providers).");

    let before = files(&world);
    let again = world.run(&["pull"]).exits(0);
    assert_eq!(
        again.out,
        "Pull: 24 unchanged. There is nothing to write.\n"
    );
    assert_eq!(files(&world), before);
    let left = fs::read_dir(world.definitions()).unwrap().filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .starts_with('.')
    });
    assert_eq!(left.count(), 0, "nothing temporary is left");
}

#[test]
fn no_value_of_calry_comes_into_a_file_or_out_of_a_command() {
    let world = World::default();
    let pulled = world.run(&["pull", "-vv"]).exits(0);
    let all: String = files(&world).into_values().collect();
    // Shorter ones, such as `2`, stand in every text.
    for (provider, name, value) in Seed::builtin()
        .partner_keys()
        .into_iter()
        .filter(|(_, _, value)| value.len() > 4)
    {
        assert!(
            !all.contains(value) && !pulled.out.contains(value) && !pulled.err.contains(value),
            "{provider} {name}"
        );
    }
}

#[test]
fn a_new_file_manages_everything_that_calry_has() {
    let mut definition = with_key(
        "HOSTAWAY",
        json!({"headers": {"X-Api-Key": "one", "empty": ""}, "queryParams": {}}),
    );
    definition["icon"] = json!("https://cdn.example.com/a.png");
    definition["fieldsToSync"]["rates"] = json!({"daily": false, "no": true, "on 2": false});
    definition["fieldsToSync"]["later"] = json!({"daily": false});
    definition["fieldsToSync"]["none"] = json!({});
    let world = world(definition, "");
    world.run(&["pull"]).exits(0);
    insta::assert_snapshot!(read(&world, "hostaway.yaml"), @r#"
    # yaml-language-server: $schema=definition.schema.json
    provider: HOSTAWAY
    icon: https://cdn.example.com/a.png
    partnerKey:
      headers:
        X-Api-Key: ${secret:hostaway-x-api-key}
        empty: ""
    fieldsToSync:
      later: []
      listing:
        - name
      rates:
        - "no"
    "#);
    insta::assert_snapshot!(read(&world, "workspace.yaml"), @r#"
    # yaml-language-server: $schema=workspace.schema.json
    slug: acme-production
    "#);
    let mode = fs::metadata(world.definitions().join("hostaway.yaml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777 & !0o022, 0o644);
    for (args, name) in [
        (&["schema", "--from-live"][..], "definition.schema.json"),
        (&["schema", "workspace"], "workspace.schema.json"),
    ] {
        assert_eq!(world.run(args).exits(0).out, read(&world, name));
    }
}

#[test]
fn a_sandbox_that_is_pulled_is_in_sync_with_the_next_sandbox() {
    let world = World::default();
    world.run(&["pull", "--sandbox"]).exits(0);
    world
        .run(&["plan", "--sandbox", "--detailed-exitcode"])
        .exits(0)
        .says("No changes. acme-production matches definitions/ (22 providers).");
}

#[test]
fn a_dry_run_says_what_a_pull_would_do_and_writes_nothing() {
    let world = World::default();
    fs::remove_dir(world.definitions()).unwrap();
    let dry = world
        .run(&["pull", "--dry-run"])
        .exits(0)
        .says("Nothing was written: this was a dry run.");
    assert!(!world.definitions().exists());
    let wet = world.run(&["pull"]).exits(0);
    assert_eq!(
        dry.out
            .replace(" Nothing was written: this was a dry run.", ""),
        wet.out
    );

    world.write("hostaway.yaml", "provider: HOSTAWAY\nicon: https://x/\n");
    world
        .run(&["pull", "--dry-run"])
        .exits(0)
        .says("hostaway.yaml updated: icon");
    assert_eq!(
        read(&world, "hostaway.yaml"),
        "provider: HOSTAWAY\nicon: https://x/\n"
    );
}

#[test]
fn a_read_key_is_enough() {
    let mut world = World::default();
    let key = world.sandbox.keys().read.clone();
    world.env("CALRY_API_KEY", &key).run(&["pull"]).exits(0);
    assert!(world.updates().is_empty());
}

#[test]
fn names_of_secrets_are_valid_and_each_is_used_once() {
    let headers =
        json!({"X_Api_Key": "1", "x.api.key": "2", "x-api-key": "3", "--": "4", "*": "5"});
    let params = json!({"x-api-key": "6", "ключ": "7", "clientId": "8"});
    let definition = with_key(
        "HOST_TOOLS",
        json!({"headers": headers, "queryParams": params}),
    );
    let world = World::with(
        json!([definition, live("GUESTY", &["name"], &[])]),
        Config::default(),
    );
    world.write(
        "guesty.yaml",
        "provider: GUESTY\npartnerKey:\n  headers: {a: '${secret:host-tools-clientid}'}\n",
    );
    world.run(&["pull", "--only", "HOST_TOOLS"]).exits(0);
    let text = read(&world, "host_tools.yaml");
    insta::assert_snapshot!(text, @r#"
    # yaml-language-server: $schema=definition.schema.json
    provider: HOST_TOOLS
    partnerKey:
      headers:
        "*": ${secret:host-tools}
        "--": ${secret:host-tools-2}
        X_Api_Key: ${secret:host-tools-x-api-key-3}
        x-api-key: ${secret:host-tools-x-api-key}
        x.api.key: ${secret:host-tools-x.api.key-2}
      queryParams:
        clientId: ${secret:host-tools-clientid-2}
        x-api-key: ${secret:host-tools-x-api-key-4}
        "ключ": ${secret:host-tools-3}
    fieldsToSync:
      listing:
        - name
    "#);
}

#[test]
fn a_value_that_no_secret_can_have_is_named_and_nothing_refers_to_it() {
    let definition = with_key("HOSTAWAY", json!({"headers": {"x-api-key": "hunter2 "}}));
    let ran = world(definition, "").run(&["pull"]);
    let shown = format!("{}{}", ran.out, ran.err);
    let reason = "partnerKey.headers.x-api-key in Calry ends with a space";
    assert!(
        shown.contains(reason) && !shown.contains("hunter2"),
        "{shown}"
    );
    assert!(!shown.contains("CALRY_SECRET_"), "{shown}");
}

#[test]
fn an_existing_secret_is_never_asked_to_have_a_value_that_it_cannot_have() {
    for (value, reason) in [
        ("hun\u{85}ter2", "contains a line break"),
        ("hunter2 ", "ends with a space"),
        (&"hunter2".repeat(10_000), "is larger than 64 KiB"),
    ] {
        let definition = with_key("HOSTAWAY", json!({"headers": {"x-api-key": value}}));
        let file =
            "provider: HOSTAWAY\npartnerKey:\n  headers:\n    x-api-key: ${secret:api-key}\n";
        let mut world = world(definition, file);
        world.env("CALRY_SECRET_API_KEY", "before");
        let ran = world.run(&["pull"]);
        let shown = format!("{}{}", ran.out, ran.err);
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let sentence = format!("partnerKey.headers.x-api-key: the value in Calry {reason}");
        assert!(
            shown.contains(&sentence) && !shown.contains("hunter2"),
            "{shown}"
        );
        assert!(!shown.contains("CALRY_SECRET_"), "{shown}");
        assert_eq!(read(&world, "hostaway.yaml"), file);
    }
}

// Into files that are there

const OURS: &str = "\
# ours
provider: HOSTAWAY   # in capitals
partnerKey:
  headers:
    # a comment of the next one
    x-literal: was-written-out  # its own
    x-api-key: ${secret:api-key}
    x-gone: ${secret:gone}
    x-same: Bearer ${secret:same}
    x-unknown: ${secret:nobody-knows}

fieldsToSync:
  listing: [name, 'pictures', rooms]   # everything else is off
  rates:
    # about daily
    daily: true
    weekly: false
";

fn drifted() -> Value {
    let headers = json!({"X-Literal": "another", "x-api-key": "new-one", "x-same": "Bearer same", "x-unknown": "u", "x-more": "m"});
    let mut definition = with_key(
        "HOSTAWAY",
        json!({"headers": headers, "queryParams": {"id": "unmanaged"}}),
    );
    definition["icon"] = json!("https://cdn.example.com/unmanaged.png");
    definition["fieldsToSync"] = json!({
        "listing": {"name": true, "rooms": false, "pictures": true, "type": true, "rating": false},
        "rates": {"daily": false, "weekly": true, "monthly": true},
        "unmanaged": {"a": true},
    });
    definition
}

#[test]
fn only_what_a_file_manages_is_taken_over_and_the_rest_of_it_stays_as_it_is() {
    let mut world = world(drifted(), OURS);
    world
        .env("CALRY_SECRET_API_KEY", "old-one")
        .env("CALRY_SECRET_SAME", "same");
    let pulled = world.run(&["pull"]).exits(0);
    insta::assert_snapshot!(read(&world, "hostaway.yaml"), @r#"
    # ours
    provider: HOSTAWAY   # in capitals
    partnerKey:
      headers:
        # a comment of the next one
        x-literal: ${secret:hostaway-x-literal}  # its own
        x-api-key: ${secret:api-key}
        x-same: Bearer ${secret:same}
        x-unknown: ${secret:nobody-knows}
        x-more: ${secret:hostaway-x-more}

    fieldsToSync:
      listing: [name, 'pictures', type]   # everything else is off
      rates:
        # about daily
        daily: false
        weekly: true
        monthly: true
    "#);
    insta::assert_snapshot!(pulled.out, @r#"
    definition.schema.json created
    hostaway.yaml     updated: headers.x-gone removed, headers.x-literal made a
                      reference, headers.x-more added, listing.rooms off,
                      listing.type on, rates.daily off, rates.monthly on,
                      rates.weekly on
    workspace.schema.json created
    workspace.yaml    created

    Secrets that were not found
      hostaway-x-literal  CALRY_SECRET_HOSTAWAY_X_LITERAL
        HOSTAWAY partnerKey.headers.x-literal
      hostaway-x-more  CALRY_SECRET_HOSTAWAY_X_MORE
        HOSTAWAY partnerKey.headers.x-more
      nobody-knows  CALRY_SECRET_NOBODY_KNOWS
        HOSTAWAY partnerKey.headers.x-unknown
      Put each into a file of its name in --secrets-dir, into the variable, or
      beside the files with `calry-gitops encrypt NAME`. Until then, plan
      --secrets-unavailable compares the rest.

    Secrets with another value in Calry
      api-key  CALRY_SECRET_API_KEY
        HOSTAWAY partnerKey.headers.x-api-key
      Replace each in your secret store, or let apply write your value to Calry.

    Pull: 3 created, 1 updated.
    "#);
    assert!(world.updates().is_empty());

    world
        .env("CALRY_SECRET_API_KEY", "new-one")
        .env("CALRY_SECRET_NOBODY_KNOWS", "u");
    world
        .env("CALRY_SECRET_HOSTAWAY_X_LITERAL", "another")
        .env("CALRY_SECRET_HOSTAWAY_X_MORE", "m");
    world.run(&["plan", "--detailed-exitcode"]).exits(0);
    assert_eq!(
        world.run(&["pull"]).exits(0).out,
        "Pull: 3 unchanged. There is nothing to write.\n"
    );
}

#[test]
fn a_mask_is_never_taken_for_a_value() {
    let world = world(
        drifted(),
        "provider: HOSTAWAY\npartnerKey:\n  headers: {x-api-key: literal, X-More: '${secret:more}'}\n",
    );
    world.sandbox.set_semantics(Semantics {
        mask: Mask::Always,
        ..Semantics::default()
    });
    world
        .run(&["pull"])
        .exits(0)
        .says("hostaway.yaml updated: headers.X-Literal added, headers.x-same added");
    assert!(
        read(&world, "hostaway.yaml")
            .contains("{x-api-key: literal, X-More: '${secret:more}', X-Literal: \"${secret:")
    );
}

#[test]
fn fields_names_what_is_taken_over_and_what_is_managed_from_then_on() {
    let pulled = |fields: &[&str]| {
        let world = world(
            drifted(),
            "provider: HOSTAWAY\nfieldsToSync:\n  rates: {daily: true, weekly: false}\n",
        );
        let args: Vec<&str> = ["pull"]
            .into_iter()
            .chain(fields.iter().flat_map(|path| ["--fields", path]))
            .collect();
        world.run(&args).exits(0);
        read(&world, "hostaway.yaml")
    };
    let rates = "fieldsToSync:\n  rates: {daily: true, weekly: false}\n";
    assert_eq!(
        pulled(&["icon"]),
        format!("provider: HOSTAWAY\nicon: https://cdn.example.com/unmanaged.png\n{rates}")
    );
    assert_eq!(
        pulled(&["fieldsToSync.rates.monthly,rates.weekly"]),
        "provider: HOSTAWAY\nfieldsToSync:\n  rates: {daily: true, weekly: true, monthly: true}\n"
    );
    assert_eq!(
        pulled(&["unmanaged", "partnerKey.queryParams"]),
        format!(
            "provider: HOSTAWAY\npartnerKey:\n  queryParams:\n    id: ${{secret:hostaway-id}}\n{rates}  unmanaged:\n    - a\n"
        )
    );
}

#[test]
fn a_single_field_does_not_bring_its_group_under_management() {
    let world = world(drifted(), "provider: HOSTAWAY\n");
    for (path, whole) in [
        ("listing.name", "fieldsToSync.listing"),
        ("partnerKey.headers.x-more", "partnerKey.headers"),
    ] {
        let all = format!("use --fields {whole}");
        world
            .run(&["pull", "--fields", path])
            .exits(1)
            .says("hostaway.yaml not written")
            .says(&all);
        assert_eq!(read(&world, "hostaway.yaml"), "provider: HOSTAWAY\n");
    }
    world
        .run(&["pull", "--fields", "listing.nam"])
        .exits(1)
        .says("did you mean `name`?");
    world.run(&["pull", "--fields", "a.b.c"]).exits(64);
}

#[test]
fn with_fields_a_new_file_holds_those_alone() {
    let world = world(drifted(), "");
    world.run(&["pull", "--fields", "listing.name"]).exits(0);
    assert!(!world.definitions().join("hostaway.yaml").exists());
    world.run(&["pull", "--fields", "icon"]).exits(0);
    insta::assert_snapshot!(read(&world, "hostaway.yaml"), @r#"
    # yaml-language-server: $schema=definition.schema.json
    provider: HOSTAWAY
    icon: https://cdn.example.com/unmanaged.png
    "#);
}

#[test]
fn line_ends_marks_and_modes_are_kept() {
    let text = "\u{feff}provider: HOSTAWAY\r\nfieldsToSync:\r\n  rates:\r\n    - daily\r\n    - monthly # ä";
    let world = world(drifted(), text);
    let path = world.definitions().join("hostaway.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    world
        .run(&["pull"])
        .exits(0)
        .says("rates.daily off, rates.weekly on");
    let expected = "\u{feff}provider: HOSTAWAY\r\nfieldsToSync:\r\n  rates:\r\n    - monthly # ä\r\n    - weekly";
    assert_eq!(read(&world, "hostaway.yaml"), expected);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

// What goes wrong

#[test]
fn a_file_that_is_invalid_is_left_alone_and_the_others_are_pulled() {
    let world = World::default();
    let broken = "provider: HOSTAWAY\nfieldsToSync:\n  listing: name\n";
    world.write("hostaway.yaml", broken).write(
        "guesty.yaml",
        "provider: GUESTY\nfieldsToSync: {listing: []}\n",
    );
    world
        .run(&["pull"])
        .exits(3)
        .says("hostaway.yaml invalid")
        .says("definitions/hostaway.yaml:3:12")
        .says("guesty.yaml updated");
    assert_eq!(read(&world, "hostaway.yaml"), broken);
    assert_ne!(
        read(&world, "guesty.yaml"),
        "provider: GUESTY\nfieldsToSync: {listing: []}\n"
    );
    // With --only, the errors of other files do not count.
    world.run(&["pull", "--only", "GUESTY"]).exits(0);
}

#[test]
fn nothing_is_written_through_a_link_or_over_what_is_no_file() {
    let world = World::default();
    let text = "provider: HOSTAWAY\nicon: https://x/\n";
    let definitions = world.definitions();
    fs::create_dir(definitions.join("elsewhere")).unwrap();
    fs::write(definitions.join("elsewhere/h.yaml"), text).unwrap();
    symlink("elsewhere/h.yaml", definitions.join("hostaway.yaml")).unwrap();
    let outside = world.dir.path().join("outside");
    symlink(&outside, definitions.join("definition.schema.json")).unwrap();
    symlink(&outside, definitions.join("guesty.yaml")).unwrap();
    fs::create_dir(definitions.join("workspace.schema.json")).unwrap();
    let ran = world
        .run(&["pull"])
        .exits(1)
        .says("hostaway.yaml not written: it is a symbolic link");
    ran.says("definition.schema.json not written: it is a symbolic link")
        .says("workspace.schema.json not written: it is not a regular file");
    assert!(!outside.exists());
    assert_eq!(
        fs::read_to_string(definitions.join("elsewhere/h.yaml")).unwrap(),
        text
    );
    assert!(
        definitions.join("hostify.yaml").exists(),
        "the others are written"
    );
}

#[test]
fn a_form_that_cannot_be_changed_in_place_is_left_to_a_person() {
    let text = "provider: HOSTAWAY\npartnerKey: { # none\n  }\n";
    let world = world(
        with_key("HOSTAWAY", json!({"headers": {"x-api-key": "1"}})),
        text,
    );
    world
        .run(&["pull"])
        .exits(1)
        .says("hostaway.yaml not written")
        .says("edit it by hand: headers.x-api-key added");
    assert_eq!(read(&world, "hostaway.yaml"), text);
}

#[test]
fn an_edit_that_would_say_something_else_is_not_written() {
    // To YAML a carriage return alone ends a line, and to the editor it does not.
    let text =
        "provider: HOSTAWAY\nfieldsToSync:\n  rates:\n    daily: true\r  other:\n    daily: true\n";
    let mut definition = live("HOSTAWAY", &["name"], &[]);
    definition["fieldsToSync"] =
        json!({"rates": {"daily": true, "monthly": true}, "other": {"daily": true}});
    let world = world(definition, text);
    world
        .run(&["pull"])
        .exits(1)
        .says("edit it by hand: rates.monthly on");
    assert_eq!(read(&world, "hostaway.yaml"), text);
}

#[test]
fn a_definition_of_calry_that_cannot_be_read_is_told_and_stops_no_other() {
    let world = World::with(
        json!([live("HOSTAWAY", &["name"], &[]), live("GUESTY", &[], &[])]),
        Config::default(),
    );
    for (changed, sentence) in [
        (
            json!({"provider": "GUESTY"}),
            "guesty.yaml not written: it cannot be made: Calry's definition of GUESTY cannot be read",
        ),
        (
            json!({"provider": "no provider"}),
            "one of Calry's definitions cannot be read",
        ),
    ] {
        world.sandbox.set_definition("GUESTY", changed);
        world.run(&["pull"]).exits(1).says(sentence);
        assert!(read(&world, "hostaway.yaml").contains("- name"));
    }
}

#[test]
fn a_file_that_is_saved_meanwhile_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostaway.yaml");
    fs::write(&path, "provider: HOSTAWAY\nicon: https://x/1\n").unwrap();
    let loaded = load(dir.path()).unwrap();
    let live = |provider: &str| Live {
        id: String::new(),
        name: String::new(),
        provider: Provider::parse(provider).unwrap(),
        icon: Some("https://x/2".to_owned()),
        partner_key: PartnerKey::default(),
        fields: BTreeMap::new(),
        updated_at: String::new(),
        problems: LiveProblems::default(),
    };
    let workspace = Workspace {
        id: String::new(),
        name: String::new(),
        slug: "acme".to_owned(),
    };
    let known = Catalogue::built_in();
    let (scope, sources) = (
        Scope {
            parts: &[],
            only: &[],
            known: &known,
        },
        SecretSources::new(None),
    );
    let live = [live("HOSTAWAY"), live("GUESTY")];
    let mut pull = prepare(
        &loaded,
        &workspace,
        &live,
        scope,
        SecretNames::of(&loaded),
        &sources,
    );
    for name in ["hostaway.yaml", "guesty.yaml"] {
        fs::write(dir.path().join(name), "saved meanwhile").unwrap();
    }
    pull.write(dir.path(), false);
    for (name, why) in [
        ("hostaway.yaml", "has changed since it was read"),
        ("guesty.yaml", "exists already"),
    ] {
        let file = pull.files.iter().find(|file| file.name == name).unwrap();
        assert!(
            matches!(&file.state, FileState::Refused(sentence) if sentence.contains(why)),
            "{file:?}"
        );
        assert_eq!(
            fs::read_to_string(dir.path().join(name)).unwrap(),
            "saved meanwhile"
        );
    }
}

#[test]
fn the_workspace_and_its_providers_are_checked_before_anything_is_written() {
    let world = World::default();
    world.write("workspace.yaml", "slug: another\n");
    world
        .run(&["pull"])
        .exits(1)
        .says("these definitions are for the workspace another");
    world.write("workspace.yaml", "slug: 7\n");
    world.run(&["pull"]).exits(3);
    assert_eq!(files(&world).len(), 1);
    fs::remove_file(world.definitions().join("workspace.yaml")).unwrap();
    world
        .run(&["pull", "--only", "NOBODY"])
        .exits(3)
        .says("the workspace has no provider NOBODY");
    world.run(&["pull", "--only", "HOSTAWAY"]).exits(0);
    assert_eq!(
        files(&world).into_keys().collect::<Vec<_>>(),
        ["hostaway.yaml", "workspace.yaml"]
    );
}

#[test]
fn a_network_that_fails_writes_nothing() {
    let mut world = World::default();
    world
        .env("CALRY_API_KEY", "zepl.wrong.key.acme")
        .run(&["pull"])
        .exits(1);
    assert_eq!(files(&world).len(), 0);
}

#[test]
fn a_provider_whose_file_would_be_the_pin_is_refused() {
    let world = World::with(
        json!([live("WORKSPACE", &["name"], &[])]),
        Config::default(),
    );
    world
        .run(&["pull"])
        .exits(1)
        .says("workspace.yaml not written: it pins the workspace");
    assert!(read(&world, "workspace.yaml").contains("slug: acme-production"));
}

#[test]
fn what_a_file_cannot_say_is_left_out_with_all_that_managing_it_would_switch_off() {
    let mut definition = with_key(
        "HOSTAWAY",
        json!({"headers": {"bad name": "1"}, "queryParams": {"a b": "1"}}),
    );
    definition["icon"] = json!("data:image/png;base64,AAAA");
    definition["fieldsToSync"] =
        json!({"bad": {"a b": true}, "fine": {"a b": false, "c": true}, "headers": {"x": true}});
    let world = world(definition, "");
    let ran = world.run(&["pull"]).exits(0);
    for left_out in [
        "icon: must begin with",
        "partnerKey.headers, as a whole",
        "fieldsToSync.bad, as a whole",
        "fieldsToSync.headers, as a whole",
    ] {
        assert!(
            ran.out.contains(&format!("left out: {left_out}")),
            "{}",
            ran.out
        );
    }
    insta::assert_snapshot!(read(&world, "hostaway.yaml"), @r#"
    # yaml-language-server: $schema=definition.schema.json
    provider: HOSTAWAY
    partnerKey:
      queryParams:
        "a b": ${secret:hostaway-a-b}
    fieldsToSync:
      fine:
        - c
    "#);
}

#[test]
fn the_example_files_take_over_the_drift_of_the_sandbox_and_stay_readable() {
    let world = World::default();
    for entry in fs::read_dir(repository().join("definitions")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, world.definitions().join(path.file_name().unwrap())).unwrap();
    }
    let before = files(&world);
    world
        .run(&[
            "pull",
            "--only",
            "HOSTAWAY",
            "--only",
            "TOKEET",
            "--only",
            "INTERHOME",
            "--only",
            "HOSTHUB",
        ])
        .exits(0);
    let mut diff = String::new();
    for (name, text) in files(&world) {
        let old = &before[&name];
        diff += &similar::TextDiff::from_lines(old, &text)
            .unified_diff()
            .context_radius(1)
            .header(&name, &name)
            .to_string();
    }
    insta::assert_snapshot!(diff, @r#"
    --- hostaway.yaml
    +++ hostaway.yaml
    @@ -17,2 +17,2 @@
     fieldsToSync:
    -  listing: [name, type, rooms, address, pictures, amenities]
    +  listing: [name, type, rooms, address, amenities, startPrice]
    --- hosthub.yaml
    +++ hosthub.yaml
    @@ -2,3 +2,2 @@
     provider: HOSTHUB
    -icon: https://cdn.example.com/icons/hosthub.png
     
    --- interhome.yaml
    +++ interhome.yaml
    @@ -9,3 +9,3 @@
         token: ${secret:interhome-token}
    -    accept-language: de
    +    accept-language: ${secret:interhome-accept-language}
       queryParams:
    --- tokeet.yaml
    +++ tokeet.yaml
    @@ -7,5 +7,5 @@
       queryParams:
    -    account: acme-travel
    +    account: ${secret:tokeet-account}
     fieldsToSync:
       # Coordinates are off: Tokeet rounds them, and the map then shows the wrong side of the street.
    -  listing: [name, type, rooms, address, currency, pictures, amenities, description]
    +  listing: [name, type, rooms, address, currency, pictures, amenities, description, latitude, longitude]
    "#);
}

#[test]
fn what_cannot_be_read_is_not_pulled_as_if_it_were_absent() {
    let definition = live("HOSTAWAY", &["name"], &[]);
    let world = World::with(
        json!([definition, live("GUESTY", &["name"], &[])]),
        Config::default(),
    );
    let file = "provider: HOSTAWAY\nfieldsToSync:\n  listing: [name]\n";
    world.write("hostaway.yaml", file);
    let mut strange = definition;
    strange["fieldsToSync"]["listing"]["name"] = json!("yes");
    world.sandbox.set_definition("HOSTAWAY", strange);
    world
        .run(&["pull"])
        .says("`fieldsToSync.listing.name` is neither true nor false");
    assert_eq!(read(&world, "hostaway.yaml"), file);
    assert!(files(&world).contains_key("guesty.yaml"));
}
