//! Namespaces created and destroyed while the pool is open.

use std::sync::atomic::Ordering;

use super::copies::{Flush, write_table};
use super::open::{Pool, open_namespace};
use crate::error::Result;
use crate::fail;
use crate::format::namespaces::{NamespaceEntry, NamespaceTable, is_unit, valid_name};
use crate::format::{Cipher, Compression};
use crate::keys::{DataKey, wrap};
use crate::limits::{BLOCK_SIZE, NAMESPACE_BLOCKS_MAX, NAMESPACES_MAX};
use crate::map::Directory;
use crate::units::NamespaceId;

/// Of the machine's memory this part is for directories at most: leaves, staging memory and other programs need some too.
const DIRECTORIES_PART: u64 = 2;

/// What a new namespace shall be.
#[derive(Clone, Debug)]
pub struct NamespaceSpec {
    /// Its name.
    pub name: String,
    /// Size in 4 KiB blocks.
    pub blocks: u64,
    /// Cipher.
    pub cipher: Cipher,
    /// Compression.
    pub compression: Compression,
    /// Largest fragment in blocks: 1, 2, 4 or 8.
    pub unit_blocks: u8,
    /// 512 or 4096.
    pub logical_block: u32,
    /// Seconds since 1970.
    pub now_unix: u64,
}

impl Pool {
    /// The namespaces, in order of creation.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceEntry> {
        self.core.state.borrow().table.entries.clone()
    }

    /// Makes a namespace with a new data key.
    ///
    /// # Errors
    /// A spec that does not work, a name that is taken, a full table, more than this machine has memory for, or the medium
    /// failed.
    pub async fn create_namespace(&self, spec: &NamespaceSpec) -> Result<NamespaceEntry> {
        self.core.latch.check()?;
        let mut table = self.core.state.borrow().table.clone();
        check_spec(spec, &table)?;
        let id = NamespaceId(table.next_id);
        let key = DataKey::generate(|bytes| self.core.env.random(bytes))?;
        let mut nonce = [0; 12];
        self.core.env.random(&mut nonce)?;
        let wrapped_key = wrap(&self.root_key, self.core.pool, id, spec.cipher, &key, nonce);
        let entry = NamespaceEntry {
            id,
            name: spec.name.clone(),
            blocks: spec.blocks,
            cipher: spec.cipher,
            compression: spec.compression,
            unit_blocks: spec.unit_blocks,
            logical_block: spec.logical_block,
            created: spec.now_unix,
            wrapped_key,
        };
        table.next_id += 1;
        table.sequence += 1;
        table.entries.push(entry.clone());
        self.check_memory(&table)?;
        let namespace = open_namespace(&entry, &self.superblock.borrow(), &self.root_key)?;
        self.store_table(table).await?;
        self.core.state.borrow_mut().namespaces.insert(id, namespace);
        Ok(entry)
    }

    /// Destroys a namespace: its wrapped key first (crypto-erase), then its map. Its space comes free in
    /// the background.
    ///
    /// # Errors
    /// No such namespace, or the medium failed.
    pub async fn destroy_namespace(&self, name: &str) -> Result<()> {
        self.core.latch.check()?;
        let id = self.client(name)?.id;
        let mut table = self.core.state.borrow().table.clone();
        table.entries.retain(|e| e.id != id);
        table.sequence += 1;
        self.store_table(table).await?;
        let mut guard = self.core.state.borrow_mut();
        let state = &mut *guard;
        let Some(namespace) = state.namespaces.remove(&id) else { return Ok(()) };
        namespace.size.store(0, Ordering::Release);
        state.detach_all(id, namespace.directory.into_slots());
        drop(guard);
        self.core.detached.notify_all();
        Ok(())
    }

    /// Refuses namespaces whose directories this machine has no memory for: once they were in the table nothing could open the
    /// pool here any more, also not to make them smaller.
    pub(super) fn check_memory(&self, table: &NamespaceTable) -> Result<()> {
        let Some(memory) = self.memory else { return Ok(()) };
        let needed: u64 = table.entries.iter().map(|entry| Directory::bytes(entry.blocks)).sum();
        if needed > memory / DIRECTORIES_PART {
            fail!(
                Config,
                "the directories of all namespaces would take {} MiB of memory whenever the pool is open, and of the {} MiB of \
                 this machine they get no more than half: give a smaller size, or open the pool on a machine with more memory",
                needed.div_ceil(1 << 20),
                memory >> 20
            );
        }
        Ok(())
    }

    pub(super) async fn store_table(&self, table: NamespaceTable) -> Result<()> {
        let result = write_table(Flush::Served(&self.core), &self.core.layout_now(), &table).await;
        if let Err(error) = &result {
            self.core.become_read_only("writing the namespace table", error);
        }
        result?;
        self.core.state.borrow_mut().table = table;
        Ok(())
    }
}

fn check_spec(spec: &NamespaceSpec, table: &NamespaceTable) -> Result<()> {
    if !valid_name(&spec.name) {
        fail!(
            Config,
            "{:?} cannot be a name: 1 to 63 letters, digits, '.', '_' or '-', not starting with '.' or '-'",
            spec.name
        );
    }
    if table.entries.iter().any(|e| e.name == spec.name) {
        fail!(Exists, "there is a namespace {:?} already", spec.name);
    }
    if table.entries.len() >= NAMESPACES_MAX {
        fail!(NoSpace, "the pool has {NAMESPACES_MAX} namespaces, and that is all it can have");
    }
    if spec.blocks == 0 || spec.blocks > NAMESPACE_BLOCKS_MAX {
        fail!(Config, "a namespace has 1 to {NAMESPACE_BLOCKS_MAX} blocks of {BLOCK_SIZE} bytes, not {}", spec.blocks);
    }
    if !is_unit(spec.unit_blocks) {
        fail!(Config, "a unit is auto, or 4, 8, 16 or 32 KiB, not {} blocks", spec.unit_blocks);
    }
    if !matches!(spec.logical_block, 512 | 4096) {
        fail!(Config, "a logical block is 512 or 4096 bytes, not {}", spec.logical_block);
    }
    Ok(())
}
