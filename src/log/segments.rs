//! The segments of a tier: generation, state, and what rule 6.3 asks before one is reused (I2).

mod tier0;

use std::collections::VecDeque;

pub use tier0::JournalSegment;

use super::StreamKind;
use crate::canary::{self, Rule};
use crate::units::{Generation, OpNo, SegmentId};

/// Life of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Nothing of it is needed; not announced.
    Free,
    /// A root that names it for use is being written.
    Announcing,
    /// A durable root names it for use.
    Announced,
    /// A stream appends to it.
    Open,
    /// Full or left behind; its summary is being written.
    Sealing,
    /// Full or left behind.
    Sealed,
}

/// How far a summary is on its way. It is written after all batches of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryState {
    /// None yet.
    None,
    /// Written.
    Written,
    /// A flush that covers it is under way.
    Flushing,
    /// Durable, and everything in the segment with it.
    Durable,
    /// There will be none: the segment is damaged, so not all that it holds is known.
    Never,
}

/// What is known of a segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentInfo {
    /// How often it was opened (or announced).
    pub generation: Generation,
    /// Where in its life it is.
    pub state: SegmentState,
    /// How far its summary is: believed by recovery only when durable.
    pub summary: SummaryState,
    /// Map entries (host segments) or directory entries and image parts (leaf segments) that point to it.
    pub live: u32,
    /// Blocks (or leaves and image parts) of all its records, live or not; 0 when not known: it was filled by an earlier
    /// session and has not been read since.
    pub total: u32,
    /// Bytes of its records; 0 when not known.
    pub bytes: u32,
    /// Number of the operation that took its last live entry.
    pub emptied_op: OpNo,
    /// Highest number in it.
    pub top_op: OpNo,
    /// Highest CLEAR in it; 0 when there is none.
    pub clear_op: OpNo,
    /// Bytes of closed batches in it: what a root names as its end.
    pub end: u32,
    /// Reads under way.
    pub pins: u32,
    /// Whether its space was written at least once.
    pub written: bool,
    /// When it was opened; 0 when that was before this serve.
    pub born_ns: u64,
    /// The stream that filled it in this serve.
    pub stream: Option<StreamKind>,
    /// Recompression has seen all that is in it.
    pub packed: bool,
}

impl SegmentInfo {
    fn new(generation: Generation, replay_start: OpNo) -> Self {
        Self {
            generation,
            state: if generation.0 == 0 { SegmentState::Free } else { SegmentState::Sealed },
            summary: SummaryState::None,
            live: 0,
            total: 0,
            bytes: 0,
            emptied_op: OpNo(0),
            top_op: replay_start,
            clear_op: replay_start,
            end: 0,
            pins: 0,
            written: generation.0 > 1,
            born_ns: 0,
            stream: None,
            packed: false,
        }
    }
}

/// All segments of a tier.
pub struct SegmentTable {
    infos: Vec<SegmentInfo>,
    free: VecDeque<SegmentId>,
    /// Free, and the medium had no space for them: they are not counted as free.
    refused: VecDeque<SegmentId>,
    announced: VecDeque<SegmentId>,
    /// Opened, and not yet wholly below the replay start: what roots list for recovery.
    window: Vec<SegmentId>,
    /// Sealed and without live entries, perhaps reusable.
    empty: Vec<SegmentId>,
    usage_known: bool,
    /// Tier 0: generations of this session are at least this.
    floor: Generation,
    /// Entries that went, ever: nothing can have become worth cleaning while this stays the same.
    drops: u64,
    /// Below how many live entries a segment is listed in `changed`.
    marks: Vec<u32>,
    /// Segments whose live part may have changed, each once. It has room for all: nothing is allocated for a change.
    changed: Vec<SegmentId>,
    is_listed: Vec<bool>,
}

