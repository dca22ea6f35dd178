//! A group of leaves, replayed as the next start would, with the newest record of each LBA beside it. Pure.

use std::collections::BTreeMap;

use super::Bad;
use super::report::Report;
use super::segment::Source;
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::format::leaf::decode_leaf;
use crate::format::record::{Place, RecordBody, RecordHeader};
use crate::format::summary::{Change, SummaryEntry};
use crate::format::{Entry, Location, Tier};
use crate::limits::LEAF_ENTRIES;
use crate::map::{first_lba, index_of, leaf_of};
use crate::units::{Lba, NamespaceId, OpNo};

/// An LBA as the map has it and as the log has it.
#[derive(Clone, Copy, Default)]
struct Cell {
    mapped: Entry,
    /// Its newest record in segments whose records are all known.
    newest: Entry,
    newest_op: OpNo,
}

/// Leaves, replayed.
#[derive(Default)]
pub(super) struct Group(BTreeMap<(NamespaceId, u32), Box<[Cell; LEAF_ENTRIES]>>);

/// What is to be said of an LBA that is not plainly good.
pub(super) enum Verdict {
    /// It cannot be read, or would read as something old.
    Hurt(Location, String),
    /// The records of its segment are not all known.
    Doubtful(Location),
    /// It is in the journal, and would read as something old, if that is said why.
    OnJournal(Location, Option<String>),
}

/// The leaves that a record writes to.
pub(super) fn leaves_written(record: &SummaryEntry) -> impl Iterator<Item = (NamespaceId, u32)> + use<> {
    let last = match record.change {
        Change::Fragment { mask, .. } => Some(record.first.0 + u64::from(7 - mask.leading_zeros())),
        Change::Clear { .. } | Change::Other { .. } => None,
    };
    let (namespace, first) = (record.namespace, leaf_of(record.first));
    last.into_iter().flat_map(move |last| (first..=leaf_of(Lba(last))).map(move |leaf| (namespace, leaf)))
}

