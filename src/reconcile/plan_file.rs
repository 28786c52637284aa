//! Saves a plan for review, and compares it with the plan that is about to be applied.
//!
//! A saved plan is never applied itself. It is compared with the current plan, and if both are equal, the current plan is
//! approved: changing the file can only cause a refusal, or approve what the same rights allow anyway.
//! Of values below `partnerKey` it has the references, and fingerprints if the operator gave a key. Without a key, a plan that
//! sets a literal value is not saved, because a later change of that value in the file would go unnoticed.
//!
//! Never: contain a value below `partnerKey`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::{
    FingerprintContext, FingerprintKey, KeySection, Provider, UpdateMethod, Workspace, ellipsize,
    printable, printable_json, read_at_most,
};
use crate::plan::{Change, Digest, Plan, PlanEntry, Verdict, join_path};

const KIND: &str = "calry-gitops plan";
/// The form that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The largest file that is read, in bytes. A plan of 10,000 changed providers has about 12 MB.
const MAX: u64 = 64 << 20;
/// How many differences are listed.
const MOST: usize = 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanFile {
    kind: String,
    version: u64,
    workspace: SavedWorkspace,
    revision: Option<String>,
    update_method: String,
    only: Vec<String>,
    digest: String,
    /// The name of the key that fingerprints were made with.
    fingerprint_key: Option<String>,
    definitions: Vec<SavedDefinition>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SavedWorkspace {
    id: String,
    slug: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SavedDefinition {
    /// The provider, or the file name if the provider is unknown.
    name: String,
    state: String,
    digest: String,
    /// The paths that change.
    changes: Vec<String>,
    /// The fingerprint of every value below `partnerKey` that an update would send, by its path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, String>,
}

/// Why a plan is not saved: it could not be compared later. The messages follow a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    #[error("not all values were available, so the plan could not be applied")]
    NoDigest,
    /// It sets a value that the saved plan could not cover.
    #[error(
        "the file of {0} has the literal value {1}; without a fingerprint key, a later change of it would not be noticed. Use \
         --fingerprint-key-file, or make the value a reference to a secret"
    )]
    WrittenOut(String, String),
}

/// Why a file cannot be used as a saved plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    #[error("the plan {0} cannot be read: {1}")]
    Unreadable(String, String),
    #[error("{0} is not a saved plan: {1}; help: write one with `plan --out`")]
    Form(String, String),
    #[error(
        "the plan {0} has fingerprints of its secrets, and their key is not available: a replaced secret would go unnoticed; \
         help: name the key with --fingerprint-key-file"
    )]
    Key(String),
}

