//! The map: `(namespace, LBA) → entry`, in leaves of 512 entries under a directory per namespace.
//!
//! ```text
//!   directory[LBA / 512] ── image (durable location, complete) ── leaf in memory ── entries[LBA % 512]
//!                                 └── what recovery replays onto it when it is read
//! ```
//!
//! **Invariants.** An entry changes only in the await-free step that appends the record it points to (I12). A leaf that
//! was changed since its image is dirty and remembers its first change; the replay start stays below the oldest. Leaves in
//! memory are bounded: clean ones that nobody needs leave it when the clock comes by (`clock`).
//!
//! **Not here:** reading leaves from media (`core`), bytes (`format`).

mod clock;
mod directory;
mod dirty;
mod replayed;

pub use clock::Clock;
pub use directory::{Change, Directory, Entries, Heat, Installed, Leaf, LeafSlot, Taken, Waiting};
pub use dirty::{DirtyLeaf, DirtyQueue};
pub use replayed::Replayed;

use crate::limits::LEAF_ENTRIES;
use crate::units::Lba;

/// The leaf that holds an LBA.
#[must_use]
pub fn leaf_of(lba: Lba) -> u32 {
    u32::try_from(lba.0 / LEAF_ENTRIES as u64).unwrap_or(u32::MAX)
}

/// The index of an LBA in its leaf.
#[must_use]
pub fn index_of(lba: Lba) -> usize {
    usize::try_from(lba.0 % LEAF_ENTRIES as u64).unwrap_or(0)
}

/// The first LBA of a leaf.
#[must_use]
pub fn first_lba(leaf: u32) -> Lba {
    Lba(u64::from(leaf) * LEAF_ENTRIES as u64)
}
