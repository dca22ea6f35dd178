//! fio writes blocks that carry their own checksum and reads them back.

use std::path::Path;

use super::{Place, serve};
use crate::{
    Result,
    command::{Cmd, sh},
    daemon::Namespace,
};

/// The command line of a run of fio on `device` that stops at the first wrong block. `--allow_file_create=0`: a device
/// that is missing must not become a plain file.
pub(super) fn fio_line(device: &Path, jobs: &str) -> String {
    let all = "--direct=1 --allow_file_create=0 --ioengine=libaio --verify=crc32c --verify_fatal=1 --group_reporting \
               --buffer_compress_percentage=50 --refill_buffers --randrepeat=0 --verify_state_save=0";
    format!("fio --filename={} {all} {jobs}", device.display())
}

/// Runs [`fio_line`].
pub(super) fn fio(device: &Path, jobs: &str) -> Cmd {
    sh(fio_line(device, jobs)).limit(400)
}

pub(super) fn random(place: &Place) -> Result<()> {
    let (pool, daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    fio(&device, "--name=w --rw=randwrite --bs=4k --iodepth=16 --size=64M").ok()?;
    fio(&device, "--name=d --rw=randwrite --bs=8k --iodepth=4 --size=32M --offset=128M --fdatasync=8").ok()?;
    // What was written is verified once more after a restart, past every memory of the daemon.
    let pattern = "--name=p --rw=write --bs=16k --iodepth=8 --size=48M --offset=256M --verify_pattern=0xfeedbeef \
                   --verify=pattern --do_verify=0";
    fio(&device, pattern).ok()?;
    daemon.stop()?;
    let (daemon, device) = serve(&pool)?;
    let again = "--name=p --rw=read --bs=16k --iodepth=8 --size=48M --offset=256M --verify_pattern=0xfeedbeef \
                 --verify=pattern";
    fio(&device, again).ok()?;
    daemon.stop()
}

pub(super) fn mixed(place: &Place) -> Result<()> {
    let (_pool, daemon, device) = place.served(&Namespace::new("data", "1G"))?;
    mixed_jobs(&device, "4k")?;
    fio(&device, "--name=m --rw=randrw --bsrange=4k-1m --bs_unaligned=0 --iodepth=8 --size=96M").ok()?;
    fio(&device, "--name=s --rw=write --bs=1m --iodepth=4 --size=128M --offset=512M").ok()?;
    daemon.stop()
}

/// 512-byte logical blocks: every block size from 512 bytes on, several jobs beside each other.
pub(super) fn sectors(place: &Place) -> Result<()> {
    let namespace = Namespace::new("data", "1G").option("--logical-block", "512");
    let (_pool, daemon, device) = place.served(&namespace)?;
    fio(&device, "--name=s --rw=randwrite --bs=512 --iodepth=16 --size=4M").ok()?;
    mixed_jobs(&device, "512")?;
    daemon.stop()
}

pub(super) fn gcm_zstd(place: &Place) -> Result<()> {
    let namespace = Namespace::new("data", "1G").option("--cipher", "aes-256-gcm").option("--compression", "zstd");
    let namespace = namespace.option("--unit", "32K");
    let (_pool, daemon, device) = place.served(&namespace)?;
    mixed_jobs(&device, "4k")?;
    daemon.stop()
}

/// Four jobs with areas of their own at once, each with another mix of sizes.
fn mixed_jobs(device: &Path, smallest: &str) -> Result<()> {
    let jobs = format!(
        "--size=24M --iodepth=8 --name=a --rw=randwrite --bs={smallest} --io_size=4M \
         --name=b --offset=32M --rw=randwrite --bsrange={smallest}-64k \
         --name=c --offset=64M --rw=write --bs=1m \
         --name=d --offset=96M --rw=randwrite --bssplit=4k/50:8k/20:16k/20:128k/10"
    );
    fio(device, &jobs).ok().map(|_| ())
}
