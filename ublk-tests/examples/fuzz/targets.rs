//! What is fuzzed. A target says whether it accepted its input; what it accepts must encode to the same bytes, and be within
//! the bounds that the rest of the engine relies on.

use plica::format::batch::{BATCH_HEADER_BYTES, BatchHeader, walk_records};
use plica::format::golden;
use plica::format::image::{decode_image, encode_image};
use plica::format::layout::NAMESPACE_TABLE_BYTES;
use plica::format::leaf::{LEAF_BYTES, decode_leaf, encode_leaf};
use plica::format::namespaces::NamespaceTable;
use plica::format::record::{Place, RECORD_HEADER_BYTES, RecordBody, RecordHeader};
use plica::format::root::Root;
use plica::format::slot::{Prelude, StagingHeader};
use plica::format::summary::{Change, decode_summary, encode_summary, summary_bytes};
use plica::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use plica::format::{Tier, record};
use plica::limits::{NAMESPACE_BLOCKS_MAX, SLOT_BYTES};
use plica::units::{Generation, Granule, PoolId, SegmentId, SessionId};
use xxhash_rust::xxh3::xxh3_64;

use crate::{seal, streams};

/// A decoder under test.
pub(crate) struct Target {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// Runs it; whether it accepted the input. Panics when it does what it must not.
    pub(crate) run: fn(&[u8]) -> bool,
    /// Makes the checks of an input good.
    pub(crate) seal: fn(&mut [u8]),
    /// Golden files it starts from.
    golden: &'static [&'static str],
    /// More samples.
    samples: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// The inputs that mutations start from.
    pub(crate) fn corpus(&self) -> Vec<Vec<u8>> {
        let golden = self.golden.iter().map(|name| golden::bytes(name).expect("golden files are well-formed"));
        golden.chain((self.samples)()).collect()
    }
}

const fn target(
    name: &'static str,
    golden: &'static [&'static str],
    run: fn(&[u8]) -> bool,
    seal: fn(&mut [u8]),
) -> Target {
    Target { name, run, seal, golden, samples: Vec::new }
}

/// All targets; each owner of a decoder adds a line.
pub(crate) const TARGETS: &[Target] = &[
    target("superblock", &["superblock"], superblock, seal::at_end),
    target("namespaces", &["namespaces"], namespaces, seal::at_end),
    target("root", &["root"], root, seal::root),
    target("batch", &["batch"], batch, seal::batch),
    Target { samples: single_records, ..target("record", &[], one_record, seal::record) },
    target("summary", &["summary"], summary, seal::summary),
    target("staging-header", &["staging-header"], staging_header, seal::at_end),
    target("prelude", &["prelude"], prelude, seal::at_end),
    target("leaf", &["leaf"], leaf, seal::nothing),
    target("image", &["image"], image, seal::nothing),
    Target { samples: streams::clients, ..target("nbd", &[], streams::nbd, seal::nothing) },
    Target { samples: streams::lines, ..target("control", &[], streams::control, seal::nothing) },
];

