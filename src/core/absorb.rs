//! Overwrites absorbed: an open batch that is full is compacted instead of written, if enough in it is dead (`log::absorb`);
//! one that is to be written at its age is compacted before.
//!
//! **Invariants.** One await-free step: records, summary, counts and map entries together (I12). No FLUSH waits for the
//! batch: it would have closed it. Nobody who holds an entry over an await takes it for another: reads copy staged records
//! when they sample the entry, sub-block writes compare the number of compactions too, and one that has had to begin again
//! too often keeps batches as they are (I10).

use super::{Core, State};
use crate::format::summary::Change;
use crate::log::{StreamKind, is_superseded};
use crate::units::Lba;

impl Core {
    /// Makes room in the stream's open batch by what is dead in it. Returns whether it did.
    pub(super) fn absorb(&self, kind: StreamKind) -> bool {
        let absorbed = self.state.borrow_mut().absorb(kind);
        self.stats.absorbed.add(absorbed.unwrap_or(0));
        absorbed.is_some()
    }
}

impl State {
    /// Bytes of the records that went; `None` when the batch is as it was.
    fn absorb(&mut self, kind: StreamKind) -> Option<u64> {
        let Self { log, namespaces, reserved, .. } = self;
        if !log.may_absorb(kind) || !reserved.is_empty() {
            return None;
        }
        let is_worth = log.find_dead(kind, |record| {
            let Some(namespace) = namespaces.get(&record.namespace) else { return false };
            is_superseded(record, |index| namespace.directory.get(Lba(record.first.0 + u64::from(index))))
        });
        if !is_worth {
            return None;
        }
        log.absorb(kind, |was, now| {
            let Change::Fragment { entry: old, mask, .. } = was.change else { return };
            let Change::Fragment { entry: new, .. } = now.change else { return };
            let Some(namespace) = namespaces.get_mut(&was.namespace) else { return };
            for index in (0..8).filter(|index| mask >> index & 1 == 1) {
                let lba = Lba(was.first.0 + u64::from(index));
                namespace.directory.repoint(lba, old.with_index(index), new.with_index(index));
            }
        })
    }
}
