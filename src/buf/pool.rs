//! A bounded pool of equal buffers for one thread: made at start, taken and put back without allocating.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use super::AlignedBuf;

/// `count` buffers of `len` bytes. Whoever takes some puts them back; who needs several takes them at once, so that two
/// who each hold a part never wait for each other.
pub struct BufPool {
    inner: RefCell<Inner>,
    len: usize,
}

struct Inner {
    free: Vec<AlignedBuf>,
    /// Served in order: a large taker is not starved by small ones.
    waiting: VecDeque<(u64, Option<Waker>)>,
    tickets: u64,
}

impl BufPool {
    /// A pool of `count` buffers of `len` bytes each.
    #[must_use]
    pub fn new(count: usize, len: usize) -> Self {
        let free = (0..count).map(|_| AlignedBuf::zeroed(len)).collect();
        let inner = Inner { free, waiting: VecDeque::with_capacity(count), tickets: 0 };
        Self { inner: RefCell::new(inner), len }
    }

    /// Bytes in each buffer.
    #[must_use]
    pub fn buf_len(&self) -> usize {
        self.len
    }

    /// Appends `count` buffers to `into`, when there are so many. Their content is what the last user left.
    pub async fn take(&self, count: usize, into: &mut impl Extend<AlignedBuf>) {
        let mut ticket = Ticket { pool: self, number: None };
        poll_fn(|cx| {
            let mut guard = self.inner.borrow_mut();
            let inner = &mut *guard;
            let mine = ticket.number;
            let first = inner.waiting.front().is_none_or(|(number, _)| Some(*number) == mine);
            if first && inner.free.len() >= count {
                if mine.is_some() {
                    inner.waiting.pop_front();
                    ticket.number = None;
                }
                let at = inner.free.len() - count;
                into.extend(inner.free.drain(at..));
                inner.wake_first();
                return Poll::Ready(());
            }
            let waker = Some(cx.waker().clone());
            match mine.and_then(|n| inner.waiting.iter_mut().find(|(number, _)| *number == n)) {
                Some(entry) => entry.1 = waker,
                None => {
                    inner.tickets += 1;
                    ticket.number = Some(inner.tickets);
                    inner.waiting.push_back((inner.tickets, waker));
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// A buffer, if one is free now and nobody waits.
    pub fn try_take(&self) -> Option<AlignedBuf> {
        let mut inner = self.inner.borrow_mut();
        if inner.waiting.is_empty() { inner.free.pop() } else { None }
    }

    /// Gives a buffer back.
    pub fn put(&self, buf: AlignedBuf) {
        debug_assert_eq!(buf.len(), self.len, "a buffer of another pool");
        let mut inner = self.inner.borrow_mut();
        inner.free.push(buf);
        inner.wake_first();
    }
}

impl Inner {
    fn wake_first(&mut self) {
        if let Some(waker) = self.waiting.front_mut().and_then(|(_, waker)| waker.take()) {
            waker.wake();
        }
    }
}

/// A place in the queue, left when the taker gives up.
struct Ticket<'a> {
    pool: &'a BufPool,
    number: Option<u64>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut inner = self.pool.inner.borrow_mut();
            inner.waiting.retain(|(n, _)| *n != number);
            inner.wake_first();
        }
    }
}
