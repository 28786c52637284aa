//! The shapes of the API's contract: what an update, a definition and a workspace look like. It says where a JSON value has
//! another shape, and never repeats the value.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::model::{KeySection, Provider, Slug, ellipsize, printable};

/// More problems of one value than this are not told.
const MAX_PROBLEMS: usize = 20;

/// The body of an update: a JSON object that the contract allows.
#[derive(Debug)]
pub(super) struct Update(Map<String, Value>);

impl Update {
    /// # Errors
    /// What is wrong with the body, a sentence for each place.
    pub(super) fn parse(body: Value) -> Result<Self, Vec<String>> {
        let mut problems = Problems::default();
        problems.update(&body);
        match body {
            Value::Object(body) if problems.0.is_empty() => Ok(Self(body)),
            _ => Err(problems.0),
        }
    }

    pub(super) fn icon(&self) -> Option<&Value> {
        self.0.get("icon")
    }

    pub(super) fn partner_key(&self) -> Option<&Map<String, Value>> {
        self.0.get("partnerKey")?.as_object()
    }

    pub(super) fn fields(&self) -> Option<&Map<String, Value>> {
        self.0.get("fieldsToSync")?.as_object()
    }
}

/// What keeps a JSON value from being a definition, a sentence for each place.
pub(super) fn definition_problems(definition: &Value) -> Vec<String> {
    let mut problems = Problems::default();
    problems.definition(definition);
    problems.0
}

/// What keeps a JSON value from being a workspace, a sentence for each place.
pub(super) fn workspace_problems(workspace: &Value) -> Vec<String> {
    let mut problems = Problems::default();
    problems.workspace(workspace);
    problems.0
}

/// A time as the API writes it: RFC 3339, milliseconds, `Z`.
pub(super) fn time(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// Whether a text has the form of an RFC 3986 URI: a scheme, a colon, and nothing but the characters of a URI.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let escapes_ok = rest.split('%').skip(1).all(|escape| {
        escape.len() >= 2
            && escape
                .bytes()
                .take(2)
                .all(|digit| digit.is_ascii_hexdigit())
    });
    let characters_ok = rest
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b));
    scheme_ok && escapes_ok && characters_ok && rest.matches('#').count() <= 1
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn say(&mut self, problem: String) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(problem);
        }
    }

    fn object<'a>(&mut self, at: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.say(format!("{at} must be an object"));
        }
        object
    }

    fn unknown_key(&mut self, at: &str, key: &str) {
        self.say(format!("{at} has no key `{}`", shown(key)));
    }

    fn text(&mut self, at: &str, value: &Value, form: &str, is_form: impl FnOnce(&str) -> bool) {
        if !value.as_str().is_some_and(is_form) {
            self.say(format!("{at} must be {form}"));
        }
    }

    fn required(&mut self, at: &str, object: &Map<String, Value>, keys: &[&str]) {
        for key in keys.iter().filter(|key| !object.contains_key(**key)) {
            self.say(format!("{at} lacks `{key}`"));
        }
    }

    fn update(&mut self, body: &Value) {
        for (key, value) in self.object("the body", body).into_iter().flatten() {
            match key.as_str() {
                "icon" => self.icon(value),
                "partnerKey" => self.partner_key(value),
                "fieldsToSync" => self.fields(value),
                _ => self.unknown_key("an update", key),
            }
        }
    }

    fn definition(&mut self, definition: &Value) {
        let Some(definition) = self.object("an integration definition", definition) else {
            return;
        };
        let required = [
            "id",
            "name",
            "provider",
            "fieldsToSync",
            "createdAt",
            "updatedAt",
        ];
        self.required("the integration definition", definition, &required);
        for (key, value) in definition {
            match key.as_str() {
                "id" => self.text(key, value, "a UUID", is_uuid),
                "name" => self.text(key, value, "a text", |_| true),
                "provider" => self.text(key, value, "a provider", |text| {
                    Provider::parse(text).is_ok()
                }),
                "createdAt" | "updatedAt" => self.time(key, value),
                "icon" => self.icon(value),
                "partnerKey" => self.partner_key(value),
                "fieldsToSync" => self.fields(value),
                _ => self.unknown_key("an integration definition", key),
            }
        }
    }

    fn workspace(&mut self, workspace: &Value) {
        let Some(workspace) = self.object("the workspace", workspace) else {
            return;
        };
        let required = [
            "id",
            "name",
            "slug",
            "defaultCurrency",
            "createdAt",
            "updatedAt",
        ];
        self.required("the workspace", workspace, &required);
        for (key, value) in workspace {
            match key.as_str() {
                "id" => self.text(key, value, "a UUID", is_uuid),
                "name" | "defaultCurrency" => self.text(key, value, "a text", |_| true),
                "slug" => self.text(key, value, "a slug", |text| Slug::parse(text).is_ok()),
                "createdAt" | "updatedAt" => self.time(key, value),
                "defaultDiscountPercentage" if value.is_number() => {}
                "defaultDiscountPercentage" => self.say(format!("{key} must be a number")),
                _ => self.unknown_key("a workspace", key),
            }
        }
    }

    fn time(&mut self, at: &str, value: &Value) {
        self.text(at, value, "a time of RFC 3339", |text| {
            text.parse::<Timestamp>().is_ok()
        });
    }

    fn icon(&mut self, value: &Value) {
        self.text("icon", value, "an absolute URI", is_uri);
    }

    fn partner_key(&mut self, value: &Value) {
        for (section, values) in self.object("partnerKey", value).into_iter().flatten() {
            if !KeySection::BOTH.iter().any(|known| known.key() == section) {
                self.unknown_key("partnerKey", section);
                continue;
            }
            for (name, value) in self
                .object(&format!("partnerKey.{section}"), values)
                .into_iter()
                .flatten()
            {
                self.text(
                    &format!("partnerKey.{section}.{}", shown(name)),
                    value,
                    "a text",
                    |_| true,
                );
            }
        }
    }

    fn fields(&mut self, value: &Value) {
        for (group, fields) in self.object("fieldsToSync", value).into_iter().flatten() {
            let at = format!("fieldsToSync.{}", shown(group));
            for (field, on) in self.object(&at, fields).into_iter().flatten() {
                if !on.is_boolean() {
                    self.say(format!("{at}.{} must be true or false", shown(field)));
                }
            }
        }
    }
}

