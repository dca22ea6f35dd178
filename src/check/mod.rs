//! `plica check`: everything a pool says of itself, compared with everything that is there, changing nothing.
//!
//! ```text
//!   superblocks, tables, roots ─► each copy                                              (copies)
//!   newest root ─► leaf images ──────┐
//!   staged batches, window, journal ─┴─► replayed ─► the map as the next start would have it (map)
//!   journal ─► header, segments, every fragment that the map points to                   (journal)
//!   every segment ─► summary | walk ─► every record verified ─► newest record of each LBA (segment)
//!   map against log ─► what is hurt: namespace, LBAs, why                                 (report)
//! ```
//!
//! Needs no key: checks are over ciphertext. The map is rebuilt here from the rules of FORMAT.md rather than by the
//! engine, so that one can find the other's mistakes. Leaves are taken in groups, so memory does not grow with the pool.
//!
//! **Invariants.** Looks at I1 (nothing points at what is not there), I5 (every record verifies) and rule 6.1 (no record
//! is newer than the map). **Failure** to read is damage of what could not be read, not the end of the check.
//! **Not here:** repair.

mod copies;
mod journal;
pub mod look;
mod map;
mod report;
mod segment;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::format::root::Root;
use crate::media::Media;
use crate::pool::JournalFound;
use crate::units::{Granule, NamespaceId, SegmentId};

use journal::{OnJournal, verify_blocks};
use map::{Group, Verdict};
pub use report::{Damage, NamespaceTotals, Report, Totals};
use segment::{Content, Source, contents};
pub use snapshot::{Snapshot, Staged};

/// Leaves compared with the log in one pass: 64 GiB of LBAs in 400 MiB of memory.
const LEAVES_A_PASS: usize = 32 << 10;

/// Checks the pool on `media`, with what was found of its journal. `staged` finds the staging memory for a root that may have some; `progress` hears of bytes
/// read and bytes in all.
///
/// # Errors
/// What keeps the check from being made at all: no pool, no valid root, or an image that cannot be read.
pub async fn check(
    media: &Media,
    journal: Option<JournalFound>,
    staged: impl FnOnce(&Root) -> Staged,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report> {
    // 1. what is outside the segments, in shared memory, and in the window
    let (snapshot, mut report) = Snapshot::take(media, journal, staged).await?;
    // 2. the map against the log, a group of leaves at a time
    let leaves = snapshot.leaves();
    let passes = leaves.len().div_ceil(LEAVES_A_PASS).max(1);
    let segments = u64::from(snapshot.superblock.segment_count);
    let all = passes as u64 * segments * u64::from(snapshot.layout.segment_bytes);
    let (mut done, mut bad, mut on_journal) = (0, Bad::default(), BTreeSet::new());
    for pass in 0..passes {
        let of_pass = leaves.iter().skip(pass * LEAVES_A_PASS).take(LEAVES_A_PASS);
        let step = |read| {
            done += read;
            progress(done, all);
        };
        on_journal.extend(compare_group(&snapshot, of_pass.copied(), pass == 0, &mut bad, &mut report, step).await);
    }
    // 3. damage that hurts nobody
    let metadata = snapshot.metadata();
    for (place, record) in bad.iter().filter(|(_, record)| record.is_listed && !record.in_use) {
        if !metadata.contains(place) {
            report.unused(place.0, place.1, &record.why);
        }
    }
    // 4. what was acknowledged in the journal and cannot be replayed, where the segment was not just being opened anew
    let gaps = snapshot.journal.iter().filter(|_| !snapshot.root.clean).flat_map(|journal| &journal.found.gaps);
    for id in gaps.filter(|id| on_journal.contains(id)) {
        report.add(Damage::new("a batch is damaged, though it was acknowledged").at(*id, None).on_journal());
    }
    report.finish(&snapshot.names(), segments);
    Ok(report)
}

/// Records that do not verify.
type Bad = BTreeMap<(SegmentId, Granule), BadRecord>;

/// A record that does not verify.
struct BadRecord {
    /// What is wrong with it.
    why: String,
    /// A complete list has it, so it once did verify. What only a walk finds may be the rest of a batch that was torn when
    /// the machine died, which nobody ever accepted: damage only if the map points there.
    is_listed: bool,
    /// The map points there.
    in_use: bool,
}

/// Compares one group of leaves with all segments. The first pass verifies every record. Returns the segments of the
/// journal that the map points to.
async fn compare_group(
    snapshot: &Snapshot,
    leaves: impl Iterator<Item = (NamespaceId, u32)>,
    first: bool,
    bad: &mut Bad,
    report: &mut Report,
    mut step: impl FnMut(u64),
) -> BTreeSet<SegmentId> {
    // 1. the map as the next start would have it
    let mut group = Group::default();
    for key in leaves {
        match snapshot.leaf(key).await {
            Ok(entries) => group.insert(key, &entries),
            Err((location, error)) => report.lost_leaf(key, snapshot.blocks_of(key.0), &location, &error),
        }
    }
    group.replay(snapshot);
    report.totals.leaves += group.len() as u64;
    // 2. every segment: what its records say, and whether they verify
    let mut sources = Vec::with_capacity(snapshot.directories.generations.len());
    let mut queue = contents(snapshot, first);
    while let Some((id, content)) = queue.next().await {
        step(u64::from(snapshot.layout.segment_bytes));
        let Content { source, records, damaged, tally } = content;
        if let (Source::Unreadable(error), true) = (&source, first) {
            report.add(Damage::new(error.clone()).at(id, None));
        }
        let is_listed = source.is_complete();
        if is_listed {
            records.iter().for_each(|(record, _)| group.see(record));
        }
        sources.push(source);
        report.totals.add(&tally);
        report.totals.live_bytes += group.live_bytes(&records);
        let found = |(granule, why)| ((id, granule), BadRecord { why, is_listed, in_use: false });
        bad.extend(damaged.into_iter().map(found));
    }
    snapshot.journal.iter().flat_map(|journal| &journal.found.records).for_each(|record| group.see(record));
    // 3. what the map says, against it
    let (mut doubtful, mut on_journal) = (Vec::new(), Vec::new());
    for (id, lba, verdict) in group.compare(bad, &sources, report) {
        match verdict {
            Verdict::Hurt(location, why) => report.hurt(id, lba, why, &location),
            Verdict::Doubtful(location) => doubtful.push((location, id, lba)),
            Verdict::OnJournal(location, stale) => on_journal.push(OnJournal { location, id, lba, stale }),
        }
    }
    // 4. what no complete list of records tells: asked of the medium
    doubtful.sort_unstable_by_key(|(location, id, lba)| (location.segment, location.granule, *id, *lba));
    for (location, id, lba) in doubtful {
        if let Err(error) = snapshot.fragment(&location, id, lba).await {
            report.hurt(id, lba, error.to_string(), &location);
        }
    }
    // 5. and of the journal's medium
    verify_blocks(snapshot, on_journal, report).await
}
