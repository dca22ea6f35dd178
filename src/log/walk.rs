//! Walking a segment that has no trusted summary: batch after batch, every record verified (FORMAT.md, recovery 4). Pure.

use super::{JournalSegment, summary_entry};
use crate::canary::{self, Rule};
use crate::error::{Error, Result};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader, walk_records};
use crate::format::record::{Place, RecordHeader};
use crate::format::root::WindowSession;
use crate::format::summary::SummaryEntry;
use crate::limits::{BLOCK_SIZE, GRANULE};
use crate::units::{Granule, OpNo, SessionId};

/// Which batches count.
pub struct Acceptance<'a> {
    /// The root's session: what it appended behind the ends counts.
    pub current: SessionId,
    /// Earlier sessions, each with the number above which nothing of it was accepted.
    pub earlier: &'a [WindowSession],
    /// Records at or below are in leaf images.
    pub replay_start: OpNo,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    /// Records of accepted batches, in order.
    pub records: Vec<SummaryEntry>,
    /// Byte behind the last accepted batch: where appending may go on.
    pub end: u32,
    /// Highest number accepted.
    pub highest_accepted: OpNo,
    /// What accepted headers of the current session called settled.
    pub settled: OpNo,
    /// Highest number in any header that verifies, accepted or not: new ones start above.
    pub highest: OpNo,
    /// Why what was durable when the root was made does not count.
    pub damage: Option<Error>,
    /// Numbers up to this one lie in or behind a bad batch behind the end: damage, if they were settled.
    pub bad_below: Option<OpNo>,
}

impl Acceptance<'_> {
    /// Whether a batch that was there when the root was made is one that it counted.
    fn counted(&self, header: &BatchHeader) -> bool {
        let listed = |s: &WindowSession| s.session == header.session && header.last_op <= s.last_accepted;
        header.session == self.current || header.last_op <= self.replay_start || self.earlier.iter().any(listed)
    }
}

/// Walks the bytes of a whole segment at `place` (granule 0), of which the root says that batches ended at `end`.
#[must_use]
pub fn walk_segment(bytes: &[u8], place: &Place, end: u32, acceptance: &Acceptance<'_>) -> Walked {
    let mut walked = Walked::default();
    // before the end all was durable: whatever does not count is damage
    while walked.end < end {
        let step = batch_at(bytes, place, walked.end, &mut walked.highest).and_then(|(header, records)| {
            if acceptance.counted(&header) {
                Ok((header, records))
            } else {
                Err(Error::corrupt("batch", "session", acceptance.current.0, header.session.0))
            }
        });
        match step {
            Ok((header, records)) => accept(&mut walked, acceptance, &header, records),
            Err(error) => {
                walked.damage = Some(error);
                return walked;
            }
        }
    }
    // behind it the root's own session may have appended; the first batch that does not count ends the log
    loop {
        match batch_at(bytes, place, walked.end, &mut walked.highest) {
            Ok((header, records)) if header.session == acceptance.current || canary::is_off(Rule::SessionListed) => {
                accept(&mut walked, acceptance, &header, records);
            }
            Ok(_) | Err(_) => break,
        }
    }
    look_behind(&mut walked, bytes, place, acceptance);
    walked
}

/// Every record that can be found in the bytes of a whole segment at `place` (granule 0), whether or not it verifies and
/// recovery would accept it: for those who look, not for recovery. A batch whose header does not verify hides its records.
#[must_use]
pub fn walk_all(bytes: &[u8], place: &Place) -> Vec<SummaryEntry> {
    let (mut at, mut all) = (0, Vec::new());
    while let Some(rest) = bytes.get(at as usize..).filter(|rest| !rest.is_empty()) {
        let here = place.at(Granule(at / GRANULE));
        let Ok(header) = BatchHeader::decode(rest, &here) else {
            at += BLOCK_SIZE;
            continue;
        };
        let mut within = BATCH_HEADER_BYTES;
        while let Some(record) = rest.get(within..header.length as usize).filter(|record| !record.is_empty()) {
            let Ok((record, _)) = RecordHeader::decode(record) else { break };
            let op = OpNo(header.first_op.0 + u64::from(record.op_delta));
            all.push(summary_entry(&record, &here.at(Granule(here.granule.0 + granules(within))), op));
            within += record.record_bytes();
        }
        at += header.length.next_multiple_of(BLOCK_SIZE);
    }
    all
}

