//! Front ends: each turns a protocol into [`crate::core::request::Request`]s and replies into completions. No storage
//! logic lives here.

pub mod ublk;
