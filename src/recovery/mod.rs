//! From media and shared memory to a state that may be served: a table of named steps, each logged with its duration.
//!
//! ```text
//!   roots ─► newest ─► image + changes ─► directories, generations
//!   staging slots ─► adopt: written to their places, flushed        (same boot, unclean stop)
//!   tier 0: all of it, batch after batch ─┐
//!   window segments ─► summaries | walk ─► records ─► sorted by number ─► replay onto leaves
//! ```
//!
//! **Invariants.** Rule 6.1 decides what is accepted; a read error stops recovery, only a bad checksum is a torn write.
//! Everything accepted is flushed before the first root of the new session names it (I1).
//!
//! **Failure.** No valid root, staging missing after an unclean stop in this boot, damage below what was settled: the
//! pool is refused, or opened read-only, with a message that says why.

pub mod adopt;
pub mod journal;
pub mod replay;
pub mod roots;
pub mod window;

pub use adopt::{adopt, staged_batches};
pub use journal::{RecoveredJournal, look_at_journal, scan_journal};
pub use roots::{Directories, complete_root, load_image, newest_root};
pub use window::{Known, Recovered, RecoveredSegment, scan_window};
