//! Tier 0: room in it, batches that are durable when written, and leaves that a root must call journaled before.
//!
//! ```text
//!   append (several requests) ─► open batch ─► closed ─► persisted ─► all of them are acknowledged
//!                                     ▲                     │
//!                                     └── the next one ◄────┘  one persist at a time
//! ```
//!
//! **Invariants.** One batch is persisted at a time, in the order of their numbers: behind a torn one nothing is valid. A
//! request is acknowledged, and its blocks are read, only when its batch is durable. Blocks of a leaf go here only while
//! the durable root calls the leaf journaled, which is looked at in the step of the append: so whoever has lost the journal
//! knows where newer data may have been.
//!
//! **Failure.** A failed write latches the pool read-only (I11). No room is no failure: the write goes to tier 1.
//!
//! **Not here:** what shall go here (`journal`).

use std::cell::Cell;
use std::rc::Rc;

use super::stats::Counter;
use super::{Core, State};
use crate::canary::{self, Rule};
use crate::env::reactor::IoBuf;
use crate::env::sync::Notify;
use crate::error::Result;
use crate::fail;
use crate::format::journal::journal_segment;
use crate::format::{Entry, Tier};
use crate::journal::{Candidate, Overwritten, admits};
use crate::limits::GRANULE;
use crate::log::{BatchState, OpenSegment, StreamKind};
use crate::map::leaf_of;
use crate::pmem::Journal;
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

/// Leaves behind a written one that are marked with it: a log that grows is there soon.
const MARK_AHEAD: u32 = 4;

/// Tier 0 of a core.
pub struct Tier0 {
    /// Its medium.
    pub journal: Journal,
    /// Batches persisted.
    pub persists: Counter,
    /// Segments whose live blocks were moved to tier 1.
    pub destaged_segments: Counter,
    /// Nothing is admitted: it is being drained.
    pub(super) closed: Cell<bool>,
    /// A write to it failed: what is in memory for it will never be there.
    failed: Cell<bool>,
    /// When it was appended to last.
    pub(super) last_append_ns: Cell<u64>,
    /// Segments run out.
    pub(super) destage_wanted: Notify,
    /// A record was appended to the open batch.
    begun: Notify,
    /// A leaf is to be called journaled.
    marks_wanted: Notify,
}

impl Tier0 {
    /// Tier 0 on this medium.
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        Self {
            journal,
            persists: Counter::default(),
            destaged_segments: Counter::default(),
            closed: Cell::new(false),
            failed: Cell::new(false),
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
        Self { host: self.host.max(later.host), journal: self.journal.max(later.journal) }
    }
}

impl Core {
    /// The stream that a write of `piece`, of a request of `blocks` blocks, goes to, with room in it for `records` records of
    /// `bytes` in all. The caller appends before its next await.
    ///
    /// # Errors
    /// As [`Core::make_room`]; the namespace is gone.
    pub(super) async fn make_room_somewhere(
        self: &Rc<Self>,
        id: NamespaceId,
        piece: LbaRange,
        blocks: u64,
        bytes: usize,
        records: usize,
    ) -> Result<StreamKind> {
        let wants = self.admits(id, piece, blocks)?;
        if wants && self.make_journal_room(bytes, records).await? && self.takes_journal(id, piece.start)? {
            return Ok(StreamKind::Journal);
        }
        let purpose = self.purpose_of_write(id, piece)?;
        self.make_room(purpose, bytes, records).await?;
        Ok(purpose.stream())
    }

