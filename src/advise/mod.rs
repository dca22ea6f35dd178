//! What each setting of a namespace would make of given data: space and CPU, from a sample of it.
//!
//! ```text
//!   file or device ─► places (spread over all of it) ─► blocks ─► each setting: fragments encoded and opened again
//!                                                                   └─► bytes in the log, nanoseconds a block
//! ```
//!
//! Encodes with the code that writes use, so that what is said is what is stored: headers, padding to granules, zeros
//! without payload and data stored raw included. Not included: the padding of batches that a host flushes one by one,
//! summaries and the map (together about 1 %), and what cleaning makes of partly dead fragments.
//!
//! **Failure.** None of its own but for the kernel's source of random bytes. **Not here:** reading the sample (`cli`).

mod places;

pub use places::{STRETCH_BYTES, places};

use crate::codec::{Decoder, ENCODED_BYTES_MAX, Encoder, FragmentName, Sealer};
use crate::error::Result;
use crate::format::record::record_bytes;
use crate::format::{Cipher, Compression};
use crate::keys::DataKey;
use crate::limits::BLOCK_BYTES;
use crate::units::{Lba, NamespaceId, SealNo, SessionId};

/// What a namespace can be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// How data is made smaller.
    pub compression: Compression,
    /// Blocks of a whole fragment.
    pub unit_blocks: u8,
}

/// All settings that are told apart: without compression the unit hardly matters.
pub const SETTINGS: [Setting; 9] = {
    const fn of(compression: Compression, unit_blocks: u8) -> Setting {
        Setting { compression, unit_blocks }
    }
    [
        of(Compression::None, 4),
        of(Compression::Lz4, 1),
        of(Compression::Lz4, 2),
        of(Compression::Lz4, 4),
        of(Compression::Lz4, 8),
        of(Compression::Zstd, 1),
        of(Compression::Zstd, 2),
        of(Compression::Zstd, 4),
        of(Compression::Zstd, 8),
    ]
};

/// What a setting made of the sample so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Blocks encoded.
    pub blocks: u64,
    /// Bytes that their records take in the log.
    pub stored: u64,
    /// Time to compress and seal them.
    pub write_ns: u64,
    /// Time to open each fragment once: what reading one block of it costs.
    pub read_ns: u64,
    /// Fragments.
    pub fragments: u64,
}

/// Tries settings on blocks.
pub struct Advisor {
    encoder: Encoder,
    decoder: Decoder,
    sealer: Sealer,
    sealed: Vec<u8>,
    opened: Vec<u8>,
    seal: u64,
}

impl Advisor {
    /// An advisor with a key of its own, drawn by `random`, under which nothing is kept.
    ///
    /// # Errors
    /// What `random` reports.
    pub fn new(cipher: Cipher, random: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        Ok(Self {
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            sealer: Sealer::new(DataKey::generate(random)?, cipher),
            sealed: vec![0; ENCODED_BYTES_MAX],
            opened: Vec::new(),
            seal: 0,
        })
    }

    /// Encodes `blocks` (whole blocks that follow each other) under a setting and adds to its estimate.
    ///
    /// # Errors
    /// A fragment does not open again to what was sealed: a bug, or a broken machine.
    pub fn tries(
        &mut self,
        setting: Setting,
        blocks: &[u8],
        now_ns: impl Fn() -> u64,
        estimate: &mut Estimate,
    ) -> Result<()> {
        let namespace = NamespaceId(1);
        for (index, plain) in blocks.chunks(usize::from(setting.unit_blocks) * BLOCK_BYTES).enumerate() {
            self.seal += 1;
            let seal = SealNo { session: SessionId(1), counter: self.seal };
            let first = Lba(index as u64);
            // 1. as a write does
            let begin = now_ns();
            let encoded = self.encoder.encode(
                plain,
                namespace,
                first,
                seal,
                setting.compression,
                &self.sealer,
                &mut self.sealed,
            )?;
            let sealed = now_ns();
            // 2. as a read does
            let count = u8::try_from(plain.len() / BLOCK_BYTES).unwrap_or(u8::MAX);
            let name = FragmentName { namespace, first, count, codec: encoded.codec, seal };
            self.opened.resize(plain.len(), 0);
            self.decoder.decode(&self.sealed[..encoded.stored], &name, &self.sealer, &mut self.opened)?;
            estimate.read_ns += now_ns() - sealed;
            estimate.write_ns += sealed - begin;
            estimate.blocks += u64::from(count);
            estimate.fragments += 1;
            estimate.stored += record_bytes(encoded.stored) as u64;
            if self.opened != plain {
                return Err(crate::error::Error::corrupt("fragment", "plaintext", 0, 1));
            }
        }
        Ok(())
    }
}

