//! What writing the map back costs: latency, bytes, and how soon a killed pool is served again.
//!
//! `write_back POOL_FILE [--gib N] [--depth N]`: the file is created, used and removed. N GiB of LBAs
//! (default 32) are mapped with data that compresses to almost nothing, so that the map is as large as that of a real pool
//! and the file is not. Then, in one run, random 4 KiB overwrites in phases that take turns, each warmed up until the replay
//! window has its full size: with bounds so wide that no leaf is written back, and with the default bounds. After the last
//! one the daemon dies, and the pool is opened again, as after a restart of the machine.
//!
//! Printed beside their targets: p99.9 with against without, metadata bytes per host byte, the time of the opening.
//!
//! `write_back POOL_FILE --restart [--gib N] [--overwrite blocks|zeros|ranges]`: one block of each leaf of N GiB (default
//! 1024) is written, then the whole replay window is filled, the daemon dies, and the pool is opened again. The steps of
//! opening are logged with their durations.

mod load;
mod pool;
mod restart;

use std::path::PathBuf;

use load::{BLOCK, Latencies, Load, Overwrite};
use plica::allocator::Allocator;
use plica::core::ReplayBounds;
use plica::env::Env;
use plica::media::{Media, create_file};
use plica::pool::Pool;
use pool::{Fill, create, on_medium, open};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

struct Options {
    path: PathBuf,
    gib: u64,
    depth: usize,
    restart: bool,
    overwrite: Overwrite,
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

async fn overwrite(
    env: &Env,
    media: &Media,
    pool: &Pool,
    options: &Options,
    warm: u64,
    count: u64,
) -> plica::error::Result<Phase> {
    let blocks = options.gib << 30 >> 12;
    let load = Load::new(env, blocks);
    let client = pool.client("bench")?;
    load.overwrite(&client, options.depth, warm, options.overwrite).await;
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
    let latencies = load.overwrite(&client, options.depth, count, options.overwrite).await;
    let seconds = ratio(env.now_ns() - begun, 1_000_000_000);
    let after = counts();
    let [host, metadata, leaves, roots] = std::array::from_fn(|i| after[i] - before[i]);
    let metadata = ratio(metadata, host);
    Ok(Phase { rate: ratio(host / BLOCK as u64, 1) / seconds, latencies, metadata, leaves, roots })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

const USAGE: &str = "usage: write_back POOL_FILE [--gib N] [--depth N] [--restart] [--overwrite blocks|zeros|ranges]";

fn options() -> AnyResult<Options> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or(USAGE)?.into();
    let mut options = Options { path, gib: 32, depth: 8, restart: false, overwrite: Overwrite::Blocks };
    while let Some(flag) = args.next() {
        if flag == "--restart" {
            (options.restart, options.gib, options.depth) = (true, 1024, 32);
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--gib" => options.gib = value.parse()?,
            "--depth" => options.depth = value.parse()?,
            "--overwrite" => {
                let kind = Overwrite::ALL.iter().find(|(name, _)| *name == value);
                options.overwrite = kind.ok_or_else(|| format!("{value:?} is nothing to overwrite with"))?.1;
            }
            _ => return Err(format!("unknown option {flag}; {USAGE}").into()),
        }
    }
    Ok(options)
}

fn print(name: &str, phase: &mut Phase) {
    let [p50, p99, p999, max] = [500, 990, 999, 1000].map(|share| ratio(phase.latencies.quantile(share), 1000));
    println!(
        "{name:<20} {:>9.0} writes/s   p50 {p50:>7.0} µs   p99 {p99:>7.0} µs   p99.9 {p999:>7.0} µs   max {max:>8.0} µs   \
         {} leaves, {} roots, {:.4} metadata bytes a host byte",
        phase.rate, phase.leaves, phase.roots, phase.metadata
    );
}

fn measure(options: &Options) -> AnyResult<()> {
    let blocks = options.gib << 30 >> 12;
    let bounds = ReplayBounds::default();
    println!("{} GiB mapped, {} writers", options.gib, options.depth);
    create_file(&options.path, (options.gib << 28) + (4 << 30))?;
    on_medium(&options.path, |env, media| create(env, media, blocks, Fill::Everything))??;
    let bound = (blocks / 4).clamp(bounds.changes_min, bounds.changes_max);
    let wide = ReplayBounds { changes_min: u64::MAX, changes_max: u64::MAX, ..bounds };
    let phase = |bounds: ReplayBounds, boot: u8, stops: bool| {
        let (gib, depth, path) = (options.gib, options.depth, options.path.clone());
        on_medium(&options.path, move |env, media| async move {
            let options = Options { path, gib, depth, restart: false, overwrite: Overwrite::Blocks };
            let pool = open(&env, &media, bounds, boot).await?;
            // at first all leaves come to be written back at once; each phase is as long as a leaf may wait
            let phase = overwrite(&env, &media, &pool, &options, bound, bound).await?;
            if stops {
                pool.stop().await?;
            }
            Ok::<_, plica::error::Error>(phase)
        })
    };
    // a file that ages, or a machine that is disturbed, shall not count for one of the two
    let mut all = [(); 2].map(|()| (Latencies::default(), 0.0_f64));
    for (boot, with) in [false, true, true, false, false, true].into_iter().enumerate() {
        let boot = u8::try_from(boot)? + 2;
        let last = boot == 7;
        let mut phase = phase(if with { bounds } else { wide }, boot, !last)??;
        print(if with { "with write-back" } else { "without write-back" }, &mut phase);
        let (latencies, metadata) = &mut all[usize::from(with)];
        latencies.add(&phase.latencies);
        *metadata = metadata.max(phase.metadata);
    }
    let (opened_ns, records) = on_medium(&options.path, move |env, media| async move {
        let begun = env.now_ns();
        let pool = open(&env, &media, bounds, 9).await?;
        let opened = env.now_ns() - begun;
        let window = pool.core().state.borrow().dirty.window();
        pool.stop().await?;
        Ok::<_, plica::error::Error>((opened, window))
    })??;
    let [(mut without, _), (mut with, metadata)] = all;
    let slower = ratio(with.quantile(999), without.quantile(999));
    println!("p99.9 with / without  {slower:>7.2}   (target: at most 2)");
    println!("metadata / host bytes {metadata:>7.4}   (target: at most 0.03 from 32 GiB on)");
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
    let result = if options.restart { restart::measure(&options) } else { measure(&options) };
    std::fs::remove_file(&options.path)?;
    result
}
