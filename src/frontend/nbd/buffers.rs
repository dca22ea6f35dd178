//! A connection's buffers for request data: kept by size class and used again, so that steady traffic allocates nothing.

use std::sync::Arc;

use super::BYTES_MAX;
use crate::buf::DataBuf;
use crate::limits::BLOCK_BYTES;

/// 4 KiB to 32 MiB by powers of two.
const CLASSES: usize = 14;

/// Free buffers. What is free and what is in use together stay within the connection's bound; beyond it buffers are
/// given back to the allocator.
#[derive(Default)]
pub(super) struct DataPool {
    free: [Vec<Arc<DataBuf>>; CLASSES],
    free_bytes: usize,
}

/// The class of `len` bytes, and its size.
fn class_of(len: usize) -> (usize, usize) {
    let blocks = len.div_ceil(BLOCK_BYTES).next_power_of_two();
    (blocks.trailing_zeros() as usize, blocks * BLOCK_BYTES)
}

impl DataPool {
    /// A buffer of at least `len` bytes that nobody else has. Its content is what the last user left.
    pub(super) fn take(&mut self, len: usize) -> Arc<DataBuf> {
        let (class, bytes) = class_of(len);
        match self.free[class].pop() {
            Some(buf) => {
                self.free_bytes -= bytes;
                buf
            }
            None => Arc::new(DataBuf::zeroed(bytes)),
        }
    }

    /// Takes a buffer back, unless somebody still looks at it, it is not of a class, or there are enough.
    pub(super) fn put(&mut self, mut buf: Arc<DataBuf>, bytes_in_use: usize) {
        let len = buf.bytes().len();
        let (class, bytes) = class_of(len);
        let fits = self.free_bytes + bytes + bytes_in_use <= BYTES_MAX;
        if len == bytes && fits && Arc::get_mut(&mut buf).is_some() {
            self.free_bytes += bytes;
            self.free[class].push(buf);
        }
    }
}

/// Whether a buffer of exactly `len` bytes is one of a class.
pub(super) fn is_class(len: usize) -> bool {
    class_of(len).1 == len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_bounded() {
        let mut pool = DataPool::default();
        let first = pool.take(4096);
        let address = first.bytes().as_ptr();
        pool.put(first, 0);
        let again = pool.take(100);
        assert_eq!(again.bytes().as_ptr(), address);
        assert_eq!(pool.take(4097).bytes().len(), 8192);
        assert_eq!(pool.take(32 << 20).bytes().len(), 32 << 20);
        pool.put(pool_buf(32 << 20), 0);
        assert_eq!(pool.free_bytes, 0, "beyond the bound");
        pool.put(again, BYTES_MAX);
        assert_eq!(pool.free_bytes, 0, "the bound counts what is in use");
    }

    #[test]
    fn what_somebody_still_looks_at_is_not_used_again() {
        let mut pool = DataPool::default();
        let buf = pool.take(4096);
        let reader = buf.clone();
        pool.put(buf, 0);
        assert_eq!(pool.free_bytes, 0);
        drop(reader);
        pool.put(pool_buf(12345), 0);
        assert_eq!(pool.free_bytes, 0, "an odd size");
    }

    fn pool_buf(len: usize) -> Arc<DataBuf> {
        Arc::new(DataBuf::zeroed(len))
    }
}
