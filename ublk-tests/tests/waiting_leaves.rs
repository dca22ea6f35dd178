//! Leaves that wait for what recovery found: counted, let go of, destroyed, resized.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::space::{LEAF, live, open_bounded, pool_file, read, settle, write};
use common::{Machine, ask, create, open, pattern, serve, spec};
use plica::core::ReplayBounds;
use plica::core::request::RequestKind;
use plica::error::ErrorKind;
use plica::pool::Pool;

/// Leaves of the namespace of [`killed`], and of these, those that have an image.
const KILLED: (u64, u64) = (320, 200);

/// A pool whose serve was killed: every leaf has a newer block than its image, if it has one.
fn killed(path: &std::path::Path, machine: &Machine) {
    let (leaves, with_image) = KILLED;
    create(path, 64 << 20, machine, spec(leaves * LEAF / 4096));
    let m = machine.clone();
    serve(path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        for leaf in 0..with_image {
            write(&pool, leaf * 512 + 1, 1).await;
            write(&pool, leaf * 512 + 2, 1).await;
        }
        pool.core().checkpoint_all().await.unwrap();
        for leaf in 0..leaves {
            write(&pool, leaf * 512 + 2, 2).await;
        }
        ask(&pool.client("db").unwrap(), RequestKind::Flush, 0, 0, None).await.0.unwrap();
        // dies here
    });
}

async fn check_killed(pool: &Pool, leaves: impl Iterator<Item = u64>) {
    for leaf in leaves {
        let expected = if leaf < KILLED.1 { pattern(leaf * 512 + 1, 1) } else { vec![0; 4096] };
        assert_eq!(read(pool, leaf * 512 + 1).await, expected, "leaf {leaf}");
        assert_eq!(read(pool, leaf * 512 + 2).await, pattern(leaf * 512 + 2, 2), "leaf {leaf}");
    }
}

#[test]
fn leaves_that_wait_for_what_was_replayed_are_counted_within_the_maps_memory() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    killed(&path, &machine);
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &m, 8).await;
        assert_eq!(pool.core().state.borrow().waiting as u64, KILLED.0, "no leaf was read to be replayed");
        while !pool.status().usage_known {
            // a portion of those that are read together comes in before it is written back
            assert!(pool.status().map_resident <= (128 + 16) * 4096, "{} bytes in memory", pool.status().map_resident);
            env.sleep_ns(100_000).await;
        }
        assert_eq!(pool.core().state.borrow().waiting, 0);
        assert!(pool.core().state.borrow().dirty_in_memory() <= 4, "half of the memory");
        check_killed(&pool, 0..KILLED.0).await;
        assert!(pool.status().map_resident <= 16 * 4096, "{} bytes in memory", pool.status().map_resident);
        pool.stop().await.unwrap();
    });
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &machine, 8).await;
        check_killed(&pool, 0..KILLED.0).await;
        pool.stop().await.unwrap();
    });
}

#[test]
fn leaves_that_wait_for_what_was_replayed_are_let_go_of_for_good() {
    for leaves_max in [4, usize::MAX] {
        let (_dir, path) = pool_file();
        let machine = Machine::default();
        killed(&path, &machine);
        let m = machine.clone();
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &m, leaves_max).await;
            let client = pool.client("db").unwrap();
            // twice: what is a hole by then is let go of once
            for _ in 0..2 {
                ask(&client, RequestKind::Discard, 2 * LEAF, 316 * LEAF, None).await.0.unwrap();
            }
            settle(&env, &pool).await;
            pool.core().checkpoint_all().await.unwrap();
            pool.core().checkpoint_all().await.unwrap();
            // two blocks and one of the leaves at the start, one of those at the end, four leaves, images
            assert!(live(&pool) <= 6 + 4 + 4, "{} live", live(&pool));
            write(&pool, 5 * 512, 3).await;
            // dies here
        });
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &machine, leaves_max).await;
            check_killed(&pool, [0, 1, 318, 319].into_iter()).await;
            assert_eq!(read(&pool, 5 * 512).await, pattern(5 * 512, 3));
            for leaf in 2..318 {
                assert_eq!(read(&pool, leaf * 512 + 1).await, [0; 4096], "leaf {leaf}");
                assert_eq!(read(&pool, leaf * 512 + 2).await, [0; 4096], "leaf {leaf}");
            }
            pool.stop().await.unwrap();
        });
    }
}

#[test]
fn a_namespace_whose_leaves_wait_is_destroyed() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    killed(&path, &machine);
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &machine, 4).await;
        pool.destroy_namespace("db").await.unwrap();
        assert_eq!(pool.core().state.borrow().waiting, 0);
        settle(&env, &pool).await;
        pool.core().checkpoint_all().await.unwrap();
        pool.core().checkpoint_all().await.unwrap();
        assert!(live(&pool) <= 4, "{} live", live(&pool));
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_namespace_whose_leaves_wait_gets_another_size() {
    for leaves_max in [4, usize::MAX] {
        let (_dir, path) = pool_file();
        let machine = Machine::default();
        killed(&path, &machine);
        let m = machine.clone();
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &m, leaves_max).await;
            pool.resize_namespace("db", 400 * 512, false).await.unwrap();
            write(&pool, 399 * 512, 3).await;
            let refused = pool.resize_namespace("db", 100 * 512, false).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            // dies here
        });
        let m = machine.clone();
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &m, leaves_max).await;
            assert_eq!(read(&pool, 399 * 512).await, pattern(399 * 512, 3));
            pool.resize_namespace("db", 100 * 512 + 2, true).await.unwrap();
            // dies here
        });
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &machine, leaves_max).await;
            pool.resize_namespace("db", 400 * 512, false).await.unwrap();
            check_killed(&pool, 0..100).await;
            assert_eq!(read(&pool, 100 * 512 + 1).await, pattern(100 * 512 + 1, 1));
            for lba in [100 * 512 + 2, 101 * 512 + 1, 319 * 512 + 2, 399 * 512] {
                assert_eq!(read(&pool, lba).await, [0; 4096], "LBA {lba}");
            }
            pool.stop().await.unwrap();
        });
    }
}

/// With less memory for the map than the last serve had, what is to be replayed exceeds its bound at first, by more than a few
/// checkpoints write back: writes were refused for space.
#[test]
fn a_window_far_beyond_its_bound_is_written_back_without_refusing_anybody() {
    const LEAVES: u64 = 4000;
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 128 << 20, &machine, spec(LEAVES * LEAF / 4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        for leaf in 0..2 * LEAVES {
            write(&pool, leaf % LEAVES * 512, leaf / LEAVES).await;
        }
        // dies here
    });
    serve(&path, |env, media| async move {
        let bounds = ReplayBounds { changes_min: 16, leaves_max: 8, ..ReplayBounds::default() };
        let pool = common::space::open_with(&env, &media, &machine, bounds, 1).await;
        for leaf in 0..16 {
            write(&pool, leaf * 512 + 1, 7).await;
        }
        for leaf in 0..LEAVES {
            assert_eq!(read(&pool, leaf * 512).await, pattern(leaf * 512, 1), "leaf {leaf}");
        }
        pool.stop().await.unwrap();
    });
}
