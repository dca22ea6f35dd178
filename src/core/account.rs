//! Leaves let go of at once, and accounted for in the background: what makes large discards as fast as memory.
//!
//! ```text
//!   CLEAR over whole leaves ─┐   in the step: the leaf is a hole, dirty; what it was is queued
//!   namespace destroyed ─────┴─► queue ─► in memory: its entries ─┬─► the segments that it pointed to hold so much less
//!                                         on media: read first ───┘
//! ```
//!
//! **Invariants.** Until a leaf is accounted for its blocks count as live, so no segment that it pointed to is reused (I2), and
//! then they are let go by the operation that let go of the leaf: reuse waits until that is settled. A leaf that is yet to be
//! read keeps the segment that it is in, whatever roots name. Portions: nobody waits long for it.
//!
//! **Failure.** A leaf that cannot be read is never accounted for: what it pointed to is not reused before the pool is opened
//! again, which counts anew. **Not here:** the discard itself (`discard`), replay (`recovery`).

use std::rc::Rc;

use super::Core;
use super::bulk::Wanted;
use super::state::State;
use crate::env::sync::yield_now;
use crate::error::Result;
use crate::format::leaf::LEAF_BYTES;
use crate::format::record::{RecordHeader, record_bytes};
use crate::format::root::LeafImage;
use crate::format::{Entry, Tier};
use crate::limits::BLOCK_SIZE;
use crate::map::{Entries, Leaf, LeafSlot, Taken};
use crate::units::{NamespaceId, OpNo};

/// Leaves in memory that are accounted for before others have their turn.
const PORTION: usize = 16;
/// Leaves read at a time.
const READS: usize = 256;

/// A leaf that the map has let go of.
pub(super) struct Detached {
    /// Whose.
    pub namespace: NamespaceId,
    /// Which.
    pub leaf: u32,
    /// The operation that let go of it.
    pub op: OpNo,
    /// What it was.
    pub was: Was,
}

/// What a leaf was when the map let go of it.
pub(super) enum Was {
    /// In memory.
    Here(Entries),
    /// On media, in a segment that counts it as live for our sake too.
    There(LeafImage),
}

/// Leaves that the map has let go of and that are not accounted for.
#[derive(Default)]
pub struct Accounts {
    queue: std::collections::VecDeque<Detached>,
    /// Being read.
    reading: usize,
    /// Leaves that could not be read.
    pub lost: u64,
}

impl Accounts {
    /// Whether segments count no blocks that no leaf points to any more, but for those of leaves that could not be read.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.reading == 0
    }

    /// The leaves in the queue; `None` while some of what they point to is not in memory, or is lost.
    #[must_use]
    pub fn entries(&self) -> Option<impl Iterator<Item = &Entry>> {
        let here = |detached: &Detached| matches!(detached.was, Was::Here(_));
        let exact = self.reading == 0 && self.lost == 0 && self.queue.iter().all(here);
        exact.then(|| {
            self.queue.iter().flat_map(|detached| match &detached.was {
                Was::Here(entries) => entries.iter(),
                Was::There(_) => [].iter(),
            })
        })
    }
}

impl State {
    /// The map lets go of a whole leaf, by operation `op` that was appended in the same step (I12). Its leaf needs not be
    /// known.
    pub fn detach(&mut self, id: NamespaceId, leaf: u32, op: OpNo) {
        let taken = self.namespaces.get_mut(&id).and_then(|n| n.directory.detach(leaf, op));
        let Some(Taken { known, image, counted, became_dirty, waited }) = taken else { return };
        if known.is_some() {
            self.clock.went();
        }
        self.holes += 1;
        self.waiting -= usize::from(waited);
        if became_dirty {
            self.dirty.push(id, leaf, op);
        }
        self.dirty.count_changes(1);
        self.queue_detached((id, leaf), op, known, image, counted);
    }

    /// A namespace is no more: the map lets go of all of its leaves.
    pub fn detach_all(&mut self, id: NamespaceId, slots: impl Iterator<Item = (u32, LeafSlot)>) {
        let now = self.log.last_op();
        let mut resident = 0;
        for (leaf, slot) in slots {
            self.holes -= usize::from(slot.is_dirty_hole());
            self.waiting -= usize::from(slot.waits_since.is_some());
            self.root.release.extend(slot.image.entry.segment());
            resident += usize::from(slot.is_resident());
            if !slot.is_hole() {
                let LeafSlot { image, leaf: known, counted, .. } = slot;
                self.queue_detached((id, leaf), now, known, image, counted);
            }
        }
        self.clock.forget(id, resident);
        self.dirty.retain(|dirty| dirty.namespace != id);
        self.root.directory.retain(|(owner, _), _| *owner != id);
        self.root.marks.retain(|(owner, _)| *owner != id);
    }

