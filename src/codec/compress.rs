//! Making blocks smaller, and back.
//!
//! All zeros need no payload. Anything else is kept compressed only if that saves at least one granule; otherwise it
//! is stored raw, without the zeros that it ends with, which costs nothing to read. A compressed payload is never shorter than an AES block, which XTS
//! relies on: LZ4 cannot make a block of 4 KiB that small, and a zstd frame that would be is given up for LZ4.
//!
//! Data that cannot get smaller (media, archives, what is encrypted already) is noticed by [`noise`](super::noise)
//! before anything is spent on it.
//!
//! **Failure.** Bytes that do not decompress to exactly the expected length are [`crate::error::ErrorKind::Corrupt`],
//! whatever they are; output never goes beyond the buffer.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use zstd::bulk;

use super::noise::looks_like_noise;
use super::xts;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Codec, Compression};
use crate::limits::{FRAGMENT_BYTES_MAX, GRANULE};

/// What may be spent on compressing.
#[derive(Clone, Copy)]
enum Effort {
    /// A write waits for it.
    Write = 0,
    /// It is done once, for data that is kept for long.
    Cold = 1,
}

/// zstd's levels, by effort. For writes the fastest that still finds matches with entropy coding. For what is cold: of 32 KiB of
/// database pages level 3 makes 10 % less than level 1; higher ones make 2 % less of that, for twice the time.
const ZSTD_LEVELS: [i32; 2] = [1, 3];
/// Fewest bytes that compression must save.
const SAVED_MIN: usize = GRANULE as usize;

/// Compresses; keeps its tables, so that it does not allocate.
pub(super) struct Compressor {
    table: CompressTable,
    /// One context a level.
    zstd: [Option<bulk::Compressor<'static>>; 2],
    /// For where the output buffer is smaller than LZ4 demands.
    spill: Box<[u8]>,
}

impl Compressor {
    pub(super) fn new() -> Self {
        let spill = vec![0; get_maximum_output_size(FRAGMENT_BYTES_MAX)].into_boxed_slice();
        Self { table: CompressTable::small(), zstd: [None, None], spill }
    }

    /// Writes `plain` (whole blocks, at most [`FRAGMENT_BYTES_MAX`]) into `out`, which has room for all of it, in the
    /// smallest form; returns which and how long.
    pub(super) fn compress(
        &mut self,
        plain: &[u8],
        compression: Compression,
        out: &mut [u8],
    ) -> Result<(Codec, usize)> {
        match compression {
            Compression::None if is_zero(plain) => Ok((Codec::Zero, 0)),
            Compression::None => {
                out[..plain.len()].copy_from_slice(plain);
                Ok((Codec::Raw, plain.len()))
            }
            Compression::Lz4 => self.smallest(plain, out, |this, out| Ok(this.lz4(plain, out))),
            Compression::Zstd => self.smallest(plain, out, |this, out| this.zstd(Effort::Write, plain, out)),
        }
    }

    /// As [`Compressor::compress`] with zstd, for what is written once and then kept for long.
    pub(super) fn compress_cold(&mut self, plain: &[u8], out: &mut [u8]) -> Result<(Codec, usize)> {
        self.smallest(plain, out, |this, out| this.zstd(Effort::Cold, plain, out))
    }

    fn smallest(
        &mut self,
        plain: &[u8],
        out: &mut [u8],
        compress: impl FnOnce(&mut Self, &mut [u8]) -> Result<Option<(Codec, usize)>>,
    ) -> Result<(Codec, usize)> {
        let kept = without_zeros_at_end(plain);
        if kept == 0 {
            return Ok((Codec::Zero, 0));
        }
        if !looks_like_noise(plain)
            && let Some(form) = compress(self, out)?.filter(|(_, len)| len + SAVED_MIN <= kept)
        {
            return Ok(form);
        }
        out[..kept].copy_from_slice(&plain[..kept]);
        Ok((Codec::Raw, kept))
    }

    fn lz4(&mut self, plain: &[u8], out: &mut [u8]) -> Option<(Codec, usize)> {
        let direct = out.len() >= get_maximum_output_size(plain.len());
        let target = if direct { &mut *out } else { &mut *self.spill };
        let len = compress_into_with_table(plain, target, &mut self.table).ok()?;
        if len > plain.len() - SAVED_MIN {
            return None;
        }
        if !direct {
            out[..len].copy_from_slice(&self.spill[..len]);
        }
        Some((Codec::Lz4, len))
    }

