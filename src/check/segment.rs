//! One segment: its records, by its summary or by walking it, and which of them do not verify.

use std::collections::VecDeque;
use std::pin::Pin;

use super::report::Totals;
use super::snapshot::Snapshot;
use crate::buf::AlignedBuf;
use crate::error::{Error, Result};
use crate::format::Location;
use crate::format::layout::Layout;
use crate::format::record::{Place, RecordHeader, RecordKind};
use crate::format::summary::{Change, SummaryEntry, decode_summary};
use crate::limits::{BLOCK_BYTES, GRANULE};
use crate::log::walk::walk_all;
use crate::media::Media;
use crate::recovery::Known;
use crate::units::{Generation, Granule, Lba, NamespaceId, SegmentId};

/// Segments being read.
const DEPTH: usize = 3;
/// Holds nearly every summary; a segment whose summary is longer is one whose records are not all known.
const SUMMARY_TAIL_BYTES: usize = 256 << 10;

/// How the records of a segment are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It was never written in its current generation.
    Nothing,
    /// Its summary tells all of them.
    Summary,
    /// Recovery accepts exactly these.
    Window,
    /// Those that could be found: batches that recovery once rejected may be among them.
    Walk,
    /// It could not be read.
    Unreadable(String),
}

impl Source {
    /// Whether every record that counts is known, and no other.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Summary | Self::Window)
    }
}

/// What is in a segment.
pub(super) struct Content {
    pub(super) source: Source,
    /// Its records with the bytes they take (0: of no interest, or not to be read).
    pub(super) records: Vec<(SummaryEntry, u32)>,
    /// Records that do not verify.
    pub(super) damaged: Vec<(Granule, String)>,
    pub(super) tally: Totals,
}

/// The contents of all segments in order, read ahead. With `verify` every record is verified; without, only what the
/// records say is of interest.
pub(super) fn contents(snapshot: &Snapshot, verify: bool) -> Contents<'_> {
    let count = u32::try_from(snapshot.directories.generations.len()).unwrap_or(u32::MAX);
    Contents { snapshot, verify, ids: (0..count).map(SegmentId).collect(), reading: VecDeque::new() }
}

type Reading<'a> = Pin<Box<dyn Future<Output = Content> + 'a>>;

/// See [`contents`].
pub(super) struct Contents<'a> {
    snapshot: &'a Snapshot,
    verify: bool,
    ids: VecDeque<SegmentId>,
    reading: VecDeque<(SegmentId, Reading<'a>)>,
}

impl Contents<'_> {
    pub(super) async fn next(&mut self) -> Option<(SegmentId, Content)> {
        while self.reading.len() < DEPTH
            && let Some(id) = self.ids.pop_front()
        {
            self.reading.push_back((id, Box::pin(content(self.snapshot, id, self.verify))));
        }
        let (id, reading) = self.reading.pop_front()?;
        Some((id, reading.await))
    }
}

/// Begins to read a segment at once.
fn content(snapshot: &Snapshot, id: SegmentId, verify: bool) -> impl Future<Output = Content> + use<'_> {
    let is_written = snapshot.generation(id) != Generation(0);
    let recovered = snapshot.in_window(id);
    let all = snapshot.layout.segment_bytes as usize;
    let len = if verify { all } else { SUMMARY_TAIL_BYTES };
    let reading = (is_written && (verify || recovered.is_none())).then(|| read_tail(snapshot, id, len));
    async move {
        let place = snapshot.place(id);
        let bytes = match reading {
            None => AlignedBuf::zeroed(0),
            Some(reading) => match reading.await {
                (_, Err(error)) => return Content::none(Source::Unreadable(error.to_string())),
                (bytes, Ok(())) => bytes,
            },
        };
        let (source, records) = match known(snapshot, id, &bytes) {
            Some(known) => known,
            None if bytes.len() == all => (Source::Walk, walk_all(&bytes, &place)),
            // what a walk finds is no complete list, and its records were verified by the pass that verifies
            None => (Source::Walk, Vec::new()),
        };
        if source == Source::Walk && verify && records.is_empty() {
            // announced and not opened, or withdrawn
            return Content::none(Source::Nothing);
        }
        let mut content = Content::none(source);
        for record in records {
            let taken = if verify { content.verify(&record, &bytes, &place) } else { 0 };
            content.records.push((record, taken));
        }
        if verify && !content.records.is_empty() {
            content.tally.segments_written = 1;
            content.tally.segments_summarised = u64::from(content.source == Source::Summary);
        }
        content
    }
}

