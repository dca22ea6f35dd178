//! Memory that is handed to the kernel or shared with workers: page aligned, owned, returned to whoever lent it.
//!
//! **Invariants.** An operation in flight owns its buffer; dropping the future that waits for it does not free it
//! (see [`crate::env::reactor`]). Pools are bounded (I10): an exhausted pool is back-pressure, never an allocation.

mod aligned;
mod data;
mod pool;

pub use aligned::AlignedBuf;
pub use data::DataBuf;
pub use pool::BufPool;
