//! Fills in the values below `partnerKey`: every reference to a secret in definition files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::definition::{MAX_VALUE, Parameter};
use super::load::{Loaded, MissingSecrets};
use super::reader::quote_name;
use super::source::Collector;
use crate::desired::encrypted::{EncryptedSecret, EncryptedSecrets, Identities, IdentityError};
use crate::desired::secrets::{SecretError, SecretProblem, SecretSources};
use crate::model::{Code, Secret, SecretName, character_name, check_value};

impl Loaded {
    /// Fills in the values below `partnerKey`. Each secret is read once.
    ///
    /// An unusable secret is an error of every file that refers to it, whatever `missing` is. An empty one, and all of
    /// a directory that does not exist, count as missing if missing secrets are tolerated.
    pub fn resolve(&mut self, sources: &SecretSources, missing: MissingSecrets) {
        let mut secret_cache = SecretCache {
            sources,
            missing,
            encrypted: &self.encrypted,
            identities: None,
            found: BTreeMap::new(),
        };
        for file in &mut self.files {
            let has_references = file
                .locations()
                .flat_map(|locations| &locations.values)
                .any(|value| value.template.references().next().is_some());
            if !has_references {
                continue;
            }
            let mut desired = file.desired.clone();
            let mut partner_key = desired
                .as_mut()
                .map(|desired| &mut Arc::make_mut(desired).partner_key);
            self.diagnostics
                .extend(file.diagnose(true, |problems, locations| {
                    for parameter in &locations.values {
                        let value = secret_cache.resolve(problems, parameter);
                        let section = partner_key
                            .as_mut()
                            .and_then(|key| key.section_mut(parameter.section).as_mut());
                        if let Some(wanted) =
                            section.and_then(|section| section.get_mut(&parameter.name))
                        {
                            wanted.value = value;
                        }
                    }
                }));
            file.desired = file.desired.take().and(desired);
        }
        let found = secret_cache.found.into_values().filter_map(Result::ok);
        self.found_secrets = found.flatten().collect();
        self.sort();
    }
}

/// Reads each secret once.
struct SecretCache<'a> {
    sources: &'a SecretSources,
    missing: MissingSecrets,
    encrypted: &'a EncryptedSecrets,
    /// The operator's identities, read when the first secret needs them.
    identities: Option<Result<Identities, IdentityError>>,
    found: BTreeMap<SecretName, Result<Option<Secret>, SecretError>>,
}

impl SecretCache<'_> {
    /// Fills in the references of a value. `None` if a secret is missing, which is reported unless missing secrets are
    /// tolerated.
    fn resolve(&mut self, problems: &mut Collector<'_>, parameter: &Parameter) -> Option<Secret> {
        let Parameter {
            name, at, template, ..
        } = parameter;
        let at = Some(*at);
        let mut complete = true;
        for reference in template.references().collect::<BTreeSet<_>>() {
            match self.get(reference) {
                Ok(Some(found)) => {
                    if let Ok(Some(unseen)) = check_value(found.expose()) {
                        let unseen = character_name(unseen);
                        let message = format!(
                            "secret `{reference}` contains an invisible character ({unseen})"
                        );
                        let help =
                            "if it is not part of the secret, store the secret again without it";
                        problems.warning(Code::InvalidValue, at, message).help(help);
                    }
                }
                Ok(None) => {
                    complete = false;
                    let is_encrypted = self.encrypted_secret(reference).is_some();
                    let is_error = match self.missing {
                        MissingSecrets::Error => true,
                        MissingSecrets::ErrorUnlessEncrypted => !is_encrypted,
                        MissingSecrets::Unavailable | MissingSecrets::Placeholder => false,
                    };
                    if is_error {
                        let (advice, problem) = if is_encrypted {
                            let advice = "give the file of an identity with --age-identity-file";
                            let problem = "is encrypted, and there is no identity to decrypt it";
                            (advice.to_owned(), problem)
                        } else {
                            (self.sources.advice(reference), "not found")
                        };
                        let message = format!("secret `{reference}` {problem}");
                        problems
                            .error(Code::MissingSecret, at, message)
                            .help(advice);
                    }
                }
                Err(error) => {
                    complete = false;
                    let code = match error.problem() {
                        Some(SecretProblem::Invalid(_)) => Code::InvalidValue,
                        _ => Code::MissingSecret,
                    };
                    let message = error.to_string();
                    problems.error(code, at, message);
                }
            }
        }
        // A short value can refer to a long secret a thousand times.
        let size: usize = template
            .references()
            .filter_map(|name| self.secret(name))
            .map(|s| s.expose().len())
            .sum();
        if size > MAX_VALUE {
            complete = false;
            let name = quote_name(name, "key");
            let message = format!(
                "the value of {name} with its secrets is longer than {} KiB",
                MAX_VALUE >> 10
            );
            problems.error(Code::InvalidValue, at, message);
        }
        if complete {
            template.resolve(|name| self.secret(name).cloned()).ok()
        } else {
            None
        }
    }

    fn secret(&self, name: &SecretName) -> Option<&Secret> {
        self.found.get(name)?.as_ref().ok()?.as_ref()
    }

    fn encrypted_secret(&self, name: &SecretName) -> Option<&EncryptedSecret> {
        self.encrypted.files.get(name)?.as_ref()
    }

    fn get(&mut self, name: &SecretName) -> &Result<Option<Secret>, SecretError> {
        if !self.found.contains_key(name) {
            let found = self.find(name);
            self.found.insert(name.clone(), found);
        }
        self.found.get(name).unwrap_or(&Ok(None))
    }

    fn find(&mut self, name: &SecretName) -> Result<Option<Secret>, SecretError> {
        let is_strict = matches!(
            self.missing,
            MissingSecrets::Error | MissingSecrets::ErrorUnlessEncrypted
        );
        let absent = |error: &SecretError| {
            error.problem() == Some(SecretProblem::Empty) || error.is_without_directory()
        };
        let found = match self.sources.find(name) {
            Err(error) if is_strict || !absent(&error) => return Err(error),
            found => found.ok().flatten(),
        };
        if found.is_some() {
            return Ok(found);
        }
        if let Some(secret) = self.encrypted_secret(name).cloned()
            && let Some(file) = self.sources.identity_file()
        {
            let identities = self
                .identities
                .get_or_insert_with(|| Identities::read(file));
            return SecretSources::decrypt(name, &secret, identities.as_ref()).map(Some);
        }
        let is_placeholder = self.missing == MissingSecrets::Placeholder;
        Ok(is_placeholder.then(|| Secret::new(format!("sandbox-{name}"))))
    }
}
