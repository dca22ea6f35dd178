//! SQLite in WAL mode, every commit synchronised: its log is a file that is rewritten from its start after each checkpoint.

use std::{path::PathBuf, thread, time::Duration};

use super::{Database, ledger::Ledger};
use crate::{
    Result,
    command::{Background, Cmd, sh},
    failure::ensure,
};

/// Script of the guest that a power cut ends: see [`Sqlite::witnessed_transfers`].
pub const SQLITE_BEFORE: &str = "sqlite-before";
/// Script of the guest that looks at what is left.
pub const SQLITE_AFTER: &str = "sqlite-after";

/// Writers; SQLite lets one at a time.
const CLIENTS: usize = 2;
/// Pages of the log after which it is checkpointed and begins anew: often, in a short test.
const CHECKPOINT_PAGES: u32 = 250;

/// A database in a file of a mounted filesystem.
pub struct Sqlite {
    file: PathBuf,
    ledger: Ledger,
}

impl Sqlite {
    /// The database in `file`.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), ledger: Ledger::new("begin immediate", CLIENTS) }
    }

    /// The same with one writer: what it has committed is one number.
    pub fn with_one_writer(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), ledger: Ledger::new("begin immediate", 1) }
    }

    /// Commits for ever and says `mark NUMBER` now and then: so many transactions were committed.
    ///
    /// # Errors
    /// Its client ends.
    pub fn witnessed_transfers(&mut self) -> Result<()> {
        let mut clients = self.load()?;
        loop {
            thread::sleep(Duration::from_millis(200));
            for client in &mut clients {
                ensure(client.is_running()?, || "sqlite3 ended by itself".into())?;
            }
            println!("mark {}", self.acknowledged());
        }
    }

    /// Transactions that are there; SQLite finds no fault with the file.
    ///
    /// # Errors
    /// What is wrong.
    pub fn witnessed(&self) -> Result<u64> {
        self.check()?;
        Ok(self.ledger.found(|statement| self.query(statement))?.iter().sum())
    }

    fn check(&self) -> Result<()> {
        let checked = self.query("pragma integrity_check")?;
        ensure(checked.trim() == "ok", || format!("integrity_check: {checked}"))
    }

    /// The shell, which stops at the first error.
    fn client(&self) -> Cmd {
        let settings = format!("pragma synchronous=full; pragma wal_autocheckpoint={CHECKPOINT_PAGES};");
        sh(format!(
            "exec stdbuf -oL sqlite3 -bail -cmd '.timeout 30000' -cmd '.output /dev/null' -cmd '{settings}' -cmd '.output' {}",
            self.file.display()
        ))
    }

    fn query(&self, statement: &str) -> Result<String> {
        self.client().input(format!("{statement};\n")).ok()
    }
}

impl Database for Sqlite {
    fn make(&mut self) -> Result<()> {
        self.query(&format!("pragma journal_mode=wal; {}", self.ledger.tables())).map(|_| ())
    }

    /// There is no server: the first client that opens the file recovers.
    fn start(&mut self) -> Result<()> {
        let mode = self.query("pragma journal_mode")?;
        ensure(mode.trim() == "wal", || format!("SQLite is in mode {}", mode.trim()))
    }

    fn load(&mut self) -> Result<Vec<Background>> {
        self.ledger.clients(|| self.client())
    }

    fn acknowledged(&self) -> u64 {
        self.ledger.acknowledged()
    }

    fn verify(&mut self) -> Result<u64> {
        self.check()?;
        self.ledger.verify(|statement| self.query(statement))
    }

    fn stop(&mut self) -> Result<()> {
        self.query("pragma wal_checkpoint(truncate)").map(|_| ())
    }
}
