//! Databases on mounted filesystems: each made, started, loaded, checked and stopped in the way of its own users.
//!
//! ```text
//!  clients ── transaction n ──► database ──► filesystem ──► Plica        verify: what the database has after its recovery
//!     └───── n is committed ──► witness, in the memory of the test  ───► against what was acknowledged
//! ```
//!
//! The witness is outside of everything that is killed. A client makes one transaction after the other and says each
//! number when the database has acknowledged it: so after a crash exactly these are there, and at most one more of each
//! client, which was under way.
//!
//! # Failure
//! What the database's programs say, with the end of its log.
//!
//! # Not here
//! Daemons, mounts and what is killed when: [`crate::scenario`] on a real device, `tests/databases.rs` natively.

pub mod ledger;
mod mariadb;
mod postgres;
mod rocksdb;
mod sqlite;

pub use mariadb::{LedgerOnMariaDb, MAKE_FILESYSTEM, MARIADB_AFTER, MARIADB_BEFORE, MariaDb};
pub use postgres::{AFTER_CUT, BEFORE_CUT, Cluster, LedgerOnPostgres};
pub use rocksdb::RocksDb;
pub use sqlite::{SQLITE_AFTER, SQLITE_BEFORE, Sqlite};

use crate::{Result, command::Background};

/// A database with a witness of what it has committed.
pub trait Database {
    /// Makes it, with its tables; it does not run afterwards.
    ///
    /// # Errors
    /// What its programs say.
    fn make(&mut self) -> Result<()>;

    /// Starts it; after a crash this is where it recovers.
    ///
    /// # Errors
    /// It does not answer, with the end of its log.
    fn start(&mut self) -> Result<()>;

    /// Starts clients that commit until they are ended, and whatever runs beside them.
    ///
    /// # Errors
    /// One cannot be started.
    fn load(&mut self) -> Result<Vec<Background>>;

    /// Transactions that were acknowledged since it was made.
    fn acknowledged(&self) -> u64;

    /// Everything acknowledged is there and nothing else, byte for byte, and the database's own checker is content:
    /// how many transactions are there. Clients have ended before.
    ///
    /// # Errors
    /// What is missing or wrong.
    fn verify(&mut self) -> Result<u64>;

    /// Stops it cleanly.
    ///
    /// # Errors
    /// It does not end.
    fn stop(&mut self) -> Result<()>;
}
