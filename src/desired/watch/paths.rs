//! Which directories to watch, and which names in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind};

use super::super::definitions::directory::{is_encrypted, is_input};
use super::inbox::Hint;

/// As many links as Linux follows before it reports a loop.
const MAX_LINKS: usize = 40;
/// Without a limit, links could use up the watches that other programs of the machine need.
const MAX_DIRECTORIES: usize = 64;

/// The directories to watch, by their paths without links. Only directories: a watch on a file or through a link fires
/// once and never again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WatchPaths(BTreeMap<PathBuf, WatchedDir>);

#[derive(Debug, Default, PartialEq, Eq)]
struct WatchedDir {
    /// Device and inode.
    identity: Option<(u64, u64)>,
    /// Links, missing entries and ends of paths.
    names: BTreeSet<OsString>,
    /// The files that count.
    filter: Option<FileFilter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFilter {
    Definitions,
    /// Encrypted secrets.
    Encrypted,
    /// Every file that is not hidden.
    Visible,
}

impl FileFilter {
    pub(super) fn matches(self, name: &OsStr) -> bool {
        match self {
            Self::Definitions => is_input(name),
            Self::Encrypted => is_encrypted(name),
            Self::Visible => !name.as_encoded_bytes().starts_with(b"."),
        }
    }
}

impl WatchedDir {
    fn matches(&self, name: &OsStr) -> bool {
        self.filter.is_some_and(|filter| filter.matches(name))
    }
}

impl WatchPaths {
    pub(super) fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    pub(super) fn add(&mut self, directory: &Path, name: &OsStr) {
        if let Some(watched) = self.directory(directory)
            && !watched.matches(name)
        {
            watched.names.insert(name.to_owned());
        }
    }

    pub(super) fn add_all(&mut self, directory: &Path, filter: FileFilter) {
        if let Some(watched) = self.directory(directory) {
            watched.filter = Some(filter);
        }
    }

    fn directory(&mut self, directory: &Path) -> Option<&mut WatchedDir> {
        if !self.0.contains_key(directory) {
            if self.0.len() == MAX_DIRECTORIES {
                return None;
            }
            let identity = fs::metadata(directory)
                .ok()
                .map(|known| (known.dev(), known.ino()));
            let watched = WatchedDir {
                identity,
                ..WatchedDir::default()
            };
            self.0.insert(directory.to_owned(), watched);
        }
        self.0.get_mut(directory)
    }

    /// What an event is about, if it concerns these paths. Events of reading are ignored, because scans cause them.
    pub(super) fn hint(&self, event: &notify::Result<Event>) -> Option<Hint> {
        let Ok(event) = event else {
            return Some(Hint::Path);
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) => return None,
            _ if event.need_rescan() => return Some(Hint::Path),
            _ => {}
        }
        event
            .paths
            .iter()
            .filter_map(|path| self.hint_of_path(path))
            .max()
    }

    fn hint_of_path(&self, path: &Path) -> Option<Hint> {
        if self.0.contains_key(path) {
            return Some(Hint::Path);
        }
        let (watched, name) = (self.0.get(path.parent()?)?, path.file_name()?);
        if watched.names.contains(name) {
            Some(Hint::Path)
        } else {
            watched.matches(name).then_some(Hint::File)
        }
    }
}

/// Resolves a path that begins at a directory without links. Calls `visit` for each entry that decides where the path leads
/// (each link, a missing entry, and the end), with the directory of the entry, free of links, and its name.
pub(super) fn resolve(
    from: &Path,
    path: &Path,
    mut visit: impl FnMut(&Path, &OsStr),
) -> io::Result<PathBuf> {
    let mut at = from.to_owned();
    let mut ahead = Vec::new();
    push_steps(&mut ahead, path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match name.as_encoded_bytes() {
            b"/" => {
                at = PathBuf::from("/");
                continue;
            }
            b".." => {
                at.pop();
                continue;
            }
            _ => {}
        }
        let next = at.join(&name);
        let is_link = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata.is_symlink(),
            Err(error) => {
                visit(&at, &name);
                return Err(error);
            }
        };
        if is_link || ahead.is_empty() {
            visit(&at, &name);
        }
        if is_link {
            links += 1;
            if links > MAX_LINKS {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            push_steps(&mut ahead, &fs::read_link(&next)?);
        } else {
            at = next;
        }
    }
    Ok(at)
}

