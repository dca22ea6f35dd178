//! What is done while no request comes: space is made ahead of the next burst, and cold data is recompressed.
//!
//! ```text
//!   no request for a while ─┬─ a quarter of the pool is not free ─► the emptiest segment, if not half of it is live: cleaned, slowly
//!                           └─ else, if there is a budget ────────► the oldest cold segment: its groups packed
//!   a request ─► all that stops, where it is
//! ```
//!
//! **Invariants.** It never moves more than it gains: no victim is half live. What it does can be stopped after each few
//! records, and nothing has to be undone. **Failure** ends it until the next quiet moment; a segment that cannot be read is not
//! tried again. **Not here:** moving (`clean`, `pack`), the budget (`recompress`).

use std::cell::Cell;
use std::rc::Rc;

use super::Core;
use super::clean::Memory;
use super::pack::groups_of;
use crate::cleaner::Greedy;
use crate::env::sync::yield_now;
use crate::error::{ErrorKind, Result};
use crate::format::record::{RecordBody, RecordHeader};
use crate::format::summary::{Change, SummaryEntry, decode_summary};
use crate::format::{Codec, Tier};
use crate::limits::{FRAGMENT_BLOCKS_MAX, GRANULE};
use crate::log::walk::walk_all;
use crate::log::{SegmentState, Streams};
use crate::units::{Granule, SegmentId};

/// With one part in so many of the segments available there is enough for a burst.
const COMFORT: usize = 4;
/// A victim that is live to this part would be moved more than it gives.
const LIVE_MAX: f64 = 0.5;
/// Pause after each few records that are moved: about 50 MiB a second.
const PAUSE_NS: u64 = 5_000_000;
/// Longest sleep between two looks whether a request came.
const NAP_NS: u64 = 10_000_000;
/// What looking at a byte of a segment counts as, in nanoseconds of CPU.
const LOOK_NS: u64 = 2;

/// Whether requests come, and what is done when not.
#[derive(Default)]
pub(super) struct Idle {
    requests: Cell<u64>,
    quiet: Cell<bool>,
    /// The segment in hand is cleaned ahead of need.
    pub(super) ahead: Cell<bool>,
}

impl Idle {
    /// A request came.
    pub(super) fn interrupt(&self) {
        self.requests.set(self.requests.get() + 1);
        self.quiet.set(false);
    }
}

impl Core {
    /// Looks whether requests come. Runs as a task.
    pub(super) async fn run_idle_watch(self: Rc<Self>) {
        let mut seen = 0;
        loop {
            self.env.sleep_ns(self.bounds.quiet_ns).await;
            let requests = self.idle.requests.get();
            let is_quiet = requests == seen && self.active.get() == 0;
            self.idle.quiet.set(is_quiet);
            seen = requests;
            // also for a segment in hand, of which nothing more is owed
            if self.wants_idle_work() || (self.is_cleaning() && self.nobody_asks()) {
                self.cleaner.wanted.notify_all();
            }
        }
    }

    pub(super) fn nobody_asks(&self) -> bool {
        self.idle.quiet.get() && self.active.get() == 0 && !self.stopping.get() && self.latch.check().is_ok()
    }

    /// Whether nobody asks for anything, and there is something to be done ahead.
    pub(super) fn wants_idle_work(&self) -> bool {
        self.nobody_asks() && self.knows_usage() && (self.idle_victim().is_some() || self.next_to_pack().is_some())
    }

    /// A segment worth cleaning ahead of need.
    fn idle_victim(&self) -> Option<SegmentId> {
        let (available, count) = {
            let segments = &self.state.borrow().log.segments;
            (segments.available(), segments.usable_count())
        };
        if available >= count / COMFORT {
            return None;
        }
        let id = *self.best_victims(&Greedy, 1).first()?;
        (self.live_part(id) < LIVE_MAX).then_some(id)
    }

