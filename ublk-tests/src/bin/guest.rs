//! The program that runs inside the guest: `guest COMMAND ARGS...`, started by the tests of `tests/`.
//!
//! - `scenario NAME DIRECTORY`: one of [`scenario::SCENARIOS`]
//! - `scenarios`: their names
//! - `cut-run POOL DIRECTORY LOG SEED BLOCKS FIRST [create]`: (makes and) serves a pool, then the workload, for ever
//! - `cut-check POOL DIRECTORY SEED BLOCKS`: serves the pool and prints what each block is
//! - `postgres-before POOL DIRECTORY LOG FIRST [create]`, `postgres-after POOL DIRECTORY`

use std::{env, path::Path, process::ExitCode};

use ublk_tests::{
    Failure, Result,
    command::sh,
    daemon::{Namespace, Pool},
    scenario::{self, Cluster},
    workload::{self, Device, Plan},
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match command(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("guest {}: {failure}", args.join(" "));
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
            let plan = plan(seed, blocks)?;
            let pool = Pool::at(*pool, *directory);
            if *rest == ["create"] {
                pool.create(None, &[Namespace::new("data", "512M")])?;
                keep_key(directory)?;
            }
            let (_daemon, device) = scenario::serve(&pool)?;
            workload::run(&mut Device::open(&device)?, &plan, number(first)?, None, Some(log))
        }
        ["cut-check", pool, directory, seed, blocks] => {
            let (daemon, device) = scenario::serve(&Pool::at(*pool, *directory))?;
            let found = Device::open(&device)?.find(&plan(seed, blocks)?)?;
            daemon.stop()?;
            workload::print_found(&found)
        }
        [scenario::BEFORE_CUT, pool, directory, log, first, rest @ ..] => {
            let pool = Pool::at(*pool, *directory);
            let create = *rest == ["create"];
            if create {
                pool.create(None, &[Namespace::new("data", "1G").option("--unit", "8K")])?;
                keep_key(directory)?;
            }
            let (_daemon, device) = scenario::serve(&pool)?;
            let device = device.display();
            if create {
                sh(format!("mkfs.ext4 -q {device}")).ok()?;
            }
            let cluster = mounted_cluster(&device.to_string())?;
            if create {
                cluster.init()?;
            }
            cluster.start()?;
            if create {
                cluster.fill(1)?;
                cluster.client("psql", "-qc 'create table witness (id bigint primary key)' postgres").ok()?;
            }
            let _load = cluster.client("pgbench", "-n -c 2 -T 600 postgres").limit(900).start()?;
            cluster.witnessed_inserts(number(first)?, log)
        }
        [scenario::AFTER_CUT, pool, directory] => {
            let (daemon, device) = scenario::serve(&Pool::at(*pool, *directory))?;
            let device = device.display();
            // The journal of the filesystem is replayed by mounting; only then is it to be without fault.
            let cluster = mounted_cluster(&device.to_string())?;
            cluster.start()?;
            cluster.check()?;
            let rows = cluster.witnessed_rows()?;
            cluster.stop()?;
            sh(format!("umount /run/db; e2fsck -fn {device}")).limit(300).ok()?;
            daemon.stop()?;
            println!("rows {rows}");
            Ok(())
        }
        _ => Err(Failure::new("unknown command; see the head of its source")),
    }
}

/// The root key is a file of the host, seen through the guest's page cache: it must be there after the power cut.
fn keep_key(directory: &str) -> Result<()> {
    sh(format!("sync {directory}/*")).ok().map(|_| ())
}

fn mounted_cluster(device: &str) -> Result<Cluster> {
    sh(format!("mkdir -p /run/db; mount -t ext4 {device} /run/db; chmod 755 /run/db")).ok()?;
    Ok(Cluster::at("/run/db/cluster"))
}

fn plan(seed: &str, blocks: &str) -> Result<Plan> {
    Ok(Plan { seed: number(seed)?, block_count: number(blocks)? })
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|e| Failure::new(format!("{text}: {e}")))
}
