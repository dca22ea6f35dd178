//! Files to measure in, and a log in a namespace.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use plica::core::request::NamespaceClient;
use plica::error::{Error, Result};
use plica::media::create_file;
use plica::pool::{NamespaceJournal, Pool};
use ublk_tests::bench::{BLOCK, Bench, Blocks, Lane, Meter, Serve, namespace, on_file, ratio, write_first};

/// Bytes of the journal.
pub(crate) const JOURNAL: u64 = 128 << 20;
/// Bytes of the ring.
pub(crate) const RING: u64 = 64 << 20;
/// Blocks of a write to it.
const RECORD: u64 = 2;

/// What tier 0 is on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Nothing,
    Memory,
    StandIn,
}

/// Temporary directories, removed with this.
pub(crate) struct Place {
    disk: tempfile::TempDir,
    memory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(disk: &Path, memory: &Path) -> Result<Self> {
        let directory = |under: &Path| {
            tempfile::TempDir::new_in(under).map_err(|e| Error::io(format!("a directory in {}", under.display()), e))
        };
        Ok(Self { disk: directory(disk)?, memory: directory(memory)? })
    }

    /// A new file of the disk, written once: the first write to a place costs the filesystem more than the next.
    pub(crate) fn file(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = new_file(self.disk.path().join(name), bytes)?;
        on_file(&path, None, |bench| async move { write_first(&bench.media, bytes, &Blocks::half_zeros()).await })?;
        Ok(path)
    }

    /// Runs `body` on a new pool, with a journal or without.
    pub(crate) fn on_pool<T: 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        bytes: u64,
        on: On,
        body: impl FnOnce(Bench, Rc<Pool>) -> F + 'static,
    ) -> Result<T> {
        let pool = self.file("pool", bytes)?;
        let journal = match on {
            On::Nothing => None,
            On::Memory => Some(new_file(self.memory.path().join("journal"), JOURNAL)?),
            On::StandIn => Some(self.file("journal", JOURNAL)?),
        };
        on_file(&pool, journal.as_deref(), |bench| async move {
            bench.create().await?;
            let pool = bench.open(Serve::default()).await?;
            body(bench, pool).await
        })
    }
}

fn new_file(path: PathBuf, bytes: u64) -> Result<PathBuf> {
    drop(std::fs::remove_file(&path));
    create_file(&path, bytes)?;
    Ok(path)
}

/// What the journal did for a namespace.
pub(crate) fn journal_of(pool: &Pool, name: &str) -> NamespaceJournal {
    let namespaces = pool.status().namespaces;
    namespaces.iter().find(|namespace| namespace.name == name).map(|namespace| namespace.journal).unwrap_or_default()
}

/// Percent of what a namespace wrote between two moments that went to the pool: moved there, or written past the journal.
pub(crate) fn reached_pool(before: &NamespaceJournal, after: &NamespaceJournal) -> f64 {
    let destaged = after.destaged - before.destaged;
    let bypassed = after.bypassed - before.bypassed;
    ratio(100 * (destaged + bypassed), after.acknowledged - before.acknowledged + bypassed)
}

/// A log in a namespace: a ring that is rewritten in small writes, each flushed.
pub(crate) struct Log {
    client: NamespaceClient,
    next: Cell<u64>,
    blocks: Blocks,
}

impl Log {
    pub(crate) async fn new(pool: &Pool) -> Result<Rc<Self>> {
        pool.create_namespace(&namespace("log", RING / BLOCK as u64, 2)).await?;
        Ok(Rc::new(Self { client: pool.client("log")?, next: Cell::new(0), blocks: Blocks::half_zeros() }))
    }

    /// Appends until the time is over or `records` are written.
    pub(crate) async fn append(&self, meter: &Meter, records: u64) -> Result<()> {
        let mut lane = Lane::new(usize::try_from(RECORD).unwrap_or(1) * BLOCK);
        let mut left = records;
        while left > 0 && meter.goes_on() {
            left -= 1;
            self.blocks.fill(lane.bytes_mut());
            let lba = self.next.get();
            self.next.set((lba + RECORD) % (RING / BLOCK as u64));
            let commit = async {
                lane.write(&self.client, lba).await?;
                lane.flush(&self.client).await
            };
            meter.time(commit).await?;
        }
        Ok(())
    }

    /// Records of one pass.
    pub(crate) fn records() -> u64 {
        RING / BLOCK as u64 / RECORD
    }
}
