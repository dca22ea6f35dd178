//! Opening a journal's medium: what it is decides how it is used.
//!
//! ```text
//!   /dev/daxN.M, a file of a DAX filesystem ─► mapped, dax          a file of a tmpfs ─► mapped, volatile
//!   any other file, a block device          ─► block
//! ```

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::dax::{Durability, Mapping, detect};
use super::{JournalKind, Memory};
use crate::error::{Error, ErrorKind, Result};
use crate::fail;
use crate::media::{Access, Device, DeviceKind};

/// `f_type` of filesystems in memory.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// An open, locked journal medium.
pub enum JournalDevice {
    /// Memory.
    Mapped(Mapping, JournalKind),
    /// To be registered with a backend.
    Block(Device),
}

impl JournalDevice {
    /// What it is on.
    #[must_use]
    pub fn kind(&self) -> JournalKind {
        match self {
            Self::Mapped(_, kind) => *kind,
            Self::Block(_) => JournalKind::Block,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Mapped(mapping, _) => mapping.size(),
            Self::Block(device) => device.size(),
        }
    }
}

/// Opens and locks the journal medium at `path`.
///
/// # Errors
/// What [`Device::open`] reports; the file cannot be allocated or mapped.
pub fn open_journal(path: &Path) -> Result<JournalDevice> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(format!("opening the journal {shown}"), e))?;
    if metadata.file_type().is_char_device() {
        return open_device_dax(path, metadata.rdev());
    }
    let device = Device::open(path, Access::Write).map_err(|e| e.within("the journal"))?;
    if device.kind() == DeviceKind::Block {
        return Ok(JournalDevice::Block(device));
    }
    let (file, len) = (device.descriptor(), usize::try_from(device.size()).unwrap_or(usize::MAX));
    let filesystem = fs::fstatfs(&file).map_err(|e| Error::io(format!("looking at {shown}"), e))?;
    let in_memory = u64::try_from(filesystem.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind));
    // a page that is not there when it is written would end the process
    fs::fallocate(&file, FallocateFlags::empty(), 0, device.size())
        .map_err(|e| Error::io(format!("taking the space of the journal {shown}"), e))?;
    if in_memory {
        let mapping = Mapping::new(file, len, Durability::Never, false);
        let mapping = mapping.map_err(|e| Error::io(format!("mapping the journal {shown}"), e))?;
        mapping.populate().map_err(|e| Error::io(format!("taking the memory of the journal {shown}"), e))?;
        return Ok(JournalDevice::Mapped(mapping, JournalKind::Volatile));
    }
    Ok(map_synchronous(file, len).map_or(JournalDevice::Block(device), |m| JournalDevice::Mapped(m, JournalKind::Dax)))
}

fn map_synchronous(file: Arc<OwnedFd>, len: usize) -> Option<Mapping> {
    let durability = Durability::WriteBack(detect()?);
    match Mapping::new(file, len, durability, true) {
        Ok(mapping) => Some(mapping),
        Err(error) => {
            tracing::debug!(%error, "no DAX here: the journal is written to as a block medium");
            None
        }
    }
}

/// A device of persistent memory without a filesystem, which can only be mapped.
fn open_device_dax(path: &Path, number: u64) -> Result<JournalDevice> {
    let shown = path.display();
    let sysfs = format!("/sys/dev/char/{}:{}/size", fs::major(number), fs::minor(number));
    let size = std::fs::read_to_string(&sysfs).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let Some(size) = size else {
        fail!(Config, "{shown} cannot be a journal: it is a character device, and not one of persistent memory");
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = fs::open(path, flags, Mode::empty()).map_err(|e| Error::io(format!("opening {shown}"), e))?;
    match fs::flock(&file, fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => fail!(Busy, "the journal {shown} is in use by another process"),
        Err(e) => return Err(Error::io(format!("locking {shown}"), e)),
    }
    let Some(mapping) = map_synchronous(Arc::new(file), size) else {
        return Err(Error::new(ErrorKind::Unsupported, format!("{shown} cannot be mapped with MAP_SYNC")));
    };
    Ok(JournalDevice::Mapped(mapping, JournalKind::Dax))
}
