//! The definition files of a commit, and whether those of a directory differ from them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use gix::objs::Kind;
use gix::{ObjectId, Repository};

use super::repository::{GitError, MAX_FILES, read_object, tree_at};
use crate::desired::definitions::directory::{
    FileError, MAX_ENCRYPTED_FILES, MAX_FILE, MAX_TOTAL, in_parallel, is_definition, is_encrypted,
    is_hidden, is_input, read_regular_file,
};
use crate::desired::definitions::load::{
    ReadFile, SharedFiles, extended_by, read_file, read_shared_file,
};
use crate::desired::definitions::shared::SharedError;
use crate::desired::definitions::{Loaded, SharedPath};
use crate::desired::encrypted;

/// The definition files of a commit, and those of the shared directory that its `workspace.yaml` extends.
pub(super) struct CommittedDefinitions {
    files: Vec<CommittedFile>,
    shared: Option<Result<CommittedShared, SharedError>>,
}

struct CommittedShared {
    /// Its path from the root of the repository.
    path: PathBuf,
    files: Vec<CommittedFile>,
}

struct CommittedFile {
    name: String,
    content: CommittedContent,
}

enum CommittedContent {
    Bytes(Vec<u8>),
    Link,
    TooLarge,
}

impl CommittedFile {
    fn content(&self) -> Result<Vec<u8>, FileError> {
        match &self.content {
            CommittedContent::Bytes(bytes) => Ok(bytes.clone()),
            CommittedContent::Link => Err(FileError::NotAFile),
            CommittedContent::TooLarge => Err(FileError::TooLarge(MAX_FILE)),
        }
    }
}

impl CommittedDefinitions {
    /// Reads the definition files of a commit's tree, from the directory at a path in it.
    pub(super) fn read(
        repository: &Repository,
        tree: ObjectId,
        path: &Path,
    ) -> Result<Self, GitError> {
        let mut budget = Budget::default();
        let files = match tree_at(repository, tree, path)? {
            Some(directory) => read_committed(repository, directory, &mut budget)?,
            None => Vec::new(),
        };
        let workspace = files.iter().find_map(|file| match &file.content {
            CommittedContent::Bytes(bytes) => extended_by(&file.name, bytes),
            CommittedContent::Link | CommittedContent::TooLarge => None,
        });
        let mut read_shared = |shared: &SharedPath| -> Result<_, GitError> {
            let path = match shared.in_repository(path) {
                Ok(path) => path,
                Err(error) => return Ok(Err(error)),
            };
            Ok(match tree_at(repository, tree, &path)? {
                Some(directory) => Ok(CommittedShared {
                    files: read_committed(repository, directory, &mut budget)?,
                    path,
                }),
                None => Err(SharedError::Missing),
            })
        };
        let shared = workspace.map(|path| read_shared(&path)).transpose()?;
        Ok(Self { files, shared })
    }

    /// Combines the files, as if they were in a directory.
    pub(super) fn load(&self, directory: PathBuf) -> Loaded {
        let beside = directory.clone();
        let files = in_parallel(&self.files, |file| read_file(&file.name, file.content()));
        Loaded::combine(directory, files, |path| {
            let shared = match &self.shared {
                Some(Ok(shared)) => shared,
                Some(Err(error)) => return Err(error.clone()),
                None => return Err(SharedError::Missing),
            };
            let read = |file: &CommittedFile| -> ReadFile {
                read_shared_file(path, &file.name, file.content())
            };
            Ok(SharedFiles {
                directory: beside.join(path.to_string()),
                files: in_parallel(&shared.files, read),
            })
        })
    }

    /// The path of the shared directory from the root of the repository.
    pub(super) fn shared_path(&self) -> Option<&Path> {
        match &self.shared {
            Some(Ok(shared)) => Some(&shared.path),
            Some(Err(_)) | None => None,
        }
    }
}

/// What was read of a commit, all of its directories together.
#[derive(Default)]
struct Budget {
    files: usize,
    bytes: u64,
}

fn read_committed(
    repository: &Repository,
    tree: ObjectId,
    budget: &mut Budget,
) -> Result<Vec<CommittedFile>, GitError> {
    let mut files = Vec::new();
    for (name, entry) in list_tree(repository, tree)? {
        let size = repository.find_header(entry.id)?.size();
        let content = if entry.is_link {
            CommittedContent::Link
        } else if size > MAX_FILE {
            CommittedContent::TooLarge
        } else {
            budget.bytes += size;
            CommittedContent::Bytes(read_object(repository, entry.id)?.detach().data)
        };
        if budget.files == MAX_FILES || budget.bytes > MAX_TOTAL {
            return Err(GitError::TooMuch);
        }
        budget.files += 1;
        // As in a directory, a name that is not UTF-8 is shown with replacement characters.
        files.push(CommittedFile {
            name: name.to_string_lossy().into_owned(),
            content,
        });
    }
    // Only the names of these files are used.
    let below = files_below(repository, tree)?
        .into_iter()
        .map(|name| CommittedFile {
            name,
            content: CommittedContent::Link,
        });
    files.extend(below.take(MAX_FILES));
    Ok(files)
}

