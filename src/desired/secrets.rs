//! Finds secrets in a directory and in the environment, both of which only the operator sets: a definition file can
//! name a secret, but not its source. Secrets that neither has may be encrypted beside the definitions.
//!
//! Never: repeat a value, or try the next source after an unusable value.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use super::definitions::directory::{FileError, read_regular_file, resolve_link};
use super::encrypted::{
    DIRECTORY, DecryptError, ENDING, EncryptedSecret, Identities, IdentityError,
};
use crate::model::{InvalidValue, Secret, SecretName, check_value, trim_value};

/// The largest secret, in bytes.
pub(crate) const MAX_SECRET: u64 = 64 << 10;

/// A directory of secrets (such as a mounted Kubernetes Secret), then the environment.
pub struct SecretSources {
    directory: Option<PathBuf>,
    variable: Box<Environment>,
    identity_file: Option<PathBuf>,
}

/// Looks a variable up.
type Environment = dyn Fn(&str) -> Option<OsString> + Send + Sync;

impl fmt::Debug for SecretSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSources")
            .field("directory", &self.directory)
            .field("identity_file", &self.identity_file)
            .finish_non_exhaustive()
    }
}

/// A secret that exists and cannot be used. The messages contain no value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secrets directory {directory} cannot be read: {source}")]
    Directory {
        directory: String,
        source: std::io::Error,
    },
    #[error("the file of secret `{name}` in the secrets directory {problem}")]
    File {
        name: SecretName,
        problem: FileError,
    },
    #[error("secret `{name}` ({}) {problem}", describe_source(.name, *.from))]
    Value {
        name: SecretName,
        from: SecretSource,
        problem: SecretProblem,
    },
    #[error("secret `{name}` ({}) {problem}", describe_source(.name, SecretSource::Encrypted))]
    Encrypted {
        name: SecretName,
        problem: DecryptError,
    },
}

/// Where the value of a secret is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file of the secrets directory.
    File,
    /// A variable of the environment.
    Variable,
    /// An encrypted file beside the definitions.
    Encrypted,
}

/// Why the value of a secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    #[error("is not UTF-8")]
    NotText,
    #[error("is empty")]
    Empty,
    /// It cannot be sent as it is.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
    #[error("is larger than {} KiB", MAX_SECRET >> 10)]
    TooLarge,
}

