//! Tier 0: room in it, and batches that are durable when written.
//!
//! ```text
//!   append (several requests) ─► open batch ─► closed ─► persisted ─► all of them are acknowledged
//!                                     ▲                     │
//!                                     └── the next one ◄────┘  one persist at a time
//! ```
//!
//! **Invariants.** One batch is persisted at a time, in the order of their numbers: behind a torn one nothing is valid. A
//! request is acknowledged, and its blocks are read, only when its batch is durable.
//!
//! **Failure.** A failed write latches the pool read-only (I11). No room is no failure: the write goes to tier 1.
//!
//! **Not here:** what shall go here, and what may (`admission`).

use std::cell::Cell;
use std::rc::Rc;

use super::stats::Counter;
use super::{Core, State};
use crate::env::reactor::IoBuf;
use crate::env::sync::Notify;
use crate::error::Result;
use crate::fail;
use crate::format::journal::journal_segment;
use crate::format::{Entry, Tier};
use crate::limits::GRANULE;
use crate::log::{BatchState, OpenSegment, StreamKind};
use crate::map::leaf_of;
use crate::pmem::Journal;
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

/// Tier 0 of a core.
pub struct Tier0 {
    /// Its medium.
    pub journal: Journal,
    /// Batches persisted.
    pub persists: Counter,
    /// Segments whose live blocks were moved to tier 1.
    pub destaged_segments: Counter,
    /// It was taken away.
    pub(super) ended: Cell<bool>,
    /// Nothing is admitted: it is being drained.
    pub(super) closed: Cell<bool>,
    /// A write to it failed: what is in memory for it will never be there.
    failed: Cell<bool>,
    /// Nanoseconds that it keeps what is there, as was found when it was looked at last.
    pub(super) residence_ns: Cell<u64>,
    /// When it was appended to last.
    pub(super) last_append_ns: Cell<u64>,
    /// Segments run out.
    pub(super) destage_wanted: Notify,
    /// A record was appended to the open batch.
    pub(super) begun: Notify,
    /// A leaf is to be called journaled.
    pub(super) marks_wanted: Notify,
}

impl Tier0 {
    /// Tier 0 on this medium.
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        Self {
            journal,
            persists: Counter::default(),
            destaged_segments: Counter::default(),
            ended: Cell::new(false),
            closed: Cell::new(false),
            failed: Cell::new(false),
            residence_ns: Cell::new(0),
            last_append_ns: Cell::new(0),
            destage_wanted: Notify::default(),
            begun: Notify::default(),
            marks_wanted: Notify::default(),
        }
    }
}

/// The last operations of a request, by how they become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrote {
    /// On tier 1: by a flush.
    pub host: OpNo,
    /// On tier 0: by themselves.
    pub journal: OpNo,
    /// Bytes of them that are zeros without payload.
    pub zeros: u64,
}

impl Wrote {
    pub(super) fn one(kind: StreamKind, op: OpNo) -> Self {
        if kind == StreamKind::Journal {
            Self { journal: op, ..Self::default() }
        } else {
            Self { host: op, ..Self::default() }
        }
    }

    pub(super) fn and(self, later: Self) -> Self {
        Self {
            host: self.host.max(later.host),
            journal: self.journal.max(later.journal),
            zeros: self.zeros + later.zeros,
        }
    }
}

impl Core {
    /// Whether tier 0's open batch takes so much more; opens what is needed. `false` when tier 0 is full or nothing is admitted.
    pub(super) async fn make_journal_room(self: &Rc<Self>, bytes: usize, records: usize) -> Result<bool> {
        loop {
            self.latch.check()?;
            if self.is_tier0_closed() {
                return Ok(false);
            }
            {
                let mut guard = self.state.borrow_mut();
                let log = &mut guard.log;
                if log.has_room(StreamKind::Journal, bytes, records) {
                    return Ok(true);
                }
                let filled = log.stream(StreamKind::Journal).batch.is_some_and(|id| log.batches.get(id).count > 0);
                if !filled {
                    if !self.open_journal_batch(&mut guard, bytes, records) {
                        return Ok(false);
                    }
                    continue;
                }
            }
            // it is closed when the one before it is durable
            self.durable.notified().await;
        }
    }

