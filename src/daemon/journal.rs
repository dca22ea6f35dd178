//! The journal of a pool on this machine: looked for where the superblock or the command line says, or made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::check_placement;
use crate::control::NewJournal;
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::format::journal::JOURNAL_HEADER_BYTES;
use crate::format::superblock::JournalName;
use crate::media::{create_file, signature};
use crate::pmem::{JournalDevice, JournalKind, Memory, open_journal};

/// The risk of a journal in memory, for whoever did not ask for one.
const VOLATILE: &str = "the journal is in memory that does not outlive the machine (tmpfs): after a power cut or a reset \
    everything that databases had committed to it is lost, and the pool does not open without it. Only with \
    --journal-volatile, for tests and for data that can be made again";

/// Where a pool's journal is looked for: where the command line says, else where it was when it was given.
fn path_of(name: &JournalName, given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| PathBuf::from(OsStr::from_bytes(&name.path)), Path::to_owned)
}

/// Opens the journal that a superblock names; `None` when it names none. What keeps it from being opened is for the pool
/// to judge.
///
/// # Errors
/// A journal is given to a pool that has none.
pub fn find_journal(name: Option<&JournalName>, given: Option<&Path>) -> Result<Option<Result<JournalDevice>>> {
    let Some(name) = name else {
        return match given {
            None => Ok(None),
            Some(_) => Err(Error::new(ErrorKind::Config, "this pool has no journal; plica journal add gives it one")),
        };
    };
    let path = path_of(name, given);
    let opened =
        check_placement(&path).and_then(|()| open_journal(&path)).and_then(|device| allowed(device, name.volatile));
    Ok(Some(opened))
}

/// Refuses a journal in memory unless that was accepted.
///
/// # Errors
/// [`ErrorKind::Config`], with the risk.
fn allowed(device: JournalDevice, volatile: bool) -> Result<JournalDevice> {
    match device.kind() {
        JournalKind::Volatile if !volatile => Err(Error::new(ErrorKind::Config, VOLATILE)),
        JournalKind::Volatile => {
            tracing::warn!(
                "the journal is in memory that does not outlive the machine: what goes through it is lost with it"
            );
            Ok(device)
        }
        JournalKind::Dax | JournalKind::Block => Ok(device),
    }
}

impl NewJournal {
    /// Whether a file is to be made.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: a file that is not there without a size, or one that is there with one.
    pub fn is_new(&self) -> Result<bool> {
        let shown = self.path.display();
        match (self.path.exists(), self.bytes) {
            (false, None) => fail!(Config, "{shown} does not exist; to make it, give its size: PATH:SIZE"),
            (true, Some(_)) => fail!(Config, "{shown} exists and is used whole, without a size"),
            (exists, _) => Ok(!exists),
        }
    }

    /// Opens and locks it; makes the file if it shall be one. Returns whether it made one.
    ///
    /// # Errors
    /// It is in use, holds something, or is no place for a journal; a file that was made is removed then.
    pub fn open(&self) -> Result<(bool, JournalDevice)> {
        let is_new = self.is_new()?;
        if is_new {
            create_file(&self.path, self.bytes.unwrap_or_default())?;
        }
        let opened = self.open_existing(is_new);
        if opened.is_err() && is_new {
            // the error that is reported is the first one
            drop(std::fs::remove_file(&self.path));
        }
        opened.map(|device| (is_new, device))
    }

    fn open_existing(&self, is_new: bool) -> Result<JournalDevice> {
        check_placement(&self.path)?;
        let device = allowed(open_journal(&self.path)?, self.volatile)?;
        if !self.force && !is_new {
            check_unused(&device, &self.path)?;
        }
        Ok(device)
    }
}

/// Refuses a medium with content.
fn check_unused(device: &JournalDevice, path: &Path) -> Result<()> {
    let mut head = vec![0; 2 * JOURNAL_HEADER_BYTES];
    let found = match device {
        JournalDevice::Mapped(mapping, _) if mapping.size() >= head.len() as u64 => {
            mapping.load(0, &mut head);
            signature::detect(&head, &[], mapping.size(), &[])
        }
        JournalDevice::Mapped(..) => None,
        JournalDevice::Block(device) => {
            head = device.read_blocking(0, 2 * JOURNAL_HEADER_BYTES)?;
            device.signature(&[])?
        }
    };
    let found = if head.iter().any(|byte| *byte != 0) { found.or(Some("something")) } else { found };
    if let Some(found) = found {
        fail!(Exists, "{} holds {found}; its content would be lost (--force to give it up)", path.display());
    }
    Ok(())
}
