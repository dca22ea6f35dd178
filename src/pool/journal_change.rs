//! A pool is given a journal, and does without it again; served or not.
//!
//! ```text
//!   given: segments and headers made ready ─► superblocks name it ─► writes go there
//!   taken: nothing is admitted, all is moved to the pool, no leaf is marked ─► superblocks forget it ─► it is let go of
//! ```
//!
//! **Invariants.** The superblocks name a journal only after its header is durable, and forget it only after a root without
//! marks and entries of it is.
//!
//! **Failure.** Until the superblocks are written the pool is as before. That they cannot be written latches a pool that is
//! served (I11).
//!
//! **Not here:** finding it again (`journal`), what the core does (`core`).

use super::Pool;
use super::copies::{Flush, layout_of, read_superblock, write_superblock};
use super::journal::write_header;
use crate::buf::AlignedBuf;
use crate::env::Env;
use crate::env::reactor::IoBuf;
use crate::env::sync::yield_now;
use crate::error::Result;
use crate::fail;
use crate::format::journal::{JOURNAL_HEADERS, JournalHeader, journal_segment};
use crate::format::superblock::{JOURNAL_PATH_BYTES, JournalName, Superblock};
use crate::limits::{BLOCK_BYTES, JOURNAL_SEGMENTS_MIN};
use crate::media::Media;
use crate::pmem::{Journal, JournalKind};
use crate::recovery::newest_root;
use crate::units::{JournalId, PoolId, SegmentId, SessionId};

/// Segments that are made ready before others have their turn.
const SEGMENTS_A_TURN: usize = 64;

/// Makes `journal` the journal of the pool, whose newest root is of `session`, and returns what the superblock says of it.
///
/// # Errors
/// It is too small, its path too long, or it cannot be written.
pub async fn give_journal(
    env: &Env,
    journal: &Journal,
    pool: PoolId,
    session: SessionId,
    path: &std::path::Path,
) -> Result<JournalName> {
    let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec();
    if path.len() > JOURNAL_PATH_BYTES {
        fail!(Config, "the path of the journal has {} bytes; at most {JOURNAL_PATH_BYTES} fit", path.len());
    }
    let segment_count = JournalHeader::segments_in(journal.size());
    if segment_count < JOURNAL_SEGMENTS_MIN {
        let least = JournalHeader::bytes_of(JOURNAL_SEGMENTS_MIN);
        fail!(Config, "{} bytes are too small for a journal: it takes at least {least}", journal.size());
    }
    let mut id = JournalId::default();
    env.random(&mut id.0)?;
    // 1. no header, and nothing of an earlier life in any segment
    let mut zeros = IoBuf::Owned(AlignedBuf::zeroed(BLOCK_BYTES));
    let headers = (0..JOURNAL_HEADERS).map(JournalHeader::offset);
    for (turn, offset) in headers.chain((0..segment_count).map(|id| journal_segment(SegmentId(id)))).enumerate() {
        let (returned, result) = journal.persist(offset, zeros, BLOCK_BYTES).await;
        result?;
        zeros = returned;
        // memory is written at once, and the pool may be served meanwhile
        if turn % SEGMENTS_A_TURN == 0 {
            yield_now().await;
        }
    }
    // 2. the header
    let header = JournalHeader { pool, id, sequence: 1, segment_count, session, previous: session };
    write_header(journal, &header).await?;
    Ok(JournalName { id, volatile: journal.kind() == JournalKind::Volatile, path })
}

/// Gives a pool that nobody serves a journal.
///
/// # Errors
/// There is no pool, it has a journal, or a medium failed.
pub async fn add_journal(env: &Env, media: &Media, journal: &Journal, path: &std::path::Path) -> Result<JournalId> {
    let (mut superblock, _) = read_superblock(media).await?;
    if let Some(name) = &superblock.journal {
        fail!(Exists, "the pool has journal {} already; plica journal remove takes it away", name.id);
    }
    let (root, _) = newest_root(media, &layout_of(&superblock), superblock.pool).await?;
    let name = give_journal(env, journal, superblock.pool, root.session, path).await?;
    let id = name.id;
    superblock.journal = Some(name);
    superblock.sequence += 1;
    write_superblock(Flush::Alone(media), &superblock).await?;
    Ok(id)
}

impl Pool {
    /// Whether the pool could be given a journal.
    ///
    /// # Errors
    /// It has one, or takes no writes.
    pub fn check_takes_journal(&self) -> Result<()> {
        self.core.latch.check()?;
        match &*self.journal.borrow() {
            Some(name) => {
                fail!(Exists, "the pool has journal {} already; plica journal remove takes it away", name.id)
            }
            None => Ok(()),
        }
    }

    /// Gives the pool, which is served, a journal: from then on writes may go there. `path` is where it is looked for later.
    ///
    /// # Errors
    /// The pool has a journal, or takes no writes; it is too small, or cannot be written. A superblock that cannot be written
    /// latches the pool: nobody knows then which of the two counts (I11).
    pub async fn add_journal(&self, journal: Journal, path: &std::path::Path) -> Result<JournalId> {
        let core = &self.core;
        self.check_takes_journal()?;
        // 1. a header of this session, whose root is durable: what opens the pool after a death finds it to be the right one
        let name = give_journal(&core.env, &journal, core.pool, core.session, path).await?;
        // 2. the superblocks name it
        let before = self.superblock.borrow().clone();
        let superblock = Superblock { journal: Some(name.clone()), sequence: before.sequence + 1, ..before };
        self.store_superblock(superblock).await?;
        // 3. writes go there
        let (id, segments) = (name.id, JournalHeader::segments_in(journal.size()));
        *self.journal.borrow_mut() = Some(name);
        core.attach_journal(journal, segments);
        tracing::info!("journal {id} was given to the pool");
        Ok(id)
    }

    /// Moves all that is in the journal to the pool.
    ///
    /// # Errors
    /// There is no journal, no room in the pool, or a medium failed.
    pub async fn drain_journal(&self) -> Result<()> {
        self.core.drain_journal(false).await
    }

    /// Moves all that is in the journal to the pool, which does without it from then on.
    ///
    /// # Errors
    /// As [`Pool::drain_journal`]; the pool keeps its journal then. A superblock that cannot be written latches the pool (I11).
    pub async fn remove_journal(&self) -> Result<()> {
        if self.journal.borrow().is_none() {
            fail!(NotFound, "this pool has no journal");
        }
        self.core.drain_journal(true).await?;
        let before = self.superblock.borrow().clone();
        let superblock = Superblock { journal: None, sequence: before.sequence + 1, ..before };
        self.store_superblock(superblock).await?;
        *self.journal.borrow_mut() = None;
        self.core.detach_journal().await;
        Ok(())
    }

    /// Writes the superblock of a pool that is served. When that fails nobody knows which of the two counts: the latch closes.
    async fn store_superblock(&self, superblock: Superblock) -> Result<()> {
        if let Err(error) = write_superblock(Flush::Served(&self.core), &superblock).await {
            self.core.become_read_only("writing the superblock", &error);
            return Err(error);
        }
        *self.superblock.borrow_mut() = superblock;
        Ok(())
    }
}
