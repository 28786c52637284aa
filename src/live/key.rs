//! API keys: their sources, their form, and when they end.
//!
//! Never: take a key from an argument, show it, or keep it longer than the session that uses it.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::model::{KeyExpiry, Secret, is_quoted, read_at_most, trim_token};

/// The largest API key, in bytes, including surrounding white space.
const MAX_LEN: usize = 4096;

/// Where the operator put the API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file, read again for each session so that key rotation needs no restart.
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

/// An API key that can be sent. Equality ignores the source.
#[derive(Clone, Debug)]
pub struct ApiKey {
    secret: Secret,
    source: String,
    /// When it ended, if that is over.
    ended: Option<KeyExpiry>,
}

/// Where the operator wrote down when the API key ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpirySource {
    /// A file beside the key, so that both are replaced together. It wins over the option.
    file: Option<PathBuf>,
    option: Option<KeyExpiry>,
}

/// The file does not show when the key ends. The error quotes nothing of it: it may hold a key by mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    #[error("cannot read when the API key expires from the file {file}: {cause}")]
    Unreadable { file: String, cause: String },
    #[error(
        "the file {0} does not show when the API key expires: write the last day of the key into it as YYYY-MM-DD"
    )]
    Invalid(String),
}

impl PartialEq for ApiKey {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl Eq for ApiKey {}

/// No usable API key is available. The error never quotes the content that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no API key: name its file with --api-key-file, or set the variable CALRY_API_KEY")]
    Missing,
    #[error("cannot read the API key from {from}: {cause}")]
    Unreadable { from: String, cause: String },
    #[error("no API key: {0} is empty")]
    Empty(String),
    #[error(
        "the API key in {0} is in quotes, which count as part of the value: remove them (`docker --env-file` keeps quotes)"
    )]
    Quoted(String),
    #[error(
        "{0} does not contain an API key: a key is one line of printable ASCII without spaces, of at most {MAX_LEN} bytes"
    )]
    Invalid(String),
}

impl KeySource {
    /// Reads the key again at each call. Surrounding white space and a byte order mark are dropped.
    pub fn read(&self) -> Result<ApiKey, KeyError> {
        let source = self.to_string();
        let text = match self {
            Self::Variable(None) => return Err(KeyError::Missing),
            Self::Variable(Some(value)) => Some(value.expose().to_owned()),
            Self::File(path) => File::open(path)
                .and_then(|file| read_at_most(file, MAX_LEN as u64))
                .map_err(|error| KeyError::Unreadable {
                    from: source.clone(),
                    cause: error.to_string(),
                })?
                .and_then(|bytes| String::from_utf8(bytes).ok()),
        };
        let Some(text) = text.filter(|text| text.len() <= MAX_LEN) else {
            return Err(KeyError::Invalid(source));
        };
        match trim_token(&text) {
            "" => Err(KeyError::Empty(source)),
            key if is_quoted(key) => Err(KeyError::Quoted(source)),
            key if key.bytes().all(|b| b.is_ascii_graphic()) => Ok(ApiKey {
                secret: Secret::new(key),
                source,
                ended: None,
            }),
            _ => Err(KeyError::Invalid(source)),
        }
    }
}

impl ExpirySource {
    /// The file beside a key has the name of the key's file and this ending, which fits into a key of a Kubernetes Secret.
    const ENDING: &str = "-expires";
    /// The largest file, in bytes.
    const MAX_LEN: u64 = 64;

    /// For a key from this source, with the value of the option.
    #[must_use]
    pub fn new(key: &KeySource, option: Option<KeyExpiry>) -> Self {
        let file = match key {
            KeySource::File(path) => {
                let mut file = path.clone().into_os_string();
                file.push(Self::ENDING);
                Some(file.into())
            }
            KeySource::Variable(_) => None,
        };
        Self { file, option }
    }

