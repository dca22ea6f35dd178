//! The lock that keeps a medium to one process, and the patience to get it.
//!
//! A process that was killed keeps its lock until its last I/O has ended: that is what the lock is for, and under load
//! it takes a good part of a second. So whoever comes next waits while the holder is dying, and is refused soon when
//! the holder is alive. Who holds a lock is looked up in `/proc/locks` by inode number alone: device numbers there are
//! not those of stat(2) on every filesystem, and a mistake only costs patience.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

const PAUSE: Duration = Duration::from_millis(20);
/// Tries while the holder is alive: a signal may be on its way to it.
const TRIES_ALIVE: u32 = 10;
/// Tries while nothing is known of the holder (another PID namespace, no `/proc`).
const TRIES_UNKNOWN: u32 = 50;
/// Tries while the holder is dying.
const TRIES_DYING: u32 = 1500;

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// With other readers.
    Readers,
    /// With nobody.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Unknown,
    Alive(u32),
    Dying,
}

/// Locks the open file description behind `fd`. `inode` is that of its name, `shown` names it in messages.
///
/// # Errors
/// [`ErrorKind::Busy`] when another process has it and goes on living.
pub(super) fn lock(fd: &OwnedFd, inode: u64, sharing: Sharing, shown: &str) -> Result<()> {
    let operation = match sharing {
        Sharing::Readers => FlockOperation::NonBlockingLockShared,
        Sharing::Nobody => FlockOperation::NonBlockingLockExclusive,
    };
    let mut tries = 0;
    loop {
        match flock(fd, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(Error::io(format!("locking {shown}"), e)),
        }
        tries += 1;
        let (most, by) = match holder(inode) {
            Holder::Alive(process) => (TRIES_ALIVE, format!("process {process}")),
            Holder::Unknown => (TRIES_UNKNOWN, "another process".to_owned()),
            Holder::Dying => (TRIES_DYING, "a process whose last I/O does not end".to_owned()),
        };
        if tries > most {
            return Err(Error::new(ErrorKind::Busy, format!("{shown} is already in use by {by}")));
        }
        std::thread::sleep(PAUSE);
    }
}

fn holder(inode: u64) -> Holder {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut found = Holder::Unknown;
    for process in holders(&locks, inode) {
        match std::fs::read_to_string(format!("/proc/{process}/stat")) {
            Ok(stat) if !is_dying(&stat) => found = Holder::Alive(process),
            _ => return Holder::Dying,
        }
    }
    found
}

/// The processes that hold a flock on `inode`, as `/proc/locks` lists them:
/// `1: FLOCK  ADVISORY  WRITE 1741 fe:00:12345 0 EOF`. A process of another namespace is listed as 0.
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = u32> {
    locks.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, file, ..] = fields[..] else { return None };
        let of_file = file.rsplit(':').next()?.parse() == Ok(inode);
        process.parse().ok().filter(|process| of_file && *process > 0)
    })
}

/// Whether a process is past its last instruction, by its line in `/proc/PID/stat`: a zombie, or on its way to one.
fn is_dying(stat: &str) -> bool {
    const EXITING: u64 = 0x4;
    // the second field is a name in parentheses, which may hold anything
    let Some((_, after_name)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let flags: u64 = fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    matches!(fields.first(), Some(&("Z" | "X"))) || flags & EXITING != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:55 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 1741 fe:00:55 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 99 fe:00:55 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  0 00:2a:55 0 EOF\n\
                     4: FLOCK  ADVISORY  READ  12 00:2a:56 0 EOF\n\
                     garbage\n";
        assert_eq!(holders(locks, 55).collect::<Vec<_>>(), [1741]);
        assert_eq!(holders(locks, 57).count(), 0);
    }

    #[test]
    fn the_dying_are_told_from_the_living() {
        let stat = |state: &str, flags: u64| format!("1741 (a ) name) {state} 1 1741 1741 0 -1 {flags} 0 0 0");
        assert!(!is_dying(&stat("S", 4_194_304)));
        assert!(!is_dying(&stat("D", 0)));
        assert!(is_dying(&stat("D", 4_194_304 | 4)));
        assert!(is_dying(&stat("Z", 0)));
        assert!(!is_dying(""));
        let me = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(!is_dying(&me), "{me}");
    }
}
