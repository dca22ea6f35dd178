//! The superblock: what a pool is. Two copies, at both ends of the pool, 4 KiB each; written when it is created or grown.

use std::ops::Range;

use super::cursor::{Reader, Writer, open_checksum, seal_checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MAX, SEGMENTS_MIN};
use crate::units::{JournalId, PoolId};

/// Bytes of a superblock copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// The version of the format that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// First bytes of a pool. The line ends catch transfers in text mode.
pub const MAGIC: [u8; 8] = *b"PLICA\r\n\x1a";
/// Bytes of a label, UTF-8, zero padded.
pub const LABEL_BYTES: usize = 64;
/// Most bytes of a journal's path.
pub const JOURNAL_PATH_BYTES: usize = 1024;

/// What a rewrite of the superblock of a pool that is there changes: sequence; journal, flags and path; checksum.
const REWRITTEN: [Range<usize>; 3] = [32..40, 176..196 + JOURNAL_PATH_BYTES, SUPERBLOCK_BYTES - 8..SUPERBLOCK_BYTES];

/// Most memory a superblock may ask for to derive its key, in KiB (4 GiB): it is input, not yet trusted.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 4 << 20;
/// Most passes.
pub const ARGON2_PASSES_MAX: u32 = 1024;
/// Most lanes.
pub const ARGON2_LANES_MAX: u32 = 64;

/// Where the root key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A key file.
    File,
    /// A passphrase through Argon2id (RFC 9106).
    Passphrase {
        /// Memory cost in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// Salt.
        salt: [u8; 16],
    },
}

/// The journal (tier 0) of a pool: without it the pool is not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalName {
    /// Identity.
    pub id: JournalId,
    /// It does not outlive the machine, which whoever gave it accepted.
    pub volatile: bool,
    /// Where it was when it was given: where it is looked for, if nothing else is said.
    pub path: Vec<u8>,
}

/// A decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Identity.
    pub pool: PoolId,
    /// Counts rewrites: of two valid copies that differ the higher one counts.
    pub sequence: u64,
    /// Bytes of the whole pool, a multiple of 4096.
    pub pool_bytes: u64,
    /// Bytes of a segment, a power of two.
    pub segment_bytes: u32,
    /// Segments.
    pub segment_count: u32,
    /// Unix time of creation in seconds.
    pub created: u64,
    /// Where the root key comes from.
    pub key_source: KeySource,
    /// Tells a wrong root key at once; see `keys::wrap`.
    pub key_check: [u8; 16],
    /// A name for people.
    pub label: [u8; LABEL_BYTES],
    /// Its journal, if it has one.
    pub journal: Option<JournalName>,
}