impl SegmentTable {
    /// Segments with these generations: those never opened are free, what the others hold is not known until
    /// [`SegmentTable::usage_counted`]. Those not in the replay window hold nothing above `replay_start`.
    #[must_use]
    pub fn new(generations: Vec<Generation>, replay_start: OpNo) -> Self {
        let infos: Vec<_> = generations.into_iter().map(|g| SegmentInfo::new(g, replay_start)).collect();
        let never = infos.iter().enumerate().filter(|(_, info)| info.state == SegmentState::Free);
        let free = never.map(|(index, _)| SegmentId(u32::try_from(index).unwrap_or(u32::MAX))).collect();
        let count = infos.len();
        Self {
            infos,
            free,
            refused: VecDeque::new(),
            announced: VecDeque::new(),
            window: Vec::new(),
            empty: Vec::new(),
            usage_known: false,
            floor: Generation(0),
            drops: 0,
            marks: vec![0; count],
            changed: Vec::with_capacity(count),
            is_listed: vec![false; count],
        }
    }

    /// There are so many segments from now on: the new ones were never opened.
    pub fn grow(&mut self, count: usize) {
        for index in self.infos.len()..count {
            self.infos.push(SegmentInfo::new(Generation(0), OpNo(0)));
            self.free.push_back(SegmentId(u32::try_from(index).unwrap_or(u32::MAX)));
        }
        self.marks.resize(count, 0);
        self.is_listed.resize(count, false);
        self.changed.reserve(count - self.changed.len());
    }

    /// One segment.
    #[must_use]
    pub fn get(&self, id: SegmentId) -> &SegmentInfo {
        &self.infos[id.0 as usize]
    }

    /// One segment, to be changed.
    pub fn get_mut(&mut self, id: SegmentId) -> &mut SegmentInfo {
        &mut self.infos[id.0 as usize]
    }

    /// Whether a segment number is one of this tier's.
    #[must_use]
    pub fn contains(&self, id: SegmentId) -> bool {
        (id.0 as usize) < self.infos.len()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.infos.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SegmentId, &SegmentInfo)> {
        self.infos.iter().enumerate().map(|(i, info)| (SegmentId(u32::try_from(i).unwrap_or(u32::MAX)), info))
    }

    /// Whether live counts are complete (after an unclean stop they are counted in the background).
    #[must_use]
    pub fn usage_known(&self) -> bool {
        self.usage_known
    }

    /// Live counts are complete: what is empty may be freed. All that emptied it has a number of at most `now`.
    pub fn usage_counted(&mut self, now: OpNo) {
        self.usage_known = true;
        for index in 0..self.infos.len() {
            let (id, info) = (SegmentId(u32::try_from(index).unwrap_or(u32::MAX)), &mut self.infos[index]);
            if info.live == 0 && info.state == SegmentState::Sealed {
                info.emptied_op = info.emptied_op.max(now);
                self.empty.push(id);
            }
            self.list(id);
        }
    }

    /// Lists a segment whose live part may have changed.
    fn list(&mut self, id: SegmentId) {
        if !std::mem::replace(&mut self.is_listed[id.0 as usize], true) {
            self.changed.push(id);
        }
    }

    /// Takes a segment whose live part, or state, may have changed: it was sealed, measured, or has fewer live entries than
    /// its mark ([`SegmentTable::mark`]).
    pub fn take_changed(&mut self) -> Option<SegmentId> {
        let id = self.changed.pop()?;
        self.is_listed[id.0 as usize] = false;
        Some(id)
    }

    /// The segment is to be listed as changed when fewer than so many entries point to it.
    pub fn mark(&mut self, id: SegmentId, live: u32) {
        self.marks[id.0 as usize] = live;
    }

    /// An entry points to the segment from now on.
    pub fn add_live(&mut self, id: SegmentId) {
        if let Some(info) = self.infos.get_mut(id.0 as usize) {
            info.live += 1;
            if info.state == SegmentState::Sealed && self.usage_known {
                self.list(id);
            }
        }
    }

    /// Records of `bytes` were appended that hold `count` blocks, all live or soon to be.
    pub fn fill(&mut self, id: SegmentId, count: u32, bytes: u32) {
        let info = self.get_mut(id);
        (info.total, info.bytes) = (info.total.saturating_add(count), info.bytes.saturating_add(bytes));
    }

