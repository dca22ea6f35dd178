//! Leaves read back on demand, written back oldest first, and counted after an unclean stop.
//!
//! **Invariants.** A leaf image is complete up to the last operation at the moment it is appended: the append and the
//! copy are one step. Rule 6.2: a root names it only after everything up to that number is durable.

use std::rc::Rc;

use super::Core;
use super::room::Purpose;
use super::state::{State, gone};
use super::window::WRITE_BACK_QUARTERS;
use crate::env::sync::yield_now;
use crate::error::{Error, ErrorKind, Result};
use crate::format::leaf::{LEAF_BYTES, decode_leaf, encode_leaf};
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::format::root::LeafImage;
use crate::format::{Entry, Location, Tier};
use crate::limits::GRANULE;
use crate::log::StreamKind;
use crate::map::{DirtyLeaf, Leaf, LeafSlot, first_lba};
use crate::units::{Granule, LbaRange, NamespaceId, OpNo, SegmentId};

/// Leaves read at a time when usage is counted: those of one read, when they lie side by side.
const COUNT_DEPTH: usize = 128;
/// Leaves written back before others have their turn: each takes some 3 us.
const LEAVES_A_TURN: usize = 16;

impl Core {
    /// Whether a leaf of a namespace holds nothing, in memory or on media.
    pub(crate) fn is_hole(&self, id: NamespaceId, leaf: u32) -> bool {
        self.state.borrow().namespaces.get(&id).is_none_or(|n| n.directory.is_hole(leaf))
    }

    /// LBAs of a namespace; 0 when it is not there.
    pub(crate) fn blocks_of(&self, id: NamespaceId) -> u64 {
        self.state.borrow().namespaces.get(&id).map_or(0, |n| n.entry.blocks)
    }

    /// Reads a leaf; concurrent callers wait for the first.
    pub(super) async fn load_leaf(self: &Rc<Self>, id: NamespaceId, leaf: u32) -> Result<()> {
        if !self.state.borrow_mut().loading.insert((id, leaf)) {
            self.loaded.notified().await;
            return Ok(());
        }
        let result = self.read_leaf(id, leaf).await;
        let mut state = self.state.borrow_mut();
        state.loading.remove(&(id, leaf));
        let result = result.map(|found| {
            if let Some((image, found)) = found {
                state.install_leaf(id, leaf, image, found, true);
            }
        });
        drop(state);
        self.loaded.notify_all();
        result
    }

    async fn read_leaf(self: &Rc<Self>, id: NamespaceId, leaf: u32) -> Result<Option<(Entry, Leaf)>> {
        let image = {
            let state = self.state.borrow();
            let directory = &state.namespace(id)?.directory;
            match directory.slot(leaf) {
                Some(slot) if directory.needs_load(leaf) => slot.image,
                _ => return Ok(None),
            }
        };
        // it was first written in the replay window
        let Some(location) = image.entry.location() else { return Ok(Some((image.entry, Leaf::default()))) };
        let header = self.read_metadata(&location).await.map_err(|e| {
            self.stats.corrupt.add(1);
            e.within(format!("leaf {leaf} of namespace {id} at {:?}", image.entry))
        });
        let (header, bytes) = header.inspect_err(|e| tracing::error!("{e}"))?;
        let leaf = self.open_leaf((id, leaf), &image, &header, &bytes, &self.state.borrow())?;
        Ok(Some((image.entry, leaf)))
    }

