//! Checks updates, definitions and workspaces against the API's contract.
//!
//! Never: quote a value in a problem; problems name positions.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::model::{KeySection, Provider, Slug, ellipsize, printable};

/// The number of problems that are reported for one value.
const MAX_PROBLEMS: usize = 20;

/// The body of an update: a JSON object that the contract allows.
#[derive(Debug)]
pub struct Update(Map<String, Value>);

impl Update {
    /// # Errors
    /// The problems of the body, as sentences.
    pub fn parse(body: Value) -> Result<Self, Vec<String>> {
        let mut problems = ContractCheck::default();
        problems.update(&body);
        match body {
            Value::Object(body) if problems.0.is_empty() => Ok(Self(body)),
            _ => Err(problems.0),
        }
    }

    pub fn icon(&self) -> Option<&Value> {
        self.0.get("icon")
    }

    pub fn partner_key(&self) -> Option<&Map<String, Value>> {
        self.0.get("partnerKey")?.as_object()
    }

    pub fn fields(&self) -> Option<&Map<String, Value>> {
        self.0.get("fieldsToSync")?.as_object()
    }
}

pub(super) fn definition_problems(definition: &Value) -> Vec<String> {
    let mut problems = ContractCheck::default();
    problems.definition(definition);
    problems.0
}

pub(super) fn workspace_problems(workspace: &Value) -> Vec<String> {
    let mut problems = ContractCheck::default();
    problems.workspace(workspace);
    problems.0
}

/// Formats a time as the API does: RFC 3339, milliseconds, `Z`.
pub(super) fn format_time(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// Whether a text has the form of an RFC 3986 URI: a scheme, a colon, and only characters of a URI.
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
struct ContractCheck(Vec<String>);

impl ContractCheck {
    fn add(&mut self, problem: String) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(problem);
        }
    }

    fn object<'a>(&mut self, at: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.add(format!("{at} must be an object"));
        }
        object
    }

    fn unknown_key(&mut self, at: &str, key: &str) {
        self.add(format!("{at} has no key `{}`", quote_name(key)));
    }

    fn text(&mut self, at: &str, value: &Value, form: &str, is_form: impl FnOnce(&str) -> bool) {
        if !value.as_str().is_some_and(is_form) {
            self.add(format!("{at} must be {form}"));
        }
    }

    fn required(&mut self, at: &str, object: &Map<String, Value>, keys: &[&str]) {
        for key in keys.iter().filter(|key| !object.contains_key(**key)) {
            self.add(format!("{at} lacks `{key}`"));
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
                "name" => self.text(key, value, "a string", |_| true),
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
                "name" | "defaultCurrency" => self.text(key, value, "a string", |_| true),
                "slug" => self.text(key, value, "a slug", |text| Slug::parse(text).is_ok()),
                "createdAt" | "updatedAt" => self.time(key, value),
                "defaultDiscountPercentage" if value.is_number() => {}
                "defaultDiscountPercentage" => self.add(format!("{key} must be a number")),
                _ => self.unknown_key("a workspace", key),
            }
        }
    }

    fn time(&mut self, at: &str, value: &Value) {
        self.text(at, value, "an RFC 3339 time", |text| {
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
                    &format!("partnerKey.{section}.{}", quote_name(name)),
                    value,
                    "a string",
                    |_| true,
                );
            }
        }
    }

    fn fields(&mut self, value: &Value) {
        for (group, fields) in self.object("fieldsToSync", value).into_iter().flatten() {
            let at = format!("fieldsToSync.{}", quote_name(group));
            for (field, on) in self.object(&at, fields).into_iter().flatten() {
                if !on.is_boolean() {
                    self.add(format!("{at}.{} must be true or false", quote_name(field)));
                }
            }
        }
    }
}

fn quote_name(name: &str) -> String {
    printable(&ellipsize(name, 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_update_is_checked_against_the_contract_and_its_values_are_never_quoted() {
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
                "partnerKey.headers.a must be a string",
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
    fn only_the_first_of_a_thousand_problems_are_reported() {
        let body: Map<String, Value> = (0..1000)
            .map(|n| (format!("{n:0>1000}"), json!(1)))
            .collect();
        let problems = Update::parse(Value::Object(body)).unwrap_err();
        assert!(problems.len() == MAX_PROBLEMS && problems.concat().len() < 4000);
    }

    #[test]
    fn a_uri_has_a_scheme_and_only_characters_of_a_uri() {
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
