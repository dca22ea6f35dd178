//! Checks made good again, from the specification and not by the code under test.

use plica::format::record::Place;
use plica::units::{Generation, Granule};
use xxhash_rust::xxh3::xxh3_64;

use super::targets::{journal_place, place};

fn put(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(field) = bytes.get_mut(at..at + 8) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    let field = bytes.get(at..at + len).unwrap_or_default();
    field.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// `covered`, then more, then the place: what checks of records, batches and summaries are over.
fn check(place: &Place, covered: &[u8], more: &[u8]) -> u64 {
    let mut input = [covered, more, &place.pool.0].concat();
    for word in [place.tier as u32, place.segment.0, place.generation.0, place.granule.0] {
        input.extend_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&input)
}

/// Nothing to make good.
pub(super) fn nothing(_: &mut [u8]) {}

/// The checksum over all bytes before it at the end.
pub(super) fn at_end(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(8) {
        put(bytes, end, xxh3_64(&bytes[..end]));
    }
}

/// The checksum at the end of a root's own length.
pub(super) fn root(bytes: &mut [u8]) {
    let length = number(bytes, 44, 4);
    let length = if length <= bytes.len() { length } else { bytes.len() };
    at_end(&mut bytes[..length]);
}

fn record_at(bytes: &mut [u8], at: usize, place: &Place) -> Option<(usize, u64)> {
    let stored = number(bytes, at + 2, 2);
    let payload = bytes.get(at + 40..at + 40 + stored)?;
    let check = check(place, bytes.get(at..at + 32)?, &xxh3_64(payload).to_le_bytes());
    put(bytes, at + 32, check);
    Some((at + (40 + stored).next_multiple_of(16), check))
}

/// One record at the place.
pub(super) fn record(bytes: &mut [u8]) {
    record_at(bytes, 0, &place());
}

/// All records of a batch, their sum, and the header; mostly count and span too.
pub(super) fn batch(bytes: &mut [u8]) {
    batch_at(bytes, &place());
}

fn batch_at(bytes: &mut [u8], place: &Place) {
    let (mut at, mut sum) = (64, 0_u64);
    let end = number(bytes, 4, 4).min(bytes.len());
    while at < end {
        let here = place.at(Granule(place.granule.0 + u32::try_from(at / 16).unwrap_or(0)));
        let Some((next, check)) = record_at(bytes, at, &here) else { break };
        sum = sum.wrapping_add(check);
        at = next;
    }
    put(bytes, 48, sum);
    if let Some(covered) = bytes.get(..56) {
        put(bytes, 56, check(place, covered, &[]));
    }
}

/// Each batch of a journal's segment, with the generation that the first one says.
pub(super) fn journal_segment(bytes: &mut [u8]) {
    let generation = Generation(u32::try_from(number(bytes, 12, 4)).unwrap_or(0));
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= 64) {
        let granule = Granule(u32::try_from(at / 16).unwrap_or(0));
        batch_at(rest, &Place { generation, granule, ..journal_place() });
        at += number(rest, 4, 4).clamp(1, 1 << 20).next_multiple_of(4096);
    }
}

/// The prelude of a slot, and the batch in it.
pub(super) fn staging(bytes: &mut [u8]) {
    if let Some((front, slot)) = bytes.split_at_mut_checked(64) {
        at_end(&mut front[8..]);
        batch(slot);
    }
}

/// The hash of a summary's entries and the check of its footer.
pub(super) fn summary(bytes: &mut [u8]) {
    let Some(footer) = bytes.len().checked_sub(64) else { return };
    let count = number(bytes, footer + 16, 8);
    if let Some(start) = count.checked_mul(20).and_then(|len| footer.checked_sub(len)) {
        put(bytes, footer + 24, xxh3_64(&bytes[start..footer]));
    }
    let start = place().at(Granule(0));
    put(bytes, footer + 56, check(&start, &bytes[footer..footer + 56], &[]));
}
