//! The cleaner at work: victims chosen, read whole, what is live in them relocated, so that they come free.
//!
//! ```text
//!   owed (Pacer) ─► choose victims ─► read one ─► survey: what would it gain? ─► relocate in portions ─► empty
//!                                                                                meanwhile the next is read (`read_ahead`)
//!                                                  ├ nothing: not looked at again until something of it dies
//!                                                  └ leaves: clean ones appended anew, then a root
//! ```
//!
//! Empty segments are freed by checkpoints, which flush of their own accord when reuse waits (rule 6.3).
//!
//! **Invariants.** Victims are sealed, settled, and pinned while they are read (I2). Only what gains is cleaned, so
//! cleaning ends. Writers wait for it only while there is something to gain ([`Core::is_hopeless`]). Two segments in memory,
//! buffers of its own (I10).
//!
//! **Failure.** A victim that cannot be read, or holds records that do not verify, keeps what could not be moved and is not
//! tried again until something of it dies. No room for moves ends the round.
//!
//! **Not here:** reading (`read_ahead`), what a victim would gain (`survey`), moving (`relocate`), who waits (`pace`), choosing
//! (`victims`, `cleaner`), cleaning ahead of need (`idle`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Core;
use super::checkpoint::{Running, Switch};
use super::pack::PackBufs;
use super::read_ahead::NextVictim;
use super::relocate::{Destination, Relocated, Source};
use super::room::{Purpose, RESERVE_SEGMENTS};
use super::survey::Survey;
use super::unpack::Workspace;
use crate::buf::AlignedBuf;
use crate::cleaner::{Lifespan, Pacer, Rewrites, VictimIndex};
use crate::env::sync::{Notify, yield_now};
use crate::error::Result;
use crate::format::Tier;
use crate::format::record::RecordKind;
use crate::format::summary::{Change, SummaryEntry, decode_summary};
use crate::log::walk::walk_all;
use crate::log::{SegmentState, Streams};
use crate::map::leaf_of;
use crate::units::{Granule, SegmentId};

/// Of what a victim gains, this part is the writers' for reading it, and this for the look at its records: about what these
/// are of the work. The rest comes as its blocks are moved, so that writers wait evenly.
const READ_SHARE: u64 = 8;
const SURVEY_SHARE: u64 = 8;
/// Records relocated before others have their turn.
const PORTION: usize = 16;

/// The state of the cleaner.
pub(super) struct Cleaner {
    pub(super) pacer: RefCell<Pacer>,
    /// Segments that may be victims.
    pub(super) index: RefCell<VictimIndex>,
    /// How long segments of the host's stream last.
    pub(super) lifespan: RefCell<Lifespan>,
    /// What was written lately.
    pub(super) rewrites: RefCell<Rewrites>,
    /// There may be cause to clean.
    pub(super) wanted: Notify,
    /// Usage is still being counted: nobody knows what there is to gain.
    pub(super) counting: Cell<bool>,
    /// What had died, and what was available, when there was nothing to gain.
    hopeless_at: Cell<Option<(u64, usize)>>,
    /// Victims that were taken up.
    pub(super) tried: Cell<u64>,
    /// Of these, read ahead.
    pub(super) taken_ahead: Cell<u64>,
    busy: Cell<bool>,
}

/// The memory of the cleaner's task.
pub(super) struct Memory {
    /// The victim in hand.
    pub(super) bytes: AlignedBuf,
    /// What is read ahead goes here.
    pub(super) spare: AlignedBuf,
    pub(super) next: Option<NextVictim>,
    pub(super) workspace: Workspace,
}

impl Cleaner {
    pub(super) fn new(segments: usize, segment_bytes: u32) -> Self {
        Self {
            pacer: RefCell::new(Pacer::new(segments, RESERVE_SEGMENTS, segment_bytes)),
            index: RefCell::default(),
            lifespan: RefCell::default(),
            rewrites: RefCell::default(),
            wanted: Notify::default(),
            counting: Cell::new(true),
            hopeless_at: Cell::new(None),
            tried: Cell::new(0),
            taken_ahead: Cell::new(0),
            busy: Cell::new(false),
        }
    }
}

impl Cleaner {
    /// The pool has so many segments now.
    pub(super) fn enlarge(&self, segments: usize, segment_bytes: u32) {
        *self.pacer.borrow_mut() = Pacer::new(segments, RESERVE_SEGMENTS, segment_bytes);
        self.hopeless_at.set(None);
    }

    /// How short space is: see [`Pacer::pressure`].
    pub(super) fn pressure(&self, available: usize) -> u64 {
        self.pacer.borrow().pressure(available)
    }
}

