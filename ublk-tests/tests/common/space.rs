//! Pools with a bounded map, and what their tests look at.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::rc::Rc;

use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::core::request::RequestKind;
use plica::env::Env;
use plica::media::Media;
use plica::pool::{OpenOptions, Pool};

use super::{Machine, ask, key, pattern};

pub(crate) const WRITE: RequestKind = RequestKind::Write { fua: false };
/// Bytes of a leaf's LBA space.
pub(crate) const LEAF: u64 = 2 << 20;

pub(crate) fn pool_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    (dir, path)
}

/// Opens the pool with room for so many leaves.
pub(crate) async fn open_bounded(env: &Env, media: &Media, machine: &Machine, leaves_max: usize) -> Rc<Pool> {
    open_in_boot(env, media, machine, leaves_max, 1).await
}

pub(crate) async fn open_in_boot(env: &Env, media: &Media, machine: &Machine, leaves_max: usize, boot: u8) -> Rc<Pool> {
    open_with(env, media, machine, ReplayBounds { leaves_max, ..ReplayBounds::default() }, boot).await
}

/// Opens the pool with these bounds.
pub(crate) async fn open_with(env: &Env, media: &Media, machine: &Machine, bounds: ReplayBounds, boot: u8) -> Rc<Pool> {
    let options = OpenOptions { bounds, boot: [boot; 16], ..options() };
    Pool::open(env, media, Box::new(machine.clone()), options).await.unwrap()
}

/// Opens the pool on a machine with so many bytes of memory.
pub(crate) async fn open_in_memory(env: &Env, media: &Media, machine: &Machine, memory: u64) -> Rc<Pool> {
    let options = OpenOptions { memory: Some(memory), ..options() };
    Pool::open(env, media, Box::new(machine.clone()), options).await.unwrap()
}

fn options() -> OpenOptions {
    OpenOptions {
        root_key: key(),
        boot: [1; 16],
        identity: (1, 2),
        codec: CodecPool::new(0).unwrap(),
        bounds: ReplayBounds::default(),
        journal: None,
        accept_journal_loss: false,
        memory: None,
    }
}

/// Returns when usage is known and nothing is left to be accounted for.
pub(crate) async fn settle(env: &Env, pool: &Pool) {
    loop {
        let status = pool.status();
        if status.usage_known && !status.accounting {
            return;
        }
        env.sleep_ns(1_000_000).await;
    }
}

pub(crate) async fn write(pool: &Pool, lba: u64, version: u64) {
    ask(&pool.client("db").unwrap(), WRITE, lba * 4096, 4096, Some(pattern(lba, version))).await.0.unwrap();
}

pub(crate) async fn read(pool: &Pool, lba: u64) -> Vec<u8> {
    let (result, data) = ask(&pool.client("db").unwrap(), RequestKind::Read, lba * 4096, 4096, None).await;
    result.unwrap();
    data
}

/// A block that does not compress.
pub(crate) fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Blocks that segments count as live, those of leaves and images included.
pub(crate) fn live(pool: &Pool) -> u64 {
    pool.core().state.borrow().log.segments.iter().map(|(_, info)| u64::from(info.live)).sum()
}
