//! One operation in the kernel's hands: its submission entry, and what a result means for it.
//!
//! **Invariants.** A flight owns its buffer, and keeps its medium open, from submission to its last completion. Block I/O
//! ends whole or with an error: a short transfer goes on from the last whole block. Retries without progress are bounded
//! (I10).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::registry::{Registered, Registry};
use crate::env::reactor::{Completion, IoBuf, Op};
use crate::error::{Error, ErrorKind, Result};

/// How often an operation is submitted again without having moved a byte.
const RETRIES_MAX: u32 = 64;
/// Most bytes of one submission; more is continued. A multiple of every block size.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// What a result means.
pub(super) enum Outcome {
    /// Submit again for the rest.
    Again,
    /// It ended so.
    Ended(Result<usize>),
}

/// An operation between submission and its last completion.
pub(super) struct Flight {
    token: usize,
    op: Op,
    /// The medium, of block I/O.
    file: Option<Rc<Registered>>,
    done: usize,
    retries: u32,
    started_ns: u64,
}

impl Flight {
    pub(super) fn new(token: usize, op: Op, files: &Registry, now_ns: u64) -> Self {
        let file = match &op {
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Allocate { file, .. }
            | Op::Discard { file, .. } => Some(files.get(*file)),
            Op::Recv { .. } | Op::Send { .. } | Op::Accept { .. } => None,
        };
        Self { token, op, file, done: 0, retries: 0, started_ns: now_ns }
    }

    /// When it was submitted.
    pub(super) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// The medium that it flushes, if it is a flush.
    pub(super) fn flushes(&self) -> Option<&Registered> {
        if let Op::Flush { .. } = self.op { self.file.as_deref() } else { None }
    }

    /// Whether it waits for somebody else, perhaps for ever.
    pub(super) fn waits(&self) -> bool {
        matches!(self.op, Op::Recv { .. } | Op::Send { .. } | Op::Accept { .. })
    }

