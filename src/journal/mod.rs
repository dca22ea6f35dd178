//! What goes to tier 0: the blocks that are soon rewritten, which die there and never reach the SSD.
//!
//! ```text
//!   a write ─► large? flood? ─► no: what does it overwrite?  nothing yet ─► tier 0
//!                   │                                       on tier 0   ─► tier 0
//!                   └─ yes ─► tier 1                        on tier 1   ─► tier 0 if it was written not long ago
//! ```
//!
//! Heat needs no bits in the map: the rewrite interval of a block is now less the birth of the segment that its entry points
//! to. A database log is small writes, each soon flushed, over a small range again and again; a load or a copy is large
//! writes, or many without a flush, and never pushes a log out.
//!
//! **Invariants.** Pure: the decision depends on its arguments alone. It is about speed and wear, never about what is
//! durable.
//!
//! **Not here:** room, appends, leaves that a root must call journaled first (`core`).

/// Largest request that is admitted, in blocks: databases commit in less.
pub const REQUEST_BLOCKS_MAX: u64 = 16;
/// A namespace that has written so much since its last flush does not commit, it loads.
pub const UNFLUSHED_MAX: u64 = 1 << 20;
/// Blocks of tier 1 that are rewritten within this time are hot.
pub const HOT_NS: u64 = 60_000_000_000;

/// With fewer free segments than this, of so many, what lives on is moved out.
#[must_use]
pub fn low_segments(count: usize) -> usize {
    (count / 8).max(3)
}

/// What a write overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwritten {
    /// Nothing.
    Nothing,
    /// A block on tier 0.
    Journal,
    /// A block on tier 1, in a segment of this age; `None` when it is older than the serve.
    Ssd(Option<u64>),
}

/// A write that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Blocks of the whole request.
    pub blocks: u64,
    /// Bytes that its namespace has written since its last flush.
    pub unflushed: u64,
    /// What it overwrites.
    pub overwritten: Overwritten,
}

/// Whether it goes to tier 0.
#[must_use]
pub fn admits(candidate: &Candidate) -> bool {
    if candidate.blocks > REQUEST_BLOCKS_MAX || candidate.unflushed > UNFLUSHED_MAX {
        return false;
    }
    match candidate.overwritten {
        Overwritten::Nothing | Overwritten::Journal => true,
        Overwritten::Ssd(age) => age.is_some_and(|age| age <= HOT_NS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_go_in_and_floods_do_not() {
        let log = Candidate { blocks: 2, unflushed: 8192, overwritten: Overwritten::Journal };
        assert!(admits(&log));
        assert!(admits(&Candidate { overwritten: Overwritten::Nothing, ..log }));
        assert!(!admits(&Candidate { blocks: 17, ..log }), "a large write");
        assert!(!admits(&Candidate { unflushed: UNFLUSHED_MAX + 1, ..log }), "a load, even over a log");
    }

    #[test]
    fn what_is_on_the_ssd_has_to_be_hot() {
        let with = |age| admits(&Candidate { blocks: 1, unflushed: 0, overwritten: Overwritten::Ssd(age) });
        assert!(with(Some(1_000_000_000)) && with(Some(HOT_NS)));
        assert!(!with(Some(HOT_NS + 1)));
        assert!(!with(None), "nobody knows how long ago");
    }
}
