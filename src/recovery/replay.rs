//! Replay: records above the replay start become changes that wait for their leaves; later wins, unconditionally (I8).
//!
//! No leaf is read: a window of millions of changes touches nearly every leaf of a large pool. Whoever needs a leaf, the
//! count of usage last, reads it and merges what waits for it (`map`). A leaf whose last change is a CLEAR of all of it is
//! known to be a hole.

use std::collections::BTreeMap;

use crate::core::State;
use crate::error::Result;
use crate::format::namespaces::NamespaceTable;
use crate::format::summary::{Change, SummaryEntry};
use crate::map::{Replayed, Waiting};
use crate::units::{NamespaceId, OpNo};

/// What a window holds for the map.
pub struct Replay {
    start: OpNo,
    namespaces: BTreeMap<NamespaceId, Replayed>,
    records: usize,
    changes: u64,
    /// Of each group of records the last number, and its changes.
    groups: Vec<(OpNo, u64)>,
}

impl Replay {
    /// Begins to replay records above `start` of these namespaces.
    #[must_use]
    pub fn new(start: OpNo, table: &NamespaceTable) -> Self {
        let namespaces = table.entries.iter().map(|entry| (entry.id, Replayed::new(start, entry.blocks))).collect();
        Self { start, namespaces, records: 0, changes: 0, groups: Vec::new() }
    }

    /// A group of records: of a segment, or of neighbours in the order of numbers. Groups may come in any order.
    ///
    /// # Errors
    /// A number that cannot be one of the window.
    pub fn add(&mut self, records: &[SummaryEntry]) -> Result<()> {
        let (before, mut last) = (self.changes, OpNo(0));
        for record in records.iter().filter(|record| record.op > self.start) {
            self.records += 1;
            last = last.max(record.op);
            let Some(namespace) = self.namespaces.get_mut(&record.namespace) else { continue };
            match record.change {
                Change::Fragment { entry, mask, .. } => {
                    namespace.note_fragment(record.first, mask, entry, record.op)?;
                    self.changes += u64::from(mask.count_ones());
                }
                // however many LBAs: it costs no more than one
                Change::Clear { count } => {
                    namespace.note_clear(record.first, count, record.op)?;
                    self.changes += 1;
                }
                Change::Other { .. } => {}
            }
        }
        self.groups.push((last, self.changes - before));
        Ok(())
    }

    /// All records were added: the leaves they changed are dirty from now on. Returns how many records there were.
    pub fn end(mut self, state: &mut State) -> usize {
        let mut leaves: Vec<(OpNo, NamespaceId, Waiting)> = Vec::new();
        for (id, replayed) in self.namespaces {
            let Some(namespace) = state.namespaces.get_mut(&id) else { continue };
            let waiting = namespace.directory.replay(replayed);
            leaves.extend(waiting.into_iter().map(|waiting| (waiting.since, id, waiting)));
        }
        leaves.sort_unstable_by_key(|(since, id, waiting)| (*since, *id, waiting.leaf));
        self.groups.sort_unstable();
        let mut groups = self.groups.into_iter().peekable();
        // what the window had seen before a leaf's first change, but for the group that holds it
        let mut seen = 0;
        for (since, id, Waiting { leaf, is_hole, .. }) in leaves {
            while let Some((_, changes)) = groups.next_if(|(last, _)| *last < since) {
                seen += changes;
            }
            state.dirty.push_replayed(id, leaf, since, seen);
            *if is_hole { &mut state.holes } else { &mut state.waiting } += 1;
        }
        state.dirty.count_changes(self.changes);
        self.records
    }
}
