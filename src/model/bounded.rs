//! Reads of bounded size: every file that this program opens goes through here.

use std::io::{self, Read};

/// Everything that a reader holds; `None` if that is more than `max` bytes.
///
/// # Errors
/// Those of the reader.
pub fn read_at_most(reader: impl Read, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = reader.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((length as u64 <= max).then_some(bytes))
}
