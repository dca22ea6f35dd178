//! A deterministic mutational fuzzer for every decoder of bytes from media, shared memory and sockets.
//!
//! ```text
//!   golden files, kept inputs ─► mutate ─► (mostly) seal the checks again ─► target ─► outcome
//!            ▲                                                                          │
//!            └──────────── inputs whose outcome has a feature that no other had ◄───────┘
//! ```
//!
//! Checksums would stop nearly every mutation at the door; so most inputs get good ones again, as an attacker's would have.
//! A target fails by a panic. What it makes of an input stands in for the edges that a compiler's coverage would count: which
//! check refused it, or how large each field of what it accepted is ([`outcome`]).
//!
//! # Failure
//! A panic of a target is the finding; whoever runs it keeps the input.
//!
//! # Not here
//! Time limits and files: `examples/fuzz`. Every input that is kept is run again by `tests/fuzz_corpus.rs`.

pub mod corpus;
pub mod mutate;
pub mod outcome;
mod seal;
mod streams;
pub mod targets;

pub use corpus::Corpus;
pub use outcome::Outcome;
pub use targets::{TARGETS, Target};
