//! Space for years: large discards, maps beyond memory, namespaces of another size.

mod common;

use common::space::{
    LEAF, WRITE, live, noise, open_bounded, open_in_boot, open_in_memory, open_with, pool_file, read, settle, write,
};
use common::{Machine, ask, create, open, pattern, serve, spec};
use plica::core::request::RequestKind;
use plica::core::{Fullness, ReplayBounds, Watermarks};
use plica::error::ErrorKind;
use plica::pool::{NamespaceSpec, WrittenStatus};

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
            pool.core().checkpoint_all().await.unwrap();
            assert!(live(&pool) >= before + 600, "300 blocks and their leaves");
            let misses = pool.status().map_misses;
            let client = pool.client("db").unwrap();
            // all but the first block of the first leaf and the last of the last
            let (result, _) = ask(&client, RequestKind::Discard, 4096, 300 * LEAF - 8192, None).await;
            result.unwrap();
            assert!(pool.status().map_misses <= misses + 2, "leaves that are covered are not read");
            settle(&env, &pool).await;
            pool.core().checkpoint_all().await.unwrap();
            pool.core().checkpoint_all().await.unwrap();
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
        pool.core().checkpoint_all().await.unwrap();
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
        pool.core().checkpoint_all().await.unwrap();
        pool.core().checkpoint_all().await.unwrap();
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
fn what_memory_has_no_room_for_is_refused_and_never_keeps_a_pool_from_being_opened() {
    const TIB: u64 = (1 << 40) / 4096;
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(1000));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open_in_memory(&env, &media, &m, 64 << 20).await;
        let refused = pool.resize_namespace("db", TIB, false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
        assert!(refused.to_string().contains("48 MiB") && refused.to_string().contains("64 MiB"), "{refused}");
        let other = |blocks| NamespaceSpec { name: "other".into(), ..spec(blocks) };
        assert_eq!(pool.create_namespace(&other(TIB)).await.unwrap_err().kind(), ErrorKind::Config);
        pool.resize_namespace("db", TIB / 2, false).await.unwrap();
        let refused = pool.create_namespace(&other(TIB / 4)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config, "all of them count: {refused}");
        pool.create_namespace(&other(TIB / 8)).await.unwrap();
        pool.stop().await.unwrap();
    });
    serve(&path, |env, media| async move {
        // made on a larger machine
        let pool = open_in_memory(&env, &media, &machine, 16 << 20).await;
        let sizes: Vec<_> = pool.namespaces().iter().map(|namespace| namespace.blocks).collect();
        assert_eq!(sizes, [TIB / 2, TIB / 8], "what was refused is in no table");
        assert_eq!(pool.resize_namespace("db", TIB / 2 + 1, false).await.unwrap_err().kind(), ErrorKind::Config);
        pool.resize_namespace("db", TIB / 4, false).await.unwrap();
        pool.resize_namespace("db", 1000, false).await.unwrap();
        pool.resize_namespace("db", 2000, false).await.unwrap();
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

#[test]
fn every_byte_on_the_medium_is_accounted_for() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 32 << 20, &machine, spec(4 << 10));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        settle(&env, &pool).await;
        pool.core().checkpoint_all().await.unwrap();
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
        pool.core().checkpoint_all().await.unwrap();
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

/// All leaves have their first change at about the same time, so they are written back in a row: a fifth of this pool.
#[test]
fn a_map_that_is_written_back_at_once_takes_no_space_that_moves_need() {
    const LEAVES: u64 = 3000;
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(LEAVES * LEAF / 4096));
    serve(&path, |env, media| async move {
        let bounds = ReplayBounds { changes_min: 8000, changes_max: 8000, ..ReplayBounds::default() };
        let pool = open_with(&env, &media, &machine, bounds, 1).await;
        settle(&env, &pool).await;
        let client = pool.client("db").unwrap();
        let lanes = (0..8).map(|lane: u64| {
            let client = client.clone();
            env.spawner.spawn(async move {
                let mut random = fastrand::Rng::with_seed(lane);
                for n in 0..6000 {
                    // all of it once, then at random
                    let leaf = if n < 750 { lane + 8 * (n / 2) } else { random.u64(..LEAVES) };
                    let lba = leaf * 512 + n % 2;
                    let data = Some(noise(n * 8 + lane));
                    ask(&client, WRITE, lba * 4096, 4096, data).await.0.unwrap();
                }
            })
        });
        for lane in lanes.collect::<Vec<_>>() {
            lane.await;
        }
        let status = pool.status();
        let used = status.percent_used.unwrap();
        assert!(used > 50.0 && status.segments_cleaned > 100, "{used} % in use, {} cleaned", status.segments_cleaned);
        assert!(status.leaves_written > 3 * LEAVES, "{} leaves written", status.leaves_written);
        pool.stop().await.unwrap();
    });
}
