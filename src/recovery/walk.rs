//! Walking a segment that has no trusted summary: batch after batch, every record verified (rule 6.1). Pure.

use crate::canary::{self, Rule};
use crate::error::Result;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader, walk_records};
use crate::format::record::Place;
use crate::format::root::WindowSession;
use crate::format::summary::SummaryEntry;
use crate::limits::{BLOCK_SIZE, GRANULE};
use crate::log::summary_entry;
use crate::units::{Granule, OpNo, SessionId};

/// Which batches count.
pub struct Acceptance<'a> {
    /// Listed sessions, oldest first, the root's current one last (with no bound).
    pub sessions: &'a [WindowSession],
    /// Records at or below are in leaf images: a batch that ends there is passed over whoever wrote it.
    pub replay_start: OpNo,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    /// Records of accepted batches, in order.
    pub records: Vec<SummaryEntry>,
    /// Byte behind the last accepted or passed batch: where appending may go on.
    pub end: u32,
    /// Highest number of each session accepted here.
    pub accepted: Vec<(SessionId, OpNo)>,
    /// What headers of each session called settled.
    pub settled: Vec<(SessionId, OpNo)>,
    /// Highest number in any header that verifies, accepted or not: new ones start above.
    pub highest: OpNo,
    /// The walk ended at a batch that is bad, though numbers up to this one of this session lie in it or before
    /// something accepted behind it: damage, if they were settled.
    pub bad_below: Option<(SessionId, OpNo)>,
}

impl Acceptance<'_> {
    /// Position of a session in the list, if the batch may count.
    fn rank(&self, header: &BatchHeader) -> Option<usize> {
        if canary::is_off(Rule::SessionListed) {
            return Some(self.sessions.len());
        }
        let rank = self.sessions.iter().position(|s| s.session == header.session)?;
        self.sessions.get(rank).filter(|s| header.last_op <= s.last_accepted).map(|_| rank)
    }
}

/// Walks the bytes of a whole segment at `place` (granule 0).
#[must_use]
pub fn walk_segment(bytes: &[u8], place: &Place, acceptance: &Acceptance<'_>) -> Walked {
    let mut walked = Walked::default();
    let mut rank_before = 0;
    while let Some(rest) = bytes.get(walked.end as usize..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES) {
        let here = place.at(Granule(walked.end / GRANULE));
        let Ok(header) = BatchHeader::decode(rest, &here) else { break };
        walked.highest = walked.highest.max(header.last_op);
        let passed = header.last_op <= acceptance.replay_start;
        match acceptance.rank(&header) {
            // sessions never go back within a segment
            Some(rank) if rank >= rank_before => rank_before = rank,
            _ if passed => {}
            _ => return walked,
        }
        let Ok(records) = batch_records(rest, &header, &here) else {
            note_bad(&mut walked, bytes, place, acceptance, Some(header));
            return walked;
        };
        walked.settled.push((header.session, header.settled));
        if !passed {
            walked.accepted.push((header.session, header.last_op));
        }
        walked.records.extend(records);
        walked.end += header.length.next_multiple_of(BLOCK_SIZE);
    }
    note_bad(&mut walked, bytes, place, acceptance, None);
    walked
}

/// The records of a batch whose header verified: all of them, or the batch is bad.
fn batch_records(rest: &[u8], header: &BatchHeader, place: &Place) -> Result<Vec<SummaryEntry>> {
    let area = rest.get(BATCH_HEADER_BYTES..header.length as usize).unwrap_or_default();
    let at = place.at(Granule(place.granule.0 + granules(BATCH_HEADER_BYTES)));
    let mut records = Vec::with_capacity(header.count as usize);
    let walked = walk_records(area, &at, |record, place, _| {
        let op = OpNo(header.first_op.0 + u64::from(record.op_delta));
        records.push(summary_entry(record, place, op));
        Ok(())
    })?;
    header.matches(&walked)?;
    Ok(records)
}

/// Looks behind the point where a walk ended: a batch that would be accepted there shows that what lies before it was
/// written once, so that the bad batch can be told from the end of the log.
fn note_bad(walked: &mut Walked, bytes: &[u8], place: &Place, acceptance: &Acceptance<'_>, bad: Option<BatchHeader>) {
    if let Some(header) = bad {
        walked.bad_below = Some((header.session, header.last_op));
    }
    let mut at = walked.end + BLOCK_SIZE;
    while let Some(rest) = bytes.get(at as usize..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES) {
        if let Ok(header) = BatchHeader::decode(rest, &place.at(Granule(at / GRANULE))) {
            walked.highest = walked.highest.max(header.last_op);
            if acceptance.rank(&header).is_some() {
                walked.settled.push((header.session, header.settled));
                let below = OpNo(header.first_op.0 - 1);
                if walked.bad_below.is_none_or(|(_, op)| op < below) {
                    walked.bad_below = Some((header.session, below));
                }
            }
        }
        at += BLOCK_SIZE;
    }
}

fn granules(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX) / GRANULE
}
