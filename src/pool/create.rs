//! Making a pool.

use std::path::Path;

use super::copies::{Flush, layout_of, write_superblock, write_table};
use super::journal_change::give_journal;
use crate::buf::AlignedBuf;
use crate::env::Env;
use crate::env::reactor::IoBuf;
use crate::error::Result;
use crate::fail;
use crate::format::layout::{COPIES, END_BYTES, ROOT_BYTES};
use crate::format::namespaces::NamespaceTable;
use crate::format::root::Root;
use crate::format::superblock::{KeySource, LABEL_BYTES, Superblock};
use crate::keys::{RootKey, key_check};
use crate::limits::{BLOCK_SIZE, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MAX, SEGMENTS_MIN};
use crate::media::Media;
use crate::pmem::Journal;
use crate::units::PoolId;

/// Pools with fewer segments than this get smaller ones.
const SEGMENTS_WANTED: u64 = 256;

/// How a pool is made.
pub struct CreateOptions<'a> {
    /// A name for people, at most [`LABEL_BYTES`] bytes.
    pub label: &'a str,
    /// Bytes of a segment; chosen by size when `None`.
    pub segment_bytes: Option<u32>,
    /// Where the root key came from.
    pub key_source: KeySource,
    /// The root key.
    pub root_key: &'a RootKey,
    /// Identity of the pool, when the key was derived for it; drawn when `None`.
    pub pool: Option<PoolId>,
    /// Seconds since 1970.
    pub now_unix: u64,
    /// The pool's journal, whose content may go too, and where it is.
    pub journal: Option<(Journal, &'a Path)>,
}

/// Makes a pool on a medium whose content may go. The superblocks come last: until they are durable there is no pool.
///
/// # Errors
/// A size that does not work, or the medium failed.
pub async fn create(env: &Env, media: &Media, options: &CreateOptions<'_>) -> Result<Superblock> {
    let mut superblock = plan(env, media, options)?;
    let layout = layout_of(&superblock);
    // 1. no old superblock shows through while the parts are written
    for copy in 0..COPIES {
        let zeros = IoBuf::Owned(AlignedBuf::zeroed(BLOCK_SIZE as usize));
        media.write(layout.superblock(copy), zeros, BLOCK_SIZE as usize).await.1?;
    }
    media.flush().await?;
    // 2. an empty namespace table, and a root that stands for nothing; the other slot must not hold a newer one
    let pool = superblock.pool;
    write_table(Flush::Alone(media), &layout, &NamespaceTable { pool, sequence: 1, next_id: 1, entries: Vec::new() })
        .await?;
    let root = Root { pool, sequence: 1, clean: true, ..Root::default() };
    for copy in 0..COPIES {
        let zeros = IoBuf::Owned(AlignedBuf::zeroed(ROOT_BYTES));
        media.write(layout.root(0, copy), zeros, ROOT_BYTES).await.1?;
        let mut buf = AlignedBuf::zeroed(ROOT_BYTES);
        root.encode(&mut buf)?;
        media.write(layout.root(root.sequence, copy), IoBuf::Owned(buf), ROOT_BYTES).await.1?;
    }
    media.flush().await?;
    // 3. its journal
    if let Some((journal, path)) = &options.journal {
        superblock.journal = Some(give_journal(env, journal, pool, root.session, path).await?);
    }
    // 4. the pool
    write_superblock(Flush::Alone(media), &superblock).await?;
    Ok(superblock)
}

fn plan(env: &Env, media: &Media, options: &CreateOptions<'_>) -> Result<Superblock> {
    if options.label.len() > LABEL_BYTES {
        fail!(Config, "the label has {} bytes; at most {LABEL_BYTES} fit", options.label.len());
    }
    let pool_bytes = media.size() / u64::from(BLOCK_SIZE) * u64::from(BLOCK_SIZE);
    let usable = pool_bytes.saturating_sub(2 * END_BYTES);
    let segment_bytes = options.segment_bytes.unwrap_or_else(|| segment_bytes_for(usable));
    if !segment_bytes.is_power_of_two() || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
        fail!(Config, "a segment has 1, 2 or 4 MiB, not {segment_bytes} bytes");
    }
    let count = usable / u64::from(segment_bytes);
    if count < u64::from(SEGMENTS_MIN) {
        let least = 2 * END_BYTES + u64::from(SEGMENTS_MIN) * u64::from(segment_bytes);
        fail!(Config, "{pool_bytes} bytes are too small for a pool: it takes at least {least}");
    }
    let mut pool = options.pool.unwrap_or_default();
    if options.pool.is_none() {
        env.random(&mut pool.0)?;
    }
    let mut label = [0; LABEL_BYTES];
    label[..options.label.len()].copy_from_slice(options.label.as_bytes());
    Ok(Superblock {
        pool,
        sequence: 1,
        pool_bytes,
        segment_bytes,
        segment_count: u32::try_from(count).unwrap_or(u32::MAX).min(SEGMENTS_MAX),
        created: options.now_unix,
        key_source: options.key_source,
        key_check: key_check(options.root_key, pool),
        label,
        journal: None,
    })
}

/// The largest segments that leave a pool a fair number of them.
fn segment_bytes_for(usable: u64) -> u32 {
    let mut bytes = SEGMENT_BYTES_MAX;
    while bytes > SEGMENT_BYTES_MIN && usable / u64::from(bytes) < SEGMENTS_WANTED {
        bytes /= 2;
    }
    bytes
}
