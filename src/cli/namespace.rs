//! `plica namespace`: the namespaces of a pool.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::access::{Access, access, unexpected};
use super::offline::{look, with_pool};
use super::output::{Align, Table};
use super::pool_args::{KeyArgs, PoolArgs};
use super::{Failure, output, size};
use crate::control::{Answer, Command, NamespaceInfo, Served};
use crate::daemon::spec_of;
use crate::error::{Error, ErrorKind};
use crate::format::namespaces::valid_name;
use crate::format::{Cipher, Compression};
use crate::limits::{BLOCK_SIZE, NAMESPACE_BLOCKS_MAX};

pub(super) const HELP: &str = "\
Examples:
  plica namespace create pool.plica db --size 8G --root-key pool.key
  plica namespace list pool.plica
  plica namespace resize pool.plica db --size 16G
  plica namespace destroy pool.plica db";

const CREATE_HELP: &str = "\
A namespace is one block device with its own data key. It is thin: space is taken on write; of memory it takes \
48 MiB for each TiB. If a daemon serves \
the pool it makes the namespace, and serves it at once unless it was started for named namespaces only; \
otherwise the pool is opened here, for which its root key is needed.

The unit is how much is compressed together: larger units pack better, smaller ones read faster at random.
With auto it follows how the namespace is used: pages of a database are sealed alone, streams in 32 KiB.

Examples:
  plica namespace create pool.plica db --size 8G --root-key pool.key
  plica namespace create pool.plica wal --size 1G --unit 8K --logical-block 512
  plica namespace create pool.plica archive --size 1T --compression zstd --cipher aes-256-gcm --unit 32K";

const LIST_HELP: &str = "\
Needs no key.

Examples:
  plica namespace list pool.plica
  plica namespace list pool.plica --json";

const DESTROY_HELP: &str = "\
The namespace's data key is destroyed first, so that its data cannot be read again by anybody, whatever is left \
on the medium. A namespace that is mounted or otherwise in use is refused.

Examples:
  plica namespace destroy pool.plica db
  plica namespace destroy pool.plica db --yes --root-key pool.key";

const RESIZE_HELP: &str = "\
Larger takes nothing from the pool: a namespace is thin; of memory it takes 48 MiB for each TiB. Smaller is refused while there is data beyond the new end, \
unless --force gives it up; shrink what is on it (filesystem, partitions) first. If a daemon serves the pool it does it \
at once: NBD clients see the new size when they connect again, a ublk device when it is served again.

Examples:
  plica namespace resize pool.plica db --size 16G
  plica namespace resize pool.plica db --size 4G --force --root-key pool.key";

const SERVE_HELP: &str = "\
Needs a daemon that serves the pool.

Example:
  plica namespace serve pool.plica db";

const UNSERVE_HELP: &str = "\
The namespace keeps its data. One that is mounted or otherwise in use is refused.

Example:
  plica namespace unserve pool.plica db";

#[derive(Debug, Subcommand)]
pub(super) enum NamespaceCommand {
    /// Make a namespace
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// List the namespaces of a pool
    #[command(after_help = LIST_HELP)]
    List(ListArgs),
    /// Destroy a namespace with all its data
    #[command(after_help = DESTROY_HELP)]
    Destroy(DestroyArgs),
    /// Make a namespace larger or smaller
    #[command(after_help = RESIZE_HELP)]
    Resize(ResizeArgs),
    /// Have the daemon serve a namespace
    #[command(after_help = SERVE_HELP)]
    Serve(NamedArgs),
    /// Have the daemon stop serving a namespace
    #[command(after_help = UNSERVE_HELP)]
    Unserve(NamedArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Its name: 1 to 63 letters, digits, '.', '_' or '-'
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,

    /// Its size: 8G, 1T (a multiple of 4 KiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: u64,

    /// How its data is sealed: aes-256-xts, or aes-256-gcm, which also authenticates it and takes 16 bytes more a unit
    #[arg(long, value_name = "CIPHER", default_value_t = Cipher::Aes256Xts)]
    cipher: Cipher,

    /// How its data is compressed: lz4, zstd or none
    #[arg(long, value_name = "CODEC", default_value_t = Compression::Lz4)]
    compression: Compression,

    /// How much is compressed and sealed together at most: 4K, 8K, 16K or 32K; auto: what most reads and writes take
    #[arg(long, value_name = "SIZE", default_value = "16K", value_parser = size::parse_unit)]
    unit: u32,

    /// The logical block that its users see: 512 or 4096
    #[arg(long, value_name = "SIZE", default_value = "4096", value_parser = size::parse_logical_block)]
    logical_block: u32,

    #[command(flatten)]
    key: KeyArgs,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DestroyArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Which
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,

    /// Do not ask for the name once more
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Debug, Args)]
pub(super) struct ResizeArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Which
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,

    /// Its new size: 8G, 1T (a multiple of 4 KiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: u64,

    /// Give up the data beyond the new end
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    key: KeyArgs,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct NamedArgs {
    #[command(flatten)]
    pool: PoolArgs,

    /// Which
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
}

