//! Checkpoints: leaf write-back, then a switch to a new root (rules 6.1 to 6.3, I1, I3).
//!
//! 1. free what rule 6.3 lets go; choose segments to announce and take their space;
//! 2. write back the oldest dirty leaves;
//! 3. a new full image when the changes have grown; more leaves if the root would not fit its slot;
//! 4. in one step build the root;
//! 5. wait until everything appended up to that step is durable;
//! 6. write both copies of the root's slot, flush;
//! 7. only now it counts: announced segments may be opened, superseded images are released, the replay start advances.
//!
//! **Failure.** In 5 and 6 the latch closes (I11); without room for metadata the checkpoint is given up and the old root
//! stays current, which loses nothing.

use std::rc::Rc;

use super::Core;
use super::announce::reclaim;
use super::recent::Reading;
use super::room::RESERVE_SEGMENTS;
use crate::buf::AlignedBuf;
use crate::canary::{self, Rule};
use crate::env::reactor::IoBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::layout::{COPIES, ROOT_BYTES};
use crate::format::root::{DirectoryChange, Root, SegmentChange, WindowSegment, WindowState};
use crate::limits::BLOCK_BYTES;
use crate::log::segments::SummaryState;
use crate::log::{SegmentState, Streams};
use crate::map::DirtyLeaf;
use crate::units::{OpNo, SegmentId};

/// Why the map cannot be written back.
pub(super) const NO_ROOM_FOR_LEAVES: &str = "the pool has no space to write its map back";
/// How often the lifetime counters are made durable while the host writes, and space that the medium had none of is
/// looked for.
const COUNTER_ROOT_NS: u64 = 5_000_000_000;

/// What a switch to a new root is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Leaves as far as there is room: also a full pool announces what came free.
    Partial,
    /// All leaves that were asked for, or none of it counts.
    Whole,
    /// The same, and the serve ends.
    Clean,
}

/// Lets the next checkpoint begin.
pub(super) struct Running<'a>(pub(super) &'a Core);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.checkpointing.set(false);
        self.0.released.notify_all();
    }
}

/// Something in the background that a stop waits for.
pub(super) struct Work<'a>(&'a Core);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.works.set(self.0.works.get() - 1);
        self.0.released.notify_all();
    }
}

impl Core {
    /// Checkpoints whenever segments or the replay window ask for it. Runs as a task.
    pub(super) async fn run_checkpoints(self: Rc<Self>) {
        loop {
            self.checkpoint_wanted.notified().await;
            while self.latch.check().is_ok() && !self.stopping.get() && self.wants_checkpoint() {
                let before = self.progress();
                // a root that only announces segments takes no leaves along: written early, they would come again soon. Nor
                // does one take along what can wait while space is short: moves need the last segments to gain others
                let leaves = if self.writes_back() && (!self.is_scarce() || self.is_hopeless()) {
                    self.leaves_a_checkpoint()
                } else {
                    0
                };
                if let Err(error) = self.checkpoint(leaves).await {
                    tracing::warn!("a checkpoint was given up: {error}");
                    // a leaf that cannot be read keeps the window where it is; the host still needs segments
                    if leaves == 0 || self.checkpoint(0).await.is_err() {
                        break;
                    }
                }
                // a full pool: the next one would bring nothing either
                if self.progress() == before {
                    break;
                }
            }
        }
    }

    /// Whether hosts cannot have another segment, or only one.
    pub(super) fn is_scarce(&self) -> bool {
        self.state.borrow().log.segments.available() <= RESERVE_SEGMENTS + 1
    }

    /// What checkpoints advance.
    fn progress(&self) -> (OpNo, usize) {
        let state = self.state.borrow();
        (state.root.replay_start, state.log.segments.announced_count())
    }

    /// The counters as of now.
    pub(crate) fn reading(&self) -> Reading {
        Reading {
            at_ns: self.env.now_ns(),
            host_written: self.stats.host_written.get(),
            stored: self.stats.stored.get(),
            media_written: self.media.stats().written_bytes.get(),
        }
    }

    /// Reads the counters now and then, and switches the root while the host writes, so that a killed daemon loses little of
    /// those of its life (nothing else depends on it). Looks for space that the medium had none of. Runs as a task.
    pub(super) async fn run_counter_roots(self: Rc<Self>) {
        let mut counted = 0;
        loop {
            self.recent.push(self.reading());
            self.env.sleep_ns(COUNTER_ROOT_NS).await;
            let now = self.stats.host_written.get() + self.stats.host_discarded.get();
            if now != counted && self.latch.check().is_ok() && !self.stopping.get() && !self.checkpointing.get() {
                counted = now;
                if let Err(error) = self.checkpoint(0).await {
                    tracing::debug!("the counters were not kept: {error}");
                }
            }
            if self.may_find_space() && self.latch.check().is_ok() && !self.stopping.get() {
                // nobody has to write for it to be seen that there is space again
                let _work = self.begin_work();
                self.look_for_space().await;
            }
        }
    }

