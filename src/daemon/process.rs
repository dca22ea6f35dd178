//! What a process must be to serve the block device that its own machine may need to free memory.
//!
//! All of it is best effort except being told: without the rights for something the daemon serves on and says so at
//! debug level, once.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;

/// How much less likely than others the daemon is to be killed for want of memory.
const OOM_SCORE: &str = "-900";

/// Prepares this process. To be called before it has a second thread.
pub(super) fn prepare() {
    // memory reclaim must not wait for I/O that this process has to serve
    note("PR_SET_IO_FLUSHER", rustix::process::configure_io_flusher_behavior(true));
    note("the OOM score", write_existing("/proc/self/oom_score_adj", OOM_SCORE));
    lock_memory();
    leave_ublk_mounts();
    // a core file would hold keys. Last: what follows from it is that /proc/self belongs to root
    note("PR_SET_DUMPABLE", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
}

fn note(what: &str, result: rustix::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "not permitted or not supported: {what}");
    }
}

fn write_existing(path: &str, text: &str) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// Keeps all memory out of swap, page by page as it is used.
fn lock_memory() {
    let unlimited = Rlimit { current: None, maximum: None };
    // with a limit, memory that is mapped later would fail instead of being swapped: worse than not locking
    let may = rustix::process::setrlimit(Resource::Memlock, unlimited).is_ok() || has_ipc_lock();
    if may {
        note("mlockall", rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT));
    } else {
        tracing::debug!("memory is not locked: the limit on locked memory cannot be raised");
    }
}

fn has_ipc_lock() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// Moves to a mount namespace of its own in which no ublk device is mounted: neither the daemon's file names nor its
/// exit ever depend on a filesystem that it serves itself.
///
/// Only where mounts are shared (as systemd sets them up): otherwise a copy of a mount would stay behind here when the
/// system unmounts its own, and keep the device busy.
fn leave_ublk_mounts() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !root_is_shared(&mounts) {
        return;
    }
    let isolated = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
        .and_then(|()| {
            // unmounting in the system reaches us, and nothing of ours reaches the system
            rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        });
    note("a mount namespace of its own", isolated);
    if isolated.is_ok() {
        for point in ublk_mounts(&mounts) {
            note("unmounting a ublk device here", rustix::mount::unmount(point.as_str(), UnmountFlags::DETACH));
        }
    }
}

fn root_is_shared(mountinfo: &str) -> bool {
    let last = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    last.is_some_and(|line| {
        let (mount, _) = line.split_once(" - ").unwrap_or((line, ""));
        mount.split(' ').skip(6).any(|field| field.starts_with("shared:"))
    })
}

/// Mount points of ublk devices, innermost first.
fn ublk_mounts(mountinfo: &str) -> Vec<String> {
    let point = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let is_ublk = source.split(' ').nth(1)?.starts_with("/dev/ublkb");
        is_ublk.then(|| unescape(mount.split(' ').nth(4).unwrap_or_default()))
    };
    mountinfo.lines().rev().filter_map(point).collect()
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:20 / /run rw,nosuid shared:2 - tmpfs tmpfs rw
41 22 259:0 / /srv/my\\040db rw,relatime shared:9 - ext4 /dev/ublkb0 rw
42 41 259:1 / /srv/my\\040db/wal rw,relatime shared:10 - xfs /dev/ublkb1p1 rw
";

    #[test]
    fn shared_mounts_are_recognised() {
        assert!(root_is_shared(SHARED));
        assert!(!root_is_shared("22 1 254:0 / / rw,relatime - ext4 /dev/vda1 rw,shared:1\n"));
        assert!(!root_is_shared("22 1 254:0 / / rw,relatime master:1 - ext4 /dev/vda1 rw\n"));
        assert!(!root_is_shared(""));
        // the topmost of stacked mounts counts
        assert!(!root_is_shared(&format!("{SHARED}50 22 0:5 / / rw - overlay overlay rw\n")));
    }

    #[test]
    fn own_devices_are_found_innermost_first() {
        assert_eq!(ublk_mounts(SHARED), ["/srv/my db/wal", "/srv/my db"]);
    }
}
