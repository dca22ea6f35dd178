//! Where things are in a pool.
//!
//! ```text
//!   0        superblock            copy 0
//!   4 KiB    namespace table       copy 0    256 KiB
//!   260 KiB  root slot 0, slot 1   copy 0    512 KiB each
//!   2 MiB    segments
//!   end - 1284 KiB          root slot 0, slot 1, namespace table, superblock: copy 1
//! ```

use crate::units::SegmentId;

/// Bytes of each end of the pool that are not segments.
pub const END_BYTES: u64 = 2 << 20;
/// Bytes of a namespace table copy.
pub const NAMESPACE_TABLE_BYTES: usize = 256 << 10;
/// Bytes of a root copy.
pub const ROOT_BYTES: usize = 512 << 10;
/// Copies of everything outside the segments.
pub const COPIES: usize = 2;
/// Root slots, used in turn.
pub const ROOT_SLOTS: u64 = 2;

const SUPERBLOCK_END: u64 = super::superblock::SUPERBLOCK_BYTES as u64;
const TABLE_END: u64 = SUPERBLOCK_END + NAMESPACE_TABLE_BYTES as u64;
const ROOTS_END: u64 = TABLE_END + ROOT_SLOTS * ROOT_BYTES as u64;
const _: () = assert!(ROOTS_END <= END_BYTES);

/// Bytes that a pool of so many segments needs.
#[must_use]
pub fn pool_bytes_needed(segment_bytes: u32, segment_count: u32) -> u64 {
    2 * END_BYTES + u64::from(segment_bytes) * u64::from(segment_count)
}

/// The places of a pool's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the pool.
    pub pool_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
}

impl Layout {
    /// Byte offset of a superblock copy.
    #[must_use]
    pub fn superblock(&self, copy: usize) -> u64 {
        if copy == 0 { 0 } else { self.pool_bytes - SUPERBLOCK_END }
    }

    /// Byte offset of a namespace table copy.
    #[must_use]
    pub fn namespace_table(&self, copy: usize) -> u64 {
        if copy == 0 { SUPERBLOCK_END } else { self.pool_bytes - TABLE_END }
    }

    /// Byte offset of a copy of the root slot that the root with this sequence number goes to.
    #[must_use]
    pub fn root(&self, sequence: u64, copy: usize) -> u64 {
        let slot = sequence % ROOT_SLOTS;
        let base = if copy == 0 { TABLE_END } else { self.pool_bytes - ROOTS_END };
        base + slot * ROOT_BYTES as u64
    }

    /// Byte offset of a segment.
    #[must_use]
    pub fn segment(&self, segment: SegmentId) -> u64 {
        END_BYTES + u64::from(segment.0) * u64::from(self.segment_bytes)
    }
}
