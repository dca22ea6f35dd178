//! Which bytes may be where, by brute force over everything clients ever submitted.
//!
//! ```text
//!   clients ── submit / acknowledge ──► Oracle ──► a Cell for each logical block of each namespace
//!   reads ──── what was returned ─────►        ──► allowed, or a sentence that says why not
//!   world ──── deaths, recoveries ────►
//! ```
//!
//! What it holds the engine to:
//! - While serving, each logical block is a linearizable register.
//! - After the daemon's death everything acknowledged is there; after the machine's, everything covered by an
//!   acknowledged FLUSH that was submitted after the write's acknowledgement, every acknowledged FUA write, and every
//!   write that went to a persistent journal, as soon as it is acknowledged.
//! - What was not acknowledged or not flushed is there or not, but of every naturally aligned power-of-two range up to
//!   64 KiB of one request all or nothing (unless sub-block writes merged parts of it).
//! - What a recovery settled on stays, and is durable: a second death cannot change it.
//! - After a clean stop everything acknowledged is durable.

pub mod cell;

use std::collections::BTreeMap;
use std::ops::Range;

use super::content::{self, Found, SECTOR_BYTES};
use crate::limits::{ATOMIC_BYTES, BLOCK_SIZE};
use cell::{Cell, Moment};

pub use cell::Failure;

/// What a write leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// [`content::fill`] of its number.
    Data,
    /// Zeros: a discard or a write of zeros.
    Zeros,
}

/// A range of a namespace in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the namespace.
    pub namespace: usize,
    /// Bytes; multiples of the logical block.
    pub bytes: Range<u64>,
}

#[derive(Debug)]
struct Write {
    place: Place,
    fua: bool,
    submitted: Moment,
    acknowledged: Option<Moment>,
    durable: bool,
}

struct Flush {
    namespace: usize,
    submitted: Moment,
}

struct Read {
    place: Place,
    since: Moment,
}

struct Model {
    /// Number that the contents carry.
    id: u32,
    cell_bytes: u64,
    cells: Vec<Cell>,
    /// Acknowledged and perhaps not durable.
    unflushed: Vec<u64>,
}

impl Model {
    fn cells_of(&self, bytes: &Range<u64>) -> Range<usize> {
        to_index(bytes.start / self.cell_bytes)..to_index(bytes.end / self.cell_bytes)
    }

    fn sector_of(&self, cell: usize) -> u64 {
        cell as u64 * self.cell_bytes / SECTOR_BYTES as u64
    }
}

fn to_index(n: u64) -> usize {
    usize::try_from(n).expect("64-bit only")
}

/// The atomic range of a request of `bytes` that `at` is in: the largest naturally aligned power of two, at most 64 KiB.
#[must_use]
pub fn atom(bytes: &Range<u64>, at: u64) -> Range<u64> {
    let mut size = SECTOR_BYTES as u64;
    let mut best = at / size * size..at / size * size + size;
    while size <= ATOMIC_BYTES {
        let start = at / size * size;
        if start < bytes.start || start + size > bytes.end {
            break;
        }
        best = start..start + size;
        size *= 2;
    }
    best
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    namespaces: Vec<Model>,
    writes: BTreeMap<u64, Write>,
    reads: BTreeMap<u64, Read>,
    flushes: BTreeMap<u64, Flush>,
    now: Moment,
    next: u64,
}

impl Oracle {
    /// Nothing exists.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A namespace of zeros; `id` is what contents carry. Returns its index.
    pub fn add_namespace(&mut self, id: u32, size: u64, logical_block: u64) -> usize {
        let cells = vec![Cell::unwritten(); to_index(size / logical_block)];
        self.namespaces.push(Model { id, cell_bytes: logical_block, cells, unflushed: Vec::new() });
        self.namespaces.len() - 1
    }

