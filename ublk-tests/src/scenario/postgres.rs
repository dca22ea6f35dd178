//! PostgreSQL on a filesystem on the device, over deaths of the daemon.

use std::{thread, time::Duration};

use super::{Place, journal, serve};
use crate::{
    Result,
    command::sh,
    daemon::{Namespace, Pool},
    database::Cluster,
    failure::ensure,
};

/// The server and the daemon are killed in the middle of a load; both come back.
pub(super) fn crash(place: &Place) -> Result<()> {
    crash_on(place, &Pool::at(place.path("pool"), place.path("pool.d")), 12)
}

/// The same with a journal, in memory that outlives the daemon: that is where the server's log is.
pub(super) fn crash_with_journal(place: &Place) -> Result<()> {
    let pool = Pool::at(place.path("pool"), place.path("pool.d")).journal("/dev/shm/journal:256M", true);
    crash_on(place, &pool, 8)
}

/// See [`crash`]; the first load goes on for so many seconds.
fn crash_on(place: &Place, pool: &Pool, seconds: u64) -> Result<()> {
    pool.create(Some("3G"), &[Namespace::new("data", "1G").option("--unit", "8K")])?;
    let (daemon, device) = serve(pool)?;
    let mount = place.path("mount");
    let (device_text, mount_text) = (device.display(), mount.display());
    sh(format!(
        "mkfs.ext4 -q {device_text}; mkdir -p {mount_text}; mount {device_text} {mount_text}; chmod 755 {mount_text}"
    ))
    .ok()?;
    sh(format!("chmod a+x {}", place.path("").display())).ok()?;
    let cluster = Cluster::at(mount.join("cluster"));
    cluster.init()?;
    cluster.start()?;
    cluster.fill(3)?;

    // The daemon alone dies: the server does not notice.
    let load = cluster.client("pgbench", &format!("-n -c 4 -j 2 -T {seconds} postgres")).start()?;
    thread::sleep(Duration::from_secs(4));
    daemon.kill()?;
    let (daemon, _) = serve(pool)?;
    let load = load.finish(Duration::from_secs(120))?;
    ensure(load.status.success() && load.out.contains("number of failed transactions: 0"), || {
        load.failure("pgbench over the death of the daemon").to_string()
    })?;

    // Both die, and the page cache with them: the filesystem is unmounted without the server's consent.
    let load = cluster.client("pgbench", "-n -c 4 -j 2 -T 60 postgres").start()?;
    thread::sleep(Duration::from_secs(5));
    cluster.kill()?;
    daemon.kill()?;
    drop(load);
    let (daemon, _) = serve(pool)?;
    sh(format!("umount {mount_text}; e2fsck -fn {device_text}; mount {device_text} {mount_text}")).limit(300).ok()?;
    cluster.start()?;
    cluster.check()?;
    let count = cluster.client("psql", "-qAtc 'select count(*) from pgbench_history' postgres").ok()?;
    ensure(count.trim().parse::<u64>().is_ok_and(|n| n > 0), || format!("{} transactions in history", count.trim()))?;
    cluster.stop()?;
    sh(format!("umount {mount_text}; e2fsck -fn {device_text}")).limit(300).ok()?;
    if pool.has_journal() {
        journal::expect_used(pool)?;
    }
    daemon.stop()
}
