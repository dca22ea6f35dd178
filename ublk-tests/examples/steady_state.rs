//! The engine in steady state: a pool of which a given part is live, overwritten at random for several capacities.
//!
//! ```text
//! cargo run --release -p ublk-tests --example steady_state -- POOL_FILE [--mib 34816] [--live 70] [--rounds 4]
//!     [--trace uniform|zipfian] [--fill-blocks 1] [--depth 32] [--workers 1]
//! ```
//! In process, 4 KiB overwrites of 2:1 data (half random, half zeros), never flushed. A round is as many stored bytes as the
//! pool has room for; for each it prints the bytes that went to the medium for each byte of the host, everything
//! counted, the rate, and latencies. `--fill-blocks 4` writes everything once in requests of four blocks instead of
//! one, so that fragments become partly dead. The file is created, used and removed.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use plica::allocator::Allocator;
use plica::core::RESERVE_SEGMENTS;
use plica::core::request::NamespaceClient;
use plica::env::Env;
use plica::error::Result;
use plica::format::leaf::LEAF_BYTES;
use plica::format::record::record_bytes;
use plica::media::create_file;
use plica::pool::PoolStatus;
use ublk_tests::bench::{BLOCK, Bench, Lane, Latencies, Meter, Serve, namespace, on_file, ratio, run_lanes};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Bytes that a block takes: half of it, header, its part of the summary, and its entry in the map.
const BLOCK_STORED: u64 = 2124;

