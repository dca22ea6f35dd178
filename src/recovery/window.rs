//! The replay window: every segment that the root lists, read by its summary or walked.

use futures_util::stream::{self, StreamExt};

use super::RecoveredJournal;
use crate::buf::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::Place;
use crate::format::root::{Root, WindowSegment, WindowState};
use crate::format::summary::{Change, SummaryEntry, decode_footer, decode_summary, summary_bytes};
use crate::format::{Tier, layout::Layout};
use crate::limits::BLOCK_BYTES;
use crate::log::walk::{Acceptance, Walked, walk_segment};
use crate::log::{OpenSegment, StreamKind};
use crate::media::Media;
use crate::units::{Granule, OpNo, SegmentId};

/// Segments read at a time: up to so many are in memory.
const DEPTH: usize = 8;

/// A segment of the window after it was read.
pub struct RecoveredSegment {
    /// As the root lists it.
    pub listed: WindowSegment,
    /// Its records, unless whoever scans has taken them.
    pub records: Vec<SummaryEntry>,
    /// How its records are known.
    pub known: Known,
    /// Highest record and highest CLEAR.
    pub tops: (OpNo, OpNo),
    /// Blocks (or leaves and image parts) of its records, dead ones included as far as records tell.
    pub total: u32,
    /// The stream that filled it; `None` when it holds nothing.
    pub stream: Option<StreamKind>,
}

/// How the records of a segment are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// By its summary, which the root calls flushed.
    Summary,
    /// It was walked: accepted batches end at this byte, where appending may go on.
    Walk(u32),
    /// Walking it met damage of what was durable: there may be more records than these.
    Damaged,
}

/// Everything that the window holds.
pub struct Recovered {
    /// Its segments, in the root's order.
    pub segments: Vec<RecoveredSegment>,
    /// Highest accepted number.
    pub accepted: OpNo,
    /// Highest number seen anywhere.
    pub highest: OpNo,
    /// Damage of what was durable: the pool opens read-only.
    pub damage: Vec<String>,
}

/// Reads all segments that the root lists, and hands each to `found`, which may take its records: of a large window they are
/// more than memory should hold.
///
/// # Errors
/// A read error; what `found` says. A damaged summary is a reason to walk its segment.
pub async fn scan_window(
    media: &Media,
    layout: &Layout,
    root: &Root,
    mut found: impl FnMut(&mut RecoveredSegment) -> Result<()>,
) -> Result<Recovered> {
    let acceptance = Acceptance { current: root.session, earlier: &root.sessions, replay_start: root.replay_start };
    let mut recovered = Recovered {
        segments: Vec::with_capacity(root.window.len()),
        accepted: root.replay_start,
        highest: root.last_op,
        damage: Vec::new(),
    };
    let mut settled = OpNo(0);
    let mut bad = Vec::new();
    let reads = root.window.iter().map(|listed| read_segment(media, layout, root, listed, &acceptance));
    let mut reads = stream::iter(reads).buffered(DEPTH);
    while let Some(read) = reads.next().await {
        let (listed, read) = read?;
        let walked = match read {
            Read::Summary(records) => {
                let mut segment = RecoveredSegment::new(*listed, records, Known::Summary);
                recovered.accepted = recovered.accepted.max(segment.tops.0);
                found(&mut segment)?;
                recovered.segments.push(segment);
                continue;
            }
            Read::Walked(walked) => walked,
        };
        let Walked { records, end, highest_accepted, settled: said, highest, damage, bad_below } = walked;
        recovered.highest = recovered.highest.max(highest);
        recovered.accepted = recovered.accepted.max(highest_accepted);
        settled = settled.max(said);
        let at = format!("segment {} at byte {end}", listed.segment);
        let known = if damage.is_some() { Known::Damaged } else { Known::Walk(end) };
        if let Some(error) = damage {
            let text = format!("{at}: {error}, though it was durable");
            // after a clean stop the map has all of it: who reads it gets an error, and nobody appends there
            if root.clean {
                tracing::error!("{text}; what is behind it is read as far as it verifies");
            } else {
                recovered.damage.push(text);
            }
        }
        bad.extend(bad_below.map(|op| (at, op)));
        let mut segment = RecoveredSegment::new(*listed, records, known);
        found(&mut segment)?;
        recovered.segments.push(segment);
    }
    recovered.highest = recovered.highest.max(recovered.accepted);
    for (at, op) in bad.into_iter().filter(|(_, op)| *op > root.replay_start && *op <= settled) {
        recovered.damage.push(format!(
            "{at}: a batch with operations up to {op} is damaged, though all up to {settled} were durable"
        ));
    }
    Ok(recovered)
}