impl NamespaceCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(args) => args.run(),
            Self::List(args) => args.run(),
            Self::Destroy(args) => args.run(),
            Self::Resize(args) => args.run(),
            Self::Serve(args) => args.serve(),
            Self::Unserve(args) => args.unserve(),
        }
    }
}

impl CreateArgs {
    fn run(self) -> Result<(), Failure> {
        let info = NamespaceInfo {
            name: self.name.clone(),
            id: 0,
            size: self.size,
            cipher: self.cipher.to_string(),
            compression: self.compression.to_string(),
            unit: self.unit,
            logical_block: self.logical_block,
            created: 0,
        };
        let (namespace, served) = match access(&self.pool)? {
            Access::Served(mut daemon) => match daemon.ask(Command::NamespaceCreate(info))? {
                Answer::Namespace { namespace, served } => (namespace, served),
                other => return Err(unexpected(&other)),
            },
            Access::Idle(peek) => {
                let spec = spec_of(&info)?;
                let made =
                    with_pool(&self.pool, None, &peek, &self.key, async move |pool| pool.create_namespace(&spec).await);
                (NamespaceInfo::from(&made?), None)
            }
        };
        if self.json {
            output::print_json(&namespace);
        } else {
            output::print(&format!("namespace {} made: {}\n", namespace.name, size::approximate(namespace.size)));
            print_served(served.as_ref());
        }
        Ok(())
    }
}

impl ListArgs {
    fn run(self) -> Result<(), Failure> {
        let namespaces = match access(&self.pool)? {
            Access::Served(mut daemon) => match daemon.ask(Command::NamespaceList)? {
                Answer::Namespaces(namespaces) => namespaces,
                other => return Err(unexpected(&other)),
            },
            Access::Idle(_) => look(&self.pool.pool)?.namespaces.entries.iter().map(NamespaceInfo::from).collect(),
        };
        if self.json {
            output::print_json(&namespaces);
        } else {
            output::print(&list(&namespaces));
        }
        Ok(())
    }
}

/// Namespaces as a table.
pub(super) fn list(namespaces: &[NamespaceInfo]) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("UNIT", Align::Right),
        ("BLOCK", Align::Right),
        ("CIPHER", Align::Left),
        ("COMPRESSION", Align::Left),
        ("CREATED", Align::Left),
    ]);
    for namespace in namespaces {
        table.row([
            namespace.name.clone(),
            size::approximate(namespace.size),
            size::unit(namespace.unit),
            namespace.logical_block.to_string(),
            namespace.cipher.clone(),
            namespace.compression.clone(),
            output::moment(namespace.created),
        ]);
    }
    table.render()
}

impl DestroyArgs {
    fn run(self) -> Result<(), Failure> {
        let access = access(&self.pool)?;
        if !self.yes {
            confirm(&self.name)?;
        }
        let name = self.name.clone();
        match access {
            Access::Served(mut daemon) => match daemon.ask(Command::NamespaceDestroy { name })? {
                Answer::Done => {}
                other => return Err(unexpected(&other)),
            },
            Access::Idle(peek) => {
                with_pool(&self.pool, None, &peek, &self.key, async move |pool| pool.destroy_namespace(&name).await)?;
            }
        }
        output::print(&format!("namespace {} destroyed\n", self.name));
        Ok(())
    }
}

