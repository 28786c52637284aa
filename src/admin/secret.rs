//! Secrets that senders are known by: each in a file, read anew for each request, so that rotation needs no restart.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use crate::model::{InvalidSharedSecret, Secret, SharedSecret};

/// Where the operator put a token or a hook's secret.
#[derive(Clone, Debug)]
pub struct SecretFile(PathBuf);

/// There is no usable secret in a file. It never repeats what was found.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be read.
    #[error("cannot read the secret in the file {path}: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system said.
        cause: String,
    },
    /// The file holds something else.
    #[error("the file {path} holds no secret: {cause}")]
    Invalid {
        /// The file.
        path: String,
        /// What a secret is.
        cause: InvalidSharedSecret,
    },
}

impl SecretFile {
    /// The secret in this file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Reads it, anew at each call.
    ///
    /// # Errors
    /// [`SecretFileError`].
    pub fn read(&self) -> Result<SharedSecret, SecretFileError> {
        /// Enough for any secret and the white space around it, in bytes.
        const MAX: u64 = 4 * SharedSecret::MAX_LEN as u64;
        let path = self.0.display().to_string();
        let mut text = String::new();
        if let Err(cause) = File::open(&self.0).and_then(|file| file.take(MAX).read_to_string(&mut text)) {
            return Err(SecretFileError::Unreadable { path, cause: cause.to_string() });
        }
        SharedSecret::new(&Secret::new(text)).map_err(|cause| SecretFileError::Invalid { path, cause })
    }
}
