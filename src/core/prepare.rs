//! Segments of a file prepared ahead of use: written with zeros once, before the first batch goes there.
//!
//! In a file the first write to space that was only allocated changes the filesystem's own metadata (an unwritten extent
//! becomes a written one), so that the next flush commits the filesystem's journal as well: synchronous writes then cost
//! twice as much. Writing the space once, ahead of use and in large pieces, moves that out of the host's way.
//!
//! ```text
//!   a host segment is opened ─► many flushes since the last one? ─► the next announced segments that were never used
//!                                └ no: nothing (bulk writes gain little, and zeros are bytes to the SSD too)
//! ```
//!
//! **Invariants.** Only announced segments are written, and while that goes on nobody can open them (I2): they are taken
//! out of the announced ones and put back at the front. Zeros are no batch, so recovery finds nothing there, whatever
//! part of them came to the medium. **Failure.** Nothing depends on it: after an error it is not tried again.
//!
//! **Not here:** taking the space, which is done before a segment is announced (`checkpoint`).

use std::rc::Rc;

use super::Core;
use super::room::RESERVE_SEGMENTS;
use crate::buf::AlignedBuf;
use crate::env::reactor::IoBuf;
use crate::error::Result;
use crate::limits::SLOT_BYTES;
use crate::units::SegmentId;

/// Host flushes within one segment from which on the next ones are prepared.
const FLUSHES_LEAST: u64 = 16;
/// Announced segments kept prepared while the host flushes.
const PREPARED_AHEAD: usize = 2;
/// Announced segments that are left while one is being prepared: nobody runs short because of it.
const ANNOUNCED_LEFT: usize = RESERVE_SEGMENTS + 2;

impl Core {
    /// A host segment is opened: decides whether the next ones are prepared.
    pub(super) fn mind_preparation(&self) {
        let flushes = self.media.stats().flushes.get();
        let since = flushes - self.flushes_at_open.replace(flushes);
        if self.media.is_lazy() && since >= FLUSHES_LEAST {
            self.preparation_wanted.notify_all();
        }
    }

    /// Prepares segments when [`Core::mind_preparation`] asks for it. Runs as a task.
    pub(super) async fn run_preparation(self: Rc<Self>) {
        let mut zeros = Some(AlignedBuf::zeroed(SLOT_BYTES));
        loop {
            self.preparation_wanted.notified().await;
            while self.latch.check().is_ok() && !self.stopping.get() {
                let next = self.state.borrow_mut().log.segments.take_to_prepare(PREPARED_AHEAD, ANNOUNCED_LEFT);
                let Some(id) = next else { break };
                let _work = self.begin_work();
                let result = self.write_zeros(id, &mut zeros).await;
                self.state.borrow_mut().log.segments.prepared(id);
                self.space.notify_all();
                if let Err(error) = result {
                    tracing::warn!("segment {id} could not be prepared, so none will be: {error}");
                    return;
                }
            }
        }
    }

    async fn write_zeros(&self, id: SegmentId, zeros: &mut Option<AlignedBuf>) -> Result<()> {
        let (start, bytes) = (self.layout.segment(id), u64::from(self.layout.segment_bytes));
        if self.media.is_written(start, bytes) {
            return Ok(());
        }
        for at in (0..bytes).step_by(SLOT_BYTES) {
            let Some(buf) = zeros.take() else { unreachable!("writes give their buffer back") };
            self.stats.written.prepared.add(SLOT_BYTES as u64);
            let (buf, result) = self.media.write(start + at, IoBuf::Owned(buf), SLOT_BYTES).await;
            if let IoBuf::Owned(buf) = buf {
                *zeros = Some(buf);
            }
            result?;
        }
        Ok(())
    }
}
