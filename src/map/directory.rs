//! A namespace's leaves: which are in memory, and where the durable image of each is.

use super::replayed::Replayed;
use super::{index_of, leaf_of};
use crate::format::root::LeafImage;
use crate::format::{Entry, Tier};
use crate::limits::LEAF_ENTRIES;
use crate::units::{Lba, LbaRange, OpNo};

/// The entries of a leaf.
pub type Entries = Box<[Entry; LEAF_ENTRIES]>;

/// A leaf in memory.
#[derive(Debug, Default)]
pub struct Leaf {
    /// Its entries; `None` when all are holes, which takes no memory.
    pub entries: Option<Entries>,
    /// The first operation that changed it since its newest image; `None` when clean.
    pub dirty_since: Option<OpNo>,
}

impl Leaf {
    /// Its entries, if it has any.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flat_map(|entries| entries.iter())
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
    /// On tier 0 now, as far as the leaf was counted.
    pub resident: u32,
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
    /// The first operation that recovery found for it, while the leaf is not in memory and waits for its changes. It is
    /// dirty then, and nothing of it is counted.
    pub waits_since: Option<OpNo>,
    /// What its blocks do on tier 0.
    pub heat: Heat,
    /// What it points to is counted in the usage of segments. Once counted it stays so, in memory or not.
    pub counted: bool,
    /// It was used since the clock came by: it stays in memory for another round.
    pub used: bool,
    /// The clock knows it.
    pub on_clock: bool,
    /// Steps under way that need it in memory.
    pub pins: u32,
}

impl LeafSlot {
    /// Whether its entries are in memory.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        self.leaf.as_ref().is_some_and(|leaf| leaf.entries.is_some())
    }

    /// Whether it must be read, or what waits for it replayed, before its entries are known.
    #[must_use]
    pub fn needs_load(&self) -> bool {
        self.leaf.is_none() && (self.image.entry != Entry::HOLE || self.waits_since.is_some())
    }

    /// The first operation that changed it since its newest image, in memory or not; `None` when it is clean.
    #[must_use]
    pub fn dirty_since(&self) -> Option<OpNo> {
        self.waits_since.or_else(|| self.leaf.as_ref().and_then(|leaf| leaf.dirty_since))
    }

    /// Whether it holds nothing, in memory or on media. A leaf that was let go of and not yet written back is such a hole,
    /// whatever its image says; one that waits for changes is none.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        match &self.leaf {
            Some(leaf) => leaf.entries.is_none(),
            None => !self.needs_load(),
        }
    }

    /// Whether it is a hole that roots do not know of.
    #[must_use]
    pub fn is_dirty_hole(&self) -> bool {
        self.leaf.as_ref().is_some_and(|leaf| leaf.entries.is_none() && leaf.dirty_since.is_some())
    }

    /// Whether a full image tells of it: a hole only when it is journaled.
    #[must_use]
    pub fn is_in_image(&self) -> bool {
        self.image.journaled || (self.image.entry != Entry::HOLE && !self.is_dirty_hole())
    }

    /// Whether it may leave memory: it is clean, and nobody needs it now.
    #[must_use]
    pub fn is_evictable(&self) -> bool {
        self.leaf.is_some() && self.dirty_since().is_none() && self.pins == 0 && self.image.entry != Entry::HOLE
    }
}

/// What [`Directory::set`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entry before.
    pub old: Entry,
    /// The leaf was clean.
    pub became_dirty: bool,
    /// The leaf had no memory.
    pub became_resident: bool,
    /// The leaf was a hole that roots do not know of.
    pub was_dirty_hole: bool,
}

/// What [`Directory::install`] did with a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// Nothing: it was known already, or this is not its newest image.
    Refused,
    /// It was looked at and did not stay.
    Seen,
    /// It is in memory, as its image has it.
    Clean,
    /// It is in memory, with the changes that waited for it.
    Replayed,
}

/// What [`Directory::detach`] took.
#[derive(Debug)]
pub struct Taken {
    /// The leaf, if it was in memory.
    pub known: Option<Leaf>,
    /// Its newest image.
    pub image: LeafImage,
    /// What it pointed to was counted.
    pub counted: bool,
    /// It was clean.
    pub became_dirty: bool,
    /// It waited for changes, which nobody gets now.
    pub waited: bool,
}

/// A leaf that recovery found changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub leaf: u32,
    /// Its first change.
    pub since: OpNo,
    /// The last of its changes made a hole of all of it: it is known, nobody needs to read it.
    pub is_hole: bool,
}

/// The directory of a namespace.
#[derive(Debug)]
pub struct Directory {
    slots: Vec<LeafSlot>,
    blocks: u64,
    replayed: Replayed,
}

