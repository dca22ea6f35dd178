//! Scrub: everything that is in use read back and verified while the pool is served, at a set rate.
//!
//! ```text
//!   a segment, pinned, in pieces of 512 KiB ─► summary | walk ─► records ─► those the map (or a root) points to ─► verified
//! ```
//!
//! What does not verify is logged and listed in the status, with the LBAs it hurts. A leaf of the map that is in memory
//! is written anew, and so is a full image: damage of the map that is found in time is mended.
//!
//! The segments of a journal come after those of the pool (`scrub_journal`).
//!
//! **Invariants.** Reads only (but for what it mends, which goes the way of all leaves). Its segment is pinned, so it is
//! not reused meanwhile (I2). Bounded: one segment in memory, a bounded list of damage (I10). **Failure** to read a piece
//! is damage of what is in it. **Not here:** superblocks, namespace tables and roots, of which two
//! copies are read at each start.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::Core;
use crate::buf::AlignedBuf;
use crate::env::sync::Notify;
use crate::error::{Error, Result};
use crate::fail;
use crate::format::Tier;
use crate::format::record::{Place, RecordHeader, RecordKind};
use crate::format::summary::{Change, SummaryEntry, decode_summary};
use crate::limits::{GRANULE, SLOT_BYTES};
use crate::log::walk::walk_all;
use crate::log::{SegmentState, StreamKind, Streams};
use crate::map::leaf_of;
use crate::units::{Granule, Lba, LbaRange, NamespaceId, OpNo, SegmentId};

/// Places of damage that are kept for the status; all are counted and logged.
const DAMAGE_KEPT: usize = 100;

/// What a scrub is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubState {
    /// None was asked for since the pool was opened.
    #[default]
    Never,
    /// It is on its way.
    Running,
    /// It waits to be resumed.
    Paused,
    /// It was stopped before its end.
    Stopped,
    /// It came to its end.
    Done,
}

/// How far a scrub is, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// What it is doing.
    pub state: ScrubState,
    /// Bytes a second it reads at most.
    pub rate: u64,
    /// Segments looked at.
    pub segments_done: u32,
    /// Segments of the pool and its journal.
    pub segments: u32,
    /// Bytes read.
    pub bytes: u64,
    /// Records verified.
    pub records: u64,
    /// Damaged places found.
    pub damaged: u64,
    /// The first of them.
    pub damage: Vec<ScrubDamage>,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubDamage {
    /// What.
    pub what: String,
    /// Whether it is in the journal, and the segment one of the journal's.
    #[serde(default)]
    pub journal: bool,
    /// Segment.
    pub segment: u32,
    /// Byte in the segment.
    pub byte: u32,
    /// The namespace that is hurt.
    pub namespace: Option<String>,
    /// First LBA (4 KiB block) that is hurt.
    pub first_lba: Option<u64>,
    /// LBAs that are hurt; 0 for what was mended.
    pub lbas: u64,
}

/// The scrub of a core.
#[derive(Default)]
pub struct Scrub {
    status: RefCell<ScrubStatus>,
    /// It was started, resumed, paused or stopped.
    changed: Notify,
    /// How many were started.
    started: Cell<u64>,
    /// Which of them is on its way, or was the last.
    under_way: Cell<u64>,
    /// Something of the map is to be written anew.
    mending: Cell<bool>,
}

impl Scrub {
    /// How far it is.
    #[must_use]
    pub fn status(&self) -> ScrubStatus {
        self.status.borrow().clone()
    }

    /// Begins a new scrub at `rate` bytes a second.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Busy`] when one is on its way.
    pub fn start(&self, rate: u64) -> Result<()> {
        let mut status = self.status.borrow_mut();
        if matches!(status.state, ScrubState::Running | ScrubState::Paused) {
            fail!(Busy, "a scrub is on its way: {} of {} segments", status.segments_done, status.segments);
        }
        *status = ScrubStatus { state: ScrubState::Running, rate: rate.max(1), ..ScrubStatus::default() };
        // what is left of one that was stopped a moment ago is none of its work
        self.started.set(self.started.get() + 1);
        self.changed.notify_all();
        Ok(())
    }

