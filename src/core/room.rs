//! Room for the next append: an open batch in an open segment of the stream.
//!
//! ```text
//!   make_room ─► batch has room? ── yes ─► append
//!                  └ no ─► close it, write it ─► segment has room? ── no ─► seal it, open the next
//!                              └─► a slot (waits: back-pressure) ─► open a batch ─► look again
//! ```
//!
//! **Invariants.** Space is found before anything is acknowledged: `ENOSPC` comes here. One task at a time opens for a
//! stream. Host writes leave [`RESERVE_SEGMENTS`] to others, and beyond them what dirty leaves take when they are written
//! back; of the reserve metadata leaves the last one to moves, which are what brings space back. A segment that was opened
//! from the reserve is not for those who may not take it. A root needs no space, so what they empty can always be announced.

use std::rc::Rc;

use super::{Core, State};
use crate::error::{Error, ErrorKind, Result};
use crate::format::leaf::LEAF_BYTES;
use crate::format::record::record_bytes;
use crate::limits::BLOCK_BYTES;
use crate::log::{BatchMemory, OpenSegment, SegmentState, StreamKind, Streams};
use crate::units::SegmentId;

/// Announced segments that host writes may not take.
pub const RESERVE_SEGMENTS: usize = 4;
/// Announced segments that discards may not take either: what they make room with is itself never without room.
const RESERVE_FOR_MOVES: usize = 3;
/// Announced segments that leaves and images may not take either.
const LEFT_TO_MOVES: usize = 1;
/// Below so many announced segments the next root is wanted.
const ANNOUNCED_LOW: usize = 6;

/// Checkpoints that are tried for a segment, one after the other.
const ATTEMPTS: usize = 6;

/// Who asks for room: decides the stream, and how much of the reserve may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A host's data.
    Write,
    /// A host's data that will probably live long.
    ColdWrite,
    /// A host's data that will probably be overwritten within moments.
    HotWrite,
    /// A discard: what makes room again.
    Clear,
    /// A relocation: what makes room too, once its source is free.
    Move,
    /// A relocation from tier 0: as a host's data, of which it is.
    Destage,
    /// A relocation that recompresses: nobody needs it, so it never takes what others may.
    Pack,
    /// Leaves and images.
    Metadata,
}

impl Purpose {
    pub(super) fn stream(self) -> StreamKind {
        match self {
            Self::Write | Self::Clear => StreamKind::Host,
            Self::ColdWrite => StreamKind::Cold,
            Self::HotWrite => StreamKind::Hot,
            Self::Move | Self::Destage => StreamKind::Move,
            Self::Pack => StreamKind::Packed,
            Self::Metadata => StreamKind::Leaf,
        }
    }

    /// A host's data.
    fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::ColdWrite | Self::HotWrite)
    }

    /// What has the map grow, and can wait.
    fn leaves_room_for_map(self) -> bool {
        self.reserve() >= RESERVE_SEGMENTS
    }

    pub(super) fn reserve(self) -> usize {
        match self {
            Self::Pack => RESERVE_SEGMENTS + 1,
            Self::Write | Self::ColdWrite | Self::HotWrite | Self::Destage => RESERVE_SEGMENTS,
            Self::Clear => RESERVE_FOR_MOVES,
            Self::Metadata => LEFT_TO_MOVES,
            Self::Move => 0,
        }
    }
}

/// Lets the next task open when this one is done, whatever happened.
struct Opening<'a> {
    core: &'a Core,
    kind: StreamKind,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.core.state.borrow_mut().log.stream_mut(self.kind).opening = false;
        self.core.space.notify_all();
    }
}

/// Whether a stream's open segment is for this purpose too.
fn may_share(state: &State, purpose: Purpose) -> bool {
    let reserve = purpose.reserve();
    let left = state.log.stream(purpose.stream()).left;
    left >= reserve || state.log.segments.announced_count() >= reserve
}

