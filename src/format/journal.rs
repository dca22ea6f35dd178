//! The header of a journal, the medium of tier 0: whose it is, and which serve used it last.
//!
//! ```text
//!   0       header slot 0
//!   4 KiB   header slot 1           the valid one with the higher sequence counts
//!   256 KiB segment 0, 1, …         256 KiB each, without summaries
//! ```

use super::cursor::{Reader, Writer, exact_length, open_checksum, seal_checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{JOURNAL_SEGMENT_BYTES, JOURNAL_SEGMENTS_MIN, SEGMENTS_MAX};
use crate::units::{JournalId, PoolId, SegmentId, SessionId};

/// Bytes of a header slot.
pub const JOURNAL_HEADER_BYTES: usize = 4096;
/// Header slots, used in turn.
pub const JOURNAL_HEADERS: u64 = 2;
/// Bytes before the segments.
pub const JOURNAL_FRONT_BYTES: u64 = 256 << 10;
/// What a journal begins with.
pub const MAGIC: [u8; 8] = *b"PLCjrnl\0";
const VERSION: u32 = 1;

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// Whose it is.
    pub pool: PoolId,
    /// Identity.
    pub id: JournalId,
    /// Counts rewrites.
    pub sequence: u64,
    /// Segments of [`JOURNAL_SEGMENT_BYTES`].
    pub segment_count: u32,
    /// The session that appends to it, or did last.
    pub session: SessionId,
    /// The session before: its root counts until that of `session` is durable.
    pub previous: SessionId,
}

impl JournalHeader {
    /// The bytes of a slot.
    #[must_use]
    pub fn encode(&self) -> [u8; JOURNAL_HEADER_BYTES] {
        let mut bytes = [0; JOURNAL_HEADER_BYTES];
        let mut w = Writer::new(&mut bytes);
        w.bytes(&MAGIC).u32(VERSION).u32(JOURNAL_SEGMENT_BYTES).bytes(&self.pool.0).bytes(&self.id.0);
        w.u64(self.sequence).u64(self.session.0).u64(self.previous.0).u32(self.segment_count);
        seal_checksum(&mut bytes);
        bytes
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when these bytes are no header at all, [`ErrorKind::Version`] for another version,
    /// [`ErrorKind::Corrupt`] for a damaged one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        exact_length("journal header", bytes, JOURNAL_HEADER_BYTES)?;
        let mut r = Reader::new("journal header", bytes);
        if r.array::<8>()? != MAGIC {
            return Err(Error::new(ErrorKind::NotFound, "no header of a journal here"));
        }
        let version = r.u32()?;
        let mut r = Reader::new("journal header", open_checksum("journal header", bytes)?);
        if version != VERSION {
            let text = format!("the journal has format version {version}; this plica reads version {VERSION}");
            return Err(Error::new(ErrorKind::Version, text));
        }
        r.bytes(MAGIC.len() + 4)?;
        let segment_bytes = r.u32()?;
        r.expect("segment bytes", JOURNAL_SEGMENT_BYTES.into(), segment_bytes.into())?;
        let header = Self {
            pool: PoolId(r.array()?),
            id: JournalId(r.array()?),
            sequence: r.u64()?,
            session: SessionId(r.u64()?),
            previous: SessionId(r.u64()?),
            segment_count: r.u32()?,
        };
        r.finish()?;
        if !(JOURNAL_SEGMENTS_MIN..=SEGMENTS_MAX).contains(&header.segment_count) {
            return Err(Error::corrupt(
                "journal header",
                "segment count",
                JOURNAL_SEGMENTS_MIN.into(),
                header.segment_count.into(),
            ));
        }
        if header.id == JournalId::default() {
            return Err(Error::corrupt("journal header", "journal", 1, 0));
        }
        Ok(header)
    }

    /// Where the header with this sequence goes.
    #[must_use]
    pub fn offset(sequence: u64) -> u64 {
        sequence % JOURNAL_HEADERS * JOURNAL_HEADER_BYTES as u64
    }

    /// Segments that fit a journal of so many bytes.
    #[must_use]
    pub fn segments_in(bytes: u64) -> u32 {
        let count = bytes.saturating_sub(JOURNAL_FRONT_BYTES) / u64::from(JOURNAL_SEGMENT_BYTES);
        u32::try_from(count).unwrap_or(u32::MAX).min(SEGMENTS_MAX)
    }

    /// Bytes of a journal with so many segments.
    #[must_use]
    pub fn bytes_of(segment_count: u32) -> u64 {
        JOURNAL_FRONT_BYTES + u64::from(segment_count) * u64::from(JOURNAL_SEGMENT_BYTES)
    }
}

/// Byte offset of a segment of tier 0 in its journal.
#[must_use]
pub fn journal_segment(segment: SegmentId) -> u64 {
    JOURNAL_FRONT_BYTES + u64::from(segment.0) * u64::from(JOURNAL_SEGMENT_BYTES)
}