impl PlanFile {
    /// The document of a plan. `only` are its providers; empty for all.
    pub fn of(
        plan: &Plan,
        method: UpdateMethod,
        only: &[Provider],
        key: Option<&FingerprintKey>,
    ) -> Result<Self, SaveError> {
        let digest = plan.digest.as_ref().ok_or(SaveError::NoDigest)?.to_string();
        if let Some((provider, path)) = plan.first_literal_value().filter(|_| key.is_none()) {
            return Err(SaveError::WrittenOut(provider.to_string(), shorten(&path)));
        }
        let definitions = plan
            .entries
            .iter()
            .filter(|entry| !matches!(entry.verdict, Verdict::Unmanaged));
        Ok(Self {
            kind: KIND.to_owned(),
            version: VERSION,
            workspace: SavedWorkspace {
                id: plan.workspace.id.clone(),
                slug: plan.workspace.slug.clone(),
            },
            revision: plan
                .revision
                .as_ref()
                .map(|revision| revision.commit.clone()),
            update_method: method.as_str().to_owned(),
            only: only.iter().map(ToString::to_string).collect(),
            digest,
            fingerprint_key: key.map(FingerprintKey::id),
            definitions: definitions
                .map(|entry| SavedDefinition::of(&plan.workspace, entry, key))
                .collect(),
        })
    }

    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "texts, numbers, lists and maps with text keys always serialize"
    )]
    pub fn to_json(&self) -> String {
        printable_json(&serde_json::to_string_pretty(self).expect("a document"))
    }

    pub fn open(path: &Path) -> Result<Self, PlanFileError> {
        let name = path.display().to_string();
        let bytes = File::open(path)
            .and_then(|file| read_at_most(file, MAX))
            .map_err(|error| PlanFileError::Unreadable(name.clone(), error.to_string()))?;
        let too_large = || {
            let problem = format!("it is larger than {} MiB", MAX >> 20);
            PlanFileError::Form(name.clone(), problem)
        };
        Self::parse(&name, &bytes.ok_or_else(too_large)?)
    }

    /// Parses a saved plan. `name` is its path, for errors.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, PlanFileError> {
        let form = |problem: String| PlanFileError::Form(name.to_owned(), problem);
        // The error itself may quote the file, and a file given by mistake may hold anything.
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let saved: Self = serde_json::from_slice(text).map_err(|error| {
            form(format!(
                "line {} is not valid in a saved plan",
                error.line()
            ))
        })?;
        if saved.kind != KIND || saved.version != VERSION {
            return Err(form(format!(
                "it is not a `{KIND}` of version {VERSION}: use the same release for both"
            )));
        }
        if Digest::parse(&saved.digest).is_err() {
            return Err(form("its digest is malformed".to_owned()));
        }
        Ok(saved)
    }

    /// The providers that it was made for; empty for all.
    ///
    /// # Errors
    /// [`PlanFileError::Form`] if a name is not a provider.
    pub fn only(&self, path: &Path) -> Result<Vec<Provider>, PlanFileError> {
        let parse = |name: &String| {
            Provider::parse(name)
                .map_err(|e| PlanFileError::Form(path.display().to_string(), e.to_string()))
        };
        self.only.iter().map(parse).collect()
    }

    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.digest).ok()
    }

    /// The differences from the current plan, as sentences; empty if there are none.
    ///
    /// # Errors
    /// [`PlanFileError::Key`] if it is unknown whether secrets have changed.
    pub fn differences(
        &self,
        path: &Path,
        plan: &Plan,
        method: UpdateMethod,
        key: Option<&FingerprintKey>,
    ) -> Result<Vec<String>, PlanFileError> {
        let key = match (&self.fingerprint_key, key) {
            (None, _) => None,
            (Some(id), Some(key)) if key.id() == *id => Some(key),
            (Some(_), _) => return Err(PlanFileError::Key(path.display().to_string())),
        };
        let now = match Self::of(plan, method, &[], key) {
            Ok(now) => now,
            Err(error) => return Ok(vec![error.to_string()]),
        };
        let mut differences = Vec::new();
        if (&self.workspace.id, &self.workspace.slug) != (&now.workspace.id, &now.workspace.slug) {
            differences.push(format!(
                "it is for the workspace {}, and the API key belongs to {}",
                shorten(&self.workspace.slug),
                shorten(&now.workspace.slug)
            ));
        }
        if self.update_method != now.update_method {
            differences.push(format!(
                "it is for --update-method {}, and this run uses {}",
                shorten(&self.update_method).to_lowercase(),
                now.update_method.to_lowercase()
            ));
        }
        let (was, is) = (self.by_name(), now.by_name());
        for name in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            if let Some(difference) = difference(was.get(name).copied(), is.get(name).copied()) {
                differences.push(format!("{}: {difference}", shorten(name)));
            }
        }
        if differences.is_empty() && self.digest != now.digest {
            differences.push("its digest differs".to_owned());
        }
        Ok(differences)
    }

    fn by_name(&self) -> BTreeMap<&str, &SavedDefinition> {
        self.definitions
            .iter()
            .map(|definition| (definition.name.as_str(), definition))
            .collect()
    }
}

impl SavedDefinition {
    fn of(workspace: &Workspace, entry: &PlanEntry, key: Option<&FingerprintKey>) -> Self {
        Self {
            name: entry.label().to_owned(),
            state: entry.verdict.state().to_owned(),
            digest: Digest::of_entry(entry).to_string(),
            changes: entry.changes().iter().map(Change::path).collect(),
            secrets: key
                .map(|key| secrets(workspace, entry, key))
                .unwrap_or_default(),
        }
    }
}

