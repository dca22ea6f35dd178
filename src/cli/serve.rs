//! `plica serve`: the daemon, in the foreground.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::access::{Access, access, unexpected};
use super::peek::peek;
use super::pool_args::{KeyArgs, PoolArgs, key_is_required};
use super::size::{approximate, parse_size};
use super::{Failure, output};
use crate::control::{Answer, BusyDevices, Command};
use crate::core::{Recompression, Watermarks};
use crate::daemon::{self, Event, ServeOptions};
use crate::env::BusyPoll;
use crate::keys::verify_key_check;

const HELP: &str = "\
Prints one line a namespace, `serving NAME as DEVICE` or `serving NAME at URI`, then `ready`, and serves until it \
is stopped. Under systemd it tells when it is ready (Type=notify). Namespaces can be made, served and destroyed \
meanwhile.

After a kill or a crash of the daemon nothing acknowledged is lost: start it again, with the same run directory. \
A ublk device keeps its users meanwhile; their I/O waits. The run directory must be on a tmpfs that outlives the \
daemon (/run, /dev/shm).

SIGTERM, SIGINT and SIGHUP stop it cleanly. A ublk device that is mounted or otherwise in use then stays, and its \
I/O waits for the next `plica serve`; `plica stop` refuses instead. A second signal ends the daemon at once, as a \
kill would.

--take-over upgrades a daemon under mounted filesystems: the one that runs finishes what is under way, writes its \
map and ends; I/O waits until this one has taken its devices over. NBD clients are disconnected and connect again.

--recompress: what the cleaner moves a second time, and, while no request comes, what was not overwritten for some time, is compressed again in units of 32 KiB. That is off by default since such data takes longer to read. `plica status` shows what it saved.

Examples:
  plica serve pool.plica --root-key pool.key
  plica serve pool.plica --root-key pool.key --take-over
  plica serve /dev/nvme1n1 db wal --root-key /etc/plica/pool.key --queues 4
  plica serve pool.plica --passphrase --transport nbd --nbd-socket /tmp/plica.sock --run-dir /dev/shm/plica
  plica serve /dev/nvme1n1 --root-key /etc/plica/pool.key --map-memory 512M
  plica serve pool.plica --root-key pool.key --recompress 20 --cold-after 60
  plica serve pool.plica --root-key pool.key --journal /mnt/pmem1/journal
  nbdinfo 'nbd+unix:///db?socket=/tmp/plica.sock'";

#[derive(Debug, Args)]
#[command(after_help = HELP, group = key_is_required())]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Namespaces to serve [default: all, also those that are made while it runs]
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    key: KeyArgs,

    /// As block devices of this kernel (ublk), over a Unix socket (nbd), or the first of these that can be had (auto)
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,

    /// The NBD socket; implies --transport nbd [default: in the run directory]
    #[arg(long, value_name = "PATH")]
    nbd_socket: Option<PathBuf>,

    /// Queues of a ublk device, each with a thread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,

    /// Take a pool over from the daemon that serves it, which stops cleanly first; I/O on its block devices waits meanwhile
    #[arg(long)]
    take_over: bool,

    /// The pool's journal, if it is not where it was when it was given to the pool
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    /// Serve the pool although its journal is lost: what was only there is listed, and reads as errors until it is rewritten
    #[arg(long)]
    accept_journal_loss: bool,

    /// Threads that compress and encrypt [default: one less than there are CPUs; 0 leaves it to the core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=256))]
    workers: Option<u16>,

    /// Microseconds for which the core looks for the next request before it sleeps, while requests come that close; a commit
    /// then waits for no wake-up, for which the core takes processor time [default: 50; 0 where there are two CPUs or one]
    #[arg(long, value_name = "MICROS", value_parser = clap::value_parser!(u16).range(0..=1000))]
    busy_poll: Option<u16>,

    /// Memory for the map, such as 256M: what does not fit is read when it is needed, one read more [default: as much as it
    /// takes, 2 GiB for each TiB of data]
    #[arg(long, value_name = "SIZE", value_parser = map_memory)]
    map_memory: Option<u64>,

    /// Percent of one CPU for recompressing cold data with zstd: it takes less space, and longer to read (0: none)
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    recompress: u8,

    /// Minutes after which data that was not overwritten is cold
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    cold_after: u32,

    /// Percent of the pool in use from which on it warns: in the log, and in plica status --check
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(1..=100))]
    low_at: u8,

    /// Percent of the pool in use from which on that is an error
    #[arg(long, value_name = "PERCENT", default_value_t = 95, value_parser = clap::value_parser!(u8).range(1..=100))]
    critical_at: u8,
}

