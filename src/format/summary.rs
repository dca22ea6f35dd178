//! The summary at the end of a sealed segment: its records in operation order, 20 bytes each, so that recovery and
//! cleaning need not read payloads.
//!
//! ```text
//!   … batches … | zeros | entries | footer (64 bytes, ends with the segment)
//! ```
//! Believed only for a segment that the root names as flushed; any other is walked.

use xxhash_rust::xxh3::xxh3_64;

use super::batch::OP_MAX;
use super::cursor::{Reader, Writer};
use super::entry::{Entry, Location, State, Tier};
use super::record::{Place, RecordKind, record_bytes};
use crate::error::{Error, Result};
use crate::limits::{NAMESPACE_BLOCKS_MAX, SEGMENT_BYTES_MAX};
use crate::units::{Granule, Lba, NamespaceId, OpNo};

/// Bytes of an entry.
pub const SUMMARY_ENTRY_BYTES: usize = 20;
/// Bytes of the footer.
pub const SUMMARY_FOOTER_BYTES: usize = 64;
/// What the numbers in a segment may span.
pub const SUMMARY_SPAN_MAX: u64 = u32::MAX as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"PLCsumm\0");
const KIND_SHIFT: u32 = 44;
const ZERO: u64 = 1 << 34;

/// A record as the summary tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummaryEntry {
    /// Its operation number.
    pub op: OpNo,
    /// Whose.
    pub namespace: NamespaceId,
    /// First LBA.
    pub first: Lba,
    /// What it does to the map.
    pub change: Change,
}

/// What a record does to the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// WRITE or MOVE: the LBAs of `mask` are in the fragment that `entry` points to (index 0).
    Fragment {
        /// WRITE or MOVE.
        moved: bool,
        /// Entry of the fragment's first block.
        entry: Entry,
        /// Which blocks.
        mask: u8,
    },
    /// CLEAR of so many LBAs.
    Clear {
        /// LBAs.
        count: u64,
    },
    /// LEAF or IMAGE: nothing to replay.
    Other {
        /// Which.
        kind: RecordKind,
        /// Where in the segment.
        granule: Granule,
    },
}

/// Bytes of a summary of `count` entries, footer included.
#[must_use]
pub fn summary_bytes(count: usize) -> usize {
    count * SUMMARY_ENTRY_BYTES + SUMMARY_FOOTER_BYTES
}

/// Writes the summary into the end of `tail` (a whole number of blocks that ends with the segment); zeros before it.
///
/// # Panics
/// When the entries' numbers go back or span more than 32 bits ([`SUMMARY_SPAN_MAX`]): the log seals a segment before.
pub fn encode_summary(entries: &[SummaryEntry], place: &Place, tail: &mut [u8]) {
    let start = tail.len() - summary_bytes(entries.len());
    let (zeros, rest) = tail.split_at_mut(start);
    zeros.fill(0);
    let (body, footer) = rest.split_at_mut(entries.len() * SUMMARY_ENTRY_BYTES);
    let base = entries.first().map_or(0, |e| e.op.0);
    let mut w = Writer::new(body);
    let span = entries.last().map_or(0, |e| e.op.0 - base);
    assert!(span <= SUMMARY_SPAN_MAX && entries.is_sorted_by(|a, b| a.op < b.op), "numbers {base} + {span}");
    for entry in entries {
        let (mask, word) = match entry.change {
            Change::Fragment { moved, entry, mask } => (mask, fragment_word(moved, entry)),
            Change::Clear { count } => (0, (RecordKind::Clear as u64) << KIND_SHIFT | count),
            Change::Other { kind, granule } => (0, (kind as u64) << KIND_SHIFT | u64::from(granule.0)),
        };
        w.u32(entry.namespace.0).low_bytes::<5>(entry.first.0).u8(mask);
        w.low_bytes::<4>(entry.op.0 - base).low_bytes::<6>(word);
    }
    let body_hash = xxh3_64(body);
    let mut w = Writer::new(footer);
    w.u64(MAGIC).u64(base).u64(entries.len() as u64).u64(body_hash).zero_to(SUMMARY_FOOTER_BYTES - 8);
    let check = footer_check(footer, place);
    if let Some(at) = footer.last_chunk_mut::<8>() {
        *at = check.to_le_bytes();
    }
}

fn fragment_word(moved: bool, entry: Entry) -> u64 {
    let kind = if moved { RecordKind::Move } else { RecordKind::Write };
    let Some(l) = entry.location() else { unreachable!("a fragment is somewhere") };
    let zero = if matches!(l.state, State::Zero(_)) { ZERO } else { 0 };
    (kind as u64) << KIND_SHIFT | zero | u64::from(l.check) << 25 | u64::from(l.sectors) << 18 | u64::from(l.granule.0)
}

