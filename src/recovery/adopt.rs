//! Adoption: what a dead daemon of this boot had acknowledged and not yet written, written to its place.
//!
//! Takes exactly what each slot published (of two for one place the compacted batch), verifies every record, completes the
//! batch with a header, writes it. Changes nothing in shared memory, so that it can be done again when it is interrupted.
//! Afterwards the walk of the window finds these batches like all others.

use crate::buf::AlignedBuf;
use crate::env::reactor::IoBuf;
use crate::error::{Error, Result};
use crate::format::Tier;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader, walk_records};
use crate::format::layout::Layout;
use crate::format::record::Place;
use crate::format::root::Root;
use crate::format::slot::Prelude;
use crate::limits::{BLOCK_BYTES, GRANULE, SLOT_BYTES, SLOT_COUNT};
use crate::media::{Media, Patch};
use crate::staging::Region;
use crate::units::{Granule, OpNo};

/// Writes every published slot to its place. Returns how many there were. The caller flushes.
///
/// # Errors
/// A slot does not verify, does not belong to the root's window, or cannot be written.
pub async fn adopt(media: &Media, layout: &Layout, root: &Root, region: &Region) -> Result<usize> {
    let slots = slots_that_count(root, layout, region)?;
    for slot in &slots {
        let Patch { offset, bytes } = staged_batch(root, layout, region, *slot)?.patch(layout);
        let padded = bytes.len();
        media.write(offset, IoBuf::Owned(bytes), padded).await.1?;
    }
    Ok(slots.len())
}

/// Every published slot with the place where it belongs, for those who only look.
///
/// # Errors
/// A slot does not verify or does not belong to the root's window.
pub fn staged_batches(layout: &Layout, root: &Root, region: &Region) -> Result<Vec<Patch>> {
    let slots = slots_that_count(root, layout, region)?.into_iter();
    slots.map(|slot| Ok(staged_batch(root, layout, region, slot)?.patch(layout))).collect()
}

/// A batch as a slot has it.
struct Staged {
    place: Place,
    header: BatchHeader,
    /// Of the whole batch, padded to blocks.
    bytes: AlignedBuf,
}

impl Staged {
    /// Where it belongs on the medium.
    fn patch(self, layout: &Layout) -> Patch {
        let offset = layout.segment(self.place.segment) + u64::from(self.place.granule.0 * GRANULE);
        Patch { offset, bytes: self.bytes }
    }
}

/// The published slots, but of two for one place only the one that holds the compacted batch.
fn slots_that_count(root: &Root, layout: &Layout, region: &Region) -> Result<Vec<usize>> {
    let mut slots: Vec<(Prelude, usize)> = Vec::new();
    for slot in (0..SLOT_COUNT).filter(|slot| region.published_bytes(*slot) > 0) {
        let prelude = prelude_of(root, region, slot)?;
        let place = |p: &Prelude| (p.segment, p.generation, p.granule);
        match slots.iter_mut().find(|(other, _)| place(other) == place(&prelude)) {
            Some((_, other)) => *other = compacted(root, layout, region, [*other, slot])?,
            None => slots.push((prelude, slot)),
        }
    }
    Ok(slots.into_iter().map(|(_, slot)| slot).collect())
}

/// Of two slots for one place, the shorter one: the daemon died when it had published the compacted copy of a batch and not
/// yet retired that. They have the same numbers, and the same effect.
fn compacted(root: &Root, layout: &Layout, region: &Region, slots: [usize; 2]) -> Result<usize> {
    let [one, other] = slots;
    let [a, b] = [staged_batch(root, layout, region, one)?.header, staged_batch(root, layout, region, other)?.header];
    if (a.first_op, a.last_op) != (b.first_op, b.last_op) || a.length == b.length {
        let error = Error::corrupt("slot", "last number at this place", a.last_op.0, b.last_op.0);
        return Err(error.within(format!("staging slots {one} and {other}")));
    }
    Ok(if a.length < b.length { one } else { other })
}

fn prelude_of(root: &Root, region: &Region, slot: usize) -> Result<Prelude> {
    let prelude = Prelude::decode(&region.load_prelude(slot), root.pool, root.session);
    prelude.map_err(|e| e.within(format!("staging slot {slot}")))
}

fn staged_batch(root: &Root, layout: &Layout, region: &Region, slot: usize) -> Result<Staged> {
    let prelude = prelude_of(root, region, slot)?;
    let complete = complete_slot(root, layout, region, slot, prelude);
    complete.map_err(|e| e.within(format!("staging slot {slot}")))
}

/// The batch of a slot, verified and with its header, padded to blocks.
fn complete_slot(root: &Root, layout: &Layout, region: &Region, slot: usize, prelude: Prelude) -> Result<Staged> {
    let published = region.published_bytes(slot);
    let Prelude { segment, generation, granule, first_op } = prelude;
    let listed = root.window.iter().any(|w| w.segment == segment && w.generation == generation);
    if !listed {
        return Err(Error::corrupt("slot", "segment", 0, u64::from(segment.0)));
    }
    let length = usize::try_from(published).unwrap_or(usize::MAX);
    let start = u64::from(granule.0) * u64::from(GRANULE);
    let fits = length > BATCH_HEADER_BYTES
        && length <= SLOT_BYTES
        && length % GRANULE as usize == 0
        && start % BLOCK_BYTES as u64 == 0
        && start + length as u64 <= u64::from(layout.segment_bytes);
    if !fits {
        return Err(Error::corrupt("slot", "published bytes", SLOT_BYTES as u64, published));
    }
    let padded = length.next_multiple_of(BLOCK_BYTES);
    let mut bytes = AlignedBuf::zeroed(padded);
    region.load(slot, 0, &mut bytes[..length]);
    let place = Place { pool: root.pool, tier: Tier::Ssd, segment, generation, granule };
    let records_at = place.at(Granule(granule.0 + u32::try_from(BATCH_HEADER_BYTES).unwrap_or(0) / GRANULE));
    let walked = walk_records(&bytes[BATCH_HEADER_BYTES..length], &records_at, |_, _, _| Ok(()))?;
    let header = BatchHeader {
        length: u32::try_from(length).unwrap_or(u32::MAX),
        count: walked.count,
        session: root.session,
        first_op,
        last_op: OpNo(first_op.0 + u64::from(walked.last_delta)),
        settled: OpNo(0),
        checks: walked.checks,
    };
    // a closed batch has its header: the same bytes as the dead daemon's own write
    let own = BatchHeader::decode(&bytes, &place).and_then(|own| own.matches(&walked).map(|()| own));
    if !own.is_ok_and(|own| own.length == header.length && own.session == root.session) {
        bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode(&place));
        // numbers or a count that no batch can have are damage of the slot
        BatchHeader::decode(&bytes, &place)?;
    }
    Ok(Staged { place, header, bytes })
}
