//! The segments of tier 0: never announced, since recovery looks at all of them; opened straight from the free list.
//!
//! **Invariants.** A segment is opened in a generation above all that recovery saw on the tier, so that what was torn when
//! a session ended is never of the generation that a later one opens. A session appends only to segments that it opened.

use super::{SegmentInfo, SegmentState, SegmentTable, SummaryState};
use crate::units::{Generation, OpNo, SegmentId};

/// A segment of tier 0 as recovery found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalSegment {
    /// Of its first batch; 0 when there is none.
    pub generation: Generation,
    /// Byte behind the last accepted batch; 0 when none was accepted.
    pub end: u32,
    /// Highest number accepted in it.
    pub top_op: OpNo,
}

impl SegmentTable {
    /// The segments of a journal, in order. Which of them are free is not known before usage has been counted: that no
    /// batch counts in a segment may be damage of its first one.
    #[must_use]
    pub fn of_journal(found: &[JournalSegment]) -> Self {
        let mut table = Self::new(found.iter().map(|segment| segment.generation).collect(), OpNo(0));
        table.free.clear();
        for (index, segment) in found.iter().enumerate() {
            let id = SegmentId(u32::try_from(index).unwrap_or(u32::MAX));
            let info = table.get_mut(id);
            // it holds no CLEARs
            (info.end, info.top_op, info.clear_op) = (segment.end, segment.top_op, OpNo(0));
            info.state = SegmentState::Sealed;
        }
        let highest = found.iter().map(|segment| segment.generation.0).max().unwrap_or(0);
        table.floor = Generation(highest + 1);
        table
    }

    /// The segments of a journal that was just given to the pool: all of them are free, and are opened in generations above
    /// `used`.
    #[must_use]
    pub fn of_new_journal(count: usize, used: Generation) -> Self {
        let mut table = Self::new(vec![Generation(0); count], OpNo(0));
        table.usage_known = true;
        table.floor = Generation(used.0 + 1);
        table
    }

    /// The highest generation that a segment has, or had before this session.
    #[must_use]
    pub fn highest_generation(&self) -> Generation {
        let highest = self.infos.iter().map(|info| info.generation.0).max().unwrap_or(0);
        Generation(highest.max(self.floor.0.saturating_sub(1)))
    }

    /// Opens a free segment.
    pub fn open_free(&mut self, now_ns: u64) -> Option<SegmentId> {
        let id = self.free.pop_front()?;
        let floor = self.floor;
        let info = self.get_mut(id);
        let generation = Generation(info.generation.0 + 1).max(floor);
        *info = SegmentInfo {
            generation,
            state: SegmentState::Open,
            summary: SummaryState::None,
            live: info.live,
            emptied_op: OpNo(0),
            top_op: OpNo(0),
            clear_op: OpNo(0),
            end: 0,
            pins: info.pins,
            written: true,
            born_ns: now_ns,
            stream: None,
            packed: false,
            total: 0,
            bytes: 0,
        };
        Some(id)
    }

    /// The sealed segment that holds the fewest live blocks, and some, all of its records being durable up to `settled`;
    /// of those that hold as many the oldest. Not one of which something cannot be moved ([`SegmentTable::keep`]).
    #[must_use]
    pub fn least_live(&self, settled: OpNo) -> Option<SegmentId> {
        let is_candidate = |info: &SegmentInfo| {
            let is_movable = info.live > 0 && info.summary != SummaryState::Never;
            info.state == SegmentState::Sealed && is_movable && info.top_op <= settled
        };
        let candidates = self.iter().filter(|(_, info)| is_candidate(info));
        candidates.min_by_key(|(_, info)| (info.live, info.top_op)).map(|(id, _)| id)
    }

    /// Something in the segment is damaged and cannot be moved: it stays until its blocks are overwritten.
    pub fn keep(&mut self, id: SegmentId) {
        self.get_mut(id).summary = SummaryState::Never;
    }

    /// Segments that are kept for what cannot be moved out of them, and their live blocks.
    #[must_use]
    pub fn kept(&self) -> (usize, u64) {
        let kept = self.infos.iter().filter(|info| info.summary == SummaryState::Never && info.live > 0);
        kept.fold((0, 0), |(count, blocks), info| (count + 1, blocks + u64::from(info.live)))
    }

    /// Live blocks of the tier.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        self.infos.iter().map(|info| u64::from(info.live)).sum()
    }

    /// Empty segments that wait for the operation that emptied them to be durable.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.empty.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_opens_above_all_generations_that_it_found() {
        let used = JournalSegment { generation: Generation(7), end: 4096, top_op: OpNo(9) };
        let torn = JournalSegment { generation: Generation(3), end: 0, top_op: OpNo(0) };
        let mut table = SegmentTable::of_journal(&[used, torn, JournalSegment::default()]);
        assert_eq!(table.reclaim(OpNo(100), OpNo(0)), 0, "nobody knows yet what is in use");
        assert_eq!((table.free_count(), table.open_free(4)), (0, None));
        table.usage_counted(OpNo(50));
        assert_eq!(
            table.reclaim(OpNo(49), OpNo(0)),
            3,
            "they were perhaps emptied by an operation that is not durable"
        );
        assert_eq!(table.reclaim(OpNo(50), OpNo(0)), 0);
        assert_eq!(table.free_count(), 3);
        assert_eq!(table.open_free(5), Some(SegmentId(0)));
        assert_eq!((table.get(SegmentId(0)).generation, table.get(SegmentId(0)).born_ns), (Generation(8), 5));
        assert_eq!([table.open_free(6), table.open_free(6)], [Some(SegmentId(1)), Some(SegmentId(2))]);
        assert_eq!(table.get(SegmentId(1)).generation, Generation(8));
        table.seal(SegmentId(0));
        table.reclaim(OpNo(50), OpNo(0));
        assert_eq!(table.open_free(7), Some(SegmentId(0)));
        assert_eq!(table.get(SegmentId(0)).generation, Generation(9));
    }

    #[test]
    fn a_new_journal_is_free_and_opens_above_the_one_before_it() {
        let mut first = SegmentTable::of_new_journal(2, SegmentTable::of_journal(&[]).highest_generation());
        assert!(first.usage_known() && first.free_count() == 2);
        assert_eq!(first.open_free(1), Some(SegmentId(0)));
        let used = first.highest_generation();
        assert_eq!(first.get(SegmentId(0)).generation, used);
        let mut second = SegmentTable::of_new_journal(1, used);
        assert_eq!(second.highest_generation(), used, "also when nothing was opened");
        assert_eq!(second.open_free(2), Some(SegmentId(0)));
        assert_eq!(second.get(SegmentId(0)).generation, Generation(used.0 + 1));
    }

    #[test]
    fn a_segment_whose_first_batch_is_lost_is_not_opened_while_the_map_points_there() {
        let mut table = SegmentTable::of_journal(&[JournalSegment::default(), JournalSegment::default()]);
        table.add_live(SegmentId(0));
        table.usage_counted(OpNo(1));
        table.reclaim(OpNo(1), OpNo(0));
        assert_eq!([table.open_free(1), table.open_free(1)], [Some(SegmentId(1)), None]);
        assert_eq!(table.least_live(OpNo(1)), Some(SegmentId(0)));
        table.keep(SegmentId(0));
        assert_eq!((table.least_live(OpNo(1)), table.kept()), (None, (1, 1)));
        table.drop_live(SegmentId(0), OpNo(2));
        table.reclaim(OpNo(2), OpNo(0));
        assert_eq!((table.open_free(1), table.kept()), (Some(SegmentId(0)), (0, 0)));
    }
}
