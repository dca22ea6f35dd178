//! The replay window: what recovery would have to replay, and how it is kept within bounds (rule 6.2, I10).
//!
//! ```text
//!   changes since the oldest dirty leaf's first ─┬─ ¾ of the bound ─► leaves are written back
//!   segments that roots list for replay ─────────┤
//!   dirty leaves of those that memory holds ─────┴─ the bound ──────► writers run checkpoints before they go on
//! ```
//!
//! **Invariants.** A root always fits its slot: the segments that it lists are bounded, and so are the changes since its
//! full image; should both not be enough, leaves are written back until it does. **Failure.** When leaves cannot be written back for want of space, writers get `ENOSPC`; reads, flushes and
//! discards go on.
//!
//! **Not here:** writing leaves back (`leaves`), switching roots (`checkpoint`).

use std::rc::Rc;

use super::announce::ANNOUNCED_TARGET;
use super::checkpoint::{NO_ROOM_FOR_LEAVES, Running, Switch};
use super::room::RESERVE_SEGMENTS;
use super::{Core, State};
use crate::env::sync::yield_now;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::ROOT_BYTES;
use crate::format::leaf::LEAF_BYTES;
use crate::format::root::{CHANGE_BYTES_MAX, WINDOW_SEGMENT_BYTES, bytes_of_root};
use crate::limits::LEAF_ENTRIES;

/// All of the bounds.
pub(super) const QUARTERS: u64 = 4;
/// From here on leaves are written back.
pub(super) const WRITE_BACK_QUARTERS: u64 = 3;
/// Changes to be replayed that take the memory of a leaf.
const CHANGES_A_LEAF: u64 = LEAF_BYTES as u64 / 16;
/// Checkpoints that write nothing back before a writer gives up.
const ATTEMPTS: usize = 8;

/// Bounds of replay and of roots. The default is for real pools; the simulator takes small ones, to get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayBounds {
    /// Map changes that may be replayed in any case.
    pub changes_min: u64,
    /// Map changes that may be replayed at most: between the two it is as many as blocks are mapped.
    pub changes_max: u64,
    /// Segments that a root may list for replay.
    pub segments_max: usize,
    /// Bytes of changes in a root from which on a full image is written.
    pub image_bytes: usize,
    /// Bytes of a root from which on the map is written back to make it smaller.
    pub root_bytes: usize,
    /// Tier 0 is emptied when nothing was written to it for so long.
    pub journal_quiet_ns: u64,
    /// A namespace that has written so many bytes since its last flush loads: its writes are kept apart by age.
    pub load_bytes: u64,
    /// Segments of a pool from which on it has a cold stream: in a smaller one a segment more that is open is missed.
    pub cold_segments_min: usize,
    /// And from which on it has a hot one too.
    pub hot_segments_min: usize,
    /// When no request came for so long, work is done ahead.
    pub quiet_ns: u64,
    /// Leaves of the map in memory, beyond those that requests under way need. Half of them may be dirty.
    pub leaves_max: usize,
}

impl Default for ReplayBounds {
    fn default() -> Self {
        Self {
            changes_min: 256 << 10,
            changes_max: 32 << 20,
            segments_max: 12 << 10,
            image_bytes: CHANGE_BYTES_MAX / 2,
            root_bytes: ROOT_BYTES,
            journal_quiet_ns: 60_000_000_000,
            load_bytes: 1 << 20,
            cold_segments_min: 32,
            hot_segments_min: 48,
            quiet_ns: 200_000_000,
            leaves_max: usize::MAX,
        }
    }
}

// what is left of a root's slot holds its head, sessions and image parts
const _: () = assert!((12 << 10) * WINDOW_SEGMENT_BYTES + CHANGE_BYTES_MAX <= ROOT_BYTES * 13 / 16);

impl Core {
    /// Whether segments for the host run out or the window has grown so large that leaves are written back.
    pub(super) fn wants_checkpoint(&self) -> bool {
        let announced_low = {
            let segments = &self.state.borrow().log.segments;
            let (announced, target) = (segments.announced_count(), self.announced_target());
            let more = segments.free_count() + segments.empty_count();
            // in a nearly full pool they come one by one: not a root for each, unless the host is about to need it
            announced < target / 2 && (more > target / 4 || (more > 0 && announced <= RESERVE_SEGMENTS + 1))
        };
        announced_low || self.writes_back() || self.holes_are_many()
    }

    /// Whether the window has grown so large that leaves are written back. The later, the more changes each of them has
    /// taken: at a quarter of the bound more than half the metadata bytes of a host's write would be leaves that come again.
    pub(super) fn writes_back(&self) -> bool {
        self.window_exceeds(WRITE_BACK_QUARTERS)
    }

