//! The root: the small durable record from which recovery starts. Two slots used in turn, each in two copies at the two
//! ends of the pool, 512 KiB each.
//!
//! It names the replay start, the sessions still in the replay window, the segments recovery looks at, and the changes of
//! the leaf directory and the segment table since their last full image. It never holds usage.

use super::cursor::{Reader, Writer, open_checksum, seal_checksum};
use super::entry::Entry;
use super::layout::ROOT_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{BLOCK_SIZE, SEGMENT_BYTES_MAX};
use crate::units::{Generation, NamespaceId, OpNo, PoolId, SegmentId, SessionId};

const MAGIC: u64 = u64::from_le_bytes(*b"PLCroot\0");
const HEADER_BYTES: usize = 256;
/// Bytes from the magic to the length: what is read before the checksum can be.
const ROOT_PREFIX_BYTES: usize = 48;
/// Beyond this many bytes of changes a full image is written (rule 6.1).
pub const CHANGE_BYTES_MAX: usize = 256 << 10;
/// Bytes of a directory change.
pub const DIRECTORY_CHANGE_BYTES: usize = 24;
/// Bytes of a segment change.
pub const SEGMENT_CHANGE_BYTES: usize = 8;
/// Bytes of a segment of the replay window.
pub const WINDOW_SEGMENT_BYTES: usize = 12;

/// Why recovery looks at a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// It may have been opened since this root, with this generation.
    Announced = 1,
    /// It was open, or sealed but not yet known flushed: walk it.
    Open = 2,
    /// Sealed and flushed, with records above the replay start: its summary is believed.
    Flushed = 3,
}

/// A segment in the replay window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSegment {
    /// Which.
    pub segment: SegmentId,
    /// The generation whose records count.
    pub generation: Generation,
    /// How to read it.
    pub state: WindowState,
    /// Bytes of batches in it when the root was made, a multiple of 4096: all of them were durable before the root was
    /// written. Behind them only batches of the root's own session count.
    pub end: u32,
}

/// A session in the replay window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSession {
    /// Which.
    pub session: SessionId,
    /// Its last accepted operation number; batches of it above are not accepted, ever.
    pub last_accepted: OpNo,
}

/// A leaf's durable image: where it is and how complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeafImage {
    /// Location of the LEAF record (index 0); [`Entry::HOLE`] when the leaf is empty.
    pub entry: Entry,
    /// It has all operations up to this number.
    pub complete: OpNo,
    /// Blocks of the leaf are on tier 0, or newer ones may be: without the journal it is not known what they hold.
    pub journaled: bool,
}

impl LeafImage {
    /// Whether the directory has to tell of it.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.complete != OpNo(0) || self.journaled
    }
}

/// Bit 63 of *complete*: numbers are below it.
const JOURNALED: u64 = 1 << 63;

/// A directory entry that changed since the last image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryChange {
    /// Whose leaf.
    pub namespace: NamespaceId,
    /// LBA / 512.
    pub leaf: u32,
    /// Its image now.
    pub image: LeafImage,
}

/// A generation that changed since the last image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentChange {
    /// Which segment.
    pub segment: SegmentId,
    /// Its generation now.
    pub generation: Generation,
}

/// Counters kept over the life of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// Bytes written by the host.
    pub host_written: u64,
    /// Bytes read by the host.
    pub host_read: u64,
    /// Payload bytes stored for the host's writes, after compression and sealing.
    pub stored: u64,
    /// Bytes written to the medium, everything counted.
    pub media_written: u64,
    /// Bytes discarded by the host.
    pub host_discarded: u64,
}

/// A decoded root.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Root {
    /// The pool.
    pub pool: PoolId,
    /// Counts switches; the highest valid one is current.
    pub sequence: u64,
    /// The current session.
    pub session: SessionId,
    /// The last stop was clean: nothing to replay, no shared memory to adopt.
    pub clean: bool,
    /// Boot id of the machine when this session began: tells whether shared memory can still be there.
    pub boot: [u8; 16],
    /// Records above this number are replayed.
    pub replay_start: OpNo,
    /// Highest number seen; new ones start above.
    pub last_op: OpNo,
    /// Lifetime counters.
    pub lifetime: Lifetime,
    /// Root number that names the full image (0: none, all is in the changes).
    pub image: u64,
    /// Bytes of the leaf directory in the image.
    pub image_directory_bytes: u64,
    /// Where the parts of the image are: IMAGE records in order.
    pub image_parts: Vec<Entry>,
    /// Generations of the segments that hold the parts: the table itself is in the image.
    pub image_generations: Vec<SegmentChange>,
    /// Sessions whose records may be in the window, without the current one.
    pub sessions: Vec<WindowSession>,
    /// Segments that recovery looks at.
    pub window: Vec<WindowSegment>,
    /// Segment generations changed since the image.
    pub segments: Vec<SegmentChange>,
    /// Leaf images changed since the image.
    pub directory: Vec<DirectoryChange>,
}

