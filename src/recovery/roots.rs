//! The newest valid root, and the directory and generations it stands for.

use std::collections::BTreeMap;

use crate::buf::AlignedBuf;
use crate::env::reactor::IoBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Tier;
use crate::format::entry::Entry;
use crate::format::image::{IMAGE_PART_BYTES, decode_image};
use crate::format::layout::{COPIES, Layout, ROOT_BYTES, ROOT_SLOTS};
use crate::format::record::{Place, RECORD_HEADER_BYTES, RecordBody, RecordHeader};
use crate::format::root::{LeafImage, Root};
use crate::limits::GRANULE;
use crate::media::Media;
use crate::units::{Generation, NamespaceId, PoolId, SegmentId};

/// What a root stands for.
pub struct Directories {
    /// Durable leaf images by namespace and leaf.
    pub leaves: BTreeMap<(NamespaceId, u32), LeafImage>,
    /// Generation of each segment.
    pub generations: Vec<Generation>,
}

/// Reads all copies of both slots and takes the newest valid root; also whether both of its copies hold it.
///
/// # Errors
/// A slot cannot be read, or no copy is valid.
pub async fn newest_root(media: &Media, layout: &Layout, pool: PoolId) -> Result<(Root, bool)> {
    let mut newest: Option<(Root, bool)> = None;
    let mut reasons = Vec::new();
    for slot in 0..ROOT_SLOTS {
        let mut unreadable = 0;
        for copy in 0..COPIES {
            let (buf, result) = media.read(layout.root(slot, copy), AlignedBuf::zeroed(ROOT_BYTES), ROOT_BYTES).await;
            unreadable += usize::from(result.is_err());
            let decoded = result.and_then(|()| Root::decode(&buf, pool));
            match decoded {
                Ok(root) => match &mut newest {
                    Some((known, both)) if *known == root => *both = true,
                    Some((known, _)) if known.sequence >= root.sequence => {}
                    _ => newest = Some((root, false)),
                },
                Err(error) => reasons.push(format!("slot {slot} copy {copy}: {error}")),
            }
        }
        // the newest root may be there: going back a generation would lose what was promised
        if unreadable == COPIES {
            let reasons = reasons.join("; ");
            return Err(Error::new(ErrorKind::Io, format!("neither copy of root slot {slot} can be read: {reasons}")));
        }
    }
    newest.ok_or_else(|| {
        let reasons = reasons.join("; ");
        Error::new(ErrorKind::Corrupt, format!("no valid root, so the pool cannot be opened: {reasons}"))
    })
}

/// Writes the newest root to the copy of its slot that does not hold it, and flushes: a switch may have been cut short.
///
/// So a slot of which a copy is bad while the other slot is being written is that of the newest root and no other.
///
/// # Errors
/// The medium's.
pub async fn complete_root(media: &Media, layout: &Layout, root: &Root) -> Result<()> {
    for copy in 0..COPIES {
        let offset = layout.root(root.sequence, copy);
        let (buf, result) = media.read(offset, AlignedBuf::zeroed(ROOT_BYTES), ROOT_BYTES).await;
        if result.and_then(|()| Root::decode(&buf, root.pool)).is_ok_and(|found| found == *root) {
            continue;
        }
        let mut buf = AlignedBuf::zeroed(ROOT_BYTES);
        let bytes = root.encode(&mut buf)?;
        media.write(offset, IoBuf::Owned(buf), bytes).await.1?;
    }
    media.flush().await
}

/// The directory and generations of a root: its image, then its changes.
///
/// # Errors
/// A part of the image cannot be read or does not verify.
pub async fn load_image(media: &Media, layout: &Layout, root: &Root, segment_count: u32) -> Result<Directories> {
    let changed: BTreeMap<SegmentId, Generation> = root.segments.iter().map(|c| (c.segment, c.generation)).collect();
    let listed: BTreeMap<SegmentId, Generation> = root.window.iter().map(|w| (w.segment, w.generation)).collect();
    let mut bytes = Vec::new();
    for (part, entry) in root.image_parts.iter().enumerate() {
        let payload = read_part(media, layout, root, *entry, part as u64).await?;
        bytes.extend_from_slice(&payload);
    }
    let (entries, mut generations) = decode_image(&bytes, root.image_directory_bytes)?;
    generations.resize(segment_count as usize, Generation(0));
    for (segment, generation) in changed.iter().chain(&listed) {
        if let Some(slot) = generations.get_mut(segment.0 as usize) {
            *slot = *generation;
        }
    }
    let changes = entries.iter().chain(&root.directory);
    let leaves = changes.map(|d| ((d.namespace, d.leaf), d.image)).collect();
    Ok(Directories { leaves, generations })
}

/// Reads an IMAGE record. The generations of the segments that hold the image are in the root itself.
async fn read_part(media: &Media, layout: &Layout, root: &Root, entry: Entry, part: u64) -> Result<Vec<u8>> {
    let Some(location) = entry.location() else {
        return Err(Error::corrupt("root", "image part", part, entry.0));
    };
    let block = u64::from(media.block());
    let start = layout.segment(location.segment) + u64::from(location.granule.0 * GRANULE);
    let aligned = start & !(block - 1);
    let at = usize::try_from(start - aligned).unwrap_or(0);
    let segment_end = layout.segment(location.segment) + u64::from(layout.segment_bytes);
    let want = (start + (RECORD_HEADER_BYTES + IMAGE_PART_BYTES) as u64).next_multiple_of(block).min(segment_end);
    let len = usize::try_from(want - aligned).unwrap_or(usize::MAX);
    let (buf, result) = media.read(aligned, AlignedBuf::zeroed(len), len).await;
    result?;
    let generation = root.image_generations.iter().find(|change| change.segment == location.segment);
    let generation = generation.map_or(Generation(0), |change| change.generation);
    let place =
        Place { pool: root.pool, tier: Tier::Ssd, segment: location.segment, generation, granule: location.granule };
    let (header, payload) = RecordHeader::decode_whole(&buf[at..], &place)?;
    if header.body != (RecordBody::Image { image: root.image, part }) {
        return Err(Error::corrupt("image", "part", part, header.kind() as u64));
    }
    Ok(payload.to_vec())
}
