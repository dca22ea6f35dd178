//! What goes on beside requests, turned and disturbed: scrubs, the cleaner.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::space::{LEAF, noise, open_bounded, pool_file, settle};
use common::{Machine, ask, create, serve, spec};
use plica::core::request::RequestKind;
use plica::core::scrub::{ScrubState, ScrubStatus};
use plica::env::Env;
use plica::pool::{NamespaceSpec, Pool};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt;

const WRITE: RequestKind = RequestKind::Write { fua: false };
/// No test waits longer for anything.
const PATIENCE_NS: u64 = 20_000_000_000;

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The status of the pool's scrub, once it is as it should be.
async fn scrub_status(env: &Env, pool: &Pool, is_reached: impl Fn(&ScrubStatus) -> bool) -> ScrubStatus {
    let end = env.now_ns() + PATIENCE_NS;
    loop {
        let status = pool.core().scrub.status();
        if is_reached(&status) {
            return status;
        }
        assert!(env.now_ns() < end, "{status:?}");
        env.sleep_ns(1_000_000).await;
    }
}

/// A scrub that was stopped went on as the one that was started next, which then left out the first segments; and one at a
/// low rate could not be stopped while it rested.
#[test]
fn a_scrub_that_is_started_behind_a_stopped_one_begins_at_the_beginning() {
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 64 << 20, &machine, spec(4096));
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &machine, usize::MAX).await;
        let client = pool.client("db").unwrap();
        for lba in 0..2000 {
            ask(&client, WRITE, lba * 4096, 4096, Some(noise(lba))).await.0.unwrap();
        }
        pool.core().checkpoint_all().await.unwrap();
        let scrub = &pool.core().scrub;
        scrub.start(1 << 30).unwrap();
        let whole = scrub_status(&env, &pool, |status| status.state == ScrubState::Done).await;
        assert!(whole.records > 1900 && whole.bytes > 7 << 20, "{whole:?}");

        // a byte a second: it rests for days behind the first piece
        scrub.start(1).unwrap();
        scrub_status(&env, &pool, |status| status.bytes > 0).await;
        scrub.turn(ScrubState::Stopped).unwrap();
        scrub.start(1 << 30).unwrap();
        let again = scrub_status(&env, &pool, |status| status.state == ScrubState::Done).await;
        assert_eq!(again.segments_done, again.segments, "{again:?}");
        assert!(again.records >= whole.records && again.bytes >= whole.bytes, "{again:?}, and {whole:?} before");
        pool.stop().await.unwrap();
    });
}

/// Writes 16 blocks that do not compress to the beginning of each of the leaves.
async fn write_leaves(pool: &Pool, name: &str, leaves: impl Iterator<Item = u64>) {
    let client = pool.client(name).unwrap();
    for leaf in leaves {
        let data = (0..16).flat_map(|block| noise(leaf << 8 | block)).collect();
        ask(&client, WRITE, leaf * LEAF, 65536, Some(data)).await.0.unwrap();
    }
}

/// What a segment in hand held was called damaged when it was destroyed meanwhile, and not yet accounted for.
#[test]
fn what_is_destroyed_while_it_is_cleaned_is_no_damage() {
    let log = Log::default();
    let writer = log.clone();
    let errors = tracing_subscriber::fmt().with_max_level(LevelFilter::ERROR).with_ansi(false);
    let _logged = errors.with_writer(move || writer.clone()).finish().set_default();
    let (_dir, path) = pool_file();
    let machine = Machine::default();
    create(&path, 48 << 20, &machine, spec(8 * LEAF / 4096));
    serve(&path, |env, media| async move {
        let pool = open_bounded(&env, &media, &machine, 16).await;
        settle(&env, &pool).await;
        let doomed = NamespaceSpec { name: "doomed".into(), ..spec(400 * LEAF / 4096) };
        for _ in 0..10 {
            pool.create_namespace(&doomed).await.unwrap();
            write_leaves(&pool, "doomed", 0..400).await;
            // half of it once more, all over: every segment is half live, and cleaned while this is written
            write_leaves(&pool, "doomed", (0..400).step_by(2)).await;
            pool.destroy_namespace("doomed").await.unwrap();
            // writers who wait for space have the segment in hand cleaned to its end
            write_leaves(&pool, "db", (0..8).cycle().take(64)).await;
            settle(&env, &pool).await;
        }
        assert!(pool.status().segments_cleaned >= 10, "{} segments cleaned", pool.status().segments_cleaned);
        pool.stop().await.unwrap();
    });
    assert_eq!(log.text(), "");
}
