//! Every bound and fixed size, in one place, with the relations between them checked when compiling (I10).

/// The unit of the map: bytes in a logical block.
pub const BLOCK_SIZE: u32 = 4096;
/// [`BLOCK_SIZE`] for slices.
pub const BLOCK_BYTES: usize = 4096;
/// log2 of [`BLOCK_SIZE`].
pub const BLOCK_SHIFT: u32 = 12;
/// Blocks in the largest fragment.
pub const FRAGMENT_BLOCKS_MAX: u32 = 8;
/// Uncompressed bytes in the largest fragment.
pub const FRAGMENT_BYTES_MAX: usize = 8 * BLOCK_BYTES;
/// Bytes a sealed payload may have beyond its plaintext (the AEAD tag).
pub const SEAL_OVERHEAD_MAX: usize = 16;
/// Bytes in a granule: what records are padded to.
pub const GRANULE: u32 = 16;
/// Largest segment, bounded by the 18-bit granule of a map entry: 4 MiB.
pub const SEGMENT_BYTES_MAX: u32 = 4 << 20;
/// Smallest segment.
pub const SEGMENT_BYTES_MIN: u32 = 1 << 20;
/// Bytes of a segment of tier 0: little is kept from reuse by what lives on in it.
pub const JOURNAL_SEGMENT_BYTES: u32 = 256 << 10;
/// Fewest segments of a journal: one to append to, some to be emptied.
pub const JOURNAL_SEGMENTS_MIN: u32 = 16;
/// Fewest segments in a pool: enough for the streams, the reserve, and some data.
pub const SEGMENTS_MIN: u32 = 16;
/// Most segments in a tier: the 24 bits of a map entry.
pub const SEGMENTS_MAX: u32 = 1 << 24;
/// Bytes in a staging slot, and so in the largest batch.
pub const SLOT_BYTES: usize = 512 << 10;
/// Slots of a pool.
pub const SLOT_COUNT: usize = 32;
/// Batches of relocations and leaves that are in memory at a time.
pub const ORDINARY_SLOT_COUNT: usize = 8;
/// Entries in a leaf of the map.
pub const LEAF_ENTRIES: usize = 512;
/// Naturally aligned ranges of a request up to this many bytes are atomic.
pub const ATOMIC_BYTES: u64 = 64 << 10;
/// The same in blocks.
pub const ATOMIC_BLOCKS: u64 = ATOMIC_BYTES / BLOCK_SIZE as u64;
/// The same, as a length in memory: fragments and runs of a piece, at most.
pub const ATOMIC_PIECES: usize = 16;
const _: () = assert!(ATOMIC_PIECES as u64 == ATOMIC_BLOCKS);
/// An open host batch is written at this age (nanoseconds) even if nobody asks.
pub const BATCH_AGE_MAX_NS: u64 = 10_000_000;
/// One of blocks that are overwritten within moments is left open for so long: the more of it dies in memory.
pub const HOT_BATCH_AGE_MAX_NS: u64 = 100_000_000;
/// Largest request a front end may hand in (bytes); front ends cut or refuse larger ones.
pub const REQUEST_BYTES_MAX: u64 = 32 << 20;
/// Largest namespace in blocks: 40-bit LBAs, 4 PiB.
pub const NAMESPACE_BLOCKS_MAX: u64 = 1 << 40;
/// Most namespaces in a pool: what the fixed namespace table holds.
pub const NAMESPACES_MAX: usize = 1022;
/// Alignment of I/O buffers in memory.
pub const IO_ALIGN: usize = 4096;

const _: () = assert!(BLOCK_SIZE as usize == BLOCK_BYTES && 1 << BLOCK_SHIFT == BLOCK_SIZE);
const _: () = assert!(SEGMENT_BYTES_MAX / GRANULE <= 1 << 18);
const _: () = assert!(FRAGMENT_BYTES_MAX == FRAGMENT_BLOCKS_MAX as usize * BLOCK_BYTES);
// a batch holds at least one whole atomic range, stored raw, with room for headers
const _: () = assert!(ATOMIC_BYTES * 2 <= SLOT_BYTES as u64);
// a segment of tier 0 too
const _: () = assert!(ATOMIC_BYTES * 2 <= JOURNAL_SEGMENT_BYTES as u64);
const _: () = assert!(SLOT_BYTES * 2 <= SEGMENT_BYTES_MIN as usize);
