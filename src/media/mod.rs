//! Block media: how the engine reads and writes the SSD (or file) under a pool.
//!
//! ```text
//!   log, recovery, map ── Media ── Reactor ── UringBackend ── Device (file or block device, locked)
//!                                     └────── simulated media
//! ```
//!
//! **Invariants.** The contract of [`crate::env::reactor`]: whole transfers or an error, completion is not durability,
//! operations own their buffers. Offsets and lengths are multiples of the medium's block (asserted: they come from our
//! own arithmetic); ranges are checked (they may come from bytes on the medium).
//!
//! **Failure.** [`ErrorKind::OutOfRange`] before anything is done; otherwise what the backend reports.
//!
//! **Not here:** the failure latch (I11), retries, what the bytes mean.

pub mod device;
mod lock;
mod reading;
pub mod signature;
pub mod uring;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use crate::buf::AlignedBuf;
use crate::env::reactor::{Completion, IoBuf, Op, Operation};
use crate::env::{FileId, Reactor};
use crate::error::{Error, ErrorKind, Result};

pub use device::{Access, Device, DeviceKind, Identity, create_file};
pub use reading::Reading;
pub use signature::Signature;
pub use uring::{Registration, Registry, UringBackend};

/// What a medium was asked to do so far.
#[derive(Debug, Default)]
pub struct MediaStats {
    /// Bytes of reads.
    pub read_bytes: Cell<u64>,
    /// Bytes of writes.
    pub written_bytes: Cell<u64>,
    /// Reads.
    pub reads: Cell<u64>,
    /// Writes.
    pub writes: Cell<u64>,
    /// Flushes.
    pub flushes: Cell<u64>,
}

/// A medium as the engine uses it. Cheap to clone; belongs to the core's thread.
///
/// Operations start when the method is called, not when the future is first polled; a dropped future lets its operation
/// end by itself.
#[derive(Clone)]
pub struct Media(Rc<Inner>);

struct Inner {
    reactor: Rc<Reactor>,
    file: FileId,
    size: Cell<u64>,
    block: u32,
    lazy: bool,
    stats: MediaStats,
    /// What reads find instead of what is on the medium.
    patches: Rc<[Patch]>,
    /// What keeps the medium registered, if it may go while the backend runs.
    registration: Option<Rc<Registration>>,
}

/// Bytes that are seen at a place of the medium without being there.
pub struct Patch {
    /// Where.
    pub offset: u64,
    /// What.
    pub bytes: AlignedBuf,
}

impl Media {
    /// The medium `file` of the reactor's backend: `size` bytes in logical blocks of `block`. `lazy` says that the first
    /// write to a place costs its filesystem more than later ones.
    #[must_use]
    pub fn new(reactor: Rc<Reactor>, file: FileId, size: u64, block: u32, lazy: bool) -> Self {
        Self::of(reactor, file, size, block, lazy, None)
    }

    /// As [`Media::new`], of a medium that is let go of with the last clone.
    #[must_use]
    pub fn for_now(reactor: Rc<Reactor>, registration: Registration, size: u64, block: u32) -> Self {
        Self::of(reactor, registration.file(), size, block, false, Some(Rc::new(registration)))
    }

    fn of(
        reactor: Rc<Reactor>,
        file: FileId,
        size: u64,
        block: u32,
        lazy: bool,
        registration: Option<Rc<Registration>>,
    ) -> Self {
        assert!(block.is_power_of_two() && block >= 512, "block of {block}");
        let (stats, patches) = (MediaStats::default(), Rc::default());
        let size = Cell::new(size);
        Self(Rc::new(Inner { reactor, file, size, block, lazy, stats, patches, registration }))
    }

    /// The same medium with `patches` laid over it, for those who only look: writes are refused.
    #[must_use]
    pub fn patched(&self, patches: Vec<Patch>) -> Self {
        let Inner { reactor, file, size, block, lazy, registration, .. } = &*self.0;
        let (reactor, stats, patches) = (reactor.clone(), MediaStats::default(), patches.into());
        let (size, registration) = (size.clone(), registration.clone());
        let (file, block, lazy) = (*file, *block, *lazy);
        Self(Rc::new(Inner { reactor, file, size, block, lazy, stats, patches, registration }))
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size.get()
    }

    /// The medium has become larger.
    pub fn grow(&self, size: u64) {
        self.0.size.set(size.max(self.0.size.get()));
    }

    /// Bytes of a logical block.
    #[must_use]
    pub fn block(&self) -> u32 {
        self.0.block
    }

