//! Which segments are cleaned next: the index of victims, kept in step with what the log says of its segments.
//!
//! The log lists segments that were sealed, measured, or lost so many live blocks that they belong elsewhere in the index. They
//! are looked at when victims are chosen, so that choosing costs what changed, not what there is.

use super::Core;
use super::survey::{live_share, usual_blocks};
use crate::cleaner::{CostBenefit, VictimIndex, VictimPolicy};
use crate::log::{SegmentInfo, SegmentState};
use crate::units::SegmentId;

/// Segments of a pool for one victim of a round.
const SEGMENTS_A_VICTIM: usize = 256;
/// Victims of a round at most.
const VICTIMS_MAX: usize = 32;

impl Core {
    /// Victims for a round of cleaning, best first, and one to be read meanwhile.
    pub(super) fn choose_victims(&self) -> Vec<SegmentId> {
        let count = self.state.borrow().log.segments.count();
        self.best_victims(&CostBenefit, (count / SEGMENTS_A_VICTIM).clamp(1, VICTIMS_MAX) + 1)
    }

    pub(super) fn best_victims(&self, policy: &dyn VictimPolicy, count: usize) -> Vec<SegmentId> {
        let mut state = self.state.borrow_mut();
        let mut index = self.cleaner.index.borrow_mut();
        let (now, bytes) = (state.log.last_op(), self.layout.segment_bytes);
        while let Some(id) = state.log.segments.take_changed() {
            let info = state.log.segments.get(id);
            let candidate = candidate(info, bytes);
            let mark = if candidate.is_some() { VictimIndex::mark(info.live, whole(info, bytes)) } else { 0 };
            index.update(id, candidate);
            state.log.segments.mark(id, mark);
        }
        index.choose(policy, now.0, count)
    }

    /// The live part of a segment.
    pub(super) fn live_part(&self, id: SegmentId) -> f64 {
        let bytes = self.layout.segment_bytes;
        live_share(self.state.borrow().log.segments.get(id), usual_blocks(bytes), bytes)
    }

    /// Compares the index with all segments.
    ///
    /// # Errors
    /// A segment that is not where it belongs.
    #[cfg(feature = "sim")]
    pub fn check_victims(&self) -> Result<(), String> {
        let _ = self.best_victims(&CostBenefit, 0);
        let (state, index) = (self.state.borrow(), self.cleaner.index.borrow());
        let mut all = VictimIndex::default();
        for (id, info) in state.log.segments.iter() {
            all.update(id, candidate(info, self.layout.segment_bytes));
            if all.class(id) != index.class(id) && state.log.segments.usage_known() {
                return Err(format!("segment {id} is in class {:?}, not {:?}", index.class(id), all.class(id)));
            }
        }
        Ok(())
    }
}

/// A segment as the index has it: its live part, and when it was filled.
fn candidate(info: &SegmentInfo, bytes: u32) -> Option<(f64, u64)> {
    (info.state == SegmentState::Sealed && info.live > 0)
        .then(|| (live_share(info, usual_blocks(bytes), bytes), info.top_op.0))
}

/// How many live blocks would make a segment all live.
fn whole(info: &SegmentInfo, segment_bytes: u32) -> f64 {
    let total = if info.total == 0 { usual_blocks(segment_bytes) } else { info.total };
    let bytes = if info.bytes == 0 { segment_bytes } else { info.bytes };
    f64::from(total) * f64::from(segment_bytes) / f64::from(bytes)
}
