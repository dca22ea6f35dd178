//! A pool as its next start would take it: its root, its directory, and the window with what is in shared memory.

use std::collections::{BTreeMap, BTreeSet};

use super::copies::{self, Fixed};
use super::journal::JournalSnapshot;
use super::map;
use super::report::{Damage, Report};
use super::segment::read_record;
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::Layout;
use crate::format::namespaces::NamespaceTable;
use crate::format::record::{Place, RecordHeader};
use crate::format::root::{LeafImage, Root};
use crate::format::summary::SummaryEntry;
use crate::format::superblock::Superblock;
use crate::format::{Entry, Location, Tier};
use crate::limits::LEAF_ENTRIES;
use crate::media::Media;
use crate::pool::JournalFound;
use crate::recovery::{self, Directories, Recovered, RecoveredSegment};
use crate::staging::Region;
use crate::units::{Generation, Granule, Lba, NamespaceId, SegmentId};

/// What a killed daemon may have left in shared memory.
pub enum Staged {
    /// Nothing, or nothing that counts.
    Void,
    /// The staging memory of the root's session.
    Region(Region),
    /// It should be there and is not: why.
    Missing(String),
}

/// See the module. Nothing of it changes; what it reads it reads again each time.
pub struct Snapshot {
    /// The superblock.
    pub superblock: Superblock,
    /// The namespaces.
    pub table: NamespaceTable,
    /// The newest root.
    pub root: Root,
    pub(super) media: Media,
    pub(super) layout: Layout,
    pub(super) directories: Directories,
    pub(super) recovered: Recovered,
    /// What is on tier 0, if the pool has a journal and it can be used.
    pub(super) journal: Option<JournalSnapshot>,
    /// Where a segment is in `recovered`.
    window: BTreeMap<SegmentId, usize>,
}

impl Snapshot {
    /// Reads it, with what was found of its journal. What is damaged on the way and did not keep it from being read is in the report.
    ///
    /// # Errors
    /// No pool, no valid root, or an image that cannot be read.
    pub async fn take(
        media: &Media,
        journal: Option<JournalFound>,
        staged: impl FnOnce(&Root) -> Staged,
    ) -> Result<(Self, Report)> {
        // 1. what is outside the segments
        let Fixed { superblock, layout, table, root, mut report } = copies::read(media).await?;
        // 2. what is in shared memory, laid over the medium
        let media = match staged(&root) {
            Staged::Void => media.clone(),
            Staged::Region(region) => {
                let batches = recovery::staged_batches(&layout, &root, &region)?;
                report.totals.staged_batches = batches.len() as u64;
                media.patched(batches)
            }
            Staged::Missing(why) => {
                report.add(Damage::new(why));
                media.clone()
            }
        };
        // 3. the directory, and the records since
        let directories = recovery::load_image(&media, &layout, &root, superblock.segment_count).await?;
        let recovered = recovery::scan_window(&media, &layout, &root, |_| Ok(())).await?;
        let journal = JournalSnapshot::take(&superblock, &root, journal, &mut report).await;
        let journaled = directories.leaves.values().filter(|image| image.journaled).count();
        if journaled > 0 && journal.is_none() {
            report.notes.push(format!("{journaled} leaves that may be newer in the journal are left out"));
        }
        recovered.damage.iter().for_each(|text| report.add(Damage::new(text.clone())));
        let records = recovered.segments.iter().flat_map(|s| &s.records);
        let on_journal = journal.as_ref().map_or(0, |journal| journal.found.records.len());
        let replayed = records.filter(|r| r.op > root.replay_start).count() + on_journal;
        report.totals.replayed_records = replayed as u64;
        let window = recovered.segments.iter().enumerate().map(|(at, s)| (s.listed.segment, at)).collect();
        Ok((Self { superblock, table, root, media, layout, directories, recovered, journal, window }, report))
    }

    pub(super) fn names(&self) -> BTreeMap<NamespaceId, String> {
        self.table.entries.iter().map(|entry| (entry.id, entry.name.clone())).collect()
    }

