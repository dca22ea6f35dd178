//! Tier 0 begins and ends while hosts write.
//!
//! ```text
//!   attach: header and superblock durable (pool) ─► an empty table ─► tasks ─► writes are admitted
//!   detach: drained, closed ─► superblock without it (pool) ─► nobody reads there ─► tasks end ─► the medium is let go of
//! ```
//!
//! **Invariants.** When tier 0 begins, nothing of the map points to it and no leaf is marked: nothing goes there before a root
//! has marked its leaf. Its generations are above those of the one before it in this session: whatever an earlier life left
//! on the medium is never taken for its own. It ends when no segment is pinned (I2).
//!
//! **Not here:** superblock and header of the journal (`pool`), moving what is there (`destage`).

use std::rc::Rc;

use super::{Core, Tier0};
use crate::env::executor::Class;
use crate::log::SegmentTable;
use crate::pmem::Journal;

/// How often it is looked whether somebody still reads from a tier that ends.
const LOOK_NS: u64 = 1_000_000;

impl Core {
    /// Starts what runs for the life of a tier 0.
    pub(super) fn start_tier0(self: &Rc<Self>, tier0: &Rc<Tier0>) {
        let spawner = &self.env.spawner;
        spawner.spawn(self.clone().run_persists(tier0.clone())).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_marks(tier0.clone())).detach();
        spawner.spawn_as(Class::Bulk, self.clone().run_destage(tier0.clone())).detach();
    }

    /// Whether nothing is admitted to tier 0, or there is none.
    pub(super) fn is_tier0_closed(&self) -> bool {
        self.tier0.borrow().as_ref().is_none_or(|tier0| tier0.closed.get())
    }

    /// Writes may go to this journal of so many segments from now on: its header and the superblock that names it are durable.
    /// There was none.
    pub(crate) fn attach_journal(self: &Rc<Self>, journal: Journal, segments: u32) {
        debug_assert!(!self.has_tier0(), "a journal is taken away before the next one comes");
        {
            let journal = &mut self.state.borrow_mut().log.journal;
            *journal = SegmentTable::of_new_journal(segments as usize, journal.highest_generation());
        }
        let tier0 = Rc::new(Tier0::new(journal));
        *self.tier0.borrow_mut() = Some(tier0.clone());
        self.start_tier0(&tier0);
    }

    /// The pool has no journal any more: it was drained, nothing is admitted, and the superblock does not name it. Returns when
    /// nobody reads from it either, and what ran for it ends.
    pub(crate) async fn detach_journal(&self) {
        let Some(tier0) = self.tier0() else { return };
        debug_assert!(tier0.closed.get(), "nothing is admitted to a journal that goes");
        let is_pinned = || self.state.borrow().log.journal.iter().any(|(_, info)| info.pins > 0);
        while is_pinned() {
            self.env.sleep_ns(LOOK_NS).await;
        }
        self.seal_journal_segment();
        *self.tier0.borrow_mut() = None;
        tier0.ended.set(true);
        for waiting in [&tier0.begun, &tier0.marks_wanted, &tier0.destage_wanted] {
            waiting.notify_all();
        }
        // whoever waits for room there
        self.durable.notify_all();
    }
}
