//! I/O and time as futures over a [`Backend`] that starts operations and reports their ends.
//!
//! **Contract of a backend.**
//! - Block I/O is a whole transfer or an error; a short transfer is continued by the backend or is an error.
//! - Completion of a write is not durability, unless it was asked for with the write; otherwise only a flush submitted
//!   after it makes it durable.
//! - An operation owns its buffer while in flight; the buffer comes back with the completion. When the future that
//!   waits for an operation is dropped, the operation goes on and its buffer is freed at its end, never before.
//! - Operations end in any order.
//!
//! **Failure.** An error is reported once, to whoever awaits the operation; nothing here retries.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::executor::Unpark;
use crate::buf::AlignedBuf;
use crate::error::Result;
use crate::staging::SlotBuf;

/// A medium opened with the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub usize);

/// Memory of an operation.
#[derive(Debug)]
pub enum IoBuf {
    /// Ordinary memory.
    Owned(AlignedBuf),
    /// A staging slot in shared memory, to be written out.
    Slot(SlotBuf),
}

impl IoBuf {
    /// The first `len` bytes.
    #[must_use]
    pub fn bytes(&self, len: usize) -> &[u8] {
        match self {
            Self::Owned(buf) => &buf[..len],
            Self::Slot(slot) => &slot.bytes()[..len],
        }
    }
}

/// What the backend is asked to do. Offsets and lengths of block I/O are multiples of the medium's block size.
#[derive(Debug)]
pub enum Op {
    /// Fill `buf[start..start + len]` from `offset`.
    Read {
        /// The medium.
        file: FileId,
        /// Byte offset in the medium.
        offset: u64,
        /// Where to.
        buf: AlignedBuf,
        /// Where in `buf` to begin: a multiple of the medium's block size.
        start: usize,
        /// How many bytes.
        len: usize,
    },
    /// Write the first `len` bytes of `buf` at `offset`.
    Write {
        /// The medium.
        file: FileId,
        /// Byte offset in the medium.
        offset: u64,
        /// Where from.
        buf: IoBuf,
        /// How many bytes.
        len: usize,
        /// They are durable when the operation has ended well.
        durable: bool,
    },
    /// Make all writes that completed before this was submitted durable.
    Flush {
        /// The medium.
        file: FileId,
    },
    /// Take space for a range, so that writing it cannot end in `ENOSPC`. Keeps content.
    Allocate {
        /// The medium.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Give up the content of a range (hole punch or discard).
    Discard {
        /// The medium.
        file: FileId,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Receive what is there, at most `buf.len() - start`, into `buf[start..]`; 0 bytes is the end of the stream.
    Recv {
        /// A connected stream socket.
        socket: Arc<OwnedFd>,
        /// Where to.
        buf: AlignedBuf,
        /// Where in `buf` to begin.
        start: usize,
    },
    /// Send `buf[start..end]`; may send less.
    Send {
        /// A connected stream socket.
        socket: Arc<OwnedFd>,
        /// Where from.
        buf: AlignedBuf,
        /// First byte.
        start: usize,
        /// After the last byte.
        end: usize,
    },
    /// Wait until a connection comes.
    Accept {
        /// A listening socket.
        socket: Arc<OwnedFd>,
        /// Where the connection's socket is put; it is closed if nobody keeps the other reference.
        accepted: Rc<OnceCell<OwnedFd>>,
    },
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Bytes moved, or the error.
    pub result: Result<usize>,
    /// The operation's buffer.
    pub buf: Option<IoBuf>,
}

/// Does I/O. Two exist: io_uring and the simulator.
pub trait Backend {
    /// Monotonic nanoseconds.
    fn now_ns(&self) -> u64;
    /// Starts an operation. Its end is reported under `token`.
    fn submit(&mut self, token: usize, op: Op);
    /// Reports operations that ended. With `wait`, sleeps until one ends, the time `until_ns` comes (if given) or the
    /// unparker is used.
    fn poll(&mut self, wait: bool, until_ns: Option<u64>, ended: &mut Vec<(usize, Completion)>);
    /// Whether the whole range was written before, so that writing it changes no metadata of a filesystem. `false` when that
    /// is not known.
    fn is_written(&self, file: FileId, offset: u64, len: u64) -> bool;
    /// Wakes a sleeping [`Backend::poll`].
    fn unparker(&self) -> Arc<dyn Unpark>;
}

enum Pending {
    Waiting(Option<Waker>),
    Ended(Completion),
    Taken,
    Orphan,
}

/// Turns a backend into futures. Belongs to one thread.
pub struct Reactor {
    backend: RefCell<Box<dyn Backend>>,
    pending: RefCell<Slab<Pending>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timer_count: Cell<u64>,
    ended: RefCell<Vec<(usize, Completion)>>,
    unparker: Arc<dyn Unpark>,
}

impl Reactor {
    /// A reactor over `backend`.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>) -> Rc<Self> {
        let unparker = backend.unparker();
        Rc::new(Self {
            backend: RefCell::new(backend),
            pending: RefCell::new(Slab::with_capacity(1024)),
            timers: RefCell::new(BTreeMap::new()),
            timer_count: Cell::new(0),
            ended: RefCell::new(Vec::with_capacity(256)),
            unparker,
        })
    }

    /// Monotonic nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.backend.borrow().now_ns()
    }

