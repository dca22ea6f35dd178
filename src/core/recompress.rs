//! Cold recompression: how much of it, and what it did. The moving is `pack`, when nothing else is to be done `idle`.
//!
//! **What is cold.** A record says whether it was moved before. One that the cleaner meets again has survived two
//! cleanings, and that is known after a restart as well. Its neighbours, and all that the background pass takes, go by their
//! segment: relocated, or filled before this serve or long enough ago. That is a heuristic: right after a start a segment is
//! older than it may seem, and a wrong guess costs CPU and a larger fragment to read, never data.
//!
//! **Invariants.** What recompression takes of one CPU is bounded, over any length of time but for one group. Whoever
//! waits for space never waits for it: where space is short it is not done. **Not here:** which segments are cleaned.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Core;
use super::room::{Purpose, RESERVE_SEGMENTS};
use super::stats::Counter;
use crate::cleaner::Budget;
use crate::cleaner::pace::PRESSURE_MAX;
use crate::codec::CodecPool;
use crate::format::record::{RecordBody, RecordHeader};
use crate::log::{SegmentInfo, SegmentState, StreamKind};
use crate::units::{OpNo, SegmentId};

/// Segments that must be left when one is recompressed into: beside what all others keep.
const SEGMENTS_LEFT: usize = RESERVE_SEGMENTS + 3;

/// How much is recompressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recompression {
    /// Percent of one CPU that it may take; 0: there is none.
    pub percent: u8,
    /// How long ago a segment was filled whose data is cold, in nanoseconds.
    pub cold_ns: u64,
}

/// What recompression did since the pool was opened. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecompressStatus {
    /// Percent of one CPU that it may take.
    pub percent: u8,
    /// Blocks recompressed, before any compression.
    pub data: u64,
    /// What their records took before.
    pub before: u64,
    /// What they take now.
    pub after: u64,
    /// CPU time spent, in nanoseconds, on groups that were left as they are too.
    pub cpu_ns: u64,
    /// Groups of blocks that were left as they are: it would not have made them smaller.
    pub refused: u64,
    /// Segments that the background pass went through.
    pub segments: u64,
    /// Cold segments that it has not been through.
    pub left: u64,
}

/// The state of recompression.
#[derive(Default)]
pub(super) struct Recompress {
    settings: Cell<Recompression>,
    pub(super) codec: RefCell<Option<Rc<CodecPool>>>,
    budget: Cell<Budget>,
    pub(super) data: Counter,
    pub(super) before: Counter,
    pub(super) after: Counter,
    pub(super) cpu_ns: Counter,
    pub(super) refused: Counter,
    pub(super) segments: Counter,
    /// Cold segments that the background pass has not seen, the oldest last.
    queue: RefCell<Vec<SegmentId>>,
    /// When they were looked for.
    queued_at: Cell<Option<u64>>,
}

/// Cold segments found at a time.
const QUEUE_MAX: usize = 256;
/// How long after none was found they are looked for again.
const LOOK_AGAIN_NS: u64 = 10_000_000_000;

impl Core {
    /// Recompresses from now on as `settings` say, by a codec pool of its own.
    pub fn set_recompression(&self, settings: Recompression, codec: CodecPool) {
        self.recompress.settings.set(settings);
        self.recompress.budget.set(Budget::new(settings.percent, self.env.now_ns()));
        *self.recompress.codec.borrow_mut() = Some(Rc::new(codec));
    }

    /// What it did.
    #[must_use]
    pub fn recompress_status(&self) -> RecompressStatus {
        let r = &self.recompress;
        RecompressStatus {
            percent: r.settings.get().percent,
            data: r.data.get(),
            before: r.before.get(),
            after: r.after.get(),
            cpu_ns: r.cpu_ns.get(),
            refused: r.refused.get(),
            segments: r.segments.get(),
            left: if self.recompresses() { self.left_to_pack() } else { 0 },
        }
    }

    pub(super) fn recompresses(&self) -> bool {
        self.recompress.settings.get().percent > 0
    }

