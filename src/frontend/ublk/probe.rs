//! Whether this machine can serve ublk devices at all, and what its driver knows.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use libublk::ctrl::UblkCtrl;
use libublk::sys;

use crate::error::{Error, ErrorKind, Result};
use crate::fail;

const CONTROL: &str = "/dev/ublk-control";
/// What every device of ours has.
pub(super) const NEEDED: u32 = sys::UBLK_F_USER_RECOVERY | sys::UBLK_F_USER_RECOVERY_REISSUE | sys::UBLK_F_USER_COPY;

/// What the loaded driver says it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverFeatures(u64);

impl DriverFeatures {
    /// Features as the driver gave them.
    #[must_use]
    pub fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// What devices are made with is there: a dead daemon's device can be recovered and its open requests reissued, and
    /// data is copied by the server.
    #[must_use]
    pub fn sufficient(self) -> bool {
        self.has(NEEDED)
    }

    /// A device can change its size while it is used.
    #[must_use]
    pub fn resize(self) -> bool {
        self.has(sys::UBLK_F_UPDATE_SIZE)
    }

    /// The flags for a new device: what is needed, and the others where the driver has them.
    pub(super) fn device_flags(self) -> u64 {
        let optional = sys::UBLK_F_UPDATE_SIZE | sys::UBLK_F_QUIESCE;
        u64::from(NEEDED) | (u64::from(optional) & self.0)
    }

    fn has(self, bits: u32) -> bool {
        self.0 & u64::from(bits) == u64::from(bits)
    }
}

/// Looks whether ublk devices can be served here. Sets up libublk's control ring in the calling thread.
///
/// # Errors
/// `Unsupported` without the driver or without what it needs, `Config` without the right to use it; the message says
/// what to do.
pub fn probe() -> Result<DriverFeatures> {
    reachable(Path::new(CONTROL))?;
    // a driver that cannot be asked is older than what is needed
    let features = DriverFeatures::new(UblkCtrl::get_features().unwrap_or_default());
    if !features.sufficient() {
        fail!(
            Unsupported,
            "this kernel's ublk driver lacks user recovery or user copy, or io_uring is disabled \
             (Linux 6.5 has them): use another kernel or --transport nbd"
        );
    }
    Ok(features)
}

fn reachable(control: &Path) -> Result<()> {
    let error = match OpenOptions::new().read(true).write(true).open(control) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::NotFound => {
            fail!(Unsupported, "no ublk driver: `modprobe ublk_drv`, or use --transport nbd")
        }
        io::ErrorKind::PermissionDenied => {
            let context = format!("{} cannot be opened: ublk devices are served by root", control.display());
            Err(Error::new(ErrorKind::Config, context))
        }
        _ => Err(Error::io(format!("opening {}", control.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_is_named_with_the_way_out() {
        let error = reachable(Path::new("/dev/no-such-ublk-control")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("modprobe ublk_drv"), "{error}");
        assert!(error.to_string().contains("--transport nbd"), "{error}");
    }

    #[test]
    fn only_flags_the_driver_knows_are_asked_for() {
        let needed = u64::from(NEEDED);
        let old = DriverFeatures::new(needed | u64::from(sys::UBLK_F_ZONED));
        assert!(old.sufficient() && !old.resize());
        assert_eq!(old.device_flags(), needed);
        let optional = u64::from(sys::UBLK_F_UPDATE_SIZE | sys::UBLK_F_QUIESCE);
        let new = DriverFeatures::new(needed | optional);
        assert!(new.resize());
        assert_eq!(new.device_flags(), needed | optional);
        assert!(!DriverFeatures::new(needed & !u64::from(sys::UBLK_F_USER_COPY)).sufficient());
    }
}
