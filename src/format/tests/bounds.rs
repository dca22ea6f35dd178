//! Hostile values with good checks: what no encoder writes is refused, before it reaches arithmetic or memory.

use xxhash_rust::xxh3::xxh3_64;

use super::samples::*;
use super::tables::field;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader, OP_MAX, WalkedRecords};
use crate::format::journal::JournalHeader;
use crate::format::namespaces::NamespaceTable;
use crate::format::record::{Place, RecordBody, RecordHeader};
use crate::format::root::Root;
use crate::format::slot::Prelude;
use crate::format::summary::decode_footer;
use crate::format::superblock::Superblock;
use crate::format::{Codec, Entry};
use crate::limits::NAMESPACE_BLOCKS_MAX;
use crate::units::{Granule, JournalId, Lba, NamespaceId, OpNo, SealNo, SegmentId};

/// Sets a field of the documented table and seals the checksum at the end again.
fn forge(bytes: &mut [u8], table: &str, name: &str, value: u64) {
    let range = field(table, name);
    let len = range.len().min(8);
    bytes[range][..len].copy_from_slice(&value.to_le_bytes()[..len]);
    let end = bytes.len() - 8;
    let check = xxh3_64(&bytes[..end]);
    bytes[end..].copy_from_slice(&check.to_le_bytes());
}

#[test]
fn superblocks() {
    for (name, value) in [
        ("zero", 1),
        ("pool bytes", superblock().pool_bytes + 1),
        ("pool bytes", 4096),
        ("pool bytes", u64::MAX),
        ("segment bytes", 0),
        ("segment bytes", 3 << 20),
        ("segment bytes", 8 << 20),
        ("segment count", 0),
        ("segment count", 0xffff_ffff),
        ("key source", 3),
        ("memory", 0),
        ("memory", 0xffff_ffff),
        ("passes", 0xffff_ffff),
        ("lanes", 0xffff_ffff),
    ] {
        let mut bytes = superblock().encode();
        forge(&mut bytes, "superblock", name, value);
        assert!(Superblock::decode(&bytes).is_err(), "{name} {value:#x}");
    }
}

#[test]
fn superblocks_with_a_journal() {
    for (name, value) in [("journal flags", 2), ("journal path length", 1025), ("journal path length", 9)] {
        let mut bytes = superblock_with_journal().encode();
        forge(&mut bytes, "superblock", name, value);
        assert!(Superblock::decode(&bytes).is_err(), "{name} {value:#x}");
    }
    for (name, value) in [("journal flags", 1), ("journal path length", 1), ("journal path", 1)] {
        let mut bytes = superblock().encode();
        forge(&mut bytes, "superblock", name, value);
        assert!(Superblock::decode(&bytes).is_err(), "{name} {value:#x} without a journal");
    }
}

#[test]
fn journal_headers() {
    for (name, value) in [
        ("version", 2),
        ("segment bytes", 1 << 20),
        ("segment count", 0),
        ("segment count", 15),
        ("segment count", (1 << 24) + 1),
        ("zero", 1),
    ] {
        let mut bytes = journal_header().encode();
        forge(&mut bytes, "journal header", name, value);
        assert!(JournalHeader::decode(&bytes).is_err(), "{name} {value:#x}");
    }
    let nobody = JournalHeader { id: JournalId::default(), ..journal_header() };
    JournalHeader::decode(&nobody.encode()).unwrap_err();
}

#[test]
fn another_version_is_told_from_damage() {
    use crate::error::ErrorKind::{Corrupt, Version};
    let mut bytes = superblock().encode();
    forge(&mut bytes, "superblock", "version", 2);
    assert_eq!(Superblock::decode(&bytes).unwrap_err().kind(), Version);
    let mut bytes = superblock().encode();
    bytes[8] = 2;
    assert_eq!(Superblock::decode(&bytes).unwrap_err().kind(), Corrupt, "the checksum says that it is a flip");
}

