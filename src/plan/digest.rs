//! The digest of a plan: the same files and the same live state give the same digest.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{Change, PlainValue, PlanEntry, Verdict};
use crate::model::{Desired, KeySection, UpdateMethod, Workspace, hex};

/// `sha256:` and 64 hexadecimal digits.
///
/// Of a value below `partnerKey`, literal or not, it covers only the position, the references, an authentication scheme
/// before a reference and whether the value differs: no value can be guessed from a digest. `updatedAt` covers the live
/// values. A [sealed](super::Plan::seal) digest also covers literal values, by keyed fingerprints.
#[derive(Clone, Debug)]
pub struct Digest {
    text: String,
    sealed: bool,
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Digest {}

/// A text that is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest must be `sha256:` and 64 hexadecimal digits, as `plan` prints it")]
pub struct InvalidDigest;

impl Digest {
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix("sha256:").ok_or(InvalidDigest)?;
        let valid = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if valid {
            Ok(Self {
                text: text.to_ascii_lowercase(),
                sealed: false,
            })
        } else {
            Err(InvalidDigest)
        }
    }

    pub(super) fn of(workspace: &Workspace, method: UpdateMethod, entries: &[PlanEntry]) -> Self {
        let mut hash = Hash::new("calry-gitops plan 2");
        hash.text(&workspace.id);
        hash.text(method.as_str());
        for entry in entries
            .iter()
            .filter(|e| !matches!(e.verdict, Verdict::Unmanaged))
        {
            hash.entry(entry);
        }
        hash.finish()
    }

    /// Extends the digest with fingerprints, each with its path.
    pub(super) fn seal(&self, fingerprints: &[(String, String)]) -> Self {
        let mut hash = Hash::new("calry-gitops plan 2, sealed");
        hash.text(&self.text);
        for (path, fingerprint) in fingerprints {
            hash.text(path);
            hash.text(fingerprint);
        }
        Self {
            sealed: true,
            ..hash.finish()
        }
    }

    pub(super) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The digest of the desired state of a provider, except values below `partnerKey`.
    pub(super) fn of_parts(desired: &Desired) -> Self {
        // Destructured in full, so that a new managed part does not compile until it is hashed.
        let Desired {
            provider,
            icon,
            partner_key: _,
            fields,
            hold: _,
        } = desired;
        let mut hash = Hash::new("calry-gitops parts 1");
        hash.text(provider.as_str());
        hash.list(icon.iter().map(|icon| icon.as_str().to_owned()));
        for (group, on) in fields {
            hash.text(group);
            hash.list(on.iter().cloned());
        }
        hash.finish()
    }

    /// The digest of one provider's part of a plan.
    #[must_use]
    pub fn of_entry(entry: &PlanEntry) -> Self {
        let mut hash = Hash::new("calry-gitops plan 2, entry");
        hash.entry(entry);
        hash.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Each part is hashed with its length, so that different plans never hash the same bytes.
struct Hash(Sha256);

impl Hash {
    /// `purpose` keeps digests of different things apart.
    fn new(purpose: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.text(purpose);
        hash
    }

    fn finish(self) -> Digest {
        Digest {
            text: format!("sha256:{}", hex(&self.0.finalize())),
            sealed: false,
        }
    }

    fn entry(&mut self, entry: &PlanEntry) {
        self.text(entry.label());
        self.text(entry.file.as_deref().unwrap_or_default());
        // A hold of the workspace begins and ends by itself: it changes neither the files nor what they need.
        let state = match &entry.verdict {
            Verdict::Held { step: Some(_), .. } => "update",
            verdict => verdict.state(),
        };
        self.text(state);
        match &entry.verdict {
            Verdict::Update(step)
            | Verdict::Held {
                step: Some(step), ..
            } => {
                self.text(&step.live.id);
                self.text(&step.live.updated_at);
                for section in KeySection::BOTH {
                    for (name, value) in step
                        .desired
                        .partner_key
                        .section(section)
                        .into_iter()
                        .flatten()
                    {
                        self.text(section.key());
                        self.text(name);
                        self.text(value.template.scheme().unwrap_or_default());
                        self.list(value.references().map(ToString::to_string));
                    }
                }
                for (group, on) in &step.desired.fields {
                    self.text(group);
                    self.list(on.iter().cloned());
                }
            }
            Verdict::Held { hold, .. } => self.text(&hold.until.to_string()),
            Verdict::Unreadable(problem) => self.text(problem),
            Verdict::InSync(..) | Verdict::Invalid | Verdict::Missing | Verdict::Unmanaged => {}
        }
        self.number(entry.changes().len());
        for change in entry.changes() {
            self.text(&change.path());
            self.value(change.before());
            self.value(change.after());
            if let Change::Key {
                change, secrets, ..
            } = change
            {
                self.text(&format!("{change:?}"));
                self.list(secrets.iter().map(ToString::to_string));
            }
        }
    }

    fn number(&mut self, n: usize) {
        self.0.update((n as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text.as_bytes());
    }

    fn list(&mut self, items: impl Iterator<Item = String>) {
        let items: Vec<String> = items.collect();
        self.number(items.len());
        items.iter().for_each(|item| self.text(item));
    }

    fn value(&mut self, value: Option<PlainValue>) {
        match value {
            None => self.text("none"),
            Some(PlainValue::Bool(on)) => self.text(if on { "true" } else { "false" }),
            Some(PlainValue::Text(text)) => {
                self.text("text");
                self.text(&text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits_in_either_case() {
        let hex = "0123456789abcdefABCDEF0123456789".repeat(2);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert_eq!(digest.to_string(), format!("sha256:{}", hex.to_lowercase()));
        assert!(!digest.is_sealed());
        for wrong in [
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}g", &hex[1..]),
        ] {
            assert_eq!(Digest::parse(&wrong), Err(InvalidDigest), "{wrong}");
        }
    }
}
