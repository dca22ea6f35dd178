//! Tests of Plica against the real device: the parts that its tests are made of.
//!
//! ```text
//!  host: tests/*.rs ──► vm ── boots ──► guest: bin/guest ──► scenario ──► daemon ──► plica serve ──► /dev/ublkbN
//!        power cut: kill the VM, then log_writes decides what the disk under the pool has kept
//! ```
//!
//! A test of `tests/` runs on the host and boots one guest for each scenario ([`vm`]); the binary `guest` runs the
//! scenario there against a daemon and a device ([`scenario`], [`daemon`]). Power cuts are judged from outside the
//! guest: [`workload`] says which writes were acknowledged as durable, [`log_writes`] builds the disk that a power cut
//! at any moment could have left. Databases ([`database`]) run there and, natively, on a namespace mounted over NBD
//! ([`mount`]).
//!
//! # Failure
//! Everything returns [`Failure`] with what was done and the end of what was printed.
//!
//! # Not here
//! Tests of the engine in process and under the simulator: they are beside the code in the main crate.

pub mod bench;
pub mod binaries;
pub mod command;
pub mod daemon;
pub mod database;
pub mod failure;
pub mod fuzz;
pub mod log_writes;
pub mod mount;
pub mod scenario;
pub mod tidy;
pub mod vm;
pub mod wait;
pub mod workload;

pub use failure::{Failure, Result};
