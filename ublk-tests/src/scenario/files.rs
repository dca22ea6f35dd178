//! Files that are written, synchronised and renamed into place, for ever, until the power is cut; and what must be left of
//! them: a journalling filesystem keeps what fsync said, if the device keeps what FLUSH said.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    Failure, Result,
    command::{Cmd, sh},
    failure::ensure,
};

/// Script of the guest that a power cut ends.
pub const FILES_BEFORE: &str = "files-before";
/// Script of the guest that looks at what is left.
pub const FILES_AFTER: &str = "files-after";

/// Files there are; write N goes to file N modulo this.
const FILES: u64 = 256;
/// Writes between marks.
const MARK_EVERY: u64 = 8;

/// Makes a filesystem of this kind on a device.
///
/// # Errors
/// What its mkfs says.
pub fn make(kind: &str, device: &Path) -> Result<()> {
    let force = if kind == "ext4" { "-F" } else { "-f" };
    sh(format!("mkfs.{kind} -q {force} {}", device.display())).limit(300).ok().map(|_| ())
}

/// Mounts it, which replays its journal.
///
/// # Errors
/// What mount says.
pub fn mount(kind: &str, device: &Path) -> Result<PathBuf> {
    sh(format!("mkdir -p /run/files; mount -t {kind} {} /run/files", device.display())).limit(300).ok()?;
    Ok(PathBuf::from("/run/files"))
}

/// Unmounts it and has its own checker look at it.
///
/// # Errors
/// What the checker says.
pub fn check(kind: &str, device: &Path) -> Result<()> {
    let tool = match kind {
        "ext4" => "e2fsck -fn",
        "xfs" => "xfs_repair -n",
        _ => "btrfs check --check-data-csum",
    };
    sh(format!("umount /run/files; {tool} {}", device.display())).limit(300).ok().map(|_| ())
}

/// Writes from `first` on, for ever. After every few it puts a mark into the log of device-mapper target `log` and says
/// `mark NUMBER`: all writes below it were synchronised.
///
/// # Errors
/// What the filesystem says.
pub fn witnessed_writes(directory: &Path, first: u64, log: &str) -> Result<()> {
    let mut next = first;
    loop {
        for number in next..next + MARK_EVERY {
            write(directory, number).map_err(Failure::io(format!("write {number}")))?;
        }
        next += MARK_EVERY;
        Cmd::new("dmsetup").args(["message", log, "0", "mark", &next.to_string()]).ok()?;
        println!("mark {next}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a user of the device, which is what makes it durable")]
fn write(directory: &Path, number: u64) -> std::io::Result<()> {
    let (new, place) = (directory.join("new"), path(directory, number));
    let mut file = File::create(&new)?;
    file.write_all(&content(number))?;
    file.sync_all()?;
    fs::rename(&new, &place)?;
    // the name is durable with its directory
    File::open(directory)?.sync_all()
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("file{}", number % FILES))
}

/// The bytes of write `number`, which they name.
fn content(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let len = random.usize(8..90_000);
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < len {
        bytes.extend(random.u64(..).to_le_bytes());
        bytes.extend(*b"plica it");
    }
    bytes
}

/// Every file holds one of the writes to it, whole, and none older than the newest that was synchronised before `done`.
/// Returns how many writes there have been at least.
///
/// # Errors
/// What is missing, older or damaged.
pub fn verify(directory: &Path, done: u64, last: u64) -> Result<u64> {
    let mut end = done;
    for slot in 0..FILES.min(done) {
        let newest = done - 1 - (done - 1 - slot) % FILES;
        let path = path(directory, slot);
        let bytes = fs::read(&path).map_err(Failure::io(path.display()))?;
        let number = bytes.first_chunk().map_or(u64::MAX, |head| u64::from_le_bytes(*head));
        let belongs = number % FILES == slot && (newest..last).contains(&number);
        ensure(belongs, || format!("{} holds write {number}, expected {newest} or later", path.display()))?;
        ensure(content(number) == bytes, || format!("{}: write {number} is damaged", path.display()))?;
        end = end.max(number + 1);
    }
    Ok(end)
}
