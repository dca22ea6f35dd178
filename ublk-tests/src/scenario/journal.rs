//! Pools with a journal: that it is used, and that no medium holds what was written to the device (I6).

use std::{fs, path::Path};

use super::{Place, serve};
use crate::{
    Result,
    command::sh,
    daemon::{Namespace, Pool},
    failure::ensure,
};

/// What is looked for on every medium.
const MARKER: &str = "plica-was-here-4711-in-plain-sight";
/// Bytes of the file of markers.
const MARKED: usize = 1 << 20;

/// A pool with a journal has acknowledged writes through it since it was opened, and found nothing damaged.
///
/// # Errors
/// It did not.
pub(super) fn expect_used(pool: &Pool) -> Result<()> {
    let status = &pool.status()?["pool"];
    let acknowledged = status["namespaces"][0]["journal"]["acknowledged"].as_u64().unwrap_or(0);
    let intact = status["corrupt"].as_u64() == Some(0);
    ensure(acknowledged > 0 && intact, || format!("the journal was not used, or something is corrupt: {status}"))
}

/// Markers written through the device, some that compress and some that do not, to the journal and past it; the daemon
/// is killed, so that its shared memory stays. They are on no medium, and in the device again afterwards.
pub(super) fn sealed(place: &Place) -> Result<()> {
    let journal = place.path("journal");
    let pool = Pool::at(place.path("pool"), place.path("pool.d")).journal(&format!("{}:64M", journal.display()), false);
    pool.create(Some("1G"), &[Namespace::new("data", "256M")])?;
    let (daemon, device) = serve(&pool)?;
    let written = place.path("markers");
    fs::write(&written, markers()).map_err(crate::Failure::io(written.display()))?;
    ensure(holds_marker(&written)?, || "the search does not find what is there".into())?;
    let (from, to) = (written.display(), device.display());
    // 1. small and each durable: to the journal; 2. at once: to the pool; 3. not flushed: to shared memory
    let small = format!("dd if={from} of={to} bs=8k oflag=direct,dsync");
    let large = format!("dd if={from} of={to} bs=1M seek=16 oflag=direct; sync {to}");
    sh(format!("set -e; {small}; {large}; dd if={from} of={to} bs=1M seek=32 oflag=direct")).limit(120).ok()?;
    expect_used(&pool)?;
    daemon.kill()?;

    let staging = sh("find /run/plica -type f -size +1M").ok()?;
    ensure(!staging.trim().is_empty(), || "there is no staging file".into())?;
    let media = [pool.path().to_owned(), journal].into_iter().chain(staging.lines().map(Into::into));
    for medium in media {
        ensure(!holds_marker(&medium)?, || format!("{} holds what was written to the device", medium.display()))?;
    }

    let (daemon, device) = serve(&pool)?;
    let device = device.display();
    for at in [0, 16, 32] {
        let compare = format!("dd if={device} bs=1M skip={at} count=1 iflag=direct | cmp - {}", written.display());
        sh(compare).limit(60).ok()?;
    }
    daemon.stop()
}

/// Blocks that are nothing but markers, and blocks that are random between two of them.
fn markers() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes: Vec<u8> = MARKER.bytes().cycle().take(MARKED).collect();
    for block in bytes.chunks_mut(4096).skip(1).step_by(2) {
        random.fill(&mut block[MARKER.len()..4096 - MARKER.len()]);
        block[..MARKER.len()].copy_from_slice(MARKER.as_bytes());
    }
    bytes
}

fn holds_marker(file: &Path) -> Result<bool> {
    let found = sh(format!("grep -aqF {MARKER} {}", file.display())).limit(120).run()?;
    ensure(matches!(found.status.code(), Some(0 | 1)), || found.failure("grep").to_string())?;
    Ok(found.status.success())
}
