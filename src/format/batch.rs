//! A batch: what is committed at once. A 64-byte header on a block boundary, then records; valid as a whole or not.
//!
//! Each record's own check is bound to its place, but a place can be written more than once a generation: behind the last
//! accepted batch a new session overwrites what an old one left. So the header also holds the sum of its records' checks:
//! a header that verifies, and `count` records that verify, end at `length` and have that sum, are the batch that was
//! written, whole, and no mixture of two.

use xxhash_rust::xxh3::xxh3_64;

use super::cursor::{Reader, Writer};
use super::record::{Place, RECORD_HEADER_BYTES, RecordHeader, record_bytes};
use crate::error::{Error, Result};
use crate::limits::{GRANULE, SLOT_BYTES};
use crate::units::{Generation, Granule, OpNo, SessionId};

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Highest operation number: at a million a second it lasts for 290,000 years.
pub const OP_MAX: u64 = u64::MAX >> 1;
const MAGIC: u32 = u32::from_le_bytes(*b"PLCb");

/// A batch header, without its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of header and records, before padding to a block.
    pub length: u32,
    /// Records.
    pub count: u32,
    /// The session that appended it.
    pub session: SessionId,
    /// Operation number of its first record.
    pub first_op: OpNo,
    /// Operation number of its last record.
    pub last_op: OpNo,
    /// All streams were durable up to this number when it was closed.
    pub settled: OpNo,
    /// Wrapping sum of the checks of its records ([`RecordHeader::check_of`]).
    pub checks: u64,
}

/// What a walk over the records of a batch found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkedRecords {
    /// Records.
    pub count: u32,
    /// Operation number of the last record less the first of the batch.
    pub last_delta: u16,
    /// Wrapping sum of their checks.
    pub checks: u64,
}

impl BatchHeader {
    /// Header bytes at `place` (the start of the batch).
    #[must_use]
    pub fn encode(&self, place: &Place) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let mut w = Writer::new(&mut bytes);
        let short = |n: u64| u16::try_from(n).ok();
        let (Some(count), Some(span)) = (short(self.count.into()), short(self.last_op.0 - self.first_op.0)) else {
            unreachable!("a batch of {} records from {} to {}", self.count, self.first_op, self.last_op)
        };
        w.u32(MAGIC).u32(self.length).u32(place.segment.0).u32(place.generation.0).u32(place.granule.0);
        w.u16(count).u16(span).u64(self.session.0).u64(self.first_op.0).u64(self.settled.0).u64(self.checks);
        let check = Self::check(&bytes, place);
        if let Some(at) = bytes.last_chunk_mut::<8>() {
            *at = check.to_le_bytes();
        }
        bytes
    }

    fn check(bytes: &[u8; BATCH_HEADER_BYTES], place: &Place) -> u64 {
        let mut input = [0; BATCH_HEADER_BYTES - 8 + Place::BYTES];
        let mut w = Writer::new(&mut input);
        w.bytes(bytes.first_chunk::<{ BATCH_HEADER_BYTES - 8 }>().unwrap_or(&[0; BATCH_HEADER_BYTES - 8]));
        place.write(&mut w);
        xxh3_64(&input)
    }

    /// Reads and verifies a header at `place`.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when it is not a header written there.
    pub fn decode(bytes: &[u8], place: &Place) -> Result<Self> {
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(Error::corrupt("batch", "length", BATCH_HEADER_BYTES as u64, bytes.len() as u64));
        };
        let mut r = Reader::new("batch", head);
        let (magic, length) = (r.u32()?, r.u32()?);
        r.expect("magic", u64::from(MAGIC), u64::from(magic))?;
        let (segment, generation, granule) = (r.u32()?, r.u32()?, r.u32()?);
        let (count, span) = (u32::from(r.u16()?), r.u16()?);
        r.expect("segment", u64::from(place.segment.0), u64::from(segment))?;
        r.expect("generation", u64::from(place.generation.0), u64::from(generation))?;
        r.expect("granule", u64::from(place.granule.0), u64::from(granule))?;
        let session = SessionId(r.u64()?);
        let (first_op, settled, checks, check) = (OpNo(r.u64()?), OpNo(r.u64()?), r.u64()?, r.u64()?);
        r.expect("check", Self::check(head, place), check)?;
        let least = BATCH_HEADER_BYTES + count as usize * record_bytes(0);
        if count == 0 || !(least..=SLOT_BYTES).contains(&(length as usize)) || length % GRANULE != 0 {
            return Err(Error::corrupt("batch", "length", least as u64, u64::from(length)));
        }
        // every number ever given out leaves room for all that can follow: sums of numbers do not overflow
        if first_op.0 == 0 || first_op.0 > OP_MAX || u32::from(span) < count - 1 {
            return Err(Error::corrupt("batch", "numbers", u64::from(count), u64::from(span)));
        }
        let last_op = OpNo(first_op.0 + u64::from(span));
        Ok(Self { length, count, session, first_op, last_op, settled, checks })
    }

    /// The generation that a header at the start of a segment says it is of, verified or not: on tier 0 it is known from
    /// nowhere else. `None` when this is no header.
    #[must_use]
    pub fn generation_said(bytes: &[u8]) -> Option<Generation> {
        let mut r = Reader::new("batch", bytes);
        let magic = r.u32().ok()?;
        r.bytes(8).ok()?;
        (magic == MAGIC).then(|| r.u32().ok().map(Generation))?
    }

    /// Whether these are the records that the header was written for.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when they are not: nothing of the batch counts.
    pub fn matches(&self, walked: &WalkedRecords) -> Result<()> {
        let corrupt = |field, expected, got| Err(Error::corrupt("batch", field, expected, got));
        if walked.count != self.count {
            return corrupt("count", self.count.into(), walked.count.into());
        }
        if self.first_op.0 + u64::from(walked.last_delta) != self.last_op.0 {
            return corrupt("last number", self.last_op.0, self.first_op.0 + u64::from(walked.last_delta));
        }
        if walked.checks != self.checks && !crate::canary::is_off(crate::canary::Rule::Checksum) {
            return corrupt("checks", self.checks, walked.checks);
        }
        Ok(())
    }
}

