//! What recovery found for leaves that are not in memory: a start reads no leaf, however many the window has changed.
//!
//! ```text
//!   records of the window, in any order ─► note ─► region of 64 leaves: 16 bytes a change
//!   a leaf is read ─► merge: of each LBA the change with the highest number counts
//! ```
//!
//! **Invariants.** Later wins, unconditionally (rule 6.1): numbers are kept with the changes, so order of arrival does not
//! matter. A change at or below the number to which a leaf's image is complete is none (rule 6.2). Bounded (I10): a region
//! that has grown is reduced to the newest change of each of its LBAs.
//!
//! **Not here:** reading leaves, the dirty queue (`core`).

use crate::error::{Error, Result};
use crate::format::Entry;
use crate::limits::{FRAGMENT_BLOCKS_MAX, LEAF_ENTRIES};
use crate::units::{Lba, OpNo};

/// Leaves of a region: merging a leaf looks at all changes of its region.
pub(super) const REGION_LEAVES: u32 = 64;
const REGION_BLOCKS: usize = REGION_LEAVES as usize * LEAF_ENTRIES;
/// A region with so many changes is reduced.
const REGION_CHANGES_MAX: usize = 4 * REGION_BLOCKS;
/// Bits of a change that say where in its region it is.
const PLACE_BITS: u32 = 15 + 8;
/// Numbers that a replay window may span.
const SPAN_MAX: u64 = 1 << (64 - PLACE_BITS);

const _: () = assert!(REGION_BLOCKS == 1 << 15 && FRAGMENT_BLOCKS_MAX == 8);

/// A record of the window, as far as one region has it.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// The entry of the first block, or that many LBAs become holes (a count has none of the bits of a state).
    what: u64,
    /// Bits 63..23: operation number above the base; 22..8: first LBA in the region; 7..0: which blocks.
    when: u64,
}

impl Change {
    fn op(self) -> u64 {
        self.when >> PLACE_BITS
    }

    fn first(self) -> usize {
        usize::try_from(self.when >> 8).unwrap_or(0) & (REGION_BLOCKS - 1)
    }

    fn mask(self) -> u8 {
        u8::try_from(self.when & 0xff).unwrap_or(0)
    }

    fn is_clear(self) -> bool {
        Entry(self.what).segment().is_none()
    }

    /// One behind its last LBA in the region.
    fn end(self) -> usize {
        let blocks = if self.is_clear() { self.what } else { u64::from(8 - self.mask().leading_zeros()) };
        (self.first() + usize::try_from(blocks).unwrap_or(REGION_BLOCKS)).min(REGION_BLOCKS)
    }

    /// The entry it gives to an LBA in the region, if it gives any.
    fn entry(self, at: usize) -> Option<Entry> {
        if self.is_clear() {
            return Some(Entry::HOLE);
        }
        let within = u8::try_from(at - self.first()).unwrap_or(u8::MAX);
        let index = Entry(self.what).location().map_or(0, |l| l.index) + within;
        (self.mask() >> within & 1 == 1).then(|| Entry(self.what).with_index(index))
    }
}

/// The changes of a namespace that wait for their leaves.
#[derive(Debug, Default)]
pub struct Replayed {
    base: OpNo,
    blocks: u64,
    regions: Vec<Region>,
}

#[derive(Debug, Default)]
struct Region {
    changes: Vec<Change>,
    /// Leaves that still wait.
    waiting: u32,
}

/// What the window has done to a leaf, as far as its image does not have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The first change.
    pub since: OpNo,
    /// A change gave it data.
    pub has_data: bool,
    /// The last change made a hole of all of it.
    pub is_hole: bool,
}

/// Numbers of the changes of a leaf, above the base.
#[derive(Clone, Copy, Default)]
struct Span {
    /// Its image is complete up to here.
    image: u64,
    first: Option<u64>,
    last: u64,
    /// The last one that made a hole of all of it.
    wiped: u64,
    has_data: bool,
}

