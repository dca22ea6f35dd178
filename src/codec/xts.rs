//! AES-256-XTS (IEEE 1619) over one data unit, many AES blocks at a time.
//!
//! ```text
//!  tweak T0 = E(K2, seal number) ── ×α ── T1 ── ×α ── T2 …
//!  C_i = E(K1, P_i ⊕ T_i) ⊕ T_i          K1 works on as many blocks at once as the CPU has room for
//! ```
//!
//! A data unit is one fragment's payload; its number is the seal number, session first, both little endian. A length
//! that is not a multiple of 16 is handled by ciphertext stealing, so the payload never grows.
//!
//! **Invariants.** At least [`BLOCK`] bytes: shorter payloads do not exist (the encoder stores them another way). The
//! same number is never used twice under one key (I7), which is the caller's to keep.
//!
//! **Not here:** authentication. A changed ciphertext opens to other bytes without an error; the fragment's checksum
//! notices accidents, only [`super::gcm`] notices intent.

use aes::cipher::array::{Array, ArraySize};
use aes::cipher::consts::U16;
use aes::cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend, BlockCipherEncClosure,
    BlockCipherEncrypt, BlockSizeUser, KeyInit,
};
use aes::{Aes256, Aes256Enc, Block};

use crate::error::Result;
use crate::fail;
use crate::keys::DataKey;
use crate::units::SealNo;

/// Bytes in an AES block, and in the smallest data unit.
pub(super) const BLOCK: usize = 16;

/// From this many blocks on, a remainder costs less as a whole batch with unused places than block by block.
const BATCH_REMAINDER_MIN: usize = 4;

/// Key schedules of one data key; erased when dropped.
pub(super) struct Xts {
    data: Aes256,
    tweak: Aes256Enc,
}

impl Xts {
    pub(super) fn new(key: &DataKey) -> Self {
        let (data, tweak) = key.halves();
        Self { data: Aes256::new(data.into()), tweak: Aes256Enc::new(tweak.into()) }
    }

    /// Encrypts `unit` in place.
    pub(super) fn encrypt(&self, seal: SealNo, unit: &mut [u8]) -> Result<()> {
        check_length(unit.len())?;
        let stolen = unit.len() % BLOCK;
        let whole = if stolen == 0 { unit.len() } else { unit.len() - stolen - BLOCK };
        let (head, tail) = unit.split_at_mut(whole);
        let mut tweak = self.first_tweak(seal);
        self.data.encrypt_with_backend(Pass { blocks: as_blocks(head), tweak: &mut tweak });
        if stolen != 0 {
            let (last, part) = tail.split_at_mut(BLOCK);
            self.encrypt_one(last, tweak);
            last[..stolen].swap_with_slice(part);
            self.encrypt_one(last, times_alpha(tweak));
        }
        Ok(())
    }

    /// Decrypts `unit` in place.
    pub(super) fn decrypt(&self, seal: SealNo, unit: &mut [u8]) -> Result<()> {
        check_length(unit.len())?;
        let stolen = unit.len() % BLOCK;
        let whole = if stolen == 0 { unit.len() } else { unit.len() - stolen - BLOCK };
        let (head, tail) = unit.split_at_mut(whole);
        let mut tweak = self.first_tweak(seal);
        self.data.decrypt_with_backend(Pass { blocks: as_blocks(head), tweak: &mut tweak });
        if stolen != 0 {
            let (last, part) = tail.split_at_mut(BLOCK);
            self.decrypt_one(last, times_alpha(tweak));
            last[..stolen].swap_with_slice(part);
            self.decrypt_one(last, tweak);
        }
        Ok(())
    }

    fn first_tweak(&self, seal: SealNo) -> u128 {
        let number = u128::from(seal.session.0) | u128::from(seal.counter) << 64;
        let mut block = Array(number.to_le_bytes());
        self.tweak.encrypt_block(&mut block);
        u128::from_le_bytes(block.0)
    }

    fn encrypt_one(&self, bytes: &mut [u8], mut tweak: u128) {
        self.data.encrypt_with_backend(Pass { blocks: as_blocks(bytes), tweak: &mut tweak });
    }

