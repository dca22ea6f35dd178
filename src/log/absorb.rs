//! An open batch that is full, without what died in it: its live records copied to a fresh slot, which takes its place.
//!
//! ```text
//!   slot a   │ A │ B │ C │ B' │ A' │ D │          full; A and B are superseded by later records of the same batch
//!   slot b   │ A │ C │ B' │ A' │ D │ room …       the first record stays; numbers stay; places of the others move up
//! ```
//!
//! What was overwritten within milliseconds is so never written to the medium.
//!
//! 1. find the dead: records all of whose blocks later records *of this batch* set, as the map says;
//! 2. copy the others to a free slot, bound to their new places;
//! 3. publish that slot, then retire the old one (FORMAT.md, staging: between the two both hold the batch);
//! 4. summary, counts and map entries follow, in the same await-free step (I12).
//!
//! **Invariants.** A published record is never changed where it is. Nothing is dropped for the sake of what another batch
//! holds: that may be lost without this one. The first record stays, so that the batch's numbers stay what FLUSH and `settled`
//! compare. CLEARs stay. Records that an image of a leaf may point to stay where they are ([`Log::hold_in_place`]): the
//! image is not replayed over.
//!
//! **Failure.** Without a free slot, or when a record in memory does not verify, nothing happens: the batch is written as it is.
//!
//! **Not here:** when (`core::room`), batches that are closed, streams in ordinary memory.

use super::{BatchMemory, Log, StreamKind, blocks_of, summary_entry};
use crate::canary::{self, Rule};
use crate::error::{Error, Result};
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::record::{Place, RECORD_HEADER_BYTES, RecordHeader, record_bytes};
use crate::format::slot::Prelude;
use crate::format::summary::{Change, SummaryEntry};
use crate::format::{Entry, Tier};
use crate::limits::{GRANULE, SLOT_BYTES};
use crate::units::Granule;

/// At least one part in so many of a batch must be dead, or it is not worth the copy.
const WORTH: usize = 8;

/// What was found in an open batch.
#[derive(Debug, Default)]
pub(super) struct Finding {
    /// Hashes of the payloads of the batch's records.
    pub(super) hashes: Vec<u64>,
    /// Which of them are to go.
    dead: Vec<bool>,
}

impl Finding {
    /// With room for all records of a batch: no append allocates (I10).
    pub(super) fn with_room() -> Self {
        let records = SLOT_BYTES / record_bytes(0);
        Self { hashes: Vec::with_capacity(records), dead: Vec::with_capacity(records) }
    }
}

impl Log {
    /// A block's entry was changed from `old` to `entry`: if both are in one open batch, that has something dead.
    pub fn supersede(&mut self, entry: Entry, old: Entry) {
        let place = old.place();
        if place.is_none() || place != entry.place() {
            return;
        }
        for kind in StreamKind::STAGED {
            let Some(id) = self.stream(kind).batch else { continue };
            let batch = self.batches.get_mut(id);
            batch.superseded += u32::from(batch.offset_of_entry(old).is_some());
        }
    }

    /// A leaf's entries are being copied for its image: what they point to in open batches stays where it is.
    pub fn hold_in_place(&mut self, entries: &[Entry]) {
        for kind in StreamKind::STAGED {
            let Some(id) = self.stream(kind).batch else { continue };
            let batch = self.batches.get_mut(id);
            if entries.iter().any(|entry| batch.offset_of_entry(*entry).is_some()) {
                batch.held = batch.length;
            }
        }
    }

    /// Whether so much of the stream's open batch may be dead that it is worth a look.
    #[must_use]
    pub fn may_absorb(&self, kind: StreamKind) -> bool {
        let batch = self.stream(kind).batch.map(|id| self.batches.get(id));
        batch.is_some_and(|b| {
            matches!(b.memory, BatchMemory::Shared(_))
                && b.superseded > 0
                && b.superseded as usize * WORTH >= b.blocks as usize
        })
    }