    /// Pauses, resumes or stops the scrub that is on its way.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::NotFound`] when there is none.
    pub fn turn(&self, state: ScrubState) -> Result<()> {
        let mut status = self.status.borrow_mut();
        if !matches!(status.state, ScrubState::Running | ScrubState::Paused) {
            fail!(NotFound, "no scrub is on its way");
        }
        status.state = state;
        self.changed.notify_all();
        Ok(())
    }

    fn is(&self, state: ScrubState) -> bool {
        self.status.borrow().state == state
    }

    /// The one that was started last is on its way from now on.
    fn begin(&self) {
        self.under_way.set(self.started.get());
    }

    /// Whether the status is that of the one on its way.
    fn is_newest(&self) -> bool {
        self.under_way.get() == self.started.get()
    }

    /// Whether the one on its way goes on to its end, sooner or later: it was not stopped, let alone another one started.
    fn goes_on(&self) -> bool {
        self.is_newest() && matches!(self.status.borrow().state, ScrubState::Running | ScrubState::Paused)
    }

    /// Says something of the one on its way; that is lost when another one was started.
    pub(super) fn with(&self, change: impl FnOnce(&mut ScrubStatus)) {
        if self.is_newest() {
            change(&mut self.status.borrow_mut());
        }
    }
}

impl Core {
    /// Scrubs whenever [`Scrub::start`] asks for it. Runs as a task.
    pub(super) async fn run_scrub(self: Rc<Self>) {
        loop {
            self.scrub.changed.until(|| self.scrub.is(ScrubState::Running)).await;
            self.scrub.begin();
            let count = u32::try_from(self.state.borrow().log.segments.count()).unwrap_or(u32::MAX);
            let on_journal = u32::try_from(self.state.borrow().log.journal.count()).unwrap_or(0);
            self.scrub.with(|status| status.segments = count.saturating_add(on_journal));
            tracing::info!("a scrub begins: {count} segments, {on_journal} of the journal");
            // one segment, for as long as it lasts
            let mut bytes = AlignedBuf::zeroed(self.layout.segment_bytes as usize);
            let of_journal = (0..on_journal).map(|id| (Tier::Pmem, SegmentId(id)));
            for (tier, id) in (0..count).map(|id| (Tier::Ssd, SegmentId(id))).chain(of_journal) {
                if !self.scrub.goes_on() || self.stopping.get() {
                    break;
                }
                if tier == Tier::Pmem {
                    self.scrub_journal_segment(id).await;
                } else {
                    self.scrub_segment(id, &mut bytes).await;
                }
                if self.scrub.goes_on() {
                    self.scrub.with(|status| status.segments_done += 1);
                }
                // also behind the last segment: resuming must not begin anew
                self.scrub.changed.until(|| !self.scrub.is(ScrubState::Paused)).await;
            }
            self.scrub_ends();
        }
    }

    fn scrub_ends(&self) {
        if !self.scrub.is_newest() {
            tracing::info!("a scrub was stopped, and another one started");
            return;
        }
        let status = self.scrub.status();
        if status.state == ScrubState::Running {
            self.scrub.with(|status| status.state = ScrubState::Done);
        }
        tracing::info!("a scrub ended: {} records verified, {} damaged", status.records, status.damaged);
    }

    async fn scrub_segment(self: &Rc<Self>, id: SegmentId, bytes: &mut AlignedBuf) {
        let (is_open, end, last) = {
            let state = self.state.borrow();
            let info = state.log.segments.get(id);
            match info.state {
                SegmentState::Sealed => (false, self.layout.segment_bytes, OpNo(0)),
                SegmentState::Open | SegmentState::Sealing => (true, info.end, state.log.last_op()),
                SegmentState::Free | SegmentState::Announcing | SegmentState::Announced => return,
            }
        };
        // pinned before the wait: what `end` says is of this generation
        self.pin(Tier::Ssd, id);
        // of an open segment what was closed by now is looked at, once it is written
        if is_open && (end == 0 || self.wait_durable(Streams::All, last).await.is_err()) {
            self.unpin(Tier::Ssd, id);
            return;
        }
        let listed = self.open_records(id, end);
        self.read_slowly(id, bytes).await;
        if !self.scrub.goes_on() {
            self.unpin(Tier::Ssd, id);
            return;
        }
        bytes[end as usize..].fill(0);
        let place = self.state.borrow().log.place(Tier::Ssd, id, Granule(0));
        let records = match listed {
            Some(records) => records,
            None => decode_summary(bytes, &place).unwrap_or_else(|_| walk_all(bytes, &place)),
        };
        for record in &records {
            self.scrub_record(record, bytes, &place).await;
        }
        self.unpin(Tier::Ssd, id);
        if self.scrub.mending.take()
            && let Err(error) = self.checkpoint(self.leaves_a_checkpoint()).await
        {
            tracing::error!("what a scrub found damaged in the map was not written anew: {error}");
        }
    }

