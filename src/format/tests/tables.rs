//! The tables of FORMAT.md are what the code does: contiguous, as long as they say, and each field where they say.

use std::ops::Range;

use super::samples::*;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::image::encode_image;
use crate::format::journal::{JOURNAL_FRONT_BYTES, JOURNAL_HEADER_BYTES, JournalHeader};
use crate::format::layout::{END_BYTES, Layout, NAMESPACE_TABLE_BYTES, ROOT_BYTES};
use crate::format::leaf::LEAF_BYTES;
use crate::format::record::{Place, RECORD_HEADER_BYTES};
use crate::format::root::{DIRECTORY_CHANGE_BYTES, DirectoryChange, LeafImage, SEGMENT_CHANGE_BYTES};
use crate::format::slot::{PRELUDE_BYTES, STAGING_HEADER_BYTES};
use crate::format::summary::{SUMMARY_ENTRY_BYTES, SUMMARY_FOOTER_BYTES, summary_bytes};
use crate::format::superblock::SUPERBLOCK_BYTES;
use crate::limits::{NAMESPACES_MAX, SEGMENT_BYTES_MAX, SLOT_BYTES, SLOT_COUNT};

const FORMAT: &str = include_str!("../FORMAT.md");

struct Table {
    name: String,
    bytes: usize,
    rows: Vec<(String, Range<usize>)>,
}

/// `<!-- table: NAME BYTES -->`, then a table of `| offset | bytes | field | meaning |`.
fn tables() -> Vec<Table> {
    FORMAT.split("<!-- table: ").skip(1).map(parse_table).collect()
}

