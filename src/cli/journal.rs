//! `plica journal`: giving a pool a journal, emptying it, taking it away; and what `plica create` needs of that.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::access::{Access, access, unexpected};
use super::offline::with_pool;
use super::output::{Align, Table};
use super::pool_args::{KeyArgs, PoolArgs};
use super::{Failure, output, size};
use crate::control::{Answer, Command, NewJournal};
use crate::daemon::Machine;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::BLOCK_SIZE;
use crate::media::{Access as MediaAccess, Device};
use crate::pmem::JournalDevice;
use crate::pool::{HeatKind, HeatRange, add_journal};

pub(super) const HELP: &str = "\
A journal takes the small writes that databases commit again and again (their logs): they are durable in it when they are \
acknowledged, and most of them are overwritten there and never reach the pool. It is persistent memory (a file on a DAX \
filesystem, /dev/daxN.M), or any other file or block device: best an NVMe with power-loss protection. From then on the \
pool needs it to be opened.

Examples:
  plica create pool.plica --size 16G --root-key pool.key --journal /dev/nvme1n1
  plica journal add pool.plica --journal /mnt/pmem/journal:8G
  plica journal heat pool.plica
  plica journal drain pool.plica
  plica journal remove pool.plica";

const ADD_HELP: &str = "\
The pool may be served meanwhile: its daemon opens the journal, and writes go there from then on.

Examples:
  plica journal add pool.plica --journal /mnt/pmem/journal:8G
  plica journal add pool.plica --journal /dev/nvme1n1
  plica journal add pool.plica --journal /dev/shm/journal:1G --journal-volatile";
const DRAIN_HELP: &str = "\
What is in the journal is moved to the pool. The pool may be served meanwhile; what comes later goes to the journal again.

Example:
  plica journal drain pool.plica";
const HEAT_HELP: &str = "\
Counted since the pool was opened, in ranges of 2 MiB; neighbours that behave alike are one line. LIKE says how a range \
behaves: a log is rewritten in the journal and dies there, data passes it by, mixed is in between.

Examples:
  plica journal heat pool.plica
  plica journal heat pool.plica --json | jq '.[] | select(.kind == \"log\")'";
const REMOVE_HELP: &str = "\
What is in the journal is moved to the pool, which does without it from then on. The pool may be served meanwhile.

Example:
  plica journal remove pool.plica";

#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Give a journal to a pool that has none
    #[command(after_help = ADD_HELP)]
    Add(AddArgs),
    /// Move all that is in it to the pool
    #[command(after_help = DRAIN_HELP)]
    Drain(EmptyArgs),
    /// Show which ranges of LBAs use it as a log
    #[command(after_help = HEAT_HELP)]
    Heat(HeatArgs),
    /// Empty it and take it away
    #[command(after_help = REMOVE_HELP)]
    Remove(EmptyArgs),
}

/// A journal that is to be given to a pool.
#[derive(Clone, Debug, Args)]
pub(super) struct NewJournalArgs {
    /// Accept a journal in memory (tmpfs), which is lost when the machine restarts: the pool then does not open, and what was
    /// only there is gone
    #[arg(long)]
    journal_volatile: bool,
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// The journal: a file, block device or DAX device; a new file with its size
    #[arg(long, value_name = "PATH[:SIZE]")]
    journal: String,

    #[command(flatten)]
    new: NewJournalArgs,

    /// Give up what the file or device holds
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct EmptyArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// The journal, if it is not where it was when it was given to the pool
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Debug, Args)]
pub(super) struct HeatArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Print the ranges as JSON
    #[arg(long)]
    json: bool,
}

impl JournalCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(args) => args.run(),
            Self::Drain(args) => args.run(false),
            Self::Heat(args) => args.run(),
            Self::Remove(args) => args.run(true),
        }
    }
}

impl AddArgs {
    fn run(self) -> Result<(), Failure> {
        let (id, kind) = match access(&self.pool)? {
            Access::Served(mut daemon) => {
                let new = self.new.spec(&self.journal, self.force)?;
                match daemon.ask(Command::JournalAdd(new))? {
                    Answer::Journal { id, kind } => (id, kind),
                    other => return Err(unexpected(&other)),
                }
            }
            Access::Idle(_) => self.add_idle()?,
        };
        output::print(&format!("journal {id} ({kind}) added\n"));
        Ok(())
    }

