//! Waking a ring that sleeps, from any thread: an eventfd that the ring reads.
//!
//! **Invariants.** Between two looks of the ring only the first [`Unpark::unpark`] makes a system call. Whoever calls
//! it while the flag is up is seen by the look that takes the flag down: both are read-modify-writes of one word.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::env::executor::Unpark;
use crate::error::{Error, Result};

/// The flag and the descriptor behind it.
pub(super) struct EventUnpark {
    event: OwnedFd,
    signalled: AtomicBool,
}

impl EventUnpark {
    pub(super) fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| Error::io("creating an eventfd", e))?;
        Ok(Self { event, signalled: AtomicBool::new(false) })
    }

    /// What the ring reads 8 bytes of.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// The ring has read the event: the next unpark signals again.
    pub(super) fn take(&self) {
        self.signalled.swap(false, Ordering::SeqCst);
    }
}

impl Unpark for EventUnpark {
    fn unpark(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst) {
            // cannot fail: the descriptor is open as long as self, and no byte order of 1 brings the counter to its end
            let written = rustix::io::write(&self.event, &1u64.to_le_bytes());
            debug_assert_eq!(written, Ok(8), "eventfd");
        }
    }
}