    fn queue_detached(
        &mut self,
        (namespace, leaf): (NamespaceId, u32),
        op: OpNo,
        known: Option<Leaf>,
        image: LeafImage,
        counted: bool,
    ) {
        let was = match known.and_then(|known| known.entries) {
            Some(entries) => Was::Here(entries),
            // what was never counted needs no accounting, and nothing is counted while changes wait for it
            None if !counted => return,
            None => {
                image.entry.segment().into_iter().for_each(|segment| self.log.segments.add_live(segment));
                Was::There(image)
            }
        };
        self.accounts.queue.push_back(Detached { namespace, leaf, op, was });
    }

    /// The segments that a leaf pointed to hold so much less, since operation `op`.
    fn account(&mut self, id: NamespaceId, entries: &[Entry], op: OpNo) {
        let mut on_journal = 0;
        for entry in entries {
            on_journal += u64::from(entry.tier() == Some(Tier::Pmem));
            self.log.drop_live(*entry, op);
        }
        if on_journal > 0
            && let Some(namespace) = self.namespaces.get_mut(&id)
        {
            namespace.on_journal -= on_journal;
            namespace.stats.journal_left.add(on_journal * u64::from(BLOCK_SIZE));
        }
    }

    /// A leaf that was read for its account's sake, or could not be.
    fn account_read(&mut self, wanted: &Wanted, found: Option<&Leaf>) {
        self.accounts.reading -= 1;
        match found.and_then(|leaf| leaf.entries.as_ref()) {
            Some(entries) => self.account(wanted.id, &entries[..], wanted.op),
            None => {
                self.accounts.lost += 1;
                tracing::error!(
                    "leaf {} of namespace {}, which was discarded, cannot be read: what it pointed to is not reused before \
                     the pool is opened again",
                    wanted.leaf,
                    wanted.id
                );
            }
        }
        let now = self.log.last_op();
        self.log.segments.drop_live(wanted.location.segment, now);
    }
}

impl Core {
    /// Accounts for leaves that the map has let go of. Runs as a task.
    pub(super) async fn run_accounting(self: Rc<Self>) {
        loop {
            self.detached.until(|| !self.state.borrow().accounts.queue.is_empty()).await;
            let reads = self.account_portion();
            if !reads.is_empty() {
                self.read_leaves(reads, |state, wanted, found| state.account_read(wanted, found.as_ref())).await;
            }
            if self.state.borrow().accounts.is_settled() {
                self.cleaner.wanted.notify_all();
                if self.wants_checkpoint() {
                    self.checkpoint_wanted.notify_all();
                }
            }
            self.space.notify_all();
            yield_now().await;
        }
    }

    /// Accounts for a few leaves in memory; returns those that must be read.
    fn account_portion(&self) -> Vec<Wanted> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let (mut here, mut reads) = (0, Vec::new());
        while here < PORTION && reads.len() < READS {
            let Some(Detached { namespace, leaf, op, was }) = state.accounts.queue.pop_front() else { break };
            match was {
                Was::Here(entries) => {
                    state.account(namespace, &entries[..], op);
                    here += 1;
                }
                Was::There(image) => {
                    let Some(wanted) = self.wanted(state, (namespace, leaf), image, op) else { continue };
                    state.accounts.reading += 1;
                    match self.staged_leaf(state, &wanted) {
                        None => reads.push(wanted),
                        Some(found) => {
                            state.log.segments.get_mut(wanted.location.segment).pins -= 1;
                            state.account_read(&wanted, found.ok().as_ref());
                            here += 1;
                        }
                    }
                }
            }
        }
        reads
    }

    /// A leaf whose image is not yet on the medium.
    fn staged_leaf(&self, state: &State, wanted: &Wanted) -> Option<Result<Leaf>> {
        let Wanted { id, leaf, image, location, .. } = wanted;
        let (batch, offset) = state.log.batches.staged(location.tier(), location.segment, location.granule)?;
        let mut record = vec![0; record_bytes(LEAF_BYTES).min(batch.length - offset)];
        state.log.memories.load(batch.memory, offset, &mut record);
        let place = state.log.place(location.tier(), location.segment, location.granule);
        let found = RecordHeader::decode_whole(&record, &place);
        Some(found.and_then(|(header, payload)| self.open_leaf((*id, *leaf), image, &header, payload, state)))
    }
}