#[test]
fn namespace_tables() {
    for (name, value) in [("count", 1023), ("count", 0xffff_ffff), ("count", 1), ("next id", 0x0001_0204), ("zero", 1)]
    {
        let mut bytes = namespaces_bytes();
        forge(&mut bytes, "namespace table", name, value);
        assert!(NamespaceTable::decode(&bytes, pool()).is_err(), "{name} {value:#x}");
    }
    for (name, value) in [
        ("id", 0),
        ("id", 0x0001_0204),
        ("cipher", 0),
        ("compression", 9),
        ("unit blocks", 3),
        ("unit blocks", 16),
        ("logical shift", 10),
        ("blocks", 0),
        ("blocks", NAMESPACE_BLOCKS_MAX + 1),
        ("name length", 0),
        ("name length", 12),
        ("name length", 64),
        ("name length", 255),
        ("zero", 1),
    ] {
        let mut bytes = namespaces_bytes();
        let range = field("namespace entry", name);
        let len = range.len().min(8);
        bytes[256..][range][..len].copy_from_slice(&value.to_le_bytes()[..len]);
        forge(&mut bytes, "namespace table", "sequence", 1);
        assert!(NamespaceTable::decode(&bytes, pool()).is_err(), "{name} {value:#x}");
    }
}

#[test]
fn roots() {
    let counts = ["image part", "session", "window", "segment change", "directory change", "image segment"];
    let mut cases: Vec<_> = counts.iter().map(|name| (format!("{name} count"), 0xffff_ffff)).collect();
    cases.extend(
        [("length", 0), ("length", 4095), ("length", 1 << 20), ("length", 8192), ("flags", 3)]
            .map(|(name, value)| (name.to_owned(), value)),
    );
    for (name, value) in cases {
        let mut bytes = root_bytes();
        forge(&mut bytes, "root", &name, value);
        assert!(Root::decode(&bytes, pool()).is_err(), "{name} {value:#x}");
    }
    for state in [0, 4, 0xfff, (4 << 20) + 4096 + 2] {
        let mut bytes = root_bytes();
        let window = 256 + 2 * 8 + 8 + 2 * 16;
        bytes[window + 8..window + 12].copy_from_slice(&u32::to_le_bytes(state));
        forge(&mut bytes, "root", "host read", 1);
        assert!(Root::decode(&bytes, pool()).is_err(), "state {state:#x}");
    }
}

#[test]
fn a_root_names_only_what_its_pool_can_have() {
    root().check_bounds(0x78).unwrap();
    root().check_bounds(0x77).unwrap_err();
    let changed = |change: fn(&mut Root)| {
        let mut root = root();
        change(&mut root);
        root.check_bounds(0x78)
    };
    changed(|r| r.window[0].segment = SegmentId(0x78)).unwrap_err();
    changed(|r| r.segments[0].segment = SegmentId(u32::MAX)).unwrap_err();
    changed(|r| r.image_generations[0].segment = SegmentId(0x78)).unwrap_err();
    changed(|r| r.sessions[0].session.0 = 0).unwrap_err();
    changed(|r| r.sessions[1].last_accepted = OpNo(u64::MAX)).unwrap_err();
    changed(|r| r.replay_start = r.last_op.next()).unwrap_err();
}

#[test]
fn entries_that_point_nowhere_have_no_other_bits() {
    Entry::from_bits(1).unwrap_err();
    Entry::from_bits(Entry::LOST.0 | 1 << 37).unwrap_err();
    assert_eq!(Entry::from_bits(0).unwrap(), Entry::HOLE);
    assert_eq!(Entry::from_bits(7 << 61).unwrap(), Entry::LOST);
    assert_eq!(Entry::from_bits(entry(3).0).unwrap(), entry(3));
}

#[test]
fn records() {
    let seal = SealNo { session: SESSION, counter: 1 };
    let fragment = |codec, count, mask| RecordBody::Fragment { moved: true, codec, count, mask, seal };
    let end = NAMESPACE_BLOCKS_MAX;
    for (namespace, first, stored, body) in [
        (0, 0, 100, fragment(Codec::Lz4, 1, 1)),
        (1, end - 1, 100, fragment(Codec::Lz4, 2, 1)),
        (1, 0, 0, fragment(Codec::Lz4, 1, 1)),
        (1, 0, 1, fragment(Codec::Zero, 1, 1)),
        (1, 0, 4096 + 17, fragment(Codec::Raw, 1, 1)),
        (1, 0, 100, fragment(Codec::Lz4, 2, 0)),
        (1, 0, 100, fragment(Codec::Lz4, 2, 4)),
        (1, 0, 0, RecordBody::Clear { count: 0 }),
        (1, 0, 1, RecordBody::Clear { count: 1 }),
        (1, end - 1, 0, RecordBody::Clear { count: 2 }),
        (1, 1, 0, RecordBody::Clear { count: u64::MAX }),
        (1, 1, 4096, RecordBody::Leaf { complete: 1 }),
        (1, 512, 4095, RecordBody::Leaf { complete: 1 }),
        (1, 0, 8, RecordBody::Image { image: 1, part: 0 }),
        (0, 0, 0, RecordBody::Image { image: 1, part: 0 }),
        (0, 0, u16::MAX, RecordBody::Image { image: 1, part: 0 }),
    ] {
        let header = RecordHeader { namespace: NamespaceId(namespace), first: Lba(first), op_delta: 0, stored, body };
        assert!(RecordHeader::decode(&header.encode(0, &place())).is_err(), "{header:?}");
    }
    let most = RecordHeader {
        namespace: NamespaceId(1),
        first: Lba(end - 8),
        op_delta: u16::MAX,
        stored: 32_768 + 16,
        body: fragment(Codec::Raw, 8, 0xff),
    };
    assert_eq!(RecordHeader::decode(&most.encode(0, &place())).unwrap().0, most);
}

