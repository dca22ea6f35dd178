//! Block media and sockets over io_uring: the only caller of it in the project.
//!
//! ```text
//!   submit(op) ─► flights (own the buffers) ─► queued ─► submission queue ─┐ one io_uring_enter
//!   ended      ◄─ flights ◄──────────────────────────── completion queue ◄─┘ a poll
//! ```
//!
//! Submission is lazy: entries are pushed as operations come and handed to the kernel once per poll. A poll that need
//! not sleep makes no system call unless there is something to submit or the kernel has said that it has work to
//! deliver.
//!
//! **Invariants.**
//! - A buffer that the kernel may touch belongs to a flight in `flights`; it leaves with the last completion.
//! - Operations beyond the submission queue wait in `queued`, in order; nothing is refused.
//! - The eventfd read that unparking needs is armed whenever the ring sleeps.
//! - Created, used and dropped on one thread.
//!
//! **Failure.** Of an operation: reported with it (see [`crate::env::reactor`]). Of the ring itself once it works:
//! only by a bug of ours, and then it panics. Dropped with operations under way it waits for them; if they do not end
//! it leaks their buffers, because freeing memory that the kernel writes to is worse.
//!
//! **Not here:** who may open a medium (`device`), bounds and counters (`Media`).

mod at_end;
mod flight;
mod prompt_flush;
mod registry;
mod unpark;

pub use registry::{Registration, Registry};

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use slab::Slab;

use self::flight::{Flight, Outcome};
use self::prompt_flush::FlushTimes;
use self::unpark::EventUnpark;
use super::device::Device;
use crate::env::executor::Unpark;
use crate::env::reactor::{Backend, Completion, FileId, Op};
use crate::error::{Error, ErrorKind, Result};

/// Entries of the submission queue; the completion queue has four times as many.
const ENTRIES: u32 = 256;
/// `user_data` of the eventfd read.
const WAKE: u64 = u64::MAX;
/// `user_data` of cancellations, whose results do not matter.
const CANCEL: u64 = u64::MAX - 1;

/// The backend of the real machine.
pub struct UringBackend {
    ring: IoUring,
    files: Registry,
    flights: Slab<Flight>,
    /// The moment 0 of the clock. The standard library's clock, because that of rustix panics on first use where the
    /// vDSO lacks a symbol (User-Mode Linux 7.3).
    started: Instant,
    /// Flights that are not in the submission queue yet.
    queued: VecDeque<usize>,
    /// Flights of media, not of sockets.
    transfers: usize,
    flush_times: FlushTimes,
    /// Flushes that this thread made, with their results as the kernel would report them.
    flushed: Vec<(usize, i32)>,
    wake: Arc<EventUnpark>,
    /// Where the kernel stores what it reads from the eventfd.
    wake_value: Box<[u8; 8]>,
    wake_armed: bool,
    /// An unpark has been seen that no wait has returned for yet.
    woken: bool,
}

impl UringBackend {
    /// A ring of this thread: it must be polled and dropped where it is created.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when the kernel has no io_uring, is too old (before 5.11) or does not allow it; the
    /// message says what to do.
    pub fn new() -> Result<Self> {
        let ring = build_ring()?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            crate::fail!(Unsupported, "the io_uring of this kernel is too old: Linux 5.11 or later is needed");
        }
        Ok(Self {
            ring,
            files: Registry::default(),
            flights: Slab::with_capacity(1024),
            started: now(),
            queued: VecDeque::with_capacity(1024),
            transfers: 0,
            flush_times: FlushTimes::default(),
            flushed: Vec::with_capacity(1),
            wake: Arc::new(EventUnpark::new()?),
            wake_value: Box::new([0; 8]),
            wake_armed: false,
            woken: false,
        })
    }

    /// Makes a medium known to this backend. It stays open, and locked, as long as the backend lives.
    pub fn register(&mut self, device: &Device) -> FileId {
        self.files.register(device)
    }

    /// Its media: more can be made known while it runs.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.files.clone()
    }

    /// Moves what waits into the submission queue as far as there is room.
    fn fill(&mut self) {
        self.arm_wake();
        while let Some(&key) = self.queued.front() {
            let entry = self.flights[key].entry().user_data(key as u64);
            if !self.push(&entry) {
                break;
            }
            self.queued.pop_front();
        }
    }

    /// Makes a flush that waits alone at once, where that is quicker (see [`prompt_flush`]).
    fn flush_promptly(&mut self) {
        if self.transfers != 1 || !self.flush_times.are_prompt() {
            return;
        }
        let flush = |key: &usize| self.flights[*key].flushes();
        let Some((at, fd)) = self.queued.iter().enumerate().find_map(|(at, key)| Some((at, flush(key)?.fd.clone())))
        else {
            return;
        };
        let Some(key) = self.queued.remove(at) else { return };
        let result = rustix::fs::fdatasync(&*fd);
        self.flushed.push((key, result.map_or_else(|errno| -errno.raw_os_error(), |()| 0)));
    }

    /// Sees to it that an unpark ends a sleep in the kernel.
    fn arm_wake(&mut self) {
        if !self.wake_armed {
            let target = self.wake_value.as_mut_ptr();
            let entry = opcode::Read::new(Fd(self.wake.event().as_raw_fd()), target, 8).build().user_data(WAKE);
            self.wake_armed = self.push(&entry);
        }
    }

    /// Puts one entry into the submission queue, if there is room.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        #[expect(unsafe_code, reason = "the kernel reads and writes memory behind pointers")]
        // SAFETY: every entry's memory and descriptor live until its completion: those of operations are owned by their
        // flight in `self.flights`, those of the eventfd read by `self`; `Drop` waits for them or leaks them.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.is_ok()
    }

    /// Hands entries to the kernel; with `wait` sleeps until a completion is there, at most `timeout`.
    fn enter(&mut self, wait: bool, timeout: Option<Timespec>) {
        let result = match &timeout {
            Some(timeout) => {
                self.ring.submitter().submit_with_args(usize::from(wait), &SubmitArgs::new().timespec(timeout))
            }
            None => self.ring.submit_and_wait(usize::from(wait)),
        };
        if let Err(error) = result {
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                // time is up; a signal; the kernel wants completions to be taken first, or has no memory just now
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN | Errno::NOMEM) => {}
                _ => panic!("io_uring_enter: {error} (a ring must stay on the thread that created it)"),
            }
        }
    }

    /// Takes all completions that are there.
    fn reap(&mut self, ended: &mut Vec<(usize, Completion)>) {
        while let Some((key, result)) = self.flushed.pop() {
            self.advance(key, result, ended);
        }
        loop {
            // taken before it is acted on: the queue cannot be held meanwhile
            let entry = self.ring.completion().next();
            let Some(entry) = entry else { break };
            match entry.user_data() {
                WAKE => {
                    self.wake.take();
                    self.wake_armed = false;
                    self.woken = true;
                }
                CANCEL => {}
                key => self.advance(usize::try_from(key).expect("a key of the slab"), entry.result(), ended),
            }
        }
    }

    fn advance(&mut self, key: usize, result: i32, ended: &mut Vec<(usize, Completion)>) {
        match self.flights[key].advance(result) {
            Outcome::Again => self.queued.push_back(key),
            Outcome::Ended(result) => {
                let flight = self.flights.remove(key);
                self.transfers -= usize::from(!flight.waits());
                if flight.flushes().is_some() {
                    self.flush_times.took(self.now_ns().saturating_sub(flight.started_ns()));
                }
                ended.push(flight.end(result));
            }
        }
    }

    /// Whether the kernel must be entered even without a wish to sleep.
    fn must_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }
}

