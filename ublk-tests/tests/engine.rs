//! The engine on a real file: what is written is read, after a clean stop, after a kill, when the pool is full.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{Machine, ask, create, open, pattern, serve, spec};
use plica::core::request::RequestKind;

const WRITE: RequestKind = RequestKind::Write { fua: false };

fn pool_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    (dir, path)
}

#[test]
fn what_was_written_is_read_after_a_clean_stop() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        let client = pool.client("db").unwrap();
        for lba in 0..1000 {
            let (result, _) = ask(&client, WRITE, lba * 4096, 4096, Some(pattern(lba, 1))).await;
            result.unwrap();
        }
        let big: Vec<u8> = (2000..2256).flat_map(|lba| pattern(lba, 1)).collect();
        ask(&client, WRITE, 2000 * 4096, 256 * 4096, Some(big)).await.0.unwrap();
        let (result, data) = ask(&client, RequestKind::Read, 1999 * 4096, 258 * 4096, None).await;
        result.unwrap();
        assert_eq!(data[..4096], [0; 4096]);
        assert_eq!(data[4096 * 7..4096 * 8], pattern(2006, 1));
        pool.stop().await.unwrap();
    });
    assert_eq!(machine.files(), 0, "a clean stop leaves no staging file");
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        for lba in (0..1000).chain(2000..2256) {
            let (result, data) = ask(&client, RequestKind::Read, lba * 4096, 4096, None).await;
            result.unwrap();
            assert_eq!(data, pattern(lba, 1), "LBA {lba}");
        }
        let (_, data) = ask(&client, RequestKind::Read, 1500 * 4096, 4096, None).await;
        assert_eq!(data, [0; 4096]);
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_acknowledged() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(2048));
    let mut model = BTreeMap::new();
    for round in 0..12_u64 {
        let m = machine.clone();
        let expected = model.clone();
        let written = serve(&path, move |env, media| async move {
            let pool = open(&env, &media, &m).await.unwrap();
            let client = pool.client("db").unwrap();
            for (lba, version) in &expected {
                let (result, data) = ask(&client, RequestKind::Read, lba * 4096, 4096, None).await;
                result.unwrap();
                assert_eq!(data, pattern(*lba, *version), "round {round}, LBA {lba}");
            }
            let mut written = Vec::new();
            for i in 0..500 {
                let lba = (i * 7919 + round * 104_729) % 2048;
                let version = round * 1000 + i;
                ask(&client, WRITE, lba * 4096, 4096, Some(pattern(lba, version))).await.0.unwrap();
                written.push((lba, version));
            }
            written
        });
        model.extend(written);
    }
}

#[test]
fn overwriting_forever_reuses_dead_segments() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 32 << 20, &machine, spec(1024));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        // 40 rounds of 4 MiB, stored as about 2: many times what the pool holds
        for version in 0..40 {
            for lba in (0..1024).step_by(16) {
                let data: Vec<u8> = (lba..lba + 16).flat_map(|lba| pattern(lba, version)).collect();
                ask(&client, WRITE, lba * 4096, 16 * 4096, Some(data)).await.0.unwrap();
            }
        }
        for lba in 0..1024 {
            let (result, data) = ask(&client, RequestKind::Read, lba * 4096, 4096, None).await;
            result.unwrap();
            assert_eq!(data, pattern(lba, 39));
        }
        let status = pool.status();
        assert!(status.media_written > 2 * status.pool_bytes, "the log went round: {status:?}");
        assert_eq!((status.no_space, status.corrupt), (0, 0));
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_full_pool_says_so_and_takes_writes_again_after_a_discard() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 24 << 20, &machine, spec(16 << 10));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        let mut full = None;
        for lba in (0..16 << 10).step_by(16) {
            let data: Vec<u8> = (lba..lba + 16).flat_map(|lba| pattern(lba, 1)).collect();
            if let Err(error) = ask(&client, WRITE, lba * 4096, 16 * 4096, Some(data)).await.0 {
                assert_eq!(error.kind(), plica::error::ErrorKind::NoSpace, "{error}");
                full = Some(lba);
                break;
            }
        }
        let full = full.expect("64 MiB at 2:1 do not fit into 24");
        let (result, data) = ask(&client, RequestKind::Read, 0, 4096, None).await;
        result.unwrap();
        assert_eq!(data, pattern(0, 1), "reads go on");
        ask(&client, RequestKind::Flush, 0, 0, None).await.0.unwrap();
        ask(&client, RequestKind::Discard, 0, full / 2 * 4096, None).await.0.unwrap();
        for lba in (0..full / 4).step_by(16) {
            let data: Vec<u8> = (lba..lba + 16).flat_map(|lba| pattern(lba, 2)).collect();
            ask(&client, WRITE, lba * 4096, 16 * 4096, Some(data)).await.0.unwrap();
        }
        let (_, data) = ask(&client, RequestKind::Read, (full - 16) * 4096, 4096, None).await;
        assert_eq!(data, pattern(full - 16, 1));
        pool.stop().await.unwrap();
    });
}

