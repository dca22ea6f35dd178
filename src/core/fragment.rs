//! Records fetched back: from staged memory or with one device read, and verified before anything is made of them (I5).

use super::Core;
use crate::buf::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::journal::journal_segment;
use crate::format::record::{RECORD_HEADER_BYTES, RecordHeader};
use crate::format::{Entry, Location, Tier};
use crate::limits::{BLOCK_BYTES, GRANULE};
use crate::media::Reading;
use crate::units::{Lba, NamespaceId, SegmentId};

/// A record in a buffer.
pub(super) struct Fetched {
    /// The buffer; goes back to the pool.
    pub buf: AlignedBuf,
    /// Where the record starts in it.
    pub at: usize,
    /// The header, verified together with the payload.
    pub header: RecordHeader,
}

impl Fetched {
    /// Where the payload is in the buffer.
    pub(super) fn payload(&self) -> std::ops::Range<usize> {
        let start = self.at + RECORD_HEADER_BYTES;
        start..start + usize::from(self.header.stored)
    }
}

/// A record on its way: copied from staged memory, or being read.
pub(super) enum Fetch {
    /// In the buffer already, from this offset on.
    Staged(AlignedBuf, usize),
    /// A device read under way; the record starts at this offset of its buffer.
    Reading(Reading, usize),
}

impl Core {
    /// Starts fetching the record at `location` into `buf`. The caller has pinned its segment.
    pub(super) fn start_fetch(&self, location: &Location, mut buf: AlignedBuf) -> Fetch {
        let state = self.state.borrow();
        if let Some((batch, offset)) = state.log.batches.staged(location.tier(), location.segment, location.granule) {
            let len = (batch.length - offset).min(buf.len());
            state.log.memories.load(batch.memory, offset, &mut buf[..len]);
            return Fetch::Staged(buf, 0);
        }
        drop(state);
        let tier0 = if location.tier() == Tier::Pmem { self.tier0() } else { None };
        let (segment, block) = match &tier0 {
            Some(_) => (journal_segment(location.segment), BLOCK_BYTES as u64),
            _ => (self.layout.segment(location.segment), u64::from(self.media.block())),
        };
        let start = segment + u64::from(location.granule.0 * GRANULE);
        let sector = start & !511;
        let end = (sector + u64::from(location.sectors) * 512).next_multiple_of(block);
        let aligned = start & !(block - 1);
        let len = usize::try_from(end - aligned).unwrap_or(usize::MAX).min(buf.len());
        let at = usize::try_from(start - aligned).unwrap_or(0);
        match &tier0 {
            Some(tier0) => match tier0.journal.start_read(aligned, buf, len) {
                Ok(reading) => Fetch::Reading(reading, at),
                Err(buf) => Fetch::Staged(buf, at),
            },
            _ => Fetch::Reading(self.media.read(aligned, buf, len), at),
        }
    }

    /// Waits for a fetch and verifies the record against its place. The buffer comes back in any case.
    pub(super) async fn finish_fetch(
        &self,
        fetch: Fetch,
        location: &Location,
    ) -> (Result<RecordHeader>, AlignedBuf, usize) {
        let (buf, at) = match fetch {
            Fetch::Staged(buf, at) => (buf, at),
            Fetch::Reading(read, at) => match read.await {
                (buf, Ok(())) => (buf, at),
                (buf, Err(error)) => return (Err(error), buf, at),
            },
        };
        let header = self.verify_record(&buf[at..], location);
        (header, buf, at)
    }

    fn verify_record(&self, bytes: &[u8], location: &Location) -> Result<RecordHeader> {
        let place = self.state.borrow().log.place(location.tier(), location.segment, location.granule);
        RecordHeader::decode_whole(bytes, &place).map(|(header, _)| header)
    }

    /// Counts and logs a fragment that could not be had, and makes the error for its LBAs.
    pub(super) fn lost_fragment(&self, id: NamespaceId, lba: Lba, entry: Entry, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Corrupt => self.stats.corrupt.add(1),
            ErrorKind::Io => self.stats.read_errors.add(1),
            _ => {}
        }
        tracing::error!("namespace {id}, LBA {lba}: the block at {entry:?} cannot be read: {error}");
        error.within(format!("namespace {id}, LBA {lba}"))
    }

    /// Keeps a segment from being reused while it is read.
    pub(super) fn pin(&self, tier: Tier, segment: SegmentId) {
        self.state.borrow_mut().log.table_mut(tier).get_mut(segment).pins += 1;
    }

    /// Lets go of a segment.
    pub(super) fn unpin(&self, tier: Tier, segment: SegmentId) {
        let mut state = self.state.borrow_mut();
        let info = state.log.table_mut(tier).get_mut(segment);
        debug_assert!(info.pins > 0, "segment {segment} is not pinned");
        info.pins -= 1;
    }
}
