//! Page-aligned memory of a fixed length, zeroed when made. Fit for `O_DIRECT`.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::limits::IO_ALIGN;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; IO_ALIGN]);

/// Owned bytes, aligned to [`IO_ALIGN`], whose address does not change while they live.
pub struct AlignedBuf {
    pages: Box<[Page]>,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self { pages: bytemuck::zeroed_slice_box(len.div_ceil(IO_ALIGN)), len }
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copied(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}
