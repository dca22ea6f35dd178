#![doc = include_str!("FORMAT.md")]
#![deny(clippy::indexing_slicing)]

pub mod kinds;

pub use kinds::{Cipher, Codec, Compression};
