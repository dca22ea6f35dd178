//! A namespace's leaves: which are in memory, and where the durable image of each is.

use super::replayed::Replayed;
use super::{index_of, leaf_of};
use crate::format::Entry;
use crate::format::root::LeafImage;
use crate::limits::LEAF_ENTRIES;
use crate::units::{Lba, LbaRange, OpNo};

/// A leaf in memory.
#[derive(Debug)]
pub struct Leaf {
    /// Its entries.
    pub entries: Box<[Entry; LEAF_ENTRIES]>,
    /// The first operation that changed it since its newest image; `None` when clean.
    pub dirty_since: Option<OpNo>,
}

impl Leaf {
    /// A leaf of holes.
    #[must_use]
    pub fn empty() -> Self {
        Self { entries: Box::new([Entry::HOLE; LEAF_ENTRIES]), dirty_since: None }
    }
}

/// Blocks of a leaf, by what became of them in a pool with a journal, since the pool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Written to tier 0.
    pub journal: u32,
    /// Written past it.
    pub bypassed: u32,
    /// No longer on tier 0: overwritten, discarded or moved.
    pub left: u32,
    /// Of these, moved to tier 1.
    pub destaged: u32,
}

/// A place in the directory.
#[derive(Debug, Default)]
pub struct LeafSlot {
    /// The newest image that was appended; durable when a root names it.
    pub image: LeafImage,
    /// The leaf, if it is in memory.
    pub leaf: Option<Leaf>,
    /// The durable root calls it journaled: blocks of it may be written to tier 0.
    pub takes_journal: bool,
    /// The first operation that recovery found for it, while the leaf is not in memory and waits for its changes.
    pub waits_since: Option<OpNo>,
    /// What its blocks do on tier 0.
    pub heat: Heat,
}

impl LeafSlot {
    /// Whether it holds anything beside what is in memory.
    fn is_something(&self) -> bool {
        self.image.entry != Entry::HOLE || self.waits_since.is_some()
    }
}

/// The directory of a namespace.
#[derive(Debug)]
pub struct Directory {
    slots: Vec<LeafSlot>,
    blocks: u64,
    replayed: Replayed,
}

impl Directory {
    /// An empty directory for `blocks` LBAs.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let leaves = usize::try_from(blocks.div_ceil(LEAF_ENTRIES as u64)).unwrap_or(usize::MAX);
        let mut slots = Vec::with_capacity(leaves);
        slots.resize_with(leaves, LeafSlot::default);
        Self { slots, blocks, replayed: Replayed::default() }
    }

    /// LBAs it covers.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// A leaf's slot.
    #[must_use]
    pub fn slot(&self, leaf: u32) -> Option<&LeafSlot> {
        self.slots.get(leaf as usize)
    }

    /// A leaf's slot, to be changed.
    pub fn slot_mut(&mut self, leaf: u32) -> Option<&mut LeafSlot> {
        self.slots.get_mut(leaf as usize)
    }

    /// All slots in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &LeafSlot)> {
        self.slots.iter().enumerate().map(|(i, slot)| (u32::try_from(i).unwrap_or(u32::MAX), slot))
    }

    /// How many leaves there may be.
    #[must_use]
    pub fn leaf_count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Whether a leaf must be read before its entries are known.
    #[must_use]
    pub fn needs_load(&self, leaf: u32) -> bool {
        self.slot(leaf).is_some_and(|slot| slot.leaf.is_none() && slot.is_something())
    }

    /// The first leaf of a range that must be read first.
    #[must_use]
    pub fn first_to_load(&self, range: LbaRange) -> Option<u32> {
        (leaf_of(range.start)..=leaf_of(Lba(range.end().0 - 1))).find(|leaf| self.needs_load(*leaf))
    }

    /// The entry of an LBA whose leaf is known ([`Directory::needs_load`] is false).
    #[must_use]
    pub fn get(&self, lba: Lba) -> Entry {
        let leaf = self.slot(leaf_of(lba)).and_then(|slot| slot.leaf.as_ref());
        leaf.map_or(Entry::HOLE, |leaf| leaf.entries[index_of(lba)])
    }

    /// Changes the entry of an LBA whose leaf is known. Returns the old entry, and whether the leaf became dirty.
    pub fn set(&mut self, lba: Lba, entry: Entry, op: OpNo) -> (Entry, bool) {
        let Some(slot) = self.slots.get_mut(leaf_of(lba) as usize) else { return (Entry::HOLE, false) };
        let leaf = slot.leaf.get_or_insert_with(Leaf::empty);
        let old = std::mem::replace(&mut leaf.entries[index_of(lba)], entry);
        let became_dirty = leaf.dirty_since.is_none();
        if became_dirty {
            leaf.dirty_since = Some(op);
        }
        (old, became_dirty)
    }

    /// Takes what recovery found. Returns the leaves that wait for changes with the first of those, for the dirty queue.
    pub fn replay(&mut self, replayed: Replayed) -> Vec<(u32, OpNo)> {
        self.replayed = replayed;
        let slots = std::cell::RefCell::new(&mut self.slots);
        let mut waiting = Vec::new();
        self.replayed.settle(
            |leaf| slots.borrow().get(leaf as usize).map_or(OpNo(0), |slot| slot.image.complete),
            |leaf, has_data, since| {
                let mut slots = slots.borrow_mut();
                let slot = slots.get_mut(leaf as usize);
                // a leaf that holds nothing needs no clearing
                let Some(slot) = slot.filter(|slot| has_data || slot.image.entry != Entry::HOLE) else { return false };
                slot.waits_since = Some(since);
                waiting.push((leaf, since));
                true
            },
        );
        waiting
    }

    /// Puts a leaf that was not in memory there, as its image has it, and replays onto it what waits for it. Returns its
    /// entries; `None` if it was in memory.
    pub fn install(&mut self, leaf: u32, mut loaded: Leaf) -> Option<&[Entry; LEAF_ENTRIES]> {
        let slot = self.slots.get_mut(leaf as usize).filter(|slot| slot.leaf.is_none())?;
        if let Some(since) = slot.waits_since.take() {
            self.replayed.merge(leaf, slot.image.complete, &mut loaded.entries);
            loaded.dirty_since = Some(since);
        }
        Some(&slot.leaf.insert(loaded).entries)
    }

    /// Whether an LBA range has nothing in memory nor on media.
    #[must_use]
    pub fn is_hole(&self, leaf: u32) -> bool {
        self.slot(leaf).is_none_or(|slot| slot.leaf.is_none() && !slot.is_something())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_change_makes_a_leaf_dirty_once() {
        let mut directory = Directory::new(1024);
        assert_eq!(directory.get(Lba(513)), Entry::HOLE);
        assert_eq!(directory.set(Lba(513), Entry(5), OpNo(7)), (Entry::HOLE, true));
        assert_eq!(directory.set(Lba(514), Entry(6), OpNo(8)), (Entry::HOLE, false));
        assert_eq!(directory.get(Lba(513)), Entry(5));
        assert_eq!(directory.slot(1).and_then(|s| s.leaf.as_ref()).and_then(|l| l.dirty_since), Some(OpNo(7)));
        assert!(directory.is_hole(0) && !directory.is_hole(1));
        assert_eq!(directory.set(Lba(5000), Entry(6), OpNo(8)), (Entry::HOLE, false), "beyond the end nothing changes");
    }
}
