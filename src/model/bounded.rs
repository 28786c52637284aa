//! Reads of bounded size, and opens that never wait: files that others can replace are opened here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// What to do with a path whose last component is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    Follow,
    Refuse,
}

/// Opens a file for reading. Never waits: what was a file a moment ago may be a pipe without a writer by now. The caller
/// checks that the open file is a regular one.
pub fn open_without_waiting(path: &Path, last_link: LastLink) -> io::Result<File> {
    let flags = match last_link {
        LastLink::Follow => OFlags::empty(),
        LastLink::Refuse => OFlags::NOFOLLOW,
    };
    let flags = flags.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Everything that a reader holds; `None` if that is more than `max` bytes.
pub fn read_at_most(reader: impl Read, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let length = reader.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((length as u64 <= max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_as_allowed_is_read_and_no_endless_reader_is_followed() {
        assert_eq!(read_at_most(&b"four"[..], 4).unwrap().unwrap(), b"four");
        assert_eq!(read_at_most(&b"four"[..], 3).unwrap(), None);
        assert_eq!(read_at_most(io::repeat(0), 4).unwrap(), None);
    }
}