impl Directory {
    /// Bytes of memory that the directory of so many LBAs takes, whatever is in it.
    #[must_use]
    pub fn bytes(blocks: u64) -> u64 {
        blocks.div_ceil(LEAF_ENTRIES as u64).saturating_mul(size_of::<LeafSlot>() as u64)
    }

    /// An empty directory for `blocks` LBAs.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let leaves = usize::try_from(blocks.div_ceil(LEAF_ENTRIES as u64)).unwrap_or(usize::MAX);
        let mut slots = Vec::with_capacity(leaves);
        slots.resize_with(leaves, LeafSlot::default);
        Self { slots, blocks, replayed: Replayed::default() }
    }

    /// Covers so many LBAs from now on. Slots beyond a smaller size stay: they hold nothing, and somebody may yet let go of
    /// them.
    pub fn resize(&mut self, blocks: u64) {
        let leaves = usize::try_from(blocks.div_ceil(LEAF_ENTRIES as u64)).unwrap_or(usize::MAX);
        if leaves > self.slots.len() {
            // no more than was checked that there is: amortised growth would take up to twice of it
            self.slots.reserve_exact(leaves - self.slots.len());
            self.slots.resize_with(leaves, LeafSlot::default);
        }
        self.blocks = blocks;
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
        self.slot(leaf).is_some_and(LeafSlot::needs_load)
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
        leaf.and_then(|leaf| leaf.entries.as_ref()).map_or(Entry::HOLE, |entries| entries[index_of(lba)])
    }

    /// Changes the entry of an LBA whose leaf is known. `None` beyond the end, where nothing changes.
    pub fn set(&mut self, lba: Lba, entry: Entry, op: OpNo) -> Option<Change> {
        let slot = self.slots.get_mut(leaf_of(lba) as usize)?;
        debug_assert!(!slot.needs_load(), "a leaf is changed that is not known");
        let was_dirty_hole = slot.is_dirty_hole();
        // what a leaf in memory points to is counted
        slot.counted = true;
        slot.used = true;
        let leaf = slot.leaf.get_or_insert_default();
        let became_resident = leaf.entries.is_none();
        let entries = leaf.entries.get_or_insert_with(|| Box::new([Entry::HOLE; LEAF_ENTRIES]));
        let old = std::mem::replace(&mut entries[index_of(lba)], entry);
        let became_dirty = leaf.dirty_since.is_none();
        if became_dirty {
            leaf.dirty_since = Some(op);
        }
        Some(Change { old, became_dirty, became_resident, was_dirty_hole })
    }

    /// The record of a block is elsewhere now: if its entry is `old`, it becomes `new`. What the block holds stays the same.
    pub fn repoint(&mut self, lba: Lba, old: Entry, new: Entry) {
        let leaf = self.slots.get_mut(leaf_of(lba) as usize).and_then(|slot| slot.leaf.as_mut());
        let entry = leaf.and_then(|leaf| leaf.entries.as_mut()).map(|entries| &mut entries[index_of(lba)]);
        entry.into_iter().filter(|entry| **entry == old).for_each(|entry| *entry = new);
    }

    /// Takes what recovery found. Returns the leaves that it changed, for the dirty queue: they wait for those changes, but
    /// for those that the last one made a hole of.
    pub fn replay(&mut self, replayed: Replayed) -> Vec<Waiting> {
        self.replayed = replayed;
        let slots = std::cell::RefCell::new(&mut self.slots);
        let mut waiting = Vec::new();
        self.replayed.settle(
            |leaf| slots.borrow().get(leaf as usize).map_or(OpNo(0), |slot| slot.image.complete),
            |leaf, found| {
                let mut slots = slots.borrow_mut();
                let slot = slots.get_mut(leaf as usize);
                // a leaf that holds nothing needs no clearing
                let holds =
                    |slot: &&mut LeafSlot| slot.image.entry != Entry::HOLE || (found.has_data && !found.is_hole);
                let Some(slot) = slot.filter(holds) else { return false };
                waiting.push(Waiting { leaf, since: found.since, is_hole: found.is_hole });
                if found.is_hole {
                    slot.leaf = Some(Leaf { entries: None, dirty_since: Some(found.since) });
                    slot.counted = true;
                } else {
                    slot.waits_since = Some(found.since);
                }
                !found.is_hole
            },
        );
        waiting
    }

    /// A leaf was read as `image` has it. What waits for it is replayed onto it, and `count` is called with it if it was not
    /// counted. It stays in memory with `keep`, and in any case when changes waited for it: nothing else has them then.
    pub fn install(
        &mut self,
        leaf: u32,
        image: Entry,
        mut loaded: Leaf,
        keep: bool,
        count: impl FnOnce(&Leaf),
    ) -> Installed {
        let slot = self.slots.get_mut(leaf as usize);
        let Some(slot) = slot.filter(|slot| slot.leaf.is_none() && slot.image.entry == image) else {
            return Installed::Refused;
        };
        let waited = slot.waits_since.take();
        if let Some(since) = waited {
            debug_assert!(!slot.counted, "leaf {leaf} was counted without the changes that waited for it");
            let entries = loaded.entries.get_or_insert_with(|| Box::new([Entry::HOLE; LEAF_ENTRIES]));
            self.replayed.merge(leaf, slot.image.complete, entries);
            loaded.dirty_since = Some(since);
        }
        if !std::mem::replace(&mut slot.counted, true) {
            slot.heat.resident = loaded.iter().map(|entry| u32::from(entry.tier() == Some(Tier::Pmem))).sum();
            count(&loaded);
        }
        match waited {
            None if !keep => return Installed::Seen,
            _ => slot.leaf = Some(loaded),
        }
        if waited.is_some() { Installed::Replayed } else { Installed::Clean }
    }

    /// Lets go of a whole leaf, by operation `op`: it is a hole from now on, and what waited for it is never replayed.
    /// `None` when it is a hole already.
    pub fn detach(&mut self, leaf: u32, op: OpNo) -> Option<Taken> {
        let slot = self.slots.get_mut(leaf as usize).filter(|slot| !slot.is_hole())?;
        let since = slot.dirty_since();
        let waited = slot.waits_since.take().is_some();
        if waited {
            self.replayed.forget(leaf);
        }
        let known = slot.leaf.replace(Leaf { entries: None, dirty_since: Some(since.unwrap_or(op)) });
        let counted = std::mem::replace(&mut slot.counted, true);
        slot.heat.left = slot.heat.left.saturating_add(std::mem::take(&mut slot.heat.resident));
        Some(Taken { known, image: slot.image, counted, became_dirty: since.is_none(), waited })
    }

    /// Whether a leaf has nothing in memory nor on media.
    #[must_use]
    pub fn is_hole(&self, leaf: u32) -> bool {
        self.slot(leaf).is_none_or(LeafSlot::is_hole)
    }

    /// Takes all slots out: the namespace is no more.
    pub fn into_slots(self) -> impl Iterator<Item = (u32, LeafSlot)> {
        self.slots.into_iter().enumerate().map(|(i, slot)| (u32::try_from(i).unwrap_or(u32::MAX), slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BLOCK_SIZE;

    #[test]
    fn a_directory_takes_the_memory_that_the_readme_tells() {
        let tib = (1 << 40) / u64::from(BLOCK_SIZE);
        assert_eq!(Directory::bytes(tib), 48 << 20);
        assert_eq!(Directory::bytes(1), size_of::<LeafSlot>() as u64);
        // not only when it is new
        let mut directory = Directory::new(100 * LEAF_ENTRIES as u64);
        directory.resize(101 * LEAF_ENTRIES as u64);
        assert_eq!(directory.slots.capacity(), 101);
    }

    #[test]
    fn first_change_makes_a_leaf_dirty_once() {
        let mut directory = Directory::new(1024);
        assert_eq!(directory.get(Lba(513)), Entry::HOLE);
        let first = Change { old: Entry::HOLE, became_dirty: true, became_resident: true, was_dirty_hole: false };
        assert_eq!(directory.set(Lba(513), Entry(5), OpNo(7)), Some(first));
        let second = Change { became_dirty: false, became_resident: false, ..first };
        assert_eq!(directory.set(Lba(514), Entry(6), OpNo(8)), Some(second));
        assert_eq!(directory.get(Lba(513)), Entry(5));
        assert_eq!(directory.slot(1).and_then(|s| s.leaf.as_ref()).and_then(|l| l.dirty_since), Some(OpNo(7)));
        assert!(directory.is_hole(0) && !directory.is_hole(1));
        assert_eq!(directory.set(Lba(5000), Entry(6), OpNo(8)), None, "beyond the end nothing changes");
    }

    #[test]
    fn a_leaf_let_go_of_is_known_to_be_a_hole_whatever_its_image_says() {
        let mut directory = Directory::new(1024);
        let slot = directory.slot_mut(0).unwrap();
        slot.image.entry = Entry(5);
        assert!(directory.needs_load(0) && !directory.is_hole(0));
        let slot = directory.slot_mut(0).unwrap();
        slot.leaf = Some(Leaf { entries: None, dirty_since: Some(OpNo(3)) });
        assert!(slot.is_dirty_hole() && !slot.is_evictable());
        assert!(directory.is_hole(0) && !directory.needs_load(0));
        assert_eq!(directory.get(Lba(9)), Entry::HOLE);
        let change = directory.set(Lba(9), Entry(7), OpNo(4)).unwrap();
        assert!(change.was_dirty_hole && change.became_resident && !change.became_dirty);
    }

    /// Two leaves of which the first has an image, complete up to operation 4; operation 5 wrote LBAs 9 and 600, and
    /// `clear`, if there is one, cleared so many LBAs from 0 on.
    fn replayed(clear: Option<(OpNo, u64)>) -> (Directory, Vec<Waiting>) {
        let mut directory = Directory::new(1000);
        directory.slot_mut(0).unwrap().image = LeafImage { entry: Entry(1 << 60), complete: OpNo(4), journaled: false };
        let mut replayed = Replayed::new(OpNo(3), 1000);
        replayed.note_fragment(Lba(9), 1, Entry(2 << 60), OpNo(5)).unwrap();
        replayed.note_fragment(Lba(600), 1, Entry(2 << 60), OpNo(5)).unwrap();
        if let Some((op, count)) = clear {
            replayed.note_clear(Lba(0), count, op).unwrap();
        }
        let waiting = directory.replay(replayed);
        (directory, waiting)
    }

    /// The first leaf as its image has it.
    fn loaded() -> Leaf {
        let mut entries = Box::new([Entry::HOLE; LEAF_ENTRIES]);
        (entries[9], entries[10]) = (Entry(3 << 60), Entry(4 << 60));
        Leaf { entries: Some(entries), dirty_since: None }
    }

    #[test]
    fn a_leaf_that_waits_is_dirty_and_no_hole_and_stays_whoever_reads_it() {
        let (mut directory, waiting) = replayed(None);
        let waits = |leaf| Waiting { leaf, since: OpNo(5), is_hole: false };
        assert_eq!(waiting, [waits(0), waits(1)]);
        for leaf in 0..2 {
            let slot = directory.slot(leaf).unwrap();
            assert!(
                slot.needs_load() && !slot.is_hole() && !slot.is_dirty_hole() && !slot.is_evictable() && !slot.counted
            );
            assert_eq!(slot.dirty_since(), Some(OpNo(5)));
        }
        let refused = directory.install(0, Entry::HOLE, Leaf::default(), true, |_| panic!("counted"));
        assert_eq!(refused, Installed::Refused, "it is not its newest image");
        let mut counted = 0;
        let count = |leaf: &Leaf| counted = leaf.iter().filter(|entry| **entry != Entry::HOLE).count();
        assert_eq!(directory.install(0, Entry(1 << 60), loaded(), false, count), Installed::Replayed);
        assert_eq!(counted, 2, "counted is what the leaf has with its changes");
        assert_eq!([9, 10].map(|lba| directory.get(Lba(lba))), [Entry(2 << 60), Entry(4 << 60)]);
        assert_eq!(directory.install(1, Entry::HOLE, Leaf::default(), false, |_| ()), Installed::Replayed);
        assert_eq!(directory.get(Lba(600)), Entry(2 << 60));
        let slot = directory.slot(0).unwrap();
        assert!(
            slot.waits_since.is_none() && slot.dirty_since() == Some(OpNo(5)) && slot.counted && !slot.is_evictable()
        );
    }

    #[test]
    fn a_leaf_let_go_of_while_it_waits_never_gets_what_it_waited_for() {
        let (mut directory, _) = replayed(None);
        for leaf in 0..2 {
            let taken = directory.detach(leaf, OpNo(8)).unwrap();
            assert!(taken.known.is_none() && taken.waited && !taken.counted, "there is nothing to account for");
            assert!(!taken.became_dirty, "it has its place among dirty leaves");
            assert!(directory.detach(leaf, OpNo(9)).is_none(), "a hole is let go of once");
        }
        let refused = directory.install(0, Entry(1 << 60), loaded(), true, |_| panic!("counted"));
        assert_eq!(refused, Installed::Refused, "it was being read when it was let go of");
        assert_eq!(directory.get(Lba(9)), Entry::HOLE);
        assert_eq!(directory.slot(0).unwrap().dirty_since(), Some(OpNo(5)));
        assert!(directory.set(Lba(600), Entry(7), OpNo(9)).is_some_and(|change| change.was_dirty_hole));
        assert_eq!(directory.get(Lba(600)), Entry(7));
    }

    #[test]
    fn a_leaf_that_was_cleared_last_is_a_hole_and_needs_no_reading() {
        // the end of the namespace ends its last leaf; one that holds nothing on media has nothing to be told
        let (directory, waiting) = replayed(Some((OpNo(6), 1000)));
        assert_eq!(waiting, [Waiting { leaf: 0, since: OpNo(5), is_hole: true }]);
        assert!(directory.slot(0).unwrap().is_dirty_hole() && !directory.needs_load(0) && directory.is_hole(1));
        // cleared in part, or before it was written: it has to be read
        for clear in [(OpNo(6), 511), (OpNo(4), 1000)] {
            let (directory, waiting) = replayed(Some(clear));
            assert!(waiting.iter().all(|waiting| !waiting.is_hole) && directory.needs_load(0), "{clear:?}");
        }
    }
}
