//! The end of a ring: its operations end before their memory goes.
//!
//! **Invariants.** What the kernel may still touch is never freed: it is waited for, or leaked when it does not end.
//! Operations that wait for somebody else, perhaps for ever, are cancelled.

use io_uring::opcode;

use super::{CANCEL, UringBackend, WAKE, timespec};
use crate::env::executor::Unpark;

/// How many times 10 ms a dropped backend waits for its operations.
const DROP_WAITS: u32 = 1000;

impl Drop for UringBackend {
    fn drop(&mut self) {
        self.wake.unpark();
        let waiting = self.flights.iter().filter(|(_, flight)| flight.waits());
        let mut to_cancel: Vec<u64> = waiting.map(|(key, _)| key as u64).collect();
        for _ in 0..DROP_WAITS {
            self.fill_at_end(&mut to_cancel);
            if self.flights.is_empty() && !self.wake_armed {
                return;
            }
            self.enter(true, Some(timespec(10_000_000)));
            self.reap_at_end();
        }
        tracing::error!(operations = self.flights.len(), "operations do not end; their memory is given up");
        std::mem::forget(std::mem::take(&mut self.flights));
        std::mem::forget(std::mem::take(&mut self.wake_value));
    }
}

impl UringBackend {
    /// Like [`Self::fill`], but the eventfd read is not armed again and what may wait for ever is cancelled.
    fn fill_at_end(&mut self, to_cancel: &mut Vec<u64>) {
        while let Some(&key) = self.queued.front() {
            let entry = self.flights[key].entry().user_data(key as u64);
            if !self.push(&entry) {
                return;
            }
            self.queued.pop_front();
        }
        while let Some(&key) = to_cancel.last() {
            if !self.push(&opcode::AsyncCancel::new(key).build().user_data(CANCEL)) {
                return;
            }
            to_cancel.pop();
        }
    }

    /// Like [`Self::reap`], but nobody waits any more: nothing is continued.
    fn reap_at_end(&mut self) {
        let Self { ring, flights, wake_armed, .. } = self;
        for entry in ring.completion() {
            match entry.user_data() {
                WAKE => *wake_armed = false,
                CANCEL => {}
                key => {
                    let mut flight = flights.remove(usize::try_from(key).expect("a key of the slab"));
                    // takes over (and closes) an accepted connection; whatever else it says comes too late
                    drop(flight.advance(entry.result()));
                }
            }
        }
    }
}
