//! One sample of every structure, each field with a value that no other has.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader, WalkedRecords, walk_records};
use crate::format::image::{decode_image, encode_image};
use crate::format::journal::JournalHeader;
use crate::format::layout::NAMESPACE_TABLE_BYTES;
use crate::format::leaf::{LEAF_BYTES, decode_leaf, encode_leaf};
use crate::format::namespaces::{NamespaceEntry, NamespaceTable, WRAPPED_KEY_BYTES};
use crate::format::record::{Place, RecordBody, RecordHeader};
use crate::format::root::{
    DirectoryChange, LeafImage, Lifetime, Root, SegmentChange, WindowSegment, WindowSession, WindowState,
};
use crate::format::slot::{Prelude, StagingHeader};
use crate::format::summary::{Change, SummaryEntry, decode_summary, encode_summary};
use crate::format::superblock::{JournalName, KeySource, LABEL_BYTES, Superblock};
use crate::format::{Cipher, Codec, Compression, Entry, Location, State, Tier};
use crate::limits::LEAF_ENTRIES;
use crate::units::{Generation, Granule, JournalId, Lba, NamespaceId, OpNo, PoolId, SealNo, SegmentId, SessionId};

pub(super) const SESSION: SessionId = SessionId(0x5e55_1011_1213_1415);

pub(super) fn pool() -> PoolId {
    PoolId(std::array::from_fn(|i| 0xa0 + u8::try_from(i).unwrap()))
}

pub(super) fn place() -> Place {
    let (segment, generation) = (SegmentId(0x0012_3456), Generation(0x0708_090a));
    Place { pool: pool(), tier: Tier::Ssd, segment, generation, granule: Granule(0x0001_0200) }
}

pub(super) fn entry(granule: u32) -> Entry {
    let state = State::Data(Tier::Ssd);
    Entry::new(&Location {
        state,
        segment: SegmentId(0x77),
        granule: Granule(granule),
        sectors: 9,
        index: 0,
        check: 0x155,
    })
}

pub(super) fn superblock() -> Superblock {
    let mut label = [0; LABEL_BYTES];
    label[..6].copy_from_slice(b"sample");
    Superblock {
        pool: pool(),
        sequence: 0x0102_0304_0506_0708,
        pool_bytes: (4 << 20) + (4 << 20) * 0x321 + 4096,
        segment_bytes: 4 << 20,
        segment_count: 0x321,
        created: 0x1112_1314_1516_1718,
        key_source: KeySource::Passphrase { memory_kib: 0x0001_2345, passes: 0x33, lanes: 0x22, salt: [0x5a; 16] },
        key_check: [0xc4; 16],
        label,
        journal: None,
    }
}

pub(super) fn superblock_with_journal() -> Superblock {
    let journal = JournalName { id: JournalId([0x1d; 16]), volatile: true, path: b"/dev/pmem0".to_vec() };
    Superblock { journal: Some(journal), ..superblock() }
}

pub(super) fn journal_header() -> JournalHeader {
    JournalHeader {
        pool: pool(),
        id: JournalId([0x1d; 16]),
        sequence: 0x0102_0304_0506_0709,
        segment_count: 0x0001_0203,
        session: SESSION,
        previous: SessionId(0x2122_2324_2526_2728),
    }
}

pub(super) fn namespaces() -> NamespaceTable {
    let first = NamespaceEntry {
        id: NamespaceId(0x0001_0203),
        name: "pg_wal.main-1".into(),
        blocks: 0x00aa_bbcc_ddee,
        cipher: Cipher::Aes256Gcm,
        compression: Compression::Zstd,
        unit_blocks: 4,
        logical_block: 512,
        created: 0x2122_2324_2526_2728,
        wrapped_key: [0xee; WRAPPED_KEY_BYTES],
    };
    let second = NamespaceEntry {
        id: NamespaceId(0x0001_0204),
        name: "x".repeat(63),
        cipher: Cipher::Aes256Xts,
        compression: Compression::None,
        logical_block: 4096,
        ..first.clone()
    };
    NamespaceTable { pool: pool(), sequence: 0x3132, next_id: 0x0001_0205, entries: vec![first, second] }
}

