//! A map that is larger than its memory, and discards as large as a namespace.
//!
//! `large_map POOL_FILE [--tib N] [--map-memory MIB]`: the file is created, used and removed. One block of each 2 MiB of a
//! namespace of N TiB (default 1) is written, so that every leaf of the map is there and the file stays small. Then, in one
//! run:
//!
//! 1. skewed reads (nine of ten from a twentieth of the leaves) with the whole map in memory;
//! 2. the same with so much map memory (default 256 MiB): the rate, leaves in memory, looks that had to read a leaf;
//! 3. a discard of everything, with the map mostly on media: until it is acknowledged, until its space is accounted for;
//! 4. everything written again, discarded with the map in memory, and the daemon dies at once: how soon it serves again.

mod load;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use load::{Load, NoStore};
use plica::allocator::Allocator;
use plica::codec::CodecPool;
use plica::core::ReplayBounds;
use plica::env::executor::Fifo;
use plica::env::{Env, Executor, Reactor, Rng};
use plica::error::{Error, ErrorKind, Result};
use plica::format::superblock::KeySource;
use plica::format::{Cipher, Compression};
use plica::keys::RootKey;
use plica::media::{Access, Device, DeviceKind, Media, UringBackend, create_file};
use plica::pool::{CreateOptions, NamespaceSpec, OpenOptions, Pool};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

type AnyResult<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Bytes of LBA space of a leaf.
const LEAF_SPACE: u64 = 2 << 20;
/// Bytes of memory of a leaf.
const LEAF_BYTES: u64 = 4096;
/// Reads of a phase.
const READS: u64 = 2_000_000;
const DEPTH: usize = 32;

struct Options {
    path: PathBuf,
    tib: u64,
    map_memory: u64,
}

/// Runs `body` on the pool file with a thread, a ring and a clock of its own; what it leaves behind dies with it.
fn on_medium<T: 'static, F: Future<Output = Result<T>> + 'static>(
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
    Ok(executor.run(body(env, media))?)
}

fn root_key() -> RootKey {
    RootKey::from_bytes(&[1; 32])
}

async fn create(env: Env, media: Media, tib: u64) -> Result<()> {
    let root_key = root_key();
    let options = CreateOptions {
        label: "bench",
        segment_bytes: None,
        key_source: KeySource::File,
        root_key: &root_key,
        pool: None,
        now_unix: 0,
        journal: None,
    };
    plica::pool::create(&env, &media, &options).await?;
    let pool = open(&env, &media, usize::MAX, 1).await?;
    let spec = NamespaceSpec {
        name: "bench".into(),
        blocks: tib << 40 >> 12,
        cipher: Cipher::Aes256Xts,
        compression: Compression::Lz4,
        unit_blocks: 1,
        logical_block: 4096,
        now_unix: 0,
    };
    pool.create_namespace(&spec).await?;
    pool.stop().await
}

/// Opens the pool in the `boot`th boot of the machine.
async fn open(env: &Env, media: &Media, leaves_max: usize, boot: u8) -> Result<Rc<Pool>> {
    let codec = CodecPool::new(0).map_err(|e| Error::new(ErrorKind::Config, e.to_string()))?;
    let options = OpenOptions {
        root_key: root_key(),
        boot: [boot; 16],
        identity: (0, 0),
        codec,
        bounds: ReplayBounds { leaves_max, ..ReplayBounds::default() },
        journal: None,
        accept_journal_loss: false,
        memory: None,
    };
    Pool::open(env, media, Box::new(NoStore), options).await
}

