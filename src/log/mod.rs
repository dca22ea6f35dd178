//! The log: records appended to batches, batches written to segments.
//!
//! ```text
//!   append ─► open batch (a staging slot, or memory) ─► closed ─► written ─► durable
//!                 └─ segment: free ─► announced ─► open ─► sealed ─► (emptied) ─► free
//! ```
//!
//! Each tier has segments of its own; numbers are of all. A batch of tier 0 is durable when its write ends, and its
//! segments need no announcement: recovery looks at all of them.
//!
//! Everything here is synchronous state, changed in await-free steps by the core (I12); the core does the I/O.
//!
//! **Invariants.** Operation numbers are consecutive over all streams. A batch's blocks are never changed after it is
//! closed; while it is open, what is dead in it may be left out of a copy that takes its place (`absorb`). A segment becomes free only under rule 6.3 ([`segments::SegmentTable::reusable`], I2).
//!
//! **Failure.** Nothing here fails but for want of space, which the core turns into waiting or `ENOSPC`.
//!
//! **Not here:** payloads' meaning, keys, the map.

mod absorb;
mod batches;
mod memory;
pub mod segments;
mod stream;
pub mod walk;

use absorb::Finding;
pub use absorb::is_superseded;
pub use batches::{Batch, BatchId, BatchState, Batches};
pub use memory::{BatchMemory, Memories};
pub use segments::{JournalSegment, SegmentInfo, SegmentState, SegmentTable};
pub use stream::{OpenSegment, Stream, StreamKind, Streams};

use crate::canary::{self, Rule};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::format::record::{Place, RECORD_HEADER_BYTES, RecordBody, RecordHeader, sectors_of};
use crate::format::slot::Prelude;
use crate::format::summary::{Change, SUMMARY_SPAN_MAX, SummaryEntry};
use crate::format::{Codec, Entry, Location, State, Tier};
use crate::limits::{BLOCK_SIZE, GRANULE, JOURNAL_SEGMENT_BYTES, SLOT_BYTES};
use crate::staging::Region;
use crate::units::{Granule, OpNo, PoolId, SegmentId, SessionId};

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its operation number.
    pub op: OpNo,
    /// Its segment.
    pub segment: SegmentId,
    /// The map entry of its first block (fragments), or its location (leaves and images).
    pub entry: Entry,
}

/// The log, as far as memory knows it.
pub struct Log {
    /// The pool.
    pub pool: PoolId,
    /// This daemon's tenure.
    pub session: SessionId,
    /// Bytes of a segment of tier 1.
    pub segment_bytes: u32,
    /// The number that the next record gets.
    pub next_op: OpNo,
    /// All segments of tier 1.
    pub segments: SegmentTable,
    /// All segments of tier 0; none without a journal.
    pub journal: SegmentTable,
    /// Batches that are not yet durable.
    pub batches: Batches,
    /// Where batches are until they are written.
    pub memories: Memories,
    /// Open batches that were compacted, ever: what an entry of the map pointed to may be elsewhere.
    pub compactions: u64,
    streams: [Stream; StreamKind::COUNT],
}

impl Log {
    /// A log that continues after `last_op`.
    #[must_use]
    pub fn new(
        pool: PoolId,
        session: SessionId,
        segment_bytes: u32,
        last_op: OpNo,
        segments: SegmentTable,
        journal: SegmentTable,
        region: Region,
    ) -> Self {
        let memories = Memories::new(region);
        let batches = Batches::default();
        let mut streams: [Stream; StreamKind::COUNT] = Default::default();
        StreamKind::STAGED.iter().for_each(|kind| streams[*kind as usize].finding = Finding::with_room());
        let next_op = last_op.next();
        Self { pool, session, segment_bytes, next_op, segments, journal, batches, memories, compactions: 0, streams }
    }

    /// The last number given out.
    #[must_use]
    pub fn last_op(&self) -> OpNo {
        OpNo(self.next_op.0 - 1)
    }

