//! A pool made larger while it is open: more segments, and its second copies at its new end.
//!
//! ```text
//!   1. roots stand still ─► front copies of table and roots copied to the new end ─► flush
//!   2. superblock to the new end ─► flush
//!   3. superblock at the front ─► flush: the pool has its new size
//!   4. the new segments are free
//! ```
//!
//! **Invariants.** Until 3 the superblock at the front names the old end, where the second copies are whole and up to date: nobody
//! looks at the new end. From 3 on it names the new one, where they are too. Torn, it is found at the new end, which is that of the
//! medium. What is at the old end is part of a segment from then on, and nothing goes there before (C21).
//!
//! **Failure.** In 1 and 2 the pool stays as it was. In 3 the latch closes: the next start knows which it is.

use super::copies::layout_of;
use super::open::Pool;
use crate::buf::AlignedBuf;
use crate::env::reactor::IoBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::layout::{COPIES, END_BYTES, Layout, NAMESPACE_TABLE_BYTES, ROOT_BYTES, ROOT_SLOTS};
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::limits::{BLOCK_SIZE, SEGMENTS_MAX};

impl Pool {
    /// Grows the pool to the end of its medium, which has `bytes` by now. Returns the segments that it gained.
    ///
    /// # Errors
    /// Not a segment is gained, or the medium failed.
    pub async fn grow(&self, bytes: u64) -> Result<u32> {
        self.core.latch.check()?;
        let old = self.superblock.borrow().clone();
        let new = larger(&old, bytes)?;
        self.core.media.grow(bytes);
        let (from, to) = (layout_of(&old), layout_of(&new));
        self.core.begin_checkpoint().await;
        let result = self.move_end(&from, &to, &new).await;
        if result.is_ok() {
            *self.superblock.borrow_mut() = new.clone();
            self.core.enlarge(to.pool_bytes, new.segment_count);
        }
        self.core.end_checkpoint();
        let gained = new.segment_count - old.segment_count;
        result.map(|()| gained)
    }

    async fn move_end(&self, from: &Layout, to: &Layout, superblock: &Superblock) -> Result<()> {
        // 1. the parts, nobody looks for them there yet
        self.copy(from.namespace_table(0), to.namespace_table(1), NAMESPACE_TABLE_BYTES).await?;
        for slot in 0..ROOT_SLOTS {
            self.copy(from.root(slot, 0), to.root(slot, 1), ROOT_BYTES).await?;
        }
        self.core.flush_now().await?;
        // 2. and 3. the superblock, the one that counts last
        for copy in (0..COPIES).rev() {
            let buf = IoBuf::Owned(AlignedBuf::copied(&superblock.encode()));
            let result = self.core.media.write(to.superblock(copy), buf, SUPERBLOCK_BYTES).await.1;
            if copy == 0
                && let Err(error) = &result
            {
                self.core.become_read_only("writing the superblock", error);
            }
            result?;
            self.core.flush_now().await?;
        }
        Ok(())
    }

    async fn copy(&self, from: u64, to: u64, len: usize) -> Result<()> {
        let (buf, result) = self.core.media.read(from, AlignedBuf::zeroed(len), len).await;
        result?;
        self.core.media.write(to, IoBuf::Owned(buf), len).await.1
    }
}

/// The superblock of the pool on a medium of so many bytes.
fn larger(old: &Superblock, bytes: u64) -> Result<Superblock> {
    let pool_bytes = bytes / u64::from(BLOCK_SIZE) * u64::from(BLOCK_SIZE);
    let count = pool_bytes.saturating_sub(2 * END_BYTES) / u64::from(old.segment_bytes);
    let segment_count = u32::try_from(count).unwrap_or(u32::MAX).min(SEGMENTS_MAX);
    if segment_count <= old.segment_count {
        fail!(
            Config,
            "the pool has {} bytes in {} segments of {}, and would gain none with {bytes} bytes",
            old.pool_bytes,
            old.segment_count,
            old.segment_bytes
        );
    }
    // the copies at the new end must not lie in what is used until the superblock names them
    if pool_bytes < old.pool_bytes + END_BYTES {
        return Err(Error::new(ErrorKind::Config, format!("a pool grows by at least {END_BYTES} bytes")));
    }
    let sequence = old.sequence + 1;
    Ok(Superblock { pool_bytes, segment_count, sequence, ..old.clone() })
}