    /// Asks for a checkpoint when the window has grown; called by writers.
    pub(super) fn mind_window(&self) {
        if !self.checkpointing.get() && self.writes_back() {
            self.checkpoint_wanted.notify_all();
        }
    }

    /// Whether the window exceeds so many quarters of its bounds.
    pub(super) fn window_exceeds(&self, quarters: u64) -> bool {
        let state = self.state.borrow();
        if state.log.segments.window_len() as u64 > self.bounds.segments_max as u64 * quarters / QUARTERS {
            return true;
        }
        if self.dirty_in_memory_exceed(&state, quarters) {
            return true;
        }
        // the bound itself takes a look at every namespace: not for each write
        let changes = state.dirty.window();
        changes / quarters > self.bounds.changes_min / QUARTERS && {
            let leaves: u64 = state.namespaces.values().map(|n| u64::from(n.directory.leaf_count())).sum();
            // the more, the more changes a leaf takes before it is written: at as many as blocks are mapped leaves cost random
            // writes 0.004 bytes for each of the host, at a quarter of that 0.015. How long replay takes is bounded by the most
            let mapped = leaves * LEAF_ENTRIES as u64;
            // replayed they have to find room in the map's memory too
            let most = self.bounds.changes_max.min((self.bounds.leaves_max as u64).saturating_mul(CHANGES_A_LEAF));
            changes / quarters > mapped.min(most).max(self.bounds.changes_min) / QUARTERS
        }
    }

    /// Whether dirty leaves take more than so many quarters of what they may of the map's memory.
    pub(super) fn dirty_leaves_exceed(&self, quarters: u64) -> bool {
        self.dirty_in_memory_exceed(&self.state.borrow(), quarters)
    }

    fn dirty_in_memory_exceed(&self, state: &State, quarters: u64) -> bool {
        let most = (self.bounds.leaves_max as u64 / 2).max(1);
        state.dirty_in_memory() as u64 * QUARTERS > most.saturating_mul(quarters)
    }

    /// Makes what the next root has to say fit its slot, whatever it has come to: a new image takes the changes in, and every
    /// leaf that is written back lets the window move on. Only within a checkpoint.
    ///
    /// # Errors
    /// No room for metadata, the latch, a leaf that cannot be read.
    pub(super) async fn fit_root(self: &Rc<Self>) -> Result<()> {
        if self.root_bytes() <= self.bounds.root_bytes {
            return Ok(());
        }
        self.stats.roots_fitted.add(1);
        while self.root_bytes() > self.bounds.root_bytes {
            let until = self.state.borrow().log.last_op();
            let leaves = self.write_back(self.leaves_a_checkpoint(), until).await?;
            self.image_wanted.set(true);
            self.write_image_if_due(false).await?;
            if leaves == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Refuses a root that its slot would not take: the old one stays.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`].
    pub(super) fn check_root_fits(&self) -> Result<()> {
        let bytes = self.root_bytes();
        if bytes > ROOT_BYTES {
            let text = format!("the next root may take {bytes} bytes, its slot has {ROOT_BYTES}");
            return Err(Error::new(ErrorKind::NoSpace, text));
        }
        Ok(())
    }

    /// What the next root will take at most.
    fn root_bytes(&self) -> usize {
        let for_image = self.image_segments();
        let mut state = self.state.borrow_mut();
        let replay_start = state.replay_start();
        let window = state.log.segments.window(replay_start).len();
        // those that are announced, and those that are about to be
        let listed = window + state.log.segments.announced_count() + ANNOUNCED_TARGET + for_image;
        let root = &state.root;
        // each part may be in a segment of its own
        let parts = root.image_parts.len();
        let directory = root.directory.len() + root.marks.len();
        bytes_of_root([parts, parts, root.sessions.len(), listed, root.segments.len(), directory])
    }

    /// Returns when the window is within its bounds; runs checkpoints to that end.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when leaves cannot be written back; the latch.
    pub(super) async fn bound_window(self: &Rc<Self>) -> Result<()> {
        let mut in_vain = 0;
        while in_vain < ATTEMPTS {
            self.begin_checkpoint().await;
            let running = Running(self);
            // others may have waited for the same
            if !self.window_exceeds(QUARTERS) {
                return Ok(());
            }
            let before = self.state.borrow().dirty.oldest();
            self.switch_root(self.leaves_a_checkpoint(), Switch::Partial).await?;
            let is_in_vain = self.state.borrow().dirty.oldest() == before;
            in_vain = if is_in_vain { in_vain + 1 } else { 0 };
            drop(running);
            // who waits for a checkpoint of another kind has a turn
            yield_now().await;
        }
        self.stats.no_space.add(1);
        Err(Error::new(ErrorKind::NoSpace, NO_ROOM_FOR_LEAVES))
    }
}
