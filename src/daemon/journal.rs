//! The journal of a pool on this machine: looked for where the superblock or the command line says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::check_placement;
use crate::error::{Error, ErrorKind, Result};
use crate::format::superblock::JournalName;
use crate::pmem::{JournalDevice, JournalKind, open_journal};

/// The risk of a journal in memory, for whoever did not ask for one.
pub(crate) const VOLATILE: &str = "it is in memory that does not outlive the machine (tmpfs): after a power cut or a reset \
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
pub(crate) fn allowed(device: JournalDevice, volatile: bool) -> Result<JournalDevice> {
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
