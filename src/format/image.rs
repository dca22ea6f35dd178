//! The full image of leaf directory and segment table: one byte string, cut into IMAGE records.
//!
//! ```text
//!   directory entries (24 bytes each, as in the root) | generations (4 bytes a segment, from segment 0)
//! ```

use super::cursor::{Reader, Writer};
use super::root::{DIRECTORY_CHANGE_BYTES, DirectoryChange, decode_directory, encode_directory};
use crate::error::{Error, Result};
use crate::units::Generation;

/// Bytes of an image part but the last.
pub const IMAGE_PART_BYTES: usize = 60 << 10;

/// The bytes of an image, and how many of them are the directory.
#[must_use]
pub fn encode_image(directory: impl Iterator<Item = DirectoryChange>, generations: &[Generation]) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    for d in directory {
        let mut entry = [0; DIRECTORY_CHANGE_BYTES];
        encode_directory(&mut Writer::new(&mut entry), &d);
        bytes.extend_from_slice(&entry);
    }
    let directory_bytes = bytes.len() as u64;
    bytes.extend(generations.iter().flat_map(|g| g.0.to_le_bytes()));
    (bytes, directory_bytes)
}

/// Reads an image back: directory entries and generations.
///
/// # Errors
/// [`crate::error::ErrorKind::Corrupt`] when the lengths do not fit.
pub fn decode_image(bytes: &[u8], directory_bytes: u64) -> Result<(Vec<DirectoryChange>, Vec<Generation>)> {
    let split = usize::try_from(directory_bytes).ok().filter(|n| n % DIRECTORY_CHANGE_BYTES == 0);
    let Some((directory, generations)) = split.and_then(|at| bytes.split_at_checked(at)) else {
        return Err(Error::corrupt("image", "directory bytes", bytes.len() as u64, directory_bytes));
    };
    let mut r = Reader::new("image", directory);
    let mut entries = Vec::with_capacity(directory.len() / DIRECTORY_CHANGE_BYTES);
    while r.rest() > 0 {
        entries.push(decode_directory(&mut r)?);
    }
    let mut r = Reader::new("image", generations);
    let mut list = Vec::with_capacity(generations.len() / 4);
    while r.rest() > 0 {
        list.push(Generation(r.u32()?));
    }
    Ok((entries, list))
}
