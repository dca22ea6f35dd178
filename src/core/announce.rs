//! Segments for use next: chosen, and their space taken, before a root announces them.
//!
//! ```text
//!   free ─► space taken ─► announced by the next root
//!     ▲        └ the medium has none ─► refused, with all that were never written ─┐
//!     └──────────────────── there is space for one of them: looked at once a second ◄┘
//! ```
//!
//! A pool in a sparse file takes the space of a segment when it is used first; by then the filesystem may be full.
//! Segments that were written before have their space, and are used while others are refused.
//!
//! **Invariants.** What is announced has its space: `ENOSPC` comes before an acknowledgement. A segment that the medium
//! has no space for is not available, so nobody waits for it, and nobody asks the medium for it more than once a second.
//!
//! **Failure.** A segment whose space cannot be had for another reason is refused alone.
//!
//! **Not here:** the root (`checkpoint`).

use std::rc::Rc;

use super::Core;
use super::room::RESERVE_SEGMENTS;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Streams;
use crate::units::{OpNo, SegmentId};

/// Segments kept announced, at most (recovery reads them all); small pools keep an eighth of their segments.
pub(super) const ANNOUNCED_TARGET: usize = 24;
/// How long after the medium had no space it is asked again.
const ASK_AGAIN_NS: u64 = 1_000_000_000;

impl Core {
    pub(super) fn announced_target(&self) -> usize {
        let count = self.state.borrow().log.segments.count();
        (count / 8).clamp(RESERVE_SEGMENTS + 2, ANNOUNCED_TARGET)
    }

    /// Segments to announce, with their space taken. Only within a checkpoint.
    ///
    /// # Errors
    /// Those of waiting until what is empty may be reused.
    pub(super) async fn choose_segments(self: &Rc<Self>) -> Result<Vec<SegmentId>> {
        // 1. what is empty is free
        let target = self.announced_target() + self.announced_for_image();
        if let Some(last) = self.reuse_waits(target) {
            self.wait_durable(Streams::All, last).await?;
        }
        let missing = {
            let mut state = self.state.borrow_mut();
            reclaim(&mut state);
            target.saturating_sub(state.log.segments.announced_count())
        };
        // 2. what is free, and when that is too little, what the medium had no space for
        let mut kept = Vec::with_capacity(missing);
        let mut refusal = self.take_space(missing, &mut kept).await;
        if kept.len() < missing && self.finds_space().await {
            refusal = self.take_space(missing, &mut kept).await.or(refusal);
        }
        self.tell_of_refused(refusal.as_ref());
        // 3. their generations
        let mut state = self.state.borrow_mut();
        for id in &kept {
            let generation = state.log.segments.get(*id).generation;
            state.root.segments.insert(*id, generation);
        }
        Ok(kept)
    }

    /// The last number, when too few segments are free and others may only have to be settled (rule 6.3).
    fn reuse_waits(&self, target: usize) -> Option<OpNo> {
        let mut state = self.state.borrow_mut();
        let empty = reclaim(&mut state);
        let segments = &state.log.segments;
        let waits = empty > 0 && segments.announced_count() + segments.free_count() < target;
        (waits && state.log.settled() < state.log.last_op()).then(|| state.log.last_op())
    }

    /// Takes free segments until `kept` has `count`. Returns why some could not be had.
    async fn take_space(&self, count: usize, kept: &mut Vec<SegmentId>) -> Option<Error> {
        let mut refusal = None;
        while kept.len() < count {
            let chosen = self.state.borrow_mut().log.segments.announce();
            let Some(id) = chosen else { break };
            match self.allocate(id).await {
                Ok(()) => kept.push(id),
                Err(error) => {
                    self.refuse(id, &error);
                    refusal = Some(error);
                }
            }
        }
        refusal
    }

    async fn allocate(&self, id: SegmentId) -> Result<()> {
        match self.media.allocate(self.layout.segment(id), u64::from(self.layout.segment_bytes)).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn refuse(&self, id: SegmentId, error: &Error) {
        self.space_asked_ns.set(self.env.now_ns());
        let segments = &mut self.state.borrow_mut().log.segments;
        let was_written = segments.get(id).written;
        segments.refuse(id);
        if error.kind() == ErrorKind::NoSpace && !was_written {
            segments.refuse_unwritten();
        }
    }

    /// Whether there are segments that the medium had no space for, and it may be asked again.
    pub(super) fn may_find_space(&self) -> bool {
        let is_due = self.env.now_ns().saturating_sub(self.space_asked_ns.get()) >= ASK_AGAIN_NS;
        is_due && self.state.borrow().log.segments.refused_count() > 0
    }

    /// Asks the medium for the space of one segment that it had none for. If it has some now, all of these are free
    /// again.
    async fn finds_space(&self) -> bool {
        if !self.may_find_space() {
            return false;
        }
        self.space_asked_ns.set(self.env.now_ns());
        let next = self.state.borrow_mut().log.segments.next_refused();
        let Some(id) = next else { return false };
        let found = self.allocate(id).await.is_ok();
        if found {
            self.state.borrow_mut().log.segments.readmit();
        }
        found
    }

    /// The same outside of a checkpoint, which can announce them then.
    pub(super) async fn look_for_space(&self) {
        if self.finds_space().await {
            self.tell_of_refused(None);
            self.checkpoint_wanted.notify_all();
            self.space.notify_all();
        }
    }

    /// Logs that the medium has no space for more segments than was told, or that there are none of these any more.
    fn tell_of_refused(&self, error: Option<&Error>) {
        let now = self.state.borrow().log.segments.refused_count();
        let told = self.refused_told.get();
        match error {
            Some(error) if now > told => {
                self.refused_told.set(now);
                tracing::warn!(
                    "the filesystem or thin device under the pool has no space for {now} of its segments: {error}; \
                     until there is some the pool goes on with the others"
                );
            }
            _ if now == 0 && told > 0 => {
                self.refused_told.set(0);
                tracing::info!(
                    "the filesystem or thin device under the pool has space again, for {told} segments or some of them"
                );
            }
            _ => {}
        }
    }
}

/// Frees what rule 6.3 lets go. Returns how many empty segments have to wait.
pub(super) fn reclaim(state: &mut super::State) -> usize {
    let (settled, replay_start) = (state.log.settled(), state.root.replay_start);
    state.log.segments.reclaim(settled, replay_start)
}