    /// Leaves written back by one checkpoint, at most: they fit into one segment, which the reserve has.
    pub(super) fn leaves_a_checkpoint(&self) -> usize {
        self.layout.segment_bytes as usize / BLOCK_BYTES * 3 / 4
    }

    /// One checkpoint with up to `leaves` leaves written back.
    ///
    /// # Errors
    /// Metadata had no room, or the latch is closed.
    pub(crate) async fn checkpoint(self: &Rc<Self>, leaves: usize) -> Result<()> {
        self.begin_checkpoint().await;
        let _running = Running(self);
        self.switch_root(leaves, Switch::Partial).await
    }

    /// The last checkpoint of a serve: all leaves, and a root that says so. Those that still wait for their turn are refused.
    ///
    /// # Errors
    /// As [`Core::checkpoint`]; then the next start replays.
    pub(crate) async fn checkpoint_clean(self: &Rc<Self>) -> Result<()> {
        self.begin_checkpoint().await;
        let _running = Running(self);
        let mut result = self.switch_all(Switch::Clean).await;
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace) {
            // something is dead then, or leaves would have room: the cleaner of the next serve needs one segment to get at it
            self.spends_reserve.set(true);
            result = self.switch_all(Switch::Clean).await;
        }
        self.over.set(true);
        result
    }

    /// Writes all leaves back that are dirty now, and switches to a root that has them.
    ///
    /// # Errors
    /// As `checkpoint`, and [`ErrorKind::NoSpace`] when one of them has no room.
    pub async fn checkpoint_all(self: &Rc<Self>) -> Result<()> {
        self.begin_checkpoint().await;
        let _running = Running(self);
        self.switch_all(Switch::Whole).await
    }

    /// [`Core::checkpoint_all`], within a checkpoint that has begun.
    pub(super) async fn switch_all(self: &Rc<Self>, last: Switch) -> Result<()> {
        let leaves = self.leaves_a_checkpoint();
        // a busy host makes others dirty meanwhile: they do not keep us here
        let until = self.state.borrow().log.last_op();
        while self.state.borrow().dirty.iter().nth(leaves).is_some_and(|dirty| dirty.since <= until) {
            let before = self.write_back_progress();
            self.switch_root(leaves, Switch::Partial).await?;
            if self.write_back_progress() == before {
                self.stats.no_space.add(1);
                return Err(Error::new(ErrorKind::NoSpace, NO_ROOM_FOR_LEAVES));
            }
        }
        self.switch_root(leaves, last).await
    }

    /// What a checkpoint changes that writes leaves back, or announces the segments for them.
    pub(super) fn write_back_progress(&self) -> (Option<DirtyLeaf>, usize) {
        let state = self.state.borrow();
        (state.dirty.oldest(), state.log.segments.announced_count())
    }

    /// Whether a checkpoint is under way.
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointing.get()
    }

    /// Returns when no checkpoint is under way, and keeps others from beginning.
    pub(crate) async fn begin_checkpoint(&self) {
        while self.checkpointing.replace(true) {
            self.released.notified().await;
        }
    }

    /// Lets the next checkpoint begin.
    pub(crate) fn end_checkpoint(&self) {
        drop(Running(self));
    }

    pub(super) async fn switch_root(self: &Rc<Self>, leaves: usize, switch: Switch) -> Result<()> {
        self.latch.check()?;
        if self.over.get() {
            fail!(Shutdown, "the pool has stopped");
        }
        // 1. segments for use next
        let announcing = self.choose_segments().await?;
        // 2. leaves: only those dirty now, lest a busy host keeps us here
        let until = self.state.borrow().log.last_op();
        let result = match self.write_back(leaves, until).await {
            Ok(_) => match self.write_image_if_due(!announcing.is_empty()).await {
                Ok(()) => self.fit_root().await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let result = match result {
            Err(error) if error.kind() == ErrorKind::NoSpace && switch == Switch::Partial => self.check_root_fits(),
            result => result.and_then(|()| self.check_root_fits()),
        };
        if let Err(error) = result {
            self.withdraw(&announcing);
            return Err(error);
        }
        // 4. the root, in one step
        let (root, appended, releasing, marked) = {
            let mut state = self.state.borrow_mut();
            let releasing = std::mem::take(&mut state.root.release);
            let marked = state.mark_leaves();
            (self.build_root(&mut state, switch == Switch::Clean), state.log.last_op(), releasing, marked)
        };
        // 5. everything that it depends on
        if !canary::is_off(Rule::FlushBeforeRoot) {
            self.wait_durable(Streams::All, appended).await?;
        }
        // 6. both copies, then it is current
        self.write_root(&root).await?;
        // 7. what follows from it
        self.root_is_durable(&root, &announcing, &releasing);
        self.state.borrow_mut().leaves_marked(&marked);
        Ok(())
    }

    fn withdraw(&self, announcing: &[SegmentId]) {
        let mut state = self.state.borrow_mut();
        announcing.iter().for_each(|id| state.log.segments.withdraw(*id));
    }

    fn build_root(&self, state: &mut super::State, clean: bool) -> Root {
        let replay_start = state.replay_start();
        state.root.sessions.retain(|s| s.last_accepted > replay_start);
        let mut window: Vec<_> = state.log.segments.window(replay_start).to_vec();
        window.sort_unstable();
        let mut listed: Vec<_> = window
            .iter()
            .map(|id| {
                let info = state.log.segments.get(*id);
                let flushed = info.state == SegmentState::Sealed && info.summary == SummaryState::Durable;
                let kind = if flushed { WindowState::Flushed } else { WindowState::Open };
                WindowSegment { segment: *id, generation: info.generation, state: kind, end: info.end }
            })
            .collect();
        listed.extend(state.log.segments.iter().filter_map(|(id, info)| {
            let announced = matches!(info.state, SegmentState::Announcing | SegmentState::Announced);
            let state = WindowState::Announced;
            announced.then_some(WindowSegment { segment: id, generation: info.generation, state, end: 0 })
        }));
        let root = &state.root;
        Root {
            pool: self.pool,
            sequence: root.sequence + 1,
            session: self.session,
            clean: clean || root.stays_clean,
            boot: root.boot,
            replay_start,
            last_op: state.log.last_op(),
            lifetime: self.lifetime(root),
            image: root.image,
            image_directory_bytes: root.image_directory_bytes,
            image_parts: root.image_parts.clone(),
            image_generations: image_generations(&root.image_parts, &state.log.segments),
            sessions: root.sessions.clone(),
            window: listed,
            segments: root
                .segments
                .iter()
                .map(|(segment, generation)| SegmentChange { segment: *segment, generation: *generation })
                .collect(),
            directory: root
                .directory
                .iter()
                .map(|((namespace, leaf), image)| DirectoryChange { namespace: *namespace, leaf: *leaf, image: *image })
                .collect(),
        }
    }

    fn lifetime(&self, root: &super::RootState) -> crate::format::root::Lifetime {
        let mut lifetime = root.lifetime;
        lifetime.host_written += self.stats.host_written.get();
        lifetime.host_read += self.stats.host_read.get();
        lifetime.host_discarded += self.stats.host_discarded.get();
        lifetime.stored += self.stats.stored.get();
        lifetime.media_written += self.media.stats().written_bytes.get();
        lifetime
    }

    async fn write_root(&self, root: &Root) -> Result<()> {
        let result = self.try_write_root(root).await;
        if let Err(error) = &result {
            self.become_read_only("writing a root", error);
        }
        result
    }

    async fn try_write_root(&self, root: &Root) -> Result<()> {
        let mut buf = AlignedBuf::zeroed(ROOT_BYTES);
        let bytes = root.encode(&mut buf)?;
        let mut buf = IoBuf::Owned(buf);
        for copy in 0..COPIES {
            let offset = self.layout_now().root(root.sequence, copy);
            self.stats.written.roots.add(bytes as u64);
            let (returned, result) = self.media.write(offset, buf, bytes).await;
            result?;
            buf = returned;
        }
        self.flush_now().await
    }

    fn root_is_durable(&self, root: &Root, announced: &[SegmentId], released: &[SegmentId]) {
        let mut state = self.state.borrow_mut();
        state.root.sequence = root.sequence;
        state.root.replay_start = root.replay_start;
        let now = state.log.last_op();
        released.iter().for_each(|segment| state.log.segments.drop_live(*segment, now));
        state.log.segments.announced(announced);
        reclaim(&mut state);
        drop(state);
        self.stats.roots.add(1);
        self.mind_fullness();
        self.space.notify_all();
    }

    /// Stops: no more requests, everything durable, a clean root.
    ///
    /// # Errors
    /// What kept the last checkpoint from being durable; the next start replays then.
    pub async fn stop(self: &Rc<Self>) -> Result<()> {
        self.stopping.set(true);
        while self.active.get() > 0 {
            self.released.notified().await;
        }
        self.cleaner.wanted.notify_all();
        while self.is_cleaning() || self.works.get() > 0 {
            self.released.notified().await;
        }
        let result = self.checkpoint_clean().await;
        // nothing may be in flight when the lock goes: a late summary must not land on a successor's segment
        self.space.until(|| !self.is_sealing()).await;
        result
    }

    /// Begins something that changes media on its own account: a stop waits for its end.
    pub(super) fn begin_work(&self) -> Work<'_> {
        self.works.set(self.works.get() + 1);
        Work(self)
    }

    fn is_sealing(&self) -> bool {
        self.state.borrow().log.segments.iter().any(|(_, info)| info.state == SegmentState::Sealing)
    }
}

/// The generations of the segments that hold an image.
fn image_generations(parts: &[crate::format::Entry], segments: &crate::log::SegmentTable) -> Vec<SegmentChange> {
    let mut ids: Vec<_> = parts.iter().filter_map(|e| e.segment()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|segment| SegmentChange { segment, generation: segments.get(segment).generation }).collect()
}
