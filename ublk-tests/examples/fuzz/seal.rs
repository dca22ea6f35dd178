//! Checks made good again, from the specification and not by the code under test.

use xxhash_rust::xxh3::xxh3_64;

use crate::targets::place;

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
fn check(covered: &[u8], more: &[u8], granule: u32) -> u64 {
    let place = place();
    let mut input = [covered, more, &place.pool.0].concat();
    for word in [place.tier as u32, place.segment.0, place.generation.0, granule] {
        input.extend_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&input)
}

/// Nothing to make good.
pub(crate) fn nothing(_: &mut [u8]) {}

/// The checksum over all bytes before it at the end.
pub(crate) fn at_end(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(8) {
        put(bytes, end, xxh3_64(&bytes[..end]));
    }
}

/// The checksum at the end of a root's own length.
pub(crate) fn root(bytes: &mut [u8]) {
    let length = number(bytes, 44, 4);
    let length = if length <= bytes.len() { length } else { bytes.len() };
    at_end(&mut bytes[..length]);
}

fn record_at(bytes: &mut [u8], at: usize, granule: u32) -> Option<(usize, u64)> {
    let stored = number(bytes, at + 2, 2);
    let payload = bytes.get(at + 40..at + 40 + stored)?;
    let check = check(bytes.get(at..at + 32)?, &xxh3_64(payload).to_le_bytes(), granule);
    put(bytes, at + 32, check);
    Some((at + (40 + stored).next_multiple_of(16), check))
}

/// One record at the place.
pub(crate) fn record(bytes: &mut [u8]) {
    record_at(bytes, 0, place().granule.0);
}

/// All records of a batch, their sum, and the header; mostly count and span too.
pub(crate) fn batch(bytes: &mut [u8]) {
    let (mut at, mut sum) = (64, 0_u64);
    let granule = place().granule.0;
    let end = number(bytes, 4, 4).min(bytes.len());
    while at < end {
        let here = granule + u32::try_from(at / 16).unwrap_or(0);
        let Some((next, check)) = record_at(bytes, at, here) else { break };
        sum = sum.wrapping_add(check);
        at = next;
    }
    put(bytes, 48, sum);
    if let Some(covered) = bytes.get(..56) {
        put(bytes, 56, check(covered, &[], granule));
    }
}

/// The hash of a summary's entries and the check of its footer.
pub(crate) fn summary(bytes: &mut [u8]) {
    let Some(footer) = bytes.len().checked_sub(64) else { return };
    let count = number(bytes, footer + 16, 8);
    if let Some(start) = count.checked_mul(20).and_then(|len| footer.checked_sub(len)) {
        put(bytes, footer + 24, xxh3_64(&bytes[start..footer]));
    }
    put(bytes, footer + 56, check(&bytes[footer..footer + 56], &[], 0));
}
