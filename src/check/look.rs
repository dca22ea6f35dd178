//! Looks into a pool for engineers: what is in a segment, a batch, a leaf; where an LBA is. `plica dump` prints them.

use serde::Serialize;

use super::map::Group;
use super::segment::{Source, granule_of, one};
use super::snapshot::Snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::journal::journal_segment;
use crate::format::record::{Place, RecordBody, RecordHeader};
use crate::format::root::WindowState;
use crate::format::summary::{Change, SummaryEntry};
use crate::format::{Entry, Location, State, Tier};
use crate::limits::{BLOCK_SIZE, GRANULE};
use crate::log::walk::walk_all;
use crate::map::{first_lba, leaf_of};
use crate::units::{Granule, Lba, NamespaceId, SegmentId};

/// A segment.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentView {
    /// Whether it is one of the journal's.
    pub journal: bool,
    /// Which.
    pub segment: u32,
    /// Its byte on the medium: the pool's, or the journal's.
    pub offset: u64,
    /// How often it was opened.
    pub generation: u32,
    /// How its records are known: `summary`, `window` (recovery accepts exactly these), `walk` or `nothing`.
    pub source: String,
    /// Its batches.
    pub batches: Vec<BatchView>,
    /// Its records.
    pub records: Vec<RecordView>,
}

/// A batch.
#[derive(Clone, Debug, Serialize)]
pub struct BatchView {
    /// Its byte in the segment.
    pub byte: u32,
    /// Bytes of header and records.
    pub length: u32,
    /// Records.
    pub records: u32,
    /// The session that wrote it, as 16 hexadecimal digits.
    pub session: String,
    /// Operation number of its first record.
    pub first_op: u64,
    /// Operation number of its last record.
    pub last_op: u64,
    /// Everything up to this number was durable when it was closed.
    pub settled: u64,
}

/// A record.
#[derive(Clone, Debug, Serialize)]
pub struct RecordView {
    /// Operation number.
    pub op: u64,
    /// `write`, `move`, `clear`, `leaf` or `image`.
    pub kind: String,
    /// Namespace; its number when it is no more.
    pub namespace: String,
    /// First LBA.
    pub first_lba: u64,
    /// LBAs.
    pub lbas: u64,
    /// Its byte in the segment; not known for a CLEAR that only the summary tells of.
    pub byte: Option<u32>,
    /// Payload bytes.
    pub stored: Option<u16>,
    /// Codec of a fragment.
    pub codec: Option<String>,
    /// Seal number of a fragment: session and counter.
    pub seal: Option<String>,
    /// Why it does not verify, if so.
    pub problem: Option<String>,
}

/// A leaf of the map.
#[derive(Clone, Debug, Serialize)]
pub struct LeafView {
    /// Namespace.
    pub namespace: String,
    /// LBA / 512.
    pub leaf: u32,
    /// Where its durable image is; none when it has none.
    pub image: Option<PlaceView>,
    /// The image has all operations up to this number.
    pub complete: u64,
    /// Its blocks that are somewhere, as the next start will have them.
    pub entries: Vec<LbaView>,
}

/// An LBA.
#[derive(Clone, Debug, Serialize)]
pub struct LbaView {
    /// Which.
    pub lba: u64,
    /// `hole`, `data`, `zero` or `lost`.
    pub state: String,
    /// Where its fragment is.
    pub at: Option<PlaceView>,
    /// Which block of the fragment.
    pub index: Option<u8>,
}

/// A place on the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceView {
    /// Whether it is in the journal.
    pub journal: bool,
    /// Segment.
    pub segment: u32,
    /// Byte in the segment.
    pub byte: u32,
    /// Byte on the medium: the pool's, or the journal's.
    pub offset: u64,
    /// Sectors of 512 bytes that are read for it.
    pub sectors: u8,
}

