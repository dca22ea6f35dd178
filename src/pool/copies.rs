//! Superblock and namespace table: two copies each, the newer valid one counts, a damaged one is rewritten.

use crate::buf::AlignedBuf;
use crate::core::Core;
use crate::env::reactor::IoBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{COPIES, Layout, NAMESPACE_TABLE_BYTES};
use crate::format::namespaces::NamespaceTable;
use crate::format::root::Root;
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::media::Media;
use crate::units::PoolId;

/// What can be told of a pool without its key.
#[derive(Debug)]
pub struct Inspection {
    /// The superblock.
    pub superblock: Superblock,
    /// The namespace table.
    pub namespaces: NamespaceTable,
    /// The newest root.
    pub root: Root,
}

/// Reads superblock, namespaces and root without changing anything.
///
/// # Errors
/// No pool, another version, or damage in both copies.
pub async fn inspect(media: &Media) -> Result<Inspection> {
    let (superblock, _) = read_superblock(media).await?;
    let layout = layout_of(&superblock);
    let (namespaces, _) = read_table(media, &layout, superblock.pool).await?;
    let (root, _) = crate::recovery::newest_root(media, &layout, superblock.pool).await?;
    Ok(Inspection { superblock, namespaces, root })
}

/// The places of a pool's parts.
pub(crate) fn layout_of(superblock: &Superblock) -> Layout {
    Layout { pool_bytes: superblock.pool_bytes, segment_bytes: superblock.segment_bytes }
}

/// The superblock, and whether both copies hold it.
pub(crate) async fn read_superblock(media: &Media) -> Result<(Superblock, bool)> {
    let size = media.size() / SUPERBLOCK_BYTES as u64 * SUPERBLOCK_BYTES as u64;
    if size < 2 * SUPERBLOCK_BYTES as u64 {
        return Err(Error::new(ErrorKind::NotFound, "this is no Plica pool: it is too small to be one"));
    }
    let [first, second] = superblock_copies(media, size).await;
    let superblock = match (first.decoded, second.decoded) {
        (Ok(a), Ok(b)) if a == b => return finish(media, a, true),
        (Ok(a), Ok(b)) => {
            if a.sequence >= b.sequence {
                a
            } else {
                b
            }
        }
        (Ok(a), Err(_)) => a,
        (Err(error), Ok(b)) => {
            tracing::warn!("the first superblock is damaged ({error}); the second is used");
            b
        }
        (Err(a), Err(b)) if a.kind() == ErrorKind::NotFound && b.kind() == ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, "this is no Plica pool: there is no superblock"));
        }
        (Err(a), Err(b)) => {
            let error = if a.kind() == ErrorKind::NotFound { b } else { a };
            return Err(error.within("both superblocks are unusable, the pool cannot be opened"));
        }
    };
    finish(media, superblock, false)
}

/// A copy of the superblock.
struct SuperblockCopy {
    bytes: AlignedBuf,
    decoded: Result<Superblock>,
}

/// Both copies of the superblock, as they are, on a medium of so many bytes.
async fn superblock_copies(media: &Media, size: u64) -> [SuperblockCopy; 2] {
    let first = read_copy(media, 0).await;
    // the second copy ends with the pool, which may be smaller than the medium
    let end = first.decoded.as_ref().map_or(size, |s| s.pool_bytes.min(size));
    let second = read_copy(media, end - SUPERBLOCK_BYTES as u64).await;
    [first, second]
}

/// Whether a rewrite of the superblock of a pool that is there, the second copy before the first, can have been cut short
/// and left these: a journal was given to the pool, or taken from it.
pub(crate) async fn superblock_may_be_cut(media: &Media) -> bool {
    let size = media.size() / SUPERBLOCK_BYTES as u64 * SUPERBLOCK_BYTES as u64;
    let [first, second] = superblock_copies(media, size).await;
    match (&first.decoded, &second.decoded) {
        (Ok(first), Ok(second)) => second.sequence == first.sequence + 1,
        (Ok(whole), Err(error)) => error.kind() != ErrorKind::Io && whole.may_be_torn(&second.bytes),
        (Err(error), Ok(whole)) => error.kind() != ErrorKind::Io && whole.may_be_torn(&first.bytes),
        (Err(_), Err(_)) => false,
    }
}

