//! Destage: what lives on in tier 0 is moved to tier 1, so that its segments come free. The cleaner's relocation, with
//! another rule for victims.
//!
//! ```text
//!   few segments left ─► the one with the fewest live blocks ─┐
//!   quiet for long    ─► all, one by one                      ├─► relocate ─► settled ─► free
//!   drain asked for   ─► all, nothing is admitted meanwhile  ─┘
//! ```
//!
//! A log that fits never gets here: by the time its oldest segment is needed, all that was in it has been overwritten.
//!
//! **Invariants.** Victims are sealed, durable, and pinned while they are read (I2). The host never waits for it: without
//! room on tier 0 it writes to tier 1.
//!
//! **Failure.** Without room on tier 1 nothing is moved, and tried again later; who asked for a drain is told. A record that
//! does not verify, or that a damaged batch hides, stays, and its segment with it until the blocks are overwritten: it is no
//! victim again.
//!
//! **Not here:** moving (`relocate`), what is admitted (`journal`).

use std::rc::Rc;

use super::checkpoint::{Running, Switch};
use super::relocate::{Destination, Relocated, Source, Unpack};
use super::room::Purpose;
use super::tier0::Tier0;
use super::unpack::Workspace;
use super::{Core, State};
use crate::buf::AlignedBuf;
use crate::env::sync::yield_now;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::Tier;
use crate::format::journal::journal_segment;
use crate::journal::low_segments;
use crate::limits::JOURNAL_SEGMENT_BYTES;
use crate::log::walk::walk_all;
use crate::log::{StreamKind, Streams};
use crate::map::first_lba;
use crate::units::{Granule, LbaRange, SegmentId};

/// Records relocated before others have their turn.
const PORTION: usize = 16;
/// How often tier 0 is looked at when nothing calls.
const LOOK_NS: u64 = 1_000_000_000;
/// How long after it found no room on tier 1 a destage is tried again.
const RETRY_NS: u64 = 100_000_000;

impl Core {
    /// Destages when tier 0 runs full or was quiet for long. Runs as a task.
    pub(super) async fn run_destage(self: Rc<Self>, tier0: Rc<Tier0>) {
        let tier0 = &*tier0;
        let mut workspace = Workspace::new();
        loop {
            if self.stopping.get() || self.latch.check().is_err() || tier0.ended.get() {
                return;
            }
            tier0.residence_ns.set(self.residence_ns());
            let is_quiet = self.is_quiet(tier0);
            if !self.is_short() && !is_quiet {
                self.wait_for_destage(tier0, LOOK_NS).await;
                continue;
            }
            match self.destage_one(tier0, &mut workspace).await {
                Ok(true) => {}
                // nothing is left, or what is left is not durable yet
                Ok(false) => self.wait_for_destage(tier0, LOOK_NS).await,
                Err(error) => {
                    tracing::debug!("nothing is destaged: {error}");
                    self.env.sleep_ns(RETRY_NS).await;
                }
            }
        }
    }

    /// Waits until somebody wants a segment of tier 0, at most so long.
    async fn wait_for_destage(&self, tier0: &Tier0, ns: u64) {
        tier0.destage_wanted.notified_or(self.env.sleep_ns(ns)).await;
    }

    /// Whether tier 0 has too few segments to be opened.
    fn is_short(&self) -> bool {
        let state = self.state.borrow();
        let journal = &state.log.journal;
        journal.usage_known() && journal.free_count() + journal.waiting_count() < low_segments(journal.count())
    }

    /// How long tier 0 keeps what is there: as long as it has the oldest that it holds, or for good while half of it is free.
    fn residence_ns(&self) -> u64 {
        let state = self.state.borrow();
        let journal = &state.log.journal;
        if journal.usage_known() && journal.free_count() + journal.waiting_count() > journal.count() / 2 {
            return u64::MAX;
        }
        let used = state.log.journal.iter().filter(|(_, info)| info.live > 0);
        let oldest = used.map(|(_, info)| info.born_ns).min().unwrap_or(u64::MAX);
        self.env.now_ns().saturating_sub(oldest)
    }

    fn is_quiet(&self, tier0: &Tier0) -> bool {
        let state = self.state.borrow();
        let idle_ns = self.env.now_ns().saturating_sub(tier0.last_append_ns.get());
        state.log.journal.usage_known() && state.log.journal.live_blocks() > 0 && idle_ns > self.bounds.journal_quiet_ns
    }

    /// Destages one segment and makes that durable. `false` when there is none.
    async fn destage_one(self: &Rc<Self>, tier0: &Tier0, workspace: &mut Workspace) -> Result<bool> {
        let victim = {
            let mut guard = self.state.borrow_mut();
            let log = &mut guard.log;
            let settled = log.settled();
            let victim = log.journal.least_live(settled);
            if let Some(id) = victim {
                log.journal.get_mut(id).pins += 1;
            }
            victim
        };
        let Some(id) = victim else { return Ok(false) };
        let _work = self.begin_work();
        let result = self.destage(tier0, id, workspace).await;
        let live = || self.state.borrow().log.journal.get(id).live;
        if result.is_ok() && live() > 0 {
            self.settle_accounts().await;
        }
        let left = live();
        self.unpin(Tier::Pmem, id);
        result?;
        if left > 0 {
            tracing::error!("{left} blocks of segment {id} of the journal cannot be moved and stay there");
            self.state.borrow_mut().log.journal.keep(id);
        }
        // the segment is free when what emptied it is durable
        let moved = self.state.borrow().log.last_op();
        self.wait_durable(Streams::All, moved).await?;
        Ok(true)
    }

