//! Cold data takes less space after a while, and reads as it did; space is made ahead while nobody asks for anything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::rc::Rc;

use common::{Machine, ask, create, key, pattern, serve, spec};
use plica::codec::CodecPool;
use plica::core::request::RequestKind;
use plica::core::{Recompression, ReplayBounds};
use plica::env::Env;
use plica::format::Compression;
use plica::media::Media;
use plica::pool::{NamespaceSpec, OpenOptions, Pool};

const WRITE: RequestKind = RequestKind::Write { fua: false };
const MS: u64 = 1_000_000;
const ALL: Recompression = Recompression { percent: 100, cold_ns: 0 };

fn index(lba: u64) -> usize {
    usize::try_from(lba).unwrap()
}

async fn open(env: &Env, media: &Media, machine: &Machine, quiet_ns: u64) -> Rc<Pool> {
    let options = OpenOptions {
        root_key: key(),
        boot: [1; 16],
        identity: (1, 2),
        codec: CodecPool::new(0).unwrap(),
        bounds: ReplayBounds { quiet_ns, ..ReplayBounds::default() },
        journal: None,
        accept_journal_loss: false,
        memory: None,
    };
    Pool::open(env, media, Box::new(machine.clone()), options).await.unwrap()
}

/// Words that repeat, also from block to block: entropy coding and larger units find more in them than LZ4.
fn text(lba: u64, version: u64) -> Vec<u8> {
    let mut block = format!("block {lba} version {version};").into_bytes();
    let mut random = fastrand::Rng::with_seed(lba * 1000 + version);
    while block.len() < 4096 {
        let word = random.u64(0..400) * 2_654_435_761 % 900_000;
        block.extend_from_slice(format!("{word:x} ").as_bytes());
    }
    block.truncate(4096);
    block
}

async fn write(pool: &Pool, lba: u64, blocks: u64, version: u64) {
    let data = (lba..lba + blocks).flat_map(|lba| text(lba, version)).collect();
    ask(&pool.client("db").unwrap(), WRITE, lba * 4096, blocks * 4096, Some(data)).await.0.unwrap();
}

async fn read(pool: &Pool, lba: u64) -> Vec<u8> {
    let (result, data) = ask(&pool.client("db").unwrap(), RequestKind::Read, lba * 4096, 4096, None).await;
    result.unwrap();
    data
}

/// Bytes of records that are live.
fn live_bytes(pool: &Pool) -> u64 {
    let state = pool.core().state.borrow();
    let share =
        |live: u32, total: u32, bytes: u32| u64::from(bytes) * u64::from(live) / u64::from(total.max(live).max(1));
    state.log.segments.iter().map(|(_, info)| share(info.live, info.total, info.bytes)).sum()
}

/// Returns when recompression has seen all there is.
async fn recompressed(env: &Env, pool: &Pool) {
    while pool.status().recompressed.left > 0 {
        env.sleep_ns(50 * MS).await;
    }
}

const BLOCKS: u64 = 4096;

/// A pool of blocks written in pieces of four, then overwritten here and there so that pieces are partly dead.
async fn fill(pool: &Pool) -> Vec<u64> {
    let mut versions = vec![1; index(BLOCKS)];
    for lba in (0..BLOCKS).step_by(4) {
        write(pool, lba, 4, 1).await;
    }
    for lba in (0..BLOCKS).step_by(7) {
        write(pool, lba, 1, 2).await;
        versions[index(lba)] = 2;
    }
    // what is open is not cold
    for round in 0..2 {
        for lba in BLOCKS..BLOCKS + 512 {
            write(pool, lba, 1, round).await;
        }
    }
    ask(&pool.client("db").unwrap(), RequestKind::Flush, 0, 0, None).await.0.unwrap();
    versions
}

async fn check(pool: &Pool, versions: &[u64]) {
    for (lba, version) in (0..).zip(versions) {
        assert!(read(pool, lba).await == text(lba, *version), "LBA {lba}");
    }
}

#[test]
fn cold_data_takes_less_space_and_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let machine = Machine::default();
    create(&path, 96 << 20, &machine, spec(BLOCKS + 512));
    let m = machine.clone();
    let versions = serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m, 20 * MS).await;
        let mut versions = fill(&pool).await;
        check(&pool, &versions).await;
        let before = live_bytes(&pool);
        pool.core().set_recompression(ALL, CodecPool::new(1).unwrap());
        recompressed(&env, &pool).await;
        let (after, did) = (live_bytes(&pool), pool.status().recompressed);
        assert!(did.data > BLOCKS * 4096 * 9 / 10, "{did:?}");
        assert!(did.after * 4 <= did.before * 3 && did.cpu_ns > 0, "{did:?}");
        assert!(after * 4 <= before * 3, "{before} bytes became {after}");
        check(&pool, &versions).await;
        // it seems to be done; what is overwritten now is no part of it
        for lba in (0..BLOCKS).step_by(5) {
            write(&pool, lba, 1, 3).await;
            versions[index(lba)] = 3;
        }
        check(&pool, &versions).await;
        ask(&pool.client("db").unwrap(), RequestKind::Flush, 0, 0, None).await.0.unwrap();
        versions
        // dies here
    });
    let m = machine.clone();
    let v = versions.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m, u64::MAX / 4).await;
        check(&pool, &v).await;
        pool.stop().await.unwrap();
    });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine, 20 * MS).await;
        pool.core().set_recompression(ALL, CodecPool::new(1).unwrap());
        recompressed(&env, &pool).await;
        check(&pool, &versions).await;
        plica::sim::usage::check_usage(pool.core()).unwrap();
        pool.stop().await.unwrap();
    });
}

