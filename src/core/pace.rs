//! Writers and the cleaner: what writes owe, and how long they wait for what is gained.
//!
//! ```text
//!   write ─► pace: held back? waits ─► room ─► owe ─► the cleaner works while anything is owed ─► credit ─► who waited goes on
//! ```
//!
//! **Invariants.** Writers wait only while there is something to gain. **Not here:** how much is owed (`cleaner::pace`), the
//! work (`clean`).

use super::Core;

impl Core {
    /// Waits for the cleaner as long as the host is to be held back. Called by writers before they take buffers.
    pub(super) async fn pace(&self) {
        while self.cleaner.pacer.borrow().holds_back(self.state.borrow().log.segments.available())
            && self.state.borrow().log.segments.usage_known()
            && !self.is_hopeless()
            && self.latch.check().is_ok()
        {
            self.cleaner.wanted.notify_all();
            self.space.notified().await;
        }
    }

    /// The host is about to append so much.
    pub(super) fn owe(&self, bytes: usize) {
        let available = self.state.borrow().log.segments.available();
        let mut pacer = self.cleaner.pacer.borrow_mut();
        pacer.appended(bytes, available);
        if pacer.wants_cleaning(available) {
            drop(pacer);
            self.cleaner.wanted.notify_all();
        }
    }

    /// Somebody cannot go on without another segment: returns when one may have come free, or none will.
    pub(super) async fn demand_segment(&self) {
        self.ask_for_segment();
        if !self.is_hopeless() {
            self.space.notified().await;
        }
    }

    /// Somebody cannot go on without another segment, and does not wait here.
    pub(super) fn ask_for_segment(&self) {
        self.cleaner.pacer.borrow_mut().demand();
        self.cleaner.wanted.notify_all();
    }

    pub(super) fn credit(&self, bytes: u64) {
        self.cleaner.pacer.borrow_mut().gained(bytes);
        self.space.notify_all();
    }
}