    fn decrypt_one(&self, bytes: &mut [u8], mut tweak: u128) {
        self.data.decrypt_with_backend(Pass { blocks: as_blocks(bytes), tweak: &mut tweak });
    }
}

fn check_length(len: usize) -> Result<()> {
    if len < BLOCK {
        fail!(Corrupt, "a sealed payload of {len} bytes: XTS needs at least {BLOCK}");
    }
    Ok(())
}

/// The whole blocks of `bytes`, which has nothing else.
fn as_blocks(bytes: &mut [u8]) -> &mut [Block] {
    let (blocks, rest) = Array::slice_as_chunks_mut(bytes);
    debug_assert!(rest.is_empty(), "cut at a block");
    blocks
}

/// The next tweak: multiplication by x in GF(2^128), little endian, without a branch on secret bits.
#[inline(always)]
fn times_alpha(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

/// Consecutive blocks and the tweak of the first; leaves the tweak of the block after the last.
struct Pass<'a> {
    blocks: &'a mut [Block],
    tweak: &'a mut u128,
}

impl BlockSizeUser for Pass<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Pass<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        self.run::<B::ParBlocksSize>(
            |batch| backend.encrypt_par_blocks_inplace(batch),
            |block| backend.encrypt_block_inplace(block),
        );
    }
}

impl BlockCipherDecClosure for Pass<'_> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = U16>>(self, backend: &B) {
        self.run::<B::ParBlocksSize>(
            |batch| backend.decrypt_par_blocks_inplace(batch),
            |block| backend.decrypt_block_inplace(block),
        );
    }
}

impl Pass<'_> {
    /// Whitens, ciphers and whitens again, `N` blocks at a time: as many as `many` takes.
    #[inline(always)]
    fn run<N: ArraySize>(self, many: impl Fn(&mut Array<Block, N>), one: impl Fn(&mut Block)) {
        let mut tweak = *self.tweak;
        let mut tweaks = Array::<Block, N>::default();
        let (batches, rest) = Array::<Block, N>::slice_as_chunks_mut(self.blocks);
        for batch in batches {
            tweak = fill_tweaks(&mut tweaks, tweak);
            whiten(batch, &tweaks);
            many(batch);
            whiten(batch, &tweaks);
        }
        let used = rest.len();
        if used >= BATCH_REMAINDER_MIN && N::USIZE > BATCH_REMAINDER_MIN {
            let mut batch = Array::<Block, N>::default();
            tweak = fill_tweaks(&mut tweaks[..used], tweak);
            batch[..used].copy_from_slice(rest);
            whiten(&mut batch[..used], &tweaks[..used]);
            many(&mut batch);
            whiten(&mut batch[..used], &tweaks[..used]);
            rest.copy_from_slice(&batch[..used]);
        } else {
            for block in rest {
                let own = [Array(tweak.to_le_bytes())];
                whiten(std::slice::from_mut(block), &own);
                one(block);
                whiten(std::slice::from_mut(block), &own);
                tweak = times_alpha(tweak);
            }
        }
        *self.tweak = tweak;
    }
}

/// Fills `tweaks` from `first` on and returns the one after the last.
#[inline(always)]
fn fill_tweaks(tweaks: &mut [Block], first: u128) -> u128 {
    let mut tweak = first;
    for place in tweaks {
        place.0 = tweak.to_le_bytes();
        tweak = times_alpha(tweak);
    }
    tweak
}