    /// Finds what is dead in the stream's open batch. Returns whether that is worth the copy.
    pub fn find_dead(&mut self, kind: StreamKind, is_superseded: impl Fn(&SummaryEntry) -> bool) -> bool {
        let stream = &mut self.streams[kind as usize];
        let (Some(id), Some(open)) = (stream.batch, &stream.segment) else { return false };
        let batch = self.batches.get(id);
        let slot = self.memories.lend(batch.memory);
        let records = &open.summary[open.summary.len() - batch.count as usize..];
        let Finding { hashes, dead } = &mut stream.finding;
        dead.clear();
        let (mut at, mut bytes) = (BATCH_HEADER_BYTES, 0);
        for (record, hash) in records.iter().zip(hashes.iter()) {
            let Ok(header) = verified(&slot.bytes()[at..batch.length], *hash, &batch.place_at(at)) else {
                return false;
            };
            let goes = at >= batch.held && at > BATCH_HEADER_BYTES && is_superseded(record);
            bytes += if goes { header.record_bytes() } else { 0 };
            at += header.record_bytes();
            dead.push(goes);
        }
        bytes * WORTH >= batch.length
    }

    /// Puts a copy of the stream's open batch without what [`Log::find_dead`] found in its place, and tells `moved` of
    /// each record that is elsewhere now, as it was and as it is. Returns the bytes of the records that went.
    pub fn absorb(&mut self, kind: StreamKind, mut moved: impl FnMut(&SummaryEntry, &SummaryEntry)) -> Option<u64> {
        let Self { streams, batches, memories, segments, session, .. } = self;
        let stream = &mut streams[kind as usize];
        let (Some(id), Some(open)) = (stream.batch, &mut stream.segment) else { return None };
        let batch = batches.get_mut(id);
        let (first_op, memory) = (batch.first_op?, memories.take(kind)?);
        // 1. where it belongs
        let Place { segment, generation, granule, .. } = batch.place;
        let prelude = Prelude { segment, generation, granule, first_op };
        memories.store_prelude(memory, &prelude.encode(&batch.place, *session));
        let slot = memories.lend(batch.memory);
        if canary::is_off(Rule::CopyBeforeRetire) {
            memories.publish(batch.memory, 0);
        }
        // 2. the records that stay
        let first = open.summary.len() - batch.count as usize;
        let Finding { hashes, dead } = &mut stream.finding;
        let (mut from, mut to, mut kept, mut checks) = (BATCH_HEADER_BYTES, BATCH_HEADER_BYTES, 0, 0_u64);
        let (mut gone, mut gone_payload) = ((0, 0), 0);
        for (index, goes) in dead.iter().enumerate() {
            let bytes = &slot.bytes()[from..];
            let Ok((header, _)) = RecordHeader::decode(bytes) else { unreachable!("it was verified in this step") };
            let length = header.record_bytes();
            let bytes = &bytes[..length];
            from += length;
            if *goes {
                gone = (gone.0 + blocks_of(&header), gone.1 + length);
                gone_payload += usize::from(header.stored);
                continue;
            }
            let (record, hash) = (open.summary[first + index], hashes[index]);
            let place = batch.place_at(to);
            let encoded = header.encode(hash, &place);
            memories.store(memory, to, &encoded);
            memories.store(memory, to + RECORD_HEADER_BYTES, &bytes[RECORD_HEADER_BYTES..]);
            checks = checks.wrapping_add(RecordHeader::check_of(&encoded));
            let now = summary_entry(&header, &place, record.op);
            if now != record {
                moved(&record, &now);
            }
            (open.summary[first + kept], hashes[kept]) = (now, hash);
            (to, kept) = (to + length, kept + 1);
        }
        open.summary.truncate(first + kept);
        hashes.truncate(kept);
        // 3. the copy counts, then the batch that it was made of does not
        memories.publish(memory, to);
        memories.put(std::mem::replace(&mut batch.memory, memory));
        // 4. what is counted
        (batch.length, batch.checks, batch.superseded) = (to, checks, 0);
        batch.count = u32::try_from(kept).expect("no more than before");
        batch.blocks -= gone.0;
        batch.payload -= gone_payload;
        segments.empty(segment, gone.0, u32::try_from(gone.1).expect("< 512 KiB"));
        self.compactions += 1;
        Some(gone.1 as u64)
    }
}

