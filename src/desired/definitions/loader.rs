//! From a directory to definitions that are ready for their use: the steps after reading the files, in their order.

use std::path::Path;

use jiff::civil::Date;

use super::{DirectoryError, Loaded, MissingSecrets, load};
use crate::desired::secrets::SecretSources;
use crate::model::{Provider, closest};

/// How definitions are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'a> {
    /// The only providers that count; all if it is empty.
    pub only: &'a [Provider],
    /// The day in UTC, which decides whether a hold has ended.
    pub today: Date,
    /// What the definitions are for.
    pub purpose: Purpose<'a>,
}

/// What definitions are loaded for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// `validate`: names are compared with those that are known offline, and no secret is read.
    Check {
        /// Whether warnings are errors.
        strict: bool,
    },
    /// A plan: secrets are resolved. Names are compared later with those that Calry shows.
    Plan {
        /// Where secrets are.
        secrets: &'a SecretSources,
        /// What to do about a missing one.
        missing: MissingSecrets,
    },
    /// `pull`: as for a plan, if a provider may have no file yet.
    Pull {
        /// Where secrets are.
        secrets: &'a SecretSources,
        /// What to do about a missing one.
        missing: MissingSecrets,
    },
}

/// `--only` names a provider that has no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no definition file for {provider}, which --only names; {}", match meant {
    Some(meant) => format!("did you mean {meant}?"),
    None => format!("add {}.yaml, or leave it out", provider.file_stem()),
})]
pub struct NoFile {
    provider: Provider,
    /// One with a file and a similar name.
    meant: Option<Provider>,
}

/// Definitions cannot be loaded at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// `--only` names a provider that has no file.
    #[error(transparent)]
    NoFile(#[from] NoFile),
}

impl Loader<'_> {
    /// Loads a directory. Problems of single files are in [`Loaded::diagnostics`].
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(&self, directory: &Path) -> Result<Loaded, LoadError> {
        Ok(self.finish(load(directory)?)?)
    }

    /// Takes the steps after reading, for files that the caller has read: of a commit, or of a directory that may be missing.
    ///
    /// # Errors
    /// [`NoFile`].
    pub fn finish(&self, mut loaded: Loaded) -> Result<Loaded, NoFile> {
        if !self.only.is_empty() {
            if !matches!(self.purpose, Purpose::Pull { .. }) {
                self.check_each_has_a_file(&loaded)?;
            }
            loaded.keep_only(self.only);
        }
        match self.purpose {
            Purpose::Check { strict } => {
                loaded.check();
                loaded.check_holds(self.today);
                if strict {
                    loaded.deny_warnings();
                }
            }
            Purpose::Plan { secrets, missing } => {
                loaded.check_holds(self.today);
                loaded.resolve(secrets, missing);
            }
            Purpose::Pull { secrets, missing } => loaded.resolve(secrets, missing),
        }
        Ok(loaded)
    }

    fn check_each_has_a_file(&self, loaded: &Loaded) -> Result<(), NoFile> {
        let Some(provider) = loaded.first_without_file(self.only) else {
            return Ok(());
        };
        let with_files = || {
            loaded
                .files
                .iter()
                .filter_map(|file| file.provider.as_ref())
        };
        let meant = closest(provider.as_str(), with_files().map(Provider::as_str));
        let meant = with_files().find(|name| Some(name.as_str()) == meant);
        Err(NoFile {
            provider: provider.clone(),
            meant: meant.cloned(),
        })
    }
}