impl ResizeArgs {
    fn run(self) -> Result<(), Failure> {
        let (name, size, force) = (self.name.clone(), self.size, self.force);
        let (namespace, note) = match access(&self.pool)? {
            Access::Served(mut daemon) => match daemon.ask(Command::NamespaceResize { name, size, force })? {
                Answer::Resized { namespace, note } => (namespace, note),
                other => return Err(unexpected(&other)),
            },
            Access::Idle(peek) => {
                let blocks = size / u64::from(BLOCK_SIZE);
                let body =
                    async move |pool: std::rc::Rc<crate::pool::Pool>| pool.resize_namespace(&name, blocks, force).await;
                (NamespaceInfo::from(&with_pool(&self.pool, None, &peek, &self.key, body)?), None)
            }
        };
        if self.json {
            output::print_json(&Resized { namespace, note });
            return Ok(());
        }
        output::print(&format!("namespace {} has {} now\n", namespace.name, size::exact(namespace.size)));
        if let Some(note) = note {
            output::print(&format!("{note}\n"));
        }
        Ok(())
    }
}

/// What `resize --json` prints.
#[derive(Serialize)]
struct Resized {
    #[serde(flatten)]
    namespace: NamespaceInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl NamedArgs {
    fn serve(self) -> Result<(), Failure> {
        let name = self.name.clone();
        match self.ask(Command::NamespaceServe { name })? {
            Answer::Namespace { served, .. } => print_served(served.as_ref()),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn unserve(self) -> Result<(), Failure> {
        let name = self.name.clone();
        match self.ask(Command::NamespaceUnserve { name })? {
            Answer::Done => output::print(&format!("namespace {} is not served any more\n", self.name)),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn ask(&self, command: Command) -> Result<Answer, Failure> {
        match access(&self.pool)? {
            Access::Served(mut daemon) => Ok(daemon.ask(command)?),
            Access::Idle(_) => {
                let context = format!("no daemon serves {}; plica serve starts one", self.pool.pool.display());
                Err(Error::new(ErrorKind::NotFound, context).into())
            }
        }
    }
}

fn print_served(served: Option<&Served>) {
    if let Some(served) = served {
        output::print(&format!("{served}\n"));
    }
}

/// Has the name typed once more.
fn confirm(name: &str) -> Result<(), Failure> {
    let mut input = std::io::stdin().lock();
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("destroying {name} cannot be undone; confirm it with --yes")));
    }
    // without an error stream there is still the answer
    drop(write!(std::io::stderr(), "All data of namespace {name} will be lost. Type its name to go on: "));
    let mut typed = String::new();
    input.read_line(&mut typed).map_err(|e| Error::io("reading the answer", e))?;
    if typed.trim() != name {
        return Err(Failure::Usage(format!("that is not {name}; nothing was destroyed")));
    }
    Ok(())
}

fn parse_name(text: &str) -> Result<String, String> {
    if valid_name(text) {
        return Ok(text.to_owned());
    }
    Err("a name has 1 to 63 letters, digits, '.', '_' or '-', and does not begin with '.' or '-'".to_owned())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse_block_size_multiple(text)?;
    let most = NAMESPACE_BLOCKS_MAX * u64::from(BLOCK_SIZE);
    if bytes > most {
        return Err(format!("a namespace has at most {}", size::exact(most)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_checked() {
        assert_eq!(parse_name("db-1.main").as_deref(), Ok("db-1.main"));
        for name in ["", ".", "-x", "a/b", "a b", "ü", &"x".repeat(64)] {
            assert!(parse_name(name).unwrap_err().contains("1 to 63"), "{name}");
        }
        assert_eq!(parse_size("4P"), Ok(1 << 52));
        assert_eq!(parse_size("4503599627374592").unwrap_err(), "a namespace has at most 4P");
    }

    #[test]
    fn a_list_is_a_table() {
        let namespace = NamespaceInfo {
            name: "db".to_owned(),
            id: 1,
            size: 8 << 30,
            cipher: "aes-256-xts".to_owned(),
            compression: "lz4".to_owned(),
            unit: 16384,
            logical_block: 4096,
            created: 0,
        };
        let text = list(&[namespace]);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("NAME   SIZE  UNIT  BLOCK  CIPHER       COMPRESSION  CREATED"));
        assert_eq!(lines.next(), Some("db    8 GiB   16K   4096  aes-256-xts  lz4          1970-01-01 00:00:00 UTC"));
    }
}
