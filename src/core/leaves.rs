//! Leaves read back on demand, written back oldest first, and counted after an unclean stop.
//!
//! **Invariants.** A leaf image is complete up to the last operation at the moment it is appended: the append and the
//! copy are one step. Rule 6.2: a root names it only after everything up to that number is durable.

use std::rc::Rc;

use super::Core;
use super::room::Purpose;
use super::state::{State, gone};
use crate::error::{Error, ErrorKind, Result};
use crate::format::leaf::{LEAF_BYTES, decode_leaf, encode_leaf};
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::format::root::LeafImage;
use crate::format::{Entry, Location, Tier};
use crate::limits::GRANULE;
use crate::log::StreamKind;
use crate::map::{DirtyLeaf, Leaf, first_lba};
use crate::units::{Granule, LbaRange, NamespaceId, OpNo, SegmentId};

/// Leaves read at a time when usage is counted: those of one read, when they lie side by side.
const COUNT_DEPTH: usize = 128;

impl Core {
    /// Returns when all leaves of a range are known. They stay known.
    ///
    /// # Errors
    /// A leaf cannot be read, or the namespace is gone.
    pub(crate) async fn know(self: &Rc<Self>, id: NamespaceId, range: LbaRange) -> Result<()> {
        loop {
            let missing = self.state.borrow().namespace(id)?.directory.first_to_load(range);
            match missing {
                None => return Ok(()),
                Some(leaf) => self.load_leaf(id, leaf).await?,
            }
        }
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
            if let Some(found) = found {
                state.install_leaf(id, leaf, found);
            }
        });
        drop(state);
        self.loaded.notify_all();
        result
    }

    async fn read_leaf(self: &Rc<Self>, id: NamespaceId, leaf: u32) -> Result<Option<Leaf>> {
        let image = {
            let state = self.state.borrow();
            let directory = &state.namespace(id)?.directory;
            match directory.slot(leaf) {
                Some(slot) if directory.needs_load(leaf) => slot.image,
                _ => return Ok(None),
            }
        };
        // it was first written in the replay window
        let Some(location) = image.entry.location() else { return Ok(Some(Leaf::empty())) };
        let header = self.read_metadata(&location).await.map_err(|e| {
            self.stats.corrupt.add(1);
            e.within(format!("leaf {leaf} of namespace {id} at {:?}", image.entry))
        });
        let (header, bytes) = header.inspect_err(|e| tracing::error!("{e}"))?;
        self.open_leaf((id, leaf), &image, &header, &bytes, &self.state.borrow()).map(Some)
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
        if self.tier0.is_none() {
            // the pool was opened without its journal, and what was there is lost
            entries.iter_mut().filter(|e| e.tier() == Some(Tier::Pmem)).for_each(|entry| *entry = Entry::LOST);
        }
        if let Some(entry) = entries.iter().find(|entry| !state.log.contains(**entry)) {
            return Err(Error::corrupt("leaf", "segment", state.log.segments.count() as u64, entry.0));
        }
        Ok(Leaf { entries, dirty_since: None })
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
            self.make_room(Purpose::Metadata, record_bytes(LEAF_BYTES), 1).await?;
            if self.append_oldest_leaf() {
                written += 1;
            }
        }
        self.stats.leaves_written.add(written as u64);
        Ok(written)
    }

    /// Returns when all dirty leaves are in memory: those that recovery changed may not be.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) async fn know_dirty(self: &Rc<Self>) -> Result<()> {
        let all: Vec<_> = self.state.borrow().dirty.iter().map(|dirty| (dirty.namespace, dirty.leaf)).collect();
        self.load_leaves(all.clone()).await;
        for (id, leaf) in all {
            self.know(id, LbaRange { start: first_lba(leaf), count: 1 }).await?;
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
        self.load_leaves(next).await;
        match self.know(namespace, range).await {
            // its leaves have left the queue
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
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
        let is_there = |slot: &crate::map::LeafSlot| {
            slot.image.entry.location().is_some_and(|l| (l.segment, l.granule) == (segment, granule))
        };
        let wanted = |state: &super::State| {
            let slot = state.namespaces.get(&id).and_then(|n| n.directory.slot(leaf));
            slot.is_some_and(|slot| is_there(slot) && slot.leaf.as_ref().is_none_or(|l| l.dirty_since.is_none()))
        };
        if !wanted(&self.state.borrow()) {
            return Ok(());
        }
        self.know(id, LbaRange { start: first_lba(leaf), count: 1 }).await?;
        self.make_room(Purpose::Metadata, record_bytes(LEAF_BYTES), 1).await?;
        let mut state = self.state.borrow_mut();
        if wanted(&state) && append_leaf(&mut state, id, leaf) {
            self.stats.leaves_written.add(1);
        }
        Ok(())
    }

    /// Reads every leaf that has not been read, so that what each segment holds is known; then what is empty can be
    /// reused. Runs once in the background after opening.
    pub(super) async fn count_usage(self: Rc<Self>) {
        self.count_leaves().await;
        self.cleaner.counting.set(false);
        self.space.notify_all();
        self.cleaner.wanted.notify_all();
        self.checkpoint_wanted.notify_all();
    }

    async fn count_leaves(self: &Rc<Self>) {
        let ids: Vec<_> = self.state.borrow().namespaces.keys().copied().collect();
        for id in ids {
            let mut next = 0;
            while let Some(leaves) = self.next_uncounted(id, &mut next) {
                self.load_leaves(leaves.iter().map(|leaf| (id, *leaf)).collect()).await;
                let tasks = leaves.into_iter().map(|leaf| {
                    let core = self.clone();
                    // not just loaded by somebody, perhaps in vain: known
                    let range = LbaRange { start: first_lba(leaf), count: 1 };
                    self.env.spawner.spawn(async move { core.know(id, range).await })
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
            }
        }
        let mut state = self.state.borrow_mut();
        let now = state.log.last_op();
        state.log.segments.usage_counted(now);
        state.log.journal.usage_counted(now);
    }

    fn next_uncounted(&self, id: NamespaceId, next: &mut u32) -> Option<Vec<u32>> {
        let state = self.state.borrow();
        let directory = &state.namespace(id).map_err(|_| gone(id)).ok()?.directory;
        let mut leaves = Vec::with_capacity(COUNT_DEPTH);
        while leaves.len() < COUNT_DEPTH && *next < directory.leaf_count() {
            if directory.needs_load(*next) {
                leaves.push(*next);
            }
            *next += 1;
        }
        (!leaves.is_empty()).then_some(leaves)
    }
}

/// Appends the image of a leaf in memory; room was made. One await-free step (I12). Returns whether there was one.
fn append_leaf(state: &mut super::State, id: NamespaceId, index: u32) -> bool {
    let Some(namespace) = state.namespaces.get_mut(&id) else { return false };
    let Some(slot) = namespace.directory.slot_mut(index) else { return false };
    let Some(leaf) = &mut slot.leaf else { return false };
    let mut bytes = [0; LEAF_BYTES];
    encode_leaf(&leaf.entries, &mut bytes);
    let complete = state.log.last_op();
    let header = RecordHeader {
        namespace: id,
        first: first_lba(index),
        op_delta: 0,
        stored: 0,
        body: RecordBody::Leaf { complete: complete.0 },
    };
    let appended = state.log.append(StreamKind::Leaf, header, &bytes, crate::codec::payload_hash(&bytes));
    leaf.dirty_since = None;
    // nothing of the leaf is on tier 0: from here on nothing goes there until a root calls it journaled again
    let cooled = slot.takes_journal && leaf.entries.iter().all(|entry| entry.tier() != Some(Tier::Pmem));
    slot.takes_journal &= !cooled;
    let image = LeafImage { entry: appended.entry, complete, journaled: slot.image.journaled && !cooled };
    let old = std::mem::replace(&mut slot.image, image);
    state.log.segments.add_live(appended.segment);
    state.root.release.extend(old.entry.segment());
    state.root.directory.insert((id, index), slot.image);
    true
}

const _: () = assert!(LEAF_BYTES.is_multiple_of(GRANULE as usize));
