//! Who uses a block device: before it is stopped, since stopping fails the I/O of whoever does.

use std::fs::{File, OpenOptions, read_dir, read_to_string};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Claims the device for itself: no mount, swap or device-mapper target has it, and none can take it while the file
/// lives. `None` if there is no such device.
///
/// # Errors
/// `Busy`, naming the holders that can be seen from here.
pub(super) fn claim(device: &Path) -> Result<Option<File>> {
    let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
    let error = match OpenOptions::new().read(true).custom_flags(exclusive).open(device) {
        Ok(file) => return Ok(Some(file)),
        Err(error) => error,
    };
    let missing = [rustix::io::Errno::NXIO, rustix::io::Errno::NODEV].map(rustix::io::Errno::raw_os_error);
    if error.kind() == io::ErrorKind::NotFound || error.raw_os_error().is_some_and(|errno| missing.contains(&errno)) {
        return Ok(None);
    }
    if error.kind() != io::ErrorKind::ResourceBusy {
        return Err(Error::io(format!("opening {}", device.display()), error));
    }
    let holders = holders(device);
    let by = if holders.is_empty() { "by somebody".to_owned() } else { holders.join(", ") };
    Err(Error::new(ErrorKind::Busy, format!("{} is in use: {by}", device.display())))
}

/// What holds the device, as phrases: mounts here and of the system, swap, stacked devices.
fn holders(device: &Path) -> Vec<String> {
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let numbers = device_numbers(name);
    let path = device.to_string_lossy();
    let mut found = Vec::new();
    // a daemon in a mount namespace of its own does not see the system's mounts
    for table in ["/proc/1/mountinfo", "/proc/self/mountinfo"] {
        let table = read_to_string(table).unwrap_or_default();
        found.extend(mounts(&table, &numbers, &path).map(|mount| format!("mounted at {mount}")));
    }
    let swaps = read_to_string("/proc/swaps").unwrap_or_default();
    found.extend(swaps.lines().filter(|line| names(line, &path)).map(|_| "swap".to_owned()));
    for stacked in entries(&Path::new("/sys/class/block").join(name).join("holders")) {
        found.push(format!("part of {stacked}"));
    }
    found.sort();
    found.dedup();
    found
}

/// `major:minor` of a device and its partitions.
fn device_numbers(name: &str) -> Vec<String> {
    let directory = Path::new("/sys/class/block").join(name);
    let partitions = entries(&directory).into_iter().filter(|entry| entry.starts_with(name));
    let files = std::iter::once(directory.join("dev")).chain(partitions.map(|part| directory.join(part).join("dev")));
    files.filter_map(|file| read_to_string(file).ok()).map(|text| text.trim().to_owned()).collect()
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Mount points in a mountinfo table of devices with these numbers, or of `device` by name (btrfs shows other numbers).
fn mounts<'a>(table: &'a str, numbers: &'a [String], device: &'a str) -> impl Iterator<Item = &'a str> {
    table.lines().filter_map(move |line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let number = fields.nth(2)?;
        let point = fields.nth(1)?;
        let source = source.split(' ').nth(1)?;
        (numbers.iter().any(|ours| ours == number) || names(source, device)).then_some(point)
    })
}

/// Whether `text` begins with the device's path or that of one of its partitions.
fn names(text: &str, device: &str) -> bool {
    let Some(rest) = text.strip_prefix(device) else { return false };
    let rest = rest.strip_prefix('p').map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    rest.is_empty() || rest.starts_with([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let table = "36 35 259:0 / /mnt rw,noatime shared:1 - ext4 /dev/root rw\n\
                     37 35 0:44 /sub /data rw - btrfs /dev/ublkb1p2 rw\n\
                     38 35 259:1 / /other rw master:1 - xfs /dev/ublkb11 rw\n\
                     broken line\n";
        let numbers = ["259:0".to_owned()];
        assert_eq!(mounts(table, &numbers, "/dev/ublkb0").collect::<Vec<_>>(), ["/mnt"]);
        assert_eq!(mounts(table, &[], "/dev/ublkb1").collect::<Vec<_>>(), ["/data"]);
        assert_eq!(mounts(table, &[], "/dev/ublkb11").collect::<Vec<_>>(), ["/other"]);
        assert_eq!(mounts(table, &[], "/dev/ublkb").count(), 0);
    }

    #[test]
    fn names_of_partitions_are_the_devices() {
        assert!(names("/dev/ublkb0", "/dev/ublkb0"));
        assert!(names("/dev/ublkb0p3\tpartition\t1024", "/dev/ublkb0"));
        assert!(names("/dev/ublkb0   partition", "/dev/ublkb0"));
        assert!(!names("/dev/ublkb01", "/dev/ublkb0"));
        assert!(!names("/dev/ublkb0x", "/dev/ublkb0"));
    }

    #[test]
    fn a_device_that_is_not_there_is_not_busy() {
        assert!(claim(Path::new("/dev/no-such-ublkb")).unwrap().is_none());
    }
}
