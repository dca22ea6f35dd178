//! What goes to tier 0 and what passes it by, and leaves that a root must call journaled before.
//!
//! ```text
//!   a write ─► wanted there (`journal`)? ─► leaf marked by the durable root? ─► room? ─► still marked ─► append
//!                 └ no: counted, tier 1        └ no: a root is asked for, tier 1   └ no: tier 1
//! ```
//!
//! **Invariants.** Blocks of a leaf go to tier 0 only while the durable root calls the leaf journaled, which is looked at in the
//! step of the append: so whoever has lost the journal knows where newer data may have been.
//!
//! **Failure.** A root that cannot be switched marks nothing: writes go to tier 1. No room is no failure either.
//!
//! **Not here:** the decision by size and heat (`journal`), batches of tier 0 (`tier0`).

use std::rc::Rc;

use super::tier0::Tier0;
use super::{Core, State};
use crate::canary::{self, Rule};
use crate::error::Result;
use crate::format::Tier;
use crate::journal::{Bypass, Candidate, Overwritten, admit};
use crate::limits::LEAF_ENTRIES;
use crate::log::StreamKind;
use crate::map::{index_of, leaf_of};
use crate::units::{Lba, LbaRange, NamespaceId};

/// Leaves behind a written one that are marked with it: a log that grows is there soon.
const MARK_AHEAD: u32 = 4;

/// To tier 0, or why not.
type Verdict = std::result::Result<(), Bypass>;

/// The records that a write is about to append.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    /// Their bytes.
    pub bytes: usize,
    /// How many.
    pub count: usize,
    /// None of them has a payload.
    pub all_zero: bool,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The stream, which has room.
    pub kind: StreamKind,
    /// Why it passes tier 0 by, if the pool has one and it does.
    pub bypass: Option<Bypass>,
}

impl Core {
    /// The stream that a write of `piece`, of a request of `blocks` blocks, goes to, with room in it for its records. The
    /// caller appends before its next await.
    ///
    /// # Errors
    /// As [`Core::make_room`]; the namespace is gone.
    pub(super) async fn make_room_somewhere(
        self: &Rc<Self>,
        id: NamespaceId,
        piece: LbaRange,
        blocks: u64,
        records: Records,
    ) -> Result<Route> {
        let Records { bytes, count, all_zero } = records;
        let why = match self.admit(id, piece, blocks)? {
            Err(why) => why,
            Ok(()) if !self.make_journal_room(bytes, count).await? => Bypass::Full,
            Ok(()) => match self.may_take(id, piece.start)? {
                Ok(()) => return Ok(Route { kind: StreamKind::Journal, bypass: None }),
                Err(why) => why,
            },
        };
        let purpose = self.purpose_of_write(id, piece)?;
        self.make_room(purpose, bytes, count).await?;
        let bypass = self.has_tier0().then_some(if all_zero { Bypass::Zeros } else { why });
        Ok(Route { kind: purpose.stream(), bypass })
    }

    /// Whether tier 0 is where a write should go and, as far as its leaf is concerned, may; or why not.
    fn admit(&self, id: NamespaceId, piece: LbaRange, blocks: u64) -> Result<Verdict> {
        // the window bounds replay, whatever tier its records are on
        if self.is_tier0_closed() || self.window_exceeds(super::window::QUARTERS) {
            return Ok(Err(Bypass::Closed));
        }
        let state = self.state.borrow();
        let namespace = state.namespace(id)?;
        let old = namespace.directory.get(piece.start);
        let overwritten = match old.place() {
            None => Overwritten::Nothing,
            Some((Tier::Ssd, _)) if old.is_zero() => Overwritten::Nothing,
            Some((Tier::Pmem, _)) => Overwritten::Journal,
            Some((tier, segment)) => {
                let born = state.log.table(tier).get(segment).born_ns;
                Overwritten::Ssd((born > 0).then(|| self.env.now_ns().saturating_sub(born)))
            }
        };
        let residence_ns = self.tier0.borrow().as_ref().map_or(0, |tier0| tier0.residence_ns.get());
        let wanted = admit(&Candidate { blocks, unflushed: namespace.unflushed, overwritten, residence_ns });
        drop(state);
        if wanted.is_err() {
            return Ok(wanted);
        }
        let may = self.may_take(id, piece.start)?;
        let leaf = leaf_of(piece.start);
        if may == Err(Bypass::Unmarked) {
            self.want_marks(id, leaf);
        } else if index_of(piece.start) >= LEAF_ENTRIES / 2 && self.is_unmarked(id, leaf + 1) {
            // a log that rolls on is there before the root that is to mark it, unless that is asked for now
            self.want_marks(id, leaf + 1);
        }
        Ok(may)
    }

    fn may_take(&self, id: NamespaceId, lba: Lba) -> Result<Verdict> {
        let state = self.state.borrow();
        let slot = state.namespace(id)?.directory.slot(leaf_of(lba));
        // looked at in the step of the append: a drain that has begun is not prolonged
        if self.is_tier0_closed() {
            return Ok(Err(Bypass::Closed));
        }
        let marked = slot.is_some_and(|slot| slot.takes_journal || canary::is_off(Rule::MarkBeforeJournal));
        Ok(if marked { Ok(()) } else { Err(Bypass::Unmarked) })
    }

    fn is_unmarked(&self, id: NamespaceId, leaf: u32) -> bool {
        let state = self.state.borrow();
        let slot = state.namespaces.get(&id).and_then(|n| n.directory.slot(leaf));
        slot.is_some_and(|slot| !slot.takes_journal)
    }

    fn want_marks(&self, id: NamespaceId, leaf: u32) {
        let mut guard = self.state.borrow_mut();
        let State { namespaces, root, .. } = &mut *guard;
        let Some(namespace) = namespaces.get(&id) else { return };
        let ahead = leaf..=leaf.saturating_add(MARK_AHEAD);
        let missing = ahead.filter(|leaf| namespace.directory.slot(*leaf).is_some_and(|slot| !slot.takes_journal));
        root.marks.extend(missing.map(|leaf| (id, leaf)));
        drop(guard);
        if let Some(tier0) = self.tier0() {
            tier0.marks_wanted.notify_all();
        }
    }

    /// Switches the root when leaves are to be called journaled. Runs as a task.
    pub(super) async fn run_marks(self: Rc<Self>, tier0: Rc<Tier0>) {
        loop {
            tier0.marks_wanted.until(|| tier0.ended.get() || !self.state.borrow().root.marks.is_empty()).await;
            if self.latch.check().is_err() || self.stopping.get() || tier0.ended.get() {
                return;
            }
            if let Err(error) = self.checkpoint(0).await {
                tracing::warn!("leaves were not marked for the journal: {error}");
                self.state.borrow_mut().root.marks.clear();
            }
        }
    }
}