#[derive(Parser, Clone)]
#[command(about = "Overwrites a pool at random until it is in steady state")]
struct Arguments {
    /// The pool's file.
    pool: PathBuf,
    /// Its size.
    #[arg(long, default_value_t = 34816)]
    mib: u64,
    /// Live part of what hosts can fill of it, in percent: what `plica status` shows as in use.
    #[arg(long, default_value_t = 70)]
    live: u64,
    /// Capacities written after the fill.
    #[arg(long, default_value_t = 4)]
    rounds: u64,
    /// Where writes go: uniform or zipfian (0.99).
    #[arg(long, default_value = "uniform")]
    trace: String,
    /// Blocks of the requests that fill it.
    #[arg(long, default_value_t = 1)]
    fill_blocks: u64,
    /// Requests at a time.
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// Codec workers.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

/// Which block is written next.
struct Trace {
    random: RefCell<fastrand::Rng>,
    blocks: u64,
    /// Zipfian: zeta(blocks), alpha, eta of Gray's approximation.
    zipfian: Option<(f64, f64, f64)>,
}

impl Trace {
    #[expect(clippy::cast_precision_loss, reason = "a distribution")]
    fn new(blocks: u64, is_zipfian: bool) -> Self {
        let zipfian = is_zipfian.then(|| {
            let theta = 0.99;
            let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-theta)).sum::<f64>();
            let all = zeta(blocks);
            let eta = (1.0 - (2.0 / blocks as f64).powf(1.0 - theta)) / (1.0 - zeta(2) / all);
            (all, 1.0 / (1.0 - theta), eta)
        });
        Self { random: RefCell::new(fastrand::Rng::with_seed(7)), blocks, zipfian }
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks")]
    fn next(&self) -> u64 {
        let mut random = self.random.borrow_mut();
        let Some((all, alpha, eta)) = self.zipfian else { return random.u64(0..self.blocks) };
        let u = random.f64();
        let rank = match u * all {
            under if under < 1.0 => 0,
            under if under < 1.0 + 0.5_f64.powf(0.99) => 1,
            _ => (self.blocks as f64 * (eta * u - eta + 1.0).powf(alpha)) as u64,
        };
        // spread over the namespace, so that hot blocks do not lie together
        (rank.min(self.blocks - 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.blocks
    }
}

/// Writes `count` requests of `blocks` blocks, at the LBAs that `next` names.
async fn load(
    env: &Env,
    depth: usize,
    client: &NamespaceClient,
    count: u64,
    blocks: u64,
    next: Rc<dyn Fn(u64) -> u64>,
) -> Result<Latencies> {
    let (done, meter) = (Rc::new(Cell::new(0)), Meter::new(env, None));
    run_lanes(env, depth, |index| {
        let (client, next, done, meter) = (client.clone(), next.clone(), done.clone(), meter.clone());
        async move {
            let mut lane = Lane::new(usize::try_from(blocks).unwrap_or(1) * BLOCK);
            let mut random = fastrand::Rng::with_seed(index as u64);
            while done.get() < count {
                let lba = next(done.replace(done.get() + 1));
                lane.bytes_mut().chunks_mut(BLOCK).for_each(|block| random.fill(&mut block[..BLOCK / 2]));
                meter.time(lane.write(&client, lba)).await?;
            }
            Ok(())
        }
    })
    .await?;
    Ok(meter.latencies())
}

/// What the bytes to the medium were, for each byte of the host.
fn shares(before: &PoolStatus, now: &PoolStatus) -> String {
    let host = now.host_written - before.host_written;
    let of = |bytes: fn(&PoolStatus) -> u64| bytes(now) - bytes(before);
    let absorbed = of(|s| s.absorbed);
    let records = of(|s| s.stored) + of(|s| s.overhead) - absorbed;
    let (moved, padding) = (of(|s| s.relocated_stored), of(|s| s.padding));
    let leaves = of(|s| s.leaves_written) * record_bytes(LEAF_BYTES) as u64;
    let rest = of(|s| s.media_written).saturating_sub(records + moved + padding + leaves);
    let [records, moved, padding, leaves, rest, absorbed] =
        [records, moved, padding, leaves, rest, absorbed].map(|bytes| ratio(bytes, host));
    format!(
        "of that: records {records:.3} (absorbed {absorbed:.3}), moved {moved:.3}, padding of batches {padding:.3}, leaves \
         {leaves:.3}, summaries and roots {rest:.3}"
    )
}

/// What is in use of `usable` bytes, also for each byte of `blocks` blocks.
#[expect(clippy::cast_precision_loss, reason = "shares for people")]
fn in_use(now: &PoolStatus, usable: u64, blocks: u64) -> String {
    let percent = now.percent_used.unwrap_or(0.0);
    let of_data = percent / 100.0 * usable as f64 / (blocks * BLOCK as u64) as f64;
    format!("{percent:.1} % of the pool is in use: {of_data:.3} bytes for each byte of data")
}

async fn measure(bench: Bench, a: Arguments) -> Result<()> {
    bench.create().await?;
    let pool = bench.open(Serve { workers: a.workers, ..Serve::default() }).await?;
    let env = &bench.env;
    let first = pool.status();
    let usable = (u64::from(first.segments) - RESERVE_SEGMENTS as u64) * u64::from(first.segment_bytes);
    let blocks = usable * a.live / 100 / BLOCK_STORED / a.fill_blocks * a.fill_blocks;
    pool.create_namespace(&namespace("steady", blocks, 4)).await?;
    let client = pool.client("steady")?;
    println!("{} MiB for hosts, {} MiB of data", usable >> 20, (blocks * BLOCK as u64) >> 20);
    println!(
        "{:<8} {:>12} {:>12} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "round",
        "medium/host",
        "moved/stored",
        "absorbed",
        "IOPS",
        "p50 us",
        "p99 us",
        "p99.9",
        "max ms",
        "cleaned",
        "unpacked"
    );
    let trace = Rc::new(Trace::new(blocks, a.trace == "zipfian"));
    let a_round = usable / BLOCK_STORED;
    let (mut before, mut empty) = (pool.status(), 0.0);
    for round in 0..=a.rounds {
        let began = env.now_ns();
        let fill = a.fill_blocks;
        let requests = if round == 0 { blocks / fill } else { a_round };
        let times = if round == 0 {
            load(env, a.depth, &client, requests, fill, Rc::new(move |n| n * fill)).await?
        } else {
            let trace = trace.clone();
            load(env, a.depth, &client, requests, 1, Rc::new(move |_| trace.next())).await?
        };
        let now = pool.status();
        let host = now.host_written - before.host_written;
        println!(
            "{:<8} {:>12.3} {:>12.3} {:>9.3} {:>10.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>9} {:>9}",
            if round == 0 { "fill".into() } else { round.to_string() },
            ratio(now.media_written - before.media_written, host),
            ratio(now.relocated_stored - before.relocated_stored, now.stored - before.stored),
            ratio(now.absorbed - before.absorbed, now.stored - before.stored),
            ratio(requests * 1_000_000_000, env.now_ns() - began),
            times.micros(500),
            times.micros(990),
            times.micros(999),
            times.micros(1000) / 1000.0,
            now.segments_cleaned - before.segments_cleaned,
            now.fragments_unpacked - before.fragments_unpacked,
        );
        if round == 0 {
            println!("{}", in_use(&now, usable, blocks));
            empty = times.micros(990);
        } else if round == a.rounds && empty > 0.0 {
            println!("{}", in_use(&now, usable, blocks));
            println!("{}", shares(&before, &now));
            println!("p99 in steady state: {:.1} times that of the fill (reach: 3)", times.micros(990) / empty);
        }
        before = now;
    }
    pool.stop().await
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let path = arguments.pool.clone();
    drop(std::fs::remove_file(&path));
    create_file(&path, arguments.mib << 20)?;
    let result = on_file(&path, None, |bench| measure(bench, arguments));
    std::fs::remove_file(&path)?;
    Ok(result?)
}