    /// Opens a batch with room, in another segment if need be. `false` when there is none.
    fn open_journal_batch(&self, state: &mut State, bytes: usize, records: usize) -> bool {
        let kind = StreamKind::Journal;
        let (settled, replay_start, now) = (state.log.settled(), state.root.replay_start, self.env.now_ns());
        let log = &mut state.log;
        log.abandon_batch(kind);
        if !log.segment_has_room(kind, bytes, records) {
            if let Some(full) = log.stream_mut(kind).segment.take() {
                log.journal.seal(full.id);
            }
            if log.journal.free_count() == 0 {
                log.journal.reclaim(settled, replay_start);
            }
            let opened = log.journal.open_free(now);
            if let Some(tier0) = self.tier0() {
                tier0.destage_wanted.notify_all();
            }
            let Some(id) = opened else { return false };
            log.stream_mut(kind).segment = Some(OpenSegment { id, at: 0, summary: Vec::new() });
        }
        let Some(memory) = log.memories.take(kind) else { unreachable!("one batch is persisted at a time") };
        log.open_batch(kind, memory, now);
        true
    }

    /// Says that a record was appended to tier 0.
    pub(super) fn journal_begun(&self) {
        if let Some(tier0) = self.tier0() {
            tier0.last_append_ns.set(self.env.now_ns());
            tier0.begun.notify_all();
        }
    }

    /// Persists batches of tier 0, one after the other: what comes meanwhile is the next one. After a failed write none is
    /// written any more: behind a torn one it would look as if that had been acknowledged. Runs as a task.
    pub(super) async fn run_persists(self: Rc<Self>, tier0: Rc<Tier0>) {
        while !tier0.ended.get() {
            let closed = self.state.borrow_mut().log.close_batch(StreamKind::Journal);
            let Some(id) = closed else {
                tier0.begun.notified().await;
                continue;
            };
            let (offset, len, buf) = {
                let state = self.state.borrow();
                let batch = state.log.batches.get(id);
                let offset = journal_segment(batch.place.segment) + u64::from(batch.place.granule.0 * GRANULE);
                (offset, batch.padded, IoBuf::Slot(state.log.memories.lend(batch.memory)))
            };
            let result = tier0.journal.persist_batch(offset, buf, len).await.1;
            tier0.persists.add(1);
            match result {
                Ok(()) => self.state.borrow_mut().log.batch_durable(id),
                Err(error) => {
                    self.state.borrow_mut().log.batches.get_mut(id).state = BatchState::Failed;
                    tier0.failed.set(true);
                    self.become_read_only("writing to the journal", &error);
                    return;
                }
            }
            self.durable.notify_all();
        }
    }

    /// The newest copies of blocks are gone with tier 0: they read as errors until they are rewritten. With `known` only
    /// those that the map says were there, else all of the range. Returns how many. The range's leaves will be written back.
    ///
    /// # Errors
    /// A leaf cannot be read.
    pub(crate) async fn lose_blocks(self: &Rc<Self>, id: NamespaceId, range: LbaRange, known: bool) -> Result<u64> {
        let mut lost = 0;
        for lba in (range.start.0..range.end().0).map(Lba) {
            let _known = self.know(id, LbaRange { start: lba, count: 1 }).await?;
            let mut state = self.state.borrow_mut();
            if !known {
                let now = state.log.last_op();
                state.set(id, lba, Entry::LOST, now);
            }
            lost += u64::from(state.namespace(id)?.directory.get(lba) == Entry::LOST);
            state.touch_leaf(id, leaf_of(lba));
        }
        Ok(lost)
    }

    /// Returns when all blocks of the piece that are on tier 0 are durable: what a host has seen survives the daemon.
    ///
    /// # Errors
    /// They never will be: writing to the journal failed.
    pub(super) async fn wait_persisted(&self, id: NamespaceId, piece: LbaRange) -> Result<()> {
        let failed = || self.tier0.borrow().as_ref().is_some_and(|tier0| tier0.failed.get());
        self.durable.until(|| failed() || !self.has_unpersisted(id, piece)).await;
        if self.has_unpersisted(id, piece) {
            fail!(
                Io,
                "the newest copy of some of LBAs {}..{} could not be written to the journal",
                piece.start,
                piece.end()
            );
        }
        Ok(())
    }

    /// Whether blocks of the piece are on tier 0 and not yet durable.
    fn has_unpersisted(&self, id: NamespaceId, piece: LbaRange) -> bool {
        if !self.has_tier0() {
            return false;
        }
        let state = self.state.borrow();
        let Some(namespace) = state.namespaces.get(&id) else { return false };
        let entries = (piece.start.0..piece.end().0).map(|lba| namespace.directory.get(Lba(lba)));
        let mut places = entries.filter_map(|entry| entry.location()).filter(|l| l.tier() == Tier::Pmem);
        places.any(|l| state.log.batches.holds(l.tier(), l.segment, l.granule))
    }
}