fn parse_table(text: &str) -> Table {
    let (title, rest) = text.split_once(" -->\n").unwrap();
    let (name, bytes) = title.rsplit_once(' ').unwrap();
    let mut lines = rest.lines();
    assert_eq!(lines.next(), Some("| offset | bytes | field | meaning |"), "{name}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(parse_row).collect();
    Table { name: name.into(), bytes: bytes.parse().unwrap(), rows }
}

fn parse_row(line: &str) -> (String, Range<usize>) {
    let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
    let start: usize = cells[0].parse().unwrap();
    let bytes = cells[1].split(" × ").map(|n| n.parse::<usize>().unwrap()).product::<usize>();
    (cells[2].into(), start..start + bytes)
}

/// Where a field of a table is.
pub(super) fn field(table: &str, name: &str) -> Range<usize> {
    let tables = tables();
    let table = tables.iter().find(|t| t.name == table).unwrap_or_else(|| panic!("no table {table}"));
    let row = table.rows.iter().find(|(field, _)| field == name);
    row.unwrap_or_else(|| panic!("no field {name} in {}", table.name)).1.clone()
}

#[test]
fn tables_are_contiguous_and_as_long_as_the_code_says() {
    let code = [
        ("front", usize::try_from(END_BYTES).unwrap()),
        ("back", usize::try_from(END_BYTES).unwrap()),
        ("superblock", SUPERBLOCK_BYTES),
        ("namespace table", NAMESPACE_TABLE_BYTES),
        ("namespace entry", 256),
        ("journal", usize::try_from(JOURNAL_FRONT_BYTES).unwrap()),
        ("journal header", JOURNAL_HEADER_BYTES),
        ("root", 256),
        ("session", 16),
        ("window", 12),
        ("segment change", SEGMENT_CHANGE_BYTES),
        ("directory change", DIRECTORY_CHANGE_BYTES),
        ("record", RECORD_HEADER_BYTES),
        ("batch", BATCH_HEADER_BYTES),
        ("summary entry", SUMMARY_ENTRY_BYTES),
        ("summary footer", SUMMARY_FOOTER_BYTES),
        ("place", Place::BYTES),
        ("staging file", 8192 + SLOT_COUNT * SLOT_BYTES),
        ("staging header", STAGING_HEADER_BYTES),
        ("slot words", 8 + PRELUDE_BYTES),
        ("prelude", PRELUDE_BYTES),
    ];
    let tables = tables();
    assert_eq!(tables.iter().map(|t| (t.name.as_str(), t.bytes)).collect::<Vec<_>>(), code);
    for table in tables {
        let mut at = 0;
        for (name, range) in &table.rows {
            assert_eq!(range.start, at, "{}: {name}", table.name);
            at = range.end;
        }
        assert_eq!(at, table.bytes, "{}", table.name);
    }
    assert_eq!(field("namespace table", "entries").len(), NAMESPACES_MAX * 256);
    assert_eq!(summary_bytes(3), 3 * 20 + 64);
    assert_eq!(LEAF_BYTES, 4096);
}

#[test]
fn parts_of_a_pool_are_where_the_tables_say() {
    let pool_bytes = (4 << 20) + 16 * u64::from(SEGMENT_BYTES_MAX) + 8192;
    let layout = Layout { pool_bytes, segment_bytes: SEGMENT_BYTES_MAX };
    for (copy, table, base) in [(0, "front", 0), (1, "back", pool_bytes - END_BYTES)] {
        let at = |name| base + field(table, name).start as u64;
        assert_eq!(layout.superblock(copy), at("superblock"));
        assert_eq!(layout.namespace_table(copy), at("namespace table"));
        assert_eq!(layout.root(6, copy), at("root slot 0"));
        assert_eq!(layout.root(7, copy), at("root slot 1"));
        assert_eq!(field(table, "root slot 0").len(), ROOT_BYTES);
    }
    assert_eq!(layout.segment(crate::units::SegmentId(3)), END_BYTES + 3 * u64::from(SEGMENT_BYTES_MAX));
}

/// Compares fields with what they must hold.
fn holds(table: &str, bytes: &[u8], fields: &[(&str, u64)]) {
    for (name, value) in fields {
        let range = field(table, name);
        let got = bytes[range].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        assert_eq!(got, *value, "{table}: {name} is {got:#x}");
    }
}

fn holds_bytes(table: &str, bytes: &[u8], name: &str, value: &[u8]) {
    assert_eq!(&bytes[field(table, name)], value, "{table}: {name}");
}

#[test]
fn superblock_fields() {
    let (bytes, block) = (superblock().encode(), superblock());
    holds_bytes("superblock", &bytes, "magic", b"PLICA\r\n\x1a");
    holds_bytes("superblock", &bytes, "pool", &pool().0);
    holds_bytes("superblock", &bytes, "salt", &[0x5a; 16]);
    holds_bytes("superblock", &bytes, "key check", &[0xc4; 16]);
    holds_bytes("superblock", &bytes, "label", &block.label);
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..4088]);
    holds(
        "superblock",
        &bytes,
        &[
            ("version", 1),
            ("sequence", block.sequence),
            ("pool bytes", block.pool_bytes),
            ("segment bytes", 4 << 20),
            ("segment count", 0x321),
            ("created", block.created),
            ("key source", 2),
            ("memory", 0x0001_2345),
            ("passes", 0x33),
            ("lanes", 0x22),
            ("checksum", check),
        ],
    );
}

#[test]
fn journal_fields() {
    let bytes = superblock_with_journal().encode();
    holds_bytes("superblock", &bytes, "journal", &[0x1d; 16]);
    holds("superblock", &bytes, &[("journal flags", 1), ("journal path length", 10)]);
    let path = [b"/dev/pmem0".as_slice(), &[0; 1014]].concat();
    holds_bytes("superblock", &bytes, "journal path", &path);
    let (bytes, header) = (journal_header().encode(), journal_header());
    holds_bytes("journal header", &bytes, "magic", b"PLCjrnl\0");
    holds_bytes("journal header", &bytes, "pool", &pool().0);
    holds_bytes("journal header", &bytes, "journal", &[0x1d; 16]);
    holds(
        "journal header",
        &bytes,
        &[
            ("version", 1),
            ("segment bytes", 256 << 10),
            ("sequence", header.sequence),
            ("session", SESSION.0),
            ("previous session", header.previous.0),
            ("segment count", 0x0001_0203),
            ("checksum", xxhash_rust::xxh3::xxh3_64(&bytes[..4088])),
        ],
    );
    for sequence in [6, 7] {
        let slot = format!("header slot {}", sequence % 2);
        assert_eq!(JournalHeader::offset(sequence), field("journal", &slot).start as u64);
    }
    let flagged = LeafImage { journaled: true, ..root().directory[0].image };
    let change = DirectoryChange { image: flagged, ..root().directory[0] };
    let bytes = encode_image([change].into_iter(), &[]).0;
    holds("directory change", &bytes, &[("complete", 1 << 63 | 0x4243_4445)]);
}