    /// Whether the first write to a place costs more than later ones, as in a file.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        self.0.lazy
    }

    /// Whether the whole range was written before. `false` when that is not known.
    #[must_use]
    pub fn is_written(&self, offset: u64, len: u64) -> bool {
        self.0.reactor.is_written(self.0.file, offset, len)
    }

    /// What it was asked to do so far.
    #[must_use]
    pub fn stats(&self) -> &MediaStats {
        &self.0.stats
    }

    /// Fills `buf[..len]` from `offset`. The buffer comes back in any case; after an error its content is anything.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], or what the medium reports.
    pub fn read(&self, offset: u64, buf: AlignedBuf, len: usize) -> Reading {
        self.read_into(offset, buf, 0, len)
    }

    /// Fills `buf[start..start + len]` from `offset`; otherwise as [`Media::read`]. `start` is a multiple of the block.
    ///
    /// # Errors
    /// As [`Media::read`].
    pub fn read_into(&self, offset: u64, buf: AlignedBuf, start: usize, len: usize) -> Reading {
        assert!(start.is_multiple_of(self.0.block as usize), "{len} bytes at {start} of {buf:?}");
        assert!(start.checked_add(len).is_some_and(|end| end <= buf.len()), "{len} bytes at {start} of {buf:?}");
        if let Err(error) = self.check("reading", offset, len as u64) {
            return Reading::refused(buf, error);
        }
        add(&self.0.stats.reads, 1);
        add(&self.0.stats.read_bytes, len as u64);
        let operation = self.start(Op::Read { file: self.0.file, offset, buf, start, len });
        let patches = (!self.0.patches.is_empty()).then(|| self.0.patches.clone());
        Reading::under(operation, patches, offset, start..start + len)
    }

    /// Writes the first `len` bytes of `buf` at `offset`. The buffer comes back in any case; after an error the range
    /// holds anything.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], or what the medium reports.
    pub fn write(&self, offset: u64, buf: IoBuf, len: usize) -> impl Future<Output = (IoBuf, Result<()>)> + use<> {
        self.start_write(offset, buf, len, false)
    }

    /// Writes as [`Media::write`] does; what has ended well is durable.
    ///
    /// # Errors
    /// As [`Media::write`].
    pub fn write_durable(
        &self,
        offset: u64,
        buf: IoBuf,
        len: usize,
    ) -> impl Future<Output = (IoBuf, Result<()>)> + use<> {
        self.start_write(offset, buf, len, true)
    }

    fn start_write(
        &self,
        offset: u64,
        buf: IoBuf,
        len: usize,
        durable: bool,
    ) -> impl Future<Output = (IoBuf, Result<()>)> + use<> {
        let started = match self.check("writing", offset, len as u64) {
            Ok(()) if !self.0.patches.is_empty() => {
                Err((buf, Error::new(ErrorKind::ReadOnly, "this view of the medium is only looked at")))
            }
            Ok(()) => {
                add(&self.0.stats.writes, 1);
                add(&self.0.stats.written_bytes, len as u64);
                Ok(self.start(Op::Write { file: self.0.file, offset, buf, len, durable }))
            }
            Err(error) => Err((buf, error)),
        };
        async move {
            match started {
                Ok(operation) => match operation.await {
                    Completion { result, buf: Some(buf) } => (buf, result.map(drop)),
                    other => unreachable!("a write gives its buffer back: {other:?}"),
                },
                Err((buf, error)) => (buf, Err(error)),
            }
        }
    }

    /// Makes all writes that have completed durable.
    ///
    /// # Errors
    /// What the medium reports; after that nothing is known of writes since the last flush.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + use<> {
        add(&self.0.stats.flushes, 1);
        let operation = self.start(Op::Flush { file: self.0.file });
        async move { operation.await.result.map(drop) }
    }

    /// Takes space for a range, so that writing it cannot end in `ENOSPC`. Keeps content.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], [`ErrorKind::NoSpace`], [`ErrorKind::Unsupported`] (the filesystem cannot).
    pub fn allocate(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>> + use<> {
        self.on_range("allocating", Op::Allocate { file: self.0.file, offset, len }, offset, len)
    }

    /// Gives up the content of a range: it holds anything afterwards (where the medium can do that, zeros).
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], or what the medium reports.
    pub fn discard(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>> + use<> {
        self.on_range("discarding", Op::Discard { file: self.0.file, offset, len }, offset, len)
    }

    fn on_range(&self, what: &'static str, op: Op, offset: u64, len: u64) -> impl Future<Output = Result<()>> + use<> {
        let started = self.check(what, offset, len).map(|()| self.start(op));
        async move { started?.await.result.map(drop) }
    }

    fn start(&self, op: Op) -> Operation {
        self.0.reactor.submit(op)
    }

    fn check(&self, what: &str, offset: u64, len: u64) -> Result<()> {
        let block = u64::from(self.0.block);
        assert!(offset.is_multiple_of(block) && len.is_multiple_of(block) && len > 0, "{what} {len} bytes at {offset}");
        if offset.checked_add(len).is_none_or(|end| end > self.0.size.get()) {
            let size = self.0.size.get();
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{what} {len} bytes at {offset}: the medium has {size}"),
            ));
        }
        Ok(())
    }
}

impl Patch {
    /// Lays the part of the patch that falls into `bytes`, which were read at `offset`, over them.
    fn lay_over(&self, offset: u64, bytes: &mut [u8]) {
        let start = self.offset.max(offset);
        let end = (self.offset + self.bytes.len() as u64).min(offset + bytes.len() as u64);
        if start < end {
            let within = |from: u64| {
                let at = |n: u64| usize::try_from(n - from).unwrap_or(usize::MAX);
                at(start)..at(end)
            };
            bytes[within(offset)].copy_from_slice(&self.bytes[within(self.offset)]);
        }
    }
}

fn add(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get() + by);
}
