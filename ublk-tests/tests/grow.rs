//! Pools that grow: served or not, cut short or not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::space::{WRITE, open_in_boot, pool_file, read, settle, write};
use common::{Machine, ask, create, open, pattern, serve, spec};

/// The places that growing writes, in the order in which it makes them durable.
fn grow_steps(new: u64) -> [std::ops::Range<u64>; 3] {
    let end = new - 1_314_816;
    [end..new - 4096, new - 4096..new, 0..4096]
}

/// A pool file that was cut short in its growth: the first steps done, of the one after them so many bytes.
fn cut_short(before: &std::path::Path, after: &std::path::Path, to: &std::path::Path, steps: usize, bytes: u64) {
    use std::os::unix::fs::FileExt;
    std::fs::copy(before, to).unwrap();
    let (after, to) = (std::fs::File::open(after).unwrap(), std::fs::File::options().write(true).open(to).unwrap());
    let new = after.metadata().unwrap().len();
    to.set_len(new).unwrap();
    for (index, range) in grow_steps(new).into_iter().enumerate() {
        let len = if index < steps { range.end - range.start } else { bytes.min(range.end - range.start) };
        let mut part = vec![0; usize::try_from(len).unwrap()];
        after.read_exact_at(&mut part, range.start).unwrap();
        to.write_all_at(&part, range.start).unwrap();
        if index >= steps {
            break;
        }
    }
}

#[test]
fn a_pool_grows_while_it_is_served_and_takes_more() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 32 << 20, &machine, spec(64 << 10));
    let (m, p) = (machine.clone(), path.clone());
    let written = serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        settle(&env, &pool).await;
        let client = pool.client("db").unwrap();
        let mut lba = 0;
        while ask(&client, WRITE, lba * 4096, 4096, Some(pattern(lba, 1))).await.0.is_ok() {
            lba += 1;
        }
        assert!(pool.grow(32 << 20).await.is_err(), "nothing is gained");
        std::fs::File::options().write(true).open(&p).unwrap().set_len(96 << 20).unwrap();
        assert_eq!(pool.grow(96 << 20).await.unwrap(), 64);
        let more = lba * 2;
        while lba < more {
            write(&pool, lba, 1).await;
            lba += 1;
        }
        lba
        // dies here
    });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        assert_eq!((pool.status().pool_bytes, pool.status().segments), (96 << 20, 92));
        for lba in 0..written {
            assert_eq!(read(&pool, lba).await, pattern(lba, 1), "LBA {lba}");
        }
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_growth_cut_short_anywhere_leaves_the_old_size_or_the_new_one() {
    let (dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 32 << 20, &machine, spec(4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        for lba in 0..500 {
            write(&pool, lba, 1).await;
        }
        pool.stop().await.unwrap();
    });
    // grown by a serve that does nothing else but end
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    std::fs::copy(&path, &after).unwrap();
    std::fs::File::options().write(true).open(&after).unwrap().set_len(64 << 20).unwrap();
    let (m, b, a) = (machine.clone(), before.clone(), after.clone());
    serve(&after, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        std::fs::copy(&a, &b).unwrap();
        pool.grow(64 << 20).await.unwrap();
        // dies here
    });
    let cut = dir.path().join("cut");
    let mut grown = 0;
    for (steps, bytes) in [(0, 0), (0, 100_000), (0, 1 << 20), (1, 0), (1, 512), (2, 0), (2, 512), (2, 2048), (3, 0)] {
        cut_short(&before, &after, &cut, steps, bytes);
        let m = machine.clone();
        let size = serve(&cut, |env, media| async move {
            let pool = open_in_boot(&env, &media, &m, usize::MAX, 2).await;
            for lba in 0..500 {
                assert_eq!(
                    read(&pool, lba).await,
                    pattern(lba, 1),
                    "cut after {steps} steps and {bytes} bytes, LBA {lba}"
                );
            }
            let size = pool.status().pool_bytes;
            if size < 64 << 20 {
                pool.grow(64 << 20).await.unwrap();
            }
            write(&pool, 600, 2).await;
            pool.stop().await.unwrap();
            size
        });
        assert!(size == 32 << 20 || size == 64 << 20, "{size} bytes");
        grown += u32::from(size == 64 << 20);
        serve(&cut, |env, media| async move {
            let pool = open(&env, &media, &Machine::default()).await.unwrap();
            assert_eq!(pool.status().pool_bytes, 64 << 20);
            assert_eq!(read(&pool, 600).await, pattern(600, 2));
            pool.stop().await.unwrap();
        });
    }
    assert!(grown >= 2, "the first superblock torn or new: the new size");
}
