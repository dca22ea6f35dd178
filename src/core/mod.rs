//! The one thread that orders everything of a pool.

pub mod request;