pub(super) fn root() -> Root {
    let window = |segment, generation, state, end| WindowSegment {
        segment: SegmentId(segment),
        generation: Generation(generation),
        state,
        end,
    };
    let change =
        |segment, generation| SegmentChange { segment: SegmentId(segment), generation: Generation(generation) };
    let leaf = |leaf, entry| DirectoryChange {
        namespace: NamespaceId(0x41),
        leaf,
        image: LeafImage { entry, complete: OpNo(0x4243_4445), journaled: false },
    };
    Root {
        pool: pool(),
        sequence: 0x5152_5354_5556_5758,
        session: SESSION,
        clean: true,
        boot: [0xb0; 16],
        replay_start: OpNo(0x6162_6364_6566),
        last_op: OpNo(0x7172_7374_7576),
        lifetime: Lifetime {
            host_written: 0x8101,
            host_read: 0x8202,
            stored: 0x8303,
            media_written: 0x8404,
            host_discarded: 0x8505,
        },
        image: 0x9192,
        image_directory_bytes: 48,
        image_parts: vec![entry(0x11), entry(0x22)],
        image_generations: vec![change(0x77, 3)],
        sessions: vec![
            WindowSession { session: SessionId(0xabcd), last_accepted: OpNo(0x6162_6364_6567) },
            WindowSession { session: SessionId(0xabce), last_accepted: OpNo(0x6162_6364_6568) },
        ],
        window: vec![
            window(0x71, 2, WindowState::Announced, 0),
            window(0x72, 7, WindowState::Open, 0x12_3000),
            window(0x73, 8, WindowState::Flushed, 4 << 20),
        ],
        segments: vec![change(0x74, 4), change(0x75, 5)],
        directory: vec![leaf(0x1234, entry(0x33)), leaf(0x1235, Entry::HOLE)],
    }
}

/// Headers of all kinds with payloads; deltas 0, 1, 3, 4, 5, 60000.
pub(super) fn records() -> Vec<(RecordHeader, Vec<u8>)> {
    let seal = SealNo { session: SESSION, counter: 0x0d0e_0f01 };
    let write = RecordBody::Fragment { moved: false, codec: Codec::Lz4, count: 4, mask: 0xf, seal };
    let moved = RecordBody::Fragment { moved: true, codec: Codec::Raw, count: 8, mask: 0b1010_0101, seal };
    let zeros = RecordBody::Fragment { moved: false, codec: Codec::Zero, count: 1, mask: 1, seal };
    let (clear, image) = (RecordBody::Clear { count: 0x0102_0304 }, RecordBody::Image { image: 0x9192, part: 1 });
    let leaf = RecordBody::Leaf { complete: 0x4243_4445 };
    let record = |namespace, first, op_delta, stored: usize, body| {
        let header = RecordHeader {
            namespace: NamespaceId(namespace),
            first: Lba(first),
            op_delta,
            stored: u16::try_from(stored).unwrap(),
            body,
        };
        (header, (0..stored).map(|i| u8::try_from((i * 7 + stored) % 251).unwrap()).collect())
    };
    vec![
        record(0x41, 0x12_3456_789a, 0, 1000, write),
        record(0x42, 0x0a, 1, 33, moved),
        record(0x43, 0x0b, 3, 0, zeros),
        record(0x44, 0x0c, 4, 0, clear),
        record(0x45, 512 * 0x1234, 5, LEAF_BYTES, leaf),
        record(0, 0, 60_000, 76, image),
    ]
}

/// A batch of these records at `place`.
pub(super) fn batch_of(
    records: &[(RecordHeader, Vec<u8>)],
    place: &Place,
    session: SessionId,
    first_op: u64,
) -> Vec<u8> {
    let mut bytes = vec![0; BATCH_HEADER_BYTES];
    let mut checks = 0_u64;
    for (header, payload) in records {
        let granule = place.granule.0 + u32::try_from(bytes.len()).unwrap() / 16;
        let encoded = header.encode(xxh3_64(payload), &place.at(Granule(granule)));
        checks = checks.wrapping_add(RecordHeader::check_of(&encoded));
        bytes.extend_from_slice(&encoded);
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
    }
    let header = BatchHeader {
        length: u32::try_from(bytes.len()).unwrap(),
        count: u32::try_from(records.len()).unwrap(),
        session,
        first_op: OpNo(first_op),
        last_op: OpNo(first_op + records.last().map_or(0, |(h, _)| u64::from(h.op_delta))),
        settled: OpNo(first_op - 1),
        checks,
    };
    bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode(place));
    bytes
}

pub(super) fn batch() -> Vec<u8> {
    batch_of(&records(), &place(), SESSION, 0x6162_6364_6569)
}

/// Reads a batch as recovery does.
pub(super) fn read_batch(bytes: &[u8], place: &Place) -> Result<(BatchHeader, WalkedRecords)> {
    let header = BatchHeader::decode(bytes, place)?;
    let area = bytes.get(BATCH_HEADER_BYTES..header.length as usize).unwrap_or_default();
    let walked = walk_records(area, &place.at(Granule(place.granule.0 + 4)), |_, _, _| Ok(()))?;
    header.matches(&walked)?;
    Ok((header, walked))
}

