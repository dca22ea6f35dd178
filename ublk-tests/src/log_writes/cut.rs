//! A power cut at a chosen entry of the log, applied to an image.

use std::{fs::File, os::unix::fs::FileExt};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Entry, Log};
use crate::{Failure, Result, failure::ensure};

/// What survives of the writes that no flush had covered.
pub enum Keep {
    /// None of them: the disk's cache is gone.
    Nothing,
    /// Of each nothing, all, or some of its sectors, as this generator says.
    Some(fastrand::Rng),
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Writes and discards that are on the disk for certain.
    pub durable: u64,
    /// Uncovered ones that survived whole.
    pub kept: u64,
    /// Uncovered ones of which some sectors survived.
    pub torn: u64,
    /// Uncovered ones that are gone.
    pub lost: u64,
}

/// Brings `image`, the disk as it was when the log began, to what a power cut just before entry `at` leaves.
///
/// # Errors
/// When the image or the log cannot be read or written, the log has no such entry, or its order cannot be told.
pub fn cut(log: &Log, image: &File, at: usize, mut keep: Keep) -> Result<Tally> {
    let entries = log.entries();
    ensure(at <= entries.len(), || format!("a cut at {at} in a log of {}", entries.len()))?;
    let covered = entries[..at].iter().rposition(|e| e.flags.is_flush()).map_or(0, |flush| flush + 1);
    let end = entries[at..].iter().position(|e| e.flags.is_flush()).map_or(entries.len(), |flush| at + flush);
    // forced writes that follow each other depend on each other: only the first one can have been under way
    let mut forced = entries[at..end].iter().enumerate().filter(|(_, e)| e.flags.is_forced());
    let end = forced.nth(1).map_or(end, |(second, _)| at + second);
    refuse_ambiguity(&entries[..end])?;
    let mut tally = Tally::default();
    for (index, entry) in entries[..end].iter().enumerate().filter(|(_, e)| e.sector_count > 0) {
        // The data that a flush brings along come after it, like any write that follows.
        let own_flush = index + 1 == covered;
        let durable = (index < covered && !own_flush) || (index < at && entry.flags.is_forced());
        if durable {
            apply(log, image, entry, |_| true)?;
            tally.durable += 1;
            continue;
        }
        let Keep::Some(random) = &mut keep else {
            tally.lost += 1;
            continue;
        };
        // Half of the cut ones are torn where there is something to tear.
        match random.u8(0..4) {
            0 => tally.lost += 1,
            1 => {
                apply(log, image, entry, |_| true)?;
                tally.kept += 1;
            }
            _ if entry.sector_count == 1 || entry.flags.is_discard() => tally.lost += 1,
            2 => {
                let first = random.u64(1..entry.sector_count);
                apply(log, image, entry, |sector| sector < first)?;
                tally.torn += 1;
            }
            _ => {
                apply(log, image, entry, |_| random.bool())?;
                tally.torn += 1;
            }
        }
    }
    Ok(tally)
}

/// A forced write is recorded at once, a plain one with the flush that covers it: when they overlap, the log does not tell
/// which of them was first. (Nothing in Plica forces a write over a plain one that is not flushed.)
fn refuse_ambiguity(entries: &[Entry]) -> Result<()> {
    for (index, forced) in entries.iter().enumerate().filter(|(_, e)| e.flags.is_forced()) {
        let mut flushes = 0;
        for (later, plain) in (index + 1..).zip(&entries[index + 1..]) {
            flushes += usize::from(plain.flags.is_flush());
            if flushes == 2 {
                break;
            }
            let apart = plain.sector + plain.sector_count <= forced.sector
                || forced.sector + forced.sector_count <= plain.sector
                || plain.flags.is_forced()
                || plain.sector_count == 0;
            ensure(apart, || format!("entries {index} (forced) and {later} (plain) overlap: which one was first?"))?;
        }
    }
    Ok(())
}

