//! Files that are written under another name and then renamed, so that no reader sees a part of one.

use std::fs::DirEntry;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use tempfile::{Builder, NamedTempFile};

/// Writes a file that only this user can read, durably, under a name with this prefix. It is removed unless it is renamed.
///
/// # Errors
/// Those of the directory and the file.
pub fn write_temporary(directory: &Path, prefix: &str, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = Builder::new().prefix(prefix).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Whether a file with this prefix is of a process that was killed: nothing has been written to it for that time.
#[must_use]
pub fn is_left_over(entry: &DirEntry, prefix: &str, age: Duration) -> bool {
    let modified = || entry.metadata()?.modified();
    let elapsed = || modified().ok()?.elapsed().ok();
    let name = entry.file_name();
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
        && elapsed().is_some_and(|elapsed| elapsed > age)
}
