//! The 8-byte map entry: where the block of an LBA is.
//!
//! ```text
//!   63..61 state  60..37 segment  36..19 granule  18..12 sectors  11..9 index  8..0 check
//! ```

use std::fmt;

use crate::error::{Error, Result};
use crate::units::{Granule, SegmentId};

/// A tier of media the log lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Persistent memory.
    Pmem = 0,
    /// SSD or file.
    Ssd = 1,
    /// Object store.
    Object = 2,
}

/// What an entry says of its LBA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never written, or discarded: reads as zeros.
    Hole,
    /// In a fragment on this tier.
    Data(Tier),
    /// Written as zeros; the record is on this tier.
    Zero(Tier),
    /// Its newest copy was lost with a tier: reads are EIO until it is rewritten.
    Lost,
}

/// Where a fragment is and which of its blocks is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The tier and what is there: never [`State::Hole`] or [`State::Lost`].
    pub state: State,
    /// The segment.
    pub segment: SegmentId,
    /// Start of the record in the segment.
    pub granule: Granule,
    /// 512-byte sectors to read from the sector that holds `granule` to have all of the record.
    pub sectors: u8,
    /// Index of the block in the fragment.
    pub index: u8,
    /// Low 9 bits of the seal number.
    pub check: u16,
}

impl Location {
    /// The tier it is on.
    #[must_use]
    pub fn tier(&self) -> Tier {
        match self.state {
            State::Data(tier) | State::Zero(tier) => tier,
            State::Hole | State::Lost => unreachable!("a location is somewhere"),
        }
    }
}

/// An entry as it is in a leaf, on media and in memory. All zero is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Entry(pub u64);

impl Entry {
    /// Nothing there.
    pub const HOLE: Self = Self(0);
    /// The newest copy is gone.
    pub const LOST: Self = Self(7 << 61);

    /// The entry that says `location`. Fields are masked to their width: they come from bounded counters.
    #[must_use]
    pub fn new(location: &Location) -> Self {
        let state = match location.state {
            State::Hole => 0,
            State::Data(tier) => 1 + tier as u64,
            State::Zero(tier) => 4 + tier as u64,
            State::Lost => 7,
        };
        Self(
            state << 61
                | u64::from(location.segment.0 & 0xff_ffff) << 37
                | u64::from(location.granule.0 & 0x3_ffff) << 19
                | u64::from(location.sectors & 0x7f) << 12
                | u64::from(location.index & 7) << 9
                | u64::from(location.check & 0x1ff),
        )
    }

    /// From the 8 bytes on media.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Corrupt`] when it points nowhere and yet has bits beside its state. That the segment
    /// exists is for the caller to check: only the pool knows how many it has.
    pub fn from_bits(bits: u64) -> Result<Self> {
        let entry = Self(bits);
        if entry.segment().is_none() && entry != Self::HOLE && entry != Self::LOST {
            return Err(Error::corrupt("entry", "state", bits >> 61 << 61, bits));
        }
        Ok(entry)
    }

    /// What it says.
    #[must_use]
    pub fn state(self) -> State {
        match self.0 >> 61 {
            0 => State::Hole,
            1 => State::Data(Tier::Pmem),
            2 => State::Data(Tier::Ssd),
            3 => State::Data(Tier::Object),
            4 => State::Zero(Tier::Pmem),
            5 => State::Zero(Tier::Ssd),
            6 => State::Zero(Tier::Object),
            _ => State::Lost,
        }
    }

    /// The segment it points to, if it points anywhere.
    #[must_use]
    pub fn segment(self) -> Option<SegmentId> {
        match self.state() {
            State::Hole | State::Lost => None,
            State::Data(_) | State::Zero(_) => Some(SegmentId(self.field(37, 24))),
        }
    }

    /// The tier it points to, if it points anywhere.
    #[must_use]
    pub fn tier(self) -> Option<Tier> {
        match self.state() {
            State::Hole | State::Lost => None,
            State::Data(tier) | State::Zero(tier) => Some(tier),
        }
    }

    /// Whether it points to zeros, which have no payload.
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self.state(), State::Zero(_))
    }

    /// The segment it points to, with its tier, if it points anywhere.
    #[must_use]
    pub fn place(self) -> Option<(Tier, SegmentId)> {
        Some((self.tier()?, self.segment()?))
    }

    /// The whole location, if it points anywhere.
    #[must_use]
    pub fn location(self) -> Option<Location> {
        Some(Location {
            state: self.state(),
            segment: self.segment()?,
            granule: Granule(self.field(19, 18)),
            sectors: u8::try_from(self.field(12, 7)).unwrap_or(u8::MAX),
            index: u8::try_from(self.field(9, 3)).unwrap_or(u8::MAX),
            check: u16::try_from(self.field(0, 9)).unwrap_or(u16::MAX),
        })
    }

    /// The entry of the block `index` of the same fragment.
    #[must_use]
    pub fn with_index(self, index: u8) -> Self {
        Self(self.0 & !(7 << 9) | u64::from(index & 7) << 9)
    }

    fn field(self, shift: u32, bits: u32) -> u32 {
        u32::try_from(self.0 >> shift & ((1 << bits) - 1)).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location() {
            None => write!(f, "{:?}", self.state()),
            Some(l) => write!(f, "{:?}@{}:{}+{}[{}]#{}", l.state, l.segment, l.granule, l.sectors, l.index, l.check),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_at_its_extremes() {
        for state in
            [State::Data(Tier::Pmem), State::Data(Tier::Ssd), State::Zero(Tier::Ssd), State::Zero(Tier::Object)]
        {
            for (segment, granule, sectors, index, check) in [
                (0, 0, 0, 0, 0),
                (0xff_ffff, 0, 0x7f, 0, 0x1ff),
                (0, 0x3_ffff, 0, 7, 0),
                (0x12_3456, 0x2_aaaa, 66, 5, 0x155),
            ] {
                let location =
                    Location { state, segment: SegmentId(segment), granule: Granule(granule), sectors, index, check };
                assert_eq!(Entry::new(&location).location(), Some(location));
            }
        }
        assert_eq!(Entry::HOLE.state(), State::Hole);
        assert_eq!(Entry::LOST.state(), State::Lost);
        assert_eq!(Entry::LOST.location(), None);
    }
}