    /// How long until there is CPU time to be spent; 0: there is some.
    pub(super) fn credit_wait_ns(&self) -> u64 {
        let mut budget = self.recompress.budget.get();
        let wait = budget.wait_ns(self.env.now_ns());
        self.recompress.budget.set(budget);
        wait.unwrap_or(u64::MAX)
    }

    /// CPU time was spent.
    pub(super) fn charge(&self, ns: u64) {
        let mut budget = self.recompress.budget.get();
        budget.spend(ns);
        self.recompress.budget.set(budget);
    }

    /// Whether a record that is about to be moved is recompressed instead: it was moved before, and nobody waits for space.
    pub(super) fn is_due_again(&self, header: &RecordHeader) -> bool {
        matches!(header.body, RecordBody::Fragment { moved: true, .. })
            && self.recompresses()
            && self.has_room_to_pack(PRESSURE_MAX / 2)
            && self.credit_wait_ns() == 0
    }

    /// Whether there is space for what only recompression needs: segments are left, and space is not shorter than this.
    pub(super) fn has_room_to_pack(&self, pressure: u64) -> bool {
        let (available, is_open) = {
            let log = &self.state.borrow().log;
            let is_open = log.stream(StreamKind::Packed).segment.is_some();
            (log.segments.available(), is_open || log.segments.announced_count() > Purpose::Pack.reserve())
        };
        let has_room = available > SEGMENTS_LEFT && self.cleaner.pressure(available) <= pressure;
        if has_room && !is_open {
            // what is free is to be announced first
            self.checkpoint_wanted.notify_all();
        }
        has_room && is_open
    }

    /// Whether what is in a segment has lived long.
    pub(super) fn is_cold(&self, info: &SegmentInfo, settled: OpNo, now_ns: u64) -> bool {
        let is_old = info.born_ns == 0
            || matches!(info.stream, Some(StreamKind::Move | StreamKind::Packed))
            || now_ns.saturating_sub(info.born_ns) >= self.recompress.settings.get().cold_ns;
        info.state == SegmentState::Sealed && info.top_op <= settled && is_old
    }

    /// Whether the background pass has still to go through a segment.
    fn is_to_pack(&self, info: &SegmentInfo, now_ns: u64) -> bool {
        let is_data = !matches!(info.stream, Some(StreamKind::Packed | StreamKind::Leaf));
        info.live > 0 && !info.packed && is_data && self.is_cold(info, OpNo(u64::MAX), now_ns)
    }

    fn left_to_pack(&self) -> u64 {
        let now = self.env.now_ns();
        let state = self.state.borrow();
        state.log.segments.iter().filter(|(_, info)| self.is_to_pack(info, now)).count() as u64
    }

    /// The cold segment that was filled first, of those not seen yet.
    pub(super) fn next_to_pack(&self) -> Option<SegmentId> {
        if !self.recompresses() || !self.has_room_to_pack(0) {
            return None;
        }
        let now = self.env.now_ns();
        let state = self.state.borrow();
        let segments = &state.log.segments;
        let is_next = |info: &SegmentInfo| self.is_to_pack(info, now);
        let mut queue = self.recompress.queue.borrow_mut();
        while queue.pop_if(|id| !is_next(segments.get(*id))).is_some() {}
        if let Some(id) = queue.last() {
            return Some(*id);
        }
        if self.recompress.queued_at.get().is_some_and(|then| now.saturating_sub(then) < LOOK_AGAIN_NS) {
            return None;
        }
        let mut found: Vec<_> =
            segments.iter().filter(|(_, info)| is_next(info)).map(|(id, info)| (info.top_op, id)).collect();
        if found.len() > QUEUE_MAX {
            found.select_nth_unstable(QUEUE_MAX);
            found.truncate(QUEUE_MAX);
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        self.recompress.queued_at.set(found.is_empty().then_some(now));
        queue.extend(found.into_iter().map(|(_, id)| id));
        queue.last().copied()
    }
}