    /// Whether tier 0 is where a write should go and, as far as its leaf is concerned, may.
    fn admits(&self, id: NamespaceId, piece: LbaRange, blocks: u64) -> Result<bool> {
        // the window bounds replay, whatever tier its records are on
        if self.tier0.as_ref().is_none_or(|tier0| tier0.closed.get()) || self.window_exceeds(super::window::QUARTERS) {
            return Ok(false);
        }
        let state = self.state.borrow();
        let namespace = state.namespace(id)?;
        let old = namespace.directory.get(piece.start);
        let overwritten = match old.place() {
            None => Overwritten::Nothing,
            Some((Tier::Pmem, _)) => Overwritten::Journal,
            Some((tier, segment)) => {
                let born = state.log.table(tier).get(segment).born_ns;
                Overwritten::Ssd((born > 0).then(|| self.env.now_ns().saturating_sub(born)))
            }
        };
        let wanted = admits(&Candidate { blocks, unflushed: namespace.unflushed, overwritten });
        drop(state);
        if !wanted {
            return Ok(false);
        }
        let may = self.takes_journal(id, piece.start)?;
        if !may {
            self.want_marks(id, leaf_of(piece.start));
        }
        Ok(may)
    }

    fn takes_journal(&self, id: NamespaceId, lba: Lba) -> Result<bool> {
        let state = self.state.borrow();
        let slot = state.namespace(id)?.directory.slot(leaf_of(lba));
        // looked at in the step of the append: a drain that has begun is not prolonged
        let closed = self.tier0.as_ref().is_none_or(|tier0| tier0.closed.get());
        Ok(!closed && slot.is_some_and(|slot| slot.takes_journal || canary::is_off(Rule::MarkBeforeJournal)))
    }

    fn want_marks(&self, id: NamespaceId, leaf: u32) {
        let mut guard = self.state.borrow_mut();
        let State { namespaces, root, .. } = &mut *guard;
        let Some(namespace) = namespaces.get(&id) else { return };
        let ahead = leaf..=leaf.saturating_add(MARK_AHEAD);
        let missing = ahead.filter(|leaf| namespace.directory.slot(*leaf).is_some_and(|slot| !slot.takes_journal));
        root.marks.extend(missing.map(|leaf| (id, leaf)));
        drop(guard);
        if let Some(tier0) = &self.tier0 {
            tier0.marks_wanted.notify_all();
        }
    }

    /// Switches the root when leaves are to be called journaled. Runs as a task.
    pub(super) async fn run_marks(self: Rc<Self>) {
        let Some(tier0) = &self.tier0 else { return };
        loop {
            tier0.marks_wanted.until(|| !self.state.borrow().root.marks.is_empty()).await;
            if self.latch.check().is_err() || self.stopping.get() {
                return;
            }
            if let Err(error) = self.checkpoint(0).await {
                tracing::warn!("leaves were not marked for the journal: {error}");
                self.state.borrow_mut().root.marks.clear();
            }
        }
    }

    /// Whether tier 0's open batch takes so much more; opens what is needed. `false` when tier 0 is full.
    async fn make_journal_room(self: &Rc<Self>, bytes: usize, records: usize) -> Result<bool> {
        loop {
            self.latch.check()?;
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
            if let Some(tier0) = &self.tier0 {
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
        if let Some(tier0) = &self.tier0 {
            tier0.last_append_ns.set(self.env.now_ns());
            tier0.begun.notify_all();
        }
    }

    /// Persists batches of tier 0, one after the other: what comes meanwhile is the next one. After a failed write none is
    /// written any more: behind a torn one it would look as if that had been acknowledged. Runs as a task.
    pub(super) async fn run_persists(self: Rc<Self>) {
        let Some(tier0) = &self.tier0 else { return };
        loop {
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
                    self.latch.close("writing to the journal", &error);
                    self.durable.notify_all();
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
        let failed = || self.tier0.as_ref().is_some_and(|tier0| tier0.failed.get());
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
        if self.tier0.is_none() {
            return false;
        }
        let state = self.state.borrow();
        let Some(namespace) = state.namespaces.get(&id) else { return false };
        let entries = (piece.start.0..piece.end().0).map(|lba| namespace.directory.get(Lba(lba)));
        let mut places = entries.filter_map(|entry| entry.location()).filter(|l| l.tier() == Tier::Pmem);
        places.any(|l| state.log.batches.holds(l.tier(), l.segment, l.granule))
    }
}