/// Adds the components of a path, of which the first is the last to be added: `/`, `..` or a name.
fn push_steps(ahead: &mut Vec<OsString>, path: &Path) {
    let components = path.components().rev();
    let components = components.filter(|component| *component != Component::CurDir);
    ahead.extend(components.map(|component| component.as_os_str().to_owned()));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn as_many_links_are_followed_as_the_system_follows() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("0")).unwrap();
        for link in 1..=MAX_LINKS + 1 {
            symlink((link - 1).to_string(), root.join(link.to_string())).unwrap();
        }
        for link in [MAX_LINKS, MAX_LINKS + 1] {
            let name = link.to_string();
            let mut seen = 0;
            let found = resolve(&root, Path::new(&name), |_, _| seen += 1);
            assert_eq!(
                found.is_ok(),
                fs::metadata(root.join(&name)).is_ok(),
                "{link}"
            );
            assert_eq!(found.ok(), (link == MAX_LINKS).then(|| root.join("0")));
            assert_eq!(seen, MAX_LINKS + 1);
        }
    }

    #[test]
    fn the_number_of_watched_directories_has_a_limit() {
        let mut paths = WatchPaths::default();
        for number in 0..2 * MAX_DIRECTORIES {
            paths.add(Path::new(&format!("/none/{number}")), OsStr::new("a"));
        }
        assert_eq!(paths.directories().count(), MAX_DIRECTORIES);
    }

    #[test]
    fn an_event_concerns_the_watched_names_of_its_directory_only() {
        let (root, definitions) = (Path::new("/none"), Path::new("/none/definitions"));
        let mut paths = WatchPaths::default();
        paths.add(root, OsStr::new("definitions"));
        paths.add_all(definitions, FileFilter::Definitions);
        for name in ["..data", "a.yaml"] {
            paths.add(definitions, OsStr::new(name));
        }
        let hint = |kind: EventKind, names: &[&str]| {
            let event = Event::new(kind);
            let event = names
                .iter()
                .fold(event, |event, name| event.add_path(definitions.join(name)));
            paths.hint(&Ok(event))
        };
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        for kind in [written, EventKind::Any] {
            assert_eq!(hint(kind, &["a.yaml"]), Some(Hint::File));
            assert_eq!(hint(kind, &["notes.txt"]), None);
            assert_eq!(hint(kind, &["..data"]), Some(Hint::Path));
            assert_eq!(hint(kind, &[".."]), None);
            assert_eq!(hint(kind, &["/none/definitions"]), Some(Hint::Path));
            assert_eq!(hint(kind, &["/none/other"]), None);
            assert_eq!(hint(kind, &["/a.yaml"]), None);
            let both = hint(kind, &["a.yaml", "..data", "notes.txt"]);
            assert_eq!(both, Some(Hint::Path));
        }
        assert_eq!(hint(read, &["a.yaml", "..data"]), None);
        assert_eq!(hint(EventKind::Any, &[]), None);
        let lost = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(paths.hint(&Ok(lost)), Some(Hint::Path));
        let failed = notify::Error::generic("unknown");
        assert_eq!(paths.hint(&Err(failed)), Some(Hint::Path));
    }

    #[test]
    fn visible_files_are_those_without_a_dot_in_front() {
        for (name, visible) in [("token", true), (".hidden", false), ("..data", false)] {
            assert_eq!(FileFilter::Visible.matches(OsStr::new(name)), visible);
        }
    }

    #[test]
    fn a_directory_in_the_place_of_another_is_another_path() {
        let dir = tempfile::tempdir().unwrap();
        let definitions = dir.path().join("definitions");
        let paths = || {
            let mut paths = WatchPaths::default();
            paths.add_all(&definitions, FileFilter::Definitions);
            paths
        };
        fs::create_dir(&definitions).unwrap();
        let before = paths();
        assert_eq!(before, paths());
        fs::rename(&definitions, dir.path().join("before")).unwrap();
        fs::create_dir(&definitions).unwrap();
        assert_ne!(before, paths());
    }

    #[test]
    fn the_links_the_end_and_a_missing_entry_decide_where_a_path_leads() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("real/sub")).unwrap();
        symlink("./real/../real", root.join("relative")).unwrap();
        symlink(root.join("relative"), root.join("absolute")).unwrap();
        let resolved = |path: &str| {
            let mut visited = Vec::new();
            let found = resolve(&root, Path::new(path), |directory, name| {
                let directory = directory.strip_prefix(&root).unwrap();
                visited.push(directory.join(name).to_str().unwrap().to_owned());
            });
            (found.ok(), visited)
        };
        let end = |name: &str| Some(root.join(name));
        let visited = ["absolute", "relative", "real/sub"].map(str::to_owned);
        assert_eq!(
            resolved("./absolute/sub"),
            (end("real/sub"), visited.into())
        );
        assert_eq!(
            resolved("real/sub"),
            (end("real/sub"), vec!["real/sub".into()])
        );
        assert_eq!(resolved("/"), (Some("/".into()), Vec::new()));
        assert_eq!(resolved("real/none/sub"), (None, vec!["real/none".into()]));
    }
}
