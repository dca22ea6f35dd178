//! Reading victims: the one in hand, and meanwhile the next one.
//!
//! ```text
//!   victim in hand: read ─► survey ─► portions … ─► empty
//!   the next one:                     read ahead ──► kept, pinned ─► in hand
//!                                                    └ nobody wants cleaning for 100 ms: let go of
//! ```
//!
//! A victim is read while the one before it is relocated: reading takes about a third of the time that cleaning one does, and
//! writers would be held back for it.
//!
//! **Invariants.** What was read ahead is sealed, settled and pinned, so its content stays (I2). One segment at most, in
//! a buffer of its own (I10). **Failure** is told when its turn comes. **Not here:** which one is next (`clean`).

use std::rc::Rc;

use super::Core;
use super::clean::Memory;
use crate::buf::AlignedBuf;
use crate::env::executor::{Class, Task};
use crate::error::Result;
use crate::format::Tier;
use crate::log::SegmentState;
use crate::units::SegmentId;

/// Bytes read at a time: the medium's other requests go between.
const READ_BYTES: usize = 1 << 20;
/// How long what was read is kept when nothing is to be cleaned.
const KEPT_NS: u64 = 100_000_000;

/// A victim that is read, or being read, before its turn. It is pinned.
pub(super) struct NextVictim {
    id: SegmentId,
    reading: Task<(AlignedBuf, Result<()>)>,
}

impl Memory {
    /// The victim that is read ahead.
    pub(super) fn next(&self) -> Option<SegmentId> {
        self.next.as_ref().map(|next| next.id)
    }
}

impl Core {
    /// Begins to read a victim into the spare buffer, if it can be read by now.
    pub(super) fn read_ahead(self: &Rc<Self>, id: SegmentId, memory: &mut Memory) {
        if memory.next.is_some() {
            return;
        }
        {
            let state = self.state.borrow();
            let info = state.log.segments.get(id);
            if info.state != SegmentState::Sealed || info.live == 0 || info.top_op > state.log.settled() {
                return;
            }
        }
        self.pin(Tier::Ssd, id);
        let core = self.clone();
        let buf = match std::mem::replace(&mut memory.spare, AlignedBuf::zeroed(0)) {
            buf if buf.is_empty() => AlignedBuf::zeroed(self.layout.segment_bytes as usize),
            buf => buf,
        };
        let reading = self.env.spawner.spawn_as(Class::Bulk, async move { core.read_whole(id, buf, 0).await });
        memory.next = Some(NextVictim { id, reading });
    }

    /// Reads a victim, for which `advance` is gained as far as writers are concerned, or takes what was read of it ahead.
    /// Returns what of `advance` was gained.
    pub(super) async fn take_victim(&self, id: SegmentId, memory: &mut Memory, advance: u64) -> Result<u64> {
        let Some(next) = memory.next.take_if(|next| next.id == id) else {
            self.read_segment(id, memory, advance).await?;
            return Ok(advance);
        };
        let (buf, result) = next.reading.await;
        self.unpin(Tier::Ssd, id);
        self.cleaner.taken_ahead.set(self.cleaner.taken_ahead.get() + 1);
        memory.spare = std::mem::replace(&mut memory.bytes, buf);
        result.map(|()| 0)
    }

    /// Lets go of what was read ahead.
    pub(super) async fn drop_next(&self, memory: &mut Memory) {
        let Some(NextVictim { id, reading }) = memory.next.take() else { return };
        memory.spare = reading.await.0;
        self.unpin(Tier::Ssd, id);
        if self.wants_checkpoint() {
            self.checkpoint_wanted.notify_all();
        }
    }

    /// Returns when the cleaner has work. What was read ahead is kept for it, but not for long.
    pub(super) async fn wait_for_cause(&self, memory: &mut Memory) {
        if memory.next.is_some() {
            let end = self.env.now_ns() + KEPT_NS;
            while !self.has_cause() && self.env.now_ns() < end {
                self.cleaner.wanted.notified_or(self.env.sleep_ns(end - self.env.now_ns())).await;
            }
            if !self.should_clean() {
                self.drop_next(memory).await;
            }
        }
        self.cleaner.wanted.until(|| self.has_cause()).await;
    }

    /// Reads a segment, for which `advance` is gained as far as writers are concerned.
    pub(super) async fn read_segment(&self, id: SegmentId, memory: &mut Memory, advance: u64) -> Result<()> {
        let buf = std::mem::replace(&mut memory.bytes, AlignedBuf::zeroed(0));
        let (buf, result) = self.read_whole(id, buf, advance).await;
        memory.bytes = buf;
        result
    }

    /// Victims whose bytes were there when their turn came, and segments that are pinned now.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn victims_ahead(&self) -> (u64, usize) {
        let state = self.state.borrow();
        (self.cleaner.taken_ahead.get(), state.log.segments.iter().filter(|(_, info)| info.pins > 0).count())
    }

    async fn read_whole(&self, id: SegmentId, mut buf: AlignedBuf, advance: u64) -> (AlignedBuf, Result<()>) {
        let (segment, bytes) = (self.layout.segment(id), buf.len());
        let pieces = bytes.div_ceil(READ_BYTES) as u64;
        for start in (0..bytes).step_by(READ_BYTES) {
            let len = READ_BYTES.min(bytes - start);
            let result;
            (buf, result) = self.media.read_into(segment + start as u64, buf, start, len).await;
            if result.is_err() {
                return (buf, result);
            }
            // reading is a part of the work: writers do not wait for a whole segment at a time
            if advance > 0 {
                self.credit(advance / pieces);
            }
        }
        (buf, Ok(()))
    }
}
