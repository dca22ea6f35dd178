//! The host's pages of requests that a queue has fetched, read and written through the character device
//! (`UBLK_F_USER_COPY`).

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use libublk::io::{UblkDev, UblkIOCtx};

use crate::error::{Error, Result};

/// Pages of one queue's requests.
pub(super) struct Pages {
    file: File,
    queue: u16,
}

impl Pages {
    /// For queue `queue` of `device`; keeps the character device open.
    #[expect(unsafe_code, reason = "libublk shows its file as a number only")]
    pub(super) fn new(device: &UblkDev, queue: u16) -> Result<Self> {
        // SAFETY: the first descriptor of a device is its character device, open as long as `device` lives; it is
        // borrowed for this call only.
        let file = unsafe { BorrowedFd::borrow_raw(device.tgt.fds[0]) };
        let owned = file.try_clone_to_owned().map_err(|error| Error::io("the character device", error))?;
        Ok(Self { file: File::from(owned), queue })
    }

    /// Copies the data of a write into all of `bytes`.
    pub(super) fn read(&self, tag: u16, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.position(tag))
    }

    /// Gives `bytes` as the data of a read.
    pub(super) fn write(&self, tag: u16, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.position(tag))
    }

    fn position(&self, tag: u16) -> u64 {
        UblkIOCtx::ublk_user_copy_pos(self.queue, tag, 0)
    }
}