    /// The records of a segment that a stream appends to, as far as they are before `end`.
    fn open_records(&self, id: SegmentId, end: u32) -> Option<Vec<SummaryEntry>> {
        let state = self.state.borrow();
        let mut open = StreamKind::SSD.iter().filter_map(|kind| state.log.stream(*kind).segment.as_ref());
        let open = open.find(|open| open.id == id)?;
        let before = |record: &&SummaryEntry| granule_of(record).is_some_and(|g| g.0 * GRANULE < end);
        Some(open.summary.iter().filter(before).copied().collect())
    }

    /// Reads a segment no faster than the rate, or a part of it when the scrub is stopped. A piece that cannot be read is
    /// zeros: nothing in it verifies.
    async fn read_slowly(&self, id: SegmentId, bytes: &mut AlignedBuf) {
        let segment = self.layout.segment(id);
        for start in (0..bytes.len()).step_by(SLOT_BYTES) {
            let began = self.env.now_ns();
            let buf = std::mem::replace(bytes, AlignedBuf::zeroed(0));
            let len = SLOT_BYTES.min(buf.len() - start);
            let (buf, result) = self.media.read_into(segment + start as u64, buf, start, len).await;
            *bytes = buf;
            if let Err(error) = result {
                tracing::error!("scrub: segment {id}: {error}");
                bytes[start..start + len].fill(0);
            }
            self.scrub_rests(began, len).await;
            if !self.scrub.goes_on() {
                break;
            }
        }
    }

    /// Counts bytes whose reading began then, and waits as long as the rate asks for, or until the scrub is stopped.
    ///
    /// A pause does not end it: a scrub pauses between segments, and what is left of this one is read at the rate too.
    pub(super) async fn scrub_rests(&self, began: u64, bytes: usize) {
        let rate = self.scrub.status.borrow().rate;
        self.scrub.with(|status| status.bytes += bytes as u64);
        let due = began + (bytes as u64).saturating_mul(1_000_000_000) / rate;
        while self.scrub.goes_on() && self.env.now_ns() < due {
            self.scrub.changed.notified_or(self.env.reactor.sleep_until(due)).await;
        }
    }

    pub(super) async fn scrub_record(self: &Rc<Self>, record: &SummaryEntry, bytes: &[u8], place: &Place) {
        let Some(granule) = granule_of(record) else { return };
        let found = bytes.get((granule.0 * GRANULE) as usize..).unwrap_or_default();
        let verified = RecordHeader::decode_whole(found, &place.at(granule));
        let same = |header: &RecordHeader| header.namespace == record.namespace && header.first == record.first;
        let problem = match verified {
            Ok((header, _)) if same(&header) => None,
            Ok((header, _)) => Some(Error::corrupt("record", "LBA listed", record.first.0, header.first.0)),
            Err(error) => Some(error),
        };
        let Some(problem) = problem else {
            self.scrub.with(|status| status.records += 1);
            return;
        };
        match record.change {
            Change::Fragment { mask, .. } => {
                self.scrub_found_fragment(record, mask, &place.at(granule), &problem).await;
            }
            Change::Other { kind, .. } => self.scrub_found_metadata(record, kind, place.segment, granule, &problem),
            Change::Clear { .. } => {}
        }
    }

