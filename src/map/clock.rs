//! Which leaves are in memory, and whose turn it is to leave it: second chance, a hand going round.
//!
//! Every leaf that comes into memory is put on the clock. The hand passes those that were used since it last came by, and
//! takes one that was not. Reads only set a flag in the leaf's slot: nothing is allocated or moved for them.
//!
//! **Invariants.** A leaf is on the clock at most once. One that went for another reason (discarded, written back as a hole,
//! its namespace destroyed) stays there until the hand comes by. **Not here:** which leaves may go (`LeafSlot`).

use crate::units::NamespaceId;

/// The clock.
#[derive(Debug)]
pub struct Clock {
    ring: Vec<(NamespaceId, u32)>,
    hand: usize,
    resident: usize,
    budget: usize,
}

impl Clock {
    /// A clock for so many leaves.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { ring: Vec::new(), hand: 0, resident: 0, budget }
    }

    /// Leaves in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// Leaves that may be in memory.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Whether more are in memory than may be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.resident > self.budget
    }

    /// A leaf came into memory.
    pub fn came(&mut self) {
        self.resident += 1;
    }

    /// A leaf left memory.
    pub fn went(&mut self) {
        debug_assert!(self.resident > 0, "a leaf left memory that was not there");
        self.resident = self.resident.saturating_sub(1);
    }

    /// Puts a leaf on the clock, just behind the hand.
    pub fn push(&mut self, id: NamespaceId, leaf: u32) {
        self.ring.push((id, leaf));
    }

    /// The leaf at the hand.
    pub fn at_hand(&mut self) -> Option<(NamespaceId, u32)> {
        if self.hand >= self.ring.len() {
            self.hand = 0;
        }
        self.ring.get(self.hand).copied()
    }

    /// The hand goes on.
    pub fn pass(&mut self) {
        self.hand += 1;
    }

    /// The leaf at the hand is no longer on the clock.
    pub fn take(&mut self) {
        if self.hand < self.ring.len() {
            self.ring.swap_remove(self.hand);
        }
    }

    /// A namespace is no more: none of its leaves is on the clock, `resident` of them were in memory.
    pub fn forget(&mut self, id: NamespaceId, resident: usize) {
        self.ring.retain(|(owner, _)| *owner != id);
        self.resident = self.resident.saturating_sub(resident);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_goes_round_and_takes() {
        let mut clock = Clock::new(2);
        let id = NamespaceId(1);
        for leaf in 0..3 {
            clock.push(id, leaf);
            clock.came();
        }
        assert!(clock.is_over());
        assert_eq!(clock.at_hand(), Some((id, 0)));
        clock.pass();
        assert_eq!(clock.at_hand(), Some((id, 1)));
        clock.take();
        clock.went();
        assert!(!clock.is_over());
        assert_eq!(clock.at_hand(), Some((id, 2)), "another has come in its place");
        clock.pass();
        assert_eq!(clock.at_hand(), Some((id, 0)), "and round");
        clock.forget(id, 2);
        assert_eq!((clock.at_hand(), clock.resident()), (None, 0));
    }
}
