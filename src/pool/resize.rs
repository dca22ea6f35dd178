//! Namespaces made larger and smaller while the pool is open.
//!
//! ```text
//!   up:    the table ─► the map ─► requests may use it
//!   down:  requests beyond the new end refused ─► those under way end ─► nothing there (or discarded) ─► all of that durable
//!          in leaf images ─► the table ─► the map
//! ```
//!
//! **Invariants.** The table's switch is the only step that counts. When a smaller size is in it, no record beyond the new end is
//! above the durable replay start, and no image has anything there: what is beyond the end stays a hole, also when the
//! namespace grows again. **Failure.** Before the table is written everything is as it was, but for what `force` discarded.

use std::sync::atomic::Ordering;

use super::open::Pool;
use crate::error::Result;
use crate::fail;
use crate::format::namespaces::NamespaceEntry;
use crate::limits::{BLOCK_SIZE, NAMESPACE_BLOCKS_MAX};
use crate::units::{Lba, LbaRange, NamespaceId};

impl Pool {
    /// Gives a namespace another size, in 4 KiB blocks. With `force` what is beyond a smaller size is discarded; without it
    /// there must be nothing.
    ///
    /// # Errors
    /// No such namespace, a size that it cannot have, or not on this machine, data beyond the new end, or the medium failed.
    pub async fn resize_namespace(&self, name: &str, blocks: u64, force: bool) -> Result<NamespaceEntry> {
        self.core.latch.check()?;
        let id = self.client(name)?.id;
        if blocks == 0 || blocks > NAMESPACE_BLOCKS_MAX {
            fail!(Config, "a namespace has 1 to {NAMESPACE_BLOCKS_MAX} blocks of {BLOCK_SIZE} bytes, not {blocks}");
        }
        let old = self.core.blocks_of(id);
        if blocks < old {
            self.bound(id, blocks);
            let tail = LbaRange { start: Lba(blocks), count: old - blocks };
            if let Err(error) = self.empty_tail(id, tail, force).await {
                self.bound(id, old);
                return Err(error);
            }
        }
        let mut table = self.core.state.borrow().table.clone();
        let Some(entry) = table.entries.iter_mut().find(|entry| entry.id == id) else {
            fail!(NotFound, "no namespace {name:?} in this pool");
        };
        entry.blocks = blocks;
        let entry = entry.clone();
        table.sequence += 1;
        if blocks > old {
            self.check_memory(&table)?;
        }
        self.store_table(table).await?;
        if let Some(namespace) = self.core.state.borrow_mut().namespaces.get_mut(&id) {
            namespace.directory.resize(blocks);
        }
        self.bound(id, blocks);
        Ok(entry)
    }

    /// Requests beyond so many blocks are refused from now on.
    fn bound(&self, id: NamespaceId, blocks: u64) {
        if let Some(namespace) = self.core.state.borrow_mut().namespaces.get_mut(&id) {
            namespace.entry.blocks = blocks;
            namespace.size.store(blocks * u64::from(BLOCK_SIZE), Ordering::Release);
        }
    }

    /// Returns when nothing is in the tail, durably.
    async fn empty_tail(&self, id: NamespaceId, tail: LbaRange, force: bool) -> Result<()> {
        self.core.drain_requests(id).await;
        if force {
            self.core.clear_blocks(id, tail).await?;
        } else if let Some(lba) = self.core.first_mapped(id, tail).await? {
            fail!(
                Busy,
                "the namespace has data at byte {}, beyond its new end: discard it first, or give it up with --force",
                lba.0 * u64::from(BLOCK_SIZE)
            );
        }
        self.core.checkpoint_all().await
    }
}
