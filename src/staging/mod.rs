//! Shared-memory slots that outlive the daemon but not the machine.

mod region;

pub use region::{Region, SlotBuf};
