//! The ublk front end: one namespace as `/dev/ublkbN`. The only user of libublk.
//!
//! ```text
//!  host I/O ─► ublk driver ─► queue thread ── Request ──► core
//!                  ▲          (libublk's ring)              │ its thread
//!                  └── commit ──── Completions ◄── Reply ───┘ + eventfd
//! ```
//!
//! - [`UblkServer`] is what the daemon holds. Its control thread owns libublk's control handle (whose ring belongs to
//!   one thread) and does everything the driver may make wait: add, recover, start, resize, stop, delete. Callers wait
//!   for it with a bound.
//! - Each queue has one thread (libublk's queue ring belongs to one thread, too). It takes what the driver has, hands it
//!   to the core as one group, and commits what the core has answered as one group.
//! - The queue thread copies data between the host's pages and its buffers, which are lent to the core with the request.
//!   There is no other copy, and no allocation once the queue's busiest moment has been seen.
//!
//! **Recovery.** Devices are added with user recovery and reissue: when the daemon dies the driver keeps `/dev/ublkbN`,
//! holds its I/O, and gives unanswered requests to whoever recovers the device. `ublksrv_flags` carries a hash of pool
//! and namespace ([`identity`](device_identity)), by which the next daemon knows its devices and leaves others alone.
//! Queues, depth, buffer size and parameters of a recovered device are kept as they are.
//!
//! **Invariants.** One commit per request (I9): the driver answers the host from it, and a request that is never
//! committed hangs its caller, so every path ends in a commit with a length or a negative errno. Depth, queues and
//! buffers are bounded when the device is made (I10).
//!
//! **Failure.** If a queue thread ends unexpectedly, I/O of its queue waits in the driver until a new daemon recovers
//! the device; nothing is answered wrongly. The process should let signals go to a thread that is not one of these
//! (block them in all but one): libublk takes an interrupted wait for an answer.
//!
//! **Not here.** In-driver zero copy (it hides the bytes from the server), zoned and integrity devices, unprivileged
//! devices.

mod buffers;
mod busy;
mod completions;
mod control;
mod errors;
mod options;
mod pages;
mod params;
mod probe;
mod queue;
mod recovery;
mod server;
mod translate;

pub use options::UblkOptions;
pub use probe::{DriverFeatures, probe};
pub use recovery::device_identity;
pub use server::UblkServer;
