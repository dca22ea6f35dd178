//! What a pool says of itself.

use serde::{Deserialize, Serialize};

use super::Pool;
use crate::core::scrub::ScrubStatus;
use crate::core::{Core, Fullness, Reading, RecompressStatus, Written};
use crate::format::leaf::LEAF_BYTES;
use crate::format::superblock::Superblock;
use crate::journal::Bypass;
use crate::limits::{BLOCK_SIZE, JOURNAL_SEGMENT_BYTES};
use crate::log::SegmentState;

/// Figures of an open pool. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Identity.
    pub pool: String,
    /// Label.
    pub label: String,
    /// Bytes of the whole pool.
    pub pool_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Segments.
    pub segments: u32,
    /// Segments that can be written to.
    pub segments_free: u64,
    /// Segments that the filesystem or thin device under the pool has no space for.
    #[serde(default)]
    pub segments_refused: u64,
    /// Whether the free segments are all known (after an unclean stop they are counted in the background).
    pub usage_known: bool,
    /// Why the pool is read-only, if it is.
    pub read_only: Option<String>,
    /// Bytes written by the host, ever.
    pub host_written: u64,
    /// Bytes read by the host, ever.
    pub host_read: u64,
    /// Bytes discarded by the host, ever.
    pub host_discarded: u64,
    /// Payload bytes stored for them, ever.
    pub stored: u64,
    /// Bytes written to the medium, ever, everything counted.
    pub media_written: u64,
    /// Bytes written by the host for each byte stored.
    pub reduction: f64,
    /// Bytes written to the medium for each byte written by the host.
    pub write_amplification: f64,
    /// The last minutes.
    #[serde(default)]
    pub recent: RecentStatus,
    /// What was written to the medium since the pool was opened, by what it is.
    #[serde(default)]
    pub written: WrittenStatus,
    /// Bytes of headers and padding of records since the pool was opened.
    pub overhead: u64,
    /// Bytes of padding of batches since the pool was opened.
    pub padding: u64,
    /// Bytes of records that were overwritten before they were written, and never were, since the pool was opened: in
    /// memory as staged, headers and padding included.
    pub absorbed: u64,
    /// Fragments that did not verify, since the pool was opened.
    pub corrupt: u64,
    /// Fragments that the medium did not give back, since the pool was opened.
    pub read_errors: u64,
    /// Writes refused for want of space, since the pool was opened.
    pub no_space: u64,
    /// Segments that the cleaner emptied, since the pool was opened.
    pub segments_cleaned: u64,
    /// Of these ahead of need, while no request came.
    #[serde(default)]
    pub segments_cleaned_ahead: u64,
    /// Cold data that was recompressed.
    #[serde(default)]
    pub recompressed: RecompressStatus,
    /// Live bytes (before compression) that it moved, since the pool was opened.
    pub relocated: u64,
    /// Bytes of the records that it moved them to, since the pool was opened.
    pub relocated_stored: u64,
    /// Partly dead fragments that it unpacked, since the pool was opened.
    pub fragments_unpacked: u64,
    /// FLUSH requests since the pool was opened.
    pub flushes: u64,
    /// Device flushes since the pool was opened.
    pub media_flushes: u64,
    /// Leaves written back since the pool was opened.
    pub leaves_written: u64,
    /// Roots since the pool was opened.
    pub roots: u64,
    /// Percent of the pool, without `segments_refused`, that live blocks take; `None` while that is being counted.
    #[serde(default)]
    pub percent_used: Option<f64>,
    /// What that means by the watermarks.
    #[serde(default)]
    pub fullness: Fullness,
    /// Bytes that the map has in all.
    #[serde(default)]
    pub map_total: u64,
    /// Of these in memory.
    #[serde(default)]
    pub map_resident: u64,
    /// What may be in memory; `None`: all of it.
    #[serde(default)]
    pub map_limit: Option<u64>,
    /// Looks at the map that found what they needed in memory, since the pool was opened.
    #[serde(default)]
    pub map_hits: u64,
    /// Looks at the map that had to read first, since the pool was opened.
    #[serde(default)]
    pub map_misses: u64,
    /// Whether space of what was discarded or destroyed is still being given back.
    #[serde(default)]
    pub accounting: bool,
    /// The scrub that is on its way, or the last one.
    pub scrub: ScrubStatus,
    /// The journal, if the pool has one.
    #[serde(default)]
    pub journal: Option<JournalStatus>,
    /// Namespaces.
    pub namespaces: Vec<NamespaceStatus>,
}

/// What the last minutes were like: at most five of them. All sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecentStatus {
    /// How many seconds.
    pub seconds: u64,
    /// Bytes written by the host.
    pub host_written: u64,
    /// Payload bytes stored for them.
    pub stored: u64,
    /// Bytes written to the medium.
    pub media_written: u64,
    /// Bytes written by the host for each byte stored.
    pub reduction: f64,
    /// Bytes written to the medium for each byte written by the host.
    pub write_amplification: f64,
}

