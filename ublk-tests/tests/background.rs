//! What goes on beside requests, turned and disturbed: scrubs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::space::{noise, open_bounded, pool_file};
use common::{Machine, ask, create, serve, spec};
use plica::core::request::RequestKind;
use plica::core::scrub::{ScrubState, ScrubStatus};
use plica::env::Env;
use plica::pool::Pool;

const WRITE: RequestKind = RequestKind::Write { fua: false };
/// No test waits longer for anything.
const PATIENCE_NS: u64 = 20_000_000_000;

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
