//! Noticing data that cannot be compressed, from a few of its bytes.
//!
//! In random bytes two of them are equal once in 256 times. Everything that compresses has more equal pairs: zeros,
//! text, small numbers, instructions. The pairs among 128 bytes of each block are counted; one block with clearly more
//! than chance explains is enough to compress them all. In ordinary data that is the first, after a few bytes.
//!
//! **What is missed:** bytes that are evenly distributed and yet repeat, such as the same random block twice in one
//! fragment, and savings below about 5 %. Both are then stored raw, which is correct, only larger.
//!
//! **Why at all.** LZ4 itself speeds up where it finds nothing, but still costs as much as sealing does; zstd costs
//! three times as much.

use crate::limits::BLOCK_BYTES;

/// Bytes looked at in each place.
const SPOT_BYTES: usize = 16;
/// Where a block is looked at, in this order: one place in each eighth of it, far ones first. Modulo every power of two
/// from 32 to 512 the places fall on eight different eighths, so that records of such lengths do not show the same of
/// their bytes every time.
const SPOTS: [usize; 8] = [252, 2520, 692, 2960, 1132, 3400, 1572, 3840];
/// Chance explains as many equal pairs: 128 bytes have 8128 pairs, of which 1 in 256 is equal, 32 in all, with a
/// standard deviation of 5.6. This is little more than two deviations above: 1 in 70 random blocks is compressed in
/// vain, which costs less than the space that a higher bound gives away on data that hardly compresses.
const PAIRS_MAX: u32 = 44;

const _: () = assert!(SPOTS.len() * SPOT_BYTES == 128);

/// Whether `plain`, whole blocks, would hardly get any smaller.
pub(super) fn looks_like_noise(plain: &[u8]) -> bool {
    plain.as_chunks::<BLOCK_BYTES>().0.iter().all(block_looks_like_noise)
}

fn block_looks_like_noise(block: &[u8; BLOCK_BYTES]) -> bool {
    let mut seen = [0u8; 256];
    let mut pairs = 0;
    for at in SPOTS {
        for &byte in &block[at..at + SPOT_BYTES] {
            let count = &mut seen[usize::from(byte)];
            pairs += u32::from(*count);
            *count += 1;
        }
        if pairs > PAIRS_MAX {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::noise;

    #[test]
    fn noise_nearly_always_looks_like_noise() {
        let noticed = (0..1000).filter(|&seed| looks_like_noise(&noise(BLOCK_BYTES, seed))).count();
        assert!(noticed > 960, "{noticed} of 1000");
        let noticed = (0..1000).filter(|&seed| looks_like_noise(&noise(4 * BLOCK_BYTES, seed))).count();
        assert!(noticed > 900, "{noticed} of 1000 with four blocks");
    }

    #[test]
    fn one_block_that_compresses_is_enough() {
        let seed = (0..).find(|&seed| looks_like_noise(&noise(4 * BLOCK_BYTES, seed))).unwrap();
        for at in 0..4 {
            let mut plain = noise(4 * BLOCK_BYTES, seed);
            plain[at * BLOCK_BYTES..][..BLOCK_BYTES].fill(b'x');
            assert!(!looks_like_noise(&plain), "block {at}");
        }
    }

    #[test]
    fn an_eighth_of_zeros_is_seen_wherever_it_is() {
        for at in (0..BLOCK_BYTES).step_by(BLOCK_BYTES / 8) {
            for seed in 0..20 {
                let mut plain = noise(BLOCK_BYTES, seed);
                plain[at..at + BLOCK_BYTES / 8].fill(0);
                assert!(!looks_like_noise(&plain), "zeros at {at}, seed {seed}");
            }
        }
    }

    #[test]
    fn small_alphabets_are_seen() {
        for symbols in [2, 10, 64, 100] {
            for seed in 0..20 {
                let plain: Vec<u8> = noise(BLOCK_BYTES, seed).iter().map(|byte| byte % symbols).collect();
                assert!(!looks_like_noise(&plain), "{symbols} symbols, seed {seed}");
            }
        }
    }

    #[test]
    fn places_are_spread() {
        for length in [32, 64, 128, 256, 512] {
            let mut eighths: Vec<_> = SPOTS.iter().map(|at| at % length * 8 / length).collect();
            eighths.sort_unstable();
            assert_eq!(eighths, [0, 1, 2, 3, 4, 5, 6, 7], "modulo {length}");
        }
        let mut parts: Vec<_> = SPOTS.iter().map(|at| at / (BLOCK_BYTES / 8)).collect();
        parts.sort_unstable();
        assert_eq!(parts, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    /// Records whose first bytes are random and whose rest is not, of lengths that a fixed stride would fall for.
    #[test]
    fn records_are_seen_at_every_length() {
        for record in [32, 64, 128, 256, 512, 1024] {
            for random in [8, 16, 24] {
                let mut plain = noise(BLOCK_BYTES, 1);
                for record in plain.chunks_mut(record) {
                    record[random..].fill(0);
                }
                assert!(!looks_like_noise(&plain), "records of {record} bytes, {random} of them random");
            }
        }
    }
}
