//! All that changes in a core: the log, the namespaces with their maps, what the roots say.
//!
//! Borrowed only between awaits. [`State::set`] is the one way to change a map entry; it keeps live counts and the
//! dirty queue in step.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::account::Accounts;
use super::stats::NamespaceStats;
use super::unit::Sizes;
use crate::codec::Sealer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::namespaces::{NamespaceEntry, NamespaceTable, UNIT_AUTO};
use crate::format::root::{LeafImage, Lifetime, WindowSession};
use crate::format::{Entry, Tier};
use crate::journal::Bypass;
use crate::limits::BLOCK_SIZE;
use crate::log::Log;
use crate::map::{Clock, Directory, DirtyQueue, Heat, leaf_of};
use crate::units::{Generation, Lba, NamespaceId, OpNo, SegmentId};

/// A namespace while its pool is open.
pub struct Namespace {
    /// As the table has it.
    pub entry: NamespaceEntry,
    /// Its map.
    pub directory: Directory,
    /// Its key at work.
    pub sealer: Arc<Sealer>,
    /// Size in bytes, shared with front ends.
    pub size: Arc<AtomicU64>,
    /// Its last acknowledged operation on tier 1: what FLUSH waits for. What went to tier 0 was acknowledged when durable.
    pub last_op: OpNo,
    /// The last CLEAR that was appended for it: what is a hole by now may be durable only with that.
    pub cleared: OpNo,
    /// Bytes written since its last flush: how it uses its disk.
    pub unflushed: u64,
    /// What its requests were like.
    pub sizes: Sizes,
    /// Blocks of known leaves that are on tier 0.
    pub on_journal: u64,
    /// Counters.
    pub stats: Rc<NamespaceStats>,
    /// Requests under way.
    pub flight: Rc<Flight>,
}

/// Requests under way, in two turns: those that came before a moment can be waited for while others come.
#[derive(Default)]
pub struct Flight {
    turn: Cell<bool>,
    counts: [Cell<u64>; 2],
}

/// A request under way.
pub(super) struct Ticket {
    flight: Rc<Flight>,
    turn: usize,
}

impl Flight {
    /// A request begins.
    pub(super) fn enter(self: &Rc<Self>) -> Ticket {
        let turn = usize::from(self.turn.get());
        self.counts[turn].set(self.counts[turn].get() + 1);
        Ticket { flight: self.clone(), turn }
    }

    /// Another turn begins. Returns the one before.
    pub(super) fn turn(&self) -> usize {
        usize::from(self.turn.replace(!self.turn.get()))
    }

    /// Requests of a turn under way.
    pub(super) fn count(&self, turn: usize) -> u64 {
        self.counts[turn].get()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let count = &self.flight.counts[self.turn];
        count.set(count.get() - 1);
    }
}

impl Namespace {
    /// Blocks were written in a pool with a journal: to it or past it. They are of one leaf.
    pub fn count_journal(&mut self, bypass: Option<Bypass>, first: Lba, blocks: u32) {
        self.stats.count_journal(bypass, u64::from(blocks) * u64::from(BLOCK_SIZE));
        let heat = self.heat(first);
        let count = if bypass.is_none() { &mut heat.journal } else { &mut heat.bypassed };
        *count = count.saturating_add(blocks);
    }

    /// Blocks were moved from tier 0 to tier 1. They are of one leaf, or of this and the next.
    pub fn count_destaged(&mut self, first: Lba, blocks: u32) {
        self.stats.journal_destaged.add(u64::from(blocks) * u64::from(BLOCK_SIZE));
        let heat = self.heat(first);
        heat.destaged = heat.destaged.saturating_add(blocks);
    }

    fn heat(&mut self, lba: Lba) -> &mut Heat {
        let Some(slot) = self.directory.slot_mut(leaf_of(lba)) else {
            unreachable!("requests are within the namespace")
        };
        &mut slot.heat
    }
}

/// What the roots say and what the next one will.
#[derive(Default)]
pub struct RootState {
    /// Number of the durable root.
    pub sequence: u64,
    /// Replay start of the durable root.
    pub replay_start: OpNo,
    /// Boot id of this serve.
    pub boot: [u8; 16],
    /// Lifetime counters when this session began.
    pub lifetime: Lifetime,
    /// Root number that first named the full image; 0 for none.
    pub image: u64,
    /// Bytes of the directory in it.
    pub image_directory_bytes: u64,
    /// Its parts.
    pub image_parts: Vec<Entry>,
    /// Older sessions still in the replay window, oldest first.
    pub sessions: Vec<WindowSession>,
    /// Leaf images changed since the full image.
    pub directory: BTreeMap<(NamespaceId, u32), LeafImage>,
    /// Generations changed since the full image.
    pub segments: BTreeMap<SegmentId, Generation>,
    /// Segments of images that the next durable root no longer names.
    pub release: Vec<SegmentId>,
    /// Leaves that the next root shall call journaled.
    pub marks: BTreeSet<(NamespaceId, u32)>,
    /// Roots say that all ended cleanly, as the one that was found did: nothing is served before a journal that was given up
    /// is forgotten (C15).
    pub stays_clean: bool,
}

