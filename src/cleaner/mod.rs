//! What the cleaner decides: which segments to relocate from, how fast, and which writes are kept apart. Pure: no I/O, no clock, no map.
//!
//! ```text
//!   segments, as they change ─► classes by live part, oldest first                   index
//!   the first of each class ─► policy (cost-benefit | greedy | FIFO) ─► victims      victim
//!   host bytes, gained bytes, free segments ─► Pacer ─► clean now? writers wait?     pace
//!   time that passes ─► a share of it may be spent                                   budget
//!   age of what a write overwrites ─► Lifespan ─► the host's stream or the cold one  lifespan
//!   LBAs of the newest writes ─► Rewrites ─► hot stream                              rewrites
//! ```
//!
//! The same code chooses in the engine (`core`) and in the simulator of traces (`ublk-tests/examples/cleaner_traces.rs`).
//!
//! **Invariants.** A victim gains: cleaning never takes as much as it gives, so it ends. Writers wait only for gains that
//! are to come. **Not here:** moving anything (`core`).

pub mod budget;
pub mod index;
pub mod lifespan;
pub mod pace;
pub mod rewrites;
pub mod victim;

pub use budget::Budget;
pub use index::VictimIndex;
pub use lifespan::Lifespan;
pub use pace::Pacer;
pub use rewrites::Rewrites;
pub use victim::{Candidate, CostBenefit, Fifo, Greedy, VictimPolicy};