impl Backend for UringBackend {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn submit(&mut self, token: usize, op: Op) {
        let flight = Flight::new(token, op, &self.files, self.now_ns());
        self.transfers += usize::from(!flight.waits());
        let flushes = flight.flushes().is_some();
        let key = self.flights.insert(flight);
        self.queued.push_back(key);
        // a flush waits for the poll, which may make it itself
        if flushes {
            return;
        }
        self.fill();
        if !self.queued.is_empty() {
            // the submission queue is full: the kernel takes it over, and what is left waits for the next poll
            self.enter(false, None);
            self.fill();
        }
    }

    fn poll(&mut self, wait: bool, until_ns: Option<u64>, ended: &mut Vec<(usize, Completion)>) {
        let before = ended.len();
        loop {
            self.flush_promptly();
            self.fill();
            let sleep_ns = until_ns.filter(|_| wait).map(|until| until.saturating_sub(self.now_ns()));
            // what has ended already is worth no system call
            let ready = !self.flushed.is_empty() || !self.ring.completion().is_empty();
            if wait && !ready && !self.woken && sleep_ns != Some(0) {
                self.enter(true, sleep_ns.map(timespec));
            } else if self.must_enter() {
                self.enter(false, None);
            }
            self.reap(ended);
            let expired = until_ns.is_some_and(|until| self.now_ns() >= until);
            if !wait || ended.len() > before || self.woken || expired {
                break;
            }
        }
        if wait {
            self.woken = false;
        }
    }

    fn is_written(&self, file: FileId, offset: u64, len: u64) -> bool {
        // space that was only allocated counts as a hole
        let hole = rustix::fs::seek(&*self.files.get(file).fd, SeekFrom::Hole(offset));
        hole.is_ok_and(|hole| hole >= offset + len)
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        self.wake.clone()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the environment's clock")]
fn now() -> Instant {
    Instant::now()
}

fn timespec(ns: u64) -> Timespec {
    let below_second = u32::try_from(ns % 1_000_000_000).expect("below 2^30");
    Timespec::new().sec(ns / 1_000_000_000).nsec(below_second)
}

/// The best ring that this kernel gives.
fn build_ring() -> Result<IoUring> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    let plain = IoUring::builder();

    let mut last = None;
    for mut builder in [deferred, cooperative, plain] {
        match builder.setup_cqsize(ENTRIES * 4).build(ENTRIES) {
            Ok(ring) => return Ok(ring),
            Err(error) => last = Some(error),
        }
    }
    let error = last.expect("three were tried");
    Err(match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSYS) => Error::new(
            ErrorKind::Unsupported,
            "this kernel has no io_uring: a kernel with CONFIG_IO_URING (Linux 5.11 or later) is needed",
        ),
        Some(Errno::PERM | Errno::ACCESS) => Error::new(
            ErrorKind::Unsupported,
            "io_uring is not allowed here: set the sysctl kernel.io_uring_disabled to 0, and in a container allow the \
             io_uring system calls in its seccomp profile",
        ),
        Some(Errno::NOMEM) => Error::io("creating an io_uring (raise the limit on locked memory, ulimit -l)", error),
        _ => Error::io("creating an io_uring", error),
    })
}
