//! What costs CPU: compress, seal, checksum, and back. Pure functions of bytes and keys.
//!
//! ```text
//!  plain ─► zero? ─► LZ4 | zstd | raw ─► XTS | GCM ─► xxh3 ─► payload      (Encoder)
//!  payload (checksum verified) ─► XTS | GCM ─► LZ4 | zstd | raw ─► plain   (Decoder)
//! ```
//! [`pool`] runs both on worker threads or on the core's, whichever is faster at the moment.
//!
//! **Invariants.** A payload is empty (zeros) or at least 16 bytes. Nothing leaves here unencrypted except zeros, which
//! have no bytes (I6). A seal number is used by the caller for one encoding only (I7).
//!
//! **Failure.** Any bytes may be handed to the decoder: they open to data or to
//! [`crate::error::ErrorKind::Corrupt`], they never panic and never write beyond the buffer.
//!
//! **Not here:** media, headers, the fold of the hash with a location (the log does that), choosing seal numbers.

mod compress;
mod decode;
mod encode;
mod gcm;
mod noise;
pub mod pool;
mod seal;
#[cfg(test)]
pub(crate) mod testing;
mod xts;

pub use decode::Decoder;
pub use encode::{ENCODED_BYTES_MAX, Encoded, Encoder};
pub use pool::{
    CodecCounts, CodecPool, DecodeJob, Decoded, EncodeJob, GROUP_BLOCKS, GROUP_RUNS, PackJob, PackPart, PackRun, Packed,
};
pub use seal::{FragmentName, Sealer};

use crate::error::Result;
use crate::fail;
use crate::limits::{BLOCK_BYTES, FRAGMENT_BYTES_MAX};

/// The hash of a sealed payload (XXH3, 64 bits), which the log folds with the fragment's location into its checksum.
#[must_use]
pub fn payload_hash(payload: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// The number of blocks in `plain`, which must be what one fragment holds.
fn check_plain(plain: &[u8]) -> Result<u8> {
    let blocks = plain.len() / BLOCK_BYTES;
    match u8::try_from(blocks) {
        Ok(count) if count > 0 && plain.len() <= FRAGMENT_BYTES_MAX && plain.len().is_multiple_of(BLOCK_BYTES) => {
            Ok(count)
        }
        _ => fail!(OutOfRange, "{} bytes are not 1 to 8 blocks", plain.len()),
    }
}
