//! What is written is read, and is as long as it says.

use super::samples::*;
use crate::error::ErrorKind;
use crate::format::batch::{BATCH_HEADER_BYTES, walk_records};
use crate::format::image::decode_image;
use crate::format::leaf::decode_leaf;
use crate::format::namespaces::{NamespaceEntry, NamespaceTable, valid_name};
use crate::format::record::{RECORD_HEADER_BYTES, RecordHeader, sectors_of};
use crate::format::root::Root;
use crate::format::slot::{Prelude, StagingHeader};
use crate::format::summary::{decode_footer, decode_summary, summary_bytes};
use crate::format::superblock::{KeySource, Superblock};
use crate::limits::{GRANULE, NAMESPACES_MAX};
use crate::units::{Generation, Granule, NamespaceId};

#[test]
fn superblocks() {
    assert_eq!(Superblock::decode(&superblock().encode()).unwrap(), superblock());
    let by_file = Superblock { key_source: KeySource::File, ..superblock() };
    assert_eq!(Superblock::decode(&by_file.encode()).unwrap(), by_file);
}

#[test]
fn namespace_tables() {
    assert_eq!(NamespaceTable::decode(&namespaces_bytes(), pool()).unwrap(), namespaces());
}

#[test]
fn a_full_namespace_table_keeps_its_checksum_and_its_last_entry() {
    let sample = namespaces().entries.remove(0);
    let entries = (1..=u32::try_from(NAMESPACES_MAX).unwrap())
        .map(|id| NamespaceEntry { id: NamespaceId(id), name: format!("n{id}"), ..sample.clone() })
        .collect();
    let mut table = NamespaceTable { entries, next_id: 5000, ..namespaces() };
    let mut bytes = namespaces_bytes();
    table.encode(&mut bytes).unwrap();
    assert_eq!(NamespaceTable::decode(&bytes, pool()).unwrap(), table);
    table.entries.push(NamespaceEntry { id: NamespaceId(4999), ..sample });
    assert_eq!(table.encode(&mut bytes).unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn names() {
    for good in ["a", "A9._-", "_x", &"n".repeat(63)] {
        assert!(valid_name(good), "{good}");
    }
    for bad in ["", ".a", "-a", "a b", "a/b", "ä", &"n".repeat(64)] {
        assert!(!valid_name(bad), "{bad}");
    }
}

#[test]
fn roots() {
    assert_eq!(Root::decode(&root_bytes(), pool()).unwrap(), root());
    let mut large = vec![0xff; 512 << 10];
    root().encode(&mut large).unwrap();
    assert_eq!(Root::decode(&large, pool()).unwrap(), root(), "what lies behind a root is not part of it");
}

#[test]
fn a_root_longer_than_its_slot_is_refused_when_written() {
    let mut root = root();
    root.directory = vec![root.directory[0]; 22_000];
    assert_eq!(root.encode(&mut vec![0; 1 << 20]).unwrap_err().kind(), ErrorKind::NoSpace);
}

#[test]
fn batches_and_their_records() {
    let bytes = batch();
    let (header, walked) = read_batch(&bytes, &place()).unwrap();
    assert_eq!((header.length as usize, header.count, walked.last_delta), (bytes.len(), 6, 60_000));
    assert_eq!(header.last_op.0 - header.first_op.0, 60_000);
    let mut found = Vec::new();
    let at = place().at(Granule(place().granule.0 + 4));
    walk_records(&bytes[BATCH_HEADER_BYTES..], &at, |header, place, payload| {
        assert_eq!(place.granule.0 % 4, (place.granule.0 - at.granule.0) % 4);
        found.push((*header, payload.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(found, records());
}

#[test]
fn a_record_takes_whole_granules() {
    for (header, payload) in records() {
        let bytes = header.record_bytes();
        assert_eq!(bytes % GRANULE as usize, 0);
        assert!((RECORD_HEADER_BYTES + payload.len()..RECORD_HEADER_BYTES + payload.len() + 16).contains(&bytes));
        let encoded = header.encode(7, &place());
        let (decoded, check) = RecordHeader::decode(&encoded).unwrap();
        assert_eq!((decoded, check), (header, RecordHeader::check_of(&encoded)));
        decoded.verify(check, 7, &place()).unwrap();
    }
}

#[test]
fn sectors_reach_from_the_first_to_the_last() {
    assert_eq!(sectors_of(Granule(0), 512), 1);
    assert_eq!(sectors_of(Granule(31), 40), 2, "496 + 40 bytes");
    assert_eq!(sectors_of(Granule(0x3_ffff), 32_824), 66, "the largest fragment, ill placed");
    assert_eq!(sectors_of(Granule(31), 40 + (60 << 10)), 122, "the largest image part");
}

#[test]
fn summaries() {
    assert_eq!(decode_summary(&summary(), &place()).unwrap(), summary_entries());
    let (count, base, _) = decode_footer(&summary(), &place()).unwrap();
    assert_eq!((count, base), (6, summary_entries()[0].op));
    let exact = summary().split_off(4096 - summary_bytes(6));
    assert_eq!(decode_summary(&exact, &place()).unwrap(), summary_entries());
}

#[test]
fn leaves_and_images() {
    assert_eq!(*decode_leaf(&leaf()).unwrap(), leaf_entries());
    let (bytes, directory_bytes) = image();
    let (directory, generations) = decode_image(&bytes, directory_bytes).unwrap();
    assert_eq!(directory, root().directory);
    assert_eq!(generations, [Generation(1), Generation(0), Generation(0x0102_0304)]);
}

#[test]
fn staging() {
    assert_eq!(StagingHeader::decode(&staging_header().encode()).unwrap(), staging_header());
    assert_eq!(Prelude::decode(&prelude().encode(&place(), SESSION), pool(), SESSION).unwrap(), prelude());
}
