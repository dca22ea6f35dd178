//! The journal of a pool, as its next start would take it: whose it is, what its segments hold, and whether each fragment
//! that the map points to verifies.
//!
//! ```text
//!   header slots ─► is it the pool's? ─► every segment walked ─► records (replayed with the window's)
//!   map: blocks on tier 0, by segment ─► the segment read once ─► each fragment verified at its place
//! ```
//!
//! **Failure.** A journal that is not there, or not the pool's, is damage; what leaves that are marked for it hold is then
//! not known, and left out. **Not here:** the map, the log of the pool (`map`, `segment`).

use std::collections::BTreeSet;

use super::report::{Damage, Report};
use super::snapshot::Snapshot;
use crate::buf::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::journal::{JOURNAL_HEADER_BYTES, JOURNAL_HEADERS, JournalHeader, journal_segment};
use crate::format::record::{Place, RecordHeader};
use crate::format::root::Root;
use crate::format::superblock::Superblock;
use crate::format::{Location, Tier};
use crate::limits::{GRANULE, JOURNAL_SEGMENT_BYTES};
use crate::pmem::Journal;
use crate::pool::{JournalFound, own_journal};
use crate::recovery::{RecoveredJournal, look_at_journal};
use crate::units::{Generation, Granule, Lba, NamespaceId, SegmentId};

/// A journal that was looked at.
pub(super) struct JournalSnapshot {
    journal: Journal,
    pub(super) header: JournalHeader,
    pub(super) found: RecoveredJournal,
}

/// A block that the map has on tier 0.
pub(super) struct OnJournal {
    pub(super) location: Location,
    pub(super) id: NamespaceId,
    pub(super) lba: Lba,
    /// Why it would read as something old, if so.
    pub(super) stale: Option<String>,
}

impl JournalSnapshot {
    /// Looks at the pool's journal; `None` when it has none, or none that can be used: then that is in the report.
    pub(super) async fn take(
        superblock: &Superblock,
        root: &Root,
        found: Option<JournalFound>,
        report: &mut Report,
    ) -> Option<Self> {
        let name = superblock.journal.as_ref()?;
        let path = String::from_utf8_lossy(&name.path).into_owned();
        let found = match found {
            Some(JournalFound::Here(journal)) => {
                own_journal(&journal, name, root).await.map(|header| (journal, header))
            }
            Some(JournalFound::Missing(error)) => Err(error),
            None => Err(Error::new(ErrorKind::NotFound, "it is not given")),
        };
        let (journal, header) = match found {
            Ok(found) => found,
            Err(error) => {
                report.add(Damage::new(format!("the pool's journal {} ({path}) cannot be used: {error}", name.id)));
                return None;
            }
        };
        Self::look_at_headers(&journal, &header, report).await;
        let found = look_at_journal(&journal, header.segment_count, root).await;
        for (id, error) in &found.unreadable {
            report.add(Damage::new(error.to_string()).at(*id, None).on_journal());
        }
        report.totals.journal_segments = u64::from(header.segment_count);
        report.totals.journal_segments_written = found.segments.iter().filter(|segment| segment.end > 0).count() as u64;
        Some(Self { journal, header, found })
    }

    /// The other header: of the session before, or torn with a start that died. A new journal has one only.
    async fn look_at_headers(journal: &Journal, newest: &JournalHeader, report: &mut Report) {
        if newest.sequence == 1 {
            return;
        }
        for slot in 0..JOURNAL_HEADERS {
            let buf = AlignedBuf::zeroed(JOURNAL_HEADER_BYTES);
            let (buf, result) = journal.read(JournalHeader::offset(slot), buf, JOURNAL_HEADER_BYTES).await;
            if let Err(error) = result.and_then(|()| JournalHeader::decode(&buf)) {
                let text = format!("header {slot} of the journal: {error}");
                report.notes.push(format!(
                    "{text}; a start was cut short, or it is damaged: one of the next two starts writes it anew"
                ));
            }
        }
    }

    /// The start of a segment in the generation that its first batch has.
    pub(super) fn place(&self, root: &Root, segment: SegmentId) -> Place {
        let generation = self.found.segments.get(segment.0 as usize).map_or(Generation(0), |s| s.generation);
        Place { pool: root.pool, tier: Tier::Pmem, segment, generation, granule: Granule(0) }
    }

    /// All bytes of a segment.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(super) async fn segment(&self, id: SegmentId) -> Result<AlignedBuf> {
        let (count, len) = (self.header.segment_count, JOURNAL_SEGMENT_BYTES as usize);
        if id.0 >= count {
            let text = format!("segment {id} of the journal: it has {count} (from 0)");
            return Err(Error::new(ErrorKind::OutOfRange, text));
        }
        let (buf, result) = self.journal.read(journal_segment(id), AlignedBuf::zeroed(len), len).await;
        result.map(|()| buf)
    }

    /// The fragment that an entry means, in the bytes of its segment, verified.
    ///
    /// # Errors
    /// It does not verify, or is another.
    pub(super) fn fragment(
        &self,
        root: &Root,
        bytes: &[u8],
        location: &Location,
        (id, lba): (NamespaceId, Lba),
    ) -> Result<RecordHeader> {
        let found = bytes.get((location.granule.0 * GRANULE) as usize..).unwrap_or_default();
        let place = self.place(root, location.segment).at(location.granule);
        let (header, _) = RecordHeader::decode_whole(found, &place)?;
        header.check_fragment(id, lba, location)?;
        Ok(header)
    }
}

/// Verifies every block that the map has on tier 0, each segment read once. Returns the segments that hold any.
pub(super) async fn verify_blocks(
    snapshot: &Snapshot,
    mut blocks: Vec<OnJournal>,
    report: &mut Report,
) -> BTreeSet<SegmentId> {
    blocks.sort_unstable_by_key(|b| (b.location.segment, b.location.granule, b.id, b.lba));
    let mut used = BTreeSet::new();
    for of_segment in blocks.chunk_by(|a, b| a.location.segment == b.location.segment) {
        let Some(id) = of_segment.first().map(|block| block.location.segment) else { continue };
        let bytes = match &snapshot.journal {
            Some(journal) => journal.segment(id).await.map(|bytes| (journal, bytes)),
            None => Err(Error::new(ErrorKind::NotFound, "it is in the journal, which cannot be used")),
        };
        used.insert(id);
        let mut last = None;
        for OnJournal { location, id, lba, stale } in of_segment {
            report.totals.journal_blocks += 1;
            let verified = match &bytes {
                Ok((journal, bytes)) => journal.fragment(&snapshot.root, bytes, location, (*id, *lba)).map(|_| ()),
                Err(error) => Err(Error::new(error.kind(), error.to_string())),
            };
            match (verified, stale) {
                (Err(error), _) => report.hurt(*id, *lba, error.to_string(), location),
                (Ok(()), Some(why)) => report.hurt(*id, *lba, why.clone(), location),
                (Ok(()), None) if last != Some(location.granule) => {
                    report.totals.journal_records += 1;
                    last = Some(location.granule);
                }
                (Ok(()), None) => {}
            }
        }
    }
    used
}
