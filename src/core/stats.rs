//! Counters of a core: what the host asked, what was stored, what went wrong.

use std::cell::Cell;

use super::written::Written;
use crate::journal::Bypass;

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds.
    pub fn add(&self, by: u64) {
        self.0.set(self.0.get() + by);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Counters of the pool since it was opened.
#[derive(Debug, Default)]
pub struct Stats {
    /// Bytes written by the host.
    pub host_written: Counter,
    /// Bytes read by the host.
    pub host_read: Counter,
    /// Bytes discarded by the host.
    pub host_discarded: Counter,
    /// Payload bytes stored for them.
    pub stored: Counter,
    /// What was written to the medium, by what it is.
    pub written: Written,
    /// Header bytes and padding of records.
    pub overhead: Counter,
    /// Bytes of batches padded to blocks.
    pub padding: Counter,
    /// Bytes of records that later ones superseded before they were written: they never were.
    pub absorbed: Counter,
    /// FLUSH requests.
    pub flushes: Counter,
    /// Fragments that did not verify.
    pub corrupt: Counter,
    /// Fragments that the medium did not give back.
    pub read_errors: Counter,
    /// Leaves written back.
    pub leaves_written: Counter,
    /// Looks at the map that found their leaves in memory.
    pub map_hits: Counter,
    /// Looks at the map that had to read a leaf first.
    pub map_misses: Counter,
    /// Leaves that the map let go of at once.
    pub leaves_detached: Counter,
    /// Roots switched to.
    pub roots: Counter,
    /// Times that the map was written back for a root to fit its slot.
    pub roots_fitted: Counter,
    /// Writes refused for want of space.
    pub no_space: Counter,
    /// Segments opened for hosts' writes.
    pub host_segments: Counter,
    /// Live blocks that the cleaner moved.
    pub relocated_blocks: Counter,
    /// Bytes of the records that it moved them to.
    pub relocated_bytes: Counter,
    /// Partly dead fragments that it unpacked.
    pub unpacked: Counter,
    /// Segments that it emptied.
    pub cleaned: Counter,
    /// Of these ahead of need, while no request came.
    pub cleaned_ahead: Counter,
}

/// Counters of a namespace since the pool was opened.
#[derive(Debug, Default)]
pub struct NamespaceStats {
    /// Bytes written.
    pub written: Counter,
    /// Bytes read.
    pub read: Counter,
    /// Bytes discarded or zeroed.
    pub discarded: Counter,
    /// Payload bytes stored.
    pub stored: Counter,
    /// Bytes acknowledged through tier 0.
    pub journal_acknowledged: Counter,
    /// Bytes written past it, to tier 1, by [`Bypass`].
    journal_bypassed: [Counter; Bypass::COUNT],
    /// Bytes that are no longer on tier 0: overwritten, discarded, or moved.
    pub journal_left: Counter,
    /// Of these, moved to tier 1.
    pub journal_destaged: Counter,
}

impl NamespaceStats {
    /// Bytes written past tier 0 for this reason.
    #[must_use]
    pub fn bypassed(&self, why: Bypass) -> u64 {
        self.journal_bypassed[why as usize].get()
    }

    /// Counts bytes written in a pool with a journal: to it, or past it and why.
    pub(super) fn count_journal(&self, bypass: Option<Bypass>, bytes: u64) {
        match bypass {
            None => self.journal_acknowledged.add(bytes),
            Some(why) => self.journal_bypassed[why as usize].add(bytes),
        }
    }
}
