//! A load whose every acknowledged write is known outside the machine that made it.
//!
//! ```text
//!  guest: run ── op n, op n+1, ... ──► device          host: Witness ◄── "mark n" (all operations before n are done)
//!                     └── "mark n" ──► host, log                 └──► which values each block may have after the cut
//! ```
//!
//! Operation *n* is a pure function of the seed and *n* ([`Plan`]), and so are the bytes it writes ([`content`]): guest
//! and host never exchange more than a number. A block read back tells which operation wrote it, or that it is damaged.
//!
//! # Invariants
//! - Operations are made one after the other; *n + 1* begins when *n* is complete.
//! - A block shows the value of the last durable operation on it, or of a later one.
//! - A naturally aligned power-of-two write of up to 64 KiB is there as a whole or not at all.

pub mod content;
mod device;
mod plan;
mod witness;

pub use content::Found;
pub use device::{Device, parse_found, print_found, run};
pub use plan::{BLOCK_BYTES, MARK_EVERY, Op, Plan, Range};
pub use witness::{Summary, Witness};