#[test]
fn namespace_fields() {
    let bytes = namespaces_bytes();
    holds_bytes("namespace table", &bytes, "magic", b"PLCnames");
    holds_bytes("namespace table", &bytes, "pool", &pool().0);
    holds("namespace table", &bytes, &[("sequence", 0x3132), ("next id", 0x0001_0205), ("count", 2)]);
    holds("namespace table", &bytes, &[("checksum", xxhash_rust::xxh3::xxh3_64(&bytes[..262_136]))]);
    let (first, second) = (&bytes[256..512], &bytes[512..768]);
    holds(
        "namespace entry",
        first,
        &[
            ("id", 0x0001_0203),
            ("cipher", 2),
            ("compression", 2),
            ("unit blocks", 4),
            ("logical shift", 9),
            ("blocks", 0x00aa_bbcc_ddee),
            ("created", 0x2122_2324_2526_2728),
            ("name length", 13),
        ],
    );
    holds("namespace entry", second, &[("cipher", 1), ("compression", 0), ("logical shift", 12), ("name length", 63)]);
    holds_bytes("namespace entry", second, "name", "x".repeat(63).as_bytes());
    holds_bytes("namespace entry", first, "wrapped key", &[0xee; 92]);
}

#[test]
fn root_fields() {
    let (bytes, root) = (root_bytes(), root());
    holds_bytes("root", &bytes, "magic", b"PLCroot\0");
    holds_bytes("root", &bytes, "pool", &pool().0);
    holds_bytes("root", &bytes, "boot", &[0xb0; 16]);
    holds(
        "root",
        &bytes,
        &[
            ("sequence", root.sequence),
            ("session", SESSION.0),
            ("flags", 1),
            ("length", 4096),
            ("replay start", root.replay_start.0),
            ("last number", root.last_op.0),
            ("host written", 0x8101),
            ("host read", 0x8202),
            ("stored", 0x8303),
            ("media written", 0x8404),
            ("host discarded", 0x8505),
            ("image", 0x9192),
            ("image directory bytes", 48),
            ("image part count", 2),
            ("session count", 2),
            ("window count", 3),
            ("segment change count", 2),
            ("directory change count", 2),
            ("image segment count", 1),
        ],
    );
    // parts, image segments, sessions, window, segment changes, directory changes
    let part = u64::from_le_bytes(*bytes[264..].first_chunk().unwrap());
    assert_eq!(part, entry(0x22).0);
    holds("segment change", &bytes[272..], &[("segment", 0x77), ("generation", 3)]);
    holds("session", &bytes[280 + 16..], &[("session", 0xabce), ("last accepted", 0x6162_6364_6568)]);
    holds("window", &bytes[312 + 12..], &[("segment", 0x72), ("generation", 7), ("end and state", 0x0012_3002)]);
    holds("segment change", &bytes[348 + 8..], &[("segment", 0x75), ("generation", 5)]);
    let directory = &bytes[364..];
    holds("directory change", directory, &[("namespace", 0x41), ("leaf", 0x1234), ("image", entry(0x33).0)]);
    holds("directory change", &directory[24..], &[("leaf", 0x1235), ("image", 0), ("complete", 0x4243_4445)]);
    assert_eq!(bytes[4088..], xxhash_rust::xxh3::xxh3_64(&bytes[..4088]).to_le_bytes());
}

