//! What may be chosen when a device is made. A recovered device keeps what it was made with.

use crate::error::Result;
use crate::fail;
use crate::limits::{BLOCK_SIZE, REQUEST_BYTES_MAX};

/// Shape of a new device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UblkOptions {
    /// Hardware queues, each with a thread; the driver takes no more than there are CPUs.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Bytes of the largest read or write. At worst `queues * depth` buffers of this size are used.
    pub io_bytes: u32,
    /// Number of the device (`N` of `/dev/ublkbN`); the driver picks one if not given.
    pub number: Option<u32>,
}

impl Default for UblkOptions {
    fn default() -> Self {
        Self { queues: 1, depth: 128, io_bytes: 512 << 10, number: None }
    }
}

impl UblkOptions {
    /// Largest number of queues.
    pub const QUEUES_MAX: u16 = 64;
    /// Largest depth of a queue.
    pub const DEPTH_MAX: u16 = 1024;
    /// Smallest `io_bytes`: a naturally aligned range that is atomic must fit one request.
    pub const IO_BYTES_MIN: u32 = 64 << 10;
    /// Largest `io_bytes`.
    pub const IO_BYTES_MAX: u32 = 1 << 20;

    /// Looks whether these can be had.
    ///
    /// # Errors
    /// `Config`, naming the value that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(1..=Self::QUEUES_MAX).contains(&self.queues) {
            fail!(Config, "{} ublk queues: 1 to {} can be had", self.queues, Self::QUEUES_MAX);
        }
        if !(1..=Self::DEPTH_MAX).contains(&self.depth) {
            fail!(Config, "ublk queue depth {}: 1 to {} can be had", self.depth, Self::DEPTH_MAX);
        }
        let sizes = Self::IO_BYTES_MIN..=Self::IO_BYTES_MAX;
        if !sizes.contains(&self.io_bytes) || !self.io_bytes.is_multiple_of(BLOCK_SIZE) {
            fail!(Config, "ublk request size {}: a multiple of 4 KiB from 64 KiB to 1 MiB can be had", self.io_bytes);
        }
        if self.number.is_some_and(|number| i32::try_from(number).is_err()) {
            fail!(Config, "{:?} is not the number of a ublk device", self.number);
        }
        Ok(())
    }
}

const _: () = assert!(UblkOptions::IO_BYTES_MAX as u64 <= REQUEST_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn defaults_are_accepted_and_each_bound_is_kept() {
        let good = UblkOptions::default();
        good.check().unwrap();
        let bad = [
            UblkOptions { queues: 0, ..good.clone() },
            UblkOptions { queues: 65, ..good.clone() },
            UblkOptions { depth: 0, ..good.clone() },
            UblkOptions { depth: 1025, ..good.clone() },
            UblkOptions { io_bytes: 32 << 10, ..good.clone() },
            UblkOptions { io_bytes: (64 << 10) + 512, ..good.clone() },
            UblkOptions { io_bytes: 2 << 20, ..good.clone() },
            UblkOptions { number: Some(u32::MAX), ..good },
        ];
        for options in bad {
            assert_eq!(options.check().unwrap_err().kind(), ErrorKind::Config, "{options:?}");
        }
    }
}