    /// LBAs of a namespace; 0 when it is not there.
    pub(super) fn blocks_of(&self, id: NamespaceId) -> u64 {
        self.table.entries.iter().find(|entry| entry.id == id).map_or(0, |entry| entry.blocks)
    }

    pub(super) fn generation(&self, segment: SegmentId) -> Generation {
        self.directories.generations.get(segment.0 as usize).copied().unwrap_or_default()
    }

    /// The start of a segment in its current generation.
    pub(super) fn place(&self, segment: SegmentId) -> Place {
        let generation = self.generation(segment);
        Place { pool: self.root.pool, tier: Tier::Ssd, segment, generation, granule: Granule(0) }
    }

    pub(super) fn in_window(&self, segment: SegmentId) -> Option<&RecoveredSegment> {
        self.window.get(&segment).map(|at| &self.recovered.segments[*at])
    }

    pub(super) fn image(&self, key: (NamespaceId, u32)) -> LeafImage {
        self.directories.leaves.get(&key).copied().unwrap_or_default()
    }

    /// All leaves that hold something: durable ones, and those that records of the window write to.
    pub(super) fn leaves(&self) -> BTreeSet<(NamespaceId, u32)> {
        let known = self.names();
        let durable = self.directories.leaves.keys().copied();
        let all = durable.chain(self.records().flat_map(map::leaves_written));
        // of a journaled leaf only the journal knows what is newest
        let is_told = |key: &(NamespaceId, u32)| self.journal.is_some() || !self.image(*key).journaled;
        all.filter(|key| known.contains_key(&key.0) && is_told(key)).collect()
    }

    /// The records of the window and of the journal.
    pub(super) fn records(&self) -> impl Iterator<Item = &SummaryEntry> {
        let on_journal = self.journal.iter().flat_map(|journal| &journal.found.records);
        self.recovered.segments.iter().flat_map(|s| &s.records).chain(on_journal)
    }

    /// Records of leaves and images that the root needs.
    pub(super) fn metadata(&self) -> BTreeSet<(SegmentId, Granule)> {
        let leaves = self.directories.leaves.values().map(|image| image.entry);
        let all = leaves.chain(self.root.image_parts.iter().copied());
        all.filter_map(|entry| entry.location().map(|l| (l.segment, l.granule))).collect()
    }

    /// The entries of a leaf's durable image; holes if it has none. An error comes with the image's place.
    pub(super) async fn leaf(&self, key: (NamespaceId, u32)) -> Result<Box<[Entry; LEAF_ENTRIES]>, (Location, Error)> {
        let image = self.image(key);
        let Some(location) = image.entry.location() else { return Ok(Box::new([Entry::HOLE; LEAF_ENTRIES])) };
        let place = self.place(location.segment).at(location.granule);
        let bytes = self.read(&location).await;
        bytes.and_then(|bytes| map::open_leaf(&bytes, &place, key, image.complete)).map_err(|error| (location, error))
    }

    /// Reads the fragment that an entry means and verifies it.
    ///
    /// # Errors
    /// It cannot be read, does not verify, or is another.
    pub(super) async fn fragment(&self, location: &Location, id: NamespaceId, lba: Lba) -> Result<RecordHeader> {
        if location.tier() == Tier::Pmem {
            let Some(journal) = &self.journal else {
                return Err(Error::new(ErrorKind::NotFound, "it is in the journal, which cannot be used"));
            };
            let bytes = journal.segment(location.segment).await?;
            return journal.fragment(&self.root, &bytes, location, (id, lba));
        }
        let bytes = self.read(location).await?;
        let place = self.place(location.segment).at(location.granule);
        let (header, _) = RecordHeader::decode_whole(&bytes, &place)?;
        header.check_fragment(id, lba, location)?;
        Ok(header)
    }

    /// The bytes from a record's start on, as many as its entry says.
    async fn read(&self, location: &Location) -> Result<Vec<u8>> {
        if location.tier() != Tier::Ssd {
            return Err(Error::corrupt("entry", "tier", 1, location.tier() as u64));
        }
        if location.segment.0 >= self.superblock.segment_count {
            let text = format!("it points to segment {}, which the pool does not have", location.segment);
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        read_record(&self.media, &self.layout, location).await
    }
}
