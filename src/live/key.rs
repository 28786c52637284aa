//! API keys: where they come from, and what may be one. A key is never an argument, never shown and never kept longer than
//! the session that uses it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::model::{Secret, is_quoted, trim_token};

/// An API key's longest form, in bytes, surrounding white space included.
const MAX_LEN: usize = 4096;

/// Where the operator put the API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file, read anew for each session so that rotation needs no restart.
    File(PathBuf),
    /// The variable `CALRY_API_KEY`, as it was when the process started.
    Variable(Option<Secret>),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Variable(_) => f.write_str("the variable CALRY_API_KEY"),
        }
    }
}

/// An API key that can be sent. Two are equal where the keys are, wherever they come from.
#[derive(Clone, Debug)]
pub struct ApiKey {
    secret: Secret,
    source: String,
}

impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl Eq for ApiKey {}

/// No usable API key is at hand. It never repeats what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "there is no API key: name its file with --api-key-file, or set the variable CALRY_API_KEY"
    )]
    Missing,
    #[error("cannot read the API key from {from}: {cause}")]
    Unreadable {
        /// The source, for a person.
        from: String,
        /// What the operating system said.
        cause: String,
    },
    #[error("{0} holds no API key: it is empty")]
    Empty(String),
    #[error(
        "{0} holds an API key in quotes, and the quotes are part of the value: remove them (`docker --env-file` keeps them)"
    )]
    Quoted(String),
    #[error(
        "{0} does not hold an API key: a key is one line of printable ASCII without spaces, of at most {MAX_LEN} bytes"
    )]
    Invalid(String),
}

impl KeySource {
    /// Reads the key, anew at each call. White space around it is dropped, and a byte order mark before it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(&self) -> Result<ApiKey, KeyError> {
        let source = self.to_string();
        let bytes = match self {
            Self::Variable(None) => return Err(KeyError::Missing),
            Self::Variable(Some(value)) => value.expose().as_bytes().to_vec(),
            Self::File(path) => {
                let mut bytes = Vec::new();
                File::open(path)
                    .and_then(|file| file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes))
                    .map_err(|e| KeyError::Unreadable {
                        from: source.clone(),
                        cause: e.to_string(),
                    })?;
                bytes
            }
        };
        if bytes.len() > MAX_LEN {
            return Err(KeyError::Invalid(source));
        }
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Err(KeyError::Invalid(source));
        };
        match trim_token(text) {
            "" => Err(KeyError::Empty(source)),
            key if is_quoted(key) => Err(KeyError::Quoted(source)),
            key if key.bytes().all(|b| b.is_ascii_graphic()) => Ok(ApiKey {
                secret: Secret::new(key),
                source,
            }),
            _ => Err(KeyError::Invalid(source)),
        }
    }
}

impl ApiKey {
    /// The key, for the header that carries it.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What may not be shown of it: all but the workspace's name at its end.
    pub(super) fn confidential(&self) -> Secret {
        match self.secret.expose().rsplit_once('.') {
            Some((rest, _)) if rest.starts_with("zepl.") && rest.matches('.').count() == 2 => {
                Secret::new(rest)
            }
            _ => self.secret.clone(),
        }
    }

    /// Where it came from, for a sentence: "the file /run/key".
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(value: &str) -> Result<ApiKey, KeyError> {
        KeySource::Variable(Some(Secret::new(value))).read()
    }

    #[test]
    fn a_file_is_read_anew_and_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let source = KeySource::File(path.clone());
        std::fs::write(&path, "zepl.a.b.c\n").unwrap();
        let first = source.read().unwrap();
        assert_eq!(first.secret().expose(), "zepl.a.b.c");
        assert_eq!(first.source(), format!("the file {}", path.display()));
        std::fs::write(&path, " zepl.d.e.f\r\n").unwrap();
        assert_ne!(source.read().unwrap(), first);
        assert_eq!(source.read().unwrap(), variable("zepl.d.e.f").unwrap());
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_without_repeating_it() {
        for bad in [
            "two words",
            "two\nlines",
            "schlüssel",
            "nul\0",
            &"x".repeat(MAX_LEN + 1),
        ] {
            let error = variable(bad).unwrap_err();
            assert!(matches!(error, KeyError::Invalid(_)), "{bad}");
            assert!(!error.to_string().contains(bad));
        }
        assert!(matches!(variable(" \n"), Err(KeyError::Empty(_))));
        assert_eq!(KeySource::Variable(None).read(), Err(KeyError::Missing));
    }

    #[test]
    fn what_an_editor_adds_is_dropped_and_quotes_are_named() {
        assert_eq!(variable("\u{feff}zepl.a.b.c\r\n"), variable("zepl.a.b.c"));
        for quoted in ["\"zepl.a.b.c\"", "'zepl.a.b.c'\n"] {
            let error = variable(quoted).unwrap_err();
            assert!(
                matches!(error, KeyError::Quoted(_)) && !error.to_string().contains("zepl"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        assert!(matches!(
            KeySource::File("/dev/zero".into()).read(),
            Err(KeyError::Invalid(_))
        ));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = KeySource::File("/nowhere/key".into())
            .read()
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read the API key from the file /nowhere/key: No such file"),
            "{error}"
        );
    }
}
