//! Durability: what FLUSH, FUA and roots wait for (I4).
//!
//! **Invariants.** An operation is durable only by a device flush submitted after its batch's write completed. One
//! device flush runs at a time; the next one covers all that waited. Who waits leads the flush when none runs.
//!
//! **Failure.** A failed flush latches the pool read-only and is never repeated as if nothing had happened: what it
//! covered stays not durable, and everybody who waits for it gets the error (I11).

use std::rc::Rc;

use super::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{BatchState, StreamKind, Streams};
use crate::units::OpNo;

impl Core {
    /// Waits until all operations up to `op`, of these streams, are durable.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`] or the medium's error: then some are not, and never will be.
    pub(super) async fn wait_durable(self: &Rc<Self>, streams: Streams, op: OpNo) -> Result<()> {
        loop {
            // tier 0's batches are always on their way
            for kind in StreamKind::SSD {
                if streams.include(kind) && self.state.borrow().log.batches.open_holds(kind, op) {
                    self.close_batch(kind);
                }
            }
            let least = self.state.borrow().log.batches.least_state(streams, op);
            match least {
                None => return Ok(()),
                Some(BatchState::Failed) => {
                    self.latch.check()?;
                    return Err(Error::new(ErrorKind::Io, "a write to the log failed"));
                }
                Some(BatchState::Written) if !self.flushing.get() => self.flush_device().await?,
                Some(_) => self.durable.notified().await,
            }
        }
    }

    /// Flushes the device: all that was written before is durable after. The caller knows that no flush runs.
    async fn flush_device(&self) -> Result<()> {
        self.flushing.set(true);
        {
            let mut state = self.state.borrow_mut();
            state.log.batches.start_flush();
            state.log.segments.start_flush();
        }
        let result = self.media.flush().await;
        self.flushing.set(false);
        {
            let mut state = self.state.borrow_mut();
            state.log.batches.end_flush(result.is_ok());
            state.log.segments.end_flush(result.is_ok());
        }
        if let Err(error) = &result {
            self.become_read_only("flushing the medium", error);
        }
        self.durable.notify_all();
        result
    }

    /// A device flush of its own, after the writes that the caller awaited.
    ///
    /// # Errors
    /// The medium's error; the latch is closed then.
    pub(crate) async fn flush_now(&self) -> Result<()> {
        while self.flushing.get() {
            self.durable.notified().await;
        }
        self.flush_device().await
    }
}
