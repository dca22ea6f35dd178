//! NBD over a Unix socket: the engine where there is no ublk, and for every tool that speaks NBD.
//!
//! ```text
//!   socket ─► inbox ─► command ─► Request ─┐ in groups
//!             (receiver task)              ▼
//!                                        core
//!             (sender task)                │ ReplySink
//!   socket ◄─ wire  ◄─ outbox  ◄───────────┘ gathered, one send for many
//! ```
//!
//! Everything runs as tasks of the core's executor; sockets go through its reactor. The protocol is fixed newstyle
//! with `NBD_OPT_GO`, structured replies and `base:allocation`, without TLS and extended headers.
//!
//! **Invariants.**
//! - Every request that was received whole is handed to the core and answered there, whether or not its client is
//!   still there (I9).
//! - A connection has bounded requests and bytes under way, counted from receipt until the reply has been sent; beyond
//!   that nothing more is received (I10).
//! - Bytes of a client are input: they end in an error reply or a dropped connection, never in a panic.
//!
//! **Failure.** Of a request: its errno. Of the protocol (a wrong magic number, a payload beyond 32 MiB): the
//! connection is dropped, with the reason in the log. Of the socket: the connection ends, its requests still complete.
//!
//! **Not here:** authentication (the socket is 0600), who is exported (`Exports` is told).

mod buffers;
mod command;
mod connection;
#[cfg(feature = "sim")]
pub mod converse;
mod exports;
mod handshake;
mod inbox;
mod outbox;
mod receiver;
mod sender;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use exports::{Export, Exports};
pub use server::Server;

/// Most requests of a connection between receipt and sent reply.
const REQUESTS_MAX: usize = 256;
/// Most bytes of their data; a single request may be larger.
const BYTES_MAX: usize = 16 << 20;
/// Most connections of a server.
const CONNECTIONS_MAX: usize = 64;
/// Bytes received at once. Holds any option and any small request.
const RECEIVE_BYTES: usize = 256 << 10;
/// Bytes sent at once.
const SEND_BYTES: usize = 256 << 10;
/// From this size on data goes straight from or to the socket, without a copy.
const LARGE_BYTES: usize = 64 << 10;
/// Bytes of data of the largest option.
const OPTION_BYTES_MAX: usize = 64 << 10;
/// Most parts of a block status reply.
const EXTENTS_MAX: usize = 4096;

const _: () = assert!(RECEIVE_BYTES >= wire::REQUEST_BYTES + LARGE_BYTES);
const _: () = assert!(RECEIVE_BYTES >= handshake::OPTION_HEADER_BYTES + OPTION_BYTES_MAX);
const _: () = assert!(SEND_BYTES >= wire::REPLY_BYTES_MAX + LARGE_BYTES);
const _: () = assert!(SEND_BYTES >= wire::REPLY_BYTES_MAX + EXTENTS_MAX * wire::EXTENT_BYTES);
