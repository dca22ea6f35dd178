//! PostgreSQL in a mounted filesystem: its own crash recovery, its own checker, and sums that must agree.

use std::path::PathBuf;

use super::{Database, ledger::Ledger};
use crate::{
    Failure, Result,
    command::{Background, Cmd, sh},
    failure::ensure,
};

/// Script of the guest that a power cut ends: see [`Cluster::witnessed_inserts`].
pub const BEFORE_CUT: &str = "postgres-before";
/// Script of the guest that looks at what is left.
pub const AFTER_CUT: &str = "postgres-after";

/// Clients that make transfers at once.
const CLIENTS: usize = 4;

/// A database cluster in a mounted filesystem.
pub struct Cluster {
    data: PathBuf,
    /// Where its write-ahead log is, if not in `data`.
    log: Option<PathBuf>,
}

impl Cluster {
    /// The cluster in directory `data`.
    pub fn at(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into(), log: None }
    }

    /// With its write-ahead log in directory `log`.
    #[must_use]
    pub fn log(self, log: impl Into<PathBuf>) -> Self {
        Self { log: Some(log.into()), ..self }
    }

    /// Makes it, with every safety switched on.
    ///
    /// # Errors
    /// What initdb says.
    pub fn init(&self) -> Result<()> {
        let data = self.data.display();
        let log = self.log.as_ref().map(|log| log.display().to_string()).unwrap_or_default();
        sh(format!("mkdir -p {data} {log}; chown postgres {data} {log}; chmod 700 {data} {log}")).ok()?;
        let log = if log.is_empty() { log } else { format!("-X {log}") };
        let init = format!("-D {data} {log} --data-checksums --auth=trust -E UTF8 --locale=C");
        self.tool("initdb", &init).limit(300).ok()?;
        let settings = "fsync = on\nsynchronous_commit = on\nfull_page_writes = on\nlisten_addresses = ''\n\
                        shared_buffers = 64MB\nmax_wal_size = 128MB\ncheckpoint_timeout = 30s\n";
        let settings = format!("{settings}unix_socket_directories = '{data}'\n");
        // initdb has synchronised its files; ours must not be lost either.
        sh(format!("cat >> {data}/postgresql.conf; sync {data}/postgresql.conf")).input(settings).ok().map(|_| ())
    }

    /// Starts the server; after a crash this is where it recovers.
    ///
    /// # Errors
    /// What pg_ctl says, with the server's log.
    pub fn start(&self) -> Result<()> {
        let data = self.data.display();
        let started = self.tool("pg_ctl", &format!("-D {data} -l {data}/server.log -w -t 120 start")).limit(180).ok();
        started.map(|_| ()).map_err(|e| {
            let log = sh(format!("tail -n 30 {data}/server.log")).ok().unwrap_or_default();
            e.within(format_args!("server log: {log}"))
        })
    }

    /// Stops the server cleanly.
    ///
    /// # Errors
    /// What pg_ctl says.
    pub fn stop(&self) -> Result<()> {
        // pg_ctl waits for its pid file to go, the process still has its directory then
        let pid = sh(format!("head -n 1 {}/postmaster.pid", self.data.display())).ok()?;
        self.tool("pg_ctl", &format!("-D {} -w -t 120 -m fast stop", self.data.display())).limit(180).ok()?;
        sh(format!("while kill -0 {} 2>/dev/null; do sleep 0.05; done", pid.trim())).limit(60).ok().map(|_| ())
    }

    /// Kills every process of the server.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self) -> Result<()> {
        let data = self.data.display();
        let script = format!(
            "pid=$(head -n 1 {data}/postmaster.pid); children=$(pgrep -P $pid); kill -9 $pid $children
            for p in $pid $children; do while kill -0 $p 2>/dev/null; do sleep 0.05; done; done"
        );
        sh(script).limit(30).ok().map(|_| ())
    }

    /// One of PostgreSQL's client programs.
    #[must_use]
    pub fn client(&self, name: &str, args: &str) -> Cmd {
        self.tool(name, &format!("-h {} {args}", self.data.display())).limit(300)
    }

    /// Fills pgbench's tables.
    ///
    /// # Errors
    /// What pgbench says.
    pub fn fill(&self, scale: u32) -> Result<()> {
        self.client("pgbench", &format!("-q -i -s {scale} postgres")).ok().map(|_| ())
    }

    /// pg_amcheck finds nothing, and what every account, teller and branch has is what history says was moved.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<()> {
        self.client("psql", "-qc 'create extension if not exists amcheck' postgres").ok()?;
        self.client("pg_amcheck", "--heapallindexed postgres").ok()?;
        let sums = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
                    (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)";
        let line = self.client("psql", &format!("-qAtc '{sums}' postgres")).ok()?;
        let values: Vec<&str> = line.trim().split('|').collect();
        ensure(values.len() == 4 && values.iter().all(|v| *v == values[0]), || format!("sums do not agree: {line}"))
    }

    /// Inserts rows 0, 1, 2, ... each in a transaction of its own, for ever; after every twenty it puts a mark into the
    /// log of device-mapper target `log` and says `mark NUMBER`: all rows below it were committed.
    ///
    /// # Errors
    /// When a statement fails.
    pub fn witnessed_inserts(&self, first: u64, log: &str) -> Result<()> {
        let mut next = first;
        loop {
            let statements: String =
                (next..next + 20).map(|n| format!("insert into witness values ({n});\n")).collect();
            self.client("psql", "-q -v ON_ERROR_STOP=1 postgres").input(statements).ok()?;
            next += 20;
            Cmd::new("dmsetup").args(["message", log, "0", "mark", &next.to_string()]).ok()?;
            println!("mark {next}");
        }
    }

    /// The number of witnessed rows, which must be 0, 1, 2, ... without a gap.
    ///
    /// # Errors
    /// When one is missing between others.
    pub fn witnessed_rows(&self) -> Result<u64> {
        let line =
            self.client("psql", "-qAtc 'select count(*), coalesce(max(id) + 1, 0) from witness' postgres").ok()?;
        let (count, end) = line.trim().split_once('|').unwrap_or_default();
        ensure(count == end, || format!("{count} rows below {end}"))?;
        count.parse().map_err(|e| Failure::new(format!("{line}: {e}")))
    }

    fn tool(&self, name: &str, args: &str) -> Cmd {
        // Debian keeps the server's programs out of PATH. A directory that the user postgres may not read is no place
        // to start in.
        sh(format!(
            "cd /; PATH=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1):$PATH; runuser -u postgres -- {name} {args}"
        ))
    }
}

