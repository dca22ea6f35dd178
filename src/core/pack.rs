//! Packing: a group of neighbouring cold blocks joined, compressed as small as can be, and moved.
//!
//! ```text
//!   group (8 blocks, aligned) ─► map: where is each, and is it cold? ─► segments pinned ─► fragments fetched, verified
//!     ─► opened, joined, zstd, sealed anew ─► smaller? ─┬─ yes: one MOVE by compare for each run of blocks
//!                                                      └─ no: all stays as it is
//! ```
//!
//! Blocks that are holes, are on another tier, or lie in a segment that is not cold are not taken. What is dead in the old
//! fragments is not taken either. Blocks that change meanwhile stay what they became.
//!
//! **Invariants.** Only settled records are taken: a part of a request must not survive without the rest. Their segments are
//! pinned until the new records are appended, so an entry that compares equal is the one that was read (I2, I8). Each new
//! fragment has a new seal number (I7). Plaintext is only in memory of the codec (I6). What does not verify stays (I5).
//!
//! **Failure.** What cannot be fetched or opened is left where it is, logged. No room ends it: `NoSpace`.
//!
//! **Not here:** when, and which groups (`relocate`, `idle`), the budget (`recompress`).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::room::Purpose;
use super::unpack::runs;
use super::{Core, FRAGMENT_BUF_BYTES};
use crate::buf::AlignedBuf;
use crate::codec::{Encoded, FragmentName, GROUP_BLOCKS, GROUP_RUNS, PackJob, PackPart, PackRun, Packed, Sealer};
use crate::error::{Error, Result};
use crate::format::record::{RecordBody, RecordHeader, all_blocks, record_bytes};
use crate::format::{Codec, Compression, Entry, Location, State as EntryState, Tier};
use crate::limits::BLOCK_BYTES;
use crate::units::{Lba, LbaRange, NamespaceId};

/// Groups that were not worth it and are not tried again soon.
const REFUSED_KEPT: usize = 256;
/// Of sixteen parts that a group takes it must take one less.
const WORTH_SIXTEENTHS: usize = 15;

/// A group of blocks: a namespace, and its blocks divided by their number.
pub(super) type Group = (NamespaceId, u64);

/// The memory of whoever packs.
pub(super) struct PackBufs {
    bufs: ArrayVec<AlignedBuf, { GROUP_BLOCKS + GROUP_RUNS + 2 }>,
    refused: VecDeque<Group>,
}

impl PackBufs {
    pub(super) fn new() -> Self {
        let bufs = (0..GROUP_BLOCKS + GROUP_RUNS + 2).map(|_| AlignedBuf::zeroed(FRAGMENT_BUF_BYTES));
        Self { bufs: bufs.collect(), refused: VecDeque::with_capacity(REFUSED_KEPT) }
    }

    fn take(&mut self) -> AlignedBuf {
        let Some(buf) = self.bufs.pop() else { unreachable!("a buffer for each fragment and run of a group") };
        buf
    }

    fn refuse(&mut self, group: Group) {
        if self.refused.len() == REFUSED_KEPT {
            self.refused.pop_front();
        }
        self.refused.push_back(group);
    }
}

/// What a group is before it is packed.
struct Sample {
    first: Lba,
    entries: [Entry; GROUP_BLOCKS],
    /// Blocks that are taken.
    taken: u8,
    /// Their fragments, and which blocks are taken of each.
    parts: ArrayVec<(Location, u8), GROUP_BLOCKS>,
    sealer: Arc<Sealer>,
}

/// The groups that blocks of a record are in.
pub(super) fn groups_of(header: &RecordHeader) -> impl Iterator<Item = Group> + use<> {
    let RecordBody::Fragment { count, .. } = header.body else { unreachable!("the caller has a fragment") };
    let (namespace, blocks) = (header.namespace, GROUP_BLOCKS as u64);
    let last = header.first.0 + u64::from(count.max(1)) - 1;
    (header.first.0 / blocks..=last / blocks).map(move |group| (namespace, group))
}

impl Core {
    /// Recompresses a group if that makes it smaller. Returns how many blocks were moved.
    ///
    /// # Errors
    /// No room, or the latch; what was moved by then stays moved.
    pub(super) async fn pack_group(self: &Rc<Self>, group: Group, bufs: &mut PackBufs) -> Result<u64> {
        if bufs.refused.contains(&group) {
            return Ok(0);
        }
        let (id, first) = (group.0, group.1 * GROUP_BLOCKS as u64);
        let Some(count) = self.state.borrow().namespaces.get(&id).map(|n| n.entry.blocks.saturating_sub(first)) else {
            return Ok(0);
        };
        let range = LbaRange { start: Lba(first), count: count.min(GROUP_BLOCKS as u64) };
        if range.count == 0 {
            return Ok(0);
        }
        // 1. the map is known, and stays so
        let Ok(_known) = self.know(id, range).await else { return Ok(0) };
        // 2. what is cold, its segments pinned in the same step
        let Some(sample) = self.sample_group(id, range) else { return Ok(0) };
        let result = self.pack_sample(id, &sample, bufs).await;
        for (location, _) in &sample.parts {
            self.unpin(location.tier(), location.segment);
        }
        match result {
            Ok(None) => {
                bufs.refuse(group);
                self.recompress.refused.add(1);
                Ok(0)
            }
            Ok(Some(moved)) => Ok(moved),
            Err(error) => Err(error),
        }
    }