    /// How many namespaces there are.
    #[must_use]
    pub fn namespace_count(&self) -> usize {
        self.namespaces.len()
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Since when the oldest read under way runs.
    fn reading_since(&self) -> Moment {
        self.reads.first_key_value().map_or(self.now, |(_, read)| read.since)
    }

    /// A write, discard or write of zeros is about to be handed over. Returns its number.
    pub fn submit_write(&mut self, place: Place, body: Body, fua: bool) -> u64 {
        let (now, id, since) = (self.tick(), self.next_id(), self.reading_since());
        let model = &mut self.namespaces[place.namespace];
        for index in model.cells_of(&place.bytes) {
            let zero = body == Body::Zeros || content::is_zero(id, model.sector_of(index));
            model.cells[index].submit(id, zero, now, since);
        }
        self.writes.insert(id, Write { place, fua, submitted: now, acknowledged: None, durable: false });
        id
    }

    /// A write was answered.
    pub fn end_write(&mut self, id: u64, good: bool) {
        let now = self.tick();
        let Some(write) = self.writes.get_mut(&id) else { return };
        let model = &mut self.namespaces[write.place.namespace];
        let cells = model.cells_of(&write.place.bytes);
        if !good {
            model.cells[cells].iter_mut().for_each(|cell| cell.fail(id, now));
            return;
        }
        write.acknowledged = Some(now);
        model.cells[cells].iter_mut().for_each(|cell| cell.acknowledge(id, now));
        model.unflushed.push(id);
        if write.fua {
            self.make_durable(&[id]);
        }
    }

    fn make_durable(&mut self, ids: &[u64]) {
        for id in ids {
            let Some(write) = self.writes.get_mut(id) else { continue };
            if std::mem::replace(&mut write.durable, true) {
                continue;
            }
            let model = &mut self.namespaces[write.place.namespace];
            let cells = model.cells_of(&write.place.bytes);
            model.cells[cells].iter_mut().for_each(|cell| cell.make_durable(*id));
        }
        let writes = &self.writes;
        for model in &mut self.namespaces {
            model.unflushed.retain(|id| writes.get(id).is_some_and(|write| !write.durable));
        }
    }

    /// An acknowledged write was durable at once: it is in a persistent journal.
    pub fn persisted(&mut self, id: u64) {
        self.make_durable(&[id]);
    }

    /// Where a write goes.
    #[must_use]
    pub fn place_of(&self, id: u64) -> Option<&Place> {
        self.writes.get(&id).map(|write| &write.place)
    }

    /// A flush is about to be handed over. Returns its number.
    pub fn submit_flush(&mut self, namespace: usize) -> u64 {
        let (submitted, id) = (self.tick(), self.next_id());
        self.flushes.insert(id, Flush { namespace, submitted });
        id
    }

    /// A flush was answered.
    pub fn end_flush(&mut self, id: u64, good: bool) {
        self.tick();
        let Some(flush) = self.flushes.remove(&id).filter(|_| good) else { return };
        let acknowledged = |id: &u64| self.writes.get(id).and_then(|write| write.acknowledged);
        let covered: Vec<u64> = self.namespaces[flush.namespace]
            .unflushed
            .iter()
            .copied()
            .filter(|id| acknowledged(id).is_some_and(|at| at < flush.submitted))
            .collect();
        self.make_durable(&covered);
    }

    /// A read is about to be handed over. Returns its number.
    pub fn submit_read(&mut self, place: Place) -> u64 {
        let (since, id) = (self.tick(), self.next_id());
        self.reads.insert(id, Read { place, since });
        id
    }

    /// A read ended in an error: it tells nothing.
    pub fn fail_read(&mut self, id: u64) {
        self.tick();
        self.reads.remove(&id);
    }

    /// A read returned `data`.
    ///
    /// # Errors
    /// The first block that may not read so, and why.
    pub fn end_read(&mut self, id: u64, data: &[u8]) -> Result<(), String> {
        let now = self.tick();
        let Some(read) = self.reads.remove(&id) else { return Err(format!("read {id} was answered twice")) };
        let model = &mut self.namespaces[read.place.namespace];
        let cells = model.cells_of(&read.place.bytes);
        if data.len() as u64 != read.place.bytes.end - read.place.bytes.start {
            return Err(format!("read {id} of {:?} returned {} bytes", read.place, data.len()));
        }
        for (index, bytes) in cells.zip(data.chunks_exact(to_index(model.cell_bytes))) {
            let sector = model.sector_of(index);
            let cell = &mut model.cells[index];
            let verdict = match content::find(model.id, sector, bytes) {
                Found::Zero => cell.read_zeros(read.since, now),
                Found::Write(write) => cell.read_write(write, read.since, now),
                Found::Foreign => Err(foreign(bytes)),
            };
            if let Err(why) = verdict {
                let at = index as u64 * model.cell_bytes;
                return Err(format!(
                    "read {id} (begun at {}) of namespace {} at byte {at:#x} returned {why}; possible: {}",
                    read.since,
                    model.id,
                    history(cell)
                ));
            }
        }
        Ok(())
    }

    /// Everything acknowledged is durable: the daemon stopped cleanly.
    pub fn stopped(&mut self) {
        self.tick();
        let all: Vec<u64> = self.namespaces.iter().flat_map(|model| model.unflushed.iter().copied()).collect();
        self.make_durable(&all);
    }

    /// A daemon serves again, after the worst of what happened since the last one served.
    pub fn recovered(&mut self, failure: Failure) {
        let now = self.tick();
        for cell in self.namespaces.iter_mut().flat_map(|model| &mut model.cells) {
            cell.recover(failure, now);
        }
        self.namespaces.iter_mut().for_each(|model| model.unflushed.clear());
        self.reads.clear();
        self.flushes.clear();
    }

    /// Checks that no atomic range is torn. To be called after a recovery, when everything was read and nothing
    /// written yet.
    ///
    /// # Errors
    /// The first range that is there in part.
    pub fn check_atoms(&self) -> Result<(), String> {
        self.namespaces
            .iter()
            .try_for_each(|model| (0..model.cells.len()).try_for_each(|index| self.check_atom(model, index)))
    }

    fn check_atom(&self, model: &Model, index: usize) -> Result<(), String> {
        let [present] = model.cells[index].versions() else { return Ok(()) };
        let Some(write) = self.writes.get(&present.id) else { return Ok(()) };
        if !Self::is_own_copy(model, index, present.id, write.submitted) {
            return Ok(());
        }
        let at = index as u64 * model.cell_bytes;
        for other in model.cells_of(&atom(&write.place.bytes, at)) {
            let cell = &model.cells[other];
            let older = cell
                .versions()
                .iter()
                .all(|version| version.id != present.id && version.ended.is_some_and(|ended| ended < write.submitted));
            if older {
                return Err(format!(
                    "write {} of {:x?} is there at byte {at:#x} of namespace {} but not at {:#x} of the same atomic \
                     range, which holds {}",
                    present.id,
                    write.place.bytes,
                    model.id,
                    other as u64 * model.cell_bytes,
                    history(cell)
                ));
            }
        }
        Ok(())
    }

    /// Whether a block of 4 KiB holds write `id` because of that write itself. A sub-block write that came later or at the
    /// same time merged what it found: its copy of the block survives on its own, with other parts of the write or not.
    fn is_own_copy(model: &Model, index: usize, id: u64, submitted: Moment) -> bool {
        let cells = to_index(u64::from(BLOCK_SIZE) / model.cell_bytes);
        let first = index / cells * cells;
        model.cells[first..first + cells]
            .iter()
            .flat_map(Cell::versions)
            .all(|version| version.id == id || version.ended.is_some_and(|ended| ended < submitted))
    }

    /// Writes that were submitted so far.
    #[must_use]
    pub fn write_count(&self) -> usize {
        self.writes.len()
    }

    /// What is known of a write, for reports.
    #[must_use]
    pub fn describe_write(&self, id: u64) -> String {
        self.writes.get(&id).map_or_else(|| format!("write {id} is unknown"), |write| format!("write {id}: {write:?}"))
    }
}

fn foreign(bytes: &[u8]) -> String {
    let sectors: Vec<String> = bytes.chunks_exact(SECTOR_BYTES).map(content::describe).collect();
    format!("bytes that no write put there: {}", sectors.join(", "))
}

fn history(cell: &Cell) -> String {
    let versions: Vec<String> = cell
        .versions()
        .iter()
        .map(|version| {
            let mark = |yes: bool, text: &'static str| if yes { text } else { "" };
            format!(
                "{}{}{}{} (submitted {}, ended {:?}, certain {:?})",
                version.id,
                mark(version.zero, " zeros"),
                mark(version.durable, " durable"),
                mark(version.base, " recovered"),
                version.submitted,
                version.ended,
                version.effective
            )
        })
        .collect();
    versions.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn place(blocks: Range<u64>) -> Place {
        Place { namespace: 0, bytes: blocks.start * 4096..blocks.end * 4096 }
    }

    /// What namespace 7 holds when `writes` are on it, the later over the earlier.
    fn image(writes: &[(u64, Range<u64>)], blocks: Range<u64>) -> Vec<u8> {
        let mut image = vec![0; to_index(SIZE)];
        for (id, range) in writes {
            let bytes = &mut image[to_index(range.start * 4096)..to_index(range.end * 4096)];
            content::fill(*id, 7, range.start * 8, bytes);
        }
        image[to_index(blocks.start * 4096)..to_index(blocks.end * 4096)].to_vec()
    }

    fn oracle() -> Oracle {
        let mut oracle = Oracle::new();
        oracle.add_namespace(7, SIZE, 4096);
        // numbers whose contents have no zero blocks in them make the tests below definite
        while (0..4096).any(|sector| (1..40).any(|id| content::is_zero(oracle.next + id, sector))) {
            oracle.next += 1;
        }
        oracle
    }

    fn read(oracle: &mut Oracle, blocks: Range<u64>, data: &[u8]) -> Result<(), String> {
        let id = oracle.submit_read(place(blocks));
        oracle.end_read(id, data)
    }

    #[test]
    fn atoms_are_the_largest_aligned_powers_of_two() {
        assert_eq!(atom(&(4096..16384), 4096), 4096..8192);
        assert_eq!(atom(&(4096..16384), 12288), 8192..16384);
        assert_eq!(atom(&(0..1 << 20), 70000), 65536..131_072);
        assert_eq!(atom(&(512..2048), 700), 512..1024);
        assert_eq!(atom(&(512..2048), 1024), 1024..2048);
    }

    #[test]
    fn reads_are_checked_byte_for_byte() {
        let mut oracle = oracle();
        let write = oracle.submit_write(place(1..3), Body::Data, false);
        oracle.end_write(write, true);
        let good = image(&[(write, 1..3)], 0..4);
        read(&mut oracle, 0..4, &good).unwrap();
        let mut bad = good.clone();
        bad[5000] ^= 1;
        assert!(read(&mut oracle, 0..4, &bad).unwrap_err().contains("no write put there"));
        assert!(read(&mut oracle, 0..4, &image(&[], 0..4)).unwrap_err().contains("zeros"));
        assert!(read(&mut oracle, 0..2, &good).unwrap_err().contains("bytes"));
        let misplaced = image(&[(write, 0..2)], 0..4);
        assert!(read(&mut oracle, 0..4, &misplaced).is_err());
    }

    #[test]
    fn flush_and_fua_survive_the_machine_and_the_rest_may() {
        let mut oracle = oracle();
        let flushed = oracle.submit_write(place(0..1), Body::Data, false);
        oracle.end_write(flushed, true);
        let early = oracle.submit_flush(0);
        let late = oracle.submit_write(place(1..2), Body::Data, false);
        oracle.end_write(late, true);
        let fua = oracle.submit_write(place(2..3), Body::Data, true);
        oracle.end_write(fua, true);
        oracle.end_flush(early, true);
        oracle.recovered(Failure::Machine);
        let all = [(flushed, 0..1), (late, 1..2), (fua, 2..3)];
        for (kept, allowed) in [(vec![0, 1, 2], true), (vec![0, 2], true), (vec![0, 1], false), (vec![1, 2], false)] {
            let mut oracle = oracle_again(&oracle);
            let kept: Vec<_> = kept.into_iter().map(|i: usize| all[i].clone()).collect();
            assert_eq!(read(&mut oracle, 0..3, &image(&kept, 0..3)).is_ok(), allowed, "{kept:?}");
        }
    }

    /// A copy with the same cells and writes and nothing under way.
    fn oracle_again(oracle: &Oracle) -> Oracle {
        let namespaces = oracle
            .namespaces
            .iter()
            .map(|model| Model { cells: model.cells.clone(), unflushed: Vec::new(), ..*model })
            .collect();
        Oracle { namespaces, now: oracle.now, next: oracle.next, ..Oracle::default() }
    }

    #[test]
    fn what_is_in_a_persistent_journal_survives_the_machine_unflushed() {
        for persistent in [true, false] {
            let mut oracle = oracle();
            let write = oracle.submit_write(place(0..1), Body::Data, false);
            oracle.end_write(write, true);
            if persistent {
                assert_eq!(oracle.place_of(write), Some(&place(0..1)));
                oracle.persisted(write);
            }
            oracle.recovered(Failure::Machine);
            assert_eq!(read(&mut oracle, 0..1, &image(&[], 0..1)).is_err(), persistent);
        }
    }

    #[test]
    fn a_failed_flush_promises_nothing() {
        let mut oracle = oracle();
        let write = oracle.submit_write(place(0..1), Body::Data, false);
        oracle.end_write(write, true);
        let flush = oracle.submit_flush(0);
        oracle.end_flush(flush, false);
        oracle.recovered(Failure::Machine);
        read(&mut oracle, 0..1, &image(&[], 0..1)).unwrap();
    }

    #[test]
    fn a_clean_stop_makes_everything_durable() {
        let mut oracle = oracle();
        let write = oracle.submit_write(place(0..1), Body::Data, false);
        oracle.end_write(write, true);
        oracle.stopped();
        oracle.recovered(Failure::Machine);
        assert!(read(&mut oracle, 0..1, &image(&[], 0..1)).is_err());
    }

    #[test]
    fn half_an_atomic_range_is_noticed() {
        let mut oracle = oracle();
        let write = oracle.submit_write(place(15..20), Body::Data, false);
        oracle.recovered(Failure::Daemon);
        // block 15 and blocks 16 to 19 are separate ranges
        read(&mut oracle, 0..32, &image(&[(write, 15..16)], 0..32)).unwrap();
        oracle.check_atoms().unwrap();

        let torn = oracle.submit_write(place(16..20), Body::Data, false);
        oracle.recovered(Failure::Daemon);
        read(&mut oracle, 0..32, &image(&[(write, 15..16), (torn, 16..18)], 0..32)).unwrap();
        assert!(oracle.check_atoms().unwrap_err().contains("atomic"));
    }

    #[test]
    fn a_later_write_over_part_of_an_atomic_range_is_no_tear() {
        let mut oracle = oracle();
        let first = oracle.submit_write(place(16..20), Body::Data, false);
        let second = oracle.submit_write(place(17..18), Body::Data, false);
        oracle.recovered(Failure::Machine);
        read(&mut oracle, 0..32, &image(&[(first, 16..20), (second, 17..18)], 0..32)).unwrap();
        oracle.check_atoms().unwrap();
    }

    #[test]
    fn sub_block_cells_are_on_their_own() {
        let mut oracle = Oracle::new();
        oracle.add_namespace(1, 8192, 512);
        let place = |bytes: Range<u64>| Place { namespace: 0, bytes };
        oracle.next = 100;
        while content::is_zero(oracle.next + 1, 0) || content::is_zero(oracle.next + 2, 0) {
            oracle.next += 1;
        }
        let a = oracle.submit_write(place(512..1024), Body::Data, false);
        let b = oracle.submit_write(place(1024..1536), Body::Data, false);
        oracle.end_write(a, true);
        oracle.end_write(b, true);
        let mut data = vec![0; 4096];
        content::fill(a, 1, 1, &mut data[512..1024]);
        let id = oracle.submit_read(place(0..4096));
        assert!(oracle.end_read(id, &data).is_err(), "the second was lost by a merge");
        content::fill(b, 1, 2, &mut data[1024..1536]);
        let id = oracle.submit_read(place(0..4096));
        oracle.end_read(id, &data).unwrap();
    }
}