fn shown(name: &str) -> String {
    printable(&ellipsize(name, 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_update_is_held_to_the_contract_and_its_values_are_never_repeated() {
        for (body, problem) in [
            (json!([]), "the body must be an object"),
            (json!({"name": "hunter2"}), "an update has no key `name`"),
            (json!({"icon": null}), "icon must be an absolute URI"),
            (json!({"icon": "hunter2"}), "icon must be an absolute URI"),
            (
                json!({"partnerKey": "hunter2"}),
                "partnerKey must be an object",
            ),
            (
                json!({"partnerKey": {"cookies": {}}}),
                "partnerKey has no key `cookies`",
            ),
            (
                json!({"partnerKey": {"headers": ["hunter2"]}}),
                "partnerKey.headers must be an object",
            ),
            (
                json!({"partnerKey": {"headers": {"a": ["hunter2"]}}}),
                "partnerKey.headers.a must be a text",
            ),
            (
                json!({"fieldsToSync": {"listing": ["name"]}}),
                "fieldsToSync.listing must be an object",
            ),
            (
                json!({"fieldsToSync": {"listing": {"name": 1}}}),
                "fieldsToSync.listing.name must be true or false",
            ),
        ] {
            assert_eq!(Update::parse(body).unwrap_err(), [problem]);
        }
        for body in [
            json!({}),
            json!({"icon": "urn:x", "partnerKey": {}, "fieldsToSync": {"new": {}}}),
        ] {
            assert!(Update::parse(body).is_ok());
        }
    }

    #[test]
    fn a_body_with_a_thousand_problems_is_answered_briefly() {
        let body: Map<String, Value> = (0..1000)
            .map(|n| (format!("{n:0>1000}"), json!(1)))
            .collect();
        let problems = Update::parse(Value::Object(body)).unwrap_err();
        assert!(problems.len() == MAX_PROBLEMS && problems.concat().len() < 4000);
    }

    #[test]
    fn a_uri_has_a_scheme_and_no_characters_of_another_world() {
        for good in [
            "https://x/y?z#f",
            "a:",
            "urn:isbn:1",
            "http://[::1]/%20",
            "x+y-z.0:?",
        ] {
            assert!(is_uri(good), "{good}");
        }
        for bad in [
            "", ":", "a", "//x/y", "1a:b", "a b:c", "a:b c", "a:%2", "a:%zz", "a:é", "a:#b#c",
            "a:<>",
        ] {
            assert!(!is_uri(bad), "{bad}");
        }
    }
}
