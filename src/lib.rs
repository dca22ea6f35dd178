//! Plica: a packed, compressed, encrypted block device for databases.
//!
//! ```text
//!  /dev/ublkbN ── ublk ┐            ┌─► codec workers: compress, seal, checksum (pure functions)
//!                      ├─ Request ─► core ─► map   (namespace, LBA) → location
//!  NBD socket ─── nbd ─┘             ├─► log: batch → segment ─► tier 1: SSD or file
//!                                    └─► cleaner · leaf write-back · roots · recovery
//! ```
//!
//! Reading order: [`mod@format`] (the specification), [`mod@env`], [`core`], then whatever the write path touches.
//!
//! # Invariants
//! - **I1** data is durable before anything durable points at it.
//! - **I2** a segment is reopened only under rule 6.3 of the format.
//! - **I3** a root becomes current by one atomic switch, after the flush it depends on.
//! - **I4** FLUSH covers everything acknowledged before it.
//! - **I5** verified data or EIO.
//! - **I6** no plaintext user data and no key on any medium or in shared memory.
//! - **I7** no (key, seal number) twice.
//! - **I8** a MOVE and a merged sub-block write are appended only by compare; replay never compares.
//! - **I9** exactly one completion per request.
//! - **I10** everything is bounded: requests, buffers, records to replay, retries.
//! - **I11** a failed metadata write or flush latches the pool read-only.
//! - **I12** append and map change are one await-free step.

pub mod advise;
pub mod allocator;
pub mod buf;
pub mod canary;
pub mod check;
pub mod cleaner;
pub mod cli;
pub mod codec;
pub mod control;
pub mod core;
pub mod daemon;
pub mod env;
pub mod error;
pub mod format;
pub mod frontend;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod log;
pub mod map;
pub mod media;
pub mod pmem;
pub mod pool;
pub mod recovery;
#[cfg(feature = "sim")]
pub mod sim;
pub mod staging;
pub mod units;
