//! A log ring alone, and beside a flood of data in another namespace: never flushed, as fast as it goes.

use std::cell::Cell;
use std::rc::Rc;

use plica::core::request::NamespaceClient;
use plica::error::Result;
use ublk_tests::bench::{BLOCK, Bench, Blocks, Lane, Latencies, Meter, namespace, ratio, run_lanes};

use super::Figure;
use super::place::{Log, On, Place, journal_of, reached_pool};

/// Blocks of the namespace that is flooded.
const BLOCKS: u64 = (1 << 30) / BLOCK as u64;

/// What is written beside the log.
#[derive(Clone, Copy)]
struct Flood {
    name: &'static str,
    /// Blocks of a request.
    len: u64,
    sequential: bool,
    depth: usize,
}

const FLOODS: [Flood; 2] = [
    Flood { name: "1 MiB sequential, depth 4", len: 256, sequential: true, depth: 4 },
    Flood { name: "64 KiB random, depth 16", len: 16, sequential: false, depth: 16 },
];

pub(crate) fn measure(place: &Place, seconds: u64) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for flood in FLOODS {
        figures.extend(beside(place, flood, seconds)?);
    }
    Ok(figures)
}

fn beside(place: &Place, flood: Flood, seconds: u64) -> Result<Vec<Figure>> {
    place.on_pool(8 << 30, On::Memory, move |bench, pool| async move {
        let log = Log::new(&pool).await?;
        pool.create_namespace(&namespace("bulk", BLOCKS, 8)).await?;
        let bulk = pool.client("bulk")?;
        log.append(&Meter::new(&bench.env, None), 2 * Log::records()).await?;
        // alone
        let alone = Meter::new(&bench.env, Some(seconds));
        log.append(&alone, u64::MAX).await?;
        let (rate_alone, alone) = (alone.rate(), alone.latencies());
        // beside the flood
        let before = journal_of(&pool, "log");
        let meter = Meter::new(&bench.env, Some(seconds));
        let flooding = Meter::new(&bench.env, None);
        let flooded = bench.env.spawner.spawn(write(bench.clone(), bulk, flood, flooding.clone()));
        log.append(&meter, u64::MAX).await?;
        let (rate, under) = (meter.rate(), meter.latencies());
        flooding.end();
        let bytes = flooded.await?;
        let after = journal_of(&pool, "log");
        pool.stop().await?;
        let figure = |name: &str, value, unit| Figure::new("flood", format!("{}: {name}", flood.name), value, unit);
        let p99 = |latencies: &Latencies| latencies.micros(990);
        Ok(vec![
            figure("flood", ratio(bytes >> 20, seconds), "MiB/s"),
            figure("log alone", rate_alone, "1/s"),
            figure("log alone, p99", p99(&alone), "us"),
            figure("log beside it", rate, "1/s"),
            figure("log beside it, p50", under.micros(500), "us"),
            figure("log beside it, p99", p99(&under), "us"),
            figure("p99 beside / alone", p99(&under) / p99(&alone), "x").at_most(5.0),
            figure("log that reached the pool meanwhile", reached_pool(&before, &after), "%").at_most(2.0),
        ])
    })
}

/// Writes until the time is over; how many bytes.
async fn write(bench: Bench, client: NamespaceClient, flood: Flood, meter: Rc<Meter>) -> Result<u64> {
    let (requests, next) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let blocks = Rc::new(Blocks::half_zeros());
    run_lanes(&bench.env, flood.depth, |_| {
        let (client, meter, blocks) = (client.clone(), meter.clone(), blocks.clone());
        let (requests, next) = (requests.clone(), next.clone());
        async move {
            let mut lane = Lane::new(usize::try_from(flood.len).unwrap_or(1) * BLOCK);
            blocks.fill(lane.bytes_mut());
            while meter.goes_on() {
                let places = BLOCKS / flood.len;
                let at = if flood.sequential { next.replace(next.get() + 1) % places } else { blocks.below(places) };
                lane.write(&client, at * flood.len).await?;
                requests.set(requests.get() + 1);
            }
            Ok(())
        }
    })
    .await?;
    Ok(requests.get() * flood.len * BLOCK as u64)
}
