//! Which places of a file are looked at: all of it, or stretches spread evenly, so that what lies in its first part does not
//! stand for everything.

use crate::limits::BLOCK_BYTES;

/// Bytes of a stretch: several of the largest units.
pub const STRETCH_BYTES: u64 = 256 << 10;

/// Offsets of stretches of [`STRETCH_BYTES`] in `size` bytes, of which at most `budget` are read; the last stretch may be
/// shorter. Bytes behind the last whole block are left out.
#[must_use]
pub fn places(size: u64, budget: u64) -> Vec<u64> {
    let whole = size / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let all = whole.div_ceil(STRETCH_BYTES);
    let count = all.min((budget / STRETCH_BYTES).max(1));
    // as u128: the product of two sizes
    let place = |n: u64| u64::try_from(u128::from(n) * u128::from(all) / u128::from(count.max(1))).unwrap_or(0);
    (0..count).map(|n| place(n) * STRETCH_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_read_whole() {
        assert!(places(0, 1 << 30).is_empty() && places(4095, 1 << 30).is_empty());
        assert_eq!(places(5000, 1 << 30), [0]);
        assert_eq!(places(STRETCH_BYTES * 2 + 4096, 1 << 30), [0, STRETCH_BYTES, 2 * STRETCH_BYTES]);
    }

    #[test]
    fn large_ones_are_read_here_and_there() {
        let places = places(1 << 50, 4 * STRETCH_BYTES);
        assert_eq!(places, [0, 1 << 48, 1 << 49, 3 << 48]);
        assert_eq!(super::places(1 << 40, 1), [0], "at least one");
    }
}