fn footer_check(footer: &[u8], place: &Place) -> u64 {
    let mut input = [0; SUMMARY_FOOTER_BYTES - 8 + Place::BYTES];
    let mut w = Writer::new(&mut input);
    w.bytes(footer.first_chunk::<{ SUMMARY_FOOTER_BYTES - 8 }>().unwrap_or(&[0; SUMMARY_FOOTER_BYTES - 8]));
    place.at(Granule(0)).write(&mut w);
    xxh3_64(&input)
}

/// How many entries the footer (the last bytes of `tail`) announces, after verifying it.
///
/// # Errors
/// [`crate::error::ErrorKind::Corrupt`] when there is no footer of this segment and generation.
pub fn decode_footer(tail: &[u8], place: &Place) -> Result<(usize, OpNo, u64)> {
    let Some(footer) = tail.last_chunk::<SUMMARY_FOOTER_BYTES>() else {
        return Err(Error::corrupt("summary", "length", SUMMARY_FOOTER_BYTES as u64, tail.len() as u64));
    };
    let mut r = Reader::new("summary", footer);
    let magic = r.u64()?;
    r.expect("magic", MAGIC, magic)?;
    let (base, count, body_hash) = (r.u64()?, r.u64()?, r.u64()?);
    r.zeros(SUMMARY_FOOTER_BYTES - 40)?;
    let check = r.u64()?;
    r.expect("check", footer_check(footer, place), check)?;
    let records_max = SEGMENT_BYTES_MAX as usize / (record_bytes(0) + SUMMARY_ENTRY_BYTES);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > records_max || base > OP_MAX {
        return Err(Error::corrupt("summary", "count", records_max as u64, count as u64));
    }
    Ok((count, OpNo(base), body_hash))
}

/// Reads the summary at the end of `tail`.
///
/// # Errors
/// [`crate::error::ErrorKind::Corrupt`] when it does not verify, or `tail` is shorter than the summary.
pub fn decode_summary(tail: &[u8], place: &Place) -> Result<Vec<SummaryEntry>> {
    let (count, base, body_hash) = decode_footer(tail, place)?;
    let start = tail.len().checked_sub(summary_bytes(count));
    let body = start.and_then(|start| tail.get(start..start + count * SUMMARY_ENTRY_BYTES));
    let Some(body) = body else {
        return Err(Error::corrupt("summary", "length", summary_bytes(count) as u64, tail.len() as u64));
    };
    let mut r = Reader::new("summary", body);
    r.expect("entries", body_hash, xxh3_64(body))?;
    let mut entries = Vec::with_capacity(count);
    while r.rest() > 0 {
        let namespace = NamespaceId(r.u32()?);
        let (first, mask) = (Lba(r.low_bytes::<5>()?), r.u8()?);
        let op = OpNo(base.0 + r.low_bytes::<4>()?);
        let change = decode_change(r.low_bytes::<6>()?, mask, place)?;
        let lbas = match change {
            Change::Fragment { mask, .. } => u64::from(8 - mask.leading_zeros()),
            Change::Clear { count } => count,
            Change::Other { .. } => 0,
        };
        if first.0 > NAMESPACE_BLOCKS_MAX.saturating_sub(lbas) || lbas > NAMESPACE_BLOCKS_MAX {
            return Err(Error::corrupt("summary", "LBAs", NAMESPACE_BLOCKS_MAX, first.0));
        }
        if entries.last().is_some_and(|before: &SummaryEntry| before.op >= op) {
            return Err(Error::corrupt("summary", "number", 0, op.0));
        }
        entries.push(SummaryEntry { op, namespace, first, change });
    }
    Ok(entries)
}

fn decode_change(word: u64, mask: u8, place: &Place) -> Result<Change> {
    let low = |shift: u32, bits: u32| u32::try_from(word >> shift & ((1 << bits) - 1)).unwrap_or(u32::MAX);
    let granule = Granule(low(0, 18));
    let (kind, rest) = (word >> KIND_SHIFT, word & ((1 << KIND_SHIFT) - 1));
    let other = |kind| Change::Other { kind, granule };
    Ok(match kind {
        1 | 2 if mask != 0 && rest < ZERO << 1 => {
            let state = if word & ZERO == 0 { State::Data(place.tier) } else { State::Zero(place.tier) };
            let sectors = u8::try_from(low(18, 7)).unwrap_or(u8::MAX);
            let check = u16::try_from(low(25, 9)).unwrap_or(u16::MAX);
            let location = Location { state, segment: place.segment, granule, sectors, index: 0, check };
            Change::Fragment { moved: kind == 2, entry: Entry::new(&location), mask }
        }
        3 if mask == 0 && rest > 0 => Change::Clear { count: rest },
        4 if mask == 0 && rest < 1 << 18 => other(RecordKind::Leaf),
        5 if mask == 0 && rest < 1 << 18 => other(RecordKind::Image),
        _ => return Err(Error::corrupt("summary", "kind", 1, word)),
    })
}

const _: () = assert!(Tier::Ssd as u32 == 1);