impl SecretError {
    /// Whether the secrets directory does not exist.
    pub(super) fn is_without_directory(&self) -> bool {
        matches!(self, Self::Directory { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// The problem of the value, if there is a value.
    pub(super) const fn problem(&self) -> Option<SecretProblem> {
        match self {
            Self::Value { problem, .. } => Some(*problem),
            Self::Directory { .. } | Self::File { .. } | Self::Encrypted { .. } => None,
        }
    }
}

fn describe_source(name: &SecretName, from: SecretSource) -> String {
    match from {
        SecretSource::File => "a file of the secrets directory".to_owned(),
        SecretSource::Variable => format!("the variable {}", name.variable()),
        SecretSource::Encrypted => format!("{DIRECTORY}/{name}{ENDING}"),
    }
}

impl SecretSources {
    /// The files of a directory, if one is given, then the variables of the environment.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            variable: Box::new(|name| env::var_os(name)),
            identity_file: None,
        }
    }

    /// The same, with a file of identities that can decrypt encrypted secrets.
    #[must_use]
    pub fn with_identities(self, identity_file: Option<PathBuf>) -> Self {
        Self {
            identity_file,
            ..self
        }
    }

    /// The file of identities; without one, nothing is decrypted.
    #[must_use]
    pub fn identity_file(&self) -> Option<&Path> {
        self.identity_file.as_deref()
    }

    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The same with another environment.
    #[must_use]
    pub fn with_variables(
        self,
        variable: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        Self {
            variable: Box::new(variable),
            ..self
        }
    }

    /// The current value of a secret; `None` if no source has it.
    ///
    /// # Errors
    /// [`SecretError`] if the first source that has it has an unusable value.
    pub fn find(&self, name: &SecretName) -> Result<Option<Secret>, SecretError> {
        let (value, from) = match self.file(name)? {
            Some(bytes) => (String::from_utf8(bytes).ok(), SecretSource::File),
            None => match (self.variable)(&name.variable()) {
                Some(value) => (value.into_string().ok(), SecretSource::Variable),
                None => return Ok(None),
            },
        };
        check_found(name, value, from).map(Some)
    }

    /// The value of an encrypted secret.
    ///
    /// # Errors
    /// [`SecretError::Encrypted`] if it cannot be decrypted, [`SecretError::Value`] if the value cannot be used.
    pub(crate) fn decrypt(
        name: &SecretName,
        secret: &EncryptedSecret,
        identities: Result<&Identities, &IdentityError>,
    ) -> Result<Secret, SecretError> {
        let failed = |problem| SecretError::Encrypted {
            name: name.clone(),
            problem,
        };
        let identities = identities.map_err(|error| failed(error.clone().into()))?;
        let from = SecretSource::Encrypted;
        match secret.decrypt(identities, MAX_SECRET).map_err(failed)? {
            Some(bytes) => check_found(name, String::from_utf8(bytes).ok(), from),
            None => Err(SecretError::Value {
                name: name.clone(),
                from,
                problem: SecretProblem::TooLarge,
            }),
        }
    }

    /// Advice on where to put a secret.
    pub(super) fn advice(&self, name: &SecretName) -> String {
        let variable = name.variable();
        match &self.directory {
            Some(directory) => {
                format!(
                    "put it into the file {}, or set the variable {variable}",
                    directory.join(name.as_str()).display()
                )
            }
            None => format!(
                "set the variable {variable}, or put it into a file named `{name}` in the directory of --secrets-dir"
            ),
        }
    }

    fn file(&self, name: &SecretName) -> Result<Option<Vec<u8>>, SecretError> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let failed = |source| SecretError::Directory {
            directory: directory.display().to_string(),
            source,
        };
        let root = fs::canonicalize(directory).map_err(failed)?;
        // A mounted Secret may be replaced between the two steps: the second time, its link has another target.
        let read = || {
            resolve_link(&root, name.as_str()).and_then(|path| read_regular_file(&path, MAX_SECRET))
        };
        match read().or_else(|error| {
            if matches!(error, FileError::Gone) {
                read()
            } else {
                Err(error)
            }
        }) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::Gone) => Ok(None),
            Err(FileError::TooLarge(_)) => Err(SecretError::Value {
                name: name.clone(),
                from: SecretSource::File,
                problem: SecretProblem::TooLarge,
            }),
            Err(problem) => Err(SecretError::File {
                name: name.clone(),
                problem,
            }),
        }
    }
}

/// Whether a secret can have this value.
///
/// # Errors
/// Why it cannot.
pub(crate) fn check_possible(value: &Secret) -> Result<(), SecretProblem> {
    check_value(value.expose())?;
    if value.expose().len() as u64 > MAX_SECRET {
        return Err(SecretProblem::TooLarge);
    }
    Ok(())
}

fn check_found(
    name: &SecretName,
    value: Option<String>,
    from: SecretSource,
) -> Result<Secret, SecretError> {
    value
        .ok_or(SecretProblem::NotText)
        .and_then(|value| check_secret(&value))
        .map_err(|problem| SecretError::Value {
            name: name.clone(),
            from,
            problem,
        })
}

