//! A bounded pool of equal buffers for one thread: made at start, taken and put back without allocating.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::AlignedBuf;

/// `count` buffers of `len` bytes. [`BufPool::take`] waits for one; whoever took it puts it back.
pub struct BufPool {
    inner: RefCell<Inner>,
    len: usize,
}

struct Inner {
    free: Vec<AlignedBuf>,
    waiting: VecDeque<Waker>,
}

impl BufPool {
    /// A pool of `count` buffers of `len` bytes each.
    #[must_use]
    pub fn new(count: usize, len: usize) -> Self {
        let free = (0..count).map(|_| AlignedBuf::zeroed(len)).collect();
        Self { inner: RefCell::new(Inner { free, waiting: VecDeque::with_capacity(count) }), len }
    }

    /// Bytes in each buffer.
    #[must_use]
    pub fn buf_len(&self) -> usize {
        self.len
    }

    /// A buffer, when there is one. Its content is what the last user left.
    pub async fn take(&self) -> AlignedBuf {
        poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            if let Some(buf) = inner.free.pop() {
                return Poll::Ready(buf);
            }
            inner.waiting.push_back(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// A buffer, if one is free now.
    pub fn try_take(&self) -> Option<AlignedBuf> {
        self.inner.borrow_mut().free.pop()
    }

    /// Gives a buffer back.
    pub fn put(&self, buf: AlignedBuf) {
        debug_assert_eq!(buf.len(), self.len, "a buffer of another pool");
        let mut inner = self.inner.borrow_mut();
        inner.free.push(buf);
        if let Some(waker) = inner.waiting.pop_front() {
            waker.wake();
        }
    }
}
