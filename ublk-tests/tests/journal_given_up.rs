//! A journal that is given up, or drained: what no leaf says of it afterwards, and what is not lost with it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use common::journal::{Place, WRITE, commit, expect};
use common::{ask, pattern, spec};
use plica::core::request::{NamespaceClient, RequestKind};
use plica::env::Env;
use plica::error::ErrorKind;
use plica::pool::Pool;

/// Blocks of a leaf.
const LEAF: u64 = 512;
/// More leaves than one checkpoint takes along in a pool of this size.
const MANY: u64 = 250;
const POOL: u64 = 64 << 20;

/// Leaves that roots call journaled.
fn journaled(pool: &Pool) -> usize {
    let state = pool.core().state.borrow();
    let slots = state.namespaces.values().flat_map(|namespace| namespace.directory.iter());
    slots.filter(|(_, slot)| slot.image.journaled).count()
}

async fn is_lost(client: &NamespaceClient, lba: u64) -> bool {
    let read = ask(client, RequestKind::Read, lba * 4096, 4096, None).await.0;
    read.is_err_and(|error| error.kind() == ErrorKind::Io)
}

/// The newest copy of the first block of each of so many leaves is on the journal; their second block is not.
async fn fill(pool: &Pool, client: &NamespaceClient, env: &Env, leaves: u64) {
    for leaf in 0..leaves {
        ask(client, WRITE, (leaf * LEAF + 1) * 4096, 4096, Some(pattern(leaf * LEAF + 1, 9))).await.0.unwrap();
    }
    for version in 0..4 {
        for leaf in 0..leaves {
            commit(client, leaf * LEAF, 1, version).await;
        }
        env.sleep_ns(20_000_000).await;
    }
    assert!(pool.status().journal.unwrap().resident >= leaves * 4096, "{:?}", pool.status().journal);
}

/// Of leaves of which nothing changes there was no checkpoint that took them along: with many of them giving up never ended.
#[test]
fn after_a_clean_stop_many_leaves_lose_what_was_on_the_journal() {
    let place = Place::new(POOL, 16 << 20, spec(MANY * LEAF));
    place.live(|pool, client, env| async move {
        fill(&pool, &client, &env, MANY).await;
        pool.stop().await.unwrap();
    });
    for accept in [true, false] {
        place.open_without(accept, |opened, _, _| async move {
            let pool = opened.unwrap();
            let client = pool.client("db").unwrap();
            assert_eq!(journaled(&pool), 0, "a pool without a journal has leaves that are called journaled");
            for leaf in 0..MANY {
                assert!(is_lost(&client, leaf * LEAF).await, "leaf {leaf}");
                expect(&client, leaf * LEAF + 1, 9).await;
            }
            // dies here
        });
    }
}

/// Interrupted, giving up made all blocks of all journaled leaves read as errors at the next try.
#[test]
fn giving_up_that_is_interrupted_still_knows_what_is_lost() {
    let place = Place::new(POOL, 16 << 20, spec(4 * LEAF));
    let image = place.live(|pool, client, env| async move {
        fill(&pool, &client, &env, 4).await;
        pool.stop().await.unwrap();
        let state = pool.core().state.borrow();
        let slot = state.namespaces.values().next().unwrap().directory.slot(3).unwrap();
        let location = slot.image.entry.location().unwrap();
        pool.core().layout.segment(location.segment) + u64::from(location.granule.0) * 16
    });
    // the image of the last leaf cannot be read: what came before it is done by then
    let medium = File::options().read(true).write(true).open(&place.pool).unwrap();
    let mut whole = [0; 64];
    medium.read_exact_at(&mut whole, image + 64).unwrap();
    medium.write_all_at(&[0x5a; 64], image + 64).unwrap();
    place.open_without(true, |opened, _, _| async move {
        assert_eq!(opened.err().unwrap().kind(), ErrorKind::Corrupt);
    });
    medium.write_all_at(&whole, image + 64).unwrap();
    place.open_without(true, |opened, _, _| async move {
        let pool = opened.unwrap();
        let client = pool.client("db").unwrap();
        for leaf in 0..4 {
            assert!(is_lost(&client, leaf * LEAF).await, "leaf {leaf}");
            expect(&client, leaf * LEAF + 1, 9).await;
        }
        pool.stop().await.unwrap();
    });
}

/// Leaves that a mark was made for, and of which nothing changed since, stayed marked when the journal was taken away.
#[test]
fn a_journal_that_is_taken_away_leaves_no_mark() {
    let place = Place::new(POOL, 16 << 20, spec(MANY * LEAF));
    place.live(|pool, client, env| async move {
        fill(&pool, &client, &env, MANY).await;
        pool.drain_journal().await.unwrap();
        pool.stop().await.unwrap();
    });
    place.live(|pool, client, _| async move {
        for leaf in 0..MANY {
            expect(&client, leaf * LEAF, 3).await;
        }
        pool.remove_journal().await.unwrap();
        assert_eq!(journaled(&pool), 0);
        // dies here
    });
    place.open_without(false, |opened, _, _| async move {
        let pool = opened.unwrap();
        assert_eq!(journaled(&pool), 0);
        expect(&pool.client("db").unwrap(), 7 * LEAF, 3).await;
        pool.stop().await.unwrap();
    });
}

/// What is discarded counts until it is accounted for, in the background: a drain took it for blocks that cannot be moved.
#[test]
fn a_drain_right_after_a_discard_takes_nothing_for_damaged() {
    let place = Place::new(POOL, 16 << 20, spec(MANY * LEAF));
    place.live(|pool, client, env| async move {
        fill(&pool, &client, &env, MANY).await;
        ask(&client, RequestKind::Discard, LEAF * 4096, (MANY - 1) * LEAF * 4096, None).await.0.unwrap();
        pool.drain_journal().await.unwrap();
        assert_eq!(pool.status().journal.unwrap().resident, 0);
        expect(&client, 0, 3).await;
        pool.stop().await.unwrap();
    });
}