/// The entries of a leaf image.
///
/// # Errors
/// It does not verify, or is another leaf's.
pub(super) fn open_leaf(
    bytes: &[u8],
    place: &Place,
    (id, leaf): (NamespaceId, u32),
    complete: OpNo,
) -> Result<Box<[Entry; LEAF_ENTRIES]>> {
    let (header, payload) = RecordHeader::decode_whole(bytes, place)?;
    if header.body != (RecordBody::Leaf { complete: complete.0 }) {
        return Err(Error::corrupt("leaf", "kind or number", complete.0, header.kind() as u64));
    }
    if header.namespace != id || header.first != first_lba(leaf) {
        return Err(Error::corrupt("leaf", "first LBA", first_lba(leaf).0, header.first.0));
    }
    decode_leaf(payload)
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&mut self, key: (NamespaceId, u32), entries: &[Entry; LEAF_ENTRIES]) {
        let cells = entries.map(|mapped| Cell { mapped, ..Cell::default() });
        self.0.insert(key, Box::new(cells));
    }

    /// Every record above the replay start, in ascending number; a leaf skips what its image has (rules 6.1, 6.2).
    pub(super) fn replay(&mut self, snapshot: &Snapshot) {
        let all = snapshot.records();
        let mut records: Vec<&SummaryEntry> = all.filter(|r| r.op > snapshot.root.replay_start).collect();
        records.sort_unstable_by_key(|r| r.op);
        for record in records {
            let end = snapshot.blocks_of(record.namespace);
            self.each(record, |key, lba, cell, entry| {
                if record.op > snapshot.image(key).complete && lba.0 < end {
                    cell.mapped = entry;
                }
            });
        }
    }

    /// The entry of an LBA.
    pub(super) fn mapped(&self, id: NamespaceId, lba: Lba) -> Entry {
        self.0.get(&(id, leaf_of(lba))).map_or(Entry::HOLE, |cells| cells[index_of(lba)].mapped)
    }

    /// A record that counts: it may be the newest of its LBAs.
    pub(super) fn see(&mut self, record: &SummaryEntry) {
        self.each(record, |_, _, cell, entry| {
            if record.op > cell.newest_op {
                (cell.newest, cell.newest_op) = (entry, record.op);
            }
        });
    }

    /// The cells of a record that are in this group, with the entry that the record gives each.
    fn each(&mut self, record: &SummaryEntry, mut body: impl FnMut((NamespaceId, u32), Lba, &mut Cell, Entry)) {
        match record.change {
            Change::Other { .. } => {}
            Change::Fragment { entry, mask, .. } => {
                for index in (0..8).filter(|index| mask >> index & 1 == 1) {
                    let lba = Lba(record.first.0 + u64::from(index));
                    let key = (record.namespace, leaf_of(lba));
                    if let Some(cells) = self.0.get_mut(&key) {
                        body(key, lba, &mut cells[index_of(lba)], entry.with_index(index));
                    }
                }
            }
            Change::Clear { count } => {
                let last = Lba(record.first.0.saturating_add(count - 1));
                let keys = (record.namespace, leaf_of(record.first))..=(record.namespace, leaf_of(last));
                for (key, cells) in self.0.range_mut(keys) {
                    let start = record.first.max(first_lba(key.1));
                    let end = last.0.min(first_lba(key.1).0 + LEAF_ENTRIES as u64 - 1);
                    for lba in (start.0..=end).map(Lba) {
                        body(*key, lba, &mut cells[index_of(lba)], Entry::HOLE);
                    }
                }
            }
        }
    }

    /// Bytes of the records that the map of this group points to.
    pub(super) fn live_bytes(&self, records: &[(SummaryEntry, u32)]) -> u64 {
        let live = |record: &SummaryEntry| {
            let Change::Fragment { entry, mask, .. } = record.change else { return false };
            (0..8).filter(|index| mask >> index & 1 == 1).any(|index| {
                let lba = Lba(record.first.0 + u64::from(index));
                let cells = self.0.get(&(record.namespace, leaf_of(lba)));
                cells.is_some_and(|cells| cells[index_of(lba)].mapped == entry.with_index(index))
            })
        };
        records.iter().filter(|(record, _)| live(record)).map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    /// What the map says against what the log says. Counts what is mapped into `report`.
    pub(super) fn compare(
        &self,
        bad: &mut Bad,
        sources: &[Source],
        report: &mut Report,
    ) -> Vec<(NamespaceId, Lba, Verdict)> {
        let mut verdicts = Vec::new();
        for ((id, leaf), cells) in &self.0 {
            let mut mapped = 0;
            for (index, cell) in cells.iter().enumerate() {
                let Some(location) = cell.mapped.location() else { continue };
                mapped += 1;
                let lba = Lba(first_lba(*leaf).0 + index as u64);
                verdicts.extend(cell.judge(location, bad, sources).map(|verdict| (*id, lba, verdict)));
            }
            report.count_mapped(*id, mapped);
        }
        verdicts
    }
}

impl Cell {
    fn judge(&self, location: Location, bad: &mut Bad, sources: &[Source]) -> Option<Verdict> {
        if location.tier() == Tier::Pmem {
            // records of the journal that leaf images have are not listed
            let stale = self.mapped != self.newest && self.newest.tier() == Some(Tier::Pmem);
            return Some(Verdict::OnJournal(location, stale.then(|| self.differs())));
        }
        let place = (location.segment, location.granule);
        if let Some(record) = bad.get_mut(&place) {
            record.in_use = true;
            return Some(Verdict::Hurt(location, record.why.clone()));
        }
        if self.mapped == self.newest {
            return None;
        }
        match sources.get(location.segment.0 as usize) {
            Some(source) if source.is_complete() => Some(Verdict::Hurt(location, self.differs())),
            Some(Source::Nothing) => {
                Some(Verdict::Hurt(location, format!("the map points to {:?}, where nothing is", self.mapped)))
            }
            Some(Source::Unreadable(error)) => Some(Verdict::Hurt(location, error.clone())),
            Some(_) | None => Some(Verdict::Doubtful(location)),
        }
    }

    fn differs(&self) -> String {
        format!(
            "the map points to {:?}, the newest record in the log is operation {} at {:?}",
            self.mapped, self.newest_op, self.newest
        )
    }
}