/// Whether the map finds every block of a record in a later one of the same batch. `entry_of` looks into the map.
#[must_use]
pub fn is_superseded(record: &SummaryEntry, entry_of: impl Fn(u8) -> Entry) -> bool {
    let Change::Fragment { entry, mask, .. } = record.change else { return false };
    let Some(own) = entry.location() else { return false };
    let later = |index: u8| {
        let found = entry_of(index).location();
        found.is_some_and(|l| (l.tier(), l.segment) == (Tier::Ssd, own.segment) && l.granule > own.granule)
    };
    (0..8).filter(|index| mask >> index & 1 == 1).all(later)
}

/// The record that starts `bytes`: it is as it was appended.
fn verified(bytes: &[u8], hash: u64, place: &Place) -> Result<RecordHeader> {
    let (header, check) = RecordHeader::decode(bytes)?;
    header.verify(check, hash, place)?;
    if header.record_bytes() > bytes.len() {
        return Err(Error::corrupt("record", "length", bytes.len() as u64, header.record_bytes() as u64));
    }
    Ok(header)
}

impl super::Batch {
    /// The place of the record at a byte of it.
    fn place_at(&self, at: usize) -> Place {
        self.place.at(Granule(self.place.granule.0 + u32::try_from(at).expect("< 512 KiB") / GRANULE))
    }

