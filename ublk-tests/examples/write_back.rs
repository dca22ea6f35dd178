//! What writing the map back costs: latency, bytes, and how soon a killed pool is served again.
//!
//! `write_back POOL_FILE [--gib N] [--depth N]`: the file is created, used and removed. N GiB of LBAs
//! (default 32) are mapped with data that compresses to almost nothing, so that the map is as large as that of a real pool
//! and the file is not. Then, in one run:
//!
//! 1. random 4 KiB overwrites with bounds so wide that no leaf is written back, and the daemon stops;
//! 2. the same with the default bounds, warmed up until the replay window has its full size, and the daemon dies;
//! 3. the pool is opened again, as after a restart of the machine.
//!
//! Printed beside their targets: p99.9 of 2 against 1, metadata bytes per host byte in 2, the time of 3.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use plica::core::ReplayBounds;
use plica::core::request::NamespaceClient;
use plica::env::Env;
use plica::error::Result;
use plica::media::create_file;
use plica::pool::Pool;
use ublk_tests::bench::{BLOCK, Bench, Blocks, Lane, Latencies, Meter, Serve, namespace, on_file, ratio, run_lanes};

/// Blocks of a request that maps.
const CHUNK: usize = 16;

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

struct Options {
    path: PathBuf,
    gib: u64,
    depth: usize,
}

/// Makes the pool and writes every block once, in order.
async fn create(bench: Bench, blocks: u64) -> Result<()> {
    bench.create().await?;
    let pool = bench.open(Serve::default()).await?;
    pool.create_namespace(&namespace("bench", blocks, 8)).await?;
    let (client, next) = (pool.client("bench")?, Rc::new(Cell::new(0)));
    run_lanes(&bench.env, 8, |_| {
        let (next, client) = (next.clone(), client.clone());
        async move {
            let mut lane = Lane::new(CHUNK * BLOCK);
            while next.get() < blocks {
                let lba = next.replace(next.get() + CHUNK as u64);
                say_lbas(lane.bytes_mut(), lba);
                lane.write(&client, lba).await?;
            }
            Ok(())
        }
    })
    .await?;
    pool.stop().await
}

/// Blocks that say where they belong.
fn say_lbas(bytes: &mut [u8], lba: u64) {
    for (lba, block) in (lba..).zip(bytes.chunks_mut(BLOCK)) {
        block[..8].copy_from_slice(&(lba + 1).to_le_bytes());
    }
}

/// So many random overwrites; how long each took.
async fn load(env: &Env, client: &NamespaceClient, blocks: u64, depth: usize, count: u64) -> Result<Latencies> {
    let (meter, random) = (Meter::new(env, None), Rc::new(Blocks::half_zeros()));
    let left = Rc::new(Cell::new(count));
    run_lanes(env, depth, |_| {
        let (meter, random, left, client) = (meter.clone(), random.clone(), left.clone(), client.clone());
        async move {
            let mut lane = Lane::new(BLOCK);
            while left.get() > 0 {
                left.set(left.get() - 1);
                let lba = random.below(blocks);
                say_lbas(lane.bytes_mut(), lba);
                meter.time(lane.write(&client, lba)).await?;
            }
            Ok(())
        }
    })
    .await?;
    Ok(meter.latencies())
}

/// What a phase of overwriting showed.
struct Phase {
    latencies: Latencies,
    /// Writes a second.
    rate: f64,
    /// Bytes of map and roots written for each byte of the host.
    metadata: f64,
    leaves: u64,
    roots: u64,
}

