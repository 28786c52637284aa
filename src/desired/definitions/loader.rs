//! Loads the definitions of a directory and takes the steps after reading in their order.

use std::path::Path;

use jiff::civil::Date;

use super::{DirectoryError, Loaded, MissingSecrets, load};
use crate::desired::secrets::SecretSources;
use crate::model::{Provider, closest};

/// How definitions are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'a> {
    /// The only providers to load; empty for all.
    pub only: &'a [Provider],
    /// Today in UTC: decides whether a hold has ended.
    pub today: Date,
    pub purpose: Purpose<'a>,
}

/// What definitions are loaded for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// `validate`: checks names against those known offline, and reads no secret.
    Check {
        /// Whether warnings are errors.
        strict: bool,
    },
    /// A plan: resolves secrets. Names are checked later, against live state.
    Plan {
        secrets: &'a SecretSources,
        missing: MissingSecrets,
    },
    /// `pull`: like a plan, but a provider may have no file yet.
    Pull {
        secrets: &'a SecretSources,
        missing: MissingSecrets,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no definition file for {provider}, which --only names; {}", match similar {
    Some(similar) => format!("did you mean {similar}?"),
    None => format!("add {}.yaml, or remove {provider} from --only", provider.file_stem()),
})]
pub struct NoFile {
    provider: Provider,
    /// A provider with a file and a similar name.
    similar: Option<Provider>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    NoFile(#[from] NoFile),
}

impl Loader<'_> {
    /// Loads a directory. Problems of single files are in [`Loaded::diagnostics`].
    pub fn load(&self, directory: &Path) -> Result<Loaded, LoadError> {
        Ok(self.finish(load(directory)?)?)
    }

    /// Takes the steps after reading, for files that the caller has read: those of a commit, or of a directory that may
    /// be missing.
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
        let with_files = || {
            loaded
                .files
                .iter()
                .filter_map(|file| file.provider.as_ref())
        };
        let has_file = |provider: &&Provider| with_files().any(|other| other == *provider);
        let Some(provider) = self.only.iter().find(|provider| !has_file(provider)) else {
            return Ok(());
        };
        let similar = closest(provider.as_str(), with_files().map(Provider::as_str));
        let similar = with_files().find(|name| Some(name.as_str()) == similar);
        Err(NoFile {
            provider: provider.clone(),
            similar: similar.cloned(),
        })
    }
}
