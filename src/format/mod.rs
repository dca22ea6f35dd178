#![doc = include_str!("FORMAT.md")]
#![deny(clippy::indexing_slicing)]

pub mod batch;
mod cursor;
pub mod entry;
pub mod image;
pub mod kinds;
pub mod layout;
pub mod leaf;
pub mod namespaces;
pub mod record;
pub mod root;
pub mod slot;
pub mod summary;
pub mod superblock;

pub use entry::{Entry, Location, State, Tier};
pub use kinds::{Cipher, Codec, Compression};
pub use record::Place;