    /// All streams are durable up to this number.
    #[must_use]
    pub fn settled(&self) -> OpNo {
        self.batches.first_unsettled().map_or(self.last_op(), |op| OpNo(op.0 - 1))
    }

    /// A stream.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> &Stream {
        &self.streams[kind as usize]
    }

    /// A stream, to be changed.
    pub fn stream_mut(&mut self, kind: StreamKind) -> &mut Stream {
        &mut self.streams[kind as usize]
    }

    /// The segments of a tier.
    #[must_use]
    pub fn table(&self, tier: Tier) -> &SegmentTable {
        if tier == Tier::Pmem { &self.journal } else { &self.segments }
    }

    /// The segments of a tier, to be changed.
    pub fn table_mut(&mut self, tier: Tier) -> &mut SegmentTable {
        if tier == Tier::Pmem { &mut self.journal } else { &mut self.segments }
    }

    /// Whether an entry points into a segment that there is, or nowhere.
    #[must_use]
    pub fn contains(&self, entry: Entry) -> bool {
        entry.place().is_none_or(|(tier, segment)| tier != Tier::Object && self.table(tier).contains(segment))
    }

    /// An entry of the map points somewhere from now on.
    pub fn add_live(&mut self, entry: Entry) {
        if let Some((tier, segment)) = entry.place() {
            self.table_mut(tier).add_live(segment);
        }
    }

    /// An entry of the map no longer points there, by operation `op`.
    pub fn drop_live(&mut self, entry: Entry, op: OpNo) {
        if let Some((tier, segment)) = entry.place() {
            self.table_mut(tier).drop_live(segment, op);
        }
    }

    /// A place in a segment of this log.
    #[must_use]
    pub fn place(&self, tier: Tier, segment: SegmentId, granule: Granule) -> Place {
        let generation = self.table(tier).get(segment).generation;
        Place { pool: self.pool, tier, segment, generation, granule }
    }

    /// Whether `records` more records that end at byte `end` leave the segment room for what else belongs into it.
    fn fits(&self, kind: StreamKind, open: &OpenSegment, end: usize, records: usize) -> bool {
        match kind.tier() {
            // no summary
            Tier::Pmem => end <= JOURNAL_SEGMENT_BYTES as usize,
            Tier::Ssd | Tier::Object => self.spans(open, records) && open.fits(self.segment_bytes, end, records),
        }
    }

    /// Whether the open batch of the stream takes `records` more records of `bytes` in all.
    #[must_use]
    pub fn has_room(&self, kind: StreamKind, bytes: usize, records: usize) -> bool {
        let stream = self.stream(kind);
        let (Some(id), Some(open)) = (stream.batch, &stream.segment) else { return false };
        let batch = self.batches.get(id);
        let deltas = self.next_op.0 + records as u64 - batch.first_op.map_or(self.next_op.0, |op| op.0);
        batch.length + bytes <= SLOT_BYTES
            && deltas <= u64::from(u16::MAX)
            && self.fits(kind, open, open.at as usize + batch.length + bytes, records)
    }

    /// Whether the stream's segment has room for a new batch with `records` records of `bytes` in all.
    #[must_use]
    pub fn segment_has_room(&self, kind: StreamKind, bytes: usize, records: usize) -> bool {
        let open = self.stream(kind).segment.as_ref();
        open.is_some_and(|open| {
            let end = open.at as usize + BATCH_HEADER_BYTES + bytes;
            self.fits(kind, open, end, records)
        })
    }

    /// Whether the numbers of a segment's records stay within what its summary can tell.
    fn spans(&self, open: &OpenSegment, records: usize) -> bool {
        let first = open.summary.first().map_or(self.next_op, |entry| entry.op);
        self.next_op.0 + records as u64 - first.0 <= SUMMARY_SPAN_MAX
    }

    /// Opens a batch in the stream's open segment.
    pub fn open_batch(&mut self, kind: StreamKind, memory: BatchMemory, now_ns: u64) {
        let Some(open) = &self.stream(kind).segment else { unreachable!("a batch is opened in an open segment") };
        let place = self.place(kind.tier(), open.id, Granule(open.at / GRANULE));
        let id = self.batches.insert(kind, place, memory, now_ns);
        let stream = self.stream_mut(kind);
        stream.batch = Some(id);
        stream.finding.hashes.clear();
    }

    /// Appends a record to the stream's open batch, which has room for it ([`Log::has_room`]). Await-free; the caller
    /// changes the map in the same step (I12). `hash` is the hash of `payload`; the header's `op_delta` is set here.
    pub fn append(&mut self, kind: StreamKind, mut header: RecordHeader, payload: &[u8], hash: u64) -> Appended {
        let Some(id) = self.stream(kind).batch else { unreachable!("room was made before the append") };
        let op = self.next_op;
        self.next_op = op.next();
        let batch = self.batches.get_mut(id);
        let first_op = *batch.first_op.get_or_insert(op);
        header.op_delta = u16::try_from(op.0 - first_op.0).expect("has_room bounds the delta");
        header.stored = u16::try_from(payload.len()).expect("payloads are bounded");
        let place =
            batch.place.at(Granule(batch.place.granule.0 + u32::try_from(batch.length).expect("< 512 KiB") / GRANULE));
        let encoded = header.encode(hash, &place);
        let at = batch.length;
        if batch.count == 0 {
            let prelude = Prelude {
                segment: batch.place.segment,
                generation: batch.place.generation,
                granule: batch.place.granule,
                first_op,
            };
            self.memories.store_prelude(batch.memory, &prelude.encode(&batch.place, self.session));
        }
        let end = at + header.record_bytes();
        self.memories.store(batch.memory, at, &encoded);
        self.memories.store(batch.memory, at + RECORD_HEADER_BYTES, payload);
        self.memories.zero(batch.memory, at + RECORD_HEADER_BYTES + payload.len(), end);
        batch.length = end;
        batch.checks = batch.checks.wrapping_add(RecordHeader::check_of(&encoded));
        batch.count += 1;
        batch.payload += payload.len();
        batch.blocks += blocks_of(&header);
        batch.last_op = op;
        if StreamKind::STAGED.contains(&kind) {
            self.streams[kind as usize].finding.hashes.push(hash);
        }
        let appended = Appended { op, segment: place.segment, entry: entry_of(&header, &place) };
        self.note(kind, &header, &place, appended);
        appended
    }

    /// Keeps what the summary and rule 6.3 need of a record.
    fn note(&mut self, kind: StreamKind, header: &RecordHeader, place: &Place, appended: Appended) {
        let bytes = u32::try_from(header.record_bytes()).expect("< 512 KiB");
        let table = self.table_mut(place.tier);
        table.fill(place.segment, blocks_of(header), bytes);
        let info = table.get_mut(place.segment);
        info.top_op = appended.op;
        if matches!(header.body, RecordBody::Clear { .. }) {
            info.clear_op = appended.op;
        }
        if let Some(open) = &mut self.stream_mut(kind).segment
            && place.tier == Tier::Ssd
        {
            open.summary.push(summary_entry(header, place, appended.op));
        }
    }

    /// Makes what was appended visible to whoever adopts the slot: before the acknowledgement.
    pub fn publish(&mut self, kind: StreamKind) {
        if let Some(id) = self.stream(kind).batch {
            let batch = self.batches.get(id);
            if !canary::is_off(Rule::PublishBeforeAcknowledge) {
                self.memories.publish(batch.memory, batch.length);
            }
        }
    }

    /// Closes the stream's open batch: header, padding, nothing changes in it from here on. Returns it, if there was one
    /// with records in it.
    pub fn close_batch(&mut self, kind: StreamKind) -> Option<BatchId> {
        let id = self.stream(kind).batch?;
        let settled = self.settled();
        let batch = self.batches.get_mut(id);
        let first_op = batch.first_op?;
        let length = u32::try_from(batch.length).expect("< 512 KiB");
        let header = BatchHeader {
            length,
            count: batch.count,
            session: self.session,
            first_op,
            last_op: batch.last_op,
            settled,
            checks: batch.checks,
        };
        let padded = length.next_multiple_of(BLOCK_SIZE);
        self.memories.store(batch.memory, 0, &header.encode(&batch.place));
        self.memories.zero(batch.memory, length as usize, padded as usize);
        batch.state = BatchState::Closed;
        batch.padded = padded as usize;
        let stream = self.stream_mut(kind);
        stream.batch = None;
        if let Some(open) = &mut stream.segment {
            open.at += padded;
            let (segment, end) = (open.id, open.at);
            self.table_mut(kind.tier()).get_mut(segment).end = end;
        }
        Some(id)
    }

    /// Forgets the stream's open batch, which has no records.
    pub fn abandon_batch(&mut self, kind: StreamKind) {
        let Some(id) = self.stream_mut(kind).batch.take() else { return };
        let batch = self.batches.remove(id);
        assert_eq!(batch.count, 0, "a batch with records is closed, not abandoned");
        self.memories.put(batch.memory);
    }

    /// What must never happen: a slot given back while its write is under way ([`Rule::SlotAfterCompletion`] off).
    pub(crate) fn free_slot_early(&mut self, id: BatchId) {
        let memory = std::mem::replace(&mut self.batches.get_mut(id).memory, BatchMemory::Gone);
        self.memories.put(memory);
    }

    /// A batch's write completed: its slot is free, its blocks wait for a flush.
    pub fn batch_written(&mut self, id: BatchId) {
        let batch = self.batches.get_mut(id);
        batch.state = BatchState::Written;
        let memory = std::mem::replace(&mut batch.memory, BatchMemory::Gone);
        self.memories.put(memory);
    }

    /// A batch is durable by its own write: of tier 0.
    pub fn batch_durable(&mut self, id: BatchId) {
        let batch = self.batches.remove(id);
        self.memories.put(batch.memory);
    }
}

