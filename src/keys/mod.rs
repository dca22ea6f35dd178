//! Keys: where the root key comes from, the data keys of namespaces, and how the one wraps the other.
//!
//! ```text
//!  key file ─────────┐
//!  passphrase ─Argon2┴─► RootKey ─HKDF─► wrapping key ─AES-256-GCM─► DataKey ─► codec::Sealer
//! ```
//!
//! **Invariants.** Keys are erased when dropped, live on the heap (moving one leaves no copy), cannot be cloned or
//! printed, never come from a command line or the environment, and never reach a medium unwrapped (I6).
//!
//! **Failure.** A wrong key is [`crate::error::ErrorKind::Locked`] before anything was touched; a key file or
//! passphrase that cannot be used is [`crate::error::ErrorKind::Config`] and says what to do.
//!
//! **Not here:** keeping pages out of swap (the daemon locks all its memory), the namespace table.

mod data_key;
mod key_file;
mod passphrase;
mod root_key;
mod wrap;

pub use data_key::{DATA_KEY_BYTES, DataKey};
pub use passphrase::{Passphrase, PassphraseParams, SALT_BYTES};
pub use root_key::RootKey;
pub use wrap::{KEY_CHECK_BYTES, WRAP_NONCE_BYTES, WRAPPED_BYTES, key_check, unwrap, verify_key_check, wrap};