    /// Where in it an entry of the map points.
    fn offset_of_entry(&self, entry: Entry) -> Option<usize> {
        if entry.place() != Some((self.place.tier, self.place.segment)) {
            return None;
        }
        let location = entry.location()?;
        self.offset_of(location.tier(), location.segment, location.granule)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::codec::payload_hash;
    use crate::format::Codec;
    use crate::format::layout::Layout;
    use crate::format::record::{RecordBody, all_blocks};
    use crate::format::root::{Root, WindowSegment, WindowState};
    use crate::log::{OpenSegment, SegmentTable, walk};
    use crate::recovery::staged_batches;
    use crate::staging::Region;
    use crate::units::{Generation, Lba, NamespaceId, OpNo, PoolId, SealNo, SegmentId, SessionId};

    const POOL: PoolId = PoolId([7; 16]);
    const SESSION: SessionId = SessionId(99);
    const SEGMENT: SegmentId = SegmentId(3);
    const GENERATION: Generation = Generation(5);
    const LAYOUT: Layout = Layout { pool_bytes: 64 << 20, segment_bytes: 1 << 20 };

    /// A log with an open batch in shared memory, and a map of one namespace.
    struct Subject {
        log: Log,
        region: Region,
        map: BTreeMap<u64, Entry>,
    }

    impl Subject {
        fn new() -> Self {
            let region = Region::anonymous();
            let segments = SegmentTable::new(vec![GENERATION; 16], OpNo(0));
            let journal = SegmentTable::new(Vec::new(), OpNo(0));
            let mut log = Log::new(POOL, SESSION, 1 << 20, OpNo(1000), segments, journal, region.clone());
            let at = 8192;
            log.stream_mut(StreamKind::Host).segment = Some(OpenSegment { id: SEGMENT, at, summary: Vec::new() });
            let memory = log.memories.take(StreamKind::Host).unwrap();
            log.open_batch(StreamKind::Host, memory, 1);
            Self { log, region, map: BTreeMap::new() }
        }

        /// Writes `count` blocks from `first` on as one fragment of `stored` bytes.
        fn write(&mut self, first: u64, count: u8, stored: usize) {
            let seal = SealNo { session: SESSION, counter: self.log.next_op.0 };
            let body = RecordBody::Fragment { moved: false, codec: Codec::Lz4, count, mask: all_blocks(count), seal };
            let header = RecordHeader { namespace: NamespaceId(1), first: Lba(first), op_delta: 0, stored: 0, body };
            let payload = vec![u8::try_from(self.log.next_op.0 % 251).unwrap(); stored];
            let appended = self.log.append(StreamKind::Host, header, &payload, payload_hash(&payload));
            for index in 0..count {
                let entry = appended.entry.with_index(index);
                let old = self.map.insert(first + u64::from(index), entry).unwrap_or_default();
                self.log.add_live(entry);
                self.log.drop_live(old, appended.op);
                self.log.supersede(entry, old);
            }
            self.log.publish(StreamKind::Host);
        }

        fn clear(&mut self, lba: u64) {
            let body = RecordBody::Clear { count: 1 };
            let header = RecordHeader { namespace: NamespaceId(1), first: Lba(lba), op_delta: 0, stored: 0, body };
            let op = self.log.append(StreamKind::Host, header, &[], payload_hash(&[])).op;
            if let Some(old) = self.map.remove(&lba) {
                self.log.drop_live(old, op);
            }
            self.log.publish(StreamKind::Host);
        }

        fn absorb(&mut self) -> Option<u64> {
            let Self { log, map, .. } = self;
            let found = |lba: u64| map.get(&lba).copied().unwrap_or_default();
            if !log.find_dead(StreamKind::Host, |r| is_superseded(r, |index| found(r.first.0 + u64::from(index)))) {
                return None;
            }
            log.absorb(StreamKind::Host, |was, now| {
                let (Change::Fragment { entry: old, .. }, Change::Fragment { entry: new, .. }) =
                    (was.change, now.change)
                else {
                    return;
                };
                for index in 0..8 {
                    let entry = map.get_mut(&(was.first.0 + u64::from(index)));
                    entry.into_iter().filter(|e| **e == old.with_index(index)).for_each(|e| *e = new.with_index(index));
                }
            })
        }

        /// What the map says is in memory where it says, and the payload is that of the record's number.
        fn verify(&self) {
            for (lba, entry) in &self.map {
                let l = entry.location().unwrap();
                let (batch, offset) = self.log.batches.staged(Tier::Ssd, l.segment, l.granule).unwrap();
                let mut bytes = vec![0; batch.length - offset];
                self.log.memories.load(batch.memory, offset, &mut bytes);
                let place = self.log.place(Tier::Ssd, l.segment, l.granule);
                let (header, payload) = RecordHeader::decode_whole(&bytes, &place).unwrap();
                header.check_fragment(NamespaceId(1), Lba(*lba), &l).unwrap();
                let RecordBody::Fragment { seal, .. } = header.body else { panic!("{header:?}") };
                assert!(payload.iter().all(|byte| u64::from(*byte) == seal.counter % 251), "LBA {lba}");
            }
        }

        fn numbers(&self) -> Vec<u64> {
            let summary = &self.log.stream(StreamKind::Host).segment.as_ref().unwrap().summary;
            summary.iter().map(|record| record.op.0 - 1000).collect()
        }

        fn root(&self) -> Root {
            let window =
                vec![WindowSegment { segment: SEGMENT, generation: GENERATION, state: WindowState::Open, end: 0 }];
            Root { pool: POOL, session: SESSION, window, ..Root::default() }
        }

        /// Numbers of the records that an adopter takes.
        fn adopted(&self) -> Result<Vec<u64>> {
            let batches = staged_batches(&LAYOUT, &self.root(), &self.region)?;
            let start = LAYOUT.segment(SEGMENT);
            let place = self.log.place(Tier::Ssd, SEGMENT, Granule(0));
            let mut segment = vec![0; 1 << 20];
            for batch in batches {
                let at = usize::try_from(batch.offset - start).unwrap();
                segment[at..at + batch.bytes.len()].copy_from_slice(&batch.bytes);
            }
            let found = walk::walk_all(&segment, &place);
            Ok(found.iter().map(|record| record.op.0 - 1000).collect())
        }
    }

    #[test]
    fn what_later_records_of_the_batch_supersede_goes() {
        let mut s = Subject::new();
        s.write(10, 1, 1000); // 1: dead, but the first
        s.write(20, 4, 5000); // 2: dead, by 6 and 8
        s.write(30, 4, 3001); // 3: one block of it is live
        s.clear(40); // 4
        s.write(50, 1, 2000); // 5: cleared, that is no record that sets it
        s.write(20, 2, 777); // 6
        s.clear(50); // 7
        s.write(22, 2, 778); // 8
        s.write(31, 3, 779); // 9
        s.write(10, 1, 15); // 10
        assert!(s.log.may_absorb(StreamKind::Host));
        let before = *s.log.segments.get(SEGMENT);
        let id = s.log.stream(StreamKind::Host).batch.unwrap();
        let (memory, length) = (s.log.batches.get(id).memory, s.log.batches.get(id).length);
        assert_eq!(s.absorb(), Some(5040));
        s.verify();
        let batch = s.log.batches.get(id);
        assert_ne!(batch.memory, memory, "a published record is never changed where it is");
        assert_eq!((batch.length, batch.count, batch.superseded), (length - 5040, 9, 0));
        assert_eq!(batch.first_op, Some(OpNo(1001)), "FLUSH and settled compare it");
        assert_eq!(s.numbers(), [1, 3, 4, 5, 6, 7, 8, 9, 10]);
        let after = s.log.segments.get(SEGMENT);
        assert_eq!((after.live, after.total), (before.live, before.total - 4));
        assert_eq!(after.bytes, before.bytes - 5040);
        assert_eq!(s.adopted().unwrap(), s.numbers());
        // and it goes on
        s.write(20, 2, 1500);
        s.verify();
        assert_eq!(s.adopted().unwrap(), s.numbers());
        // nothing is worth it any more but what came since
        assert_eq!(s.absorb(), None);
        s.log.close_batch(StreamKind::Host).unwrap();
        assert_eq!(s.adopted().unwrap(), s.numbers(), "with its own header");
    }

    #[test]
    fn what_an_image_may_point_to_stays_in_its_place() {
        let mut s = Subject::new();
        (0..20).for_each(|n| s.write(n % 5, 1, 2000));
        let image: Vec<Entry> = s.map.values().copied().collect();
        s.log.hold_in_place(&image);
        (0..20).for_each(|n| s.write(n % 5 + 100, 1, 2000));
        s.absorb().unwrap();
        s.verify();
        assert!(image.iter().eq(s.map.range(..100).map(|(_, entry)| entry)));
        let kept: Vec<u64> = (1..=20).chain(36..=40).collect();
        assert_eq!(s.numbers(), kept);
        // an image of what is elsewhere holds nothing
        let mut other = Subject::new();
        other.log.hold_in_place(&[Entry::HOLE, Entry::LOST]);
        (0..20).for_each(|n| other.write(n % 5, 1, 2000));
        other.absorb().unwrap();
        assert_eq!(other.numbers(), [1, 16, 17, 18, 19, 20]);
    }

    #[test]
    fn a_record_that_does_not_verify_keeps_the_batch_as_it_is() {
        let mut s = Subject::new();
        (0..20).for_each(|_| s.write(7, 1, 2000));
        let id = s.log.stream(StreamKind::Host).batch.unwrap();
        let BatchMemory::Shared(slot) = s.log.batches.get(id).memory else { panic!("staged") };
        s.region.store(slot, BATCH_HEADER_BYTES + 9, &[0xee]);
        assert_eq!(s.absorb(), None);
    }

    #[test]
    fn of_two_slots_for_one_place_the_compacted_one_counts() {
        let mut s = Subject::new();
        (0..30).for_each(|n| s.write(n % 3, 1, 3000));
        let id = s.log.stream(StreamKind::Host).batch.unwrap();
        let BatchMemory::Shared(old) = s.log.batches.get(id).memory else { panic!("staged") };
        let published = s.region.published_bytes(old);
        let all = s.adopted().unwrap();
        assert_eq!(all.len(), 30);
        s.absorb().unwrap();
        let BatchMemory::Shared(new) = s.log.batches.get(id).memory else { panic!("staged") };
        // killed before the old one was retired
        s.region.publish(old, usize::try_from(published).unwrap());
        assert_eq!(s.adopted().unwrap(), [1, 28, 29, 30]);
        assert_eq!(staged_batches(&LAYOUT, &s.root(), &s.region).unwrap().len(), 1);
        // before the new one counted
        let compacted = s.region.published_bytes(new);
        s.region.publish(new, 0);
        assert_eq!(s.adopted().unwrap(), all);
        // not a copy of all of it: damage
        let shorter = RecordHeader { stored: 3000, ..header_of(&s, new) }.record_bytes();
        s.region.publish(new, usize::try_from(compacted).unwrap() - shorter);
        assert!(s.adopted().unwrap_err().to_string().contains("last number at this place"));
    }

    fn header_of(s: &Subject, slot: usize) -> RecordHeader {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        s.region.load(slot, BATCH_HEADER_BYTES, &mut bytes);
        RecordHeader::decode(&bytes).unwrap().0
    }
}
