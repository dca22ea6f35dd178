//! The thread of one queue: driver → core → driver.
//!
//! ```text
//!  loop: commit what the core answered
//!        submit, and sleep in the ring unless there is more    (until the driver or the bell)
//!        turn what arrived into requests, hand them over as one group
//! ```
//!
//! **Buffers.** A tag's buffer is with the queue (between commit and arrival the driver fills it), or with the core. The
//! commit names the buffer's address: the driver takes read data from it and puts the data of the tag's next write
//! there. Hence a buffer that somebody still holds when its request is answered is replaced by a copy.
//!
//! **End.** The driver aborts the fetches when the device stops: it has drained the requests before. When the queue
//! leaves (hand-over, end of the daemon) requests that have not reached the core stay with the driver, which gives them
//! to the next server; those at the core are waited for, with a bound, since the core may still read their buffers.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, opcode, types};
use libublk::io::{BufDesc, UblkDev, UblkQueue};
use libublk::{UblkError, UblkIORes, UblkUringData, sys};

use super::buffers::tag_buffers;
use super::completions::{Completions, Done};
use super::errors::ours;
use super::translate::{Asked, translate};
use crate::buf::DataBuf;
use crate::core::request::{NamespaceClient, ReplySink, Request, RequestKind};
use crate::error::{Error, ErrorKind, Result};
use crate::units::NamespaceId;

/// Names the completions of the bell's poll.
const BELL: u64 = UblkUringData::Target as u64 | 1;
/// How long the end of a queue waits for requests at the core.
const DRAIN_STEPS: u32 = 300;
const DRAIN_STEP_MS: u32 = 100;

/// What is known of a tag.
struct Slot {
    /// The tag's buffer, while it is here.
    data: Option<Arc<DataBuf>>,
    /// What the core was asked, while it has not answered.
    asked: Option<Asked>,
}

struct Queue<'d> {
    ring: UblkQueue<'d>,
    client: NamespaceClient,
    completions: Arc<Completions>,
    sink: Arc<dyn ReplySink>,
    io_bytes: usize,
    slots: Vec<Slot>,
    /// Requests at the core.
    outstanding: usize,
    // kept for their capacity
    arrived: Vec<(u64, i32, bool)>,
    group: Vec<(NamespaceId, Request)>,
    done: Vec<Done>,
}

/// Serves queue `number` of `device` until it stops or `completions` says to leave.
///
/// # Errors
/// When the queue could not be set up or the driver refused a command: I/O of this queue then waits in the driver.
pub(super) fn serve(
    device: &UblkDev,
    number: u16,
    client: NamespaceClient,
    completions: Arc<Completions>,
) -> Result<()> {
    let set_up = Queue::new(device, number, client, completions);
    // the control thread waits until every queue has said something
    device.notify_buffer_registration_complete(set_up.is_err());
    set_up?.run()
}

impl<'d> Queue<'d> {
    fn new(device: &'d UblkDev, number: u16, client: NamespaceClient, completions: Arc<Completions>) -> Result<Self> {
        let depth = usize::from(device.dev_info.queue_depth);
        let io_bytes = usize::try_from(device.dev_info.max_io_buf_bytes).unwrap_or(usize::MAX);
        let slots = tag_buffers(depth, io_bytes)?.into_iter().map(|data| Slot { data: Some(data), asked: None });
        let slots = slots.collect();
        let ring = UblkQueue::new(number, device).map_err(|error| ours("setting up a ublk queue", error))?;
        let sink: Arc<dyn ReplySink> = completions.clone();
        let mut queue = Self {
            ring,
            client,
            completions,
            sink,
            io_bytes,
            slots,
            outstanding: 0,
            arrived: Vec::with_capacity(depth * 2),
            group: Vec::with_capacity(depth),
            done: Vec::with_capacity(depth),
        };
        queue.listen()?;
        queue.fetch_all()?;
        Ok(queue)
    }

    /// Has the ring wake up whenever the bell rings.
    fn listen(&self) -> Result<()> {
        let bell = types::Fd(self.completions.bell());
        let readable = u32::from(rustix::event::PollFlags::IN.bits());
        let poll = opcode::PollAdd::new(bell, readable).multi(true).build().user_data(BELL);
        self.ring.ublk_submit_sqe_sync(poll).map_err(|error| ours("polling the bell of a ublk queue", error))
    }

