//! From a sealed payload back to blocks.

use super::check_plain;
use super::compress::Decompressor;
use super::encode::ENCODED_BYTES_MAX;
use super::seal::{FragmentName, Sealer};
use crate::error::{Error, Result};
use crate::fail;
use crate::format::Codec;

/// One thread's decompression context and scratch.
pub struct Decoder {
    decompressor: Decompressor,
    scratch: Box<[u8]>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder; it does not allocate after its first use of each codec.
    #[must_use]
    pub fn new() -> Self {
        Self { decompressor: Decompressor::new(), scratch: vec![0; ENCODED_BYTES_MAX].into_boxed_slice() }
    }

    /// Opens `sealed` and decompresses it into `plain`, which has exactly the length of the `name.count` blocks. The
    /// caller has verified the payload's checksum.
    ///
    /// After an error the content of `plain` is undefined; it is never another fragment's plaintext.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`]: the bytes are not what was sealed under this name and key.
    /// [`crate::error::ErrorKind::OutOfRange`]: `plain` has another length.
    pub fn decode(&mut self, sealed: &[u8], name: &FragmentName, sealer: &Sealer, plain: &mut [u8]) -> Result<()> {
        let count = check_plain(plain)?;
        if count != name.count {
            fail!(OutOfRange, "room for {count} blocks for a fragment of {}", name.count);
        }
        match name.codec {
            Codec::Zero => {
                if !sealed.is_empty() {
                    return Err(wrong_length(sealed.len(), 0));
                }
                plain.fill(0);
                Ok(())
            }
            Codec::Raw => self.open_raw(sealed, name, sealer, plain),
            Codec::Lz4 | Codec::Zstd => {
                let Some(scratch) = self.scratch.get_mut(..sealed.len()) else {
                    return Err(wrong_length(sealed.len(), ENCODED_BYTES_MAX));
                };
                scratch.copy_from_slice(sealed);
                let len = sealer.open(name, scratch)?;
                self.decompressor.decompress(name.codec, &scratch[..len], plain)
            }
        }
    }

    fn open_raw(&mut self, sealed: &[u8], name: &FragmentName, sealer: &Sealer, plain: &mut [u8]) -> Result<()> {
        // it ends before the zeros that the blocks end with
        let most = plain.len() + sealer.overhead();
        let Some(len) = sealed.len().checked_sub(sealer.overhead()).filter(|len| *len > 0 && *len <= plain.len())
        else {
            return Err(wrong_length(sealed.len(), most));
        };
        let (kept, zeros) = plain.split_at_mut(len);
        if sealer.overhead() == 0 {
            kept.copy_from_slice(sealed);
            sealer.open(name, kept)?;
        } else {
            let scratch = &mut self.scratch[..sealed.len()];
            scratch.copy_from_slice(sealed);
            let len = sealer.open(name, scratch)?;
            kept.copy_from_slice(&scratch[..len]);
        }
        zeros.fill(0);
        Ok(())
    }
}

