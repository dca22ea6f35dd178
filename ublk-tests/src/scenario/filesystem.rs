//! Filesystems: made, mounted, filled with a real tree, checked, and found again after a restart of the daemon.

use std::path::Path;

use super::{Place, serve};
use crate::{Result, command::sh, daemon::Namespace, failure::ensure};

struct Kind {
    name: &'static str,
    make: &'static str,
    check: &'static str,
}

pub(super) fn ext4(place: &Place) -> Result<()> {
    tree(place, &Kind { name: "ext4", make: "mkfs.ext4 -q", check: "e2fsck -fn" })
}

pub(super) fn xfs(place: &Place) -> Result<()> {
    tree(place, &Kind { name: "xfs", make: "mkfs.xfs -q", check: "xfs_repair -n" })
}

pub(super) fn btrfs(place: &Place) -> Result<()> {
    tree(place, &Kind { name: "btrfs", make: "mkfs.btrfs -q", check: "btrfs check --check-data-csum" })
}

fn tree(place: &Place, kind: &Kind) -> Result<()> {
    let (pool, daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    let mount = place.path("mount");
    let mounted = sums_of_copied_tree(kind, &device, &mount)?;
    daemon.stop()?;

    let (daemon, device) = serve(&pool)?;
    let (device_text, mount_text) = (device.display(), mount.display());
    sh(format!("{} {device_text}", kind.check)).limit(300).ok()?;
    sh(format!("mount -t {} {device_text} {mount_text}", kind.name)).ok()?;
    let found = sums(&mount)?;
    ensure(found == mounted, || format!("{}: the tree has changed over a restart of the daemon", kind.name))?;
    // Half of it goes, the rest is written again: what overwrites and frees must not disturb its neighbours.
    let churn = "find . -type f -name '*[a-m].h' -delete
        find . -type f | sort > /run/churned
        head -n 300 /run/churned | while read -r f; do cat \"$f\" \"$f\" > t && mv t \"$f\"; done
        sync; fstrim -v .";
    sh(format!("cd {mount_text}; {churn}")).limit(300).ok()?;
    let churned = sums(&mount)?;
    sh(format!("umount {mount_text}; {} {device_text}", kind.check)).limit(300).ok()?;
    sh(format!("mount -t {} {device_text} {mount_text}", kind.name)).ok()?;
    let found = sums(&mount)?;
    sh(format!("umount {mount_text}")).ok()?;
    ensure(found == churned && !churned.is_empty(), || format!("{}: the changed tree is another one", kind.name))?;
    daemon.stop()
}

/// Makes the filesystem and copies a tree there; unmounts it.
fn sums_of_copied_tree(kind: &Kind, device: &Path, mount: &Path) -> Result<String> {
    let (device, mount_text) = (device.display(), mount.display());
    sh(format!("{} {device}", kind.make)).limit(300).ok()?;
    sh(format!("mkdir -p {mount_text}; mount -t {} {device} {mount_text}", kind.name)).ok()?;
    // Thousands of small files and some large ones, as people have.
    sh(format!("cp -a /usr/include/linux {mount_text}; cp -L /usr/bin/[a-c]* {mount_text}; sync")).limit(400).ok()?;
    let copied = sums(mount)?;
    ensure(copied.lines().count() > 500, || format!("only {} files were copied", copied.lines().count()))?;
    sh(format!("umount {mount_text}; {} {device}", kind.check)).limit(300).ok()?;
    Ok(copied)
}

fn sums(directory: &Path) -> Result<String> {
    // Other than the page cache's word: what the device has.
    sh(format!(
        "echo 3 > /proc/sys/vm/drop_caches; cd {}; find . -type f -print0 | sort -z | xargs -0 sha256sum",
        directory.display()
    ))
    .limit(300)
    .ok()
}
