//! Batches on their way from memory to durability.

use slab::Slab;

use super::{BatchMemory, StreamKind, Streams};
use crate::canary::{self, Rule};
use crate::format::Tier;
use crate::format::record::Place;
use crate::limits::GRANULE;
use crate::units::{Granule, OpNo, SegmentId};

/// A batch in [`Batches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(usize);

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchState {
    /// Records are appended.
    Open,
    /// Closed, its write under way.
    Closed,
    /// Its write completed; a flush submitted from now on makes it durable.
    Written,
    /// A flush that covers it is under way.
    Flushing,
    /// Its write or flush failed: never durable.
    Failed,
}

/// A batch that is not yet durable.
#[derive(Debug)]
pub struct Batch {
    /// Its stream.
    pub stream: StreamKind,
    /// Where it starts.
    pub place: Place,
    /// Its bytes.
    pub memory: BatchMemory,
    /// Header and records so far.
    pub length: usize,
    /// The length when closed, padded to blocks.
    pub padded: usize,
    /// Payload bytes of its records.
    pub payload: usize,
    /// Records.
    pub count: u32,
    /// Wrapping sum of their checks.
    pub checks: u64,
    /// Number of its first record.
    pub first_op: Option<OpNo>,
    /// Number of its last record.
    pub last_op: OpNo,
    /// Blocks of its records.
    pub blocks: u32,
    /// Of these, superseded by later records of it since it was opened or last compacted.
    pub superseded: u32,
    /// What lies before this byte stays where it is.
    pub held: usize,
    /// When it was opened (or got its first record).
    pub opened_ns: u64,
    /// How far it is.
    pub state: BatchState,
}

impl Batch {
    /// Where in it this place is.
    pub(super) fn offset_of(&self, tier: Tier, segment: SegmentId, granule: Granule) -> Option<usize> {
        let offset = (granule.0.checked_sub(self.place.granule.0)? * GRANULE) as usize;
        let here = self.place.tier == tier && self.place.segment == segment && offset < self.length;
        here.then_some(offset)
    }
}

/// The batches that are not yet durable: a few dozen.
#[derive(Default)]
pub struct Batches {
    batches: Slab<Batch>,
}

impl Batches {
    pub(super) fn insert(&mut self, stream: StreamKind, place: Place, memory: BatchMemory, now_ns: u64) -> BatchId {
        let batch = Batch {
            stream,
            place,
            memory,
            length: crate::format::batch::BATCH_HEADER_BYTES,
            padded: 0,
            payload: 0,
            count: 0,
            checks: 0,
            first_op: None,
            last_op: OpNo(0),
            blocks: 0,
            superseded: 0,
            held: 0,
            opened_ns: now_ns,
            state: BatchState::Open,
        };
        BatchId(self.batches.insert(batch))
    }

    pub(super) fn remove(&mut self, id: BatchId) -> Batch {
        self.batches.remove(id.0)
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: BatchId) -> &Batch {
        &self.batches[id.0]
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, id: BatchId) -> &mut Batch {
        &mut self.batches[id.0]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().map(|(_, batch)| batch)
    }

    /// The smallest number that is not durable.
    #[must_use]
    pub fn first_unsettled(&self) -> Option<OpNo> {
        self.iter().filter_map(|b| b.first_op).min()
    }

    /// How far the batches are that hold operations up to `op`, of these streams: the least advanced state.
    /// `None` when all are durable.
    #[must_use]
    pub fn least_state(&self, streams: Streams, op: OpNo) -> Option<BatchState> {
        let rank = |state: BatchState| match state {
            BatchState::Failed => 0,
            BatchState::Open => 1,
            BatchState::Closed => 2,
            BatchState::Written => 3,
            BatchState::Flushing => 4,
        };
        self.iter()
            .filter(|b| streams.include(b.stream) && b.first_op.is_some_and(|first| first <= op))
            .map(|b| b.state)
            .min_by_key(|state| rank(*state))
    }

    /// Whether the stream has an open batch with operations up to `op`.
    #[must_use]
    pub fn open_holds(&self, stream: StreamKind, op: OpNo) -> bool {
        let holds = |b: &Batch| b.stream == stream && b.state == BatchState::Open;
        self.iter().any(|b| holds(b) && b.first_op.is_some_and(|first| first <= op))
    }

    /// Every written batch is now covered by a flush under way. Returns whether there were any.
    pub fn start_flush(&mut self) -> bool {
        let mut any = false;
        for (_, batch) in &mut self.batches {
            if batch.state == BatchState::Written {
                batch.state = BatchState::Flushing;
                any = true;
            }
        }
        any
    }

    /// The flush ended: what it covered is durable, or never will be.
    pub fn end_flush(&mut self, ok: bool) {
        if ok {
            let joins = canary::is_off(Rule::FlushAfterCompletion);
            let covered = |state| state == BatchState::Flushing || joins && state == BatchState::Written;
            self.batches.retain(|_, batch| !covered(batch.state));
        } else {
            self.batches.iter_mut().filter(|(_, b)| b.state == BatchState::Flushing).for_each(|(_, batch)| {
                batch.state = BatchState::Failed;
            });
        }
    }

    /// The batch in memory that holds this place, and the offset in it.
    #[must_use]
    pub fn staged(&self, tier: Tier, segment: SegmentId, granule: Granule) -> Option<(&Batch, usize)> {
        let held = |b: &&Batch| b.memory != BatchMemory::Gone;
        self.iter().filter(held).find_map(|b| Some((b, b.offset_of(tier, segment, granule)?)))
    }

    /// Whether what is at this place is not yet durable.
    #[must_use]
    pub fn holds(&self, tier: Tier, segment: SegmentId, granule: Granule) -> bool {
        self.iter().any(|b| b.offset_of(tier, segment, granule).is_some())
    }
}
