//! The control socket of a running daemon: `RUN_DIR/<pool>.sock`, one line of JSON a message.
//!
//! ```text
//!   plica status ── ControlClient ──{"version":1,"command":…}──► ControlServer ── daemon
//!                                 ◄──{"version":1,"result":…}──  (a task of the core's executor)
//! ```
//!
//! **Invariants.** Messages are bounded before they are parsed, connections are bounded in number and in idle time
//! (I10). No secret goes over the socket: what needs the root key is done by the daemon, which has it. The socket is
//! 0600 in a directory of 0700.
//!
//! **Failure.** A message that is too long, no JSON or of another version is answered with an error and ends the
//! connection; the daemon goes on.
//!
//! **Not here:** what commands do (`daemon`).

mod client;
mod protocol;
mod server;

pub use client::ControlClient;
pub use protocol::{
    Answer, BusyDevices, Command, Medium, NamespaceInfo, NewJournal, PROTOCOL_VERSION, REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX, Request, Served, StatusReport,
};
pub use protocol::{decode_reply, decode_request, encode_request};
pub use server::{ControlServer, bind_socket};

use std::path::{Path, PathBuf};

use crate::units::PoolId;

/// Where the daemon of a pool listens.
#[must_use]
pub fn socket_path(run_dir: &Path, pool: PoolId) -> PathBuf {
    run_dir.join(format!("{pool}.sock"))
}
