//! Where secrets come from: the operator's side alone. A definition file names a secret, and can name nothing else; this
//! module never repeats a value, and never looks further once it has found something that it cannot use.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use super::definitions::directory::{FileError, read_regular_file, resolve_link};
use crate::model::{InvalidValue, Secret, SecretName, check_value, trim_value};

/// The largest secret, in bytes.
const MAX_SECRET: u64 = 64 << 10;

/// A directory of secrets (a mounted Kubernetes Secret), then the environment.
pub struct SecretSources {
    directory: Option<PathBuf>,
    variable: Box<Environment>,
}

/// Looks a variable up.
type Environment = dyn Fn(&str) -> Option<OsString> + Send + Sync;

impl fmt::Debug for SecretSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSources")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// A secret that is there and cannot be used. The sentences hold no value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secrets directory {directory} cannot be read: {source}")]
    Directory {
        /// As it was named.
        directory: String,
        /// Why.
        source: std::io::Error,
    },
    #[error("the file of the secret `{name}` in the secrets directory {reason}")]
    File {
        /// The secret.
        name: SecretName,
        /// The rest of the sentence.
        reason: String,
    },
    #[error("the secret `{name}`, {}, is not UTF-8", describe_source(.name, *.file))]
    NotText {
        /// The secret.
        name: SecretName,
        /// Whether it is a file's.
        file: bool,
    },
    #[error("the secret `{name}`, {}, is empty", describe_source(.name, *.file))]
    Empty {
        /// The secret.
        name: SecretName,
        /// Whether it is a file's.
        file: bool,
    },
    /// Its value cannot be sent as it is.
    #[error("the secret `{name}`, {}, {why}", describe_source(.name, *.file))]
    Invalid {
        /// The secret.
        name: SecretName,
        /// Whether it is a file's.
        file: bool,
        /// What is wrong with it.
        why: InvalidValue,
    },
    #[error("the secret `{name}`, {}, is larger than {} KiB", describe_source(.name, *.file), MAX_SECRET >> 10)]
    TooLarge {
        /// The secret.
        name: SecretName,
        /// Whether it is a file's.
        file: bool,
    },
}

fn describe_source(name: &SecretName, file: bool) -> String {
    if file {
        "a file of the secrets directory".to_owned()
    } else {
        format!("the variable {}", name.variable())
    }
}

impl SecretSources {
    /// The files of a directory, where one is given, then the variables of the environment.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            variable: Box::new(|name| env::var_os(name)),
        }
    }

    /// The directory of files, where there is one.
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

    /// The value of a secret as it is now; `None` where no source has it.
    ///
    /// # Errors
    /// [`SecretError`] where a source has it in a form that cannot be used: that is no reason to look on.
    pub fn find(&self, name: &SecretName) -> Result<Option<Secret>, SecretError> {
        if let Some(bytes) = self.file(name)? {
            let text = String::from_utf8(bytes).map_err(|_| SecretError::NotText {
                name: name.clone(),
                file: true,
            })?;
            return check_secret(name, &text, true).map(Some);
        }
        let Some(value) = (self.variable)(&name.variable()) else {
            return Ok(None);
        };
        let value = value.into_string().map_err(|_| SecretError::NotText {
            name: name.clone(),
            file: false,
        })?;
        check_secret(name, &value, false).map(Some)
    }

    /// Where a secret can be put, as advice.
    pub(super) fn advice(&self, name: &SecretName) -> String {
        let variable = name.variable();
        match &self.directory {
            Some(directory) => {
                format!(
                    "put it into the file {}, or the variable {variable}",
                    directory.join(name.as_str()).display()
                )
            }
            None => format!(
                "put it into the variable {variable}, or into a file of that name and point --secrets-dir to its directory"
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
        // A mounted Secret may be replaced between the two steps: its link leads elsewhere the second time.
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
            Err(FileError::TooLarge(_)) => Err(SecretError::TooLarge {
                name: name.clone(),
                file: true,
            }),
            Err(error) => Err(SecretError::File {
                name: name.clone(),
                reason: error.to_string(),
            }),
        }
    }
}

fn check_secret(name: &SecretName, value: &str, file: bool) -> Result<Secret, SecretError> {
    let value = trim_value(value);
    if value.is_empty() {
        Err(SecretError::Empty {
            name: name.clone(),
            file,
        })
    } else if value.len() as u64 > MAX_SECRET {
        Err(SecretError::TooLarge {
            name: name.clone(),
            file,
        })
    } else if let Err(why) = check_value(value) {
        Err(SecretError::Invalid {
            name: name.clone(),
            file,
            why,
        })
    } else {
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
    fn a_file_goes_before_a_variable_and_one_line_break_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
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
    fn what_nobody_sees_in_a_value_is_named_with_the_secret_and_the_value_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (text, why) in [
            ("CANARY\n\n", "holds a line break (U+000A LINE FEED)"),
            (" CANARY", "begins with a blank (U+0020 SPACE)"),
            ("CANARY ", "ends with a blank (U+0020 SPACE)"),
            (
                "CAN\tARY",
                "holds a control character (U+0009 CHARACTER TABULATION)",
            ),
            ("   ", "holds nothing but blanks"),
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
                .contains("leads out of the directory")
        );
    }

    #[test]
    fn a_secret_that_is_there_and_cannot_be_used_is_an_error_and_no_reason_to_look_on() {
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
        }
        let missing = SecretSources::new(Some(dir.path().join("none"))).with_variables(none);
        assert!(
            found(&missing, "a")
                .unwrap_err()
                .contains("the secrets directory")
        );
    }

    #[test]
    fn the_advice_names_every_place_that_is_looked_at() {
        let advice = SecretSources::new(Some("/run/secrets".into())).advice(&name("a-b"));
        assert!(advice.contains("/run/secrets/a-b") && advice.contains("CALRY_SECRET_A_B"));
    }
}
