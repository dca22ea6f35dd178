//! What is outside the segments: superblocks, namespace tables, roots; each copy of each.

use super::report::{Damage, Report};
use crate::buf::AlignedBuf;
use crate::error::{ErrorKind, Result};
use crate::format::layout::{COPIES, Layout, ROOT_BYTES};
use crate::format::namespaces::NamespaceTable;
use crate::format::root::Root;
use crate::format::superblock::Superblock;
use crate::media::Media;
use crate::pool::{layout_of, read_superblock, read_table, superblock_may_be_cut, table_copies};
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
    let (superblock, both_superblocks) = read_superblock(media).await?;
    let layout = layout_of(&superblock);
    let (table, both_tables) = read_table(media, &layout, superblock.pool).await?;
    let (root, _) = newest_root(media, &layout, superblock.pool).await?;
    root.check_bounds(superblock.segment_count)?;
    if !both_superblocks {
        // the superblock is written when the pool is made, and then as it is or with another journal: whether it is served,
        // and however cleanly it was stopped before
        let cut = root.session.0 == 0 || superblock_may_be_cut(media).await;
        tell(&mut report, "one of the two superblocks is damaged or differs", cut);
    }
    if !both_tables {
        // a stop is clean only if no write of the table was cut short since the start, which repairs it
        let cut = !root.clean && may_be_cut(&table_copies(media, &layout, superblock.pool).await);
        tell(&mut report, "one of the two namespace tables is damaged or differs", cut);
    }
    read_roots(media, &layout, &root, &mut report).await;
    (report.pool, report.clean) = (superblock.pool.to_string(), root.clean);
    Ok(Fixed { superblock, layout, table, root, report })
}

/// One copy is not like the other: damage, unless a write that was cut short leaves the same.
fn tell(report: &mut Report, what: &str, cut: bool) {
    if cut {
        report.notes.push(format!("{what}; its write was cut short, or it is damaged: the next start repairs it"));
    } else {
        report.add(Damage::new(format!("{what}; the next start repairs it")));
    }
}

/// Whether a daemon that died while it wrote the table, the first copy before the second, can have left these.
fn may_be_cut(copies: &[Result<NamespaceTable>]) -> bool {
    match copies {
        [Ok(first), Ok(second)] => first.sequence == second.sequence + 1,
        [Ok(_), Err(error)] | [Err(error), Ok(_)] => error.kind() != ErrorKind::Io,
        _ => false,
    }
}

/// The copies of the newest root and of the one before it.
///
/// A switch that was cut short leaves a bad copy of the newest root, or (of one that does not count) of the other slot.
/// Never both, for recovery completes the newest before it begins the next: that is damage.
async fn read_roots(media: &Media, layout: &Layout, root: &Root, report: &mut Report) {
    let mut bad = [Vec::new(), Vec::new()];
    for (slot, bad) in bad.iter_mut().enumerate() {
        // a new pool has had one root only
        let Some(sequence) = root.sequence.checked_sub(slot as u64).filter(|sequence| *sequence > 0) else { continue };
        for copy in 0..COPIES {
            let (buf, result) =
                media.read(layout.root(sequence, copy), AlignedBuf::zeroed(ROOT_BYTES), ROOT_BYTES).await;
            let why = match result.and_then(|()| Root::decode(&buf, root.pool)) {
                Ok(found) if found.sequence == sequence => continue,
                Ok(found) => format!("it is root {}", found.sequence),
                Err(error) => error.to_string(),
            };
            bad.push(format!("copy {copy} of root {sequence}: {why}"));
        }
    }
    let [newest, other] = bad;
    if newest.is_empty() || other.is_empty() {
        let note =
            |text| format!("{text}; a switch was cut short, or the copy is damaged: the next start writes it anew");
        report.notes.extend(newest.into_iter().map(note));
    } else {
        newest.into_iter().chain(other).for_each(|text| report.add(Damage::new(text)));
    }
}
