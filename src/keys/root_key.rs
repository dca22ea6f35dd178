//! The key at the top: it wraps the data keys of every namespace of a pool and is itself never stored by Plica's pools.

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use super::key_file;
use super::passphrase::{Passphrase, PassphraseParams};
use crate::error::Result;

/// Bytes of a root key.
pub(super) const ROOT_KEY_BYTES: usize = 32;

/// A root key. Erased when dropped; cannot be cloned or printed.
pub struct RootKey(Box<Zeroizing<[u8; ROOT_KEY_BYTES]>>);

impl RootKey {
    /// Makes a new random key and writes it to a new file at `path`, readable by its owner only and durable when this
    /// returns: a pool whose key file is lost is lost.
    ///
    /// # Errors
    /// The file exists ([`crate::error::ErrorKind::Exists`]: nothing is ever overwritten) or cannot be written.
    pub fn generate_file(path: &Path) -> Result<Self> {
        key_file::generate(path)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] if anyone but the owner may read it, if the owner is neither this user nor
    /// root, if it is not a plain file, or if its content is not a key. [`crate::error::ErrorKind::NotFound`],
    /// [`crate::error::ErrorKind::Io`].
    pub fn load_file(path: &Path) -> Result<Self> {
        key_file::load(path)
    }

    /// Derives the key from a passphrase (Argon2id). Takes a good part of a second and `params.memory_kib` of memory.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] for parameters out of bounds or more memory than there is.
    pub fn from_passphrase(passphrase: &Passphrase, params: &PassphraseParams) -> Result<Self> {
        let mut key = Self::zeroed();
        params.derive(passphrase, &mut key.0)?;
        Ok(key)
    }

    /// The key with these bytes; the caller erases its own copy.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ROOT_KEY_BYTES]) -> Self {
        let mut key = Self::zeroed();
        key.0.copy_from_slice(bytes);
        key
    }

    pub(super) fn zeroed() -> Self {
        Self(Box::new(Zeroizing::new([0; ROOT_KEY_BYTES])))
    }

    pub(super) fn bytes(&self) -> &[u8; ROOT_KEY_BYTES] {
        &self.0
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; ROOT_KEY_BYTES] {
        &mut self.0
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(secret)")
    }
}
