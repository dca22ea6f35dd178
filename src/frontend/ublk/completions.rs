//! Replies on their way from the core's thread to a queue's thread.
//!
//! The queue thread sleeps in its ring, where a poll of an eventfd is pending. The core puts replies into a vector and
//! writes the eventfd once per turn, and only if the queue sleeps: while it is busy it looks here by itself.
//!
//! **Invariant.** No reply is left behind: the queue declares itself asleep under the same lock under which it saw that
//! there is nothing, so whoever comes later sees the declaration and wakes it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::buf::DataBuf;
use crate::core::request::{Reply, ReplySink};
use crate::error::{Error, ErrorKind, Result};

/// The end of one request.
#[derive(Debug)]
pub(super) struct Done {
    /// The driver's number of the request.
    pub(super) tag: u16,
    /// How it ended.
    pub(super) result: Result<(), ErrorKind>,
    /// The tag's buffer, if it was lent.
    pub(super) data: Option<Arc<DataBuf>>,
}

/// Where the core answers the requests of one queue.
pub(super) struct Completions {
    state: Mutex<State>,
    bell: OwnedFd,
}

struct State {
    done: Vec<Done>,
    asleep: bool,
    leave: bool,
}

impl Completions {
    /// For a queue of `depth` tags.
    pub(super) fn new(depth: u16) -> Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::io("an eventfd for a ublk queue", error))?;
        let done = Vec::with_capacity(usize::from(depth));
        Ok(Self { state: Mutex::new(State { done, asleep: false, leave: false }), bell })
    }

    /// Descriptor that becomes readable anew with every wake.
    pub(super) fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Exchanges what has been answered for `empty`; the queue counts as awake. Returns whether it shall leave.
    pub(super) fn take(&self, empty: &mut Vec<Done>) -> bool {
        debug_assert!(empty.is_empty());
        let mut state = self.lock();
        state.asleep = false;
        std::mem::swap(&mut state.done, empty);
        state.leave
    }

    /// Whether the queue may sleep until it is woken. Otherwise there is something to take.
    pub(super) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.done.is_empty();
        state.asleep
    }

    /// Tells the queue to finish what it has and end.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.leave = true;
        state.asleep = false;
        drop(state);
        self.ring_bell();
    }

    /// Waits for the next reply when the ring is of no use any more, at most `milliseconds`.
    pub(super) fn wait(&self, milliseconds: u32) {
        if !self.may_sleep() {
            return;
        }
        self.silence();
        // a reply between the two calls finds the queue asleep and rings
        if self.lock().done.is_empty() {
            let timeout = Timespec {
                tv_sec: i64::from(milliseconds / 1000),
                tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
            };
            let mut bells = [PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
            if let Err(error) = poll(&mut bells, Some(&timeout)) {
                tracing::debug!(%error, "waiting for the last replies");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_bell(&self) {
        // fails only when the counter is full, and then the queue has wakes enough
        if let Err(error) = rustix::io::write(&self.bell, bytemuck::bytes_of(&1_u64)) {
            tracing::debug!(%error, "waking a ublk queue");
        }
    }

    fn silence(&self) {
        let mut count = [0_u8; 8];
        // EAGAIN: it was silent
        if rustix::io::read(&self.bell, &mut count).is_ok() {
            tracing::trace!("wakes taken");
        }
    }
}

impl ReplySink for Completions {
    fn reply(&self, reply: Reply) {
        let Ok(tag) = u16::try_from(reply.tag) else {
            tracing::error!(tag = reply.tag, "a reply to no request");
            return;
        };
        let result = reply.result.map_err(|error| error.kind());
        self.lock().done.push(Done { tag, result, data: reply.data });
    }

    fn flush(&self) {
        let mut state = self.lock();
        if !state.asleep || state.done.is_empty() {
            return;
        }
        state.asleep = false;
        drop(state);
        self.ring_bell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::request::{Request, RequestKind};

    fn reply(tag: u64) -> Reply {
        Reply { tag, result: Ok(()), data: None, extents: Vec::new() }
    }

    fn rings(completions: &Completions) -> u64 {
        let mut count = [0_u8; 8];
        match rustix::io::read(&completions.bell, &mut count) {
            Ok(_) => bytemuck::pod_read_unaligned(&count),
            Err(_) => 0,
        }
    }

    #[test]
    fn a_sleeping_queue_is_woken_once_a_busy_one_not_at_all() {
        let completions = Completions::new(8).unwrap();
        completions.reply(reply(1));
        completions.flush();
        assert_eq!(rings(&completions), 0, "awake: it looks by itself");
        assert!(!completions.may_sleep(), "there is something to take");
        let mut done = Vec::new();
        assert!(!completions.take(&mut done));
        assert_eq!(done.len(), 1);
        assert!(completions.may_sleep());
        completions.flush();
        assert_eq!(rings(&completions), 0, "nothing to tell");
        completions.reply(reply(2));
        completions.reply(reply(3));
        completions.flush();
        completions.flush();
        assert_eq!(rings(&completions), 1);
        done.clear();
        completions.take(&mut done);
        assert_eq!(done.iter().map(|done| done.tag).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn leaving_wakes_and_is_told_with_the_rest() {
        let completions = Completions::new(8).unwrap();
        assert!(completions.may_sleep());
        completions.leave();
        assert_eq!(rings(&completions), 1);
        assert!(completions.take(&mut Vec::new()));
    }

    #[test]
    fn a_request_dropped_by_the_core_ends_in_an_error() {
        let completions = Arc::new(Completions::new(8).unwrap());
        drop(Request::new(RequestKind::Flush, 0, 0, 5, None, completions.clone()));
        let mut done = Vec::new();
        completions.take(&mut done);
        assert_eq!((done[0].tag, done[0].result), (5, Err(ErrorKind::Shutdown)));
    }

    #[test]
    fn waiting_ends_with_a_reply_of_another_thread() {
        let completions = Arc::new(Completions::new(8).unwrap());
        let core = completions.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            core.reply(reply(9));
            core.flush();
        });
        let mut done = Vec::new();
        for _ in 0..10 {
            completions.wait(10_000);
            completions.take(&mut done);
            if !done.is_empty() {
                break;
            }
        }
        thread.join().unwrap();
        assert_eq!(done[0].tag, 9);
    }
}