/// All records of a segment that count, if that is known.
fn known(snapshot: &Snapshot, id: SegmentId, tail: &[u8]) -> Option<(Source, Vec<SummaryEntry>)> {
    match snapshot.in_window(id) {
        Some(recovered) if recovered.known != Known::Damaged => Some((Source::Window, recovered.records.clone())),
        Some(_) => None,
        None => decode_summary(tail, &snapshot.place(id)).ok().map(|records| (Source::Summary, records)),
    }
}

/// One segment: how its records are known, the records, and its bytes.
///
/// # Errors
/// It cannot be read.
pub(super) async fn one(snapshot: &Snapshot, id: SegmentId) -> Result<(Source, Vec<SummaryEntry>, AlignedBuf)> {
    let (bytes, result) = read_tail(snapshot, id, snapshot.layout.segment_bytes as usize).await;
    result?;
    let walk = || (Source::Walk, walk_all(&bytes, &snapshot.place(id)));
    let (source, records) = known(snapshot, id, &bytes).unwrap_or_else(walk);
    let source = if records.is_empty() { Source::Nothing } else { source };
    Ok((source, records, bytes))
}

fn read_tail(snapshot: &Snapshot, id: SegmentId, len: usize) -> impl Future<Output = (AlignedBuf, Result<()>)> + use<> {
    let end = snapshot.layout.segment(id) + u64::from(snapshot.layout.segment_bytes);
    snapshot.media.read(end - len as u64, AlignedBuf::zeroed(len), len)
}

impl Content {
    fn none(source: Source) -> Self {
        Self { source, records: Vec::new(), damaged: Vec::new(), tally: Totals::default() }
    }

    /// Verifies a record where the list says it is. Returns the bytes it takes.
    fn verify(&mut self, entry: &SummaryEntry, bytes: &[u8], place: &Place) -> u32 {
        let Some(granule) = granule_of(&entry.change) else { return 0 };
        let found = bytes.get((granule.0 * GRANULE) as usize..).unwrap_or_default();
        let result = RecordHeader::decode_whole(found, &place.at(granule))
            .and_then(|(header, _)| is_listed(&header, entry).map(|()| header));
        match result {
            Ok(header) => {
                let taken = u32::try_from(header.record_bytes()).unwrap_or(0);
                self.tally.records += 1;
                self.tally.record_bytes += u64::from(taken);
                taken
            }
            Err(error) => {
                self.damaged.push((granule, error.to_string()));
                0
            }
        }
    }
}

/// Where in its segment a record is; a summary does not tell it of a CLEAR.
pub(super) fn granule_of(change: &Change) -> Option<Granule> {
    match change {
        Change::Fragment { entry, .. } => entry.location().map(|l| l.granule),
        Change::Other { granule, .. } => Some(*granule),
        Change::Clear { .. } => None,
    }
}

/// Whether a record is the one that the list tells of.
fn is_listed(header: &RecordHeader, entry: &SummaryEntry) -> Result<()> {
    let kind = match entry.change {
        Change::Fragment { moved: false, .. } => RecordKind::Write,
        Change::Fragment { moved: true, .. } => RecordKind::Move,
        Change::Clear { .. } => RecordKind::Clear,
        Change::Other { kind, .. } => kind,
    };
    let of = |namespace: NamespaceId, first: Lba| (u64::from(namespace.0), first.0);
    if header.kind() != kind {
        return Err(Error::corrupt("record", "kind listed", kind as u64, header.kind() as u64));
    }
    if of(header.namespace, header.first) != of(entry.namespace, entry.first) {
        return Err(Error::corrupt("record", "LBA listed", entry.first.0, header.first.0));
    }
    Ok(())
}

/// The bytes from a record's start on, as many as its entry says.
pub(super) async fn read_record(media: &Media, layout: &Layout, location: &Location) -> Result<Vec<u8>> {
    let start = u64::from(location.granule.0 * GRANULE);
    let end = (start & !511) + u64::from(location.sectors) * 512;
    let block = BLOCK_BYTES as u64;
    let (from, to) = (start & !(block - 1), end.next_multiple_of(block).min(layout.segment_bytes.into()));
    if start >= to {
        return Err(Error::corrupt("entry", "granule", u64::from(layout.segment_bytes), start));
    }
    let len = usize::try_from(to - from).unwrap_or(usize::MAX);
    let (buf, result) = media.read(layout.segment(location.segment) + from, AlignedBuf::zeroed(len), len).await;
    result?;
    Ok(buf[usize::try_from(start - from).unwrap_or(0)..].to_vec())
}
