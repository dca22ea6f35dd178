//! Which writes of the host are overwritten within moments: told from how long ago the same block was written before.
//!
//! ```text
//!   a write ─► a table of the newest writes, by LBA ─► written within the span before?  yes ─► hot stream
//! ```
//! What is written once in a while and what is written all the time share batches otherwise, and these are full before much
//! in them was overwritten. The open batch of the hot stream holds the blocks that are written all the time, so it is hardly
//! ever full of what is live: nearly every write to it makes an earlier one in memory dead. Of zipfian writes (0.99) to
//! millions of blocks a third is so kept to a batch of 512 KiB, and a quarter never goes to the medium; without it a
//! seventh does not.
//!
//! The span is a multiple of the records that a batch takes: blocks that come back within it are few enough for one.
//!
//! **Invariants.** Pure, and of bounded size (I10): blocks share slots of the table, and the newest has it. A wrong guess
//! costs space that is cleaned later, never data. **Not here:** the streams (`core`), longer lives ([`super::Lifespan`]).

use crate::units::{Lba, NamespaceId, OpNo};

/// Slots of the table: several times the blocks of the widest span, so that they seldom share one.
const SLOTS: usize = 1 << 14;
/// The span, in full batches of records.
const SPAN_BATCHES: u64 = 8;
/// Records that a batch takes, until one was full: of 4 KiB that compress two to one.
const BATCH_RECORDS: u64 = 247;
/// Most records of a batch that count: a wider span is more than the table holds.
const BATCH_RECORDS_MAX: u64 = 512;

/// The newest writes.
#[derive(Debug)]
pub struct Rewrites {
    /// What tells the block that has the slot from others, and the low half of the number of its newest write.
    slots: Vec<(u32, u32)>,
    batch_records: u64,
}

impl Default for Rewrites {
    fn default() -> Self {
        Self { slots: vec![(0, 0); SLOTS], batch_records: BATCH_RECORDS }
    }
}

impl Rewrites {
    /// Notes a write that is about to get about the number `op`. Returns whether the block will probably be overwritten within
    /// moments.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash, and of a number")]
    pub fn note(&mut self, namespace: NamespaceId, lba: Lba, op: OpNo) -> bool {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&lba.0.to_le_bytes());
        key[8..].copy_from_slice(&u64::from(namespace.0).to_le_bytes());
        let hash = xxhash_rust::xxh3::xxh3_64(&key);
        let (tag, low) = ((hash >> 32) as u32, op.0 as u32);
        let slot = &mut self.slots[hash as usize % SLOTS];
        let (found, before) = std::mem::replace(slot, (tag, low));
        found == tag && u64::from(low.wrapping_sub(before)) < self.batch_records * SPAN_BATCHES
    }

    /// A batch was full with so many records, none of which could go.
    pub fn filled(&mut self, records: u64) {
        self.batch_records = records.clamp(1, BATCH_RECORDS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: NamespaceId = NamespaceId(1);

    #[test]
    fn what_comes_back_within_the_span_is_hot() {
        let mut rewrites = Rewrites::default();
        rewrites.filled(100);
        assert!(!rewrites.note(NAMESPACE, Lba(7), OpNo(1)), "nothing is known of it");
        assert!(rewrites.note(NAMESPACE, Lba(7), OpNo(800)));
        assert!(!rewrites.note(NamespaceId(2), Lba(7), OpNo(801)), "another block");
        assert!(!rewrites.note(NAMESPACE, Lba(7), OpNo(1600)), "too late");
        assert!(rewrites.note(NAMESPACE, Lba(7), OpNo(1601)));
        rewrites.filled(10);
        assert!(!rewrites.note(NAMESPACE, Lba(7), OpNo(1681)), "batches hold less now");
    }

    #[test]
    fn blocks_that_are_written_once_are_not_hot() {
        let mut rewrites = Rewrites::default();
        let hot = (0..100_000).filter(|n| rewrites.note(NAMESPACE, Lba(*n), OpNo(*n))).count();
        assert_eq!(hot, 0);
    }

    #[test]
    fn of_blocks_written_in_turn_those_are_hot_that_fit_the_span() {
        let mut rewrites = Rewrites::default();
        let mut hot = |blocks: u64| (0..20_000).filter(|n| rewrites.note(NAMESPACE, Lba(n % blocks), OpNo(*n))).count();
        assert!(hot(1000) > 17_500, "but for the few that share slots");
        assert_eq!(hot(2000), 0);
    }
}
