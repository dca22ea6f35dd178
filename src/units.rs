//! The project's units as types, so that a segment number never passes for an LBA.
//!
//! All are plain integers with names; arithmetic that can overflow is checked where the numbers come from outside
//! (front ends, media), here they are only carried.

use std::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit!(
    /// A logical block address: index of a 4 KiB block within a namespace.
    Lba(u64)
);
unit!(
    /// Identity of a namespace within its pool; never used twice. 0 is not a namespace.
    NamespaceId(u32)
);
unit!(
    /// Index of a segment within a tier.
    SegmentId(u32)
);
unit!(
    /// How many times a segment has been opened; 0 means never.
    Generation(u32)
);
unit!(
    /// Operation number: the total order of records in a pool. 0 is before all records.
    OpNo(u64)
);
unit!(
    /// A daemon's tenure over a pool: 64 random bits drawn at each open. 0 is not a session.
    SessionId(u64)
);
unit!(
    /// Position within a segment in units of 16 bytes.
    Granule(u32)
);

impl OpNo {
    /// The operation number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            /// The usual 8-4-4-4-12 form (RFC 9562).
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

identity!(
    /// Identity of a pool: 128 random bits, drawn when it is created.
    PoolId
);
identity!(
    /// Identity of a journal: 128 random bits, drawn when it is given to a pool. All zero is none.
    JournalId
);

/// Number of the seal under a data key: never the same twice for one key (I7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SealNo {
    /// The session in which the fragment was sealed; stays with the fragment when it moves.
    pub session: SessionId,
    /// Counter within the session, from 1.
    pub counter: u64,
}

impl SealNo {
    /// The low 9 bits of the counter, kept in the map entry and compared on read.
    #[must_use]
    pub fn check(self) -> u16 {
        (self.counter & 0x1ff) as u16
    }
}

/// A run of LBAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaRange {
    /// The first LBA.
    pub start: Lba,
    /// How many.
    pub count: u64,
}

impl LbaRange {
    /// The LBA after the last.
    #[must_use]
    pub fn end(self) -> Lba {
        Lba(self.start.0 + self.count)
    }
}
