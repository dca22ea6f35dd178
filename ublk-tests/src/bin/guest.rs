//! The program that runs inside the guest: `guest COMMAND ARGS...`, started by the tests of `tests/`.
//!
//! - `scenario NAME DIRECTORY`: one of [`scenario::SCENARIOS`]
//! - `scenarios`: their names
//! - `cut-run POOL DIRECTORY LOG SEED BLOCKS FIRST [create [JOURNAL]]`: (makes and) serves a pool, then the workload, for
//!   ever; without a log if LOG is `-`
//! - `cut-check POOL DIRECTORY SEED BLOCKS`: serves the pool and prints what each block is, and what its journal is on;
//!   so does `sqlite-after` with its journal
//! - `files-before KIND POOL DIRECTORY LOG FIRST [create]`, `files-after KIND POOL DIRECTORY DONE LAST`
//! - `mariadb-before POOL DIRECTORY LOG FIRST [create [JOURNAL]]`, `mariadb-after POOL DIRECTORY`
//! - `postgres-before POOL DIRECTORY LOG FIRST [create [JOURNAL]]`, `postgres-after POOL DIRECTORY`
//! - `sqlite-before POOL DIRECTORY [create [JOURNAL]]`, `sqlite-after POOL DIRECTORY`

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ublk_tests::{
    Failure, Result,
    command::sh,
    daemon::{Daemon, Namespace, Pool},
    database::{self, Cluster, Database as _, MariaDb, Sqlite},
    scenario::{
        self,
        files::{self, FILES_AFTER, FILES_BEFORE},
    },
    workload::{self, Device, Plan},
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match command(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("guest {}: {failure}", args.join(" "));
            // why a device gave an error, its daemon knows
            let logs = args.iter().filter_map(|arg| std::fs::read_to_string(Path::new(arg).join("daemon.log")).ok());
            logs.for_each(|log| eprintln!("--- daemon.log\n{log}"));
            ExitCode::FAILURE
        }
    }
}