impl Core {
    /// Whether what is not live, or can be cleaned, is needed to write the map back.
    fn leaves_need_the_rest(&self) -> bool {
        let (available, count, leaves) = {
            let state = self.state.borrow();
            let segments = &state.log.segments;
            let dirty = state.dirty.len() - state.holes;
            // those that a segment more of the host makes dirty, at worst
            let all: usize = state.namespaces.values().map(|n| n.directory.leaf_count() as usize).sum();
            let more = all.saturating_sub(dirty).min(self.layout.segment_bytes as usize / BLOCK_BYTES);
            (segments.available(), segments.usable_count(), dirty + more)
        };
        // one more for the image that names them, and for what is lost at ends of segments and batches
        let bytes = leaves * record_bytes(LEAF_BYTES) * 16 / 15;
        let needed = (RESERVE_SEGMENTS + 1 + bytes.div_ceil(self.layout.segment_bytes as usize)) as f64;
        // a look at every segment: only where it may matter
        if available as f64 > needed {
            return false;
        }
        let Some(live) = self.live_segments() else { return false };
        let dead = (count as f64 - available as f64 - live).max(0.0);
        // the cleaner gets at a part of what is dead
        available as f64 + dead / 2.0 <= needed
    }

    /// Returns when the stream's open batch takes `records` more records of `bytes` in all. The caller appends before
    /// its next await.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], or [`ErrorKind::ReadOnly`] when the latch is closed.
    pub(super) async fn make_room(self: &Rc<Self>, purpose: Purpose, bytes: usize, records: usize) -> Result<()> {
        let kind = purpose.stream();
        // what brings space back does not wait for the map, which may need it
        let is_bounded = purpose != Purpose::Metadata && !(purpose == Purpose::Move && self.is_scarce());
        if is_bounded && self.window_exceeds(super::window::QUARTERS) {
            // boxed: a checkpoint makes room for leaves in its turn
            match Box::pin(self.bound_window()).await {
                // a full pool still takes discards
                Err(error) if purpose == Purpose::Clear && error.kind() == ErrorKind::NoSpace => {}
                result => result?,
            }
        }
        loop {
            self.latch.check()?;
            let opens = {
                let mut state = self.state.borrow_mut();
                let has_room = may_share(&state, purpose) && state.log.has_room(kind, bytes, records);
                if has_room {
                    drop(state);
                    // leaves too are written because hosts write, and by tens of segments in a row
                    if purpose.is_write() || purpose == Purpose::Metadata {
                        self.owe(bytes);
                    }
                    return Ok(());
                }
                !std::mem::replace(&mut state.log.stream_mut(kind).opening, true)
            };
            if opens {
                let _opening = Opening { core: self, kind };
                self.open_batch(purpose, bytes, records).await?;
            } else {
                self.space.notified().await;
            }
        }
    }

    async fn open_batch(self: &Rc<Self>, purpose: Purpose, bytes: usize, records: usize) -> Result<()> {
        let kind = purpose.stream();
        if may_share(&self.state.borrow(), purpose) {
            // 1. what is open is full: what died in it makes room, or it is on its way
            if self.absorb(kind) {
                return Ok(());
            }
            self.note_full_batch(kind);
            self.close_batch(kind);
            // 2. a segment with room
            if !self.state.borrow().log.segment_has_room(kind, bytes, records) {
                self.seal_open_segment(kind);
                let id = self.next_segment(purpose).await?;
                self.begin_segment(purpose, id);
            }
        } else {
            // others go on with what they opened, as long as there is nothing for this one
            let id = self.next_segment(purpose).await?;
            self.close_batch(kind);
            self.seal_open_segment(kind);
            self.begin_segment(purpose, id);
        }
        // 3. memory for the batch
        if self.state.borrow().log.stream(kind).batch.is_some() {
            return Ok(());
        }
        let memory = self.free_slot(kind).await?;
        let now = self.env.now_ns();
        self.state.borrow_mut().log.open_batch(kind, memory, now);
        Ok(())
    }

    fn begin_segment(&self, purpose: Purpose, id: SegmentId) {
        let kind = purpose.stream();
        {
            let mut state = self.state.borrow_mut();
            let stream = state.log.stream_mut(kind);
            stream.segment = Some(OpenSegment { id, at: 0, summary: Vec::with_capacity(2048) });
            stream.left = purpose.reserve();
        }
        if Streams::Host.include(kind) {
            self.mind_preparation();
        }
    }

    async fn free_slot(&self, kind: StreamKind) -> Result<BatchMemory> {
        loop {
            self.latch.check()?;
            if let Some(memory) = self.state.borrow_mut().log.memories.take(kind) {
                return Ok(memory);
            }
            self.space.notified().await;
        }
    }

