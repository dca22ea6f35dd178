//! Replay: records above the replay start, in ascending number, onto the leaves; later wins, unconditionally (I8).
//!
//! A leaf that a CLEAR covers is not read: what it was does not matter. So neither are applied the records before the
//! last such CLEAR that touch it.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::core::{Core, covers};
use crate::error::Result;
use crate::format::Entry;
use crate::format::summary::{Change, SummaryEntry};
use crate::map::leaf_of;
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

/// The leaves that WRITEs and MOVEs touch, each with the last CLEAR that covers all of it (0 for none).
type Touched = BTreeMap<(NamespaceId, u32), OpNo>;

/// Applies the records of all segments of all tiers. Returns how many there were.
///
/// # Errors
/// A leaf cannot be read.
pub async fn replay<'a>(
    core: &Rc<Core>,
    records: impl Iterator<Item = &'a SummaryEntry>,
    replay_start: OpNo,
) -> Result<usize> {
    let mut records: Vec<&SummaryEntry> = records.filter(|r| r.op > replay_start).collect();
    records.sort_unstable_by_key(|r| r.op);
    let touched = touched(core, &records);
    let wanted = touched.iter().filter(|(_, wiped)| **wiped == OpNo(0));
    core.load_leaves(wanted.map(|(leaf, _)| *leaf).collect(), true).await;
    for record in &records {
        match record.change {
            Change::Fragment { entry, mask, .. } => {
                for index in (0..8).filter(|index| mask >> index & 1 == 1) {
                    let lba = Lba(record.first.0 + u64::from(index));
                    let wiped = touched.get(&(record.namespace, leaf_of(lba))).is_some_and(|wiped| *wiped > record.op);
                    if !wiped {
                        apply(core, record.namespace, lba, entry.with_index(index), record.op).await?;
                    }
                }
            }
            Change::Clear { count } => clear(core, record, count).await?,
            Change::Other { .. } => {}
        }
    }
    Ok(records.len())
}

/// The leaves that the records write to, but for those whose images are as new. A CLEAR may touch many and needs few: those
/// are read when their turn comes.
fn touched(core: &Core, records: &[&SummaryEntry]) -> Touched {
    let mut leaves = Touched::new();
    for record in records {
        if let Change::Fragment { mask, .. } = record.change {
            let last = Lba(record.first.0 + u64::from(7 - (mask | 1).leading_zeros()));
            for leaf in [leaf_of(record.first), leaf_of(last)] {
                if record.op > core.complete(record.namespace, leaf) {
                    leaves.insert((record.namespace, leaf), OpNo(0));
                }
            }
        }
    }
    for record in records {
        let Change::Clear { count } = record.change else { continue };
        let (id, blocks) = (record.namespace, core.blocks_of(record.namespace));
        let range = LbaRange { start: record.first, count };
        let span = (id, leaf_of(record.first))..=(id, leaf_of(Lba(range.end().0 - 1)));
        for ((_, leaf), wiped) in leaves.range_mut(span) {
            if covers(range, *leaf, blocks) && record.op > core.complete(id, *leaf) {
                *wiped = record.op;
            }
        }
    }
    leaves
}

async fn clear(core: &Rc<Core>, record: &SummaryEntry, count: u64) -> Result<()> {
    let (id, blocks) = (record.namespace, core.blocks_of(record.namespace));
    let end = blocks.min(record.first.0.saturating_add(count));
    if record.first.0 >= end {
        return Ok(());
    }
    let range = LbaRange { start: record.first, count: end - record.first.0 };
    for leaf in leaf_of(range.start)..=leaf_of(Lba(end - 1)) {
        if core.is_hole(id, leaf) || record.op <= core.complete(id, leaf) {
            continue;
        }
        let known = if covers(range, leaf, blocks) { None } else { Some(core.know(id, leaf_range(leaf)).await?) };
        core.state.borrow_mut().clear_leaf(id, leaf, range, blocks, record.op);
        drop(known);
    }
    Ok(())
}

fn leaf_range(leaf: u32) -> LbaRange {
    LbaRange { start: crate::map::first_lba(leaf), count: 1 }
}

/// One entry, unless the leaf's image is as new, or the namespace is no more.
async fn apply(core: &Rc<Core>, id: NamespaceId, lba: Lba, entry: Entry, op: OpNo) -> Result<()> {
    if lba.0 >= core.blocks_of(id) || op <= core.complete(id, leaf_of(lba)) {
        return Ok(());
    }
    let _known = core.know(id, LbaRange { start: lba, count: 1 }).await?;
    core.state.borrow_mut().set(id, lba, entry, op);
    Ok(())
}