impl Snapshot {
    /// A namespace by name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn namespace(&self, name: &str) -> Result<NamespaceId> {
        let found = self.table.entries.iter().find(|entry| entry.name == name);
        found.map(|entry| entry.id).ok_or_else(|| {
            let names: Vec<_> = self.table.entries.iter().map(|entry| entry.name.as_str()).collect();
            let text = format!("no namespace {name:?} in this pool; it has: {}", names.join(", "));
            Error::new(ErrorKind::NotFound, text)
        })
    }

    /// What is in a segment of the pool, or of its journal (tier 0).
    ///
    /// # Errors
    /// There is no such segment, or it cannot be read.
    pub async fn segment(&self, tier: Tier, id: SegmentId) -> Result<SegmentView> {
        if tier == Tier::Pmem {
            return self.segment_of_journal(id).await;
        }
        let count = self.superblock.segment_count;
        if id.0 >= count {
            return Err(Error::new(ErrorKind::OutOfRange, format!("segment {id} of {count} (from 0)")));
        }
        let (source, records, bytes) = one(self, id).await?;
        let place = self.place(id);
        let view = |record: &SummaryEntry| self.record_view(record, &place, &bytes);
        Ok(SegmentView {
            journal: false,
            segment: id.0,
            offset: self.layout.segment(id),
            generation: self.generation(id).0,
            source: match source {
                Source::Summary => "summary",
                Source::Window => "window",
                Source::Walk => "walk",
                Source::Nothing | Source::Unreadable(_) => "nothing",
            }
            .to_owned(),
            records: records.iter().map(view).collect(),
            batches: batches(&place, &bytes),
        })
    }

    async fn segment_of_journal(&self, id: SegmentId) -> Result<SegmentView> {
        let Some(journal) = &self.journal else {
            return Err(Error::new(ErrorKind::NotFound, "this pool has no journal, or none that can be used"));
        };
        let bytes = journal.segment(id).await?;
        let place = journal.place(&self.root, id);
        let records = walk_all(&bytes, &place);
        Ok(SegmentView {
            journal: true,
            segment: id.0,
            offset: journal_segment(id),
            generation: place.generation.0,
            source: if records.is_empty() { "nothing" } else { "walk" }.to_owned(),
            records: records.iter().map(|record| self.record_view(record, &place, &bytes)).collect(),
            batches: batches(&place, &bytes),
        })
    }

    /// What is in the batch that starts at `byte` of a segment: the batch alone, and the records that lie in it.
    ///
    /// # Errors
    /// There is none.
    pub async fn batch(&self, tier: Tier, id: SegmentId, byte: u32) -> Result<SegmentView> {
        let mut view = self.segment(tier, id).await?;
        let starts: Vec<_> = view.batches.iter().map(|b| b.byte.to_string()).collect();
        view.batches.retain(|batch| batch.byte == byte);
        let Some(batch) = view.batches.first() else {
            let text =
                format!("no batch starts at byte {byte} of segment {id}; batches start at: {}", starts.join(", "));
            return Err(Error::new(ErrorKind::NotFound, text));
        };
        view.records.retain(|record| (batch.first_op..=batch.last_op).contains(&record.op));
        Ok(view)
    }

    /// What is in a leaf, as the next start will have it.
    ///
    /// # Errors
    /// The namespace has no such leaf, or its image does not verify.
    pub async fn leaf_view(&self, id: NamespaceId, leaf: u32) -> Result<LeafView> {
        let group = self.replayed(id, leaf).await?;
        let image = self.image((id, leaf));
        let first = first_lba(leaf).0;
        let lbas = (first..self.blocks_of(id).min(first + crate::limits::LEAF_ENTRIES as u64)).map(Lba);
        let entries = lbas.map(|lba| (lba, group.mapped(id, lba))).filter(|(_, entry)| *entry != Entry::HOLE);
        Ok(LeafView {
            namespace: self.name(id),
            leaf,
            image: image.entry.location().map(|l| self.place_view(&l)),
            complete: image.complete.0,
            entries: entries.map(|(lba, entry)| self.lba_view(lba, entry)).collect(),
        })
    }

    /// Where an LBA is, as the next start will have it, and the fragment there.
    ///
    /// # Errors
    /// It is beyond the end, or its leaf does not verify. A fragment that does not verify is told in its view.
    pub async fn lba(&self, id: NamespaceId, lba: Lba) -> Result<(LbaView, Option<RecordView>)> {
        if lba.0 >= self.blocks_of(id) {
            let text = format!("LBA {lba}: namespace {} has {}", self.name(id), self.blocks_of(id));
            return Err(Error::new(ErrorKind::OutOfRange, text));
        }
        let group = self.replayed(id, leaf_of(lba)).await?;
        let entry = group.mapped(id, lba);
        let view = self.lba_view(lba, entry);
        let Some(location) = entry.location() else { return Ok((view, None)) };
        let record = match self.fragment(&location, id, lba).await {
            Ok(header) => header_view(&header, self.name(id), location.granule),
            Err(error) => RecordView {
                op: 0,
                kind: "unknown".to_owned(),
                namespace: self.name(id),
                first_lba: lba.0,
                lbas: 1,
                byte: Some(location.granule.0 * GRANULE),
                stored: None,
                codec: None,
                seal: None,
                problem: Some(error.to_string()),
            },
        };
        Ok((view, Some(record)))
    }

    async fn replayed(&self, id: NamespaceId, leaf: u32) -> Result<Group> {
        let last = leaf_of(Lba(self.blocks_of(id).saturating_sub(1)));
        if leaf > last {
            let text = format!("leaf {leaf}: the last of namespace {} is {last}", self.name(id));
            return Err(Error::new(ErrorKind::OutOfRange, text));
        }
        let mut group = Group::default();
        let entries = self.leaf((id, leaf)).await;
        let entries =
            entries.map_err(|(location, error)| error.within(format!("leaf {leaf} in {}", location.segment)))?;
        group.insert((id, leaf), &entries);
        group.replay(self);
        Ok(group)
    }

    fn name(&self, id: NamespaceId) -> String {
        let found = self.table.entries.iter().find(|entry| entry.id == id);
        found.map_or_else(|| id.to_string(), |entry| entry.name.clone())
    }

    fn record_view(&self, record: &SummaryEntry, segment: &Place, bytes: &[u8]) -> RecordView {
        let name = self.name(record.namespace);
        let Some(granule) = granule_of(&record.change) else {
            let Change::Clear { count } = record.change else { unreachable!("only a CLEAR has no place") };
            return RecordView {
                op: record.op.0,
                kind: "clear".to_owned(),
                namespace: name,
                first_lba: record.first.0,
                lbas: count,
                byte: None,
                stored: None,
                codec: None,
                seal: None,
                problem: None,
            };
        };
        let found = bytes.get((granule.0 * GRANULE) as usize..).unwrap_or_default();
        match RecordHeader::decode_whole(found, &segment.at(granule)) {
            Ok((header, _)) => RecordView { op: record.op.0, ..header_view(&header, name, granule) },
            Err(error) => RecordView {
                op: record.op.0,
                kind: "unknown".to_owned(),
                namespace: name,
                first_lba: record.first.0,
                lbas: 0,
                byte: Some(granule.0 * GRANULE),
                stored: None,
                codec: None,
                seal: None,
                problem: Some(error.to_string()),
            },
        }
    }

    fn lba_view(&self, lba: Lba, entry: Entry) -> LbaView {
        let location = entry.location();
        let state = match entry.state() {
            State::Hole => "hole",
            State::Data(_) => "data",
            State::Zero(_) => "zero",
            State::Lost => "lost",
        };
        LbaView {
            lba: lba.0,
            state: state.to_owned(),
            at: location.map(|l| self.place_view(&l)),
            index: location.map(|l| l.index),
        }
    }

    fn place_view(&self, location: &Location) -> PlaceView {
        let byte = location.granule.0 * GRANULE;
        let journal = location.tier() == Tier::Pmem;
        let start = if journal { journal_segment(location.segment) } else { self.layout.segment(location.segment) };
        let offset = start + u64::from(byte);
        PlaceView { journal, segment: location.segment.0, byte, offset, sectors: location.sectors }
    }
}

