//! Space for years: large discards, maps beyond memory, namespaces of another size.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::rc::Rc;

use common::{Machine, ask, create, key, open, pattern, serve, spec};
use plica::codec::CodecPool;
use plica::core::request::RequestKind;
use plica::core::{Fullness, ReplayBounds, Watermarks};
use plica::env::Env;
use plica::error::ErrorKind;
use plica::media::Media;
use plica::pool::{OpenOptions, Pool, WrittenStatus};

const WRITE: RequestKind = RequestKind::Write { fua: false };
/// Bytes of a leaf's LBA space.
const LEAF: u64 = 2 << 20;

fn pool_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    (dir, path)
}

/// Opens the pool with room for so many leaves.
async fn open_bounded(env: &Env, media: &Media, machine: &Machine, leaves_max: usize) -> Rc<Pool> {
    open_in_boot(env, media, machine, leaves_max, 1).await
}

async fn open_in_boot(env: &Env, media: &Media, machine: &Machine, leaves_max: usize, boot: u8) -> Rc<Pool> {
    let options = OpenOptions {
        root_key: key(),
        boot: [boot; 16],
        identity: (1, 2),
        codec: CodecPool::new(0).unwrap(),
        bounds: ReplayBounds { leaves_max, ..ReplayBounds::default() },
        journal: None,
        accept_journal_loss: false,
    };
    Pool::open(env, media, Box::new(machine.clone()), options).await.unwrap()
}

/// Returns when usage is known and nothing is left to be accounted for.
async fn settle(env: &Env, pool: &Pool) {
    loop {
        let status = pool.status();
        if status.usage_known && !status.accounting {
            return;
        }
        env.sleep_ns(1_000_000).await;
    }
}

async fn write(pool: &Pool, lba: u64, version: u64) {
    ask(&pool.client("db").unwrap(), WRITE, lba * 4096, 4096, Some(pattern(lba, version))).await.0.unwrap();
}

async fn read(pool: &Pool, lba: u64) -> Vec<u8> {
    let (result, data) = ask(&pool.client("db").unwrap(), RequestKind::Read, lba * 4096, 4096, None).await;
    result.unwrap();
    data
}

/// A block that does not compress.
fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Blocks that segments count as live, those of leaves and images included.
fn live(pool: &Pool) -> u64 {
    pool.core().state.borrow().log.segments.iter().map(|(_, info)| u64::from(info.live)).sum()
}

#[test]
fn a_map_beyond_memory_reads_what_was_written() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(200 * LEAF / 4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &m, 8).await;
        for round in 0..2 {
            for leaf in 0..200 {
                write(&pool, leaf * 512 + leaf % 7, round).await;
            }
        }
        for leaf in (0..200).rev() {
            assert_eq!(read(&pool, leaf * 512 + leaf % 7).await, pattern(leaf * 512 + leaf % 7, 1), "leaf {leaf}");
        }
        let status = pool.status();
        assert_eq!(status.map_total, 200 * 4096);
        assert!(status.map_resident <= 16 * 4096, "{} bytes of map in memory", status.map_resident);
        assert!(status.map_misses >= 190, "{} misses", status.map_misses);
        // dies here
    });
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &machine, 8).await;
        settle(&env, &pool).await;
        assert!(pool.status().map_resident <= 16 * 4096, "counting keeps no leaf that has no room");
        for leaf in 0..200 {
            assert_eq!(read(&pool, leaf * 512 + leaf % 7).await, pattern(leaf * 512 + leaf % 7, 1), "leaf {leaf}");
        }
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_large_discard_lets_go_of_everything_wherever_its_leaves_are() {
    for leaves_max in [4, usize::MAX] {
        let (_dir, path) = pool_file();
        let machine = Machine::default();
        create(&path, 64 << 20, &machine, spec(300 * LEAF / 4096));
        let m = machine.clone();
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &m, leaves_max).await;
            settle(&env, &pool).await;
            let before = live(&pool);
            for leaf in 0..300 {
                write(&pool, leaf * 512 + 3, 1).await;
            }
            pool.core().checkpoint_all(false).await.unwrap();
            assert!(live(&pool) >= before + 600, "300 blocks and their leaves");
            let misses = pool.status().map_misses;
            let client = pool.client("db").unwrap();
            // all but the first block of the first leaf and the last of the last
            let (result, _) = ask(&client, RequestKind::Discard, 4096, 300 * LEAF - 8192, None).await;
            result.unwrap();
            assert!(pool.status().map_misses <= misses + 2, "leaves that are covered are not read");
            settle(&env, &pool).await;
            pool.core().checkpoint_all(false).await.unwrap();
            pool.core().checkpoint_all(false).await.unwrap();
            assert!(live(&pool) <= before + 4, "{} live", live(&pool));
            write(&pool, 700, 2).await;
            // dies here
        });
        serve(&path, |env, media| async move {
            let pool = open_bounded(&env, &media, &machine, leaves_max).await;
            settle(&env, &pool).await;
            assert_eq!(read(&pool, 700).await, pattern(700, 2));
            for leaf in 0..300 {
                assert_eq!(read(&pool, leaf * 512 + 3).await, [0; 4096], "leaf {leaf}");
            }
            pool.stop().await.unwrap();
        });
    }
}

