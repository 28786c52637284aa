//! Reads of bounded size: every file that this program opens goes through here.

use std::io::{self, Read};

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