#[test]
fn who_wants_no_compression_is_not_given_any() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let machine = Machine::default();
    create(&path, 96 << 20, &machine, NamespaceSpec { compression: Compression::None, ..spec(BLOCKS + 512) });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine, 20 * MS).await;
        pool.core().set_recompression(ALL, CodecPool::new(1).unwrap());
        fill(&pool).await;
        recompressed(&env, &pool).await;
        let did = pool.status().recompressed;
        assert!(did.segments > 0 && did.data == 0, "{did:?}");
        pool.stop().await.unwrap();
    });
}

/// Fills a pool of which then so many of eight blocks die; returns the segments free before and after a quiet while.
fn quiet_while(dead_of_8: u64) -> (u64, u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let machine = Machine::default();
    let blocks = 32 << 10;
    create(&path, 64 << 20, &machine, spec(blocks));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine, 20 * MS).await;
        let client = pool.client("db").unwrap();
        let available = |pool: &Pool| pool.core().state.borrow().log.segments.available() as u64;
        let mut written = 0;
        while available(&pool) > 12 {
            let data = pattern(written, 1);
            ask(&client, WRITE, written * 4096, 4096, Some(data)).await.0.unwrap();
            written += 1;
        }
        for lba in (0..written).filter(|lba| lba % 8 < dead_of_8) {
            ask(&client, RequestKind::Discard, lba * 4096, 4096, None).await.0.unwrap();
        }
        let before = available(&pool);
        for _ in 0..100 {
            env.sleep_ns(50 * MS).await;
            if dead_of_8 > 4 && available(&pool) >= 15 {
                break;
            }
        }
        let after = available(&pool);
        for lba in (0..written).filter(|lba| lba % 8 >= dead_of_8) {
            assert!(read(&pool, lba).await == pattern(lba, 1), "LBA {lba}");
        }
        let ahead = pool.status().segments_cleaned_ahead;
        pool.stop().await.unwrap();
        (before, after, ahead)
    })
}

#[test]
fn space_is_made_ahead_while_nobody_asks() {
    let (before, after, ahead) = quiet_while(7);
    assert!(before <= 12 && after >= 15 && ahead > 3, "{before} segments became {after}, {ahead} ahead");
}

#[test]
fn what_is_mostly_live_is_not_moved_ahead() {
    let (before, after, ahead) = quiet_while(3);
    assert!(after <= before && ahead == 0, "{before} segments became {after}, {ahead} ahead");
}

/// A block that says what it is, with one of a few bodies: made faster than [`text`].
fn quick_text(bodies: &[Vec<u8>], lba: u64, version: u64) -> Vec<u8> {
    let mut block = bodies[index((lba + version) % bodies.len() as u64)].clone();
    let name = format!("block {lba} version {version};");
    block[..name.len()].copy_from_slice(name.as_bytes());
    block
}

#[test]
fn what_survives_cleaning_twice_is_recompressed_by_the_cleaner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let machine = Machine::default();
    let blocks = 136 << 10;
    create(&path, 640 << 20, &machine, spec(blocks));
    let bodies: Vec<_> = (0..64).map(|n| text(n, 1)).collect();
    serve(&path, |env, media| async move {
        // it is never quiet: there is no background pass, and nothing is cold because of its age
        let pool = open(&env, &media, &machine, u64::MAX / 4).await;
        let never_cold = Recompression { percent: 100, cold_ns: u64::MAX };
        pool.core().set_recompression(never_cold, CodecPool::new(1).unwrap());
        let client = pool.client("db").unwrap();
        let mut versions = vec![1; index(blocks)];
        for lba in (0..blocks).step_by(8) {
            let data = (lba..lba + 8).flat_map(|lba| quick_text(&bodies, lba, 1)).collect();
            ask(&client, WRITE, lba * 4096, 8 * 4096, Some(data)).await.0.unwrap();
        }
        assert_eq!(pool.status().segments_cleaned, 0, "it fits");
        let mut random = fastrand::Rng::with_seed(1);
        let mut written = 0;
        while pool.status().recompressed.data < 512 << 10 {
            let lba = random.u64(0..blocks);
            versions[index(lba)] += 1;
            let data = quick_text(&bodies, lba, versions[index(lba)]);
            ask(&client, WRITE, lba * 4096, 4096, Some(data)).await.0.unwrap();
            written += 1;
            assert!(written < 8 * blocks, "{:?}", pool.status().recompressed);
        }
        let status = pool.status();
        let did = status.recompressed;
        assert!(did.segments == 0 && status.segments_cleaned > 0, "by the cleaner alone: {did:?}");
        assert!(did.after < did.before && did.cpu_ns > 0, "{did:?}");
        for (lba, version) in (0..).zip(&versions) {
            assert!(read(&pool, lba).await == quick_text(&bodies, lba, *version), "LBA {lba}");
        }
        plica::sim::usage::check_usage(pool.core()).unwrap();
        pool.stop().await.unwrap();
    });
}