#[cold]
fn wrong_length(got: usize, expected: usize) -> Error {
    let widen = |len| u64::try_from(len).unwrap_or(u64::MAX);
    Error::corrupt("fragment", "stored length", widen(expected), widen(got))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::testing::{data_key, half_noise, noise};
    use crate::codec::{Encoded, Encoder, payload_hash};
    use crate::error::ErrorKind;
    use crate::format::{Cipher, Compression};
    use crate::limits::BLOCK_BYTES;
    use crate::units::{Lba, NamespaceId, SealNo, SessionId};

    const SEAL: SealNo = SealNo { session: SessionId(77), counter: 5 };
    const CIPHERS: [Cipher; 2] = [Cipher::Aes256Xts, Cipher::Aes256Gcm];
    const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

    fn encode(plain: &[u8], compression: Compression, sealer: &Sealer) -> (Encoded, Vec<u8>) {
        let mut out = vec![0xee; ENCODED_BYTES_MAX];
        let encoded =
            Encoder::new().encode(plain, NamespaceId(1), Lba(9), SEAL, compression, sealer, &mut out).unwrap();
        out.truncate(encoded.stored);
        assert_eq!(encoded.hash, payload_hash(&out));
        (encoded, out)
    }

    fn name(codec: Codec, blocks: usize) -> FragmentName {
        let count = u8::try_from(blocks).unwrap();
        FragmentName { namespace: NamespaceId(1), first: Lba(9), count, codec, seal: SEAL }
    }

    fn decode(sealed: &[u8], codec: Codec, blocks: usize, sealer: &Sealer) -> Result<Vec<u8>> {
        let mut plain = vec![0xdd; blocks * BLOCK_BYTES];
        Decoder::new().decode(sealed, &name(codec, blocks), sealer, &mut plain)?;
        Ok(plain)
    }

    #[test]
    fn what_was_sealed_opens() {
        for cipher in CIPHERS {
            let sealer = Sealer::new(data_key(1), cipher);
            for compression in COMPRESSIONS {
                for blocks in 1..=8 {
                    let mut ends_with_zeros = noise(blocks * BLOCK_BYTES, 2);
                    ends_with_zeros[blocks * BLOCK_BYTES - 1000..].fill(0);
                    for plain in [
                        ends_with_zeros,
                        vec![0; blocks * BLOCK_BYTES],
                        vec![9; blocks * BLOCK_BYTES],
                        noise(blocks * BLOCK_BYTES, 1),
                        half_noise(blocks * BLOCK_BYTES, 1),
                    ] {
                        let (encoded, sealed) = encode(&plain, compression, &sealer);
                        let opened = decode(&sealed, encoded.codec, blocks, &sealer).unwrap();
                        assert!(opened == plain, "{cipher} {compression} {blocks} blocks as {}", encoded.codec);
                        assert!(encoded.stored == 0 || encoded.stored >= 16);
                        assert!(encoded.stored <= plain.len() + sealer.overhead());
                    }
                }
            }
        }
    }

    #[test]
    fn a_raw_payload_is_no_longer_than_its_blocks_and_what_it_lacks_is_zeros() {
        let mut plain = noise(2 * BLOCK_BYTES, 4);
        plain[5000..].fill(0);
        for cipher in CIPHERS {
            let sealer = Sealer::new(data_key(1), cipher);
            let (encoded, sealed) = encode(&plain, Compression::Lz4, &sealer);
            assert_eq!((encoded.codec, encoded.stored), (Codec::Raw, 5008 + sealer.overhead()));
            assert_eq!(decode(&sealed, Codec::Raw, 2, &sealer).unwrap(), plain);
            let error = decode(&sealed, Codec::Raw, 1, &sealer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{cipher}: more than a block");
            for len in [0, sealer.overhead(), sealer.overhead() + 15] {
                assert!(decode(&sealed[..len], Codec::Raw, 2, &sealer).is_err(), "{cipher}: {len} bytes");
            }
        }
    }

    #[test]
    fn sealed_bytes_show_nothing_of_the_data() {
        for cipher in CIPHERS {
            let sealer = Sealer::new(data_key(1), cipher);
            let plain: Vec<u8> = b"a marker of 16 b".repeat(256);
            let (_, sealed) = encode(&plain, Compression::None, &sealer);
            assert!(!sealed.windows(8).any(|window| window == b"a marker"), "{cipher}");
            assert!(sealed.chunks(16).collect::<std::collections::HashSet<_>>().len() >= 256, "{cipher}");
        }
    }

    #[test]
    fn gcm_refuses_every_flip_and_truncation() {
        let sealer = Sealer::new(data_key(1), Cipher::Aes256Gcm);
        for compression in COMPRESSIONS {
            let mut plain = vec![3; BLOCK_BYTES];
            plain[100..200].copy_from_slice(&noise(100, 1));
            let (encoded, sealed) = encode(&plain, compression, &sealer);
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 0x10;
                let error = decode(&changed, encoded.codec, 1, &sealer).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
                let error = decode(&sealed[..at], encoded.codec, 1, &sealer).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{at} bytes");
            }
        }
    }

    #[test]
    fn another_key_does_not_open() {
        for cipher in CIPHERS {
            let plain = half_noise(BLOCK_BYTES, 1);
            let (encoded, sealed) = encode(&plain, Compression::Lz4, &Sealer::new(data_key(1), cipher));
            let opened = decode(&sealed, encoded.codec, 1, &Sealer::new(data_key(2), cipher));
            assert!(opened.is_err_and(|e| e.kind() == ErrorKind::Corrupt), "{cipher}");
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let sealer = Sealer::new(data_key(1), Cipher::Aes256Xts);
        let mut out = vec![0; ENCODED_BYTES_MAX];
        let mut encode = |len: usize, room: usize| {
            let plain = vec![1; len];
            Encoder::new().encode(&plain, NamespaceId(1), Lba(9), SEAL, Compression::Lz4, &sealer, &mut out[..room])
        };
        for len in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES + 1, 9 * BLOCK_BYTES] {
            assert_eq!(encode(len, ENCODED_BYTES_MAX).unwrap_err().kind(), ErrorKind::OutOfRange, "{len}");
        }
        assert_eq!(encode(BLOCK_BYTES, ENCODED_BYTES_MAX - 1).unwrap_err().kind(), ErrorKind::OutOfRange);
        let decode = |sealed: usize, codec, room: usize| {
            let (sealed, mut plain) = (vec![1; sealed], vec![0; room]);
            Decoder::new().decode(&sealed, &name(codec, 1), &sealer, &mut plain).unwrap_err().kind()
        };
        assert_eq!(decode(BLOCK_BYTES, Codec::Raw, 2 * BLOCK_BYTES), ErrorKind::OutOfRange);
        assert_eq!(decode(BLOCK_BYTES, Codec::Raw, 100), ErrorKind::OutOfRange);
        assert_eq!(decode(BLOCK_BYTES + 1, Codec::Raw, BLOCK_BYTES), ErrorKind::Corrupt);
        assert_eq!(decode(16, Codec::Zero, BLOCK_BYTES), ErrorKind::Corrupt);
        assert_eq!(decode(15, Codec::Lz4, BLOCK_BYTES), ErrorKind::Corrupt);
        assert_eq!(decode(ENCODED_BYTES_MAX + 1, Codec::Lz4, BLOCK_BYTES), ErrorKind::Corrupt);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_bytes_are_refused_or_opened_but_never_panic(
            sealed in proptest::collection::vec(any::<u8>(), 0..6000),
            cipher in proptest::sample::select(&CIPHERS[..]),
            codec in proptest::sample::select(&[Codec::Raw, Codec::Lz4, Codec::Zstd, Codec::Zero][..]),
            blocks in 1..=8usize,
        ) {
            let sealer = Sealer::new(data_key(1), cipher);
            if let Err(error) = decode(&sealed, codec, blocks, &sealer) {
                prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
            } else {
                prop_assert_eq!(cipher, Cipher::Aes256Xts);
            }
        }

        /// With XTS the checksum is what notices; should it ever be passed, garbage must not do more than be garbage.
        #[test]
        fn changed_xts_payloads_never_panic(
            at in 0..1000usize, flip in 1..=255u8, cut in 0..100usize, zstd: bool,
        ) {
            let sealer = Sealer::new(data_key(1), Cipher::Aes256Xts);
            let compression = if zstd { Compression::Zstd } else { Compression::Lz4 };
            let plain = half_noise(2 * BLOCK_BYTES, 1);
            let (encoded, mut sealed) = encode(&plain, compression, &sealer);
            sealed[at] ^= flip;
            sealed.truncate(sealed.len() - cut);
            if let Ok(opened) = decode(&sealed, encoded.codec, 2, &sealer) {
                prop_assert_ne!(opened, plain);
            }
        }
    }
}