/// A batch header with other bytes in a field, its check made good.
fn forged_batch_header(name: &str, value: u64) -> Vec<u8> {
    let mut bytes = batch();
    let range = field("batch", name);
    let len = range.len();
    bytes[range].copy_from_slice(&value.to_le_bytes()[..len]);
    let Place { pool, tier, segment, generation, granule } = place();
    let mut input = bytes[..56].to_vec();
    input.extend_from_slice(&pool.0);
    for word in [tier as u32, segment.0, generation.0, granule.0] {
        input.extend_from_slice(&word.to_le_bytes());
    }
    let check = xxh3_64(&input);
    bytes[56..64].copy_from_slice(&check.to_le_bytes());
    bytes
}

#[test]
fn batches() {
    assert_eq!(forged_batch_header("count", 6), batch(), "the check is what the specification says");
    for (name, value) in [
        ("length", 0),
        ("length", 48),
        ("length", BATCH_HEADER_BYTES as u64),
        ("length", 64 + 5 * 48),
        ("length", 0xffff_fff0),
        ("length", batch().len() as u64 + 8),
        ("count", 0),
        ("count", 0xffff),
        ("span", 4),
        ("first number", 0),
        ("first number", OP_MAX + 1),
        ("first number", u64::MAX),
    ] {
        let bytes = forged_batch_header(name, value);
        assert!(BatchHeader::decode(&bytes, &place()).is_err(), "{name} {value:#x}");
    }
    for (name, value) in [("count", 5), ("count", 7), ("span", 60_001), ("checks", 0), ("length", 64 + 7 * 48)] {
        let bytes = forged_batch_header(name, value);
        BatchHeader::decode(&bytes, &place()).unwrap();
        assert!(read_batch(&bytes, &place()).is_err(), "{name} {value:#x}");
    }
}

#[test]
fn a_header_matches_only_its_own_records() {
    let (header, walked) = read_batch(&batch(), &place()).unwrap();
    header.matches(&walked).unwrap();
    header.matches(&WalkedRecords { count: 5, ..walked }).unwrap_err();
    header.matches(&WalkedRecords { last_delta: 1, ..walked }).unwrap_err();
    header.matches(&WalkedRecords { checks: 0, ..walked }).unwrap_err();
}

#[test]
fn summaries_announce_no_more_than_a_segment_can_hold() {
    for (name, value) in [("count", u64::MAX), ("count", 70_000), ("base", u64::MAX)] {
        let mut bytes = summary();
        let footer = bytes.len() - 64;
        let range = field("summary footer", name);
        bytes[footer..][range].copy_from_slice(&value.to_le_bytes());
        let mut input = bytes[footer..footer + 56].to_vec();
        let here = place().at(Granule(0));
        input.extend_from_slice(&here.pool.0);
        for word in [here.tier as u32, here.segment.0, here.generation.0, 0] {
            input.extend_from_slice(&word.to_le_bytes());
        }
        let end = bytes.len() - 8;
        bytes[end..].copy_from_slice(&xxh3_64(&input).to_le_bytes());
        let error = decode_footer(&bytes, &place()).unwrap_err();
        assert_eq!(error.damage().unwrap().field, "count", "{name}: {error}");
    }
}

#[test]
fn preludes() {
    for (name, value) in [("tier", 0), ("granule", 0x101), ("granule", 1 << 18)] {
        let mut bytes = prelude().encode(&place(), SESSION);
        forge(&mut bytes, "prelude", name, value);
        assert!(Prelude::decode(&bytes, pool(), SESSION).is_err(), "{name} {value:#x}");
    }
}