impl Replayed {
    /// None yet, of records above `base`, for a namespace of `blocks` LBAs.
    #[must_use]
    pub fn new(base: OpNo, blocks: u64) -> Self {
        Self { base, blocks, regions: Vec::new() }
    }

    /// Operation `op` gave the blocks of `mask` from `first` on the entries from `entry` (index 0) on. The order of such
    /// calls does not matter.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when the number is too far above the base to be one of a window.
    pub fn note_fragment(&mut self, first: Lba, mask: u8, entry: Entry, op: OpNo) -> Result<()> {
        let when = self.when(op)?;
        let (mut first, mut mask, mut index) = (first.0, u64::from(mask), 0_u8);
        let below = self.blocks.saturating_sub(first).min(8);
        mask &= (1 << below) - 1;
        while mask != 0 {
            let region = first / REGION_BLOCKS as u64;
            let here = ((region + 1) * REGION_BLOCKS as u64 - first).min(8);
            let part = mask & ((1 << here) - 1);
            if part != 0 {
                let what = entry.with_index(index).0;
                self.push(region, Change { what, when: when | (first % REGION_BLOCKS as u64) << 8 | part });
            }
            (first, mask, index) = (first + here, mask >> here, index + u8::try_from(here).unwrap_or(0));
        }
        Ok(())
    }

    /// Operation `op` made holes of `count` LBAs from `first` on.
    ///
    /// # Errors
    /// As [`Replayed::note_fragment`].
    pub fn note_clear(&mut self, first: Lba, count: u64, op: OpNo) -> Result<()> {
        let when = self.when(op)?;
        let end = first.0.saturating_add(count).min(self.blocks);
        let mut first = first.0;
        while first < end {
            let region = first / REGION_BLOCKS as u64;
            let here = ((region + 1) * REGION_BLOCKS as u64).min(end) - first;
            self.push(region, Change { what: here, when: when | (first % REGION_BLOCKS as u64) << 8 });
            first += here;
        }
        Ok(())
    }

    fn when(&self, op: OpNo) -> Result<u64> {
        let above = op.0.saturating_sub(self.base.0);
        if above >= SPAN_MAX {
            return Err(Error::corrupt("replay window", "number", self.base.0 + SPAN_MAX, op.0));
        }
        Ok(above << PLACE_BITS)
    }

    fn push(&mut self, region: u64, change: Change) {
        let region = usize::try_from(region).unwrap_or(usize::MAX);
        if self.regions.len() <= region {
            self.regions.resize_with(region + 1, Region::default);
        }
        let changes = &mut self.regions[region].changes;
        if changes.len() == REGION_CHANGES_MAX {
            reduce(changes);
        }
        changes.push(change);
    }

    /// All is noted. Calls `leaf` with every leaf that a change above `complete` of it may have touched; it says whether the
    /// leaf waits for its changes.
    pub(super) fn settle(&mut self, complete: impl Fn(u32) -> OpNo, mut leaf: impl FnMut(u32, Found) -> bool) {
        for (number, region) in (0..).zip(&mut self.regions) {
            let base = number * REGION_LEAVES;
            let blocks =
                usize::try_from(self.blocks - u64::from(number) * REGION_BLOCKS as u64).unwrap_or(REGION_BLOCKS);
            let mut spans = [Span::default(); REGION_LEAVES as usize];
            for (index, span) in (base..).zip(&mut spans) {
                span.image = complete(index).0.saturating_sub(self.base.0);
            }
            for change in &region.changes {
                let (first, last) = (change.first() / LEAF_ENTRIES, (change.end() - 1) / LEAF_ENTRIES);
                for (at, span) in (first..).zip(&mut spans[first..=last]) {
                    let (start, end) = (at * LEAF_ENTRIES, ((at + 1) * LEAF_ENTRIES).min(blocks));
                    span.see(change, change.first() <= start && change.end() >= end);
                }
            }
            for (index, span) in (base..).zip(spans) {
                if let Some(first) = span.first {
                    let found = Found {
                        since: OpNo(self.base.0 + first),
                        has_data: span.has_data,
                        is_hole: span.wiped == span.last,
                    };
                    region.waiting += u32::from(leaf(index, found));
                }
            }
            if region.waiting == 0 {
                region.changes = Vec::new();
            }
        }
    }