    fn zstd(&mut self, effort: Effort, plain: &[u8], out: &mut [u8]) -> Result<Option<(Codec, usize)>> {
        let context = match &mut self.zstd[effort as usize] {
            Some(context) => context,
            empty => {
                let context = bulk::Compressor::new(ZSTD_LEVELS[effort as usize])
                    .map_err(|e| Error::io("cannot set up zstd", e))?;
                empty.insert(context)
            }
        };
        // what does not fit is not worth keeping: zstd gives up there
        let worth = &mut out[..plain.len() - SAVED_MIN];
        match context.compress_to_buffer(plain, worth) {
            Ok(len) if len >= xts::BLOCK => Ok(Some((Codec::Zstd, len))),
            Ok(_) => Ok(self.lz4(plain, out)),
            Err(_) => Ok(None),
        }
    }
}

/// Decompresses; keeps its context.
pub(super) struct Decompressor {
    zstd: Option<bulk::Decompressor<'static>>,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        Self { zstd: None }
    }

    /// Fills `plain` exactly from LZ4 or zstd bytes.
    pub(super) fn decompress(&mut self, codec: Codec, packed: &[u8], plain: &mut [u8]) -> Result<()> {
        let filled = match codec {
            Codec::Lz4 => decompress_into(packed, plain).ok(),
            Codec::Zstd => self.zstd()?.decompress_to_buffer(packed, plain).ok(),
            Codec::Raw | Codec::Zero => None,
        };
        match filled {
            Some(len) if len == plain.len() => Ok(()),
            Some(len) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("a {codec} payload decompresses to {len} bytes, expected {}", plain.len()),
            )),
            None => {
                Err(Error::new(ErrorKind::Corrupt, format!("{} bytes are not a valid {codec} payload", packed.len())))
            }
        }
    }

    fn zstd(&mut self) -> Result<&mut bulk::Decompressor<'static>> {
        match &mut self.zstd {
            Some(context) => Ok(context),
            empty => {
                let context = bulk::Decompressor::new().map_err(|e| Error::io("cannot set up zstd", e))?;
                Ok(empty.insert(context))
            }
        }
    }
}

/// Bytes of whole blocks up to the last that is not zero, in units of an AES block; 0 when all are.
fn without_zeros_at_end(plain: &[u8]) -> usize {
    let (units, _) = plain.as_chunks::<{ xts::BLOCK }>();
    units.iter().rposition(|unit| u128::from_le_bytes(*unit) != 0).map_or(0, |last| (last + 1) * xts::BLOCK)
}

