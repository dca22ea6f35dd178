//! What is fuzzed. A target says whether it accepted its input; what it accepts must encode to the same bytes, and be within
//! the bounds that the rest of the engine relies on.

use std::fmt::Debug;

use plica::error::{Error, Result};
use plica::format::batch::{BATCH_HEADER_BYTES, BatchHeader, walk_records};
use plica::format::golden;
use plica::format::image::{decode_image, encode_image};
use plica::format::journal::JournalHeader;
use plica::format::layout::{Layout, NAMESPACE_TABLE_BYTES};
use plica::format::leaf::{LEAF_BYTES, decode_leaf, encode_leaf};
use plica::format::namespaces::NamespaceTable;
use plica::format::record::{Place, RECORD_HEADER_BYTES, RecordBody, RecordHeader};
use plica::format::root::{Root, WindowSegment, WindowSession, WindowState};
use plica::format::slot::{PRELUDE_BYTES, Prelude, StagingHeader};
use plica::format::summary::{Change, decode_summary, encode_summary, summary_bytes};
use plica::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use plica::format::{Tier, record};
use plica::limits::{BLOCK_BYTES, JOURNAL_SEGMENT_BYTES, NAMESPACE_BLOCKS_MAX, SEGMENT_BYTES_MAX, SLOT_BYTES};
use plica::log::walk::{Acceptance, walk_journal_segment};
use plica::recovery::staged_batches;
use plica::staging::Region;
use plica::units::{Generation, Granule, OpNo, PoolId, SegmentId, SessionId};
use xxhash_rust::xxh3::xxh3_64;

use super::outcome::Outcome;
use super::{seal, streams};

/// A decoder under test.
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// Runs it. Panics when it does what it must not.
    pub run: fn(&[u8]) -> Outcome,
    /// Makes the checks of an input good.
    pub seal: fn(&mut [u8]),
    /// Golden files it starts from.
    golden: &'static [&'static str],
    /// More samples.
    more: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// The golden files and other samples of what it decodes.
    #[must_use]
    pub fn samples(&self) -> Vec<Vec<u8>> {
        let golden = self.golden.iter().map(|name| golden::bytes(name).expect("golden files are well-formed"));
        golden.chain((self.more)()).collect()
    }
}

const fn target(
    name: &'static str,
    golden: &'static [&'static str],
    run: fn(&[u8]) -> Outcome,
    seal: fn(&mut [u8]),
) -> Target {
    Target { name, run, seal, golden, more: Vec::new }
}

/// All targets; each owner of a decoder adds a line.
pub const TARGETS: &[Target] = &[
    target("superblock", &["superblock", "superblock-journal"], superblock, seal::at_end),
    target("namespaces", &["namespaces"], namespaces, seal::at_end),
    target("root", &["root"], root, seal::root),
    target("batch", &["batch"], batch, seal::batch),
    Target { more: single_records, ..target("record", &[], one_record, seal::record) },
    target("summary", &["summary"], summary, seal::summary),
    target("staging-header", &["staging-header"], staging_header, seal::at_end),
    target("prelude", &["prelude"], prelude, seal::at_end),
    target("leaf", &["leaf"], leaf, seal::nothing),
    target("image", &["image"], image, seal::nothing),
    target("journal", &["journal"], journal, seal::at_end),
    Target { more: journal_segments, ..target("journal-segment", &[], journal_segment, seal::journal_segment) },
    Target { more: staging_files, ..target("staging", &[], staging, seal::staging) },
    Target { more: streams::clients, ..target("nbd", &[], streams::nbd, seal::nothing) },
    Target { more: streams::lines, ..target("control", &[], streams::control, seal::nothing) },
];

/// What a decoder made of an input; what it accepted is given to `check`, which panics if it is not as it must be.
fn judge<T: Debug>(decoded: Result<T>, check: impl FnOnce(&T)) -> Outcome {
    match decoded {
        Ok(decoded) => {
            check(&decoded);
            Outcome::accepted(&decoded)
        }
        Err(error) => Outcome::refused(&error),
    }
}