/// Bytes that a root with so many image parts, image segments, sessions, window segments, segment changes and directory
/// changes has, before it is padded.
#[must_use]
pub fn bytes_of_root(counts: [usize; 6]) -> usize {
    let bytes = [8, SEGMENT_CHANGE_BYTES, 16, WINDOW_SEGMENT_BYTES, SEGMENT_CHANGE_BYTES, DIRECTORY_CHANGE_BYTES];
    HEADER_BYTES + 8 + counts.iter().zip(bytes).map(|(count, bytes)| count * bytes).sum::<usize>()
}

impl Root {
    /// Bytes of the encoded root, a multiple of 4096.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let (parts, images) = (self.image_parts.len(), self.image_generations.len());
        let (sessions, window) = (self.sessions.len(), self.window.len());
        bytes_of_root([parts, images, sessions, window, self.segments.len(), self.directory.len()])
            .next_multiple_of(BLOCK_SIZE as usize)
    }

    /// Writes the root into the first [`Root::encoded_bytes`] of `buf` and returns how many those are.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when the root does not fit its slot.
    pub fn encode(&self, buf: &mut [u8]) -> Result<usize> {
        let bytes = self.encoded_bytes();
        let Some(buf) = buf.get_mut(..bytes).filter(|_| bytes <= ROOT_BYTES) else {
            let text = format!("the root takes {bytes} bytes, its slot has {ROOT_BYTES}");
            return Err(Error::new(ErrorKind::NoSpace, text));
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut w = Writer::new(buf);
        w.u64(MAGIC).bytes(&self.pool.0).u64(self.sequence).u64(self.session.0).u32(u32::from(self.clean));
        w.u32(count(bytes)).bytes(&self.boot).u64(self.replay_start.0).u64(self.last_op.0);
        let l = &self.lifetime;
        w.u64(l.host_written).u64(l.host_read).u64(l.stored).u64(l.media_written).u64(l.host_discarded);
        w.u64(self.image).u64(self.image_directory_bytes);
        w.u32(count(self.image_parts.len())).u32(count(self.sessions.len())).u32(count(self.window.len()));
        w.u32(count(self.segments.len())).u32(count(self.directory.len()));
        w.u32(count(self.image_generations.len())).zero_to(HEADER_BYTES);
        for part in &self.image_parts {
            w.u64(part.0);
        }
        for s in &self.image_generations {
            w.u32(s.segment.0).u32(s.generation.0);
        }
        for s in &self.sessions {
            w.u64(s.session.0).u64(s.last_accepted.0);
        }
        for s in &self.window {
            assert!(s.end.is_multiple_of(BLOCK_SIZE), "batches end on blocks");
            w.u32(s.segment.0).u32(s.generation.0).u32(s.end | s.state as u32);
        }
        for s in &self.segments {
            w.u32(s.segment.0).u32(s.generation.0);
        }
        for d in &self.directory {
            encode_directory(&mut w, d);
        }
        w.zero_to(bytes);
        debug_assert_eq!(w.written(), bytes, "the root is as long as announced");
        seal_checksum(buf);
        Ok(bytes)
    }

    /// Reads one copy of a root of `pool`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is damaged, empty or another pool's.
    pub fn decode(buf: &[u8], pool: PoolId) -> Result<Self> {
        let mut r = Reader::new("root", buf);
        let magic = r.u64()?;
        r.expect("magic", MAGIC, magic)?;
        let (id, sequence, session) = (PoolId(r.array()?), r.u64()?, SessionId(r.u64()?));
        let (flags, bytes) = (r.u32()?, r.u32()? as usize);
        if bytes > ROOT_BYTES || bytes % 4096 != 0 {
            return Err(Error::corrupt("root", "length", ROOT_BYTES as u64, bytes as u64));
        }
        let Some(whole) = buf.get(..bytes) else {
            return Err(Error::corrupt("root", "length", buf.len() as u64, bytes as u64));
        };
        let mut r = Reader::new("root", open_checksum("root", whole)?);
        r.bytes(ROOT_PREFIX_BYTES)?;
        if flags & !1 != 0 {
            return Err(Error::corrupt("root", "flags", 1, u64::from(flags)));
        }
        if id != pool {
            return Err(Error::corrupt("root", "pool", 0, 1));
        }
        let boot = r.array()?;
        let (replay_start, last_op) = (OpNo(r.u64()?), OpNo(r.u64()?));
        let lifetime = Lifetime {
            host_written: r.u64()?,
            host_read: r.u64()?,
            stored: r.u64()?,
            media_written: r.u64()?,
            host_discarded: r.u64()?,
        };
        let (image, image_directory_bytes) = (r.u64()?, r.u64()?);
        let counts = [r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?];
        r.zeros(HEADER_BYTES - 160)?;
        let [parts, sessions, window, segments, directory, image_segments] = counts;
        let root = Self {
            pool,
            sequence,
            session,
            clean: flags & 1 != 0,
            boot,
            replay_start,
            last_op,
            lifetime,
            image,
            image_directory_bytes,
            image_parts: list(parts, || Entry::from_bits(r.u64()?))?,
            image_generations: list(image_segments, || {
                Ok(SegmentChange { segment: SegmentId(r.u32()?), generation: Generation(r.u32()?) })
            })?,
            sessions: list(sessions, || {
                Ok(WindowSession { session: SessionId(r.u64()?), last_accepted: OpNo(r.u64()?) })
            })?,
            window: list(window, || decode_window(&mut r))?,
            segments: list(segments, || {
                Ok(SegmentChange { segment: SegmentId(r.u32()?), generation: Generation(r.u32()?) })
            })?,
            directory: list(directory, || decode_directory(&mut r))?,
        };
        r.finish()?;
        Ok(root)
    }
}