/// The first YAML file of each directory of a tree, which would be a definition one level up: as in a directory on disk.
fn files_below(repository: &Repository, tree: ObjectId) -> Result<Vec<String>, GitError> {
    let (mut names, mut directories) = (Vec::new(), 0);
    for entry in read_object(repository, tree)?.try_into_tree()?.iter() {
        let entry = entry?;
        let name = OsString::from_vec(entry.filename().to_vec());
        if !entry.mode().is_tree() || is_hidden(&name) {
            continue;
        }
        directories += 1;
        if directories > MAX_FILES {
            break;
        }
        let below = read_object(repository, entry.object_id())?.try_into_tree()?;
        let files = below.iter().take(MAX_FILES).filter_map(Result::ok);
        let mut files = files
            .filter(|file| file.mode().is_blob_or_symlink())
            .map(|file| OsString::from_vec(file.filename().to_vec()));
        if let Some(file) = files.find(|name| is_definition(name)) {
            names.push(Path::new(&name).join(file).to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Whether the definition files of a directory differ from those of a commit's tree, at a path in it, or those of the
/// shared directory, at its path. Content is compared byte by byte with the commit, not with the index, and line ends are
/// content.
pub(super) fn is_dirty(
    repository: &Repository,
    tree: ObjectId,
    directory: &Path,
    path: &Path,
    shared: Option<&Path>,
) -> Result<bool, GitError> {
    let root = directory.ancestors().nth(path.iter().count());
    let shared = shared.and_then(|path| Some((root?.join(path), path)));
    Ok(differs(repository, tree, directory, path)?
        || match shared {
            Some((directory, path)) => differs(repository, tree, &directory, path)?,
            None => false,
        })
}

fn differs(
    repository: &Repository,
    tree: ObjectId,
    directory: &Path,
    path: &Path,
) -> Result<bool, GitError> {
    let committed = match tree_at(repository, tree, path)? {
        Some(tree) => list_tree(repository, tree)?,
        None => BTreeMap::new(),
    };
    let mut same = 0;
    let encrypted = match fs::read_dir(directory.join(encrypted::DIRECTORY)) {
        Ok(below) => Some(below.map(|entry| entry.map(|entry| (entry, true)))),
        Err(_) => None,
    };
    let files = fs::read_dir(directory)?.map(|entry| entry.map(|entry| (entry, false)));
    for entry in files.chain(encrypted.into_iter().flatten()) {
        let (entry, is_below) = entry?;
        let mut name = entry.file_name();
        let kind = entry.file_type()?;
        let is_read = match is_below {
            true => is_encrypted(&name),
            false => is_input(&name),
        };
        if !is_read || kind.is_dir() {
            continue;
        }
        if is_below {
            name = Path::new(encrypted::DIRECTORY).join(name).into();
        }
        let Some(expected) = committed.get(&name).filter(|_| same < MAX_FILES) else {
            return Ok(true);
        };
        let content = if kind.is_symlink() {
            fs::read_link(entry.path())
                .ok()
                .map(|target| target.into_os_string().into_vec())
        } else {
            read_regular_file(&entry.path(), MAX_FILE).ok()
        };
        let Some(content) = content else {
            return Ok(true);
        };
        let found = TreeFile {
            is_link: kind.is_symlink(),
            id: gix::objs::compute_hash(repository.object_hash(), Kind::Blob, &content)?,
        };
        if *expected != found {
            return Ok(true);
        }
        same += 1;
    }
    Ok(same != committed.len())
}

#[derive(Debug, PartialEq, Eq)]
struct TreeFile {
    is_link: bool,
    id: ObjectId,
}

/// The definition files of a tree, and its encrypted secrets with their path.
fn list_tree(
    repository: &Repository,
    tree: ObjectId,
) -> Result<BTreeMap<OsString, TreeFile>, GitError> {
    let tree = read_object(repository, tree)?.try_into_tree()?;
    let mut files = BTreeMap::new();
    for entry in tree.iter() {
        let entry = entry?;
        let name = OsString::from_vec(entry.filename().to_vec());
        if entry.mode().is_blob_or_symlink() && is_input(&name) {
            files.insert(name, TreeFile::of(&entry));
        } else if entry.mode().is_tree() && name == encrypted::DIRECTORY {
            let below = read_object(repository, entry.object_id())?.try_into_tree()?;
            let before = files.len();
            for entry in below.iter() {
                let entry = entry?;
                let file = OsString::from_vec(entry.filename().to_vec());
                if !entry.mode().is_blob_or_symlink() || !is_encrypted(&file) {
                    continue;
                }
                if files.len() - before == MAX_ENCRYPTED_FILES {
                    return Err(GitError::TooMuch);
                }
                files.insert(Path::new(&name).join(file).into(), TreeFile::of(&entry));
            }
        }
    }
    Ok(files)
}

impl TreeFile {
    fn of(entry: &gix::object::tree::EntryRef<'_, '_>) -> Self {
        Self {
            is_link: entry.mode().is_link(),
            id: entry.object_id(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use gix::objs::Write as _;
    use gix::objs::tree::{Entry, EntryKind};

    use super::super::repository::MAX_OBJECT;
    use super::*;

    /// A tree whose entries have these names, all with one object.
    fn tree(repository: &Repository, kind: EntryKind, id: ObjectId, names: &[String]) -> ObjectId {
        let entries = names.iter().map(|name| Entry {
            mode: kind.into(),
            filename: name.as_str().into(),
            oid: id,
        });
        let tree = gix::objs::Tree {
            entries: entries.collect(),
        };
        repository.write_object(&tree).unwrap().detach()
    }

    fn names(count: usize, suffix: &str) -> Vec<String> {
        (0..count).map(|n| format!("{n:05}{suffix}")).collect()
    }

    #[test]
    fn files_and_directories_of_a_commit_are_read_up_to_their_limits() {
        let directory = tempfile::tempdir().unwrap();
        let repository = gix::ThreadSafeRepository::init_opts(
            directory.path(),
            gix::create::Kind::Bare,
            gix::create::Options::default(),
            gix::open::Options::isolated(),
        )
        .unwrap()
        .to_thread_local();
        let blob = |size: u64| {
            let bytes = vec![b'a'; usize::try_from(size).unwrap()];
            repository.objects.write_buf(Kind::Blob, &bytes).unwrap()
        };
        let (empty, largest, larger) = (blob(0), blob(MAX_FILE), blob(MAX_FILE + 1));
        let read = |id: ObjectId, count: usize| {
            let tree = tree(&repository, EntryKind::Blob, id, &names(count, ".yaml"));
            read_committed(&repository, tree, &mut Budget::default())
        };
        let is_read = |id: ObjectId| {
            let files = read(id, 1).unwrap();
            matches!(files[0].content, CommittedContent::Bytes(_))
        };
        assert!(is_read(largest) && !is_read(larger));
        let object = |size| read_object(&repository, blob(size)).map(|object| object.data.len());
        assert!(object(MAX_OBJECT).is_ok());
        assert!(matches!(
            object(MAX_OBJECT + 1),
            Err(GitError::TooLarge(..))
        ));
        assert!(read(empty, MAX_FILES).is_ok());
        assert!(matches!(read(empty, MAX_FILES + 1), Err(GitError::TooMuch)));
        let most = usize::try_from(MAX_TOTAL / MAX_FILE).unwrap();
        assert!(read(largest, most).is_ok());
        assert!(matches!(read(largest, most + 1), Err(GitError::TooMuch)));

        let below = tree(&repository, EntryKind::Blob, empty, &names(2, ".yaml"));
        let found_below = |count| {
            let root = tree(&repository, EntryKind::Tree, below, &names(count, ""));
            files_below(&repository, root).unwrap().len()
        };
        assert_eq!([found_below(3), found_below(MAX_FILES + 1)], [3, MAX_FILES]);

        let of = |entries: &[(EntryKind, &str, ObjectId)]| {
            let entries = entries.iter().map(|(kind, name, oid)| Entry {
                mode: (*kind).into(),
                filename: (*name).into(),
                oid: *oid,
            });
            let entries = entries.collect();
            let tree = gix::objs::Tree { entries };
            repository.write_object(&tree).unwrap().detach()
        };
        let listed = |entries: &[(EntryKind, &str, ObjectId)]| {
            list_tree(&repository, of(entries)).map(|files| files.len())
        };
        let secrets = |count| tree(&repository, EntryKind::Blob, empty, &names(count, ".age"));
        let with_secrets = |count| {
            listed(&[
                (EntryKind::Blob, "a.yaml", empty),
                (EntryKind::Tree, encrypted::DIRECTORY, secrets(count)),
            ])
        };
        let most = MAX_ENCRYPTED_FILES;
        assert_eq!(with_secrets(most).unwrap(), most + 1);
        assert!(matches!(with_secrets(most + 1), Err(GitError::TooMuch)));
        let others = of(&[
            (EntryKind::Blob, "notes.txt", empty),
            (EntryKind::Tree, "x.age", below),
        ]);
        for entry in [
            (EntryKind::Tree, "docs", secrets(1)),
            (EntryKind::Tree, encrypted::DIRECTORY, others),
            (EntryKind::Blob, encrypted::DIRECTORY, empty),
        ] {
            assert_eq!(listed(&[entry]).unwrap(), 0, "{entry:?}");
        }

        // A work tree with more files than can be read is not compared to its end.
        let work = tempfile::tempdir().unwrap();
        let is_different = |count| {
            let names = names(count, ".yaml");
            for name in &names {
                fs::write(work.path().join(name), "").unwrap();
            }
            let tree = tree(&repository, EntryKind::Blob, empty, &names);
            differs(&repository, tree, work.path(), Path::new("")).unwrap()
        };
        assert!(!is_different(3) && is_different(MAX_FILES + 1));

        // A path through a file leads nowhere.
        let root = tree(&repository, EntryKind::Blob, empty, &names(1, ""));
        let found = tree_at(&repository, root, Path::new(&names(1, "")[0]));
        assert_eq!(found.unwrap(), None);
    }
}
