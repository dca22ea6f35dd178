//! Several namespaces: keys of their own, a hundred at once, made and destroyed while the pool is served.

use super::Place;
use crate::{
    Failure, Result,
    command::sh,
    daemon::{Namespace, Transport},
    failure::ensure,
    scenario::verify::fio,
};

/// The same plaintext under two keys is never the same bytes in the pool, and nowhere is it plaintext.
pub(super) fn two_keys(place: &Place) -> Result<()> {
    let pool = place.pool(
        "3G",
        &[
            Namespace::new("left", "512M"),
            Namespace::new("right", "512M").option("--cipher", "aes-256-gcm").option("--compression", "none"),
        ],
    )?;
    let daemon = pool.serve(Transport::Ublk, &["left", "right"])?;
    let (left, right) = (daemon.device("left")?, daemon.device("right")?);
    ensure(left != right, || "two namespaces, one device".into())?;
    let (marked, pool_text) = (place.path("marked"), pool.path().display().to_string());
    let (marked, left_text, right_text) = (marked.display(), left.display(), right.display());
    // A marker that compression cannot break: each block is random but for it.
    let marker = "PLAINTEXT-MARKER-0123456789";
    sh(format!(
        "for i in $(seq 256); do head -c 2000 /dev/urandom; printf '%s' {marker}; head -c {} /dev/urandom; done > {marked}",
        4096 - 2000 - marker.len()
    ))
    .ok()?;
    for device in [&left_text, &right_text] {
        sh(format!("dd if={marked} of={device} bs=64k oflag=direct conv=fsync status=none")).ok()?;
    }
    fio(&left, "--name=l --rw=randwrite --bs=4k --iodepth=8 --offset=64M --size=24M").ok()?;
    fio(&right, "--name=r --rw=randwrite --bsrange=4k-64k --iodepth=8 --offset=64M --size=24M").ok()?;
    for device in [&left_text, &right_text] {
        sh(format!("cmp --bytes={} {marked} <(dd if={device} bs=1M count=1 iflag=direct status=none)", 1 << 20))
            .ok()?;
    }
    daemon.stop()?;
    let count = |file: &dyn std::fmt::Display| -> Result<u64> {
        // Lines end at zero bytes, or a hole would be a line of gigabytes. Status 1: there is none.
        let out = sh(format!("LC_ALL=C grep -c -a -z {marker} {file} || [ $? -eq 1 ]")).ok()?;
        out.trim().parse().map_err(|e| Failure::new(format!("grep says {out:?}: {e}")))
    };
    let (in_pool, in_file) = (count(&pool_text)?, count(&marked)?);
    ensure(in_file > 0, || "the search itself does not find the marker".into())?;
    ensure(in_pool == 0, || format!("plaintext in the pool, {in_pool} times"))
}

pub(super) fn hundred(place: &Place) -> Result<()> {
    let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    let pool = place.pool("3G", &[])?;
    for name in &names {
        pool.create_namespace(&Namespace::new(name, "64M"))?;
    }
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let daemon = pool.serve(Transport::Ublk, &wanted)?;
    for name in &wanted {
        let device = daemon.device(name)?;
        sh(format!(
            "dd if=<(yes {name} | head -c 64K) of={} bs=64k iflag=fullblock oflag=direct status=none",
            device.display()
        ))
        .ok()?;
    }
    for name in &wanted {
        let device = daemon.device(name)?;
        let read = format!("dd if={} bs=64k count=1 iflag=direct status=none", device.display());
        sh(format!("cmp <({read}) <(yes {name} | head -c 64K)")).ok()?;
    }
    daemon.stop()
}

/// Created and destroyed under a daemon that serves others meanwhile.
pub(super) fn online(place: &Place) -> Result<()> {
    let (pool, daemon, device) = place.served(&Namespace::new("data", "256M"))?;
    let load = fio(&device, "--name=l --rw=randwrite --bs=4k --iodepth=4 --size=16M --loops=3").start()?;
    pool.create_namespace(&Namespace::new("extra", "64M"))?;
    let list = pool.plica(["namespace", "list"])?.arg(pool.path()).ok()?;
    ensure(list.contains("data") && list.contains("extra"), || format!("the list is: {list}"))?;
    let root_key = pool.key();
    pool.plica(["namespace", "destroy"])?.arg(pool.path()).args(["extra", "--yes", "--root-key"]).arg(root_key).ok()?;
    let list = pool.plica(["namespace", "list"])?.arg(pool.path()).ok()?;
    ensure(!list.contains("extra"), || format!("destroyed, yet listed: {list}"))?;
    let load = load.finish(std::time::Duration::from_secs(300))?;
    ensure(load.status.success(), || load.failure("fio beside it").to_string())?;
    daemon.stop()
}

/// A filesystem grows with its device while it is written to, and shrinks after it was made smaller; on a kernel that cannot
/// resize a device the command says so, and serving anew does it.
pub(super) fn resized(place: &Place) -> Result<()> {
    let (pool, daemon, device) = place.served(&Namespace::new("data", "256M"))?;
    let (mount, shown) = (place.path("mount"), device.display().to_string());
    let mount = mount.display();
    let bytes = || -> Result<u64> {
        let out = sh(format!("blockdev --getsize64 {shown}")).ok()?;
        out.trim().parse().map_err(|e| Failure::new(format!("blockdev says {out:?}: {e}")))
    };
    let resize =
        |size: &str| pool.plica(["namespace", "resize"]).map(|cmd| cmd.arg(pool.path()).args(["data", "--size", size]));
    sh(format!(
        "mkfs.ext4 -q {shown}; mkdir -p {mount}; mount {shown} {mount}
        head -c 40M /dev/urandom > {mount}/a; sha256sum {mount}/a > {mount}/sums; sync"
    ))
    .ok()?;
    ensure(bytes()? == 256 << 20, || "not 256 MiB".into())?;
    let out = resize("512M")?.ok()?;
    ensure(out.contains("512M now"), || out.clone())?;
    if out.contains("keeps its old size") {
        ensure(bytes()? == 256 << 20, || "it says that it keeps its size".into())?;
        sh(format!("umount {mount}")).ok()?;
        for what in ["unserve", "serve"] {
            pool.plica(["namespace", what])?.arg(pool.path()).arg("data").ok()?;
        }
        sh(format!("mount {shown} {mount}")).ok()?;
    }
    ensure(bytes()? == 512 << 20, || "not 512 MiB".into())?;
    // what was mounted is made larger, and filled beyond its old end
    sh(format!(
        "resize2fs {shown}; head -c 300M /dev/urandom > {mount}/b; sha256sum {mount}/b >> {mount}/sums; sync
        umount {mount}; e2fsck -fn {shown}; mount {shown} {mount}; sha256sum -c {mount}/sums; rm {mount}/b
        umount {mount}; e2fsck -fy {shown}; resize2fs {shown} 128M"
    ))
    .limit(300)
    .ok()?;
    let refused = resize("128M")?.run()?;
    ensure(!refused.status.success() && bytes()? == 512 << 20, || "data beyond the end, and not refused".into())?;
    let out = resize("128M")?.arg("--force").ok()?;
    ensure(bytes()? == 128 << 20 || out.contains("keeps its old size"), || out.clone())?;
    sh(format!("e2fsck -fn {shown}; mount {shown} {mount}; grep /a {mount}/sums | sha256sum -c; umount {mount}"))
        .ok()?;
    daemon.stop()
}