    /// Gives the entries of a leaf whose image is complete up to a number what came after it. The leaf waits no more.
    pub(super) fn merge(&mut self, leaf: u32, complete: OpNo, entries: &mut [Entry; LEAF_ENTRIES]) {
        let Some(region) = self.regions.get_mut((leaf / REGION_LEAVES) as usize) else { return };
        let start = (leaf % REGION_LEAVES) as usize * LEAF_ENTRIES;
        let mut newest = [complete.0.saturating_sub(self.base.0); LEAF_ENTRIES];
        for change in &region.changes {
            for at in change.first().max(start)..change.end().min(start + LEAF_ENTRIES) {
                if change.op() > newest[at - start]
                    && let Some(entry) = change.entry(at)
                {
                    (newest[at - start], entries[at - start]) = (change.op(), entry);
                }
            }
        }
        region.satisfied();
    }

    /// A leaf waits no more: nobody wants its changes.
    pub(super) fn forget(&mut self, leaf: u32) {
        if let Some(region) = self.regions.get_mut((leaf / REGION_LEAVES) as usize) {
            region.satisfied();
        }
    }
}

impl Region {
    /// One of its leaves waits no more.
    fn satisfied(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.changes = Vec::new();
        }
    }
}

impl Span {
    /// A change that may touch the leaf; `whole` when all of the leaf's LBAs are in its range.
    fn see(&mut self, change: &Change, whole: bool) {
        let op = change.op();
        if op <= self.image {
            return;
        }
        self.first = Some(self.first.map_or(op, |first| first.min(op)));
        self.last = self.last.max(op);
        self.has_data |= !change.is_clear();
        if change.is_clear() && whole {
            self.wiped = self.wiped.max(op);
        }
    }
}