/// What a walk over a segment of tier 0 found.
#[derive(Debug, Default)]
pub struct JournalWalked {
    /// The segment, as the log takes it.
    pub segment: JournalSegment,
    /// Records of accepted batches, in order.
    pub records: Vec<SummaryEntry>,
    /// The session that appended it.
    pub session: SessionId,
    /// Highest number in any header that verifies.
    pub highest: OpNo,
    /// Something between accepted batches does not verify: damage, unless the segment was being opened anew.
    pub has_gap: bool,
}

/// Walks the bytes of a whole segment of tier 0. `place` is its start; the generation is that of its first batch.
///
/// One batch was persisted at a time, so what is behind one that was torn is of an older life of the segment, in which
/// all was superseded when it was opened anew: to accept it does no harm.
#[must_use]
pub fn walk_journal_segment(bytes: &[u8], place: &Place, acceptance: &Acceptance<'_>) -> JournalWalked {
    let mut found = JournalWalked::default();
    let Some(generation) = BatchHeader::generation_said(bytes) else { return found };
    let place = Place { generation, ..*place };
    let Ok(first) = BatchHeader::decode(bytes, &place) else { return found };
    (found.segment.generation, found.session) = (generation, first.session);
    let mut at = 0;
    while (at as usize) < bytes.len() {
        match batch_at(bytes, &place, at, &mut found.highest) {
            Ok((header, records)) if header.session == first.session && acceptance.counted(&header) => {
                found.has_gap |= at > found.segment.end;
                at += header.length.next_multiple_of(BLOCK_SIZE);
                (found.segment.end, found.segment.top_op) = (at, header.last_op);
                found.records.extend(records);
            }
            Ok(_) | Err(_) => at += BLOCK_SIZE,
        }
    }
    found
}

fn accept(walked: &mut Walked, acceptance: &Acceptance<'_>, header: &BatchHeader, records: Vec<SummaryEntry>) {
    walked.highest_accepted = walked.highest_accepted.max(header.last_op);
    if header.session == acceptance.current {
        walked.settled = walked.settled.max(header.settled);
    }
    walked.records.extend(records);
    walked.end += header.length.next_multiple_of(BLOCK_SIZE);
}

/// The batch at this byte: its header and all its records, or it is none.
fn batch_at(bytes: &[u8], place: &Place, at: u32, highest: &mut OpNo) -> Result<(BatchHeader, Vec<SummaryEntry>)> {
    let rest = bytes.get(at as usize..).unwrap_or_default();
    let here = place.at(Granule(at / GRANULE));
    let header = BatchHeader::decode(rest, &here)?;
    *highest = (*highest).max(header.last_op);
    let Some(area) = rest.get(BATCH_HEADER_BYTES..header.length as usize) else {
        return Err(Error::corrupt("batch", "length", rest.len() as u64, u64::from(header.length)));
    };
    let first = place.at(Granule(here.granule.0 + granules(BATCH_HEADER_BYTES)));
    let mut records = Vec::with_capacity(header.count as usize);
    let found = walk_records(area, &first, |record, place, _| {
        let op = OpNo(header.first_op.0 + u64::from(record.op_delta));
        records.push(summary_entry(record, place, op));
        Ok(())
    })?;
    header.matches(&found)?;
    Ok((header, records))
}

/// Looks behind the point where a walk ended: a header of the current session there shows that numbers before its first
/// were written before it, so that a damaged batch can be told from the end of the log.
fn look_behind(walked: &mut Walked, bytes: &[u8], place: &Place, acceptance: &Acceptance<'_>) {
    let mut at = walked.end;
    while let Some(rest) = bytes.get(at as usize..).filter(|rest| rest.len() >= BATCH_HEADER_BYTES) {
        if let Ok(header) = BatchHeader::decode(rest, &place.at(Granule(at / GRANULE))) {
            walked.highest = walked.highest.max(header.last_op);
            if header.session == acceptance.current {
                walked.settled = walked.settled.max(header.settled);
                // the bad batch's own header tells its numbers; a later one tells those before it
                let below = if at == walked.end { header.last_op } else { OpNo(header.first_op.0 - 1) };
                walked.bad_below = walked.bad_below.max(Some(below));
            }
        }
        at += BLOCK_SIZE;
    }
}

fn granules(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX) / GRANULE
}