    /// The leaf that a record holds, if it is the one that the directory names.
    ///
    /// # Errors
    /// It is another one, or points to where nothing can be.
    pub(super) fn open_leaf(
        &self,
        (id, leaf): (NamespaceId, u32),
        image: &LeafImage,
        header: &RecordHeader,
        payload: &[u8],
        state: &State,
    ) -> Result<Leaf> {
        let RecordBody::Leaf { complete } = header.body else {
            return Err(Error::corrupt("leaf", "kind", 4, header.kind() as u64));
        };
        if header.namespace != id || header.first != first_lba(leaf) || complete != image.complete.0 {
            return Err(Error::corrupt("leaf", "first LBA", first_lba(leaf).0, header.first.0));
        }
        let mut entries = decode_leaf(payload)?;
        if !self.has_tier0() {
            // the pool was opened without its journal, and what was there is lost
            entries.iter_mut().filter(|e| e.tier() == Some(Tier::Pmem)).for_each(|entry| *entry = Entry::LOST);
        }
        if let Some(entry) = entries.iter().find(|entry| !state.log.contains(**entry)) {
            return Err(Error::corrupt("leaf", "segment", state.log.segments.count() as u64, entry.0));
        }
        Ok(Leaf { entries: Some(entries), dirty_since: None })
    }

    /// Reads and verifies a metadata record that fits a fragment buffer; returns its header and payload.
    pub(crate) async fn read_metadata(self: &Rc<Self>, location: &Location) -> Result<(RecordHeader, Vec<u8>)> {
        let mut bufs = Vec::with_capacity(1);
        self.leaf_bufs.take(1, &mut bufs).await;
        let Some(buf) = bufs.pop() else { unreachable!("one was taken") };
        self.pin(location.tier(), location.segment);
        let fetch = self.start_fetch(location, buf);
        let (header, buf, at) = self.finish_fetch(fetch, location).await;
        self.unpin(location.tier(), location.segment);
        let result = header.map(|header| {
            let start = at + crate::format::record::RECORD_HEADER_BYTES;
            (header, buf[start..start + usize::from(header.stored)].to_vec())
        });
        self.leaf_bufs.put(buf);
        result
    }

    /// Writes back up to `max` dirty leaves whose first change is at most `until`, oldest first. Returns how many.
    ///
    /// # Errors
    /// No room for metadata, the latch is closed, or a leaf that waits for replayed changes cannot be read.
    pub(super) async fn write_back(self: &Rc<Self>, max: usize, until: OpNo) -> Result<usize> {
        let mut written = 0;
        while written < max {
            let oldest = self.state.borrow().dirty.oldest().filter(|oldest| oldest.since <= until);
            let Some(oldest) = oldest else { break };
            self.know_oldest(oldest, max - written).await?;
            // a hole takes no record: it can be told also by a pool that is full
            if !self.oldest_is_hole() {
                self.make_room(Purpose::Metadata, record_bytes(LEAF_BYTES), 1).await?;
            }
            if self.append_oldest_leaf() {
                self.stats.leaves_written.add(1);
                written += 1;
                if written % LEAVES_A_TURN == 0 {
                    yield_now().await;
                }
            }
        }
        Ok(written)
    }