    /// Cleans or packs one segment, or as much of it as there is time for.
    pub(super) async fn idle_step(self: &Rc<Self>, memory: &mut Memory) -> Result<()> {
        if let Some(id) = self.idle_victim() {
            self.idle.ahead.set(true);
            let result = self.clean_pinned(id, memory, None).await;
            self.idle.ahead.set(false);
            return result;
        }
        let Some(id) = self.next_to_pack() else { return Ok(()) };
        self.pin(Tier::Ssd, id);
        let result = self.pack_segment(id, memory).await;
        self.unpin(Tier::Ssd, id);
        match result {
            Ok(true) => {
                self.state.borrow_mut().log.segments.get_mut(id).packed = true;
                self.recompress.segments.add(1);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                // until somebody looks again
                self.idle.quiet.set(false);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A pause in cleaning ahead. Returns whether to go on.
    pub(super) async fn goes_on_ahead(&self) -> bool {
        self.env.sleep_ns(PAUSE_NS).await;
        self.nobody_asks()
    }

    /// Packs what is cold in a segment, which is pinned. Returns whether all of it was seen.
    async fn pack_segment(self: &Rc<Self>, id: SegmentId, memory: &mut Memory) -> Result<bool> {
        let info = *self.state.borrow().log.segments.get(id);
        if info.state != SegmentState::Sealed || info.live == 0 {
            return Ok(true);
        }
        if !self.wait_for_credit().await {
            return Ok(false);
        }
        if info.top_op > self.state.borrow().log.settled() {
            self.wait_durable(Streams::All, info.top_op).await?;
        }
        if let Err(error) = self.read_segment(id, memory, 0).await {
            tracing::error!("segment {id} cannot be recompressed: {error}");
            return Ok(true);
        }
        self.charge(u64::from(self.layout.segment_bytes) * LOOK_NS);
        let place = self.state.borrow().log.place(Tier::Ssd, id, Granule(0));
        let records = decode_summary(&memory.bytes, &place).unwrap_or_else(|_| walk_all(&memory.bytes, &place));
        for record in &records {
            if !self.pack_record(record, memory).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Packs the groups that live blocks of a record are in. Returns `false` when somebody wants something else.
    async fn pack_record(self: &Rc<Self>, record: &SummaryEntry, memory: &mut Memory) -> Result<bool> {
        let Change::Fragment { entry, .. } = record.change else { return Ok(true) };
        let Ok(_known) = self.know_fragment(record).await else { return Ok(true) };
        let live = self.live_blocks(record);
        if live == 0 {
            return Ok(true);
        }
        let granule = entry.location().map_or(Granule(0), |l| l.granule);
        let found = memory.bytes.get((granule.0 * GRANULE) as usize..).unwrap_or_default();
        // what does not verify is found when it is fetched
        let Ok((header, _)) = RecordHeader::decode(found) else { return Ok(true) };
        let RecordBody::Fragment { codec, count, .. } = header.body else { return Ok(true) };
        let is_packed = codec == Codec::Zstd && u32::from(count) == FRAGMENT_BLOCKS_MAX && live == u8::MAX;
        if is_packed || codec == Codec::Zero {
            return Ok(true);
        }
        for group in groups_of(&header) {
            if !self.wait_for_credit().await {
                return Ok(false);
            }
            if let Some(bufs) = &mut memory.workspace.pack {
                self.pack_group(group, bufs).await?;
                self.mind_window();
            }
        }
        Ok(true)
    }

    /// Returns when there is CPU time to be spent, or `false` when somebody wants something else.
    async fn wait_for_credit(&self) -> bool {
        loop {
            yield_now().await;
            if !self.nobody_asks() || self.should_clean() || !self.has_room_to_pack(0) {
                return false;
            }
            match self.credit_wait_ns() {
                0 => return true,
                wait => self.env.sleep_ns(wait.min(NAP_NS)).await,
            }
        }
    }
}