impl Estimate {
    /// Bytes in the log for each byte of data.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn space(&self) -> f64 {
        self.stored as f64 / (self.blocks.max(1) * BLOCK_BYTES as u64) as f64
    }

    /// Nanoseconds of CPU to write a block.
    #[must_use]
    pub fn write_ns_a_block(&self) -> u64 {
        self.write_ns / self.blocks.max(1)
    }

    /// Nanoseconds of CPU to read one block: its whole fragment is opened.
    #[must_use]
    pub fn read_ns_a_block(&self) -> u64 {
        self.read_ns / self.fragments.max(1)
    }
}

/// The setting of a compression that is worth its unit: the smallest unit that takes at most 3 % more space than the best
/// one, since smaller units read less for a block.
#[must_use]
pub fn best_of(compression: Compression, estimates: &[(Setting, Estimate)]) -> Option<Setting> {
    let of = || estimates.iter().filter(|(setting, _)| setting.compression == compression);
    let least = of().map(|(_, estimate)| estimate.stored).min()?;
    let fits = of().filter(|(_, estimate)| estimate.stored <= least + least / 100 * 3);
    fits.min_by_key(|(setting, _)| setting.unit_blocks).map(|(setting, _)| *setting)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::codec::testing::noise;
    use crate::format::record::RECORD_HEADER_BYTES;

    fn advisor() -> Advisor {
        let random = |key: &mut [u8]| {
            key.copy_from_slice(&noise(key.len(), 9));
            Ok(())
        };
        Advisor::new(Cipher::Aes256Xts, random).unwrap()
    }

    fn estimates(blocks: &[u8]) -> Vec<(Setting, Estimate)> {
        let mut advisor = advisor();
        let clock = Cell::new(0);
        let now = || clock.replace(clock.get() + 5);
        let try_one = |setting| {
            let mut estimate = Estimate::default();
            advisor.tries(setting, blocks, now, &mut estimate).unwrap();
            (setting, estimate)
        };
        SETTINGS.map(try_one).to_vec()
    }

    #[test]
    fn noise_is_stored_raw_with_a_header_for_each_fragment() {
        for (setting, estimate) in estimates(&noise(16 * BLOCK_BYTES, 1)) {
            let fragments = 16 / u64::from(setting.unit_blocks);
            let headers = fragments * RECORD_HEADER_BYTES.next_multiple_of(16) as u64;
            assert_eq!(estimate.fragments, fragments);
            assert_eq!(estimate.stored, 16 * BLOCK_BYTES as u64 + headers, "{setting:?}");
            assert_eq!((estimate.write_ns, estimate.read_ns), (5 * fragments, 5 * fragments));
            assert!(estimate.space() > 1.0);
        }
    }

    #[test]
    fn similar_blocks_want_large_units_and_zeros_none() {
        let block = [noise(BLOCK_BYTES / 2, 2), vec![0; BLOCK_BYTES / 2]].concat();
        let similar = block.repeat(16);
        assert_eq!(best_of(Compression::Zstd, &estimates(&similar)).map(|s| s.unit_blocks), Some(8));
        let zeros = estimates(&vec![0; 16 * BLOCK_BYTES]);
        assert!(zeros.iter().all(|(_, estimate)| estimate.space() < 0.02), "{zeros:?}");
    }

    #[test]
    fn a_smaller_unit_is_preferred_when_it_takes_hardly_more() {
        let of = |unit_blocks, stored| {
            let setting = Setting { compression: Compression::Lz4, unit_blocks };
            (setting, Estimate { blocks: 100, stored, ..Estimate::default() })
        };
        let best = |estimates: &[_]| best_of(Compression::Lz4, estimates).map(|s| s.unit_blocks);
        assert_eq!(best(&[of(1, 103_000), of(4, 100_000), of(8, 101_000)]), Some(1));
        assert_eq!(best(&[of(1, 104_000), of(4, 100_000), of(8, 99_000)]), Some(4));
        assert_eq!(best(&[]), None);
    }
}
