//! Where the bytes of a batch are until they are written: slots of shared memory for the host's streams, slots of ordinary
//! memory for all others.
//!
//! **Invariants.** A slot is given back only when its batch's write completed: until then the batch is read from there, so
//! nobody meets a block of the medium that is being written. Both kinds are bounded (I10).
//!
//! **Not here:** what survives the daemon (`staging`), when a batch is written (`core`).

use super::StreamKind;
use crate::format::slot::PRELUDE_BYTES;
use crate::limits::{ORDINARY_SLOT_COUNT, SLOT_COUNT};
use crate::staging::{Region, SlotBuf};

/// Where the bytes of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMemory {
    /// A slot of shared memory, which outlives the daemon.
    Shared(usize),
    /// A slot of ordinary memory.
    Ordinary(usize),
    /// Only on the medium.
    Gone,
}

/// The slots of a log.
pub struct Memories {
    shared: Region,
    ordinary: Region,
    free_shared: Vec<usize>,
    free_ordinary: Vec<usize>,
    /// Of tier 0, so that it never waits for the SSD: one batch is open while another is persisted.
    free_journal: Vec<usize>,
}

/// Slots of tier 0, behind the other ordinary ones.
const JOURNAL_SLOTS: std::ops::Range<usize> = ORDINARY_SLOT_COUNT..ORDINARY_SLOT_COUNT + 2;

impl Memories {
    /// All slots of `shared`, and ordinary ones beside them.
    #[must_use]
    pub fn new(shared: Region) -> Self {
        let free_shared = (0..SLOT_COUNT).rev().collect();
        let free_ordinary = (0..ORDINARY_SLOT_COUNT).rev().collect();
        let ordinary = Region::ordinary(JOURNAL_SLOTS.end);
        Self { shared, ordinary, free_shared, free_ordinary, free_journal: JOURNAL_SLOTS.collect() }
    }

    /// A slot for a batch of this stream, if one is free.
    pub fn take(&mut self, kind: StreamKind) -> Option<BatchMemory> {
        match kind {
            StreamKind::Host | StreamKind::Cold | StreamKind::Hot => self.free_shared.pop().map(BatchMemory::Shared),
            StreamKind::Leaf | StreamKind::Move | StreamKind::Packed => {
                self.free_ordinary.pop().map(BatchMemory::Ordinary)
            }
            StreamKind::Journal => self.free_journal.pop().map(BatchMemory::Ordinary),
        }
    }

    /// Gives a slot back; nothing of it is published any more.
    pub fn put(&mut self, memory: BatchMemory) {
        match memory {
            BatchMemory::Shared(slot) => {
                self.shared.publish(slot, 0);
                self.free_shared.push(slot);
            }
            BatchMemory::Ordinary(slot) if JOURNAL_SLOTS.contains(&slot) => self.free_journal.push(slot),
            BatchMemory::Ordinary(slot) => self.free_ordinary.push(slot),
            BatchMemory::Gone => {}
        }
    }

    /// Makes the first `bytes` visible to whoever adopts the slot.
    pub fn publish(&self, memory: BatchMemory, bytes: usize) {
        if let BatchMemory::Shared(slot) = memory {
            self.shared.publish(slot, bytes);
        }
    }

    pub(super) fn store(&self, memory: BatchMemory, at: usize, bytes: &[u8]) {
        let (region, slot) = self.slot(memory);
        region.store(slot, at, bytes);
    }

    pub(super) fn zero(&self, memory: BatchMemory, start: usize, end: usize) {
        let (region, slot) = self.slot(memory);
        region.zero(slot, start, end - start);
    }

    pub(super) fn store_prelude(&self, memory: BatchMemory, prelude: &[u8; PRELUDE_BYTES]) {
        if let BatchMemory::Shared(slot) = memory {
            self.shared.store_prelude(slot, prelude);
        }
    }

    /// Copies out of a batch that is still in memory.
    pub fn load(&self, memory: BatchMemory, at: usize, into: &mut [u8]) {
        let (region, slot) = self.slot(memory);
        region.load(slot, at, into);
    }

    /// The slot for the kernel to write out.
    #[must_use]
    pub fn lend(&self, memory: BatchMemory) -> SlotBuf {
        let (region, slot) = self.slot(memory);
        region.slot_buf(slot)
    }

    fn slot(&self, memory: BatchMemory) -> (&Region, usize) {
        match memory {
            BatchMemory::Shared(slot) => (&self.shared, slot),
            BatchMemory::Ordinary(slot) => (&self.ordinary, slot),
            BatchMemory::Gone => unreachable!("a batch that is only on the medium has no memory"),
        }
    }
}