/// What was written to the medium since the pool was opened, in bytes. The figures add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenStatus {
    /// Everything.
    pub total: u64,
    /// Payload of hosts' writes, compressed and sealed.
    pub payload: u64,
    /// Headers and padding of their records; records of discards and zeros.
    pub headers: u64,
    /// Headers of batches, and their padding to blocks.
    pub batches: u64,
    /// Summaries of segments.
    pub summaries: u64,
    /// Records that the cleaner moved, or that came from the journal.
    pub moved: u64,
    /// The map.
    pub map: u64,
    /// Roots.
    pub roots: u64,
    /// Zeros ahead of use, in a pool in a file.
    pub prepared: u64,
    /// The rest: what recovery and management wrote (superblocks, namespace tables, batches adopted).
    pub other: u64,
}

/// Figures of a journal, since the pool was opened. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Identity.
    pub journal: String,
    /// What it is on: `dax`, `block` or `volatile`.
    pub kind: String,
    /// Bytes of its segments.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Segments that can be written to.
    pub segments_free: u64,
    /// Bytes of blocks whose newest copy is there.
    pub resident: u64,
    /// Bytes written to it.
    pub written: u64,
    /// Groups of writes made durable at once.
    pub persists: u64,
    /// Segments whose live blocks were moved to the pool.
    pub destaged_segments: u64,
}

/// Figures of a namespace and its pool's journal. Bytes of blocks, before compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamespaceJournal {
    /// Acknowledged through the journal.
    pub acknowledged: u64,
    /// Overwritten or discarded there: they never reached the pool.
    pub died: u64,
    /// Moved to the pool.
    pub destaged: u64,
    /// Of 100 bytes acknowledged, so many were moved to the pool.
    #[serde(default)]
    pub destaged_percent: f64,
    /// Written past the journal.
    pub bypassed: u64,
    /// Of that, by reason.
    #[serde(default)]
    pub bypassed_as: Bypassed,
    /// There now.
    pub resident: u64,
}

/// Why bytes were written past a journal. Bytes of blocks, before compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypassed {
    /// Zeros, which take no payload in the pool: what new log files are filled with.
    pub zeros: u64,
    /// Large requests.
    pub large: u64,
    /// Much written without a flush.
    pub load: u64,
    /// Over what had not been written for long.
    pub cold: u64,
    /// The first to a range of LBAs, which the pool has to note before.
    pub first: u64,
    /// The journal had no room.
    pub full: u64,
    /// The journal was being drained, or the pool's replay was at its bound.
    pub closed: u64,
}

/// Figures of a namespace. All sizes in bytes; traffic since the pool was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Name.
    pub name: String,
    /// Identity.
    pub id: u32,
    /// Size.
    pub size: u64,
    /// Logical block.
    pub logical_block: u32,
    /// Cipher.
    pub cipher: String,
    /// Compression.
    pub compression: String,
    /// Largest fragment; 0 when that is chosen by how the namespace is used.
    pub unit: u32,
    /// Largest fragment of what is written now.
    #[serde(default)]
    pub unit_now: u32,
    /// Written by the host.
    pub written: u64,
    /// Read by the host.
    pub read: u64,
    /// Discarded or zeroed by the host.
    pub discarded: u64,
    /// Stored for the host's writes.
    pub stored: u64,
    /// What the journal did for it.
    #[serde(default)]
    pub journal: NamespaceJournal,
}

impl Pool {
    /// Figures as of now.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let state = self.core.state.borrow();
        let stats = &self.core.stats;
        let media = self.core.media.stats();
        let before = state.root.lifetime;
        let host_written = before.host_written + stats.host_written.get();
        let stored = before.stored + stats.stored.get();
        let media_written = before.media_written + media.written_bytes.get();
        let free = state.log.segments.iter().filter(|(_, info)| {
            matches!(info.state, SegmentState::Free | SegmentState::Announcing | SegmentState::Announced)
        });
        let refused = state.log.segments.refused_count() as u64;
        let (leaves, resident) = state.leaves();
        let superblock = self.superblock.borrow();
        PoolStatus {
            pool: superblock.pool.to_string(),
            label: label_of(&superblock),
            pool_bytes: superblock.pool_bytes,
            segment_bytes: superblock.segment_bytes,
            segments: superblock.segment_count,
            segments_free: free.count() as u64 - refused,
            segments_refused: refused,
            usage_known: state.log.segments.usage_known(),
            read_only: self.core.latch.reason(),
            host_written,
            host_read: before.host_read + stats.host_read.get(),
            host_discarded: before.host_discarded + stats.host_discarded.get(),
            stored,
            media_written,
            reduction: ratio(host_written, stored),
            write_amplification: ratio(media_written, host_written),
            recent: recent_status(&self.core),
            written: written_status(&stats.written, media.written_bytes.get()),
            overhead: stats.overhead.get(),
            padding: stats.padding.get(),
            absorbed: stats.absorbed.get(),
            corrupt: stats.corrupt.get(),
            read_errors: stats.read_errors.get(),
            no_space: stats.no_space.get(),
            segments_cleaned: stats.cleaned.get(),
            segments_cleaned_ahead: stats.cleaned_ahead.get(),
            recompressed: self.core.recompress_status(),
            relocated: stats.relocated_blocks.get() * u64::from(BLOCK_SIZE),
            relocated_stored: stats.relocated_bytes.get(),
            fragments_unpacked: stats.unpacked.get(),
            flushes: stats.flushes.get(),
            media_flushes: media.flushes.get(),
            leaves_written: stats.leaves_written.get(),
            roots: stats.roots.get(),
            percent_used: self.core.percent_used(),
            fullness: self.core.fullness(),
            map_total: leaf_bytes(leaves),
            map_resident: leaf_bytes(resident),
            map_limit: (state.clock.budget() != usize::MAX).then(|| leaf_bytes(state.clock.budget())),
            map_hits: stats.map_hits.get(),
            map_misses: stats.map_misses.get(),
            accounting: !state.accounts.is_settled(),
            scrub: self.core.scrub.status(),
            journal: self.journal_status(),
            namespaces: state.namespaces.values().map(namespace_status).collect(),
        }
    }
}

