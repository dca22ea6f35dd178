//! Space that a file's content takes in a pool, at each size of fragments, before and after cold recompression.
//!
//! ```text
//! cargo run --release -p ublk-tests --example space_bench -- POOL_FILE --data FILE [--percent 100] [--check]
//! ```
//! The content is written once, in order, in requests of 64 KiB. For each unit it prints what LZ4 makes of pieces of that size
//! alone, what the pool stores for them, and what everything that went to the medium is beyond that: headers, padding,
//! summaries, map. Then the pool of the last row is left alone with all of its data cold, until recompression has seen
//! everything: space and time to read a block before and after, and the CPU time that it took. All content is read back
//! and compared. The pool's file is created, used and removed.

use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use plica::allocator::Allocator;
use plica::codec::CodecPool;
use plica::core::request::NamespaceClient;
use plica::core::{Recompression, ReplayBounds};
use plica::env::Env;
use plica::error::{Error, ErrorKind, Result};
use plica::media::create_file;
use plica::pool::Pool;
use ublk_tests::bench::{BLOCK, Bench, Lane, Meter, Serve, namespace, on_file, ratio};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Blocks of a request.
const REQUEST_BLOCKS: usize = 16;
const MIB: u64 = 1 << 20;
/// Reads of one block that are timed.
const READS: u64 = 20_000;
/// Units, in blocks; recompression is shown for the last.
const UNITS: [u8; 4] = [1, 2, 8, 4];

#[derive(Parser, Clone)]
#[command(about = "Space of a file's content in a pool, and what recompression makes of it")]
struct Arguments {
    /// The pool's file.
    pool: PathBuf,
    /// Whose content.
    #[arg(long)]
    data: PathBuf,
    /// Percent of a CPU for recompression.
    #[arg(long, default_value_t = 100)]
    percent: u8,
    /// End with an error unless recompression takes a quarter less than LZ4 alone.
    #[arg(long)]
    check: bool,
}

/// What LZ4 makes of each piece alone; a piece that it does not make smaller counts whole, zeros for nothing.
fn alone(data: &[u8], unit: usize) -> u64 {
    let piece = |piece: &[u8]| {
        if piece.iter().all(|byte| *byte == 0) { 0 } else { lz4_flex::block::compress(piece).len().min(piece.len()) }
    };
    data.chunks(unit).map(|chunk| piece(chunk) as u64).sum()
}

/// Bytes that live records take.
fn live_bytes(pool: &Pool) -> u64 {
    let state = pool.core().state.borrow();
    let share =
        |live: u32, total: u32, bytes: u32| u64::from(bytes) * u64::from(live) / u64::from(total.max(live).max(1));
    state.log.segments.iter().map(|(_, info)| share(info.live, info.total, info.bytes)).sum()
}

async fn fill(client: &NamespaceClient, data: &[u8]) -> Result<()> {
    let mut lane = Lane::new(REQUEST_BLOCKS * BLOCK);
    for (index, chunk) in data.chunks(REQUEST_BLOCKS * BLOCK).enumerate() {
        lane.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
        lane.bytes_mut()[chunk.len()..].fill(0);
        lane.write(client, (index * REQUEST_BLOCKS) as u64).await?;
    }
    lane.flush(client).await
}

async fn compare(client: &NamespaceClient, data: &[u8]) -> Result<()> {
    let mut lane = Lane::new(REQUEST_BLOCKS * BLOCK);
    for (index, chunk) in data.chunks(REQUEST_BLOCKS * BLOCK).enumerate() {
        lane.read(client, (index * REQUEST_BLOCKS) as u64).await?;
        if lane.bytes_mut()[..chunk.len()] != *chunk {
            return Err(Error::new(ErrorKind::Corrupt, format!("piece {index} reads as something else")));
        }
    }
    Ok(())
}

/// Microseconds of reads of one block at a time: the median, and what 99 % do not exceed.
async fn read_times(env: &Env, client: &NamespaceClient, blocks: u64) -> Result<(f64, f64)> {
    let (mut lane, mut random) = (Lane::new(BLOCK), fastrand::Rng::with_seed(7));
    let meter = Meter::new(env, None);
    for _ in 0..READS {
        meter.time(lane.read(client, random.u64(..blocks))).await?;
    }
    let times = meter.latencies();
    Ok((times.micros(500), times.micros(990)))
}

