//! Stores for one loop which workspace it reconciled, which names that has in Calry, and what its observer has reported.
//!
//! It is separate from the state file of the workspace, because it is needed before the workspace is read: it shows whether
//! the API key still belongs to the same workspace, and whether a network failure was reported already.
//!
//! Never: hold a value of a definition, or stop a reconciliation because a file cannot be read or written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::catalogue_memory::{CatalogueFindings, CatalogueMemory};
use super::state_file::{self, PATIENCE, StateStore, rename_damaged};
use crate::machine;
use crate::model::{LiveNames, Workspace, hex};
use crate::reconcile::DefinitionsSource;

/// A file of another version is renamed and not used.
const VERSION: u32 = 1;
/// The largest file in bytes.
const MAX: u64 = 4 << 20;

/// Reports results of reconciliations, and needs its earlier reports after a restart.
pub trait Observer: Send + Sync {
    fn restore(&self, state: &Map<String, Value>);

    /// The state to restore after a restart.
    fn state(&self) -> Map<String, Value>;
}

/// Several observers, whose states have different keys.
impl Observer for Vec<Arc<dyn Observer>> {
    fn restore(&self, state: &Map<String, Value>) {
        self.iter().for_each(|observer| observer.restore(state));
    }

    fn state(&self) -> Map<String, Value> {
        self.iter().flat_map(|observer| observer.state()).collect()
    }
}

/// The workspace that a loop reconciled last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastWorkspace {
    pub(super) id: String,
    pub(super) slug: String,
}

/// The memory of one loop. Without a state directory it is lost with the process.
#[derive(Default)]
pub struct LoopFile {
    /// `None` without a state directory.
    file: Option<(StateStore, PathBuf)>,
    observer: Option<Arc<dyn Observer>>,
    memory: Mutex<LoopMemory>,
}

#[derive(Default)]
struct LoopMemory {
    is_read: bool,
    document: Document,
    /// The content of the file, as far as this process knows.
    written: Option<Document>,
    /// A write that hangs.
    writing: Option<JoinHandle<std::io::Result<()>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// The owner of the file, for people.
    about: String,
    workspace: Option<LastWorkspace>,
    #[serde(default)]
    catalogue: CatalogueMemory,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    notified: Map<String, Value>,
}

impl LoopFile {
    /// The file of the loop with this name; a single loop is identified by its definitions and API.
    #[must_use]
    pub fn new(
        state: &StateStore,
        name: Option<&str>,
        definitions: &DefinitionsSource,
        api: &str,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let definitions = match definitions {
            DefinitionsSource::Directory(directory) => {
                let directory =
                    std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
                directory.display().to_string()
            }
            DefinitionsSource::Git { remote, path } => format!("{path} of {}", remote.url()),
            DefinitionsSource::Memory(_) => "definitions in memory".to_owned(),
        };
        let about = match name {
            Some(name) => format!("the workspace {name} of the configuration, at {api}"),
            None => format!("{definitions} at {api}"),
        };
        let digest = hex(&Sha256::digest(&about));
        let name = format!("loop-{}.json", digest.get(..16).unwrap_or_default());
        let mut memory = LoopMemory::default();
        (memory.document.version, memory.document.about) = (VERSION, about);
        Self {
            file: state
                .directory()
                .map(|directory| (state.clone(), directory.join(name))),
            observer: Some(observer),
            memory: Mutex::new(memory),
        }
    }

    /// `None` without a state directory.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(_, path)| path.as_path())
    }

    /// Reads the file once per process.
    pub(super) async fn read(&self) {
        if std::mem::replace(&mut self.memory.lock().is_read, true) {
            return;
        }
        let Some((_, path)) = self.file.clone().filter(|(state, _)| state.is_usable()) else {
            return;
        };
        let reading = machine::spawn_blocking(move || read(&path));
        let read = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    "timed out reading the state of the loop; events may be reported again"
                );
                return;
            }
        };
        let Some(document) = read else { return };
        self.observer
            .iter()
            .for_each(|observer| observer.restore(&document.notified));
        let mut memory = self.memory.lock();
        memory.document.workspace = document.workspace.clone();
        memory.document.catalogue = document.catalogue.clone();
        memory.document.notified = document.notified.clone();
        memory.written = Some(document);
    }

    pub(super) fn workspace(&self) -> Option<LastWorkspace> {
        self.memory.lock().document.workspace.clone()
    }

    pub(super) fn learn_workspace(&self, workspace: &Workspace) {
        let Workspace { id, slug, .. } = workspace;
        self.memory.lock().document.workspace = Some(LastWorkspace {
            id: id.clone(),
            slug: slug.clone(),
        });
    }

    /// Learns the names that a workspace has in Calry. A standby is `quiet`.
    pub(super) fn learn_catalogue(
        &self,
        workspace: &Workspace,
        names: &LiveNames,
        quiet: bool,
    ) -> CatalogueFindings {
        let mut memory = self.memory.lock();
        memory.document.catalogue.learn(&workspace.id, names, quiet)
    }

    /// Writes the file if it changed. After a write error, a report may be repeated after a restart; the error is logged by the
    /// state file of the workspace, which is in the same directory.
    pub async fn save(&self) {
        let Some((state, path)) = self.file.clone() else {
            return;
        };
        let document = {
            let mut memory = self.memory.lock();
            if let Some(observer) = &self.observer {
                memory.document.notified = observer.state();
            }
            let hangs = memory
                .writing
                .as_ref()
                .is_some_and(|writing| !writing.is_finished());
            if hangs || !memory.is_read || memory.written.as_ref() == Some(&memory.document) {
                return;
            }
            memory.document.clone()
        };
        #[expect(clippy::expect_used, reason = "maps of strings always serialize")]
        let mut text = serde_json::to_vec_pretty(&document).expect("a document");
        text.push(b'\n');
        let mut writing = machine::spawn_blocking(move || state.write(&path, &text));
        match tokio::time::timeout(PATIENCE, &mut writing).await {
            Ok(Ok(Ok(()))) => self.memory.lock().written = Some(document),
            Ok(_) => {}
            Err(_) => self.memory.lock().writing = Some(writing),
        }
    }
}

