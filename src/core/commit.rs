//! Batches on their way: closed, written, their slots given back.
//!
//! **Invariants.** A slot is given back only when its write completed. A batch whose write failed keeps its slot: its
//! data is still read from there, and adopted from there by the next daemon. **Failure:** a failed write latches the
//! pool read-only (I11).

use std::rc::Rc;

use super::Core;
use crate::canary::{self, Rule};
use crate::env::reactor::IoBuf;
use crate::error::Result;
use crate::limits::{BATCH_AGE_MAX_NS, GRANULE, HOT_BATCH_AGE_MAX_NS};
use crate::log::{BatchId, BatchState, StreamKind};

impl Core {
    /// Closes the stream's open batch, if it has records, and starts its write.
    pub(super) fn close_batch(self: &Rc<Self>, kind: StreamKind) {
        let id = self.state.borrow_mut().log.close_batch(kind);
        if let Some(id) = id {
            self.write_batch(id);
        }
    }

    fn write_batch(self: &Rc<Self>, id: BatchId) {
        let (offset, len, buf) = {
            let mut state = self.state.borrow_mut();
            let log = &mut state.log;
            let batch = log.batches.get_mut(id);
            let offset = self.layout.segment(batch.place.segment) + u64::from(batch.place.granule.0 * GRANULE);
            self.stats.padding.add((batch.padded - batch.length) as u64);
            self.stats.written.count_batch(batch);
            (offset, batch.padded, IoBuf::Slot(log.memories.lend(batch.memory)))
        };
        let written = self.media.write(offset, buf, len);
        if canary::is_off(Rule::SlotAfterCompletion) {
            self.state.borrow_mut().log.free_slot_early(id);
            self.space.notify_all();
        }
        let core = self.clone();
        self.env.spawner.spawn(async move { core.batch_written(id, written.await.1) }).detach();
    }

    fn batch_written(&self, id: BatchId, result: Result<()>) {
        match result {
            Ok(()) => self.state.borrow_mut().log.batch_written(id),
            Err(error) => {
                self.state.borrow_mut().log.batches.get_mut(id).state = BatchState::Failed;
                self.become_read_only("writing to the log", &error);
            }
        }
        self.space.notify_all();
        self.durable.notify_all();
    }

    /// Writes host batches that nobody asked for at their age. Runs as a task.
    pub(super) async fn run_batch_timer(self: Rc<Self>) {
        loop {
            let next = {
                let log = &self.state.borrow().log;
                let due = |kind: &StreamKind| {
                    let batch = log.stream(*kind).batch.map(|id| log.batches.get(id));
                    let age = if *kind == StreamKind::Hot { HOT_BATCH_AGE_MAX_NS } else { BATCH_AGE_MAX_NS };
                    batch.filter(|b| b.first_op.is_some()).map(|b| (b.opened_ns + age, *kind))
                };
                StreamKind::STAGED.iter().filter_map(due).min_by_key(|(due, _)| *due)
            };
            match next {
                None => self.batch_begun.notified().await,
                Some((due, kind)) if self.env.now_ns() >= due => {
                    // nobody waits for it: what died in it needs not be written
                    self.absorb(kind);
                    self.close_batch(kind);
                }
                // one of another stream that is begun meanwhile is due before
                Some((due, StreamKind::Hot)) => self.batch_begun.notified_or(self.env.reactor.sleep_until(due)).await,
                Some((due, _)) => self.env.reactor.sleep_until(due).await,
            }
        }
    }
}