fn apply(log: &Log, image: &File, entry: &Entry, mut survives: impl FnMut(u64) -> bool) -> Result<()> {
    let sector_bytes = log.sector_bytes();
    let start = entry.sector * sector_bytes;
    let length = entry.sector_count * sector_bytes;
    if entry.flags.is_discard() {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return fallocate(image, hole, start, length).map_err(|e| Failure::new(format!("discarding: {e}")));
    }
    let too_long = |_| Failure::new(format!("an entry of {length} bytes"));
    let mut data = vec![0; usize::try_from(length).map_err(too_long)?];
    log.read_data(entry, &mut data)?;
    let step = usize::try_from(sector_bytes).map_err(too_long)?;
    // Runs of surviving sectors are written at once.
    let kept: Vec<bool> = (0..entry.sector_count).map(&mut survives).collect();
    let mut offset = 0;
    for run in kept.chunk_by(|a, b| a == b) {
        let bytes = &data[offset..offset + run.len() * step];
        let place = start + u64::try_from(offset).map_err(too_long)?;
        if run[0] {
            image.write_all_at(bytes, place).map_err(Failure::io("writing the image"))?;
        }
        offset += bytes.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::log_writes::log::build::{Item, flush, log, mark, write};

    fn image_after(items: &[Item], at: usize, keep: Keep) -> (Vec<u8>, Tally) {
        let (_file, log) = log(items);
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(16 * 512).unwrap();
        let tally = cut(&log, image.as_file(), at, keep).unwrap();
        let mut bytes = Vec::new();
        image.reopen().unwrap().read_to_end(&mut bytes).unwrap();
        (bytes.chunks(512).map(|sector| sector[0]).collect(), tally)
    }

    fn items() -> Vec<Item> {
        let forced = Item { flags: 2, ..write(2, 7, 1) };
        let marks = [mark("a"), mark("b")];
        let head = vec![write(0, 1, 2), flush(), write(0, 2, 1), write(1, 3, 1), forced, write(4, 4, 8), flush()];
        head.into_iter().chain(marks).chain([mark("c")]).collect()
    }

    #[test]
    fn without_the_cache_exactly_the_flushed_and_forced_survive() {
        assert_eq!(image_after(&items(), 1, Keep::Nothing).0[..3], [0, 0, 0]);
        assert_eq!(image_after(&items(), 2, Keep::Nothing).0[..3], [1, 1, 0]);
        let (before_forced, _) = image_after(&items(), 4, Keep::Nothing);
        assert_eq!(before_forced[..5], [1, 1, 0, 0, 0]);
        let (after_forced, tally) = image_after(&items(), 5, Keep::Nothing);
        assert_eq!(after_forced[..5], [1, 1, 7, 0, 0]);
        assert_eq!(tally, Tally { durable: 2, lost: 3, ..Tally::default() });
        assert_eq!(image_after(&items(), 7, Keep::Nothing).0[..5], [2, 3, 7, 0, 4]);
    }

    #[test]
    fn what_was_in_the_cache_survives_whole_torn_or_not_and_nothing_older_suffers() {
        let mut seen = Tally::default();
        for seed in 0..200 {
            let (bytes, tally) = image_after(&items(), 3, Keep::Some(fastrand::Rng::with_seed(seed)));
            assert!(matches!(bytes[0], 1 | 2) && matches!(bytes[1], 1 | 3) && matches!(bytes[2], 0 | 7), "{bytes:?}");
            assert!(bytes[4..12].iter().all(|b| matches!(b, 0 | 4)) && bytes[12] == 0, "{bytes:?}");
            assert_eq!((tally.durable, tally.kept + tally.torn + tally.lost), (1, 4));
            seen.kept += tally.kept;
            seen.torn += tally.torn;
            seen.lost += tally.lost;
        }
        assert!(seen.kept > 50 && seen.torn > 50 && seen.lost > 50, "{seen:?}");
    }

    #[test]
    fn a_forced_write_among_plain_ones_on_the_same_blocks_cannot_be_judged() {
        let forced = Item { flags: 2, ..write(1, 7, 1) };
        let marks = ["a", "b", "c"].map(mark);
        let (_file, log) = log(&[forced].into_iter().chain([write(0, 1, 2), flush()]).chain(marks).collect::<Vec<_>>());
        let image = tempfile::tempfile().unwrap();
        let said = cut(&log, &image, 3, Keep::Nothing).unwrap_err().to_string();
        assert!(said.contains("overlap"), "{said}");
    }

    #[test]
    fn a_discard_clears_and_a_flush_with_data_leaves_them_uncovered() {
        let discard = Item { flags: 4, ..write(1, 0, 2) };
        let with_data = Item { flags: 1, ..write(3, 9, 1) };
        let list = [write(0, 1, 4), with_data, discard, flush(), mark("a"), mark("b"), mark("c")];
        let (bytes, tally) = image_after(&list, 2, Keep::Nothing);
        assert_eq!(bytes[..4], [1, 1, 1, 1]);
        assert_eq!((tally.durable, tally.lost), (1, 2));
        assert_eq!(image_after(&list, 4, Keep::Nothing).0[..4], [1, 0, 0, 9]);
    }
}
