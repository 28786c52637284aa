//! The keys whose signatures count: SSH keys from a file of allowed signers, OpenPGP keys from a file of allowed keys.

use std::path::PathBuf;

use super::allowed_keys::{AllowedKeys, KeysError};
use super::allowed_signers::{AllowedSigners, SignersError};
use super::signature::{SignatureError, verify_ssh};

/// The first line of each form of a signature.
pub(super) const SSH_SIGNATURE: &[u8] = b"-----BEGIN SSH SIGNATURE-----";
pub(super) const OPENPGP_SIGNATURE: &[u8] = b"-----BEGIN PGP SIGNATURE-----";

/// The files with the keys, read at each load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeyFiles {
    /// SSH keys.
    pub signers: Option<PathBuf>,
    /// OpenPGP keys.
    pub keys: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustedKeysError {
    #[error(transparent)]
    Signers(#[from] SignersError),
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// A signature by a key of either file counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys {
    pub(super) signers: Option<AllowedSigners>,
    pub(super) keys: Option<AllowedKeys>,
}

impl TrustedKeyFiles {
    /// Whether no file is given.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.signers.is_none() && self.keys.is_none()
    }

    /// May block.
    pub(super) fn read(&self) -> Result<TrustedKeys, TrustedKeysError> {
        let signers = self.signers.as_deref().map(AllowedSigners::read);
        let keys = self.keys.as_deref().map(AllowedKeys::read);
        Ok(TrustedKeys {
            signers: signers.transpose()?,
            keys: keys.transpose()?,
        })
    }
}

impl TrustedKeys {
    /// Parses the contents of the two files.
    ///
    /// # Errors
    /// A sentence without a part of a file.
    pub fn parse(signers: Option<&[u8]>, keys: Option<&[u8]>) -> Result<Self, String> {
        let signers = signers.map(AllowedSigners::parse).transpose();
        let keys = keys.map(AllowedKeys::parse).transpose();
        Ok(Self {
            signers: signers.map_err(|(line, why)| format!("line {line}: {why}"))?,
            keys: keys.map_err(|problem| problem.to_string())?,
        })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.signers.is_none() && self.keys.is_none()
    }

    /// Checks a signature of an object of this time, in seconds since 1970. An OpenPGP signature has its own time.
    pub(super) fn verify(
        &self,
        signature: Option<&[u8]>,
        payload: &[u8],
        time: i64,
    ) -> Result<(), SignatureError> {
        let text = signature.ok_or(SignatureError::Missing)?;
        if text.starts_with(SSH_SIGNATURE) {
            let signers = self.signers.as_ref().ok_or(SignatureError::NoSigners)?;
            verify_ssh(signers, text, payload, time)
        } else if text.starts_with(OPENPGP_SIGNATURE) {
            let keys = self.keys.as_ref().ok_or(SignatureError::NoKeys)?;
            keys.verify(text, payload)
        } else {
            Err(SignatureError::OtherKind)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_at_its_line() {
        let signers = TrustedKeys::parse(Some(b"a@example.com nonsense\n"), None);
        assert!(signers.unwrap_err().starts_with("line 1: "));
        assert!(TrustedKeys::parse(None, Some(b"nonsense")).is_err());
    }
}
