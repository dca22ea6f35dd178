#![doc = include_str!("FORMAT.md")]
#![deny(clippy::indexing_slicing)]

pub mod batch;
mod cursor;
pub mod entry;
#[cfg(any(test, feature = "sim"))]
pub mod golden;
pub mod image;
pub mod journal;
pub mod kinds;
pub mod layout;
pub mod leaf;
pub mod namespaces;
pub mod record;
pub mod root;
pub mod slot;
pub mod summary;
pub mod superblock;
#[cfg(test)]
mod tests;

pub use entry::{Entry, Location, State, Tier};
pub use kinds::{Cipher, Codec, Compression};
pub use record::Place;
