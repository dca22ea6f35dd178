//! Leaves in memory: known while somebody needs them, evicted when there are more than the map's memory holds.
//!
//! ```text
//!   know(range) ─► pinned ─► missing ones read ─► Known (a guard) ─► dropped: unpinned
//!   a leaf comes into memory ─► more than may be? ─► the clock's hand: clean, unpinned, not used lately ─► out
//! ```
//!
//! Dirty leaves never leave memory: when they take half of it they are written back (`window`).
//!
//! **Invariants.** What is behind a [`Known`] stays known until it is dropped, whatever is awaited meanwhile: evicted only
//! are leaves that nobody has pinned. A leaf that is evicted has an image that holds all of it, and stays counted in the
//! usage of segments. Eviction does a bounded amount of work and allocates nothing. Pinned leaves may exceed the budget: by
//! what requests under way need, which are bounded (I10).
//!
//! **Not here:** reading leaves (`leaves`, `bulk`), the clock (`map`).

use std::rc::Rc;

use super::Core;
use super::state::{Namespace, State};
use crate::error::Result;
use crate::format::{Entry, Tier};
use crate::map::{Installed, Leaf, leaf_of};
use crate::units::{Lba, LbaRange, NamespaceId};

/// How far the clock's hand goes for a leaf that came into memory.
const HAND_STEPS: usize = 16;

/// The leaves of a range are known as long as this lives. It must not be dropped while the state is borrowed.
#[must_use]
pub(crate) struct Known<'a> {
    core: &'a Core,
    id: NamespaceId,
    leaves: (u32, u32),
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.core.state.borrow_mut().pin_leaves(self.id, self.leaves, false);
    }
}

impl Core {
    /// Returns when all leaves of a range are known; they stay known as long as what is returned lives.
    ///
    /// # Errors
    /// A leaf cannot be read, or the namespace is gone.
    pub(crate) async fn know(self: &Rc<Self>, id: NamespaceId, range: LbaRange) -> Result<Known<'_>> {
        let leaves = (leaf_of(range.start), leaf_of(Lba(range.end().0.max(1) - 1)));
        let known = {
            let mut state = self.state.borrow_mut();
            state.namespace(id)?;
            state.pin_leaves(id, leaves, true);
            Known { core: self, id, leaves }
        };
        let mut missed = false;
        loop {
            let missing = self.state.borrow().namespace(id)?.directory.first_to_load(range);
            let Some(leaf) = missing else { break };
            missed = true;
            self.load_leaf(id, leaf).await?;
        }
        if missed {
            // one that waited for replayed changes is dirty from now on
            self.mind_window();
        }
        let counter = if missed { &self.stats.map_misses } else { &self.stats.map_hits };
        counter.add(1);
        Ok(known)
    }
}

impl State {
    fn pin_leaves(&mut self, id: NamespaceId, (first, last): (u32, u32), pin: bool) {
        let Some(namespace) = self.namespaces.get_mut(&id) else { return };
        for leaf in first..=last {
            let Some(slot) = namespace.directory.slot_mut(leaf) else { return };
            if pin {
                slot.pins += 1;
                slot.used = true;
            } else {
                debug_assert!(slot.pins > 0, "leaf {leaf} of namespace {id} is not pinned");
                slot.pins = slot.pins.saturating_sub(1);
            }
        }
    }

    /// A leaf came from media, as the image that is still its newest, or it is not taken. What it points to is counted, with
    /// what waited for it; with `keep` it stays in memory, and in any case when something did.
    pub(super) fn install_leaf(&mut self, id: NamespaceId, leaf: u32, image: Entry, loaded: Leaf, keep: bool) {
        let Self { namespaces, log, .. } = self;
        let Some(Namespace { directory, on_journal, .. }) = namespaces.get_mut(&id) else { return };
        let installed = directory.install(leaf, image, loaded, keep, |leaf| {
            *on_journal += leaf.iter().filter(|entry| entry.tier() == Some(Tier::Pmem)).count() as u64;
            leaf.iter().for_each(|entry| log.add_live(*entry));
        });
        match installed {
            Installed::Refused | Installed::Seen => return,
            Installed::Clean => {}
            Installed::Replayed => self.waiting -= 1,
        }
        self.admit(id, leaf);
    }

    /// A leaf has memory from now on. Others may have to go.
    pub(super) fn admit(&mut self, id: NamespaceId, leaf: u32) {
        self.clock.came();
        let slot = self.namespaces.get_mut(&id).and_then(|n| n.directory.slot_mut(leaf));
        if let Some(slot) = slot
            && !std::mem::replace(&mut slot.on_clock, true)
        {
            slot.used = true;
            self.clock.push(id, leaf);
        }
        self.evict();
    }

    /// Lets the hand go on while there are more leaves in memory than may be, a bounded number of steps.
    fn evict(&mut self) {
        for _ in 0..HAND_STEPS {
            if !self.clock.is_over() {
                return;
            }
            let Some((id, leaf)) = self.clock.at_hand() else { return };
            let slot = self.namespaces.get_mut(&id).and_then(|n| n.directory.slot_mut(leaf));
            let Some(slot) = slot else {
                self.clock.take();
                continue;
            };
            if !slot.is_resident() {
                // it went by itself
                slot.on_clock = false;
                self.clock.take();
            } else if std::mem::take(&mut slot.used) || !slot.is_evictable() {
                self.clock.pass();
            } else {
                slot.leaf = None;
                slot.on_clock = false;
                self.clock.take();
                self.clock.went();
            }
        }
    }

    /// Leaves on media or in memory that hold something, and how many of them are in memory.
    #[must_use]
    pub fn leaves(&self) -> (usize, usize) {
        let slots = self.namespaces.values().flat_map(|n| n.directory.iter());
        (slots.filter(|(_, slot)| !slot.is_hole()).count(), self.clock.resident())
    }
}