impl Pool {
    fn journal_status(&self) -> Option<JournalStatus> {
        let (name, tier0) = (self.journal.borrow(), self.core.tier0()?);
        let state = self.core.state.borrow();
        let table = &state.log.journal;
        Some(JournalStatus {
            journal: name.as_ref()?.id.to_string(),
            kind: tier0.journal.kind().to_string(),
            bytes: table.count() as u64 * u64::from(JOURNAL_SEGMENT_BYTES),
            segments: table.count() as u64,
            segments_free: (table.free_count() + table.waiting_count()) as u64,
            resident: table.live_blocks() * u64::from(BLOCK_SIZE),
            written: tier0.journal.written_bytes(),
            persists: tier0.persists.get(),
            destaged_segments: tier0.destaged_segments.get(),
        })
    }
}

fn recent_status(core: &Core) -> RecentStatus {
    let Reading { at_ns, host_written, stored, media_written } = core.recent.until(core.reading());
    RecentStatus {
        seconds: at_ns / 1_000_000_000,
        host_written,
        stored,
        media_written,
        reduction: ratio(host_written, stored),
        write_amplification: ratio(media_written, host_written),
    }
}

fn written_status(written: &Written, total: u64) -> WrittenStatus {
    WrittenStatus {
        total,
        payload: written.payload.get(),
        headers: written.headers.get(),
        batches: written.batches.get(),
        summaries: written.summaries.get(),
        moved: written.moved.get(),
        map: written.map.get(),
        roots: written.roots.get(),
        prepared: written.prepared.get(),
        other: total - written.sum(),
    }
}

fn namespace_journal(namespace: &crate::core::Namespace) -> NamespaceJournal {
    let stats = &namespace.stats;
    let (acknowledged, destaged) = (stats.journal_acknowledged.get(), stats.journal_destaged.get());
    let bypassed_as = Bypassed {
        zeros: stats.bypassed(Bypass::Zeros),
        large: stats.bypassed(Bypass::Large),
        load: stats.bypassed(Bypass::Load),
        cold: stats.bypassed(Bypass::Cold),
        first: stats.bypassed(Bypass::Unmarked),
        full: stats.bypassed(Bypass::Full),
        closed: stats.bypassed(Bypass::Closed),
    };
    NamespaceJournal {
        acknowledged,
        died: stats.journal_left.get() - destaged,
        destaged,
        destaged_percent: 100.0 * ratio(destaged, acknowledged),
        bypassed: bypassed_as.total(),
        bypassed_as,
        resident: namespace.on_journal * u64::from(BLOCK_SIZE),
    }
}

impl Bypassed {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { zeros, large, load, cold, first, full, closed } = self;
        zeros + large + load + cold + first + full + closed
    }
}

fn namespace_status(namespace: &crate::core::Namespace) -> NamespaceStatus {
    let entry = &namespace.entry;
    NamespaceStatus {
        name: entry.name.clone(),
        id: entry.id.0,
        size: entry.blocks * u64::from(BLOCK_SIZE),
        logical_block: entry.logical_block,
        cipher: entry.cipher.to_string(),
        compression: entry.compression.to_string(),
        unit: u32::from(entry.unit_blocks) * BLOCK_SIZE,
        unit_now: u32::try_from(namespace.unit_blocks()).unwrap_or(0) * BLOCK_SIZE,
        written: namespace.stats.written.get(),
        read: namespace.stats.read.get(),
        discarded: namespace.stats.discarded.get(),
        stored: namespace.stats.stored.get(),
        journal: namespace_journal(namespace),
    }
}

fn leaf_bytes(leaves: usize) -> u64 {
    leaves as u64 * LEAF_BYTES as u64
}

/// The label without its padding.
#[must_use]
pub(super) fn label_of(superblock: &Superblock) -> String {
    String::from_utf8_lossy(&superblock.label).trim_end_matches('\0').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
