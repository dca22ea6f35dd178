//! Databases live on Plica: committed on a mount over NBD, on a pool with a journal, over kills of the daemon.
//!
//! ```text
//!  load, witnessed ─► daemon killed ─► the database meets I/O errors, is killed, unmounted ─► plica check
//!        ▲                                                                                        │
//!        └── verified: every committed transaction ◄─ its own recovery ◄─ mounted ◄─ served again ┘
//! ```
//!
//! Each database once with a journal in memory and once with one on a file. Natively, as root, with nbdfuse and loop
//! devices; `PLICA_DATABASE_KILLS` kills more than two times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, fs, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use ublk_tests::{
    Failure, Result, binaries,
    command::Background,
    daemon::{Daemon, Namespace, Pool, Transport},
    database::{Cluster, Database, LedgerOnMariaDb, LedgerOnPostgres, MAKE_FILESYSTEM, MariaDb, RocksDb, Sqlite},
    failure::ensure,
    mount::Mount,
    wait,
};

/// Transactions of each load before the daemon is killed, and how long it may take to make them.
const TRANSACTIONS_MIN: u64 = 200;
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// How long databases are left alone with a device that is dead.
const DEAD: Duration = Duration::from_millis(300);

/// Where a pool has its journal.
#[derive(Clone, Copy, Debug)]
enum Journal {
    Memory,
    File,
}

/// A pool with a journal, served and mounted. A test that fails takes it down in the order of the fields.
struct Bench {
    mounts: Vec<Mount>,
    daemon: Option<Daemon>,
    pool: Pool,
    namespaces: &'static [Name],
    directory: tempfile::TempDir,
    /// The journal's, when it is in memory.
    _memory: tempfile::TempDir,
}

/// A namespace and how its filesystem is made.
struct Name {
    name: &'static str,
    size: &'static str,
    unit: &'static str,
    make: &'static str,
}

const EXT4: &str = "mkfs.ext4 -q";
const DATA: Name = Name { name: "data", size: "1G", unit: "8K", make: EXT4 };
const LOG: Name = Name { name: "log", size: "512M", unit: "8K", make: EXT4 };
/// Pages are aligned, contiguous and never torn.
const WHOLE_PAGES: Name = Name { name: "data", size: "1G", unit: "16K", make: MAKE_FILESYSTEM };

impl Bench {
    fn new(journal: Journal, namespaces: &'static [Name]) -> Result<Self> {
        binaries::build_plica()?;
        let directory = tempfile::tempdir_in("/var/tmp").map_err(Failure::io("/var/tmp"))?;
        let memory = tempfile::tempdir_in("/dev/shm").map_err(Failure::io("/dev/shm"))?;
        // PostgreSQL is another user
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), mode).map_err(Failure::io("permissions"))?;
        let (place, volatile) = match journal {
            Journal::Memory => (memory.path(), true),
            Journal::File => (directory.path(), false),
        };
        let pool = Pool::at(directory.path().join("pool"), directory.path().join("pool.d"));
        let pool = pool.journal(&format!("{}:128M", place.join("journal").display()), volatile);
        let made = namespaces.iter().map(|n| Namespace::new(n.name, n.size).option("--unit", n.unit));
        pool.create(Some("3G"), &made.collect::<Vec<_>>())?;
        let mut bench = Self { mounts: Vec::new(), daemon: None, pool, namespaces, directory, _memory: memory };
        bench.serve()?;
        for (mount, name) in bench.mounts.iter().zip(namespaces) {
            mount.make(name.make)?;
            mount.mount()?;
        }
        Ok(bench)
    }

    /// Serves the pool and attaches its namespaces.
    fn serve(&mut self) -> Result<()> {
        let names: Vec<&str> = self.namespaces.iter().map(|n| n.name).collect();
        self.daemon = Some(self.pool.serve(Transport::Nbd, &names)?);
        for name in names {
            let uri = format!("nbd+unix:///{name}?socket={}", self.pool.socket().display());
            self.mounts.push(Mount::attach(&uri, self.directory.path().join(name))?);
        }
        Ok(())
    }

    /// Bytes that each namespace has acknowledged through the journal since the daemon was started.
    fn journaled(&self) -> Result<Vec<u64>> {
        let status = &self.pool.status()?["pool"];
        ensure(status["corrupt"].as_u64() == Some(0), || format!("something is corrupt: {status}"))?;
        let namespaces = status["namespaces"].as_array().into_iter().flatten();
        Ok(namespaces.map(|n| n["journal"]["acknowledged"].as_u64().unwrap_or(0)).collect())
    }

    /// The daemon dies; what is mounted dies of it, and comes back from the medium and the staging file.
    fn kill(&mut self, load: Vec<Background>) -> Result<()> {
        let daemon = self.daemon.take().ok_or_else(|| Failure::new("nobody serves"))?;
        daemon.kill()?;
        thread::sleep(DEAD);
        load.into_iter().try_for_each(|client| client.end().map(|_| ()))?;
        for mount in self.mounts.drain(..).rev() {
            mount.abandon()?;
        }
        self.check()?;
        self.serve()?;
        self.mounts.iter().try_for_each(Mount::mount)
    }

    /// `plica check` finds nothing, after a kill as after a clean stop.
    fn check(&self) -> Result<()> {
        self.pool.plica(["check"])?.arg(self.pool.path()).limit(300).ok().map(|_| ())
    }

    /// Everything ends cleanly and is without fault.
    fn end(mut self) -> Result<()> {
        for mount in self.mounts.drain(..).rev() {
            mount.detach("e2fsck -fn")?;
        }
        self.daemon.take().ok_or_else(|| Failure::new("nobody serves"))?.stop()?;
        self.check()
    }
}

