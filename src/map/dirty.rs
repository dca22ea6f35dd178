//! Dirty leaves, oldest first change first: what bounds replay (rule 6.2, I10).

use std::collections::VecDeque;

use crate::units::{NamespaceId, OpNo};

/// A leaf that changed since its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLeaf {
    /// Whose.
    pub namespace: NamespaceId,
    /// Which.
    pub leaf: u32,
    /// Its first change since the image.
    pub since: OpNo,
    /// How many map changes the pool had seen at that moment.
    pub changes: u64,
}

/// The queue of dirty leaves. A leaf that was written since has left the queue.
#[derive(Debug, Default)]
pub struct DirtyQueue {
    queue: VecDeque<DirtyLeaf>,
    changes: u64,
}

impl DirtyQueue {
    /// Counts changed entries.
    pub fn count_changes(&mut self, changes: u64) {
        self.changes += changes;
    }

    /// A clean leaf changed. Operations come in order, so the queue is sorted.
    pub fn push(&mut self, namespace: NamespaceId, leaf: u32, since: OpNo) {
        self.queue.push_back(DirtyLeaf { namespace, leaf, since, changes: self.changes });
    }

    /// A leaf that recovery found changed, the first time when the window had seen `changes` changes. In order of `since`.
    pub fn push_replayed(&mut self, namespace: NamespaceId, leaf: u32, since: OpNo, changes: u64) {
        self.queue.push_back(DirtyLeaf { namespace, leaf, since, changes });
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &DirtyLeaf> {
        self.queue.iter()
    }

    /// The leaf that has been dirty longest.
    #[must_use]
    pub fn oldest(&self) -> Option<DirtyLeaf> {
        self.queue.front().copied()
    }

    /// Takes the leaf that has been dirty longest.
    pub fn pop(&mut self) -> Option<DirtyLeaf> {
        self.queue.pop_front()
    }

    /// Map changes that would be replayed if no leaf were written from here on.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.queue.front().map_or(0, |oldest| self.changes - oldest.changes)
    }

    /// Dirty leaves.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether all leaves are clean.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keeps only those dirty leaves.
    pub fn retain(&mut self, keep: impl FnMut(&DirtyLeaf) -> bool) {
        self.queue.retain(keep);
    }
}
