//! From blocks to a sealed payload: compress, seal, hash, while the bytes are warm.

use super::compress::Compressor;
use super::seal::{FragmentName, Sealer};
use super::{check_plain, payload_hash};
use crate::error::Result;
use crate::fail;
use crate::format::{Codec, Compression};
use crate::limits::{FRAGMENT_BYTES_MAX, SEAL_OVERHEAD_MAX};
use crate::units::{Lba, NamespaceId, SealNo};

/// Bytes that the output of [`Encoder::encode`] must have room for.
pub const ENCODED_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + SEAL_OVERHEAD_MAX;

/// What became of some blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// How they were made smaller.
    pub codec: Codec,
    /// Length of the sealed payload in bytes: 0 for zeros, else at least 16.
    pub stored: usize,
    /// [`payload_hash`] of the sealed payload.
    pub hash: u64,
}

/// One thread's compression tables and scratch.
pub struct Encoder {
    compressor: Compressor,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder; it does not allocate after its first use of each compression.
    #[must_use]
    pub fn new() -> Self {
        Self { compressor: Compressor::new() }
    }

    /// Compresses and seals `plain`, 1 to 8 whole blocks that begin at `first`, into `out`, which has at least
    /// [`ENCODED_BYTES_MAX`] bytes; what is in `out` beyond the stored length is undefined.
    ///
    /// Blocks that are all zero give [`Codec::Zero`] and no payload, whatever the compression.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::OutOfRange`]: `plain` or `out` has another length. Never for what the data is.
    #[expect(clippy::too_many_arguments, reason = "each is one part of a fragment; a struct would only rename them")]
    pub fn encode(
        &mut self,
        plain: &[u8],
        namespace: NamespaceId,
        first: Lba,
        number: SealNo,
        compression: Compression,
        sealer: &Sealer,
        out: &mut [u8],
    ) -> Result<Encoded> {
        let count = check_lengths(plain, out)?;
        let (codec, len) = self.compressor.compress(plain, compression, out)?;
        seal(&FragmentName { namespace, first, count, codec, seal: number }, len, sealer, out)
    }

    /// As [`Encoder::encode`], for data that is to be kept for long: smaller, and slower.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_cold(
        &mut self,
        plain: &[u8],
        (namespace, first, number): (NamespaceId, Lba, SealNo),
        sealer: &Sealer,
        out: &mut [u8],
    ) -> Result<Encoded> {
        let count = check_lengths(plain, out)?;
        let (codec, len) = self.compressor.compress_cold(plain, out)?;
        seal(&FragmentName { namespace, first, count, codec, seal: number }, len, sealer, out)
    }
}

fn check_lengths(plain: &[u8], out: &[u8]) -> Result<u8> {
    let count = check_plain(plain)?;
    if out.len() < ENCODED_BYTES_MAX {
        fail!(OutOfRange, "an output of {} bytes for an encoded fragment of up to {ENCODED_BYTES_MAX}", out.len());
    }
    Ok(count)
}

/// Seals what was compressed to the first `len` bytes of `out`.
fn seal(name: &FragmentName, len: usize, sealer: &Sealer, out: &mut [u8]) -> Result<Encoded> {
    let stored = match name.codec {
        Codec::Zero => 0,
        Codec::Raw | Codec::Lz4 | Codec::Zstd => sealer.seal(name, out, len)?,
    };
    Ok(Encoded { codec: name.codec, stored, hash: payload_hash(&out[..stored]) })
}