    /// Reads the file again at each call. Without a file, the option counts.
    ///
    /// # Errors
    /// The file exists and cannot be used.
    pub fn read(&self) -> Result<Option<KeyExpiry>, ExpiryError> {
        let Some(path) = &self.file else {
            return Ok(self.option);
        };
        let name = || path.display().to_string();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.option),
            Err(error) => {
                let (file, cause) = (name(), error.to_string());
                return Err(ExpiryError::Unreadable { file, cause });
            }
        };
        let read = read_at_most(file, Self::MAX_LEN).map_err(|error| {
            let (file, cause) = (name(), error.to_string());
            ExpiryError::Unreadable { file, cause }
        })?;
        let text = read.and_then(|bytes| String::from_utf8(bytes).ok());
        let day = text.and_then(|text| trim_token(&text).parse().ok());
        day.map(Some).ok_or_else(|| ExpiryError::Invalid(name()))
    }
}

impl ApiKey {
    /// Remembers when the key ended, for the error of an answer that refuses it.
    #[must_use]
    pub fn ended(self, ended: Option<KeyExpiry>) -> Self {
        Self { ended, ..self }
    }

    /// When it ended, if that is over.
    pub(super) const fn end(&self) -> Option<KeyExpiry> {
        self.ended
    }

    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The part that must not be shown: all but the workspace's name at the end.
    pub(super) fn confidential(&self) -> Secret {
        match self.secret.expose().rsplit_once('.') {
            Some((rest, _)) if rest.starts_with("zepl.") && rest.matches('.').count() == 2 => {
                Secret::new(rest)
            }
            _ => self.secret.clone(),
        }
    }

    /// The source as part of a sentence, such as "the file /run/key".
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
    fn a_file_is_read_again_each_time_and_trimmed() {
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
    fn an_invalid_key_is_refused_without_quoting_it() {
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
    fn white_space_and_byte_order_mark_are_dropped_and_quotes_are_reported() {
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
    fn an_endless_file_is_not_read_to_the_end() {
        assert!(matches!(
            KeySource::File("/dev/zero".into()).read(),
            Err(KeyError::Invalid(_))
        ));
    }

    #[test]
    fn the_end_of_a_key_is_in_a_file_beside_it_which_wins_over_the_option() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeySource::File(dir.path().join("api-key"));
        let option = "2027-05-26".parse().ok();
        let source = ExpirySource::new(&key, option);
        let beside = dir.path().join("api-key-expires");
        assert_eq!(source.read(), Ok(option));
        assert_eq!(ExpirySource::new(&key, None).read(), Ok(None));
        std::fs::write(&beside, "\u{feff}2028-01-02\r\n").unwrap();
        assert_eq!(source.read(), Ok("2028-01-02".parse().ok()));
        // Whoever puts the key into the wrong file must not see it in a log.
        for bad in ["zepl.a.b.c", "", "2028-01-02 2029-01-02", &"2".repeat(65)] {
            std::fs::write(&beside, bad).unwrap();
            let error = source.read().unwrap_err();
            assert_eq!(error, ExpiryError::Invalid(beside.display().to_string()));
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{bad}");
        }
        std::fs::remove_file(&beside).unwrap();
        std::fs::create_dir(&beside).unwrap();
        assert!(matches!(source.read(), Err(ExpiryError::Unreadable { .. })));
        std::fs::remove_dir(&beside).unwrap();
        std::os::unix::fs::symlink(&beside, &beside).unwrap();
        assert!(matches!(source.read(), Err(ExpiryError::Unreadable { .. })));
        let variable = KeySource::Variable(None);
        assert_eq!(ExpirySource::new(&variable, option).read(), Ok(option));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = KeySource::File("/nowhere/key".into())
            .read()
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read the API key from the file /nowhere/key: No such file"),
            "{error}"
        );
    }

    #[test]
    fn only_the_name_of_the_workspace_at_the_end_of_a_key_may_be_shown() {
        for (key, confidential) in [
            ("zepl.a.b.acme", "zepl.a.b"),
            ("zepl.a.acme", "zepl.a.acme"),
            ("zepl.a.b.c.acme", "zepl.a.b.c.acme"),
            ("other.a.b.acme", "other.a.b.acme"),
            ("token", "token"),
        ] {
            assert_eq!(variable(key).unwrap().confidential().expose(), confidential);
        }
    }
}