fn kills() -> u32 {
    env::var("PLICA_DATABASE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// A database on these namespaces, mounted in the directory that `at` is given, lives through kills of the daemon.
fn lives<D: Database>(journal: Journal, namespaces: &'static [Name], at: impl FnOnce(&Path) -> D) {
    let test = || -> Result<()> {
        let start = wait::now();
        let mut bench = Bench::new(journal, namespaces)?;
        let mut database = at(bench.directory.path());
        database.make()?;
        database.start()?;
        for kill in 0..kills() {
            // 1. what is acknowledged from here on must be there, whatever happens
            let before = database.acknowledged();
            let load = database.load()?;
            wait::until("transactions", LOAD_LIMIT, || {
                Ok((database.acknowledged() >= before + TRANSACTIONS_MIN).then_some(()))
            })?;
            thread::sleep(Duration::from_millis(fastrand::u64(500..2500)));
            let journaled = bench.journaled()?;
            ensure(journaled.last().is_some_and(|bytes| *bytes > 0), || {
                format!("the journal is not used: {journaled:?}")
            })?;
            // 2. the daemon dies, and with it the mount and the database
            bench.kill(load)?;
            let acknowledged = database.acknowledged();
            // 3. the database recovers
            database.start()?;
            let found = database.verify()?;
            println!(
                "kill {kill}, after {:.1} s: {acknowledged} transactions acknowledged, {found} there; {} bytes through the journal",
                start.elapsed().as_secs_f64(),
                journaled.iter().sum::<u64>()
            );
        }
        database.stop()?;
        bench.end()
    };
    test().unwrap();
}

fn postgres(journal: Journal) {
    lives(journal, &[DATA], |place| LedgerOnPostgres::on(Cluster::at(place.join("data/cluster"))));
}

fn postgres_with_its_log_apart(journal: Journal) {
    lives(journal, &[DATA, LOG], |place| {
        LedgerOnPostgres::on(Cluster::at(place.join("data/cluster")).log(place.join("log/wal")))
    });
}

fn mariadb(journal: Journal) {
    lives(journal, &[WHOLE_PAGES], |place| LedgerOnMariaDb::on(MariaDb::at(place.join("data/db"))));
}

fn mariadb_with_doublewrite(journal: Journal) {
    lives(journal, &[DATA], |place| LedgerOnMariaDb::on(MariaDb::at(place.join("data/db")).doublewrite()));
}

fn sqlite(journal: Journal) {
    lives(journal, &[DATA], |place| Sqlite::at(place.join("data/ledger.db")));
}

fn rocksdb(journal: Journal) {
    lives(journal, &[DATA], |place| RocksDb::at(place.join("data/rocks")));
}

macro_rules! with_both_journals {
    ($($in_memory:ident, $on_a_file:ident: $database:ident)*) => {
        $(
            #[test]
            fn $in_memory() {
                $database(Journal::Memory);
            }

            #[test]
            fn $on_a_file() {
                $database(Journal::File);
            }
        )*
    };
}

with_both_journals! {
    postgres_on_a_journal_in_memory, postgres_on_a_journal_in_a_file: postgres
    postgres_log_on_a_journal_in_memory, postgres_log_on_a_journal_in_a_file: postgres_with_its_log_apart
    mariadb_on_a_journal_in_memory, mariadb_on_a_journal_in_a_file: mariadb
    mariadb_doublewrite_on_a_journal_in_memory, mariadb_doublewrite_on_a_journal_in_a_file: mariadb_with_doublewrite
    sqlite_on_a_journal_in_memory, sqlite_on_a_journal_in_a_file: sqlite
    rocksdb_on_a_journal_in_memory, rocksdb_on_a_journal_in_a_file: rocksdb
}