/// The batches of a segment whose headers verify.
fn batches(segment: &Place, bytes: &[u8]) -> Vec<BatchView> {
    let (mut at, mut all) = (0, Vec::new());
    while let Some(rest) = bytes.get(at as usize..).filter(|rest| !rest.is_empty()) {
        let Ok(header) = BatchHeader::decode(rest, &segment.at(Granule(at / GRANULE))) else {
            at += BLOCK_SIZE;
            continue;
        };
        all.push(BatchView {
            byte: at,
            length: header.length,
            records: header.count,
            session: format!("{:016x}", header.session.0),
            first_op: header.first_op.0,
            last_op: header.last_op.0,
            settled: header.settled.0,
        });
        at += header.length.next_multiple_of(BLOCK_SIZE);
    }
    all
}

fn header_view(header: &RecordHeader, namespace: String, granule: Granule) -> RecordView {
    let (kind, lbas, codec, seal) = match header.body {
        RecordBody::Fragment { moved, codec, count, seal, .. } => {
            let kind = if moved { "move" } else { "write" };
            (kind, u64::from(count), Some(codec.to_string()), Some(format!("{:016x}:{}", seal.session.0, seal.counter)))
        }
        RecordBody::Clear { count } => ("clear", count, None, None),
        RecordBody::Leaf { .. } => ("leaf", crate::limits::LEAF_ENTRIES as u64, None, None),
        RecordBody::Image { .. } => ("image", 0, None, None),
    };
    RecordView {
        op: 0,
        kind: kind.to_owned(),
        namespace,
        first_lba: header.first.0,
        lbas,
        byte: Some(granule.0 * GRANULE),
        stored: Some(header.stored),
        codec,
        seal,
        problem: None,
    }
}

