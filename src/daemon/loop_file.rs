//! Remembers on disk, for one loop, which workspace it reconciled and what its observers have reported.
//!
//! It stands apart from the file of the workspace, because it answers what must be known before any workspace was read:
//! whether the API key still belongs to the same one, and whether a failure of the network was reported already.
//!
//! Never: holds a value of a definition, or stops a reconciliation because a file cannot be read or written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::state_file::{self, StateStore, put_aside};
use crate::model::{Workspace, hex};

/// The form of the file; one of another form is put aside.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes.
const MAX: u64 = 4 << 20;
/// How long the file system is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reports what reconciliations found, and must know after a restart what it reported before.
pub trait Observer: Send + Sync {
    /// Takes over what another process knew.
    fn restore(&self, known: &Map<String, Value>);

    /// What is to be known after a restart.
    fn known(&self) -> Map<String, Value>;
}

/// The workspace that a loop reconciled last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastWorkspace {
    pub(super) id: String,
    pub(super) slug: String,
}

/// The memory of one loop. Without a state directory it ends with the process.
#[derive(Default)]
pub struct LoopFile {
    /// Where it is; `None` without a state directory.
    file: Option<(StateStore, PathBuf)>,
    observer: Option<Arc<dyn Observer>>,
    memory: Mutex<LoopMemory>,
}

#[derive(Default)]
struct LoopMemory {
    is_read: bool,
    document: Document,
    /// What the file holds, as far as this process knows.
    written: Option<Document>,
    /// A write that was not waited for.
    writing: Option<JoinHandle<std::io::Result<()>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Whose file it is, for people.
    about: String,
    workspace: Option<LastWorkspace>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    notified: Map<String, Value>,
}

impl LoopFile {
    /// The file of the loop that has this name, or, if it is alone, keeps these definitions in this API.
    #[must_use]
    pub fn new(
        state: &StateStore,
        name: Option<&str>,
        definitions: &Path,
        api: &str,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let directory = std::path::absolute(definitions).unwrap_or_else(|_| definitions.to_owned());
        let about = match name {
            Some(name) => format!("the workspace {name} of the configuration, at {api}"),
            None => format!("{} at {api}", directory.display()),
        };
        let digest = hex(&Sha256::digest(&about));
        let name = format!("loop-{}.json", digest.get(..16).unwrap_or_default());
        let memory = LoopMemory {
            document: Document {
                version: VERSION,
                about,
                ..Document::default()
            },
            ..LoopMemory::default()
        };
        Self {
            file: state
                .directory()
                .map(|directory| (state.clone(), directory.join(name))),
            observer: Some(observer),
            memory: Mutex::new(memory),
        }
    }

    fn memory(&self) -> MutexGuard<'_, LoopMemory> {
        self.memory.lock()
    }

    /// The file, if the memory outlives the process.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(_, path)| path.as_path())
    }

    /// Reads the file, once in the life of the process.
    pub(super) async fn read(&self) {
        if std::mem::replace(&mut self.memory().is_read, true) {
            return;
        }
        let Some((_, path)) = self.file.clone().filter(|(state, _)| state.is_usable()) else {
            return;
        };
        let reading = tokio::task::spawn_blocking(move || read(&path));
        let read = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    "the state of the loop cannot be read in time; it is not known what was reported before"
                );
                return;
            }
        };
        let Some(document) = read else { return };
        self.observer
            .iter()
            .for_each(|observer| observer.restore(&document.notified));
        let mut memory = self.memory();
        memory.document.workspace = document.workspace.clone();
        memory.document.notified = document.notified.clone();
        memory.written = Some(document);
    }

    /// The workspace that was reconciled last.
    pub(super) fn workspace(&self) -> Option<LastWorkspace> {
        self.memory().document.workspace.clone()
    }

    /// Takes over which workspace is reconciled.
    pub(super) fn learn_workspace(&self, workspace: &Workspace) {
        let Workspace { id, slug, .. } = workspace;
        self.memory().document.workspace = Some(LastWorkspace {
            id: id.clone(),
            slug: slug.clone(),
        });
    }

    /// Writes the file if it differs. What cannot be written costs a report that is repeated after a restart; that the
    /// directory cannot be written is logged with the state of the workspace.
    pub async fn save(&self) {
        let Some((state, path)) = self.file.clone() else {
            return;
        };
        let document = {
            let mut memory = self.memory();
            if let Some(observer) = &self.observer {
                memory.document.notified = observer.known();
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
        // Maps of strings always serialize.
        let mut text = serde_json::to_vec_pretty(&document).unwrap_or_default();
        text.push(b'\n');
        let mut writing = tokio::task::spawn_blocking(move || state.write(&path, &text));
        match tokio::time::timeout(PATIENCE, &mut writing).await {
            Ok(Ok(Ok(()))) => self.memory().written = Some(document),
            Ok(_) => {}
            Err(_) => self.memory().writing = Some(writing),
        }
    }
}

fn read(path: &Path) -> Option<Document> {
    let read = match state_file::read(path, MAX) {
        Ok(None) => return None,
        Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
            Ok(Document {
                version: VERSION,
                about,
                workspace,
                notified,
            }) => {
                return Some(Document {
                    version: VERSION,
                    about,
                    workspace,
                    notified,
                });
            }
            Ok(Document { version, .. }) => {
                format!("it is of version {version}, and this program reads version {VERSION}")
            }
            // What a parser says may quote the text.
            Err(_) => "it is not what this program writes".to_owned(),
        },
        Err(why) => why,
    };
    let lost =
        "which workspace the API key belonged to, and what was reported: that is reported again";
    put_aside(path, &read, lost);
    None
}