    /// See [`Backend::is_written`].
    #[must_use]
    pub fn is_written(&self, file: FileId, offset: u64, len: u64) -> bool {
        self.backend.borrow().is_written(file, offset, len)
    }

    /// Wakes a sleeping [`Reactor::poll`] from any thread.
    #[must_use]
    pub fn unparker(&self) -> Arc<dyn Unpark> {
        self.unparker.clone()
    }

    /// Starts `op` at once; the future gives its end.
    pub fn submit(self: &Rc<Self>, op: Op) -> Operation {
        let token = self.pending.borrow_mut().insert(Pending::Waiting(None));
        self.backend.borrow_mut().submit(token, op);
        Operation { reactor: self.clone(), token }
    }

    /// Waits until the clock shows `ns`.
    pub fn sleep_until(self: &Rc<Self>, ns: u64) -> Sleep {
        self.timer_count.set(self.timer_count.get() + 1);
        Sleep { reactor: self.clone(), key: (ns, self.timer_count.get()) }
    }

    /// Delivers ended operations and timers that are due. Returns whether there were any.
    pub fn poll(&self) -> bool {
        self.look(false, || {})
    }

    /// Sleeps until there are ended operations or timers that are due (or an unpark), and delivers them. `awake` is called
    /// in between: what is delivered wakes tasks of a thread that sleeps no longer.
    pub fn wait(&self, awake: impl FnOnce()) {
        self.look(true, awake);
    }

    fn look(&self, wait: bool, awake: impl FnOnce()) -> bool {
        let next = self.timers.borrow().keys().next().map(|key| key.0);
        let mut ended = self.ended.take();
        self.backend.borrow_mut().poll(wait, next, &mut ended);
        awake();
        let mut any = !ended.is_empty();
        for (token, completion) in ended.drain(..) {
            self.deliver(token, completion);
        }
        self.ended.replace(ended);
        if next.is_some() {
            any |= self.fire_timers();
        }
        any
    }

    fn deliver(&self, token: usize, completion: Completion) {
        let mut pending = self.pending.borrow_mut();
        match std::mem::replace(&mut pending[token], Pending::Ended(completion)) {
            Pending::Waiting(Some(waker)) => {
                drop(pending);
                waker.wake();
            }
            Pending::Waiting(None) | Pending::Ended(_) | Pending::Taken => {}
            Pending::Orphan => {
                pending.remove(token);
            }
        }
    }

    fn fire_timers(&self) -> bool {
        let now = self.now_ns();
        let mut any = false;
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(entry) = timers.first_entry().filter(|entry| entry.key().0 <= now) else { break };
            let waker = entry.remove();
            drop(timers);
            waker.wake();
            any = true;
        }
        any
    }
}

/// An operation under way. Dropping it lets the operation end by itself.
#[must_use]
pub struct Operation {
    reactor: Rc<Reactor>,
    token: usize,
}

impl Future for Operation {
    type Output = Completion;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let mut pending = self.reactor.pending.borrow_mut();
        match &mut pending[self.token] {
            state @ Pending::Ended(_) => match std::mem::replace(state, Pending::Taken) {
                Pending::Ended(completion) => Poll::Ready(completion),
                _ => unreachable!("matched above"),
            },
            state => {
                *state = Pending::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut pending = self.reactor.pending.borrow_mut();
        match pending[self.token] {
            Pending::Waiting(_) => pending[self.token] = Pending::Orphan,
            Pending::Ended(_) | Pending::Taken | Pending::Orphan => {
                pending.remove(self.token);
            }
        }
    }
}

/// A wait for a moment.
#[must_use]
pub struct Sleep {
    reactor: Rc<Reactor>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.reactor.now_ns() >= self.key.0 {
            return Poll::Ready(());
        }
        self.reactor.timers.borrow_mut().insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.reactor.timers.borrow_mut().remove(&self.key);
    }
}