    fn sample_group(&self, id: NamespaceId, range: LbaRange) -> Option<Sample> {
        let now = self.env.now_ns();
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let settled = state.log.settled();
        let namespace = state.namespaces.get(&id)?;
        // who wants no compression is not given any
        if namespace.entry.compression == Compression::None {
            return None;
        }
        let mut sample = Sample {
            first: range.start,
            entries: [Entry::HOLE; GROUP_BLOCKS],
            taken: 0,
            parts: ArrayVec::new(),
            sealer: namespace.sealer.clone(),
        };
        for (index, lba) in (range.start.0..range.end().0).enumerate() {
            let entry = namespace.directory.get(Lba(lba));
            let Some(location) = entry.location().filter(|location| location.tier() == Tier::Ssd) else { continue };
            if !self.is_cold(state.log.segments.get(location.segment), settled, now) {
                continue;
            }
            sample.entries[index] = entry;
            sample.taken |= 1 << index;
            if matches!(location.state, EntryState::Data(_)) {
                let place = |l: &Location| (l.segment, l.granule);
                match sample.parts.iter_mut().find(|(other, _)| place(other) == place(&location)) {
                    Some((_, blocks)) => *blocks |= 1 << index,
                    None => sample.parts.push((location, 1 << index)),
                }
            }
        }
        for (location, _) in &sample.parts {
            state.log.segments.get_mut(location.segment).pins += 1;
        }
        (!sample.parts.is_empty()).then_some(sample)
    }

    /// `None` when it is not worth it, or something of it cannot be read.
    async fn pack_sample(
        self: &Rc<Self>,
        id: NamespaceId,
        sample: &Sample,
        bufs: &mut PackBufs,
    ) -> Result<Option<u64>> {
        // 3. its fragments
        let parts = self.fetch_parts(id, sample, bufs).await;
        let is_whole = parts.len() == sample.parts.len() && !is_packed(&parts, sample.taken);
        let before = bytes_of(&parts);
        // 4. what they would be
        let mut job = Box::new(PackJob {
            namespace: id,
            first: sample.first,
            sealer: sample.sealer.clone(),
            parts,
            runs: ArrayVec::new(),
            plain: bufs.take(),
            opened: bufs.take(),
        });
        let mut packed = false;
        let codec = self.recompress.codec.borrow().clone().filter(|_| is_whole);
        if let Some(codec) = codec {
            for (start, count) in runs(sample.taken) {
                let encoded = Encoded { codec: Codec::Raw, stored: 0, hash: 0 };
                job.runs.push(PackRun { start, count, seal: self.next_seal(), out: bufs.take(), encoded });
            }
            let Packed { job: done, result, cpu_ns } = codec.pack(job).await;
            job = done;
            self.charge(cpu_ns);
            self.recompress.cpu_ns.add(cpu_ns);
            if let Err(error) = &result {
                tracing::error!("namespace {id}, LBA {}: a fragment cannot be opened and stays: {error}", sample.first);
            }
            packed = result.is_ok();
        }
        // 5. moved, if that is worth it
        let after: usize = job.runs.iter().map(|run| record_bytes(run.encoded.stored)).sum();
        let moved = if packed && after * 16 <= before * WORTH_SIXTEENTHS {
            self.append_packed(sample, &job, before).await.map(Some)
        } else {
            Ok(None)
        };
        let PackJob { parts, runs, plain, opened, .. } = *job;
        bufs.bufs.extend(parts.into_iter().map(|part| part.sealed).chain(runs.into_iter().map(|run| run.out)));
        bufs.bufs.extend([plain, opened]);
        moved
    }

