//! The daemon dies while the machine lives: nothing acknowledged is lost and nobody sees an error.

use std::{thread, time::Duration};

use super::{Place, serve};
use crate::{
    Result,
    command::sh,
    daemon::{Namespace, Transport},
    failure::ensure,
    scenario::verify::{fio, fio_line},
    wait,
    workload::{Device, Found, Op, Plan},
};

const DEATHS: u64 = 8;

/// Deaths of the long run.
const MANY_DEATHS: u64 = 100;
/// Upgrades under load.
const UPGRADES: u64 = 10;

/// SIGKILL under verified load; fio sees no error.
pub(super) fn under_fio(place: &Place) -> Result<()> {
    deaths_under_fio(place, DEATHS, 2500)
}

/// The same a hundred times, also while the last death is being recovered from.
pub(super) fn hundred(place: &Place) -> Result<()> {
    deaths_under_fio(place, MANY_DEATHS, 600)
}

fn deaths_under_fio(place: &Place, deaths: u64, longest_ms: u64) -> Result<()> {
    let (pool, mut daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    let stop = place.path("stop");
    // Each run of fio is short, and verified at its end; the next writes over it with other sizes.
    let jobs = "--size=12M --iodepth=16 --name=a --rw=randwrite --bs=4k --name=b --offset=64M --rw=randwrite \
                --bsrange=4k-128k --name=c --offset=128M --rw=write --bs=64k --fdatasync=16";
    let mut load = sh(format!("while [ ! -e {} ]; do {}; done", stop.display(), fio_line(&device, jobs))).start()?;
    let mut random = fastrand::Rng::with_seed(40);
    for death in 0..deaths {
        thread::sleep(Duration::from_millis(random.u64(0..longest_ms)));
        ensure(load.is_running()?, || format!("fio was over before death {death}"))?;
        daemon.kill()?;
        thread::sleep(Duration::from_millis(random.u64(0..300)));
        let (next, again) = serve(&pool)?;
        ensure(again == device, || format!("{} came back as {}", device.display(), again.display()))?;
        daemon = next;
    }
    sh(format!("touch {}", stop.display())).ok()?;
    let load = load.finish(Duration::from_secs(300))?;
    ensure(load.status.success(), || load.failure("fio").to_string())?;
    no_io_error()?;
    daemon.stop()
}

/// A new daemon takes over under verified load and under a mounted filesystem; nobody sees an error, and there is nothing
/// to recover.
pub(super) fn upgrades(place: &Place) -> Result<()> {
    let (pool, mut daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    let (stop, mount) = (place.path("stop"), place.path("mount"));
    let (device_text, mount_text) = (device.display(), mount.display());
    sh(format!("mkfs.ext4 -q {device_text} 512M; mkdir -p {mount_text}; mount {device_text} {mount_text}")).ok()?;
    let job = "--offset=640M --size=16M --iodepth=8 --name=a --rw=randwrite --bsrange=4k-64k";
    let verified = fio_line(&device, job);
    let copy = format!("rm -rf {mount_text}/x; cp -a /usr/include/linux {mount_text}/x; sync -f {mount_text}");
    let done = stop.display();
    let mut load =
        sh(format!("while [ ! -e {done} ]; do {copy}; done & while [ ! -e {done} ]; do {verified}; done; wait"))
            .start()?;
    let mut random = fastrand::Rng::with_seed(8);
    for upgrade in 0..UPGRADES {
        thread::sleep(Duration::from_millis(random.u64(100..1500)));
        ensure(load.is_running()?, || format!("the load was over before upgrade {upgrade}"))?;
        let next = pool.take_over(&["data"])?;
        daemon.expect_end()?;
        let again = next.device("data")?;
        ensure(again == device, || format!("{} came back as {}", device.display(), again.display()))?;
        daemon = next;
    }
    sh(format!("touch {done}")).ok()?;
    let load = load.finish(Duration::from_secs(300))?;
    ensure(load.status.success(), || load.failure("fio or cp").to_string())?;
    sh(format!(
        "echo 3 > /proc/sys/vm/drop_caches; diff -r /usr/include/linux {mount_text}/x
        umount {mount_text}; e2fsck -fn {device_text}"
    ))
    .limit(300)
    .ok()?;
    no_io_error()?;
    daemon.stop()
}

/// Every block shows the last operation on it, flushed or not: acknowledged is enough.
pub(super) fn nothing_acknowledged_is_lost(place: &Place) -> Result<()> {
    let (pool, mut daemon, path) = place.served(&Namespace::new("data", "256M"))?;
    let plan = Plan { seed: 77, block_count: 2048 };
    let mut expected = vec![Found::Zeros; 2048];
    let mut device = Device::open(&path)?;
    let mut random = fastrand::Rng::with_seed(5);
    let mut number = 0;
    for death in 0..DEATHS {
        for _ in 0..random.u32(20..400) {
            device.make(&plan, number)?;
            let value = if matches!(plan.op(number), Op::Zero(_)) { Found::Zeros } else { Found::Op(number) };
            if let Some(range) = plan.op(number).range() {
                let blocks = (0..).zip(&mut expected).filter(|(lba, _)| range.contains(*lba));
                blocks.for_each(|(_, slot)| *slot = value);
            }
            number += 1;
        }
        daemon.kill()?;
        daemon = serve(&pool)?.0;
        let found = device.find(&plan)?;
        let wrong = found.iter().zip(&expected).position(|(f, e)| f != e);
        ensure(wrong.is_none(), || {
            let lba = wrong.unwrap_or_default();
            format!("after death {death} block {lba} shows {:?} instead of {:?}", found[lba], expected[lba])
        })?;
    }
    drop(device);
    no_io_error()?;
    daemon.stop()
}

/// A mounted filesystem goes on.
pub(super) fn mounted(place: &Place) -> Result<()> {
    let (pool, mut daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    let mount = place.path("mount");
    let (device_text, mount_text) = (device.display(), mount.display());
    sh(format!("mkfs.ext4 -q {device_text}; mkdir -p {mount_text}; mount {device_text} {mount_text}")).ok()?;
    let copy = format!("for i in 1 2 3 4 5 6; do cp -a /usr/include/linux {mount_text}/$i; sync -f {mount_text}; done");
    let mut load = sh(copy).limit(300).start()?;
    let mut deaths = 0;
    while load.is_running()? && deaths < DEATHS {
        thread::sleep(Duration::from_millis(700));
        daemon.kill()?;
        daemon = serve(&pool)?.0;
        deaths += 1;
    }
    let load = load.finish(Duration::from_secs(300))?;
    ensure(load.status.success(), || load.failure("cp").to_string())?;
    ensure(deaths > 0, || "the copy was over before the daemon died once".into())?;
    sh(format!(
        "echo 3 > /proc/sys/vm/drop_caches; for i in 1 6; do diff -r /usr/include/linux {mount_text}/$i; done
        umount {mount_text}; e2fsck -fn {device_text}"
    ))
    .limit(300)
    .ok()?;
    no_io_error()?;
    daemon.stop()
}

/// What must be refused while a pool is served, with status 1 and a word of why, and harms nobody.
pub(super) fn refusals(place: &Place) -> Result<()> {
    let (pool, mut daemon, device) = place.served(&Namespace::new("data", "256M"))?;
    sh(format!("mkfs.ext4 -q {}", device.display())).ok()?;
    let load = fio(&device, "--name=l --rw=randwrite --bs=4k --iodepth=4 --offset=128M --size=16M").start()?;
    let other_key = place.path("other.key");
    pool.plica(["key", "generate"])?.arg(&other_key).ok()?;
    let again = || -> Result<_> { Ok(pool.plica(["serve"])?.arg(pool.path()).limit(60)) };
    let create = pool.plica(["create"])?.arg(pool.path()).arg("--root-key").arg(pool.key());
    let over_filesystem = pool.plica(["create"])?.arg(&device).arg("--root-key").arg(pool.key());
    let cases = [
        ("a second daemon", again()?.arg("--root-key").arg(pool.key())),
        ("creating over a served pool", create.arg("--force")),
        ("creating over a filesystem", over_filesystem),
    ];
    for (what, command) in cases {
        let output = command.run()?;
        ensure(output.status.code() == Some(1), || output.failure(what).to_string())?;
        ensure(!output.err.trim().is_empty() && !output.err.contains("panicked"), || output.failure(what).to_string())?;
    }
    let load = load.finish(Duration::from_secs(120))?;
    ensure(load.status.success(), || load.failure("fio beside it").to_string())?;
    pool.status()?;
    pool.plica(["stop"])?.arg(pool.path()).ok()?;
    daemon.expect_end()?;
    wait::until("the device to go", Duration::from_secs(10), || Ok((!device.exists()).then_some(())))?;

    let output = again()?.arg("--root-key").arg(&other_key).run()?;
    ensure(output.status.code() == Some(1), || output.failure("a foreign root key").to_string())?;
    pool.serve(Transport::Ublk, &["data"])?.stop()
}

fn no_io_error() -> Result<()> {
    let found = sh("dmesg | grep -iE 'I/O error|blk_update_request|EXT4-fs error|hung task' || true").ok()?;
    ensure(found.is_empty(), || format!("the kernel has complained: {found}"))
}