fn command(args: &[&str]) -> Result<()> {
    match args {
        ["scenarios"] => {
            scenario::SCENARIOS.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        ["scenario", name, directory] => scenario::run(name, Path::new(directory)),
        ["cut-run", pool, directory, log, seed, blocks, first, rest @ ..] => {
            let (_daemon, device, _) = begin(pool, directory, rest, &Namespace::new("data", "512M"))?;
            let log = (*log != "-").then_some(*log);
            workload::run(&mut Device::open(&device)?, &plan(seed, blocks)?, number(first)?, None, log)
        }
        ["cut-check", pool, directory, seed, blocks] => {
            let pool = Pool::at(*pool, *directory);
            let (daemon, device) = scenario::serve(&pool)?;
            let found = Device::open(&device)?.find(&plan(seed, blocks)?)?;
            say_journal(&pool)?;
            daemon.stop()?;
            workload::print_found(&found)
        }
        [FILES_BEFORE, kind, pool, directory, log, first, rest @ ..] => {
            let (_daemon, device, is_new) = begin(pool, directory, rest, &Namespace::new("data", "1G"))?;
            if is_new {
                files::make(kind, &device)?;
            }
            files::witnessed_writes(&files::mount(kind, &device)?, number(first)?, log)
        }
        [FILES_AFTER, kind, pool, directory, done, last] => {
            let (daemon, device) = scenario::serve(&Pool::at(*pool, *directory))?;
            let end = files::verify(&files::mount(kind, &device)?, number(done)?, number(last)?)?;
            files::check(kind, &device)?;
            daemon.stop()?;
            println!("writes {end}");
            Ok(())
        }
        [database::MARIADB_BEFORE, pool, directory, log, first, rest @ ..] => {
            mariadb_before(pool, directory, log, number(first)?, rest)
        }
        [database::MARIADB_AFTER, pool, directory] => mariadb_after(&Pool::at(*pool, *directory)),
        [database::BEFORE_CUT, pool, directory, log, first, rest @ ..] => {
            postgres_before(pool, directory, log, number(first)?, rest)
        }
        [database::AFTER_CUT, pool, directory] => postgres_after(&Pool::at(*pool, *directory)),
        [database::SQLITE_BEFORE, pool, directory, rest @ ..] => sqlite_before(pool, directory, rest),
        [database::SQLITE_AFTER, pool, directory] => sqlite_after(&Pool::at(*pool, *directory)),
        _ => Err(Failure::new("unknown command; see the head of its source")),
    }
}

/// Serves the pool, made before if `rest` says so; the last tells whether it is new.
fn begin(pool: &str, directory: &str, rest: &[&str], namespace: &Namespace<'_>) -> Result<(Daemon, PathBuf, bool)> {
    let mut pool = Pool::at(pool, directory);
    let is_new = rest.first() == Some(&"create");
    if is_new {
        if let Some(journal) = rest.get(1) {
            pool = pool.journal(journal, false);
        }
        pool.create(None, std::slice::from_ref(namespace))?;
        keep_key(directory)?;
    }
    let (daemon, device) = scenario::serve(&pool)?;
    Ok((daemon, device, is_new))
}

fn mariadb_before(pool: &str, directory: &str, log: &str, first: u64, rest: &[&str]) -> Result<()> {
    let namespace = Namespace::new("data", "1G").option("--unit", "16K");
    let (_daemon, device, is_new) = begin(pool, directory, rest, &namespace)?;
    if is_new {
        sh(format!("{} {}", database::MAKE_FILESYSTEM, device.display())).ok()?;
    }
    let database = mounted_database(&device)?;
    if is_new {
        database.init()?;
    }
    let _server = database.start()?;
    if is_new {
        database.fill()?;
    }
    let _load = database.load()?;
    database.witnessed_inserts(first, log)
}

fn mariadb_after(pool: &Pool) -> Result<()> {
    let (daemon, device) = scenario::serve(pool)?;
    let database = mounted_database(&device)?;
    let server = database.start()?;
    let rows = database.witnessed_rows()?;
    database.stop(server)?;
    sh(format!("umount /run/db; e2fsck -fn {}", device.display())).limit(300).ok()?;
    daemon.stop()?;
    println!("rows {rows}");
    Ok(())
}

fn postgres_before(pool: &str, directory: &str, log: &str, first: u64, rest: &[&str]) -> Result<()> {
    let namespace = Namespace::new("data", "1G").option("--unit", "8K");
    let (_daemon, device, is_new) = begin(pool, directory, rest, &namespace)?;
    if is_new {
        sh(format!("mkfs.ext4 -q {}", device.display())).ok()?;
    }
    let cluster = mounted_cluster(&device)?;
    if is_new {
        cluster.init()?;
    }
    cluster.start()?;
    if is_new {
        cluster.fill(1)?;
        cluster.client("psql", "-qc 'create table witness (id bigint primary key)' postgres").ok()?;
    }
    let _load = cluster.client("pgbench", "-n -c 2 -T 600 postgres").limit(900).start()?;
    cluster.witnessed_inserts(first, log)
}

fn postgres_after(pool: &Pool) -> Result<()> {
    let (daemon, device) = scenario::serve(pool)?;
    // The journal of the filesystem is replayed by mounting; only then is it to be without fault.
    let cluster = mounted_cluster(&device)?;
    cluster.start()?;
    cluster.check()?;
    let rows = cluster.witnessed_rows()?;
    cluster.stop()?;
    sh(format!("umount /run/db; e2fsck -fn {}", device.display())).limit(300).ok()?;
    daemon.stop()?;
    println!("rows {rows}");
    Ok(())
}

fn sqlite_before(pool: &str, directory: &str, rest: &[&str]) -> Result<()> {
    let namespace = Namespace::new("data", "256M").option("--unit", "4K");
    let (_daemon, device, is_new) = begin(pool, directory, rest, &namespace)?;
    if is_new {
        sh(format!("mkfs.ext4 -q {}", device.display())).ok()?;
    }
    let mut database = mounted_sqlite(&device)?;
    if is_new {
        database.make()?;
    }
    database.witnessed_transfers()
}

fn sqlite_after(pool: &Pool) -> Result<()> {
    let (daemon, device) = scenario::serve(pool)?;
    let mut database = mounted_sqlite(&device)?;
    database.start()?;
    let rows = database.witnessed()?;
    say_journal(pool)?;
    sh(format!("umount /run/db; e2fsck -fn {}", device.display())).limit(300).ok()?;
    daemon.stop()?;
    println!("rows {rows}");
    Ok(())
}

fn mounted_sqlite(device: &Path) -> Result<Sqlite> {
    sh(format!("mkdir -p /run/db; mount -t ext4 {} /run/db", device.display())).ok()?;
    Ok(Sqlite::with_one_writer("/run/db/ledger.db"))
}

/// What the journal of a pool that is served is on, and its resident bytes; nothing if it has none.
fn say_journal(pool: &Pool) -> Result<()> {
    let journal = &pool.status()?["pool"]["journal"];
    if let (Some(kind), Some(resident)) = (journal["kind"].as_str(), journal["resident"].as_u64()) {
        println!("journal {kind} {resident}");
    }
    Ok(())
}

/// The root key is a file of the host, seen through the guest's page cache: it must be there after the power cut.
fn keep_key(directory: &str) -> Result<()> {
    sh(format!("sync {directory}/*")).ok().map(|_| ())
}

fn mounted_cluster(device: &Path) -> Result<Cluster> {
    sh(format!("mkdir -p /run/db; mount -t ext4 {} /run/db; chmod 755 /run/db", device.display())).ok()?;
    Ok(Cluster::at("/run/db/cluster"))
}

fn mounted_database(device: &Path) -> Result<MariaDb> {
    sh(format!("mkdir -p /run/db; mount -t ext4 {} /run/db", device.display())).ok()?;
    Ok(MariaDb::at("/run/db/data"))
}

fn plan(seed: &str, blocks: &str) -> Result<Plan> {
    Ok(Plan { seed: number(seed)?, block_count: number(blocks)? })
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|e| Failure::new(format!("{text}: {e}")))
}
