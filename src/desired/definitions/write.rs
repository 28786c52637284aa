//! Writes files atomically: the text goes into a hidden file beside the target, which is synced to disk and then
//! renamed.
//!
//! Never: write outside the directory, follow a link, overwrite a file that has changed since it was read, or leave a
//! partly written file under the name of a definition.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use super::directory::{FileError, MAX_FILE, read_regular_file};

/// A file to write. Its `Debug` shows the name only.
pub struct FileWrite {
    name: String,
    before: Precondition,
    text: String,
}

/// What the file must hold for the write to happen.
enum Precondition {
    Nothing,
    Text(String),
    Anything,
}

/// What exists under the file's name.
enum Existing {
    Vacant,
    Same,
    /// Another text, and whether it begins with a byte-order mark.
    Other(Permissions, bool),
}

/// What a write does to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEffect {
    Created,
    Changed,
    /// The file has this text already.
    Same,
}

/// Why a file is not written. The sentences complete "`name` …".
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target of the link is another file than the one that was read.
    #[error(
        "is a symbolic link, and only regular files are overwritten; edit its target, or replace it with a file"
    )]
    Link,
    #[error("is not a regular file")]
    NotAFile,
    #[error("has changed since it was read, and is left as it is; run pull again")]
    Changed,
    #[error("exists already, and is left as it is")]
    Exists,
    #[error("cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl fmt::Debug for FileWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileWrite({})", self.name)
    }
}

impl FileWrite {
    fn over(before: Precondition, name: &str, text: String) -> Self {
        Self {
            name: name.to_owned(),
            before,
            text,
        }
    }

    pub(super) fn new(name: &str, text: String) -> Self {
        Self::over(Precondition::Nothing, name, text)
    }

    /// Replaces the text of a file that still holds `before`.
    pub(super) fn replacing(name: &str, before: &str, text: String) -> Self {
        Self::over(Precondition::Text(before.to_owned()), name, text)
    }

    /// A generated file: it is overwritten whatever it holds.
    #[must_use]
    pub fn unconditional(name: &str, text: String) -> Self {
        Self::over(Precondition::Anything, name, text)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text to write.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Compares the file with the precondition.
    fn examine(&self, directory: &Path) -> Result<Existing, WriteError> {
        let path = directory.join(&self.name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if matches!(self.before, Precondition::Text(_)) {
                    Err(WriteError::Changed)
                } else {
                    Ok(Existing::Vacant)
                };
            }
            Err(error) => return Err(error.into()),
        };
        match metadata.file_type() {
            kind if kind.is_symlink() => return Err(WriteError::Link),
            kind if !kind.is_file() => return Err(WriteError::NotAFile),
            _ => {}
        }
        let bytes = match read_regular_file(&path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(FileError::Unreadable(error)) => return Err(error.into()),
            Err(FileError::NotAFile) => return Err(WriteError::NotAFile),
            Err(FileError::TooLarge(_)) if matches!(self.before, Precondition::Anything) => {
                return Ok(Existing::Other(metadata.permissions(), false));
            }
            Err(_) => return Err(WriteError::Changed),
        };
        let (mark, text) = match bytes.strip_prefix("\u{feff}".as_bytes()) {
            Some(text) => (true, text),
            None => (false, bytes.as_slice()),
        };
        match &self.before {
            Precondition::Nothing => return Err(WriteError::Exists),
            Precondition::Text(before) if before.as_bytes() != text => {
                return Err(WriteError::Changed);
            }
            _ => {}
        }
        let same = text == self.text.as_bytes();
        Ok(if same {
            Existing::Same
        } else {
            Existing::Other(metadata.permissions(), mark)
        })
    }

    /// Writes the file, or only determines the effect (`dry_run`). An existing file keeps its mode and its byte-order
    /// mark.
    ///
    /// # Errors
    /// [`WriteError`] if it is not written; an existing file is then unchanged.
    pub fn write(&self, directory: &Path, dry_run: bool) -> Result<WriteEffect, WriteError> {
        // With one plain name the path cannot leave the directory.
        let mut components = Path::new(&self.name).components();
        if !matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(_)), None)
        ) {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename).into());
        }
        let (permissions, mark, written) = match self.examine(directory)? {
            Existing::Same => return Ok(WriteEffect::Same),
            Existing::Vacant => (None, false, WriteEffect::Created),
            Existing::Other(permissions, mark) => (Some(permissions), mark, WriteEffect::Changed),
        };
        if dry_run {
            return Ok(written);
        }
        // Hidden, and without the extension of a definition: no reader and no watcher mistakes it for one.
        let mut file = tempfile::Builder::new()
            .prefix(".calry-gitops-")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(directory)?;
        if mark {
            file.write_all("\u{feff}".as_bytes())?;
        }
        file.write_all(self.text.as_bytes())?;
        if let Some(permissions) = &permissions {
            file.as_file().set_permissions(permissions.clone())?;
        }
        file.as_file().sync_all()?;
        let path = directory.join(&self.name);
        let moved = if permissions.is_some() {
            file.persist(&path)
        } else {
            file.persist_noclobber(&path)
        };
        moved.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists,
            _ => error.error.into(),
        })?;
        // A file system that cannot sync a directory orders these steps itself.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_generated_file_replaces_one_that_is_too_large_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("a")).unwrap();
        file.set_len(MAX_FILE + 1).unwrap();
        let write = |write: FileWrite| write.write(directory.path(), true);
        assert!(matches!(
            write(FileWrite::replacing("a", "b", String::new())),
            Err(WriteError::Changed)
        ));
        assert!(matches!(
            write(FileWrite::unconditional("a", String::new())),
            Ok(WriteEffect::Changed)
        ));
        // A socket cannot be opened.
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        assert!(matches!(
            write(FileWrite::unconditional("s", String::new())),
            Err(WriteError::NotAFile)
        ));
        // What cannot be examined is not vacant.
        let below = FileWrite::new("b", String::new()).write(&directory.path().join("a"), true);
        assert!(matches!(below, Err(WriteError::Io(_))));
    }
}