/// Whether all bytes are zero. Data that is not is usually noticed in its first words.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<128>();
    rest.iter().all(|&byte| byte == 0)
        && lines.iter().all(|line| {
            let (words, _) = line.as_chunks::<16>();
            words.iter().fold(0, |all, word| all | u128::from_le_bytes(*word)) == 0
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::testing::{half_noise, noise};
    use crate::limits::{BLOCK_BYTES, SEAL_OVERHEAD_MAX};

    fn round_trip(plain: &[u8], compression: Compression) -> (Codec, usize) {
        let mut out = vec![0xee; FRAGMENT_BYTES_MAX + SEAL_OVERHEAD_MAX];
        let (codec, len) = Compressor::new().compress(plain, compression, &mut out).unwrap();
        match codec {
            Codec::Zero => assert!(plain.iter().all(|&byte| byte == 0)),
            Codec::Raw => {
                assert!(len <= plain.len() && len >= xts::BLOCK, "{len} bytes");
                assert_eq!(&out[..len], &plain[..len]);
                assert!(plain[len..].iter().all(|&byte| byte == 0));
            }
            Codec::Lz4 | Codec::Zstd => {
                assert!(len <= plain.len() - SAVED_MIN && len >= xts::BLOCK, "{len} bytes");
                let mut back = vec![0xdd; plain.len()];
                Decompressor::new().decompress(codec, &out[..len], &mut back).unwrap();
                assert_eq!(back, plain);
            }
        }
        (codec, len)
    }

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    #[test]
    fn zeros_need_no_payload() {
        for blocks in 1..=8 {
            for compression in ALL {
                assert_eq!(round_trip(&vec![0; blocks * BLOCK_BYTES], compression), (Codec::Zero, 0));
            }
        }
    }

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        let mut bytes = vec![0; BLOCK_BYTES + 5];
        assert!(is_zero(&bytes));
        for at in 0..bytes.len() {
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn cold_data_comes_back_whatever_it_is() {
        for plain in [vec![0; 32 << 10], noise(32 << 10, 3), half_noise(32 << 10, 3), vec![7; 4096]] {
            let mut out = vec![0xee; FRAGMENT_BYTES_MAX + SEAL_OVERHEAD_MAX];
            let (codec, len) = Compressor::new().compress_cold(&plain, &mut out).unwrap();
            let mut back = vec![0xdd; plain.len()];
            match codec {
                Codec::Zero => back.fill(0),
                Codec::Raw => {
                    back.fill(0);
                    back[..len].copy_from_slice(&out[..len]);
                }
                Codec::Lz4 | Codec::Zstd => Decompressor::new().decompress(codec, &out[..len], &mut back).unwrap(),
            }
            assert!(back == plain && len <= plain.len(), "{codec}: {len} bytes");
        }
    }

    #[test]
    fn noise_is_stored_raw() {
        for blocks in 1..=8 {
            for compression in ALL {
                let plain = noise(blocks * BLOCK_BYTES, 3);
                assert_eq!(round_trip(&plain, compression), (Codec::Raw, plain.len()));
            }
        }
    }

    #[test]
    fn zeros_at_the_end_are_not_stored() {
        for (kept, stored) in [(1, 16), (16, 16), (17, 32), (2048, 2048), (4095, 4096), (4096, 4096)] {
            let mut plain = noise(BLOCK_BYTES, 9);
            plain[kept - 1] |= 1;
            plain[kept..].fill(0);
            for compression in [Compression::Lz4, Compression::Zstd] {
                let (codec, len) = round_trip(&plain, compression);
                assert!(codec == Codec::Raw && len == stored || len < stored, "{kept} bytes: {codec} {len}");
            }
            assert_eq!(round_trip(&plain, Compression::None), (Codec::Raw, BLOCK_BYTES));
        }
        // what can be compressed is, however it ends
        let mut text = b"zeros at the end ".repeat(121);
        text.resize(BLOCK_BYTES, 0);
        assert!(round_trip(&text, Compression::Lz4).1 < 100);
    }

    #[test]
    fn what_compresses_is_compressed() {
        for blocks in 1..=8 {
            let plain = half_noise(blocks * BLOCK_BYTES, 3);
            assert_eq!(round_trip(&plain, Compression::Lz4).0, Codec::Lz4);
            assert_eq!(round_trip(&plain, Compression::Zstd).0, Codec::Zstd);
            assert_eq!(round_trip(&plain, Compression::None), (Codec::Raw, plain.len()));
        }
    }

    #[test]
    fn no_payload_is_shorter_than_an_aes_block() {
        for blocks in 1..=8 {
            for byte in [1, 0xff] {
                for compression in [Compression::Lz4, Compression::Zstd] {
                    let (codec, len) = round_trip(&vec![byte; blocks * BLOCK_BYTES], compression);
                    assert_ne!(codec, Codec::Raw);
                    assert!(len >= xts::BLOCK, "{codec}: {len} bytes");
                }
            }
        }
    }

    #[test]
    fn saving_less_than_a_granule_is_saving_nothing() {
        for zeros in 0..64 {
            let mut plain = noise(BLOCK_BYTES, 5);
            plain[1000..1000 + zeros].fill(0);
            for compression in ALL {
                let (codec, len) = round_trip(&plain, compression);
                assert!(codec == Codec::Raw || len <= BLOCK_BYTES - SAVED_MIN, "{zeros} zeros: {codec} {len}");
            }
        }
    }

    #[test]
    fn another_length_is_corrupt() {
        let plain = half_noise(2 * BLOCK_BYTES, 3);
        let mut out = vec![0; FRAGMENT_BYTES_MAX];
        for compression in [Compression::Lz4, Compression::Zstd] {
            let (codec, len) = Compressor::new().compress(&plain, compression, &mut out).unwrap();
            for expected in [BLOCK_BYTES, 3 * BLOCK_BYTES] {
                let error = Decompressor::new().decompress(codec, &out[..len], &mut vec![0; expected]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_goes_in_comes_out(
            blocks in 1..=8usize,
            seed: u64,
            run in 1..600usize,
            noisy in 0..=4usize,
            compression in proptest::sample::select(&ALL[..]),
        ) {
            let mut plain = noise(blocks * BLOCK_BYTES, seed);
            for (i, run) in plain.chunks_mut(run).enumerate() {
                if i % 4 >= noisy {
                    run.fill(u8::try_from(i % 256).unwrap());
                }
            }
            round_trip(&plain, compression);
        }

        #[test]
        fn any_bytes_are_corrupt_or_decompress(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            for codec in [Codec::Lz4, Codec::Zstd, Codec::Raw, Codec::Zero] {
                let mut plain = vec![0; BLOCK_BYTES];
                if let Err(error) = Decompressor::new().decompress(codec, &bytes, &mut plain) {
                    prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
                }
            }
        }
    }
}
