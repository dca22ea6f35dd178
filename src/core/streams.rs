//! Which stream of tier 1 a host's write goes to: the hot one, or the cold one, so that what dies together lies together.
//!
//! **Invariants.** Only a host that loads is split over two: one that commits would pay for two batches with each FLUSH.
//! Both streams are the host's for FLUSH (I4), and one atomic piece is on one of them.
//!
//! **Not here:** which writes die soon (`cleaner::Lifespan`).

use super::Core;
use super::room::Purpose;
use crate::error::Result;
use crate::format::Tier;
use crate::log::{SegmentState, StreamKind};
use crate::units::{LbaRange, NamespaceId, SegmentId};

/// Segments of a pool from which on it has a cold stream: in a smaller one a segment more that is open is missed.
const SEGMENTS_MIN: usize = 32;

impl Core {
    /// For what room is made for a write of `piece` on tier 1.
    ///
    /// # Errors
    /// The namespace is gone.
    pub(super) fn purpose_of_write(&self, id: NamespaceId, piece: LbaRange) -> Result<Purpose> {
        let state = self.state.borrow();
        let namespace = state.namespace(id)?;
        let segments = &state.log.segments;
        if namespace.unflushed < self.bounds.load_bytes || segments.count() < SEGMENTS_MIN {
            return Ok(Purpose::Write);
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

    /// A segment is about to be cleaned: how long a hot one lasts is what tells cold writes.
    pub(super) fn note_lifespan(&self, id: SegmentId) {
        let state = self.state.borrow();
        let info = state.log.segments.get(id);
        if info.stream == Some(StreamKind::Host) && info.state == SegmentState::Sealed {
            let age = state.log.last_op().0.saturating_sub(info.top_op.0);
            self.cleaner.lifespan.borrow_mut().cleaned(age);
        }
    }
}
