//! The data of a request: the front end's own memory, lent to the core until the request completes.

use std::any::Any;
use std::fmt;

use super::AlignedBuf;

/// Bytes of a request. Front ends lend it inside an [`std::sync::Arc`]: codec workers read it while it is shared, and
/// the core writes into it (reads) only while it is the sole owner.
pub struct DataBuf(Memory);

enum Memory {
    Owned(AlignedBuf),
    Foreign { start: *mut u8, len: usize, _owner: Box<dyn Any + Send + Sync> },
}

// SAFETY: `Foreign` memory is reached only through `&self` (shared reads) and `&mut self` (exclusive writes), exactly
// like a `Box<[u8]>`; `from_foreign` demands that nobody else writes to it and that `_owner` keeps it mapped.
#[expect(unsafe_code, reason = "a raw pointer to a front end's buffer is not Send by itself")]
unsafe impl Send for DataBuf {}
// SAFETY: as above; there is no interior mutability.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Sync for DataBuf {}

impl DataBuf {
    /// Memory of our own, zeroed.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self(Memory::Owned(AlignedBuf::zeroed(len)))
    }

    /// Memory of our own.
    #[must_use]
    pub fn owned(buf: AlignedBuf) -> Self {
        Self(Memory::Owned(buf))
    }

    /// A front end's memory (a ublk I/O buffer).
    ///
    /// # Safety
    /// `start` is valid for reads and writes of `len` bytes as long as `owner` lives, and nobody else touches those
    /// bytes until this value is dropped.
    #[expect(unsafe_code, reason = "ublk buffers belong to libublk")]
    #[must_use]
    pub unsafe fn from_foreign(start: *mut u8, len: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self(Memory::Foreign { start, len, _owner: owner })
    }

    /// The memory, if it is our own.
    #[must_use]
    pub fn into_owned(self) -> Option<AlignedBuf> {
        match self.0 {
            Memory::Owned(buf) => Some(buf),
            Memory::Foreign { .. } => None,
        }
    }

    /// The bytes.
    #[must_use]
    #[expect(unsafe_code, reason = "view of a front end's memory")]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Owned(buf) => buf,
            // SAFETY: valid for `len` bytes by the contract of `from_foreign`; shared borrow of self.
            Memory::Foreign { start, len, .. } => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }

    /// The bytes, to be written.
    #[must_use]
    #[expect(unsafe_code, reason = "view of a front end's memory")]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Owned(buf) => buf,
            // SAFETY: valid for `len` bytes by the contract of `from_foreign`; exclusive borrow of self.
            Memory::Foreign { start, len, .. } => unsafe { std::slice::from_raw_parts_mut(*start, *len) },
        }
    }
}

impl fmt::Debug for DataBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataBuf({} bytes)", self.bytes().len())
    }
}
