//! The NBD front end against the clients that people have, on the host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use ublk_tests::{
    binaries,
    command::{Cmd, sh},
    daemon::{Daemon, Namespace, Pool, Transport},
};

struct Served {
    directory: tempfile::TempDir,
    pool: Pool,
    daemon: Daemon,
}

impl Served {
    fn new(namespaces: &[Namespace<'_>], names: &[&str]) -> Self {
        binaries::build_plica().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::at(directory.path().join("pool"), directory.path().join("pool.d"));
        pool.create(Some("2G"), namespaces).unwrap();
        let daemon = pool.serve(Transport::Nbd, names).unwrap();
        Self { directory, pool, daemon }
    }

    fn one() -> Self {
        Self::new(&[Namespace::new("data", "512M")], &["data"])
    }

    fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.pool.socket().display())
    }

    /// Kills the daemon and serves the pool again.
    fn reborn(self) -> Self {
        let Self { directory, pool, daemon } = self;
        daemon.kill().unwrap();
        let daemon = pool.serve(Transport::Nbd, &["data"]).unwrap();
        Self { directory, pool, daemon }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn fio(&self, jobs: &str) -> Cmd {
        let all = "--ioengine=nbd --verify=crc32c --verify_fatal=1 --buffer_compress_percentage=50 --refill_buffers \
                   --randrepeat=0 --verify_state_save=0";
        sh(format!("cd {}; fio '--uri={}' {all} {jobs}", self.directory.path().display(), self.uri("data"))).limit(300)
    }
}

#[test]
fn nbdinfo_sees_exports_and_what_they_can() {
    let served = Served::new(&[Namespace::new("data", "512M"), Namespace::new("other", "64M")], &["data", "other"]);
    let list = format!("nbd+unix://?socket={}", served.pool.socket().display());
    let listed = Cmd::new("nbdinfo").args(["--list", "--json", &list]).ok().unwrap();
    assert!(listed.contains("\"data\"") && listed.contains("\"other\""), "{listed}");
    let text = Cmd::new("nbdinfo").args(["--json", &served.uri("data")]).ok().unwrap();
    let info: serde_json::Value = serde_json::from_str(&text).unwrap();
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 512 << 20);
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(export[can], true, "{can} in {text}");
    }
    assert_eq!(export["is_read_only"], false);
    assert!(!Cmd::new("nbdinfo").arg(served.uri("nosuch")).run().unwrap().status.success());
    served.daemon.stop().unwrap();
}

#[test]
fn nbdcopy_and_qemu_img_bring_back_what_they_took_there() {
    let served = Served::one();
    let (image, back, uri) = (served.file("image"), served.file("back"), served.uri("data"));
    let sparse =
        "head -c 40M /dev/urandom; head -c 60M /dev/zero; tar -C /usr/include -c linux; head -c 1M /dev/urandom";
    sh(format!("({sparse}) > {image}; truncate -s 512M {image}")).ok().unwrap();
    sh(format!("nbdcopy --flush {image} '{uri}'; nbdcopy '{uri}' {back}; cmp {image} {back}")).limit(300).ok().unwrap();
    let map = Cmd::new("nbdinfo").args(["--map", &uri]).ok().unwrap();
    assert!(map.contains("hole") && map.contains("data"), "{map}");
    sh(format!("qemu-img compare -f raw -F raw {image} '{uri}'")).limit(300).ok().unwrap();
    let served = served.reborn();
    sh(format!("qemu-img convert -f raw -O raw '{uri}' {back}; cmp {image} {back}")).limit(300).ok().unwrap();
    served.daemon.stop().unwrap();
}

#[test]
fn fio_verifies_every_shape() {
    let served = Served::one();
    served.fio("--name=r --rw=randwrite --bs=4k --iodepth=16 --size=64M").ok().unwrap();
    served.fio("--name=m --rw=randrw --bsrange=4k-256k --iodepth=8 --size=64M --offset=64M").ok().unwrap();
    served.fio("--name=s --rw=write --bs=1m --iodepth=4 --size=128M --offset=128M --fsync=16").ok().unwrap();
    served
        .fio("--name=t --rw=randwrite --bs=8k --iodepth=4 --numjobs=4 --size=16M --offset_increment=32M")
        .ok()
        .unwrap();
    served.daemon.stop().unwrap();
}

#[test]
fn a_client_that_is_killed_mid_request_harms_nobody() {
    let served = Served::one();
    for _ in 0..5 {
        let victim =
            served.fio("--name=v --rw=randrw --bs=64k --iodepth=32 --size=64M --offset=256M --verify=0").start();
        let victim = victim.unwrap();
        std::thread::sleep(Duration::from_millis(400));
        victim.signal(rustix::process::Signal::KILL);
        drop(victim);
        served.fio("--name=o --rw=randwrite --bs=4k --iodepth=8 --size=4M").ok().unwrap();
    }
    served.daemon.stop().unwrap();
}
