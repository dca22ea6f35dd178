//! Random 4 KiB writes, each flushed: the raw file, and the engine with each kind of journal. One at a time, and with some
//! clients beside each other, as databases commit: they share writes to a journal, as far as it has them wait.

use std::rc::Rc;

use plica::buf::AlignedBuf;
use plica::error::{Error, ErrorKind, Result};
use ublk_tests::bench::{BLOCK, Blocks, Lane, Latencies, Meter, namespace, on_file, run_lanes, write_owned};

use super::Figure;
use super::place::{JOURNAL, On, Place, RING};

/// Bytes of the pool: what is overwritten is not moved about in the time.
const POOL: u64 = 4 << 30;

struct Measured {
    rate: f64,
    latencies: Latencies,
}

/// Clients beside each other.
const CLIENTS: usize = 8;

pub(crate) fn measure(place: &Place, seconds: u64) -> Result<Vec<Figure>> {
    let (in_memory, stand_in) = ("engine, journal in memory", "engine, journal is a file of the same disk");
    let alone = [
        ("engine, no journal", On::Nothing, RING, None),
        (in_memory, On::Memory, RING, Some(8.0)),
        ("engine, journal in memory, range of 4 journals", On::Memory, 4 * JOURNAL, None),
        (stand_in, On::StandIn, RING, Some(1.0)),
    ];
    let beside = [(in_memory, On::Memory, RING, None), (stand_in, On::StandIn, RING, None)];
    let mut figures = Vec::new();
    for (clients, rows) in [(1, &alone[..]), (CLIENTS, &beside[..])] {
        let suffix = if clients == 1 { String::new() } else { format!(", {clients} clients") };
        let raw = on_raw(place, seconds, clients)?;
        push(&mut figures, &format!("raw file{suffix}"), &raw);
        for (name, on, range, reach) in rows {
            let (measured, name) = (on_engine(place, *on, *range, seconds, clients)?, format!("{name}{suffix}"));
            push(&mut figures, &name, &measured);
            let times = Figure::new("sync", format!("{name}: times raw"), measured.rate / raw.rate, "x");
            figures.push(match reach {
                None => times,
                Some(least) => times.at_least(*least),
            });
        }
    }
    Ok(figures)
}

fn push(figures: &mut Vec<Figure>, name: &str, measured: &Measured) {
    let micros = |per_mille| measured.latencies.micros(per_mille);
    figures.push(Figure::new("sync", format!("{name}: write + flush"), measured.rate, "1/s"));
    figures.push(Figure::new("sync", format!("{name}: p50"), micros(500), "us"));
    figures.push(Figure::new("sync", format!("{name}: p99"), micros(990), "us"));
}

fn on_raw(place: &Place, seconds: u64, clients: usize) -> Result<Measured> {
    let raw = place.file("raw", RING)?;
    on_file(&raw, None, move |bench| async move {
        let blocks = Rc::new(Blocks::half_zeros());
        let meter = Meter::new(&bench.env, Some(seconds));
        run_lanes(&bench.env, clients, |_| {
            let (media, blocks, meter) = (bench.media.clone(), blocks.clone(), meter.clone());
            async move {
                let mut buf = AlignedBuf::zeroed(BLOCK);
                while meter.goes_on() {
                    blocks.fill(&mut buf);
                    let offset = blocks.below(RING / BLOCK as u64) * BLOCK as u64;
                    let commit = async {
                        let (back, result) = write_owned(&media, offset, buf, BLOCK).await;
                        result?;
                        media.flush().await?;
                        Ok::<_, Error>(back)
                    };
                    buf = meter.time(commit).await?;
                }
                Ok(())
            }
        })
        .await?;
        Ok(Measured { rate: meter.rate(), latencies: meter.latencies() })
    })
}

fn on_engine(place: &Place, on: On, range: u64, seconds: u64, clients: usize) -> Result<Measured> {
    place.on_pool(POOL, on, move |bench, pool| async move {
        pool.create_namespace(&namespace("sync", range / BLOCK as u64, 4)).await?;
        let blocks = Rc::new(Blocks::half_zeros());
        let mut measured = None;
        // first without the clock: leaves come to be called journaled by a root
        for seconds in [1, seconds] {
            let meter = Meter::new(&bench.env, Some(seconds));
            run_lanes(&bench.env, clients, |_| {
                let (client, blocks, meter) = (pool.client("sync"), blocks.clone(), meter.clone());
                async move {
                    let (client, mut lane) = (client?, Lane::new(BLOCK));
                    while meter.goes_on() {
                        blocks.fill(lane.bytes_mut());
                        let lba = blocks.below(range / BLOCK as u64);
                        let commit = async {
                            lane.write(&client, lba).await?;
                            lane.flush(&client).await
                        };
                        meter.time(commit).await?;
                    }
                    Ok(())
                }
            })
            .await?;
            measured = Some(Measured { rate: meter.rate(), latencies: meter.latencies() });
        }
        pool.stop().await?;
        measured.ok_or_else(|| Error::new(ErrorKind::Config, "nothing was measured"))
    })
}