fn secrets(
    workspace: &Workspace,
    entry: &PlanEntry,
    key: &FingerprintKey,
) -> BTreeMap<String, String> {
    let mut secrets = BTreeMap::new();
    let Verdict::Update(step) = &entry.verdict else {
        return secrets;
    };
    if !step.changes.iter().any(Change::sensitive) {
        return secrets;
    }
    for section in KeySection::BOTH {
        let values = step.desired.partner_key.section(section);
        for (name, value) in values.into_iter().flatten() {
            if let Some(secret) = &value.value {
                let place = FingerprintContext {
                    workspace: workspace.id.clone(),
                    provider: step.desired.provider.clone(),
                    section,
                    name: name.clone(),
                };
                let path = join_path(&["partnerKey", section.key(), name]);
                secrets.insert(path, key.fingerprint(&place, secret));
            }
        }
    }
    secrets
}

/// How one provider differs from the saved plan; `None` if it does not.
fn difference(was: Option<&SavedDefinition>, is: Option<&SavedDefinition>) -> Option<String> {
    let (was, is) = match (was, is) {
        (Some(was), Some(is)) => (was, is),
        (Some(was), None) => {
            return Some(format!(
                "it was {}, and no file manages it any more",
                shorten(&was.state)
            ));
        }
        (None, Some(is)) => {
            return Some(format!(
                "it was unmanaged, and is now {}",
                shorten(&is.state)
            ));
        }
        (None, None) => return None,
    };
    if was.state != is.state {
        return Some(format!(
            "it was {}, and is now {}",
            shorten(&was.state),
            shorten(&is.state)
        ));
    }
    let set = |definition: &'_ SavedDefinition| {
        definition.changes.iter().cloned().collect::<BTreeSet<_>>()
    };
    let (before, after) = (set(was), set(is));
    let list = |paths: Vec<&String>| {
        let first: Vec<String> = paths.iter().take(MOST).map(|path| shorten(path)).collect();
        match paths.len().saturating_sub(MOST) {
            0 => first.join(", "),
            more => format!("{} and {more} more", first.join(", ")),
        }
    };
    let (fresh, gone): (Vec<_>, Vec<_>) = (
        after.difference(&before).collect(),
        before.difference(&after).collect(),
    );
    let mut parts = Vec::new();
    if !fresh.is_empty() {
        parts.push(format!("would also change {}", list(fresh)));
    }
    if !gone.is_empty() {
        parts.push(format!("would no longer change {}", list(gone)));
    }
    if !parts.is_empty() {
        return Some(parts.join(", and "));
    }
    if was.digest != is.digest {
        return Some(
            "the same fields would change, but its file or Calry's definition has changed since"
                .to_owned(),
        );
    }
    let changed: Vec<&String> = is
        .secrets
        .iter()
        .filter(|(path, print)| was.secrets.get(*path) != Some(print))
        .map(|(path, _)| path)
        .collect();
    (!changed.is_empty()).then(|| format!("the values of {} would differ", list(changed)))
}

/// The first differences in one sentence, and the number of the others.
#[must_use]
pub fn join_differences(differences: &[String]) -> String {
    match differences.split_at_checked(MOST) {
        Some((first, more)) if !more.is_empty() => {
            format!("{}; and {} more", first.join("; "), more.len())
        }
        _ => differences.join("; "),
    }
}

fn shorten(text: &str) -> String {
    ellipsize(&printable(text), 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_differences_ends_with_the_number_of_the_others() {
        let joined = |n: usize| join_differences(&vec!["x".to_owned(); n]);
        let ten = ["x"; MOST].join("; ");
        assert_eq!(joined(0), "");
        assert_eq!(joined(2), "x; x");
        assert_eq!(joined(MOST), ten);
        assert_eq!(joined(MOST + 3), format!("{ten}; and 3 more"));
    }
}
