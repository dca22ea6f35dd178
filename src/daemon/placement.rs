//! Where a pool's medium really is: not on a device that Plica serves.

use std::fs::read_dir;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fail;

/// Devices stacked upon each other that are followed.
const DEPTH_MAX: u32 = 16;

/// Refuses a pool that lies on a ublk device: if it is one of its own, opening it waits for a daemon that waits
/// for it. To be asked before the medium is first read.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`]; or the path is not there.
pub fn check_placement(pool: &Path) -> Result<()> {
    let shown = pool.display();
    let metadata = std::fs::metadata(pool).map_err(|e| Error::io(format!("looking at {shown}"), e))?;
    let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    if let Some(device) = ublk_below(Path::new(&format!("/sys/dev/block/{major}:{minor}")), DEPTH_MAX) {
        fail!(
            Config,
            "{shown} lies on {device}, a ublk device: a pool must not depend on a device that plica may serve from it"
        );
    }
    Ok(())
}

/// The ublk device under a block device, by its directory in sysfs.
fn ublk_below(entry: &Path, depth: u32) -> Option<String> {
    let directory = std::fs::canonicalize(entry).ok()?;
    let name = directory.file_name()?.to_str()?;
    if name.starts_with("ublkb") {
        return Some(format!("/dev/{name}"));
    }
    let below = depth.checked_sub(1)?;
    if directory.join("partition").exists() {
        return ublk_below(directory.parent()?, below);
    }
    let slaves = read_dir(directory.join("slaves")).ok()?;
    let backing = std::fs::read_to_string(directory.join("loop/backing_file")).ok();
    let backing = backing.and_then(|file| backing_device(Path::new(file.trim_end())));
    slaves.flatten().map(|slave| slave.path()).chain(backing).find_map(|slave| ublk_below(&slave, below))
}

/// The device under the filesystem of a loop device's file.
fn backing_device(file: &Path) -> Option<PathBuf> {
    let number = file.metadata().ok()?.dev();
    Some(PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of sysfs: a partition of ublkb0, under dm-0, under dm-1.
    #[test]
    fn stacks_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let device = |path: &str| {
            let directory = root.path().join(path);
            std::fs::create_dir_all(directory.join("slaves")).unwrap();
            directory
        };
        let (disk, ublk) = (device("sda"), device("ublkb0"));
        let partition = device("ublkb0/ublkb0p1");
        std::fs::write(partition.join("partition"), "1\n").unwrap();
        let (lower, upper) = (device("dm-0"), device("dm-1"));
        std::os::unix::fs::symlink(&partition, lower.join("slaves/ublkb0p1")).unwrap();
        std::os::unix::fs::symlink(&disk, upper.join("slaves/sda")).unwrap();
        assert_eq!(ublk_below(&upper, DEPTH_MAX), None);
        std::os::unix::fs::symlink(&lower, upper.join("slaves/dm-0")).unwrap();
        for start in [&ublk, &partition, &lower, &upper] {
            let found = ublk_below(start, DEPTH_MAX).unwrap();
            assert!(found.starts_with("/dev/ublkb0"), "{found}");
        }
        assert_eq!(ublk_below(&disk, DEPTH_MAX), None);
        assert_eq!(ublk_below(&root.path().join("none"), DEPTH_MAX), None);
    }

    #[test]
    fn ordinary_files_are_fine() {
        let file = tempfile::NamedTempFile::new().unwrap();
        check_placement(file.path()).unwrap();
    }
}
