//! Records: what a batch is made of. A 40-byte header, then the payload, padded to 16 bytes.
//!
//! The check of a record covers its header, its payload and its place (pool, tier, segment, generation, granule): a
//! torn, flipped, stale or misdirected record fails it (I5). It is computed from a hash of the payload, so that the
//! core can place a fragment that a worker hashed without reading it again.

use xxhash_rust::xxh3::xxh3_64;

use super::cursor::{Reader, Writer};
use super::entry::{Location, Tier};
use super::image::IMAGE_PART_BYTES;
use super::kinds::Codec;
use super::leaf::LEAF_BYTES;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_BYTES, FRAGMENT_BLOCKS_MAX, GRANULE, LEAF_ENTRIES, NAMESPACE_BLOCKS_MAX, SEAL_OVERHEAD_MAX};
use crate::units::{Generation, Granule, Lba, NamespaceId, PoolId, SealNo, SegmentId, SessionId};

/// Bytes of a record header.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Largest payload: a part of an image. Whatever the kind, a record is read with at most 127 sectors.
pub const RECORD_PAYLOAD_MAX: usize = IMAGE_PART_BYTES;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A fragment written by the host.
    Write = 1,
    /// A relocated fragment; only the blocks of `mask` were current.
    Move = 2,
    /// A range of LBAs that reads as zeros from here on.
    Clear = 3,
    /// An image of a leaf of the map.
    Leaf = 4,
    /// A part of an image of the leaf directory or the segment table.
    Image = 5,
}

/// The fields of a record that depend on its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// WRITE or MOVE.
    Fragment {
        /// Whether it is a MOVE.
        moved: bool,
        /// How the payload was compressed.
        codec: Codec,
        /// Blocks in the fragment, 1 to 8.
        count: u8,
        /// Which of them this record makes current (bit 0 is the first). All of them in a WRITE.
        mask: u8,
        /// The number under which it was sealed.
        seal: SealNo,
    },
    /// CLEAR of this many LBAs.
    Clear {
        /// LBAs, at least 1.
        count: u64,
    },
    /// LEAF: the header's LBA is the first LBA of the leaf.
    Leaf {
        /// The leaf has all operations up to this number.
        complete: u64,
    },
    /// IMAGE part.
    Image {
        /// Which image: the number of the root that first names it.
        image: u64,
        /// Which part.
        part: u64,
    },
}

/// A record header without its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Whose (0 for images).
    pub namespace: NamespaceId,
    /// First LBA.
    pub first: Lba,
    /// Operation number less the first of the batch.
    pub op_delta: u16,
    /// Payload bytes before padding.
    pub stored: u16,
    /// The rest.
    pub body: RecordBody,
}

/// The place of a record or batch: what its check is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pool.
    pub pool: PoolId,
    /// The tier.
    pub tier: Tier,
    /// The segment.
    pub segment: SegmentId,
    /// How often it had been opened.
    pub generation: Generation,
    /// Position in it.
    pub granule: Granule,
}

impl Place {
    /// The same segment at another granule.
    #[must_use]
    pub fn at(mut self, granule: Granule) -> Self {
        self.granule = granule;
        self
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.bytes(&self.pool.0).u32(self.tier as u32).u32(self.segment.0).u32(self.generation.0).u32(self.granule.0);
    }

    /// Bytes that [`Place::write`] writes.
    pub(crate) const BYTES: usize = 32;
}

/// Bytes that a record with this payload takes in a batch.
#[must_use]
pub fn record_bytes(stored: usize) -> usize {
    (RECORD_HEADER_BYTES + stored).next_multiple_of(GRANULE as usize)
}

