//! Pools that are full: what goes on in them, and that they end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::space::{LEAF, WRITE, noise, pool_file, read, settle, write};
use common::{Machine, ask, create, open, serve, spec};
use plica::core::request::RequestKind;
use plica::error::ErrorKind;
use plica::pool::Pool;

/// More leaves than a pool of 24 MiB has blocks.
const THIN: u64 = 6000;

/// Writes the first block of one leaf after the other until there is no space. Returns how many.
async fn fill_thinly(pool: &Pool) -> u64 {
    let client = pool.client("db").unwrap();
    for leaf in 0..THIN {
        if let Err(error) = ask(&client, WRITE, leaf * LEAF, 4096, Some(noise(leaf))).await.0 {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            return leaf;
        }
    }
    panic!("the pool is not full");
}

/// The leaves of a pool that was filled at random take more than is left for them: stopping it never ended.
#[test]
fn a_pool_without_room_for_its_map_can_be_stopped() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 24 << 20, &machine, spec(THIN * LEAF / 4096));
    let m = machine.clone();
    let written = serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        let written = fill_thinly(&pool).await;
        pool.stop().await.unwrap();
        written
    });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        for leaf in 0..written {
            assert_eq!(read(&pool, leaf * LEAF / 4096).await, noise(leaf), "leaf {leaf}");
        }
        let client = pool.client("db").unwrap();
        ask(&client, RequestKind::Discard, LEAF, (THIN - 1) * LEAF, None).await.0.unwrap();
        settle(&env, &pool).await;
        write(&pool, 512, 1).await;
        pool.stop().await.unwrap();
    });
}

/// What is beyond the new end is gone durably before the table is smaller, or the size stays.
#[test]
fn a_namespace_of_a_full_pool_is_made_smaller() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 24 << 20, &machine, spec(THIN * LEAF / 4096));
    let m = machine.clone();
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &m).await.unwrap();
        fill_thinly(&pool).await;
        pool.resize_namespace("db", LEAF / 4096, true).await.unwrap();
        // dies here
    });
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        pool.resize_namespace("db", THIN * LEAF / 4096, false).await.unwrap();
        assert_eq!(read(&pool, 0).await, noise(0));
        for leaf in 1..THIN {
            assert_eq!(read(&pool, leaf * LEAF / 4096).await, [0; 4096], "leaf {leaf}");
        }
        settle(&env, &pool).await;
        pool.stop().await.unwrap();
    });
}

/// Writes went on in the segment that discards had opened from the reserve, and when that was full discards had none.
#[test]
fn discards_go_on_in_a_full_pool_beside_writes_that_are_refused() {
    const BLOCKS: u64 = 8192;
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 24 << 20, &machine, spec(BLOCKS));
    serve(&path, |env, media| async move {
        let pool = open(&env, &media, &machine).await.unwrap();
        let client = pool.client("db").unwrap();
        let mut written = 0;
        let mut write_more = async || {
            while ask(&client, WRITE, written * 4096, 4096, Some(noise(written))).await.0.is_ok() {
                written += 1;
            }
            written
        };
        let full = write_more().await;
        assert!((3000..BLOCKS).contains(&full), "{full} blocks fit");
        // too little of each segment to be worth cleaning
        for lba in (0..full).step_by(40) {
            ask(&client, RequestKind::Discard, lba * 4096, 4096, None).await.0.unwrap();
            ask(&client, RequestKind::Flush, 0, 0, None).await.0.unwrap();
            write_more().await;
        }
        settle(&env, &pool).await;
        for lba in (0..full).step_by(20) {
            let expected = if lba % 40 == 0 { vec![0; 4096] } else { noise(lba) };
            assert_eq!(read(&pool, lba).await, expected, "LBA {lba}");
        }
        pool.stop().await.unwrap();
    });
}