impl Superblock {
    /// One copy.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut w = Writer::new(&mut bytes);
        w.bytes(&MAGIC).u32(FORMAT_VERSION).u32(0).bytes(&self.pool.0).u64(self.sequence).u64(self.pool_bytes);
        w.u32(self.segment_bytes).u32(self.segment_count).u64(self.created);
        match self.key_source {
            KeySource::File => w.u32(1).u32(0).u32(0).u32(0).bytes(&[0; 16]),
            KeySource::Passphrase { memory_kib, passes, lanes, salt } => {
                w.u32(2).u32(memory_kib).u32(passes).u32(lanes).bytes(&salt)
            }
        };
        w.bytes(&self.key_check).bytes(&self.label);
        if let Some(JournalName { id, volatile, path }) = &self.journal {
            let Ok(length) = u16::try_from(path.len()) else { unreachable!("a path of {} bytes", path.len()) };
            w.bytes(&id.0).u16(u16::from(*volatile)).u16(length).bytes(path);
        }
        seal_checksum(&mut bytes);
        bytes
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when these bytes are no superblock at all, [`ErrorKind::Version`] for another version,
    /// [`ErrorKind::Corrupt`] for a damaged one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new("superblock", bytes);
        if r.array::<8>()? != MAGIC {
            return Err(Error::new(ErrorKind::NotFound, "no Plica superblock here"));
        }
        let version = r.u32()?;
        let Some(copy) = bytes.get(..SUPERBLOCK_BYTES) else {
            return Err(Error::corrupt("superblock", "length", SUPERBLOCK_BYTES as u64, bytes.len() as u64));
        };
        let body = open_checksum("superblock", copy)?;
        if version != FORMAT_VERSION {
            let text = format!("the pool has format version {version}; this plica reads version {FORMAT_VERSION}");
            return Err(Error::new(ErrorKind::Version, text));
        }
        let mut r = Reader::new("superblock", body);
        r.bytes(MAGIC.len() + 4)?;
        r.zeros(4)?;
        let (pool, sequence, pool_bytes) = (PoolId(r.array()?), r.u64()?, r.u64()?);
        let (segment_bytes, segment_count, created) = (r.u32()?, r.u32()?, r.u64()?);
        let key_source = decode_key_source(&mut r)?;
        let (key_check, label) = (r.array()?, r.array()?);
        let journal = decode_journal(&mut r)?;
        r.finish()?;
        let block = Self {
            pool,
            sequence,
            pool_bytes,
            segment_bytes,
            segment_count,
            created,
            key_source,
            key_check,
            label,
            journal,
        };
        block.check_geometry()?;
        Ok(block)
    }

    /// Whether a rewrite that was cut short between this superblock and another one of the pool, older or newer, can have
    /// left `copy`, which does not verify: the two differ in sequence, journal and checksum alone.
    #[must_use]
    pub fn may_be_torn(&self, copy: &[u8]) -> bool {
        let whole = self.encode();
        let is_rewritten = |at: usize| REWRITTEN.iter().any(|range| range.contains(&at));
        let mut pairs = whole.iter().zip(copy).enumerate();
        copy.len() == whole.len() && pairs.all(|(at, (whole, copy))| whole == copy || is_rewritten(at))
    }

    fn check_geometry(&self) -> Result<()> {
        let bytes = self.segment_bytes;
        if !bytes.is_power_of_two() || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err(Error::corrupt("superblock", "segment size", u64::from(SEGMENT_BYTES_MAX), u64::from(bytes)));
        }
        let count = self.segment_count;
        if !(SEGMENTS_MIN..=SEGMENTS_MAX).contains(&count) {
            return Err(Error::corrupt("superblock", "segment count", u64::from(SEGMENTS_MIN), u64::from(count)));
        }
        if !self.pool_bytes.is_multiple_of(SUPERBLOCK_BYTES as u64) {
            return Err(Error::corrupt("superblock", "pool size", 0, self.pool_bytes));
        }
        let needed = super::layout::pool_bytes_needed(bytes, count);
        if needed > self.pool_bytes {
            return Err(Error::corrupt("superblock", "pool size", needed, self.pool_bytes));
        }
        Ok(())
    }
}

fn decode_journal(r: &mut Reader<'_>) -> Result<Option<JournalName>> {
    let (id, flags, length) = (JournalId(r.array()?), r.u16()?, r.u16()?);
    if flags > 1 {
        return Err(Error::corrupt("superblock", "journal flags", 1, u64::from(flags)));
    }
    if usize::from(length) > JOURNAL_PATH_BYTES {
        return Err(Error::corrupt("superblock", "journal path length", JOURNAL_PATH_BYTES as u64, u64::from(length)));
    }
    let path = r.bytes(usize::from(length))?.to_vec();
    r.zeros(JOURNAL_PATH_BYTES - path.len())?;
    if id == JournalId::default() {
        return if flags == 0 && path.is_empty() {
            Ok(None)
        } else {
            Err(Error::corrupt("superblock", "journal", 0, u64::from(length)))
        };
    }
    Ok(Some(JournalName { id, volatile: flags == 1, path }))
}

fn decode_key_source(r: &mut Reader<'_>) -> Result<KeySource> {
    let kind = r.u32()?;
    if kind == 1 {
        r.zeros(28)?;
        return Ok(KeySource::File);
    }
    r.expect("key source", 2, u64::from(kind))?;
    let (memory_kib, passes, lanes, salt) = (r.u32()?, r.u32()?, r.u32()?, r.array()?);
    for (field, value, max) in [
        ("memory", memory_kib, ARGON2_MEMORY_KIB_MAX),
        ("passes", passes, ARGON2_PASSES_MAX),
        ("lanes", lanes, ARGON2_LANES_MAX),
    ] {
        if value == 0 || value > max {
            return Err(Error::corrupt("superblock", field, u64::from(max), u64::from(value)));
        }
    }
    Ok(KeySource::Passphrase { memory_kib, passes, lanes, salt })
}
