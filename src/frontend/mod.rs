//! Front ends: they turn a protocol into [`Request`](crate::core::request::Request)s and completions into replies.
//!
//! **Not here:** storage logic of any kind.

pub mod nbd;
pub mod ublk;
