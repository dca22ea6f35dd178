//! Which device a namespace gets: one that an earlier daemon left, or a new one.
//!
//! **Identity.** A device carries a hash of pool and namespace in `ublksrv_flags`, which the driver keeps and never
//! reads. Devices with another value belong to somebody else and are not touched.

use std::fs::read_dir;
use std::io;
use std::thread;
use std::time::Duration;

use libublk::ctrl::UblkCtrl;
use libublk::sys;
use xxhash_rust::xxh3::xxh3_64;

use super::errors::done;
use crate::error::{Error, Result};
use crate::fail;
use crate::units::{NamespaceId, PoolId};

const DEVICES: &str = "/sys/class/ublk-char";
/// A killed daemon's device is live until the kernel has closed everything of it: 10 s.
const SETTLE_STEPS: u32 = 100;
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// What the devices of a namespace are known by; never 0.
#[must_use]
pub fn device_identity(pool: PoolId, namespace: NamespaceId) -> u64 {
    let mut bytes = [0; 32];
    bytes[..12].copy_from_slice(b"plica device");
    bytes[12..28].copy_from_slice(&pool.0);
    bytes[28..].copy_from_slice(&namespace.0.to_le_bytes());
    xxh3_64(&bytes).max(1)
}

/// What to do for a namespace.
pub(super) enum Plan {
    /// There is no device of it.
    Add,
    /// A device waits for a server.
    Recover(sys::ublksrv_ctrl_dev_info),
}

/// What an existing device with our identity is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Never started, or killed without recovery: only its number is left.
    Leftover,
    /// Somebody serves it, or is about to be gone.
    Served,
    /// Waits for a server.
    Orphan,
}

fn condition(info: &sys::ublksrv_ctrl_dev_info) -> Condition {
    match u32::from(info.state) {
        sys::UBLK_S_DEV_DEAD => Condition::Leftover,
        sys::UBLK_S_DEV_QUIESCED | sys::UBLK_S_DEV_FAIL_IO => Condition::Orphan,
        _ => Condition::Served,
    }
}

/// Looks through the devices of this machine for one with `identity`; leftovers of it are removed on the way.
///
/// # Errors
/// `Busy` if a device of it is served by a process that lives.
pub(super) fn plan(identity: u64) -> Result<Plan> {
    let mut plan = Plan::Add;
    for number in device_numbers()? {
        // not an error: it may be gone since, or be of a user whose devices we may not see
        let Ok(ctrl) = UblkCtrl::new_simple(number) else { continue };
        if ctrl.dev_info().ublksrv_flags != identity {
            continue;
        }
        match settle(&ctrl)? {
            Condition::Leftover => {
                tracing::info!(device = number, "removing what is left of a device of this namespace");
                remove(&ctrl)?;
            }
            Condition::Served => {
                let pid = ctrl.dev_info().ublksrv_pid;
                fail!(Busy, "/dev/ublkb{number} is a device of this namespace and process {pid} serves it");
            }
            Condition::Orphan if matches!(plan, Plan::Add) => plan = Plan::Recover(ctrl.dev_info()),
            Condition::Orphan => tracing::warn!(device = number, "a second device of this namespace stays as it is"),
        }
    }
    Ok(plan)
}

/// Removes a stopped device. Its number stays taken until the last who has it open closes it; that is not waited for
/// where the driver can (Linux 6.9).
pub(super) fn remove(ctrl: &UblkCtrl) -> Result<()> {
    if done("removing a device", ctrl.del_dev_async()).is_ok() {
        return Ok(());
    }
    done("removing a device", ctrl.del_dev()).map(drop)
}

/// The condition of a device, once a dying server is gone.
fn settle(ctrl: &UblkCtrl) -> Result<Condition> {
    for _ in 0..SETTLE_STEPS {
        done("reading the state of a device", ctrl.read_dev_info())?;
        let info = ctrl.dev_info();
        let condition = condition(&info);
        let by_us = u32::try_from(info.ublksrv_pid).is_ok_and(|pid| pid == std::process::id());
        if condition != Condition::Served || by_us {
            return Ok(condition);
        }
        thread::sleep(SETTLE_STEP);
    }
    Ok(Condition::Served)
}

/// Numbers of all ublk devices.
fn device_numbers() -> Result<Vec<i32>> {
    let entries = match read_dir(DEVICES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("listing {DEVICES}"), error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbers: Vec<i32> = names.filter_map(|name| name.strip_prefix("ublkc")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ_by_pool_and_by_namespace_and_stay() {
        let (one, two) = (PoolId([1; 16]), PoolId([2; 16]));
        let identity = device_identity(one, NamespaceId(1));
        assert_ne!(identity, device_identity(one, NamespaceId(2)));
        assert_ne!(identity, device_identity(two, NamespaceId(1)));
        // a device made by an older version must be found by a newer one
        assert_eq!(device_identity(PoolId([0; 16]), NamespaceId(1)), IDENTITY_OF_ZERO_POOL);
    }

    const IDENTITY_OF_ZERO_POOL: u64 = 9_633_094_766_961_698_682;

    #[test]
    fn every_state_has_a_condition() {
        let state =
            |state: u32| sys::ublksrv_ctrl_dev_info { state: u16::try_from(state).unwrap(), ..Default::default() };
        assert_eq!(condition(&state(sys::UBLK_S_DEV_DEAD)), Condition::Leftover);
        assert_eq!(condition(&state(sys::UBLK_S_DEV_LIVE)), Condition::Served);
        assert_eq!(condition(&state(sys::UBLK_S_DEV_QUIESCED)), Condition::Orphan);
        assert_eq!(condition(&state(sys::UBLK_S_DEV_FAIL_IO)), Condition::Orphan);
        assert_eq!(condition(&state(77)), Condition::Served, "an unknown state is left alone");
    }
}