    /// Returns when all dirty leaves are in memory: those that recovery changed may not be.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) async fn know_dirty(self: &Rc<Self>) -> Result<()> {
        let all: Vec<_> = self.state.borrow().dirty.iter().map(|dirty| (dirty.namespace, dirty.leaf)).collect();
        self.load_leaves(all.clone(), true).await;
        for (id, leaf) in all {
            let _known = self.know(id, LbaRange { start: first_lba(leaf), count: 1 }).await?;
        }
        Ok(())
    }

    /// Returns when the oldest dirty leaf is in memory: one that recovery changed may not be. The next ones come with it.
    async fn know_oldest(self: &Rc<Self>, oldest: DirtyLeaf, wanted: usize) -> Result<()> {
        let DirtyLeaf { namespace, leaf, .. } = oldest;
        let range = LbaRange { start: first_lba(leaf), count: 1 };
        let missing = |dirty: &DirtyLeaf| {
            let namespaces = &self.state.borrow().namespaces;
            namespaces.get(&dirty.namespace).is_some_and(|n| n.directory.needs_load(dirty.leaf))
        };
        if !missing(&oldest) {
            return Ok(());
        }
        let next: Vec<_> = self.state.borrow().dirty.iter().take(wanted.min(COUNT_DEPTH)).copied().collect();
        let next = next.into_iter().filter(missing).map(|dirty| (dirty.namespace, dirty.leaf)).collect();
        self.load_leaves(next, true).await;
        // it stays known: a dirty leaf leaves memory when it is written back
        match self.know(namespace, range).await {
            // its leaves have left the queue
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map(drop),
        }
    }

    fn oldest_is_hole(&self) -> bool {
        let state = self.state.borrow();
        let Some(oldest) = state.dirty.oldest() else { return false };
        let slot = state.namespaces.get(&oldest.namespace).and_then(|n| n.directory.slot(oldest.leaf));
        slot.is_none_or(LeafSlot::is_hole)
    }

    /// Appends the image of the oldest dirty leaf; room was made. One await-free step (I12).
    fn append_oldest_leaf(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let known = |dirty: &DirtyLeaf| {
            state.namespaces.get(&dirty.namespace).is_none_or(|n| !n.directory.needs_load(dirty.leaf))
        };
        // another one than that room was made for, if a namespace went meanwhile
        let Some(dirty) = state.dirty.oldest().filter(known) else { return false };
        state.dirty.pop();
        append_leaf(&mut state, dirty.namespace, dirty.leaf)
    }

    /// Appends the image of a clean leaf anew if the one on media still starts at `place`, so that its segment comes
    /// free; a dirty leaf is written back anyway. Only within a checkpoint: roots name images.
    ///
    /// # Errors
    /// No room for metadata, or the latch; the leaf cannot be read.
    pub(super) async fn rewrite_leaf(
        self: &Rc<Self>,
        id: NamespaceId,
        leaf: u32,
        (segment, granule): (SegmentId, Granule),
    ) -> Result<()> {
        let is_there =
            |slot: &LeafSlot| slot.image.entry.location().is_some_and(|l| (l.segment, l.granule) == (segment, granule));
        let wanted = |state: &super::State| {
            let slot = state.namespaces.get(&id).and_then(|n| n.directory.slot(leaf));
            slot.is_some_and(|slot| is_there(slot) && slot.dirty_since().is_none())
        };
        if !wanted(&self.state.borrow()) {
            return Ok(());
        }
        let _known = match self.know(id, LbaRange { start: first_lba(leaf), count: 1 }).await {
            // a namespace that is gone has no leaf anywhere
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result?,
        };
        self.make_room(Purpose::Metadata, record_bytes(LEAF_BYTES), 1).await?;
        let mut state = self.state.borrow_mut();
        if wanted(&state) && append_leaf(&mut state, id, leaf) {
            self.stats.leaves_written.add(1);
        }
        Ok(())
    }

    /// Reads every leaf that has not been read, so that what each segment holds is known; then what is empty can be
    /// reused. They stay in memory if all of them have room. Runs once in the background after opening.
    pub(super) async fn count_usage(self: Rc<Self>) {
        self.count_leaves().await;
        self.cleaner.counting.set(false);
        self.space.notify_all();
        self.cleaner.wanted.notify_all();
        self.checkpoint_wanted.notify_all();
    }

    async fn count_leaves(self: &Rc<Self>) {
        let (ids, keep) = {
            let state = self.state.borrow();
            let ids: Vec<_> = state.namespaces.keys().copied().collect();
            (ids, state.leaves().0 <= state.clock.budget())
        };
        for id in ids {
            let mut next = 0;
            while let Some(leaves) = self.next_uncounted(id, &mut next) {
                self.load_leaves(leaves.iter().map(|leaf| (id, *leaf)).collect(), keep).await;
                // those that others were reading, or that could not be read, or are not on the medium yet
                let left: Vec<_> = leaves.into_iter().filter(|leaf| !self.is_counted(id, *leaf)).collect();
                let tasks = left.into_iter().map(|leaf| {
                    let core = self.clone();
                    let range = LbaRange { start: first_lba(leaf), count: 1 };
                    self.env.spawner.spawn(async move { core.know(id, range).await.map(drop) })
                });
                // all of them end: a task that is dropped on its way leaves its leaf, buffer and pin behind
                let mut failed = None;
                for task in tasks.collect::<Vec<_>>() {
                    failed = task.await.err().filter(|e| e.kind() != ErrorKind::NotFound).or(failed);
                }
                if let Some(error) = failed {
                    tracing::error!("usage cannot be counted, so no space is reused: {error}");
                    return;
                }
                self.shed_replayed().await;
            }
        }
        let mut state = self.state.borrow_mut();
        let now = state.log.last_op();
        state.log.segments.usage_counted(now);
        // one that was given meanwhile is known
        if !state.log.journal.usage_known() {
            state.log.journal.usage_counted(now);
        }
    }

    /// Leaves that waited for replayed changes came into memory with them, dirty: has them written back, so that they can go.
    async fn shed_replayed(self: &Rc<Self>) {
        while self.dirty_leaves_exceed(WRITE_BACK_QUARTERS) {
            let left = self.state.borrow().dirty_in_memory();
            if let Err(error) = self.checkpoint(self.leaves_a_checkpoint()).await {
                // without room it comes later: that of the count is what brings some
                tracing::debug!("leaves stay in memory while usage is counted: {error}");
                return;
            }
            // hosts write too: what they change is not for us to wait for
            if self.state.borrow().dirty_in_memory() >= left {
                return;
            }
        }
    }

    fn is_counted(&self, id: NamespaceId, leaf: u32) -> bool {
        let state = self.state.borrow();
        let slot = state.namespaces.get(&id).and_then(|n| n.directory.slot(leaf));
        slot.is_none_or(|slot| slot.counted || slot.is_hole())
    }

    fn next_uncounted(&self, id: NamespaceId, next: &mut u32) -> Option<Vec<u32>> {
        let state = self.state.borrow();
        let directory = &state.namespace(id).map_err(|_| gone(id)).ok()?.directory;
        let mut leaves = Vec::with_capacity(COUNT_DEPTH);
        while leaves.len() < COUNT_DEPTH && *next < directory.leaf_count() {
            if directory.needs_load(*next) && directory.slot(*next).is_some_and(|slot| !slot.counted) {
                leaves.push(*next);
            }
            *next += 1;
        }
        (!leaves.is_empty()).then_some(leaves)
    }
}