/// Least memory for the map: what requests under way need, and some more.
const MAP_MEMORY_MIN: u64 = 8 << 20;

fn map_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes < MAP_MEMORY_MIN {
        return Err(format!("the map needs at least {}", approximate(MAP_MEMORY_MIN)));
    }
    Ok(bytes)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    Auto,
    Ublk,
    Nbd,
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let transport = self.choose_transport()?;
        if self.low_at > self.critical_at {
            return Err(Failure::Usage("--low-at is above --critical-at".to_owned()));
        }
        daemon::check_placement(&self.pool.pool)?;
        let peek = peek(&self.pool.pool)?;
        // whatever may keep this daemon from serving comes before the other one stops
        let root_key = self.key.open(&peek.superblock)?;
        verify_key_check(&root_key, peek.superblock.pool, &peek.superblock.key_check)?;
        if self.take_over {
            stop_other(&self.pool)?;
        }
        let options = ServeOptions {
            path: self.pool.pool,
            pool: peek.superblock.pool,
            root_key,
            namespaces: self.names,
            transport,
            nbd_socket: self.nbd_socket,
            run_dir: self.pool.run_dir,
            queues: self.queues,
            journal: peek.superblock.journal,
            journal_path: self.journal,
            accept_journal_loss: self.accept_journal_loss,
            workers: self.workers.map_or_else(default_workers, usize::from),
            busy_poll: BusyPoll::new(u64::from(self.busy_poll.unwrap_or_else(default_busy_poll)) * 1000),
            map_memory: self.map_memory,
            recompression: Recompression {
                percent: self.recompress,
                cold_ns: u64::from(self.cold_after) * 60_000_000_000,
            },
            watermarks: Watermarks { low: self.low_at, critical: self.critical_at },
        };
        daemon::serve(options, |event| {
            output::print(&match event {
                Event::Serving(served) => format!("{served}\n"),
                Event::Ready => "ready\n".to_owned(),
            });
        })?;
        Ok(())
    }

    fn choose_transport(&self) -> Result<daemon::Transport, Failure> {
        match (self.transport, &self.nbd_socket) {
            (Transport::Ublk, Some(_)) => {
                Err(Failure::Usage("--nbd-socket does not go with --transport ublk".to_owned()))
            }
            (Transport::Ublk, None) => Ok(daemon::Transport::Ublk),
            (Transport::Nbd, _) | (Transport::Auto, Some(_)) => Ok(daemon::Transport::Nbd),
            (Transport::Auto, None) => match crate::frontend::ublk::probe() {
                Ok(_) => Ok(daemon::Transport::Ublk),
                Err(error) => {
                    tracing::info!("no ublk here ({error}): serving over NBD");
                    Ok(daemon::Transport::Nbd)
                }
            },
        }
    }
}

/// Has the daemon that serves the pool, if there is one, leave its devices to the next.
fn stop_other(pool: &PoolArgs) -> Result<(), Failure> {
    let Access::Served(mut daemon) = access(pool)? else { return Ok(()) };
    match daemon.ask(Command::Stop { devices: BusyDevices::Leave })? {
        Answer::Done => Ok(daemon.wait_for_end()?),
        other => Err(unexpected(&other)),
    }
}

/// The core has a CPU for itself, and helps when it is idle.
fn default_workers() -> usize {
    cpus().saturating_sub(1)
}

/// Where there are so few CPUs that they are the database's, the core sleeps.
fn default_busy_poll() -> u16 {
    if cpus() > 2 { 50 } else { 0 }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