#[test]
fn batch_and_record_fields() {
    let bytes = batch();
    let (header, walked) = read_batch(&bytes, &place()).unwrap();
    holds_bytes("batch", &bytes, "magic", b"PLCb");
    holds(
        "batch",
        &bytes,
        &[
            ("length", bytes.len() as u64),
            ("segment", 0x0012_3456),
            ("generation", 0x0708_090a),
            ("granule", 0x0001_0200),
            ("count", 6),
            ("span", 60_000),
            ("session", SESSION.0),
            ("first number", header.first_op.0),
            ("settled", header.settled.0),
            ("checks", walked.checks),
        ],
    );
    let mut at = BATCH_HEADER_BYTES;
    let expected: [&[(&str, u64)]; 6] = [
        &[("kind and codec", 0x11), ("shape", 3), ("stored", 1000), ("first LBA", 0x12_3456_789a), ("mask", 0xf)],
        &[("kind and codec", 0x02), ("shape", 7), ("mask", 0b1010_0101), ("a", SESSION.0), ("b", 0x0d0e_0f01)],
        &[("kind and codec", 0x31), ("shape", 0), ("stored", 0), ("mask", 1), ("number delta", 3)],
        &[("kind and codec", 0x03), ("shape", 0), ("mask", 0), ("a", 0x0102_0304), ("b", 0)],
        &[("kind and codec", 0x04), ("first LBA", 512 * 0x1234), ("a", 0x4243_4445), ("b", 0)],
        &[("kind and codec", 0x05), ("namespace", 0), ("a", 0x9192), ("b", 1), ("number delta", 60_000)],
    ];
    let mut sum = 0_u64;
    for ((record, payload), fields) in records().iter().zip(expected) {
        holds("record", &bytes[at..], fields);
        // the check as the specification has it
        let mut input = bytes[at..at + 32].to_vec();
        input.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(payload).to_le_bytes());
        input.extend_from_slice(&pool().0);
        let granule = 0x0001_0200 + u32::try_from(at / 16).unwrap();
        for word in [1, 0x0012_3456, 0x0708_090a, granule] {
            input.extend_from_slice(&u32::to_le_bytes(word));
        }
        let check = xxhash_rust::xxh3::xxh3_64(&input);
        holds("record", &bytes[at..], &[("check", check)]);
        sum = sum.wrapping_add(check);
        at += record.record_bytes();
    }
    assert_eq!(sum, walked.checks);
}

#[test]
fn summary_fields() {
    let bytes = summary();
    let entries = &bytes[4096 - 64 - 6 * 20..];
    let word = |kind: u64, rest: u64| kind << 44 | rest;
    let fragment = 0x1a5 << 25 | 0x55 << 18 | 0x0003_1234;
    holds("summary entry", entries, &[("namespace", 0x41), ("first LBA", 512), ("mask", 0xff), ("number delta", 0)]);
    for (index, what) in [
        word(1, fragment),
        word(2, fragment),
        word(1, 1 << 34 | fragment),
        word(3, 1 << 30),
        word(4, 0x0003_ffff),
        word(5, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let delta = 1000 * index as u64;
        holds("summary entry", &entries[index * 20..], &[("what", what), ("number delta", delta)]);
    }
    let footer = &bytes[4096 - 64..];
    holds_bytes("summary footer", footer, "magic", b"PLCsumm\0");
    let hash = xxhash_rust::xxh3::xxh3_64(&entries[..6 * 20]);
    holds("summary footer", footer, &[("base", 0x6162_6364_6569), ("count", 6), ("hash", hash)]);
}

#[test]
fn staging_fields() {
    let bytes = staging_header().encode();
    holds_bytes("staging header", &bytes, "magic", b"PLCstage");
    holds_bytes("staging header", &bytes, "pool", &pool().0);
    holds_bytes("staging header", &bytes, "boot", &[0xb1; 16]);
    holds("staging header", &bytes, &[("version", 1), ("session", SESSION.0), ("device", 0x0d0d_0e0e)]);
    holds("staging header", &bytes, &[("inode", 0x1f1f_2f2f), ("slot bytes", 512 << 10), ("slot count", 32)]);
    let bytes = prelude().encode(&place(), SESSION);
    holds_bytes("prelude", &bytes, "pool", &pool().0);
    holds("prelude", &bytes, &[("segment", 0x0012_3456), ("generation", 0x0708_090a), ("granule", 0x0001_0200)]);
    holds("prelude", &bytes, &[("tier", 1), ("first number", 0x6162_6364_6569), ("session", SESSION.0)]);
}