/// The place that the golden files were made for.
#[must_use]
pub fn place() -> Place {
    Place {
        pool: pool(),
        tier: Tier::Ssd,
        segment: SegmentId(0x0012_3456),
        generation: Generation(0x0708_090a),
        granule: Granule(0x0001_0200),
    }
}

fn pool() -> PoolId {
    PoolId([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf])
}

const SESSION: SessionId = SessionId(0x5e55_1011_1213_1415);

fn superblock(bytes: &[u8]) -> Outcome {
    judge(Superblock::decode(bytes), |block| assert_eq!(block.encode()[..], bytes[..SUPERBLOCK_BYTES]))
}

fn namespaces(bytes: &[u8]) -> Outcome {
    judge(NamespaceTable::decode(bytes, pool()), |table| {
        let mut again = vec![0xff; NAMESPACE_TABLE_BYTES];
        table.encode(&mut again).expect("what was read fits");
        assert!(again == bytes, "{table:?} encodes to other bytes");
    })
}

fn root(bytes: &[u8]) -> Outcome {
    judge(Root::decode(bytes, pool()), |root| {
        let _ = root.check_bounds(100);
        let mut again = vec![0xff; root.encoded_bytes()];
        let length = root.encode(&mut again).expect("what was read fits");
        // a longer root than its content needs is odd, but its content is the same
        assert_eq!(Root::decode(&again, pool()).expect("readable"), *root);
        if bytes.get(44..48) == Some(&u32::try_from(length).expect("small").to_le_bytes()) {
            assert!(again == bytes[..length], "{root:?} encodes to other bytes");
        }
    })
}

fn check_record(header: &RecordHeader, here: &Place, payload: &[u8]) {
    let lbas = match header.body {
        RecordBody::Fragment { count, mask, .. } => {
            assert!((1..=8).contains(&count) && mask & !record::all_blocks(count) == 0);
            u64::from(count)
        }
        RecordBody::Clear { count } => count,
        RecordBody::Leaf { .. } => 512,
        RecordBody::Image { .. } => 0,
    };
    assert!(header.first.0.checked_add(lbas).is_some_and(|end| end <= NAMESPACE_BLOCKS_MAX), "{header:?}");
    assert_eq!(payload.len(), usize::from(header.stored));
    assert!(record::sectors_of(here.granule, RECORD_HEADER_BYTES + payload.len()) <= 127, "{header:?}");
}

/// The batch at a place, and its records; all is checked as it is decoded.
fn whole_batch(bytes: &[u8], place: &Place) -> Result<(BatchHeader, Vec<RecordHeader>)> {
    let header = BatchHeader::decode(bytes, place)?;
    assert_eq!(header.encode(place)[..], bytes[..BATCH_HEADER_BYTES]);
    assert!((BATCH_HEADER_BYTES..=SLOT_BYTES).contains(&(header.length as usize)));
    let Some(area) = bytes.get(BATCH_HEADER_BYTES..header.length as usize) else {
        return Err(Error::corrupt("batch", "area", 0, 0));
    };
    let at = place.at(Granule(place.granule.0 + 4));
    let mut records = Vec::new();
    let walked = walk_records(area, &at, |record, here, payload| {
        check_record(record, here, payload);
        assert_eq!(record.encode(xxh3_64(payload), here)[..], area[offset(&at, here)..][..RECORD_HEADER_BYTES]);
        records.push(*record);
        Ok(())
    })?;
    header.matches(&walked)?;
    Ok((header, records))
}

fn batch(bytes: &[u8]) -> Outcome {
    judge(whole_batch(bytes, &place()), |_| ())
}

fn offset(start: &Place, here: &Place) -> usize {
    (here.granule.0 - start.granule.0) as usize * 16
}

fn one_record(bytes: &[u8]) -> Outcome {
    judge(verified_record(bytes), |_| ())
}

