//! A batch: what is committed at once. A 64-byte header on a block boundary, then records; valid as a whole or not.
//!
//! Each record's own check is bound to its place, and a place is written once a generation; so a header that verifies
//! and `count` records that verify and end at `length` are the batch that was written, whole.

use xxhash_rust::xxh3::xxh3_64;

use super::cursor::{Reader, Writer};
use super::record::{Place, RECORD_HEADER_BYTES, RecordHeader};
use crate::error::{Error, Result};
use crate::limits::{GRANULE, SLOT_BYTES};
use crate::units::{Granule, OpNo, SessionId};

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 64;
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
}

impl BatchHeader {
    /// Header bytes at `place` (the start of the batch).
    #[must_use]
    pub fn encode(&self, place: &Place) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let mut w = Writer::new(&mut bytes);
        w.u32(MAGIC).u32(self.length).u32(place.segment.0).u32(place.generation.0).u32(place.granule.0).u32(self.count);
        w.u64(self.session.0).u64(self.first_op.0).u64(self.last_op.0).u64(self.settled.0);
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
        let (segment, generation, granule, count) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        r.expect("segment", u64::from(place.segment.0), u64::from(segment))?;
        r.expect("generation", u64::from(place.generation.0), u64::from(generation))?;
        r.expect("granule", u64::from(place.granule.0), u64::from(granule))?;
        let session = SessionId(r.u64()?);
        let (first_op, last_op, settled) = (OpNo(r.u64()?), OpNo(r.u64()?), OpNo(r.u64()?));
        let check = r.u64()?;
        r.expect("check", Self::check(head, place), check)?;
        let bytes_max = SLOT_BYTES as u64;
        if count == 0 || last_op < first_op || u64::from(length) > bytes_max || length % GRANULE != 0 {
            return Err(Error::corrupt("batch", "bounds", bytes_max, u64::from(length)));
        }
        Ok(Self { length, count, session, first_op, last_op, settled })
    }
}

/// Walks the records of `area` (which starts right behind the header, at `place`), verifying each. Ends after `length`
/// bytes of `area`; gives each record with its place and payload to `each`.
///
/// # Errors
/// [`crate::error::ErrorKind::Corrupt`] for the first record that does not verify; then nothing of the batch counts.
pub fn walk_records(
    area: &[u8],
    place: &Place,
    mut each: impl FnMut(&RecordHeader, &Place, &[u8]) -> Result<()>,
) -> Result<u32> {
    let (mut at, mut count) = (0_usize, 0);
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
        each(&header, &here, payload)?;
        at += bytes;
        count += 1;
    }
    Ok(count)
}