/// Appends the image of a leaf in memory; room was made. A leaf of holes takes no record. One await-free step (I12).
/// Returns whether there was one.
fn append_leaf(state: &mut State, id: NamespaceId, index: u32) -> bool {
    let State { namespaces, log, root, clock, holes, .. } = state;
    let Some(slot) = namespaces.get_mut(&id).and_then(|n| n.directory.slot_mut(index)) else { return false };
    *holes -= usize::from(slot.is_dirty_hole());
    let Some(leaf) = &mut slot.leaf else { return false };
    leaf.dirty_since = None;
    let complete = log.last_op();
    // nothing of the leaf is on tier 0: from here on nothing goes there until a root calls it journaled again
    let cooled = slot.takes_journal && leaf.iter().all(|entry| entry.tier() != Some(Tier::Pmem));
    slot.takes_journal &= !cooled;
    let journaled = slot.image.journaled && !cooled;
    let entry = match leaf.entries.as_ref().filter(|entries| entries.iter().any(|entry| *entry != Entry::HOLE)) {
        None => {
            if slot.is_resident() {
                clock.went();
            }
            slot.leaf = None;
            Entry::HOLE
        }
        Some(entries) => {
            let mut bytes = [0; LEAF_BYTES];
            encode_leaf(entries, &mut bytes);
            log.hold_in_place(&entries[..]);
            let body = RecordBody::Leaf { complete: complete.0 };
            let header = RecordHeader { namespace: id, first: first_lba(index), op_delta: 0, stored: 0, body };
            let appended = log.append(StreamKind::Leaf, header, &bytes, crate::codec::payload_hash(&bytes));
            log.segments.add_live(appended.segment);
            appended.entry
        }
    };
    let old = std::mem::replace(&mut slot.image, LeafImage { entry, complete, journaled });
    root.release.extend(old.entry.segment());
    root.directory.insert((id, index), slot.image);
    true
}

const _: () = assert!(LEAF_BYTES.is_multiple_of(GRANULE as usize));