fn verified_record(bytes: &[u8]) -> Result<RecordHeader> {
    let (header, check) = RecordHeader::decode(bytes)?;
    let end = RECORD_HEADER_BYTES + usize::from(header.stored);
    let Some(payload) = bytes.get(RECORD_HEADER_BYTES..end) else {
        return Err(Error::corrupt("record", "payload", 0, 0));
    };
    check_record(&header, &place(), payload);
    header.verify(check, xxh3_64(payload), &place())?;
    assert_eq!(header.encode(xxh3_64(payload), &place())[..], bytes[..RECORD_HEADER_BYTES]);
    Ok(header)
}

/// The records of the golden batch, one by one.
fn single_records() -> Vec<Vec<u8>> {
    let bytes = golden::bytes("batch").expect("golden files are well-formed");
    let at = place().at(Granule(place().granule.0 + 4));
    let mut samples = Vec::new();
    walk_records(&bytes[BATCH_HEADER_BYTES..], &at, |header, _, payload| {
        let mut sample = header.encode(xxh3_64(payload), &place()).to_vec();
        sample.extend_from_slice(payload);
        samples.push(sample);
        Ok(())
    })
    .expect("the golden batch verifies");
    samples
}

fn summary(bytes: &[u8]) -> Outcome {
    judge(decode_summary(bytes, &place()), |entries| {
        for entry in entries {
            if let Change::Clear { count } = entry.change {
                assert!(entry.first.0.checked_add(count).is_some_and(|end| end <= NAMESPACE_BLOCKS_MAX), "{entry:?}");
            }
        }
        let length = summary_bytes(entries.len());
        let mut again = vec![0xff; length];
        encode_summary(entries, &place(), &mut again);
        // the base of nothing may be anything
        if !entries.is_empty() {
            let first_is_base = bytes[bytes.len() - length..][10..14] == [0; 4];
            assert!(!first_is_base || again == bytes[bytes.len() - length..], "{entries:?} encode to other bytes");
        }
    })
}

fn staging_header(bytes: &[u8]) -> Outcome {
    judge(StagingHeader::decode(bytes), |header| assert_eq!(header.encode()[..], *bytes))
}

fn prelude(bytes: &[u8]) -> Outcome {
    judge(Prelude::decode(bytes, pool(), SESSION), |prelude| {
        assert_eq!(prelude.encode(&place(), SESSION)[..], *bytes);
    })
}

fn leaf(bytes: &[u8]) -> Outcome {
    judge(decode_leaf(bytes), |entries| {
        let mut again = [0; LEAF_BYTES];
        encode_leaf(entries, &mut again);
        assert_eq!(again[..], *bytes);
    })
}

fn image(bytes: &[u8]) -> Outcome {
    let mut all = Outcome::default();
    for directory_bytes in [0, 24, 48, 47, bytes.len() as u64, u64::MAX] {
        let outcome = judge(decode_image(bytes, directory_bytes), |(directory, generations)| {
            let again = encode_image(directory.iter().copied(), generations);
            assert_eq!(again, (bytes.to_vec(), directory_bytes));
        });
        all.accepted |= outcome.accepted;
        all.features.extend(outcome.features);
    }
    all
}

fn journal(bytes: &[u8]) -> Outcome {
    judge(JournalHeader::decode(bytes), |header| assert_eq!(header.encode()[..], *bytes))
}

/// The segment of a journal that is walked.
pub(super) fn journal_place() -> Place {
    Place { tier: Tier::Pmem, segment: SegmentId(5), generation: Generation(0), granule: Granule(0), ..place() }
}

/// What a walk accepts lies within the bytes, is of one generation and one session, and verifies.
fn journal_segment(bytes: &[u8]) -> Outcome {
    let bytes = &bytes[..bytes.len().min(JOURNAL_SEGMENT_BYTES as usize)];
    let earlier = [WindowSession { session: SESSION, last_accepted: OpNo(u64::MAX >> 2) }];
    let acceptance = Acceptance { current: SessionId(1), earlier: &earlier, replay_start: OpNo(0) };
    let walked = walk_journal_segment(bytes, &journal_place(), &acceptance);
    assert!(walked.segment.end as usize <= bytes.len().next_multiple_of(BLOCK_BYTES));
    assert!(walked.segment.end > 0 || walked.records.is_empty(), "{walked:?}");
    assert!(walked.segment.top_op <= walked.highest, "{walked:?}");
    if walked.segment.end == 0 {
        return Outcome::refused(&format!("{walked:?}"));
    }
    let place = Place { generation: walked.segment.generation, ..journal_place() };
    if let Ok((first, _)) = whole_batch(bytes, &place) {
        assert_eq!(first.session, walked.session);
    }
    Outcome::accepted(&walked)
}

