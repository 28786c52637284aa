//! Files that hold one secret, such as a token or the URL of a webhook.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::url::{HttpUrl, InvalidUrl, UrlPolicy};
use crate::model::{
    InvalidSharedSecret, Secret, SharedSecret, is_quoted, read_at_most, trim_token,
};

/// The largest secret in a file, in bytes, including surrounding white space.
const MAX_SECRET: u64 = 4096;

/// A file that holds one secret line. It is read again for each use, so that rotation needs no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile(PathBuf);

/// A file holds no usable secret or URL. The error never quotes the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSecret {
    #[error("cannot read the file {}: {cause}", .file.display())]
    Unreadable { file: PathBuf, cause: String },
    #[error("the file {} must hold one line of printable ASCII, of at most {MAX_SECRET} bytes", .0.display())]
    Form(PathBuf),
    #[error("the secret in the file {} is in quotes, which count as part of the value: remove them", .0.display())]
    Quoted(PathBuf),
    #[error("the secret in the file {} is unusable: {cause}", .file.display())]
    Weak {
        file: PathBuf,
        cause: InvalidSharedSecret,
    },
    #[error("the URL in the file {} {cause}", .file.display())]
    Url { file: PathBuf, cause: InvalidUrl },
}

impl SecretFile {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the secret. The call hangs if the file system does.
    pub fn read(&self) -> Result<Secret, UnusableSecret> {
        let bytes = File::open(&self.0)
            .and_then(|file| read_at_most(file, MAX_SECRET))
            .map_err(|error| UnusableSecret::Unreadable {
                file: self.0.clone(),
                cause: error.to_string(),
            })?;
        let invalid = || UnusableSecret::Form(self.0.clone());
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(invalid)?;
        let line = trim_token(&text);
        if line.is_empty() || !line.bytes().all(|b| matches!(b, b' '..=b'~')) {
            Err(invalid())
        } else if is_quoted(line) {
            Err(UnusableSecret::Quoted(self.0.clone()))
        } else {
            Ok(Secret::new(line))
        }
    }

    /// Reads a shared secret: a bearer token or an HMAC key.
    pub fn shared(&self) -> Result<SharedSecret, UnusableSecret> {
        let secret = SharedSecret::new(&self.read()?);
        secret.map_err(|cause| UnusableSecret::Weak {
            file: self.0.clone(),
            cause,
        })
    }

    /// Reads the URL of a webhook.
    pub fn url(&self, insecure_http: bool) -> Result<HttpUrl, UnusableSecret> {
        let url = HttpUrl::parse(self.read()?.expose(), UrlPolicy::webhook(insecure_http));
        url.map_err(|cause| UnusableSecret::Url {
            file: self.0.clone(),
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_no_error_quotes_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = SecretFile::new(dir.path().join("token"));
        assert!(matches!(
            file.read(),
            Err(UnusableSecret::Unreadable { .. })
        ));
        for bad in [" \n", "canary\ncanary", "canäry", &"canary".repeat(4096)] {
            std::fs::write(file.path(), bad).unwrap();
            assert_eq!(
                file.read(),
                Err(UnusableSecret::Form(file.path().to_owned()))
            );
        }
        std::fs::write(file.path(), "http://far/canary").unwrap();
        assert!(!file.url(false).unwrap_err().to_string().contains("canary"));
        std::fs::write(file.path(), "\"canary\"\n").unwrap();
        assert_eq!(
            file.read(),
            Err(UnusableSecret::Quoted(file.path().to_owned()))
        );
        std::fs::write(file.path(), "\u{feff}canary\n").unwrap();
        assert_eq!(file.read().unwrap().expose(), "canary");
    }
}