/// Found by the simulator (mixed, seed 56): what a discard that is not durable had cleared was skipped.
#[test]
fn zeros_with_fua_over_a_fresh_hole_are_durable_when_they_are_acknowledged() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(4 * LEAF / 4096));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        write(&pool, 8, 1).await;
        let client = pool.client("db").unwrap();
        ask(&client, RequestKind::Discard, 0, 2 * LEAF, None).await.0.unwrap();
        ask(&client, RequestKind::WriteZeroes { fua: true }, 8 * 4096, 4096, None).await.0.unwrap();
        {
            let state = pool.core().state.borrow();
            let cleared = state.namespaces.values().next().unwrap().cleared;
            assert!(cleared.0 > 0 && state.log.settled() >= cleared, "{:?}", state.log.settled());
        }
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_large_discard_is_replayed_without_its_leaves() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(300 * LEAF / 4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        for leaf in 0..300 {
            write(&pool, leaf * 512, 1).await;
        }
        pool.core().checkpoint_all(false).await.unwrap();
        let client = pool.client("db").unwrap();
        ask(&client, RequestKind::Discard, 0, 299 * LEAF, None).await.0.unwrap();
        ask(&client, RequestKind::Flush, 0, 0, None).await.0.unwrap();
    });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        assert_eq!(pool.core().state.borrow().leaves().1, 0, "no leaf was read to be replayed");
        settle(&env, &pool).await;
        assert_eq!(pool.status().map_total, 4096);
        assert_eq!(read(&pool, 298 * 512).await, [0; 4096]);
        assert_eq!(read(&pool, 299 * 512).await, pattern(299 * 512, 1));
        pool.stop().await.unwrap();
    });
}

#[test]
fn what_a_namespace_held_comes_free_when_it_is_destroyed() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(200 * LEAF / 4096));
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &machine, 4).await;
        settle(&env, &pool).await;
        for leaf in 0..200 {
            write(&pool, leaf * 512, 1).await;
        }
        pool.destroy_namespace("db").await.unwrap();
        settle(&env, &pool).await;
        pool.core().checkpoint_all(false).await.unwrap();
        pool.core().checkpoint_all(false).await.unwrap();
        assert!(live(&pool) <= 4, "{} live", live(&pool));
        assert_eq!(pool.status().map_resident, 0);
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_namespace_grows_and_shrinks_and_what_was_beyond_its_end_stays_gone() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(1000));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        write(&pool, 999, 1).await;
        write(&pool, 10, 1).await;
        let client = pool.client("db").unwrap();
        assert_eq!(
            ask(&client, WRITE, 1000 * 4096, 4096, Some(pattern(0, 0))).await.0.unwrap_err().kind(),
            ErrorKind::OutOfRange
        );
        assert_eq!(pool.resize_namespace("db", 5000, false).await.unwrap().blocks, 5000);
        assert_eq!(client.size_bytes(), 5000 * 4096);
        write(&pool, 4999, 2).await;
        let refused = pool.resize_namespace("db", 900, false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(refused.to_string().contains("byte 4091904"), "{refused}");
        assert_eq!(client.size_bytes(), 5000 * 4096, "a refused resize changes nothing");
        assert_eq!(read(&pool, 4999).await, pattern(4999, 2));
        pool.resize_namespace("db", 900, true).await.unwrap();
        assert_eq!(
            ask(&client, RequestKind::Read, 900 * 4096, 4096, None).await.0.unwrap_err().kind(),
            ErrorKind::OutOfRange
        );
        // dies here
    });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        assert_eq!(pool.namespaces()[0].blocks, 900);
        pool.resize_namespace("db", 6000, false).await.unwrap();
        for lba in [900, 999, 4999, 5999] {
            assert_eq!(read(&pool, lba).await, [0; 4096], "LBA {lba}");
        }
        assert_eq!(read(&pool, 10).await, pattern(10, 1));
        write(&pool, 5999, 3).await;
        pool.resize_namespace("db", 6001, false).await.unwrap();
        assert_eq!(read(&pool, 5999).await, pattern(5999, 3));
        pool.stop().await.unwrap();
    });
}

