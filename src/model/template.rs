//! Values below `partnerKey` in a file: literal text and `${secret:NAME}` references.

use super::{Secret, SecretName};

/// A value with references to secrets. `$${` stands for a literal `${`; any other `${` is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// Literal text is kept as a secret, too: at this position it may be one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Secret),
    Reference(SecretName),
}

/// Authentication schemes (RFC 9110, section 11.1) that such APIs use: the only literal text before a reference that is
/// certainly not a secret.
const SCHEMES: [&str; 6] = ["ApiKey", "Basic", "Bearer", "Digest", "Key", "Token"];

/// Why a text is not a template. The messages never repeat the text, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    #[error(
        "`${{` begins a reference, and the only reference is `${{secret:NAME}}`; a literal `${{` is written `$${{`"
    )]
    NotAReference,
    #[error("the reference is not closed: write `${{secret:NAME}}`")]
    Unclosed,
    #[error("{0}", super::InvalidSecretName)]
    Name,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                literal.push_str(before);
                literal.push_str("${");
                rest = from.strip_prefix("${").unwrap_or_default();
                continue;
            }
            literal.push_str(before);
            let reference = from
                .strip_prefix("${secret:")
                .ok_or(InvalidTemplate::NotAReference)?;
            let (name, after) = reference.split_once('}').ok_or(InvalidTemplate::Unclosed)?;
            let name = SecretName::parse(name).map_err(|_| InvalidTemplate::Name)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(Secret::new(std::mem::take(&mut literal))));
            }
            parts.push(Part::Reference(name));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(Secret::new(literal)));
        }
        Ok(Self { parts })
    }

    /// A value without references.
    #[must_use]
    pub fn literal(value: Secret) -> Self {
        let parts = match value.expose() {
            "" => Vec::new(),
            _ => vec![Part::Literal(value)],
        };
        Self { parts }
    }

    /// The secrets that are referred to, in order.
    pub fn references(&self) -> impl Iterator<Item = &SecretName> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(name) => Some(name),
            Part::Literal(_) => None,
        })
    }

    /// The authentication scheme before its one reference, as in `Bearer ${secret:NAME}`.
    #[must_use]
    pub fn scheme(&self) -> Option<&'static str> {
        let [Part::Literal(text), Part::Reference(_)] = self.parts.as_slice() else {
            return None;
        };
        let text = text.expose().strip_suffix(' ')?;
        SCHEMES.into_iter().find(|scheme| *scheme == text)
    }

    /// The part of a resolved value after an authentication scheme.
    pub(super) fn after_scheme(value: &str) -> Option<&str> {
        let (scheme, rest) = value.split_once(' ')?;
        SCHEMES
            .iter()
            .any(|known| known.eq_ignore_ascii_case(scheme))
            .then_some(rest)
    }

    /// The value as the file has it, with its references.
    #[must_use]
    pub fn to_source(&self) -> Secret {
        let mut written = String::new();
        for part in &self.parts {
            match part {
                // No other text has this form.
                Part::Literal(text) => written.push_str(&text.expose().replace("${", "$${")),
                Part::Reference(name) => written.push_str(&format!("${{secret:{name}}}")),
            }
        }
        Secret::new(written)
    }

    /// Whether it has literal text that may be a secret: anything but references and a scheme.
    #[must_use]
    pub fn writes_out(&self) -> bool {
        self.scheme().is_none()
            && self
                .parts
                .iter()
                .any(|part| matches!(part, Part::Literal(_)))
    }

    /// Fills in the references.
    ///
    /// # Errors
    /// The names for which `lookup` has nothing, in order.
    pub fn resolve(
        &self,
        mut lookup: impl FnMut(&SecretName) -> Option<Secret>,
    ) -> Result<Secret, Vec<SecretName>> {
        let mut value = String::new();
        let mut missing = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => value.push_str(text.expose()),
                Part::Reference(name) => match lookup(name) {
                    Some(secret) => value.push_str(secret.expose()),
                    None => missing.push(name.clone()),
                },
            }
        }
        if missing.is_empty() {
            Ok(Secret::new(value))
        } else {
            Err(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<String, InvalidTemplate> {
        let filled = Template::parse(text)?.resolve(|name| Some(Secret::new(format!("<{name}>"))));
        Ok(filled.unwrap().expose().to_owned())
    }

    #[test]
    fn references_are_filled_in_and_dollars_are_kept() {
        assert_eq!(
            resolve("Bearer ${secret:a-token}").unwrap(),
            "Bearer <a-token>"
        );
        assert_eq!(resolve("${secret:a}${secret:b}").unwrap(), "<a><b>");
        assert_eq!(resolve("$${secret:a}").unwrap(), "${secret:a}");
        assert_eq!(resolve("$ $5 }{ $").unwrap(), "$ $5 }{ $");
        assert_eq!(resolve("").unwrap(), "");
    }

    #[test]
    fn a_filled_in_secret_is_not_read_as_a_template_again() {
        let t = Template::parse("${secret:a}").unwrap();
        assert_eq!(
            t.resolve(|_| Some(Secret::new("${secret:b}")))
                .unwrap()
                .expose(),
            "${secret:b}"
        );
    }

    #[test]
    fn a_scheme_is_no_secret_and_any_other_text_may_be_one() {
        let template = |text| Template::parse(text).unwrap();
        assert_eq!(template("Bearer ${secret:a}").scheme(), Some("Bearer"));
        for open in [
            "Bearer ${secret:a}",
            "${secret:a}",
            "${secret:a}${secret:b}",
        ] {
            assert!(!template(open).writes_out(), "{open}");
        }
        for text in [
            "Bearer hunter2",
            "hunter2${secret:a}",
            "Bearer ${secret:a}hunter2",
            "Bearer  ${secret:a}",
            "$${a}",
        ] {
            assert!(
                template(text).writes_out() && template(text).scheme().is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn two_templates_have_the_same_source_only_if_they_are_the_same() {
        for text in ["a$${secret:b}", "a${secret:b}c", "$$${", "plain", ""] {
            let template = Template::parse(text).unwrap();
            assert_eq!(
                Template::parse(template.to_source().expose()),
                Ok(template),
                "{text}"
            );
        }
    }

    #[test]
    fn every_other_reference_is_refused() {
        assert_eq!(resolve("${env:HOME}"), Err(InvalidTemplate::NotAReference));
        assert_eq!(resolve("${"), Err(InvalidTemplate::NotAReference));
        assert_eq!(resolve("${secret:a"), Err(InvalidTemplate::Unclosed));
        assert_eq!(resolve("${secret:../etc}"), Err(InvalidTemplate::Name));
        assert_eq!(resolve("${secret:}"), Err(InvalidTemplate::Name));
    }
}