/// A cluster with transfers between accounts, and pgbench beside them.
pub struct LedgerOnPostgres {
    cluster: Cluster,
    ledger: Ledger,
}

impl LedgerOnPostgres {
    /// On this cluster.
    #[must_use]
    pub fn on(cluster: Cluster) -> Self {
        Self { cluster, ledger: Ledger::new("begin", CLIENTS) }
    }

    /// Reads statements and prints what they give at once.
    fn client(&self) -> Cmd {
        self.cluster.client("stdbuf -oL psql", "-qAt -v ON_ERROR_STOP=1 postgres")
    }

    fn query(&self, statement: &str) -> Result<String> {
        self.client().input(format!("{statement};\n")).ok()
    }
}

impl Database for LedgerOnPostgres {
    fn make(&mut self) -> Result<()> {
        self.cluster.init()?;
        self.cluster.start()?;
        self.cluster.fill(2)?;
        self.query(&self.ledger.tables())?;
        self.cluster.stop()
    }

    fn start(&mut self) -> Result<()> {
        self.cluster.start()
    }

    fn load(&mut self) -> Result<Vec<Background>> {
        let mut all = self.ledger.clients(|| self.client())?;
        all.push(self.cluster.client("pgbench", "-n -c 4 -j 2 -T 600 postgres").start()?);
        Ok(all)
    }

    fn acknowledged(&self) -> u64 {
        self.ledger.acknowledged()
    }

    fn verify(&mut self) -> Result<u64> {
        self.cluster.check()?;
        self.ledger.verify(|statement| self.query(statement))
    }

    fn stop(&mut self) -> Result<()> {
        self.cluster.stop()
    }
}
