//! Reads the log of the kernel's device-mapper target `log-writes` and builds the disk that a power cut would have left.
//!
//! ```text
//!  base image ─┐
//!              ├─► cut at entry n ──► everything flushed before n, and of the rest what the chooser keeps ──► image
//!  log image ──┘
//! ```
//!
//! The target sits under the pool in the guest and records every write, discard and flush on a second disk. It records
//! a write not when it is made but when a flush has covered it: of the writes that were complete when a flush was
//! submitted, then the flush itself. So everything up to a flush in the log is on the disk for certain, and everything
//! between two flushes was in the disk's volatile cache at once: after a cut there any part of it may be on the disk.
//! Forced (FUA) writes are on the disk where they stand. Marks are words from userspace, placed by
//! `dmsetup message NAME 0 mark WORD`: what was true when the word was said is true at any cut after it.
//!
//! # Invariants
//! - What was flushed or forced before the cut is in the image, whole.
//! - Nothing submitted after the flush that follows the cut is in the image.
//!
//! # Failure
//! A log that is not one, or that ends inside an entry, is a [`crate::Failure`].
//!
//! # Not here
//! Which of the acknowledged writes must be found afterwards: [`crate::workload`].

mod cut;
mod log;

pub use cut::{Keep, Tally, cut};
pub use log::{Entry, Flags, Log};
