//! Definitions held in memory instead of in a directory, with the same meaning: for simulated histories.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::{DirectoryError, Loaded, load_texts};
use crate::model::Revision;

/// The files at one moment.
#[derive(Clone, Debug, Default)]
pub struct MemoryDirectory {
    /// By name. `None` if the directory is missing.
    pub files: Option<BTreeMap<String, Vec<u8>>>,
    /// The names of the files that are being written.
    pub unsettled: Vec<String>,
    pub revision: Option<Revision>,
}

/// The files, which may change at any time.
#[derive(Clone, Debug, Default)]
pub struct MemoryDefinitions(watch::Sender<Arc<MemoryDirectory>>);

impl MemoryDefinitions {
    /// Replaces the files. Without `notify`, no loop is notified, as if the file event had been lost.
    pub fn replace(&self, directory: MemoryDirectory, notify: bool) {
        self.0.send_if_modified(|known| {
            *known = Arc::new(directory);
            notify
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<MemoryDirectory>> {
        self.0.subscribe()
    }

    /// # Errors
    /// As for a directory: it is missing or has no definition file.
    pub(crate) fn load(&self) -> Result<(Loaded, Option<Revision>), DirectoryError> {
        let directory = Arc::clone(&self.0.borrow());
        let name = Path::new("memory");
        let Some(files) = &directory.files else {
            return Err(DirectoryError::Unreadable {
                directory: name.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            });
        };
        let files = files.iter();
        let mut loaded = load_texts(files.map(|(name, content)| (name.as_str(), content.clone())));
        loaded.directory = PathBuf::from(name);
        let loaded = loaded.reject_empty(name)?;
        Ok((loaded, directory.revision.clone()))
    }
}
