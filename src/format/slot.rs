//! Shared memory of the staging slots: the header page, and the prelude of a slot.
//!
//! The slot's bytes are a batch in the making: 64 bytes left free for the batch header, then records. The prelude says
//! where the batch belongs and is stored before the first byte is published; it never changes while the slot is in use.

use super::cursor::{Reader, Writer, exact_length, open_checksum, seal_checksum};
use super::record::Place;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_SIZE, GRANULE, SEGMENT_BYTES_MAX, SLOT_BYTES, SLOT_COUNT};
use crate::units::{Generation, Granule, OpNo, PoolId, SegmentId, SessionId};

/// Bytes of the header page that are used.
pub const STAGING_HEADER_BYTES: usize = 128;
/// Bytes of a slot's prelude.
pub const PRELUDE_BYTES: usize = 56;
const MAGIC: u64 = u64::from_le_bytes(*b"PLCstage");
const VERSION: u32 = 1;

/// What binds a staging file to its serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagingHeader {
    /// The pool.
    pub pool: PoolId,
    /// The session that stores into it.
    pub session: SessionId,
    /// The boot of the machine (/proc/sys/kernel/random/boot_id).
    pub boot: [u8; 16],
    /// Device number of the pool's medium.
    pub device: u64,
    /// Inode of the pool's medium.
    pub inode: u64,
}

impl StagingHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; STAGING_HEADER_BYTES] {
        let mut bytes = [0; STAGING_HEADER_BYTES];
        let mut w = Writer::new(&mut bytes);
        w.u64(MAGIC).u32(VERSION).u32(0).bytes(&self.pool.0).u64(self.session.0).bytes(&self.boot);
        w.u64(self.device).u64(self.inode).u64(SLOT_BYTES as u64).u64(SLOT_COUNT as u64);
        seal_checksum(&mut bytes);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when it is not one of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        exact_length("staging header", bytes, STAGING_HEADER_BYTES)?;
        let mut r = Reader::new("staging header", open_checksum("staging header", bytes)?);
        let (magic, version) = (r.u64()?, r.u32()?);
        r.expect("magic", MAGIC, magic)?;
        r.expect("version", u64::from(VERSION), u64::from(version))?;
        r.zeros(4)?;
        let (pool, session, boot) = (PoolId(r.array()?), SessionId(r.u64()?), r.array()?);
        let (device, inode, slot_bytes, slot_count) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        r.expect("slot bytes", SLOT_BYTES as u64, slot_bytes)?;
        r.expect("slot count", SLOT_COUNT as u64, slot_count)?;
        r.finish()?;
        Ok(Self { pool, session, boot, device, inode })
    }
}

/// Where a slot's batch belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// Segment.
    pub segment: SegmentId,
    /// Generation.
    pub generation: Generation,
    /// Start of the batch in the segment.
    pub granule: Granule,
    /// Operation number of the batch's first record.
    pub first_op: OpNo,
}

impl Prelude {
    /// The prelude's bytes, bound to pool, tier and session.
    #[must_use]
    pub fn encode(&self, place: &Place, session: SessionId) -> [u8; PRELUDE_BYTES] {
        let mut bytes = [0; PRELUDE_BYTES];
        Writer::new(&mut bytes)
            .u32(self.segment.0)
            .u32(self.generation.0)
            .u32(self.granule.0)
            .u32(place.tier as u32)
            .u64(self.first_op.0)
            .u64(session.0)
            .bytes(&place.pool.0);
        seal_checksum(&mut bytes);
        bytes
    }

    /// Reads a prelude of this pool and session.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when it is damaged or another session's.
    pub fn decode(bytes: &[u8], pool: PoolId, session: SessionId) -> Result<Self> {
        exact_length("slot", bytes, PRELUDE_BYTES)?;
        let mut r = Reader::new("slot", open_checksum("slot", bytes)?);
        let (segment, generation, granule) = (SegmentId(r.u32()?), Generation(r.u32()?), Granule(r.u32()?));
        let tier = r.u32()?;
        r.expect("tier", 1, u64::from(tier))?;
        let (first_op, owner) = (OpNo(r.u64()?), r.u64()?);
        r.expect("session", session.0, owner)?;
        let same_pool = r.array::<16>()? == pool.0;
        r.expect("pool", 1, u64::from(same_pool))?;
        r.finish()?;
        if granule.0 % (BLOCK_SIZE / GRANULE) != 0 || granule.0 >= SEGMENT_BYTES_MAX / GRANULE {
            return Err(Error::corrupt("slot", "granule", 0, u64::from(granule.0)));
        }
        Ok(Self { segment, generation, granule, first_op })
    }
}
