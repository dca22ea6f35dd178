//! The key of one namespace's data.

use std::fmt;

use ctutils::CtEq;
use zeroize::Zeroizing;

use crate::error::Result;
use crate::fail;

/// Bytes of a data key: two 256-bit keys for XTS. GCM uses the first.
pub const DATA_KEY_BYTES: usize = 64;

/// A namespace's key. Erased when dropped; on the heap, so that moving it leaves no copy behind. It cannot be cloned
/// or printed.
///
/// **Invariant.** The two halves differ: with equal halves XTS loses its security argument (and FIPS 140 refuses it).
pub struct DataKey(Box<Zeroizing<[u8; DATA_KEY_BYTES]>>);

impl DataKey {
    /// A new key out of `random`, which fills its argument with random bytes fit for keys.
    ///
    /// # Errors
    /// What `random` reports; or it gives bytes that repeat.
    pub fn generate(random: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; DATA_KEY_BYTES]));
        random(&mut key[..])?;
        Self::checked(key)
    }

    /// The key with these bytes; the caller erases its own copy.
    ///
    /// # Errors
    /// The halves are equal.
    pub fn from_bytes(bytes: &[u8; DATA_KEY_BYTES]) -> Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; DATA_KEY_BYTES]));
        key.copy_from_slice(bytes);
        Self::checked(key)
    }

    fn checked(key: Box<Zeroizing<[u8; DATA_KEY_BYTES]>>) -> Result<Self> {
        let key = Self(key);
        let (data, tweak) = key.halves();
        if data.ct_eq(tweak).to_bool() {
            fail!(Config, "a data key whose halves are equal is not fit for use: the source of random bytes is broken");
        }
        Ok(key)
    }

    /// The bytes, to be wrapped.
    pub(super) fn bytes(&self) -> &[u8; DATA_KEY_BYTES] {
        &self.0
    }

    /// The two 256-bit keys: of the data (and of GCM), of the tweak.
    pub(crate) fn halves(&self) -> (&[u8; 32], &[u8; 32]) {
        match self.0.as_chunks::<32>() {
            ([data, tweak], []) => (data, tweak),
            _ => unreachable!("64 bytes are two times 32"),
        }
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    #[test]
    fn equal_halves_are_refused() {
        assert_eq!(DataKey::from_bytes(&[7; 64]).unwrap_err().kind(), ErrorKind::Config);
        let mut bytes = [7; 64];
        bytes[63] = 8;
        assert!(DataKey::from_bytes(&bytes).is_ok());
    }

    #[test]
    fn a_source_without_randomness_is_an_error() {
        let failing = DataKey::generate(|_| Err(Error::new(ErrorKind::Io, "none")));
        assert_eq!(failing.unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(DataKey::generate(|_| Ok(())).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn debug_shows_nothing() {
        let key = DataKey::generate(|bytes| {
            bytes[0] = 0xab;
            Ok(())
        });
        assert_eq!(format!("{:?}", key.unwrap()), "DataKey(secret)");
    }
}
