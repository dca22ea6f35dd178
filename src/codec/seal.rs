//! Sealing: encryption of a fragment's payload under its namespace's key.

use std::fmt;

use super::gcm::Gcm;
use super::xts::Xts;
use crate::error::Result;
use crate::fail;
use crate::format::{Cipher, Codec};
use crate::keys::DataKey;
use crate::units::{Lba, NamespaceId, SealNo};

/// Bytes of a name as it is authenticated.
const NAME_BYTES: usize = 30;

/// What a payload is bound to: stays with the fragment when it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentName {
    /// Whose data it is.
    pub namespace: NamespaceId,
    /// The first LBA.
    pub first: Lba,
    /// How many blocks.
    pub count: u8,
    /// How they were made smaller.
    pub codec: Codec,
    /// Tweak or nonce.
    pub seal: SealNo,
}

impl FragmentName {
    /// The bytes that GCM authenticates, all little endian: namespace 4, first LBA 8, count 1, codec 1, session 8,
    /// counter 8.
    pub(super) fn bytes(&self) -> [u8; NAME_BYTES] {
        let mut bytes = [0; NAME_BYTES];
        bytes[..4].copy_from_slice(&self.namespace.0.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[12] = self.count;
        bytes[13] = self.codec.to_byte();
        bytes[14..22].copy_from_slice(&self.seal.session.0.to_le_bytes());
        bytes[22..].copy_from_slice(&self.seal.counter.to_le_bytes());
        bytes
    }
}

/// A namespace's data key, ready for use by any number of threads. Erased when dropped.
pub struct Sealer(Mode);

enum Mode {
    Xts(Box<Xts>),
    Gcm(Box<Gcm>),
}

impl Sealer {
    /// Prepares `key` for `cipher`.
    #[must_use]
    pub fn new(key: DataKey, cipher: Cipher) -> Self {
        Self(match cipher {
            Cipher::Aes256Xts => Mode::Xts(Box::new(Xts::new(&key))),
            Cipher::Aes256Gcm => Mode::Gcm(Box::new(Gcm::new(key))),
        })
    }

    /// The cipher it seals with.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        match &self.0 {
            Mode::Xts(_) => Cipher::Aes256Xts,
            Mode::Gcm(_) => Cipher::Aes256Gcm,
        }
    }

    /// Bytes that sealing adds to a payload.
    #[must_use]
    pub fn overhead(&self) -> usize {
        match &self.0 {
            Mode::Xts(_) => 0,
            Mode::Gcm(_) => super::gcm::TAG,
        }
    }

    /// Seals `out[..len]` in place and returns the sealed length, at most [`Sealer::overhead`] more.
    pub(super) fn seal(&self, name: &FragmentName, out: &mut [u8], len: usize) -> Result<usize> {
        match &self.0 {
            Mode::Gcm(gcm) => gcm.encrypt(name, out, len),
            Mode::Xts(xts) => {
                let Some(payload) = out.get_mut(..len) else {
                    fail!(OutOfRange, "a buffer of {} bytes has no room for {len}", out.len());
                };
                xts.encrypt(name.seal, payload)?;
                Ok(len)
            }
        }
    }

    /// Opens `sealed` in place and returns the payload's length.
    pub(super) fn open(&self, name: &FragmentName, sealed: &mut [u8]) -> Result<usize> {
        match &self.0 {
            Mode::Gcm(gcm) => gcm.decrypt(name, sealed),
            Mode::Xts(xts) => {
                xts.decrypt(name.seal, sealed)?;
                Ok(sealed.len())
            }
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({})", self.cipher())
    }
}