fn finish(media: &Media, superblock: Superblock, both: bool) -> Result<(Superblock, bool)> {
    if superblock.pool_bytes > media.size() {
        let (has, size) = (media.size(), superblock.pool_bytes);
        let text = format!("the pool has been truncated: it had {size} bytes, the medium has {has}");
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    Ok((superblock, both))
}

async fn read_copy(media: &Media, offset: u64) -> SuperblockCopy {
    let (bytes, result) = media.read(offset, AlignedBuf::zeroed(SUPERBLOCK_BYTES), SUPERBLOCK_BYTES).await;
    let decoded = result.and_then(|()| Superblock::decode(&bytes));
    SuperblockCopy { bytes, decoded }
}

/// Both copies of the namespace table, as they are.
pub(crate) async fn table_copies(media: &Media, layout: &Layout, pool: PoolId) -> Vec<Result<NamespaceTable>> {
    let mut copies = Vec::with_capacity(COPIES);
    for copy in 0..COPIES {
        let buf = AlignedBuf::zeroed(NAMESPACE_TABLE_BYTES);
        let (buf, result) = media.read(layout.namespace_table(copy), buf, NAMESPACE_TABLE_BYTES).await;
        copies.push(result.and_then(|()| NamespaceTable::decode(&buf, pool)));
    }
    copies
}

/// The namespace table, and whether both copies hold it.
pub(crate) async fn read_table(media: &Media, layout: &Layout, pool: PoolId) -> Result<(NamespaceTable, bool)> {
    let mut copies = table_copies(media, layout, pool).await;
    match (copies.pop(), copies.pop()) {
        (Some(Ok(b)), Some(Ok(a))) if a == b => Ok((a, true)),
        (Some(Ok(b)), Some(Ok(a))) => Ok((if a.sequence >= b.sequence { a } else { b }, false)),
        (Some(Err(error)), Some(Ok(table))) | (Some(Ok(table)), Some(Err(error))) => {
            tracing::warn!("a copy of the namespace table is damaged ({error}); the other is used");
            Ok((table, false))
        }
        (_, Some(Err(error))) => Err(error.within("both namespace tables are damaged, the pool cannot be opened")),
        _ => unreachable!("there are two copies"),
    }
}

/// Makes what was written to a medium durable: the engine's way where there is an engine, since of two flushes at a time one
/// may report what the other lost.
pub(super) enum Flush<'a> {
    /// Nobody else flushes.
    Alone(&'a Media),
    /// The pool is served, or about to be.
    Served(&'a Core),
}

impl Flush<'_> {
    fn media(&self) -> &Media {
        match self {
            Self::Alone(media) => media,
            Self::Served(core) => &core.media,
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            Self::Alone(media) => media.flush().await,
            Self::Served(core) => core.flush_now().await,
        }
    }
}

/// Writes both copies of the table, one durable before the other is touched.
///
/// # Errors
/// The table is full, or the medium failed.
pub(super) async fn write_table(on: Flush<'_>, layout: &Layout, table: &NamespaceTable) -> Result<()> {
    let mut buf = AlignedBuf::zeroed(NAMESPACE_TABLE_BYTES);
    table.encode(&mut buf)?;
    let mut buf = IoBuf::Owned(buf);
    for copy in 0..COPIES {
        let (returned, result) = on.media().write(layout.namespace_table(copy), buf, NAMESPACE_TABLE_BYTES).await;
        result?;
        buf = returned;
        on.flush().await?;
    }
    Ok(())
}

/// Writes both copies of the superblock, one durable before the other is touched.
///
/// # Errors
/// The medium failed.
pub(super) async fn write_superblock(on: Flush<'_>, superblock: &Superblock) -> Result<()> {
    let layout = layout_of(superblock);
    let mut buf = IoBuf::Owned(AlignedBuf::copied(&superblock.encode()));
    for copy in (0..COPIES).rev() {
        let (returned, result) = on.media().write(layout.superblock(copy), buf, SUPERBLOCK_BYTES).await;
        result?;
        buf = returned;
        on.flush().await?;
    }
    Ok(())
}
