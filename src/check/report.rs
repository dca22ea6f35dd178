//! What a check found, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::format::{Location, Tier};
use crate::limits::LEAF_ENTRIES;
use crate::map::first_lba;
use crate::units::{Granule, Lba, NamespaceId, SegmentId};

/// Everything found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The pool.
    pub pool: String,
    /// Whether its last stop was clean.
    pub clean: bool,
    /// What is wrong.
    pub damage: Vec<Damage>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// Sums.
    pub totals: Totals,
    /// Sums by namespace.
    pub namespaces: Vec<NamespaceTotals>,
    #[serde(skip)]
    by_id: BTreeMap<NamespaceId, NamespaceTotals>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What.
    pub what: String,
    /// Whether it is in the journal, and the segment one of the journal's.
    pub journal: bool,
    /// Segment, if it is in one.
    pub segment: Option<u32>,
    /// Byte within the segment.
    pub byte: Option<u32>,
    /// The namespace that is hurt, if one is.
    pub namespace: Option<String>,
    /// First LBA (4 KiB block) that is hurt.
    pub first_lba: Option<u64>,
    /// LBAs that are hurt.
    pub lbas: u64,
    #[serde(skip)]
    id: Option<NamespaceId>,
}

/// Sums over the pool. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Segments of the pool.
    pub segments: u64,
    /// Segments that hold records of their current generation.
    pub segments_written: u64,
    /// Of these, segments told by a summary; the others were walked.
    pub segments_summarised: u64,
    /// Records that were verified.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Of these, bytes of fragments that the map points to.
    pub live_bytes: u64,
    /// Leaves of the map.
    pub leaves: u64,
    /// Blocks that the map points somewhere.
    pub mapped_blocks: u64,
    /// Batches in shared memory that the next start will write.
    pub staged_batches: u64,
    /// Records that the next start will replay.
    pub replayed_records: u64,
    /// LBAs that cannot be read.
    pub hurt_lbas: u64,
    /// Segments of the journal.
    pub journal_segments: u64,
    /// Of these, segments with batches that count.
    pub journal_segments_written: u64,
    /// Fragments in the journal that the map points to and that verified.
    pub journal_records: u64,
    /// Blocks that the map has in the journal.
    pub journal_blocks: u64,
}

/// Sums of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamespaceTotals {
    /// Name.
    pub name: String,
    /// Blocks that its map points somewhere.
    pub mapped_blocks: u64,
    /// LBAs that cannot be read.
    pub hurt_lbas: u64,
}

impl Damage {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    pub(super) fn at(mut self, segment: SegmentId, granule: Option<Granule>) -> Self {
        (self.segment, self.byte) = (Some(segment.0), granule.map(|g| g.0 * crate::limits::GRANULE));
        self
    }
}

impl Damage {
    pub(super) fn on_journal(self) -> Self {
        Self { journal: true, ..self }
    }
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.segments_written += other.segments_written;
        self.segments_summarised += other.segments_summarised;
        self.records += other.records;
        self.record_bytes += other.record_bytes;
    }
}

impl Report {
    pub(super) fn add(&mut self, damage: Damage) {
        self.damage.push(damage);
    }

    /// A block that cannot be read; runs of blocks with the same fate become one line.
    pub(super) fn hurt(&mut self, id: NamespaceId, lba: Lba, why: String, at: &Location) {
        self.totals.hurt_lbas += 1;
        self.by_id.entry(id).or_default().hurt_lbas += 1;
        let (segment, byte) = (Some(at.segment.0), Some(at.granule.0 * crate::limits::GRANULE));
        let journal = at.tier() == Tier::Pmem;
        if let Some(last) = self.damage.last_mut()
            && (last.id, last.journal, last.segment, last.byte) == (Some(id), journal, segment, byte)
            && last.first_lba.map(|first| first + last.lbas) == Some(lba.0)
        {
            last.lbas += 1;
            return;
        }
        let first_lba = Some(lba.0);
        self.damage.push(Damage {
            what: why,
            journal,
            segment,
            byte,
            namespace: None,
            first_lba,
            lbas: 1,
            id: Some(id),
        });
    }

    /// A leaf of the map that cannot be read: what it held is not known.
    pub(super) fn lost_leaf(
        &mut self,
        (id, leaf): (NamespaceId, u32),
        blocks: u64,
        at: &Location,
        error: &crate::error::Error,
    ) {
        let first = first_lba(leaf);
        let lbas = blocks.saturating_sub(first.0).min(LEAF_ENTRIES as u64);
        self.totals.hurt_lbas += lbas;
        self.by_id.entry(id).or_default().hurt_lbas += lbas;
        let mut damage = Damage::new(format!("leaf {leaf} of the map: {error}")).at(at.segment, Some(at.granule));
        (damage.id, damage.first_lba, damage.lbas) = (Some(id), Some(first.0), lbas);
        self.damage.push(damage);
    }

    /// A record that does not verify and that nothing points to.
    pub(super) fn unused(&mut self, segment: SegmentId, granule: Granule, why: &str) {
        self.damage.push(Damage::new(format!("{why}; nothing that is in use is hurt")).at(segment, Some(granule)));
    }

    pub(super) fn count_mapped(&mut self, id: NamespaceId, blocks: u64) {
        self.totals.mapped_blocks += blocks;
        self.by_id.entry(id).or_default().mapped_blocks += blocks;
    }

    /// Puts names for identities.
    pub(super) fn finish(&mut self, names: &BTreeMap<NamespaceId, String>, segments: u64) {
        self.totals.segments = segments;
        for damage in &mut self.damage {
            damage.namespace = damage.id.and_then(|id| names.get(&id).cloned());
        }
        let totals = |(id, name): (&NamespaceId, &String)| NamespaceTotals {
            name: name.clone(),
            ..self.by_id.get(id).cloned().unwrap_or_default()
        };
        self.namespaces = names.iter().map(totals).collect();
    }
}
