//! What goes to tier 0: the blocks that are soon rewritten, which die there and never reach the SSD.
//!
//! ```text
//!   a write ─► flood? ─► no: what does it overwrite?  nothing yet, or zeros ─► tier 0, unless it is large
//!                │                                    on tier 0 ─► tier 0
//!                └─ yes ─► tier 1                     on tier 1 ─► tier 0 if tier 0 would still have had it
//! ```
//!
//! Heat needs no bits in the map: the rewrite interval of a block is now less the birth of the segment that its entry points
//! to. A database log is small writes, each soon flushed, over a small range again and again; a load or a copy is large
//! writes, or many without a flush, and never pushes a log out.
//!
//! A log that consists of files (PostgreSQL) fills each with zeros, writes it once from end to end, and comes back to it when
//! all the others had their turn, which may take hours. So zeros are as good as nothing; what is rewritten is hot as long as
//! tier 0 still has what was written as long ago, for then it would have died there too; and when many commit together, their
//! write may be larger where it takes the place of what is on tier 0 or was to be there: that takes no more room.
//!
//! **Invariants.** Pure: the decision depends on its arguments alone. It is about speed and wear, never about what is
//! durable.
//!
//! **Not here:** room, appends, leaves that a root must call journaled first (`core`).

/// Largest request that is admitted to where nothing hot was, in blocks: databases commit in less.
pub const REQUEST_BLOCKS_MAX: u64 = 16;
/// Largest request that is admitted over what is hot, in blocks: many that commit together.
pub const HOT_REQUEST_BLOCKS_MAX: u64 = 64;
/// A namespace that has written so much since its last flush, zeros not counted, does not commit, it loads.
pub const UNFLUSHED_MAX: u64 = 1 << 20;
/// Blocks of tier 1 that are rewritten within this time are hot in any case.
pub const HOT_NS: u64 = 60_000_000_000;

/// With fewer free segments than this, of so many, what lives on is moved out.
#[must_use]
pub fn low_segments(count: usize) -> usize {
    (count / 8).max(3)
}

/// What a write overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwritten {
    /// Nothing, or zeros that take no payload.
    Nothing,
    /// A block on tier 0.
    Journal,
    /// A block on tier 1, in a segment of this age in nanoseconds; `None` when it is older than the serve.
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
    /// Nanoseconds that tier 0 keeps what is there: what is oldest has been there so long.
    pub residence_ns: u64,
}

/// Why a write passes tier 0 by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// It is zeros alone, which take no payload wherever they go: what a database fills a new log file with.
    Zeros,
    /// Its request is large.
    Large,
    /// Its namespace does not commit, it loads.
    Load,
    /// What it overwrites was not written for long.
    Cold,
    /// No durable root calls its leaf journaled yet.
    Unmarked,
    /// Tier 0 has no room.
    Full,
    /// Tier 0 is being drained, or what a replay would take is at its bound.
    Closed,
}

impl Bypass {
    /// How many reasons there are.
    pub const COUNT: usize = 7;
}

/// Whether it goes to tier 0, or why not.
///
/// # Errors
/// It passes by.
pub fn admit(candidate: &Candidate) -> Result<(), Bypass> {
    let is_large = candidate.blocks > REQUEST_BLOCKS_MAX;
    if candidate.blocks > HOT_REQUEST_BLOCKS_MAX {
        return Err(Bypass::Large);
    }
    if candidate.unflushed > UNFLUSHED_MAX {
        return Err(Bypass::Load);
    }
    match candidate.overwritten {
        Overwritten::Journal => Ok(()),
        Overwritten::Ssd(Some(age)) if age <= candidate.residence_ns.max(HOT_NS) => Ok(()),
        Overwritten::Nothing if !is_large => Ok(()),
        Overwritten::Nothing | Overwritten::Ssd(_) if is_large => Err(Bypass::Large),
        Overwritten::Nothing | Overwritten::Ssd(_) => Err(Bypass::Cold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Candidate = Candidate { blocks: 2, unflushed: 8192, overwritten: Overwritten::Journal, residence_ns: 0 };

    #[test]
    fn logs_go_in_and_floods_do_not() {
        assert_eq!(admit(&LOG), Ok(()));
        let first = Candidate { overwritten: Overwritten::Nothing, ..LOG };
        assert_eq!(admit(&first), Ok(()));
        assert_eq!(admit(&Candidate { blocks: 17, ..first }), Err(Bypass::Large));
        let load = Candidate { unflushed: UNFLUSHED_MAX + 1, ..LOG };
        assert_eq!(admit(&load), Err(Bypass::Load), "even over a log");
    }

    #[test]
    fn many_that_commit_together_take_the_place_of_a_log_and_no_more() {
        let group = Candidate { blocks: 64, ..LOG };
        let over = |overwritten| admit(&Candidate { overwritten, ..group });
        assert_eq!(over(Overwritten::Journal), Ok(()));
        assert_eq!(over(Overwritten::Ssd(Some(HOT_NS))), Ok(()));
        assert_eq!(over(Overwritten::Ssd(Some(HOT_NS + 1))), Err(Bypass::Large));
        assert_eq!(over(Overwritten::Nothing), Err(Bypass::Large));
        assert_eq!(admit(&Candidate { blocks: 65, ..LOG }), Err(Bypass::Large), "even over a log");
    }

    #[test]
    fn what_is_on_the_ssd_is_hot_as_long_as_tier_0_would_have_kept_it() {
        let with = |age, residence_ns| {
            admit(&Candidate { blocks: 1, unflushed: 0, overwritten: Overwritten::Ssd(age), residence_ns })
        };
        assert_eq!((with(Some(1_000_000_000), 0), with(Some(HOT_NS), 0)), (Ok(()), Ok(())));
        assert_eq!(with(Some(HOT_NS + 1), HOT_NS), Err(Bypass::Cold));
        assert_eq!(with(Some(10 * HOT_NS), 10 * HOT_NS), Ok(()), "a log that comes round slowly");
        assert_eq!(with(None, u64::MAX), Err(Bypass::Cold), "nobody knows how long ago");
    }
}
