use super::*;

fn secret() -> Option<NewValue> {
    Some(NewValue::Secret(SecretName::parse("s").unwrap()))
}

fn field(field: &str, on: bool) -> Edit {
    Edit::Field {
        group: "listing".to_owned(),
        field: field.to_owned(),
        on,
    }
}

fn group(fields: &[&str]) -> Edit {
    Edit::Group {
        group: "rates".to_owned(),
        on: fields.iter().map(|&field| field.to_owned()).collect(),
    }
}

fn header(value: Option<NewValue>) -> Edit {
    Edit::Value {
        section: KeySection::Headers,
        name: "a".to_owned(),
        value,
    }
}

fn headers() -> Edit {
    Edit::KeySection {
        section: KeySection::Headers,
        values: BTreeMap::from([("a".to_owned(), NewValue::Empty)]),
    }
}

fn icon(url: &str) -> Edit {
    Edit::Icon(Some(Icon::parse(url).unwrap()))
}

/// Checks the text after each edit; `None` if the form cannot be edited.
#[track_caller]
fn check<const N: usize>(cases: [(&str, Edit, Option<&str>); N]) {
    let found = cases.each_ref().map(|(text, edit, _)| edit.edit(text));
    let expected = cases.map(|(_, _, expected)| expected.map(str::to_owned));
    assert_eq!(found, expected);
}