/// Keeps the newest change of each LBA of a region. A replay start may then lie above a change that was dropped: the one that
/// took its place is above it too, so the next replay comes to the same.
fn reduce(changes: &mut Vec<Change>) {
    let mut newest = vec![(0, Entry::HOLE); REGION_BLOCKS];
    for change in changes.iter() {
        for (at, slot) in (change.first()..).zip(&mut newest[change.first()..change.end()]) {
            if change.op() > slot.0
                && let Some(entry) = change.entry(at)
            {
                *slot = (change.op(), entry);
            }
        }
    }
    changes.clear();
    for (at, (op, entry)) in (0_u64..).zip(newest).filter(|(_, (op, _))| *op > 0) {
        let (what, mask) = if entry == Entry::HOLE { (1, 0) } else { (entry.0, 1) };
        changes.push(Change { what, when: op << PLACE_BITS | at << 8 | mask });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Location, State, Tier};
    use crate::units::{Granule, SegmentId};

    const BLOCKS: u64 = 3 * REGION_BLOCKS as u64 - 700;

    fn entry(op: u64) -> Entry {
        let segment = SegmentId(u32::try_from(op % 1000).unwrap_or(0));
        let state = State::Data(Tier::Ssd);
        let granule = Granule(u32::try_from(op % (1 << 18)).unwrap_or(0));
        Entry::new(&Location { state, segment, granule, sectors: 1, index: 0, check: 3 })
    }

    /// Notes random changes in a random order, with `spread` the LBAs that are likely, and compares every leaf with what
    /// applying them in order of their numbers to a plain map gives.
    fn compare(seed: u64, count: u64, spread: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let base = OpNo(1 << 41);
        let mut changes: Vec<(OpNo, u64, Option<u8>, u64)> = (1..=count)
            .map(|above| {
                let first = random.u64(0..spread.min(BLOCKS)) + if random.u8(..) == 0 { BLOCKS - spread } else { 0 };
                let mask = (random.u8(..) > 8).then(|| random.u8(1..));
                (OpNo(base.0 + above), first, mask, random.u64(1..2000))
            })
            .collect();
        let leaves = u32::try_from(BLOCKS.div_ceil(LEAF_ENTRIES as u64)).unwrap_or(0);
        // half of the leaves have an image, some of those are newer than some changes
        let images: Vec<_> = (0..leaves).map(|_| random.bool().then(|| OpNo(base.0 + random.u64(0..count)))).collect();
        let old = Entry(entry(7).0 | 1 << 12);
        let image = |leaf: u32| images[leaf as usize].map_or([Entry::HOLE; LEAF_ENTRIES], |_| [old; LEAF_ENTRIES]);
        let mut expected: Vec<_> = (0..leaves).map(image).collect();
        let mut touched = vec![false; leaves as usize];
        for (op, first, mask, clears) in &changes {
            let lbas = if mask.is_some() { 8 } else { *clears };
            for (index, lba) in (*first..(first + lbas).min(BLOCKS)).enumerate() {
                let leaf = usize::try_from(lba).unwrap_or(0) / LEAF_ENTRIES;
                let slot = &mut expected[leaf][usize::try_from(lba).unwrap_or(0) % LEAF_ENTRIES];
                if mask.is_some_and(|mask| mask >> index & 1 == 0) || images[leaf].is_some_and(|to| *op <= to) {
                    continue;
                }
                let new = mask.map_or(Entry::HOLE, |_| entry(op.0).with_index(u8::try_from(index).unwrap_or(0)));
                touched[leaf] |= new != Entry::HOLE || *slot != Entry::HOLE;
                *slot = new;
            }
        }
        random.shuffle(&mut changes);
        let mut replayed = Replayed::new(base, BLOCKS);
        for (op, first, mask, clears) in changes {
            match mask {
                Some(mask) => replayed.note_fragment(Lba(first), mask, entry(op.0), op).unwrap(),
                None => replayed.note_clear(Lba(first), clears, op).unwrap(),
            }
        }
        let complete = |leaf: u32| images.get(leaf as usize).copied().flatten().unwrap_or_default();
        let mut waiting = Vec::new();
        replayed.settle(complete, |leaf, found| {
            let waits = leaf < leaves && (found.has_data || images[leaf as usize].is_some());
            assert!(found.since > complete(leaf), "leaf {leaf} waits since {}", found.since);
            if found.is_hole && leaf < leaves {
                let own = &expected[leaf as usize];
                let below = usize::try_from(BLOCKS).unwrap_or(0) - leaf as usize * LEAF_ENTRIES;
                let own = &own[..below.min(LEAF_ENTRIES)];
                assert!(own.iter().all(|entry| *entry == Entry::HOLE), "leaf {leaf} is none");
            }
            if waits {
                waiting.push(leaf);
            }
            waits
        });
        for leaf in 0..leaves {
            if touched[leaf as usize] {
                assert!(waiting.contains(&leaf), "leaf {leaf} changed and nobody waits for it");
            }
        }
        for leaf in waiting {
            let mut entries = image(leaf);
            replayed.merge(leaf, complete(leaf), &mut entries);
            assert_eq!(entries, expected[leaf as usize], "leaf {leaf}");
        }
        assert!(replayed.regions.iter().all(|region| region.changes.is_empty()), "nothing is kept for nobody");
    }

    #[test]
    fn a_leaf_gets_the_newest_change_of_each_lba_in_whatever_order_they_came() {
        (0..20).for_each(|seed| compare(seed, 3000, BLOCKS));
    }

    #[test]
    fn a_region_that_was_reduced_has_lost_nothing() {
        compare(1, 3 * REGION_CHANGES_MAX as u64, REGION_BLOCKS as u64);
    }

    #[test]
    fn numbers_beyond_a_window_are_refused() {
        let mut replayed = Replayed::new(OpNo(5), 100);
        assert!(replayed.note_fragment(Lba(1), 1, entry(1), OpNo(4 + SPAN_MAX)).is_ok());
        assert!(replayed.note_fragment(Lba(1), 1, entry(1), OpNo(5 + SPAN_MAX)).is_err());
        assert!(replayed.note_clear(Lba(1), 1, OpNo(u64::MAX >> 1)).is_err());
    }
}