/// All that changes.
pub struct State {
    /// The log.
    pub log: Log,
    /// The namespaces.
    pub namespaces: BTreeMap<NamespaceId, Namespace>,
    /// Dirty leaves.
    pub dirty: DirtyQueue,
    /// Of the dirty leaves, those that are holes: they take no memory, and no record to be written back.
    pub holes: usize,
    /// Of the dirty leaves, those that wait for what recovery found: they are not in memory.
    pub waiting: usize,
    /// Leaves in memory.
    pub clock: Clock,
    /// Leaves that the map has let go of.
    pub accounts: Accounts,
    /// Roots.
    pub root: RootState,
    /// The namespace table as it is on media.
    pub table: NamespaceTable,
    /// Leaves being read.
    pub loading: BTreeSet<(NamespaceId, u32)>,
    /// Blocks that a sub-block write holds.
    pub latched: BTreeSet<(NamespaceId, Lba)>,
    /// Blocks that full-block writes wait for, for the sake of a sub-block write.
    pub reserved: BTreeSet<(NamespaceId, Lba)>,
}

impl Namespace {
    /// Blocks of the largest fragment of new writes.
    #[must_use]
    pub fn unit_blocks(&self) -> u64 {
        if self.entry.unit_blocks == UNIT_AUTO { self.sizes.unit() } else { u64::from(self.entry.unit_blocks) }
    }
}

impl State {
    /// A namespace.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not there (any more).
    pub fn namespace(&self, id: NamespaceId) -> Result<&Namespace> {
        self.namespaces.get(&id).ok_or_else(|| gone(id))
    }

    /// A namespace, to be changed.
    ///
    /// # Errors
    /// As [`State::namespace`].
    pub fn namespace_mut(&mut self, id: NamespaceId) -> Result<&mut Namespace> {
        self.namespaces.get_mut(&id).ok_or_else(|| gone(id))
    }

    /// Changes one map entry, for operation `op` that was appended in the same step (I12).
    pub fn set(&mut self, id: NamespaceId, lba: Lba, entry: Entry, op: OpNo) {
        let Some(namespace) = self.namespaces.get_mut(&id) else { return };
        let Some(change) = namespace.directory.set(lba, entry, op) else { return };
        let leaf = crate::map::leaf_of(lba);
        if change.became_dirty {
            self.dirty.push(id, leaf, op);
        }
        self.holes -= usize::from(change.was_dirty_hole);
        self.dirty.count_changes(1);
        let is_on_journal = |entry: Entry| entry.tier() == Some(Tier::Pmem);
        if is_on_journal(entry) {
            namespace.on_journal += 1;
            namespace.heat(lba).resident += 1;
        }
        if is_on_journal(change.old) {
            namespace.on_journal -= 1;
            namespace.stats.journal_left.add(u64::from(BLOCK_SIZE));
            let heat = namespace.heat(lba);
            heat.left = heat.left.saturating_add(1);
            heat.resident -= 1;
        }
        self.log.add_live(entry);
        self.log.drop_live(change.old, op);
        self.log.supersede(entry, change.old);
        if change.became_resident {
            self.admit(id, leaf);
        }
    }

    /// A leaf in memory is to be written again, though nothing changed: its image is damaged.
    pub fn touch_leaf(&mut self, id: NamespaceId, leaf: u32) {
        // of the last operation, as if that had changed it: a checkpoint takes along what is dirty up to there
        let now = self.log.last_op().max(OpNo(1));
        let slot = self.namespaces.get_mut(&id).and_then(|n| n.directory.slot_mut(leaf));
        let Some(known) = slot.and_then(|slot| slot.leaf.as_mut()) else { return };
        if known.dirty_since.is_none() {
            known.dirty_since = Some(now);
            self.dirty.push(id, leaf, now);
        }
    }

    /// Calls the leaves journaled that are to be, in the root that is being built. Returns them.
    pub fn mark_leaves(&mut self) -> BTreeSet<(NamespaceId, u32)> {
        let marks = std::mem::take(&mut self.root.marks);
        for (id, leaf) in &marks {
            if let Some(slot) = self.namespaces.get_mut(id).and_then(|n| n.directory.slot_mut(*leaf)) {
                slot.image.journaled = true;
                self.root.directory.insert((*id, *leaf), slot.image);
            }
        }
        marks
    }

    /// The root that calls these leaves journaled is durable: blocks of them may go to tier 0.
    pub fn leaves_marked(&mut self, marked: &BTreeSet<(NamespaceId, u32)>) {
        for (id, leaf) in marked {
            if let Some(slot) = self.namespaces.get_mut(id).and_then(|n| n.directory.slot_mut(*leaf)) {
                slot.takes_journal = slot.image.journaled;
            }
        }
    }

    /// Dirty leaves that take the memory of one.
    #[must_use]
    pub fn dirty_in_memory(&self) -> usize {
        self.dirty.len() - self.holes - self.waiting
    }

    /// The replay start that a root built now may name: every record up to it is in a leaf image.
    #[must_use]
    pub fn replay_start(&self) -> OpNo {
        self.dirty.oldest().map_or(self.log.last_op(), |oldest| OpNo(oldest.since.0 - 1))
    }
}

/// The error for a namespace that is not there.
pub(super) fn gone(id: NamespaceId) -> Error {
    Error::new(ErrorKind::NotFound, format!("namespace {id} is gone"))
}
