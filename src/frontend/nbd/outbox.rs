//! A connection's requests between receipt and sent reply: where the core puts its replies, and what bounds them.
//!
//! **Invariants.** A request is open from [`Outbox::open`] until [`Outbox::settle`] says that its reply was sent or
//! [`Outbox::break_off`] that nobody will get it; open requests and bytes are bounded by whoever asks
//! [`Outbox::room`] first. The lock is held for moments and normally taken by the core's thread alone.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use slab::Slab;

use super::buffers::DataPool;
use super::wire::WireError;
use super::{BYTES_MAX, REQUESTS_MAX};
use crate::buf::DataBuf;
use crate::core::request::{Extent, Reply, ReplySink};

/// What must be remembered of a request to answer it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    /// Bytes, as they are to be answered.
    pub(super) len: u32,
    /// Bytes of data under way, for the bound.
    pub(super) weight: usize,
    pub(super) shape: Shape,
    /// Requests to the core that it was cut into and that have not been answered.
    pub(super) parts: u32,
    /// The first error of its parts.
    pub(super) error: Option<WireError>,
}

/// What the reply looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Success or error.
    Plain,
    /// The same, structured if that was negotiated.
    Structured,
    /// Data.
    Data,
    /// Block status, of at most so many extents.
    Status {
        /// How many.
        most: usize,
    },
}

/// A request that has been answered.
pub(super) struct Answer {
    pub(super) flight: Flight,
    pub(super) data: Option<Arc<DataBuf>>,
    pub(super) extents: Vec<Extent>,
}

/// What the sender finds.
pub(super) enum Work {
    /// Replies to be sent, now in its vector.
    Answers,
    /// There will be none any more.
    End,
}

/// See the module.
#[derive(Default)]
pub(super) struct Outbox(Mutex<State>);

#[derive(Default)]
struct State {
    flights: Slab<Flight>,
    answers: Vec<Answer>,
    pool: DataPool,
    open_requests: usize,
    open_bytes: usize,
    closing: bool,
    broken: bool,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request with so many bytes of data may be opened now.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.lock().has_room(bytes)
    }

    /// Waits until a request with so many bytes of data may be opened. Returns false if the connection broke.
    pub(super) async fn room(&self, bytes: usize) -> bool {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.broken {
                return Poll::Ready(false);
            }
            if state.has_room(bytes) {
                return Poll::Ready(true);
            }
            state.receiver = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// A buffer for a request's data, of at least so many bytes and with no other user.
    pub(super) fn buffer(&self, len: usize) -> Arc<DataBuf> {
        self.lock().pool.take(len)
    }

    /// Opens a request. The tag is what the core shall answer to.
    pub(super) fn open(&self, flight: Flight) -> u64 {
        let mut state = self.lock();
        state.open_requests += 1;
        state.open_bytes += flight.weight;
        state.flights.insert(flight) as u64
    }

    /// Opens a request that is answered already, with an error.
    pub(super) fn refuse(&self, flight: Flight) {
        let waker = {
            let mut state = self.lock();
            state.open_requests += 1;
            state.answers.push(Answer { flight, data: None, extents: Vec::new() });
            state.sender.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for replies and moves them to `answers`.
    pub(super) async fn work(&self, answers: &mut Vec<Answer>) -> Work {
        poll_fn(|cx| {
            let mut state = self.lock();
            if !state.answers.is_empty() {
                std::mem::swap(&mut state.answers, answers);
                return Poll::Ready(Work::Answers);
            }
            if state.broken || (state.closing && state.open_requests == 0) {
                return Poll::Ready(Work::End);
            }
            state.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// So many requests with so many bytes have been sent their replies; their buffers come back.
    pub(super) fn settle(&self, requests: usize, bytes: usize, buffers: &mut Vec<Arc<DataBuf>>) {
        let waker = {
            let mut state = self.lock();
            state.open_requests -= requests;
            state.open_bytes -= bytes;
            let in_use = state.open_bytes;
            for buf in buffers.drain(..) {
                state.pool.put(buf, in_use);
            }
            state.receiver.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// No more requests come.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.flush();
    }

    /// No more replies can be sent: those that are still to come are dropped.
    pub(super) fn break_off(&self) {
        let (answers, waker) = {
            let mut state = self.lock();
            state.broken = true;
            (std::mem::take(&mut state.answers), state.receiver.take())
        };
        drop(answers);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn has_room(&self, bytes: usize) -> bool {
        // a single request may be larger than the bound
        let fits = self.open_bytes + bytes <= BYTES_MAX || self.open_bytes == 0;
        self.open_requests < REQUESTS_MAX && fits
    }
}

impl ReplySink for Outbox {
    fn reply(&self, reply: Reply) {
        let mut state = self.lock();
        let Some(flight) = usize::try_from(reply.tag).ok().and_then(|tag| state.flights.get_mut(tag)) else {
            debug_assert!(false, "a reply to tag {} that is not open", reply.tag);
            return;
        };
        if let Err(error) = &reply.result {
            flight.error.get_or_insert(error.kind().into());
        }
        flight.parts -= 1;
        if flight.parts > 0 {
            return;
        }
        let flight = state.flights.remove(usize::try_from(reply.tag).unwrap_or(usize::MAX));
        if !state.broken {
            state.answers.push(Answer { flight, data: reply.data, extents: reply.extents });
        }
    }

    fn flush(&self) {
        let waker = self.lock().sender.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
