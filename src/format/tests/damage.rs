//! Every flipped byte and every truncation is noticed; another place, pool or session is another thing.

use xxhash_rust::xxh3::xxh3_64;

use super::samples::*;
use crate::error::ErrorKind;
use crate::format::Tier;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::namespaces::NamespaceTable;
use crate::format::record::{Place, RecordHeader};
use crate::format::root::Root;
use crate::format::slot::Prelude;
use crate::format::summary::decode_summary;
use crate::format::superblock::Superblock;
use crate::units::{Generation, Granule, PoolId, SegmentId, SessionId};

/// All positions of small structures; of the namespace table all that are not zero, and some of the zeros.
fn positions(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let small = bytes.len() <= 8192;
    (0..bytes.len()).filter(move |at| small || bytes[*at] != 0 || at % 127 == 0)
}

/// Padding behind records, which is never read.
fn padding() -> Vec<usize> {
    let mut at = BATCH_HEADER_BYTES;
    let mut padding = Vec::new();
    for (header, payload) in records() {
        padding.extend(at + 40 + payload.len()..at + header.record_bytes());
        at += header.record_bytes();
    }
    padding
}

#[test]
fn every_flip_is_rejected() {
    for structure in structures().into_iter().filter(|s| s.checked) {
        let mut bytes = structure.bytes.clone();
        let ignored = if structure.name == "batch" { padding() } else { Vec::new() };
        // zeros in front of a summary's entries are not part of it
        let start = if structure.name == "summary" { 4096 - 6 * 20 - 64 } else { 0 };
        for at in positions(&structure.bytes).filter(|at| *at >= start) {
            for flip in [1, 0x80, 0xff] {
                bytes[at] ^= flip;
                let read = (structure.read)(&bytes);
                assert_eq!(read.is_ok(), ignored.contains(&at), "{} byte {at} ^ {flip:#x}", structure.name);
                bytes[at] ^= flip;
            }
        }
    }
}

#[test]
fn every_truncation_is_rejected() {
    for structure in structures() {
        let bytes = &structure.bytes;
        let step = if bytes.len() > 8192 { 509 } else { 1 };
        let whole = (structure.read)(bytes).unwrap();
        for len in (0..bytes.len()).step_by(step) {
            match (structure.read)(&bytes[..len]) {
                // an image ends where the string of its parts ends, at a whole generation
                Ok(read) => {
                    assert!(structure.name == "image" && len >= 48 && read != whole, "{} {len}", structure.name);
                }
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound),
                    "{} cut to {len}: {error}",
                    structure.name
                ),
            }
        }
    }
}

#[test]
fn structures_of_one_size_are_not_read_from_more() {
    for structure in structures() {
        if matches!(structure.name, "namespaces" | "staging-header" | "prelude" | "leaf" | "journal") {
            let longer = [structure.bytes.as_slice(), &[0; 16]].concat();
            assert!((structure.read)(&longer).is_err(), "{}", structure.name);
            let mut sealed = longer;
            let end = sealed.len() - 8;
            let check = xxh3_64(&sealed[..end]);
            sealed[end..].copy_from_slice(&check.to_le_bytes());
            assert!((structure.read)(&sealed).is_err(), "{}", structure.name);
        }
    }
}

#[test]
fn a_summary_cut_in_front_is_rejected() {
    let tail = summary();
    for start in tail.len() - 6 * 20 - 64 + 1..tail.len() {
        decode_summary(&tail[start..], &place()).unwrap_err();
    }
}

/// Places that differ in one thing.
fn other_places() -> Vec<Place> {
    let here = place();
    vec![
        Place { pool: PoolId([1; 16]), ..here },
        Place { tier: Tier::Pmem, ..here },
        Place { segment: SegmentId(here.segment.0 + 1), ..here },
        Place { generation: Generation(here.generation.0 + 1), ..here },
        Place { granule: Granule(here.granule.0 + 256), ..here },
    ]
}

#[test]
fn misdirected_and_stale_records_batches_and_summaries_are_rejected() {
    let (header, payload) = records().remove(0);
    let encoded = header.encode(xxh3_64(&payload), &place());
    let check = RecordHeader::check_of(&encoded);
    for (index, other) in other_places().iter().enumerate() {
        header.verify(check, xxh3_64(&payload), other).unwrap_err();
        read_batch(&batch(), other).unwrap_err();
        // a summary is at the end of its segment, wherever a batch of it is
        assert_eq!(decode_summary(&summary(), other).is_ok(), index == 4, "{other:?}");
    }
    header.verify(check, xxh3_64(&payload) ^ 1, &place()).unwrap_err();
}

#[test]
fn structures_of_another_pool_or_session_are_rejected() {
    let other = PoolId([7; 16]);
    NamespaceTable::decode(&namespaces_bytes(), other).unwrap_err();
    Root::decode(&root_bytes(), other).unwrap_err();
    let bytes = prelude().encode(&place(), SESSION);
    Prelude::decode(&bytes, other, SESSION).unwrap_err();
    Prelude::decode(&bytes, pool(), SessionId(1)).unwrap_err();
}

#[test]
fn errors_name_structure_and_field() {
    let mut bytes = root_bytes();
    bytes[100] ^= 1;
    let damage = Root::decode(&bytes, pool()).unwrap_err().damage().unwrap();
    assert_eq!((damage.structure, damage.field), ("root", "checksum"));
}

#[test]
fn a_superblock_whose_rewrite_was_cut_short_is_told_from_a_damaged_one() {
    let (old, new) = (superblock(), Superblock { sequence: superblock().sequence + 1, ..superblock_with_journal() });
    let bytes = [old.encode(), new.encode()];
    let mut torn = 0;
    for sectors in 0..256_u32 {
        let pick = |at: usize| bytes[(sectors >> (at / 512) & 1) as usize][at];
        let copy: Vec<u8> = (0..4096).map(pick).collect();
        if Superblock::decode(&copy).is_err() {
            torn += 1;
            assert!(old.may_be_torn(&copy) && new.may_be_torn(&copy), "sectors {sectors:08b}");
        }
    }
    assert!(torn > 100, "{torn}");
    for at in (0..32).chain(40..176).chain(1220..4088) {
        let mut copy = old.encode();
        copy[at] ^= 1;
        assert!(!old.may_be_torn(&copy), "byte {at} is never rewritten");
    }
    assert!(!old.may_be_torn(&[0; 4096]) && !old.may_be_torn(&[]));
}
