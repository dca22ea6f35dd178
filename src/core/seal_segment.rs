//! Sealing a segment: when all its batches are written, its summary is written at its end.
//!
//! **Invariants.** A flush that covers the summary covers the segment's batches too, because the summary's write begins
//! after theirs completed; so a durable summary speaks of durable records (I1).

use std::rc::Rc;

use super::Core;
use crate::buf::AlignedBuf;
use crate::env::executor::Class;
use crate::env::reactor::IoBuf;
use crate::format::Tier;
use crate::format::summary::{encode_summary, summary_bytes};
use crate::limits::BLOCK_BYTES;
use crate::log::segments::SummaryState;
use crate::log::{BatchState, OpenSegment, SegmentState, StreamKind};
use crate::units::{Granule, SegmentId};

impl Core {
    /// Takes the stream's open segment out of use. Its open batch, if any, is empty and goes with it.
    pub(super) fn seal_open_segment(self: &Rc<Self>, kind: StreamKind) {
        let open = {
            let mut state = self.state.borrow_mut();
            state.log.abandon_batch(kind);
            let Some(open) = state.log.stream_mut(kind).segment.take() else { return };
            state.log.segments.get_mut(open.id).state = SegmentState::Sealing;
            open
        };
        let core = self.clone();
        self.env.spawner.spawn_as(Class::Bulk, async move { core.write_summary(open).await }).detach();
    }

    /// Seals what recovery walked and no stream goes on with: whatever summary is at the end of such a segment may tell of
    /// batches that recovery did not accept, and must not be believed by anyone. The session's root is durable.
    pub(crate) fn seal_recovered(self: &Rc<Self>, walked: impl Iterator<Item = OpenSegment>) {
        for open in walked {
            let info = *self.state.borrow().log.segments.get(open.id);
            if (info.state, info.summary) == (SegmentState::Sealed, SummaryState::None) {
                self.state.borrow_mut().log.segments.get_mut(open.id).state = SegmentState::Sealing;
                let core = self.clone();
                self.env.spawner.spawn_as(Class::Bulk, async move { core.write_summary(open).await }).detach();
            }
        }
    }

    async fn write_summary(self: Rc<Self>, open: OpenSegment) {
        self.durable.until(|| !self.has_unwritten(open.id)).await;
        let bytes = summary_bytes(open.summary.len()).next_multiple_of(BLOCK_BYTES);
        let mut tail = AlignedBuf::zeroed(bytes);
        let segment_bytes = u64::from(self.layout.segment_bytes);
        let place = self.state.borrow().log.place(Tier::Ssd, open.id, Granule(0));
        encode_summary(&open.summary, &place, &mut tail);
        let offset = self.layout.segment(open.id) + segment_bytes - bytes as u64;
        self.stats.written.summaries.add(bytes as u64);
        let result = self.media.write(offset, IoBuf::Owned(tail), bytes).await.1;
        if let Err(error) = &result {
            self.become_read_only("writing a segment summary", error);
        }
        let mut state = self.state.borrow_mut();
        if result.is_ok() {
            state.log.segments.get_mut(open.id).summary = SummaryState::Written;
        }
        state.log.segments.seal(open.id);
        drop(state);
        self.space.notify_all();
    }

    fn has_unwritten(&self, segment: SegmentId) -> bool {
        let state = self.state.borrow();
        let unwritten = |b: &crate::log::Batch| {
            b.place.tier == Tier::Ssd
                && b.place.segment == segment
                && matches!(b.state, BatchState::Open | BatchState::Closed)
        };
        state.log.batches.iter().any(unwritten)
    }
}
