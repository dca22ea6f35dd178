//! What is outside the segments: superblocks, namespace tables, roots; each copy of each.

use super::report::{Damage, Report};
use crate::buf::AlignedBuf;
use crate::error::Result;
use crate::format::layout::{COPIES, Layout, ROOT_BYTES};
use crate::format::namespaces::NamespaceTable;
use crate::format::root::Root;
use crate::format::superblock::Superblock;
use crate::media::Media;
use crate::pool::{layout_of, read_superblock, read_table};
use crate::recovery::newest_root;

/// Everything outside the segments, as the next start would take it.
pub(super) struct Fixed {
    pub(super) superblock: Superblock,
    pub(super) layout: Layout,
    pub(super) table: NamespaceTable,
    pub(super) root: Root,
    pub(super) report: Report,
}

/// Reads all copies; what is damaged in one of two is in the report.
///
/// # Errors
/// Something is damaged in both.
pub(super) async fn read(media: &Media) -> Result<Fixed> {
    let mut report = Report::default();
    let (superblock, both) = read_superblock(media).await?;
    if !both {
        report.add(Damage::new("one of the two superblocks is damaged or differs; the next start repairs it"));
    }
    let layout = layout_of(&superblock);
    let (table, both) = read_table(media, &layout, superblock.pool).await?;
    if !both {
        report.add(Damage::new("one of the two namespace tables is damaged or differs; the next start repairs it"));
    }
    let root = newest_root(media, &layout, superblock.pool).await?;
    root.check_bounds(superblock.segment_count)?;
    for copy in 0..COPIES {
        let offset = layout.root(root.sequence, copy);
        let (buf, result) = media.read(offset, AlignedBuf::zeroed(ROOT_BYTES), ROOT_BYTES).await;
        match result.and_then(|()| Root::decode(&buf, superblock.pool)) {
            Ok(found) if found == root => {}
            other => {
                let why = other.map_or_else(|e| e.to_string(), |found| format!("it is root {}", found.sequence));
                let text = format!("copy {copy} of root {}: {why}; the other copy is good", root.sequence);
                // a switch that was under way leaves one copy behind
                if root.clean { report.add(Damage::new(text)) } else { report.notes.push(text) }
            }
        }
    }
    (report.pool, report.clean) = (superblock.pool.to_string(), root.clean);
    Ok(Fixed { superblock, layout, table, root, report })
}