impl Root {
    /// Whether what the root names can be in a pool of so many segments: for recovery, before it uses them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a segment that the pool does not have, a session that is none, or numbers beyond the
    /// last.
    pub fn check_bounds(&self, segment_count: u32) -> Result<()> {
        let bound = |segment: SegmentId| {
            let inside = segment.0 < segment_count;
            if inside { Ok(()) } else { Err(Error::corrupt("root", "segment", segment_count.into(), segment.0.into())) }
        };
        self.window.iter().try_for_each(|w| bound(w.segment))?;
        self.segments.iter().chain(&self.image_generations).try_for_each(|s| bound(s.segment))?;
        let images = self.directory.iter().map(|d| d.image.entry).chain(self.image_parts.iter().copied());
        images.filter_map(Entry::segment).try_for_each(bound)?;
        if let Some(s) = self.sessions.iter().find(|s| s.session.0 == 0 || s.last_accepted > self.last_op) {
            return Err(Error::corrupt("root", "session", self.last_op.0, s.last_accepted.0));
        }
        if self.replay_start > self.last_op {
            return Err(Error::corrupt("root", "replay start", self.last_op.0, self.replay_start.0));
        }
        Ok(())
    }
}

/// `count` items, with nothing allocated for items that are not there.
fn list<T>(count: u32, mut item: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(|_| item()).collect()
}

fn decode_window(r: &mut Reader<'_>) -> Result<WindowSegment> {
    let (segment, generation) = (SegmentId(r.u32()?), Generation(r.u32()?));
    let word = r.u32()?;
    let (end, state) = (word & !(BLOCK_SIZE - 1), word & (BLOCK_SIZE - 1));
    if end > SEGMENT_BYTES_MAX {
        return Err(Error::corrupt("root", "window end", SEGMENT_BYTES_MAX.into(), end.into()));
    }
    let state = match state {
        1 => WindowState::Announced,
        2 => WindowState::Open,
        3 => WindowState::Flushed,
        other => return Err(Error::corrupt("root", "window state", 1, u64::from(other))),
    };
    Ok(WindowSegment { segment, generation, state, end })
}

/// Writes a directory entry: the same bytes in the root and in the image.
pub(crate) fn encode_directory(w: &mut Writer<'_>, d: &DirectoryChange) {
    let LeafImage { entry, complete, journaled } = d.image;
    w.u32(d.namespace.0).u32(d.leaf).u64(entry.0).u64(complete.0 | if journaled { JOURNALED } else { 0 });
}

/// Reads a directory entry: the same bytes in the root and in the image.
pub(crate) fn decode_directory(r: &mut Reader<'_>) -> Result<DirectoryChange> {
    let (namespace, leaf) = (NamespaceId(r.u32()?), r.u32()?);
    let (entry, complete) = (Entry::from_bits(r.u64()?)?, r.u64()?);
    let image = LeafImage { entry, complete: OpNo(complete & !JOURNALED), journaled: complete & JOURNALED != 0 };
    Ok(DirectoryChange { namespace, leaf, image })
}