async fn overwrite(bench: &Bench, pool: &Pool, options: &Options, warm: u64, count: u64) -> Result<Phase> {
    let blocks = options.gib << 30 >> 12;
    let client = pool.client("bench")?;
    let (env, media) = (&bench.env, &bench.media);
    load(env, &client, blocks, options.depth, warm).await?;
    let core = pool.core();
    let counts = || {
        let stats = &core.stats;
        // all that is written but batches of the host
        let host = stats.stored.get() + stats.overhead.get() + stats.padding.get();
        let written = media.stats().written_bytes.get();
        [stats.host_written.get(), written.saturating_sub(host), stats.leaves_written.get(), stats.roots.get()]
    };
    let before = counts();
    let begun = env.now_ns();
    let latencies = load(env, &client, blocks, options.depth, count).await?;
    let seconds = ratio(env.now_ns() - begun, 1_000_000_000);
    let after = counts();
    let [host, metadata, leaves, roots] = std::array::from_fn(|i| after[i] - before[i]);
    let metadata = ratio(metadata, host);
    Ok(Phase { rate: ratio(host / BLOCK as u64, 1) / seconds, latencies, metadata, leaves, roots })
}

fn options() -> AnyResult<Options> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: write_back POOL_FILE [--gib N] [--depth N]")?.into();
    let mut options = Options { path, gib: 32, depth: 8 };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--gib" => options.gib = value.parse()?,
            "--depth" => options.depth = value.parse()?,
            _ => return Err(format!("unknown option {flag}").into()),
        }
    }
    Ok(options)
}

fn print(name: &str, phase: &Phase) {
    let micros = |share| phase.latencies.micros(share);
    println!(
        "{name:<20} {:>9.0} writes/s   p50 {:>7.0} µs   p99 {:>7.0} µs   p99.9 {:>7.0} µs   max {:>8.0} µs   \
         {} leaves, {} roots, {:.4} metadata bytes a host byte",
        phase.rate,
        micros(500),
        micros(990),
        micros(999),
        micros(1000),
        phase.leaves,
        phase.roots,
        phase.metadata
    );
}

fn measure(options: &Options) -> AnyResult<()> {
    let blocks = options.gib << 30 >> 12;
    let bounds = ReplayBounds::default();
    println!("{} GiB mapped, {} writers", options.gib, options.depth);
    on_file(&options.path, None, |bench| create(bench, blocks))?;
    let bound = (blocks / 4).clamp(bounds.changes_min, bounds.changes_max);
    let wide = ReplayBounds { changes_min: u64::MAX, changes_max: u64::MAX, ..bounds };
    let phase = |bounds: ReplayBounds, boot: u8, warm: u64, stops: bool| {
        let (gib, depth, path) = (options.gib, options.depth, options.path.clone());
        on_file(&options.path, None, move |bench| async move {
            let options = Options { path, gib, depth };
            let pool = bench.open(Serve { bounds, boot, ..Serve::default() }).await?;
            let phase = overwrite(&bench, &pool, &options, warm, bound).await?;
            if stops {
                pool.stop().await?;
            }
            Ok(phase)
        })
    };
    let without = phase(wide, 2, 0, true)?;
    print("without write-back", &without);
    // at first all leaves come to be written back at once; each phase is as long as a leaf may wait
    let with = phase(bounds, 3, bound, false)?;
    print("with write-back", &with);
    let (opened_ns, records) = on_file(&options.path, None, move |bench| async move {
        let begun = bench.env.now_ns();
        let pool = bench.open(Serve { bounds, boot: 4, ..Serve::default() }).await?;
        let opened = bench.env.now_ns() - begun;
        let window = pool.core().state.borrow().dirty.window();
        pool.stop().await?;
        Ok((opened, window))
    })?;
    let slower = with.latencies.micros(999) / without.latencies.micros(999);
    println!("p99.9 with / without  {slower:>7.2}   (target: at most 2)");
    println!("metadata / host bytes {:>7.4}   (target: at most 0.03 from 32 GiB on)", with.metadata);
    println!(
        "opened after a kill   {:>7.2} s (target: at most 3), {records} map changes replayed",
        ratio(opened_ns, 1_000_000) / 1000.0
    );
    Ok(())
}

fn main() -> AnyResult<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = options()?;
    drop(std::fs::remove_file(&options.path));
    create_file(&options.path, (options.gib << 28) + (4 << 30))?;
    let result = measure(&options);
    std::fs::remove_file(&options.path)?;
    result
}
