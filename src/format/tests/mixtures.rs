//! A place can be written twice in one generation, by two sessions: no mixture of the two batches is valid.

use super::samples::*;
use crate::format::Codec;
use crate::format::record::{RecordBody, RecordHeader};
use crate::units::{Lba, NamespaceId, SealNo, SessionId};

/// Eight raw blocks each: records of two such batches lie at the same places.
fn raw_blocks(fill: u8, session: SessionId) -> Vec<(RecordHeader, Vec<u8>)> {
    let record = |delta: u16| {
        let seal = SealNo { session, counter: u64::from(delta) + 1 };
        let body = RecordBody::Fragment { moved: false, codec: Codec::Raw, count: 1, mask: 1, seal };
        let header = RecordHeader {
            namespace: NamespaceId(1),
            first: Lba(u64::from(delta)),
            op_delta: delta,
            stored: 4096,
            body,
        };
        (header, vec![fill; 4096])
    };
    (0..8).map(record).collect()
}

#[test]
fn every_torn_overwrite_is_rejected() {
    let (old_session, new_session) = (SessionId(11), SessionId(12));
    let old = batch_of(&raw_blocks(1, old_session), &place(), old_session, 1000);
    let new = batch_of(&raw_blocks(2, new_session), &place(), new_session, 2000);
    assert_eq!(old.len(), new.len());
    // the header is new; of the sectors behind the first any prefix, and any single one, is old
    let sectors = new.len().div_ceil(512);
    for torn in 1..sectors {
        let end = ((torn + 1) * 512).min(new.len());
        let mut tail_old = new.clone();
        tail_old[torn * 512..].copy_from_slice(&old[torn * 512..]);
        read_batch(&tail_old, &place()).unwrap_err();
        let mut one_old = new.clone();
        one_old[torn * 512..end].copy_from_slice(&old[torn * 512..end]);
        read_batch(&one_old, &place()).unwrap_err();
    }
}

#[test]
fn whole_old_records_under_a_new_header_verify_one_by_one_and_are_still_rejected() {
    let old = batch_of(&raw_blocks(1, SessionId(11)), &place(), SessionId(11), 1000);
    let mut mixed = batch_of(&raw_blocks(2, SessionId(12)), &place(), SessionId(12), 2000);
    let last = mixed.len() - 4144;
    mixed[last..].copy_from_slice(&old[last..]);
    let error = read_batch(&mixed, &place()).unwrap_err();
    assert_eq!(error.damage().unwrap().field, "checks", "only the sum can tell");
}

#[test]
fn numbers_in_a_batch_begin_at_the_first_and_ascend() {
    for deltas in [[0, 2, 2], [0, 2, 1], [1, 2, 3]] {
        let mut records = raw_blocks(3, SESSION);
        records.truncate(3);
        for ((header, _), delta) in records.iter_mut().zip(deltas) {
            header.op_delta = delta;
        }
        let error = read_batch(&batch_of(&records, &place(), SESSION, 5000), &place()).unwrap_err();
        assert!(error.damage().unwrap().field.starts_with("number"), "{error}");
    }
}
