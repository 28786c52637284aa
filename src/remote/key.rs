//! The API key, read anew for each pass, so that it can be rotated under a running daemon.

use std::io::Read;
use std::path::PathBuf;

use reqwest::header::HeaderValue;

use crate::model::Secret;

/// Where the operator keeps the API key.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A file, such as a mounted Kubernetes Secret.
    File(PathBuf),
    /// The variable `CALRY_API_KEY`, as it was when the program started; `None` where it is not set.
    Variable(Option<Secret>),
}

/// A key that can be sent.
#[derive(Clone, Debug)]
pub struct ApiKey {
    secret: Secret,
    header: HeaderValue,
    /// For sentences: "the API key from …".
    pub(super) source: String,
}

/// There is no key that could be sent.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nobody gave one.
    #[error(
        "there is no API key: put it into a file and name that with --api-key-file, or set the variable CALRY_API_KEY"
    )]
    None,
    /// The file cannot be read.
    #[error("the API key cannot be read from the file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        reason: String,
    },
    /// Nothing in it.
    #[error("{0} is empty: it should hold an API key (zepl.…)")]
    Empty(String),
    /// Something that cannot be a key.
    #[error("{0} does not hold an API key: a key is one line of plain characters (zepl.…), of at most {MAX} bytes")]
    Malformed(String),
}

const MAX: usize = 4096;

impl KeySource {
    /// Reads the key.
    ///
    /// # Errors
    /// [`KeyError`], which never repeats what was read.
    pub fn read(&self) -> Result<ApiKey, KeyError> {
        let (source, text) = match self {
            Self::Variable(None) => return Err(KeyError::None),
            Self::Variable(Some(key)) => ("the variable CALRY_API_KEY".to_owned(), key.expose().to_owned()),
            Self::File(path) => {
                let unreadable =
                    |reason: std::io::Error| KeyError::Unreadable { path: path.clone(), reason: reason.to_string() };
                let mut bytes = Vec::new();
                let file = std::fs::File::open(path).map_err(unreadable)?;
                file.take(MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
                let source = format!("the file {}", path.display());
                let text = String::from_utf8(bytes).map_err(|_| KeyError::Malformed(source.clone()))?;
                (source, text)
            }
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty(source));
        }
        let plain = text.len() <= MAX && text.bytes().all(|b| b.is_ascii_graphic());
        let mut header = match HeaderValue::from_str(text) {
            Ok(header) if plain => header,
            _ => return Err(KeyError::Malformed(source)),
        };
        header.set_sensitive(true);
        Ok(ApiKey { secret: Secret::new(text), header, source })
    }
}

impl ApiKey {
    /// The key itself, to compare it with the one of the last pass and to scrub it out of foreign texts.
    #[must_use]
    pub const fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_trimmed_and_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let source = KeySource::File(path.clone());
        assert!(matches!(source.read(), Err(KeyError::Unreadable { .. })));
        for (text, good) in
            [("zepl.a.b.c\n", true), ("zepl.d\r\n", true), ("  \n", false), ("two\nlines", false), ("ümlaut", false)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(source.read().is_ok(), good, "{text:?}");
        }
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains("does not hold an API key") && !error.contains("xxx"), "{error}");
    }

    #[test]
    fn a_key_shows_nothing_in_debug() {
        let key = KeySource::Variable(Some(Secret::new("zepl.canary"))).read().unwrap();
        assert!(!format!("{key:?}").contains("canary"));
    }
}
