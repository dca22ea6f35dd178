//! The kernel's own NBD client: a filesystem on a served namespace where there is no ublk.

use super::Place;
use crate::{
    Result,
    command::sh,
    daemon::{Namespace, Transport},
};

pub(super) fn filesystem(place: &Place) -> Result<()> {
    let pool = place.pool("3G", &[Namespace::new("data", "512M")])?;
    let daemon = pool.serve(Transport::Nbd, &["data"])?;
    let (socket, mount) = (pool.socket(), place.path("mount"));
    let (socket, mount) = (socket.display(), mount.display());
    // Both connections at once, as `can_multi_conn` promises.
    let script = format!(
        "nbd-client -unix {socket} -N data -C 2 -b 4096 /dev/nbd0
        mkfs.ext4 -q /dev/nbd0; mkdir -p {mount}; mount /dev/nbd0 {mount}
        cp -a /usr/include/linux {mount}/tree; sync; echo 3 > /proc/sys/vm/drop_caches
        diff -r /usr/include/linux {mount}/tree; fstrim -v {mount}; umount {mount}; e2fsck -fn /dev/nbd0
        nbd-client -d /dev/nbd0"
    );
    sh(script).limit(300).ok()?;
    daemon.stop()
}
