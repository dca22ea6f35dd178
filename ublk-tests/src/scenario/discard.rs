//! What the host says it no longer uses.

use super::Place;
use crate::{Result, command::sh, daemon::Namespace, failure::ensure};

/// Discarded and zeroed ranges read as zeros, their neighbours as before, also after a restart.
pub(super) fn ranges(place: &Place) -> Result<()> {
    let (pool, daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    let expected = place.path("expected");
    let (device_text, expected_text) = (device.display(), expected.display());
    sh(format!("openssl rand -out {expected_text} {0} || head -c {0} /dev/urandom > {expected_text}", 64 << 20))
        .ok()?;
    sh(format!("dd if={expected_text} of={device_text} bs=1M oflag=direct conv=fsync status=none")).ok()?;
    // (offset, length): a block, an odd run, whole leaves of the map, and the far end.
    let ranges = [(4096_u64, 4096_u64), (40_960, 77_824), (4 << 20, 8 << 20), ((32 << 20) + 12_288, (9 << 20) + 4096)];
    for (index, (offset, length)) in ranges.into_iter().enumerate() {
        let option = if index % 2 == 0 { "" } else { "--zeroout" };
        sh(format!("blkdiscard {option} --offset {offset} --length {length} {device_text}")).ok()?;
        sh(format!("fallocate --punch-hole --offset {offset} --length {length} {expected_text}")).ok()?;
    }
    let compare =
        format!("cmp --bytes={} {expected_text} <(dd if={device_text} bs=1M iflag=direct status=none)", 64 << 20);
    sh(&compare).ok()?;
    daemon.stop()?;
    let (daemon, again) = super::serve(&pool)?;
    sh(compare.replace(&device_text.to_string(), &again.display().to_string())).ok()?;
    sh(format!("blkdiscard {}", again.display())).ok()?;
    let rest = sh(format!("dd if={} bs=1M count=64 iflag=direct status=none | tr -d '\\0' | wc -c", again.display()));
    let rest = rest.ok()?;
    ensure(rest.trim() == "0", || format!("{} bytes are left after everything was discarded", rest.trim()))?;
    daemon.stop()
}

/// mkfs discards, fstrim frees what deleted files held, and the filesystem does not mind.
pub(super) fn fstrim(place: &Place) -> Result<()> {
    let (_pool, daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    let mount = place.path("mount");
    let (device, mount) = (device.display(), mount.display());
    let script = format!(
        "mkfs.ext4 -q -E discard {device}; mkdir -p {mount}; mount {device} {mount}
        for i in 1 2 3 4 5 6; do head -c 20M /dev/urandom > {mount}/f$i; done; sync
        sha256sum {mount}/f[135] > {mount}/sums
        rm {mount}/f[246]; sync; fstrim -v {mount}
        umount {mount}; e2fsck -fn {device}; mount {device} {mount}; sha256sum -c {mount}/sums; umount {mount}
        mkfs.ext4 -q -F -E discard {device}; e2fsck -fn {device}"
    );
    let out = sh(script).limit(300).ok()?;
    ensure(out.matches(": OK").count() == 3, || format!("not three files in order: {out}"))?;
    daemon.stop()
}