impl Recovered {
    /// What was found on tier 0 counts too.
    pub fn add_journal(&mut self, journal: &RecoveredJournal) {
        self.accepted = self.accepted.max(journal.accepted);
        self.highest = self.highest.max(journal.highest).max(self.accepted);
    }
}

/// A segment as it was read.
enum Read {
    Summary(Vec<SummaryEntry>),
    Walked(Walked),
}

async fn read_segment<'a>(
    media: &Media,
    layout: &Layout,
    root: &Root,
    listed: &'a WindowSegment,
    acceptance: &Acceptance<'_>,
) -> Result<(&'a WindowSegment, Read)> {
    let place = place_of(root, listed);
    match trusted_summary(media, layout, listed, &place).await? {
        Some(records) => Ok((listed, Read::Summary(records))),
        None => Ok((listed, Read::Walked(walk(media, layout, listed, &place, acceptance).await?))),
    }
}

/// The records of a segment that the root calls flushed, if its summary verifies.
async fn trusted_summary(
    media: &Media,
    layout: &Layout,
    listed: &WindowSegment,
    place: &Place,
) -> Result<Option<Vec<SummaryEntry>>> {
    if listed.state != WindowState::Flushed {
        return Ok(None);
    }
    match read_summary(media, layout, place).await {
        Ok(records) => Ok(Some(records)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!("{error}; the segment is walked instead");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn place_of(root: &Root, listed: &WindowSegment) -> Place {
    let WindowSegment { segment, generation, .. } = *listed;
    Place { pool: root.pool, tier: Tier::Ssd, segment, generation, granule: Granule(0) }
}

async fn walk(
    media: &Media,
    layout: &Layout,
    listed: &WindowSegment,
    place: &Place,
    acceptance: &Acceptance<'_>,
) -> Result<Walked> {
    let len = layout.segment_bytes as usize;
    let (bytes, result) = media.read(layout.segment(place.segment), AlignedBuf::zeroed(len), len).await;
    result.map_err(|e| e.within(format!("segment {}", place.segment)))?;
    Ok(walk_segment(&bytes, place, listed.end, acceptance))
}

async fn read_summary(media: &Media, layout: &Layout, place: &Place) -> Result<Vec<SummaryEntry>> {
    let within = |e: Error| e.within(format!("summary of segment {}", place.segment));
    let tail = read_tail(media, layout, place.segment, BLOCK_BYTES).await.map_err(within)?;
    let (count, _, _) = decode_footer(&tail, place).map_err(within)?;
    let bytes = summary_bytes(count).next_multiple_of(BLOCK_BYTES);
    let tail =
        if bytes > BLOCK_BYTES { read_tail(media, layout, place.segment, bytes).await.map_err(within)? } else { tail };
    decode_summary(&tail, place).map_err(within)
}

async fn read_tail(media: &Media, layout: &Layout, segment: SegmentId, bytes: usize) -> Result<AlignedBuf> {
    let end = layout.segment(segment) + u64::from(layout.segment_bytes);
    let (buf, result) = media.read(end - bytes as u64, AlignedBuf::zeroed(bytes), bytes).await;
    result.map(|()| buf)
}

impl RecoveredSegment {
    fn new(listed: WindowSegment, records: Vec<SummaryEntry>, known: Known) -> Self {
        let top = records.iter().map(|r| r.op).max().unwrap_or_default();
        let clears = records.iter().filter(|r| matches!(r.change, Change::Clear { .. }));
        let tops = (top, clears.map(|r| r.op).max().unwrap_or_default());
        let blocks = |record: &SummaryEntry| match record.change {
            Change::Fragment { mask, .. } => mask.count_ones(),
            Change::Other { .. } => 1,
            Change::Clear { .. } => 0,
        };
        let total = records.iter().map(blocks).sum();
        let stream = records.first().map(|record| match record.change {
            Change::Other { .. } => StreamKind::Leaf,
            Change::Fragment { moved: true, .. } => StreamKind::Move,
            Change::Fragment { moved: false, .. } | Change::Clear { .. } => StreamKind::Host,
        });
        Self { listed, records, known, tops, total, stream }
    }

    /// As an open segment, to be appended to or to be sealed; `None` if nothing in it counts, or not all of it is known.
    #[must_use]
    pub fn reopened(&self) -> Option<OpenSegment> {
        let Known::Walk(at) = self.known else { return None };
        (at > 0).then(|| OpenSegment { id: self.listed.segment, at, summary: self.records.clone() })
    }
}