/// What a record adds to what its segment holds.
fn blocks_of(header: &RecordHeader) -> u32 {
    match header.body {
        RecordBody::Fragment { count, .. } => u32::from(count),
        RecordBody::Clear { .. } => 0,
        RecordBody::Leaf { .. } | RecordBody::Image { .. } => 1,
    }
}

/// The map entry of a record's first block, or the location of a leaf or image part.
fn entry_of(header: &RecordHeader, place: &Place) -> Entry {
    let (state, check) = match header.body {
        RecordBody::Fragment { codec: Codec::Zero, seal, .. } => (State::Zero(place.tier), seal.check()),
        RecordBody::Fragment { seal, .. } => (State::Data(place.tier), seal.check()),
        RecordBody::Clear { .. } => return Entry::HOLE,
        RecordBody::Leaf { .. } | RecordBody::Image { .. } => (State::Data(place.tier), 0),
    };
    let bytes = RECORD_HEADER_BYTES + usize::from(header.stored);
    // an image part is longer than the field: its length comes from its header (it is read whole)
    let sectors = sectors_of(place.granule, bytes).min(127);
    Entry::new(&Location { state, segment: place.segment, granule: place.granule, sectors, index: 0, check })
}

/// A record as the summary tells it: when it is appended, and when recovery finds it.
#[must_use]
pub fn summary_entry(header: &RecordHeader, place: &Place, op: OpNo) -> SummaryEntry {
    let change = match header.body {
        RecordBody::Fragment { moved, mask, .. } => Change::Fragment { moved, entry: entry_of(header, place), mask },
        RecordBody::Clear { count } => Change::Clear { count },
        RecordBody::Leaf { .. } | RecordBody::Image { .. } => {
            Change::Other { kind: header.kind(), granule: place.granule }
        }
    };
    SummaryEntry { op, namespace: header.namespace, first: header.first, change }
}
