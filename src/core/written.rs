//! What was written to the medium, by what it is: every byte is in exactly one of the figures, so they add up.
//!
//! **Not here:** tier 0, which counts its own; what it cost over the last minutes (`recent`).

use crate::format::batch::BATCH_HEADER_BYTES;
use crate::log::{Batch, StreamKind};

use super::stats::Counter;

/// Bytes written to the medium since the pool was opened.
#[derive(Debug, Default)]
pub struct Written {
    /// Payload of hosts' writes: compressed and sealed.
    pub payload: Counter,
    /// Headers of their records, padding to granules, and records of discards and zeros.
    pub headers: Counter,
    /// Headers of batches, of whatever stream, and padding of batches to blocks.
    pub batches: Counter,
    /// Summaries of segments.
    pub summaries: Counter,
    /// Records of what was relocated: by the cleaner, from tier 0, recompressed.
    pub moved: Counter,
    /// Records of leaves and of images of the map.
    pub map: Counter,
    /// Roots, both copies.
    pub roots: Counter,
    /// Zeros written to segments of a file ahead of their use.
    pub prepared: Counter,
}

impl Written {
    /// A batch is on its way.
    pub(super) fn count_batch(&self, batch: &Batch) {
        let records = batch.length - BATCH_HEADER_BYTES;
        self.batches.add((batch.padded - records) as u64);
        match batch.stream {
            StreamKind::Host | StreamKind::Cold | StreamKind::Hot => {
                self.payload.add(batch.payload as u64);
                self.headers.add((records - batch.payload) as u64);
            }
            StreamKind::Move | StreamKind::Packed => self.moved.add(records as u64),
            StreamKind::Leaf => self.map.add(records as u64),
            StreamKind::Journal => unreachable!("tier 0 is another medium"),
        }
    }

    /// All of it.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let Self { payload, headers, batches, summaries, moved, map, roots, prepared } = self;
        [payload, headers, batches, summaries, moved, map, roots, prepared].map(Counter::get).iter().sum()
    }
}
