//! A leaf of the map as the payload of a LEAF record: 512 entries of 8 bytes.

use super::cursor::{Reader, Writer, exact_length};
use super::entry::Entry;
use crate::error::Result;
use crate::limits::{BLOCK_BYTES, LEAF_ENTRIES};

/// Bytes of a leaf.
pub const LEAF_BYTES: usize = LEAF_ENTRIES * 8;
const _: () = assert!(LEAF_BYTES == BLOCK_BYTES);

/// Entries to bytes.
pub fn encode_leaf(entries: &[Entry; LEAF_ENTRIES], bytes: &mut [u8; LEAF_BYTES]) {
    let mut w = Writer::new(bytes);
    for entry in entries {
        w.u64(entry.0);
    }
}

/// Bytes to entries.
///
/// # Errors
/// [`crate::error::ErrorKind::Corrupt`] when there are not [`LEAF_BYTES`], or one is no entry.
pub fn decode_leaf(bytes: &[u8]) -> Result<Box<[Entry; LEAF_ENTRIES]>> {
    exact_length("leaf", bytes, LEAF_BYTES)?;
    let mut r = Reader::new("leaf", bytes);
    let mut entries = Box::new([Entry::HOLE; LEAF_ENTRIES]);
    for entry in entries.iter_mut() {
        *entry = Entry::from_bits(r.u64()?)?;
    }
    Ok(entries)
}