/// Returns when usage is counted and nothing is left to be accounted for; how long that took.
async fn settle(env: &Env, pool: &Pool) -> f64 {
    let begun = env.now_ns();
    loop {
        let status = pool.status();
        if status.usage_known && !status.accounting {
            return seconds(env.now_ns() - begun);
        }
        env.sleep_ns(2_000_000).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

async fn read_phase(env: &Env, pool: &Pool, name: &str, leaves: u64) -> Result<f64> {
    let counted = settle(env, pool).await;
    let client = pool.client("bench")?;
    let load = Load::new(leaves, LEAF_SPACE);
    // the first half warms up
    load.skewed_reads(env, &client, DEPTH, READS / 2).await;
    let before = pool.status();
    let begun = env.now_ns();
    load.skewed_reads(env, &client, DEPTH, READS / 2).await;
    let rate = rate(READS / 2, seconds(env.now_ns() - begun));
    let after = pool.status();
    println!(
        "{name:<22} {rate:>9.0} reads/s   {} MiB of {} MiB of map in memory   {} of {} looks had to read a leaf   \
         usage counted in {counted:.2} s",
        after.map_resident >> 20,
        after.map_total >> 20,
        after.map_misses - before.map_misses,
        after.map_hits + after.map_misses - before.map_hits - before.map_misses,
    );
    Ok(rate)
}

async fn discard_phase(env: &Env, pool: &Pool, tib: u64, name: &str) -> Result<()> {
    let client = pool.client("bench")?;
    let begun = env.now_ns();
    Load::discard(&client, tib << 40).await;
    let acknowledged = seconds(env.now_ns() - begun);
    println!("{name:<22} {acknowledged:>9.3} s until it was acknowledged   (target: below 1)");
    Ok(())
}

fn measure(options: &Options) -> AnyResult<()> {
    let (tib, leaves) = (options.tib, (options.tib << 40) / LEAF_SPACE);
    let few = usize::try_from((options.map_memory << 20) / LEAF_BYTES)?;
    println!("{tib} TiB mapped in {leaves} leaves, {} MiB of map memory", options.map_memory);
    on_medium(&options.path, move |env, media| create(env, media, tib))?;
    let all = on_medium(&options.path, move |env, media| async move {
        let pool = open(&env, &media, usize::MAX, 2).await?;
        let begun = env.now_ns();
        Load::new(leaves, LEAF_SPACE).fill(&env, &pool.client("bench")?, DEPTH).await;
        println!("written in             {:>9.2} s", seconds(env.now_ns() - begun));
        let rate = read_phase(&env, &pool, "all in memory", leaves).await?;
        pool.stop().await?;
        Ok(rate)
    })?;
    let some = on_medium(&options.path, move |env, media| async move {
        let begun = env.now_ns();
        let pool = open(&env, &media, few, 3).await?;
        println!("opened in              {:>9.2} s", seconds(env.now_ns() - begun));
        let rate = read_phase(&env, &pool, "bounded", leaves).await?;
        discard_phase(&env, &pool, tib, "discard, on media").await?;
        println!("accounted for in       {:>9.2} s", settle(&env, &pool).await);
        pool.stop().await?;
        Ok(rate)
    })?;
    println!("bounded / all          {:>9.2}     (target: at least 0.8 with a tenth)", some / all);
    on_medium(&options.path, move |env, media| async move {
        let pool = open(&env, &media, usize::MAX, 4).await?;
        Load::new(leaves, LEAF_SPACE).fill(&env, &pool.client("bench")?, DEPTH).await;
        settle(&env, &pool).await;
        discard_phase(&env, &pool, tib, "discard, in memory").await?;
        Load::flush(&pool.client("bench")?).await;
        Ok(())
    })?;
    on_medium(&options.path, move |env, media| async move {
        let begun = env.now_ns();
        let pool = open(&env, &media, few, 5).await?;
        println!("opened after a kill in {:>9.2} s", seconds(env.now_ns() - begun));
        println!("usage counted in       {:>9.2} s", settle(&env, &pool).await);
        let left = pool.status().map_total;
        println!("left of the map        {left:>9} bytes");
        pool.stop().await
    })
}

fn options() -> AnyResult<Options> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: large_map POOL_FILE [--tib N] [--map-memory MIB]")?.into();
    let mut options = Options { path, tib: 1, map_memory: 256 };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--tib" => options.tib = value.parse()?,
            "--map-memory" => options.map_memory = value.parse()?,
            _ => return Err(format!("unknown option {flag}").into()),
        }
    }
    Ok(options)
}

fn main() -> AnyResult<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = options()?;
    drop(std::fs::remove_file(&options.path));
    create_file(&options.path, 16 << 30)?;
    let result = measure(&options);
    std::fs::remove_file(&options.path)?;
    result
}
