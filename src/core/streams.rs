//! Which stream of tier 1 a host's write goes to, so that what dies together lies together: the hot one, the cold one, or the
//! one between them.
//!
//! **Invariants.** Only a host that loads is split: one that commits would pay for a batch of each with each FLUSH.
//! All of them are the host's for FLUSH (I4), and one atomic piece is on one of them.
//!
//! **Not here:** which writes die within moments (`cleaner::Rewrites`), or soon (`cleaner::Lifespan`).

use super::Core;
use super::room::Purpose;
use crate::error::Result;
use crate::format::Tier;
use crate::log::{SegmentState, StreamKind, Streams};
use crate::units::{LbaRange, NamespaceId, SegmentId};

impl Core {
    /// For what room is made for a write of `piece` on tier 1.
    ///
    /// # Errors
    /// The namespace is gone.
    pub(super) fn purpose_of_write(&self, id: NamespaceId, piece: LbaRange) -> Result<Purpose> {
        let state = self.state.borrow();
        let namespace = state.namespace(id)?;
        let segments = &state.log.segments;
        if namespace.unflushed < self.bounds.load_bytes || segments.count() < self.bounds.cold_segments_min {
            return Ok(Purpose::Write);
        }
        if segments.count() >= self.bounds.hot_segments_min
            && self.cleaner.rewrites.borrow_mut().note(id, piece.start, state.log.last_op())
        {
            return Ok(Purpose::HotWrite);
        }
        let age = match namespace.directory.get(piece.start).place() {
            Some((Tier::Ssd, segment)) => {
                let info = segments.get(segment);
                // what an earlier session wrote is as old as can be
                (info.born_ns > 0).then(|| state.log.last_op().0.saturating_sub(info.top_op.0))
            }
            _ => None,
        };
        Ok(if self.cleaner.lifespan.borrow().is_cold(age) { Purpose::ColdWrite } else { Purpose::Write })
    }

    /// The stream's open batch is full of what is live: so many records are what a hot one holds, too.
    pub(super) fn note_full_batch(&self, kind: StreamKind) {
        let state = self.state.borrow();
        if Streams::Host.include(kind)
            && let Some(id) = state.log.stream(kind).batch
        {
            self.cleaner.rewrites.borrow_mut().filled(u64::from(state.log.batches.get(id).count));
        }
    }

    /// A segment is about to be cleaned: how long one of the host's lasts is what tells cold writes.
    pub(super) fn note_lifespan(&self, id: SegmentId) {
        let state = self.state.borrow();
        let info = state.log.segments.get(id);
        if info.stream == Some(StreamKind::Host) && info.state == SegmentState::Sealed {
            let age = state.log.last_op().0.saturating_sub(info.top_op.0);
            self.cleaner.lifespan.borrow_mut().cleaned(age);
        }
    }
}