/// The golden batch as a journal has it: alone, and twice in one segment.
fn journal_segments() -> Vec<Vec<u8>> {
    let mut batch = golden::bytes("batch").expect("golden files are well-formed");
    batch.resize(batch.len().next_multiple_of(BLOCK_BYTES), 0);
    let mut segments = vec![batch.clone(), [&batch[..], &batch[..]].concat()];
    for segment in &mut segments {
        for (index, batch) in segment.chunks_mut(batch.len()).enumerate() {
            batch[8..12].copy_from_slice(&journal_place().segment.0.to_le_bytes());
            let granule = u32::try_from(index * batch.len() / 16).expect("small");
            batch[16..20].copy_from_slice(&granule.to_le_bytes());
        }
        seal::journal_segment(segment);
    }
    segments
}

thread_local! {
    static REGION: Region = Region::anonymous();
}

/// A slot of a staging file: 8 bytes that are published, the prelude, the slot's first bytes. What is adopted is a batch
/// that verifies, within its segment.
fn staging(bytes: &[u8]) -> Outcome {
    let Some((published, rest)) = bytes.split_first_chunk::<8>() else { return Outcome::default() };
    let Some((prelude, slot)) = rest.split_first_chunk::<PRELUDE_BYTES>() else { return Outcome::default() };
    let listed = Place { segment: place().segment, ..place() };
    let (segment, generation) = (listed.segment, listed.generation);
    let window = vec![WindowSegment { segment, generation, state: WindowState::Announced, end: 0 }];
    let root = Root { pool: pool(), session: SESSION, window, ..Root::default() };
    let layout = Layout { pool_bytes: 1 << 46, segment_bytes: SEGMENT_BYTES_MAX };
    REGION.with(|region| {
        region.store_prelude(0, prelude);
        let slot = &slot[..slot.len().min(SLOT_BYTES)];
        region.store(0, 0, slot);
        region.zero(0, slot.len(), (slot.len() + 4096).min(SLOT_BYTES));
        region.publish(0, usize::try_from(u64::from_le_bytes(*published)).unwrap_or(usize::MAX));
        let found = staged_batches(&layout, &root, region);
        region.publish(0, 0);
        let found = found.map(|patches| patches.into_iter().map(|p| (p.offset, p.bytes)).collect::<Vec<_>>());
        match found {
            Err(error) => Outcome::refused(&error),
            Ok(patches) => {
                let mut all = Outcome { accepted: !patches.is_empty(), ..Outcome::default() };
                for (at, bytes) in patches {
                    let within = at.checked_sub(layout.segment(segment)).expect("in the listed segment");
                    assert!(within + bytes.len() as u64 <= u64::from(SEGMENT_BYTES_MAX));
                    let place = listed.at(Granule(u32::try_from(within / 16).expect("small")));
                    let batch = whole_batch(&bytes, &place).expect("what is adopted verifies");
                    all.features.extend(Outcome::accepted(&batch).features);
                }
                all
            }
        }
    })
}

/// The golden batch in a slot.
fn staging_files() -> Vec<Vec<u8>> {
    let batch = golden::bytes("batch").expect("golden files are well-formed");
    let header = BatchHeader::decode(&batch, &place()).expect("the golden batch verifies");
    let Place { segment, generation, granule, .. } = place();
    let prelude = Prelude { segment, generation, granule, first_op: header.first_op }.encode(&place(), SESSION);
    let length = header.length as usize;
    vec![[&u64::from(header.length).to_le_bytes()[..], &prelude, &batch[..length]].concat()]
}