#[inline(always)]
fn whiten(blocks: &mut [Block], tweaks: &[Block]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        block.0 = (u128::from_le_bytes(block.0) ^ u128::from_le_bytes(tweak.0)).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::testing::hex;
    use crate::units::SessionId;

    const KEY_1: &str = "2718281828459045235360287471352662497757247093699959574966967627";
    const KEY_2: &str = "3141592653589793238462643383279502884197169399375105820974944592";

    fn standard_key() -> DataKey {
        let bytes: [u8; 64] = hex(&format!("{KEY_1}{KEY_2}")).try_into().unwrap();
        DataKey::from_bytes(&bytes).unwrap()
    }

    fn counting_unit() -> Vec<u8> {
        (0..=255).chain(0..=255).collect()
    }

    /// IEEE 1619-2007, annex B, vectors 10 to 14: data unit number, first and last 32 bytes of 512.
    const VECTORS: [(u64, &str, &str); 5] = [
        (
            0xff,
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
            "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
        ),
        (
            0xffff,
            "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11",
            "54fbff89eeaeea791f4a7ab1f9868294a4f9e27b42af8100cb9d59cef9645803",
        ),
        (
            0x00ff_ffff,
            "e387aaa58ba483afa7e8eb469778317ecf4cf573aa9d4eac23f2cdf914e4e200",
            "ed242c8900dd1fa965bc950dfce09b132263a1eef52dd6888c309f5a7d712826",
        ),
        (
            0xffff_ffff,
            "bf53d2dade78e822a4d949a9bc6766b01b06a8ef70d26748c6a7fc36d80ae4c5",
            "f6516139420fcff3b7361d86322c4bd84c82f335abb152c4a93411373aaa8220",
        ),
        (
            0xff_ffff_ffff,
            "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23",
            "6975be5e0b4efce51cd3e70c25a1fbbbd609d273ad5b0d59631c531f6a0a57b9",
        ),
    ];

    #[test]
    fn agrees_with_the_standard() {
        let xts = Xts::new(&standard_key());
        for (number, first, last) in VECTORS {
            let seal = SealNo { session: SessionId(number), counter: 0 };
            let mut unit = counting_unit();
            xts.encrypt(seal, &mut unit).unwrap();
            assert_eq!(&unit[..32], hex(first), "data unit {number:#x}");
            assert_eq!(&unit[480..], hex(last), "data unit {number:#x}");
            xts.decrypt(seal, &mut unit).unwrap();
            assert_eq!(unit, counting_unit());
        }
    }

    #[test]
    fn refuses_less_than_a_block() {
        let xts = Xts::new(&standard_key());
        for len in 0..BLOCK {
            let mut unit = vec![7; len];
            assert!(xts.encrypt(SealNo::default(), &mut unit).is_err());
            assert!(xts.decrypt(SealNo::default(), &mut unit).is_err());
            assert_eq!(unit, vec![7; len], "refused units stay as they are");
        }
    }

    /// One block at a time, by the crate that is slow and known to be right.
    fn reference(seal: SealNo, unit: &mut [u8]) {
        let key = standard_key();
        let (data, tweak) = key.halves();
        let xts = xts_mode::Xts128::new(Aes256::new(data.into()), Aes256::new(tweak.into()));
        let mut number = [0; 16];
        number[..8].copy_from_slice(&seal.session.0.to_le_bytes());
        number[8..].copy_from_slice(&seal.counter.to_le_bytes());
        xts.encrypt_sector(unit, number.into());
    }

    #[test]
    fn agrees_with_the_reference_at_every_length() {
        let xts = Xts::new(&standard_key());
        let seal = SealNo { session: SessionId(0x0123_4567_89ab_cdef), counter: 0x8000_0000_0000_0001 };
        for len in BLOCK..=2200 {
            let plain: Vec<u8> = (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
            let (mut ours, mut theirs) = (plain.clone(), plain.clone());
            xts.encrypt(seal, &mut ours).unwrap();
            reference(seal, &mut theirs);
            assert_eq!(ours, theirs, "{len} bytes");
            xts.decrypt(seal, &mut ours).unwrap();
            assert_eq!(ours, plain, "{len} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn agrees_with_the_reference(
            session: u64,
            counter: u64,
            plain in proptest::collection::vec(any::<u8>(), BLOCK..=33_000),
        ) {
            let xts = Xts::new(&standard_key());
            let seal = SealNo { session: SessionId(session), counter };
            let (mut ours, mut theirs) = (plain.clone(), plain.clone());
            xts.encrypt(seal, &mut ours).unwrap();
            reference(seal, &mut theirs);
            prop_assert_eq!(&ours, &theirs);
            xts.decrypt(seal, &mut ours).unwrap();
            prop_assert_eq!(&ours, &plain);
        }
    }
}
