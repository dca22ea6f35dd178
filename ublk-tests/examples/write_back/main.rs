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

mod load;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use load::{BLOCK, Latencies, Load, NoStore};
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::env::executor::Fifo;
use plica::env::{Env, Executor, Reactor, Rng};
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, DeviceKind, Media, UringBackend, create_file};
use plica::pool::{CreateOptions, NamespaceSpec, OpenOptions, Pool};

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

struct Options {
    path: PathBuf,
    gib: u64,
    depth: usize,
}

/// Runs `body` on the pool file with a thread, a ring and a clock of its own; what it leaves behind dies with it.
fn on_medium<T: 'static, F: Future<Output = T> + 'static>(
    path: &Path,
    body: impl FnOnce(Env, Media) -> F,
) -> AnyResult<T> {
    let device = Device::open(path, Access::Write)?;
    let mut backend = UringBackend::new()?;
    let (size, block) = (device.size(), device.block());
    let file = backend.register(&device);
    let reactor = Reactor::new(Box::new(backend));
    let mut executor = Executor::new(reactor.clone(), Box::new(Fifo::default()));
    let env = Env::new(executor.spawner(), reactor.clone(), Rng::Kernel);
    let media = Media::new(reactor, file, size, block, device.kind() == DeviceKind::File);
    Ok(executor.run(body(env, media)))
}

fn root_key() -> RootKey {
    RootKey::from_bytes(&[1; 32])
}

async fn create(env: Env, media: Media, blocks: u64) -> plica::error::Result<()> {
    let root_key = root_key();
    let key_source = KeySource::File;
    let options = CreateOptions {
        label: "bench",
        segment_bytes: None,
        key_source,
        root_key: &root_key,
        pool: None,
        now_unix: 0,
        journal: None,
    };
    plica::pool::create(&env, &media, &options).await?;
    let pool = open(&env, &media, ReplayBounds::default(), 1).await?;
    let spec = NamespaceSpec {
        name: "bench".into(),
        blocks,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks: 8,
        logical_block: 4096,
        now_unix: 0,
    };
    pool.create_namespace(&spec).await?;
    let load = Load::new(&env, blocks);
    load.map_everything(&pool.client("bench")?).await;
    pool.stop().await
}

/// Opens the pool in the `boot`th boot of the machine.
async fn open(env: &Env, media: &Media, bounds: ReplayBounds, boot: u8) -> plica::error::Result<Rc<Pool>> {
    let codec =
        CodecPool::new(1).map_err(|e| plica::error::Error::new(plica::error::ErrorKind::Config, e.to_string()))?;
    let options = OpenOptions {
        root_key: root_key(),
        boot: [boot; 16],
        identity: (0, 0),
        codec,
        bounds,
        journal: None,
        accept_journal_loss: false,
    };
    Pool::open(env, media, Box::new(NoStore), options).await
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
    load.overwrite(&client, options.depth, warm).await;
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
    let latencies = load.overwrite(&client, options.depth, count).await;
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
    let micros = |share| ratio(phase.latencies.quantile(share), 1000);
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
    on_medium(&options.path, |env, media| create(env, media, blocks))??;
    let bound = (blocks / 4).clamp(bounds.changes_min, bounds.changes_max);
    let wide = ReplayBounds { changes_min: u64::MAX, changes_max: u64::MAX, ..bounds };
    let phase = |bounds: ReplayBounds, boot: u8, warm: u64, stops: bool| {
        let (gib, depth, path) = (options.gib, options.depth, options.path.clone());
        on_medium(&options.path, move |env, media| async move {
            let options = Options { path, gib, depth };
            let pool = open(&env, &media, bounds, boot).await?;
            let phase = overwrite(&env, &media, &pool, &options, warm, bound).await?;
            if stops {
                pool.stop().await?;
            }
            Ok::<_, plica::error::Error>(phase)
        })
    };
    let without = phase(wide, 2, 0, true)??;
    print("without write-back", &without);
    // at first all leaves come to be written back at once; each phase is as long as a leaf may wait
    let with = phase(bounds, 3, bound, false)??;
    print("with write-back", &with);
    let (opened_ns, records) = on_medium(&options.path, move |env, media| async move {
        let begun = env.now_ns();
        let pool = open(&env, &media, bounds, 4).await?;
        let opened = env.now_ns() - begun;
        let window = pool.core().state.borrow().dirty.window();
        pool.stop().await?;
        Ok::<_, plica::error::Error>((opened, window))
    })??;
    let slower = ratio(with.latencies.quantile(999), without.latencies.quantile(999));
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
