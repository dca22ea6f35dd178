//! Which ranges of LBAs use the journal, and how: rewritten logs die there, what is written once passes through.
//!
//! Counted by leaf (2 MiB of LBAs) since the pool was opened; neighbours that behave alike are one range.

use serde::{Deserialize, Serialize};

use super::Pool;
use crate::limits::{BLOCK_SIZE, LEAF_ENTRIES};
use crate::map::{Heat, LeafSlot, first_lba};

/// Ranges that are told, at most: those that wrote most to the journal.
const RANGES_MAX: usize = 4096;

/// How a range behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeatKind {
    /// Most of what it wrote to the journal died there.
    Log,
    /// It writes to the journal, and most of that lives on.
    Mixed,
    /// It passes the journal by.
    Data,
}

/// A range of LBAs. All sizes in bytes of blocks, since the pool was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatRange {
    /// Whose.
    pub namespace: String,
    /// First LBA (4 KiB block).
    pub first_lba: u64,
    /// LBAs.
    pub lbas: u64,
    /// How it behaves.
    pub kind: HeatKind,
    /// Acknowledged through the journal.
    pub acknowledged: u64,
    /// Overwritten or discarded there.
    pub died: u64,
    /// Moved to the pool.
    pub destaged: u64,
    /// Written past the journal.
    pub bypassed: u64,
    /// In the journal now.
    pub resident: u64,
}

impl Pool {
    /// Ranges that were written to since the pool was opened, or have blocks in the journal, in order.
    #[must_use]
    pub fn journal_heat(&self) -> Vec<HeatRange> {
        let state = self.core().state.borrow();
        let mut ranges: Vec<HeatRange> = Vec::new();
        for namespace in state.namespaces.values() {
            let (name, blocks) = (&namespace.entry.name, namespace.entry.blocks);
            for (leaf, slot) in namespace.directory.iter() {
                let Some(range) = range_of(name, blocks, leaf, slot) else { continue };
                match ranges.last_mut() {
                    Some(last) if last.continues_with(&range) => last.add(&range),
                    _ => ranges.push(range),
                }
            }
        }
        if ranges.len() > RANGES_MAX {
            ranges.sort_by_key(|range| std::cmp::Reverse(range.acknowledged));
            ranges.truncate(RANGES_MAX);
            ranges.sort_by(|a, b| (&a.namespace, a.first_lba).cmp(&(&b.namespace, b.first_lba)));
        }
        ranges
    }
}

fn range_of(namespace: &str, blocks: u64, leaf: u32, slot: &LeafSlot) -> Option<HeatRange> {
    let Heat { journal, bypassed, left, destaged, resident } = slot.heat;
    if journal == 0 && bypassed == 0 && resident == 0 {
        return None;
    }
    // a fragment that is moved may reach into the next leaf
    let died = left.saturating_sub(destaged);
    let kind = if journal == 0 && resident == 0 {
        HeatKind::Data
    } else if died >= journal / 2 && journal >= bypassed && died > 0 {
        HeatKind::Log
    } else {
        HeatKind::Mixed
    };
    let first_lba = first_lba(leaf).0;
    let bytes = |blocks: u32| u64::from(blocks) * u64::from(BLOCK_SIZE);
    Some(HeatRange {
        namespace: namespace.to_owned(),
        first_lba,
        lbas: (LEAF_ENTRIES as u64).min(blocks.saturating_sub(first_lba)),
        kind,
        acknowledged: bytes(journal),
        died: bytes(died),
        destaged: bytes(destaged),
        bypassed: bytes(bypassed),
        resident: bytes(resident),
    })
}

impl HeatRange {
    fn continues_with(&self, next: &Self) -> bool {
        let is_next = self.first_lba + self.lbas == next.first_lba;
        self.namespace == next.namespace && self.kind == next.kind && is_next
    }

    fn add(&mut self, next: &Self) {
        self.lbas += next.lbas;
        self.acknowledged += next.acknowledged;
        self.died += next.died;
        self.destaged += next.destaged;
        self.bypassed += next.bypassed;
        self.resident += next.resident;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(leaf: u32, heat: Heat) -> Option<HeatRange> {
        range_of("db", 1000, leaf, &LeafSlot { heat, ..LeafSlot::default() })
    }

    #[test]
    fn a_log_is_told_from_data_and_neighbours_that_are_alike_are_one_range() {
        let log = Heat { journal: 1000, bypassed: 10, left: 900, destaged: 20, resident: 100 };
        let mut first = range(0, log).unwrap();
        let second = range(1, log).unwrap();
        assert_eq!((first.kind, first.lbas, first.died), (HeatKind::Log, 512, 880 * 4096));
        assert_eq!((second.first_lba, second.lbas), (512, 488), "it ends with the namespace");
        assert!(first.continues_with(&second) && !second.continues_with(&first));
        first.add(&second);
        assert_eq!((first.lbas, first.acknowledged), (1000, 2000 * 4096));
        let once = Heat { journal: 100, bypassed: 0, left: 100, destaged: 100, resident: 0 };
        assert_eq!(range(0, once).unwrap().kind, HeatKind::Mixed);
        let bulk = Heat { bypassed: 512, ..Heat::default() };
        assert_eq!(range(0, bulk).unwrap().kind, HeatKind::Data);
        assert!(!first.continues_with(&range(1, bulk).unwrap()));
        assert_eq!(range(0, Heat::default()), None);
    }
}
