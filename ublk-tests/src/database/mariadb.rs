//! MariaDB in a mounted filesystem: InnoDB with `O_DIRECT` for pages and redo log, and mostly without its doublewrite
//! buffer, which it can do without only where no page is ever torn.
//!
//! The filesystem keeps pages aligned and contiguous (clusters of 16 KiB), so that each page is a naturally aligned range
//! of one request: what the device promises to write whole or not at all.

use std::{path::PathBuf, thread, time::Duration};

use super::{Database, ledger::Ledger};
use crate::{
    Failure, Result,
    command::{Background, Cmd, sh},
    failure::ensure,
};

/// Script of the guest that a power cut ends.
pub const MARIADB_BEFORE: &str = "mariadb-before";
/// Script of the guest that looks at what is left.
pub const MARIADB_AFTER: &str = "mariadb-after";
/// How the filesystem is made: clusters of the size of a page.
pub const MAKE_FILESYSTEM: &str = "mkfs.ext4 -q -O bigalloc -C 16384";

/// How long the server may take to start: recovery included.
const START_TRIES: u32 = 600;
const START_PAUSE: Duration = Duration::from_millis(200);

/// Clients that make transfers at once.
const CLIENTS: usize = 4;

/// A database server in a mounted filesystem.
pub struct MariaDb {
    data: PathBuf,
    /// Pages are written twice, so that a torn one can be mended.
    doublewrite: bool,
}

impl MariaDb {
    /// The server with its data in `data`, without a doublewrite buffer.
    pub fn at(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into(), doublewrite: false }
    }

    /// With a doublewrite buffer, as on devices that tear pages.
    #[must_use]
    pub fn doublewrite(self) -> Self {
        Self { doublewrite: true, ..self }
    }

    /// Makes it.
    ///
    /// # Errors
    /// What mariadb-install-db says.
    pub fn init(&self) -> Result<()> {
        let (data, temporary) = (self.data.display(), self.temporary());
        let install = "mariadb-install-db --no-defaults --user=root --auth-root-authentication-method=normal \
                       --skip-test-db --skip-name-resolve";
        let make = format!("{install} --datadir={data} --tmpdir={temporary} > /dev/null");
        sh(format!("mkdir -p {data} {temporary}; {make}; sync -f {data}")).limit(600).ok().map(|_| ())
    }

    /// Starts the server, which lives as long as what is returned; after a crash this is where it recovers.
    ///
    /// # Errors
    /// It does not answer in time; with its log.
    pub fn start(&self) -> Result<Background> {
        let data = self.data.display();
        let options = "--no-defaults --user=root --skip-networking --innodb-flush-method=O_DIRECT \
                       --innodb-flush-log-at-trx-commit=1 --innodb-buffer-pool-size=32M --innodb-log-file-size=16M \
                       --innodb-log-file-buffering=0 --innodb-io-capacity=2000 --innodb-use-native-aio=0";
        let (doublewrite, temporary) = (u8::from(self.doublewrite), self.temporary());
        let server = format!(
            "exec mariadbd {options} --innodb-doublewrite={doublewrite} --datadir={data} \
             --tmpdir={temporary} --socket={data}/s --pid-file={data}/pid 2>> {data}/log"
        );
        let mut server = sh(server).limit(1200).start()?;
        for _ in 0..START_TRIES {
            if self.sql("select 1").run()?.status.success() {
                return Ok(server);
            }
            if !server.is_running()? {
                break;
            }
            thread::sleep(START_PAUSE);
        }
        let log = sh(format!("tail -n 30 {data}/log")).ok().unwrap_or_default();
        Err(Failure::new(format!("mariadbd does not answer: {log}")))
    }

    /// Stops the server cleanly.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self, server: Background) -> Result<()> {
        self.sql("shutdown").ok()?;
        let ended = server.finish(Duration::from_secs(180))?;
        ensure(ended.status.success(), || ended.failure("mariadbd").to_string())
    }

    /// The tables of the witness and of the load beside it.
    ///
    /// # Errors
    /// What the server says.
    pub fn fill(&self) -> Result<()> {
        let tables =
            "create database t; use t; create table t.witness (id bigint primary key, filler char(200)) engine=innodb;
            create table t.load_ (id int primary key, n bigint, filler char(200)) engine=innodb;
            insert into t.load_ select seq, 0, repeat('x', 200) from seq_1_to_40000";
        self.sql(tables).ok().map(|_| ())
    }

    /// Rewrites rows all over the second table, for ever: pages that are torn if any are.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn load(&self) -> Result<Background> {
        let update = "update t.load_ set n = n + 1 where id % 97 = floor(rand() * 97)";
        let client = self.client("t");
        sh(format!("while :; do echo '{update};'; done | {client}")).limit(1200).start()
    }

    /// Inserts rows 0, 1, 2, ... each in a transaction of its own, for ever, with marks after every twenty; see
    /// [`super::Cluster::witnessed_inserts`].
    ///
    /// # Errors
    /// When a statement fails.
    pub fn witnessed_inserts(&self, first: u64, log: &str) -> Result<()> {
        let mut next = first;
        loop {
            let insert = |n| format!("insert into t.witness values ({n}, repeat('w', 200));");
            let statements: Vec<String> = (next..next + 20).map(insert).collect();
            self.sql(&statements.join("\n")).ok()?;
            next += 20;
            Cmd::new("dmsetup").args(["message", log, "0", "mark", &next.to_string()]).ok()?;
            println!("mark {next}");
        }
    }

    /// Every table is whole; how many witnessed rows there are, which must be 0, 1, 2, ... without a gap.
    ///
    /// # Errors
    /// What is wrong.
    pub fn witnessed_rows(&self) -> Result<u64> {
        self.check(&["t.witness", "t.load_"])?;
        let line = self.sql("select count(*), coalesce(max(id) + 1, 0) from t.witness").ok()?;
        let (count, end) = line.trim().split_once('\t').unwrap_or_default();
        ensure(count == end, || format!("{count} rows below {end}"))?;
        let rows = self.sql("select count(*) from t.load_").ok()?;
        ensure(rows.trim() == "40000", || format!("{} rows of 40000", rows.trim()))?;
        count.parse().map_err(|e| Failure::new(format!("{line}: {e}")))
    }

    /// Every one of `tables` is whole, all its rows and indexes read.
    ///
    /// # Errors
    /// Which is not.
    pub fn check(&self, tables: &[&str]) -> Result<()> {
        let checked = self.sql(&format!("check table {} extended", tables.join(", "))).ok()?;
        let good = checked.lines().filter(|line| line.ends_with("status\tOK")).count();
        ensure(good == tables.len(), || format!("a table is damaged: {checked}"))
    }

    /// Of its own: a server that starts deletes what it finds of others in the directory for temporary tables.
    fn temporary(&self) -> String {
        format!("{}.tmp", self.data.display())
    }

    fn sql(&self, statements: &str) -> Cmd {
        sh(self.client("")).input(statements.to_owned()).limit(300)
    }

    fn client(&self, database: &str) -> String {
        format!("mariadb --no-defaults -u root -N -B --socket={}/s {database}", self.data.display())
    }
}

