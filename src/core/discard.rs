//! Discard and write-zeroes: CLEAR records and holes in the map; no payload. Whole leaves are let go of at once.
//!
//! ```text
//!   range ─► groups of up to 8 GiB ─► leaves covered in part: known, their entries cleared ─┐
//!                                     whole leaves: not even read, detached ────────────────┴─► one CLEAR, one step
//! ```
//!
//! So that other requests do not wait for a large discard, each await-free step takes a bounded number of leaves. Groups in
//! which nothing was ever written cost nothing. What whole leaves pointed to is accounted for in the background (`account`);
//! until then the segments count as holding it.

use std::rc::Rc;

use super::Core;
use super::resident::Known;
use super::room::Purpose;
use super::state::State;
use crate::env::sync::yield_now;
use crate::error::Result;
use crate::format::Entry;
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::limits::LEAF_ENTRIES;
use crate::log::StreamKind;
use crate::map::{first_lba, leaf_of};
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

/// Leaves cleared in one step: under a millisecond.
const LEAVES_A_STEP: u32 = 4096;

impl Core {
    /// Makes whole blocks read as zeros. Returns the last operation that they owe that to (0 when there was none).
    ///
    /// # Errors
    /// No space for the record, the latch, the namespace gone; groups before the failing one are cleared.
    pub(crate) async fn clear_blocks(self: &Rc<Self>, id: NamespaceId, range: LbaRange) -> Result<OpNo> {
        // also when there is nothing left to clear: the CLEAR that left nothing may not be durable
        let mut last = self.state.borrow().namespace(id)?.cleared;
        let mut start = range.start;
        while start < range.end() {
            let next_leaf = (leaf_of(start) / LEAVES_A_STEP + 1) * LEAVES_A_STEP;
            let end = first_lba(next_leaf).min(range.end());
            if self.has_anything(id, start, end)? {
                let group = LbaRange { start, count: end.0 - start.0 };
                self.clear_group(id, group).await?;
                yield_now().await;
            }
            last = last.max(self.state.borrow().namespace(id)?.cleared);
            start = end;
        }
        Ok(last)
    }

    /// The first block of a range that holds something.
    ///
    /// # Errors
    /// A leaf cannot be read, or the namespace is gone.
    pub(crate) async fn first_mapped(self: &Rc<Self>, id: NamespaceId, range: LbaRange) -> Result<Option<Lba>> {
        for leaf in leaf_of(range.start)..=leaf_of(Lba(range.end().0 - 1)) {
            if self.is_hole(id, leaf) {
                continue;
            }
            let _known = self.know(id, LbaRange { start: first_lba(leaf), count: 1 }).await?;
            let (start, end) = (first_lba(leaf).max(range.start), first_lba(leaf + 1).min(range.end()));
            let state = self.state.borrow();
            let directory = &state.namespace(id)?.directory;
            let found = (start.0..end.0).map(Lba).find(|lba| directory.get(*lba) != Entry::HOLE);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn has_anything(&self, id: NamespaceId, start: Lba, end: Lba) -> Result<bool> {
        let state = self.state.borrow();
        let directory = &state.namespace(id)?.directory;
        Ok((leaf_of(start)..=leaf_of(Lba(end.0 - 1))).any(|leaf| !directory.is_hole(leaf)))
    }

    async fn clear_group(self: &Rc<Self>, id: NamespaceId, group: LbaRange) -> Result<()> {
        self.latch.check()?;
        loop {
            let _known = self.know_parts(id, group).await?;
            self.wait_unreserved(id, group).await;
            self.make_room(Purpose::Clear, record_bytes(0), 1).await?;
            // the namespace may have been resized meanwhile
            if !self.is_reserved(id, group) && self.parts_are_known(id, group)? {
                return self.append_clear(id, group);
            }
        }
    }

    /// The first and the last leaf of a group, if it covers only a part of them.
    fn parts(&self, id: NamespaceId, group: LbaRange) -> Result<impl Iterator<Item = u32> + use<>> {
        let state = self.state.borrow();
        let blocks = state.namespace(id)?.directory.blocks();
        let (first, last) = (leaf_of(group.start), leaf_of(Lba(group.end().0 - 1)));
        let ends = [Some(first), (last != first).then_some(last)];
        Ok(ends.into_iter().flatten().filter(move |leaf| !covers(group, *leaf, blocks)))
    }

    async fn know_parts(self: &Rc<Self>, id: NamespaceId, group: LbaRange) -> Result<[Option<Known<'_>>; 2]> {
        let mut known = [None, None];
        for (leaf, known) in self.parts(id, group)?.zip(&mut known) {
            *known = Some(self.know(id, LbaRange { start: first_lba(leaf), count: 1 }).await?);
        }
        Ok(known)
    }

    fn parts_are_known(&self, id: NamespaceId, group: LbaRange) -> Result<bool> {
        let mut parts = self.parts(id, group)?;
        let state = self.state.borrow();
        let directory = &state.namespace(id)?.directory;
        Ok(parts.all(|leaf| !directory.needs_load(leaf)))
    }

    /// The step: one record, the whole group cleared, published (I12).
    fn append_clear(&self, id: NamespaceId, group: LbaRange) -> Result<()> {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let blocks = state.namespace(id)?.directory.blocks();
        let begun = self.stamp_batch(state, StreamKind::Host);
        let body = RecordBody::Clear { count: group.count };
        let header = RecordHeader { namespace: id, first: group.start, op_delta: 0, stored: 0, body };
        let appended = state.log.append(StreamKind::Host, header, &[], crate::codec::payload_hash(&[]));
        if let Some(namespace) = state.namespaces.get_mut(&id) {
            namespace.cleared = appended.op;
        }
        let mut detached = 0;
        for leaf in leaf_of(group.start)..=leaf_of(Lba(group.end().0 - 1)) {
            detached += u64::from(state.clear_leaf(id, leaf, group, blocks, appended.op));
        }
        state.log.publish(StreamKind::Host);
        drop(guard);
        self.stats.leaves_detached.add(detached);
        self.detached.notify_all();
        if begun {
            self.batch_begun.notify_all();
        }
        Ok(())
    }
}

impl State {
    /// Clears what a range has of a leaf, by operation `op`. A leaf that it covers in part is known. Returns whether all of
    /// it was let go of.
    pub fn clear_leaf(&mut self, id: NamespaceId, leaf: u32, range: LbaRange, blocks: u64, op: OpNo) -> bool {
        // no leaf is made to hold a hole
        if self.namespaces.get(&id).is_none_or(|namespace| namespace.directory.is_hole(leaf)) {
            return false;
        }
        if covers(range, leaf, blocks) {
            self.detach(id, leaf, op);
            return true;
        }
        let (start, end) = (first_lba(leaf).max(range.start), first_lba(leaf + 1).min(range.end()));
        for lba in (start.0..end.0.min(blocks)).map(Lba) {
            if self.namespaces.get(&id).is_some_and(|n| n.directory.get(lba) != Entry::HOLE) {
                self.set(id, lba, Entry::HOLE, op);
            }
        }
        false
    }
}

/// Whether a range has all of a leaf's LBAs that there are.
fn covers(range: LbaRange, leaf: u32, blocks: u64) -> bool {
    range.start <= first_lba(leaf) && range.end().0 >= (first_lba(leaf).0 + LEAF_ENTRIES as u64).min(blocks)
}