/// Overwrites of one to four blocks at random, for three capacities, in a pool of which seven tenths are live.
#[test]
fn random_overwrites_of_a_well_filled_pool_go_on_for_ever() {
    // 60 segments of 1 MiB; a block takes about 2.1 KiB
    const BLOCKS: u64 = 60 * 1024 * 7 / 10 * 10 / 21;
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(BLOCKS));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        let write = async |lba: u64, count: u64, version: u64| {
            let data: Vec<u8> = (lba..lba + count).flat_map(|lba| pattern(lba, version)).collect();
            ask(&client, WRITE, lba * 4096, count * 4096, Some(data)).await.0.unwrap();
        };
        for lba in (0..BLOCKS / 4).map(|n| n * 4) {
            write(lba, 4, 0).await;
        }
        let before = pool.status();
        let mut versions = vec![0; usize::try_from(BLOCKS).unwrap()];
        let mut random = fastrand::Rng::with_seed(1);
        let mut written = 0;
        while written < 3 * 60 * 1024 / 2 {
            let count = random.u64(1..=4);
            let lba = random.u64(0..BLOCKS - count);
            write(lba, count, written + 1).await;
            (lba..lba + count).for_each(|lba| versions[usize::try_from(lba).unwrap()] = written + 1);
            written += count;
        }
        let status = pool.status();
        let host = status.host_written - before.host_written;
        let medium = status.media_written - before.media_written;
        assert_eq!((status.no_space, status.corrupt), (0, 0));
        // victims are read while the one before is relocated, also where a round is a single one
        let (ahead, _) = pool.core().victims_ahead();
        assert!(ahead > 30 && ahead <= status.segments_cleaned, "{ahead} of {}", status.segments_cleaned);
        assert!(status.segments_cleaned > 60 && status.fragments_unpacked > 100, "{status:?}");
        // half for the data itself, as much again for moves, and roots that are large beside so small a pool
        assert!(medium * 10 < host * 20, "{medium} bytes to the medium for {host} of the host: {status:?}");
        for (lba, version) in (0..).zip(versions).take(usize::try_from(BLOCKS / 4 * 4).unwrap()) {
            let (result, data) = ask(&client, RequestKind::Read, lba * 4096, 4096, None).await;
            result.unwrap();
            assert!(data == pattern(lba, version), "LBA {lba}, version {version}");
        }
        // what was read ahead is let go of when nothing more is to be cleaned
        for _ in 0..1000 {
            if pool.core().victims_ahead().1 == 0 {
                break;
            }
            env.sleep_ns(10_000_000).await;
        }
        assert_eq!(pool.core().victims_ahead().1, 0, "segments are still pinned");
        pool.stop().await.unwrap();
    });
}

#[test]
fn sub_block_writes_merge() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    let mut small = spec(256);
    small.logical_block = 512;
    create(&path, 64 << 20, &machine, small);
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        ask(&client, WRITE, 4096, 4096, Some(pattern(1, 1))).await.0.unwrap();
        ask(&client, WRITE, 4096 + 1024, 512, Some(vec![9; 512])).await.0.unwrap();
        ask(&client, WRITE, 4096 * 2 - 512, 1024, Some(vec![8; 1024])).await.0.unwrap();
        ask(&client, RequestKind::WriteZeroes { fua: true }, 4096, 512, None).await.0.unwrap();
        let (result, data) = ask(&client, RequestKind::Read, 4096, 8192, None).await;
        result.unwrap();
        let mut expected = pattern(1, 1);
        expected[..512].fill(0);
        expected[1024..1536].fill(9);
        expected[3584..].fill(8);
        expected.extend([8; 512]);
        expected.resize(8192, 0);
        assert_eq!(data, expected);
        let (result, data) = ask(&client, RequestKind::Read, 4096 + 512, 1024, None).await;
        result.unwrap();
        assert_eq!(data, expected[512..1536]);
        pool.stop().await.unwrap();
    });
}