    /// Returns when what was discarded counts for no segment any more.
    async fn settle_accounts(&self) {
        self.space.until(|| self.state.borrow().accounts.is_settled() || self.latch.check().is_err()).await;
    }

    /// Moves what lives in a segment of tier 0, which is pinned, as far as it can be read and verifies.
    async fn destage(self: &Rc<Self>, tier0: &Tier0, id: SegmentId, workspace: &mut Workspace) -> Result<()> {
        let len = JOURNAL_SEGMENT_BYTES as usize;
        let (bytes, result) = tier0.journal.read(journal_segment(id), AlignedBuf::zeroed(len), len).await;
        if let Err(error) = result {
            tracing::error!("destage: segment {id} of the journal: {error}");
            return Ok(());
        }
        let place = self.state.borrow().log.place(Tier::Pmem, id, Granule(0));
        let records = walk_all(&bytes, &place);
        let source = Source { place, bytes: &bytes };
        let destination = Destination { purpose: Purpose::Destage, unpack: Unpack::HalfDead };
        let mut done = Relocated::default();
        for portion in records.chunks(PORTION) {
            self.relocate(&source, portion, destination, workspace, &mut done).await?;
            yield_now().await;
        }
        tier0.destaged_segments.add(1);
        Ok(())
    }

    /// Empties tier 0 and has no leaf called journaled any more. With `keep_out` nothing is admitted afterwards either.
    ///
    /// # Errors
    /// No room on tier 1, or the latch; what was moved by then stays moved.
    pub(crate) async fn drain_journal(self: &Rc<Self>, keep_out: bool) -> Result<()> {
        let Some(tier0) = self.tier0() else {
            return Err(Error::new(ErrorKind::NotFound, "this pool has no journal"));
        };
        tier0.closed.set(true);
        let result = self.drain(&tier0).await;
        if result.is_err() || !keep_out {
            tier0.closed.set(false);
        }
        result
    }

    async fn drain(self: &Rc<Self>, tier0: &Tier0) -> Result<()> {
        let mut workspace = Workspace::new();
        self.space.until(|| !self.cleaner.counting.get() || self.latch.check().is_err()).await;
        if !self.state.borrow().log.journal.usage_known() {
            self.latch.check()?;
            fail!(
                Corrupt,
                "a part of the map cannot be read, so nobody knows all that is in the journal; nothing was moved"
            );
        }
        loop {
            self.latch.check()?;
            self.seal_journal_segment();
            if self.state.borrow().log.journal.live_blocks() == 0 {
                break;
            }
            match self.destage_one(tier0, &mut workspace).await {
                Ok(true) => {}
                // what it holds is damaged, or not durable yet
                Ok(false) => {
                    self.check_kept()?;
                    let last = self.state.borrow().log.last_op();
                    self.wait_durable(Streams::All, last).await?;
                }
                // the cleaner may yet make room
                Err(error) if error.kind() == ErrorKind::NoSpace && !self.is_hopeless() => self.demand_segment().await,
                Err(error) => return Err(error),
            }
        }
        self.unmark_leaves().await
    }

    /// Fails when all that is left on tier 0 cannot be moved.
    fn check_kept(&self) -> Result<()> {
        let state = self.state.borrow();
        let (count, blocks) = state.log.journal.kept();
        if blocks > 0 && blocks == state.log.journal.live_blocks() {
            fail!(
                Corrupt,
                "{blocks} blocks in {count} segments of the journal are damaged and stay there until they are overwritten; \
                 all others are in the pool now"
            );
        }
        Ok(())
    }

    /// Takes the open segment of tier 0 out of use, unless it holds a batch with records.
    pub(super) fn seal_journal_segment(&self) {
        let log = &mut self.state.borrow_mut().log;
        let stream = log.stream(StreamKind::Journal);
        if stream.batch.is_some_and(|id| log.batches.get(id).count > 0) {
            return;
        }
        log.abandon_batch(StreamKind::Journal);
        if let Some(open) = log.stream_mut(StreamKind::Journal).segment.take() {
            log.journal.seal(open.id);
        }
    }

    /// Nothing is on tier 0 and nothing is admitted: has roots say so.
    async fn unmark_leaves(self: &Rc<Self>) -> Result<()> {
        let marked: Vec<_> = {
            let mut state = self.state.borrow_mut();
            // those that were asked for before nothing was admitted any more; what a checkpoint under way makes of the others
            // is in the list
            state.root.marks.clear();
            let leaves =
                state.namespaces.iter().flat_map(|(id, n)| n.directory.iter().map(|(leaf, slot)| (*id, leaf, slot)));
            leaves.filter(|(_, _, slot)| slot.image.journaled).map(|(id, leaf, _)| (id, leaf)).collect()
        };
        for (id, leaf) in &marked {
            let _known = self.know(*id, LbaRange { start: first_lba(*leaf), count: 1 }).await?;
            self.state.borrow_mut().touch_leaf(*id, *leaf);
        }
        self.begin_checkpoint().await;
        let _running = Running(self);
        {
            let mut guard = self.state.borrow_mut();
            let State { namespaces, root, .. } = &mut *guard;
            for (id, leaf) in marked {
                let slot = namespaces.get_mut(&id).and_then(|n| n.directory.slot_mut(leaf));
                // one that holds nothing has no image to be written
                if let Some(slot) = slot.filter(|slot| slot.leaf.is_none()) {
                    (slot.image.journaled, slot.takes_journal) = (false, false);
                    root.directory.insert((id, leaf), slot.image);
                }
            }
        }
        self.switch_all(Switch::Whole).await
    }
}