    /// A fragment does not verify: which of its blocks are in use?
    async fn scrub_found_fragment(self: &Rc<Self>, record: &SummaryEntry, mask: u8, place: &Place, problem: &Error) {
        let id = record.namespace;
        let here = (place.tier, place.segment, place.granule);
        let mut hurt = 0;
        let mut first = None;
        for lba in (0..8).filter(|index| mask >> index & 1 == 1).map(|index| Lba(record.first.0 + index)) {
            // a leaf that cannot be read has been, or will be, found by itself
            if lba.0 >= self.blocks_of(id) {
                continue;
            }
            let Ok(_known) = self.know(id, LbaRange { start: lba, count: 1 }).await else { continue };
            let state = self.state.borrow();
            let entry = state.namespace(id).map(|n| n.directory.get(lba)).unwrap_or_default();
            if entry.location().is_some_and(|l| (l.tier(), l.segment, l.granule) == here) {
                first = first.or(Some(lba.0));
                hurt += 1;
            }
        }
        if hurt > 0 {
            self.stats.corrupt.add(1);
            self.scrub_found(Some(id), here, first, hurt, problem.to_string());
        }
    }

    /// A leaf or a part of an image does not verify: if it is in use and in memory, it is written anew.
    fn scrub_found_metadata(
        &self,
        record: &SummaryEntry,
        kind: RecordKind,
        segment: SegmentId,
        granule: Granule,
        problem: &Error,
    ) {
        let is_here = |entry: crate::format::Entry| {
            entry.location().is_some_and(|l| (l.tier(), l.segment, l.granule) == (Tier::Ssd, segment, granule))
        };
        let (id, leaf) = (record.namespace, leaf_of(record.first));
        let mut state = self.state.borrow_mut();
        if kind == RecordKind::Image {
            if state.root.image_parts.iter().any(|part| is_here(*part)) {
                drop(state);
                self.image_wanted.set(true);
                self.scrub.mending.set(true);
                let what = format!("a part of the directory's image: {problem}; a new one is written");
                self.scrub_found(None, (Tier::Ssd, segment, granule), None, 0, what);
            }
            return;
        }
        let slot = state.namespaces.get(&id).and_then(|n| n.directory.slot(leaf));
        let Some(slot) = slot.filter(|slot| is_here(slot.image.entry)) else { return };
        let is_known = slot.leaf.is_some();
        if is_known {
            state.touch_leaf(id, leaf);
            self.scrub.mending.set(true);
        }
        let blocks = state.namespaces.get(&id).map_or(0, |n| n.entry.blocks);
        drop(state);
        let lbas =
            if is_known { 0 } else { blocks.saturating_sub(record.first.0).min(crate::limits::LEAF_ENTRIES as u64) };
        let fate = if is_known { "; it is in memory and written anew" } else { "" };
        self.scrub_found(
            Some(id),
            (Tier::Ssd, segment, granule),
            Some(record.first.0),
            lbas,
            format!("leaf {leaf} of the map: {problem}{fate}"),
        );
    }

    pub(super) fn scrub_found(
        &self,
        id: Option<NamespaceId>,
        (tier, segment, granule): (Tier, SegmentId, Granule),
        first_lba: Option<u64>,
        lbas: u64,
        what: String,
    ) {
        let state = self.state.borrow();
        let namespace = id.and_then(|id| state.namespaces.get(&id)).map(|n| n.entry.name.clone());
        let byte = granule.0 * GRANULE;
        let journal = tier == Tier::Pmem;
        let of = if journal { " of the journal" } else { "" };
        tracing::error!(namespace, first_lba, lbas, "scrub: segment {segment}{of} at byte {byte}: {what}");
        self.scrub.with(|status| {
            status.damaged += 1;
            if status.damage.len() < DAMAGE_KEPT {
                status.damage.push(ScrubDamage { what, journal, segment: segment.0, byte, namespace, first_lba, lbas });
            }
        });
    }
}

/// Where in its segment a record is; a CLEAR has nothing to verify.
pub(super) fn granule_of(record: &SummaryEntry) -> Option<Granule> {
    match record.change {
        Change::Fragment { entry, .. } => entry.location().map(|l| l.granule),
        Change::Other { granule, .. } => Some(granule),
        Change::Clear { .. } => None,
    }
}
