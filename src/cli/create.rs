//! `plica create`: making a pool.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::journal::NewJournalArgs;
use super::peek::peek;
use super::pool_args::{KeyArgs, key_is_required};
use super::{Failure, output, size};
use crate::daemon::{Machine, unix_now};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::superblock::{KeySource, LABEL_BYTES, Superblock};
use crate::keys::RootKey;
use crate::limits::BLOCK_SIZE;
use crate::media::{Access, Device, DeviceKind, create_file};
use crate::pool::{CreateOptions, create, prepare};

const HELP: &str = "\
A file is made if it does not exist (readable by its owner only; it takes space as it is written). A block \
device, or a file that exists, is used whole. What already holds a filesystem, a partition table or a pool is \
refused, unless --force is given: then its content is lost.

Examples:
  plica create pool.plica --size 16G --root-key pool.key
  plica create /dev/nvme1n1 --root-key /etc/plica/pool.key --label fast
  plica create pool.plica --size 16G --root-key pool.key --prepare
  plica create pool.plica --size 16G --root-key pool.key --journal /mnt/pmem/journal:4G
  plica create pool.plica --size 16G --passphrase
  plica create pool.plica --size 16G --passphrase-fd 3 3< passphrase.txt";

#[derive(Debug, Args)]
#[command(after_help = HELP, group = key_is_required())]
pub(super) struct CreateArgs {
    /// The file or block device
    #[arg(value_name = "POOL")]
    pool: PathBuf,

    /// Size of a new file: 16G, 1T (a multiple of 4 KiB)
    #[arg(long, value_name = "SIZE", value_parser = size::parse_block_size_multiple)]
    size: Option<u64>,

    #[command(flatten)]
    key: KeyArgs,

    /// A name for people
    #[arg(long, value_name = "LABEL", default_value = "", value_parser = parse_label)]
    label: String,

    /// Size of a segment: 1M, 2M or 4M [default: by the size of the pool]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_segment_size)]
    segment_size: Option<u32>,

    /// Write all of the pool's space once, now: takes a while, and the space; the first synchronous writes into a file are
    /// faster for it
    #[arg(long)]
    prepare: bool,

    /// A journal for the pool: persistent memory, or a file or block device; a new file with its size
    #[arg(long, value_name = "PATH[:SIZE]")]
    journal: Option<String>,

    #[command(flatten)]
    new_journal: NewJournalArgs,

    /// Give up what the file or device holds
    #[arg(long)]
    force: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Created {
    pool: String,
    label: String,
    size: u64,
    segment_size: u32,
    segments: u32,
}

impl CreateArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let is_new = self.check_target()?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the kernel gave no random bytes: {e}")))?;
        let (root_key, key_source) = self.key.new_key(salt)?;
        if is_new && let Some(bytes) = self.size {
            create_file(&self.pool, bytes)?;
        }
        let superblock = self.make(root_key, key_source).inspect_err(|_| {
            if is_new {
                // the error that is reported is the first one
                drop(std::fs::remove_file(&self.pool));
            }
        })?;
        self.report(&superblock);
        Ok(())
    }

    /// Whether a new file is to be made; wrong usage where size and target do not go together.
    fn check_target(&self) -> Result<bool, Failure> {
        let shown = self.pool.display();
        let metadata = match std::fs::metadata(&self.pool) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if self.size.is_some() {
                    return Ok(true);
                }
                return Err(Failure::Usage(format!("{shown} does not exist; to make it, give its --size")));
            }
            Err(e) => return Err(Error::io(format!("looking at {shown}"), e).into()),
        };
        let is_device = metadata.file_type().is_block_device();
        if let Some(wanted) = self.size.filter(|wanted| is_device || *wanted != metadata.len()) {
            let hint = if is_device {
                "a partition or logical volume is the way to use less of it"
            } else {
                "remove it to make a new one"
            };
            return Err(Failure::Usage(format!(
                "{shown} exists and is used whole, not with --size {}; {hint}",
                size::exact(wanted)
            )));
        }
        Ok(false)
    }

    fn make(&self, root_key: RootKey, key_source: KeySource) -> Result<Superblock, Failure> {
        let device = Device::open(&self.pool, Access::Write)?;
        check_unused(&device, &self.pool, self.force)?;
        let journal = self.journal.as_ref().map(|text| self.new_journal.open(text, self.force)).transpose()?;
        let (path, journal) = journal.unzip();
        let mut machine = Machine::with_devices(&device, journal)?;
        let (env, media, journal) = (machine.env(), machine.media(), machine.journal());
        let (label, segment_bytes, prepares) = (self.label.clone(), self.segment_size, self.prepare);
        machine
            .run(async move {
                let now_unix = unix_now();
                let (label, root_key) = (&label, &root_key);
                let journal = journal.zip(path.as_deref());
                let options =
                    CreateOptions { label, segment_bytes, key_source, root_key, pool: None, now_unix, journal };
                let superblock = create(&env, &media, &options).await?;
                if prepares {
                    let mut progress = output::Progress::new("preparing");
                    prepare(&media, &superblock, |done, all| progress.at(done, all)).await?;
                }
                Ok(superblock)
            })
            .map_err(|error: Error| error.into())
    }

    fn report(&self, superblock: &Superblock) {
        let Superblock { pool, pool_bytes, segment_bytes, segment_count, .. } = superblock;
        let created = Created {
            pool: pool.to_string(),
            label: self.label.clone(),
            size: *pool_bytes,
            segment_size: *segment_bytes,
            segments: *segment_count,
        };
        if self.json {
            return output::print_json(&created);
        }
        output::print(&format!(
            "pool {pool} made in {}: {}, {segment_count} segments of {}\n",
            self.pool.display(),
            size::approximate(*pool_bytes),
            size::approximate(u64::from(*segment_bytes)),
        ));
    }
}

fn parse_label(text: &str) -> Result<String, String> {
    if text.len() > LABEL_BYTES {
        return Err(format!("the label has {} bytes; at most {LABEL_BYTES} bytes fit", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a label has no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// Refuses a medium with content, unless it may go. Making the pool overwrites all by which it could be recognised.
fn check_unused(device: &Device, path: &Path, force: bool) -> Result<()> {
    let shown = path.display();
    let found = match peek(path) {
        Ok(peek) => Some(format!("Plica pool {}", peek.superblock.pool)),
        Err(error) if error.kind() == ErrorKind::NotFound => device.signature(&[])?.map(str::to_owned),
        Err(error) => Some(format!("a Plica pool ({error})")),
    };
    if let Some(found) = found {
        if !force {
            fail!(Exists, "{shown} holds {found}; its content would be lost (--force to give it up)");
        }
        tracing::warn!("{shown} held {found}, which is given up");
    }
    let block = u64::from(BLOCK_SIZE);
    if device.kind() == DeviceKind::File && !device.size().is_multiple_of(block) {
        tracing::warn!("the last {} bytes of {shown} are not used: no whole block", device.size() % block);
    }
    Ok(())
}