/// Walks the records of `area` (which starts right behind the header, at `place`, and ends with the last record),
/// verifying each; gives each record with its place and payload to `each`. What `each` was given counts only when the
/// walk ended well and its result matches the header ([`BatchHeader::matches`]).
///
/// # Errors
/// [`crate::error::ErrorKind::Corrupt`] for the first record that does not verify or goes back in numbers; then nothing
/// of the batch counts.
pub fn walk_records(
    area: &[u8],
    place: &Place,
    mut each: impl FnMut(&RecordHeader, &Place, &[u8]) -> Result<()>,
) -> Result<WalkedRecords> {
    let (mut at, mut walked) = (0_usize, WalkedRecords::default());
    while at < area.len() {
        let rest = area.get(at..).unwrap_or_default();
        let (header, check) = RecordHeader::decode(rest)?;
        let bytes = header.record_bytes();
        let end = RECORD_HEADER_BYTES + usize::from(header.stored);
        let Some(payload) = rest.get(RECORD_HEADER_BYTES..end).filter(|_| bytes <= rest.len()) else {
            return Err(Error::corrupt("record", "length", rest.len() as u64, bytes as u64));
        };
        let granules = u32::try_from(at / GRANULE as usize).unwrap_or(u32::MAX);
        let here = place.at(Granule(place.granule.0 + granules));
        header.verify(check, xxh3_64(payload), &here)?;
        let ascending = if walked.count == 0 { header.op_delta == 0 } else { header.op_delta > walked.last_delta };
        if !ascending {
            return Err(Error::corrupt("record", "number", walked.last_delta.into(), header.op_delta.into()));
        }
        each(&header, &here, payload)?;
        at += bytes;
        walked.count += 1;
        walked.last_delta = header.op_delta;
        walked.checks = walked.checks.wrapping_add(check);
    }
    Ok(walked)
}