    /// The submission entry for what is left to do. Its pointers are into the flight's own buffer, which stays where
    /// it is on the heap however the flight moves.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let done = self.done;
        // of block I/O; sockets have their own
        let fd = Fd(self.file.as_ref().map_or(-1, |file| file.fd.as_raw_fd()));
        let allocates = self.file.as_ref().is_some_and(|file| file.allocates);
        match &mut self.op {
            Op::Read { offset, buf, start, len, .. } => {
                let rest = &mut buf[*start + done..*start + *len];
                let bytes = bytes_of(rest.len());
                opcode::Read::new(fd, rest.as_mut_ptr(), bytes).offset(*offset + done as u64).build()
            }
            Op::Write { offset, buf, len, durable, .. } => {
                let sync = if *durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                let rest = match buf {
                    IoBuf::Owned(buf) => &buf[done..*len],
                    IoBuf::Slot(slot) => &slot.bytes()[done..*len],
                };
                let bytes = bytes_of(rest.len());
                let write = opcode::Write::new(fd, rest.as_ptr(), bytes);
                write.offset(*offset + done as u64).rw_flags(sync.bits().cast_signed()).build()
            }
            Op::Flush { .. } => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Op::Allocate { .. } if !allocates => opcode::Nop::new().build(),
            Op::Allocate { offset, len, .. } => {
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode(FallocateFlags::KEEP_SIZE)).build()
            }
            Op::Discard { offset, len, .. } => {
                let punch = mode(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE);
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(punch).build()
            }
            Op::Recv { socket, buf, start } => {
                let room = &mut buf[*start..];
                opcode::Recv::new(Fd(socket.as_raw_fd()), room.as_mut_ptr(), bytes_of(room.len())).build()
            }
            Op::Send { socket, buf, start, end } => {
                let data = &buf[*start..*end];
                // a client that went away is an error of this operation, not a signal to the process
                let flags = rustix::net::SendFlags::NOSIGNAL.bits().cast_signed();
                opcode::Send::new(Fd(socket.as_raw_fd()), data.as_ptr(), bytes_of(data.len())).flags(flags).build()
            }
            Op::Accept { socket, .. } => {
                let flags = rustix::net::SocketFlags::CLOEXEC.bits().cast_signed();
                let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
                opcode::Accept::new(Fd(socket.as_raw_fd()), address, length).flags(flags).build()
            }
        }
    }

    /// Takes the kernel's result of one submission.
    pub(super) fn advance(&mut self, result: i32) -> Outcome {
        let Ok(moved) = usize::try_from(result) else {
            return self.failed(Errno::from_raw_os_error(result.saturating_neg()));
        };
        match (&self.op, self.file.clone()) {
            (Op::Read { len, .. } | Op::Write { len, .. }, Some(file)) => {
                let len = *len;
                self.transferred(moved, len, &file)
            }
            (Op::Accept { accepted, .. }, _) => {
                #[expect(unsafe_code, reason = "a descriptor comes as a number")]
                // SAFETY: the kernel has just made this descriptor for this operation, and nobody else knows it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(result) };
                // a slot that is taken is a caller's mistake: the connection is closed
                drop(accepted.set(descriptor));
                Outcome::Ended(Ok(0))
            }
            _ => Outcome::Ended(Ok(moved)),
        }
    }

    fn transferred(&mut self, moved: usize, len: usize, file: &Registered) -> Outcome {
        let reached = (self.done + moved).min(len);
        if reached == len {
            return Outcome::Ended(Ok(len));
        }
        // the rest of a torn block is done again: direct I/O only starts at blocks
        let whole = reached - reached % file.block;
        if whole > self.done {
            self.done = whole;
            self.retries = 0;
            return Outcome::Again;
        }
        if moved == 0 && matches!(self.op, Op::Read { .. }) {
            let error = Error::new(ErrorKind::Io, format!("{}: the medium ends there", self.attempt(file)));
            return Outcome::Ended(Err(error));
        }
        self.again_or(|attempt| Error::new(ErrorKind::Io, format!("{attempt}: no progress")), file)
    }

    fn failed(&mut self, errno: Errno) -> Outcome {
        let file = self.file.clone();
        match (errno, &self.op, file.as_deref()) {
            (Errno::INTR | Errno::AGAIN, _, Some(file)) => self.again_or(|attempt| Error::io(attempt, errno), file),
            (Errno::INTR, _, None) => Outcome::Again,
            // giving up content is a hint; a medium that cannot take it keeps the content
            (Errno::OPNOTSUPP, Op::Discard { .. }, _) => Outcome::Ended(Ok(0)),
            (_, _, Some(file)) => Outcome::Ended(Err(Error::io(self.attempt(file), errno))),
            (_, Op::Accept { .. }, None) => Outcome::Ended(Err(Error::io("accepting a connection", errno))),
            (_, _, None) => Outcome::Ended(Err(Error::io("talking to a client", errno))),
        }
    }

    fn again_or(&mut self, error: impl FnOnce(String) -> Error, file: &Registered) -> Outcome {
        self.retries += 1;
        if self.retries <= RETRIES_MAX {
            return Outcome::Again;
        }
        Outcome::Ended(Err(error(self.attempt(file))))
    }

    /// What was attempted, for a message.
    fn attempt(&self, file: &Registered) -> String {
        let name = &file.name;
        match &self.op {
            Op::Read { offset, len, .. } => format!("{name}: reading {len} bytes at {offset}"),
            Op::Write { offset, len, .. } => format!("{name}: writing {len} bytes at {offset}"),
            Op::Flush { .. } => format!("{name}: flushing"),
            Op::Allocate { offset, len, .. } => format!("{name}: allocating {len} bytes at {offset}"),
            Op::Discard { offset, len, .. } => format!("{name}: discarding {len} bytes at {offset}"),
            Op::Recv { .. } | Op::Send { .. } | Op::Accept { .. } => name.clone(),
        }
    }

    /// The end: what to report, and under which token.
    pub(super) fn end(self, result: Result<usize>) -> (usize, Completion) {
        let buf = match self.op {
            Op::Read { buf, .. } | Op::Recv { buf, .. } | Op::Send { buf, .. } => Some(IoBuf::Owned(buf)),
            Op::Write { buf, .. } => Some(buf),
            Op::Flush { .. } | Op::Allocate { .. } | Op::Discard { .. } | Op::Accept { .. } => None,
        };
        (self.token, Completion { result, buf })
    }
}

fn bytes_of(len: usize) -> u32 {
    u32::try_from(len.min(TRANSFER_BYTES_MAX)).expect("bounded above")
}

fn mode(flags: FallocateFlags) -> i32 {
    flags.bits().cast_signed()
}