/// The newest root, with the superblock it belongs to.
#[derive(Clone, Debug, Serialize)]
pub struct RootView {
    /// The pool.
    pub pool: String,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Segments.
    pub segments: u32,
    /// Counts switches of the root.
    pub sequence: u64,
    /// Its session, as 16 hexadecimal digits.
    pub session: String,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// Records above this number are replayed.
    pub replay_start: u64,
    /// Highest number seen when it was made.
    pub last_op: u64,
    /// Number of the root that first named the full image of the directory; 0 for none.
    pub image: u64,
    /// Where the parts of the image are.
    pub image_parts: Vec<PlaceView>,
    /// Leaf images changed since the full image.
    pub directory_changes: usize,
    /// Generations changed since the full image.
    pub generation_changes: usize,
    /// Older sessions in the window, with the last number accepted of each.
    pub sessions: Vec<(String, u64)>,
    /// Segments that recovery looks at.
    pub window: Vec<WindowView>,
}

/// A segment that recovery looks at.
#[derive(Clone, Debug, Serialize)]
pub struct WindowView {
    /// Which.
    pub segment: u32,
    /// The generation whose records count.
    pub generation: u32,
    /// `announced`, `open` or `flushed`.
    pub state: String,
    /// Bytes of batches in it when the root was made.
    pub end: u32,
    /// Records in it that recovery accepts.
    pub records: usize,
}

impl Snapshot {
    /// The newest root.
    #[must_use]
    pub fn root_view(&self) -> RootView {
        let root = &self.root;
        let window = self.recovered.segments.iter().map(|s| WindowView {
            segment: s.listed.segment.0,
            generation: s.listed.generation.0,
            state: match s.listed.state {
                WindowState::Announced => "announced",
                WindowState::Open => "open",
                WindowState::Flushed => "flushed",
            }
            .to_owned(),
            end: s.listed.end,
            records: s.records.len(),
        });
        let parts = root.image_parts.iter().filter_map(|entry| entry.location());
        RootView {
            pool: root.pool.to_string(),
            segment_bytes: self.superblock.segment_bytes,
            segments: self.superblock.segment_count,
            sequence: root.sequence,
            session: format!("{:016x}", root.session.0),
            clean: root.clean,
            replay_start: root.replay_start.0,
            last_op: root.last_op.0,
            image: root.image,
            image_parts: parts.map(|location| self.place_view(&location)).collect(),
            directory_changes: root.directory.len(),
            generation_changes: root.segments.len(),
            sessions: root.sessions.iter().map(|s| (format!("{:016x}", s.session.0), s.last_accepted.0)).collect(),
            window: window.collect(),
        }
    }
}
