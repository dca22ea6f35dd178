//! Tier 0 after a stop or a death: every segment of it is walked, for no root lists them (FORMAT.md, recovery 4).

use std::collections::VecDeque;

use crate::buf::AlignedBuf;
use crate::error::{Error, Result};
use crate::format::Tier;
use crate::format::journal::journal_segment;
use crate::format::record::Place;
use crate::format::root::Root;
use crate::format::summary::SummaryEntry;
use crate::limits::JOURNAL_SEGMENT_BYTES;
use crate::log::JournalSegment;
use crate::log::walk::{Acceptance, walk_journal_segment};
use crate::pmem::Journal;
use crate::units::{Generation, Granule, OpNo, SegmentId};

/// Segments being read at a time.
const DEPTH: usize = 8;

/// Everything that tier 0 holds.
#[derive(Default)]
pub struct RecoveredJournal {
    /// Its segments, in order.
    pub segments: Vec<JournalSegment>,
    /// Records of accepted batches above the replay start.
    pub records: Vec<SummaryEntry>,
    /// Segments that could not be read, by those who look on ([`look_at_journal`]).
    pub unreadable: Vec<(SegmentId, Error)>,
    /// Highest accepted number.
    pub accepted: OpNo,
    /// Highest number seen anywhere.
    pub highest: OpNo,
    /// Segments in which something between accepted batches does not verify. If the map still points there after the
    /// replay, the segment was not being opened anew: then it is damage of what was acknowledged.
    pub gaps: Vec<SegmentId>,
    /// What the session of the root appended: a dead daemon's stores may be accepted and not yet durable.
    pub recent: Vec<(u64, usize)>,
}

/// Reads all segments of a journal.
///
/// # Errors
/// A read error.
pub async fn scan_journal(journal: &Journal, segment_count: u32, root: &Root) -> Result<RecoveredJournal> {
    let mut found = look_at_journal(journal, segment_count, root).await;
    match found.unreadable.pop() {
        None => Ok(found),
        Some((id, error)) => Err(error.within(format!("segment {id} of the journal"))),
    }
}

/// Reads all segments of a journal that can be read.
pub async fn look_at_journal(journal: &Journal, segment_count: u32, root: &Root) -> RecoveredJournal {
    let acceptance = Acceptance { current: root.session, earlier: &root.sessions, replay_start: root.replay_start };
    let mut found = RecoveredJournal { segments: Vec::with_capacity(segment_count as usize), ..Default::default() };
    let len = JOURNAL_SEGMENT_BYTES as usize;
    let mut bufs: Vec<AlignedBuf> = (0..DEPTH).map(|_| AlignedBuf::zeroed(len)).collect();
    let mut reading = VecDeque::with_capacity(DEPTH);
    let mut ids = (0..segment_count).map(SegmentId);
    loop {
        while let Some(buf) = bufs.pop() {
            let Some(id) = ids.next() else { break };
            reading.push_back((id, Box::pin(journal.read(journal_segment(id), buf, len))));
        }
        let Some((id, read)) = reading.pop_front() else { return found };
        let (buf, result) = read.await;
        match result {
            Ok(()) => found.take(id, &buf, root, &acceptance),
            Err(error) => {
                found.segments.push(JournalSegment::default());
                found.unreadable.push((id, error));
            }
        }
        bufs.push(buf);
    }
}

impl RecoveredJournal {
    fn take(&mut self, id: SegmentId, bytes: &[u8], root: &Root, acceptance: &Acceptance<'_>) {
        let place =
            Place { pool: root.pool, tier: Tier::Pmem, segment: id, generation: Generation(0), granule: Granule(0) };
        let walked = walk_journal_segment(bytes, &place, acceptance);
        self.highest = self.highest.max(walked.highest);
        self.accepted = self.accepted.max(walked.segment.top_op);
        self.records.extend(walked.records.into_iter().filter(|record| record.op > root.replay_start));
        if walked.session == root.session && walked.segment.end > 0 {
            self.recent.push((journal_segment(id), walked.segment.end as usize));
        }
        if walked.has_gap {
            self.gaps.push(id);
        }
        self.segments.push(walked.segment);
    }
}