    /// Records of `bytes` that held `count` blocks, none of them live, were never written.
    pub fn empty(&mut self, id: SegmentId, count: u32, bytes: u32) {
        let info = self.get_mut(id);
        (info.total, info.bytes) = (info.total.saturating_sub(count).max(info.live), info.bytes.saturating_sub(bytes));
    }

    /// What reading the segment showed: it holds this much, of which only the live part is worth moving.
    pub fn measured(&mut self, id: SegmentId, total: u32, bytes: u32) {
        let info = self.get_mut(id);
        (info.total, info.bytes) = (total.max(info.live), bytes);
        self.list(id);
    }

    /// Dead blocks of the segment that cleaning cannot drop are not counted any more.
    pub fn forget_dead(&mut self, id: SegmentId, count: u32) {
        let info = self.get_mut(id);
        info.total = info.total.saturating_sub(count).max(info.live);
        if info.state == SegmentState::Sealed {
            self.list(id);
        }
    }

    /// Entries that went, ever.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.drops
    }

    /// An entry no longer points to the segment, by operation `op`.
    pub fn drop_live(&mut self, id: SegmentId, op: OpNo) {
        self.drops += 1;
        if let Some(info) = self.infos.get_mut(id.0 as usize) {
            debug_assert!(info.live > 0, "segment {id} has no live entries to drop");
            info.live = info.live.saturating_sub(1);
            info.emptied_op = info.emptied_op.max(op);
            if info.live == 0 && info.state == SegmentState::Sealed && self.usage_known {
                self.empty.push(id);
            }
            if info.live < self.marks[id.0 as usize] {
                self.list(id);
            }
        }
    }

    /// Nothing is appended to the segment any more.
    pub fn seal(&mut self, id: SegmentId) {
        let info = self.get_mut(id);
        info.state = SegmentState::Sealed;
        if info.live == 0 && self.usage_known {
            self.empty.push(id);
        }
        self.list(id);
    }

    /// A segment that recovery found in the replay window, with where accepted batches end in it, what its summary is
    /// worth, and the highest record and CLEAR in it (0 for none).
    pub fn recovered(&mut self, id: SegmentId, end: u32, summary: SummaryState, (top_op, clear_op): (OpNo, OpNo)) {
        self.window.push(id);
        let info = self.get_mut(id);
        (info.end, info.summary, info.top_op, info.clear_op) = (end, summary, top_op, clear_op);
    }

    /// A segment for use that nothing was appended to, as far as recovery accepted it: it may be opened as it is.
    pub fn recovered_announced(&mut self, id: SegmentId, generation: Generation) {
        self.free.retain(|free| *free != id);
        let info = self.get_mut(id);
        (info.generation, info.state) = (generation, SegmentState::Announced);
        (info.top_op, info.clear_op) = (OpNo(0), OpNo(0));
        (info.total, info.bytes) = (0, 0);
        self.announced.push_back(id);
    }

    /// A stream appends behind what recovery accepted of this segment.
    pub fn reopen(&mut self, id: SegmentId) {
        self.get_mut(id).state = SegmentState::Open;
    }

    /// The segments that a root with this replay start must list: those with records above it, and those whose summary is
    /// yet to become durable. So the summary of a segment that no root lists always tells what counts in it, never what a
    /// dead session's summary told of batches that recovery did not accept.
    pub fn window(&mut self, replay_start: OpNo) -> &[SegmentId] {
        let infos = &self.infos;
        self.window.retain(|id| {
            let info = &infos[id.0 as usize];
            match info.state {
                SegmentState::Free | SegmentState::Announcing | SegmentState::Announced => false,
                SegmentState::Open | SegmentState::Sealing => true,
                SegmentState::Sealed => {
                    info.top_op > replay_start || !matches!(info.summary, SummaryState::Durable | SummaryState::Never)
                }
            }
        });
        &self.window
    }

    /// Segments that the last root listed for replay, and those opened since.
    #[must_use]
    pub fn window_len(&self) -> usize {
        self.window.len()
    }

    /// A device flush begins: it covers the summaries written so far.
    pub fn start_flush(&mut self) {
        self.each_summary(SummaryState::Written, SummaryState::Flushing);
    }

    /// The flush ended.
    pub fn end_flush(&mut self, ok: bool) {
        self.each_summary(SummaryState::Flushing, if ok { SummaryState::Durable } else { SummaryState::None });
    }

    fn each_summary(&mut self, from: SummaryState, to: SummaryState) {
        for id in &self.window {
            let info = &mut self.infos[id.0 as usize];
            if info.summary == from {
                info.summary = to;
            }
        }
    }

    /// Rule 6.3, but for the announcement: may this segment's content go? `settled` is what all streams are durable up
    /// to, `replay_start` that of the durable root.
    #[must_use]
    pub fn reusable(&self, id: SegmentId, settled: OpNo, replay_start: OpNo) -> bool {
        let info = self.get(id);
        self.usage_known
            && info.state == SegmentState::Sealed
            && info.live == 0
            && info.pins == 0
            && info.emptied_op <= settled
            && info.top_op <= settled
            && (info.clear_op <= replay_start || canary::is_off(Rule::ClearBeforeReuse))
    }

    /// Frees every segment that rule 6.3 lets go. Returns how many empty ones have to wait for a flush or a root.
    pub fn reclaim(&mut self, settled: OpNo, replay_start: OpNo) -> usize {
        let candidates = std::mem::take(&mut self.empty);
        for id in candidates {
            if self.reusable(id, settled, replay_start) {
                self.get_mut(id).state = SegmentState::Free;
                self.free.push_back(id);
            } else if self.get(id).live == 0 && self.get(id).state == SegmentState::Sealed {
                self.empty.push(id);
            }
        }
        self.empty.sort_unstable();
        self.empty.dedup();
        self.empty.len()
    }

    /// Takes a free segment to be announced by the next root, with its next generation.
    pub fn announce(&mut self) -> Option<SegmentId> {
        let id = self.free.pop_front()?;
        let info = self.get_mut(id);
        info.state = SegmentState::Announcing;
        info.written |= info.generation.0 > 0;
        info.generation = Generation(info.generation.0 + 1);
        (info.emptied_op, info.top_op, info.clear_op) = (OpNo(0), OpNo(0), OpNo(0));
        (info.summary, info.end) = (SummaryState::None, 0);
        (info.total, info.bytes, info.packed) = (0, 0, false);
        Some(id)
    }

    /// The medium has no space for a segment that was just taken to be announced. No root and no image was made since,
    /// so its generation is as before: if it was never written it still counts as that, also after the next start.
    pub fn refuse(&mut self, id: SegmentId) {
        let info = self.get_mut(id);
        info.state = SegmentState::Free;
        info.generation = Generation(info.generation.0 - 1);
        self.refused.push_back(id);
    }

    /// The medium has no space for a segment that was never written, so for no other such one either.
    pub fn refuse_unwritten(&mut self) {
        let infos = &self.infos;
        let (unwritten, others): (VecDeque<_>, _) =
            self.free.drain(..).partition(|id| infos[id.0 as usize].generation.0 == 0);
        self.free = others;
        self.refused.extend(unwritten);
    }

    /// A segment that the medium had no space for: another one each time.
    pub fn next_refused(&mut self) -> Option<SegmentId> {
        let id = self.refused.pop_front()?;
        self.refused.push_back(id);
        Some(id)
    }

    /// The medium has space again, perhaps for all that it had none for.
    pub fn readmit(&mut self) {
        self.free.append(&mut self.refused);
    }

    /// A chosen segment is not announced after all. Its generation stays used up.
    pub fn withdraw(&mut self, id: SegmentId) {
        self.get_mut(id).state = SegmentState::Free;
        self.free.push_back(id);
    }

    /// The root that announces these is durable.
    pub fn announced(&mut self, ids: &[SegmentId]) {
        for id in ids {
            self.get_mut(*id).state = SegmentState::Announced;
            self.announced.push_back(*id);
        }
    }

    /// A segment that may be opened now.
    pub fn take_announced(&mut self) -> Option<SegmentId> {
        let id = self.announced.pop_front()?;
        self.get_mut(id).state = SegmentState::Open;
        self.window.push(id);
        Some(id)
    }

    /// Takes out one of the first `ahead` announced segments whose space was never written, if `left` others are left.
    /// Until [`SegmentTable::prepared`] nobody opens it; roots go on announcing it.
    pub fn take_to_prepare(&mut self, ahead: usize, left: usize) -> Option<SegmentId> {
        if self.announced.len() <= left {
            return None;
        }
        let index = self.announced.iter().take(ahead).position(|id| !self.get(*id).written)?;
        self.announced.remove(index)
    }

    /// What [`SegmentTable::take_to_prepare`] took out may be opened again, next of all.
    pub fn prepared(&mut self, id: SegmentId) {
        self.get_mut(id).written = true;
        self.announced.push_front(id);
    }

    /// Segments that may be opened now.
    #[must_use]
    pub fn announced_count(&self) -> usize {
        self.announced.len()
    }

    /// Segments free but not announced, without those that the medium had no space for.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Segments that the medium had no space for.
    #[must_use]
    pub fn refused_count(&self) -> usize {
        self.refused.len()
    }

    /// Segments that the medium has space for, as far as is known.
    #[must_use]
    pub fn usable_count(&self) -> usize {
        self.infos.len() - self.refused.len()
    }

    /// Segments without live entries that wait for a flush or a root.
    #[must_use]
    pub fn empty_count(&self) -> usize {
        self.empty.len()
    }

    /// Segments that can be written to, now or after a root or two.
    #[must_use]
    pub fn available(&self) -> usize {
        self.announced.len() + self.free.len() + self.empty.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments 0 and 1 hold nothing any more, 2 to 4 were never written.
    fn table() -> SegmentTable {
        let mut table = SegmentTable::new([1, 7, 0, 0, 0].map(Generation).to_vec(), OpNo(0));
        table.usage_counted(OpNo(0));
        table.reclaim(OpNo(0), OpNo(0));
        table
    }

    #[test]
    fn what_the_medium_has_no_space_for_is_neither_free_nor_available() {
        let mut table = table();
        assert_eq!((table.available(), table.refused_count()), (5, 0));
        let first = table.announce().unwrap();
        assert_eq!((first, table.get(first).generation), (SegmentId(2), Generation(1)));
        table.refuse(first);
        table.refuse_unwritten();
        // what stands behind those that were never written is next
        assert_eq!((table.free_count(), table.available(), table.refused_count()), (2, 2, 3));
        assert_eq!((table.usable_count(), table.count()), (2, 5));
        assert_eq!(
            [table.announce(), table.announce(), table.announce()],
            [Some(SegmentId(0)), Some(SegmentId(1)), None]
        );
    }

    #[test]
    fn a_refused_segment_uses_no_generation_up_and_still_counts_as_never_written() {
        let mut table = table();
        for _ in 0..2 {
            let id = table.announce().unwrap();
            table.refuse(id);
            assert_eq!((table.get(id).generation, table.get(id).written), (Generation(0), false));
            assert_eq!(table.get(id).state, SegmentState::Free);
            table.refuse_unwritten();
            assert_eq!((table.free_count(), table.refused_count()), (2, 3));
            table.readmit();
            assert_eq!((table.free_count(), table.refused_count()), (5, 0));
            // until one that was never written is first again
            table.free.rotate_left(2);
        }
    }

    #[test]
    fn another_refused_segment_is_tried_each_time() {
        let mut table = table();
        assert_eq!(table.next_refused(), None);
        table.refuse_unwritten();
        let tried = [(); 4].map(|()| table.next_refused().unwrap().0);
        assert_eq!(tried, [2, 3, 4, 2]);
        assert_eq!(table.refused_count(), 3);
    }

    #[test]
    fn segments_of_a_grown_pool_are_tried_while_others_are_refused() {
        let mut table = table();
        table.refuse_unwritten();
        table.grow(6);
        assert_eq!((table.free_count(), table.usable_count(), table.refused_count()), (3, 3, 3));
        table.refuse_unwritten();
        assert_eq!((table.free_count(), table.refused_count()), (2, 4));
    }
}