    /// To a pool that nobody serves.
    fn add_idle(&self) -> Result<(String, String), Failure> {
        let (path, device) = self.new.open(&self.journal, self.force)?;
        let kind = device.kind();
        let pool = Device::open(&self.pool.pool, MediaAccess::Write)?;
        let mut machine = Machine::with_devices(&pool, Some(device))?;
        let (env, media, journal) = (machine.env(), machine.media(), machine.journal());
        let Some(journal) = journal else { unreachable!("it was handed over") };
        let id = machine.run(async move { add_journal(&env, &media, &journal, &path).await })?;
        Ok((id.to_string(), kind.to_string()))
    }
}

impl EmptyArgs {
    fn run(self, remove: bool) -> Result<(), Failure> {
        match access(&self.pool)? {
            Access::Served(mut daemon) => match daemon.ask(Command::JournalDrain { remove })? {
                Answer::Done => {}
                other => return Err(unexpected(&other)),
            },
            Access::Idle(peek) => {
                let journal = self.journal.as_deref();
                with_pool(&self.pool, journal, &peek, &self.key, async move |pool| {
                    if remove { pool.remove_journal().await } else { pool.drain_journal().await }
                })?;
            }
        }
        output::print(if remove { "the pool has no journal any more\n" } else { "the journal is empty\n" });
        Ok(())
    }
}

impl HeatArgs {
    fn run(self) -> Result<(), Failure> {
        let Access::Served(mut daemon) = access(&self.pool)? else {
            let text = "nobody serves the pool: heat is counted while it is served";
            return Err(Error::new(ErrorKind::NotFound, text).into());
        };
        let ranges = match daemon.ask(Command::JournalHeat)? {
            Answer::Heat(ranges) => ranges,
            other => return Err(unexpected(&other)),
        };
        if self.json {
            output::print_json(&ranges);
        } else {
            output::print(&heat_table(&ranges));
        }
        Ok(())
    }
}

fn heat_table(ranges: &[HeatRange]) -> String {
    let mut table = Table::new(&[
        ("NAMESPACE", Align::Left),
        ("LBAS", Align::Right),
        ("SIZE", Align::Right),
        ("LIKE", Align::Left),
        ("ACKNOWLEDGED", Align::Right),
        ("DIED", Align::Right),
        ("DESTAGED", Align::Right),
        ("BYPASSED", Align::Right),
        ("RESIDENT", Align::Right),
    ]);
    for range in ranges {
        let lbas = format!("{}..{}", range.first_lba, range.first_lba + range.lbas);
        let like = match range.kind {
            HeatKind::Log => "log",
            HeatKind::Mixed => "mixed",
            HeatKind::Data => "data",
        };
        let bytes = range.lbas * u64::from(BLOCK_SIZE);
        let [size, acknowledged, bypassed, resident] =
            [bytes, range.acknowledged, range.bypassed, range.resident].map(size::approximate);
        let [died, destaged] = [range.died, range.destaged].map(|part| size::with_percent(part, range.acknowledged));
        table.row([&range.namespace, &lbas, &size, like, &acknowledged, &died, &destaged, &bypassed, &resident]);
    }
    table.render()
}

impl NewJournalArgs {
    /// What is to be a journal, as far as the command line can be judged.
    fn spec(&self, text: &str, force: bool) -> Result<NewJournal, Failure> {
        let (path, bytes) = split(text).map_err(Failure::Usage)?;
        let path = std::path::absolute(&path).unwrap_or(path);
        let new = NewJournal { path, bytes, volatile: self.journal_volatile, force };
        new.is_new().map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(new)
    }

    /// Opens what is to be a journal; makes the file if it does not exist.
    pub(super) fn open(&self, text: &str, force: bool) -> Result<(PathBuf, JournalDevice), Failure> {
        let new = self.spec(text, force)?;
        let (_, device) = new.open()?;
        Ok((new.path, device))
    }
}

/// PATH or PATH:SIZE. A colon that no size follows is part of the path.
fn split(text: &str) -> Result<(PathBuf, Option<u64>), String> {
    match text.rsplit_once(':') {
        Some((path, bytes)) if bytes.starts_with(|c: char| c.is_ascii_digit()) && !path.is_empty() => {
            Ok((path.into(), Some(size::parse_block_size_multiple(bytes)?)))
        }
        _ => Ok((text.into(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_follows_the_last_colon() {
        assert_eq!(split("/mnt/pmem/j:8G"), Ok(("/mnt/pmem/j".into(), Some(8 << 30))));
        assert_eq!(split("/dev/dax0.0"), Ok(("/dev/dax0.0".into(), None)));
        assert_eq!(split("/dev/disk/by-path/pci:a"), Ok(("/dev/disk/by-path/pci:a".into(), None)));
        assert!(split("j:10000").is_err());
    }
}
