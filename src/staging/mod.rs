//! Shared-memory slots that outlive the daemon but not the machine (design section 4).
//!
//! ```text
//!   append ─► slot ─ publish ─► acknowledged … write completed ─► slot free
//!                └─ the daemon dies ─► the next one adopts what was published
//! ```
//!
//! **Invariants.** Sealed bytes only (I6). What is published and not yet written is on no other medium: the file goes only
//! after a root that no longer needs it.

mod region;

pub use region::{Region, SlotBuf};

use crate::error::Result;
use crate::format::slot::StagingHeader;
use crate::units::{PoolId, SessionId};

/// Where the staging files of serves are. Two exist: a directory on tmpfs, and the simulator's machine.
pub trait StagingStore {
    /// A new region for a serve, with this header, ready for use: fully allocated and locked in memory.
    ///
    /// # Errors
    /// There is no memory for it, or it exists.
    fn create(&mut self, header: &StagingHeader) -> Result<Region>;

    /// The region of a serve, if it is still there.
    ///
    /// # Errors
    /// It is there but cannot be read.
    fn find(&mut self, pool: PoolId, session: SessionId) -> Result<Option<Region>>;

    /// Removes the region of a serve; none is no error.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    fn remove(&mut self, pool: PoolId, session: SessionId) -> Result<()>;
}