fn check_secret(value: &str) -> Result<Secret, SecretProblem> {
    let value = trim_value(value);
    if value.is_empty() {
        Err(SecretProblem::Empty)
    } else if value.len() as u64 > MAX_SECRET {
        Err(SecretProblem::TooLarge)
    } else {
        check_value(value)?;
        Ok(Secret::new(value))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn name(name: &str) -> SecretName {
        SecretName::parse(name).unwrap()
    }

    fn none(_: &str) -> Option<OsString> {
        None
    }

    fn found(sources: &SecretSources, of: &str) -> Result<Option<String>, String> {
        sources
            .find(&name(of))
            .map(|s| s.map(|s| s.expose().to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_has_a_largest_size() {
        let longest = usize::try_from(MAX_SECRET).unwrap();
        for (length, possible) in [
            (longest, Ok(())),
            (longest + 1, Err(SecretProblem::TooLarge)),
        ] {
            let value = "x".repeat(length);
            assert_eq!(check_possible(&Secret::new(value.clone())), possible);
            assert_eq!(check_secret(&value).map(drop), possible);
        }
    }

    #[test]
    fn a_file_goes_before_a_variable_and_one_line_break_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_owned();
        assert_eq!(
            SecretSources::new(Some(directory)).directory(),
            Some(dir.path())
        );
        for (name, text) in [("a", "one\n"), ("b", "\u{feff}two\r\n")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let sources = SecretSources::new(Some(dir.path().into())).with_variables(|name| {
            (name != "CALRY_SECRET_NONE").then(|| format!("\u{feff}{name}\r\n").into())
        });
        let all = ["a", "b", "e.f-g", "none"].map(|name| found(&sources, name).unwrap());
        assert_eq!(
            all,
            [Some("one"), Some("two"), Some("CALRY_SECRET_E_F_G"), None]
                .map(|v| v.map(str::to_owned))
        );
    }

    #[test]
    fn an_invisible_character_is_named_with_the_secret_and_the_value_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (text, why) in [
            ("CANARY\n\n", "contains a line break (U+000A LINE FEED)"),
            (" CANARY", "begins with a space (U+0020 SPACE)"),
            ("CANARY ", "ends with a space (U+0020 SPACE)"),
            (
                "CAN\tARY",
                "contains a control character (U+0009 CHARACTER TABULATION)",
            ),
            ("   ", "contains only white space"),
        ] {
            fs::write(dir.path().join("file"), text).unwrap();
            let sources = SecretSources::new(Some(dir.path().into()))
                .with_variables(move |_| Some(text.into()));
            for name in ["file", "variable"] {
                let error = found(&sources, name).unwrap_err();
                assert!(
                    error.contains(&format!("`{name}`")) && error.ends_with(why),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_mounted_secret_is_read_through_its_links_and_nothing_outside_is() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "CANARY").unwrap();
        fs::create_dir(dir.path().join("..2024")).unwrap();
        fs::write(dir.path().join("..2024/a"), "one").unwrap();
        symlink("..2024", dir.path().join("..data")).unwrap();
        symlink("..data/a", dir.path().join("a")).unwrap();
        symlink(outside.path(), dir.path().join("b")).unwrap();
        let sources =
            SecretSources::new(Some(dir.path().into())).with_variables(|_| Some("variable".into()));
        assert_eq!(found(&sources, "a").unwrap().unwrap(), "one");
        assert!(
            found(&sources, "b")
                .unwrap_err()
                .contains("outside the directory")
        );
    }

    #[test]
    fn an_unusable_secret_is_an_error_and_the_next_source_is_not_tried() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("empty"), "\n").unwrap();
        fs::write(dir.path().join("bytes"), b"CANARY\xff").unwrap();
        fs::write(dir.path().join("large"), "x".repeat(70_000)).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        let sources =
            SecretSources::new(Some(dir.path().into())).with_variables(|_| Some("variable".into()));
        for name in ["empty", "bytes", "large", "dir", "dangling"] {
            let error = found(&sources, name).unwrap_err();
            assert!(
                error.contains(&format!("`{name}`")) && !error.contains("CANARY"),
                "{error}"
            );
            assert!(
                error.contains("of the secrets directory")
                    || error.contains("in the secrets directory")
            );
            let error = sources.find(&self::name(name)).unwrap_err();
            assert!(!error.is_without_directory(), "{name}");
        }
        for (directory, is_missing) in [("none", true), ("empty", false)] {
            let sources = SecretSources::new(Some(dir.path().join(directory))).with_variables(none);
            let error = sources.find(&name("a")).unwrap_err();
            assert!(error.to_string().contains("the secrets directory"));
            assert_eq!(error.is_without_directory(), is_missing);
        }
        let of_size = |size: u64| {
            let value = "x".repeat(usize::try_from(size).unwrap());
            let sources =
                SecretSources::new(None).with_variables(move |_| Some(value.as_str().into()));
            found(&sources, "a-b")
        };
        assert!(of_size(MAX_SECRET).is_ok());
        assert_eq!(
            of_size(MAX_SECRET + 1).unwrap_err(),
            "secret `a-b` (the variable CALRY_SECRET_A_B) is larger than 64 KiB"
        );
    }

    #[test]
    fn the_advice_names_every_source() {
        let advice = SecretSources::new(Some("/run/secrets".into())).advice(&name("a-b"));
        assert!(advice.contains("/run/secrets/a-b") && advice.contains("CALRY_SECRET_A_B"));
    }
}