impl RecordHeader {
    /// Whether the record's payload is user data.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self.body {
            RecordBody::Fragment { moved: false, .. } => RecordKind::Write,
            RecordBody::Fragment { moved: true, .. } => RecordKind::Move,
            RecordBody::Clear { .. } => RecordKind::Clear,
            RecordBody::Leaf { .. } => RecordKind::Leaf,
            RecordBody::Image { .. } => RecordKind::Image,
        }
    }

    fn encode_fields(&self, w: &mut Writer<'_>) {
        let (codec, shape, mask, a, b) = match self.body {
            RecordBody::Fragment { codec, count, mask, seal, .. } => {
                assert!((1..=FRAGMENT_BLOCKS_MAX).contains(&u32::from(count)), "fragment of {count} blocks");
                (codec.to_byte(), count - 1, mask, seal.session.0, seal.counter)
            }
            RecordBody::Clear { count } => (0, 0, 0, count, 0),
            RecordBody::Leaf { complete } => (0, 0, 0, complete, 0),
            RecordBody::Image { image, part } => (0, 0, 0, image, part),
        };
        w.u8(self.kind() as u8 | codec << 4).u8(shape).u16(self.stored).u32(self.namespace.0);
        w.low_bytes::<5>(self.first.0).u8(mask).u16(self.op_delta).u64(a).u64(b);
    }

    /// Header bytes with the check for a payload of this hash at this place.
    #[must_use]
    pub fn encode(&self, payload_hash: u64, place: &Place) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let mut w = Writer::new(&mut bytes);
        self.encode_fields(&mut w);
        let check = self.check(payload_hash, place);
        w.u64(check);
        bytes
    }

    fn check(&self, payload_hash: u64, place: &Place) -> u64 {
        let mut input = [0; RECORD_HEADER_BYTES + Place::BYTES];
        let mut w = Writer::new(&mut input);
        self.encode_fields(&mut w);
        w.u64(payload_hash);
        place.write(&mut w);
        xxh3_64(&input)
    }

    /// The check in an encoded header: the last field.
    #[must_use]
    pub fn check_of(bytes: &[u8; RECORD_HEADER_BYTES]) -> u64 {
        bytes.last_chunk().map_or(0, |check| u64::from_le_bytes(*check))
    }

    /// Reads a header; says nothing yet of the payload. Returns it with its check.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] for fields that no encoder writes.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u64)> {
        let mut r = Reader::new("record", bytes);
        let (first_byte, shape, stored) = (r.u8()?, r.u8()?, r.u16()?);
        let namespace = NamespaceId(r.u32()?);
        let (lba, mask, op_delta) = (r.low_bytes::<5>()?, r.u8()?, r.u16()?);
        let (a, b, check) = (r.u64()?, r.u64()?, r.u64()?);
        let (kind, codec) = (first_byte & 15, first_byte >> 4);
        let body = match kind {
            1 | 2 => {
                let count = shape.wrapping_add(1);
                r.expect("count", 0, u64::from(shape & !7))?;
                let codec = Codec::from_byte(codec)?;
                let all = all_blocks(count);
                if mask == 0 || mask & !all != 0 || (kind == 1 && mask != all) {
                    return Err(Error::corrupt("record", "mask", u64::from(all), u64::from(mask)));
                }
                let seal = SealNo { session: SessionId(a), counter: b };
                RecordBody::Fragment { moved: kind == 2, codec, count, mask, seal }
            }
            _ => {
                r.expect("reserved", 0, u64::from(codec) | u64::from(shape) | u64::from(mask))?;
                match kind {
                    3 if a > 0 => RecordBody::Clear { count: a },
                    4 => RecordBody::Leaf { complete: a },
                    5 => RecordBody::Image { image: a, part: b },
                    _ => return Err(Error::corrupt("record", "kind", 1, u64::from(kind))),
                }
            }
        };
        if kind == 3 || kind == 4 {
            r.expect("reserved", 0, b)?;
        }
        let header = Self { namespace, first: Lba(lba), op_delta, stored, body };
        header.check_bounds()?;
        Ok((header, check))
    }

    /// What no encoder writes is not believed, so that nobody further in has to expect it: ranges end within the
    /// largest namespace, and payloads are no longer than their kind can be.
    fn check_bounds(&self) -> Result<()> {
        let blocks = |count: u8| usize::from(count) * BLOCK_BYTES + SEAL_OVERHEAD_MAX;
        let (lbas, payload_min, payload_max) = match self.body {
            RecordBody::Fragment { codec: Codec::Zero, count, .. } => (u64::from(count), 0, 0),
            RecordBody::Fragment { count, .. } => (u64::from(count), 1, blocks(count)),
            RecordBody::Clear { count } => (count, 0, 0),
            RecordBody::Leaf { .. } => (LEAF_ENTRIES as u64, LEAF_BYTES, LEAF_BYTES),
            RecordBody::Image { .. } => (0, 1, IMAGE_PART_BYTES),
        };
        let (whose, first) = (u64::from(self.namespace.0), self.first.0);
        let corrupt = |field, expected, got| Err(Error::corrupt("record", field, expected, got));
        if !(payload_min..=payload_max).contains(&usize::from(self.stored)) {
            return corrupt("stored", payload_max as u64, u64::from(self.stored));
        }
        match self.body {
            RecordBody::Image { .. } if whose != 0 || first != 0 => corrupt("namespace", 0, whose),
            RecordBody::Image { .. } => Ok(()),
            _ if whose == 0 => corrupt("namespace", 1, 0),
            RecordBody::Leaf { .. } if first % LEAF_ENTRIES as u64 != 0 => corrupt("first LBA", 0, first),
            _ if lbas > NAMESPACE_BLOCKS_MAX || first > NAMESPACE_BLOCKS_MAX - lbas => {
                corrupt("LBAs", NAMESPACE_BLOCKS_MAX, first)
            }
            _ => Ok(()),
        }
    }

    /// Compares the check with the payload and the place (I5).
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when they do not belong together.
    pub fn verify(&self, check: u64, payload_hash: u64, place: &Place) -> Result<()> {
        let expected = self.check(payload_hash, place);
        if check == expected || crate::canary::is_off(crate::canary::Rule::Checksum) {
            Ok(())
        } else {
            Err(Error::corrupt("record", "check", expected, check))
        }
    }

    /// Reads the record that starts `bytes`, whole, and compares its check (I5). Returns it with its payload.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when it is not a record written at `place`, or `bytes` end before it does.
    pub fn decode_whole<'a>(bytes: &'a [u8], place: &Place) -> Result<(Self, &'a [u8])> {
        let (header, check) = Self::decode(bytes)?;
        let end = RECORD_HEADER_BYTES + usize::from(header.stored);
        let Some(payload) = bytes.get(RECORD_HEADER_BYTES..end) else {
            return Err(Error::corrupt("record", "length", bytes.len() as u64, end as u64));
        };
        header.verify(check, xxh3_64(payload), place)?;
        Ok((header, payload))
    }

    /// Checks that this verified record is the fragment that `location` means for a block of a namespace.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when it is another.
    pub fn check_fragment(&self, id: NamespaceId, lba: Lba, location: &Location) -> Result<()> {
        let RecordBody::Fragment { count, seal, .. } = self.body else {
            return Err(Error::corrupt("fragment", "kind", 1, self.kind() as u64));
        };
        let first = lba.0.wrapping_sub(u64::from(location.index));
        if self.namespace != id || self.first.0 != first || location.index >= count {
            return Err(Error::corrupt("fragment", "first LBA", first, self.first.0));
        }
        if seal.check() != location.check {
            return Err(Error::corrupt("fragment", "seal", u64::from(location.check), u64::from(seal.check())));
        }
        Ok(())
    }

    /// Bytes that the record takes in a batch.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        record_bytes(usize::from(self.stored))
    }
}

/// The mask of a fragment of `count` blocks all of which are meant.
#[must_use]
pub fn all_blocks(count: u8) -> u8 {
    if count >= 8 { u8::MAX } else { (1 << count) - 1 }
}

/// 512-byte sectors from the one that holds `granule` to the end of a record of `bytes`.
#[must_use]
pub fn sectors_of(granule: Granule, bytes: usize) -> u8 {
    let within = (granule.0 * GRANULE) as usize % 512;
    u8::try_from((within + bytes).div_ceil(512)).unwrap_or(u8::MAX)
}