    /// The fragments of a group, verified; those that cannot be had are missing.
    async fn fetch_parts(
        self: &Rc<Self>,
        id: NamespaceId,
        sample: &Sample,
        bufs: &mut PackBufs,
    ) -> ArrayVec<PackPart, GROUP_BLOCKS> {
        let mut fetches = ArrayVec::<_, GROUP_BLOCKS>::new();
        for (location, _) in &sample.parts {
            fetches.push(self.start_fetch(location, bufs.take()));
        }
        let mut parts = ArrayVec::new();
        for ((location, blocks), fetch) in sample.parts.iter().zip(fetches.drain(..)) {
            let lba = Lba(sample.first.0 + u64::from(blocks.trailing_zeros()));
            let (header, sealed, at) = self.finish_fetch(fetch, location).await;
            let part = header.and_then(|header| {
                header.check_fragment(id, lba, location)?;
                part_of(&header, *blocks, sample.first)
            });
            match part {
                Ok((name, len)) => {
                    let at = at + crate::format::record::RECORD_HEADER_BYTES;
                    parts.push(PackPart { sealed, at, len, name, blocks: *blocks });
                }
                Err(error) => {
                    let entry = sample.entries[blocks.trailing_zeros() as usize];
                    self.lost_fragment(id, lba, entry, error);
                    bufs.bufs.push(sealed);
                }
            }
        }
        parts
    }

    async fn append_packed(self: &Rc<Self>, sample: &Sample, job: &PackJob, before: usize) -> Result<u64> {
        let mut moved = 0;
        let total: u64 = u64::from(sample.taken.count_ones());
        for run in &job.runs {
            let bytes = record_bytes(run.encoded.stored);
            self.make_room(Purpose::Pack, bytes, 1).await?;
            let body = RecordBody::Fragment {
                moved: true,
                codec: run.encoded.codec,
                count: run.count,
                mask: all_blocks(run.count),
                seal: run.seal,
            };
            let first = Lba(sample.first.0 + u64::from(run.start));
            let header = RecordHeader { namespace: job.namespace, first, op_delta: 0, stored: 0, body };
            let old = |index: u8| sample.entries[usize::from(run.start + index)];
            let payload = (&run.out[..run.encoded.stored], run.encoded.hash);
            let blocks = self.append_move(&header, payload, old, all_blocks(run.count), Purpose::Pack, true);
            if blocks > 0 {
                self.recompress.data.add(blocks * BLOCK_BYTES as u64);
                self.recompress.before.add(before as u64 * u64::from(run.count) / total);
                self.recompress.after.add(bytes as u64);
            }
            moved += blocks;
        }
        Ok(moved)
    }
}

/// Name and length of a fragment's payload, if all blocks that are taken are in it.
fn part_of(header: &RecordHeader, blocks: u8, group: Lba) -> Result<(FragmentName, usize)> {
    let RecordBody::Fragment { codec, count, seal, .. } = header.body else {
        return Err(Error::corrupt("fragment", "kind", 1, header.kind() as u64));
    };
    let name = FragmentName { namespace: header.namespace, first: header.first, count, codec, seal };
    let end = group.0 + u64::from(u8::BITS - blocks.leading_zeros());
    if header.first.0 > group.0 + u64::from(blocks.trailing_zeros()) || header.first.0 + u64::from(count) < end {
        return Err(Error::corrupt("fragment", "blocks", end, header.first.0 + u64::from(count)));
    }
    Ok((name, usize::from(header.stored)))
}

/// Whether nothing is to be gained: all that is taken is one fragment as it would become.
fn is_packed(parts: &[PackPart], taken: u8) -> bool {
    matches!(parts, [part] if part.name.codec == Codec::Zstd && part.blocks == taken
        && u32::from(part.name.count) == taken.count_ones())
}

/// Bytes that the blocks taken of these fragments have a share of.
fn bytes_of(parts: &[PackPart]) -> usize {
    let share = |part: &PackPart| {
        record_bytes(part.len) * part.blocks.count_ones() as usize / usize::from(part.name.count.max(1))
    };
    parts.iter().map(share).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{SealNo, SessionId};

    fn header(first: u64, count: u8) -> RecordHeader {
        let seal = SealNo { session: SessionId(1), counter: 1 };
        let body = RecordBody::Fragment { moved: true, codec: Codec::Lz4, count, mask: all_blocks(count), seal };
        RecordHeader { namespace: NamespaceId(1), first: Lba(first), op_delta: 0, stored: 100, body }
    }

    #[test]
    fn a_fragment_is_in_one_group_or_two() {
        let of = |first, count| groups_of(&header(first, count)).map(|(_, group)| group).collect::<Vec<_>>();
        assert_eq!(of(0, 8), [0]);
        assert_eq!(of(7, 1), [0]);
        assert_eq!(of(7, 2), [0, 1]);
        assert_eq!(of(12, 8), [1, 2]);
    }

    #[test]
    fn only_blocks_of_the_fragment_are_taken() {
        assert!(part_of(&header(12, 8), 0b1111_0000, Lba(8)).is_ok());
        assert!(part_of(&header(12, 8), 0b0000_1111, Lba(16)).is_ok());
        for (blocks, group) in [(0b1111_1000, 8), (0b0001_1111, 16), (0b1000_0000, 0)] {
            assert!(part_of(&header(12, 8), blocks, Lba(group)).is_err(), "{blocks:b} of {group}");
        }
    }
}