    /// Queues the first fetch of every tag.
    fn fetch_all(&mut self) -> Result<()> {
        let mut context = Context::from_waker(Waker::noop());
        for tag in 0..self.ring.get_depth() {
            let tag = u16::try_from(tag).unwrap_or(u16::MAX);
            let address = self.address(tag);
            // libublk has this as a future only; the first poll queues the command, whose end comes like all others
            let mut fetch = pin!(self.ring.submit_io_prep_cmd(tag, BufDesc::RawAddress(address), -1, None));
            if let Poll::Ready(ended) = fetch.as_mut().poll(&mut context) {
                let error = ended.err().unwrap_or(UblkError::OtherError(0));
                return Err(ours("fetching from the ublk driver", error));
            }
        }
        Ok(())
    }

    fn run(mut self) -> Result<()> {
        let end = loop {
            let leaving = self.commit_answered();
            if leaving {
                break Ok(());
            }
            let wait = usize::from(self.completions.may_sleep());
            match self.exchange(wait) {
                Ok(()) => {}
                Err(UblkError::QueueIsDown) => break Ok(()),
                Err(UblkError::IOError(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Err(ours("waiting for the ublk driver", error)),
            }
            if let Err(error) = self.take_arrived() {
                break Err(error);
            }
        };
        self.drain();
        end
    }

    /// Submits what is queued, waits for `wait` completions, and notes what came.
    fn exchange(&mut self, wait: usize) -> Result<(), UblkError> {
        let arrived = &mut self.arrived;
        let note = |data: u64, cqe: &cqueue::Entry, _| arrived.push((data, cqe.result(), cqueue::more(cqe.flags())));
        self.ring.flush_and_wake_io_tasks(note, wait).map(drop)
    }

    /// Turns what arrived into requests and hands them to the core.
    fn take_arrived(&mut self) -> Result<()> {
        let mut arrived = std::mem::take(&mut self.arrived);
        let mut end = Ok(());
        for (data, result, more) in arrived.drain(..) {
            let taken = match data {
                BELL if more => Ok(()),
                BELL => self.listen(),
                _ => self.take(tag_of(data), result),
            };
            if taken.is_err() {
                end = taken;
            }
        }
        self.arrived = arrived;
        if !self.group.is_empty() {
            self.client.submit_all(&mut self.group);
        }
        end
    }

    fn take(&mut self, tag: u16, result: i32) -> Result<()> {
        if result == sys::UBLK_IO_RES_ABORT {
            // libublk has noted it; the queue is down when all fetches have ended
            return Ok(());
        }
        if result != 0 {
            let error = std::io::Error::from_raw_os_error(result.saturating_neg());
            return Err(Error::io(format!("the ublk driver refused the command for tag {tag}"), error));
        }
        let Some(slot) = self.slots.get_mut(usize::from(tag)) else {
            return Err(Error::new(ErrorKind::Io, format!("the ublk driver named tag {tag}")));
        };
        match translate(*self.ring.get_iod(tag), self.io_bytes) {
            Ok(asked) => {
                let data = if asked.has_data() { slot.data.take() } else { None };
                slot.asked = Some(asked);
                self.outstanding += 1;
                let sink = self.sink.clone();
                let request = Request::new(asked.kind, asked.offset, asked.len, u64::from(tag), data, sink);
                self.group.push((self.client.id, request));
            }
            Err(kind) => self.commit(tag, -kind.errno()),
        }
        Ok(())
    }

    /// Commits what the core has answered. Returns whether the queue shall leave.
    fn commit_answered(&mut self) -> bool {
        let mut done = std::mem::take(&mut self.done);
        let leaving = self.completions.take(&mut done);
        for answer in done.drain(..) {
            self.answer(answer);
        }
        self.done = done;
        leaving
    }

    fn answer(&mut self, done: Done) {
        let tag = done.tag;
        let io_bytes = self.io_bytes;
        let Some(slot) = self.slots.get_mut(usize::from(tag)) else {
            tracing::error!(tag, "a reply to no request");
            return;
        };
        let Some(asked) = slot.asked.take() else {
            tracing::error!(tag, "a second reply to a request");
            return;
        };
        self.outstanding -= 1;
        let mut result = match done.result {
            // a request is at most 1 MiB of data; discards end in 0
            Ok(()) if asked.has_data() => i32::try_from(asked.len).unwrap_or(i32::MAX),
            Ok(()) => 0,
            Err(kind) => -kind.errno(),
        };
        if asked.has_data() {
            if done.data.is_none() && asked.kind == RequestKind::Read {
                tracing::error!(tag, "a read came back without its buffer");
                result = -ErrorKind::Io.errno();
            }
            let filled = if asked.kind == RequestKind::Read { asked.len } else { 0 };
            slot.data = Some(sole_owner(done.data, io_bytes, usize::try_from(filled).unwrap_or(0)));
        }
        self.commit(tag, result);
    }

    /// Answers the host and fetches the tag's next request.
    fn commit(&mut self, tag: u16, result: i32) {
        let buffer = BufDesc::RawAddress(self.address(tag));
        // always a plain result: libublk drops some of its error variants, and the host would wait for ever
        let committed = self.ring.complete_io_cmd_unified(tag, buffer, Ok(UblkIORes::Result(result)));
        if let Err(error) = committed {
            tracing::error!(tag, %error, "the end of a request could not be queued");
        }
    }

    /// Address of the buffer of a tag that is not at the core.
    fn address(&mut self, tag: u16) -> *const u8 {
        let io_bytes = self.io_bytes;
        let data = self.slots.get_mut(usize::from(tag)).and_then(|slot| slot.data.as_mut());
        match data.and_then(Arc::get_mut) {
            Some(buffer) => buffer.bytes_mut().as_mut_ptr(),
            None => {
                debug_assert!(false, "tag {tag} is at the core or its buffer is shared");
                let mut fresh = Arc::new(DataBuf::zeroed(io_bytes));
                let address = Arc::get_mut(&mut fresh).map_or(std::ptr::null(), |fresh| fresh.bytes_mut().as_ptr());
                if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
                    slot.data = Some(fresh);
                }
                address
            }
        }
    }

    /// Waits for requests at the core and commits them as far as the driver still takes them.
    fn drain(&mut self) {
        for _ in 0..DRAIN_STEPS {
            self.commit_answered();
            if self.outstanding == 0 {
                break;
            }
            self.completions.wait(DRAIN_STEP_MS);
        }
        if self.outstanding > 0 {
            tracing::warn!(requests = self.outstanding, "a ublk queue ends while the core still has requests of it");
        }
        if let Err(error) = self.exchange(0)
            && !matches!(error, UblkError::QueueIsDown)
        {
            tracing::warn!(%error, "the last completions of a ublk queue");
        }
    }
}

/// libublk keeps the tag in the low bits, whatever else a command is marked with.
fn tag_of(user_data: u64) -> u16 {
    u16::try_from(user_data & 0xffff).unwrap_or(u16::MAX)
}

/// The buffer for the driver: `lent`, unless somebody still holds it; then another with the same first `filled` bytes.
fn sole_owner(lent: Option<Arc<DataBuf>>, io_bytes: usize, filled: usize) -> Arc<DataBuf> {
    let Some(mut lent) = lent else { return Arc::new(DataBuf::zeroed(io_bytes)) };
    if Arc::get_mut(&mut lent).is_some() {
        return lent;
    }
    tracing::debug!("a buffer is still held after its request was answered");
    let mut fresh = DataBuf::zeroed(io_bytes);
    let filled = filled.min(io_bytes);
    fresh.bytes_mut()[..filled].copy_from_slice(&lent.bytes()[..filled]);
    Arc::new(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_buffer_is_not_given_to_the_driver() {
        let mut buffer = DataBuf::zeroed(8192);
        buffer.bytes_mut()[..4096].fill(7);
        buffer.bytes_mut()[4096..].fill(9);
        let mut buffer = Arc::new(buffer);
        let address = buffer.bytes().as_ptr();
        buffer = sole_owner(Some(buffer), 8192, 4096);
        assert_eq!(buffer.bytes().as_ptr(), address, "ours alone: kept");

        let held = buffer.clone();
        let mut other = sole_owner(Some(buffer), 8192, 4096);
        assert_ne!(other.bytes().as_ptr(), address);
        assert!(Arc::get_mut(&mut other).is_some());
        assert!(other.bytes()[..4096].iter().all(|&byte| byte == 7));
        assert!(other.bytes()[4096..].iter().all(|&byte| byte == 0));
        assert_eq!(held.bytes()[4096], 9);

        assert_eq!(sole_owner(None, 8192, 0).bytes().len(), 8192);
    }

    #[test]
    fn tags_are_found_in_both_kinds_of_user_data() {
        assert_eq!(tag_of(libublk::io::UblkIOCtx::build_user_data(17, sys::UBLK_U_IO_FETCH_REQ, 0, false)), 17);
        assert_eq!(tag_of(0x0003_0011), 17);
    }
}