#[test]
fn an_item_is_added_to_brackets_as_the_others_stand_there() {
    check([
        (
            "fieldsToSync: {listing: [a]}\n",
            field("b", true),
            Some("fieldsToSync: {listing: [a, b]}\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a,\n    b # c\n  ]\n",
            field("c", true),
            Some("fieldsToSync:\n  listing: [\n    a,\n    b, # c\n    c\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a,\n  ]\n",
            field("c", true),
            Some("fieldsToSync:\n  listing: [\n    a,\n    c,\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [a,\n    b]\n",
            field("c", true),
            Some("fieldsToSync:\n  listing: [a,\n    b, c]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [a, b\n  ]\n",
            field("c", true),
            Some("fieldsToSync:\n  listing: [a, b, c\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a, b\n  ]\n",
            field("c", true),
            Some("fieldsToSync:\n  listing: [\n    a, b, c\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [ ]\n",
            field("c", true),
            Some("fieldsToSync:\n  listing: [c]\n"),
        ),
        (
            "fieldsToSync:\n  listing:\n  -   a # b\n",
            field("c", true),
            Some("fieldsToSync:\n  listing:\n  -   a # b\n  -   c\n"),
        ),
        // YAML allows a tab here; editors show it in many ways.
        (
            "fieldsToSync:\n  listing:\n  -\ta\n",
            field("b", true),
            None,
        ),
    ]);
}

#[test]
fn an_item_is_taken_out_of_brackets_with_its_comma_and_its_line() {
    check([
        (
            "fieldsToSync: {listing: [a, b, c]}\n",
            field("a", false),
            Some("fieldsToSync: {listing: [b, c]}\n"),
        ),
        (
            "fieldsToSync: {listing: [a, b, c]}\n",
            field("c", false),
            Some("fieldsToSync: {listing: [a, b]}\n"),
        ),
        (
            "fieldsToSync: {listing: [a, b ,]}\n",
            field("b", false),
            Some("fieldsToSync: {listing: [a,]}\n"),
        ),
        (
            "fieldsToSync: {listing: [ a ]}\n",
            field("a", false),
            Some("fieldsToSync: {listing: []}\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a, # b\n    c\n  ]\n",
            field("a", false),
            Some("fieldsToSync:\n  listing: [\n    c\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a,\n    c\n  ]\n",
            field("c", false),
            Some("fieldsToSync:\n  listing: [\n    a,\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a, c\n  ]\n",
            field("a", false),
            Some("fieldsToSync:\n  listing: [\n    c\n  ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [a,\n    c]\n",
            field("a", false),
            Some("fieldsToSync:\n  listing: [\n    c]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [a,\n    c]\n",
            field("c", false),
            Some("fieldsToSync:\n  listing: [a,\n    ]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [\n    a # b, c\n    , c]\n",
            field("a", false),
            Some("fieldsToSync:\n  listing: [\n    c]\n"),
        ),
        (
            "fieldsToSync:\n  listing: [a, b]\n",
            field("c", false),
            Some("fieldsToSync:\n  listing: [a, b]\n"),
        ),
    ]);
}

#[test]
fn a_new_part_has_the_indentation_of_the_file() {
    check([
        (
            "provider: X\npartnerKey: {}\nfieldsToSync:\n    listing: [a]\n",
            group(&["b", "c"]),
            Some(
                "provider: X\npartnerKey: {}\nfieldsToSync:\n    listing: [a]\n    rates:\n        - b\n        - c\n",
            ),
        ),
        (
            "provider: X\nfieldsToSync:\n    listing: []\npartnerKey: {}\n",
            header(secret()),
            Some(
                "provider: X\nfieldsToSync:\n    listing: []\npartnerKey:\n    headers:\n        a: ${secret:s}\n    queryParams: {}\n",
            ),
        ),
        (
            "provider: X\npartnerKey:\n    headers: {} # b\n",
            header(secret()),
            Some("provider: X\npartnerKey:\n    headers: # b\n        a: ${secret:s}\n"),
        ),
        (
            "{provider: X, partnerKey: {}}\n",
            header(secret()),
            Some("{provider: X, partnerKey: {headers: {a: \"${secret:s}\"}, queryParams: {}}}\n"),
        ),
        (
            "provider: X\npartnerKey:\n  headers:\n    x: y\n\nhold:\n  until: 2099-12-31\n",
            group(&[]),
            Some(
                "provider: X\npartnerKey:\n  headers:\n    x: y\nfieldsToSync:\n  rates: []\n\nhold:\n  until: 2099-12-31\n",
            ),
        ),
        (
            "provider: X\nfieldsToSync:\n  listing:\n    - a\nhold:\n  until: 2099-12-31\n",
            group(&["b"]),
            Some(
                "provider: X\nfieldsToSync:\n  listing:\n    - a\n  rates:\n    - b\nhold:\n  until: 2099-12-31\n",
            ),
        ),
    ]);
}

#[test]
fn a_new_part_comes_after_the_last_line_of_the_one_above() {
    check([
        (
            "fieldsToSync:\n  listing: [\n    a,\n    b\n  ]\n",
            group(&["c"]),
            Some("fieldsToSync:\n  listing: [\n    a,\n    b\n  ]\n  rates:\n    - c\n"),
        ),
        (
            "fieldsToSync:\n  listing:\n    - a\n    - b\n",
            group(&["c"]),
            Some("fieldsToSync:\n  listing:\n    - a\n    - b\n  rates:\n    - c\n"),
        ),
        (
            "fieldsToSync:\n  listing: {\n    a: true,\n    b: false\n  }\n",
            group(&["c"]),
            Some(
                "fieldsToSync:\n  listing: {\n    a: true,\n    b: false\n  }\n  rates:\n    - c\n",
            ),
        ),
        (
            "fieldsToSync:\n  listing:\n    a: true\n    b: false\n",
            group(&["c"]),
            Some("fieldsToSync:\n  listing:\n    a: true\n    b: false\n  rates:\n    - c\n"),
        ),
    ]);
}

#[test]
fn a_value_keeps_its_quotes_and_a_map_with_entries_is_not_replaced() {
    check([
        (
            "partnerKey: {headers: {a: 'b'}}\n",
            header(secret()),
            Some("partnerKey: {headers: {a: '${secret:s}'}}\n"),
        ),
        (
            "partnerKey:\n  headers:\n    a: |-\n      b\n    c: d\n",
            header(secret()),
            Some("partnerKey:\n  headers:\n    a: ${secret:s}\n    c: d\n"),
        ),
        (
            "icon: 'https://a.example/b'\n",
            icon("https://a.example/ö"),
            Some("icon: \"https://a.example/ö\"\n"),
        ),
        ("partnerKey:\n  headers: {b: c}\n", headers(), None),
        ("partnerKey: {headers: {b: c}}\n", headers(), None),
        (
            "partnerKey: {headers: {}}\n",
            headers(),
            Some("partnerKey: {headers: {a: \"\"}}\n"),
        ),
        (
            "partnerKey:\n  headers: {}\n",
            headers(),
            Some("partnerKey:\n  headers:\n    a: \"\"\n"),
        ),
        ("icon: {a: b}\n", icon("https://a.example/b"), None),
        (
            "fieldsToSync:\n  listing:\n  - a\n",
            field("b{c", true),
            Some("fieldsToSync:\n  listing:\n  - a\n  - \"b{c\"\n"),
        ),
        (
            "fieldsToSync:\n  listing:\n  - a\n",
            field("b\u{7}c", true),
            Some("fieldsToSync:\n  listing:\n  - a\n  - \"b\\U00000007c\"\n"),
        ),
    ]);
}

#[test]
fn a_block_scalar_after_several_spaces_is_replaced_with_its_header() {
    check([(
        "icon:   |\n  https://e.com/a\n",
        icon("https://e.com/b"),
        Some("icon:   https://e.com/b\n"),
    )]);
}

#[test]
fn a_map_at_the_column_of_its_key_gives_no_indentation() {
    check([(
        "? partnerKey\n: queryParams: {b: c}\n",
        headers(),
        Some("? partnerKey\n: queryParams: {b: c}\n  headers:\n    a: \"\"\n"),
    )]);
}