    /// A segment to open. When none is announced, the medium is asked again for what it had no space for, and roots are
    /// switched to as long as something is free or empty; then the host waits for the cleaner; when that brings none,
    /// space is out.
    async fn next_segment(self: &Rc<Self>, purpose: Purpose) -> Result<SegmentId> {
        let (mut attempt, mut progress) = (0, self.stats.host_segments.get());
        let mut tried = self.cleaner.tried.get();
        loop {
            self.latch.check()?;
            if let Some(id) = self.take_segment(purpose) {
                return Ok(id);
            }
            // the leaf stream is written by checkpoints: it lives on the reserve and must not wait for one
            if purpose == Purpose::Metadata {
                break;
            }
            // nobody needs it: it waits for nothing
            if purpose == Purpose::Pack {
                return Err(Error::new(ErrorKind::NoSpace, "the pool has no space to recompress into"));
            }
            self.look_for_space().await;
            let available = self.state.borrow().log.segments.available();
            if self.checkpointing.get() {
                self.released.notified().await;
            } else if purpose.leaves_room_for_map() && self.leaves_need_the_rest() {
                // written back they need nothing more: what is left then is the host's
                if !self.writes_some_back().await? {
                    break;
                }
            } else if attempt < ATTEMPTS && self.may_free() {
                // later attempts write more leaves, so that segments of CLEARs come free; boxed: a checkpoint makes room
                // for leaves in its turn
                let leaves = if attempt < 2 { 0 } else { self.leaves_a_checkpoint() };
                Box::pin(self.checkpoint(leaves)).await?;
                attempt += 1;
            } else if purpose == Purpose::Destage {
                // it holds the stream that the cleaner writes to, and must not wait for the cleaner: tried again later
                self.ask_for_segment();
                return Err(Error::new(ErrorKind::NoSpace, "the pool has no space to move the journal's blocks to"));
            } else if purpose == Purpose::Move || self.is_hopeless() || self.tried_all_since(tried) {
                break;
            } else {
                self.demand_segment().await;
                if self.stats.host_segments.get() != progress {
                    (progress, tried) = (self.stats.host_segments.get(), self.cleaner.tried.get());
                }
                if self.state.borrow().log.segments.available() != available {
                    attempt = 0;
                }
            }
        }
        self.stats.no_space.add(1);
        Err(self.full())
    }

    /// Why a host gets no segment.
    fn full(&self) -> Error {
        let text = match self.state.borrow().log.segments.refused_count() {
            0 => "the pool is full: discard or destroy something, or create a larger pool".to_owned(),
            refused => format!(
                "the filesystem or thin device under the pool has no space for {refused} of its segments, and the others \
                 are full: make room there, or discard or destroy something"
            ),
        };
        Error::new(ErrorKind::NoSpace, text)
    }

    /// A checkpoint with leaves, if any is dirty. Returns whether one was written back, or soon can be.
    async fn writes_some_back(self: &Rc<Self>) -> Result<bool> {
        let before = self.write_back_progress();
        if before.0.is_some() {
            // boxed: a checkpoint makes room for leaves in its turn
            Box::pin(self.checkpoint(self.leaves_a_checkpoint())).await?;
        }
        Ok(self.write_back_progress() != before)
    }

    /// Whether so many segments were cleaned as there are: then everything was moved once, and what that gained went into
    /// moving it (the padding of short batches, the leaves).
    fn tried_all_since(&self, tried: u64) -> bool {
        self.cleaner.tried.get() - tried > self.state.borrow().log.segments.usable_count() as u64
    }

    /// Whether a checkpoint may bring a segment: something is free, or only has to be settled.
    fn may_free(&self) -> bool {
        let segments = &self.state.borrow().log.segments;
        segments.free_count() + segments.empty_count() > 0
    }

    fn take_segment(&self, purpose: Purpose) -> Option<SegmentId> {
        // the last root of a serve leaves the whole reserve to the next one: a pool that is full takes discards
        let ends = self.stopping.get() && !self.spends_reserve.get() && purpose == Purpose::Metadata;
        let reserve = if ends { RESERVE_SEGMENTS } else { purpose.reserve() };
        if purpose.leaves_room_for_map() && self.leaves_need_the_rest() {
            return None;
        }
        let mut state = self.state.borrow_mut();
        let segments = &mut state.log.segments;
        if segments.announced_count() <= ANNOUNCED_LOW.max(reserve) {
            self.checkpoint_wanted.notify_all();
        }
        if segments.announced_count() <= reserve {
            return None;
        }
        let id = segments.take_announced()?;
        if purpose.is_write() {
            self.stats.host_segments.add(1);
        }
        let info = segments.get_mut(id);
        (info.born_ns, info.stream) = (self.env.now_ns(), Some(purpose.stream()));
        debug_assert_eq!(segments.get(id).state, SegmentState::Open);
        Some(id)
    }
}
