//! Shared-memory slots that outlive the daemon but not the machine.
//!
//! ```text
//!   core ── store, publish ──► Region (mapped) ── file RUN_DIR/<pool>.<session>.staging
//!   next daemon ── StagingStore::find ──► Region ── adopted by recovery
//! ```
//!
//! **Invariants.** One file a serve, named after its session; the new one exists and is locked before the root names
//! its session, and the old one is removed after that. Sealed bytes only (I6).
//!
//! **Not here:** what the bytes mean (`format::slot`), which session is to be adopted (the root says).

mod region;
mod store;

use crate::error::Result;
use crate::format::slot::{Prelude, StagingHeader};
use crate::limits::SLOT_COUNT;
use crate::units::{PoolId, SessionId};

pub use region::{Region, SlotBuf};
pub use store::RunDirStore;

/// Whether a session has served with this memory: daemons that died while starting have filled no slot.
pub(crate) fn was_served(region: &Region, header: &StagingHeader) -> bool {
    let filled = |slot| Prelude::decode(&region.load_prelude(slot), header.pool, header.session).is_ok();
    (0..SLOT_COUNT).any(filled)
}

/// Where staging memory is kept, by pool and session. Two exist: the run directory and the simulator's.
pub trait StagingStore {
    /// Makes the memory of a new session, its header stored.
    ///
    /// # Errors
    /// No room for it, or it exists already.
    fn create(&mut self, header: &StagingHeader) -> Result<Region>;

    /// The memory of an earlier session, if it is still there. What it holds is for the caller to verify.
    ///
    /// # Errors
    /// It is there but cannot be trusted (not of its one size, not ours) or is in use.
    fn find(&mut self, pool: PoolId, session: SessionId) -> Result<Option<Region>>;

    /// A session other than that of `known` that served the same pool on the same medium in the same boot, and whose memory is
    /// still there. A store that cannot look knows of none.
    ///
    /// # Errors
    /// The memory of the pool's sessions cannot be looked at.
    fn other_serve(&mut self, _known: &StagingHeader) -> Result<Option<SessionId>> {
        Ok(None)
    }

    /// Forgets the memory of a session, and what daemons of this pool left that died while starting. A mapping of it stays
    /// valid.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    fn remove(&mut self, pool: PoolId, session: SessionId) -> Result<()>;
}
