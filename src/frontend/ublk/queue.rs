//! The thread of one queue: driver → core → driver.
//!
//! ```text
//!  loop: commit what the core answered
//!        submit, and sleep in the ring unless there is more    (until the driver or the bell)
//!        turn what arrived into requests, hand them over as one group
//! ```
//!
//! **Data.** The thread copies data between the driver's requests and its own buffers (`UBLK_F_USER_COPY`): in when a
//! write arrives, out before a read is committed. Left to the driver, the copy of a read happens inside the commit, and
//! before Linux 7.0 it fails there when the thread is being killed: the host would see an I/O error although the
//! request could be reissued. Copied by the thread, a request is either committed whole or not at all.
//!
//! **End.** The driver aborts the fetches when the device stops: it has drained the requests before. When the queue
//! leaves (hand-over, end of the daemon) requests that have not reached the core stay with the driver, which gives them
//! to the next server; those at the core are waited for, with a bound, since the core may still read their buffers.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue, opcode, types};
use libublk::io::{BufDesc, UblkDev, UblkQueue, with_task_io_ring_mut};
use libublk::{UblkError, UblkIORes, UblkUringData, sys};

use super::buffers::Buffers;
use super::completions::{Completions, Done};
use super::errors::ours;
use super::pages::Pages;
use super::translate::{Asked, translate};
use crate::buf::DataBuf;
use crate::core::request::{NamespaceClient, ReplySink, Request, RequestKind};
use crate::error::{Error, ErrorKind, Result};
use crate::units::NamespaceId;

/// Names the completions of the bell's poll.
const BELL: u64 = UblkUringData::Target as u64 | 1;
/// The driver is given no memory of ours.
const NO_ADDRESS: BufDesc<'static> = BufDesc::Slice(&[]);
/// How long the end of a queue waits for requests at the core.
const DRAIN_STEPS: u32 = 300;
const DRAIN_STEP_MS: u32 = 100;

struct Queue<'d> {
    ring: UblkQueue<'d>,
    client: NamespaceClient,
    completions: Arc<Completions>,
    sink: Arc<dyn ReplySink>,
    pages: Pages,
    buffers: Buffers,
    /// What the core was asked and has not answered, by tag.
    asked: Vec<Option<Asked>>,
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
        let ring = UblkQueue::new(number, device).map_err(|error| ours("setting up a ublk queue", error))?;
        let sink: Arc<dyn ReplySink> = completions.clone();
        let mut queue = Self {
            ring,
            client,
            completions,
            sink,
            pages: Pages::new(device, number)?,
            buffers: Buffers::new(depth, io_bytes),
            asked: vec![None; depth],
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
            // libublk has this as a future only; the first poll queues the command, whose end comes like all others
            let mut fetch = pin!(self.ring.submit_io_prep_cmd(tag, NO_ADDRESS, -1, None));
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
        if usize::from(tag) >= self.asked.len() {
            return Err(Error::new(ErrorKind::Io, format!("the ublk driver named tag {tag}")));
        }
        match self.ask(tag) {
            Ok(request) => self.group.push((self.client.id, request)),
            Err(kind) => self.commit(tag, -kind.errno()),
        }
        Ok(())
    }

    /// The request that the driver describes, with the data of a write.
    fn ask(&mut self, tag: u16) -> Result<Request, ErrorKind> {
        let asked = translate(*self.ring.get_iod(tag), self.buffers.io_bytes())?;
        let data = if asked.has_data() { Some(self.buffer_for(tag, asked)?) } else { None };
        self.asked[usize::from(tag)] = Some(asked);
        self.outstanding += 1;
        Ok(Request::new(asked.kind, asked.offset, asked.len, u64::from(tag), data, self.sink.clone()))
    }

    fn buffer_for(&mut self, tag: u16, asked: Asked) -> Result<Arc<DataBuf>, ErrorKind> {
        let len = usize::try_from(asked.len).map_err(|_| ErrorKind::OutOfRange)?;
        let mut buffer = self.buffers.take(len);
        if asked.kind == RequestKind::Read {
            return Ok(buffer);
        }
        let Some(exclusive) = Arc::get_mut(&mut buffer) else { return Err(ErrorKind::Io) };
        let copied = self.pages.read(tag, &mut exclusive.bytes_mut()[..len]);
        if let Err(error) = copied {
            tracing::error!(tag, len, %error, "the data of a write could not be taken");
            self.buffers.put(buffer);
            return Err(ErrorKind::Io);
        }
        Ok(buffer)
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
        let Some(asked) = self.asked.get_mut(usize::from(tag)).and_then(Option::take) else {
            tracing::error!(tag, "a reply to no request");
            return;
        };
        self.outstanding -= 1;
        let ended = match (done.result, asked.kind, &done.data) {
            (Ok(()), RequestKind::Read, data) => self.give(tag, asked, data.as_deref()),
            (result, ..) => result,
        };
        let result = match ended {
            // at most 1 MiB of data; all others end in 0
            Ok(()) if asked.has_data() => i32::try_from(asked.len).unwrap_or(i32::MAX),
            Ok(()) => 0,
            Err(kind) => -kind.errno(),
        };
        if let Some(buffer) = done.data {
            self.buffers.put(buffer);
        }
        self.commit(tag, result);
    }

    /// Gives the host the data of a read.
    fn give(&self, tag: u16, asked: Asked, data: Option<&DataBuf>) -> Result<(), ErrorKind> {
        let len = usize::try_from(asked.len).map_err(|_| ErrorKind::OutOfRange)?;
        let Some(bytes) = data.and_then(|data| data.bytes().get(..len)) else {
            tracing::error!(tag, "a read came back without its buffer");
            return Err(ErrorKind::Io);
        };
        self.pages.write(tag, bytes).map_err(|error| {
            tracing::error!(tag, len, %error, "the data of a read could not be given");
            ErrorKind::Io
        })
    }

    /// Answers the host and fetches the tag's next request.
    fn commit(&mut self, tag: u16, result: i32) {
        // always a plain result: libublk drops some of its error variants, and the host would wait for ever
        let committed = self.ring.complete_io_cmd_unified(tag, NO_ADDRESS, Ok(UblkIORes::Result(result)));
        if let Err(error) = committed {
            tracing::error!(tag, %error, "the end of a request could not be queued");
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
        if let Err(error) = retire_ring() {
            tracing::warn!(%error, "closing the ring of a ublk queue");
        }
    }
}

/// libublk keeps the tag in the low bits, whatever else a command is marked with.
fn tag_of(user_data: u64) -> u16 {
    u16::try_from(user_data & 0xffff).unwrap_or(u16::MAX)
}

/// Closes this thread's ring, by which the driver gets back what was fetched. libublk's queue unregisters its files when
/// it is dropped, which before Linux 6.13 waits for commands in flight: for ever, if they are fetches. It finds another
/// ring then.
fn retire_ring() -> std::io::Result<()> {
    let other = IoUring::new(2)?;
    other.submitter().register_files(&[-1])?;
    drop(with_task_io_ring_mut(|ring| std::mem::replace(ring, other)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_both_kinds_of_user_data() {
        assert_eq!(tag_of(libublk::io::UblkIOCtx::build_user_data(17, sys::UBLK_U_IO_FETCH_REQ, 0, false)), 17);
        assert_eq!(tag_of(0x0003_0011), 17);
    }
}
