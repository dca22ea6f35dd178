//! Replay: records above the replay start, in ascending number, onto the leaves; later wins, unconditionally (I8).

use std::collections::HashSet;
use std::rc::Rc;

use crate::core::Core;
use crate::error::Result;
use crate::format::Entry;
use crate::format::summary::{Change, SummaryEntry};
use crate::map::{first_lba, leaf_of};
use crate::units::{Lba, LbaRange, NamespaceId, OpNo};

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
    core.load_leaves(touched(&records)).await;
    for record in &records {
        match record.change {
            Change::Fragment { entry, mask, .. } => {
                for index in (0..8).filter(|index| mask >> index & 1 == 1) {
                    let lba = Lba(record.first.0 + u64::from(index));
                    apply(core, record.namespace, lba, entry.with_index(index), record.op).await?;
                }
            }
            Change::Clear { count } => clear(core, record, count).await?,
            Change::Other { .. } => {}
        }
    }
    Ok(records.len())
}

/// The leaves that the records write to. A CLEAR may touch many and needs few: those are read when their turn comes.
fn touched(records: &[&SummaryEntry]) -> Vec<(NamespaceId, u32)> {
    let mut leaves = HashSet::new();
    for record in records {
        if let Change::Fragment { mask, .. } = record.change {
            let last = Lba(record.first.0 + u64::from(7 - (mask | 1).leading_zeros()));
            leaves.insert((record.namespace, leaf_of(record.first)));
            leaves.insert((record.namespace, leaf_of(last)));
        }
    }
    let mut leaves: Vec<_> = leaves.into_iter().collect();
    leaves.sort_unstable();
    leaves
}

async fn clear(core: &Rc<Core>, record: &SummaryEntry, count: u64) -> Result<()> {
    let end = core.blocks_of(record.namespace).min(record.first.0.saturating_add(count));
    let mut lba = record.first;
    while lba.0 < end {
        let next = first_lba(leaf_of(lba) + 1);
        // a leaf that holds nothing needs no clearing
        if !core.is_hole(record.namespace, leaf_of(lba)) {
            for lba in (lba.0..next.0.min(end)).map(Lba) {
                apply(core, record.namespace, lba, Entry::HOLE, record.op).await?;
            }
        }
        lba = next;
    }
    Ok(())
}

/// One entry, unless the leaf's image is as new, or the namespace is no more.
async fn apply(core: &Rc<Core>, id: NamespaceId, lba: Lba, entry: Entry, op: OpNo) -> Result<()> {
    if lba.0 >= core.blocks_of(id) {
        return Ok(());
    }
    core.know(id, LbaRange { start: lba, count: 1 }).await?;
    let mut state = core.state.borrow_mut();
    let directory = &state.namespace(id)?.directory;
    let complete = directory.slot(leaf_of(lba)).map_or(OpNo(0), |slot| slot.image.complete);
    let unchanged_hole = entry == Entry::HOLE && directory.get(lba) == Entry::HOLE;
    if op > complete && !unchanged_hole {
        state.set(id, lba, entry, op);
    }
    Ok(())
}
