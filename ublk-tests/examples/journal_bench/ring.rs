//! A ring of 64 MiB in a journal of 128 MiB, three passes of 8 KiB writes, each flushed.

use plica::error::Result;
use ublk_tests::bench::{Meter, ratio};

use super::Figure;
use super::place::{JOURNAL, Log, On, Place, RING, journal_of, reached_pool};

const PASSES: u64 = 3;

pub(crate) fn measure(place: &Place, _seconds: u64) -> Result<Vec<Figure>> {
    place.on_pool(1 << 30, On::Memory, |bench, pool| async move {
        let log = Log::new(&pool).await?;
        let start = journal_of(&pool, "log");
        let meter = Meter::new(&bench.env, None);
        let written = bench.media.stats().written_bytes.get();
        log.append(&meter, PASSES * Log::records()).await?;
        let end = journal_of(&pool, "log");
        let medium = bench.media.stats().written_bytes.get() - written;
        let rate = meter.rate();
        pool.stop().await?;
        let stopped = journal_of(&pool, "log");
        let what = format!("{} MiB ring, {} MiB journal, {PASSES} passes", RING >> 20, JOURNAL >> 20);
        let figure = |name: &str, value, unit| Figure::new("ring", format!("{what}: {name}"), value, unit);
        let bytes = PASSES * RING;
        Ok(vec![
            figure("reached the pool", reached_pool(&start, &end), "%").at_most(2.0),
            figure("destaged", ratio(100 * end.destaged, bytes), "%"),
            figure("bypassed", ratio(100 * end.bypassed, bytes), "%"),
            figure("all bytes to the pool's medium", ratio(100 * medium, bytes), "%"),
            figure("destaged by a clean stop", ratio(100 * (stopped.destaged - end.destaged), bytes), "%"),
            figure("commits", rate, "1/s"),
        ])
    })
}