/// Lets recompression see everything. Returns how long it took, in seconds.
async fn recompress(env: &Env, pool: &Pool, percent: u8) -> Result<f64> {
    let began = env.now_ns();
    // what is open is sealed by a stop and a start only: the last segment stays as it is
    pool.core().set_recompression(Recompression { percent, cold_ns: 0 }, CodecPool::background()?);
    while pool.status().recompressed.left > 0 {
        env.sleep_ns(50_000_000).await;
    }
    Ok(ratio(env.now_ns() - began, 1_000_000_000))
}

async fn measure(bench: Bench, unit: u8, data: Rc<Vec<u8>>, a: Arguments) -> Result<()> {
    bench.create().await?;
    let blocks = (data.len() / BLOCK) as u64;
    let bounds = ReplayBounds { quiet_ns: 50_000_000, ..ReplayBounds::default() };
    let pool = bench.open(Serve { bounds, ..Serve::default() }).await?;
    pool.create_namespace(&namespace("data", blocks.next_multiple_of(512), unit)).await?;
    let client = pool.client("data")?;
    let before = pool.status();
    fill(&client, &data).await?;
    pool.core().checkpoint_all().await?;
    let now = pool.status();
    let (stored, written) = (now.stored - before.stored, now.media_written - before.media_written);
    let pages = alone(&data, usize::from(unit) * BLOCK);
    let live = live_bytes(&pool);
    println!(
        "{:<12} {:>10.1} {:>12.1} {:>12.1} {:>11.2}% {:>12.1} {:>11.2}%",
        format!("lz4, {} KiB", (usize::from(unit) * BLOCK) >> 10),
        ratio(pages, MIB),
        ratio(stored, MIB),
        ratio(written, MIB),
        100.0 * (ratio(written, stored) - 1.0),
        ratio(live, MIB),
        100.0 * (ratio(live, pages) - 1.0),
    );
    if Some(&unit) == UNITS.last() {
        let (median, slow) = read_times(&bench.env, &client, blocks).await?;
        let seconds = recompress(&bench.env, &pool, a.percent).await?;
        let (after, did) = (live_bytes(&pool), pool.status().recompressed);
        let (cold_median, cold_slow) = read_times(&bench.env, &client, blocks).await?;
        println!();
        println!("{:<24} {:>12} {:>12} {:>12}", "", "space MiB", "read p50 us", "read p99 us");
        println!("{:<24} {:>12.1} {median:>12.0} {slow:>12.0}", "lz4, 16 KiB", ratio(live, MIB));
        println!("{:<24} {:>12.1} {cold_median:>12.0} {cold_slow:>12.0}", "recompressed", ratio(after, MIB));
        println!(
            "{:.1} % less space; {:.1} MiB of blocks in {seconds:.1} s at {} % of a CPU, {:.1} s of CPU; {} groups left as they were",
            100.0 * (1.0 - ratio(after, live)),
            ratio(did.data, MIB),
            a.percent,
            ratio(did.cpu_ns, 1_000_000_000),
            did.refused,
        );
        compare(&client, &data).await?;
        if a.check && after * 4 > live * 3 {
            return Err(Error::new(ErrorKind::Config, "recompression took less than a quarter off"));
        }
    }
    compare(&client, &data).await?;
    pool.stop().await
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let mut data = std::fs::read(&arguments.data)?;
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    let data = Rc::new(data);
    println!("{} MiB of data; LZ4 of pieces alone, and the pool", data.len() >> 20);
    println!(
        "{:<12} {:>10} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "MiB", "lz4 alone", "compressed", "on medium", "beyond it", "records", "over alone"
    );
    for unit in UNITS {
        let path = arguments.pool.clone();
        drop(std::fs::remove_file(&path));
        create_file(&path, (data.len() as u64 * 2).max(256 * MIB).next_multiple_of(4 * MIB))?;
        let (data, arguments) = (data.clone(), arguments.clone());
        let result = on_file(&path, None, |bench| measure(bench, unit, data, arguments));
        std::fs::remove_file(&path)?;
        result?;
    }
    Ok(())
}