/// A server with transfers between accounts, and pages rewritten all over beside them.
pub struct LedgerOnMariaDb {
    server: MariaDb,
    running: Option<Background>,
    ledger: Ledger,
}

impl LedgerOnMariaDb {
    /// On this server.
    #[must_use]
    pub fn on(server: MariaDb) -> Self {
        Self { server, running: None, ledger: Ledger::new("begin", CLIENTS) }
    }

    fn query(&self, statement: &str) -> Result<String> {
        self.server.sql(&format!("use ledger; {statement}")).ok()
    }
}

impl Database for LedgerOnMariaDb {
    fn make(&mut self) -> Result<()> {
        self.server.init()?;
        let running = self.server.start()?;
        self.server.fill()?;
        self.server.sql("create database ledger").ok()?;
        self.query(&self.ledger.tables())?;
        self.server.stop(running)
    }

    fn start(&mut self) -> Result<()> {
        self.running = Some(self.server.start()?);
        let settings = "select @@innodb_flush_method, @@innodb_log_file_buffering, @@innodb_doublewrite";
        let expected = format!("O_DIRECT\t0\t{}", u8::from(self.server.doublewrite));
        let found = self.query(settings)?;
        ensure(found.trim() == expected, || format!("the server runs with {found:?}, not with {expected:?}"))
    }

    fn load(&mut self) -> Result<Vec<Background>> {
        let client = || sh(format!("exec {} --unbuffered", self.server.client("ledger")));
        let mut all = self.ledger.clients(client)?;
        all.push(self.server.load()?);
        Ok(all)
    }

    fn acknowledged(&self) -> u64 {
        self.ledger.acknowledged()
    }

    fn verify(&mut self) -> Result<u64> {
        self.server.check(&["ledger.witness", "ledger.account", "t.load_"])?;
        self.ledger.verify(|statement| self.query(statement))
    }

    fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| self.server.stop(running))
    }
}