#[test]
fn a_pool_that_fills_says_so_and_says_when_there_is_room_again() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(16 << 10));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        pool.core().set_watermarks(Watermarks { low: 25, critical: 50 });
        settle(&env, &pool).await;
        assert_eq!(pool.status().fullness, Fullness::Good);
        let mut lba = 0;
        let mut seen = Vec::new();
        while pool.status().fullness != Fullness::Critical {
            write(&pool, lba, 1).await;
            lba += 1;
            let now = pool.status().fullness;
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            assert!(lba < 16 << 10, "{:?} % in use", pool.status().percent_used);
        }
        assert_eq!(seen, [Fullness::Good, Fullness::Low, Fullness::Critical]);
        let client = pool.client("db").unwrap();
        ask(&client, RequestKind::Discard, 0, lba * 4096, None).await.0.unwrap();
        settle(&env, &pool).await;
        assert_eq!(pool.status().fullness, Fullness::Good, "{:?} % in use", pool.status().percent_used);
        pool.stop().await.unwrap();
    });
}

#[test]
fn zeros_that_are_to_be_durable_wait_for_the_discard_that_made_them() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(4 * LEAF / 4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open_in_boot(&env, &media, &m, usize::MAX, 1).await;
        let client = pool.client("db").unwrap();
        for lba in [8, 600] {
            write(&pool, lba, 1).await;
        }
        ask(&client, RequestKind::Flush, 0, 0, None).await.0.unwrap();
        // nobody has asked for this to be durable, but for what it made of some of its blocks
        ask(&client, RequestKind::Discard, 0, 2 * LEAF, None).await.0.unwrap();
        ask(&client, RequestKind::WriteZeroes { fua: true }, 0, 16 * 4096, None).await.0.unwrap();
        // loses power here
    });
    serve(&path, |env, media| async move {
        let pool = open_in_boot(&env, &media, &machine, usize::MAX, 2).await;
        assert_eq!(read(&pool, 8).await, [0; 4096]);
        pool.stop().await.unwrap();
    });
}

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
        pool.core().checkpoint_all(false).await.unwrap();
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
            pool.core().checkpoint_all(false).await.unwrap();
            pool.core().checkpoint_all(false).await.unwrap();
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
        pool.core().checkpoint_all(false).await.unwrap();
        pool.core().checkpoint_all(false).await.unwrap();
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

#[test]
fn every_byte_on_the_medium_is_accounted_for() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 32 << 20, &machine, spec(4 << 10));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        settle(&env, &pool).await;
        pool.core().checkpoint_all(false).await.unwrap();
        let (before, stored) = (pool.status().written, pool.status().stored);
        // 1. three times the pool, so that the cleaner moves; with a discard and holes now and then
        let client = pool.client("db").unwrap();
        let mut lbas = fastrand::Rng::with_seed(1);
        for n in 0..24_000_u64 {
            let lba = lbas.u64(..4 << 10);
            ask(&client, WRITE, lba * 4096, 4096, Some(noise(n))).await.0.unwrap();
            if n % 1000 == 0 {
                ask(&client, RequestKind::Discard, n % 4096 * 4096, 16 * 4096, None).await.0.unwrap();
                ask(&client, RequestKind::Flush, 0, 0, None).await.0.unwrap();
            }
        }
        // 2. all of it has left memory
        pool.core().checkpoint_all(false).await.unwrap();
        let status = pool.status();
        let WrittenStatus { total, payload, headers, batches, summaries, moved, map, roots, prepared, other } =
            status.written;
        assert_eq!(total, payload + headers + batches + summaries + moved + map + roots + prepared + other);
        assert_eq!(other, before.other, "nothing is written that has no name");
        let stored = status.stored - stored;
        let written = payload - before.payload;
        assert!(
            written <= stored && stored - written <= status.absorbed,
            "{written} of {stored}, {} absorbed",
            status.absorbed
        );
        for (name, bytes) in
            [("headers", headers), ("summaries", summaries), ("moved", moved), ("map", map), ("roots", roots)]
        {
            assert!(bytes > 0, "no {name}");
        }
        assert!(batches >= status.padding, "{batches} bytes of batches, {} of padding", status.padding);
        assert!(status.recent.host_written >= 24_000 * 4096 && status.recent.media_written <= total);
        pool.stop().await.unwrap();
    });
}