impl Core {
    /// Cleans whenever the pacer asks for it, and does what is done ahead when nobody asks for anything. Runs as a task.
    pub(super) async fn run_cleaner(self: Rc<Self>) {
        let mut memory = None;
        loop {
            match &mut memory {
                Some(memory) => self.wait_for_cause(memory).await,
                None => self.cleaner.wanted.until(|| self.has_cause()).await,
            }
            self.cleaner.busy.set(true);
            let memory = memory.get_or_insert_with(|| self.cleaner_memory());
            if self.recompresses() {
                memory.workspace.pack.get_or_insert_with(PackBufs::new);
            }
            let cleans = self.should_clean();
            let result = if cleans { self.clean_round(memory).await } else { self.idle_step(memory).await };
            if let Err(error) = result {
                tracing::warn!("cleaning was given up for now: {error}");
                if cleans {
                    self.give_up_cleaning();
                } else {
                    self.idle.interrupt();
                }
            }
            self.cleaner.busy.set(false);
            self.space.notify_all();
            self.released.notify_all();
        }
    }

    fn cleaner_memory(&self) -> Memory {
        Memory {
            bytes: AlignedBuf::zeroed(self.layout.segment_bytes as usize),
            spare: AlignedBuf::zeroed(0),
            next: None,
            workspace: Workspace::new(),
        }
    }

    /// Whether there is nothing to wait for: all is known, and nothing would gain anything.
    pub(super) fn is_hopeless(&self) -> bool {
        let state = self.state.borrow();
        let segments = &state.log.segments;
        let now = (segments.drops(), segments.available());
        state.accounts.is_settled()
            && !self.cleaner.counting.get()
            && (!segments.usage_known() || self.cleaner.hopeless_at.get() == Some(now))
    }

    fn give_up_cleaning(&self) {
        let segments = &self.state.borrow().log.segments;
        self.cleaner.hopeless_at.set(Some((segments.drops(), segments.available())));
    }

    /// Whether all that is live is known. What was discarded is not worth a look at its segment.
    pub(super) fn knows_usage(&self) -> bool {
        let state = self.state.borrow();
        state.log.segments.usage_known() && state.accounts.is_settled()
    }

    pub(super) fn should_clean(&self) -> bool {
        let available = self.state.borrow().log.segments.available();
        let ends = self.stopping.get() && self.active.get() == 0;
        self.knows_usage()
            && !ends
            && self.latch.check().is_ok()
            && !self.is_hopeless()
            && self.cleaner.pacer.borrow().wants_cleaning(available)
    }

    pub(super) fn has_cause(&self) -> bool {
        self.should_clean() || self.wants_idle_work()
    }

    /// Whether the cleaner has something in hand.
    pub(super) fn is_cleaning(&self) -> bool {
        self.cleaner.busy.get()
    }

    async fn clean_round(self: &Rc<Self>, memory: &mut Memory) -> Result<()> {
        let mut victims = self.choose_victims();
        // what was read ahead comes first: it was the next best a moment ago
        if let Some(next) = memory.next() {
            victims.retain(|id| *id != next);
            victims.insert(0, next);
        }
        if victims.is_empty() {
            self.give_up_cleaning();
        }
        // the last one is only read, for the round that follows
        let count = victims.len().saturating_sub(1).max(1);
        for (index, id) in victims.iter().take(count).enumerate() {
            if !self.should_clean() {
                break;
            }
            self.cleaner.tried.set(self.cleaner.tried.get() + 1);
            self.clean_pinned(*id, memory, victims.get(index + 1).copied()).await?;
        }
        Ok(())
    }

    /// Pins a segment and cleans it. The `next` one is read meanwhile.
    pub(super) async fn clean_pinned(
        self: &Rc<Self>,
        id: SegmentId,
        memory: &mut Memory,
        next: Option<SegmentId>,
    ) -> Result<()> {
        self.pin(Tier::Ssd, id);
        let result = self.clean_segment(id, memory, next).await;
        if memory.next() == Some(id) {
            // it became empty before its turn
            self.drop_next(memory).await;
        }
        self.unpin(Tier::Ssd, id);
        result?;
        self.space.notify_all();
        self.mind_window();
        if self.wants_checkpoint() {
            self.checkpoint_wanted.notify_all();
        }
        Ok(())
    }

    /// Cleans one segment, which is pinned.
    async fn clean_segment(self: &Rc<Self>, id: SegmentId, memory: &mut Memory, next: Option<SegmentId>) -> Result<()> {
        let top_op = {
            let state = self.state.borrow();
            let info = state.log.segments.get(id);
            if info.state != SegmentState::Sealed || info.live == 0 {
                return Ok(());
            }
            (info.top_op > state.log.settled()).then_some(info.top_op)
        };
        if let Some(top_op) = top_op {
            self.wait_durable(Streams::All, top_op).await?;
        }
        self.note_lifespan(id);
        let expected = self.expected_gain(id);
        let credited = match self.take_victim(id, memory, expected / READ_SHARE).await {
            Ok(credited) => credited,
            Err(error) => {
                tracing::error!("segment {id} cannot be cleaned: {error}");
                self.set_aside(id);
                return Ok(());
            }
        };
        if let Some(next) = next {
            self.read_ahead(next, memory);
        }
        let place = self.state.borrow().log.place(Tier::Ssd, id, Granule(0));
        let records = decode_summary(&memory.bytes, &place).unwrap_or_else(|_| walk_all(&memory.bytes, &place));
        if records.iter().any(|r| matches!(r.change, Change::Other { .. })) {
            return self.clean_leaves(id, &records).await;
        }
        let survey = self.survey(records, &memory.bytes, expected / SURVEY_SHARE).await;
        self.clean_fragments(id, &survey, memory, credited + expected / SURVEY_SHARE).await
    }

