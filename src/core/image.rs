//! The full image: directory and generations, written anew when the changes since the last one fill the root.
//!
//! ```text
//!   due ─► room for all of it announced? ── no ─► this root announces more, the next one has it
//!            └ yes ─► encoded in one step ─► parts in the leaf stream ─► the root that is being built names them
//! ```
//!
//! **Invariants.** Only within a checkpoint: directory and generations stay the same until the root names the image (I3).
//! **Failure.** Without room the parts so far are named by no root, and the changes stay in the root. **Not here:** when a
//! checkpoint runs (`checkpoint`), a root that would not fit (`window`).

use std::rc::Rc;

use super::room::Purpose;
use super::{Core, State};
use crate::error::Result;
use crate::format::Entry;
use crate::format::image::{IMAGE_PART_BYTES, encode_image};
use crate::format::record::{RecordBody, RecordHeader, record_bytes};
use crate::format::root::{DIRECTORY_CHANGE_BYTES, DirectoryChange, SEGMENT_CHANGE_BYTES};
use crate::limits::BLOCK_BYTES;
use crate::log::StreamKind;
use crate::units::{Generation, Lba, NamespaceId};

impl Core {
    /// Whether the changes since the last full image fill the root, or another cause asks for one.
    fn image_is_due(&self) -> bool {
        let change_bytes = {
            let root = &self.state.borrow().root;
            root.directory.len() * DIRECTORY_CHANGE_BYTES + root.segments.len() * SEGMENT_CHANGE_BYTES
        };
        change_bytes > self.bounds.image_bytes || self.holes_are_many() || self.image_wanted.get()
    }

    /// Segments that a full image takes, about.
    pub(super) fn image_segments(&self) -> usize {
        let state = self.state.borrow();
        let (root, segments) = (&state.root, state.log.segments.count());
        let bytes = usize::try_from(root.image_directory_bytes).unwrap_or(usize::MAX / 2)
            + root.directory.len() * DIRECTORY_CHANGE_BYTES
            + segments * size_of::<Generation>();
        // the last part of a segment gives way to its summary
        let a_segment = (self.layout.segment_bytes as usize / (IMAGE_PART_BYTES + BLOCK_BYTES) - 1).max(1);
        bytes.div_ceil(IMAGE_PART_BYTES).div_ceil(a_segment)
    }

    /// Segments to be announced for an image that is due, beyond those that leaves live on.
    pub(super) fn announced_for_image(&self) -> usize {
        let needed = self.image_segments();
        if needed > 1 && self.image_is_due() { needed } else { 0 }
    }

    /// A new full image when one is due. If it `waits` for room, not before what is announced has room for all of it: a part
    /// that is written and not named is written in vain.
    ///
    /// # Errors
    /// No room for metadata, or the latch.
    pub(super) async fn write_image_if_due(self: &Rc<Self>, waits: bool) -> Result<()> {
        if !self.image_is_due() {
            return Ok(());
        }
        let needed = self.image_segments();
        let announced = self.state.borrow().log.segments.announced_count();
        // one more is left to moves, and one for what of a segment is lost
        if waits && needed > 1 && announced < needed + 2 {
            return Ok(());
        }
        self.image_wanted.set(false);
        // directory and generations change only within checkpoints, and one runs at a time: this stays true until the end
        let (bytes, directory_bytes, image, holes) = {
            let state = self.state.borrow();
            let generations: Vec<_> = state.log.segments.iter().map(|(_, info)| info.generation).collect();
            let directory = state.namespaces.iter().flat_map(|(id, n)| {
                // a hole needs not be told (C17), not even one that the directory so far takes for something else
                let told = n.directory.iter().filter(|(_, slot)| slot.is_in_image());
                told.map(|(leaf, slot)| DirectoryChange { namespace: *id, leaf, image: slot.image })
            });
            let (bytes, directory_bytes) = encode_image(directory, &generations);
            (bytes, directory_bytes, state.root.sequence + 1, dirty_holes(&state))
        };
        let mut parts = Vec::new();
        for (part, payload) in bytes.chunks(IMAGE_PART_BYTES).enumerate() {
            if let Err(error) = self.make_room(Purpose::Metadata, record_bytes(payload.len()), 1).await {
                // the parts so far are named by no root
                let mut state = self.state.borrow_mut();
                state.root.release.extend(parts.iter().filter_map(|e: &Entry| e.segment()));
                return Err(error);
            }
            let mut state = self.state.borrow_mut();
            let body = RecordBody::Image { image, part: part as u64 };
            let header = RecordHeader { namespace: NamespaceId(0), first: Lba(0), op_delta: 0, stored: 0, body };
            let hash = crate::codec::payload_hash(payload);
            let appended = state.log.append(StreamKind::Leaf, header, payload, hash);
            state.log.segments.add_live(appended.segment);
            parts.push(appended.entry);
        }
        let mut state = self.state.borrow_mut();
        forget_holes(&mut state, &holes);
        let root = &mut state.root;
        let old = std::mem::replace(&mut root.image_parts, parts);
        root.release.extend(old.iter().filter_map(|e| e.segment()));
        root.directory.clear();
        root.segments.clear();
        (root.image, root.image_directory_bytes) = (image, directory_bytes);
        Ok(())
    }

    /// Whether so many leaves were let go of that an image which does not tell of them is less than to tell of each.
    pub(super) fn holes_are_many(&self) -> bool {
        self.state.borrow().holes > self.bounds.image_bytes / DIRECTORY_CHANGE_BYTES / 4
    }
}

/// The holes that roots do not know of, but for those that they have to call journaled.
fn dirty_holes(state: &State) -> Vec<(NamespaceId, u32)> {
    let slots = state.namespaces.iter().flat_map(|(id, n)| n.directory.iter().map(|(leaf, slot)| (*id, leaf, slot)));
    let holes = slots.filter(|(_, _, slot)| slot.is_dirty_hole() && !slot.image.journaled);
    holes.map(|(id, leaf, _)| (id, leaf)).collect()
}

/// The full image does not tell of these leaves. Those that still are holes are clean by that; the others, which came to
/// hold something meanwhile, have no image.
fn forget_holes(state: &mut State, holes: &[(NamespaceId, u32)]) {
    let State { namespaces, dirty, root, holes: left, .. } = state;
    for (id, leaf) in holes {
        let Some(slot) = namespaces.get_mut(id).and_then(|n| n.directory.slot_mut(*leaf)) else { continue };
        if slot.is_dirty_hole() {
            *left -= 1;
            slot.leaf = None;
        }
        let old = std::mem::take(&mut slot.image);
        root.release.extend(old.entry.segment());
    }
    if !holes.is_empty() {
        dirty.retain(|dirty| {
            let slot = namespaces.get(&dirty.namespace).and_then(|n| n.directory.slot(dirty.leaf));
            slot.is_some_and(|slot| slot.dirty_since().is_some())
        });
    }
}
