//! A simulated medium with a volatile write cache.
//!
//! ```text
//!   complete(change) ─► current image (what reads see) + unsynced list, in order of completion
//!   flush(mark)      ─► changes up to the mark go to the durable image, the rest stay unsynced
//!   crash            ─► current := durable + any subset of the sectors of each unsynced change, in order
//! ```
//!
//! **Invariants.** The durable image plus all unsynced changes is the current image. A change is torn only between
//! sectors of 512 bytes. **Not here:** time and operations in flight ([`super::backend`]), planned faults
//! ([`super::fault`]).

use std::rc::Rc;

use fastrand::Rng;

/// What a crash tears is a multiple of this many bytes.
pub const SECTOR: u64 = 512;
const PAGE: usize = 4096;
const PAGE_U64: u64 = 4096;

/// Sparse bytes; clones share pages.
#[derive(Clone, Default)]
struct Image {
    pages: Vec<Option<Rc<[u8; PAGE]>>>,
}

impl Image {
    fn new(len: u64) -> Self {
        Self { pages: vec![None; index(len.div_ceil(PAGE_U64))] }
    }

    fn enlarge(&mut self, len: u64) {
        self.pages.resize(index(len.div_ceil(PAGE_U64)), None);
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        for_pages(offset, buf.len(), |page, within, range| match &self.pages[page] {
            Some(bytes) => buf[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
            None => buf[range].fill(0),
        });
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_pages(offset, bytes.len(), |page, within, range| {
            let page = self.pages[page].get_or_insert_with(|| Rc::new([0; PAGE]));
            Rc::make_mut(page)[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
    }

    fn zero(&mut self, offset: u64, len: u64) {
        for_pages(offset, index(len), |page, within, range| {
            let slot = &mut self.pages[page];
            if range.len() == PAGE {
                *slot = None;
            } else if let Some(page) = slot {
                Rc::make_mut(page)[within..within + range.len()].fill(0);
            }
        });
    }

    fn apply(&mut self, change: &Change) {
        match &change.effect {
            Effect::Write(bytes) => self.write(change.offset, bytes),
            Effect::Discard(len) => self.zero(change.offset, *len),
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("64-bit only")
}

fn for_pages(offset: u64, len: usize, mut each: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    let mut at = index(offset);
    while done < len {
        let within = at % PAGE;
        let n = (PAGE - within).min(len - done);
        each(at / PAGE, within, done..done + n);
        done += n;
        at += n;
    }
}

/// What an operation does to a range.
#[derive(Clone, Debug)]
pub enum Effect {
    /// These bytes are there.
    Write(Rc<[u8]>),
    /// This many bytes read as zeros.
    Discard(u64),
}

/// A change of a medium.
#[derive(Clone, Debug)]
pub struct Change {
    /// The first byte it changes.
    pub offset: u64,
    /// How.
    pub effect: Effect,
}

impl Change {
    /// Bytes it changes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.effect {
            Effect::Write(bytes) => bytes.len() as u64,
            Effect::Discard(len) => *len,
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part of it from byte `from` to byte `to`.
    #[must_use]
    pub fn part(&self, from: u64, to: u64) -> Self {
        let effect = match &self.effect {
            Effect::Write(bytes) => Effect::Write(Rc::from(&bytes[index(from)..index(to)])),
            Effect::Discard(_) => Effect::Discard(to - from),
        };
        Self { offset: self.offset + from, effect }
    }

    /// The parts that a crash leaves of it: runs of sectors, chosen by `rng` in one of several manners.
    pub fn torn(&self, rng: &mut Rng) -> Vec<Self> {
        let sectors = self.len().div_ceil(SECTOR);
        let manner = rng.u8(0..8);
        let cut = rng.u64(0..=sectors);
        let mut kept: Vec<bool> = match manner {
            0 | 1 => vec![false; index(sectors)],
            2 | 3 => vec![true; index(sectors)],
            4 => (0..sectors).map(|sector| sector < cut).collect(),
            5 => (0..sectors).map(|sector| sector >= cut).collect(),
            6 => (0..sectors).map(|_| rng.bool()).collect(),
            // all but one
            _ => (0..sectors).map(|sector| sector != cut).collect(),
        };
        kept.push(false);
        let mut parts = Vec::new();
        let mut start = None;
        for (sector, keep) in (0..).zip(kept) {
            match (keep, start) {
                (true, None) => start = Some(sector),
                (false, Some(from)) => {
                    parts.push(self.part(from * SECTOR, (sector * SECTOR).min(self.len())));
                    start = None;
                }
                _ => {}
            }
        }
        parts
    }
}

/// A block device or file, in memory.
pub struct Medium {
    len: u64,
    current: Image,
    durable: Image,
    unsynced: Vec<(u64, Change)>,
    completed: u64,
}

impl Medium {
    /// `len` zero bytes, all durable.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { len, current: Image::new(len), durable: Image::new(len), unsynced: Vec::new(), completed: 0 }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// It has so many bytes from now on, the new ones zeros; a length is durable at once.
    pub fn enlarge(&mut self, len: u64) {
        self.len = len.max(self.len);
        self.current.enlarge(self.len);
        self.durable.enlarge(self.len);
    }

    /// Whether it has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads what was written last, durable or not.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        self.current.read(offset, buf);
    }

    /// A change takes effect, for now only until a crash.
    pub fn complete(&mut self, change: Change) {
        self.completed += 1;
        self.current.apply(&change);
        self.unsynced.push((self.completed, change));
    }

    /// What a flush submitted now has to make durable: to be given to [`Medium::flush`] when it ends.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.completed
    }

    /// A flush submitted at `mark` succeeded.
    pub fn flush(&mut self, mark: u64) {
        let count = self.unsynced.partition_point(|(number, _)| *number <= mark);
        for (_, change) in self.unsynced.drain(..count) {
            self.durable.apply(&change);
        }
    }

    /// What is in a range is durable, as a write says that was to be durable.
    pub fn make_durable(&mut self, range: std::ops::Range<u64>) {
        let mut bytes = vec![0; index(range.end - range.start)];
        self.current.read(range.start, &mut bytes);
        self.durable.write(range.start, &bytes);
        // what is under it does not come back
        for (number, change) in std::mem::take(&mut self.unsynced) {
            let len = change.len();
            let within = |at: u64| at.clamp(change.offset, change.offset + len) - change.offset;
            for (from, to) in [(0, within(range.start)), (within(range.end), len)] {
                if from < to {
                    self.unsynced.push((number, change.part(from, to)));
                }
            }
        }
    }

    /// A flush submitted at `mark` failed: what it covered becomes durable or will never be, sector by sector, and no
    /// later flush tells.
    pub fn flush_failed(&mut self, mark: u64, rng: &mut Rng) {
        let count = self.unsynced.partition_point(|(number, _)| *number <= mark);
        for (_, change) in self.unsynced.drain(..count) {
            for part in change.torn(rng) {
                self.durable.apply(&part);
            }
        }
    }

    /// The machine loses power with `in_flight` under way: of each change that is not durable any sectors remain.
    pub fn crash(&mut self, in_flight: &[Change], rng: &mut Rng) {
        let unsynced = std::mem::take(&mut self.unsynced);
        for change in unsynced.iter().map(|(_, change)| change).chain(in_flight) {
            for part in change.torn(rng) {
                self.durable.apply(&part);
            }
        }
        self.current = self.durable.clone();
    }

    /// The daemon dies with `in_flight` under way: each lands, in part or whole, or never will.
    pub fn orphan(&mut self, in_flight: &[Change], rng: &mut Rng) {
        for change in in_flight {
            for part in change.torn(rng) {
                self.complete(part);
            }
        }
    }

    /// Damages the medium for good: the byte at `offset` is changed by `mask`.
    pub fn flip(&mut self, offset: u64, mask: u8) {
        for image in [&mut self.current, &mut self.durable] {
            let mut byte = [0];
            image.read(offset, &mut byte);
            image.write(offset, &[byte[0] ^ mask]);
        }
    }

    /// Changes that no flush has made durable.
    #[must_use]
    pub fn unsynced_count(&self) -> usize {
        self.unsynced.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(offset: u64, byte: u8, len: usize) -> Change {
        Change { offset, effect: Effect::Write(Rc::from(vec![byte; len])) }
    }

    fn sector(medium: &Medium, offset: u64) -> u8 {
        let mut buf = [0; 512];
        medium.read(offset, &mut buf);
        assert!(buf.iter().all(|byte| *byte == buf[0]), "a sector is torn");
        buf[0]
    }

    #[test]
    fn flush_covers_only_what_completed_before_it_was_submitted() {
        let (mut kept_late, mut lost_late) = (0, 0);
        for seed in 0..64 {
            let mut medium = Medium::new(1 << 20);
            medium.complete(write(0, 1, 4096));
            let mark = medium.mark();
            medium.complete(write(4096, 2, 512));
            medium.flush(mark);
            assert_eq!(sector(&medium, 4096), 2, "reads see what is unsynced");
            assert_eq!(medium.unsynced_count(), 1);
            medium.crash(&[], &mut Rng::with_seed(seed));
            assert_eq!(sector(&medium, 0), 1);
            assert_eq!(sector(&medium, 3584), 1);
            match sector(&medium, 4096) {
                2 => kept_late += 1,
                0 => lost_late += 1,
                other => panic!("{other} was never written"),
            }
        }
        assert!(kept_late > 0 && lost_late > 0, "a crash keeps some and loses some");
    }

    #[test]
    fn a_crash_tears_between_sectors_and_reaches_every_mix() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..512 {
            let mut medium = Medium::new(8192);
            medium.complete(write(0, 1, 1024));
            medium.flush(medium.mark());
            medium.complete(write(0, 2, 1024));
            medium.crash(&[write(512, 3, 512)], &mut Rng::with_seed(seed));
            seen.insert((sector(&medium, 0), sector(&medium, 512)));
        }
        let all = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_failed_flush_may_lose_what_no_later_flush_brings_back() {
        let mut lost = 0;
        for seed in 0..64 {
            let mut rng = Rng::with_seed(seed);
            let mut medium = Medium::new(8192);
            medium.complete(write(0, 7, 512));
            medium.flush_failed(medium.mark(), &mut rng);
            assert_eq!(sector(&medium, 0), 7, "still visible");
            medium.flush(medium.mark());
            medium.crash(&[], &mut rng);
            lost += u32::from(sector(&medium, 0) == 0);
        }
        assert!((5..60).contains(&lost), "{lost} of 64 lost");
    }

    #[test]
    fn discards_are_unsynced_too() {
        let mut back = 0;
        for seed in 0..64 {
            let mut medium = Medium::new(16384);
            medium.complete(write(0, 9, 8192));
            medium.flush(medium.mark());
            medium.complete(Change { offset: 0, effect: Effect::Discard(4096) });
            assert_eq!((sector(&medium, 0), sector(&medium, 4096)), (0, 9));
            medium.crash(&[], &mut Rng::with_seed(seed));
            back += u32::from(sector(&medium, 0) == 9);
            assert_eq!(sector(&medium, 4096), 9);
        }
        assert!((5..60).contains(&back), "{back} of 64 came back");
    }

    #[test]
    fn an_orphaned_write_lands_or_not_but_what_completed_stays() {
        let mut landed = 0;
        for seed in 0..64 {
            let mut medium = Medium::new(8192);
            medium.complete(write(0, 4, 512));
            medium.orphan(&[write(512, 5, 512)], &mut Rng::with_seed(seed));
            assert_eq!(sector(&medium, 0), 4);
            landed += u32::from(sector(&medium, 512) == 5);
        }
        assert!((5..60).contains(&landed), "{landed} of 64 landed");
    }

    #[test]
    fn a_durable_write_stays_and_covers_what_is_under_it() {
        for seed in 0..64 {
            let mut medium = Medium::new(8192);
            medium.complete(write(0, 1, 4096));
            medium.complete(write(512, 2, 1024));
            medium.make_durable(512..1536);
            medium.crash(&[], &mut Rng::with_seed(seed));
            assert_eq!([512, 1024].map(|at| sector(&medium, at)), [2, 2]);
            assert!([0, 1536].into_iter().all(|at| [0, 1].contains(&sector(&medium, at))));
        }
    }

    #[test]
    fn a_flip_is_for_good() {
        let mut medium = Medium::new(4096);
        medium.flip(100, 0x10);
        medium.crash(&[], &mut Rng::with_seed(1));
        let mut byte = [0];
        medium.read(100, &mut byte);
        assert_eq!(byte, [0x10]);
    }
}