fn read(path: &Path) -> Option<Document> {
    let read = match state_file::read(path, MAX) {
        Ok(None) => return None,
        Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
            Ok(Document { version, .. }) if version != VERSION => {
                format!("it is of version {version}, and this program reads version {VERSION}")
            }
            Ok(document) => return Some(document),
            // The parser's error may quote the text.
            Err(_) => "it was not written by calry-gitops".to_owned(),
        },
        Err(why) => why,
    };
    let lost = "the workspace of the API key is unknown, and events may be reported again";
    rename_damaged(path, &read, lost);
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::daemon::fixtures;

    #[derive(Default)]
    struct Reports(Mutex<Map<String, Value>>);

    impl Observer for Reports {
        fn restore(&self, state: &Map<String, Value>) {
            self.0.lock().clone_from(state);
        }

        fn state(&self) -> Map<String, Value> {
            self.0.lock().clone()
        }
    }

    /// The file of one loop, after its process started again.
    fn restarted(directory: &Path) -> (LoopFile, Arc<Reports>) {
        let state = StateStore::open(directory, None).unwrap();
        let definitions = DefinitionsSource::Directory("definitions".into());
        let reports = Arc::new(Reports::default());
        let observer = Arc::clone(&reports) as _;
        let file = LoopFile::new(&state, None, &definitions, "https://e.com", observer);
        (file, reports)
    }

    #[tokio::test]
    async fn a_restarted_loop_knows_its_workspace_and_its_reports_unless_the_file_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let (file, reports) = restarted(directory.path());
        let path = file.path().unwrap().to_owned();
        // What was not read yet must not be overwritten.
        file.save().await;
        assert!(!path.exists());
        file.read().await;
        file.learn_workspace(&fixtures::workspace());
        let is_news = |file: &LoopFile, provider| {
            let names = LiveNames::of(&[fixtures::live(provider)], [], false);
            let found = file.learn_catalogue(&fixtures::workspace(), &names, false);
            found.is_news
        };
        assert!(!is_news(&file, "GUESTY"));
        reports.0.lock().insert("failed".to_owned(), true.into());
        file.save().await;
        let inode = fs::metadata(&path).unwrap().ino();
        file.save().await;
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "nothing changed");

        let (file, reports) = restarted(directory.path());
        assert_eq!(file.workspace(), None);
        file.read().await;
        let workspace = file.workspace().unwrap();
        assert_eq!((&*workspace.id, &*workspace.slug), ("a", "acme"));
        assert_eq!(reports.0.lock().get("failed"), Some(&true.into()));
        assert!(!is_news(&file, "GUESTY") && is_news(&file, "HOSTAWAY"));

        let text = fs::read_to_string(&path).unwrap();
        let aside = path.with_added_extension("damaged");
        for damaged in [
            text.replace("\"version\": 1", "\"version\": 2"),
            text.replace('{', ""),
        ] {
            fs::write(&path, &damaged).unwrap();
            let (file, reports) = restarted(directory.path());
            file.read().await;
            assert!(file.workspace().is_none() && reports.0.lock().is_empty());
            assert_eq!(fs::read_to_string(&aside).unwrap(), damaged);
        }
    }

    #[tokio::test]
    async fn a_write_that_hangs_is_not_followed_by_another_one_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _) = restarted(directory.path());
        file.read().await;
        file.memory.lock().writing = Some(tokio::spawn(std::future::pending()));
        file.save().await;
        assert!(!file.path().unwrap().exists());
        let ended = tokio::spawn(async { Ok(()) });
        while !ended.is_finished() {
            tokio::task::yield_now().await;
        }
        file.memory.lock().writing = Some(ended);
        file.save().await;
        assert!(file.path().unwrap().exists());
    }
}
