//! The unit of a namespace that has none of its own (`--unit auto`): chosen by how it is used.
//!
//! ```text
//!   reads and writes ─► by size: 4K | 8K | 16K | more ─► the size that half of them do not exceed ─► unit
//!                        └ one that goes on where the last ended is a stream's: counts as more
//! ```
//!
//! A database page that is read or overwritten alone should be a fragment alone, also when it was written together with its
//! neighbours (the kernel merges what it writes back): more would be opened to read it, and die in part when it is
//! overwritten. What is only read and written in long runs packs better in long fragments.
//!
//! **Invariants.** Pure, no allocation. The unit decides how much space is taken, never what is read back. **Not here:**
//! cutting (`write`). It is not stored: after a start it is learnt anew.

use crate::limits::BLOCK_SIZE;

/// Units, in blocks, by class.
const UNITS: [u64; 4] = [1, 2, 4, 8];
/// What is taken until enough was seen.
const UNIT_AT_FIRST: u64 = 4;
/// Requests from which on it is told.
const SEEN_LEAST: u32 = 64;
/// Requests after which older ones count half.
const SEEN_MOST: u32 = 4096;

/// What a namespace's requests were like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    counts: [u32; UNITS.len()],
    /// Where the last read and the last write ended.
    ends: [u64; 2],
}

impl Sizes {
    /// A request of so many bytes at this offset.
    pub fn count(&mut self, is_write: bool, offset: u64, len: u64) {
        let end = &mut self.ends[usize::from(is_write)];
        let goes_on = *end == offset && offset > 0;
        *end = offset + len;
        let blocks = len.div_ceil(u64::from(BLOCK_SIZE));
        let class = UNITS.iter().position(|unit| blocks <= *unit && !goes_on).unwrap_or(UNITS.len() - 1);
        self.counts[class] += 1;
        if self.counts.iter().sum::<u32>() >= SEEN_MOST {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// The unit in blocks: 1, 2, 4 or 8.
    #[must_use]
    pub fn unit(&self) -> u64 {
        let total: u32 = self.counts.iter().sum();
        if total < SEEN_LEAST {
            return UNIT_AT_FIRST;
        }
        let mut seen = 0;
        let sums = self.counts.iter().map(|count| {
            seen += count;
            seen
        });
        sums.zip(UNITS).find(|(seen, _)| seen * 2 >= total).map_or(UNIT_AT_FIRST, |(_, unit)| unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads and writes of `len` bytes at offsets that do not follow each other.
    fn scattered(sizes: &mut Sizes, len: u64, count: u64) {
        for n in 0..count {
            sizes.count(n % 2 == 0, (n * 7919 % 1000 + 1) << 20, len);
        }
    }

    #[test]
    fn nothing_is_told_from_a_few_requests() {
        let mut sizes = Sizes::default();
        scattered(&mut sizes, 4096, 63);
        assert_eq!(sizes.unit(), 4);
        scattered(&mut sizes, 4096, 1);
        assert_eq!(sizes.unit(), 1);
    }

    #[test]
    fn pages_are_fragments_of_their_own() {
        for (page, unit) in [(512, 1), (4096, 1), (8192, 2), (16384, 4), (65536, 8), (1 << 20, 8)] {
            let mut sizes = Sizes::default();
            scattered(&mut sizes, page, 500);
            assert_eq!(sizes.unit(), unit, "{page}");
        }
    }

    #[test]
    fn a_stream_of_small_writes_is_a_stream() {
        let mut sizes = Sizes::default();
        (0..500).for_each(|n| sizes.count(true, n * 4096, 4096));
        assert_eq!(sizes.unit(), 8);
    }

    #[test]
    fn merged_write_back_does_not_hide_that_pages_are_read() {
        let mut sizes = Sizes::default();
        for n in 0..200 {
            sizes.count(true, (n * 31 % 97) << 22, 256 << 10);
            scattered(&mut sizes, 8192, 3);
        }
        assert_eq!(sizes.unit(), 2);
    }

    #[test]
    fn habits_change() {
        let mut sizes = Sizes::default();
        scattered(&mut sizes, 4096, 100_000);
        scattered(&mut sizes, 1 << 20, 10_000);
        assert_eq!(sizes.unit(), 8);
    }
}
