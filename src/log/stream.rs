//! Streams: segments open in parallel, so that what dies together lies together.

use super::absorb::Finding;
use super::batches::BatchId;
use crate::format::Tier;
use crate::format::summary::{SummaryEntry, summary_bytes};
use crate::limits::BLOCK_SIZE;
use crate::units::SegmentId;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Writes and discards of the host; staged in shared memory.
    Host = 0,
    /// Leaf images and images of directory and segment table; in ordinary memory.
    Leaf = 1,
    /// Relocations; in ordinary memory, since what is lost with it is still where it was.
    Move = 2,
    /// Writes of the host that go to tier 0; in ordinary memory until they are durable, and acknowledged only then.
    Journal = 3,
    /// Writes of a host that loads, of blocks that will probably live long; staged in shared memory.
    Cold = 4,
    /// Relocations that were recompressed: they have lived long and will; in ordinary memory as other relocations.
    Packed = 5,
    /// Writes of a host that loads, of blocks that are overwritten within moments; staged in shared memory, where most of
    /// them die.
    Hot = 6,
}

/// Streams whose operations somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// All there are.
    All,
    /// What a host's FLUSH waits for: its writes and discards on tier 1.
    Host,
    /// Tier 0.
    Journal,
}

impl Streams {
    /// Whether a stream is one of them.
    #[must_use]
    pub fn include(self, kind: StreamKind) -> bool {
        match self {
            Self::All => true,
            Self::Host => StreamKind::STAGED.contains(&kind),
            Self::Journal => kind == StreamKind::Journal,
        }
    }
}

impl StreamKind {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Host, Self::Leaf, Self::Move, Self::Journal, Self::Cold, Self::Packed, Self::Hot];
    /// Those on tier 1.
    pub const SSD: [Self; 6] = [Self::Host, Self::Leaf, Self::Move, Self::Cold, Self::Packed, Self::Hot];
    /// Those of the host on tier 1, whose batches are staged in shared memory.
    pub const STAGED: [Self; 3] = [Self::Host, Self::Cold, Self::Hot];

    /// Where its segments are.
    #[must_use]
    pub fn tier(self) -> Tier {
        match self {
            Self::Host | Self::Leaf | Self::Move | Self::Cold | Self::Packed | Self::Hot => Tier::Ssd,
            Self::Journal => Tier::Pmem,
        }
    }
}

/// The segment that a stream appends to.
#[derive(Debug)]
pub struct OpenSegment {
    /// Which.
    pub id: SegmentId,
    /// Where the next batch goes, in bytes, a multiple of 4096.
    pub at: u32,
    /// Its records so far; not kept on tier 0, which has no summaries.
    pub summary: Vec<SummaryEntry>,
}

impl OpenSegment {
    /// Whether batches up to byte `end`, with `records` more records, leave room for the summary.
    #[must_use]
    pub fn fits(&self, segment_bytes: u32, end: usize, records: usize) -> bool {
        let block = BLOCK_SIZE as usize;
        let summary = summary_bytes(self.summary.len() + records).next_multiple_of(block);
        end.next_multiple_of(block) + summary <= segment_bytes as usize
    }
}

/// A stream's open segment and batch.
#[derive(Debug, Default)]
pub struct Stream {
    /// The segment it appends to.
    pub segment: Option<OpenSegment>,
    /// Announced segments that whoever opened it had to leave to others: it is for those who need not leave more.
    pub left: usize,
    /// Its open batch, in that segment.
    pub batch: Option<BatchId>,
    /// Somebody is making room: others wait.
    pub opening: bool,
    /// What is known of the records of its open batch, if it is staged.
    pub(super) finding: Finding,
}