/// The place that the golden files were made for.
pub(crate) fn place() -> Place {
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

fn superblock(bytes: &[u8]) -> bool {
    let Ok(block) = Superblock::decode(bytes) else { return false };
    assert_eq!(block.encode()[..], bytes[..SUPERBLOCK_BYTES]);
    true
}

fn namespaces(bytes: &[u8]) -> bool {
    let Ok(table) = NamespaceTable::decode(bytes, pool()) else { return false };
    let mut again = vec![0xff; NAMESPACE_TABLE_BYTES];
    table.encode(&mut again).expect("what was read fits");
    assert!(again == bytes, "{table:?} encodes to other bytes");
    true
}

fn root(bytes: &[u8]) -> bool {
    let Ok(root) = Root::decode(bytes, pool()) else { return false };
    let _ = root.check_bounds(100);
    let mut again = vec![0xff; root.encoded_bytes()];
    let length = root.encode(&mut again).expect("what was read fits");
    // a longer root than its content needs is odd, but its content is the same
    assert_eq!(Root::decode(&again, pool()).expect("readable"), root);
    if bytes.get(44..48) == Some(&u32::try_from(length).expect("small").to_le_bytes()) {
        assert!(again == bytes[..length], "{root:?} encodes to other bytes");
    }
    true
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

fn batch(bytes: &[u8]) -> bool {
    let place = place();
    let Ok(header) = BatchHeader::decode(bytes, &place) else { return false };
    assert_eq!(header.encode(&place)[..], bytes[..BATCH_HEADER_BYTES]);
    assert!((BATCH_HEADER_BYTES..=SLOT_BYTES).contains(&(header.length as usize)));
    let Some(area) = bytes.get(BATCH_HEADER_BYTES..header.length as usize) else { return false };
    let at = place.at(Granule(place.granule.0 + 4));
    let walked = walk_records(area, &at, |record, here, payload| {
        check_record(record, here, payload);
        assert_eq!(record.encode(xxh3_64(payload), here)[..], area[offset(&at, here)..][..RECORD_HEADER_BYTES]);
        Ok(())
    });
    walked.and_then(|walked| header.matches(&walked)).is_ok()
}

fn offset(start: &Place, here: &Place) -> usize {
    (here.granule.0 - start.granule.0) as usize * 16
}

fn one_record(bytes: &[u8]) -> bool {
    let Ok((header, check)) = RecordHeader::decode(bytes) else { return false };
    let end = RECORD_HEADER_BYTES + usize::from(header.stored);
    let Some(payload) = bytes.get(RECORD_HEADER_BYTES..end) else { return false };
    check_record(&header, &place(), payload);
    if header.verify(check, xxh3_64(payload), &place()).is_err() {
        return false;
    }
    assert_eq!(header.encode(xxh3_64(payload), &place())[..], bytes[..RECORD_HEADER_BYTES]);
    true
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

fn summary(bytes: &[u8]) -> bool {
    let Ok(entries) = decode_summary(bytes, &place()) else { return false };
    for entry in &entries {
        if let Change::Clear { count } = entry.change {
            assert!(entry.first.0.checked_add(count).is_some_and(|end| end <= NAMESPACE_BLOCKS_MAX), "{entry:?}");
        }
    }
    let length = summary_bytes(entries.len());
    let mut again = vec![0xff; length];
    encode_summary(&entries, &place(), &mut again);
    if entries.is_empty() {
        // the base of nothing may be anything
        return true;
    }
    let first_is_base = bytes[bytes.len() - length..][10..14] == [0; 4];
    assert!(!first_is_base || again == bytes[bytes.len() - length..], "{entries:?} encode to other bytes");
    true
}

fn staging_header(bytes: &[u8]) -> bool {
    StagingHeader::decode(bytes).is_ok_and(|header| {
        assert_eq!(header.encode()[..], *bytes);
        true
    })
}

fn prelude(bytes: &[u8]) -> bool {
    Prelude::decode(bytes, pool(), SESSION).is_ok_and(|prelude| {
        assert_eq!(prelude.encode(&place(), SESSION)[..], *bytes);
        true
    })
}

fn leaf(bytes: &[u8]) -> bool {
    let Ok(entries) = decode_leaf(bytes) else { return false };
    let mut again = [0; LEAF_BYTES];
    encode_leaf(&entries, &mut again);
    assert_eq!(again[..], *bytes);
    true
}

fn image(bytes: &[u8]) -> bool {
    let mut accepted = false;
    for directory_bytes in [0, 24, 48, 47, bytes.len() as u64, u64::MAX] {
        if let Ok((directory, generations)) = decode_image(bytes, directory_bytes) {
            let again = encode_image(directory.into_iter(), &generations);
            assert_eq!(again, (bytes.to_vec(), directory_bytes));
            accepted = true;
        }
    }
    accepted
}