pub(super) fn summary_entries() -> Vec<SummaryEntry> {
    let fragment = |moved, state, mask| {
        let (segment, granule) = (place().segment, Granule(0x0003_1234));
        let entry = Entry::new(&Location { state, segment, granule, sectors: 0x55, index: 0, check: 0x1a5 });
        Change::Fragment { moved, entry, mask }
    };
    let other = |kind, granule| Change::Other { kind, granule: Granule(granule) };
    let changes = [
        (0x41, fragment(false, State::Data(Tier::Ssd), 0xff)),
        (0x42, fragment(true, State::Data(Tier::Ssd), 0b101)),
        (0x43, fragment(false, State::Zero(Tier::Ssd), 1)),
        (0x44, Change::Clear { count: 1 << 30 }),
        (0x45, other(crate::format::record::RecordKind::Leaf, 0x0003_ffff)),
        (0, other(crate::format::record::RecordKind::Image, 1)),
    ];
    let entry = |(i, (namespace, change)): (usize, (u32, Change))| SummaryEntry {
        op: OpNo(0x6162_6364_6569 + 1000 * i as u64),
        namespace: NamespaceId(namespace),
        first: Lba(if namespace == 0 { 0 } else { 512 * (i as u64 + 1) }),
        change,
    };
    changes.into_iter().enumerate().map(entry).collect()
}

/// The last block of a segment with a summary.
pub(super) fn summary() -> Vec<u8> {
    let mut tail = vec![0xff; 4096];
    encode_summary(&summary_entries(), &place(), &mut tail);
    tail
}

pub(super) fn leaf_entries() -> [Entry; LEAF_ENTRIES] {
    std::array::from_fn(|i| match i % 3 {
        0 => Entry::HOLE,
        1 => entry(u32::try_from(i).unwrap()),
        _ => Entry::LOST,
    })
}

pub(super) fn leaf() -> Vec<u8> {
    let mut bytes = [0; LEAF_BYTES];
    encode_leaf(&leaf_entries(), &mut bytes);
    bytes.to_vec()
}

pub(super) fn image() -> (Vec<u8>, u64) {
    encode_image(root().directory.into_iter(), &[Generation(1), Generation(0), Generation(0x0102_0304)])
}

pub(super) fn staging_header() -> StagingHeader {
    StagingHeader { pool: pool(), session: SESSION, boot: [0xb1; 16], device: 0x0d0d_0e0e, inode: 0x1f1f_2f2f }
}

pub(super) fn prelude() -> Prelude {
    let Place { segment, generation, granule, .. } = place();
    Prelude { segment, generation, granule, first_op: OpNo(0x6162_6364_6569) }
}

/// Bytes of a table with two namespaces.
pub(super) fn namespaces_bytes() -> Vec<u8> {
    let mut bytes = vec![0xff; NAMESPACE_TABLE_BYTES];
    namespaces().encode(&mut bytes).unwrap();
    bytes
}

pub(super) fn root_bytes() -> Vec<u8> {
    let mut bytes = vec![0xff; root().encoded_bytes()];
    assert_eq!(root().encode(&mut bytes).unwrap(), bytes.len());
    bytes
}

/// A structure: name of its golden file, bytes of its sample, and a complete reader that tells what it read.
pub(super) struct Structure {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) read: fn(&[u8]) -> Result<String>,
    /// Whether a check covers it by itself.
    pub(super) checked: bool,
}

fn told<T: std::fmt::Debug>(read: Result<T>) -> Result<String> {
    read.map(|value| format!("{value:?}"))
}

pub(super) fn structures() -> Vec<Structure> {
    let structure = |name, bytes, read| Structure { name, bytes, read, checked: true };
    let plain = |name, bytes, read| Structure { name, bytes, read, checked: false };
    vec![
        structure("superblock", superblock().encode().to_vec(), |b| told(Superblock::decode(b))),
        structure("namespaces", namespaces_bytes(), |b| told(NamespaceTable::decode(b, pool()))),
        structure("root", root_bytes(), |b| told(Root::decode(b, pool()))),
        structure("batch", batch(), |b| told(read_batch(b, &place()))),
        structure("summary", summary(), |b| told(decode_summary(b, &place()))),
        structure("staging-header", staging_header().encode().to_vec(), |b| told(StagingHeader::decode(b))),
        structure("prelude", prelude().encode(&place(), SESSION).to_vec(), |b| {
            told(Prelude::decode(b, pool(), SESSION))
        }),
        structure("journal", journal_header().encode().to_vec(), |b| told(JournalHeader::decode(b))),
        structure("superblock-journal", superblock_with_journal().encode().to_vec(), |b| told(Superblock::decode(b))),
        plain("leaf", leaf(), |b| told(decode_leaf(b))),
        plain("image", image().0, |b| told(decode_image(b, 48))),
    ]
}
