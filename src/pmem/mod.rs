//! The medium of tier 0: what is written to it is durable when the write ends.
//!
//! ```text
//!   core, pool ── Journal ─┬─ Memory ─┬─ dax: mapped persistent memory, cache lines written back, a fence
//!                          │          ├─ volatile: a mapped file of a tmpfs
//!                          │          └─ simulated: any line that was not persisted may survive or not
//!                          └─ block: a file or device as a stand-in, one synchronous write
//! ```
//!
//! **Invariants.** When [`Journal::persist`] has ended well the bytes survive the machine (volatile: the daemon). Until
//! then any cache line, or sector, of the range may be old or new. Offsets and lengths are multiples of 4 KiB. The medium
//! is locked as a pool's is.
//!
//! **Failure.** Of a block medium: what it reports. Persistent memory reports none: a line that it lost kills the process
//! when it is read (SIGBUS), which is a death of the daemon.
//!
//! **Not here:** what the bytes mean, what goes here and what does not (`core`).

pub mod dax;
mod open;

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use crate::buf::AlignedBuf;
use crate::canary::{self, Rule};
use crate::env::reactor::IoBuf;
use crate::error::Result;
use crate::media::{Media, Reading};

pub use open::{JournalDevice, open_journal};

/// What a journal is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalKind {
    /// Persistent memory.
    Dax,
    /// A file or block device as a stand-in.
    Block,
    /// Memory that does not outlive the machine.
    Volatile,
}

impl fmt::Display for JournalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dax => "dax",
            Self::Block => "block",
            Self::Volatile => "volatile",
        })
    }
}

/// Memory that can be made durable. Ranges are within its length: a [`Journal`] checks them.
pub trait Memory {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads.
    fn load(&self, at: u64, into: &mut [u8]);
    /// Stores.
    fn store(&self, at: u64, bytes: &[u8]);
    /// Returns when all that was stored in the range is durable.
    fn write_back(&self, at: u64, len: usize);
}

/// A tier-0 medium as the engine uses it. Cheap to clone; belongs to the core's thread.
#[derive(Clone)]
pub struct Journal {
    medium: Medium,
    kind: JournalKind,
    written: Rc<Cell<u64>>,
}

#[derive(Clone)]
enum Medium {
    Memory(Rc<dyn Memory>),
    Block(Media),
}

impl Journal {
    /// On memory.
    #[must_use]
    pub fn memory(memory: Rc<dyn Memory>, kind: JournalKind) -> Self {
        Self { medium: Medium::Memory(memory), kind, written: Rc::default() }
    }

    /// On a medium of the reactor's backend.
    #[must_use]
    pub fn block(media: Media) -> Self {
        Self { medium: Medium::Block(media), kind: JournalKind::Block, written: Rc::default() }
    }

    /// What it is on.
    #[must_use]
    pub fn kind(&self) -> JournalKind {
        self.kind
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.medium {
            Medium::Memory(memory) => memory.size(),
            Medium::Block(media) => media.size(),
        }
    }

    /// Bytes of all writes so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written.get()
    }

    /// Fills `buf[..len]` from `offset`. The buffer comes back in any case. The operation starts at once, whenever it is
    /// awaited: recovery has several under way.
    ///
    /// # Errors
    /// What the medium reports.
    pub fn read(
        &self,
        offset: u64,
        buf: AlignedBuf,
        len: usize,
    ) -> impl Future<Output = (AlignedBuf, Result<()>)> + use<> {
        let started = self.start_read(offset, buf, len);
        async move {
            match started {
                Ok(reading) => reading.await,
                Err(buf) => (buf, Ok(())),
            }
        }
    }

    /// Starts filling `buf[..len]` from `offset`. Of memory that has been done (`Err`).
    ///
    /// # Panics
    /// Beyond the end of memory.
    pub fn start_read(&self, offset: u64, mut buf: AlignedBuf, len: usize) -> Result<Reading, AlignedBuf> {
        match &self.medium {
            Medium::Memory(memory) => {
                check(memory.size(), offset, len);
                memory.load(offset, &mut buf[..len]);
                Err(buf)
            }
            Medium::Block(media) => Ok(media.read(offset, buf, len)),
        }
    }

    /// Writes the first `len` bytes of `buf` at `offset`; when it ends well they are durable. The buffer comes back in any
    /// case.
    ///
    /// # Panics
    /// Beyond the end of memory.
    pub async fn persist(&self, offset: u64, buf: IoBuf, len: usize) -> (IoBuf, Result<()>) {
        self.written.set(self.written.get() + len as u64);
        match &self.medium {
            Medium::Memory(memory) => {
                check(memory.size(), offset, len);
                memory.store(offset, buf.bytes(len));
                memory.write_back(offset, len);
                (buf, Ok(()))
            }
            Medium::Block(media) => media.write_durable(offset, buf, len).await,
        }
    }

    /// [`Journal::persist`] for a batch: what a canary leaves in caches.
    ///
    /// # Panics
    /// Beyond the end of memory.
    pub async fn persist_batch(&self, offset: u64, buf: IoBuf, len: usize) -> (IoBuf, Result<()>) {
        match &self.medium {
            Medium::Memory(memory) if canary::is_off(Rule::PersistBeforeAcknowledge) => {
                memory.store(offset, buf.bytes(len));
                (buf, Ok(()))
            }
            Medium::Block(media) if canary::is_off(Rule::PersistBeforeAcknowledge) => {
                media.write(offset, buf, len).await
            }
            _ => self.persist(offset, buf, len).await,
        }
    }

    /// Makes durable what somebody else stored in these ranges, as far as it is there.
    ///
    /// # Errors
    /// What the medium reports.
    pub async fn make_durable(&self, ranges: &[(u64, usize)]) -> Result<()> {
        match &self.medium {
            Medium::Memory(memory) => {
                for (offset, len) in ranges {
                    check(memory.size(), *offset, *len);
                    memory.write_back(*offset, *len);
                }
                Ok(())
            }
            Medium::Block(media) => media.flush().await,
        }
    }
}

fn check(size: u64, offset: u64, len: usize) {
    assert!(offset.checked_add(len as u64).is_some_and(|end| end <= size), "{len} bytes at {offset} of {size}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Executor;
    use crate::env::executor::Fifo;
    use crate::env::reactor::Reactor;
    use crate::media::{Access, Device, UringBackend, create_file};

    #[test]
    fn reads_are_under_way_before_they_are_awaited() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        create_file(&path, 1 << 20).unwrap();
        let device = Device::open(&path, Access::Write).unwrap();
        let mut backend = UringBackend::new().unwrap();
        let file = backend.register(&device);
        let reactor = Reactor::new(Box::new(backend));
        let media = Media::new(reactor.clone(), file, device.size(), device.block(), true);
        let journal = Journal::block(media.clone());
        Executor::new(reactor, Box::new(Fifo::default())).run(async move {
            let reads: Vec<_> = (0..4).map(|n| journal.read(n * 4096, AlignedBuf::zeroed(4096), 4096)).collect();
            // recovery reads a journal's segments several at a time by that
            assert_eq!(media.stats().reads.get(), 4);
            for read in reads {
                read.await.1.unwrap();
            }
        });
    }
}
