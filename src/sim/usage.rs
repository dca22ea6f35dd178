//! What each segment holds, recomputed by brute force from all leaves and compared with what the engine counts.
//!
//! Right after recovery, and whenever hosts are done. Leaves that have not been read count for nothing on both sides: the
//! engine counts what a leaf points to when it reads it. What is counted and not in memory cannot be recomputed: while
//! there is such a leaf, a segment may count more than is found.

use std::collections::BTreeMap;

use crate::core::Core;
use crate::format::{Entry, Tier};
use crate::log::SegmentState;
use crate::map::Leaf;
use crate::units::SegmentId;

/// Compares; tells nothing while a checkpoint holds segments that no structure names.
///
/// # Errors
/// The first segment whose count is wrong, or which is free and holds something.
pub fn check_usage(core: &Core) -> Result<(), String> {
    core.check_victims()?;
    if core.is_checkpointing() || core.latch.check().is_err() {
        return Ok(());
    }
    let state = core.state.borrow();
    let mut counted: BTreeMap<(Tier, SegmentId), u32> = BTreeMap::new();
    let mut count = |entry: Entry| entry.place().into_iter().for_each(|place| *counted.entry(place).or_default() += 1);
    let mut evicted = false;
    for namespace in state.namespaces.values() {
        for (_, slot) in namespace.directory.iter() {
            count(slot.image.entry);
            slot.leaf.iter().flat_map(Leaf::iter).for_each(|entry| count(*entry));
            evicted |= slot.counted && !slot.is_resident() && !slot.is_hole();
        }
    }
    let accounts = state.accounts.entries();
    let exact = accounts.is_some() && !evicted;
    accounts.into_iter().flatten().for_each(|entry| count(*entry));
    state.root.image_parts.iter().for_each(|part| count(*part));
    // of leaves and images, which are on tier 1
    state.root.release.iter().for_each(|segment| *counted.entry((Tier::Ssd, *segment)).or_default() += 1);
    let tiers = [Tier::Pmem, Tier::Ssd].into_iter();
    let all = tiers.flat_map(|tier| state.log.table(tier).iter().map(move |(id, info)| (tier, id, info)));
    for (tier, id, info) in all {
        let found = counted.remove(&(tier, id)).unwrap_or(0);
        if info.live < found || (exact && info.live != found) {
            return Err(format!("{tier:?} segment {id} counts {} live entries, {found} point to it", info.live));
        }
        // what media lost without a word may leave an entry that points to an announced segment: an error when it is read
        let unused = matches!(info.state, SegmentState::Free | SegmentState::Announcing);
        if unused && found > 0 {
            return Err(format!("{tier:?} segment {id} is {:?} and {found} entries point to it", info.state));
        }
    }
    match counted.pop_first() {
        Some(((tier, id), found)) => Err(format!("{found} entries point to {tier:?} segment {id}, which is not there")),
        None => Ok(()),
    }
}
