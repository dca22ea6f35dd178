//! The memory of a queue: buffers lent to the core with requests that carry data.
//!
//! Two sizes, each a stack: what was used last is used next, so that the memory of a queue follows the number of
//! requests in flight at its busiest, not its depth. Nothing is allocated once that has been seen, and there are never
//! more buffers than requests (I10).

use std::sync::Arc;

use crate::buf::DataBuf;
use crate::limits::ATOMIC_BYTES;

/// Bytes of a small buffer.
#[expect(clippy::cast_possible_truncation, reason = "64 KiB")]
const SMALL: usize = ATOMIC_BYTES as usize;

/// Buffers of one queue that are not lent.
pub(super) struct Buffers {
    small: Vec<Arc<DataBuf>>,
    large: Vec<Arc<DataBuf>>,
    io_bytes: usize,
}

impl Buffers {
    /// For at most `depth` requests of at most `io_bytes` bytes.
    pub(super) fn new(depth: usize, io_bytes: usize) -> Self {
        Self { small: Vec::with_capacity(depth), large: Vec::with_capacity(depth), io_bytes }
    }

    /// Bytes in the largest buffer.
    pub(super) fn io_bytes(&self) -> usize {
        self.io_bytes
    }

    /// A buffer of at least `len` bytes (at most [`Buffers::io_bytes`]) that nobody else holds.
    pub(super) fn take(&mut self, len: usize) -> Arc<DataBuf> {
        let (stack, bytes) =
            if len <= SMALL { (&mut self.small, SMALL.min(self.io_bytes)) } else { (&mut self.large, self.io_bytes) };
        stack.pop().unwrap_or_else(|| Arc::new(DataBuf::zeroed(bytes)))
    }

    /// Takes a buffer back. If somebody still holds it, it is theirs: a new one will take its place.
    pub(super) fn put(&mut self, mut buffer: Arc<DataBuf>) {
        if Arc::get_mut(&mut buffer).is_none() {
            tracing::debug!("a buffer is still held after its request was answered");
            return;
        }
        let stack = if buffer.bytes().len() <= SMALL { &mut self.small } else { &mut self.large };
        stack.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_is_used_next_by_size() {
        let mut buffers = Buffers::new(4, 512 << 10);
        let (small, large) = (buffers.take(4096), buffers.take(SMALL + 512));
        assert_eq!((small.bytes().len(), large.bytes().len()), (SMALL, 512 << 10));
        let (at_small, at_large) = (small.bytes().as_ptr(), large.bytes().as_ptr());
        assert_eq!(at_small.addr() % 4096, 0);
        let other = buffers.take(512);
        assert_ne!(other.bytes().as_ptr(), at_small);
        buffers.put(other);
        buffers.put(small);
        buffers.put(large);
        assert_eq!(buffers.take(SMALL).bytes().as_ptr(), at_small);
        assert_eq!(buffers.take(buffers.io_bytes()).bytes().as_ptr(), at_large);
    }

    #[test]
    fn a_held_buffer_does_not_come_back() {
        let mut buffers = Buffers::new(4, SMALL);
        let mut buffer = buffers.take(SMALL);
        let held = buffer.clone();
        let address = buffer.bytes().as_ptr();
        buffers.put(buffer);
        buffer = buffers.take(SMALL);
        assert_ne!(buffer.bytes().as_ptr(), address);
        assert!(Arc::get_mut(&mut buffer).is_some());
        assert_eq!(held.bytes().len(), SMALL);
    }
}