    /// Cleaning it brings nothing: as long as nothing more of it dies it counts as all live.
    fn set_aside(&self, id: SegmentId) {
        let mut state = self.state.borrow_mut();
        let live = state.log.segments.get(id).live;
        state.log.segments.measured(id, live, self.layout.segment_bytes);
    }

    /// Relocates what is live of a segment that was looked at, of whose gain `credited` was the writers' before.
    async fn clean_fragments(
        self: &Rc<Self>,
        id: SegmentId,
        survey: &Survey,
        memory: &mut Memory,
        credited: u64,
    ) -> Result<()> {
        let bytes = u32::try_from(survey.bytes).unwrap_or(u32::MAX);
        self.state.borrow_mut().log.segments.measured(id, survey.total, bytes);
        let Some((unpack, gain)) = self.gain(survey) else {
            self.set_aside(id);
            return Ok(());
        };
        let place = self.state.borrow().log.place(Tier::Ssd, id, Granule(0));
        let source = Source { place, bytes: &memory.bytes };
        let destination = Destination { purpose: Purpose::Move, unpack };
        let mut done = Relocated::default();
        let portions = survey.live.len().div_ceil(PORTION).max(1) as u64;
        let mut result = Ok(());
        let mut interrupted = false;
        for portion in survey.live.chunks(PORTION) {
            if self.idle.ahead.get() && !self.should_go_on() {
                interrupted = !self.goes_on_ahead().await;
                if interrupted {
                    break;
                }
            } else {
                // as fast as the host writes, also within a segment; to its end once nobody writes
                self.cleaner.wanted.until(|| self.should_go_on() || self.nobody_asks()).await;
            }
            result = self.relocate(&source, portion, destination, &mut memory.workspace, &mut done).await;
            if result.is_err() {
                break;
            }
            if self.stopping.get() && self.active.get() == 0 {
                return Ok(());
            }
            self.credit(gain.saturating_sub(credited) / portions);
            yield_now().await;
        }
        self.stats.relocated_blocks.add(done.blocks);
        self.stats.relocated_bytes.add(done.bytes);
        self.stats.unpacked.add(done.unpacked);
        let (kept, is_exact) = {
            let state = self.state.borrow();
            (state.log.segments.get(id).live, state.accounts.is_settled())
        };
        self.stats.cleaned.add(u64::from(kept == 0));
        self.stats.cleaned_ahead.add(u64::from(kept == 0 && self.idle.ahead.get()));
        // also when what is live is not among the records that were found: it must not be tried for ever. What was discarded
        // meanwhile and is not accounted for is no such case: nothing is cleaned before it is (`knows_usage`)
        if kept > 0 && is_exact && result.is_ok() && !interrupted {
            tracing::error!(
                "segment {id}: {kept} blocks cannot be moved, so it is kept; {} records are damaged",
                done.left
            );
            self.set_aside(id);
        }
        result
    }

    /// Whether a segment in hand is gone on with: cause to clean, or cause to let go of it.
    fn should_go_on(&self) -> bool {
        let available = self.state.borrow().log.segments.available();
        self.cleaner.pacer.borrow().wants_cleaning(available) || self.latch.check().is_err() || self.stopping.get()
    }

    /// Cleans a segment of leaves and images: what is clean and still named is appended anew, what is dirty is written
    /// back, and the root that follows lets go of the rest.
    ///
    /// That takes nearly a segment before it gives one: when space is so short that moves need all of it, it is left.
    async fn clean_leaves(self: &Rc<Self>, id: SegmentId, records: &[SummaryEntry]) -> Result<()> {
        if self.is_scarce() {
            self.set_aside(id);
            return Ok(());
        }
        let before = self.state.borrow().log.segments.get(id).live;
        self.begin_checkpoint().await;
        let running = Running(self);
        for record in records {
            match record.change {
                Change::Other { kind: RecordKind::Leaf, granule } => {
                    let at = (id, granule);
                    if let Err(error) = self.rewrite_leaf(record.namespace, leaf_of(record.first), at).await {
                        self.latch.check()?;
                        tracing::error!("a leaf in segment {id} is not moved: {error}");
                    }
                }
                Change::Other { .. } if self.names_image_in(id) => self.image_wanted.set(true),
                _ => {}
            }
        }
        self.switch_root(self.leaves_a_checkpoint(), Switch::Partial).await?;
        drop(running);
        let after = self.state.borrow().log.segments.get(id).live;
        if after == 0 {
            self.stats.cleaned.add(1);
        } else {
            self.set_aside(id);
        }
        let gained = u64::from(before - after.min(before)) * u64::from(self.layout.segment_bytes);
        self.cleaner.pacer.borrow_mut().gained(gained / u64::from(before.max(1)));
        Ok(())
    }

    fn names_image_in(&self, id: SegmentId) -> bool {
        self.state.borrow().root.image_parts.iter().any(|part| part.segment() == Some(id))
    }
}
