//! What measurements of the engine in process share: a pool on a file, loops of one request at a time, and figures.
//!
//! ```text
//!   example ──► on_file ──► Bench: environment, medium, journal ──► open ──► pool ──► client
//!      │                                                                                ▲
//!      └──► run_lanes ──► Lane: one request at a time ─────────────────────────────────┘
//!                 └─────► Meter: how long each took
//! ```
//!
//! **Failure.** Errors of the engine are passed on: a measurement that met one is none.

mod blocks;
mod lane;
mod meter;
mod pool;

pub use blocks::Blocks;
pub use lane::{Lane, run_lanes};
pub use meter::{Latencies, Meter, ratio};
pub use pool::{Bench, Serve, namespace, on_file, write_first, write_owned};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
